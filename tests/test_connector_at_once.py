"""
C{decrypt}, C{encrypt} and C{take_buffer}: a transport's bytes, with nothing in between.

What they do is what C{feed}, C{read}, C{write} and C{take} do, so they are compared with those.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as some
from OpenSSL import SSL, _util

from tests.engines import EngineCase, on_both_engines
from tests.records import APPLICATION_DATA, HANDSHAKE, KEY_UPDATE, Records12
from tests.test_connector_messages import ForgedCase
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
from twisted_bioconn import _openssl
from twisted_bioconn._engine import BUFFER_SIZE, MAX_RECORD, Form, copy_of, data_of
from twisted_bioconn.connector import Connector, State
from twisted_bioconn.errors import PeerError, UsageError
from twisted_bioconn.testing import Loopback

MUCH = _openssl._MUCH


def send(connector: Connector, plaintext: bytes) -> bytes:
    """Encrypt, and take all."""
    sent = bytes(connector.encrypt(plaintext, len(plaintext)))
    while connector.has_output:
        sent += connector.take()
    return sent


class AtOnceCase(EngineCase):
    """An open connection whose ends receive into an inbox."""

    def setUp(self) -> None:
        super().setUp()
        self.inbox = _openssl.Inbox()

    def opened(self, version: int = TLS13) -> Loopback:
        loop = self.connectors(*pair(version))
        loop.pump()
        self.assertIs(loop.server.state, State.OPEN)
        loop.server.read()
        return loop

    def receive(
        self, connector: Connector, ciphertext: bytes, size: int = BUFFER_SIZE, **how: Any
    ) -> bytes:
        """Decrypt as much as arrives at once, again and again."""
        plaintext = b""
        for at in range(0, len(ciphertext), size):
            piece = ciphertext[at : at + size]
            self.inbox.view[: len(piece)] = piece
            got = connector.decrypt(self.inbox.data, len(piece), **how)
            plaintext += copy_of(*got) if isinstance(got, tuple) else bytes(got)
        return plaintext


@on_both_engines
class AtOnceTests(AtOnceCase):
    """Bytes go through."""

    def test_any_pieces(self) -> None:
        """Whatever is sent, in whatever pieces it arrives, comes out: as bytes or as a buffer."""
        sizes = some.sampled_from(
            [1, 2, 199, 200, 201, MAX_RECORD - 1, MAX_RECORD, MAX_RECORD + 1, MUCH, 100_000]
        )
        for loop in (self.opened(TLS12), self.opened(TLS13)):
            self.exchange_any(loop, sizes)

    def exchange_any(self, loop: Loopback, sizes: Any) -> None:
        """What the client sends to the server."""

        @settings(deadline=None)
        @given(
            some.lists(sizes, min_size=1, max_size=4),
            some.sampled_from([1, 5, 21, 23, 220, 223, 5000, MUCH, MUCH + 1, BUFFER_SIZE]),
            some.sampled_from(Form),
            some.booleans(),
        )
        def exchange(written: list[int], piece: int, form: Form, together: bool) -> None:
            if piece < 200:
                written = [min(size, 5000) for size in written]
            whole, sent = b"", []
            for number, size in enumerate(written):
                plaintext = bytes([number + 1]) * size
                whole += plaintext
                sent.append(send(loop.client, plaintext))
            if together:
                sent = [b"".join(sent)]
            found = b"".join(self.receive(loop.server, each, piece, form=form) for each in sent)
            self.assertEqual(len(found), len(whole))
            self.assertEqual(found, whole)

        exchange()

    def test_every_cut(self) -> None:
        """Two records that arrive in two pieces, wherever they are cut, or in one."""
        suites = (b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305", None)
        for version, suite in ((TLS12, suites[0]), (TLS12, None), (TLS13, None)):
            trusted, versions = [authority().certificate], (version, version)
            ends = (
                context(True, trusted=trusted, versions=versions),
                context(False, own=server(), trusted=trusted, versions=versions),
            )
            if suite is not None:
                for end in ends:
                    end.set_cipher_list(suite)
            loop = self.connectors(client_connection(ends[0]), server_connection(ends[1]))
            loop.pump()
            for sizes in ((200, 90), (1, 1), (20, 1)):
                for cut in range(sum(sizes) + 40):
                    one, two = (bytes([each]) * each for each in sizes)
                    ciphertext = send(loop.client, one) + send(loop.client, two)
                    found = self.receive(loop.server, ciphertext[:cut]) if cut else b""
                    found += self.receive(loop.server, ciphertext[cut:])
                    self.assertEqual(found, one + two)
                    self.assertEqual(loop.server.unread, 0)

    def test_larger_than_the_buffer(self) -> None:
        """What is larger than any buffer of ours is encrypted and decrypted whole."""
        loop = self.opened()
        plaintext = bytes(range(256)) * 4096
        self.assertEqual(self.receive(loop.server, send(loop.client, plaintext)), plaintext)
        loop.client.write(plaintext)
        sent = b""
        while ciphertext := loop.client.take_buffer():
            sent += bytes(ciphertext)
        self.assertEqual(self.receive(loop.server, sent), plaintext)

    def test_bytes(self) -> None:
        """Bytes are as good as an inbox's data, up to the given number of them."""
        loop = self.opened()
        for size in (5, 100_000):
            sent = send(loop.client, bytes(size))
            self.assertEqual(loop.server.decrypt(sent + b"more", len(sent)), bytes(size))
            self.inbox.view[:size] = bytes(size)
            sent = bytes(loop.client.encrypt(self.inbox.data, 5))
            self.assertEqual(self.receive(loop.server, sent), bytes(5))

    def test_received_and_sent_on(self) -> None:
        """What one connection has decrypted, as a buffer, another one encrypts."""
        one, other = self.opened(), self.opened()
        for size in (200, MUCH * 2):
            plaintext = bytes(range(200)) * (size // 200)
            ciphertext = send(one.client, plaintext)
            self.inbox.view[: len(ciphertext)] = ciphertext
            got = one.server.decrypt(self.inbox.data, len(ciphertext), Form.BUFFER)
            sent = bytes(other.client.encrypt(data_of(got), len(got)))
            while other.client.has_output:
                sent += other.client.take()
            self.assertEqual(self.receive(other.server, sent), plaintext)

    def test_in_the_handshake(self) -> None:
        """Before the connection is open the bytes go the long way, and wait."""
        loop = self.connectors(*pair(TLS13))
        loop.server.feed(bytes(loop.client.encrypt(b"early", 5)))
        loop.pump()
        self.assertEqual(loop.received_by_server, b"early")
        fresh = self.connectors(*pair(TLS13))
        hello = fresh.client.take()
        self.assertEqual(fresh.server.decrypt(hello, len(hello)), b"")
        self.assertIs(fresh.server.state, State.HANDSHAKING)

    def test_after_the_end(self) -> None:
        """Where C{write} would refuse, so does C{encrypt}."""
        loop = self.opened()
        loop.client.close()
        with self.assertRaises(UsageError):
            loop.client.encrypt(b"x", 1)

    def test_close_behind_plaintext(self) -> None:
        """The peer's close is seen behind what came with it, little or much."""
        for size in (0, 5, 3 * MUCH):
            loop = self.opened()
            sent = send(loop.client, bytes(size)) if size else b""
            loop.client.close()
            sent += loop.client.take()
            self.assertEqual(self.receive(loop.server, sent), bytes(size))
            self.assertIs(loop.server.state, State.REMOTE_CLOSED)

    def test_behind_the_close(self) -> None:
        """What comes behind the peer's close is discarded."""
        loop = self.opened()
        sent = send(loop.client, bytes(3 * MUCH))
        loop.client.close()
        sent += loop.client.take() + bytes(MUCH)
        self.assertEqual(self.receive(loop.server, sent), bytes(3 * MUCH))
        self.assertIs(loop.server.state, State.REMOTE_CLOSED)

    def test_bad_record(self) -> None:
        """What was good before a bad record is given out, and the next call says what was wrong."""
        for size in (0, 5, 3 * MUCH):
            loop = self.opened()
            sent = send(loop.client, bytes(size)) if size else b""
            bad = bytearray(send(loop.client, b"bad"))
            bad[-1] ^= 1
            if size:
                self.assertEqual(self.receive(loop.server, sent + bytes(bad)), bytes(size))
            with self.assertRaises(PeerError) as raised:
                self.receive(loop.server, bytes(bad))
            self.assertEqual(raised.exception.alert, "bad_record_mac")
            self.assertIs(loop.server.state, State.FAILED)
            self.assertNotEqual(loop.server.take(), b"")


@on_both_engines
class AmongDataTests(ForgedCase):
    """What is not data, among data, little or much."""

    def test_key_update(self) -> None:
        """With a key update in between, all arrives."""
        for pieces in ([b"before"], [b"plaintext" * 1000] * 5):
            loop, records = self.forge(from_client=True)
            inbox = _openssl.Inbox()
            sent = b"".join(records.seal(APPLICATION_DATA, piece) for piece in pieces)
            sent += records.seal(HANDSHAKE, KEY_UPDATE + b"\1")
            records.update()
            sent += records.seal(APPLICATION_DATA, b"after")
            inbox.view[: len(sent)] = sent
            found = bytes(loop.server.decrypt(inbox.data, len(sent), Form.BUFFER))
            self.assertEqual(found, b"".join(pieces) + b"after")

    def test_in_pieces_under_a_write(self) -> None:
        """
        What comes with the rest of a message, of which the beginning has kept a write waiting, is
        not lost; nor is what was written.
        """
        for pieces in ([b"precious"], [b"plaintext" * 1000] * 5):
            loop, records = self.forge(from_client=True)
            first = records.seal(HANDSHAKE, KEY_UPDATE)
            rest = records.seal(HANDSHAKE, b"\0")
            records.update()
            data = b"".join(records.seal(APPLICATION_DATA, piece) for piece in pieces)
            inbox = _openssl.Inbox()
            for piece in (first, rest[:-12]):
                inbox.view[: len(piece)] = piece
                self.assertEqual(loop.server.decrypt(inbox.data, len(piece)), b"")
            loop.server.write(b"written")
            self.assertEqual(loop.server.take(), b"")
            sent = rest[-12:] + data
            inbox.view[: len(sent)] = sent
            self.assertEqual(loop.server.decrypt(inbox.data, len(sent)), b"".join(pieces))
            written = b""
            while ciphertext := loop.server.take():
                written += ciphertext
            loop.client.feed(written)
            self.assertEqual(loop.client.read(), b"written")

    def test_answered(self) -> None:
        """What OpenSSL has to answer is there to be taken: no renegotiation, as it is here."""
        for piece in (b"little", b"plaintext" * 1000):
            loop = self.connectors(*pair(TLS12))
            loop.pump()
            records = Records12(loop.server.connection, False)
            sent = b"".join(records.seal(APPLICATION_DATA, piece) for _ in range(5))
            sent += records.seal(HANDSHAKE, b"\0\0\0\0")
            inbox = _openssl.Inbox()
            inbox.view[: len(sent)] = sent
            self.assertFalse(loop.client.has_output and loop.client.take())
            self.assertEqual(
                bytes(loop.client.decrypt(inbox.data, len(sent), Form.BUFFER)), piece * 5
            )
            self.assertTrue(loop.client.has_output)
            self.assertEqual(loop.client.take()[:1], b"\x15")


class FastTests(AtOnceCase):
    """What only the engine on pyOpenSSL's own binding has."""

    def test_error_of_somebody_else(self) -> None:
        """
        An error that is none of TLS is not taken for one, and hides none that is: before OpenSSL
        4.0, SSL_get_error looked whether there was any.
        """
        lib, get_error = _util.lib, _openssl._SSL_get_error

        def get_error_of_old(ssl: Any, result: int) -> Any:
            return lib.SSL_ERROR_SSL if lib.ERR_peek_error() else get_error(ssl, result)

        self.patch(_openssl, "_SSL_get_error", get_error_of_old)
        loop = self.opened()
        sent = send(loop.client, b"plaintext")
        self.leave_error()
        self.assertEqual(self.receive(loop.server, sent[:9]), b"")
        self.leave_error()
        self.assertEqual(self.receive(loop.server, sent[9:]), b"plaintext")
        self.receive(loop.server, send(loop.client, b"one record"))
        self.leave_error()
        sent = send(loop.client, b"another")
        self.assertEqual(self.receive(loop.server, sent[:9]), b"")
        self.assertEqual(self.receive(loop.server, sent[9:]), b"another")
        self.receive(loop.server, send(loop.client, b"one record"))
        bad = bytearray(send(loop.client, b"bad"))
        bad[-1] ^= 1
        self.leave_error()
        error = self.assertRaises(PeerError, self.receive, loop.server, bytes(bad))
        self.assertEqual(error.alert, "bad_record_mac")

    def leave_error(self) -> None:
        """Do something with OpenSSL that fails, and leave the error where it is."""
        lib, ffi = _util.lib, _util.ffi
        bio = lib.BIO_new_mem_buf(b"x", 1)
        self.assertEqual(lib.d2i_X509_bio(bio, ffi.NULL), ffi.NULL)
        lib.BIO_free(bio)
        self.assertNotEqual(lib.ERR_peek_error(), 0)

    def test_callback_that_raised(self) -> None:
        """What a callback has raised is what comes out."""
        loop = self.opened()

        class Helper:
            """Has a problem."""

            def raise_if_problem(self) -> None:
                raise ValueError("boom")

        bad = bytearray(send(loop.client, b"bad"))
        bad[-1] ^= 1
        self.patch(loop.server.connection._context, "_verify_helper", Helper())
        error = self.assertRaises(PeerError, self.receive, loop.server, bytes(bad))
        self.assertIn("boom", str(error))

    def test_within_a_read(self) -> None:
        """While the thread's buffer is in use, other connections do without it."""
        loop = self.opened()
        sent = send(loop.client, b"plaintext")
        thread = _openssl._thread
        buffer, thread.cdata = thread.cdata, None
        try:
            self.assertEqual(self.receive(loop.server, sent), b"plaintext")
            thread.cdata = None
            ciphertext = send(loop.client, bytes(MUCH))
            thread.cdata = None
            self.assertEqual(self.receive(loop.server, ciphertext), bytes(MUCH))
        finally:
            thread.cdata = buffer

    def test_more_than_there_is_room_for(self) -> None:
        """What is left in the BIO when the buffer is full is decrypted all the same."""
        self.patch(_openssl, "ROOM", 3 * MAX_RECORD)
        loop = self.opened()
        sent = send(loop.client, bytes(8 * MAX_RECORD))
        self.assertEqual(self.receive(loop.server, sent), bytes(8 * MAX_RECORD))
        self.assertEqual(self.receive(loop.server, send(loop.client, b"next")), b"next")

    def test_wants_to_read_first(self) -> None:
        """What OpenSSL does not take now is the first that it takes later."""
        loop = self.opened()
        engine = loop.client._engine

        class Blocked:
            """An engine that takes nothing, twice."""

            def __getattr__(self, name: str) -> Any:
                return getattr(engine, name)

            def encrypt(self, data: Any, count: int) -> None:
                """Nothing is done."""

            def write(self, data: bytes) -> int:
                return 0

        for call in ("encrypt", "take_buffer"):
            loop.client._engine = Blocked()
            if call == "encrypt":
                self.assertEqual(loop.client.encrypt(b"first", 5), b"")
            else:
                loop.client.write(b"first")
                self.assertEqual(loop.client.take_buffer(), b"")
            self.assertTrue(loop.client.has_output)
            loop.client.write(b" second")
            loop.client._engine = engine
            self.assertEqual(loop.client.decrypt(b"", 0), b"")
            sent = b""
            while ciphertext := loop.client.take():
                sent += ciphertext
            self.assertEqual(self.receive(loop.server, sent), b"first second")

    def test_not_drained(self) -> None:
        """BIOs with something in them are not replaced."""
        for name in ("_into_ssl", "_from_ssl"):
            engine = self.opened().client._engine
            self.assertTrue(engine.renew_bios())
            _util.lib.BIO_write(getattr(engine.connection, name), b"x", 1)
            self.assertFalse(engine.renew_bios())

    def test_failing(self) -> None:
        """An engine that fails fails the connection."""
        loop = self.opened()
        engine = loop.client._engine

        class Failing:
            """An engine that cannot encrypt."""

            def __getattr__(self, name: str) -> Any:
                return getattr(engine, name)

            def encrypt(self, data: Any, count: int) -> None:
                raise SSL.Error([("SSL routines", "", "odd thing")])

        loop.client._engine = Failing()
        self.assertRaises(PeerError, loop.client.encrypt, b"x", 1)
        self.assertIs(loop.client.state, State.FAILED)

    def test_copies(self) -> None:
        """A copy is one, of as many bytes as were asked for."""
        self.inbox.view[:5] = b"first"
        copy = copy_of(self.inbox.data, 5)
        self.inbox.view[:5] = b"other"
        self.assertEqual(copy, b"first")
        self.assertEqual(copy_of(b"bytes", 3), b"byt")
        self.assertEqual(copy_of(bytearray(b"bytes"), 3), b"byt")
