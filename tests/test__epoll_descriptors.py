"""Tests for what L{twisted_bioconn._epoll} waits for, which is the same with Twisted's reactor."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from tests.reactor_material import ReactorCase, Reader, twisteds_reactor


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
