"""Rules and authorities of routes, in a configuration file and through a server that runs."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
from collections.abc import Iterable
from typing import Any
from unittest import skipUnless

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from twisted.internet import reactor

from tests.server.command import Command
from tests.server.test_pairs import FilesCase
from tests.tls_material import FOR_CLIENTS, Party, authority, certificate, ec_key
from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.certificates.revocation import TrustFiles
from twisted_bioconn.client_policy import ANYBODY, ClientCertificate, ClientPolicy
from twisted_bioconn.server.checking import User, unreadable_later
from twisted_bioconn.server.config import load_config
from twisted_bioconn.server.service import _Making

PORT = """
    [[listen]]
    port = 8443
    privateKey = "pair.pem"
    echo = true
    """
ROUTE = """
    [[listen.route]]
    names = ["a.example"]
    web = "site"
    """


class RuleFilesCase(FilesCase):
    """Has authorities and certificates of clients, too."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("authority", "others"):
            self.write(f"{name}.pem", authority(name).certificate.public_bytes(Encoding.PEM))
        for number, (name, issuer) in enumerate(
            (("alice", "authority"), ("bob", "authority"), ("carol", "others"))
        ):
            key = ec_key(number + 3)
            made = Party(certificate(name, authority(issuer), key=key, usage=FOR_CLIENTS), key)
            self.write(
                f"{name}.pem",
                made.certificate.public_bytes(Encoding.PEM)
                + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            )

    def write(self, name: str, data: bytes) -> None:
        with open(name, "wb") as file:
            file.write(data)


class AskedTests(RuleFilesCase):
    """What comes to be asked of the clients of a route."""

    def policy(self, port: str, route: str) -> ClientPolicy | None:
        [pair] = self.made(f"{PORT}{port}\n{ROUTE}{route}\n")
        [target] = pair.routes
        if isinstance(target.clients, TrustFiles):
            return target.clients.policy
        return target.clients

    def asked(self, port: str, route: str) -> tuple[str, str, list[str]]:
        """In words: the mode, the rules, whose authorities."""
        policy = self.policy(port, route)
        assert policy is not None
        return (
            policy.mode.value,
            str(policy.rules or ""),
            [each.subject.rfc4514_string() for each in policy.authorities],
        )

    def test_own(self) -> None:
        own, others = ["CN=authority"], ["CN=others"]
        port = 'clientAuthorities = "authority.pem"\nallow = "cn=alice"'
        for of_port, of_route, expected in (
            ("", 'clientAuthorities = "authority.pem"', ("require", "", own)),
            ("", 'allow = "network=10.0.0.0/8"', ("none", "network=10.0.0.0/8", [])),
            (
                "",
                'clientAuthorities = "authority.pem"\nallow = ["ou=ops & network=::/0", "cn=x"]',
                ("require", "ou=ops&network=::/0,cn=x", own),
            ),
            (
                "",
                'clientAuthorities = "authority.pem"\nclientCertificate = "verifyIfGiven"',
                ("verifyIfGiven", "", own),
            ),
            # What a route does not say is as the port has it.
            (port, 'allow = [{cn = "bob"}]', ("require", "cn=bob", own)),
            (port, 'clientCertificate = "verifyIfGiven"', ("verifyIfGiven", "cn=alice", own)),
            # Authorities are a rule, and so is nobody's certificate: these begin anew.
            (port, 'clientAuthorities = "others.pem"', ("require", "", others)),
            (port, 'clientCertificate = "none"', ("none", "", [])),
            (
                port,
                'clientCertificate = "none"\nallow = "address=127.0.0.1"',
                ("none", "address=127.0.0.1", []),
            ),
        ):
            self.assertEqual(self.asked(of_port, of_route), expected, (of_port, of_route))
        self.assertIs(self.policy(port, 'clientCertificate = "none"'), ANYBODY)
        self.assertIsNone(self.policy(port, ""))

    def test_passing_through(self) -> None:
        """What is about no certificate holds there too; what is, nobody here could look at."""
        route = 'passthrough = true\nforward = "192.0.2.1:443"'
        for of_port, of_route, expected in (
            ('allow = "network=10.0.0.0/8"', "", "network=10.0.0.0/8"),
            ('allow = "network=10.0.0.0/8"', 'allow = "name=*.example"', "name=*.example"),
            ('clientAuthorities = "authority.pem"', "", None),
            ('clientAuthorities = "authority.pem"\nallow = "cn=x,address=::1"', "", None),
        ):
            way = ROUTE.replace('web = "site"', route)
            [pair] = self.made(f"{PORT}{of_port}\n{way}{of_route}\n")
            [target] = pair.routes
            found = None
            if target.clients is not None:
                assert isinstance(target.clients, ClientPolicy)
                self.assertIs(target.clients.mode, ClientCertificate.NONE)
                found = str(target.clients.rules)
            self.assertEqual(found, expected, (of_port, of_route))

    def test_mistakes(self) -> None:
        """Each in its line, by its key, and no consequence of another one."""
        through = 'passthrough = true\nforward = "192.0.2.1:443"'
        for of_port, of_route, expected in (
            ("", 'alow = "cn=x"', "alow: there is no such key in [[listen]], did you mean allow?"),
            ("", "allow = 3", "allow: it must be text or a table, and not int"),
            ("", "allow = []", "allow: this list is empty: nobody would be let in"),
            ("", 'allow = "nc=x"', "allow: nc=x: there is no kind of rule called nc"),
            ("", 'allow = "cn=x"', "allow: it is about client certificates"),
            ("", 'clientAuthorities = "gone.pem"', "clientAuthorities: gone.pem does not exist"),
            (
                "",
                'clientAuthorities = "gone.pem"\nallow = "cn=x"',
                "clientAuthorities: gone.pem does not exist",
            ),
            (
                "",
                'clientAuthorities = "system"',
                "clientAuthorities: clientAuthorities=system lets in whoever has",
            ),
            ("", 'clientCertificate = "requir"', "clientCertificate: "),
            ("", 'crl = "authority.pem"', "crl: crl= needs clientAuthorities="),
            (
                "",
                'clientCertificate = "none"\nclientAuthorities = "authority.pem"',
                "clientAuthorities: it is of no use with clientCertificate=none",
            ),
            ('clientAuthorities = "gone.pem"', 'allow = "cn=x"', None),
            ("", through, None),
            ("", f'{through}\nallow = "cn=x"', "allow: it is about client certificates"),
            (
                "",
                f'{through}\nclientAuthorities = "authority.pem"',
                "clientAuthorities: TLS ends where this route goes",
            ),
        ):
            route = ROUTE.replace('web = "site"', "") if "forward" in of_route else ROUTE
            found = self.mistakes(f"{PORT}{of_port}\n{route}{of_route}\n")
            cell = (of_port, of_route, found)
            if of_port:
                self.assertEqual(found, ["6: clientAuthorities: gone.pem does not exist"], cell)
            elif expected is None:
                self.assertEqual(found, [], cell)
            else:
                [mistake] = found
                line, _, sentence = mistake.partition(": ")
                key = expected.partition(":")[0]
                lines = f"{PORT}{of_port}\n{route}{of_route}\n".splitlines()
                self.assertIn(key, lines[int(line) - 1], cell)
                self.assertIn(expected, sentence, cell)

    def test_ways_round(self) -> None:
        """
        Rules of a route that are of no use, for the same is had without them by another name, are a
        mistake; they are none where something is asked of the others too.
        """
        said = "who does not go by this route gets the same without its rules"
        same = ROUTE.replace('web = "site"', "echo = true")
        other = ROUTE.replace("a.example", "b.example")
        rules = 'clientAuthorities = "authority.pem"\n'
        for text, lines in (
            (f"{PORT}{same}{rules}", [7]),
            (f"{PORT}{ROUTE}{rules}{other}", [7]),
            (f'{PORT}{ROUTE}{rules}{other}clientCertificate = "none"', [7]),
            (f"{PORT}{ROUTE}{rules}", []),
            (f"{PORT}{ROUTE}{rules}{other}{rules}", []),
            (f'{PORT}allow = "network=::/0"{same}{rules}', []),
            (f'{PORT}{rules}{same}clientCertificate = "none"', []),
            (f'{PORT}clientAuthorities = "gone.pem"{same}{rules}', []),
        ):
            found = [each for each in self.mistakes(text) if said in each]
            self.assertEqual([int(each.partition(":")[0]) for each in found], lines, text)

    def test_dumped(self) -> None:
        """What is written is read as the same, and changes are told."""
        rules = 'clientAuthorities = "authority.pem"\nallow = ["cn=alice", {ou = "ops"}]\n'
        before = self.configured(f"{PORT}{ROUTE}{rules}")
        again = self.configured(before.as_toml())
        self.assertEqual(before, again)
        after = self.configured(f"{PORT}{ROUTE}{rules.replace('alice', 'bob')}")
        [difference] = before.differences(after)
        self.assertIn("clientAuthorities authority.pem allow cn=alice, ou=ops", difference)
        self.assertIn("allow cn=bob, ou=ops", difference)

    def test_identity(self) -> None:
        """A port is another one when the rules of a route are others, not when they are moved."""
        rules = ['clientAuthorities = "authority.pem"', 'allow = "cn=alice"']

        def key(lines: Iterable[str]) -> str:
            [pair] = self.made(f"{PORT}{ROUTE}" + "\n".join(lines))
            return pair.key

        self.assertEqual(key(rules), key(reversed(rules)))
        self.assertNotEqual(key(rules), key([rules[0], 'allow = "cn=bob"']))

    def test_unreadable_later(self) -> None:
        configuration = self.configured(f'{PORT}{ROUTE}clientAuthorities = "authority.pem"')
        os.chmod("authority.pem", 0o600)
        found = list(unreadable_later(configuration, User("stranger", 12345, frozenset())))
        [mistake] = [each for each in found if each.key == "clientAuthorities"]
        self.assertIn("stranger cannot read authority.pem after the start", str(mistake))

    def test_development_certificate(self) -> None:
        """It is renewed for routes with rules of their own too."""
        text = PORT.replace('privateKey = "pair.pem"', "")
        pairs = self.made(f'{text}{ROUTE}clientAuthorities = "authority.pem"')
        making = _Making(reactor, pairs, "authority")
        [listener], _ = making.everything()
        renewed = DevelopmentAuthority("authority").issue(["a.example"])
        making._use(renewed)
        self.assertEqual([each.certificate for each in listener.all_options], [renewed] * 2)

    def configured(self, text: str) -> Any:
        self.write("rules.toml", text.encode())
        return load_config("rules.toml")


class ServingTests(RuleFilesCase):
    """A server with such routes."""

    def start(self, *words: str) -> tuple[Command, int]:
        self.path = os.path.abspath("front.toml")
        self.configure("cn=alice")
        command = Command(self, "--config", self.path, *words)
        return command, command.port()

    def configure(self, allow: str, key: str = "allow") -> None:
        here = os.getcwd()
        text = f"""
            [[listen]]
            endpoint = "bioconn:0:interface=127.0.0.1:privateKey={here}/pair.pem"
            echo = true

            [[listen.route]]
            names = ["alices.example"]
            clientAuthorities = "{here}/authority.pem"
            {key} = "{allow}"
            web = "{here}/site"

            [[listen.route]]
            names = ["others.example"]
            clientAuthorities = "{here}/others.pem"
            web = "{here}/site"
            """
        with open(self.path, "w") as file:
            file.write(text)

    def context(self, who: str | None, version: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations("authority/ca.pem")
        context.check_hostname = False
        context.minimum_version = context.maximum_version = version
        if who is not None:
            context.load_cert_chain(f"{who}.pem")
        return context

    def come(
        self, port: int, context: ssl.SSLContext, name: str, session: Any = None
    ) -> tuple[bytes, Any]:
        """What a client gets that asks for a name, and the session that it can resume."""
        try:
            plain = socket.create_connection(("127.0.0.1", port))
            with (
                plain,
                context.wrap_socket(plain, server_hostname=name, session=session) as tls,
            ):
                tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return tls.recv(9), tls.session
        except OSError:
            return b"", None

    def test_full_and_resumed(self) -> None:
        """Nobody comes in by the rules of another name; each refusal is one line, with its why."""
        command, port = self.start()
        ways: dict[str, dict[str | None, bytes]] = {
            "alices.example": {"alice": b"HTTP/1.0 "},
            "others.example": {"carol": b"HTTP/1.0 "},
            "open.example": dict.fromkeys((None, "alice", "bob", "carol"), b"GET / HTT"),
        }
        refused = 0
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for who in (None, "alice", "bob", "carol"):
                for at, to in ((at, to) for at in ways for to in ways):
                    context = self.context(who, version)
                    got, session = self.come(port, context, at)
                    self.assertEqual(got, ways[at].get(who, b""), (version, who, at))
                    refused += not got
                    if session is None:
                        continue
                    got, _ = self.come(port, context, to, session)
                    self.assertEqual(got, ways[to].get(who, b""), (version, who, at, to))
                    refused += not got
        self.assertEqual(command.terminate(), 0)
        lines = [line for line in command.lines if "no handshake: " in line]
        self.assertEqual(len(lines), refused)
        self.assertTrue(any("CN=bob is none of those that may" in line for line in lines), lines)
        self.assertEqual(command.errors, [])

    def test_workers(self) -> None:
        command, port = self.start("--workers", "2")
        for _ in range(4):
            for who, expected in (("alice", b"HTTP/1.0 "), ("bob", b""), (None, b"")):
                context = self.context(who, ssl.TLSVersion.TLSv1_3)
                got, session = self.come(port, context, "alices.example")
                self.assertEqual(got, expected)
                if session is not None:
                    got, _ = self.come(port, context, "others.example", session)
                    self.assertEqual(got, b"")
        self.assertEqual(command.terminate(), 0)

    @skipUnless(hasattr(signal, "SIGHUP"), "there is no SIGHUP")
    def test_reload(self) -> None:
        """Other rules hold for sessions of before, too; what is wrong changes nothing."""
        command, port = self.start()
        alice = self.context("alice", ssl.TLSVersion.TLSv1_3)
        got, session = self.come(port, alice, "alices.example")
        self.assertEqual(got, b"HTTP/1.0 ")
        self.configure("cn=bob", "alow")
        os.kill(command.pid, signal.SIGHUP)
        line = command.wait_for(re.compile("nothing is changed: .*"))
        self.assertIn(":9: alow: there is no such key in [[listen]]", line[0])
        self.assertEqual(self.come(port, alice, "alices.example")[0], b"HTTP/1.0 ")
        self.configure("cn=bob")
        os.kill(command.pid, signal.SIGHUP)
        command.wait_for(re.compile("the configuration file: .*allow cn=alice.* -> .*cn=bob"))
        command.wait_for(re.compile("the configuration is loaded anew: changed"))
        self.assertEqual(self.come(port, alice, "alices.example", session)[0], b"")
        self.assertEqual(self.come(port, alice, "alices.example")[0], b"")
        bob = self.context("bob", ssl.TLSVersion.TLSv1_3)
        self.assertEqual(self.come(port, bob, "alices.example")[0], b"HTTP/1.0 ")
        self.assertEqual(command.terminate(), 0)

    def test_authorities_are_loaded_anew(self) -> None:
        """Those of a route too, on SIGHUP."""
        command, port = self.start()
        carol = self.context("carol", ssl.TLSVersion.TLSv1_2)
        got, session = self.come(port, carol, "others.example")
        self.assertEqual(got, b"HTTP/1.0 ")
        os.replace("authority.pem", "others.pem")
        os.kill(command.pid, signal.SIGHUP)
        command.wait_for(re.compile("reloaded: "))
        self.assertEqual(self.come(port, carol, "others.example", session)[0], b"")
        bob = self.context("bob", ssl.TLSVersion.TLSv1_2)
        self.assertEqual(self.come(port, bob, "others.example")[0], b"HTTP/1.0 ")
        self.assertEqual(command.terminate(), 0)

    def test_explained(self) -> None:
        self.path = os.path.abspath("front.toml")
        self.configure("cn=alice")
        command = Command(self, "--config", self.path, "--explain", "alices.example")
        command.ended()
        said = "\n".join(command.lines)
        self.assertIn("a certificate is required; authorities: 1; rules: cn=alice", said)
        self.assertIn("route         alices.example", said)
