"""The command under a fault of the machine, and honest clients of it."""

from __future__ import annotations

import os
import re
import ssl
import time
from collections.abc import Callable, Sequence
from threading import Condition, Thread
from typing import IO

from tests.honest import PATIENCE, Figures, Honest, Row, settled_levels
from tests.server.command import TWISTD, Command
from tests.server.load import STARTED, LifeCase

__all__ = ["MEBIBYTE", "REQUESTS", "ROWS", "SLOW", "Drained", "MachineCase", "show"]

SLOW = bool(os.environ.get("BIOCONN_SLOW"))

REQUESTS = 300 if SLOW else 60
"""Requests of honest clients in each part of a test, at least."""

MEBIBYTE = 1024 * 1024

ROWS: list[Row] = []
"""What the cases that were run have shown."""


def show(
    case: str,
    counted: str,
    parts: tuple[Figures, Figures, Figures] | None = None,
    levels: tuple[int, int] | None = None,
) -> None:
    """
    Put down for the table what a case has shown: see L{Row}.

    @param parts: L{None} where there are no clients of one process all the time.
    """
    ROWS.append(Row(case, parts or (Figures(), Figures(), Figures()), levels, counted))


class Drained(Command):
    """
    The command, whose log is read all the time: it has a line for each connection.
    """

    def __init__(self, *args: object, **kw: object) -> None:
        self._more = Condition()
        self._seen = 0
        self._at_end = False
        super().__init__(*args, **kw)  # type: ignore[arg-type]
        assert self._process.stdout is not None
        self._drain = Thread(
            target=self._read_what_it_says, args=(self._process.stdout,), daemon=True
        )
        self._drain.start()

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Wait for a line on stdout, after those that were waited for before."""
        end = time.monotonic() + PATIENCE
        with self._more:
            while True:
                for number in range(self._seen, len(self.lines)):
                    match = pattern.search(self.lines[number])
                    if match is not None:
                        self._seen = number + 1
                        return match
                self._seen = len(self.lines)
                if self._at_end or time.monotonic() > end:
                    said = "\n".join(self.lines)
                    raise AssertionError(f"it did not say: {pattern.pattern}\n{said}")
                self._more.wait(1.0)

    def said(self, pattern: str) -> list[str]:
        """The lines so far that have this in them."""
        with self._more:
            return [line for line in self.lines if re.search(pattern, line)]

    def ended(self) -> int:
        """
        @see: L{Command.ended}
        """
        status = self._process.wait(PATIENCE)
        self._drain.join(PATIENCE)
        return status

    def _read_what_it_says(self, stdout: IO[str]) -> None:
        for line in stdout:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._at_end = True
            self._more.notify_all()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._drain.join(PATIENCE)
        super()._end()


class MachineCase(LifeCase):
    """Runs the command, harms what it runs on, and sees what becomes of its clients."""

    def command(self, *words: str, start: Sequence[str] = TWISTD) -> Drained:
        """Start the command, with its status in C{s.sock}."""
        command = self.begin("--status", "unix:s.sock", *words, start=start)
        assert isinstance(command, Drained)
        return command

    def served(self, workers: int, *target: str) -> tuple[Drained, list[int], Honest]:
        """
        Start the command, and have honest clients go to it.

        @return: with the processes that serve.
        """
        command = self.command(
            *("--workers", str(workers), "--listen", "127.0.0.1:0:handshakeTimeout=60"), *target
        )
        port = command.port()
        pids = [command.pid] if workers == 1 else self.started(command, workers)
        honest = self.honest(self.echoes(command, port))
        honest.part(REQUESTS)
        return command, pids, honest

    def started(self, command: Command, count: int) -> list[int]:
        """The process ids of the next workers that start."""
        return [int(command.wait_for(STARTED)["pid"]) for _ in range(count)]

    def echoes(self, command: Command, port: int) -> Callable[[], ssl.SSLSocket]:
        """Connects with TLS."""
        return lambda: command.connect(port)

    def metric(self, command: Command, name: str) -> int:
        """The sum of what the metrics tell by this name, whatever the labels."""
        found = 0
        for line in self.told(command).splitlines():
            match = re.match(rf"{name}(?:{{.*}})? (\S+)$", line)
            if match is not None:
                found += int(float(match[1]))
        return found

    def told(self, command: Command) -> str:
        """The metrics; where there is no room for the question, it is put again."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return command.status("/metrics")
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def levels_off(
        self,
        pids: Sequence[int],
        round: Callable[[], object],
        honest: Honest,
        bound: int = MEBIBYTE,
    ) -> tuple[int, int]:
        """
        Have the fault come again until the processes do not grow by it any more: what is made at
        first use, and what the allocator keeps, is there from then on.

        @return: how many bytes they have grown in the last round, and how many descriptors more
            they have.
        """
        round()
        for _ in range(6):
            memory, files = self.levels(pids, honest)
            round()
            grown, more = (
                now - before
                for now, before in zip(self.levels(pids, honest), (memory, files), strict=True)
            )
            if grown < bound and more == 0:
                break
        self.assertLess(grown, bound)
        self.assertEqual(more, 0)
        return grown, more

    def levels(self, pids: Sequence[int], honest: Honest) -> tuple[int, int]:
        """
        How many bytes and descriptors processes have, once that does not change any more: nobody
        connects anew meanwhile.
        """
        honest.anew.clear()
        levels = settled_levels(pids)
        honest.anew.set()
        return levels

    def all_served(self, *parts: Figures) -> None:
        """Nothing was lost to honest clients."""
        for figures in parts:
            self.assertGreater(figures.made, 0)
            self.assertEqual(dict(figures.lost), {})

    def ends_well(self, command: Drained) -> None:
        """It ends when it is told to, and has never been at a loss."""
        self.assertEqual(command.terminate(), 0)
        self.assertEqual(command.errors, [])
        self.no_traceback(command)

    def no_traceback(self, command: Drained) -> None:
        """All that was wrong was said in a line."""
        self.assertEqual(command.said("Traceback|^\t|Unhandled|critical"), [])

    def honest(self, connect: Callable[[], ssl.SSLSocket], **kw: int) -> Honest:
        """Honest clients, until the end of the test."""
        return Honest(self, connect, **kw)
