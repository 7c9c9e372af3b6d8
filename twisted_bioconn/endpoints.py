"""
Endpoints with TLS, and the endpoint strings C{bioconn:…} that make them.

The classes are for code: L{ServerEndpoint} and L{ClientEndpoint} put TLS on any other endpoint.
The parsers only translate a string into one of those.

The application's protocol is built when the peer has been let in: the handshake is done and the
peer verified.  Nothing that a stranger does before that reaches the application, and what
C{connect} gives has somebody at the other end who is who it should be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from socket import SOMAXCONN
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    clientFromString,
    serverFromString,
)
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
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.plugin import IPlugin
from twisted.python.failure import Failure
from zope.interface import implementer

from . import _option_values as values
from ._creators import Creator
from ._transport import address_text, one_line
from .certificates.loading import load_authorities
from .context import ClientCertificate, ClientOptions, ServerOptions, ascii_host
from .errors import ConfigurationError
from .policy import INTERMEDIATE
from .protocol import TLSConnectorFactory, TLSConnectorProtocol

__all__ = ["ClientEndpoint", "ClientParser", "ServerEndpoint", "ServerParser"]

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
        self._let_in = False

    def connectionMade(self) -> None:
        """There is somebody at the door."""
        self._factory.begun(self.transport)

    def handshakeCompleted(self) -> None:
        """The peer is let in: build the application's protocol and connect it."""
        tls, factory = self.transport, self._factory
        self._let_in = True
        try:
            application = factory.wrappedFactory.buildProtocol(self._addr)
            if application is None:
                raise NoProtocol
            tls.wrappedProtocol = application
            application.makeConnection(tls)
            if IHandshakeListener.providedBy(application):
                application.handshakeCompleted()
        except Exception:
            factory.failed(tls, Failure())
        else:
            factory.letIn(application)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The peer was not let in, or left before."""
        if not self._let_in:
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

    def letIn(self, application: IProtocol) -> None:
        """A peer was let in."""

    def failed(self, tls: TLSConnectorProtocol, reason: Failure) -> None:
        """The application did not take a peer that was let in."""
        if not reason.check(NoProtocol):
            _log.failure("Unhandled error in the application's protocol", reason)
        tls.failVerification(reason)

    def notLetIn(self, tls: TLSConnectorProtocol | None, reason: Failure) -> None:
        """A connection ended before its peer was let in: say why, in a line."""
        if tls is None or _was_idle(tls, reason):
            return
        _log.info(
            "no handshake with {peer}: {why}",
            peer=address_text(tls.transport.getPeer()),
            why=one_line(reason.getErrorMessage()),
        )


def _was_idle(tls: TLSConnectorProtocol, reason: Failure) -> bool:
    """
    Whether the peer left without a word that counts: a health check, a scan of ports, a browser
    that connects in advance.
    """
    connection = tls.getHandle()
    return reason.check(ConnectionDone, ConnectionLost) is not None and (
        connection is None or connection.client_random() is None
    )


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
    ) -> None:
        """
        @param endpoint: what carries the bytes.
        @param options: certificate, policy, and whom to let in.
        @param clock: for the deadlines and for gathering small writes; the reactor by default.
        @param handshake_timeout: seconds until a peer must be let in.
        @param close_timeout: seconds to wait for a peer to close after us.
        @param idle_timeout: seconds of silence after which a connection is closed; L{None} for
            never, as with the others.
        @raise ConfigurationError: one of them is not above 0.
        """
        self.endpoint = endpoint
        self.options = options
        self.clock = clock
        self.handshake_timeout = deadline("handshake_timeout", handshake_timeout)
        self.close_timeout = deadline("close_timeout", close_timeout)
        self.idle_timeout = deadline("idle_timeout", idle_timeout)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen, with protocols of this factory."""
        return self.endpoint.listen(
            _LettingInFactory(
                self.options,
                False,
                protocolFactory,
                self.clock,
                handshakeTimeout=self.handshake_timeout,
                closeTimeout=self.close_timeout,
                idleTimeout=self.idle_timeout,
            )
        )


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
    ) -> None:
        """
        @param endpoint: what carries the bytes.
        @param options: whom to talk to, and what to believe.
        @param clock: for the deadlines, most often the reactor.
        @param timeout: seconds for the connection and the handshake together.
        @param close_timeout: seconds to wait for the server to close after us.
        @raise ConfigurationError: one of them is not above 0; L{None} is for no deadline.
        """
        self.endpoint = endpoint
        self.options = options
        self.clock = clock
        self.timeout = deadline("timeout", timeout)
        self.close_timeout = deadline("close_timeout", close_timeout)

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
        self._tls: TLSConnectorProtocol | None = None
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
        factory._creatorCallable = self._creating(factory._creatorCallable)
        if endpoint.timeout is not None:
            self._timer = endpoint.clock.callLater(endpoint.timeout, self._expire)
        try:
            below = endpoint.endpoint.connect(factory)
        except Exception:
            self.finish(Failure())
            return
        if not self.done.called:
            self._below = below
        below.addCallbacks(self._connected, self.finish)

    def begun(self, tls: TLSConnectorProtocol) -> None:
        """The transport is connected, and the handshake begins."""
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


# Strings


SERVER_OPTIONS: dict[str, str] = {
    "port": "a port number",
    "interface": "an address to listen on",
    "backlog": "a number of connections",
    "endpoint": "a server endpoint string",
    "privateKey": "a file name",
    "certKey": "a file name",
    "extraCertChain": "a file name",
    "passphraseFile": "a file name",
    "sslmethod": "the name of a method of OpenSSL",
    "dhParameters": "a file name",
    "clientAuthorities": "the name of a file or a directory",
    "clientCertificate": "require or verifyIfGiven",
    "policy": "intermediate or modern",
    "alpn": "protocol names with commas between them",
    "handshakeTimeout": "a number of seconds, or 'off'",
    "closeTimeout": "a number of seconds, or 'off'",
    "idleTimeout": "a number of seconds, or 'off'",
}
"""The options of a server's string, and what values they take."""

_CLIENT_CERTIFICATE = {
    "require": ClientCertificate.REQUIRE,
    "verifyIfGiven": ClientCertificate.VERIFY_IF_GIVEN,
    "request": None,
}


@implementer(IPlugin, IStreamServerEndpointStringParser)
class ServerParser:
    """
    C{bioconn:PORT[:interface=ADDRESS][:option=…]} or C{bioconn:endpoint=STRING[:option=…]}.
    """

    prefix = "bioconn"

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> ServerEndpoint:
        """
        @raise ConfigurationError: an option is wrong, or what it names cannot be used.
        """
        given = values.take(kwargs, SERVER_OPTIONS, args, ("port",))
        below = self._below(reactor, given)
        return ServerEndpoint(
            below,
            server_options(given),
            reactor,
            handshake_timeout=values.seconds(
                "handshakeTimeout", given.get("handshakeTimeout", "10")
            ),
            close_timeout=values.seconds("closeTimeout", given.get("closeTimeout", "30")),
            idle_timeout=values.seconds("idleTimeout", given.get("idleTimeout", "off")),
        )

    def _below(self, reactor: Any, given: Mapping[str, str]) -> IStreamServerEndpoint:
        if "endpoint" in given:
            for option in ("port", "interface", "backlog"):
                if option in given:
                    raise ConfigurationError(
                        f"endpoint= and {option} exclude each other: it says where to listen"
                    )
            parse: Callable[[Any, str], IStreamServerEndpoint] = serverFromString
            return values.nested(given["endpoint"], parse, reactor)
        if "port" not in given:
            raise ConfigurationError("bioconn: needs a port, or an endpoint= to listen on")
        interface = given.get("interface", "")
        listen = TCP6ServerEndpoint if ":" in interface else TCP4ServerEndpoint
        backlog = values.whole_number("backlog", given.get("backlog", str(SOMAXCONN)))
        return listen(reactor, values.port_number(given["port"]), backlog, interface)


def server_options(given: Mapping[str, str]) -> ServerOptions:
    """
    The L{ServerOptions} that the options of a server's string ask for.

    @raise ConfigurationError: an option is wrong, or what it names cannot be used.
    """
    mode = given.get("clientCertificate")
    wanted = None if mode is None else values.choice("clientCertificate", mode, _CLIENT_CERTIFICATE)
    if mode == "request":
        raise ConfigurationError(
            "clientCertificate=request leaves the verdict to rules, and there are none:"
            " use verifyIfGiven or require"
        )
    authorities = given.get("clientAuthorities")
    policy = given.get("policy")
    method = given.get("sslmethod")
    # As in ssl:, a key file alone may hold the certificate too.
    given = {"privateKey": "server.pem", **given}
    certificate = values.certified_key(
        given, "certKey" if "certKey" in given else "privateKey", "privateKey"
    )
    return ServerOptions(
        certificate,
        policy=INTERMEDIATE if policy is None else values.policy(policy),
        alpn=values.alpn_names(given["alpn"]) if "alpn" in given else (),
        client_authorities=()
        if authorities is None
        else values.loaded("clientAuthorities", lambda: load_authorities(authorities)),
        client_certificate=wanted,
        # The policy wins.
        versions=(None, None)
        if method is None or policy is not None
        else values.tls_method(method),
        dh_parameters=given.get("dhParameters"),
    )


CLIENT_OPTIONS: dict[str, str] = {
    "host": "a host name or an address",
    "port": "a port number",
    "timeout": "a number of seconds, or 'off'",
    "bindAddress": "an address",
    "certificate": "a file name",
    "privateKey": "a file name",
    "passphraseFile": "a file name",
    "trustRoots": "the name of a file or a directory",
    "endpoint": "a client endpoint string",
    "serverName": "a host name",
    "alpn": "protocol names with commas between them",
    "policy": "intermediate or modern",
    "pins": "SHA-256 digests of public keys with commas between them",
    "closeTimeout": "a number of seconds, or 'off'",
    "unsafeSkipVerification": "yes or no",
}
"""The options of a client's string, and what values they take."""


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor)
class ClientParser:
    """
    C{bioconn:HOST:PORT[:option=…]}.
    """

    prefix = "bioconn"

    def parseStreamClient(self, reactor: Any, *args: Any, **kwargs: Any) -> ClientEndpoint:
        """
        @raise ConfigurationError: an option is wrong, or what it names cannot be used.
        """
        given = values.take(kwargs, CLIENT_OPTIONS, args, ("host", "port"))
        if not given.get("host") or not (given.get("port") or "endpoint" in given):
            raise ConfigurationError("bioconn: needs a host and a port: bioconn:HOST:PORT")
        timeout = values.seconds("timeout", given.get("timeout", "30"))
        return ClientEndpoint(
            self._below(reactor, timeout, given),
            client_options(given["host"], given),
            reactor,
            timeout=timeout,
            close_timeout=values.seconds("closeTimeout", given.get("closeTimeout", "30")),
        )

    def _below(
        self, reactor: Any, timeout: float | None, given: Mapping[str, str]
    ) -> IStreamClientEndpoint:
        bind = given.get("bindAddress")
        if "endpoint" in given:
            if bind is not None:
                raise ConfigurationError(
                    "endpoint= and bindAddress exclude each other: it says how to connect"
                )
            parse: Callable[[Any, str], IStreamClientEndpoint] = clientFromString
            return values.nested(given["endpoint"], parse, reactor)
        # The deadline is ours, for the connection and the handshake together.
        return HostnameEndpoint(
            reactor,
            ascii_host(given["host"]).encode("ascii"),
            values.port_number(given["port"]),
            timeout or 3600.0,
            None if bind is None else (bind, 0),
        )


def client_options(host: str, given: Mapping[str, str]) -> ClientOptions:
    """
    The L{ClientOptions} that the options of a client's string ask for.

    @raise ConfigurationError: an option is wrong, or what it names cannot be used.
    """
    certificate, key = given.get("certificate"), given.get("privateKey")
    if certificate is None and key is not None:
        raise ConfigurationError("privateKey= needs certificate=: a key alone proves nothing")
    if certificate is None and "passphraseFile" in given:
        raise ConfigurationError("passphraseFile= needs certificate=: there is no key to decrypt")
    server_name = given.get("serverName")
    roots = given.get("trustRoots")
    skip = values.yes_or_no("unsafeSkipVerification", given.get("unsafeSkipVerification", "no"))
    if skip and (roots is not None or "pins" in given):
        raise ConfigurationError(
            "unsafeSkipVerification=yes takes any certificate:"
            " trustRoots= and pins= mean nothing then"
        )
    return ClientOptions(
        host,
        server_name=None
        if server_name is None
        else values.loaded("serverName", lambda: ascii_host(server_name)),
        trust_roots=None
        if roots is None
        else values.loaded("trustRoots", lambda: load_authorities(roots)),
        policy=values.policy(given["policy"]) if "policy" in given else INTERMEDIATE,
        alpn=values.alpn_names(given["alpn"]) if "alpn" in given else (),
        certificate=None
        if certificate is None
        else values.certified_key(given, "certificate", "privateKey"),
        pins=values.pins(given["pins"]) if "pins" in given else (),
        unsafe_skip_verification=skip,
    )
