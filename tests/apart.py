"""Tests that run in a process of their own, by L{tests.outcomes}, and a table of their outcomes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, cast

from tests.outcomes import Outcome, Report

CHECKOUT = Path(__file__).parent.parent


class Run(NamedTuple):
    """
    What became of tests that ran in a process of their own.

    @ivar report: what it reported; L{None} if it did not come to that.
    @ivar said: what it wrote.
    """

    report: Report | None
    said: str
    seconds: float

    @property
    def counts(self) -> Counter[str]:
        """How many tests passed, failed or were skipped."""
        return Counter(each["outcome"] for each in self._outcomes().values())

    @property
    def failed(self) -> bool:
        """Whether a test failed, none passed, or the process did not live to tell."""
        return bool(self.counts["failed"]) or not self.counts["passed"]

    def reasons(self, outcome: str) -> list[str]:
        """
        Each test with this outcome, and why; what the process said, if it did not report.
        """
        if self.report is None:
            return [f"there is no report:\n{self.said[-4000:]}"] if outcome == "failed" else []
        return [
            f"{name}: {each['reason'].strip()}"
            for name, each in sorted(self._outcomes().items())
            if each["outcome"] == outcome
        ]

    def cells(self) -> list[str]:
        """For a row of a table that has L{COLUMNS}."""
        counts = self.counts
        numbers = [counts.total(), *(counts[each] for each in ("passed", "failed", "skipped"))]
        return [*map(str, numbers), f"{self.seconds:.0f}"]

    def _outcomes(self) -> dict[str, Outcome]:
        return {} if self.report is None else self.report["outcomes"]


COLUMNS = ("run", "passed", "failed", "skipped", "seconds")


def run_apart(python: str | Path, arguments: Sequence[str], limit: float) -> Run:
    """
    Run L{tests.outcomes} in a process of its own, without the tests that take long, and without
    insisting on what some need (L{tests.programs}).

    @param python: the Python to run it with.
    @param arguments: as on its command line, without the report.
    @param limit: seconds, after which it is ended.
    """
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    for name in ("BIOCONN_CI", "BIOCONN_SLOW"):
        environ.pop(name, None)
    begun = time.monotonic()
    with TemporaryDirectory() as directory:
        file = Path(directory, "report.json")
        options = ["--temp-directory", f"{directory}/trial", f"--limit={limit}"]
        with open(Path(directory, "said"), "w+b") as said:
            done = subprocess.run(
                [python, "-m", "tests.outcomes", *options, str(file), *arguments],
                # Not the checkout: some tests leave files where they run.
                cwd=directory,
                env=environ,
                stdin=subprocess.DEVNULL,
                # Not a pipe, which does not end before the last of what the tests have started.
                stdout=said,
                stderr=subprocess.STDOUT,
                check=False,
            )
            said.seek(0)
            text = said.read().decode(errors="replace")
        report = cast(Report, json.loads(file.read_text("utf-8"))) if file.exists() else None
    return Run(report, f"{text}\nits status is {done.returncode}", time.monotonic() - begun)


def table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Rows of cells, the first of which is text and the others are numbers."""
    lines = [list(heading), *map(list, rows)]
    width = max(len(line[0]) for line in lines)
    return "\n".join(
        " ".join([line[0].ljust(width), *(cell.rjust(8) for cell in line[1:])]) for line in lines
    )


def faults(runs: Mapping[str, Run]) -> list[str]:
    """Each test that failed, under the name of what it ran on."""
    return [f"{name}: {why}" for name, run in runs.items() for why in run.reasons("failed")]
