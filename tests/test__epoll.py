"""Tests for L{twisted_bioconn._epoll}."""

from __future__ import annotations

import errno
import os
import socket
from threading import Thread
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionDone, ConnectionLost, ReactorNotRunning
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.reactor_material import HAS_EPOLL, ReactorCase, discard, epoll, twisteds_reactor


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
        second = self.deadlines.soon(self.called.append, "second")
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
        later = self.deadlines.callLater(1, self.called.append, 3)
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
        self.reactor.callLater(0.05, self.called.append, "later")
        self.reactor.callLater(0, self.called.append, "now")
        self.assertEqual(self.called, [])
        self.turn()
        self.assertEqual(self.called, ["now"])
        timeout = self.reactor.timeout()
        assert timeout is not None
        self.assertTrue(0 < timeout <= 0.05, timeout)
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
        late = self.reactor.callLater(10, self.reactor.stop)
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
        late = self.reactor.callLater(10, self.reactor.stop)
        self.reactor.deadlines.soon(self.reactor.stop)
        self.reactor.run(installSignalHandlers=False)
        self.assertTrue(late.active(), "it did not stop at once")


class Reader(FileDescriptor):
    """A descriptor which does the same, whether it is to be read or written."""

    def __init__(self, reactor: Any, file: Any, do: Any = lambda: None) -> None:
        super().__init__(reactor)
        self.file = file
        self.fileno = file.fileno  # type: ignore[method-assign]
        self.do = do
        self.events: list[str] = []
        self.lost: Failure | None = None

    def doRead(self) -> Any:
        self.events.append("read")
        return self.do()

    def doWrite(self) -> Any:
        self.events.append("write")
        return self.do()

    def connectionLost(self, reason: Failure) -> None:
        self.lost = reason
        super().connectionLost(reason)


class DescriptorTests(ReactorCase):
    """What is waited for, which is the same with Twisted's reactor."""

    def pair(self) -> tuple[Any, socket.socket]:
        """A descriptor, and the socket at its other end."""
        ours, theirs = socket.socketpair()
        self.opened += [ours, theirs]
        return Reader(self.reactor, ours, lambda: ours.recv(100) and None), theirs

    def waits(self, reader: Any) -> tuple[bool, bool]:
        """Whether it is waited for what this reads, and what it writes."""
        return reader in self.reactor.getReaders(), reader in self.reactor.getWriters()

    def test_read(self) -> None:
        reader, other = self.pair()
        self.reactor.addReader(reader)
        # A second time is nothing.
        self.reactor.addReader(reader)
        self.assertEqual(self.waits(reader), (True, False))
        self.turn()
        self.assertEqual(reader.events, [])
        other.send(b"x")
        self.turn()
        self.assertEqual(reader.events, ["read"])
        other.send(b"x")
        self.reactor.removeReader(reader)
        self.reactor.removeReader(reader)
        self.assertEqual(self.waits(reader), (False, False))
        self.turn()
        self.assertEqual(reader.events, ["read"])
        self.reactor.addReader(reader)
        self.turn()
        self.assertEqual(reader.events, ["read", "read"])

    def test_write(self) -> None:
        reader, _ = self.pair()
        reader.do = lambda: None
        self.reactor.addWriter(reader)
        self.assertEqual(self.waits(reader), (False, True))
        self.turn()
        self.assertEqual(reader.events, ["write"])
        self.reactor.removeWriter(reader)
        self.reactor.removeWriter(reader)
        self.assertEqual(self.waits(reader), (False, False))
        self.turn()
        self.assertEqual(reader.events, ["write"])

    def test_both(self) -> None:
        """One direction stays when the other is removed, in whichever order."""
        for adds in (("addReader", "addWriter"), ("addWriter", "addReader")):
            reader, other = self.pair()
            reader.do = lambda: None
            other.send(b"x")
            for add in adds:
                getattr(self.reactor, add)(reader)
            self.assertEqual(self.waits(reader), (True, True))
            self.turn()
            self.assertEqual(reader.events, ["read", "write"])
            self.reactor.removeReader(reader)
            self.assertEqual(self.waits(reader), (False, True))
            self.turn()
            self.assertEqual(reader.events, ["read", "write", "write"])
            self.reactor.addReader(reader)
            self.reactor.removeWriter(reader)
            self.assertEqual(self.waits(reader), (True, False))
            self.turn()
            self.assertEqual(reader.events, ["read", "write", "write", "read"])
            self.reactor.removeReader(reader)
            self.assertEqual(self.waits(reader), (False, False))

    def test_files(self) -> None:
        """A file, which epoll does not take, is read and written all the time."""
        with open(self.mktemp(), "wb") as first, open(self.mktemp(), "wb") as second:
            reader, writer = Reader(self.reactor, first), Reader(self.reactor, second)
            self.reactor.addReader(reader)
            self.reactor.addWriter(writer)
            self.assertEqual(self.waits(reader), (True, False))
            self.assertEqual(self.waits(writer), (False, True))
            self.until(lambda: reader.events and writer.events)
            # One that never was there makes no difference to the others.
            stranger, _ = self.pair()
            self.reactor.removeReader(stranger)
            self.reactor.removeWriter(stranger)
            self.assertEqual(self.waits(reader), (True, False))
            self.reactor.removeReader(reader)
            self.reactor.removeWriter(writer)
            self.assertEqual(self.waits(reader), (False, False))
            self.assertEqual(self.waits(writer), (False, False))
            self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_socket_while_there_are_files(self) -> None:
        """Sockets come and go beside files that are polled."""
        with open(self.mktemp(), "wb") as file:
            polled = Reader(self.reactor, file)
            self.reactor.addReader(polled)
            reader, other = self.pair()
            self.reactor.addReader(reader)
            other.send(b"x")
            self.until(lambda: reader.events)
            self.reactor.removeReader(reader)
            self.assertEqual(self.waits(reader), (False, False))
            self.reactor.removeReader(polled)

    def test_gone_before_it_is_removed(self) -> None:
        """One that no longer knows its descriptor's number is removed."""
        for add in ("addReader", "addWriter"):
            reader, _ = self.pair()
            getattr(self.reactor, add)(reader)
            self.opened.append(socket.socket(fileno=reader.file.detach()))
            self.assertEqual(reader.fileno(), -1)
            self.reactor.removeReader(reader)
            self.reactor.removeWriter(reader)
            self.assertEqual(self.waits(reader), (False, False))
            # To remove one that is not there is nothing.
            self.reactor.removeReader(reader)
            self.reactor.removeWriter(reader)

    def test_closed_before_it_is_added(self) -> None:
        """That is an error for whoever adds it."""
        reader, _ = self.pair()
        reader.file.close()
        self.assertRaises((ValueError, OSError), self.reactor.addReader, reader)
        self.assertRaises((ValueError, OSError), self.reactor.addWriter, reader)
        self.assertEqual(self.waits(reader), (False, False))

    def test_a_descriptor_that_is_not_open(self) -> None:
        """So is a number that stands for nothing."""
        reader, other = self.pair()
        unused = os.dup(other.fileno())
        os.close(unused)
        reader.fileno = lambda: unused
        error = self.assertRaises(OSError, self.reactor.addReader, reader)
        self.assertEqual(error.errno, errno.EBADF)
        self.assertEqual(self.waits(reader), (False, False))

    def test_a_number_used_again(self) -> None:
        """The next socket that gets the number of one that was removed and closed is heard."""
        first, _ = self.pair()
        self.reactor.addReader(first)
        number = first.fileno()
        self.reactor.removeReader(first)
        first.file.close()
        second, other = self.pair()
        if second.fileno() != number:
            os.dup2(second.file.fileno(), number)
            self.opened.append(socket.socket(fileno=number))
            second.fileno = lambda: number
        self.reactor.addReader(second)
        other.send(b"x")
        self.turn()
        self.assertEqual((first.events, second.events), ([], ["read"]))
        self.reactor.removeReader(second)

    def test_removed_in_the_same_round(self) -> None:
        """A descriptor that another one's event removes has none any more."""
        one, other = self.pair()
        two, another = self.pair()

        def remove_both() -> None:
            self.reactor.removeReader(one)
            self.reactor.removeReader(two)

        one.do = two.do = remove_both
        for each in (one, two):
            self.reactor.addReader(each)
        other.send(b"x")
        another.send(b"x")
        self.turn(2)
        self.assertEqual(len(one.events + two.events), 1)

    def test_errors_in_events(self) -> None:
        """An exception is logged, and the descriptor lost with it; the other one has its turn."""

        class Unusual(BaseException):
            pass

        for add, event in (("addReader", "read"), ("addWriter", "write")):
            for error in (ValueError("no"), Unusual()):
                reader, other = self.pair()
                good, another = self.pair()

                def fail(error: BaseException = error) -> None:
                    raise error

                reader.do = fail
                for each, peer in ((reader, other), (good, another)):
                    getattr(self.reactor, add)(each)
                    peer.send(b"x")
                self.turn()
                self.assertIs(reader.lost.value, error)
                self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)
                self.assertEqual(self.waits(reader), (False, False))
                self.assertEqual((good.events, good.lost), ([event], None))
                self.reactor.removeReader(good)
                self.reactor.removeWriter(good)

    def test_errors_in_connection_lost(self) -> None:
        """An exception there is logged too, and stops nobody else."""
        for add, event in (("addReader", "read"), ("addWriter", "write")):
            bad = [self.pair() for _ in range(3)]
            good, another = self.pair()

            def fail(reason: Failure) -> None:
                raise ValueError("in connectionLost")

            for reader, other in bad:
                reader.do = ConnectionLost
                reader.connectionLost = fail
                getattr(self.reactor, add)(reader)
                other.send(b"x")
            getattr(self.reactor, add)(good)
            another.send(b"x")
            self.turn()
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 3)
            self.assertEqual(good.events, [event])
            for reader, _ in bad:
                self.assertEqual(self.waits(reader), (False, False))
            self.reactor.removeReader(good)
            self.reactor.removeWriter(good)

    def test_results_of_events(self) -> None:
        """What an event's function returns is the reason for the loss."""
        for add in ("addReader", "addWriter"):
            for reason in (ConnectionDone, ConnectionLost):
                reader, other = self.pair()
                other.send(b"x")
                reader.do = reason
                getattr(self.reactor, add)(reader)
                self.turn()
                self.assertIsInstance(reader.lost.value, reason)
                self.assertEqual(self.waits(reader), (False, False))

    def test_hung_up(self) -> None:
        """A descriptor whose other end is gone with nothing left to be read is lost."""
        for add, expected in (("addReader", ConnectionDone), ("addWriter", ConnectionLost)):
            incoming, outgoing = os.pipe()
            end, other = (incoming, outgoing) if add == "addReader" else (outgoing, incoming)
            reader, _ = self.pair()
            reader.fileno = lambda end=end: end
            getattr(self.reactor, add)(reader)
            os.close(other)
            self.turn()
            self.assertIsInstance(reader.lost.value, expected)
            self.assertEqual(reader.events, [])
            os.close(end)

    def test_more_than_are_taken_at_once(self) -> None:
        """Events that do not fit into one round come in the next."""
        readers = []
        for _ in range(300):
            reader, other = self.pair()
            self.reactor.addReader(reader)
            other.send(b"x")
            readers.append(reader)
        self.turn(2)
        self.assertEqual([reader.events for reader in readers], [["read"]] * 300)

    def test_remove_all(self) -> None:
        """All but its own are removed, and returned."""
        reader, _ = self.pair()
        writer, _ = self.pair()
        self.reactor.addReader(reader)
        self.reactor.addWriter(writer)
        self.assertEqual(set(self.reactor.removeAll()), {reader, writer})
        for each in (reader, writer):
            self.assertEqual(self.waits(each), (False, False))

    def test_interrupted(self) -> None:
        """A wait that a signal ends is no error; any other error is."""

        class Poller:
            def __init__(self, code: int) -> None:
                self.code = code

            def poll(self, *_: object) -> None:
                raise OSError(self.code, os.strerror(self.code))

        poller = self.reactor._poller
        try:
            self.reactor._poller = Poller(errno.EINTR)
            self.assertIsNone(self.reactor.doIteration(0))
            self.reactor._poller = Poller(errno.EBADF)
            error = self.assertRaises(OSError, self.reactor.doIteration, None)
            self.assertEqual(error.errno, errno.EBADF)
        finally:
            self.reactor._poller = poller


class TwistedsDescriptorTests(DescriptorTests):
    """The same of Twisted's own reactor."""

    def make_reactor(self) -> Any:
        return twisteds_reactor()


class InstallTests(ReactorCase):
    """L{install}."""

    def test_install(self) -> None:
        installed: list[Any] = []
        self.patch(epoll, "installReactor", installed.append)
        epoll.install()
        [reactor] = installed
        self.addCleanup(discard, reactor)
        self.assertIsInstance(reactor, epoll.ConnectorReactor)
