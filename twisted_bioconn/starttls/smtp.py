"""
SMTP (RFC 3207) and LMTP (RFC 2033), which differ in how a client says hello.

A server at the end of an MX record may not insist on TLS (RFC 3207, section 4): this one is for
submission, and for peers that are known to have it.
"""

from __future__ import annotations

import re

from .lines import Awaited, LineClient, LineServer

__all__ = ["SMTPClient", "SMTPServer", "reply_line"]

_REPLY = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.S)


def reply_line(line: bytes) -> tuple[int, bool, bytes] | None:
    """
    Read a line of a reply: RFC 5321, section 4.2.1.

    @return: its code, whether it is the last line, and its text; L{None} for what is none.
    """
    match = _REPLY.fullmatch(line)
    return match and (int(match[1]), match[2] != b"-", match[3] or b"")


class SMTPServer(LineServer):
    """
    Ends TLS for a server of SMTP or LMTP.
    """

    def start(self) -> bytes:
        kind = b"LMTP" if self.protocol == "lmtp" else b"ESMTP"
        return b"220 " + self._host + b" " + kind + b"\r\n"

    def _line(self, line: bytes) -> bytes:
        verb, _, rest = line.partition(b" ")
        verb, rest = verb.upper().rstrip(), rest.strip()
        # RFC 2033, section 4.1: LMTP has the one, and must not have the others.
        if verb in ((b"LHLO",) if self.protocol == "lmtp" else (b"EHLO", b"HELO")):
            if not rest:
                return b"501 Syntax: " + verb + b" hostname\r\n"
            if verb == b"HELO":
                return b"250 " + self._host + b"\r\n"
            return b"250-" + self._host + b"\r\n250 STARTTLS\r\n"
        if verb == b"STARTTLS":
            if rest:
                return b"501 Syntax error (no parameters allowed)\r\n"
            return self._begin(b"220 Ready to start TLS\r\n")
        if verb == b"QUIT":
            return self._end(b"221 " + self._host + b" closing the connection\r\n")
        if verb in (b"NOOP", b"RSET"):
            return b"250 OK\r\n"
        return b"530 Must issue a STARTTLS command first\r\n"

    def _farewell(self) -> bytes:
        return b"421 " + self._host + b" closing the connection\r\n"


class SMTPClient(LineClient):
    """
    Asks a server of SMTP or LMTP for TLS.  The name of the host is the one that it says hello with.
    """

    def __init__(self, protocol: str, host_name: str) -> None:
        super().__init__(protocol, host_name)
        self._code: int | None = None
        self._lines: list[bytes] = []

    def _line(self, line: bytes) -> bytes:
        read = reply_line(line)
        if read is None or self._code not in (None, read[0]):
            raise self._strange(line)
        self._code, is_last, text = read
        wanted = 250 if self._awaited is Awaited.CAPABILITIES else 220
        if self._code != wanted:
            raise self._negative(line)
        if self._awaited is Awaited.GREETING:
            self._greeting += line + b"\r\n"
        self._lines.append(text)
        if not is_last:
            return b""
        lines, self._lines, self._code = self._lines, [], None
        if self._awaited is Awaited.GREETING:
            self._awaited = Awaited.CAPABILITIES
            hello = b"LHLO " if self.protocol == "lmtp" else b"EHLO "
            return hello + self._host + b"\r\n"
        if self._awaited is Awaited.CAPABILITIES:
            # The first line is the server's name: RFC 5321, section 4.1.1.1.
            self._is_offered = any(each.upper().split()[:1] == [b"STARTTLS"] for each in lines[1:])
            return self._ask_for_tls(b"STARTTLS\r\n")
        return self._begin()
