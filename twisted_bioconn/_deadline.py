"""The deadlines of one connection: there is one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ._transport import unsent


def clock_of(given: Any, transport: Any) -> Any:
    """
    What a connection's deadlines run on: what was given, or the reactor of its transport; L{None}
    where that has no time of its own.
    """
    clock = given or getattr(transport, "reactor", None)
    return clock if hasattr(clock, "callLater") else None


def deadlines_of(clock: Any) -> Any:
    """Where they are kept: our own reactor keeps them apart from its delayed calls."""
    return getattr(clock, "deadlines", clock)


class Deadline:
    """
    Calls when the time is up, or when nothing has happened for some time.

    @ivar received: the bytes that have come.
    @ivar written: the bytes that were given to the transport.
    """

    __slots__ = (
        "_call",
        "_clock",
        "_heard",
        "_hears",
        "_taken",
        "_transport",
        "received",
        "written",
    )

    def __init__(self, clock: IReactorTime | None, transport: Any) -> None:
        """
        @param clock: L{None} for a connection that is never timed out.
        @param transport: what gets rid of the bytes that are written.
        """
        self._clock = clock
        self._transport = transport
        self._call: IDelayedCall | None = None
        self._hears = True
        self._taken = 0
        self._heard = 0
        self.received = 0
        self.written = 0

    def set(self, seconds: float | None, call: Callable[..., None], *arguments: object) -> None:
        """Call after this time, in place of what was set before; never, if C{seconds} is None."""
        self.cancel()
        if seconds is not None and self._clock is not None:
            self._call = self._clock.callLater(seconds, call, *arguments)

    def cancel(self) -> None:
        """Call nothing."""
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    def watch(
        self, seconds: float | None, expired: Callable[[float], None], hears: bool = True
    ) -> None:
        """
        Call once nothing has happened for so many seconds, or a quarter more: to note the time of
        all that happens would cost more than to look four times.

        @param hears: whether bytes that come count, and not only those that the peer takes.
        """
        if seconds is None:
            self.cancel()
            return
        self._heard = self.received
        self._hears = hears
        self._taken = self._taken_now()
        self.set(seconds / 4, self._look, seconds, expired, 1)

    def _look(self, seconds: float, expired: Callable[[float], None], quarter: int) -> None:
        if (self._hears and self.received != self._heard) or self._taken_now() != self._taken:
            self.watch(seconds, expired, self._hears)
        elif quarter < 4:
            self.set(seconds / 4, self._look, seconds, expired, quarter + 1)
        else:
            self.cancel()
            expired(seconds)

    def _taken_now(self) -> int:
        """Bytes of what was written that the transport has got rid of."""
        return self.written - unsent(self._transport)
