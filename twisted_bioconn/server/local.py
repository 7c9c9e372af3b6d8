"""Back ends on this machine, connected to with no detour."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from twisted_bioconn._tcp import connect_at_once

#: For how long an address that a name stood for is taken to be still that, in seconds.
REMEMBERED = 5.0


def is_local(host: str) -> bool:
    """
    Is this C{localhost}, or an address that never leaves the machine (RFC 1122, section 3.2.1.3;
    RFC 4291, section 2.5.3)?
    """
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def without_port(host: str) -> str:
    """The name or address in a C{Host} header, in small letters."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


@implementer(IStreamClientEndpoint)
class LocalEndpoint:
    """
    Another endpoint, whose way to a loopback address is shorter: the kernel connects to that before
    the call returns, so that there is nothing to wait for.

    Whatever does not come about in this way, an error included, is left to the other endpoint; so
    is looking up names, whose addresses are then remembered for some seconds.
    """

    def __init__(self, reactor: Any, endpoint: IStreamClientEndpoint, host: str, port: int) -> None:
        """
        @param reactor: our own (L{twisted_bioconn._epoll}).
        @param endpoint: connects to C{host} and C{port}.
        """
        self._reactor = reactor
        self._endpoint = endpoint
        self._port = port
        self._is_name = not _is_loopback(host)
        self._address = host
        self._until = 0.0

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        @see: L{IStreamClientEndpoint.connect}
        """
        try:
            protocol = self.connect_at_once(protocolFactory)
        except Exception:
            return fail()
        if protocol is not None:
            return succeed(protocol)
        connecting: Deferred[IProtocol] = self._endpoint.connect(protocolFactory)
        return connecting.addCallback(self._remember) if self._is_name else connecting

    def connect_at_once(self, protocolFactory: IProtocolFactory) -> IProtocol | None:
        """
        Connect, if it needs no waiting.

        @return: the protocol, connected; otherwise L{None}, and C{connect} can say more.
        """
        if self._is_name and self._reactor.seconds() >= self._until:
            return None
        protocol = connect_at_once(
            self._reactor, self._address, self._port, protocolFactory.buildProtocol
        )
        if protocol is None:
            self._until = 0.0
        return protocol

    def _remember(self, protocol: IProtocol) -> IProtocol:
        transport = getattr(protocol, "transport", None)
        host = getattr(transport.getPeer(), "host", "") if transport is not None else ""
        if _is_loopback(host):
            self._address = host
            self._until = self._reactor.seconds() + REMEMBERED
        return protocol


def _is_loopback(host: str) -> bool:
    return host.lower() != "localhost" and is_local(host)
