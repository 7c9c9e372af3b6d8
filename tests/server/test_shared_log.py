"""A log file that several processes write to. Here each of them is an object of its own."""

from __future__ import annotations

import os
import stat
import sys
from typing import Any, cast
from unittest import skipIf

from twisted.logger import FileLogObserver, globalLogPublisher
from twisted.python.logfile import LogFile
from twisted.trial.unittest import SynchronousTestCase

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
