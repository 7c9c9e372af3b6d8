"""
Clients that fail, each in its way: what they send is wrong, or they are not let in, or they go.

One that gets so much as a byte of what is behind the server has been let in.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from collections.abc import Callable
from functools import partial
from time import monotonic

from ..traffic import MEBIBYTE, reset
from .honest import client_context, connect
from .scene import CLIENT, IMPATIENT_TIMEOUT, NAMES, STRANGER, Scene
from .tally import Done, Kind, LetIn

_LIMIT = 60.0
"""Seconds in which the server has to have turned a client away."""

_ALERT = 21
"""The content type of a record that is an alert: RFC 8446, section 5.1."""

_WAITING = 5
"""How many clients stand there at a time, and say nothing."""


def hello(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, name: str = NAMES[0]) -> bytes:
    """A ClientHello, as it goes over the wire."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    end = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake is done with nobody")


def old_hello() -> bytes:
    """One that offers TLS 1.0 at most: section 7.4.1.2 of RFC 5246 says where the version is."""
    made = bytearray(hello(ssl.TLSVersion.TLSv1_2))
    made[9:11] = b"\x03\x01"
    return bytes(made)


def _plain(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), _LIMIT)


def sends(port: int, data: Callable[[], bytes], answer: bool = False) -> Done:
    """
    Send something, and be turned away.

    @param answer: whether something that is no alert may come before the end.
    @raise LetIn: the server does not close, or says what it should not.
    """
    with _plain(port) as plain:
        said = b""
        try:
            plain.sendall(data())
            while more := plain.recv(1 << 16):
                said += more
        except TimeoutError:
            raise LetIn(f"it is still connected after {_LIMIT:g} s") from None
        except OSError:
            pass
        if said and said[0] != _ALERT and not answer:
            raise LetIn(f"the answer is {said[:20]!r}")
    return 0, False


def goes(port: int, data: bytes, with_reset: bool = True) -> Done:
    """Send something, wait for what the server says to it, and go in the middle of it."""
    plain = _plain(port)
    try:
        plain.sendall(data)
        plain.settimeout(0.05)
        plain.recv(1 << 16)
    except TimeoutError:
        pass
    finally:
        if with_reset:
            reset(plain)
        plain.close()
    return 0, False


def waits(port: int, data: bytes) -> Done:
    """
    Some clients at a time that say no more, until the server has had enough of them.

    @raise LetIn: it does not close.
    """
    clients = [_plain(port) for _ in range(_WAITING)]
    try:
        for client in clients:
            client.sendall(data)
        deadline = monotonic() + IMPATIENT_TIMEOUT + _LIMIT
        for client in clients:
            client.settimeout(max(0.1, deadline - monotonic()))
            try:
                while client.recv(1 << 16):
                    pass
            except TimeoutError:
                raise LetIn("it waits for a handshake without end") from None
            except OSError:
                continue
    finally:
        for client in clients:
            client.close()
    return 0, False


def refused(port: int, name: str, context: ssl.SSLContext, address: str | None = None) -> Done:
    """
    A client that does everything right, and that no rule lets in.

    @param address: where it comes from.
    @raise LetIn: it is answered.
    """
    source = None if address is None else (address, 0)
    with socket.create_connection(("127.0.0.1", port), _LIMIT, source) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=name) as connection:
                connection.sendall(b"?" * 200)
                said = connection.recv(200)
        except TimeoutError:
            raise LetIn(f"it is still connected after {_LIMIT:g} s") from None
        except OSError:
            said = b""
    if said:
        raise LetIn(f"{name} is answered: {said[:20]!r}")
    return 0, False


def breaks_off(port: int, name: str, context: ssl.SSLContext, with_reset: bool) -> Done:
    """Go in the middle of a transfer, with much on its way in both directions."""
    connection = connect(port, name, context)
    try:
        connection.setblocking(False)
        deadline = monotonic() + 0.3
        piece = bytes(1 << 16)
        for _ in range(MEBIBYTE // len(piece)):
            try:
                connection.send(piece)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                # Nobody reads here: that is as much as there will be.
                select.select([], [connection], [], max(0.0, deadline - monotonic()))
                if monotonic() > deadline:
                    break
    finally:
        if with_reset:
            reset(connection)
        connection.close()
    return 0, False


def hostile_kinds(scene: Scene) -> list[Kind]:
    """The part of the load that fails, and its rates."""
    port, impatient = scene.port, scene.ports.impatient
    whole = hello()
    good = client_context(scene)
    distrusting = ssl.create_default_context(cafile=scene.path("other-authority/ca.pem"))

    def kind(name: str, every: float, unit: Callable[..., Done], *words: object) -> Kind:
        return Kind(name, every, partial(unit, *words))

    def garbled() -> bytes:
        return whole[:40] + os.urandom(len(whole) - 40)

    def as_client(pair: str | None) -> ssl.SSLContext:
        return client_context(scene, pair=pair)

    return [
        kind("no certificate", 1.0, refused, port, CLIENT, as_client(None)),
        kind("a stranger's certificate", 1.0, refused, port, CLIENT, as_client("stranger.pem")),
        kind("refused by a rule", 1.0, refused, port, CLIENT, as_client("unwelcome.pem")),
        kind("refused by address", 1.0, refused, port, NAMES[0], good, STRANGER),
        kind("unknown name", 1.0, refused, port, "nobody.soak.test", good),
        kind("does not trust us", 1.0, refused, port, NAMES[1], distrusting),
        kind("too old a version", 1.0, sends, impatient, old_hello),
        kind("garbage", 1.0, sends, impatient, lambda: b"\x80" + os.urandom(199)),
        kind(
            "garbage in TLS records",
            1.0,
            sends,
            impatient,
            garbled,
        ),
        kind("HTTP", 2.0, sends, impatient, lambda: b"GET / HTTP/1.1\r\n\r\n", True),
        kind("half a hello, and the end", 1.0, goes, port, whole[: len(whole) // 2], False),
        kind("half a handshake, and a reset", 1.0, goes, port, whole),
        kind("half a hello, and silence", 11.0, waits, impatient, whole[: len(whole) // 2]),
        kind("half a handshake, and silence", 12.0, waits, impatient, whole),
        kind("silence", 13.0, waits, impatient, b""),
        kind("reset in a transfer", 1.5, breaks_off, port, NAMES[0], good, True),
        kind("cut in a transfer", 1.5, breaks_off, port, NAMES[2], good, False),
    ]
