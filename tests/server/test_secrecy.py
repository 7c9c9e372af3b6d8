"""Tests for L{twisted_bioconn.server.secrecy}: what others see of a process that serves."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

from twisted.internet.endpoints import quoteStringArgument
from twisted.trial.unittest import SynchronousTestCase

from tests.programs import missing, require_module
from tests.server.command import Command
from tests.server.load import STARTED, SUCCEEDED, LifeCase
from twisted_bioconn.server._mistakes import blotted

PASSWORD = "7f3a%3A-a-password"


def linux() -> None:
    """Skip a test that looks into /proc."""
    if sys.platform != "linux":
        raise missing("the system is no Linux")


class CommandLineTests(LifeCase):
    """Where everybody can read it."""

    def words(self) -> list[str]:
        require_module("acme")
        require_module("txredisapi")
        phrase = Path(self.mktemp()).absolute()
        phrase.write_text("a passphrase\n")
        url = quoteStringArgument(f"redis://me:{PASSWORD}@127.0.0.1:1/0")
        options = "acme=none:names=a.example:acmeDirectory=https\\://127.0.0.1\\:1/"
        listen = f"bioconn:0:interface=127.0.0.1:{options}:redis={url}:passphraseFile={phrase}"
        return ["--listen", listen, "--echo"]

    def assert_blotted(self, pid: int, words: list[str]) -> None:
        """All of it is there, but for the password."""
        shown = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        self.assertNotIn(PASSWORD, "".join(shown))
        expected = [each.replace(PASSWORD, "*" * len(PASSWORD)) for each in words]
        self.assertEqual(shown[-len(words) - 1 :], [*expected, ""])
        self.assertNotIn(PASSWORD, Path(f"/proc/{pid}/environ").read_text())

    def test_processes(self) -> None:
        """The parent, its workers, and a new version, which is started by the same command line."""
        linux()
        words = self.words()
        command = Command(self, "--workers", "2", *words)
        command.port()
        pids = [command.pid, *(int(command.wait_for(STARTED)["pid"]) for _ in range(2))]
        for pid in pids:
            self.assert_blotted(pid, words)
        os.kill(command.pid, signal.SIGUSR2)
        successor = int(command.wait_for(SUCCEEDED)["pid"])
        self.addCleanup(self.kill, successor)
        self.assert_blotted(successor, words)
        os.kill(successor, signal.SIGTERM)
        self.until(lambda: self.is_gone(successor))

    def kill(self, pid: int) -> None:
        if not self.is_gone(pid):
            os.kill(pid, signal.SIGKILL)


class BlotTests(SynchronousTestCase):
    """One word of it."""

    def test_words(self) -> None:
        for before, after in (
            (b"--listen", b"--listen"),
            (b"", b""),
            (b"redis://:secret@host", b"redis://:******@host"),
            ("redis://:gehéim@hôst".encode(), "redis://:*******@hôst".encode()),
            (b"\xffredis://:s\xfecret@host\xff", b"\xffredis://:******@host\xff"),
            (b"redis://:***t@host", b"redis://:****@host"),
            (b"redis://:@@@host", b"redis://:**@host"),
            (b"a=redis://:b@c", b"a=redis://:*@c"),
        ):
            self.assertEqual(os.fsencode(blotted(os.fsdecode(before))), after)
            self.assertEqual(len(after), len(before))


class CoreTests(LifeCase):
    """What is left of a process that was killed by a signal which has the system dump its core."""

    #: As a program is started where cores are wanted.
    WANTED = (
        "-c",
        "import resource, runpy\n"
        "_, most = resource.getrlimit(resource.RLIMIT_CORE)\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (most, most))\n"
        "runpy.run_module('twisted_bioconn', run_name='__main__', alter_sys=True)",
    )

    def test_none(self) -> None:
        """There is none, of no process; who wants one can still have it."""
        linux()
        _, most = resource.getrlimit(resource.RLIMIT_CORE)
        if not most:
            raise missing("this system lets nobody have a core dump")
        command = Command(
            self, "--workers", "2", "--listen", "127.0.0.1:0", "--echo", start=self.WANTED
        )
        command.port()
        pids = [command.pid, *(int(command.wait_for(STARTED)["pid"]) for _ in range(2))]
        for pid in pids:
            self.assertEqual(resource.prlimit(pid, resource.RLIMIT_CORE), (1, most))
        os.kill(pids[1], signal.SIGABRT)
        command.wait_for(STARTED)
        os.kill(command.pid, signal.SIGABRT)
        self.assertEqual(command.ended(), -signal.SIGABRT)
        for pid in pids[1:]:
            self.until(lambda pid=pid: self.is_gone(pid))  # type: ignore[misc]
        self.assertEqual([*Path(command.directory).glob("*core*")], [])
