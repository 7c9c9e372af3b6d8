"""
Give a target bytes until it does not hold::

    python -m tests.fuzz TARGET [--seconds N] [--corpus DIRECTORY] [--engine NAME]

With atheris (the extra C{fuzz}) what is run decides what is tried next.  What reaches something new
is kept in C{--corpus}; what a target does not hold with, in C{tests/corpus/TARGET/crash-...}, where
the tests find it from then on.  Without atheris, hypothesis tries changes of the corpus.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.fuzz.targets import Target

MODULES = ("twisted_bioconn",)


def main() -> None:
    """Read the command line, and go."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz a target.")
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60, help="how long; 0 for ever")
    parser.add_argument("--corpus", help="a directory for what is found new")
    parser.add_argument(
        "--engine",
        choices=("atheris", "hypothesis"),
        default="hypothesis" if find_spec("atheris") is None else "atheris",
    )
    given = parser.parse_args()
    if given.engine == "hypothesis":
        _with_hypothesis(parser, given.target, given.seconds)
    else:
        _with_atheris(parser, given.target, given.seconds, given.corpus)


def _with_atheris(
    parser: argparse.ArgumentParser, name: str, seconds: int, kept: str | None
) -> None:
    import atheris

    # Only what is imported within is watched.
    with atheris.instrument_imports(include=list(MODULES)):
        from tests.fuzz import targets
    target = _found(parser, targets.TARGETS, name)
    options = [
        f"-max_len={target.longest}",
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        f"-artifact_prefix={targets.CORPORA / name}/",
        *([f"-max_total_time={seconds}"] if seconds else []),
        # libFuzzer writes into the first directory that it is given.
        tempfile.mkdtemp(prefix=f"bioconn-fuzz-{name}-") if kept is None else kept,
        str(targets.CORPORA / name),
    ]
    atheris.Setup([sys.argv[0], *options], target.run)
    atheris.Fuzz()


def _with_hypothesis(parser: argparse.ArgumentParser, name: str, seconds: int) -> None:
    from hypothesis import given, seed, settings

    from tests.fuzz import targets
    from tests.fuzz.inputs import inputs

    target = _found(parser, targets.TARGETS, name)
    end = time.monotonic() + seconds
    number = 0
    while not seconds or time.monotonic() < end:

        @seed(number)
        @settings(max_examples=500, deadline=None, database=None)
        @given(inputs(name))
        def run(data: bytes) -> None:
            target.run(data)

        run()
        number += 1
    print(f"{name}: {number * 500} examples, and nothing was found")


def _found(parser: argparse.ArgumentParser, targets: Mapping[str, Target], name: str) -> Target:
    if name not in targets:
        parser.error(f"there is no target {name}: there are {', '.join(targets)}")
    return targets[name]


if __name__ == "__main__":
    main()
