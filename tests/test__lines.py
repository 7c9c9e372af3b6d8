"""Tests for L{twisted_bioconn._lines}."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn._lines import BURST, RATE, TELL_INTERVAL, Lines


class LinesTests(SynchronousTestCase):
    """L{Lines}."""

    def test_flood(self) -> None:
        """Some lines, and then how many there would have been."""
        clock = Clock()
        lines = Lines(clock)
        self.assertEqual(sum(lines.take("a") for _ in range(BURST + 50)), BURST)
        self.assertFalse(lines.take("b"))
        with capturedLogs() as events:
            clock.advance(TELL_INTERVAL)
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["51 more failed handshakes within 10 seconds: a 50, b 1"],
        )
        self.assertEqual(clock.getDelayedCalls(), [])
        self.assertEqual(
            sum(lines.take("a") for _ in range(2 * BURST)), min(BURST, RATE * TELL_INTERVAL)
        )
        with capturedLogs() as events:
            clock.advance(TELL_INTERVAL)
        self.assertEqual(len(events), 1)

    def test_stop(self) -> None:
        """What is untold is told at once."""
        clock = Clock()
        lines = Lines(clock)
        lines.stop()
        for _ in range(BURST + 2):
            lines.take("a")
        with capturedLogs() as events:
            lines.stop()
            lines.stop()
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["2 more failed handshakes within 10 seconds: a 2"],
        )
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_few(self) -> None:
        """Nobody waits where nothing was left out."""
        clock = Clock()
        lines = Lines(clock)
        for _ in range(1000):
            self.assertTrue(lines.take("a"))
            clock.advance(1 / RATE)
        self.assertEqual(clock.getDelayedCalls(), [])
