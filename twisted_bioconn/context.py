"""
What the user asks for, as connections of OpenSSL.

L{ServerOptions} and L{ClientOptions} are what a L{TLSConnectorFactory} is made with.  Both are
secure as they come: the peer of a client is verified, versions and ciphers are a named policy's,
sessions resume and are judged again when they do, as far as anything may have changed.  What is
unsafe has a name that says so.

pyOpenSSL refuses to change a context that has made a connection, so a new certificate is a new
context.  Session tickets belong to the context that a connection began with, so that one stays:
each connection begins on the base and has the certificate's context swapped in.
"""

from __future__ import annotations

import copy
import hashlib
import ipaddress
import os
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, Self
from weakref import WeakValueDictionary

import attrs
import idna
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreFlags
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from zope.interface import implementer

from . import _openssl
from ._creators import CompleteOptions, acceptable_protocols, select_protocol
from ._openssl import keep_session
from ._sessions import SessionStore
from ._verification import Check, verification_of
from .certificates.loading import CertifiedKey, issued, read_file
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

_DHE_GROUPS = ("ffdhe2048", "ffdhe3072")
"""
Where a client names groups of this kind, a server that has none of them may not use C{DHE} at all,
whatever parameters it has: RFC 7919, section 4.
"""

_KEPT_ISSUERS = 1024
"""How many names of issuers a server remembers for L{_Issuers}."""

_NO_AUTO_CHAIN = 0x8
"""
SSL_MODE_NO_AUTO_CHAIN, which pyOpenSSL has no name for (SSL_CTX_set_mode(3)): what is sent is the
chain that was given.  Without it OpenSSL builds one out of whom we trust, roots and all.
"""

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\Z")
"""Labels and their lengths by RFC 1035, section 2.3.4; underscores are in use, whatever it says."""


def ascii_host(host: str) -> str:
    """
    A host name or an IP address as it stands in a certificate and in a client hello.

    @raise ConfigurationError: it is no host name.
    """
    if is_ip_address(host):
        return str(ipaddress.ip_address(host))
    name = host.removesuffix(".").lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii").removesuffix(".")
        except idna.IDNAError as error:
            raise ConfigurationError(f"{host!r} is no host name: {error}") from None
    if is_ip_address(name):
        return name
    if not _HOST_NAME.match(name):
        raise ConfigurationError(f"{host!r} is no host name")
    return name


def _new_context(policy: Policy, versions: TLSMethod, extra_ciphers: Sequence[str]) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    oldest, newest = _narrowed(policy, versions)
    context.set_min_proto_version(oldest)
    context.set_max_proto_version(newest)
    context.set_mode(_NO_AUTO_CHAIN)
    ciphers = (*policy.ciphers_tls12, *extra_ciphers)
    if ciphers:
        context.set_cipher_list(":".join(ciphers).encode("ascii"))
    context.set_tls13_ciphersuites(":".join(policy.ciphersuites_tls13).encode("ascii"))
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    if policy.server_preference:
        context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    return context


def _narrowed(policy: Policy, versions: TLSMethod) -> tuple[int, int]:
    oldest = max(policy.minimum_version, versions[0] or 0)
    newest = min(policy.maximum_version, versions[1] or policy.maximum_version)
    if oldest > newest:
        raise ConfigurationError(
            f"policy={policy.name} and the given TLS versions have no version in common"
        )
    return oldest, newest


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
    if not known:
        raise ConfigurationError(f"this OpenSSL knows none of the groups {', '.join(groups)}")
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
        raise ConfigurationError(f"OpenSSL refuses the certificate or its key: {reasons}") from None


def _trust(context: SSL.Context, authorities: Iterable[x509.Certificate]) -> TrustStore:
    """
    Make a context trust these and nobody else.

    Each of them is an end of a chain, an intermediate too: whoever lists one means just that one.
    """
    store = context.get_cert_store()
    assert store is not None
    store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
    for certificate in authorities:
        store.add_cert(X509.from_cryptography(certificate))
    return TrustStore(store)


def _take_note(_: SSL.Connection) -> None:
    """The client has asked for a server by name: any name will do."""


def _wire_names(alpn: Iterable[bytes]) -> tuple[bytes, ...]:
    names = tuple(alpn)
    for name in names:
        if not isinstance(name, bytes) or not 0 < len(name) < 256:
            raise ConfigurationError(f"{name!r} is no ALPN name: RFC 7301 has 1 to 255 bytes")
    return names


def _load_dh_parameters(context: SSL.Context, path: str) -> None:
    try:
        read_file(path)
        context.load_tmp_dh(path)
    except ConfigurationError as error:
        raise ConfigurationError(f"dhParameters: {error}") from None
    except SSL.Error as error:
        reasons = {reason for _, _, reason in error.args[0] or ()}
        raise ConfigurationError(
            f"dhParameters: the parameters in {path} are too short to be secure"
            if "dh key too small" in reasons
            else f"dhParameters: {path} has no Diffie-Hellman parameters in PEM"
        ) from None


class _Issuers:
    """
    Who signed for the clients that were let in.

    A session that a server resumes has the client's leaf alone, which may not lead to an authority
    without the intermediates that came with it the first time.
    """

    def __init__(self) -> None:
        self._by_name: OrderedDict[bytes, tuple[x509.Certificate, ...]] = OrderedDict()

    def remember(self, issuers: Iterable[x509.Certificate]) -> None:
        """Keep these; the least recently used are forgotten."""
        for each in issuers:
            name = each.subject.public_bytes()
            known = self._by_name.pop(name, ())
            self._by_name[name] = known if each in known else (each, *known[:3])
        while len(self._by_name) > _KEPT_ISSUERS:
            self._by_name.popitem(last=False)

    def of(self, leaf: x509.Certificate) -> list[x509.Certificate]:
        """Those who may lead from this leaf to an authority."""
        found: list[x509.Certificate] = []
        wanted = [leaf]
        while wanted:
            certificate = wanted.pop()
            known = self._by_name.get(certificate.issuer.public_bytes(), ())
            new = [each for each in known if each not in found and issued(each, certificate)]
            found += new
            wanted += new
        return found


@implementer(IOpenSSLServerConnectionCreator)
class ServerOptions(CompleteOptions):
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
            raises to refuse.  A client that shows no certificate is none of its concern.
        @param versions: the oldest and newest TLS version, to narrow what the policy has.
        @param dh_parameters: the name of a PEM file; it brings the C{DHE} ciphers of TLS 1.2.
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
        if check is not None and client_certificate is ClientCertificate.NONE:
            raise ConfigurationError(
                "a check of client certificates needs client authorities: it would never be asked"
            )
        self.client_certificate = client_certificate
        self._check = check
        self._versions = versions
        self._dh_parameters = dh_parameters
        self._session_id = secrets.token_bytes(16)
        self._issuers = _Issuers()
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
        with_dhe = self._dh_parameters is not None
        context = _new_context(policy, self._versions, _DHE_CIPHERS if with_dhe else ())
        _openssl.set_signature_algorithms(context, _signature_algorithms(policy, certificate))
        _set_groups(context, policy.groups + (_DHE_GROUPS if with_dhe else ()))
        _use(context, certificate)
        if self._dh_parameters is not None:
            _load_dh_parameters(context, self._dh_parameters)
        # The cache is for clients of TLS 1.2 that take no tickets, such as curl 7.88.  OpenSSL
        # bounds it to 20,480 sessions, and puts none in for which it has sent a ticket.
        context.set_session_id(self._session_id)
        context.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
        context.set_alpn_select_callback(self._select_protocol)
        # Only a name that was taken note of is kept with the session, and known when TLS 1.2
        # resumes.
        context.set_tlsext_servername_callback(_take_note)
        if self.client_authorities:
            store = _trust(context, self.client_authorities)
            self._trust_store = self._trust_store or store
            for each in self.client_authorities:
                context.add_client_ca(each)
        return context

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """A new connection, for this protocol."""
        connection = SSL.Connection(self._base)
        connection.set_app_data(tlsProtocol)
        connection.set_accept_state()
        if self._context is not self._base:
            connection.set_context(self._context)
        mode = _VERIFY_MODES.get(self.client_certificate)
        if mode is not None:
            _openssl.set_verification(connection, mode, self._judge, self._judge_again)
        return connection

    def _select_protocol(self, connection: SSL.Connection, offered: list[bytes]) -> Any:
        names = self.alpn or acceptable_protocols(connection.get_app_data())
        return select_protocol(names, offered)

    def _judge(self, chain: Sequence[x509.Certificate]) -> None:
        if self._check is not None:
            self._check(chain)
        self._issuers.remember(chain[1:])

    def _judge_again(self, chain: Sequence[x509.Certificate]) -> None:
        """A resumed session: OpenSSL has verified nothing, and only the leaf is left."""
        assert self._trust_store is not None
        self._judge(self._trust_store.verify([*chain, *self._issuers.of(chain[0])]))


_SESSIONS = SessionStore()

_VERDICT = "_bioconn_verdict"
"""Where a session has the verdict on the peer that it was agreed on with."""


class _Verdict:
    """
    The verification of a peer, which stays good for the sessions that were agreed on with it.
    """

    __slots__ = ("_changes", "_good_until", "_shared", "_verifier")

    def __init__(
        self, verifier: HostVerifier, shared: _Shared, known: _Verdict | None = None
    ) -> None:
        """
        @param known: the verdict of an earlier connection, whose session is to be resumed.
        """
        self._verifier = verifier
        self._shared = shared
        self._good_until: float = 0.0 if known is None else known._good_until
        self._changes: int = 0 if known is None else known._changes

    def __call__(self, chain: Sequence[x509.Certificate]) -> None:
        self._verifier(chain)
        # The first of its certificates that expires.
        self._good_until = min(each.not_valid_after_utc.timestamp() for each in chain)
        self._changes = self._shared.trust_store.changes

    def again(self, chain: Sequence[x509.Certificate]) -> None:
        """A resumed session: OpenSSL has verified nothing."""
        self(self._shared.trust_store.verify(chain))

    def is_good(self) -> bool:
        """
        Whether there is nothing to look at again: the host, the pins and whom to trust are the same
        for all who may have the session, but time goes on, and a callable may say something else.
        """
        return (
            self._verifier.check is None
            and self._changes == self._shared.trust_store.changes
            and time.time() < self._good_until
        )


@attrs.frozen(eq=False, weakref_slot=True)
class _Shared:
    """What all options of one trust share."""

    context: SSL.Context
    trust_store: TrustStore


_CLIENT_CONTEXTS: WeakValueDictionary[bytes, _Shared] = WeakValueDictionary()
"""By trust, what some options or some session have in use."""


@implementer(IOpenSSLClientConnectionCreator)
class ClientOptions(CompleteOptions):
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
        @param alpn: protocol names to offer, best first; the application's own where there are
            none.
        @param certificate: our own, for a server that wants one.
        @param pins: the server's key must be one of these; empty for any.
        @param check: asked about the server's chain, leaf first, when it has been found good; it
            raises to refuse.
        @param unsafe_skip_verification: take whatever certificate the server shows.  Anybody on
            the way can then read and change everything.
        @param sessions: where sessions are kept for resumption; if not given, one store for all
            that have no C{check}.
        @raise ConfigurationError: this does not fit together.
        """
        self.host = ascii_host(host if server_name is None else server_name)
        self._host_is_address = is_ip_address(self.host)
        self._keys: dict[tuple[bytes, ...], bytes] = {}
        self.policy = policy
        self.alpn = _wire_names(alpn)
        self.certificate = certificate
        self.verifies = not unsafe_skip_verification
        if sessions is None:
            # Nobody else can use the sessions of one who has a check of its own (below), and each
            # keeps its context: they go with the options.
            sessions = _SESSIONS if check is None else SessionStore()
        self._sessions = sessions
        roots = None if trust_roots is None else tuple(trust_roots)
        self._verifier = HostVerifier(self.host, frozenset(pins), check)
        if not self.verifies and (roots is not None or self._verifier.pins or check is not None):
            raise ConfigurationError(
                "unsafe_skip_verification takes any certificate:"
                " trust roots, pins and a check mean nothing then"
            )
        if roots is not None and not roots:
            raise ConfigurationError("trustRoots has no certificate: no server could be trusted")
        # By trust: a session of another would skip what its verification looks at.
        self._trust_key = _digest(
            b"verified" if self.verifies else b"unverified",
            repr(policy).encode("utf-8"),
            _system_roots() if roots is None else b"".join(sorted(map(_fingerprint, roots))),
            b"".join(map(_fingerprint, () if certificate is None else certificate.chain)),
            b"".join(sorted(pin.digest for pin in self._verifier.pins)),
            # A callable cannot be compared: whoever has one does not share sessions.
            b"" if check is None else secrets.token_bytes(16),
        )
        # A session is good for its own context alone: those who share sessions share that.
        shared = _CLIENT_CONTEXTS.get(self._trust_key)
        if shared is None:
            context = self._make_context(roots)
            store = context.get_cert_store()
            assert store is not None
            shared = _CLIENT_CONTEXTS[self._trust_key] = _Shared(context, TrustStore(store))
        self._shared = shared
        self._context, self._trust_store = shared.context, shared.trust_store

    def _make_context(self, roots: Iterable[x509.Certificate] | None) -> SSL.Context:
        policy, certificate = self.policy, self.certificate
        context = _new_context(policy, (None, None), ())
        _openssl.set_signature_algorithms(context, _signature_algorithms(policy, certificate))
        _set_groups(context, policy.groups, key_shares=2)
        if certificate is not None:
            _use(context, certificate)
        if roots is None:
            context.set_default_verify_paths()
        else:
            _trust(context, roots)
        # A context keeps no sessions of a client by itself: the store does.
        context.set_session_cache_mode(SSL.SESS_CACHE_CLIENT | SSL.SESS_CACHE_NO_INTERNAL)
        return context

    def for_host(self, host: str) -> Self:
        """
        The same for another host.  It shares the context: to make one of the system's trust roots
        costs more than a handshake, in time and in memory.

        @raise ConfigurationError: it is no host name.
        """
        other = copy.copy(self)
        other.host = ascii_host(host)
        other._host_is_address = is_ip_address(other.host)
        other._keys = {}
        other._verifier = attrs.evolve(self._verifier, host=other.host)
        return other

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """A new connection, for this protocol."""
        connection = SSL.Connection(self._context)
        connection.set_app_data(tlsProtocol)
        connection.set_connect_state()
        if not self._host_is_address:
            # RFC 6066, section 3: an IP address is no server name.
            connection.set_tlsext_host_name(self.host.encode("ascii"))
        alpn = self.alpn or acceptable_protocols(tlsProtocol)
        if alpn:
            connection.set_alpn_protos(list(alpn))
        key = self._keys.get(alpn)
        if key is None:
            key = self._keys[alpn] = _digest(self._trust_key, self.host.encode("ascii"), *alpn)
        session = self._sessions.take(key)
        known: _Verdict | None = getattr(session, _VERDICT, None)
        is_known = known is not None and known.is_good()
        # One of its own for each connection: a server that does not resume may show another chain.
        verdict = _Verdict(self._verifier, self._shared, known if is_known else None)
        if self.verifies:
            _openssl.set_verification(connection, SSL.VERIFY_PEER, verdict, verdict.again)
            verification = verification_of(connection)
            assert verification is not None
            verification.is_known = is_known
        else:
            connection.set_verify(SSL.VERIFY_NONE)
        if session is not None:
            connection.set_session(session)
        keep_session(connection, self._keeper(key, verdict))
        return connection

    def _keeper(self, key: bytes, verdict: _Verdict) -> Callable[[SSL.Session], None]:
        store = self._sessions

        def keep(session: SSL.Session) -> None:
            setattr(session, _VERDICT, verdict)
            store.put(key, session)

        return keep


def _system_roots() -> bytes:
    """Which of the system's trust roots OpenSSL takes: SSL_CTX_set_default_verify_paths(3)."""
    places = (os.environ.get(name, "") for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    return os.fsencode("\0".join(["system", *places]))


def _fingerprint(certificate: x509.Certificate) -> bytes:
    return certificate.fingerprint(SHA256())


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()
