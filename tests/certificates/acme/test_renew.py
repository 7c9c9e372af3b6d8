"""Renewal before its time, because an operator says so."""

from __future__ import annotations

from collections.abc import Sequence

from tests.certificates.acme.authority import Fault, Refused
from tests.certificates.acme.fronts import DAY, HOUR, MINUTE, NAME, START
from tests.certificates.acme.test_source_renewal import RenewalCase
from twisted_bioconn.certificates.acme.source import AcmeSource

AUTHORITY = "https://authority.example/directory"


class RenewTests(RenewalCase):
    """L{AcmeSource.renew}."""

    def renew(self, source: AcmeSource, name: str | None = None) -> list[str]:
        found: Sequence[str] = self.successResultOf(source.renew(name))
        return list(found)

    def test_at_once(self) -> None:
        """Another one, once, and the next in its own time."""
        self.live(90)
        source = self.started()
        self.pass_days(3)
        first = self.assertServed(source)
        self.assertEqual(
            self.renew(source), [f"{NAME}: another certificate is ordered from {AUTHORITY}"]
        )
        self.pass_time(MINUTE)
        self.assertNotEqual(self.assertServed(source), first)
        before, after = self.authority.issued
        replacing = next(each for each in self.authority.orders.values() if each.issued is after)
        self.assertIs(before.replaced_by, replacing)
        self.pass_days(50)
        self.assertEqual(len(self.authority.issued), 2)
        self.pass_days(20)
        self.assertEqual(len(self.authority.issued), 3)

    def test_facts(self) -> None:
        """When it would have been renewed is told as ever meanwhile."""
        self.live(90)
        source = self.started()
        self.pass_days(1)
        due = self.facts(source).next_renewal
        self.renew(source)
        self.assertEqual(self.facts(source).next_renewal, due)

    def test_twice(self) -> None:
        """To ask again while it is on its way, or has just come, changes nothing."""
        source = self.started()
        self.pass_days(0.5)
        for _ in range(5):
            self.renew(source)
            self.pass_time(0.01)
        self.pass_time(MINUTE)
        self.assertEqual(len(self.authority.issued), 2)
        [sentence] = self.renew(source)
        self.assertRegex(
            sentence, r": nothing is ordered, for it was issued just now, at \d\d:\d\d UTC$"
        )
        self.pass_time(10 * MINUTE)
        self.renew(source)
        self.pass_time(MINUTE)
        self.assertEqual(len(self.authority.issued), 3)

    def test_first(self) -> None:
        """Before there is one, what has failed is tried again."""
        self.authority.fail("newOrder", Fault(status=503), 1)
        source = self.started()
        self.pass_time(MINUTE)
        self.assertFalse(self.has_certificate(source))
        self.assertEqual(self.renew(source), [f"{NAME}: a certificate is ordered from {AUTHORITY}"])
        self.pass_time(15)
        self.assertServed(source)

    def test_other_front(self) -> None:
        """One that shares the store takes it over, and orders none."""
        one, other = self.started(), self.started()
        self.pass_days(0.5)
        self.renew(one)
        self.pass_time(MINUTE)
        self.assertEqual(len(self.authority.issued), 2)
        self.assertEqual(self.certificate(one).leaf, self.certificate(other).leaf)

    def test_both_fronts(self) -> None:
        """Who has asked finds that another has done it."""
        one, other = self.started(), self.started()
        self.pass_days(0.5)
        self.renew(one)
        self.renew(other)
        self.pass_time(10 * MINUTE)
        self.assertEqual(len(self.authority.issued), 2)

    def test_failed(self) -> None:
        """What goes wrong is tried again as ever, and the old one is served on."""
        self.live(90)
        source = self.started()
        self.pass_days(1)
        first = self.assertServed(source)
        self.authority.fail("newOrder", Fault(status=503), 1)
        self.renew(source)
        self.pass_time(15)
        self.assertEqual(self.assertServed(source), first)
        self.assertIn("503", self.facts(source).last_error or "")
        self.pass_time(12 * HOUR)
        self.assertNotEqual(self.assertServed(source), first)

    def test_limit(self) -> None:
        """An authority that wants to be left alone is, and that is said."""
        self.authority.fail(
            "newOrder", Fault(refusal=Refused("rateLimited", "slow", 429, retry_after=5 * HOUR))
        )
        source = self.started()
        self.pass_time(MINUTE)
        [sentence] = self.renew(source)
        self.assertRegex(sentence, rf"{NAME}: {AUTHORITY} wants no order before \S+ \S+ UTC$")
        self.pass_time(HOUR)
        self.assertEqual(self.authority.counts["newOrder"], 1)
        self.pass_time(5 * HOUR)
        self.assertServed(source)

    def test_names(self) -> None:
        source = self.started("a.example.org", "b.example.org")
        for name, count in (
            ("a.example.org", 1),
            ("b.example.org", 1),
            ("x.b.example.org", 0),
            ("c.example.org", 0),
            (None, 1),
        ):
            self.assertEqual(len(self.renew(source, name)), count, name)

    def test_stopped(self) -> None:
        """Nobody orders anything for a source that does not run."""
        source = self.source()
        for _ in range(2):
            [sentence] = self.renew(source)
            self.assertIn("nothing is ordered, for nobody looks after it just now", sentence)
            source.start(self.clock)
            self.pass_time(MINUTE)
            source.stop()
            self.pass_time(15)
        self.assertEqual(len(self.authority.issued), 1)
        self.assertGreater(self.clock.seconds(), START)
        self.assertLess(self.clock.seconds(), START + DAY)
