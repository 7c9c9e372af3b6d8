"""What a handshake agreed on, as one frozen object, and what can be derived from it."""

from __future__ import annotations

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL

from ._held import held_by
from ._openssl import has_extended_master_secret
from .errors import UsageError
from .verify import full_chain


@attrs.frozen
class Negotiated:
    """
    The facts of one connection.

    @ivar version: C{"TLSv1.3"} or C{"TLSv1.2"}.
    @ivar cipher: the cipher suite, by OpenSSL's name.
    @ivar group: the group of the key exchange, such as C{"X25519MLKEM768"}; L{None} where there
        was none (a resumption in TLS 1.2).
    @ivar alpn: the application protocol agreed on; L{None} where none was.
    @ivar server_name: the host name that the client asked for; L{None} where it named none.
    @ivar resumed: whether an earlier session was resumed.
    @ivar peer_chain: the peer's certificates, leaf first; empty where it showed none.  Of a
        resumed session often only the leaf is left.
    @ivar handshake_seconds: from the start of the handshake to its end; L{None} where nobody
        had a clock.
    """

    version: str
    cipher: str
    group: str | None
    alpn: bytes | None
    server_name: str | None
    resumed: bool
    peer_chain: tuple[x509.Certificate, ...]
    handshake_seconds: float | None = None

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """The peer's own certificate, the leaf of its chain."""
        return self.peer_chain[0] if self.peer_chain else None


def negotiated_by(connection: SSL.Connection, resumed: bool) -> Negotiated:
    """The facts of a connection whose handshake is done."""
    held = held_by(connection)
    # Of a session that was agreed on under another name, OpenSSL tells that one in TLS 1.2.
    name = connection.get_servername()
    if held is not None:
        name = None if held.server_name is None else held.server_name.encode("ascii")
    version = connection.get_protocol_version_name()
    # TLS 1.2 exchanges no keys in a resumption; OpenSSL names the first handshake's group then.
    exchanged = not resumed or version == "TLSv1.3"
    return Negotiated(
        version=version,
        cipher=connection.get_cipher_name() or "",
        group=connection.get_group_name() if exchanged else None,
        alpn=connection.get_alpn_proto_negotiated() or None,
        server_name=None if name is None else name.decode("ascii", "backslashreplace"),
        resumed=resumed,
        peer_chain=full_chain(connection),
    )


def channel_binding(connection: SSL.Connection, is_client: bool, kind: str) -> bytes:
    """
    What binds a login to this very connection.

    @raise UsageError: this connection cannot have a binding of this kind.
    """
    if kind == "tls-exporter":
        # RFC 9266, section 2: without the extended master secret a TLS 1.2 exporter does not
        # depend on the whole handshake, and a man in the middle can make two of them agree.
        if connection.get_protocol_version_name() != "TLSv1.3" and not has_extended_master_secret(
            connection
        ):
            raise UsageError("tls-exporter needs TLS 1.3, or TLS 1.2 with extended master secret")
        return connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
    if kind == "tls-server-end-point":
        certificate = _server_certificate(connection, is_client)
        if certificate is None:
            raise UsageError("tls-server-end-point needs a server certificate")
        return certificate.fingerprint(_end_point_hash(certificate))
    raise UsageError(
        f"there is no channel binding {kind!r}: tls-exporter and tls-server-end-point are known"
    )


def _server_certificate(connection: SSL.Connection, is_client: bool) -> x509.Certificate | None:
    if not is_client:
        return connection.get_certificate(as_cryptography=True)
    chain = full_chain(connection)
    return chain[0] if chain else None


def _end_point_hash(certificate: x509.Certificate) -> hashes.HashAlgorithm:
    """
    The certificate's own signature hash, SHA-256 in place of MD5 and SHA-1: RFC 5929, 4.1.

    @raise UsageError: it has none.  Ed25519 and its like sign the message itself, and for them
        the binding is not defined.
    """
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        algorithm = None
    if algorithm is None:
        raise UsageError(
            "tls-server-end-point is not defined for a certificate whose signature has no hash of"
            f" its own: {certificate.signature_algorithm_oid.dotted_string}"
        )
    return hashes.SHA256() if algorithm.name in ("md5", "sha1") else algorithm
