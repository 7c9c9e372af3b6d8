"""Checks of back ends."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionRefusedError

from tests.server import wire
from tests.server.test_backends import BackEndsCase
from tests.server.wire import Immediate, Wire
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.backends import BackEnds, SendProxy, State
from twisted_bioconn.server.checks import Check, CheckKind, check_from_string

TCP = Check(kind=CheckKind.TCP)


class StringTests(BackEndsCase):
    """L{check_from_string}."""

    def test_kinds(self) -> None:
        for text, check in (
            ("tcp", TCP),
            ("tls", Check(kind=CheckKind.TLS)),
            ("http", Check(kind=CheckKind.HTTP)),
            ("http:/health?of=it", Check(kind=CheckKind.HTTP, path="/health?of=it")),
        ):
            self.assertEqual(check_from_string(text), check)
        self.assertEqual(check_from_string("tcp", interval=1.5).interval, 1.5)

    def test_none_of_them(self) -> None:
        for text, sentence in (
            ("", "check=: this must be tcp, tls or http:PATH$"),
            ("htpp:/", "must be tcp, tls or http:PATH, did you mean http[?]"),
            ("tcp:80", "check=tcp:80: tcp has nothing after it"),
            ("http:health", "check=http:health: a path begins with '/'"),
            ("http:/a b", "has no spaces"),
            ("http:/a\r\nX: y", r"http:/a\\r\\nX: y: a path"),
        ):
            with self.assertRaisesRegex(ConfigurationError, sentence):
                check_from_string(text)
        for setting in ({"rise": 0}, {"fall": 0}, {"interval": -1}, {"timeout": float("nan")}):
            with self.assertRaisesRegex(ConfigurationError, "must be above 0"):
                check_from_string("tcp", **setting)
        with self.assertRaisesRegex(ConfigurationError, "no host"):
            check_from_string("http:/", host="a\r\nb")


class CheckingTests(BackEndsCase):
    """The checks of one back end."""

    spread = 0.5

    def start(self, check: Check = TCP, endpoint: Any = None, **settings: Any) -> BackEnds:
        back_ends = self.make(
            [endpoint or self.a], check=check, spread=lambda: self.spread, **settings
        )
        back_ends.start()
        self.back_end = back_ends.members[0]
        return back_ends

    def fail(self, times: int = 1) -> None:  # type: ignore[override]
        for _ in range(times):
            self.clock.advance(5)
            self.a.refuses(ConnectionRefusedError())

    def succeed(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.advance(5)
            self.last = self.a.accepts()

    def test_when(self) -> None:
        """They are spread over the time, so that many do not come together."""
        self.start()
        self.clock.advance(2.4)
        self.assertEqual(self.a.attempts, [])
        self.clock.advance(0.1)
        self.assertEqual(len(self.a.attempts), 1)
        for self.spread, wait in ((0.0, 4.5), (1.0, 5.5), (0.5, 5.0)):
            self.a.accepts()
            self.clock.advance(wait - 0.1)
            self.assertEqual(self.a.attempts, [])
            self.clock.advance(0.1)
            self.assertEqual(len(self.a.attempts), 1)

    def test_fall_and_rise(self) -> None:
        self.start()
        self.succeed()
        self.assertIs(self.back_end.state, State.UP)
        self.assertTrue(self.last.closed)
        self.fail(2)
        self.assertIs(self.back_end.state, State.UP)
        self.succeed()
        self.fail(2)
        self.assertTrue(self.back_end.is_usable)
        self.fail()
        self.assertIs(self.back_end.state, State.DOWN)
        self.assertFalse(self.back_end.is_usable)
        self.succeed()
        self.fail()
        self.succeed()
        self.assertIs(self.back_end.state, State.DOWN)
        self.succeed()
        self.assertIs(self.back_end.state, State.UP)
        self.assertTrue(self.back_end.is_usable)
        self.assertEqual(
            self.logged(),
            [
                "back end a is down: 3 checks have failed, the last one:"
                " Connection was refused by other side",
                "back end a is up: 2 checks have succeeded",
            ],
        )
        # They are no clients.
        self.assertEqual((self.back_end.connections, self.back_end.served), (0, 0))

    def test_marks_stay(self) -> None:
        """A check that succeeds does not say that a client's connection would."""
        self.start()
        self.fail_down(self.back_end)
        self.clock.advance(2.5)
        self.a.accepts()
        self.assertIs(self.back_end.state, State.DOWN)
        self.clock.advance(10)
        self.assertTrue(self.back_end.is_usable)

    def test_client_that_gets_through_while_checks_fail(self) -> None:
        """Checks alone say when they are content."""
        self.start()
        self.fail(3)
        self.back_end.opened()
        self.assertIs(self.back_end.state, State.DOWN)

    def test_no_answer(self) -> None:
        self.start(Check(kind=CheckKind.TCP, timeout=1, fall=1))
        self.clock.advance(2.5)
        factory, _ = self.a.attempts[0]
        self.clock.advance(1)
        self.assertEqual(self.a.cancelled, 1)
        self.assertEqual(
            self.logged(),
            ["back end a is down: a check has failed: no answer within 1 seconds"],
        )
        # It goes on all the same.
        late = factory.buildProtocol(None)  # type: ignore[arg-type]
        assert late is not None
        self.assertTrue(Wire(self.clock, late).aborted)
        self.a.attempts.clear()
        self.clock.advance(5)
        self.assertEqual(len(self.a.attempts), 1)

    def test_stop(self) -> None:
        for connected in (False, True):
            self.a = wire.BackEnd(self.clock)
            back_ends = self.make([self.a], check=Check(kind=CheckKind.HTTP), spread=lambda: 0.0)
            # Two ports that forward to it.
            back_ends.start()
            back_ends.start()
            self.clock.advance(0)
            taken = self.a.accepts() if connected else None
            back_ends.stop()
            self.assertNotEqual(self.clock.getDelayedCalls(), [])
            back_ends.stop()
            self.assertEqual(self.a.cancelled, 0 if connected else 1)
            self.clock.advance(0)
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.assertTrue(taken is None or taken.aborted)
            self.assertIs(back_ends.members[0].state, State.UNKNOWN)
            back_ends.start()
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)
            back_ends.stop()
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_endpoint_that_answers_at_once(self) -> None:
        endpoint = Immediate(self.clock)
        self.start(endpoint=endpoint)
        self.clock.advance(2.5)
        self.assertIs(self.back_end.state, State.UP)
        self.assertTrue(endpoint.wires[0].closed)
        self.clock.advance(5)
        self.assertEqual(len(endpoint.wires), 2)

    def test_endpoint_that_raises(self) -> None:
        class Raising(wire.BackEnd):
            def connect(self, factory: object) -> Any:
                raise RuntimeError("no such thing")

        self.start(Check(kind=CheckKind.TCP, fall=1), Raising(self.clock))
        self.clock.advance(2.5)
        self.assertIn("no such thing", self.logged()[0])

    def ask(self, check: Check, *answers: bytes) -> Wire:
        self.start(check)
        self.clock.advance(2.5)
        back = self.a.accepts()
        for each in answers:
            back.sends(each)
        return back

    def forget(self) -> None:
        """Whatever was checked."""
        for call in self.clock.getDelayedCalls():
            call.cancel()
        self.a = wire.BackEnd(self.clock)
        self.events.clear()

    def test_http(self) -> None:
        check = Check(kind=CheckKind.HTTP, path="/health", fall=1)
        request = (
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bioconn\r\n"
            b"Accept: */*\r\nConnection: close\r\n\r\n"
        )
        for answers, why_not in (
            ((b"HTTP/1.1 200 OK\r\n", b"Content-Length: 0\r\n\r\n"), None),
            ((b"HTTP/1.0 2", b"04\r\n"), None),
            ((b"HTTP/1.1 302 Found\n",), None),
            ((b"HTTP/1.1 400 Bad Request\r\n",), "it answers with the status 400"),
            ((b"HTTP/1.1 503 ", b"\r\n\r\n"), "it answers with the status 503"),
            ((b"HTTP/1.1 100 Continue\r\n",), "it answers with the status 100"),
            ((b"HTTP/1.1 20\r\n",), "what it answers is not HTTP"),
            ((b"220 mail.example ESMTP\r\n",), "what it answers is not HTTP"),
            ((b"x" * 5000,), "what it answers is not HTTP"),
        ):
            self.forget()
            back = self.ask(check, *answers)
            self.assertEqual(back.unsent, request)
            back.reads()
            self.assertTrue(back.closed, answers)
            if why_not is None:
                self.assertIs(self.back_end.state, State.UP, answers)
            else:
                down = f"back end a is down: a check has failed: {why_not}"
                self.assertEqual(self.logged(), [down])

    def test_http_host(self) -> None:
        back = self.ask(Check(kind=CheckKind.HTTP, host="www.example"))
        self.assertIn(b"\r\nHost: www.example\r\n", back.unsent)

    def test_http_without_an_answer(self) -> None:
        check = Check(kind=CheckKind.HTTP, fall=1, timeout=2)
        self.ask(check).breaks()
        self.assertIn("ended before there was an answer", self.logged()[0])
        self.forget()
        back = self.ask(check, b"HTTP/1.1")
        self.clock.advance(2)
        self.assertIn("no answer within 2 seconds", self.logged()[0])
        self.assertTrue(back.reason is not None or back.aborted)

    def test_header(self) -> None:
        """The connection is nobody's but ours, which version 1 cannot say."""
        for how, header in (
            (SendProxy.V1, b"PROXY UNKNOWN\r\n"),
            (SendProxy.V2_TLS, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
        ):
            self.start(send_proxy=how)
            self.clock.advance(2.5)
            back = self.a.accepts()
            back.reads()
            self.assertEqual(back.taken, header)

    def test_tls_of_a_plain_one(self) -> None:
        with self.assertRaisesRegex(ConfigurationError, "check=tls: a is not spoken to with TLS"):
            self.make(check=Check(kind=CheckKind.TLS))
