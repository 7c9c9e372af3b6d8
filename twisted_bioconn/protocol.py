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
told to close, or, by a server that has sent a fatal alert, to end our direction of it alone, and
nothing more is delivered.  Any phase may be skipped, none is entered twice.

When bytes go out
=================

Plaintext waits in the connector until it is flushed.  What the application writes while we deliver
to it is flushed as that call returns: nobody waits for a clock, and many small writes are one
record.  What it writes at other times is gathered until the clock turns or there is enough of it
for a write to be worth its price.  Code that knows better calls C{flush}, or C{send}.  What is
flushed is given to the kernel at once, where the transport can do that and nothing waits before it.

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
from contextlib import suppress
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
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
from zope.interface import implementer

from ._admission import refusal_without_certificate
from ._creators import CompleteOptions, complete_creator, connection_creator
from ._deadline import Deadline, clock_of, deadlines_of
from ._ending import Ending
from ._engine import Buffer, Form
from ._gate import Gate, GateState
from ._link import MUCH
from ._phase import LIVE, Phase
from ._reasons import AlertReceived, reason_of
from ._room import ROOM
from ._transport import Stream, abort, provide_as, sender, unsent
from .connector import BEFORE_OPEN, Connector, State, WriteBuffer
from .errors import PeerError, TruncatedError, UsageError

__all__ = ["AlertReceived", "Phase", "TLSConnectorFactory", "TLSConnectorProtocol"]

_log = Logger()

# Global names are cheaper than attributes of an Enum.
_CONNECTED = Phase.CONNECTED
_OPEN = State.OPEN

SHRINK_AFTER = 0.25
"""Seconds without so many after which the buffers are replaced by fresh ones."""

GATHER = 64_000
"""Bytes of small writes that are gathered before they are sent without waiting for the clock."""

_PEER_CLOSED = (State.REMOTE_CLOSED, State.CLOSED)


@implementer(ISystemHandle, INegotiated, ITransport, IHalfCloseableProtocol)
class TLSConnectorProtocol(Ending):
    """
    The TLS layer of one connection.

    It is the protocol of the transport below, and the transport of C{wrappedProtocol}.
    """

    newConnector: Callable[..., Connector] = Connector
    _gathering: IDelayedCall | None = None
    _started = 0.0
    _peerEnded = False
    _shrinking: IDelayedCall | None = None
    _grows = False
    _endsWithHandshake = False

    # The life of a connection

    def makeConnection(self, transport: Any) -> None:
        """
        Connect to a transport, connect the application's protocol to this, and begin the
        handshake.
        """
        factory, link = self.factory, self._link
        options = getattr(factory, "_helloOptions", None)
        starts = getattr(factory, "startsHandshake", True)
        connection = None
        try:
            if options is not None and options.reads_hello:
                self._gate = Gate(self, options, starts)
            else:
                connection = factory._creatorCallable(self)
        except BaseException:
            # The transport is in the reactor already.  Nobody else will close it.
            abort(transport)
            raise
        link.connector = self.newConnector(
            connection,
            getattr(factory, "_isClient", False),
            WriteBuffer(GATHER, GATHER, None),
            starts,
        )
        self._clock = getattr(factory, "_clock", None)
        provide_as(transport, self)
        link.phase = Phase.CONNECTED
        link.tls = self
        Protocol.makeConnection(self, transport)
        if not link.connector.is_client:
            # A server sends session tickets as the handshake ends.  Its first answer would be held
            # back until the client has acknowledged them: RFC 1122, section 4.2.3.4.
            noDelay = getattr(transport, "setTcpNoDelay", None)
            if noDelay is not None:
                # UNIX sockets of Twisted's have the method, and nothing to set.
                with suppress(OSError):
                    noDelay(True)
        link.transmit = sender(transport)
        if isinstance(transport, Stream) and type(self).dataReceived is _DATA_RECEIVED:
            transport.receiver = link.received
        factory.registerProtocol(self)
        clock = clock_of(getattr(factory, "_givenClock", None), transport)
        deadline = Deadline(deadlines_of(clock), transport)
        link.deadline = deadline
        if clock is not None:
            self._deadlineClock = clock
            self._started = clock.seconds()
            seconds = getattr(factory, "handshakeTimeout", None)
            left = None if seconds is None else max(0.0, seconds - self._handshakeWaited)
            deadline.set(left, self._handshakeExpired, seconds)
        if self._connectWrapped:
            self._tell(self.wrappedProtocol.makeConnection, self)
        if link.connector is not None and link.connector.wants_write:
            # A server does not speak first.
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
            if self._gate is not None:
                self._gate.open()
            else:
                connector.start_handshake()
        except PeerError as error:
            self._failed(error)
        else:
            self.flush()
            self.transport.resumeProducing()

    def _gateOpens(self, goOn: Callable[[], None]) -> None:
        """It is known which certificate the client gets, or that it gets none."""
        try:
            goOn()
        except PeerError as error:
            self._failed(error)
        self.flush()

    def dataReceived(self, data: bytes) -> None:
        """Take ciphertext from the transport and give the application what is in it."""
        connector = self._link.connector
        if connector is None or self._link.phase not in LIVE:
            self._discard(data)
            return
        outer, self._link.delivering = self._link.delivering, True
        self._link.deadline.received += len(data)
        try:
            if connector.state in BEFORE_OPEN:
                connector.feed(data)
                if not self._handshakeGoesOn(connector, data):
                    return
                self._handshakeCompleted()
            else:
                connector.feed(data)
            if not self._link.paused or self._link.phase is Phase.CLOSING:
                self._deliver(connector, self._link.read(connector, len(data)))
        except PeerError as error:
            self._failed(error)
        finally:
            self._link.delivering = outer
            if not outer:
                self.flush()
                self._holdTransport()

    def _handshakeGoesOn(self, connector: Connector, data: bytes) -> bool:
        """Whether it has come to its end, and we are still there to see it."""
        gate = self._gate
        if gate is not None:
            gate.feed(data)
        if connector.state is State.IDLE and (gate is None or gate.state is GateState.SHUT):
            # Nobody has begun, and until then the peer shall not fill our memory.
            self.transport.pauseProducing()
        return self._isLive() and connector.state not in BEFORE_OPEN

    def _isLive(self) -> bool:
        """Whether we go on after a call of OpenSSL's, or the application's, that may end it."""
        if self._link.refused is not None and self._link.phase in LIVE:
            # C{failVerification} was called from a callback that cannot refuse by itself.
            self._abortWith(self._link.refused)
        if not self._connectWrapped and getattr(self.transport, "_aborting", False):
            # After startTLS the application keeps its transport, and can abort it behind our back.
            self._link.phase = Phase.DISCONNECTED
        return self._link.phase in LIVE

    def _handshakeCompleted(self) -> None:
        self._gate = None
        self.firstBytes = b""
        if self.rules is not None:
            refusal = refusal_without_certificate(self.rules, self)
            if refusal is not None:
                self._abortWith(refusal)
                return
        if self._endsWithHandshake:
            # Nobody here has anything to say to this peer, or to hear of it.
            self._needConnector().discard()
            self._link.paused = True
            self._shutdownTLS()
            return
        clock = self._deadlineClock
        if clock is not None:
            self._handshakeSeconds = clock.seconds() - self._started
            self._link.deadline.watch(getattr(self.factory, "idleTimeout", None), self._idleExpired)
        if self._waiting:
            waiting, self._waiting = self._waiting, None
            facts = self.negotiated
            assert facts is not None
            for done in waiting:
                done.callback(facts)
        if self._link.phase in LIVE and IHandshakeListener.providedBy(self.wrappedProtocol):
            self._tell(self.wrappedProtocol.handshakeCompleted)
        if not self._isLive():
            return
        self.flush()
        if self._producer is not None:
            self._producer.resumeProducing()
        self._tellWriteClosed()
        if self._link.phase is Phase.ENDING:
            self._end()

    def _deliver(self, connector: Connector, plaintext: bytes) -> None:
        """Give the application what was decrypted, and then the end if it has come."""
        if self._isLive() and plaintext and not self._link.paused:
            self._tell(self.wrappedProtocol.dataReceived, plaintext)
        if self._link.phase not in LIVE or (
            self._link.paused and self._link.phase is not Phase.CLOSING
        ):
            return
        if connector.state in _PEER_CLOSED:
            self._peerClosed(connector)
        elif connector.error is not None:
            self._failed(connector.error)
        elif self._wireEnded and self._link.phase is Phase.CLOSING:
            self._disconnect()
        elif self._wireEnded:
            connector.end_of_wire()

    def _peerClosed(self, connector: Connector) -> None:
        """The peer's close_notify has come: no more plaintext will."""
        application = self.wrappedProtocol
        if self._link.phase is Phase.CLOSING:
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
            self._applicationFailed()

    def _applicationFailed(self) -> None:
        failure = Failure()
        if failure.check(MemoryError):
            ROOM.is_gone()
        else:
            _log.failure("Unhandled error in the application's protocol", failure)
        if self._link.phase in LIVE:
            self._abortWith(failure)

    def _failed(self, error: PeerError) -> None:
        """TLS cannot go on: send the alert that says why, and close."""
        if self._link.phase not in LIVE:
            return
        self._reason = self._reason or reason_of(error, self._needConnector())
        self._disconnect(self._mayLinger(error))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The transport is gone: tell the application, once, and let go of everything."""
        phase = self._link.phase
        if phase is Phase.LOST:
            return
        connector = self._link.connector
        if (
            connector is not None
            and phase in LIVE
            and not isinstance(reason.value, ConnectionAborted)
        ):
            reason = self._lastWords(connector, reason)
            if self._link.phase is Phase.LOST:
                # A transport that calls back from within a call of ours has told it meanwhile.
                return
        closed = connector is not None and connector.state is State.CLOSED
        if closed and self._nothingUnsent and isinstance(reason.value, ConnectionLost):
            # Both have closed, and all was sent but perhaps our answer to the peer's close.
            # Whether a transport calls that an end or a loss is then a matter of who is first.
            reason = Failure(ConnectionDone())
        if self._link.deadline is not None:
            self._link.deadline.cancel()
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.leave()
        for call in (
            self._gathering,
            self._catchingUp,
            self._tellingWriteClosed,
            self._shrinking,
        ):
            if call is not None:
                call.cancel()
        self._gathering = self._catchingUp = self._tellingWriteClosed = self._shrinking = None
        reason = self._reason = self._reason or reason
        # Where no connection could be made, only what was connected before is to be told.
        made = phase is not Phase.NEW
        self._link.phase = Phase.LOST
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
            self._link.connector = self._link.tls = self._link.forward = None
            self.wrappedProtocol = None  # type: ignore[assignment]
            self._reason = self._link.refused = None

    def _lastWords(self, connector: Connector, reason: Failure) -> Failure:
        """Deliver what is left, and see whether the stream was cut."""
        self._link.delivering = self._wireEnded = True
        if self._link.phase is not Phase.CLOSING:
            self._link.paused = False
        try:
            if connector.state in BEFORE_OPEN:
                connector.end_of_wire()
            self._deliver(connector, connector.read())
        except TruncatedError as truncated:
            if isinstance(reason.value, ConnectionDone):
                return Failure(ConnectionLost(str(truncated)))
        except PeerError as error:
            self._reason = self._reason or reason_of(error, connector)
        return reason

    # The transport below tells of its ends

    def readConnectionLost(self) -> None:
        """The transport will bring no more bytes, though it may still take some."""
        connector = self._link.connector
        if connector is None or self._link.phase not in LIVE:
            self._stopLingering()
            return
        self._wireEnded = True
        outer, self._link.delivering = self._link.delivering, True
        try:
            if connector.state in BEFORE_OPEN:
                connector.end_of_wire()
            if not self._link.paused or self._link.phase is Phase.CLOSING:
                self._deliver(connector, connector.read())
        except PeerError as error:
            self._failed(error)
        finally:
            self._link.delivering = outer
            self.flush()

    def writeConnectionLost(self) -> None:
        """The transport will take no more bytes."""

    # Writing

    def write(self, data: bytes) -> None:
        """
        Send plaintext.  After C{loseConnection} it is dropped, unless a producer is registered.

        @raise TypeError: this is not bytes.
        """
        connector = self._link.connector
        if connector is None or self._link.phase not in LIVE:
            return
        if self._link.phase is not _CONNECTED and self._producer is None:
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
        elif not self._link.delivering and self._gathering is None:
            self._gathering = self._clock.callLater(0, self._gathered)

    def writeSequence(self, sequence: Iterable[bytes]) -> None:
        """Send the plaintext of all these, one after the other."""
        self.write(b"".join(sequence))

    def _gathered(self) -> None:
        self._gathering = None
        self.flush()

    def flush(self) -> None:
        """Send now whatever can be sent."""
        connector = self._link.connector
        if connector is None or not connector.has_output or connector.inside_openssl:
            return
        transmit = self._link.transmit
        try:
            while self._link.phase in LIVE and (ciphertext := connector.take_buffer()):
                self._link.deadline.written += len(ciphertext)
                if len(ciphertext) > MUCH:
                    self._hasGrown()
                transmit(ciphertext)
        except PeerError as error:
            self._failed(error)

    @property
    def send(self) -> Callable[[Buffer], None]:
        """
        C{write} and C{flush} in one, for whoever has all that is to go out now: it takes bytes, or
        a buffer that may be used again afterwards.
        """
        return self._link.send

    @property
    def sendReceived(self) -> Callable[[Any, int], None]:
        """
        C{send} what another transport has just received: it takes the C{data} of an
        L{Inbox<twisted_bioconn._openssl.Inbox>} and the number of bytes in it.
        """
        return self._link.send_received

    @property
    def takesBuffers(self) -> bool:
        """
        Whether the application's C{dataReceived} is content with a buffer, whose bytes it has done
        with when it returns, and before it, or a finalizer, calls any other connection of this
        thread.
        """
        return self._link.form is not Form.BYTES

    @takesBuffers.setter
    def takesBuffers(self, does: bool) -> None:
        self._link.form = Form.BUFFER if does else Form.BYTES
        self._link.forward = None

    def forwardTo(self, sendReceived: Callable[[Any, int], None] | None) -> None:
        """
        Give plaintext to another connection's C{sendReceived}, with nothing in between.

        What takes another way, such as what came while this was paused, comes to the application's
        C{dataReceived} all the same.

        @param sendReceived: L{None} to give it to the application again.
        """
        self._link.forward = sendReceived
        self._link.form = Form.BYTES if sendReceived is None else Form.DATA

    def _hasGrown(self) -> None:
        """So much at once has taken memory: give it back when no more has come for some time."""
        self._grows = True
        if self._shrinking is None:
            self._shrink()

    def _shrink(self) -> None:
        self._shrinking = None
        grows, self._grows = self._grows, False
        clock, connector = self._deadlineClock, self._link.connector
        if clock is None or connector is None:
            return
        if grows:
            self._shrinking = deadlines_of(clock).callLater(SHRINK_AFTER, self._shrink)
        else:
            connector.renew_bios()

    def _catchUp(self) -> None:
        self._catchingUp = None
        connector = self._link.connector
        if connector is None or (self._link.paused and self._link.phase is not Phase.CLOSING):
            return
        outer, self._link.delivering = self._link.delivering, True
        try:
            self._deliver(connector, connector.read())
        except PeerError as error:
            self._failed(error)
        finally:
            self._link.delivering = outer
            self.flush()
            self._holdTransport()


_DATA_RECEIVED = TLSConnectorProtocol.dataReceived


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
    _helloOptions: Any = None
    _starting: Any = None
    _keeps = False

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
        self._creatorCallable = complete_creator(isClient, contextFactory) or connection_creator(
            _convertToAppropriateFactory(isClient, contextFactory), contextFactory
        )
        self._helloOptions = (
            contextFactory if isinstance(contextFactory, CompleteOptions) and not isClient else None
        )
        self._isClient = isClient
        self._givenClock = clock
        self._clock = tls._get_default_clock() if clock is None else clock
        self.handshakeTimeout = handshakeTimeout
        self.closeTimeout = closeTimeout
        self.idleTimeout = idleTimeout
        self.startsHandshake = startsHandshake

    def startFactory(self) -> None:
        """A port is open: the certificates are looked after once the reactor runs."""
        if self._helloOptions is not None:
            whenRunning = getattr(self._clock, "callWhenRunning", None)
            if whenRunning is None:
                self._keep()
            else:
                self._starting = whenRunning(self._keep)

    def _keep(self) -> None:
        self._starting, self._keeps = None, True
        self._helloOptions.upkeep.start(self._clock)

    def stopFactory(self) -> None:
        """The port is closed: nobody looks after the certificates any more."""
        starting, self._starting = self._starting, None
        if starting is not None:
            clock: Any = self._clock
            clock.removeSystemEventTrigger(starting)
        if self._keeps:
            self._keeps = False
            self._helloOptions.upkeep.stop()

    def buildProtocol(self, addr: IAddress | None) -> TLSConnectorProtocol | None:  # type: ignore[override]
        """A TLS layer for a new protocol of the application's; L{None} where it wants none."""
        application = self.wrappedFactory.buildProtocol(addr)
        return None if application is None else self.protocol(self, application)
