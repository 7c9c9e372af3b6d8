"""
TCP in memory, for tests: Twisted's own transport on a socket that is two byte queues.

The transport is L{twisted.internet.tcp.Connection} itself, so that its buffers, its producers, its
half-close and the way it ends are the real ones.  The socket behaves as the kernel's does where it
matters: it takes only so much, it tells of an end, and one that is closed with bytes unread, or
sent to after it was closed, resets the other, which loses what it had not read.
"""

from __future__ import annotations

import itertools
import socket
from errno import ECONNRESET, EWOULDBLOCK
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IProtocol, IReactorFDSet
from twisted.internet.posixbase import _DisconnectSelectableMixin
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from zope.interface import implementer

from twisted_bioconn import _openssl, _tcp

_log = Logger()


class MemorySocket:
    """
    One end of a stream in memory, with the calls that Twisted makes of a socket.

    @ivar other: the other end.
    @ivar capacity: bytes that may lie here unread before the other end has to wait.
    @ivar arrived: bytes that came and were not read yet.
    @ivar reset: whether the other end dropped the connection.
    @ivar was_sent: all bytes that were ever sent from here.
    """

    _numbers = itertools.count(1)

    def __init__(self, capacity: int) -> None:
        self.other = self
        self.capacity = capacity
        self.arrived = bytearray()
        self.ended = False
        self.reset = False
        self.closed = False
        self.was_sent = bytearray()
        self._lingers = True
        self._number = next(self._numbers)

    @classmethod
    def pair(cls, capacity: int = 1 << 18) -> tuple[MemorySocket, MemorySocket]:
        """Two ends of one stream."""
        one, two = cls(capacity), cls(capacity)
        one.other, two.other = two, one
        return one, two

    @property
    def readable(self) -> bool:
        """Whether L{recv} would not block."""
        return bool(self.arrived) or self.ended or self.reset

    @property
    def writable(self) -> bool:
        """Whether L{send} would not block."""
        other = self.other
        return self.reset or other.closed or len(other.arrived) < other.capacity

    def setblocking(self, blocking: bool) -> None:
        """It never blocks."""

    def fileno(self) -> int:
        return -1 if self.closed else self._number

    def send(self, data: memoryview) -> int:
        if self.reset:
            raise ConnectionResetError(ECONNRESET, "reset")
        other = self.other
        if other.closed:
            # The first bytes that meet a closed end are taken, and answered by a reset.
            self._reset()
            return len(data)
        room = other.capacity - len(other.arrived)
        if room <= 0:
            raise BlockingIOError(EWOULDBLOCK, "full")
        other.arrived += data[:room]
        self.was_sent += data[:room]
        return min(room, len(data))

    def recv(self, size: int) -> bytes:
        if self.reset:
            raise ConnectionResetError(ECONNRESET, "reset")
        if not self.arrived:
            if self.ended:
                return b""
            raise BlockingIOError(EWOULDBLOCK, "empty")
        data = bytes(self.arrived[:size])
        del self.arrived[:size]
        return data

    def recv_into(self, buffer: memoryview) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def shutdown(self, how: int) -> None:
        self.other.ended = True

    def setsockopt(self, level: int, option: int, value: object) -> None:
        if option == socket.SO_LINGER:
            self._lingers = False

    def getsockopt(self, level: int, option: int) -> int:
        return 0

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            if self.arrived or not self._lingers:
                self.other._reset()
            else:
                self.other.ended = True

    def _reset(self) -> None:
        self.reset = True
        self.arrived.clear()


class MemoryConnection(Connection):
    """A TCP transport on a L{MemorySocket}, of a server as far as C{startTLS} asks."""

    _tlsClientDefault = False

    def __init__(self, end: MemorySocket, protocol: IProtocol, reactor: Turns) -> None:
        super().__init__(end, protocol, reactor)  # type: ignore[arg-type]
        self.end = end
        self.connected = 1

    def begin(self) -> None:
        """Connect the protocol, as a port or a connector does once it has the transport."""
        self.startReading()
        self.protocol.makeConnection(self)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 443)

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 50000)


class StreamConnection(_tcp.Connection, MemoryConnection):
    """A transport of our own reactor's kind: it receives into the reactor's inbox, and sends."""

    # Ours is closed by the reactor's deadlines, which this one does not have.
    loseConnection = MemoryConnection.loseConnection


class RestlessConnection(MemoryConnection):
    """A transport that does not know how to pause, as several of those in memory do not."""

    def pauseProducing(self) -> None:
        """Go on all the same."""


class PlainConnection(MemoryConnection):
    """A transport that can close but not abort, as standard input and output."""

    @property
    def abortConnection(self) -> Any:
        raise AttributeError("abortConnection")


@implementer(IReactorFDSet)
class Turns(_DisconnectSelectableMixin, Clock):
    """A reactor for L{MemoryConnection}s: it turns, and time passes, when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox = _openssl.Inbox()
        self._readers: dict[Any, None] = {}
        self._writers: dict[Any, None] = {}

    def addReader(self, reader: Any) -> None:
        self._readers[reader] = None

    def removeReader(self, reader: Any) -> None:
        self._readers.pop(reader, None)

    def addWriter(self, writer: Any) -> None:
        self._writers[writer] = None

    def removeWriter(self, writer: Any) -> None:
        self._writers.pop(writer, None)

    def removeAll(self) -> list[Any]:
        raise NotImplementedError

    def getReaders(self) -> list[Any]:
        return list(self._readers)

    def getWriters(self) -> list[Any]:
        return list(self._writers)

    def turn(self) -> bool:
        """
        Call what is due, then let every transport write and read once.

        @return: whether there was anything to do.
        """
        busy = any(call.getTime() <= self.seconds() for call in self.getDelayedCalls())
        self.advance(0)
        for transports, possible, do in (
            (self._writers, "writable", "doWrite"),
            (self._readers, "readable", "doRead"),
        ):
            for transport in list(transports):
                if transport in transports and getattr(transport.end, possible):
                    busy = True
                    self._do(transport, do)
        return busy

    def _do(self, transport: Any, what: str) -> None:
        try:
            why = getattr(transport, what)()
        except Exception as error:
            _log.failure("Unhandled error in a transport")
            why = error
        if why:
            self._disconnectSelectable(transport, why, what == "doRead")

    def settle(self) -> None:
        """Turn until nothing is left to do at this moment."""
        for _ in range(20_000):
            if not self.turn():
                return
        raise AssertionError("this never comes to rest")
