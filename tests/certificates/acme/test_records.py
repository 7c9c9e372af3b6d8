"""
Tests for L{twisted_bioconn.certificates.acme.records}, and of authorities, renewal and leases.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.certificates.acme import records
from twisted_bioconn.certificates.acme.authorities import (
    KNOWN_AUTHORITIES,
    Authority,
    directory_url,
    identity,
)
from twisted_bioconn.certificates.acme.leases import LEASE_SECONDS, HeldLease
from twisted_bioconn.certificates.acme.records import Trouble
from twisted_bioconn.certificates.acme.renewal import HOUR, Alarm, after_failure, blocked_until
from twisted_bioconn.certificates.store import Lease, StoreUnavailable, check_name
from twisted_bioconn.errors import ConfigurationError

KINDS = [
    records.AccountRecord,
    records.Answer,
    records.CertificateRecord,
    records.OrderRecord,
    records.RenewalRecord,
    records.TroublesRecord,
]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TROUBLES = st.builds(
    Trouble,
    failures=st.integers(),
    retry=NUMBERS,
    refused_until=NUMBERS,
    failed_validations=st.lists(NUMBERS).map(tuple),
    error=st.text(),
)


class RecordsTests(SynchronousTestCase):
    """L{records.parse}."""

    @given(st.sampled_from(KINDS), st.binary())
    def test_bytes(self, kind: type[object], value: bytes) -> None:
        found = records.parse(kind, "it", value)
        self.assertTrue(found is None or isinstance(found, kind))

    @given(
        st.sampled_from(KINDS),
        st.dictionaries(
            st.sampled_from(
                "names key url pem directory fraction issued certificate start end ask_again kind"
                " identifier token key_authorization expires authorities profile begun".split()
            ),
            JSON,
        ),
    )
    def test_json(self, kind: type[object], value: object) -> None:
        """Whatever comes out can be written again, with no number that is none."""
        found = records.parse(kind, "it", records.dump(value))
        if found is not None:
            self.assertEqual(records.parse(kind, "it", records.dump(found)), found)

    @given(st.dictionaries(st.text(), TROUBLES))
    def test_round_trip(self, authorities: dict[str, Trouble]) -> None:
        value = records.TroublesRecord(authorities)
        self.assertEqual(records.parse(records.TroublesRecord, "it", records.dump(value)), value)

    def test_order_of_an_earlier_version(self) -> None:
        """It has not said when the order was begun."""
        value = b'{"names": ["a"], "key": "k", "profile": null, "url": "https://a.example/1"}'
        found = records.parse(records.OrderRecord, "it", value)
        self.assertEqual(
            found, records.OrderRecord(("a",), "k", None, "https://a.example/1", begun=None)
        )

    def test_no_secrets(self) -> None:
        key = "-----BEGIN PRIVATE KEY-----"
        for record in (
            records.AccountRecord("https://a.example/", key),
            records.OrderRecord(("a",), key),
            records.CertificateRecord(("a",), key, "https://a.example/", 0.5, 1.0),
        ):
            self.assertNotIn("PRIVATE", repr(record))


class AuthorityTests(SynchronousTestCase):
    """L{Authority}."""

    def test_known(self) -> None:
        self.assertEqual(
            Authority("letsencrypt").directory_url,
            "https://acme-v02.api.letsencrypt.org/directory",
        )
        self.assertEqual(Authority(KNOWN_AUTHORITIES["zerossl"]).title, "zerossl")
        self.assertEqual(directory_url("LetsEncrypt"), KNOWN_AUTHORITIES["letsencrypt"])

    def test_url(self) -> None:
        url = "https://ca.example:14000/dir"
        self.assertEqual((Authority(url).directory_url, Authority(url).title), (url, url))

    def test_refused(self) -> None:
        for bad in (
            "http://ca.example/",
            "letsencript",
            "",
            "https://",
            "https://a b/",
            "ftp://x",
            "https://a:99999/",
            "https://bücher.example/",
            "https://a/\n",
        ):
            error = self.assertRaises(ConfigurationError, Authority, bad)
            self.assertIn(repr(bad), str(error))
        error = self.assertRaises(ConfigurationError, Authority, "letsencript")
        self.assertIn("did you mean letsencrypt?", str(error))

    def test_identity(self) -> None:
        """Each has a name in a store of its own."""
        found = {
            Authority(url).identity
            for url in ("https://a.example/1", "https://a.example/2", "https://[::1]:14000/dir")
        }
        self.assertEqual(len(found), 3)
        for each in found:
            check_name(f"acme/accounts/{each}")

    @given(
        st.lists(
            st.from_regex(r"(\*\.)?[a-z0-9_]([a-z0-9.-]{0,250}[a-z0-9])?", fullmatch=True),
            min_size=1,
        )
    )
    def test_names_in_a_store(self, names: list[str]) -> None:
        check_name(f"acme/certificates/{identity(names[0], 'ec', *names)}")


class BackoffTests(SynchronousTestCase):
    """L{blocked_until}."""

    @given(TROUBLES, st.floats(0, 1e10), st.booleans())
    def test_bounded(self, trouble: Trouble, now: float, hurry: bool) -> None:
        """Whatever was written, nobody waits for more than a month."""
        self.assertLessEqual(blocked_until(trouble, now, hurry=hurry), now + 31 * 24 * HOUR)

    def until(
        self, retry_after: float | None, *, is_rate_limited: bool, hurry: bool = False
    ) -> float:
        """For how many hours a first failure is in the way."""
        now = 1e9
        trouble = after_failure(
            Trouble(),
            "so",
            now=now,
            retry_after=retry_after,
            is_rate_limited=is_rate_limited,
            failed_validation=False,
            jitter=0.0,
        )
        return max(0.0, blocked_until(trouble, now, hurry=hurry) - now) / HOUR

    def test_retry_after(self) -> None:
        """All of it is waited for a rate limit, and at most half a day for anything else."""
        for asked, limited, other in ((2, 2, 2), (24 * 30, 24 * 30, 12), (24 * 60, 24 * 31, 12)):
            self.assertEqual(self.until(asked * HOUR, is_rate_limited=True), limited)
            self.assertEqual(self.until(asked * HOUR, is_rate_limited=False), other)
        # One that is shorter than our own patience does not shorten that.
        for is_rate_limited in (True, False):
            for short in (None, 0.0, 5.0):
                self.assertEqual(self.until(short, is_rate_limited=is_rate_limited), 1 / 60)

    def test_hurry(self) -> None:
        """An operator need not wait, unless it was a rate limit."""
        for asked in (None, 2 * HOUR, 30 * 24 * HOUR):
            self.assertEqual(self.until(asked, is_rate_limited=False, hurry=True), 0)
        self.assertEqual(self.until(2 * HOUR, is_rate_limited=True, hurry=True), 2)
        self.assertEqual(self.until(None, is_rate_limited=True, hurry=True), 1 / 60)

    @given(st.lists(st.tuples(st.floats(0, 1e5), st.booleans()), max_size=60))
    def test_validations(self, steps: list[tuple[float, bool]]) -> None:
        """However long one waits in between, there are no six failed validations in an hour."""
        trouble, now = Trouble(), 1e9
        failed: list[float] = []
        for pause, failed_validation in steps:
            now = max(now + pause, blocked_until(trouble, now + pause, hurry=True))
            if failed_validation:
                failed.append(now)
            trouble = after_failure(
                trouble,
                "so",
                now=now,
                retry_after=None,
                failed_validation=failed_validation,
                jitter=0.5,
            )
        for first, sixth in zip(failed, failed[5:], strict=False):
            self.assertGreaterEqual(sixth - first, HOUR)


class AlarmTests(SynchronousTestCase):
    """L{Alarm}."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.offset = 1e9
        self.rung: list[float] = []
        self.alarm = Alarm(self.clock, self.now, lambda: self.rung.append(self.now()))

    def now(self) -> float:
        return self.clock.seconds() + self.offset

    def test_rings_once(self) -> None:
        self.alarm.set(self.now() + 100_000)
        self.clock.pump([1000] * 99)
        self.assertEqual(self.rung, [])
        self.clock.pump([1000] * 10)
        self.assertEqual(len(self.rung), 1)
        self.assertIsNone(self.alarm.when)

    def test_past(self) -> None:
        self.alarm.set(0)
        self.clock.advance(0)
        self.assertEqual(len(self.rung), 1)

    def test_set_again(self) -> None:
        self.alarm.set(self.now() + 10)
        self.alarm.set(self.now() + 20)
        self.clock.advance(15)
        self.assertEqual(self.rung, [])
        self.alarm.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_clock_set_back(self) -> None:
        self.alarm.set(self.now() + 10)
        self.offset -= 100
        self.clock.advance(10)
        self.assertEqual(self.rung, [])
        self.clock.advance(100)
        self.assertEqual(len(self.rung), 1)


class _Lease(Lease):
    def __init__(self) -> None:
        self.answer: Callable[[], Deferred[bool]] = lambda: succeed(True)
        self.released = 0

    def extend(self, seconds: float) -> Deferred[bool]:
        return self.answer()

    def release(self) -> Deferred[None]:
        self.released += 1
        return fail(StoreUnavailable("away"))


def _away() -> Deferred[bool]:
    return fail(StoreUnavailable("away"))


class HeldLeaseTests(SynchronousTestCase):
    """L{HeldLease}."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.lease = _Lease()
        self.lost = 0
        self.held = HeldLease(self.clock, self.lease, self.lose)

    def lose(self) -> None:
        self.lost += 1

    def test_extended(self) -> None:
        for _ in range(1000):
            self.clock.advance(10)
        self.assertEqual(self.lost, 0)
        self.successResultOf(self.held.let_go())
        self.assertEqual(self.lease.released, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost(self) -> None:
        self.lease.answer = lambda: succeed(False)
        self.clock.advance(LEASE_SECONDS / 2)
        self.assertEqual(self.lost, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_store_is_away(self) -> None:
        """It is lost when its time is up, not before."""
        for answer in (_away, Deferred):
            self.setUp()
            self.lease.answer = answer
            for _ in range(5):
                self.clock.advance(LEASE_SECONDS / 6)
            self.assertEqual(self.lost, 0)
            self.clock.advance(LEASE_SECONDS / 6)
            self.assertEqual(self.lost, 1)

    def test_store_comes_back(self) -> None:
        """In time, so that the lease was not lost."""
        self.lease.answer = _away
        self.clock.pump([LEASE_SECONDS / 4] * 2)
        self.lease.answer = lambda: succeed(True)
        self.clock.pump([LEASE_SECONDS / 4] * 10)
        self.assertEqual(self.lost, 0)
        self.held.let_go()
