"""Certificates, contexts and connections for the tests of TLS, made once in a process."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

from attrs import evolve, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

HOST = "www.example.org"
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
TLS12 = SSL.TLS1_2_VERSION
TLS13 = SSL.TLS1_3_VERSION
VERSIONS = (TLS12, TLS13)
VERSION_NAMES = {TLS12: "TLSv1.2", TLS13: "TLSv1.3"}
FOR_SERVERS = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
# To sign certificates and lists of revoked ones.
FOR_AUTHORITIES = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
FOR_CLIENTS = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


@frozen
class Party:
    """A certificate, its key, and what it has to send along."""

    certificate: x509.Certificate
    key: Key
    intermediates: tuple[x509.Certificate, ...] = ()

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return (self.certificate, *self.intermediates)

    def padded(self, size: int) -> Party:
        """
        The same, with so many certificates after it that the chain has more than C{size} bytes.
        """
        padding = [*self.intermediates, certificate("padding", self, ca=True, ballast=8000)]
        padding *= -(-size // 8000)
        return evolve(self, intermediates=tuple(padding))


@cache
def ec_key(number: int = 0) -> ec.EllipticCurvePrivateKey:
    """A key; always the same for the same number."""
    return ec.generate_private_key(ec.SECP256R1())


@cache
def rsa_key(size: int = 2048) -> rsa.RSAPrivateKey:
    """A key; always the same of this size."""
    return rsa.generate_private_key(65537, size)


def certificate(
    title: str,
    issuer: Party | None,
    *,
    key: Key | None = None,
    names: Sequence[x509.GeneralName] | None = None,
    usage: x509.ExtendedKeyUsage | None = None,
    begin: datetime = NOW - DAY,
    end: datetime = NOW + 30 * DAY,
    ca: bool = False,
    hash: SHA256 | SHA384 | SHA512 | None = None,
    ballast: int = 0,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> x509.Certificate:
    """
    A certificate.

    @param issuer: who signs it; it signs itself where there is nobody.
    @param key: the key that it is for.
    @param ballast: bytes of an extension that means nothing.
    @param extensions: more of them, each with whether it is critical.
    """
    key = ec_key() if key is None else key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
    signing = key if issuer is None else issuer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(usage, critical=False)
    given = {type(extension) for extension, _ in extensions}
    for extension, critical in _as_issued(key, issuer, ca):
        if type(extension) not in given:
            builder = builder.add_extension(extension, critical)
    if ballast:
        oid = x509.ObjectIdentifier("1.3.6.1.4.1.55555.1")
        unknown = x509.UnrecognizedExtension(oid, b"\0" * ballast)
        builder = builder.add_extension(unknown, critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    if isinstance(signing, ed25519.Ed25519PrivateKey):
        return builder.sign(signing, None)
    return builder.sign(signing, hash or SHA256())


def _as_issued(
    key: Key, issuer: Party | None, ca: bool
) -> Iterator[tuple[x509.ExtensionType, bool]]:
    """
    What RFC 5280, 4.2.1.1 to 4.2.1.3, wants of whoever issues certificates. Python's C{ssl} accepts
    no other since 3.13, and OpenSSL where it is told to be strict.
    """
    if issuer is not None:
        # Of its certificate: a test may have another key sign, in its name.
        above = x509.SubjectKeyIdentifier.from_public_key(issuer.certificate.public_key())
        yield x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above), False
    if ca:
        yield x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
        yield FOR_AUTHORITIES, True


@cache
def authority(title: str = "authority") -> Party:
    """A root; always the same of this name."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Party(certificate(title, None, key=key, ca=True), key)


@cache
def intermediate() -> Party:
    """An authority signed by L{authority}."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Party(certificate("intermediate", authority(), key=key, ca=True), key)


@cache
def server() -> Party:
    """The usual server, for L{HOST} and 127.0.0.1."""
    names = [x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = certificate("server", authority(), key=ec_key(1), names=names, usage=FOR_SERVERS)
    return Party(made, ec_key(1))


@cache
def rsa_server() -> Party:
    """The same with an RSA key."""
    made = certificate("rsa server", authority(), key=rsa_key(), names=[x509.DNSName(HOST)])
    return Party(made, rsa_key())


@cache
def chained_server() -> Party:
    """A server whose certificate is signed by the intermediate, which it sends along."""
    made = certificate("chained server", intermediate(), key=ec_key(1), names=[x509.DNSName(HOST)])
    return Party(made, ec_key(1), (intermediate().certificate,))


@cache
def client() -> Party:
    """The usual client."""
    made = certificate("client", authority(), key=ec_key(2), usage=FOR_CLIENTS)
    return Party(made, ec_key(2))


@cache
def expired() -> Party:
    """One that was good until yesterday, for a server or a client."""
    made = certificate(
        "expired",
        authority(),
        key=ec_key(3),
        names=[x509.DNSName(HOST)],
        begin=NOW - 30 * DAY,
        end=NOW - 3 * DAY,
    )
    return Party(made, ec_key(3))


@cache
def not_yet_valid() -> Party:
    """One that will be good from tomorrow on."""
    names = [x509.DNSName(HOST)]
    made = certificate("early", authority(), key=ec_key(3), names=names, begin=NOW + DAY)
    return Party(made, ec_key(3))


@cache
def stranger() -> Party:
    """One whose authority nobody knows."""
    names = [x509.DNSName(HOST)]
    made = certificate("stranger", authority("nobody"), key=ec_key(3), names=names)
    return Party(made, ec_key(3))


@cache
def nameless() -> Party:
    """One with no subject alternative name."""
    return Party(certificate("nameless", authority(), key=ec_key(3)), ec_key(3))


def context(
    is_client: bool,
    *,
    own: Party | None = None,
    trusted: Sequence[x509.Certificate] = (),
    versions: tuple[int, int] = (TLS12, TLS13),
    ciphers: bytes | None = None,
    ciphersuites: bytes | None = None,
    session_id: bytes | None = b"tests",
) -> SSL.Context:
    """
    A new context, which may be changed until it has made a connection.

    @param own: the certificate that it shows.
    @param trusted: the authorities that it trusts.
    """
    made = SSL.Context(SSL.TLS_CLIENT_METHOD if is_client else SSL.TLS_SERVER_METHOD)
    made.set_min_proto_version(versions[0])
    made.set_max_proto_version(versions[1])
    if ciphers is not None:
        made.set_cipher_list(ciphers)
    if ciphersuites is not None:
        made.set_tls13_ciphersuites(ciphersuites)
    if own is not None:
        made.use_certificate(own.certificate)
        made.use_privatekey(own.key)
        for each in own.intermediates:
            made.add_extra_chain_cert(each)
    store = made.get_cert_store()
    assert store is not None
    for each in trusted:
        store.add_cert(crypto.X509.from_cryptography(each))
    if session_id is not None:
        made.set_session_id(session_id)
    return made


@cache
def client_context(version: int = TLS13) -> SSL.Context:
    """The usual client's context for one version; it trusts the authority and shows nothing."""
    return context(True, trusted=[authority().certificate], versions=(version, version))


@cache
def server_context(version: int | None = None) -> SSL.Context:
    """The usual server's context, for one version or for both."""
    versions = (TLS12, TLS13) if version is None else (version, version)
    return context(False, own=server(), trusted=[authority().certificate], versions=versions)


def client_connection(made: SSL.Context | None = None) -> SSL.Connection:
    """A client's connection; the usual one if no context is given."""
    connection = SSL.Connection(made or client_context())
    connection.set_connect_state()
    connection.set_tlsext_host_name(HOST.encode())
    return connection


def server_connection(made: SSL.Context | None = None) -> SSL.Connection:
    """A server's connection; the usual one if no context is given."""
    connection = SSL.Connection(made or server_context())
    connection.set_accept_state()
    return connection


def pair(version: int = TLS13) -> tuple[SSL.Connection, SSL.Connection]:
    """The usual client's and server's connections for one version."""
    return client_connection(client_context(version)), server_connection(server_context(version))


def of_version(made: x509.Certificate, version: int, issuer: Party) -> bytes:
    """
    The certificate with another number as its version, signed anew, in DER: OpenSSL takes it, and
    cryptography does not.
    """
    return signed_anew(made, b"\xa0\3\2\1\2", b"\xa0\3\2\1" + bytes([version]), issuer)


def signed_anew(made: x509.Certificate, old: bytes, new: bytes, issuer: Party) -> bytes:
    """The certificate with some bytes, of the same length, in the place of others, in DER."""
    changed = made.tbs_certificate_bytes.replace(old, new, 1)
    assert changed != made.tbs_certificate_bytes
    assert isinstance(issuer.key, ec.EllipticCurvePrivateKey)
    signature = b"\0" + issuer.key.sign(changed, ec.ECDSA(SHA256()))
    # AlgorithmIdentifier of ecdsa-with-SHA256.
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    body = changed + algorithm + b"\x03" + _length(len(signature)) + signature
    return b"\x30" + _length(len(body)) + body


def _length(size: int) -> bytes:
    if size < 128:
        return bytes([size])
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([128 + len(octets)]) + octets


def pem(made: x509.Certificate) -> bytes:
    return made.public_bytes(Encoding.PEM)
