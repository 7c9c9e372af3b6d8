"""
Have each flood come, and print what became of it.

    python -m tests.floods [WORD...]

With words, those floods alone whose names have one of them.  BIOCONN_SLOW=1 in the environment has
all of each come.  The exit status is 1 where something did not hold.
"""

from __future__ import annotations

import os
import sys
from tempfile import TemporaryDirectory

from twisted.trial.reporter import TestResult
from twisted.trial.unittest import SynchronousTestCase

from tests.floods.ground import Flood, Outcome
from tests.floods.table import FLOODS, outcome_of

_ROW = "{:<29} {:>9} {:>17} {:>17} {:>9} {:>13} {:>3}  {}"


class _Bare(SynchronousTestCase):
    """What a flood is cleaned up with where there is no test."""

    def __init__(self, flood: Flood) -> None:
        super().__init__("runTest")
        self.flood = flood
        self.outcome: Outcome | None = None

    def runTest(self) -> None:
        self.outcome = outcome_of(self, self.flood)


def _print(flood: Flood, outcome: Outcome) -> None:
    alone, beside = outcome.alone, outcome.beside
    before, after = outcome.memory
    print(
        _ROW.format(
            flood.name,
            f"{beside.made}/{len(beside.lost)}",
            _latency(alone.kept, beside.kept),
            _latency(alone.new, beside.new),
            "{} > {}".format(*outcome.descriptors),
            f"{before / 2**20:.1f} > {after / 2**20:.1f}",
            outcome.rounds,
            outcome.extent,
        )
    )
    print(f"{'':<29} counted: {outcome.counted}")
    for each in outcome.wrong:
        print(f"{'':<29} ! {each}")
    sys.stdout.flush()


def _latency(alone: list[float], beside: list[float]) -> str:
    return "{:.1f}/{:.0f} > {:.1f}/{:.0f}".format(*alone, *beside)


def main(words: list[str]) -> int:
    """
    Print the table.

    @return: the exit status.
    """
    print(_LEGEND)
    head = ("flood", "requests", "kept, ms", "new, ms", "descr.", "RSS, MiB", "no.", "extent")
    print(_ROW.format(*head))
    status = 0
    for flood in FLOODS:
        if words and not any(word in flood.name for word in words):
            continue
        bare = _Bare(flood)
        result = TestResult()
        bare.run(result)
        for _, reason in result.skips:
            print(f"{flood.name:<29} is left out: {reason}")
        for _, error in (*result.errors, *result.failures):
            print(f"{flood.name:<29} ! {error}")
            status = 1
        if bare.outcome is not None:
            _print(flood, bare.outcome)
            status |= bool(bare.outcome.wrong)
    return status


_LEGEND = """\
requests: of honest clients beside the flood, made/lost
kept, new: latency of their requests, on connections that they keep and on a new one for each,
    median/p99 alone > beside the flood, of the time with the worst; it is told, and nothing is
    asked of it
descr., RSS: of the server, before > after the last time that the flood came, the honest clients'
    connections among them; the first time is for what is loaded late, and what the allocator
    keeps, so that the last is the second, or the next (5 at most) after which no more than 1 MiB
    was left
no.: how often it came
counted: by the server's metrics, the last time that it came, less the honest clients' handshakes
"""


if __name__ == "__main__":
    here = os.getcwd()
    with TemporaryDirectory() as directory:
        os.chdir(directory)
        found = main(sys.argv[1:])
        os.chdir(here)
    sys.exit(found)
