"""Bytes that are nearly right."""

from __future__ import annotations

from hypothesis import strategies as st

__all__ = ["garbled"]


def garbled(good: bytes) -> st.SearchStrategy[bytes]:
    """Something near to it: with bytes changed, put in or left out."""
    change = st.tuples(st.integers(0, len(good)), st.integers(0, 2), st.binary(max_size=3))

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        data = good
        for at, gone, new in changes:
            data = data[:at] + new + data[at + gone :]
        return data

    return st.lists(change, max_size=3).map(apply)
