"""Tests for L{twisted_bioconn.certificates.acme.source}."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail

from tests.certificates.acme.authority import Fault
from tests.certificates.acme.fronts import DAY, HOUR, MINUTE, NAME, Front, FrontCase
from twisted_bioconn.certificates.acme.authorities import Authority, identity
from twisted_bioconn.certificates.acme.challenges import Solver, TlsAlpn01Solver
from twisted_bioconn.certificates.acme.http_challenge import Http01Solver
from twisted_bioconn.certificates.acme.records import CERTIFICATES
from twisted_bioconn.certificates.acme.source import AcmeSource
from twisted_bioconn.certificates.directory_store import DirectoryStore
from twisted_bioconn.certificates.source import Choice
from twisted_bioconn.certificates.store import ValueUnreadable
from twisted_bioconn.client_policy import ANYBODY
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.hello import ClientHello

ACME = (b"acme-tls/1",)


class FirstCertificateTests(FrontCase):
    """From nothing to a certificate, and on."""

    def test_obtained(self) -> None:
        source = self.started()
        self.pass_time(10)
        found = self.assertServed(source)
        self.assertEqual(found.names, (NAME,))
        self.assertEqual(len(found.chain), 2)
        self.assertEqual(self.validated, [("tls-alpn-01", NAME)])
        self.assertEqual(self.authority.counts["finalize"], 1)
        self.assertEqual([each for each in self.shared.values if "/orders/" in each], [])

    def test_stand_in(self) -> None:
        """Before that the port answers, even before it is started."""
        source = self.source()
        found = self.certificate(source)
        self.assertEqual(found.leaf.subject, found.leaf.issuer)
        self.assertEqual(found.names, (NAME,))
        self.assertIs(self.certificate(source), found)
        default = source.default(ClientHello())
        assert default is not None
        self.assertIs(default.certificate, found)

    def test_stand_in_does_not_expire(self) -> None:
        source = self.source()
        first = self.certificate(source)
        self.clock.advance(8 * DAY)
        found = self.certificate(source)
        self.assertIsNot(found, first)
        self.assertGreater(found.not_valid_after.timestamp(), self.clock.seconds())

    def test_facts(self) -> None:
        source = self.started()
        facts = self.facts(source)
        self.assertEqual((facts.names, facts.key_type), ((NAME,), ""))
        self.assertIsNone(facts.not_after)
        self.pass_time(MINUTE)
        facts = self.facts(source)
        assert facts.not_before and facts.not_after and facts.next_renewal
        self.assertEqual(facts.source, self.authority.directory_url)
        self.assertEqual(facts.key_type, "EC secp256r1")
        self.assertLess(facts.not_before, facts.next_renewal)
        self.assertLess(facts.next_renewal, facts.not_after)
        self.assertIsNone(facts.last_error)

    def test_started_twice(self) -> None:
        source = self.started()
        source.start(self.clock)
        self.pass_time(MINUTE)
        self.assertEqual(self.authority.counts["newOrder"], 1)
        self.successResultOf(source.stop())
        self.successResultOf(source.stop())

    def test_stopped_and_started_again(self) -> None:
        """At any time, with the order gone on with."""
        for seconds in (0.0, 1.0, 1.6, 2.0, 4.0):
            self.setUp()
            source = self.started()
            self.pass_time(seconds)
            stopped = source.stop()
            self.pass_time(1)
            self.successResultOf(stopped)
            self.assertEqual(self.shared.leases, {})
            self.assertEqual([each for each in self.shared.values if "/challenges/" in each], [])
            self.assertEqual(self.clock.getDelayedCalls(), [])
            source.start(self.clock)
            self.pass_time(MINUTE)
            self.assertServed(source)
            self.assertEqual(len(self.authority.issued), 1)
            self.stop_all()

    def test_restarted_while_it_stops(self) -> None:
        source = self.started()
        self.pass_time(1)
        source.stop()
        source.start(self.clock)
        self.pass_time(MINUTE)
        self.assertServed(source)
        self.assertEqual(len(self.authority.issued), 1)

    def test_used_at_construction(self) -> None:
        """A certificate in a directory is there before there is a reactor."""
        store = DirectoryStore(self.clock, self.mktemp())
        options: dict[str, Any] = {
            "authorities": [Authority(self.authority.directory_url)],
            "store": store,
            "now": self.clock.seconds,
            "challenges": [TlsAlpn01Solver(self.clock.seconds)],
        }
        front = self.front()
        source = AcmeSource([NAME], **options, client=front.client)
        self.sources, self.fronts = [source], {source: front}
        source.start(self.clock)
        self.pass_time(MINUTE)
        found = self.assertServed(source)
        self.assertEqual(self.certificate(AcmeSource([NAME], **options)).leaf, found.leaf)

    def test_damaged_values(self) -> None:
        """What cannot be read in the store counts as not there, save for an account."""
        source = self.started()
        self.pass_time(MINUTE)
        names = [each for each in self.shared.values if "/accounts/" not in each]
        source.stop()
        self.pass_time(15)
        self.sources.remove(source)
        for damage in (b"", b"{", b"[]", b'{"names": 7}', b"\xff", b"[" * 100_000):
            for name in names:
                self.shared.values[name] = damage
            source = self.started()
            self.pass_time(2 * MINUTE)
            self.assertServed(source)
            source.stop()
            self.pass_time(15)
            self.sources.remove(source)

    def unreadable(self, front: Front, unreadable: str) -> None:
        """Have a store give no value whose name has this in it."""
        get = front.store.get

        def get_most(name: str) -> Deferred[bytes | None]:
            if unreadable in name and name in self.shared.values:
                return fail(ValueUnreadable(f"{name} is sealed"))
            return get(name)

        self.patch(front.store, "get", get_most)

    def test_unreadable_values(self) -> None:
        """What only helps counts as not there if it is there, but cannot be had."""
        for kind in ("/orders/", "/renewals/", "/troubles/", "/certificates/other.example.org-"):
            self.setUp()
            front = self.front()
            self.unreadable(front, kind)
            self.authority.fail("newOrder", Fault(status=503))
            name = f"{CERTIFICATES}{identity('other.example.org')}"
            self.shared.values[name] = b"sealed"
            source = self.started(NAME, "other.example.org", front=front)
            self.pass_time(10 * MINUTE)
            self.assertServed(source)
            self.stop_all()

    def test_unreadable_certificate(self) -> None:
        """It is not overwritten: others may be able to read it."""
        other = self.started()
        self.pass_time(MINUTE)
        front = self.front()
        self.unreadable(front, "/certificates/")
        before = dict(self.shared.values)
        source = self.started(front=front)
        self.pass_time(HOUR)
        self.assertIn("is sealed", self.facts(source).last_error or "")
        self.assertEqual(self.shared.values, before)
        self.assertEqual(len(self.authority.issued), 1)
        self.assertServed(other)


class NamesTests(FrontCase):
    """Which hello gets what."""

    def find(self, source: AcmeSource, name: str | None, **rest: Any) -> Any:
        return source.find(ClientHello(server_name=name, **rest))

    def test_names(self) -> None:
        source = self.source("example.org", "192.0.2.7", "2001:db8::1")
        for name in ("example.org", "192.0.2.7", "2001:db8::1"):
            self.assertIsInstance(self.find(source, name), Choice)
        for other in ("www.example.org", "org", "192.0.2.8", "", None):
            self.assertIsNone(self.find(source, other))

    def test_wildcard(self) -> None:
        """It stands for one label."""
        source = self.source("*.example.org", challenges=[_AnySolver()])
        self.assertIsInstance(self.find(source, "a.example.org"), Choice)
        for name in ("example.org", "a.b.example.org", "example.net"):
            self.assertIsNone(self.find(source, name))

    def test_address_with_no_name(self) -> None:
        """Who connects to an address says no name."""
        source = self.source("192.0.2.7", "2001:db8::1")
        self.assertIsInstance(self.find(source, None, local_address="2001:0db8::1"), Choice)
        self.assertIsInstance(self.find(source, None, local_address="192.0.2.7"), Choice)
        self.assertIsNone(self.find(source, None, local_address="192.0.2.8"))
        self.assertIsNone(self.find(source, None, local_address="nonsense"))

    def test_challenge(self) -> None:
        """It is for those alone who offer acme-tls/1 and nothing else, and ask for that name."""
        source = self.started()
        while not any("/challenges/" in each for each in self.shared.values):
            self.pass_time(0.1)
        found = self.find(source, NAME, alpn=ACME)
        self.assertEqual(found.alpn, b"acme-tls/1")
        self.assertTrue(found.ends_with_handshake)
        self.assertIs(found.clients, ANYBODY)
        self.assertEqual(found.certificate.names, (NAME,))
        for alpn in ((), (b"acme-tls/1", b"h2"), (b"h2", b"acme-tls/1"), ACME * 2):
            other = self.find(source, NAME, alpn=alpn)
            self.assertFalse(other.ends_with_handshake)
            self.assertNotEqual(other.certificate, found.certificate)
        for name in ("example.org", None, ""):
            self.assertIsNone(self.find(source, name, alpn=ACME))
        self.pass_time(10)
        self.assertIsNone(self.find(source, NAME, alpn=ACME))

    def test_default_is_no_answer(self) -> None:
        """An authority that asks for an answer which is not here gets none."""
        source = self.source()
        self.assertIsNone(source.default(ClientHello(server_name=NAME, alpn=ACME)))

    def test_name_added(self) -> None:
        """
        The certificate of before serves until the new one is there, and on where the new name
        cannot be proved.
        """
        source = self.started()
        self.pass_time(MINUTE)
        before = self.assertServed(source)
        source.stop()
        self.pass_time(15)
        self.sources.remove(source)
        self.authority.rejects = {"new.example.org"}
        source = self.started(NAME, "new.example.org")
        self.pass_time(MINUTE)
        self.assertEqual(self.certificate(source).leaf, before.leaf)
        self.assertFalse(self.has_certificate(source, "new.example.org"))
        self.authority.rejects = set()
        self.pass_time(10 * MINUTE)
        found = self.assertServed(source, "new.example.org")
        self.assertEqual(set(found.names), {NAME, "new.example.org"})
        self.assertEqual(self.certificate(source), found)


class _AnySolver(Solver):
    """Proves nothing, but could."""

    kind = "dns-01"

    def can_prove(self, name: str) -> bool:
        return True

    def show(self, answer: object) -> Any:
        raise NotImplementedError

    hide = show


class RefusalTests(FrontCase):
    """What cannot be done is said when it is asked for."""

    def refusal(self, *names: str, **options: Any) -> str:
        return str(self.assertRaises(ConfigurationError, self.source, *names, **options))

    def test_wildcard(self) -> None:
        self.assertEqual(
            self.refusal("*.example.org"),
            "*.example.org has a wildcard, which can be proved by dns-01 only, and that is not set"
            " up",
        )

    def test_address(self) -> None:
        class OfNames(_AnySolver):
            def can_prove(self, name: str) -> bool:
                return ":" not in name

        self.assertEqual(
            self.refusal("2001:db8::1", challenges=[OfNames()]),
            "2001:db8::1 cannot be proved by dns-01",
        )

    def test_options(self) -> None:
        cases: list[tuple[dict[str, Any], str]] = [
            ({"key_type": "dsa"}, "a key can be ec or rsa, not 'dsa'"),
            ({"challenges": []}, "there is no challenge by which names could be proved"),
            (
                {"challenges": [Http01Solver(), Http01Solver()]},
                "there are two ways to answer http-01, where one is enough",
            ),
        ]
        for options, expected in cases:
            self.assertEqual(self.refusal(**options), expected)

    def test_names(self) -> None:
        self.assertIn("'bad name'", self.refusal("bad name"))

    def test_nothing(self) -> None:
        for names, authorities, expected in [
            ([], [Authority("letsencrypt")], "a server's certificate needs at least one name"),
            ([NAME], [], "there is no authority to have certificates from"),
        ]:
            error = self.assertRaises(
                ConfigurationError,
                AcmeSource,
                names,
                authorities=authorities,
                store=self.front().store,
            )
            self.assertEqual(str(error), expected)
