"""
The status of a process, for as long as that runs.

It is no port of the server's: it is there when those are closed, while the last connections end,
and whoever looks at it is no connection that has to be waited for.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_bioconn._transport import address_text
from twisted_bioconn.endpoints import ServerEndpoint
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server._mistakes import masked
from twisted_bioconn.server.adoption import Asked, Sockets, leave
from twisted_bioconn.server.openings import Listener, why_not
from twisted_bioconn.server.status import Status, StatusSite
from twisted_bioconn.server.status_ports import (
    SOCKET_MODE,
    Audience,
    StatusPort,
    status_port,
)

__all__ = ["StatusService"]

INTERVAL = 1.0
"""Seconds between two attempts to have a place that another process has."""


class StatusService(Service):
    """
    Listens where the status is asked for.

    @ivar status: what there is to tell.
    @ivar waits: whether the place may be another process's yet, which is about to leave it.

    One process hands the socket down to its new version, as it does with those of its ports; so
    there is no moment without a status.  What comes until it is the new one's turn waits for it in
    the queue, or is answered by the old one.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, place: str, status: Status, sockets: Sockets | None = None
    ) -> None:
        """
        @param place: as L{status_port} takes it.
        @param sockets: those of this process, where its new version is to inherit the place;
            L{None} where it has to wait for it.
        @raise ConfigurationError: there is no such place, or strangers could come there.
        """
        self.status = status
        self.waits = False
        self._reactor = reactor
        self._place = place
        self._sockets = sockets
        self._is_inherited = False
        self._port: StatusPort | None = status_port(reactor, place)
        self._listening: IListeningPort | None = None
        self._retry: IDelayedCall | None = None
        self._told = False
        self._directory: str | None = None

    def be_parent(self) -> None:
        """
        Make what the workers need that are about to be forked: where the place is no path, a
        directory for the sockets at which they tell the first of themselves.
        """
        if self._port is not None and self._port.audience is not Audience.OWNER:
            self._directory = tempfile.mkdtemp(prefix="bioconn-")

    def childless(self) -> None:
        """The workers have ended: remove what was made for them."""
        directory, self._directory = self._directory, None
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)

    def be_worker(self, index: int) -> None:
        """
        Be the status of one of several processes: the first has the place itself and tells of all;
        each of the others has a socket beside it, where it tells of itself.

        A worker that takes another's place begins before that has left.

        @param index: from 0 up.
        """
        self.status.worker = index
        self.waits = True
        if index:
            self._port = self._beside(str(index))
        else:
            # One process alone has no use for what that takes.
            from twisted_bioconn.server.fellows import Fellows

            self.status.fellows = Fellows(self._reactor, self._prefix())

    def account_for(self, listeners: Iterable[Listener]) -> None:
        """
        Put down what becomes of the connections of ports, from when they are opened.  One that has
        the name of an earlier one goes on with its counts.
        """
        for listener in listeners:
            if isinstance(listener.endpoint, ServerEndpoint):
                account = self.status.ledger.account(listener.name, listener.target)
                listener.endpoint.observer = account
                traces = self.status.ledger.failure_traces
                if traces is not None and listener.endpoint.tracer is None:
                    listener.endpoint.tracer = traces.tracer

    def opened(self, listener: Listener, port: IListeningPort) -> None:
        """A port is open: its address is known."""
        account = self.status.ledger.account(listener.name, listener.target)
        account.address = address_text(port.getHost())
        account.port = port

    def take_over(self) -> None:
        """The process before has let go of the place."""
        inherited, self._is_inherited = self._is_inherited, False
        if inherited and self._listening is not None:
            cast(Any, self._listening).startReading()

    def step_aside(self, left: Iterable[Any] = ()) -> Deferred[None]:
        """
        Leave the place to another process, which serves from now on.  With a path there is another
        one for this: the same, and the number of this process behind it.

        @param left: the ports whose sockets that one has.
        """
        if not self.running:
            return succeed(None)
        self._sockets = None
        if self._listening in left:
            leave(self._listening)
            self._listening = None
        self.status.fellows = None
        self._port = self._beside(str(os.getpid()))
        self._told = False
        self.waits = False
        return self._close().addCallback(lambda _: self._listen_quietly())

    def startService(self) -> None:
        """
        @raise ConfigurationError: the place cannot be had.
        """
        self._listen()
        super().startService()  # type: ignore[no-untyped-call]

    def stopService(self) -> Deferred[None]:
        """
        @return: fires when the place is free.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        return self._close()

    def _prefix(self) -> str:
        """How the paths of the sockets beside the place begin; nothing where there are none."""
        port = self._port
        if port is not None and port.audience is Audience.OWNER:
            return f"{port.words}."
        return "" if self._directory is None else os.path.join(self._directory, "")

    def _beside(self, suffix: str) -> StatusPort | None:
        prefix = self._prefix()
        return status_port(self._reactor, prefix + suffix) if prefix else None

    def _listen(self) -> None:
        port, self._retry = self._port, None
        if port is None:
            return
        failures: list[Failure] = []
        site = StatusSite(self.status, port.audience)
        listening = self._listen_at(port, site)
        listening.addCallbacks(self._listens, failures.append)
        if not failures:
            self._log.info("status: {place}", place=port.words)
            return
        reason = why_not(cast(BaseException, failures[0].value))
        if not self.waits:
            raise ConfigurationError(f"status={masked(self._place)}: {reason}")
        if not self._told:
            self._told = True
            self._log.info("status: waiting for {place}: {reason}", place=port.words, reason=reason)
        self._retry = self._reactor.callLater(INTERVAL, self._listen)

    def _listen_at(self, port: StatusPort, site: StatusSite) -> Deferred[IListeningPort]:
        sockets, endpoint = self._sockets, port.endpoint
        if sockets is None:
            return maybeDeferred(endpoint.listen, site)
        if port.audience is Audience.OWNER and sockets.holds(Asked("unix", port.words, 0)):
            # The process before listens there, and that is as it should be.
            endpoint = UNIXServerEndpoint(self._reactor, port.words, mode=SOCKET_MODE)
        before = sockets.adopted
        with sockets.used_by(self._reactor):
            listening = maybeDeferred(endpoint.listen, site)
        self._is_inherited = sockets.adopted != before
        return listening

    def _listen_quietly(self) -> None:
        """Where it cannot be had any more, nothing depends on it."""
        if not self.running:
            return
        try:
            self._listen()
        except ConfigurationError as error:
            self._log.warn("{error}", error=error)

    def _listens(self, listening: IListeningPort) -> None:
        self._listening = listening
        if self._is_inherited:
            # Until this one serves, the other one says how things are.
            cast(Any, listening).stopReading()

    def _close(self) -> Deferred[None]:
        retry, self._retry = self._retry, None
        if retry is not None:
            retry.cancel()
        listening, self._listening = self._listening, None
        if listening is None:
            return succeed(None)
        return maybeDeferred(listening.stopListening).addCallback(lambda _: None)
