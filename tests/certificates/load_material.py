"""What loads a server in the tests of certificates: applications that pump, visits, and figures."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.tls_material import FOR_SERVERS, Party, authority, certificate
from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.context import ClientOptions, SessionStore
from twisted_bioconn.endpoints import ClientEndpoint
from twisted_bioconn.negotiated import Negotiated

__all__ = [
    "SLOW",
    "Echo",
    "EchoFactory",
    "LoadCase",
    "Pump",
    "issued_for",
    "percentile",
    "quiet",
    "resident",
    "settled_objects",
    "write_names",
]

reactor: Any = installed

SLOW = bool(os.environ.get("BIOCONN_SLOW"))
"""Whether there is time for the full figures."""

BLOCK = 16 * 1024
"""Bytes that a L{Pump} has under way at a time."""

PACE = 0.05
"""Seconds between two blocks, so that there is time left for handshakes."""

FAREWELL = b"x"
"""What a L{Visit} has echoed: with the answer, the session is there."""


def issued_for(name: str) -> CertifiedKey:
    """A new certificate for a name, with a key of its own, by the usual authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName(name)]
    made = certificate(name, authority(), key=key, names=names, usage=FOR_SERVERS)
    return CertifiedKey(Party(made, key).chain, key)


def name_of(number: int) -> str:
    """The name of this number."""
    return f"n{number:05}.example.org"


def write_names(directory: str, count: int) -> None:
    """Write a C{NAME.pem} for so many names, with keys of their own."""
    for number in range(count):
        name = name_of(number)
        with open(os.path.join(directory, f"{name}.pem"), "wb") as file:
            file.write(issued_for(name).to_pem())


def resident() -> int:
    """Bytes of memory that this process has, when what can be given back was."""
    gc.collect()
    with suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def quiet(case: SynchronousTestCase) -> None:
    """
    Log failures alone in this test, and what it says itself: where trial runs several processes,
    each keeps what it has logged until the first one has it, and no object must become more here.
    """
    emit = Logger.emit

    def only_failures(log: Logger, level: Any, *arguments: Any, **fields: Any) -> None:
        if level >= LogLevel.critical or log.namespace.startswith("tests."):
            emit(log, level, *arguments, **fields)

    case.patch(Logger, "emit", only_failures)


def settled_objects() -> Counter[str]:
    """How many objects there are of each type, when what is garbage has been collected."""
    for _ in range(3):
        gc.collect()
    return Counter(type(each).__qualname__ for each in gc.get_objects())


def percentile(times: list[float], part: float) -> float:
    """The time within which this part of all has come."""
    return sorted(times)[math.ceil(len(times) * part) - 1]


class Echo(Protocol):
    """Sends back what comes, and closes when the other end does."""

    transport: Any

    def connectionMade(self) -> None:
        # Else Nagle's algorithm has the first answer wait for what acknowledges the tickets.
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class EchoFactory(Factory[Any]):
    """
    A server of L{Echo}es.

    @ivar built: how many there have been.
    """

    noisy = False
    protocol = Echo

    def __init__(self) -> None:
        self.built = 0

    def buildProtocol(self, addr: Any) -> Any:
        self.built += 1
        return super().buildProtocol(addr)


class Pump(Protocol):
    """
    Sends block after block, each when the one before has come back.

    @ivar sent: the SHA-256 of all that was sent.
    @ivar got: that of all that has come back.
    @ivar count: bytes that have come back.
    @ivar lost: why the connection ended.
    """

    transport: Any

    def __init__(self) -> None:
        self.sent = hashlib.sha256()
        self.got = hashlib.sha256()
        self.count = 0
        self.lost: Failure | None = None
        self._missing = 0
        self._next: Any = None
        self._finished: Deferred[None] | None = None

    def connectionMade(self) -> None:
        self._send()

    def dataReceived(self, data: bytes) -> None:
        self.got.update(data)
        self.count += len(data)
        self._missing -= len(data)
        if self._missing:
            return
        if self._finished is None:
            self._next = reactor.callLater(PACE, self._send)
        else:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        if self._next is not None and self._next.active():
            self._next.cancel()
        if self._finished is not None:
            self._finished.callback(None)

    def finish(self) -> Deferred[None]:
        """Send no more.  Fires when the rest has come back and the connection is closed."""
        finished: Deferred[None] = Deferred()
        if self.lost is not None:
            finished.callback(None)
            return finished
        self._finished = finished
        if self._next is not None and self._next.active():
            self._next.cancel()
            self.transport.loseConnection()
        return finished

    def _send(self) -> None:
        self._next = None
        # Other bytes each time, so that none can be taken for another's.
        block = os.urandom(BLOCK)
        self._missing += len(block)
        self.sent.update(block)
        self.transport.write(block)


class Visit(Protocol):
    """
    A connection for as long as it takes to hear from the other end, and so to get its tickets.

    @ivar ended: fires when it is closed.
    @ivar facts: what was agreed on, once there was an answer.
    @ivar lost: why it was closed.
    """

    transport: Any

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self.lost: Failure | None = None
        self.facts: Negotiated | None = None

    def connectionMade(self) -> None:
        self.transport.write(FAREWELL)

    def dataReceived(self, data: bytes) -> None:
        self.facts = self.transport.negotiated
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self.ended.callback(None)


class LoadCase(TestCase):
    """
    A test with many connections to a port of its own.

    @ivar port: the port's number.
    """

    # How long what it has to do takes is the machine's affair: this is for what would never end.
    timeout = 600
    port = 0

    def listening(self, port: IListeningPort) -> None:
        """Have this port until the end of the test."""
        self.addCleanup(port.stopListening)
        address: Any = port.getHost()
        self.port = address.port

    def endpoint(self, name: str, **options: Any) -> ClientEndpoint:
        """A client's endpoint, for a name at the port."""
        options.setdefault("trust_roots", (authority().certificate,))
        options.setdefault("sessions", SessionStore())
        below = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        return ClientEndpoint(below, ClientOptions(name, **options), reactor)

    async def pumps(self, count: int, name: str, **options: Any) -> list[Pump]:
        """So many connections that pump."""
        made = []
        for _ in range(count):
            pump = await self.endpoint(name, **options).connect(Factory.forProtocol(Pump))
            assert isinstance(pump, Pump)
            self.addCleanup(pump.transport.abortConnection)
            made.append(pump)
        return made

    async def visit(self, endpoint: ClientEndpoint) -> Negotiated:
        """
        Connect, have something echoed, and close.

        @return: what was agreed on.
        """
        visit = await endpoint.connect(Factory.forProtocol(Visit))
        assert isinstance(visit, Visit)
        await visit.ended
        if visit.facts is None:
            assert visit.lost is not None
            visit.lost.raiseException()
        assert visit.facts is not None, "it has ended without an answer"
        return visit.facts

    async def finished(self, pumps: list[Pump]) -> int:
        """
        See the connections to their end, and that no byte was lost.

        @return: how many bytes have gone to and fro.
        """
        for pump in pumps:
            self.assertIsNone(pump.lost, "a connection has not lasted")
        for done in [pump.finish() for pump in pumps]:
            await done
        for pump in pumps:
            self.assertGreater(pump.count, 0)
            self.assertEqual(pump.got.hexdigest(), pump.sent.hexdigest())
        return sum(pump.count for pump in pumps)

    async def until(self, condition: Any, what: str, seconds: float = 300.0) -> None:
        """
        Wait until something is so.

        @param what: what is waited for, for the one who reads of it in vain.
        """
        end = reactor.seconds() + seconds
        while not condition():
            if reactor.seconds() >= end:
                raise AssertionError(f"within {seconds:g} seconds, it is not so that {what}")
            await deferLater(reactor, 0.02)


def live_contexts() -> Iterator[SSL.Context]:
    """All contexts of OpenSSL that there are."""
    return (each for each in gc.get_objects() if isinstance(each, SSL.Context))
