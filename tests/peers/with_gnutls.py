"""C{gnutls-cli} and C{gnutls-serv}."""

from __future__ import annotations

import re

from tests.peers.matrix import Combination, PeerServer, Seen
from tests.peers.ours import GREETING, PeerCase
from tests.peers.processes import Program, on_free_port

PRIORITIES = {
    "TLSv1.2": "NORMAL:-VERS-ALL:+VERS-TLS1.2",
    "TLSv1.3": "NORMAL:-VERS-ALL:+VERS-TLS1.3",
}


def cli(
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
        own = ["--x509certfile", material.client, "--x509keyfile", material.client_key]
    return case.run_program(
        "gnutls-cli",
        *("--port", port, "--sni-hostname", "localhost", "--verify-hostname", "localhost"),
        *("--x509cafile", material.root),
        *own,
        *arguments,
        "127.0.0.1",
        files=files,
    )


async def serv(
    case: PeerCase, *arguments: object, certificate: bool = False
) -> tuple[int, Program]:
    """
    Start a server.

    @param certificate: whether it requires one of its clients.
    @return: its port, and the program.
    """
    material = case.material
    wanted: list[object] = ["--disable-client-cert"]
    if certificate:
        wanted = ["--require-client-cert", "--verify-client-cert", "--x509cafile", material.root]

    async def start(port: int) -> Program:
        program = case.run_program(
            "gnutls-serv",
            *("--port", port),
            *("--x509certfile", material.server, "--x509keyfile", material.server_key),
            *wanted,
            *arguments,
        )
        await program.wait_for("listening on IPv4 .*done")
        return program

    return await on_free_port(start)


def _seen(said: str) -> Seen:
    version = re.search(r"Description: \(TLS(1\.\d)", said)
    assert version is not None, said
    return Seen(f"TLSv{version[1]}", "This is a resumed session" in said)


async def client(case: PeerCase, port: int, how: Combination) -> list[Seen]:
    """To resume, it makes one connection to have a session and asks on the second one."""
    program = cli(
        case,
        port,
        *("--priority", PRIORITIES[how.version]),
        *(["--resume", "--waitresumption"] if how.resumed else []),
        certificate=how.certificate,
    )
    await program.wait_for("Simple Client Mode")
    program.write("GET / HTTP/1.0\r\n\r\n")
    said = await program.succeeded()
    case.assertIn(GREETING.decode(), said)
    return [_seen(each) for each in said.split("Connecting again")]


async def server(case: PeerCase, how: Combination) -> PeerServer:
    """It answers with what it knows of the connection, and says that on its stdout too."""
    port, program = await serv(
        case, "--http", "--priority", PRIORITIES[how.version], certificate=how.certificate
    )

    async def seen(answers: list[str]) -> list[Seen]:
        while program.said.count("Channel bindings") < len(answers):
            await program.wait_for("Channel bindings")
        return [_seen(each) for each in program.said.split("Accepted connection")[1:]]

    return PeerServer(port, seen)
