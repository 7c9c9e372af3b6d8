"""
Whom a server with several rules for client certificates lets in: every rule with every other, full
and resumed, TLS 1.2 and 1.3, with a second hello that asks for another name, and with what may have
changed since a session was agreed on.

The oracle is a table of a few lines, which knows nothing of sessions: a client is let in where the
rule that is in force for the name it asks for, now, lets its certificate in, now.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta
from enum import Enum
from itertools import product
from typing import Any, ClassVar

from attrs import define, evolve, fields, frozen
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL
from OpenSSL._util import lib
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from tests.context_material import certified
from tests.endpoint_material import Applications, EndpointCase
from tests.engines import on_both_engines
from tests.source_material import Told, named
from tests.tls_material import (
    DAY,
    FOR_CLIENTS,
    NOW,
    TLS12,
    TLS13,
    Party,
    authority,
    certificate,
    ec_key,
    stranger,
)
from twisted_bioconn.certificates.source import Choice
from twisted_bioconn.client_policy import ANYBODY, ClientCertificate, ClientPolicy, CRLMode
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.verify import CertificateRefused

SECRET = b"for those who were let in"
PLAIN = "plain.example"


class Since(Enum):
    """What has happened between two connections of a client."""

    NOTHING = "good"
    REVOKED = "its certificate was revoked"
    EXPIRED = "its certificate has expired"
    AUTHORITY_REMOVED = "its authority was removed"
    RULE_CHANGED = "the rule does not like it any more"


class Rule(Enum):
    """What a name asks of its clients."""

    OPEN = "open.example"
    REQUEST = "request.example"
    IF_GIVEN = "given.example"
    REQUIRE = "require.example"
    REQUIRE_TOO = "too.example"


class Shown(Enum):
    """What a client shows."""

    NOTHING = "no certificate"
    GOOD = "a good certificate"
    STRANGE = "a stranger's certificate"


def revocation_list(*revoked: x509.Certificate) -> x509.CertificateRevocationList:
    """The authority's list."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority().certificate.subject)
        .last_update(NOW - DAY)
        .next_update(NOW + DAY)
    )
    for each in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(each.serial_number)
            .revocation_date(NOW - DAY)
            .build()
        )
    return builder.sign(authority().key, SHA256())


GOOD = Party(certificate("good", authority(), key=ec_key(2), usage=FOR_CLIENTS), ec_key(2))
PARTIES: dict[Shown, Party | None] = {
    Shown.NOTHING: None,
    Shown.GOOD: GOOD,
    Shown.STRANGE: stranger(),
}


@define
class World:
    """
    What a server knows, to be changed between two connections.

    @ivar liked: whether the rules like the good certificate.
    """

    liked: bool = True
    revoked: bool = False
    authority_trusted: bool = True
    expired: bool = False

    def check(self, chain: Any) -> None:
        """The rule of the names that have one: those whom it knows."""
        if chain[0] != GOOD.certificate or not self.liked:
            raise CertificateRefused("the rule does not like it")

    def policies(self) -> dict[Rule, ClientPolicy]:
        """The policies of all names."""
        trusted = authority() if self.authority_trusted else authority("others")
        authorities = (trusted.certificate,)
        lists: tuple[x509.CertificateRevocationList, ...] = (
            revocation_list(*((GOOD.certificate,) if self.revoked else ())),
        )
        if not self.authority_trusted:
            lists = ()
        strict = ClientCertificate.REQUIRE
        return {
            Rule.OPEN: ANYBODY,
            Rule.REQUEST: ClientPolicy(ClientCertificate.REQUEST, check=self.check),
            Rule.IF_GIVEN: ClientPolicy(
                ClientCertificate.VERIFY_IF_GIVEN, authorities, lists, check=self.check
            ),
            Rule.REQUIRE: ClientPolicy(strict, authorities, lists, check=self.check),
            Rule.REQUIRE_TOO: ClientPolicy(strict, authorities, lists, CRLMode.SOFT, self.check),
        }

    def lets_in(self, rule: Rule, shown: Shown) -> bool:
        """The oracle."""
        if rule is Rule.OPEN:
            return True
        if shown is Shown.NOTHING:
            return rule in (Rule.REQUEST, Rule.IF_GIVEN)
        if shown is Shown.STRANGE or not self.liked:
            return False
        if rule is Rule.REQUEST:
            # Nothing is verified there: the verdict is the rule's alone.
            return True
        return self.authority_trusted and not self.revoked and not self.expired


@frozen
class Came:
    """
    What became of a connection.

    @ivar received: what the client was sent by the application.
    @ivar session: what the client could resume.
    """

    let_in: bool
    received: bytes
    resumed: bool
    session: SSL.Session | None


class Visitor:
    """A client that does what OpenSSL lets it do, well-behaved or not."""

    def __init__(
        self,
        version: int,
        shown: Shown,
        first: Rule,
        second: Rule | None = None,
        context: SSL.Context | None = None,
    ) -> None:
        self._second = second
        if context is None:
            context = SSL.Context(SSL.TLS_METHOD)
            context.set_min_proto_version(version)
            context.set_max_proto_version(version)
            party = PARTIES[shown]
            if party is not None:
                context.use_certificate(party.certificate)
                context.use_privatekey(party.key)
        self.context = context
        self.connection = SSL.Connection(context)
        self.connection.set_connect_state()
        self.connection.set_tlsext_host_name(first.value.encode())

    def change_name(self) -> None:
        """From here on ask for another name, as in a second hello."""
        if self._second is not None:
            self.connection.set_tlsext_host_name(self._second.value.encode())


class MatrixCase(EndpointCase):
    """A server with all rules."""

    def setUp(self) -> None:
        super().setUp()
        self.world = World()
        self.theirs = Applications(made=lambda it: it.transport.write(SECRET))
        self.source = Told()
        self.options = ServerOptions(self.source)
        self.listen(self.theirs, self.options)
        self.apply()

    def apply(self) -> None:
        """Have the server go by what the world is like now."""
        policies = self.world.policies()
        for rule in Rule:
            made = named(rule.value)
            self.source.answers[rule.value] = Choice(certified(made), policies[rule])

    def come(self, visitor: Visitor, session: SSL.Session | None = None) -> Came:
        """Connect, go as far as it goes, and close."""
        connection = visitor.connection
        if session is not None:
            connection.set_session(session)
        before = len(self.theirs.built)
        tls = self.arrival()
        wire = Wire(self.clock, tls)
        received = b""
        for turn in range(8):
            with contextlib.suppress(SSL.WantReadError, SSL.Error):
                connection.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                wire.put(connection.bio_read(1 << 17))
            if turn == 0:
                visitor.change_name()
            arrived = wire.take()
            if arrived:
                connection.bio_write(arrived)
            with contextlib.suppress(SSL.WantReadError, SSL.Error):
                received += connection.recv(1 << 17)
        came = Came(
            len(self.theirs.built) > before,
            received,
            bool(lib.SSL_session_reused(connection._ssl)),
            connection.get_session(),
        )
        with contextlib.suppress(SSL.Error):
            connection.shutdown()
        with contextlib.suppress(SSL.WantReadError):
            wire.put(connection.bio_read(1 << 17))
        wire.end()
        return came


class Wire:
    """The server's transport, by hand."""

    def __init__(self, clock: Any, tls: Any) -> None:
        self._clock = clock
        self._tls = tls
        self._transport = StringTransport(
            hostAddress=IPv4Address("TCP", "127.0.0.1", 443),
            peerAddress=IPv4Address("TCP", "127.0.0.1", 50000),
        )
        self._transport.abortConnection = self._transport.loseConnection  # type: ignore[method-assign]
        tls.makeConnection(self._transport)

    def put(self, data: bytes) -> None:
        if not self._transport.disconnecting:
            self._tls.dataReceived(data)
            self._clock.advance(0)

    def take(self) -> bytes:
        data: bytes = self._transport.value()
        self._transport.clear()
        return data

    def end(self) -> None:
        self._tls.connectionLost(Failure(ConnectionDone()))
        self._clock.advance(0)


@on_both_engines
class MatrixTests(MatrixCase):
    """No cell of the matrix is a way round."""

    def assertCame(self, came: Came, allowed: bool, cell: object) -> None:
        self.assertEqual((came.let_in, came.received), (allowed, SECRET if allowed else b""), cell)

    def test_full(self) -> None:
        """Each rule is applied, in a full handshake."""
        for version, rule, shown in product((TLS12, TLS13), Rule, Shown):
            came = self.come(Visitor(version, shown, rule))
            self.assertCame(came, self.world.lets_in(rule, shown), (version, rule, shown))

    def test_resumed(self) -> None:
        """
        A session that was agreed on at any name is offered at any other: whoever is not let in
        there by what the client has shown is not let in by it; and what is resumed at its own name
        does resume, so that this tests something.
        """
        resumptions = 0
        for version, at, to, shown in product((TLS12, TLS13), Rule, Rule, Shown):
            if not self.world.lets_in(at, shown):
                continue
            first = Visitor(version, shown, at)
            session = self.come(first).session
            came = self.come(Visitor(version, shown, to, context=first.context), session)
            cell = (version, at, to, shown)
            self.assertCame(came, self.world.lets_in(to, shown), cell)
            self.assertEqual(came.resumed, at is to, cell)
            resumptions += came.resumed
        self.assertGreater(resumptions, 10)

    def test_second_hello(self) -> None:
        """
        A client whose second hello asks for another name is refused, whatever the names are; one
        that asks for the same is let in or not as ever.
        """
        for first, second, shown in product(Rule, Rule, Shown):
            for resumed in (False, True):
                context = self.retrying_context(shown)
                session = None
                if resumed:
                    if not self.world.lets_in(first, shown):
                        continue
                    session = self.come(Visitor(TLS13, shown, first, context=context)).session
                came = self.come(Visitor(TLS13, shown, first, second, context), session)
                cell = (first, second, shown, resumed)
                if first is second:
                    self.assertCame(came, self.world.lets_in(first, shown), cell)
                else:
                    self.assertCame(came, False, cell)

    def retrying_context(self, shown: Shown) -> SSL.Context:
        """A client's context whose first key share no server here takes."""
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(TLS13)
        assert lib.SSL_CTX_set1_curves_list(context._context, b"ffdhe4096:P-384")
        party = PARTIES[shown]
        if party is not None:
            context.use_certificate(party.certificate)
            context.use_privatekey(party.key)
        return context

    CHANGES: ClassVar[dict[Since, dict[str, bool]]] = {
        Since.NOTHING: {},
        Since.REVOKED: {"revoked": True},
        Since.EXPIRED: {"expired": True},
        Since.AUTHORITY_REMOVED: {"authority_trusted": False},
        Since.RULE_CHANGED: {"liked": False},
    }

    def test_changed_since(self) -> None:
        """What has changed since a session was agreed on counts when it is to be resumed."""
        for version, rule, shown in product((TLS12, TLS13), Rule, Shown):
            for since, changes in self.CHANGES.items():
                self.change()
                if not self.world.lets_in(rule, shown):
                    continue
                first = Visitor(version, shown, rule)
                session = self.come(first).session
                self.change(**changes)
                came = self.come(Visitor(version, shown, rule, context=first.context), session)
                cell = (version, rule, shown, since)
                self.assertCame(came, self.world.lets_in(rule, shown), cell)

    def change(self, **changes: bool) -> None:
        """
        Have the world be good but for this.  What a check says, and dates, change by themselves;
        authorities and lists are loaded anew.
        """
        before, good = evolve(self.world), World()
        for field in fields(World):
            setattr(self.world, field.name, changes.get(field.name, getattr(good, field.name)))
        now = self.world
        if (before.revoked, before.authority_trusted) != (now.revoked, now.authority_trusted):
            self.apply()
        for realm in self.options._realms.values():
            when = NOW + timedelta(days=40 if now.expired else 0)
            realm._trust_store.store.set_time(when.replace(tzinfo=None))
