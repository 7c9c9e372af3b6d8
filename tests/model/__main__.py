"""
Run programs of the model, over TLS and over plain TCP, and print what came of them::

    python -m tests.model [--steps N] [--seed N]
"""

from __future__ import annotations

import argparse

from twisted.logger import globalLogBeginner

from tests.model.report import try_programs


def main() -> None:
    """Read the command line, and go."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument(
        "--steps", type=int, default=300_000, help="how many; by default %(default)s"
    )
    parser.add_argument("--seed", type=int, default=1, help="where chance begins")
    given = parser.parse_args()
    # What the applications raise is logged, as it has to be; nobody wants to read it here.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    print("\n".join(try_programs(given.steps, given.seed).lines()))


if __name__ == "__main__":
    main()
