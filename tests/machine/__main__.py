"""
Run the cases, and print what they have shown in one table::

    python -m tests.machine
    BIOCONN_SLOW=1 python -m tests.machine test_memory test_kills
"""

from __future__ import annotations

import os
import sys
import tempfile

from twisted.scripts import trial

from tests.honest import table
from tests.machine.case import ROWS

MODULES = (
    "test_descriptors",
    "test_memory",
    "test_disk",
    "test_clock",
    "test_workers",
    "test_kills",
)


def main(names: list[str]) -> int:
    """
    @param names: modules; none for all.
    @return: the exit status: 0 where all is well.
    """
    with tempfile.TemporaryDirectory() as directory:
        options = trial.Options()
        modules = [f"tests.machine.{name}" for name in names or MODULES]
        options.parseOptions([f"--temp-directory={os.path.join(directory, 'trial')}", *modules])
        trial._initialDebugSetup(options)
        result = trial._makeRunner(options).run(trial._getSuite(options))
    print(table(ROWS))
    return int(not result.wasSuccessful())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
