"""What goes on inside a server's process, for Prometheus: whether it grows, and where."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import attrs
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from twisted_bioconn.server.memory import heap

__all__ = ["InsideCollector", "calls_to_come"]


def calls_to_come(clock: Any) -> dict[str, int]:
    """
    How many calls a reactor is to make later: those of its own, and the deadlines of connections
    where it keeps these apart.
    """
    deadlines = getattr(clock, "deadlines", None)
    return {
        "call": len(clock.getDelayedCalls()),
        "deadline": 0 if deadlines is None else deadlines.pending,
    }


class InsideCollector(Collector):
    """
    Calls that are to come, and what memory is used for.  How many objects there are is not among
    it: they would have to be counted at each scrape, and C{bioconn memory} does that when asked.
    """

    def __init__(self, clock: Any) -> None:
        """
        @param clock: the reactor.
        """
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """
        @see: L{Collector.collect}
        """
        calls = GaugeMetricFamily(
            "bioconn_delayed_calls",
            "Calls that the reactor is to make later: its own, and the deadlines of connections.",
            labels=["kind"],
        )
        for kind, number in calls_to_come(self._clock).items():
            calls.add_metric([kind], number)
        yield calls
        yield GaugeMetricFamily(
            "bioconn_python_blocks",
            "Blocks that Python has given to small objects.",
            value=sys.getallocatedblocks(),
        )
        now = heap()
        if now is not None:
            held = GaugeMetricFamily(
                "bioconn_heap_bytes",
                "Bytes of malloc's: used, free and kept for later, or mapped for a large block.",
                labels=["state"],
            )
            for state, number in attrs.asdict(now).items():
                held.add_metric([state], number)
            yield held
