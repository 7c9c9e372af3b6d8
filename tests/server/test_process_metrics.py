"""Tests for L{twisted_bioconn.server.process_metrics}."""

from __future__ import annotations

from unittest.mock import patch

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.reactor_material import HAS_EPOLL, epoll
from twisted_bioconn.server import process_metrics
from twisted_bioconn.server.memory import Heap
from twisted_bioconn.server.process_metrics import InsideCollector, calls_to_come


class CallsTests(SynchronousTestCase):
    """Calls that are to come."""

    def test_of_a_reactor(self) -> None:
        clock = Clock()
        calls = [clock.callLater(each, list) for each in range(3)]
        self.assertEqual(calls_to_come(clock), {"call": 3, "deadline": 0})
        calls[1].cancel()
        self.assertEqual(calls_to_come(clock), {"call": 2, "deadline": 0})

    def test_of_ours(self) -> None:
        """It keeps deadlines apart, and they are counted apart."""
        if not HAS_EPOLL:
            self.skipTest("there is no epoll on this platform")
        clock = Clock()
        clock.deadlines = epoll.Deadlines(clock.seconds)  # type: ignore[attr-defined]
        clock.callLater(1, list)
        for _ in range(2):
            clock.deadlines.callLater(1, list)  # type: ignore[attr-defined]
        self.assertEqual(calls_to_come(clock), {"call": 1, "deadline": 2})


class CollectorTests(SynchronousTestCase):
    """What Prometheus gets of it."""

    def samples(self) -> dict[tuple[str, ...], float]:
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in InsideCollector(Clock()).collect()
            for sample in family.samples
        }

    def test_values(self) -> None:
        with patch.object(process_metrics, "heap", lambda: Heap(used=5, free=6, mapped=7)):
            found = self.samples()
        self.assertGreater(found.pop(("bioconn_python_blocks",)), 1000)
        self.assertEqual(
            found,
            {
                ("bioconn_delayed_calls", "call"): 0,
                ("bioconn_delayed_calls", "deadline"): 0,
                ("bioconn_heap_bytes", "used"): 5,
                ("bioconn_heap_bytes", "free"): 6,
                ("bioconn_heap_bytes", "mapped"): 7,
            },
        )

    def test_no_heap(self) -> None:
        """Where malloc cannot be asked there is none of its series."""
        with patch.object(process_metrics, "heap", lambda: None):
            found = self.samples()
        self.assertEqual({name for name, *_ in found if "heap" in name}, set())
