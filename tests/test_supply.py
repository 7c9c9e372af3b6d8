"""Tests for L{tests.supply}: the lower bounds of C{setup.cfg} are what the package works with."""

from __future__ import annotations

import contextlib
import io
import subprocess
from pathlib import Path
from unittest import mock

from packaging.requirements import Requirement
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests import supply
from tests.apart import Run
from tests.programs import missing
from tests.supply import NO_INDEX, QUICK, SUITES, lower_bounds, main, modules, requirements, tools
from tests.test_reactor import run_python
from tests.test_reactors import report
from tests.test_shipped import slow


class OldestTests(TestCase):
    """An environment with exactly the lower bounds."""

    timeout = 1500

    async def test_quick(self) -> None:
        """It can be made, and for each dependency what has most to do with it holds there."""
        slow()
        words = ("-m", "tests.supply", "--quick", "--environment", "oldest")
        done = await deferToThread(run_python, *words, limit=1400)
        if done.returncode == NO_INDEX:
            raise missing(done.stdout.strip())
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class BoundsTests(SynchronousTestCase):
    """What is read of C{setup.cfg}."""

    def test_all(self) -> None:
        """Each requirement has a lower bound, and no other."""
        bounds = lower_bounds(requirements())
        self.assertEqual(len(bounds), len(requirements()))
        self.assertEqual(len(set(bounds)), len(bounds))
        names = {bound.partition("==")[0] for bound in bounds}
        self.assertLessEqual({"twisted", "pyOpenSSL", "cryptography", "acme", "txredisapi"}, names)

    def test_none(self) -> None:
        """One without is a mistake."""
        error = self.assertRaises(ValueError, lower_bounds, [Requirement("attrs")])
        self.assertEqual(str(error), "setup.cfg: attrs has no lower bound")

    def test_tools(self) -> None:
        """All that are named are in the extra C{test}."""
        self.assertEqual({each.name for each in tools()}, set(supply.TOOLS))

    def test_suites(self) -> None:
        """Each pattern finds a module, and the quick ones are among all."""
        self.assertEqual(QUICK.keys(), SUITES.keys())
        for name, patterns in SUITES.items():
            for pattern in patterns + QUICK[name]:
                self.assertTrue(modules([pattern]), pattern)
            self.assertLessEqual(set(modules(QUICK[name])), set(modules(patterns)))


class CommandTests(SynchronousTestCase):
    """What it says, and with which status it ends."""

    def run_main(self, *words: str, outcome: str = "passed", index: bool = True) -> tuple[int, str]:
        """Its exit status and its output, where every test has this outcome."""
        run = Run(report(a=outcome, b="passed"), "", 2.4)
        with (
            mock.patch.object(supply, "run_apart", lambda *_: run),
            mock.patch.object(supply, "make", lambda *_: Path("python")),
            mock.patch.object(supply, "versions", lambda _: "attrs 1"),
            mock.patch.object(supply, "has_index", lambda _: index),
            contextlib.redirect_stdout(io.StringIO()) as printed,
        ):
            return main([*words]), printed.getvalue()

    def test_passed(self) -> None:
        """A row for each suite of each environment."""
        status, said = self.run_main()
        self.assertEqual(status, 0)
        for environment in ("oldest", "newest", "pre-releases"):
            self.assertIn(f"{environment}: attrs 1\n", said)
            for suite in SUITES:
                self.assertRegex(said, rf"(?m)^{environment}: {suite} +2 +2 +0 +0 +2$")

    def test_failed(self) -> None:
        status, said = self.run_main("--environment", "oldest", outcome="failed")
        self.assertEqual(status, 1)
        self.assertIn("failed on oldest: core: a: a reason\n", said)

    def test_pre_release(self) -> None:
        """What one breaks is told, and fails nothing."""
        status, said = self.run_main("--environment", "pre-releases", outcome="failed")
        self.assertEqual(status, 0)
        self.assertIn("failed on pre-releases: core: a: a reason\n", said)

    def test_no_index(self) -> None:
        status, said = self.run_main(index=False)
        self.assertEqual(status, NO_INDEX)
        self.assertEqual(said, "there is no package index that pip can reach\n")

    def test_not_made(self) -> None:
        """Bounds that do not go together fail, with what pip said."""
        error = subprocess.CalledProcessError(1, "pip", stderr="ResolutionImpossible")
        with (
            mock.patch.object(supply, "_run", mock.Mock(side_effect=error)),
            mock.patch.object(supply, "has_index", lambda _: True),
            contextlib.redirect_stdout(io.StringIO()) as printed,
        ):
            status = main(["--environment", "oldest"])
        self.assertEqual(status, 1)
        self.assertIn("oldest could not be made:\nResolutionImpossible\n", printed.getvalue())
