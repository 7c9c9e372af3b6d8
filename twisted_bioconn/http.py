"""
HTTP clients whose TLS is ours: for L{twisted.web.client.Agent}, and for treq.

Each host is verified, sessions are resumed, and C{http:} addresses work as they do with any other
agent.  HTTP/1.1 is what Twisted's agent speaks, so that is what is offered by ALPN.
"""

from __future__ import annotations

from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from .context import ClientOptions
from .endpoints import ClientEndpoint, deadline
from .errors import ConfigurationError

__all__ = ["AgentEndpointFactory", "agent", "treq_client"]


@implementer(IAgentEndpointFactory)
class AgentEndpointFactory:
    """
    Connects an agent to C{https:} by a L{ClientEndpoint}, and to C{http:} with no TLS.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        timeout: float = 30.0,
        bind_address: str | None = None,
        **options: Any,
    ) -> None:
        """
        @param timeout: seconds for the connection and the handshake together.
        @param bind_address: the IP address to connect from.
        @param options: what L{ClientOptions} takes after the host: C{trust_roots}, C{policy},
            C{certificate}, C{pins}, C{check}, C{unsafe_skip_verification}, C{sessions}.
        @raise ConfigurationError: the options do not fit together.
        """
        self._reactor = reactor
        deadline("timeout", timeout)
        self._timeout = timeout
        self._bind_address = None if bind_address is None else (bind_address, 0)
        if "server_name" in options:
            raise ConfigurationError("server_name is one host's, and an agent connects to many")
        options.setdefault("alpn", (b"http/1.1",))
        # For every host, with one context.  And a mistake is told here, not at the first request.
        self._options = ClientOptions("localhost", **options)

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """
        @raise SchemeNotSupported: it is neither C{https:} nor C{http:}.
        """
        if uri.scheme not in (b"https", b"http"):
            raise SchemeNotSupported(
                f"{uri.toBytes().decode('ascii', 'backslashreplace')!r} is neither https: nor http:"
            )
        below = HostnameEndpoint(
            self._reactor, uri.host, uri.port, self._timeout, self._bind_address
        )
        if uri.scheme == b"http":
            return below
        try:
            options = self._options.for_host(uri.host.decode("utf-8"))
        except ValueError:
            return _Nowhere(Failure())
        return ClientEndpoint(below, options, self._reactor, timeout=self._timeout)


@implementer(IStreamClientEndpoint)
class _Nowhere:
    """
    What an address leads to whose host cannot be one: an agent's caller expects a Deferred.
    """

    def __init__(self, reason: Failure) -> None:
        self._reason = reason

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Fail."""
        return fail(self._reason)


def agent(reactor: Any, pool: HTTPConnectionPool | None = None, **options: Any) -> Agent:
    """
    An L{Agent} whose TLS is ours.

    @param options: what L{AgentEndpointFactory} takes.
    """
    made: Agent = Agent.usingEndpointFactory(
        reactor, AgentEndpointFactory(reactor, **options), pool
    )
    return made


def treq_client(reactor: Any, pool: HTTPConnectionPool | None = None, **options: Any) -> HTTPClient:
    """
    A treq client whose TLS is ours: it has C{get}, C{post} and all the others.

    @param options: what L{AgentEndpointFactory} takes.
    """
    return HTTPClient(agent(reactor, pool, **options))
