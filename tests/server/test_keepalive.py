"""The kernel asks whether a back end is still there."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.socket_material import is_kept_alive
from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.certificates.loading import load_authorities
from twisted_bioconn.context import ClientOptions, ServerOptions
from twisted_bioconn.endpoints import ClientEndpoint, ServerEndpoint
from twisted_bioconn.server import keepalive, relay
from twisted_bioconn.server.keepalive import keep_alive, keep_outgoing_alive
from twisted_bioconn.server.relay import RelayFactory

reactor: Any = installed


class OutgoingTests(TestCase):
    """Connections to back ends, with and without TLS."""

    def setUp(self) -> None:
        self.made: list[Any] = []
        made = DevelopmentAuthority(self.mktemp())
        self.certificate = made.issue()
        self.authorities = load_authorities(made.certificate_path)
        with open(made.certificate_path, "rb") as file:
            self.authority = file.read()

    def be_far(self) -> None:
        """Have 127.0.0.1 be taken for an address of another machine."""
        self.patch(keepalive, "is_local", lambda host: False)

    async def listen(self, endpoint: IStreamServerEndpoint, tls: bool = False) -> Any:
        if tls:
            endpoint = ServerEndpoint(endpoint, ServerOptions(self.certificate))
        port: Any = await endpoint.listen(Factory.forProtocol(Protocol))
        self.addCleanup(port.stopListening)
        return port

    async def back_end(self, tls: bool = False) -> IStreamClientEndpoint:
        port = await self.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), tls)
        return TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)

    async def connected(self, endpoint: IStreamClientEndpoint) -> Any:
        """The transport of a connection."""
        protocol: Any = await endpoint.connect(Factory.forProtocol(Protocol))
        self.addCleanup(protocol.transport.abortConnection)
        return protocol.transport

    async def test_plain(self) -> None:
        """The one of TCP is asked."""
        self.be_far()
        transport = await self.connected(await self.back_end())
        self.assertFalse(is_kept_alive(self, transport.getHandle()))
        keep_outgoing_alive(transport)
        self.assertTrue(is_kept_alive(self, transport.getHandle()))

    async def test_below_tls(self) -> None:
        """Whoever speaks the TLS: we, or Twisted."""
        self.be_far()
        options = ClientOptions("localhost", trust_roots=self.authorities)
        theirs = optionsForClientTLS(
            "localhost", trustRootFromCertificates([Certificate.loadPEM(self.authority)])
        )
        for wrapped in (
            ClientEndpoint(await self.back_end(tls=True), options, reactor),
            wrapClientTLS(theirs, await self.back_end(tls=True)),
        ):
            transport = await self.connected(wrapped)
            keep_outgoing_alive(transport)
            self.assertTrue(is_kept_alive(self, transport.transport.getHandle()))

    async def test_near(self) -> None:
        """Between us and one on this machine there is nothing that could be cut."""
        transport = await self.connected(await self.back_end())
        keep_outgoing_alive(transport)
        self.assertFalse(is_kept_alive(self, transport.getHandle()))

    async def test_file_system(self) -> None:
        """Nor is there to a socket in the file system, however it is called."""
        self.be_far()
        # A socket's path has 107 bytes at most.
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        path = os.path.join(directory, "s")
        await self.listen(UNIXServerEndpoint(reactor, path))
        transport = await self.connected(UNIXClientEndpoint(reactor, path))
        keep_outgoing_alive(transport)
        keep_alive(transport.getHandle())
        self.assertFalse(is_kept_alive(self, transport.getHandle()))

    async def test_relay(self) -> None:
        """It is what the relay does with each."""
        self.be_far()

        def keep(transport: Any) -> None:
            keep_outgoing_alive(transport)
            self.made.append(transport)

        self.patch(relay, "keep_outgoing_alive", keep)
        factory = RelayFactory(await self.back_end(), "it", reactor)
        port: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        await self.connected(TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port))
        end = reactor.seconds() + 100
        while not self.made and reactor.seconds() < end:
            await deferLater(reactor, 0.01)
        self.assertTrue(is_kept_alive(self, self.made[0].getHandle()))
