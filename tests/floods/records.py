"""Floods of records that have nothing for the application, by clients and by back ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from queue import Queue
from typing import Any

from tests.certificates.load_material import SLOW
from tests.conformance.hellos import message, vector
from tests.conformance.keys import ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE
from tests.floods.ground import PATIENCE, Flood, Ground
from tests.floods.peers import (
    HELLO_12,
    HELLO_13,
    BackEnd,
    Hostile,
    is_ended,
    opened,
    pour,
    served,
    tls,
    trusted,
)

MOST = 10_000 if not SLOW else 40_000
"""Records that are sent where the server takes them all."""

Make = Callable[[Any], bytes]
"""Makes a record, with what seals those of a direction and has C{seal} and C{update}."""

_CLOSING = ":closeTimeout=1"


def key_update(records: Any) -> bytes:
    """We have new keys."""
    made: bytes = records.seal(HANDSHAKE, message(24, b"\0"))
    records.update()
    return made


def key_update_asked(records: Any) -> bytes:
    """We have new keys, and you shall have some too."""
    made: bytes = records.seal(HANDSHAKE, message(24, b"\1"))
    records.update()
    return made


def ticket(records: Any) -> bytes:
    """A session ticket: RFC 8446, section 4.6.1."""
    body = b"\0\0\x1c\x20" + os.urandom(4) + vector(1, b"\0") + vector(2, os.urandom(100)) + b"\0\0"
    made: bytes = records.seal(HANDSHAKE, message(4, body))
    return made


def empty(records: Any) -> bytes:
    """No data."""
    made: bytes = records.seal(APPLICATION_DATA, b"")
    return made


def warning(records: Any) -> bytes:
    """An alert that ends nothing, user_canceled."""
    made: bytes = records.seal(ALERT, b"\1\x5a")
    return made


def change(records: Any) -> bytes:
    """A change_cipher_spec, which TLS 1.3 has for old machines on the way."""
    return bytes([CHANGE_CIPHER_SPEC]) + b"\3\3\0\1\1"


def hello_again(records: Any) -> bytes:
    """Renegotiate."""
    made: bytes = records.seal(HANDSHAKE, HELLO_12.write())
    return made


def hello_asked(records: Any) -> bytes:
    """Be asked to renegotiate."""
    made: bytes = records.seal(HANDSHAKE, message(0, b""))
    return made


def poured(
    ground: Ground, what: str, client: Hostile, make: Make, most: int, begin: bytes = b""
) -> str:
    """
    Pour such records, which the server has to put an end to.

    @param begin: what comes with each of them.
    """
    seals = client.writer or client

    def record() -> bytes:
        made = make(seals)
        return made + seals.seal(APPLICATION_DATA, begin) if begin else made

    sent, ended = pour(client.socket, record, most)
    client.socket.close()
    ground.must(ended, f"{what}: {sent} were taken")
    return f"{what}: ended after {sent}" if ended else f"{what}: {sent} were taken"


def key_updates(ground: Ground) -> str:
    """Key updates without end, and none of the answers is read."""
    return "; ".join(
        poured(ground, what, opened(ground), make, MOST)
        for what, make in (
            ("key updates", key_update),
            ("key updates asked for", key_update_asked),
        )
    )


def renegotiation(ground: Ground) -> str:
    """Renegotiate without end."""
    return poured(ground, "renegotiation", opened(ground, older=True), hello_again, MOST)


def unread(ground: Ground) -> str:
    """
    The same with data in each record's company, for a back end that says nothing.  So nobody but
    the server itself writes to the client, which does not read.
    """
    return "; ".join(
        poured(ground, what, opened(ground, older, narrow=True), make, 5 * MOST, begin=b"x")
        for what, older, make in (
            ("key updates asked for, beside data", False, key_update_asked),
            ("renegotiation, beside data", True, hello_again),
        )
    )


def nothing(ground: Ground) -> str:
    """Records of no bytes, warnings, and changes of keys that are none."""
    told = []
    for what, older, make in (
        ("empty in TLS 1.2", True, empty),
        ("empty in TLS 1.3", False, empty),
        ("warnings in TLS 1.2", True, warning),
        ("warnings in TLS 1.3", False, warning),
        ("change_cipher_spec in TLS 1.3", False, change),
    ):
        told.append(poured(ground, what, opened(ground, older), make, MOST))
    client = Hostile(ground)
    client.hello(HELLO_13)
    client.server_hello()
    client.flight()
    told.append(poured(ground, "change_cipher_spec in the handshake", client, change, 10 * MOST))
    return "; ".join(told)


def sink(ground: Ground) -> str:
    """A back end that reads, and says nothing."""

    def serve(end: socket.socket) -> None:
        while end.recv(65536):
            pass

    return f"127.0.0.1:{BackEnd(ground, serve).port}"


class FloodingBackEnd:
    """
    A back end with TLS that pours records.
    """

    KINDS: tuple[tuple[str, bool, Make], ...] = (
        ("tickets", False, ticket),
        ("key updates", False, key_update),
        ("key updates asked for", False, key_update_asked),
        ("empty in TLS 1.3", False, empty),
        ("empty in TLS 1.2", True, empty),
        ("warnings in TLS 1.2", True, warning),
        ("hello requests in TLS 1.2", True, hello_asked),
    )

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._next: Queue[tuple[str, bool, Make]] = Queue()
        self._told: Queue[str] = Queue()
        self.endpoint = trusted(ground, BackEnd(ground, self._serve).port)

    def _serve(self, end: socket.socket) -> None:
        what, older, make = self._next.get_nowait()
        records = served(end, older)
        sent, ended = pour(end, lambda: make(records), MOST)
        self._ground.must(ended, f"{what}: {sent} were taken")
        self._told.put(f"{what}: ended after {sent}" if ended else f"{what}: {sent} were taken")

    def come(self) -> str:
        """For each kind, have a client forwarded to it."""
        told = []
        for each in self.KINDS:
            self._next.put(each)
            client = tls(self._ground)
            self._ground.must(is_ended(client), f"{each[0]}: its client goes on")
            client.close()
            told.append(self._told.get(timeout=PATIENCE))
        return "; ".join(told)


_FLOODING: dict[Ground, FloodingBackEnd] = {}


def flooding(ground: Ground) -> str:
    """A back end that floods."""
    made = _FLOODING[ground] = FloodingBackEnd(ground)
    ground.case.addCleanup(_FLOODING.pop, ground)
    return made.endpoint


def by_a_back_end(ground: Ground) -> str:
    """Tickets and the like, for us as a client."""
    return _FLOODING[ground].come()


FLOODS = (
    Flood("key updates", key_updates, _CLOSING),
    Flood("renegotiation", renegotiation, _CLOSING),
    Flood("answers that are not read", unread, _CLOSING, sink),
    Flood("records of nothing", nothing, ":handshakeTimeout=5:closeTimeout=1"),
    Flood("records of a back end", by_a_back_end, _CLOSING, flooding),
)
