"""
What is between a connection to a back end and the wire: words that are said before all others, and
a note of the first that is heard.

An endpoint's connection begins inside of it, TLS included.  What has to come before that is said
by an endpoint below, L{Beneath}, to which it is given right before each C{connect}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_bioconn._transport import Stream, sender
from twisted_bioconn.errors import UsageError

__all__ = ["Beneath", "Heard"]

#: How much of what is heard first is noted, in bytes.
_NOTED = 64


class Heard:
    """
    What came on one connection.

    @ivar protocol: the one whose connection it is; L{None} before it has begun.
    @ivar first: the first bytes that came, 64 at most.
    """

    __slots__ = ("first", "protocol")

    def __init__(self) -> None:
        self.protocol: Any = None
        self.first = b""

    @property
    def received(self) -> int:
        """How many bytes came, as far as that is known."""
        count: int = getattr(self.protocol, "traffic", (len(self.first), 0))[0]
        return count


@implementer(IStreamClientEndpoint)
class Beneath:
    """
    Another endpoint, on whose connections something is said first.
    """

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        """
        @param endpoint: what connects.
        """
        self._endpoint = endpoint
        self._next: tuple[bytes, Heard] | None = None

    def expect(self, words: bytes) -> Heard:
        """
        The next call of C{connect}, which has to follow at once, is for a connection that begins
        with these words.

        @return: what is heard on it.
        """
        heard = Heard()
        self._next = (words, heard)
        return heard

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        @see: L{IStreamClientEndpoint.connect}
        """
        following, self._next = self._next, None
        if following is None:
            return fail(UsageError("it is not known what to say first on this connection"))
        connecting: Deferred[IProtocol] = self._endpoint.connect(
            _Factory(protocolFactory, *following)
        )
        return connecting


@implementer(IProtocolFactory)
class _Factory:
    """Makes the one connection that was expected."""

    def __init__(self, wrapped: IProtocolFactory, words: bytes, heard: Heard) -> None:
        self._wrapped = wrapped
        self._words = words
        self._heard = heard

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        """
        @see: L{IProtocolFactory.buildProtocol}
        """
        protocol = self._wrapped.buildProtocol(addr)
        if protocol is None:
            return None
        return _Connection(protocol, self._words, self._heard)

    def doStart(self) -> None:
        """
        @see: L{IProtocolFactory.doStart}
        """
        self._wrapped.doStart()

    def doStop(self) -> None:
        """
        @see: L{IProtocolFactory.doStop}
        """
        self._wrapped.doStop()


@implementer(IProtocol, IHalfCloseableProtocol)
class _Connection:
    """
    Says the words, and is then in nobody's way: transports that have a way of their own to give
    what they receive take that.
    """

    def __init__(self, following: IProtocol, words: bytes, heard: Heard) -> None:
        self._following = following
        self._words = words
        self._heard = heard

    def makeConnection(self, transport: ITransport) -> None:
        """
        @see: L{IProtocol.makeConnection}
        """
        self.transport = transport
        self._heard.protocol = self._following
        if self._words:
            sender(transport)(self._words)
        self._following.makeConnection(transport)
        if isinstance(transport, Stream) and transport.receiver is not None:
            transport.receiver = self._noting(transport, transport.receiver)

    def _noting(
        self, transport: Any, receiver: Callable[[Any, int], object]
    ) -> Callable[[Any, int], object]:
        def first(data: Any, count: int) -> None:
            transport.receiver = receiver
            self._heard.first = bytes(transport.reactor.inbox.view[: min(count, _NOTED)])
            receiver(data, count)

        return first

    def connectionMade(self) -> None:
        """
        @see: L{IProtocol.connectionMade}
        """

    def dataReceived(self, data: bytes) -> None:
        """
        @see: L{IProtocol.dataReceived}
        """
        if not self._heard.first:
            self._heard.first = bytes(data[:_NOTED])
            if isinstance(self.transport, Connection):
                # From here on with no detour.
                self.transport.protocol = self._following
        self._following.dataReceived(data)

    def readConnectionLost(self) -> None:
        """
        @see: L{IHalfCloseableProtocol.readConnectionLost}
        """
        if IHalfCloseableProtocol.providedBy(self._following):
            self._following.readConnectionLost()
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """
        @see: L{IHalfCloseableProtocol.writeConnectionLost}
        """
        if IHalfCloseableProtocol.providedBy(self._following):
            self._following.writeConnectionLost()

    def connectionLost(self, reason: Failure) -> None:
        """
        @see: L{IProtocol.connectionLost}
        """
        self._following.connectionLost(reason)
