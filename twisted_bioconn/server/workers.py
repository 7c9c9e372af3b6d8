"""
Several processes that serve the same ports.

One process, the parent, opens the ports and makes the contexts; then it forks the workers, each of
which runs a reactor of its own, and waits for signals and for workers that end. It has no threads
and its reactor never runs: a fork of such a process is a sound one, at any time. The first worker
is the steward: it alone does what has to be done once for all, and the others are told by way of
the parent.

Contexts that were made before the fork have the same keys for session tickets in every worker, so a
session resumes wherever its client comes to.  Once a day, and when something else is asked of
clients, the parent makes new keys, and has each worker replaced, one after the other: one that is
forked with the new keys serves first, and then the one before it, which accepts no more, ends with
its last connection.

On Linux each worker has a TCP socket of its own for each port (C{SO_REUSEPORT}), and the kernel
spreads the connections evenly; with one socket for all, the worker that is awake already takes
most of them. The parent keeps all of them open: what waits in the queue of a worker that dies is
accepted by the one that takes its place. Other sockets are shared by all.

On SIGTERM the parent closes its ports and passes it on; it waits for what the workers' connections
have, and a while longer.  On SIGUSR2 it starts a new version of the program, which inherits all
sockets; when that one serves, all workers here accept no more, as those do that are replaced.

What takes the place of a worker that dies is a fork of the parent, as the first one was. Each has a
socket to the parent, its link: what is renewed goes over it, one byte for each time, and it ends
when either process does.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.logger import Logger

from twisted_bioconn._upkeep import TICKET_KEY_LIFE
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.drain import State
from twisted_bioconn.server.forked import (
    END,
    FAILED,
    LONGEST,
    REACTORS,
    READY,
    RELOAD,
    RENEWED,
    RETIRE,
    Link,
    Worker,
    heed_parent,
    leave,
    renew,
)
from twisted_bioconn.server.seats import (
    LONGEST_RETIREMENT,
    MOST_RETIRED,
    Process,
    Retired,
    Retirement,
    Seat,
    delay_before,
    how_it_ended,
)
from twisted_bioconn.server.shared_ports import SharedPorts
from twisted_bioconn.server.signals import SignalPipe
from twisted_bioconn.server.systemd import Notifier
from twisted_bioconn.server.upgrade import START_SECONDS, Progress, Successor

__all__ = ["Workers"]

#: How long workers may take to end once they are told to, in seconds, beside what their connections
#: have. WSGI requests have 5.
GRACE = 10.0

#: A worker that lived for so many seconds had no trouble to start.
STEADY = 10.0

#: How often to look for what is asked of clients, in seconds.
TRUST_INTERVAL = 60.0

#: The least time between two replacements of all workers, in seconds.
SOONEST = 600.0

_PR_SET_PDEATHSIG = 1
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR2)

_log = Logger()


def _status_of(pid: int) -> int | None:
    """What a process has ended with, as C{os.waitpid} has it; L{None} if it has not."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        # Somebody who ignores SIGCHLD has them go without a word.
        return 0
    return status if ended else None


class Workers(SharedPorts):
    """
    The parent of workers.

    @ivar failed: why it has ended, if it was not told to.
    @ivar load_trust: looks, in the parent, for what is asked of clients; it returns whether that is
        something else now.
    @ivar renew_ticket_keys: makes, in the parent, what workers are then forked with.
    @ivar reload: called, in the parent, when all are to look for what has changed.
    @ivar begin_upgrade: starts a new version of the program; L{None} if that cannot be.
    @ivar terminate: what SIGTERM is for in a worker, from when it is forked.
    @ivar all_ready: called when all workers serve; it returns whether they may.
    @ivar drain: seconds that connections have to end by themselves.
    @ivar have_cut: whether some had to be cut.
    @ivar notifier: tells systemd how things are.
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
        super().__init__(count)
        self._reactor = reactor
        self.failed: str | None = None
        self._seats = [Seat(index) for index in range(count)]
        self._selector = selectors.DefaultSelector()
        self._signals = SignalPipe(_HANDLED)
        self._upgrade_wanted = False
        self._state = State.STARTING
        self._deadline = math.inf
        self._queued = 0
        self.load_trust: Callable[[], bool] = bool
        self.renew_ticket_keys: Callable[[], object] = bool
        self.reload: Callable[[], object] = bool
        self.begin_upgrade: Callable[[], Successor | None] = lambda: None
        self.terminate: Callable[[], object] = bool
        self.all_ready: Callable[[], bool] = lambda: True
        self.drain = 0.0
        self.have_cut = False
        self.notifier = Notifier()
        self._alive_due = 0.0
        self._successor: Successor | None = None
        self._successor_due = math.inf
        self._retired: list[Retired] = []
        self._to_replace: list[Seat] = []
        self._renewed = self._looked = time.monotonic()
        self._trust_changed = self._replacement_is_due = False
        self._libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None

    def run(self) -> Worker | None:
        """
        Fork the workers, and replace those that end, until a signal says that it is enough.

        @return: the worker, in its own process; L{None} in the parent, when all have ended.
        """
        others = threading.active_count() - 1
        if others:
            _log.warn("{others} threads are running already: no worker has them", others=others)
        # What the collector looks at it writes to, and what is written to is shared no longer: that
        # would be 13 MiB for each worker.
        gc.collect()
        gc.freeze()
        self._queued = len(self._reactor.threadCallQueue)
        try:
            self._signals.catch()
            self._selector.register(self._signals, selectors.EVENT_READ)
            worker = self._run()
        except Exception as error:
            _log.failure("The parent of the workers cannot go on")
            self.failed = f"--workers {self.count}: {error!r}"
            worker = None
        if worker is None:
            self._end_at_once()
            self.close()
            self._signals.release()
            self._selector.close()
        return worker

    def _run(self) -> Worker | None:
        while True:
            now = time.monotonic()
            worker = self._keep_serving(now) if self._serves else None
            if worker is not None:
                return worker
            if not self._serves:
                if not self._retired and all(seat.pid is None for seat in self._seats):
                    return None
                if self._deadline <= now:
                    self._time_is_up()
                    continue
            if self._successor is not None and self._successor_due <= now:
                self._drop_successor(f"it has not opened its ports in {START_SECONDS:g} s")
            if self.notifier.interval is not None and self._alive_due <= now:
                self._alive_due = now + self.notifier.interval
                self.notifier.alive()
            for key, _ in self._selector.select(self._timeout(now)):
                if isinstance(key.data, Retired):
                    self._hear_nothing(key.data)
                elif isinstance(key.data, Seat):
                    self._hear(key.data)
                elif isinstance(key.data, Successor):
                    self._hear_successor(key.data)
                else:
                    self._hear_signals()
            self._reap()

    @property
    def _serves(self) -> bool:
        """Whether there are to be workers."""
        return self._state in (State.STARTING, State.SERVING)

    def _keep_serving(self, now: float) -> Worker | None:
        """Have each seat taken, by one that is up to date."""
        for seat in self._seats:
            if seat.pid is None and seat.due <= now:
                worker = self._fork(seat)
                if worker is not None:
                    return worker
        self._renew_when_due(now)
        worker = self._replace_next()
        if worker is None:
            self._retire_when_due(now)
        return worker

    def _timeout(self, now: float) -> float | None:
        """Seconds until there is something to do with no signal."""
        times = [self._deadline, self._successor_due]
        if self.notifier.interval is not None:
            times.append(self._alive_due)
        if self._serves:
            times += [seat.due for seat in self._seats if seat.pid is None]
            times += [each.due for each in self._retired]
            times.append(self._looked + TRUST_INTERVAL)
        soonest = min(times)
        return None if soonest == math.inf else max(0.0, soonest - now)

    # Signals

    def _hear_signals(self) -> None:
        numbers = self._signals.read()
        for each in numbers:
            if each in (signal.SIGTERM, signal.SIGINT):
                self._hear_to_end(signal.Signals(each))
        if signal.SIGHUP in numbers:
            if not self._serves or self._successor is not None:
                _log.warn("SIGHUP is ignored: the service is about to end")
            else:
                _log.info("Received SIGHUP, passed on to the workers.")
                self.notifier.reloading()
                self._tell_all(RELOAD)
                self._looked = -math.inf
                self.reload()
                self.notifier.ready("serving")
        if signal.SIGUSR2 in numbers:
            self._upgrade()
        if signal.SIGUSR1 in numbers:
            # On which twistd has its log file rotated, in a turn of the reactor that does not come.
            queue = self._reactor.threadCallQueue
            calls, queue[self._queued :] = queue[self._queued :], []
            for function, arguments, named in calls:
                with _log.failuresHandled("While calling what SIGUSR1 is for"):
                    function(*arguments, **named)

    # The end

    def _hear_to_end(self, number: signal.Signals) -> None:
        """
        SIGTERM, or SIGINT.  The second one ends all at once; and so does the first, where it is
        SIGINT.
        """
        if self._state is State.STOPPING:
            return
        if self._state is not State.DRAINING:
            _log.info("Received {name}, shutting down.", name=number.name)
            if number == signal.SIGINT:
                # Twisted ends the process by the signal, when all is done.
                self._reactor._exitSignal = number
            self._drop_successor("this one is shutting down")
            self.notifier.stopping("draining", self.drain + GRACE)
            self._end()
            if number == signal.SIGTERM and self.drain > 0:
                return
        self._end_now()

    def _end(self) -> None:
        """Have the workers end, each when its connections have, or when their time is up."""
        self._state = State.DRAINING
        self._deadline = time.monotonic() + self.drain + GRACE
        self.close()
        self._send_signal(signal.SIGTERM)

    def _end_now(self) -> None:
        """Have them end without that."""
        self._state = State.STOPPING
        self._deadline = time.monotonic() + GRACE
        self._tell_all(END)

    def _time_is_up(self) -> None:
        if self._state is State.LEAVING:
            # Another program serves: the time is the connections'.
            self._end_now()
        else:
            self._end_at_once()

    def _end_at_once(self) -> None:
        """
        End the workers that are there, and wait for them.
        """
        left = self._retired or any(seat.pid is not None for seat in self._seats)
        if left and not self._serves:
            _log.warn("workers that are not done after {grace:g} s are ended", grace=GRACE)
            self.have_cut = self.drain > 0
        self._send_signal(signal.SIGKILL)
        for seat in self._seats:
            if seat.pid is not None:
                with suppress(ChildProcessError):
                    os.waitpid(seat.pid, 0)
                self._vacate(seat)
        for each in self._retired:
            assert each.pid is not None
            with suppress(ChildProcessError):
                os.waitpid(each.pid, 0)
        self._retired = []

    # A new version of the program

    def _upgrade(self) -> None:
        self._upgrade_wanted = self._state is State.STARTING
        if self._upgrade_wanted:
            return
        if self._state is not State.SERVING or self._successor is not None:
            why = self._state.value if self._successor is None else "being replaced already"
            _log.warn("SIGUSR2 is ignored: the service is {why}", why=why)
            return
        self._successor = self.begin_upgrade()
        if self._successor is not None:
            self._successor_due = time.monotonic() + START_SECONDS
            self._selector.register(self._successor, selectors.EVENT_READ, self._successor)

    def _hear_successor(self, successor: Successor) -> None:
        # Before it is closed.
        self._selector.unregister(successor)
        progress = successor.hear()
        if progress is Progress.STARTING:
            self._selector.register(successor, selectors.EVENT_READ, successor)
            return
        self._successor, self._successor_due = None, math.inf
        if progress is Progress.READY:
            self.notifier.succeeded_by(successor.pid)
            successor.take_over()
            self._state = State.LEAVING
            self._deadline = time.monotonic() + self.drain if self.drain > 0 else math.inf
            self._tell_all(RETIRE)
            self.close(successor.adopted)

    def _drop_successor(self, reason: str) -> None:
        successor, self._successor = self._successor, None
        self._successor_due = math.inf
        if successor is not None:
            self._selector.unregister(successor)
            successor.give_up(reason)

    def _send_signal(self, number: signal.Signals) -> None:
        processes: list[Process] = [*self._seats, *self._retired]
        for each in processes:
            if each.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(each.pid, number)

    # Workers

    def _hear(self, seat: Seat) -> None:
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
            if seat.forks == 1 and self._serves:
                reason = said.partition(FAILED)[2].decode("utf-8", "replace")
                self.failed = f"worker {seat.index} cannot start: {reason}"
                self._end()
            return
        if RENEWED in said:
            self._tell_all(RENEWED, seat)
        if READY in said:
            self._retire_those_before(seat)
            seat.is_ready = True
            if self._state is State.STARTING and all(each.is_ready for each in self._seats):
                self._state = State.SERVING
                if not self.all_ready():
                    self.failed = "the process before goes on in our place"
                    self._end()
                elif self._upgrade_wanted:
                    self._upgrade()

    def _hear_nothing(self, retired: Retired) -> None:
        """One that is replaced has nothing more to say but that it has ended."""
        assert retired.link is not None
        said = b""
        with suppress(OSError):
            said = retired.link.recv(LONGEST)
        if not said:
            self._let_go(retired)

    def _tell_all(self, word: bytes, but: Seat | None = None) -> None:
        told: list[Process] = [*self._seats]
        if word == END:
            told += self._retired
        for each in told:
            if each is not but and each.link is not None:
                # One that does not read has enough to read, and one that has ended needs nothing.
                with suppress(OSError):
                    each.link.send(word)

    def _reap(self) -> None:
        for seat in self._seats:
            if seat.pid is None:
                continue
            status = _status_of(seat.pid)
            if status is not None:
                # Its last words.
                self._hear(seat)
                self._take_note(status)
                self._ended(seat, seat.pid, how_it_ended(status))
        for each in self._retired[:]:
            assert each.pid is not None
            status = _status_of(each.pid)
            if status is not None:
                self._take_note(status)
                self._let_go(each)
                self._retired.remove(each)
                self.free_row(each.row)
                log = _log.error if status else _log.info
                log(
                    "worker {index}, pid {pid}, which was replaced, has ended with {how}",
                    index=each.index,
                    pid=each.pid,
                    how=how_it_ended(status),
                )

    def _take_note(self, status: int) -> None:
        """One that could not wait for its connections says so by its status."""
        if not self._serves and self.drain > 0 and status:
            self.have_cut = True

    def _ended(self, seat: Seat, pid: int, how: str) -> None:
        now = time.monotonic()
        self._vacate(seat)
        if not self._serves:
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

    def _vacate(self, seat: Seat) -> None:
        seat.pid = None
        self.free_row(seat.row)
        if seat.link is not None:
            with suppress(KeyError):
                self._selector.unregister(seat.link)
            seat.link.close()
            seat.link = None

    # Replacement

    def replace(self) -> None:
        """Have each worker replaced by one that is forked from what this process is now."""
        self._replacement_is_due = True

    def _renew_when_due(self, now: float) -> None:
        """
        Once a day, and when something else is asked of clients, have all workers replaced.
        """
        crowded = len(self._retired) > (MOST_RETIRED - 1) * self.count
        if self._replacement_is_due and not crowded:
            self._replacement_is_due = False
            self._to_replace = [seat for seat in self._seats if seat.pid is not None]
        if now - self._looked < TRUST_INTERVAL:
            return
        self._looked = now
        self._trust_changed = self.load_trust() or self._trust_changed
        life = now - self._renewed
        if life < (SOONEST if self._trust_changed else TICKET_KEY_LIFE) or self._to_replace:
            return
        if crowded:
            return
        self._renewed, self._trust_changed = now, False
        self.renew_ticket_keys()
        _log.info("keys for session tickets are renewed; the workers are replaced in turn")
        # Those that are yet to be started will have the new ones.
        self._to_replace = [seat for seat in self._seats if seat.pid is not None]

    def _replace_next(self) -> Worker | None:
        """
        Replace one worker, when the one before it is.

        @return: the new one, in its own process.
        """
        if not self._to_replace or any(each.state is Retirement.SERVING for each in self._retired):
            return None
        seat = self._to_replace[0]
        if seat.pid is not None and seat.due <= time.monotonic():
            retired = Retired(seat.index, pid=seat.pid, link=seat.link, row=seat.row)
            if retired.link is not None:
                with suppress(KeyError):
                    self._selector.modify(retired.link, selectors.EVENT_READ, retired)
            self._retired.append(retired)
            seat.pid = seat.link = None
            worker = self._fork(seat)
            if worker is not None:
                return worker
        # Where it could not be forked the seat is empty, and is filled when it is time again.
        del self._to_replace[0]
        return None

    def _retire_those_before(self, seat: Seat) -> None:
        for each in self._retired:
            if each.index != seat.index or each.state is not Retirement.SERVING:
                continue
            each.state = Retirement.FINISHING
            each.due = time.monotonic() + LONGEST_RETIREMENT
            if each.link is not None:
                with suppress(OSError):
                    each.link.send(RETIRE)

    def _retire_when_due(self, now: float) -> None:
        for each in self._retired:
            if each.due > now:
                continue
            assert each.pid is not None
            number = signal.SIGTERM if each.state is Retirement.FINISHING else signal.SIGKILL
            _log.warn(
                "worker {index}, pid {pid}, which was replaced, is not done: {number}",
                index=each.index,
                pid=each.pid,
                number=number.name,
            )
            each.state, each.due = Retirement.ENDING, now + self.drain + GRACE
            with suppress(ProcessLookupError):
                os.kill(each.pid, number)

    def _let_go(self, retired: Retired) -> None:
        link, retired.link = retired.link, None
        if link is not None:
            with suppress(KeyError):
                self._selector.unregister(link)
            link.close()

    # Forking

    def _fork(self, seat: Seat) -> Worker | None:
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
        row = self.take_row()
        try:
            ours, theirs = ends = socket.socketpair()
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for end in ends:
                end.close()
            self.free_row(row)
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
                self._become_worker(seat, row, parent, before)
                theirs.setblocking(False)
                return Worker(seat.index, Link(self._reactor, theirs))
            except BaseException:
                # The parent's loop, which is above, is not this process's.
                _log.failure("worker {index} cannot start", index=seat.index)
                leave(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        ours.setblocking(False)
        seat.pid, seat.link, seat.row, seat.begun = pid, ours, row, time.monotonic()
        seat.forks += 1
        seat.is_ready = False
        self._selector.register(ours, selectors.EVENT_READ, seat)
        _log.info("worker {index}: pid {pid}", index=seat.index, pid=pid)
        return None

    def _become_worker(self, seat: Seat, row: int, parent: int, mask: set[Any]) -> None:
        """
        Let go of what is the parent's, and of what is the other workers'.
        """
        self._signals.release()
        self._selector.close()
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                leave(1)
        if self._successor is not None:
            self._successor.close()
        others: list[Process] = [*self._seats, *self._retired]
        for other in others:
            if other.link is not None:
                other.link.close()
        self.take_own(seat.index, row)
        renew(self._reactor)
        heed_parent(self._reactor, self.terminate)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
