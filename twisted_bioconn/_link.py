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
from ._transport import unsent
from .connector import Connector, State
from .errors import PeerError

# Global names are cheaper than attributes of an Enum.
_CONNECTED = Phase.CONNECTED
_OPEN = State.OPEN

MUCH = 32 * 1024
"""Bytes sent at once that OpenSSL's buffers grow for."""

MOST_BARREN = 128 * 1024
"""
Bytes in a row in which a peer may have nothing for the application: eight of the longest records,
some hundred session tickets, or some thousand key updates.  OpenSSL has a limit for alerts and
empty records, and takes key updates, renegotiation that it refuses, and tickets without end.
"""

MOST_ANSWERED = 64 * 1024
"""
Bytes that OpenSSL may answer by itself to a peer that does not read.  Nobody is paused for them, as
nobody has written them.
"""

LOOK = 64 * 1024
"""
Bytes that come until it is looked whether OpenSSL has answered by itself.  With data behind it, a
key update is not seen, and the application may have nothing to say.
"""


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
        "_answered",
        "_answered_at",
        "_barren",
        "_barren_at",
        "_look_at",
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
    _answered: int
    """Bytes that OpenSSL has answered by itself since C{_answered_at}."""
    _answered_at: int
    """So many bytes had been written then, and they are not all sent."""
    _barren: int
    """Bytes that came last, in a row, with nothing for the application."""
    refused: Failure | None
    form: Form
    forward: Callable[[Any, int], None] | None
    transmit: Callable[[Buffer], None]
    phase: Phase
    tls: Any

    def __init__(self) -> None:
        self.connector = self.deadline = self.refused = self.tls = None
        self.delivering = self.paused = False
        self._answered = self._answered_at = self._barren = self._barren_at = 0
        self._look_at = LOOK
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
        self.deadline.received = received = self.deadline.received + count
        try:
            if received > self._look_at:
                # Not after it is decrypted: that is good until the next call.
                self._look_at = received + LOOK
                connector.collect()
            plaintext = connector.decrypt(data, count, self.form)
            if connector.has_output:
                self._bound_answers(connector.pending_ciphertext)
            if not plaintext or self.refused is not None or connector.state is not _OPEN:
                if type(plaintext) is tuple:
                    plaintext = copy_of(*plaintext)
                if not plaintext:
                    self._bound_barren(count)
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

    def read(self, connector: Connector, count: int) -> bytes:
        """
        Read what was fed.

        @param count: how many bytes, which the deadline has counted already.
        @raise PeerError: as L{Connector.read} does; or the peer brings, or has us send, too much
            that is not of the application.
        """
        before = connector.pending_ciphertext if connector.has_output else 0
        plaintext = connector.read()
        if connector.has_output:
            answered = connector.pending_ciphertext - before
            if answered:
                self._bound_answers(answered)
        if not plaintext:
            self._bound_barren(count)
        return plaintext

    def _bound_barren(self, count: int) -> None:
        """Bytes have come with nothing in them for the application."""
        received = self.deadline.received
        # Nothing is done for bytes with something in them: they show in what was counted.
        self._barren = count + (self._barren if received - count == self._barren_at else 0)
        self._barren_at = received
        if self._barren > MOST_BARREN:
            raise PeerError(
                f"the peer has sent {self._barren} bytes of key updates or the like, and no data"
            )

    def _bound_answers(self, count: int) -> None:
        """OpenSSL has answered by itself, and that is to be sent."""
        written = self.deadline.written
        # What was written after something that is not sent yet is not sent either.
        if written - unsent(self.tls.transport) >= self._answered_at:
            self._answered, self._answered_at = 0, written
        self._answered += count
        if self._answered > MOST_ANSWERED:
            raise PeerError(
                f"the peer does not read {self._answered} bytes of answers to key updates or the"
                " like"
            )

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
