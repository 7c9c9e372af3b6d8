"""
Some of the floods, in brief; with BIOCONN_SLOW=1 in the environment, each, and all of it.

    python -m tests.floods

prints what is measured.
"""

from __future__ import annotations

import os
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from tests.floods.table import FLOODS, flood_named, outcome_of
from tests.test_shipped import slow


@skipUnless(os.path.isdir("/proc/self/fd"), "it takes /proc")
class FloodTests(SynchronousTestCase):
    """
    Honest clients lose nothing, all that has come is counted, nothing of it stays, and the log has
    no traceback.
    """

    def flood(self, name: str, always: bool = False) -> None:
        """
        Have it come.

        @param always: whether it takes so little time that it comes with every run of the tests.
        """
        if not always:
            slow()
        self.assertEqual(outcome_of(self, flood_named(name)).wrong, [])

    def test_silent(self) -> None:
        self.flood("silent", always=True)

    def test_dripping(self) -> None:
        self.flood("dripping")

    def test_hellos_in_segments(self) -> None:
        self.flood("hellos in segments of a byte")

    def test_hellos_in_records(self) -> None:
        self.flood("hellos in records of a byte")

    def test_garbage(self) -> None:
        self.flood("garbage", always=True)

    def test_churn(self) -> None:
        self.flood("churn")

    def test_resets(self) -> None:
        self.flood("resets at every byte")

    def test_key_updates(self) -> None:
        self.flood("key updates", always=True)

    def test_renegotiation(self) -> None:
        self.flood("renegotiation")

    def test_unread_answers(self) -> None:
        self.flood("answers that are not read")

    def test_records_of_nothing(self) -> None:
        self.flood("records of nothing")

    def test_records_of_a_back_end(self) -> None:
        self.flood("records of a back end")

    def test_slow_readers(self) -> None:
        self.flood("slow readers")

    def test_back_end_does_not_read(self) -> None:
        self.flood("back end does not read")

    def test_back_end_answers_half(self) -> None:
        self.flood("back end answers half")

    def test_back_end_resets_midway(self) -> None:
        self.flood("back end resets midway")

    def test_back_end_does_not_accept(self) -> None:
        self.flood("back end does not accept")

    def test_half_open(self) -> None:
        self.flood("half-open")


class TableTests(SynchronousTestCase):
    """The table."""

    def test_each(self) -> None:
        """Each flood has a test."""
        tests = [name for name in dir(FloodTests) if name.startswith("test_")]
        self.assertEqual(len(tests), len(FLOODS))
        self.assertEqual(len({flood.name for flood in FLOODS}), len(FLOODS))
