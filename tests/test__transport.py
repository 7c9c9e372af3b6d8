"""Tests for L{twisted_bioconn._transport}."""

from __future__ import annotations

from typing import Any

from twisted.internet import _newtls
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.protocol_material import App, HalfApp, client_options, server_options
from tests.protocol_wire import MemoryConnection, MemorySocket, PlainConnection, Turns
from tests.reactor_material import (
    LARGE,
    Made,
    OneClient,
    ReactorCase,
    reset,
    sent_by,
    taken,
    twisteds_reactor,
)
from twisted_bioconn._openssl import Inbox
from twisted_bioconn._transport import Stream, abort, address_text, sender, unsent
from twisted_bioconn.protocol import TLSConnectorFactory


class Consumer:
    """Notes that it was told to pause."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def pauseProducing(self) -> None:
        self.did.append("pause")

    def resumeProducing(self) -> None:
        self.did.append("resume")

    def stopProducing(self) -> None:
        self.did.append("stop")


class SenderTests(ReactorCase):
    """What L{sender} makes of the transports of our reactor."""

    def begin(self, app: App | None = None) -> tuple[Any, Any, Any]:
        """An application, what sends for it, and the socket at the other end."""
        app, peer = self.accepted(app)
        return app, sender(app.transport), peer

    def test_at_once(self) -> None:
        """It is sent before the reactor's next turn, and nothing is left to be done."""
        for data in (b"bytes", bytearray(b"bytes"), memoryview(b"bytes")):
            app, send, peer = self.begin()
            send(data)
            self.assertEqual(peer.recv(100), b"bytes")
            self.assertEqual(self.reactor.getWriters(), [])
            self.assertEqual(unsent(app.transport), 0)

    def test_nothing(self) -> None:
        app, send, peer = self.begin()
        send(b"")
        self.turn(2)
        self.assertRaises(BlockingIOError, peer.recv, 1)
        self.assertEqual((app.reasons, self.reactor.getWriters()), ([], []))

    def test_by_every_end(self) -> None:
        for one, other in self.ends(App):
            sender(one.transport)(b"x")
            self.until(lambda other: other.received == b"x", other)

    def test_order(self) -> None:
        """It comes after what was written, and before what is written after it."""
        app, send, peer = self.begin()
        app.transport.write(b"1")
        send(b"2")
        self.assertRaises(BlockingIOError, peer.recv, 1)
        app.transport.write(b"3")
        send(memoryview(b"4"))
        self.assertEqual(self.received_by(peer, 4), b"1234")
        send(b"5")
        app.transport.write(b"6")
        send(b"7")
        self.assertEqual(self.received_by(peer, 3), b"567")

    def test_full(self) -> None:
        """What the kernel does not take is sent when it does, in order."""
        app, send, peer = self.begin()
        send(LARGE)
        waiting = unsent(app.transport)
        self.assertTrue(0 < waiting < len(LARGE), waiting)
        send(b"the")
        app.transport.write(b" end")
        self.assertEqual(unsent(app.transport), waiting + 7)
        self.assertEqual(self.received_by(peer, len(LARGE) + 7), LARGE + b"the end")
        self.turn(2)
        self.assertEqual(self.reactor.getWriters(), [])
        send(b"at once again")
        self.assertEqual(self.received_by(peer, 1), b"at once again")

    def test_full_for_some_turns(self) -> None:
        """It waits also for what the reactor has begun to send."""
        app, send, peer = self.begin()
        app.transport.write(LARGE)
        self.turn(3)
        self.assertEqual(app.transport._tempDataLen, 0)
        taken_first = taken(peer)
        # There is room now, but not for this.
        send(b"end")
        received = self.received_by(peer, len(LARGE) + 3 - len(taken_first))
        self.assertEqual(taken_first + received, LARGE + b"end")

    def test_full_to_the_brim(self) -> None:
        """Where the kernel takes nothing at all, it is kept."""
        app, send, peer = self.begin()
        app.transport.SEND_LIMIT = 1 << 30
        sent = sent_by(app.transport.getHandle(), LARGE)
        self.assertLess(sent, len(LARGE))
        send(b"x")
        self.assertEqual(unsent(app.transport), 1)
        self.assertEqual(self.received_by(peer, sent + 1)[-1:], b"x")

    def test_buffer_is_used_again(self) -> None:
        """Of a buffer that changes after the call, what was in it before is sent."""
        inbox = Inbox()
        size = len(inbox.view)
        for buffer in (bytearray(len(LARGE)), inbox.view):
            app, send, peer = self.begin()
            expected = b""
            for value in range(1, 100):
                buffer[:] = bytes([value]) * len(buffer)
                send(memoryview(buffer))
                buffer[:] = bytes(len(buffer))
                expected += bytes([value]) * len(buffer)
                if unsent(app.transport) > size:
                    break
            self.assertGreater(unsent(app.transport), 0)
            self.assertTrue(
                all(type(piece) is bytes for piece in app.transport._tempDataBuffer),
                "a view of the buffer was kept",
            )
            self.assertEqual(self.received_by(peer, len(expected)), expected)

    def test_only_the_rest_is_kept(self) -> None:
        app, send, peer = self.begin()
        send(LARGE)
        kept = unsent(app.transport)
        self.assertEqual(len(taken(peer)) + kept, len(LARGE))

    def test_producer_is_paused(self) -> None:
        """A producer is paused by what is kept, and not by what is sent."""
        app, send, peer = self.begin()
        producer = Consumer()
        app.transport.registerProducer(producer, True)
        send(b"x" * 100_000)
        self.assertEqual(producer.did, [])
        send(LARGE)
        self.assertEqual(producer.did, ["pause"])
        self.received_by(peer, 100_000 + len(LARGE))
        self.until(lambda: producer.did == ["pause", "resume"])

    def test_lost(self) -> None:
        """What is sent on a connection that is lost is dropped."""
        for end in ("loseConnection", "abortConnection"):
            app, send, _ = self.begin()
            getattr(app.transport, end)()
            self.until_lost(app)
            send(b"to nobody")
            send(memoryview(b"to nobody"))
            self.assertEqual(self.reactor.getWriters(), [])

    def test_lost_with_bytes_unsent(self) -> None:
        app, send, _ = self.begin()
        send(LARGE)
        app.transport.abortConnection()
        self.until_lost(app)
        kept = unsent(app.transport)
        send(LARGE)
        self.assertEqual(unsent(app.transport), kept)

    def test_in_connection_lost(self) -> None:
        def last(app: App) -> None:
            sender(app.transport)(b"to nobody")

        app, _, peer = self.begin(App(lost=last))
        peer.close()
        self.until_lost(app)

    def test_aborted(self) -> None:
        """Nothing is sent any more once the connection is being aborted."""
        app, send, peer = self.begin()
        app.transport.abortConnection()
        send(b"dropped")
        self.assertRaises(BlockingIOError, peer.recv, 100)
        self.until_lost(app)
        self.assertRaises(ConnectionResetError, peer.recv, 100)

    def test_closing(self) -> None:
        """As for what is written, there is still time to the next turn."""
        for data in (b"goodbye", LARGE):
            app, send, peer = self.begin()
            app.transport.loseConnection()
            send(data)
            self.assertEqual(self.end_of(peer), data)
            self.until_lost(app)
            self.assertIsInstance(app.reason.value, ConnectionDone)

    def test_half_closed(self) -> None:
        """What is sent before the end of this direction comes; what is sent after it does not."""
        app, send, peer = self.begin(HalfApp())
        app.transport.loseWriteConnection()
        send(b"before")
        self.until(lambda: "write lost" in app.did)
        send(b"after")
        self.assertEqual(self.end_of(peer), b"before")
        peer.send(b"still read")
        self.until(lambda: app.received)
        self.assertEqual(app.reasons, [])

    def test_reset(self) -> None:
        """The reactor finds out, not the call."""
        app, send, peer = self.begin()
        app.transport.pauseProducing()
        reset(peer)
        send(b"x")
        send(b"y")
        self.assertEqual(app.reasons, [])
        self.until_lost(app)
        self.assertIsInstance(app.reason.value, ConnectionLost)

    def test_tls(self) -> None:
        """After C{startTLS} it is encrypted."""
        self.patch(_newtls, "TLSMemoryBIOFactory", TLSConnectorFactory)
        for one, other in self.ends(App):
            send = sender(one.transport)
            accepted = not one.transport._tlsClientDefault
            one.transport.startTLS(server_options() if accepted else client_options())
            other.transport.startTLS(client_options() if accepted else server_options())
            send(b"secret")
            send(memoryview(b" too"))
            self.until(lambda other: len(other.received) == 10, other)
            self.assertEqual(other.received, b"secret too")

    def test_not_connected_yet(self) -> None:
        """Nothing can be sent before there is a connection, which goes on."""
        factory = Made()
        port = self.listen(factory)
        app = App()
        client = OneClient(app)
        self.connector = self.reactor.connectTCP("127.0.0.1", port.getHost().port, client)
        sender(self.connector.transport)(b"too early")
        self.until(lambda: app.did and factory.made)
        sender(app.transport)(b"x")
        self.until(lambda: factory.made[0].received)
        self.assertEqual(factory.made[0].received, b"x")

    def test_sent_when_made(self) -> None:
        made = App(made=lambda app: sender(app.transport)(b"hello"))
        _, peer = self.accepted(made)
        self.assertEqual(self.received_by(peer, 1), b"hello")


class TwistedsSenderTests(SenderTests):
    """The same of the transports of Twisted's own reactor."""

    make_reactor = staticmethod(twisteds_reactor)


class OtherTransportTests(SynchronousTestCase):
    """Transports of other kinds."""

    def test_sender(self) -> None:
        """One that Twisted's TCP knows nothing of is written to, with C{bytes}."""
        transport = StringTransport()
        send = sender(transport)
        buffer = bytearray(b"abc")
        send(buffer)
        buffer[:] = b"xyz"
        send(memoryview(b"def"))
        send(b"ghi")
        self.assertEqual(transport.value(), b"abcdefghi")

    def test_own_sender_of_a_stream(self) -> None:
        """A L{Stream} has its own way."""
        sent: list[object] = []

        class Own(Stream):
            def send(self, data: Any) -> None:
                sent.append(data)

        self.assertIsNone(Own.receiver)
        sender(Own())(b"x")
        self.assertEqual(sent, [b"x"])

    def test_a_stream_has_to_say_how(self) -> None:
        self.assertRaises(NotImplementedError, Stream().send, b"x")
        self.assertRaises(NotImplementedError, Stream().send_received, b"x", 1)

    def test_in_memory(self) -> None:
        """Twisted's TCP on a socket that takes a few bytes at a time."""
        turns = Turns()
        one, two = MemorySocket.pair(capacity=4)
        app = App()
        transport = MemoryConnection(one, app, turns)
        transport.begin()
        send = sender(transport)
        send(b"abcdef")
        self.assertEqual((bytes(two.arrived), unsent(transport)), (b"abcd", 2))
        send(b"gh")
        turns.settle()
        self.assertEqual(unsent(transport), 4)
        two.recv(4)
        turns.settle()
        self.assertEqual((bytes(two.arrived), unsent(transport)), (b"efgh", 0))

    def test_unsent(self) -> None:
        """What is in both of its buffers counts, less what has gone out."""
        turns = Turns()
        one, _ = MemorySocket.pair(capacity=4)
        transport = MemoryConnection(one, App(), turns)
        transport.begin()
        transport.write(b"abcdef")
        self.assertEqual(unsent(transport), 6)
        turns.settle()
        transport.write(b"ghi")
        self.assertEqual((unsent(transport), transport.offset), (5, 4))
        self.assertEqual(unsent(StringTransport()), 0)
        self.assertEqual(unsent(object()), 0)

    def test_abort(self) -> None:
        """A transport is reset; one that cannot do that is closed."""
        for kind, was_reset in ((MemoryConnection, True), (PlainConnection, False)):
            turns = Turns()
            one, two = MemorySocket.pair()
            app = App()
            transport = kind(one, app, turns)
            transport.begin()
            abort(transport)
            turns.settle()
            self.assertEqual(len(app.reasons), 1)
            self.assertEqual((two.reset, two.ended), (was_reset, not was_reset))


class AddressTests(SynchronousTestCase):
    """How an address is written in the log."""

    def test_kinds(self) -> None:
        for address, text in (
            (IPv4Address("TCP", "192.0.2.1", 443), "192.0.2.1:443"),
            (IPv6Address("TCP", "2001:db8::1", 443), "[2001:db8::1]:443"),
            (UNIXAddress("/run/app.sock"), "/run/app.sock"),
            (UNIXAddress(None), "a local client"),
            (None, "a local client"),
            (UNIXAddress("/tmp/\x1b[31mred\nline"), r"/tmp/\x1b[31mred\nline"),
            (UNIXAddress(b"/tmp/\xff"), r"/tmp/\xff"),
        ):
            self.assertEqual(address_text(address), text)
