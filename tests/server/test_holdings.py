"""Tests for L{twisted_bioconn.server.holdings}."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.server.backend_metrics import BufferCollector
from twisted_bioconn.server.holdings import Holdings


class HoldingsTests(SynchronousTestCase):
    """What is held is counted, and bounded."""

    def setUp(self) -> None:
        self.dropped: list[str] = []

    def drop(self, name: str) -> Callable[[], str]:
        def drop() -> str:
            self.dropped.append(name)
            return name

        return drop

    def test_count(self) -> None:
        holdings = Holdings()
        holdings.waits("a", 5, self.drop("a"))
        holdings.waits("b", 7, self.drop("b"))
        # It was told to wait already.
        holdings.waits("a", 50, self.drop("a"))
        self.assertEqual(holdings.held, 12)
        holdings.goes_on("a")
        holdings.goes_on("a")
        holdings.goes_on("c")
        self.assertEqual(holdings.held, 7)
        self.assertEqual(self.dropped, [])

    def test_longest(self) -> None:
        """Those go that have waited longest, as many as it takes."""
        holdings = Holdings(10)
        for name in ("a", "b", "c"):
            holdings.waits(name, 3, self.drop(name))
        holdings.goes_on("a")
        holdings.waits("a", 3, self.drop("a"))
        self.assertEqual(self.dropped, [])
        with capturedLogs() as events:
            holdings.waits("d", 6, self.drop("d"))
        self.assertEqual(self.dropped, ["b", "c"])
        self.assertEqual(holdings.held, 9)
        self.assertEqual(
            formatEvent(events[0]),
            "b is closed: it has left 3 bytes unread for longer than any other, and max-buffered=10"
            " has been reached",
        )

    def test_too_much_alone(self) -> None:
        holdings = Holdings(10)
        holdings.waits("a", 11, self.drop("a"))
        self.assertEqual(self.dropped, ["a"])
        self.assertEqual(holdings.held, 0)

    @given(
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40) | st.none())), st.integers(1, 100)
    )
    def test_bound(self, steps: list[tuple[int, int | None]], most: int) -> None:
        holdings = Holdings(most)
        model: dict[int, int] = {}

        def dropping(side: int) -> Callable[[], str]:
            def drop() -> str:
                self.assertEqual(side, next(iter(model)))
                del model[side]
                return str(side)

            return drop

        for side, amount in steps:
            if amount is None:
                model.pop(side, None)
                holdings.goes_on(side)
            else:
                model.setdefault(side, amount)
                holdings.waits(side, amount, dropping(side))
            self.assertEqual(holdings.held, sum(model.values()))
            self.assertLessEqual(holdings.held, most)

    def test_metrics(self) -> None:
        holdings = Holdings(10)
        holdings.waits("a", 7, self.drop("a"))
        holdings.waits("b", 8, self.drop("b"))
        found = {
            sample.name: sample.value
            for metric in BufferCollector(holdings).collect()
            for sample in metric.samples
        }
        self.assertEqual(found, {"bioconn_buffered_bytes": 8, "bioconn_buffered_dropped_total": 1})
