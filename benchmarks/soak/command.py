"""
The command: C{python -m benchmarks soak}.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from attrs import asdict, define

from .. import accounting
from ..machine import machine, versions
from ..peers import OURS, peer_named
from ..processes import Failed
from ..results import table
from .honest import honest_kinds, long_clients
from .hostile import hostile_kinds
from .operator import Reloader, operator_kinds
from .plot import draw
from .samples import Recorder, Sample, take_sample
from .scene import Scene, wait_until
from .tally import Count, Pace, Tally
from .verdicts import (
    HOUR,
    Verdict,
    as_rows,
    end_verdicts,
    growing,
    line_verdicts,
    load_verdicts,
    settled,
)
from .verdicts import as_json as verdicts_as_json

_END = 300.0
"""Seconds that units have which are under way when the load ends."""

_QUIET = 120.0
"""Seconds until the last connection has to be gone when the load has."""

_READINGS = 8
"""So many samples, a second apart, say what there is when nothing goes on."""

_COMPLAINT = re.compile(r"Traceback|Unhandled|\[critical\]|Unexpected error|CRITICAL")

_TOLD_TYPES = 10

LOST = "honest units that were lost"
LET_IN = "clients that should have been turned away, and were not"
NO_EFFECT = "what an operator did with no effect"


def parser() -> argparse.ArgumentParser:
    """What the command line may have."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks soak",
        description="Mixed load on twistd bioconn for an hour, and whether anything grows in it.",
    )
    found.add_argument(
        "--seconds",
        type=_positive,
        default=HOUR,
        metavar="S",
        help="how long; with less than 3000, whether a line is flat is not said; default: 3600",
    )
    found.add_argument(
        "--every", type=_positive, default=5.0, metavar="S", help="between samples; default: 5"
    )
    found.add_argument(
        "--faster",
        type=_positive,
        default=1.0,
        metavar="X",
        help="how many times as much load as is usual; default: 1, less than half a core in all",
    )
    found.add_argument("--json", type=Path, metavar="FILE", help="write all of it there")
    found.add_argument(
        "--plot", type=Path, metavar="DIR", help="draw soak-light.svg and soak-dark.svg there"
    )
    found.add_argument("--log", type=Path, metavar="FILE", help="keep the server's log there")
    return found


def main(words: Sequence[str] | None = None) -> int:
    """
    Run.

    @return: the exit status: 0 where all is flat and nothing was lost, 1 where not or where it did
        not come about, 2 for a wrong option.
    """
    options = parser().parse_args(words)
    if not sys.platform.startswith("linux"):
        print("python -m benchmarks soak: it reads Linux's /proc, and this is another system.")
        return 1
    signal.signal(signal.SIGTERM, _interrupt)
    about = {
        "machine": machine(),
        "versions": versions([peer_named(OURS)]),
        "options": {
            "seconds": options.seconds,
            "every": options.every,
            "faster": options.faster,
        },
    }
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        scene = Scene(Path(directory))
        try:
            with scene:
                soak = Soak(scene, options.seconds, options.every, options.faster)
                soak.run()
                complaints = soak.complaints()
        except Failed as failure:
            print(f"python -m benchmarks soak: {failure}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("python -m benchmarks soak: interrupted", file=sys.stderr)
            return 1
        finally:
            if options.log is not None and scene.log.exists():
                shutil.copyfile(scene.log, options.log)
    verdicts = soak.verdicts(complaints)
    print(report(soak, verdicts, complaints))
    if options.json is not None:
        said = as_json(soak, about, verdicts, complaints)
        options.json.write_text(json.dumps(said, indent=1) + "\n", "utf-8")
    if options.plot is not None:
        options.plot.mkdir(parents=True, exist_ok=True)
        for theme in ("light", "dark"):
            drawn = draw(soak.samples, soak.seconds, about, summary(soak), theme)
            (options.plot / f"soak-{theme}.svg").write_text(drawn, "utf-8")
    return 1 if any(verdict.met is False for verdict in verdicts) else 0


class Soak:
    """
    A run.

    @ivar seconds: how long the load was there; less than what was asked for where it was cut short.
    @ivar before: what there was before the load.
    @ivar after: what there was when it had gone.
    @ivar leftover: kinds of load of which a unit did not end.
    """

    def __init__(self, scene: Scene, seconds: float, every: float, faster: float) -> None:
        self.scene = scene
        self.seconds = seconds
        self.tally = Tally(say)
        self.before: Sample = {}
        self.after: Sample = {}
        self.leftover: list[str] = []
        self._long = long_clients(scene)
        self._reloader = Reloader(scene)
        self._faster = faster
        honest = honest_kinds(scene, self._long)
        hostile = hostile_kinds(scene)
        operator = operator_kinds(scene, self._reloader)
        self.parts = {
            LOST: [kind.name for kind in honest],
            LET_IN: [kind.name for kind in hostile],
            NO_EFFECT: [kind.name for kind in operator],
        }
        self._load = Pace([*honest, *hostile], self.tally, faster)
        # An operator does not hurry.
        self._operator = Pace(operator, self.tally, max(1.0, faster))
        self.recorder = Recorder(scene, every, _Work(scene, self.tally, self.parts))

    @property
    def samples(self) -> list[Sample]:
        """Those that were taken under load."""
        return self.recorder.samples

    def run(self) -> None:
        """
        Put the load on, and take it off.

        @raise Failed: the server has ended.
        """
        scene = self.scene
        if scene.left_out:
            say(f"No certificate is ordered: {scene.left_out}")
        # What a first connection takes, code that is loaded late above all, is no growth.
        scene.renew()
        self.before = settled(lambda: take_sample(scene), _READINGS, lambda: time.sleep(1.0))
        say(f"The load begins, for {self.seconds:g} s.")
        self.recorder.start()
        self._load.start()
        self._operator.start()
        begun = time.monotonic()
        try:
            self._wait(begun)
        except KeyboardInterrupt:
            say("Interrupted: the load ends now.")
            self.seconds = time.monotonic() - begun
        self.recorder.stop()
        self._end()

    def _wait(self, begun: float) -> None:
        last = begun
        while (now := time.monotonic()) < begun + self.seconds:
            time.sleep(min(1.0, begun + self.seconds - now))
            if now > last + 60:
                last = now
                say(self._progress(now - begun))

    def _end(self) -> None:
        self.leftover = [*self._operator.stop(_END), *self._load.stop(_END)]
        try:
            self._long.close()
        except Exception as error:
            self.tally.failed("long", f"at the end: {type(error).__name__}: {error}")
        self._long.drop()
        scene = self.scene
        with suppress(Exception):
            # Where it has no effect, descriptors say so.
            self._reloader.settle()
        wait_until(lambda: take_sample(scene)["connections"] == 0, _QUIET, 1.0)
        self.after = settled(lambda: take_sample(scene), _READINGS, lambda: time.sleep(1.0))
        say("The load has gone.")

    def _progress(self, seconds: float) -> str:
        last = self.samples[-1] if self.samples else {}
        lost = self.tally.total(self.parts[LOST])[1]
        return (
            f"{seconds / 60:5.0f} min  {last.get('resident', 0.0):.1f} MiB,"
            f" {last.get('connections', 0.0):.0f} connections,"
            f" {last.get('descriptors', 0.0):.0f} descriptors; {lost} lost"
        )

    def complaints(self) -> list[str]:
        """Lines of the server's log that should not be there."""
        with open(self.scene.log, encoding="utf-8", errors="replace") as log:
            return [line.rstrip() for line in log if _COMPLAINT.search(line)]

    def verdicts(self, complaints: Sequence[str]) -> list[Verdict]:
        """All of them."""
        found = load_verdicts(self.tally, self.parts, complaints)
        if self.leftover:
            words = ", ".join(sorted(set(self.leftover)))
            found.append(Verdict("units that did not end", "0", words, False))
        found += line_verdicts(self.samples, self.seconds)
        return found + end_verdicts(self.before, self.after)


@define
class _Work:
    """
    What was done since the sample before, and what that took: by the second.
    """

    scene: Scene
    tally: Tally
    parts: Mapping[str, Sequence[str]]
    _last: dict[str, float] | None = None

    def __call__(self) -> Sample:
        now = {
            "honest": float(self.tally.total(self.parts[LOST])[0]),
            "hostile": float(self.tally.total(self.parts[LET_IN])[0]),
            "server CPU": accounting.cpu_seconds(self.scene.server.pid),
            "load CPU": time.process_time()
            + sum(accounting.cpu_seconds(each.pid) for each in self.scene.backends),
        }
        moment = time.monotonic()
        last, self._last = self._last, {**now, "": moment}
        if last is None:
            return {}
        return {name: (now[name] - last[name]) / (moment - last[""]) for name in now}


def summary(soak: Soak) -> str:
    """What came of it, in a line."""
    done, lost = soak.tally.total(soak.parts[LOST])
    refused, let_in = soak.tally.total(soak.parts[LET_IN])
    return (
        f"{done:,} honest units, {lost} lost; {refused:,} clients turned away or gone,"
        f" {let_in} let in"
    )


def report(soak: Soak, verdicts: Sequence[Verdict], complaints: Sequence[str]) -> str:
    """All of it, for people."""
    counts = soak.tally.counts
    parts = []
    for name, kinds in soak.parts.items():
        rows = [_row(kind, counts[kind]) for kind in kinds]
        parts.append(f"### {_TITLES[name]}\n\n" + table(_COLUMNS, rows))
    reasons = [f"- {kind}: {reason}" for kind, each in counts.items() for reason in each.reasons]
    if reasons:
        parts.append("### What failed\n\n" + "\n".join(reasons))
    cpu = {name: _mean(soak.samples, name) for name in ("server CPU", "load CPU")}
    parts.append(
        f"The server had {cpu['server CPU']:.1%} of a core; the load, with the back ends and those"
        f" who look, {cpu['load CPU']:.1%}."
    )
    late = max((each["late"] for each in soak.samples), default=0.0)
    if late > soak.recorder.every:
        parts.append(
            f"A sample came {late:.0f} s late: the machine was busy with others, or stood still."
        )
    head = ("is it flat, is it whole", "bound", "measured", "verdict")
    parts.append("### Verdicts\n\n" + table(head, as_rows(verdicts)))
    types = growing(soak.recorder.types, soak.seconds)
    if types:
        rows = [
            [each.name, str(each.first), str(each.last), f"{each.rise:+.0f}"]
            for each in types[:_TOLD_TYPES]
        ]
        parts.append(
            "### Types of objects that grow\n\n"
            + table(("type", "in the middle", "at the end", "an hour"), rows)
        )
    else:
        parts.append("No type of objects grows.")
    if complaints:
        parts.append("### The server's log\n\n" + "\n".join(f"    {each}" for each in complaints))
    if soak.recorder.failures:
        missed = soak.recorder.failures
        parts.append(f"{len(missed)} samples could not be taken: {missed[0]}")
    return "\n\n".join(parts)


_COLUMNS = ("", "done", "failed", "MiB", "resumed")
_TITLES = {
    LOST: "Honest clients",
    LET_IN: "Clients that fail",
    NO_EFFECT: "An operator",
}


def _row(kind: str, count: Count) -> list[str]:
    return [
        kind,
        str(count.done),
        str(count.failed),
        f"{count.received / (1 << 20):.1f}" if count.received else "",
        f"{count.resumed / count.done:.0%}" if count.resumed else "",
    ]


def _mean(samples: Sequence[Sample], name: str) -> float:
    found = [each[name] for each in samples if name in each]
    return sum(found) / len(found) if found else 0.0


def as_json(
    soak: Soak,
    about: Mapping[str, Any],
    verdicts: Sequence[Verdict],
    complaints: Sequence[str],
) -> dict[str, Any]:
    """All of it, for C{json.dump}."""
    return {
        **about,
        "left out": soak.scene.left_out,
        "kinds": {
            name: {kind: asdict(soak.tally.counts[kind]) for kind in kinds}
            for name, kinds in soak.parts.items()
        },
        "verdicts": verdicts_as_json(verdicts),
        "growing": [asdict(each) for each in growing(soak.recorder.types, soak.seconds)],
        "complaints": list(complaints),
        "missed": soak.recorder.failures,
        "before": soak.before,
        "after": soak.after,
        "samples": soak.samples,
        "types": [{"seconds": seconds, **counts} for seconds, counts in soak.recorder.types],
    }


def say(line: str) -> None:
    """Tell how it goes, beside the tables."""
    print(line, file=sys.stderr, flush=True)


def _positive(words: str) -> float:
    number = float(words)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{words} is not more than 0")
    return number


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
