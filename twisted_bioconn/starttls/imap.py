"""IMAP: RFC 9051, section 6.2.1, and RFC 3501 before it."""

from __future__ import annotations

import re

from .dialogue import quoted
from .lines import Awaited, LineClient, LineServer, ends_in_literal

__all__ = ["LONGEST_IMAP_LINE", "IMAPClient", "IMAPServer"]

LONGEST_IMAP_LINE = 8192
"""Bytes of a line at most: what RFC 7162, section 4, wants a server to take."""

_COMMAND = re.compile(rb"([!#$&',.-\[\]-z|}~-]{1,64}) ([A-Za-z]+)(?: (.*))?", re.S)
"""The tag has no character but those of RFC 9051, section 9, for it comes back in the answer."""

_CAPABILITY = b"CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED"
_CAPABILITY_TAG, _STARTTLS_TAG = b"TLS1", b"TLS2"


class IMAPServer(LineServer):
    """
    Ends TLS for a server of IMAP.
    """

    _LONGEST = LONGEST_IMAP_LINE

    def start(self) -> bytes:
        return b"* OK [" + _CAPABILITY + b"] " + self._host + b" ready\r\n"

    def _line(self, line: bytes) -> bytes:
        if line.endswith(b"+}") and ends_in_literal(line):
            # What it holds comes without being asked for, and would be read as commands.
            raise self._error("the client sent a literal that was not waited for")
        match = _COMMAND.fullmatch(line)
        if match is None:
            return b"* BAD A tag and a command are expected\r\n"
        tag, verb, rest = match[1], match[2].upper(), match[3]
        if verb in (b"LOGIN", b"AUTHENTICATE"):
            # RFC 5530, section 3. A literal that the line ends with is not asked for.
            return tag + b" NO [PRIVACYREQUIRED] Must issue a STARTTLS command first\r\n"
        if verb not in (b"CAPABILITY", b"NOOP", b"LOGOUT", b"STARTTLS"):
            return tag + b" BAD Must issue a STARTTLS command first\r\n"
        if rest is not None:
            return tag + b" BAD " + verb + b" has no arguments\r\n"
        if verb == b"STARTTLS":
            return self._begin(tag + b" OK Begin TLS negotiation now\r\n")
        done = tag + b" OK " + verb + b" completed\r\n"
        if verb == b"LOGOUT":
            return self._end(b"* BYE " + self._host + b" closing the connection\r\n" + done)
        return b"* " + _CAPABILITY + b"\r\n" + done if verb == b"CAPABILITY" else done

    def _farewell(self) -> bytes:
        return b"* BYE " + self._host + b" closing the connection\r\n"


class IMAPClient(LineClient):
    """
    Asks a server of IMAP for TLS.

    Of the server's greeting the plain client gets the words: a response code that came in the clear
    could send it to another server, or say what this one can do (RFC 9051, section 6.2.1).
    """

    _LONGEST = LONGEST_IMAP_LINE

    def _line(self, line: bytes) -> bytes:
        if ends_in_literal(line):
            raise self._strange(line)
        kind, _, rest = line.partition(b" ")
        word, _, text = rest.partition(b" ")
        word = word.upper()
        if self._awaited is Awaited.GREETING:
            return self._greet(line, kind, word, text)
        if kind == b"*":
            if word == b"BYE":
                raise self._negative(line)
            if word == b"CAPABILITY" and self._awaited is Awaited.CAPABILITIES:
                self._is_offered = b"STARTTLS" in text.upper().split()
            return b""
        is_asked = self._awaited is Awaited.CAPABILITIES
        if kind != (_CAPABILITY_TAG if is_asked else _STARTTLS_TAG):
            raise self._strange(line)
        if word in (b"NO", b"BAD"):
            raise self._negative(line)
        if word != b"OK":
            raise self._strange(line)
        return self._ask_for_tls(_STARTTLS_TAG + b" STARTTLS\r\n") if is_asked else self._begin()

    def _greet(self, line: bytes, kind: bytes, word: bytes, text: bytes) -> bytes:
        if kind != b"*" or word not in (b"OK", b"PREAUTH", b"BYE"):
            raise self._strange(line)
        if word == b"BYE":
            raise self._negative(line)
        if word == b"PREAUTH":
            # STARTTLS is for those who are not authenticated: RFC 9051, section 6.2.
            raise self._refused(f"has authenticated us, and so cannot begin TLS: {quoted(line)}")
        while text.startswith(b"["):
            text = text.partition(b"]")[2].lstrip()
        self._greeting = b"* OK " + (text or b"ready") + b"\r\n"
        self._awaited = Awaited.CAPABILITIES
        return _CAPABILITY_TAG + b" CAPABILITY\r\n"
