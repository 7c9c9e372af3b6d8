"""
Both ends of a TLS connection in memory, for tests: no socket, no reactor, no files.

L{Loopback} joins two connectors by two wires, one for each direction.  A wire shows what crosses
it, and can be made to deliver in pieces, late, damaged, or not to the end::

    >>> from twisted_bioconn.testing import Loopback, example_connections
    >>> loop = Loopback(*example_connections())
    >>> loop.client.write(b"hello")
    >>> loop.to_server.split = 1  # the server gets it byte by byte
    >>> loop.pump()
    >>> loop.received_by_server
    b'hello'
    >>> loop.server.negotiated.version
    'TLSv1.3'
    >>> loop.to_client.flip(loop.to_client.sent + 9)  # damage the next record for the client
    >>> loop.server.write(b"goodbye")
    >>> loop.pump()
    >>> print(loop.client_error)
    a record could not be decrypted: it was damaged on the way (alert bad_record_mac, sent)
    >>> loop.server_error.alert, loop.server_error.direction.value
    ('bad_record_mac', 'received')
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache
from itertools import cycle

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IReactorTime

from . import _openssl
from .connector import Connector
from .errors import PeerError, UsageError
from .verify import HostVerifier

__all__ = ["EXAMPLE_HOST", "Loopback", "Way", "Wire", "example_connections"]

EXAMPLE_HOST = "localhost"
"""The host that the certificate of L{example_connections} is for."""


class Way(Enum):
    """A direction."""

    TO_SERVER = "from the client to the server"
    TO_CLIENT = "from the server to the client"


Tap = Callable[[Way, bytes], object]
"""Is shown each piece of ciphertext as it arrives."""


class Wire:
    """
    One direction of a L{Loopback}: what is put in at one end comes out at the other.

    Faults concern what is put in from then on.

    @ivar way: which direction this is.
    @ivar sent: bytes put in so far.
    @ivar arrived: bytes that came out so far.
    @ivar cut_at: the number of bytes after which the wire ends; L{None} where it does not.
    """

    def __init__(
        self,
        way: Way,
        deliver: Callable[[bytes | None], None],
        clock: IReactorTime | None,
    ) -> None:
        """
        @param deliver: takes each piece that arrives, then L{None} if the wire ends.
        @param clock: for L{delay}.
        """
        self.way = way
        self.sent = 0
        self.arrived = 0
        self.cut_at: int | None = None
        self._deliver = deliver
        self._clock = clock
        self._split: int | Sequence[int] | None = None
        self._sizes: Iterator[int] | None = None
        self._delay = 0.0
        self._flips: dict[int, int] = {}
        self._under_way: deque[bytes | None] = deque()
        self._due = 0
        self._ended = False

    @property
    def split(self) -> int | Sequence[int] | None:
        """
        Bytes in each piece that is delivered, or several numbers to be taken in turn; L{None} to
        deliver what is put in as it is.

        @raise UsageError: a piece would have no bytes.
        """
        return self._split

    @split.setter
    def split(self, sizes: int | Sequence[int] | None) -> None:
        turns = (sizes,) if isinstance(sizes, int) else sizes
        if turns is not None and (not turns or min(turns) < 1):
            raise UsageError(f"a wire splits into pieces of a byte at least, not {sizes!r}")
        self._split = sizes
        self._sizes = None if turns is None else cycle(turns)

    @property
    def delay(self) -> float:
        """
        Seconds on the clock until what is put in arrives.

        @raise UsageError: there is no clock.
        """
        return self._delay

    @delay.setter
    def delay(self, seconds: float) -> None:
        if seconds and self._clock is None:
            raise UsageError("a wire with a delay needs a clock: give one to the Loopback")
        self._delay = seconds

    def flip(self, offset: int, bit: int = 0) -> None:
        """
        Flip a bit on the way.

        @param offset: of the byte, counted from the first that was ever put in.
        @param bit: 0 for the lowest, to 7.
        @raise UsageError: this byte has gone already, or has no such bit.
        """
        if offset < self.sent or not 0 <= bit <= 7:
            raise UsageError(
                f"bit {bit} of byte {offset} cannot be flipped: {self.sent} bytes have gone"
            )
        self._flips[offset] = self._flips.get(offset, 0) ^ (1 << bit)

    def cut(self) -> None:
        """End the wire here: what is on its way arrives, and nothing after it."""
        self.cut_at = self.sent
        self.put(b"")

    def put(self, ciphertext: bytes) -> None:
        """Send bytes, whoever they are from.  Once the wire has ended they are lost."""
        if self._ended:
            return
        begin = self.sent
        end = begin + len(ciphertext)
        for offset in [at for at in self._flips if at < end]:
            mask = self._flips.pop(offset)
            at = offset - begin
            ciphertext = ciphertext[:at] + bytes([ciphertext[at] ^ mask]) + ciphertext[at + 1 :]
        if self.cut_at is not None and end >= self.cut_at:
            self._ended = True
            ciphertext = ciphertext[: max(0, self.cut_at - begin)]
        self.sent += len(ciphertext)
        self._under_way.extend(self._pieces(ciphertext))
        if self._ended:
            self._under_way.append(None)
        # What is put in later must not arrive earlier.
        while self._due < len(self._under_way):
            if not self._delay and not self._due:
                self._arrive()
            else:
                assert self._clock is not None
                self._due += 1
                self._clock.callLater(self._delay, self._arrive_late)

    def _pieces(self, ciphertext: bytes) -> Iterator[bytes]:
        while ciphertext:
            size = len(ciphertext) if self._sizes is None else next(self._sizes)
            yield ciphertext[:size]
            ciphertext = ciphertext[size:]

    def _arrive_late(self) -> None:
        self._due -= 1
        self._arrive()

    def _arrive(self) -> None:
        piece = self._under_way.popleft()
        self.arrived += len(piece or b"")
        self._deliver(piece)


class Loopback:
    """
    Two connectors joined in memory.

    L{pump} moves bytes until nothing moves by itself any more.  What L{Wire.delay} holds back
    arrives when the clock is advanced, and sets the rest moving again.

    An error of one end is kept and told by C{client_error} or C{server_error}; the other end still
    gets the alert.

    @ivar client: the client's connector, to be written to and closed.
    @ivar server: the server's.
    @ivar to_server: the wire from the client.
    @ivar to_client: the wire from the server.
    @ivar crossed: what has arrived at either end, piece by piece.
    """

    def __init__(
        self,
        client: SSL.Connection | Connector,
        server: SSL.Connection | Connector,
        clock: IReactorTime | None = None,
        tap: Tap | None = None,
    ) -> None:
        """
        @param client: a connection made with no socket and told that it is a client
            (C{set_connect_state}), or a connector.
        @param server: likewise; told by C{set_accept_state}.
        @param clock: such as L{twisted.internet.task.Clock}; only a delay needs one.
        @param tap: is called with each direction and piece as it arrives.
        """
        self.client = client if isinstance(client, Connector) else Connector(client, True)
        self.server = server if isinstance(server, Connector) else Connector(server, False)
        self.crossed: list[tuple[Way, bytes]] = []
        self._tap = tap
        self._received: dict[Way, bytearray] = {way: bytearray() for way in Way}
        self._pumping = False
        self.to_server = self._wire(Way.TO_SERVER, self.server, clock)
        self.to_client = self._wire(Way.TO_CLIENT, self.client, clock)

    @property
    def received_by_client(self) -> bytes:
        """All plaintext that the client has read so far."""
        return bytes(self._received[Way.TO_CLIENT])

    @property
    def received_by_server(self) -> bytes:
        """All plaintext that the server has read so far."""
        return bytes(self._received[Way.TO_SERVER])

    @property
    def client_error(self) -> PeerError | None:
        """Why the client has failed; L{None} where it has not."""
        return self.client.error

    @property
    def server_error(self) -> PeerError | None:
        """Why the server has failed; L{None} where it has not."""
        return self.server.error

    def pump(self) -> None:
        """Move what there is to move, both ways, until there is nothing more."""
        if self._pumping:
            # What arrives inside a pump is moved on by that pump.
            return
        self._pumping = True
        try:
            moved = True
            while moved:
                moved = self._send(self.client, self.to_server)
                moved = self._send(self.server, self.to_client) or moved
        finally:
            self._pumping = False

    def _send(self, sender: Connector, wire: Wire) -> bool:
        moved = False
        with suppress(PeerError):
            while ciphertext := sender.take():
                moved = True
                wire.put(ciphertext)
        return moved

    def _wire(self, way: Way, receiver: Connector, clock: IReactorTime | None) -> Wire:
        received = self._received[way]

        def deliver(piece: bytes | None) -> None:
            with suppress(PeerError):
                if piece is None:
                    receiver.end_of_wire()
                else:
                    self.crossed.append((way, piece))
                    if self._tap is not None:
                        self._tap(way, piece)
                    receiver.feed(piece)
                    received.extend(receiver.read())
            self.pump()

        return Wire(way, deliver, clock)


def example_connections(
    version: str | None = None, alpn: Sequence[bytes] = ()
) -> tuple[SSL.Connection, SSL.Connection]:
    """
    A client's connection and a server's that trust each other, with no files.

    The server has a certificate for L{EXAMPLE_HOST}, from an authority that lives as long as the
    process and that the client trusts.

    @param version: C{"TLSv1.2"} or C{"TLSv1.3"}; either, if not given.
    @param alpn: the names of application protocols that both speak, best first.
    @raise UsageError: there is no such version here.
    """
    for_client, for_server = _example_contexts(version, tuple(alpn))
    client, server = SSL.Connection(for_client), SSL.Connection(for_server)
    client.set_connect_state()
    client.set_tlsext_host_name(EXAMPLE_HOST.encode("ascii"))
    _openssl.set_verification(client, SSL.VERIFY_PEER, HostVerifier(EXAMPLE_HOST))
    server.set_accept_state()
    return client, server


_VERSIONS = {"TLSv1.2": SSL.TLS1_2_VERSION, "TLSv1.3": SSL.TLS1_3_VERSION}


@cache
def _example_contexts(
    version: str | None, alpn: tuple[bytes, ...]
) -> tuple[SSL.Context, SSL.Context]:
    if version is not None and version not in _VERSIONS:
        raise UsageError(f"there is no version {version!r}: TLSv1.2 and TLSv1.3 are known")
    authority, leaf, key = _example_certificates()
    for_client, for_server = SSL.Context(SSL.TLS_METHOD), SSL.Context(SSL.TLS_METHOD)
    for context in (for_client, for_server):
        context.set_min_proto_version(_VERSIONS[version or "TLSv1.2"])
        context.set_max_proto_version(_VERSIONS[version or "TLSv1.3"])
    store = for_client.get_cert_store()
    assert store is not None
    store.add_cert(crypto.X509.from_cryptography(authority))
    for_server.use_certificate(leaf)
    for_server.use_privatekey(key)
    for_server.set_session_id(b"example")
    if alpn:
        for_client.set_alpn_protos(list(alpn))
        for_server.set_alpn_select_callback(
            lambda _, offered: next(name for name in alpn if name in offered)
        )
    return for_client, for_server


@cache
def _example_certificates() -> tuple[
    x509.Certificate, x509.Certificate, ec.EllipticCurvePrivateKey
]:
    """An authority, a leaf that it signed, and the leaf's key."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
        for title in ("example authority", EXAMPLE_HOST)
    ]
    now = datetime.now(UTC)
    made = []
    for name, public_key, extension in (
        (names[0], authority_key.public_key(), x509.BasicConstraints(True, None)),
        (names[1], key.public_key(), x509.SubjectAlternativeName([x509.DNSName(EXAMPLE_HOST)])),
    ):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(names[0])
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=3650))
            .add_extension(extension, critical=True)
        )
        made.append(builder.sign(authority_key, SHA256()))
    return made[0], made[1], key
