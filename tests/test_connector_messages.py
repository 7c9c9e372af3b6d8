"""
Tests for L{twisted_bioconn.connector}: handshake messages that come after the handshake.

No OpenSSL that Python can reach begins a key update or sends a message in pieces, so the peer's
records are made by hand here (L{tests.records}).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

from OpenSSL import SSL

from tests.engines import EngineCase, on_both_engines
from tests.records import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    KEY_UPDATE,
    KeyLog,
    Records12,
    Records13,
    message,
    record,
    split,
)
from tests.tls_material import (
    TLS12,
    TLS13,
    authority,
    client_connection,
    context,
    pair,
    server,
    server_connection,
)
from twisted_bioconn.connector import Connector, State
from twisted_bioconn.errors import Direction, PeerError
from twisted_bioconn.testing import Loopback, Way

SUITES = (b"TLS_AES_128_GCM_SHA256", b"TLS_AES_256_GCM_SHA384")


class ForgedCase(EngineCase):
    """Open TLS 1.3 connections with one end's records made by hand."""

    def forge(self, from_client: bool, suite: bytes = SUITES[0]) -> tuple[Loopback, Records13]:
        """
        An open connection, and the records of one end.  That end's OpenSSL must not send any more.
        """
        trusted = [authority().certificate]
        made = context(True, trusted=trusted, versions=(TLS13, TLS13), ciphersuites=suite)
        log = KeyLog(made)
        loop = self.connectors(client_connection(made), server_connection())
        loop.pump()
        records = log.traffic(loop.client.connection, from_client)
        way = Way.TO_SERVER if from_client else Way.TO_CLIENT
        records.skip(b"".join(piece for at, piece in loop.crossed if at is way))
        return loop, records


@on_both_engines
class KeyUpdateTests(ForgedCase):
    """The peer's key updates: RFC 8446, section 4.6.3."""

    def test_not_requested(self) -> None:
        """The peer goes on with new keys; we need not."""
        for suite in SUITES:
            for from_client in (True, False):
                loop, records = self.forge(from_client, suite)
                wire = loop.to_server if from_client else loop.to_client
                ours = loop.server if from_client else loop.client
                wire.put(records.seal(APPLICATION_DATA, b"old, "))
                wire.put(records.seal(HANDSHAKE, KEY_UPDATE + b"\0"))
                records.update()
                wire.put(records.seal(APPLICATION_DATA, b"new"))
                self.assertEqual(
                    loop.received_by_server if from_client else loop.received_by_client,
                    b"old, new",
                )
                self.assertEqual((ours.state, ours.wants_write), (State.OPEN, False))

    def test_requested(self) -> None:
        """
        To read makes OpenSSL write: our update goes out with nothing written, and what is written
        then is under the new keys, which the peer's OpenSSL follows.
        """
        for suite in SUITES:
            for from_client in (True, False):
                loop, records = self.forge(from_client, suite)
                ours = loop.server if from_client else loop.client
                for turn in range(1, 4):
                    update = records.seal(HANDSHAKE, KEY_UPDATE + b"\1")
                    records.update()
                    ours.feed(update)
                    self.assertFalse(ours.wants_write)
                    self.assertEqual(ours.read(), b"")
                    if from_client:
                        loop.server.write(b"answer")
                    else:
                        loop.client.write(b"answer")
                    self.assertTrue(ours.wants_write)
                    loop.pump()
                    self.assertEqual(
                        loop.received_by_client if from_client else loop.received_by_server,
                        b"answer" * turn,
                    )

    def test_answered_without_a_write(self) -> None:
        """The answer waits for nobody."""
        loop, records = self.forge(from_client=True)
        loop.server.feed(records.seal(HANDSHAKE, KEY_UPDATE + b"\1"))
        loop.server.read()
        flight = b"".join(iter(loop.server.take, b""))
        if not flight:
            # OpenSSL sends its own with the next record that it has to send: that is allowed.
            loop.server.write(b"x")
            flight = b"".join(iter(loop.server.take, b""))
        # A message of five bytes, its type, and a tag of sixteen.
        self.assertIn(5 + 5 + 1 + 16, [len(each) for each in split(flight)])

    def test_after_our_close(self) -> None:
        """A peer that asks for ours when we have closed gets no error, and its bytes arrive."""
        for from_client in (True, False):
            loop, records = self.forge(from_client)
            ours = loop.server if from_client else loop.client
            wire = loop.to_server if from_client else loop.to_client
            ours.close()
            loop.pump()
            update = records.seal(HANDSHAKE, KEY_UPDATE + b"\1")
            records.update()
            wire.put(update)
            wire.put(records.seal(APPLICATION_DATA, b"still"))
            self.assertEqual(
                loop.received_by_server if from_client else loop.received_by_client, b"still"
            )
            wire.put(records.seal(ALERT, b"\1\0"))
            self.assertIs(ours.state, State.CLOSED)

    def test_many(self) -> None:
        """A peer that asks again and again gets no more than it sent."""
        loop, records = self.forge(from_client=True)
        sent = 0
        for _ in range(200):
            update = records.seal(HANDSHAKE, KEY_UPDATE + b"\1")
            records.update()
            loop.server.feed(update)
            loop.server.read()
            sent += len(update)
        self.assertLessEqual(loop.server.pending_ciphertext, sent)
        loop.server.write(b"done")
        loop.pump()
        self.assertEqual(loop.received_by_client, b"done")

    def test_in_the_middle_of_data(self) -> None:
        """Many records and an update among them, read at once."""
        loop, records = self.forge(from_client=True)
        flight, expected = b"", b""
        for turn in range(60):
            data = bytes([turn]) * 16000
            expected += data
            flight += records.seal(APPLICATION_DATA, data)
            if turn % 7 == 3:
                flight += records.seal(HANDSHAKE, KEY_UPDATE + b"\1")
                records.update()
        loop.server.feed(flight)
        self.assertEqual(loop.server.read(), expected)
        loop.server.write(b"done")
        loop.pump()
        self.assertEqual(loop.received_by_client, b"done")

    def test_no_sense(self) -> None:
        """
        An update that asks for something else.  OpenSSL has one reason for two alerts, so that
        none is named.
        """
        for body in (KEY_UPDATE + b"\2", b"\x18\0\0\0"):
            loop, records = self.forge(from_client=True)
            loop.to_server.put(records.seal(HANDSHAKE, body))
            assert loop.server_error is not None and loop.client_error is not None
            self.assertEqual(str(loop.server_error), "the peer's key update makes no sense")
            self.assertIn(loop.client_error.alert, ("illegal_parameter", "decode_error"))


@on_both_engines
class MessageInPiecesTests(ForgedCase):
    """
    A message of the peer's in two records.  Between them OpenSSL will not write: neither data nor
    close_notify.
    """

    def between(self, from_client: bool = True) -> tuple[Loopback, bytes]:
        """A connection in the middle of a message, and the rest of the message."""
        loop, records = self.forge(from_client)
        first = records.seal(HANDSHAKE, KEY_UPDATE)
        rest = records.seal(HANDSHAKE, b"\0")
        (loop.to_server if from_client else loop.to_client).put(first)
        return loop, rest

    def test_write(self) -> None:
        """What is written waits, is counted, and goes out when the rest has come."""
        for from_client in (True, False):
            loop, rest = self.between(from_client)
            ours = loop.server if from_client else loop.client
            ours.write(b"one ")
            self.assertTrue(ours.wants_write)
            loop.pump()
            self.assertFalse(ours.wants_write)
            self.assertEqual(ours.pending_plaintext, 4)
            ours.write(b"two")
            loop.pump()
            self.assertEqual(ours.pending_plaintext, 7)
            self.assertFalse(ours.renew_bios())
            (loop.to_server if from_client else loop.to_client).put(rest)
            self.assertEqual(
                loop.received_by_client if from_client else loop.received_by_server, b"one two"
            )
            self.assertEqual(ours.pending_plaintext, 0)

    def test_write_alone(self) -> None:
        """With nothing written after it, it goes out all the same."""
        loop, rest = self.between()
        loop.server.write(b"alone")
        loop.pump()
        loop.server.feed(rest)
        self.assertFalse(loop.server.wants_write)
        self.assertEqual(loop.server.read(), b"")
        self.assertTrue(loop.server.wants_write)
        loop.pump()
        self.assertEqual(loop.received_by_client, b"alone")

    def test_close(self) -> None:
        """So does close_notify, which is not written twice."""
        for written in (b"", b"last words", bytes(600_000)):
            loop, rest = self.between()
            if written:
                loop.server.write(written)
            loop.server.close()
            self.assertIs(loop.server.state, State.OPEN)
            self.assertFalse(loop.server.wants_write)
            loop.pump()
            loop.server.close()
            self.assertIs(loop.server.state, State.OPEN)
            loop.to_server.put(rest)
            self.assertIs(loop.server.state, State.LOCAL_CLOSED)
            self.assertEqual(loop.received_by_client, written)
            self.assertIs(loop.client.state, State.REMOTE_CLOSED)

    def test_write_then_close(self) -> None:
        """What could not be written is not forgotten by a close."""
        loop, rest = self.between()
        loop.server.write(b"one ")
        loop.pump()
        loop.server.write(b"two")
        loop.server.close()
        loop.pump()
        self.assertEqual(loop.server.pending_plaintext, 7)
        loop.to_server.put(rest)
        self.assertEqual(loop.received_by_client, b"one two")
        self.assertIs(loop.client.state, State.REMOTE_CLOSED)

    def test_never_the_rest(self) -> None:
        """A peer that sends something else instead has failed, and nothing is kept."""
        loop, _ = self.between()
        loop.server.write(b"waits")
        loop.server.close()
        loop.pump()
        loop.to_server.cut()
        self.assertIs(loop.server.state, State.FAILED)
        self.assertEqual(loop.server.pending_plaintext, 0)


@on_both_engines
class TicketTests(ForgedCase):
    """New session tickets: RFC 8446, section 4.6.1."""

    def test_before_data(self) -> None:
        """Tickets yield no plaintext and need no answer."""
        loop = self.connectors(*pair(TLS13))
        loop.server.feed(loop.client.take())
        loop.client.feed(b"".join(iter(loop.server.take, b"")))
        loop.server.feed(b"".join(iter(loop.client.take, b"")))
        tickets = b"".join(iter(loop.server.take, b""))
        self.assertGreater(len(tickets), 200)
        self.assertEqual((loop.client.read(), loop.client.unread), (b"", 0))
        loop.client.feed(tickets)
        self.assertEqual(loop.client.unread, len(tickets))
        self.assertEqual(loop.client.read(), b"")
        self.assertEqual((loop.client.state, loop.client.unread), (State.OPEN, 0))
        self.assertFalse(loop.client.wants_write)

    def test_garbage(self) -> None:
        """A ticket that makes no sense is refused."""
        loop, records = self.forge(from_client=False)
        loop.to_client.put(records.seal(HANDSHAKE, b"\4\0\0\7garbage"))
        assert loop.client_error is not None and loop.server_error is not None
        self.assertEqual(loop.client_error.alert, "decode_error")
        self.assertEqual(loop.server_error.alert, "decode_error")


def meet_12(raw_is_client: bool) -> tuple[SSL.Connection, Connector]:
    """A bare OpenSSL connection that renegotiates, and a connector, which speak TLS 1.2."""
    trusted = [authority().certificate]
    for_client = context(True, trusted=trusted, versions=(TLS12, TLS12))
    for_server = context(False, own=server(), versions=(TLS12, TLS12))
    client, server_ = client_connection(for_client), server_connection(for_server)
    raw = client if raw_is_client else server_
    ours = Connector(server_ if raw_is_client else client, not raw_is_client)
    while ours.state is not State.OPEN:
        for piece in iter(ours.take, b""):
            raw.bio_write(piece)
        with contextlib.suppress(SSL.WantReadError):
            raw.do_handshake()
        with contextlib.suppress(SSL.WantReadError):
            ours.feed(raw.bio_read(65536))
    for piece in iter(ours.take, b""):
        raw.bio_write(piece)
    with contextlib.suppress(SSL.WantReadError):
        raw.do_handshake()
    return raw, ours


def taken(ours: Connector, seal: Callable[[], bytes]) -> int:
    """How many of such records in a row a connector takes, with nothing read from them."""
    for count in range(1000):
        try:
            ours.feed(seal())
            if ours.read():
                raise AssertionError("there was data in it")
        except PeerError:
            return count
    raise AssertionError("it takes them all")


@on_both_engines
class NothingTests(ForgedCase):
    """
    Records with nothing in them, of which OpenSSL itself takes no more than a few in a row: ours
    relies on that.
    """

    def test_limits_of_openssl(self) -> None:
        """Records of no bytes, warnings, and a change_cipher_spec that comes late."""
        for kind, content, most in ((APPLICATION_DATA, b"", 32), (ALERT, b"\1\x5a", 5)):
            loop, records = self.forge(from_client=True)
            seal = partial(records.seal, kind, content)
            self.assertLessEqual(taken(loop.server, seal), most)
        loop, _ = self.forge(from_client=True)
        self.assertEqual(taken(loop.server, lambda: record(CHANGE_CIPHER_SPEC, b"\1")), 0)

    def test_limits_of_openssl_in_tls_1_2(self) -> None:
        """The same there."""
        for kind, content, most in ((APPLICATION_DATA, b"", 32), (ALERT, b"\1\x5a", 5)):
            raw, ours = meet_12(raw_is_client=True)
            records = Records12(raw, from_client=True)
            self.assertLessEqual(taken(ours, partial(records.seal, kind, content)), most)


@on_both_engines
class RenegotiationTests(EngineCase):
    """
    TLS 1.2's second handshake in the first is refused: with the warning no_renegotiation (RFC 5246,
    section 7.2.2), after which a peer may go on.  OpenSSL gives up.
    """

    def test_asked_by_the_peer(self) -> None:
        """It is refused, both ways round, and the connection is as it was."""
        for raw_is_client in (True, False):
            raw, ours = meet_12(raw_is_client)
            self.assertTrue(raw.renegotiate())
            with contextlib.suppress(SSL.WantReadError):
                raw.do_handshake()
            ours.feed(raw.bio_read(65536))
            self.assertEqual((ours.read(), ours.state), (b"", State.OPEN))
            answer = b"".join(iter(ours.take, b""))
            self.assertEqual([each[0] for each in split(answer)], [ALERT])
            raw.bio_write(answer)
            error = self.assertRaises(SSL.Error, raw.recv, 1)
            self.assertIn("no renegotiation", str(error))
            ours.feed(raw.bio_read(65536))
            failure = self.assertRaises(PeerError, ours.read)
            self.assertEqual(failure.alert, "handshake_failure")
            self.assertEqual(failure.direction, Direction.RECEIVED)

    def test_asked_again_and_again(self) -> None:
        """Each is refused; nothing is begun, and no answer is larger than the question."""
        raw, ours = meet_12(raw_is_client=False)
        records = Records12(raw, from_client=False)
        # A server's first records were its ticket, in the clear, and its finished message.
        request = message(0, b"")
        asked = answered = 0
        for _ in range(4):
            flight = records.seal(HANDSHAKE, request)
            asked += len(flight)
            ours.feed(flight)
            self.assertEqual(ours.read(), b"")
            answered += len(b"".join(iter(ours.take, b"")))
        self.assertIs(ours.state, State.OPEN)
        self.assertLessEqual(answered, asked)
        ours.feed(records.seal(APPLICATION_DATA, b"still"))
        self.assertEqual(ours.read(), b"still")

    def test_not_begun_by_us(self) -> None:
        """Whoever reaches through to our own OpenSSL connection cannot begin it either."""
        for raw_is_client in (True, False):
            _, ours = meet_12(raw_is_client)
            error = self.assertRaises(SSL.Error, ours.connection.renegotiate)
            self.assertIn("no renegotiation", str(error))
            self.assertIs(ours.state, State.OPEN)

    def test_answer_of_the_peer(self) -> None:
        """A peer that answers a question which nobody asked breaks the rules."""
        raw, ours = meet_12(raw_is_client=True)
        records = Records12(raw, from_client=True)
        ours.feed(records.seal(ALERT, b"\x01\x64"))
        failure = self.assertRaises(PeerError, ours.read)
        self.assertEqual(failure.alert, "handshake_failure")
        self.assertEqual(failure.direction, Direction.SENT)
        self.assertIn("renegotiation", str(failure))
        for piece in iter(ours.take, b""):
            raw.bio_write(piece)
        error = self.assertRaises(SSL.Error, raw.recv, 1)
        self.assertIn("handshake failure", str(error))
