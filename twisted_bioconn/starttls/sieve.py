"""
ManageSieve: RFC 5804, section 2.2.

Once TLS has begun, the server says anew what it can do: for a server behind a front that is its
greeting, and no client needs another.
"""

from __future__ import annotations

import re

from .lines import Awaited, LineClient, LineServer, ends_in_literal

__all__ = ["SieveClient", "SieveServer"]

_NOOP = re.compile(rb'NOOP(?: ("(?:[^"\\]|\\["\\]){0,1024}"))?', re.I | re.S)
_CAPABILITY = re.compile(rb'"((?:[^"\\]|\\["\\])*)"(?: "(?:[^"\\]|\\["\\])*")?', re.S)


class SieveServer(LineServer):
    """
    Ends TLS for a server of ManageSieve.
    """

    def start(self) -> bytes:
        return self._capabilities() + b'OK "' + self._host + b' ready"\r\n'

    def _capabilities(self) -> bytes:
        # RFC 5804, section 1.7: these, and without TLS no way to authenticate.
        return (
            b'"IMPLEMENTATION" "' + self._host + b'"\r\n"SASL" ""\r\n"SIEVE" ""\r\n'
            b'"STARTTLS"\r\n"VERSION" "1.0"\r\n'
        )

    def _line(self, line: bytes) -> bytes:
        if ends_in_literal(line):
            # No client waits before it sends one, and what it holds would be read as commands.
            raise self._error("the client sent a literal before TLS")
        noop = _NOOP.fullmatch(line)
        if noop is not None:
            tag = b"" if noop[1] is None else b"(TAG " + noop[1] + b") "
            return b"OK " + tag + b'"Done"\r\n'
        verb = line.rstrip().upper()
        if verb == b"STARTTLS":
            return self._begin(b'OK "Begin TLS negotiation now"\r\n')
        if verb == b"LOGOUT":
            return self._end(b'OK "closing the connection"\r\n')
        if verb == b"CAPABILITY":
            return self._capabilities() + b"OK\r\n"
        code = b"(ENCRYPT-NEEDED) " if verb.startswith(b"AUTHENTICATE") else b""
        return b"NO " + code + b'"Must issue a STARTTLS command first"\r\n'

    def _farewell(self) -> bytes:
        return b'BYE "closing the connection"\r\n'


class SieveClient(LineClient):
    """
    Asks a server of ManageSieve for TLS.  That its greeting says what it can do spares the asking.
    """

    def _line(self, line: bytes) -> bytes:
        if ends_in_literal(line):
            raise self._strange(line)
        word = line.replace(b"(", b" ").partition(b" ")[0].upper()
        if word in (b"NO", b"BYE"):
            raise self._negative(line)
        if word == b"OK":
            if self._awaited is Awaited.GREETING:
                return self._ask_for_tls(b"STARTTLS\r\n")
            return self._begin()
        match = _CAPABILITY.fullmatch(line)
        if match is None or self._awaited is not Awaited.GREETING:
            raise self._strange(line)
        self._is_offered |= match[1].upper() == b"STARTTLS"
        return b""
