"""
The ports of workers, as their parent opens and closes them.

Its reactor does not run, so nothing may take a turn of it: what is opened or closed is so at once.
Workers that were forked before go on with what they have, until they are replaced by others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, fail, succeed

from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.adoption import Held, Sockets
from twisted_bioconn.server.openings import Listener, Opening, Openings, services_of
from twisted_bioconn.server.shared_ports import SharedPorts

__all__ = ["SharedOpenings", "exchange_services"]


class SharedOpenings(Openings):
    """
    The ports that are open, to be served by those that are forked from this process.
    """

    def __init__(self, reactor: Any, sockets: Sockets, shared: SharedPorts) -> None:
        super().__init__(reactor, sockets)
        self._shared = shared

    def listen(self, listener: Listener) -> Deferred[Opening]:
        """
        Open one port, and have workers share it.

        @return: has fired; with L{ConfigurationError} for a port that cannot be shared.
        """
        for factory in listener.factories:
            self._shared.hold(factory)
        opening = super().listen(listener)
        if not opening.called:
            opening.addErrback(lambda _: None)
            opening.cancel()
            opening = fail(ConfigurationError("it opens too late for --workers to share it"))
        return opening.addCallback(self._share).addErrback(self._fail, listener)

    def _share(self, opening: Opening) -> Opening:
        port, twins = opening.port, self._sockets.twins
        try:
            twins[port] = self._shared.share(port, twins.pop(port, None))
        except ConfigurationError:
            super().close(opening)
            raise
        return opening

    def _fail(self, failure: Any, listener: Listener) -> Any:
        self._shared.forget(listener.factories)
        return failure

    def close(self, opening: Opening, leaving: bool = False) -> Deferred[Any]:
        """
        Close a port in this process.

        @param leaving: another one has its socket, and its name.
        @return: has fired.
        """
        if opening in self.open:
            self.open.remove(opening)
        self._shared.close_one(opening.port, leaving)
        self._shared.forget(opening.listener.factories)
        return succeed(None)

    def lend(self, opening: Opening) -> Held | None:
        """
        Hold the sockets of a port, and those of its workers beside it, for another one.
        """
        held = super().lend(opening)
        if held is not None:
            held.sockets += [each.dup() for each in self._sockets.twins.get(opening.port, ())]
        return held


def exchange_services(
    front: MultiService, gone: Iterable[Listener], wanted: Iterable[Listener]
) -> None:
    """
    Have what runs for these listeners in the place of what ran for those.  It is not started in the
    parent, nor stopped, but in the workers that are forked from it.
    """
    needed = services_of(wanted)
    for service in services_of(gone):
        if service not in needed and service in front.services:
            front.services.remove(service)
            service.parent = None
    for service in needed:
        if service.parent is None:
            service.parent = front
            front.services.append(service)
