"""Tests for L{twisted_bioconn.server.status_service}."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from tests.context_material import serving
from twisted_bioconn.endpoints import ServerEndpoint
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.ledger import Ledger
from twisted_bioconn.server.openings import Listener
from twisted_bioconn.server.status import Status
from twisted_bioconn.server.status_service import INTERVAL, StatusService


class Reactor:
    """The reactor, with a clock of a test's."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.callLater = self.clock.callLater

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class ServiceTests(TestCase):
    """The place is had, left, and waited for."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.path = os.path.join(self.directory, "s")
        self.reactor = Reactor()

    def service(self, place: str | None = None) -> StatusService:
        """One that is not started yet, and does not outlast the test."""
        status = Status(ledger=Ledger(self.reactor.clock))
        service = StatusService(self.reactor, place or self.path, status)
        self.addCleanup(lambda: service.stopService() if service.running else None)
        return service

    def there(self) -> list[str]:
        return sorted(os.listdir(self.directory))

    @inlineCallbacks
    def test_life(self) -> Any:
        service = self.service()
        self.assertEqual(self.there(), [])
        service.startService()
        self.assertEqual(self.there(), ["s"])
        yield service.stopService()
        self.assertEqual(self.there(), [])
        self.assertEqual(self.reactor.clock.getDelayedCalls(), [])

    def test_no_place(self) -> None:
        """What cannot be had is said as it is made, or as it starts."""
        self.assertRaises(ConfigurationError, self.service, "tcp:80")
        self.service().startService()
        error = self.assertRaises(ConfigurationError, self.service().startService)
        reason = f"status={self.path}: another process listens on {self.path}"
        self.assertEqual(str(error), reason)
        error = self.assertRaises(ConfigurationError, self.service("/proc/none/s").startService)
        self.assertEqual(str(error), "status=/proc/none/s: No such file or directory")

    @inlineCallbacks
    def test_succession(self) -> Any:
        """A new process has the place as soon as the old one steps aside, who stays reachable."""
        old, new = self.service(), self.service()
        old.startService()
        new.waits = True
        new.startService()
        self.reactor.clock.advance(INTERVAL)
        self.assertIsNone(new._listening)
        yield old.step_aside()
        self.assertEqual(self.there(), [f"s.{os.getpid()}"])
        self.reactor.clock.advance(INTERVAL)
        self.assertEqual(self.there(), ["s", f"s.{os.getpid()}"])
        yield old.stopService()
        self.assertEqual(self.there(), ["s"])
        yield new.stopService()
        self.assertEqual(self.there(), [])

    @inlineCallbacks
    def test_given_up(self) -> Any:
        """One that waits can be stopped, and one that is stopped does not step aside."""
        self.service().startService()
        waiting = self.service()
        waiting.waits = True
        waiting.startService()
        yield waiting.stopService()
        yield waiting.step_aside()
        self.assertEqual(self.there(), ["s"])

    @inlineCallbacks
    def test_accounts(self) -> Any:
        """A port with our TLS tells its account; another has none that it could tell."""
        service = self.service()
        tls = ServerEndpoint(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), serving())
        listener = Listener("one", tls, Factory.forProtocol(Protocol), target="an echo")
        plain = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        service.account_for([listener, Listener("two", plain, listener.factory)])
        ledger = service.status.ledger
        self.assertIs(tls.observer, ledger.account("one"))
        self.assertEqual(len(ledger.accounts), 1)
        port = yield tls.listen(listener.factory)
        service.opened(listener, port)
        [account] = ledger.accounts
        self.assertEqual(account.address, f"127.0.0.1:{port.getHost().port}")
        self.assertEqual(account.target, "an echo")
        yield port.stopListening()

    @inlineCallbacks
    def test_workers(self) -> Any:
        """Each worker has a path of its own; a port is the first one's."""
        for index in range(3):
            service = self.service()
            service.be_worker(index)
            self.assertEqual(service.status.worker, index)
            service.startService()
        self.assertEqual(self.there(), ["s", "s.1", "s.2"])
        other = self.service("127.0.0.1:0")
        other.be_worker(1)
        other.startService()
        self.assertIsNone(other._listening)
        first = self.service("127.0.0.1:0")
        first.be_worker(0)
        first.startService()
        self.assertIsNotNone(first._listening)
        yield first.step_aside()
        self.assertIsNone(first._listening)
