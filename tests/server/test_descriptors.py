"""What is left of descriptors; and the command when none are, with connections that go on."""

from __future__ import annotations

import contextlib
import re
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from tests.server.command import TWISTD, Command
from tests.server.load import LifeCase
from twisted_bioconn._room import ASK_INTERVAL
from twisted_bioconn.server.descriptors import SPARE, Descriptors

PAUSED = re.compile(r"accepting nobody on \d+ for now: Too many open files")
AGAIN = re.compile(r"accepting again on \d+")

LIMIT = 80
"""How many descriptors a process may have."""

#: As prlimit(1) does it.
_LIMITED = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}))"

try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]


class LeftTests(SynchronousTestCase):
    """How many connections are accepted."""

    def descriptors(self, most: int | None, used: int | None = 0) -> Descriptors:
        self.most, self.used, self.owed, self.counts = most, used, 0, 0

        def count() -> int | None:
            self.counts += 1
            return self.used

        self.now = 5.0
        return Descriptors(lambda: self.owed, lambda: self.most, count, lambda: self.now)

    def taken(self, descriptors: Descriptors, each: int) -> int:
        """Accept as many as there is room for, of which each has all that it takes."""
        found = 0
        while found < 1000 and descriptors.take(each):
            assert self.used is not None
            self.used += each
            found += 1
        return found

    def test_spare(self) -> None:
        """Some are kept; where there are few, a quarter."""
        self.assertEqual(self.taken(self.descriptors(100), 1), 100 - SPARE)
        self.assertEqual(self.taken(self.descriptors(100), 2), (100 - SPARE) // 2)
        self.assertEqual(self.taken(self.descriptors(20), 1), 15)

    def test_owed(self) -> None:
        """What those take that are accepted already is not given to others."""
        descriptors = self.descriptors(100, 40)
        self.owed = 100 - SPARE - 40 - 1
        self.assertTrue(descriptors.take(1))
        self.used = 41
        self.assertFalse(descriptors.take(1))
        self.owed = 0
        self.assertTrue(descriptors.take(2))

    def test_none_then_some(self) -> None:
        """After there were none, one in so many has to be free."""
        descriptors = self.descriptors(1000 + SPARE, 1000)
        self.assertFalse(descriptors.take(1))
        self.used = 1000 - 14
        self.assertFalse(descriptors.take(1))
        self.used = 1000 - 15
        self.assertTrue(descriptors.take(1))

    def test_counted_seldom(self) -> None:
        descriptors = self.descriptors(100_000, 50_000)
        for _ in range(6000):
            self.assertTrue(descriptors.take(1))
        self.assertEqual(self.counts, 1)
        # Not with a limit that is another one.
        self.most = 50_000
        self.now += ASK_INTERVAL
        self.assertFalse(descriptors.take(1))

    def test_not_known(self) -> None:
        """Then it is the kernel that says so."""
        for descriptors in (self.descriptors(None), self.descriptors(10, None)):
            for _ in range(1000):
                self.assertTrue(descriptors.take(2))

    def test_of_this_process(self) -> None:
        self.assertTrue(Descriptors(lambda: 0).take(2))


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
            command.wait_for(PAUSED)
        # With nothing left, what is there goes on.
        self.all_pump(pumps)
        for each in silent:
            each.close()
        for _ in range(workers):
            command.wait_for(AGAIN)
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
