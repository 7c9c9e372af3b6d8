"""The nearest right word for a wrong one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, choices: Iterable[str], prefix: str = "") -> str:
    """
    What to add to a sentence about a word that is not known: the nearest one that is.

    @param prefix: what stands before each word where it is used, such as C{--}.
    @return: C{", did you mean --listen?"}, or nothing where no choice comes near.
    """
    near = get_close_matches(word, list(choices), n=1)
    return f", did you mean {prefix}{near[0]}?" if near else ""
