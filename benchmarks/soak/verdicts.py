"""
Whether a line is flat.

Three questions, each with a bound that is stated: has the mean of the last minutes moved away from
that of the first ones after the warm-up; does a straight line through the second half rise or fall;
and is what the load took given back when the load has gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import StatisticsError, correlation, fmean, linear_regression, median

from attrs import frozen

from .samples import Sample

LONG_ENOUGH = 3000.0
"""Seconds of load; with less, whether a line is flat is not said."""

HOUR = 3600.0


@frozen
class Line:
    """
    Something that is watched.

    @ivar name: of the samples.
    @ivar unit: of its values.
    @ivar moved: how far it may move from the first window to the last.
    @ivar slope: how much it may rise or fall in an hour, by a fit over the second half.
    @ivar may_fall: whether these are bounds for what rises alone: how much is under way at a moment
        depends on how busy others keep the machine, and less of it is no fault.
    @ivar floor: whether the least value counts, and not the mean: what is above it waits for the
        collector, which comes every few minutes.
    """

    name: str
    unit: str
    moved: float
    slope: float
    floor: bool = False
    may_fall: bool = False

    @property
    def sign(self) -> str:
        """Of its bounds."""
        return "≤ +" if self.may_fall else "± "

    def is_within(self, by: float, bound: float) -> bool:
        """Whether it has moved, or moves, no more than it may."""
        return (by if self.may_fall else abs(by)) <= bound


LINES = (
    Line("resident", "MiB", 1.0, 2.0),
    Line("heap used", "MiB", 1.0, 2.0),
    Line("Python blocks", "blocks", 4000.0, 8000.0, floor=True),
    Line("objects", "objects", 1000.0, 2000.0, floor=True),
    Line("descriptors", "", 5.0, 10.0, may_fall=True),
    Line("delayed calls", "", 5.0, 10.0, may_fall=True),
    Line("deadlines", "", 5.0, 10.0, may_fall=True),
    Line("connections", "", 5.0, 10.0, may_fall=True),
)
"""
Means may move by 1 MiB; a slope of 2 MiB in an hour is that over the second half.  Python's blocks
have about 100 bytes and objects about 500, so that theirs are about half of that.  What goes with
the connections of the moment is uncertain by some of them.
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


def moved(samples: Sequence[Sample], line: Line, length: float) -> float | None:
    """How far it has moved, from the first window to the last; L{None} if one is empty."""
    warm, window = windows(length)
    first = values(samples, line.name, warm, warm + window)
    last = values(samples, line.name, length - window, length)
    of: Callable[[Sequence[float]], float] = min if line.floor else fmean
    return of(last) - of(first) if first and last else None


def in_parts(
    points: Sequence[tuple[float, float]], part: float, of: Callable[[Sequence[float]], float]
) -> list[tuple[float, float]]:
    """
    Points by the part of time that they are in: of each its middle, and one value for all.

    @param part: seconds.
    """
    found: dict[int, list[float]] = {}
    for seconds, value in points:
        found.setdefault(int(seconds / part), []).append(value)
    return [((place + 0.5) * part, of(each)) for place, each in sorted(found.items())]


def slope(samples: Sequence[Sample], line: Line, length: float) -> tuple[float, float] | None:
    """
    A fit by least squares over the second half: through the medians of minutes, where that is an
    hour, or through the least of each five, for a floor.

    @return: how much it rises in an hour, and the standard error of that; L{None} where there are
        too few samples.
    """
    points = [
        (each["seconds"], each[line.name])
        for each in samples
        if line.name in each and length / 2 <= each["seconds"] < length
    ]
    if line.floor:
        return fitted(in_parts(points, length / 12, min))
    return fitted(in_parts(points, length / 60, median))


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
        by = moved(samples, line, length)
        unit = f" {line.unit}" if line.unit else ""
        found.append(
            Verdict(
                f"{line.name}: {'least' if line.floor else 'mean'} of the last minutes"
                " against the first",
                f"{line.sign}{line.moved:g}{unit}",
                "" if by is None else f"{by:+.2f}",
                None if by is None else enough(line.is_within(by, line.moved)),
            )
        )
        fit = slope(samples, line, length)
        found.append(
            Verdict(
                f"{line.name}: slope of the second half",
                f"{line.sign}{line.slope:g}{unit}/h",
                "" if fit is None else f"{fit[0]:+.2f} (± {fit[1]:.2f})",
                # What may be chance is not held against it.
                None if fit is None else enough(line.is_within(fit[0], line.slope + 2 * fit[1])),
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
