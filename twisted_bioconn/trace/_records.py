"""Finds the records in what goes over the wire: RFC 8446, section 5.1; RFC 5246, section 6.2."""

from __future__ import annotations

from collections.abc import Callable

from .events import Way

__all__ = ["RecordReader"]

_HEADER = 5
_CLEAR = (20, 21, 22)
_APPLICATION_DATA = 23
_LONGEST = 16384 + 2048  # bytes of a record at most, encrypted: RFC 5246, section 6.2.3

Told = Callable[[Way, int, int, int, bool, bool], None]
"""Takes a way, a type, a version, a length, whether it is encrypted, and whether it is a record."""


class RecordReader:
    """
    The records of one direction.

    What is in one is kept only until it is whole, and only in the clear.

    @ivar messages: of handshake messages in the clear, what has come and is not read.
    """

    def __init__(self, told: Told, clear: Callable[[Way, int, bytes], None]) -> None:
        """
        @param told: called with each record that is whole.
        @param clear: called with the type and the content of each one in the clear.
        """
        self._told = told
        self._clear = clear
        self._header = bytearray()
        self._left = 0
        self._body = bytearray()
        self._encrypted = False
        self._is_garbage = False
        self.messages = bytearray()

    @property
    def missing(self) -> int:
        """Bytes that are missing of the record at hand, as far as that can be known."""
        if self._is_garbage:
            return 0
        return self._left or ((_HEADER - len(self._header)) if self._header else 0)

    def encrypts(self) -> None:
        """From the next record on, all are encrypted."""
        self._encrypted = True

    def feed(self, data: bytes, way: Way) -> None:
        """Take bytes."""
        at, end = 0, len(data)
        while at < end and not self._is_garbage:
            header = self._header
            if len(header) < _HEADER:
                taken = data[at : at + _HEADER - len(header)]
                header += taken
                at += len(taken)
                if not self._begins(way) or len(header) < _HEADER:
                    return
            # A record may have no bytes: then it is whole with its header.
            taken = data[at : at + self._left]
            at += len(taken)
            self._left -= len(taken)
            if self._is_clear:
                self._body += taken
            if not self._left:
                self._ends(way)

    @property
    def _is_clear(self) -> bool:
        return not self._encrypted and self._header[0] in _CLEAR

    def _begins(self, way: Way) -> bool:
        """Whether what may be the beginning of a record is one."""
        header = self._header
        fits = header[0] in (*_CLEAR, _APPLICATION_DATA, 24) and (len(header) < 2 or header[1] == 3)
        if fits and len(header) == _HEADER:
            self._left = header[3] << 8 | header[4]
            fits = self._left <= _LONGEST
        if not fits:
            self._is_garbage = True
            self._told(way, header[0], 0, 0, False, False)
        return fits

    def _ends(self, way: Way) -> None:
        header, body = bytes(self._header), bytes(self._body)
        is_clear = self._is_clear
        self._header.clear()
        self._body.clear()
        size = header[3] << 8 | header[4]
        self._told(way, header[0], header[1] << 8 | header[2], size, not is_clear, True)
        if is_clear:
            self._clear(way, header[0], body)
