"""Tests for L{twisted_bioconn.connector}: the states, and bytes in and out."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tests.engines import EngineCase, on_both_engines
from tests.records import split
from tests.tls_material import VERSIONS, client_connection, context, pair, server_connection
from twisted_bioconn.connector import TRANSITIONS, Connector, State, Step, WriteBuffer
from twisted_bioconn.errors import PeerError, TruncatedError, UsageError
from twisted_bioconn.testing import Loopback


def flush(connector: Connector) -> bytes:
    """All that a connector has for the wire."""
    return b"".join(iter(connector.take, b""))


def bring(loop: Loopback, connector: Connector, state: State) -> None:
    """Bring one of the two into a state that it can come to by itself or by its peer."""
    peer = loop.server if connector is loop.client else loop.client
    wire = loop.to_client if connector is loop.client else loop.to_server
    if state is State.IDLE:
        return
    if state is State.HANDSHAKING:
        connector.start_handshake()
        return
    if state is State.FAILED:
        wire.cut()
        return
    loop.pump()
    if state in (State.LOCAL_CLOSED, State.CLOSED):
        connector.close()
    if state in (State.REMOTE_CLOSED, State.CLOSED):
        peer.close()
    loop.pump()


class TransitionTests(SynchronousTestCase):
    """The table of all that can happen."""

    def test_every_state_and_step(self) -> None:
        """Each pair either leads where the table says, or is refused and changes nothing."""
        for state in State:
            for step in Step:
                connector = Connector(client_connection(), True)
                connector.state = state
                after = TRANSITIONS[state].get(step)
                if after is None:
                    self.assertRaises(KeyError, connector._go, step)
                    self.assertIs(connector.state, state)
                else:
                    connector._go(step)
                    self.assertIs(connector.state, after)

    def test_ends(self) -> None:
        """Nothing leads out of an end, back to the beginning, or from a state to itself."""
        for state, steps in TRANSITIONS.items():
            self.assertNotIn(state, steps.values())
            self.assertNotIn(State.IDLE, steps.values())
            if state in (State.CLOSED, State.FAILED):
                self.assertEqual(steps, {})
            else:
                self.assertIs(steps[Step.FAIL], State.FAILED)
        self.assertEqual(set(TRANSITIONS), set(State))

    def test_each_direction_closes_once(self) -> None:
        """Whichever end closes first, both closed is closed."""
        for first, second in (
            (Step.LOCAL_CLOSE, Step.REMOTE_CLOSE),
            (Step.REMOTE_CLOSE, Step.LOCAL_CLOSE),
        ):
            half = TRANSITIONS[State.OPEN][first]
            self.assertNotIn(first, TRANSITIONS[half])
            self.assertIs(TRANSITIONS[half][second], State.CLOSED)


def after(state: State) -> set[State]:
    """Where a connection can be after this state, in any number of steps, or none."""
    reached, new = set(), {state}
    while new:
        reached |= new
        new = {to for at in new for to in TRANSITIONS[at].values()} - reached
    return reached


Call = Callable[[Connector], Any]

CALLS: dict[str, Call] = {
    "start_handshake": lambda it: it.start_handshake(),
    "feed nothing": lambda it: it.feed(b""),
    "feed noise": lambda it: it.feed(b"\x17\x03\x03\x00\x20" + bytes(32)),
    "feed text": lambda it: it.feed("text"),  # type: ignore[arg-type]
    "read": lambda it: it.read(),
    "take": lambda it: it.take(),
    "end_of_wire": lambda it: it.end_of_wire(),
    "write": lambda it: it.write(b"data"),
    "write nothing": lambda it: it.write(b""),
    "write text": lambda it: it.write("text"),  # type: ignore[arg-type]
    "write too much": lambda it: it.write(bytes(2_000_000)),
    "close": lambda it: it.close(),
    "forget": lambda it: it.forget(),
    "renew_bios": lambda it: it.renew_bios(),
    "export": lambda it: it.export_keying_material(b"label", 16),
    "export nothing": lambda it: it.export_keying_material(b"label", -1),
    "export too much": lambda it: it.export_keying_material(b"label", 1_000_000),
    "export for text": lambda it: it.export_keying_material("label", 16),  # type: ignore[arg-type]
    "channel_binding": lambda it: it.channel_binding("tls-server-end-point"),
    "channel_binding of no kind": lambda it: it.channel_binding("tls-unique"),
    "questions": lambda it: (
        it.wants_read,
        it.wants_write,
        it.pending_plaintext,
        it.pending_ciphertext,
        it.unread,
        it.inside_openssl,
        it.refusal,
        it.negotiated,
        it.connection,
        it.error,
    ),
}


@on_both_engines
class EveryCallInEveryStateTests(EngineCase):
    """Whatever is called, whenever."""

    def in_state(self, version: int, is_client: bool, state: State) -> tuple[Loopback, Connector]:
        loop = self.connectors(*pair(version))
        connector = loop.client if is_client else loop.server
        bring(loop, connector, state)
        self.assertIs(connector.state, state)
        return loop, connector

    def all(self, check: Callable[[str, Call, Loopback, Connector], None]) -> None:
        for version in VERSIONS:
            for is_client in (True, False):
                for state in State:
                    for name, call in CALLS.items():
                        loop, connector = self.in_state(version, is_client, state)
                        check(f"{name} in {state}", call, loop, connector)

    def test_errors(self) -> None:
        """Nothing but our caller's mistakes and the peer's is raised; the table is kept to."""
        seen: set[tuple[str, type[BaseException]]] = set()

        def check(name: str, call: Call, loop: Loopback, connector: Connector) -> None:
            before = connector.state
            try:
                call(connector)
            except (UsageError, TypeError) as error:
                self.assertIs(connector.state, before, name)
                seen.add((name, type(error)))
            except PeerError as error:
                self.assertIs(connector.state, State.FAILED, name)
                self.assertEqual(str(error), str(connector.error), name)
                seen.add((name, type(error)))
            self.assertIn(connector.state, after(before), name)
            self.assertEqual(connector.error is not None, connector.state is State.FAILED)

        self.all(check)
        self.assertIn(("start_handshake in State.OPEN", UsageError), seen)
        self.assertIn(("write in State.CLOSED", UsageError), seen)
        self.assertIn(("write too much in State.IDLE", UsageError), seen)
        self.assertIn(("export nothing in State.OPEN", UsageError), seen)
        self.assertIn(("end_of_wire in State.OPEN", TruncatedError), seen)
        self.assertIn(("read in State.FAILED", TruncatedError), seen)
        self.assertIn(("feed noise in State.HANDSHAKING", PeerError), seen)
        self.assertIn(("feed text in State.OPEN", TypeError), seen)
        self.assertNotIn(("feed noise in State.CLOSED", PeerError), seen)

    def test_mistakes_do_no_harm(self) -> None:
        """After any call that was our caller's mistake the connection works as before."""

        def check(name: str, call: Call, loop: Loopback, connector: Connector) -> None:
            state = connector.state
            try:
                call(connector)
            except (UsageError, TypeError):
                pass
            except PeerError:
                return
            else:
                return
            if state in (State.CLOSED, State.FAILED):
                return
            loop.pump()
            peer = loop.server if connector is loop.client else loop.client
            if state is not State.LOCAL_CLOSED:
                connector.write(b"from here")
            if state is not State.REMOTE_CLOSED:
                peer.write(b"from there")
            loop.pump()
            received = {loop.client: loop.received_by_client, loop.server: loop.received_by_server}
            self.assertEqual(
                received[peer], b"" if state is State.LOCAL_CLOSED else b"from here", name
            )
            self.assertEqual(
                received[connector], b"" if state is State.REMOTE_CLOSED else b"from there", name
            )

        self.all(check)


@on_both_engines
class HandshakeTests(EngineCase):
    """From nothing to an open connection."""

    def test_by_itself(self) -> None:
        """Any first call begins it; the client's flight is there to be taken, the server waits."""
        for version in VERSIONS:
            loop = self.connectors(*pair(version))
            self.assertEqual((loop.client.state, loop.server.state), (State.IDLE, State.IDLE))
            self.assertTrue(loop.client.wants_write)
            self.assertFalse(loop.server.wants_write)
            self.assertTrue(loop.client.wants_read and loop.server.wants_read)
            hello = loop.client.take()
            self.assertEqual((hello[0], hello[5]), (22, 1))
            self.assertEqual(loop.server.take(), b"")
            loop.server.feed(hello)
            self.assertIs(loop.server.state, State.HANDSHAKING)
            loop.client.feed(flush(loop.server))
            loop.pump()
            for connector in (loop.client, loop.server):
                self.assertIs(connector.state, State.OPEN)
                self.assertTrue(connector.wants_read)
                self.assertFalse(connector.wants_write)

    def test_on_request(self) -> None:
        """Nothing begins it but the request; what came before is not lost."""
        for version in VERSIONS:
            client, server = pair(version)
            loop = Loopback(
                Connector(client, True, starts_by_itself=False),
                Connector(server, False, starts_by_itself=False),
            )
            loop.client.write(b"early")
            loop.pump()
            self.assertEqual((loop.client.state, loop.client.take()), (State.IDLE, b""))
            self.assertFalse(loop.client.wants_write or loop.client.wants_read)
            loop.client.start_handshake()
            self.assertTrue(loop.client.wants_write)
            loop.pump()
            self.assertIs(loop.server.state, State.IDLE)
            self.assertGreater(loop.server.unread, 100)
            loop.server.start_handshake()
            self.assertEqual(loop.server.unread, 0)
            loop.pump()
            self.assertEqual(loop.received_by_server, b"early")

    def test_request_twice(self) -> None:
        """It begins once."""
        loop = self.connectors(*pair())
        loop.client.start_handshake()
        error = self.assertRaises(UsageError, loop.client.start_handshake)
        self.assertEqual(str(error), "the handshake has begun already: handshaking")
        loop.pump()
        error = self.assertRaises(UsageError, loop.client.start_handshake)
        self.assertEqual(str(error), "the handshake has begun already: open")

    def test_request_of_what_was_refused(self) -> None:
        """What came too early may turn out not to be TLS."""
        connector = Connector(server_connection(), False, starts_by_itself=False)
        connector.feed(b"GET / HTTP/1.1\r\n\r\n")
        error = self.assertRaises(PeerError, connector.start_handshake)
        self.assertEqual(str(error), "plain HTTP arrived where TLS was expected")
        self.assertIs(connector.state, State.FAILED)

    def test_server_speaks_first(self) -> None:
        """A client that has nothing to say hears the server all the same."""
        for version in VERSIONS:
            loop = self.connectors(*pair(version))
            loop.server.write(b"+OK POP3 ready\r\n")
            loop.pump()
            self.assertEqual(loop.received_by_client, b"+OK POP3 ready\r\n")

    def test_write_before(self) -> None:
        """What is written before the handshake goes out with its end, and not a byte earlier."""
        for version in VERSIONS:
            loop = self.connectors(*pair(version))
            loop.client.write(b"one ")
            hello = flush(loop.client)
            loop.client.write(b"two")
            self.assertEqual(flush(loop.client), b"")
            self.assertEqual(loop.client.pending_plaintext, 7)
            self.assertFalse(loop.client.wants_write)
            loop.server.feed(hello)
            loop.client.feed(flush(loop.server))
            loop.pump()
            self.assertEqual(loop.received_by_server, b"one two")
            self.assertEqual(loop.client.pending_plaintext, 0)

    def test_in_pieces(self) -> None:
        """Each flight arrives byte by byte."""
        for version in VERSIONS:
            loop = self.connectors(*pair(version))
            loop.to_client.split = loop.to_server.split = 1
            loop.client.write(b"from the client")
            loop.server.write(b"from the server")
            loop.pump()
            self.assertEqual(loop.received_by_server, b"from the client")
            self.assertEqual(loop.received_by_client, b"from the server")
            for connector in (loop.client, loop.server):
                facts = connector.negotiated
                assert facts is not None
                self.assertFalse(facts.resumed)

    def test_data_with_the_last_flight(self) -> None:
        """Plaintext that comes along with the end of the handshake is there to be read."""
        for version in VERSIONS:
            loop = self.connectors(*pair(version))
            loop.client.write(b"early")
            loop.server.feed(flush(loop.client))
            loop.client.feed(flush(loop.server))
            last = flush(loop.client)
            if loop.server.state is not State.OPEN and loop.client.state is not State.OPEN:
                loop.server.feed(last)
                loop.client.feed(flush(loop.server))
                last = flush(loop.client)
            loop.server.feed(last)
            self.assertIs(loop.server.state, State.OPEN)
            # Nobody can say how much of it is plaintext, but some is left.
            self.assertGreater(loop.server.unread, len(b"early"))
            flush(loop.server)
            self.assertFalse(loop.server.renew_bios())
            self.assertEqual(loop.server.read(), b"early")
            self.assertEqual(loop.server.renew_bios(), not self.public_api)
            self.assertEqual(loop.server.unread, 0)

    def test_first_step_fails(self) -> None:
        """A context that can say nothing fails when it should, in C{take}."""
        client = client_connection(context(True, versions=(SSL.TLS1_3_VERSION, SSL.TLS1_2_VERSION)))
        connector = Connector(client, True)
        self.assertTrue(connector.wants_write)
        error = self.assertRaises(PeerError, connector.take)
        self.assertIn("no protocols available", str(error))
        self.assertEqual((connector.state, error.alert), (State.FAILED, "protocol_version"))
        self.assertEqual(connector.take(), b"\x15\x03\x03\x00\x02\x02\x46")


@on_both_engines
class PlaintextTests(EngineCase):
    """Bytes through an open connection."""

    def open(self, version: int) -> Loopback:
        loop = self.connectors(*pair(version))
        loop.pump()
        self.assertIs(loop.server.state, State.OPEN)
        return loop

    def test_anything_like_bytes(self) -> None:
        """Other kinds of bytes are taken, and copied: they may change afterwards."""
        loop = self.open(VERSIONS[0])
        mutable = bytearray(b"abc")
        view = memoryview(b"--def--")[2:5]
        loop.client.write(mutable)  # type: ignore[arg-type]
        loop.client.write(view)  # type: ignore[arg-type]
        loop.client.write(array("B", b"ghi"))  # type: ignore[arg-type]
        mutable[:] = b"XYZ"
        loop.pump()
        self.assertEqual(loop.received_by_server, b"abcdefghi")

    def test_ciphertext_like_bytes(self) -> None:
        """The same for what comes from the wire."""
        loop = self.open(VERSIONS[1])
        loop.client.write(b"hello")
        ciphertext = bytearray(flush(loop.client))
        loop.server.feed(ciphertext)  # type: ignore[arg-type]
        ciphertext[:] = bytes(len(ciphertext))
        self.assertEqual(loop.server.read(), b"hello")

    def test_text(self) -> None:
        """Text is refused in the call, before the handshake too, and nothing of it is kept."""
        loop = self.connectors(*pair())
        for _ in range(2):
            self.assertRaises(TypeError, loop.client.write, "text")
            self.assertRaises(TypeError, loop.client.feed, "text")
            self.assertRaises(TypeError, loop.client.write, None)
            self.assertEqual((loop.client.pending_plaintext, loop.client.unread), (0, 0))
            loop.pump()
        loop.client.write(b"bytes")
        loop.pump()
        self.assertEqual(loop.received_by_server, b"bytes")

    def test_small_writes_are_one_record(self) -> None:
        """What is written before it is taken is encrypted together."""
        for version in VERSIONS:
            loop = self.open(version)
            for _ in range(100):
                loop.client.write(b"ab")
                loop.client.write(b"")
            self.assertEqual(len(list(split(flush(loop.client)))), 1)

    def test_pending(self) -> None:
        """What waits is counted, on both sides of the encryption."""
        loop = self.open(VERSIONS[1])
        loop.client.write(bytes(1000))
        self.assertEqual(loop.client.pending_plaintext, 1000)
        self.assertEqual(loop.client.pending_ciphertext, 0)
        self.assertTrue(loop.client.wants_write)
        ciphertext = loop.client.take()
        self.assertGreater(len(ciphertext), 1000)
        self.assertEqual(loop.client.pending_plaintext, 0)
        self.assertFalse(loop.client.wants_write)
        loop.client.close()
        self.assertGreater(loop.client.pending_ciphertext, 10)
        self.assertTrue(loop.client.wants_write)
        self.assertEqual(loop.client.pending_ciphertext, len(loop.client.take()))
        loop.server.feed(ciphertext)
        self.assertEqual(loop.server.unread, len(ciphertext))
        self.assertEqual(loop.server.read(), bytes(1000))
        self.assertEqual(loop.server.unread, 0)

    def test_both_ways_at_any_time(self) -> None:
        """Whoever writes whenever, in any interleaving: both directions stay whole."""
        for version in VERSIONS:
            loop = self.connectors(*pair(version))
            chance = random.Random(7)
            sent = {True: bytearray(), False: bytearray()}
            received = {True: bytearray(), False: bytearray()}
            wire = {True: bytearray(), False: bytearray()}
            for _ in range(300):
                is_client = chance.random() < 0.5
                connector = loop.client if is_client else loop.server
                action = chance.randrange(4)
                if action == 0:
                    data = chance.randbytes(chance.randrange(3000))
                    connector.write(data)
                    sent[is_client] += data
                elif action == 1:
                    wire[is_client] += connector.take()
                elif action == 2:
                    size = chance.randrange(2000)
                    connector.feed(bytes(wire[not is_client][:size]))
                    del wire[not is_client][:size]
                else:
                    received[not is_client] += connector.read()
            loop.to_server.put(bytes(wire[True]))
            loop.to_client.put(bytes(wire[False]))
            loop.pump()
            self.assertEqual(received[True] + loop.received_by_server, sent[True])
            self.assertEqual(received[False] + loop.received_by_client, sent[False])
            self.assertGreater(len(sent[True]), 10_000)

    def test_ten_mebibytes(self) -> None:
        """A write far above every buffer of ours, each way."""
        data = random.Random(1).randbytes(10 * 1024 * 1024)
        for version in VERSIONS:
            client, server = pair(version)
            loop = Loopback(
                Connector(client, True, WriteBuffer(limit=None)),
                Connector(server, False, WriteBuffer(limit=None)),
            )
            loop.client.write(data)
            loop.server.write(data)
            loop.pump()
            self.assertEqual(loop.received_by_server, data)
            self.assertEqual(loop.received_by_client, data)
            self.assertEqual(loop.client.pending_ciphertext, 0)

    def test_much_at_once(self) -> None:
        """More than the decrypting buffer holds arrives before anybody reads."""
        data = random.Random(2).randbytes(1_000_000)
        for version in VERSIONS:
            loop = self.open(version)
            for start in range(0, len(data), 100_000):
                loop.client.write(data[start : start + 100_000])
                loop.server.feed(flush(loop.client))
            self.assertEqual(loop.server.read(), data)
            self.assertEqual(loop.server.read(), b"")

    def test_piece_by_piece(self) -> None:
        """A record that is not whole yields nothing, and nothing of it is lost."""
        for version in VERSIONS:
            loop = self.open(version)
            loop.client.write(b"whole")
            ciphertext = flush(loop.client)
            for at in range(len(ciphertext) - 1):
                loop.server.feed(ciphertext[at : at + 1])
                self.assertEqual(loop.server.read(), b"")
            loop.server.feed(ciphertext[-1:])
            self.assertEqual(loop.server.read(), b"whole")

    def test_plaintext_before_a_fault(self) -> None:
        """What came before the fault is handed out first; the fault is raised at the next call."""
        for version in VERSIONS:
            loop = self.open(version)
            for each in (b"one", b"two", b"three"):
                loop.client.write(each)
                flight = bytearray(flush(loop.client))
                if each == b"three":
                    flight[-1] ^= 1
                loop.server.feed(bytes(flight))
            self.assertEqual(loop.server.read(), b"onetwo")
            self.assertIs(loop.server.state, State.FAILED)
            first = self.assertRaises(PeerError, loop.server.read)
            second = self.assertRaises(PeerError, loop.server.read)
            self.assertEqual(first.alert, "bad_record_mac")
            self.assertEqual(str(first), str(second))

    def test_own_buffer(self) -> None:
        """Another buffer will do that has the four methods."""

        class Shouting:
            """Holds bytes in upper case."""

            def __init__(self) -> None:
                self.data = b""

            def __len__(self) -> int:
                return len(self.data)

            def append(self, data: bytes) -> None:
                if len(self.data) + len(data) > 12:
                    raise UsageError("no room")
                self.data += data.upper()

            def take(self, limit: int) -> bytes:
                taken, self.data = self.data[:5], self.data[5:]
                return taken

            def clear(self) -> None:
                self.data = b""

        client, server = pair()
        buffer = Shouting()
        loop = Loopback(Connector(client, True, buffer), server)
        loop.client.write(b"hello world!")
        self.assertRaises(UsageError, loop.client.write, b"more")
        self.assertEqual(loop.client.pending_plaintext, 12)
        loop.pump()
        self.assertEqual(loop.received_by_server, b"HELLO WORLD!")
        loop.client.write(b"unsent")
        loop.to_client.cut()
        self.assertEqual(loop.client.pending_plaintext, 0)

    def test_water_marks(self) -> None:
        """The notices come while bytes move, once each."""
        told: list[str] = []
        buffer = WriteBuffer(
            60_000,
            10_000,
            None,
            lambda: told.append("filled"),
            lambda: told.append("drained"),
        )
        client, server = pair()
        loop = Loopback(Connector(client, True, buffer), server)
        for _ in range(10):
            loop.client.write(bytes(100_000))
        self.assertEqual(told, ["filled"])
        loop.pump()
        self.assertEqual(told, ["filled", "drained"])
        self.assertEqual(len(loop.received_by_server), 1_000_000)

    def test_full_buffer(self) -> None:
        """The buffer that a connector has by itself is bounded."""
        loop = self.connectors(*pair())
        loop.client.write(bytes(1024 * 1024))
        error = self.assertRaises(UsageError, loop.client.write, b"x")
        self.assertIn("no room for 1 more", str(error))
        loop.pump()
        self.assertEqual(len(loop.received_by_server), 1024 * 1024)


@on_both_engines
class ReplacedConnectionTests(EngineCase):
    """Programs reach for the OpenSSL connection, and some put another in its place."""

    def test_another(self) -> None:
        """It is used from then on."""
        loop = self.connectors(*pair())
        other, _ = pair()
        loop.client.connection = other
        self.assertIs(loop.client.connection, other)
        loop.pump()
        self.assertIs(loop.client.state, State.OPEN)
        self.assertEqual(other.get_protocol_version_name(), "TLSv1.3")
