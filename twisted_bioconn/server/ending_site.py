"""
Sites whose connections end soon when their port is closed.

A browser keeps a connection for the next request, which may never come: a server that drains would
wait for it in vain, and have to cut it.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from twisted.internet.interfaces import IAddress
from twisted.web.http import HTTPChannel
from twisted.web.server import Request, Site

from twisted_bioconn.server.access_line import access_line

__all__ = ["FIRST_REQUEST", "EndingSite"]

FIRST_REQUEST = 2.0
"""
Seconds that a connection on which nothing was asked for has to do so, once the port is closed. Its
client has most likely asked already, as clients do when the handshake ends; and where a connection
ends that has never answered, it need not ask again on another one, as it does where a kept one ends
(RFC 9112, section 9.3.1).
"""


class _Request(Request):
    """
    A request whose answer is the last one of its connection, if it begins after the port is closed.
    """

    def __init__(self, channel: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(channel, *arguments, **named)  # type: ignore[no-untyped-call]
        _connection_of(channel).has_asked = True

    def write(self, data: bytes) -> None:
        """
        @see: L{Request.write}
        """
        # By now it does not matter how much of the request had come when the port was closed.
        channel: Any = self.channel
        if not self.startedWriting and channel is not None and channel.site.ends:
            connection = _connection_of(channel)
            if isinstance(connection, HTTPChannel):
                connection.persistent = False
                self.responseHeaders.setRawHeaders("Connection", ["close"])
            else:
                channel.site.end_http2(connection)
        super().write(data)  # type: ignore[no-untyped-call]


class EndingSite(Site):
    """
    When its port is closed, connections that are kept for another request are closed too, and those
    on which something is asked for, with its answer: in HTTP/1.1 that says C{Connection: close}
    (RFC 9112, section 9.6), in HTTP/2 GOAWAY comes after it (RFC 9113, section 6.8).  So are those
    on which nothing was asked for yet, and those whose handshake is done later, if they ask within
    L{FIRST_REQUEST}.

    @ivar ends: whether its port is closed.
    """

    requestFactory = _Request

    def __init__(self, *arguments: Any, **named: Any) -> None:
        named = {"logFormatter": access_line, **named}
        super().__init__(*arguments, **named)  # type: ignore[no-untyped-call]
        self.ends = False
        self._channels: WeakSet[Any] = WeakSet()
        self._ending: WeakSet[Any] = WeakSet()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """
        @see: L{Site.buildProtocol}
        """
        channel = super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        self._channels.add(channel)
        if self.ends:
            self.reactor.callLater(FIRST_REQUEST, self._end_if_silent, channel)
        return channel

    def startFactory(self) -> None:
        """
        @see: L{Site.startFactory}
        """
        super().startFactory()
        self.ends = False

    def stopFactory(self) -> None:
        """
        @see: L{Site.stopFactory}
        """
        super().stopFactory()
        self.ends = True
        for each in list(self._channels):
            if not _is_open(each):
                continue
            if _has_asked(each):
                self._end(each)
            else:
                self.reactor.callLater(FIRST_REQUEST, self._end_if_silent, each)

    def end_http2(self, connection: Any) -> None:
        """
        Close a connection of HTTP/2, when all that is asked for on it is answered.
        """
        if connection not in self._ending:
            self._ending.add(connection)
            _end_http2(connection)

    def _end(self, channel: Any) -> None:
        connection = channel._channel
        if isinstance(connection, HTTPChannel):
            _end_http1(connection)
        else:
            self.end_http2(connection)

    def _end_if_silent(self, channel: Any) -> None:
        if _is_open(channel) and not _has_asked(channel):
            self._end(channel)


# Twisted has a channel for each version of HTTP behind the one that a site has made, and does not
# give it away.


def _is_open(channel: Any) -> bool:
    transport = channel._channel.transport
    if transport is None or getattr(transport, "disconnecting", False):
        return False
    return bool(getattr(transport, "connected", True))


def _has_asked(channel: Any) -> bool:
    """Whether a request has come, or a part of one."""
    connection = channel._channel
    return getattr(connection, "has_asked", False) or bool(getattr(connection, "_buffer", b""))


def _connection_of(channel: Any) -> Any:
    """What carries a request's channel: in HTTP/2 that is a stream."""
    return getattr(channel, "_conn", channel)


def _end_http1(channel: Any) -> None:
    if not channel.requests and not channel._buffer:
        channel.loseConnection()
    else:
        # Where its answer has yet to begin, that says so.
        channel.persistent = False


def _end_http2(channel: Any) -> None:
    waiting = list(channel._streamCleanupCallbacks.values())
    for each in waiting[-1:]:
        each.addCallback(lambda _: _end_http2(channel))
    if not waiting:
        channel.conn.close_connection()
        channel.transport.write(channel.conn.data_to_send())
        # It waits for a producer to have finished, which this one never says it has.
        channel.transport.unregisterProducer()
        channel.transport.loseConnection()
