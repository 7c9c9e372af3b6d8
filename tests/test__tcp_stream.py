"""Tests for what the transports of L{twisted_bioconn._tcp} can do and Twisted's cannot."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from errno import EMFILE
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory

from tests.programs import require_ipv6
from tests.protocol_material import App, HalfApp
from tests.reactor_material import LARGE, Made, ReactorCase, making, reset, sent_by, taken
from twisted_bioconn import _tcp
from twisted_bioconn._openssl import PUBLIC_API_ONLY
from twisted_bioconn._transport import unsent


def contents(data: Any, count: int) -> bytes:
    """The first bytes of the C{data} of an inbox."""
    if PUBLIC_API_ONLY:
        return bytes(data[:count])
    from OpenSSL._util import ffi

    return bytes(ffi.buffer(data, count))


class Receiving(App):
    """
    Takes what is received out of the reactor's inbox.

    @ivar counts: how many bytes came each time.
    """

    def __init__(self, **hooks: Callable[[App], object]) -> None:
        super().__init__(**hooks)
        self.counts: list[int] = []

    def connectionMade(self) -> None:
        self.transport.receiver = self.receive
        super().connectionMade()

    def receive(self, data: Any, count: int) -> None:
        self.counts.append(count)
        assert data is self.transport.reactor.inbox.data
        super().dataReceived(contents(data, count))

    def dataReceived(self, data: bytes) -> None:
        raise AssertionError("this is not the way")


class HalfReceiving(Receiving, HalfApp):
    """One that can go on when one direction is closed."""


class ReceiverTests(ReactorCase):
    """What is received goes through the reactor's L{Inbox}."""

    def test_sizes(self) -> None:
        """What is delivered is what was sent, however much it is."""
        size = len(self.reactor.inbox.view)
        for count in (1, 1 << 14, size - 1, size, size + 1, len(LARGE)):
            for one, other in self.ends(Receiving):
                other.transport.write(LARGE[:count])
                self.until(lambda one, count: sum(one.counts) >= count, one, count)
                self.assertEqual(
                    hashlib.sha256(one.received).digest(),
                    hashlib.sha256(LARGE[:count]).digest(),
                )
                self.assertLessEqual(max(one.counts), size)

    def test_full(self) -> None:
        """The inbox is filled to its end where there is enough."""
        size = len(self.reactor.inbox.view)
        app, peer = self.accepted(Receiving())
        app.transport.pauseProducing()
        app.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * size)
        sent = sent_by(peer, LARGE[: 2 * size])
        app.transport.resumeProducing()
        self.until(lambda: sum(app.counts) == sent)
        self.assertEqual(app.received, LARGE[:sent])
        if sent > size:
            self.assertEqual(max(app.counts), size)

    def test_in_turn(self) -> None:
        """Two connections use the same inbox, each for what is its own."""
        pairs = [self.accepted(Receiving()) for _ in range(2)]
        for number, (_, peer) in enumerate(pairs):
            peer.send(bytes([number]) * (5 - number))
        self.until(lambda: all(app.received for app, _ in pairs))
        self.assertEqual([app.received for app, _ in pairs], [bytes(5), b"\1" * 4])

    def test_nothing_there(self) -> None:
        """To be told of something to read, and find nothing, is no end."""
        app, _ = self.accepted(Receiving())
        self.assertIsNone(app.transport.doRead())
        self.assertEqual(app.did, ["made"])

    def test_taken_back(self) -> None:
        """Without a receiver the protocol is given bytes, as by any transport."""
        app, peer = self.accepted()
        received: list[object] = []
        app.transport.receiver = lambda data, count: received.append(count)
        peer.send(b"abc")
        self.until(lambda: received)
        app.transport.receiver = None
        peer.send(b"def")
        self.until(lambda: app.received)
        self.assertEqual((received, app.received), ([3], b"def"))

    def test_end(self) -> None:
        """The end is told as ever, after all that was sent."""
        for one, other in self.ends(Receiving):
            other.transport.write(b"last")
            other.transport.loseConnection()
            self.until_lost(one)
            self.assertEqual(one.received, b"last")
            self.assertIsInstance(one.reason.value, ConnectionDone)
            self.assertIsNone(one.transport.receiver)

    def test_half_close(self) -> None:
        for one, other in self.ends(HalfReceiving, HalfApp):
            other.transport.write(b"question")
            other.transport.loseWriteConnection()
            self.until(lambda one: one.did[-1] == "read lost", one)
            self.assertEqual(one.received, b"question")
            one.transport.send(b"answer")
            one.transport.loseConnection()
            self.until(lambda one, other: one.reasons and other.did[-1] == "read lost", one, other)
            self.assertEqual(other.received, b"answer")

    def test_reset(self) -> None:
        app, peer = self.accepted(Receiving())
        reset(peer)
        self.assertIsInstance(app.transport.doRead(), ConnectionLost)
        app, peer = self.accepted(Receiving())
        peer.send(b"x")
        reset(peer)
        self.until_lost(app)
        self.assertIsInstance(app.reason.value, ConnectionLost)
        self.assertIsNone(app.transport.receiver)

    def test_error(self) -> None:
        """An exception is logged, and the connection lost with it."""

        def fail(app: App) -> None:
            raise ValueError("in the receiver")

        for one, other in self.ends(making(Receiving, data=fail)):
            other.transport.write(b"x")
            self.until_lost(one, other)
            self.assertIsInstance(one.reason.value, ValueError)
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_ends_itself(self) -> None:
        """The receiver may close the connection, and abort it."""
        for end in ("loseConnection", "abortConnection"):

            def end_it(app: App, end: str = end) -> None:
                getattr(app.transport, end)()

            for one, other in self.ends(making(Receiving, data=end_it)):
                other.transport.write(LARGE)
                self.until_lost(one, other)
                self.assertEqual(len(one.counts), 1)

    def test_removed_while_events_wait(self) -> None:
        """Of connections that all have data, the first closes, or aborts, all others."""
        for end in ("loseConnection", "abortConnection"):
            for make in (App, Receiving):
                pairs = [pair for _ in range(2) for pair in self.ends(make)]

                def end_all(app: App, end: str = end, pairs: Any = pairs) -> None:
                    for one, _ in pairs:
                        getattr(one.transport, end)()

                for one, other in pairs:
                    one.hooks["data"] = end_all
                    other.transport.send(b"x")
                self.until(lambda pairs: all(one.reasons for one, _ in pairs), pairs)
                self.assertEqual(sum(len(one.received) for one, _ in pairs), 1)


class SendReceivedTests(ReactorCase):
    """What one connection has received another one sends, with no copy."""

    def relay(self) -> tuple[Any, Any, socket.socket, socket.socket]:
        """Two connections, the second of which sends what the first receives."""
        incoming, from_here = self.accepted()
        outgoing, to_there = self.accepted()
        incoming.transport.receiver = outgoing.transport.send_received
        return incoming, outgoing, from_here, to_there

    def test_relayed(self) -> None:
        incoming, outgoing, from_here, to_there = self.relay()
        from_here.send(b"hello")
        self.assertEqual(self.received_by(to_there, 5), b"hello")
        self.assertEqual((incoming.received, outgoing.received), (b"", b""))

    def test_nobody_reads(self) -> None:
        """What the kernel does not take is kept, while the inbox is used again."""
        _, outgoing, from_here, to_there = self.relay()
        sent = received = 0
        digest = hashlib.sha256()

        def go_on() -> bool:
            nonlocal sent
            if sent < len(LARGE):
                sent += sent_by(from_here, LARGE[sent : sent + (1 << 18)])
            return sent == len(LARGE)

        self.until(go_on)
        self.turn(10)
        self.assertGreater(unsent(outgoing.transport), 0)
        self.reactor.inbox.view[:] = bytes(len(self.reactor.inbox.view))

        def read() -> bool:
            nonlocal received
            data = taken(to_there)
            digest.update(data)
            received += len(data)
            return received >= len(LARGE)

        self.until(read)
        self.assertEqual(digest.digest(), hashlib.sha256(LARGE).digest())

    def test_the_other_is_gone(self) -> None:
        """That is no error for the one that receives."""
        for end in ("loseConnection", "abortConnection"):
            incoming, outgoing, from_here, _ = self.relay()
            getattr(outgoing.transport, end)()
            self.until_lost(outgoing)
            from_here.send(b"to nobody")
            self.turn(3)
            self.assertEqual((incoming.did, self.reactor.getWriters()), (["made"], []))


class ConnectAtOnceTests(ReactorCase):
    """L{connect_at_once}."""

    def test_no_descriptors(self) -> None:
        """Out of descriptors it is left to whoever waits for a connection to say so."""

        def refuse(*_: object) -> None:
            raise OSError(EMFILE, "Too many open files")

        built = Made()
        self.patch(socket, "socket", refuse)
        self.assertIsNone(_tcp.connect_at_once(self.reactor, "127.0.0.1", 9, built.buildProtocol))
        self.assertEqual(built.made, [])

    def connect_to(self, port: Any, build: Any) -> Any:
        host = port.getHost()
        return _tcp.connect_at_once(self.reactor, host.host, host.port, build)

    def test_connects(self) -> None:
        """The protocol is connected when the call returns, over IPv4 and IPv6."""
        for interface, kind in (("127.0.0.1", IPv4Address), ("::1", IPv6Address)):
            if kind is IPv6Address:
                require_ipv6()
            factory = Made()
            port = self.listen(factory, interface)
            built = Made()
            app = self.connect_to(port, built.buildProtocol)
            self.assertEqual(([app], app.did), (built.made, ["made"]))
            self.assertEqual(built.peers, [port.getHost()])
            self.assertIsInstance(built.peers[0], kind)
            self.assertEqual(app.transport.getPeer(), port.getHost())
            self.assertEqual(repr(app.transport), "<App #0 on None>")
            self.assertEqual(app.transport.logPrefix(), f"App,0,{interface}")
            app.transport.write(b"hello")
            self.until(lambda factory: factory.made and factory.made[0].received, factory)
            self.assertEqual(factory.peers, [app.transport.getHost()])

    def test_refused(self) -> None:
        for interface in ("127.0.0.1", "::1"):
            if interface == "::1":
                require_ipv6()
            port = self.listen(Made(), interface)
            host = port.getHost()
            port.stopListening()
            self.turn(2)
            built = Made()
            self.assertIsNone(
                _tcp.connect_at_once(self.reactor, host.host, host.port, built.buildProtocol)
            )
            self.assertEqual(built.made, [])

    def test_fails_at_once(self) -> None:
        """What the kernel does not even try, such as a broadcast address, is no connection."""
        built = Made()
        self.assertIsNone(
            _tcp.connect_at_once(self.reactor, "127.255.255.255", 9, built.buildProtocol)
        )
        self.assertEqual(built.made, [])

    def test_needs_waiting(self) -> None:
        """Where the other end takes no more for the time being, nothing comes of it."""
        full = socket.socket()
        self.opened.append(full)
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        built = Made()
        host, number = full.getsockname()
        for _ in range(3):
            _tcp.connect_at_once(self.reactor, host, number, built.buildProtocol)
        self.assertTrue(0 < len(built.made) < 3)

    def test_no_protocol(self) -> None:
        """The connection is closed."""
        factory = Made()
        self.assertIsNone(self.connect_to(self.listen(factory), lambda address: None))
        self.until(lambda: factory.made and factory.made[0].reasons)

    def test_error_in_the_factory(self) -> None:
        """The connection is closed, and the caller told."""

        def fail(address: object) -> None:
            raise ValueError("in buildProtocol")

        factory = Made()
        port = self.listen(factory)
        error = self.assertRaises(ValueError, self.connect_to, port, fail)
        self.assertEqual(str(error), "in buildProtocol")
        self.until(lambda: factory.made and factory.made[0].reasons)

    def test_error_when_made(self) -> None:
        """The connection is not left with nobody who knows of it."""

        def fail(app: App) -> None:
            raise ValueError("in connectionMade")

        factory = Made()
        port = self.listen(factory)
        app = App(made=fail)
        self.assertRaises(ValueError, self.connect_to, port, lambda address: app)
        self.until(lambda: factory.made and factory.made[0].reasons)
        self.assertEqual(app.did, ["made", "lost"])

    def test_ended_when_made(self) -> None:
        for end in ("loseConnection", "abortConnection"):
            factory = Made()

            def end_it(app: App, end: str = end) -> None:
                getattr(app.transport, end)()

            app = self.connect_to(self.listen(factory), lambda _: App(made=end_it))
            self.assertEqual(app.did, ["made"])
            self.until_lost(app)


class AdoptedTests(ReactorCase):
    """A socket that is connected already, made a transport of ours."""

    def test_adopted(self) -> None:
        """As Twisted does it; the text that Twisted has for it is made when it is asked for."""
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            peer = socket.create_connection(listening.getsockname())
            self.opened.append(peer)
            accepted, _ = listening.accept()
        with accepted:
            app = App()
            transport = _tcp.Server._fromConnectedSocket(
                accepted.fileno(), socket.AF_INET, Factory.forProtocol(lambda: app), self.reactor
            )
        number = peer.getsockname()[1]
        self.assertEqual(repr(transport), f"<App #{number} on None>")
        transport.send(b"hello")
        self.assertEqual(peer.recv(10), b"hello")
