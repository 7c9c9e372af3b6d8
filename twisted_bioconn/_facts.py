"""What an application can ask of its connection."""

from __future__ import annotations

from typing import Any

import attrs
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.protocols.tls import BufferingTLSTransport
from twisted.python.failure import Failure

from ._link import Link
from ._phase import Phase
from .access import Rules
from .connector import Connector
from .errors import UsageError
from .limits import Slot
from .negotiated import Negotiated


class ConnectionFacts(BufferingTLSTransport):
    """
    The part of L{TLSConnectorProtocol<twisted_bioconn.protocol.TLSConnectorProtocol>} that
    answers questions and changes nothing.

    Twisted's own class is its base so that programs which look for that find it.

    @ivar slot: its place in the counts of its port, where there are limits.
    @ivar rules: who may come in, where there are rules.
    @ivar firstBytes: what a client has sent first, until its handshake is done.
    @ivar greeting: what a server has said before TLS, and its client is to hear after it.
    """

    # Any, because either may be of somebody else's making: a factory that has none of our
    # attributes, a transport that can do no more than write and close.
    factory: Any
    transport: Any

    slot: Slot | None = None
    rules: Rules | None = None
    firstBytes = b""
    greeting = b""
    _handshakeWaited = 0.0
    _negotiated: Negotiated | None = None
    _handshakeSeconds: float | None = None
    _reason: Failure | None = None
    _waiting: list[Deferred[Negotiated]] | None = None

    def __init__(
        self,
        factory: Any,
        wrappedProtocol: IProtocol,
        _connectWrapped: bool = True,
    ) -> None:
        """
        @param factory: a C{TLSConnectorFactory}; any other C{WrappingFactory} that has a
            C{_creatorCallable} will do.
        @param wrappedProtocol: the application's protocol.
        @param _connectWrapped: L{False} where the application's protocol is connected already,
            as it is in C{startTLS}.
        """
        self._link = Link()
        self.factory = factory
        self.wrappedProtocol = wrappedProtocol
        self._connectWrapped = _connectWrapped

    @property
    def disconnecting(self) -> bool:  # type: ignore[override]
        """Whether the connection is closed, or on its way to be."""
        return self._link.phase not in (Phase.NEW, Phase.CONNECTED)

    @property  # type: ignore[override]
    def _tlsConnection(self) -> SSL.Connection | None:
        connector = self._link.connector
        return None if connector is None else connector.connection

    @_tlsConnection.setter
    def _tlsConnection(self, connection: SSL.Connection) -> None:
        self._needConnector().connection = connection

    @property
    def traffic(self) -> tuple[int, int]:
        """The bytes that were received and sent, as they are on the wire."""
        deadline = self._link.deadline
        return (0, 0) if deadline is None else (deadline.received, deadline.written)

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
        if self._negotiated is None and self._link.connector is not None:
            facts = self._link.connector.negotiated
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
        if self._link.connector is None:
            raise UsageError("there is no connection")
        return self._link.connector

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
        elif self._link.phase is Phase.LOST:
            done.errback(self._reason or Failure(ConnectionDone()))
        else:
            if self._waiting is None:
                self._waiting = []
            self._waiting.append(done)
        return done
