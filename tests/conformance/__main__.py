"""
Print what every server makes of every case.

    python -m tests.conformance [WORD...]

With words, those cases alone whose names have one of them.  Ours has all of them a second time,
and what that leaves behind in its process is told.

The exit status is 1 where ours makes something of a case that is neither right nor known, logs an
error, or has grown by a MiB or a descriptor.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SkipTest

from tests.conformance.cases import TABLES, Case, verdict
from tests.conformance.known import OURS
from tests.conformance.servers import PORTS, SERVERS, Server

MEBIBYTE = 1024 * 1024

_MARKS = {"right": " ", "known": "*", "wrong": "!"}


def _cell(case: Case, name: str, server: Server, judged: dict[str, str]) -> str:
    """What a server makes of a case, on its ports; once, if that is the same on all."""
    found: dict[str, list[str]] = {}
    worst = "right"
    for port in PORTS[name]:
        if port in case.ports:
            outcome, verdict_ = verdict(case, server, port)
            found.setdefault(outcome, []).append(port)
            worst = max(worst, verdict_, key=list(_MARKS).index)
    judged[name] = worst if found else ""
    if not found:
        return "-"
    if len(found) == 1:
        return _MARKS[worst] + next(iter(found))
    return _MARKS[worst] + ", ".join(f"{each} ({'/'.join(at)})" for each, at in found.items())


def main(words: list[str]) -> int:
    """
    Print the table.

    @return: the exit status.
    """
    for module in sorted(Path(__file__).parent.glob("test_*.py")):
        import_module(f"tests.conformance.{module.stem}")
    servers = {}
    for name, start in SERVERS.items():
        try:
            servers[name] = start()
        except SkipTest as reason:
            print(f"{name} is left out: {reason}")
    for name, server in servers.items():
        print(f"{name}: {server.version}")
    print("* falls short, as is known; ! falls short; - has no such configuration\n")
    counts = {name: dict.fromkeys(_MARKS, 0) for name in servers}
    row = "{:<64} {:<26} {:<34} " + " {:<28}" * len(servers)
    print(row.format("case", "section", "must be", *(f" {name}" for name in servers)).rstrip())
    cases = [
        case
        for table in TABLES
        for case in table
        if not words or any(word in case.name for word in words)
    ]
    for case in cases:
        judged: dict[str, str] = {}
        cells = [_cell(case, name, server, judged) for name, server in servers.items()]
        for name, worst in judged.items():
            if worst:
                counts[name][worst] += 1
        print(row.format(case.name, case.section, case.must, *cells).rstrip())
    print(f"\n{len(cases)} cases")
    for name, count in counts.items():
        print(f"{name}: " + ", ".join(f"{number} {what}" for what, number in count.items()))
    grown, more = _left_behind(cases, servers[OURS])
    print(f"{OURS}, after the same again: {grown / 1024:+.0f} KiB, {more:+d} descriptors")
    said = {name: server.unhandled() for name, server in servers.items()}
    for name, lines in said.items():
        for line in lines:
            print(f"{name} says: {line}")
    is_well = not (counts[OURS]["wrong"] or said[OURS] or more) and grown < MEBIBYTE
    return 0 if is_well else 1


def _left_behind(cases: Iterable[Case], server: Server) -> tuple[int, int]:
    """How many bytes and descriptors more a server has after it had all these once more."""
    before = server.levels()
    for case in cases:
        for port in set(PORTS[OURS]).intersection(case.ports):
            verdict(case, server, port)
    memory, files = (now - then for now, then in zip(server.levels(), before, strict=True))
    return memory, files


if __name__ == "__main__":
    with TemporaryDirectory() as directory:
        os.chdir(directory)
        sys.exit(main(sys.argv[1:]))
