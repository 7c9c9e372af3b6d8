"""
Honest clients beside a fault: what they send and get back, what is lost to them, how long it takes.

They run in threads, and talk to an echo.  Some keep their connection, and some connect anew for
each request.  What they do is put down in L{Figures}, one for each part of a test: before the
fault, beside it, after it.
"""

from __future__ import annotations

import os
import random
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from threading import Event, Lock, Thread
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates.load_material import percentile

__all__ = [
    "Figures",
    "Honest",
    "Row",
    "descriptors",
    "exactly",
    "resident",
    "settled_levels",
    "table",
]

PATIENCE = 300.0
"""Seconds for whatever is waited for: how fast a machine is, is not meant."""

MOST = 8192
"""Bytes of the largest request."""


@attrs.define(eq=False)
class Figures:
    """
    What honest clients have come to in one part of a test.

    @ivar kept: seconds that each request took on a connection that was there.
    @ivar anew: seconds that each took with a connection of its own, its handshake included.
    @ivar lost: why requests were lost, and how often.
    @ivar lost_by: the same, by the number of the process that served the connection.
    @ivar bytes: that were sent, and have come back as they were.
    """

    kept: list[float] = attrs.field(factory=list)
    anew: list[float] = attrs.field(factory=list)
    lost: Counter[str] = attrs.field(factory=Counter)
    lost_by: Counter[int] = attrs.field(factory=Counter)
    bytes: int = 0

    @property
    def made(self) -> int:
        """How many requests there were."""
        return len(self.kept) + len(self.anew) + self.lost.total()

    def __str__(self) -> str:
        return f"{self.made}/{self.lost.total()}"

    @property
    def latency(self) -> str:
        """The median and the 99th of 100, in milliseconds, kept and anew."""
        return " ".join(
            "-"
            if not times
            else f"{statistics.median(times) * 1000:.1f}/{percentile(times, 0.99) * 1000:.1f}"
            for times in (self.kept, self.anew)
        )


class Client(Thread):
    """
    One of them.

    @ivar served_by: the process that its connection is served by, where that says so.
    """

    def __init__(self, honest: Honest, keeps: bool) -> None:
        super().__init__(daemon=True)
        self.served_by = 0
        self._honest = honest
        self._keeps = keeps
        self._connection: socket.socket | None = None
        self._chance = random.Random(id(self))

    def run(self) -> None:
        honest = self._honest
        while not honest.enough.is_set():
            if not self._keeps and not honest.anew.is_set():
                honest.enough.wait(0.02)
                continue
            self._ask()
            honest.enough.wait(honest.pace)
        self._close()

    def _ask(self) -> None:
        honest = self._honest
        data = os.urandom(self._chance.randrange(1, MOST))
        begun = time.perf_counter()
        try:
            if self._connection is None:
                self._connection = connection = honest.connect()
                connection.settimeout(PATIENCE)
                if honest.greeting:
                    self.served_by = int(exactly(connection, honest.greeting))
            self._connection.sendall(data)
            if exactly(self._connection, len(data)) != data:
                raise AssertionError("other bytes have come back")
        except Exception as error:
            self._close()
            with honest.lock:
                honest.figures.lost[f"{type(error).__name__}: {error}"[:80]] += 1
                honest.figures.lost_by[self.served_by] += 1
            return
        took = time.perf_counter() - begun
        if not self._keeps:
            self._close()
        with honest.lock:
            honest.figures.bytes += len(data)
            (honest.figures.kept if self._keeps else honest.figures.anew).append(took)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Honest:
    """
    Some honest clients.

    @ivar figures: what they come to at present.
    @ivar anew: set as long as some are to connect anew.
    """

    def __init__(
        self,
        case: SynchronousTestCase,
        connect: Callable[[], socket.socket],
        *,
        kept: int = 4,
        callers: int = 1,
        greeting: int = 0,
        pace: float = 0.02,
    ) -> None:
        """
        @param connect: makes a connection to an echo.
        @param kept: how many keep theirs.
        @param callers: how many connect anew for each request.
        @param greeting: bytes with which a connection begins, and which are the number of the
            process at the other end.
        @param pace: seconds between two requests of a client.
        """
        self.connect: Callable[[], Any] = connect
        self.greeting = greeting
        self.pace = pace
        self.enough = Event()
        self.anew = Event()
        self.anew.set()
        self.lock = Lock()
        self.figures = Figures()
        self.clients = [Client(self, each < kept) for each in range(kept + callers)]
        case.addCleanup(self.finish)
        for each in self.clients:
            each.start()

    def begin(self) -> Figures:
        """
        From here on it is another part of the test.

        @return: what they come to in it, until the next one begins.
        """
        with self.lock:
            self.figures = figures = Figures()
        return figures

    def part(self, count: int) -> Figures:
        """A part of so many requests, at least."""
        figures = self.begin()
        self.wait_for(count)
        self.begin()
        return figures

    def wait_for(self, count: int) -> None:
        """Wait until this part has so many requests."""
        end = time.monotonic() + PATIENCE
        while self.figures.made < count:
            if time.monotonic() > end:
                raise AssertionError(f"{self.figures} of {count} requests, {self.figures.lost}")
            time.sleep(0.01)

    def finish(self) -> None:
        """They have done."""
        self.enough.set()
        for each in self.clients:
            each.join(PATIENCE)


def exactly(connection: socket.socket, count: int) -> bytes:
    """
    Receive so many bytes.

    @raise EOFError: there are not as many.
    """
    found = bytearray()
    while len(found) < count:
        data = connection.recv(count - len(found))
        if not data:
            raise EOFError(f"it has ended after {len(found)} of {count} bytes")
        found += data
    return bytes(found)


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def settled_levels(pids: Sequence[int]) -> tuple[int, int]:
    """
    How many bytes and descriptors processes have in all, once the latter do not change any more.
    """
    last, same = -1, 0
    for _ in range(3000):
        now = sum(map(descriptors, pids))
        last, same = now, same + 1 if now == last else 0
        if same >= 25:
            break
        time.sleep(0.02)
    return sum(map(resident, pids)), last


@attrs.frozen
class Row:
    """
    What a case has shown.

    @ivar case: what was done.
    @ivar parts: the honest clients before the fault, beside it, and after it.
    @ivar levels: how many bytes the processes have grown by from before to after, and how many
        descriptors more they have; L{None} where those are others.
    @ivar counted: what the metrics tell of it, or what there is of files.
    """

    case: str
    parts: tuple[Figures, Figures, Figures]
    levels: tuple[int, int] | None
    counted: str

    def cells(self) -> tuple[str, ...]:
        """Its part of the table."""
        levels = ("-", "-")
        if self.levels is not None:
            levels = (f"{self.levels[0] / 1024:+.0f} KiB", f"{self.levels[1]:+d}")
        latencies = (each.latency for each in self.parts)
        return (self.case, *map(str, self.parts), *latencies, *levels, self.counted)


_HEADS = (
    "case",
    *(f"{part} made/lost" for part in ("alone", "beside", "after")),
    *(f"{part} ms kept, anew" for part in ("alone", "beside", "after")),
    "memory",
    "fds",
    "counted",
)


def table(rows: Iterable[Row]) -> str:
    """The rows, with their columns under each other."""
    lines = [_HEADS, *(each.cells() for each in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
