"""
Run the tests that touch a reactor on each of the reactors that there are::

    python -m tests.reactors [--quick] [--reactor NAME]... [TEST...]

It prints a row for each reactor, then each test that failed and why, then each that was skipped on
a reactor and not on all of them.  The exit status is 1 if a test failed.
"""

from __future__ import annotations

import argparse
import select
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from tests.apart import CHECKOUT, COLUMNS, Run, faults, run_apart, table

REACTORS: dict[str, tuple[str, ...]] = {
    "epoll": ("--reactor", "epoll"),
    "poll": ("--reactor", "poll"),
    "select": ("--reactor", "select"),
    "asyncio": ("--reactor", "asyncio"),
    "uvloop": ("--reactor", "asyncio", "--loop", "uvloop"),
    "bioconn": ("--reactor", "bioconn"),
    "bioconn-asyncio": ("--reactor", "bioconn-asyncio"),
    "bioconn-asyncio on uvloop": ("--reactor", "bioconn-asyncio", "--loop", "uvloop"),
}
"""Each reactor by name, and how L{tests.outcomes} is told to run on it."""

PATTERNS = (
    "test_protocol*.py",
    "test_endpoint*.py",
    "test_connector*.py",
    "test_preamble*.py",
    "test_proxy_protocol.py",
    "test__gate*.py",
    "test__tcp*.py",
    "test__epoll*.py",
    "test__transport.py",
    "test__upgrade.py",
    "test_reactor.py",
    "test_http.py",
    "test_limits.py",
    "test_observing.py",
    "test_routes.py",
    "test_slots.py",
    "test_verify.py",
    "starttls/test_*.py",
    "trace/test_*.py",
    "server/test_backends*.py",
    "server/test_control.py",
    "server/test_fellows.py",
    "server/test_pairs.py",
    "server/test_relay*.py",
    "server/test_route_rules.py",
    "server/test_service.py",
    "server/test_sites.py",
    "server/test_status*.py",
    "server/test_workers.py",
    "certificates/test_redis_*.py",
    "certificates/test_store_contract.py",
    "certificates/test_watching.py",
)
"""What is run: all that is between a reactor and an application, and what else asks one for I/O."""

QUICK = (
    "tests.test_protocol_transports",
    "tests.test_endpoints",
    "tests.test_endpoint_certificates",
    "tests.test_endpoint_migration",
    "tests.test_endpoint_strings",
    "tests.test_endpoints_letting_in",
    "tests.test_http",
    "tests.test_preamble",
    "tests.starttls.test_peers",
    "tests.server.test_pairs",
    "tests.server.test_relay_sockets",
    "tests.server.test_service",
    "tests.server.test_sites",
    "tests.server.test_status_service",
)
"""
Of these, the modules whose tests open sockets on the reactor that they find installed.

Left out is what has no reactor (the connector, the protocol over transports in memory), a reactor
of its own (L{tests.reactor_material}), or one in a child process, which is the same whatever the
parent has.
"""


def modules() -> list[str]:
    """The names of the modules that are run."""
    tests = Path(__file__).parent
    files = {file for pattern in PATTERNS for file in tests.glob(pattern)}
    return sorted(
        ".".join(file.relative_to(CHECKOUT).with_suffix("").parts)
        for file in files
        if not file.name.startswith("test__epoll") or hasattr(select, "epoll")
    )


def why_not(name: str) -> str:
    """Why a reactor cannot be had on this machine; empty if it can."""
    for system_call in ("epoll", "poll"):
        if name == system_call and not hasattr(select, system_call):
            return f"this platform has no {system_call}"
    if "uvloop" in REACTORS[name] and find_spec("uvloop") is None:
        return "the Python module uvloop is not installed"
    return ""


def skipped_on_some(runs: dict[str, Run]) -> list[str]:
    """Each test that was skipped, but not everywhere."""
    times = Counter(why for run in runs.values() for why in run.reasons("skipped"))
    return [
        f"{name}: {why}"
        for name, run in runs.items()
        for why in run.reasons("skipped")
        if times[why] < len(runs)
    ]


def main(arguments: list[str] | None = None) -> int:
    """
    Do what the command line says.

    @return: the exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.reactors")
    parser.add_argument("--quick", action="store_true", help="only what opens sockets on it")
    parser.add_argument("--reactor", action="append", choices=REACTORS, help="this one alone")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for each reactor")
    parser.add_argument("tests", nargs="*", help="these alone")
    given = parser.parse_args(arguments)
    names = given.tests or (QUICK if given.quick else modules())
    runs: dict[str, Run] = {}
    for name in given.reactor or REACTORS:
        if reason := why_not(name):
            print(f"{name} is left out: {reason}", flush=True)
            continue
        runs[name] = run_apart(sys.executable, [*REACTORS[name], *names], given.limit)
        report = runs[name].report
        print(f"{name}: {'no report' if report is None else report['reactor']}", flush=True)
    print()
    print(table(["reactor", *COLUMNS], ([name, *run.cells()] for name, run in runs.items())))
    for title, lines in (("failed", faults(runs)), ("skipped", skipped_on_some(runs))):
        for line in lines:
            print(f"\n{title} on {line}")
    return 1 if not runs or any(run.failed for run in runs.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
