"""Signals, for a loop that waits for sockets: each is a byte in a pipe."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType
from typing import Any

__all__ = ["SignalPipe"]


class SignalPipe:
    """
    Has signals of some kinds come as bytes that can be waited for.
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._numbers = tuple(numbers)
        self._ends: tuple[int, int] = (-1, -1)
        self._handlers: dict[int, Any] = {}

    def fileno(self) -> int:
        """Where the bytes come."""
        return self._ends[0]

    def catch(self) -> None:
        """Begin."""
        reading, writing = self._ends = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        for number in self._numbers:
            # A shell has programs in the background ignore what its terminal sends.
            if number == signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._handlers.setdefault(number, signal.signal(number, _ignore))
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def read(self) -> bytes:
        """The numbers of the signals that have come, in their order."""
        return os.read(self._ends[0], 4096)

    def release(self) -> None:
        """End: signals do what they did before."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for end in self._ends:
            with suppress(OSError):
                os.close(end)
        self._ends = (-1, -1)


def _ignore(number: int, frame: FrameType | None) -> None:
    """The signal's byte in the pipe says it all."""
