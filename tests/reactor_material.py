"""A reactor of a test's own that turns when the test says so, and what it connects."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.protocol_material import App
from twisted_bioconn import _tcp

HAS_EPOLL = hasattr(select, "epoll")

epoll: Any = import_module("twisted_bioconn._epoll") if HAS_EPOLL else None
"""L{twisted_bioconn._epoll}, where there is epoll."""

LARGE = bytes(range(256)) * (1 << 15)
"""More than two kernels keep for a connection that nobody reads: 8 MiB."""


def twisteds_reactor() -> Any:
    """A new one of Twisted's own epoll reactors."""
    return import_module("twisted.internet.epollreactor").EPollReactor()


def making(kind: type[App] = App, **hooks: Callable[[App], object]) -> Callable[[], Any]:
    """What makes an application with these hooks."""
    return lambda: kind(**hooks)


def discard(reactor: Any) -> None:
    """Close what a reactor has opened."""
    for call in reactor.getDelayedCalls():
        call.cancel()
    reactor.disconnectAll()
    for reader in reactor._internalReaders:
        reactor.removeReader(reader)
        reader.connectionLost(None)
    reactor._poller.close()


class OneClient(ClientFactory[Any]):
    """
    Connects one protocol that is there already.

    @ivar failed: why there was no connection.
    """

    noisy = False

    def __init__(self, protocol: Protocol | None) -> None:
        self.made = protocol
        self.failed: Failure | None = None
        self.lost: Failure | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        return self.made

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self.failed = reason

    def clientConnectionLost(self, connector: Any, reason: Failure) -> None:
        self.lost = reason


class Made(Factory[Any]):
    """
    Makes each protocol by the function given, and keeps it.

    @ivar made: the protocols, in order.
    @ivar peers: the address of each.
    """

    noisy = False

    def __init__(self, make: Callable[[], Any] = App) -> None:
        self._make = make
        self.made: list[Any] = []
        self.peers: list[IAddress | None] = []

    def buildProtocol(self, addr: IAddress | None) -> Any:
        self.peers.append(addr)
        protocol = self._make()
        self.made.append(protocol)
        return protocol


class Reader(FileDescriptor):
    """A descriptor which does the same, whether it is to be read or written."""

    def __init__(self, reactor: Any, file: Any, do: Any = lambda: None) -> None:
        super().__init__(reactor)
        self.file = file
        self.fileno = file.fileno  # type: ignore[method-assign]
        self.do = do
        self.events: list[str] = []
        self.lost: Failure | None = None

    def doRead(self) -> Any:
        self.events.append("read")
        return self.do()

    def doWrite(self) -> Any:
        self.events.append("write")
        return self.do()

    def connectionLost(self, reason: Failure) -> None:
        self.lost = reason
        super().connectionLost(reason)


class ReactorCase(SynchronousTestCase):
    """A test with a reactor of its own."""

    skip = None if HAS_EPOLL else "there is no epoll on this platform"
    interface = "127.0.0.1"

    def make_reactor(self) -> Any:
        """The reactor under test: ours."""
        return epoll.ConnectorReactor()

    def setUp(self) -> None:
        self.reactor = self.make_reactor()
        # Closed once the reactor has let go of them.
        self.opened: list[Any] = []
        self.addCleanup(self._discard)

    def _discard(self) -> None:
        discard(self.reactor)
        for each in self.opened:
            each.close()

    def turn(self, times: int = 1) -> None:
        """Do what there is to do now."""
        for _ in range(times):
            self.reactor.iterate(0)

    def until(self, condition: Callable[..., object], *arguments: Any) -> None:
        """Turn until this is true of the arguments, and fail if that takes too long."""
        end = time.monotonic() + 100
        while not condition(*arguments):
            if time.monotonic() > end:
                self.fail("this never becomes true")
            self.reactor.iterate(0.005)

    def until_lost(self, *apps: App) -> None:
        """Turn until all of these have lost their connections."""
        self.until(lambda: all(app.reasons for app in apps))

    def listen(self, factory: Any, interface: str | None = None) -> Any:
        """Listen until the end of the test; returns the port."""
        return self.reactor.listenTCP(
            0, factory, interface=self.interface if interface is None else interface
        )

    def connect(self, protocol: Any, port: Any) -> Any:
        """Have this protocol connected to a port, and wait for that."""
        self.connector = self.reactor.connectTCP(
            port.getHost().host, port.getHost().port, OneClient(protocol)
        )
        self.until(lambda: protocol.did)
        return protocol

    def raw(self, port: Any) -> socket.socket:
        """A socket connected to a port, with which a test does as it likes."""
        host = port.getHost()
        family = socket.AF_INET if isinstance(host, IPv4Address) else socket.AF_INET6
        made = socket.socket(family)
        self.opened.append(made)
        made.connect((host.host, host.port))
        made.setblocking(False)
        return made

    def accepted(self, app: Any = None) -> tuple[Any, socket.socket]:
        """A protocol whose connection was accepted, and the socket at its other end."""
        factory = Made(lambda: App() if app is None else app)
        peer = self.raw(self.listen(factory))
        self.until(lambda: factory.made and factory.made[0].did)
        return factory.made[0], peer

    def ends(
        self, make: Callable[[], Any], make_other: Callable[[], Any] = App
    ) -> Iterator[tuple[Any, Any]]:
        """
        Connections, one after the other, whose one end is made by the first function, and was
        accepted, connected, or connected at once where the reactor can do that.

        @return: that end's protocol, and the other's.
        """
        factory = Made(make)
        other = self.connect(make_other(), self.listen(factory))
        self.until(lambda: factory.made and factory.made[0].did)
        yield factory.made[0], other

        factory = Made(make_other)
        one = self.connect(make(), self.listen(factory))
        self.until(lambda: factory.made and factory.made[0].did)
        yield one, factory.made[0]

        if epoll is not None and isinstance(self.reactor, epoll.ConnectorReactor):
            factory = Made(make_other)
            number = self.listen(factory).getHost().port
            one = _tcp.connect_at_once(self.reactor, "127.0.0.1", number, lambda _: make())
            self.until(lambda: factory.made and factory.made[0].did)
            yield one, factory.made[0]

    def received_by(self, peer: socket.socket, size: int) -> bytes:
        """Read this many bytes from a socket, or more, and turn meanwhile."""
        received = bytearray()

        def read() -> bool:
            received.extend(taken(peer))
            return len(received) >= size

        self.until(read)
        return bytes(received)

    def end_of(self, peer: socket.socket) -> bytes:
        """All that comes on a socket until its end."""
        received = bytearray()

        def read() -> bool:
            received.extend(taken(peer))
            try:
                return not peer.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return False

        self.until(read)
        return bytes(received)


def sent_by(peer: socket.socket, data: bytes) -> int:
    """Send what the kernel takes now; returns how much that is."""
    sent = 0
    try:
        while sent < len(data):
            sent += peer.send(data[sent:])
    except BlockingIOError:
        pass
    return sent


def taken(peer: socket.socket) -> bytes:
    """What has come on a socket, which does not block."""
    received = bytearray()
    try:
        while data := peer.recv(1 << 20):
            received += data
    except BlockingIOError:
        pass
    return bytes(received)


def reset(peer: socket.socket) -> None:
    """Break a socket's connection off: the other end is sent an RST."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
