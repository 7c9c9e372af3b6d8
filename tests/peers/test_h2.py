"""
HTTP/2 with many streams at a time, from h2load through C{twistd bioconn}: to a site of its own, and
to a back end that speaks it, whose bytes are passed on.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.peers import with_nginx
from tests.peers.ours import PeerCase
from tests.peers.processes import on_free_port
from tests.server.command import ROOT

CONNECTIONS, STREAMS, REQUESTS = 4, 100, 1000
"""Streams are those of a connection at a time, requests those of all."""

SIZE = 50_000
"""Bytes of the page."""


class H2LoadTests(PeerCase):
    """Every request is answered, whole."""

    def setUp(self) -> None:
        super().setUp()
        self.web = self.directory / "web"
        self.web.mkdir()
        (self.web / "page.txt").write_bytes(bytes(range(250)) * (SIZE // 250))

    async def front(self, options: str, target: str, value: str | Path) -> int:
        """
        Start C{twistd bioconn}.

        @param options: of its endpoint.
        @return: its port.
        """
        material = self.material
        endpoint = (
            f"bioconn:0:interface=127.0.0.1:certKey={material.server}"
            f":privateKey={material.server_key}{options}"
        )
        start = (
            f"import sys; sys.path.insert(0, {ROOT!r}); import twisted.scripts.twistd as t; t.run()"
        )
        self.ours = self.run_program(
            *(sys.executable, "-c", start, "--nodaemon", "--pidfile=", "bioconn"),
            *("--state", self.directory / "state", "--listen", endpoint, target, value),
        )
        match = await self.ours.wait_for(r"listening on 127\.0\.0\.1:(\d+)")
        return int(match[1])

    async def load(self, port: int) -> None:
        """Have h2load ask, and see what it got."""
        program = self.run_program(
            *("h2load", "-n", REQUESTS, "-c", CONNECTIONS, "-m", STREAMS),
            f"https://127.0.0.1:{port}/page.txt",
        )
        said = await program.succeeded()
        self.assertIn("Application protocol: h2", said)
        self.assertIn(f"{REQUESTS} done, {REQUESTS} succeeded, 0 failed, 0 errored, 0 time", said)
        self.assertIn(f"status codes: {REQUESTS} 2xx", said)
        match = re.search(r"\((\d+)\) data$", said, re.MULTILINE)
        assert match is not None, said
        self.assertEqual(int(match[1]), REQUESTS * SIZE)
        for wrong in ("Traceback", "Unhandled", "#error", "#critical"):
            self.assertNotIn(wrong, self.ours.said)

    async def test_web(self) -> None:
        """A directory is served."""
        await self.load(await self.front("", "--web", self.web))

    async def test_forward_in_clear(self) -> None:
        """nghttpd, which speaks HTTP/2 from the first byte."""

        async def on(port: int) -> None:
            program = self.run_program(
                *("nghttpd", "--verbose", "--no-tls", "--address=127.0.0.1", "-d", self.web, port)
            )
            await program.wait_for("listen 127.0.0.1")

        port, _ = await on_free_port(on)
        await self.load(await self.front(":alpn=h2", "--forward", f"tcp:127.0.0.1:{port}"))

    async def test_forward_encrypted(self) -> None:
        """nginx, which speaks HTTP/2 where the protocol was agreed on."""
        block = with_nginx.serving(self).replace(" ssl;", " ssl http2;")
        # By default it ends a connection after a thousand requests.
        block += f" root {self.web}; keepalive_requests {2 * REQUESTS};"
        port, _ = await with_nginx.start(self, "http", f"server {{ {block} }}")
        target = (
            f"bioconn:127.0.0.1:{port}:serverName=localhost:trustRoots={self.material.root}:alpn=h2"
        )
        await self.load(await self.front(":alpn=h2", "--forward", target))
