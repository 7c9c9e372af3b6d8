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
from twisted.web.server import Site

__all__ = ["EndingSite"]


class EndingSite(Site):
    """
    When its port is closed, connections on which nothing is asked for are closed too, and those on
    which something is, with its answer: in HTTP/1.1 that says C{Connection: close} (RFC 9112,
    section 9.6), in HTTP/2 GOAWAY comes after it (RFC 9113, section 6.8).
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)  # type: ignore[no-untyped-call]
        self._channels: WeakSet[Any] = WeakSet()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """
        @see: L{Site.buildProtocol}
        """
        channel = super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        self._channels.add(channel)
        return channel

    def stopFactory(self) -> None:
        """
        @see: L{Site.stopFactory}
        """
        super().stopFactory()
        for each in list(self._channels):
            # Twisted has one for each version of HTTP behind it, and does not give it away.
            channel = each._channel
            if channel.transport is None or getattr(channel.transport, "disconnecting", False):
                continue
            if isinstance(channel, HTTPChannel):
                _end_http1(channel)
            else:
                _end_http2(channel)


def _end_http1(channel: Any) -> None:
    requests = channel.requests
    if not requests:
        channel.loseConnection()
    elif channel._handlingRequest:
        channel.persistent = False
        if not requests[0].startedWriting:
            requests[0].responseHeaders.setRawHeaders("Connection", ["close"])
    else:
        # It is still being read, and what it says itself is yet to be looked at.
        requests[0].requestHeaders.setRawHeaders("Connection", ["close"])


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
