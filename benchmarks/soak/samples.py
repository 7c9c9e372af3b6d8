"""What is looked at under load: the kernel's books, and what the server tells of itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from time import monotonic

from attrs import Factory, define

from .. import accounting
from .scene import Scene

MEBIBYTE = float(1 << 20)

_METRICS = {
    "connections": ("bioconn_connections", 1.0),
    "connections to back ends": ("bioconn_back_end_connections", 1.0),
    "delayed calls": ("bioconn_delayed_calls call", 1.0),
    "deadlines": ("bioconn_delayed_calls deadline", 1.0),
    "heap used": ("bioconn_heap_bytes used", MEBIBYTE),
    "heap free": ("bioconn_heap_bytes free", MEBIBYTE),
    "heap mapped": ("bioconn_heap_bytes mapped", MEBIBYTE),
    "Python blocks": ("bioconn_python_blocks", 1.0),
    "bytes held": ("bioconn_buffered_bytes", 1.0),
    "handshakes": ("bioconn_handshakes_total", 1.0),
}
"""What is taken of the metrics, and by what it is divided."""

Sample = dict[str, float]
"""Values by name; C{seconds} is when."""


def parse_status(text: str) -> dict[str, float]:
    """
    Read C{/proc/PID/status}.

    @return: resident memory, and the part of it that is of no file, in MiB.
    """
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "RssAnon"):
            found[name] = int(value.split()[0]) / 1024
    return {"resident": found["VmRSS"], "anonymous": found["RssAnon"]}


def take_sample(scene: Scene) -> Sample:
    """
    What can be seen now.

    The server is asked first: a sample of its descriptors has the connection of who asks in it, and
    one that was taken while it answers would have it by chance.
    """
    told = scene.metrics()
    process = Path("/proc") / str(scene.server.pid)
    sample: Sample = {
        name: told.get(metric, 0.0) / unit for name, (metric, unit) in _METRICS.items()
    }
    sample.update(parse_status((process / "status").read_text("ascii", "replace")))
    sample["descriptors"] = float(len(os.listdir(process / "fd")))
    return sample


@define
class Recorder:
    """
    Takes samples, in a thread of its own.

    @ivar samples: in their order.
    @ivar types: seconds, and how many objects of each type there were.
    @ivar failures: why one could not be taken.
    """

    scene: Scene
    every: float
    work: Callable[[], Sample]
    samples: list[Sample] = Factory(list)
    types: list[tuple[float, dict[str, int]]] = Factory(list)
    failures: list[str] = Factory(list)
    _begun: float = Factory(monotonic)
    _stop: Event = Factory(Event)
    _thread: Thread | None = None

    TYPES_EVERY = 6
    """So many samples come to one count of objects."""

    def start(self) -> None:
        """Begin."""
        self._begun = monotonic()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60.0)

    def _run(self) -> None:
        count, due = 0, self._begun
        while True:
            late = monotonic() - due
            try:
                self._take(count, late)
            except (OSError, ValueError, accounting.Gone) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            count += 1
            due = self._begun + count * self.every
            if self._stop.wait(max(0.0, due - monotonic())):
                return

    def _take(self, count: int, late: float) -> None:
        sample = take_sample(self.scene)
        sample["seconds"] = monotonic() - self._begun
        sample["late"] = late
        sample.update(self.work())
        if count % self.TYPES_EVERY == 0:
            types = self.scene.types()
            self.types.append((sample["seconds"], types))
            sample["objects"] = float(sum(types.values()))
        self.samples.append(sample)


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
