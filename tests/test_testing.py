"""Tests for L{twisted_bioconn.testing}."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn import testing
from twisted_bioconn.connector import Connector, State
from twisted_bioconn.errors import Direction, TruncatedError, UsageError
from twisted_bioconn.testing import EXAMPLE_HOST, Loopback, Way, Wire, example_connections

COUNTING = bytes(range(256)) * 20


class WireTests(SynchronousTestCase):
    """One direction by itself."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.pieces: list[bytes | None] = []
        self.wire = Wire(Way.TO_SERVER, self.pieces.append, self.clock)

    def test_as_it_is(self) -> None:
        """With no fault each piece arrives at once and as it was put in."""
        self.wire.put(b"one")
        self.wire.put(b"two")
        self.assertEqual(self.pieces, [b"one", b"two"])
        self.assertEqual((self.wire.sent, self.wire.arrived), (6, 6))

    def test_split(self) -> None:
        """The sizes are taken in turn, and may be taken back."""
        self.wire.split = (1, 3)
        self.wire.put(b"abcdefgh")
        self.assertEqual(self.pieces, [b"a", b"bcd", b"e", b"fgh"])
        self.assertEqual(self.wire.split, (1, 3))
        self.wire.split = 2
        self.wire.put(b"ij")
        self.wire.put(b"klm")
        self.wire.split = None
        self.wire.put(b"nopqr")
        self.assertEqual(self.pieces[4:], [b"ij", b"kl", b"m", b"nopqr"])

    def test_split_of_nothing(self) -> None:
        """A piece has a byte at least."""
        for sizes in (0, -1, (), (3, 0)):
            error = self.assertRaises(UsageError, setattr, self.wire, "split", sizes)
            self.assertIn(repr(sizes), str(error))
        self.assertIs(self.wire.split, None)

    def test_delay(self) -> None:
        """What is put in arrives when its time has come, and not before."""
        self.wire.delay = 0.5
        self.wire.put(b"one")
        self.clock.advance(0.3)
        self.wire.put(b"two")
        self.clock.advance(0.19)
        self.assertEqual((self.pieces, self.wire.sent, self.wire.arrived), ([], 6, 0))
        self.clock.advance(0.02)
        self.assertEqual(self.pieces, [b"one"])
        self.clock.advance(0.3)
        self.assertEqual(self.pieces, [b"one", b"two"])
        self.assertEqual(self.wire.delay, 0.5)

    def test_delay_keeps_the_order(self) -> None:
        """A delay taken back lets nothing overtake what is on its way."""
        self.wire.delay = 1
        self.wire.put(b"one")
        self.wire.delay = 0
        self.wire.put(b"two")
        self.assertEqual(self.pieces, [])
        self.clock.advance(0)
        self.clock.advance(1)
        self.assertEqual(self.pieces, [b"one", b"two"])
        self.wire.put(b"three")
        self.assertEqual(self.pieces[2:], [b"three"])

    def test_delay_without_a_clock(self) -> None:
        """It is refused when it is asked for, not when a byte is lost."""
        wire = Wire(Way.TO_CLIENT, self.pieces.append, None)
        error = self.assertRaises(UsageError, setattr, wire, "delay", 1)
        self.assertIn("needs a clock", str(error))
        wire.delay = 0
        wire.put(b"one")
        self.assertEqual(self.pieces, [b"one"])

    def test_flip(self) -> None:
        """One bit of one byte, wherever the pieces begin."""
        self.wire.put(b"ab")
        self.wire.flip(3)
        self.wire.flip(4, 5)
        self.wire.flip(6, 7)
        self.wire.flip(6, 7)
        self.wire.put(b"cd")
        self.wire.put(b"efg")
        self.assertEqual(self.pieces, [b"ab", b"ce", b"Efg"])

    def test_flip_too_late(self) -> None:
        """What has gone cannot be changed, and a byte has eight bits."""
        self.wire.put(b"ab")
        for offset, bit in ((1, 0), (2, 8), (2, -1)):
            error = self.assertRaises(UsageError, self.wire.flip, offset, bit)
            self.assertEqual(
                str(error), f"bit {bit} of byte {offset} cannot be flipped: 2 bytes have gone"
            )

    def test_cut_at(self) -> None:
        """The bytes before the cut arrive, then the end, then nothing."""
        self.wire.cut_at = 4
        self.wire.put(b"abc")
        self.wire.put(b"def")
        self.wire.put(b"ghi")
        self.assertEqual(self.pieces, [b"abc", b"d", None])
        self.assertEqual(self.wire.sent, 4)

    def test_cut_late(self) -> None:
        """The end is as late as the bytes before it."""
        self.wire.delay = 1
        self.wire.split = 2
        self.wire.put(b"abc")
        self.wire.cut()
        self.wire.put(b"def")
        self.assertEqual(self.pieces, [])
        self.clock.advance(1)
        self.assertEqual(self.pieces, [b"ab", b"c", None])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @given(
        st.lists(st.binary(max_size=20)),
        st.lists(st.integers(1, 9), min_size=1),
        st.none() | st.integers(0, 100),
        st.none() | st.integers(0, 100),
    )
    def test_any(
        self, chunks: list[bytes], sizes: list[int], cut_at: int | None, flip: int | None
    ) -> None:
        """Whatever is put in comes out but for the faults asked for."""
        pieces: list[bytes | None] = []
        wire = Wire(Way.TO_SERVER, pieces.append, None)
        wire.split = sizes
        wire.cut_at = cut_at
        if flip is not None:
            wire.flip(flip, 3)
        for chunk in chunks:
            wire.put(chunk)
        expected = bytearray(b"".join(chunks))
        if flip is not None and flip < len(expected):
            expected[flip] ^= 8
        ended = cut_at is not None and chunks != [] and len(expected) >= cut_at
        self.assertEqual(pieces[-1:] == [None], ended)
        arrived = b"".join(piece for piece in pieces if piece is not None)
        self.assertEqual(arrived, bytes(expected[:cut_at]) if ended else bytes(expected))


class LoopbackTests(SynchronousTestCase):
    """Two connectors over two wires."""

    def test_documentation(self) -> None:
        """The example in the documentation does what it says."""
        result = doctest.testmod(testing)
        self.assertEqual(result.failed, 0)
        self.assertGreater(result.attempted, 8)

    def test_from_connections(self) -> None:
        """Connections are enough; whichever is first is the client."""
        loop = Loopback(*example_connections())
        self.assertEqual((loop.client.is_client, loop.server.is_client), (True, False))
        loop.pump()
        self.assertEqual((loop.client.state, loop.server.state), (State.OPEN, State.OPEN))
        self.assertEqual((loop.client_error, loop.server_error), (None, None))

    def test_from_connectors(self) -> None:
        """Connectors are taken as they are: here they do not begin by themselves."""
        client, server = example_connections()
        first = Connector(client, True, starts_by_itself=False)
        second = Connector(server, False)
        loop = Loopback(first, second)
        self.assertEqual((loop.client, loop.server), (first, second))
        loop.pump()
        self.assertEqual(first.state, State.IDLE)
        first.start_handshake()
        loop.pump()
        self.assertEqual((first.state, second.state), (State.OPEN, State.OPEN))

    def test_plaintext(self) -> None:
        """Both directions arrive and are kept apart."""
        loop = Loopback(*example_connections())
        loop.client.write(COUNTING)
        loop.server.write(b"answer")
        loop.pump()
        self.assertEqual(loop.received_by_server, COUNTING)
        self.assertEqual(loop.received_by_client, b"answer")

    def test_crossed_and_tap(self) -> None:
        """What crosses is recorded, and shown as it arrives."""
        tapped: list[tuple[Way, bytes]] = []
        loop = Loopback(*example_connections(), tap=lambda way, piece: tapped.append((way, piece)))
        loop.pump()
        self.assertEqual(tapped, loop.crossed)
        way, hello = loop.crossed[0]
        # A handshake record with a client hello in it: RFC 8446, sections 4 and 5.1.
        self.assertEqual((way, hello[0], hello[5]), (Way.TO_SERVER, 22, 1))
        by_way = {way: sum(len(piece) for at, piece in tapped if at is way) for way in Way}
        self.assertEqual(by_way[Way.TO_SERVER], loop.to_server.arrived)
        self.assertEqual(by_way[Way.TO_CLIENT], loop.to_client.arrived)

    def test_tap_that_raises(self) -> None:
        """It is no error of the peer's, so it is not kept but comes out; the pump is usable."""

        def tap(way: Way, piece: bytes) -> None:
            raise KeyError(way)

        loop = Loopback(*example_connections(), tap=tap)
        self.assertRaises(KeyError, loop.pump)
        self.assertEqual(loop.client.state, State.HANDSHAKING)
        self.assertRaises(KeyError, loop.to_client.put, b"anything")

    def test_latency(self) -> None:
        """A handshake of one round trip takes as long as its flights are on their way."""
        clock = Clock()
        loop = Loopback(*example_connections("TLSv1.3"), clock)
        loop.to_server.delay = loop.to_client.delay = 0.1
        loop.client.write(b"request")
        loop.pump()
        states = []
        for _ in range(3):
            states.append((loop.client.state, loop.server.state))
            clock.advance(0.1)
        self.assertEqual(
            states,
            [
                (State.HANDSHAKING, State.HANDSHAKING),
                (State.HANDSHAKING, State.HANDSHAKING),
                (State.OPEN, State.HANDSHAKING),
            ],
        )
        self.assertEqual(loop.server.state, State.OPEN)
        self.assertEqual(loop.received_by_server, b"request")

    def test_damage(self) -> None:
        """A flipped bit fails the receiver, and the sender gets the alert: both are kept."""
        loop = Loopback(*example_connections())
        loop.pump()
        loop.to_server.flip(loop.to_server.sent + 20, 7)
        loop.client.write(b"before\n")
        loop.pump()
        assert loop.server_error is not None and loop.client_error is not None
        self.assertEqual(loop.server_error.alert, "bad_record_mac")
        self.assertEqual(loop.server_error.direction, Direction.SENT)
        self.assertEqual(loop.client_error.alert, "bad_record_mac")
        self.assertEqual(loop.client_error.direction, Direction.RECEIVED)

    def test_cut(self) -> None:
        """A cut wire is the end of the wire: no clean close."""
        loop = Loopback(*example_connections())
        loop.pump()
        loop.client.write(b"all of it")
        loop.pump()
        loop.to_server.cut()
        self.assertIsInstance(loop.server_error, TruncatedError)
        self.assertEqual(loop.received_by_server, b"all of it")
        self.assertIs(loop.client_error, None)

    def test_cut_while_beginning(self) -> None:
        """A cut in the middle of a flight."""
        loop = Loopback(*example_connections())
        loop.to_client.cut_at = 100
        loop.pump()
        self.assertIsInstance(loop.client_error, TruncatedError)
        self.assertEqual(loop.to_client.arrived, 100)

    def test_error_of_the_first_step(self) -> None:
        """An error that comes before anything was sent is kept as well."""
        client, server = example_connections()
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        client = SSL.Connection(context)
        client.set_connect_state()
        loop = Loopback(client, server)
        loop.pump()
        self.assertIs(loop.client.state, State.FAILED)
        self.assertIn("no protocols available", str(loop.client_error))


class ExampleConnectionsTests(SynchronousTestCase):
    """Connections with no files."""

    def facts(self, loop: Loopback) -> tuple[object, ...]:
        loop.pump()
        facts = loop.client.negotiated
        assert facts is not None
        return facts.version, facts.alpn, facts.server_name

    def test_versions(self) -> None:
        """The version asked for is spoken; the newest, if none was."""
        for asked, spoken in (
            ("TLSv1.2", "TLSv1.2"),
            ("TLSv1.3", "TLSv1.3"),
            (None, "TLSv1.3"),
        ):
            facts = self.facts(Loopback(*example_connections(asked)))
            self.assertEqual(facts, (spoken, None, EXAMPLE_HOST))

    def test_no_such_version(self) -> None:
        """One sentence, with the known ones in it."""
        error = self.assertRaises(UsageError, example_connections, "SSLv3")
        self.assertEqual(str(error), "there is no version 'SSLv3': TLSv1.2 and TLSv1.3 are known")

    def test_alpn(self) -> None:
        """Application protocols are agreed on, the best first."""
        for version in ("TLSv1.2", "TLSv1.3"):
            loop = Loopback(*example_connections(version, [b"h2", b"http/1.1"]))
            self.assertEqual(self.facts(loop)[1], b"h2")

    def test_verified(self) -> None:
        """The client verifies the server: the example's own does not pass elsewhere."""
        client, _ = example_connections()
        stranger = testing._example_certificates.__wrapped__()
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate(stranger[1])
        context.use_privatekey(stranger[2])
        server = SSL.Connection(context)
        server.set_accept_state()
        loop = Loopback(client, server)
        loop.pump()
        assert loop.client_error is not None
        self.assertIn("the certificate of CN=localhost does not verify", str(loop.client_error))
