"""Endpoints in memory, on transports that are Twisted's own, and applications for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.context_material import serving, visiting
from tests.engines import EngineCase
from tests.protocol_wire import MemoryConnection, MemorySocket, Turns
from twisted_bioconn import context
from twisted_bioconn.endpoints import ClientEndpoint, ServerEndpoint


class Application(Protocol):
    """
    Notes what it is told, and does what a test says when it is told it.

    @ivar did: what it was told, in order.
    @ivar received: the bytes.
    @ivar lost: why the connection ended.
    @ivar hooks: what to do, by what it is told.
    """

    transport: Any

    def __init__(self, **hooks: Callable[[Any], object]) -> None:
        self.hooks = hooks
        self.did: list[str] = []
        self.received = b""
        self.lost: Failure | None = None

    def note(self, what: str) -> None:
        self.did.append(what)
        hook = self.hooks.get(what)
        if hook is not None:
            hook(self)

    def connectionMade(self) -> None:
        self.note("made")

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.note("data")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self.note("lost")


class Applications(Factory[Any]):
    """
    Builds applications.

    @ivar built: those that it has built.
    """

    noisy = False

    def __init__(
        self, kind: Callable[..., Any] = Application, **hooks: Callable[[Any], object]
    ) -> None:
        self._kind = kind
        self._hooks = hooks
        self.built: list[Any] = []
        self.addresses: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        self.addresses.append(addr)
        application = self._kind(**self._hooks)
        if application is not None:
            application.factory = self
            self.built.append(application)
        return application

    @property
    def one(self) -> Any:
        """The only one."""
        [application] = self.built
        return application


class Silent(Protocol):
    """
    Accepts a connection and says nothing.

    @ivar lost: why the connection ended.
    """

    transport: Any

    def __init__(self) -> None:
        self.lost: Failure | None = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


def raising(failure: BaseException) -> Callable[..., Any]:
    """What raises this, however it is called."""

    def call(*_: object, **__: object) -> Any:
        raise failure

    return call


@implementer(IStreamServerEndpoint)
class MemoryListener:
    """
    A server endpoint in memory.

    @ivar factory: who listens.
    """

    def __init__(self) -> None:
        self.factory: Any = None

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        self.factory = protocolFactory
        return succeed(None)  # type: ignore[arg-type]


@implementer(IStreamClientEndpoint)
class MemoryConnector:
    """
    A client endpoint in memory, whose connections are made when a test says so.

    @ivar attempts: the factories of connections asked for, each with its Deferred.
    @ivar cancelled: how many attempts were cancelled.
    @ivar heeds: whether an attempt that is cancelled is given up.
    """

    def __init__(self, clock: Turns, heeds: bool = True) -> None:
        self._clock = clock
        self.attempts: list[tuple[IProtocolFactory, Deferred[IProtocol]]] = []
        self.cancelled = 0
        self.heeds = heeds

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        attempt: Deferred[IProtocol] = Deferred(self._cancel)
        self.attempts.append((protocolFactory, attempt))
        return attempt

    def _cancel(self, attempt: Deferred[IProtocol]) -> None:
        self.cancelled += 1
        if not self.heeds:
            # As an endpoint may that has no way back: the result comes all the same.
            attempt.errback(Failure(ConnectionError("cancelled, officially")))

    def fail(self, reason: BaseException) -> None:
        """The oldest attempt fails."""
        self.attempts.pop(0)[1].errback(Failure(reason))

    def reach(self, peer: IProtocol) -> MemoryConnection:
        """
        The oldest attempt reaches this protocol.

        @return: the transport of our end.
        """
        factory, attempt = self.attempts.pop(0)
        one, two = MemorySocket.pair()
        theirs = MemoryConnection(two, peer, self._clock)
        protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 443))
        assert protocol is not None
        ours = MemoryConnection(one, protocol, self._clock)
        ours.begin()
        theirs.begin()
        if not attempt.called:
            attempt.callback(protocol)
        return ours


class EndpointCase(EngineCase):
    """
    A test with endpoints in memory.

    @ivar clock: the reactor.
    @ivar lines: what was logged by the endpoints, but for failures.
    """

    def setUp(self) -> None:
        super().setUp()
        # A context that another test's client still has may have been made by the other engine.
        self.patch(context, "_CLIENT_CONTEXTS", WeakValueDictionary())
        self.clock = Turns()
        self.connector = MemoryConnector(self.clock)
        self.listener = MemoryListener()
        self.lines: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            ours = event.get("log_namespace") in (
                "twisted_bioconn.endpoints",
                "twisted_bioconn.preamble",
            )
            if ours and event["log_level"] < LogLevel.error:
                self.lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def client_endpoint(self, options: Any = None, **settings: Any) -> ClientEndpoint:
        """The usual client's endpoint, on the connector."""
        options = visiting() if options is None else options
        return ClientEndpoint(self.connector, options, self.clock, **settings)

    def server_endpoint(self, options: Any = None, **settings: Any) -> ServerEndpoint:
        """The usual server's endpoint, on the listener."""
        options = serving() if options is None else options
        return ServerEndpoint(self.listener, options, self.clock, **settings)

    def listen(self, factory: Any, options: Any = None, **settings: Any) -> None:
        """Serve this factory."""
        self.successResultOf(self.server_endpoint(options, **settings).listen(factory))

    def arrival(self) -> Any:
        """The protocol of a connection that arrives at the listener."""
        return self.listener.factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 50000))

    def meet(self) -> MemoryConnection:
        """The oldest attempt reaches the listener, and all happens that does by itself."""
        ours = self.connector.reach(self.arrival())
        self.clock.settle()
        return ours

    def wait(self, seconds: float, step: float = 0.5) -> None:
        """Let this much time pass, with all that happens meanwhile."""
        self.clock.settle()
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            self.clock.settle()

    def assertLeftNothing(self) -> None:
        """No call is left on the clock, no transport in the reactor."""
        self.clock.settle()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.clock.getReaders(), [])
        self.assertEqual(self.clock.getWriters(), [])
