"""What a soak has come to: kept as JSON, judged, and told."""

from __future__ import annotations

from typing import Any

import cattrs
from attrs import frozen

from ..results import table
from .samples import Sample
from .tally import Count
from .verdicts import Verdict, end_verdicts, growing, line_verdicts

LOST = "honest units that were lost"
LET_IN = "clients that should have been turned away, and were not"
NO_EFFECT = "what an operator did with no effect"
"""The parts of the load, by what there must not be of them."""

_TITLES = {LOST: "Honest clients", LET_IN: "Clients that fail", NO_EFFECT: "An operator"}
_COLUMNS = ("", "done", "failed", "MiB", "resumed")
_TOLD_TYPES = 10


@frozen
class Outcome:
    """
    All of it.

    @ivar about: the machine, the versions and the options.
    @ivar seconds: how long the load was there; less than what was asked for where it was cut short.
    @ivar left_out: why no certificate was ordered; L{None} where that was done.
    @ivar parts: the counts of each kind, by the parts of the load.
    @ivar leftover: kinds of load of which a unit did not end.
    @ivar complaints: lines of the server's log that should not be there.
    @ivar missed: why samples could not be taken.
    @ivar before: what there was before the load.
    @ivar after: what there was when it had gone.
    @ivar samples: what there was under load.
    @ivar types: seconds, and how many objects of each type there were.
    """

    about: dict[str, Any]
    seconds: float
    left_out: str | None
    parts: dict[str, dict[str, Count]]
    leftover: list[str]
    complaints: list[str]
    missed: list[str]
    before: Sample
    after: Sample
    samples: list[Sample]
    types: list[tuple[float, dict[str, int]]]

    @classmethod
    def from_json(cls, told: Any) -> Outcome:
        """
        Read what L{as_json} has made.

        @raise ValueError: it is something else.
        """
        try:
            return cattrs.structure(told, cls)
        except cattrs.BaseValidationError as error:
            raise ValueError("this is no outcome of a soak") from error

    def as_json(self) -> dict[str, Any]:
        """All of it, and the verdicts, for C{json.dump}."""
        told: dict[str, Any] = cattrs.unstructure(self)
        verdicts = cattrs.unstructure(self.verdicts())
        types = cattrs.unstructure(growing(self.types, self.seconds))
        return {"verdicts": verdicts, "growing": types, **told}

    def total(self, part: str) -> tuple[int, int]:
        """How many units of a part of the load are done, and how many have failed."""
        counts = self.parts[part].values()
        return sum(each.done for each in counts), sum(each.failed for each in counts)

    def verdicts(self) -> list[Verdict]:
        """Whether all of the load came out as it should, and whether anything grows."""
        found = []
        for name in self.parts:
            done, failed = self.total(name)
            met = failed == 0 if done or failed else None
            found.append(Verdict(name, "0", f"{failed} of {done + failed}", met))
        for name, lines in (
            ("tracebacks in the server's log", self.complaints),
            ("units that did not end", self.leftover),
        ):
            found.append(Verdict(name, "0", str(len(lines)), not lines))
        found += line_verdicts(self.samples, self.seconds)
        return found + end_verdicts(self.before, self.after)

    @property
    def is_good(self) -> bool:
        """Whether nothing is as it should not be; of some it may not be known."""
        return all(verdict.met is not False for verdict in self.verdicts())

    def summary(self) -> str:
        """What came of it, in a line."""
        done, lost = self.total(LOST)
        refused, let_in = self.total(LET_IN)
        return (
            f"{done:,} honest units, {lost} lost; {refused:,} clients turned away or gone,"
            f" {let_in} let in"
        )

    def report(self) -> str:
        """All of it, for people."""
        parts = [
            f"### {_TITLES[name]}\n\n"
            + table(_COLUMNS, [_row(kind, count) for kind, count in counts.items()])
            for name, counts in self.parts.items()
        ]
        parts += self._notes()
        head = ("is it flat, is it whole", "bound", "measured", "verdict")
        rows = [
            [each.what, each.bound, each.measured or "not measured", each.mark]
            for each in self.verdicts()
        ]
        parts.append("### Verdicts\n\n" + table(head, rows))
        types = [
            [each.name, str(each.first), str(each.last), f"{each.rise:+.0f}"]
            for each in growing(self.types, self.seconds)[:_TOLD_TYPES]
        ]
        if types:
            head = ("type", "in the middle", "at the end", "an hour")
            parts.append("### Types of objects that grow\n\n" + table(head, types))
        else:
            parts.append("No type of objects grows.")
        return "\n\n".join(parts)

    def _notes(self) -> list[str]:
        notes = []
        kinds = [item for counts in self.parts.values() for item in counts.items()]
        reasons = [f"- {kind}: {reason}" for kind, count in kinds for reason in count.reasons]
        reasons += [f"- {kind}: a unit has not ended" for kind in self.leftover]
        for title, lines in (
            ("What failed", reasons),
            ("The server's log", [f"    {each}" for each in self.complaints]),
        ):
            if lines:
                notes.append(f"### {title}\n\n" + "\n".join(lines))
        if self.left_out:
            notes.append(f"No certificate was ordered: {self.left_out}.")
        if self.missed:
            notes.append(f"{len(self.missed)} samples could not be taken: {self.missed[0]}")
        server, load = (self._mean(f"{who} CPU") for who in ("server", "load"))
        notes.append(
            f"The server had {server:.1%} of a core; the load, with the back ends and those who"
            f" look, {load:.1%}."
        )
        late = max((each["late"] for each in self.samples), default=0.0)
        if late > 1:
            notes.append(
                f"A sample came {late:.0f} s late: the machine was busy with others or stood still."
            )
        return notes

    def _mean(self, name: str) -> float:
        found = [each[name] for each in self.samples if name in each]
        return sum(found) / len(found) if found else 0.0


def _row(kind: str, count: Count) -> list[str]:
    return [
        kind,
        str(count.done),
        str(count.failed),
        f"{count.received / (1 << 20):.1f}" if count.received else "",
        f"{count.resumed / count.done:.0%}" if count.resumed else "",
    ]
