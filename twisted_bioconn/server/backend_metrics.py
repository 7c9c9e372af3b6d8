"""How back ends are, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from twisted_bioconn.server.backend import BackEnd, State
from twisted_bioconn.server.holdings import Holdings
from twisted_bioconn.server.openings import Listener
from twisted_bioconn.server.relay import RelayFactory

__all__ = ["BackEndCollector", "BufferCollector", "none_is_up"]


def _relays(listeners: Iterable[Listener]) -> Iterator[tuple[str, RelayFactory]]:
    for listener in listeners:
        for factory in listener.factories:
            if isinstance(factory, RelayFactory):
                yield listener.name, factory


def none_is_up(listeners: Iterable[Listener]) -> str | None:
    """Where clients cannot be forwarded to anybody, in words; L{None} if there is no such place."""
    for name, factory in _relays(listeners):
        members = factory.back_ends.members
        if members and all(each.state is State.DOWN for each in members):
            return f"{name}: no back end is up"
    return None


class BackEndCollector(Collector):
    """
    The back ends of what is forwarded, by port and by their descriptions.
    """

    def __init__(self, listeners: Callable[[], Iterable[Listener]]) -> None:
        """
        @param listeners: what is served just now.
        """
        self._listeners = listeners

    def collect(self) -> Iterator[Metric]:
        """
        @see: L{Collector.collect}
        """
        labels = ("listener", "back_end")
        up = GaugeMetricFamily(
            "bioconn_back_end_up", "1, or 0 for one that is taken to be down.", labels=labels
        )
        connections = GaugeMetricFamily(
            "bioconn_back_end_connections", "Connections that are open.", labels=labels
        )
        served = CounterMetricFamily(
            "bioconn_back_end_served", "Connections there have been.", labels=labels
        )
        failures = CounterMetricFamily(
            "bioconn_back_end_failures", "Attempts and checks that have failed.", labels=labels
        )
        # One may be named twice, so that it gets twice as many, and be on several routes.
        found: dict[tuple[str, str], list[BackEnd]] = {}
        for name, factory in _relays(self._listeners()):
            for each in factory.back_ends.members:
                found.setdefault((name, each.description), []).append(each)
        for of, same in found.items():
            up.add_metric(of, any(each.state is not State.DOWN for each in same))
            connections.add_metric(of, sum(each.connections for each in same))
            served.add_metric(of, sum(each.served for each in same))
            failures.add_metric(of, sum(each.failures for each in same))
        yield from (up, connections, served, failures)


class BufferCollector(Collector):
    """What relays hold for those that do not read."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings

    def collect(self) -> Iterator[Metric]:
        """
        @see: L{Collector.collect}
        """
        yield GaugeMetricFamily(
            "bioconn_buffered_bytes",
            "Bytes that are held for clients and back ends that do not read.",
            value=self._holdings.held,
        )
        yield CounterMetricFamily(
            "bioconn_buffered_dropped",
            "Connections that were reset because max-buffered had been reached.",
            value=self._holdings.dropped,
        )
