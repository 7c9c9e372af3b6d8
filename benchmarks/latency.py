"""
How long answers take, at a pace that leaves the server time: alone, among idle connections, and
beside one that does not read.

A request is sent when it is due, whether the others have their answers or not.  One that is due on
a connection that still waits is counted from when it was due: a server that stalls is not spared
the requests which that kept back.
"""

from __future__ import annotations

import select
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from math import ceil
from threading import Thread
from typing import Any, cast

from .traffic import (
    ENDLESS_NAME,
    Address,
    answer_length,
    client_context,
    connect,
    negotiated,
    request,
)

ACTIVE = 200
"""Connections that ask."""
PACE = 4000
"""Requests a second, of all of them together."""
SIP = 16 * 1024
"""Bytes that a slow reader takes at a time."""
SIP_EVERY = 0.02
"""Seconds between two of its reads."""
_OPENERS = 8
"""Threads that open idle connections."""


def percentile(values: Sequence[float], share: float) -> float:
    """
    The smallest value that this share of all does not exceed: the nearest rank.

    @raise ValueError: there are no values.
    """
    if not values:
        raise ValueError("there are no values")
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


class _Asking:
    """A connection that asks, and what it waits for."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.connection = connection
        self.missing = 0
        self.due: deque[float] = deque()


class Group:
    """
    Connections that ask in turn.
    """

    def __init__(self, address: Address, context: ssl.SSLContext, count: int) -> None:
        self._question = request("small")
        self._length = 0
        self._all: list[_Asking] = []
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, _Asking] = {}
        for _ in range(count):
            connection = connect(address, context)
            self._length = answer_length(connection, self._question)
            connection.setblocking(False)
            asking = _Asking(connection)
            self._all.append(asking)
            self._by_descriptor[connection.fileno()] = asking
            self._epoll.register(connection, select.EPOLLIN)

    def latencies(
        self, seconds: float, meanwhile: Callable[[], None] | None = None, every: float = 1.0
    ) -> list[float]:
        """
        Ask for so long.

        @param meanwhile: called C{every} so many seconds.
        @return: for each answer the seconds that it took.
        """
        found: list[float] = []
        turn = 0
        due = time.perf_counter()
        end = due + seconds
        next_call = due
        buffer = bytearray(1 << 16)
        while True:
            now = time.perf_counter()
            if now >= end:
                break
            if meanwhile is not None and now >= next_call:
                meanwhile()
                next_call += every
            while due <= now:
                asking = self._all[turn % len(self._all)]
                turn += 1
                asking.due.append(due if asking.missing else now)
                if not asking.missing:
                    self._ask(asking)
                due += 1 / PACE
            for descriptor, _ in self._epoll.poll(max(0.0, due - time.perf_counter())):
                self._answer(self._by_descriptor[descriptor], buffer, found)
        self._drain(buffer)
        return found

    def _ask(self, asking: _Asking) -> None:
        asking.missing = self._length
        asking.connection.send(self._question)

    def _answer(self, asking: _Asking, buffer: bytearray, found: list[float]) -> None:
        try:
            taken = asking.connection.recv_into(buffer)
        except ssl.SSLWantReadError:
            return
        if not taken:
            raise ConnectionError("the server closed a connection that asks")
        asking.missing -= taken
        if asking.missing <= 0:
            found.append(time.perf_counter() - asking.due.popleft())
            if asking.due:
                self._ask(asking)

    def _drain(self, buffer: bytearray) -> None:
        """Wait for what is still under way, so that the next time begins with nothing."""
        limit = time.perf_counter() + 5.0
        for asking in self._all:
            while len(asking.due) > 1:
                asking.due.pop()
        while any(asking.missing for asking in self._all):
            if time.perf_counter() > limit:
                raise ConnectionError("an answer has not come for 5 s")
            for descriptor, _ in self._epoll.poll(0.1):
                self._answer(self._by_descriptor[descriptor], buffer, [])


def among_idle(task: dict[str, Any]) -> dict[str, Any]:
    """Latencies with no other connection, and among thousands that do nothing."""
    address = cast(Address, tuple(task["address"]))
    context = client_context(task["group"])
    choice = negotiated(address, context)
    group = Group(address, context, ACTIVE)
    group.latencies(task["warm_up"])
    alone = group.latencies(task["seconds"])
    idle = _open_idle(address, context, task["idle"])
    time.sleep(task["settle"])
    group.latencies(task["warm_up"])
    among = group.latencies(task["seconds"])
    found = {"alone": _summary(alone), "among": _summary(among), "idle": len(idle)}
    return {**found, "negotiated": choice}


def beside_slow_reader(task: dict[str, Any]) -> dict[str, Any]:
    """Latencies with no other connection, and beside one whose client reads slowly."""
    address = cast(Address, tuple(task["address"]))
    context = client_context(task["group"])
    choice = negotiated(address, context)
    group = Group(address, context, ACTIVE - 1)
    group.latencies(task["warm_up"])
    alone = group.latencies(task["seconds"])
    slow = connect(address, context)
    slow.sendall(request(ENDLESS_NAME))
    slow.setblocking(False)
    buffer = bytearray(SIP)
    sipped = 0

    def sip() -> None:
        nonlocal sipped
        try:
            sipped += slow.recv_into(buffer)
        except ssl.SSLWantReadError:
            return

    # Until everything between it and the back end is full.
    group.latencies(task["settle"], sip, SIP_EVERY)
    sipped = 0
    beside = group.latencies(task["seconds"], sip, SIP_EVERY)
    found = {"alone": _summary(alone), "beside": _summary(beside), "sipped": sipped}
    return {**found, "negotiated": choice}


def _summary(latencies: Sequence[float]) -> dict[str, float]:
    return {
        "p50": percentile(latencies, 0.5),
        "p99": percentile(latencies, 0.99),
        "count": len(latencies),
    }


def _open_idle(address: Address, context: ssl.SSLContext, count: int) -> list[int]:
    """
    Open connections of which only the socket is kept: TLS is of no more use to a client that says
    nothing.

    @return: their descriptors.
    """
    descriptors: list[int] = []
    failures: list[Exception] = []

    def run(share: int) -> None:
        try:
            for _ in range(share):
                descriptors.append(connect(address, context).detach())
        except Exception as failure:
            failures.append(failure)

    shares = [count // _OPENERS + (each < count % _OPENERS) for each in range(_OPENERS)]
    threads = [Thread(target=run, args=(share,), daemon=True) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return descriptors
