"""Waiting for connections to end."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.server.drain import INTERVAL, Drain, StartFailed


class DrainTests(SynchronousTestCase):
    """With a clock of its own."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.are_open = True
        self.done: list[float] = []

    def drain(self, seconds: float | None) -> Drain:
        return Drain(
            self.clock,
            lambda: self.are_open,
            seconds,
            lambda: self.done.append(self.clock.seconds()),
        )

    def wait(self, seconds: float) -> None:
        self.clock.pump([INTERVAL] * round(seconds / INTERVAL))

    def test_last_one_ends(self) -> None:
        """Soon after it has, and once."""
        self.drain(30.0)
        self.wait(10)
        self.assertEqual(self.done, [])
        self.are_open = False
        self.wait(1)
        [when] = self.done
        self.assertTrue(10 <= when <= 10 + 2 * INTERVAL)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_time_is_up(self) -> None:
        self.drain(5.0)
        self.wait(60)
        [when] = self.done
        self.assertTrue(5 <= when <= 5 + 2 * INTERVAL)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_as_long_as_it_takes(self) -> None:
        self.drain(None)
        self.wait(1000)
        self.assertEqual(self.done, [])
        self.are_open = False
        self.wait(1)
        self.assertEqual(len(self.done), 1)

    def test_nobody_there(self) -> None:
        """Nothing is called before whoever has begun it knows that it has."""
        self.are_open = False
        self.drain(30.0)
        self.assertEqual(self.done, [])
        self.wait(1)
        self.assertEqual(len(self.done), 1)

    def test_cancelled(self) -> None:
        drain = self.drain(5.0)
        self.wait(1)
        drain.cancel()
        drain.cancel()
        self.are_open = False
        self.wait(10)
        self.assertEqual(self.done, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class FailureTests(SynchronousTestCase):
    """What a start that has failed is."""

    def test_what_twistd_takes_for_one(self) -> None:
        """twistd catches an Exception, and Python ends quietly with a SystemExit."""
        self.assertTrue(issubclass(StartFailed, Exception))
        self.assertTrue(issubclass(StartFailed, SystemExit))
        self.assertEqual((str(StartFailed("why")), StartFailed("why").code), ("why", 1))
