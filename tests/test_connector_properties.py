"""Tests for L{twisted_bioconn.connector} with any bytes, in any pieces, in any order."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from weakref import WeakSet

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from tests.engines import EngineCase, on_both_engines
from tests.faults import flush
from tests.tls_material import (
    VERSIONS,
    client_connection,
    client_context,
    pair,
    server_connection,
    server_context,
)
from twisted_bioconn import _openssl
from twisted_bioconn.connector import Connector, State
from twisted_bioconn.errors import PeerError, UsageError
from twisted_bioconn.testing import Loopback

# A step: which end, what, and how much of it.
step = st.tuples(
    st.booleans(),
    st.sampled_from(["write", "take", "deliver", "deliver", "read", "close"]),
    st.integers(0, 40_000),
)
plaintext = st.binary(max_size=50) | st.builds(
    lambda seed, size: random.Random(seed).randbytes(size),
    st.integers(0, 99),
    st.integers(0, 50_000),
)
sizes = st.none() | st.lists(st.integers(1, 30_000), min_size=1, max_size=5)


@on_both_engines
class AnyInterleavingTests(EngineCase):
    """The same bytes come out, whatever happens in what order."""

    def play(self, version: int, steps: list[tuple[bool, str, int]]) -> None:
        client, server = pair(version)
        ends = {True: Connector(client, True), False: Connector(server, False)}
        sent = {True: bytearray(), False: bytearray()}
        received = {True: bytearray(), False: bytearray()}
        wire = {True: bytearray(), False: bytearray()}
        closed = {True: False, False: False}

        def do(is_client: bool, what: str, size: int) -> None:
            end = ends[is_client]
            if what == "write":
                data = bytes([len(sent[is_client]) % 251]) * size
                if closed[is_client]:
                    self.assertRaises(UsageError, end.write, data)
                else:
                    try:
                        end.write(data)
                    except UsageError as error:
                        self.assertIn("no room", str(error))
                    else:
                        sent[is_client] += data
            elif what == "take":
                wire[is_client] += end.take()
            elif what == "deliver":
                end.feed(bytes(wire[not is_client][:size]))
                del wire[not is_client][:size]
            elif what == "read":
                received[is_client] += end.read()
            else:
                end.close()
                closed[is_client] = True

        for each in steps:
            do(*each)
        # Then all that is under way arrives.
        while True:
            for is_client in ends:
                wire[is_client] += flush(ends[is_client])
            if not (wire[True] or wire[False]):
                break
            for is_client in ends:
                do(is_client, "deliver", 1_000_000)
                do(is_client, "read", 0)
        for is_client, end in ends.items():
            self.assertEqual(bytes(received[not is_client]), bytes(sent[is_client]))
            expected = {
                (False, False): State.OPEN,
                (True, False): State.LOCAL_CLOSED,
                (False, True): State.REMOTE_CLOSED,
                (True, True): State.CLOSED,
            }[closed[is_client], closed[not is_client]]
            self.assertIs(end.state, expected)
            self.assertEqual((end.pending_plaintext, end.pending_ciphertext), (0, 0))

    @settings(
        max_examples=120,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
    )
    @given(st.sampled_from(VERSIONS), st.lists(step, max_size=60))
    def test_any(self, version: int, steps: list[tuple[bool, str, int]]) -> None:
        """Writes, deliveries in pieces, reads and closes of both ends."""
        self.play(version, steps)

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
    )
    @given(
        st.sampled_from(VERSIONS),
        st.lists(plaintext, max_size=8),
        st.lists(plaintext, max_size=8),
        sizes,
        sizes,
    )
    def test_any_pieces(
        self,
        version: int,
        there: list[bytes],
        back: list[bytes],
        to_server: list[int] | None,
        to_client: list[int] | None,
    ) -> None:
        """Plaintext cut anyhow, and ciphertext delivered in any pieces."""
        loop = self.connectors(*pair(version))
        loop.to_server.split, loop.to_client.split = to_server, to_client
        for number in range(max(len(there), len(back))):
            for data in there[number : number + 1]:
                loop.client.write(data)
            for data in back[number : number + 1]:
                loop.server.write(data)
            if number % 2:
                loop.pump()
        loop.client.close()
        loop.pump()
        loop.server.close()
        loop.pump()
        self.assertEqual(loop.received_by_server, b"".join(there))
        self.assertEqual(loop.received_by_client, b"".join(back))
        self.assertEqual((loop.client.state, loop.server.state), (State.CLOSED, State.CLOSED))


CASES = 2500
"""For each engine and version: 10,000 in all."""

Stage = Callable[[random.Random, int], tuple[Connector, Connector, bytes]]
"""Makes a connector, its peer, and the bytes that the connector would get next."""


def fresh(version: int) -> tuple[Connector, Connector]:
    """A client and a server; the client verifies."""
    connection = client_connection(client_context(version))
    _openssl.set_verification(connection, SSL.VERIFY_PEER, None)
    return Connector(connection, True), Connector(server_connection(server_context(version)), False)


def hello(chance: random.Random, version: int) -> tuple[Connector, Connector, bytes]:
    """The server before the first byte."""
    client, server = fresh(version)
    return server, client, client.take()


def answer(chance: random.Random, version: int) -> tuple[Connector, Connector, bytes]:
    """The client that waits for the server's flight."""
    client, server = fresh(version)
    server.feed(client.take())
    return client, server, flush(server)


def finish(chance: random.Random, version: int) -> tuple[Connector, Connector, bytes]:
    """The server that waits for the end of the handshake."""
    client, server = fresh(version)
    server.feed(client.take())
    client.write(b"early")
    client.feed(flush(server))
    return server, client, flush(client)


def opened(chance: random.Random, version: int) -> tuple[Connector, Connector, bytes]:
    """Either end of an open connection, half-closed perhaps."""
    client, server = fresh(version)
    loop = Loopback(client, server)
    loop.pump()
    ours, peer = (client, server) if chance.random() < 0.5 else (server, client)
    if chance.random() < 0.3:
        ours.close()
        flush(ours)
    for _ in range(chance.randrange(1, 4)):
        peer.write(chance.randbytes(chance.randrange(200)))
        if chance.random() < 0.5:
            peer.take()
    if chance.random() < 0.3:
        peer.close()
    return ours, peer, flush(peer)


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Bytes with something wrong with them, or nothing but noise."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(changed) + 1)
        kind = chance.randrange(7)
        if kind == 0 and changed:
            changed[at - 1] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            changed[at:at] = chance.randbytes(chance.randrange(40))
        elif kind == 3:
            changed[at:at] = changed[: chance.randrange(100)]
        elif kind == 4:
            del changed[at : at + chance.randrange(20)]
        elif kind == 5 and len(changed) > 5:
            # The header of the first record: its kind, version and length.
            changed[chance.randrange(5)] = chance.randrange(256)
        else:
            changed[at : at + 2] = chance.randbytes(2)
    return bytes(changed) if chance.random() < 0.9 else chance.randbytes(chance.randrange(300))


@on_both_engines
class AnyBytesTests(EngineCase):
    """Whatever comes from the wire, at every stage: only our errors, and nothing that grows."""

    def hurt(self, chance: random.Random, stage: Stage, version: int) -> Connector:
        """One case: wrong bytes in pieces, with calls of ours between them."""
        ours, _peer, data = stage(chance, version)
        data = mutated(chance, data)
        at = 0
        out = 0
        while at < len(data):
            size = chance.choice((1, 5, 50, 20_000))
            try:
                ours.feed(data[at : at + size])
                if chance.random() < 0.5:
                    ours.read()
                if chance.random() < 0.1:
                    ours.write(b"x")
                if chance.random() < 0.05:
                    ours.close()
                if chance.random() < 0.5:
                    out += len(ours.take())
                ours.renew_bios()
            except (PeerError, UsageError) as error:
                self.assertTrue(str(error))
            at += size
        try:
            ours.read()
            ours.end_of_wire()
        except PeerError as error:
            self.assertIs(ours.state, State.FAILED)
            self.assertTrue(str(error))
        out += len(flush(ours))
        # A server's flight and its tickets, at most, and an alert.
        self.assertLess(out, 10_000)
        if ours.state is State.FAILED:
            self.assertEqual((ours.unread, ours.pending_plaintext), (0, 0))
        return ours

    def test_any(self) -> None:
        """A quarter of all cases for each engine and version."""
        stages: list[Stage] = [hello, answer, finish, opened]
        for version in VERSIONS:
            seed = version
            chance = random.Random(seed)
            alive: WeakSet[SSL.Connection] = WeakSet()
            states: dict[State, int] = {}
            sentences: set[str] = set()
            for case in range(CASES):
                ours = self.hurt(chance, stages[case % len(stages)], version)
                alive.add(ours.connection)
                states[ours.state] = states.get(ours.state, 0) + 1
                if ours.error is not None:
                    sentences.add(str(ours.error))
            del ours
            gc.collect()
            self.assertEqual(len(alive), 0)
            self.assertGreater(states[State.FAILED], CASES // 2)
            # They went wrong in many ways.
            self.assertGreater(len(sentences), 20, sentences)
