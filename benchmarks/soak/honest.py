"""
Honest clients: they verify the server, and compare each byte that comes back with what they sent.

Behind the server is an echo, so that what should come back is known, however much it is.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from random import Random
from time import monotonic, sleep

from attrs import Factory, define

from ..traffic import MEBIBYTE, reset
from .scene import ACME, CLIENT, DEVELOPMENT, NAMES, TLS_BACK_END, Scene
from .tally import Done, Kind, Lost

_BLOCK = memoryview(Random(2002).randbytes(MEBIBYTE) * 2)
"""What clients send, from some place on: nothing that is out of its place looks like it."""

_PIECE = 1 << 16
"""Bytes that are given to TLS at once."""

_STANDSTILL = 120.0
"""Seconds in which something has to come or go."""

_SLOW_PIECE = 16 * 1024
_SLOW_PAUSE = 0.02
_SLOW_START = 3.0
"""How a slow reader reads: so many bytes, then so many seconds of nothing; and at first none."""

LONG = 16
"""Connections that are kept for as long as the soak lasts."""


def client_context(
    scene: Scene,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    authority: str = "ca.pem",
    pair: str | None = None,
) -> ssl.SSLContext:
    """
    A client's context that verifies, for one version of TLS.

    @param authority: the file of whom it trusts.
    @param pair: the file with its own certificate and key.
    """
    context = ssl.create_default_context(cafile=scene.path(authority))
    context.minimum_version = context.maximum_version = version
    if pair is not None:
        context.load_cert_chain(scene.path(pair))
    return context


def connect(
    port: int, name: str, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    """
    Connect, and do the handshake.

    @param name: whom to ask for.
    """
    plain = socket.create_connection(("127.0.0.1", port), _STANDSTILL)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(plain, server_hostname=name, session=session)
    except BaseException:
        plain.close()
        raise


def exchange(connection: ssl.SSLSocket, size: int, start: int = 0, slowly: bool = False) -> int:
    """
    Send so many bytes, and at the same time take as many back.

    @param start: where in L{_BLOCK} to begin.
    @param slowly: read late, and little at a time.
    @return: how many came back.
    @raise Lost: what comes is something else, or does not come.
    """
    connection.setblocking(False)
    buffer = memoryview(bytearray(_SLOW_PIECE if slowly else 1 << 18))
    sent = received = 0
    moved = monotonic()
    may_read = moved + _SLOW_START if slowly else moved
    while received < size:
        events = select.POLLIN
        before = sent, received
        if sent < size:
            try:
                place = (start + sent) % MEBIBYTE
                sent += connection.send(_BLOCK[place : place + min(_PIECE, size - sent)])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                events |= select.POLLOUT
        if monotonic() >= may_read:
            try:
                taken = connection.recv_into(buffer[: size - received])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            else:
                if not taken:
                    raise Lost(f"it ends {size - received} of {size} bytes early")
                _compare(buffer[:taken], start + received, received)
                received += taken
                if slowly:
                    may_read = monotonic() + _SLOW_PAUSE
        if (sent, received) != before:
            moved = monotonic()
        elif monotonic() > moved + _STANDSTILL:
            raise Lost(f"{size - received} of {size} bytes do not come in {_STANDSTILL:g} s")
        elif monotonic() < may_read:
            sleep(_SLOW_PAUSE)
        else:
            poll = select.poll()
            poll.register(connection, events)
            poll.poll(1000)
    return received


def _compare(data: memoryview, start: int, at: int) -> None:
    place = start % MEBIBYTE
    if data != _BLOCK[place : place + len(data)]:
        raise Lost(f"of the {len(data)} bytes from {at} on, some are not those that were sent")


def finish(connection: ssl.SSLSocket, politely: bool = True) -> None:
    """
    Close.

    @param politely: with close_notify, and not before the server has closed as well.
    @raise Lost: there is more than was sent.
    """
    try:
        if politely:
            connection.settimeout(_STANDSTILL)
            try:
                connection.unwrap()
            except ssl.SSLError as error:
                if "APPLICATION_DATA_AFTER_CLOSE_NOTIFY" in str(error):
                    raise Lost("there is more than was sent") from None
                raise
    finally:
        connection.close()


@define
class Client:
    """
    A client of one thread, which connects anew for each unit.

    @ivar resumes: whether it offers the session of the connection before.
    @ivar sizes: the least and the most bytes that it sends.
    """

    port: int
    names: tuple[str, ...]
    context: ssl.SSLContext
    sizes: tuple[int, int] = (200, 200)
    resumes: bool = False
    slowly: bool = False
    _session: ssl.SSLSession | None = None
    _count: int = 0
    _random: Random = Factory(lambda: Random(1))

    def __call__(self) -> Done:
        """Connect, exchange, close: two times of three as one should."""
        self._count += 1
        name = self.names[self._count % len(self.names)]
        session = self._session if self.resumes else None
        connection = connect(self.port, name, self.context, session)
        try:
            size = self._random.randint(*self.sizes)
            received = exchange(connection, size, self._random.randrange(MEBIBYTE), self.slowly)
            resumed = bool(connection.session_reused)
            if self.resumes:
                self._session = connection.session
            finish(connection, politely=self._count % 3 != 0)
        finally:
            connection.close()
        return received, resumed


class LongClients:
    """
    Connections that are kept, and asked in turn.
    """

    def __init__(self, connect: Callable[[int], ssl.SSLSocket]) -> None:
        """
        @param connect: makes one, of a number.
        """
        self._connect = connect
        self._connections: dict[int, ssl.SSLSocket] = {}
        self._count = 0

    def __call__(self) -> Done:
        """Ask the next one."""
        self._count += 1
        number = self._count % LONG
        connection = self._connections.get(number)
        if connection is None:
            connection = self._connections[number] = self._connect(number)
        try:
            return exchange(connection, 1 + self._count * 37 % 4096, self._count * 1009), False
        except BaseException:
            # It is lost, and counted; the next one is not to be lost with it.
            del self._connections[number]
            connection.close()
            raise

    def close(self) -> None:
        """
        End them, at the end of the soak.

        @raise Lost: there is more than was sent.
        """
        for connection in self._connections.values():
            finish(connection)

    def drop(self) -> None:
        """Leave them, whatever state they are in."""
        for connection in self._connections.values():
            with suppress(OSError):
                reset(connection)


def long_clients(scene: Scene) -> LongClients:
    """Those of all versions, names and back ends."""
    contexts = [
        client_context(scene, version)
        for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2)
    ]
    names = (*NAMES, TLS_BACK_END)
    return LongClients(
        lambda number: connect(
            scene.port, names[number % len(names)], contexts[number // len(names) % 2]
        )
    )


def honest_kinds(scene: Scene, long: LongClients) -> list[Kind]:
    """The honest part of the load, and its rates."""
    tls13, tls12 = ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2

    def client(
        *names: str,
        version: ssl.TLSVersion = tls13,
        authority: str = "ca.pem",
        pair: str | None = None,
        port: int = scene.port,
        sizes: tuple[int, int] = (200, 200),
        resumes: bool = False,
        slowly: bool = False,
    ) -> Client:
        context = client_context(scene, version, authority, pair)
        return Client(port, names, context, sizes, resumes, slowly)

    bulk = MEBIBYTE, 20 * MEBIBYTE
    kinds = [
        Kind("short, TLS 1.3", 0.0625, client(*NAMES)),
        Kind("short, TLS 1.2", 0.125, client(*NAMES, version=tls12)),
        Kind("short, to a TLS back end", 0.25, client(TLS_BACK_END)),
        Kind("short, client certificate", 0.25, client(CLIENT, pair="welcome.pem")),
        Kind("short, development certificate", 0.5, _development(scene)),
        Kind("resumed, TLS 1.3", 0.125, client(NAMES[0], resumes=True)),
        Kind("resumed, TLS 1.2", 0.25, client(NAMES[0], version=tls12, resumes=True)),
        Kind("resumed, client certificate", 0.5, client(CLIENT, pair="welcome.pem", resumes=True)),
        Kind("long", 0.25, long),
        Kind("bulk, TLS 1.3", 3.0, client(*NAMES, sizes=bulk)),
        Kind("bulk, TLS 1.2", 6.0, client(*NAMES, version=tls12, sizes=bulk)),
        Kind("bulk, to a TLS back end", 6.0, client(TLS_BACK_END, sizes=bulk)),
        Kind(
            "slow reader",
            9.0,
            client(*NAMES, TLS_BACK_END, sizes=(4 * MEBIBYTE, 4 * MEBIBYTE), slowly=True),
        ),
    ]
    if scene.has_acme:
        acme = client(ACME, authority="pebble-root.pem", port=scene.acme_port)
        kinds.append(Kind("short, ACME certificate", 0.5, acme))
    return kinds


def _development(scene: Scene) -> Client:
    context = client_context(scene, authority="state/ca.pem")
    return Client(scene.development_port, (DEVELOPMENT,), context)
