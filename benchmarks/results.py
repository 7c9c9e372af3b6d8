"""
From figures to medians, from medians to ratios, and what the ratios should be.

A figure belongs to a row (one kind of work) and to a column (who did it).  Ratios are of medians
over the rounds, but for those of two figures that one measurement brought: of these, each round has
a ratio, and the median of the ratios counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from attrs import Factory, define, frozen

from .peers import OURS

ROUNDS_THAT_COUNT = 5
"""With fewer, whether a target is met is not said."""

BEST = "the best peer"

BARE_END = "bare end"
"""The column of the floor for memory."""


@frozen
class Row:
    """
    A kind of work.

    @ivar key: by what results know it.
    @ivar work: the letter by which it is asked for.
    @ivar title: for tables.
    @ivar unit: what the cost is by.
    @ivar scale: by what the cost, in seconds or bytes, is multiplied to be in C{measure}.
    """

    key: str
    work: str
    title: str
    unit: str
    measure: str = "µs of CPU"
    scale: float = 1e6


ROWS: dict[str, Row] = {
    row.key: row
    for row in (
        Row("download", "a", "1 MiB download", "MiB"),
        Row("upload", "b", "1 MiB upload", "MiB"),
        Row("request", "c", "200 B request on a kept connection", "request"),
        Row("connect", "d", "new connection and 200 B, full handshake", "connection"),
        Row("resume", "e", "new connection and 200 B, resumed", "connection"),
        Row("echo", "f", "echo of 200 B", "message"),
        Row("echo-bulk", "f", "echo of 1 MiB", "MiB"),
        Row("tls-download", "g", "TLS in, TLS out: 1 MiB download", "MiB"),
        Row("tls-request", "g", "TLS in, TLS out: 200 B request on a kept connection", "request"),
        Row("tls-connect", "g", "TLS in, TLS out: new connection and 200 B", "connection"),
        Row("fresh", "h", "memory, fresh", "idle connection", "KiB", 1 / 1024),
        Row("exchanged", "h", "memory, after 1 MiB each way", "idle connection", "KiB", 1 / 1024),
        Row("soaked", "h", "memory, after the soak", "idle connection", "KiB", 1 / 1024),
        Row("idle", "i", "p99 among idle connections", "request", "ms", 1e3),
        Row("slow", "j", "p99 beside a slow reader", "request", "ms", 1e3),
        Row("workers-request", "k", "workers: 200 B request on a kept connection", "request"),
        Row("workers-connect", "k", "workers: new connection and 200 B", "connection"),
        Row("bulk-64", "l", "in memory: 64 KiB at a time", "MiB"),
        Row("bulk-256", "l", "in memory: 256 KiB at a time", "MiB"),
        Row("messages", "l", "in memory: 200 B message", "message"),
    )
}
"""In the order of the tables."""


@define
class Figures:
    """
    What the rounds brought for one row and column.

    @ivar costs: one for each round, in seconds or bytes by unit.
    @ivar rates: units a second, where that was measured.
    @ivar busy: the share of its core that the server used.
    @ivar others: further figures by name, one for each round.
    """

    costs: list[float] = Factory(list)
    rates: list[float] = Factory(list)
    busy: list[float] = Factory(list)
    others: dict[str, list[float]] = Factory(dict)

    @property
    def cost(self) -> float:
        """The median."""
        return median(self.costs)

    @property
    def spread(self) -> float:
        """How far the rounds lie apart, as a share of the median."""
        return (max(self.costs) - min(self.costs)) / self.cost if self.cost else 0.0

    def ratio(self, name: str, to: str) -> float:
        """The median over the rounds of the ratio of two figures of one measurement."""
        pairs = zip(self.others[name], self.others[to], strict=True)
        return median(one / other for one, other in pairs)


@define
class Results:
    """
    All figures of a run.

    @ivar figures: by row and column.
    @ivar left_out: peers that were not measured at all, with the reason.
    @ivar failures: by row and column, why there is no figure; the reason is of the last failure.
    @ivar negotiated: what each column agreed on with the load generator.
    @ivar foreign: for each closed loop, the share of its time that others had the server's core.
    """

    figures: dict[str, dict[str, Figures]] = Factory(dict)
    left_out: dict[str, str] = Factory(dict)
    failures: dict[str, dict[str, str]] = Factory(dict)
    negotiated: dict[str, str] = Factory(dict)
    foreign: list[float] = Factory(list)

    def add(
        self,
        row: str,
        column: str,
        cost: float,
        rate: float | None = None,
        busy: float | None = None,
        **others: float,
    ) -> None:
        """Take the figures of one round."""
        figures = self.figures.setdefault(row, {}).setdefault(column, Figures())
        figures.costs.append(cost)
        if rate is not None:
            figures.rates.append(rate)
        if busy is not None:
            figures.busy.append(busy)
        for name, value in others.items():
            figures.others.setdefault(name, []).append(value)

    def fail(self, row: str, column: str, reason: str) -> None:
        """There is no figure for this round."""
        self.failures.setdefault(row, {})[column] = reason

    def cost(self, row: str, column: str) -> float | None:
        """The median of a cost; L{None} where there is none."""
        figures = self.figures.get(row, {}).get(column)
        return figures.cost if figures is not None else None

    def best(self, row: str) -> tuple[str, float] | None:
        """The cheapest of the others, and its cost."""
        costs = [
            (figures.cost, column)
            for column, figures in self.figures.get(row, {}).items()
            if column not in (OURS, BARE_END)
        ]
        if not costs:
            return None
        cost, column = min(costs)
        return column, cost

    def rounds(self, row: str, column: str) -> int:
        """How many rounds brought a figure."""
        figures = self.figures.get(row, {}).get(column)
        return len(figures.costs) if figures is not None else 0


@frozen
class Verdict:
    """
    What became of a target.

    @ivar work: the letter.
    @ivar what: in words.
    @ivar target: the same for what it should be.
    @ivar measured: what it is, in words; empty where it was not measured.
    @ivar met: L{None} where that cannot be said.
    """

    work: str
    what: str
    target: str
    measured: str
    met: bool | None

    @property
    def mark(self) -> str:
        """For a table."""
        return {True: "met", False: "NOT MET", None: "?"}[self.met]


@frozen
class Target:
    """
    At most so many times what another column costs.

    @ivar to: a column, or L{BEST}.
    """

    row: str
    to: str
    at_most: float
    column: str = OURS

    def verdict(self, results: Results) -> Verdict:
        """Hold it against the figures."""
        what = f"{ROWS[self.row].title}: {self.column} / {self.to}"
        words = f"≤ {self.at_most:g}"
        ours = results.cost(self.row, self.column)
        other: tuple[str, float] | None
        if self.to == BEST:
            other = results.best(self.row)
        else:
            cost = results.cost(self.row, self.to)
            other = None if cost is None else (self.to, cost)
        if ours is None or other is None or not other[1]:
            return Verdict(ROWS[self.row].work, what, words, "", None)
        ratio = ours / other[1]
        measured = f"{ratio:.3f}" + (f" ({other[0]})" if self.to == BEST else "")
        rounds = min(results.rounds(self.row, each) for each in (self.column, other[0]))
        return Verdict(
            ROWS[self.row].work, what, words, measured, enough(rounds, ratio <= self.at_most)
        )


TARGETS: tuple[Target, ...] = (
    Target("download", BEST, 0.9),
    Target("download", "nginx", 0.55),
    Target("upload", BEST, 0.9),
    Target("upload", "nginx", 0.55),
    Target("request", "haproxy", 1.0),
    Target("connect", "uvloop", 1.0),
    Target("connect", "haproxy", 1.1),
    Target("resume", BEST, 1.0),
    Target("echo", "uvloop", 1.0),
    Target("echo", "twisted", 0.5),
    Target("echo-bulk", "uvloop", 1.0),
    Target("echo-bulk", "twisted", 0.5),
    Target("tls-download", BEST, 1.0),
    Target("tls-request", BEST, 1.0),
    Target("tls-connect", BEST, 1.0),
    *(
        Target(row, other, at_most, "connector")
        for row in ("bulk-64", "bulk-256", "messages")
        for other, at_most in (("ssl.SSLObject", 0.75), ("pyOpenSSL", 0.7))
    ),
)

_KIB = 1024.0
_MEMORY_ABOVE_FLOOR = 6.0
_MEMORY_DRIFT = 2.0
_SOAK = 600.0
"""Seconds that a soak has to last."""


def enough(rounds: int, met: bool) -> bool | None:
    """Whether it is met, unless there were too few rounds to say."""
    return met if rounds >= ROUNDS_THAT_COUNT else None


def verdicts(results: Results, soak: float = 0.0) -> list[Verdict]:
    """
    Every target, in the order of the work.

    @param soak: the seconds that connections were left idle to see whether they grow.
    """
    found = [target.verdict(results) for target in TARGETS]
    found += _memory_verdicts(results, soak)
    found.append(_latency_verdict(results, "idle", "among", 1.5))
    found.append(_latency_verdict(results, "slow", "beside", 1.1))
    found += _worker_verdicts(results)
    return sorted(found, key=lambda verdict: verdict.work)


def _memory_verdicts(results: Results, soak: float) -> list[Verdict]:
    found = []
    for row, other, words, what in (
        ("fresh", ("fresh", BARE_END), f"≤ {_MEMORY_ABOVE_FLOOR:g} KiB", "above a bare end"),
        ("exchanged", ("fresh", OURS), f"± {_MEMORY_DRIFT:g} KiB", "more than fresh"),
        ("soaked", ("exchanged", OURS), f"≤ {_MEMORY_DRIFT:g} KiB", f"more, {soak:g} s later"),
    ):
        cost, reference = results.cost(row, OURS), results.cost(*other)
        if cost is None or reference is None:
            found.append(Verdict("h", f"{ROWS[row].title}: {what}", words, "", None))
            continue
        difference = (cost - reference) / _KIB
        met: bool | None
        if row == "fresh":
            met = difference <= _MEMORY_ABOVE_FLOOR
        elif row == "exchanged":
            met = abs(difference) <= _MEMORY_DRIFT
        else:
            met = difference <= _MEMORY_DRIFT if soak >= _SOAK else None
        # A soak takes so long that it is left out of most rounds.
        if row != "soaked" and met is not None:
            met = enough(min(results.rounds(row, OURS), results.rounds(*other)), met)
        found.append(
            Verdict("h", f"{ROWS[row].title}: {what}", words, f"{difference:+.1f} KiB", met)
        )
    return found


def _latency_verdict(results: Results, row: str, name: str, at_most: float) -> Verdict:
    figures = results.figures.get(row, {}).get(OURS)
    what, words = f"{ROWS[row].title}, against p99 alone", f"≤ {at_most:g}"
    if figures is None:
        return Verdict(ROWS[row].work, what, words, "", None)
    ratio = figures.ratio(f"{name} p99", "alone p99")
    met = enough(len(figures.costs), ratio <= at_most)
    return Verdict(ROWS[row].work, what, words, f"{ratio:.3f}", met)


ONE_WORKER, TWO_WORKERS = "one worker", "two workers"
"""Columns."""


def _worker_verdicts(results: Results) -> list[Verdict]:
    found = []
    for row in ("workers-request", "workers-connect"):
        one, two = results.cost(row, ONE_WORKER), results.cost(row, TWO_WORKERS)
        what = f"{ROWS[row].title}: two / one"
        if one is None or two is None:
            found.append(Verdict("k", what, "0.95 to 1.05", "", None))
            continue
        ratio = two / one
        rounds = min(results.rounds(row, each) for each in (ONE_WORKER, TWO_WORKERS))
        met = enough(rounds, 0.95 <= ratio <= 1.05)
        found.append(Verdict("k", what, "0.95 to 1.05", f"{ratio:.3f}", met))
    figures = results.figures.get("workers-request", {}).get(TWO_WORKERS)
    for name, what, low, high in (
        ("share", "the smaller share of the connections", 0.4, 0.5),
        ("resumed", "sessions that resume at either worker", 1.0, 1.0),
    ):
        words = f"{low:.0%} at least"
        values = figures.others.get(name, []) if figures is not None else []
        if not values:
            found.append(Verdict("k", what, words, "", None))
            continue
        worst = min(values)
        met = enough(len(values), low <= worst <= high)
        found.append(Verdict("k", what, words, f"{worst:.0%}", met))
    return found


def as_json(results: Results, about: Mapping[str, Any], soak: float) -> dict[str, Any]:
    """
    All of it, for C{json.dump}.
    """
    rows = {}
    for key, columns in results.figures.items():
        best = results.best(key)
        rows[key] = {
            "title": ROWS[key].title,
            "work": ROWS[key].work,
            "unit": ROWS[key].unit,
            "measure": "bytes" if ROWS[key].scale < 1 else "seconds",
            "columns": {
                column: {
                    "median": figures.cost,
                    "ratio to the best peer": figures.cost / best[1] if best and best[1] else None,
                    "rounds": figures.costs,
                    "rates": figures.rates,
                    "busy": figures.busy,
                    **figures.others,
                }
                for column, figures in columns.items()
            },
        }
    return {
        **about,
        "left out": results.left_out,
        "failures": results.failures,
        "negotiated": results.negotiated,
        "others on the server's core": results.foreign,
        "rows": rows,
        "targets": [
            {
                "work": verdict.work,
                "what": verdict.what,
                "target": verdict.target,
                "measured": verdict.measured,
                "met": verdict.met,
            }
            for verdict in verdicts(results, soak)
        ],
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that can be read as it is: the first column is text, the others numbers."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (max(width, 2) - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = [
            cell.rjust(max(width, 2)) for cell, width in zip(cells[1:], widths[1:], strict=True)
        ]
        return "| " + " | ".join([first, *rest]) + " |"

    return "\n".join([line(head), line(rule), *map(line, rows)])


def report(results: Results, soak: float = 0.0) -> str:
    """
    All tables, and the targets of the work that was asked for.
    """
    asked = {ROWS[row].work for row in (*results.figures, *results.failures)}
    parts = [_row_table(results, row) for key, row in ROWS.items() if key in results.figures]
    rows = [
        [f"({each.work}) {each.what}", each.target, each.measured or "not measured", each.mark]
        for each in verdicts(results, soak)
        if each.work in asked
    ]
    parts.append(
        "### What it should be\n\n" + table(("work", "target", "measured", "verdict"), rows)
    )
    notes = [f"- {name} is left out: {reason}" for name, reason in results.left_out.items()]
    for key, reasons in results.failures.items():
        notes += [f"- {ROWS[key].title}, {name}: {reason}" for name, reason in reasons.items()]
    if notes:
        parts.append("### No figure\n\n" + "\n".join(notes))
    if results.foreign:
        parts.append(
            "### Others on the server's core\n\n"
            f"They had it for {median(results.foreign):.0%} of the time (median of the measurements"
            f" with a closed loop; at most {max(results.foreign):.0%}).  On a quiet machine that is"
            " nothing; otherwise the figures say little."
        )
    if results.negotiated:
        rows = [[column, facts] for column, facts in results.negotiated.items()]
        parts.append("### Negotiated\n\n" + table(("", "version, cipher suite, group"), rows))
    return "\n\n".join(parts)


def _row_table(results: Results, row: Row) -> str:
    columns = results.figures[row.key]
    best = results.best(row.key)
    names = sorted({name for figures in columns.values() for name in figures.others})
    has_rates = any(figures.rates for figures in columns.values())
    head = ["", f"{row.measure} per {row.unit}", "to the best peer", "spread"]
    if has_rates:
        head += ["per second", "of the core"]
    head += names
    lines = []
    for column, figures in sorted(columns.items(), key=lambda item: item[1].cost):
        cells = [column, _number(figures.cost * row.scale)]
        cells.append(f"{figures.cost / best[1]:.2f}" if best and best[1] else "")
        cells.append(f"{figures.spread:.0%}")
        if has_rates:
            cells.append(f"{median(figures.rates):.0f}" if figures.rates else "")
            cells.append(f"{median(figures.busy):.0%}" if figures.busy else "")
        for name in names:
            values = figures.others.get(name)
            cells.append(_other(name, median(values)) if values else "")
        lines.append(cells)
    return f"### ({row.work}) {row.title}\n\n" + table(head, lines)


def _other(name: str, value: float) -> str:
    if name.endswith(("p50", "p99")):
        return f"{value * 1e3:.2f} ms"
    if name in ("share", "resumed"):
        return f"{value:.0%}"
    return _number(value)


def _number(value: float) -> str:
    """Three digits that say something."""
    return (
        f"{value:.0f}"
        if abs(value) >= 100
        else f"{value:.1f}"
        if abs(value) >= 10
        else f"{value:.2f}"
    )
