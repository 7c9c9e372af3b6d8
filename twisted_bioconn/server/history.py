"""What a server was like in the last minutes: plots show it that were not open then."""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs
from twisted.internet.task import LoopingCall

from twisted_bioconn.server.ledger import GOOD, QUIET, Ledger, total

__all__ = ["INTERVAL", "LENGTH", "WITHIN", "History", "Sample"]

INTERVAL = 2.0
"""Seconds between two samples."""

LENGTH = 300
"""How many samples are kept: ten minutes of them."""

WITHIN = 10.0
"""The latency of a sample is that of the handshakes of so many seconds."""


@attrs.frozen
class Sample:
    """
    What there was at a time.

    @ivar moment: that time, in seconds since 1970.
    @ivar connections: how many there were.
    @ivar done: how many handshakes had succeeded until then.
    @ivar failed: how many had failed, by their causes.
    @ivar refused: how many connections had been refused, by the limit.
    @ivar received: how many bytes had been received, as they are on the wire.
    @ivar sent: how many had been sent.
    @ivar p50: seconds that half of the last handshakes were done in; L{None} where there was none.
    @ivar p99: seconds that 99 of 100 of them were done in.
    """

    moment: float
    connections: int
    done: int
    failed: dict[str, int]
    refused: dict[str, int]
    received: int
    sent: int
    p50: float | None
    p99: float | None

    @classmethod
    def of(cls, ledger: Ledger) -> Sample:
        """What there is now."""
        accounts = ledger.accounts
        results = total(each.results for each in accounts)
        limits = total(each.limits for each in accounts)
        traffic = [each.traffic() for each in accounts]
        p50, p99 = ledger.latency(WITHIN)
        return cls(
            ledger.now(),
            ledger.open_count,
            sum(results[result] for result in GOOD),
            {cause: results[cause] for cause in results.keys() - GOOD - QUIET},
            {limit.value: number for limit, number in limits.items()},
            sum(received for received, _ in traffic),
            sum(sent for _, sent in traffic),
            p50,
            p99,
        )


class History:
    """
    Keeps samples of what there is in a ledger.

    @ivar samples: the oldest first.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.samples: deque[Sample] = deque(maxlen=LENGTH)
        self._ledger = ledger
        self._sampling: Any = LoopingCall(self._sample)
        self._sampling.clock = ledger.clock
        self._users = 0

    def start(self) -> None:
        """Take a sample now, and then one each L{INTERVAL}, for one more that wants to know."""
        self._users += 1
        if not self._sampling.running:
            self._sampling.start(INTERVAL)

    def stop(self) -> None:
        """There is one less that wants to know; with the last, take no more of them."""
        self._users -= 1
        if not self._users and self._sampling.running:
            self._sampling.stop()

    def _sample(self) -> None:
        self.samples.append(Sample.of(self._ledger))
