"""
What the user asks for, as connections of OpenSSL.

L{ServerOptions} and L{ClientOptions} are what a L{TLSConnectorFactory} is made with.  Both are
secure as they come: the peer of a client is verified, versions and ciphers are a named policy's,
sessions resume and are judged again when they do, as far as anything may have changed.  What is
unsafe has a name that says so.
"""

from __future__ import annotations

import copy
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, Self
from weakref import WeakKeyDictionary, WeakValueDictionary

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from zope.interface import implementer

from . import _openssl
from ._contexts import (
    TLSMethod,
    ascii_host,
    new_context,
    set_groups,
    signature_algorithms,
    trust,
    use_certificate,
    wire_names,
)
from ._creators import (
    CompleteOptions,
    acceptable_protocols,
    new_connection,
    select_protocol,
)
from ._held import Held, held_by
from ._openssl import keep_session
from ._realm import Realm, ServerSettings
from ._sessions import SessionStore
from ._upkeep import Upkeep
from ._verification import Check, verification_of
from .certificates.loading import CertifiedKey
from .certificates.revocation import TrustFiles, policy_of
from .certificates.source import CertificateSource, Choice, Found
from .client_policy import ClientCertificate, ClientPolicy, CRLMode
from .errors import ConfigurationError, UsageError
from .hello import ClientHello
from .policy import INTERMEDIATE, Policy
from .verify import HostVerifier, Pin, TrustStore, is_ip_address

__all__ = [
    "CRLMode",
    "ClientCertificate",
    "ClientOptions",
    "ClientPolicy",
    "ServerOptions",
    "SessionStore",
    "TLSMethod",
    "UnknownName",
    "ascii_host",
]


ACME_TLS = b"acme-tls/1"
"""The protocol by which an authority sees that a name is ours: RFC 8737, section 6.2."""


class UnknownName(Enum):
    """What becomes of a client that asks for a name which a server has no certificate for."""

    DEFAULT = "default"
    """It gets the default certificate, and judges for itself."""
    ALERT = "alert"
    """It is told by the alert C{unrecognized_name} (RFC 6066, section 3)."""
    CLOSE = "close"
    """The connection is closed without a word."""


@implementer(IOpenSSLServerConnectionCreator)
class ServerOptions(CompleteOptions):
    """
    What a server offers, and whom it lets in.

    @ivar holds_name: whether a client has to keep to the name that its first hello asks for, for
        something else than the certificate was chosen by it.
    """

    holds_name = False

    def __init__(
        self,
        certificate: CertifiedKey | CertificateSource,
        *,
        policy: Policy = INTERMEDIATE,
        alpn: Iterable[bytes] = (),
        client_authorities: Iterable[x509.Certificate] = (),
        client_certificate: ClientCertificate | None = None,
        check: Check | None = None,
        clients: ClientPolicy | TrustFiles | None = None,
        unknown_name: UnknownName = UnknownName.DEFAULT,
        versions: TLSMethod = (None, None),
        dh_parameters: str | None = None,
    ) -> None:
        """
        @param certificate: the server's certificate, its chain and its key; or where to get one for
            each connection.  A source is started and stopped with the ports that use it; where TLS
            begins by C{startTLS}, on somebody else's port, call C{upkeep.start(reactor)}.
        @param policy: versions, ciphers, groups and signature algorithms.
        @param alpn: protocol names, best first; the application's own where there are none.
        @param client_authorities: who signs the certificates of clients.
        @param client_certificate: whether clients need one; by default they do if there are
            C{client_authorities}.
        @param check: asked about a client's chain, leaf first, when it has been found good; it
            raises to refuse.  A client that shows no certificate is none of its concern.
        @param clients: in place of the last three, all that is asked of clients' certificates; or
            the files where it is kept, which are then watched as long as a port is open.
        @param unknown_name: what becomes of a client that asks for a name which the source does
            not have.
        @param versions: the oldest and newest TLS version, to narrow what the policy has.
        @param dh_parameters: the name of a PEM file; it brings the C{DHE} ciphers of TLS 1.2.
        @raise ConfigurationError: this does not fit together, or OpenSSL refuses the certificate.
        """
        self.policy = policy
        self.alpn = wire_names(alpn)
        self.unknown_name = unknown_name
        authorities = tuple(client_authorities)
        if clients is None:
            if client_certificate is None:
                client_certificate = (
                    ClientCertificate.REQUIRE if authorities else ClientCertificate.NONE
                )
            clients = ClientPolicy(client_certificate, authorities, check=check)
        elif authorities or client_certificate is not None or check is not None:
            raise ConfigurationError(
                "clients excludes client_authorities, client_certificate and check: it has them"
            )
        self._trust = clients if isinstance(clients, TrustFiles) else None
        self._clients = clients = policy_of(clients)
        self.upkeep = Upkeep(self)
        self._settings = ServerSettings(policy, versions, dh_parameters, self._select_protocol)
        self._realms: WeakKeyDictionary[ClientPolicy, Realm] = WeakKeyDictionary()
        self._realm = self._realm_of(clients)
        self._source: CertificateSource | None = None
        self._certificate: CertifiedKey | None = None
        if isinstance(certificate, CertifiedKey):
            self.use(certificate)
        else:
            self._source = certificate
            first = certificate.only
            default = certificate.default(ClientHello())
            if first is None and default is not None:
                first = default.certificate
            if first is not None:
                # What can be seen to be wrong now is not to be seen with each connection.
                self._realm.context(first)

    @property
    def trust(self) -> TrustFiles | None:
        """The files of what is asked of clients' certificates, where it comes from files."""
        return self._trust

    @property
    def source(self) -> CertificateSource | None:
        """Where certificates come from; L{None} where there is one that was given."""
        return self._source

    @property
    def certificate(self) -> CertifiedKey:
        """
        The certificate for clients that ask for no name.

        @raise UsageError: there is none just now.
        """
        found = self._certificate
        if self._source is not None:
            default = self._source.default(ClientHello())
            found = self._source.only or (None if default is None else default.certificate)
        if found is None:
            raise UsageError("there is no certificate for clients that ask for no name")
        return found

    @property
    def clients(self) -> ClientPolicy:
        """
        What is asked of clients' certificates.  Another policy holds for all new connections, and
        no session that was agreed on under the old one is resumed.
        """
        return self._clients

    @clients.setter
    def clients(self, clients: ClientPolicy) -> None:
        self._realm = self._realm_of(clients)
        self._clients = clients

    def for_clients(self, clients: ClientPolicy | TrustFiles) -> Self:
        """
        The same for others: all that a server has but what is asked of clients' certificates.  No
        session that was agreed on by these options is resumed by those, nor the other way round.

        @param clients: as for L{__init__}.
        """
        other = copy.copy(self)
        other._trust = clients if isinstance(clients, TrustFiles) else None
        other._clients = policy_of(clients)
        other.upkeep = Upkeep(other)
        other._settings = attrs.evolve(self._settings, select_protocol=other._select_protocol)
        other._realms = WeakKeyDictionary()
        other._realm = other._realm_of(other._clients)
        return other

    def use(self, certificate: CertifiedKey) -> None:
        """
        Serve another certificate from now on.

        Connections that are there go on, and sessions go on to be resumed.

        @raise ConfigurationError: OpenSSL or the policy refuses it; the old one stays.
        """
        self._realm.context(certificate)
        self._certificate, self._source = certificate, None
        self.upkeep.let_go()

    def renew_ticket_keys(self) -> None:
        """
        Begin anew with keys for session tickets.  What was agreed on before is not resumed.
        """
        self._realms = WeakKeyDictionary()
        self._realm = self._realm_of(self._clients)

    def make_ticket_keys(self) -> None:
        """
        Make the keys for session tickets now, rather than with the first connection: processes that
        are forked from here on have the same ones, and resume each other's sessions.
        """
        self._realm.make_base()
        for each in () if self._source is None else self._source.policies:
            self._realm_of(policy_of(each)).make_base()

    def _realm_of(self, clients: ClientPolicy) -> Realm:
        realm = self._realms.get(clients)
        if realm is None:
            realm = self._realms[clients] = Realm(self._settings, clients)
        return realm

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """
        A new connection, for this protocol.

        @raise UsageError: which certificate it gets is for the client's hello to say, and nobody
            has read it.
        """
        if self.reads_hello:
            what = "a rule asks" if self._source is None else "a certificate is chosen"
            raise UsageError(f"{what} by the client's hello: use TLSConnectorFactory")
        certificate = self._certificate
        if self._source is not None:
            certificate = self._source.only
        assert certificate is not None
        return self._realm.connection(certificate, tlsProtocol)

    # By the hello

    @property
    def reads_hello(self) -> bool:  # type: ignore[override]
        """Whether the client's hello has to be read before there is a connection."""
        source, rules = self._source, self._clients.rules
        if self.holds_name or (rules is not None and rules.needs_name):
            # Not OpenSSL's word for the name: of a session that is offered under another one, it
            # tells the name that it was agreed on with.
            return True
        return source is not None and (
            source.only is None or self.unknown_name is not UnknownName.DEFAULT
        )

    def choose(self, hello: ClientHello) -> Found | Deferred[Found]:
        """
        What a client gets.

        @return: L{None} for one whose name is unknown and that is to be told so, or for which there
            is nothing at all.
        """
        if self._source is None:
            assert self._certificate is not None
            # One alone, which every client gets: it is a rule that wants to know the hello.
            return self._chosen(Choice(self._certificate), hello)
        found = self._source.find(hello)
        if isinstance(found, Deferred):
            return found.addCallback(self._chosen, hello)
        return self._chosen(found, hello)

    def _chosen(self, found: Found, hello: ClientHello) -> Found:
        if hello.alpn == (ACME_TLS,) and (found is None or found.alpn != ACME_TLS):
            # RFC 8737, section 3: such a handshake proves something, or it is none.
            return None
        if found is not None or self._source is None:
            return found
        if hello.server_name is not None and self.unknown_name is not UnknownName.DEFAULT:
            return None
        return self._source.default(hello)

    def connection_for(
        self, choice: Choice, hello: ClientHello, tlsProtocol: Any
    ) -> SSL.Connection:
        """
        A new connection, for what was chosen.

        @raise ConfigurationError: OpenSSL or the policy refuses the certificate.
        """
        clients = choice.clients
        realm = self._realm if clients is None else self._realm_of(clients)
        held = Held(hello.server_name, choice.alpn)
        return realm.connection(choice.certificate, tlsProtocol, held)

    def refusing_connection(self, tlsProtocol: Any) -> SSL.Connection:
        """
        A connection without a certificate: it knows better than we do what is wrong with a hello
        that cannot be read, and lets nobody in.
        """
        connection = new_connection(SSL.Context(SSL.TLS_METHOD), tlsProtocol)
        connection.set_app_data(tlsProtocol)
        connection.set_accept_state()
        return connection

    def _select_protocol(self, connection: SSL.Connection, offered: list[bytes]) -> Any:
        held = held_by(connection)
        if held is not None and held.alpn is not None:
            return select_protocol((held.alpn,), offered)
        names = self.alpn or acceptable_protocols(connection.get_app_data())
        return select_protocol(names, offered)


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
        self.alpn = wire_names(alpn)
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
        context = new_context(policy, (None, None), ())
        _openssl.set_signature_algorithms(context, signature_algorithms(policy, certificate))
        set_groups(context, policy.groups, key_shares=2)
        if certificate is not None:
            use_certificate(context, certificate)
        if roots is None:
            context.set_default_verify_paths()
        else:
            trust(roots, context.get_cert_store())
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
        connection = new_connection(self._context, tlsProtocol)
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
