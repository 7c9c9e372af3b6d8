"""The model holds for TLS, and finds what is wrong where something is."""

from __future__ import annotations

import os

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.model.report import Unlike, try_programs
from tests.model.rules import Oops, Rule
from tests.model.steps import Act, Action, Fault, Program, Setting, Turn
from tests.model.world import TCP, TLS, run
from twisted_bioconn.errors import PeerError, TruncatedError
from twisted_bioconn.protocol import TLSConnectorProtocol

STEPS = 60_000 if os.environ.get("BIOCONN_SLOW") else 4_000
PLAIN = Setting((False, False), (False, False), True, 1 << 18, None, True)
HALF = Setting((True, True), (True, True), True, 1 << 18, None, True)


class ModelTests(SynchronousTestCase):
    """Any calls, in any order, with any faults."""

    def test_holds(self) -> None:
        """No rule is broken over TLS, and what has to be as over TCP is."""
        report = try_programs(STEPS)
        self.flushLoggedErrors(Oops)
        self.assertGreaterEqual(report.steps.total(), STEPS)
        self.assertGreater(report.orderly, report.programs // 10)


class WorldTests(SynchronousTestCase):
    """Programs of which it is known what they come to."""

    def test_orderly(self) -> None:
        """Both write, and one closes: the same over TLS and TCP."""
        program = Program(
            PLAIN,
            [
                Act(0, Action("write", (70_000,))),
                Act(1, Action("write_sequence", (1, 2))),
                Turn(None),
                Act(0, Action("lose")),
            ],
        )
        outcome = run(program, TLS)
        self.assertEqual(outcome, run(program, TCP))
        self.assertTrue(outcome.orderly)
        self.assertEqual(outcome.broken, [])
        self.assertEqual(outcome.received, (3, 70_000))
        self.assertEqual(outcome.told, (["made", "data", "lost"],) * 2)
        self.assertEqual(outcome.reasons, ("ConnectionDone",) * 2)

    def test_half_closed(self) -> None:
        """One ends what it writes, and hears the other to its end."""
        program = Program(
            HALF,
            [
                Act(0, Action("half_close")),
                Turn(None),
                Act(1, Action("send", (5,))),
                Act(1, Action("lose")),
            ],
        )
        outcome = run(program, TLS)
        self.assertEqual(outcome, run(program, TCP))
        self.assertEqual(outcome.told[0], ["made", "data", "read lost", "lost", "write lost"])
        self.assertEqual(outcome.received, (5, 0))

    def test_cut(self) -> None:
        """TLS tells a stream that was cut from one that ended.  TCP cannot."""
        program = Program(PLAIN, [Act(0, Action("send", (5,))), Turn(None), Fault(1, "cut")])
        tls, tcp = run(program, TLS), run(program, TCP)
        self.assertEqual((tls.reasons[1], tcp.reasons[1]), ("ConnectionLost", "ConnectionDone"))
        self.assertEqual((tls.broken, tls.orderly), ([], False))


class Losing(TLSConnectorProtocol):
    """Loses the last byte of what is written at once."""

    def write(self, data: bytes) -> None:
        super().write(data[:-1] if len(data) > 16384 else data)


class Deaf(TLSConnectorProtocol):
    """Does not pause."""

    def pauseProducing(self) -> None:
        """Go on all the same."""


class Hasty(TLSConnectorProtocol):
    """Closes without a word, and at once."""

    def loseConnection(self) -> None:
        self.transport.loseConnection()


class Credulous(TLSConnectorProtocol):
    """Takes a cut for an end."""

    def _failed(self, error: PeerError) -> None:
        if isinstance(error, TruncatedError):
            self._disconnect()
        else:
            super()._failed(error)


class Chatty(TLSConnectorProtocol):
    """Tells the end twice."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        application = self.wrappedProtocol
        super().connectionLost(reason)
        application.connectionLost(reason)


class Forgetful(TLSConnectorProtocol):
    """Leaves a call on the clock."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._clock is not None:
            self._clock.callLater(1e6, print)


class Strict(TLSConnectorProtocol):
    """Raises where nothing is to be raised."""

    def loseWriteConnection(self) -> None:
        if self._link.connector is None:
            raise RuntimeError("it is lost")
        super().loseWriteConnection()


class FindingTests(SynchronousTestCase):
    """Layers with a fault each: whoever looks for it finds it."""

    def finds(self, layer: type[TLSConnectorProtocol], *rules: Rule) -> None:
        """One of these rules is what it breaks."""
        error = self.assertRaises(Unlike, try_programs, 4000, 1, layer, False)
        self.flushLoggedErrors(Oops)
        self.assertTrue(any(rule.value in str(error) for rule in rules), error)

    def test_bytes_are_lost(self) -> None:
        self.finds(Losing, Rule.BYTES, Rule.WHOLE, Rule.ARRIVES)

    def test_pause(self) -> None:
        self.finds(Deaf, Rule.PAUSE)

    def test_closes_at_once(self) -> None:
        self.finds(Hasty, Rule.ARRIVES, Rule.REASON)

    def test_cut(self) -> None:
        self.finds(Credulous, Rule.WHOLE, Rule.REASON)

    def test_twice(self) -> None:
        self.finds(Chatty, Rule.ONCE)

    def test_left(self) -> None:
        self.finds(Forgetful, Rule.LEFT)

    def test_raises(self) -> None:
        self.finds(Strict, Rule.CALLS)
