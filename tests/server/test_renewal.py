"""The development certificate's renewal."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from unittest import mock

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.certificates import development, loading
from twisted_bioconn.certificates.development import LEAF_LIFE, DevelopmentAuthority
from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.renewal import INTERVAL, Renewal

BEGIN = datetime(2030, 1, 1, tzinfo=UTC)


class RenewalTests(SynchronousTestCase):
    """Time passes on one clock for the authority and the service."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = self.mktemp()
        self.ahead = timedelta(0)
        self.authority = DevelopmentAuthority(self.directory, self.now)
        self.used: list[CertifiedKey] = []
        self.renewal = Renewal(self.authority, self.used.append, self.clock)

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self.clock.seconds()) + self.ahead

    def pass_time(self, span: timedelta) -> None:
        for _ in range(int(span.total_seconds() / INTERVAL)):
            self.clock.advance(INTERVAL)

    def test_first_one_is_used_at_once(self) -> None:
        self.assertEqual(self.used, [self.authority.leaf()])

    def test_always_valid(self) -> None:
        self.renewal.startService()
        self.pass_time(LEAF_LIFE * 3)
        self.assertIn(len(self.used), (5, 6))
        for previous, following in pairwise(self.used):
            self.assertLess(following.leaf.not_valid_before_utc, previous.not_valid_after)
        self.assertGreater(self.used[-1].not_valid_after, self.now())

    def test_from_the_future(self) -> None:
        """
        One that was made while the clock was ahead is valid for nobody once that is set back: it is
        replaced at the next look, which is within the hour.
        """
        self.renewal.startService()
        self.ahead = LEAF_LIFE * 0.9
        self.pass_time(timedelta(hours=1))
        self.assertEqual(len(self.used), 2)
        self.ahead = timedelta(0)
        self.assertGreater(self.used[1].leaf.not_valid_before_utc, self.now())
        self.pass_time(timedelta(hours=1))
        self.assertEqual(len(self.used), 3)
        self.assertLessEqual(self.used[2].leaf.not_valid_before_utc, self.now())
        self.pass_time(timedelta(hours=2))
        self.assertEqual(len(self.used), 3)

    def test_look(self) -> None:
        """It is looked at at once where one wants that, and then at its times again."""
        renewed = []
        self.renewal.renewed = lambda: renewed.append(len(self.used))
        self.renewal.startService()
        self.ahead = LEAF_LIFE * 0.9
        self.renewal.look()
        self.assertEqual((len(self.used), renewed), (2, [2]))
        # Another process has put another one there.
        os.remove(f"{self.directory}/leaf.pem")
        there = DevelopmentAuthority(self.directory, self.now).leaf()
        self.renewal.look()
        self.assertEqual((self.used[-1], renewed), (there, [2]))
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_fault(self) -> None:
        """What goes wrong in a way that nobody has thought of is logged, and does not end it."""

        def breaks(names: object) -> CertifiedKey:
            raise MemoryError

        self.renewal.startService()
        self.ahead = LEAF_LIFE * 0.9
        with mock.patch.object(self.authority, "leaf", breaks):
            for _ in range(2):
                self.pass_time(timedelta(hours=1))
                self.renewal.look()
        self.assertEqual(len(self.flushLoggedErrors(MemoryError)), 4)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.renewal.look()
        self.assertEqual(len(self.used), 2)
        with mock.patch.object(self.authority, "leaf", breaks):
            # Nor does it where it is not due.
            self.renewal.look()
        self.assertEqual(len(self.flushLoggedErrors(MemoryError)), 1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.renewal.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_look_of_one_that_does_not_renew(self) -> None:
        """It is told when there is another one."""
        self.ahead = LEAF_LIFE * 0.9
        self.renewal.look()
        self.assertEqual(len(self.used), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_start_on_a_full_disk(self) -> None:
        """
        Where the certificate is due and no other can be written, it is served as long as it is
        good.
        """

        def full(path: str, data: bytes) -> None:
            raise ConfigurationError(f"{path} cannot be written: No space left on device")

        self.patch(development, "write_private", full)
        self.clock.advance((LEAF_LIFE * 0.9).total_seconds())
        with capturedLogs() as events:
            renewal = Renewal(self.authority, self.used.append, self.clock)
        self.assertEqual(self.used[1], self.used[0])
        self.assertEqual(
            [formatEvent(event) for event in events],
            [
                "the development certificate is not renewed: "
                f"{os.path.abspath(self.directory)}/leaf.pem cannot be written: No space left on"
                " device"
            ],
        )
        # There is room again.
        self.patch(development, "write_private", loading.write_private)
        renewal.startService()
        self.clock.advance(1)
        self.assertNotEqual(self.used[-1], self.used[0])
        renewal.stopService()
        self.patch(development, "write_private", full)
        self.clock.advance((LEAF_LIFE * 1.1).total_seconds())
        self.assertRaises(ConfigurationError, Renewal, self.authority, self.used.append, self.clock)

    def test_failure_is_said_and_tried_again(self) -> None:
        self.renewal.startService()
        attempts = []

        def broken(names: object) -> CertifiedKey:
            attempts.append(self.clock.seconds())
            raise ConfigurationError("the disk is full")

        self.patch(self.authority, "leaf", broken)
        self.pass_time(LEAF_LIFE)
        self.assertGreater(len(attempts), 2)
        gaps = {after - before for before, after in pairwise(attempts)}
        self.assertEqual(gaps, {INTERVAL})
        self.assertEqual(len(self.used), 1)

    def test_stop(self) -> None:
        self.renewal.startService()
        self.renewal.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_before_the_start(self) -> None:
        self.renewal.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_authority_at_its_end(self) -> None:
        """No busy loop where a certificate cannot outlive its authority."""
        life = self.authority.not_valid_after - BEGIN
        self.clock.advance(life.total_seconds() - 10)
        self.renewal.startService()
        for _ in range(30):
            self.clock.advance(1)
        self.assertLessEqual(len(self.used), 3)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
