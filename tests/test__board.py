"""Tests for L{twisted_bioconn._board}."""

from __future__ import annotations

import copy
import os
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn._board import WIDTH, Board

STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 30), st.booleans()), min_size=1, max_size=60
)


def seats(board: Board, many: int) -> list[Board]:
    """What so many processes have of a board."""
    made = [copy.copy(board) for _ in range(many)]
    for row, each in enumerate(made):
        each.sit(row)
    return made


class BoardTests(SynchronousTestCase):
    """What each counts, the others see."""

    def test_columns(self) -> None:
        one, two, three = seats(Board(3, 2), 3)
        one.add(0, 5)
        two.add(0, 3)
        two.add(1, 1)
        self.assertEqual([each.others(0) for each in (one, two, three)], [3, 5, 8])
        self.assertEqual([each.others(1) for each in (one, two, three)], [1, 0, 1])
        two.add(0, -3)
        self.assertEqual(three.others(0), 5)
        three.clear(0)
        self.assertEqual([each.others(0) for each in (two, three)], [0, 0])
        self.assertEqual(one.others(1), 1)

    def test_processes(self) -> None:
        """One that is forked counts where the other sees it."""
        board = Board(2, 1, places=True, more=8)
        child = os.fork()
        if child == 0:
            board.sit(1)
            board.add(0, 7)
            board.add_place("192.0.2.7", 2)
            board.shared[0] = 9
            os._exit(0)
        os.waitpid(child, 0)
        self.assertEqual(board.others(0), 7)
        self.assertEqual(board.others_at("192.0.2.7"), 2)
        self.assertEqual(bytes(board.shared), b"\t" + bytes(7))
        board.clear(1)
        self.assertEqual((board.others(0), board.others_at("192.0.2.7")), (0, 0))

    @given(STEPS)
    def test_places(self, steps: list[tuple[int, int, bool]]) -> None:
        """Of a place there is never less than there is; and with so few, hardly ever more."""
        processes = seats(Board(3, 1, places=True), 3)
        there: list[Counter[str]] = [Counter() for _ in processes]
        for row, number, more in steps:
            place = f"192.0.2.{number}"
            if more or not there[row][place]:
                there[row][place] += 1
                processes[row].add_place(place, 1)
            else:
                there[row][place] -= 1
                processes[row].add_place(place, -1)
        for row, process in enumerate(processes):
            for number in range(31):
                place = f"192.0.2.{number}"
                wanted = sum(each[place] for each in there) - there[row][place]
                self.assertGreaterEqual(process.others_at(place), wanted)

    def test_many_places(self) -> None:
        """With a thousand of them there are few that seem to be more than they are."""
        one, two = seats(Board(2, 0, places=True), 2)
        for number in range(1000):
            one.add_place(f"host {number}", 1)
        wrong = sum(two.others_at(f"host {number}") > 1 for number in range(1000))
        self.assertLess(wrong, 20)
        self.assertLess(sum(two.others_at(f"none {number}") for number in range(1000)), 20)
        self.assertGreater(WIDTH, 1000)
