"""
Counts that several processes keep together.

Each process has a row of its own in memory that all of them share, and writes there alone: there is
nothing to lock.  What all have of something is the sum of a column.  That two processes look at
once, and both count one more, is possible: a sum may go over what it is compared with by as many as
there are other processes.
"""

from __future__ import annotations

import mmap
import os

__all__ = ["WIDTH", "Alone", "Board"]

WIDTH = 32768
"""Columns for places of which there may be any number, such as addresses."""


class Alone:
    """
    The counts of a process that shares none: the others have nothing.
    """

    def sit(self, row: int) -> None:
        """
        @see: L{Board.sit}
        """

    def add(self, column: int, step: int) -> None:
        """
        @see: L{Board.add}
        """

    def others(self, column: int) -> int:
        """
        @see: L{Board.others}
        """
        return 0

    def add_place(self, place: str, step: int) -> None:
        """
        @see: L{Board.add_place}
        """

    def others_at(self, place: str) -> int:
        """
        @see: L{Board.others_at}
        """
        return 0

    def clear(self, row: int) -> None:
        """
        @see: L{Board.clear}
        """


class Board(Alone):
    """
    The counts.

    A place has two columns, which hashes choose, and shares them with others; the lesser of both is
    at most too high, and that only where both are shared: one place of 15 with 10,000 places there
    are, one of 1,000 with 1,000.

    @ivar shared: as many bytes as were asked for, for anything else.
    """

    def __init__(self, rows: int, columns: int, *, places: bool = False, more: int = 0) -> None:
        """
        @param rows: how many processes there are at most.
        @param columns: how many things are counted that have a number.
        @param places: whether places are counted too.
        @param more: how many bytes of memory to share beside that, a multiple of 8.
        """
        self._rows = rows
        self._first = columns
        self._columns = columns + (2 * WIDTH if places else 0)
        # What is not written to takes no memory.
        memory = memoryview(mmap.mmap(-1, more + 4 * self._columns * rows))
        self.shared = memory[:more]
        self._counts = memory[more:].cast("I")
        self._salt = os.urandom(16)
        self._row = 0

    def sit(self, row: int) -> None:
        """This process has a row, from 0 up."""
        self._row = row

    def add(self, column: int, step: int) -> None:
        """Count more, or less, of something here."""
        self._counts[column * self._rows + self._row] += step

    def others(self, column: int) -> int:
        """How much of something the other processes have."""
        begin = column * self._rows
        counts = self._counts[begin : begin + self._rows]
        return sum(counts) - counts[self._row]

    def add_place(self, place: str, step: int) -> None:
        """Count more, or less, of a place here."""
        for column in self._columns_of(place):
            self.add(column, step)

    def others_at(self, place: str) -> int:
        """How much of a place the other processes have, or a little more."""
        return min(map(self.others, self._columns_of(place)))

    def clear(self, row: int) -> None:
        """A process is no more, however it has ended."""
        self._counts[row :: self._rows] = memoryview(bytes(4 * self._columns)).cast("I")

    def _columns_of(self, place: str) -> tuple[int, int]:
        # Python's hashes are the same in all processes that are forked from one.
        chosen = hash((self._salt, place))
        first = self._first
        return first + chosen % WIDTH, first + WIDTH + (chosen >> 24) % WIDTH
