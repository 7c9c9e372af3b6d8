"""Tests for L{twisted_bioconn.server.failure_traces}, and for the status that shows them."""

from __future__ import annotations

import json
import os
import socket
from typing import Any
from urllib.request import urlopen

import attrs
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.endpoint_material import Applications, EndpointCase
from tests.server.browser import Browser
from tests.server.command import Command
from tests.server.status_material import StatusCase
from tests.tls_material import HOST
from tests.trace.material import HOSTILE
from twisted_bioconn.explanations import Cause, Explanation, Side
from twisted_bioconn.server.failure_traces import LARGEST, LIMITS, FailureTraces
from twisted_bioconn.server.ledger import KEPT, Ledger
from twisted_bioconn.trace import Tracer, Way
from twisted_bioconn.trace.events import Message

OLD = Explanation(Cause.CLIENT_TOO_OLD, "it is too old", Side.CLIENT, "policy", "Update it")

#: Where to leave pictures, for whoever wants to look at them.


@attrs.define(eq=False)
class Layer:
    """As much of a traced connection's TLS layer as is asked for."""

    recorder: Any
    _tracer: Tracer


class Failing:
    """
    Connections that fail, told to a ledger.

    @ivar ledger: whose failures are traced.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.traces = ledger.failure_traces = FailureTraces()
        self.account = ledger.account("--listen 443")

    def begin(self, tracer: Tracer | None = None) -> Any:
        """A connection that is traced."""
        tracer = tracer or self.traces.tracer
        recorder = tracer.begin(False, "127.0.0.1:443", "192.0.2.7:50000")
        return Layer(recorder, tracer)

    def end(self, tls: Any) -> None:
        """It fails, and is lost."""
        self.account.not_let_in(tls, "192.0.2.7:50000", OLD, 0.1)
        tls.recorder.ended(False, ValueError(), "it is too old")
        tls._tracer.end(tls.recorder.trace)


class KeptTests(StatusCase):
    """What is kept, and told over HTTP."""

    def setUp(self) -> None:
        super().setUp()
        self.failing = Failing(self.ledger)

    def failures(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("/failures").told["failures"]
        return found

    def test_told(self) -> None:
        """Each failure names its trace, how it ended among the rest."""
        self.failing.end(self.failing.begin())
        [failure] = self.failures()
        answer = self.ask(f"/trace?of={failure['trace']}")
        self.assertEqual(answer.code, 200)
        self.assertEqual(answer.headers["content-type"], "text/plain; charset=utf-8")
        self.assertIn("connected to 192.0.2.7:50000", answer.text)
        self.assertIn("ended: it is too old", answer.text)

    def test_none(self) -> None:
        """One that is not traced, or for somebody else, has none: that one may have keys in it."""
        secret = self.failing.begin(Tracer(lambda trace: None, unsafe_secrets=True))
        secret.recorder.secret("CLIENT_RANDOM")
        self.failing.end(secret)
        self.failing.account.not_let_in(None, "192.0.2.7:50000", OLD, 0.1)
        self.assertEqual([each["trace"] for each in self.failures()], [None, None])

    def test_not_over(self) -> None:
        tls = self.failing.begin()
        self.failing.account.not_let_in(tls, "192.0.2.7:50000", OLD, 0.1)
        [failure] = self.failures()
        self.assertEqual(
            self.ask(f"/trace?of={failure['trace']}").text, "the connection is not over yet\n"
        )

    def test_gone(self) -> None:
        """Of the last ones there is a trace, and of others that there is none."""
        self.failing.end(self.failing.begin())
        [first] = self.failures()
        for _ in range(KEPT):
            self.failing.end(self.failing.begin())
        found = self.failures()
        self.assertEqual(len({each["trace"] for each in found}), KEPT)
        pid = os.getpid()
        for name in (first["trace"], "", "1", "x.1", f"{pid}.", f"{pid + 1}.1", f"{pid}.%C2%B2"):
            self.assertEqual(self.ask(f"/trace?of={name}").code, 404, name)
        self.assertEqual(self.ask("/trace").code, 404)
        self.assertEqual(self.failing.traces._pending, {})

    def test_bounded(self) -> None:
        """However much a peer sends, so much is kept of it."""
        tls = self.failing.begin()
        fields = (("server name", "x" * 300), ("hostile", HOSTILE))
        for _ in range(2 * LIMITS.events):
            tls.recorder.add(Message(0.1, Way.RECEIVED, "ClientHello", 1, 10, fields))
        self.failing.end(tls)
        [failure] = self.failures()
        answer = self.ask(f"/trace?of={failure['trace']}")
        self.assertLessEqual(len(answer.body), LARGEST)
        self.assertGreater(len(answer.body), LARGEST // 2)
        self.assertTrue(answer.text.endswith("this would have more than 32768 bytes.\n"))
        self.assertNotIn("\x1b", answer.text)


class EndpointTests(EndpointCase):
    """With connections of an endpoint."""

    def test_connection(self) -> None:
        """A handshake that fails is kept from its hello to its end; one that is done is not."""
        ledger = Ledger(self.clock)
        ledger.logs = False
        ledger.failure_traces = FailureTraces()
        observer = ledger.account(HOST)
        self.listen(Applications(), observer=observer, tracer=ledger.failure_traces.tracer)
        visitors = Applications()
        connecting = self.client_endpoint(None).connect(visitors)
        self.meet()
        self.successResultOf(connecting)
        visitors.one.transport.abortConnection()
        self.clock.settle()
        tls = self.arrival()
        tls.makeConnection(StringTransport())
        tls.dataReceived(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")
        tls.connectionLost(Failure(ConnectionResetError()))
        self.clock.settle()
        [failure] = ledger.failures
        assert failure.trace is not None
        self.assertIn(b"10 bytes received", failure.trace.text)
        self.assertIn(b"ended: ", failure.trace.text)
        self.assertEqual(ledger.failure_traces._pending, {})


class RunningTests(SynchronousTestCase):
    """The command, with real connections."""

    def start(self, *words: str) -> tuple[Command, int, int]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            status = free.getsockname()[1]
        command = Command(
            self, "--listen", "127.0.0.1:0", "--echo", "--status", str(status), *words
        )
        return command, command.port(), status

    def fail(self, port: int) -> None:  # type: ignore[override]
        """A client that speaks no TLS."""
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")
            try:
                while client.recv(1000):
                    pass
            except ConnectionResetError:
                pass

    def read(self, status: int, path: str) -> bytes:
        with urlopen(f"http://127.0.0.1:{status}{path}") as answer:
            found: bytes = answer.read()
        return found

    def test_off(self) -> None:
        """Nothing is traced that nobody has asked for."""
        command, port, status = self.start()
        self.fail(port)
        [failure] = json.loads(self.read(status, "/failures"))["failures"]
        self.assertIsNone(failure["trace"])
        self.assertEqual(command.terminate(), 0)

    def test_workers(self) -> None:
        """One process tells of the failures of all."""
        command, port, status = self.start("--trace-failures", "--workers", "2")
        processes: set[str] = set()
        while len(processes) < 2:
            self.fail(port)
            for each in json.loads(self.read(status, "/failures"))["failures"]:
                self.assertIn(b"10 bytes received", self.read(status, f"/trace?of={each['trace']}"))
                processes.add(each["trace"].partition(".")[0])
        self.assertEqual(command.terminate(), 0)

    def test_browser(self) -> None:
        """A failure unfolds to its trace, and stays as it is when others come."""
        command, port, status = self.start("--trace-failures")
        for _ in range(3):
            self.fail(port)
        browser = Browser(self)
        for width, dark, view in browser.views():
            browser.visit(f"http://127.0.0.1:{status}/?{width}{dark}")
            browser.wait_for(
                f"location.search === '?{width}{dark}' && document.querySelector('.traces')"
            )
            browser.evaluate("document.querySelector('.traces').open = true")
            browser.wait_for("document.querySelectorAll('.traces details').length >= 3")
            browser.evaluate("document.querySelector('.traces details').open = true")
            text = "document.querySelector('.traces pre').textContent"
            browser.wait_for(f"{text}.includes('10 bytes received')")
            self.assertEqual(browser.width_needed(), width)
            browser.keep_picture(f"failures-{view}")
        before = browser.evaluate("failureCount")
        self.fail(port)
        browser.wait_for(f"failureCount > {before}")
        self.assertIn("10 bytes received", browser.evaluate(text))
        self.assertEqual(browser.complaints, [])
        self.assertEqual(command.terminate(), 0)

    def test_no_status(self) -> None:
        """There has to be somewhere to show them."""
        command = Command(self, "--listen", "0", "--echo", "--trace-failures")
        self.assertEqual(command.ended(), 1)
        [line] = command.errors
        self.assertIn("--trace-failures: this needs status", line)
