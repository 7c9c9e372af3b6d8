"""Tests for L{twisted_bioconn.limits}."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.limits import TELL_INTERVAL, Limit, Limiter, Limits, Slot

HOST, SAME_NETWORK, OTHER = "192.0.2.7", "192.0.2.200", "198.51.100.1"


class LimiterTests(SynchronousTestCase):
    """How many there may be."""

    def limiter(self, **limits: Any) -> Limiter:
        self.clock = Clock()
        return Limiter(Limits(**limits), self.clock)

    def arrived(self, limiter: Limiter, host: str | None = HOST) -> Slot | None:
        """A connection: its slot, if there is one for it."""
        slot = limiter.admit()
        if slot is not None and not slot.identify(host):
            slot.release()
            return None
        return slot

    def let_in(self, limiter: Limiter, *hosts: str | None) -> list[bool]:
        """Which of these would be let in, one after the other."""
        return [self.arrived(limiter, host) is not None for host in hosts]

    def test_none(self) -> None:
        limiter = self.limiter()
        self.assertFalse(limiter.limits.is_needed)
        slots = [self.arrived(limiter) for _ in range(1000)]
        self.assertTrue(all(slot is not None and slot.begin_handshake() for slot in slots))
        self.assertEqual(limiter.connections, 1000)

    def test_connections(self) -> None:
        limiter = self.limiter(connections=2)
        self.assertTrue(limiter.limits.is_needed)
        one, two = self.arrived(limiter), self.arrived(limiter, None)
        assert one is not None and two is not None
        self.assertIsNone(self.arrived(limiter))
        one.release()
        one.release()
        self.assertEqual(limiter.connections, 1)
        self.assertIsNotNone(self.arrived(limiter))
        self.assertIsNone(self.arrived(limiter))
        self.assertEqual(limiter.refused, {Limit.CONNECTIONS: 2})

    def test_address(self) -> None:
        limiter = self.limiter(per_address=2)
        self.assertEqual(
            self.let_in(limiter, HOST, SAME_NETWORK, HOST, HOST, f"::ffff:{HOST}", OTHER, None),
            [True, True, True, False, False, True, True],
        )
        # Who was refused is not counted.
        self.assertEqual(limiter.connections, 5)

    def test_network(self) -> None:
        limiter = self.limiter(per_network=2)
        self.assertEqual(
            self.let_in(limiter, HOST, SAME_NETWORK, HOST, OTHER, OTHER, OTHER),
            [True, True, False, True, True, False],
        )
        self.assertEqual(
            self.let_in(limiter, "2001:db8::1", "2001:db8:0:0:ffff::2%eth0", "2001:db8::3"),
            [True, True, False],
        )
        self.assertEqual(self.let_in(limiter, "2001:db8:0:1::1"), [True])

    def test_both(self) -> None:
        """Who is refused by one of two limits takes no place in the other."""
        limiter = self.limiter(per_address=1, per_network=2)
        self.assertEqual(
            self.let_in(limiter, HOST, HOST, HOST, SAME_NETWORK, "192.0.2.8"),
            [True, False, False, True, False],
        )
        self.assertEqual(limiter.refused, {Limit.PER_ADDRESS: 2, Limit.PER_NETWORK: 1})

    def test_no_address(self) -> None:
        """What is no IP address, as a PROXY header may bring it, counts as itself."""
        limiter = self.limiter(per_address=1, per_network=1)
        self.assertEqual(self.let_in(limiter, "odd", "odd", "even"), [True, False, True])

    def test_handshakes(self) -> None:
        limiter = self.limiter(handshakes=1)
        one, two = limiter.admit(), limiter.admit()
        assert one is not None and two is not None
        self.assertTrue(one.begin_handshake())
        self.assertFalse(two.begin_handshake())
        one.end_handshake()
        one.end_handshake()
        self.assertTrue(two.begin_handshake())
        # One that fails is over as well.
        two.release()
        self.assertEqual((limiter.handshakes, limiter.connections), (0, 1))
        one.release()
        self.assertEqual((limiter.handshakes, limiter.connections), (0, 0))

    def test_rate(self) -> None:
        limiter = self.limiter(handshake_rate=10)

        def begun(times: int) -> int:
            slots = [limiter.admit() for _ in range(times)]
            return sum(slot is not None and slot.begin_handshake() for slot in slots)

        self.assertEqual(begun(20), 10)
        self.clock.advance(0.5)
        self.assertEqual(begun(20), 5)
        self.clock.advance(60)
        self.assertEqual(begun(20), 10)

    def test_mistakes(self) -> None:
        for name in ("connections", "per_address", "per_network", "handshakes", "lifetime"):
            with self.assertRaises(ConfigurationError) as caught:
                Limits(**{name: 0})
            self.assertEqual(str(caught.exception), f"{name}=0: this must be above 0, or None")

    @given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([HOST, SAME_NETWORK, OTHER]))))
    def test_counts(self, steps: list[tuple[int, str]]) -> None:
        """Whatever happens, what is counted is what is there; and at the end that is nothing."""
        limiter = self.limiter(connections=4, per_address=2, per_network=3, handshakes=2)
        there: list[tuple[Slot, str]] = []
        does: list[Callable[[Slot], object]] = [
            Slot.begin_handshake,
            Slot.end_handshake,
            Slot.release,
        ]
        for what, host in steps:
            if what > 2:
                slot = self.arrived(limiter, host)
                if slot is not None:
                    there.append((slot, host))
            elif there:
                slot, _ = there[0]
                if what != 0 or slot._stage.name == "WAITING":
                    does[what](slot)
                if what == 2:
                    there.pop(0)
            self.assertEqual(limiter.connections, len(there))
            self.assertLessEqual(sum(each == HOST for _, each in there), 2)
            self.assertLessEqual(sum(each != OTHER for _, each in there), 3)
            self.assertLessEqual(limiter.handshakes, 2)
        for slot, _ in there:
            slot.release()
        self.assertEqual((limiter.connections, limiter.handshakes), (0, 0))
        self.assertEqual(dict(limiter._by_address), {})
        limiter.stop()


class TellingTests(SynchronousTestCase):
    """A flood is told of in a few lines."""

    def test_lines(self) -> None:
        clock = Clock()
        limiter = Limiter(Limits(connections=2, per_address=1), clock)
        with capturedLogs() as events:
            slot = limiter.admit()
            assert slot is not None
            slot.identify(HOST)
            for _ in range(100):
                another = limiter.admit()
                assert another is not None
                self.assertFalse(another.identify(HOST))
                another.release()
            another = limiter.admit()
            for _ in range(7):
                self.assertIsNone(limiter.admit())
            clock.advance(TELL_INTERVAL)
            clock.advance(TELL_INTERVAL)
        self.assertEqual(
            [formatEvent(event) for event in events],
            [
                f"1 connection was refused, the last from {HOST}: maxPerAddress=1 has been reached",
                f"99 connections were refused, the last from {HOST}:"
                " maxPerAddress=1 has been reached",
                "7 connections were refused: maxConnections=2 has been reached",
            ],
        )
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_stop(self) -> None:
        clock = Clock()
        limiter = Limiter(Limits(connections=1), clock)
        limiter.admit()
        with capturedLogs() as events:
            for _ in range(3):
                limiter.admit()
            limiter.stop()
            limiter.stop()
        self.assertEqual(len(events), 2)
        self.assertEqual(clock.getDelayedCalls(), [])


class SharedTests(SynchronousTestCase):
    """The limits are those of several processes together."""

    def both(self, **limits: Any) -> tuple[Limiter, Limiter]:
        """The limiter of one port, as two processes have it."""
        self.clock = Clock()
        one = Limiter(Limits(**limits), self.clock)
        one.share(2)
        two = copy.copy(one)
        two._board, two._handshakes = copy.copy(one._board), copy.copy(one._handshakes)
        two._by_address, two.refused, two._untold = Counter(), Counter(), Counter()
        one.be_process(0)
        two.be_process(1)
        self.addCleanup(one.stop)
        self.addCleanup(two.stop)
        return one, two

    def arrived(self, limiter: Limiter, host: str = HOST) -> Slot:
        slot = limiter.admit()
        assert slot is not None
        self.assertTrue(slot.identify(host))
        return slot

    def test_connections(self) -> None:
        one, two = self.both(connections=2)
        first = self.arrived(one)
        self.arrived(two)
        self.assertIsNone(one.admit())
        self.assertIsNone(two.admit())
        first.release()
        self.arrived(two)
        self.assertEqual((one.connections, two.connections), (0, 2))
        # It was killed.
        one.process_ended(1)
        self.arrived(one)
        self.arrived(one)
        self.assertIsNone(one.admit())

    def test_address(self) -> None:
        one, two = self.both(per_address=2, per_network=3)
        first = self.arrived(one)
        self.arrived(two)
        for limiter in (one, two):
            slot = limiter.admit()
            assert slot is not None
            self.assertFalse(slot.identify(HOST))
            slot.release()
        self.arrived(one, SAME_NETWORK)
        slot = two.admit()
        assert slot is not None
        self.assertFalse(slot.identify(SAME_NETWORK))
        self.assertEqual(two.refused, {Limit.PER_ADDRESS: 1, Limit.PER_NETWORK: 1})
        first.release()
        self.assertTrue(slot.identify(HOST))

    def test_handshakes(self) -> None:
        one, two = self.both(handshakes=1)
        first, second = self.arrived(one), self.arrived(two)
        self.assertTrue(first.begin_handshake())
        self.assertFalse(second.begin_handshake())
        first.end_handshake()
        self.assertTrue(second.begin_handshake())
        second.release()
        self.assertTrue(self.arrived(one).begin_handshake())

    def test_rate(self) -> None:
        one, two = self.both(handshake_rate=2)
        self.assertTrue(self.arrived(one).begin_handshake())
        self.assertTrue(self.arrived(two).begin_handshake())
        self.assertFalse(self.arrived(one).begin_handshake())
        self.clock.advance(0.5)
        self.assertTrue(self.arrived(two).begin_handshake())
        self.assertFalse(self.arrived(one).begin_handshake())

    def test_alone(self) -> None:
        """What is not shared has no processes."""
        limiter = Limiter(Limits(connections=1), Clock())
        limiter.be_process(1)
        limiter.process_ended(1)
        self.arrived(limiter)
        self.assertIsNone(limiter.admit())
        limiter.stop()
