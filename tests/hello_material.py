"""Client hellos for tests: built by hand, and made by OpenSSL."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterable
from typing import Any

from OpenSSL import SSL

from twisted_bioconn.hello import LARGEST_HELLO, ClientHello, HelloReader

SERVER_NAME, GROUPS, SIGNATURES, ALPN, VERSIONS = 0, 10, 13, 16, 43


def block(prefix: int, *parts: bytes) -> bytes:
    """What has its length before it."""
    data = b"".join(parts)
    return len(data).to_bytes(prefix, "big") + data


def numbers(prefix: int, given: Iterable[int]) -> bytes:
    return block(prefix, *(number.to_bytes(2, "big") for number in given))


def host_name(name: bytes) -> bytes:
    """The body of a server_name extension."""
    return block(2, b"\0", block(2, name))


def message(
    *extensions: tuple[int, bytes],
    legacy: int = 0x0303,
    session: bytes = b"",
    suites: Iterable[int] = (0x1301,),
    compressions: bytes = b"\0",
    tail: bytes | None = None,
) -> bytes:
    """
    A client hello as a message, with its header.

    @param tail: stands where the extensions would.
    """
    if tail is None:
        tail = block(2, *(kind.to_bytes(2, "big") + block(2, body) for kind, body in extensions))
    body = [legacy.to_bytes(2, "big"), bytes(32), block(1, session), numbers(2, suites)]
    return b"\1" + block(3, *body, block(1, compressions), tail)


def records(data: bytes, size: int = 16384, version: bytes = b"\3\1") -> bytes:
    """A message in records of a size."""
    return b"".join(
        b"\x16" + version + block(2, data[at : at + size]) for at in range(0, len(data), size)
    )


def read(data: bytes, limit: int = LARGEST_HELLO) -> ClientHello | None:
    return HelloReader(limit).feed(data)


def openssl_hello(
    prepare: Callable[[Any, Any], object] = lambda context, connection: None,
) -> bytes:
    """The first flight of a client of pyOpenSSL's."""
    context = SSL.Context(SSL.TLS_METHOD)
    prepare(context, None)
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    prepare(None, connection)
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(1 << 16)


def ssl_hello(context: ssl.SSLContext, name: str | None = None) -> bytes:
    """The first flight of a client of the standard library's."""
    outgoing = ssl.MemoryBIO()
    context.check_hostname = False
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()
