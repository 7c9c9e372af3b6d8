"""L{AcmeSource}: certificates are renewed in time, as the authority advises."""

from __future__ import annotations

from datetime import timedelta

from tests.certificates.acme.authority import Fault, Profile, Refused
from tests.certificates.acme.desk import PROFILES
from tests.certificates.acme.fronts import DAY, HOUR, MINUTE, NAME, RENEWED, START, FrontCase
from twisted_bioconn.certificates.acme.authorities import Authority
from twisted_bioconn.certificates.acme.client import certificate_id


class RenewalCase(FrontCase):
    def live(self, days: float) -> None:
        self.authority.profiles = {"default": Profile("", timedelta(days=days))}

    def issued_on(self) -> list[float]:
        """When they were issued, in days after the start.  They are dated back by an hour."""
        return [
            round((each.certificate.not_valid_before_utc.timestamp() + HOUR - START) / DAY, 1)
            for each in self.authority.issued
        ]


class WithoutAdviceTests(RenewalCase):
    """The authority does not know of RFC 9773."""

    def setUp(self) -> None:
        super().setUp()
        self.authority.has_renewal_info = False

    def test_a_third_left(self) -> None:
        """Of 90 days, 30 and a little are left: half of the spread of three, as chance has it."""
        self.live(90)
        source = self.started()
        self.pass_days(58)
        self.assertEqual(self.issued_on(), [0.0])
        self.pass_days(1)
        self.assertEqual(self.issued_on(), [0.0, 58.5])
        self.pass_days(60)
        self.assertEqual(self.issued_on(), [0.0, 58.5, 116.9])
        self.assertServed(source)

    def test_half_left_of_a_short_life(self) -> None:
        self.live(6)
        source = self.started()
        self.pass_days(10)
        self.assertEqual(self.issued_on(), [0.0, 2.9, 5.7, 8.6])
        self.assertServed(source)

    def test_announced(self) -> None:
        self.live(90)
        source = self.started()
        self.pass_time(MINUTE)
        facts = self.facts(source)
        assert facts.next_renewal is not None
        self.assertEqual(round((facts.next_renewal.timestamp() - START) / DAY, 1), 58.5)

    def test_sleeping_machine(self) -> None:
        """The wall clock has gone on while the reactor's stood still."""
        slept = 0.0

        def now() -> float:
            return self.clock.seconds() + slept

        self.authority.now = self.authority.issuer._now = now
        self.started(now=now)
        self.pass_time(MINUTE)
        slept = 70 * DAY
        self.pass_time(HOUR + MINUTE)
        self.assertEqual(len(self.authority.issued), 2)

    def test_after_expiry(self) -> None:
        """An authority is away for longer than a life: the old one is served, then the new."""
        source = self.started()
        self.pass_time(MINUTE)
        first = self.assertServed(source)
        self.authority.fail("*", Fault(status=503), None)
        self.pass_days(10)
        self.assertEqual(self.certificate(source), first)
        self.assertIn("503", self.facts(source).last_error or "")
        self.authority.mend()
        self.pass_time(16 * HOUR)
        self.assertNotEqual(self.assertServed(source), first)
        self.assertIsNone(self.facts(source).last_error)

    def test_not_asked_for_advice_all_the_time(self) -> None:
        self.started()
        self.pass_days(10)
        self.assertLess(self.authority.counts["directory"], 10 * 4 + 5)


class AdviceTests(RenewalCase):
    """The authority knows of RFC 9773."""

    def test_in_the_window(self) -> None:
        self.live(90)
        source = self.started()
        self.pass_days(90 * 0.64)
        self.assertEqual(len(self.authority.issued), 1)
        facts = self.facts(source)
        assert facts.next_renewal is not None
        start, end = self.authority.issued[0].window
        self.assertEqual(facts.next_renewal.timestamp(), int((start + end) / 2))
        self.pass_days(90 * 0.07)
        self.assertEqual(len(self.authority.issued), 2)

    def test_replaces(self) -> None:
        """The authority is told which certificate is replaced."""
        self.started()
        self.pass_days(RENEWED)
        first, second = self.authority.issued
        replacing = next(each for each in self.authority.orders.values() if each.issued is second)
        self.assertIs(first.replaced_by, replacing)

    def test_moved(self) -> None:
        """A window that is moved ahead, as before a mass revocation, is seen within a day."""
        source = self.started()
        self.pass_days(1)
        now = self.clock.seconds()
        self.authority.issued[0].window = (now - DAY, now - HOUR)
        self.pass_days(1)
        self.assertEqual(len(self.authority.issued), 2)
        self.assertServed(source)

    def test_retry_after(self) -> None:
        """The authority says how often it wants to be asked, within limits."""
        for said, least, most in [(6 * 3600, 38, 42), (1, 78, 82), (30 * 86400, 9, 12)]:
            with self.subTest(said=said):
                self.setUp()
                self.live(90)
                self.authority.renewal_retry_after = said
                self.started()
                self.pass_days(10)
                self.assertGreaterEqual(self.authority.counts["renewalInfo"], least)
                self.assertLessEqual(self.authority.counts["renewalInfo"], most)
                self.stop_all()

    def test_silent(self) -> None:
        """Advice that cannot be had any more: the last holds, and its lack is no trouble."""
        source = self.started()
        self.pass_days(1)
        advised = self.facts(source).next_renewal
        self.authority.fail("renewalInfo", Fault(status=500), None)
        self.pass_days(1)
        self.assertEqual(self.facts(source).next_renewal, advised)
        self.assertIsNone(self.facts(source).last_error)
        self.pass_days(RENEWED - 2)
        self.assertEqual(len(self.authority.issued), 2)

    def test_at_once_for_ever(self) -> None:
        """An authority that would have each certificate renewed at once does not get its way."""
        self.authority.renewal_retry_after = 60
        source = self.started()
        for _ in range(48):
            self.pass_time(HOUR)
            for each in self.authority.issued:
                each.window = (START - 2 * DAY, START - DAY)
        self.assertLessEqual(len(self.authority.issued), 9)
        self.assertServed(source)

    def test_never(self) -> None:
        """One that would have it renewed after it has expired neither."""
        source = self.started()
        self.pass_time(30)
        self.authority.issued[0].window = (START + 30 * DAY, START + 31 * DAY)
        self.pass_days(3.7)
        self.assertEqual(len(self.authority.issued), 2)
        self.assertServed(source)

    def test_replaced_already(self) -> None:
        """As by a front whose store was lost: it is ordered without saying so."""
        source = self.started()
        self.pass_time(MINUTE)
        self.authority.fail("newOrder", Fault(refusal=Refused("alreadyReplaced", "it was", 409)))
        self.pass_days(RENEWED)
        self.assertEqual(len(self.authority.issued), 2)
        self.assertIsNone(self.facts(source).last_error)

    def test_kept_over_restart(self) -> None:
        """A process that is started again and again asks no more often for that."""
        for _ in range(20):
            source = self.started()
            self.pass_time(MINUTE)
            source.stop()
            self.pass_time(15)
            self.sources.remove(source)
        self.assertEqual(self.authority.counts["renewalInfo"], 1)
        self.assertEqual(len(self.authority.issued), 1)

    def test_identifier(self) -> None:
        """It is asked by the certificate's identifier."""
        source = self.started()
        self.pass_time(MINUTE)
        found = self.authority.find(certificate_id(self.assertServed(source).leaf))
        self.assertIs(found, self.authority.issued[0])


class ProfileTests(RenewalCase):
    """What an authority offers beyond that."""

    def test_profile(self) -> None:
        url = self.authority.directory_url
        self.authority.profiles = PROFILES
        source = self.started(authorities=[Authority(url, profile="shortlived")])
        self.pass_time(MINUTE)
        found = self.assertServed(source)
        self.assertEqual(
            found.not_valid_after - found.leaf.not_valid_before_utc, timedelta(hours=160)
        )

    def test_unknown_profile(self) -> None:
        url = self.authority.directory_url
        self.authority.profiles = PROFILES
        source = self.started(authorities=[Authority(url, profile="golden")])
        self.pass_time(MINUTE)
        self.assertFalse(self.has_certificate(source))
        self.assertIn(
            "has no profile 'golden'; it has: classic, shortlived",
            self.facts(source).last_error or "",
        )

    def test_preferred_chain(self) -> None:
        chains = []
        for preferred in [None, "no such issuer", self.other_issuer()]:
            self.setUp()
            url = self.authority.directory_url
            source = self.started(authorities=[Authority(url, preferred_chain=preferred)])
            self.pass_time(MINUTE)
            found = self.assertServed(source)
            chains.append(found.intermediates[-1].issuer.rfc4514_string())
            self.stop_all()
        self.assertEqual(chains[0], chains[1])
        self.assertNotEqual(chains[0], chains[2])

    def other_issuer(self) -> str:
        """The name of the second root."""
        name = self.authority.issuer.roots[1].subject.rfc4514_string()
        return name.removeprefix("CN=")

    def test_key_type(self) -> None:
        source = self.started(key_type="rsa")
        self.pass_time(MINUTE)
        self.assertServed(source)
        self.assertEqual(self.facts(source).key_type, "RSA 2048")

    def test_names(self) -> None:
        names = (NAME, "example.org", "192.0.2.7", "2001:db8::1", "BÜCHER.example")
        source = self.started(*names)
        self.pass_time(MINUTE)
        found = self.assertServed(source)
        self.assertEqual(set(found.names), {*names[:4], "xn--bcher-kva.example"})
