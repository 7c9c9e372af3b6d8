"""
Bytes from one connection to another and back, for C{--listen ... --forward ...}.

A connection that comes in is an L{Incoming}; it asks the back end's endpoint for a second one, an
L{Outgoing}, and from then on each of the two is the other's peer and the other's push producer:

    - what one receives, it writes to the other's transport;
    - while a transport has too much to write, it pauses the side that the bytes come from, so no
      more is held than the transports' own buffers take;
    - the end of one side's data is a half-close of the other, after all bytes; when both have
      ended, both are closed;
    - a side that is reset resets the other, and one that is closed closes it.

Whether a side is plain or TLS is not known here.  Which of several back ends it is to be is the
concern of L{twisted_bioconn.server.backends}; to one alone there is no detour.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

from OpenSSL.SSL import Error as TLSError
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionClosed, ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_bioconn._engine import Buffer
from twisted_bioconn._transport import Stream, address_text, sender, unsent
from twisted_bioconn.protocol import TLSConnectorProtocol
from twisted_bioconn.server.backend import is_ours, was_cancelled
from twisted_bioconn.server.backends import BackEnd, BackEnds
from twisted_bioconn.server.holdings import HOLDINGS
from twisted_bioconn.server.keepalive import keep_outgoing_alive
from twisted_bioconn.server.proxy_out import header_for

#: How long a back end may take to answer, in seconds, all its addresses and its TLS included.
CONNECT_TIMEOUT = 10.0

#: How much a plain socket reads at once, in bytes, and how much it holds unsent before it pauses
#: the other side. Twisted's 64 KiB costs a fifth more for bulk, and small messages gain nothing.
BUFFER_SIZE = 256 * 1024

#: A back end that resets a connection within so many seconds, without a word before it, has failed
#: as one has that refuses it.
SETTLING = 1.0


class StreamTransport(Protocol):
    """What a relay calls on a transport: Twisted's C{ITransport}, C{IConsumer}, producer."""

    def write(self, data: bytes) -> None: ...
    def loseConnection(self) -> None: ...
    def getPeer(self) -> IAddress: ...
    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...


def _discard(data: Buffer) -> None:
    """What comes in when there is nobody left to give it to."""


def _abort(transport: StreamTransport) -> None:
    """Reset the connection; a transport that has no reset (stdio) is closed."""
    getattr(transport, "abortConnection", transport.loseConnection)()


def _was_reset(transport: StreamTransport) -> bool:
    """
    Is what looks like an end in good order a reset?

    The kernel tells of a reset once.  Where it was told to a send that was to be at once, reading
    finds no more than an end; but the socket has no peer any more.
    """
    # TLS has an end of its own; and where both sides have ended, there is no peer either.
    if not isinstance(transport, Connection) or transport._writeDisconnected:
        return False
    try:
        transport.socket.getpeername()
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def _flush_of(transport: StreamTransport) -> Callable[[], None] | None:
    """
    How to send now what was written, on transports that gather writes until the clock turns.
    """
    return cast("Callable[[], None] | None", getattr(transport, "flush", None))


def sending(transport: StreamTransport) -> Callable[[Buffer], None]:
    """How to send at once, as far as a transport can."""
    if isinstance(transport, TLSConnectorProtocol):
        return transport.send
    flush = _flush_of(transport)
    if flush is None:
        return sender(transport)

    def send(data: Buffer) -> None:
        transport.write(bytes(data))
        flush()

    return send


def _is_tls_server(transport: ITransport) -> bool:
    """Whether this is TLS of ours that a client has come to, which waits with nothing it has."""
    return isinstance(transport, TLSConnectorProtocol) and not getattr(
        transport.factory, "_isClient", False
    )


def held_unsent(transport: StreamTransport) -> int:
    """How many bytes are held until a transport can send them."""
    if not isinstance(transport, TLSConnectorProtocol):
        return unsent(transport)
    connector, held = transport._link.connector, unsent(transport.transport)
    if connector is None:
        return held
    return held + connector.pending_plaintext + connector.pending_ciphertext


def _half_closes(transport: StreamTransport) -> bool:
    """
    Can we end our direction of this connection alone?

    Twisted's own TLS passes C{loseWriteConnection} on to TCP below it, which cuts the TLS
    connection off with bytes still unsent. Ours (it has C{flush}) sends close_notify.
    """
    if not hasattr(transport, "loseWriteConnection"):
        return False
    return _flush_of(transport) is not None or not ISSLTransport.providedBy(transport)


@implementer(IProtocol, IHalfCloseableProtocol, IPushProducer)
class _Side:
    """
    One of the two connections.

    @ivar transport: this side's connection.
    @ivar peer: the other side; L{None} before there is one and after either was lost.
    @ivar dataReceived: what sends to the other side, with nothing in between.
    """

    # There are two of these for each connection relayed: no dictionary, and no closures.
    __slots__ = ("_ended", "_paused", "dataReceived", "peer", "transport")

    transport: StreamTransport
    peer: _Side | None
    dataReceived: Callable[[Buffer], None]
    _paused: bool
    _ended: bool

    def __init__(self) -> None:
        self.peer = None
        self.dataReceived = _discard
        self._paused = False
        self._ended = False

    def makeConnection(self, transport: ITransport) -> None:
        """
        @see: L{IProtocol.makeConnection}
        """
        self.transport = cast(StreamTransport, transport)
        if isinstance(transport, FileDescriptor):
            transport.bufferSize = BUFFER_SIZE
        no_delay = getattr(transport, "setTcpNoDelay", None)
        if no_delay is not None and not _is_tls_server(transport):
            no_delay(True)
        self.connectionMade()

    def connectionMade(self) -> None:
        """
        @see: L{IProtocol.connectionMade}
        """

    def pauseProducing(self) -> None:
        """The peer's transport has enough to write: read no more from ours."""
        self._paused = True
        self.transport.pauseProducing()
        if self.peer is not None:
            HOLDINGS.waits(self, held_unsent(self.peer.transport), self._drop_peer)

    def resumeProducing(self) -> None:
        """The peer's transport takes bytes again."""
        self._paused = False
        HOLDINGS.goes_on(self)
        # A socket that has said it is at its end would say it a second time.
        if not self._ended:
            self.transport.resumeProducing()

    def _drop_peer(self) -> str:
        """Reset both: the other one does not read."""
        peer = self.peer
        assert peer is not None
        name = address_text(peer.transport.getPeer())
        _abort(peer.transport)
        return name

    def stopProducing(self) -> None:
        """The peer's transport is lost: its C{connectionLost} follows, and knows how."""

    def readConnectionLost(self) -> None:
        """The other end of this connection has sent its last byte."""
        if self._ended:
            return
        if _was_reset(self.transport):
            # Its connectionLost follows.
            _abort(self.transport)
            return
        self._ended = True
        if self.peer is not None:
            self.peer._end_output()

    def writeConnectionLost(self) -> None:
        """
        @see: L{IHalfCloseableProtocol.writeConnectionLost}
        """

    def connectionLost(self, reason: Failure) -> None:
        """
        @see: L{IProtocol.connectionLost}
        """
        peer = self.peer
        if peer is None:
            return
        self._part()
        if self._ended and peer._ended:
            # Both were told to close when the second one ended, and the other is still writing
            # what it has.
            return
        # A peer that is still paused means that bytes were waiting here which nobody got.
        if isinstance(reason.value, ConnectionDone) and not peer._paused:
            peer._close()
        else:
            _abort(peer.transport)

    def _end_output(self) -> None:
        """The peer has ended: nothing more will be written to this side."""
        peer = self.peer
        assert peer is not None
        if not self._ended and _half_closes(self.transport):
            # With a producer registered, Twisted's transports wait for more.
            self.transport.unregisterProducer()
            cast("_HalfCloseable", self.transport).loseWriteConnection()
            return
        self._close()
        peer._close()

    def _close(self) -> None:
        """Close this side once everything that was written to it is out."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _join(self, peer: _Side) -> None:
        """From now on what comes from one goes to the other."""
        self.peer, peer.peer = peer, self
        self._send_to(peer.transport)
        peer._send_to(self.transport)
        self.transport.registerProducer(peer, True)
        peer.transport.registerProducer(self, True)

    def _send_to(self, transport: StreamTransport | None) -> None:
        """Send what comes in to the other side's transport; L{None} to discard it."""
        receiver = None
        if transport is None:
            self.dataReceived = _discard
        else:
            self.dataReceived = sending(transport)
            if isinstance(transport, TLSConnectorProtocol):
                receiver = transport.sendReceived
            elif isinstance(transport, Stream):
                receiver = transport.send_received
        if isinstance(self.transport, Stream):
            self.transport.receiver = receiver
        elif not isinstance(self.transport, TLSConnectorProtocol):
            pass
        elif isinstance(transport, TLSConnectorProtocol):
            self.transport.forwardTo(receiver)
        else:
            self.transport.takesBuffers = True

    def _part(self) -> None:
        """Forget each other; what still comes in on either side is for nobody."""
        assert self.peer is not None
        for side in (self, self.peer):
            HOLDINGS.goes_on(side)
            side.peer = None
            side._send_to(None)


class _HalfCloseable(Protocol):
    def loseWriteConnection(self) -> None: ...


class Incoming(_Side):
    """
    The side that was accepted. It is paused until the back end is there; the little that its
    transport had in hand already is held.
    """

    __slots__ = ("_attempt", "_factory", "_held", "_timer")

    _log = Logger()

    def __init__(self, factory: RelayFactory) -> None:
        super().__init__()
        self._factory = factory
        self._attempt: Deferred[IProtocol] | None = None
        self._timer: IDelayedCall | None = None
        self._held: list[bytes] = []

    def connectionMade(self) -> None:
        """Read nothing, and ask for the back end."""
        factory = self._factory
        self._paused = True
        self.dataReceived = self._hold
        only, at_once = factory.only, factory.connect_at_once
        if (
            only is not None
            and at_once is not None
            and at_once(_OutgoingFactory(self, only)) is not None
        ):
            return
        header, send_proxy = b"", factory.back_ends.send_proxy
        if send_proxy is not None:
            try:
                header = header_for(self.transport, send_proxy)
            except ValueError as error:
                # The back end would take this client for somebody else.
                self._give_up(str(error))
                return
        attempt = self._connect(header)
        if not attempt.called:
            self.transport.pauseProducing()
        self._attempt = attempt
        attempt.addCallbacks(self._answered, self._refused)

    def _connect(self, header: bytes) -> Deferred[IProtocol]:
        factory = self._factory
        seconds, only = factory.connect_timeout, factory.only
        if only is None:
            return factory.back_ends.connect(partial(_OutgoingFactory, self), header, seconds)
        attempt: Deferred[IProtocol] = maybeDeferred(
            only.connect, _OutgoingFactory(self, only), header
        )
        if not attempt.called and seconds is not None:
            self._timer = factory.clock.callLater(seconds, self._timed_out)
        return attempt

    def _hold(self, data: Buffer) -> None:
        self._held.append(bytes(data))

    @property
    def now(self) -> float:
        """The time, in seconds."""
        return self._factory.clock.seconds()

    def reached(self, outgoing: Outgoing) -> bool:
        """
        The back end is connected.

        @return: whether it is still wanted.
        """
        if self.dataReceived is _discard:
            return False
        self._stop_timer()
        held, self._held = self._held, []
        self._paused = False
        self._join(outgoing)
        if held:
            outgoing.transport.write(b"".join(held))
        if self._ended:
            outgoing._end_output()
        elif not self._paused:
            self.transport.resumeProducing()
        return True

    def connectionLost(self, reason: Failure) -> None:
        """The client is gone; if the back end is not there yet, it is not needed any more."""
        super().connectionLost(reason)
        self.dataReceived = _discard
        self._held = []
        self._stop_timer()
        if self._attempt is not None:
            self._attempt.cancel()

    def back_end_failed(self, reason: str, back_end: BackEnd | None = None) -> None:
        """Say why a back end cannot be used; L{None} for all of them."""
        self._log.warn(
            "{client} cannot be forwarded to {back_end}: {reason}",
            client=address_text(self.transport.getPeer()),
            back_end=self._factory.description if back_end is None else back_end.description,
            reason=reason,
        )

    def _answered(self, outgoing: IProtocol) -> None:
        self._attempt = None

    def _refused(self, failure: Failure) -> None:
        factory = self._factory
        self._attempt = None
        timed_out = factory.connect_timeout is not None and self._timer is None
        self._stop_timer()
        if self.dataReceived is _discard:
            # The client was lost first, and asked for this.
            return
        only = factory.only
        if only is None:
            reason = failure.getErrorMessage()
        else:
            reason = only.explain(failure)
            if timed_out and was_cancelled(failure):
                reason = f"no connection within {factory.connect_timeout:g} seconds"
            only.failed(reason, is_ours=is_ours(failure))
        self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        self.back_end_failed(reason)
        self.dataReceived = _discard
        self.transport.loseConnection()

    def _timed_out(self) -> None:
        self._timer = None
        if self._attempt is not None:
            self._attempt.cancel()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Outgoing(_Side):
    """The side that we opened, to the back end."""

    __slots__ = ("_back_end", "_incoming")

    def __init__(self, incoming: Incoming, back_end: BackEnd) -> None:
        super().__init__()
        self._incoming: Incoming | None = incoming
        self._back_end = back_end

    def connectionMade(self) -> None:
        """Begin, unless the client went away meanwhile."""
        assert self._incoming is not None
        self._back_end.opened()
        keep_outgoing_alive(self.transport)
        if not self._incoming.reached(self):
            _abort(self.transport)

    def connectionLost(self, reason: Failure) -> None:
        """
        The back end is gone. If TLS with it failed, say so: its client sees a reset and no more.
        """
        incoming, self._incoming = self._incoming, None
        back_end = self._back_end
        back_end.closed()
        # An alert of the back end's is a TLS error and a connection lost, both.
        if incoming is not None and (
            isinstance(reason.value, TLSError) or not isinstance(reason.value, ConnectionClosed)
        ):
            incoming.back_end_failed(back_end.explain(reason), back_end)
        super().connectionLost(reason)


class _Watched(Outgoing):
    """
    The side to one of several back ends, of which it is to be seen whether it says anything.
    """

    __slots__ = ("_has_spoken", "_opened_at")

    def __init__(self, incoming: Incoming, back_end: BackEnd) -> None:
        super().__init__(incoming, back_end)
        self._has_spoken = False
        self._opened_at = incoming.now

    def connectionLost(self, reason: Failure) -> None:
        """
        @see: L{Outgoing.connectionLost}
        """
        incoming = self._incoming
        if (
            incoming is not None
            and self.peer is not None
            and not (self._has_spoken or self._ended)
            and not isinstance(reason.value, ConnectionDone)
            and incoming.now - self._opened_at < SETTLING
        ):
            self._back_end.failed(
                "it accepted the connection, and reset it at once:"
                f" {self._back_end.explain(reason)}"
            )
        super().connectionLost(reason)

    def _send_to(self, transport: StreamTransport | None) -> None:
        if transport is None or self._has_spoken:
            super()._send_to(transport)
        else:
            self.dataReceived = self._first

    def _first(self, data: Buffer) -> None:
        self._has_spoken = True
        if self.peer is not None:
            self._send_to(self.peer.transport)
            self.dataReceived(data)


@implementer(IProtocolFactory)
class _OutgoingFactory:
    """A factory for the one connection that one client needs."""

    __slots__ = ("_back_end", "_incoming")

    def __init__(self, incoming: Incoming, back_end: BackEnd) -> None:
        self._incoming = incoming
        self._back_end = back_end

    def buildProtocol(self, addr: IAddress) -> Outgoing:
        """
        @see: L{IProtocolFactory.buildProtocol}
        """
        incoming = self._incoming
        return incoming._factory.outgoing(incoming, self._back_end)

    def doStart(self) -> None:
        """
        @see: L{IProtocolFactory.doStart}
        """

    def doStop(self) -> None:
        """
        @see: L{IProtocolFactory.doStop}
        """


class RelayFactory(Factory[Incoming]):  # type: ignore[type-var]
    """
    Relay each connection to a back end.

    @ivar back_ends: those that there are.
    @ivar only: the one, if there is no other.
    @ivar outgoing: what the sides to them are made of.
    @ivar connect_at_once: connects where that needs no waiting; L{None} where there is no such way.
    @ivar description: how they are named in the log.
    @ivar clock: what the timeout runs on.
    @ivar connect_timeout: how long it may take until a back end is connected, in seconds, or
        L{None} where the endpoints have limits of their own.
    """

    noisy = False

    def __init__(
        self,
        endpoint: IStreamClientEndpoint | BackEnds,
        description: str,
        clock: IReactorTime,
        connect_timeout: float | None = CONNECT_TIMEOUT,
    ) -> None:
        """
        @param endpoint: the back end, or several.
        """
        if not isinstance(endpoint, BackEnds):
            endpoint = BackEnds([(endpoint, description)], clock)
        self.back_ends = endpoint
        self.only = only = endpoint.only
        self.outgoing = _Watched if only is None else Outgoing
        self.connect_at_once: Callable[[IProtocolFactory], IProtocol | None] | None = None
        if only is not None:
            self.connect_at_once = getattr(only.endpoint, "connect_at_once", None)
        self.description = description
        self.clock = clock
        self.connect_timeout = connect_timeout

    def startFactory(self) -> None:
        """
        @see: L{Factory.startFactory}
        """
        self.back_ends.start()

    def stopFactory(self) -> None:
        """
        @see: L{Factory.stopFactory}
        """
        self.back_ends.stop()

    def buildProtocol(self, addr: IAddress | None) -> Incoming:
        """
        @see: L{IProtocolFactory.buildProtocol}
        """
        return Incoming(self)
