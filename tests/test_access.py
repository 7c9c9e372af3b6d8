"""Tests for L{twisted_bioconn.access}: rules, and what they make of a peer."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from tests.tls_material import (
    DAY,
    NOW,
    Party,
    authority,
    certificate,
    ec_key,
    intermediate,
    signed_anew,
)
from twisted_bioconn._verification import CERTIFICATE_REJECTED, Verification
from twisted_bioconn.access import (
    AccessRefused,
    Condition,
    Decision,
    Kind,
    Peer,
    Rule,
    Rules,
    parse_rules,
)
from twisted_bioconn.client_policy import ClientCertificate, ClientPolicy
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.verify import Pin, explain

CN, OU = NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME


def made(
    subject: Sequence[tuple[x509.ObjectIdentifier, str]] = ((CN, "ci"),),
    names: Sequence[x509.GeneralName] | None = None,
    issuer: Party | None = None,
    key: int = 0,
) -> x509.Certificate:
    """
    A certificate with a subject of several parts, of any length: an authority may sign it.
    """
    issuer = issuer or authority()
    attributes = [x509.NameAttribute(oid, value, _validate=False) for oid, value in subject]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(attributes))
        .issuer_name(issuer.certificate.subject)
        .public_key(ec_key(key).public_key())
        .serial_number(0xABC)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer.key, SHA256())


def dns(*names: str) -> x509.Certificate:
    return made(names=[x509.DNSName(name) for name in names])


def uris(*names: str) -> x509.Certificate:
    return made(names=[x509.UniformResourceIdentifier(name) for name in names])


def emails(*names: str) -> x509.Certificate:
    return made(names=[x509.RFC822Name._init_without_validation(name) for name in names])


def showing(leaf: x509.Certificate | None, address: str | None = "192.0.2.7") -> Peer:
    """A peer with a certificate that the authority has signed, or without one."""
    return Peer(() if leaf is None else (leaf, authority().certificate), address)


@cache
def full() -> x509.Certificate:
    """A certificate that has something of everything."""
    return made(
        [(OU, "ops"), (OU, "web"), (CN, "ci")],
        [
            x509.DNSName("ci.example.org"),
            x509.DNSName("www.example.net"),
            x509.RFC822Name("ci@example.org"),
            x509.UniformResourceIdentifier("spiffe://example.org/ns/ci/sa/web"),
            x509.IPAddress(ipaddress.ip_address("192.0.2.99")),
        ],
    )


class MatrixCase(SynchronousTestCase):
    """What asks rules."""

    def decide(self, rules: str, peer: Peer) -> Decision:
        decision = parse_rules(rules).decide(peer)
        self.assertTrue(decision.reason.isprintable(), decision.reason)
        self.assertLess(len(decision.reason), 1500)
        self.assertEqual(decision.allowed, decision.rule is not None)
        return decision

    def lets_in(self, rules: str, leaf: x509.Certificate | None) -> bool:
        """Whether they do; alone, and together with a condition that holds in any case."""
        peer = showing(leaf)
        alone = self.decide(rules, peer).allowed
        self.assertEqual(self.decide(f"{rules}&network=192.0.2.0/24", peer).allowed, alone)
        self.assertFalse(self.decide(f"{rules}&network=10.0.0.0/8", peer).allowed)
        return alone

    def check(self, rule: str, leaf: x509.Certificate | None, expected: bool) -> None:
        self.assertIs(self.lets_in(rule, leaf), expected, f"{rule}: {leaf}")


class KindTests(MatrixCase):
    """Each kind of rule: who comes in by it, and who does not."""

    def test_full(self) -> None:
        """Each of several names counts; what is something like one does not."""
        pin, other = Pin.of(full()), Pin.of(authority().certificate)
        for rule, expected in {
            "cn=ci": True,
            "cn=c": False,
            "cn=CI": False,
            "ou=ops": True,
            "ou=web": True,
            "ou=Ops": False,
            "ou=ci": False,
            "cn=ops": False,
            "dns=ci.example.org": True,
            "dns=www.example.net": True,
            "dns=example.org": False,
            "dns=ci": False,
            "email=ci@example.org": True,
            "email=www@example.org": False,
            "uri=spiffe://example.org/ns/ci/sa/web": True,
            "uri=spiffe://example.org/ns/ci/sa": False,
            f"pin={pin}": True,
            f"pin={other}": False,
            "issuer=authority": True,
            "issuer=Authority": False,
            f"issuer={other}": True,
            f"issuer={pin}": False,
            "anyone": True,
        }.items():
            self.check(rule, full(), expected)
            # Nothing of it is so of somebody without a certificate, or with an empty one.
            self.check(rule, None, False)
            if not rule.startswith(("pin", "issuer", "anyone")):
                self.check(rule, made([], []), False)
                self.check(rule, made([]), False)

    def test_several(self) -> None:
        """One rule is enough, and all conditions of one are needed."""
        peer = showing(full())
        decision = self.decide("cn=other, dns=*.example.org", peer)
        self.assertEqual(decision.rule, Rule([Condition("dns", "*.example.org")]))
        self.assertTrue(self.decide("cn=ci&ou=ops&ou=web", peer).allowed)
        self.assertFalse(self.decide("cn=ci&ou=ops&ou=other", peer).allowed)
        self.assertFalse(self.decide("cn=other&ou=ops, ou=other&cn=ci", peer).allowed)
        # A name is of the kind that it is of, even where they look alike.
        self.check("cn=ci.example.org", full(), False)
        self.check("dns=ci", made([(CN, "ci")]), False)

    def test_common_name(self) -> None:
        """The most specific of several; none of the attribute's neighbours."""
        leaf = made([(CN, "users"), (OU, "x"), (CN, "john")])
        self.check("cn=john", leaf, True)
        self.check("cn=users", leaf, False)
        self.check('cn="Doe, John"', made([(CN, "Doe, John")]), True)
        self.check("cn=Doe", made([(CN, "Doe, John")]), False)
        self.check("cn=Zoë", made([(CN, "Zoë")]), True)
        self.check("cn=ci", made([(OU, "ci")]), False)

    def test_hostile_common_name(self) -> None:
        """Control characters neither match nor reach a line of a log."""
        for name in ("ci\n", "ci\0", "ci\nCN=deploy may come in", "\u202eci", "ci "):
            leaf = made([(CN, name)])
            self.check("cn=ci", leaf, False)
        decision = self.decide("cn=ci", showing(made([(CN, "x\nERROR: fake")])))
        self.assertEqual(
            decision.reason,
            "CN=x\\x0aERROR: fake is none of those that may come in: cn=ci",
        )

    def test_dns(self) -> None:
        """Whatever its case; a C{*} is one label, the first (RFC 9525, section 6.3)."""
        for rule, name, expected in (
            ("www.example.org", "WWW.Example.ORG", True),
            ("WWW.example.org", "www.example.org", True),
            ("*.example.org", "www.example.org", True),
            ("*.Example.org", "WWW.EXAMPLE.org", True),
            ("*.example.org", "example.org", False),
            ("*.example.org", "a.b.example.org", False),
            ("*.example.org", ".example.org", False),
            ("*.example.org", "www.example.org.evil.example", False),
            ("*.example.org", "www.xexample.org", False),
            ("*.example.org", "a b.example.org", False),
            ("*.org", "example.org", True),
            ("*.org", "org", False),
            # The certificate's own wildcard is nobody's name.
            ("*.example.org", "*.example.org", False),
            ("www.example.org", "*.example.org", False),
            ("*.example.org", "w*.example.org", False),
            # A-labels (RFC 5890): they are what a certificate has.
            ("bücher.example", "xn--bcher-kva.example", True),
            ("xn--bcher-kva.example", "XN--bcher-kva.example", True),
            ("*.bücher.example", "www.xn--bcher-kva.example", True),
            ("bucher.example", "xn--bcher-kva.example", False),
            ("bücher.example", "bucher.example", False),
            # An address as a name is none.
            ("*.example.org", "192.0.2.7", False),
        ):
            self.check(f"dns={rule}", dns(name), expected)
            self.check(f"dns={rule}", dns("other.example", name, "third.example"), expected)

    def test_dns_of_an_address(self) -> None:
        """An address that the certificate is for is neither a name nor where somebody is."""
        leaf = made(names=[x509.IPAddress(ipaddress.ip_address("10.0.0.1"))])
        self.assertFalse(self.decide("address=10.0.0.1", showing(leaf)).allowed)

    def test_uri(self) -> None:
        """Scheme and host whatever their case, the path as it is; wildcards for segments."""
        for rule, uri, expected in (
            ("spiffe://example.org/a", "SPIFFE://Example.ORG/a", True),
            ("SPIFFE://EXAMPLE.org/a", "spiffe://example.org/a", True),
            ("spiffe://example.org/a", "spiffe://example.org/A", False),
            ("spiffe://example.org/a", "spiffe://example.org/a/b", False),
            ("spiffe://example.org/a", "spiffe://example.org", False),
            ("spiffe://example.org/a", "https://example.org/a", False),
            ("spiffe://example.org/a", "spiffe://example.org.evil/a", False),
            ("spiffe://example.org/a", "spiffe://example.org:80/a", False),
            ("https://example.org:443/a", "https://EXAMPLE.org:443/a", True),
            ("https://example.org", "https://example.org/", True),
            ("spiffe://example.org/*", "spiffe://example.org/a", True),
            ("spiffe://example.org/*", "spiffe://example.org", False),
            ("spiffe://example.org/*", "spiffe://example.org/a/b", False),
            ("spiffe://example.org/a/*/c", "spiffe://example.org/a/b/c", True),
            ("spiffe://example.org/a/*/c", "spiffe://example.org/a/c", False),
            ("spiffe://example.org/**", "spiffe://example.org", True),
            ("spiffe://example.org/**", "spiffe://example.org/a/b/c", True),
            ("spiffe://example.org/**", "spiffe://example.net/a", False),
            ("spiffe://example.org/a/**", "spiffe://example.org/ab", False),
            ("spiffe://example.org/**/z", "spiffe://example.org/a/z/b/z", True),
            ("spiffe://example.org/**/z", "spiffe://example.org/a/z/b", False),
            ("spiffe://example.org/a/**/b/**/c", "spiffe://example.org/a/x/b/b/y/c", True),
            ("spiffe://example.org/a/**/b/**/c", "spiffe://example.org/a/x/c", False),
        ):
            self.check(f"uri={rule}", uris(uri), expected)
            self.check(f"uri={rule}", uris("x://y/z", uri, "urn:uuid:0"), expected)

    def test_odd_uris(self) -> None:
        """One that programs may read in several ways is nobody's."""
        for uri in (
            "spiffe://example.org/a/../b",
            "spiffe://example.org/./b",
            "spiffe://example.org//b",
            "spiffe://example.org/b/",
            "spiffe://example.org/%62",
            "spiffe://example.org/a%2fb",
            "spiffe://example%2eorg/b",
            "spiffe://user@example.org/b",
            "spiffe://example.org@evil.example/b",
            "spiffe://evil.example\\@example.org/b",
            "spiffe://example.org/b?c",
            "spiffe://example.org/b#c",
            "spiffe://example.org./b",
            "spiffe://example.org:/b",
            "spiffe://example.org:080/b",
            "spiffe://[::1]/b",
            "spiffe:///b",
            "spiffe:/example.org/b",
            "spiffe://",
            "://example.org/b",
            " spiffe://example.org/b",
            "spiffe://example.org/b ",
            "spiffe://example.org/b\n",
            "spiffe://example.org/b\0",
            "example.org/b",
            "",
            "spiffe://example.org/" + "b" * 2048,
        ):
            for rule in ("spiffe://example.org/b", "spiffe://example.org/**"):
                self.check(f"uri={rule}", uris(uri), False)
            # It does not get in the way of a good one.
            self.check("uri=spiffe://example.org/b", uris(uri, "spiffe://example.org/b"), True)

    def test_email(self) -> None:
        """The domain whatever its case, and what is before it as it is."""
        for rule, mailbox, expected in (
            ("ci@example.org", "ci@EXAMPLE.org", True),
            ("ci@Example.org", "ci@example.org", True),
            ("ci@example.org", "CI@example.org", False),
            ("*@example.org", "CI@Example.org", True),
            ("*@example.org", "a.b+c@example.org", True),
            ("*@example.org", "ci@sub.example.org", False),
            ("*@example.org", "ci@example.org.evil.example", False),
            ("*@example.org", "ci@evil.example@example.org", False),
            ("*@example.org", '"ci@evil.example"@example.org', False),
            ("*@example.org", "@example.org", False),
            ("*@example.org", "example.org", False),
            ("*@example.org", "ci @example.org", False),
            ("*@example.org", "ci@example.org\n", False),
            ("*@example.org", "ci@*.example.org", False),
            ("*@bücher.example", "ci@xn--bcher-kva.example", True),
        ):
            self.check(f"email={rule}", emails(mailbox), expected)
            self.check(f"email={rule}", emails("x@y.example", mailbox), expected)

    def test_issuer(self) -> None:
        """It is who has signed: neither a name that is said to be an issuer's, nor a neighbour."""
        leaf = made(issuer=intermediate())
        chain = (leaf, intermediate().certificate, authority().certificate)
        pin = Pin.of(intermediate().certificate)
        rules = [parse_rules(f"issuer={each}") for each in ("intermediate", pin)]
        for rule in rules:
            self.assertTrue(rule.decide(Peer(chain)).allowed)
            self.assertFalse(rule.decide(Peer((leaf,))).allowed)
            # The leaf says so: its issuer's certificate is what counts.
            same_name = certificate("intermediate", authority(), ca=True)
            self.assertFalse(rule.decide(Peer((leaf, same_name))).allowed)
            self.assertFalse(rule.decide(Peer((leaf, chain[2], chain[1]))).allowed)
            self.assertFalse(rule.decide(Peer((full(), chain[1]))).allowed)
        self.assertFalse(parse_rules("issuer=authority").decide(Peer(chain)).allowed)

    def test_issuer_called_like_a_pin(self) -> None:
        """An authority cannot take the place of another one by the name that it has."""
        pin = Pin.of(authority().certificate)
        liar = Party(made([(CN, str(pin))], key=5), ec_key(5))
        chain = (made(issuer=liar), liar.certificate)
        self.assertFalse(parse_rules(f"issuer={pin}").decide(Peer(chain)).allowed)
        own = Pin.of(liar.certificate)
        self.assertTrue(parse_rules(f"issuer={own}").decide(Peer(chain)).allowed)
        # cryptography's, for the name is longer than X.520 has it.
        self.flushWarnings()

    def test_address(self) -> None:
        """Where somebody is, with a certificate or without; IPv4 within IPv6 is IPv4."""
        for rule, address, expected in (
            ("address=192.0.2.7", "192.0.2.7", True),
            ("address=192.0.2.7", "192.0.2.8", False),
            ("address=192.0.2.7", "::ffff:192.0.2.7", True),
            ("address=::ffff:c000:207", "192.0.2.7", True),
            ("address=2001:DB8:0::7", "2001:db8::7", True),
            ("address=2001:db8::7", "2001:db8::7%eth0", True),
            ("address=fe80::1", "fe80::1%eth0", True),
            ("network=192.0.2.0/24", "192.0.2.255", True),
            ("network=192.0.2.0/24", "192.0.3.0", False),
            ("network=192.0.2.0/24", "::ffff:192.0.2.9", True),
            ("network=::ffff:192.0.2.0/120", "192.0.2.9", True),
            ("network=192.0.2.7/32", "192.0.2.7", True),
            ("network=0.0.0.0/0", "192.0.2.7", True),
            ("network=0.0.0.0/0", "2001:db8::1", False),
            ("network=::/0", "2001:db8::1", True),
            ("network=::/0", "::ffff:192.0.2.7", False),
            ("network=2001:db8::/32", "2001:db8:ffff::1", True),
            ("network=2001:db8::/32", "2001:db9::", False),
        ):
            for leaf in (None, full()):
                found = self.decide(rule, showing(leaf, address))
                self.assertIs(found.allowed, expected, f"{rule}: {address}")
        for nowhere in (None, "", "/run/socket", "192.0.2.07", "192.0.2.7\n", "localhost"):
            rules = "address=192.0.2.7, network=0.0.0.0/0, network=::/0"
            self.assertFalse(self.decide(rules, showing(None, nowhere)).allowed)


class HostileTests(MatrixCase):
    """Certificates that a parser cannot take: no match, and no exception."""

    RULES = (
        "cn=www, ou=x, dns=www.example.org, dns=*.example.org, email=*@example.org,"
        "uri=spiffe://example.org/**, issuer=nobody, ou=x&dns=www.example.org"
    )

    def test_malformed_names(self) -> None:
        """What cannot be read is not there; what can be read is."""
        whole = made([(CN, "ci")], [x509.DNSName("www.example.org")])
        for old, new in (
            # The length of the name goes past the end.
            (b"\x82\x0fwww", b"\x82\x7fwww"),
            # A name that is no IA5String.
            (b"www.example", b"w\xffw.example"),
            # No SEQUENCE of names.
            (b"\x30\x11\x82\x0f", b"\x31\x11\x82\x0f"),
            (b"\x82\x0fwww.example.org", b"\x9f\x0fwww.example.org"),
        ):
            der = signed_anew(whole, old, new, authority())
            leaf = x509.load_der_x509_certificate(der)
            self.assertFalse(self.decide(self.RULES, showing(leaf)).allowed)
            self.assertTrue(self.decide("cn=ci", showing(leaf)).allowed)
            self.assertTrue(self.decide("anyone", showing(leaf)).allowed)

    def test_malformed_subject(self) -> None:
        """A UTF8String that is none."""
        whole = made([(CN, "title")], [x509.DNSName("www.example.org")])
        der = signed_anew(whole, b"\x0c\x05title", b"\x0c\x05t\xfftle", authority())
        leaf = x509.load_der_x509_certificate(der)
        decision = self.decide("cn=title, ou=title", showing(leaf))
        self.assertFalse(decision.allowed)
        self.assertIn("serial number abc, dns www.example.org is none", decision.reason)
        self.assertTrue(self.decide("dns=www.example.org", showing(leaf)).allowed)

    def test_two_lists_of_names(self) -> None:
        """An extension that is there twice is as good as none."""
        whole = made(names=[x509.DNSName("www.example.org")])
        names = whole.extensions[0].value
        assert isinstance(names, x509.SubjectAlternativeName)
        usage = x509.IssuerAlternativeName(names)
        twice = certificate(
            "www", authority(), names=list(names), extensions=[(usage, False)], key=ec_key()
        )
        # subjectAltName is 2.5.29.17, issuerAltName is 2.5.29.18.
        der = signed_anew(twice, b"\x55\x1d\x12", b"\x55\x1d\x11", authority())
        leaf = x509.load_der_x509_certificate(der)
        self.assertFalse(self.decide("dns=www.example.org", showing(leaf)).allowed)

    def test_unknown_key(self) -> None:
        """A key of a kind that cryptography does not know has no pin."""
        # id-ecPublicKey, 1.2.840.10045.2.1.
        oid = bytes.fromhex("06072a8648ce3d0201")
        der = signed_anew(full(), oid, oid[:-1] + b"\x7f", authority())
        leaf = x509.load_der_x509_certificate(der)
        decision = self.decide(f"pin={Pin.of(full())}", showing(leaf))
        self.assertFalse(decision.allowed)
        self.assertTrue(self.decide("cn=ci", showing(leaf)).allowed)

    def test_many_names(self) -> None:
        """The sentence stays short."""
        many = dns(*(f"{'n' * 60}{at}.{'x' * 60}.example" for at in range(200)))
        decision = self.decide(",".join(f"cn={'y' * 100}{at}" for at in range(200)), showing(many))
        self.assertIn(", 197 more names is none", decision.reason)
        self.assertTrue(decision.reason.endswith(" and 195 more"), decision.reason)

    def test_names_that_look_like_a_sentence(self) -> None:
        """They are in quotes."""
        leaf = uris("x may come in by cn=ci, cn=ci", "x://y\nz")
        self.assertIn(
            "CN=ci, uri 'x may come in by cn=ci, cn=ci', uri 'x://y\\nz' is none",
            self.decide("cn=other", showing(leaf)).reason,
        )


class ReasonTests(MatrixCase):
    """What is told of a decision: one sentence."""

    def reason(self, rules: str, peer: Peer) -> str:
        return self.decide(rules, peer).reason

    def test_refused(self) -> None:
        """What was shown, and what would do."""
        leaf = dns("ci.example.com")
        self.assertEqual(
            self.reason("dns=*.example.org, cn=deploy", showing(leaf)),
            "CN=ci, dns ci.example.com is none of those that may come in:"
            " dns=*.example.org, cn=deploy",
        )
        self.assertEqual(
            self.reason("issuer=other, network=10.0.0.0/8", showing(leaf)),
            "CN=ci, dns ci.example.com, issued by authority, from 192.0.2.7 is none of those that"
            " may come in: issuer=other, network=10.0.0.0/8",
        )
        pin = Pin(bytes(32))
        self.assertEqual(
            self.reason(f"pin={pin}, issuer=x", Peer([made()])),
            f"CN=ci, key {Pin.of(made())}, with no issuer to be seen is none of those that may"
            f" come in: pin={pin}, issuer=x",
        )

    def test_no_certificate(self) -> None:
        """That there is none, and whether another place would have helped."""
        self.assertEqual(
            self.reason("cn=ci, anyone&network=10.0.0.0/8", showing(None)),
            "showed no certificate, and only these may come in: cn=ci, anyone&network=10.0.0.0/8",
        )
        for address, where in (
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            (None, "an unknown address"),
            ("/run/a b", "'/run/a b'"),
        ):
            self.assertEqual(
                self.reason("cn=ci, network=10.0.0.0/8", showing(None, address)),
                f"showed no certificate, and {where} is in no network that may come in:"
                " cn=ci, network=10.0.0.0/8",
            )

    def test_allowed(self) -> None:
        """By which rule."""
        self.assertEqual(
            self.reason("cn=x, dns=*.example.org", showing(dns("ci.example.org"))),
            "CN=ci, dns ci.example.org may come in by dns=*.example.org",
        )
        self.assertEqual(
            self.reason("cn=x, network=192.0.2.0/24", showing(None)),
            "192.0.2.7 may come in by network=192.0.2.0/24",
        )


class RulesTests(SynchronousTestCase):
    """Rules as a whole."""

    def test_needs_certificate(self) -> None:
        """Unless a rule asks for the address only."""
        for text, expected in {
            "cn=x": True,
            "anyone": True,
            "cn=x, network=10.0.0.0/8": False,
            "address=10.0.0.1": False,
            "cn=x&network=10.0.0.0/8": True,
            "address=10.0.0.1&network=10.0.0.0/8": False,
        }.items():
            self.assertIs(parse_rules(text).needs_certificate, expected, text)
        self.assertFalse(Rules(check=bool).needs_certificate)

    def test_in_code(self) -> None:
        """They are values, made of values, and each is checked."""
        rules = Rules([Rule([Condition(Kind.DNS, "WWW.example.org")])])
        self.assertEqual(rules, parse_rules("dns=www.example.org"))
        self.assertEqual(len({rules, parse_rules("dns=www.example.org")}), 1)
        for mistake in (
            lambda: Rules([]),
            lambda: Rule([]),
            lambda: Condition("dns", "*"),
            lambda: Condition("anyone", "x"),
            lambda: Rules(rules.rules, check=bool),
        ):
            self.assertRaises(ConfigurationError, mistake)

    def test_as_check(self) -> None:
        """For a L{ClientPolicy}: it raises the reason, which is what is told of the handshake."""
        rules = parse_rules("cn=deploy, ou=ops&network=10.0.0.0/8")
        check = rules.as_check("192.0.2.7")
        policy = ClientPolicy(ClientCertificate.REQUIRE, [authority().certificate], check=check)
        self.assertIs(policy.check, check)
        chain = [full(), authority().certificate]
        rules.as_check("10.1.2.3")(chain)
        error = self.assertRaises(AccessRefused, check, chain)
        self.assertEqual(str(error), rules.decide(Peer(chain, "192.0.2.7")).reason)
        self.assertRaises(AccessRefused, check, [])
        verification = Verification(check)
        self.assertTrue(verification.ask_again(chain))
        self.assertEqual(verification.code, CERTIFICATE_REJECTED)
        self.assertEqual(explain(verification), str(error))

    def test_many(self) -> None:
        """Of many rules the fitting one is looked up: certificates that are asked for are few."""
        pins = [Pin(at.to_bytes(32, "big")) for at in range(1000)]
        rules = parse_rules(",".join([*(f"pin={pin}" for pin in pins), f"pin={Pin.of(full())}"]))
        compared = 0

        def counted(self: Condition, other: object) -> Any:
            nonlocal compared
            compared += 1
            return NotImplemented

        self.patch(Condition, "holds", counted)
        decision = rules.decide(showing(full()))
        self.assertEqual(str(decision.rule), f"pin={Pin.of(full())}")
        self.assertFalse(rules.decide(showing(made(key=3))).allowed)
        self.assertEqual(compared, 0)


class CheckTests(SynchronousTestCase):
    """A callable in place of rules."""

    def decide(self, answer: object) -> Decision:
        def check(peer: Peer) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        rules = Rules(check=check)
        self.assertIn("check", str(rules))
        return rules.decide(Peer([dns("www.example.org")], "192.0.2.7"))

    def test_answers(self) -> None:
        """Only L{True} lets somebody in: a Deferred, which is true, does not."""
        self.assertTrue(self.decide(True).allowed)
        self.assertIn(" may come in by the check ", self.decide(True).reason)
        self.assertIn(" was refused by the check ", self.decide(False).reason)
        for answer in (False, None, 1, "yes", succeed(True), [True], 0):
            self.assertFalse(self.decide(answer).allowed, answer)
        self.assertTrue(
            self.decide(succeed(True)).reason.endswith(
                "has answered with Deferred, and neither with True nor with False"
            )
        )

    def test_exceptions(self) -> None:
        """What is raised is the reason."""
        for error, words in (
            (ValueError("not on\na Sunday"), "not on\\na Sunday"),
            (KeyError(), "KeyError"),
            (ValueError("x" * 1000), "x" * 80 + "..."),
        ):
            decision = self.decide(error)
            self.assertFalse(decision.allowed)
            self.assertTrue(decision.reason.endswith(f" was refused: {words}"), decision.reason)

    def test_peer(self) -> None:
        """It sees the peer, and those too who have no certificate."""
        seen: list[Peer] = []

        def check(peer: Peer) -> bool:
            seen.append(peer)
            return False

        peer = Peer((), "192.0.2.7", "www.example.org", b"h2")
        decision = Rules(check=check).decide(peer)
        self.assertEqual(seen, [peer])
        self.assertIn("192.0.2.7 was refused by the check", decision.reason)
        refuse = Rules(check=check).as_check("192.0.2.7", "www.example.org", b"h2")
        self.assertRaises(AccessRefused, refuse, [full()])
        self.assertEqual(seen[1], Peer([full()], "192.0.2.7", "www.example.org", b"h2"))

    def test_coroutine(self) -> None:
        """It has to answer at once."""

        async def check(peer: Peer) -> bool:
            return True

        error = self.assertRaises(ConfigurationError, Rules, check=check)
        self.assertEqual(str(error), "the check must answer at once: it is a coroutine")
