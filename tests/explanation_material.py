"""Handshakes that fail, and what is known of them then, for the tests of explanations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from attrs import frozen
from cryptography import x509
from OpenSSL import SSL
from twisted.internet.protocol import Factory, Protocol

from tests.context_material import ROOTS, layer, serving, visiting
from tests.hello_material import openssl_hello
from tests.protocol_material import App
from tests.protocol_wire import MemoryConnection, MemorySocket, Turns
from tests.tls_material import HOST, Party, client_connection, context
from twisted_bioconn._reasons import reason_of
from twisted_bioconn.client_policy import ClientCertificate, ClientPolicy
from twisted_bioconn.context import ClientOptions, ServerOptions
from twisted_bioconn.explanations import Cause, FailedHandshake, Side
from twisted_bioconn.hello import ClientHello, HelloReader, MalformedHello
from twisted_bioconn.policy import INTERMEDIATE
from twisted_bioconn.protocol import TLSConnectorFactory
from twisted_bioconn.testing import Loopback, Way

PEER = "192.0.2.7:50000"


@frozen
class Failing:
    """
    A handshake that fails, and what is to be said of it.

    @ivar sentence: a part of the sentence.
    """

    cause: Cause
    make: Callable[[], FailedHandshake]
    sentence: str
    remedy: Side = Side.CLIENT
    setting: str | None = None


def hello_in(flight: bytes) -> ClientHello | None:
    """The client's hello at the beginning of what a client has sent, if it is whole and good."""
    with suppress(MalformedHello):
        return HelloReader().feed(flight)
    return None


def usual_hello() -> bytes:
    """The first flight of a client of OpenSSL's that asks for L{HOST}."""

    def prepare(made: Any, connection: Any) -> None:
        if connection is not None:
            connection.set_tlsext_host_name(HOST.encode())

    return openssl_hello(prepare)


def known(error: BaseException, came: bytes, is_server: bool, **more: Any) -> FailedHandshake:
    """
    What is known of a handshake that has failed.

    @param came: all that came from the peer.
    """
    given: dict[str, Any] = {
        "error": error,
        "is_server": is_server,
        "peer": PEER,
        "hello": hello_in(came) if is_server else None,
        "first_bytes": came[:64],
        "received": len(came),
        "policy": INTERMEDIATE,
    }
    return FailedHandshake(**{**given, **more})


def at_server(loop: Loopback, **more: Any) -> FailedHandshake:
    """What a server knows of this."""
    return _at(loop, True, **more)


def at_client(loop: Loopback, **more: Any) -> FailedHandshake:
    """What a client knows of this."""
    return _at(loop, False, **more)


def _at(loop: Loopback, is_server: bool, **more: Any) -> FailedHandshake:
    loop.pump()
    connector = loop.server if is_server else loop.client
    error = loop.server_error if is_server else loop.client_error
    assert error is not None, (loop.client_error, loop.server_error)
    reason = reason_of(error, connector).value
    assert reason is not None
    way = Way.TO_SERVER if is_server else Way.TO_CLIENT
    came = b"".join(piece for each, piece in loop.crossed if each is way)
    verification = connector.verification
    refused = None if verification is None else verification.certificate
    more.setdefault("chain", () if refused is None else (refused,))
    return known(reason, came, is_server, **more)


def meeting(server: ServerOptions | SSL.Connection, client: Any = None) -> Loopback:
    """Two options objects, or connections, joined."""
    if isinstance(server, ServerOptions):
        server = server.serverConnectionForTLS(layer())
    if client is None:
        client = visiting()
    if isinstance(client, ClientOptions):
        client = client.clientConnectionForTLS(layer())
    return Loopback(client, server)


def showing(
    party: Party | None,
    *,
    authorities: Sequence[x509.Certificate] = ROOTS,
    ciphers: bytes | None = None,
    **clients: Any,
) -> Loopback:
    """
    A client shows this certificate to a server that requires one.

    @param clients: of the server's L{ClientPolicy}.
    """
    policy = ClientPolicy(ClientCertificate.REQUIRE, authorities, **clients)
    made = context(True, own=party, ciphers=ciphers)
    return meeting(serving(clients=policy), client_connection(made))


class Wire(Protocol):
    """
    The far end, by hand.

    @ivar clock: the reactor.
    @ivar sent: what was sent.
    @ivar heard: what came.
    """

    transport: Any

    def __init__(self, clock: Turns) -> None:
        self.clock = clock
        self.sent = b""
        self.heard = b""

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def send(self, data: bytes) -> None:
        """Send this, and see it arrive."""
        self.sent += data
        self.transport.write(data)
        self.clock.settle()

    def close(self) -> None:
        self.transport.loseConnection()
        self.clock.settle()

    def reset(self) -> None:
        self.transport.abortConnection()
        self.clock.settle()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)
        self.clock.settle()


def by_hand(do: Callable[[Wire, App], object], options: Any = None, **more: Any) -> FailedHandshake:
    """
    The TLS layer, with a far end by hand.

    @param do: what the far end does; if TLS does not end by that, it closes.
    @param options: of a server, or of a client; the usual server's if not given.
    """
    options = serving() if options is None else options
    is_server = isinstance(options, ServerOptions)
    clock, app = Turns(), App()
    factory = TLSConnectorFactory(options, not is_server, Factory.forProtocol([app].pop), clock)
    tls = factory.buildProtocol(None)
    assert tls is not None
    one, two = MemorySocket.pair()
    ours, wire = MemoryConnection(one, tls, clock), Wire(clock)
    theirs = MemoryConnection(two, wire, clock)
    ours.begin()
    theirs.begin()
    clock.settle()
    do(wire, app)
    clock.settle()
    if not app.reasons:
        wire.close()
    reason = app.reason.value
    assert reason is not None
    more.setdefault("waited", clock.seconds())
    return known(reason, wire.sent, is_server, **more)


def sending(data: bytes, options: Any = None, **more: Any) -> FailedHandshake:
    """The far end sends this, and closes where that is not the end already."""
    return by_hand(lambda wire, app: wire.send(data), options, **more)
