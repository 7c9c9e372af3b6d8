"""
What C{twistd bioconn} is asked for on its command line, made into a service.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.interfaces import IProtocolFactory
from twisted.web.server import Site

from twisted_bioconn.certificates.development import (
    LOCAL_NAMES,
    DevelopmentAuthority,
    state_directory,
)
from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.certificates.revocation import policy_of
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.endpoints import ServerEndpoint
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.port_options import Route
from twisted_bioconn.server._mistakes import masked
from twisted_bioconn.server.addresses import parse, server_endpoint
from twisted_bioconn.server.ending_site import EndingSite
from twisted_bioconn.server.front import Front, Listener, StartFailed
from twisted_bioconn.server.holdings import HOLDINGS
from twisted_bioconn.server.inspection import Report, Shown, explain, inspect, show
from twisted_bioconn.server.options import Options
from twisted_bioconn.server.relay import RelayFactory
from twisted_bioconn.server.reloading import Proposal
from twisted_bioconn.server.renewal import Renewal
from twisted_bioconn.server.secrecy import dump_no_core
from twisted_bioconn.server.sites import (
    EchoFactory,
    WSGISite,
    WSGIThreads,
    negotiated_of,
    static_site,
)
from twisted_bioconn.server.targets import (
    WSGI,
    Custom,
    Echo,
    Forward,
    Pair,
    RouteTarget,
    Target,
    Web,
)

if TYPE_CHECKING:
    from twisted_bioconn.server.workers import Workers

__all__ = ["Front", "Listener", "Options", "StartFailed", "makeService"]

#: What is served with no option at all, by its name and its endpoints.
PAGE = "https://localhost:8443/"
PAGE_ENDPOINTS = ("bioconn:8443:interface=127.0.0.1", r"bioconn:8443:interface=\:\:1")


def makeService(options: Options) -> Front:
    """
    Make the service that a command line asks for.

    @raise SystemExit: the certificate for development cannot be had; or it asks for no service but
        for what one would serve, which is printed.
    """
    from twisted.internet import reactor

    try:
        workers = _workers(reactor, options["workers"])
        listeners, services = _Making(reactor, options.pairs, options["state"]).everything()
    except ConfigurationError as error:
        raise SystemExit(f"bioconn: {masked(str(error))}") from None
    reports: list[Callable[[Sequence[Shown], datetime], Report]] = []
    if options["show-certificates"]:
        reports.append(show)
    if options["explain"] is not None:
        reports.append(partial(explain, options["explain"]))
    if reports:
        shown = [
            Shown(
                each.name,
                each.target,
                each.options,
                each.until_renewal,
                routes=each.endpoint.routes if isinstance(each.endpoint, ServerEndpoint) else (),
            )
            for each in listeners
        ]
        raise SystemExit(inspect(reactor, shown, reports, sys.stdout))
    dump_no_core()
    # Only twistd knows daemons; what is not one has a terminal, or what stands in for it. Both are
    # asked for by their lasting names: the others may be the log's by now.
    parent: Any = options.parent or {}
    foreground = bool(parent.get("nodaemon", True))
    make: Callable[..., Front] = Front
    if options["status"] is not None:
        # What tells the status takes twisted.web and prometheus-client.
        from twisted_bioconn.server.observed_front import ObservedFront

        make = partial(
            ObservedFront,
            options["status"],
            trace_failures=options.configuration.trace_failures,
        )
    try:
        front = make(
            reactor,
            listeners,
            sys.__stdout__ if foreground else None,
            sys.__stderr__ if foreground else None,
            workers,
            drain=options["drain"],
            twistd=options.parent,
        )
    except ConfigurationError as error:
        raise SystemExit(f"bioconn: {masked(str(error))}") from None
    HOLDINGS.most = options["max-buffered"]
    if options["config"] is not None:
        front.reconfigure = partial(_reread, reactor, options, front)
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


def _reread(reactor: Any, options: Options, front: Front) -> Proposal:
    """
    What the configuration file asks for now, as against what is in force.

    @raise ConfigurationError: something is wrong in it.
    """
    configuration, pairs = options.reread()
    listeners, _ = _Making(reactor, pairs, configuration.state).everything()

    def adopt() -> None:
        options.configuration = configuration
        front.drain = configuration.drain
        HOLDINGS.most = configuration.max_buffered

    return Proposal(listeners, options.configuration.differences(configuration), adopt)


class _Making:
    """
    The parts of a service, in the making.
    """

    def __init__(self, reactor: Any, pairs: Sequence[Pair], state: str | None) -> None:
        """
        @param state: the directory of the development authority, as the user gave it.
        """
        self._reactor = reactor
        self._pairs = pairs
        self._given_state = state
        self._authority: DevelopmentAuthority | None = None
        self._renewal: IService | None = None
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
        self._renewal = Renewal(self._authority, self._use, self._reactor, names)
        self._services.append(self._renewal)

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
        name = pair.listen.name
        known = len(self._services)
        factory = self._factory(pair.target)
        routes = [(each, self._factory(each.target)) for each in pair.routes]
        services = tuple(self._services[known:])
        if isinstance(pair.listen.endpoint, ServerEndpoint):
            _route(pair.listen.endpoint, routes)
        if pair.listen.endpoint is not None:
            return Listener(
                name,
                pair.listen.endpoint,
                factory,
                target=pair.words,
                key=pair.key,
                services=services,
            )
        description = pair.listen.description
        try:
            endpoint = self._development_endpoint(description)
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from error
        _route(endpoint, routes)
        self._served += endpoint.all_options[1:]
        address = parse(description)[1].get("interface", "")
        host = address if _is_visited(address) else "localhost"
        assert self._authority is not None
        assert self._renewal is not None
        return Listener(
            name,
            endpoint,
            factory,
            self._visit(host, isinstance(factory, Site)),
            pair.words,
            self._authority.seconds_until_renewal,
            f"{pair.key} {self._authority.directory}",
            (*services, self._renewal),
        )

    def _page(self, descriptions: Iterable[str]) -> list[Listener]:
        """
        With no option: the page, on this machine's own addresses.
        """
        # What draws handshakes takes a while to import, and few servers have this page.
        from twisted_bioconn.server.handshakes import Handshakes, PageSite
        from twisted_bioconn.server.page import NegotiationPage

        assert self._authority is not None
        handshakes = Handshakes(self._reactor)
        page = NegotiationPage(
            negotiated_of, self._authority.certificate_path, handshakes=handshakes
        )
        site = PageSite(page, handshakes)
        endpoints = [self._development_endpoint(description) for description in descriptions]
        for endpoint in endpoints:
            endpoint.tracer = handshakes.tracer
        # Said once, not for each address.
        visits = [self._visit("localhost", True), None]
        return [
            Listener(
                PAGE,
                endpoint,
                site,
                visit,
                "the page that shows what was negotiated",
                self._authority.seconds_until_renewal,
            )
            for endpoint, visit in zip(endpoints, visits, strict=False)
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
                    target.endpoint if target.back_ends is None else target.back_ends,
                    target.description,
                    self._reactor,
                    target.connect_timeout,
                )
            case Web():
                return static_site(target.directory)
            case WSGI():
                threads = WSGIThreads(self._reactor)
                self._services.append(threads)
                resource = WSGISite(self._reactor, threads.pool, target.application)
                return EndingSite(resource)
            case Custom():
                return target.factory
            case Echo():
                return EchoFactory()


def _route(
    endpoint: ServerEndpoint, routes: Iterable[tuple[RouteTarget, IProtocolFactory]]
) -> None:
    """Have some of the clients of a port go somewhere else."""
    made = []
    for target, factory in routes:
        options, clients, rules = None, target.clients, None
        if target.passes_through:
            rules = None if clients is None else policy_of(clients).rules
        elif clients is not None:
            options = endpoint.options.for_clients(clients)
        made.append(
            Route(
                factory=factory,
                names=target.names,
                alpn=[name.encode() for name in target.alpn],
                passes_through=target.passes_through,
                options=options,
                rules=rules,
            )
        )
    endpoint.routes = tuple(made)


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
