"""Tests for L{twisted_bioconn.certificates.acme.orders}: orders that take long, or are odd."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater

from tests.certificates.acme.authority import Refused
from tests.certificates.acme.fronts import DAY, HOUR, MINUTE, NAME, FrontCase
from tests.certificates.acme.records import Account, Authorization
from twisted_bioconn.certificates.acme.dns_challenge import Dns01Solver, DnsRecords
from twisted_bioconn.certificates.acme.source import AcmeSource


class OrderCase(FrontCase):
    def error(self, source: AcmeSource) -> str:
        """The one sentence."""
        error = self.facts(source).last_error
        assert error is not None
        self.assertNotIn("\n", error)
        return error.removeprefix(f"{self.authority.directory_url}: ")

    def leases(self) -> list[str]:
        """Those for work on certificates."""
        return [each for each in self.shared.leases if each.startswith("acme/lease/")]

    def stopped(self, source: AcmeSource) -> None:
        source.stop()
        self.pass_time(15)
        self.sources.remove(source)

    def orders(self) -> dict[str, Any]:
        """The orders in the store."""
        return {
            name: json.loads(value)
            for name, value in self.shared.values.items()
            if name.startswith("acme/orders/")
        }


class LongTests(OrderCase):
    """The lease is not held while nothing can be done."""

    def test_retry_after_a_month(self) -> None:
        """The order is taken up later, which is in half a day at the latest."""
        self.authority.retry_after = int(30 * DAY)
        self.authority.polls = 1
        source = self.started()
        self.pass_time(10)
        self.assertEqual(self.authority.counts["finalize"], 1)
        self.assertEqual(self.leases(), [])
        self.assertEqual(
            self.error(source), "the order is not issued yet: it is looked at again later"
        )
        self.pass_time(12 * HOUR + MINUTE)
        self.assertEqual(self.authority.counts["order"], 2)
        self.assertEqual(self.leases(), [])
        self.pass_time(12 * HOUR + MINUTE)
        self.assertServed(source)
        self.assertEqual(self.authority.counts["newOrder"], 1)

    def test_retry_after_of_an_authorization(self) -> None:
        """Nor is it waited for a name to be validated."""
        self.authority.retry_after = int(30 * DAY)
        answered: list[Deferred[None]] = []

        def validate(*_: str) -> Deferred[None]:
            answered.append(Deferred())
            return answered[-1]

        self.authority.validate = validate
        source = self.started()
        self.pass_time(10)
        self.assertEqual(self.leases(), [])
        self.assertEqual(
            self.error(source), f"{NAME} is not validated yet: it is looked at again later"
        )
        answered[0].callback(None)
        self.pass_time(12 * HOUR + MINUTE)
        self.assertServed(source)
        self.assertEqual(self.authority.counts["newOrder"], 1)

    def test_short_retry_after(self) -> None:
        """What is short is waited for."""
        self.authority.retry_after = 290
        self.authority.polls = 1
        source = self.started()
        self.pass_time(570)
        self.assertEqual(len(self.leases()), 1)
        self.pass_time(20)
        self.assertServed(source)

    def test_deadline(self) -> None:
        """An authority that is slow at each step does not have the lease held for ever."""
        names = [f"a{number}.example.org" for number in range(12)]
        slow = iter(range(500, 12 * 500 + 1, 500))

        def validate(*_: str) -> Deferred[None]:
            answered: Deferred[None] = Deferred()
            self.clock.callLater(next(slow), answered.callback, None)
            return answered

        self.authority.validate = validate
        self.authority.retry_after = 60
        source = self.started(*names)
        self.pass_time(HOUR - MINUTE)
        self.assertEqual(len(self.leases()), 1)
        self.assertIsNone(self.facts(source).last_error)
        self.pass_time(MINUTE + 1)
        self.assertEqual(self.leases(), [])
        self.assertEqual([each for each in self.shared.values if "/challenges/" in each], [])
        self.assertEqual(
            self.error(source),
            "the order has not come to an end within 3600 seconds: it is looked at again later",
        )
        self.pass_time(HOUR)
        self.assertServed(source, names[0])
        self.assertEqual(self.authority.counts["newOrder"], 1)

    def test_deadline_with_slow_proofs(self) -> None:
        """What a proof takes to be seen everywhere is not counted."""

        class Records(DnsRecords):
            def set_record(self, name: str, value: str) -> Deferred[None]:
                return succeed(None)

            def remove_record(self, name: str, value: str) -> Deferred[None]:
                return succeed(None)

        self.authority.validate = lambda *_: deferLater(self.clock, 2 * MINUTE)
        source = self.started(challenges=[Dns01Solver(Records(), propagation=3600)])
        self.pass_time(HOUR + 3 * MINUTE)
        self.assertServed(source)

    def test_stopped_within(self) -> None:
        """To stop is not to be late."""
        self.authority.polls = 10_000
        source = self.started()
        self.pass_time(30)
        self.assertEqual(len(self.leases()), 1)
        self.stopped(source)
        self.assertEqual(self.leases(), [])
        self.assertIsNone(self.facts(source).last_error)


class GivenUpTests(OrderCase):
    """An order of which nothing will come makes way for another."""

    def setUp(self) -> None:
        super().setUp()
        self.authority.polls = 10_000
        self.authority.retry_after = 3600
        self.source_ = self.started()
        self.pass_time(MINUTE)
        (self.order,) = self.authority.orders.values()
        self.assertEqual(self.order.status, "processing")

    def mend(self) -> None:
        """Issue what is ordered from now on, but not what was ordered already."""
        self.authority.polls = 0

    def test_expired(self) -> None:
        """It is past the time that the authority has said, which does not call it invalid."""
        self.order.expires = self.clock.seconds() + HOUR
        self.mend()
        self.pass_time(HOUR - 2 * MINUTE)
        self.assertEqual(self.authority.counts["newOrder"], 1)
        self.pass_time(2 * HOUR)
        self.assertServed(self.source_)
        self.assertEqual(self.authority.counts["newOrder"], 2)
        self.assertEqual(self.orders(), {})

    def test_old(self) -> None:
        """The authority has said no time, or one that is far away."""
        self.order.expires = self.clock.seconds() + 1000 * DAY
        self.mend()
        self.pass_time(7 * DAY - 2 * MINUTE)
        self.assertEqual(self.authority.counts["newOrder"], 1)
        self.assertEqual([each["url"] for each in self.orders().values()], [self.order.url])
        self.pass_time(DAY)
        self.assertServed(self.source_)
        self.assertEqual(self.authority.counts["newOrder"], 2)

    def test_of_an_earlier_version(self) -> None:
        """It has not written when it was begun: it is gone on with, and its time begins then."""
        self.order.expires = self.clock.seconds() + 1000 * DAY
        self.stopped(self.source_)
        ((name, record),) = self.orders().items()
        self.assertGreater(record.pop("begun"), self.clock.seconds() - 2 * MINUTE)
        self.shared.values[name] = json.dumps(record).encode()
        self.mend()
        source = self.started()
        self.pass_time(1)
        source.reload()
        self.pass_time(MINUTE)
        ((_, found),) = self.orders().items()
        self.assertEqual((found["url"], found["key"]), (record["url"], record["key"]))
        self.assertGreater(found["begun"], self.clock.seconds() - 2 * MINUTE)
        self.pass_time(8 * DAY)
        self.assertServed(source)
        self.assertEqual(self.authority.counts["newOrder"], 2)

    def test_clock_was_ahead(self) -> None:
        """One that was begun in a year by a clock that was wrong is not kept for a year."""
        self.order.expires = self.clock.seconds() + 1000 * DAY
        self.stopped(self.source_)
        ((name, record),) = self.orders().items()
        record["begun"] += 365 * DAY
        self.shared.values[name] = json.dumps(record).encode()
        self.mend()
        source = self.started()
        self.pass_time(HOUR)
        self.assertServed(source)


class OddTests(OrderCase):
    """What an authority must not have done."""

    def test_more_authorizations(self) -> None:
        """More proofs than names: nothing is shown for any of them."""
        self.authority.reuses = False
        answer = self.authority._order_answer

        def more(order: Any, code: int) -> Any:
            if len(order.authorizations) == 1:
                order.authorizations.append(self.authority._authorize(order.account, NAME))
            return answer(order, code)

        self.patch(self.authority, "_order_answer", more)
        source = self.started()
        self.pass_time(30)
        self.assertEqual(
            self.error(source), "the authority wants more proofs (2) than there are names (1)"
        )
        self.assertEqual(self.authority.counts["authorization"], 0)
        self.assertEqual(self.orders(), {})

    def with_token(self, token: str) -> None:
        authorize = self.authority._authorize

        def same(account: Account, name: str) -> Authorization:
            found = authorize(account, name)
            for each in found.challenges:
                each.token = f"{token}-{name.replace('.', '_')}" if token == "own" else token
            return found

        self.patch(self.authority, "_authorize", same)

    def test_same_token(self) -> None:
        """Of two names: only one answer could be shown, and the other would be a riddle."""
        self.with_token("A" * 22)
        source = self.started("a.example.org", "b.example.org")
        self.pass_time(30)
        self.assertEqual(
            self.error(source),
            "the authority has given a.example.org and b.example.org the same token, which has to"
            " be unique (RFC 8555, section 8.3)",
        )
        self.assertEqual(self.validated, [])
        self.assertEqual([each for each in self.shared.values if "/challenges/" in each], [])

    def test_same_token_of_one_name(self) -> None:
        """One for all the ways to prove a name, as Let's Encrypt has it, is fine."""
        self.with_token("own")
        source = self.started("a.example.org", "b.example.org")
        self.pass_time(30)
        self.assertServed(source, "a.example.org")

    def test_same_authorization(self) -> None:
        """One that is listed twice is shown once."""
        answer = self.authority._order_answer

        def twice(order: Any, code: int) -> Any:
            order.authorizations[1:] = order.authorizations[:1]
            return answer(order, code)

        self.patch(self.authority, "_order_answer", twice)
        self.authority.refuses_issuance = Refused("caa", "not both", 403)
        source = self.started("a.example.org", "b.example.org")
        self.pass_time(30)
        self.assertIn("not both (caa)", self.error(source))
        self.assertEqual(self.validated, [("tls-alpn-01", "a.example.org")])
