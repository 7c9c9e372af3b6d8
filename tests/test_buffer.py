"""Tests for L{twisted_bioconn.buffer}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.buffer import WriteBuffer
from twisted_bioconn.errors import UsageError


class WriteBufferTests(SynchronousTestCase):
    """Plaintext on its way out."""

    def setUp(self) -> None:
        self.told: list[str] = []
        self.buffer = WriteBuffer(
            high=100,
            low=10,
            limit=200,
            filled=lambda: self.told.append("filled"),
            drained=lambda: self.told.append("drained"),
        )

    def test_marks_that_do_not_rise(self) -> None:
        """The sentence has all three in it."""
        for low, high, limit in ((2, 1, None), (-1, 1, None), (1, 5, 4)):
            error = self.assertRaises(UsageError, WriteBuffer, high, low, limit)
            self.assertEqual(
                str(error),
                f"the water marks of a write buffer must rise: low={low}, high={high},"
                f" limit={limit}",
            )

    def test_marks_that_are_the_same(self) -> None:
        """They may all be one, and may be nothing."""
        WriteBuffer(0, 0, 0).append(b"")
        WriteBuffer(5, 5, 5).append(b"12345")

    def test_filled_once(self) -> None:
        """Only what goes above the high mark is told of, and only once."""
        self.buffer.append(bytes(100))
        self.assertEqual(self.told, [])
        self.buffer.append(b"x")
        self.buffer.append(b"y")
        self.assertEqual(self.told, ["filled"])

    def test_drained_once(self) -> None:
        """At the low mark it is told, once after each time it was filled."""
        self.buffer.append(bytes(150))
        self.buffer.take(139)
        self.assertEqual(self.told, ["filled"])
        self.buffer.take(1)
        self.assertEqual(self.told, ["filled", "drained"])
        self.buffer.take(5)
        self.buffer.append(bytes(50))
        self.buffer.take(1000)
        self.assertEqual(self.told, ["filled", "drained"])
        self.buffer.append(bytes(101))
        self.buffer.take(1000)
        self.assertEqual(self.told, ["filled", "drained"] * 2)

    def test_limit(self) -> None:
        """What does not fit is refused whole, and changes nothing."""
        self.buffer.append(bytes(150))
        error = self.assertRaises(UsageError, self.buffer.append, bytes(51))
        self.assertEqual(
            str(error),
            "the write buffer holds 150 of at most 200 bytes: no room for 51 more",
        )
        self.assertEqual(len(self.buffer), 150)
        self.buffer.append(bytes(50))
        self.assertEqual(len(self.buffer), 200)

    def test_no_limit(self) -> None:
        """Without one all is taken."""
        buffer = WriteBuffer(limit=None)
        buffer.append(bytes(10_000_000))
        self.assertEqual(len(buffer), 10_000_000)

    def test_nobody_to_tell(self) -> None:
        """Nobody need listen."""
        buffer = WriteBuffer(high=1, low=0)
        buffer.append(b"abc")
        self.assertEqual(buffer.take(10), b"abc")

    def test_clear(self) -> None:
        """What is forgotten is gone; nobody is told that it was sent."""
        self.buffer.append(bytes(150))
        self.buffer.clear()
        self.assertEqual((len(self.buffer), self.buffer.take(10)), (0, b""))
        self.buffer.append(b"new")
        self.assertEqual(self.buffer.take(10), b"new")

    def test_told_after_the_fact(self) -> None:
        """Whoever is told sees the buffer as it is then, and may use it."""
        sizes: list[int] = []

        def filled() -> None:
            sizes.append(len(buffer))

        def drained() -> None:
            sizes.append(len(buffer))
            if len(sizes) == 2:
                buffer.append(b"more")

        buffer = WriteBuffer(high=4, low=2, filled=filled, drained=drained)
        buffer.append(b"abcdef")
        self.assertEqual(buffer.take(4), b"abcd")
        self.assertEqual(sizes, [6, 2, 6])
        self.assertEqual(buffer.take(100), b"efmore")
        self.assertEqual(sizes, [6, 2, 6, 0])

    @given(
        st.lists(st.binary(max_size=30) | st.integers(0, 40), max_size=40),
    )
    def test_any_order(self, steps: list[bytes | int]) -> None:
        """Bytes come out in the order in which they went in, as many as were asked for."""
        buffer = WriteBuffer(high=50, low=5, limit=None)
        waiting = b""
        for step in steps:
            if isinstance(step, bytes):
                buffer.append(step)
                waiting += step
            else:
                self.assertEqual(buffer.take(step), waiting[:step])
                waiting = waiting[step:]
            self.assertEqual(len(buffer), len(waiting))
        self.assertEqual(buffer.take(len(waiting)), waiting)
