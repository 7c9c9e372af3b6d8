"""Tests for L{twisted_bioconn.connector}: how connections end."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.engines import EngineCase, on_both_engines
from tests.faults import in_client_flight, in_server_flight
from tests.records import ALERT, KeyLog, Records12, Records13, split
from tests.tls_material import (
    TLS12,
    TLS13,
    VERSIONS,
    authority,
    client_connection,
    context,
    pair,
    server_connection,
    server_context,
)
from twisted_bioconn.connector import Connector, State
from twisted_bioconn.errors import Direction, PeerError, TruncatedError, UsageError
from twisted_bioconn.testing import Loopback


@on_both_engines
class ClosingTests(EngineCase):
    """close_notify, and the want of it."""

    def each(self) -> list[tuple[Loopback, Connector, Connector]]:
        """An open connection of each version, seen from either end: ours and the peer's."""
        made = []
        for version in VERSIONS:
            for ours_is_client in (True, False):
                loop = self.connectors(*pair(version))
                loop.pump()
                ends = (loop.client, loop.server)
                ours, peer = ends if ours_is_client else ends[::-1]
                made.append((loop, ours, peer))
        return made

    def received(self, loop: Loopback, connector: Connector) -> bytes:
        return loop.received_by_client if connector is loop.client else loop.received_by_server

    def test_half_close(self) -> None:
        """After our close the peer goes on for as long as it likes, and its bytes arrive."""
        for loop, ours, peer in self.each():
            ours.write(b"the last of it")
            ours.close()
            self.assertIs(ours.state, State.LOCAL_CLOSED)
            self.assertTrue(ours.wants_read)
            loop.pump()
            self.assertIs(peer.state, State.REMOTE_CLOSED)
            self.assertFalse(peer.wants_read)
            self.assertEqual(self.received(loop, peer), b"the last of it")
            for _ in range(3):
                peer.write(bytes(100_000))
                loop.pump()
            self.assertEqual(len(self.received(loop, ours)), 300_000)
            peer.close()
            loop.pump()
            self.assertEqual((ours.state, peer.state), (State.CLOSED, State.CLOSED))
            self.assertFalse(ours.wants_read or ours.wants_write)
            self.assertFalse(peer.wants_read or peer.wants_write)

    def test_at_the_same_time(self) -> None:
        """Both close before either hears of it."""
        for loop, ours, peer in self.each():
            ours.write(b"ours")
            ours.close()
            peer.write(b"the peer's")
            peer.close()
            loop.pump()
            self.assertEqual((ours.state, peer.state), (State.CLOSED, State.CLOSED))
            self.assertEqual(self.received(loop, peer), b"ours")
            self.assertEqual(self.received(loop, ours), b"the peer's")

    def test_close_twice(self) -> None:
        """It is the same as once."""
        for _, ours, _peer in self.each():
            ours.close()
            first = ours.take()
            self.assertEqual(first[0], ALERT if version_of(ours) == "TLSv1.2" else 23)
            ours.close()
            self.assertEqual(ours.take(), b"")
            self.assertIs(ours.state, State.LOCAL_CLOSED)

    def test_close_before_the_handshake(self) -> None:
        """It waits for the handshake, and what was written goes first."""
        for version in VERSIONS:
            for closer in ("client", "server"):
                loop = self.connectors(*pair(version))
                connector = getattr(loop, closer)
                connector.write(b"only this")
                connector.close()
                self.assertIs(connector.state, State.IDLE)
                error = self.assertRaises(UsageError, connector.write, b"more")
                self.assertEqual(
                    str(error),
                    "nothing can be written after close: closed by us, the peer may go on",
                )
                loop.pump()
                self.assertIs(connector.state, State.LOCAL_CLOSED)
                peer = loop.server if closer == "client" else loop.client
                self.assertIs(peer.state, State.REMOTE_CLOSED)
                self.assertEqual(self.received(loop, peer), b"only this")

    def test_write_after(self) -> None:
        """It is refused, with the state in the sentence."""
        for loop, ours, peer in self.each():
            ours.close()
            error = self.assertRaises(UsageError, ours.write, b"x")
            self.assertIn("closed by us", str(error))
            loop.pump()
            peer.close()
            loop.pump()
            error = self.assertRaises(UsageError, peer.write, b"x")
            self.assertIn("nothing can be written after close", str(error))
            loop.to_client.cut()
        loop, ours, _ = self.each()[0]
        loop.to_client.cut()
        error = self.assertRaises(UsageError, ours.write, b"x")
        self.assertEqual(str(error), "nothing can be written after close: failed")

    def test_much_before_close(self) -> None:
        """All of a large write goes before close_notify."""
        for loop, ours, peer in self.each():
            ours.write(bytes(1_000_000))
            ours.close()
            loop.pump()
            self.assertEqual(len(self.received(loop, peer)), 1_000_000)
            self.assertIs(peer.state, State.REMOTE_CLOSED)

    def test_clean_end(self) -> None:
        """The end of the wire after close_notify is no error, in any of the states."""
        for loop, ours, peer in self.each():
            ours.close()
            loop.pump()
            peer.end_of_wire()
            self.assertIs(peer.state, State.REMOTE_CLOSED)
            peer.close()
            loop.pump()
            peer.end_of_wire()
            ours.end_of_wire()
            self.assertEqual((ours.state, peer.state), (State.CLOSED, State.CLOSED))

    def test_truncation(self) -> None:
        """Without it, it is one; also where our own close_notify has gone."""
        for closed in (False, True):
            for _, ours, _peer in self.each():
                if closed:
                    ours.close()
                error = self.assertRaises(TruncatedError, ours.end_of_wire)
                self.assertEqual(
                    str(error),
                    "the connection ended with no close_notify: bytes may be missing",
                )
                self.assertEqual((error.alert, error.direction), (None, None))
                self.assertIs(ours.state, State.FAILED)
                self.assertIsInstance(ours.error, TruncatedError)
                self.assertRaises(TruncatedError, ours.read)
                ours.end_of_wire()

    def test_truncation_in_the_handshake(self) -> None:
        """The sentence says when."""
        for version in VERSIONS:
            loop = self.connectors(*pair(version))
            loop.server.feed(loop.client.take())
            for connector in (loop.client, loop.server):
                error = self.assertRaises(TruncatedError, connector.end_of_wire)
                self.assertEqual(str(error), "the connection ended in mid-handshake")

    def test_close_in_the_handshake(self) -> None:
        """The peer's close_notify in mid-handshake is a failure, and says what it was."""
        for version in VERSIONS:
            loop = self.connectors(*pair(version))
            loop.client.take()
            error = self.assertRaises(PeerError, loop.client.feed, b"\x15\x03\x03\0\2\1\0")
            self.assertEqual(error.alert, "close_notify")
            self.assertEqual(error.direction, Direction.RECEIVED)
            self.assertEqual(
                str(error),
                "the peer closed the connection before the handshake was done"
                " (alert close_notify, received)",
            )

    def test_bytes_after_close_notify(self) -> None:
        """They are ignored (RFC 8446, section 6.1), and not kept either."""
        for loop, ours, peer in self.each():
            peer.write(b"before")
            peer.close()
            flight = b"".join(iter(peer.take, b""))
            ours.feed(flight + b"\x17\x03\x03\x00\x20" + bytes(32))
            self.assertEqual(ours.read(), b"before")
            for _ in range(100):
                ours.feed(bytes(1000))
                self.assertEqual((ours.read(), ours.unread), (b"", 0))
            self.assertIs(ours.state, State.REMOTE_CLOSED)
            ours.write(b"still")
            loop.pump()
            self.assertEqual(self.received(loop, peer), b"still")

    def test_bytes_after_the_end(self) -> None:
        """They are discarded too."""
        for _, ours, _peer in self.each():
            self.assertRaises(TruncatedError, ours.end_of_wire)
            ours.feed(bytes(1000))
            self.assertEqual(ours.unread, 0)

    def test_unsent_is_forgotten(self) -> None:
        """What can no longer be sent is not kept."""
        for _, ours, _peer in self.each():
            ours.write(bytes(1000))
            self.assertRaises(TruncatedError, ours.end_of_wire)
            self.assertEqual((ours.pending_plaintext, ours.take()), (0, b""))

    def test_close_does_not_wait_for_the_peer(self) -> None:
        """close_notify goes out in the middle of a record of the peer's."""
        for _, ours, peer in self.each():
            peer.write(b"half of this")
            flight = peer.take()
            ours.feed(flight[:10])
            self.assertEqual(ours.read(), b"")
            ours.close()
            self.assertIs(ours.state, State.LOCAL_CLOSED)
            ours.feed(flight[10:])
            self.assertEqual(ours.read(), b"half of this")

    def test_close_after_failure(self) -> None:
        """There is nothing to close, and that is no mistake."""
        for _, ours, _peer in self.each():
            self.assertRaises(TruncatedError, ours.end_of_wire)
            ours.close()
            ours.forget()
            self.assertIs(ours.state, State.FAILED)


def version_of(connector: Connector) -> str:
    return connector.connection.get_protocol_version_name()


@on_both_engines
class PeersCloseTests(EngineCase):
    """Closes by hand, as no OpenSSL sends them."""

    def forge(self, version: int) -> tuple[Loopback, Records12 | Records13]:
        """An open connection, and the records of its client."""
        made = context(True, trusted=[authority().certificate], versions=(version, version))
        log = KeyLog(made)
        loop = self.connectors(client_connection(made), server_connection(server_context(version)))
        loop.pump()
        connection = loop.client.connection
        if version == TLS12:
            return loop, Records12(connection, from_client=True)
        return loop, log.traffic(connection, from_client=True)

    def test_user_canceled_first(self) -> None:
        """
        A peer that says user_canceled before close_notify has closed (RFC 8446, section 6.1).
        OpenSSL calls that an error.
        """
        loop, records = self.forge(TLS13)
        loop.to_server.put(records.seal(23, b"data") + records.seal(ALERT, b"\x01\x5a"))
        self.assertIs(loop.server.state, State.OPEN)
        loop.to_server.put(records.seal(23, b", more") + records.seal(ALERT, b"\x01\x00"))
        self.assertIs(loop.server.state, State.REMOTE_CLOSED)
        self.assertEqual(loop.received_by_server, b"data, more")
        loop.server.write(b"still")
        loop.pump()
        self.assertEqual(loop.received_by_client, b"still")

    def test_user_canceled_in_the_handshake(self) -> None:
        """The same in mid-handshake is the peer's close."""
        for flight in (b"\x15\x03\x03\0\2\1\x5a\x15\x03\x03\0\2\1\0", b"\x15\x03\x03\0\2\1\0"):
            loop = self.connectors(*pair())
            loop.client.take()
            error = self.assertRaises(PeerError, loop.client.feed, flight)
            self.assertEqual(error.alert, "close_notify")

    def test_user_canceled_in_the_handshake_encrypted(self) -> None:
        """The same where there are keys already, at either end."""
        for meet, judge in ((in_server_flight, "client"), (in_client_flight, "server")):
            for alerts in ([b"\x01\x5a", b"\x01\x00"], [b"\x01\x00"]):
                flight = [(ALERT, alert) for alert in alerts]

                def instead(
                    kind: int, content: bytes, flight: list[tuple[int, bytes]] = flight
                ) -> list[tuple[int, bytes]]:
                    """In the place of the first record all of it, and nothing after that."""
                    sent = flight.copy()
                    flight.clear()
                    return sent

                error = getattr(meet(instead), f"{judge}_error")
                self.assertEqual(error.alert, "close_notify")
                self.assertEqual(error.direction, Direction.RECEIVED)
                self.assertIn("closed the connection before the handshake was done", str(error))

    def test_fatal_alerts(self) -> None:
        """An alert that ends the connection has its name, whatever its level."""
        for version in VERSIONS:
            for number, name in ((80, "internal_error"), (116, "certificate_required")):
                loop, records = self.forge(version)
                loop.to_server.put(records.seal(ALERT, bytes([2, number])))
                assert loop.server_error is not None
                self.assertEqual(loop.server_error.alert, name)
                self.assertEqual(loop.server_error.direction, Direction.RECEIVED)

    def test_alert_with_no_name(self) -> None:
        """OpenSSL does not say its number; the sentence says as much."""
        for version in VERSIONS:
            for number in (121, 200):
                loop, records = self.forge(version)
                loop.to_server.put(records.seal(ALERT, bytes([2, number])))
                assert loop.server_error is not None
                self.assertEqual(
                    str(loop.server_error),
                    "the peer ended the connection with an alert that has no name here",
                )
                self.assertEqual(loop.server_error.direction, Direction.RECEIVED)

    def test_alert_with_no_name_in_the_clear(self) -> None:
        """Before there are keys the number can be read off the wire, in pieces too."""
        alert = b"\x15\x03\x03\0\2\2\x79"
        for pieces in ([alert], [alert[at : at + 1] for at in range(7)]):
            loop = self.connectors(*pair())
            loop.client.take()
            for piece in pieces[:-1]:
                loop.client.feed(piece)
            error = self.assertRaises(PeerError, loop.client.feed, pieces[-1])
            self.assertEqual(error.direction, Direction.RECEIVED)
            self.assertEqual(error.alert, "ech_required" if len(pieces) == 1 else None)

    def test_warnings(self) -> None:
        """A warning ends nothing."""
        loop, records = self.forge(TLS12)
        loop.to_server.put(records.seal(ALERT, b"\x01\x5a") + records.seal(23, b"data"))
        self.assertEqual((loop.server.state, loop.received_by_server), (State.OPEN, b"data"))


class RecordsTests(SynchronousTestCase):
    """The records made by hand are as OpenSSL makes them."""

    def test_opened(self) -> None:
        """What OpenSSL seals in TLS 1.3 can be opened, through key updates of one end."""
        for suite in (b"TLS_AES_128_GCM_SHA256", b"TLS_AES_256_GCM_SHA384"):
            trusted = [authority().certificate]
            made = context(True, trusted=trusted, versions=(TLS13, TLS13), ciphersuites=suite)
            log = KeyLog(made)
            loop = Loopback(client_connection(made), server_connection())
            loop.pump()
            loop.client.write(b"hello")
            loop.client.close()
            flight = b"".join(iter(loop.client.take, b""))
            records = log.traffic(loop.client.connection, from_client=True)
            opened = [records.open(each) for each in split(flight)]
            self.assertEqual(opened, [(23, b"hello"), (ALERT, b"\x01\x00")])
