"""No memory is left: whoever comes is refused, whoever is there goes on."""

from __future__ import annotations

import re
import ssl
from unittest import skipUnless

from tests.machine.case import MEBIBYTE, REQUESTS, SLOW, Drained, MachineCase, show

try:
    from resource import RLIM_INFINITY, RLIMIT_AS, RLIMIT_NOFILE, getrlimit, prlimit, setrlimit
except ImportError:
    prlimit = None  # type: ignore[assignment]

ROOM = (72 if SLOW else 36) * MEBIBYTE
"""Bytes of address space that a process has beside what it has already."""

MOST = 4000
"""Connections of a crowd, unless it is refused before."""

REFUSED = re.compile(r"connections are refused for now: there are no \d+ bytes of memory left")
AGAIN = re.compile(r"there is memory again: \d+ connections were refused")


def address_space(pid: int) -> int:
    """Bytes of address space that a process has."""
    with open(f"/proc/{pid}/status") as file:
        found = re.search(r"VmSize:\s+(\d+)", file.read())
    assert found is not None
    return int(found[1]) * 1024


@skipUnless(prlimit, "it takes limits of Linux")
class MemoryTests(MachineCase):
    """A process may have little more than it has, and a crowd comes."""

    kind = Drained

    def setUp(self) -> None:
        limits = getrlimit(RLIMIT_NOFILE)
        if limits[1] != RLIM_INFINITY and limits[1] < 3 * MOST:
            self.skipTest("there are not enough descriptors")
        self.addCleanup(setrlimit, RLIMIT_NOFILE, limits)
        setrlimit(RLIMIT_NOFILE, (3 * MOST, limits[1]))

    def exhaust(self, *target: str, workers: int = 1) -> None:
        command, pids, honest = self.served(workers, *target)
        alone = honest.part(REQUESTS)
        parts = []

        for pid in pids:
            prlimit(pid, RLIMIT_AS, (address_space(pid) + ROOM, prlimit(pid, RLIMIT_AS)[1]))

        def press() -> None:
            honest.anew.clear()
            held: list[ssl.SSLSocket] = []
            before = len(command.said(REFUSED.pattern))
            while len(command.said(REFUSED.pattern)) - before < workers:
                self.assertLess(len(held), MOST)
                try:
                    new = honest.connect()
                    new.sendall(b"x")
                    self.assertEqual(new.recv(1), b"x")
                except OSError:
                    continue  # this one was refused
                held.append(new)
            for _ in range(workers):
                command.wait_for(REFUSED)
            parts.append(honest.begin())
            honest.wait_for(REQUESTS)
            # They are served to the end who were let in.
            for each in held:
                each.sendall(b"yes")
                self.assertEqual(each.recv(3), b"yes")
            honest.begin()
            for each in held:
                each.close()
            # The limit stays, and there is room again.
            honest.anew.set()
            for _ in range(workers):
                command.wait_for(AGAIN)

        levels = self.levels_off(pids, press, honest)
        after = honest.part(REQUESTS)
        honest.finish()
        self.all_served(alone, *parts, after)
        refused = self.metric(command, "bioconn_memory_refused_total")
        lost = self.metric(command, "bioconn_memory_lost_total")
        self.assertGreaterEqual(refused, len(parts))
        self.assertEqual(lost, 0)
        show(
            f"memory, {target[0]}, {workers} process(es)",
            f"memory_refused {refused}, memory_lost {lost}",
            (alone, parts[-1], after),
            levels,
        )
        self.assertEqual(len(command.said(REFUSED.pattern)), len(parts) * workers)
        self.ends_well(command)

    def test_echo(self) -> None:
        """One process."""
        self.exhaust("--echo")

    @skipUnless(SLOW, "takes long: set BIOCONN_SLOW=1 to run it")
    def test_echo_workers(self) -> None:
        """Two, each with a limit of its own."""
        self.exhaust("--echo", workers=2)

    @skipUnless(SLOW, "takes long: set BIOCONN_SLOW=1 to run it")
    def test_forward(self) -> None:
        """Each connection is two."""
        back = self.begin("--listen", "tcp:0:interface=127.0.0.1", "--echo")
        self.exhaust("--forward", f"127.0.0.1:{back.port()}")
