"""Tests for L{twisted_bioconn.server.sums}."""

from __future__ import annotations

import os
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.limits import Limit
from twisted_bioconn.server.ledger import Ledger
from twisted_bioconn.server.status_reports import status_report
from twisted_bioconn.server.sums import (
    Tally,
    _is_alive,
    add_families,
    add_histories,
    add_status,
    counts_of_families,
    counts_of_status,
    exposed,
    families_of,
)


def report(pid: int, refused: int, p99: float | None = None, *, second: bool = False) -> Any:
    """What a process tells that has refused some connections."""
    ledger = Ledger(Clock(), now=lambda: 1000.0 + pid)
    account = ledger.account("one")
    for _ in range(refused):
        account.refused(Limit.CONNECTIONS)
    if second:
        ledger.account("two").refused(Limit.HANDSHAKES)
    said = status_report(ledger)
    said["sample"]["p99"] = p99
    said["connections"]["open"] = said["listeners"][0]["connections"]["open"] = pid
    process = {"pid": pid, "worker": 0, "state": "serving", "connections": pid}
    return {**said, "pid": pid, "worker": pid, "obstacles": [], "processes": [process]}


class StatusTests(SynchronousTestCase):
    """The status of several processes is one status."""

    def test_sum(self) -> None:
        told = add_status(report(2, 3, 0.25), [report(1, 4, 0.5, second=True), report(5, 0)])
        self.assertEqual(told["pid"], 2)
        self.assertEqual(told["worker"], 2)
        self.assertEqual(told["refused"], {"maxConnections": 7, "maxHandshakes": 1})
        self.assertEqual(told["connections"]["open"], 8)
        self.assertEqual([each["name"] for each in told["listeners"]], ["one", "two"])
        self.assertEqual(told["listeners"][0]["refused"], {"maxConnections": 7})
        self.assertEqual(told["sample"]["p99"], 0.5)
        self.assertIsNone(told["sample"]["p50"])
        self.assertEqual(told["sample"]["moment"], 1002.0)
        self.assertEqual(told["started"], report(1, 0)["started"])
        self.assertEqual([each["pid"] for each in told["processes"]], [2, 1, 5])

    def test_alone(self) -> None:
        own = report(2, 3, 0.25)
        self.assertEqual(add_status(own, []), own)

    def test_obstacles(self) -> None:
        """Why it is not ready, the first one says; the others may have their own reasons."""
        own, other = ({**report(each, 0), "obstacles": [f"{each} is not"]} for each in (1, 2))
        for others in ([], [other], [report(2, 0)]):
            self.assertEqual(add_status(own, others)["obstacles"], ["1 is not"])

    def test_gone(self) -> None:
        """Of a process that is no more there are its counts, and no connections."""
        told = add_status(report(2, 3), [counts_of_status(report(1, 4, 9.0))])
        self.assertEqual(told["refused"], {"maxConnections": 7})
        self.assertEqual(told["connections"]["open"], 2)
        self.assertEqual(told["listeners"][0]["connections"]["open"], 2)
        self.assertIsNone(told["sample"]["p99"])
        self.assertEqual([each["pid"] for each in told["processes"]], [2])


class TallyTests(SynchronousTestCase):
    """Nothing that was counted is forgotten."""

    def setUp(self) -> None:
        self.alive = {1, 2, 3}
        self.tally: Tally[list[str]] = Tally(
            lambda own, others: sum(others, own),
            lambda told: [each for each in told if each.isupper()],
            self.alive.__contains__,
        )

    def test_together(self) -> None:
        self.assertEqual(self.tally.together(["a"], {1: ["B"], 2: ["c"]}), ["a", "B", "c"])
        # One that was slow to answer.
        self.assertEqual(self.tally.together(["a"], {1: ["D", "e"]}), ["a", "D", "e", "c"])
        self.alive.clear()
        self.assertEqual(self.tally.together(["a"], {2: ["F"]}), ["a", "F", "D"])
        self.assertEqual(self.tally.together(["a"], {}), ["a", "D", "F"])
        self.assertEqual(self.tally.together(["a"], {}), ["a", "D", "F"])

    def test_is_alive(self) -> None:
        self.assertTrue(_is_alive(os.getpid()))
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        self.assertFalse(_is_alive(child))


class HistoryTests(SynchronousTestCase):
    """At each moment each process counts as it was last."""

    def samples(self, *pairs: tuple[float, int]) -> list[dict[str, Any]]:
        return [
            {"moment": moment, "done": done, "failed": {}, "p50": None, "p99": done / 10}
            for moment, done in pairs
        ]

    def test_sum(self) -> None:
        own = self.samples((2.0, 1), (4.0, 2), (6.0, 3))
        told = add_histories(own, [self.samples((3.5, 10), (5.5, 20)), []])
        self.assertEqual(
            [(each["moment"], each["done"]) for each in told], [(2, 1), (4, 12), (6, 23)]
        )
        self.assertEqual([each["p99"] for each in told], [0.1, 1.0, 2.0])


class MetricsTests(SynchronousTestCase):
    """Counts add up; a gauge is summed up where that means something."""

    def text(self, value: int) -> str:
        registry = CollectorRegistry()
        served = Counter("served", "Of all.", ["port"], registry=registry)
        served.labels("80").inc(value)
        served.labels(f"of {value}").inc(1)
        took = Histogram("took_seconds", "Of each.", buckets=(1, 2), registry=registry)
        took.observe(1.5)
        Gauge("bioconn_connections", "Now.", registry=registry).set(value)
        Gauge("bioconn_delayed_calls", "Now.", ["kind"], registry=registry).labels("call").set(
            value
        )
        Gauge("bioconn_certificates", "As all have them.", registry=registry).set(value)
        return generate_latest(registry).decode()

    def test_sum(self) -> None:
        own, other = families_of(self.text(3)), families_of(self.text(4))
        gone = counts_of_families(families_of(self.text(5)))
        text = exposed(add_families(own, [other, gone])).decode()
        lines = text.splitlines()
        for line in (
            'served_total{port="80"} 12.0',
            'served_total{port="of 5"} 1.0',
            'took_seconds_bucket{le="1.0"} 0.0',
            'took_seconds_bucket{le="2.0"} 3.0',
            "took_seconds_count 3.0",
            "took_seconds_sum 4.5",
            "bioconn_connections 7.0",
            'bioconn_delayed_calls{kind="call"} 7.0',
            "bioconn_certificates 3.0",
            "# TYPE served_total counter",
            "# HELP served_total Of all.",
        ):
            self.assertIn(line, lines)
        self.assertEqual(families_of(text).keys(), own.keys())
