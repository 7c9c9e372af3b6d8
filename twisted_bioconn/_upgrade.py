"""
TLS that begins in mid-connection, on Twisted's transports.

What is said before it is the concern of L{twisted_bioconn.starttls}.  Here is who says it to a
server that we connect to, and what is done, once there is TLS, about the greeting that a client has
had before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from ._transport import abort, address_text, one_line
from .protocol import TLSConnectorProtocol
from .starttls import (
    BackendFilter,
    Dialogue,
    DialogueState,
    StartTLSError,
    client_dialogue,
    make_backend_filter,
)

__all__ = ["AskingFactory", "GreetedFactory"]

_log = Logger()

_MOST_HELD = 64 * 1024
"""Bytes of a client's that are held until the server behind has greeted."""


class _Asking(Protocol):
    """Asks a server for TLS, and then gives its transport to the TLS layer."""

    transport: Any

    def __init__(self, factory: AskingFactory, addr: IAddress, dialogue: Dialogue) -> None:
        self._factory = factory
        self._addr = addr
        self._dialogue = dialogue

    def connectionMade(self) -> None:
        """Say what is to be said first, if it is for us to say it."""
        self._factory.begun(self)
        self._send(self._dialogue.start())

    def dataReceived(self, data: bytes) -> None:
        """Go on with the dialogue."""
        try:
            answer = self._dialogue.feed(data)
        except StartTLSError as error:
            self._send(error.answer)
            self._end(Failure(error))
            return
        self._send(answer)
        if self._dialogue.state is DialogueState.TLS_NEXT:
            self._upgrade()
        elif self._dialogue.state is DialogueState.CLOSED:
            self._end(Failure(StartTLSError(f"{self._dialogue.protocol}: there will be no TLS")))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection ended before there was any TLS."""
        self._factory.failed(reason)

    def abortConnection(self) -> None:
        """Whoever has asked for the connection wants it no more."""
        abort(self.transport)

    def _send(self, data: bytes) -> None:
        if data:
            self.transport.write(data)

    def _end(self, reason: Failure) -> None:
        self._factory.failed(reason)
        self.transport.loseConnection()

    def _upgrade(self) -> None:
        transport = self.transport
        tls = self._factory.build(self._addr)
        assert tls is not None
        greeting = self._dialogue.greeting_for_client
        if greeting:
            # To the application it is the first thing that the server says.
            tls.greeting = greeting
        transport.protocol = tls
        tls.makeConnection(transport)


class AskingFactory:
    """
    Makes connections on which a server is asked for TLS, before those of another factory begin.
    """

    noisy = False

    def __init__(
        self,
        build: Callable[[IAddress], TLSConnectorProtocol | None],
        protocol: str,
        host_name: str,
        begun: Callable[[Any], None],
        failed: Callable[[Failure], None],
    ) -> None:
        """
        @param build: makes the TLS layer.
        @param protocol: in which TLS is asked for: one of L{twisted_bioconn.starttls.NAMES}.
        @param host_name: see L{client_dialogue}.
        @param begun: called with what can be aborted, when there is a connection.
        @param failed: called with the reason when there will be no TLS on it.
        """
        self.build = build
        self.begun = begun
        self.failed = failed
        self._protocol = protocol
        self._host_name = host_name

    def buildProtocol(self, addr: IAddress) -> IProtocol:
        """
        @see: L{IProtocolFactory.buildProtocol}
        """
        dialogue = client_dialogue(self._protocol, host_name=self._host_name)
        return _Asking(self, addr, dialogue)

    def doStart(self) -> None:
        """
        @see: L{IProtocolFactory.doStart}
        """

    def doStop(self) -> None:
        """
        @see: L{IProtocolFactory.doStop}
        """


@implementer(IHalfCloseableProtocol)
class _Greeted(ProtocolWrapper):
    """
    Between an application that greets and a client that was greeted before.
    """

    def __init__(self, factory: Any, application: IProtocol, filter: BackendFilter) -> None:
        super().__init__(factory, application)
        self._filter: BackendFilter | None = filter
        self._held = b""

    def write(self, data: bytes) -> None:
        """Send what the application says, less its greeting."""
        filter = self._filter
        if filter is not None:
            try:
                data = filter.feed(bytes(data))
            except StartTLSError as error:
                _log.warn(
                    "{client}: {error}",
                    client=address_text(self.getPeer()),  # type: ignore[no-untyped-call]
                    error=one_line(str(error)),
                )
                abort(self.transport)
                return
            if filter.has_greeted:
                self._filter = None
                if self._held:
                    # The application is in the middle of saying something.
                    self.factory.clock.callLater(0, self._deliver)
        if data and self.transport is not None:
            self.transport.write(data)

    def writeSequence(self, data: Any) -> None:
        """
        @see: L{ITransport.writeSequence}
        """
        self.write(b"".join(data))

    def dataReceived(self, data: bytes) -> None:
        """Give the application what the client says, once it has greeted."""
        if self._filter is None and not self._held:
            self.wrappedProtocol.dataReceived(data)
            return
        self._held += data
        if len(self._held) > _MOST_HELD:
            abort(self.transport)

    def readConnectionLost(self) -> None:
        """The client has ended its side."""
        if IHalfCloseableProtocol.providedBy(self.wrappedProtocol):
            self.wrappedProtocol.readConnectionLost()
        else:
            assert self.transport is not None
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """We have ended ours."""
        if IHalfCloseableProtocol.providedBy(self.wrappedProtocol):
            self.wrappedProtocol.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        @see: L{IProtocol.connectionLost}
        """
        self._held = b""
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def _deliver(self) -> None:
        held, self._held = self._held, b""
        if held:
            self.wrappedProtocol.dataReceived(held)


class GreetedFactory(WrappingFactory):
    """
    Keeps the greeting of another factory's protocols from clients that have had one.
    """

    noisy = False

    def __init__(self, wrapped: IProtocolFactory, protocol: str, clock: Any) -> None:
        """
        @param protocol: in which TLS began: one of L{twisted_bioconn.starttls.NAMES}.
        @param clock: for what has to wait until an application is done with what it is doing.
        """
        super().__init__(wrapped)  # type: ignore[no-untyped-call]
        self.clock = clock
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """
        @see: L{IProtocolFactory.buildProtocol}
        """
        application = self.wrappedFactory.buildProtocol(addr)
        filter = make_backend_filter(self._protocol)
        if application is None or filter is None:
            return application
        return _Greeted(self, application, filter)
