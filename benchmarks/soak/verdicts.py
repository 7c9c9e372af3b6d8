"""
Whether a line is flat.

Three questions, each with a bound that is stated: has the mean of the last minutes moved away from
that of the first ones after the warm-up; does a straight line through the second half rise or fall;
and is what the load took given back when the load has gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import StatisticsError, correlation, fmean, linear_regression, median
from typing import Any

from attrs import frozen

from .samples import Sample
from .tally import Tally

LONG_ENOUGH = 3000.0
"""Seconds of load; with less, whether a line is flat is not said."""

HOUR = 3600.0

_PARTS = 60
"""A fit is through so many medians at most for the whole soak: one that is off does not count."""


@frozen
class Line:
    """
    Something that is watched.

    @ivar name: of the samples.
    @ivar unit: of its values.
    @ivar moved: how far the mean may move, either way; L{None} where that is not asked.
    @ivar slope: how much it may rise or fall in an hour, by a fit over the second half.
    """

    name: str
    unit: str
    moved: float | None
    slope: float


LINES = (
    Line("resident", "MiB", 1.0, 2.0),
    Line("heap used", "MiB", 1.0, 2.0),
    Line("Python blocks", "blocks", 4000.0, 8000.0),
    Line("objects", "objects", 1000.0, 2000.0),
    Line("descriptors", "", 5.0, 10.0),
    Line("delayed calls", "", 5.0, 10.0),
    Line("deadlines", "", 5.0, 10.0),
    Line("connections", "", 5.0, 10.0),
)
"""
Means may move by 1 MiB; a slope of 2 MiB in an hour is that over the second half.  Python's blocks
have about 100 bytes and objects about 500, so that theirs are about half of that.  What counts with
the connections of the moment is sampled, and so uncertain by some of them.
"""

AFTERWARDS = ("descriptors", "delayed calls", "deadlines", "connections")
"""What has to be where it was before the load, when that has gone."""


@frozen
class Verdict:
    """
    A question, and its answer.

    @ivar met: L{None} where there is too little to say.
    """

    what: str
    bound: str
    measured: str
    met: bool | None

    @property
    def mark(self) -> str:
        """In a word."""
        return {True: "yes", False: "NO", None: "?"}[self.met]


def windows(length: float) -> tuple[float, float]:
    """
    @param length: of the load, in seconds.
    @return: how long is warm-up, and how long are the windows whose means are compared: of an hour,
        ten minutes each.  It takes the server ten minutes until its memory of what it was like,
        which the status page draws, is full.
    """
    return length / 6, length / 6


def values(samples: Sequence[Sample], name: str, begin: float, end: float) -> list[float]:
    """What a line had from one moment to another."""
    return [each[name] for each in samples if name in each and begin <= each["seconds"] <= end]


def moved(samples: Sequence[Sample], name: str, length: float) -> float | None:
    """How far the mean has moved, from the first window to the last; L{None} if one is empty."""
    warm, window = windows(length)
    first = values(samples, name, warm, warm + window)
    last = values(samples, name, length - window, length)
    return fmean(last) - fmean(first) if first and last else None


def medians(points: Sequence[tuple[float, float]], part: float) -> list[tuple[float, float]]:
    """
    Points by the part of time that they are in: of each its middle, and their median.

    @param part: seconds.
    """
    found: dict[int, list[float]] = {}
    for seconds, value in points:
        found.setdefault(int(seconds / part), []).append(value)
    return [((place + 0.5) * part, median(each)) for place, each in sorted(found.items())]


def slope(samples: Sequence[Sample], name: str, length: float) -> tuple[float, float] | None:
    """
    A fit by least squares over the second half.

    @return: how much it rises in an hour, and the standard error of that; L{None} where there are
        too few samples.
    """
    points = [
        (each["seconds"], each[name])
        for each in samples
        if name in each and length / 2 <= each["seconds"] <= length
    ]
    return fitted(medians(points, length / _PARTS))


def fitted(points: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """
    @param points: seconds, and values.
    @return: as of L{slope}.
    """
    if len(points) < 3:
        return None
    times = [seconds / HOUR for seconds, _ in points]
    found = [value for _, value in points]
    try:
        rise, start = linear_regression(times, found)
    except StatisticsError:
        return None
    rest = sum((y - start - rise * x) ** 2 for x, y in zip(times, found, strict=True))
    spread = sum((x - fmean(times)) ** 2 for x in times)
    return rise, float((rest / (len(points) - 2) / spread) ** 0.5)


@frozen
class Growing:
    """
    A type of which there are more and more.

    @ivar name: its name.
    @ivar first: how many there were in the middle of the soak.
    @ivar last: how many at its end.
    @ivar rise: how many come in an hour.
    """

    name: str
    first: int
    last: int
    rise: float


def growing(types: Sequence[tuple[float, Mapping[str, int]]], length: float) -> list[Growing]:
    """
    The types whose number rises with time, and not only now and then: those that rise most come
    first.
    """
    half = [(seconds, counts) for seconds, counts in types if seconds >= length / 2]
    if len(half) < 5:
        return []
    times = [seconds for seconds, _ in half]
    found = []
    for name in {name for _, counts in half for name in counts}:
        numbers = [counts.get(name, 0) for _, counts in half]
        fit = fitted(list(zip(times, map(float, numbers), strict=True)))
        if fit is None or len(set(numbers)) == 1 or correlation(times, numbers) < _TREND:
            continue
        if fit[0] * (times[-1] - times[0]) / HOUR >= _WORTH_NAMING:
            found.append(Growing(name, numbers[0], numbers[-1], fit[0]))
    return sorted(found, key=lambda each: -each.rise)


_TREND = 0.8
"""The correlation of number and time from which on it is a trend."""

_WORTH_NAMING = 10.0
"""Objects by which a type has to have grown in the second half."""


def line_verdicts(samples: Sequence[Sample], length: float) -> list[Verdict]:
    """Of each line, whether it is flat."""
    found = []

    def enough(is_flat: bool) -> bool | None:
        return is_flat if length >= LONG_ENOUGH else None

    for line in LINES:
        by = moved(samples, line.name, length)
        unit = f" {line.unit}" if line.unit else ""
        if line.moved is not None:
            found.append(
                Verdict(
                    f"{line.name}: mean of the last minutes against the first",
                    f"± {line.moved:g}{unit}",
                    "" if by is None else f"{by:+.2f}",
                    None if by is None else enough(abs(by) <= line.moved),
                )
            )
        fit = slope(samples, line.name, length)
        found.append(
            Verdict(
                f"{line.name}: slope of the second half",
                f"± {line.slope:g}{unit}/h",
                "" if fit is None else f"{fit[0]:+.2f} (± {fit[1]:.2f})",
                None if fit is None else enough(abs(fit[0]) <= line.slope),
            )
        )
    return found


def end_verdicts(before: Sample, after: Sample) -> list[Verdict]:
    """
    Whether what the load took is given back.

    @param before: what there was before the load.
    @param after: what there is when it has gone.
    """
    return [
        Verdict(
            f"{name}, when the load has gone",
            f"≤ {before[name]:g}, as before",
            f"{after[name]:g}",
            after[name] <= before[name],
        )
        for name in AFTERWARDS
    ]


def load_verdicts(
    tally: Tally, parts: Mapping[str, Sequence[str]], complaints: Sequence[str]
) -> list[Verdict]:
    """
    Whether all of the load came out as it should.

    @param parts: the kinds of each part of the load, by what of them there must not be.
    @param complaints: what of the server's log should not be there.
    """
    found = []
    for name, kinds in parts.items():
        done, failed = tally.total(kinds)
        measured = f"{failed} of {done + failed}"
        found.append(Verdict(name, "0", measured, failed == 0 if done or failed else None))
    found.append(
        Verdict("tracebacks in the server's log", "0", str(len(complaints)), not complaints)
    )
    return found


def as_rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """For a table."""
    return [
        [each.what, each.bound, each.measured or "not measured", each.mark] for each in verdicts
    ]


def as_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """For C{json.dump}."""
    return [
        {"what": each.what, "bound": each.bound, "measured": each.measured, "met": each.met}
        for each in verdicts
    ]


def settled(take: Callable[[], Sample], count: int, pause: Callable[[], object]) -> Sample:
    """
    What there is when nothing goes on: of some samples the least of each line, since calls that are
    made now and then are to come or not, and those who look are there as well.
    """
    found = [take()]
    for _ in range(count - 1):
        pause()
        found.append(take())
    return {name: min(each[name] for each in found) for name in found[0]}
