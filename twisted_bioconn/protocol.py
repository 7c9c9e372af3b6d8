"""
TLS for any Twisted protocol over any Twisted stream transport.

L{TLSConnectorFactory} wraps an application's factory, and L{TLSConnectorProtocol} is at once the
protocol of the transport below and the transport of the protocol above.  They take the place of
L{twisted.protocols.tls.TLSMemoryBIOFactory} and C{TLSMemoryBIOProtocol}: same arguments, same
interfaces.

How a connection lives
======================

What OpenSSL does is the L{Connector}'s concern, and so is the state of TLS.  Here is what happens
between the application and the transport, and that is a line of its own, L{Phase}::

    NEW -> CONNECTED -> ENDING -> CLOSING -> DISCONNECTED -> LOST

CONNECTED is all of normal life, the handshake included.  ENDING: C{loseConnection} was called and
waits for what was promised to be sent: bytes written before the handshake is done, or a producer
that has not finished.  CLOSING: our close_notify is on its way; we read on until the peer's comes,
so that no reset destroys what the peer has not read yet.  DISCONNECTED: the transport has been
told to close and nothing more is delivered.  Any phase may be skipped, none is entered twice.

When bytes go out
=================

Plaintext waits in the connector until it is flushed.  What the application writes while we deliver
to it is flushed as that call returns: nobody waits for a clock, and many small writes are one
record.  What it writes at other times is gathered until the clock turns or there is enough of it
for a write to be worth its price.  Code that knows better calls C{flush}.

What an application may rely on
===============================

Bytes written before C{loseConnection}, a half-close or the peer's close_notify are sent.  While
C{pauseProducing} holds nothing is delivered and no end of the peer's is told, though the handshake
and our own writes go on; only what would be lost with the transport is delivered all the same.
After C{loseConnection} whoever pauses wants no more: what comes then is discarded.  Each
deadline runs on the clock given to the factory; with none given, on the reactor of the transport,
so that a transport that has no time of its own, such as one in memory, is never timed out.  The
reason in C{connectionLost} says what happened: C{ConnectionDone} after a close_notify,
C{ConnectionLost} where the stream was cut, C{ConnectionAborted} after C{abortConnection}, and
otherwise what went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, TimeoutError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    INegotiated,
    IProtocolFactory,
    IReactorTime,
    ISystemHandle,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols import tls
from twisted.protocols._tls_legacy import SomeConnectionCreator, _convertToAppropriateFactory
from twisted.protocols.policies import WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

from ._creators import connection_creator
from ._deadline import Deadline
from ._flow import FlowControl
from ._phase import LIVE, Phase
from ._reasons import AlertReceived, reason_of
from ._transport import abort, unsent
from .connector import BEFORE_OPEN, Connector, State, WriteBuffer
from .errors import PeerError, TruncatedError, UsageError

__all__ = ["AlertReceived", "Phase", "TLSConnectorFactory", "TLSConnectorProtocol"]

_log = Logger()

GATHER = 64_000
"""Bytes of small writes that are gathered before they are sent without waiting for the clock."""

_WE_CLOSED = (State.LOCAL_CLOSED, State.CLOSED, State.FAILED)
_PEER_CLOSED = (State.REMOTE_CLOSED, State.CLOSED)


@implementer(ISystemHandle, INegotiated, ITransport, IHalfCloseableProtocol)
class TLSConnectorProtocol(FlowControl):
    """
    The TLS layer of one connection.

    It is the protocol of the transport below, and the transport of C{wrappedProtocol}.
    """

    _gathering: IDelayedCall | None = None
    _tellingWriteClosed: IDelayedCall | None = None
    _deadline: Any = None
    _deadlineClock: IReactorTime | None = None
    _started = 0.0
    _refused: Failure | None = None
    _halfClosing = False
    _peerEnded = False
    _nothingUnsent = False

    # The life of a connection

    def makeConnection(self, transport: Any) -> None:
        """
        Connect to a transport, connect the application's protocol to this, and begin the
        handshake.
        """
        factory = self.factory
        try:
            connection = factory._creatorCallable(self)
        except BaseException:
            # The transport is in the reactor already.  Nobody else will close it.
            abort(transport)
            raise
        self._connector = Connector(
            connection,
            getattr(factory, "_isClient", False),
            WriteBuffer(GATHER, GATHER, None),
            getattr(factory, "startsHandshake", True),
        )
        self._clock = getattr(factory, "_clock", None)
        directlyProvides(self, providedBy(transport))
        self._phase = Phase.CONNECTED
        Protocol.makeConnection(self, transport)
        factory.registerProtocol(self)
        clock = getattr(factory, "_givenClock", None) or getattr(transport, "reactor", None)
        if not hasattr(clock, "callLater"):
            clock = None
        # Our own reactor keeps deadlines apart from its delayed calls.
        deadline = Deadline(getattr(clock, "deadlines", clock), transport)
        self._deadline = deadline
        if clock is not None:
            self._deadlineClock = clock
            self._started = clock.seconds()
            seconds = getattr(factory, "handshakeTimeout", None)
            deadline.set(seconds, self._handshakeExpired, seconds)
        if self._connectWrapped:
            self._tell(self.wrappedProtocol.makeConnection, self)
        self.flush()

    def startHandshake(self) -> None:
        """
        Begin the handshake, where the factory was told that it does not start by itself.

        @raise UsageError: it has begun already, or the connection is lost.
        """
        connector = self._needConnector()
        if self._deadlineClock is not None:
            self._started = self._deadlineClock.seconds()
        try:
            connector.start_handshake()
        except PeerError as error:
            self._failed(error)
        else:
            self.flush()
            self.transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        """Take ciphertext from the transport and give the application what is in it."""
        connector = self._connector
        if connector is None or self._phase not in LIVE:
            return
        outer, self._delivering = self._delivering, True
        self._deadline.heard = True
        try:
            if connector.state in BEFORE_OPEN:
                connector.feed(data)
                if not self._handshakeGoesOn(connector):
                    return
                self._handshakeCompleted()
            else:
                connector.feed(data)
            if not self._paused or self._phase is Phase.CLOSING:
                self._deliver(connector)
        except PeerError as error:
            self._failed(error)
        finally:
            self._delivering = outer
            if not outer:
                self.flush()
                self._holdTransport()

    def _handshakeGoesOn(self, connector: Connector) -> bool:
        """Whether it has come to its end, and we are still there to see it."""
        if connector.state is State.IDLE:
            # Nobody has begun, and until then the peer shall not fill our memory.
            self.transport.pauseProducing()
        return self._isLive() and connector.state not in BEFORE_OPEN

    def _isLive(self) -> bool:
        """Whether we go on after a call of OpenSSL's, or the application's, that may end it."""
        if self._refused is not None and self._phase in LIVE:
            # C{failVerification} was called from a callback that cannot refuse by itself.
            self._abortWith(self._refused)
        if not self._connectWrapped and getattr(self.transport, "_aborting", False):
            # After startTLS the application keeps its transport, and can abort it behind our back.
            self._phase = Phase.DISCONNECTED
        return self._phase in LIVE

    def _handshakeCompleted(self) -> None:
        clock = self._deadlineClock
        if clock is not None:
            self._handshakeSeconds = clock.seconds() - self._started
            self._deadline.watch(getattr(self.factory, "idleTimeout", None), self._idleExpired)
        if self._waiting:
            waiting, self._waiting = self._waiting, None
            facts = self.negotiated
            assert facts is not None
            for done in waiting:
                done.callback(facts)
        if self._phase in LIVE and IHandshakeListener.providedBy(self.wrappedProtocol):
            self._tell(self.wrappedProtocol.handshakeCompleted)
        if not self._isLive():
            return
        self.flush()
        if self._producer is not None:
            self._producer.resumeProducing()
        self._tellWriteClosed()
        if self._phase is Phase.ENDING:
            self._end()

    def _deliver(self, connector: Connector) -> None:
        """Give the application all that can be decrypted, and then the end if it has come."""
        plaintext = connector.read()
        if self._isLive() and plaintext and not self._paused:
            self._tell(self.wrappedProtocol.dataReceived, plaintext)
        if self._phase not in LIVE or (self._paused and self._phase is not Phase.CLOSING):
            return
        if connector.state in _PEER_CLOSED:
            self._peerClosed(connector)
        elif connector.error is not None:
            self._failed(connector.error)
        elif self._wireEnded and self._phase is Phase.CLOSING:
            self._disconnect()
        elif self._wireEnded:
            connector.end_of_wire()

    def _peerClosed(self, connector: Connector) -> None:
        """The peer's close_notify has come: no more plaintext will."""
        application = self.wrappedProtocol
        if self._phase is Phase.CLOSING:
            self._nothingUnsent = not unsent(self.transport)
            self._disconnect()
        elif not IHalfCloseableProtocol.providedBy(application):
            # As a transport does at the end of its input: what was written goes out, and the
            # connection is closed.
            self._shutdownTLS()
            self._disconnect()
        elif not self._peerEnded:
            self._peerEnded = True
            self._tellWriteClosed()
            self._tell(application.readConnectionLost)
            if connector.state is State.CLOSED:
                self._disconnect()

    def _tell(self, call: Callable[..., object], *arguments: object) -> None:
        """
        Call the application.

        What it raises ends the connection, once, as the reason; and the peer sees no clean end.
        """
        try:
            call(*arguments)
        except Exception:
            failure = Failure()
            _log.failure("Unhandled error in the application's protocol", failure)
            if self._phase in LIVE:
                self._abortWith(failure)

    def _failed(self, error: PeerError) -> None:
        """TLS cannot go on: send the alert that says why, and close."""
        if self._phase not in LIVE:
            return
        self._reason = self._reason or reason_of(error, self._needConnector())
        self._disconnect()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The transport is gone: tell the application, once, and let go of everything."""
        phase = self._phase
        if phase is Phase.LOST:
            return
        connector = self._connector
        if connector is not None and phase in LIVE and not reason.check(ConnectionAborted):
            reason = self._lastWords(connector, reason)
            if self._phase is Phase.LOST:
                # A transport that calls back from within a call of ours has told it meanwhile.
                return
        closed = connector is not None and connector.state is State.CLOSED
        if closed and self._nothingUnsent and reason.check(ConnectionLost):
            # Both have closed, and all was sent but perhaps our answer to the peer's close.
            # Whether a transport calls that an end or a loss is then a matter of who is first.
            reason = Failure(ConnectionDone())
        if self._deadline is not None:
            self._deadline.cancel()
        for call in (self._gathering, self._catchingUp, self._tellingWriteClosed):
            if call is not None:
                call.cancel()
        self._gathering = self._catchingUp = self._tellingWriteClosed = None
        reason = self._reason = self._reason or reason
        # Where no connection could be made, only what was connected before is to be told.
        made = phase is not Phase.NEW
        self._phase = Phase.LOST
        self.connected = 0
        factory, application = self.factory, self.wrappedProtocol
        if made:
            factory.unregisterProtocol(self)
        self._producer = None
        waiting, self._waiting = self._waiting, None
        for done in waiting or ():
            done.errback(reason)
        try:
            if made or not self._connectWrapped:
                application.connectionLost(reason)
        finally:
            if connector is not None:
                connector.forget()
            # The connection refers to this protocol, and the application to its transport.
            self._connector = None
            self.wrappedProtocol = None  # type: ignore[assignment]
            self._reason = self._refused = None

    def _lastWords(self, connector: Connector, reason: Failure) -> Failure:
        """Deliver what is left, and see whether the stream was cut."""
        self._delivering = self._wireEnded = True
        if self._phase is not Phase.CLOSING:
            self._paused = False
        try:
            if connector.state in BEFORE_OPEN:
                connector.end_of_wire()
            self._deliver(connector)
        except TruncatedError as truncated:
            if reason.check(ConnectionDone):
                return Failure(ConnectionLost(str(truncated)))
        except PeerError as error:
            self._reason = self._reason or reason_of(error, connector)
        return reason

    # The transport below tells of its ends

    def readConnectionLost(self) -> None:
        """The transport will bring no more bytes, though it may still take some."""
        connector = self._connector
        if connector is None or self._phase not in LIVE:
            return
        self._wireEnded = True
        outer, self._delivering = self._delivering, True
        try:
            if connector.state in BEFORE_OPEN:
                connector.end_of_wire()
            if not self._paused or self._phase is Phase.CLOSING:
                self._deliver(connector)
        except PeerError as error:
            self._failed(error)
        finally:
            self._delivering = outer
            self.flush()

    def writeConnectionLost(self) -> None:
        """The transport will take no more bytes."""

    # Writing

    def write(self, data: bytes) -> None:
        """
        Send plaintext.  After C{loseConnection} it is dropped, unless a producer is registered.

        @raise TypeError: this is not bytes.
        """
        connector = self._connector
        if connector is None or self._phase not in LIVE:
            return
        if self._phase is not Phase.CONNECTED and self._producer is None:
            return
        try:
            connector.write(data)
        except UsageError:
            # Our direction is closed.
            return
        if connector.state in BEFORE_OPEN:
            if self._producer is not None:
                # Nothing can be encrypted yet, and this is how a producer is told to wait.
                self._producer.pauseProducing()
        elif connector.pending_plaintext > GATHER or self._clock is None:
            # Whoever writes until it is told to pause is told by the transport.
            self.flush()
        elif not self._delivering and self._gathering is None:
            self._gathering = self._clock.callLater(0, self._gathered)

    def writeSequence(self, sequence: Iterable[bytes]) -> None:
        """Send the plaintext of all these, one after the other."""
        self.write(b"".join(sequence))

    def _gathered(self) -> None:
        self._gathering = None
        self.flush()

    def flush(self) -> None:
        """Send now whatever can be sent."""
        connector = self._connector
        if connector is None or connector.inside_openssl:
            return
        transport = self.transport
        try:
            while self._phase in LIVE and (ciphertext := connector.take()):
                self._deadline.written += len(ciphertext)
                transport.write(ciphertext)
        except PeerError as error:
            self._failed(error)

    # Closing

    def loseConnection(self) -> None:
        """
        Close the connection when all that was written is sent: close_notify goes out, the peer's
        is awaited, and the transport is closed.

        While a producer is registered this waits for it to finish.
        """
        if self._phase is Phase.CONNECTED:
            self._phase = Phase.ENDING
            self._end()

    def _end(self) -> None:
        """Go on with C{loseConnection} if nothing that was promised is left to be sent."""
        connector = self._connector
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
        elif self._phase in LIVE:
            self._phase = Phase.CLOSING
            if self._paused:
                self._drain()
            else:
                self._awaitPeer()

    def _disconnect(self) -> None:
        """Nothing more will come, or nothing good: send what is left, and close the transport."""
        if self._phase in LIVE:
            self.flush()
        if self._phase in LIVE:
            self._phase = Phase.DISCONNECTED
            self._awaitPeer()
            membrane = self._producer
            if membrane is not None:
                # The transport would wait for it, and nothing that it produces can be sent.
                self.unregisterProducer()
                self._tell(membrane.stopProducing)
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
        self._deadline.watch(seconds, self._closeExpired, hears=False)

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
        connector = self._connector
        if connector is None or self._phase is not Phase.CONNECTED:
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
        connector = self._connector
        self._tellWriteClosed()
        if connector is not None and connector.state is State.CLOSED:
            self._disconnect()

    def _tellWriteClosed(self) -> None:
        """Send the close_notify of C{loseWriteConnection}, and say so, if that was not done."""
        if self._halfClosing and self._phase in LIVE:
            self._halfClosing = False
            self.flush()
            if IHalfCloseableProtocol.providedBy(self.wrappedProtocol):
                self._tell(self.wrappedProtocol.writeConnectionLost)

    def abortConnection(self) -> None:
        """
        Drop the connection now.  Nothing more is sent or delivered, and the peer sees that it
        was no clean end.
        """
        if self._phase in LIVE or self._phase is Phase.DISCONNECTED:
            self._abortWith(Failure(ConnectionAborted()))

    def _abortWith(self, reason: Failure) -> None:
        if self._reason is None:
            self._reason = reason
        self._phase = Phase.DISCONNECTED
        self._deadline.cancel()
        abort(self.transport)

    def failVerification(self, reason: Failure) -> None:
        """
        Refuse the peer, for this reason.

        Called from within OpenSSL's verify callback, as Twisted's own options do, this leaves it
        to the callback to refuse, so that the peer is told by an alert.  If it does not, or
        cannot, the connection is dropped as soon as OpenSSL returns.
        """
        if self._phase not in LIVE:
            return
        self._reason = reason
        if self._needConnector().inside_openssl:
            self._refused = reason
        else:
            self._abortWith(reason)

    def _catchUp(self) -> None:
        self._catchingUp = None
        connector = self._connector
        if connector is None or (self._paused and self._phase is not Phase.CLOSING):
            return
        outer, self._delivering = self._delivering, True
        try:
            self._deliver(connector)
        except PeerError as error:
            self._failed(error)
        finally:
            self._delivering = outer
            self.flush()
            self._holdTransport()

    # Deadlines

    def _handshakeExpired(self, seconds: float) -> None:
        self._abortWith(Failure(TimeoutError(f"no handshake within {seconds:g} seconds")))

    def _idleExpired(self, seconds: float) -> None:
        self._reason = Failure(TimeoutError(f"nothing came or went for {seconds:g} seconds"))
        if unsent(self.transport) or self._producer is not None:
            self._abortWith(self._reason)
        else:
            self.loseConnection()

    def _closeExpired(self, seconds: float) -> None:
        """The peer has not closed in time, and takes nothing any more of what it was sent."""
        if unsent(self.transport) or self._phase is Phase.DISCONNECTED:
            self._abortWith(Failure(TimeoutError(f"the peer took nothing for {seconds:g} seconds")))
        else:
            self._disconnect()


class TLSConnectorFactory(TLSMemoryBIOFactory):
    """
    Puts TLS under the protocols of another factory.

    @ivar handshakeTimeout: seconds until a handshake must be done; L{None} for no deadline.
    @ivar closeTimeout: seconds to wait for the peer's close_notify after ours, counted from when
        it last took some of what it was sent; L{None} to wait for ever.
    @ivar idleTimeout: seconds of silence after which a connection is closed; L{None} for never.
        Both may take a quarter longer.
    @ivar startsHandshake: whether the handshake begins with the connection.  Otherwise
        L{TLSConnectorProtocol.startHandshake} begins it.
    """

    protocol: Any = TLSConnectorProtocol
    noisy = False

    def __init__(
        self,
        contextFactory: SomeConnectionCreator,
        isClient: bool,
        wrappedFactory: IProtocolFactory,
        clock: IReactorTime | None = None,
        *,
        handshakeTimeout: float | None = 10.0,
        closeTimeout: float | None = 30.0,
        idleTimeout: float | None = None,
        startsHandshake: bool = True,
    ) -> None:
        """
        @param contextFactory: a L{twisted_bioconn.context.ServerOptions} or C{ClientOptions}, or
            whatever L{TLSMemoryBIOFactory} takes: C{CertificateOptions}, the result of
            C{optionsForClientTLS}, a connection creator, a context factory.
        @param isClient: whether we send the client hello.
        @param wrappedFactory: makes the application's protocols.
        @param clock: gathers small writes and runs the deadlines.  By default the reactor gathers,
            and deadlines run on the reactor of the transport.
        """
        WrappingFactory.__init__(self, wrappedFactory)  # type: ignore[arg-type]
        self._creatorCallable = connection_creator(
            _convertToAppropriateFactory(isClient, contextFactory), contextFactory
        )
        self._isClient = isClient
        self._givenClock = clock
        self._clock = tls._get_default_clock() if clock is None else clock
        self.handshakeTimeout = handshakeTimeout
        self.closeTimeout = closeTimeout
        self.idleTimeout = idleTimeout
        self.startsHandshake = startsHandshake

    def buildProtocol(self, addr: IAddress | None) -> TLSConnectorProtocol | None:  # type: ignore[override]
        """A TLS layer for a new protocol of the application's; L{None} where it wants none."""
        application = self.wrappedFactory.buildProtocol(addr)
        return None if application is None else self.protocol(self, application)
