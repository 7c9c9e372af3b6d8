"""
How a connection ends: by us, by the peer, half of it first, by a deadline, or at once.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.error import ConnectionAborted, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IReactorTime
from twisted.python.failure import Failure

from ._flow import FlowControl
from ._gate import Gate, GateState
from ._phase import LIVE, Phase
from ._transport import abort, unsent
from .connector import BEFORE_OPEN, State
from .errors import Direction, PeerError

LINGER = 2.0
"""Seconds for which a peer that was told of a fault by an alert is read on, at most."""

LINGER_BYTES = 64 * 1024
"""Bytes that are read of it meanwhile, at most."""

_WE_CLOSED = (State.LOCAL_CLOSED, State.CLOSED, State.FAILED)


class Ending(FlowControl):
    """
    The part of L{TLSConnectorProtocol<twisted_bioconn.protocol.TLSConnectorProtocol>} that ends a
    connection.
    """

    _tellingWriteClosed: IDelayedCall | None = None
    _gate: Gate | None = None
    _halfClosing = False
    _nothingUnsent = False
    _lingering = 0

    _deadlineClock: IReactorTime | None = None

    # What the rest of the protocol has for us: to send what can be sent, to call the application,
    # and to end for a fault of the peer's.
    flush: Callable[[], None]
    _tell: Callable[..., None]
    _failed: Callable[[PeerError], None]

    def loseConnection(self) -> None:
        """
        Close the connection when all that was written is sent: close_notify goes out, the peer's
        is awaited, and the transport is closed.

        While a producer is registered this waits for it to finish.
        """
        if self._link.phase is Phase.CONNECTED:
            self._link.phase = Phase.ENDING
            self._end()

    def _end(self) -> None:
        """Go on with C{loseConnection} if nothing that was promised is left to be sent."""
        connector = self._link.connector
        if connector is None or self._producer is not None:
            return
        if connector.state not in BEFORE_OPEN:
            self._shutdownTLS()
        elif not connector.pending_plaintext and not connector.inside_openssl:
            # There is nothing to say, and no connection yet on which to say it.
            self.abortConnection()

    def _shutdownTLS(self) -> None:
        """Send close_notify after all that was written, then wait for the peer's."""
        connector = self._needConnector()
        self._nothingUnsent = not connector.pending_plaintext and not unsent(self.transport)
        try:
            connector.close()
        except PeerError as error:
            self._failed(error)
            return
        self.flush()
        if connector.state is State.CLOSED:
            self._disconnect()
        elif self._link.phase in LIVE:
            self._link.phase = Phase.CLOSING
            if self._link.paused:
                self._drain()
            else:
                self._awaitPeer()

    def _disconnect(self, lingers: bool = False) -> None:
        """
        Nothing more will come, or nothing good: send what is left, and close the transport.

        @param lingers: whether the peer is to be read on for a while, see L{_linger}.
        """
        if self._link.phase in LIVE:
            self.flush()
        if self._link.phase in LIVE:
            self._link.phase = Phase.DISCONNECTED
            self._awaitPeer()
            membrane = self._producer
            if membrane is not None:
                # The transport would wait for it, and nothing that it produces can be sent.
                self.unregisterProducer()
                self._tell(membrane.stopProducing)
            if lingers:
                self._linger()
            else:
                self.transport.loseConnection()

    def _mayLinger(self, error: PeerError) -> bool:
        """
        Whether the end for this fault is one to linger for: a server's, by an alert that is yet to
        be sent, on a transport that can end one direction alone and has a clock.
        """
        connector = self._needConnector()
        return (
            not connector.is_client
            and connector.pending_ciphertext > 0
            and error.direction is not Direction.RECEIVED
            and not self._wireEnded
            and self._deadlineClock is not None
            # After startTLS the application has the transport too, and its methods are ours.
            and self._connectWrapped
            and hasattr(self.transport, "loseWriteConnection")
        )

    def _linger(self) -> None:
        """
        End our direction of the transport behind the alert, and discard what comes until the peer
        ends its own, for L{LINGER} and L{LINGER_BYTES} at most.

        A socket that is closed while there is something unread, or before something comes, is reset
        (RFC 1122, section 4.2.2.13), and a peer that is about to write hears of that before it
        reads the alert.  In TLS 1.3 a client writes before it knows whether its certificate is
        taken, so it would not learn what was wrong.
        """
        self._lingering = LINGER_BYTES
        self._link.deadline.set(LINGER, self._stopLingering)
        # Whoever has paused it wants no more, but is not told of the end before that has come.
        self.transport.resumeProducing()
        self.transport.loseWriteConnection()

    def _discard(self, data: bytes) -> None:
        """Something has come that nobody wants."""
        if len(data) < self._lingering:
            self._lingering -= len(data)
        else:
            self._stopLingering()

    def _stopLingering(self) -> None:
        """Close the transport, if that was put off, and it has not been lost or reset since."""
        if self._lingering and self._link.phase is Phase.DISCONNECTED:
            self._lingering = 0
            self._awaitPeer()
            self.transport.loseConnection()

    def _drain(self) -> None:
        """
        Read on what the application has paused away: nobody wants it, but the close_notify that
        we wait for is behind it.
        """
        self._awaitPeer()
        self.transport.resumeProducing()
        self._scheduleCatchingUp()

    def _awaitPeer(self) -> None:
        """
        Give the peer time to close and to take what it was sent.

        While it is to close, one that sends and sends but takes nothing is not to be waited for.
        """
        seconds = getattr(self.factory, "closeTimeout", None)
        self._link.deadline.watch(seconds, self._closeExpired, hears=False)

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        """TLS is over, for this reason if there is one: close the transport."""
        if self._reason is None:
            self._reason = reason
        self._disconnect()

    def loseWriteConnection(self) -> None:
        """
        Close our direction: close_notify goes out after all that was written, and reading goes
        on.  C{IHalfCloseableProtocol.writeConnectionLost} tells when it has gone.
        """
        connector = self._link.connector
        if connector is None or self._link.phase is not Phase.CONNECTED:
            return
        if self._halfClosing or connector.state in _WE_CLOSED:
            return
        self._halfClosing = True
        try:
            connector.close()
        except PeerError as error:
            self._failed(error)
            return
        if connector.state not in BEFORE_OPEN:
            self._tellingWriteClosed = self._later(self._writeClosed)

    def _writeClosed(self) -> None:
        self._tellingWriteClosed = None
        connector = self._link.connector
        self._tellWriteClosed()
        if connector is not None and connector.state is State.CLOSED:
            self._disconnect()

    def _tellWriteClosed(self) -> None:
        """Send the close_notify of C{loseWriteConnection}, and say so, if that was not done."""
        if self._halfClosing and self._link.phase in LIVE:
            self._halfClosing = False
            self.flush()
            if IHalfCloseableProtocol.providedBy(self.wrappedProtocol):
                self._tell(self.wrappedProtocol.writeConnectionLost)

    def abortConnection(self) -> None:
        """
        Drop the connection now.  Nothing more is sent or delivered, and the peer sees that it
        was no clean end.
        """
        if self._link.phase in LIVE or self._link.phase is Phase.DISCONNECTED:
            self._abortWith(Failure(ConnectionAborted()))

    def _abortWith(self, reason: Failure) -> None:
        if self._reason is None:
            self._reason = reason
        self._link.phase = Phase.DISCONNECTED
        self._link.deadline.cancel()
        abort(self.transport)

    def failVerification(self, reason: Failure) -> None:
        """
        Refuse the peer, for this reason.

        Called from within OpenSSL's verify callback, as Twisted's own options do, this leaves it
        to the callback to refuse, so that the peer is told by an alert.  If it does not, or
        cannot, the connection is dropped as soon as OpenSSL returns.
        """
        if self._link.phase not in LIVE:
            return
        self._reason = reason
        if self._needConnector().inside_openssl:
            self._link.refused = reason
        else:
            self._abortWith(reason)

    # Deadlines

    def _handshakeExpired(self, seconds: float) -> None:
        gate = self._gate
        what = "handshake"
        if gate is not None and gate.state is GateState.ASKING:
            what = f"certificate for {gate.name}"
        self._abortWith(Failure(TimeoutError(f"no {what} within {seconds:g} seconds")))

    def _idleExpired(self, seconds: float) -> None:
        self._expired(f"nothing came or went for {seconds:g} seconds")

    def _lifetimeExpired(self, seconds: float) -> None:
        if self._link.phase in LIVE:
            self._expired(f"no connection lasts longer than {seconds:g} seconds")

    def _expired(self, why: str) -> None:
        self._reason = Failure(TimeoutError(why))
        if unsent(self.transport) or self._producer is not None:
            self._abortWith(self._reason)
        else:
            self.loseConnection()

    def _closeExpired(self, seconds: float) -> None:
        """The peer has not closed in time, and takes nothing any more of what it was sent."""
        if unsent(self.transport) or self._link.phase is Phase.DISCONNECTED:
            self._abortWith(Failure(TimeoutError(f"the peer took nothing for {seconds:g} seconds")))
        else:
            self._disconnect()
