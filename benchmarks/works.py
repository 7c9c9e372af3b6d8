"""
What is measured: each kind of work, for whom, and what is made of what the load generator found.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

from attrs import define, frozen

from .engines import ENGINES, WRITES
from .latency import ACTIVE
from .material import Material
from .peers import (
    BARE,
    HERE,
    OURS,
    Peer,
    Role,
    Site,
    common_values,
    peer_named,
    relayed_connections,
)
from .processes import KEEP_MEMORY, Failed, Program, environment, find, free_port, python_module
from .results import BARE_END, ONE_WORKER, TWO_WORKERS, Results
from .traffic import BIG_NAME, ENDLESS_NAME, ENDLESS_SIZE, MEBIBYTE, SMALL

_PATIENCE = 30.0
"""Seconds that a measurement may take beyond those that it is meant to take."""


@frozen
class Settings:
    """
    How long and how much.

    @ivar seconds: that count, of a measurement.
    @ivar connections: for memory.
    @ivar idle: connections that say nothing.
    @ivar soak: seconds for which idle connections are watched for growth, in the first round; 0
        for not at all.
    @ivar group: the only group that the load generator offers; L{None} for OpenSSL's own list.
    """

    seconds: float = 2.0
    connections: int = 1000
    idle: int = 10_000
    soak: float = 0.0
    group: str | None = None

    @property
    def warm_up(self) -> float:
        """Seconds before those that count."""
        return max(0.3, self.seconds / 4)


@define
class Bench:
    """
    A run: what is up all the time, and what is known so far.

    @ivar plain: the port of the back end's nginx.
    @ivar tls: its port for TLS.
    @ivar sink: the port of the back end of uploads.
    @ivar first_round: whether this is the first one.
    """

    site: Site
    load_core: int
    settings: Settings
    results: Results
    plain: int = 0
    tls: int = 0
    sink: int = 0
    first_round: bool = True

    def start_backend(self) -> list[Program]:
        """
        Start what all peers forward to.

        @raise Failed: it does not listen.
        """
        if find("nginx") is None:
            raise Failed("nginx is not installed, and it is the back end of all peers")
        directory = self.site.directory
        files = directory / "files"
        files.mkdir()
        (files / BIG_NAME).write_bytes(os.urandom(MEBIBYTE))
        with open(files / ENDLESS_NAME, "wb") as endless:
            # It has holes and takes no space.
            endless.truncate(ENDLESS_SIZE)
        self.plain, self.tls, self.sink = free_port(), free_port(), free_port()
        values = common_values(directory, self.site.material)
        values.update(
            plain=str(self.plain), tls=str(self.tls), files=str(files), small=SMALL.decode("ascii")
        )
        template = Template((HERE / "backend" / "nginx.conf").read_text("utf-8"))
        configuration = directory / "backend.conf"
        configuration.write_text(template.substitute(values), "utf-8")
        commands = {
            "backend nginx": [
                *("nginx", "-e", str(directory / "backend-nginx.log")),
                *("-p", str(directory), "-c", str(configuration)),
            ],
            "backend sink": [sys.executable, str(HERE / "backend" / "sink.py"), str(self.sink)],
        }
        started: list[Program] = []
        try:
            for name, command in commands.items():
                started.append(Program(name, command, directory, self.load_core))
            started[0].wait_until_listening(self.plain, self.tls)
            started[1].wait_until_listening(self.sink)
        except BaseException:
            for program in started:
                program.stop()
            raise
        return started

    def load(self, column: str, pid: int, port: int, limit: float, **task: Any) -> dict[str, Any]:
        """
        Have the load generator do a task.

        @param limit: seconds that the task is meant to take.
        @raise Failed: it did not get done.
        """
        task.update(pid=pid, address=["127.0.0.1", port], group=self.settings.group)
        directory, core = self.site.directory, self.load_core
        with Program("load", python_module("load"), directory, core, talks=True) as program:
            found: dict[str, Any] = program.answer(task, limit + _PATIENCE)
        choice = found.pop("negotiated", None)
        if choice is not None:
            self.results.negotiated[column] = ", ".join(choice.values())
        return found

    def loop(self, row: str, column: str, pid: int, port: int, loop: str) -> dict[str, Any]:
        """
        Have a closed loop run, and take what it cost.

        @raise Failed: it did not run.
        """
        settings = self.settings
        found = self.load(
            column,
            pid,
            port,
            settings.warm_up + settings.seconds,
            task="loop",
            loop=loop,
            core=self.site.core,
            warm_up=settings.warm_up,
            seconds=settings.seconds,
        )
        if loop == "resume" and found["resumed"] < 0.99 * found["units"]:
            share = found["resumed"] / found["units"]
            raise Failed(f"it does not resume (it did in {share:.0%} of the connections)")
        units, wall = found["units"], found["wall"]
        self.results.foreign.append(found["foreign"] / wall)
        self.results.add(
            row, column, found["cpu"] / units, units / wall, min(1.0, found["cpu"] / wall)
        )
        return found


Measure = Callable[[Bench, str], None]


@frozen
class Work:
    """
    A kind of work.

    @ivar letter: by which it is asked for.
    @ivar title: for the list.
    @ivar rows: what it brings figures for.
    @ivar role: what peers must be able to do; L{None} where columns are not peers.
    @ivar measure: does it once for a column, and gives what it finds to the bench's results.
    @ivar columns: what there is beside the peers, or in their place.
    """

    letter: str
    title: str
    rows: tuple[str, ...]
    role: Role | None
    measure: Measure
    columns: tuple[str, ...] = ()

    def columns_for(self, peers: list[Peer]) -> list[str]:
        """Those whom it is measured for, out of the peers asked for."""
        able = [peer.name for peer in peers if self.role in peer.commands]
        return [*able, *self.columns]


def _relayed(loop: str, to_sink: bool = False) -> Measure:
    def measure(bench: Bench, column: str) -> None:
        backend = bench.sink if to_sink else bench.plain
        program, port = bench.site.start(peer_named(column), Role.RELAY, backend)
        with program:
            bench.loop(loop, column, program.pid, port, loop)

    return measure


def _echo(bench: Bench, column: str) -> None:
    program, port = bench.site.start(peer_named(column), Role.ECHO, 0)
    with program:
        for loop in ("echo", "echo-bulk"):
            bench.loop(loop, column, program.pid, port, loop)


def _tls(bench: Bench, column: str) -> None:
    for loop in ("download", "request", "connect"):
        program, port = bench.site.start(peer_named(column), Role.TLS, bench.tls)
        with program:
            bench.loop(f"tls-{loop}", column, program.pid, port, loop)


def _memory(bench: Bench, column: str) -> None:
    settings = bench.settings
    bare = column == BARE_END
    peer, role = (BARE, Role.BARE) if bare else (peer_named(column), Role.RELAY)
    soak = settings.soak if bench.first_round and column == OURS else 0.0
    program, port = bench.site.start(peer, role, bench.plain, for_memory=True)
    with program:
        found = bench.load(
            column,
            program.pid,
            port,
            # A slow one takes 3 ms for a handshake and 10 ms for 1 MiB each way.
            settings.connections * 0.02 + soak,
            task="memory",
            connections=settings.connections,
            exchanges=not bare,
            settle=1.5,
            soak=soak,
        )
    for row in ("fresh", "exchanged", "soaked"):
        if row in found:
            bench.results.add(row, column, found[row])


def idle_connections(wanted: int, descriptors: int) -> int:
    """
    The number of idle connections that a process can relay beside those that ask.

    @param descriptors: how many it may have.
    """
    return max(0, min(wanted, relayed_connections(descriptors) - ACTIVE - 2))


def _idle(bench: Bench, column: str) -> None:
    settings = bench.settings
    idle = idle_connections(settings.idle, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    program, port = bench.site.start(peer_named(column), Role.RELAY, bench.plain)
    with program:
        found = bench.load(
            column,
            program.pid,
            port,
            idle * 0.005 + 6 * settings.seconds,
            task="idle",
            warm_up=settings.warm_up,
            seconds=2 * settings.seconds,
            settle=1.0,
            idle=idle,
        )
    _add_latencies(bench.results, "idle", column, found, "among", idle=found["idle"])


def _slow(bench: Bench, column: str) -> None:
    settings = bench.settings
    program, port = bench.site.start(peer_named(column), Role.RELAY, bench.plain)
    with program:
        found = bench.load(
            column,
            program.pid,
            port,
            6 * settings.seconds,
            task="slow",
            warm_up=settings.warm_up,
            seconds=2 * settings.seconds,
            settle=settings.warm_up,
        )
    if not found["sipped"]:
        raise Failed("the slow reader got nothing")
    _add_latencies(bench.results, "slow", column, found, "beside")


def _add_latencies(
    results: Results, row: str, column: str, found: dict[str, Any], name: str, **more: float
) -> None:
    others = {
        f"{when} {which}": found[when][which]
        for when in ("alone", name)
        for which in ("p50", "p99")
    }
    results.add(row, column, found[name]["p99"], **others, **more)


def _workers(bench: Bench, column: str) -> None:
    ours = peer_named(OURS)
    reason = workers_missing(bench.site.directory)
    if reason is not None:
        raise Failed(reason)
    words = ("--workers", "2" if column == TWO_WORKERS else "1")
    more: dict[str, float] = {}
    if column == TWO_WORKERS:
        program, port = bench.site.start(ours, Role.RELAY, bench.plain, words)
        with program:
            found = bench.load(column, program.pid, port, 10.0, task="workers")
        shares: list[float] = found["shares"]
        # That of the second one; there may be none that got any.
        more = {"share": shares[1] if len(shares) > 1 else 0.0, "resumed": found["resumed"]}
    for loop in ("request", "connect"):
        program, port = bench.site.start(ours, Role.RELAY, bench.plain, words)
        with program:
            bench.loop(f"workers-{loop}", column, program.pid, port, loop)
    figures = bench.results.figures["workers-request"][column]
    for name, value in more.items():
        figures.others.setdefault(name, []).append(value)


def workers_missing(directory: Path) -> str | None:
    """Why our own workers cannot be measured; L{None} if they can."""
    try:
        said = subprocess.run(
            [sys.executable, "-m", "twisted_bioconn", "--help"],
            cwd=directory,
            env=environment(directory),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired:
        return "twistd bioconn --help has no answer after 30 s"
    return None if "--workers" in said else "not available: twistd bioconn has no --workers"


def _engine(bench: Bench, column: str) -> None:
    material: Material = bench.site.material
    task = {
        "engine": column,
        "seconds": bench.settings.seconds / 2,
        "certificate": str(material.certificate),
        "key": str(material.key),
        "authority": str(material.authority),
    }
    directory, core = bench.site.directory, bench.site.core
    command = python_module("engines")
    with Program("engine", command, directory, core, KEEP_MEMORY, talks=True) as program:
        found = program.answer(task, 4 * bench.settings.seconds + _PATIENCE)
    for row, cost in found.items():
        bench.results.add(row, column, cost)


WORKS: dict[str, Work] = {
    work.letter: work
    for work in (
        Work("a", "1 MiB download", ("download",), Role.RELAY, _relayed("download")),
        Work("b", "1 MiB upload", ("upload",), Role.RELAY, _relayed("upload", to_sink=True)),
        Work("c", "200 B request, kept", ("request",), Role.RELAY, _relayed("request")),
        Work("d", "new connection, full handshake", ("connect",), Role.RELAY, _relayed("connect")),
        Work("e", "new connection, resumed", ("resume",), Role.RELAY, _relayed("resume")),
        Work("f", "echo in one process", ("echo", "echo-bulk"), Role.ECHO, _echo),
        Work(
            "g",
            "TLS in, TLS out",
            ("tls-download", "tls-request", "tls-connect"),
            Role.TLS,
            _tls,
        ),
        Work(
            "h",
            "memory by idle connection",
            ("fresh", "exchanged", "soaked"),
            Role.RELAY,
            _memory,
            (BARE_END,),
        ),
        Work("i", f"latency of {ACTIVE} among idle connections", ("idle",), Role.RELAY, _idle),
        Work("j", f"latency of {ACTIVE - 1} beside a slow reader", ("slow",), Role.RELAY, _slow),
        Work(
            "k",
            "two workers against one",
            ("workers-request", "workers-connect"),
            None,
            _workers,
            (ONE_WORKER, TWO_WORKERS),
        ),
        Work(
            "l",
            "the connector alone, in memory",
            ("messages", *WRITES),
            None,
            _engine,
            tuple(ENGINES),
        ),
    )
}
"""By letter."""
