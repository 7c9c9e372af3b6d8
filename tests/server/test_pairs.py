"""A configuration made into what it comes to."""

from __future__ import annotations

import os
import re
from textwrap import dedent

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.endpoints import ServerEndpoint
from twisted_bioconn.server._mistakes import Mistakes
from twisted_bioconn.server.backends import Balance, Marks, SendProxy
from twisted_bioconn.server.checks import Check, CheckKind
from twisted_bioconn.server.config import read_config
from twisted_bioconn.server.pairs import pairs_of
from twisted_bioconn.server.targets import Echo, Forward, Pair


class FilesCase(SynchronousTestCase):
    """Runs in a directory of its own, in which there are a certificate and an authority."""

    def setUp(self) -> None:
        directory = self.mktemp()
        os.mkdir(directory)
        here = os.getcwd()
        os.chdir(directory)
        self.addCleanup(os.chdir, here)
        authority = DevelopmentAuthority("authority")
        with open("pair.pem", "wb") as file:
            file.write(authority.issue(["a.example"]).to_pem())
        os.mkdir("site")
        self.patch(os, "environ", {**os.environ, "XDG_STATE_HOME": os.path.abspath("home")})
        os.environ.pop("STATE_DIRECTORY", None)

    def make(self, text: str, is_check: bool = True) -> tuple[list[Pair], list[str]]:
        with open("front.toml", "w", encoding="utf-8") as file:
            file.write(dedent(text))
        configuration, mistakes = read_config("front.toml")
        pairs, found = pairs_of(reactor, configuration, mistakes, is_check)
        return pairs, [str(each) for each in found]

    def mistakes(self, text: str) -> list[str]:
        """What is said of a file, without its name."""
        _, found = self.make(text)
        for each in found:
            self.assertTrue(each.startswith("front.toml:"), each)
        return [each.removeprefix("front.toml:") for each in found]

    def made(self, text: str) -> list[Pair]:
        pairs, mistakes = self.make(text, is_check=False)
        self.assertEqual(mistakes, [])
        return pairs


class PairTests(FilesCase):
    """What is right."""

    def test_port(self) -> None:
        [pair] = self.made(
            """
            [[listen]]
            port = 8443
            interface = "::1"
            privateKey = "pair.pem"
            handshakeTimeout = 2.5
            idleTimeout = "off"
            alpn = ["h2", "a:b"]
            maxConnections = 7
            echo = true
            """
        )
        self.assertEqual(
            pair.listen.description,
            r"bioconn:8443:interface=\:\:1:privateKey=pair.pem:handshakeTimeout=2.5:idleTimeout=off"
            r":alpn=h2,a\:b:maxConnections=7",
        )
        endpoint = pair.listen.endpoint
        assert isinstance(endpoint, ServerEndpoint)
        self.assertEqual(endpoint.options.alpn, (b"h2", b"a:b"))
        self.assertEqual(pair.listen.name, "listen [::1]:8443")
        self.assertEqual((pair.target, pair.words), (Echo(), "echo"))

    def test_development_certificate(self) -> None:
        """As after C{--listen}: where nothing says where certificates come from."""
        for text in ("port = 8443", 'endpoint = "8443"', 'endpoint = "8443"\npolicy = "modern"'):
            [pair] = self.made(f"[[listen]]\n{text}\necho = true")
            self.assertIsNone(pair.listen.endpoint)
            self.assertTrue(pair.listen.description.startswith("bioconn:8443"))
        os.mkdir("certificates")
        with open("pair.pem", "rb") as one, open("certificates/a.pem", "wb") as other:
            other.write(one.read())
        for text in (
            'privateKey = "pair.pem"',
            'certificates = "certificates"',
            'acme = "none"\nnames = "a.example"',
        ):
            [pair] = self.made(f"[[listen]]\nport = 8443\n{text}\necho = true")
            self.assertIsInstance(pair.listen.endpoint, ServerEndpoint)

    def test_endpoint(self) -> None:
        first, second = self.made(
            r"""
            [[listen]]
            endpoint = "bioconn:0:privateKey=pair.pem"
            maxConnections = 3
            echo = true

            [[listen]]
            endpoint = "tcp:80"
            echo = true
            """
        )
        self.assertEqual(first.listen.description, "bioconn:0:privateKey=pair.pem:maxConnections=3")
        self.assertIsInstance(second.listen.endpoint, TCP4ServerEndpoint)

    def test_several_back_ends(self) -> None:
        [pair] = self.made(
            """
            [[listen]]
            endpoint = "tcp:80"
            forward = ["localhost:1", "unix:a.sock:timeout=3", "db.example:2"]
            unsafe-plain-target = true
            """
        )
        assert isinstance(pair.target, Forward)
        assert pair.target.back_ends is not None
        self.assertEqual(
            [each.description for each in pair.target.back_ends.members],
            ["localhost:1", "unix:a.sock:timeout=3", "db.example:2"],
        )
        self.assertEqual(pair.target.connect_timeout, 10.0)
        self.assertEqual(
            pair.words, "forward localhost:1 forward unix:a.sock:timeout=3 forward db.example:2"
        )

    def test_forwarding(self) -> None:
        """What back ends are asked and told; for one alone, too."""
        [pair] = self.made(
            """
            [[listen]]
            endpoint = "tcp:80"
            forward = "localhost:1"
            balance = "leastConnections"
            send-proxy = "v2-tls"
            health-check = "http:/healthz"
            health-host = "a.example"
            health-interval = 2.5
            health-rise = 4
            max-fails = 7
            fail-time = 3
            """
        )
        assert isinstance(pair.target, Forward)
        back_ends = pair.target.back_ends
        assert back_ends is not None
        self.assertIs(back_ends.send_proxy, SendProxy.V2_TLS)
        self.assertIs(back_ends._balance, Balance.LEAST_CONNECTIONS)
        [member], [checking] = back_ends.members, back_ends._checking
        self.assertEqual(member._marks, Marks(max_fails=7, fail_time=3))
        self.assertEqual(
            checking._check,
            Check(kind=CheckKind.HTTP, path="/healthz", host="a.example", interval=2.5, rise=4),
        )

    def test_key(self) -> None:
        """It tells listeners apart by all that was asked for, and by nothing else."""
        text = '[[listen]]\nport = 1\npolicy = "modern"\necho = true\n'
        [first] = self.made(text)
        [same] = self.made('# x\n[[listen]]\necho = true\npolicy = "modern"\nport = 1\n')
        self.assertEqual(first.key, same.key)
        for other in (
            text.replace("modern", "intermediate"),
            text.replace("echo = true", 'web = "site"'),
            text.replace("port = 1", 'endpoint = "1"'),
            text.replace("echo = true", 'forward = "localhost:1"'),
            text.replace("echo = true", 'forward = "localhost:1"\nmax-fails = 2'),
        ):
            [pair] = self.made(other)
            self.assertNotEqual(pair.key, first.key)
            self.assertNotIn("policy", pair.key)

    def test_nothing_is_written(self) -> None:
        before = sorted(os.listdir())
        _, mistakes = self.make(
            """
            [[listen]]
            port = 8443
            echo = true

            [[listen]]
            port = 8444
            acme = "mailto:me@example.org"
            names = ["a.example"]
            echo = true
            """
        )
        self.assertEqual(mistakes, [])
        self.assertEqual(sorted({*os.listdir()} - {"front.toml"}), before)


class MistakeTests(FilesCase):
    """What is wrong, all in one go."""

    def test_each_option(self) -> None:
        self.assertEqual(
            self.mistakes(
                """\
                [[listen]]
                port = 0
                privateKey = "nokey.pem"
                certKey = "nocert.pem"
                clientAuthorities = "noca.pem"
                crl = "nocrl.pem"
                policy = "moden"
                starttls = "smpt"
                maxConnections = 0
                handshakeTimeout = 0
                plain = "redirct"
                dhParameters = "nodh.pem"
                clientCertificate = "require"
                echo = true
                """
            ),
            [
                "3: privateKey: nokey.pem does not exist",
                "4: certKey: nocert.pem does not exist",
                "5: clientAuthorities: noca.pem does not exist",
                "6: crl: nocrl.pem does not exist",
                "7: policy: There is no policy 'moden' (there are intermediate and modern);"
                " did you mean modern?",
                "8: starttls: 'smpt' is no protocol that is known: there are smtp, lmtp, imap,"
                " pop3, sieve, ldap, xmpp, xmpp-server, postgresql",
                "9: maxConnections: this must be a whole number above 0",
                "10: handshakeTimeout: this must be a number of seconds, or 'off'",
                "11: plain: it can be refuse, redirect, forward; did you mean redirect?",
                "12: dhParameters: nodh.pem does not exist",
            ],
        )

    def test_what_is_in_the_files(self) -> None:
        with open("broken.pem", "w") as file:
            file.write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        with open("other.pem", "wb") as pem:
            pem.write(DevelopmentAuthority("other").issue(["b.example"]).to_pem())
        found = self.mistakes(
            """\
            [[listen]]
            port = 0
            privateKey = "broken.pem"
            clientAuthorities = "broken.pem"
            echo = true

            [[listen]]
            port = 0
            privateKey = "other.pem"
            certKey = "pair.pem"
            crl = "pair.pem"
            clientAuthorities = "authority/ca.pem"
            echo = true
            """
        )
        self.assertEqual(
            [re.match(r"\d+: \w+: ", each)[0] for each in found],  # type: ignore[index]
            [
                "3: privateKey: ",
                "4: clientAuthorities: ",
                "9: privateKey: ",
                "11: crl: ",
            ],
        )
        self.assertIn("broken.pem", found[0])

    def test_consequences_are_not_told(self) -> None:
        """What is wrong only for want of what is wrong itself."""
        for text, sentence in (
            (
                'acme = "none"\nnames = ["exa mple"]',
                "4: names: 'exa mple' is neither a DNS name nor an IP address",
            ),
            ('acme = 5\nnames = ["a.example"]', "3: acme: this must be a list of texts"),
            ('clientAuthorities = 5\nallow = "dns=a.example"', "3: clientAuthorities: this must"),
            ('privateKey = 5\ncertKey = "pair.pem"', "3: privateKey: this must be a text"),
            ('privateKey = "no.pem"\nextraCertChain = "pair.pem"', "3: privateKey: no.pem does"),
            ('port = "x"', "3: port: this must be a whole number"),
            ('proxyProtocol = "10.0.0.0/33"', "3: proxyProtocol: "),
            ('clientAuthorities = "system"', "3: clientAuthorities: "),
            ('crlMode = "soft"', "3: crlMode: "),
            ('acme = "none"', "3: acme: "),
        ):
            port = "" if text.startswith("port") else "port = 0"
            [found] = self.mistakes(f"[[listen]]\n{port}\n{text}\necho = true")
            self.assertTrue(found.startswith(sentence), found)

    def test_in_endpoint_strings(self) -> None:
        """Each option that is wrong, and not only the first."""
        self.assertEqual(
            self.mistakes(
                r"""
                [[listen]]
                endpoint = 'bioconn:8443:polcy=x:idleTimeout=no:privateKey=no.pem'
                alpn = ["h2"]
                forward = [
                  "bioconn:localhost:80:trustRoots=no:polcy=3",
                  "db.example:4",
                  "locl:1:2",
                ]

                [[listen]]
                endpoint = "8443:alpn=h2:privateKey=pair.pem"
                alpn = ["h2"]
                echo = true

                [[listen]]
                endpoint = "bioconn:80:81"
                echo = true

                [[listen]]
                endpoint = "tpc:80"
                web = "absent"

                [[listen]]
                endpoint = "tcp:80:x=1"
                privateKey = "pair.pem"
                web = "pair.pem"
                """
            ),
            [
                "3: endpoint: bioconn: has no option 'polcy'; did you mean policy?",
                "3: endpoint: privateKey: no.pem does not exist",
                "3: endpoint: idleTimeout=no: this must be a number of seconds, or 'off'",
                "6: forward: bioconn:localhost:80:trustRoots=no:polcy=3: bioconn: has no option"
                " 'polcy'; did you mean policy?",
                "6: forward: bioconn:localhost:80:trustRoots=no:polcy=3: trustRoots: no does not"
                " exist",
                "7: forward: db.example:4: it is plain, and not on this machine;"
                " unsafe-plain-target = true allows it, bioconn:HOST:PORT encrypts it",
                "8: forward: locl:1:2: this is neither HOST:PORT nor an endpoint: there is no kind"
                " 'locl'",
                "13: alpn: endpoint has it already",
                "17: endpoint: bioconn: cannot place '81': each option is written NAME=VALUE",
                "21: endpoint: 'tpc' is neither a port, nor an address, nor a kind of endpoint,"
                " did you mean tcp?",
                "22: web: absent: there is none",
                "25: endpoint: tcp: has no option 'x'",
                "26: privateKey: tcp: endpoints do not have it; endpoint ="
                r" 'bioconn:endpoint=tcp\:80\:x=1' does",
                "27: web: pair.pem: this is no directory",
            ],
        )

    def test_forwarding(self) -> None:
        self.assertEqual(
            self.mistakes(
                """\
                [[listen]]
                endpoint = "tcp:1"
                forward = ["localhost:1", "tls:localhost:2"]
                balance = "leastConnection"
                send-proxy = "v3"
                health-check = "htp:/"
                [[listen]]
                endpoint = "tcp:1"
                forward = "tls:localhost:2"
                send-proxy = "v2"
                [[listen]]
                endpoint = "tcp:1"
                forward = "localhost:2"
                health-check = "http:healthz"
                [[listen]]
                endpoint = "tcp:1"
                forward = "localhost:2"
                health-check = "http:/"
                health-host = "a b"
                """
            ),
            [
                "4: balance: it can be roundRobin, leastConnections; did you mean"
                " leastConnections?",
                "5: send-proxy: it can be v1, v2, v2-tls, v2-tls-cert; did you mean v2?",
                "6: health-check: this must be tcp, tls or http:PATH, did you mean http?",
                "9: forward: tls:localhost:2: a PROXY header cannot be sent before TLS of this"
                " kind: use bioconn:HOST:PORT",
                "14: health-check: a path begins with '/', and has no spaces",
                "19: health-host: 'a b' is no host that HTTP could ask for",
            ],
        )

    def test_option_that_is_not_ascii(self) -> None:
        """Of which Twisted says nothing that anybody understands."""
        for text, key in (
            ('endpoint = "1:\u00fc=1"\necho = true', "2: endpoint"),
            ('endpoint = "tcp:1"\nforward = "localhost:1:\u00fc=1"', "3: forward"),
        ):
            [found] = self.mistakes(f"[[listen]]\n{text}")
            self.assertTrue(found.startswith(f"{key}: "), found)
            self.assertTrue(found.endswith("the name of an option in it is not ASCII"), found)

    def test_modules(self) -> None:
        self.assertEqual(
            self.mistakes(
                """\
                [[listen]]
                endpoint = "tpc:80"
                wsgi = "nowhere_at_all:app"

                [[listen]]
                endpoint = "tcp:80"
                factory = "os:nofactory"
                """
            )[1:],
            [
                "3: wsgi: nowhere_at_all:app: there is no module nowhere_at_all",
                "7: factory: os:nofactory: os has no nofactory",
            ],
        )

    def test_no_module_is_imported_in_vain(self) -> None:
        """But for a check."""
        text = '[[listen]]\nendpoint = "tpc:1"\nwsgi = "nowhere_at_all:app"'
        self.assertEqual(len(self.make(text, is_check=False)[1]), 1)
        self.assertEqual(len(self.make(text, is_check=True)[1]), 2)

    def test_state_that_cannot_be_kept(self) -> None:
        problem = f"{os.path.abspath('pair.pem')} is a file, not a directory"
        self.assertEqual(
            self.mistakes(
                """\
                state = "pair.pem"
                [[listen]]
                port = 1
                echo = true
                [[listen]]
                port = 2
                acme = "none"
                names = ["a.example"]
                state = "pair.pem/more"
                echo = true
                """
            ),
            [f"1: state: {problem}", f"9: state: {problem}"],
        )

    def test_status(self) -> None:
        """Where the status may be asked for; and by strangers it may not."""
        listen = "[[listen]]\nendpoint = 'tcp:1'\necho = true"
        for place in ("/run/status.sock", "9090", "unix:status.sock"):
            self.assertEqual(self.mistakes(f'status = "{place}"\n{listen}'), [])
        for place, sentence in (
            ("tpc:a:1", "this is neither the path of a socket, nor a port"),
            ("tcp:9090", "without TLS the status is only for this machine"),
            ("bioconn:9090:privateKey=pair.pem", "strangers could come here"),
            ("tcp:1:ü=1", "the name of an option in it is not ASCII"),
        ):
            [found] = self.mistakes(f'status = "{place}"\n{listen}')
            self.assertTrue(found.startswith(f"1: status: {sentence}"), found)

    def test_password(self) -> None:
        found = self.mistakes(
            """\
            [[listen]]
            endpoint = 'tcp:1:redis=redis\\://\\:secret@host'
            echo = true
            [[listen]]
            port = 1
            acme = "none"
            names = "a.example"
            redis = "redis://:secret@host"
            forward = "redis://:secret@host"
            """
        )
        self.assertEqual(len(found), 3, found)
        self.assertNotIn("secret", "\n".join(found))


GOOD = r"""
state = "home"
workers = 2
drain = 30
status = "unix:status.sock"

[[listen]]
port = 8443
interface = "127.0.0.1"
privateKey = "pair.pem"
clientAuthorities = "authority/ca.pem"
allow = [
  "dns=*.example.org",
  { ou = "ops", network = "10.0.0.0/8" },
]
alpn = ["h2", "http/1.1"]
handshakeTimeout = 2.5
plain = "redirect"
maxConnections = 100
web = "site"

[[listen]]
endpoint = 'bioconn:0:privateKey=pair.pem:starttls=smtp'
proxyProtocol = ["10.0.0.0/8"]
forward = ["localhost:1", 'bioconn:localhost:2:trustRoots=authority/ca.pem']
send-proxy = "v2"
health-check = "tcp"
health-interval = 1.5
max-fails = 5

[[listen]]
port = 8444
unsafe-plain-target = true
forward = "db.example:5432"
"""

WORDS = (
    *("=", "[", "]", "[[", "]]", "{", "}", '"', "'", '"""', "'''", "\\", "\n", "#", ",", ":", "."),
    *("[[listen]]", "listen", "port", "endpoint", "true", "inf", "nan", "-1", "1e400", "0x10"),
    *("1979-05-27", "pair.pem", "system", "off", "\\u0000", "\\ud800", "\x00", "é", "\u202e"),
    *("acme = 'none'\n", "redis = 'redis://:secret@x'\n", "crl = 'pair.pem'\n", "tcp:", "bioconn:"),
    *("ssl:", "systemd:", "fd:", "haproxy:", "*", "::1", "9" * 5000, "[" * 3000, "a.b.c = 1\n"),
)


class AnyFileTests(FilesCase):
    """Files with any mistakes."""

    def test_good(self) -> None:
        self.assertEqual(self.mistakes(GOOD), [])

    @settings(deadline=None, max_examples=250)
    @given(st.data())
    def test_mutations(self, data: st.DataObject) -> None:
        """There is never an exception, but always a line and a sentence, with no password."""
        text = GOOD
        for _ in range(data.draw(st.integers(1, 4))):
            begin = data.draw(st.integers(0, len(text)))
            end = begin + data.draw(st.sampled_from([0, 0, 1, 2, 5, 20, 80]))
            word = data.draw(st.sampled_from(["", *WORDS]) | st.text(max_size=3))
            text = text[:begin] + word + text[end:]
        with open("front.toml", "wb") as file:
            file.write(text.encode("utf-8", "surrogatepass"))
        try:
            configuration, mistakes = read_config("front.toml")
        except Mistakes as error:
            mistakes = list(error.mistakes)
        else:
            _, mistakes = pairs_of(reactor, configuration, mistakes, is_check=True)
            self.assertNotIn("secret", configuration.as_toml())
        for each in mistakes:
            self.assertRegex(str(each), r"\Afront\.toml(:\d+){0,2}: [^\n]+\Z")
            self.assertNotIn("secret", str(each))
            self.assertNotIn("bioconn-", str(each))
