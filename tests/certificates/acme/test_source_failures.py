"""L{AcmeSource}: what goes wrong with an authority, and when it is tried again."""

from __future__ import annotations

from itertools import pairwise

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from zope.interface import implementer

from tests.certificates.acme.authority import Fault, Refused
from tests.certificates.acme.fronts import HOUR, MINUTE, NAME, RENEWED, START, FrontCase
from twisted_bioconn.certificates.acme.authorities import Authority
from twisted_bioconn.certificates.acme.challenges import Solver
from twisted_bioconn.certificates.acme.dns_challenge import Dns01Solver, DnsRecords
from twisted_bioconn.certificates.acme.http_challenge import Http01Solver
from twisted_bioconn.certificates.acme.source import AcmeSource
from twisted_bioconn.certificates.loading import CertifiedKey


class FailureCase(FrontCase):
    def error(self, source: AcmeSource) -> str:
        """The one sentence."""
        error = self.facts(source).last_error
        assert error is not None
        self.assertNotIn("\n", error)
        self.assertNotIn("PRIVATE", error)
        return error


class BackoffTests(FailureCase):
    """Failures make it wait, longer and longer."""

    def attempts(self, seconds: float) -> list[float]:
        """When new orders are tried, in seconds."""
        times: list[float] = []
        before = 0
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.pass_time(10)
            if self.authority.counts["newOrder"] > before:
                before = self.authority.counts["newOrder"]
                times.append(self.clock.seconds())
        return times

    def test_longer_and_longer(self) -> None:
        self.authority.fail("newOrder", Fault(refusal=Refused("serverInternal", "so", 403)), None)
        self.started()
        times = self.attempts(40 * HOUR)
        pauses = [after - before for before, after in pairwise(times)]
        self.assertGreater(len(pauses), 10)
        for number, pause in enumerate(pauses):
            # With an eighth more, as chance has it.
            self.assertLess(abs(pause - min(67.5 * 2**number, 12 * HOUR)), 20)

    def test_over_restart(self) -> None:
        """A process that is started again and again is no reason to ask more often."""
        self.authority.fail("newOrder", Fault(refusal=Refused("serverInternal", "so", 403)), None)
        for _ in range(60):
            source = self.started()
            self.pass_time(MINUTE - 15)
            source.stop()
            self.pass_time(15)
            self.sources.remove(source)
        self.assertLessEqual(self.authority.counts["newOrder"], 7)

    def test_retry_after(self) -> None:
        """An authority's limit is kept, in a hurry too."""
        self.authority.fail(
            "newOrder", Fault(refusal=Refused("rateLimited", "slow", 429, retry_after=5 * HOUR))
        )
        source = self.started()
        self.pass_time(MINUTE)
        self.assertIn("slow (rateLimited)", self.error(source))
        for _ in range(4):
            source.reload()
            self.pass_time(HOUR)
        self.assertEqual(self.authority.counts["newOrder"], 1)
        self.pass_time(HOUR)
        self.assertServed(source)

    def test_real_limit(self) -> None:
        self.authority.limit("newOrder", 1, 3 * HOUR)
        first = self.started("a.example.org")
        self.pass_time(MINUTE)
        self.assertServed(first, "a.example.org")
        second = self.started("b.example.org")
        self.pass_time(2 * HOUR)
        self.assertFalse(self.has_certificate(second, "b.example.org"))
        self.pass_time(HOUR)
        self.assertServed(second, "b.example.org")
        self.assertEqual(self.authority.counts["newOrder"], 3)

    def test_reload_tries_at_once(self) -> None:
        """When the operator has mended it, he need not wait."""
        self.authority.fail("newOrder", Fault(status=503), 6)
        source = self.started()
        self.pass_time(45 * MINUTE)
        self.assertFalse(self.has_certificate(source))
        self.authority.mend()
        self.successResultOf(source.reload())
        self.pass_time(10)
        self.assertServed(source)

    def test_out_of_order_for_a_month(self) -> None:
        """What is no limit is not waited for as long as that, and not at all in a hurry."""
        for is_reloaded in (False, True):
            self.setUp()
            self.authority.fail("newOrder", Fault(status=503, retry_after=30 * 24 * HOUR))
            source = self.started()
            self.pass_time(2 * HOUR)
            self.assertEqual(self.authority.counts["newOrder"], 1)
            if is_reloaded:
                self.successResultOf(source.reload())
                self.pass_time(10)
            else:
                self.pass_time(11 * HOUR)
            self.assertServed(source)
            self.stop_all()

    def test_clock_was_wrong(self) -> None:
        """What was written by a clock far ahead is no reason to wait for years."""
        self.authority.fail("newOrder", Fault(status=503))
        source = self.started()
        self.pass_time(10)
        source.stop()
        self.pass_time(15)
        self.sources.remove(source)
        self.clock.rightNow = START - 3650 * 24 * HOUR
        source = self.started()
        self.pass_time(10)
        self.assertServed(source)


class ValidationTests(FailureCase):
    """Names that cannot be proved."""

    def refuse(self, type: str, name: str, *_: str) -> Deferred[None] | None:
        self.validated.append((type, name))
        raise Refused("unauthorized", f"there is nothing at {name}", 403)

    def test_named(self) -> None:
        self.authority.validate = self.refuse
        source = self.started()
        self.pass_time(MINUTE)
        self.assertEqual(
            self.error(source),
            f"{self.authority.directory_url}: {NAME} could not be validated by tls-alpn-01:"
            f" there is nothing at {NAME} (unauthorized)",
        )

    def test_five_an_hour(self) -> None:
        """More than five failed validations in an hour are one authority's limit."""
        self.authority.validate = self.refuse
        source = self.started()
        failed = []
        for minute in range(300):
            before = len(self.validated)
            if minute % 10 == 0:
                source.reload()
            self.pass_time(MINUTE)
            failed += [minute] * (len(self.validated) - before)
        for minute in range(300):
            within = [each for each in failed if minute <= each < minute + 59]
            self.assertLessEqual(len(within), 5)
        self.assertGreater(len(failed), 10)

    def test_rejected(self) -> None:
        """A name that the authority would not issue for is named."""
        self.authority.rejects = {"b.example.org"}
        source = self.started("a.example.org", "b.example.org")
        self.pass_time(MINUTE)
        self.assertIn("b.example.org", self.error(source))
        self.assertIn("rejectedIdentifier", self.error(source))

    def test_nothing_set_up(self) -> None:
        self.authority.offers = ("http-01",)
        source = self.started()
        self.pass_time(MINUTE)
        self.assertIn(
            f"none of what the authority takes for {NAME} (http-01) is set up", self.error(source)
        )

    def test_withdrawn(self) -> None:
        """When it has failed, nothing is shown any more."""
        self.authority.validate = self.refuse
        self.started()
        self.pass_time(MINUTE / 2)
        self.assertEqual(self.validated, [("tls-alpn-01", NAME)])
        self.assertEqual([each for each in self.shared.values if "/challenges/" in each], [])


class StoppedTests(FailureCase):
    """To stop is no failure, and stops whatever it is at."""

    def check(self, solver: Solver) -> None:
        source = self.started(challenges=[solver])
        self.pass_time(1)
        self.assertIn("acme/lease/", str(self.shared.leases))
        stopped = source.stop()
        self.pass_time(1)
        self.successResultOf(stopped)
        self.assertEqual(self.shared.leases, {})
        self.assertIsNone(self.facts(source).last_error)
        requests = sum(self.authority.counts.values())
        self.pass_time(HOUR)
        self.assertEqual(sum(self.authority.counts.values()), requests)

    def test_while_a_record_is_set(self) -> None:
        class Records(DnsRecords):
            def set_record(self, name: str, value: str) -> Deferred[None]:
                return Deferred()

            def remove_record(self, name: str, value: str) -> Deferred[None]:
                return succeed(None)

        self.check(Dns01Solver(Records()))

    def test_while_a_port_is_opened(self) -> None:
        @implementer(IStreamServerEndpoint)
        class Endpoint:
            def listen(self, factory: object) -> Deferred[IListeningPort]:
                return Deferred()

        self.check(Http01Solver(Endpoint()))


class AuthoritiesTests(FailureCase):
    """Several authorities are tried in turn."""

    def setUp(self) -> None:
        super().setUp()
        self.other = self.new_authority("https://other.example")
        self.both = [
            Authority(self.authority.directory_url),
            Authority(self.other.directory_url),
        ]

    def test_next_at_once(self) -> None:
        self.authority.fail("*", Fault(status=503), None)
        source = self.started(authorities=self.both)
        self.pass_time(MINUTE / 2)
        self.assertServed(source)
        self.assertEqual(self.facts(source).source, self.other.directory_url)
        self.assertEqual(len(self.other.issued), 1)

    def test_renewed_by_the_first(self) -> None:
        """What came from the second is renewed by the first, and does not say what it replaces."""
        self.authority.fail("*", Fault(status=503), None)
        source = self.started(authorities=self.both)
        self.pass_time(MINUTE)
        self.authority.mend()
        self.pass_days(RENEWED)
        self.assertServed(source)
        self.assertEqual(self.facts(source).source, self.authority.directory_url)
        self.assertEqual(self.authority.counts["newOrder"], 1)

    def test_both_fail(self) -> None:
        """Each waits for itself, and both are told of."""
        self.authority.fail("newOrder", Fault(status=503, retry_after=2 * HOUR), None)
        self.other.fail("newOrder", Fault(status=502), None)
        source = self.started(authorities=self.both)
        self.pass_time(HOUR)
        self.assertIn("503", self.error(source))
        self.assertIn("502", self.error(source))
        self.assertEqual(self.authority.counts["newOrder"], 1)
        self.assertGreater(self.other.counts["newOrder"], 3)

    def test_order_under_way(self) -> None:
        """One that is under way with the second is gone on with, though the first is there now."""
        self.authority.fail("*", Fault(status=503), None)
        self.other.polls = 1000
        source = self.started(authorities=self.both)
        self.pass_time(30)
        self.assertFalse(self.has_certificate(source))
        source.stop()
        self.pass_time(15)
        self.sources.remove(source)
        self.authority.mend()
        self.other.polls = 0
        for order in self.other.orders.values():
            order.polls = 0
        source = self.started(authorities=self.both)
        self.pass_time(MINUTE)
        self.assertServed(source)
        self.assertEqual(self.facts(source).source, self.other.directory_url)
        self.assertEqual(self.authority.counts["newOrder"], 0)


class BadCertificateTests(FailureCase):
    """What is no good is not served."""

    def check(self, damage: object, expected: str) -> None:
        source = self.started()
        self.pass_time(MINUTE)
        first = self.assertServed(source)
        assert callable(damage)
        damage()
        self.pass_days(RENEWED)
        self.assertIn(expected, self.error(source))
        self.assertEqual(self.certificate(source), first)

    def serve(self, change: object) -> None:
        issue = self.authority.issuer.chains
        assert callable(change)
        self.patch(
            self.authority.issuer, "chains", lambda leaf: [change(each) for each in issue(leaf)]
        )

    def test_of_another_key(self) -> None:
        self.check(
            lambda: self.serve(lambda pem: self.authority.issued[0].chains[0]),
            "belongs to no certificate in the new certificate",
        )

    def test_of_other_names(self) -> None:
        issue = self.authority.issuer.issue
        self.check(
            lambda: self.patch(
                self.authority.issuer,
                "issue",
                lambda key, names, life: issue(key, ["other.example.org"], life),
            ),
            f"the new certificate is not for {NAME}",
        )

    def test_expired(self) -> None:
        def damage() -> None:
            self.authority.issuer._now = lambda: START - 1000 * 24 * HOUR

        self.check(damage, "the new certificate has expired on 20")

    def test_of_the_future(self) -> None:
        def damage() -> None:
            self.authority.issuer._now = lambda: START + 1000 * 24 * HOUR

        self.check(damage, "the new certificate is not valid before 20")

    def test_refused_at_the_end(self) -> None:
        def damage() -> None:
            self.authority.refuses_issuance = Refused("caa", "CAA forbids it", 403)

        self.check(damage, "the order has failed: CAA forbids it (caa)")

    def test_shown_key(self) -> None:
        """No key is in what a program would print of it."""
        source = self.started()
        self.pass_time(MINUTE)
        found: CertifiedKey = self.assertServed(source)
        self.assertNotIn("PRIVATE", repr(found) + repr(source) + repr(self.facts(source)))
