"""Half-close with Python's C{ssl} and asyncio."""

from __future__ import annotations

import hashlib

from twisted.internet.error import ConnectionDone

from tests.peers.bulk import OURS, THEIRS, bulk, bulk_file
from tests.peers.matrix import once
from tests.peers.ours import HalfTalk, PeerCase, Talks
from tests.peers.processes import Program
from tests.peers.with_scripts import ASYNCIO, BLOCKING, Script, reports_of

SIZE = 8 * 1024 * 1024
"""Bytes after a half-close: more than the kernel takes at once."""


class HalfCloseTests(PeerCase):
    """
    One end closes its direction, and the other goes on sending.
    """

    async def as_client(self, script: Script, version: str, act: str) -> tuple[Program, HalfTalk]:
        """The peer is the client."""
        talks = Talks(HalfTalk)
        server = await self.serve(talks)
        path, _ = bulk_file(self.directory, THEIRS, SIZE)
        program = script.start_client(self, server.port, once(version), act, file=str(path))
        talk = await talks.next()
        assert isinstance(talk, HalfTalk)
        return program, talk

    async def as_server(self, script: Script, version: str, act: str) -> tuple[Program, HalfTalk]:
        """The peer is the server."""
        path, _ = bulk_file(self.directory, THEIRS, SIZE)
        port, program = await script.start_server(self, once(version), act, file=str(path))
        return program, await self.connect(port, HalfTalk())

    async def peer_closes_first(self, program: Program, talk: HalfTalk) -> None:
        """It ends its direction; we go on, and all of it arrives."""
        await talk.peer_closed()
        self.assertEqual(talk.heard, b"my last words")
        data, digest = bulk(OURS, SIZE)
        for start in range(0, SIZE, 100_000):
            talk.say(data[start : start + 100_000])
        talk.close()
        [report] = reports_of(await program.succeeded())
        self.assertEqual(report["digest"], digest)
        self.assertIsInstance(await talk.gone(), ConnectionDone)

    async def we_close_first(self, program: Program, talk: HalfTalk) -> None:
        """We end our direction; it goes on, and all of it arrives."""
        talk.say(b"our last words")
        talk.close_write()
        await talk.peer_closed()
        [report] = reports_of(await program.succeeded())
        self.assertEqual(report["received"], "our last words")
        self.assertEqual(len(talk.heard), SIZE)
        self.assertEqual(hashlib.sha256(talk.heard).hexdigest(), bulk(THEIRS, SIZE)[1])
        self.assertIsInstance(await talk.gone(), ConnectionDone)

    async def test_client_closes_first_tls12(self) -> None:
        await self.peer_closes_first(*await self.as_client(BLOCKING, "TLSv1.2", "close_first"))

    async def test_client_closes_first_tls13(self) -> None:
        await self.peer_closes_first(*await self.as_client(BLOCKING, "TLSv1.3", "close_first"))

    async def test_server_closes_first_tls12(self) -> None:
        await self.peer_closes_first(*await self.as_server(BLOCKING, "TLSv1.2", "close_first"))

    async def test_server_closes_first_tls13(self) -> None:
        await self.peer_closes_first(*await self.as_server(BLOCKING, "TLSv1.3", "close_first"))

    async def test_we_close_first_as_server_tls12(self) -> None:
        await self.we_close_first(*await self.as_client(BLOCKING, "TLSv1.2", "close_last"))

    async def test_we_close_first_as_server_tls13(self) -> None:
        await self.we_close_first(*await self.as_client(BLOCKING, "TLSv1.3", "close_last"))

    async def test_we_close_first_as_client_tls12(self) -> None:
        await self.we_close_first(*await self.as_server(BLOCKING, "TLSv1.2", "close_last"))

    async def test_we_close_first_as_client_tls13(self) -> None:
        await self.we_close_first(*await self.as_server(BLOCKING, "TLSv1.3", "close_last"))

    # asyncio has no half-close.

    async def asyncio_closes_too(self, program: Program, talk: HalfTalk) -> None:
        """At our close_notify it sends what it was given before, and closes."""
        await talk.hear(bulk(THEIRS, SIZE)[0][:100])
        await self.we_close_first(program, talk)

    async def test_asyncio_client_tls12(self) -> None:
        await self.asyncio_closes_too(*await self.as_client(ASYNCIO, "TLSv1.2", "close_last"))

    async def test_asyncio_client_tls13(self) -> None:
        await self.asyncio_closes_too(*await self.as_client(ASYNCIO, "TLSv1.3", "close_last"))

    async def test_asyncio_server_tls12(self) -> None:
        await self.asyncio_closes_too(*await self.as_server(ASYNCIO, "TLSv1.2", "close_last"))

    async def test_asyncio_server_tls13(self) -> None:
        await self.asyncio_closes_too(*await self.as_server(ASYNCIO, "TLSv1.3", "close_last"))
