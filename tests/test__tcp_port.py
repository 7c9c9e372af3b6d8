"""Tests for the ports of L{twisted_bioconn._tcp}: all but the last hold of Twisted's own too."""

from __future__ import annotations

import errno
import gc
import os
import resource
import select
import socket
import time
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError, ConnectionDone, UnsupportedAddressFamily
from twisted.internet.tcp import _reservedFD
from twisted.logger import capturedLogs, formatEvent

from tests.programs import require_ipv6
from tests.protocol_material import App
from tests.reactor_material import Made, OneClient, ReactorCase, twisteds_reactor
from twisted_bioconn import _tcp
from twisted_bioconn._room import ROOM


class FailingSocket:
    """
    A listening socket that cannot accept.

    @ivar code: the error; 0 where it can.
    @ivar after: connections that it accepts before.
    """

    def __init__(self, listening: socket.socket, code: int, after: int = 0) -> None:
        self.listening = listening
        self.code = code
        self.after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self.listening, name)

    def _check(self) -> None:
        if self.code:
            self.after -= 1
            if self.after < 0:
                raise OSError(self.code, os.strerror(self.code))

    def accept(self) -> Any:
        self._check()
        return self.listening.accept()

    def _accept(self) -> Any:
        self._check()
        return self.listening._accept()  # type: ignore[attr-defined]


class PortTests(ReactorCase):
    """Ports accept all who come."""

    def test_many(self) -> None:
        """More than are accepted in a turn, numbered in order."""
        factory = Made()
        port = self.reactor.listenTCP(0, factory, backlog=400, interface="127.0.0.1")
        peers = [self.raw(port) for _ in range(300)]
        for peer in peers:
            peer.send(b"hello")
        self.until(lambda: len(factory.made) == 300)
        self.until(lambda: all(app.received for app in factory.made))
        self.assertEqual([app.transport.sessionno for app in factory.made], list(range(300)))
        self.assertEqual({app.received for app in factory.made}, {b"hello"})
        self.assertEqual(
            [app.transport.getPeer().port for app in factory.made],
            [peer.getsockname()[1] for peer in peers],
        )

    def test_one_after_the_other(self) -> None:
        """However many came before, the next one is accepted."""
        factory = Made()
        port = self.listen(factory)
        came = 0
        for count in (1, 1, 3, 1, 9, 2):
            for _ in range(count):
                self.raw(port)
            came += count
            self.until(lambda came: len(factory.made) == came, came)

    def test_no_protocol(self) -> None:
        """A connection that nobody wants is closed, and has no number."""
        protocols: list[Any] = [None, App(), None, App()]
        port = self.listen(Made(lambda: protocols.pop(0)))
        peers = [self.raw(port) for _ in range(4)]
        self.assertEqual(self.end_of(peers[0]), b"")
        self.assertEqual(self.end_of(peers[2]), b"")
        self.assertEqual(protocols, [])
        self.assertEqual(port.sessionno, 2)

    def test_errors_in_the_factory(self) -> None:
        """They are logged, the connection is closed, and the others are served."""

        def fail() -> App:
            if len(factory.peers) % 2:
                raise ValueError("in buildProtocol")
            return App()

        factory = Made(fail)
        port = self.listen(factory)
        peers = []
        for count in range(4):
            peers.append(self.raw(port))
            self.until(lambda count: len(factory.peers) == count + 1, count)
        self.turn(2)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        # What was logged has kept the sockets until now.
        gc.collect()
        self.assertEqual([self.end_of(peer) for peer in peers[::2]], [b"", b""])
        self.assertEqual([app.did for app in factory.made], [["made"], ["made"]])

    def test_error_when_made(self) -> None:
        """An exception in C{connectionMade} is logged, and the port goes on."""

        def fail(app: App) -> None:
            raise ValueError("in connectionMade")

        hooks = [{"made": fail}, {}]
        factory = Made(lambda: App(**hooks.pop(0)))
        port = self.listen(factory)
        for count in (1, 2):
            self.raw(port).send(b"x")
            self.until(lambda count: len(factory.made) == count, count)
        self.until(lambda: factory.made[1].received)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_gone_before_it_is_accepted(self) -> None:
        """One that is reset, or closed, before its turn is told of it like any other."""
        factory = Made()
        port = self.listen(factory)
        self.raw(port).close()
        self.raw(port)
        self.until(lambda: len(factory.made) == 2 and factory.made[0].reasons)
        self.assertEqual(factory.made[0].did, ["made", "lost"])
        self.assertEqual(factory.made[1].did, ["made"])

    def test_errors_of_the_kernel(self) -> None:
        """Whatever the kernel says, the port accepts again when it can, and those who wait."""
        for code in (errno.ECONNABORTED, errno.EPERM, errno.ENOBUFS, errno.ENFILE, errno.EINVAL):
            for after in (0, 1):
                factory = Made()
                port = self.listen(factory)
                port.socket = FailingSocket(port.socket, code, after)
                for _ in range(3):
                    self.raw(port)
                self.turn(4)
                self.assertEqual(len(factory.made), after)
                port.socket.code = 0
                self.until(lambda factory: len(factory.made) == 3, factory)
                self.raw(port)
                self.until(lambda factory: len(factory.made) == 4, factory)
                logged = self.flushLoggedErrors(OSError)
                self.assertEqual(bool(logged), code == errno.EINVAL)
                for failure in logged:
                    self.assertEqual(failure.value.errno, code)

    def test_no_descriptors_left(self) -> None:
        """
        Where the process may have no more descriptors, those who come wait, and are served once
        there are; Twisted's own port turns them away.
        """
        factory = Made()
        port = self.listen(factory)
        waits = isinstance(port, _tcp.Port)
        self.assertTrue(_reservedFD.available())
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        peers = [self.raw(port) for _ in range(3)]
        with open(os.devnull) as file:
            taken = [os.dup(file.fileno()) for _ in range(10)]
            highest = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
            try:
                while True:
                    taken.append(os.dup(file.fileno()))
            except OSError as error:
                self.assertEqual(error.errno, errno.EMFILE)
            with capturedLogs() as events:
                if waits:
                    self.until(lambda: port.pauses == 2)
                else:
                    self.assertEqual([self.end_of(peer) for peer in peers], [b""] * 3)
                self.assertEqual(factory.made, [])
                self.assertTrue(_reservedFD.available())
                for fd in taken:
                    os.close(fd)
                if not waits:
                    peers = [self.raw(port)]
                self.until(lambda: len(factory.made) == len(peers))
        if waits:
            number = port.getHost().port
            self.assertEqual(
                [formatEvent(event) for event in events],
                [
                    f"accepting nobody on {number} for now: Too many open files",
                    f"accepting again on {number}",
                ],
            )

    def test_stopped_without_descriptors(self) -> None:
        """A port that is stopped while it waits does not begin again."""
        port = self.listen(Made())
        port.socket = FailingSocket(port.socket, errno.ENFILE)
        peer = self.raw(port)
        self.turn(3)
        port.stopListening()
        self.turn(3)
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            self.reactor.iterate(0.05)
        self.assertNotIn(port, self.reactor.getReaders())
        del peer

    def test_stop(self) -> None:
        """A port that is stopped accepts nobody, closes, and leaves its connections alone."""
        factory = Made()
        port = self.listen(factory)
        peer = self.raw(port)
        self.until(lambda: factory.made)
        stopped: list[object] = []
        port.stopListening().addCallback(stopped.append)
        late = self.raw(port)
        self.until(lambda: stopped)
        self.assertFalse(port.connected)
        self.assertEqual(len(factory.made), 1)
        self.assertRaises(ConnectionResetError, self.end_of, late)
        peer.send(b"still there")
        self.until(lambda: factory.made[0].received == b"still there")
        self.assertIn("not listening", repr(port))

    def test_stopped_by_a_connection(self) -> None:
        """The one that is made may stop the port that it was made by."""
        stopped: list[object] = []

        def stop(app: App) -> None:
            if not stopped:
                app.transport.server.stopListening().addCallback(stopped.append)

        factory = Made(lambda: App(made=stop))
        port = self.listen(factory)
        self.raw(port)
        self.until(lambda: stopped)
        self.turn(3)
        self.assertEqual(len(factory.made), 1)

    def test_listens_again(self) -> None:
        factory = Made()
        port = self.listen(factory)
        port.stopListening()
        self.turn(3)
        port.startListening()
        self.raw(port)
        self.until(lambda: factory.made)

    def test_in_use(self) -> None:
        taken = self.listen(Made()).getHost().port
        self.assertRaises(
            CannotListenError, self.reactor.listenTCP, taken, Made(), interface="127.0.0.1"
        )

    def test_ipv6(self) -> None:
        require_ipv6()
        factory = Made()
        port = self.listen(factory, "::1")
        peer = self.raw(port)
        self.until(lambda: factory.made)
        host, number = peer.getsockname()[:2]
        self.assertEqual(factory.peers, [IPv6Address("TCP", host, number)])
        self.assertEqual(factory.made[0].transport.getPeer(), factory.peers[0])
        self.assertEqual(factory.made[0].transport.getHost(), port.getHost())

    def test_link_local(self) -> None:
        """A link-local address comes with its scope."""
        require_ipv6()
        factory = Made()
        port = self.listen(factory, "::1")
        accepting = FailingSocket(port.socket, 0)
        name = socket.if_indextoname(1)

        def scoped(accepted: tuple[Any, Any]) -> tuple[Any, Any]:
            return accepted[0], ("fe80::1", 40000, 0, 1)

        accepting.accept = lambda: scoped(port_socket.accept())  # type: ignore[method-assign]
        accepting._accept = lambda: scoped(port_socket._accept())  # type: ignore
        port_socket, port.socket = port.socket, accepting
        self.raw(port)
        self.until(lambda: factory.made)
        [address] = factory.peers
        self.assertEqual(address, IPv6Address("TCP", f"fe80::1%{name}", 40000, 0, 1))
        self.assertEqual(factory.made[0].transport.getPeer(), address)

    def test_not_inherited(self) -> None:
        """No program that is started gets the descriptors."""
        app, _ = self.accepted()
        self.assertFalse(os.get_inheritable(app.transport.fileno()))
        self.assertFalse(app.transport.getHandle().getblocking())


class AdoptTests(ReactorCase):
    """Sockets that were there already, such as those that a supervisor passes on."""

    def test_port(self) -> None:
        for family, host, kind in (
            (socket.AF_INET, "127.0.0.1", IPv4Address),
            (socket.AF_INET6, "::1", IPv6Address),
        ):
            if family == socket.AF_INET6:
                require_ipv6()
            with socket.socket(family) as listening:
                listening.bind((host, 0))
                listening.listen()
                listening.setblocking(False)
                factory = Made()
                port = self.reactor.adoptStreamPort(listening.fileno(), family, factory)
            self.assertIsInstance(port.getHost(), kind)
            peer = self.raw(port)
            peer.send(b"hello")
            self.until(lambda factory: factory.made and factory.made[0].received, factory)
            self.assertIsInstance(factory.peers[0], kind)
            self.assertEqual(repr(factory.made[0].transport), f"<App #0 on {port.getHost().port}>")
            # The one that was passed on goes on listening, but here nobody does.
            port.stopListening()
            self.turn(2)

    def test_port_of_another_kind(self) -> None:
        path = os.path.relpath(self.mktemp())
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()
            listening.setblocking(False)
            factory = Made()
            port = self.reactor.adoptStreamPort(listening.fileno(), socket.AF_UNIX, factory)
        self.assertIsInstance(port.getHost(), UNIXAddress)
        client = OneClient(App())
        self.reactor.connectUNIX(path, client)
        self.until(lambda: factory.made)

    def test_port_of_no_kind(self) -> None:
        self.assertRaises(
            UnsupportedAddressFamily, self.reactor.adoptStreamPort, 0, socket.AF_UNSPEC, Made()
        )

    def test_connection(self) -> None:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            with socket.create_connection(listening.getsockname()) as peer:
                accepted, _ = listening.accept()
                with accepted:
                    accepted.setblocking(False)
                    factory = Made()
                    transport = self.reactor.adoptStreamConnection(
                        accepted.fileno(), socket.AF_INET, factory
                    )
                number = peer.getsockname()[1]
                self.assertEqual(
                    repr(transport), f"<App #{number} on {listening.getsockname()[1]}>"
                )
                [app] = factory.made
                self.assertIs(app.transport, transport)
                peer.send(b"hello")
                self.until(lambda: app.received == b"hello")
                transport.loseConnection()
                self.assertEqual(self.end_of_blocking(peer), b"")
        self.until_lost(app)
        self.assertIsInstance(app.reason.value, ConnectionDone)

    def end_of_blocking(self, peer: socket.socket) -> bytes:
        peer.setblocking(False)
        return self.end_of(peer)


class LimitTests(ReactorCase):
    """How many our own port accepts in a turn."""

    def test_limit(self) -> None:
        """
        No more than 64, so that those that are there already have their turn too; and with few
        who come, no more than came the last time.
        """
        factory = Made()
        port = self.reactor.listenTCP(0, factory, backlog=400, interface="127.0.0.1")
        for _ in range(300):
            self.raw(port)
        counts = []
        while len(factory.made) < 300:
            before = len(factory.made)
            self.turn()
            counts.append(len(factory.made) - before)
        self.assertEqual(counts, [64, 64, 64, 64, 44])
        self.assertEqual(port.numberAccepts, 44)
        for expected in (1, 2, 1, 2):
            self.raw(port)
            # A connection is made for its client a moment before there is one to be accepted.
            select.select([port], [], [], 100)
            self.turn()
            self.assertEqual(port.numberAccepts, expected)
        self.assertEqual(len(factory.made), 304)

    def test_no_memory(self) -> None:
        """Where there is none to accept with, the port waits; it is not closed."""
        factory = Made()
        port = self.listen(factory)
        assert isinstance(port, _tcp.Port)
        there, failures = False, 0

        def has_room() -> bool:
            nonlocal failures
            if not there:
                failures += 1
                raise MemoryError
            return True

        port.has_room = has_room
        peer = self.raw(port)
        with capturedLogs() as events:
            self.until(lambda: failures == 2)
            there = True
            self.until(lambda: len(factory.made) == 1)
        self.assertEqual(
            formatEvent(events[0]),
            f"accepting nobody on {port.getHost().port} for now: Cannot allocate memory",
        )
        del peer

    def test_no_memory_for_one(self) -> None:
        """A connection that there is no memory for is lost; it is counted, and the port goes on."""
        lost = ROOM.lost
        built = 0

        class Once(Made):
            def buildProtocol(self, addr: Any) -> Any:
                nonlocal built
                built += 1
                if built == 1:
                    raise MemoryError
                return super().buildProtocol(addr)

        factory = Once()
        port = self.listen(factory)
        self.assertEqual(self.end_of(self.raw(port)), b"")
        self.assertEqual(ROOM.lost, lost + 1)
        peer = self.raw(port)
        self.until(lambda: len(factory.made) == 1)
        del peer

    def test_no_room(self) -> None:
        """Nobody is accepted for whom there is no room, as the one has it who is asked."""
        factory = Made()
        port = self.listen(factory)
        assert isinstance(port, _tcp.Port)
        left = 2

        def has_room() -> bool:
            nonlocal left
            left -= 1
            return left >= 0

        port.has_room = has_room
        peers = [self.raw(port) for _ in range(3)]
        self.until(lambda: port.pauses == 2)
        self.assertEqual(len(factory.made), 2)
        left = 10
        self.until(lambda: len(factory.made) == len(peers))


class RefusedByFactoryTests(ReactorCase):
    """What our own port does with a connection for which there is no protocol."""

    def test_error(self) -> None:
        """It is closed at once, and not when the last has let go of what was logged."""

        def fail() -> App:
            raise ValueError("in buildProtocol")

        peer = self.raw(self.listen(Made(fail)))
        with capturedLogs():
            self.assertEqual(self.end_of(peer), b"")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class TwistedsPortTests(PortTests):
    """The same of Twisted's own reactor."""

    make_reactor = staticmethod(twisteds_reactor)


class TwistedsAdoptTests(AdoptTests):
    """The same of Twisted's own reactor."""

    make_reactor = staticmethod(twisteds_reactor)
