"""A log file that several processes write to. Here each of them is an object of its own."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, cast
from unittest import skipIf

from twisted.logger import FileLogObserver, globalLogPublisher
from twisted.python.logfile import LogFile
from twisted.trial.unittest import SynchronousTestCase

from tests.peers.processes import free_port
from tests.programs import require
from tests.server.command import TWISTD, Command

if sys.platform != "win32":
    import fcntl

    from twisted_bioconn.server.shared_log import SharedLogFile, share_log_files


@skipIf(sys.platform == "win32", "it takes a system with fork")
class SharedLogFileTests(SynchronousTestCase):
    """Two that have the same file open."""

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.makedirs(self.directory)
        self.one, self.other = self.open(), self.open()

    def open(self, length: int | None = 1000) -> SharedLogFile:
        file = SharedLogFile("its.log", self.directory, rotateLength=length)
        self.addCleanup(file.close)
        return file

    def text(self, name: str = "its.log") -> str:
        with open(os.path.join(self.directory, name)) as file:
            return file.read()

    def test_none_overwrites_the_other(self) -> None:
        self.one.write("a\n")
        self.other.write("b\n")
        self.one.write(b"c\n")
        self.assertEqual(self.text(), "a\nb\nc\n")

    def test_other_follows(self) -> None:
        self.one.write("a\n")
        self.one.rotate()
        self.other.write("b\n")
        self.one.write("c\n")
        self.assertEqual((self.text("its.log.1"), self.text()), ("a\n", "b\nc\n"))

    def test_rotated_once(self) -> None:
        """Two find it long enough, and one is quicker."""
        self.one.write("a" * 1000)
        self.assertTrue(self.other.shouldRotate())
        self.one.write("b\n")
        self.other._rotate_if(self.other.shouldRotate)
        self.other.write("c\n")
        self.assertEqual(sorted(os.listdir(self.directory)), ["its.log", "its.log.1"])
        self.assertEqual(self.text(), "b\nc\n")

    def test_rotated_at_once_by_two(self) -> None:
        """What one waits to rotate has another name when its turn comes."""
        self.one.write("a\n")
        lock = fcntl.flock

        def slow(number: int, operation: int) -> None:
            self.patch(fcntl, "flock", lock)
            self.other.rotate()
            lock(number, operation)

        self.patch(fcntl, "flock", slow)
        self.one.rotate()
        self.assertEqual(sorted(os.listdir(self.directory)), ["its.log", "its.log.1"])
        self.assertEqual(self.text("its.log.1"), "a\n")

    def test_rotated_by_one_that_was_behind(self) -> None:
        self.one.write("a\n")
        self.one.rotate()
        self.one.write("b\n")
        self.other.rotate()
        self.assertEqual(self.text("its.log.2"), "a\n")
        self.assertEqual((self.text("its.log.1"), self.text()), ("b\n", ""))

    def test_length_is_of_all_together(self) -> None:
        for _ in range(5):
            self.one.write("a" * 100)
            self.other.write("b" * 100)
        self.other.write("c")
        self.assertEqual(len(self.text("its.log.1")), 1000)
        self.assertEqual(self.text(), "c")

    def test_never_too_long(self) -> None:
        file = self.open(None)
        file.write("a" * 5000)
        file.write("b")
        self.assertEqual(os.listdir(self.directory), ["its.log"])

    def test_file_that_was_removed(self) -> None:
        """By a program that rotates logs, say."""
        os.rename(os.path.join(self.directory, "its.log"), os.path.join(self.directory, "old"))
        self.one.rotate()
        self.one.write("a\n")
        self.other.write("b\n")
        self.assertEqual(self.text(), "a\nb\n")

    def test_directory_that_was_removed(self) -> None:
        """What is logged goes where it went before; nothing fails."""
        os.remove(os.path.join(self.directory, "its.log"))
        os.rmdir(self.directory)
        self.one.write("a\n")
        self.one.rotate()
        self.assertFalse(os.path.exists(self.directory))
        os.makedirs(self.directory)
        self.one.write("b\n")
        self.assertEqual(self.text(), "b\n")

    def test_mode(self) -> None:
        path = os.path.join(self.directory, "its.log")
        os.chmod(path, 0o640)
        file = self.open()
        file.rotate()
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o640)

    def test_mode_that_somebody_else_gave_it(self) -> None:
        path = os.path.join(self.directory, "its.log")
        os.chmod(path, 0o640)
        file = self.open()
        os.rename(path, f"{path}.1")
        with open(path, "x"):
            os.chmod(path, 0o604)
        file.write("a\n")
        self.assertEqual(self.text(), "a\n")
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o604)

    def test_twistds_file(self) -> None:
        """What twistd has opened is shared from now on, with what was forked with it open too."""
        plain = LogFile("its.log", self.directory)
        self.addCleanup(plain.close)
        observer = FileLogObserver(cast(Any, plain), lambda event: str(event["text"]))
        self.patch(globalLogPublisher, "_observers", [observer])
        share_log_files()
        self.assertIs(type(plain), SharedLogFile)
        self.one.write("a\n")
        observer({"text": "b\n"})
        self.assertEqual(self.text(), "a\nb\n")


@skipIf(sys.platform == "win32", "it takes a system that renames open files")
class RotatedTests(SynchronousTestCase):
    """The log of a single process, while it is rotated by somebody else."""

    def start(self) -> None:
        self.port = free_port()
        start = (*TWISTD[:-1], "--logfile=its.log", TWISTD[-1])
        words = ("--listen", f"127.0.0.1:{self.port}", "--echo")
        self.command = Command(self, *words, start=start)
        # logrotate leaves a directory alone in which others could put files.
        os.chmod(self.command.directory, 0o755)
        self.until(lambda: "listening on" in self.text("its.log"))

    def until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + 300
        while not holds():
            self.assertTrue(self.command.is_running, self.text("its.log"))
            self.assertLess(time.monotonic(), deadline, self.text("its.log"))
            time.sleep(0.01)

    def path(self, name: str = "its.log") -> str:
        return os.path.join(self.command.directory, name)

    def text(self, name: str) -> str:
        try:
            with open(self.path(name)) as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def cause_line(self) -> str:
        """
        Have it log a line.

        @return: what stands in no other line.
        """
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            client.shutdown(socket.SHUT_WR)
            while client.recv(1000):
                pass
            mark = f"127.0.0.1:{client.getsockname()[1]} "
        self.until(lambda: mark in self.text("its.log") + self.text("its.log.1"))
        return mark

    def rotated(self, rotate: Callable[[], object]) -> None:
        """Each line is in the file of its time, whole, and in no other."""
        self.start()
        for _ in range(2):
            before = [self.cause_line() for _ in range(3)]
            rotate()
            after = [self.cause_line() for _ in range(3)]
            old, new = self.text("its.log.1"), self.text("its.log")
            self.assertEqual([old.count(mark) for mark in before], [1, 1, 1])
            self.assertEqual([new.count(mark) for mark in after], [1, 1, 1])
            self.assertNotIn("\0", new)
            self.assertFalse([mark for mark in before if mark in new])
        self.assertEqual(self.command.terminate(), 0)
        self.assertIn("Server Shut Down", self.text("its.log"))
        self.assertEqual(self.command.errors, [])

    def logrotate(self, *directives: str) -> None:
        program = require("logrotate")

        def rotate() -> None:
            configuration = self.path("rotation")
            with open(configuration, "w") as file:
                file.write("\n".join([f'"{self.path()}" {{', "rotate 5", *directives, "}", ""]))
            os.chmod(configuration, 0o644)
            command = [program, "--force", "--state", self.path("state-of-it"), configuration]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            self.assertEqual((done.returncode, done.stderr), (0, ""))

        self.rotated(rotate)

    def test_renamed(self) -> None:
        self.rotated(lambda: os.rename(self.path(), self.path("its.log.1")))

    def test_truncated(self) -> None:
        def rotate() -> None:
            with open(self.path("its.log.1"), "w") as file:
                file.write(self.text("its.log"))
            os.truncate(self.path(), 0)

        self.rotated(rotate)

    def test_signal(self) -> None:
        """SIGUSR1, on which twistd begins a new file itself."""

        def rotate() -> None:
            files = len(os.listdir(self.path("")))
            os.kill(self.command.pid, signal.SIGUSR1)
            self.until(lambda: len(os.listdir(self.path(""))) > files)

        self.rotated(rotate)

    def test_logrotate(self) -> None:
        """It leaves the file to the process, which makes it anew."""
        self.logrotate("nocreate")

    def test_logrotate_creates(self) -> None:
        """It makes the new one, whose mode may be another."""
        self.logrotate("create 0600")
        self.assertEqual(stat.S_IMODE(os.stat(self.path()).st_mode), 0o600)

    def test_logrotate_truncates(self) -> None:
        """It copies the file, and empties it."""
        self.logrotate("copytruncate")
