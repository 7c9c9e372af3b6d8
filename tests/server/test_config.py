"""The configuration file."""

from __future__ import annotations

import os
from textwrap import dedent
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.access import parse_rules
from twisted_bioconn.endpoint_strings import SERVER_OPTIONS
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server._config_values import FORWARD_OPTIONS, OptionKind, kind_of
from twisted_bioconn.server._mistakes import masked
from twisted_bioconn.server.config import Configuration, Listening, Mistakes, load_config


class ConfigCase(SynchronousTestCase):
    """Writes files."""

    def write(self, text: str | bytes) -> str:
        path: str = self.mktemp()
        with open(path, "wb") as file:
            file.write(dedent(text).encode("utf-8") if isinstance(text, str) else text)
        return path

    def load(self, text: str) -> Configuration:
        return load_config(self.write(text))

    def mistakes(self, text: str | bytes) -> list[str]:
        """What is said of a file, without its name."""
        path = self.write(text)
        error = self.assertRaises(Mistakes, load_config, path)
        found = [str(each) for each in error.mistakes]
        for each in found:
            self.assertTrue(each.startswith(f"{path}:"), each)
        return [each[len(path) + 1 :].strip() for each in found]


class ReadingTests(ConfigCase):
    """What can be said."""

    def test_everything(self) -> None:
        configuration = self.load(
            """
            state = "kept"
            workers = "auto"
            drain = 2.5
            status = "unix:/run/status.sock"

            [[listen]]
            port = 8443
            interface = ""
            handshakeTimeout = 5
            idleTimeout = "off"
            maxConnections = 1000
            alpn = ["h2", "http/1.1"]
            names = "a.example, b.example"
            policy = "modern"
            forward = ["localhost:1", "unix:/run/app.sock"]
            unsafe-plain-target = true

            [[listen]]
            endpoint = "tcp:80"
            echo = true
            """
        )
        self.assertEqual(
            configuration,
            Configuration(
                "kept",
                "auto",
                2.5,
                "unix:/run/status.sock",
                (
                    Listening(
                        options={
                            "port": 8443,
                            "interface": "",
                            "handshakeTimeout": 5,
                            "idleTimeout": "off",
                            "maxConnections": 1000,
                            "alpn": ("h2", "http/1.1"),
                            "names": ("a.example", "b.example"),
                            "policy": "modern",
                        },
                        forward=("localhost:1", "unix:/run/app.sock"),
                        unsafe_plain_target=True,
                    ),
                    Listening("tcp:80", echo=True),
                ),
            ),
        )

    def test_nothing(self) -> None:
        self.assertEqual(self.load(""), Configuration())

    def test_rules(self) -> None:
        """As texts, as tables, and as tables of their own."""
        for text in (
            'allow = ["ou=ops & network=10.0.0.0/8", "dns=*.example.org"]',
            'allow = "ou=ops & network=10.0.0.0/8, dns=*.example.org"',
            'allow = [{ ou = "ops", network = "10.0.0.0/8" }, "dns=*.example.org"]',
            '[[listen.allow]]\nou = "ops"\nnetwork = "10.0.0.0/8"\n'
            '[[listen.allow]]\ndns = "*.example.org"\n',
        ):
            [listening] = self.load(f"[[listen]]\nport = 1\necho = true\n{text}").listen
            self.assertEqual(
                listening.options["allow"], ("ou=ops&network=10.0.0.0/8", "dns=*.example.org")
            )

    def test_new_option_of_the_endpoint_string(self) -> None:
        """It is a key at once, of the type that its description tells."""
        for takes, text, value in (
            ("a number of whatever", "7", 7),
            ("a number of seconds", "0.5", 0.5),
            ("a number of seconds, or 'off'", '"off"', "off"),
            ("things with commas between them", '["a", "b"]', ("a", "b")),
            ("yes or no", "false", False),
            ("a word", '"word"', "word"),
        ):
            self.addCleanup(SERVER_OPTIONS.pop, "brandNew", None)
            SERVER_OPTIONS["brandNew"] = takes
            [listening] = self.load(f"[[listen]]\nport = 1\necho = true\nbrandNew = {text}").listen
            self.assertEqual(listening.options["brandNew"], value)

    def test_kinds(self) -> None:
        """What an option takes is understood of those that there are."""
        by_kind: dict[OptionKind, set[str]] = {}
        for option in SERVER_OPTIONS:
            by_kind.setdefault(kind_of(option), set()).add(option)
        self.assertEqual(by_kind[OptionKind.PORT], {"port"})
        self.assertEqual(by_kind[OptionKind.RULES], {"allow"})
        self.assertLessEqual(
            {"backlog", "maxConnections", "maxHandshakes", "handshakeRate"},
            by_kind[OptionKind.WHOLE],
        )
        self.assertLessEqual({"plainAfter", "maxLifetime"}, by_kind[OptionKind.SECONDS])
        self.assertLessEqual(
            {"handshakeTimeout", "closeTimeout", "idleTimeout"}, by_kind[OptionKind.SECONDS_OR_OFF]
        )
        self.assertLessEqual(
            {"alpn", "names", "acme", "proxyProtocol", "acmeChallenge"}, by_kind[OptionKind.LIST]
        )
        self.assertLessEqual({"privateKey", "policy", "starttls"}, by_kind[OptionKind.TEXT])


class MistakeTests(ConfigCase):
    """What is wrong, in which line."""

    def test_all_in_one_go(self) -> None:
        self.assertEqual(
            self.mistakes(
                """\
                workers = 0
                drian = 5
                state = 7
                privateKey = "x"

                [[listen]]
                port = "8443"
                private_key = "a"
                allow = [
                  "dns=*.example.org",
                  "dnss=x",
                ]
                handshakeTimeout = inf
                forwrd = "localhost:80"

                [[listen]]
                endpoint = "tcp:80"
                port = 8
                echo = true
                web = "."
                workers = 3

                [[listen]]
                """
            ),
            [
                '1: workers: this must be a number from 1 to 1024, or "auto"',
                "2: drian: there is no such key at the top, did you mean drain?",
                "3: state: this must be a text, and is a number",
                "4: privateKey: this belongs in [[listen]]",
                "7: port: this must be a whole number, and is a text: leave the quotes out",
                "8: private_key: there is no such key in [[listen]], did you mean privateKey?",
                "11: allow: dnss=x: there is no kind of rule called dnss; did you mean dns?",
                "13: handshakeTimeout: this must be a number of seconds from 0 to 999999999",
                "14: forwrd: there is no such key in [[listen]], did you mean forward?",
                "18: port: endpoint says where to listen: it has the port",
                "20: web: it has its target already: echo",
                "21: workers: this belongs in the top, above the first [[listen]]",
                "23: listen: neither port nor endpoint says where to listen",
                "23: listen: it has no target: forward, web, wsgi, factory or echo",
            ],
        )

    def test_values(self) -> None:
        for text, sentence in (
            ("port = 65536", "this must be a number from 0 to 65535"),
            ("port = -1", "this must be a number from 0 to 999999999"),
            ("port = true", "this must be a whole number, and is true or false"),
            ("port = 1.0", "this must be a whole number, and is a number"),
            ("policy = 1979-05-27", "this must be a text, and is a date or time"),
            ("policy = ''", "this is empty"),
            (r'policy = "a\u0000"', "there is a NUL in it"),
            ("alpn = []", "this list is empty"),
            ("alpn = 5", "this must be a list of texts, and is a number"),
            ("alpn = ['a', ['b']]", "this must be a text, and is a list"),
            ("alpn = ['a,b']", "there is a comma in it: each has its own quotes"),
            ("alpn = 'a,,b'", "there is nothing between two commas"),
            ("allow = []", "this list is empty: nobody would be let in"),
            ("allow = [{ou = 5}]", "ou takes text, and not int"),
            ("handshakeTimeout = '5'", 'this must be a number of seconds, or "off", and is a text'),
            ("plainAfter = nan", "this must be a number of seconds from 0 to 999999999"),
            ("plainAfter = 'off'", "this must be a number of seconds, and is a text"),
            ("unsafe-plain-target = 1", "this must be true or false, and is a number"),
            ("unsafe-plain-target = true", "this is of no use without forward"),
            ("max-fails = 3", "this is of no use without forward"),
            ("balance = 3", "this must be a text, and is a number"),
            ("fail-time = 0", "this must be above 0"),
            ("route = [{names = ['a']}]", "it has no target: forward, web, wsgi, factory or echo"),
            ("options = {}", "there is no such key in [[listen]]"),
            ("place = 1", "there is no such key in [[listen]]"),
            ("forward = { a = 1 }", "this must be a list of texts, and is a table"),
        ):
            key = text.partition(" ")[0]
            port = "" if key == "port" else "port = 1"
            echo = "" if key == "forward" else "echo = true"
            [found] = self.mistakes(f"[[listen]]\n{port}\n{echo}\n{text}")
            self.assertIn(f"4: {key}: ", found)
            self.assertIn(sentence, found)

    def test_health_without_a_check(self) -> None:
        self.assertEqual(
            self.mistakes("[[listen]]\nport = 1\nforward = 'localhost:1'\nhealth-rise = 1"),
            ["4: health-rise: this is of no use without health-check"],
        )

    def test_one_table(self) -> None:
        for text in ("[listen]\nport = 1", "listen = 5", "listen = [5]"):
            self.assertEqual(self.mistakes(text), ["1: listen: this must be [[listen]] tables"])

    def test_dotted_and_inline(self) -> None:
        self.assertEqual(
            self.mistakes("\nlisten = [\n{port = 1, echo = true},\n{port = 1, eco = true},\n]"),
            ["4: eco: there is no such key in [[listen]], did you mean echo?"],
        )
        self.assertEqual(
            self.mistakes("\nworkers.number = 2"),
            ['2: workers: this must be a number from 1 to 1024, or "auto"'],
        )

    def test_no_terminal_obeys_a_key(self) -> None:
        self.assertEqual(
            self.mistakes(r'"a\u001b\n" = 1'), [r"1: a\x1b\n: there is no such key at the top"]
        )

    def test_no_toml(self) -> None:
        for text, where in (
            ("a = 1\nb = = 2\n", "2:5: this is no TOML: invalid value"),
            ("a = 1\na = 2\n", "2:6: this is no TOML: cannot overwrite a value"),
            ("a = [\n1,\n", "2: this is no TOML: invalid value"),
            (b"a = 1\n\xff", "2: this is not UTF-8"),
            ("a = " + "[" * 50_000, "it is nested too deeply"),
            ("port = " + "1" * 5000, "this is no TOML: Exceeds the limit"),
        ):
            [found] = self.mistakes(text)
            self.assertTrue(found.startswith(where), found)

    def test_no_file(self) -> None:
        os.mkdir(directory := self.mktemp())
        for path, sentence in (
            (self.mktemp(), "it cannot be read: No such file or directory"),
            (directory, "it cannot be read: Is a directory"),
            ("a\0b", "there can be no file of this name"),
            ("/dev/zero", "it is larger than 1048576 bytes"),
        ):
            error = self.assertRaises(Mistakes, load_config, path)
            self.assertIn(sentence, str(error))

    def test_in_one_line(self) -> None:
        error = self.assertRaises(Mistakes, load_config, self.write("a = 1\nb = 2\n"))
        self.assertRegex(str(error), r":1: a: .*; .*:2: b: ")


RULES = tuple(
    map(str, parse_rules('dns=*.a.example, cn="Doe, ""J""" & ou=ops, email=*@a.example').rules)
)

_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
_item = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0,"), min_size=1)
_seconds = st.integers(0, 10**9 - 1) | st.floats(0, 1e9 - 1)
_values: dict[OptionKind, st.SearchStrategy[Any]] = {
    OptionKind.PORT: st.integers(0, 65535),
    OptionKind.WHOLE: st.integers(0, 10**9 - 1),
    OptionKind.SECONDS: _seconds,
    OptionKind.SECONDS_OR_OFF: _seconds | st.just("off"),
    OptionKind.SWITCH: st.booleans(),
    OptionKind.RULES: st.lists(st.sampled_from(RULES), min_size=1).map(tuple),
    OptionKind.LIST: st.lists(_item, min_size=1).map(tuple),
    OptionKind.TEXT: _text,
}


forwardings = st.fixed_dictionaries(
    {},
    optional={
        key: _values[kind].filter(bool)
        for key, (kind, _) in FORWARD_OPTIONS.items()
        if not key.startswith("health-")
    },
) | st.fixed_dictionaries(
    {key: _values[kind].filter(bool) for key, (kind, _) in FORWARD_OPTIONS.items()}
)


@st.composite
def listenings(draw: st.DrawFn) -> Listening:
    """Any that a file can say."""
    endpoint = draw(st.none() | _text)
    names = sorted(set(SERVER_OPTIONS) - {"endpoint", "port"})
    options = {} if endpoint is not None else {"port": draw(_values[OptionKind.PORT])}
    for option in draw(st.lists(st.sampled_from(names), unique=True, max_size=6)):
        options[option] = draw(_values[kind_of(option)])
    targets: list[dict[str, Any]] = [
        {"echo": True},
        {"web": draw(_text)},
        {"wsgi": draw(_text)},
        {"factory": draw(_text)},
        {
            "forward": draw(st.lists(_text, min_size=1).map(tuple)),
            "forwarding": draw(forwardings),
            "unsafe_plain_target": draw(st.booleans()),
        },
    ]
    return Listening(endpoint, options, **draw(st.sampled_from(targets)))


configurations = st.builds(
    Configuration,
    state=st.none() | _text,
    workers=st.just("auto") | st.integers(1, 1024),
    drain=_seconds,
    status=st.none() | _text,
    max_buffered=st.none() | st.integers(1 << 20, 10**12),
    trace_failures=st.booleans(),
    listen=st.lists(listenings(), max_size=4).map(tuple),
)


class DumpTests(ConfigCase):
    """C{as_toml}."""

    @settings(deadline=None, max_examples=200)
    @given(configurations)
    def test_read_again(self, configuration: Configuration) -> None:
        text = configuration.as_toml()
        self.assertEqual(load_config(self.write(text.encode())), configuration)
        self.assertEqual(configuration.differences(load_config(self.write(text.encode()))), [])

    def test_no_password(self) -> None:
        for before, after in (
            ("redis://:secret@host:1/0", "redis://:***@host:1/0"),
            ("rediss://user:se:c@r/et@host", "rediss://user:***@host"),
            ("redis+unix://:secret@/run/redis.sock", "redis+unix://:***@/run/redis.sock"),
            (
                r"8443:redis=redis\://\:se\:cret@h\:1/0:acme=me@example.org",
                r"8443:redis=redis\://\:***@h\:1/0:acme=me@example.org",
            ),
            (
                r"other:bioconn\:1\:redis=redis\\\://\\\:secret@h\:names=a@b",
                r"other:bioconn\:1\:redis=redis\\\://\\\:***@h\:names=a@b",
            ),
            ("redis://secret@host", "redis://***@host"),
            ("1:redis=redis:secret@host", "1:redis=***@host"),
            (r"1:redis=\:secret@host:acme=none", r"1:redis=***@host:acme=none"),
            (r"1:redis=http\://me\:secret@h\:1", r"1:redis=***@h\:1"),
            ("1:redis=redis://me:secret@host:1", "1:redis=redis://me:***@host:1"),
            ("acmeDirectory = https://me:secret@host/a", "acmeDirectory = https://me:***@host/a"),
            ("https://secret@host:1/a@b", "https://***@host:1/a@b"),
            ("1:password=secret:acme=none", "1:password=***:acme=none"),
            (r"1:redisPassword=se\:secret", "1:redisPassword=***"),
            ("passphraseFile=/etc/secret", "passphraseFile=/etc/secret"),
            ("redis://host:1/0", "redis://host:1/0"),
            ("https://localhost:8443/a:b@c", "https://localhost:8443/a:b@c"),
            ("unix:/run/a:b@c", "unix:/run/a:b@c"),
        ):
            self.assertEqual(masked(before), after)
        configuration = Configuration(
            listen=(
                Listening(options={"port": 1, "redis": "redis://:secret@host"}, echo=True),
                Listening(r"1:redis=redis\://\:secret@host", echo=True),
            )
        )
        self.assertNotIn("secret", configuration.as_toml())
        self.assertNotIn("secret", " ".join(Configuration().differences(configuration)))

    def test_text_in_no_encoding(self) -> None:
        error = self.assertRaises(ConfigurationError, Configuration(state="\udc80").as_toml)
        self.assertIn("not Unicode", str(error))


class DifferenceTests(SynchronousTestCase):
    """C{differences}."""

    def test_in_words(self) -> None:
        first = Listening(
            options={"port": 8443, "policy": "modern", "maxConnections": 5, "alpn": ("h2",)},
            forward=("localhost:1",),
        )
        changed = evolve(
            first,
            options={"port": 8443, "policy": "intermediate", "alpn": ("h2",), "crl": "a.pem"},
            forward=("localhost:1", "localhost:2"),
        )
        gone = Listening(options={"port": 1, "interface": "::1"}, echo=True)
        new = Listening("tcp:80", echo=True)
        same = Listening("tcp:81", echo=True)
        before = Configuration(workers=2, status="unix:a", listen=(first, gone, same))
        after = Configuration(workers="auto", drain=5, listen=(same, changed, new))
        self.assertEqual(
            before.differences(after),
            [
                "workers: 2 -> auto",
                "drain: 0 -> 5",
                "status is gone",
                "listen 8443: policy: modern -> intermediate, maxConnections is gone,"
                " forward: localhost:1 -> localhost:1, localhost:2, crl is new: a.pem",
                "listen [::1]:1 is gone",
                "listen tcp:80 is new",
            ],
        )
        self.assertEqual(before.differences(before), [])

    def test_two_at_any_port(self) -> None:
        one = Listening(options={"port": 0}, echo=True)
        before, after = Configuration(listen=(one, one)), Configuration(listen=(one,))
        self.assertEqual(before.differences(after), ["listen 0 (2) is gone"])
        self.assertEqual(after.differences(before), ["listen 0 (2) is new"])

    def test_password(self) -> None:
        one, other = (
            Configuration(
                listen=(
                    Listening(options={"port": 1, "redis": f"redis://:{word}@host"}, echo=True),
                )
            )
            for word in ("one", "other")
        )
        self.assertEqual(one.differences(other), ["listen 1: a password is another"])
