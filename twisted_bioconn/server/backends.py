"""
Several back ends of one target, and which of them a client gets.

Each client gets the first in an order of its own that can be connected to: the next in turn, or the
one with the fewest connections; then the others, one after the other, as long as there is time.
Nothing of the client's was sent to those that could not, so nothing is lost.  Those that are down
come last, and are tried all the same: where none is up, what is known of them may be wrong, and a
client that is refused is no better off.

A name that stands in an endpoint is looked up for each connection: what it stands for may change.

With workers, each counts and checks for itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from enum import Enum

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.backend import (
    BackEnd,
    Marks,
    NotConnected,
    State,
    is_ours,
    was_cancelled,
)
from twisted_bioconn.server.checks import Check, Checking
from twisted_bioconn.server.proxy_out import SendProxy, header_of_our_own

__all__ = ["BackEnd", "BackEnds", "Balance", "Marks", "NotConnected", "SendProxy", "State"]

_log = Logger()

#: The least that one of several back ends has for answering, in seconds: a first packet that was
#: lost is sent again after one (RFC 6298, section 2.1).
LEAST_TIME = 2.0


class Balance(Enum):
    """Which back end a client gets."""

    ROUND_ROBIN = "roundRobin"
    """The next in turn."""
    LEAST_CONNECTIONS = "leastConnections"
    """The one with the fewest connections, in turn where several have as few."""


class BackEnds:
    """
    The back ends of one target.

    @ivar members: each of them, in the order in which they were given.
    @ivar send_proxy: which PROXY header they get; L{None} for none.
    """

    def __init__(
        self,
        given: Iterable[tuple[IStreamClientEndpoint, str]],
        clock: IReactorTime,
        *,
        balance: Balance = Balance.ROUND_ROBIN,
        marks: Marks | None = None,
        check: Check | None = None,
        send_proxy: SendProxy | None = None,
        spread: Callable[[], float] = random.random,
    ) -> None:
        """
        @param given: endpoints, and how each is called in the log.
        @param clock: for all that takes time.
        @param marks: when one whose connections fail is down.
        @param check: what each is to be asked, to see whether it is well; L{None} for nothing.
        @param spread: gives numbers from 0 to 1 by which checks are spread over the time.
        @raise ConfigurationError: there are none, or what is asked for one of them cannot be done.
        """
        self.send_proxy = send_proxy
        self.members = tuple(
            BackEnd(endpoint, description, clock, marks or Marks(), send_proxy)
            for endpoint, description in given
        )
        if not self.members:
            raise ConfigurationError("there is no back end to forward to")
        self._clock = clock
        self._balance = balance
        self._turn = 0
        self._uses = 0
        self._checking: list[Checking] = []
        if check is not None:
            header = b"" if send_proxy is None else header_of_our_own(send_proxy)
            self._checking = [Checking(each, check, clock, header, spread) for each in self.members]
        if len(self.members) > 1:
            for each in self.members:
                each.changed = self._changed

    @property
    def description(self) -> str:
        """How they are called in the log."""
        return ", ".join(each.description for each in self.members)

    @property
    def only(self) -> BackEnd | None:
        """The back end, where there is but one and all that can be done is to connect to it."""
        return self.members[0] if len(self.members) == 1 else None

    def start(self) -> None:
        """Somebody forwards to them: begin with the checks."""
        self._uses += 1
        if self._uses == 1:
            for each in self._checking:
                each.start()

    def stop(self) -> None:
        """Somebody forwards to them no more: the last one ends the checks."""
        self._uses -= 1
        if not self._uses:
            for each in self._checking:
                each.stop()

    def order(self) -> list[BackEnd]:
        """Those that the next client is to be connected to, the best first."""
        usable = [each for each in self.members if each.is_usable]
        down = [each for each in self.members if each not in usable]
        return self._ordered(usable) + down if usable else self._ordered(down)

    def _ordered(self, members: list[BackEnd]) -> list[BackEnd]:
        # In turn among these: else who stands behind one that is down would get its clients too.
        turn = self._turn % len(members)
        self._turn += 1
        ordered = members[turn:] + members[:turn]
        if self._balance is Balance.LEAST_CONNECTIONS:
            ordered.sort(key=_load)
        return ordered

    def connect(
        self,
        make: Callable[[BackEnd], IProtocolFactory],
        header: bytes = b"",
        timeout: float | None = None,
    ) -> Deferred[IProtocol]:
        """
        Connect to one of them.

        @param make: makes the factory for a connection to this one.
        @param header: the PROXY header, where one is to be sent.
        @param timeout: seconds for all that are tried; L{None} where the endpoints have limits of
            their own.
        @return: fails with L{NotConnected} where none can be connected to.
        """
        return _Attempt(self, self._clock, make, header, timeout).done

    def _changed(self, back_end: BackEnd) -> None:
        if all(each.state is State.DOWN for each in self.members):
            _log.error(
                "none of {count} back ends is up: each is tried all the same",
                count=len(self.members),
            )


def _load(back_end: BackEnd) -> int:
    return back_end.connections + back_end.pending


class _Attempt:
    """A client's way to one of the back ends."""

    def __init__(
        self,
        back_ends: BackEnds,
        clock: IReactorTime,
        make: Callable[[BackEnd], IProtocolFactory],
        header: bytes,
        timeout: float | None,
    ) -> None:
        self.done: Deferred[IProtocol] = Deferred(self._cancel)
        self._clock = clock
        self._make = make
        self._header = header
        self._timeout = timeout
        self._deadline = None if timeout is None else clock.seconds() + timeout
        self._left = back_ends.order()
        self._reasons: list[str] = []
        self._are_ours = True
        self._current: Deferred[IProtocol] | None = None
        self._timer: IDelayedCall | None = None
        self._limit: float | None = None
        self._is_late = False
        self._is_wanted = True
        self._is_going = False
        self._go_on()

    def _go_on(self) -> None:
        """Try the next one, and the one after it where that has failed at once."""
        if self._is_going:
            return
        self._is_going = True
        while self._left and self._current is None and self._is_wanted:
            limit = self._time_for_next()
            if limit is not None and limit <= 0:
                self._left = []
            else:
                self._try(self._left.pop(0), limit)
        self._is_going = False
        if self._current is None and self._is_wanted:
            self._is_wanted = False
            self.done.errback(NotConnected("; ".join(self._reasons), self._are_ours))

    def _time_for_next(self) -> float | None:
        """How many seconds the next one has; L{None} for as many as its endpoint has."""
        if self._deadline is None:
            return None
        left = self._deadline - self._clock.seconds()
        return min(left, max(left / len(self._left), LEAST_TIME))

    def _try(self, back_end: BackEnd, limit: float | None) -> None:
        is_trial = back_end.begin()
        attempt: Deferred[IProtocol] = maybeDeferred(
            back_end.connect, self._make(back_end), self._header
        )
        self._current, self._limit, self._is_late = attempt, limit, False
        if limit is not None and not attempt.called:
            self._timer = self._clock.callLater(limit, self._expire)
        tried = (back_end, is_trial)
        attempt.addCallbacks(self._connected, self._failed, tried, errbackArgs=tried)

    def _expire(self) -> None:
        self._timer = None
        self._is_late = True
        assert self._current is not None
        self._current.cancel()

    def _end(self, back_end: BackEnd, is_trial: bool) -> None:
        back_end.end(is_trial)
        self._current = None
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _connected(self, protocol: IProtocol, back_end: BackEnd, is_trial: bool) -> None:
        self._end(back_end, is_trial)
        if self._is_wanted:
            self._is_wanted = False
            self.done.callback(protocol)

    def _failed(self, failure: Failure, back_end: BackEnd, is_trial: bool) -> None:
        self._end(back_end, is_trial)
        if not self._is_wanted:
            # The client was lost first, and asked for this.
            return
        ours = is_ours(failure)
        if self._is_late and was_cancelled(failure):
            reason = f"no connection within {self._limit:.3g} seconds"
        else:
            reason = back_end.explain(failure)
        back_end.failed(reason, is_ours=ours)
        self._are_ours = self._are_ours and ours
        self._reasons.append(f"{back_end.description}: {reason}")
        self._go_on()

    def _cancel(self, _: Deferred[IProtocol]) -> None:
        self._is_wanted = False
        self._left = []
        if self._current is not None:
            self._current.cancel()
