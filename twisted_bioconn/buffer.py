"""Plaintext that is written and not encrypted yet: where it waits, and how much of it may."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from .errors import UsageError

__all__ = ["WriteBuffer", "WriteBufferLike"]


class WriteBufferLike(Protocol):
    """What the connector asks of the buffer for plaintext that is not encrypted yet."""

    def __len__(self) -> int:
        """The number of bytes in it."""

    def append(self, data: bytes) -> None:
        """
        Take bytes at the end.

        @raise UsageError: there is no room.
        """

    def take(self, limit: int) -> bytes:
        """Give up to C{limit} bytes from the front; C{b""} where there are none."""

    def clear(self) -> None:
        """Forget all bytes: they can no longer be sent."""


class WriteBuffer:
    """
    Plaintext on its way out, bounded, which says when it is filled and when it has drained.

    @ivar high: above this many bytes C{filled} is called, once.
    @ivar low: at this many bytes or fewer C{drained} is called, once after each C{filled}.
    @ivar limit: more bytes than this are refused; L{None} for no bound, where whoever writes
        heeds C{filled}.
    """

    __slots__ = ("_chunks", "_drained", "_filled", "_over", "_size", "high", "limit", "low")

    def __init__(
        self,
        high: int = 64 * 1024,
        low: int = 16 * 1024,
        limit: int | None = 1024 * 1024,
        filled: Callable[[], object] | None = None,
        drained: Callable[[], object] | None = None,
    ) -> None:
        if not 0 <= low <= high or (limit is not None and limit < high):
            raise UsageError(
                f"the water marks of a write buffer must rise: low={low}, high={high},"
                f" limit={limit}"
            )
        self.high = high
        self.low = low
        self.limit = limit
        self._filled = filled
        self._drained = drained
        self._chunks: deque[bytes | memoryview] = deque()
        self._size = 0
        self._over = False

    def __len__(self) -> int:
        return self._size

    def append(self, data: bytes) -> None:
        size = self._size + len(data)
        if self.limit is not None and size > self.limit:
            raise UsageError(
                f"the write buffer holds {self._size} of at most {self.limit} bytes:"
                f" no room for {len(data)} more"
            )
        self._chunks.append(data)
        self._size = size
        if size > self.high and not self._over:
            self._over = True
            if self._filled is not None:
                self._filled()

    def take(self, limit: int) -> bytes:
        chunks = self._chunks
        if self._size <= limit:
            data = b"".join(chunks)
            chunks.clear()
            self._size = 0
        else:
            pieces, left = [], limit
            while len(chunks[0]) <= left:
                chunk = chunks.popleft()
                left -= len(chunk)
                pieces.append(chunk)
            # A view, so that a large chunk is cut at the cost of what is cut off it.
            view = memoryview(chunks[0])
            pieces.append(view[:left])
            chunks[0] = view[left:]
            self._size -= limit
            data = b"".join(pieces)
        if self._over and self._size <= self.low:
            self._over = False
            if self._drained is not None:
                self._drained()
        return data

    def clear(self) -> None:
        self._chunks.clear()
        self._size = 0
