"""
What a process needs that was forked to serve, and shares with others what it serves.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from attrs import define
from twisted.internet import tcp
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.pollreactor import PollReactor
from twisted.internet.selectreactor import SelectReactor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_bioconn.server.adoption import leave as leave_open

try:
    from twisted.internet import epollreactor
except ImportError:
    _EPOLL: tuple[Any, ...] = ()
else:
    _EPOLL = (epollreactor.EPollReactor,)

__all__ = [
    "REACTORS",
    "HeldFactory",
    "Link",
    "Worker",
    "WorkerPort",
    "heed_parent",
    "leave",
    "renew",
    "twins",
]

#: The kinds of reactor that L{renew} knows.
REACTORS = (*_EPOLL, PollReactor, SelectReactor)

#: What is said over a link: the development certificate is renewed; look at once for what has
#: changed; the worker serves; accept no more, for another one does; end at once; or, with a reason
#: after it, the worker cannot start.
RENEWED, RELOAD, READY, RETIRE, END, FAILED = b"r", b"h", b"y", b"q", b"e", b"!"

#: The longest that is said at a time, in bytes.
LONGEST = 1024

_log = Logger()


def twins(
    port: Any, count: int, inherited: Sequence[socket.socket] | None = None
) -> list[socket.socket]:
    """
    Listening sockets at the same address as a port's, between which the kernel spreads connections.

    The port's own was bound as if there were no others, so that a second server at the same address
    is refused as ever.

    @param count: how many there are to be with the port's own.
    @param inherited: those of the program that this one takes the place of; L{None} where it takes
        nobody's.
    @return: the others; none where the port's own has to be shared.
    """
    if (
        not sys.platform.startswith("linux")
        or not isinstance(port, tcp.Port)
        or port.addressFamily not in (socket.AF_INET, socket.AF_INET6)
        # So Twisted marks one that somebody else has opened, as systemd does.
        or not (port._shouldShutdown or inherited is not None)
    ):
        return []
    made = list(inherited or ())
    # There were more workers.
    while len(made) > count - 1:
        made.pop().close()
    try:
        port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        while len(made) < count - 1:
            made.append(port.createInternetSocket())
            made[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made[-1].bind(port.socket.getsockname())
            made[-1].listen(port.backlog)
    except OSError as error:
        for twin in made:
            twin.close()
        with suppress(OSError):
            port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        _log.warn("{port}: one socket for all workers: {error}", port=port, error=error)
        return []
    return made


def renew(reactor: Any) -> None:
    """
    Give a reactor that was forked, and does not run, what is its own: an epoll set and the pipe
    that wakes it. Those that it had are those of its parent and siblings too.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        # A worker that is at work goes on with all that has come, although there is something to do
        # for another one on the same core: to take turns for each event costs a third more.
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    if isinstance(reactor, _EPOLL):
        reactor._poller.close()
        reactor._poller = epollreactor.epoll()
        for number in reactor._reads | reactor._writes:
            events = reactor._POLL_IN if number in reactor._reads else 0
            events |= reactor._POLL_OUT if number in reactor._writes else 0
            reactor._poller.register(number, events)
    waker, reactor.waker = reactor.waker, None
    reactor._internalReaders.discard(waker)
    reactor.removeReader(waker)
    waker.connectionLost(Failure(ConnectionDone()))
    reactor.installWaker()


def heed_parent(reactor: Any, terminate: Callable[[], object]) -> None:
    """
    Have a worker, which may not run its reactor yet, end when it is told to, and leave the rest to
    its parent.

    @param terminate: called, once the reactor runs, for each SIGTERM. Until then the signal would
        end the process, as if there had been something to be cut.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: reactor.callFromThread(terminate))
    # A terminal sends them to all: the parent, who gets them too, says what to do.
    for each in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(each, signal.SIG_IGN)


class HeldFactory:
    """
    A factory that is not started where its port is opened, but in the workers.
    """

    def __init__(self, factory: Any) -> None:
        self._factory = factory
        self._starts = 0
        factory.doStart = self._count
        factory.doStop = _do_nothing

    def _count(self) -> None:
        self._starts += 1

    def start(self) -> None:
        """Start it, once for each of its ports."""
        del self._factory.doStart, self._factory.doStop
        for _ in range(self._starts):
            self._factory.doStart()


def _do_nothing() -> None:
    pass


class WorkerPort:
    """
    A port in a worker. Its socket is open in other processes too, so it is left and not shut down;
    and its name in the file system is the parent's.
    """

    def __init__(self, port: Any) -> None:
        self._port = port
        self.getHost = port.getHost

    def stopListening(self) -> None:
        """Accept no more here."""
        leave_open(self._port)


@implementer(IReadDescriptor)
class Link:
    """
    A worker's end of the socket to its parent.

    @ivar renewed: called when another worker has renewed what all use.
    @ivar reload: called when all workers are to look for what has changed.
    @ivar retire: called when another worker has taken the place of this one.
    @ivar end: called when the worker is to end at once.
    @ivar parent_gone: called when the parent has ended.
    """

    def __init__(self, reactor: Any, end: socket.socket) -> None:
        """
        @param end: connected, and not blocking.
        """
        self._end = end
        self.fileno = end.fileno
        self.renewed: Callable[[], object] = _do_nothing
        self.reload: Callable[[], object] = _do_nothing
        self.retire: Callable[[], object] = _do_nothing
        self.end: Callable[[], object] = _do_nothing
        self.parent_gone: Callable[[], object] = _do_nothing
        reactor.addReader(self)

    def logPrefix(self) -> str:
        """
        @see: L{twisted.internet.interfaces.ILoggingContext}
        """
        return "Link"

    def doRead(self) -> Any:
        """
        @see: L{IReadDescriptor.doRead}
        """
        try:
            said = self._end.recv(LONGEST)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            said = b""
        if not said:
            return CONNECTION_DONE
        # However often it was said, once is enough.
        if RENEWED in said:
            self.renewed()
        if RELOAD in said:
            self.reload()
        if RETIRE in said:
            self.retire()
        if END in said:
            self.end()
        return None

    def connectionLost(self, reason: Failure) -> None:
        """
        @see: L{twisted.internet.interfaces.IFileDescriptor.connectionLost}
        """
        self._end.close()
        self.parent_gone()

    def tell_renewed(self) -> None:
        """Have the other workers told that what all use is renewed."""
        with suppress(OSError):
            self._end.send(RENEWED)

    def tell_ready(self) -> None:
        """Tell the parent that this worker serves."""
        with suppress(OSError):
            self._end.send(READY)

    def tell_failed(self, reason: str) -> None:
        """Tell the parent why this worker cannot start."""
        with suppress(OSError):
            self._end.send(FAILED + reason.encode("utf-8", "replace")[: LONGEST - len(FAILED)])


@define
class Worker:
    """
    A worker, as it knows itself.

    @ivar index: its number, from 0 up; what takes its place inherits it.
    @ivar status: the exit status with which it is to end.
    """

    index: int
    link: Link
    status: int = 0

    @property
    def is_steward(self) -> bool:
        """Whether it does what has to be done once for all."""
        return self.index == 0

    def fail(self, reason: str) -> NoReturn:
        """End this process: it cannot start."""
        _log.error("worker {index} cannot start: {reason}", index=self.index, reason=reason)
        self.link.tell_failed(reason)
        leave(1)

    def end(self) -> NoReturn:
        """End this process."""
        leave(self.status)


def leave(status: int) -> NoReturn:
    """
    End this process now. What is registered for the end of one, such as to remove the pid file, is
    the parent's to do.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)
