"""Tests for L{tests.reactors}: what opens sockets holds on every reactor."""

from __future__ import annotations

import contextlib
import io
from unittest import mock

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests import reactors
from tests.apart import Run
from tests.outcomes import Outcome, Report
from tests.programs import require_module
from tests.reactors import QUICK, REACTORS, main, modules
from tests.test_reactor import run_python
from tests.test_shipped import slow


class EveryReactorTests(TestCase):
    """Each that Twisted has for this platform, uvloop beneath its own, and ours."""

    timeout = 1500

    async def test_quick(self) -> None:
        """What opens sockets on the reactor that is installed."""
        slow()
        require_module("uvloop")
        done = await deferToThread(run_python, "-m", "tests.reactors", "--quick", limit=1400)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


def report(**outcomes: str) -> Report:
    return Report(
        factory="",
        reactor="TheReactor",
        outcomes={
            name: Outcome(outcome=outcome, reason="a reason", seconds=1.0)
            for name, outcome in outcomes.items()
        },
    )


class CommandTests(SynchronousTestCase):
    """What it says, and with which status it ends."""

    def run_main(self, *words: str, **runs: Run) -> tuple[int, str]:
        """Its exit status and its output, where these are the runs, by the reactor's name."""
        told = iter(runs.values())
        names = [word for name in runs for word in ("--reactor", name)]
        with (
            mock.patch.object(reactors, "run_apart", lambda *_: next(told)),
            mock.patch.object(reactors, "why_not", lambda _: ""),
            contextlib.redirect_stdout(io.StringIO()) as printed,
        ):
            return main([*names, *words]), printed.getvalue()

    def test_passed(self) -> None:
        status, said = self.run_main(epoll=Run(report(a="passed", b="skipped"), "", 2.4))
        self.assertEqual(status, 0)
        self.assertIn("epoll: TheReactor\n", said)
        self.assertRegex(said, r"(?m)^epoll +2 +1 +0 +1 +2$")

    def test_failed(self) -> None:
        """On one of them; the others are run all the same."""
        status, said = self.run_main(
            poll=Run(report(a="failed"), "", 1.0), select=Run(report(a="passed"), "", 1.0)
        )
        self.assertEqual(status, 1)
        self.assertRegex(said, r"(?m)^poll +1 +0 +1 +0 +1$")
        self.assertRegex(said, r"(?m)^select +1 +1 +0 +0 +1$")
        self.assertIn("\nfailed on poll: a: a reason\n", said)

    def test_skipped_on_one(self) -> None:
        """That is said; what is skipped on all of them is no news."""
        status, said = self.run_main(
            poll=Run(report(a="skipped", b="skipped", c="passed"), "", 1.0),
            select=Run(report(a="passed", b="skipped", c="passed"), "", 1.0),
        )
        self.assertEqual(status, 0)
        self.assertIn("\nskipped on poll: a: a reason\n", said)
        self.assertEqual(said.count("a reason"), 1)

    def test_died(self) -> None:
        """A process that does not report has failed, and what it said is told."""
        status, said = self.run_main(poll=Run(None, "no such reactor", 1.0))
        self.assertEqual(status, 1)
        self.assertIn("no such reactor", said)

    def test_nothing_ran(self) -> None:
        """It is no success that no test was run."""
        self.assertEqual(self.run_main(poll=Run(report(a="skipped"), "", 1.0))[0], 1)

    def test_missing(self) -> None:
        """A reactor that cannot be had is left out, and said."""
        with (
            mock.patch.object(reactors, "find_spec", lambda _: None),
            contextlib.redirect_stdout(io.StringIO()) as printed,
        ):
            status = main(["--reactor", "uvloop"])
        self.assertEqual(status, 1)
        self.assertIn("uvloop is left out: the Python module uvloop", printed.getvalue())

    def test_stock(self) -> None:
        """What is compared with Twisted's own TLS is, on our reactors too."""
        code = (
            "from twisted_bioconn.reactor import install; install()\n"
            "from tests.protocol_material import STOCK; print(STOCK.__module__)"
        )
        done = run_python("-c", code)
        self.assertEqual(done.stdout, "twisted.protocols.tls\n", done.stderr)

    def test_modules(self) -> None:
        """The quick ones are among all."""
        self.assertLessEqual(set(QUICK), set(modules()))
        self.assertIn("tests.test_connector", modules())
        self.assertEqual(len(REACTORS), 8)
