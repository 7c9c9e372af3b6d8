"""Disks that are small, and can be full or not to be written to."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import suppress

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.programs import require

__all__ = ["Disk"]


class Disk:
    """
    A disk of half a megabyte, in memory.

    @ivar path: where it is mounted.
    """

    def __init__(self, case: SynchronousTestCase, path: str) -> None:
        """
        @param path: an empty directory, or none yet.
        @raise SkipTest: we may not mount one.
        """
        self.path = path
        self._mount, self._umount = require("mount"), require("umount")
        os.makedirs(path, mode=0o700, exist_ok=True)
        options = "size=512k,nr_inodes=200,mode=0700"
        done = self._run(self._mount, "-t", "tmpfs", "-o", options, "bioconn", path)
        if done.returncode:
            raise SkipTest(f"it takes root to mount a disk: {done.stderr.strip()}")
        case.addCleanup(self._run, self._umount, "-l", path)

    def fill(self) -> None:
        """Leave no room on it."""
        filler = os.open(self._filler, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        try:
            for size in (4096, 1):
                with suppress(OSError):
                    while True:
                        os.write(filler, bytes(size))
        finally:
            os.close(filler)

    def make_room(self) -> None:
        """Let there be room again."""
        os.unlink(self._filler)

    def protect(self) -> None:
        """Let nobody write to it."""
        self._remount("ro")

    def unprotect(self) -> None:
        """Let all write to it again."""
        self._remount("rw")

    @property
    def files(self) -> list[str]:
        """The paths of all files there, but for what fills it."""
        return sorted(
            os.path.relpath(os.path.join(folder, name), self.path)
            for folder, _, names in os.walk(self.path)
            for name in names
            if os.path.join(folder, name) != self._filler
        )

    @property
    def _filler(self) -> str:
        return os.path.join(self.path, "filler")

    def _remount(self, how: str) -> None:
        done = self._run(self._mount, "-o", f"remount,{how}", self.path)
        if done.returncode:
            raise OSError(errno.EBUSY, done.stderr)

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False)
