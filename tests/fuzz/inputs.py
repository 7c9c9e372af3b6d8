"""Bytes for a target where nothing tells what they reach."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, corpus
from tests.garbling import garbled

__all__ = ["inputs"]


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """What is near to something of the corpus, two halves of it, or anything."""
    known = st.sampled_from(corpus(name))
    longest = TARGETS[name].longest

    def halves(one: bytes, other: bytes, at: int) -> bytes:
        return one[:at] + other[at:]

    return st.one_of(
        known.flatmap(garbled),
        st.builds(halves, known, known, st.integers(0, 300)),
        st.binary(max_size=200),
    ).map(lambda data: data[:longest])
