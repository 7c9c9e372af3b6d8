"""Log lines that strangers cause, as many as somebody may want to read."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.logger import Logger

from ._bucket import Bucket

__all__ = ["Lines"]

_log = Logger()

BURST = 100
"""Lines at once."""

RATE = 10.0
"""Lines in a second, after that."""

TELL_INTERVAL = 10.0
"""Seconds until it is told how many lines there would have been."""


class Lines:
    """
    Bounds the log lines of failed handshakes.  A flood of them would fill a disk, and whoever reads
    a log through a pipe might be slower than those who cause it.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._bucket = Bucket(RATE, BURST, clock.seconds)
        self._untold: Counter[str] = Counter()
        self._telling: Any = None

    def take(self, cause: str) -> bool:
        """
        Whether there may be one more line.  If not it is counted, and told of later.

        @param cause: what it would be about, in a word.
        """
        if self._bucket.take():
            return True
        if self._telling is None:
            self._telling = self._clock.callLater(TELL_INTERVAL, self._tell)
        self._untold[cause] += 1
        return False

    def stop(self) -> None:
        """Tell what is untold, and wait for nothing any more."""
        if self._telling is not None:
            self._telling.cancel()
            self._tell()

    def _tell(self) -> None:
        self._telling = None
        untold, self._untold = self._untold, Counter()
        _log.info(
            "{count} more failed handshakes within {seconds:g} seconds: {causes}",
            count=untold.total(),
            seconds=TELL_INTERVAL,
            causes=", ".join(f"{cause} {count}" for cause, count in untold.most_common()),
        )
