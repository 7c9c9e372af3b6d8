"""POP3: RFC 2595, section 4, and RFC 2449 for what a server says that it can do."""

from __future__ import annotations

from .lines import Awaited, LineClient, LineServer

__all__ = ["POP3Client", "POP3Server"]


class POP3Server(LineServer):
    """
    Ends TLS for a server of POP3.

    There is no APOP through it: the time stamp that it needs is in the greeting of the server
    behind, which comes when the client has had ours (RFC 1939, section 7).
    """

    def start(self) -> bytes:
        return b"+OK " + self._host + b" ready\r\n"

    def _line(self, line: bytes) -> bytes:
        verb, _, rest = line.partition(b" ")
        verb = verb.upper()
        if verb not in (b"CAPA", b"QUIT", b"STLS"):
            return b"-ERR Must issue a STLS command first\r\n"
        if rest.strip():
            return b"-ERR " + verb + b" has no arguments\r\n"
        if verb == b"STLS":
            return self._begin(b"+OK Begin TLS negotiation\r\n")
        if verb == b"QUIT":
            return self._end(b"+OK " + self._host + b" closing the connection\r\n")
        return b"+OK Capability list follows\r\nSTLS\r\n.\r\n"

    def _farewell(self) -> bytes:
        return b"-ERR " + self._host + b" closing the connection\r\n"


class POP3Client(LineClient):
    """
    Asks a server of POP3 for TLS.  The greeting keeps the time stamp for APOP.
    """

    def __init__(self, protocol: str, host_name: str) -> None:
        super().__init__(protocol, host_name)
        self._in_list = False

    def _line(self, line: bytes) -> bytes:
        if self._in_list:
            if line != b".":
                self._is_offered |= line.upper().split() == [b"STLS"]
                return b""
            self._in_list = False
            return self._ask_for_tls(b"STLS\r\n")
        status = line.partition(b" ")[0].upper()
        if status == b"-ERR":
            raise self._negative(line)
        if status != b"+OK":
            raise self._strange(line)
        if self._awaited is Awaited.GREETING:
            self._greeting = line + b"\r\n"
            self._awaited = Awaited.CAPABILITIES
            return b"CAPA\r\n"
        if self._awaited is Awaited.CAPABILITIES:
            self._in_list = True
            return b""
        return self._begin()
