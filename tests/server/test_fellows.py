"""Tests for L{twisted_bioconn.server.fellows}; what it is for is in C{test_observed_front}."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from twisted_bioconn.server.fellows import Fellows
from twisted_bioconn.server.status_ports import PROCESS_HEADER


class _Process(Resource):
    """What another process answers."""

    isLeaf = True

    def __init__(self, pid: int, answer: Callable[[Request], Any]) -> None:
        super().__init__()
        self._pid = pid
        self._answer = answer

    def render(self, request: Request) -> Any:
        request.setHeader(PROCESS_HEADER, str(self._pid))
        said = self._answer(request)
        return said if said is NOT_DONE_YET else json.dumps(said).encode()


class FellowsTests(TestCase):
    """What others tell is added to one's own."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.prefix = os.path.join(directory.name, "s.")
        self.fellows = Fellows(reactor, self.prefix)

    def process(self, pid: int, answer: Callable[[Request], Any]) -> None:
        site = Site(_Process(pid, answer))
        port = cast(Any, reactor).listenUNIX(f"{self.prefix}{pid}", site)
        self.addCleanup(port.stopListening)

    def connections(self, pid: int, many: int) -> Callable[[int, int], dict[str, Any]]:
        def told(offset: int, limit: int) -> dict[str, Any]:
            numbers = range(many)[offset : offset + limit]
            return {
                "pid": pid,
                "total": many,
                "offset": offset,
                "limit": limit,
                "connections": [{"process": pid, "number": each} for each in numbers],
            }

        return told

    @inlineCallbacks
    def test_pages(self) -> Any:
        """All connections are told of, each once, in pages of whatever length."""

        def asked(of: Callable[[int, int], Any]) -> Callable[[Request], Any]:
            def answer(request: Request) -> Any:
                arguments: Any = request.args
                return of(*(int(arguments.get(key, [b"0"])[0]) for key in (b"offset", b"limit")))

            return answer

        for pid, many in ((1, 3), (2, 0), (3, 6)):
            self.process(pid, asked(self.connections(pid, many)))
        own = self.connections(9, 4)
        wanted = [(9, each) for each in range(4)]
        wanted += [(1, each) for each in range(3)] + [(3, each) for each in range(6)]
        for length in (1, 2, 5, 13, 100):
            found = []
            for offset in range(0, len(wanted) + length, length):
                told = yield self.fellows.connections(own, offset, length)
                self.assertEqual(told["total"], 13)
                self.assertLessEqual(len(told["connections"]), length)
                found += [(each["process"], each["number"]) for each in told["connections"]]
            self.assertEqual(found, wanted)

    @inlineCallbacks
    def test_failures(self) -> Any:
        """The newest first, whoever had them."""
        self.process(1, lambda request: {"failures": [{"when": "5"}, {"when": "2"}]})
        told = yield self.fellows.failures({"failures": [{"when": "4"}, {"when": "1"}]}, 3)
        self.assertEqual([each["when"] for each in told["failures"]], ["5", "4", "2"])

    @inlineCallbacks
    def test_memory(self) -> Any:
        """Of each on its own: what a sum is made of would not be seen any more."""
        for pid in (1, 2):
            self.process(pid, lambda request, pid=pid: {"processes": [{"pid": pid}]})  # type: ignore[misc]
        told = yield self.fellows.memory({"processes": [{"pid": 3}]})
        self.assertEqual([each["pid"] for each in told["processes"]], [3, 1, 2])

    @inlineCallbacks
    def test_absent(self) -> Any:
        """One that says nothing, one that has gone, and what is none of ours: the rest is told."""
        self.process(1, lambda request: NOT_DONE_YET)
        self.process(2, lambda request: {"failures": [{"when": "7"}]})
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(f"{self.prefix}3")
        with open(f"{self.prefix}4", "w"):
            pass
        os.symlink(f"{self.prefix}2", f"{self.prefix}5")
        os.mkdir(f"{self.prefix}x")
        told = yield self.fellows.failures({"failures": []}, 10)
        self.assertEqual(told, {"failures": [{"when": "7"}]})

    @inlineCallbacks
    def test_strangers(self) -> Any:
        """A socket that somebody else has put there is not asked."""
        self.process(1, lambda request: {"failures": [{"when": "7"}]})
        nobody = os.geteuid() + 1
        self.patch(os, "geteuid", lambda: nobody)
        told = yield self.fellows.failures({"failures": []}, 10)
        self.assertEqual(told, {"failures": []})

    @inlineCallbacks
    def test_nowhere(self) -> Any:
        for prefix in ("", os.path.join(self.prefix, "none", "s.")):
            told = yield Fellows(reactor, prefix).failures({"failures": []}, 10)
            self.assertEqual(told, {"failures": []})
