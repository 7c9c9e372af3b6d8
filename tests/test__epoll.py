"""Tests for L{twisted_bioconn._epoll}."""

from __future__ import annotations

import socket
import time
from collections import Counter
from threading import Thread
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.reactor_material import HAS_EPOLL, ReactorCase, Reader, discard, epoll, twisteds_reactor
from twisted_bioconn._room import ROOM


class DeadlinesTests(SynchronousTestCase):
    """L{Deadlines} on a clock that a test advances."""

    skip = None if HAS_EPOLL else "there is no epoll on this platform"

    def setUp(self) -> None:
        self.clock = Clock()
        self.deadlines = epoll.Deadlines(self.clock.seconds)
        self.called: list[object] = []

    def advance(self, seconds: float) -> list[object]:
        """Let time pass, make what is due, and take what was called."""
        self.clock.advance(seconds)
        self.deadlines.run()
        called = list(self.called)
        self.called.clear()
        return called

    def test_none(self) -> None:
        self.assertIsNone(self.deadlines.timeout())
        self.assertEqual(self.advance(100), [])

    def test_soon_in_order(self) -> None:
        """Each is called once, in the order they were asked for, with its arguments."""
        for number in range(3):
            self.deadlines.soon(lambda *what: self.called.append(what), number, "x")
        self.assertEqual(self.deadlines.timeout(), 0.0)
        self.assertEqual(self.called, [])
        self.assertEqual(self.advance(0), [(0, "x"), (1, "x"), (2, "x")])
        self.assertIsNone(self.deadlines.timeout())
        self.assertEqual(self.advance(0), [])

    def test_pending(self) -> None:
        """It is known how many are to come: those that were made or cancelled are not."""
        self.deadlines.soon(self.called.append, "soon")
        first, *_ = [self.deadlines.callLater(each, self.called.append, each) for each in (5, 5, 9)]
        self.assertEqual(self.deadlines.pending, 4)
        first.cancel()
        self.assertEqual(self.deadlines.pending, 3)
        for seconds, pending in ((0, 2), (6, 1), (6, 0)):
            self.advance(seconds)
            self.assertEqual(self.deadlines.pending, pending)

    def test_soon_within_soon(self) -> None:
        """What is asked for in a call comes in the next turn, so that sockets have theirs too."""

        def again() -> None:
            self.called.append("again")
            self.deadlines.soon(again)

        self.deadlines.soon(again)
        for _ in range(3):
            self.assertEqual(self.advance(0), ["again"])
            self.assertEqual(self.deadlines.timeout(), 0.0)

    def test_soon_cancelled(self) -> None:
        """Also by one that is called in the same turn."""
        first = self.deadlines.soon(lambda: second.cancel())
        second: Any = self.deadlines.soon(self.called.append, "second")
        third = self.deadlines.soon(self.called.append, "third")
        third.cancel()
        self.assertEqual([each.active() for each in (first, second, third)], [True, True, False])
        self.assertEqual(self.advance(0), [])
        self.assertEqual([each.active() for each in (first, second, third)], [False] * 3)
        # To cancel what was called or cancelled already is nothing.
        for each in (first, second, third):
            each.cancel()
        self.assertIsNone(self.deadlines.timeout())

    def test_errors(self) -> None:
        """Whatever goes wrong in a call is logged, and the others are made all the same."""

        class Unusual(BaseException):
            pass

        def fail(error: BaseException) -> None:
            raise error

        for ask in (self.deadlines.soon, lambda *what: self.deadlines.callLater(1, *what)):
            ask(fail, ValueError("a"))
            ask(fail, Unusual("b"))
            ask(self.called.append, "after")
            self.assertEqual(self.advance(2), ["after"])
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
            self.assertEqual(len(self.flushLoggedErrors(Unusual)), 1)
            self.assertEqual(self.advance(2), [])

    def test_never_early(self) -> None:
        """A call comes when its time is up, or within the grain after that."""
        for delay in (0.0, 0.1, 0.25, 0.3, 1.0, 9.99):
            self.deadlines.callLater(delay, self.called.append, delay)
            begun = self.clock.seconds()
            while not self.advance(1 / 128):
                self.assertLess(self.clock.seconds() - begun, delay + 0.25)
            self.assertGreaterEqual(self.clock.seconds() - begun, delay)

    def test_order_of_time(self) -> None:
        """Earlier ones come first, whenever they were asked for."""
        for delay in (3, 1, 2):
            self.deadlines.callLater(delay, self.called.append, delay)
        self.assertEqual(self.deadlines.timeout(), 1.25)
        self.assertEqual(self.advance(1.25), [1])
        self.assertEqual(self.deadlines.timeout(), 1.0)
        self.assertEqual(self.advance(60), [2, 3])

    def test_overdue(self) -> None:
        """There is nothing to wait for once the time is up."""
        self.deadlines.callLater(1, self.called.append, 1)
        self.clock.advance(30)
        self.assertEqual(self.deadlines.timeout(), 0.0)

    def test_cancelled(self) -> None:
        """
        One that was cancelled is not called, nor waited for, also where another does so that is
        due at the same time.
        """
        cancelled = self.deadlines.callLater(1, self.called.append, 1)
        self.deadlines.callLater(2, self.called.append, 2)
        self.assertTrue(cancelled.active())
        cancelled.cancel()
        self.assertFalse(cancelled.active())
        self.assertEqual(self.deadlines.timeout(), 2.25)
        self.assertEqual(self.advance(10), [2])
        self.assertIsNone(self.deadlines.timeout())

        self.deadlines.callLater(1, lambda: later.cancel())
        later: Any = self.deadlines.callLater(1, self.called.append, 3)
        self.assertEqual(self.advance(10), [])
        self.assertFalse(later.active())

    def test_same_time_after_cancelling(self) -> None:
        """One that was cancelled leaves nothing in the way of the next for the same time."""
        self.deadlines.callLater(1, self.called.append, 1).cancel()
        self.assertIsNone(self.deadlines.timeout())
        self.deadlines.callLater(1, self.called.append, 2)
        self.assertEqual(self.deadlines.timeout(), 1.25)
        self.assertEqual(self.advance(1.25), [2])

    def test_keeps_nothing(self) -> None:
        """A connection that is set and cleared a deadline over and over costs no memory."""
        for _ in range(1000):
            self.deadlines.callLater(1, self.called.append, 1).cancel()
            self.deadlines.soon(self.called.append, 1).cancel()
        self.assertEqual(len(self.deadlines._ticks), 1)
        self.assertEqual(sum(map(len, self.deadlines._buckets.values())), 0)
        self.assertEqual(self.deadlines._soon, {})

    def test_next_from_a_call(self) -> None:
        """A call may ask for the next, which comes in its own time."""

        def again() -> None:
            self.called.append("again")
            self.deadlines.callLater(1, again)

        self.deadlines.callLater(1, again)
        self.assertEqual(self.advance(1.25), ["again"])
        self.assertEqual(self.advance(0.5), [])
        self.assertEqual(self.advance(0.75), ["again"])


class CallTests(ReactorCase):
    """Delayed calls, calls from threads, and the end, which Twisted's reactor makes alike."""

    def setUp(self) -> None:
        super().setUp()
        self.called: list[object] = []

    def test_call_later(self) -> None:
        """Calls come in order of time, those for now in the next turn."""
        later = self.reactor.callLater(10, self.called.append, "later")
        self.reactor.callLater(0, self.called.append, "now")
        self.assertEqual(self.called, [])
        self.turn()
        self.assertEqual(self.called, ["now"])
        timeout = self.reactor.timeout()
        assert timeout is not None
        self.assertTrue(0 < timeout <= 10, timeout)
        later.reset(0.05)
        self.until(lambda: len(self.called) == 2)
        self.assertEqual(self.called, ["now", "later"])
        self.assertIsNone(self.reactor.timeout())

    def test_call_later_is_changed(self) -> None:
        """Delayed, brought forward, and cancelled."""
        delayed = self.reactor.callLater(0, self.called.append, "delayed")
        forward = self.reactor.callLater(1000, self.called.append, "forward")
        cancelled = self.reactor.callLater(0, self.called.append, "cancelled")
        self.reactor.timeout()
        delayed.delay(1000)
        forward.reset(0)
        cancelled.cancel()
        self.turn(3)
        self.assertEqual(self.called, ["forward"])
        self.assertEqual(self.reactor.getDelayedCalls(), [delayed])

    def test_error_in_a_call(self) -> None:
        """It is logged, and the others are made."""
        self.reactor.callLater(0, lambda: 1 / 0)
        self.reactor.callLater(0, self.called.append, "after")
        self.turn()
        self.assertEqual(self.called, ["after"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_many_are_cancelled(self) -> None:
        """Calls that were cancelled in great number are cleared away."""
        calls = [self.reactor.callLater(1000, self.called.append, n) for n in range(200)]
        self.turn()
        self.assertEqual(len(self.reactor._pendingTimedCalls), 200)
        for call in calls[1:]:
            call.cancel()
        self.turn()
        self.assertEqual(self.reactor._pendingTimedCalls, calls[:1])
        self.assertEqual(self.reactor.getDelayedCalls(), calls[:1])

    def test_from_thread(self) -> None:
        """A call from a thread wakes the reactor, and comes in its thread."""
        thread = Thread(target=self.reactor.callFromThread, args=(self.called.append, "called"))
        thread.start()
        thread.join()
        self.reactor.doIteration(5)
        self.turn()
        self.assertEqual(self.called, ["called"])

    def test_when_nothing_is_to_be_done(self) -> None:
        """There is no limit to how long it waits."""
        self.turn()
        self.assertIsNone(self.reactor.timeout())

    def run_until_stopped(self) -> None:
        # What never ends would be stopped here, and fail.
        late = self.reactor.callLater(100, self.reactor.stop)
        self.reactor.addSystemEventTrigger("before", "shutdown", self.called.append, "shutdown")
        self.reactor.run(installSignalHandlers=False)
        self.assertTrue(late.active(), "it did not stop at once")
        self.assertEqual(self.called, ["shutdown"])
        self.assertRaises(ReactorNotRunning, self.reactor.stop)

    def test_stop_from_a_delayed_call(self) -> None:
        self.reactor.callLater(0, self.reactor.stop)
        self.run_until_stopped()

    def test_stop_from_a_thread(self) -> None:
        thread = Thread(target=self.reactor.callFromThread, args=(self.reactor.stop,))
        self.reactor.callWhenRunning(thread.start)
        self.run_until_stopped()
        thread.join()

    def test_stop_from_an_event(self) -> None:
        ours, theirs = socket.socketpair()
        self.opened += [ours, theirs]
        theirs.send(b"stop")
        self.reactor.addReader(Reader(self.reactor, ours, self.reactor.stop))
        self.run_until_stopped()


class TwistedsCallTests(CallTests):
    """The same of Twisted's own reactor: if it failed there, it would say nothing of ours."""

    def make_reactor(self) -> Any:
        return twisteds_reactor()


class DeadlinesOfReactorTests(ReactorCase):
    """The reactor makes the calls of its L{Deadlines}."""

    def setUp(self) -> None:
        super().setUp()
        self.called: list[object] = []

    def test_timeout(self) -> None:
        """It waits for whichever comes first."""
        deadlines = self.reactor.deadlines
        later = deadlines.callLater(20, self.called.append, "deadline")
        self.assertTrue(15 < self.reactor.timeout() <= 20.25)
        delayed = self.reactor.callLater(10, self.called.append, "delayed")
        self.assertTrue(5 < self.reactor.timeout() <= 10)
        later.cancel()
        self.assertTrue(5 < self.reactor.timeout() <= 10)
        later = deadlines.callLater(1, self.called.append, "deadline")
        self.assertTrue(0 < self.reactor.timeout() <= 1.25)
        soon = deadlines.soon(self.called.append, "soon")
        self.assertEqual(self.reactor.timeout(), 0)
        for each in (later, delayed, soon):
            each.cancel()
        self.assertIsNone(deadlines.timeout())

    def test_longest(self) -> None:
        """A deadline may be further off than the kernel can be told to wait."""
        deadline = self.reactor.deadlines.callLater(1e10, self.called.append, "never")
        timeout = self.reactor.timeout()
        # Something has to happen, or this would be for long.
        self.reactor.callFromThread(self.called.append, "woken")
        self.reactor.doIteration(timeout)
        self.turn()
        self.assertEqual(self.called, ["woken"])
        self.assertTrue(deadline.active())

    def test_made(self) -> None:
        """In the turn in which they are due, after which there is nothing to wait for."""
        self.reactor.deadlines.callLater(0, self.called.append, "deadline")
        self.reactor.deadlines.soon(self.called.append, "soon")
        self.turn()
        self.assertEqual(self.called, ["soon"])
        self.until(lambda: len(self.called) == 2)
        self.assertEqual(self.called, ["soon", "deadline"])
        self.assertIsNone(self.reactor.timeout())

    def test_delayed_call_from_a_deadline(self) -> None:
        self.reactor.deadlines.soon(self.reactor.callLater, 0, self.called.append, "called")
        self.reactor.runUntilCurrent()
        self.assertEqual(self.reactor.timeout() or 0, 0)
        self.turn()
        self.assertEqual(self.called, ["called"])

    def test_soon_from_a_delayed_call(self) -> None:
        self.reactor.callLater(0, self.reactor.deadlines.soon, self.called.append, "called")
        self.reactor.runUntilCurrent()
        self.assertEqual(self.reactor.timeout(), 0)
        self.turn()
        self.assertEqual(self.called, ["called"])

    def test_stop_from_a_deadline(self) -> None:
        """The reactor stops at once, with no event to wake it."""
        late = self.reactor.callLater(100, self.reactor.stop)
        self.reactor.deadlines.soon(self.reactor.stop)
        self.reactor.run(installSignalHandlers=False)
        self.assertTrue(late.active(), "it did not stop at once")


class RunTests(ReactorCase):
    """The loop itself, which sees by itself whether there is anything to do."""

    def run_it(self) -> None:
        late = self.reactor.callLater(100, self.reactor.stop)
        self.reactor.run(installSignalHandlers=False)
        self.assertTrue(late.active(), "what it waits for has not come")

    def test_whatever_comes(self) -> None:
        """Delayed calls, deadlines, events and threads, among each other: none early, none lost."""
        expected = {"delayed": 20, "deadline": 20, "event": 20, "thread": 20, "soon": 20}
        came: Counter[str] = Counter()
        early: list[float] = []

        def come(what: str, due: float = 0.0) -> None:
            came[what] += 1
            if self.reactor.seconds() < due:
                early.append(due - self.reactor.seconds())
            if came == expected:
                self.reactor.stop()

        ours, theirs = socket.socketpair()
        self.opened += [ours, theirs]

        def heard() -> None:
            ours.recv(1)
            self.reactor.callLater(0, come, "event")
            self.reactor.deadlines.soon(come, "soon")

        self.reactor.addReader(Reader(self.reactor, ours, heard))

        def speak() -> None:
            for _ in range(20):
                self.reactor.callFromThread(come, "thread")
                time.sleep(0.01)
                theirs.send(b"x")

        begun = self.reactor.seconds()
        for number in range(20):
            delay = 0.017 * number
            self.reactor.callLater(delay, come, "delayed", begun + delay)
            self.reactor.deadlines.callLater(delay, come, "deadline", begun + delay)
        thread = Thread(target=speak)
        self.reactor.callWhenRunning(thread.start)
        self.run_it()
        thread.join()
        self.assertEqual(came, expected)
        self.assertEqual(early, [])

    def test_put_off(self) -> None:
        """A call that was put off comes when it is due then; one that was hastened does too."""
        came: list[str] = []

        def late() -> None:
            came.append("late")
            self.reactor.stop()

        put_off = self.reactor.callLater(0.01, late)
        hastened = self.reactor.callLater(50, came.append, "hastened")
        self.reactor.callLater(0, put_off.delay, 0.1)
        self.reactor.callLater(0, hastened.reset, 0.02)
        self.run_it()
        self.assertEqual(came, ["hastened", "late"])

    def test_many_are_cancelled(self) -> None:
        """They are cleared away by the turn after, though no call is due in it."""
        calls = [self.reactor.callLater(1000, self.fail) for _ in range(200)]
        ours, theirs = socket.socketpair()
        self.opened += [ours, theirs]

        def heard() -> None:
            ours.recv(1)
            if calls:
                while calls:
                    calls.pop().cancel()
                theirs.send(b"x")
            else:
                # Only the one that ends this is left.
                left.append(len(self.reactor._pendingTimedCalls))
                self.reactor.stop()

        left: list[int] = []
        self.reactor.addReader(Reader(self.reactor, ours, heard))
        theirs.send(b"x")
        self.run_it()
        self.assertEqual(left, [1])


class ClockTests(ReactorCase):
    """What time it is."""

    def test_that_nobody_sets(self) -> None:
        """Deadlines run on a clock that nobody sets; what it tells looks like a date."""
        self.assertLess(abs(self.reactor.seconds() - time.time()), 60)
        called: list[str] = []
        for ask in (self.reactor.callLater, self.reactor.deadlines.callLater):
            ask(1000, called.append, "due")
        self.turn(2)
        self.assertEqual(called, [])
        passed = time.monotonic() + 1001
        self.patch(epoll, "_monotonic", lambda: passed)
        self.until(lambda: len(called) == 2)


class NoMemoryTests(ReactorCase):
    """There is no memory for what a descriptor has to do."""

    def test_read_and_write(self) -> None:
        """It is disconnected, and that is counted: there is no memory for a traceback."""

        def exhaust() -> None:
            raise MemoryError

        for add in (self.reactor.addReader, self.reactor.addWriter):
            ours, theirs = socket.socketpair()
            self.opened += [ours, theirs]
            theirs.send(b"x")
            reader = Reader(self.reactor, ours, exhaust)
            lost = ROOM.lost
            add(reader)
            self.until(lambda reader=reader: reader.lost)
            assert reader.lost is not None
            self.assertEqual(ROOM.lost, lost + 1)


class InstallTests(ReactorCase):
    """L{install}."""

    def test_install(self) -> None:
        installed: list[Any] = []
        self.patch(epoll, "installReactor", installed.append)
        epoll.install()
        [reactor] = installed
        self.addCleanup(discard, reactor)
        self.assertIsInstance(reactor, epoll.ConnectorReactor)
