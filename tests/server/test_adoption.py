"""Listening sockets that outlive the port that opened them."""

from __future__ import annotations

import os
import socket
from typing import Any
from unittest import skipUnless

from twisted.internet import endpoints, reactor, ssl
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    TCP4ServerEndpoint,
    UNIXServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.server.adoption import AdoptedUNIXPort, Asked, Held, Sockets, inherited, leave
from twisted_bioconn.server.openings import Listener, Openings


class Counted(Factory[Protocol]):
    """Counts how often it was started and stopped."""

    protocol = Protocol
    noisy = False

    def __init__(self) -> None:
        self.running = 0
        self.accepted = 0

    def doStart(self) -> None:
        self.running += 1

    def doStop(self) -> None:
        self.running -= 1

    def buildProtocol(self, addr: object) -> None:
        """Turn it away, which is enough to know that it has come."""
        self.accepted += 1


@skipUnless(hasattr(socket, "AF_UNIX"), "it takes UNIX sockets")
class AdoptionTests(TestCase):
    """Ports of the installed reactor."""

    def setUp(self) -> None:
        self.sockets = Sockets()
        self.openings = Openings(reactor, self.sockets)
        self.factories: list[Counted] = []
        self.addCleanup(lambda: DeferredList(self.openings.close_all()))

    def listen(self, endpoint: Any, openings: Openings | None = None) -> Any:
        self.factories.append(Counted())
        listener = Listener("it", endpoint, self.factories[-1])
        return self.successResultOf((openings or self.openings).listen(listener))

    def tcp(self) -> Any:
        return TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")

    def unix(self, path: str) -> Any:
        return UNIXServerEndpoint(reactor, path, mode=0o600, wantPID=True)

    def path(self) -> str:
        # One in the test's own directory may be too long for a socket.
        path: str = os.path.relpath(self.mktemp())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    async def served_by(self, address: Any, factory: Counted) -> None:
        """Who connects is accepted, by this one."""
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        before = factory.accepted
        with socket.socket(family) as client:
            client.settimeout(100)
            client.connect(address)
            while factory.accepted == before:
                turn: Deferred[None] = Deferred()
                reactor.callLater(0, turn.callback, None)
                await turn

    async def test_lent(self) -> None:
        """The new port has the socket of the old one, which is then closed without it."""
        old = self.listen(self.tcp())
        address = old.port.getHost()
        held = self.sockets.lend(old.port)
        assert held is not None
        new = self.listen(self.tcp())
        self.assertEqual(new.port.getHost(), address)
        self.assertIs(held.taken, new.port)
        await self.openings.close(old, leaving=True)
        self.sockets.take_back(held)
        self.assertEqual([each.running for each in self.factories], [0, 1])
        await self.served_by((address.host, address.port), self.factories[1])
        await self.openings.close(new)
        with socket.socket() as client:
            self.assertRaises(ConnectionRefusedError, client.connect, (address.host, address.port))

    async def test_taken_back(self) -> None:
        """A new port that is not wanted after all takes nothing with it."""
        old = self.listen(self.tcp())
        address = old.port.getHost()
        held = self.sockets.lend(old.port)
        new = self.listen(self.tcp())
        await self.openings.close(new)
        assert held is not None
        self.sockets.take_back(held)
        await self.served_by((address.host, address.port), self.factories[0])
        # And what nobody has taken is not there for the next one.
        self.sockets.take_back(self.sockets.lend(old.port) or Held(Asked("", "", 0), []))
        other = self.listen(self.tcp())
        self.assertNotEqual(other.port.getHost(), address)

    async def test_name_in_the_file_system(self) -> None:
        """It stays, with its mode and its lock, and goes with the last one that has it."""
        path = self.path()
        old = self.listen(self.unix(path))
        inode = os.stat(path).st_ino
        held = self.sockets.lend(old.port)
        assert held is not None
        new = self.listen(self.unix(path))
        self.assertIsInstance(new.port, AdoptedUNIXPort)
        new.port.own(old.port)
        await self.openings.close(old, leaving=True)
        self.sockets.take_back(held)
        found = os.stat(path)
        self.assertEqual((found.st_ino, found.st_mode & 0o777), (inode, 0o600))
        self.assertEqual(os.readlink(path + ".lock"), str(os.getpid()))
        await self.served_by(path, self.factories[1])
        await self.openings.close(new)
        self.assertFalse(os.path.lexists(path))
        self.assertFalse(os.path.lexists(path + ".lock"))

    async def test_name_that_is_not_ours(self) -> None:
        """A new port that is not wanted after all leaves the name to the old one."""
        path = self.path()
        old = self.listen(self.unix(path))
        held = self.sockets.lend(old.port)
        new = self.listen(self.unix(path))
        await self.openings.close(new)
        assert held is not None
        self.sockets.take_back(held)
        await self.served_by(path, self.factories[0])

    async def test_inherited(self) -> None:
        """As from another process: by numbers of descriptors."""
        path = self.path()
        old = [self.listen(self.tcp()), self.listen(self.unix(path))]
        entries = [
            (asked.kind, asked.at, asked.port, [os.dup(port.fileno())])
            for asked, port in self.sockets.open_ports()
        ]
        self.assertEqual(
            sorted(entry[:3] for entry in entries), [("tcp", "127.0.0.1", 0), ("unix", path, 0)]
        )
        unused = os.dup(old[0].port.fileno())
        sockets = Sockets(inherited([*entries, ("tcp", "", 1, [unused])]))
        openings = Openings(reactor, sockets)
        address = old[0].port.getHost()
        new = [self.listen(self.tcp(), openings), self.listen(self.unix(path), openings)]
        self.assertEqual(new[0].port.getHost(), address)
        self.assertEqual(len(sockets.adopted), 2)
        for each in old:
            lock, each.port.lockFile = getattr(each.port, "lockFile", None), None
            if lock is not None:
                lock.unlock()
            await self.openings.close(each, leaving=True)
        sockets.own()
        self.assertRaises(OSError, os.fstat, unused)
        await self.served_by((address.host, address.port), self.factories[2])
        await self.served_by(path, self.factories[3])
        await DeferredList(openings.close_all())
        self.assertFalse(os.path.lexists(path))
        self.assertFalse(os.path.lexists(path + ".lock"))

    async def test_socket_of_systemds(self) -> None:
        """Its descriptor stays what it is, for whoever asks for it by its place again."""
        path = self.path()
        theirs = socket.socket(socket.AF_UNIX)
        self.addCleanup(theirs.close)
        theirs.bind(path)
        os.chmod(path, 0o660)
        theirs.listen()
        for _ in range(2):
            endpoint = AdoptedStreamServerEndpoint(reactor, theirs.fileno(), socket.AF_UNIX)
            opening = self.listen(endpoint)
            self.assertIsNone(self.sockets.lend(opening.port))
            await self.served_by(path, self.factories[-1])
            await self.openings.close(opening)
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o660)
        self.assertEqual(self.sockets.open_ports(), [])

    async def test_under_twisteds_tls(self) -> None:
        """Other endpoints come by their ports in the same way."""
        pair = DevelopmentAuthority(self.mktemp()).issue().to_pem()
        certificate = ssl.PrivateCertificate.loadPEM(pair)
        endpoint = endpoints.SSL4ServerEndpoint(
            reactor, 0, certificate.options(), interface="127.0.0.1"
        )
        old = self.listen(endpoint)
        held = self.sockets.lend(old.port)
        new = self.listen(endpoint)
        self.assertEqual(new.port.getHost(), old.port.getHost())
        assert held is not None
        self.sockets.take_back(held)

    async def test_left(self) -> None:
        """A port that was left does not come back by itself, whatever it had in mind."""
        opening = self.listen(self.tcp())
        port = opening.port
        leave(port)
        leave(port)
        getattr(port, "_resume", lambda: None)()
        self.assertNotIn(port, reactor.getReaders())
        self.assertEqual(self.factories[0].running, 0)
        self.openings.open.remove(opening)


class ReactorTests(SynchronousTestCase):
    """Reactors that are not the usual ones."""

    def test_put_back(self) -> None:
        """What was there before is there again, whatever happens."""
        memory = MemoryReactor()
        before = dict(vars(memory))
        close = AdoptedStreamServerEndpoint._close
        with self.assertRaises(ZeroDivisionError), Sockets().used_by(memory):
            memory.listenTCP(80, Factory())
            1 / 0  # noqa: B018
        self.assertEqual(set(vars(memory)), set(before))
        self.assertIs(AdoptedStreamServerEndpoint._close, close)
        self.assertEqual(len(memory.tcpServers), 1)

    def test_no_ports_at_all(self) -> None:
        with Sockets().used_by(object()):
            pass
