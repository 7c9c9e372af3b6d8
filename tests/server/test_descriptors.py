"""The command when it has no descriptors left, with connections that go on."""

from __future__ import annotations

import contextlib
import re
from unittest import skipUnless

from tests.server.command import TWISTD, Command
from tests.server.load import LifeCase

_PAUSED = re.compile(r"accepting nobody on \d+ for now: Too many open files")
_AGAIN = re.compile(r"accepting again on \d+")

LIMIT = 80
"""How many descriptors a process may have."""

#: As prlimit(1) does it.
_LIMITED = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}))"

try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]


@skipUnless(resource, "it takes limits of POSIX")
class ExhaustedTests(LifeCase):
    """Accepting pauses, and goes on; what is there already never notices."""

    def exhaust(self, workers: int) -> None:
        start = ("-c", f"{_LIMITED}; {TWISTD[1]}", *TWISTD[2:])
        command = self.begin(
            *("--workers", str(workers), "--status", "unix:s.sock", "--listen", "127.0.0.1:0"),
            *("--factory", "echoes:Echoes"),
            start=start,
        )
        port = command.port()
        pumps = self.pumps(10, lambda: command.connect(port))
        silent = [self.plain(port)() for _ in range(3 * LIMIT * workers)]
        for each in silent:
            self.addCleanup(each.close)
        for _ in range(workers):
            command.wait_for(_PAUSED)
        # With nothing left, what is there goes on.
        self.all_pump(pumps)
        for each in silent:
            each.close()
        for _ in range(workers):
            command.wait_for(_AGAIN)
        # Where those that have gone have yet to be let go of, there may be none left for us again.
        self.until(lambda: self.pauses(command) >= workers)
        self.all_pump(pumps)
        pumps += self.pumps(10, lambda: command.connect(port))
        self.all_pump(pumps)
        self.all_exact(pumps)
        self.assertEqual(command.terminate(), 0)
        self.assertEqual(self.complaints(command), [])

    def pauses(self, command: Command) -> int:
        """How many of them Prometheus is told of."""
        told = ""
        with contextlib.suppress(OSError):
            told = command.status("/metrics")
        return sum(map(int, re.findall(r"bioconn_accept_pauses_total{.*} (\d+)", told)))

    def complaints(self, command: Command) -> list[str]:
        """What is no line of the log, and lines that tell of a traceback."""
        return [*command.errors, *(line for line in command.lines if "Traceback" in line)]

    def test_one_process(self) -> None:
        self.exhaust(1)

    def test_workers(self) -> None:
        """Each has a limit of its own."""
        self.exhaust(2)
