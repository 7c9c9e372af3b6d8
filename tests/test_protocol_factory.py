"""What a factory is and may be given, and what is left of a connection: nothing."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import Any
from weakref import ref

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport, StringTransportWithDisconnection
from twisted.protocols._tls_legacy import LegacyContextFactoryWarning
from twisted.protocols.policies import WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.protocol_material import (
    TLS12,
    TLS13,
    App,
    HalfApp,
    Link,
    ListeningApp,
    ProtocolCase,
    client_options,
    holds_on_stock_since,
    issued,
    on_every_engine,
    server_context,
    server_options,
)
from tests.protocol_wire import MemoryConnection, MemorySocket
from twisted_bioconn.protocol import TLSConnectorFactory, TLSConnectorProtocol


class Legacy:
    """A context factory of the old kind, which declares no interface."""

    def getContext(self) -> SSL.Context:
        return server_context()


LEGACY: Any = Legacy()


class Prompt(StringTransport):
    """
    A transport that can be told not to wait for more to send.

    @ivar told: what it was told.
    """

    def __init__(self, failure: OSError | None = None) -> None:
        super().__init__()
        self._failure = failure
        self.told: list[bool] = []

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.told.append(enabled)
        if self._failure is not None:
            raise self._failure


class FactoryTests(SynchronousTestCase):
    """What a factory of ours is, and what it may be given."""

    def test_no_delay(self) -> None:
        """
        A server's first answer does not wait until its session tickets are acknowledged.  What is
        no TCP, and has the method all the same, does no harm; to a client it is not done.
        """
        for is_client, failure in ((False, None), (False, OSError("no TCP")), (True, None)):
            options = client_options() if is_client else server_options()
            factory = TLSConnectorFactory(options, is_client, Factory.forProtocol(App))
            transport = Prompt(failure)
            protocol = factory.buildProtocol(None)
            assert protocol is not None
            protocol.makeConnection(transport)
            self.assertEqual(transport.told, [] if is_client else [True])
            protocol.connectionLost(Failure(ConnectionDone()))

    def test_is_a_memory_bio_factory(self) -> None:
        """Programs look for Twisted's classes."""
        factory = TLSConnectorFactory(server_options(), False, Factory.forProtocol(App))
        self.assertIsInstance(factory, TLSMemoryBIOFactory)
        protocol = factory.buildProtocol(None)
        self.assertIsInstance(protocol, TLSMemoryBIOProtocol)
        self.assertFalse(factory.noisy)
        self.assertEqual(factory.logPrefix(), "Factory (TLS)")
        self.assertEqual(factory.protocols, {})
        assert protocol is not None
        self.assertEqual(protocol.logPrefix(), "App (TLSConnectorProtocol)")

    def test_subclass(self) -> None:
        """A subclass calls the constructor as Twisted's is called, and brings its own protocol."""

        class OwnProtocol(TLSConnectorProtocol):
            pass

        class OwnFactory(TLSConnectorFactory):
            protocol = OwnProtocol

            def __init__(self, options: Any, wrapped: Any) -> None:
                super().__init__(options, isClient=False, wrappedFactory=wrapped, clock=None)
                self.own = True

        factory = OwnFactory(server_options(), Factory.forProtocol(App))
        protocol = factory.buildProtocol(None)
        self.assertIsInstance(protocol, OwnProtocol)
        assert protocol is not None
        protocol.whatever = 5  # type: ignore[attr-defined]
        protocol.makeConnection(StringTransport())
        self.assertEqual(list(factory.protocols), [protocol])

    def test_refusing_application(self) -> None:
        """An application that wants no connection gets none."""

        class Refusing(Factory[Protocol]):
            def buildProtocol(self, addr: object) -> None:
                return None

        factory = TLSConnectorFactory(server_options(), False, Refusing())
        self.assertIsNone(factory.buildProtocol(None))

    def test_legacy_warning(self) -> None:
        """What declares no interface is warned of, and the warning names who made the factory."""
        for client in (True, False):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                factory = TLSConnectorFactory(LEGACY, client, Factory.forProtocol(App))
            [warning] = [each for each in caught if each.category is LegacyContextFactoryWarning]
            self.assertEqual(warning.filename, __file__)
            protocol = factory.buildProtocol(None)
            assert protocol is not None
            protocol.makeConnection(StringTransport())
            self.assertIsNotNone(protocol.getHandle())

    def test_only_made(self) -> None:
        """A protocol can be made with nothing at all, and its end then ends nothing."""
        protocol = TLSConnectorProtocol(None, None)  # type: ignore[arg-type]
        self.assertIsNone(protocol.getHandle())
        self.assertTrue(IHalfCloseableProtocol.providedBy(protocol))
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertTrue(protocol.disconnecting)

    def test_somebody_elses_factory(self) -> None:
        """
        A factory with none of our attributes but C{_creatorCallable} does.  It has no clock:
        what is written is sent at once, and what was held is delivered at once.
        """
        from twisted.protocols._tls_legacy import _convertToAppropriateFactory

        factory = WrappingFactory(Factory.forProtocol(App))
        factory._creatorCallable = _convertToAppropriateFactory(  # type: ignore[attr-defined]
            False, server_options()
        )
        case = ProtocolCase()
        case.setUp()
        link = case.link(HalfApp(), begin=False, answers=False)
        one, two = MemorySocket.pair()
        protocol = TLSConnectorProtocol(factory, link.app)
        transport = MemoryConnection(one, protocol, case.clock)
        wire = MemoryConnection(two, link.peer, case.clock)
        transport.begin()
        wire.begin()
        case.clock.settle()
        protocol.write(b"at once")
        transport.doWrite()
        wire.doRead()
        self.assertEqual(link.peer.received, b"at once")
        protocol.pauseProducing()
        link.peer.send(b"held")
        wire.doWrite()
        protocol.dataReceived(one.recv(9999))
        self.assertEqual(link.app.received, b"")
        protocol.resumeProducing()
        self.assertEqual(link.app.received, b"held")
        protocol.loseWriteConnection()
        self.assertEqual(link.app.did, ["made", "data", "write lost"])
        link.peer.close()
        case.clock.settle()
        self.assertEqual(link.app.did[3:], ["read lost", "lost"])
        self.assertEqual(case.clock.getDelayedCalls(), [])

    def test_no_connection_can_be_made(self) -> None:
        """Where the options fail, the transport is not left open, and nobody else is told."""

        @implementer(IOpenSSLServerConnectionCreator)
        class Broken:
            def serverConnectionForTLS(self, protocol: object) -> SSL.Connection:
                raise ZeroDivisionError

        factory = TLSConnectorFactory(Broken(), False, Factory.forProtocol(App))
        protocol = factory.buildProtocol(None)
        assert protocol is not None
        app = protocol.wrappedProtocol
        transport = StringTransport()
        with self.assertRaises(ZeroDivisionError):
            protocol.makeConnection(transport)
        self.assertTrue(transport.disconnected)
        protocol.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual(app.did, [])  # type: ignore[attr-defined]

    def test_replaced_while_connected(self) -> None:
        """The application's protocol, its methods and the connection may be replaced."""
        case = ProtocolCase()
        case.setUp()
        link = case.link()
        heard: list[bytes] = []
        link.app.dataReceived = heard.append
        link.peer.send(b"one")
        link.settle()
        other = App()
        link.tls.wrappedProtocol = other
        link.peer.send(b"two")
        link.settle()
        self.assertEqual((heard, other.received), ([b"one"], b"two"))
        connection = link.tls.getHandle()
        link.tls._tlsConnection = connection
        self.assertIs(link.tls._tlsConnection, connection)
        link.tls.loseConnection()
        link.settle()
        self.assertEqual(other.did, ["data", "lost"])

    def test_transport_that_ends_at_once(self) -> None:
        """A transport that tells of its end from within C{loseConnection}, as some in memory do."""
        factory = TLSConnectorFactory(server_options(), False, Factory.forProtocol(App))
        for end in ("abort", "cut"):
            protocol = factory.buildProtocol(None)
            assert protocol is not None
            app: Any = protocol.wrappedProtocol
            transport = StringTransportWithDisconnection()
            transport.protocol = protocol
            transport.abortConnection = transport.loseConnection  # type: ignore[method-assign]
            protocol.makeConnection(transport)
            if end == "abort":
                protocol.loseConnection()
            else:
                app.hooks["lost"] = lambda app: app.transport.loseConnection()
                protocol.connectionLost(Failure(ConnectionDone()))
            self.assertEqual(app.did, ["made", "lost"])
            self.assertEqual(factory.protocols, {})


@on_every_engine
class CycleTests(ProtocolCase):
    """What is left of a connection that has ended goes with the last reference to it."""

    def assertGone(self, make: Callable[[], Link]) -> None:
        """Nothing of a connection lives on, with no help of the collector's."""
        gc.collect()
        gc.disable()
        try:
            link = make()
            connection = ref(link.tls.getHandle())
            remains = [ref(link.tls), ref(link.app), connection]
            link.peer.answers = True
            link.tls.loseConnection()
            link.settle()
            link.peer.go()
            link.settle()
            self.assertTrue(link.app.reasons)
            link.app.reasons.clear()
            # OpenSSL's connection goes as soon as the transport is gone.
            self.assertIsNone(connection())
            del link
            self.assertEqual([each() for each in remains], [None] * 3)
        finally:
            gc.enable()

    @holds_on_stock_since(26, 10)
    def test_client(self) -> None:
        """A client that verifies, with the options that Twisted makes, in either version."""
        for version in (TLS12, TLS13):

            def make(version: int = version) -> Link:
                link = self.link(ListeningApp(), client=True, version=version)
                link.tls.write(b"x")
                link.peer.send(b"y")
                link.settle()
                return link

            self.assertGone(make)

    @holds_on_stock_since(26, 10)
    def test_server(self) -> None:
        """A server, with application protocols to choose from."""
        options = server_options(acceptableProtocols=[b"h2"])
        self.assertGone(lambda: self.link(options=options))

    def test_refused(self) -> None:
        """A client that refused its server."""

        def make() -> Link:
            context = server_context(TLS13, issued("elsewhere.example"))
            return self.link(client=True, context=context, settle=False)

        self.assertGone(make)

    def test_with_deferreds_and_deadlines(self) -> None:
        """One that was asked for its facts, and had deadlines, and a half-close before its end."""

        def make() -> Link:
            link = self.link(HalfApp(), begin=False, answers=False, idleTimeout=100.0)
            link.tls.whenHandshakeDone()
            link.transport.begin()
            link.tls.loseWriteConnection()
            link.wire.begin()
            link.settle()
            return link

        self.assertGone(make)
