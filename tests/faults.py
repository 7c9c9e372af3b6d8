"""
Faults of TLS connections, each of them made between two real ends.

One end is at fault, or is refused; the other is the judge.  Where no OpenSSL can be brought to
commit the fault, what it sends is changed on the way (L{tests.records}).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from OpenSSL import SSL

from tests.records import (
    APPLICATION_DATA,
    HANDSHAKE,
    Change,
    KeyLog,
    Records12,
    Records13,
    message,
    record,
    rewrite,
    split,
)
from tests.tls_material import (
    TLS12,
    TLS13,
    Party,
    authority,
    client_connection,
    context,
    server,
    server_connection,
)
from twisted_bioconn import _openssl
from twisted_bioconn._verification import Check
from twisted_bioconn.connector import Connector
from twisted_bioconn.testing import Loopback, Way

DEMAND = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
TRUSTED = [authority().certificate]


def flush(connector: Connector) -> bytes:
    """All that a connector has for the wire."""
    return b"".join(iter(connector.take, b""))


def client_of(version: int, own: Party | None = None) -> SSL.Context:
    """A client's context of one version."""
    return context(True, own=own, trusted=TRUSTED, versions=(version, version))


def server_of(version: int, own: Party | None = None) -> SSL.Context:
    """A server's context of one version."""
    own = own or server()
    return context(False, own=own, trusted=TRUSTED, versions=(version, version))


def meet(
    for_client: SSL.Context,
    for_server: SSL.Context,
    *,
    client_check: Check | None = None,
    verify_server: bool = False,
    server_check: Check | None = None,
    demand: bool = False,
) -> Loopback:
    """
    Two ends joined, nothing sent yet.

    @param verify_server: have the client verify; so does C{client_check}.
    @param demand: have the server demand a client certificate; so does C{server_check}.
    """
    client, for_clients = client_connection(for_client), server_connection(for_server)
    if verify_server or client_check is not None:
        _openssl.set_verification(client, SSL.VERIFY_PEER, client_check)
    if demand or server_check is not None:
        _openssl.set_verification(for_clients, DEMAND, server_check)
    return Loopback(client, for_clients)


def messages(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The kinds and bodies of whole handshake messages."""
    while content:
        size = 4 + int.from_bytes(content[1:4], "big")
        yield content[0], content[4:size]
        content = content[size:]


def changing(kind: int, change: Callable[[bytes], bytes]) -> Change:
    """
    Put others in the place of all messages of a kind.

    @param change: makes what is sent, whole messages, of a body.
    """

    def changed(record_kind: int, content: bytes) -> list[tuple[int, bytes]]:
        if record_kind != HANDSHAKE:
            return [(record_kind, content)]
        content = b"".join(
            change(body) if each == kind else message(each, body)
            for each, body in messages(content)
        )
        return [(HANDSHAKE, content)] if content else []

    return changed


def flip(kind: int, at: int = -1) -> Change:
    """Flip a bit in the messages of a kind."""

    def flipped(body: bytes) -> bytes:
        changed = bytearray(body)
        changed[at] ^= 1
        return message(kind, bytes(changed))

    return changing(kind, flipped)


def in_server_flight(change: Change, own: Party | None = None) -> Loopback:
    """TLS 1.3: the server's encrypted flight is changed; the client is the judge."""
    made = client_of(TLS13)
    log = KeyLog(made)
    loop = meet(made, server_of(TLS13, own))
    loop.server.feed(loop.client.take())
    hello, *rest = split(flush(loop.server))
    # With the server's hello the client has the keys.
    loop.to_client.put(hello)
    connection = loop.client.connection
    opening, sealing = log.handshake(connection, False), log.handshake(connection, False)
    loop.to_client.put(rewrite(b"".join(rest), opening, sealing, change))
    loop.pump()
    return loop


def in_client_flight(change: Change, own: Party | None = None) -> Loopback:
    """TLS 1.3: the client's encrypted flight is changed; the server is the judge."""
    made = client_of(TLS13, own)
    log = KeyLog(made)
    loop = meet(made, server_of(TLS13), demand=own is not None)
    loop.server.feed(loop.client.take())
    loop.client.feed(flush(loop.server))
    connection = loop.client.connection
    opening, sealing = log.handshake(connection, True), log.handshake(connection, True)
    loop.to_server.put(rewrite(flush(loop.client), opening, sealing, change))
    loop.pump()
    return loop


def in_clear(change: Change, *, by_client: bool, own: Party | None = None) -> Loopback:
    """TLS 1.2: the messages of a flight that is in the clear are changed."""
    loop = meet(client_of(TLS12, own), server_of(TLS12), demand=own is not None)
    loop.server.feed(loop.client.take())
    flight = flush(loop.server)
    wire, last = loop.to_client, b""
    if by_client:
        loop.client.feed(flight)
        records = list(split(flush(loop.client)))
        # The last two are change_cipher_spec and the finished message.
        flight, last, wire = b"".join(records[:-2]), b"".join(records[-2:]), loop.to_server
    for each in split(flight):
        wire.put(b"".join(record(*made) for made in change(each[0], each[5:])))
    wire.put(last)
    loop.pump()
    return loop


def instead_of_finished(
    make: Callable[[Records12, list[bytes]], list[bytes]], *, by_client: bool
) -> Loopback:
    """
    TLS 1.2: something else comes in the place of an end's finished message.

    @param make: is given the end's records, and the last flight as it would have been sent; it
        makes the flight.
    """
    loop = meet(client_of(TLS12), server_of(TLS12))
    loop.server.feed(loop.client.take())
    loop.client.feed(flush(loop.server))
    sender, wire = loop.client, loop.to_server
    flight = list(split(flush(loop.client)))
    if not by_client:
        loop.server.feed(b"".join(flight))
        sender, wire = loop.server, loop.to_client
        flight = list(split(flush(loop.server)))
    records = Records12(sender.connection, by_client)
    records.sequence = 0
    for each in make(records, flight):
        wire.put(each)
    loop.pump()
    return loop


def in_hello(change: Callable[[bytes], bytes], version: int, *, by_client: bool) -> Loopback:
    """The first flight of an end is changed."""
    loop = meet(client_of(version), server_of(version))
    hello = loop.client.take()
    if by_client:
        loop.to_server.put(change(hello))
    else:
        loop.server.feed(hello)
        loop.to_client.put(change(flush(loop.server)))
    loop.pump()
    return loop


def in_place_of_hello(data: bytes, *, by_client: bool) -> Loopback:
    """Something else comes first."""
    loop = meet(client_of(TLS13), server_of(TLS13))
    if by_client:
        loop.to_server.put(data)
    else:
        loop.client.take()
        loop.to_client.put(data)
        loop.pump()
    return loop


def afterwards(
    make: Callable[[Records12 | Records13], list[bytes]], version: int, *, by_client: bool
) -> Loopback:
    """One end of an open connection sends records made by hand."""
    made = client_of(version)
    log = KeyLog(made)
    loop = meet(made, server_of(version))
    loop.pump()
    connection = (loop.client if by_client else loop.server).connection
    wire, way = (loop.to_server, Way.TO_SERVER) if by_client else (loop.to_client, Way.TO_CLIENT)
    records: Records12 | Records13
    if version == TLS12:
        records = Records12(connection, by_client)
    else:
        records = log.traffic(connection, by_client)
        records.skip(b"".join(piece for at, piece in loop.crossed if at is way))
    for each in make(records):
        wire.put(each)
    return loop


def sealed(
    kind: int, content: bytes, times: int = 1
) -> Callable[[Records12 | Records13], list[bytes]]:
    """The same record, some times."""
    return lambda records: [records.seal(kind, content) for _ in range(times)]


def damaged(records: Records12 | Records13) -> list[bytes]:
    """A record of which the last bit is wrong."""
    made = bytearray(records.seal(APPLICATION_DATA, b"data"))
    made[-1] ^= 1
    return [bytes(made)]
