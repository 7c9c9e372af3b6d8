"""So many in a time, and as many again at once."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

__all__ = ["SIZE", "Bucket"]

SIZE = 16
"""How many bytes a bucket has to share."""


class Bucket:
    """
    Lets through so many in a time, and as many again at once.
    """

    def __init__(self, rate: float, burst: float, seconds: Callable[[], float]) -> None:
        """
        @param rate: how many in a second.
        @param burst: how many at once.
        @param seconds: what time it is.
        """
        self._rate = rate
        self._burst = burst
        self._seconds = seconds
        # How many are left, and since when.
        self._state: Any = array("d", (burst, seconds()))

    def share(self, memory: memoryview) -> None:
        """
        Have other processes take out of this one too.

        That two of them do so at once may let through one more.

        @param memory: L{SIZE} bytes that they have as well.
        """
        shared = memory.cast("d")
        shared[:] = memoryview(self._state)
        self._state = shared

    def has(self, reserve: float = 0.0) -> bool:
        """
        Whether one would be let through now.

        @param reserve: how many have to be left then, for others.
        """
        state, now = self._state, self._seconds()
        # Of another process's clock it may be a little later already.
        passed = max(0.0, now - state[1])
        state[0] = left = min(self._burst, state[0] + passed * self._rate)
        state[1] = now
        return bool(left >= 1 + reserve)

    def take(self, reserve: float = 0.0) -> bool:
        """Let one through, if L{has} says so."""
        if not self.has(reserve):
            return False
        self._state[0] -= 1
        return True
