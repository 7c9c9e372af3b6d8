"""Tests for L{twisted_bioconn._bucket}."""

from __future__ import annotations

import copy

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn._bucket import SIZE, Bucket


class BucketTests(SynchronousTestCase):
    """So many in a time."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.bucket = Bucket(2.0, 3.0, self.clock.seconds)

    def taken(self, bucket: Bucket) -> int:
        """How many are let through now."""
        return sum(bucket.take() for _ in range(10))

    def test_rate(self) -> None:
        self.assertEqual(self.taken(self.bucket), 3)
        self.clock.advance(0.5)
        self.assertEqual(self.taken(self.bucket), 1)
        self.clock.advance(60)
        self.assertEqual(self.taken(self.bucket), 3)

    def test_reserve(self) -> None:
        self.assertTrue(self.bucket.take(2))
        self.assertFalse(self.bucket.has(2))
        self.assertTrue(self.bucket.take(1))

    def test_shared(self) -> None:
        """Others take out of the same, beginning with what is left."""
        self.assertTrue(self.bucket.take())
        memory = memoryview(bytearray(SIZE))
        self.bucket.share(memory)
        other = copy.copy(self.bucket)
        self.assertEqual(self.taken(other), 2)
        self.assertEqual(self.taken(self.bucket), 0)
        self.clock.advance(1)
        self.assertTrue(self.bucket.take())
        self.assertEqual(self.taken(other), 1)

    def test_clock_of_another(self) -> None:
        """What another process takes to be a little later already takes nothing away."""
        self.assertEqual(self.taken(self.bucket), 3)
        self.clock.advance(1)
        self.bucket.has()
        self.clock.rightNow -= 0.25
        self.assertEqual(self.taken(self.bucket), 2)
