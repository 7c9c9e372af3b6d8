"""Each target over its corpus, and over a bounded number of changes of that."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from hypothesis import given, settings
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.fuzz.inputs import inputs
from tests.fuzz.targets import CORPORA, TARGETS, corpus

TIMES = 8 if os.environ.get("BIOCONN_SLOW") else 1

_MOST_SEEDS, _LARGEST_SEED = 20, 4096


class CorpusTests(SynchronousTestCase):
    """What is committed."""

    def test_every_target(self) -> None:
        """Each has a corpus, and each corpus a target."""
        self.assertEqual({each.name for each in CORPORA.iterdir()}, set(TARGETS))

    def test_small(self) -> None:
        """It is few and small, and no longer than the target may have it."""
        for name, target in TARGETS.items():
            seeds = [each for each in (CORPORA / name).iterdir() if each.name.startswith("seed-")]
            self.assertLessEqual(1, len(seeds), name)
            self.assertLessEqual(len(seeds), _MOST_SEEDS, name)
            for each in corpus(name):
                self.assertLessEqual(len(each), min(target.longest, _LARGEST_SEED), name)

    def test_all_of_it(self) -> None:
        """Each target holds with all of its own."""
        for name, target in TARGETS.items():
            for path in sorted((CORPORA / name).iterdir()):
                try:
                    target.run(path.read_bytes())
                except Exception as error:
                    raise AssertionError(f"{name}: {path.name}") from error


def _test(name: str) -> object:
    target = TARGETS[name]

    @settings(max_examples=target.examples * TIMES, deadline=None, database=None, derandomize=True)
    @given(inputs(name))
    def test(self: ChangeTests, data: bytes) -> None:
        target.run(data)

    test.__doc__ = f"C{{{name}}}"
    return test


class ChangeTests(SynchronousTestCase):
    """Changes of the corpus, always the same ones; with BIOCONN_SLOW=1 many more."""


for _name in TARGETS:
    setattr(ChangeTests, "test_" + _name.replace("-", "_"), _test(_name))


class CommandTests(SynchronousTestCase):
    """C{python -m tests.fuzz}."""

    def run_command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tests.fuzz", *words],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def test_unknown(self) -> None:
        """What is no target is named, with those that there are."""
        done = self.run_command("gopher")
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("there is no target gopher: there are access, ", done.stderr)

    def test_hypothesis(self) -> None:
        """It ends when it was told to, and with success where nothing was found."""
        done = self.run_command("proxy", "--seconds", "1", "--engine", "hypothesis")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout, r"^proxy: \d+ examples, and nothing was found\n")

    def test_atheris(self) -> None:
        """So it does where what is reached decides."""
        if find_spec("atheris") is None:
            raise SkipTest("atheris is not installed: it is of the extra fuzz")
        done = self.run_command("proxy", "--seconds", "1")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("stat::number_of_executed_units:", done.stdout + done.stderr)
