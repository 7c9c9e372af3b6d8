"""
Twisted's log file, on a disk that is full at times.

C{LogFile} writes what there is room for: half a line, to which the next one is glued when there is
room again; and nobody hears that lines are missing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from twisted.logger import Logger, globalLogPublisher
from twisted.python.logfile import LogFile
from twisted.python.threadable import synchronize

__all__ = ["WholeLogFile", "keep_log_files_whole", "log_files"]

_log = Logger()


class WholeLogFile(LogFile):
    """
    A log file whose lines are whole, or end where the disk was full; and which says how many are
    missing once it can.
    """

    # An object of Twisted's becomes one of these: nothing is set by __init__.
    synchronized = ["write"]
    _missing = 0
    _is_cut = False
    _reason: str | None = None

    def write(self, data: Any) -> None:
        """
        Write a line; one that cannot be written is counted.
        """
        self.rotate_if_long()
        line: bytes = data.encode() if isinstance(data, str) else data
        if self._is_cut:
            line = b"\n" + line
        written = 0
        try:
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError as error:
            self._fails(error)
        self.size += written
        if written < len(line):
            if written:
                self._is_cut = not line[:written].endswith(b"\n")
            return
        self._is_cut = False
        if self._missing:
            count, self._missing = self._missing, 0
            _log.warn(
                "{count} lines are missing here: {path} could not be written: {reason}",
                count=count,
                path=self.path,
                reason=self._reason,
            )

    def rotate_if_long(self) -> None:
        """Begin another file, where this one is long enough."""
        if self.shouldRotate():  # type: ignore[no-untyped-call]
            self.rotate()  # type: ignore[no-untyped-call]

    def _fails(self, error: OSError) -> None:
        self._missing += 1
        self._reason = error.strerror
        if self._missing == 1 and sys.__stderr__ is not None:
            # There is nowhere else to say so.
            print(
                f"bioconn: the log {self.path} cannot be written: {error.strerror}",
                file=sys.__stderr__,
                flush=True,
            )


synchronize(WholeLogFile)


def log_files() -> Iterator[LogFile]:
    """The files that Twisted's log goes to."""
    # The observers that twistd has begun the log with. Neither they nor it give their parts away.
    for observer in getattr(globalLogPublisher, "_observers", ()):
        file = getattr(observer, "_outFile", None)
        if isinstance(file, LogFile):
            yield file


def keep_log_files_whole() -> None:
    """Have the log go on when the disk was full, and say so."""
    for file in log_files():
        if type(file) is LogFile:
            file.__class__ = WholeLogFile
