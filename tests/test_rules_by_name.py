"""
Who may come in by the name that is asked for: rules that have the name as a condition, and routes
that have rules and authorities of their own.

The oracle is a table of who may come in at which name, which knows nothing of sessions, of
versions, nor of how the server was told.
"""

from __future__ import annotations

from enum import Enum
from itertools import product
from typing import Any

from OpenSSL import SSL
from OpenSSL._util import lib
from twisted.trial.unittest import SynchronousTestCase

from tests.context_material import certified, serving
from tests.endpoint_material import Applications
from tests.engines import on_both_engines
from tests.source_material import Told, named
from tests.test__gate import first_flight
from tests.test_access import showing
from tests.test_client_matrix import SECRET, Came, MatrixCase, Visitor
from tests.test_preamble import V1, PreambleCase
from tests.tls_material import (
    FOR_CLIENTS,
    TLS12,
    TLS13,
    Party,
    authority,
    certificate,
    ec_key,
)
from twisted_bioconn.access import Peer, Rules, parse_rules
from twisted_bioconn.certificates.source import Choice
from twisted_bioconn.client_policy import ANYBODY, ClientCertificate, ClientPolicy
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.errors import ConfigurationError, UsageError
from twisted_bioconn.port_options import PreambleOptions, Route, networks


class Name(Enum):
    """Whom clients ask for."""

    ALICES = "alices.example"
    BOBS = "bobs.example"
    STAFF = "staff.example"
    OPEN = "open.example"


class Who(Enum):
    """Who comes."""

    ALICE = "alice"
    BOB = "bob"
    NOBODY = "nobody"


MAY = {
    Name.ALICES: {Who.ALICE},
    Name.BOBS: {Who.BOB},
    Name.STAFF: {Who.ALICE, Who.BOB},
    Name.OPEN: set(Who),
}

PARTIES = {
    who: Party(
        certificate(who.value, authority(), key=ec_key(number), usage=FOR_CLIENTS), ec_key(number)
    )
    for number, who in enumerate((Who.ALICE, Who.BOB), 3)
}

ROOTS = (authority().certificate,)
BY_NAME = (
    "name=alices.example&cn=alice, name=bobs.example&cn=bob, name=staff.example&anyone,"
    " name=open.example"
)


def client_context(who: Who, version: int) -> SSL.Context:
    """A client's context."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    if who in PARTIES:
        context.use_certificate(PARTIES[who].certificate)
        context.use_privatekey(PARTIES[who].key)
    return context


def required(text: str) -> ClientPolicy:
    """Rules that ask for a good certificate."""
    return ClientPolicy(ClientCertificate.REQUIRE, ROOTS, rules=parse_rules(text))


class NameCase(MatrixCase):
    """Servers that let in by name, each in another way."""

    def setUp(self) -> None:
        super().setUp()
        self.theirs = Applications(made=lambda it: it.transport.write(SECRET))

    def by_rules(self) -> None:
        """One certificate for all, and rules with names."""
        self.listen(self.theirs, serving(clients=self.with_names()))

    def by_rules_and_certificates(self) -> None:
        """A certificate for each name, and rules with names."""
        source = Told({each.value: Choice(certified(named(each.value))) for each in Name})
        self.listen(self.theirs, ServerOptions(source, clients=self.with_names()))

    def by_routes(self) -> None:
        """Routes with rules of their own; who goes by none of them may come in."""
        self.routed(serving())

    def by_routes_and_certificates(self) -> None:
        """The same, with a certificate for each name."""
        source = Told({each.value: Choice(certified(named(each.value))) for each in Name})
        self.routed(ServerOptions(source))

    def by_open_route(self) -> None:
        """The other way round: the port asks for more than a route does."""
        base = serving(clients=required("cn=alice"))
        self.listen(
            self.theirs,
            base,
            routes=[
                self.route(Name.BOBS, base.for_clients(required("cn=bob"))),
                self.route(
                    Name.STAFF, base.for_clients(ClientPolicy(ClientCertificate.REQUIRE, ROOTS))
                ),
                self.route(Name.OPEN, base.for_clients(ANYBODY)),
            ],
        )

    WAYS = (
        by_rules,
        by_rules_and_certificates,
        by_routes,
        by_routes_and_certificates,
        by_open_route,
    )

    def with_names(self) -> ClientPolicy:
        rules = parse_rules(BY_NAME)
        return ClientPolicy(ClientCertificate.VERIFY_IF_GIVEN, ROOTS, rules=rules)

    def routed(self, base: ServerOptions) -> None:
        routes = [
            self.route(Name.ALICES, base.for_clients(required("cn=alice"))),
            self.route(Name.BOBS, base.for_clients(required("cn=bob"))),
            self.route(Name.STAFF, base.for_clients(required("cn=bob,cn=alice"))),
        ]
        self.listen(self.theirs, base, routes=routes)

    def route(self, name: Name, options: ServerOptions) -> Route:
        return Route(factory=self.theirs, names=[name.value], options=options)

    def assertCame(self, came: Came, allowed: bool, cell: object) -> None:
        self.assertEqual((came.let_in, came.received), (allowed, SECRET if allowed else b""), cell)
        if allowed:
            self.assertEqual(self.lines, [], cell)
        elif not came.let_in:
            [line] = self.lines
            self.assertTrue(line.startswith("no handshake: "), line)
        self.lines.clear()

    def visitor(self, context: SSL.Context, name: Name, second: Name | None = None) -> Any:
        unused: Any = None
        whose: Any = name
        other: Any = second
        return Visitor(0, unused, whose, other, context)


@on_both_engines
class MatrixTests(NameCase):
    """No cell of the matrix is a way round."""

    def test_full(self) -> None:
        for way, version, name, who in product(self.WAYS, (TLS12, TLS13), Name, Who):
            way(self)
            came = self.come(self.visitor(client_context(who, version), name))
            self.assertCame(came, who in MAY[name], (way.__name__, version, name, who))

    def test_resumed(self) -> None:
        """
        A session that was agreed on at any name is offered at any other: who may not come in there
        does not come in by it.  What is resumed at its own name does resume.
        """
        for way, version in product(self.WAYS, (TLS12, TLS13)):
            way(self)
            for at, to, who in product(Name, Name, Who):
                if who not in MAY[at]:
                    continue
                context = client_context(who, version)
                session = self.come(self.visitor(context, at)).session
                came = self.come(self.visitor(context, to), session)
                cell = (way.__name__, version, at, to, who)
                self.assertCame(came, who in MAY[to], cell)
                if at is to:
                    self.assertTrue(came.resumed, cell)

    def test_second_hello(self) -> None:
        """After a HelloRetryRequest no other name may be asked for."""
        for way, first, second, who in product(self.WAYS, Name, Name, Who):
            way(self)
            context = client_context(who, TLS13)
            assert lib.SSL_CTX_set1_curves_list(context._context, b"ffdhe4096:P-384")
            came = self.come(self.visitor(context, first, second))
            allowed = first is second and who in MAY[first]
            self.assertCame(came, allowed, (way.__name__, first, second, who))

    def test_no_name(self) -> None:
        """Who asks for no name, or for one that no rule has, comes in by no rule with a name."""
        self.by_rules()
        for who, name in product(Who, (None, b"other.example", b"*.example", b"127.0.0.1")):
            visitor = self.visitor(client_context(who, TLS13), Name.OPEN)
            connection = SSL.Connection(visitor.context)
            connection.set_connect_state()
            if name is not None:
                connection.set_tlsext_host_name(name)
            visitor.connection = connection
            self.assertCame(self.come(visitor), False, (who, name))

    def test_reasons(self) -> None:
        self.by_rules()
        for who, words in (
            (Who.BOB, "CN=bob, asking for alices.example is none of those that may come in: name="),
            (
                Who.NOBODY,
                "127.0.0.1, asking for alices.example, showed no certificate, and may not",
            ),
        ):
            self.come(self.visitor(client_context(who, TLS13), Name.ALICES))
            [line] = self.lines
            self.assertIn(words, line)
            self.lines.clear()


class ConditionTests(SynchronousTestCase):
    """The condition."""

    def decide(self, rules: str, name: str | None, certified: bool = False) -> bool:
        leaf = PARTIES[Who.ALICE].certificate if certified else None
        peer = showing(leaf)
        decision = parse_rules(rules).decide(Peer(peer.chain, peer.address, name))
        self.assertTrue(decision.reason.isprintable(), decision.reason)
        return decision.allowed

    def test_names(self) -> None:
        for rule, name, expected in (
            ("name=a.example.org", "a.example.org", True),
            ("name=A.Example.ORG.", "a.example.org", True),
            ("name=b\u00fccher.example", "xn--bcher-kva.example", True),
            ("name=a.example.org", "b.example.org", False),
            ("name=a.example.org", None, False),
            ("name=*.example.org", "a.example.org", True),
            ("name=*.example.org", "a.b.example.org", False),
            ("name=*.example.org", "example.org", False),
            ("name=*.example.org", "*.example.org", False),
            ("name=*.example.org", None, False),
            ("name=localhost", "localhost", True),
            ("name=a.example & network=192.0.2.0/24", "a.example", True),
            ("name=a.example & network=10.0.0.0/8", "a.example", False),
            ("name=a.example & anyone", "a.example", False),
            ("cn=x, name=a.example", "a.example", True),
            ("cn=x, name=a.example", "b.example", False),
        ):
            self.assertIs(self.decide(rule, name), expected, (rule, name))
        self.assertTrue(self.decide("name=a.example & anyone", "a.example", True))
        self.assertTrue(self.decide("name=a.example & cn=alice", "a.example", True))
        self.assertFalse(self.decide("name=a.example & cn=alice", "b.example", True))

    def test_mistakes(self) -> None:
        for text, words in (
            ("name=a b", "it is no DNS name"),
            ("name=10.0.0.1", "it is no DNS name"),
            ("name=a.*.b", "a * is allowed in place of the whole first label"),
            ("name=", "name= has no value"),
            ("name=a.b & name=c.b", "no peer has more than one name"),
            ("sni=a.b", "did you mean name?"),
            ("serverName=a.b", "did you mean name?"),
        ):
            with self.assertRaises(ConfigurationError) as caught:
                parse_rules(text)
            self.assertIn(words, str(caught.exception))

    def test_what_they_need(self) -> None:
        for text, certificate_needed, name_needed in (
            ("name=a.example", False, True),
            ("name=a.example & cn=x", True, True),
            ("cn=x", True, False),
            ("network=10.0.0.0/8", False, False),
        ):
            rules = parse_rules(text)
            self.assertIs(rules.needs_certificate, certificate_needed, text)
            self.assertIs(rules.needs_name, name_needed, text)
        self.assertFalse(Rules(check=lambda _: True).needs_name)

    def test_without_the_hello(self) -> None:
        """Where nobody reads the hello, nobody is served: a rule wants to know the name."""
        options = serving(clients=required("name=a.example & cn=x"))
        with self.assertRaisesRegex(UsageError, "a rule asks by the client's hello"):
            options.serverConnectionForTLS(None)


class PassingThroughTests(PreambleCase):
    """Rules about who goes on to where TLS ends behind."""

    def test_rules(self) -> None:
        raw = Applications()
        rules = parse_rules("network=192.0.2.0/24, name=b.example & address=127.0.0.1")
        self.serve(
            PreambleOptions(proxies=networks("127.0.0.1")),
            options=serving(),
            routes=[
                Route(factory=raw, names=["*.example"], passes_through=True, rules=rules),
            ],
        )
        elsewhere = b"PROXY TCP4 198.51.100.1 127.0.0.1 7 443\r\n"
        for header, name, expected in (
            (V1, "a.example", True),
            (elsewhere, "a.example", False),
            (b"PROXY UNKNOWN\r\n", "b.example", True),
            (b"PROXY UNKNOWN\r\n", "a.example", False),
        ):
            raw.built.clear()
            self.lines.clear()
            self.raw(header + first_flight(name))
            self.assertEqual(len(raw.built), expected, (header, name))
            if not expected:
                [line] = self.lines
                self.assertIn("no handshake: a rule of this server refused ", line)
                self.assertIn(f"asking for {name}, showed no certificate, and may not", line)
            self.assertEqual(self.theirs.built, [])

    def test_mistakes(self) -> None:
        for what, words in (
            ({"options": serving(), "passes_through": True}, "has no TLS"),
            ({"rules": parse_rules("name=a.b")}, "rules of a route are those of its options"),
            ({"rules": parse_rules("cn=x"), "passes_through": True}, "without clientAuthorities="),
        ):
            settings: Any = what
            with self.assertRaises(ConfigurationError) as caught:
                Route(factory=Applications(), **settings)
            self.assertIn(words, str(caught.exception))
