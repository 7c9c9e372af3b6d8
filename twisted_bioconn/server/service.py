"""
The service of C{twistd bioconn}.

All ports are open before anything else starts, or none is. How the process ends: with exit status 1
and a line on stderr where a port could not be opened, with 0 after SIGTERM. (A daemon's first
process reports that line and has that status; the status of the daemon itself nobody sees.)
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import ip_address
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO, cast

from attrs import frozen
from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Site

from twisted_bioconn._transport import address_text
from twisted_bioconn.certificates.development import (
    LOCAL_NAMES,
    DevelopmentAuthority,
    state_directory,
)
from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.endpoints import ServerEndpoint
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.addresses import parse, server_endpoint
from twisted_bioconn.server.options import (
    WSGI,
    Custom,
    Echo,
    Forward,
    Options,
    Pair,
    Target,
    Web,
)
from twisted_bioconn.server.page import NegotiationPage
from twisted_bioconn.server.relay import RelayFactory
from twisted_bioconn.server.renewal import Renewal
from twisted_bioconn.server.sites import (
    EchoFactory,
    WSGISite,
    WSGIThreads,
    describe,
    negotiated_of,
    static_site,
)

if TYPE_CHECKING:
    from twisted_bioconn.server.forked import Worker, WorkerPort
    from twisted_bioconn.server.workers import Workers

__all__ = ["Front", "Listener", "Options", "StartFailed", "makeService"]

#: What is served with no option at all, by its name and its endpoints.
PAGE = "https://localhost:8443/"
PAGE_ENDPOINTS = ("bioconn:8443:interface=127.0.0.1", r"bioconn:8443:interface=\:\:1")


_M_MMAP_THRESHOLD = -3


@frozen
class Listener:
    """
    A port to open.

    @ivar name: what the user calls it.
    @ivar endpoint: where it is.
    @ivar factory: what a client of it gets.
    @ivar visit: given the number of the port that it has, what to tell the user of it.
    """

    name: str
    endpoint: IStreamServerEndpoint
    factory: IProtocolFactory
    visit: Callable[[int], Iterable[str]] | None = None


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

    With workers, this process opens the ports. It forks when the reactor is about to start, after
    all that twistd has to do; what else there is to start is started in the workers alone.

    @ivar ports: those that are open.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        listeners: Iterable[Listener],
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        workers: Workers | None = None,
    ) -> None:
        """
        @param stdout: where to tell the user what to visit; L{None} to have it in the log.
        @param stderr: where to say why the start failed; L{None} to have it in the log alone.
        @param workers: the processes that are to serve; L{None} if it is this one.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._reactor = reactor
        self._listeners = tuple(listeners)
        self._lines: list[str] = []
        self._stdout = stdout
        self._stderr = stderr
        self._opening: list[Deferred[None]] = []
        self._failure: str | None = None
        self._begun = False
        self._stopping = False
        self._workers = workers
        self.ports: list[IListeningPort | WorkerPort] = []

    def privilegedStartService(self) -> None:
        """
        Open the ports, while those below 1024 may still be opened.

        @raise StartFailed: one cannot be opened; the others are closed again.
        """
        self._begun = True
        for listener in self._listeners:
            if self._workers is not None:
                self._workers.hold(listener.factory)
            self._opening.append(self._open(listener))
            if self._workers is not None and not self._opening[-1].called:
                self._failure = f"{listener.name}: it opens too late for --workers to share it"
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
        if self._workers is not None and self._reactor.running:
            raise StartFailed("--workers has come too late: the reactor is running")
        if self._workers is None:
            super().startService()  # type: ignore[no-untyped-call]
        else:
            Service.startService(self)
            self._reactor.addSystemEventTrigger("before", "startup", self._fork, self._workers)
        self._reactor.callWhenRunning(self._settle)
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
            if self._workers is not None:
                self._workers.share(port)
            self._log.info(
                "{name}: listening on {address}",
                name=listener.name,
                address=address_text(port.getHost()),
            )
            number = getattr(port.getHost(), "port", None)
            if listener.visit is not None and number is not None:
                self._lines += listener.visit(number)

        def failed(failure: Failure) -> None:
            if self._failure is None and not self._stopping:
                self._failure = f"{listener.name}: {_why_not(cast(BaseException, failure.value))}"

        opening = maybeDeferred(listener.endpoint.listen, listener.factory)
        return opening.addCallback(opened).addErrback(failed)

    def _fork(self, workers: Workers) -> Deferred[None] | None:
        """
        Become a worker, or the parent of all until they have ended.

        @return: in a worker nothing. In the parent what never fires, so that its reactor ends
            without having run, and twistd does what it does at the end.
        """
        worker = workers.run()
        if worker is not None:
            try:
                self._serve(workers, worker)
            except BaseException as error:
                # The reactor would start without what is missing.
                worker.fail(describe(error))
            return None
        if workers.failed:
            self._failure = workers.failed
            self._say_failure()
            atexit.register(_exit_with_failure)
        self._reactor.crash()
        return Deferred()

    def _serve(self, workers: Workers, worker: Worker) -> None:
        """
        Start, in a worker, all that is to run there.
        """
        self.ports = list(workers.ports)
        workers.start_factories()
        worker.link.parent_gone = self._stop
        for service in self.services:
            if isinstance(service, Renewal):
                service.load()
                service.renewed = worker.link.tell_renewed
                worker.link.renewed = service.load
                if not worker.is_steward:
                    continue
            service.startService()
        # After all others, also those that are added to this event from now on.
        self._reactor.addSystemEventTrigger(
            "during",
            "shutdown",
            self._reactor.addSystemEventTrigger,
            "after",
            "shutdown",
            worker.end,
        )

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

    def _settle(self) -> None:
        """
        Where the process is run for this service: end with status 0 on SIGTERM, which is how a
        service is told to stop (Twisted would end the process by that same signal, after all is
        done); and have the collector, which stops everything else, look at what came later alone.
        """
        ours = getattr(self._reactor, "sigTerm", None)
        if ours is not None and signal.getsignal(signal.SIGTERM) == ours:
            signal.signal(signal.SIGTERM, self._sigterm)
            gc.collect()
            gc.freeze()
            _give_back_large_blocks()

    def _sigterm(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._stop)

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._log.info("Shutting down.")
            self._reactor.stop()


def _give_back_large_blocks() -> None:
    """
    Have glibc give back to the system what bulk has taken, when it is freed.

    By itself it takes ever larger blocks out of the heap (mallopt(3), M_MMAP_THRESHOLD), where what
    was freed stays the process's as long as anything lies above it.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


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

    try:
        workers = _workers(reactor, options["workers"])
        listeners, services = _Making(reactor, options).everything()
    except ConfigurationError as error:
        raise SystemExit(f"bioconn: {error}") from None
    # Only twistd knows daemons; what is not one has a terminal, or what stands in for it. Both are
    # asked for by their lasting names: the others may be the log's by now.
    parent: Any = options.parent or {}
    foreground = bool(parent.get("nodaemon", True))
    front = Front(
        reactor,
        listeners,
        sys.__stdout__ if foreground else None,
        sys.__stderr__ if foreground else None,
        workers,
    )
    for service in services:
        service.setServiceParent(front)
    return front


def _workers(reactor: Any, count: int) -> Workers | None:
    """
    The processes that are to serve, where this one shall not by itself.

    @raise ConfigurationError: there cannot be any.
    """
    if count == 1:
        return None
    # It needs more than every system has.
    from twisted_bioconn.server.workers import Workers

    return Workers(reactor, count)


class _Making:
    """
    The parts of a service, in the making.
    """

    def __init__(self, reactor: Any, options: Options) -> None:
        self._reactor = reactor
        self._pairs = options.pairs
        self._given_state: str | None = options["state"]
        self._authority: DevelopmentAuthority | None = None
        self._served: list[ServerOptions] = []
        self._services: list[IService] = []

    def everything(self) -> tuple[list[Listener], list[IService]]:
        """
        The ports to open, and the services beside them.

        @raise ConfigurationError: an endpoint, or its certificate for development, is not to be
            had.
        """
        short = [pair.listen.description for pair in self._pairs if pair.listen.endpoint is None]
        if not self._pairs:
            short = list(PAGE_ENDPOINTS if _has_ipv6() else PAGE_ENDPOINTS[:1])
        if short:
            self._certify(short)
        if self._pairs:
            listeners = [self._listener(pair) for pair in self._pairs]
        else:
            listeners = self._page(short)
        return listeners, self._services

    def _certify(self, descriptions: Iterable[str]) -> None:
        """
        Get a certificate for development that is good for these endpoints, now and later.
        """
        addresses = [parse(description)[1].get("interface", "") for description in descriptions]
        names = dict.fromkeys([*LOCAL_NAMES, *filter(_is_visited, addresses)])
        self._authority = DevelopmentAuthority(state_directory(self._given_state))
        self._services.append(Renewal(self._authority, self._use, self._reactor, names))

    def _use(self, certificate: CertifiedKey) -> None:
        for options in self._served:
            options.use(certificate)

    def _development_endpoint(self, description: str) -> ServerEndpoint:
        assert self._authority is not None
        leaf = os.path.join(self._authority.directory, "leaf.pem")
        quoted: str = quoteStringArgument(leaf)
        endpoint = server_endpoint(self._reactor, f"{description}:privateKey={quoted}")
        assert isinstance(endpoint, ServerEndpoint)
        self._served.append(endpoint.options)
        return endpoint

    def _listener(self, pair: Pair) -> Listener:
        name = f"--listen {pair.listen.text}"
        factory = self._factory(pair.target)
        if pair.listen.endpoint is not None:
            return Listener(name, pair.listen.endpoint, factory)
        description = pair.listen.description
        try:
            endpoint = self._development_endpoint(description)
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from error
        address = parse(description)[1].get("interface", "")
        host = address if _is_visited(address) else "localhost"
        return Listener(name, endpoint, factory, self._visit(host, isinstance(factory, Site)))

    def _page(self, descriptions: Iterable[str]) -> list[Listener]:
        """
        With no option: the page, on this machine's own addresses.
        """
        assert self._authority is not None
        page = NegotiationPage(negotiated_of, self._authority.certificate_path)
        site = Site(page)
        # Said once, not for each address.
        visits = [self._visit("localhost", True), None]
        return [
            Listener(PAGE, self._development_endpoint(description), site, visit)
            for description, visit in zip(descriptions, visits, strict=False)
        ]

    def _visit(self, host: str, is_site: bool) -> Callable[[int], Iterable[str]]:
        """
        What a visitor has to know of a server with the certificate for development.
        """
        assert self._authority is not None
        trusted = self._authority.certificate_path

        def lines(port: int) -> Iterable[str]:
            at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            if not is_site:
                return [
                    f"The certificate of {at} is for development: clients have to trust {trusted}"
                ]
            command = shlex.join(["curl", "--cacert", trusted, f"https://{at}/"])
            return [
                f"https://{at}/ has a certificate for development. In a terminal:",
                f"    {command}",
                f"A browser takes it when it trusts {trusted}",
            ]

        return lines

    def _factory(self, target: Target) -> IProtocolFactory:
        """
        What the clients of a port get.
        """
        match target:
            case Forward():
                return RelayFactory(
                    target.endpoint, target.description, self._reactor, target.connect_timeout
                )
            case Web():
                return static_site(target.directory)
            case WSGI():
                threads = WSGIThreads(self._reactor)
                self._services.append(threads)
                resource = WSGISite(self._reactor, threads.pool, target.application)
                return Site(resource)
            case Custom():
                return target.factory
            case Echo():
                return EchoFactory()


def _is_visited(address: str) -> bool:
    """
    Is this an address that a client would ask for, where C{localhost} is not it?
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return not (parsed.is_loopback or parsed.is_unspecified)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
