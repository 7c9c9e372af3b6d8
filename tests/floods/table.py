"""All floods, and what has each of them come."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import attrs
from twisted.trial.reporter import TestResult
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.floods import backends, handshakes, records
from tests.floods.ground import Flood, Honest, Outcome, measure
from tests.server.command import LIMIT, ROOT

__all__ = ["FLOODS", "flood_named", "outcome_of"]

FLOODS: tuple[Flood, ...] = (*handshakes.FLOODS, *records.FLOODS, *backends.FLOODS)


def flood_named(name: str) -> Flood:
    """The flood of this name."""
    [found] = [flood for flood in FLOODS if flood.name == name]
    return found


def outcome_of(case: SynchronousTestCase, flood: Flood) -> Outcome:
    """
    Have a flood come.

    @raise SkipTest: it takes a network of its own, and there is none to be had.
    """
    if flood.cable is None or backends.INSIDE in os.environ:
        return measure(case, flood)
    if not backends.can_have_a_network():
        raise SkipTest("there is no network of its own to be had: it takes ip and unshare of Linux")
    directory = case.mktemp()
    os.makedirs(directory)
    done = subprocess.run(
        ["unshare", "-rn", "--kill-child", sys.executable, "-m", "tests.floods.table", flood.name],
        env={**os.environ, "PYTHONPATH": ROOT, backends.INSIDE: "1"},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{flood.name}: {done.stdout}\n{done.stderr}")
    told = json.loads(done.stdout)
    for name in ("alone", "beside"):
        told[name] = Honest(**told[name])
    return Outcome(**told)


class _Inside(SynchronousTestCase):
    """What a flood is cleaned up with in a network of its own."""

    def runTest(self) -> None:
        print(json.dumps(attrs.asdict(measure(self, flood_named(sys.argv[1])))))


if __name__ == "__main__":
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    result = TestResult()
    _Inside("runTest").run(result)
    for _, error in (*result.errors, *result.failures, *result.skips):
        sys.exit(str(error))
