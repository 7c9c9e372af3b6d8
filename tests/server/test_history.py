"""Tests for L{twisted_bioconn.server.history}."""

from __future__ import annotations

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.server.test_facts import USUAL
from tests.server.test_ledger import SENTENCE, layer
from twisted_bioconn.explanations import Cause
from twisted_bioconn.limits import Limit
from twisted_bioconn.server.history import INTERVAL, LENGTH, History, Sample
from twisted_bioconn.server.ledger import Ledger


class HistoryTests(SynchronousTestCase):
    """What was, as samples."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.ledger = Ledger(self.clock, now=self.clock.seconds)
        self.history = History(self.ledger)

    def test_sample(self) -> None:
        """It is of all ports, and tells failures from those who have said nothing."""
        one, two = self.ledger.account("one"), self.ledger.account("two")
        for account in (one, two):
            tls = layer()
            account.begun(tls)
            account.let_in(tls, USUAL)
            account.refused(Limit.HANDSHAKES)
            account.not_let_in(None, "192.0.2.1:1", SENTENCE, 0)
            silent = attrs.evolve(SENTENCE, cause=Cause.CLOSED_SILENT)
            account.not_let_in(None, "192.0.2.1:1", silent, 0)
        self.assertEqual(
            Sample.of(self.ledger),
            Sample(
                moment=0.0,
                connections=2,
                done=2,
                failed={"http": 2},
                refused={"maxHandshakes": 2},
                received=2468,
                sent=11356,
                p50=0.00421,
                p99=0.00421,
            ),
        )

    def test_length(self) -> None:
        """The oldest goes when there are enough."""
        self.history.start()
        self.assertEqual(len(self.history.samples), 1)
        self.clock.pump([INTERVAL] * (LENGTH + 9))
        self.assertEqual(len(self.history.samples), LENGTH)
        moments = [each.moment for each in self.history.samples]
        self.assertEqual(moments[0], 10 * INTERVAL)
        self.assertEqual(moments, sorted(moments))

    def test_users(self) -> None:
        """It goes on until the last who wants to know has gone."""
        self.history.start()
        self.history.start()
        self.history.stop()
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.history.samples), 2)
        self.history.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.history.start()
        self.assertEqual(len(self.history.samples), 3)
