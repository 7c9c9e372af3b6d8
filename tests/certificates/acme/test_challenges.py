"""Tests for L{twisted_bioconn.certificates.acme.challenges}, and what other fronts have of them."""

from __future__ import annotations

from datetime import UTC, datetime

from attrs import evolve
from cryptography import x509
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates.acme.fronts import ACME_IDENTIFIER, DAY, START, Front, InDns, Shared
from twisted_bioconn.certificates.acme.answers import Answers
from twisted_bioconn.certificates.acme.challenges import (
    Solver,
    TlsAlpn01Solver,
    challenge_certificate,
)
from twisted_bioconn.certificates.acme.records import Answer, dump, parse
from twisted_bioconn.client_policy import ANYBODY

# The example of RFC 8737 has no key; this one is of RFC 8555, section 8.4's kind.
ANSWER = Answer(
    kind="tls-alpn-01",
    identifier="www.example.org",
    token="evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA",
    key_authorization="evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA."
    "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
    certificate="www.example.org-0123456789abcdef",
    expires=START + 3600,
)


class CertificateTests(SynchronousTestCase):
    """L{challenge_certificate}: what RFC 8737, section 3, asks for."""

    def test_extensions(self) -> None:
        leaf = challenge_certificate(ANSWER, START).leaf
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(list(names), [x509.DNSName("www.example.org")])
        extension = leaf.extensions.get_extension_for_oid(ACME_IDENTIFIER)
        self.assertTrue(extension.critical)
        assert isinstance(extension.value, x509.UnrecognizedExtension)
        self.assertEqual(extension.value.value, b"\x04\x20" + ANSWER.digest)
        leaf.verify_directly_issued_by(leaf)
        now = datetime.fromtimestamp(START, UTC)
        self.assertTrue(leaf.not_valid_before_utc < now < leaf.not_valid_after_utc)

    def test_address(self) -> None:
        leaf = challenge_certificate(evolve(ANSWER, identifier="2001:db8::1"), START).leaf
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual([str(each.value) for each in names], ["2001:db8::1"])

    def test_values(self) -> None:
        """The digest of RFC 8555, section 8.1, and its form for DNS."""
        self.assertEqual(len(ANSWER.digest), 32)
        self.assertEqual(len(ANSWER.dns_value), 43)
        self.assertNotIn("=", ANSWER.dns_value)
        self.assertNotIn(ANSWER.key_authorization, repr(ANSWER))


class TlsAlpn01SolverTests(SynchronousTestCase):
    """L{TlsAlpn01Solver}."""

    def setUp(self) -> None:
        self.solver = TlsAlpn01Solver(lambda: START)

    def test_shown(self) -> None:
        self.successResultOf(self.solver.show(ANSWER))
        choice = self.solver.choice("www.example.org")
        assert choice is not None
        self.assertEqual((choice.alpn, choice.ends_with_handshake), (b"acme-tls/1", True))
        self.assertIs(choice.clients, ANYBODY)
        self.successResultOf(self.solver.show(ANSWER))
        self.assertIs(self.solver.choice("www.example.org"), choice)
        self.successResultOf(self.solver.hide(ANSWER))
        self.assertIsNone(self.solver.choice("www.example.org"))
        self.successResultOf(self.solver.hide(ANSWER))

    def test_addresses(self) -> None:
        """They are asked for by the name under which they are looked up (RFC 8738, section 6)."""
        for address, name in [
            ("192.0.2.1", "1.2.0.192.in-addr.arpa"),
            ("2001:db8::1", "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa"),
        ]:
            self.solver.show(evolve(ANSWER, identifier=address))
            self.assertIsNotNone(self.solver.choice(name))
            self.assertIsNone(self.solver.choice(address))

    def test_two_orders(self) -> None:
        """For one name: the newest is shown, and when it is done the other."""
        other = evolve(ANSWER, token="other", key_authorization="other.key")
        self.solver.show(ANSWER)
        first = self.solver.choice("www.example.org")
        self.solver.show(other)
        self.assertNotEqual(self.solver.choice("www.example.org"), first)
        self.solver.hide(other)
        self.assertIs(self.solver.choice("www.example.org"), first)

    def test_users(self) -> None:
        """It shows until the last who uses it has stopped."""
        self.solver.start(None)
        self.solver.start(None)
        self.solver.show(ANSWER)
        self.successResultOf(self.solver.stop())
        self.assertIsNotNone(self.solver.choice("www.example.org"))
        self.successResultOf(self.solver.stop())
        self.assertIsNone(self.solver.choice("www.example.org"))

    def test_wildcard(self) -> None:
        self.assertFalse(self.solver.can_prove("*.example.org"))
        self.assertTrue(self.solver.can_prove("192.0.2.1"))


class AnswersTests(SynchronousTestCase):
    """L{Answers}: all fronts show what one has put into the store."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = START
        self.shared = Shared()

    def front(self) -> tuple[Answers, TlsAlpn01Solver]:
        solver = TlsAlpn01Solver(self.clock.seconds)
        solvers: list[Solver] = [solver]
        store = Front(self.clock, self.shared, {}).store
        return Answers(store, solvers, self.clock.seconds), solver

    def do(self, coroutine: object) -> None:
        self.successResultOf(coroutine)  # type: ignore[arg-type]

    def test_published(self) -> None:
        (ours, here), (theirs, there) = self.front(), self.front()
        self.do(ours.publish(ANSWER))
        self.assertIsNotNone(here.choice(ANSWER.identifier))
        self.assertIsNone(there.choice(ANSWER.identifier))
        self.do(theirs.look(ANSWER.store_name))
        self.assertIsNotNone(there.choice(ANSWER.identifier))
        self.do(ours.withdraw(ANSWER.certificate))
        self.assertIsNone(here.choice(ANSWER.identifier))
        self.do(theirs.look())
        self.assertIsNone(there.choice(ANSWER.identifier))
        self.assertEqual(self.shared.values, {})

    def test_lost(self) -> None:
        """What the store has lost is put into it again, by the front whose answer it is."""
        (ours, here), (theirs, there) = self.front(), self.front()
        self.do(ours.publish(ANSWER))
        self.do(theirs.look())
        self.shared.values.clear()
        self.do(theirs.look())
        self.assertIsNone(there.choice(ANSWER.identifier))
        self.do(ours.look())
        self.assertIsNotNone(here.choice(ANSWER.identifier))
        self.do(theirs.look(ANSWER.store_name))
        self.assertIsNotNone(there.choice(ANSWER.identifier))
        self.do(ours.withdraw(ANSWER.certificate))
        self.assertEqual(self.shared.values, {})
        self.do(ours.look())
        self.assertEqual(self.shared.values, {})

    def test_others_stay(self) -> None:
        ours, here = self.front()
        other = evolve(ANSWER, token="other", identifier="b.example.org", certificate="b-0")
        self.do(ours.publish(ANSWER))
        self.do(ours.publish(other))
        self.do(ours.withdraw(ANSWER.certificate))
        self.assertIsNotNone(here.choice("b.example.org"))
        self.assertEqual(list(self.shared.values), [other.store_name])

    def test_expired(self) -> None:
        ours, here = self.front()
        self.shared.values[ANSWER.store_name] = dump(ANSWER)
        self.clock.advance(3600 + DAY)
        self.do(ours.look())
        self.assertIsNone(here.choice(ANSWER.identifier))
        self.assertEqual(self.shared.values, {})

    def test_expired_record(self) -> None:
        """What the dead have set in DNS is removed."""
        records = InDns()
        store = Front(self.clock, self.shared, {}).store
        answers = Answers(store, [records], self.clock.seconds)
        answer = evolve(ANSWER, kind="dns-01")
        self.shared.values[answer.store_name] = dump(answer)
        self.do(answers.look())
        self.assertEqual(records.hidden, [])
        self.clock.advance(3600 + DAY)
        self.do(answers.look())
        self.assertEqual(records.hidden, [answer])
        self.assertEqual(self.shared.values, {})

    def test_under_a_wrong_name(self) -> None:
        """Nor what cannot be read."""
        ours, here = self.front()
        self.shared.values["acme/challenges/other"] = dump(ANSWER)
        self.shared.values["acme/challenges/third"] = b"{"
        self.do(ours.look())
        self.assertIsNone(here.choice(ANSWER.identifier))

    def test_bounded(self) -> None:
        ours, here = self.front()
        for number in range(1100):
            answer = evolve(ANSWER, token=f"t{number:04}", identifier=f"n{number:04}.example.org")
            self.shared.values[answer.store_name] = dump(answer)
        shown: list[Answer] = []

        def show(answer: Answer) -> Deferred[None]:
            shown.append(answer)
            return succeed(None)

        self.patch(here, "show", show)
        self.do(ours.look())
        self.assertEqual(len(shown), 1000)

    def test_round_trip(self) -> None:
        self.assertEqual(parse(Answer, "it", dump(ANSWER)), ANSWER)
