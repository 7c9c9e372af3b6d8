"""
The ports of a process: each is opened with what its clients get, and closed without what they have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from weakref import WeakSet

from attrs import define, frozen
from twisted.application.service import IService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger

from twisted_bioconn._tcp import Port
from twisted_bioconn._transport import address_text
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.endpoints import ServerEndpoint
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.adoption import Held, Sockets, leave
from twisted_bioconn.server.backends import BackEnds
from twisted_bioconn.server.descriptors import Descriptors
from twisted_bioconn.server.keepalive import keep_alive
from twisted_bioconn.server.relay import RelayFactory
from twisted_bioconn.server.sites import describe

__all__ = ["Accepted", "Listener", "Opening", "Openings", "services_of", "why_not"]

_log = Logger()


@frozen
class Listener:
    """
    A port to open.

    @ivar name: what the user calls it.
    @ivar endpoint: where it is.
    @ivar factory: what a client of it gets.
    @ivar visit: given the number of the port that it has, what to tell the user of it.
    @ivar target: what a client of it gets, in the user's words.
    @ivar until_renewal: the seconds until its certificate for development is renewed.
    @ivar key: all that it was asked for, in words: one with the same key is the same one.  If not
        given, its name and its target.
    @ivar services: what has to run as long as there are connections to it; they may be those of
        other listeners too.
    """

    name: str
    endpoint: IStreamServerEndpoint
    factory: IProtocolFactory
    visit: Callable[[int], Iterable[str]] | None = None
    target: str = ""
    until_renewal: Callable[[], float] | None = None
    key: str = ""
    services: tuple[IService, ...] = ()

    @property
    def identity(self) -> str:
        """What makes it the same as another one."""
        return self.key or f"{self.name} {self.target}"

    @property
    def factories(self) -> list[IProtocolFactory]:
        """All that clients of it may get."""
        routes = self.endpoint.routes if isinstance(self.endpoint, ServerEndpoint) else ()
        return [self.factory, *(each.factory for each in routes)]

    @property
    def options(self) -> ServerOptions | None:
        """What is known of its TLS; L{None} where it has none, or none of ours."""
        return self.endpoint.options if isinstance(self.endpoint, ServerEndpoint) else None

    @property
    def all_options(self) -> list[ServerOptions]:
        """The same, and what is known of the TLS of its routes, each once."""
        return self.endpoint.all_options if isinstance(self.endpoint, ServerEndpoint) else []


class Accepted:
    """
    The connections that a port has accepted.

    @ivar back_ends: those that they are relayed to, where they are.
    """

    def __init__(self, back_ends: Iterable[BackEnds] = ()) -> None:
        self._transports: WeakSet[Any] = WeakSet()
        self.back_ends = tuple(back_ends)

    def watch(self, port: Any) -> None:
        """Count what a port accepts from now on.  One of an unknown kind has none to be counted."""
        make, add = getattr(port, "transport", None), self._transports.add
        if make is None:
            return

        def transport(*arguments: Any) -> Any:
            made = make(*arguments)
            add(made)
            return made

        port.transport = transport

    @property
    def are_open(self) -> bool:
        """Whether there is one that has not ended."""
        return any(each.connected for each in self._transports)

    @property
    def count(self) -> int:
        """How many have not ended."""
        return sum(bool(each.connected) for each in self._transports)


@define(eq=False)
class Opening:
    """
    A listener whose port is open.

    @ivar accepted: the connections to it.
    """

    listener: Listener
    port: Any
    accepted: Accepted


class Openings:
    """
    The ports that are open.

    @ivar open: those that are.
    """

    def __init__(self, reactor: Any, sockets: Sockets) -> None:
        self._reactor = reactor
        self._sockets = sockets
        self._accepted: list[Accepted] = []
        self._descriptors = Descriptors(self._owed)
        self.open: list[Opening] = []

    def listen(self, listener: Listener) -> Deferred[Opening]:
        """
        Open one port.  Most endpoints have done it, or have failed, when this returns.
        """

        def opened(port: IListeningPort) -> Opening:
            accepted = Accepted(
                each.back_ends for each in listener.factories if isinstance(each, RelayFactory)
            )
            accepted.watch(port)
            keep_alive(getattr(port, "socket", None))
            if isinstance(port, Port):
                takes = 2 if accepted.back_ends else 1
                port.has_room = partial(self._descriptors.take, takes)
            # Each reload may open a port, and a server is reloaded for years.
            self._forget_unused()
            self._accepted.append(accepted)
            opening = Opening(listener, port, accepted)
            self.open.append(opening)
            _log.info(
                "{name}: listening on {address}",
                name=listener.name,
                address=address_text(port.getHost()),
            )
            return opening

        with self._sockets.used_by(self._reactor):
            opening = maybeDeferred(listener.endpoint.listen, listener.factory)
        return opening.addCallback(opened)

    def close(self, opening: Opening, leaving: bool = False) -> Deferred[Any]:
        """
        Close a port.

        @param leaving: another one has its socket, and its name.
        @return: fires when it is closed.
        """
        if opening in self.open:
            self.open.remove(opening)
        return maybeDeferred(leave if leaving else _stop, opening.port)

    def lend(self, opening: Opening) -> Held | None:
        """
        Hold the socket of a port that is still open for one that is opened in its place.

        @return: L{None} for a port of which it is not known what it was asked for.
        """
        return self._sockets.lend(opening.port)

    def close_all(self, left: Iterable[Any] = ()) -> list[Deferred[Any]]:
        """
        Close all ports.

        @param left: the ports whose sockets others have.
        """
        left = list(left)
        return [self.close(each, each.port in left) for each in self.open[:]]

    @property
    def are_in_use(self) -> bool:
        """Whether a connection is open, to a port that is open or to one that was."""
        self._forget_unused()
        return any(each.are_open for each in self._accepted)

    def _forget_unused(self) -> None:
        """Forget the ports that were open and have no connection any more."""
        self._accepted = [
            each
            for each in self._accepted
            if each.are_open or any(each is opening.accepted for opening in self.open)
        ]

    @property
    def count(self) -> int:
        """How many connections are open."""
        return sum(each.count for each in self._accepted)

    def _owed(self) -> int:
        """How many descriptors the connections will take whose back end is not there yet."""
        relayed = [each for each in self._accepted if each.back_ends]
        # A port may have several, and several ports the same.
        back_ends = {each for accepted in relayed for each in accepted.back_ends}
        members = [each for one in back_ends for each in one.members]
        there = sum(each.connections + each.pending for each in members)
        return max(0, sum(each.count for each in relayed) - there)


def _stop(port: Any) -> Any:
    return port.stopListening()


def why_not(error: BaseException) -> str:
    """
    Why a port cannot be opened.
    """
    if isinstance(error, CannotListenError):
        error = error.socketError
    if isinstance(error, ConfigurationError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return describe(error)


def services_of(listeners: Iterable[Listener]) -> list[IService]:
    """What runs for these listeners, each once."""
    return list(dict.fromkeys(service for each in listeners for service in each.services))
