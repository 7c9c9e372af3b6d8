"""
The endpoint strings C{bioconn:…}: each is translated into an L{endpoint<twisted_bioconn.endpoints>}
that can be had without strings too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from socket import SOMAXCONN, gethostname
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    clientFromString,
    serverFromString,
)
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.logger import Logger
from twisted.plugin import IPlugin
from zope.interface import implementer

from . import _option_values as values
from ._certificate_options import (
    CERTIFICATE_OPTIONS,
    TRUST_OPTIONS,
    certificate_source,
    client_trust,
)
from .certificates.loading import load_authorities
from .certificates.watching import sign
from .context import ClientOptions, ServerOptions, UnknownName, ascii_host
from .endpoints import ClientEndpoint, ServerEndpoint
from .errors import ConfigurationError
from .limits import Limits
from .policy import INTERMEDIATE
from .port_options import Plain, PreambleOptions, networks

if TYPE_CHECKING:
    from .trace.tracer import Tracer

__all__ = ["ClientParser", "ServerParser"]

_log = Logger()

TRACE_OPTIONS: dict[str, str] = {
    "trace": "where a file is to be",
    "traceEvery": "a number of connections",
    "traceFrom": "networks with commas between them",
    "traceFailures": "yes or no",
    "unsafeTraceSecrets": "yes or no",
    "unsafeKeyLog": "where a file is to be",
}
"""The options that are about traces, and what values they take."""

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
    **CERTIFICATE_OPTIONS,
    **TRUST_OPTIONS,
    "unknownName": "default, alert or close",
    "policy": "intermediate or modern",
    "alpn": "protocol names with commas between them",
    "handshakeTimeout": "a number of seconds, or 'off'",
    "closeTimeout": "a number of seconds, or 'off'",
    "idleTimeout": "a number of seconds, or 'off'",
    "plain": "refuse, redirect or forward",
    "plainAfter": "a number of seconds",
    "proxyProtocol": "networks with commas between them",
    "maxConnections": "a number of connections",
    "maxPerAddress": "a number of connections",
    "maxPerNetwork": "a number of connections",
    "maxHandshakes": "a number of handshakes",
    "handshakeRate": "a number of handshakes in a second",
    "maxLifetime": "a number of seconds",
    "starttls": "the name of a protocol",
    "hostName": "a host name",
    **TRACE_OPTIONS,
}
"""The options of a server's string, and what values they take."""

_UNKNOWN_NAME = {each.value: each for each in UnknownName}


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
        options = server_options(reactor, given)
        return ServerEndpoint(
            below,
            options,
            reactor,
            handshake_timeout=values.seconds(
                "handshakeTimeout", given.get("handshakeTimeout", "10")
            ),
            close_timeout=values.seconds("closeTimeout", given.get("closeTimeout", "30")),
            idle_timeout=values.seconds("idleTimeout", given.get("idleTimeout", "off")),
            preamble=preamble_options(given),
            limits=limits(given),
            settings=given,
            tracer=_tracer(given, options),
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


def _tracer(given: Mapping[str, str], options: ServerOptions | None) -> Tracer | None:
    """
    What traces connections as the options of a string have it.

    @raise ConfigurationError: an option is wrong.
    """
    if TRACE_OPTIONS.keys().isdisjoint(given):
        return None
    try:
        from .trace.files import tracer_of
    except ImportError:
        # It needs fcntl(2).
        raise ConfigurationError("trace= and unsafeKeyLog= need a POSIX system") from None
    if options is not None:
        return tracer_of(given, options.policy, options.alpn)
    return tracer_of(
        given,
        values.policy(given["policy"]) if "policy" in given else INTERMEDIATE,
        values.alpn_names(given["alpn"]) if "alpn" in given else (),
    )


def server_options(reactor: Any, given: Mapping[str, str]) -> ServerOptions:
    """
    The L{ServerOptions} that the options of a server's string ask for.

    @raise ConfigurationError: an option is wrong, or what it names cannot be used.
    """
    policy, method = given.get("policy"), given.get("sslmethod")
    clients = client_trust(given)
    return ServerOptions(
        certificate_source(reactor, given),
        policy=INTERMEDIATE if policy is None else values.policy(policy),
        alpn=values.alpn_names(given["alpn"]) if "alpn" in given else (),
        clients=clients,
        unknown_name=values.choice(
            "unknownName", given.get("unknownName", "default"), _UNKNOWN_NAME
        ),
        # The policy wins.
        versions=(None, None)
        if method is None or policy is not None
        else values.tls_method(method),
        dh_parameters=given.get("dhParameters"),
    )


def preamble_options(given: Mapping[str, str]) -> PreambleOptions:
    """
    What may come before TLS, as the options of a server's string have it.

    @raise ConfigurationError: an option is wrong.
    """
    return PreambleOptions(
        proxies=values.loaded("proxyProtocol", lambda: networks(given["proxyProtocol"]))
        if "proxyProtocol" in given
        else (),
        plain=values.choice(
            "plain", given.get("plain", "refuse"), {each.value: each for each in Plain}
        ),
        plain_after=values.time("plainAfter", given["plainAfter"])
        if "plainAfter" in given
        else None,
        starttls=given.get("starttls"),
        host_name=given.get("hostName", gethostname()),
    )


_LIMITS = {
    "maxConnections": "connections",
    "maxPerAddress": "per_address",
    "maxPerNetwork": "per_network",
    "maxHandshakes": "handshakes",
    "handshakeRate": "handshake_rate",
}


def limits(given: Mapping[str, str]) -> Limits:
    """
    How much clients may have, as the options of a server's string have it.

    @raise ConfigurationError: an option is wrong.
    """
    found: dict[str, Any] = {
        name: values.positive_number(option, given[option])
        for option, name in _LIMITS.items()
        if option in given
    }
    if "maxLifetime" in given:
        found["lifetime"] = values.time("maxLifetime", given["maxLifetime"])
    return Limits(**found)


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
    "starttls": "the name of a protocol",
    "hostName": "a host name",
    "unsafeSkipVerification": "yes or no",
    "trace": TRACE_OPTIONS["trace"],
    "unsafeTraceSecrets": TRACE_OPTIONS["unsafeTraceSecrets"],
    "unsafeKeyLog": TRACE_OPTIONS["unsafeKeyLog"],
}
"""The options of a client's string, and what values they take."""


_CLIENT_FILES = ("certificate", "privateKey", "passphraseFile", "trustRoots")


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
        return _FromFiles(
            self._below(reactor, timeout, given),
            lambda: client_options(given["host"], given),
            [given[option] for option in _CLIENT_FILES if option in given],
            reactor,
            timeout=timeout,
            starttls=given.get("starttls"),
            host_name=given.get("hostName"),
            close_timeout=values.seconds("closeTimeout", given.get("closeTimeout", "30")),
            tracer=_tracer(given, None),
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


class _FromFiles(ClientEndpoint):
    """
    A client whose certificate, or whose trust, is in files: a connection goes by what is in them.

    Sessions are kept by what is trusted and shown, so that none is carried over.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        make: Callable[[], ClientOptions],
        paths: Sequence[str],
        clock: IReactorTime,
        **settings: Any,
    ) -> None:
        """
        @param make: makes the options of what is in the files.
        @param paths: the files, or directories of files.
        """
        self._make = make
        self._paths = paths
        self._seen = self._look()
        self._looked = clock.seconds()
        super().__init__(endpoint, make(), clock, **settings)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect, by what is in the files now, or was a second ago."""
        if self._paths and self.clock.seconds() - self._looked >= 1.0:
            self._looked = self.clock.seconds()
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                try:
                    self.options = self._make()
                except ConfigurationError as error:
                    _log.error("{error}; what was there before is used on", error=error)
        return super().connect(protocolFactory)

    def _look(self) -> list[object]:
        found: list[object] = []
        for path in self._paths:
            found.append(sign(path))
            # Where it is a file, or cannot be read, that is what is to be seen of it.
            with suppress(OSError):
                found += [sign(os.path.join(path, name)) for name in sorted(os.listdir(path))]
        return found
