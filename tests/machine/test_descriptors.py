"""No descriptors are left: nobody who was accepted is lost, and nobody who waits."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from threading import Event, Thread
from unittest import skipUnless

from tests.honest import PATIENCE
from tests.machine.case import REQUESTS, SLOW, Drained, MachineCase, show
from tests.server.test_descriptors import AGAIN, LIMIT, PAUSED

try:
    from resource import RLIMIT_NOFILE, prlimit
except ImportError:
    prlimit = None  # type: ignore[assignment]


class Crowd:
    """
    Clients that come all at once, are served, and stay until they are told to go.

    @ivar served: how many have been served.
    @ivar failures: why others have not.
    """

    def __init__(self, connect: Callable[[], ssl.SSLSocket], count: int) -> None:
        self.served = 0
        self.failures: list[str] = []
        self._connect = connect
        self._go = Event()
        self._threads = [Thread(target=self._run, daemon=True) for _ in range(count)]
        for each in self._threads:
            each.start()

    def leave(self) -> None:
        """Go, and wait for those who have not been served yet."""
        self._go.set()
        for each in self._threads:
            each.join(PATIENCE)

    def _run(self) -> None:
        try:
            with self._connect() as tls:
                tls.settimeout(PATIENCE)
                tls.sendall(b"x")
                if tls.recv(1) != b"x":
                    raise EOFError("it has ended without an answer")
                self.served += 1
                self._go.wait(PATIENCE)
        except Exception as error:
            self.failures.append(repr(error))


@skipUnless(prlimit, "it takes limits of Linux")
class DescriptorTests(MachineCase):
    """Each process has few; a crowd has more connections than that."""

    kind = Drained

    def exhaust(self, workers: int, forward: bool) -> None:
        target = ["--echo"]
        if forward:
            back = self.begin("--listen", "tcp:0:interface=127.0.0.1", "--echo")
            target = ["--forward", f"127.0.0.1:{back.port()}"]
        command, pids, honest = self.served(workers, *target)
        for pid in pids:
            prlimit(pid, RLIMIT_NOFILE, (LIMIT, prlimit(pid, RLIMIT_NOFILE)[1]))
        alone = honest.part(REQUESTS)
        parts = []

        def crowd() -> None:
            beside = honest.begin()
            crowd = Crowd(honest.connect, 2 * LIMIT * workers)
            for _ in range(workers):
                command.wait_for(PAUSED)
            # Those who come anew wait for room.
            honest.wait_for(REQUESTS)
            crowd.leave()
            self.assertEqual(crowd.failures, [])
            self.assertEqual(crowd.served, 2 * LIMIT * workers)
            for _ in range(workers):
                command.wait_for(AGAIN)
            honest.begin()
            parts.append(beside)

        levels = self.levels_off(pids, crowd, honest)
        after = honest.part(REQUESTS)
        self.all_served(alone, *parts, after)
        pauses = self.metric(command, "bioconn_accept_pauses_total")
        self.assertGreaterEqual(pauses, workers)
        honest.finish()
        show(
            f"descriptors, {'--forward' if forward else '--echo'}, {workers} process(es)",
            f"accept_pauses {pauses}",
            (alone, parts[-1], after),
            levels,
        )
        self.ends_well(command)

    @skipUnless(SLOW, "takes long: set BIOCONN_SLOW=1 to run it")
    def test_echo(self) -> None:
        """One process."""
        self.exhaust(1, forward=False)

    @skipUnless(SLOW, "takes long: set BIOCONN_SLOW=1 to run it")
    def test_echo_workers(self) -> None:
        """Two, each with a limit of its own."""
        self.exhaust(2, forward=False)

    def test_forward(self) -> None:
        """A connection takes two of them."""
        self.exhaust(1, forward=True)

    @skipUnless(SLOW, "takes long: set BIOCONN_SLOW=1 to run it")
    def test_forward_workers(self) -> None:
        """The same with two processes."""
        self.exhaust(2, forward=True)
