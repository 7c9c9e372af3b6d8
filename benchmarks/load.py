"""
The load generator, a process of its own: C{python -m benchmarks.load}, a task in JSON on stdin,
what it found in JSON on stdout.

It is told the process id of the server and reads the server's accounts itself, right before and
right after the time that counts.
"""

from __future__ import annotations

import gc
import json
import os
import ssl
import sys
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any, cast

from . import accounting, latency
from .traffic import (
    BIG_NAME,
    MEBIBYTE,
    SMALL,
    Address,
    answer_length,
    client_context,
    close,
    connect,
    negotiated,
    request,
    reset,
    take,
)

BULK = 4
"""Connections that carry bulk data at the same time."""
KEPT = 32
"""Connections that are kept and asked in turn."""
NEW = 8
"""Connections that are being made at the same time."""
ECHO_PIECE = 256 * 1024
"""Bytes that are out before an echo's client reads: less than what the kernel holds on the way."""
BALLAST = 100
"""Connections that are open before memory is first measured."""
WORKER_PROBE = 200
"""Connections that are shared among workers, and then resumed."""


class Loop:
    """
    One client of a closed loop: it does one unit of work after another.

    @ivar units: how many are done.
    @ivar resumed: how many of them resumed a session.
    """

    def __init__(self, address: Address, context: ssl.SSLContext) -> None:
        self.address = address
        self.context = context
        self.buffer = bytearray(1 << 16)
        self.units = 0
        self.resumed = 0
        self.prepare()

    def prepare(self) -> None:
        """Whatever comes before the first unit."""

    def unit(self) -> None:
        """Do one unit of work."""
        raise NotImplementedError

    def run(self, stop: Event) -> None:
        """Work until told to stop."""
        while not stop.is_set():
            self.unit()
            self.units += 1


class Download(Loop):
    """1 MiB from the back end, on a connection that is kept."""

    def prepare(self) -> None:
        self.connection = connect(self.address, self.context)
        self.question = request(BIG_NAME)
        self.length = answer_length(self.connection, self.question)

    def unit(self) -> None:
        self.connection.sendall(self.question)
        take(self.connection, self.length, self.buffer)


class Upload(Loop):
    """1 MiB to the back end, on a connection that is kept."""

    def prepare(self) -> None:
        self.connection = connect(self.address, self.context)
        self.body = bytes(MEBIBYTE)

    def unit(self) -> None:
        self.connection.sendall(self.body)
        take(self.connection, len(SMALL), self.buffer)


class Kept(Loop):
    """
    Requests on connections that are kept.

    All of them have a request under way; the oldest answer is read and the next request sent.  So
    no time goes into waiting for readiness, and two system calls are all that a request costs here.
    """

    def question_and_length(self, connection: ssl.SSLSocket) -> tuple[bytes, int]:
        """What to send, and the length of what comes back."""
        question = request("small")
        return question, answer_length(connection, question)

    def prepare(self) -> None:
        self.connections = [connect(self.address, self.context) for _ in range(KEPT)]
        for connection in self.connections:
            self.question, self.length = self.question_and_length(connection)
        for connection in self.connections:
            connection.sendall(self.question)

    def run(self, stop: Event) -> None:
        question, length, buffer = self.question, self.length, self.buffer
        while not stop.is_set():
            for connection in self.connections:
                take(connection, length, buffer)
                connection.sendall(question)
                self.units += 1


class Echo(Kept):
    """200 bytes there and back."""

    def question_and_length(self, connection: ssl.SSLSocket) -> tuple[bytes, int]:
        connection.sendall(SMALL)
        take(connection, len(SMALL), self.buffer)
        return SMALL, len(SMALL)


class BulkEcho(Loop):
    """1 MiB there and back, a piece at a time."""

    def prepare(self) -> None:
        self.connection = connect(self.address, self.context)
        self.piece = bytes(ECHO_PIECE)

    def unit(self) -> None:
        for _ in range(MEBIBYTE // ECHO_PIECE):
            self.connection.sendall(self.piece)
            take(self.connection, ECHO_PIECE, self.buffer)


class Connect(Loop):
    """
    A new connection, one request, one answer, and the close that the back end begins.
    """

    session: ssl.SSLSession | None = None

    def prepare(self) -> None:
        self.question = request("small", last=True)
        connection = connect(self.address, self.context)
        self.length = answer_length(connection, self.question)
        self.learn(connection)
        connection.close()

    def learn(self, connection: ssl.SSLSocket) -> None:
        """Look at the first connection."""

    def unit(self) -> None:
        connection = connect(self.address, self.context, self.session)
        connection.sendall(self.question)
        take(connection, self.length, self.buffer)
        self.resumed += bool(connection.session_reused)
        if connection.recv_into(self.buffer):
            raise ConnectionError("there is more than the answer")
        close(connection)


class Resume(Connect):
    """The same with the session of the first connection."""

    def learn(self, connection: ssl.SSLSocket) -> None:
        self.session = connection.session


LOOPS: dict[str, tuple[type[Loop], int]] = {
    "download": (Download, BULK),
    "upload": (Upload, BULK),
    "request": (Kept, 1),
    "echo": (Echo, 1),
    "echo-bulk": (BulkEcho, BULK),
    "connect": (Connect, NEW),
    "resume": (Resume, NEW),
}
"""Each kind of closed loop, and the number of threads that run it."""


def closed_loop(task: dict[str, Any]) -> dict[str, Any]:
    """
    Keep the server busy, and count what it does and what that costs it.
    """
    kind, threads = LOOPS[task["loop"]]
    address = cast(Address, tuple(task["address"]))
    context = client_context(task["group"])
    choice = negotiated(address, context)
    loops = [kind(address, context) for _ in range(threads)]
    stop = Event()
    failures: list[Exception] = []

    def run(loop: Loop) -> None:
        try:
            loop.run(stop)
        except Exception as failure:
            failures.append(failure)
            stop.set()

    for loop in loops:
        Thread(target=run, args=(loop,), daemon=True).start()
    stop.wait(task["warm_up"])
    before = _reading(task, loops)
    stop.wait(task["seconds"])
    after = _reading(task, loops)
    stop.set()
    if failures:
        raise failures[0]
    spent = {name: after[name] - before[name] for name in before}
    if not spent["units"]:
        raise RuntimeError("not one unit was done in the time that counts")
    return {
        "units": spent["units"],
        "wall": spent["wall"],
        "cpu": spent["cpu"],
        "load_cpu": spent["load_cpu"],
        "resumed": spent["resumed"],
        "foreign": max(0.0, spent["core"] - spent["cpu"]),
        "negotiated": choice,
    }


def _reading(task: dict[str, Any], loops: list[Loop]) -> dict[str, float]:
    return {
        "cpu": accounting.cpu_seconds(task["pid"]),
        "core": accounting.core_seconds(task["core"]),
        "wall": time.perf_counter(),
        "load_cpu": time.process_time(),
        "units": sum(loop.units for loop in loops),
        "resumed": sum(loop.resumed for loop in loops),
    }


def memory(task: dict[str, Any]) -> dict[str, Any]:
    """
    Memory of a server by idle connection: after the handshake, after 1 MiB each way, and after a
    while of nothing.
    """
    address = cast(Address, tuple(task["address"]))
    context = client_context(task["group"])
    choice = negotiated(address, context)
    exchanges: bool = task["exchanges"]
    # What the first connection brings about once for all.
    for _ in range(2):
        first = connect(address, context)
        if exchanges:
            _exchange(first)
        reset(first)
    # What those have left behind goes to these, which are not counted.
    ballast = [connect(address, context) for _ in range(BALLAST)]
    count: int = task["connections"]

    def settled() -> float:
        time.sleep(task["settle"])
        return accounting.memory(task["pid"])

    floor = settled()
    connections = [connect(address, context) for _ in range(count)]
    found: dict[str, Any] = {"fresh": (settled() - floor) / count, "negotiated": choice}
    if exchanges:
        for connection in connections:
            _exchange(connection)
        found["exchanged"] = (settled() - floor) / count
        if task["soak"]:
            time.sleep(task["soak"])
            found["soaked"] = (accounting.memory(task["pid"]) - floor) / count
    for connection in ballast:
        reset(connection)
    return found


def _exchange(connection: ssl.SSLSocket) -> None:
    """1 MiB to the back end and 1 MiB from it."""
    connection.sendall(request("sink", body=MEBIBYTE))
    connection.sendall(bytes(MEBIBYTE))
    head = b""
    while b"\r\n\r\n" not in head or len(head) < head.index(b"\r\n\r\n") + 4 + len(SMALL):
        more = connection.recv(1 << 16)
        if not more:
            raise ConnectionError("the connection ended in an upload")
        head += more
    answer_length(connection, request(BIG_NAME))


def workers(task: dict[str, Any]) -> dict[str, Any]:
    """
    How workers share connections, and whether a session resumes wherever it comes to.
    """
    address = cast(Address, tuple(task["address"]))
    context = client_context(task["group"])
    first = connect(address, context)
    answer_length(first, request("small"))
    session = first.session
    reset(first)
    time.sleep(0.5)
    before = accounting.sockets(task["pid"])
    kept = []
    for _ in range(WORKER_PROBE):
        connection = connect(address, context, session)
        answer_length(connection, request("small"))
        kept.append(connection)
    after = accounting.sockets(task["pid"])
    grown = {pid: after[pid] - before.get(pid, 0) for pid in after}
    total = sum(count for count in grown.values() if count > 0)
    shares = sorted((count / total for count in grown.values() if count > 0), reverse=True)
    return {
        "shares": shares,
        "resumed": sum(bool(connection.session_reused) for connection in kept) / len(kept),
    }


TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "loop": closed_loop,
    "memory": memory,
    "idle": latency.among_idle,
    "slow": latency.beside_slow_reader,
    "workers": workers,
}


def main() -> None:
    """Do the task on stdin."""
    task = json.load(sys.stdin)
    # A collection among ten thousand connections would be taken for the server's latency.
    gc.disable()
    try:
        found = TASKS[task["task"]](task)
    except (OSError, RuntimeError, accounting.Gone) as error:
        # ssl's errors are OSErrors.
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    # Threads may still wait for a server that is about to be killed.
    os._exit(0)


if __name__ == "__main__":
    main()
