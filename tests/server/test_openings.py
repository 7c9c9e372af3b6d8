"""The ports of a process, and what they have accepted."""

from __future__ import annotations

import socket
from typing import Any, cast

from twisted.internet import reactor as installed
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.socket_material import is_kept_alive
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.adoption import Sockets
from twisted_bioconn.server.openings import Accepted, Listener, Openings, why_not

reactor: Any = installed


class AcceptedTests(SynchronousTestCase):
    """Which connections are open."""

    def test_count(self) -> None:
        class Transport:
            connected = True

        class Port:
            transport = Transport

        port = Port()
        accepted = Accepted()
        accepted.watch(port)
        first, second = port.transport(), port.transport()
        self.assertEqual((accepted.are_open, accepted.count), (True, 2))
        first.connected = False
        self.assertEqual((accepted.are_open, accepted.count), (True, 1))
        second.connected = False
        self.assertEqual((accepted.are_open, accepted.count), (False, 0))

    def test_port_of_another_kind(self) -> None:
        accepted = Accepted()
        accepted.watch(object())
        self.assertFalse(accepted.are_open)

    def test_openings(self) -> None:
        """Those of ports that were closed count as long as they last."""
        openings = Openings(MemoryReactor(), Sockets())

        class Transport:
            connected = True

        open_one, closed_one = Accepted(), Accepted()
        openings._accepted = [open_one, closed_one]
        last = Transport()
        closed_one._transports.add(last)
        self.assertTrue(openings.are_in_use)
        self.assertEqual(openings.count, 1)
        last.connected = False
        self.assertFalse(openings.are_in_use)
        self.assertEqual(openings._accepted, [])

    def test_forgotten(self) -> None:
        """However often a port is opened anew, nothing is left of those that nobody uses."""
        openings = Openings(MemoryReactor(), Sockets())

        class Transport:
            connected = True

        class Port:
            transport = Transport

            def getHost(self) -> IPv4Address:
                return IPv4Address("TCP", "127.0.0.1", 8443)

            def stopListening(self) -> None:
                """It is closed."""

        class Endpoint:
            def listen(self, factory: IProtocolFactory) -> Deferred[Port]:
                return succeed(Port())

        listener = Listener("it", cast(IStreamServerEndpoint, Endpoint()), Factory())
        with_client = self.successResultOf(openings.listen(listener))
        client = with_client.port.transport()
        self.successResultOf(openings.close(with_client))
        for _ in range(5):
            opening = self.successResultOf(openings.listen(listener))
            self.successResultOf(openings.close(opening))
        # The last one, and the one that has a client.
        self.assertEqual(len(openings._accepted), 2)
        self.assertEqual(openings.count, 1)
        client.connected = False
        self.successResultOf(openings.listen(listener))
        self.assertEqual(len(openings._accepted), 1)


class KeepaliveTests(TestCase):
    """Clients that vanish without a word."""

    async def test_accepted(self) -> None:
        """Each that is accepted is asked now and then whether it is there."""
        accepted: list[socket.socket] = []

        class Server(Protocol):
            transport: Any

            def connectionMade(self) -> None:
                accepted.append(self.transport.getHandle())

        openings = Openings(reactor, Sockets())
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        opening = await openings.listen(Listener("it", endpoint, Factory.forProtocol(Server)))
        with socket.create_connection(("127.0.0.1", opening.port.getHost().port)):
            end = reactor.seconds() + 100
            while not accepted and reactor.seconds() < end:
                await deferLater(reactor, 0.01)
            [end_of_ours] = accepted
            self.assertTrue(is_kept_alive(self, end_of_ours))
        await openings.close(opening)
        while openings.count and reactor.seconds() < end:
            await deferLater(reactor, 0.01)


class ReasonTests(SynchronousTestCase):
    """Why a port cannot be opened."""

    def test_reasons(self) -> None:
        taken = OSError(98, "Address already in use")
        for error, reason in (
            (CannotListenError("", 80, taken), "Address already in use"),
            (taken, "Address already in use"),
            (ConfigurationError("key.pem is damaged"), "key.pem is damaged"),
            (RuntimeError("so\nit is"), "RuntimeError: so it is"),
        ):
            self.assertEqual(why_not(error), reason)
