"""The commands C{openssl s_client} and C{openssl s_server}."""

from __future__ import annotations

import re
from pathlib import Path

from tests.peers.matrix import Combination, PeerServer, Seen
from tests.peers.ours import GREETING, PeerCase
from tests.peers.processes import Program

VERSIONS = {"TLSv1.2": "-tls1_2", "TLSv1.3": "-tls1_3"}
REQUEST = "GET / HTTP/1.0\r\n\r\n"


def s_client(
    case: PeerCase,
    port: int,
    *arguments: object,
    certificate: bool = False,
    files: dict[int, int] | None = None,
) -> Program:
    """Start a client, of a server on this machine."""
    material = case.material
    own: list[object] = []
    if certificate:
        own = ["-cert", material.client, "-key", material.client_key]
        own += ["-cert_chain", material.intermediate]
    return case.run_program(
        "openssl",
        *("s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost"),
        *("-CAfile", material.root, "-verify_return_error", "-verify_hostname", "localhost"),
        *own,
        *arguments,
        files=files,
    )


def start_s_server(
    case: PeerCase,
    port: int,
    *arguments: object,
    certificate: bool = False,
    own: tuple[Path, Path] | None = None,
    files: dict[int, int] | None = None,
) -> Program:
    """
    Start a server.

    @param port: where; 0 for a port of the system's choice.
    @param certificate: whether it requires one of its clients.
    @param own: the files of its own certificate and key, if not the usual ones.
    """
    material = case.material
    chain, key = own or (material.server, material.server_key)
    wanted: list[object] = []
    if certificate:
        wanted = ["-Verify", 3, "-CAfile", material.root, "-verify_return_error"]
    return case.run_program(
        "openssl",
        *("s_server", "-accept", f"127.0.0.1:{port}"),
        *("-cert", chain, "-key", key, "-cert_chain", material.intermediate),
        *wanted,
        *arguments,
        files=files,
    )


async def s_server(
    case: PeerCase,
    *arguments: object,
    certificate: bool = False,
    own: tuple[Path, Path] | None = None,
) -> tuple[int, Program]:
    """
    Do as L{start_s_server}, on a port of the system's choice, and wait until it listens.

    @return: its port, and the program.
    """
    program = start_s_server(case, 0, *arguments, certificate=certificate, own=own)
    match = await program.wait_for(r"ACCEPT \S+:(\d+)\n")
    return int(match[1]), program


async def client(case: PeerCase, port: int, how: Combination) -> list[Seen]:
    """Each connection is a run, which hands its session to the next in a file."""
    seen = []
    for at in range(how.connections):
        program = s_client(
            case,
            port,
            VERSIONS[how.version],
            *(["-sess_in", "session"] if at else ["-sess_out", "session"]),
            certificate=how.certificate,
        )
        program.write(REQUEST)
        said = await program.succeeded()
        case.assertIn(GREETING.decode(), said)
        match = re.search(r"^(New|Reused), (\S+), Cipher is", said, re.M)
        assert match is not None, said
        seen.append(Seen(match[2], match[1] == "Reused"))
    return seen


async def server(case: PeerCase, how: Combination) -> PeerServer:
    """With C{-www} it answers with what it knows of the connection."""
    port, _ = await s_server(case, "-www", VERSIONS[how.version], certificate=how.certificate)

    async def seen(answers: list[str]) -> list[Seen]:
        matches = [re.search(r"^(New|Reused), (\S+), Cipher is", each, re.M) for each in answers]
        return [Seen(match[2], match[1] == "Reused") for match in matches if match is not None]

    return PeerServer(port, seen)
