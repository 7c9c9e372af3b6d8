"""Several back ends over real sockets: bytes that stay whole under faults, and counts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import socket
import ssl
import struct
import tempfile
from typing import Any, cast

from twisted.internet import reactor as installed_reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, DeferredList, gatherResults, maybeDeferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    clientFromString,
    serverFromString,
)
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from twisted_bioconn import _lines
from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.certificates.loading import load_authorities
from twisted_bioconn.context import ClientOptions, ServerOptions
from twisted_bioconn.endpoints import ClientEndpoint, ServerEndpoint
from twisted_bioconn.limits import Limits
from twisted_bioconn.server.addresses import client_endpoint
from twisted_bioconn.server.backends import BackEnd, BackEnds, Balance, Marks, SendProxy, State
from twisted_bioconn.server.checks import check_from_string
from twisted_bioconn.server.relay import RelayFactory

reactor: Any = installed_reactor

PIECE = random.Random(5).randbytes(65536)


@implementer(IHalfCloseableProtocol)
class Echo(Protocol):
    """Sends back all that comes, and then the end."""

    transport: Any

    factory: Any

    def connectionMade(self) -> None:
        self.factory.connections.add(self)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.connections.discard(self)


class Resets(Echo):
    """Accepts, and resets at once: most often that is seen while the connection is made."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.abortConnection()


class ResetsSoon(Echo):
    """Accepts, reads, and resets."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.abortConnection()


class Server:
    """
    A back end.

    @ivar port: its number, which it keeps.
    @ivar factory: has its connections.
    """

    port = 0

    def __init__(self, case: SocketCase, tls: bool = False) -> None:
        self._case = case
        self._tls = tls
        self._listening: Any = None
        made: Any = Factory.forProtocol(Echo)
        self.factory = made
        made.noisy = False
        made.connections = set()
        case.addCleanup(self.stop)

    async def start(self, kind: type[Protocol] = Echo) -> Server:
        self.factory.protocol = kind
        endpoint: Any = TCP4ServerEndpoint(reactor, self.port, interface="127.0.0.1")
        if self._tls:
            endpoint = ServerEndpoint(endpoint, ServerOptions(self._case.certificate))
        self._listening = await endpoint.listen(self.factory)
        self.port = self._listening.getHost().port
        return self

    async def stop(self) -> None:
        """It is gone, and its connections with it."""
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
        for each in [*self.factory.connections]:
            each.transport.abortConnection()


@implementer(IHalfCloseableProtocol)
class Pump(Protocol):
    """
    Sends much and hashes what comes back.

    @ivar done: fires with the hash and how many bytes that is of; fails where the connection does.
    """

    transport: Any

    def __init__(self, times: int) -> None:
        self._left = times
        self._received = hashlib.sha256()
        self._count = 0
        self._ended = False
        self.done: Deferred[tuple[str, int]] = Deferred()
        self.begun: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        if self._left:
            self._left -= 1
            self.transport.write(PIECE)
        else:
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()

    def stopProducing(self) -> None:
        pass

    def dataReceived(self, data: bytes) -> None:
        self._received.update(data)
        self._count += len(data)
        if not self.begun.called:
            self.begun.callback(None)

    def readConnectionLost(self) -> None:
        self._ended = True
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.begun.called:
            self.begun.errback(reason)
            self.begun.addErrback(lambda _: None)
        if self._ended and isinstance(reason.value, ConnectionDone):
            self.done.callback((self._received.hexdigest(), self._count))
        else:
            self.done.errback(reason)


class SocketCase(TestCase):
    """A relay on a port with TLS, and servers."""

    timeout = 300

    def setUp(self) -> None:
        authority = DevelopmentAuthority(self.mktemp())
        self.certificate = authority.issue()
        self.trusted = load_authorities(authority.certificate_path)
        self.options = ClientOptions("localhost", trust_roots=self.trusted)

    def to(self, port: int, tls: bool = False) -> Any:
        # The way that the command takes: on our own reactor it is a shorter one.
        endpoint = client_endpoint(reactor, f"tcp:127.0.0.1:{port}")
        return ClientEndpoint(endpoint, self.options, reactor) if tls else endpoint

    async def relay(self, *servers: Server, tls: bool = False, **settings: Any) -> None:
        self.back_ends = BackEnds(
            [(self.to(each.port, tls), f"tcp:127.0.0.1:{each.port}") for each in servers],
            reactor,
            **settings,
        )
        factory = RelayFactory(self.back_ends, "back ends", cast(IReactorTime, reactor))
        endpoint = ServerEndpoint(
            TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
            ServerOptions(self.certificate),
            reactor,
            limits=Limits(connections=10_000, per_address=10_000, handshakes=10_000),
        )
        self.listening: Any = await endpoint.listen(factory)
        self.addCleanup(self.listening.stopListening)
        self.front = cast(IPv4Address, self.listening.getHost()).port

    async def pump(self, times: int = 32) -> Pump:
        pump = Pump(times)
        await self.to(self.front, tls=True).connect(_One(pump))
        return pump

    def whole(self, times: int = 32) -> tuple[str, int]:
        return hashlib.sha256(PIECE * times).hexdigest(), times * len(PIECE)

    async def pump_ten(self, times: int = 32) -> None:
        """Ten at a time, and what comes back is what was sent."""
        pumps = await gatherResults(Deferred.fromCoroutine(self.pump(times)) for _ in range(10))
        self.assertEqual(await gatherResults(each.done for each in pumps), [self.whole(times)] * 10)

    async def settled(self) -> None:
        """No back end has any connection, nor has the port."""
        for _ in range(5000):
            if not any(each.connections for each in self.back_ends.members):
                break
            await deferLater(reactor, 0.02, lambda: None)
        self.assertEqual(
            [(each.connections, each.pending) for each in self.back_ends.members],
            [(0, 0)] * len(self.back_ends.members),
        )


class _One(Factory[Pump]):
    """A factory for one protocol that is there already."""

    noisy = False

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Any:
        return self._protocol


class FaultTests(SocketCase):
    """SHA-256 of ten pumping connections, while back ends fail."""

    async def three(self, tls: bool = False, **settings: Any) -> list[Server]:
        servers = [await Server(self, tls).start() for _ in range(3)]
        await self.relay(*servers, tls=tls, **settings)
        return servers

    async def test_all_are_well(self) -> None:
        for tls in (False, True):
            await self.three(tls)
            await self.pump_ten()
            await self.settled()
            self.assertEqual(sorted(each.served for each in self.back_ends.members), [3, 3, 4])

    async def test_one_is_down(self) -> None:
        for tls in (False, True):
            # However long all of it takes, it is not tried again meanwhile.
            servers = await self.three(tls, marks=Marks(fail_time=3600))
            await servers[1].stop()
            await self.pump_ten()
            await self.settled()
            members = self.back_ends.members
            self.assertEqual((members[0].served + members[2].served, members[1].served), (10, 0))
            self.assertIs(members[1].state, State.DOWN)
            failures = members[1].failures
            await self.pump_ten(1)
            # Nobody was sent there any more.
            self.assertEqual(members[1].failures, failures)

    async def test_one_accepts_and_resets(self) -> None:
        """
        Those who get there see a reset, and never an end that would pass for all of it; when it is
        known, nobody does.
        """
        servers = await self.three(marks=Marks(fail_time=3600))
        await servers[1].stop()
        await servers[1].start(ResetsSoon)
        pumps = []
        for _ in range(9):
            pump = await self.pump(4)
            [result] = await DeferredList([pump.done], consumeErrors=True)
            pumps.append(result)
        failed = [each for good, each in pumps if not good]
        self.assertEqual(len(failed), 3)
        for each in failed:
            self.assertIsInstance(cast(Failure, each).value, ConnectionLost)
        self.assertEqual([each for good, each in pumps if good], [self.whole(4)] * 6)
        self.assertIs(self.back_ends.members[1].state, State.DOWN)
        await self.pump_ten()
        await self.settled()

    async def test_one_flaps(self) -> None:
        servers = await self.three(marks=Marks(fail_time=0.1, longest_fail_time=0.2))
        for _ in range(3):
            await servers[0].stop()
            await self.pump_ten(8)
            await servers[0].start()
            await deferLater(reactor, 0.25, lambda: None)
            await self.pump_ten(8)
            self.assertIs(self.back_ends.members[0].state, State.UP)
        await self.settled()

    async def test_all_are_down_for_a_while(self) -> None:
        """What comes as soon as one is there again is served, whatever was known of it."""
        servers = await self.three()
        for each in servers:
            await each.stop()
        pumps = [await self.pump(1) for _ in range(4)]
        for pump in pumps:
            [(ended, got)] = await DeferredList([pump.done], consumeErrors=True)
            # It has got nothing, not a part.
            self.assertFalse(ended and cast(Any, got)[1])
        self.assertEqual({each.state for each in self.back_ends.members}, {State.DOWN})
        await servers[2].start()
        await self.pump_ten()
        await self.settled()

    async def test_checks_last_as_long_as_the_port(self) -> None:
        for tls in (False, True):
            server = await Server(self, tls).start()
            check = check_from_string("tls" if tls else "tcp", interval=0.02, fall=1)
            await self.relay(server, tls=tls, check=check)
            [only] = self.back_ends.members
            await self._becomes(only, State.UP)
            await server.stop()
            await self._becomes(only, State.DOWN)
            await server.start()
            await self._becomes(only, State.UP)
            # Two in a row, and no connection of a client's was needed.
            self.assertEqual(only.served, 0)
            await maybeDeferred(self.listening.stopListening)
            await server.stop()
            await deferLater(reactor, 0.1, lambda: None)
            self.assertIs(only.state, State.UP)

    async def _becomes(self, back_end: BackEnd, state: State) -> None:
        for _ in range(10_000):
            if back_end.state is state:
                return
            await deferLater(reactor, 0.01, lambda: None)
        self.fail(f"{back_end} is not {state.value}")

    async def test_one_dies_in_the_middle(self) -> None:
        """Its connections are reset, and those of the others never hear of it."""
        servers = await self.three(balance=Balance.LEAST_CONNECTIONS)
        pumps = [await self.pump(256) for _ in range(10)]
        await gatherResults(each.begun for each in pumps)
        victims = self.back_ends.members[0].connections
        self.assertIn(victims, (3, 4))
        await servers[0].stop()
        results = await DeferredList([each.done for each in pumps], consumeErrors=True)
        good = [each for ok, each in results if ok]
        self.assertEqual(good, [self.whole(256)] * (10 - victims))
        for ok, result in results:
            if not ok:
                self.assertIsInstance(cast(Failure, result).value, ConnectionLost)
        await self.pump_ten()
        await self.settled()


class HeaderTests(SocketCase):
    """A PROXY header on sockets, plain and with TLS."""

    async def test_unix_socket(self) -> None:
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        path = os.path.join(directory, "app.sock")
        made: Any = Factory.forProtocol(Echo)
        made.noisy, made.connections = False, set()
        listening = await serverFromString(reactor, f"unix:{path}").listen(made)
        self.addCleanup(listening.stopListening)
        endpoint = client_endpoint(reactor, f"unix:{path}")
        self.back_ends = BackEnds([(endpoint, "app")], reactor, send_proxy=SendProxy.V1)
        factory = RelayFactory(self.back_ends, "app", reactor)
        front = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(front.stopListening)
        number = cast(Any, front.getHost()).port

        def talk() -> tuple[bytes, int]:
            with socket.create_connection(("127.0.0.1", number), 200) as client:
                client.sendall(b"hello")
                client.shutdown(socket.SHUT_WR)
                said = b""
                while data := client.recv(4096):
                    said += data
                return said, client.getsockname()[1]

        said, ours = await deferToThread(talk)
        line = f"PROXY TCP4 127.0.0.1 127.0.0.1 {ours} {number}\r\n".encode()
        self.assertEqual(said, line + b"hello")
        await self.settled()


class SlotTests(SocketCase):
    """What is counted while a connection lasts."""

    async def test_back_to_zero(self) -> None:
        """After 1,000 connections that ended in every way."""
        # Of those that are no TLS, each with a line.
        self.patch(_lines, "BURST", 1 << 20)
        good = await Server(self).start()
        gone = await Server(self).start()
        await gone.stop()
        resets = await Server(self).start(Resets)
        soon = await Server(self).start(ResetsSoon)
        await self.relay(good, gone, resets, soon)
        ways = (
            _silent,
            _says_no_tls,
            _half_a_hello,
            _resets_silent,
            _talks,
            _talks_and_resets,
            _leaves_at_once,
            _ends_and_waits,
        )
        context = self._context()

        def run(seed: int) -> None:
            order = random.Random(seed)
            for number in range(500):
                way = ways[number % len(ways)]
                # The back end may be one that resets.
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection(("127.0.0.1", self.front), 200) as client,
                ):
                    way(client, context, order)

        await gatherResults([deferToThread(run, seed) for seed in range(2)])
        await self.settled()
        limiter = self.listening.factory.limiter
        for _ in range(5000):
            if not limiter.connections:
                break
            await deferLater(reactor, 0.02, lambda: None)
        self.assertEqual((limiter.connections, limiter.handshakes), (0, 0))
        self.assertEqual(dict(limiter._by_address), {})
        members = self.back_ends.members
        self.assertGreater(sum(each.served for each in members), 300)
        self.assertEqual(good.factory.connections, set())

    def _context(self) -> Any:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context


def _reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _silent(client: socket.socket, context: Any, order: random.Random) -> None:
    """It says nothing, and closes."""


def _says_no_tls(client: socket.socket, context: Any, order: random.Random) -> None:
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    client.recv(100)


def _half_a_hello(client: socket.socket, context: Any, order: random.Random) -> None:
    client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    if order.random() < 0.5:
        _reset(client)


def _resets_silent(client: socket.socket, context: Any, order: random.Random) -> None:
    _reset(client)


def _talks(client: socket.socket, context: Any, order: random.Random) -> None:
    with context.wrap_socket(client, server_hostname="localhost") as tls:
        tls.sendall(b"hello")
        tls.recv(5)
        tls.unwrap()


def _talks_and_resets(client: socket.socket, context: Any, order: random.Random) -> None:
    with context.wrap_socket(client, server_hostname="localhost") as tls:
        tls.sendall(b"x" * 100_000)
        tls.recv(5)
        _reset(tls)


def _leaves_at_once(client: socket.socket, context: Any, order: random.Random) -> None:
    with context.wrap_socket(client, server_hostname="localhost") as tls:
        if order.random() < 0.5:
            _reset(tls)


def _ends_and_waits(client: socket.socket, context: Any, order: random.Random) -> None:
    with context.wrap_socket(client, server_hostname="localhost") as tls:
        tls.sendall(b"hello")
        tls.shutdown(socket.SHUT_WR)
        tls.recv(5)


class _Resolver:
    """A resolver whose answers change."""

    def __init__(self) -> None:
        self.address = "127.0.0.1"
        self.asked: list[str] = []

    def resolveHostName(
        self,
        receiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        self.asked.append(hostName)
        receiver.resolutionBegan(None)
        receiver.addressResolved(IPv4Address("TCP", self.address, portNumber))
        receiver.resolutionComplete()
        return receiver


class ResolvingTests(SynchronousTestCase):
    """What a name stands for is asked for each connection."""

    def test_with_tls(self) -> None:
        memory: Any = MemoryReactorClock()
        memory.nameResolver = resolver = _Resolver()
        endpoint = client_endpoint(memory, "bioconn:db.example:5432:unsafeSkipVerification=yes")
        self.assertIsInstance(endpoint.endpoint, HostnameEndpoint)  # type: ignore[attr-defined]
        back_ends = BackEnds([(endpoint, "db"), (endpoint, "db")], memory)
        for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
            resolver.address = address
            connecting = back_ends.connect(lambda _: Factory(), timeout=10)
            memory.advance(0)
            self.assertEqual(memory.tcpClients[-1][:2], (address, 5432))
            connecting.addErrback(lambda _: None)
            connecting.cancel()
        self.assertEqual(resolver.asked, ["db.example"] * 3)

    def test_plain(self) -> None:
        """C{tcp:} leaves it to the reactor, which looks a name up for each connection."""
        endpoint = clientFromString(reactor, "tcp:db.example:80")
        self.assertIsInstance(endpoint, TCP4ClientEndpoint)
        memory: Any = MemoryReactorClock()
        back_ends = BackEnds([(client_endpoint(memory, "tcp:db.example:80"), "db")], memory)
        back_ends.connect(lambda _: Factory())
        back_ends.connect(lambda _: Factory())
        self.assertEqual([each[:2] for each in memory.tcpClients], [("db.example", 80)] * 2)
