"""What is printed of certificates, with no port opened."""

from __future__ import annotations

import os
import re
import signal
from io import StringIO
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.server.command import MODULE, TWIST, TWISTD, Command
from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.inspection import Shown, inspect, name_asked_for, show

STARTS = (MODULE, TWISTD, TWIST)
RELOADED = re.compile(r"reloaded: .*$")


class FilesCase(SynchronousTestCase):
    """Runs the command with certificates of its own."""

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.authority = DevelopmentAuthority(os.path.abspath(self.mktemp()))

    def put(self, file: str, *names: str) -> str:
        path = os.path.join(self.directory, file)
        with open(path, "wb") as pem:
            pem.write(self.authority.issue(names).to_pem())
        return path

    def listen(self, more: str = "") -> tuple[str, ...]:
        return (
            *("--listen", f"bioconn:0:interface=127.0.0.1:certificates={self.directory}{more}"),
            *("--forward", "localhost:1"),
        )

    def run_it(self, status: int, *words: str, start: tuple[str, ...] = MODULE) -> str:
        command = Command(self, *words, start=start)
        self.assertEqual(command.ended(), status, command.errors)
        self.assertEqual([line for line in command.lines if "listening on" in line], [])
        return "\n".join([*command.lines, *command.errors])


class ShowTests(FilesCase):
    """C{--show-certificates}."""

    def test_all_are_good(self) -> None:
        self.put("a.pem", "a.example", "*.b.example")
        for start in STARTS:
            said = self.run_it(0, *self.listen(), "--show-certificates", start=start)
            self.assertRegex(said, r"29 +EC secp256r1 +- +\S+a\.pem +a\.example, \*\.b\.example")

    def test_broken_file(self) -> None:
        self.put("a.pem", "a.example")
        path = os.path.join(self.directory, "bad.pem")
        with open(path, "w") as file:
            file.write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        said = self.run_it(1, *self.listen(), "--show-certificates")
        self.assertIn("a.example", said)
        self.assertRegex(said, f"error: .*{re.escape(path)}")

    def test_development(self) -> None:
        """It is renewed by us, so there is a date for that."""
        said = self.run_it(0, "--listen", "0", "--echo", "--show-certificates")
        self.assertRegex(said, r"EC secp256r1 +20\d\d-\d\d-\d\d \d\d:\d\d +\S+leaf.pem +localhost")

    def test_nothing_to_show(self) -> None:
        said = self.run_it(1, "--listen", "tcp:0", "--echo", "--show-certificates")
        self.assertIn("no certificates are looked after here", said)

    def test_store_that_has_nothing(self) -> None:
        listen = "bioconn:0:acme=none:names=a.example:state=kept"
        said = self.run_it(1, "--listen", listen, "--echo", "--show-certificates")
        self.assertIn("there is no certificate from letsencrypt yet", said)

    def test_store_that_is_not_there(self) -> None:
        passphrase = self.put("passphrase", "a.example")
        listen = (
            "bioconn:0:acme=none:names=a.example:redis=redis\\://127.0.0.1\\:1"
            f":passphraseFile={passphrase}"
        )
        said = self.run_it(1, "--listen", listen, "--echo", "--show-certificates")
        self.assertIn("error: redis://127.0.0.1:1 cannot be connected to", said)

    def test_name_in_no_encoding(self) -> None:
        out = StringIO()
        port = Shown("--listen \udcff\x1b[2J", "--echo", None)
        self.assertEqual(inspect(Clock(), [port], [show], out), 1)
        self.assertEqual(out.getvalue().splitlines()[0], r"--listen \udcff\x1b[2J")


class ExplainTests(FilesCase):
    """C{--explain}."""

    def test_known(self) -> None:
        self.put("a.pem", "a.example", "127.0.0.1")
        path = self.put("b.pem", "*.b.example")
        said = self.run_it(0, *self.listen(":unknownName=alert"), "--explain", "WWW.B.example")
        for words in (
            f"source        {path}",
            "certificate   *.b.example (EC secp256r1)",
            "policy        intermediate",
            "clients       no certificate is asked for",
            "unknown names are refused with the alert unrecognized_name",
            "target        --forward localhost:1",
        ):
            self.assertIn(words, said)
        said = self.run_it(0, *self.listen(), "--explain", "127.0.0.1")
        self.assertIn("certificate   a.example, 127.0.0.1", said)

    def test_unknown(self) -> None:
        self.put("a.pem", "shop.example")
        said = self.run_it(1, *self.listen(), "--explain", "shopp.example")
        self.assertIn("this is not a certificate for shopp.example: clients refuse it", said)
        self.assertIn("did you mean shop.example?", said)
        said = self.run_it(1, *self.listen(":unknownName=close"), "--explain", "x.example")
        self.assertIn("certificate   none: x.example is not known here", said)

    def test_clients(self) -> None:
        self.put("a.pem", "a.example")
        more = f":clientAuthorities={self.authority.certificate_path}"
        said = self.run_it(0, *self.listen(more), "--explain", "a.example")
        self.assertIn("clients       a certificate is required; authorities: 1", said)

    def test_what_nobody_asks_for(self) -> None:
        for text in ("", "a b", "*.example", "1.2.3", "a..b"):
            self.assertRaises(ConfigurationError, name_asked_for, text)
        said = self.run_it(1, *self.listen(), "--explain", "a b")
        self.assertEqual(
            said, "bioconn: --explain a b: this is neither a host name nor an IP address"
        )


class ReloadTests(FilesCase):
    """SIGHUP."""

    def names(self, command: Command, port: int) -> set[str]:
        with command.connect(port, authority=self.authority.certificate_path) as client:
            certificate: Any = client.getpeercert()
        assert certificate is not None
        return {name for _, name in certificate["subjectAltName"]}

    def test_one_process(self) -> None:
        self.put("a.pem", "localhost", "before.example")
        command = Command(self, *self.listen())
        port = command.port()
        self.assertIn("before.example", self.names(command, port))
        self.put("a.pem", "localhost", "after.example")
        os.kill(command.pid, signal.SIGHUP)
        line = command.wait_for(RELOADED)[0]
        self.assertEqual(line, "reloaded: 1 certificates are served, none failed")
        self.assertIn("after.example", self.names(command, port))
        path = self.put("a.pem", "localhost")
        with open(path, "w") as file:
            file.write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        os.kill(command.pid, signal.SIGHUP)
        line = command.wait_for(RELOADED)[0]
        self.assertIn("1 certificates are served, 1 failed: ", line)
        self.assertIn(path, line)
        self.assertIn("after.example", self.names(command, port))
        self.assertEqual(command.terminate(), 0)

    def test_workers(self) -> None:
        """The parent passes it on; a worker that gets it itself, as from a terminal, goes on."""
        self.put("a.pem", "localhost")
        command = Command(self, "--workers", "2", *self.listen())
        port = command.port()
        pids = [int(command.wait_for(re.compile(r"worker \d: pid (\d+)$"))[1]) for _ in range(2)]
        self.put("a.pem", "localhost", "after.example")
        for pid in (*pids, command.pid):
            os.kill(pid, signal.SIGHUP)
        for _ in pids:
            line = command.wait_for(RELOADED)[0]
            self.assertEqual(line, "reloaded: 1 certificates are served, none failed")
        for _ in range(10):
            self.assertIn("after.example", self.names(command, port))
        self.assertEqual(command.terminate(), 0)
        self.assertFalse([line for line in command.lines if "has ended with" in line])
