"""
The plot of the README: what each peer costs, as an SVG of 840 by 466 pixels.

It has a panel for each of six kinds of work, and in each a bar for each peer, the cheapest first;
ours has the colour.  Nothing is in it that a page with no scripts and no fonts of ours cannot show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from attrs import frozen

from .peers import OURS
from .results import BARE_END, ROWS, Results

_PANELS = (
    ("download", "1 MiB download"),
    ("upload", "1 MiB upload"),
    ("request", "200 B request"),
    ("connect", "New connection, full handshake"),
    ("resume", "New connection, resumed"),
    ("fresh", "Memory of an idle connection"),
)
"""Rows, and how they are headed."""

_COLUMNS = 3
WIDTH = 840
MARGIN = 16
_TOP = 66
_BOTTOM = 34
_GAP = 28
_PANEL_WIDTH = (WIDTH - 2 * MARGIN - (_COLUMNS - 1) * _GAP) / _COLUMNS
_HEADING = 24
_BAR = 13
_STEP = 18
_NAME = 72
"""Pixels for the names, left of the bars."""
_VALUE = 40
"""Pixels for the numbers, right of the longest bar."""
_PANEL_GAP = 26
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


Bar = tuple[str, float | None]
"""A column, and its cost where it has one."""


@frozen
class Theme:
    """Colours."""

    paper: str
    ink: str
    soft: str
    bar: str
    ours: str


THEMES: dict[str, Theme] = {
    "light": Theme("#ffffff", "#1f2328", "#59636e", "#c3cad3", "#0969da"),
    "dark": Theme("#0d1117", "#f0f6fc", "#9198a1", "#3d444d", "#4493f8"),
}


def draw(results: Results, about: Mapping[str, Any], theme: str) -> str:
    """
    @param about: the machine, the versions and the options of the run.
    @param theme: C{light} or C{dark}.
    """
    colours = THEMES[theme]
    panels = [
        (title, _bars(results, key), key) for key, title in _PANELS if results.figures.get(key)
    ]
    lines = [panels[at : at + _COLUMNS] for at in range(0, len(panels), _COLUMNS)]
    heights = [_HEADING + _STEP * max(len(bars) for _, bars, _ in line) for line in lines]
    height = _TOP + sum(heights) + _PANEL_GAP * max(0, len(lines) - 1) + _BOTTOM
    parts = opening(
        height,
        colours,
        "What a TLS relay costs",
        "CPU of the whole process for one unit of work, and memory; shorter is better",
        _summary(panels),
    )
    top = float(_TOP)
    for line, line_height in zip(lines, heights, strict=True):
        for column, (title, bars, key) in enumerate(line):
            left = MARGIN + column * (_PANEL_WIDTH + _GAP)
            parts += _panel(left, top, title, bars, key, colours)
        top += line_height + _PANEL_GAP
    parts.append(text(MARGIN, height - 12, _footer(about), 11, colours.soft))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _bars(results: Results, key: str) -> list[Bar]:
    """The cheapest first, and last those who cannot do it."""
    scale = ROWS[key].scale
    columns = results.figures[key]
    costs: list[Bar] = [
        (column, figures.cost * scale) for column, figures in columns.items() if column != BARE_END
    ]
    costs.sort(key=lambda bar: bar[1] or 0.0)
    failed = [column for column in results.failures.get(key, ()) if column not in columns]
    return [*costs, *((column, None) for column in failed)]


def _panel(
    left: float, top: float, title: str, bars: list[Bar], key: str, colours: Theme
) -> list[str]:
    unit = "µs" if ROWS[key].scale > 1 else ROWS[key].measure
    parts = [
        text(left, top + 12, title, 12.5, colours.ink, weight=600),
        text(left + _PANEL_WIDTH, top + 12, unit, 11, colours.soft, anchor="end"),
    ]
    most = max(cost or 0.0 for _, cost in bars) or 1.0
    room = _PANEL_WIDTH - _NAME - _VALUE
    for at, (column, cost) in enumerate(bars):
        y = top + _HEADING + at * _STEP
        ours = column == OURS
        weight = 600 if ours else 400
        base = y + _BAR - 2.5
        parts.append(
            text(left, base, column, 12, colours.ink if ours else colours.soft, weight=weight)
        )
        if cost is None:
            words = "does not resume" if key == "resume" else "no figure"
            parts.append(text(left + _NAME, base, words, 12, colours.soft))
            continue
        length = max(1.0, room * cost / most)
        parts.append(
            f'<rect x="{left + _NAME:.1f}" y="{y:.1f}" width="{length:.1f}" height="{_BAR}"'
            f' rx="2" fill="{colours.ours if ours else colours.bar}"/>'
        )
        value = f"{cost:.0f}" if cost >= 100 else f"{cost:.1f}"
        parts.append(text(left + _NAME + length + 5, base, value, 12, colours.ink, weight=weight))
    return parts


def opening(height: float, colours: Theme, title: str, about: str, summary: str) -> list[str]:
    """
    How a plot begins.

    @param about: what it shows, in a line.
    @param summary: for those who do not see it.
    """
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}" role="img" font-family="{escape(FONT)}">',
        f"<title>{escape(summary)}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="6" fill="{colours.paper}"/>',
        text(MARGIN, 27, title, 16, colours.ink, weight=600),
        text(MARGIN, 45, about, 12, colours.soft),
    ]


def text(
    x: float,
    y: float,
    words: str,
    size: float,
    colour: str,
    weight: int = 400,
    anchor: str = "start",
) -> str:
    """Some words, at the left end of their line, or where C{anchor} says."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" font-weight="{weight}"'
        f' fill="{colour}" text-anchor="{anchor}">{escape(words)}</text>'
    )


def _footer(about: Mapping[str, Any]) -> str:
    machine, versions, options = about["machine"], about["versions"], about["options"]
    return (
        f"{machine['cpu']}, one core for the server, {machine['system']};"
        f" Python {versions['Python']}, Twisted {versions['Twisted']};"
        f" {options['rounds']} rounds, medians"
    )


def _summary(panels: list[tuple[str, list[Bar], str]]) -> str:
    """For those who do not see it."""
    said = []
    for title, bars, _ in panels:
        ranks = [column for column, cost in bars if cost is not None]
        if OURS in ranks:
            said.append(f"{title}: {OURS} is number {ranks.index(OURS) + 1} of {len(ranks)}")
    return "What a TLS relay costs. " + "; ".join(said)
