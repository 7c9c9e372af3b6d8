"""
A store that is a directory, which may be on a disk that several machines share.

Each value is a file, C{WORD.value}, in a directory for each word before it.  Each lease is a
directory, C{WORD.lease}, in which each turn of holding it is a file, named by a number.  While any
of them goes on, the lease is held.

  - To take a lease is to create the file of the next number.  That is one step of the file
    system's, which one alone can make.
  - To extend or to give back a lease is to replace the file of one's own turn.
  - Both write first and look afterwards: who has taken a lease, whether an older turn goes on after
    all or there is a newer one; who has extended it, whether there is a newer one.  Where it is so,
    they go without.  Of two who write at the same moment, at least one sees the other.
  - The newest file is removed only by its own maker, who has gone without.
  - A turn ends for its holder at its time, and for the others L{GRACE} later, so that clocks which
    differ by less do no harm.

What was written is forced to the disk before anybody is told.  All of it is done in the reactor's
thread: a store is asked seldom, and for little.

A directory that has become empty is removed, for each look for changes asks for each directory.
Where a look takes long all the same, as on a slow disk, looks that find nothing are so far apart
that they take no more than a twentieth of the time; changes are told later then than within a
second.

On NFS the machines see each other's changes as fast as the mount's C{acdirmax} has it: to be told
within a second, mount with C{actimeo=1}.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import attrs
from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from ..errors import ConfigurationError
from .directory_files import (
    FOLDER,
    Mark,
    Tree,
    available,
    path_of,
    read_value,
    read_whole,
    remove_empty,
    within,
)
from .folders import force, make_folders
from .loading import ABANDONED, create_private, remove_abandoned, write_private
from .store import (
    LONGEST_LEASE,
    Lease,
    Store,
    StoreUnavailable,
    Watchers,
    check_name,
    check_seconds,
    check_value,
)

__all__ = ["GRACE", "DirectoryStore"]

GRACE = 5.0
"""Seconds by which the clocks of machines that share a directory may differ."""

_INTERVAL = 0.5  # seconds between two looks for changes: they are to be told within one second
_LONGEST_INTERVAL = 60.0  # whatever a look has taken: a disk may have hung once
_LOOK_SHARE = 20  # an idle store is looked at for one part in so many of the time

_TEMPORARY = re.compile(r"\.(?:.+\.value|[0-9]+)\.[A-Za-z0-9_]{8}")


class DirectoryStore(Store):
    """
    A store that is a directory.

    Files have the mode 0600, and the directories that are made 0700.

    @ivar path: the directory, absolute.
    """

    _log = Logger()

    def __init__(self, reactor: Any, path: str, *, now: Callable[[], float] = time.time) -> None:
        """
        @param reactor: a reactor, or in tests a clock; it need not run yet.
        @param path: the directory; it is made if it is not there.
        @param now: the present time, in seconds since the epoch: by it leases end.
        @raise ConfigurationError: there is something else at that path, or it cannot be made.
        """
        self.path = os.path.abspath(path)
        self._reactor = reactor
        self._now = now
        self._watchers = Watchers()
        self._leases: set[_DirectoryLease] = set()
        self._told_soon: set[str] = set()
        self._telling: IDelayedCall | None = None
        self._closed = False
        self._tree = Tree(self.path, reactor.seconds)
        self._known: dict[str, Mark] = {}
        self._interrupted = False
        self._next_look: IDelayedCall | None = None
        try:
            make_folders(self.path)
        except OSError as error:
            raise ConfigurationError(
                f"the directory {self.path} cannot be made: {error.strerror}"
            ) from error
        self._remove_abandoned()

    def get_now(self, name: str) -> bytes | None:
        """
        Do as L{get} at once, also before there is a reactor.

        @raise ConfigurationError: see L{Store}.
        @raise ValueUnreadable: the file cannot be read.
        @raise StoreUnavailable: the disk cannot be read.
        """
        return read_value(self._value_path(name))

    def get(self, name: str) -> Deferred[bytes | None]:
        return execute(self.get_now, name)

    def put(self, name: str, value: bytes) -> Deferred[None]:
        return execute(self._put, name, value)

    def create(self, name: str, value: bytes) -> Deferred[bool]:
        return execute(self._create, name, value)

    def delete(self, name: str) -> Deferred[None]:
        return execute(self._delete, name)

    def names(self, prefix: str) -> Deferred[Sequence[str]]:
        return execute(self._names, prefix)

    def lease(self, name: str, seconds: float) -> Deferred[Lease | None]:
        return execute(self._lease, name, seconds)

    def watch(self, changed: Callable[[str], object]) -> Callable[[], None]:
        if self._closed:
            return lambda: None
        remove = self._watchers.add(changed)
        if self._next_look is None:
            # From here on a change is one.
            self._interrupted = False
            self._known = {}
            self._see(first=True)
            self._next_look = self._reactor.callLater(_INTERVAL, self._look)

        def stop() -> None:
            remove()
            if not self._watchers:
                self._look_no_more()

        return stop

    def close(self) -> Deferred[None]:
        for lease in list(self._leases):
            with suppress(StoreUnavailable):  # it ends by itself
                lease.release_now()
        self._closed = True
        self._watchers.clear()
        self._look_no_more()
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        return succeed(None)

    def _put(self, name: str, value: bytes) -> None:
        path = self._value_path(name)
        check_value(name, value)
        with available(path):
            within(os.path.dirname(path), lambda: write_private(path, value))
            force(os.path.dirname(path))
        self._changed(name, path)

    def _create(self, name: str, value: bytes) -> bool:
        path = self._value_path(name)
        check_value(name, value)
        with available(path):
            if not within(os.path.dirname(path), lambda: create_private(path, value)):
                return False
            force(os.path.dirname(path))
        self._changed(name, path)
        return True

    def _delete(self, name: str) -> None:
        path = self._value_path(name)
        with available(path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                return
            force(os.path.dirname(path))
        remove_empty(os.path.dirname(path), self.path)
        self._changed(name, path)

    def _names(self, prefix: str) -> Sequence[str]:
        self._check_open()
        with available(self.path):
            return sorted(self._tree.names(prefix))

    def _lease(self, name: str, seconds: float) -> Lease | None:
        check_name(name)
        check_seconds(seconds)
        self._check_open()
        folder = path_of(self.path, name, ".lease")
        with available(folder):
            within(os.path.dirname(folder), lambda: make_folders(folder))
            turns = _turns(folder)
            if any(self._goes_on(folder, turn) for turn in turns):
                return None
            number = turns[-1] + 1 if turns else 1
            ours = _Turn.ours(self._now() + seconds)
            if not create_private(_turn_path(folder, number), ours.to_json()):
                return None
            *older, newest = _turns(folder) or [0]
            # Where we were slow, that number had been used already, and its file been removed; or
            # an older turn was extended after we had looked.
            if newest != number or any(self._goes_on(folder, turn) for turn in older):
                _forget(_turn_path(folder, number))
                return None
            for turn in older:
                _forget(_turn_path(folder, turn))
        lease = _DirectoryLease(self, folder, number, ours)
        self._leases.add(lease)
        return lease

    def _goes_on(self, folder: str, number: int) -> bool:
        """
        Whether that turn of a lease goes on.
        """
        data = read_whole(_turn_path(folder, number))
        if data is None:
            return True  # it was removed since we looked: by one who has the lease, it may be
        turn = _Turn.from_json(data)
        if turn is None:
            return False
        # One that is to last longer than any may was written by a clock that was wrong.
        left = turn.expires - self._now()
        return turn.expires > 0 and -GRACE < left <= LONGEST_LEASE + GRACE

    def _value_path(self, name: str) -> str:
        check_name(name)
        self._check_open()
        return path_of(self.path, name, ".value")

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"the store in {self.path} is closed")

    def _changed(self, name: str, path: str) -> None:
        """
        Tell of a change of our own, a little later: nobody who writes expects to be called.
        """
        if not self._watchers:
            return
        try:
            self._known[name] = Mark.of(os.lstat(path))
        except OSError:
            self._known.pop(name, None)
        self._told_soon.add(name)
        if self._telling is None:
            self._telling = self._reactor.callLater(0, self._tell)

    def _tell(self) -> None:
        self._telling = None
        names, self._told_soon = self._told_soon, set()
        for name in sorted(names):
            self._watchers.tell(name)

    def _look(self) -> None:
        """
        Tell of what others have changed since we last looked.
        """
        begun = self._reactor.seconds()
        changed: Sequence[str] = ()
        try:
            changed = self._see()
        finally:
            took = self._reactor.seconds() - begun
            # Where something changes, more of it may be about to.
            idle = min(took * _LOOK_SHARE, _LONGEST_INTERVAL) if not changed else 0.0
            self._next_look = self._reactor.callLater(max(idle, _INTERVAL), self._look)
        for name in changed:
            self._watchers.tell(name)

    def _look_no_more(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def _see(self, first: bool = False) -> Sequence[str]:
        """
        The names of what has changed since we last looked.
        """
        try:
            with available(self.path):
                found = self._tree.look()
        except StoreUnavailable as error:
            if not self._interrupted:
                self._interrupted = True
                self._log.warn("the store cannot be watched: {error}", error=error)
            return ()
        before, self._known = self._known, found
        if self._interrupted:
            self._interrupted = False
            self._log.info("the store in {path} can be watched again", path=self.path)
            return ("",)
        if first:
            return ()
        # Two dictionaries of the same objects are compared fast: it is so at nearly every look.
        if before == found:
            return ()
        return sorted(
            name for name in before.keys() | found.keys() if before.get(name) != found.get(name)
        )

    def _remove_abandoned(self) -> None:
        """
        Remove the temporary files that a crash has left: they hold secrets; and directories that
        have been empty for long.
        """
        now = self._now()
        oldest = now - ABANDONED
        empty: list[str] = []
        for folder, folders, files in os.walk(self.path):
            if not folders and not files and not folder.endswith(".lease"):
                empty.append(folder)
            folders[:] = filter(FOLDER.fullmatch, folders)
            remove_abandoned(folder, _TEMPORARY, now)
        for folder in empty:
            with suppress(OSError):
                if os.lstat(folder).st_mtime < oldest:
                    remove_empty(folder, self.path)


class _DirectoryLease(Lease):
    """
    One turn of holding a lease.
    """

    def __init__(self, store: DirectoryStore, folder: str, number: int, turn: _Turn) -> None:
        self._store = store
        self._folder = folder
        self._number = number
        self._turn = turn

    def extend(self, seconds: float) -> Deferred[bool]:
        return execute(self._extend, seconds)

    def release(self) -> Deferred[None]:
        return execute(self.release_now)

    def release_now(self) -> None:
        """
        @raise StoreUnavailable: it cannot be written that the lease has ended: it ends by itself.
        """
        if self not in self._store._leases:
            return
        self._lose()
        with available(self._folder):
            self._write(self._turn.ended())

    def _extend(self, seconds: float) -> bool:
        check_seconds(seconds)
        if self not in self._store._leases:
            return False
        if self._store._now() >= self._turn.expires:
            self._lose()
            return False
        turn = _Turn.ours(self._store._now() + seconds, self._turn.owner)
        with available(self._folder):
            if not self._write(turn):
                self._lose()
                return False
        self._turn = turn
        return True

    def _write(self, turn: _Turn) -> bool:
        """
        Replace our turn's file.

        @return: whether nobody has taken the lease over.
        """
        path = _turn_path(self._folder, self._number)
        if not self._is_ours(path):
            return False
        write_private(path, turn.to_json())
        if _turns(self._folder)[-1:] == [self._number]:
            return True
        _forget(path)
        return False

    def _is_ours(self, path: str) -> bool:
        """
        Whether our turn is the newest.  Where somebody has removed the whole directory, there may
        be another's of the same number.
        """
        if not os.path.isdir(self._folder) or _turns(self._folder)[-1:] != [self._number]:
            return False
        data = read_whole(path)
        turn = None if data is None else _Turn.from_json(data)
        return turn is not None and turn.owner == self._turn.owner

    def _lose(self) -> None:
        self._store._leases.discard(self)


@attrs.frozen
class _Turn:
    """
    Who has a lease, and until when.

    @ivar owner: random.
    @ivar host: for an operator who wonders.
    @ivar pid: as C{host}.
    @ivar expires: in seconds since the epoch; 0 where it was given back.
    """

    owner: str
    host: str
    pid: int
    expires: float

    @classmethod
    def ours(cls, expires: float, owner: str | None = None) -> _Turn:
        """A turn of this process's."""
        return cls(owner or secrets.token_hex(16), socket.gethostname(), os.getpid(), expires)

    @classmethod
    def from_json(cls, data: bytes) -> _Turn | None:
        """
        What L{to_json} has made; L{None} for anything else.  Files are written whole: what cannot
        be read was no turn of anybody's.
        """
        try:
            read = json.loads(data)
            return cls(str(read["owner"]), str(read["host"]), int(read["pid"]), _time(read))
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def to_json(self) -> bytes:
        """The text of its file."""
        return json.dumps(attrs.asdict(self)).encode("ascii") + b"\n"

    def ended(self) -> _Turn:
        """This turn when it was given back."""
        return attrs.evolve(self, expires=0.0)


def _time(read: dict[str, Any]) -> float:
    seconds = float(read["expires"])
    # Neither a number beyond all numbers nor none at all is a time.
    if not 0 <= seconds < 1e12:
        raise ValueError
    return seconds


def _turns(folder: str) -> list[int]:
    """
    The numbers of a lease's turns, in order.
    """
    return sorted(int(name) for name in os.listdir(folder) if re.fullmatch("[0-9]{1,18}", name))


def _turn_path(folder: str, number: int) -> str:
    return os.path.join(folder, str(number))


def _forget(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
