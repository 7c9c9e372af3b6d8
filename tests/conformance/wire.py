"""
A connection to a server, as records: whatever they are, they are sent, and what comes is read.

How the server ends it is L{Ended}, which every method may raise.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import NoReturn, Self

from tlslite.constants import AlertDescription

from tests.conformance.hellos import vector
from tests.conformance.keys import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    TLS12,
    TLS13,
    BadRecord,
    Direction,
)

PATIENCE = 20.0
"""Seconds in which a server must say something; none is to wait for so long."""

LONGEST = 16384
"""Bytes of a record at most: RFC 8446, section 5.1."""


class Ended(Exception):
    """
    The server has ended the connection.

    @ivar what: the name of its alert; C{close_notify}; C{end} or C{reset}, of TCP; else what is
        wrong with it.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Wire:
    """
    One connection to a server.

    @ivar version: what was agreed on; 0 before that.
    @ivar writer: how our records are encrypted, once they are.
    @ivar reader: how the server's are.
    @ivar warnings: the names of the alerts of TLS 1.2 that did not end anything.
    @ivar sizes: the sizes of the records that came, as they were on the wire.
    @ivar changed: how many change_cipher_spec have come in TLS 1.3.
    """

    def __init__(self, ports: Mapping[str, int], where: str) -> None:
        """
        @param ports: those of the server, by the names of its configurations.
        @param where: the name of one of them.
        """
        self.ports = ports
        self.where = where
        self.socket = self.connect(("127.0.0.1", ports[where]))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.version = 0
        self.writer: Direction | None = None
        self.reader: Direction | None = None
        self.warnings: list[str] = []
        self.sizes: list[int] = []
        self.changed = 0
        self._wire = b""

    def connect(self, address: tuple[str, int]) -> socket.socket:
        """Make the connection."""
        return socket.create_connection(address, timeout=PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def raw(self, data: bytes) -> None:
        """Send these bytes."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            # What it has said before is there to be read.
            self.wait()

    def seal(self, kind: int, content: bytes, version: int = TLS12) -> bytes:
        """A record, encrypted if that is what is due."""
        if self.writer is not None:
            return self.writer.seal(kind, content)
        return bytes([kind]) + version.to_bytes(2, "big") + vector(2, content)

    def record(self, kind: int, content: bytes, version: int = TLS12) -> None:
        """Send a record, encrypted if that is what is due."""
        self.raw(self.seal(kind, content, version))

    def clear(self, kind: int, content: bytes, version: int = TLS12) -> None:
        """Send a record in the clear, whatever is due."""
        self.raw(bytes([kind]) + version.to_bytes(2, "big") + vector(2, content))

    def alert(self, name: str, level: int = 2) -> None:
        """Send an alert."""
        self.record(ALERT, bytes([level, getattr(AlertDescription, name)]))

    def end(self) -> None:
        """Send no more."""
        self.socket.shutdown(socket.SHUT_WR)

    def _exactly(self, size: int) -> bytes:
        while len(self._wire) < size:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                raise Ended("reset") from None
            except TimeoutError:
                raise Ended("silence") from None
            if not data:
                raise Ended("end within a record" if self._wire else "end")
            self._wire += data
        data, self._wire = self._wire[:size], self._wire[size:]
        return data

    def read(self) -> tuple[int, bytes]:
        """
        The kind and the content of the next record that means something.

        @raise Ended: there is none.
        """
        while True:
            header = self._exactly(5)
            body = self._exactly(struct.unpack("!H", header[3:])[0])
            kind = header[0]
            self.sizes.append(len(body))
            if kind == CHANGE_CIPHER_SPEC and self.version != TLS12:
                # RFC 8446, appendix D.4.
                self.changed += 1
                continue
            if self.reader is not None:
                if self.version == TLS13 and kind != APPLICATION_DATA:
                    raise Ended(f"a record of the kind {kind} in the clear")
                try:
                    kind, body = self.reader.open(header, body)
                except BadRecord:
                    raise Ended("a record that cannot be decrypted") from None
            if kind != ALERT:
                return kind, body
            self._alerted(body)

    def _alerted(self, body: bytes) -> None:
        if len(body) != 2:
            raise Ended(f"an alert of {len(body)} bytes")
        level, number = body
        name = AlertDescription.toStr(number)
        if name == "close_notify":
            raise Ended(name)
        if level == 1:
            if self.version != TLS12:
                raise Ended(f"{name} as a warning")
            self.warnings.append(name)
            return
        # RFC 8446, section 6.2: the connection is closed then, by both.
        try:
            self._exactly(1)
        except Ended as ended:
            if ended.what == "silence":
                raise Ended(f"{name}, and stays open") from None
            raise Ended(name) from None
        raise Ended(f"{name}, and says more")

    def wait(self) -> NoReturn:
        """
        Wait for the end.

        @raise Ended: it has come.
        """
        while True:
            self.read()
