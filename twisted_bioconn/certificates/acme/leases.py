"""
A lease that is held for as long as something takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from ..store import Lease, StoreUnavailable

__all__ = ["LEASE_SECONDS", "HeldLease"]

LEASE_SECONDS = 60.0
"""For how long a front that has died keeps the others waiting."""

_EXTENSIONS = 4  # in each of these times


class HeldLease:
    """
    Extends a lease until it is let go.
    """

    def __init__(self, reactor: Any, lease: Lease, lost: Callable[[], object]) -> None:
        """
        @param lost: called once if it is lost: somebody else may have it by then.
        """
        self._reactor = reactor
        self._lease = lease
        self._lost = lost
        self._end = reactor.seconds() + LEASE_SECONDS
        self._loop = LoopingCall(self._extend)
        self._loop.clock = reactor
        # What goes wrong in there is seen to in there.
        self._loop.start(LEASE_SECONDS / _EXTENSIONS, now=False)

    def _extend(self) -> None:
        # Not waited for: a store that does not answer must not keep us from noticing that.
        if self._reactor.seconds() >= self._end:
            self._stop()
            self._lost()
            return
        end = self._reactor.seconds() + LEASE_SECONDS
        self._lease.extend(LEASE_SECONDS).addCallbacks(
            self._extended, _unavailable, callbackArgs=(end,)
        )

    def _extended(self, ours: bool, end: float) -> None:
        if ours:
            self._end = max(self._end, end)
        elif self._loop.running:
            self._stop()
            self._lost()

    def _stop(self) -> None:
        if self._loop.running:
            self._loop.stop()

    def let_go(self) -> Deferred[None]:
        """Extend it no more, and release it; where the store is gone it ends by itself."""
        self._stop()
        return self._lease.release().addErrback(_unavailable)


def _unavailable(failure: Failure) -> None:
    failure.trap(StoreUnavailable)
