"""
The greeting of a server that is behind a front which ends TLS for it.

The client has had the front's greeting, before TLS, and does not expect another.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from .dialogue import StartTLSError, quoted
from .imap import LONGEST_IMAP_LINE
from .lines import LONGEST_LINE, MalformedLine, find_line
from .smtp import reply_line

__all__ = ["BackendFilter", "filter_for"]

_MOST_LINES = 50  # of a greeting


class _Line(Enum):
    """What a line of a server that was not asked anything yet is."""

    MORE = "a greeting of which more lines come"
    LAST = "the last line of a greeting"
    REFUSAL = "no greeting: the server does not want to talk"
    PREAUTH = "a greeting to a client that the server takes as authenticated"
    STRANGE = "nothing that can be read"


class BackendFilter:
    """
    Keeps back the greeting of a server, and lets pass all that follows.

    Where the server says instead that it does not want to talk, the client gets that, as if it were
    the answer to what it asks first.

    What the client sends is to be kept until the server has greeted: many a server takes one that
    speaks first for a sender of spam.

    @ivar has_greeted: whether the greeting is over, and the client may be heard.
    """

    def __init__(self, protocol: str, longest: int, kind: Callable[[bytes], _Line]) -> None:
        self.has_greeted = False
        self._protocol = protocol
        self._longest = longest
        self._kind = kind
        self._buffer = bytearray()
        self._lines = 0

    def feed(self, data: bytes) -> bytes:
        """
        Take what has come from the server.

        @return: what of it is for the client.
        @raise StartTLSError: it cannot be read, or it takes any client as authenticated.
        """
        if self.has_greeted:
            return data
        self._buffer += data
        while not self.has_greeted:
            try:
                found = find_line(self._buffer, self._longest)
            except MalformedLine as error:
                raise self._error(f"broke the protocol: {error}") from None
            if found is None:
                return b""
            line, size = found
            kind = self._kind(line)
            if kind is _Line.STRANGE or (self._lines and kind is _Line.REFUSAL):
                raise self._error(f"sent a greeting that cannot be read: {quoted(line)}")
            if kind is _Line.PREAUTH:
                raise self._error(f"takes any client as authenticated: {quoted(line)}")
            if kind is not _Line.REFUSAL:
                del self._buffer[:size]
            self._lines += 1
            if self._lines >= _MOST_LINES and kind is _Line.MORE:
                raise self._error(f"sent a greeting of more than {_MOST_LINES} lines")
            self.has_greeted = kind is not _Line.MORE
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _error(self, sentence: str) -> StartTLSError:
        return StartTLSError(f"{self._protocol}: the server behind {sentence}")


def _smtp(line: bytes) -> _Line:
    read = reply_line(line)
    if read is None or read[0] < 220 or 221 <= read[0] < 400:
        return _Line.STRANGE
    if read[0] != 220:
        return _Line.REFUSAL
    return _Line.LAST if read[1] else _Line.MORE


def _imap(line: bytes) -> _Line:
    words = line.upper().split(b" ", 2)
    if words[0] != b"*" or len(words) < 2:
        return _Line.STRANGE
    kinds = {b"OK": _Line.LAST, b"BYE": _Line.REFUSAL, b"PREAUTH": _Line.PREAUTH}
    return kinds.get(words[1], _Line.STRANGE)


def _pop3(line: bytes) -> _Line:
    status = line.upper().partition(b" ")[0]
    return {b"+OK": _Line.LAST, b"-ERR": _Line.REFUSAL}.get(status, _Line.STRANGE)


_FILTERS: dict[str, tuple[int, Callable[[bytes], _Line]]] = {
    "smtp": (LONGEST_LINE, _smtp),
    "lmtp": (LONGEST_LINE, _smtp),
    "imap": (LONGEST_IMAP_LINE, _imap),
    "pop3": (LONGEST_LINE, _pop3),
}


def filter_for(name: str) -> BackendFilter | None:
    """The filter for a protocol that has one."""
    found = _FILTERS.get(name)
    return None if found is None else BackendFilter(name, *found)
