"""Tests for L{twisted_bioconn.connector}: calls from inside it, and what is kept and shared."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from collections.abc import Callable, Sequence

from cryptography import x509
from OpenSSL import SSL

from tests.context_case import ContextCase
from tests.engines import EngineCase, on_both_engines
from tests.records import APPLICATION_DATA, HANDSHAKE, KEY_UPDATE, KeyLog
from tests.tls_material import (
    TLS13,
    VERSIONS,
    pair,
)
from twisted_bioconn import _openssl
from twisted_bioconn.connector import Connector, State, WriteBuffer
from twisted_bioconn.errors import PeerError, TruncatedError, UsageError
from twisted_bioconn.testing import Loopback
from twisted_bioconn.verify import CertificateRefused, HostVerifier


@on_both_engines
class ReentrancyTests(ContextCase):
    """Our own methods, called inside a callback of OpenSSL's."""

    def inside(
        self, version: int, is_client: bool, act: Callable[[Connector], object]
    ) -> tuple[Loopback, list[object]]:
        """
        A connection in whose info callback, once in each call of OpenSSL, something is done.

        @return: with it, what was raised.
        """
        raised: list[object] = []
        contexts = self.contexts(version)
        loops: list[Loopback] = []
        calls: set[int] = set()

        def info(connection: SSL.Connection, where: int, _: int) -> None:
            if not loops:
                return
            connector = loops[0].client if is_client else loops[0].server
            call = len(loops[0].crossed)
            if call in calls or not where & SSL.SSL_CB_LOOP:
                return
            calls.add(call)
            if not connector.inside_openssl:
                raised.append("not inside")
            try:
                act(connector)
            except (UsageError, PeerError) as error:
                raised.append(type(error))
            except BaseException as error:
                raised.append(error)

        contexts[0 if is_client else 1].set_info_callback(info)
        loop = self.meet(contexts)
        loops.append(loop)
        loop.pump()
        return loop, raised

    def every(
        self, act: Callable[[Connector], object]
    ) -> list[tuple[Loopback, Connector, Connector, list[object]]]:
        found = []
        for version in VERSIONS:
            for is_client in (True, False):
                loop, raised = self.inside(version, is_client, act)
                ends = (loop.client, loop.server)
                ours, peer = ends if is_client else ends[::-1]
                found.append((loop, ours, peer, raised))
        return found

    def received(self, loop: Loopback, connector: Connector) -> bytes:
        return loop.received_by_client if connector is loop.client else loop.received_by_server

    def test_write(self) -> None:
        """What is written there goes out, in order."""
        count = 0

        def act(connector: Connector) -> None:
            nonlocal count
            count += 1
            connector.write(b"%d " % count)

        for loop, ours, peer, raised in self.every(act):
            self.assertEqual(raised, [])
            self.assertIs(ours.state, State.OPEN)
            numbers = [int(each) for each in self.received(loop, peer).split()]
            self.assertGreater(len(numbers), 0)
            self.assertEqual(numbers, list(range(numbers[0], numbers[0] + len(numbers))))

    def test_close(self) -> None:
        """A close asked for there happens as soon as it can."""
        for loop, ours, peer, raised in self.every(lambda connector: connector.close()):
            self.assertEqual(raised, [])
            self.assertIs(ours.state, State.LOCAL_CLOSED)
            self.assertIs(peer.state, State.REMOTE_CLOSED)
            peer.write(b"still")
            loop.pump()
            self.assertEqual(self.received(loop, ours), b"still")

    def test_take_and_read(self) -> None:
        """Neither moves a byte there, or loses one."""
        got: list[bytes] = []

        def act(connector: Connector) -> None:
            got.append(connector.read())
            got.append(connector.take())

        for loop, ours, peer, raised in self.every(act):
            self.assertEqual(raised, [])
            self.assertEqual((ours.state, peer.state), (State.OPEN, State.OPEN))
            ours.write(b"there")
            peer.write(b"back")
            loop.pump()
            self.assertEqual(self.received(loop, peer), b"there")
            self.assertEqual(self.received(loop, ours), b"back")
        self.assertEqual(set(got), {b""})

    def test_begin(self) -> None:
        """It has begun."""
        for _, ours, _peer, raised in self.every(lambda connector: connector.start_handshake()):
            self.assertEqual(set(raised), {UsageError})
            self.assertIs(ours.state, State.OPEN)

    def test_feed(self) -> None:
        """What is fed there is looked at: here it is noise."""
        fed = lambda connector: connector.feed(b"\x16\x03\x03\x00\x04\x63\0\0\0")  # noqa: E731
        for _, ours, _peer, raised in self.every(fed):
            self.assertEqual(raised, [])
            self.assertIs(ours.state, State.FAILED)

    def test_feed_the_rest(self) -> None:
        """A flight of which the rest is fed there completes the handshake with no more calls."""
        for version in VERSIONS:
            rest: list[bytes] = []
            feed: list[Callable[[bytes], None]] = []

            def info(
                connection: SSL.Connection,
                where: int,
                _: int,
                rest: list[bytes] = rest,
                feed: list[Callable[[bytes], None]] = feed,
            ) -> None:
                if rest:
                    feed[0](rest.pop())

            contexts = self.contexts(version)
            contexts[0].set_info_callback(info)
            loop = self.meet(contexts)
            connector = loop.client
            feed.append(connector.feed)
            loop.server.feed(connector.take())
            flight = b"".join(iter(loop.server.take, b""))
            rest.append(flight[200:])
            connector.feed(flight[:200])
            self.assertEqual(rest, [])
            if version == TLS13:
                self.assertIs(connector.state, State.OPEN)
            loop.pump()
            self.assertEqual((connector.state, loop.server.state), (State.OPEN, State.OPEN))

    def test_end_of_wire(self) -> None:
        """A wire that ends there is a failure, and the only one."""
        for _, ours, _peer, raised in self.every(lambda connector: connector.end_of_wire()):
            self.assertEqual(raised, [TruncatedError])
            self.assertIs(ours.state, State.FAILED)
            self.assertIsInstance(ours.error, TruncatedError)
            self.assertRaises(TruncatedError, ours.read)

    def test_end_of_wire_and_a_fault(self) -> None:
        """Of two failures the first counts."""

        def choose(connection: SSL.Connection, offered: list[bytes]) -> bytes:
            self.assertRaises(TruncatedError, loop.server.end_of_wire)
            raise ValueError("boom")

        contexts = self.contexts(TLS13)
        contexts[0].set_alpn_protos([b"h2"])
        contexts[1].set_alpn_select_callback(choose)
        loop = self.meet(contexts)
        self.assertRaises(TruncatedError, loop.server.feed, loop.client.take())
        self.assertIs(loop.server.state, State.FAILED)
        # The alert that OpenSSL sent all the same is there for the peer.
        self.assertEqual(loop.server.take()[0], 21)

    def test_let_go(self) -> None:
        """Neither letting go nor asking for memory does harm there."""

        def act(connector: Connector) -> None:
            self.assertFalse(connector.renew_bios())
            connector.forget()

        for _, ours, peer, raised in self.every(act):
            self.assertEqual(raised, [])
            self.assertIn(ours.state, (State.OPEN, State.REMOTE_CLOSED))
            self.assertIs(peer.state, State.OPEN)

    def forged(self, act: Callable[[Connector], object]) -> tuple[Loopback, list[bytes]]:
        """An open server in which something is done while it reads a key update among data."""
        contexts = self.contexts(TLS13)
        log = KeyLog(contexts[0])
        armed: list[Connector] = []

        def info(connection: SSL.Connection, where: int, _: int) -> None:
            if armed:
                self.assertTrue(armed[0].inside_openssl)
                act(armed.pop())

        contexts[1].set_info_callback(info)
        loop = self.meet(contexts)
        loop.pump()
        records = log.traffic(loop.client.connection, from_client=True)
        flight = [records.seal(APPLICATION_DATA, b"before, ")]
        flight.append(records.seal(HANDSHAKE, KEY_UPDATE + b"\0"))
        records.update()
        flight.append(records.seal(APPLICATION_DATA, b"after"))
        armed.append(loop.server)
        return loop, flight

    def test_close_while_reading(self) -> None:
        """A close asked for while OpenSSL reads follows the read."""
        loop, flight = self.forged(lambda connector: connector.close())
        loop.to_server.put(b"".join(flight))
        self.assertEqual(loop.received_by_server, b"before, after")
        self.assertIs(loop.server.state, State.LOCAL_CLOSED)
        self.assertIs(loop.client.state, State.REMOTE_CLOSED)

    def test_write_and_close_while_reading(self) -> None:
        """What was written goes first."""

        def act(connector: Connector) -> None:
            connector.write(b"last words")
            connector.close()
            self.assertEqual(connector.take(), b"")
            self.assertFalse(connector.wants_write)

        loop, flight = self.forged(act)
        loop.to_server.put(b"".join(flight))
        self.assertEqual(loop.received_by_client, b"last words")
        self.assertIs(loop.client.state, State.REMOTE_CLOSED)

    def test_end_of_wire_while_reading(self) -> None:
        """What had been read is not lost by it."""

        def act(connector: Connector) -> None:
            self.assertRaises(TruncatedError, connector.end_of_wire)

        loop, flight = self.forged(act)
        loop.to_server.put(b"".join(flight))
        self.assertEqual(loop.received_by_server, b"before, after")
        self.assertIs(loop.server.state, State.FAILED)
        self.assertRaises(TruncatedError, loop.server.read)

    def test_close_of_the_peer_after_the_end(self) -> None:
        """A close_notify that is read when the end was seen already changes nothing."""

        def act(connector: Connector) -> None:
            self.assertRaises(TruncatedError, connector.end_of_wire)

        loop, flight = self.forged(act)
        loop.client.close()
        # Of the old keys: OpenSSL knows of no update, so it comes first.
        loop.server.feed(flight[0])
        self.assertEqual(loop.server.read(), b"before, ")

    def test_another_connection_while_reading(self) -> None:
        """
        What a callback does with another connection does not mix with what is being read: they
        use one buffer.
        """
        other = self.connectors(*pair())
        other.pump()

        def act(connector: Connector) -> None:
            other.client.write(b"secret of another connection" * 10)
            other.pump()
            other.server.write(b"and its answer" * 10)
            other.pump()

        loop, flight = self.forged(act)
        loop.to_server.put(b"".join(flight))
        self.assertEqual(loop.received_by_server, b"before, after")
        self.assertEqual(other.received_by_server, b"secret of another connection" * 10)
        self.assertEqual(other.received_by_client, b"and its answer" * 10)


@on_both_engines
class DrainedTests(EngineCase):
    """The buffer tells that it has drained in the middle of encrypting."""

    def meet(self, drained: Callable[[Connector], object]) -> Loopback:
        buffer = WriteBuffer(10, 5, None, None, lambda: drained(connector))
        client_, server_ = pair()
        connector = Connector(client_, True, buffer)
        loop = Loopback(connector, server_)
        loop.pump()
        return loop

    def test_more_is_written(self) -> None:
        """It comes after what was being encrypted, also where the writer takes at once."""

        def drained(connector: Connector) -> None:
            if connector.pending_plaintext == 0 and not written:
                written.append(connector.take())
                connector.write(b"second")
                written.append(connector.take())

        written: list[bytes] = []
        loop = self.meet(drained)
        loop.client.write(b"first, more than ten bytes, ")
        loop.pump()
        self.assertEqual(loop.received_by_server, b"first, more than ten bytes, second")
        self.assertEqual(written, [b"", b""])

    def test_close(self) -> None:
        """A close then comes after it too."""
        loop = self.meet(lambda connector: connector.close())
        loop.client.write(b"more than ten bytes")
        loop.client.take()
        self.assertIs(loop.client.state, State.OPEN)
        self.assertTrue(loop.client.wants_write)
        loop.client.take()
        self.assertIs(loop.client.state, State.LOCAL_CLOSED)

    def test_end_of_wire(self) -> None:
        """A wire found to have ended then is a failure, also in the middle of a close."""

        def drained(connector: Connector) -> None:
            self.assertRaises(TruncatedError, connector.end_of_wire)

        for close in (False, True):
            loop = self.meet(drained)
            loop.client.write(b"more than ten bytes")
            if close:
                loop.client.close()
            loop.pump()
            self.assertIs(loop.client.state, State.FAILED)
            self.assertIsInstance(loop.client_error, TruncatedError)

    def test_raises(self) -> None:
        """What it raises fails the connection: bytes went out of the buffer and were not sent."""

        def drained(connector: Connector) -> None:
            raise ValueError("boom")

        loop = self.meet(drained)
        loop.client.write(b"more than ten bytes")
        error = self.assertRaises(PeerError, loop.client.take)
        self.assertEqual(str(error), "a callback of ours failed: boom")
        self.assertFalse(loop.client.inside_openssl)
        self.assertIs(loop.client.state, State.FAILED)


@on_both_engines
class ReferenceTests(ContextCase):
    """Nothing is kept when a connection is let go, whatever became of it."""

    def test_no_cycle(self) -> None:
        """A connector that has failed is freed at once, with its connection."""
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        for version in VERSIONS:
            # A Loopback has cycles of its own.
            client_, server_ = pair(version)
            peer, connector = Connector(client_, True), Connector(server_, False)
            connection = weakref.ref(server_)
            while connector.state is not State.OPEN:
                connector.feed(b"".join(iter(peer.take, b"")))
                peer.feed(b"".join(iter(connector.take, b"")))
            connector.feed(b"\x17\x03\x03\x00\x20" + bytes(32))
            for _ in range(3):
                try:
                    connector.read()
                except PeerError as error:
                    self.assertIsNot(error, connector.error)
            connector.end_of_wire()
            del connector, server_
            self.assertIs(connection(), None)

    def test_no_cycle_of_a_truncation(self) -> None:
        """The same for the end of the wire."""
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        connection, _ = pair()
        reference = weakref.ref(connection)
        connector = Connector(connection, True)
        with contextlib.suppress(TruncatedError):
            connector.end_of_wire()
        del connector, connection
        self.assertIs(reference(), None)

    def test_no_cycle_of_a_refusal(self) -> None:
        """The same for a peer that was refused, once it is let go."""
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        for version in VERSIONS:
            client_, server_ = pair(version)
            _openssl.set_verification(client_, SSL.VERIFY_PEER, HostVerifier("elsewhere.example"))
            reference = weakref.ref(client_)
            ours, peer = Connector(client_, True), Connector(server_, False)
            with contextlib.suppress(PeerError):
                for _ in range(3):
                    peer.feed(b"".join(iter(ours.take, b"")))
                    ours.feed(b"".join(iter(peer.take, b"")))
            self.assertIn("not for elsewhere.example", str(ours.error))
            self.assertIsInstance(ours.refusal, CertificateRefused)
            ours.forget()
            self.assertIs(ours.refusal, None)
            del ours, client_
            self.assertIs(reference(), None)

    def test_errors_do_not_grow(self) -> None:
        """A traceback is not made longer by each time that the error is raised."""
        connector = self.connectors(*pair()).client
        self.assertRaises(TruncatedError, connector.end_of_wire)
        depths = set()
        for _ in range(50):
            try:
                connector.read()
            except TruncatedError as error:
                depth, at = 0, error.__traceback__
                while at is not None:
                    depth, at = depth + 1, at.tb_next
                depths.add(depth)
        self.assertEqual(len(depths), 1)
        assert connector.error is not None
        self.assertIs(connector.error.__traceback__, None)

    def test_refused(self) -> None:
        """A peer that was refused is not kept: neither by the exception nor by the check."""
        for version in VERSIONS:
            connection, other = pair(version)
            reference = weakref.ref(connection)

            class Check:
                """A check that knows the connection, as one that asks a protocol does."""

                def __init__(self, connection: SSL.Connection) -> None:
                    self.connection = connection

                def __call__(self, chain: Sequence[x509.Certificate]) -> None:
                    HostVerifier("elsewhere.example")(chain)

            _openssl.set_verification(connection, SSL.VERIFY_PEER, Check(connection))
            loop = self.connectors(connection, other)
            loop.pump()
            self.assertIn("not for elsewhere.example", str(loop.client_error))
            del connection, loop
            gc.collect()
            self.assertIs(reference(), None)


@on_both_engines
class ThreadTests(EngineCase):
    """Connections in several threads."""

    def test_threads(self) -> None:
        """Each sees its own plaintext and nothing of another's, read and drained in one buffer."""
        failures: list[object] = []

        def run(letter: bytes) -> None:
            try:
                loop = Loopback(*pair())
                for _ in range(20):
                    loop.client.write(letter * 200_000)
                    loop.pump()
                if loop.received_by_server != letter * 4_000_000:
                    failures.append(letter)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(letter,)) for letter in (b"a", b"b", b"c")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_in_another_thread(self) -> None:
        """A connection may go on in another thread than the one in which it began."""
        loop = self.connectors(*pair())
        loop.pump()
        loop.client.write(b"moved")
        thread = threading.Thread(target=loop.pump)
        thread.start()
        thread.join()
        self.assertEqual(loop.received_by_server, b"moved")
