"""Tests for L{twisted_bioconn.certificates.acme.on_demand}."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from tests.certificates.acme.authority import Fault, Refused
from tests.certificates.acme.fronts import (
    DAY,
    HOUR,
    MINUTE,
    NAME,
    RENEWED,
    START,
    FrontCase,
)
from twisted_bioconn.certificates.acme.on_demand import OnDemandLimits
from twisted_bioconn.certificates.acme.source import AcmeSource
from twisted_bioconn.certificates.source import Choice, Found
from twisted_bioconn.hello import ClientHello

FIRST = "a.example.net"


class OnDemandTests(FrontCase):
    """Certificates for names that a program allows."""

    def setUp(self) -> None:
        super().setUp()
        self.asked: list[str] = []
        self.answer: Any = True

    def allow(self, name: str) -> Any:
        self.asked.append(name)
        return self.answer

    def demanding(self, *names: str, **options: Any) -> AcmeSource:
        options.setdefault("allow", self.allow)
        return self.started(*names, **options)

    def ask(self, source: AcmeSource, name: str = FIRST) -> Found | Deferred[Found]:
        return source.find(ClientHello(server_name=name))

    def waiting(self, source: AcmeSource, name: str = FIRST) -> Deferred[Found]:
        found = self.ask(source, name)
        assert isinstance(found, Deferred), found
        return found

    def test_first_and_next(self) -> None:
        """The first client waits; for the next it is there."""
        source = self.demanding()
        found = self.waiting(source)
        self.assertNoResult(found)
        self.pass_time(10)
        choice = self.successResultOf(found)
        assert isinstance(choice, Choice)
        self.assertEqual(choice.certificate.names, (FIRST,))
        self.assertEqual(self.ask(source), choice)
        self.assertEqual(self.authority.counts["newOrder"], 1)
        self.assertEqual([each.names for each in source.facts()], [(FIRST,)])

    def test_many_clients_of_one_name(self) -> None:
        source = self.demanding()
        found = [self.waiting(source) for _ in range(50)]
        self.pass_time(10)
        self.assertEqual(len({self.successResultOf(each) for each in found}), 1)
        self.assertEqual(self.authority.counts["newOrder"], 1)

    def test_client_leaves(self) -> None:
        """Whoever leaves does not stop it for the others."""
        source = self.demanding()
        leaver, stayer = self.waiting(source), self.waiting(source)
        leaver.cancel()
        self.failureResultOf(leaver, CancelledError)
        self.pass_time(10)
        self.assertIsInstance(self.successResultOf(stayer), Choice)

    def test_never_otherwise(self) -> None:
        """Nothing but True is leave."""
        for answer in (False, None, 1, "yes", Failure(ValueError("no")), [True]):
            self.setUp()
            self.answer = answer
            source = self.demanding()
            self.assertIsNone(self.ask(source))
            self.pass_time(10)
            self.assertEqual(sum(self.authority.counts.values()), 0)
            self.assertEqual(self.shared.values, {})
            self.stop_all()

    def test_raises(self) -> None:
        def allow(name: str) -> bool:
            raise RuntimeError(f"no database for {name}")

        source = self.demanding(allow=allow)
        self.assertIsNone(self.ask(source))

    def test_deferred_answer(self) -> None:
        self.answer = Deferred()
        source = self.demanding()
        found = self.waiting(source)
        self.pass_time(5)
        self.assertEqual(sum(self.authority.counts.values()), 0)
        self.answer.callback(True)
        self.pass_time(10)
        self.assertIsInstance(self.successResultOf(found), Choice)
        self.assertEqual(self.asked, [FIRST])

    def test_no_answer(self) -> None:
        """A program that does not answer is not waited for."""
        self.answer = Deferred()
        source = self.demanding()
        found = self.waiting(source)
        self.pass_time(11)
        self.assertIsNone(self.successResultOf(found))
        self.assertEqual(sum(self.authority.counts.values()), 0)

    def test_asked_for_bad_names(self) -> None:
        """What no authority could have is not even asked about."""
        source = self.demanding()
        bad = ["localhost", "192.0.2.7", "2001:db8::1", "*.example.net", "a..b", "x." + "a" * 64]
        for name in bad:
            self.assertIsNone(self.ask(source, name))
        self.assertEqual(self.asked, [])

    def test_refused_is_remembered(self) -> None:
        self.answer = False
        source = self.demanding()
        for _ in range(100):
            self.ask(source)
            self.pass_time(0.1)
        self.assertEqual(self.asked, [FIRST])
        self.pass_time(MINUTE)
        self.ask(source)
        self.assertEqual(self.asked, [FIRST] * 2)

    def test_flood_of_names(self) -> None:
        """The program is not asked more often than it should be."""
        self.answer = False
        source = self.demanding(on_demand=OnDemandLimits(asked_per_second=5))
        for number in range(1000):
            self.ask(source, f"a{number}.example.net")
            self.clock.advance(0.01)
        self.assertLessEqual(len(self.asked), 10 + 5 * 10)
        self.assertGreaterEqual(len(self.asked), 50)

    def test_at_once(self) -> None:
        """There are only so many under way; the others get nothing, for now."""
        source = self.demanding(on_demand=OnDemandLimits(at_once=3, asked_per_second=100))
        self.authority.fail("newAccount", Fault(status=503), None)
        self.authority.fail("*", Fault(delay=20.0), None)
        found = [self.ask(source, f"a{number}.example.net") for number in range(10)]
        self.assertEqual([each is None for each in found], [False] * 3 + [True] * 7)
        self.authority.mend()
        self.pass_time(20)  # that is how late the answers are

    def test_orders_per_hour(self) -> None:
        limits = OnDemandLimits(orders_per_hour=6, asked_per_second=100, at_once=100)
        source = self.demanding(on_demand=limits)
        for number in range(20):
            self.ask(source, f"a{number}.example.net")
        self.pass_time(MINUTE)
        self.assertEqual(self.authority.counts["newOrder"], 2)

    def kept(self, number: int) -> list[str]:
        """Have certificates for so many names, and stop."""
        names = [f"a{each}.example.net" for each in range(number)]
        limits = OnDemandLimits(orders_per_hour=1000, asked_per_second=100, at_once=100)
        source = self.demanding(on_demand=limits)
        for name in names:
            self.ask(source, name)
        self.pass_time(MINUTE)
        self.assertEqual(len(self.authority.issued), number)
        source.stop()
        self.pass_time(15)
        self.sources.remove(source)
        return names

    def limited(self, orders_per_hour: float) -> AcmeSource:
        limits = OnDemandLimits(orders_per_hour=orders_per_hour, asked_per_second=100, at_once=100)
        return self.demanding(on_demand=limits)

    def test_renewals_are_counted(self) -> None:
        """There are no more orders in an hour if all certificates are to be renewed at once."""
        names = self.kept(40)
        source = self.limited(12)
        for name in names:
            self.assertIsInstance(self.ask(source, name), Choice)
        self.pass_days(2)
        times = []
        while self.clock.seconds() < START + RENEWED * DAY:
            before = len(self.authority.issued)
            self.pass_time(MINUTE)
            times += [self.clock.seconds()] * (len(self.authority.issued) - before)
        self.assertEqual(len(times), 40)
        for first in times:
            within = [each for each in times if first <= each < first + HOUR]
            self.assertLessEqual(len(within), 4 + 12)
        for name in names:
            self.assertServed(source, name)
        self.assertEqual(self.authority.counts["newOrder"], 80)

    def test_expired_are_counted(self) -> None:
        """Strangers that ask for all that is in the store, and has expired, are no exception."""
        names = self.kept(9)
        self.pass_days(10)
        source = self.limited(6)
        for name in names:
            # What there is is served.
            self.assertIsInstance(self.ask(source, name), Choice)
        self.pass_time(MINUTE)
        self.assertEqual(self.authority.counts["newOrder"], 9 + 2)
        self.pass_time(HOUR)
        self.assertLessEqual(self.authority.counts["newOrder"], 9 + 2 + 6)
        self.pass_time(2 * HOUR)
        for name in names:
            self.assertServed(source, name)

    def test_retries_are_counted(self) -> None:
        """Nor are names for which it fails, and is tried again."""
        self.authority.fail("newOrder", Fault(refusal=Refused("serverInternal", "so", 403)), None)
        source = self.limited(6)
        for name in ("a.example.net", "b.example.net"):
            self.ask(source, name)
        self.pass_time(HOUR)
        self.assertLessEqual(self.authority.counts["newOrder"], 2 + 6)

    def test_some_are_left_for_renewals(self) -> None:
        """However many new names there are, what there is can be renewed."""
        (name,) = self.kept(1)
        source = self.limited(30)
        self.ask(source, name)
        self.pass_time(MINUTE)
        renewal = self.facts(source).next_renewal
        assert renewal is not None
        self.pass_time(renewal.timestamp() - HOUR - 50 - self.clock.seconds())
        for number in range(1200):
            self.ask(source, f"new{number}.example.net")
            self.pass_time(6)
        self.assertEqual([each.names for each in self.authority.issued].count([name]), 2)
        self.assertGreater(len(self.authority.issued), 50)

    def test_leave_for_what_was_in_the_store(self) -> None:
        """It is asked for the first renewal too, which may be a month later."""
        (name,) = self.kept(1)
        source = self.limited(30)
        self.ask(source, name)
        self.pass_time(MINUTE)
        self.answer = False
        self.pass_days(RENEWED)
        self.assertEqual(len(self.authority.issued), 1)
        self.assertIsNone(self.ask(source, name))

    def test_kept(self) -> None:
        """The one that was not asked for longest goes."""
        source = self.demanding(on_demand=OnDemandLimits(kept=2))
        for name in ("a.example.net", "b.example.net", "a.example.net", "c.example.net"):
            self.ask(source, name)
            self.pass_time(10)
        kept = {each.names[0] for each in source.facts()}
        self.assertEqual(kept, {"a.example.net", "c.example.net"})
        # It is in the store still: there is no need to order it again.
        self.ask(source, "b.example.net")
        self.pass_time(10)
        self.assertEqual(self.authority.counts["newOrder"], 3)

    def test_failure(self) -> None:
        """Who waits is told as soon as it has failed, and it is tried again by itself."""
        refusal = Refused("serverInternal", "not now", 403)
        self.authority.fail("newOrder", Fault(refusal=refusal, delay=2.0))
        source = self.demanding()
        found = self.waiting(source)
        self.pass_time(3)
        self.assertIsNone(self.successResultOf(found))
        self.assertIsNone(self.ask(source))
        self.pass_time(2 * MINUTE)
        self.assertIsInstance(self.ask(source), Choice)

    def test_not_allowed_any_more(self) -> None:
        """Leave is asked for each renewal too."""
        source = self.demanding()
        self.ask(source)
        self.pass_time(10)
        self.assertEqual(len(self.authority.issued), 1)
        self.answer = False
        self.pass_days(RENEWED)
        self.assertEqual(len(self.authority.issued), 1)
        self.assertEqual(source.facts(), [])
        self.assertIsNone(self.ask(source))

    def test_renewed(self) -> None:
        source = self.demanding()
        self.ask(source)
        self.pass_days(RENEWED)
        self.assertEqual(len(self.authority.issued), 2)

    def test_beside_names(self) -> None:
        """Names that are listed need no leave."""
        source = self.demanding(NAME)
        self.pass_time(10)
        self.assertServed(source)
        self.assertEqual(self.asked, [])
        self.ask(source)
        self.pass_time(10)
        self.assertEqual([each.names[0] for each in source.facts()], [NAME, FIRST])

    def test_two_fronts(self) -> None:
        """Who waits at another front than the one that orders gets it too."""
        first, second = self.demanding(), self.demanding()
        found = [self.waiting(first), self.waiting(second)]
        self.pass_time(10)
        self.assertEqual(len({self.successResultOf(each) for each in found}), 1)
        self.assertEqual(self.authority.counts["newOrder"], 1)

    def test_stopped(self) -> None:
        """Nobody waits for ever, and nothing is left."""
        source = self.demanding()
        found = self.waiting(source)
        self.pass_time(1)
        source.stop()
        self.pass_time(1)
        self.assertIsNone(self.successResultOf(found))
        self.assertIsNone(self.ask(source))

    def test_before_start(self) -> None:
        source = self.source(allow=self.allow)
        self.assertIsNone(self.ask(source))
        self.assertEqual(self.asked, [])
