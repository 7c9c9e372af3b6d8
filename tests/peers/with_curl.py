"""curl."""

from __future__ import annotations

import re

from tests.peers.matrix import Combination, Seen
from tests.peers.ours import GREETING, PeerCase
from tests.peers.processes import Program


def start(case: PeerCase, port: int, *arguments: object, certificate: bool = False) -> Program:
    """Start curl, which talks about TLS with a server on this machine."""
    material = case.material
    own = ["--cert", material.client, "--key", material.client_key] if certificate else []
    return case.run_program(
        "curl",
        *("--disable", "--silent", "--show-error", "--verbose", "--max-time", "50"),
        *("--resolve", f"localhost:{port}:127.0.0.1", "--cacert", material.root),
        *own,
        *arguments,
    )


async def client(case: PeerCase, port: int, how: Combination) -> list[Seen]:
    """Each connection is a URL of one run; curl keeps sessions for as long as it runs."""
    version = {
        "TLSv1.2": ["--tlsv1.2", "--tls-max", "1.2"],
        "TLSv1.3": ["--tlsv1.3"],
    }[how.version]
    curl = start(
        case,
        port,
        *version,
        *("--http1.1", "--header", "Connection: close"),
        *[f"https://localhost:{port}/"] * how.connections,
        certificate=how.certificate,
    )
    said = await curl.succeeded()
    case.assertEqual(said.count(GREETING.decode()), how.connections)
    connections = said.split("Trying 127.0.0.1")[1:]
    return [
        Seen(
            re.findall(r"SSL connection using (\S+)", each)[0],
            "SSL re-using session ID" in each,
        )
        for each in connections
    ]
