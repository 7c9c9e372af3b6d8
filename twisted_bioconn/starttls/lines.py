"""Dialogues in lines: SMTP, LMTP, IMAP, POP3 and ManageSieve."""

from __future__ import annotations

import re
from abc import abstractmethod
from enum import Enum

from .dialogue import ClientDialogue, Dialogue, DialogueState, ServerDialogue, quoted

__all__ = [
    "LONGEST_LINE",
    "Awaited",
    "LineClient",
    "LineServer",
    "MalformedLine",
    "ends_in_literal",
    "find_line",
]

LONGEST_LINE = 2048
"""
Bytes of a line at most, with its end.  SMTP's own bound is 512, and extensions add to it (RFC 5321,
section 4.5.3.1); that of POP3 is 512 too (RFC 2449, section 4).
"""

_LITERAL = re.compile(rb"\{[0-9]+\+?\}$")


class MalformedLine(Exception):
    """This is no line: the words say what is wrong with it."""


def find_line(buffer: bytearray, longest: int = LONGEST_LINE) -> tuple[bytes, int] | None:
    """
    The first line of a buffer.  A bare line feed ends one too, as servers commonly allow.

    @param longest: bytes at most, with its end.
    @return: the line without its end, and the size of both; L{None} if it is not all there.
    @raise MalformedLine: it is longer, or has a carriage return or a NUL within, at which others
        may end a line.
    """
    end = buffer.find(b"\n", 0, longest)
    if end < 0:
        if len(buffer) >= longest:
            raise MalformedLine(f"a line is longer than {longest} bytes")
        return None
    line = bytes(buffer[:end]).removesuffix(b"\r")
    if b"\r" in line or b"\0" in line:
        raise MalformedLine("a line has a carriage return or a NUL within")
    return line, end + 1


def ends_in_literal(line: bytes) -> bool:
    """
    Whether what follows a line is no line: RFC 9051, section 4.3; RFC 5804, section 1.2.
    """
    return _LITERAL.search(line) is not None


class Awaited(Enum):
    """
    What a client waits for: C{GREETING -> CAPABILITIES -> STARTTLS}.
    """

    GREETING = "the greeting"
    CAPABILITIES = "the list of what the server can do"
    STARTTLS = "the answer to our asking for TLS"


class _Lines(Dialogue):
    _LONGEST = LONGEST_LINE

    def _take(self) -> bytes | None:
        try:
            found = find_line(self._buffer, self._LONGEST)
        except MalformedLine as error:
            raise self._error(f"the {self._PEER} broke the protocol: {error}") from None
        if found is None:
            return None
        line, size = found
        del self._buffer[:size]
        return line

    def _answer(self, unit: bytes) -> bytes:
        self._spend()
        return self._line(unit)

    @abstractmethod
    def _line(self, line: bytes) -> bytes:
        """As L{_answer}."""


class LineServer(_Lines, ServerDialogue):
    """
    A server that is spoken to in lines.
    """

    def _take(self) -> bytes | None:
        self._check_no_tls()
        return super()._take()

    def _begin(self, answer: bytes) -> bytes:
        self.state = DialogueState.TLS_NEXT
        return answer

    def _end(self, answer: bytes) -> bytes:
        self.state = DialogueState.CLOSED
        return answer


class LineClient(_Lines, ClientDialogue):
    """
    A client of a server that answers in lines.
    """

    def __init__(self, protocol: str, host_name: str) -> None:
        super().__init__(protocol, host_name)
        self._awaited = Awaited.GREETING
        self._is_offered = False
        self._greeting = b""

    def _ask_for_tls(self, request: bytes) -> bytes:
        """
        @raise StartTLSRefused: it is not offered.
        """
        if not self._is_offered:
            raise self._refused("does not offer STARTTLS")
        self._awaited = Awaited.STARTTLS
        return request

    def _begin(self) -> bytes:
        self.state = DialogueState.TLS_NEXT
        self.greeting_for_client = self._greeting
        return b""

    def _negative(self, line: bytes) -> Exception:
        """For an answer that is none of those hoped for, but one of the protocol's."""
        what = {
            Awaited.GREETING: "does not want to talk",
            Awaited.CAPABILITIES: "does not say what it can do",
            Awaited.STARTTLS: "refuses to begin TLS",
        }[self._awaited]
        return self._refused(f"{what}: {quoted(line)}")

    def _strange(self, line: bytes) -> Exception:
        """For what is no answer at all."""
        return self._error(f"{self._awaited.value} cannot be read: {quoted(line)}")
