"""
How much is held for those that do not read.

A relay reads no more from one side as long as the other has not taken what was read before: so much
is held for each connection.  How much that comes to in all is counted here; and where it is more
than there may be, the connection is reset that has not read for the longest time.  One that reads,
however slowly its network is, has gone on meanwhile, and is not the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.logger import Logger

__all__ = ["HOLDINGS", "LEAST", "Holdings"]

LEAST = 1024 * 1024
"""The least that C{max-buffered} may be, in bytes: about what one connection can come to."""

_log = Logger()


@attrs.define(eq=False)
class Holdings:
    """
    What is held in this process.

    @ivar most: how many bytes may be held in all; L{None} for any number.
    @ivar held: how many are.
    @ivar dropped: how many connections were reset because of it.
    """

    most: int | None = None
    held: int = attrs.field(init=False, default=0)
    dropped: int = attrs.field(init=False, default=0)
    _waiting: dict[Any, tuple[int, Callable[[], str]]] = attrs.field(init=False, factory=dict)

    def waits(self, side: Any, amount: int, drop: Callable[[], str]) -> None:
        """
        One side waits until the other has read.

        @param amount: how many bytes are held for that.
        @param drop: resets the connection, after which L{goes_on} is called, and says which it was.
        """
        if side not in self._waiting:
            self._waiting[side] = amount, drop
            self.held += amount
        while self.most is not None and self.held > self.most and self._waiting:
            longest = next(iter(self._waiting))
            amount, drop = self._waiting[longest]
            self.dropped += 1
            name = drop()
            self.goes_on(longest)
            _log.warn(
                "{name} is closed: it has left {amount} bytes unread for longer than any other, and"
                " max-buffered={most} has been reached",
                name=name,
                amount=amount,
                most=self.most,
            )

    def goes_on(self, side: Any) -> None:
        """It has read, or is no more."""
        waiting = self._waiting.pop(side, None)
        if waiting is not None:
            self.held -= waiting[0]


HOLDINGS = Holdings()
"""Those of all relays of this process."""
