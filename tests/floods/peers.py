"""Clients and back ends that mean no good."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from selectors import EVENT_READ, DefaultSelector
from threading import Thread
from time import monotonic

from OpenSSL import SSL

from tests.conformance.client import Client
from tests.conformance.hellos import MODERN, OLDER, SERVER_NAME, server_name
from tests.conformance.keys import APPLICATION_DATA
from tests.conformance.wire import Ended
from tests.floods.ground import PATIENCE, Ground
from tests.records import KeyLog, Records12, Records13
from tests.tls_material import TLS12, TLS13, authority, context, pem, server, server_connection

_NAME = server_name(b"localhost")

HELLO_13 = MODERN.plus(SERVER_NAME, _NAME)
HELLO_12 = OLDER.plus(SERVER_NAME, _NAME)

BATCH = 500
"""Records that are sent at once."""


class Cut(Exception):
    """What may be sent has been sent."""


class Hostile(Client):
    """
    A client that sends what it likes.

    @ivar left: how many bytes it may send before L{Cut}; L{None} for any number.
    @ivar sent: how many it has.
    """

    def __init__(self, ground: Ground, narrow: bool = False) -> None:
        """
        @param narrow: whether the kernel is to take next to nothing that it does not read.
        """
        self._ground = ground
        self._narrow = narrow
        self.left: int | None = None
        self.sent = 0
        super().__init__({"": ground.port}, "")

    def connect(self, address: tuple[str, int]) -> socket.socket:
        return self._ground.connect(narrow=self._narrow)

    def raw(self, data: bytes) -> None:
        if self.left is None:
            self.sent += len(data)
            super().raw(data)
            return
        if self.left:
            super().raw(data[: self.left])
        self.left -= len(data)
        if self.left <= 0:
            raise Cut

    def echoes(self, size: int = 100) -> str:
        """
        Have something echoed.

        @return: C{"served"}, or how the server has ended it.
        """
        try:
            self.record(APPLICATION_DATA, bytes(size))
            while size > 0:
                size -= len(self.take())
        except Ended as ended:
            return ended.what
        return "served"

    def leave(self) -> None:
        """End in good order."""
        with self, contextlib.suppress(Ended):
            self.alert("close_notify", 1)
            self.wait()

    def reset(self) -> None:
        """End it by a reset."""
        reset(self.socket)


def reset(end: socket.socket) -> None:
    """End a connection by a reset."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def opened(ground: Ground, older: bool = False, narrow: bool = False) -> Hostile:
    """A client whose handshake is done."""
    made = Hostile(ground, narrow)
    made.complete(HELLO_12 if older else HELLO_13)
    return made


def tls(ground: Ground, suppress_ragged_eofs: bool = True) -> ssl.SSLSocket:
    """A client of Python's, which is quicker."""
    return ground.context.wrap_socket(
        ground.connect(),
        server_hostname="localhost",
        suppress_ragged_eofs=suppress_ragged_eofs,
    )


def pour(end: socket.socket, make: Callable[[], bytes], most: int) -> tuple[int, bool]:
    """
    Send so many records, and read nothing.

    @return: how many were sent, and whether the other end has ended the connection then.
    """
    sent = 0
    end.settimeout(PATIENCE)
    try:
        while sent < most:
            batch = b"".join(make() for _ in range(BATCH))
            sent += BATCH
            end.sendall(batch)
    except TimeoutError:
        return sent, False
    except OSError:
        return sent, True
    return sent, is_ended(end)


def is_ended(end: socket.socket, seconds: float = 30.0) -> bool:
    """Whether the other end ends a connection within so many seconds, whatever it says first."""
    deadline = monotonic() + seconds
    try:
        while (left := deadline - monotonic()) > 0:
            end.settimeout(left)
            if not end.recv(65536):
                return True
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def all_ended(
    ground: Ground, ends: Iterable[socket.socket], meanwhile: Callable[[], object] = int
) -> None:
    """
    Wait until the server has ended all of these, and close them.

    @param meanwhile: called four times a second.
    """
    deadline = monotonic() + PATIENCE
    with DefaultSelector() as selector:
        for each in ends:
            each.setblocking(False)
            selector.register(each, EVENT_READ, each)
        while selector.get_map() and monotonic() < deadline:
            meanwhile()
            until = monotonic() + 0.25
            while selector.get_map() and (left := until - monotonic()) > 0:
                for key, _ in selector.select(left):
                    end: socket.socket = key.data
                    if _has_ended(end):
                        selector.unregister(end)
                        end.close()
        left_over = [key.data for key in selector.get_map().values()]
    ground.must(not left_over, f"the server has not ended {len(left_over)} connections")
    for each in left_over:
        each.close()


def _has_ended(end: socket.socket) -> bool:
    try:
        return not end.recv(65536)
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


class BackEnd:
    """
    A back end.

    @ivar port: where it listens.
    """

    def __init__(self, ground: Ground, serve: Callable[[socket.socket], object]) -> None:
        """
        @param serve: called with each connection, in a thread of its own, at the end of which the
            connection is closed; what it raises of the connection's end is nothing.
        """
        self._serve = serve
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port: int = self._listening.getsockname()[1]
        self._open: set[socket.socket] = set()
        Thread(target=self._accept, daemon=True).start()
        ground.case.addCleanup(self._stop)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _ = self._listening.accept()
                Thread(target=self._run, args=(end,), daemon=True).start()

    def _run(self, end: socket.socket) -> None:
        self._open.add(end)
        with contextlib.suppress(OSError, SSL.Error), end:
            self._serve(end)
        self._open.discard(end)

    def _stop(self) -> None:
        # A thread that waits in accept() does not see that it is closed.
        for each in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listening.close()


def trusted(ground: Ground, port: int) -> str:
    """The endpoint of a back end with TLS, with the usual certificate."""
    path = ground.case.mktemp()
    with open(path, "wb") as file:
        file.write(pem(authority().certificate))
    return f"bioconn:127.0.0.1:{port}:trustRoots={ground.absolute(path)}"


def served(end: socket.socket, older: bool) -> Records12 | Records13:
    """Go through a handshake as a server, and give what its next records are made with."""
    if older:
        made = context(
            False,
            own=server(),
            versions=(TLS12, TLS12),
            ciphers=b"ECDHE-ECDSA-AES128-GCM-SHA256",
        )
    else:
        made = context(
            False,
            own=server(),
            versions=(TLS13, TLS13),
            ciphersuites=b"TLS_AES_128_GCM_SHA256",
        )
    log = KeyLog(made)
    connection = server_connection(made)
    said = b""
    while True:
        done = False
        with contextlib.suppress(SSL.WantReadError):
            connection.do_handshake()
            done = True
        with contextlib.suppress(SSL.WantReadError):
            said += (flight := connection.bio_read(1 << 20))
            end.sendall(flight)
        if done:
            break
        data = end.recv(65536)
        if not data:
            raise ConnectionError("it has ended in the handshake")
        connection.bio_write(data)
    if older:
        return Records12(connection, from_client=False)
    records = log.traffic(connection, from_client=False)
    records.skip(said)
    return records
