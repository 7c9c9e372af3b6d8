"""
Is this peer who it should be.

OpenSSL builds and verifies the chain.  What is asked here comes after that, inside the handshake,
so that a peer which is refused is told so by the fitting alert: whether the certificate is for
the host that was asked for (service_identity, RFC 9525), whether its key is one that was pinned
(RFC 7469's SHA-256 of the public key), and whatever a callable of the user's says.

Everything fails closed.  An exception of any kind is a refusal.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)

from ._verification import HOSTNAME_MISMATCH, Check, Verification
from .errors import ConfigurationError, PeerError

__all__ = ["CertificateRefused", "HostVerifier", "Pin", "explain", "full_chain"]

IP_ADDRESS_MISMATCH = 64


class CertificateRefused(VerificationError):
    """
    A certificate that OpenSSL found good was refused all the same.

    @ivar sentence: why, in words.
    @ivar x509_error: the C{X509_V_ERR_} number that chooses the alert.
    """

    def __init__(
        self, sentence: str, x509_error: int | None = None, errors: Sequence[Any] = ()
    ) -> None:
        super().__init__(errors=list(errors))
        self.sentence = sentence
        if x509_error is not None:
            self.x509_error = x509_error

    def __str__(self) -> str:
        return self.sentence


@attrs.frozen
class Pin:
    """The SHA-256 of a public key (SubjectPublicKeyInfo, DER): 32 bytes."""

    digest: bytes

    @classmethod
    def parse(cls, text: str) -> Pin:
        """
        Read C{sha256:} followed by 64 hex digits or by base64.

        @raise ConfigurationError: it is neither.
        """
        kind, _, value = text.strip().replace("sha256//", "sha256:", 1).partition(":")
        try:
            if kind.lower() != "sha256":
                raise ValueError
            digest = (
                bytes.fromhex(value) if len(value) == 64 else base64.b64decode(value, validate=True)
            )
            if len(digest) != 32:
                raise ValueError
        except (ValueError, binascii.Error):
            raise ConfigurationError(
                f"the pin {text!r} is not 'sha256:' and 64 hex digits or base64 of 32 bytes"
            ) from None
        return cls(digest)

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Pin:
        """The pin of this certificate's key."""
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(hashlib.sha256(key).digest())

    def __str__(self) -> str:
        return f"sha256:{self.digest.hex()}"


@attrs.frozen
class HostVerifier:
    """
    A check for L{_openssl.set_verification}: host name or IP address, pins, and a callable.

    @ivar host: the name or address that the certificate must be for, in ASCII; L{None} for any.
    @ivar pins: the leaf's key must be one of these; empty for any.
    @ivar check: asked last, with the chain, leaf first; it raises to refuse.
    """

    host: str | None = None
    pins: frozenset[Pin] = frozenset()
    check: Check | None = None

    def __call__(self, chain: Sequence[x509.Certificate]) -> None:
        leaf = chain[0]
        if self.host is not None:
            _verify_host(leaf, self.host)
        if self.pins and Pin.of(leaf) not in self.pins:
            raise CertificateRefused(
                f"the key of {subject_of(leaf)} is none of the pinned ones: it is {Pin.of(leaf)}"
            )
        if self.check is not None:
            self.check(chain)


@lru_cache(256)
def _verify_host(leaf: x509.Certificate, host: str) -> None:
    # What is raised is not remembered.  A program has few servers that it comes back to.
    try:
        if is_ip_address(host):
            # The zone of a link-local address (RFC 4007, section 11) is ours and no certificate's.
            verify_certificate_ip_address(leaf, host.partition("%")[0])
        else:
            verify_certificate_hostname(leaf, host)
    except VerificationError as mismatch:
        names = _printable(", ".join(names_of(leaf))) or "no name at all"
        raise CertificateRefused(
            f"the certificate is not for {host}: it is for {names}",
            IP_ADDRESS_MISMATCH if is_ip_address(host) else HOSTNAME_MISMATCH,
            mismatch.errors,
        ) from mismatch
    except Exception as error:
        # service_identity's CertificateError (no subject alternative name, a malformed one) and
        # whatever else a hostile certificate can make a parser raise.
        raise CertificateRefused(
            f"the certificate of {subject_of(leaf)} cannot be verified for {host}:"
            f" {_printable(str(error))}",
            HOSTNAME_MISMATCH,
        ) from error


def is_ip_address(host: str) -> bool:
    """Whether this is an IPv4 or IPv6 address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def names_of(certificate: x509.Certificate) -> list[str]:
    """The DNS names and IP addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [
            *names.get_values_for_type(x509.DNSName),
            *map(str, names.get_values_for_type(x509.IPAddress)),
        ]
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return []


def subject_of(certificate: x509.Certificate) -> str:
    """How to call a certificate in a sentence: its subject, or else its serial number."""
    try:
        subject = certificate.subject.rfc4514_string()
    except ValueError:
        subject = ""
    return _printable(subject) or f"serial number {certificate.serial_number:x}"


def _printable(text: str) -> str:
    """In one line of a length to be read: what is in a certificate was chosen by a stranger."""
    line = "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text[:300])
    return line if len(text) <= 300 else line + "..."


def full_chain(connection: SSL.Connection) -> tuple[x509.Certificate, ...]:
    """
    The peer's certificates, leaf first.

    OpenSSL's own list has the leaf at a client and lacks it at a server
    (SSL_get_peer_cert_chain(3)).

    @raise PeerError: there is one that OpenSSL can read and cryptography cannot.
    """
    try:
        leaf = connection.get_peer_certificate(as_cryptography=True)
        if leaf is None:
            return ()
        chain = connection.get_peer_cert_chain(as_cryptography=True) or []
    except (ValueError, x509.InvalidVersion) as error:
        raise PeerError(f"the peer's certificate cannot be read: {error}") from error
    return (leaf, *(certificate for certificate in chain if certificate != leaf))


def verify_again(verification: Verification, connection: SSL.Connection) -> None:
    """
    Judge the peer of a resumed session.

    A resumed handshake verifies nothing: no callback runs and the chain is gone.  What was good
    when the session began may have been revoked, have expired or be no longer let in.

    @raise OpenSSL.SSL.Error: it is refused.
    """
    chain = full_chain(connection)
    if chain and verification.ask_again(chain):
        raise SSL.Error([("SSL routines", "", "certificate verify failed")])


def explain(verification: Verification) -> str:
    """Why a verification refused the peer, in one sentence."""
    failure, certificate = verification.failure, verification.certificate
    if isinstance(failure, CertificateRefused):
        return failure.sentence
    whose = subject_of(certificate) if certificate is not None else "the peer"
    if failure is not None:
        return f"the certificate of {whose} was refused: {str(failure) or type(failure).__name__}"
    # A date may be one that Python cannot hold; then OpenSSL's words have to do.
    with suppress(ValueError):
        if certificate is not None and verification.code == 10:
            end = certificate.not_valid_after_utc
            return (
                f"the certificate of {whose} expired {_ago(datetime.now(UTC) - end)} ago,"
                f" at {end:%Y-%m-%d %H:%M} UTC"
            )
        if certificate is not None and verification.code == 9:
            start = certificate.not_valid_before_utc
            return f"the certificate of {whose} is valid from {start:%Y-%m-%d %H:%M} UTC only"
    return f"the certificate of {whose} does not verify: {verify_error_string(verification.code)}"


def _ago(span: timedelta) -> str:
    seconds = span.total_seconds()
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return "less than a minute"


def verify_error_string(code: int) -> str:
    """OpenSSL's words for a C{X509_V_ERR_} number."""
    return _WORDS.get(code) or f"verification error {code}"


_WORDS = {
    1: "it was refused for no reason that was given",
    2: "the certificate of its issuer is missing",
    3: "there is no revocation list for it",
    7: "its signature is wrong",
    9: "it is not valid yet",
    10: "it has expired",
    11: "its revocation list is not valid yet",
    12: "its revocation list has expired",
    18: "it is self-signed and not trusted",
    19: "its chain ends in a root that is not trusted",
    20: "its issuer is not among the trusted authorities",
    21: "its issuer is not among the trusted authorities, and it came with no intermediates",
    22: "its chain is too long",
    23: "it was revoked",
    24: "its issuer has no key that can be read",
    25: "its chain is longer than one of its authorities allows",
    26: "it is not meant for this purpose",
    27: "it is not trusted",
    28: "it was rejected",
    32: "its issuer may not sign certificates",
    33: "the issuer of its revocation list is missing",
    34: "it has a critical extension that nobody here understands",
    43: "its chain is for none of the policies that are asked for",
    47: "an authority of its chain may not sign for this name",
    48: "an authority of its chain may not sign for this name",
    66: "its key is too weak",
    67: "the key of an authority of its chain is too weak",
    68: "an authority of its chain signs with too weak a hash",
    79: "its issuer is no authority",
}
"""In words, by number: X509_STORE_CTX_get_error(3)."""


class TrustStore:
    """
    Authorities, to verify a leaf against outside of a handshake: a resumed session brings none.

    @ivar store: OpenSSL's store of the authorities.
    @ivar changes: how often L{changed} was called.
    """

    def __init__(self, store: crypto.X509Store) -> None:
        self.store = store
        self.changes = 0

    def changed(self) -> None:
        """The store is not what it was: what was found good may not be good any more."""
        self.changes += 1

    def verify(self, chain: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
        """
        Verify the first of these, which the others may help to lead to an authority.

        @return: the chain that was found good, from the leaf to the authority.
        @raise CertificateRefused: the leaf does not verify: it has expired since, or its
            authority is no longer trusted.
        """
        leaf, *others = (crypto.X509.from_cryptography(each) for each in chain)
        context = crypto.X509StoreContext(self.store, leaf, chain=others)
        try:
            return tuple(each.to_cryptography() for each in context.get_verified_chain())
        except crypto.X509StoreContextError as error:
            code = error.errors[0]
            raise CertificateRefused(
                f"the certificate of {subject_of(chain[0])} does not verify any more:"
                f" {verify_error_string(code)}",
                code,
            ) from error
