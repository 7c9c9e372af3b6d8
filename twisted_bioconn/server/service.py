"""
The service of C{twistd bioconn}.

All ports are open before anything else starts, or none is. How the process ends: with exit status 1
and a line on stderr where a port could not be opened, with 0 after SIGTERM. (A daemon's first
process reports that line and has that status; the status of the daemon itself nobody sees.)
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any, TextIO, cast

from attrs import frozen
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Site

from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.options import WSGI, Custom, Echo, Forward, Options, Target, Web
from twisted_bioconn.server.relay import RelayFactory, address_text
from twisted_bioconn.server.sites import (
    EchoFactory,
    WSGISite,
    WSGIThreads,
    describe,
    static_site,
)

__all__ = ["Front", "Listener", "Options", "StartFailed", "makeService"]


@frozen
class Listener:
    """
    A port to open.

    @ivar name: what the user calls it.
    @ivar endpoint: where it is.
    @ivar factory: what a client of it gets.
    """

    name: str
    endpoint: IStreamServerEndpoint
    factory: IProtocolFactory


class StartFailed(Exception, SystemExit):
    """
    A port could not be opened, and the reason was said.

    twistd expects an C{Exception}, for which it removes its pid file and which it reports from a
    daemon to the terminal; and Python ends with a traceback unless it is a C{SystemExit}.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.code = 1


class Front(MultiService):
    """
    Opens ports, all or none, and closes them.

    @ivar ports: those that are open.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        listeners: Iterable[Listener],
        lines: Iterable[str] = (),
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        """
        @param lines: what to tell the user when all ports are open.
        @param stdout: where to tell it; L{None} to have it in the log alone.
        @param stderr: where to say why the start failed; L{None} to have it in the log alone.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._reactor = reactor
        self._listeners = tuple(listeners)
        self._lines = tuple(lines)
        self._stdout = stdout
        self._stderr = stderr
        self._opening: list[Deferred[None]] = []
        self._failure: str | None = None
        self._begun = False
        self._stopping = False
        self.ports: list[IListeningPort] = []

    def privilegedStartService(self) -> None:
        """
        Open the ports, while those below 1024 may still be opened.

        @raise StartFailed: one cannot be opened; the others are closed again.
        """
        self._begun = True
        for listener in self._listeners:
            self._opening.append(self._open(listener))
            if self._failure is not None:
                self._close_at_once()
                self._say_failure()
                raise StartFailed(self._failure)
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """
        @raise StartFailed: a port cannot be opened.
        """
        # What runs this service need not know of privileges.
        if not self._begun:
            self.privilegedStartService()
        self._begun = False
        super().startService()  # type: ignore[no-untyped-call]
        self._reactor.callWhenRunning(self._handle_sigterm)
        DeferredList(self._opening).addCallback(self._all_open)

    def stopService(self) -> Deferred[None]:
        """
        Close the ports.

        @return: fires when they are closed and all else has stopped.
        """
        self._stopping = True
        waiting = [super().stopService(), *self._close()]  # type: ignore[no-untyped-call]
        return DeferredList(waiting).addCallback(lambda _: None)

    def _open(self, listener: Listener) -> Deferred[None]:
        """
        Open one port. Most endpoints have done it, or have failed, when this returns.
        """

        def opened(port: IListeningPort) -> None:
            self.ports.append(port)
            self._log.info(
                "{name}: listening on {address}",
                name=listener.name,
                address=address_text(port.getHost()),
            )

        def failed(failure: Failure) -> None:
            if self._failure is None and not self._stopping:
                self._failure = f"{listener.name}: {_why_not(cast(BaseException, failure.value))}"

        opening = maybeDeferred(listener.endpoint.listen, listener.factory)
        return opening.addCallbacks(opened, failed)

    def _all_open(self, _: object) -> None:
        if self._failure is not None:
            self._fail_late()
        elif not self._stopping:
            for line in self._lines:
                if self._stdout is None:
                    self._log.info("{line}", line=line)
                else:
                    print(line, file=self._stdout, flush=True)

    def _close(self) -> list[Deferred[Any]]:
        for opening in self._opening:
            opening.cancel()
        ports, self.ports = self.ports, []
        return [maybeDeferred(port.stopListening) for port in ports]

    def _close_at_once(self) -> None:
        """
        Close the ports before there is a reactor running: it takes them a turn of it. Otherwise
        sockets in the file system would stay there.
        """
        closing = self._close()
        for _ in range(10):
            if all(done.called for done in closing):
                break
            self._reactor.iterate(0)

    def _say_failure(self) -> None:
        # Not critical: as long as there is no log yet, Twisted writes that to stderr, as we do.
        self._log.error("bioconn: {reason}", reason=self._failure)
        if self._stderr is not None:
            print(f"bioconn: {self._failure}", file=self._stderr, flush=True)

    def _fail_late(self) -> None:
        """
        A port could not be opened, and that took so long that all else is running.
        """
        self._say_failure()
        # twistd has no exit status for this: where it has nothing more to do, the status is 0.
        atexit.register(_exit_with_failure)
        self._stop()

    def _handle_sigterm(self) -> None:
        """
        End with status 0 on SIGTERM: it is how a service is told to stop. Twisted would end the
        process by that same signal, after all is done.
        """
        ours = getattr(self._reactor, "sigTerm", None)
        if ours is not None and signal.getsignal(signal.SIGTERM) == ours:
            signal.signal(signal.SIGTERM, self._sigterm)

    def _sigterm(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._stop)

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._log.info("Shutting down.")
            self._reactor.stop()


def _exit_with_failure() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _why_not(error: BaseException) -> str:
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


def makeService(options: Options) -> Front:
    """
    Make the service that a command line asks for.

    @raise SystemExit: the certificate for development cannot be had.
    """
    from twisted.internet import reactor

    services: list[IService] = []
    listeners = []
    for pair in options.pairs:
        assert pair.listen.endpoint is not None
        name = f"--listen {pair.listen.text}"
        factory = _factory(pair.target, services)
        listeners.append(Listener(name, pair.listen.endpoint, factory))
    parent: Any = options.parent or {}
    foreground = bool(parent.get("nodaemon", True))
    front = Front(
        reactor,
        listeners,
        [],
        sys.__stdout__ if foreground else None,
        sys.__stderr__ if foreground else None,
    )
    for service in services:
        service.setServiceParent(front)  # type: ignore[no-untyped-call]
    return front


def _factory(target: Target, services: list[IService]) -> IProtocolFactory:
    """
    What the clients get. The services that it needs are added to C{services}.
    """
    from twisted.internet import reactor

    match target:
        case Forward():
            return RelayFactory(
                target.endpoint, target.description, cast(Any, reactor), target.connect_timeout
            )
        case Web():
            return static_site(target.directory)
        case WSGI():
            threads = WSGIThreads(cast(Any, reactor))
            services.append(threads)
            resource = WSGISite(cast(Any, reactor), threads.pool, target.application)
            return Site(resource)  # type: ignore[no-untyped-call]
        case Custom():
            return target.factory
        case Echo():
            return EchoFactory()
