"""
Run tests as trial does, and say in a file what became of each.

C{python -m tests.outcomes [--reactor NAME] [--loop MODULE] [--in-place MODULE] REPORT TEST...}, as
trial's own command line, but the report is JSON (L{Report}).
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import time
import warnings
from argparse import ArgumentParser
from importlib import import_module
from typing import Any, TextIO, TypedDict

from twisted.application.reactors import installReactor
from twisted.protocols import tls
from twisted.python.failure import Failure
from twisted.python.log import LogPublisher


class Outcome(TypedDict):
    """What became of a test; C{outcome} is C{passed}, C{failed} or C{skipped}."""

    outcome: str
    reason: str
    seconds: float


class Report(TypedDict):
    """
    The class that Twisted's C{TLSMemoryBIOFactory} stood for, the reactor's class, with that of its
    event loop where it is on asyncio, and each test by its id.
    """

    factory: str
    reactor: str
    outcomes: dict[str, Outcome]


def run(names: list[str], directory: str) -> dict[str, Outcome]:
    """
    Run the named modules, classes and tests on the reactor that is installed.

    @param directory: where trial keeps its log, and the tests their files; it is made anew.
    """
    # This installs a reactor, so it must not come before the choice of one.
    from twisted.trial import util
    from twisted.trial.reporter import Reporter
    from twisted.trial.runner import TestLoader, TrialRunner

    # A test that waits for what never comes need not take trial's two minutes.
    util.DEFAULT_TIMEOUT_DURATION = 60

    outcomes: dict[str, Outcome] = {}

    class Recorder(Reporter):
        """A reporter that notes the worst that was said of each test."""

        def __init__(
            self, stream: TextIO, tbformat: str, realtime: bool, publisher: LogPublisher
        ) -> None:
            super().__init__(stream, tbformat, realtime, publisher)
            self._began = time.monotonic()

        def startTest(self, test: Any) -> None:
            self._began = time.monotonic()
            super().startTest(test)

        def _note(self, test: Any, outcome: str, reason: object = "") -> None:
            before = outcomes.get(test.id())
            if before is not None and before["outcome"] == "failed":
                return
            text = reason.getTraceback() if isinstance(reason, Failure) else str(reason)
            seconds = round(time.monotonic() - self._began, 3)
            outcomes[test.id()] = Outcome(outcome=outcome, reason=text, seconds=seconds)

        def addSuccess(self, test: Any) -> None:
            super().addSuccess(test)
            self._note(test, "passed")

        def addExpectedFailure(self, test: Any, error: Any, todo: Any = None) -> None:
            super().addExpectedFailure(test, error, todo)
            self._note(test, "passed", "expected to fail")

        def addUnexpectedSuccess(self, test: Any, todo: Any = None) -> None:
            super().addUnexpectedSuccess(test, todo)
            self._note(test, "passed", "was expected to fail")

        def addSkip(self, test: Any, reason: Any) -> None:
            super().addSkip(test, reason)
            self._note(test, "skipped", reason)

        def addFailure(self, test: Any, fail: Any) -> None:
            super().addFailure(test, fail)
            self._note(test, "failed", self._getFailure(fail))

        def addError(self, test: Any, error: Any) -> None:
            super().addError(test, error)
            self._note(test, "failed", self._getFailure(error))

    runner = TrialRunner(Recorder, workingDirectory=directory)
    runner.run(TestLoader().loadByNames(names, recurse=True))
    return outcomes


def put_in_place(module: str) -> None:
    """
    Put our two classes in place of Twisted's under the names that a test module knows them by.
    """
    from twisted_bioconn.protocol import TLSConnectorFactory, TLSConnectorProtocol

    tests = import_module(module)
    for name, ours in (
        ("TLSMemoryBIOFactory", TLSConnectorFactory),
        ("TLSMemoryBIOProtocol", TLSConnectorProtocol),
        ("BufferingTLSTransport", TLSConnectorProtocol),
    ):
        if hasattr(tests, name):
            setattr(tests, name, ours)


def use_loop(module: str) -> None:
    """
    Have asyncio make the event loops of a module, as C{uvloop}.
    """
    with warnings.catch_warnings():
        # Python 3.14 and newer say that there will be no policies, and have no other way for a
        # program that does not make the loop itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(import_module(module).EventLoopPolicy())


def reactor_name() -> str:
    """The class of the reactor that is installed, and of its event loop if it has one."""
    reactor: Any = import_module("twisted.internet.reactor")
    loop = getattr(reactor, "_asyncioEventloop", None)
    name = type(reactor).__name__
    return name if loop is None else f"{name} on {type(loop).__module__}.{type(loop).__name__}"


def main(arguments: list[str] | None = None) -> None:
    """Do what the command line says."""
    parser = ArgumentParser("python -m tests.outcomes")
    parser.add_argument("--reactor", help="the short name of the reactor to run on")
    parser.add_argument("--loop", metavar="MODULE", help="whose event loops asyncio is to make")
    parser.add_argument("--in-place", metavar="MODULE", help="where to put our two classes")
    parser.add_argument("--temp-directory", default="_trial_temp")
    parser.add_argument("--limit", type=float, default=1300, help="seconds for all, then exit")
    parser.add_argument("report", help="the file to write")
    parser.add_argument("tests", nargs="+")
    options = parser.parse_args(arguments)
    # A test that loops for ever is not left by trial's own time limits.
    faulthandler.dump_traceback_later(options.limit, exit=True)
    if options.loop is not None:
        use_loop(options.loop)
    if options.reactor is not None:
        installReactor(options.reactor)
    if options.in_place is not None:
        put_in_place(options.in_place)
    outcomes = run(options.tests, options.temp_directory)
    factory = f"{tls.TLSMemoryBIOFactory.__module__}.{tls.TLSMemoryBIOFactory.__qualname__}"
    with open(options.report, "w", encoding="utf-8") as report:
        told = Report(factory=factory, reactor=reactor_name(), outcomes=outcomes)
        json.dump(told, report, indent=1)


if __name__ == "__main__":
    main()
