"""
Tests for L{twisted_bioconn.certificates.acme.answers}: clocks that differ, and values that cannot
be read.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates.acme.fronts import DAY, HOUR, MINUTE, START, Front, FrontCase, InDns, Shared
from twisted_bioconn.certificates.acme.answers import Answers
from twisted_bioconn.certificates.acme.challenges import TlsAlpn01Solver
from twisted_bioconn.certificates.acme.records import CERTIFICATES, CHALLENGES, Answer, dump
from twisted_bioconn.certificates.store import Store, StoreUnavailable, ValueUnreadable

ANSWER = Answer(
    kind="tls-alpn-01",
    identifier="www.example.org",
    token="token",
    key_authorization="token.key",
    certificate="www.example.org-0",
    expires=START + HOUR,
)
LOCKED = CHALLENGES + "locked"
"""The name of a value that cannot be had."""


def lock(test: SynchronousTestCase, store: Store, prefix: str = LOCKED) -> None:
    """Have a store say that it cannot give back the values whose names begin so."""
    get = store.get

    def refuse(name: str) -> Deferred[bytes | None]:
        if name.startswith(prefix):
            return fail(ValueUnreadable(f"the value of {name} cannot be opened"))
        return get(name)

    test.patch(store, "get", refuse)


class AnswersCase(SynchronousTestCase):
    """Fronts that share a store, each with a clock of its own."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = START
        self.shared = Shared()

    def front(self, skew: float = 0.0) -> tuple[Answers, TlsAlpn01Solver, Store]:
        """One whose clock is so many seconds fast."""

        def now() -> float:
            return self.clock.seconds() + skew

        solver = TlsAlpn01Solver(now)
        store = Front(self.clock, self.shared, {}).store
        return Answers(store, [solver], now), solver, store

    def do(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> None:
        """It is done at once."""
        self.successResultOf(coroutine)


class SkewTests(AnswersCase):
    """One front's clock is fast."""

    def test_not_deleted(self) -> None:
        """What another has published an hour ago by that clock is wanted still, and shown."""
        (ours, _, _), (fast, there, _) = self.front(), self.front(2 * HOUR)
        self.do(ours.publish(ANSWER))
        self.do(fast.look())
        self.assertEqual(list(self.shared.values), [ANSWER.store_name])
        self.assertIsNotNone(there.choice(ANSWER.identifier))

    def test_abandoned(self) -> None:
        """A day after it has expired nobody wants it."""
        answers, here, _ = self.front()
        self.shared.values[ANSWER.store_name] = dump(ANSWER)
        for passed, there in ((HOUR + DAY - 1, True), (1, False)):
            self.clock.advance(passed)
            self.do(answers.look())
            self.assertEqual(ANSWER.store_name in self.shared.values, there)
            self.assertEqual(here.choice(ANSWER.identifier) is not None, there)

    def test_ours(self) -> None:
        """One of our own goes by our own clock, at its time."""
        answers, here, _ = self.front()
        self.do(answers.publish(ANSWER))
        self.clock.advance(HOUR)
        self.do(answers.look())
        self.assertEqual(self.shared.values, {})
        self.assertIsNone(here.choice(ANSWER.identifier))

    def test_in_dns(self) -> None:
        """A record that another has set is not removed before that either."""
        records = InDns()
        answers = Answers(Front(self.clock, self.shared, {}).store, [records], self.clock.seconds)
        answer = evolve(ANSWER, kind="dns-01")
        self.shared.values[answer.store_name] = dump(answer)
        self.clock.advance(2 * HOUR)
        self.do(answers.look())
        self.assertEqual(records.hidden, [])
        self.clock.advance(DAY)
        self.do(answers.look())
        self.assertEqual(records.hidden, [answer])
        self.assertEqual(self.shared.values, {})

    def test_put_again_a_few_times(self) -> None:
        """A front whose clock is days fast deletes what ours puts: not for ever."""
        (ours, here, _), (fast, _, _) = self.front(), self.front(3 * DAY)
        self.do(ours.publish(ANSWER))
        puts = 0
        with capturedLogs() as logs:
            for _ in range(20):
                self.do(fast.look())
                self.assertEqual(self.shared.values, {})
                self.do(ours.look(ANSWER.store_name))
                puts += len(self.shared.values)
        self.assertEqual(puts, 3)
        self.assertEqual(len([each for each in logs if "lost from" in each["log_format"]]), 1)
        self.assertIsNotNone(here.choice(ANSWER.identifier))
        self.do(ours.withdraw(ANSWER.certificate))
        self.assertIsNone(here.choice(ANSWER.identifier))
        # The next one is put as often.
        self.do(ours.publish(evolve(ANSWER, token="next")))
        self.shared.values.clear()
        self.do(ours.look())
        self.assertEqual(list(self.shared.values), [CHALLENGES + "next"])


class UnreadableTests(AnswersCase):
    """One value in the store cannot be had, or is no answer."""

    def setUp(self) -> None:
        """One of each kind lies before an answer."""
        super().setUp()
        self.odd = {
            LOCKED: b"sealed",
            CHALLENGES + "damaged": b"{",
            CHALLENGES + "moved": dump(ANSWER),
        }
        self.shared.values.update(self.odd)
        self.answers, self.here, self.store = self.front()
        lock(self, self.store)

    def test_look(self) -> None:
        """They are passed over, told of once, and left as they are."""
        self.shared.values[ANSWER.store_name] = dump(ANSWER)
        with capturedLogs() as logs:
            for _ in range(5):
                self.do(self.answers.look())
                for name in self.odd:
                    self.do(self.answers.look(name))
        self.assertIsNotNone(self.here.choice(ANSWER.identifier))
        self.assertEqual(self.shared.values, {**self.odd, ANSWER.store_name: dump(ANSWER)})
        said = [each["log_format"] for each in logs]
        self.assertEqual(said.count("{error}: it is passed over"), 1)
        self.assertEqual(len([each for each in said if "cannot be read" in each]), 1)

    def test_told_of_again(self) -> None:
        """One that was damaged in another way is another."""
        name = CHALLENGES + "damaged"
        with capturedLogs() as logs:
            for value in (b"{", b"[", dump(evolve(ANSWER, token="damaged")), b"["):
                self.shared.values[name] = value
                self.do(self.answers.look(name))
            del self.shared.values[name]
            self.do(self.answers.look())
            self.shared.values[name] = b"["
            self.do(self.answers.look())
        damaged = [each for each in logs if each.get("name") == name]
        self.assertEqual(len(damaged), 4)

    def test_withdraw(self) -> None:
        """All others are withdrawn, those of the dead too."""
        dead = evolve(ANSWER, token="of-the-dead")
        self.shared.values[dead.store_name] = dump(dead)
        self.do(self.answers.publish(ANSWER))
        self.do(self.answers.withdraw(ANSWER.certificate))
        self.assertEqual(self.shared.values, self.odd)
        self.assertIsNone(self.here.choice(ANSWER.identifier))

    def test_one_of_ours(self) -> None:
        """It is put again as if it were lost, as often."""
        self.do(self.answers.publish(ANSWER))
        for left in (2, 1, 0, -1):
            self.shared.values[ANSWER.store_name] = b"{"
            self.do(self.answers.look())
            expected = dump(ANSWER) if left >= 0 else b"{"
            self.assertEqual(self.shared.values[ANSWER.store_name], expected)
        self.assertIsNotNone(self.here.choice(ANSWER.identifier))
        self.do(self.answers.withdraw(ANSWER.certificate))
        self.assertEqual(self.shared.values, self.odd)

    def test_a_store_that_is_away(self) -> None:
        """That is another matter."""

        def away(name: str) -> Deferred[bytes | None]:
            return fail(StoreUnavailable("the store is away"))

        self.patch(self.store, "get", away)
        for asked in (self.answers.look(), self.answers.withdraw("any")):
            self.failureResultOf(Deferred.fromCoroutine(asked), StoreUnavailable)


class OrderTests(FrontCase):
    """What it means for orders."""

    def test_an_unreadable_answer(self) -> None:
        """All names are ordered for, all the same."""
        self.shared.values[LOCKED] = b"sealed"
        for name in ("a.example.org", "b.example.org"):
            front = self.front()
            lock(self, front.store)
            source = self.started(name, front=front)
            self.pass_time(MINUTE)
            self.assertServed(source, name)
            self.assertIsNone(self.facts(source).last_error)
        left = [each for each in self.shared.values if each.startswith(CHALLENGES)]
        self.assertEqual(left, [LOCKED])

    def test_an_unreadable_certificate(self) -> None:
        """It is not overwritten, and there is no order for another."""
        first = self.started()
        self.pass_time(MINUTE)
        self.assertServed(first)
        values = dict(self.shared.values)
        front = self.front()
        lock(self, front.store, CERTIFICATES)
        source = self.started(front=front)
        self.pass_time(DAY)
        kept = {name: value for name, value in values.items() if name.startswith(CERTIFICATES)}
        self.assertEqual(kept, {name: self.shared.values[name] for name in kept})
        self.assertEqual(self.authority.counts["newOrder"], 1)
        self.assertIn("cannot be opened", self.facts(source).last_error or "")
