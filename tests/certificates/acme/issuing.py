"""How the small authority of the tests issues, and what it finds wrong with a request."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


class Refused(Exception):
    """
    What was asked for is refused.

    @ivar code: ACME's type of the problem, without its prefix.
    @ivar retry_after: seconds, or a text that is sent as it is.
    @ivar location: of what there is instead.
    @ivar identifiers: whose fault it is, each with its own problem.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        status: int = 400,
        *,
        retry_after: float | str | None = None,
        location: str | None = None,
        identifiers: Iterable[tuple[str, str, str]] = (),
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.status = status
        self.retry_after = retry_after
        self.location = location
        self.identifiers = tuple(identifiers)

    def document(self) -> dict[str, object]:
        """The problem document."""
        document: dict[str, object] = {
            "type": f"urn:ietf:params:acme:error:{self.code}",
            "detail": self.detail,
        }
        if self.status:
            document["status"] = self.status
        if self.identifiers:
            document["subproblems"] = [
                {
                    "type": f"urn:ietf:params:acme:error:{code}",
                    "detail": detail,
                    "identifier": json_identifier(name),
                }
                for name, code, detail in self.identifiers
            ]
        return document


def json_identifier(name: str) -> dict[str, str]:
    """An identifier as ACME has it."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return {"type": "dns", "value": name}
    return {"type": "ip", "value": name}


@attrs.frozen
class Profile:
    """A kind of certificate: how long it lives."""

    description: str
    lifetime: timedelta


@cache
def _key(title: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name(title: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])


class Issuer:
    """
    Roots, and an intermediate that each of them has signed.

    @ivar roots: the default one first.
    @ivar intermediates: of one key, in the order of the roots.
    """

    def __init__(self, now: Callable[[], float], titles: Iterable[str] = ("A", "B")) -> None:
        self._now = now
        titles = tuple(titles)
        self.roots = [self._authority(f"Small Root {each}", None) for each in titles]
        self.intermediates = [
            self._authority("Small Intermediate", f"Small Root {each}") for each in titles
        ]

    def _authority(self, title: str, issuer: str | None) -> x509.Certificate:
        signer = _key(issuer or title)
        begin = self.time() - 365 * DAY
        return (
            x509.CertificateBuilder()
            .subject_name(_name(title))
            .issuer_name(_name(issuer or title))
            .public_key(_key(title).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + 7300 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(_key(title).public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
            .sign(signer, SHA256())
        )

    def time(self) -> datetime:
        """The time by the authority's clock."""
        return datetime.fromtimestamp(int(self._now()), UTC)

    def issue(
        self, public_key: object, names: Iterable[str], lifetime: timedelta
    ) -> x509.Certificate:
        """A certificate for these names, the intermediate's."""
        assert isinstance(public_key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
        signer = _key("Small Intermediate")
        # As authorities do, an hour early, for clients whose clocks are behind.
        begin = self.time() - timedelta(hours=1)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.intermediates[0].subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([general_name(each) for each in names]), critical=True
            )
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
            .sign(signer, SHA256())
        )

    def chains(self, leaf: x509.Certificate) -> list[bytes]:
        """PEM by each root."""
        return [
            leaf.public_bytes(Encoding.PEM) + each.public_bytes(Encoding.PEM)
            for each in self.intermediates
        ]

    def server(self, *names: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """A certificate for the authority's own server, of the first root, and its key."""
        key = _key("server")
        certificate = self.issue(key.public_key(), names, 90 * DAY)
        return certificate, key


def general_name(name: str) -> x509.GeneralName:
    """A name as certificates have it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def check_request(csr: x509.CertificateSigningRequest, names: Iterable[str]) -> None:
    """
    See that a request is for these names, and its key one to certify.

    @raise Refused: it is not.
    """
    if not csr.is_signature_valid:
        raise Refused("badCSR", "its signature is not that of its key")
    key = csr.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048:
            raise Refused("badCSR", "its key is too small")
    elif not (
        isinstance(key, ec.EllipticCurvePublicKey)
        and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
    ):
        raise Refused("badCSR", "its key is of a kind that is not certified")
    try:
        alternative = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise Refused("badCSR", "it has no subject alternative name") from None
    asked = {
        *(each.lower() for each in alternative.get_values_for_type(x509.DNSName)),
        *map(str, alternative.get_values_for_type(x509.IPAddress)),
    }
    for attribute in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        asked.add(str(attribute.value).lower())
    if asked != set(names):
        raise Refused("badCSR", f"it is for {sorted(asked)}, and the order for {sorted(names)}")


def csr_for(names: Iterable[str], key: Any) -> x509.CertificateSigningRequest:
    """A request for a certificate for these names."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(
            x509.SubjectAlternativeName([general_name(each) for each in names]), critical=False
        )
        .sign(key, SHA256())
    )
