"""
The plot of a soak: each line over time, as an SVG of 840 pixels' width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from attrs import frozen

from ..plot import MARGIN, THEMES, WIDTH, Theme, opening, text
from .outcome import Outcome
from .samples import Sample
from .verdicts import HOUR, LINES, moved, slope, values, windows

_COLUMNS = 2
_GAP = 44
_PANEL_WIDTH = (WIDTH - 2 * MARGIN - (_COLUMNS - 1) * _GAP) / _COLUMNS
_AXIS = 46
"""Pixels left of a panel's lines, for the numbers."""
_TOP = 66
_HEADING = 38
_HEIGHT = 96
"""Pixels of a panel's lines."""
_STEP = _HEADING + _HEIGHT + 34
_BOTTOM = 26
_LETTER = 5.9
"""Pixels that a letter of the legend takes, more or less."""
_MOST_POINTS = 360
"""Points of a line: of what is closer together there is the middle, the least and the most."""


@frozen
class Panel:
    """
    Some lines with one axis.

    @ivar lines: their names among the samples; the first has the colour.
    @ivar from_zero: whether the axis begins at 0.
    """

    title: str
    unit: str
    lines: tuple[str, ...]
    from_zero: bool = True


PANELS = (
    Panel("Resident memory", "MiB", ("resident",), from_zero=False),
    Panel("malloc's heap", "MiB", ("heap used", "heap free")),
    Panel("Objects that the collector knows", "", ("objects",), from_zero=False),
    Panel("Python's blocks", "", ("Python blocks",), from_zero=False),
    Panel("Descriptors, connections", "", ("descriptors", "connections")),
    Panel("Deadlines, delayed calls", "", ("deadlines", "delayed calls")),
    Panel("Done: honest, and turned away", "per second", ("honest", "hostile")),
    Panel("CPU: load and back ends, server", "of a core", ("load CPU", "server CPU")),
)


def draw(outcome: Outcome, theme: str) -> str:
    """
    @param theme: C{light} or C{dark}.
    """
    colours = THEMES[theme]
    length, summary = outcome.seconds, outcome.summary()
    rows = -(-len(PANELS) // _COLUMNS)
    height = _TOP + rows * _STEP + _BOTTOM
    parts = opening(
        height, colours, f"{_span(length)} of mixed load on twistd bioconn", summary, summary
    )
    for number, panel in enumerate(PANELS):
        left = MARGIN + number % _COLUMNS * (_PANEL_WIDTH + _GAP)
        top = _TOP + number // _COLUMNS * _STEP
        parts += _panel(left, top, panel, outcome.samples, length, colours)
    parts.append(text(MARGIN, height - 12, _footer(outcome.about), 11, colours.soft))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _panel(
    left: float,
    top: float,
    panel: Panel,
    samples: Sequence[Sample],
    length: float,
    colours: Theme,
) -> list[str]:
    right = left + _PANEL_WIDTH
    parts = [
        text(left, top + 12, panel.title, 12.5, colours.ink, weight=600),
        text(right, top + 12, panel.unit, 11, colours.soft, anchor="end"),
    ]
    found = {name: values(samples, name, 0.0, length) for name in panel.lines}
    numbers = [number for each in found.values() for number in each]
    if not numbers:
        return [*parts, text(left, top + 40, "no samples", 12, colours.soft)]
    low, high = _range(numbers, panel.from_zero)
    begin, base = left + _AXIS, top + _HEADING + _HEIGHT

    def x(seconds: float) -> float:
        return begin + (right - begin) * seconds / length

    def y(value: float) -> float:
        return base - _HEIGHT * (value - low) / (high - low)

    place = left
    for words, colour in zip(_said(samples, panel, length), _colours(colours), strict=False):
        parts.append(text(place, top + 29, words, 11, colour))
        place += _LETTER * len(words) + 14
    for value in (low, (low + high) / 2, high):
        parts.append(_rule(begin, right, y(value), colours))
        parts.append(text(begin - 6, y(value) + 4, _number(value), 11, colours.soft, anchor="end"))
    for part in range(5):
        seconds = length * part / 4
        words = f"{seconds / 60:.0f} min" if length >= 600 else f"{seconds:.0f} s"
        anchor = "start" if part == 0 else "end" if part == 4 else "middle"
        parts.append(text(x(seconds), base + 15, words, 11, colours.soft, anchor=anchor))
    # The first one is drawn last, above the others.
    for name, colour in reversed(list(zip(panel.lines, _colours(colours), strict=False))):
        points = [
            (each["seconds"], each[name])
            for each in samples
            if name in each and each["seconds"] <= length
        ]
        drawn = " ".join(f"{x(seconds):.1f},{y(value):.1f}" for seconds, value in thinned(points))
        parts.append(
            f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.5"'
            ' stroke-linejoin="round"/>'
        )
    return parts


def _colours(colours: Theme) -> tuple[str, str]:
    return colours.ours, colours.soft


def _said(samples: Sequence[Sample], panel: Panel, length: float) -> list[str]:
    """What each line comes to, in its colour: there is no other legend."""
    said = []
    _, window = windows(length)
    for name in panel.lines:
        last = values(samples, name, length - window, length)
        words = name if not last else f"{name} {_number(fmean(last))}"
        line = next((each for each in LINES if each.name == name), None)
        if len(panel.lines) == 1 and line is not None:
            by, fit = moved(samples, line, length), slope(samples, line, length)
            if by is not None and fit is not None:
                words += f" at the end: {_signed(by)} since the start, {_signed(fit[0])} an hour"
        said.append(words)
    return said


def _range(numbers: Sequence[float], from_zero: bool) -> tuple[float, float]:
    low, high = min(numbers), max(numbers)
    if from_zero:
        return 0.0, high * 1.05 or 1.0
    room = max((high - low) * 0.1, abs(high) * 0.02, 0.5)
    return max(0.0, low - room), high + room


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """No more points than can be seen, and among them the least and the most of each place."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    parts = _MOST_POINTS // 2
    ends = [len(points) * part // parts for part in range(parts + 1)]
    found: list[tuple[float, float]] = []
    for begin, end in pairwise(ends):
        part = points[begin:end]
        lowest = min(part, key=lambda point: point[1])
        highest = max(part, key=lambda point: point[1])
        found += sorted({lowest, highest})
    return found


def _rule(begin: float, end: float, y: float, colours: Theme) -> str:
    return (
        f'<line x1="{begin:.1f}" y1="{y:.1f}" x2="{end:.1f}" y2="{y:.1f}"'
        f' stroke="{colours.bar}" stroke-width="0.5"/>'
    )


def _number(value: float) -> str:
    if value >= 10000:
        return f"{value / 1000:.0f}k"
    if value >= 1000:
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 2 else f"{value:.2f}"


def _signed(value: float) -> str:
    return ("-" if value < 0 else "+") + _number(abs(value))


def _span(length: float) -> str:
    if length == HOUR:
        return "An hour"
    return f"{length / 60:.0f} minutes" if length >= 120 else f"{length:.0f} seconds"


def _footer(about: Mapping[str, Any]) -> str:
    machine, versions = about["machine"], about["versions"]
    openssl = versions["cryptography's OpenSSL"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']};"
        f" Python {versions['Python']}, Twisted {versions['Twisted']}, {openssl}"
    )
