"""
No byte that was written is lost, however the connection is closed and whoever closes it.

The time at which bytes are in danger is that between a write and the next turn of the clock, when
they are gathered, and that during the handshake, when they wait for it.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Cooperator

from tests.protocol_material import (
    TLS12,
    TLS13,
    App,
    HalfApp,
    Link,
    ListeningApp,
    ProtocolCase,
    holds_on_stock,
    on_every_engine,
)

LARGE = bytes(range(256)) * 4096  # 1 MiB


class Producer:
    """A producer that writes what a test says, when a test says so."""

    def __init__(self, consumer: Any = None) -> None:
        self.consumer = consumer
        self.did: list[str] = []

    def pauseProducing(self) -> None:
        self.did.append("pause")

    def resumeProducing(self) -> None:
        self.did.append("resume")

    def stopProducing(self) -> None:
        self.did.append("stop")

    @property
    def last(self) -> str:
        return self.did[-1] if self.did else ""


class UntilPausedProducer(Producer):
    """One that writes until it is told to pause, as most do whose data is at hand."""

    left = 4 * len(LARGE)
    burst = 0

    def resumeProducing(self) -> None:
        super().resumeProducing()
        before = self.left
        while self.last == "resume" and self.left:
            self.left -= 16384
            self.consumer.write(bytes(16384))
        self.burst = max(self.burst, before - self.left)
        if not self.left:
            self.consumer.unregisterProducer()


class PullProducer:
    """A producer of three pieces, one each time it is asked."""

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.pieces = [b"one ", b"two ", b"three"]
        self.stopped = False

    def resumeProducing(self) -> None:
        self.consumer.write(self.pieces.pop(0))
        if not self.pieces:
            self.consumer.unregisterProducer()

    def stopProducing(self) -> None:
        self.stopped = True


@on_every_engine
class LossTests(ProtocolCase):
    """What was written arrives."""

    def assertClosed(self, link: Link, received: bytes) -> None:
        """The peer got these bytes and a close_notify, and both ends are closed in peace."""
        self.assertEqual(link.peer.received, received)
        self.assertTrue(link.peer.closed)
        assert link.peer.lost is not None
        self.assertEqual(link.peer.lost.type, ConnectionDone)
        self.assertEqual(link.app.reason.type, ConnectionDone)
        self.assertLeftNothing()

    @holds_on_stock
    def test_lose(self) -> None:
        """C{loseConnection} sends what was gathered."""
        link = self.link()
        link.tls.write(b"hello, ")
        link.tls.writeSequence([b"wor", b"ld"])
        link.tls.loseConnection()
        link.tls.write(b"too late")
        link.settle()
        self.assertClosed(link, b"hello, world")

    @holds_on_stock
    def test_lose_with_a_slow_reader(self) -> None:
        """C{loseConnection} sends what is far more than the wire takes at once."""
        link = self.link(capacity=5000)
        link.tls.write(LARGE)
        link.tls.write(b"end")
        link.tls.loseConnection()
        link.settle()
        self.assertClosed(link, LARGE + b"end")

    def test_half_close(self) -> None:
        """C{loseWriteConnection} sends what was gathered before its close_notify."""
        link = self.link(HalfApp())
        link.tls.write(b"hello")
        link.tls.loseWriteConnection()
        link.settle()
        self.assertClosed(link, b"hello")

    def test_peer_closes(self) -> None:
        """The peer's close_notify finds bytes gathered: it gets them."""
        link = self.link()
        link.peer.answers = False
        link.tls.write(b"hello")
        link.peer.close()
        link.wire.doWrite()
        link.transport.doRead()
        self.assertEqual(self.clock.seconds(), 0)
        link.peer.answers = True
        link.settle()
        self.assertClosed(link, b"hello")

    @holds_on_stock
    def test_peer_closes_during_a_large_write(self) -> None:
        """The peer's close_notify comes while most waits for the wire: it gets all."""
        link = self.link(capacity=5000, answers=False)
        link.tls.write(LARGE)
        link.tls.write(b"end")
        link.peer.close()
        link.settle()
        self.assertEqual(link.peer.received, LARGE + b"end")
        self.assertTrue(link.peer.closed)

    def test_producer_finishes(self) -> None:
        """What a producer writes last, and at once says that it has finished, is sent."""
        link = self.link()
        producer = Producer(link.tls)
        link.tls.registerProducer(producer, True)
        link.tls.loseConnection()
        link.settle()
        self.assertFalse(link.peer.closed)
        link.tls.write(b"the last")
        link.tls.unregisterProducer()
        link.settle()
        self.assertClosed(link, b"the last")

    def test_producer_from_before_the_handshake(self) -> None:
        """A producer that was registered before the handshake finishes first, too."""
        link = self.link(begin=False)
        link.transport.begin()
        producer = Producer(link.tls)
        link.tls.registerProducer(producer, True)
        link.tls.write(b"one ")
        self.assertEqual(producer.did, ["pause"])
        link.tls.loseConnection()
        link.wire.begin()
        link.settle()
        self.assertEqual(producer.did, ["pause", "resume"])
        link.tls.write(b"two")
        link.settle()
        self.assertFalse(link.peer.closed)
        link.tls.unregisterProducer()
        link.settle()
        self.assertClosed(link, b"one two")

    def test_producer_that_wrote_nothing_before_the_handshake(self) -> None:
        """It still finishes first, though nothing waits for the handshake."""
        link = self.link(begin=False)
        link.transport.begin()
        link.tls.registerProducer(Producer(link.tls), True)
        link.tls.loseConnection()
        link.wire.begin()
        link.settle()
        self.assertTrue(link.peer.open)
        link.tls.write(b"here")
        link.tls.unregisterProducer()
        link.settle()
        self.assertClosed(link, b"here")

    def test_pull_producer(self) -> None:
        """A producer that has to be asked is asked until it has finished."""
        cooperator = Cooperator(scheduler=lambda call: self.clock.callLater(0, call))
        self.patch(
            __import__("twisted.internet._producer_helpers", fromlist=["cooperate"]),
            "cooperate",
            cooperator.cooperate,
        )
        link = self.link()
        link.tls.registerProducer(PullProducer(link.tls), False)
        link.tls.loseConnection()
        link.settle()
        self.assertClosed(link, b"one two three")

    def test_producer_when_the_peer_closes(self) -> None:
        """A producer that the transport has paused is stopped, and the connection closes."""
        link = self.link(capacity=5000, answers=False)
        producer = Producer(link.tls)
        link.wire.pauseProducing()
        link.tls.registerProducer(producer, True)
        link.tls.write(LARGE)
        link.settle()
        self.assertEqual(producer.did, ["pause"])
        link.peer.close()
        link.settle()
        link.wire.resumeProducing()
        link.settle()
        self.assertEqual(producer.did, ["pause", "stop"])
        self.assertEqual(link.app.reason.type, ConnectionDone)
        self.assertEqual(link.peer.received, LARGE)
        link.tls.unregisterProducer()

    def test_pull_producer_when_the_peer_closes(self) -> None:
        """So is one that has to be asked."""
        cooperator = Cooperator(scheduler=lambda call: self.clock.callLater(0, call))
        self.patch(
            __import__("twisted.internet._producer_helpers", fromlist=["cooperate"]),
            "cooperate",
            cooperator.cooperate,
        )
        link = self.link(answers=False)
        producer = PullProducer(link.tls)
        link.tls.registerProducer(producer, False)
        link.peer.close()
        link.wire.doWrite()
        link.transport.doRead()
        self.assertTrue(producer.stopped)
        link.settle()
        self.assertEqual(link.app.reason.type, ConnectionDone)
        self.assertLeftNothing()

    @holds_on_stock
    def test_close_inside(self) -> None:
        """Written and closed from inside each call that the application gets."""
        for what in ("made", "handshake", "data"):

            def answer(app: App) -> None:
                app.transport.write(LARGE)
                app.transport.write(b"end")
                app.transport.loseConnection()

            link = self.link(ListeningApp(**{what: answer}), capacity=5000)
            if what == "data":
                link.peer.send(b"?")
            link.settle()
            self.assertClosed(link, LARGE + b"end")

    def test_half_close_inside(self) -> None:
        """The same with C{loseWriteConnection}."""
        for what in ("made", "handshake", "data"):

            def answer(app: App) -> None:
                app.transport.write(LARGE)
                app.transport.write(b"end")
                app.transport.loseWriteConnection()

            link = self.link(ListeningApp(**{what: answer}), capacity=5000)
            if what == "data":
                link.peer.send(b"?")
            link.settle()
            self.assertClosed(link, LARGE + b"end")

    def test_written_before_the_handshake(self) -> None:
        """What was written before the handshake goes out as it completes, with no turn."""
        link = self.link(client=True, begin=False)
        link.transport.begin()
        link.tls.write(b"early")
        link.wire.begin()
        for _ in range(3):
            for transport in (link.transport, link.wire):
                if transport in self.clock.getWriters():
                    transport.doWrite()
            for transport in (link.wire, link.transport):
                transport.doRead()
        self.assertEqual(link.peer.received, b"early")

    def test_answer_to_the_last_words(self) -> None:
        """What is written in answer to bytes that came with the peer's close_notify is sent."""

        def answer(app: App) -> None:
            app.transport.write(b"answer")

        link = self.link(App(data=answer))
        link.peer.send(b"question")
        link.peer.close()
        link.settle()
        self.assertEqual(link.app.received, b"question")
        self.assertClosed(link, b"answer")

    @holds_on_stock
    def test_writes_until_paused(self) -> None:
        """
        A producer that writes until it is paused is paused, also while we deliver, and also where
        the end of the handshake lets it go on.
        """
        for what in ("made", "handshake", "data"):
            producer = UntilPausedProducer()

            def register(app: App, producer: UntilPausedProducer = producer) -> None:
                producer.consumer = app.transport
                app.transport.registerProducer(producer, True)
                producer.resumeProducing()

            link = self.link(ListeningApp(**{what: register}))
            if what == "data":
                link.peer.send(b"?")
            link.settle()
            self.assertEqual(len(link.peer.received), 4 * len(LARGE))
            self.assertLess(producer.burst, len(LARGE))


@on_every_engine
class HalfCloseTests(ProtocolCase):
    """Either direction is closed on its own, in TLS 1.3 and 1.2."""

    def test_we_close_first(self) -> None:
        """We close our direction; what the peer sends then is heard; then it closes its own."""
        for version in (TLS13, TLS12):
            link = self.link(HalfApp(), version=version, answers=False)
            link.tls.write(b"request")
            link.tls.loseWriteConnection()
            link.tls.write(b"too late")
            link.tls.loseWriteConnection()
            link.settle()
            self.assertEqual(link.app.did, ["made", "write lost"])
            self.assertTrue(link.peer.closed)
            self.assertEqual(link.peer.received, b"request")
            link.peer.send(LARGE)
            link.settle()
            self.assertEqual(link.app.received, LARGE)
            link.peer.close()
            link.settle()
            self.assertEqual(link.app.did[2:], ["data", "read lost", "lost"])
            self.assertEqual(link.app.reason.type, ConnectionDone)
            self.assertLeftNothing()

    def test_peer_closes_first(self) -> None:
        """The peer closes its direction; what we send then is sent; then we close ours."""
        for version in (TLS13, TLS12):
            link = self.link(HalfApp(), version=version, answers=False)
            link.peer.send(b"request")
            link.peer.close()
            link.settle()
            self.assertEqual(link.app.did, ["made", "data", "read lost"])
            link.tls.write(LARGE)
            link.settle()
            self.assertEqual(link.peer.received, LARGE)
            self.assertFalse(link.peer.closed)
            link.tls.loseWriteConnection()
            link.settle()
            self.assertTrue(link.peer.closed)
            self.assertEqual(link.app.did[3:], ["write lost", "lost"])
            self.assertEqual(link.app.reason.type, ConnectionDone)
            self.assertLeftNothing()

    def test_peer_closes_first_then_we_lose(self) -> None:
        """C{loseConnection} does for the second direction, and waits for nothing."""
        link = self.link(HalfApp(), answers=False)
        link.peer.close()
        link.settle()
        link.tls.write(b"answer")
        link.tls.loseConnection()
        link.settle()
        self.assertEqual(link.peer.received, b"answer")
        self.assertTrue(link.peer.closed)
        self.assertEqual(link.app.did, ["made", "read lost", "lost"])

    def test_fin_after_close_notify(self) -> None:
        """A peer that ends TCP's direction after its close_notify is still written to."""
        link = self.link(HalfApp(), answers=False)
        link.peer.close()
        link.wire.loseWriteConnection()
        link.settle()
        link.tls.write(LARGE)
        link.settle()
        self.assertEqual(link.peer.received, LARGE)
        link.tls.loseWriteConnection()
        link.settle()
        self.assertEqual(link.app.did, ["made", "read lost", "write lost", "lost"])
        self.assertEqual(link.app.reason.type, ConnectionDone)

    def test_told_once(self) -> None:
        """
        The end of the peer's direction is told once, whatever follows: bytes, TCP's own end, and
        the end of all.
        """
        link = self.link(HalfApp(), answers=False)
        link.peer.close()
        link.settle()
        link.peer.transport.write(b"what is not TLS")
        link.settle()
        link.wire.loseWriteConnection()
        link.settle()
        link.wire.abortConnection()
        link.settle()
        link.tls.write(b"to find out")
        link.settle()
        self.assertEqual(link.app.did, ["made", "read lost", "lost"])
        self.assertEqual(link.app.reason.type, ConnectionLost)

    def test_before_the_handshake(self) -> None:
        """Asked for before the handshake it takes effect after it, behind what was written."""
        link = self.link(HalfApp(), begin=False)
        link.transport.begin()
        link.tls.write(b"early")
        link.tls.loseWriteConnection()
        link.tls.loseWriteConnection()
        link.peer.answers = False
        link.settle()
        self.assertEqual(link.app.did, ["made"])
        link.wire.begin()
        link.settle()
        self.assertEqual(link.app.did, ["made", "write lost"])
        self.assertEqual(link.peer.received, b"early")
        self.assertTrue(link.peer.closed)
        link.peer.send(b"answer")
        link.settle()
        self.assertEqual(link.app.received, b"answer")

    def test_both_at_once(self) -> None:
        """The peer's close_notify comes before the turn in which ours would be told of."""
        link = self.link(HalfApp(), answers=False)
        link.tls.write(b"last")
        link.peer.close()
        link.wire.doWrite()
        link.tls.loseWriteConnection()
        link.transport.doRead()
        self.assertEqual(link.app.did, ["made", "write lost", "read lost"])
        link.settle()
        self.assertEqual(link.peer.received, b"last")
        self.assertTrue(link.peer.closed)
        self.assertEqual(link.app.did, ["made", "write lost", "read lost", "lost"])
        self.assertEqual(link.app.reason.type, ConnectionDone)
        self.assertLeftNothing()

    def test_then_lose(self) -> None:
        """C{loseConnection} after it waits for the peer, as it does without."""
        link = self.link(HalfApp(), answers=False)
        link.tls.loseWriteConnection()
        link.tls.loseConnection()
        link.settle()
        self.assertTrue(link.peer.closed)
        self.assertFalse(link.app.reasons)
        link.peer.close()
        link.settle()
        self.assertEqual(link.app.did, ["made", "write lost", "lost"])

    @holds_on_stock
    def test_connection_ends_before_it_is_told(self) -> None:
        """No call is left when the connection ends in the turn in which it would be told."""
        link = self.link(HalfApp())
        link.tls.loseWriteConnection()
        link.tls.connectionLost(connectionDone)
        self.assertLeftNothing()
        self.assertEqual(link.app.did, ["made", "lost"])

    def test_application_that_knows_no_half(self) -> None:
        """One that does not provide C{IHalfCloseableProtocol} still may close half."""
        link = self.link(answers=False)
        link.tls.loseWriteConnection()
        link.settle()
        self.assertTrue(link.peer.closed)
        link.peer.send(b"heard")
        link.settle()
        self.assertEqual(link.app.received, b"heard")
        link.peer.close()
        link.settle()
        self.assertEqual(link.app.did, ["made", "data", "lost"])


@on_every_engine
class LingerTests(ProtocolCase):
    """After our close_notify we read on, so that no reset destroys what the peer has to read."""

    @holds_on_stock
    def test_peer_goes_on(self) -> None:
        """A peer in the middle of sending gets all of ours, and ends in peace."""
        link = self.link(answers=False, capacity=5000)
        link.peer.send(LARGE)
        link.tls.write(LARGE)
        link.tls.loseConnection()
        link.settle()
        self.assertEqual(link.peer.received, LARGE)
        self.assertTrue(link.peer.closed)
        self.assertFalse(link.app.reasons)
        link.peer.send(LARGE)
        link.peer.close()
        link.settle()
        self.assertEqual(link.app.reason.type, ConnectionDone)
        link.wire.loseConnection()
        link.settle()
        assert link.peer.lost is not None
        self.assertEqual(link.peer.lost.type, ConnectionDone)

    @holds_on_stock
    def test_delivered_after_lose(self) -> None:
        """What still comes after C{loseConnection} is delivered."""
        link = self.link(answers=False)
        link.tls.loseConnection()
        link.settle()
        link.peer.send(b"heard")
        link.settle()
        self.assertEqual(link.app.received, b"heard")

    def test_discarded_after_a_pause(self) -> None:
        """
        But not to an application that has paused: it wants no more, and gets no part of it.  It
        is read all the same.
        """
        link = self.link(answers=False)
        link.tls.pauseProducing()
        link.peer.send(LARGE)
        link.settle()
        link.tls.loseConnection()
        link.settle()
        self.assertTrue(link.peer.closed)
        link.tls.resumeProducing()
        self.assertIn(link.transport, self.clock.getReaders())
        link.peer.send(b"more")
        link.settle()
        link.peer.close()
        link.settle()
        self.assertEqual(link.app.did, ["made", "lost"])
        self.assertEqual(link.app.reason.type, ConnectionDone)
        self.assertLeftNothing()

    def test_discarded_when_paused_afterwards(self) -> None:
        """A pause after C{loseConnection} is for good, and does not hide the peer's close."""
        link = self.link(answers=False)
        link.tls.loseConnection()
        link.peer.send(b"heard")
        link.settle()
        link.tls.pauseProducing()
        link.peer.send(b"not heard")
        link.settle()
        link.tls.resumeProducing()
        link.peer.send(b"not heard either")
        link.peer.close()
        link.settle()
        self.assertEqual(link.app.received, b"heard")
        self.assertEqual(link.app.reason.type, ConnectionDone)

    def test_peer_ends_without_close_notify(self) -> None:
        """Once we have closed, a peer that just ends has not cut anything short."""
        for end in ("loseConnection", "loseWriteConnection"):
            link = self.link(answers=False)
            link.tls.loseConnection()
            link.settle()
            getattr(link.wire, end)()
            link.settle()
            self.assertEqual(link.app.reason.type, ConnectionDone)
