"""
TLS in memory, with no socket: C{python -m benchmarks.engines}, a task in JSON on stdin, the CPU
that it took in JSON on stdout.

Client and server are of one kind and both are counted: of each byte, one encrypts it and the other
decrypts it.  All kinds have the same certificate and the same cipher suite.  Each gets ciphertext
in the pieces in which its own transport would deliver it: 64 KiB in Twisted, 256 KiB in asyncio and
in our protocol.  What the wire does, here a join and a cut, is not counted.
"""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from attrs import evolve
from OpenSSL import SSL

from twisted_bioconn._engine import Buffer
from twisted_bioconn.certificates.loading import CertifiedKey, load_authorities
from twisted_bioconn.connector import Connector
from twisted_bioconn.context import ClientOptions, ServerOptions
from twisted_bioconn.policy import MODERN

from .traffic import MEBIBYTE, SMALL

WRITES = {"bulk-64": 64 * 1024, "bulk-256": 256 * 1024}
"""Bytes that the application writes at once, in bulk."""
SUITE = "TLS_AES_256_GCM_SHA384"
"""OpenSSL's first choice, which Python's ssl lets nobody change."""
_WARM_UP = 20


class End(Protocol):
    """One end of a connection in memory."""

    piece: int
    """Bytes that its transport delivers at once."""

    def handshake(self, ciphertext: bytes) -> bytes:
        """Take what the peer sent; give what is for the peer."""

    def write(self, plaintext: bytes) -> list[Buffer]:
        """Encrypt; each element is a write to the transport."""

    def read(self, ciphertext: bytes) -> int:
        """Decrypt; the number of bytes that the application got."""

    def suite(self) -> str:
        """The cipher suite, by its name in the standard."""


class ConnectorEnd:
    """Ours, as L{twisted_bioconn.protocol} drives it."""

    piece = 256 * 1024

    def __init__(self, connection: SSL.Connection, is_client: bool) -> None:
        self._connector = Connector(connection, is_client)

    def handshake(self, ciphertext: bytes) -> bytes:
        if ciphertext:
            self._connector.feed(ciphertext)
            self._connector.read()
        return b"".join(self._taken())

    def write(self, plaintext: bytes) -> list[Buffer]:
        written = [self._connector.encrypt(plaintext, len(plaintext))]
        if self._connector.has_output:
            # It is a buffer that is good until the next call.
            written = [bytes(written[0]), *self._taken()]
        return written

    def read(self, ciphertext: bytes) -> int:
        received = len(self._connector.decrypt(ciphertext, len(ciphertext)))
        if self._connector.has_output:
            # The answer to a key update, for one.
            self._connector.take()
        return received

    def suite(self) -> str:
        return self._connector.connection.get_cipher_name() or "unknown"

    def _taken(self) -> list[bytes]:
        taken = []
        while ciphertext := self._connector.take():
            taken.append(ciphertext)
        return taken


class ObjectEnd:
    """Python's C{ssl.SSLObject}, as asyncio drives it."""

    piece = 256 * 1024

    def __init__(self, context: ssl.SSLContext, is_client: bool) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=not is_client,
            server_hostname="localhost" if is_client else None,
        )

    def handshake(self, ciphertext: bytes) -> bytes:
        self._incoming.write(ciphertext)
        with suppress(ssl.SSLWantReadError):
            self._object.do_handshake()
        return self._outgoing.read()

    def write(self, plaintext: bytes) -> list[Buffer]:
        self._object.write(plaintext)
        return [self._outgoing.read()]

    def read(self, ciphertext: bytes) -> int:
        self._incoming.write(ciphertext)
        pieces = []
        try:
            while True:
                # OpenSSL gives a record at most; to ask for more would allocate for nothing.
                pieces.append(self._object.read(1 << 14))
        except ssl.SSLWantReadError:
            pass
        if self._outgoing.pending:
            self._outgoing.read()
        return len(b"".join(pieces))

    def suite(self) -> str:
        cipher = self._object.cipher()
        return cipher[0] if cipher else "unknown"


class TwistedEnd:
    """
    pyOpenSSL, with the calls that C{twisted.protocols.tls.TLSMemoryBIOProtocol} makes.
    """

    piece = 64 * 1024

    def __init__(self, context: SSL.Context, is_client: bool) -> None:
        self._connection = SSL.Connection(context, None)
        if is_client:
            self._connection.set_connect_state()
        else:
            self._connection.set_accept_state()

    def handshake(self, ciphertext: bytes) -> bytes:
        if ciphertext:
            self._connection.bio_write(ciphertext)
        with suppress(SSL.WantReadError):
            self._connection.do_handshake()
        sent: list[bytes] = []
        while self._flush(sent):
            pass
        return b"".join(sent)

    def write(self, plaintext: bytes) -> list[Buffer]:
        sent: list[bytes] = []
        done = 0
        while done < len(plaintext):
            done += self._connection.send(plaintext[done : done + 2**14])
            self._flush(sent)
        return sent

    def read(self, ciphertext: bytes) -> int:
        self._connection.bio_write(ciphertext)
        received = 0
        while True:
            try:
                received += len(self._connection.recv(2**15))
            except SSL.WantReadError:
                break
        self._flush([])
        return received

    def suite(self) -> str:
        return self._connection.get_cipher_name() or "unknown"

    def _flush(self, sent: list[bytes]) -> bool:
        try:
            sent.append(self._connection.bio_read(2**15))
        except SSL.WantReadError:
            return False
        return True


Pair = tuple[End, End]
"""Client and server."""


def connector_pair(certificate: str, key: str, authority: str) -> Pair:
    """Ours, with the contexts that our endpoints make."""
    policy = evolve(MODERN, ciphersuites_tls13=(SUITE,))
    server = ServerOptions(CertifiedKey.from_files(certificate, key), policy=policy)
    client = ClientOptions("localhost", trust_roots=load_authorities(authority), policy=policy)
    return (
        ConnectorEnd(client.clientConnectionForTLS(None), True),
        ConnectorEnd(server.serverConnectionForTLS(None), False),
    )


def object_pair(certificate: str, key: str, authority: str) -> Pair:
    """Python's."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=authority)
    return ObjectEnd(client, True), ObjectEnd(server, False)


def twisted_pair(certificate: str, key: str, authority: str) -> Pair:
    """pyOpenSSL's."""
    server = SSL.Context(SSL.TLS_METHOD)
    server.use_certificate_file(certificate)
    server.use_privatekey_file(key)
    client = SSL.Context(SSL.TLS_METHOD)
    client.load_verify_locations(authority)
    for context in (server, client):
        context.set_tls13_ciphersuites(SUITE.encode("ascii"))
    return TwistedEnd(client, True), TwistedEnd(server, False)


ENGINES: dict[str, Callable[[str, str, str], Pair]] = {
    "connector": connector_pair,
    "ssl.SSLObject": object_pair,
    "pyOpenSSL": twisted_pair,
}
"""By what the tables call them."""


def shake_hands(pair: Pair) -> None:
    """
    Do the handshake, tickets included.

    @raise RuntimeError: they do not agree on L{SUITE}.
    """
    client, server = pair
    flight = client.handshake(b"")
    while flight:
        flight = client.handshake(server.handshake(flight))
    for end in pair:
        if end.suite() != SUITE:
            raise RuntimeError(f"{end.suite()} was negotiated, and not {SUITE}")


def cut(written: Sequence[Buffer], piece: int) -> list[bytes]:
    """What the transport at the other end makes of these writes."""
    whole = bytes(written[0]) if len(written) == 1 else b"".join(written)
    return [whole[at : at + piece] for at in range(0, len(whole), piece)]


def move(sender: End, receiver: End, plaintext: bytes) -> float:
    """
    Carry plaintext from one end to the other.

    @return: the seconds of CPU that both ends took.
    @raise RuntimeError: it did not arrive.
    """
    begin = time.process_time()
    written = sender.write(plaintext)
    spent = time.process_time() - begin
    pieces = cut(written, receiver.piece)
    begin = time.process_time()
    received = sum(map(receiver.read, pieces))
    spent += time.process_time() - begin
    if received != len(plaintext):
        raise RuntimeError(f"{received} of {len(plaintext)} bytes arrived")
    return spent


def bulk(pair: Pair, seconds: float, size: int) -> float:
    """
    @param size: bytes to write at once.
    @return: seconds of CPU for 1 MiB.
    """
    client, server = pair
    plaintext = bytes(size)
    for _ in range(_WARM_UP):
        move(client, server, plaintext)
    spent, moved = 0.0, 0
    while spent < seconds:
        spent += move(client, server, plaintext)
        moved += size
    return spent / (moved / MEBIBYTE)


def messages(pair: Pair, seconds: float) -> float:
    """
    200 bytes to and fro.

    @return: seconds of CPU for a message.
    """
    client, server = pair
    for _ in range(_WARM_UP):
        move(client, server, SMALL)
        move(server, client, SMALL)
    count = 0
    # The clock costs as much as a part of a message: it is asked once in a thousand.
    begin = time.process_time()
    while (spent := time.process_time() - begin) < seconds:
        for _ in range(500):
            if server.read(bytes(client.write(SMALL)[0])) != len(SMALL):
                raise RuntimeError("a message did not arrive")
            if client.read(bytes(server.write(SMALL)[0])) != len(SMALL):
                raise RuntimeError("an answer did not arrive")
        count += 1000
    return spent / count


def main() -> None:
    """Do the task on stdin."""
    task: dict[str, Any] = json.load(sys.stdin)
    files = (task["certificate"], task["key"], task["authority"])
    pair = ENGINES[task["engine"]](*files)
    shake_hands(pair)
    found = {"messages": messages(pair, task["seconds"])}
    for name, size in WRITES.items():
        found[name] = bulk(pair, task["seconds"], size)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
