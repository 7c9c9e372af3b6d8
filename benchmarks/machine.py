"""
The machine of a run, and the versions of what ran.
"""

from __future__ import annotations

import os
import platform
import ssl
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cryptography.hazmat.backends.openssl.backend import backend

from twisted_bioconn import __version__

from .peers import Peer

_PACKAGES = ("Twisted", "pyOpenSSL", "cryptography", "service-identity")


def cpu_model(cpuinfo: str) -> str:
    """The processor's name, out of C{/proc/cpuinfo}."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def machine(**cores: int) -> dict[str, Any]:
    """
    Where a run takes place.

    @param cores: those that somebody has to himself, C{server} and C{load}.
    """
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text("utf-8", "replace")),
        "cores": os.cpu_count(),
        **{f"{name} core": core for name, core in cores.items()},
        "system": f"{platform.system()} {platform.release()}",
        "load average before": os.getloadavg()[0],
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions(peers: Iterable[Peer]) -> dict[str, str]:
    """
    Everything whose version a figure may depend on.
    """
    found = {
        "twisted_bioconn": __version__,
        "Python": sys.version.split()[0],
        "Python's ssl": ssl.OPENSSL_VERSION,
        "cryptography's OpenSSL": backend.openssl_version_text(),
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    for peer in peers:
        if said := peer.versions():
            found[f"peer {peer.name}"] = said
    return found
