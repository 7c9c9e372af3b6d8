"""
Whether there are descriptors for one more connection, and for all that it takes.

One that is relayed takes two, and the second only when its client has been let in.  Where each
client that was accepted has taken the last descriptor of another's back end, all of them are lost.
So a port accepts no more than can be served; who comes waits in the kernel's queue until there is
room.  Some are kept besides: to write a certificate that was renewed, and to tell the status, takes
descriptors too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic

from twisted_bioconn._room import ASK_INTERVAL

try:
    from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
except ImportError:  # Windows has no such limit
    HAVE_LIMITS = False
else:
    HAVE_LIMITS = True

__all__ = ["SPARE", "Descriptors"]

SPARE = 16
"""Descriptors that no connection gets, where there may be at least four times as many."""

_GIVEN = 256
"""
How many are given after a count, where there are few.  Of all that there are, they are an eighth.
"""

_HYSTERESIS = 64
"""Where there were none left, one in so many has to be free: to count them takes a while."""


def _most() -> int | None:
    """How many this process may have; L{None} for any number."""
    if not HAVE_LIMITS:
        return None
    soft = getrlimit(RLIMIT_NOFILE)[0]
    return None if soft == RLIM_INFINITY else soft


def _used() -> int | None:
    """How many it has; L{None} where that cannot be known."""
    try:
        # One of them is the directory's.
        return len(os.listdir("/dev/fd")) - 1
    except OSError:
        return None


class Descriptors:
    """
    What is left of those that a process may have.

    To count them takes a while.  So after each count some are given of what was left, and then they
    are counted again, or where the limit is another one.
    """

    def __init__(
        self,
        owed: Callable[[], int],
        most: Callable[[], int | None] = _most,
        used: Callable[[], int | None] = _used,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        """
        @param owed: how many those will still take that are connected already.
        @param most: how many there may be; L{None} for any number.
        @param used: how many there are; L{None} where that cannot be known.
        @param seconds: what time it is.
        """
        self._owed = owed
        self._most = most
        self._used = used
        self._seconds = seconds
        self._asked_at: float | None = None
        self._left = 0
        self._limit: int | None = None
        self._is_short = False

    def take(self, count: int) -> bool:
        """
        A connection that takes so many is about to be accepted.

        @return: whether there are as many.
        """
        limit, now = self._limit, self._seconds()
        if self._asked_at is None or now >= self._asked_at + ASK_INTERVAL:
            self._asked_at = now
            limit = self._most()
        if self._left < count or limit != self._limit:
            self._limit = limit
            self._left = self._count(count, limit)
        if self._left < count:
            return False
        self._left -= count
        return True

    def _count(self, wanted: int, most: int | None) -> int:
        used = None if most is None else self._used()
        if most is None or used is None:
            # As long as there is no limit, or none that is known.  The kernel says so in the end.
            return _GIVEN
        left = most - used - min(SPARE, most // 4) - self._owed()
        if self._is_short and left < max(wanted, most // _HYSTERESIS):
            return 0
        self._is_short = left < wanted
        return min(left, max(_GIVEN, used // 8))
