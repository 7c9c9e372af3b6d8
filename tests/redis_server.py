"""A real redis-server, for a test."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.peers.processes import Program, on_free_port
from tests.programs import require, require_module


class RedisServer:
    """
    A redis-server on a loopback port, which keeps nothing on disk.

    @ivar port: its port; it has the same when it is started again.
    @ivar directory: where it runs.
    """

    def __init__(self, directory: Path, arguments: tuple[str, ...], tls: bool) -> None:
        self.port = 0
        self.directory = directory
        self._arguments = arguments
        self._tls = tls
        self._program: Program | None = None

    @classmethod
    async def started(cls, test: TestCase, *arguments: str, tls: bool = False) -> RedisServer:
        """
        Start one that ends with the test.

        @param arguments: more of its arguments.
        @param tls: whether its port is for TLS.
        """
        require_module("txredisapi")
        # Not trial's directory: the path of a UNIX socket may have no more than 107 bytes.
        directory = Path(tempfile.mkdtemp(prefix="bioconn-"))
        test.addCleanup(shutil.rmtree, directory)
        server = cls(directory, arguments, tls)
        test.addCleanup(lambda: Deferred.fromCoroutine(server.kill()))
        server.port, server._program = await on_free_port(server._on)
        return server

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}"

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._program is not None and self._program.transport is not None
        self._program.transport.signalProcess(number)

    async def kill(self) -> None:
        """Kill it, as a machine that fails would."""
        if self._program is not None:
            await self._program.stop()

    async def start_again(self) -> None:
        """Start it on the same port; it has forgotten everything."""
        self._program = await self._on(self.port)

    async def _on(self, port: int) -> Program:
        program = Program(
            [
                require("redis-server"),
                *("--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
                *(("--port", "0", "--tls-port") if self._tls else ("--port",)),
                str(port),
                *("--dir", str(self.directory), *self._arguments),
            ],
            str(self.directory),
        )
        self._program = program
        await program.wait_for("Ready to accept connections|The server is now ready")
        return program
