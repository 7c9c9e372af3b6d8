"""Tests for L{twisted_bioconn.certificates.acme.kept}."""

from __future__ import annotations

from functools import cache

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates.acme.fronts import DAY, HOUR, NAME, START, Front, Shared
from tests.certificates.acme.issuing import DAY as ONE_DAY
from tests.certificates.acme.issuing import Issuer
from tests.tls_material import ec_key
from twisted_bioconn.certificates.acme.authorities import identity
from twisted_bioconn.certificates.acme.kept import covers, key_type, predecessor, usable, was_before
from twisted_bioconn.certificates.acme.records import CERTIFICATES, CertificateRecord, dump
from twisted_bioconn.certificates.loading import CertifiedKey


@cache
def _certificate(begin: float, *names: str) -> CertifiedKey:
    key = ec_key()
    leaf = Issuer(lambda: begin).issue(key.public_key(), names or (NAME,), 4 * ONE_DAY)
    return CertifiedKey((leaf,), key)


def _record(found: CertifiedKey, issued: float) -> CertificateRecord:
    pem = found.to_pem().decode("ascii")
    return CertificateRecord(tuple(found.names), pem, "https://a.example/", 0.5, issued)


class WasBeforeTests(SynchronousTestCase):
    """L{was_before}."""

    def was_before(self, one: tuple[float, float], other: tuple[float, float]) -> bool:
        """Each by when it is valid from, and when it was had."""
        found, other_found = _certificate(one[0]), _certificate(other[0])
        return was_before(
            _record(found, one[1]), found, _record(other_found, other[1]), other_found
        )

    def test_by_the_authority(self) -> None:
        """Whatever the clock of the front has shown that had it."""
        for skew in (-365 * DAY, -HOUR, 0, HOUR, 365 * DAY):
            self.assertTrue(self.was_before((START, START + skew), (START + DAY, START + DAY)))
            self.assertFalse(self.was_before((START + DAY, START + DAY), (START, START + skew)))

    def test_at_the_same_time(self) -> None:
        """Then by when it was had."""
        self.assertTrue(self.was_before((START, START), (START, START + 1)))
        self.assertFalse(self.was_before((START, START + 1), (START, START)))
        self.assertFalse(self.was_before((START, START), (START, START)))

    def test_unreadable(self) -> None:
        """So with one that cannot be read."""
        found = _certificate(START)
        record = _record(found, START)
        for issued, expected in ((START - 1, True), (START + 1, False)):
            other = CertificateRecord((NAME,), "nothing", "https://a.example/", 0.5, issued)
            self.assertIsNone(usable(other, NAME))
            self.assertEqual(was_before(other, None, record, found), expected)


class PredecessorTests(SynchronousTestCase):
    """L{predecessor}."""

    def setUp(self) -> None:
        self.shared = Shared()
        self.store = Front(Clock(), self.shared, {}).store

    def put(self, begin: float, *names: str) -> None:
        name = CERTIFICATES + identity(names[0], "ec", *sorted(names))
        self.shared.values[name] = dump(_record(_certificate(begin, *names), begin))

    def test_found(self) -> None:
        """Of those that are called by one of the names, the one that is valid longest."""
        self.put(START, "a.example.org")
        self.put(START + DAY, "b.example.org")
        self.put(START + 2 * DAY, "c.example.org", "a.example.org")
        for names, expected in (
            (("a.example.org",), ("a.example.org",)),
            (("a.example.org", "b.example.org"), ("b.example.org",)),
            (("d.example.org", "a.example.org"), ("a.example.org",)),
            (("a.example.org", "c.example.org"), ("c.example.org", "a.example.org")),
            (("d.example.org",), None),
            (("example.org", "a.example"), None),
        ):
            found = self.successResultOf(Deferred.fromCoroutine(predecessor(self.store, names)))
            self.assertEqual(None if found is None else found.names, expected)

    def test_damaged(self) -> None:
        """What cannot be used is passed over."""
        self.put(START, "a.example.org")
        name = CERTIFICATES + identity("a.example.org", "rsa", "a.example.org")
        damaged = CertificateRecord(("a.example.org",), "x", "https://a.example/", 0.5, START)
        for value in (b"{", dump(damaged)):
            self.shared.values[name] = value
            found = self.successResultOf(
                Deferred.fromCoroutine(predecessor(self.store, ("a.example.org",)))
            )
            assert found is not None
            self.assertEqual(found.names, ("a.example.org",))


class ForOperatorsTests(SynchronousTestCase):
    """What is told of a certificate."""

    def test_covers(self) -> None:
        found = _certificate(START, "example.org", "*.example.org")
        for name in ("example.org", "www.example.org"):
            self.assertTrue(covers(found, name))
        for name in ("a.b.example.org", "example.com", "org"):
            self.assertFalse(covers(found, name))

    def test_key_type(self) -> None:
        self.assertEqual(key_type(_certificate(START)), "EC secp256r1")
