"""
Endpoints with TLS: L{ServerEndpoint} and L{ClientEndpoint} put it on any other endpoint.

The application's protocol is built when the peer has been let in: the handshake is done and the
peer verified.  Nothing that a stranger does before that reaches the application, and what
C{connect} gives has somebody at the other end who is who it should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve
from cryptography import x509
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionDone,
    ConnectionLost,
    NoProtocol,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import _get_default_clock
from twisted.python.failure import Failure
from zope.interface import implementer

from ._creators import Creator
from ._lines import Lines
from ._transport import address_text, one_line
from ._upgrade import AskingFactory, GreetedFactory
from .context import ClientOptions, ServerOptions
from .errors import ConfigurationError
from .explanations import FailedHandshake, explain
from .hello import ClientHello, HelloReader, MalformedHello
from .limits import Limiter, Limits
from .observing import Observer
from .port_options import PreambleOptions, Route, all_options
from .preamble import PreambleFactory
from .protocol import TLSConnectorFactory, TLSConnectorProtocol
from .starttls import client_dialogue

if TYPE_CHECKING:
    from .trace.tracer import Tracer

__all__ = ["ClientEndpoint", "ServerEndpoint"]

_log = Logger()


@implementer(IHandshakeListener)
class _Anteroom(Protocol):
    """
    Stands where the application's protocol will be, until the handshake is done.
    """

    transport: TLSConnectorProtocol

    def __init__(self, factory: _LettingInFactory, addr: IAddress | None) -> None:
        self._factory = factory
        self._addr = addr
        self.let_in = False

    def connectionMade(self) -> None:
        """There is somebody at the door."""
        self._factory.begun(self.transport)

    def handshakeCompleted(self) -> None:
        """The peer is let in: build the application's protocol and connect it."""
        tls, factory = self.transport, self._factory
        self.let_in = True
        if tls.slot is not None:
            tls.slot.end_handshake()
        factory.completed(tls)
        try:
            application = factory.wrappedFactory.buildProtocol(self._addr)
            if application is None:
                raise NoProtocol
            tls.wrappedProtocol = application
            application.makeConnection(tls)
            if IHandshakeListener.providedBy(application):
                application.handshakeCompleted()
            if tls.greeting:
                application.dataReceived(tls.greeting)
        except Exception:
            factory.failed(tls, Failure())
        else:
            factory.letIn(application)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The peer was not let in, or left before."""
        if not self.let_in:
            self._factory.notLetIn(self.transport, reason)


class _LettingInFactory(TLSConnectorFactory):
    """
    Builds the application's protocol when the handshake is done.
    """

    def buildProtocol(self, addr: IAddress | None) -> TLSConnectorProtocol:
        """A TLS layer with nothing above it yet."""
        return self.protocol(self, _Anteroom(self, addr))  # type: ignore[no-any-return]

    def begun(self, tls: TLSConnectorProtocol) -> None:
        """The transport is connected."""

    def completed(self, tls: TLSConnectorProtocol) -> None:
        """A handshake is done, and the peer let in."""

    def letIn(self, application: IProtocol) -> None:
        """A peer was let in."""

    def failed(self, tls: TLSConnectorProtocol, reason: Failure) -> None:
        """The application did not take a peer that was let in."""
        if not reason.check(NoProtocol):
            _log.failure("Unhandled error in the application's protocol", reason)
        tls.failVerification(reason)

    def notLetIn(self, tls: TLSConnectorProtocol | None, reason: Failure) -> None:
        """A connection ended before its peer was let in."""


class _ServingFactory(_LettingInFactory):
    """
    A server's: says why a client was not let in, and tells an observer of what happens.

    @ivar observer: L{None} where nobody wants to know.
    @ivar settings: the options that the port was asked for with, by their names.
    """

    observer: Observer | None = None
    settings: Mapping[str, object]
    _lines: Lines | None = None

    def begun(self, tls: TLSConnectorProtocol) -> None:
        """A handshake begins."""
        if self.observer is not None:
            self.observer.begun(tls)

    def completed(self, tls: TLSConnectorProtocol) -> None:
        """A client is let in."""
        if self.observer is not None:
            facts = tls.negotiated
            assert facts is not None
            self.observer.let_in(tls, facts)

    def stopFactory(self) -> None:
        """The port is closed."""
        super().stopFactory()
        if self._lines is not None:
            self._lines.stop()

    def unregisterProtocol(self, p: Any) -> None:
        """A connection is lost: it is counted no more."""
        super().unregisterProtocol(p)  # type: ignore[no-untyped-call]
        if p.slot is not None:
            p.slot.release()
        above = p.wrappedProtocol
        if self.observer is not None and (not isinstance(above, _Anteroom) or above.let_in):
            self.observer.ended(p, p._reason)

    def notLetIn(self, tls: TLSConnectorProtocol | None, reason: Failure) -> None:
        """A connection ended before its client was let in: say why, in a line."""
        assert tls is not None
        # Otherwise that was all there was to it.
        if not tls._endsWithHandshake or reason.check(ConnectionDone) is None:
            self._explain(tls, reason)
        if self.observer is not None:
            self.observer.ended(tls, reason)

    def _explain(self, tls: TLSConnectorProtocol, reason: Failure) -> None:
        clock = tls._deadlineClock
        waited = tls._handshakeWaited
        if clock is not None:
            waited += clock.seconds() - tls._started
        self.refused(
            tls,
            FailedHandshake(
                error=reason.value or ConnectionDone(),
                is_server=True,
                peer=address_text(tls.getPeer()),  # type: ignore[no-untyped-call]
                hello=_hello_in(tls.firstBytes),
                first_bytes=tls.firstBytes[:64],
                received=tls.traffic[0],
                chain=_refused_chain(tls),
                waited=waited,
            ),
        )

    def refused(self, tls: TLSConnectorProtocol | None, failed: FailedHandshake) -> None:
        """
        Say why a client is not let in, and tell it.

        @param tls: L{None} for a client that has not come as far as TLS.
        """
        # A health check, a scan of ports, a browser that connects in advance.
        is_silent = isinstance(failed.error, _ENDS) and not failed.first_bytes
        if is_silent and self.observer is None:
            return
        options = self._helloOptions
        settings = dict(self.settings)
        if options.clients.authorities:
            settings["clientAuthorities"] = options.clients.authorities
        explanation = explain(
            evolve(failed, policy=options.policy, alpn=options.alpn, settings=settings)
        )
        if self.observer is not None:
            self.observer.not_let_in(tls, failed.peer, explanation, failed.waited)
        if is_silent:
            return
        if self._lines is None:
            self._lines = Lines(self._clock)
        if self._lines.take(explanation.cause.value):
            _log.info(
                "no handshake: {why}",
                why=one_line(str(explanation)),
                peer=failed.peer,
                cause=explanation.cause.value,
                setting=explanation.setting,
                remedy=explanation.remedy.value,
            )


_ENDS = (ConnectionDone, ConnectionLost)


def _hello_in(data: bytes) -> ClientHello | None:
    """The hello in what a client has sent first; L{None} where it is none, or not whole."""
    try:
        return HelloReader().feed(data) if data else None
    except MalformedHello:
        return None


def _refused_chain(tls: TLSConnectorProtocol) -> tuple[x509.Certificate, ...]:
    """The certificate that was refused, where there is one."""
    connector = tls._link.connector
    verification = None if connector is None else connector.verification
    certificate = None if verification is None else verification.certificate
    return () if certificate is None else (certificate,)


class _ConnectingFactory(_LettingInFactory):
    """
    A client's: tells C{connect} what becomes of its one connection.
    """

    connecting: _Connecting

    def begun(self, tls: TLSConnectorProtocol) -> None:
        """There is a connection, on which the handshake begins."""
        self.connecting.begun(tls)

    def letIn(self, application: IProtocol) -> None:
        """The server is who it should be."""
        self.connecting.finish(application)

    def failed(self, tls: TLSConnectorProtocol, reason: Failure) -> None:
        """It is, and nobody here to talk to it.  Whoever called C{connect} is told."""
        tls.failVerification(reason)
        self.connecting.finish(reason)

    def notLetIn(self, tls: TLSConnectorProtocol | None, reason: Failure) -> None:
        """It is not, or there was no telling."""
        self.connecting.finish(reason)


def deadline(name: str, seconds: float | None) -> float | None:
    """
    A deadline that can be met.

    @raise ConfigurationError: it cannot.
    """
    # False for what is no number, nan.
    if seconds is None or seconds > 0:
        return seconds
    raise ConfigurationError(f"{name}={seconds}: this must be seconds above 0, or None")


@implementer(IStreamServerEndpoint)
class ServerEndpoint:
    """
    Listens with TLS on top of any stream server endpoint.
    """

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        options: ServerOptions,
        clock: IReactorTime | None = None,
        *,
        handshake_timeout: float | None = 10.0,
        close_timeout: float | None = 30.0,
        idle_timeout: float | None = None,
        preamble: PreambleOptions | None = None,
        limits: Limits | None = None,
        observer: Observer | None = None,
        settings: Mapping[str, object] | None = None,
        routes: Sequence[Route] = (),
        tracer: Tracer | None = None,
    ) -> None:
        """
        @param endpoint: what carries the bytes.
        @param options: certificate, policy, and whom to let in.
        @param clock: for the deadlines and for gathering small writes; the reactor by default.
        @param handshake_timeout: seconds until a peer must be let in.
        @param close_timeout: seconds to wait for a peer to close after us.
        @param idle_timeout: seconds of silence after which a connection is closed; L{None} for
            never, as with the others.
        @param preamble: what may come before TLS; nothing if not given.
        @param limits: how much clients may have at a time; any number if not given.
        @param observer: is told of what becomes of connections.
        @param settings: the options that this was asked for with, by their names: they are named
            where one of them decides that a client is not let in.
        @param routes: where clients go by what their hellos ask for: the first that is for them, or
            else to the factory that L{listen} is given.
        @param tracer: traces the connections; L{None} for none.
        @raise ConfigurationError: one of them is not above 0.
        """
        self.endpoint = endpoint
        self.options = options
        self.clock = clock
        self.handshake_timeout = deadline("handshake_timeout", handshake_timeout)
        self.close_timeout = deadline("close_timeout", close_timeout)
        self.idle_timeout = deadline("idle_timeout", idle_timeout)
        self.preamble = preamble or PreambleOptions()
        self.limits = limits or Limits()
        self.observer = observer
        self.settings = settings or {}
        self.routes = tuple(routes)
        self.tracer = tracer

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen, with protocols of this factory."""
        if any(each.options is not None for each in self.routes):
            for options in self.all_options:
                # What is asked of a client was chosen by it.
                options.holds_name = True
        tls = self._ending(protocolFactory)
        limiter = None
        if self.limits.is_needed:
            limiter = Limiter(self.limits, tls._clock)
            if self.observer is not None:
                limiter.told = self.observer.refused
        routes = [
            (
                each,
                each.factory if each.passes_through else self._ending(each.factory, each.options),
            )
            for each in self.routes
        ]
        return self.endpoint.listen(PreambleFactory(tls, self.preamble, limiter, routes))

    @property
    def all_options(self) -> list[ServerOptions]:
        """The options, and those that routes have of their own; each once."""
        return all_options(self.options, self.routes)

    def _ending(
        self, protocolFactory: IProtocolFactory, options: ServerOptions | None = None
    ) -> _ServingFactory:
        """What ends TLS for the protocols of a factory."""
        starttls = self.preamble.starttls
        if starttls is not None:
            clock = _get_default_clock() if self.clock is None else self.clock
            protocolFactory = GreetedFactory(protocolFactory, starttls, clock)
        tls = _ServingFactory(
            self.options if options is None else options,
            False,
            protocolFactory,
            self.clock,
            handshakeTimeout=self.handshake_timeout,
            closeTimeout=self.close_timeout,
            idleTimeout=self.idle_timeout,
        )
        tls.observer, tls.settings = self.observer, self.settings
        if self.tracer is not None:
            self.tracer.trace(tls)
        return tls


@implementer(IStreamClientEndpoint)
class ClientEndpoint:
    """
    Connects with TLS on top of any stream client endpoint.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        options: ClientOptions,
        clock: IReactorTime,
        *,
        timeout: float | None = 30.0,
        close_timeout: float | None = 30.0,
        starttls: str | None = None,
        host_name: str | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """
        @param endpoint: what carries the bytes.
        @param options: whom to talk to, and what to believe.
        @param clock: for the deadlines, most often the reactor.
        @param timeout: seconds for the connection and the handshake together.
        @param close_timeout: seconds to wait for the server to close after us.
        @param starttls: the protocol in which the server is asked for TLS: one of
            L{twisted_bioconn.starttls.NAMES}; L{None} where TLS begins by itself.
        @param host_name: what we call ourselves when we ask in SMTP, and in XMPP the domain that is
            asked for; if not given, C{localhost}, and the server's name.
        @param tracer: traces the connections; L{None} for none.
        @raise ConfigurationError: one of them is not above 0 (L{None} is for no deadline), or there
            is no such protocol.
        """
        self.endpoint = endpoint
        self.options = options
        self.clock = clock
        self.timeout = deadline("timeout", timeout)
        self.close_timeout = deadline("close_timeout", close_timeout)
        self.starttls = starttls
        self.tracer = tracer
        self.host_name = host_name or (options.host if "xmpp" in (starttls or "") else "localhost")
        if starttls is not None:
            # What is wrong about them is said now.
            client_dialogue(starttls, host_name=self.host_name)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Connect.

        @return: fires with the protocol when the handshake is done and the server verified; fails
            with the reason if it is not: the verification's, OpenSSL's, or C{TimeoutError}.
        """
        return _Connecting(self, protocolFactory).done


class _Connecting:
    """One call of C{connect} that is under way."""

    def __init__(self, endpoint: ClientEndpoint, protocolFactory: IProtocolFactory) -> None:
        self.done: Deferred[IProtocol] = Deferred(self._cancel)
        self._endpoint = endpoint
        self._below: Deferred[IProtocol] | None = None
        self._tls: Any = None
        self._timer: IDelayedCall | None = None
        self._given_up = False
        factory = _ConnectingFactory(
            endpoint.options,
            True,
            protocolFactory,
            endpoint.clock,
            handshakeTimeout=None,
            closeTimeout=endpoint.close_timeout,
        )
        factory.connecting = self
        if endpoint.tracer is not None:
            endpoint.tracer.trace(factory)
        factory._creatorCallable = self._creating(factory._creatorCallable)
        if endpoint.timeout is not None:
            self._timer = endpoint.clock.callLater(endpoint.timeout, self._expire)
        asking: Any = factory
        if endpoint.starttls is not None:
            asking = AskingFactory(
                factory.buildProtocol,
                endpoint.starttls,
                endpoint.host_name,
                self.begun,
                self.finish,
            )
        try:
            below = endpoint.endpoint.connect(asking)
        except Exception:
            self.finish(Failure())
            return
        if not self.done.called:
            self._below = below
        below.addCallbacks(self._connected, self.finish)

    def begun(self, tls: Any) -> None:
        """The transport is connected, and the handshake begins, or what leads to it."""
        if self._given_up:
            # The endpoint below went on although it was told to stop.
            tls.abortConnection()
        else:
            self._tls = tls

    def _creating(self, create: Creator) -> Creator:
        """Create a connection; where that fails, as with an application's ALPN names, tell it."""

        def creating(tls: Any) -> SSL.Connection:
            try:
                return create(tls)
            except Exception:
                self.finish(Failure())
                raise

        return creating

    def _connected(self, _: IProtocol) -> None:
        self._below = None

    def finish(self, result: IProtocol | Failure) -> None:
        """Tell, once; what comes later is the echo of our own giving up."""
        done = self.done
        if done.called:
            return
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        # The factory refers to this, and the endpoint below may keep the factory.
        self._timer = self._below = self._tls = None
        if isinstance(result, Failure):
            done.errback(result)
        else:
            done.callback(result)

    def _expire(self) -> None:
        seconds = self._endpoint.timeout
        self._give_up(Failure(TimeoutError(f"no connection with TLS within {seconds:g} seconds")))

    def _cancel(self, _: Deferred[IProtocol]) -> None:
        self._give_up(Failure(ConnectingCancelledError(None)))

    def _give_up(self, reason: Failure) -> None:
        self._given_up = True
        below, tls = self._below, self._tls
        self.finish(reason)
        if below is not None:
            below.cancel()
        if tls is not None:
            tls.abortConnection()
