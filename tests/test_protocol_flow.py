"""
A pause pauses, a producer is heard, and no peer holds a connection for ever.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost, TimeoutError
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols import tls
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.protocol_material import (
    TLS12,
    TLS13,
    App,
    HalfApp,
    ListeningApp,
    ProtocolCase,
    holds_on_stock,
    on_every_engine,
    server_options,
)
from tests.protocol_wire import MemoryConnection, RestlessConnection
from tests.test_protocol_closing import LARGE, Producer
from twisted_bioconn.protocol import TLSConnectorFactory


@on_every_engine
class PauseTests(ProtocolCase):
    """While C{pauseProducing} holds nothing is delivered, and afterwards everything is."""

    def test_pause(self) -> None:
        """
        Also where the transport does not pause; our own writes go on.  What was held is
        delivered when the clock turns, not from within C{resumeProducing}.
        """
        for kind in (MemoryConnection, RestlessConnection):
            link = self.link(transport=kind)
            link.tls.pauseProducing()
            link.tls.pauseProducing()
            link.peer.send(b"one ")
            link.settle()
            link.peer.send(b"two ")
            link.tls.write(b"ours")
            link.settle()
            self.assertEqual(link.app.received, b"")
            self.assertEqual(link.peer.received, b"ours")
            link.tls.resumeProducing()
            link.tls.resumeProducing()
            self.assertEqual(link.app.received, b"")
            link.peer.send(b"three")
            link.settle()
            self.assertEqual(link.app.received, b"one two three")

    @holds_on_stock
    def test_transport_is_paused(self) -> None:
        """A transport that can pause does, so that the peer cannot fill our memory."""
        link = self.link(capacity=5000)
        link.tls.pauseProducing()
        link.peer.send(LARGE)
        link.settle()
        self.assertNotIn(link.transport, self.clock.getReaders())
        self.assertEqual(len(link.transport.end.arrived), 5000)
        link.tls.resumeProducing()
        link.settle()
        self.assertEqual(link.app.received, LARGE)

    def test_during_the_handshake(self) -> None:
        """Paused before the handshake it goes on all the same; then the pause holds."""
        for version in (TLS13, TLS12):
            for client in (False, True):
                for kind in (MemoryConnection, RestlessConnection):

                    def pause(app: App) -> None:
                        app.transport.pauseProducing()

                    app = ListeningApp(made=pause)
                    link = self.link(app, client=client, version=version, transport=kind)
                    self.assertEqual(app.did, ["made", "handshake"])
                    link.peer.send(b"held")
                    link.settle()
                    self.assertEqual(app.received, b"")
                    self.assertEqual(
                        link.transport in self.clock.getReaders(), kind is RestlessConnection
                    )
                    link.tls.resumeProducing()
                    link.settle()
                    self.assertEqual(app.received, b"held")

    @holds_on_stock
    def test_data_with_the_end_of_the_handshake(self) -> None:
        """What comes in one piece with the last of the handshake is held, and then delivered."""

        def pause(app: App) -> None:
            app.transport.pauseProducing()

        link = self.link(App(made=pause), version=TLS13, settle=False)
        while not link.peer.open:
            for transport in self.clock.getWriters():
                transport.doWrite()
            if link.transport.end.arrived:
                link.transport.doRead()
            link.wire.doRead()
        link.peer.send(b"held")
        link.settle()
        self.assertTrue(link.app.transport.getHandle().get_finished())
        self.assertEqual(link.app.received, b"")
        link.tls.resumeProducing()
        link.settle()
        self.assertEqual(link.app.received, b"held")

    @holds_on_stock
    def test_paused_then_resumed_during_the_handshake(self) -> None:
        """A pause that was taken back before the handshake is done holds nothing."""
        link = self.link(ListeningApp(handshake=lambda app: app.transport.pauseProducing()))
        link.peer.send(b"held")
        link.settle()
        self.assertEqual(link.app.received, b"")
        link = self.link(begin=False)
        link.transport.begin()
        link.tls.pauseProducing()
        link.tls.resumeProducing()
        link.wire.begin()
        link.settle()
        link.peer.send(b"heard")
        link.settle()
        self.assertEqual(link.app.received, b"heard")

    def test_peer_closes_meanwhile(self) -> None:
        """The peer's close waits behind the bytes before it."""
        for app in (App(), HalfApp()):
            link = self.link(app, transport=RestlessConnection, answers=False)
            link.tls.pauseProducing()
            link.peer.send(b"held")
            link.peer.close()
            link.wire.loseWriteConnection()
            link.settle()
            self.assertEqual(app.did, ["made"])
            link.tls.write(b"ours")
            link.settle()
            self.assertEqual(link.peer.received, b"ours")
            link.tls.resumeProducing()
            link.settle()
            self.assertEqual(app.received, b"held")
            self.assertEqual(app.did[:2], ["made", "data"])
            self.assertEqual(app.did[2:], ["read lost"] if isinstance(app, HalfApp) else ["lost"])

    def test_paused_while_delivered_to(self) -> None:
        """
        An application that pauses as it gets the last bytes, to work on them, is told of the
        peer's close when it resumes, and until then its answer is sent.
        """
        link = self.link(App(data=lambda app: app.transport.pauseProducing()), answers=False)
        link.peer.send(b"question")
        link.peer.close()
        link.settle()
        self.assertEqual(link.app.did, ["made", "data"])
        link.tls.write(b"answer")
        link.settle()
        self.assertEqual(link.peer.received, b"answer")
        link.tls.resumeProducing()
        self.assertEqual(link.app.did, ["made", "data"])
        link.settle()
        self.assertEqual(link.app.did, ["made", "data", "lost"])
        self.assertEqual(link.app.reason.type, ConnectionDone)
        self.assertTrue(link.peer.closed)

    def test_wire_cut_meanwhile(self) -> None:
        """So waits the end of a stream that was cut, which is told for what it is."""
        link = self.link(transport=RestlessConnection)
        link.tls.pauseProducing()
        link.peer.send(b"held")
        link.wire.loseWriteConnection()
        link.settle()
        self.assertEqual(link.app.did, ["made"])
        link.tls.resumeProducing()
        link.settle()
        self.assertEqual(link.app.did, ["made", "data", "lost"])
        self.assertEqual(link.app.reason.type, ConnectionLost)

    def test_bad_bytes_meanwhile(self) -> None:
        """And so a fault: what came before it is delivered first."""
        link = self.link(transport=RestlessConnection)
        link.tls.pauseProducing()
        link.peer.send(b"held")
        link.peer.transport.write(b"what is not TLS")
        link.settle()
        self.assertEqual(link.app.did, ["made"])
        link.tls.resumeProducing()
        link.settle()
        self.assertEqual(link.app.did, ["made", "data", "lost"])
        self.assertEqual(link.app.reason.type, SSL.Error)

    def test_bad_bytes_of_which_nobody_was_told(self) -> None:
        """Paused as the bytes before a fault are delivered, it is told of the fault later."""
        link = self.link(App(data=lambda app: app.transport.pauseProducing()))
        link.peer.send(b"good")
        link.peer.transport.write(b"what is not TLS")
        link.settle()
        self.assertEqual(link.app.did, ["made", "data"])
        link.tls.resumeProducing()
        link.settle()
        self.assertEqual(link.app.did, ["made", "data", "lost"])
        self.assertEqual(link.app.reason.type, SSL.Error)

    def test_bad_bytes_and_then_lost(self) -> None:
        """A fault that nobody has seen yet as the transport is lost is the reason."""
        link = self.link(transport=RestlessConnection)
        link.tls.pauseProducing()
        link.peer.transport.write(b"what is not TLS")
        link.settle()
        self.assertEqual(link.app.did, ["made"])
        link.wire.abortConnection()
        link.settle()
        self.assertEqual(link.app.did, ["made", "lost"])
        self.assertEqual(link.app.reason.type, SSL.Error)

    def test_transport_lost_meanwhile(self) -> None:
        """What would be lost with the transport is delivered all the same, before the end."""
        link = self.link(transport=RestlessConnection)
        link.tls.pauseProducing()
        link.peer.send(b"held")
        link.settle()
        self.assertEqual(link.app.did, ["made"])
        link.wire.abortConnection()
        link.settle()
        self.assertEqual(link.app.did, ["made", "data", "lost"])
        self.assertEqual(link.app.received, b"held")
        self.assertEqual(link.app.reason.type, ConnectionLost)

    def test_paused_again(self) -> None:
        """Paused again before the clock has turned, nothing is delivered."""
        link = self.link(transport=RestlessConnection)
        link.tls.pauseProducing()
        link.peer.send(b"held")
        link.settle()
        link.tls.resumeProducing()
        link.tls.pauseProducing()
        link.settle()
        self.assertEqual(link.app.did, ["made"])
        link.tls.resumeProducing()
        link.tls.pauseProducing()
        link.tls.resumeProducing()
        link.settle()
        self.assertEqual(link.app.received, b"held")

    @holds_on_stock
    def test_answer_while_it_catches_up(self) -> None:
        """What is written as the held bytes are delivered goes out at once."""
        link = self.link(
            App(data=lambda app: app.transport.write(b"answer")), transport=RestlessConnection
        )
        link.tls.pauseProducing()
        link.peer.send(b"held")
        link.settle()
        link.tls.resumeProducing()
        link.settle()
        self.assertEqual(link.peer.received, b"answer")

    @holds_on_stock
    def test_connection_lost_before_it_catches_up(self) -> None:
        """No call is left when the connection ends in between."""
        link = self.link(transport=RestlessConnection)
        link.tls.pauseProducing()
        link.peer.send(b"held")
        link.settle()
        link.tls.resumeProducing()
        link.transport.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(link.app.received, b"held")
        self.assertLeftNothing()


@on_every_engine
class ProducerTests(ProtocolCase):
    """Producers, as far as the tests of closing have nothing to do with them."""

    @holds_on_stock
    def test_backpressure(self) -> None:
        """A producer is paused when the transport is full, and resumed when it has room."""
        link = self.link(capacity=5000)
        link.wire.pauseProducing()
        producer = Producer(link.tls)
        link.tls.registerProducer(producer, True)
        link.tls.write(LARGE)
        link.settle()
        self.assertEqual(producer.did, ["pause"])
        link.wire.resumeProducing()
        link.settle()
        self.assertEqual(producer.did, ["pause", "resume"])
        self.assertEqual(link.peer.received, LARGE)

    @holds_on_stock
    def test_second(self) -> None:
        """A second producer is refused, and the first stays."""
        link = self.link()
        first = Producer(link.tls)
        link.tls.registerProducer(first, True)
        for streaming in (True, False):
            with self.assertRaises(RuntimeError):
                link.tls.registerProducer(Producer(link.tls), streaming)
        link.tls.unregisterProducer()
        link.tls.registerProducer(Producer(link.tls), True)
        self.assertEqual(first.did, [])

    def test_nothing_can_be_written(self) -> None:
        """A producer that comes when nothing can be written any more is stopped."""
        link = self.link(answers=False)
        link.tls.loseConnection()
        for _ in range(2):
            producer = Producer(link.tls)
            link.tls.registerProducer(producer, True)
            self.assertEqual(producer.did, ["stop"])
            link.peer.close()
            link.settle()
        self.assertTrue(link.app.reasons)

    def test_consumer_stopped(self) -> None:
        """C{stopConsuming} and C{stopProducing} close the connection."""
        for stop in ("stopConsuming", "stopProducing"):
            link = self.link()
            if stop == "stopConsuming":
                link.tls.registerProducer(Producer(link.tls), True)
            getattr(link.tls, stop)()
            link.settle()
            self.assertTrue(link.peer.closed)
            self.assertEqual(link.app.reason.type, ConnectionDone)

    def test_producer_that_breaks_when_stopped(self) -> None:
        """An error as it is stopped is logged, and keeps the connection from nothing."""

        class Broken(Producer):
            def stopProducing(self) -> None:
                raise ArithmeticError("broken")

        link = self.link(answers=False)
        link.tls.registerProducer(Broken(link.tls), True)
        link.peer.close()
        link.settle()
        self.assertEqual(len(self.flushLoggedErrors(ArithmeticError)), 1)
        self.assertEqual(link.app.reason.type, ConnectionDone)


@on_every_engine
class DeadlineTests(ProtocolCase):
    """Each deadline runs on the clock, and none is left over."""

    def test_handshake(self) -> None:
        """A peer that does not end the handshake is let go."""
        for client in (False, True):
            link = self.link(client=client, begin=False, handshakeTimeout=7.0)
            link.transport.begin()
            link.wait(6)
            self.assertFalse(link.app.reasons)
            link.wait(1)
            self.assertEqual(link.app.reason.type, TimeoutError)
            self.assertIn("7 seconds", str(link.app.reason.value))
            self.assertTrue(link.transport.disconnected)
            self.assertLeftNothing()

    @holds_on_stock
    def test_handshake_in_time(self) -> None:
        """A handshake that was done in time leaves no deadline."""
        link = self.link(handshakeTimeout=7.0)
        self.assertLeftNothing()
        link.wait(100)
        self.assertFalse(link.app.reasons)

    def test_peer_does_not_answer_close(self) -> None:
        """A peer that does not answer our close_notify is let go, with no error."""
        link = self.link(answers=False, closeTimeout=5.0)
        link.tls.write(b"last")
        link.tls.loseConnection()
        link.peer.send(b"x")
        link.wait(4)
        self.assertFalse(link.app.reasons)
        link.peer.send(b"this does not prolong it")
        link.wait(3)
        self.assertEqual(link.app.reason.type, ConnectionDone)
        self.assertEqual(link.peer.received, b"last")
        assert link.peer.lost is not None
        self.assertEqual(link.peer.lost.type, ConnectionDone)
        self.assertLeftNothing()

    def test_peer_that_takes_nothing(self) -> None:
        """A peer that takes nothing of what it was sent is dropped."""
        link = self.link(capacity=5000, closeTimeout=5.0)
        link.wire.pauseProducing()
        link.tls.write(LARGE)
        link.tls.loseConnection()
        link.wait(4)
        self.assertFalse(link.app.reasons)
        link.wait(3)
        self.assertEqual(link.app.reason.type, TimeoutError)
        self.assertLeftNothing()

    def test_peer_that_takes_nothing_after_its_close(self) -> None:
        """The same when it was the peer who closed."""
        link = self.link(capacity=5000, closeTimeout=5.0, answers=False)
        link.wire.pauseProducing()
        link.tls.write(LARGE)
        link.peer.close()
        link.wait(4)
        self.assertFalse(link.app.reasons)
        link.wait(3)
        self.assertEqual(link.app.reason.type, TimeoutError)
        self.assertLeftNothing()

    @holds_on_stock
    def test_slow_reader(self) -> None:
        """A peer that is slow but takes what it is sent gets all of it, however long that takes."""
        link = self.link(capacity=5000, closeTimeout=5.0)
        link.wire.pauseProducing()
        link.tls.write(LARGE)
        link.tls.loseConnection()
        link.settle()
        while link.transport.connected and self.clock.seconds() < 1000:
            link.wait(2)
            if link.wire.connected:
                link.wire.doRead()
        self.assertEqual(link.peer.received, LARGE)
        self.assertGreater(self.clock.seconds(), 400)
        self.assertEqual(link.app.reason.type, ConnectionDone)

    @holds_on_stock
    def test_close_answered_late(self) -> None:
        """The deadline is gone once the peer has closed."""
        link = self.link(answers=False, closeTimeout=5.0)
        link.tls.loseConnection()
        link.wait(4)
        link.peer.close()
        link.settle()
        self.assertEqual(link.app.reason.type, ConnectionDone)
        self.assertLeftNothing()

    def test_idle(self) -> None:
        """A connection on which nothing happens is closed, and the reason says so."""
        link = self.link(idleTimeout=5.0)
        link.wait(4)
        self.assertFalse(link.app.reasons)
        link.wait(3)
        self.assertTrue(link.peer.closed)
        self.assertEqual(link.app.reason.type, TimeoutError)
        self.assertIn("5 seconds", str(link.app.reason.value))
        self.assertLeftNothing()

    def test_not_idle(self) -> None:
        """It stays while something comes, or while something goes."""
        link = self.link(idleTimeout=5.0)
        for _ in range(20):
            link.peer.send(b"x")
            link.wait(2)
        for _ in range(20):
            link.tls.write(b"x")
            link.wait(2)
        self.assertFalse(link.app.reasons)
        link.wait(7)
        self.assertEqual(link.app.reason.type, TimeoutError)

    def test_idle_reader(self) -> None:
        """A slow reader is not idle; one that takes nothing is dropped."""
        link = self.link(idleTimeout=5.0, capacity=5000)
        link.wire.pauseProducing()
        link.tls.write(LARGE)
        for _ in range(10):
            link.wait(3)
            link.wire.doRead()
        self.assertFalse(link.app.reasons)
        link.wait(7)
        self.assertEqual(link.app.reason.type, TimeoutError)
        self.assertTrue(link.transport.disconnected)
        self.assertLeftNothing()

    def test_idle_producer(self) -> None:
        """A producer that produces nothing does not keep it."""
        link = self.link(idleTimeout=5.0)
        link.tls.registerProducer(Producer(link.tls), True)
        link.wait(7)
        self.assertEqual(link.app.reason.type, TimeoutError)
        self.assertLeftNothing()

    def test_given_clock(self) -> None:
        """The factory's clock runs the deadlines, not that of the transport."""
        clock = Clock()
        link = self.link(begin=False, clock=clock, handshakeTimeout=7.0)
        link.transport.begin()
        link.wait(100)
        self.assertFalse(link.app.reasons)
        clock.advance(7)
        link.settle()
        self.assertEqual(link.app.reason.type, TimeoutError)
        self.assertEqual(clock.getDelayedCalls(), [])


class ClockTests(SynchronousTestCase):
    """Which clock a factory of ours uses when it was given none."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.patch(tls, "_get_default_clock", lambda: self.clock)

    def protocol(self, transport: Any, **settings: Any) -> Any:
        factory = TLSConnectorFactory(server_options(), False, Factory.forProtocol(App), **settings)
        self.assertIs(factory._clock, self.clock)
        protocol = factory.buildProtocol(None)
        assert protocol is not None
        protocol.makeConnection(transport)
        return protocol

    def test_transport_without_time(self) -> None:
        """On a transport that has no reactor nothing is timed."""
        self.protocol(StringTransport())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_transport_with_half_a_reactor(self) -> None:
        """Nor on one whose reactor has no time."""
        transport = StringTransport()
        transport.reactor = object()  # type: ignore[attr-defined]
        self.protocol(transport)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_reactor_of_the_transport(self) -> None:
        """Deadlines run on the reactor of the transport."""
        transport = StringTransport()
        transport.reactor = clock = Clock()  # type: ignore[attr-defined]
        self.protocol(transport)
        [deadline] = clock.getDelayedCalls()
        self.assertEqual(deadline.getTime(), 10)

    def test_settings(self) -> None:
        """The constructor's settings are the factory's attributes, and C{None} is never."""
        transport = StringTransport()
        transport.reactor = clock = Clock()  # type: ignore[attr-defined]
        protocol = self.protocol(
            transport, handshakeTimeout=None, closeTimeout=1.5, idleTimeout=2.5
        )
        self.assertEqual(clock.getDelayedCalls(), [])
        factory = protocol.factory
        self.assertEqual((factory.closeTimeout, factory.idleTimeout), (1.5, 2.5))
        self.assertTrue(factory.startsHandshake)
        defaults = TLSConnectorFactory(server_options(), False, Factory.forProtocol(App))
        self.assertEqual(
            (defaults.handshakeTimeout, defaults.closeTimeout, defaults.idleTimeout), (10, 30, None)
        )
