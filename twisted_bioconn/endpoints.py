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
from difflib import get_close_matches
from socket import SOMAXCONN
from ssl import TLSVersion
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    clientFromString,
    serverFromString,
)
from twisted.internet.error import ConnectingCancelledError, ConnectionDone, TimeoutError
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

from .certificates.loading import CertifiedKey, load_authorities
from .context import ClientCertificate, ClientOptions, ServerOptions, TLSMethod, ascii_host
from .errors import ConfigurationError
from .policy import INTERMEDIATE, Policy, policy_named
from .protocol import TLSConnectorFactory, TLSConnectorProtocol
from .verify import Pin, is_ip_address

__all__ = ["ClientEndpoint", "ClientParser", "ServerEndpoint", "ServerParser"]

_log = Logger()
_T = TypeVar("_T")


@implementer(IHandshakeListener)
class _Anteroom(Protocol):
    """
    Stands where the application's protocol will be, until the handshake is done.
    """

    transport: TLSConnectorProtocol

    def __init__(self, addr: IAddress | None) -> None:
        self._addr = addr

    def handshakeCompleted(self) -> None:
        """The peer is let in: build the application's protocol and connect it."""
        tls = self.transport
        application = tls.factory.wrappedFactory.buildProtocol(self._addr)
        if application is None:
            tls.abortConnection()
            return
        tls.wrappedProtocol = application
        application.makeConnection(tls)
        if IHandshakeListener.providedBy(application):
            application.handshakeCompleted()
        tls.factory.letIn(tls, application)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The peer was not let in, or left before."""
        self.transport.factory.notLetIn(self.transport, reason)


class _LettingInFactory(TLSConnectorFactory):
    """
    Builds the application's protocol when the handshake is done.
    """

    def buildProtocol(self, addr: IAddress | None) -> TLSConnectorProtocol:
        """A TLS layer with nothing above it yet."""
        return self.protocol(self, _Anteroom(addr))  # type: ignore[no-any-return]

    def letIn(self, tls: TLSConnectorProtocol, application: IProtocol) -> None:
        """A peer was let in."""

    def notLetIn(self, tls: TLSConnectorProtocol, reason: Failure) -> None:
        """A connection ended before its peer was let in: say why, in a line."""
        if not reason.check(ConnectionDone):
            _log.info(
                "no handshake with {peer}: {why}",
                peer=_address_text(tls.transport.getPeer()),
                why=reason.getErrorMessage(),
                log_failure=None,
            )


class _ConnectingFactory(_LettingInFactory):
    """
    A client's: tells C{connect} what became of its one connection.
    """

    result: Callable[[IProtocol | Failure], None]

    def letIn(self, tls: TLSConnectorProtocol, application: IProtocol) -> None:
        """The server is who it should be."""
        self.result(application)

    def notLetIn(self, tls: TLSConnectorProtocol, reason: Failure) -> None:
        """It is not, or there was no telling."""
        self.result(reason)


def _address_text(address: Any) -> str:
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    return str(address) if host is None else f"{host}:{port}"


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
            never.
        """
        self.endpoint = endpoint
        self.options = options
        self.clock = clock
        self.handshake_timeout = handshake_timeout
        self.close_timeout = close_timeout
        self.idle_timeout = idle_timeout

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
        """
        self.endpoint = endpoint
        self.options = options
        self.clock = clock
        self.timeout = timeout
        self.close_timeout = close_timeout

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
        factory = _ConnectingFactory(
            endpoint.options,
            True,
            protocolFactory,
            endpoint.clock,
            handshakeTimeout=None,
            closeTimeout=endpoint.close_timeout,
        )
        factory.result = self._finish
        if endpoint.timeout is not None:
            self._timer = endpoint.clock.callLater(endpoint.timeout, self._expire)
        self._below = endpoint.endpoint.connect(factory)
        self._below.addCallbacks(self._connected, self._finish)

    def _connected(self, tls: IProtocol) -> None:
        self._below = None
        self._tls = tls

    def _finish(self, result: IProtocol | Failure) -> None:
        """Tell, once; what comes later is the echo of our own giving up."""
        done = self.done
        if done.called:
            return
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if isinstance(result, Failure):
            done.errback(result)
        else:
            done.callback(result)
        # The factory refers to this, and the endpoint below may keep the factory.
        self._tls = None

    def _expire(self) -> None:
        seconds = self._endpoint.timeout
        self._give_up(Failure(TimeoutError(f"no connection with TLS within {seconds:g} seconds")))

    def _cancel(self, _: Deferred[IProtocol]) -> None:
        self._give_up(Failure(ConnectingCancelledError(None)))

    def _give_up(self, reason: Failure) -> None:
        below, tls = self._below, self._tls
        self._finish(reason)
        if below is not None:
            below.cancel()
        elif tls is not None:
            tls.abortConnection()


# Strings


def _number(option: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ConfigurationError(f"{option}={value}: this must be a whole number") from None


def _port(value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) > 65535:
        raise ConfigurationError(f"{value!r} is no port: it must be a number from 0 to 65535")
    return int(value)


def _seconds(option: str, value: str) -> float | None:
    """A deadline: a number of seconds, or C{off}."""
    if value == "off":
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise ConfigurationError(f"{option}={value}: this must be a number of seconds, or 'off'")
    return seconds


def _choice(option: str, value: str, choices: Mapping[str, _T]) -> _T:
    if value in choices:
        return choices[value]
    hint = _nearest(value, choices)
    raise ConfigurationError(f"{option}={value}: it can be {', '.join(choices)}{hint}")


def _nearest(word: str, words: Mapping[str, object]) -> str:
    by_lower = {each.lower(): each for each in words}
    found = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[found[0]]}?" if found else ""


def _alpn(value: str) -> tuple[bytes, ...]:
    names = tuple(name.strip().encode("utf-8") for name in value.split(","))
    if not all(names):
        raise ConfigurationError(f"alpn={value}: this must be names with commas between them")
    return names


def _yes(option: str, value: str) -> bool:
    return _choice(option, value, {"yes": True, "no": False})


def _policy(value: str) -> Policy:
    try:
        return policy_named(value)
    except ConfigurationError as error:
        raise ConfigurationError(f"policy: {error}") from None


_METHODS: dict[str, TLSMethod] = {
    "TLS_METHOD": (None, None),
    "SSLv23_METHOD": (None, None),
    "TLSv1_2_METHOD": (TLSVersion.TLSv1_2, TLSVersion.TLSv1_2),
}
_METHODS_TOO_OLD = {"SSLv2_METHOD", "SSLv3_METHOD", "TLSv1_METHOD", "TLSv1_1_METHOD"}


def _method(value: str) -> TLSMethod:
    if value in _METHODS_TOO_OLD:
        raise ConfigurationError(
            f"sslmethod={value}: it speaks nothing newer than TLS 1.1, which is not secure;"
            " leave it out, or use policy=intermediate"
        )
    return _choice("sslmethod", value, _METHODS)


def _take(
    options: dict[str, Any], known: Mapping[str, str], positional: tuple[Any, ...], names: int
) -> dict[str, str]:
    """
    The options of a string as text, all of them known.

    @param known: the options that there are, with what they mean.
    @param names: how many positional values there may be.
    """
    if len(positional) > names:
        raise ConfigurationError(
            f"bioconn: cannot place {_text(positional[names])!r}: each option is written NAME=VALUE"
        )
    taken = {}
    for option, value in options.items():
        if option not in known:
            raise ConfigurationError(f"bioconn: has no option {option!r}{_nearest(option, known)}")
        taken[option] = _text(value)
        if not taken[option]:
            if option == "interface":
                continue
            raise ConfigurationError(f"{option}= has no value: it takes {known[option]}")
    return taken


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _load(option: str, load: Callable[[], _T]) -> _T:
    """Load what an option names; a mistake says which option it was."""
    try:
        return load()
    except ConfigurationError as error:
        raise ConfigurationError(f"{option}: {error}") from error


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
    "clientCertificate": "require, verifyIfGiven or request",
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
        given = _take(kwargs, SERVER_OPTIONS, args, 1)
        below = self._below(reactor, args, given)
        return ServerEndpoint(
            below,
            server_options(given),
            reactor,
            handshake_timeout=_seconds("handshakeTimeout", given.get("handshakeTimeout", "10")),
            close_timeout=_seconds("closeTimeout", given.get("closeTimeout", "30")),
            idle_timeout=_seconds("idleTimeout", given.get("idleTimeout", "off")),
        )

    def _below(
        self, reactor: Any, args: tuple[Any, ...], given: Mapping[str, str]
    ) -> IStreamServerEndpoint:
        port = _text(args[0]) if args else given.get("port")
        if "endpoint" in given:
            for option in ("port", "interface", "backlog"):
                if option in given or (option == "port" and port is not None):
                    raise ConfigurationError(
                        f"endpoint= and {option} exclude each other: it says where to listen"
                    )
            try:
                server: IStreamServerEndpoint = serverFromString(reactor, given["endpoint"])
                return server
            except ConfigurationError:
                raise
            except Exception as error:
                raise ConfigurationError(
                    f"endpoint={given['endpoint']}: {error or type(error).__name__}"
                ) from error
        if port is None:
            raise ConfigurationError("bioconn: needs a port, or an endpoint= to listen on")
        interface = given.get("interface", "")
        backlog = _number("backlog", given.get("backlog", str(SOMAXCONN)))
        if interface and not is_ip_address(interface):
            raise ConfigurationError(f"interface={interface}: this must be an IP address")
        listen = TCP6ServerEndpoint if ":" in interface else TCP4ServerEndpoint
        return listen(reactor, _port(port), backlog, interface)


def server_options(given: Mapping[str, str]) -> ServerOptions:
    """
    The L{ServerOptions} that the options of a server's string ask for.

    @raise ConfigurationError: an option is wrong, or what it names cannot be used.
    """
    mode = given.get("clientCertificate")
    wanted = None if mode is None else _choice("clientCertificate", mode, _CLIENT_CERTIFICATE)
    if mode == "request":
        raise ConfigurationError(
            "clientCertificate=request leaves the verdict to rules, and there are none:"
            " use verifyIfGiven or require"
        )
    authorities = given.get("clientAuthorities")
    policy = given.get("policy")
    method = given.get("sslmethod")
    # As in ssl:, a key file alone may hold the certificate too.
    key = given.get("privateKey", "server.pem")
    certificate = _load(
        "privateKey" if "certKey" not in given else "certKey",
        lambda: CertifiedKey.from_files(
            given.get("certKey", key), key, given.get("passphraseFile"), given.get("extraCertChain")
        ),
    )
    return ServerOptions(
        certificate,
        policy=INTERMEDIATE if policy is None else _policy(policy),
        alpn=_alpn(given["alpn"]) if "alpn" in given else (),
        client_authorities=()
        if authorities is None
        else _load("clientAuthorities", lambda: load_authorities(authorities)),
        client_certificate=wanted,
        # The policy wins.
        versions=(None, None) if method is None or policy is not None else _method(method),
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
        given = _take(kwargs, CLIENT_OPTIONS, args, 2)
        host = _text(args[0]) if args else given.get("host")
        port = _text(args[1]) if len(args) > 1 else given.get("port")
        if not host or (port is None and "endpoint" not in given):
            raise ConfigurationError("bioconn: needs a host and a port: bioconn:HOST:PORT")
        timeout = _seconds("timeout", given.get("timeout", "30"))
        return ClientEndpoint(
            self._below(reactor, host, port, timeout, given),
            client_options(host, given),
            reactor,
            timeout=timeout,
            close_timeout=_seconds("closeTimeout", given.get("closeTimeout", "30")),
        )

    def _below(
        self,
        reactor: Any,
        host: str,
        port: str | None,
        timeout: float | None,
        given: Mapping[str, str],
    ) -> IStreamClientEndpoint:
        if "endpoint" in given:
            if "bindAddress" in given:
                raise ConfigurationError(
                    "endpoint= and bindAddress exclude each other: it says how to connect"
                )
            try:
                client: IStreamClientEndpoint = clientFromString(reactor, given["endpoint"])
                return client
            except ConfigurationError:
                raise
            except Exception as error:
                raise ConfigurationError(
                    f"endpoint={given['endpoint']}: {error or type(error).__name__}"
                ) from error
        assert port is not None
        bind = given.get("bindAddress")
        if bind is not None and not is_ip_address(bind):
            raise ConfigurationError(f"bindAddress={bind}: this must be an IP address")
        # The deadline is ours, for the connection and the handshake together.
        return HostnameEndpoint(
            reactor,
            ascii_host(host).encode("ascii"),
            _port(port),
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
    roots = given.get("trustRoots")
    skip = _yes("unsafeSkipVerification", given.get("unsafeSkipVerification", "no"))
    if skip and (roots is not None or "pins" in given):
        raise ConfigurationError(
            "unsafeSkipVerification=yes takes any certificate:"
            " trustRoots= and pins= mean nothing then"
        )
    return ClientOptions(
        host,
        server_name=given.get("serverName"),
        trust_roots=None if roots is None else _load("trustRoots", lambda: load_authorities(roots)),
        policy=_policy(given["policy"]) if "policy" in given else INTERMEDIATE,
        alpn=_alpn(given["alpn"]) if "alpn" in given else (),
        certificate=None
        if certificate is None
        else _load(
            "certificate",
            lambda: CertifiedKey.from_files(certificate, key, given.get("passphraseFile")),
        ),
        pins=[_pin(each) for each in given["pins"].split(",")] if "pins" in given else (),
        unsafe_skip_verification=skip,
    )


def _pin(text: str) -> Pin:
    try:
        return Pin.parse(text if ":" in text or "/" in text else f"sha256:{text}")
    except ConfigurationError as error:
        raise ConfigurationError(f"pins={text}: {error}") from None
