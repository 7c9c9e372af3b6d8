"""
Twisted's epoll reactor with a shorter path for each event, and with cheap deadlines.

For every event Twisted's reactor asks the selectable for its log prefix, puts that into a new
context, and calls through three functions what could be called at once.  Of a small request that is
a tenth of the time.  Here an event that says that there is something to read, or that there is room
to write, and nothing else, goes straight to the selectable.  Every other event takes Twisted's own
path, and so does whatever goes wrong.

What is lost is the prefix C{[Protocol,client]} which the old C{twisted.python.log} puts before a
message that was logged in such a call; L{twisted.logger} has its own names for that.

Connections and ports are of our own kind (L{_tcp}), and receive into the reactor's L{Inbox}.

A connection sets and cancels several deadlines that hardly ever come.  L{Deadlines} keeps those out
of the reactor's delayed calls: setting one costs a dictionary entry, and cancelling it takes that
out again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from errno import EINTR
from heapq import heappop, heappush
from math import inf
from select import EPOLLIN, EPOLLOUT
from socket import AF_INET, AF_INET6
from typing import Any

from twisted.internet import epollreactor
from twisted.internet.interfaces import IConnector, IListeningPort, IProtocolFactory
from twisted.internet.main import installReactor
from twisted.internet.protocol import ClientFactory
from twisted.logger import Logger
from twisted.python import log

from . import _tcp
from ._openssl import Inbox
from ._room import ROOM

__all__ = ["ConnectorReactor", "Deadlines", "install"]

_log = Logger()
_monotonic = time.monotonic

_EVENTS = 256
"""Events that are taken from the kernel at once.  Python allocates for as many each time."""

_LONGEST = 2147483.0
"""Seconds that epoll can be told to wait, which are milliseconds in an C{int}."""

_CANCELLED = 50
"""Delayed calls that were cancelled, from which on Twisted clears them away."""


class _Deadline:
    """One call that is to come."""

    __slots__ = ("_arguments", "_bucket", "_call")

    def __init__(
        self,
        bucket: dict[_Deadline, None],
        call: Callable[..., object],
        arguments: tuple[object, ...],
    ) -> None:
        self._bucket = bucket
        self._call = call
        self._arguments = arguments
        bucket[self] = None

    def active(self) -> bool:
        """Whether it is still to come."""
        return self in self._bucket

    def cancel(self) -> None:
        """It shall not come."""
        self._bucket.pop(self, None)

    def make(self) -> None:
        """Make the call, if it was not cancelled."""
        if self._bucket.pop(self, self) is None:
            try:
                self._call(*self._arguments)
            except BaseException:
                # As of a delayed call, whatever it is: the others are to be made all the same.
                _log.failure("Unhandled error in a deadline")


class Deadlines:
    """
    Calls that are made when their time is up, or up to a quarter of a second later.

    Those that are due in the same quarter are kept together, so that none has to be sorted.
    """

    GRAIN = 0.25

    def __init__(self, seconds: Callable[[], float]) -> None:
        """
        @param seconds: what time it is.
        """
        self._seconds = seconds
        self._buckets: dict[int, dict[_Deadline, None]] = {}
        self._ticks: list[int] = []
        self._soon: dict[_Deadline, None] = {}

    def callLater(self, delay: float, call: Callable[..., object], *arguments: object) -> _Deadline:
        """
        Call after so many seconds.

        @return: what cancels it.
        """
        tick = int((self._seconds() + delay) / self.GRAIN) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            heappush(self._ticks, tick)
        return _Deadline(bucket, call, arguments)

    def soon(self, call: Callable[..., object], *arguments: object) -> _Deadline:
        """
        Call in the next turn of the reactor.

        @return: what cancels it.
        """
        return _Deadline(self._soon, call, arguments)

    @property
    def pending(self) -> int:
        """How many calls are still to come."""
        return len(self._soon) + sum(map(len, self._buckets.values()))

    def run_soon(self) -> None:
        """Make the calls of the next turn now."""
        if self._soon:
            for deadline in list(self._soon):
                deadline.make()

    def next_due(self) -> float:
        """When the next one is due: 0 for the next turn, infinity where there is none."""
        if self._soon:
            return 0.0
        ticks = self._ticks
        while ticks:
            tick = ticks[0]
            if self._buckets[tick]:
                return tick * self.GRAIN
            del self._buckets[heappop(ticks)]
        return inf

    def timeout(self) -> float | None:
        """Seconds until the next one is due; L{None} where there is none."""
        due = self.next_due()
        return None if due == inf else min(_LONGEST, max(0.0, due - self._seconds()))

    def run(self) -> None:
        """Make the calls that are due."""
        self.run_soon()
        ticks = self._ticks
        while ticks and ticks[0] * self.GRAIN <= self._seconds():
            for deadline in list(self._buckets.pop(heappop(ticks))):
                deadline.make()


class ConnectorReactor(epollreactor.EPollReactor):
    """
    An epoll reactor for many small events.

    @ivar deadlines: where connections keep their deadlines.
    @ivar inbox: where connections receive.
    """

    def __init__(self) -> None:
        # Before anything asks for it.
        self._epoch = time.time() - time.monotonic()
        super().__init__()  # type: ignore[no-untyped-call]
        self.deadlines = Deadlines(self.seconds)
        self.inbox = Inbox()

    def seconds(self) -> float:
        """
        What time it is: seconds since the epoch, as far as that was known when the reactor was
        made.

        With Twisted's own, which is the system's clock, each deadline of each connection is due
        when somebody sets that forward, and none is for as long as it was set back.

        @see: L{twisted.internet.interfaces.IReactorTime.seconds}
        """
        return self._epoch + _monotonic()

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """
        @see: L{twisted.internet.interfaces.IReactorTCP.listenTCP}
        """
        listening = _tcp.Port(port, factory, backlog, interface, self)
        listening.startListening()
        return listening

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: ClientFactory[Any],
        timeout: float = 30.0,
        bindAddress: Any = None,
    ) -> IConnector:
        """
        @see: L{twisted.internet.interfaces.IReactorTCP.connectTCP}
        """
        connector = _tcp.Connector(host, port, factory, timeout, bindAddress, self)
        connector.connect()
        return connector

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory
    ) -> IListeningPort:
        """
        @see: L{twisted.internet.interfaces.IReactorSocket.adoptStreamPort}
        """
        if addressFamily not in (AF_INET, AF_INET6):
            port: IListeningPort = super().adoptStreamPort(fileDescriptor, addressFamily, factory)  # type: ignore[no-untyped-call]
            return port
        listening = _tcp.Port._fromListeningDescriptor(self, fileDescriptor, addressFamily, factory)  # type: ignore[no-untyped-call]
        listening.startListening()
        return listening  # type: ignore[no-any-return]

    def mainLoop(self) -> None:
        """Turn, as long as the reactor runs."""
        poll, next_due = self.doPoll, self.deadlines.next_due
        while self._started:
            # What gets here is a fault of a reactor's.  To be ready for that costs less when it is
            # not done for each turn.
            with _log.failuresHandled("Unexpected error in the main loop"):
                while self._started:
                    # Most turns have nothing to do but what the events say.  To see that in one
                    # place costs a fraction of what it takes to ask whoever might have something.
                    due = next_due()
                    pending = self._pendingTimedCalls
                    if pending and pending[0].time < due:
                        due = pending[0].time
                    wait = due - (self._epoch + _monotonic())
                    if (
                        wait <= 0.0
                        or self.threadCallQueue
                        or self._newTimedCalls
                        or self._justStopped
                        or self._cancellations > _CANCELLED
                        or not self.running
                    ):
                        self.runUntilCurrent()
                        poll(self.running and self.timeout())
                    else:
                        poll(wait if wait < _LONGEST else _LONGEST)
        _log.info("Main loop terminated.")

    def timeout(self) -> float | None:
        """Seconds until there is something to do with no event."""
        delayed, deadline = None, self.deadlines.timeout()
        if self._pendingTimedCalls or self._newTimedCalls:
            delayed = super().timeout()
        if delayed is None or deadline is None:
            return deadline if delayed is None else delayed
        return min(delayed, deadline)

    def runUntilCurrent(self) -> None:
        """Make the calls that are due."""
        # First: Twisted's own code then sees to what they ask for, such as to stop.
        self.deadlines.run()
        pending = self._pendingTimedCalls
        if (
            self.threadCallQueue
            or self._newTimedCalls
            or self._justStopped
            or self._cancellations > _CANCELLED
            or (pending and pending[0].time <= self.seconds())
        ):
            super().runUntilCurrent()

    def disconnectAll(self) -> None:
        """
        @see: L{twisted.internet.base.ReactorBase.disconnectAll}
        """
        # A connection that is about to be closed is in no set any more.
        self.deadlines.run_soon()
        super().disconnectAll()

    def addReader(self, reader: Any) -> None:
        """
        @see: L{twisted.internet.interfaces.IReactorFDSet.addReader}
        """
        fd = reader.fileno()
        if fd not in self._reads:
            if fd in self._writes or fd < 0:
                super().addReader(reader)  # type: ignore[no-untyped-call]
                return
            try:
                self._poller.register(fd, EPOLLIN)
            except OSError:
                # What it is, Twisted knows: a file, to begin with.
                super().addReader(reader)  # type: ignore[no-untyped-call]
                return
            self._reads.add(fd)
            self._selectables[fd] = reader

    def removeReader(self, reader: Any) -> None:
        """
        @see: L{twisted.internet.interfaces.IReactorFDSet.removeReader}
        """
        fd = reader.fileno()
        if fd in self._reads and fd not in self._writes:
            self._poller.unregister(fd)
            self._reads.discard(fd)
            del self._selectables[fd]
        elif fd in self._reads or fd < 0 or self._continuousPolling._readers:
            super().removeReader(reader)  # type: ignore[no-untyped-call]

    def removeWriter(self, writer: Any) -> None:
        """
        @see: L{twisted.internet.interfaces.IReactorFDSet.removeWriter}
        """
        fd = writer.fileno()
        if fd in self._writes or fd < 0 or self._continuousPolling._writers:
            super().removeWriter(writer)  # type: ignore[no-untyped-call]

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events, and have each selectable do what its event says."""
        selectables: dict[int, Any] = self._selectables
        try:
            events = self._poller.poll(-1 if timeout is None else timeout, _EVENTS)
        except OSError as error:
            if error.errno == EINTR:
                return
            raise
        for fd, event in events:
            # An earlier event of this round may have removed it.
            selectable = selectables.get(fd)
            if selectable is None:
                continue
            if event == EPOLLIN:
                try:
                    why = selectable.doRead()
                except BaseException:
                    why = self._failed()
                if why:
                    self._disconnect(selectable, why, True)
            elif event == EPOLLOUT:
                try:
                    why = selectable.doWrite()
                except BaseException:
                    why = self._failed()
                if why:
                    self._disconnect(selectable, why, False)
            else:
                log.callWithLogger(selectable, self._doReadOrWrite, selectable, fd, event)

    doIteration = doPoll

    def _failed(self) -> BaseException | None:
        """
        What a selectable has raised is logged.

        @return: why it is to be disconnected.
        """
        why = sys.exc_info()[1]
        if isinstance(why, MemoryError):
            # A traceback would take more of what there is none of, for each connection.
            ROOM.is_gone()
        else:
            log.err()
        return why

    def _disconnect(self, selectable: Any, why: Any, is_read: bool) -> None:
        try:
            self._disconnectSelectable(selectable, why, is_read)  # type: ignore[no-untyped-call]
        except BaseException:
            # Those that have an event in the same round are to be told of it all the same.
            log.err()


def install() -> None:
    """Install this reactor."""
    installReactor(ConnectorReactor())
