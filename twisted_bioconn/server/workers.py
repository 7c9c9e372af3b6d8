"""
Several processes that serve the same ports.

One process, the parent, opens the ports and makes the contexts; then it forks the workers, each of
which runs a reactor of its own, and waits for signals and for workers that end. It has no threads
and its reactor never runs: a fork of such a process is a sound one, at any time. The first worker
is the steward: it alone does what has to be done once for all, and the others are told by way of
the parent.

Contexts that were made before the fork have the same keys for session tickets in every worker, so a
session resumes wherever its client comes to.

On Linux each worker has a TCP socket of its own for each port (C{SO_REUSEPORT}), and the kernel
spreads the connections evenly; with one socket for all, the worker that is awake already takes
most of them. The parent keeps all of them open: what waits in the queue of a worker that dies is
accepted by the one that takes its place. Other sockets are shared by all.

What takes the place of a worker that dies is a fork of the parent, as the first one was. Each has a
socket to the parent, its link: what is renewed goes over it, one byte for each time, and it ends
when either process does.
"""

from __future__ import annotations

import ctypes
import gc
import os
import selectors
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from attrs import define
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.forked import (
    FAILED,
    LONGEST,
    REACTORS,
    RENEWED,
    HeldFactory,
    Link,
    Worker,
    WorkerPort,
    leave,
    renew,
    twins,
)
from twisted_bioconn.server.shared_log import share_log_files

__all__ = ["Workers", "delay_before", "how_it_ended"]

#: How long workers may take to end once they are told to, in seconds. WSGI requests have 5.
GRACE = 10.0

#: A worker that lived for so many seconds had no trouble to start.
STEADY = 10.0

#: The longest time between two attempts to start a worker, in seconds.
LONGEST_DELAY = 30.0

_PR_SET_PDEATHSIG = 1
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

_log = Logger()


def delay_before(attempt: int) -> float:
    """
    How long to wait before a worker is replaced, in seconds.

    @param attempt: how many have ended soon after their start, one after the other. After the first
        there is no delay.
    """
    return 0.0 if attempt < 2 else min(LONGEST_DELAY, 2.0 ** min(attempt - 2, 10))


def how_it_ended(status: int) -> str:
    """
    What a process ended with.

    @param status: as C{os.waitpid} has it.
    """
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


@define(eq=False)
class _Seat:
    """
    A worker, as its parent knows it.

    @ivar pid: its process; L{None} while there is none.
    @ivar link: the parent's end of the socket to it.
    @ivar begun: when it was forked.
    @ivar forks: how many there have been.
    @ivar short_lives: how many have ended soon after their start, one after the other.
    @ivar due: when the next is to be forked.
    """

    index: int
    pid: int | None = None
    link: socket.socket | None = None
    begun: float = 0.0
    forks: int = 0
    short_lives: int = 0
    due: float = 0.0


class Workers:
    """
    The parent of workers.

    @ivar failed: why it has ended, if it was not told to.
    """

    def __init__(self, reactor: Any, count: int) -> None:
        """
        @param count: how many workers there are to be.
        @raise ConfigurationError: this reactor cannot be forked.
        """
        if not isinstance(reactor, REACTORS):
            names = ", ".join(sorted(each.__name__ for each in REACTORS))
            raise ConfigurationError(
                f"--workers {count}: the reactor is an {type(reactor).__name__}, and the kinds that"
                f" workers can have are {names}"
            )
        self._reactor = reactor
        self.count = count
        self.failed: str | None = None
        self._held: dict[int, HeldFactory] = {}
        self._ports: list[Any] = []
        self._twins: list[list[socket.socket]] = []
        self._seats = [_Seat(index) for index in range(count)]
        self._selector = selectors.DefaultSelector()
        self._wakeup: tuple[int, int] = (-1, -1)
        self._handlers: dict[int, Any] = {}
        self._deadline: float | None = None
        self._queued = 0
        self._libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None

    def hold(self, factory: IProtocolFactory) -> None:
        """
        Do not start a factory here when its port is opened, but in each worker. One that takes no
        attributes is left alone.
        """
        if id(factory) in self._held:
            return
        with suppress(AttributeError, TypeError):
            self._held[id(factory)] = HeldFactory(factory)

    def share(self, port: IListeningPort) -> None:
        """
        Have the workers listen on a port.

        @raise ConfigurationError: it is of a kind that cannot be shared.
        """
        if not IReadDescriptor.providedBy(port):
            raise ConfigurationError(f"--workers {self.count}: this port cannot be shared")
        self._ports.append(port)
        self._twins.append(twins(port, self.count))

    def close(self) -> None:
        """Close the ports, in this process."""
        for twin in (twin for row in self._twins for twin in row):
            twin.close()
        for port in self._ports:
            with suppress(OSError, AttributeError):
                # Workers may still have it: it is closed, not shut down.
                port._shouldShutdown = False
                port.stopReading()
                port.connectionLost(Failure(ConnectionDone()))
        self._ports, self._twins = [], []

    def run(self) -> Worker | None:
        """
        Fork the workers, and replace those that end, until a signal says that it is enough.

        @return: the worker, in its own process; L{None} in the parent, when all have ended.
        """
        others = threading.active_count() - 1
        if others:
            _log.warn("{others} threads are running already: no worker has them", others=others)
        share_log_files()
        # What the collector looks at it writes to, and what is written to is shared no longer: that
        # would be 13 MiB for each worker.
        gc.collect()
        gc.freeze()
        self._queued = len(self._reactor.threadCallQueue)
        try:
            self._catch_signals()
            worker = self._run()
        except Exception as error:
            _log.failure("The parent of the workers cannot go on")
            self.failed = f"--workers {self.count}: {error!r}"
            worker = None
        if worker is None:
            self._end_at_once()
            self.close()
            self._release_signals()
        return worker

    def start_factories(self) -> None:
        """Start, in a worker, the factories that were held."""
        for held in self._held.values():
            held.start()

    @property
    def ports(self) -> list[WorkerPort]:
        """The ports, in a worker."""
        return [WorkerPort(port) for port in self._ports]

    def _run(self) -> Worker | None:
        while True:
            now = time.monotonic()
            for seat in self._seats:
                if seat.pid is None and self._deadline is None and seat.due <= now:
                    worker = self._fork(seat)
                    if worker is not None:
                        return worker
            if self._deadline is not None:
                if all(seat.pid is None for seat in self._seats):
                    return None
                if self._deadline <= now:
                    self._end_at_once()
                    continue
            for key, _ in self._selector.select(self._timeout(now)):
                if isinstance(key.data, _Seat):
                    self._hear(key.data)
                else:
                    self._hear_signals()
            self._reap()

    def _timeout(self, now: float) -> float | None:
        """Seconds until there is something to do with no signal."""
        if self._deadline is not None:
            return max(0.0, self._deadline - now)
        waits = [seat.due - now for seat in self._seats if seat.pid is None]
        return max(0.0, min(waits)) if waits else None

    # Signals

    def _catch_signals(self) -> None:
        """
        Have signals wake the loop: each is a byte in a pipe.
        """
        reading, writing = self._wakeup = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        self._selector.register(reading, selectors.EVENT_READ)
        for number in _HANDLED:
            # A shell has programs in the background ignore what its terminal sends.
            if number == signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._handlers.setdefault(number, signal.signal(number, _ignore))
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def _release_signals(self) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for end in self._wakeup:
            with suppress(OSError):
                os.close(end)
        self._selector.close()

    def _hear_signals(self) -> None:
        numbers = os.read(self._wakeup[0], 4096)
        for number in (signal.SIGTERM, signal.SIGINT):
            if number in numbers and self._deadline is None:
                self._begin_to_end(number)
        if signal.SIGUSR1 in numbers:
            # On which twistd has its log file rotated, in a turn of the reactor that does not come.
            queue = self._reactor.threadCallQueue
            calls, queue[self._queued :] = queue[self._queued :], []
            for function, arguments, named in calls:
                with _log.failuresHandled("While calling what SIGUSR1 is for"):
                    function(*arguments, **named)

    def _begin_to_end(self, number: signal.Signals) -> None:
        _log.info("Received {name}, shutting down.", name=number.name)
        if number == signal.SIGINT:
            # Twisted ends the process by the signal, when all is done.
            self._reactor._exitSignal = number
        self._end()

    def _end(self) -> None:
        self._deadline = time.monotonic() + GRACE
        self.close()
        self._send_signal(signal.SIGTERM)

    def _end_at_once(self) -> None:
        """
        End the workers that are there, and wait for them.
        """
        if any(seat.pid is not None for seat in self._seats) and self._deadline is not None:
            _log.warn("workers that are not done after {grace:g} s are ended", grace=GRACE)
        self._send_signal(signal.SIGKILL)
        for seat in self._seats:
            if seat.pid is not None:
                with suppress(ChildProcessError):
                    os.waitpid(seat.pid, 0)
                self._vacate(seat)

    def _send_signal(self, number: signal.Signals) -> None:
        for seat in self._seats:
            if seat.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(seat.pid, number)

    # Workers

    def _hear(self, seat: _Seat) -> None:
        """
        Pass on what a worker says to all others. One that cannot start ends all, as a port that
        cannot be opened does; later on there will be another attempt.
        """
        assert seat.link is not None
        said = b""
        with suppress(OSError):
            said = seat.link.recv(LONGEST)
        if not said:
            with suppress(KeyError):
                self._selector.unregister(seat.link)
            return
        if FAILED in said:
            if seat.forks == 1 and self._deadline is None:
                reason = said.partition(FAILED)[2].decode("utf-8", "replace")
                self.failed = f"worker {seat.index} cannot start: {reason}"
                self._end()
            return
        for other in self._seats:
            if other is not seat and other.link is not None:
                # One that does not read has enough to read, and one that has ended needs nothing.
                with suppress(OSError):
                    other.link.send(RENEWED)

    def _reap(self) -> None:
        for seat in self._seats:
            if seat.pid is None:
                continue
            try:
                pid, status = os.waitpid(seat.pid, os.WNOHANG)
            except ChildProcessError:
                # Somebody who ignores SIGCHLD has them go without a word.
                pid, status = seat.pid, 0
            if pid:
                # Its last words.
                self._hear(seat)
                self._ended(seat, pid, how_it_ended(status))

    def _ended(self, seat: _Seat, pid: int, how: str) -> None:
        now = time.monotonic()
        self._vacate(seat)
        if self._deadline is not None:
            return
        seat.short_lives = 0 if now - seat.begun >= STEADY else seat.short_lives + 1
        delay = delay_before(seat.short_lives)
        seat.due = now + delay
        _log.error(
            "worker {index}, pid {pid}, has ended with {how}; the next one starts {when}",
            index=seat.index,
            pid=pid,
            how=how,
            when=f"in {delay:g} s" if delay else "now",
        )

    def _vacate(self, seat: _Seat) -> None:
        seat.pid = None
        if seat.link is not None:
            with suppress(KeyError):
                self._selector.unregister(seat.link)
            seat.link.close()
            seat.link = None

    def _fork(self, seat: _Seat) -> Worker | None:
        """
        Fork a worker.

        @return: the worker, in its own process.
        """
        parent = os.getpid()
        # What is still in them would be written by both.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        # A signal that comes to the worker before it has let go of the parent's pipe would be taken
        # for one of the parent's.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        ends: tuple[socket.socket, ...] = ()
        try:
            ours, theirs = ends = socket.socketpair()
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for end in ends:
                end.close()
            seat.short_lives += 1
            delay = max(1.0, delay_before(seat.short_lives))
            seat.due = time.monotonic() + delay
            _log.error(
                "worker {index} cannot be started: {reason}; the next attempt is in {delay:g} s",
                index=seat.index,
                reason=error.strerror,
                delay=delay,
            )
            return None
        if pid == 0:
            try:
                ours.close()
                self._become_worker(seat, parent, before)
                theirs.setblocking(False)
                return Worker(seat.index, Link(self._reactor, theirs))
            except BaseException:
                # The parent's loop, which is above, is not this process's.
                _log.failure("worker {index} cannot start", index=seat.index)
                leave(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        ours.setblocking(False)
        seat.pid, seat.link, seat.begun = pid, ours, time.monotonic()
        seat.forks += 1
        self._selector.register(ours, selectors.EVENT_READ, seat)
        _log.info("worker {index}: pid {pid}", index=seat.index, pid=pid)
        return None

    def _become_worker(self, seat: _Seat, parent: int, mask: set[Any]) -> None:
        """
        Let go of what is the parent's, and of what is the other workers'.
        """
        self._release_signals()
        # A terminal sends it to all: the parent, who gets it too, says when to end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                leave(1)
        for other in self._seats:
            if other.link is not None:
                other.link.close()
        for port, row in zip(self._ports, self._twins, strict=True):
            if row and seat.index:
                os.dup2(row[seat.index - 1].fileno(), port.fileno(), inheritable=False)
            for twin in row:
                twin.close()
        renew(self._reactor)


def _ignore(number: int, frame: FrameType | None) -> None:
    """The signal's byte in the pipe says it all."""
