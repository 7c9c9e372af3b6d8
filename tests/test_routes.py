"""Routes: where clients go by what their hellos ask for."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from tests.context_material import serving, visiting
from tests.endpoint_material import Application, Applications
from tests.hello_material import records
from tests.source_material import Told, choice, named
from tests.test__gate import first_flight
from tests.test_preamble import V1, PreambleCase
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.hello import ClientHello
from twisted_bioconn.limits import Limits
from twisted_bioconn.port_options import PreambleOptions, Route, networks
from twisted_bioconn.protocol import TLSConnectorFactory

ONE, OTHER, THIRD = "one.example.org", "other.example.org", "third.example.org"


def nowhere() -> Any:
    return Factory.forProtocol(Protocol)


class RouteTests(SynchronousTestCase):
    """Which clients a route is for."""

    def test_names(self) -> None:
        route = Route(factory=nowhere(), names=("One.example.ORG", "*.example.com", "bücher.x"))
        for name, expected in (
            (ONE, True),
            (OTHER, False),
            ("a.example.com", True),
            ("a.b.example.com", False),
            ("example.com", False),
            ("xn--bcher-kva.x", True),
            (None, False),
        ):
            self.assertEqual(route.is_for(ClientHello(server_name=name)), expected, name)

    def test_protocols(self) -> None:
        route = Route(factory=nowhere(), alpn=(b"h2", b"mqtt"))
        for offered, expected in (((b"mqtt", b"x"), True), ((b"http/1.1",), False), ((), False)):
            self.assertEqual(route.is_for(ClientHello(alpn=offered)), expected)

    def test_both_and_neither(self) -> None:
        hello = ClientHello(server_name=ONE, alpn=(b"h2",))
        self.assertTrue(Route(factory=nowhere()).is_for(ClientHello()))
        self.assertTrue(Route(factory=nowhere(), names=(ONE,), alpn=(b"h2",)).is_for(hello))
        self.assertFalse(Route(factory=nowhere(), names=(ONE,), alpn=(b"x",)).is_for(hello))
        self.assertFalse(Route(factory=nowhere(), names=(OTHER,), alpn=(b"h2",)).is_for(hello))

    def test_mistakes(self) -> None:
        for name in ("", "a b", "*.*.example.org", "a.*.org"):
            with self.assertRaises(ConfigurationError) as caught:
                Route(factory=nowhere(), names=(name,))
            self.assertIn(repr(name), str(caught.exception))


class RoutedTests(PreambleCase):
    """One port with several."""

    def route(self, *routes: Route, **settings: Any) -> None:
        source = Told({ONE: choice(ONE), OTHER: choice(OTHER)}, choice(THIRD))
        self.serve(options=ServerOptions(source), routes=routes, **settings)

    def come(self, name: str, **options: Any) -> Any:
        results: list[Any] = []
        endpoint = self.client_endpoint(visiting(name, **options))
        endpoint.connect(Applications()).addBoth(results.append)
        self.meet()
        return results[0] if results else None

    def test_by_name(self) -> None:
        one, other = Applications(), Applications()
        self.route(
            Route(factory=one, names=(ONE,)),
            Route(factory=other, names=("*.example.org",)),
        )
        for name, taken in ((ONE, one), (OTHER, other)):
            client = self.come(name)
            assert isinstance(client, Application)
            client.transport.write(b"hello")
            self.clock.settle()
            self.assertEqual(taken.one.received, b"hello")
            self.assertEqual(taken.one.transport.negotiated.server_name, name)
        # All others go where the port's clients go.
        self.come("unknown.example", unsafe_skip_verification=True)
        self.assertTrue(ISSLTransport.providedBy(self.theirs.one.transport))

    def test_by_protocol(self) -> None:
        mqtt = Applications()
        self.route(Route(factory=mqtt, alpn=(b"mqtt",)))
        self.come(ONE, alpn=[b"mqtt"])
        self.come(ONE, alpn=[b"http/1.1"])
        self.assertEqual((len(mqtt.built), len(self.theirs.built)), (1, 1))

    def test_passed_through(self) -> None:
        """Byte for byte, the hello too: TLS ends somewhere else."""
        raw = Applications()
        self.route(Route(factory=raw, names=(ONE,), passes_through=True))
        hello = first_flight(ONE)
        for piece in (0, 1, 100):
            raw.built.clear()
            peer = self.raw(hello, piece)
            application = raw.one
            self.assertEqual(application.received, hello)
            self.assertFalse(ISSLTransport.providedBy(application.transport))
            application.transport.write(b"as it is")
            peer.transport.write(b"and back")
            self.clock.settle()
            self.assertEqual(peer.received, b"as it is")
            self.assertEqual(application.received, hello + b"and back")
        self.assertEqual(self.theirs.built, [])

    def test_hello_in_many_records(self) -> None:
        """It has to be whole before anybody gets it."""
        raw = Applications()
        self.route(Route(factory=raw, names=(ONE,), passes_through=True))
        hello = first_flight(ONE)
        cut = records(hello[5:], 60)
        self.raw(cut[:-1], 65)
        self.assertEqual(raw.built, [])
        self.raw(cut, 65)
        self.assertEqual(raw.one.received, cut)

    def test_tls_behind(self) -> None:
        """A whole handshake with who is behind, whose certificate the client sees."""
        behind = Applications()
        inner = TLSConnectorFactory(serving(named(ONE)), False, behind, self.clock)
        self.route(Route(factory=inner, names=(ONE,), passes_through=True))
        client = self.come(ONE)
        assert isinstance(client, Application)
        client.transport.write(b"hello")
        self.clock.settle()
        self.assertEqual(behind.one.received, b"hello")

    def test_proxy_header(self) -> None:
        raw = Applications()
        self.route(
            Route(factory=raw, names=(ONE,), passes_through=True),
            before=PreambleOptions(proxies=networks("127.0.0.1")),
        )
        self.raw(V1 + first_flight(ONE))
        self.assertEqual(raw.one.transport.getPeer().host, "192.0.2.7")

    def test_no_hello(self) -> None:
        """What is no hello, or never whole, goes nowhere."""
        raw = Applications()
        self.route(Route(factory=raw, passes_through=True))
        self.assertIsNotNone(self.raw(b"\x16\x03\x01\0\x04\x02\0\0\0").lost)
        self.assertIsNotNone(self.raw(b"GET / HTTP/1.1\r\n\r\n").lost)
        record = b"\x16\x03\x01\0\x0a" + b"\1\0\1\0" + b"\3\3    "
        peer = self.raw(record)
        self.wait(10)
        self.assertIsNotNone(peer.lost)
        peer = self.raw(record)
        peer.transport.loseConnection()
        self.clock.settle()
        self.assertEqual(raw.built, [])
        self.assertEqual(len(self.lines), 4)
        self.assertLeftNothing()

    def test_limits(self) -> None:
        """A connection that passes through counts, and has no handshake here."""
        raw = Applications()
        self.route(
            Route(factory=raw, passes_through=True), limits=Limits(connections=1, handshakes=1)
        )
        self.raw(first_flight(ONE))
        limiter = self.listener.factory.limiter
        self.assertEqual((limiter.connections, limiter.handshakes), (1, 0))
        raw.one.transport.loseConnection()
        self.clock.settle()
        self.assertEqual(limiter.connections, 0)

    def test_started_and_stopped(self) -> None:
        """All that takes connections begins and ends with the port."""

        class Counted(Applications):
            def startFactory(self) -> None:
                self.did = ["start"]

            def stopFactory(self) -> None:
                self.did.append("stop")

        raw, ended = Counted(), Counted()
        self.route(Route(factory=raw, passes_through=True), Route(factory=ended))
        self.listener.factory.doStart()
        self.listener.factory.doStop()
        self.assertEqual((raw.did, ended.did), (["start", "stop"], ["start", "stop"]))
