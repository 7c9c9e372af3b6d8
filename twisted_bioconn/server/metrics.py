"""
A server's connections, handshakes and limits as metrics, for Prometheus::

    registry = server_registry(ledger, lambda: [endpoint.options])

No label's value comes from a stranger: there is a series for each port, cause, version and group,
however many clients there are and whatever they say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from twisted_bioconn import __version__
from twisted_bioconn._room import ROOM, Room
from twisted_bioconn.certificates.metrics import CertificateCollector
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.limits import Limit
from twisted_bioconn.server.ledger import OK, Account, ConnectionState, End, Ledger
from twisted_bioconn.server.process_metrics import InsideCollector

__all__ = ["MemoryCollector", "ServerCollector", "exposition", "server_registry"]


class ServerCollector(Collector):
    """
    Collects what is in a ledger, when it is asked.  It has to be asked in the reactor's thread.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def describe(self) -> Iterable[Metric]:
        """What there may be: to register this collects nothing."""
        return self._of([])

    def collect(self) -> Iterable[Metric]:
        """What there is."""
        return self._of(self._ledger.accounts)

    def _of(self, accounts: Iterable[Account]) -> list[Metric]:
        info = InfoMetricFamily("bioconn", "Which program this is.", value={"version": __version__})
        start = GaugeMetricFamily(
            "bioconn_start_time_seconds",
            "When counting began, as Unix time.",
            value=self._ledger.started,
        )
        open_now = GaugeMetricFamily(
            "bioconn_connections",
            "Connections that there are: in the handshake, open, or about to close.",
            labels=["listener", "state"],
        )
        begun = _counter(
            "bioconn_connections_begun", "Connections whose first TLS record has come."
        )
        plain = _counter("bioconn_plain_connections", "Connections that were let in without TLS.")
        ended = _counter(
            "bioconn_connections_ended",
            "Connections that have ended after their client was let in, by how they did.",
            "end",
        )
        handshakes = _counter(
            "bioconn_handshakes",
            "Handshakes that have ended: ok, or the cause for which the client was not let in."
            " Also what did not come as far as a handshake.",
            "result",
        )
        negotiated = _counter(
            "bioconn_negotiated",
            "Handshakes that have succeeded, by what they agreed on.",
            "version",
            "group",
            "resumed",
        )
        refused = _counter(
            "bioconn_refused", "Connections that were refused because of a limit.", "limit"
        )
        pauses = _counter(
            "bioconn_accept_pauses",
            "How often accepting had to wait: no descriptors were left, or no memory.",
        )
        received = _counter("bioconn_received_bytes", "Bytes received, as they are on the wire.")
        sent = _counter("bioconn_sent_bytes", "Bytes sent, as they are on the wire.")
        took = HistogramMetricFamily(
            "bioconn_handshake_seconds",
            "How long handshakes took that have succeeded.",
            labels=["listener"],
        )
        lasted = HistogramMetricFamily(
            "bioconn_connection_seconds",
            "How long connections lasted whose client was let in.",
            labels=["listener"],
        )
        for each in accounts:
            name = each.name
            states = each.states()
            for state in ConnectionState:
                open_now.add_metric([name, state.value], states[state])
            begun.add_metric([name], each.begun_count)
            plain.add_metric([name], each.plain_count)
            for end in End:
                ended.add_metric([name, end.name.lower()], each.ends[end])
            # What has not happened yet is told as well, where it is known what may: the first time
            # that it does is seen as a change.
            for result, number in {OK: 0, **each.results}.items():
                handshakes.add_metric([name, result], number)
            for (version, group, resumed), number in each.negotiated.items():
                labels = [name, version, group or "none", "yes" if resumed else "no"]
                negotiated.add_metric(labels, number)
            for limit in Limit:
                refused.add_metric([name, limit.value], each.limits[limit])
            pauses.add_metric([name], each.pauses)
            bytes_in, bytes_out = each.traffic()
            received.add_metric([name], bytes_in)
            sent.add_metric([name], bytes_out)
            for family, histogram in (
                (took, each.handshake_times),
                (lasted, each.connection_times),
            ):
                family.add_metric([name], histogram.cumulative(), histogram.total)
        return [
            info,
            start,
            open_now,
            begun,
            plain,
            ended,
            handshakes,
            negotiated,
            refused,
            pauses,
            received,
            sent,
            took,
            lasted,
        ]


class MemoryCollector(Collector):
    """What the lack of memory has come to."""

    def __init__(self, room: Room) -> None:
        self._room = room

    def collect(self) -> Iterable[Metric]:
        """
        @see: L{Collector.collect}
        """
        yield CounterMetricFamily(
            "bioconn_memory_refused",
            "Connections that were refused because too little memory was left.",
            value=self._room.refused,
        )
        yield CounterMetricFamily(
            "bioconn_memory_lost",
            "Connections that were lost because no memory was left.",
            value=self._room.lost,
        )


def _counter(name: str, documentation: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, documentation, labels=["listener", *labels])


def server_registry(
    ledger: Ledger,
    options: Callable[[], Iterable[ServerOptions]],
    more: Iterable[Collector] = (),
) -> CollectorRegistry:
    """
    All that there is to collect of a server: its ledger, its certificates, its process.

    @param options: says which options its ports have.
    @param more: what else collects something.
    """
    registry = CollectorRegistry()
    registry.register(ServerCollector(ledger))
    registry.register(CertificateCollector(options))
    registry.register(MemoryCollector(ROOM))
    registry.register(InsideCollector(ledger.clock))
    for each in more:
        registry.register(each)
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """
    What is collected now, in the form that a client takes.

    @param accept: the client's header of that name.
    @return: the text and its media type.
    """
    encode, media = choose_encoder(accept)
    return encode(registry), media
