"""
The files under a directory in which values are kept: what they are called, and which there are.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from stat import S_ISDIR
from typing import NamedTuple, TypeVar
from urllib.parse import quote, unquote

import attrs

from ..errors import ConfigurationError
from .folders import make_folders
from .store import LARGEST_VALUE, StoreUnavailable, ValueUnreadable, is_name

__all__ = [
    "FOLDER",
    "Mark",
    "Tree",
    "available",
    "path_of",
    "read_value",
    "read_whole",
    "remove_empty",
    "within",
]

FOLDER = re.compile("[A-Za-z0-9_@%-][A-Za-z0-9._@%-]*")
"""The directories that are ours; others, such as C{lost+found}, are not."""

# A change within the same tick of a file system's clock does not show in the directory's time: it
# is read once more when so many seconds have passed (FAT's tick is the longest).
_SETTLED = 2.0

_PLAIN = re.compile("[A-Za-z0-9_@-][A-Za-z0-9._@-]{0,199}")
"""The last words of names that are file names as they are."""

# What an operating system says of one file that is not as it should be, rather than of the disk.
_OF_ONE_FILE = frozenset(
    (errno.EACCES, errno.EPERM, errno.EISDIR, errno.EFBIG, errno.ELOOP, errno.ENXIO)
)

_ATTEMPTS = 5

_Result = TypeVar("_Result")

# A word that is too long for one file name may have been cut in there.
_PART_OF_ESCAPE = re.compile(r"%[0-9A-Fa-f]?\Z")

_LONGEST_PART = 200  # characters of 255 that a file's name may have: a temporary one is longer


class Mark(NamedTuple):
    """
    What changes when a file is replaced.
    """

    time: int
    size: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Mark:
        """The mark of a file."""
        return cls(status.st_mtime_ns, status.st_size, status.st_ino)


@attrs.frozen
class _Folder:
    """
    What was in a directory when it was last read.

    @ivar names: the names of the values in it, by file name.
    @ivar folders: what the names of the values in a directory in it begin with, by its name.
    @ivar time: the directory's own time then.
    @ivar again: when it is to be read once more although its time has not changed; L{None} where
        it need not be.
    @ivar marks: the marks of the values in it, by name.
    """

    names: dict[str, str]
    folders: dict[str, str]
    time: int = 0
    again: float | None = None
    marks: dict[str, Mark] = attrs.field(factory=dict)


class Tree:
    """
    All values under a directory.
    """

    def __init__(self, path: str, seconds: Callable[[], float]) -> None:
        """
        @param seconds: a time that only grows.
        """
        self._path = path
        self._seconds = seconds
        self._folders: dict[str, _Folder] = {}

    def names(self, prefix: str) -> list[str]:
        """
        The names of all values that begin with a prefix.  No directory is read in which there can
        be none of them.

        @raise OSError: a directory cannot be read.
        """
        top = self._top(prefix)
        if top is None:
            return []
        folders = self._walk(lambda path, begin: self._read(path, begin, prefix), top)
        found = (name for folder in folders.values() for name in folder.names.values())
        return [name for name in found if name.startswith(prefix)]

    def _top(self, prefix: str) -> tuple[str, str] | None:
        """
        The directory under which all values are that begin with a prefix, and the words that lead
        there; L{None} where there is no such directory.

        @raise OSError: there is no directory at all.
        """
        words = prefix[: prefix.rfind("/") + 1]
        if words and not is_name(words[:-1]):
            return None
        # What the last word is makes no difference to the directories before it.
        folder = os.path.dirname(path_of(self._path, f"{words}x", ""))
        path = self._path
        os.stat(path)
        for part in os.path.relpath(folder, path).split(os.sep) if words else ():
            path = os.path.join(path, part)
            try:
                # A link is not followed: it may lead to where we come from.
                if not S_ISDIR(os.lstat(path).st_mode):
                    return None
            except FileNotFoundError:
                return None
        return path, words

    def look(self) -> dict[str, Mark]:
        """
        The mark of each value there is, by name.  Directories that have not changed since the last
        look are not read again; what changes within one tick of the file system's clock shows a
        little later.

        @raise OSError: a directory cannot be read.
        """
        self._folders = self._walk(self._read_if_changed, (self._path, ""))
        found: dict[str, Mark] = {}
        for folder in self._folders.values():
            found.update(folder.marks)
        return found

    def _walk(
        self, read: Callable[[str, str], _Folder], top: tuple[str, str]
    ) -> dict[str, _Folder]:
        folders: dict[str, _Folder] = {}
        left = [top]
        while left:
            path, prefix = left.pop()
            try:
                folder = folders[path] = read(path, prefix)
            except FileNotFoundError:
                if path == self._path:
                    raise
                continue  # it was removed while we looked
            left += [(os.path.join(path, name), begin) for name, begin in folder.folders.items()]
        return folders

    def _read_if_changed(self, path: str, prefix: str) -> _Folder:
        before = self._folders.get(path)
        changed = os.stat(path).st_mtime_ns
        now = self._seconds()
        again: float | None = now + _SETTLED
        if before is not None and before.time == changed:
            if before.again is None or now < before.again:
                return before
            again = None
        folder = self._read(path, prefix)
        marks: dict[str, Mark] = {}
        for file, name in folder.names.items():
            with suppress(FileNotFoundError):
                marks[name] = Mark.of(os.lstat(os.path.join(path, file)))
        return attrs.evolve(folder, time=changed, again=again, marks=marks)

    def _read(self, path: str, begin: str, prefix: str = "") -> _Folder:
        """
        @param begin: what the names of the values in there begin with, escaped as file names are.
        @param prefix: what is wanted begins with it; most of the rest is left out.
        """
        before = self._folders.get(path)
        known = {} if before is None else before.names
        is_plain = self._is_plain(path, begin)
        names: dict[str, str] = {}
        folders: dict[str, str] = {}
        with os.scandir(path) as entries:
            for entry in entries:
                file = entry.name
                if file.endswith(".value"):
                    if not _plain_text(begin + file).startswith(prefix):
                        continue
                    if is_plain and _PLAIN.fullmatch(file, 0, len(file) - len(".value")):
                        whole = begin + file.removesuffix(".value")
                        name = whole if is_name(whole) else None
                    else:
                        name = known.get(file) or self._name(path, begin, file)
                    if name is not None and entry.is_file(follow_symlinks=False):
                        names[file] = name
                elif file.endswith(".lease") or FOLDER.fullmatch(file) is None:
                    continue
                elif entry.is_dir(follow_symlinks=False):
                    below = begin + (file[:-1] if file.endswith("%") else f"{file}/")
                    text = _plain_text(below)
                    if text.startswith(prefix) or prefix.startswith(text):
                        folders[file] = below
        return _Folder(names, folders)

    def _is_plain(self, path: str, begin: str) -> bool:
        """
        Whether names in a directory are put together of their parts as they are.
        """
        if not begin:
            return True
        return (
            begin.endswith("/")
            and "%" not in begin
            and is_name(begin[:-1])
            and os.path.dirname(path_of(self._path, f"{begin}x", "")) == path
        )

    def _name(self, path: str, prefix: str, file: str) -> str | None:
        """
        The name of the value in a file; L{None} where it is a file of somebody else's.
        """
        name = unquote(prefix + file.removesuffix(".value"), errors="replace")
        if is_name(name) and path_of(self._path, name, ".value") == os.path.join(path, file):
            return name
        return None


def _plain_text(begin: str) -> str:
    """
    What a name begins with, without escapes; one of which there is but a part is left out.
    """
    return unquote(_PART_OF_ESCAPE.sub("", begin)) if "%" in begin else begin


def path_of(root: str, name: str, suffix: str) -> str:
    """
    Where a value or a lease is kept: each word is a directory, and the last one a name with the
    suffix.  C{*} and C{:} are no characters for file names everywhere, and are escaped.  A word
    that is too long for one name is several, of which all but the last end in C{%}.
    """
    *words, last = (quote(word, safe="@") for word in name.split("/"))
    parts = [root]
    for word in words:
        # A directory must not look like a value or a lease.
        parts += _pieces(re.sub(r"\.(?=(?:value|lease)\Z)", "%2E", word))
    parts += _pieces(last)
    return os.path.join(*parts) + suffix


def _pieces(word: str) -> Iterator[str]:
    while len(word) > _LONGEST_PART:
        yield f"{word[:_LONGEST_PART]}%"
        word = word[_LONGEST_PART:]
        if word.startswith("."):
            word = f"%2E{word[1:]}"
    yield word


@contextmanager
def available(path: str) -> Iterator[None]:
    """
    Say of a disk that fails us that the store is not available.
    """
    try:
        yield
    except ConfigurationError as error:
        raise StoreUnavailable(str(error)) from error
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else path
        raise StoreUnavailable(f"{where} cannot be used: {error.strerror}") from error


def within(path: str, work: Callable[[], _Result]) -> _Result:
    """
    Write to a directory, which is made if it is not there.  Another process may remove it at any
    time, for it is empty: then it is made again.

    @param work: what writes there.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            make_folders(path)
            return work()
        except FileNotFoundError:
            continue
        except ConfigurationError as error:  # see write_private
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
    make_folders(path)
    return work()


def remove_empty(path: str, root: str) -> None:
    """
    Remove a directory if it is empty, and those above it that become empty thereby, up to a root,
    which stays.  Each look for changes has to ask for each directory there is.
    """
    with suppress(OSError):
        while path != root:
            os.rmdir(path)
            path = os.path.dirname(path)


def read_value(path: str) -> bytes | None:
    """
    Do as L{read_whole}.

    @raise ValueUnreadable: this file cannot be read, while others may.
    @raise StoreUnavailable: the disk fails us.
    """
    try:
        with available(path):
            return read_whole(path)
    except StoreUnavailable as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _OF_ONE_FILE:
            raise ValueUnreadable(str(error)) from cause
        raise


def read_whole(path: str) -> bytes | None:
    """
    What is in a file; L{None} where there is none.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with open(path, "rb", opener=_without_waiting) as file:
                data = file.read(LARGEST_VALUE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            # On NFS a file that another machine replaces as we read it.
            if error.errno != errno.ESTALE or attempt == _ATTEMPTS - 1:
                raise
        else:
            break
    if len(data) > LARGEST_VALUE:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return data


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
