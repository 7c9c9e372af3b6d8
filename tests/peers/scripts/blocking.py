"""
A client or a server with Python's C{ssl} on blocking sockets.

Its one argument is a JSON object; it prints a JSON object for each connection.
"""

from __future__ import annotations

import hashlib
import json
import selectors
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

SECONDS = 400


def context_for(given: dict[str, Any]) -> ssl.SSLContext:
    """The context that this role needs."""
    client = given["role"] == "client"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if client else ssl.PROTOCOL_TLS_SERVER)
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


def facts(connection: ssl.SSLSocket) -> dict[str, object]:
    """What this end knows of the connection."""
    return {"version": connection.version(), "resumed": connection.session_reused}


def read_all(connection: ssl.SSLSocket) -> bytes:
    """All that comes until the peer's close_notify."""
    received = []
    try:
        while data := connection.recv(65536):
            received.append(data)
    except ssl.SSLZeroReturnError:
        # So it tells the same where this end has closed too.
        pass
    return b"".join(received)


def ask(connection: ssl.SSLSocket, given: dict[str, Any]) -> None:
    """A client asks for a page."""
    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    say(**facts(connection), answer=read_all(connection).decode())


def answer(connection: ssl.SSLSocket, given: dict[str, Any]) -> None:
    """A server answers with what it knows of the connection."""
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        received += connection.recv(65536)
    connection.sendall(json.dumps(facts(connection)).encode())
    connection.unwrap()


def exchange(connection: ssl.SSLSocket, given: dict[str, Any]) -> None:
    """Send the bytes of a file and read what comes, both at once, until the peer closes."""
    with open(given["file"], "rb") as file:
        unsent = memoryview(file.read())
    digest = hashlib.sha256()
    connection.setblocking(False)
    selector = selectors.DefaultSelector()
    key = selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
    open_ = True
    while open_:
        assert selector.select(SECONDS), "nothing comes and nothing goes"
        try:
            if unsent:
                unsent = unsent[connection.send(unsent[:262144]) :]
                if not unsent:
                    key = selector.modify(connection, selectors.EVENT_READ)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        try:
            while data := connection.recv(262144):
                digest.update(data)
            open_ = False
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
    selector.unregister(key.fileobj)
    connection.setblocking(True)
    connection.settimeout(SECONDS)
    say(**facts(connection), digest=digest.hexdigest(), unsent=len(unsent))
    connection.unwrap()


def close_first(connection: ssl.SSLSocket, given: dict[str, Any]) -> None:
    """Send something and a close_notify; then read what comes, until the peer closes."""
    connection.sendall(b"my last words")
    connection.setblocking(False)
    with suppress(ssl.SSLWantReadError):
        connection.unwrap()
    connection.setblocking(True)
    connection.settimeout(SECONDS)
    say(**facts(connection), digest=hashlib.sha256(read_all(connection)).hexdigest())


def close_last(connection: ssl.SSLSocket, given: dict[str, Any]) -> None:
    """Read until the peer's close_notify; then send the bytes of a file, and close."""
    received = read_all(connection)
    with open(given["file"], "rb") as file:
        connection.sendall(file.read())
    say(**facts(connection), received=received.decode())
    connection.unwrap()


ACTS: dict[str, Callable[[ssl.SSLSocket, dict[str, Any]], None]] = {
    each.__name__: each for each in (ask, answer, exchange, close_first, close_last)
}


def main(given: dict[str, Any]) -> None:
    """Make as many connections as it says, and do with each what it says."""
    context = context_for(given)
    act = ACTS[given["act"]]
    if given["role"] == "server":
        with socket.create_server(("127.0.0.1", 0)) as listening:
            say(port=listening.getsockname()[1])
            for _ in range(given["connections"]):
                accepted, _ = listening.accept()
                accepted.settimeout(SECONDS)
                with context.wrap_socket(accepted, server_side=True) as connection:
                    act(connection, given)
        return
    session = None
    for _ in range(given["connections"]):
        plain = socket.create_connection(("127.0.0.1", given["port"]), SECONDS)
        with context.wrap_socket(plain, server_hostname="localhost", session=session) as connection:
            act(connection, given)
            session = connection.session


main(json.loads(sys.argv[1]))
