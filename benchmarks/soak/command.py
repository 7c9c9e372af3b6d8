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
from typing import Any

from attrs import define

from .. import accounting
from ..machine import machine, versions
from ..peers import OURS, peer_named
from ..plot import THEMES
from ..processes import Failed
from ..terminal import interrupt, positive, say
from .honest import honest_kinds, long_clients
from .hostile import hostile_kinds
from .operator import Reloader, operator_kinds
from .outcome import LET_IN, LOST, NO_EFFECT, Outcome
from .plot import draw
from .samples import Recorder, Sample, settled, take_sample
from .scene import Scene, wait_until
from .tally import Pace, Tally
from .verdicts import HOUR

_END = 300.0
"""Seconds that units have which are under way when the load ends."""

_QUIET = 120.0
"""Seconds until the last connection has to be gone when the load has."""

_READINGS = 8
"""So many samples, a second apart, say what there is when nothing goes on."""

_COMPLAINT = re.compile(r"Traceback|Unhandled|\[critical\]|Unexpected error|CRITICAL")


def parser() -> argparse.ArgumentParser:
    """What the command line may have."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks soak",
        description="Mixed load on twistd bioconn for an hour, and whether anything grows in it.",
    )
    found.add_argument(
        "--seconds",
        type=positive,
        default=HOUR,
        metavar="S",
        help="how long; with less than 3000, whether a line is flat is not said; default: 3600",
    )
    found.add_argument(
        "--every", type=positive, default=5.0, metavar="S", help="between samples; default: 5"
    )
    found.add_argument(
        "--faster",
        type=positive,
        default=1.0,
        metavar="X",
        help="how many times as much load as is usual; default: 1, less than half a core in all",
    )
    found.add_argument("--json", type=Path, metavar="FILE", help="write all of it there")
    found.add_argument(
        "--plot", type=Path, metavar="DIR", help="draw soak-light.svg and soak-dark.svg there"
    )
    found.add_argument(
        "--again",
        type=Path,
        metavar="FILE",
        help="put no load on: tell and draw what --json has written there",
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
    if options.again is not None:
        try:
            outcome = Outcome.from_json(json.loads(options.again.read_text("utf-8")))
        except (OSError, ValueError) as error:
            print(f"python -m benchmarks soak: {options.again}: {error}", file=sys.stderr)
            return 1
    else:
        try:
            outcome = _run(options)
        except (Failed, KeyboardInterrupt) as failure:
            reason = str(failure) or "interrupted"
            print(f"python -m benchmarks soak: {reason}", file=sys.stderr)
            return 1
    print(outcome.report())
    if options.json is not None:
        options.json.write_text(json.dumps(outcome.as_json(), indent=1) + "\n", "utf-8")
    if options.plot is not None:
        options.plot.mkdir(parents=True, exist_ok=True)
        for theme in THEMES:
            (options.plot / f"soak-{theme}.svg").write_text(draw(outcome, theme), "utf-8")
    return 0 if outcome.is_good else 1


def _run(options: argparse.Namespace) -> Outcome:
    """
    @raise Failed: it does not come about.
    """
    if not sys.platform.startswith("linux"):
        raise Failed("it reads Linux's /proc, and this is another system")
    signal.signal(signal.SIGTERM, interrupt)
    named = ("seconds", "every", "faster")
    about = {
        "machine": machine(),
        "versions": versions([peer_named(OURS)]),
        "options": {name: getattr(options, name) for name in named},
    }
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        scene = Scene(Path(directory))
        try:
            with scene:
                soak = Soak(scene, options.seconds, options.every, options.faster)
                soak.run()
                return soak.outcome(about)
        finally:
            if options.log is not None and scene.log.exists():
                shutil.copyfile(scene.log, options.log)


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
        honest = honest_kinds(scene, self._long)
        hostile = hostile_kinds(scene)
        operator = operator_kinds(scene, self._reloader)
        self.parts = {
            LOST: [kind.name for kind in honest],
            LET_IN: [kind.name for kind in hostile],
            NO_EFFECT: [kind.name for kind in operator],
        }
        self._load = Pace([*honest, *hostile], self.tally, faster)
        # An operator has his own pace.
        self._operator = Pace(operator, self.tally)
        self.recorder = Recorder(scene, every, _Work(scene, self.tally, self.parts))

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
            self.scene.server.check()
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
        last = self.recorder.samples[-1] if self.recorder.samples else {}
        lost = self.tally.total(self.parts[LOST])[1]
        return (
            f"{seconds / 60:5.0f} min  {last.get('resident', 0.0):.1f} MiB,"
            f" {last.get('connections', 0.0):.0f} connections,"
            f" {last.get('descriptors', 0.0):.0f} descriptors; {lost} lost"
        )

    def outcome(self, about: dict[str, Any]) -> Outcome:
        """
        What it has come to.

        @param about: the machine, the versions and the options.
        """
        with open(self.scene.log, encoding="utf-8", errors="replace") as log:
            complaints = [line.rstrip() for line in log if _COMPLAINT.search(line)]
        return Outcome(
            about=about,
            seconds=self.seconds,
            left_out=self.scene.left_out,
            parts={
                name: {kind: self.tally.counts[kind] for kind in kinds}
                for name, kinds in self.parts.items()
            },
            leftover=sorted(set(self.leftover)),
            complaints=complaints,
            missed=self.recorder.failures,
            before=self.before,
            after=self.after,
            samples=self.recorder.samples,
            types=self.recorder.types,
        )


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
