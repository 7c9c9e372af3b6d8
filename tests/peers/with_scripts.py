"""Python's C{ssl}, asyncio and Node.js, each by a script of ours that runs in its own process."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from tests.peers.matrix import Combination, PeerServer, Seen
from tests.peers.ours import GREETING, SCRIPTS, PeerCase
from tests.peers.processes import Program


@frozen
class Script:
    """
    A script, which does as a client or as a server what it is told.

    @ivar program: what runs it.
    @ivar versions: how it calls the versions of TLS.
    """

    program: str
    name: str
    versions: dict[str, str]

    def _start(
        self, case: PeerCase, role: str, how: Combination, act: str, more: dict[str, object]
    ) -> Program:
        material = case.material
        client = role == "client"
        certificate: Path | None = material.server
        key: Path | None = material.server_key
        if client:
            certificate = material.client if how.certificate else None
            key = material.client_key if how.certificate else None
        given = {
            "role": role,
            "act": act,
            "version": self.versions[how.version],
            "connections": how.connections,
            "certificate": certificate and str(certificate),
            "key": key and str(key),
            "authorities": str(material.root) if client or how.certificate else None,
            **more,
        }
        return case.run_program(self.program, SCRIPTS / self.name, json.dumps(given))

    def start_client(
        self, case: PeerCase, port: int, how: Combination, act: str = "ask", **more: object
    ) -> Program:
        """Start it as a client of a server on this machine."""
        return self._start(case, "client", how, act, {"port": port, **more})

    async def start_server(
        self, case: PeerCase, how: Combination, act: str = "answer", **more: object
    ) -> tuple[int, Program]:
        """
        Start it as a server.

        @return: its port, and the program.
        """
        program = self._start(case, "server", how, act, more)
        match = await program.wait_for(r'\{"port": ?(\d+)\}\n')
        return int(match[1]), program

    async def client(self, case: PeerCase, port: int, how: Combination) -> list[Seen]:
        """Each connection is one of one run."""
        said = await self.start_client(case, port, how).succeeded()
        reports = reports_of(said)
        for report in reports:
            case.assertIn(GREETING.decode(), report["answer"])
        return _seen(reports)

    async def server(self, case: PeerCase, how: Combination) -> PeerServer:
        """It answers with what it knows of the connection."""
        port, _ = await self.start_server(case, how)

        async def seen(answers: list[str]) -> list[Seen]:
            return _seen([json.loads(each) for each in answers])

        return PeerServer(port, seen)


def reports_of(said: str) -> list[dict[str, Any]]:
    """What a script has told, one for each connection."""
    return [json.loads(line) for line in said.splitlines() if line.startswith('{"version"')]


def _seen(reports: Sequence[dict[str, Any]]) -> list[Seen]:
    return [Seen(report["version"], report["resumed"]) for report in reports]


_PYTHON = {"TLSv1.2": "TLSv1_2", "TLSv1.3": "TLSv1_3"}

BLOCKING = Script(sys.executable, "blocking.py", _PYTHON)
ASYNCIO = Script(sys.executable, "streams.py", _PYTHON)
NODE = Script("node", "node.js", {"TLSv1.2": "TLSv1.2", "TLSv1.3": "TLSv1.3"})
