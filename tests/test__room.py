"""Tests for L{twisted_bioconn._room}."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.context_material import serving
from twisted_bioconn import _room, preamble
from twisted_bioconn._room import ASK_INTERVAL, LEAST, RESERVE, TELL_INTERVAL, Room
from twisted_bioconn.port_options import PreambleOptions
from twisted_bioconn.protocol import TLSConnectorFactory
from twisted_bioconn.server.metrics import MemoryCollector
from twisted_bioconn.server.sites import EchoFactory

MEBIBYTE = 1024 * 1024


class RoomTests(SynchronousTestCase):
    """
    A connection is let in where there is memory for it.

    @ivar free: bytes that can be had.
    """

    def setUp(self) -> None:
        self.free = 100 * MEBIBYTE
        self.tried: list[int] = []
        self.limited = True
        self.now = 5.0

        def can_have(size: int) -> bool:
            self.tried.append(size)
            return size <= self.free

        self.patch(_room, "_can_have", can_have)
        self.heap = 0
        self.patch(_room, "_free_in_heap", lambda: self.heap)
        self.room = Room(lambda: self.limited, seconds=lambda: self.now)

    def said(self, call: Callable[[], object]) -> list[str]:
        with capturedLogs() as events:
            call()
        return [str(formatEvent(event)) for event in events]

    def test_no_limit(self) -> None:
        """Then nothing is tried."""
        self.limited = False
        self.free = 0
        self.assertTrue(self.room.is_there())
        self.assertEqual(self.tried, [])

    def test_refused_and_let_in_again(self) -> None:
        """There is one line when it begins, and one when it ends."""
        self.assertEqual(self.said(self.room.is_there), [])
        self.free = RESERVE - 1
        self.assertEqual(
            self.said(self.room.is_there),
            [f"connections are refused for now: there are no {RESERVE} bytes of memory left"],
        )
        self.assertEqual(self.said(self.room.is_there), [])
        self.assertEqual(self.room.refused, 2)
        # A little more is wanted, so that one that goes does not end it.
        self.free = RESERVE
        self.assertFalse(self.room.is_there())
        self.free = RESERVE + RESERVE // 4
        self.assertEqual(
            self.said(self.room.is_there), ["there is memory again: 3 connections were refused"]
        )
        self.assertEqual(self.said(self.room.is_there), [])
        self.assertEqual(self.room.refused, 3)

    def test_limit_is_lifted(self) -> None:
        self.free = 0
        self.assertFalse(self.room.is_there())
        self.limited = False
        self.assertFalse(self.room.is_there())
        self.now += ASK_INTERVAL
        self.assertTrue(self.room.is_there())

    def test_little_from_the_start(self) -> None:
        """Half of what there is, is for those who come first."""
        self.free = 10 * MEBIBYTE
        self.assertTrue(self.room.is_there())
        self.free = 4 * MEBIBYTE
        self.assertTrue(self.room.is_there())
        self.free -= 1
        self.assertFalse(self.room.is_there())

    def test_next_to_nothing_from_the_start(self) -> None:
        self.free = LEAST - 1
        self.assertFalse(self.room.is_there())
        self.free = 2 * LEAST
        self.assertTrue(self.room.is_there())

    def test_left_behind(self) -> None:
        """What others have left in the heap counts; it is looked at from time to time."""
        self.assertTrue(self.room.is_there())
        self.free = RESERVE - 10
        self.assertFalse(self.room.is_there())
        self.heap = RESERVE // 4 + 10
        self.assertFalse(self.room.is_there())
        self.now += 0.25
        self.assertTrue(self.room.is_there())

    def test_lost(self) -> None:
        """A flood of them is no flood of lines."""
        self.assertEqual(
            self.said(self.room.is_gone), ["no memory is left: 1 connections are lost so far"]
        )
        self.assertEqual(self.said(self.room.is_gone), [])
        self.now += TELL_INTERVAL
        self.assertEqual(
            self.said(self.room.is_gone), ["no memory is left: 3 connections are lost so far"]
        )

    def test_metrics(self) -> None:
        self.room.refused, self.room.lost = 3, 4
        found = {
            sample.name: sample.value
            for family in MemoryCollector(self.room).collect()
            for sample in family.samples
        }
        self.assertEqual(found, {"bioconn_memory_refused_total": 3, "bioconn_memory_lost_total": 4})

    def test_connection(self) -> None:
        """It is refused as it comes, or as its TLS begins."""
        self.patch(preamble, "ROOM", self.room)
        tls = TLSConnectorFactory(serving(), False, EchoFactory())
        factory = preamble.PreambleFactory(tls, PreambleOptions())
        address = IPv4Address("TCP", "127.0.0.1", 1)
        waiting = factory.buildProtocol(address)
        assert waiting is not None
        transport = StringTransport()
        waiting.makeConnection(transport)
        self.free = 0
        self.assertIsNone(factory.buildProtocol(address))
        waiting.dataReceived(b"\x16\x03\x01\x00\x01\x01")
        self.assertTrue(transport.disconnecting)
        self.assertEqual(self.room.refused, 2)
        self.assertEqual(tls.protocols, {})


class ProcessTests(SynchronousTestCase):
    """This process."""

    def test_there_is_some(self) -> None:
        self.assertTrue(_room._can_have(4096))
        self.assertTrue(_room._can_have(-1))
        self.assertFalse(_room._can_have(1 << 60))
        self.assertGreaterEqual(_room._free_in_heap(), 0)
        self.assertTrue(_room.ROOM.is_there())

    def test_kernel_that_promises_nothing(self) -> None:
        self.assertIsInstance(_room._is_strict(), bool)
