"""What malloc has got from the system, and how much of it is in use."""

from __future__ import annotations

import ctypes

import attrs

__all__ = ["Heap", "heap"]


@attrs.frozen
class Heap:
    """
    What malloc has got from the system, in bytes: mallinfo(3).

    @ivar used: in blocks of the heap that somebody has.
    @ivar free: in blocks of the heap that nobody has, and that are the process's all the same.
    @ivar mapped: in blocks that have pages of their own, and go back to the system when freed.
    """

    used: int
    free: int
    mapped: int


class _MallInfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def heap() -> Heap | None:
    """
    How malloc stands now.  What Python has for small objects is not in it: that is mapped by Python
    itself.

    @return: L{None} where it cannot be asked: it takes glibc 2.33.
    """
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return None
    ask.restype = _MallInfo2
    told = ask()
    return Heap(used=told.uordblks, free=told.fordblks, mapped=told.hblkhd)
