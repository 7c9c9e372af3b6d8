"""Tests for L{twisted_bioconn.server.backend_metrics}."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tests.context_material import serving
from twisted_bioconn.endpoints import ServerEndpoint
from twisted_bioconn.port_options import Route
from twisted_bioconn.server.backend import BackEnd
from twisted_bioconn.server.backend_metrics import BackEndCollector, none_is_up
from twisted_bioconn.server.backends import BackEnds
from twisted_bioconn.server.openings import Listener
from twisted_bioconn.server.relay import RelayFactory
from twisted_bioconn.server.sites import EchoFactory


def down(back_end: BackEnd) -> None:
    """Have it taken to be down."""
    back_end._is_checked_down = True


class CollectorTests(SynchronousTestCase):
    """What there is to collect."""

    def relay(self, *descriptions: str) -> RelayFactory:
        reactor: Any = MemoryReactorClock()
        endpoints = [(TCP4ClientEndpoint(reactor, "127.0.0.1", 80), each) for each in descriptions]
        back_ends = BackEnds(endpoints, reactor)
        return RelayFactory(back_ends, back_ends.description, reactor)

    def listener(self, factory: Any, *routed: Any) -> Listener:
        below = TCP4ServerEndpoint(MemoryReactorClock(), 443)
        routes = [Route(factory=each, names=("a.example",)) for each in routed]
        return Listener("--listen 443", ServerEndpoint(below, serving(), routes=routes), factory)

    def said(self, *listeners: Listener) -> list[str]:
        registry = CollectorRegistry()
        registry.register(BackEndCollector(lambda: listeners))
        text = generate_latest(registry).decode()
        return [line for line in text.splitlines() if not line.startswith("#")]

    def test_each(self) -> None:
        """By listener and description, those of routes too; one that is there twice, once."""
        main, routed = self.relay("one:80", "one:80", "two:80"), self.relay("three:80")
        down(main.back_ends.members[0])
        down(main.back_ends.members[2])
        said = self.said(self.listener(main, routed), self.listener(EchoFactory()))
        for line in (
            'bioconn_back_end_up{back_end="one:80",listener="--listen 443"} 1.0',
            'bioconn_back_end_up{back_end="two:80",listener="--listen 443"} 0.0',
            'bioconn_back_end_up{back_end="three:80",listener="--listen 443"} 1.0',
            'bioconn_back_end_connections{back_end="one:80",listener="--listen 443"} 0.0',
            'bioconn_back_end_served_total{back_end="one:80",listener="--listen 443"} 0.0',
            'bioconn_back_end_failures_total{back_end="one:80",listener="--listen 443"} 0.0',
        ):
            self.assertEqual(said.count(line), 1, said)

    def test_none_is_up(self) -> None:
        """Who cannot forward at all is not ready."""
        relay = self.relay("one:80", "two:80")
        listeners = [self.listener(EchoFactory()), self.listener(relay)]
        down(relay.back_ends.members[0])
        self.assertIsNone(none_is_up(listeners))
        down(relay.back_ends.members[1])
        self.assertEqual(none_is_up(listeners), "--listen 443: no back end is up")
