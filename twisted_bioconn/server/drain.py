"""
The end of a process that serves: no new connections, and time for those that there are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any

from twisted.internet.task import LoopingCall

__all__ = ["Drain", "StartFailed", "State", "exit_with_failure"]

INTERVAL = 0.1
"""Seconds between two looks at whether connections are still open."""


class StartFailed(Exception, SystemExit):
    """
    A port could not be opened, and the reason was said.

    twistd expects an C{Exception}, for which it removes its pid file and which it reports from a
    daemon to the terminal; and Python ends with a traceback unless it is a C{SystemExit}.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.code = 1


class State(Enum):
    """Where a process that serves stands; the values are for those who ask from outside."""

    STARTING = "starting"
    """Its ports are not all open yet."""
    SERVING = "serving"
    """It accepts."""
    LEAVING = "leaving"
    """Another process accepts in its place; it ends with its last connection."""
    DRAINING = "draining"
    """It was told to end: it accepts no more, and connections have some time to end."""
    STOPPING = "stopping"
    """It ends at once."""


class Drain:
    """
    Waits for connections to end.
    """

    def __init__(
        self,
        reactor: Any,
        are_open: Callable[[], bool],
        seconds: float | None,
        done: Callable[[], object],
    ) -> None:
        """
        @param are_open: whether there are any.
        @param seconds: how long they have; L{None} for as long as they want.
        @param done: called once: when the last one has ended, or the time is up.
        """
        self._reactor = reactor
        self._are_open = are_open
        self._until = None if seconds is None else reactor.seconds() + seconds
        self._done = done
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        # Not at once: whoever has begun this has to know of it first.
        self._looking.start(INTERVAL, now=False)

    def cancel(self) -> None:
        """Wait no more; nothing is called."""
        if self._looking.running:
            self._looking.stop()

    def _look(self) -> None:
        is_over = self._until is not None and self._reactor.seconds() >= self._until
        if is_over or not self._are_open():
            self.cancel()
            self._done()


def exit_with_failure() -> None:
    """
    Have the process end with status 1, at exit: twistd has no status for what is found out later.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
