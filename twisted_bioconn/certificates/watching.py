"""
Being told when files have changed.

A file changes in more ways than by being written.  certbot makes C{live/NAME/fullchain.pem} a link
to another file of its archive; Kubernetes lets C{..data} lead to another directory, and what is
served are links through it; an operator moves a new directory to where the old one was.  So the way
to each file is followed from the root on, through all links, and each directory on it is watched
for the names that matter there.  After each change the ways are followed anew.

inotify(7) tells at once, on Linux.  It does not tell of what another machine does on a network file
system, and misses things on overlays, or when too much happens at a time.  So there is also a look
from time to time at what L{os.stat} says; where inotify cannot be had, that look is all there is,
and is taken more often.

To be told is not to be sure that there is something new: whoever is told looks for itself, cheaply.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime
from twisted.internet.task import Cooperator, TaskStopped
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath

try:
    from twisted.internet import inotify
except ImportError:  # not on this system
    inotify = None  # type: ignore[assignment]

__all__ = ["INTERVAL", "LONGEST_SETTLE", "SLOW_INTERVAL", "Signature", "Watch", "in_slices", "sign"]

INTERVAL = 5.0
"""Seconds between two looks, where looking is all there is."""

SLOW_INTERVAL = 30.0
"""Seconds between two looks, where inotify tells of nearly everything."""

LONGEST_SETTLE = 2.0
"""Seconds after the first event at which no more are waited for."""

SLICE = 0.01
"""Seconds that a reactor is kept from other things at a time."""

_MOST_LINKS = 40  # path_resolution(7): what has more is a loop

Signature = tuple[int, ...]
"""What tells one state of a file from another; empty where there is nothing to be seen."""

if inotify is not None:
    # A file counts when its writer closes it; one kept open is found by the look at all files.
    _EVENTS = (
        inotify.IN_ATTRIB
        | inotify.IN_CLOSE_WRITE
        | inotify.IN_CREATE
        | inotify.IN_DELETE
        | inotify.IN_MOVED
        | inotify.IN_DELETE_SELF
        | inotify.IN_MOVE_SELF
        | inotify.IN_ONLYDIR
    )
    _NO_LONGER_THERE = inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF | inotify.IN_UNMOUNT

_log = Logger()


def sign(path: str) -> Signature:
    """
    What the file is that a path leads to, without reading it.

    The time at which its inode was changed is a part, and no program can set that: it differs also
    where a time of modification was carried over from another file, or permission was given.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in it
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev, found.st_ctime_ns)


def in_slices(reactor: IReactorTime | None, steps: Iterator[object]) -> Deferred[None]:
    """
    Take all steps of an iterator, for L{SLICE} at a time, and let the reactor do other things in
    between.  The first slice is done in the call, and is often all there is.

    @param reactor: L{None} where none runs yet: all is done in the call.
    @return: fires when it is done, or fails with what a step has raised.  It can be cancelled.
    """
    end = time.monotonic() + SLICE
    try:
        for _ in steps:
            if reactor is not None and time.monotonic() >= end:
                break
        else:
            return succeed(None)
    except Exception:
        return fail()
    assert reactor is not None
    # Not the global cooperator, which runs on the global reactor. Its slices are of 10 ms.
    task = Cooperator(scheduler=partial(reactor.callLater, 0)).cooperate(steps)
    done: Deferred[None] = Deferred(lambda _: task.stop())

    def failed(failure: Failure) -> None:
        if failure.check(TaskStopped) is None:  # else done is being cancelled, and fails by that
            done.errback(failure)

    task.whenDone().addCallbacks(lambda _: done.callback(None), failed)
    return done


class _Ways:
    """
    What has to be watched so that no change of some files goes by.

    @ivar places: for each directory the names in it that matter, or L{None} where all do.  No
        directory's path has a link in it.
    """

    def __init__(self) -> None:
        self.places: dict[str, set[str] | None] = {}
        self._links: dict[str, str | None] = {}  # many paths have much of their way in common

    def add(self, path: str) -> None:
        """Follow one path.  Where it leads to a directory, all that is in there matters."""
        here, links = "/", 0
        # Not os.path.abspath, which takes a ".." after a link for what led to the link.
        names = os.path.join(os.getcwd(), path).split("/")[::-1]
        while names:
            name = names.pop()
            if name in ("", "."):
                continue
            if name == "..":
                here = os.path.dirname(here)
                continue
            matter = self.places.setdefault(here, set())
            if matter is not None:
                matter.add(name)
            full = os.path.join(here, name)
            try:
                target = self._target(full)
            except (OSError, ValueError):
                return  # it is not there: what is there of its way is watched
            if target is None:
                here = full
                continue
            links += 1
            if links > _MOST_LINKS:
                return
            if target.startswith("/"):
                here = "/"
            names.extend(target.split("/")[::-1])
        if os.path.isdir(here):
            self.places[here] = None

    def _target(self, path: str) -> str | None:
        """Where a link leads to; L{None} for what is no link."""
        if path not in self._links:
            try:
                self._links[path] = os.readlink(path)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._links[path] = None
        return self._links[path]


if inotify is not None:

    class _Notifier(inotify.INotify):
        """
        Twisted's, except that it goes on when one of the watched directories is removed, and that
        it may be closed twice: by a reactor that ends, and by whoever has opened it.
        """

        @property
        def is_open(self) -> bool:
            """Whether it has its descriptor."""
            number: int = self._fd
            return number >= 0

        def loseConnection(self, _connDone: object = None) -> None:
            pass

        def connectionLost(self, reason: Failure) -> None:
            if self.is_open:
                super().connectionLost(reason)  # type: ignore[no-untyped-call]
                self._fd = -1


class _State(Enum):
    """What a watch is about."""

    STOPPED = auto()
    """Nothing."""
    QUIET = auto()
    """Waiting for something to happen."""
    GATHERING = auto()
    """Something has happened, and more may."""
    BUSY = auto()
    """It is looking at the files, or whoever wants to know has been told and is at work."""
    OVERTAKEN = auto()
    """As C{BUSY}, and something has happened since."""


class Watch:
    """
    Calls when files have changed.

    Events are gathered until none has come for some time, and no longer than L{LONGEST_SETTLE}: a
    key and its chain are seldom written at once.  While the call, or the Deferred that it returns,
    is at work, it is not called again.

    It may also be called where nothing has changed: after the way to the files has become another,
    since what happened on the new one before it was watched is not known.
    """

    def __init__(
        self,
        reactor: Any,
        paths: Callable[[], Iterable[str]],
        changed: Callable[[], object],
        *,
        settle: float = 0.2,
        interval: float = INTERVAL,
        polling: bool = False,
    ) -> None:
        """
        @param reactor: where it cannot watch descriptors, as a clock cannot, there is no inotify.
        @param paths: the files to watch, whether they are there or not, and directories, each for
            what is in it (but not for what is in the directories in it).  It is asked again after
            each change.
        @param changed: called with nothing; may return a Deferred.  What it raises is logged.
        @param settle: seconds without an event after which it is called.
        @param interval: seconds between two looks, where there is no inotify; where there is, they
            are L{SLOW_INTERVAL} at least.
        @param polling: do without inotify.
        """
        self._reactor = reactor
        self._paths = paths
        self._changed = changed
        self._settle = settle
        self._interval = interval
        self._polling = polling
        self._state = _State.STOPPED
        self._notifier: Any = None
        self._watched: dict[str, Signature] = {}
        self._places: dict[str, set[str] | None] = {}
        self._seen = 0
        self._deadline: float | None = None
        self._poll: IDelayedCall | None = None
        self._gather: IDelayedCall | None = None
        self._work: Deferred[bool] | None = None
        self._run: object = None

    def start(self) -> None:
        """Begin to watch; what has changed before is not told.  To start twice changes nothing."""
        if self._state is not _State.STOPPED:
            return
        if not self._polling:
            self._open()
        self._do(self._begin())
        if self._work is not None:
            # There is much to watch, and it goes on later: what changes until then is not seen.
            self._state = _State.OVERTAKEN

    def stop(self) -> None:
        """Watch no more, and cancel what is at work.  It can be started again."""
        self._state = _State.STOPPED
        for call in (self._poll, self._gather):
            if call is not None and call.active():
                call.cancel()
        self._poll = self._gather = self._deadline = None
        work, self._work, self._run = self._work, None, None
        if work is not None:
            work.cancel()
        self._close()

    @property
    def uses_inotify(self) -> bool:
        """Whether inotify is in use just now."""
        return self._notifier is not None

    # What is done at one time. Each answers whether there may be something to tell.

    async def _begin(self) -> bool:
        await self._arm()
        await self._look()
        return False

    async def _look_round(self) -> bool:
        return await self._look()

    async def _tell(self) -> bool:
        # This look is what the next is compared with: what changes from here on is told again.
        differs = await self._look()
        assert self._deadline is not None
        unsettled = differs and self._notifier is None
        if unsettled and self._reactor.seconds() < self._deadline:
            return True
        self._deadline = None
        try:
            await maybeDeferred(self._changed)
        except CancelledError:  # we were stopped
            raise
        except Exception:
            _log.failure("what is to be done when files change has failed")
        return await self._arm()

    def _do(self, work: Coroutine[Deferred[Any], Any, bool]) -> None:
        self._state = _State.BUSY
        # What is told may stop us, in the middle of this call too.
        self._run = run = object()
        doing = Deferred.fromCoroutine(work)
        if self._run is run:
            self._work = doing
        doing.addBoth(self._done, run)
        if self._run is not run:
            doing.cancel()

    def _done(self, result: bool | Failure, run: object) -> None:
        if self._run is not run:  # stopped, and perhaps started again
            return
        self._work = None
        overtaken = self._state is _State.OVERTAKEN
        self._state = _State.QUIET
        if isinstance(result, Failure):
            _log.failure("files cannot be watched", result)
            self._deadline = None
        elif result or overtaken:
            self._touched()
        self._schedule()

    def _schedule(self) -> None:
        """See to the next look."""
        if self._poll is not None and self._poll.active():
            self._poll.cancel()
        seconds = self._interval if self._notifier is None else max(self._interval, SLOW_INTERVAL)
        self._poll = self._reactor.callLater(seconds, self._poll_now)

    def _poll_now(self) -> None:
        if self._state is _State.QUIET:
            self._do(self._look_round())
        else:
            self._schedule()

    def _touched(self) -> None:
        """Something has happened."""
        if self._state in (_State.BUSY, _State.OVERTAKEN):
            self._state = _State.OVERTAKEN
            return
        now = self._reactor.seconds()
        if self._deadline is None:
            self._deadline = now + LONGEST_SETTLE
        seconds = max(0.0, min(self._settle, self._deadline - now))
        if self._state is _State.GATHERING:
            assert self._gather is not None
            self._gather.reset(seconds)
        else:
            self._state = _State.GATHERING
            self._gather = self._reactor.callLater(seconds, self._gathered)

    def _gathered(self) -> None:
        self._gather = None
        self._do(self._tell())

    # Looking.

    async def _look(self) -> bool:
        """Whether the files are others than when this was last asked."""
        before = self._seen
        await in_slices(self._reactor, self._look_steps())
        return self._seen != before

    def _look_steps(self) -> Iterator[None]:
        seen = 0  # a sum of hashes: of 10,000 files only the one number is kept
        for path in list(self._paths()):
            seen += hash((path, sign(path)))
            yield
            with suppress(OSError, ValueError), os.scandir(path) as entries:
                for entry in entries:
                    seen += hash((entry.path, sign(entry.path)))
                    yield
        self._seen = seen

    # inotify.

    def _open(self) -> None:
        if inotify is None or not IReactorFDSet.providedBy(self._reactor):
            return
        try:
            self._notifier = _Notifier(self._reactor)  # type: ignore[no-untyped-call]
        except inotify.INotifyError:
            self._give_up("there are too many users of it (fs.inotify.max_user_instances)")
        else:
            self._notifier.startReading()

    def _close(self) -> None:
        notifier, self._notifier = self._notifier, None
        if notifier is not None:
            notifier.connectionLost(Failure(ConnectionDone()))
        self._watched = {}
        self._places = {}

    def _give_up(self, reason: str) -> None:
        _log.warn(
            "inotify cannot be used, {reason}: files are looked at every {seconds} seconds",
            reason=reason,
            seconds=self._interval,
        )
        self._close()

    async def _arm(self) -> bool:
        """Watch all that has to be; answer whether some of that was not watched before."""
        if self._notifier is None or not self._notifier.is_open:
            return False
        new: list[str] = []
        await in_slices(self._reactor, self._arm_steps(new))
        return bool(new)

    def _arm_steps(self, new: list[str]) -> Iterator[None]:
        ways = _Ways()
        for path in list(self._paths()):
            ways.add(path)
            yield
        self._places = ways.places
        for directory in self._watched.keys() - ways.places.keys():
            self._ignore(directory)
            yield
        for directory in ways.places:
            try:
                found = os.lstat(directory)
            except OSError:
                continue  # gone just now, of which there is an event
            identity = (found.st_dev, found.st_ino)
            if self._watched.get(directory) == identity:
                continue
            self._ignore(directory)
            if not stat.S_ISDIR(found.st_mode) or not os.access(directory, os.R_OK):
                continue  # the look from time to time has to do
            try:
                self._notifier.watch(
                    FilePath(directory), _EVENTS, callbacks=[partial(self._event, directory)]
                )
            except inotify.INotifyError:
                if os.path.isdir(directory):
                    self._give_up(f"{directory} is one too many (fs.inotify.max_user_watches)")
                    return
                continue
            self._watched[directory] = identity
            new.append(directory)
            yield

    def _ignore(self, directory: str) -> None:
        if self._watched.pop(directory, None) is not None:
            with suppress(KeyError):  # it was removed, and with it the watch
                self._notifier.ignore(FilePath(directory))

    def _event(self, directory: str, _: object, path: FilePath[bytes], mask: int) -> None:
        if mask & _NO_LONGER_THERE:
            self._watched[directory] = ()  # whatever is there now has to be watched anew
        elif path.path != os.fsencode(directory):
            names = self._places.get(directory, set())
            if names is not None and os.fsdecode(path.basename()) not in names:
                return
        self._touched()
