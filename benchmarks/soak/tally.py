"""What becomes of the load: what was done, and what was not, kind by kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Event, Lock, Thread
from time import monotonic

from attrs import Factory, define, frozen

Done = tuple[int, bool]
"""What a unit brings: the bytes that came back, and whether a session was resumed."""

KEPT_REASONS = 5
"""Reasons of failures that are kept of each kind: the first ones."""


class Lost(Exception):
    """An honest client has not got, to the byte, what it should have; the sentence says what."""


class LetIn(Exception):
    """A client that should have been turned away was not; the sentence says which."""


@define
class Count:
    """
    Of one kind.

    @ivar done: units that went as they should.
    @ivar failed: units that did not.
    @ivar received: bytes that came back, all of them compared.
    @ivar resumed: how many resumed a session.
    @ivar reasons: why units failed, with the seconds at which they did.
    """

    done: int = 0
    failed: int = 0
    received: int = 0
    resumed: int = 0
    reasons: list[str] = Factory(list)


class Tally:
    """
    Counts by kind, which many threads add to.
    """

    def __init__(self, tell: Callable[[str], object] = lambda line: None) -> None:
        """
        @param tell: what to do with the first reasons for which units of a kind fail, at once.
        """
        self._tell = tell
        self._lock = Lock()
        self._begun = monotonic()
        self.counts: dict[str, Count] = {}

    def expect(self, kinds: Iterable[str]) -> None:
        """Have a row for each of these, whether there will be anything in it or not."""
        for kind in kinds:
            self.counts.setdefault(kind, Count())

    def done(self, kind: str, received: int = 0, resumed: bool = False) -> None:
        """One unit went as it should."""
        with self._lock:
            count = self.counts[kind]
            count.done += 1
            count.received += received
            count.resumed += resumed

    def failed(self, kind: str, reason: str) -> None:
        """One unit did not."""
        with self._lock:
            count = self.counts[kind]
            count.failed += 1
            if len(count.reasons) < KEPT_REASONS:
                reason = f"after {monotonic() - self._begun:.0f} s: {reason}"
                count.reasons.append(reason)
                self._tell(f"{kind}: {reason}")

    def total(self, kinds: Iterable[str]) -> tuple[int, int]:
        """How many units of some kinds are done, and how many have failed."""
        with self._lock:
            counts = [self.counts[kind] for kind in kinds if kind in self.counts]
            return sum(each.done for each in counts), sum(each.failed for each in counts)


@frozen
class Kind:
    """
    A kind of load.

    @ivar name: for tables and plots.
    @ivar every: seconds from the beginning of one unit to that of the next.
    @ivar unit: does one.
    """

    name: str
    every: float
    unit: Callable[[], Done]


class Pace:
    """
    Threads that do units, each those of one kind, when they are due.

    What takes longer than its pace is not made up for: the rate of the load is never more than was
    said, whatever the server does.
    """

    def __init__(self, kinds: Iterable[Kind], tally: Tally, faster: float = 1.0) -> None:
        """
        @param faster: how many times as fast as the kinds have it.
        """
        self._tally = tally
        self._stop = Event()
        kinds = list(kinds)
        tally.expect(kind.name for kind in kinds)
        self._threads = [
            Thread(
                target=self._run,
                args=(kind, kind.every / faster),
                daemon=True,
                name=kind.name,
            )
            for kind in kinds
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, limit: float) -> list[str]:
        """
        Begin no more units, and wait for those that are under way.

        @param limit: seconds.
        @return: the kinds of which one is still under way then.
        """
        self._stop.set()
        deadline = monotonic() + limit
        for thread in self._threads:
            thread.join(max(0.0, deadline - monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]

    def _run(self, kind: Kind, every: float) -> None:
        due = monotonic()
        while not self._stop.wait(max(0.0, due - monotonic())):
            try:
                received, resumed = kind.unit()
            except Exception as error:
                self._tally.failed(kind.name, f"{type(error).__name__}: {error}")
            else:
                self._tally.done(kind.name, received, resumed)
            due = max(due + every, monotonic())
