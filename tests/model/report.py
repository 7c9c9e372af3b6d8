"""Programs by the thousand, over TLS and over plain TCP, and what came of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import attrs
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.model.rules import Rule
from tests.model.steps import Act, Fault, Program, React, Step, programs
from tests.model.world import TCP, TLS, Outcome, run
from twisted_bioconn.protocol import TLSConnectorProtocol

LENGTH = 40
"""Steps of a program at most."""


class Unlike(AssertionError):
    """A program came to something that it should not."""


@attrs.define
class Report:
    """
    What came of many programs.

    @ivar steps: how many of each kind there were.
    @ivar reasons: why ends were lost over TLS: names of exceptions.
    @ivar orderly: programs that came to exactly the same over TLS and TCP, as they have to.
    @ivar on_tcp: programs for which a rule does not hold on Twisted's own TCP transport.
    @ivar seconds: how long it took.
    """

    programs: int = 0
    steps: Counter[str] = attrs.field(factory=Counter)
    reasons: Counter[str] = attrs.field(factory=Counter)
    orderly: int = 0
    on_tcp: Counter[Rule] = attrs.field(factory=Counter)
    seconds: float = 0.0

    def add(self, program: Program, tls: Outcome, tcp: Outcome) -> None:
        """
        A program was run.

        @raise Unlike: it broke a rule over TLS, or is to be the same over both, and is not.
        """
        self.programs += 1
        self.steps.update(map(_kind, program.steps))
        self.reasons.update(tls.reasons)
        self.on_tcp.update({broken.rule for broken in tcp.broken})
        if tls.broken:
            raise Unlike("\n".join(f"{each.rule.value}: {each.how}" for each in tls.broken))
        if tls.orderly and tcp.orderly and not tcp.broken:
            self.orderly += 1
            if tcp != tls:
                raise Unlike(f"over TLS {tls}\nover TCP {tcp}")

    def lines(self) -> Iterator[str]:
        """What it comes to."""
        yield f"{self.programs} programs, {self.steps.total()} steps, {self.seconds:.0f} seconds"
        yield "steps: " + _table(self.steps)
        yield "reasons of connectionLost over TLS: " + _table(self.reasons)
        yield f"{self.orderly} have to be the same over TLS and TCP, and are"
        yield ""
        yield f"{'programs in which this does not hold':<80} {'TLS':>6} {'TCP':>6}"
        for rule in Rule:
            yield f"{rule.value:<80} {0:>6} {self.on_tcp[rule]:>6}"


def _table(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.most_common())


def _kind(step: Step) -> str:
    if isinstance(step, Act):
        return step.action.what
    if isinstance(step, React):
        return f"{step.action.what} within a call"
    return step.what if isinstance(step, Fault) else type(step).__name__.lower()


def try_programs(
    steps: int,
    number: int = 1,
    layer: type[TLSConnectorProtocol] = TLSConnectorProtocol,
    shrinks: bool = True,
) -> Report:
    """
    Run programs until there were so many steps.

    @param number: where chance begins.
    @param layer: the layer under test.
    @param shrinks: whether the shortest program that does not hold is looked for.
    @raise Unlike: a rule did not hold, or a program came to something else than over TCP; the
        exception's notes have the program.
    """
    report = Report()
    began = time.monotonic()
    while report.steps.total() < steps:
        left = steps - report.steps.total()

        @seed(number)
        @settings(
            max_examples=max(50, min(1000, left // (LENGTH // 2))),
            database=None,
            deadline=None,
            phases=(Phase.generate, *([Phase.shrink] if shrinks else [])),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        @given(programs(LENGTH))
        def some(program: Program) -> None:
            report.add(program, run(program, TLS, layer), run(program, TCP, layer))

        some()
        number += 1
    report.seconds = time.monotonic() - began
    return report
