"""
Where what was had from an authority is kept, and how those who share it agree.

A L{Store} keeps small values by name.  A directory is one, and may be on a disk that several
machines share; a Redis server is another.  Whoever uses the same store is one front of several: a
L{Lease} sees to it that one of them does what has to be done once, and L{Store.watch} tells the
others.

Names are paths of a few words with slashes between them, such as C{certificates/example.org}.  A
name may have a value and be the beginning of others at the same time; values and leases of one name
have nothing to do with each other.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ..errors import ConfigurationError
from .loading import LARGEST_FILE

__all__ = [
    "LARGEST_VALUE",
    "LONGEST_LEASE",
    "LONGEST_NAME",
    "Lease",
    "Store",
    "StoreUnavailable",
    "ValueUnreadable",
    "Watchers",
    "check_name",
    "check_seconds",
    "check_value",
    "is_name",
]

LONGEST_NAME = 512
"""The most characters that a name may have: a DNS name has up to 253."""

LARGEST_VALUE = LARGEST_FILE
"""The most bytes that a value may have."""

LONGEST_LEASE = 24 * 3600.0
"""The most seconds that a lease may last: for longer nobody waits for one who died."""

# No word begins with a dot: that is no way out of a directory, and such files are hidden.
_WORD = "[A-Za-z0-9_*@:-][A-Za-z0-9._*@:-]*"
_NAME = re.compile(f"{_WORD}(?:/{_WORD})*")


class StoreUnavailable(Exception):
    """
    The store cannot be asked just now, or has a value that it cannot give back whole: one sentence
    says why.  What was to be changed may have been changed or not.
    """


class ValueUnreadable(StoreUnavailable):
    """
    One name has a value that cannot be given back whole, while the store can be had: it is damaged,
    too large, not ours to read, or sealed with another passphrase.  It is not to be overwritten
    unasked: somebody else may be able to read it.
    """


def is_name(name: str) -> bool:
    """Whether a value may have this name."""
    return len(name) <= LONGEST_NAME and _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """
    See that a name is one.

    @raise ConfigurationError: it is too long, or not words of ASCII letters, digits and C{._*@:-}
        with slashes between them, none of which begins with a dot.
    """
    if not is_name(name):
        shown = name if len(name) <= LONGEST_NAME else f"{name[:32]}..."
        raise ConfigurationError(
            f"{shown!r} is no name for a value in a store: it needs 1 to {LONGEST_NAME} characters,"
            " words of letters, digits and ._*@:- with slashes between them, none with a dot first"
        )


def check_value(name: str, value: bytes) -> None:
    """
    See that a value is not too large.

    @raise ConfigurationError: it is larger than L{LARGEST_VALUE}.
    """
    if len(value) > LARGEST_VALUE:
        raise ConfigurationError(
            f"the value of {name} has {len(value)} bytes, where a store takes {LARGEST_VALUE}"
        )


def check_seconds(seconds: float) -> None:
    """
    See that a lease can last so long.

    @raise ConfigurationError: it is not more than zero, or longer than L{LONGEST_LEASE}.
    """
    if not (math.isfinite(seconds) and 0 < seconds <= LONGEST_LEASE):
        raise ConfigurationError(
            f"a lease cannot last {seconds} seconds: more than 0 and at most {LONGEST_LEASE:.0f}"
        )


class Lease(ABC):
    """
    The right to do something alone, for a time.  It has an owner and an expiry: of one who died, it
    ends by itself.
    """

    @abstractmethod
    def extend(self, seconds: float) -> Deferred[bool]:
        """Have it end so many seconds from now; false where it was lost already."""

    @abstractmethod
    def release(self) -> Deferred[None]:
        """End it, if it is still ours."""


class Store(ABC):
    """
    Values by name.  What was written is whole or not there, also after a crash.

    Each Deferred fails with L{StoreUnavailable} where the store cannot be had, or was closed; that
    of L{get} with L{ValueUnreadable} where it is this one value that cannot be had; and each with
    L{ConfigurationError} for what is no name (L{check_name}), for a value that is larger than
    L{LARGEST_VALUE}, and for a lease that cannot be so long.
    """

    @abstractmethod
    def get(self, name: str) -> Deferred[bytes | None]:
        """The value of a name; L{None} where it has none."""

    @abstractmethod
    def put(self, name: str, value: bytes) -> Deferred[None]:
        """Give a name a value, and tell those who watch."""

    @abstractmethod
    def create(self, name: str, value: bytes) -> Deferred[bool]:
        """
        Give a name a value if it has none: of several who do it at once, one succeeds.  Those who
        watch are told.
        """

    @abstractmethod
    def delete(self, name: str) -> Deferred[None]:
        """Forget a name; one that is not there is no error.  Those who watch are told."""

    @abstractmethod
    def names(self, prefix: str) -> Deferred[Sequence[str]]:
        """All names that begin with a prefix, in order; a prefix need not end with a word."""

    @abstractmethod
    def lease(self, name: str, seconds: float) -> Deferred[Lease | None]:
        """
        The lease of that name for so many seconds; L{None} where somebody else has it.  It is not
        given twice, not even to the same store.
        """

    @abstractmethod
    def watch(self, changed: Callable[[str], object]) -> Callable[[], None]:
        """
        Be told the name of each value that was put or deleted, also by others, within a second;
        after an interruption in which something may have been missed, the empty string.  One may be
        told twice of one change, and once of several to one name.

        @return: call it to be told no more.
        """

    @abstractmethod
    def close(self) -> Deferred[None]:
        """Let go of what the store has open.  Leases end."""


class Watchers:
    """
    Those who want to be told of changes.  One that fails is logged, and the others are told.
    """

    _log = Logger()

    def __init__(self) -> None:
        self._all: dict[object, Callable[[str], object]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, changed: Callable[[str], object]) -> Callable[[], None]:
        """
        Have another one be told.

        @return: call it to have it be told no more; to call it twice changes nothing.
        """
        key = object()
        self._all[key] = changed

        def remove() -> None:
            self._all.pop(key, None)

        return remove

    def tell(self, name: str) -> None:
        """Tell all of them a name."""
        for key, changed in list(self._all.items()):
            if key in self._all:  # one that was told before may have removed it
                with self._log.failuresHandled("one who watches a store failed at a change"):
                    changed(name)

    def clear(self) -> None:
        """Tell nobody any more."""
        self._all.clear()
