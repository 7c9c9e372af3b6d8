"""
What a flood takes place on: the command, an echo behind it, and honest clients in front of it.

A L{Flood} has all of it to itself.  L{measure} has it come again and again, and gives an L{Outcome}
with what did not hold.
"""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from threading import Timer

import attrs
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.certificates.load_material import SLOW
from tests.peers.processes import free_port
from tests.server.command import LIMIT, ROOT, Command
from tests.server.test_growth import resident

__all__ = ["Flood", "Ground", "Honest", "Outcome", "measure"]

ALONE = 1.5 if SLOW else 0.5
"""Seconds for which honest clients are alone, and a flood goes on at the least."""

PATIENCE = 120.0
"""Seconds in which the server has to be as it was; how fast a machine is, is not meant."""

DESCRIPTORS = 1000 if not SLOW else 6000
"""What a process may have at a time, at the least."""

MEBIBYTE = 1024 * 1024

ROUNDS = 5
"""
Times that a flood comes at most, after the first: the allocator may keep more at times, but what
stays of a flood, stays of each.
"""


_COUNTED = re.compile(
    r"bioconn_(handshakes|connections_ended|refused)_total"
    r'{.*?(?:result|end|limit)="(\w+)".*?} (\S+)'
)


@attrs.frozen
class Flood:
    """
    A flood.

    @ivar how: what comes once.  It gives its extent in words, and says by L{Ground.must} what else
        has to be so.
    @ivar options: more of the endpoint that it comes to.
    @ivar back_end: opens what its clients are forwarded to, in place of the echo, and gives its
        endpoint.
    @ivar interface: the address of that endpoint of ours.
    @ivar cable: connects that address, where it is in a network of its own.
    """

    name: str
    how: Callable[[Ground], str]
    options: str = ""
    back_end: Callable[[Ground], str] | None = None
    interface: str = "127.0.0.1"
    cable: Callable[[Ground], None] | None = None


@attrs.define
class Honest:
    """
    What honest clients have seen.

    @ivar made: requests.
    @ivar lost: what became of those that were not answered as they should be.
    @ivar connections: made for them.
    @ivar kept: of requests on connections that were there, what half of them took at most, and 99
        of 100, in ms.
    @ivar new: the same of requests with a connection for each.
    """

    made: int
    lost: list[str]
    connections: int
    kept: list[float]
    new: list[float]


@attrs.define
class Outcome:
    """
    What became of a flood.

    @ivar extent: how much of it there was each time.
    @ivar alone: honest clients before it.
    @ivar beside: those beside it: each time that it came, the one with the worst latency; but
        requests are those of all.
    @ivar descriptors: of the server, before and after.
    @ivar memory: of the server in bytes, before and after, the last time that it came.
    @ivar rounds: how often it came.
    @ivar counted: what the server's metrics say of the last time.
    @ivar wrong: what should have been otherwise.
    """

    extent: str
    alone: Honest
    beside: Honest
    descriptors: tuple[int, int]
    memory: tuple[int, int]
    rounds: int
    counted: str
    wrong: list[str]


class Ground:
    """
    What a flood takes place on.

    @ivar case: to be cleaned up with.
    @ivar port: where the flood goes to.
    @ivar connections: how many it has made, for the server's metrics to have them all.
    @ivar elsewhere: a process at the other end of the cable, if there is one.
    @ivar wrong: what should have been otherwise.
    """

    def __init__(self, case: SynchronousTestCase, flood: Flood) -> None:
        self.case = case
        self.flood = flood
        self.connections = 0
        self.elsewhere: subprocess.Popen[str] | None = None
        self.wrong: list[str] = []
        self._most: dict[str, float] = {}
        if flood.cable is not None:
            flood.cable(self)
        echo = free_port()
        target = f"127.0.0.1:{echo}"
        words = [
            *("--status", "unix:s.sock"),
            *("--listen", f"tcp:{echo}:interface=127.0.0.1", "--echo"),
        ]
        is_apart = flood.back_end is not None or flood.interface != "127.0.0.1"
        if is_apart:
            words += ["--listen", "127.0.0.1:0", "--forward", target]
        if flood.back_end is not None:
            target = flood.back_end(self)
        # The other endpoint has no options, and metrics are by name.
        options = flood.options or ":handshakeTimeout=60"
        words += ["--listen", f"{flood.interface}:0{options}", "--forward", target]
        self.command = Command(case, *words)
        self.command.port()
        honest = self.command.port()
        self.port = self.command.port() if is_apart else honest
        self.command.read_on()
        self._honest = self._start("tests.floods.honest", "127.0.0.1", honest, self.authority)

    @property
    def authority(self) -> str:
        """Who signs the server's certificates."""
        return self.command.authority

    def _start(self, module: str, *words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, words)],
            env={**os.environ, "PYTHONPATH": ROOT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        watchdog = Timer(LIMIT, process.kill)
        watchdog.start()

        def end() -> None:
            process.kill()
            process.communicate()
            watchdog.cancel()

        self.case.addCleanup(end)
        return process

    # Of the server

    @property
    def size(self) -> int:
        """Bytes of memory that it has."""
        return resident(self.command.pid, "VmRSS")

    @property
    def descriptors(self) -> int:
        """How many it has open."""
        return len(os.listdir(f"/proc/{self.command.pid}/fd"))

    @cached_property
    def context(self) -> ssl.SSLContext:
        """For clients of Python's."""
        return ssl.create_default_context(cafile=self.authority)

    def metrics(self) -> Counter[str]:
        """What it has counted of all that has come to an end, by a few words for each."""
        counted: Counter[str] = Counter()
        for kind, label, number in _COUNTED.findall(self.command.status("/metrics")):
            word = {"handshakes": "", "connections_ended": "ended ", "refused": "refused "}[kind]
            counted[word + label] += int(float(number))
        return counted

    # Of a flood

    def must(self, holds: object, what: str) -> None:
        """Something has to be so."""
        if not holds and what not in self.wrong:
            self.wrong.append(what)

    def most(self, what: str, found: float) -> float:
        """The most that was found of something, each time that the flood came so far."""
        self._most[what] = max(found, self._most.get(what, 0.0))
        return self._most[what]

    def connect(self, narrow: bool = False) -> socket.socket:
        """
        One more connection to the server.

        @param narrow: whether the kernel is to take next to nothing that is not read.
        """
        self.connections += 1
        made = socket.socket()
        made.settimeout(PATIENCE)
        if narrow:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        made.connect((self.flood.interface, self.port))
        return made

    def absolute(self, path: str) -> str:
        """A path for the server, which runs elsewhere, in an endpoint string."""
        return os.path.abspath(path).replace(":", "\\:")

    def until(self, done: Callable[[], object], what: str) -> None:
        """Wait until it is so."""
        deadline = time.monotonic() + PATIENCE
        while not done():
            if time.monotonic() > deadline:
                self.must(False, f"within {PATIENCE:g} s it was not so that {what}")
                return
            time.sleep(0.02)

    # Of honest clients

    @contextmanager
    def asking(self) -> Iterator[list[Honest]]:
        """Honest clients ask; what they have seen is in the list afterwards."""
        told: list[Honest] = []
        assert self._honest.stdin is not None and self._honest.stdout is not None
        self._honest.stdin.write("begin\n")
        self._honest.stdin.flush()
        try:
            yield told
        finally:
            self._honest.stdin.write("end\n")
            self._honest.stdin.flush()
            told.append(Honest(**json.loads(self._honest.stdout.readline())))


def _raise_limit() -> None:
    """
    As many descriptors as there may be, for us and for those that we start.

    @raise SkipTest: these are not enough.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        raise SkipTest(f"it takes {DESCRIPTORS} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def measure(case: SynchronousTestCase, flood: Flood) -> Outcome:
    """Have a flood come, with honest clients beside it."""
    case.addCleanup(
        resource.setrlimit, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    _raise_limit()
    ground = Ground(case, flood)
    with ground.asking() as told:
        # The first connection loads code, in the server and in the clients.
        time.sleep(0.3)
    with ground.asking() as told:
        time.sleep(ALONE)
    [alone] = told
    before = _settled(ground, None)
    all_beside: list[Honest] = []
    counted: Counter[str] = Counter()
    after, size, grown, rounds, extent = before, ground.size, 0, 0, ""
    while rounds < 1 + ROUNDS and not ground.wrong:
        rounds += 1
        size, seen = ground.size, ground.metrics()
        ground.connections = 0
        with ground.asking() as told:
            extent = _comes(ground)
        all_beside += told
        after = _settled(ground, before)
        counted = ground.metrics() - seen
        # Those that were let in, and those that were not; those that a limit has refused have not
        # come as far.
        words = [word for word in counted if not word.startswith("ended ")]
        number = sum(counted[word] for word in words) - told[0].connections
        ground.must(
            number == ground.connections,
            f"{ground.connections} connections have come, and {number} were counted",
        )
        ground.must(not counted["unknown"], "a handshake has failed for a reason with no name")
        ended = sum(number for word, number in counted.items() if word.startswith("ended "))
        ground.must(ended == counted["ok"], f"{counted['ok']} were let in, and {ended} have ended")
        counted.subtract({"ok": told[0].connections, "ended closed": told[0].connections})
        grown = ground.size - size
        if rounds > 1 and grown <= MEBIBYTE:
            break
    ground.must(grown <= MEBIBYTE, f"it grows by {grown} bytes each time")
    with ground.asking() as told:
        # It serves as before.
        time.sleep(0.1)
    beside = max(all_beside, key=lambda each: each.kept[1] + each.new[1])
    beside.made = sum(each.made for each in all_beside)
    beside.lost = [each for one in [alone, *all_beside, *told] for each in one.lost]
    outcome = Outcome(
        extent,
        alone,
        beside,
        (before, after),
        (size, size + grown),
        rounds,
        ", ".join(f"{word} {number}" for word, number in sorted(counted.items()) if number > 0),
        ground.wrong,
    )
    _end(ground, outcome)
    return outcome


def _comes(ground: Ground) -> str:
    """Have the flood come, as often as it takes for there to be one; its extent."""
    began, times = time.monotonic(), 0
    while not times or time.monotonic() < began + ALONE:
        times += 1
        extent = ground.flood.how(ground)
    return f"{times} x ({extent})" if times > 1 else extent


def _settled(ground: Ground, before: int | None) -> int:
    """
    Wait until the server has no more descriptors open than before; at first, until they are the
    same for some time.
    """
    if before is not None:
        ground.until(lambda: ground.descriptors <= before, "its descriptors are back")
        return ground.descriptors
    found, since = ground.descriptors, time.monotonic()
    while time.monotonic() < since + 0.3:
        time.sleep(0.02)
        if ground.descriptors != found:
            found, since = ground.descriptors, time.monotonic()
    return found


def _end(ground: Ground, outcome: Outcome) -> None:
    """The server ends in good order, and has said nothing that it should not."""
    command = ground.command
    before, after = outcome.descriptors
    ground.must(after <= before, f"it had {before} descriptors, and has {after}")
    ground.must(outcome.beside.made > 0, "honest clients have asked for nothing")
    ground.must(not outcome.beside.lost, f"honest clients have lost: {outcome.beside.lost[:3]}")
    status = command.terminate()
    ground.must(status == 0, f"it ends with status {status}")
    ground.must(not command.errors, f"it writes to stderr: {command.errors[:9]}")
    unhandled = [
        line
        for line in command.lines
        if any(word in line for word in ("Traceback", "Unhandled", "#critical"))
    ]
    ground.must(not unhandled, f"it logs: {unhandled[:3]}")
