"""
What goes through a connection at once: C{send}, and bytes as transports of our own reactor have
them.
"""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from tests.protocol_material import App, Link, ProtocolCase
from tests.protocol_wire import StreamConnection
from twisted_bioconn import _openssl
from twisted_bioconn._engine import BUFFER_SIZE
from twisted_bioconn.errors import PeerError
from twisted_bioconn.protocol import SHRINK_AFTER

LARGE = bytes(range(256)) * 1024


class AtOnceTests(ProtocolCase):
    """Servers on such transports."""

    transport_class = StreamConnection

    def test_send(self) -> None:
        """What is sent is on its way when the call returns: no clock turns, no event comes."""
        for data in (b"now", bytearray(b"now"), memoryview(b"xnow")[1:]):
            link = self.link()
            link.tls.send(data)
            link.wire.doRead()
            self.assertEqual(link.peer.received, b"now")
            self.assertLeftNothing()

    def test_send_nothing(self) -> None:
        """Nothing makes no record."""
        link = self.link()
        before = len(link.transport.end.was_sent)
        link.tls.send(b"")
        self.assertEqual(len(link.transport.end.was_sent), before)

    def test_send_behind_a_write(self) -> None:
        """What was written before goes first."""
        link = self.link()
        link.tls.write(b"first ")
        link.tls.send(b"second ")
        link.tls.send(b"third")
        link.wire.doRead()
        self.assertEqual(link.peer.received, b"first second third")

    def test_send_before_the_handshake(self) -> None:
        """It waits for the handshake, as what is written does."""
        link = self.link(settle=False)
        link.tls.send(b"early")
        link.settle()
        self.assertEqual(link.peer.received, b"early")

    def test_send_much(self) -> None:
        """What the kernel does not take follows when it does."""
        link = self.link(capacity=1 << 16)
        link.tls.send(LARGE)
        link.tls.send(b"end")
        link.settle()
        self.assertEqual(link.peer.received, LARGE + b"end")

    def test_send_after_the_end(self) -> None:
        """After the connection was closed or lost nothing is sent, and nobody is told off."""
        link = self.link()
        send = link.tls.send
        send_received = link.tls.sendReceived
        link.tls.loseConnection()
        send(b"late")
        link.settle()
        self.assertEqual(link.app.reasons[0].type, ConnectionDone)
        send(b"later")
        send_received(b"latest", 6)
        self.assertEqual(link.peer.received, b"")

    def test_send_received(self) -> None:
        """What another transport has received is sent out of where it was received."""
        link = self.link()
        self.clock.inbox.view[:8] = b"received"
        link.tls.sendReceived(self.clock.inbox.data, 8)
        self.clock.inbox.view[:8] = b"changed!"
        link.wire.doRead()
        self.assertEqual(link.peer.received, b"received")

    def test_takes_buffers(self) -> None:
        """An application that is content with a buffer gets one, and the bytes are right."""
        link = self.link()
        got: list[bytes] = []
        link.app.dataReceived = lambda data: got.append(bytes(data))
        self.assertFalse(link.tls.takesBuffers)
        link.tls.takesBuffers = True
        self.assertTrue(link.tls.takesBuffers)
        for data in (b"little", LARGE):
            got.clear()
            link.peer.send(data)
            link.settle()
            self.assertEqual(b"".join(got), data)

    def test_forwarded(self) -> None:
        """What comes is sent on with nothing in between, or else comes to the application."""
        link = self.link()
        took: list[int] = []

        def send(data: bytes) -> None:
            took.append(len(data))
            link.tls.send(data)

        link.app.dataReceived = send
        link.tls.forwardTo(link.tls.sendReceived)
        for data in (b"first", b"little", LARGE):
            link.peer.send(data)
            link.settle()
        self.assertEqual(link.peer.received, b"firstlittle" + LARGE)
        if not _openssl.PUBLIC_API_ONLY:
            self.assertLess(sum(took), len(LARGE))
        link.peer.received = b""
        took.clear()
        link.tls.pauseProducing()
        link.peer.send(b"waits")
        link.settle()
        link.tls.resumeProducing()
        link.settle()
        link.tls.forwardTo(None)
        link.peer.send(b", and stays")
        link.settle()
        self.assertEqual(took[-1], 11)
        self.assertEqual(link.peer.received, b"waits, and stays")

    def test_forwarded_as_it_is_refused(self) -> None:
        """What comes with a refusal of ours is for nobody."""
        link = self.link()
        link.tls.forwardTo(link.tls.sendReceived)
        link.tls._link.refused = Failure(ConnectionDone())
        link.peer.send(b"x")
        link.settle()
        self.assertEqual(link.peer.received, b"")
        self.assertEqual(len(link.app.reasons), 1)

    def test_application_fails(self) -> None:
        """What the application raises ends the connection, and is the reason."""

        def fail(app: App) -> None:
            raise ValueError("boom")

        link = self.link(App(data=fail))
        link.peer.send(b"x")
        link.settle()
        self.assertEqual([reason.type for reason in link.app.reasons], [ValueError])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_peer_breaks_the_rules(self) -> None:
        """What cannot be decrypted ends the connection, and the alert says so."""
        link = self.link()
        link.transport.end.arrived += b"\x17\x03\x03\x00\x20" + bytes(32)
        link.settle()
        self.assertEqual(link.app.reasons[0].type, SSL.Error)

    def test_cannot_be_encrypted(self) -> None:
        """What OpenSSL refuses to encrypt ends the connection."""
        link = self.link()

        def refuse(*_: object) -> None:
            raise PeerError("not today")

        connector = link.tls._link.connector

        class Refusing:
            """The connector, refusing."""

            def __getattr__(self, name: str) -> object:
                return getattr(connector, name)

            encrypt = refuse

        link.tls._link.connector = Refusing()
        link.tls.send(b"x")
        link.settle()
        self.assertEqual(link.app.reasons[0].type, SSL.Error)

    def test_received_when_lost(self) -> None:
        """What still comes when the connection is lost is nobody's."""
        link = self.link()
        assert isinstance(link.transport, StreamConnection)
        receiver = link.transport.receiver
        assert receiver is not None
        link.tls.connectionLost(Failure(ConnectionDone()))
        receiver(self.clock.inbox.data, 5)
        self.assertEqual(link.app.received, b"")

    def test_within_a_delivery(self) -> None:
        """What comes while the application is being called waits until it has returned."""
        link = self.link()
        order: list[bytes] = []

        def take(data: bytes) -> None:
            if data == b"outer":
                link.peer.send(b"inner")
                link.wire.doWrite()
                link.transport.doRead()
            order.append(data)

        link.app.dataReceived = take
        link.peer.send(b"outer")
        link.settle()
        self.assertEqual(sorted(order), [b"inner", b"outer"])

    def test_overridden(self) -> None:
        """A subclass that has a C{dataReceived} of its own is called."""
        link = self.link(begin=False)
        kind = type(link.tls)
        got: list[int] = []

        class Counting(kind):  # type: ignore[misc, valid-type]
            """Counts what comes."""

            def dataReceived(self, data: bytes) -> None:
                got.append(len(data))
                super().dataReceived(data)

        link.tls.__class__ = Counting
        link.transport.begin()
        link.wire.begin()
        link.settle()
        link.peer.send(b"x")
        link.settle()
        self.assertEqual(link.app.received, b"x")
        self.assertGreater(sum(got), 0)


class ShrinkTests(ProtocolCase):
    """The memory that bulk has taken is given back."""

    def setUp(self) -> None:
        super().setUp()
        self.renewed = 0

    def watched(self) -> Link:
        link = self.link()
        connector = link.tls._link.connector
        engine = connector._engine
        renew = engine.renew_bios
        case = self

        class Watched:
            """The engine, watched."""

            def __getattr__(self, name: str) -> object:
                return getattr(engine, name)

            def renew_bios(self) -> bool:
                case.renewed += 1
                done: bool = renew()
                return done

        connector._engine = Watched()
        return link

    def test_after_bulk(self) -> None:
        """Some time after much was sent, and the bytes that come then are right."""
        for call in ("send", "write"):
            link = self.watched()
            getattr(link.tls, call)(LARGE)
            link.settle()
            self.assertEqual(self.renewed, 0)
            self.clock.advance(SHRINK_AFTER)
            self.assertEqual(self.renewed, 1)
            self.assertLeftNothing()
            self.renewed = 0
            link.tls.send(b"more")
            link.peer.send(b"answer")
            link.settle()
            self.assertEqual(link.peer.received, LARGE + b"more")
            self.assertEqual(link.app.received, b"answer")

    def test_not_in_the_middle(self) -> None:
        """Not as long as more is sent."""
        link = self.watched()
        for _ in range(5):
            link.tls.send(bytes(BUFFER_SIZE))
            link.settle()
            self.clock.advance(SHRINK_AFTER / 2)
            self.assertEqual(self.renewed, 0)
        self.clock.advance(SHRINK_AFTER)
        self.clock.advance(SHRINK_AFTER)
        self.assertEqual(self.renewed, 1)

    def test_no_time(self) -> None:
        """Where there is no clock nothing is to be called."""
        link = self.watched()
        link.tls._deadlineClock = None
        link.tls.send(LARGE)
        link.settle()
        self.assertEqual(link.peer.received, LARGE)
        self.assertLeftNothing()

    def test_little(self) -> None:
        """Little takes no memory that could be given back."""
        link = self.watched()
        link.tls.send(b"little")
        self.clock.advance(10 * SHRINK_AFTER)
        self.assertEqual(self.renewed, 0)

    def test_lost(self) -> None:
        """A connection that was lost leaves no call behind."""
        link = self.watched()
        link.tls.send(LARGE)
        link.tls.abortConnection()
        link.settle()
        self.assertLeftNothing()
