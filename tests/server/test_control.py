"""Tests for L{twisted_bioconn.server.control}."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from datetime import timedelta
from io import StringIO
from threading import Thread
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.server.command import ROOT
from tests.server.status_material import having
from tests.server.test_facts import NOW, USUAL, certificate
from tests.server.test_ledger import SENTENCE, layer
from tests.test_reactor import run_python
from twisted_bioconn import __version__
from twisted_bioconn.certificates.source import CertificateFacts
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.limits import Limit
from twisted_bioconn.server import control
from twisted_bioconn.server.control import _bytes, _Command, _parser, _span
from twisted_bioconn.server.drain import State
from twisted_bioconn.server.ledger import Ledger
from twisted_bioconn.server.status import Controls, Status, StatusSite
from twisted_bioconn.server.status_ports import status_port

PROGRAM = "import sys; from twisted_bioconn.server.control import main; main(sys.argv[1:])"


class ControlCase(TestCase):
    """A server that is asked over its socket."""

    @inlineCallbacks
    def setUp(self) -> Any:  # type: ignore[override]
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, "control.sock")
        self.ledger = Ledger(reactor, now=NOW.timestamp)
        self.state = State.SERVING
        self.status = Status(
            ledger=self.ledger,
            state=lambda: self.state,
            controls=Controls(reload=lambda: "2 of 5 have changed"),
        )
        port = status_port(reactor, self.path)
        listening = yield port.endpoint.listen(StatusSite(self.status, port.audience))
        self.addCleanup(listening.stopListening)

    @inlineCallbacks
    def run_command(self, *words: str) -> Any:
        """
        Run a command in this process.

        @return: its exit status, and the lines that it has written to stdout and to stderr.
        """
        stdout, stderr = StringIO(), StringIO()
        asked = _parser().parse_args([*words])
        status = 0
        try:
            yield _Command(self.path, stdout, stderr, asked).run(reactor)
        except SystemExit as end:
            status = int(str(end.code))
        return status, stdout.getvalue().splitlines(), stderr.getvalue().splitlines()


class QuestionTests(ControlCase):
    """What can be asked."""

    def fill(self) -> None:
        """Something has happened."""
        account = self.ledger.account("--listen 8443", "an echo")
        account.address = "127.0.0.1:8443"
        tls = layer()
        account.begun(tls)
        facts = attrs.evolve(USUAL, peer_chain=(certificate(),), server_name="a\x1b.example")
        account.let_in(tls, facts)
        account.begun(layer(50001))
        account.not_let_in(None, "192.0.2.1:1", SENTENCE, 1)
        account.refused(Limit.CONNECTIONS)

    @inlineCallbacks
    def test_status(self) -> Any:
        self.fill()
        status, lines, errors = yield self.run_command("status")
        self.assertEqual((status, errors), (0, []))
        self.assertEqual(lines[0], f"twisted_bioconn {__version__}, process {os.getpid()}: ready")
        self.assertEqual(
            lines[3:],
            [
                "connections  1 open, 1 in the handshake, 0 closing",
                "handshakes   1 done (0 resumed), 1 failed, 0 said nothing",
                "latency      half within 4.2 ms, 99 of 100 within 4.2 ms",
                "traffic      2.47 kB in, 11.4 kB out",
                "failed: 1    http",
                "refused: 1   maxConnections has been reached",
                "",
                "open  done  failed  in       out      port",
                "1     1     1       2.47 kB  11.4 kB  --listen 8443 127.0.0.1:8443 an echo",
            ],
        )

    @inlineCallbacks
    def test_not_ready(self) -> Any:
        """A script can tell."""
        self.state = State.DRAINING
        self.status.worker = 2
        status, lines, _ = yield self.run_command("status")
        self.assertEqual(status, 1)
        self.assertIn(", worker 2: not ready: draining", lines[0])

    @inlineCallbacks
    def test_json(self) -> Any:
        """A program gets what the server says."""
        self.fill()
        for name, expected in (
            ("status", lambda told: told["state"] == "serving"),
            ("connections", lambda told: [each["number"] for each in told] == [1, 2]),
            ("certificates", lambda told: told == []),
            ("failures", lambda told: told[0]["cause"] == "http"),
            ("reload", lambda told: told["done"] == "reload"),
        ):
            _, lines, _ = yield self.run_command(name, "--json")
            self.assertTrue(expected(json.loads("\n".join(lines))), name)

    @inlineCallbacks
    def test_connections(self) -> Any:
        """As a table, of all that there are, with nothing in it that a terminal would obey."""
        self.fill()
        self.patch(control, "PAGE", 3)
        account = self.ledger.accounts[0]
        for port in range(5):
            account.begun(layer(port))
        _, lines, _ = yield self.run_command("connections")
        self.assertEqual(len(lines), 1 + 7)
        self.assertTrue(lines[0].startswith("number  peer             name"))
        self.assertIn(r"192.0.2.7:50000  a\x1b.example  open", lines[1])
        self.assertTrue(lines[1].endswith("TLSv1.3 X25519MLKEM768 h2  CN=alice  --listen 8443"))
        self.assertIn("-", lines[2])

    @inlineCallbacks
    def test_certificates(self) -> Any:
        good = CertificateFacts(
            names=("a.example", "b.example"),
            source="/etc/a.pem",
            key_type="EC secp256r1",
            not_before=NOW,
            not_after=NOW + timedelta(days=45.6),
            next_renewal=NOW + timedelta(days=15),
        )
        bad = CertificateFacts(names=(), source="/etc/b.pem", last_error="it is empty")
        self.status.options = lambda: [having(good, bad)]
        _, lines, _ = yield self.run_command("certificates")
        end, renewal = ((NOW + timedelta(days=days)).date().isoformat() for days in (45.6, 15))
        row = f"45.6       {end}  {renewal}  EC secp256r1  a.example, b.example  /etc/a.pem"
        self.assertEqual(lines[1], row)
        self.assertEqual(lines[3], "error: -: it is empty")

    @inlineCallbacks
    def test_failures(self) -> Any:
        _, lines, _ = yield self.run_command("failures")
        self.assertEqual(lines, ["none has failed since the start"])
        self.fill()
        _, lines, _ = yield self.run_command("failures")
        self.assertEqual([line[21:] for line in lines], ["it is HTTP.", "use https."])

    @inlineCallbacks
    def test_memory(self) -> Any:
        """Process by process; of the types those with most objects."""
        self.patch(control, "MOST_TYPES", 3)
        status, lines, errors = yield self.run_command("memory")
        self.assertEqual((status, errors), (0, []))
        self.assertRegex(lines[0], rf"^process {os.getpid()}: \d+ delayed calls, \d+ deadlines$")
        self.assertRegex(lines[1], r"^Python's small objects +\d+ blocks$")
        self.assertRegex(lines[-5], r"^objects since the start  \d+$")
        self.assertRegex(lines[-4], "^number +type$")
        numbers = [int(line.split()[0]) for line in lines[-3:]]
        self.assertEqual(numbers, sorted(numbers, reverse=True))
        _, lines, _ = yield self.run_command("memory", "--json")
        self.assertEqual(json.loads("\n".join(lines))[0]["pid"], os.getpid())


class OrderTests(ControlCase):
    """What can be done."""

    @inlineCallbacks
    def test_done(self) -> Any:
        tls: Any = layer()
        self.ledger.account("port").begun(tls)
        outcome = yield self.run_command("reload")
        self.assertEqual(outcome, (0, ["2 of 5 have changed"], []))
        outcome = yield self.run_command("close", "1")
        self.assertEqual(outcome, (0, ["connection 1 is closed"], []))
        self.assertTrue(tls.aborted)

    @inlineCallbacks
    def test_renew(self) -> Any:
        """All, or what is served for one name, whatever that is."""
        asked: list[str | None] = []
        self.status.controls.renew = asked.append
        names = ("a.example", "*.a.example", "::1", "b\u00fccher/../x?y#z%2f", " ")
        for words in ((), *((name,) for name in names)):
            outcome = yield self.run_command("renew", *words)
            self.assertEqual(outcome, (0, ["renew: done"], []))
        self.assertEqual(asked, [None, *names])

    @inlineCallbacks
    def test_refused(self) -> Any:
        """What the server says against it is told, with a status that is not 0."""
        outcome = yield self.run_command("close", "7")
        self.assertEqual(outcome, (1, [], ["bioconn: there is no connection 7"]))
        outcome = yield self.run_command("drain")
        self.assertEqual(outcome, (1, [], ["bioconn: this server has nothing to drain"]))

        def wrong() -> None:
            raise ConfigurationError("a.toml:3: there is no key 'listn'")

        self.status.controls.reload = wrong
        outcome = yield self.run_command("reload")
        sentence = "bioconn: reload: a.toml:3: there is no key 'listn'"
        self.assertEqual(outcome, (1, [], [sentence]))


class UnreachableTests(ControlCase):
    """Where there is no server."""

    @inlineCallbacks
    def test_absent(self) -> Any:
        self.path = f"{self.path}.not"
        outcome = yield self.run_command("status")
        reason = f"bioconn: no server answers at {self.path}: No such file or directory"
        self.assertEqual(outcome, (3, [], [reason]))

    @inlineCallbacks
    def test_others(self) -> Any:
        """It may be another program's socket, which says something else, or nothing."""
        for said, status, reason in (
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 1, "is no socket of a bioconn"),
            (b"", 3, "no server answers at"),
            (b"220 smtp.example ESMTP\r\n", 3, "no server answers at"),
        ):
            self.path = f"{self.path}.s"
            with socket.socket(socket.AF_UNIX) as port:
                port.bind(self.path)
                port.listen()

                def answer(port: socket.socket = port, said: bytes = said) -> None:
                    visitor = port.accept()[0]
                    with visitor:
                        visitor.recv(4096)
                        visitor.sendall(said)

                thread = Thread(target=answer)
                thread.start()
                outcome = yield self.run_command("status")
                yield deferToThread(thread.join)
            self.assertEqual(outcome[:2], (status, []), said)
            self.assertIn(reason, outcome[2][0])


class ProgramTests(ControlCase):
    """The command as a program."""

    @inlineCallbacks
    def run_program(self, *words: str, **environ: str) -> Any:
        """Its exit status, what it has written to stdout, and to stderr."""
        # Not by the reactor, which on uvloop may never learn that a process has ended.
        ended = yield deferToThread(run_python, "-c", PROGRAM, *words, environ=environ)
        return ended.returncode, ended.stdout, ended.stderr

    @inlineCallbacks
    def test_status(self) -> Any:
        """It finds the socket by itself where that is in its usual place."""
        status, said, errors = yield self.run_program(
            "status", STATE_DIRECTORY=os.path.dirname(self.path)
        )
        self.assertEqual((status, errors), (0, ""))
        self.assertIn(": ready\n", said)

    @inlineCallbacks
    def test_failures(self) -> Any:
        """A wrong word is status 2, and no server 3."""
        status, _, errors = yield self.run_program("statsu")
        self.assertEqual(status, 2)
        self.assertIn("invalid choice: 'statsu'", errors)
        status, _, errors = yield self.run_program("status", "--socket", "/no/such")
        self.assertEqual(status, 3)
        self.assertEqual(len(errors.splitlines()), 1)
        status, _, errors = yield self.run_program("close")
        self.assertEqual(status, 2)

    @inlineCallbacks
    def test_enough(self) -> Any:
        """Whoever reads what it prints may stop reading: that is no trouble."""
        ours, theirs = os.pipe()
        os.close(ours)
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "status", "--socket", self.path],
            env={**os.environ, "PYTHONPATH": ROOT},
            stdout=theirs,
            stderr=subprocess.PIPE,
        )
        os.close(theirs)
        _, errors = yield deferToThread(program.communicate)
        self.assertEqual((program.returncode, errors), (0, b""))


class WordTests(SynchronousTestCase):
    """How numbers are told."""

    def test_bytes(self) -> None:
        told = [_bytes(number) for number in (0, 999, 1000, 1536, 2_500_000, 10**12, 10**17)]
        self.assertEqual(told, ["0 B", "999 B", "1 kB", "1.54 kB", "2.5 MB", "1 TB", "100 PB"])

    def test_spans(self) -> None:
        told = [_span(seconds) for seconds in (0.4, 59, 61, 3700, 90061)]
        self.assertEqual(told, ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"])
