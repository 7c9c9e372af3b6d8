"""
What the kernel has on its books about a process and its descendants: proc(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
"""Clock ticks in a second: the unit of the times in C{/proc/PID/stat}."""

_PROC = Path("/proc")


class Gone(Exception):
    """There is no such process (any more)."""


def parse_stat(text: str) -> tuple[int, int]:
    """
    Read a line of C{/proc/PID/stat}.

    The times are those of all threads, ended ones too, in user and kernel mode, and of the
    children that have ended and been waited for.

    @return: the parent's process id, and clock ticks of CPU time.
    """
    # The second field is the program's name in parentheses, and may have anything in it.
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), sum(map(int, fields[11:15]))


def parse_pss(text: str) -> int:
    """
    Read C{/proc/PID/smaps_rollup}.

    @return: the proportional set size, in bytes: pages shared by n processes count an nth.
    """
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            number, unit = value.split()
            if unit != "kB":
                raise ValueError(f"the kernel counts in {unit!r} and not in kB")
            return int(number) * 1024
    raise ValueError("there is no line for Pss")


def descendants(parents: Iterable[tuple[int, int]], root: int) -> list[int]:
    """
    @param parents: each process and its parent.
    @return: C{root} and all that come from it.
    """
    children: dict[int, list[int]] = {}
    for process, parent in parents:
        children.setdefault(parent, []).append(process)
    found = [root]
    # It grows while it is walked.
    for process in found:
        found += children.get(process, [])
    return found


def tree(root: int) -> list[int]:
    """
    A process and all its descendants, as they are now.
    """
    parents = []
    for entry in os.listdir(_PROC):
        if entry.isdecimal():
            try:
                parents.append((int(entry), parse_stat(_read(int(entry), "stat"))[0]))
            except Gone:
                continue
    return descendants(parents, root)


def cpu_seconds(root: int) -> float:
    """
    CPU time of a process and its descendants since they began.

    @raise Gone: the process has ended.
    """
    ticks = parse_stat(_read(root, "stat"))[1]
    for process in tree(root)[1:]:
        try:
            ticks += parse_stat(_read(process, "stat"))[1]
        except Gone:
            # It ended just now, and its parent has its time or will have.
            continue
    return ticks / TICKS


def memory(root: int) -> int:
    """
    Memory of a process and its descendants, as proportional set size in bytes.

    @raise Gone: the process has ended.
    """
    total = parse_pss(_read(root, "smaps_rollup"))
    for process in tree(root)[1:]:
        try:
            total += parse_pss(_read(process, "smaps_rollup"))
        except (Gone, ValueError):
            # ValueError: it has ended, and waits for its parent with no memory of its own.
            continue
    return total


def parse_core(text: str, core: int) -> int:
    """
    Read C{/proc/stat}.

    @return: clock ticks that a core was not idle, or was another machine's.
    """
    for line in text.splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
            return user + nice + system + irq + softirq + steal
    raise ValueError(f"there is no core {core}")


def core_seconds(core: int) -> float:
    """Time that a core was not idle, or was another machine's, since the system began."""
    return parse_core((_PROC / "stat").read_text("ascii"), core) / TICKS


def sockets(root: int) -> dict[int, int]:
    """
    The number of sockets that each process of a tree has open.
    """
    found = {}
    for process in tree(root):
        directory = _PROC / str(process) / "fd"
        count = 0
        try:
            for descriptor in os.listdir(directory):
                try:
                    count += os.readlink(directory / descriptor).startswith("socket:")
                except FileNotFoundError:
                    continue
        except FileNotFoundError:
            continue
        found[process] = count
    return found


def _read(process: int, name: str) -> str:
    try:
        return (_PROC / str(process) / name).read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        raise Gone(f"process {process} has ended") from None
