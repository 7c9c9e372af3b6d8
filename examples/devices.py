"""
A massive client: many devices in one process, each with a session of its own.

    python examples/devices.py [--devices N] [--rounds N] [--context shared|each]
                               [--histogram FILE] [--trust FILE] [HOST:PORT]

Each of the devices (120) connects, and when all of them are there, each sends 15 or 16 packets of
100 to 300 bytes, one after the other, each when the one before it has come back.  Then it closes.
C{--rounds} has them all come again, with the session of last time.  With no HOST:PORT there is an
echo server, which is a process of its own; another server has to echo, and has a certificate from
the development authority or from those in C{--trust}.

It prints what the devices cost in memory and CPU, the percentiles of how long connections and round
trips took, and what failed, by its reason; where anything did, the exit status is 1::

    round 1: 120 devices connected in 0.2 s, 1860 round trips in 0.2 s, 62.8 MB
    …

One context is enough for all: what is particular to a device is in its connection.  C{--context
each} makes one for each of them, to show what that costs.  And a handshake is done before anything
is sent: C{connect} is not over until then.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import sys
from collections import Counter
from random import Random
from time import perf_counter, process_time
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.endpoints import HostnameEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol, connectionDone
from twisted.internet.task import react
from twisted.protocols.wire import Echo
from twisted.python.failure import Failure

from twisted_bioconn import (
    ClientEndpoint,
    ClientOptions,
    ServerEndpoint,
    ServerOptions,
    SessionStore,
    install,
)
from twisted_bioconn.certificates.development import DevelopmentAuthority, state_directory
from twisted_bioconn.certificates.loading import load_authorities

AT_ONCE = 32
"""Handshakes at a time: the others wait, so that none waits for its server until it gives up."""
PATIENCE = 120.0
"""Seconds that a session may take."""
FILES = 100
"""Files that a process has open beside the connections."""


class Spread:
    """Durations, counted in steps of 2 %: a million of them take no more room than a thousand."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[round(math.log(max(seconds, 1e-6)) / 0.02)] += 1
        self.longest = max(self.longest, seconds)

    def percentile(self, percent: float) -> float:
        """The duration, in milliseconds, that so many percent do not exceed."""
        left = percent / 100 * self.counts.total()
        for step in sorted(self.counts):
            left -= self.counts[step]
            if left <= 0:
                return min(math.exp(step * 0.02), self.longest) * 1e3
        return self.longest * 1e3

    def __str__(self) -> str:
        figures = ", ".join(f"p{at:g} {self.percentile(at):.1f}" for at in (50, 90, 99))
        return f"{figures}, max {self.longest * 1e3:.1f} ms"


class Device(Protocol):
    """One session."""

    transport: Any

    def __init__(self, number: int, round_trips: Spread) -> None:
        random = Random(number)
        self.packets = [random.randbytes(random.randint(100, 300)) for _ in range(15 + number % 2)]
        self.round_trips = round_trips
        self.received = b""
        self.sent_at = 0.0
        self.ended: Deferred[None] = Deferred()

    def send(self) -> None:
        """Send the next packet, or close where there is none left."""
        if self.packets:
            self.sent_at = perf_counter()
            self.transport.write(self.packets[0])
        else:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Some of the packet has come back."""
        self.received += data
        if not self.packets or not self.packets[0].startswith(self.received):
            self.fail(ValueError("what came back is not what was sent"))
        elif self.received == self.packets[0]:
            self.round_trips.add(perf_counter() - self.sent_at)
            del self.packets[0]
            self.received = b""
            self.send()

    def fail(self, error: Exception) -> None:
        """It cannot go on."""
        if not self.ended.called:
            self.ended.errback(error)
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end: a good one is clean, and after the last packet."""
        if self.ended.called:
            return
        if reason.check(ConnectionDone) and not self.packets:
            self.ended.callback(None)
        elif reason.check(ConnectionDone):
            self.ended.errback(ConnectionError("the server has closed in mid-session"))
        else:
            self.ended.errback(reason)


class Fleet:
    """All the devices."""

    def __init__(self, reactor: Any, host: str, port: int, asked: argparse.Namespace) -> None:
        self.reactor = reactor
        self.host, self.port, self.count = host, port, asked.devices
        self.connecting, self.round_trips = Spread(), Spread()
        self.handshakes: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.progress = Progress(self.count)
        self.memory: list[int] = []
        self.cpu = [0.0, 0.0]
        roots = load_authorities(asked.trust)

        def accept(_: Any) -> None:
            """Who has a check of its own, even one that finds no fault, shares no context."""

        before, began = resident(), process_time()
        self.options = [
            ClientOptions(
                host,
                trust_roots=roots,
                sessions=SessionStore(1),
                check=None if asked.context == "shared" else accept,
            )
            for _ in range(self.count)
        ]
        self.context_cpu = process_time() - began
        self.start = resident()
        self.context_memory = self.start - before

    async def round(self, number: int) -> None:
        """
        All connect, all have their sessions, all close.

        @param number: 0 for one that only goes ahead, and is not told of.
        """
        began, cpu = perf_counter(), process_time()
        self.progress.begin(f"round {number}: connecting")
        semaphore = DeferredSemaphore(AT_ONCE)
        found = await gatherResults([semaphore.run(self.connect, at) for at in range(self.count)])
        devices = [device for device in found if device is not None]
        self.memory.append(resident())
        connected, self.cpu[0] = perf_counter(), self.cpu[0] + process_time() - cpu

        cpu, trips = process_time(), self.round_trips.counts.total()
        self.progress.begin(f"round {number}: sessions")
        await gatherResults([Deferred.fromCoroutine(self.session(each)) for each in devices])
        self.cpu[1] += process_time() - cpu
        self.progress.end()
        if number == 0:
            return
        print(
            f"round {number}: {len(devices)} devices connected in {connected - began:.1f} s,"
            f" {self.round_trips.counts.total() - trips} round trips in"
            f" {perf_counter() - connected:.1f} s, {self.memory[-1] / 1e6:.1f} MB",
            flush=True,
        )

    async def connect(self, at: int) -> Device | None:
        """A device, connected; none where that fails."""
        began = perf_counter()
        below = HostnameEndpoint(self.reactor, self.host, self.port)
        device = Device(at, self.round_trips)
        try:
            await ClientEndpoint(below, self.options[at], self.reactor).connect(
                Factory.forProtocol(lambda: device)
            )
        except Exception as error:
            self.failed(error)
            return None
        self.connecting.add(perf_counter() - began)
        self.handshakes["resumed" if device.transport.negotiated.resumed else "full"] += 1
        self.progress.step()
        return device

    async def session(self, device: Device) -> None:
        """A device's session."""
        late = TimeoutError(f"its session was not done within {PATIENCE:g} seconds")
        timer = self.reactor.callLater(PATIENCE, device.fail, late)
        try:
            if not device.ended.called:
                device.send()
            await device.ended
        except Exception as error:
            self.failed(error)
        else:
            self.progress.step()
        finally:
            if timer.active():
                timer.cancel()

    def failed(self, error: Exception) -> None:
        """A device is lost, refused, or does not trust its server."""
        self.failures[f"{type(error).__name__}: {error}"] += 1

    def summary(self, asked: argparse.Namespace) -> str:
        """What it came to."""
        sessions = self.count * asked.rounds
        each = [(memory - self.start) / self.count / 1e3 for memory in self.memory]
        lines = [
            f"contexts:    {'one for all' if asked.context == 'shared' else 'one for each'}:"
            f" {self.context_memory / self.count / 1e3:.1f} KB,"
            f" {self.context_cpu / self.count * 1e3:.2f} ms of CPU a device",
            f"memory:      {each[0]:.1f} KB a device in the first round,"
            f" {each[-1]:.1f} KB in the last",
            f"CPU:         {self.cpu[0] / sessions * 1e3:.2f} ms to connect,"
            f" {self.cpu[1] / sessions * 1e3:.2f} ms for a session",
            f"handshakes:  {self.handshakes['full']} full, {self.handshakes['resumed']} resumed",
            f"connecting:  {self.connecting}",
            f"round trips: {self.round_trips}",
            f"failed:      {self.failures.total()}",
        ]
        lines += [f"{count:8} × {reason}" for reason, count in self.failures.most_common(20)]
        return "\n".join(lines)


class Progress:
    """A bar, for whoever looks at a terminal."""

    def __init__(self, most: int) -> None:
        self.most, self.shown = most, sys.stderr.isatty()
        self.done, self.what = 0, ""

    def begin(self, what: str) -> None:
        """The next part."""
        self.done, self.what = 0, what

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        if self.shown and self.done % max(1, self.most // 40) == 0:
            bar = "#" * (30 * self.done // self.most)
            sys.stderr.write(f"\r{self.what:24} [{bar:30}] {self.done} of {self.most}\x1b[K")

    def end(self) -> None:
        """Leave no trace."""
        if self.shown:
            sys.stderr.write("\r\x1b[K")


def histogram(spread: Spread, title: str) -> str:
    """Durations on a logarithmic scale as SVG, in the colours that whoever looks at it prefers."""
    bins: Counter[int] = Counter()
    for step, count in spread.counts.items():
        bins[step // 5] += count
    first, last = min(bins, default=0) - 1, max(bins, default=0) + 2
    most = max(bins.values(), default=1)

    def x(milliseconds: float) -> float:
        return 20 + 680 * (math.log(milliseconds / 1e3) / 0.1 - first) / (last - first)

    parts = []
    for at, count in sorted(bins.items()):
        left, right = x(math.exp(at * 0.1) * 1e3), x(math.exp((at + 1) * 0.1) * 1e3)
        parts.append(
            f'<rect class="bar" x="{left:.1f}" y="{260 - 180 * count / most:.1f}"'
            f' width="{right - left - 1:.1f}" height="{180 * count / most:.1f}"/>'
        )
    for power in range(-6, 7):
        for mark in (10.0**power, 2 * 10.0**power, 5 * 10.0**power):
            if 20 < x(mark) < 690:
                parts.append(f'<text x="{x(mark):.1f}" y="278" class="soft">{mark:g} ms</text>')
    for row, at in enumerate((50, 90, 99)):
        place, height = x(spread.percentile(at) if bins else 1), 44 + 13 * row
        parts.append(f'<path class="mark" d="M{place:.1f} {height + 3}V260"/>')
        words = f"p{at} {spread.percentile(at):.1f} ms"
        parts.append(f'<text x="{place:.1f}" y="{height}">{words}</text>')
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 290" role="img">
<title>{title}: {spread}</title>
<style>
svg {{ background: #ffffff; fill: #1f2328; font: 11px system-ui, sans-serif }}
text {{ text-anchor: middle }} .head {{ font-size: 14px; text-anchor: start }}
.soft {{ fill: #59636e }} .bar {{ fill: #0969da }} .mark {{ stroke: #59636e; fill: none }}
@media (prefers-color-scheme: dark) {{
svg {{ background: #0d1117; fill: #f0f6fc }}
.soft {{ fill: #9198a1 }} .bar {{ fill: #4493f8 }} .mark {{ stroke: #9198a1 }}
}}
</style>
<text class="head" x="20" y="24">{title}</text>
{chr(10).join(parts)}
<path class="mark" d="M20 260H700"/>
</svg>
"""


def resident() -> int:
    """Bytes of this process in memory: proc(5), or else the most that there ever were."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def allow_files(count: int) -> None:
    """
    Let this process, and those that it starts, have so many files open.

    @raise SystemExit: the system does not let it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    try:
        enough = hard == resource.RLIM_INFINITY or hard >= count
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard if enough else count))
    except (OSError, ValueError):
        raise SystemExit(
            f"devices: {count} open files are needed, and the limit is {hard}: raise ulimit -n"
        ) from None


class ServerProcess(ProcessProtocol):
    """The echo server's process, which ends when its input does: with this one, at the latest."""

    def __init__(self) -> None:
        self.port: Deferred[int] = Deferred()
        self.said = b""

    def outReceived(self, data: bytes) -> None:
        """It listens."""
        self.said += data
        if self.said.endswith(b"\n") and not self.port.called:
            self.port.callback(int(self.said))

    def processEnded(self, reason: Failure) -> None:
        """It should not have, before."""
        if not self.port.called:
            self.port.errback(reason)


async def serve(reactor: Any) -> None:
    """Be the echo server, until the input ends."""
    options = ServerOptions(DevelopmentAuthority(state_directory()).leaf())
    below = TCP4ServerEndpoint(reactor, 0, backlog=1024, interface="127.0.0.1")
    port: Any = await ServerEndpoint(below, options, reactor).listen(Factory.forProtocol(Echo))
    print(port.getHost().port, flush=True)
    ended: Deferred[None] = Deferred()
    reactor.callInThread(lambda: (sys.stdin.read(), reactor.callFromThread(ended.callback, None)))
    await ended


def arguments(given: list[str]) -> argparse.Namespace:
    """The command line."""

    def some(text: str) -> int:
        number = int(text)
        if number < 1:
            raise argparse.ArgumentTypeError("at least 1")
        return number

    def address(text: str) -> tuple[str, int]:
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal():
            raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
        return host.strip("[]"), int(port)

    parser = argparse.ArgumentParser(prog="devices.py", description="A massive client.")
    parser.add_argument("--devices", type=some, default=120, metavar="N")
    parser.add_argument("--rounds", type=some, default=1, metavar="N")
    parser.add_argument("--context", choices=("shared", "each"), default="shared")
    parser.add_argument("--histogram", metavar="FILE", help="of the round trips, as SVG")
    parser.add_argument("--trust", metavar="FILE", help="who signs for the server")
    parser.add_argument("server", nargs="?", type=address, metavar="HOST:PORT")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(given)


async def main(reactor: Any, *given: str) -> None:
    """Run all rounds, and say what they came to."""
    asked = arguments(list(given))
    allow_files(asked.devices + FILES)
    if asked.serve:
        await serve(reactor)
        return
    try:
        authority = DevelopmentAuthority(state_directory())
        asked.trust = asked.trust or authority.certificate_path
        if asked.server is not None:
            host, port = asked.server
        else:
            process = ServerProcess()
            command = [sys.executable, __file__, "--serve", "--devices", str(asked.devices)]
            reactor.spawnProcess(
                process, sys.executable, command, os.environ, childFDs={0: "w", 1: "r", 2: 2}
            )
            host, port = "localhost", await process.port
        # One goes ahead: what is made once is not to be counted among what each device costs.
        await Fleet(reactor, host, port, argparse.Namespace(**{**vars(asked), "devices": 1})).round(
            0
        )
        fleet = Fleet(reactor, host, port, asked)
        for number in range(1, asked.rounds + 1):
            await fleet.round(number)
        print(fleet.summary(asked))
        if asked.histogram:
            with open(asked.histogram, "w", encoding="utf-8") as file:
                file.write(histogram(fleet.round_trips, f"Round trips of {asked.devices} devices"))
    except Exception as error:
        raise SystemExit(f"devices: {error}") from None
    if fleet.failures:
        raise SystemExit(1)


if __name__ == "__main__":
    install()
    react(main, sys.argv[1:])
