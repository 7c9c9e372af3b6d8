"""
Whether there is memory for one more connection.

Where a process may have so much and no more, as C{prlimit --as}, systemd's C{LimitAS=} and a kernel
that promises nothing it has not got (C{vm.overcommit_memory=2}) have it, the next allocation fails
wherever it happens to be: most likely in a connection that has long been there.  So some is left
for those: whoever comes is refused before the last of it is gone.

A process that has no such limit is never told that there is none.  In a group of processes with
one (cgroups(7), C{memory.max}) the kernel kills instead; a limit of the process's own below that
one makes it a refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from mmap import mmap
from time import monotonic

from twisted.logger import Logger

from ._malloc import heap

try:
    from resource import RLIM_INFINITY, RLIMIT_AS, RLIMIT_DATA, getrlimit
except ImportError:  # Windows has no such limits
    HAVE_LIMITS = False
else:
    HAVE_LIMITS = True

__all__ = ["RESERVE", "ROOM", "Room"]

RESERVE = 32 * 1024 * 1024
"""
Bytes that have to be there for a connection to be let in.

With them those that are there go on: the handshakes of a hundred that have begun take 12 MiB, and
what is held for one that does not read is less than one.
"""

LEAST = 2 * 1024 * 1024
"""The least that they become, where a process had little from the start."""

ASK_INTERVAL = 0.1
"""Seconds between two questions for the limits of a process, which may be changed as it runs."""

TELL_INTERVAL = 10.0
"""Seconds in which connections that are lost are told of once."""

_LOOK_INTERVAL = 0.25
"""Seconds between two looks at what is free in the heap: it takes long where that is in pieces."""

_STRICT = "2"
"""The kernel promises no more than it has: proc(5), C{/proc/sys/vm/overcommit_memory}."""

_log = Logger()


class Room:
    """
    The memory of this process.

    @ivar refused: how many connections were refused because too little was left.
    @ivar lost: how many were lost because there was none at all.
    """

    def __init__(
        self,
        is_limited: Callable[[], bool],
        reserve: int = RESERVE,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        """
        @param is_limited: whether the process has a limit at all: to try what can be had costs
            more.
        @param reserve: bytes that have to be there; where there are not twice as many from the
            start, they are fewer.
        @param seconds: what time it is.
        """
        self.refused = 0
        self.lost = 0
        self._is_limited = is_limited
        self._most = reserve
        self._reserve: int | None = None
        self._seconds = seconds
        self._refused_before: int | None = None
        self._quiet_until: float | None = None
        self._asked_at: float | None = None
        self._limited = False
        self._looked_at: float | None = None
        self._free = 0

    def is_there(self) -> bool:
        """
        Whether there is enough for one more connection.  Otherwise it is counted as refused.
        """
        now = self._seconds()
        if self._asked_at is None or now >= self._asked_at + ASK_INTERVAL:
            self._asked_at = now
            self._limited = self._is_limited()
        if not self._limited or self._has_reserve():
            if self._refused_before is not None:
                count, self._refused_before = self.refused - self._refused_before, None
                _log.info("there is memory again: {count} connections were refused", count=count)
            return True
        if self._refused_before is None:
            self._refused_before = self.refused
            _log.error(
                "connections are refused for now: there are no {reserve} bytes of memory left",
                reserve=self._reserve,
            )
        self.refused += 1
        return False

    def _has_reserve(self) -> bool:
        if self._reserve is None:
            self._reserve = self._most
            # Where there is little from the start, half of it is for those who come first.
            while self._reserve > LEAST and not _can_have(2 * self._reserve):
                self._reserve //= 2
        # Whoever goes makes room for the next one.  That is no end of it.
        more = 0 if self._refused_before is None else self._reserve // 4
        wanted = self._reserve + more
        return _can_have(wanted) or _can_have(wanted - self._heap())

    def _heap(self) -> int:
        now = self._seconds()
        if self._looked_at is None or now >= self._looked_at + _LOOK_INTERVAL:
            self._looked_at = now
            self._free = _free_in_heap()
        return self._free

    def is_gone(self) -> None:
        """There was none left for a connection, which is lost."""
        self.lost += 1
        now = self._seconds()
        if self._quiet_until is None or now >= self._quiet_until:
            self._quiet_until = now + TELL_INTERVAL
            _log.error("no memory is left: {count} connections are lost so far", count=self.lost)


def _can_have(size: int) -> bool:
    """Whether the kernel would give so many bytes."""
    if size <= 0:
        return True
    try:
        mmap(-1, size).close()
    except (OSError, MemoryError):
        return False
    return True


def _free_in_heap() -> int:
    """
    Bytes that connections have left behind for others: glibc keeps them, and the kernel counts them
    as the process's.
    """
    now = heap()
    return 0 if now is None else now.free


def _is_strict() -> bool:
    with suppress(OSError), open("/proc/sys/vm/overcommit_memory") as file:
        return file.read().strip() == _STRICT
    return False


_strict = _is_strict()


def _is_limited() -> bool:
    return _strict or (
        HAVE_LIMITS and not (getrlimit(RLIMIT_AS)[0] == getrlimit(RLIMIT_DATA)[0] == RLIM_INFINITY)
    )


ROOM = Room(_is_limited)
"""That of this process."""
