"""What an engine is, and what the two engines of L{_openssl} share."""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

from OpenSSL import SSL

try:
    from OpenSSL._util import ffi as _ffi
except ImportError:
    _ffi = None

BUFFER_SIZE = 256 * 1024
"""
Bytes decrypted or drained in one go.  Larger than the cache halves the throughput, smaller
costs a join more.
"""

MAX_RECORD = 16 * 1024
"""Bytes of plaintext in one record at most: RFC 8446, section 5.1."""

ROOM = BUFFER_SIZE + 2 * MAX_RECORD
"""
Room for what becomes of L{BUFFER_SIZE} bytes of either kind, beside the rest of an earlier record.
"""

_NOTHING: dict[str, Any] = {}

Buffer = bytes | Any
"""Bytes, or a buffer of some, which is good until the next call of an engine in its thread."""


class Form(Enum):
    """How plaintext is given.  What is not bytes is good until the next call of an engine."""

    BYTES = "bytes"
    BUFFER = "a buffer"
    DATA = "what an engine encrypts, and the number of bytes in it: a tuple of both"


def copy_of(data: Any, count: int) -> bytes:
    """A copy of so many bytes of C{bytes}, or of the C{data} of an L{Inbox<_openssl.Inbox>}."""
    if type(data) is bytes or type(data) is bytearray:
        return bytes(data[:count])
    copy: bytes = _ffi.buffer(data, count)[:]
    return copy


def data_of(buffer: Any) -> Any:
    """A buffer, as L{Engine.encrypt} and L{copy_of} take it."""
    return bytes(buffer) if _ffi is None else _ffi.from_buffer(buffer)


def kept_on(connection: object, name: str) -> Any:
    """
    What we have kept on a connection by this name; L{None} where that is nothing.

    Not by C{getattr}: pyOpenSSL has a connection ask its socket for what it has not, and say in a
    sentence that it has none.
    """
    kept: dict[str, Any] = getattr(connection, "__dict__", _NOTHING)
    return kept.get(name)


def is_closed(connection: SSL.Connection) -> bool:
    """
    Whether the peer's close_notify has come, though OpenSSL has called it an error: it does where a
    peer says user_canceled first (RFC 8446, section 6.1).
    """
    return bool(connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN)


def go_on(connection: SSL.Connection) -> bool:
    """Go on with the handshake; say whether it is done."""
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        return False
    except SSL.SysCallError:
        explain_end(connection)
        raise
    return True


def explain_end(connection: SSL.Connection) -> None:
    """
    @raise OpenSSL.SSL.ZeroReturnError: what OpenSSL has called an error was a close_notify.
    """
    if is_closed(connection):
        raise SSL.ZeroReturnError from None


def shut_down(connection: SSL.Connection) -> bool:
    try:
        connection.shutdown()
    except SSL.Error as error:
        # A message of the peer's after the handshake came in two records, and one of them is not
        # here yet: OpenSSL will not begin another of ours in the middle.
        if "shutdown while in init" not in str(error):
            raise
        return False
    return True


class Engine(Protocol):
    """What the connector asks of OpenSSL."""

    connection: SSL.Connection

    def feed(self, ciphertext: bytes) -> None:
        """Push what arrived from the wire into the BIO that OpenSSL reads from."""

    def handshake(self) -> bool:
        """
        Go on with the handshake.

        @return: whether it is done.
        @raise OpenSSL.SSL.Error: it failed; whatever a callback raised comes out too.
        """

    def read(self, pieces: list[bytes]) -> bool:
        """
        Decrypt all that has been fed, appending plaintext to C{pieces}.

        @return: whether the peer's close_notify has been read.
        @raise OpenSSL.SSL.Error: a record was bad; C{pieces} has what came before it.
        """

    def write(self, plaintext: bytes) -> int:
        """
        Encrypt.

        @return: the number of bytes taken; 0 where OpenSSL wants to read first.
        """

    def drain(self) -> bytes:
        """All that OpenSSL has for the wire."""

    def decrypt(self, ciphertext: Any, count: int, form: Form = Form.BYTES) -> Buffer | None:
        """
        Push what arrived, and decrypt it as far as that is simple.

        @param ciphertext: C{bytes}, or the C{data} of an L{Inbox}.
        @param count: the number of bytes that arrived.
        @param form: how to give the plaintext.
        @return: the plaintext, which is all that came of it; L{None} where C{read} has to be
            called.
        """

    def encrypt(self, plaintext: Any, count: int) -> Buffer | None:
        """
        Encrypt, and give all that OpenSSL has for the wire.

        @param plaintext: C{bytes}, or the C{data} of an L{Inbox}.
        @param count: the number of bytes.

        @return: L{None} where nothing was done, and C{write} has to be called.
        """

    def close(self) -> bool:
        """
        Make OpenSSL send close_notify.

        @return: whether it did; otherwise it wants to read first.
        """

    def forget(self) -> None:
        """Say that the connection ended well, so that its session can be resumed."""

    def resumed(self) -> bool:
        """Whether the handshake resumed an earlier session."""

    def verification_error(self) -> int | None:
        """The C{X509_V_ERR_} number of a refused certificate, where it can be known."""

    def renew_bios(self) -> bool:
        """
        Give a drained connection fresh BIOs: a memory BIO keeps the size it grew to.

        @return: whether that was possible.
        """


class _NoEngine:
    """The engine of a connection that is to come: nothing has happened, and nothing can."""

    connection: Any = None

    def drain(self) -> bytes:
        return b""


NO_ENGINE: Any = _NoEngine()
"""What a connector has as long as its connection is to come."""
