"""The table of targets, and their corpora."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs

from tests.fuzz import wire, written

__all__ = ["CORPORA", "TARGETS", "Target", "corpus"]

CORPORA = Path(__file__).parents[1] / "corpus"


@attrs.frozen
class Target:
    """
    What is given any bytes.

    @ivar run: takes them; whatever it raises is a finding.
    @ivar examples: how many the tests give it: as many as take about a second.
    @ivar longest: bytes at most.
    """

    run: Callable[[bytes], None]
    examples: int
    longest: int = 4096


TARGETS = {
    "access": Target(written.access_rules, 500, 512),
    "backend-greeting": Target(wire.backend_greeting, 600, 2500),
    "configuration": Target(written.configuration, 300, 2048),
    "connector-bytes": Target(wire.connector_bytes, 600),
    "connector-handshake": Target(wire.connector_handshake, 300, 26),
    "endpoint": Target(written.endpoint_options, 400, 512),
    "hello": Target(wire.hello, 400),
    "pem": Target(written.pem, 600),
    "pkcs12": Target(written.pkcs12, 400),
    "preamble": Target(wire.preamble, 600),
    "proxy": Target(wire.proxy_header, 800),
    "starttls": Target(wire.starttls, 600, 2500),
    "trace-messages": Target(wire.trace_messages, 800),
    "trace-records": Target(wire.trace_records, 600),
}
"""By the names of their directories in C{tests/corpus}."""


def corpus(name: str) -> list[bytes]:
    """The bytes that a target is begun with, and all that it has ever been found with."""
    return [path.read_bytes() for path in sorted((CORPORA / name).iterdir())]
