"""Memory, in a process that is to serve for long."""

from __future__ import annotations

import ctypes
import gc
from collections import Counter
from contextlib import suppress

from twisted_bioconn._malloc import Heap, heap

__all__ = ["Heap", "give_back_large_blocks", "heap", "objects_by_type", "settle"]

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


def objects_by_type() -> Counter[str]:
    """
    The objects that the collector looks after, counted by their types' names.  Those that were
    there when L{settle} was called are not among them.

    It looks at each of them once: ten thousand take about a millisecond.
    """
    found: Counter[str] = Counter()
    for kind, number in Counter(map(type, gc.get_objects())).items():
        module, name = kind.__module__, kind.__qualname__
        # Instances of some types are asked for theirs, so that the type itself has no text there.
        found[f"{module}.{name}" if isinstance(module, str) else name] += number
    return found
