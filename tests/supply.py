"""
Run the tests on the oldest of all that the package says it works with, and on the newest::

    python -m tests.supply [--quick] [--environment NAME]... [--python PYTHON] [--keep DIRECTORY]

It makes a virtual environment for each, C{oldest} with exactly the lower bounds that C{setup.cfg}
has, C{newest} with what the index has, and C{pre-releases} with those too; installs into it what
the package requires, and runs the suites.  It prints a row for each suite in each environment, and
then each test that failed and why.

The exit status is 1 if a test failed or an environment could not be made; what pre-releases break
is only told.  It is 2 where there is no package index.
"""

from __future__ import annotations

import argparse
import configparser
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

from tests.apart import CHECKOUT, COLUMNS, Run, faults, run_apart, table

NO_INDEX = 2
"""The exit status where nothing can be installed."""

ENVIRONMENTS = ("oldest", "newest", "pre-releases")

INFORMATIONAL = ("pre-releases",)

EXTRAS = ("acme", "redis")
"""What the package can do without, and some of its modules cannot."""

TOOLS = ("twisted", "trustme", "hypothesis", "setuptools", "tlslite-ng")
"""Of the extra C{test}, what the modules of the suites import; always the newest."""

SUITES = {
    "core": (
        "test_connector*.py",
        "test_context*.py",
        "test__openssl.py",
        "test_buffer.py",
        "test_hello*.py",
        "test_policy.py",
        "test_verify.py",
        "test_access*.py",
        "test__revocation.py",
        "test_alerts.py",
        "test_negotiated.py",
        "test_client_matrix.py",
    ),
    "protocol": (
        "test_protocol*.py",
        "test_preamble*.py",
        "test_proxy_protocol.py",
        "test__gate*.py",
        "test__tcp*.py",
        "test__transport.py",
        "test__upgrade.py",
        "starttls/test_*.py",
    ),
    "endpoints": (
        "test_endpoint*.py",
        "test_http.py",
        "test_reactor.py",
        "test_routes.py",
        "test_observing.py",
        "test__creators.py",
    ),
    "certificates": ("certificates/test_*.py", "certificates/acme/test_*.py"),
    "server": ("server/test_*.py", "trace/test_*.py"),
}
"""The suites by name, each with its modules."""

QUICK = {
    "core": ("test__openssl.py", "test_context*.py", "test_verify.py", "test_access.py"),
    "protocol": ("test_protocol.py", "test_protocol_factory.py", "test__transport.py"),
    "endpoints": ("test_endpoints.py", "test_endpoint_strings.py", "test_http.py"),
    "certificates": ("certificates/test_loading.py", "certificates/acme/test_client*.py"),
    "server": ("server/test_config.py", "server/test_server_metrics.py", "server/test_sites.py"),
}
"""Of these, for each dependency the modules whose tests have most to do with it."""


def requirements() -> list[Requirement]:
    """What C{setup.cfg} says that the package needs, with L{EXTRAS}."""
    return _of("install_requires") + [each for extra in EXTRAS for each in _of(extra)]


def tools() -> list[Requirement]:
    """What the tests need beyond that."""
    return [each for each in _of("test") if each.name.lower() in TOOLS]


def _of(name: str) -> list[Requirement]:
    settings = configparser.ConfigParser()
    settings.read(CHECKOUT / "setup.cfg")
    section = "options" if name == "install_requires" else "options.extras_require"
    lines = (line.partition("#")[0].strip() for line in settings[section][name].splitlines())
    return [Requirement(line) for line in lines if line]


def lower_bounds(of: Iterable[Requirement]) -> list[str]:
    """
    Constraints for pip with which each of these is as old as may be.

    @raise ValueError: one has no lower bound.
    """
    made = []
    for each in of:
        bounds = [bound.version for bound in each.specifier if bound.operator == ">="]
        if len(bounds) != 1:
            raise ValueError(f"setup.cfg: {each} has no lower bound")
        made.append(f"{each.name}=={bounds[0]}")
    return made


def modules(patterns: Iterable[str]) -> list[str]:
    """The names of the modules that match."""
    tests = Path(__file__).parent
    files = {file for pattern in patterns for file in tests.glob(pattern)}
    return sorted(".".join(file.relative_to(CHECKOUT).with_suffix("").parts) for file in files)


def has_index(python: str) -> bool:
    """Whether pip finds a package index."""
    words = ["-m", "pip", "--retries=0", "--timeout=20", "index", "versions", "attrs"]
    return subprocess.run([python, *words], capture_output=True, check=False).returncode == 0


def make(name: str, python: str, directory: Path) -> Path:
    """
    Make an environment.

    @return: its Python.
    @raise subprocess.CalledProcessError: it could not be made.
    """
    _run([python, "-m", "venv", str(directory)])
    made = directory / ("Scripts" if os.name == "nt" else "bin") / "python"
    options = ["--upgrade"]
    if name == "oldest":
        constraints = directory / "constraints.txt"
        constraints.write_text("\n".join(lower_bounds(requirements())) + "\n", encoding="utf-8")
        options = ["--constraint", str(constraints)]
    elif name == "pre-releases":
        options.append("--pre")
    wanted = [str(each) for each in (*requirements(), *tools())]
    _run([str(made), "-m", "pip", "install", "--disable-pip-version-check", *options, *wanted])
    return made


def versions(python: Path) -> str:
    """What of the package's requirements is installed, in which version."""
    names = sorted({each.name for each in requirements()}, key=str.lower)
    code = (
        "from importlib.metadata import version\n"
        f"print(*(f'{{name}} {{version(name)}}' for name in {names!r}), sep=', ')"
    )
    return _run([str(python), "-c", code]).strip()


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, stdin=subprocess.DEVNULL, text=True, check=True, timeout=900
    )
    return done.stdout


def run_suites(
    environment: str, python: Path, suites: dict[str, tuple[str, ...]], limit: float
) -> dict[str, Run]:
    """Run the suites with this Python."""
    runs = {}
    for suite, patterns in suites.items():
        runs[f"{environment}: {suite}"] = run_apart(python, modules(patterns), limit)
    return runs


def main(arguments: list[str] | None = None) -> int:
    """
    Do what the command line says.

    @return: the exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.supply")
    parser.add_argument("--quick", action="store_true", help="only some modules of each suite")
    parser.add_argument("--environment", action="append", choices=ENVIRONMENTS, help="this alone")
    parser.add_argument("--python", default=sys.executable, help="the Python of the environments")
    parser.add_argument("--keep", metavar="DIRECTORY", help="where to make them, and leave them")
    parser.add_argument("--suite", action="append", choices=SUITES, help="this one alone")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for each suite")
    given = parser.parse_args(arguments)
    if not has_index(given.python):
        print("there is no package index that pip can reach")
        return NO_INDEX
    suites = QUICK if given.quick else SUITES
    chosen = {name: suites[name] for name in given.suite or suites}
    runs: dict[str, Run] = {}
    failed = False
    with TemporaryDirectory() as temporary:
        for name in given.environment or ENVIRONMENTS:
            directory = Path(given.keep or temporary).absolute() / name
            try:
                python = make(name, given.python, directory)
            except subprocess.CalledProcessError as error:
                print(f"{name} could not be made:\n{error.stderr}", flush=True)
                failed = failed or name not in INFORMATIONAL
                continue
            print(f"{name}: {versions(python)}", flush=True)
            found = run_suites(name, python, chosen, given.limit)
            if name not in INFORMATIONAL:
                failed = failed or any(run.failed for run in found.values())
            runs |= found
    print()
    print(table(["environment: suite", *COLUMNS], ([k, *run.cells()] for k, run in runs.items())))
    for line in faults(runs):
        print(f"\nfailed on {line}")
    return 1 if failed or not runs else 0


if __name__ == "__main__":
    sys.exit(main())
