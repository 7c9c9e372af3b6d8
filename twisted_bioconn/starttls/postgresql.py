"""
PostgreSQL, version 3 of its protocol: "SSL Session Encryption" and "Message Formats" in its manual.

A client of version 17 can begin TLS at once instead, with C{postgresql} offered by ALPN, which the
server then has to choose (C{sslnegotiation=direct}).  That is TLS and no dialogue, and is refused
here with a sentence that says so.
"""

from __future__ import annotations

from struct import Struct

from .dialogue import ClientDialogue, DialogueState, ServerDialogue

__all__ = ["PostgreSQLClient", "PostgreSQLServer"]

_HEAD = Struct(">II")  # the length of a message, itself included, and its code
_LONGEST = 8192  # bytes of a message; PostgreSQL itself takes 10000

_CANCEL, _SSL, _GSSENC = 80877102, 80877103, 80877104
_SHORTEST_CANCEL = 16


def _error_response(state: bytes, message: bytes) -> bytes:
    """What a server says before it closes: the fields are severity, SQLSTATE and message."""
    fields = b"SFATAL\0VFATAL\0C" + state + b"\0M" + message + b"\0\0"
    return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields


class PostgreSQLServer(ServerDialogue):
    """
    Ends TLS for a server of PostgreSQL.

    A C{CancelRequest} in the clear has no effect, and like any other it has no answer.
    """

    def __init__(self, protocol: str, host_name: str) -> None:
        super().__init__(protocol, host_name)
        self._gss_refused = False

    def _take(self) -> bytes | None:
        self._check_no_tls()
        if len(self._buffer) < 4:
            return None
        size = int.from_bytes(self._buffer[:4], "big")
        if not _HEAD.size <= size <= _LONGEST:
            raise self._error(f"the client sent a first message of {size} bytes")
        if len(self._buffer) < size:
            return None
        unit = bytes(self._buffer[:size])
        del self._buffer[:size]
        return unit

    def _answer(self, unit: bytes) -> bytes:
        self._spend()
        size, code = _HEAD.unpack_from(unit)
        if code == _SSL and size == _HEAD.size:
            self.state = DialogueState.TLS_NEXT
            return b"S"
        if code == _GSSENC and size == _HEAD.size and not self._gss_refused:
            self._gss_refused = True
            return b"N"
        if code == _CANCEL and size >= _SHORTEST_CANCEL:
            self.state = DialogueState.CLOSED
            return b""
        if code >> 16 == 3:
            self.state = DialogueState.CLOSED
            return _error_response(b"28000", b"this server requires SSL")
        raise self._error(f"the client sent a first message that is not known: code {code}")

    def _farewell(self) -> bytes:
        return _error_response(b"08P01", b"protocol violation before SSL")


class PostgreSQLClient(ClientDialogue):
    """
    Asks a server of PostgreSQL for TLS.
    """

    def start(self) -> bytes:
        return _HEAD.pack(_HEAD.size, _SSL)

    def _take(self) -> bytes | None:
        unit = bytes(self._buffer[:1])
        del self._buffer[:1]
        return unit or None

    def _answer(self, unit: bytes) -> bytes:
        if unit == b"S":
            self.state = DialogueState.TLS_NEXT
            return b""
        if unit == b"N":
            raise self._refused("refuses to begin TLS: it answered N")
        if unit == b"E":
            # What the error says is not shown: anybody may have written it (CVE-2024-10977).
            raise self._refused("refuses to begin TLS: it answered with an error")
        raise self._error("the answer to our asking for TLS cannot be read")
