"""
The other processes of a server, as the one hears of them that tells the status of all.

Each of them has a UNIX socket beside the place of that one, where it tells of itself alone.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks

from twisted_bioconn.server.asking import Answer, ask
from twisted_bioconn.server.sums import (
    Families,
    Tally,
    add_families,
    add_histories,
    add_status,
    counts_of_families,
    counts_of_status,
    exposed,
    families_of,
)

__all__ = ["Fellows"]

PATIENCE = 2.0
"""Seconds that another process has to answer: it may be busy, and whoever asks is waiting."""

T = TypeVar("T")


class Fellows:
    """
    Asks the other processes, and adds what they tell to what is told of this one.
    """

    def __init__(self, reactor: Any, prefix: str) -> None:
        """
        @param prefix: what the paths of their sockets have before a number; nothing where they have
            none.
        """
        self._reactor = reactor
        self._prefix = prefix
        self._status = Tally(add_status, counts_of_status)
        self._families = Tally(add_families, counts_of_families)

    def _sockets(self) -> list[str]:
        directory, name = os.path.split(self._prefix)
        if not self._prefix:
            return []
        found = []
        with suppress(OSError), os.scandir(directory or ".") as entries:
            for each in entries:
                number = each.name.removeprefix(name)
                if each.name.startswith(name) and number.isascii() and number.isdecimal():
                    facts = each.stat(follow_symlinks=False)
                    # The place may be in /tmp, where anybody can have such a name.
                    if stat.S_ISSOCK(facts.st_mode) and facts.st_uid == os.geteuid():
                        found.append(os.path.join(directory, each.name))
        return sorted(found)

    def status(self, own: dict[str, Any]) -> Deferred[dict[str, Any]]:
        """The status of all."""
        return self._told("/status", json.loads).addCallback(
            lambda told: self._status.together(own, told)
        )

    def metrics(self, own: bytes) -> Deferred[bytes]:
        """
        The metrics of all, as Prometheus's text.

        @param own: those of this process, as text too.
        """

        def add(told: dict[int, Families]) -> bytes:
            return exposed(self._families.together(families_of(own.decode()), told))

        return self._told("/metrics", lambda body: families_of(body.decode())).addCallback(add)

    def history(self, own: dict[str, Any]) -> Deferred[dict[str, Any]]:
        """The samples of all."""

        def add(told: dict[int, Any]) -> dict[str, Any]:
            others = [each["samples"] for each in told.values()]
            return {"samples": add_histories(own["samples"], others)}

        return self._told("/history", json.loads).addCallback(add)

    def failures(self, own: dict[str, Any], most: int) -> Deferred[dict[str, Any]]:
        """
        The handshakes that have failed last in all.

        @param most: how many to tell of.
        """

        def add(told: dict[int, Any]) -> dict[str, Any]:
            found = own["failures"] + [each for one in told.values() for each in one["failures"]]
            found.sort(key=lambda each: each["when"], reverse=True)
            return {"failures": found[:most]}

        return self._told("/failures", json.loads).addCallback(add)

    def memory(self, own: dict[str, Any]) -> Deferred[dict[str, Any]]:
        """What each uses memory for."""

        def add(told: dict[int, Any]) -> dict[str, Any]:
            others = [each for one in told.values() for each in one["processes"]]
            return {"processes": own["processes"] + others}

        return self._told("/memory", json.loads).addCallback(add)

    def trace(self, name: str) -> Deferred[bytes | None]:
        """
        The trace of a handshake that has failed in another process.

        @param name: what stands for it.
        @return: as text; L{None} where no process has it.
        """
        asked = [(each, f"/trace?of={name}") for each in self._sockets()]
        return self._answers(asked).addCallback(
            lambda answers: next((each.body for each in answers if each is not None), None)
        )

    @inlineCallbacks
    def connections(
        self, own: Callable[[int, int], dict[str, Any]], offset: int, limit: int
    ) -> Generator[Deferred[Any], Any, dict[str, Any]]:
        """
        Some of the connections of all, process by process.

        @param own: tells those of this process, of so many from so many on.
        """
        told = own(offset, limit)
        found, total = list(told["connections"]), told["total"]
        sockets = self._sockets()
        # How many each has comes first: which of them are asked for depends on it.
        path = "/connections?limit=0"
        counts = yield self._answers([(each, path) for each in sockets])
        asked = []
        for socket, answer in zip(sockets, counts, strict=True):
            if answer is None:
                continue
            begin, many = max(0, offset - total), json.loads(answer.body)["total"]
            left = limit - len(found)
            if left > 0 and begin < many:
                asked.append((socket, f"/connections?offset={begin}&limit={left}"))
            total += many
        for answer in (yield self._answers(asked)):
            if answer is not None:
                found += json.loads(answer.body)["connections"]
        return {**told, "total": total, "connections": found[:limit]}

    def close(self, process: int, number: int) -> Deferred[bool]:
        """
        Have another process drop a connection.

        @return: whether it had it.
        """
        path = f"/control/close/{process}.{number}"
        asked = [(each, path) for each in self._sockets()]
        return self._answers(asked, b"POST").addCallback(lambda answers: any(answers))

    def _told(self, path: str, read: Callable[[bytes], T]) -> Deferred[dict[int, T]]:
        """What they tell, by the numbers of their processes."""

        def collect(answers: Iterable[Answer | None]) -> dict[int, T]:
            return {
                int(each.process): read(each.body)
                for each in answers
                if each is not None and each.process.isdecimal()
            }

        return self._answers([(each, path) for each in self._sockets()]).addCallback(collect)

    def _answers(
        self, asked: Iterable[tuple[str, str]], method: bytes = b"GET"
    ) -> Deferred[list[Answer | None]]:
        """
        What each says; L{None} for one that says no, or nothing in time: it is about to end, or too
        busy, and is asked again the next time.

        @param asked: sockets, and what is asked for there.
        """

        def collect(outcomes: Iterable[tuple[bool, Any]]) -> list[Answer | None]:
            return [
                answer if succeeded and answer.code == 200 else None
                for succeeded, answer in outcomes
            ]

        asking = [
            ask(self._reactor, socket, path, method).addTimeout(PATIENCE, self._reactor)
            for socket, path in asked
        ]
        return DeferredList(asking, consumeErrors=True).addCallback(collect)
