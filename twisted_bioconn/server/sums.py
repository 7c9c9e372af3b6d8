"""
What several processes of one server tell of themselves, as if they were one.

Counts add up, also with those of processes that are no more: a count that falls looks like a start
from zero to Prometheus.  What only is at a moment, connections and memory, is of those that there
are.  Of latencies the sum has the worst: what 99 of 100 were within in each process they are within
in all of them together.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

__all__ = [
    "Families",
    "Tally",
    "add_families",
    "add_histories",
    "add_status",
    "counts_of_families",
    "counts_of_status",
    "exposed",
    "families_of",
]

T = TypeVar("T")

Families = dict[str, Metric]
"""Metrics by their names."""

_SUMMED = frozenset(
    {
        "bioconn_connections",
        "bioconn_buffered_bytes",
        "bioconn_delayed_calls",
        "bioconn_heap_bytes",
        "bioconn_python_blocks",
        "bioconn_back_end_connections",
        "process_virtual_memory_bytes",
        "process_resident_memory_bytes",
        "process_open_fds",
    }
)
"""The gauges that add up; of the others the first process's hold."""

_COUNTING = frozenset({"counter", "histogram"})

_STATES = ("handshake", "open", "closing")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Tally(Generic[T]):
    """
    The sum of one kind of report, which remembers what those counted that are no more.
    """

    def __init__(
        self,
        add: Callable[[T, Sequence[T]], T],
        counts: Callable[[T], T],
        is_alive: Callable[[int], bool] = _is_alive,
    ) -> None:
        """
        @param add: adds some reports to one.
        @param counts: what stays of a report when its process has ended.
        @param is_alive: whether there is a process of that number.
        """
        self._add = add
        self._counts = counts
        self._is_alive = is_alive
        self._last: dict[int, T] = {}
        self._gone: T | None = None

    def together(self, own: T, told: Mapping[int, T]) -> T:
        """
        The sum.  One that has not answered this time is as it was the last time.

        @param own: this process's report.
        @param told: what the others have told, by the numbers of their processes.
        """
        self._last.update(told)
        for pid in [each for each in self._last if each not in told and not self._is_alive(each)]:
            counts = self._counts(self._last.pop(pid))
            self._gone = counts if self._gone is None else self._add(self._gone, [counts])
        others = list(self._last.values())
        if self._gone is not None:
            others.append(self._gone)
        return self._add(own, others)


# Reports in JSON


def _added(values: Sequence[Any]) -> Any:
    """Numbers add up, name by name; of all else there is the first."""
    first = values[0]
    if isinstance(first, dict):
        names = dict.fromkeys(name for each in values for name in each)
        return {name: _added([each[name] for each in values if name in each]) for name in names}
    if isinstance(first, list):
        by_name: dict[str, list[Any]] = {}
        for each in values:
            for item in each:
                by_name.setdefault(item["name"], []).append(item)
        return [_added(items) for items in by_name.values()]
    if isinstance(first, bool) or not isinstance(first, int | float):
        return first
    return sum(each for each in values if each is not None)


def _worst(values: Iterable[float | None]) -> float | None:
    return max((each for each in values if each is not None), default=None)


def _add_samples(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        **_added(samples),
        "moment": samples[0]["moment"],
        **{name: _worst(each[name] for each in samples) for name in ("p50", "p99")},
    }


def add_status(own: dict[str, Any], others: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """
    The status of several processes.

    @param own: the first one's, which all that is no number is taken from.
    """
    told = [own, *others]
    return {
        **_added([{**each, "processes": [], "obstacles": []} for each in told]),
        **{name: own[name] for name in ("pid", "worker", "now", "obstacles")},
        "started": min(each["started"] for each in told),
        "uptime": max(each["uptime"] for each in told),
        "sample": _add_samples([each["sample"] for each in told]),
        "processes": [process for each in told for process in each["processes"]],
    }


def counts_of_status(said: dict[str, Any]) -> dict[str, Any]:
    """What stays of a status when its process has ended."""
    nobody = dict.fromkeys(_STATES, 0)
    return {
        **said,
        "connections": {**said["connections"], **nobody},
        "sample": {**said["sample"], "connections": 0, "p50": None, "p99": None},
        "listeners": [
            {**each, "connections": {**each["connections"], **nobody}} for each in said["listeners"]
        ],
        "processes": [],
    }


def add_histories(
    own: Sequence[dict[str, Any]], others: Sequence[Sequence[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """
    The samples of several processes, at the moments of the first one's: of each other one what it
    had last.
    """
    moments = [[each["moment"] for each in samples] for samples in others]
    told = []
    for sample in own:
        parts = [sample]
        for times, samples in zip(moments, others, strict=True):
            place = bisect_right(times, sample["moment"])
            if place:
                parts.append(samples[place - 1])
        told.append(_add_samples(parts))
    return told


# Metrics


def families_of(text: str) -> Families:
    """
    The metrics in a text, as Prometheus reads it.

    @raise ValueError: it is no such text.
    """
    return {each.name: each for each in text_string_to_metric_families(text)}


def add_families(own: Families, others: Sequence[Families]) -> Families:
    """The metrics of several processes."""
    names = dict.fromkeys(name for each in (own, *others) for name in each)
    return {name: _add_family(name, own, others) for name in names}


def _add_family(name: str, own: Families, others: Sequence[Families]) -> Metric:
    found = [each[name] for each in (own, *others) if name in each]
    first = found[0]
    if first.type not in _COUNTING and name not in _SUMMED:
        return first
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in found:
        for sample in family.samples:
            key = sample.name, tuple(sample.labels.items())
            values[key] = values.get(key, 0.0) + sample.value
    return _family(first, [Sample(key[0], dict(key[1]), value) for key, value in values.items()])


def counts_of_families(families: Families) -> Families:
    """What stays of metrics when their process has ended."""
    return {name: each for name, each in families.items() if each.type in _COUNTING}


def _family(like: Metric, samples: list[Sample]) -> Metric:
    made = Metric(like.name, like.documentation, like.type)
    made.samples = samples
    return made


class _These(Collector):
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families.values()


def exposed(families: Families) -> bytes:
    """Metrics as Prometheus's text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_These(families))
    return generate_latest(registry)
