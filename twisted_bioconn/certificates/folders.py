"""
Directories for what is private: made for their owner alone, and forced to the disk.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

__all__ = ["force", "make_folders"]


def make_folders(path: str) -> None:
    """
    Make a directory and those above it that are missing, for their owner alone.
    """
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        make_folders(parent)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
    else:
        force(parent)


def force(folder: str) -> None:
    """
    Have the names in a directory outlast a loss of power, where its file system can do that.
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
