"""
The connections of one client policy: what they begin on, and whom they let in.

pyOpenSSL refuses to change a context that has made a connection, so a new certificate is a new
context.  Session tickets belong to the context that a connection began with, so that one stays: the
base of a L{Realm}.  Each connection begins on it and has its certificate's context swapped in.

What is asked of a client's certificate does not come with a context that is swapped in, and a
session that was agreed on where nothing is asked would be resumed where much is.  So each client
policy is a realm, with a base of its own; and where what it goes by has changed, it is another
realm.  No realm takes a ticket of another's.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from weakref import ref

import attrs
from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509Store

from . import _openssl
from ._admission import rules_check
from ._contexts import (
    DHE_CIPHERS,
    DHE_GROUPS,
    TLSMethod,
    load_dh_parameters,
    new_context,
    set_groups,
    signature_algorithms,
    trust,
    use_certificate,
)
from ._creators import new_connection
from ._held import Held, hold
from ._revocation import Revocation
from ._verification import Check, tolerate_anything
from .access import Rules
from .certificates.loading import CertifiedKey, issued
from .client_policy import ClientCertificate, ClientPolicy
from .errors import UsageError
from .policy import Policy
from .verify import TrustStore

__all__ = ["Realm", "ServerSettings"]

_VERIFY_MODES = {
    ClientCertificate.REQUEST: SSL.VERIFY_PEER,
    ClientCertificate.REQUIRE: SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
    ClientCertificate.VERIFY_IF_GIVEN: SSL.VERIFY_PEER,
}

_KEPT_ISSUERS = 1024
"""How many names of issuers a server remembers for L{Issuers}."""

KEPT_CONTEXTS = 4096
"""How many certificates have a context at a time; the least recently used are made again."""

SelectProtocol = Callable[[SSL.Connection, list[bytes]], Any]
"""Chooses an ALPN name out of those that a client offers."""


@attrs.frozen
class ServerSettings:
    """
    What all contexts of a server have in common.

    @ivar policy: versions, ciphers, groups and signature algorithms.
    @ivar versions: the oldest and newest TLS version, to narrow what the policy has.
    @ivar dh_parameters: the name of a PEM file; it brings the C{DHE} ciphers of TLS 1.2.
    @ivar select_protocol: chooses the ALPN name.
    """

    policy: Policy
    versions: TLSMethod
    dh_parameters: str | None
    select_protocol: SelectProtocol


class Issuers:
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


class Realm:
    """
    The connections of one client policy.
    """

    def __init__(self, settings: ServerSettings, clients: ClientPolicy) -> None:
        # Not the policy itself: realms are kept for as long as that is in use.
        self._settings = settings
        self._mode = clients.mode
        self._check = clients.check
        self._rules = clients.rules
        self._authorities = clients.authorities
        self._revocation = Revocation(clients) if clients.crls else None
        self._session_id = secrets.token_bytes(16)
        self._issuers = Issuers()
        self._trust_store = TrustStore(trust(clients.authorities))
        self._base: SSL.Context | None = None
        self._store: X509Store | None = None
        self._contexts: OrderedDict[int, tuple[ref[CertifiedKey], SSL.Context]] = OrderedDict()
        self._tolerates = tolerate_anything if self._mode is ClientCertificate.REQUEST else None
        if self._revocation is not None:
            self._tolerates = self._revocation.tolerates

    def context(self, certificate: CertifiedKey) -> SSL.Context:
        """
        The context of a certificate.

        @raise ConfigurationError: OpenSSL or the policy refuses the certificate.
        """
        # By identity: to compare chains would cost more than the look-up.
        contexts, key = self._contexts, id(certificate)
        known = contexts.get(key)
        if known is not None and known[0]() is certificate:
            contexts.move_to_end(key)
            return known[1]
        context = self._make_context(certificate)
        if len(contexts) >= KEPT_CONTEXTS:
            contexts.popitem(last=False)

        def forget(_: object) -> None:
            # The number is nobody else's as long as this is called.
            contexts.pop(key, None)

        contexts[key] = ref(certificate, forget), context
        if self._base is None:
            self._base = context
        return context

    def make_base(self) -> None:
        """
        Make the base now, rather than with the first certificate: all processes that are forked
        from here on have the same keys for session tickets.
        """
        if self._base is None:
            self._base = self._make_context(None)

    def connection(
        self, certificate: CertifiedKey, protocol: Any, held: Held | None = None
    ) -> SSL.Connection:
        """
        A new connection.

        @param protocol: its TLS protocol.
        @param held: what its client hello has decided.
        @raise ConfigurationError: as L{context} does.
        """
        context = self.context(certificate)
        base = self._base or context
        connection = new_connection(base, protocol)
        connection.set_app_data(protocol)
        connection.set_accept_state()
        if held is not None:
            hold(connection, held)
        if context is not base:
            connection.set_context(context)
        mode = _VERIFY_MODES.get(self._mode)
        judge: Check = self._judge
        again: Check = self._judge_again
        if self._rules is not None:
            judge, again = self._by_rules(self._rules, protocol)
        if mode is not None:
            _openssl.set_verification(connection, mode, judge, again, self._tolerates)
        return connection

    def _by_rules(self, rules: Rules, protocol: Any) -> tuple[Check, Check]:
        """
        Have rules decide too, on one connection.
        """
        if hasattr(protocol, "rules"):
            # For those who show no certificate: OpenSSL asks nobody about them.
            protocol.rules = rules
        elif self._mode is not ClientCertificate.REQUIRE:
            raise UsageError(
                "allow= lets in some who show no certificate: use TLSConnectorFactory,"
                " which asks about them"
            )
        decide = rules_check(rules, protocol)

        def judge(chain: Sequence[x509.Certificate]) -> None:
            self._judge(chain)
            decide(chain)

        def again(chain: Sequence[x509.Certificate]) -> None:
            decide(self._judge_again(chain))

        return judge, again

    def _make_context(self, certificate: CertifiedKey | None) -> SSL.Context:
        settings = self._settings
        policy, dh_parameters = settings.policy, settings.dh_parameters
        with_dhe = dh_parameters is not None
        context = new_context(policy, settings.versions, DHE_CIPHERS if with_dhe else ())
        set_groups(context, policy.groups + (DHE_GROUPS if with_dhe else ()))
        if certificate is not None:
            _openssl.set_signature_algorithms(context, signature_algorithms(policy, certificate))
            use_certificate(context, certificate)
        if dh_parameters is not None:
            load_dh_parameters(context, dh_parameters)
        # The cache is for clients of TLS 1.2 that take no tickets, such as curl 7.88.  OpenSSL
        # bounds it to 20,480 sessions, and puts none in for which it has sent a ticket.
        context.set_session_id(self._session_id)
        context.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
        context.set_alpn_select_callback(settings.select_protocol)
        _openssl.hold_names(context)
        if self._authorities:
            if self._store is None or not _openssl.share_store(context, self._store):
                # Lists may be large, and there may be a context for each of many names.
                store = trust(self._authorities, context.get_cert_store())
                if self._revocation is not None:
                    self._revocation.watch(store)
                self._store = store
            for each in self._authorities:
                context.add_client_ca(each)
        return context

    def _judge(self, chain: Sequence[x509.Certificate]) -> None:
        if self._revocation is not None:
            self._revocation.refuse_listed(chain)
        if self._check is not None:
            self._check(chain)
        self._issuers.remember(chain[1:])

    def _judge_again(self, chain: Sequence[x509.Certificate]) -> Sequence[x509.Certificate]:
        """A resumed session: OpenSSL has verified nothing, and only the leaf is left."""
        chain = [*chain, *self._issuers.of(chain[0])]
        if self._mode is not ClientCertificate.REQUEST:
            chain = self._trust_store.verify(chain)
            if self._revocation is not None:
                self._revocation.check(chain)
        self._judge(chain)
        return chain
