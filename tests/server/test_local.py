"""Tests for L{twisted_bioconn.server.local}."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionRefusedError, NoProtocol
from twisted.internet.interfaces import IAddress, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.protocol_material import App
from tests.reactor_material import Made, ReactorCase
from twisted_bioconn.server.local import REMEMBERED, LocalEndpoint, is_local


class IsLocalTests(SynchronousTestCase):
    """L{is_local}."""

    def test_local(self) -> None:
        for host in (
            "localhost",
            "LocalHost",
            "127.0.0.1",
            "127.8.9.10",
            "::1",
            "0:0:0:0:0:0:0:1",
            "::ffff:127.0.0.1",
        ):
            self.assertTrue(is_local(host), host)

    def test_elsewhere(self) -> None:
        for host in (
            "",
            "localhost.example",
            "example.com",
            "127.0.0.1.example",
            "127.1",
            "0.0.0.0",
            "::",
            "192.0.2.1",
            "10.0.0.1",
            "fe80::1",
            "::ffff:192.0.2.1",
        ):
            self.assertFalse(is_local(host), host)


@implementer(IStreamClientEndpoint)
class Detour:
    """
    The other endpoint.

    @ivar asked: the factories that it was to connect.
    @ivar answer: makes what C{connect} returns.
    """

    def __init__(self) -> None:
        self.asked: list[IProtocolFactory] = []
        self.answer: Any = lambda factory: Deferred()

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        self.asked.append(protocolFactory)
        answer: Deferred[Any] = self.answer(protocolFactory)
        return answer


def connected_to(address: IAddress | None) -> Any:
    """What connects the protocol of a factory to such a peer; to none if that is L{None}."""

    def answer(factory: Any) -> Deferred[Any]:
        protocol = factory.buildProtocol(address)
        if address is not None:
            assert protocol is not None
            protocol.makeConnection(StringTransport(peerAddress=address))
        return succeed(protocol)

    return answer


class LocalEndpointTests(ReactorCase):
    """L{LocalEndpoint}, with a server on this machine, and a clock that a test advances."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.reactor.seconds = self.clock.seconds
        self.served = Made()
        self.port = self.listen(self.served)
        self.number: int = self.port.getHost().port
        self.detour = Detour()

    def endpoint(self, host: str) -> LocalEndpoint:
        return LocalEndpoint(self.reactor, self.detour, host, self.number)

    def gone(self) -> None:
        """Stop listening."""
        self.port.stopListening()
        self.turn(2)

    def assert_at_once(self, endpoint: LocalEndpoint) -> None:
        """Both ways connect with no detour."""
        asked = len(self.detour.asked)
        factory = Made()
        app: Any = self.successResultOf(endpoint.connect(factory))
        self.assertEqual(([app], app.did), (factory.made, ["made"]))
        self.assertEqual(app.transport.getPeer().port, self.number)
        again: Any = endpoint.connect_at_once(factory)
        self.assertEqual((factory.made, again.did), ([app, again], ["made"]))
        self.assertEqual(len(self.detour.asked), asked)

    def assert_detour(self, endpoint: LocalEndpoint) -> None:
        """The other endpoint is asked."""
        asked = len(self.detour.asked)
        factory = Made()
        self.assertIsNone(endpoint.connect_at_once(factory))
        self.assertEqual(len(self.detour.asked), asked)
        endpoint.connect(factory).addErrback(lambda reason: reason.trap(ConnectError))
        self.assertEqual(self.detour.asked[asked:], [factory])

    def test_interface(self) -> None:
        self.assertTrue(verifyObject(IStreamClientEndpoint, self.endpoint("127.0.0.1")))

    def test_address(self) -> None:
        """An address needs no detour, ever."""
        for host in ("127.0.0.1", "::ffff:127.0.0.1"):
            endpoint = self.endpoint(host)
            for _ in range(2):
                self.assert_at_once(endpoint)
                self.clock.advance(REMEMBERED * 10)
        self.until(lambda: len(self.served.made) == 8)

    def test_data(self) -> None:
        app: Any = self.endpoint("127.0.0.1").connect_at_once(Made())
        app.transport.write(b"hello")
        self.until(lambda: self.served.made and self.served.made[0].received == b"hello")

    def test_address_refused(self) -> None:
        """The error is the other endpoint's, which is asked each time."""
        self.gone()
        self.detour.answer = lambda factory: fail(ConnectionRefusedError())
        endpoint = self.endpoint("127.0.0.1")
        factory = Made()
        for _ in range(2):
            self.failureResultOf(endpoint.connect(factory), ConnectionRefusedError)
            self.assertIsNone(endpoint.connect_at_once(factory))
        self.assertEqual((self.detour.asked, factory.made), ([factory] * 2, []))

    def test_address_served_again(self) -> None:
        """Of an address there is nothing to be forgotten."""
        self.gone()
        endpoint = self.endpoint("127.0.0.1")
        self.assert_detour(endpoint)
        self.port = self.reactor.listenTCP(self.number, self.served, interface="127.0.0.1")
        self.assert_at_once(endpoint)

    def test_refused_by_twisteds_endpoint(self) -> None:
        """With a real endpoint in its place, the error is Twisted's."""
        self.gone()
        del self.reactor.seconds
        inner = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self.number)
        endpoint = LocalEndpoint(self.reactor, inner, "127.0.0.1", self.number)
        failures: list[Failure] = []
        endpoint.connect(Made()).addErrback(failures.append)
        self.until(lambda: failures)
        self.assertIsInstance(failures[0].value, ConnectionRefusedError)

    def test_name(self) -> None:
        """A name takes the detour, and its address is remembered for a while."""
        endpoint = self.endpoint("localhost")
        self.assert_detour(endpoint)
        self.detour.answer = connected_to(IPv4Address("TCP", "127.0.0.1", self.number))
        app: Any = self.successResultOf(endpoint.connect(Made()))
        self.assertEqual(app.did, ["made"])

        self.assert_at_once(endpoint)
        self.clock.advance(REMEMBERED - 0.01)
        self.assert_at_once(endpoint)
        # To have used it is no reason to remember it for longer.
        self.clock.advance(0.01)
        self.assert_detour(endpoint)
        self.assert_at_once(endpoint)

    def test_name_refused(self) -> None:
        """An address that does not answer is forgotten."""
        endpoint = self.endpoint("LOCALHOST")
        self.detour.answer = connected_to(IPv4Address("TCP", "127.0.0.1", self.number))
        self.successResultOf(endpoint.connect(Made()))
        self.gone()
        self.detour.answer = lambda factory: fail(ConnectionRefusedError())
        self.failureResultOf(endpoint.connect(Made()), ConnectionRefusedError)
        self.port = self.reactor.listenTCP(self.number, self.served, interface="127.0.0.1")
        self.assert_detour(endpoint)

    def test_name_fails(self) -> None:
        """What the other endpoint fails with is passed on, and nothing remembered."""
        endpoint = self.endpoint("localhost")
        self.detour.answer = lambda factory: fail(ConnectError("no such name"))
        for _ in range(2):
            failure = self.failureResultOf(endpoint.connect(Made()), ConnectError)
            self.assertIn("no such name", str(failure.value))
            self.assert_detour(endpoint)

    def test_name_elsewhere(self) -> None:
        """Nothing is remembered of a peer that is not on this machine, or that has no address."""
        for address in (
            IPv4Address("TCP", "192.0.2.1", self.number),
            IPv4Address("TCP", "localhost", self.number),
            UNIXAddress("/run/socket"),
            None,
        ):
            endpoint = self.endpoint("localhost")
            self.detour.answer = connected_to(address)
            protocol = self.successResultOf(endpoint.connect(Made()))
            self.assertIsInstance(protocol, App)
            self.assertIsNone(endpoint.connect_at_once(Made()))

    def test_name_and_no_transport(self) -> None:
        """A protocol that keeps its transport to itself is fine."""

        class Without:
            """Not even the attribute."""

        endpoint = self.endpoint("localhost")
        self.detour.answer = lambda factory: succeed(Without())
        self.assertIsInstance(self.successResultOf(endpoint.connect(Made())), Without)
        self.assertIsNone(endpoint.connect_at_once(Made()))

    def test_cancelled(self) -> None:
        """The other endpoint's attempt is cancelled."""
        for host in ("localhost", "127.0.0.1"):
            if host != "localhost":
                self.gone()
            cancelled: list[object] = []
            self.detour.answer = lambda factory, told=cancelled: Deferred(told.append)
            connecting = self.endpoint(host).connect(Made())
            connecting.cancel()
            self.failureResultOf(connecting)
            self.assertEqual(len(cancelled), 1)

    def test_no_protocol(self) -> None:
        """The connection is closed, and the error is the other endpoint's."""
        del self.reactor.seconds
        inner = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self.number)
        endpoint = LocalEndpoint(self.reactor, inner, "127.0.0.1", self.number)
        factory = Made(lambda: None)
        self.assertIsNone(endpoint.connect_at_once(factory))
        self.until(lambda: self.served.made and self.served.made[0].reasons)
        failures: list[Failure] = []
        endpoint.connect(factory).addErrback(failures.append)
        self.until(lambda: failures)
        self.assertIsInstance(failures[0].value, NoProtocol)
        self.until(lambda: all(app.reasons for app in self.served.made))

    def test_error_in_the_factory(self) -> None:
        """It is what C{connect} fails with, and the connection is closed."""

        def refuse() -> Protocol:
            raise ValueError("in buildProtocol")

        def break_off(app: App) -> None:
            raise ValueError("in connectionMade")

        endpoint = self.endpoint("127.0.0.1")
        for number, make in enumerate((refuse, lambda: App(made=break_off))):
            failure = self.failureResultOf(endpoint.connect(Made(make)), ValueError)
            self.assertIn("in ", str(failure.value))
            self.until(
                lambda number: len(self.served.made) > number and self.served.made[number].reasons,
                number,
            )
        self.assertEqual(self.detour.asked, [])
