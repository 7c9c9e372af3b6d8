"""Much data, both ways at once."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tests.peers.processes import reactor
from twisted_bioconn.negotiated import Negotiated

SIZE = 64 * 1024 * 1024
"""Bytes each way."""

OURS, THEIRS = 1, 2
"""The seeds of what ours sends, and of what the peer sends."""

SECONDS = 400.0
"""In which a connection has to end: what takes longer never does."""

_PIECE = 256 * 1024


def bulk(seed: int, size: int = SIZE) -> tuple[bytes, str]:
    """
    Bytes that nothing compresses and no two places of which are alike.

    @param seed: other bytes for each.
    @return: them, and their SHA-256 in hexadecimal.
    """
    return _bulk(seed, size)


@cache
def _bulk(seed: int, size: int) -> tuple[bytes, str]:
    data = random.Random(seed).randbytes(size)
    return data, hashlib.sha256(data).hexdigest()


def bulk_file(directory: Path, seed: int, size: int = SIZE) -> tuple[Path, str]:
    """
    The same in a file.

    @return: its name, and their SHA-256 in hexadecimal.
    """
    data, digest = bulk(seed, size)
    path = directory / f"bulk-{seed}"
    path.write_bytes(data)
    return path, digest


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@implementer(IPushProducer)
class Sender:
    """Sends bytes as fast as they are taken."""

    def __init__(self, consumer: Any, data: bytes, done: Callable[[], object]) -> None:
        """
        @param consumer: where to.
        @param done: called when it has taken all.
        """
        self._consumer = consumer
        self._unsent = memoryview(data)
        self._done = done
        self._paused = False

    def start(self) -> None:
        """Begin."""
        self._consumer.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        while self._unsent and not self._paused:
            piece, self._unsent = self._unsent[:_PIECE], self._unsent[_PIECE:]
            self._consumer.write(bytes(piece))
        if not self._paused:
            self._paused = True
            self._consumer.unregisterProducer()
            self._done()

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._paused = True


class Bulk(Resource):
    """Gives out the bytes of ours, and answers bytes of the peer's with their SHA-256."""

    isLeaf = True

    def render_GET(self, request: Request) -> int:
        data, _ = bulk(OURS)
        request.setHeader(b"content-length", b"%d" % len(data))
        Sender(request, data, request.finish).start()
        return NOT_DONE_YET

    def render_PUT(self, request: Request) -> bytes:
        content: Any = request.content
        return hashlib.file_digest(content, "sha256").hexdigest().encode()


class Exchange(Protocol):
    """
    Sends and receives bytes at once, and closes when both are done.

    @ivar facts: what was negotiated; none without TLS.
    @ivar received: the number of bytes that came.
    @ivar sha256: of those.
    """

    facts: Negotiated | None = None

    def __init__(self, data: bytes, expected: int = SIZE) -> None:
        """
        @param data: what to send.
        @param expected: the number of bytes to wait for.
        """
        self._data = data
        self._expected = expected
        self._sending = True
        self.received = 0
        self.sha256 = hashlib.sha256()
        self._gone: Deferred[BaseException] = Deferred()

    async def gone(self) -> BaseException:
        """
        Wait for the end of the connection.

        @return: its reason.
        """
        return await self._gone.addTimeout(SECONDS, reactor)

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.facts = getattr(self.transport, "negotiated", None)
        Sender(self.transport, self._data, self._all_sent).start()

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)
        self.sha256.update(data)
        self._look()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert reason.value is not None
        self._gone.callback(reason.value)

    def _all_sent(self) -> None:
        self._sending = False
        self._look()

    def _look(self) -> None:
        if not self._sending and self.received >= self._expected:
            assert self.transport is not None
            self.transport.loseConnection()
