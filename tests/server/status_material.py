"""A status site in memory, and what there is to be told by it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import attrs
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IAddress, ISSLTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from tests.server.test_facts import NOW
from twisted_bioconn.certificates.source import CertificateFacts, CertificateSource, Found
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.hello import ClientHello
from twisted_bioconn.negotiated import Negotiated
from twisted_bioconn.server.drain import State
from twisted_bioconn.server.ledger import Ledger
from twisted_bioconn.server.status import Status, StatusSite
from twisted_bioconn.server.status_ports import Audience

HERE = IPv4Address("TCP", "127.0.0.1", 9090)
PEER = IPv4Address("TCP", "127.0.0.1", 54321)


class Source(CertificateSource):
    """Says of certificates what it is told to."""

    def __init__(self, *facts: CertificateFacts) -> None:
        self._facts = facts

    def find(self, hello: ClientHello) -> Found:
        return None

    def facts(self) -> Sequence[CertificateFacts]:
        return self._facts


@attrs.define(eq=False)
class Options:
    """As much of a port's options as is asked for."""

    source: CertificateSource
    trust: None = None


def having(*facts: CertificateFacts) -> ServerOptions:
    """The options of a port that has these certificates."""
    return cast(ServerOptions, Options(Source(*facts)))


@attrs.frozen
class Answer:
    """What came back."""

    code: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def told(self) -> Any:
        """The body's JSON."""
        assert self.headers["content-type"] == "application/json", self
        return json.loads(self.body)


class StatusCase(SynchronousTestCase):
    """
    A server's status, with connections in memory and a clock that stands still.

    @ivar status: what there is to tell.
    @ivar state: where the process stands.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        moment = NOW.timestamp()
        self.ledger = Ledger(self.clock, now=lambda: moment + self.clock.seconds())
        self.ledger.logs = False
        self.state = State.SERVING
        self.status = Status(ledger=self.ledger, state=lambda: self.state)

    def ask(
        self,
        path: str,
        method: str = "GET",
        *,
        audience: Audience = Audience.MACHINE,
        host: str | None = "localhost:9090",
        here: IAddress = HERE,
        negotiated: Negotiated | None = None,
        **headers: str,
    ) -> Answer:
        """
        One request.

        @param negotiated: what the TLS of the connection is, where it has any.
        @param headers: others, with underscores for hyphens.
        """
        site = StatusSite(self.status, audience)
        site.reactor = Clock()
        site.startFactory()
        try:
            protocol = site.buildProtocol(PEER)
            assert protocol is not None
            if isinstance(here, UNIXAddress):
                transport = StringTransport(hostAddress=here, peerAddress=UNIXAddress(None))
            else:
                transport = StringTransport(hostAddress=here, peerAddress=PEER)
            if negotiated is not None:
                transport.setTcpNoDelay = lambda on: None  # type: ignore[attr-defined]
                transport.negotiated = negotiated  # type: ignore[attr-defined]
                directlyProvides(transport, ISSLTransport)
            protocol.makeConnection(transport)
            lines = [f"{method} {path} HTTP/1.1", "Connection: close"]
            if host is not None:
                lines.append(f"Host: {host}")
            lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
            protocol.dataReceived("\r\n".join([*lines, "", ""]).encode())
        finally:
            site.stopFactory()
        head, _, body = transport.value().partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        told = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
        return Answer(int(first.split()[1]), told, body)

    def order(self, path: str, **more: Any) -> Answer:
        """Tell it to do something, as the owner of the socket does."""
        usual: dict[str, Any] = {"audience": Audience.OWNER, "here": UNIXAddress("/s")}
        return self.ask(path, "POST", **{**usual, "X_Bioconn_Control": "1", **more})
