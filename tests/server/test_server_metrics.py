"""Tests for L{twisted_bioconn.server.metrics}."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
from prometheus_client.registry import Collector
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.context_material import serving
from tests.server.test_facts import USUAL
from tests.server.test_ledger import SENTENCE, layer
from twisted_bioconn import __version__
from twisted_bioconn.limits import Limit
from twisted_bioconn.server.ledger import Ledger
from twisted_bioconn.server.metrics import exposition, server_registry

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


class More(Collector):
    """Something else that there is to collect."""

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("bioconn_backends", "Back ends.", value=2)


class MetricsTests(SynchronousTestCase):
    """What Prometheus gets."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.ledger = Ledger(self.clock, now=lambda: 1e9)
        self.account = self.ledger.account('a "port"\n')
        self.registry = server_registry(self.ledger, lambda: [serving()], [More()])

    def samples(self, accept: str = "") -> dict[tuple[str, str], float]:
        """The values by name, and by the labels but for the listener's as text."""
        body, media = exposition(self.registry, accept)
        parse: Any = openmetrics if "openmetrics" in media else prometheus
        found = {}
        for family in parse(body.decode()):
            for sample in family.samples:
                labels = dict(sample.labels)
                if sample.name.startswith("bioconn_") and "listener" in labels:
                    self.assertEqual(labels.pop("listener"), 'a "port"\n')
                found[sample.name, ",".join(labels[name] for name in sorted(labels))] = sample.value
        return found

    def work(self) -> None:
        """Something happens."""
        tls = layer()
        self.account.begun(tls)
        self.clock.advance(1)
        self.account.let_in(tls, attrs.evolve(USUAL, resumed=True, handshake_seconds=0.03))
        self.clock.advance(20)
        self.account.ended(tls, Failure(ConnectionLost()))
        self.account.begun(layer())
        self.account.not_let_in(None, "192.0.2.1:1", SENTENCE, 0.0)
        self.account.refused(Limit.PER_ADDRESS)
        self.account.plain(None, None)

    def test_values(self) -> None:
        """In both of the forms that there are."""
        self.work()
        for accept in ("", OPENMETRICS):
            found = self.samples(accept)
            for name, labels, value in (
                ("bioconn_info", __version__, 1),
                ("bioconn_start_time_seconds", "", 1e9),
                ("bioconn_connections", "handshake", 1),
                ("bioconn_connections", "open", 0),
                ("bioconn_connections", "closing", 0),
                ("bioconn_connections_begun_total", "", 2),
                ("bioconn_plain_connections_total", "", 1),
                ("bioconn_connections_ended_total", "lost", 1),
                ("bioconn_connections_ended_total", "closed", 0),
                ("bioconn_handshakes_total", "ok", 1),
                ("bioconn_handshakes_total", "http", 1),
                ("bioconn_negotiated_total", "X25519MLKEM768,yes,TLSv1.3", 1),
                ("bioconn_refused_total", "maxPerAddress", 1),
                ("bioconn_refused_total", "maxConnections", 0),
                ("bioconn_received_bytes_total", "", 2 * 1234),
                ("bioconn_sent_bytes_total", "", 2 * 5678),
                ("bioconn_handshake_seconds_bucket", "0.025", 0),
                ("bioconn_handshake_seconds_bucket", "0.05", 1),
                ("bioconn_handshake_seconds_bucket", "+Inf", 1),
                ("bioconn_handshake_seconds_sum", "", 0.03),
                ("bioconn_connection_seconds_bucket", "10.0", 0),
                ("bioconn_connection_seconds_bucket", "60.0", 1),
                ("bioconn_connection_seconds_count", "", 1),
                ("bioconn_certificates", "", 0),
                ("bioconn_backends", "", 2),
            ):
                self.assertEqual(found[name, labels], value, (accept, name, labels))
            self.assertGreater(found["process_resident_memory_bytes", ""], 0)

    def test_first(self) -> None:
        """Before anything has happened the series are there that can be known."""
        found = self.samples()
        self.assertEqual(found["bioconn_handshakes_total", "ok"], 0)
        self.assertEqual(len([key for key in found if key[0] == "bioconn_refused_total"]), 5)
        self.assertEqual(found["bioconn_handshake_seconds_count", ""], 0)

    def test_media(self) -> None:
        """A client gets the form that it asks for, and its name."""
        self.assertTrue(exposition(self.registry, "")[1].startswith("text/plain; version=0.0.4"))
        media = exposition(self.registry, OPENMETRICS)[1]
        self.assertTrue(media.startswith("application/openmetrics-text; version=1.0.0"), media)

    def test_bounded(self) -> None:
        """However many clients there are, there is no series more."""
        self.work()
        before = len(self.samples())
        for port in range(50):
            tls = layer(port)
            self.account.begun(tls)
            name = f"{port}.example"
            self.account.let_in(tls, attrs.evolve(USUAL, server_name=name, resumed=True))
            self.account.not_let_in(None, f"192.0.2.1:{port}", SENTENCE, 0.0)
        self.assertEqual(len(self.samples()), before)
