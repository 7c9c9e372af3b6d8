"""
Certificates and keys, from files, bytes or objects.

What comes out is a L{CertifiedKey}: a chain whose leaf belongs to its key, or tuples of
certificates. Whatever is wrong with the input is a L{ConfigurationError} of one sentence that names
the file and the reason; no message ever holds key material or a passphrase.

All text is PEM (RFC 7468). The blocks are found here, not by C{cryptography}, because a bundle that
was cut short must be refused: C{x509.load_pem_x509_certificates} reads such a file without a word,
and trusts, or sends, a certificate less than the operator thinks.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import PublicKeyAlgorithmOID
from OpenSSL.crypto import X509, PKey

from twisted_bioconn.certificates._derivation import refuse_costly_pem
from twisted_bioconn.errors import ConfigurationError

PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey
"""The kinds of key that a certificate for TLS may have here."""

LARGEST_FILE = 1024 * 1024
"""The most that is read of any file, in bytes. A system's whole trust store is a fifth of it."""

LARGEST_KEY = 16 * 1024
"""
The most bytes of a private key in PEM. RSA of 16384 bits, which takes seconds to check, has less.
"""

LONGEST_CHAIN = 10
"""The most certificates of a chain."""

_MOST_ISSUERS = 100  # of one name, each to be told from the others by a signature

ABANDONED = 3600.0
"""Seconds after which a temporary file is one that a crash has left."""

AUTHORITY_SUFFIXES = (".pem", ".crt", ".cer")
"""The files of a directory of authorities that count."""


def read_file(path: str, largest: int = LARGEST_FILE) -> bytes:
    """
    Read a regular file.

    @param largest: the most bytes that it may have. No more than that is read of any file.
    @raise ConfigurationError: the file is not there, cannot be read, is too large or is no file but
        a directory, a pipe, a device: to read it could take for ever.
    """
    try:
        # Nothing is opened that could take notice of it, nor, were it put there in between, waited
        # for: open(2), O_NONBLOCK.
        _regular(path, os.stat(path).st_mode)
        with open(path, "rb", opener=_open_at_once) as file:
            _regular(path, os.fstat(file.fileno()).st_mode)
            data = file.read(largest + 1)
    except FileNotFoundError:
        if os.path.islink(path):
            raise ConfigurationError(f"{path} is a link to what does not exist") from None
        raise ConfigurationError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise ConfigurationError(f"{path} is a directory, not a file") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except ConfigurationError:
        raise
    except ValueError as error:  # a path with a NUL in it
        raise ConfigurationError(f"{path!r} is no path of a file: {error}") from None
    if len(data) > largest:
        raise ConfigurationError(f"{path} is larger than {largest} bytes")
    return data


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _regular(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{path} is not a regular file")


def read_passphrase(path: str) -> bytes:
    """
    Read the passphrase in the first line of a file, without its line end.

    @raise ConfigurationError: the file cannot be read or its first line is empty.
    """
    passphrase = read_file(path).split(b"\n", 1)[0].removesuffix(b"\r")
    if not passphrase:
        raise ConfigurationError(f"{path} holds no passphrase: its first line is empty")
    return passphrase


def write_private(path: str, data: bytes) -> None:
    """
    Write a secret to a file that its owner alone can read and write (mode 0600).

    A reader sees the file of before or the whole new one, also after a crash (RFC 8555's account
    keys, for one, cannot be had again). A symbolic link at C{path} is replaced, not followed.

    @raise ConfigurationError: it cannot be written there; what was there is as it was.
    """
    _write(path, data, 0o600, os.replace)


def write_public(path: str, data: bytes) -> None:
    """
    Do as L{write_private}, for what everybody may read (mode 0644).
    """
    _write(path, data, 0o644, os.replace)


def create_private(path: str, data: bytes) -> bool:
    """
    Do as L{write_private}, but only if there is no such file: of several processes that do it at
    once, one succeeds.

    @return: whether this call has made the file.
    """
    try:
        _write(path, data, 0o600, os.link)
    except FileExistsError:
        return False
    return True


def _write(path: str, data: bytes, mode: int, publish: Callable[[str, str], None]) -> None:
    """
    Write to a temporary file beside C{path}, force it to the disk, and have C{publish} name it.
    """
    directory, name = os.path.split(path)
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory or os.curdir)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.chmod(temporary, mode)  # not left to the umask
        publish(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # os.replace has moved it, or the disk fails us
                os.unlink(temporary)


def remove_abandoned(directory: str, is_temporary: re.Pattern[str], now: float) -> None:
    """
    Remove the temporary files that a crash has left in a directory: they hold secrets.

    @param is_temporary: matches the whole name of one.
    @param now: the present time, in seconds since the epoch.
    """
    with suppress(OSError):
        for name in os.listdir(directory):
            if is_temporary.fullmatch(name) is not None:
                path = os.path.join(directory, name)
                with suppress(OSError):
                    if os.lstat(path).st_mtime < now - ABANDONED:
                        os.unlink(path)


@frozen
class _Block:
    """
    One PEM block: its label, and its text from C{-----BEGIN} to the end of its last line.
    """

    label: str
    text: bytes = field(repr=False)


# The closing dashes are optional so that a marker which lost them is found, and refused.
_MARKER = re.compile(rb"-----(BEGIN|END)\b[ \t]*([^\r\n-]*)(-----)?")


def _blocks(pem: bytes, where: str) -> list[_Block]:
    """
    Find the PEM blocks, whatever stands around them, and see that each is whole.
    """
    if not pem.strip():
        raise ConfigurationError(f"{where} is empty")
    found: list[_Block] = []
    begin: re.Match[bytes] | None = None
    end = 0
    for marker in _MARKER.finditer(pem):
        kind, label, closed = marker.groups()
        if not closed or (kind == b"BEGIN") != (begin is None):
            raise ConfigurationError(f"{where} is damaged: {_place(found)} is cut short")
        if begin is None:
            begin = marker
            continue
        if label != begin[2]:
            raise ConfigurationError(f"{where} is damaged: {_place(found)} ends as another kind")
        end = marker.end()
        found.append(_Block(label.decode("ascii", "replace").strip(), pem[begin.start() : end]))
        begin = None
    last_line = pem[end:].rsplit(b"\n", 1)[-1]
    if begin is not None or (last_line[:6] == b"-----B" and b"-----BEGIN".startswith(last_line)):
        raise ConfigurationError(f"{where} is damaged: {_place(found)} is cut short")
    if not found:
        # Everything in DER that could be meant here is a SEQUENCE (X.690, section 8.9).
        if pem.startswith(b"\x30"):
            raise ConfigurationError(f"{where} is in DER or PKCS #12 form, where PEM is needed")
        raise ConfigurationError(f"{where} is not PEM: there is no -----BEGIN in it")
    return found


def _place(found: Sequence[_Block]) -> str:
    return f"its PEM block {len(found) + 1}"


def _certificates(blocks: Sequence[_Block], where: str) -> tuple[x509.Certificate, ...]:
    found: list[x509.Certificate] = []
    for number, block in enumerate(blocks, 1):
        if block.label == "TRUSTED CERTIFICATE":
            raise ConfigurationError(
                f"{where} has OpenSSL's trust settings in it (PEM block {number} is a TRUSTED"
                " CERTIFICATE), where plain certificates are needed"
            )
        if block.label in ("CERTIFICATE", "X509 CERTIFICATE"):
            try:
                found.append(readable(x509.load_pem_x509_certificate(block.text)))
            except Exception as error:  # cryptography's have no common base
                raise ConfigurationError(
                    f"{where} is damaged: its PEM block {number} is no certificate that can be read"
                ) from error
    if not found:
        raise ConfigurationError(f"{where} holds no certificate{_only(blocks)}")
    return tuple(found)


def _only(blocks: Sequence[_Block]) -> str:
    """
    What kinds of block there are, in brackets. A label is the file's own text: one that does not
    look like a label is not repeated.
    """
    labels = dict.fromkeys(
        block.label if re.fullmatch("[A-Z0-9 ]{1,32}", block.label) else "an unknown kind"
        for block in blocks
    )
    return f" (only: {', '.join(labels)})"


def readable(certificate: x509.Certificate) -> x509.Certificate:
    """
    See that what is asked of every certificate can be told: cryptography parses a name only when
    it is asked for.
    """
    _ = (certificate.subject, certificate.issuer, certificate.not_valid_after_utc)
    return certificate


def _private_key(blocks: Sequence[_Block], passphrase: bytes | None, where: str) -> object:
    """
    The first private key, of any kind that cryptography can read.
    """
    block = next((block for block in blocks if block.label.endswith("PRIVATE KEY")), None)
    if block is None:
        raise ConfigurationError(f"{where} holds no private key{_only(blocks)}")
    if block.label == "OPENSSH PRIVATE KEY":
        raise ConfigurationError(f"the private key in {where} is in OpenSSH's form, not PKCS #8")
    if len(block.text) > LARGEST_KEY:
        raise ConfigurationError(f"the private key in {where} has more than {LARGEST_KEY} bytes")
    # RFC 1421, section 4.6.1.1, is how the older kinds say it.
    encrypted = block.label.startswith("ENCRYPTED") or b",ENCRYPTED" in block.text
    if encrypted and not passphrase:
        raise ConfigurationError(
            f"the private key in {where} is encrypted, and no passphrase was given"
        )
    if block.label.startswith("ENCRYPTED"):
        refuse_costly_pem(block.text, f"the private key in {where}")
    try:
        return load_pem_private_key(block.text, passphrase if encrypted else None)
    # "from None" so that no traceback shows what was being parsed.
    except UnsupportedAlgorithm:
        raise ConfigurationError(
            f"the private key in {where} is of an unsupported kind, or encrypted in such a way"
        ) from None
    except BaseException as error:  # cryptography's have no common base
        # Where its Rust panics, as for an initialization vector that is too short, it is none of
        # Python's usual kinds.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ConfigurationError(
            f"the private key in {where} cannot be decrypted: the passphrase is wrong, the key is"
            " damaged, or its cipher is not supported"
            if encrypted
            else f"the private key in {where} is damaged"
        ) from None


def load_certificates(pem: bytes, where: str) -> tuple[x509.Certificate, ...]:
    """
    All certificates of a PEM bundle, in its order; what else is in it is passed over.

    @param where: what to call the bundle in a message.
    @raise ConfigurationError: there is none, or a block of it is cut short or damaged.
    """
    return _certificates(_blocks(pem, where), where)


def load_authorities(path: str) -> tuple[x509.Certificate, ...]:
    """
    All certificates of a bundle, or of every file in a directory whose name ends in one of
    L{AUTHORITY_SUFFIXES} and begins with no dot; each certificate once.

    @raise ConfigurationError: one of the files holds no certificate or cannot be read, or the
        directory has no such file.
    """
    return tuple(
        dict.fromkeys(
            certificate
            for file in files_in(path, AUTHORITY_SUFFIXES)
            for certificate in load_certificates(read_file(file), file)
        )
    )


def files_in(path: str, suffixes: tuple[str, ...]) -> list[str]:
    """
    The files of a directory whose names end in one of the suffixes, in any letter case, and begin
    with no dot; of what is no directory, itself.

    @raise ConfigurationError: the directory cannot be read, or has no such file.
    """
    if not os.path.isdir(path):
        return [path]
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    files = [
        file
        for name in names
        if name.lower().endswith(suffixes) and not name.startswith(".")
        if not os.path.isdir(file := os.path.join(path, name))
    ]
    if not files:
        raise ConfigurationError(
            f"the directory {path} holds no file that ends in {', '.join(suffixes)}"
        )
    return files


@frozen
class CertifiedKey:
    """
    A private key with the chain of certificates that speaks for it.

    @ivar chain: what is sent to the peer: the leaf, then each certificate's issuer (RFC 8446,
        section 4.4.2).
    @ivar key: the leaf's private key. It is no part of a comparison, nor of the C{repr}.
    @raise ConfigurationError: the chain is empty, the key is not the leaf's, or of a kind that
        is not for TLS.
    """

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey = field(repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if not self.chain:
            raise ConfigurationError("a key needs at least one certificate")
        _usable(self.key, "the private key")
        if _public_key(self.leaf) != self.key.public_key():
            raise ConfigurationError(
                f"the private key is not that of the certificate for {_title(self.leaf)}"
            )
        if self.leaf.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
            # cryptography drops the restriction when it writes the key for OpenSSL, which then
            # sees a key of another kind than the certificate's.
            raise ConfigurationError(
                f"the certificate for {_title(self.leaf)} restricts its key to RSA-PSS, where a"
                " plain RSA key is needed (TLS signs with RSA-PSS all the same)"
            )

    @classmethod
    def from_pem(
        cls,
        certificates: bytes,
        key: bytes | None = None,
        passphrase: bytes | None = None,
        extra_chain: bytes = b"",
        where: str = "the given PEM",
    ) -> CertifiedKey:
        """
        Take key and chain from PEM text.

        The leaf is the first certificate that has the key's public half, wherever it stands; the
        intermediates are then found by who issued whom, in whatever order they come. Of several
        issuers of one name and key the longest valid is taken. Left out are a self-signed issuer
        (the peer has its own copy or none that it trusts: RFC 8446, section 4.4.2), certificates
        that no part of the chain was issued by, and all but the first private key.

        @param certificates: the certificates; with the private key if C{key} is L{None}.
        @param passphrase: not used if the key is not encrypted.
        @param extra_chain: more certificates to look for intermediates in.
        @param where: what to call C{certificates} in a message.
        @raise ConfigurationError: the text is damaged, lacks one of the two, or they do not match.
        """
        return _assemble(
            _Source(certificates, where),
            _Source(certificates, where) if key is None else _Source(key, f"{where} (key)"),
            _Source(extra_chain, f"{where} (extra chain)") if extra_chain else None,
            passphrase,
        )

    @classmethod
    def from_files(
        cls,
        certificate: str,
        key: str | None = None,
        passphrase_file: str | None = None,
        extra_chain: str | None = None,
    ) -> CertifiedKey:
        """
        Take key and chain from PEM files, as L{from_pem} does from text.

        @param certificate: the path of the certificates; with the private key if C{key} is L{None}.
        @param passphrase_file: see L{read_passphrase}.
        @raise ConfigurationError: as L{from_pem} and L{read_file}, with the path.
        """
        certificates = _Source(read_file(certificate), certificate)
        return _assemble(
            certificates,
            certificates if key is None else _Source(read_file(key), key),
            None if extra_chain is None else _Source(read_file(extra_chain), extra_chain),
            None if passphrase_file is None else read_passphrase(passphrase_file),
        )

    @classmethod
    def from_objects(
        cls,
        certificate: x509.Certificate | X509,
        key: object,
        chain: Iterable[x509.Certificate | X509] = (),
    ) -> CertifiedKey:
        """
        Take the leaf, its key and its intermediates from objects of cryptography's or pyOpenSSL's.

        C{chain} is put in order, and a root left out, as in L{from_pem}. To send a chain just as
        it is, call the class itself.

        @param key: a private key of cryptography's, or a C{PKey} of pyOpenSSL's.
        @raise ConfigurationError: the key is not the certificate's or not for TLS.
        """
        try:
            leaf, *others = (
                readable(each.to_cryptography() if isinstance(each, X509) else each)
                for each in (certificate, *chain)
            )
        except ValueError as error:
            raise ConfigurationError(f"a given certificate cannot be read: {error}") from error
        if isinstance(key, PKey):
            key = key.to_cryptography_key()
        return cls(_ordered(leaf, others), _usable(key, "the private key"))

    @property
    def leaf(self) -> x509.Certificate:
        """The key's own certificate."""
        return self.chain[0]

    @property
    def intermediates(self) -> tuple[x509.Certificate, ...]:
        """What is sent after the leaf."""
        return self.chain[1:]

    @property
    def names(self) -> tuple[str, ...]:
        """
        The DNS names and IP addresses that the leaf is for, in its order. There is no falling back
        on the common name (RFC 9525, section 2).

        @raise ConfigurationError: the subject alternative name is there and cannot be read.
        """
        try:
            names = self.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return ()
        except Exception as error:  # cryptography's have no common base
            raise ConfigurationError(
                f"the names in the certificate for {_title(self.leaf)} cannot be read: {error}"
            ) from error
        return tuple(
            str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)
        )

    @property
    def not_valid_after(self) -> datetime:
        """When the leaf expires, an aware time in UTC."""
        return self.leaf.not_valid_after_utc

    def to_pem(self) -> bytes:
        """
        The key, B{not encrypted}, and then the chain: what L{from_pem} takes.
        """
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + self.chain_pem()

    def chain_pem(self) -> bytes:
        """The chain alone, leaf first."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.chain)


@frozen
class _Source:
    """
    PEM text, and what to call it in a message.
    """

    pem: bytes = field(repr=False)
    where: str


def _assemble(
    certificates: _Source, key: _Source, extra: _Source | None, passphrase: bytes | None
) -> CertifiedKey:
    found = load_certificates(certificates.pem, certificates.where)
    private = _private_key(_blocks(key.pem, key.where), passphrase, key.where)
    more = () if extra is None else load_certificates(extra.pem, extra.where)
    return assemble(found, private, certificates.where, key.where, more)


def assemble(
    certificates: Sequence[x509.Certificate],
    key: object,
    where: str,
    key_where: str,
    more: Sequence[x509.Certificate] = (),
) -> CertifiedKey:
    """
    Find among certificates that of a key, and its chain, as L{CertifiedKey.from_pem} does.

    @param where: what to call the certificates in a message, and C{key_where} the key.
    @param more: where to look for intermediates, besides.
    @raise ConfigurationError: they do not match, or are not for TLS.
    """
    private = _usable(key, f"the private key in {key_where}")
    public = private.public_key()
    leaf = next((each for each in certificates if _public_key(each) == public), None)
    if leaf is None:
        raise ConfigurationError(
            f"the private key in {key_where} belongs to no certificate in {where}"
        )
    try:
        return CertifiedKey(_ordered(leaf, (*certificates, *more)), private)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where} cannot be used: {error}") from None


def _ordered(
    leaf: x509.Certificate, pool: Sequence[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    """
    The leaf, and the chain of its issuers that C{pool} has, without the self-signed one.
    """
    chain = [leaf]
    by_subject: dict[x509.Name, dict[x509.Certificate, None]] = {}
    for each in pool:
        by_subject.setdefault(each.subject, {})[each] = None
    while True:
        named = by_subject.get(chain[-1].issuer, {})
        if len(named) > _MOST_ISSUERS:
            raise ConfigurationError(
                f"there are more than {_MOST_ISSUERS} certificates for"
                f" {chain[-1].issuer.rfc4514_string()}"
            )
        issuers = [
            each
            for each in named
            if each not in chain and issued(each, chain[-1]) and not issued(each, each)
        ]
        if not issuers:
            return tuple(chain)
        if len(chain) == LONGEST_CHAIN:
            raise ConfigurationError(
                f"the chain of the certificate for {_title(leaf)} has more than {LONGEST_CHAIN}"
                " certificates"
            )
        chain.append(max(issuers, key=lambda each: each.not_valid_after_utc))


def issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """
    Whether the one has signed the other: two authorities may have one name. Where the signature is
    of a kind not known here, the name has to do.
    """
    if certificate.issuer != issuer.subject:
        return False
    try:
        _ = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return True
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _public_key(certificate: x509.Certificate) -> object:
    """
    The public key, or L{None} where it is of a kind that no L{PrivateKey} has.
    """
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def _usable(key: object, what: str) -> PrivateKey:
    if isinstance(key, PrivateKey):
        return key
    raise ConfigurationError(
        f"{what} is of the kind {type(key).__name__}, where RSA, EC, Ed25519 or Ed448 is needed"
    )


def _title(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "an empty name"
