"""Tests for L{twisted_bioconn.certificates.names}."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates.material import BEGIN, DAY, SECOND
from tests.certificates.placed import (
    ECDSA_ONLY,
    RSA_ONLY,
    asking,
    certified,
    ed25519_key,
    lines,
    rsa_key,
)
from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.certificates.names import ByName, NameTable, facts_about, key_type, spelled
from twisted_bioconn.errors import ConfigurationError

MIDDLE = BEGIN + 45 * DAY


class SpelledTests(SynchronousTestCase):
    """L{spelled}."""

    def test_names(self) -> None:
        for name, expected in {
            "www.example.org": "www.example.org",
            "WWW.Example.ORG.": "www.example.org",
            "*.Example.org": "*.example.org",
            "bücher.example": "xn--bcher-kva.example",
            "*.BÜCHER.example": "*.xn--bcher-kva.example",
            "XN--BCHER-KVA.example": "xn--bcher-kva.example",
            "my_container": "my_container",
            "web1": "web1",
            "192.0.2.1": "192.0.2.1",
            "2001:DB8:0::1": "2001:db8::1",
        }.items():
            self.assertEqual(spelled(name), expected)

    def test_no_names(self) -> None:
        for name in (
            "",
            ".",
            "*",
            "*.",
            "a..b",
            ".a",
            "f*.example.org",
            "*.*.example.org",
            "a b",
            "a/b",
            "-a",
            "1.2.3.4.5",
            "*.0.2.1",
            "2001:db8::g",
            "a\0b",
            "\ud800.example",
            "a." * 127 + "org",
            "a" * 64,
        ):
            self.assertIsNone(spelled(name), name)

    @given(st.text() | st.from_regex(r"\A(\*\.)?[a-zA-Z0-9.:\-_]{0,20}\Z"))
    def test_one_spelling(self, name: str) -> None:
        """Whatever it is given, it answers, and what it answers is spelled so."""
        found = spelled(name)
        if found is not None:
            self.assertEqual(spelled(found), found)
            self.assertTrue(found.isascii() and found == found.lower())


class ByNameTests(SynchronousTestCase):
    """L{ByName}."""

    def test_wildcard(self) -> None:
        """A C{*} stands for one label, and the exact name goes before it."""
        names = ByName({"*.example.org": 1, "WWW.example.org": 2})
        self.assertEqual(names.find("www.example.org"), 2)
        self.assertEqual(names.find("a.example.org"), 1)
        for name in ("b.a.example.org", "example.org", ".example.org", "org", ""):
            self.assertIsNone(names.find(name), name)

    def test_no_name(self) -> None:
        error = self.assertRaises(ConfigurationError, ByName, {"f*.example.org": 1})
        self.assertEqual(str(error), "'f*.example.org' is neither a DNS name nor an IP address")


class NameTableTests(SynchronousTestCase):
    """L{NameTable}."""

    def setUp(self) -> None:
        self.time = MIDDLE.timestamp()
        self.asked = 0

    def now(self) -> float:
        self.asked += 1
        return self.time

    def table(self, *certificates: CertifiedKey) -> NameTable:
        return NameTable(
            [(each, f"file {number}") for number, each in enumerate(certificates)], now=self.now
        )

    def test_names(self) -> None:
        one = certified("A.example.org", "bücher.example")
        star = certified("*.example.org")
        table = self.table(star, one)
        self.assertIs(table.find(asking("a.example.org")), one)
        self.assertIs(table.find(asking("b.example.org")), star)
        self.assertIs(table.find(asking("xn--bcher-kva.example")), one)
        for name in ("c.b.example.org", "example.org", "bcher.example", None):
            self.assertIsNone(table.find(asking(name)), name)

    def test_names_that_nobody_can_ask_for(self) -> None:
        """They hide none of the others."""
        one = certified("f*.example.org", "*", "a b", "good.example.org")
        table = self.table(one)
        self.assertIs(table.find(asking("good.example.org")), one)
        self.assertIsNone(table.find(asking("foo.example.org")))

    def test_addresses(self) -> None:
        """By the address that is asked for, or that the client has come to."""
        one = certified("192.0.2.1", "2001:db8::1")
        table = self.table(one, certified("www.example.org"))
        self.assertIs(table.find(asking("192.0.2.1")), one)
        for address in ("192.0.2.1", "::ffff:192.0.2.1", "2001:DB8::1", "2001:db8::1%eth0"):
            self.assertIs(table.find(asking(address=address)), one, address)
        for address in ("192.0.2.2", "/run/socket", "", "%"):
            self.assertIsNone(table.find(asking(address=address)), address)
        # The address counts only for who does not say a name.
        self.assertIsNone(table.find(asking("other.example.org", address="192.0.2.1")))

    def test_valid_first(self) -> None:
        """A valid one goes before all that are not, whatever else is to be said for those."""
        old = certified("a.example.org", end=BEGIN + 10 * DAY)
        valid = certified("a.example.org", key=rsa_key(), end=BEGIN + 50 * DAY)
        new = certified("a.example.org", begin=BEGIN + 46 * DAY, end=BEGIN + 400 * DAY)
        table = self.table(old, new, valid)
        self.assertIs(table.find(asking("a.example.org", ECDSA_ONLY)), valid)
        self.time = (BEGIN + 46 * DAY - SECOND).timestamp()
        self.assertIs(table.find(asking("a.example.org")), valid)
        self.time = (BEGIN + 46 * DAY).timestamp()
        self.assertIs(table.find(asking("a.example.org")), new)
        self.time = (BEGIN + 5 * DAY).timestamp()  # a clock may be set back
        self.assertIs(table.find(asking("a.example.org")), old)
        self.time = (BEGIN + 1000 * DAY).timestamp()
        self.assertIs(table.find(asking("a.example.org")), new)

    def test_what_a_client_can_verify(self) -> None:
        by_rsa = certified("a.example.org", key=rsa_key(), end=BEGIN + 100 * DAY)
        by_ecdsa = certified("a.example.org")
        for table in (self.table(by_rsa, by_ecdsa), self.table(by_ecdsa, by_rsa)):
            self.assertIs(table.find(asking("a.example.org", RSA_ONLY)), by_rsa)
            self.assertIs(table.find(asking("a.example.org", ECDSA_ONLY)), by_ecdsa)
            self.assertIs(table.find(asking("a.example.org", RSA_ONLY + ECDSA_ONLY)), by_ecdsa)
            # Whatever is chosen will not do: it is for the handshake to say so.
            self.assertIs(table.find(asking("a.example.org", (0x0808,))), by_ecdsa)

    def test_last_to_expire(self) -> None:
        short = certified("a.example.org", end=BEGIN + 60 * DAY)
        long = certified("a.example.org", end=BEGIN + 61 * DAY)
        self.assertIs(self.table(short, long).find(asking("a.example.org")), long)
        self.assertIs(self.table(long, short).find(asking("a.example.org")), long)

    def test_longer_chain(self) -> None:
        """Of two files with one leaf, that with the intermediate goes first."""
        whole = certified("a.example.org")
        bare = CertifiedKey(whole.chain[:1], whole.key)
        self.assertIs(self.table(bare, whole).find(asking("a.example.org")), whole)

    def test_cheap(self) -> None:
        """Of one alone the time is not asked; of several the order is not found again."""
        table = self.table(
            certified("a.example.org"), certified("b.example.org"), certified("b.example.org")
        )
        for _ in range(10):
            table.find(asking("a.example.org"))
        self.assertEqual(self.asked, 0)
        first = table.find(asking("b.example.org"))
        candidates = table._named["b.example.org"]
        order = candidates._order
        self.time += 1
        self.assertIs(table.find(asking("b.example.org")), first)
        self.assertIs(candidates._order, order)

    def test_put_again(self) -> None:
        """What comes from an origin replaces what came from there, and nothing else."""
        first, second = certified("a.example.org", "b.example.org"), certified("b.example.org")
        table = self.table(first)
        table.put("other", [second], called=["second.example.org"])
        table.put("file 0", [third := certified("a.example.org", "c.example.org")])
        self.assertIs(table.find(asking("a.example.org")), third)
        self.assertIs(table.find(asking("b.example.org")), second)
        table.remove("other")
        table.remove("other")
        self.assertIsNone(table.find(asking("b.example.org")))
        self.assertIsNone(table.find(asking("second.example.org")))
        table.remove("file 0")
        self.assertEqual((len(table._named), len(table._called), table._places), (0, 0, {}))

    def test_called(self) -> None:
        """What a certificate is called counts where none is for the name."""
        star, other = certified("*.example.org"), certified("other.example.org")
        table = self.table(star)
        table.put("other", [other], called=["a.example.org", "a.example.com", "no name!"])
        self.assertIs(table.find(asking("a.example.org")), star)
        self.assertIs(table.find(asking("a.example.com")), other)

    def test_given_names(self) -> None:
        """They are in place of those that the certificate has."""
        table = self.table()
        table.put("x", [one := certified("a.example.org")], names=["b.example.org"])
        self.assertIs(table.find(asking("b.example.org")), one)
        self.assertIsNone(table.find(asking("a.example.org")))

    def test_different_names_of_one_origin(self) -> None:
        """Each certificate is for its own names alone."""
        table = self.table()
        old, new = certified("a.example.org", "b.example.org"), certified("a.example.org")
        table.put("x", [new, old])
        self.assertIs(table.find(asking("b.example.org")), old)

    def test_doubles(self) -> None:
        """Two origins with the same name and kind of key are told of, once for both."""
        with capturedLogs() as events:
            table = self.table(
                certified("a.example.org", "b.example.org", "c.example.org"),
                certified("b.example.org", "c.example.org"),
                certified("b.example.org", key=rsa_key()),
            )
            table.put("file 1", [certified("b.example.org", "c.example.org")])
            table.put("file 0", [certified("b.example.org")])
        self.assertEqual(
            lines(events),
            [
                "b.example.org (and 1 more) has a certificate with a key of the kind EC in file 0"
                " and in file 1: the one that expires last is served"
            ],
        )

    def test_of_several_kinds(self) -> None:
        one, two = certified("a.example.org"), certified("a.example.org", key=rsa_key())
        table = self.table(one, two, certified("a.example.org"))
        self.assertEqual(table.of_other_kinds("file 0"), ["file 1"])
        both = table.among(["file 0", "file 1"])
        self.assertIs(both.choose(asking(None, RSA_ONLY), self.now), two)
        self.assertIs(both.choose(asking(None), self.now), one)


class FactsTests(SynchronousTestCase):
    """L{facts_about} and L{key_type}."""

    def test_key_type(self) -> None:
        self.assertEqual(
            [
                key_type(key)
                for key in (ec.generate_private_key(ec.SECP384R1()), rsa_key(), ed25519_key())
            ],
            ["EC secp384r1", "RSA 2048", "Ed25519"],
        )

    def test_facts(self) -> None:
        facts = facts_about(certified("A.example.org"), "a.pem", "broken")
        self.assertEqual(facts.names, ("a.example.org",))
        self.assertEqual((facts.source, facts.last_error), ("a.pem", "broken"))
        self.assertEqual((facts.not_before, facts.not_after), (BEGIN, BEGIN + 90 * DAY))
