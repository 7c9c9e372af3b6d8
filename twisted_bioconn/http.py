"""
HTTP clients whose TLS is ours: for L{twisted.web.client.Agent}, and for treq.

Each host is verified, sessions are resumed, and C{http:} addresses work as they do with any other
agent.  HTTP/1.1 is what Twisted's agent speaks, so that is what is offered by ALPN.
"""

from __future__ import annotations

from typing import Any

from treq.client import HTTPClient
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from .context import ClientOptions
from .endpoints import ClientEndpoint

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
        self._timeout = timeout
        self._bind_address = None if bind_address is None else (bind_address, 0)
        options.setdefault("alpn", (b"http/1.1",))
        self._options = options
        # A mistake is told here, and not at the first request.
        self._made = {"localhost": ClientOptions("localhost", **options)}

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """
        @raise SchemeNotSupported: it is neither C{https:} nor C{http:}.
        """
        below = HostnameEndpoint(
            self._reactor, uri.host, uri.port, self._timeout, self._bind_address
        )
        if uri.scheme == b"http":
            return below
        if uri.scheme != b"https":
            raise SchemeNotSupported(f"there is no {uri.scheme!r} here, only https and http")
        return ClientEndpoint(
            below, self._options_for(uri.host.decode("ascii")), self._reactor, timeout=self._timeout
        )

    def _options_for(self, host: str) -> ClientOptions:
        """One context for each host: making one costs more than a handshake."""
        options = self._made.get(host)
        if options is None:
            if len(self._made) >= 1024:
                self._made.clear()
            options = self._made[host] = ClientOptions(host, **self._options)
        return options


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
