"""The relay: every order of closing, backpressure, and bytes that come out as they went in."""

from __future__ import annotations

from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL.SSL import Error as TLSError
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.interfaces import (
    IProtocol,
    ISSLTransport,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides

from tests.server.wire import HIGH_WATER, BackEnd, FlushingWire, Immediate, Wire
from twisted_bioconn.server.relay import (
    BUFFER_SIZE,
    Incoming,
    RelayFactory,
)


class Relayed:
    """A relay between a client and a back end, both in memory."""

    def __init__(self, client: type[Wire] = Wire, back: type[Wire] = Wire) -> None:
        self.clock = Clock()
        self.endpoint = BackEnd(self.clock, back)
        self.factory = RelayFactory(self.endpoint, "tcp:back:80", self.clock)
        protocol = self.factory.buildProtocol(None)
        self.client = client(self.clock, cast(IProtocol, protocol))

    def accepted(self) -> Wire:
        self.back = self.endpoint.accepts()
        return self.back


class LoggingCase(SynchronousTestCase):
    """Collects what is logged."""

    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def logged(self) -> list[str]:
        return [
            formatEvent(event)
            for event in self.events
            if str(event.get("log_namespace", "")).startswith("twisted_bioconn")
        ]


class ConnectingTests(LoggingCase):
    """Before the back end is there."""

    def setUp(self) -> None:
        super().setUp()
        self.relay = Relayed()

    def test_client_is_paused_until_the_back_end_answers(self) -> None:
        client = self.relay.client
        self.assertTrue(client.paused)
        client.sends(b"early")
        back = self.relay.accepted()
        self.assertFalse(client.paused)
        self.assertEqual(back.unsent, b"early")

    def test_bytes_that_a_paused_transport_still_delivers_are_held(self) -> None:
        protocol = self.relay.client._protocol
        protocol.dataReceived(b"in ha")
        protocol.dataReceived(b"nd")
        self.assertEqual(self.relay.accepted().unsent, b"in hand")

    def test_held_bytes_that_fill_the_back_end_leave_the_client_paused(self) -> None:
        client = self.relay.client
        client._protocol.dataReceived(b"x" * (HIGH_WATER + 1))
        back = self.relay.accepted()
        self.assertTrue(client.paused)
        back.reads()
        self.assertFalse(client.paused)

    def test_end_before_the_back_end_answers_is_passed_on(self) -> None:
        client = self.relay.client
        client.paused = False  # a transport that sees the end all the same
        client.sends(b"all of it")
        client.ends()
        back = self.relay.accepted()
        self.assertFalse(back.ended)
        back.reads()
        self.assertEqual(back.taken, b"all of it")
        self.assertTrue(back.ended)
        back.sends(b"answer")
        client.reads()
        self.assertEqual(client.taken, b"answer")

    def test_refusal_closes_the_client_and_is_logged_once(self) -> None:
        self.relay.endpoint.refuses(ConnectionRefusedError())
        self.assertTrue(self.relay.client.closed)
        self.assertEqual(
            self.logged(),
            [
                "192.0.2.7:4567 cannot be forwarded to tcp:back:80:"
                " Connection was refused by other side"
            ],
        )
        self.assertEqual(self.relay.clock.getDelayedCalls(), [])

    def test_endpoint_that_raises_counts_as_a_refusal(self) -> None:
        class Raising(BackEnd):
            def connect(self, factory: object) -> Deferred[IProtocol]:
                raise ConnectError(string="no such thing")

        clock = Clock()
        factory = RelayFactory(Raising(clock), "odd:", clock)
        client = Wire(clock, cast(IProtocol, factory.buildProtocol(None)))
        self.assertTrue(client.closed)
        self.assertIn("no such thing", self.logged()[0])

    def test_client_lost_meanwhile_cancels_the_attempt(self) -> None:
        self.relay.client.breaks()
        self.assertEqual(self.relay.endpoint.cancelled, 1)
        self.assertEqual(self.relay.clock.getDelayedCalls(), [])
        self.assertEqual(self.logged(), [])

    def test_back_end_that_answers_all_the_same_is_let_go(self) -> None:
        factory, _ = self.relay.endpoint.attempts[0]
        self.relay.client.breaks()
        late = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 80))
        assert late is not None
        back = Wire(self.relay.clock, late)
        self.assertTrue(back.aborted)

    def test_back_end_that_does_not_answer(self) -> None:
        self.relay.clock.advance(9.9)
        self.assertEqual(self.relay.endpoint.cancelled, 0)
        self.relay.clock.advance(0.1)
        self.assertEqual(self.relay.endpoint.cancelled, 1)
        self.assertTrue(self.relay.client.closed)
        self.assertEqual(
            self.logged(),
            ["192.0.2.7:4567 cannot be forwarded to tcp:back:80: no connection within 10 seconds"],
        )

    def test_no_limit_of_our_own(self) -> None:
        clock = Clock()
        endpoint = BackEnd(clock)
        factory = RelayFactory(endpoint, "tcp:back:80:timeout=99", clock, connect_timeout=None)
        client = Wire(clock, cast(IProtocol, factory.buildProtocol(None)))
        self.assertEqual(clock.getDelayedCalls(), [])
        endpoint.attempts[0][1].cancel()
        self.assertTrue(client.closed)
        self.assertEqual(len(self.logged()), 1)

    def test_timer_stops_when_connected(self) -> None:
        self.relay.accepted()
        self.assertEqual(self.relay.clock.getDelayedCalls(), [])

    def test_endpoint_that_answers_at_once(self) -> None:
        clock = Clock()
        endpoint = Immediate(clock)
        factory = RelayFactory(endpoint, "now:", clock)
        client = Wire(clock, cast(IProtocol, factory.buildProtocol(None)))
        client.sends(b"quick")
        self.assertEqual(endpoint.wires[0].unsent, b"quick")
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_endpoint_that_refuses_at_once(self) -> None:
        clock = Clock()
        factory = RelayFactory(Immediate(clock, ConnectionRefusedError()), "now:", clock)
        client = Wire(clock, cast(IProtocol, factory.buildProtocol(None)))
        self.assertTrue(client.closed)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_no_delay_on_both_sides(self) -> None:
        self.assertTrue(self.relay.client.no_delay)
        self.assertTrue(self.relay.accepted().no_delay)

    def test_sockets_read_much_at_once(self) -> None:
        class Socket(FileDescriptor):
            def getPeer(self) -> IPv4Address:
                return IPv4Address("TCP", "192.0.2.7", 4567)

        transport = Socket(cast("None", object()))
        transport.stopReading = lambda: None  # type: ignore[method-assign]
        cast(IProtocol, self.relay.factory.buildProtocol(None)).makeConnection(transport)
        self.assertEqual(transport.bufferSize, BUFFER_SIZE)


class ClosingTests(LoggingCase):
    """Each order in which two connections can end."""

    def setUp(self) -> None:
        super().setUp()
        self.start()

    def start(self, client: type[Wire] = Wire, back: type[Wire] = Wire) -> None:
        self.relay = Relayed(client, back)
        self.client, self.back = self.relay.client, self.relay.accepted()

    def test_bytes_both_ways(self) -> None:
        self.client.sends(b"question")
        self.back.sends(b"answer")
        self.client.reads()
        self.back.reads()
        self.assertEqual((self.back.taken, self.client.taken), (b"question", b"answer"))

    def test_client_ends_first(self) -> None:
        self.client.sends(b"question")
        self.client.ends()
        self.assertFalse(self.back.ended)
        self.back.reads()
        self.assertTrue(self.back.ended)
        self.assertIsNone(self.client.reason)
        self.back.sends(b"answer")
        self.back.ends()
        self.assertFalse(self.client.ended)
        self.client.reads()
        self.assertEqual((self.back.taken, self.client.taken), (b"question", b"answer"))
        self.assertTrue(self.client.closed)
        self.assertTrue(self.back.closed)

    def test_back_end_ends_first(self) -> None:
        self.back.sends(b"banner")
        self.back.ends()
        self.client.reads()
        self.assertTrue(self.client.ended)
        self.assertIsNone(self.back.reason)
        self.client.sends(b"late")
        self.back.reads()
        self.client.ends()
        self.assertEqual((self.client.taken, self.back.taken), (b"banner", b"late"))
        self.assertTrue(self.client.closed)
        self.assertTrue(self.back.closed)

    def test_both_end_with_bytes_under_way(self) -> None:
        self.client.sends(b"question")
        self.back.sends(b"answer")
        self.client.ends()
        self.back.ends()
        self.client.reads()
        self.assertTrue(self.client.closed)
        self.assertIsNone(self.back.reason)
        self.back.reads()
        self.assertTrue(self.back.closed)
        self.assertEqual((self.back.taken, self.client.taken), (b"question", b"answer"))

    def test_end_said_twice_is_one(self) -> None:
        self.client.ends()
        self.client._tell_end()
        self.back.sends(b"answer")
        self.back.ends()
        self.client.reads()
        self.assertEqual(self.client.taken, b"answer")
        self.assertTrue(self.client.closed)

    def test_full_buffer_and_end(self) -> None:
        """
        The back end's end comes while its bytes are waiting for the client, and they are all sent.
        """
        self.back.sends(b"x" * 25)
        self.assertTrue(self.back.paused)
        self.back.paused = False
        self.back.ends()
        self.client.reads(5)
        self.assertFalse(self.client.ended)
        self.client.reads()
        self.assertEqual(self.client.taken, b"x" * 25)
        self.assertTrue(self.client.ended)
        self.client.sends(b"more")
        self.back.reads()
        self.assertEqual(self.back.taken, b"more")

    def test_resume_after_the_end_reads_no_more(self) -> None:
        self.back.sends(b"x" * 25)
        self.back._tell_end()
        self.back.paused = True
        producer = self.back._protocol
        producer.resumeProducing()  # type: ignore[attr-defined]
        self.assertTrue(self.back.paused)

    def test_client_resets(self) -> None:
        self.client.sends(b"question")
        self.client.breaks()
        self.assertTrue(self.back.aborted)
        self.relay.clock.advance(0)
        self.assertEqual(self.back.taken, b"")

    def test_back_end_resets(self) -> None:
        self.back.breaks()
        self.assertTrue(self.client.aborted)
        self.assertEqual(self.logged(), [])

    def test_reset_after_an_end(self) -> None:
        for ends_first in (True, False):
            self.start()
            first, second = (self.client, self.back) if ends_first else (self.back, self.client)
            first.ends()
            second.breaks()
            self.assertTrue(first.aborted)
            self.start()
            first, second = (self.client, self.back) if ends_first else (self.back, self.client)
            first.ends()
            first.breaks()
            self.assertTrue(second.aborted)

    def test_back_end_fails_in_tls(self) -> None:
        self.back.breaks(TLSError([("SSL routines", "", "certificate verify failed")]))
        self.assertTrue(self.client.aborted)
        self.assertEqual(len(self.logged()), 1)
        self.assertIn("certificate verify failed", self.logged()[0])

    def test_clean_close_without_half_close(self) -> None:
        """A transport that knows no half-close ends both directions at once."""
        self.client.half_closes = False
        self.client.sends(b"question")
        self.client.ends()
        self.assertIsInstance(self.client.reason, ConnectionDone)
        self.assertIsNone(self.back.reason)
        self.back.sends(b"nobody hears this")
        self.back.reads()
        self.assertEqual(self.back.taken, b"question")
        self.assertTrue(self.back.closed)

    def test_clean_close_with_bytes_that_nobody_got(self) -> None:
        self.client.half_closes = False
        self.back.sends(b"x" * 25)
        self.client.ends()
        self.assertTrue(self.back.aborted)

    def test_reset_after_both_ends(self) -> None:
        """All that one side sent still gets to the other."""
        self.client.sends(b"question")
        self.back.sends(b"answer")
        self.client.ends()
        self.back.ends()
        self.client.breaks()
        self.assertFalse(self.back.aborted)
        self.back.reads()
        self.assertEqual(self.back.taken, b"question")
        self.assertTrue(self.back.closed)

    def test_transport_with_no_half_close(self) -> None:
        """
        Twisted's own TLS would cut itself off: it is closed whole, after what was written.
        """
        alsoProvides(self.client, ISSLTransport)
        self.client.sends(b"question")
        self.back.sends(b"answer")
        self.back.ends()
        self.assertFalse(self.client.ended)
        self.client.reads()
        self.assertEqual(self.client.taken, b"answer")
        self.assertTrue(self.client.closed)
        self.back.reads()
        self.assertEqual(self.back.taken, b"question")
        self.assertTrue(self.back.closed)

    def test_transport_that_is_flushed(self) -> None:
        self.start(FlushingWire, FlushingWire)
        alsoProvides(self.client, ISSLTransport)
        self.back.sends(b"answer")
        self.assertEqual(self.client.unsent, b"answer")
        self.back.ends()
        self.client.reads()
        self.assertTrue(self.client.ended)
        self.assertIsNone(self.client.reason)
        self.client.sends(b"question")
        self.assertEqual(self.back.unsent, b"question")

    def test_transport_without_a_reset_is_closed(self) -> None:
        class Stdio(StringTransport):
            abortConnection = property()

        protocol = Incoming(self.relay.factory)
        transport = Stdio()
        protocol.makeConnection(transport)
        back = self.relay.accepted()
        back.breaks()
        self.assertTrue(transport.disconnecting)

    def test_bytes_after_a_loss_go_nowhere(self) -> None:
        self.back.breaks()
        self.client._protocol.dataReceived(b"late")
        self.client._protocol.readConnectionLost()  # type: ignore[attr-defined]
        self.client._protocol.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.back.unsent, b"")

    def test_no_references_are_left(self) -> None:
        client, back = self.client._protocol, self.back._protocol
        self.client.breaks()
        self.assertIsNone(client.peer)  # type: ignore[attr-defined]
        self.assertIsNone(back.peer)  # type: ignore[attr-defined]


class BackpressureTests(SynchronousTestCase):
    """What is held is bounded by what the transports hold."""

    def test_slow_reader_pauses_its_sender_alone(self) -> None:
        relay = Relayed()
        client, back = relay.client, relay.accepted()
        for _ in range(100):
            back.sends(b"x" * 4)
        self.assertTrue(back.paused)
        self.assertLessEqual(client.most, HIGH_WATER + 4)
        self.assertFalse(client.paused)
        client.sends(b"other way")
        back.reads()
        self.assertEqual(back.taken, b"other way")
        while back.waiting or client.unsent:
            client.reads(3)
        self.assertEqual(client.taken, b"x" * 400)
        self.assertLessEqual(client.most, HIGH_WATER + 4)
        self.assertFalse(back.paused)

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_any_interleaving(self, data: st.DataObject) -> None:
        """
        However sending, reading, ending and resetting mix: what arrives is what was sent, the
        buffers stay bounded, and when one side is gone the other goes too.
        """
        relay = Relayed()
        client, back = relay.client, relay.accepted()
        sent = {True: bytearray(), False: bytearray()}
        ended = {True: False, False: False}
        broken = False
        largest = 9
        for _ in range(data.draw(st.integers(0, 40))):
            at_client = data.draw(st.booleans())
            wire = client if at_client else back
            action = data.draw(st.sampled_from(["sends", "sends", "reads", "reads", "ends", "rst"]))
            if action == "sends" and not ended[at_client]:
                piece = data.draw(st.binary(min_size=1, max_size=largest))
                sent[at_client] += piece
                wire.sends(piece)
            elif action == "reads":
                wire.reads(data.draw(st.integers(1, 20)))
            elif action == "ends" and not ended[at_client]:
                ended[at_client] = True
                wire.ends()
            elif action == "rst" and data.draw(st.integers(0, 5)) == 0 and wire.reason is None:
                wire.breaks()
                broken = True
                break
        relay.clock.advance(0)
        for _ in range(1000):
            if not broken and not (client.waiting or back.waiting or client.unsent or back.unsent):
                break
            client.reads(7)
            back.reads(7)
            relay.clock.advance(0)
        self.assertLessEqual(max(client.most, back.most), HIGH_WATER + largest)
        self.assertEqual(back.taken, sent[True][: len(back.taken)])
        self.assertEqual(client.taken, sent[False][: len(client.taken)])
        if broken:
            self.assertIsNotNone(client.reason)
            self.assertIsNotNone(back.reason)
            return
        self.assertEqual((back.taken, client.taken), (sent[True], sent[False]))
        self.assertEqual((back.ended, client.ended), (ended[True], ended[False]))
        both = ended[True] and ended[False]
        self.assertEqual((client.closed, back.closed), (both, both))
