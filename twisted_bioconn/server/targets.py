"""
What clients of a port get, and where they come in: what a configuration comes to.
"""

from __future__ import annotations

from attrs import field, frozen
from twisted.internet.interfaces import (
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)

from twisted_bioconn.certificates.revocation import TrustFiles
from twisted_bioconn.client_policy import ClientPolicy
from twisted_bioconn.server._mistakes import masked, shown
from twisted_bioconn.server.backends import BackEnds
from twisted_bioconn.server.sites import Application

__all__ = ["WSGI", "Custom", "Echo", "Forward", "Listen", "Pair", "Target", "Web"]


@frozen
class Forward:
    """
    Relay to back ends.

    @ivar description: the back ends as the user wrote them.
    @ivar endpoint: the first of them.
    @ivar connect_timeout: in seconds; L{None} where the endpoint has its own.
    @ivar back_ends: all of them; L{None} where there is but one, and nothing is asked of it.
    """

    description: str = field(repr=shown)
    endpoint: IStreamClientEndpoint
    connect_timeout: float | None
    back_ends: BackEnds | None = None


@frozen
class Web:
    """Serve a directory."""

    directory: str


@frozen
class WSGI:
    """Run a WSGI application."""

    application: Application


@frozen
class Custom:
    """Whatever the user's factory does."""

    factory: IProtocolFactory


@frozen
class Echo:
    """Send back what comes."""


Target = Forward | Web | WSGI | Custom | Echo


@frozen
class Listen:
    """
    Where clients come in.

    @ivar text: as the user wrote it, or what says the same.
    @ivar description: the endpoint string that this means.
    @ivar endpoint: the endpoint; L{None} where it is to have the development certificate, which is
        made when everything else is known to be right.
    @ivar name: what it is called in the log.
    """

    text: str = field(repr=shown)
    description: str = field(repr=shown)
    endpoint: IStreamServerEndpoint | None
    name: str = field()

    @name.default
    def _default_name(self) -> str:
        return f"--listen {masked(self.text)}"


@frozen
class RouteTarget:
    """
    Where some of the clients go, by what their hellos ask for.

    @ivar names: host names.
    @ivar alpn: protocols.
    @ivar passes_through: whether TLS ends there.
    @ivar clients: what is asked of these clients; L{None} for what is asked of all on the port.
    """

    target: Target
    names: tuple[str, ...] = ()
    alpn: tuple[str, ...] = ()
    passes_through: bool = False
    clients: TrustFiles | ClientPolicy | None = None


@frozen
class Pair:
    """
    A listening endpoint and its target.

    @ivar words: the target as the user wrote it.
    @ivar key: what was asked for, all of it, so that one with the same key is the same.
    @ivar routes: where some of the clients go instead.
    """

    listen: Listen
    target: Target
    words: str = field(default="", repr=shown)
    key: str = ""
    routes: tuple[RouteTarget, ...] = ()
