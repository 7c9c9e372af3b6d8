"""Several fronts, L{AcmeSource}s on one store, and a store that goes away."""

from __future__ import annotations

from attrs import evolve

from tests.certificates.acme.authority import Drop, Fault
from tests.certificates.acme.fronts import DAY, HOUR, MINUTE, NAME, RENEWED, FrontCase
from twisted_bioconn.certificates.acme.leases import LEASE_SECONDS
from twisted_bioconn.certificates.acme.records import CertificateRecord, dump, parse
from twisted_bioconn.hello import ClientHello


class FrontsTests(FrontCase):
    """One orders, and all have it."""

    def test_ordered_once(self) -> None:
        """
        Of five, one orders.  The authority may come to any of them: L{FrontCase.validate} has it
        look at all, each time.
        """
        sources = [self.started() for _ in range(5)]
        self.pass_time(MINUTE)
        found = {self.assertServed(each).leaf for each in sources}
        self.assertEqual(len(found), 1)
        self.assertEqual(self.authority.counts["finalize"], 1)
        self.assertEqual(self.authority.counts["newOrder"], 1)
        self.assertEqual(len(self.authority.accounts), 1)

    def test_renewed_once(self) -> None:
        sources = [self.started() for _ in range(3)]
        self.pass_days(RENEWED)
        self.assertEqual(self.authority.counts["finalize"], 2)
        self.assertEqual(len({self.assertServed(each).leaf for each in sources}), 1)
        self.assertLess(self.authority.counts["renewalInfo"], 3 * 4 + 5)

    def test_within_a_second(self) -> None:
        """All swap within a second of the first."""
        sources = [self.started() for _ in range(3)]
        while not any(self.has_certificate(each) for each in sources):
            self.pass_time(0.1)
        self.pass_time(0.9)
        self.assertTrue(all(self.has_certificate(each) for each in sources))

    def test_late_comer(self) -> None:
        self.started()
        self.pass_time(MINUTE)
        late = self.started()
        self.pass_time(0.1)
        self.assertServed(late)
        self.assertEqual(self.authority.counts["newOrder"], 1)

    def test_dies_at_work(self) -> None:
        """The other goes on with the order of the one that has died, when its lease has ended."""
        first = self.front()
        dying = self.started(front=first)
        other = self.started()
        self.authority.fail("finalize", Fault(drop=Drop.AFTER))
        while not self.authority.counts["finalize"]:
            self.pass_time(0.1)
        first.is_dead = True
        self.pass_time(2 * LEASE_SECONDS)
        first.is_buried = True
        self.assertServed(other)
        self.assertEqual(len(self.authority.issued), 1)
        self.sources.remove(dying)
        dying.stop()

    def test_clock_was_ahead(self) -> None:
        """A certificate is not taken for a newer one because it was had by a clock ahead."""
        source = self.started()
        self.pass_time(MINUTE)
        first = self.assertServed(source)
        source.stop()
        self.pass_time(15)
        self.sources.remove(source)
        name = next(each for each in self.shared.values if "/certificates/" in each)
        record = parse(CertificateRecord, name, self.shared.values[name])
        assert record is not None
        self.shared.values[name] = dump(evolve(record, issued=record.issued + 30 * DAY))
        sources = [self.started() for _ in range(3)]
        self.pass_days(RENEWED)
        found = {self.assertServed(each).leaf for each in sources}
        self.assertEqual(found, {self.authority.issued[1].certificate})
        self.assertNotEqual(found, {first.leaf})
        self.assertEqual(len(self.authority.issued), 2)

    def test_failures_are_shared(self) -> None:
        """What has failed for one need not be tried by the other."""
        self.authority.fail("newOrder", Fault(status=503), None)
        sources = [self.started() for _ in range(4)]
        self.pass_time(HOUR)
        self.assertLessEqual(self.authority.counts["newOrder"], 6)
        for each in sources:
            self.assertIn("503", self.facts(each).last_error or "")

    def test_lost_lease(self) -> None:
        """Whoever has lost the lease stops at once: another may be at it."""
        self.authority.polls = 10_000
        source = self.started()
        self.pass_time(30)
        self.shared.leases.clear()
        requests = self.authority.counts["order"]
        self.pass_time(25)
        held = [each for each in self.shared.leases if each.startswith("acme/lease/")]
        self.assertEqual(held, [])
        self.assertGreater(self.authority.counts["order"], requests)
        requests = self.authority.counts["order"]
        self.pass_time(30)
        self.assertEqual(self.authority.counts["order"], requests)
        self.authority.polls = 0
        for order in self.authority.orders.values():
            order.polls = 0
        self.pass_time(2 * MINUTE)
        self.assertServed(source)
        self.assertEqual(len(self.authority.issued), 1)


class StoreGoneTests(FrontCase):
    """The store is away: what there is is served, and all is caught up with when it is back."""

    def test_at_start(self) -> None:
        """Nothing is ordered that could not be kept."""
        front = self.front()
        front.is_store_gone = True
        source = self.started(front=front)
        self.pass_time(HOUR)
        self.assertFalse(self.has_certificate(source))
        self.assertEqual(self.facts(source).last_error, "the store is away")
        self.assertEqual(sum(self.authority.counts.values()), 0)
        front.is_store_gone = False
        self.pass_time(7 * MINUTE)
        self.assertServed(source)
        self.assertIsNone(self.facts(source).last_error)

    def test_while_serving(self) -> None:
        front = self.front()
        source = self.started(front=front)
        self.pass_time(MINUTE)
        first = self.assertServed(source)
        front.is_store_gone = True
        self.pass_days(RENEWED)
        self.assertEqual(self.certificate(source), first)
        front.is_store_gone = False
        self.pass_time(7 * MINUTE)
        self.assertNotEqual(self.assertServed(source), first)
        self.assertEqual(len(self.authority.issued), 2)

    def test_in_the_middle(self) -> None:
        """It goes away at any step of an order, and comes back: there is one certificate."""
        for gone_at in range(1, 60, 3):
            self.setUp()
            front = self.front()
            source = self.started(front=front)
            while front.done < gone_at and not self.has_certificate(source):
                self.pass_time(0.1)
            front.is_store_gone = True
            self.pass_time(10 * MINUTE)
            front.is_store_gone = False
            self.pass_time(20 * MINUTE)
            self.assertServed(source)
            self.assertEqual(len(self.authority.issued), 1, gone_at)
            self.assertIn("-----BEGIN CERTIFICATE", str(list(self.shared.values.values())))
            self.stop_all()

    def test_certificate_that_could_not_be_kept(self) -> None:
        """It is served all the same, and kept when the store is back."""
        front = self.front()
        source = self.started(front=front)
        while self.authority.counts["certificate"] == 0:
            if self.authority.counts["finalize"]:
                front.is_store_gone = True
            self.clock.advance(0.1)
        self.pass_time(10)
        self.assertServed(source)
        front.is_store_gone = False
        self.pass_time(10 * MINUTE)
        self.assertEqual(len([each for each in self.shared.values if "/certificates/" in each]), 1)
        self.assertEqual([each for each in self.shared.values if "/orders/" in each], [])
        self.assertEqual(len(self.authority.issued), 1)

    def test_interrupted(self) -> None:
        """After an interruption all is looked at: what was missed may be anything."""
        front = self.front()
        follower = self.started(front=front)
        other = self.started()
        front.is_store_gone = True
        self.pass_time(2 * MINUTE)
        self.assertServed(other)
        self.assertFalse(self.has_certificate(follower))
        front.is_store_gone = False
        self.shared.tell("")
        self.pass_time(1)
        self.assertServed(follower)

    def test_answers_of_the_dead(self) -> None:
        """An answer that nobody has withdrawn is shown for a day or so, and not for ever."""
        front = self.front()
        dying = self.started(front=front)
        while not any("/challenges/" in each for each in self.shared.values):
            self.pass_time(0.1)
        front.is_dead = True
        # Another that shares the store, for other names.
        other = self.started("other.example.org")
        self.pass_time(10)
        hello = ClientHello(server_name=NAME, alpn=(b"acme-tls/1",))
        self.assertIsNotNone(other.find(hello))
        self.pass_time(DAY + 2 * HOUR)
        self.shared.tell("")
        self.pass_time(1)
        self.assertIsNone(other.find(hello))
        self.assertEqual([each for each in self.shared.values if "/challenges/" in each], [])
        front.is_buried = True
        self.sources.remove(dying)
        dying.stop()
