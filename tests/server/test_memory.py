"""Tests for L{twisted_bioconn.server.memory}."""

from __future__ import annotations

import ctypes
from unittest.mock import patch

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from twisted_bioconn.server.memory import Heap, heap, objects_by_type

MEBIBYTE = 1024 * 1024


class HeapTests(SynchronousTestCase):
    """What malloc says of itself."""

    def heap(self) -> Heap:
        told = heap()
        if told is None:
            raise SkipTest("there is no mallinfo2 in this system's C library")
        return told

    def test_blocks(self) -> None:
        """Small ones are of the heap, and large ones are mapped; both are given back."""
        libc = ctypes.CDLL(None)
        libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
        libc.free.argtypes = [ctypes.c_void_p]
        before = self.heap()
        blocks = [libc.malloc(1024) for _ in range(8 * 1024)]
        with_small = self.heap()
        large = libc.malloc(64 * MEBIBYTE)
        with_large = self.heap()
        for block in (*blocks, large):
            libc.free(block)
        after = self.heap()
        self.assertGreaterEqual(with_small.used - before.used, 7 * MEBIBYTE)
        self.assertGreaterEqual(with_large.mapped - with_small.mapped, 64 * MEBIBYTE)
        self.assertLess(after.mapped, with_large.mapped)
        self.assertLess(after.used, with_small.used)

    def test_elsewhere(self) -> None:
        """Another C library is not asked."""
        with patch("ctypes.CDLL", return_value=object()):
            self.assertIsNone(heap())


class _Counted:
    """An object of a type of its own."""


class ObjectsTests(SynchronousTestCase):
    def test_types(self) -> None:
        """Each counts once, by the name of its type."""
        name = f"{__name__}._Counted"
        self.assertNotIn(name, objects_by_type())
        kept = [_Counted() for _ in range(3)]
        self.assertEqual(objects_by_type()[name], len(kept))

    def test_strange(self) -> None:
        """A type may have anything for the name of its module."""
        kept = type("_Strange", (), {"__module__": property(str)})()
        self.assertEqual(objects_by_type()["_Strange"], 1, kept)
