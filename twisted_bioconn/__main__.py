"""
C{python -m twisted_bioconn}, and C{bioconn}: the server of C{twistd bioconn}, in the foreground; or
what is to be done to one that runs, as C{bioconn status}; or C{bioconn trace}.
"""

from __future__ import annotations

import os
import sys

from twisted.scripts.twistd import run


def main() -> None:
    """Run the server, with the options of C{twistd bioconn}, or control one that runs."""
    if sys.argv[1:2] and not sys.argv[1].startswith("-"):
        if sys.argv[1] == "trace":
            from twisted_bioconn.trace.command import main as trace

            trace(sys.argv[2:])
        # It takes a client, which a server has no use for.
        from twisted_bioconn.server.control import COMMANDS
        from twisted_bioconn.server.control import main as control

        if sys.argv[1] in COMMANDS:
            control(sys.argv[1:])
    # Nobody looks for the pid of what runs in a terminal, and two may run in one directory.
    pidfile = ["--pidfile="] if os.name == "posix" else []
    sys.argv[1:1] = ["--nodaemon", *pidfile, "bioconn"]
    run()


if __name__ == "__main__":
    main()
