"""
Over real sockets, pipes and TLS itself; and a thousand connections that came to nothing.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tests.protocol_material import (
    STOCK,
    TLS12,
    TLS13,
    App,
    HalfApp,
    ListeningApp,
    Peer,
    ProtocolCase,
    client_context,
    client_options,
    holds_on_stock,
    on_every_engine,
    server_options,
)
from tests.protocol_wire import MemoryConnection, MemorySocket, Turns
from tests.test_protocol_closing import LARGE

reactor: Any = installed_reactor


class RealPeer(Peer):
    """A peer whose end can be waited for, and that can break off."""

    def __init__(self, version: int | None = None, **kinds: Any) -> None:
        super().__init__(client_context(version), True, **kinds)
        self.gone: Deferred[None] = Deferred()
        self.steps = -1
        self.drop = "abortConnection"

    def go(self) -> None:
        super().go()
        if self.steps == 0:
            getattr(self.transport, self.drop)()
        self.steps -= 1

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.gone.callback(None)


class Connect(ClientFactory[Peer]):
    """Connects one peer."""

    noisy = False

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def buildProtocol(self, addr: IAddress | None) -> Peer:
        return self.peer


class RealCase(ProtocolCase):
    """What connects over real sockets."""

    @property
    def patience(self) -> float:
        """Seconds until a test has failed; where it has to, that is soon enough."""
        has_to_fail = self.factory_class is STOCK and not hasattr(
            getattr(self, self._testMethodName), "holds_on_stock"
        )
        return 1.5 if has_to_fail else 100

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until this is true, and fail if that takes too long."""
        end = reactor.seconds() + self.patience
        while not condition():
            if reactor.seconds() > end:
                self.fail("this never becomes true")
            await deferLater(reactor, 0.005)

    def serve(self, wrapped: Any, **settings: Any) -> tuple[Any, int]:
        """A server of the class under test on a port of its own, and the port's number."""
        factory = self.factory(server_options(), False, wrapped, clock=reactor, **settings)
        factory.noisy = False
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(self.stop, port, factory)
        return factory, port.getHost().port

    async def stop(self, port: Any, factory: Any) -> None:
        """Leave nothing behind, not even where the test failed."""
        await port.stopListening()
        for protocol in list(factory.protocols):
            protocol.transport.abortConnection()
        await deferLater(reactor, 0)
        if self.factory_class is STOCK:
            # It has failed by now, and may well have more to say.
            self.flushLoggedErrors()

    def connect(self, peer: RealPeer, port: int) -> RealPeer:
        connector = reactor.connectTCP("127.0.0.1", port, Connect(peer))
        self.addCleanup(lambda: connector.disconnect() if not peer.gone.called else None)
        return peer


@on_every_engine
class TCPTests(RealCase):
    """Over TCP."""

    @holds_on_stock
    async def test_no_reset_under_data(self) -> None:
        """
        A client in the middle of sending 4 MiB as the server closes gets all of the server's, and
        no reset before it has ended by itself.
        """
        app = App(data=lambda app: app.transport.loseConnection())
        app.hooks["made"] = lambda app: app.transport.write(LARGE * 4)
        _, port = self.serve(app)
        peer = self.connect(RealPeer(answers=False), port)
        await self.until(lambda: peer.open)
        for _ in range(4):
            peer.send(LARGE)
        await self.until(lambda: peer.closed)
        self.assertEqual(peer.received, LARGE * 4)
        peer.send(LARGE)
        peer.close()
        peer.transport.loseConnection()
        await peer.gone.addTimeout(self.patience, reactor)
        assert peer.lost is not None
        self.assertEqual(peer.lost.type, ConnectionDone)
        await self.until(lambda: app.reasons)
        self.assertEqual(app.reason.type, ConnectionDone)

    async def test_peer_that_never_closes(self) -> None:
        """A client that does not answer the close is let go, with all that it was to get."""
        app = App(made=lambda app: app.transport.write(LARGE))
        app.hooks["data"] = lambda app: app.transport.loseConnection()
        _, port = self.serve(app, closeTimeout=2.0)
        peer = self.connect(RealPeer(answers=False), port)
        await self.until(lambda: peer.open)
        peer.send(b"close")
        await self.until(lambda: app.reasons)
        await self.until(lambda: peer.lost)
        self.assertEqual(peer.received, LARGE)
        self.assertEqual(app.reason.type, ConnectionDone)

    async def test_silent_client(self) -> None:
        """A client that says nothing is let go."""
        app = App()
        _, port = self.serve(app, handshakeTimeout=0.2)
        peer = RealPeer()
        peer.go = lambda: None  # type: ignore[method-assign]
        self.connect(peer, port)
        await self.until(lambda: app.reasons and peer.lost)

    async def test_refusing_application(self) -> None:
        """An application that wants no connection: it is closed, and nothing is logged."""

        class Refusing(Factory[Protocol]):
            noisy = False

            def buildProtocol(self, addr: IAddress | None) -> None:
                return None

        _, port = self.serve(Refusing())
        peer = self.connect(RealPeer(), port)
        await self.until(lambda: peer.lost)
        self.assertFalse(peer.open)
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_half_close(self) -> None:
        """Both directions close on their own, TCP's as well as TLS's."""

        def answer(app: App) -> None:
            if app.received == b"question":
                app.transport.write(b"answer")
                app.transport.loseWriteConnection()

        app = HalfApp(data=answer)
        _, port = self.serve(app)
        peer = self.connect(RealPeer(answers=False), port)
        await self.until(lambda: peer.open)
        peer.send(b"question")
        await self.until(lambda: peer.closed)
        self.assertEqual(peer.received, b"answer")
        peer.send(LARGE)
        peer.close()
        peer.transport.loseWriteConnection()
        await self.until(lambda: app.reasons)
        self.assertEqual(app.received, b"question" + LARGE)
        self.assertEqual(app.did, ["made", "data", "write lost", "data", "read lost", "lost"])
        self.assertEqual(app.reason.type, ConnectionDone)

    async def test_drops(self) -> None:
        """
        A thousand connections dropped at every step of the handshake, by FIN and by RST, leave no
        descriptor, no object and no delayed call.
        """
        alive: WeakSet[Any] = WeakSet()

        class Apps(Factory[App]):
            noisy = False

            def buildProtocol(self, addr: IAddress | None) -> App:
                app = App(made=lambda app: alive.add(app.transport))
                alive.add(app)
                return app

        factory, port = self.serve(Apps())
        await self.drop(port, 12)
        await self.until(lambda: not factory.protocols)
        # What earlier tests have left behind is closed whenever it is collected.
        gc.collect()
        before = descriptors(), len(reactor.getDelayedCalls())
        gc.disable()
        try:
            for _ in range(20):
                await self.drop(port, 50)
            await self.until(lambda: not factory.protocols)
            await self.until(lambda: not alive)
        finally:
            gc.enable()
        self.assertEqual((descriptors(), len(reactor.getDelayedCalls())), before)

    async def drop(self, port: int, count: int) -> None:
        """Connect so many at once, and drop each at one of the steps that there are."""
        peers = []
        for number in range(count):
            peer = RealPeer((TLS12, TLS13)[number % 2])
            peer.drop = ("abortConnection", "loseConnection")[number // 2 % 2]
            # The hello, the server's flight, and what it sends when it has ours.
            peer.steps = number // 4 % 3
            reactor.connectTCP("127.0.0.1", port, Connect(peer))
            peers.append(peer)
        await gatherResults([peer.gone for peer in peers]).addTimeout(self.patience, reactor)


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))


@on_every_engine
class DropTests(ProtocolCase):
    """In memory."""

    def test_drops(self) -> None:
        """
        A thousand connections, of servers and of clients, dropped at every step of the handshake:
        no object and no delayed call is left, and each was told of its end.
        """
        alive: WeakSet[Any] = WeakSet()
        gc.collect()
        gc.disable()
        try:
            for number in range(1000):
                app = App()
                link = self.link(app, client=bool(number % 2), begin=False)
                alive.add(app)
                alive.add(link.tls)
                link.transport.begin()
                link.wire.begin()
                for _ in range(number // 2 % 5):
                    self.clock.turn()
                end = ("abortConnection", "loseConnection", "loseWriteConnection")[number % 3]
                getattr(link.wire, end)()
                link.settle()
                if not app.reasons:
                    link.wire.abortConnection()
                    link.settle()
                self.assertEqual(len(app.reasons), 1)
                self.assertEqual(link.factory.protocols, {})
                del link, app
            self.assertEqual(set(alive), set())
            self.assertLeftNothing()
        finally:
            gc.enable()


@on_every_engine
class OtherTransportTests(RealCase):
    """Over what is not TCP."""

    async def test_unix(self) -> None:
        """A UNIX socket."""
        directory = tempfile.mkdtemp()
        path = str(Path(directory) / "s")
        self.addCleanup(os.rmdir, directory)
        app = App(data=lambda app: app.transport.write(app.received.upper()))
        factory = self.factory(server_options(), False, app, clock=reactor)
        port = reactor.listenUNIX(path, factory)
        self.addCleanup(port.stopListening)
        peer = RealPeer()
        reactor.connectUNIX(path, Connect(peer))
        await self.until(lambda: peer.open)
        peer.send(b"hello")
        await self.until(lambda: peer.received == b"HELLO")
        app.transport.loseConnection()
        await self.until(lambda: app.reasons and peer.lost)
        self.assertEqual(app.reason.type, ConnectionDone)

    def pipes(self, app: App) -> RealPeer:
        """An application on two pipes, as standard input and output are, and its peer on them."""
        peer = RealPeer()
        to_app, from_peer = os.pipe()
        to_peer, from_app = os.pipe()
        tls = self.factory(server_options(), False, app, clock=reactor).buildProtocol(None)
        stdio: Any = StandardIO
        stdio(tls, to_app, from_app, reactor)
        stdio(peer, to_peer, from_peer, reactor)

        async def close() -> None:
            # Standard input and output are closed by the end of a process, not by a transport.
            for end in (to_app, from_app):
                os.close(end)
            await peer.gone
            for end in (to_peer, from_peer):
                os.close(end)

        self.addCleanup(close)
        return peer

    @holds_on_stock
    async def test_pipes(self) -> None:
        """Pipes, which know neither an abort nor TCP's options."""
        app = App(data=lambda app: app.transport.write(app.received.upper()))
        peer = self.pipes(app)
        await self.until(lambda: peer.open)
        peer.send(b"hello")
        await self.until(lambda: peer.received == b"HELLO")
        app.transport.loseConnection()
        await self.until(lambda: app.reasons and peer.lost)
        self.assertTrue(peer.closed)
        self.assertEqual(app.reason.type, ConnectionDone)

    async def test_pipes_aborted(self) -> None:
        """An abort closes them."""
        app = ListeningApp(handshake=lambda app: app.transport.abortConnection())
        self.pipes(app)
        await self.until(lambda: app.reasons)
        self.assertEqual(app.did, ["made", "handshake", "lost"])
        self.assertEqual(app.reason.type, ConnectionAborted)


@on_every_engine
class NestedTests(ProtocolCase):
    """TLS in TLS: the transport of the inner is the outer, and both ends are under test."""

    def nest(self, server: App, client: App, **kinds: Any) -> tuple[Turns, Any, Any]:
        """Both ends, connected; what it returns are the inner layers."""
        ends = []
        sockets = MemorySocket.pair(**kinds)
        for app, options, is_client, end in (
            (server, server_options(), False, sockets[0]),
            (client, client_options(), True, sockets[1]),
        ):
            inner = self.factory(options, is_client, app)
            outer = self.factory(options, is_client, inner).buildProtocol(None)
            MemoryConnection(end, outer, self.clock).begin()
            ends.append(outer.wrappedProtocol)
        self.clock.settle()
        return self.clock, ends[0], ends[1]

    @holds_on_stock
    def test_talk(self) -> None:
        """Bytes of any number, both ways, over a wire that takes few at a time."""
        server, client = App(), App()
        clock, one, two = self.nest(server, client, capacity=5000)
        one.write(LARGE)
        two.write(LARGE + b"end")
        clock.settle()
        self.assertEqual((server.received, client.received), (LARGE + b"end", LARGE))

    @holds_on_stock
    def test_close(self) -> None:
        """Both layers close, with nothing lost and nothing left."""
        server, client = App(), App()
        clock, one, _ = self.nest(server, client, capacity=5000)
        one.write(LARGE)
        one.loseConnection()
        clock.settle()
        self.assertEqual(client.received, LARGE)
        self.assertEqual(server.reason.type, ConnectionDone)
        self.assertEqual(client.reason.type, ConnectionDone)
        self.assertLeftNothing()

    def test_half_close(self) -> None:
        """The inner layer closes half, and the other half goes on."""
        server, client = HalfApp(), HalfApp()
        clock, one, two = self.nest(server, client)
        one.write(b"question")
        one.loseWriteConnection()
        clock.settle()
        self.assertEqual(client.did, ["made", "data", "read lost"])
        two.write(LARGE)
        two.loseConnection()
        clock.settle()
        self.assertEqual(server.received, LARGE)
        self.assertEqual(server.did, ["made", "write lost", "data", "read lost", "lost"])
        self.assertEqual(server.reason.type, ConnectionDone)
        self.assertLeftNothing()

    @holds_on_stock
    def test_pause(self) -> None:
        """A pause reaches the socket, and what was held is delivered after it."""
        server, client = App(), App()
        clock, one, two = self.nest(server, client, capacity=5000)
        one.pauseProducing()
        two.write(LARGE)
        clock.settle()
        self.assertEqual(server.received, b"")
        self.assertEqual(len(clock.getReaders()), 1)
        two.loseConnection()
        one.resumeProducing()
        clock.settle()
        self.assertEqual(server.received, LARGE)
        self.assertEqual(server.reason.type, ConnectionDone)

    @holds_on_stock
    def test_abort(self) -> None:
        """An abort of the inner aborts the outer."""
        server, client = App(), App()
        clock, one, _ = self.nest(server, client)
        one.write(b"not sent")
        one.abortConnection()
        clock.settle()
        self.assertEqual(client.received, b"")
        self.assertEqual((server.did, client.did), (["made", "lost"], ["made", "lost"]))
        self.assertNotEqual(client.reason.type, ConnectionDone)
        self.assertLeftNothing()
