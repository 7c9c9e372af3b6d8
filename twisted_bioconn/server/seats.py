"""
Workers as their parent knows them.
"""

from __future__ import annotations

import math
import os
import signal
import socket
from enum import Enum, auto

from attrs import define

__all__ = ["Process", "Retired", "Retirement", "Seat", "delay_before", "how_it_ended"]

#: The longest time between two attempts to start a worker, in seconds.
LONGEST_DELAY = 30.0

#: How long connections may go on in a worker that is replaced, in seconds: a week.
LONGEST_RETIREMENT = 7 * 86400.0

#: How many that are replaced there may be for each worker.
MOST_RETIRED = 8


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


@define(eq=False, kw_only=True)
class Process:
    """
    A process of ours.

    @ivar pid: its number; L{None} while there is none.
    @ivar link: the parent's end of the socket to it; L{None} when it has let go of its own.
    @ivar row: no other process of ours has the same, as long as there is this one.
    """

    pid: int | None = None
    link: socket.socket | None = None
    row: int = 0


@define(eq=False)
class Seat(Process):
    """
    The place of a worker, for one process after the other.

    @ivar begun: when the present one was forked.
    @ivar forks: how many there have been.
    @ivar short_lives: how many have ended soon after their start, one after the other.
    @ivar due: when the next is to be forked.
    @ivar is_ready: whether the present one has said that it serves.
    """

    index: int
    begun: float = 0.0
    forks: int = 0
    short_lives: int = 0
    due: float = 0.0
    is_ready: bool = False


class Retirement(Enum):
    """How far a worker that is replaced has got."""

    SERVING = auto()
    """It accepts, until the one that takes its place does."""
    FINISHING = auto()
    """It accepts no more, and ends with its last connection."""
    ENDING = auto()
    """It was told to end at once."""


@define(eq=False)
class Retired(Process):
    """
    A worker that is replaced.

    @ivar due: when to go on to the next state.
    """

    index: int
    state: Retirement = Retirement.SERVING
    due: float = math.inf
