"""Thousands of clients that say nothing, or next to nothing, and honest ones among them."""

from __future__ import annotations

import os
import re
import resource
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from unittest import skipUnless

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates.load_material import SLOW, percentile
from tests.server.command import Command

_log = Logger()

CROWD = 2000
HONEST = 100
TIMEOUT = 4.0
BOUND = CROWD * 768
"""Bytes that a crowd may leave behind; one of which something stays would leave twice as many."""

PATIENCE = 300.0
"""Seconds in which the crowd has to be let in, and let go: how fast a machine is, is not meant."""

#: The beginning of a client hello, of which one byte is sent each second.
HELLO = bytes.fromhex("16030100c4010000c00303cb34ecb1e78163ba1c38c6dacb196a")


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    with open(f"/proc/{pid}/status") as file:
        found = re.search(r"VmRSS:\s+(\d+)", file.read())
    assert found is not None
    return int(found[1]) * 1024


@skipUnless(os.path.isdir("/proc/self/fd"), "it takes /proc")
@skipUnless(SLOW, "measures times: set BIOCONN_SLOW=1 to run it")
class CrowdTests(SynchronousTestCase):
    """
    Whoever is honest is served as if there were nobody else, and the crowd costs next to nothing.
    """

    def setUp(self) -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limits[1] != resource.RLIM_INFINITY and limits[1] < 3 * CROWD:
            self.skipTest("there are not enough descriptors")
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3 * CROWD, limits[1]))
        self.command = Command(
            self,
            *("--listen", f"127.0.0.1:0:handshakeTimeout={TIMEOUT:g}", "--echo"),
        )
        self.port = self.command.port()
        self.context = ssl.create_default_context(cafile=self.command.authority)
        self.selector = selectors.DefaultSelector()
        self.addCleanup(self.selector.close)
        self.crowd: list[socket.socket] = []
        self.addCleanup(self.scatter)
        self.lost = 0

    def scatter(self) -> None:
        for each in self.crowd:
            each.close()
        self.crowd.clear()

    def gather(self) -> float:
        """Connect them all, as fast as can be; how long that takes, in seconds."""
        began = time.perf_counter()
        for _ in range(CROWD):
            each = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
            each.setblocking(False)
            self.crowd.append(each)
            self.selector.register(each, selectors.EVENT_READ)
        return time.perf_counter() - began

    def look(self, wait: float) -> None:
        """See who of them was let go."""
        for key, _ in self.selector.select(wait):
            end: socket.socket = key.fileobj  # type: ignore[assignment]
            try:
                said = end.recv(4096)
            except OSError:
                said = b""
            if not said:
                self.selector.unregister(end)
                self.crowd.remove(end)
                end.close()
                self.lost += 1

    def honest(self) -> list[float]:
        """Honest clients, one after the other: the seconds of each."""
        times = []
        for _ in range(HONEST):
            began = time.perf_counter()
            plain = socket.create_connection(("127.0.0.1", self.port))
            with self.context.wrap_socket(plain, server_hostname="localhost") as tls:
                tls.sendall(b"hello")
                self.assertEqual(tls.recv(5), b"hello")
            times.append(time.perf_counter() - began)
        return times

    def round(
        self, disturb: Callable[[Iterable[socket.socket], int], object]
    ) -> tuple[float, float, list[float], float]:
        """
        A crowd that comes and is let go.

        @return: the seconds until it was connected, its bytes of memory each, the seconds of honest
            clients among it, and those until it was let go.
        """
        self.lost = 0
        memory = resident(self.command.pid)
        connected = self.gather()
        each = (resident(self.command.pid) - memory) / CROWD
        began = time.perf_counter()
        among: list[float] = []
        turn = 0
        while self.crowd and time.perf_counter() - began < PATIENCE:
            disturb(self.crowd, turn)
            turn += 1
            if time.perf_counter() - began < TIMEOUT - 1:
                among += self.honest()
            self.look(0.5)
        self.assertEqual(self.lost, CROWD)
        return connected, each, among, time.perf_counter() - began

    def check(self, what: str, disturb: Callable[[Iterable[socket.socket], int], object]) -> None:
        self.honest()
        alone = self.honest()
        connected, each, among, let_go = self.round(disturb)
        # What is made at first use, and what the allocator keeps, is there from here on.
        before = resident(self.command.pid)
        for _ in range(4):
            self.round(disturb)
            after = resident(self.command.pid)
            grown, before = after - before, after
            # The allocator may keep more at times; what stays of a crowd, stays of each.
            if grown < BOUND:
                break
        _log.info(
            "{what}: {crowd} connected within {connected:.2f} s, {each:.1f} KiB each; honest p99"
            " {alone:.1f} ms alone and {among:.1f} ms among them; all let go {let_go:.1f} s after;"
            " resident {before:.1f} MiB after a crowd, {after:.1f} after the next",
            what=what,
            crowd=CROWD,
            connected=connected,
            each=each / 1024,
            alone=percentile(alone, 0.99) * 1000,
            among=percentile(among, 0.99) * 1000,
            let_go=let_go,
            before=(after - grown) / 2**20,
            after=after / 2**20,
        )
        self.assertLess(each, 4096)
        self.assertLess(grown, BOUND)
        self.assertEqual(self.command.terminate(), 0)
        self.assertEqual(self.command.errors, [])

    def test_silent(self) -> None:
        self.check("silent", lambda crowd, turn: None)

    def test_dripping(self) -> None:
        def drip(crowd: Iterable[socket.socket], turn: int) -> None:
            for each in crowd:
                try:
                    each.send(HELLO[turn % len(HELLO) : turn % len(HELLO) + 1])
                except OSError:
                    continue

        self.check("dripping", drip)
