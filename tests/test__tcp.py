"""
Tests for the transports of L{twisted_bioconn._tcp}, as Twisted's users know them.

All of these run on Twisted's own reactor too: a test that failed there would ask of ours what
nobody has.  How connections end is in L{tests.test__tcp_closing}, ports are in
L{tests.test__tcp_port}, and what ours alone can do is in L{tests.test__tcp_stream}.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet import _newtls
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import (
    ConnectionDone,
    ConnectionRefusedError,
    TimeoutError,
    UserError,
)
from twisted.internet.interfaces import ITCPTransport

from tests.programs import require_ipv6
from tests.protocol_material import App, client_options, server_options
from tests.reactor_material import (
    LARGE,
    Made,
    OneClient,
    ReactorCase,
    making,
    taken,
    twisteds_reactor,
)
from twisted_bioconn.protocol import TLSConnectorFactory


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
                self.until(lambda other, size: len(other.received) >= size, other, size)
                self.assertEqual(other.received, data)
                other.transport.writeSequence([data[:7], b"", data[7:]])
                self.until(lambda one, size: len(one.received) >= size, one, size)
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
            self.until(lambda one, other: one.received and other.received, one, other)
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
            self.until(lambda one: one.received, one)
            self.assertEqual(one.received, b"late")

    def test_paused_when_data_comes(self) -> None:
        for one, other in self.ends(making(data=lambda app: app.transport.pauseProducing())):
            other.transport.write(b"x")
            self.until(lambda one: one.received, one)
            other.transport.write(b"y")
            self.turn(5)
            self.assertEqual(one.received, b"x")

    def test_error_in_data_received(self) -> None:
        """It is logged, and the connection lost with it."""

        def fail(app: App) -> None:
            raise ValueError("in dataReceived")

        for one, other in self.ends(making(data=fail)):
            other.transport.write(b"x")
            self.until_lost(one, other)
            self.assertIsInstance(one.reason.value, ValueError)
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_error_in_connection_lost(self) -> None:
        """It is logged, and the reactor goes on."""

        def fail(app: App) -> None:
            raise ValueError("in connectionLost")

        for ends in ("loseConnection", "abortConnection"):
            for one, other in self.ends(making(lost=fail)):
                getattr(one.transport, ends)()
                self.until_lost(one, other)
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
            self.until(lambda other: len(other.received) == 100_000, other)
            self.until(lambda one: one.transport.producer is None, one)
            self.assertEqual(producer.did, ["resume"] * 101)

    def test_stopped(self) -> None:
        """A producer is told of the end, and one that comes too late at once."""
        for end in ("loseConnection", "abortConnection"):
            for one, other in self.ends(App):
                producer = Producer(one.transport, 0, 0)
                one.transport.registerProducer(producer, True)
                getattr(other.transport, end)()
                self.until_lost(one)
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
        self.until_lost(app)
        self.assertIsInstance(app.reason.value, ConnectionDone)

    def test_lose_with_a_pull_producer(self) -> None:
        for one, other in self.ends(App):
            producer = Pulled(one.transport, 10, 1000)
            one.transport.registerProducer(producer, False)
            one.transport.loseConnection()
            self.until_lost(one, other)
            self.assertEqual(len(other.received), 10_000)

    def test_lose_then_pull_producer(self) -> None:
        """One that comes after that is heard as well, until it unregisters itself."""
        for one, other in self.ends(App):
            one.transport.loseConnection()
            producer = Pulled(one.transport, 10, 1000)
            one.transport.registerProducer(producer, False)
            self.until_lost(one, other)
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
            self.until_lost(one, other)
            self.assertEqual(len(other.received), 1000)


class FactsTests(ReactorCase):
    """What a transport can be asked."""

    def test_addresses(self) -> None:
        for interface, kind in (("127.0.0.1", IPv4Address), ("::1", IPv6Address)):
            if kind is IPv6Address:
                require_ipv6()
            factory = Made()
            port = self.listen(factory, interface)
            client = self.connect(App(), port)
            self.until(lambda factory: factory.made, factory)
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
            self.until_lost(one, other)
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
            self.until(lambda one: one.received == b"plain", one)
            # Whoever connected is the client, by itself.
            accepted = not one.transport._tlsClientDefault
            one.transport.startTLS(server_options() if accepted else client_options())
            other.transport.startTLS(client_options() if accepted else server_options())
            one.transport.write(b"secret")
            other.transport.write(LARGE)
            self.until(
                lambda one, other: (
                    other.received == b"secret" and len(one.received) == 5 + len(LARGE)
                ),
                one,
                other,
            )
            self.assertTrue(one.transport.TLS)
            one.transport.loseConnection()
            self.until_lost(one, other)
            for app in (one, other):
                self.assertIsInstance(app.reason.value, ConnectionDone)

    def test_tls_in_the_other_direction(self) -> None:
        self.patch(_newtls, "TLSMemoryBIOFactory", TLSConnectorFactory)
        for one, other in self.ends(App):
            accepted = not one.transport._tlsClientDefault
            one.transport.startTLS(client_options() if accepted else server_options(), False)
            other.transport.startTLS(server_options() if accepted else client_options(), False)
            one.transport.write(b"secret")
            self.until(lambda other: other.received, other)
            self.assertEqual(other.received, b"secret")
            other.transport.abortConnection()
            self.until_lost(one)


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
        self.until_lost(app)
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
            if give_up:
                self.turn(3)
                self.assertIsNone(factory.failed)
                connector.stopConnecting()
            self.until(lambda factory: factory.failed, factory)
            assert factory.failed is not None
            kind = UserError if give_up else TimeoutError
            self.assertIsInstance(factory.failed.value, kind)

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

    make_reactor = staticmethod(twisteds_reactor)


class TwistedsProducerTests(ProducerTests):
    """The same of Twisted's own reactor."""

    make_reactor = staticmethod(twisteds_reactor)


class TwistedsFactsTests(FactsTests):
    """The same of Twisted's own reactor."""

    make_reactor = staticmethod(twisteds_reactor)


class TwistedsConnectingTests(ConnectingTests):
    """The same of Twisted's own reactor."""

    make_reactor = staticmethod(twisteds_reactor)
