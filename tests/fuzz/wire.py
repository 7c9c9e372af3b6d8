"""Targets for what comes over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from tests.hello_agreement import agree
from tests.proxy_material import read as read_header
from tests.tls_material import VERSIONS, client_connection, client_context, pair, server_connection
from twisted_bioconn.connector import Connector, State
from twisted_bioconn.errors import PeerError
from twisted_bioconn.explanations import FailedHandshake, explain
from twisted_bioconn.hello import ClientHello, HelloReader, MalformedHello
from twisted_bioconn.port_options import Plain, PreambleOptions, Route, networks
from twisted_bioconn.preamble import Preamble, PreambleFactory
from twisted_bioconn.proxy_protocol import (
    LARGEST_HEADER,
    ProxyAddress,
    ProxyHeader,
    TransportProtocol,
    dump_v1,
    dump_v2,
    starts_like_header,
)
from twisted_bioconn.starttls import (
    NAMES,
    Dialogue,
    DialogueState,
    StartTLSError,
    client_dialogue,
    make_backend_filter,
    server_dialogue,
)
from twisted_bioconn.trace._records import RecordReader
from twisted_bioconn.trace.events import Way
from twisted_bioconn.trace.messages import (
    MESSAGES,
    decoded,
    is_hello_retry,
    message_name,
    selected_version,
)

__all__ = [
    "backend_greeting",
    "connector_bytes",
    "connector_handshake",
    "hello",
    "preamble",
    "proxy_header",
    "starttls",
    "trace_messages",
    "trace_records",
]

_NUMBERS = tuple(MESSAGES)
_HELLO_CUT = 300  # bytes: what is read byte by byte costs the square of it
_CRC32C = 3
_ENDLESS = 10
"""The seed with which all goes on without an end."""


def pieces(data: bytes, seed: int) -> Iterator[bytes]:
    """
    Data in pieces, whose sizes the seed chooses: in one, byte by byte, or in several.
    """
    at, size = 0, seed % 31
    while at < len(data):
        end = at + (size or len(data))
        yield data[at:end]
        at, size = end, size and size * 5 % 31


def endless(data: bytes) -> Iterator[bytes]:
    """What follows from somebody who never comes to an end: more of the same, 512 KiB of it."""
    piece = (data[-64:] * 8192)[:8192]
    for _ in range(64 if data else 0):
        yield piece


# The first bytes


def hello(data: bytes) -> None:
    """A client hello: OpenSSL reads the same, and it is the same in any pieces."""

    def outcome(seed: int) -> ClientHello | str | None:
        reader = HelloReader()
        found = None
        try:
            for piece in pieces(data, seed):
                found = reader.feed(piece)
                if found is not None:
                    return found
            for piece in endless(data) if seed == _ENDLESS else ():
                if reader.feed(piece) is not None:
                    break
                # A hello of 128 KiB, and the record that is at hand.
                assert len(reader._message) + len(reader._rest) < 200_000
        except MalformedHello as error:
            return str(error)
        return found

    assert outcome(0) == outcome(len(data) | 1) == outcome(7)
    outcome(_ENDLESS)
    if len(data) < _HELLO_CUT:
        assert outcome(0) == outcome(1)
    if data:
        agree(data)


def proxy_header(data: bytes) -> None:
    """A PROXY header: the same in any pieces, and written as it was read it says the same."""
    found, rest = read_header(data)
    for seed in (1, 7):
        assert read_header(*pieces(data, seed))[0] == found
    if found is None:
        assert len(rest) <= LARGEST_HEADER, len(rest)
        # Nobody would take the rest of it for anything else.
        assert not data or starts_like_header(data) is not False
    if not isinstance(found, ProxyHeader):
        return
    assert data.endswith(rest)
    assert starts_like_header(data)
    _ = (found.alpn, found.authority, found.unique_id, found.netns, found.crc32c, found.tls)
    told = attrs.evolve(found, version=2, tlvs=tuple(t for t in found.tlvs if t[0] != _CRC32C))
    again, left = read_header(dump_v2(told) + b"x", limit=1 << 17)
    assert (again, left) == (told, b"x"), (again, told)
    line, left = read_header(dump_v1(found))
    assert isinstance(line, ProxyHeader) and not left, line
    if found.transport is TransportProtocol.STREAM and isinstance(found.source, ProxyAddress):
        # The text says of the addresses what the bytes do.
        assert (line.source, line.destination) == (found.source, found.destination), line
    else:
        assert line.source is None


class _Taken(Protocol):
    """Keeps what comes, as TLS or as an application."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.received = b""
        self.firstBytes = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class _Taking(Factory[Any]):
    """
    Makes them, and is told of clients that were refused.

    @ivar refusals: what was told.
    """

    noisy = False
    handshakeTimeout = 10.0
    observer = None

    def __init__(self, kind: str, clock: Clock) -> None:
        self.kind = kind
        self.built: list[_Taken] = []
        self.refusals: list[FailedHandshake] = []
        self._givenClock = clock

    def buildProtocol(self, addr: Any) -> _Taken:
        self.built.append(_Taken(self.kind))
        return self.built[-1]

    def refused(self, _: object, failure: FailedHandshake) -> None:
        self.refusals.append(failure)


class _Transport(StringTransport):
    """One that goes on with whatever the preamble puts in its own place."""

    protocol: Any

    def loseWriteConnection(self) -> None:
        self.ended = True

    def abortConnection(self) -> None:
        self.disconnecting = True


_HERE = IPv4Address("TCP", "127.0.0.1", 50000)
_BEFORE = (
    PreambleOptions(),
    PreambleOptions(proxies=networks("127.0.0.1")),
    PreambleOptions(plain=Plain.REDIRECT),
    PreambleOptions(plain=Plain.FORWARD, plain_after=1.0),
    PreambleOptions(proxies=networks("127.0.0.0/8"), plain=Plain.REDIRECT),
    PreambleOptions(proxies=networks("127.0.0.0/8"), plain=Plain.FORWARD),
    *(PreambleOptions(starttls=name, host_name="mail.example.org") for name in NAMES),
    PreambleOptions(proxies=networks("127.0.0.0/8"), starttls="smtp", host_name="a.example"),
)


@attrs.frozen
class _Arrival:
    """
    What has become of a connection.

    @ivar taken: by what, and which bytes; L{None} where nothing has taken it.
    @ivar answer: what was sent.
    @ivar peer: the address that counts.
    @ivar ended: whether it was ended.
    """

    taken: tuple[str, bytes] | None
    answer: bytes
    peer: str
    ended: bool


def _arrive(
    options: PreambleOptions, routed: bool, parts: list[bytes], goes_on: bool = False
) -> _Arrival:
    clock = Clock()
    tls, application, other = (_Taking(kind, clock) for kind in ("tls", "plain", "route"))
    tls.wrappedFactory = application  # type: ignore[attr-defined]
    route = Route(factory=other, names=["www.example.org"], passes_through=True)
    factory = PreambleFactory(tls, options, routes=[(route, other)] if routed else ())
    preamble = factory.buildProtocol(_HERE)
    assert preamble is not None
    transport = _Transport(peerAddress=_HERE)
    transport.protocol = preamble
    preamble.makeConnection(transport)
    for part in parts:
        if transport.disconnecting:
            break
        transport.protocol.dataReceived(part)
        held = preamble._read
        # A record of a hello, or a whole one where there are routes.
        assert len(held) <= len(part) + (1 << 18 if routed else 1 << 15), len(held)
    for part in endless(b"".join(parts)) if goes_on else ():
        if transport.disconnecting or transport.protocol is not preamble:
            break
        preamble.dataReceived(part)
        assert len(preamble._read) < 1 << 19, len(preamble._read)
    built = [*tls.built, *application.built, *other.built]
    taken = (built[0].kind, built[0].received) if built else None
    assert len(built) < 2
    ended = transport.disconnecting or hasattr(transport, "ended")
    at = str(transport.getPeer())
    current = transport.protocol
    assert IProtocol.providedBy(current) or IHalfCloseableProtocol.providedBy(current)
    if isinstance(current, Preamble):
        # Its deadline is the only other thing that can come.
        clock.advance(20)
        current.connectionLost()
    assert not clock.getDelayedCalls(), clock.getDelayedCalls()
    for refusal in tls.refusals:
        explain(refusal)
    return _Arrival(taken, transport.value(), at, ended)


def preamble(data: bytes) -> None:
    """What comes before TLS, with an option by the first byte, and pieces by the second."""
    chosen, seed, data = data[:1], data[1:2], data[2:]
    if not seed:
        return
    number = chosen[0] % (2 * len(_BEFORE))
    options, routed = _BEFORE[number // 2], bool(number % 2)
    whole = _arrive(options, routed, [data] if data else [])
    cut = _arrive(options, routed, list(pieces(data, seed[0])))
    if data and seed[0] % 31 == _ENDLESS:
        _arrive(options, routed, [data], goes_on=True)
    for each in (whole, cut):
        if each.taken is not None:
            # What came last is what is taken: nothing is lost, made up, or read twice.
            assert data.endswith(each.taken[1]), each
        if options.starttls is None and not options.proxies and each.taken is not None:
            assert each.taken[1] == data or each.ended, each
    if options.starttls is None:
        # In a dialogue it matters: what came with the request for TLS is an injection.
        assert whole == cut, (whole, cut)


# Dialogues


def starttls(data: bytes) -> None:
    """A dialogue, in the protocol and the role of the first byte and the pieces of the second."""
    chosen, seed, data = data[:1], data[1:2], data[2:]
    if not seed:
        return
    number = chosen[0] % (2 * len(NAMES))
    make = server_dialogue if number % 2 else client_dialogue
    dialogue: Dialogue = make(NAMES[number // 2], host_name="mail.example.org")
    said = dialogue.start()
    for piece in pieces(data, seed[0]):
        try:
            said += dialogue.feed(piece)
        except StartTLSError as error:
            assert dialogue.state is DialogueState.CLOSED
            assert str(error).isprintable(), error
            assert len(str(error)) < 2000
            said += error.answer
        if dialogue.state is not DialogueState.TALKING:
            break
        assert len(dialogue._buffer) <= len(piece) + (1 << 17)
    for piece in endless(data):
        if dialogue.state is not DialogueState.TALKING:
            break
        with suppress(StartTLSError):
            dialogue.feed(piece)
        assert len(dialogue._buffer) <= 1 << 17, len(dialogue._buffer)
    if dialogue.state is not DialogueState.TALKING:
        assert not dialogue._buffer
    # Somebody who is sent many times what he sends could have us send it to another.
    assert len(said) <= 1000 + 50 * len(data), len(said)


def backend_greeting(data: bytes) -> None:
    """What a server behind a front says first."""
    chosen, data = data[:1], data[1:]
    if not chosen:
        return
    name = ("smtp", "lmtp", "imap", "pop3")[chosen[0] % 4]

    def outcome(seed: int) -> tuple[bytes, bool, str]:
        passing = make_backend_filter(name)
        assert passing is not None
        given = b""
        try:
            for piece in pieces(data, seed):
                given += passing.feed(piece)
            for piece in endless(data) if seed == _ENDLESS else ():
                passing.feed(piece)
                assert len(passing._buffer) <= 1 << 17, len(passing._buffer)
        except StartTLSError as error:
            return given, passing.has_greeted, str(error)
        return given, passing.has_greeted, ""

    whole = outcome(0)
    assert data.endswith(whole[0])
    # Each line is read once.
    assert "of more than" not in whole[2] or data.count(b"\n") >= 50, whole
    outcome(_ENDLESS)
    assert whole == outcome(1) == outcome(7), (whole, outcome(1))


# The connector

_EXPLAINED = 20_000


def _tell(connector: Connector, data: bytes) -> None:
    """See that the error of a connection that has failed can be told."""
    if connector.state is not State.FAILED:
        assert connector.error is None
        return
    error = connector.error
    assert error is not None
    assert str(error).isprintable(), error
    assert connector.pending_plaintext == connector.unread == 0
    told = explain(
        FailedHandshake(
            error=error,
            is_server=not connector.is_client,
            peer="192.0.2.1:50000",
            first_bytes=data[:64],
            received=len(data),
        )
    )
    assert str(told).isprintable() and len(str(told)) < _EXPLAINED, told


def _bare(connection: SSL.Connection, data: bytes) -> bool:
    """OpenSSL's verdict by itself: whether it fails on these bytes."""
    try:
        connection.bio_write(data)
        connection.do_handshake()
    except SSL.WantReadError:
        return False
    except SSL.Error:
        return True
    return False


def connector_bytes(data: bytes) -> None:
    """A stranger's bytes as a server's or a client's; OpenSSL alone has the same verdict."""
    chosen, data = data[:1], data[1:]
    if not chosen or not data:
        return
    is_client, seed = bool(chosen[0] & 1), chosen[0] >> 1
    version = VERSIONS[chosen[0] >> 7]

    def make() -> SSL.Connection:
        return client_connection(client_context(version)) if is_client else server_connection()

    connector = Connector(make(), is_client)
    connector.take()
    sent = 0
    for piece in pieces(data, seed):
        try:
            connector.feed(piece)
            connector.read()
        except PeerError:
            assert connector.state is State.FAILED
        sent += len(connector.take())
        assert connector.pending_ciphertext == 0
    # A server's flight is as long as its chain, and is sent once.
    assert sent < 20_000, sent
    _tell(connector, data)
    assert (connector.state is State.FAILED) == _bare(make(), data), (connector.state, data)


def _changed(flight: bytes, change: bytes) -> bytes:
    """
    A flight with something done to it: 4 bytes say what, where (of 65536ths), and with what.
    """
    if not flight:
        return flight
    kind, value = change[0] % 6, change[3]
    at = int.from_bytes(change[1:3], "big") * len(flight) >> 16
    head, tail = flight[:at], flight[at:]
    if kind == 0:
        return head + bytes([tail[0] ^ (value or 1)]) + tail[1:]
    if kind == 1:
        return head
    if kind == 2:
        return head + tail[: value + 1] + tail
    if kind == 3:
        return head + tail[value + 1 :]
    if kind == 4:
        return head + bytes([value]) + tail
    return flight + flight


def connector_handshake(data: bytes) -> None:
    """
    A good handshake and a few bytes of traffic, with changes on the way.

    The first byte has the version; of the others five are a change: the flight, and what is done.
    """
    if not data:
        return
    client, server = pair(VERSIONS[data[0] % 2])
    ends = (Connector(client, True), Connector(server, False))
    said = (b"from the client", b"from the server")
    changes: dict[int, list[bytes]] = {}
    for at in range(1, min(len(data), 26), 5):
        changes.setdefault(data[at] % 8, []).append(data[at + 1 : at + 5].ljust(4, b"\0"))
    for end, plaintext in zip(ends, said, strict=True):
        end.write(plaintext)
    received, came = [b"", b""], [b"", b""]
    number = 0
    for _ in range(8):
        moved = False
        for mine, end in enumerate(ends):
            other = ends[1 - mine]
            flight = b""
            while ciphertext := end.take():
                flight += ciphertext
            if flight:
                moved = True
                for change in changes.get(number, ()):
                    flight = _changed(flight, change)
                number += 1
                came[1 - mine] += flight
                try:
                    other.feed(flight)
                    received[1 - mine] += other.read()
                except PeerError:
                    assert other.state is State.FAILED
        if not moved:
            break
    for mine, end in enumerate(ends):
        _tell(end, came[mine])
        # What is decrypted is what was written, or the beginning of it: never anything else.
        assert said[1 - mine].startswith(received[mine]), received[mine]
        if not changes:
            assert end.state is State.OPEN and received[mine] == said[1 - mine]
        end.close()
        end.forget()


# Traces


def _lengths(value: object) -> Iterator[int]:
    if isinstance(value, tuple):
        assert len(value) <= 130, len(value)
        for each in value:
            yield from _lengths(each)
    elif isinstance(value, str):
        assert value.isprintable(), value
        yield len(value)
    else:
        assert value is None or isinstance(value, int), value


def trace_messages(data: bytes) -> None:
    """A handshake message, its type in the first byte, and TLS 1.3 in the highest bit."""
    if not data:
        return
    number, is_13, body = data[0] & 0x7F, bool(data[0] & 0x80), data[1:]
    number = _NUMBERS[number % len(_NUMBERS)]
    message_name(number, body)
    is_hello_retry(number, body)
    assert 0 <= selected_version(body) <= 0xFFFF
    fields = decoded(number, body, is_13)
    lengths = list(_lengths(fields))
    # Names of ours are short, and what a peer has written is cut.
    assert max(lengths, default=0) < 1000
    assert sum(lengths) <= 200_000 + 60 * len(body), sum(lengths)


def trace_records(data: bytes) -> None:
    """The records of what goes over the wire: the same in any pieces, one kept at most."""

    def outcome(seed: int) -> tuple[list[object], int]:
        told: list[object] = []
        reader = RecordReader(
            lambda *record: told.append(record), lambda *clear: told.append(clear)
        )
        for piece in pieces(data, seed):
            reader.feed(piece, Way.RECEIVED)
            assert len(reader._body) <= 1 << 15
        for piece in endless(data) if seed == _ENDLESS else ():
            reader.feed(piece, Way.RECEIVED)
            assert len(reader._body) <= 16384 + 2048
        return told, reader.missing

    outcome(_ENDLESS)
    assert outcome(0) == outcome(1) == outcome(7)
