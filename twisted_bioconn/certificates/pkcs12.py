"""
A certificate and its key out of a PKCS #12 file (RFC 7292), also known as PFX.
"""

from __future__ import annotations

import warnings

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import pkcs12

from ..errors import ConfigurationError
from ._derivation import refuse_costly_pkcs12
from .loading import LARGEST_FILE, CertifiedKey, assemble, readable

__all__ = ["load_pkcs12"]

_SEQUENCE = b"\x30"
_VERSION = b"\x02\x01\x03"
"""What a PFX begins with: the number 3, and RFC 7292, section 4, knows no other."""


def load_pkcs12(data: bytes, passphrase: bytes | None, where: str) -> CertifiedKey:
    """
    Take key and chain from a PKCS #12 file.

    The leaf is the certificate that has the key's public half, whichever of them the file says it
    is; the chain is put in order as by L{CertifiedKey.from_pem}.  Of several keys it is the first
    that counts.

    @param passphrase: not used if the file is not encrypted.
    @param where: what to call the file in a message.
    @raise ConfigurationError: it is damaged, too large, or no such file; the passphrase is wrong or
        missing; it lacks a key or its certificate.
    """
    whole = _whole(data, where)
    refuse_costly_pkcs12(whole, where)
    found = _opened(whole, passphrase, where)
    if found.key is None:
        raise ConfigurationError(f"{where} holds no private key")
    given = [each for each in (found.cert, *found.additional_certs) if each is not None]
    if not given:
        raise ConfigurationError(f"{where} holds no certificate")
    try:
        certificates = [readable(each.certificate) for each in given]
    except Exception as error:  # cryptography's have no common base
        raise ConfigurationError(
            f"{where} is damaged: it has a certificate that cannot be read"
        ) from error
    return assemble(certificates, found.key, where, where)


def _whole(data: bytes, where: str) -> bytes:
    """
    The file without what stands after its end, if that is what it looks like.
    """
    if len(data) > LARGEST_FILE:
        raise ConfigurationError(f"{where} is larger than {LARGEST_FILE} bytes")
    if not data.strip():
        raise ConfigurationError(f"{where} is empty")
    if b"-----BEGIN " in data:
        raise ConfigurationError(f"{where} is PEM, where PKCS #12 is needed")
    if not data.startswith(_SEQUENCE):
        raise ConfigurationError(f"{where} is not PKCS #12: it does not begin as DER does")
    # The length's first byte: below 0x80 it is the length; 0x80 says that it is not told, as some
    # programs write it (BER); else how many bytes it has (X.690, section 8.1.3).
    size = data[1] if len(data) > 1 else 0
    start = 2 + (size & 0x7F if size > 0x80 else 0)
    beginning = data[start : start + len(_VERSION)]
    if not _VERSION.startswith(beginning):
        raise ConfigurationError(
            f"{where} is in DER form and not PKCS #12: a certificate or a key has to be in PEM form"
        )
    if size == 0x80:
        return data
    if size > 0x80:
        size = int.from_bytes(data[2:start], "big")
    end = start + size
    if len(data) < end or beginning != _VERSION:
        raise ConfigurationError(f"{where} is damaged: it is cut short")
    return data[:end]


def _opened(data: bytes, passphrase: bytes | None, where: str) -> pkcs12.PKCS12KeyAndCertificates:
    if passphrase and b"\0" in passphrase:
        # cryptography panics at it, with an exception that is no Exception.
        raise ConfigurationError(f"the passphrase for {where} has a NUL in it")
    # None stands for the empty passphrase, too.
    for attempt in dict.fromkeys((passphrase or None, None)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # BER will do
                return pkcs12.load_pkcs12(data, attempt)
        except UnsupportedAlgorithm:
            raise ConfigurationError(
                f"{where} holds something of an unsupported kind, or encrypted in such a way"
            ) from None
        except Exception:  # cryptography's have no common base
            continue
    # "from None" so that no traceback shows what was being parsed. OpenSSL tells the two apart no
    # better: what says that a passphrase is wrong is a checksum of all that there is.
    raise ConfigurationError(
        f"{where} cannot be decrypted: the passphrase is wrong, the file is damaged, or its cipher"
        " is not supported"
        if passphrase
        else f"{where} cannot be read: it is encrypted, and no passphrase was given, or damaged"
    ) from None
