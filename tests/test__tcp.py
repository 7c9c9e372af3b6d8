"""
Tests for the transports of L{twisted_bioconn._tcp}, as Twisted's users know them.

All of these run on Twisted's own reactor too: a test that failed there would ask of ours what
nobody has.  Ports are in L{tests.test__tcp_port}, and what ours alone can do is in
L{tests.test__tcp_stream}.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import _newtls
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.interfaces import ITCPTransport

from tests.protocol_material import App, HalfApp, client_options, server_options
from tests.reactor_material import (
    LARGE,
    Made,
    OneClient,
    ReactorCase,
    reset,
    taken,
    twisteds_reactor,
)
from twisted_bioconn.protocol import TLSConnectorFactory

Does = Callable[[App], object]


def making(kind: type[App] = App, **hooks: Does) -> Callable[[], App]:
    """What makes an application with these hooks."""
    return lambda: kind(**hooks)


class Producer:
    """Writes pieces of data to a transport when it is asked to, and notes what it is told."""

    def __init__(self, transport: Any, pieces: int, size: int) -> None:
        self.transport = transport
        self.left = pieces
        self.size = size
        self.paused = False
        self.did: list[str] = []

    def resumeProducing(self) -> None:
        self.did.append("resume")
        self.paused = False

    def pauseProducing(self) -> None:
        self.did.append("pause")
        self.paused = True

    def stopProducing(self) -> None:
        self.did.append("stop")

    def push(self) -> None:
        """Write until it is paused."""
        while self.left and not self.paused:
            self.left -= 1
            self.transport.write(b"p" * self.size)


class Pulled(Producer):
    """Writes a piece each time it is asked, and then unregisters itself."""

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if self.left:
            self.left -= 1
            self.transport.write(b"p" * self.size)
        else:
            self.transport.unregisterProducer()


class DataTests(ReactorCase):
    """What is written arrives."""

    def test_sizes(self) -> None:
        """Small, a record, what is received at once, one more, and much."""
        for size in (1, 1 << 14, 1 << 16, 1 << 18, (1 << 18) + 1, len(LARGE)):
            for one, other in self.ends(App):
                data = LARGE[:size]
                one.transport.write(data)
                self.until(lambda other=other, size=size: len(other.received) >= size)
                self.assertEqual(other.received, data)
                other.transport.writeSequence([data[:7], b"", data[7:]])
                self.until(lambda one=one, size=size: len(one.received) >= size)
                self.assertEqual(one.received, data)

    def test_nothing(self) -> None:
        """Nothing is written, and nothing happens."""
        for one, other in self.ends(App):
            one.transport.write(b"")
            one.transport.writeSequence([])
            self.turn(3)
            self.assertEqual((one.did, other.did), (["made"], ["made"]))

    def test_not_bytes(self) -> None:
        for one, _ in self.ends(App):
            self.assertRaises(TypeError, one.transport.write, "text")
            self.assertRaises(TypeError, one.transport.writeSequence, [b"x", "text"])

    def test_written_when_made(self) -> None:
        """What is written in C{connectionMade} arrives, from both ends."""
        made = making(made=lambda app: app.transport.write(b"hello"))
        for one, other in self.ends(made, made):
            self.until(lambda one=one, other=other: one.received and other.received)
            self.assertEqual((one.received, other.received), (b"hello", b"hello"))

    def test_slow_reader(self) -> None:
        """Nothing is lost where the other end reads late."""
        app, peer = self.accepted()
        app.transport.write(LARGE)
        app.transport.write(b"end")
        self.turn(5)
        self.assertEqual(self.received_by(peer, len(LARGE) + 3), LARGE + b"end")

    def test_paused(self) -> None:
        """A transport that is paused delivers nothing, and later all of it."""
        for one, other in self.ends(App):
            one.transport.pauseProducing()
            other.transport.write(b"late")
            self.turn(5)
            self.assertEqual(one.received, b"")
            one.transport.resumeProducing()
            self.until(lambda one=one: one.received)
            self.assertEqual(one.received, b"late")

    def test_paused_when_data_comes(self) -> None:
        for one, other in self.ends(making(data=lambda app: app.transport.pauseProducing())):
            other.transport.write(b"x")
            self.until(lambda one=one: one.received)
            other.transport.write(b"y")
            self.turn(5)
            self.assertEqual(one.received, b"x")

    def test_error_in_data_received(self) -> None:
        """It is logged, and the connection lost with it."""

        def fail(app: App) -> None:
            raise ValueError("in dataReceived")

        for one, other in self.ends(making(data=fail)):
            other.transport.write(b"x")
            self.until(lambda one=one, other=other: one.reasons and other.reasons)
            self.assertIsInstance(one.reason.value, ValueError)
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_error_in_connection_lost(self) -> None:
        """It is logged, and the reactor goes on."""

        def fail(app: App) -> None:
            raise ValueError("in connectionLost")

        for ends in ("loseConnection", "abortConnection"):
            for one, other in self.ends(making(lost=fail)):
                getattr(one.transport, ends)()
                self.until(lambda one=one, other=other: one.reasons and other.reasons)
                self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class ProducerTests(ReactorCase):
    """Producers are paused and resumed, asked, and stopped."""

    def test_push(self) -> None:
        app, peer = self.accepted()
        producer = Producer(app.transport, 3, len(LARGE))
        app.transport.registerProducer(producer, True)
        self.assertRaises(RuntimeError, app.transport.registerProducer, producer, True)
        while producer.left:
            producer.push()
            self.turn(5)
            self.assertEqual(producer.did, ["pause"])
            # Only when all of it is out is it asked for more.
            self.until(lambda: taken(peer) and producer.did != ["pause"])
            self.assertEqual(producer.did, ["pause", "resume"])
            producer.did.clear()
        app.transport.unregisterProducer()

    def test_pull(self) -> None:
        for one, other in self.ends(App):
            producer = Pulled(one.transport, 100, 1000)
            one.transport.registerProducer(producer, False)
            self.assertEqual(producer.did, ["resume"])
            self.until(lambda other=other: len(other.received) == 100_000)
            self.until(lambda one=one: one.transport.producer is None)
            self.assertEqual(producer.did, ["resume"] * 101)

    def test_stopped(self) -> None:
        """A producer is told of the end, and one that comes too late at once."""
        for end in ("loseConnection", "abortConnection"):
            for one, other in self.ends(App):
                producer = Producer(one.transport, 0, 0)
                one.transport.registerProducer(producer, True)
                getattr(other.transport, end)()
                self.until(lambda one=one: one.reasons)
                self.assertEqual(producer.did, ["stop"])
                self.assertIsNone(one.transport.producer)
                late = Producer(one.transport, 0, 0)
                one.transport.registerProducer(late, True)
                self.assertEqual(late.did, ["stop"])
                one.transport.unregisterProducer()
                one.transport.stopConsuming()

    def test_lose_with_a_producer(self) -> None:
        """A connection that is told to close waits for a producer that has been paused."""
        app, peer = self.accepted()
        producer = Producer(app.transport, 1, len(LARGE))
        app.transport.registerProducer(producer, True)
        producer.push()
        app.transport.loseConnection()
        self.until(lambda: taken(peer) == b"" and producer.did == ["pause", "resume"])
        self.turn(5)
        self.assertEqual(app.reasons, [])
        app.transport.write(b"last")
        app.transport.unregisterProducer()
        self.assertTrue(self.end_of(peer).endswith(b"last"))
        self.until(lambda: app.reasons)
        self.assertIsInstance(app.reason.value, ConnectionDone)

    def test_lose_with_a_pull_producer(self) -> None:
        for one, other in self.ends(App):
            producer = Pulled(one.transport, 10, 1000)
            one.transport.registerProducer(producer, False)
            one.transport.loseConnection()
            self.until(lambda one=one, other=other: one.reasons and other.reasons)
            self.assertEqual(len(other.received), 10_000)

    def test_lose_then_pull_producer(self) -> None:
        """One that comes after that is heard as well, until it unregisters itself."""
        for one, other in self.ends(App):
            one.transport.loseConnection()
            producer = Pulled(one.transport, 10, 1000)
            one.transport.registerProducer(producer, False)
            self.until(lambda one=one, other=other: one.reasons and other.reasons)
            self.assertEqual(len(other.received), 10_000)

    def test_lose_then_slow_pull_producer(self) -> None:
        """It may take its time for the first byte."""

        class Slow(Producer):
            """Writes nothing until it is told."""

        for one, other in self.ends(App):
            one.transport.loseConnection()
            producer = Slow(one.transport, 1, 1000)
            one.transport.registerProducer(producer, False)
            self.turn(5)
            self.assertEqual(one.reasons, [])
            producer.push()
            one.transport.unregisterProducer()
            self.until(lambda one=one, other=other: one.reasons and other.reasons)
            self.assertEqual(len(other.received), 1000)


class LosingTests(ReactorCase):
    """C{loseConnection} and C{abortConnection}, in every state, and what both ends are told."""

    def lost(self, one: App, other: App) -> None:
        """Wait for the end of both."""
        self.until(lambda: one.reasons and other.reasons)
        self.turn(3)
        self.assertEqual(one.did[-1], "lost")
        self.assertEqual(self.reactor.getWriters(), [])
        self.assertNotIn(one.transport, self.reactor.getReaders())
        for app in (one, other):
            self.assertEqual(len(app.reasons), 1)
            self.assertFalse(app.transport.connected)
            self.assertTrue(app.transport.disconnected)
            self.assertEqual(app.transport.fileno(), -1)

    def assert_clean(self, *apps: App) -> None:
        for app in apps:
            self.assertIsInstance(app.reason.value, ConnectionDone)

    def test_nothing_queued(self) -> None:
        """The protocol is told in a later turn, not within the call."""
        for one, other in self.ends(App):
            one.transport.loseConnection()
            self.assertEqual(one.reasons, [])
            self.assertTrue(one.transport.disconnecting)
            self.lost(one, other)
            self.assert_clean(one, other)

    def test_queued(self) -> None:
        """All that was written goes out before."""
        for one, other in self.ends(App):
            one.transport.write(LARGE)
            one.transport.loseConnection()
            self.lost(one, other)
            self.assertEqual(other.received, LARGE)
            self.assert_clean(one, other)

    def test_after_all_was_sent(self) -> None:
        for one, other in self.ends(App):
            one.transport.write(b"sent")
            self.until(lambda other=other: other.received)
            one.transport.loseConnection()
            self.lost(one, other)
            self.assert_clean(one, other)

    def test_twice(self) -> None:
        for data in (b"", b"queued"):
            for one, other in self.ends(App):
                one.transport.write(data)
                one.transport.loseConnection()
                one.transport.loseConnection()
                self.lost(one, other)
                one.transport.loseConnection()
                self.assertEqual(other.received, data)
                self.assert_clean(one, other)

    def test_then_written(self) -> None:
        """What is written just after goes out too, much or little."""
        for data in (b"late", LARGE):
            for one, other in self.ends(App):
                one.transport.loseConnection()
                one.transport.write(data)
                self.lost(one, other)
                self.assertEqual(other.received, data)
                self.assert_clean(one, other)

    def test_then_aborted(self) -> None:
        for data in (b"", LARGE):
            for one, other in self.ends(App):
                one.transport.write(data)
                one.transport.loseConnection()
                one.transport.abortConnection()
                self.lost(one, other)
                self.assertIsInstance(one.reason.value, ConnectionAborted)
                self.assertIsInstance(other.reason.value, ConnectionLost)

    def test_aborted_in_the_turn_after(self) -> None:
        """By a delayed call, which may come before or after the end."""
        for one, other in self.ends(App):
            self.reactor.callLater(0, one.transport.abortConnection)
            one.transport.loseConnection()
            self.lost(one, other)

    def test_aborted_then_lost(self) -> None:
        for one, other in self.ends(App):
            one.transport.write(b"dropped")
            one.transport.abortConnection()
            one.transport.loseConnection()
            one.transport.abortConnection()
            one.transport.write(b"dropped")
            self.assertEqual(one.reasons, [])
            self.lost(one, other)
            self.assertEqual(other.received, b"")
            self.assertIsInstance(one.reason.value, ConnectionAborted)
            self.assertIsInstance(other.reason.value, ConnectionLost)
            one.transport.abortConnection()

    def test_when_data_comes(self) -> None:
        """Together with an answer, and without."""
        for answer in (b"", b"answer"):

            def close(app: App, answer: bytes = answer) -> None:
                app.transport.write(answer)
                app.transport.loseConnection()

            for one, other in self.ends(making(data=close)):
                other.transport.write(b"x")
                self.lost(one, other)
                self.assertEqual(other.received, answer)
                self.assert_clean(one, other)

    def test_no_data_after(self) -> None:
        """What comes in after the call is for nobody."""
        for one, other in self.ends(App):
            other.transport.write(b"x" * 10)
            one.transport.loseConnection()
            one.transport.resumeProducing()
            self.lost(one, other)
            self.assertEqual(one.did, ["made", "lost"])

    def test_when_made(self) -> None:
        for one, other in self.ends(making(made=lambda app: app.transport.loseConnection())):
            self.lost(one, other)
            self.assert_clean(one, other)
            self.assertEqual(one.did, ["made", "lost"])

    def test_aborted_when_made(self) -> None:
        for one, other in self.ends(making(made=lambda app: app.transport.abortConnection())):
            self.lost(one, other)
            self.assertIsInstance(one.reason.value, ConnectionAborted)
            self.assertIsInstance(other.reason.value, ConnectionLost)

    def test_aborted_when_data_comes(self) -> None:
        """Also where that raises an exception afterwards."""

        def abort(app: App) -> None:
            app.transport.abortConnection()
            raise ValueError("in dataReceived")

        for one, other in self.ends(making(data=abort)):
            other.transport.write(b"x")
            self.lost(one, other)
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_both_at_once(self) -> None:
        for one, other in self.ends(App):
            one.transport.loseConnection()
            other.transport.loseConnection()
            self.lost(one, other)
            self.assert_clean(one, other)

    def test_lost_when_the_other_is_lost(self) -> None:
        """To call these in C{connectionLost} and after it is nothing."""

        def again(app: App) -> None:
            for name in ("loseConnection", "abortConnection", "stopReading", "stopWriting"):
                getattr(app.transport, name)()
            app.transport.write(b"to nobody")
            app.transport.writeSequence([b"to", b"nobody"])

        for one, other in self.ends(making(lost=again)):
            other.transport.loseConnection()
            self.lost(one, other)
            again(one)
            self.turn(3)
            self.assert_clean(one, other)

    def test_reset_while_receiving(self) -> None:
        app, peer = self.accepted()
        reset(peer)
        self.until(lambda: app.reasons)
        self.assertIsInstance(app.reason.value, ConnectionLost)

    def test_reset_while_sending(self) -> None:
        for reads in (True, False):
            app, peer = self.accepted()
            if not reads:
                app.transport.pauseProducing()
            app.transport.write(LARGE)
            self.turn(3)
            reset(peer)
            self.until(lambda app=app: app.reasons)
            self.assertIsInstance(app.reason.value, ConnectionLost)

    def test_reset_after_lose(self) -> None:
        """The peer breaks off what we were about to close."""
        for data in (b"", LARGE):
            app, peer = self.accepted()
            app.transport.write(data)
            self.turn(2)
            app.transport.loseConnection()
            reset(peer)
            self.until(lambda app=app: app.reasons)
            # With nothing to be sent, either may come first.
            expected = ConnectionLost if data else (ConnectionLost, ConnectionDone)
            self.assertIsInstance(app.reason.value, expected)


class HalfTests(ReactorCase):
    """Either direction is closed alone."""

    def test_write_side(self) -> None:
        """The other end hears the end, and may go on sending."""
        for one, other in self.ends(making(HalfApp), making(HalfApp)):
            one.transport.write(b"question")
            one.transport.loseWriteConnection()
            self.until(lambda one=one, other=other: other.did[-1] == "read lost")
            self.assertEqual(other.received, b"question")
            self.assertEqual(one.did, ["made", "write lost"])
            one.transport.write(b"too late")
            other.transport.write(b"answer")
            other.transport.loseConnection()
            self.until(lambda one=one, other=other: one.did[-1] == "read lost" and other.reasons)
            self.assertEqual(one.received, b"answer")
            self.assertEqual(one.reasons, [])
            # There is nothing left to be sent, and nobody to tell.
            one.transport.loseConnection()
            self.assertEqual(len(one.reasons), 1)
            self.assertIsInstance(one.reason.value, ConnectionDone)

    def test_both_sides(self) -> None:
        for one, other in self.ends(making(HalfApp), making(HalfApp)):
            one.transport.loseWriteConnection()
            other.transport.loseWriteConnection()
            self.until(
                lambda one=one, other=other: "read lost" in one.did and "read lost" in other.did
            )
            for app in (one, other):
                self.assertEqual(sorted(app.did), ["made", "read lost", "write lost"])
                app.transport.loseConnection()
                self.assertIsInstance(app.reason.value, ConnectionDone)

    def test_nobody_to_tell(self) -> None:
        """An application that cannot do that loses the connection."""
        for one, other in self.ends(App):
            other.transport.write(b"x")
            other.transport.loseWriteConnection()
            self.until(lambda one=one, other=other: one.reasons and other.reasons)
            self.assertEqual(one.received, b"x")
            self.assertIsInstance(one.reason.value, ConnectionDone)

    def test_lose_when_the_other_has_ended(self) -> None:
        """In C{readConnectionLost}, with something to say and with nothing."""
        for data in (b"", b"goodbye", LARGE):

            def close(app: App, data: bytes = data) -> None:
                app.transport.write(data)
                app.transport.loseConnection()

            for one, other in self.ends(making(HalfApp, **{"read lost": close}), making(HalfApp)):
                other.transport.loseWriteConnection()
                self.until(
                    lambda one=one, other=other: one.reasons and other.did[-1] == "read lost"
                )
                self.assertEqual(other.received, data)
                self.assertIsInstance(one.reason.value, ConnectionDone)

    def test_lose_while_the_write_side_is_closing(self) -> None:
        """C{loseConnection} before the half-close has come about."""
        for data in (b"", b"x", LARGE):
            for one, other in self.ends(App):
                one.transport.write(data)
                one.transport.loseWriteConnection()
                one.transport.loseConnection()
                self.until(lambda one=one, other=other: one.reasons and other.reasons)
                self.assertEqual(other.received, data)
                self.assertIsInstance(one.reason.value, ConnectionDone)

    def test_half_close_after_lose(self) -> None:
        for one, other in self.ends(making(HalfApp)):
            one.transport.loseConnection()
            one.transport.loseWriteConnection()
            self.until(lambda one=one, other=other: one.reasons and other.reasons)
            self.assertEqual(one.did, ["made", "lost"])

    def test_errors(self) -> None:
        """An exception in either of the two methods is logged, and the connection lost with it."""

        def fail(app: App) -> None:
            raise ValueError("no")

        for what in ("read lost", "write lost"):
            for one, other in self.ends(making(HalfApp, **{what: fail})):
                (one if what == "write lost" else other).transport.loseWriteConnection()
                self.until(lambda one=one: one.reasons)
                self.assertIsInstance(one.reason.value, ValueError)
                self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
                other.transport.abortConnection()


class FactsTests(ReactorCase):
    """What a transport can be asked."""

    def test_addresses(self) -> None:
        for interface, kind in (("127.0.0.1", IPv4Address), ("::1", IPv6Address)):
            factory = Made()
            port = self.listen(factory, interface)
            client = self.connect(App(), port)
            self.until(lambda factory=factory: factory.made)
            [server] = factory.made
            self.assertEqual(client.transport.getPeer(), port.getHost())
            self.assertEqual(server.transport.getHost(), port.getHost())
            self.assertEqual(server.transport.getPeer(), client.transport.getHost())
            self.assertEqual(factory.peers, [client.transport.getHost()])
            for address in (client.transport.getPeer(), server.transport.getPeer()):
                self.assertIsInstance(address, kind)
                self.assertEqual(address.host, interface)

    def test_names(self) -> None:
        """How it is shown, and what the log calls it."""
        factory = Made()
        port = self.listen(factory)
        number = port.getHost().port
        for _ in range(2):
            self.connect(App(), port)
        self.until(lambda: len(factory.made) == 2)
        for session, app in enumerate(factory.made):
            self.assertEqual(repr(app.transport), f"<App #{session} on {number}>")
            self.assertEqual(app.transport.logPrefix(), f"App,{session},127.0.0.1")
            self.assertEqual(app.transport.hostname, "127.0.0.1")
            self.assertEqual(app.transport.sessionno, session)
            self.assertIs(app.transport.server, port)

    def test_names_when_lost(self) -> None:
        """They are there when the connection is lost, when most is logged."""
        said: list[object] = []

        def say(app: App) -> None:
            said.extend([repr(app.transport), app.transport.logPrefix()])

        for one, other in self.ends(making(lost=say)):
            one.transport.loseConnection()
            self.until(lambda one=one, other=other: one.reasons and other.reasons)
            say(one)
        self.assertEqual(len(said), 4 * (3 if len(said) == 12 else 2))
        for text in said:
            self.assertIsInstance(text, str)

    def test_options(self) -> None:
        for one, _ in self.ends(App):
            transport = one.transport
            self.assertTrue(ITCPTransport.providedBy(transport))
            for name in ("TcpNoDelay", "TcpKeepAlive"):
                for value in (True, False):
                    getattr(transport, f"set{name}")(value)
                    self.assertIs(getattr(transport, f"get{name}")(), value)
            self.assertIs(transport.getHandle(), transport.socket)
            self.assertEqual(transport.getHandle().fileno(), transport.fileno())
            self.assertFalse(transport.getHandle().getblocking())
            self.assertFalse(os.get_inheritable(transport.fileno()))

    def test_tls(self) -> None:
        """TLS begins on a connection that was plain, from either end, and is closed."""
        self.patch(_newtls, "TLSMemoryBIOFactory", TLSConnectorFactory)
        for one, other in self.ends(App):
            other.transport.write(b"plain")
            self.until(lambda one=one: one.received == b"plain")
            # Whoever connected is the client, by itself.
            accepted = not one.transport._tlsClientDefault
            one.transport.startTLS(server_options() if accepted else client_options())
            other.transport.startTLS(client_options() if accepted else server_options())
            one.transport.write(b"secret")
            other.transport.write(LARGE)
            self.until(
                lambda one=one, other=other: (
                    other.received == b"secret" and len(one.received) == 5 + len(LARGE)
                )
            )
            self.assertTrue(one.transport.TLS)
            one.transport.loseConnection()
            self.until(lambda one=one, other=other: one.reasons and other.reasons)
            for app in (one, other):
                self.assertIsInstance(app.reason.value, ConnectionDone)

    def test_tls_in_the_other_direction(self) -> None:
        self.patch(_newtls, "TLSMemoryBIOFactory", TLSConnectorFactory)
        for one, other in self.ends(App):
            accepted = not one.transport._tlsClientDefault
            one.transport.startTLS(client_options() if accepted else server_options(), False)
            other.transport.startTLS(server_options() if accepted else client_options(), False)
            one.transport.write(b"secret")
            self.until(lambda other=other: other.received)
            self.assertEqual(other.received, b"secret")
            other.transport.abortConnection()
            self.until(lambda one=one: one.reasons)


class ConnectingTests(ReactorCase):
    """What C{connectTCP} does besides connecting."""

    def test_refused(self) -> None:
        port = self.listen(Made())
        number = port.getHost().port
        port.stopListening()
        self.turn(2)
        factory = OneClient(App())
        self.reactor.connectTCP("127.0.0.1", number, factory)
        self.until(lambda: factory.failed)
        assert factory.failed is not None
        self.assertIsInstance(factory.failed.value, ConnectionRefusedError)

    def test_no_protocol(self) -> None:
        """The connection is closed at once."""
        served = Made()
        port = self.listen(served)
        factory = OneClient(None)
        self.reactor.connectTCP("127.0.0.1", port.getHost().port, factory)
        self.until(lambda: factory.lost and served.made and served.made[0].reasons)
        self.assertIsInstance(served.made[0].reason.value, ConnectionDone)

    def test_reconnects(self) -> None:
        """A connector connects again."""
        served = Made()
        app = App()
        self.connect(app, self.listen(served))
        app.transport.loseConnection()
        self.until(lambda: app.reasons)
        self.connector.connect()
        self.until(lambda: len(served.made) == 2 and app.did.count("made") == 2)
        self.connector.disconnect()
        self.until(lambda: len(app.reasons) == 2)
        for reason in app.reasons:
            self.assertIsInstance(reason.value, ConnectionDone)

    def test_given_up(self) -> None:
        """A connection that is given up while it is made, and one that takes too long."""
        full = socket.socket()
        self.opened.append(full)
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(2):
            queued = socket.socket()
            self.opened.append(queued)
            queued.setblocking(False)
            queued.connect_ex(full.getsockname())
        for give_up in (True, False):
            factory = OneClient(App())
            connector = self.reactor.connectTCP(
                *full.getsockname(), factory, timeout=30 if give_up else 0.05
            )
            self.turn(3)
            self.assertIsNone(factory.failed)
            if give_up:
                connector.stopConnecting()
            self.until(lambda factory=factory: factory.failed)

    def test_from_an_address(self) -> None:
        served = Made()
        port = self.listen(served, "")
        factory = OneClient(App())
        self.reactor.connectTCP(
            "127.0.0.1", port.getHost().port, factory, bindAddress=("127.0.0.2", 0)
        )
        self.until(lambda: served.made)
        self.assertEqual(served.peers[0].host, "127.0.0.2")  # type: ignore[union-attr]


class TwistedsDataTests(DataTests):
    """The same of Twisted's own reactor."""

    make_reactor = staticmethod(twisteds_reactor)  # type: ignore[assignment]


class TwistedsProducerTests(ProducerTests):
    """The same of Twisted's own reactor."""

    make_reactor = staticmethod(twisteds_reactor)  # type: ignore[assignment]


class TwistedsLosingTests(LosingTests):
    """The same of Twisted's own reactor."""

    make_reactor = staticmethod(twisteds_reactor)  # type: ignore[assignment]


class TwistedsHalfTests(HalfTests):
    """The same of Twisted's own reactor."""

    make_reactor = staticmethod(twisteds_reactor)  # type: ignore[assignment]


class TwistedsFactsTests(FactsTests):
    """The same of Twisted's own reactor."""

    make_reactor = staticmethod(twisteds_reactor)  # type: ignore[assignment]


class TwistedsConnectingTests(ConnectingTests):
    """The same of Twisted's own reactor."""

    make_reactor = staticmethod(twisteds_reactor)  # type: ignore[assignment]
