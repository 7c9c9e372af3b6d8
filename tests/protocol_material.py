"""
What the tests of the protocol layer share: certificates, an application that notes what it is
told, a peer that does what it is told, and the case that runs on both engines and on Twisted's TLS.

Each test runs with our factory on the engine in use, on the public-API twin, and on transports of
our own reactor's kind, and with Twisted's own factory.  There it has to fail: a test of what
Twisted's users suffer from that passes there could not fail here.  What holds there too is marked
L{holds_on_stock}, and has to.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache, wraps
from importlib.metadata import version
from inspect import iscoroutine
from typing import Any, TypeVar

import attrs
import trustme
from OpenSSL import SSL, crypto
from twisted.internet import ssl
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from tests.protocol_wire import MemoryConnection, MemorySocket, StreamConnection, Turns
from twisted_bioconn import _creators, _openssl, connector
from twisted_bioconn._public_engine import PublicEngine
from twisted_bioconn.protocol import TLSConnectorFactory
from twisted_bioconn.reactor import _TWISTEDS

STOCK: Any = _TWISTEDS["TLSMemoryBIOFactory"]
"""Twisted's own factory, though the reactor may have put ours in its place."""

TLS12, TLS13 = SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION

# Certificates


@cache
def authority() -> trustme.CA:
    """Signs all that is to be trusted."""
    return trustme.CA()


@cache
def issued(*names: str) -> ssl.PrivateCertificate:
    """A certificate of the authority's for these names, with its key."""
    pem = authority().issue_cert(*names).private_key_and_cert_chain_pem.bytes()
    loaded: ssl.PrivateCertificate = ssl.PrivateCertificate.loadPEM(pem)
    return loaded


@cache
def trust() -> ssl.Certificate:
    """The authority's certificate."""
    return ssl.Certificate.loadPEM(authority().cert_pem.bytes())


def server_options(**options: Any) -> ssl.CertificateOptions:
    """Twisted's own options of a server, with a certificate for localhost."""
    own = issued("localhost")
    return ssl.CertificateOptions(
        privateKey=own.privateKey.original, certificate=own.original, **options
    )


def client_options(name: str = "localhost", **options: Any) -> Any:
    """Twisted's own options of a client that trusts the authority."""
    return ssl.optionsForClientTLS(name, trust(), **options)


def server_context(
    version: int | None = None,
    own: ssl.PrivateCertificate | None = None,
    chain: tuple[crypto.X509, ...] = (),
) -> SSL.Context:
    """OpenSSL's own context of a server, for a L{Peer}."""
    context = _context(version)
    own = issued("localhost") if own is None else own
    context.use_certificate(own.original)
    context.use_privatekey(own.privateKey.original)
    for certificate in chain:
        context.add_extra_chain_cert(certificate)
    return context


def client_context(version: int | None = None) -> SSL.Context:
    """OpenSSL's own context of a client, for a L{Peer}; it trusts everybody."""
    return _context(version)


def _context(version: int | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    if version is not None:
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
    return context


# The two ends


class App(Protocol):
    """
    An application's protocol, which notes what it is told and does what a test hooks in.

    @ivar did: what it was told, in order, runs of C{data} as one.
    @ivar received: the plaintext.
    @ivar reasons: what C{connectionLost} was told, each time it was.
    """

    transport: Any

    def __init__(self, **hooks: Callable[[App], object]) -> None:
        self.hooks = hooks
        self.did: list[str] = []
        self.received = b""
        self.reasons: list[Failure] = []

    def _note(self, what: str) -> None:
        if what != "data" or self.did[-1:] != ["data"]:
            self.did.append(what)
        hook = self.hooks.get(what)
        if hook is not None:
            hook(self)

    def connectionMade(self) -> None:
        self._note("made")

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._note("data")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reasons.append(reason)
        self._note("lost")

    @property
    def reason(self) -> Failure:
        """The one reason of C{connectionLost}."""
        [reason] = self.reasons
        return reason


@implementer(IHandshakeListener)
class ListeningApp(App):
    """One that wants to know when the handshake is done."""

    def handshakeCompleted(self) -> None:
        self._note("handshake")


@implementer(IHalfCloseableProtocol)
class HalfApp(App):
    """One that can go on when one direction is closed."""

    def readConnectionLost(self) -> None:
        self._note("read lost")

    def writeConnectionLost(self) -> None:
        self._note("write lost")


class Peer(Protocol):
    """
    The other end: OpenSSL with no layer of anybody's between, that does what a test says.

    @ivar received: the plaintext.
    @ivar records: the kinds of the records that came, as RFC 8446, section 5.1 numbers them.
    @ivar closed: whether close_notify has come.
    @ivar error: what OpenSSL said when it failed.
    @ivar lost: the reason of C{connectionLost}.
    @ivar answers: whether a close_notify is answered, and the transport closed after it.
    """

    transport: Any

    def __init__(self, context: SSL.Context, is_client: bool, answers: bool = True) -> None:
        self.ssl = SSL.Connection(context)
        if is_client:
            self.ssl.set_tlsext_host_name(b"localhost")
            self.ssl.set_connect_state()
        else:
            self.ssl.set_accept_state()
        self.answers = answers
        self.open = False
        self.received = b""
        self.closed = False
        self.closing = False
        self.error: SSL.Error | None = None
        self.lost: Failure | None = None
        self._ciphertext = bytearray()

    def connectionMade(self) -> None:
        self.go()

    def dataReceived(self, data: bytes) -> None:
        self._ciphertext += data
        self.ssl.bio_write(data)
        self.go()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def go(self) -> None:
        """Let OpenSSL go on, and send what it has."""
        try:
            if not self.open:
                self.ssl.do_handshake()
                self.open = True
            while not self.closed:
                self.received += self.ssl.recv(1 << 16)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.closed = True
            if self.answers:
                self.close()
        except SSL.Error as error:
            self.error = error
        self.flush()
        if self.closed and self.answers:
            self.transport.loseConnection()

    def flush(self) -> None:
        while True:
            try:
                self.transport.write(self.ssl.bio_read(1 << 16))
            except SSL.WantReadError:
                return

    def send(self, data: bytes) -> None:
        """Send plaintext."""
        view = memoryview(data)
        while view:
            view = view[self.ssl.send(view[:16384]) :]
        self.flush()

    def close(self) -> None:
        """Send close_notify."""
        if not self.closing:
            self.closing = True
            self.ssl.shutdown()
            self.flush()

    @property
    def alert(self) -> str:
        """The reason in OpenSSL's words with which we failed."""
        assert self.error is not None, "nothing failed"
        return " ".join(str(reason) for _, _, reason in self.error.args[0])

    @property
    def records(self) -> list[int]:
        return [kind for kind, _ in records_of(bytes(self._ciphertext))]


def records_of(ciphertext: bytes) -> Iterator[tuple[int, int]]:
    """The kind and the size of each whole record: RFC 8446, section 5.1."""
    while len(ciphertext) >= 5:
        size = int.from_bytes(ciphertext[3:5], "big")
        yield ciphertext[0], size
        ciphertext = ciphertext[5 + size :]


@attrs.define
class Link:
    """
    One connection: the layer under test with its application, and a peer.

    @ivar tls: the protocol under test.
    @ivar transport: what it runs on.
    @ivar peer: the other end.
    @ivar wire: what that runs on.
    """

    clock: Turns
    factory: Any
    tls: Any
    app: Any
    transport: MemoryConnection
    peer: Peer
    wire: MemoryConnection

    def settle(self) -> None:
        self.clock.settle()

    def wait(self, seconds: float, step: float = 0.25) -> None:
        """Let this much time pass, in steps, with all that happens meanwhile."""
        self.settle()
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            self.settle()


# The cases


class ProtocolCase(TestCase):
    """What makes connections of the class under test."""

    factory_class: Any = TLSConnectorFactory
    transport_class: type[MemoryConnection] = MemoryConnection
    timeout = 300

    def setUp(self) -> None:
        self.clock = Turns()

    def factory(
        self, options: Any, client: bool, app: Any, clock: Any = None, **settings: Any
    ) -> Any:
        """
        A factory under test around one application, or around a factory of such.

        @param settings: attributes, set once it is made: Twisted's own takes no such arguments.
        """
        wrapped = app
        if isinstance(app, Protocol):
            # Only once, so that the factory does not keep it.
            wrapped = Factory.forProtocol([app].pop)
        factory = self.factory_class(options, client, wrapped, clock=clock or self.clock)
        for name, value in settings.items():
            setattr(factory, name, value)
        return factory

    def link(
        self,
        app: App | None = None,
        *,
        client: bool = False,
        version: int | None = None,
        options: Any = None,
        context: SSL.Context | None = None,
        answers: bool = True,
        transport: type[MemoryConnection] | None = None,
        capacity: int = 1 << 18,
        begin: bool = True,
        settle: bool = True,
        **settings: Any,
    ) -> Link:
        """
        Connect the class under test with a peer.

        @param client: whether the class under test is the client.
        @param version: the one version of TLS that the peer speaks.
        @param options: what the factory is given.
        @param context: what the peer is given.
        @param answers: whether the peer answers a close_notify.
        @param capacity: bytes that the kernel takes off either end's hands.
        @param begin: whether either end is connected yet.
        @param settle: whether all that happens by itself, such as the handshake, has happened.
        """
        app = App() if app is None else app
        if options is None:
            options = client_options() if client else server_options()
        if context is None:
            context = server_context(version) if client else client_context(version)
        factory = self.factory(options, client, app, **settings)
        tls = factory.buildProtocol(None)
        one, two = MemorySocket.pair(capacity)
        peer = Peer(context, not client, answers)
        link = Link(
            self.clock,
            factory,
            tls,
            app,
            (transport or self.transport_class)(one, tls, self.clock),
            peer,
            MemoryConnection(two, peer, self.clock),
        )
        if begin:
            link.transport.begin()
            link.wire.begin()
            if settle:
                link.settle()
        return link

    def assertLeftNothing(self) -> None:
        """No call is left on the clock."""
        self.assertEqual(self.clock.getDelayedCalls(), [])


class _Public:
    """Puts the public-API twin in the place of the engine in use."""

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        patch: Callable[..., object] = self.patch  # type: ignore[attr-defined]
        patch(connector, "engine_for", PublicEngine)
        patch(_creators, "set_verification", _openssl._public_set_verification)


class _Streams:
    """Has transports such as those of our own reactor."""

    transport_class = StreamConnection


class _Stock:
    """Puts Twisted's own factory in the place of ours."""

    factory_class = STOCK


_Test = TypeVar("_Test", bound=Callable[..., Any])


def holds_on_stock(test: _Test) -> _Test:
    """Mark a test that Twisted's own TLS passes too."""
    test.holds_on_stock = True  # type: ignore[attr-defined]
    return test


def holds_on_stock_since(major: int, minor: int) -> Callable[[_Test], _Test]:
    """The same of Twisted's since this version; on an older one it has to fail."""
    if tuple(map(int, version("twisted").split(".")[:2])) >= (major, minor):
        return holds_on_stock
    return lambda test: test


def _has_to_fail(test: Callable[[Any], Any]) -> Callable[[Any], Deferred[None]]:
    @wraps(test)
    def run(case: Any) -> Deferred[None]:
        def call() -> Any:
            result = test(case)
            return Deferred.fromCoroutine(result) if iscoroutine(result) else result

        def passed(_: object) -> None:
            if not case.flushLoggedErrors():
                case.fail("this passes on Twisted's own TLS: mark it, or sharpen it")

        def failed(failure: Failure) -> None:
            case.flushLoggedErrors()

        return maybeDeferred(call).addCallbacks(passed, failed)

    return run


def on_every_engine(cases: type[ProtocolCase]) -> type[ProtocolCase]:
    """
    Have a class of tests run on the engine in use, on the public-API twin, on transports of our own
    reactor's kind, and on Twisted's TLS.

    The first keeps the name, the others are put beside it.
    """
    module = sys.modules[cases.__module__]
    stem = cases.__name__.removesuffix("Tests")
    tests = {
        name: _has_to_fail(test)
        for name, test in vars(cases).items()
        if name.startswith("test_") and not hasattr(test, "holds_on_stock")
    }
    for base, members in ((_Public, {}), (_Streams, {}), (_Stock, tests)):
        name = f"{stem}On{base.__name__[1:]}Tests"
        vars(module)[name] = type(
            name, (base, cases), {**members, "__module__": cases.__module__, "__qualname__": name}
        )
    return cases
