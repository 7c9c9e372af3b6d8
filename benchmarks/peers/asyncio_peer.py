"""
asyncio and uvloop as TLS servers::

    asyncio_peer.py LOOP ROLE PORT BACKEND CERTIFICATE KEY AUTHORITY

Protocols and transports, without the streams that are built on them and cost more.  Backpressure
goes both ways.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Any, cast


class Side(asyncio.Protocol):
    """One of the two connections of a relay."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what to write to."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        """Whoever takes our data is slower than who sends it."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """There is room again."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the other one when all is written."""
        other, self.other = self.other, None
        self.transport = None
        if other is not None:
            other.other = None
            if other.transport is not None:
                other.transport.close()


class Relay(Side):
    """The client's connection: it brings about the one to the back end."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        backend: int,
        options: dict[str, Any],
        tasks: set[asyncio.Task[None]],
    ) -> None:
        super().__init__()
        self._loop = loop
        self._backend = backend
        self._options = options
        self._tasks = tasks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Read nothing while there is nobody to pass it to."""
        super().connection_made(transport)
        cast(asyncio.Transport, transport).pause_reading()
        task = self._loop.create_task(self._connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        try:
            _, side = await self._loop.create_connection(
                Side, "127.0.0.1", self._backend, **self._options
            )
        except OSError:
            if self.transport is not None:
                self.transport.abort()
            return
        if self.transport is None:
            if side.transport is not None:
                side.transport.close()
            return
        self.other, side.other = side, self
        self.transport.resume_reading()


class Echo(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what to write to."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)

    def pause_writing(self) -> None:
        """The peer does not read."""
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self.transport.resume_reading()


async def serve(role: str, port: int, backend: int, files: list[str]) -> None:
    """Serve until killed."""
    certificate, key, authority = files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    options: dict[str, Any] = {}
    if role == "tls":
        options["ssl"] = ssl.create_default_context(cafile=authority)
        options["server_hostname"] = "localhost"
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def relay() -> asyncio.Protocol:
        return Relay(loop, backend, options, tasks)

    server = await loop.create_server(
        Echo if role == "echo" else relay, "127.0.0.1", port, ssl=context, backlog=4096
    )
    await server.serve_forever()


def main() -> None:
    """Run what the command line asks for."""
    loop, role, port, backend, *files = sys.argv[1:]
    factory = None
    if loop == "uvloop":
        from importlib import import_module

        # It is not required, so that mypy need not know it.
        factory = import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(role, int(port), int(backend), files))


if __name__ == "__main__":
    main()
