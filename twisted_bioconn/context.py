"""
What the user asks for, as connections of OpenSSL.

L{ServerOptions} and L{ClientOptions} are what a L{TLSConnectorFactory} is made with.  Both are
secure as they come: the peer of a client is verified, versions and ciphers are a named policy's,
sessions resume and are judged again when they do.  What is unsafe has a name that says so.

pyOpenSSL refuses to change a context that has made a connection, so a new certificate is a new
context.  Session tickets belong to the context that a connection began with, so that one stays:
each connection begins on the base and has the certificate's context swapped in.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any

import idna
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from zope.interface import implementer

from . import _openssl
from ._creators import acceptable_protocols, select_protocol
from ._openssl import Check, keep_session, set_verification
from .certificates.loading import CertifiedKey
from .errors import ConfigurationError
from .policy import INTERMEDIATE, Policy
from .verify import HostVerifier, Pin, TrustStore, is_ip_address

__all__ = [
    "ClientCertificate",
    "ClientOptions",
    "ServerOptions",
    "SessionStore",
    "TLSMethod",
    "ascii_host",
]


class ClientCertificate(Enum):
    """Whether a server wants a certificate of its clients."""

    NONE = "none"
    REQUIRE = "require"
    VERIFY_IF_GIVEN = "verifyIfGiven"


_VERIFY_MODES = {
    ClientCertificate.REQUIRE: SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
    ClientCertificate.VERIFY_IF_GIVEN: SSL.VERIFY_PEER,
}

TLSMethod = tuple[int | None, int | None]
"""The oldest and the newest version; L{None} for the policy's."""

_DHE_CIPHERS = ("DHE-RSA-AES128-GCM-SHA256", "DHE-RSA-AES256-GCM-SHA384")
"""What Diffie-Hellman parameters are good for: RFC 5288's, forward secret and authenticated."""

_KEPT_CHAINS = 1024
"""Client chains that a server remembers, to judge a resumed session that brings the leaf alone."""


def ascii_host(host: str) -> str:
    """
    A host name or an IP address as it stands in a certificate and in a client hello.

    @raise ConfigurationError: it is no host name.
    """
    if is_ip_address(host):
        return host
    name = host.rstrip(".")
    if not name or any(character in name for character in " /:@\0"):
        raise ConfigurationError(f"{host!r} is no host name")
    if name.isascii():
        return name.lower()
    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ConfigurationError(f"{host!r} is no host name: {error}") from error


def _new_context(policy: Policy, versions: TLSMethod, extra_ciphers: Sequence[str]) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    oldest, newest = versions
    context.set_min_proto_version(policy.minimum_version if oldest is None else oldest)
    context.set_max_proto_version(policy.maximum_version if newest is None else newest)
    ciphers = (*policy.ciphers_tls12, *extra_ciphers)
    if ciphers:
        context.set_cipher_list(":".join(ciphers).encode("ascii"))
    context.set_tls13_ciphersuites(":".join(policy.ciphersuites_tls13).encode("ascii"))
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    if policy.server_preference:
        context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    return context


def _set_groups(context: SSL.Context, groups: Sequence[str], key_shares: int = 0) -> None:
    """
    Set a policy's groups, as far as this OpenSSL knows them.

    @param key_shares: for how many of them a client sends its key share at once.  The first, which
        an older server does not have, would else cost it a round trip.
    """
    starred = [f"*{name}" if at < key_shares else name for at, name in enumerate(groups)]
    for names in (starred, groups):
        try:
            _openssl.set_groups(context, names)
        except ValueError:
            continue
        return
    known = [name for name in groups if _knows_group(name)]
    _openssl.set_groups(context, known)


def _knows_group(name: str) -> bool:
    try:
        _openssl.set_groups(SSL.Context(SSL.TLS_METHOD), [name])
    except ValueError:
        return False
    return True


def _signature_algorithms(policy: Policy, key: CertifiedKey | None) -> tuple[str, ...]:
    """
    A policy's signature algorithms, and the one of a key that it has no word about.

    @raise ConfigurationError: the policy leaves no way to sign with this key.
    """
    names = policy.signature_algorithms
    if key is None:
        return names
    private = key.key
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return (*names, "ed25519")
    if isinstance(private, ed448.Ed448PrivateKey):
        return (*names, "ed448")
    if isinstance(private, rsa.RSAPrivateKey) and not any(each.startswith("rsa") for each in names):
        raise ConfigurationError(
            f"policy={policy.name} has no RSA keys, and the certificate has one:"
            " use policy=intermediate, or an ECDSA certificate"
        )
    if isinstance(private, ec.EllipticCurvePrivateKey) and not any(
        private.curve.name.replace("secp", "ecdsa_secp") in each for each in names
    ):
        raise ConfigurationError(
            f"policy={policy.name} has no keys on the curve {private.curve.name}:"
            " use secp256r1 or secp384r1"
        )
    return names


def _use(context: SSL.Context, key: CertifiedKey) -> None:
    try:
        context.use_certificate(key.leaf)
        for certificate in key.intermediates:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(key.key)
        context.check_privatekey()
    except SSL.Error as error:
        reasons = ", ".join(reason for _, _, reason in error.args[0] or ())
        raise ConfigurationError(
            f"OpenSSL refuses the certificate or its key: {reasons}"
        ) from error


def _trust(context: SSL.Context, authorities: Iterable[x509.Certificate]) -> TrustStore:
    """Make a context trust these and nobody else."""
    store = context.get_cert_store()
    assert store is not None
    for certificate in authorities:
        store.add_cert(X509.from_cryptography(certificate))
    return TrustStore(store)


def _wire_names(alpn: Iterable[bytes]) -> tuple[bytes, ...]:
    names = tuple(alpn)
    for name in names:
        if not isinstance(name, bytes) or not 0 < len(name) < 256:
            raise ConfigurationError(f"{name!r} is no ALPN name: RFC 7301 has 1 to 255 bytes")
    return names


@implementer(IOpenSSLServerConnectionCreator)
class ServerOptions:
    """
    What a server offers, and whom it lets in.
    """

    def __init__(
        self,
        certificate: CertifiedKey,
        *,
        policy: Policy = INTERMEDIATE,
        alpn: Iterable[bytes] = (),
        client_authorities: Iterable[x509.Certificate] = (),
        client_certificate: ClientCertificate | None = None,
        check: Check | None = None,
        versions: TLSMethod = (None, None),
        dh_parameters: str | None = None,
    ) -> None:
        """
        @param certificate: the server's certificate, its chain and its key.
        @param policy: versions, ciphers, groups and signature algorithms.
        @param alpn: protocol names, best first; the application's own where there are none.
        @param client_authorities: who signs the certificates of clients.
        @param client_certificate: whether clients need one; by default they do if there are
            C{client_authorities}.
        @param check: asked about a client's chain, leaf first, when it has been found good; it
            raises to refuse.
        @param versions: the oldest and newest TLS version, to narrow what the policy has.
        @param dh_parameters: the name of a PEM file; it brings the C{DHE} ciphers.
        @raise ConfigurationError: this does not fit together, or OpenSSL refuses the certificate.
        """
        self.policy = policy
        self.alpn = _wire_names(alpn)
        self.client_authorities = tuple(client_authorities)
        if client_certificate is None:
            client_certificate = (
                ClientCertificate.REQUIRE if self.client_authorities else ClientCertificate.NONE
            )
        if client_certificate is not ClientCertificate.NONE and not self.client_authorities:
            raise ConfigurationError(
                f"clientCertificate={client_certificate.value} needs clientAuthorities:"
                " there is nobody whose signature would let a client in"
            )
        self.client_certificate = client_certificate
        self._check = check
        self._versions = versions
        self._dh_parameters = dh_parameters
        self._session_id = secrets.token_bytes(16)
        self._chains: OrderedDict[bytes, tuple[x509.Certificate, ...]] = OrderedDict()
        self._trust_store: TrustStore | None = None
        self._base = self._context = self._make_context(certificate)
        self.certificate = certificate

    def use(self, certificate: CertifiedKey) -> None:
        """
        Serve another certificate from now on.

        Connections that are there go on, and sessions go on to be resumed.

        @raise ConfigurationError: OpenSSL or the policy refuses it; the old one stays.
        """
        self._context = self._make_context(certificate)
        self.certificate = certificate

    def _make_context(self, certificate: CertifiedKey) -> SSL.Context:
        policy = self.policy
        extra = _DHE_CIPHERS if self._dh_parameters is not None else ()
        context = _new_context(policy, self._versions, extra)
        _openssl.set_signature_algorithms(context, _signature_algorithms(policy, certificate))
        _set_groups(context, policy.groups)
        _use(context, certificate)
        if self._dh_parameters is not None:
            try:
                context.load_tmp_dh(self._dh_parameters)
            except SSL.Error:
                raise ConfigurationError(
                    f"dhParameters: {self._dh_parameters} has no Diffie-Hellman parameters in PEM"
                ) from None
        # Tickets hold the whole session: the cache in memory is not needed for them.
        context.set_session_id(self._session_id)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_alpn_select_callback(self._select_protocol)
        if self.client_authorities:
            store = _trust(context, self.client_authorities)
            self._trust_store = self._trust_store or store
            for each in self.client_authorities:
                context.add_client_ca(each)
        return context

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """A new connection, for this protocol."""
        connection = SSL.Connection(self._base)
        connection.set_accept_state()
        if self._context is not self._base:
            connection.set_context(self._context)
        mode = _VERIFY_MODES.get(self.client_certificate)
        if mode is not None:
            set_verification(connection, mode, self._judge, self._judge_again)
        return connection

    def _select_protocol(self, connection: SSL.Connection, offered: list[bytes]) -> Any:
        names = self.alpn or acceptable_protocols(connection.get_app_data())
        return select_protocol(names, offered)

    def _judge(self, chain: Sequence[x509.Certificate]) -> None:
        if self._check is not None:
            self._check(chain)
        self._chains[chain[0].fingerprint(SHA256())] = tuple(chain[1:])
        if len(self._chains) > _KEPT_CHAINS:
            self._chains.popitem(last=False)

    def _judge_again(self, chain: Sequence[x509.Certificate]) -> None:
        """A resumed session: OpenSSL has verified nothing, and only the leaf is left."""
        leaf = chain[0]
        whole = [leaf, *self._chains.get(leaf.fingerprint(SHA256()), ())]
        assert self._trust_store is not None
        self._trust_store.verify(whole)
        if self._check is not None:
            self._check(whole)


class SessionStore:
    """
    Sessions of a client, to be resumed: the least recently used is forgotten first.

    A session is given out once: RFC 8446, appendix C.4, has clients not use a ticket twice.
    """

    def __init__(self, size: int = 1024) -> None:
        """
        @param size: the number of sessions kept at most.
        """
        self._size = size
        self._sessions: OrderedDict[bytes, SSL.Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def put(self, key: bytes, session: SSL.Session) -> None:
        """Keep a session."""
        self._sessions[key] = session
        self._sessions.move_to_end(key)
        if len(self._sessions) > self._size:
            self._sessions.popitem(last=False)

    def take(self, key: bytes) -> SSL.Session | None:
        """Give out the session of this key and forget it."""
        return self._sessions.pop(key, None)


_SESSIONS = SessionStore()


@implementer(IOpenSSLClientConnectionCreator)
class ClientOptions:
    """
    Whom a client wants to talk to, and what it believes of it.
    """

    def __init__(
        self,
        host: str,
        *,
        server_name: str | None = None,
        trust_roots: Iterable[x509.Certificate] | None = None,
        policy: Policy = INTERMEDIATE,
        alpn: Iterable[bytes] = (),
        certificate: CertifiedKey | None = None,
        pins: Iterable[Pin] = (),
        check: Check | None = None,
        unsafe_skip_verification: bool = False,
        sessions: SessionStore | None = None,
    ) -> None:
        """
        @param host: the host name or IP address that the server's certificate must be for.
        @param server_name: the name to ask for, where it is another; the certificate must then be
            for that.
        @param trust_roots: the authorities to trust; the system's if not given.
        @param alpn: protocol names to offer, best first, after the application's own.
        @param certificate: our own, for a server that wants one.
        @param pins: the server's key must be one of these; empty for any.
        @param check: asked about the server's chain, leaf first, when it has been found good; it
            raises to refuse.
        @param unsafe_skip_verification: take whatever certificate the server shows.  Anybody on
            the way can then read and change everything.
        @param sessions: where sessions are kept for resumption; one for all, if not given.
        @raise ConfigurationError: this does not fit together.
        """
        self.host = ascii_host(host if server_name is None else server_name)
        self.policy = policy
        self.alpn = _wire_names(alpn)
        self.certificate = certificate
        self.verifies = not unsafe_skip_verification
        self._sessions = _SESSIONS if sessions is None else sessions
        roots = None if trust_roots is None else tuple(trust_roots)
        if roots is not None and not roots and self.verifies:
            raise ConfigurationError("trustRoots has no certificate: no server could be trusted")
        self._verifier = HostVerifier(self.host, frozenset(pins), check)
        self._context = context = _new_context(policy, (None, None), ())
        _openssl.set_signature_algorithms(context, _signature_algorithms(policy, certificate))
        _set_groups(context, policy.groups, key_shares=2)
        if certificate is not None:
            _use(context, certificate)
        if roots is None:
            context.set_default_verify_paths()
            store = context.get_cert_store()
            assert store is not None
            self._trust_store = TrustStore(store)
        else:
            self._trust_store = _trust(context, roots)
        # A context keeps no sessions of a client by itself: the store does.
        context.set_session_cache_mode(SSL.SESS_CACHE_CLIENT | SSL.SESS_CACHE_NO_INTERNAL)
        self._key_parts = (
            b"verified" if self.verifies else b"unverified",
            self.host.encode("ascii"),
            policy.name.encode("ascii"),
            b"system" if roots is None else b"".join(sorted(map(_fingerprint, roots))),
            b"none" if certificate is None else _fingerprint(certificate.leaf),
            b"".join(sorted(pin.digest for pin in self._verifier.pins)),
            # A callable cannot be compared: whoever has one does not share sessions.
            b"" if check is None else secrets.token_bytes(16),
        )

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """A new connection, for this protocol."""
        connection = SSL.Connection(self._context)
        connection.set_connect_state()
        if not is_ip_address(self.host):
            # RFC 6066, section 3: an IP address is no server name.
            connection.set_tlsext_host_name(self.host.encode("ascii"))
        alpn = acceptable_protocols(tlsProtocol, self.alpn)
        if alpn:
            connection.set_alpn_protos(list(alpn))
        if self.verifies:
            set_verification(connection, SSL.VERIFY_PEER, self._verifier, self._judge_again)
        else:
            connection.set_verify(SSL.VERIFY_NONE)
        key = self._session_key(alpn)
        session = self._sessions.take(key)
        if session is not None:
            connection.set_session(session)
        keep_session(connection, self._keeper(key))
        return connection

    def _session_key(self, alpn: Sequence[bytes]) -> bytes:
        """By name and trust: a session of another would skip what its verification looks at."""
        digest = hashlib.sha256()
        for part in (*self._key_parts, *alpn):
            digest.update(len(part).to_bytes(4, "big") + part)
        return digest.digest()

    def _keeper(self, key: bytes) -> Callable[[SSL.Session], None]:
        store = self._sessions

        def keep(session: SSL.Session) -> None:
            store.put(key, session)

        return keep

    def _judge_again(self, chain: Sequence[x509.Certificate]) -> None:
        """A resumed session: OpenSSL has verified nothing."""
        self._trust_store.verify(chain)
        self._verifier(chain)


def _fingerprint(certificate: x509.Certificate) -> bytes:
    return certificate.fingerprint(SHA256())
