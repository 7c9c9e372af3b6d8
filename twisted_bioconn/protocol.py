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
from enum import Enum
from inspect import getmro
from typing import Any, ClassVar

import attrs
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import VerificationError
from twisted.internet._producer_helpers import _PullToPush
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, TimeoutError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    INegotiated,
    IProtocol,
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
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.python.reflect import qual
from zope.interface import directlyProvides, implementer, providedBy

from ._creators import connection_creator
from .connector import Connector, State, WriteBuffer
from .errors import Direction, PeerError, TruncatedError, UsageError
from .negotiated import Negotiated
from .verify import CertificateRefused

__all__ = ["AlertReceived", "Phase", "TLSConnectorFactory", "TLSConnectorProtocol"]

_log = Logger()

GATHER = 64_000
"""Bytes of small writes that are gathered before they are sent without waiting for the clock."""


class AlertReceived(PeerError, ConnectionLost):
    """The peer ended the connection with an alert: a L{PeerError}, and a connection lost."""


class Phase(Enum):
    """Where a connection is between the application and the transport."""

    NEW = "no transport yet"
    CONNECTED = "connected"
    ENDING = "to be closed when all that was promised is sent"
    CLOSING = "our close_notify sent, the peer's awaited"
    DISCONNECTED = "the transport is told to close"
    LOST = "the transport is gone"


_LIVE = frozenset({Phase.CONNECTED, Phase.ENDING, Phase.CLOSING})
_BEFORE_OPEN = frozenset({State.IDLE, State.HANDSHAKING})
_WE_CLOSED = frozenset({State.LOCAL_CLOSED, State.CLOSED, State.FAILED})
_PEER_CLOSED = frozenset({State.REMOTE_CLOSED, State.CLOSED})


@implementer(ISystemHandle, INegotiated, ITransport, IHalfCloseableProtocol)
class TLSConnectorProtocol(BufferingTLSTransport):
    """
    The TLS layer of one connection.

    It is the protocol of the transport below, and the transport of C{wrappedProtocol}.
    """

    # Any, because either may be of somebody else's making: a factory that has none of our
    # attributes, a transport that can do no more than write and close.
    factory: Any
    transport: Any

    _phase = Phase.NEW
    _connector: Connector | None = None
    _negotiated: Negotiated | None = None
    _reason: Failure | None = None
    _producer: Any = None
    _clock: IReactorTime | None = None
    _gathering: IDelayedCall | None = None
    _catchingUp: IDelayedCall | None = None
    _tellingWriteClosed: IDelayedCall | None = None
    _deadline: IDelayedCall | None = None
    _deadlineClock: IReactorTime | None = None
    _started = 0.0
    _handshakeSeconds: float | None = None
    _waiting: list[Deferred[Negotiated]] | None = None
    _delivering = False
    _paused = False
    _refused: Failure | None = None
    _halfClosing = False
    _peerEnded = False
    _wireEnded = False
    _active = False
    _written = 0
    _takenBefore = 0

    def __init__(
        self,
        factory: TLSConnectorFactory,
        wrappedProtocol: IProtocol,
        _connectWrapped: bool = True,
    ) -> None:
        """
        @param factory: a L{TLSConnectorFactory}; any other L{WrappingFactory} that has a
            C{_creatorCallable} will do.
        @param wrappedProtocol: the application's protocol.
        @param _connectWrapped: L{False} where the application's protocol is connected already,
            as it is in C{startTLS}.
        """
        self.factory = factory
        self.wrappedProtocol = wrappedProtocol
        self._connectWrapped = _connectWrapped

    # What the application asks

    @property
    def disconnecting(self) -> bool:  # type: ignore[override]
        """Whether the connection is closed, or on its way to be."""
        return self._phase not in (Phase.NEW, Phase.CONNECTED)

    @property  # type: ignore[override]
    def _tlsConnection(self) -> SSL.Connection | None:
        connector = self._connector
        return None if connector is None else connector.connection

    @_tlsConnection.setter
    def _tlsConnection(self, connection: SSL.Connection) -> None:
        self._needConnector().connection = connection

    def getHandle(self) -> SSL.Connection | None:
        """The L{OpenSSL.SSL.Connection}; L{None} once the connection is lost."""
        return self._tlsConnection

    def getPeerCertificate(self) -> X509 | None:
        """The peer's certificate; L{None} where it showed none or the connection is lost."""
        connection = self._tlsConnection
        return None if connection is None else connection.get_peer_certificate()

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """The application protocol agreed on by ALPN; L{None} where none was."""
        connection = self._tlsConnection
        return None if connection is None else connection.get_alpn_proto_negotiated() or None

    @property
    def negotiated(self) -> Negotiated | None:
        """What the handshake agreed on; L{None} until it is done."""
        if self._negotiated is None and self._connector is not None:
            facts = self._connector.negotiated
            if facts is not None:
                self._negotiated = attrs.evolve(facts, handshake_seconds=self._handshakeSeconds)
        return self._negotiated

    def exportKeyingMaterial(
        self, label: bytes, length: int, context: bytes | None = None
    ) -> bytes:
        """
        C{length} bytes that both ends can derive and nobody else: RFC 8446, section 7.5.

        @raise UsageError: the handshake is not done, or the connection is lost.
        """
        return self._needConnector().export_keying_material(label, length, context)

    def channelBinding(self, kind: str = "tls-exporter") -> bytes:
        """
        What binds a login to this very connection.

        @param kind: C{"tls-exporter"} (RFC 9266) or C{"tls-server-end-point"} (RFC 5929).
        @raise UsageError: the handshake is not done, or the connection is lost.
        """
        return self._needConnector().channel_binding(kind)

    def _needConnector(self) -> Connector:
        if self._connector is None:
            raise UsageError("there is no connection")
        return self._connector

    def whenHandshakeDone(self) -> Deferred[Negotiated]:
        """
        Fires with what was agreed on when the handshake is done and the peer is verified; fails
        with the reason of C{connectionLost} if the connection ends before that, and with
        C{ConnectionDone} if it had ended before this call.
        """
        done: Deferred[Negotiated] = Deferred()
        facts = self.negotiated
        if facts is not None:
            done.callback(facts)
        elif self._phase is Phase.LOST:
            done.errback(self._reason or Failure(ConnectionDone()))
        else:
            if self._waiting is None:
                self._waiting = []
            self._waiting.append(done)
        return done

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
            _abort(transport)
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
        if clock is not None and hasattr(clock, "callLater"):
            self._deadlineClock = clock
            self._started = clock.seconds()
            seconds = getattr(factory, "handshakeTimeout", None)
            if seconds is not None:
                self._setDeadline(seconds, self._handshakeExpired, seconds)
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
        if connector is None or self._phase not in _LIVE:
            return
        outer, self._delivering = self._delivering, True
        self._active = True
        try:
            if connector.state in _BEFORE_OPEN:
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

    def _handshakeGoesOn(self, connector: Connector) -> bool:
        """Whether it has come to its end, and we are still there to see it."""
        if connector.state is State.IDLE:
            # Nobody has begun, and until then the peer shall not fill our memory.
            self.transport.pauseProducing()
        return self._isLive() and connector.state not in _BEFORE_OPEN

    def _isLive(self) -> bool:
        """Whether we go on after a call of OpenSSL's, or the application's, that may end it."""
        if self._refused is not None and self._phase in _LIVE:
            # C{failVerification} was called from a callback that cannot refuse by itself.
            self._abortWith(self._refused)
        if not self._connectWrapped and getattr(self.transport, "_aborting", False):
            # After startTLS the application keeps its transport, and can abort it behind our back.
            self._phase = Phase.DISCONNECTED
        return self._phase in _LIVE

    def _handshakeCompleted(self) -> None:
        clock = self._deadlineClock
        if clock is not None:
            self._handshakeSeconds = clock.seconds() - self._started
            self._watch(getattr(self.factory, "idleTimeout", None), self._idleExpired)
        if self._waiting:
            waiting, self._waiting = self._waiting, None
            facts = self.negotiated
            assert facts is not None
            for done in waiting:
                done.callback(facts)
        if self._phase in _LIVE and IHandshakeListener.providedBy(self.wrappedProtocol):
            self._tell(self.wrappedProtocol.handshakeCompleted)
        if not self._isLive():
            return
        if self._paused:
            # Until now the transport had to go on: the handshake needs it.
            self.transport.pauseProducing()
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
        if self._phase not in _LIVE or (self._paused and self._phase is not Phase.CLOSING):
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
            if self._phase in _LIVE:
                self._abortWith(failure)

    def _failed(self, error: PeerError) -> None:
        """TLS cannot go on: send the alert that says why, and close."""
        if self._phase not in _LIVE:
            return
        if self._reason is None:
            self._reason = _reason_of(error, self._needConnector())
        self._disconnect()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The transport is gone: tell the application, once, and let go of everything."""
        phase = self._phase
        if phase is Phase.LOST:
            return
        connector = self._connector
        if connector is not None and phase in _LIVE and not reason.check(ConnectionAborted):
            reason = self._lastWords(connector, reason)
            if self._phase is Phase.LOST:
                # A transport that calls back from within a call of ours has told it meanwhile.
                return
        self._cancelDeadline()
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
            if connector.state in _BEFORE_OPEN:
                connector.end_of_wire()
            self._deliver(connector)
        except TruncatedError as truncated:
            if reason.check(ConnectionDone):
                return Failure(ConnectionLost(str(truncated)))
        except PeerError as error:
            if self._reason is None:
                self._reason = _reason_of(error, connector)
        return reason

    # The transport below tells of its ends

    def readConnectionLost(self) -> None:
        """The transport will bring no more bytes, though it may still take some."""
        connector = self._connector
        if connector is None or self._phase not in _LIVE:
            return
        self._wireEnded = True
        outer, self._delivering = self._delivering, True
        try:
            if connector.state in _BEFORE_OPEN:
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
        if connector is None or self._phase not in _LIVE:
            return
        if self._phase is not Phase.CONNECTED and self._producer is None:
            return
        try:
            connector.write(data)
        except UsageError:
            # Our direction is closed.
            return
        if connector.state in _BEFORE_OPEN:
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
            while self._phase in _LIVE and (ciphertext := connector.take()):
                self._written += len(ciphertext)
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
        if connector.state not in _BEFORE_OPEN:
            self._shutdownTLS()
        elif not connector.pending_plaintext and not connector.inside_openssl:
            # There is nothing to say, and no connection yet on which to say it.
            self.abortConnection()

    def _shutdownTLS(self) -> None:
        """Send close_notify after all that was written, then wait for the peer's."""
        connector = self._connector
        if connector is None:
            return
        try:
            connector.close()
        except PeerError as error:
            self._failed(error)
            return
        self.flush()
        if connector.state is State.CLOSED:
            self._disconnect()
        elif self._phase in _LIVE:
            self._phase = Phase.CLOSING
            self._watch(getattr(self.factory, "closeTimeout", None), self._closeExpired)
            if self._paused:
                # Nobody waits for what comes now, but the close_notify that we wait for is
                # behind it.
                self.transport.resumeProducing()
                self._scheduleCatchingUp()

    def _disconnect(self) -> None:
        """Nothing more will come, or nothing good: send what is left, and close the transport."""
        if self._phase in _LIVE:
            self.flush()
        if self._phase in _LIVE:
            self._phase = Phase.DISCONNECTED
            self._watch(getattr(self.factory, "closeTimeout", None), self._closeExpired)
            membrane = self._producer
            if membrane is not None:
                # The transport would wait for it, and nothing that it produces can be sent.
                self.unregisterProducer()
                self._tell(membrane.stopProducing)
            self.transport.loseConnection()

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
        if connector.state not in _BEFORE_OPEN:
            self._tellingWriteClosed = self._later(self._writeClosed)

    def _writeClosed(self) -> None:
        self._tellingWriteClosed = None
        connector = self._connector
        self._tellWriteClosed()
        if connector is not None and connector.state is State.CLOSED:
            self._disconnect()

    def _tellWriteClosed(self) -> None:
        """Send the close_notify of C{loseWriteConnection}, and say so, if that was not done."""
        if self._halfClosing and self._phase in _LIVE:
            self._halfClosing = False
            self.flush()
            if IHalfCloseableProtocol.providedBy(self.wrappedProtocol):
                self._tell(self.wrappedProtocol.writeConnectionLost)

    def abortConnection(self) -> None:
        """
        Drop the connection now.  Nothing more is sent or delivered, and the peer sees that it
        was no clean end.
        """
        if self._phase in _LIVE or self._phase is Phase.DISCONNECTED:
            self._abortWith(Failure(ConnectionAborted()))

    def _abortWith(self, reason: Failure) -> None:
        if self._reason is None:
            self._reason = reason
        self._phase = Phase.DISCONNECTED
        self._cancelDeadline()
        _abort(self.transport)

    def failVerification(self, reason: Failure) -> None:
        """
        Refuse the peer, for this reason.

        Called from within OpenSSL's verify callback, as Twisted's own options do, this leaves it
        to the callback to refuse, so that the peer is told by an alert.  If it does not, or
        cannot, the connection is dropped as soon as OpenSSL returns.
        """
        if self._phase not in _LIVE:
            return
        self._reason = reason
        if self._needConnector().inside_openssl:
            self._refused = reason
        else:
            self._abortWith(reason)

    # Producers and consumers

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """
        Let a producer write as fast as the transport takes it.

        @raise RuntimeError: there is one already.
        """
        if self._phase not in (Phase.CONNECTED, Phase.ENDING):
            producer.stopProducing()
            return
        if self._producer is not None:
            raise RuntimeError(
                f"cannot register producer {producer}:"
                f" {self._producer._producer} was never unregistered"
            )
        if not streaming:
            producer = _PullToPush(producer, self)
        membrane = tls._ProducerMembrane(producer)
        self.transport.registerProducer(membrane, True)
        self._producer = membrane
        if not streaming:
            producer.startStreaming()

    def unregisterProducer(self) -> None:
        """The producer has finished."""
        membrane, self._producer = self._producer, None
        if membrane is None:
            return
        if isinstance(membrane._producer, _PullToPush):
            membrane._producer.stopStreaming()
        if self._phase is not Phase.LOST:
            self.transport.unregisterProducer()
        if self._phase is Phase.ENDING:
            self._end()

    def pauseProducing(self) -> None:
        """Deliver nothing until C{resumeProducing}; after C{loseConnection}, nothing any more."""
        connector = self._connector
        if self._paused or connector is None or self._phase not in _LIVE:
            return
        self._paused = True
        if self._phase is not Phase.CLOSING and connector.state not in _BEFORE_OPEN:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """
        Deliver again, beginning with what came in the meantime.

        Not from within this call: an application that resumes may not be ready for bytes before
        it has returned.
        """
        connector = self._connector
        if not self._paused or connector is None or self._phase is Phase.CLOSING:
            return
        self._paused = False
        if self._phase not in _LIVE or connector.state in _BEFORE_OPEN:
            return
        self.transport.resumeProducing()
        if connector.unread or self._wireEnded or connector.state is not State.OPEN:
            self._scheduleCatchingUp()

    def stopProducing(self) -> None:
        """No more is wanted: close the connection."""
        self.loseConnection()

    def stopConsuming(self) -> None:
        """The producer is stopped: close the connection."""
        self.unregisterProducer()
        self.loseConnection()

    def _scheduleCatchingUp(self) -> None:
        if self._catchingUp is None:
            self._catchingUp = self._later(self._catchUp)

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

    def _later(self, call: Callable[[], None]) -> IDelayedCall | None:
        """Call when the clock turns; at once where there is no clock."""
        if self._clock is None:
            call()
            return None
        return self._clock.callLater(0, call)

    # Deadlines

    def _setDeadline(self, seconds: float, call: Callable[..., None], *arguments: object) -> None:
        self._cancelDeadline()
        if self._deadlineClock is not None:
            self._deadline = self._deadlineClock.callLater(seconds, call, *arguments)

    def _cancelDeadline(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()

    def _watch(self, seconds: float | None, expired: Callable[[float], None]) -> None:
        """
        Call once nothing has happened for so many seconds, or a quarter more: to note the time of
        all that happens would cost more than to look four times.
        """
        self._cancelDeadline()
        self._active = False
        self._takenBefore = self._taken()
        if seconds is not None:
            self._setDeadline(seconds / 4, self._look, seconds, expired, 1)

    def _look(self, seconds: float, expired: Callable[[float], None], quarter: int) -> None:
        self._deadline = None
        # While it closes, a peer that sends and sends but takes nothing is not to be waited for.
        active = self._active and self._phase is not Phase.CLOSING
        if active or self._taken() != self._takenBefore:
            self._watch(seconds, expired)
        elif quarter < 4:
            self._setDeadline(seconds / 4, self._look, seconds, expired, quarter + 1)
        else:
            expired(seconds)

    def _taken(self) -> int:
        """Bytes of what we wrote that the transport has got rid of."""
        return self._written - _unsent(self.transport)

    def _handshakeExpired(self, seconds: float) -> None:
        self._deadline = None
        self._abortWith(Failure(TimeoutError(f"no handshake within {seconds:g} seconds")))

    def _idleExpired(self, seconds: float) -> None:
        self._reason = Failure(TimeoutError(f"nothing came or went for {seconds:g} seconds"))
        if _unsent(self.transport) or self._producer is not None:
            self._abortWith(self._reason)
        else:
            self.loseConnection()

    def _closeExpired(self, seconds: float) -> None:
        """The peer has not closed in time, and takes nothing any more of what it was sent."""
        if _unsent(self.transport) or self._phase is Phase.DISCONNECTED:
            self._abortWith(Failure(TimeoutError(f"the peer took nothing for {seconds:g} seconds")))
        else:
            self._disconnect()


def _abort(transport: Any) -> None:
    """Drop a transport's connection; close it where the transport can do no more than that."""
    abort = getattr(transport, "abortConnection", None)
    if abort is None:
        transport.loseConnection()
    else:
        abort()


def _unsent(transport: Any) -> int:
    """Bytes that a transport has not sent yet, as far as that can be known."""
    size: int = len(getattr(transport, "dataBuffer", b"")) - getattr(transport, "offset", 0)
    return size + getattr(transport, "_tempDataLen", 0)


def _reason_of(error: PeerError, connector: Connector) -> Failure:
    """
    What C{connectionLost} is told of an error.

    Programs compare the type with L{OpenSSL.SSL.Error}, and look at its first argument, so that
    is what they find; the value says more.
    """
    refusal = connector.refusal
    if refusal is not None:
        if not isinstance(refusal, VerificationError):
            refused = CertificateRefused(error.sentence)
            refused.__cause__ = refusal
            refusal = refused
        return Failure(refusal)
    if isinstance(error, TruncatedError) or "unexpected eof" in _queued_reasons(error):
        return Failure(ConnectionLost(error.sentence))
    value = error
    if error.direction is Direction.RECEIVED:
        value = AlertReceived(error.sentence, error.alert, error.direction, error.args[0])
    failure = Failure(value)
    failure.type = SSL.Error
    failure.parents = [qual(each) for each in getmro(type(value))]
    return failure


def _queued_reasons(error: PeerError) -> str:
    return " ".join(reason for _, _, reason in error.args[0])


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

    protocol: ClassVar[Any] = TLSConnectorProtocol  # type: ignore[misc]
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
