"""Tests for L{twisted_bioconn.server.whole_log}."""

from __future__ import annotations

import errno
import os
import sys
from io import StringIO
from typing import Any

from twisted.logger import FileLogObserver, formatEvent, globalLogPublisher
from twisted.python.logfile import LogFile
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.server.whole_log import WholeLogFile, keep_log_files_whole, log_files


class Disk:
    """
    A file on a disk with so much room.

    @ivar room: bytes that can be written yet.
    """

    def __init__(self, file: Any) -> None:
        self.room = 10**6
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = min(len(data), self.room)
        self.room -= written
        self._file.write(data[:written])
        return written


class WholeLogFileTests(SynchronousTestCase):
    """A log that the disk has no room for, for some time."""

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.makedirs(self.directory)
        self.path = os.path.join(self.directory, "its.log")
        self.file = WholeLogFile("its.log", self.directory)
        self.addCleanup(self.file.close)
        self.disk = Disk(self.file._file)
        self.file._file = self.disk  # type: ignore[assignment]
        self.stderr = StringIO()
        self.patch(sys, "__stderr__", self.stderr)
        observer = FileLogObserver(
            self.file,  # type: ignore[arg-type]
            lambda event: f"{formatEvent(event)}\n",
        )
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def text(self) -> str:
        with open(self.path) as file:
            return file.read()

    def test_full(self) -> None:
        """
        Of a line of which there is only half, no other is a part; and the log says how many are
        missing.
        """
        self.file.write("one\n")
        self.disk.room = 2
        for line in ("two\n", "three\n", b"four\n"):
            self.file.write(line)
        self.assertEqual(self.text(), "one\ntw")
        self.assertEqual(
            self.stderr.getvalue(),
            f"bioconn: the log {self.path} cannot be written: No space left on device\n",
        )
        self.disk.room = 10**6
        self.file.write("five\n")
        missing = (
            f"3 lines are missing here: {self.path} could not be written: No space left on device\n"
        )
        self.assertEqual(self.text(), f"one\ntw\nfive\n{missing}")
        self.file.write("six\n")
        self.assertEqual(self.text(), f"one\ntw\nfive\n{missing}six\n")
        self.assertEqual(self.file.size, len(self.text()))
        # The next time is another one.
        self.disk.room = 0
        self.file.write("seven\n")
        self.assertEqual(self.stderr.getvalue().count("No space left"), 2)

    def test_whole_line(self) -> None:
        """What ends with a line has none cut."""
        self.disk.room = 4
        for line in ("one\n", "two\n"):
            self.file.write(line)
        self.disk.room = 100
        self.file.write("three\n")
        self.assertTrue(self.text().startswith("one\nthree\n1 lines are missing"))

    def test_nowhere_to_say_so(self) -> None:
        self.patch(sys, "__stderr__", None)
        self.disk.room = 0
        self.file.write("one\n")
        self.assertEqual(self.text(), "")

    def test_rotated(self) -> None:
        self.file.rotateLength = 4
        self.file.write("one\n")
        self.file.write("two\n")
        self.assertEqual(self.text(), "two\n")


class KeepTests(SynchronousTestCase):
    """The files of the log."""

    def test_kept(self) -> None:
        """Those of Twisted's kind become ones of ours, and nothing else does."""
        directory = os.path.abspath(self.mktemp())
        os.makedirs(directory)
        file = LogFile("its.log", directory)
        self.addCleanup(file.close)
        file.write("one\n")
        for written in (file, StringIO()):
            observer = FileLogObserver(written, lambda event: None)  # type: ignore[arg-type]
            globalLogPublisher.addObserver(observer)
            self.addCleanup(globalLogPublisher.removeObserver, observer)
        for _ in range(2):
            keep_log_files_whole()
            self.assertIs(type(file), WholeLogFile)
        self.assertIn(file, list(log_files()))
        file.write("two\n")
        with open(file.path) as opened:
            self.assertEqual(opened.read(), "one\ntwo\n")
