"""What some tests need beyond the package's own dependencies."""

from __future__ import annotations

import os
import shutil
import socket
from importlib.util import find_spec

from twisted.trial.unittest import FailTest, SkipTest

# Debian keeps servers where a plain user's PATH does not look.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])


def require(program: str, *other_names: str) -> str:
    """
    Find a program by its name, or by one of the other names that it goes by.

    A machine without it skips the test that asked. Where C{BIOCONN_CI} is set nothing may be
    missing, and the test fails.

    @return: the program's path.
    """
    for name in (program, *other_names):
        path = shutil.which(name, path=_PATH)
        if path is not None:
            return path
    raise missing(f"{program} is not installed")


def require_module(name: str) -> None:
    """
    As L{require}, for a Python module.
    """
    if find_spec(name) is None:
        raise missing(f"the Python module {name} is not installed")


def require_ipv6() -> None:
    """
    Skip the test that asked, or the rest of it, on a machine whose loopback has no IPv6.
    """
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        raise SkipTest("this machine has no IPv6") from None


def missing(reason: str) -> Exception:
    """
    Make the exception that a test without what it needs is to raise.
    """
    if os.environ.get("BIOCONN_CI"):
        return FailTest(f"{reason}, and BIOCONN_CI says that nothing is missing")
    return SkipTest(reason)
