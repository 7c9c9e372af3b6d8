"""
What others could see of this process that is not for them: its memory, in a core dump, and its
command line.

In its memory are the keys of certificates and of connections, and what these carry.  A core dump
has all of it, and is kept for long by whoever collects them.  So there is none, unless an operator
asks for one while the server runs: C{prlimit --core=unlimited --pid PID} (the hard limit stays what
it was).

Everybody on the machine may read the command line of a process, and with it a password that was
written there.  It is blotted out, as MySQL's and curl's are; it was there for a moment all the
same, so that a file is a better place.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from twisted_bioconn.server._mistakes import blotted

__all__ = ["blot_command_line", "dump_no_core"]


def dump_no_core() -> None:
    """
    Have the system write no core dump of this process, nor of those that it starts.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    # With 0 Linux still hands the dump to a program, where core_pattern names one: that takes 1 for
    # none at all (fs/coredump.c), as a file of one byte is none either.
    fewest = 1 if sys.platform == "linux" else 0
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    if most != resource.RLIM_INFINITY:
        fewest = min(fewest, most)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (fewest, most))


def blot_command_line() -> None:
    """
    Have stars in the place of passwords where the system shows the command line, on Linux.
    """
    with suppress(OSError, ValueError, IndexError), open("/proc/self/mem", "r+b", 0) as memory:
        start, end = _extent()
        memory.seek(start)
        words = memory.read(end - start)
        told = [os.fsencode(blotted(os.fsdecode(word))) for word in words.split(b"\0")]
        stars = b"\0".join(told)
        if stars != words and len(stars) == len(words):
            memory.seek(start)
            memory.write(stars)


def _extent() -> tuple[int, int]:
    """The addresses between which the words of the command line are (proc_pid_stat(5))."""
    with open("/proc/self/stat", "rb") as file:
        # The name of the program may have spaces in it; it is the second field.
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[48 - 3]), int(fields[49 - 3])
