"""
What each message needs of a connection, and its way through it.

L{TLSConnectorProtocol<twisted_bioconn.protocol.TLSConnectorProtocol>} has Twisted's
C{ProtocolWrapper} among its bases, whose C{__getattr__} makes every attribute four times as dear.
So what is asked for with each message is kept here, once; and the way of the plain case is here
too: an open connection, nothing of which waits, is paused or is about to end.  All else is the
protocol's concern.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure

from ._engine import Buffer, Form, copy_of, data_of
from ._phase import Phase
from .connector import Connector, State
from .errors import PeerError

# Global names are cheaper than attributes of an Enum.
_CONNECTED = Phase.CONNECTED
_OPEN = State.OPEN

MUCH = 32 * 1024
"""Bytes sent at once that OpenSSL's buffers grow for."""


class Link:
    """
    A connection, for its messages.

    @ivar connector: L{None} before there is a transport and after it was lost.
    @ivar deadline: L{None} before there is a transport.
    @ivar delivering: whether the application is being called.
    @ivar form: how the application takes plaintext.
    @ivar forward: what takes plaintext in the form of data, in place of C{dataReceived}.
    @ivar paused: whether the application has paused us.
    @ivar phase: where the connection is between the application and the transport.
    @ivar refused: why C{failVerification} wants the connection dropped.
    @ivar tls: the protocol, between C{makeConnection} and C{connectionLost}.
    @ivar transmit: sends ciphertext.
    """

    __slots__ = (
        "connector",
        "deadline",
        "delivering",
        "form",
        "forward",
        "paused",
        "phase",
        "refused",
        "tls",
        "transmit",
    )

    connector: Connector | None
    deadline: Any
    refused: Failure | None
    form: Form
    forward: Callable[[Any, int], None] | None
    transmit: Callable[[Buffer], None]
    phase: Phase
    tls: Any

    def __init__(self) -> None:
        self.connector = self.deadline = self.refused = self.tls = None
        self.delivering = self.paused = False
        self.form = Form.BYTES
        self.forward = None
        self.phase = Phase.NEW

    def received(self, data: Any, count: int) -> None:
        """
        Take ciphertext from a transport of our own reactor.

        @param data: the C{data} of an L{Inbox<twisted_bioconn._openssl.Inbox>}.
        @param count: the number of bytes in it.
        """
        connector = self.connector
        if connector is None:
            return
        tls = self.tls
        if (
            self.phase is not _CONNECTED
            or self.paused
            or self.delivering
            or connector.state is not _OPEN
        ):
            tls.dataReceived(copy_of(data, count))
            return
        self.delivering = True
        self.deadline.received += count
        try:
            plaintext = connector.decrypt(data, count, self.form)
            if not plaintext or self.refused is not None or connector.state is not _OPEN:
                if type(plaintext) is tuple:
                    plaintext = copy_of(*plaintext)
                tls._deliver(connector, bytes(plaintext))
            else:
                try:
                    if type(plaintext) is tuple:
                        self.forward(*plaintext)  # type: ignore[misc]
                    else:
                        tls.wrappedProtocol.dataReceived(plaintext)
                except Exception:
                    tls._applicationFailed()
        except PeerError as error:
            tls._failed(error)
        finally:
            self.delivering = False
            if connector.has_output:
                tls.flush()
            if self.paused:
                tls._holdTransport()

    def send(self, data: Buffer) -> None:
        """
        Send plaintext now.

        @param data: bytes, or a buffer that may be used again afterwards.
        """
        self.send_received(data if type(data) is bytes else data_of(data), len(data))

    def send_received(self, data: Any, count: int) -> None:
        """
        Send what a transport has just received.

        @param data: C{bytes}, or the C{data} of an L{Inbox<twisted_bioconn._openssl.Inbox>}.
        @param count: the number of bytes.
        """
        connector = self.connector
        if connector is None:
            return
        if (
            connector.has_output
            or connector.state is not _OPEN
            or self.phase is not _CONNECTED
            or not count
        ):
            self.tls.write(copy_of(data, count))
            self.tls.flush()
            return
        try:
            ciphertext = connector.encrypt(data, count)
        except PeerError as error:
            self.tls._failed(error)
            return
        self.deadline.written += len(ciphertext)
        if count > MUCH:
            self.tls._hasGrown()
        self.transmit(ciphertext)
        if connector.has_output:
            self.tls.flush()
