"""
A client or a server with asyncio's streams.

Its one argument is a JSON object; it prints a JSON object for each connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Any

SECONDS = 400


class Context(ssl.SSLContext):
    """
    A context that resumes a session.

    asyncio has no argument for one, but it asks its context for the TLS object.
    """

    last: ssl.SSLSession | None = None

    def wrap_bio(self, *arguments: Any, **more: Any) -> ssl.SSLObject:
        if self.last is not None:
            more["session"] = self.last
        return super().wrap_bio(*arguments, **more)


def context_for(given: dict[str, Any]) -> Context:
    """The context that this role needs."""
    client = given["role"] == "client"
    context = Context(ssl.PROTOCOL_TLS_CLIENT if client else ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[given["version"]]
    if given["certificate"]:
        context.load_cert_chain(given["certificate"], given["key"])
    if given["authorities"]:
        context.load_verify_locations(given["authorities"])
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def say(**facts: object) -> None:
    """Tell the test."""
    print(json.dumps(facts), flush=True)


def tls_of(writer: asyncio.StreamWriter) -> ssl.SSLObject:
    """The TLS object of a connection."""
    found: ssl.SSLObject = writer.get_extra_info("ssl_object")
    return found


def facts(writer: asyncio.StreamWriter) -> dict[str, object]:
    """What this end knows of the connection."""
    tls = tls_of(writer)
    return {"version": tls.version(), "resumed": tls.session_reused}


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, given: dict[str, Any]
) -> None:
    """A client asks for a page."""
    known = facts(writer)
    tls = tls_of(writer)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    received = await reader.readuntil(b"\r\n\r\n")
    # After the end of the connection asyncio gives no access to its session.
    tls.context.last = tls.session  # type: ignore[attr-defined]
    say(**known, answer=(received + await reader.read()).decode())


async def answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, given: dict[str, Any]
) -> None:
    """A server answers with what it knows of the connection."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(json.dumps(facts(writer)).encode())


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, given: dict[str, Any]
) -> None:
    """Send the bytes of a file and read what comes, both at once, until the peer closes."""
    with open(given["file"], "rb") as file:
        unsent = file.read()
    known = facts(writer)
    digest = hashlib.sha256()

    async def send() -> None:
        for start in range(0, len(unsent), 262144):
            writer.write(unsent[start : start + 262144])
            await writer.drain()

    async def receive() -> None:
        while data := await reader.read(262144):
            digest.update(data)

    await asyncio.gather(send(), receive())
    say(**known, digest=digest.hexdigest(), unsent=0)


async def close_last(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, given: dict[str, Any]
) -> None:
    """Write more than the peer takes at once; read until the peer's close_notify."""
    known = facts(writer)
    with open(given["file"], "rb") as file:
        writer.write(file.read())
    received = await reader.read()
    say(**known, received=received.decode())


Act = Callable[[asyncio.StreamReader, asyncio.StreamWriter, dict[str, Any]], Awaitable[None]]
ACTS: dict[str, Act] = {each.__name__: each for each in (ask, answer, exchange, close_last)}


async def act(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, given: dict[str, Any]
) -> None:
    """Do what is to be done, and close."""
    async with asyncio.timeout(SECONDS):
        await ACTS[given["act"]](reader, writer, given)
        writer.close()
        await writer.wait_closed()


async def main(given: dict[str, Any]) -> None:
    """Make as many connections as it says, and do with each what it says."""
    context = context_for(given)
    if given["role"] == "server":
        done: asyncio.Queue[None] = asyncio.Queue()

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await act(reader, writer, given)
            done.put_nowait(None)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context)
        say(port=server.sockets[0].getsockname()[1])
        for _ in range(given["connections"]):
            await done.get()
        return
    for _ in range(given["connections"]):
        await act(
            *await asyncio.open_connection(
                "127.0.0.1", given["port"], ssl=context, server_hostname="localhost"
            ),
            given,
        )


asyncio.run(main(json.loads(sys.argv[1])))
