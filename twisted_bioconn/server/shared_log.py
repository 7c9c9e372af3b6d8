"""
Twisted's rotated log file, written by several processes, and rotated by others.

C{LogFile} trusts that nobody else writes, renames or truncates its file: a second process would
overwrite what the first has written, write on to a file that was renamed, and rename it at the same
time.  With logrotate(8), a single process would write on to the file that it has renamed; or, where
that truncates it (C{copytruncate}), at the old place, with nothing but NUL bytes before it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress

from twisted.python.logfile import LogFile
from twisted.python.threadable import synchronize

from twisted_bioconn.server.whole_log import WholeLogFile, log_files

__all__ = ["SharedLogFile", "share_log_files"]


class SharedLogFile(WholeLogFile):
    """
    A log file that other processes write to as well. Each line goes to its end; whoever finds it
    long enough rotates it, and the others notice.
    """

    synchronized = ["rotate"]

    def rotate_if_long(self) -> None:
        """
        @see: L{WholeLogFile.rotate_if_long}
        """
        self._follow()
        if self.shouldRotate():
            self._rotate_if(self.shouldRotate)

    def shouldRotate(self) -> bool:
        """
        @see: L{LogFile.shouldRotate}
        """
        size = os.fstat(self._file.fileno()).st_size
        return bool(self.rotateLength) and size >= self.rotateLength

    def rotate(self) -> None:
        """
        @see: L{LogFile.rotate}
        """
        self._rotate_if(lambda: True)

    def _rotate_if(self, wanted: Callable[[], bool]) -> None:
        """
        Rotate it, if that is still wanted when nobody else is about to.
        """
        try:
            lock = os.open(self.path, os.O_RDWR)
        except OSError:
            # It is gone, or not ours to write to: then it is not rotated either.
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._follow()
            # Whoever had the lock before may have renamed it meanwhile.
            if self._is_current(lock) and wanted():
                LogFile.rotate(self)
        finally:
            os.close(lock)

    def append(self) -> None:
        """Have the kernel put each line at the end."""
        number = self._file.fileno()
        fcntl.fcntl(number, fcntl.F_SETFL, fcntl.fcntl(number, fcntl.F_GETFL) | os.O_APPEND)

    def _follow(self) -> None:
        """Write to the file that has the name now; if that cannot be, to the one as before."""
        old = self._file
        if self._is_current(old.fileno()):
            return
        with suppress(OSError):
            self._openFile()
            old.close()

    def _openFile(self) -> None:
        # Where two find that there is none, neither may empty what the other has begun; and whoever
        # has made it has given it the mode that it is to have.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            mode = 0o666 if self.defaultMode is None else 0o600
            number = os.open(self.path, flags | os.O_EXCL, mode)
        except FileExistsError:
            number = os.open(self.path, flags, mode)
        else:
            if self.defaultMode is not None:
                with suppress(OSError):
                    os.fchmod(number, self.defaultMode)
        self._file = os.fdopen(number, "rb+", buffering=0)
        self.size = os.fstat(number).st_size
        self.closed = False

    def _is_current(self, number: int) -> bool:
        """Is this open file the one that has the name now?"""
        with suppress(OSError):
            return os.path.samestat(os.fstat(number), os.stat(self.path))
        return False


synchronize(SharedLogFile)


def share_log_files() -> None:
    """
    Have the log files that Twisted's log goes to shared with the processes that are started later,
    and with programs that rotate them.
    """
    for file in log_files():
        if type(file) in (LogFile, WholeLogFile):
            file.__class__ = SharedLogFile
            file.append()  # type: ignore[attr-defined]
