"""Tests for how connections of L{twisted_bioconn._tcp} end, which is as Twisted's own do."""

from __future__ import annotations

import select

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost

from tests.protocol_material import App, HalfApp
from tests.reactor_material import LARGE, ReactorCase, making, reset, twisteds_reactor


class LosingTests(ReactorCase):
    """C{loseConnection} and C{abortConnection}, in every state, and what both ends are told."""

    def lost(self, one: App, other: App) -> None:
        """Wait for the end of both."""
        self.until(lambda: one.reasons and other.reasons)
        self.turn(3)
        self.assertEqual(one.did[-1], "lost")
        self.assertEqual(self.reactor.getWriters(), [])
        self.assertNotIn(one.transport, self.reactor.getReaders())
        for app in (one, other):
            self.assertEqual(len(app.reasons), 1)
            self.assertFalse(app.transport.connected)
            self.assertTrue(app.transport.disconnected)
            self.assertEqual(app.transport.fileno(), -1)

    def assert_clean(self, *apps: App) -> None:
        for app in apps:
            self.assertIsInstance(app.reason.value, ConnectionDone)

    def test_nothing_queued(self) -> None:
        """The protocol is told in a later turn, not within the call."""
        for one, other in self.ends(App):
            one.transport.loseConnection()
            self.assertEqual(one.reasons, [])
            self.assertTrue(one.transport.disconnecting)
            self.lost(one, other)
            self.assert_clean(one, other)

    def test_queued(self) -> None:
        """All that was written goes out before."""
        for one, other in self.ends(App):
            one.transport.write(LARGE)
            one.transport.loseConnection()
            self.lost(one, other)
            self.assertEqual(other.received, LARGE)
            self.assert_clean(one, other)

    def test_after_all_was_sent(self) -> None:
        for one, other in self.ends(App):
            one.transport.write(b"sent")
            self.until(lambda other: other.received, other)
            one.transport.loseConnection()
            self.lost(one, other)
            self.assert_clean(one, other)

    def test_before_all_was_read(self) -> None:
        """
        Who has sent more than was read gets the answer, and an end in good order: where a socket is
        closed and not shut down before, the kernel sends nothing but a reset.
        """
        app, peer = self.accepted()
        app.transport.pauseProducing()
        peer.send(b"never read")
        # It has come.
        self.until(lambda: select.select([app.transport.socket], [], [], 0)[0])
        app.transport.write(b"answer")
        app.transport.loseConnection()
        self.until(lambda: app.reasons)
        self.until(lambda: select.select([peer], [], [], 0)[0])
        self.assertEqual(peer.recv(100), b"answer")
        self.assertEqual(peer.recv(100), b"")

    def test_twice(self) -> None:
        for data in (b"", b"queued"):
            for one, other in self.ends(App):
                one.transport.write(data)
                one.transport.loseConnection()
                one.transport.loseConnection()
                self.lost(one, other)
                one.transport.loseConnection()
                self.assertEqual(other.received, data)
                self.assert_clean(one, other)

    def test_then_written(self) -> None:
        """What is written just after goes out too, much or little."""
        for data in (b"late", LARGE):
            for one, other in self.ends(App):
                one.transport.loseConnection()
                one.transport.write(data)
                self.lost(one, other)
                self.assertEqual(other.received, data)
                self.assert_clean(one, other)

    def test_then_aborted(self) -> None:
        for data in (b"", LARGE):
            for one, other in self.ends(App):
                one.transport.write(data)
                one.transport.loseConnection()
                one.transport.abortConnection()
                self.lost(one, other)
                self.assertIsInstance(one.reason.value, ConnectionAborted)
                self.assertIsInstance(other.reason.value, ConnectionLost)

    def test_aborted_in_the_turn_after(self) -> None:
        """By a delayed call, which may come before or after the end."""
        for one, other in self.ends(App):
            self.reactor.callLater(0, one.transport.abortConnection)
            one.transport.loseConnection()
            self.lost(one, other)

    def test_aborted_then_lost(self) -> None:
        for one, other in self.ends(App):
            one.transport.write(b"dropped")
            one.transport.abortConnection()
            one.transport.loseConnection()
            one.transport.abortConnection()
            one.transport.write(b"dropped")
            self.assertEqual(one.reasons, [])
            self.lost(one, other)
            self.assertEqual(other.received, b"")
            self.assertIsInstance(one.reason.value, ConnectionAborted)
            self.assertIsInstance(other.reason.value, ConnectionLost)
            one.transport.abortConnection()

    def test_when_data_comes(self) -> None:
        """Together with an answer, and without."""
        for answer in (b"", b"answer"):

            def close(app: App, answer: bytes = answer) -> None:
                app.transport.write(answer)
                app.transport.loseConnection()

            for one, other in self.ends(making(data=close)):
                other.transport.write(b"x")
                self.lost(one, other)
                self.assertEqual(other.received, answer)
                self.assert_clean(one, other)

    def test_no_data_after(self) -> None:
        """What comes in after the call is for nobody."""
        for one, other in self.ends(App):
            other.transport.write(b"x" * 10)
            one.transport.loseConnection()
            one.transport.resumeProducing()
            self.lost(one, other)
            self.assertEqual(one.did, ["made", "lost"])

    def test_when_made(self) -> None:
        for one, other in self.ends(making(made=lambda app: app.transport.loseConnection())):
            self.lost(one, other)
            self.assert_clean(one, other)
            self.assertEqual(one.did, ["made", "lost"])

    def test_aborted_when_made(self) -> None:
        for one, other in self.ends(making(made=lambda app: app.transport.abortConnection())):
            self.lost(one, other)
            self.assertIsInstance(one.reason.value, ConnectionAborted)
            self.assertIsInstance(other.reason.value, ConnectionLost)

    def test_aborted_when_data_comes(self) -> None:
        """Also where that raises an exception afterwards."""

        def abort(app: App) -> None:
            app.transport.abortConnection()
            raise ValueError("in dataReceived")

        for one, other in self.ends(making(data=abort)):
            other.transport.write(b"x")
            self.lost(one, other)
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_both_at_once(self) -> None:
        for one, other in self.ends(App):
            one.transport.loseConnection()
            other.transport.loseConnection()
            self.lost(one, other)
            self.assert_clean(one, other)

    def test_lost_when_the_other_is_lost(self) -> None:
        """To call these in C{connectionLost} and after it is nothing."""

        def again(app: App) -> None:
            for name in ("loseConnection", "abortConnection", "stopReading", "stopWriting"):
                getattr(app.transport, name)()
            app.transport.write(b"to nobody")
            app.transport.writeSequence([b"to", b"nobody"])

        for one, other in self.ends(making(lost=again)):
            other.transport.loseConnection()
            self.lost(one, other)
            again(one)
            self.turn(3)
            self.assert_clean(one, other)

    def test_reset_while_receiving(self) -> None:
        app, peer = self.accepted()
        reset(peer)
        self.until_lost(app)
        self.assertIsInstance(app.reason.value, ConnectionLost)

    def test_reset_while_sending(self) -> None:
        for reads in (True, False):
            app, peer = self.accepted()
            if not reads:
                app.transport.pauseProducing()
            app.transport.write(LARGE)
            self.turn(3)
            reset(peer)
            self.until_lost(app)
            self.assertIsInstance(app.reason.value, ConnectionLost)

    def test_reset_after_lose(self) -> None:
        """The peer breaks off what we were about to close."""
        for data in (b"", LARGE):
            app, peer = self.accepted()
            app.transport.write(data)
            self.turn(2)
            app.transport.loseConnection()
            reset(peer)
            self.until_lost(app)
            # With nothing to be sent, either may come first.
            expected = ConnectionLost if data else (ConnectionLost, ConnectionDone)
            self.assertIsInstance(app.reason.value, expected)


class ShutdownTests(ReactorCase):
    """A reactor that ends."""

    def test_about_to_be_closed(self) -> None:
        """A connection that is about to be closed when the reactor ends is told that it is lost."""
        app, _ = self.accepted()
        app.transport.loseConnection()
        self.assertEqual(len(app.reasons), 0)
        self.reactor.disconnectAll()
        self.assertEqual([reason.type for reason in app.reasons], [ConnectionDone])


class HalfTests(ReactorCase):
    """Either direction is closed alone."""

    def test_write_side(self) -> None:
        """The other end hears the end, and may go on sending."""
        for one, other in self.ends(making(HalfApp), making(HalfApp)):
            one.transport.write(b"question")
            one.transport.loseWriteConnection()
            self.until(lambda one, other: other.did[-1] == "read lost", one, other)
            self.assertEqual(other.received, b"question")
            self.assertEqual(one.did, ["made", "write lost"])
            one.transport.write(b"too late")
            other.transport.write(b"answer")
            other.transport.loseConnection()
            self.until(lambda one, other: one.did[-1] == "read lost" and other.reasons, one, other)
            self.assertEqual(one.received, b"answer")
            self.assertEqual(one.reasons, [])
            # There is nothing left to be sent, and nobody to tell.
            one.transport.loseConnection()
            self.assertEqual(len(one.reasons), 1)
            self.assertIsInstance(one.reason.value, ConnectionDone)

    def test_both_sides(self) -> None:
        for one, other in self.ends(making(HalfApp), making(HalfApp)):
            one.transport.loseWriteConnection()
            other.transport.loseWriteConnection()
            self.until(
                lambda one, other: "read lost" in one.did and "read lost" in other.did, one, other
            )
            for app in (one, other):
                self.assertEqual(sorted(app.did), ["made", "read lost", "write lost"])
                app.transport.loseConnection()
                self.assertIsInstance(app.reason.value, ConnectionDone)

    def test_nobody_to_tell(self) -> None:
        """An application that cannot do that loses the connection."""
        for one, other in self.ends(App):
            other.transport.write(b"x")
            other.transport.loseWriteConnection()
            self.until_lost(one, other)
            self.assertEqual(one.received, b"x")
            self.assertIsInstance(one.reason.value, ConnectionDone)

    def test_lose_when_the_other_has_ended(self) -> None:
        """In C{readConnectionLost}, with something to say and with nothing."""
        for data in (b"", b"goodbye", LARGE):

            def close(app: App, data: bytes = data) -> None:
                app.transport.write(data)
                app.transport.loseConnection()

            for one, other in self.ends(making(HalfApp, **{"read lost": close}), making(HalfApp)):
                other.transport.loseWriteConnection()
                self.until(
                    lambda one, other: one.reasons and other.did[-1] == "read lost", one, other
                )
                self.assertEqual(other.received, data)
                self.assertIsInstance(one.reason.value, ConnectionDone)

    def test_lose_while_the_write_side_is_closing(self) -> None:
        """C{loseConnection} before the half-close has come about."""
        for data in (b"", b"x", LARGE):
            for one, other in self.ends(App):
                one.transport.write(data)
                one.transport.loseWriteConnection()
                one.transport.loseConnection()
                self.until_lost(one, other)
                self.assertEqual(other.received, data)
                self.assertIsInstance(one.reason.value, ConnectionDone)

    def test_half_close_after_lose(self) -> None:
        for one, other in self.ends(making(HalfApp)):
            one.transport.loseConnection()
            one.transport.loseWriteConnection()
            self.until_lost(one, other)
            self.assertEqual(one.did, ["made", "lost"])

    def test_errors(self) -> None:
        """An exception in either of the two methods is logged, and the connection lost with it."""

        def fail(app: App) -> None:
            raise ValueError("no")

        for what in ("read lost", "write lost"):
            for one, other in self.ends(making(HalfApp, **{what: fail})):
                (one if what == "write lost" else other).transport.loseWriteConnection()
                self.until_lost(one)
                self.assertIsInstance(one.reason.value, ValueError)
                self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
                other.transport.abortConnection()


class TwistedsLosingTests(LosingTests):
    """The same of Twisted's own reactor."""

    make_reactor = staticmethod(twisteds_reactor)


class TwistedsHalfTests(HalfTests):
    """The same of Twisted's own reactor."""

    make_reactor = staticmethod(twisteds_reactor)
