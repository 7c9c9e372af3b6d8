"""Tests for L{twisted_bioconn.access}: rules as text and as tables, and the mistakes in them."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.access import Condition, Kind, Rule, Rules, parse_rules, rules_from
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.verify import Pin

NAMES = st.text(st.sampled_from("aZ ,&\"=:/ü\\'"), min_size=1).filter(str.strip)
LABELS = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
HOSTS = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
PINS = st.binary(min_size=32, max_size=32).map(Pin)
PIN_TEXTS = PINS.map(str) | PINS.map(
    lambda pin: f"sha256:{base64.b64encode(pin.digest).decode('ascii')}"
)
SEGMENTS = st.sampled_from(["*", "**"]) | st.from_regex(r"[a-zA-Z0-9,&=;-]{1,5}", fullmatch=True)
VALUES = {
    Kind.CN: NAMES,
    Kind.OU: NAMES,
    Kind.DNS: HOSTS | HOSTS.map("*.{}".format),
    Kind.URI: st.builds(
        lambda host, path: "/".join((f"spiffe://{host}", *path)),
        HOSTS,
        st.lists(SEGMENTS, max_size=4),
    ),
    Kind.EMAIL: st.builds("{}@{}".format, st.sampled_from(["*", "a.b", "a&b", "R+D"]), HOSTS),
    Kind.PIN: PIN_TEXTS,
    Kind.ISSUER: PIN_TEXTS | NAMES,
    Kind.ADDRESS: st.ip_addresses().map(str),
    Kind.NETWORK: st.ip_addresses(v=4).map("{}/32".format)
    | st.ip_addresses(v=6).map("{}/128".format),
    Kind.NAME: HOSTS.map("*.{}".format) | HOSTS,
    Kind.ANYONE: st.just(""),
}


def fitting(make: Any, parts: list[Any]) -> Any:
    """What is made of as many of these as fit together."""
    made = make(parts[:1])
    for part in parts[1:]:
        try:
            made = make([*(made.conditions if isinstance(made, Rule) else made.rules), part])
        except ConfigurationError:
            continue
    return made


CONDITIONS = st.sampled_from(Kind).flatmap(
    lambda kind: VALUES[kind].map(lambda value: Condition(kind, value))
)
RULE = st.lists(CONDITIONS, min_size=1, max_size=3).map(lambda parts: fitting(Rule, parts))
RULES = st.lists(RULE, min_size=1, max_size=5).map(lambda parts: fitting(Rules, parts))


class TextTests(SynchronousTestCase):
    """L{parse_rules}."""

    def test_spellings(self) -> None:
        """What is written in several ways is one rule, and is told in one."""
        digest = bytes(range(32))
        encoded = base64.b64encode(digest).decode("ascii")
        for text, spelled in {
            "cn=deploy": "cn=deploy",
            " cn = deploy ": "cn=deploy",
            'cn="deploy"': "cn=deploy",
            'cn=" deploy"': 'cn=" deploy"',
            'cn="Doe, John",ou=x': 'cn="Doe, John",ou=x',
            'cn="a ""b"" c"': 'cn="a ""b"" c"',
            'cn=""""': 'cn=""""',
            "cn=a=b": "cn=a=b",
            "cn=Zoë Ltd. ,ou=b": "cn=Zoë Ltd.,ou=b",
            'ou="R&D"': 'ou="R&D"',
            "dns=*.Example.ORG.": "dns=*.example.org",
            "dns=Bücher.example": "dns=xn--bcher-kva.example",
            "uri=SPIFFE://Example.org/A/**": "uri=spiffe://example.org/A/**",
            "uri=https://example.org/": "uri=https://example.org",
            "email=CI@Example.org": "email=CI@example.org",
            f"pin=sha256:{encoded}": f"pin=sha256:{digest.hex()}",
            f"pin=sha256//{encoded}": f"pin=sha256:{digest.hex()}",
            f"issuer=SHA256:{digest.hex().upper()}": f"issuer=sha256:{digest.hex()}",
            "issuer=Our CA": "issuer=Our CA",
            "address=::FFFF:192.0.2.1": "address=192.0.2.1",
            "address=2001:DB8:0::1": "address=2001:db8::1",
            "network=::ffff:10.0.0.0/104": "network=10.0.0.0/8",
            "network=2001:DB8::/32": "network=2001:db8::/32",
            " anyone ": "anyone",
            "anyone, network=10.0.0.0/8": "anyone,network=10.0.0.0/8",
            "anyone & network=10.0.0.0/8": "anyone&network=10.0.0.0/8",
            "ou=a & ou=b , cn=c": "ou=a&ou=b,cn=c",
        }.items():
            rules = parse_rules(text)
            self.assertEqual(str(rules), spelled)
            self.assertEqual(parse_rules(spelled), rules)

    @given(RULES)
    def test_round_trip(self, rules: Rules) -> None:
        """What rules say of themselves is read as these rules."""
        text = str(rules)
        self.assertTrue(text.isprintable())
        self.assertEqual(parse_rules(text), rules)
        self.assertEqual(rules_from([str(rule) for rule in rules.rules], "x"), rules)

    @given(st.text() | st.text(st.sampled_from('cn=dsanyoe,&" *@/:.1')) | RULES.map(str))
    def test_any_text(self, text: str) -> None:
        """It is either rules or one mistake, told in one line."""
        try:
            rules = parse_rules(text)
        except ConfigurationError as error:
            self.assertTrue(str(error).isprintable(), str(error))
            self.assertLess(len(str(error)), 1000)
        else:
            self.assertEqual(parse_rules(str(rules)), rules)

    def test_mistakes(self) -> None:
        """Which rule, what is wrong with it, and what is meant most likely."""
        stars = "are allowed in place of whole segments of the path only"
        for text, words in {
            "": "there is an empty rule: nothing before or after a comma, or nothing at all",
            "cn=a,": "there is an empty rule: nothing before or after a comma, or nothing at all",
            ", cn=a": "there is an empty rule: nothing before or after a comma, or nothing at all",
            "cn=a&": "cn=a&: '' is not written KIND=VALUE; a value with a comma, & or double quote",
            "ou=R&D": "ou=R&D: 'D' is not written KIND=VALUE; a value with a comma, & or double",
            "anyon": "anyon: it is not written KIND=VALUE;",
            "anyone=": "anyone=: anyone takes no value",
            "anyone=yes": "anyone=yes: anyone takes no value",
            "cn=": "cn= has no value",
            'cn=" "': "cn= has no value",
            "=x": "=x: there is no kind of rule called ; there are cn, ou, dns, uri, email,",
            "CN=x": "CN=x: there is no kind of rule called CN; did you mean cn?",
            "cm=x": "cm=x: there is no kind of rule called cm; did you mean cn?",
            "adress=x": "adress=x: there is no kind of rule called adress; did you mean address?",
            "commonName=x": "there is no kind of rule called commonName; did you mean cn?",
            "spiffe=x": "there is no kind of rule called spiffe; did you mean uri?",
            "ip=x": "there is no kind of rule called ip; did you mean address?",
            'cn="a': 'cn="a: a double quote has no end',
            'cn=a"b"': 'cn=a"b": double quotes stand around the whole value',
            'cn="a"b': 'cn="a"b: double quotes stand around the whole value',
            'cn="a""b': 'cn="a""b: a double quote has no end',
            "cn=a\nb": "cn=a\\nb: it has a character in it that cannot be printed",
            "cn=*.example.org": "a * is not allowed here: the name is compared as it stands",
            "ou=*": "ou=*: a * is not allowed here",
            "issuer=*": "issuer=*: a * is not allowed here",
            "dns=*": "dns=*: a * is allowed in place of the whole first label, and nowhere else",
            "dns=w*.example.org": "a * is allowed in place of the whole first label",
            "dns=a.*.org": "a * is allowed in place of the whole first label",
            "dns=*.*.org": "a * is allowed in place of the whole first label",
            "dns=a b": "dns=a b: it is no DNS name",
            "dns=192.0.2.1": "dns=192.0.2.1: it is no DNS name",
            "dns=::1": "dns=::1: it is no DNS name",
            "uri=example.org/a": "uri=example.org/a: it has no scheme and host, as in spiffe://",
            "uri=urn:uuid:1": "uri=urn:uuid:1: it has no scheme and host",
            "uri=spiffe:///a": "uri=spiffe:///a: it has no host",
            "uri=spiffe://a/b*": f"uri=spiffe://a/b*: * and ** {stars}",
            "uri=spiffe://a/***": f"uri=spiffe://a/***: * and ** {stars}",
            "uri=spiffe://*/b": "uri=spiffe://*/b: a * is allowed in the path only",
            "uri=spiffe://*.a/b": "uri=spiffe://*.a/b: a * is allowed in the path only",
            "uri=spiffe://a/../b": "its path has a segment that is empty, '.' or '..'",
            "uri=spiffe://a/b/": "its path has a segment that is empty, '.' or '..'",
            "uri=spiffe://a/%62": "it has a percent sign, which is not allowed here",
            "uri=spiffe://a@b/c": "it has a user, which is not allowed here",
            "uri=spiffe://a/b?c": "it has a query, which is not allowed here",
            "uri=spiffe://a/b#c": "it has a fragment, which is not allowed here",
            "uri=spiffe://a/b c": "its path has a character that a URI cannot have",
            "uri=spiffe://bü/a": "it has a character that is not in ASCII",
            "uri=spiffe://a:99999999/b": "its host is no host name",
            "email=example.org": "email=example.org: it is no e-mail address",
            "email=a@b@example.org": "email=a@b@example.org: it is no DNS name",
            "email=a*@example.org": "a * is allowed in place of all that is before the @",
            "email=a@*.example.org": "a * is allowed in place of all that is before the @",
            "pin=abc": "pin=abc: it is not 'sha256:' and 64 hex digits or base64 of 32 bytes",
            "issuer=sha256:abc": "issuer=sha256:abc: it is not 'sha256:' and 64 hex digits",
            "address=10.0.0.0/8": "it is no IP address; did you mean network?",
            "address=localhost": "address=localhost: it is no IP address",
            "address=fe80::1%eth0": "an address with a zone is known on one machine only",
            "network=10.0.0.1": "it has no length of a prefix, as in 10.0.0.0/8; did you mean add",
            "network=10.0.0.1/8": "it is an address within a network; the network is 10.0.0.0/8,"
            " and the one address is address=10.0.0.1",
            "network=2001:db8::1/32": "the network is 2001:db8::/32,",
            "network=::ffff:10.0.0.1/104": "the network is 10.0.0.0/8,",
            "network=10.0.0.0/255.0.0.0": "it is no network, as in 10.0.0.0/8 or 2001:db8::/32",
            "network=10.0.0.0/33": "it is no network, as in",
            "network=10/8": "it is no network, as in",
            "cn=a, cn = a": "cn=a: the same rule is given twice",
            "dns=A.example, dns=a.example": "dns=a.example: the same rule is given twice",
            "ou=a&cn=b, cn=b&ou=a": "cn=b&ou=a: the same rule is given twice",
            "ou=a&ou=a": "ou=a&ou=a: the same condition is given twice",
            "cn=a&cn=b": "no peer has more than one cn, so that this would never match",
            "anyone&cn=a": "anyone&cn=a: anyone stands alone, or with an address, a network or a",
            "anyone, cn=a": "cn=a: anyone, which is given too, makes it mean nothing",
            "network=10.0.0.0/8&anyone,anyone": "anyone, which is given too, makes it mean nothing",
            "anyone&network=10.0.0.0/8,anyone": "anyone, which is given too, makes it mean nothing",
            f"cn={'a' * 200}*": f"cn={'a' * 80}...: a * is not allowed here",
        }.items():
            error = self.assertRaises(ConfigurationError, parse_rules, text)
            self.assertIn(words, str(error))
            self.assertTrue(str(error).isprintable(), str(error))


class TableTests(SynchronousTestCase):
    """L{rules_from}."""

    def test_lists(self) -> None:
        """Texts, tables, both, or one of them."""
        for data, text in (
            (["dns=*.example.org", "cn=deploy"], "dns=*.example.org,cn=deploy"),
            (["cn=a, cn=b", "cn=c"], "cn=a,cn=b,cn=c"),
            ("anyone", "anyone"),
            ([{"cn": "a"}, {"cn": "b"}], "cn=a,cn=b"),
            ([{"ou": "ops", "network": "10.0.0.0/8"}, "cn=a"], "ou=ops&network=10.0.0.0/8,cn=a"),
            ({"anyone": True, "network": "10.0.0.0/8"}, "anyone&network=10.0.0.0/8"),
        ):
            self.assertEqual(rules_from(data, "x"), parse_rules(text))

    def test_values_stand_for_themselves(self) -> None:
        """In a table there is nothing to be put in quotes."""
        for name in ("Doe, John", 'a "b"', "R&D", '"', " a"):
            rules = rules_from([{"cn": name}], "x")
            self.assertEqual(rules, Rules([Rule([Condition("cn", name)])]))
            self.assertEqual(rules.rules[0].conditions[0].value, name)

    def test_mistakes(self) -> None:
        """Where, which one, and what is wrong."""
        data: Any
        for data, words in (
            ([], "f.toml: there are no rules: nobody would be let in"),
            ("", "f.toml: there is an empty rule: nothing before or after a comma, or nothing"),
            ([{}], "f.toml: a rule has no conditions: it would let everybody in"),
            ([3], "f.toml: it must be text or a table, and not int"),
            (None, "f.toml: it must be text or a table, and not NoneType"),
            (["cn=a", ["cn=b"]], "f.toml, rule 2: it must be text or a table, and not list"),
            ([{"cn": 3}], "f.toml: cn takes text, and not int"),
            ([{"ou": ["a", "b"]}], "f.toml: ou takes text, and not list"),
            ([{"anyone": False}], "f.toml: anyone can only be true"),
            ([{"anyone": "yes"}], "f.toml: anyone can only be true"),
            (["cn=a", {"cm": "b"}], "f.toml, rule 2: there is no kind of rule called cm; did you"),
            ([{"cn": "*"}, "cn=a"], "f.toml, rule 1: cn=*: a * is not allowed here"),
            (["cn=a", {"cn": "a"}], "f.toml: cn=a: the same rule is given twice"),
        ):
            error = self.assertRaises(ConfigurationError, rules_from, data, "f.toml")
            self.assertTrue(str(error).startswith(words), str(error))
