"""Tests for L{twisted_bioconn.trace.command}; with real servers it is in C{tests.peers}."""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.shell import CHECKOUT
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.trace.command import Command, _for_command_line, _write, split_address


class OptionTests(SynchronousTestCase):
    """Mistakes are one line, which names the option."""

    def mistake(self, *argv: str) -> str:
        error = self.assertRaises(SystemExit, Command, argv, StringIO(), StringIO())
        sentence = error.code
        assert isinstance(sentence, str)
        self.assertTrue(sentence.startswith("bioconn trace: "), sentence)
        self.assertTrue(sentence.isprintable())
        return sentence.removeprefix("bioconn trace: ")

    def test_mistakes(self) -> None:
        there = self.mktemp()
        os.mkdir(there)
        for words, part in (
            ("", "HOST:PORT"),
            ("localhost:x", "'x' is no port"),
            ("localhost:0", "nobody can be at port 0"),
            ("::1:443", "brackets"),
            ("a..b", "is no host name"),
            ("localhost --polcy modern", "--polcy"),
            ("localhost --policy modren", "--policy: There is no policy 'modren'"),
            ("localhost --alpn ,", "--alpn="),
            ("localhost --alpn=", "--alpn= has no value"),
            ("localhost --starttls foo", "--starttls"),
            ("localhost --trust-roots /nowhere", "--trust-roots: /nowhere does not exist"),
            ("localhost --certificate /nowhere", "--certificate: /nowhere does not exist"),
            ("localhost --private-key k", "--private-key= needs --certificate="),
            ("localhost --passphrase-file k", "--passphrase-file= needs --certificate="),
            ("localhost --pins 12", "--pins: the pin"),
            ("localhost --timeout -1", "--timeout"),
            ("localhost --timeout off", "--timeout=off"),
            ("localhost --timeout nan", "--timeout=nan"),
            ("localhost --server-name a..b", "--server-name: 'a..b'"),
            ("localhost --unsafe-skip-verification --pins " + "00" * 32, "--pins= mean nothing"),
            (f"localhost --html {there}", "this is a directory"),
            ("localhost --pcapng /nowhere/file", "there is no directory /nowhere"),
        ):
            self.assertIn(part, self.mistake(*words.split()))

    def test_addresses(self) -> None:
        for where, host, port in (
            ("localhost", "localhost", 443),
            ("localhost:8443", "localhost", 8443),
            ("[::1]", "::1", 443),
            ("[::1]:8443", "::1", 8443),
            ("192.0.2.1:1", "192.0.2.1", 1),
            ("Bücher.example", "xn--bcher-kva.example", 443),
        ):
            self.assertEqual(split_address(where), (host, port))
        for where in ("a:b:c", "[::1", "[]:1", ":443", "a:"):
            self.assertRaises(ConfigurationError, split_address, where)

    def test_names_of_options(self) -> None:
        self.assertEqual(
            _for_command_line("trustRoots: no; use pins= or serverName=x"),
            "--trust-roots: no; use --pins= or --server-name=x",
        )

    def test_help(self) -> None:
        """It is there, and names each option."""
        stdout = StringIO()
        self.patch(sys, "stdout", stdout)
        error = self.assertRaises(SystemExit, Command, ["--help"], StringIO(), StringIO())
        self.assertEqual(error.code, 0)
        for option in ("--pcapng", "--html", "--resume", "--unsafe-trace-secrets"):
            self.assertIn(option, stdout.getvalue())


class FileTests(SynchronousTestCase):
    """What is written is nobody else's."""

    def test_mode(self) -> None:
        path = Path(self.mktemp())
        path.write_text("what was there before, and was for all to read")
        path.chmod(0o644)
        _write(str(path), b"new")
        self.assertEqual((path.read_bytes(), path.stat().st_mode & 0o777), (b"new", 0o600))


class ProcessTests(SynchronousTestCase):
    """The program."""

    def run_trace(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "twisted_bioconn", "trace", *words],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def test_mistake(self) -> None:
        done = self.run_trace("localhost", "--alpn=")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(done.stderr, "bioconn trace: --alpn= has no value\n")

    def test_nobody(self) -> None:
        """A port at which nobody listens."""
        done = self.run_trace("127.0.0.1:1")
        self.assertEqual((done.returncode, done.stderr), (1, ""))
        self.assertIn("Not good: nobody answers at 127.0.0.1:1", done.stdout)

    def test_no_room(self) -> None:
        """What cannot be written is said in a line."""
        if not os.path.exists("/dev/full"):
            return
        done = self.run_trace("127.0.0.1:1", "--pcapng", "/dev/full")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr, "bioconn trace: /dev/full: No space left on device\n")
