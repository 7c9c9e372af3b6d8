"""C{python -m twisted_bioconn}: the server of C{twistd bioconn}, in the foreground."""

from __future__ import annotations

import os
import sys

from twisted.scripts.twistd import run


def main() -> None:
    """Run the server, with the options of C{twistd bioconn}."""
    # Nobody looks for the pid of what runs in a terminal, and two may run in one directory.
    pidfile = ["--pidfile="] if os.name == "posix" else []
    sys.argv[1:1] = ["--nodaemon", *pidfile, "bioconn"]
    run()


if __name__ == "__main__":
    main()
