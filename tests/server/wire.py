"""A connection in memory that has TCP's buffers, pauses, half-closes and resets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProducer,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

#: What a transport holds unsent before it pauses its producer, in bytes.
HIGH_WATER = 10


@implementer(ITransport, IConsumer, IPushProducer)
class Wire:
    """
    Our end of a connection, and what the test does at the other end of it.

    @ivar unsent: written by the protocol and not yet taken by the other end.
    @ivar taken: what the other end has read.
    @ivar waiting: what the other end sent while we were paused.
    @ivar ended: the other end has been told that no more comes.
    @ivar reason: why the connection was lost; L{None} while it lasts.
    @ivar most: the most that C{unsent} ever held, in bytes.
    """

    def __init__(self, clock: Clock, protocol: IProtocol, half_closes: bool = True) -> None:
        self._clock = clock
        self._protocol = protocol
        self._producer: IPushProducer | None = None
        self._producer_paused = False
        self._writing = True
        self._closing = False
        self._aborting = False
        self._end_sent = False
        self.half_closes = half_closes
        self.unsent = bytearray()
        self.taken = bytearray()
        self.waiting: list[bytes] = []
        self.paused = False
        self.ended = False
        self.reason: Exception | None = None
        self.most = 0
        self.no_delay = False
        protocol.makeConnection(self)

    # The protocol's side.

    def write(self, data: bytes) -> None:
        if self.reason is not None or self._closing or not self._writing:
            return
        self.unsent += data
        self.most = max(self.most, len(self.unsent))
        if self._producer is not None and len(self.unsent) > HIGH_WATER:
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self._closing = True
        self._settle()

    def loseWriteConnection(self) -> None:
        self._writing = False
        self._settle()

    def abortConnection(self) -> None:
        if self.reason is None and not self._aborting:
            self._aborting = True
            self._clock.callLater(0, self._lost, ConnectionAborted())

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        assert streaming
        assert self._producer is None
        self._producer = cast(IPushProducer, producer)

    def unregisterProducer(self) -> None:
        self._producer = None
        self._settle()

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        while self.waiting and not self.paused and self._open():
            self._protocol.dataReceived(self.waiting.pop(0))
        # As a socket does: each time that it is read at its end, it says so.
        if self._end_sent and not self.paused and not self.waiting and self._open():
            self._tell_end()

    def stopProducing(self) -> None:
        self.loseConnection()

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.7", 4567)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 443)

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    # The other end's side.

    def sends(self, data: bytes) -> None:
        """The other end sends something."""
        if not self._open():
            return
        if self.paused:
            self.waiting.append(data)
        else:
            self._protocol.dataReceived(data)

    def ends(self) -> None:
        """The other end has no more to send."""
        if not self._open():
            return
        self._end_sent = True
        if not self.paused:
            self._tell_end()

    def reads(self, size: int = 1 << 30) -> None:
        """The other end reads up to so many bytes."""
        if self.reason is not None:
            return
        self.taken += self.unsent[:size]
        del self.unsent[:size]
        if not self.unsent and self._producer is not None and self._producer_paused:
            self._producer_paused = False
            self._producer.resumeProducing()
        self._settle()

    def breaks(self, reason: Exception | None = None) -> None:
        """The connection is reset, or lost for some other reason."""
        self._lost(reason or ConnectionLost())

    @property
    def aborted(self) -> bool:
        """Has our end reset the connection?"""
        return self._aborting

    @property
    def closed(self) -> bool:
        """Has our end closed the connection cleanly, all bytes sent?"""
        return isinstance(self.reason, ConnectionDone) and not self._aborting

    def _open(self) -> bool:
        return self.reason is None and not self._aborting and not self._closing

    def _tell_end(self) -> None:
        if self.half_closes and IHalfCloseableProtocol.providedBy(self._protocol):
            self._protocol.readConnectionLost()
        else:
            self._lost(ConnectionDone())

    def _settle(self) -> None:
        """Whatever waits for the last byte to be sent."""
        if self.unsent or self._producer is not None or self.reason is not None:
            return
        if not self._writing:
            self.ended = True
        if self._closing and not self._aborting:
            self.ended = True
            self._lost(ConnectionDone())

    def _lost(self, reason: Exception) -> None:
        if self.reason is not None:
            return
        self.reason = reason
        if self._producer is not None:
            self._producer.stopProducing()
            self._producer = None
        self._protocol.connectionLost(Failure(reason))


class FlushingWire(Wire):
    """A transport that gathers what is written until it is flushed, as our TLS does."""

    def __init__(self, clock: Clock, protocol: IProtocol, half_closes: bool = True) -> None:
        self.gathered: list[bytes] = []
        super().__init__(clock, protocol, half_closes)

    def write(self, data: bytes) -> None:
        self.gathered.append(data)

    def flush(self) -> None:
        gathered, self.gathered = self.gathered, []
        super().write(b"".join(gathered))


@implementer(IStreamClientEndpoint)
class BackEnd:
    """
    An endpoint whose connections are made when the test says so.

    @ivar attempts: the factories of the connections asked for, each with its Deferred.
    @ivar cancelled: how many attempts were cancelled.
    """

    def __init__(self, clock: Clock, wire: Callable[[Clock, IProtocol], Wire] = Wire) -> None:
        self._clock = clock
        self._wire = wire
        self.attempts: list[tuple[IProtocolFactory, Deferred[IProtocol]]] = []
        self.cancelled = 0

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        deferred: Deferred[IProtocol] = Deferred(self._cancel)
        self.attempts.append((factory, deferred))
        return deferred

    def accepts(self) -> Wire:
        """The oldest attempt succeeds."""
        factory, deferred = self.attempts.pop(0)
        protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 80))
        assert protocol is not None
        wire = self._wire(self._clock, protocol)
        deferred.callback(protocol)
        return wire

    def refuses(self, reason: Exception) -> None:
        """The oldest attempt fails."""
        self.attempts.pop(0)[1].errback(Failure(reason))

    def _cancel(self, deferred: Deferred[IProtocol]) -> None:
        self.cancelled += 1


@implementer(IStreamClientEndpoint)
class Immediate:
    """An endpoint that answers inside C{connect}."""

    def __init__(self, clock: Clock, outcome: Exception | None = None) -> None:
        self._clock = clock
        self._outcome = outcome
        self.wires: list[Wire] = []

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        if self._outcome is not None:
            return fail(self._outcome)
        protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 80))
        assert protocol is not None
        self.wires.append(Wire(self._clock, protocol))
        return succeed(protocol)
