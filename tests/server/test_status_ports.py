"""Tests for L{twisted_bioconn.server.status_ports}."""

from __future__ import annotations

import json
import os
import socket
import ssl
import stat
import tempfile
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.socket_material import key_pem
from tests.tls_material import authority, client, pem, server
from twisted_bioconn.endpoints import ServerEndpoint
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.drain import State
from twisted_bioconn.server.ledger import Ledger
from twisted_bioconn.server.status import Controls, Status, StatusSite
from twisted_bioconn.server.status_ports import Audience, default_socket, status_port


class PlaceTests(SynchronousTestCase):
    """What an operator may write, and who can then come."""

    def setUp(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        self.pair = directory / "pair.pem"
        self.pair.write_bytes(key_pem(server().key) + pem(server().certificate))
        self.authority = directory / "ca.pem"
        self.authority.write_bytes(pem(authority().certificate))

    def refusal(self, text: str) -> str:
        """Why this is no place."""
        error = self.assertRaises(ConfigurationError, status_port, reactor, text)
        prefix = f"status={text}: "
        self.assertTrue(str(error).startswith(prefix), error)
        return str(error).removeprefix(prefix)

    def test_sockets(self) -> None:
        """A path is a UNIX socket: of its owner, who may do all."""
        for text in (
            "/run/x/control.sock",
            "unix:/run/x/control.sock",
            "unix:address=/run/x/control.sock",
        ):
            port = status_port(reactor, text)
            self.assertEqual(port.words, "/run/x/control.sock")
            self.assertIs(port.audience, Audience.OWNER)
            self.assertTrue(port.may_control)
        self.assertEqual(status_port(reactor, "~/s").words, os.path.expanduser("~/s"))
        here = os.path.abspath("s")
        expected = here if len(here) <= 100 else "./s"
        self.assertEqual(status_port(reactor, "./s").words, expected)

    def test_long_paths(self) -> None:
        """The way from here, where the whole path is too long for a socket; or a sentence."""
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        deep = os.path.join(os.path.abspath(self.mktemp()), "d" * 60, "e" * 60)
        os.makedirs(deep)
        os.chdir(deep)
        self.assertEqual(status_port(reactor, "./s.sock").words, "./s.sock")
        self.assertEqual(status_port(reactor, os.path.join(deep, "s.sock")).words, "./s.sock")
        self.assertIn("has more than the 100 bytes", self.refusal("./" + "f" * 101))

    def test_addresses(self) -> None:
        """A port is this machine's own, and there is nothing to be done from there."""
        for text, words in {
            "9090": "http://127.0.0.1:9090/",
            "localhost:9090": "http://127.0.0.1:9090/",
            "127.0.0.1:9090": "http://127.0.0.1:9090/",
            "127.8.8.8:9090": "http://127.8.8.8:9090/",
            "[::1]:9090": "http://[::1]:9090/",
            "tcp:9090:interface=127.0.0.1": "http://127.0.0.1:9090/",
            r"tcp:port=9090:interface=\:\:1": "http://[::1]:9090/",
        }.items():
            port = status_port(reactor, text)
            self.assertEqual(port.words, words)
            self.assertIs(port.audience, Audience.MACHINE)
            self.assertFalse(port.may_control)
            kind = TCP6ServerEndpoint if "::1" in words else TCP4ServerEndpoint
            self.assertIsInstance(port.endpoint, kind)

    def test_strangers(self) -> None:
        """Without TLS, nobody else can come."""
        for text in (
            "tcp:9090",
            "tcp:9090:interface=0.0.0.0",
            "0.0.0.0:9090",
            "192.0.2.1:9090",
            "[::]:9090",
            "front.example:9090",
            "tcp:9090:interface=",
        ):
            self.assertIn("without TLS the status is only for this machine", self.refusal(text))

    def test_certificates(self) -> None:
        """With TLS, whoever shows a certificate can, from anywhere."""
        start = f"bioconn:9443:privateKey={self.pair}"
        port = status_port(reactor, f"{start}:clientAuthorities={self.authority}")
        self.assertIsInstance(port.endpoint, ServerEndpoint)
        self.assertIs(port.audience, Audience.CERTIFIED)
        self.assertTrue(port.may_control)
        for text in (
            start,
            f"{start}:clientAuthorities={self.authority}:clientCertificate=verifyIfGiven",
            f"{start}:interface=0.0.0.0",
        ):
            self.assertIn("strangers could come here", self.refusal(text))
        port = status_port(reactor, f"{start}:interface=127.0.0.1")
        self.assertIs(port.audience, Audience.MACHINE)
        elsewhere = rf"bioconn:endpoint=tcp\:9443:privateKey={self.pair}:interface=127.0.0.1"
        self.assertRaises(ConfigurationError, status_port, reactor, elsewhere)

    def test_others(self) -> None:
        """What is wrong is said in a sentence, with the option and what was written."""
        for text, reason in {
            "": "this is neither the path of a socket",
            "ssl:9443": "this is neither the path of a socket",
            "systemd:domain=UNIX:index=0": "this is neither the path of a socket",
            "haproxy:tcp:9090": "this is neither the path of a socket",
            "unix:/s:mode=666": "unix: takes one path here",
            "unix:": "unix: takes one path here",
            "tcp:x:interface=127.0.0.1": "tcp: takes a port",
            "tcp:80:interface=127.0.0.1:backlog=5": "tcp: takes a port",
            "127.0.0.1:99999": "there is no port 99999",
            "bioconn:9443:privateKey=/no/such": "",
            "x\\": "it ends in a backslash",
        }.items():
            self.assertIn(reason, self.refusal(text))

    def test_default(self) -> None:
        self.assertEqual(default_socket("/var/lib/x"), "/var/lib/x/control.sock")


class CertifiedTests(TestCase):
    """TLS with client certificates, as a client has it."""

    def visit(self, port: int, pair: str | None, method: str, path: str) -> tuple[int, str]:
        """One request, in a thread: its status and its body."""
        context = ssl.create_default_context(cadata=pem(authority().certificate).decode())
        context.check_hostname = False
        if pair is not None:
            context.load_cert_chain(pair)
        connection = HTTPSConnection("127.0.0.1", port, context=context, timeout=200)
        try:
            connection.request(method, path, headers={"X-Bioconn-Control": "1"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    @inlineCallbacks
    def test_certificates(self) -> Any:
        """Whoever shows one may ask and have things done; whoever does not gets no answer."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        for name, data in {
            "server.pem": key_pem(server().key) + pem(server().certificate),
            "client.pem": key_pem(client().key) + pem(client().certificate),
            "ca.pem": pem(authority().certificate),
        }.items():
            (directory / name).write_bytes(data)
        place = status_port(
            reactor,
            f"bioconn:0:interface=127.0.0.1:privateKey={directory}/server.pem"
            f":clientAuthorities={directory}/ca.pem",
        )
        status = Status(
            ledger=Ledger(reactor),
            state=lambda: State.SERVING,
            controls=Controls(reload=lambda: "nothing has changed"),
        )
        port = yield place.endpoint.listen(StatusSite(status, place.audience))
        number, pair = port.getHost().port, f"{directory}/client.pem"
        answer = yield deferToThread(self.visit, number, pair, "GET", "/readyz")
        self.assertEqual(answer, (200, "ready\n"))
        code, body = yield deferToThread(self.visit, number, pair, "POST", "/control/reload")
        self.assertEqual((code, json.loads(body)["said"]), (200, "nothing has changed"))
        yield self.assertFailure(
            deferToThread(self.visit, number, None, "GET", "/readyz"), ssl.SSLError, OSError
        )
        yield port.stopListening()


class SocketTests(TestCase):
    """The UNIX socket, in the file system."""

    def setUp(self) -> None:
        # A socket's path has to be short: unix(7).
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.above = os.path.join(directory.name, "above")
        self.path = os.path.join(self.above, "state", "control.sock")

    def listen(self) -> Deferred[Any]:
        endpoint = status_port(reactor, self.path).endpoint
        return endpoint.listen(Factory.forProtocol(Protocol))

    @inlineCallbacks
    def test_owner(self) -> Any:
        """It is its owner's, and so is the directory that is made for it; it does not stay."""
        mask = os.umask(0)
        self.addCleanup(os.umask, mask)
        port = yield self.listen()
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        for made in (os.path.dirname(self.path), self.above):
            self.assertEqual(stat.S_IMODE(os.stat(made).st_mode), 0o700)
        yield port.stopListening()
        self.assertEqual(os.listdir(os.path.dirname(self.path)), [])

    @inlineCallbacks
    def test_left(self) -> Any:
        """A socket that was left by a process that is gone is in nobody's way."""
        os.makedirs(os.path.dirname(self.path))
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(self.path)
        port = yield self.listen()
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.connect(self.path)
        yield port.stopListening()

    @inlineCallbacks
    def test_taken(self) -> Any:
        """One on which somebody listens stays theirs."""
        port = yield self.listen()
        error = yield self.assertFailure(self.listen(), ConfigurationError)
        self.assertEqual(str(error), f"another process listens on {self.path}")
        self.assertTrue(os.path.exists(self.path))
        yield port.stopListening()

    @inlineCallbacks
    def test_no_socket(self) -> Any:
        """What is no socket is not removed."""
        os.makedirs(os.path.dirname(self.path))
        Path(self.path).touch()
        error = yield self.assertFailure(self.listen(), ConfigurationError)
        self.assertEqual(str(error), f"{self.path} is there, and is no socket")
        self.assertTrue(os.path.exists(self.path))
