"""Memory, in a process that is to serve for long."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

__all__ = ["give_back_large_blocks", "settle"]

_M_MMAP_THRESHOLD = -3


def settle() -> None:
    """
    All is there that there will always be: have the collector, which stops everything else, look at
    what comes later alone.
    """
    gc.collect()
    gc.freeze()
    give_back_large_blocks()


def give_back_large_blocks() -> None:
    """
    Have glibc give back to the system what bulk has taken, when it is freed.

    By itself it takes ever larger blocks out of the heap (mallopt(3), M_MMAP_THRESHOLD), where what
    was freed stays the process's as long as anything lies above it.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 128 * 1024)
