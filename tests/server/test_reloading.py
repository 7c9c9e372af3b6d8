"""Another configuration in the place of the present one: all of it, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.server.test_service import Endpoint, Port, Reactor
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.front import Front, Listener, State
from twisted_bioconn.server.reloading import Changes, Proposal


def listener(name: str, outcome: Any = None, **more: Any) -> Listener:
    """One whose port is open at once, unless it is said otherwise."""
    port = succeed(Port()) if outcome is None else outcome
    return Listener(name, Endpoint(port), Factory(), **more)


class ChangesTests(SynchronousTestCase):
    """What one configuration has that another one has not."""

    def test_identity(self) -> None:
        """What it was asked for, as far as that is known."""
        self.assertEqual(listener("a", target="--echo").identity, "a --echo")
        self.assertEqual(listener("a", target="--echo", key="all of it").identity, "all of it")

    def test_between(self) -> None:
        before = [listener("a", key="1"), listener("b", key="2"), listener("c", key="3")]
        after = [listener("d", key="4"), listener("b", key="5"), listener("c", key="3")]
        changes = Changes.between(before, after)
        self.assertEqual(changes.kept, (before[2],))
        self.assertEqual(changes.added, (after[0], after[1]))
        self.assertEqual(changes.gone, (before[0], before[1]))
        self.assertEqual(str(changes), "opened d; changed b; closed a; 1 as before")
        self.assertTrue(changes)

    def test_same(self) -> None:
        """Those that are twice the same are two."""
        before = [listener("a"), listener("a")]
        changes = Changes.between(before, [listener("a"), listener("a")])
        self.assertEqual((changes.kept, bool(changes)), (tuple(before), False))
        self.assertEqual(str(changes), "2 as before")
        self.assertEqual(str(Changes.between(before, [listener("a")])), "closed a; 1 as before")


class FrontTests(SynchronousTestCase):
    """SIGHUP, on a reactor in memory."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.said: list[str] = []

        @implementer(ILogObserver)
        def hear(event: LogEvent) -> None:
            if str(event.get("log_namespace", "")).startswith("twisted_bioconn.server"):
                self.said.append(formatEvent(event))

        globalLogPublisher.addObserver(hear)
        self.addCleanup(globalLogPublisher.removeObserver, hear)

    def front(self, listeners: Sequence[Listener]) -> Front:
        front = Front(self.reactor, listeners)
        front.startService()
        for function, arguments, named in self.reactor.whenRunningHooks:
            function(*arguments, **named)
        self.assertIs(front.state, State.SERVING)
        self.said.clear()
        return front

    def have(self, front: Front, *listeners: Listener) -> None:
        front.reconfigure = lambda: Proposal(listeners)

    def test_unchanged(self) -> None:
        """The listener that was there is there, not its double."""
        first = listener("a")
        front = self.front([first])
        double = listener("a")
        self.have(front, double)
        self.successResultOf(front.reload())
        self.assertEqual(front.listeners, (first,))
        self.assertEqual(cast(Endpoint, double.endpoint).asked, 0)
        self.assertIn("the configuration is loaded anew: 1 as before", self.said)

    def test_closed_when_all_is_open(self) -> None:
        """Not before; and what is said is said then."""
        old = listener("a")
        front = self.front([old])
        slow: Deferred[Any] = Deferred()
        self.have(front, listener("b"), listener("c", slow))
        done = front.reload()
        [port, _] = front.ports
        self.assertIsNone(port.closing)
        slow.callback(Port())
        assert port.closing is not None
        self.assertNoResult(done)
        port.closing.callback(None)
        self.successResultOf(done)
        self.assertEqual([each.name for each in front.listeners], ["b", "c"])
        self.assertEqual(len(front.ports), 2)
        self.assertIn(
            "the configuration is loaded anew: opened b, c; closed a; 0 as before", self.said
        )

    def test_one_cannot_be_opened(self) -> None:
        old = listener("a")
        front = self.front([old])
        new = Port()
        error = CannotListenError("", 80, OSError(98, "Address already in use"))
        self.have(front, listener("b", succeed(new)), listener("c", fail(error)))
        done = front.reload()
        assert new.closing is not None
        new.closing.callback(None)
        self.successResultOf(done)
        self.assertEqual((front.listeners, len(front.ports)), ((old,), 1))
        self.assertIn("nothing is changed: c: Address already in use", self.said)

    def test_adopted(self) -> None:
        """What is new is said, and kept in mind, when it is in force, and not before."""
        front = self.front([listener("a")])
        adopted: list[str] = []

        def propose(what: str, port: Any) -> None:
            wanted = listener(what, port)
            front.reconfigure = lambda: Proposal(
                [wanted], [f"{what} is new"], lambda: adopted.append(what)
            )

        propose("b", fail(ConfigurationError("no")))
        self.successResultOf(front.reload())
        self.assertEqual((adopted, "the configuration file: b is new" in self.said), ([], False))
        slow: Deferred[Any] = Deferred()
        propose("c", slow)
        [before] = front.ports
        done = front.reload()
        self.assertEqual(adopted, [])
        slow.callback(Port())
        assert before.closing is not None
        before.closing.callback(None)
        self.successResultOf(done)
        self.assertEqual(adopted, ["c"])
        at = self.said.index("the configuration file: c is new")
        self.assertIn("the configuration is loaded anew: opened c", self.said[at + 1])

    def test_mistakes(self) -> None:
        """Whatever is wrong, it is a line, and all goes on as before."""
        front = self.front([listener("a")])
        for error, said in (
            (ConfigurationError("port = 99999: there is none"), "port = 99999: there is none"),
            (SystemExit("bioconn: no"), "bioconn: no"),
            (RuntimeError("a bug"), "RuntimeError: a bug"),
        ):

            def wrong(error: BaseException = error) -> Proposal:
                raise error

            front.reconfigure = wrong
            self.successResultOf(front.reload())
            self.assertIn(f"nothing is changed: {said}", self.said)
            self.assertEqual(len(front.ports), 1)
            self.assertIs(front.state, State.SERVING)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_again_meanwhile(self) -> None:
        """What has changed since it began is looked at when it is done, once."""
        front = self.front([listener("a")])
        slow: Deferred[Any] = Deferred()
        asked: list[int] = []

        def configured() -> Proposal:
            asked.append(1)
            return Proposal([listener("a"), listener("b", slow)])

        front.reconfigure = configured
        front.reload()
        for _ in range(3):
            self.successResultOf(front.reload())
        self.assertEqual(len(asked), 1)
        slow.callback(Port())
        self.assertEqual(len(asked), 2)
        self.assertEqual(len(front.ports), 2)

    def test_end_meanwhile(self) -> None:
        """A port that opens when the process was told to end is closed again."""
        front = self.front([])
        front.drain = 10.0
        slow: Deferred[Any] = Deferred()
        self.have(front, listener("b", slow))
        front.reload()
        front.terminate()
        self.assertIs(front.state, State.DRAINING)
        late = Port()
        slow.callback(late)
        self.assertIsNotNone(late.closing)
        self.assertEqual(front.ports, [])

    def test_services(self) -> None:
        """They begin with the first listener that needs them, and end after the last."""
        shared, own = Service(), Service()
        ports = [Port(), Port()]
        first = listener("a", succeed(ports[0]), services=(shared,))
        second = listener("b", succeed(ports[1]), services=(shared, own))
        front = self.front([first])
        self.assertTrue(shared.running)
        self.have(front, first, second)
        self.successResultOf(front.reload())
        self.assertTrue(own.running)
        for wanted, port in (([second], ports[0]), ([], ports[1])):
            self.have(front, *wanted)
            done = front.reload()
            assert port.closing is not None
            port.closing.callback(None)
            self.successResultOf(done)
            self.assertTrue(shared.running and own.running)
            self.reactor.pump([0.1] * 10)
            self.assertEqual((shared.running, own.running), (bool(wanted), bool(wanted)))

    def test_before_all_is_open(self) -> None:
        """What is told then is done then."""
        slow: Deferred[Any] = Deferred()
        front = Front(self.reactor, [listener("a", slow)])
        front.startService()
        for function, arguments, named in self.reactor.whenRunningHooks:
            function(*arguments, **named)
        begun: list[int] = []
        self.patch(front, "_begin_upgrade", lambda: begun.append(1))
        front._hang_up()
        front._renew_program()
        self.assertEqual((self.said, begun), ([], []))
        slow.callback(Port())
        self.assertIn("reloaded: 0 certificates are served, none failed", self.said)
        self.assertEqual(begun, [1])

    def test_hang_up(self) -> None:
        """SIGHUP is for a process that serves."""
        front = self.front([])
        front._hang_up()
        self.assertIn("reloaded: 0 certificates are served, none failed", self.said)
        front.drain = 10.0
        front.terminate()
        front._hang_up()
        self.assertIn("SIGHUP is ignored: the service is draining", self.said)
        front._renew_program()
        self.assertIn("SIGUSR2 is ignored: the service is draining", self.said)
