"""
The model: what a protocol may be told by its transport, and what it has to be told.

It knows nothing of TLS, and of a transport only what is called and what is told.  So it holds for
plain TCP as well, which is where it comes from, but for what a L{Kind} says.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import attrs
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, TimeoutError

from tests.model.steps import Setting

if TYPE_CHECKING:
    from twisted.python.failure import Failure

HANDSHAKE_TIMEOUT, CLOSE_TIMEOUT = 10.0, 30.0
"""Seconds; what the factories have where nothing else is said."""


class Oops(Exception):
    """What an application raises."""


class Rule(Enum):
    """What has to hold, in few words, for a table."""

    ORDER = "told in order: connected first, the end last"
    ONCE = "told each thing once"
    BYTES = "given the bytes that the other wrote, in order"
    PAUSE = "given nothing while it has paused"
    WHOLE = "told a clean end only after all bytes"
    ARRIVES = "given, once all is calm, all that was promised"
    REASON = "told a reason that is one"
    PRODUCER = "a producer resumed while there is room, and left alone when it is over"
    STOPPED = "a producer stopped when there is no connection any more"
    CALLS = "calls that raise only what is documented"
    LOG = "no error logged"
    ENDS = "told the end, once both have closed"
    LEFT = "nothing left behind: no call, no reader, no open socket"


@attrs.frozen
class Broken:
    """A rule that did not hold, and how."""

    rule: Rule
    how: str


@attrs.frozen
class Kind:
    """
    Where a transport differs by nature.

    @ivar name: as a table has it.
    @ivar tells_cuts: whether an end that the other did not send is a loss, and no end.
    @ivar times_out: whether it has deadlines.
    @ivar drops_late_writes: whether what is written after C{loseConnection} is dropped at once, but
        for a producer's; otherwise that is a matter of how soon the rest has gone.
    @ivar delivers_paused: whether what would be lost with the transport is delivered though the
        application has paused.
    @ivar half_closes_late: whether C{loseWriteConnection} does nothing when the connection is lost.
        Twisted's TCP transport waits to write from then on, and fails whenever the reactor lets it.
    """

    name: str
    tells_cuts: bool
    times_out: bool
    drops_late_writes: bool
    delivers_paused: bool
    half_closes_late: bool


TLS = Kind("TLS", True, True, True, True, True)
TCP = Kind("TCP", False, False, False, False, False)


@attrs.define
class View:
    """
    What one end has called and was told.

    @ivar half: whether it can go on when one direction is closed.
    @ivar attempted: how many bytes it has tried to write.
    @ivar accepted: which of them were promised to be sent.
    @ivar certain: how many of those the other has to be given by the time that all is calm;
        L{None} for all of them.
    @ivar received: bytes that it was given.
    @ivar ended: whether it closed all, and how: by what name of L{tests.model.world.End}.
    @ivar half_closed: whether it closed its own direction.
    @ivar told: what it was told, in order, runs of data as one.
    """

    half: bool
    attempted: int = 0
    accepted: bytearray = attrs.field(factory=bytearray)
    certain: int | None = None
    received: int = 0
    paused: bool = False
    producing: bool = False
    ended: str | None = None
    half_closed: bool = False
    failed: bool = False
    handshaken: bool = False
    made: bool = False
    told: list[str] = attrs.field(factory=list)
    reason: Failure | None = None
    unlawful: str | None = None

    @property
    def lost(self) -> bool:
        """Whether it was told the end of the connection."""
        return self.reason is not None

    @property
    def closes(self) -> bool:
        """Whether it has ended anything of the connection."""
        return self.ended is not None or self.half_closed or self.failed


_PATTERN = bytes((n * 7 + (n >> 8)) & 255 for n in range(1 << 16))


def pattern(start: int, size: int) -> bytes:
    """So many bytes of what either end writes, from the C{start}-th on."""
    first = start % len(_PATTERN)
    return (_PATTERN[first:] + _PATTERN * (size // len(_PATTERN) + 1))[:size]


class Model:
    """
    What both ends see of one connection, and whether that may be.

    @ivar broken: the rules that were broken.
    @ivar orderly: whether nothing was done of which TLS has to make something else than TCP does:
        one end closes at most, when the handshake is done and nothing is on its way to it, and
        nothing is written afterwards that would not be read.
    """

    def __init__(self, kind: Kind, setting: Setting) -> None:
        self.kind = kind
        self.setting = setting
        self.views = (View(setting.half[0]), View(setting.half[1]))
        self.broken: list[Broken] = []
        self.orderly = True
        self.waited = 0.0
        self._closing_since: float | None = None
        self._faults: set[str] = set()

    def breaks(self, rule: Rule, side: int, how: str) -> None:
        """A rule does not hold at this end."""
        told = ", ".join(self.views[side].told)
        self.broken.append(Broken(rule, f"end {side} {how}; told: {told}"))

    # What is called

    def writes(self, side: int, size: int) -> bytes:
        """It is about to write so many bytes: these."""
        view, other = self.views[side], self.views[1 - side]
        data = pattern(view.attempted, size)
        view.attempted += size
        if size and (view.closes or other.ended or (other.half_closed and not view.half)):
            self.orderly = False
        if self._accepts(view):
            view.accepted += data
            if view.certain is None and (other.closes or (view.closes and not view.producing)):
                # Nobody may want it any more, or it may come too late.
                view.certain = len(view.accepted) - size
        return data

    def _accepts(self, view: View) -> bool:
        if not view.made or view.lost or view.failed or view.half_closed:
            return not self.kind.drops_late_writes
        if view.ended == "lose":
            return view.producing or not self.kind.drops_late_writes
        return view.ended is None

    def half_closes(self, side: int) -> None:
        """It is about to close its own direction."""
        view, other = self.views[side], self.views[1 - side]
        if view.lost or view.ended or not view.made:
            return
        self._note_closing(side, takes_all=not other.half)
        view.half_closed = True
        if not other.half:
            self._limit(1 - side, len(other.accepted))

    def ends(self, side: int, how: str) -> None:
        """It is about to close all: C{lose}, C{abort}; or it raises: C{fail}."""
        view = self.views[side]
        if view.lost or not view.made:
            return
        self._note_closing(side, takes_all=True)
        if how != "lose":
            self.orderly = False
        if how == "fail":
            view.failed = True
        elif view.ended is None or how == "abort":
            view.ended = how
        # It may have no use for what comes from now on.
        self._limit(1 - side, view.received)
        if how != "lose":
            self._limit(side, self.views[1 - side].received)

    def network_fails(self, side: int, how: str) -> None:
        """This end is about to be told C{reset} or C{cut}."""
        self._faults.add(how)
        self.orderly = False
        for each in (0, 1):
            self._limit(each, self.views[1 - each].received)

    def time_passes(self, seconds: float) -> None:
        """So many seconds are about to pass."""
        self.waited += seconds
        if self.kind.times_out and self._may_time_out():
            self.orderly = False
            for each in (0, 1):
                self._limit(each, self.views[1 - each].received)

    def _may_time_out(self) -> bool:
        if self.waited >= HANDSHAKE_TIMEOUT and not all(view.handshaken for view in self.views):
            return True
        if self.setting.idle is not None and self.waited >= self.setting.idle:
            return True
        since = self._closing_since
        return since is not None and self.waited - since >= CLOSE_TIMEOUT

    def _note_closing(self, side: int, takes_all: bool) -> None:
        """
        It is about to close.

        @param takes_all: whether nothing that the other writes would arrive on TCP from now on.
        """
        view, other = self.views[side], self.views[1 - side]
        if view.closes or other.closes or view.paused or other.paused:
            self.orderly = False
        if view.producing or other.producing:
            # Twisted's TCP half-closes when a producer has finished, or not at all.
            self.orderly = False
        if self.kind.times_out and not (view.handshaken and other.handshaken):
            self.orderly = False
        if takes_all and view.received < len(other.accepted):
            self.orderly = False
        if self._closing_since is None:
            self._closing_since = self.waited

    def _limit(self, side: int, size: int) -> None:
        """Of what this end writes, no more than so many bytes have to arrive."""
        view = self.views[side]
        view.certain = size if view.certain is None else min(view.certain, size)

    # What is told

    def tells(self, side: int, what: str, data: bytes = b"") -> None:
        """It is told this."""
        view = self.views[side]
        if view.lost:
            self.breaks(Rule.ORDER, side, f"is told {what!r} after its end")
        if not view.made and what != "made":
            self.breaks(Rule.ORDER, side, f"is told {what!r} before it is connected")
        if what in view.told and what != "data":
            self.breaks(Rule.ONCE, side, f"is told {what!r} twice")
        if view.told[-1:] != [what]:
            view.told.append(what)
        if what in ("data", "read lost"):
            if view.paused:
                view.unlawful = f"is told {what!r} while it has paused"
            if "read lost" in view.told[:-1]:
                self.breaks(Rule.ORDER, side, f"is told {what!r} after the end of what it reads")
        if what == "made":
            view.made = True
        elif what == "handshake":
            view.handshaken = True
        elif what == "data":
            self._receives(side, data)
        elif what == "read lost":
            self._is_whole(side, "is told the end of what it reads")
        elif what == "write lost" and not view.half_closed:
            self.breaks(
                Rule.ORDER, side, "is told that it has closed its direction, which it has not"
            )

    def _receives(self, side: int, data: bytes) -> None:
        view, other = self.views[side], self.views[1 - side]
        if not data:
            self.breaks(Rule.BYTES, side, "is given no bytes")
        start = view.received
        view.received += len(data)
        if self.kind.drops_late_writes:
            right = bytes(other.accepted[start : view.received]) == data
        else:
            right = view.received <= other.attempted and pattern(start, len(data)) == data
        if not right:
            self.breaks(Rule.BYTES, side, f"is given wrong bytes from {start} on")

    def is_lost(self, side: int, reason: Failure) -> None:
        """It is told the end of the connection."""
        view = self.views[side]
        if view.lost:
            self.breaks(Rule.ONCE, side, "is told its end twice")
            return
        if view.producing:
            self.breaks(Rule.STOPPED, side, "has a producer that was not stopped")
        if self.kind.delivers_paused:
            view.unlawful = None
        if not self._may_be(side, reason):
            self.breaks(Rule.REASON, side, f"is told {reason.value!r}")
        elif reason.check(ConnectionDone) and not view.closes:
            self._is_whole(side, "is told a clean end")
        view.reason = reason
        view.told.append("lost")

    def _is_whole(self, side: int, sentence: str) -> None:
        view, other = self.views[side], self.views[1 - side]
        if "cut" in self._faults and not self.kind.tells_cuts:
            return
        answers = self.views[side].half_closed and not other.half
        if not (other.closes or other.lost or answers or self._idle()):
            self.breaks(Rule.WHOLE, side, f"{sentence}, which the other has not sent")
        elif view.received < len(other.accepted) and not (
            other.ended == "abort"
            or other.failed
            or self.views[side].closes
            or other.certain is not None
        ):
            missing = len(other.accepted) - view.received
            self.breaks(Rule.WHOLE, side, f"{sentence} with {missing} bytes missing")

    def _idle(self) -> bool:
        return self.kind.times_out and self._may_time_out()

    def _may_be(self, side: int, reason: Failure) -> bool:
        view, other = self.views[side], self.views[1 - side]
        over = other.closes or other.lost or self._idle()
        if view.failed and reason.check(Oops):
            return True
        if reason.check(ConnectionAborted):
            early = view.ended == "lose" and not view.handshaken and self.kind.times_out
            return view.ended == "abort" or early
        if reason.check(ConnectionDone):
            return view.closes or over or ("cut" in self._faults and not self.kind.tells_cuts)
        if reason.check(TimeoutError):
            return self._idle()
        if reason.check(ConnectionLost):
            return over or view.failed or bool(self._faults)
        return False

    # What has to be so

    def check_pause(self) -> None:
        """A step is over: what was given to an application that had paused was its last."""
        for side, view in enumerate(self.views):
            if view.unlawful is not None:
                self.breaks(Rule.PAUSE, side, view.unlawful)
                view.unlawful = None

    def check_calm(self) -> None:
        """Nothing is in the way of anything any more: all that is certain has come."""
        for side, view in enumerate(self.views):
            other = self.views[1 - side]
            due = len(other.accepted) if other.certain is None else other.certain
            if view.received < due and not view.lost:
                self.breaks(Rule.ARRIVES, side, f"has been given {view.received} of {due} bytes")
            elif view.received < due:
                self.breaks(Rule.ARRIVES, side, f"has lost {due - view.received} of {due} bytes")
            if view.producing and not view.lost:
                self.breaks(Rule.PRODUCER, side, "has a producer that is never resumed")

    def check_over(self) -> None:
        """Both have closed, and time enough has passed."""
        for side, view in enumerate(self.views):
            if not view.lost:
                self.breaks(Rule.ENDS, side, "is never told its end")
