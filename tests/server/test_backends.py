"""Back ends: which one a client gets, marks for those that fail, and a header for each."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ClientEndpoint
from twisted.internet.error import (
    ConnectBindError,
    ConnectError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.server import wire
from tests.server.test_relay import LoggingCase
from tests.server.wire import Immediate, Wire
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.backend import is_ours
from twisted_bioconn.server.backends import (
    BackEnd,
    BackEnds,
    Balance,
    Marks,
    NotConnected,
    SendProxy,
    State,
)
from twisted_bioconn.server.relay import SETTLING, RelayFactory


class Named(Factory[Protocol]):
    """Makes protocols for one back end."""

    noisy = False

    def __init__(self, back_end: BackEnd) -> None:
        self.back_end = back_end

    def buildProtocol(self, addr: Any) -> Protocol:
        self.back_end.opened()
        return Protocol()


class BackEndsCase(LoggingCase):
    """Three back ends in memory, whose connections are made when a test says so."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.clock.advance(1000)
        self.a, self.b, self.c = self.endpoints = [wire.BackEnd(self.clock) for _ in range(3)]

    def make(
        self, endpoints: Iterable[IStreamClientEndpoint] | None = None, **settings: Any
    ) -> BackEnds:
        given = self.endpoints if endpoints is None else endpoints
        return BackEnds(zip(given, "abcdef", strict=False), self.clock, **settings)

    def fail_down(self, back_end: BackEnd) -> None:
        for _ in range(3):
            back_end.failed("refused")


class MarksTests(BackEndsCase):
    """L{BackEnd}: its state."""

    def setUp(self) -> None:
        super().setUp()
        self.back_end = self.make().members[0]

    def test_unknown_until_somebody_was_there(self) -> None:
        back_end = self.back_end
        self.assertIs(back_end.state, State.UNKNOWN)
        self.assertEqual(back_end.since, 1000)
        self.clock.advance(5)
        back_end.opened()
        self.assertIs(back_end.state, State.UP)
        self.assertEqual((back_end.since, back_end.connections, back_end.served), (1005, 1, 1))
        back_end.closed()
        self.assertEqual((back_end.connections, back_end.served), (0, 1))
        self.assertEqual(self.logged(), [])
        self.assertEqual(repr(back_end), "<BackEnd a: up>")

    def test_down_after_three_failures(self) -> None:
        back_end = self.back_end
        for _ in range(2):
            back_end.failed("Connection was refused")
            self.clock.advance(1)
        self.assertIs(back_end.state, State.UNKNOWN)
        self.assertTrue(back_end.is_usable)
        back_end.failed("Connection was refused")
        self.assertIs(back_end.state, State.DOWN)
        self.assertFalse(back_end.is_usable)
        self.assertEqual((back_end.failures, back_end.since), (3, 1002))
        self.assertEqual(
            self.logged(),
            [
                "back end a is down: 3 connections have failed in 2 s, the last one:"
                " Connection was refused; tried again in 10 s"
            ],
        )

    def test_failures_far_apart_are_none(self) -> None:
        for _ in range(20):
            self.back_end.failed("refused")
            self.clock.advance(5.1)
        self.assertTrue(self.back_end.is_usable)
        self.assertEqual(self.back_end.failures, 20)

    def test_one_connection_tries_it(self) -> None:
        back_end = self.back_end
        self.fail_down(back_end)
        self.clock.advance(9.9)
        self.assertFalse(back_end.is_usable)
        self.clock.advance(0.1)
        self.assertTrue(back_end.is_usable)
        trial = back_end.begin()
        self.assertTrue(trial)
        self.assertFalse(back_end.is_usable)
        self.assertIs(back_end.state, State.DOWN)
        self.assertFalse(back_end.begin())
        # The client has left: somebody else may try.
        back_end.end(trial)
        self.assertTrue(back_end.is_usable)

    def test_time_doubles(self) -> None:
        back_end = self.back_end
        self.fail_down(back_end)
        for seconds in (10, 20, 40, 60, 60):
            self.clock.advance(seconds - 0.1)
            self.assertFalse(back_end.is_usable)
            self.clock.advance(0.1)
            trial = back_end.begin()
            self.assertTrue(trial, seconds)
            back_end.end(trial)
            back_end.failed("refused")
            # Those that are under way still fail, and say nothing new.
            back_end.failed("refused")
        self.assertEqual(len(self.logged()), 1)

    def test_up_again(self) -> None:
        back_end = self.back_end
        self.fail_down(back_end)
        self.clock.advance(10)
        back_end.end(back_end.begin())
        back_end.opened()
        self.assertIs(back_end.state, State.UP)
        self.assertTrue(back_end.is_usable)
        self.assertEqual(self.logged()[1:], ["back end a is up: a connection has succeeded"])

    def test_it_comes_and_goes(self) -> None:
        """One that is down again soon stays so for longer."""
        back_end = self.back_end
        for pause, seconds in ((0, 10), (5, 20), (59, 40), (5, 60), (61, 10)):
            self.clock.advance(pause)
            self.fail_down(back_end)
            self.assertIn(f"tried again in {seconds} s", self.logged()[-1])
            self.clock.advance(seconds)
            back_end.opened()

    def test_faults_of_ours_are_no_marks(self) -> None:
        for _ in range(5):
            self.back_end.failed("Too many open files", is_ours=True)
        self.assertEqual((self.back_end.failures, self.back_end.state), (5, State.UNKNOWN))
        for error, ours in (
            (ConnectBindError(errno.EMFILE, "Too many open files"), True),
            (ConnectError(errno.EADDRNOTAVAIL), True),
            (OSError(errno.ENFILE, "Too many open files in system"), True),
            (ConnectionRefusedError(errno.ECONNREFUSED), False),
            (ConnectError(string="no such thing"), False),
            (NotConnected("the file table is full", True), True),
        ):
            self.assertIs(is_ours(Failure(error)), ours, error)

    def test_one_failure_may_be_enough(self) -> None:
        back_end = self.make(marks=Marks(max_fails=1, fail_time=2)).members[0]
        back_end.failed("refused")
        self.assertEqual(self.logged(), ["back end a is down: refused; tried again in 2 s"])

    def test_long_from_the_start(self) -> None:
        back_end = self.make(marks=Marks(max_fails=1, fail_time=300)).members[0]
        for _ in range(2):
            back_end.failed("refused")
            self.clock.advance(299)
            self.assertFalse(back_end.is_usable)
            self.clock.advance(1)
            self.assertTrue(back_end.is_usable)

    def test_marks_that_make_no_sense(self) -> None:
        for name in ("max_fails", "fail_window", "fail_time", "longest_fail_time"):
            for value in (0, -1, float("nan")):
                with self.assertRaisesRegex(ConfigurationError, f"^{name}={value}: "):
                    Marks(**cast(Any, {name: value}))

    def test_text_of_a_stranger(self) -> None:
        for _ in range(3):
            self.back_end.failed("\x1b[31m\nred")
        self.assertIn(r"\x1b[31m\nred", self.logged()[0])


class OrderTests(BackEndsCase):
    """L{BackEnds.order}."""

    def names(self, back_ends: BackEnds) -> str:
        return "".join(each.description for each in back_ends.order())

    def test_in_turn(self) -> None:
        back_ends = self.make()
        self.assertEqual([self.names(back_ends) for _ in range(4)], ["abc", "bca", "cab", "abc"])

    def test_fewest_connections(self) -> None:
        back_ends = self.make(balance=Balance.LEAST_CONNECTIONS)
        a, b, c = back_ends.members
        self.assertEqual(self.names(back_ends)[0], "a")
        a.opened()
        # One that is being made counts too: many clients may come at a time.
        b.begin()
        self.assertEqual([self.names(back_ends)[0] for _ in range(3)], ["c"] * 3)
        c.opened()
        c.opened()
        self.assertEqual([self.names(back_ends) for _ in range(3)], ["bac", "abc", "abc"])
        a.closed()
        self.assertEqual([self.names(back_ends) for _ in range(3)], ["abc"] * 3)

    def test_those_that_are_down_come_last(self) -> None:
        back_ends = self.make()
        self.fail_down(back_ends.members[0])
        self.assertEqual([self.names(back_ends) for _ in range(3)], ["bca", "cba", "bca"])

    def test_none_is_up(self) -> None:
        back_ends = self.make()
        for each in back_ends.members:
            self.fail_down(each)
        self.assertEqual(self.names(back_ends), "abc")
        self.assertEqual(
            self.logged()[3:], ["none of 3 back ends is up: each is tried all the same"]
        )

    def test_nobody(self) -> None:
        with self.assertRaisesRegex(ConfigurationError, "there is no back end"):
            self.make([])

    def test_description(self) -> None:
        back_ends = self.make()
        self.assertEqual(back_ends.description, "a, b, c")
        self.assertIsNone(back_ends.only)
        only = self.make([self.a])
        self.assertIs(only.only, only.members[0])


class AttemptTests(BackEndsCase):
    """L{BackEnds.connect}."""

    def setUp(self) -> None:
        super().setUp()
        self.back_ends = self.make()

    def begin(self, timeout: float | None = 10.0) -> Deferred[IProtocol]:
        return self.back_ends.connect(Named, timeout=timeout)

    def assert_idle(self) -> None:
        self.assertEqual([each.pending for each in self.back_ends.members], [0, 0, 0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_first(self) -> None:
        done = self.begin()
        self.assertEqual(self.back_ends.members[0].pending, 1)
        self.a.accepts()
        self.successResultOf(done)
        self.assertEqual(self.b.attempts, [])
        self.assert_idle()

    def test_next(self) -> None:
        done = self.begin()
        self.a.refuses(ConnectionRefusedError())
        self.assertNoResult(done)
        self.b.accepts()
        self.successResultOf(done)
        self.assertEqual([each.failures for each in self.back_ends.members], [1, 0, 0])
        self.assertEqual(self.logged(), [])
        self.assert_idle()

    def test_none(self) -> None:
        done = self.begin()
        for each in self.endpoints:
            each.refuses(ConnectionRefusedError())
        error = cast(NotConnected, self.failureResultOf(done, NotConnected).value)
        refused = "Connection was refused by other side"
        self.assertEqual(str(error), f"a: {refused}; b: {refused}; c: {refused}")
        self.assertFalse(error.is_ours)
        self.assert_idle()

    def test_none_at_once(self) -> None:
        """However many they are: this is no recursion."""
        refusing = [Immediate(self.clock, ConnectionRefusedError()) for _ in range(3000)]
        back_ends = BackEnds(((each, "x") for each in refusing), self.clock)
        done = back_ends.connect(Named)
        self.failureResultOf(done, NotConnected)

    def test_fault_of_ours(self) -> None:
        done = self.begin()
        for each in self.endpoints:
            each.refuses(ConnectBindError(errno.EMFILE, "Too many open files"))
        self.assertTrue(cast(NotConnected, self.failureResultOf(done).value).is_ours)

    def test_one_that_does_not_answer(self) -> None:
        """It has its part of the time, and no more."""
        done = self.begin(9.0)
        self.clock.advance(2.9)
        self.assertEqual((self.a.cancelled, self.b.attempts), (0, []))
        self.clock.advance(0.1)
        self.assertEqual((self.a.cancelled, len(self.b.attempts)), (1, 1))
        self.assertEqual(self.back_ends.members[0].last_failure, "no connection within 3 seconds")
        self.b.accepts()
        self.successResultOf(done)
        self.assert_idle()

    def test_none_that_answers(self) -> None:
        done = self.begin(9.0)
        self.clock.pump([3.0, 3.0])
        self.assertNoResult(done)
        self.clock.advance(3.0)
        error = self.failureResultOf(done, NotConnected)
        self.assertEqual(
            error.getErrorMessage(),
            "; ".join(f"{n}: no connection within 3 seconds" for n in "abc"),
        )
        self.assertEqual([each.cancelled for each in self.endpoints], [1, 1, 1])
        self.assert_idle()

    def test_little_time(self) -> None:
        """None has less than a packet that was lost needs; some are not tried then."""
        done = self.begin(3.0)
        self.clock.advance(2.0)
        self.assertEqual(self.a.cancelled, 1)
        self.clock.advance(1.0)
        self.assertEqual((self.b.cancelled, self.c.attempts), (1, []))
        self.failureResultOf(done, NotConnected)

    def test_time_that_was_left(self) -> None:
        """What one has not used is for the others."""
        done = self.begin(9.0)
        self.a.refuses(ConnectionRefusedError())
        self.clock.advance(4.4)
        self.assertEqual(self.b.cancelled, 0)
        self.clock.advance(0.1)
        self.assertEqual(self.b.cancelled, 1)
        self.clock.advance(4.4)
        self.c.accepts()
        self.successResultOf(done)

    def test_time_of_the_endpoints_own(self) -> None:
        done = self.begin(None)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.a.accepts()
        self.successResultOf(done)

    def test_client_that_leaves(self) -> None:
        done = self.begin()
        self.a.refuses(ConnectionRefusedError())
        done.cancel()
        self.failureResultOf(done)
        self.assertEqual((self.b.cancelled, self.c.attempts), (1, []))
        self.assertEqual(self.back_ends.members[1].failures, 0)
        self.assert_idle()

    def test_endpoint_that_raises(self) -> None:
        class Raising(wire.BackEnd):
            def connect(self, factory: object) -> Deferred[IProtocol]:
                raise ConnectError(string="no such thing")

        self.back_ends = self.make([Raising(self.clock), self.b])
        done = self.begin()
        self.b.accepts()
        self.successResultOf(done)
        self.assertIn("no such thing", self.back_ends.members[0].last_failure)

    def test_trial(self) -> None:
        """Of all clients, one alone tries what was down."""
        a = self.back_ends.members[0]
        self.fail_down(a)
        self.clock.advance(10)
        waiting = [self.begin() for _ in range(9)]
        self.assertEqual([len(each.attempts) for each in self.endpoints], [1, 4, 4])
        self.a.refuses(ConnectionRefusedError())
        self.assertFalse(a.is_usable)
        for each in (self.b, self.c):
            while each.attempts:
                each.accepts()
        for done in waiting:
            self.successResultOf(done)
        self.assert_idle()


class SeveralTests(BackEndsCase):
    """A relay to several back ends."""

    def setUp(self) -> None:
        super().setUp()
        self.start()

    def start(self, **settings: Any) -> None:
        self.back_ends = self.make(**settings)
        self.factory = RelayFactory(self.back_ends, "a, b, c", self.clock)

    def client(self) -> Wire:
        return Wire(self.clock, cast(IProtocol, self.factory.buildProtocol(None)))

    def test_bytes_are_for_the_one_that_answers(self) -> None:
        client = self.client()
        client._protocol.dataReceived(b"early ")
        client.sends(b"bird")
        self.a.refuses(ConnectionRefusedError())
        self.b.refuses(ConnectionRefusedError())
        back = self.c.accepts()
        self.assertEqual(back.unsent, b"early bird")
        back.sends(b"worm")
        back.sends(b"s")
        client.reads()
        self.assertEqual(client.taken, b"worms")
        self.assertEqual([each.connections for each in self.back_ends.members], [0, 0, 1])
        self.assertEqual(self.logged(), [])
        client.ends()
        back.reads()
        back.ends()
        self.assertTrue(client.closed)
        self.assertEqual([each.connections for each in self.back_ends.members], [0, 0, 0])

    def test_none_answers(self) -> None:
        client = self.client()
        for each in self.endpoints:
            each.refuses(ConnectionRefusedError())
        self.assertTrue(client.closed)
        refused = "Connection was refused by other side"
        self.assertEqual(
            self.logged(),
            [
                "192.0.2.7:4567 cannot be forwarded to a, b, c:"
                f" a: {refused}; b: {refused}; c: {refused}"
            ],
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_client_that_leaves(self) -> None:
        client = self.client()
        factory, _ = self.a.attempts[0]
        client.breaks()
        self.assertEqual(self.a.cancelled, 1)
        late = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 80))
        assert late is not None
        back = Wire(self.clock, late)
        self.assertTrue(back.aborted)
        self.clock.advance(0)
        self.assertEqual([each.connections for each in self.back_ends.members], [0, 0, 0])
        self.assertEqual(self.logged(), [])

    def test_reset_at_once_is_a_failure(self) -> None:
        a = self.back_ends.members[0]
        for turn in range(7):
            client = self.client()
            client.sends(b"hello")
            for each in (self.a, self.b, self.c):
                if each.attempts:
                    back = each.accepts()
                    if each is self.a:
                        self.clock.advance(0.9)
                        back.breaks()
                        self.assertTrue(client.aborted)
                    break
            self.assertEqual(a.failures, turn // 3 + 1)
        self.assertIs(a.state, State.DOWN)
        self.assertIn("it accepted the connection, and reset it at once", self.logged()[0])

    def test_other_ends_are_no_failures(self) -> None:
        def after_a_word(client: Wire, back: Wire) -> None:
            back.sends(b"no")
            back.breaks()

        def after_a_while(client: Wire, back: Wire) -> None:
            self.clock.advance(SETTLING)
            back.breaks()

        def in_good_order(client: Wire, back: Wire) -> None:
            back.half_closes = False
            back.ends()

        def half_closed(client: Wire, back: Wire) -> None:
            back.ends()
            back.breaks()

        def by_the_client(client: Wire, back: Wire) -> None:
            client.breaks()
            back.breaks()

        for end in (after_a_word, after_a_while, in_good_order, half_closed, by_the_client):
            self.start()
            end(self.client(), self.a.accepts())
            self.assertEqual(self.back_ends.members[0].failures, 0, end)
            self.assertEqual(self.back_ends.members[0].connections, 0, end)

    def test_counts_of_one_alone(self) -> None:
        """It is counted too, and refusals are what they were."""
        endpoint = wire.BackEnd(self.clock)
        factory = RelayFactory(endpoint, "tcp:back:80", self.clock)
        only = factory.only
        assert only is not None
        client = Wire(self.clock, cast(IProtocol, factory.buildProtocol(None)))
        endpoint.accepts()
        self.assertEqual((only.state, only.connections), (State.UP, 1))
        client.breaks()
        self.clock.advance(0)
        self.assertEqual((only.connections, only.served, only.failures), (0, 1, 0))
        for reason in (ConnectionRefusedError(), ConnectionLost(), ConnectionDone()):
            Wire(self.clock, cast(IProtocol, factory.buildProtocol(None)))
            endpoint.refuses(reason)
        self.assertEqual((only.state, only.failures), (State.DOWN, 3))
        self.assertNotIn("tried again", self.logged()[-2])
        self.assertIn("back end tcp:back:80 is down: 3 connections", self.logged()[-2])
        # And tried all the same.
        client = Wire(self.clock, cast(IProtocol, factory.buildProtocol(None)))
        endpoint.accepts()
        self.assertIs(only.state, State.UP)

    def test_time_out_of_one_alone(self) -> None:
        endpoint = wire.BackEnd(self.clock)
        factory = RelayFactory(endpoint, "tcp:back:80", self.clock)
        Wire(self.clock, cast(IProtocol, factory.buildProtocol(None)))
        self.clock.advance(10)
        assert factory.only is not None
        self.assertEqual(factory.only.last_failure, "no connection within 10 seconds")


class HeaderTests(BackEndsCase):
    """A PROXY header towards back ends."""

    V1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 4567 443\r\n"

    def relay(self, endpoints: Iterable[IStreamClientEndpoint]) -> RelayFactory:
        self.back_ends = self.make(endpoints, send_proxy=SendProxy.V1)
        return RelayFactory(self.back_ends, "a", self.clock)

    def client(self, factory: RelayFactory, kind: type[Wire] = Wire) -> Wire:
        return kind(self.clock, cast(IProtocol, factory.buildProtocol(None)))

    def test_before_all_else(self) -> None:
        for endpoints in ([self.a], [self.a, self.b]):
            client = self.client(self.relay(endpoints))
            client._protocol.dataReceived(b"early ")
            client.sends(b"bird")
            back = self.a.accepts()
            back.reads()
            self.assertEqual(back.taken + back.unsent, self.V1 + b"early bird")
            back.sends(b"worm")
            back.reads()
            client.ends()
            self.assertTrue(back.ended)
            back.ends()
            client.reads()
            self.assertEqual(client.taken, b"worm")
            self.assertTrue(client.closed)

    def test_once_for_each_that_is_tried(self) -> None:
        client = self.client(self.relay([self.a, self.b]))
        self.a.refuses(ConnectionRefusedError())
        client.sends(b"bird")
        self.assertEqual(self.b.accepts().unsent, self.V1 + b"bird")

    def test_none_can_be_made(self) -> None:
        """The back end is not even connected to: it would take the client for us."""

        class Nowhere(Wire):
            def getPeer(self) -> Any:
                return None

        client = self.client(self.relay([self.a]), Nowhere)
        self.assertTrue(client.closed)
        self.assertEqual(self.a.attempts, [])
        self.assertEqual(
            self.logged(),
            [
                "a local client cannot be forwarded to a:"
                " a PROXY header cannot tell the address None"
            ],
        )
        client._protocol.dataReceived(b"late")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_connection_without_one(self) -> None:
        self.relay([self.a])
        with self.assertRaises(ValueError):
            self.back_ends.members[0].connect(cast(IProtocolFactory, Named))
        self.assertEqual(self.a.attempts, [])

    def test_tls_of_another_kind(self) -> None:
        """Its header would come encrypted, and the back end would not find it."""
        endpoint = SSL4ClientEndpoint(self.clock, "localhost", 443, None)
        with self.assertRaisesRegex(ConfigurationError, "^a: a PROXY header cannot be sent before"):
            self.relay([endpoint])
        self.make([endpoint])
