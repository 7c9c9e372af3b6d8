"""Tests for L{twisted_bioconn.certificates.acme.dns_challenge}."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

from attrs import evolve
from twisted.internet import reactor as installed
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.process import reapProcessHandlers
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.certificates.acme.test_challenges import ANSWER as TLS_ANSWER
from twisted_bioconn.certificates.acme import dns_challenge
from twisted_bioconn.certificates.acme.challenges import SolverError
from twisted_bioconn.certificates.acme.dns_challenge import (
    CommandHook,
    Dns01Solver,
    records_named,
)
from twisted_bioconn.errors import ConfigurationError

reactor: Any = installed

ANSWER = evolve(TLS_ANSWER, kind="dns-01")
NAME = "_acme-challenge.www.example.org"


class CommandHookTests(TestCase):
    """L{CommandHook}, with real programs."""

    timeout = 300

    def hook(self, script: str, **options: Any) -> CommandHook:
        directory = os.path.abspath(self.mktemp())
        os.mkdir(directory)
        self.path = os.path.join(directory, "hook")
        with open(self.path, "w") as file:
            file.write(f"#!/bin/sh\n{script}\n")
        os.chmod(self.path, 0o700)
        hook = CommandHook([self.path, "an option"], **options)
        hook.start(reactor)
        return hook

    async def failed(self, shown: Deferred[None]) -> Any:
        with self.assertRaises(SolverError) as caught:
            await shown
        return caught.exception

    async def failure(self, hook: CommandHook) -> str:
        error: Any = await self.failed(hook.set_record(NAME, "value"))
        self.assertNotIn("\n", str(error))
        return str(error).replace(self.path, "hook")

    async def test_arguments(self) -> None:
        hook = self.hook('for each in "$@"; do echo "$each" >> "$0.out"; done')
        await hook.set_record(NAME, "value")
        await hook.remove_record(NAME, "value")
        with open(f"{self.path}.out") as file:
            self.assertEqual(
                file.read().splitlines(),
                ["an option", "set", NAME, "value", "an option", "unset", NAME, "value"],
            )

    async def test_fails(self) -> None:
        hook = self.hook("echo on stdout; echo the zone >&2; echo is locked >&2; exit 3")
        self.assertEqual(
            await self.failure(hook),
            f"hook set {NAME} has failed with status 3: the zone is locked",
        )

    async def test_says_too_much(self) -> None:
        """The last of it is repeated, and no more is kept than that."""
        hook = self.hook("head -c 3000000 /dev/zero >&2; printf '\\033[31mfin' >&2; exit 1")
        sentence = await self.failure(hook)
        self.assertLess(len(sentence), 400)
        self.assertTrue(sentence.endswith("?[31mfin"))
        self.assertTrue(sentence.isprintable())

    async def test_killed(self) -> None:
        self.assertEqual(
            await self.failure(self.hook("kill -9 $$")), f"hook set {NAME} was ended by signal 9"
        )

    async def test_takes_too_long(self) -> None:
        hook = self.hook("exec sleep 60", timeout=0.2)
        self.assertEqual(await self.failure(hook), f"hook set {NAME} has not ended within 0.2 s")

    async def test_leaves_something_running(self) -> None:
        """What it has started need not end, though it holds the pipes."""
        hook = self.hook("sleep 5 & exit 0")
        await hook.set_record(NAME, "value")

    async def test_cancelled(self) -> None:
        hook = self.hook('trap "" TERM; exec sleep 60')
        running = hook.set_record(NAME, "value")
        await deferLater(reactor, 0.1)
        running.cancel()
        with self.assertRaises(CancelledError):
            await running
        # It is killed: nothing else would end it.
        while reapProcessHandlers:
            await deferLater(reactor, 0.01)

    async def test_reads_nothing(self) -> None:
        """A program that asks something on its standard input is told that nobody is there."""
        hook = self.hook("read answer && exit 1; exit 0")
        await hook.set_record(NAME, "value")

    async def test_vanished(self) -> None:
        hook = self.hook("exit 0")
        os.unlink(self.path)
        # Who finds that out depends on how Twisted starts it.
        self.assertRegex(await self.failure(hook), "cannot be run: No such|has failed with status")

    def test_refused(self) -> None:
        for command, expected in [
            ([], "dns-01: the command is empty"),
            ("", "dns-01: the command is empty"),
            ("no-such-program x", "dns-01: there is no program 'no-such-program'"),
            ("/etc/passwd", "dns-01: there is no program '/etc/passwd', or it may not be run"),
            ('"open', "dns-01: the command '\"open' cannot be split into words"),
        ]:
            error = self.assertRaises(ConfigurationError, CommandHook, command)
            self.assertIn(expected, str(error))

    def test_words(self) -> None:
        """A command is split as a shell would."""
        self.assertEqual(CommandHook("sh -c 'a b'")._command, ["sh", "-c", "a b"])


class Records:
    """A plugin."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.result: Any = None

    def set_record(self, name: str, value: str) -> Any:
        self.calls.append(("set", name, value))
        return self.result

    def remove_record(self, name: str, value: str) -> Any:
        self.calls.append(("remove", name, value))
        return self.result


class Dns01SolverTests(SynchronousTestCase):
    """L{Dns01Solver}."""

    def setUp(self) -> None:
        self.records = Records()
        self.solver = Dns01Solver(self.records)  # type: ignore[arg-type]
        self.clock = Clock()
        self.solver.start(self.clock)

    def test_record(self) -> None:
        self.successResultOf(self.solver.show(ANSWER))
        self.successResultOf(self.solver.hide(ANSWER))
        self.assertEqual(
            self.records.calls,
            [("set", NAME, ANSWER.dns_value), ("remove", NAME, ANSWER.dns_value)],
        )

    def test_one_after_the_other(self) -> None:
        self.records.result = Deferred()
        first, second = self.solver.show(ANSWER), self.solver.hide(ANSWER)
        self.assertEqual(len(self.records.calls), 1)
        result, self.records.result = self.records.result, succeed(None)
        result.callback(None)
        self.successResultOf(first)
        self.successResultOf(second)

    def test_failure(self) -> None:
        """Whatever a plugin raises is one sentence, and the next can be set."""

        def fails(name: str, value: str) -> None:
            raise KeyError("zone")

        self.records.set_record = fails  # type: ignore[method-assign]
        error = self.failureResultOf(self.solver.show(ANSWER), SolverError).value
        self.assertEqual(str(error), f"the record {NAME} cannot be changed: 'zone'")
        self.successResultOf(self.solver.hide(ANSWER))

    def test_no_end(self) -> None:
        """A plugin that never comes back keeps nobody, and not the next."""
        self.records.result = Deferred()
        first, second = self.solver.show(ANSWER), self.solver.hide(ANSWER)
        self.records.result = succeed(None)
        self.clock.advance(300)
        error = self.failureResultOf(first, SolverError).value
        self.assertIn("cannot be changed", str(error))
        self.successResultOf(second)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_can_prove(self) -> None:
        self.assertTrue(self.solver.can_prove("*.example.org"))
        self.assertFalse(self.solver.can_prove("192.0.2.1"))
        self.assertFalse(self.solver.can_prove("2001:db8::1"))

    def test_propagation(self) -> None:
        self.assertEqual(Dns01Solver(self.records, propagation=60).propagation, 60)  # type: ignore[arg-type]
        for bad in (-1, 1e9, float("nan")):
            self.assertRaises(ConfigurationError, Dns01Solver, self.records, propagation=bad)


class PluginTests(SynchronousTestCase):
    """L{records_named}."""

    def install(self, **values: str) -> None:
        group = dns_challenge.ENTRY_POINTS
        points = EntryPoints(EntryPoint(name, value, group) for name, value in values.items())
        self.patch(dns_challenge, "entry_points", lambda group: points)

    def refusal(self, name: str) -> str:
        return str(self.assertRaises(ConfigurationError, records_named, name))

    def test_class(self) -> None:
        self.install(mine=f"{__name__}:Records")
        self.assertIsInstance(records_named("mine"), Records)

    def test_object(self) -> None:
        self.install(mine=f"{__name__}:RECORDS")
        self.assertIs(records_named("mine"), RECORDS)

    def test_function(self) -> None:
        self.install(mine=f"{__name__}:made")
        self.assertIs(records_named("mine"), RECORDS)

    def test_refused(self) -> None:
        self.install(mine=f"{__name__}:Records", gone="no_such_module:x", bad=f"{__name__}:NAME")
        self.assertEqual(
            self.refusal("other"), "dns-01: there is no plugin 'other' (bad, gone, mine)"
        )
        self.assertIn("dns-01: the plugin 'gone' cannot be loaded", self.refusal("gone"))
        self.assertIn("dns-01: the plugin 'bad'", self.refusal("bad"))

    def test_none(self) -> None:
        self.install()
        self.assertIn("none is installed", self.refusal("mine"))


RECORDS = Records()


def made() -> Records:
    return RECORDS
