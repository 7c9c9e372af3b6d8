"""Tests for L{twisted_bioconn.server.ledger}."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, cast

import attrs
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    NoProtocol,
    TimeoutError,
)
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, eventAsJSON, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.context_material import ROOTS, certified, serving
from tests.server.test_facts import USUAL, certificate
from tests.test_preamble import RECORD, V1, PreambleCase
from tests.tls_material import client
from twisted_bioconn.context import SessionStore
from twisted_bioconn.errors import PeerError
from twisted_bioconn.explanations import Cause, Explanation, Side
from twisted_bioconn.limits import Limit, Limits
from twisted_bioconn.negotiated import Negotiated
from twisted_bioconn.port_options import Plain, PreambleOptions, networks
from twisted_bioconn.protocol import TLSConnectorProtocol
from twisted_bioconn.server.ledger import (
    OK,
    RECENT,
    VALIDATION,
    Account,
    ConnectionState,
    End,
    Histogram,
    Ledger,
    quantile,
    total,
)

SENTENCE = Explanation(Cause.HTTP, "it is HTTP", Side.CLIENT, "plain", "use https")


class TLS:
    """As much of a TLS layer as a ledger asks."""

    disconnecting = False
    traffic = (1234, 5678)
    aborted = False

    def __init__(self, port: int = 50000) -> None:
        self.port = port

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.7", self.port)

    def abortConnection(self) -> None:
        self.aborted = True


def layer(port: int = 50000) -> TLSConnectorProtocol:
    """A TLS layer, to the ledger."""
    return cast(TLSConnectorProtocol, TLS(port))


def noted(case: SynchronousTestCase) -> list[LogEvent]:
    """What is logged by a ledger from now on."""
    events: list[LogEvent] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_namespace") == "twisted_bioconn.server.ledger":
            events.append(event)

    globalLogPublisher.addObserver(observe)
    case.addCleanup(globalLogPublisher.removeObserver, observe)
    return events


class LedgerCase(SynchronousTestCase):
    """A ledger with one account, and a clock that stands still."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.ledger = Ledger(self.clock, now=lambda: 1e9 + self.clock.seconds(), kept=3)
        self.account = self.ledger.account("--listen 8443", "an echo")
        self.events = noted(self)

    def let_in(self, facts: Negotiated = USUAL, port: int = 50000) -> TLSConnectorProtocol:
        """A connection that is let in."""
        tls = layer(port)
        self.account.begun(tls)
        self.account.let_in(tls, facts)
        return tls

    def end(self, tls: TLSConnectorProtocol, error: BaseException = CONNECTION_DONE) -> None:
        """It ends."""
        self.account.ended(tls, Failure(error))


class CountTests(LedgerCase):
    """What is counted."""

    def test_life(self) -> None:
        """A connection is told of for as long as there is one, and counted for good."""
        tls: Any = layer()
        self.account.begun(tls)
        [connection] = self.ledger.connections()
        self.assertEqual((connection.number, connection.state.value), (1, "handshake"))
        self.clock.advance(0.25)
        self.account.let_in(tls, USUAL)
        self.assertIs(connection.state, ConnectionState.OPEN)
        tls.disconnecting = True
        self.assertIs(connection.state, ConnectionState.CLOSING)
        self.assertEqual(self.account.states(), {ConnectionState.CLOSING: 1})
        self.assertEqual(self.account.traffic(), (1234, 5678))
        self.clock.advance(2)
        self.end(tls)
        self.assertEqual(self.ledger.open_count, 0)
        self.assertEqual(self.account.traffic(), (1234, 5678))
        self.assertEqual(self.account.begun_count, 1)
        self.assertEqual(self.account.results, {OK: 1})
        self.assertEqual(self.account.ends, {End.CLOSED: 1})
        self.assertEqual(self.account.negotiated, {("TLSv1.3", "X25519MLKEM768", False): 1})
        self.assertEqual(self.account.connection_times.total, 2.25)
        self.assertAlmostEqual(self.account.handshake_times.total, 0.00421)

    def test_description(self) -> None:
        """All that is known, with what is not known yet as None."""
        tls = layer()
        self.account.begun(tls)
        self.clock.advance(3)
        [connection] = self.ledger.connections()
        told = connection.described(self.clock.seconds())
        self.assertEqual(
            {name for name, value in told.items() if value is None},
            {"server_name", "version", "cipher", "group", "alpn", "resumed", "client"}
            | {"handshake_seconds"},
        )
        self.account.let_in(tls, attrs.evolve(USUAL, peer_chain=(certificate(),)))
        told = connection.described(self.clock.seconds())
        self.assertEqual(
            told,
            {
                "number": 1,
                "listener": "--listen 8443",
                "peer": "192.0.2.7:50000",
                "state": "open",
                "server_name": "localhost",
                "version": "TLSv1.3",
                "cipher": "TLS_AES_128_GCM_SHA256",
                "group": "X25519MLKEM768",
                "alpn": "h2",
                "resumed": False,
                "client": "CN=alice",
                "handshake_seconds": 0.00421,
                "seconds": 3.0,
                "received": 1234,
                "sent": 5678,
            },
        )

    def test_failed(self) -> None:
        """Who is not let in is counted once, by the cause, and the newest are kept."""
        for number in range(5):
            tls = layer()
            self.account.begun(tls)
            self.account.not_let_in(tls, f"192.0.2.{number}:1", SENTENCE, 0.5)
            self.end(tls, ConnectionLost())
        self.account.not_let_in(None, "192.0.2.9:1", SENTENCE, 0.5)
        self.assertEqual(self.account.results, {"http": 6})
        self.assertEqual(self.account.ends, {})
        self.assertEqual(self.ledger.open_count, 0)
        self.assertEqual(self.account.traffic(), (5 * 1234, 5 * 5678))
        self.assertEqual(
            [each.peer for each in self.ledger.failures],
            ["192.0.2.3:1", "192.0.2.4:1", "192.0.2.9:1"],
        )
        self.assertIs(self.ledger.failures[0].explanation, SENTENCE)
        self.assertEqual(self.events, [])

    def test_silent(self) -> None:
        """Whoever says nothing is counted, and kept from hiding those who have failed."""
        for cause in (Cause.CLOSED_SILENT, Cause.RESET_SILENT):
            self.account.not_let_in(None, "192.0.2.9:1", attrs.evolve(SENTENCE, cause=cause), 1)
        self.assertEqual(self.account.results, {"closed_silent": 1, "reset_silent": 1})
        self.assertEqual(list(self.ledger.failures), [])

    def test_validation(self) -> None:
        """An authority that looks whether the name is ours wants a handshake and no more."""
        tls = layer()
        self.account.begun(tls)
        self.end(tls)
        self.assertEqual(self.account.results, {VALIDATION: 1})
        self.assertEqual((self.account.ends, self.events), ({}, []))

    def test_others(self) -> None:
        self.account.refused(Limit.CONNECTIONS)
        self.account.plain(object(), None)
        self.assertEqual(self.account.limits, {Limit.CONNECTIONS: 1})
        self.assertEqual(self.account.plain_count, 1)

    def test_plain_end(self) -> None:
        """What ends without TLS is a line too, where there are lines."""
        for peer, where in (
            (IPv4Address("TCP", "192.0.2.7", 5), "192.0.2.7:5"),
            (None, "unknown"),
        ):
            self.account.plain_ended(peer, 1.25, Failure(ConnectionDone()))
            self.assertEqual(
                formatEvent(self.events[-1]),
                f"{where} -> {self.account.name} plain, lasted 1.2 s: closed",
            )
        self.assertEqual(self.events[-1]["seconds"], 1.25)
        self.ledger.logs = False
        self.account.plain_ended(None, 1.25, Failure(ConnectionDone()))
        self.assertEqual(len(self.events), 2)

    def test_accounts(self) -> None:
        """A port has one account, and numbers are the process's."""
        other = self.ledger.account("--listen 9443")
        self.assertIs(self.ledger.account("--listen 9443"), other)
        self.let_in()
        other.begun(layer())
        self.assertEqual([each.number for each in self.ledger.connections()], [1, 2])
        self.assertEqual(self.ledger.open_count, 2)

    def test_close(self) -> None:
        """An operator drops one connection, and the log says that it was the operator."""
        one: Any = self.let_in(port=1)
        two: Any = self.let_in(port=2)
        self.assertTrue(self.ledger.close(2))
        self.assertEqual((one.aborted, two.aborted), (False, True))
        self.end(two, ConnectionAborted())
        self.assertFalse(self.ledger.close(2))
        self.assertEqual(self.account.ends, {End.OPERATOR: 1})
        self.assertTrue(formatEvent(self.events[0]).endswith(": closed by the operator"))

    def test_uptime(self) -> None:
        self.clock.advance(5)
        self.assertEqual((self.ledger.started, self.ledger.uptime), (1e9, 5.0))


class LatencyTests(LedgerCase):
    """How long the last handshakes took."""

    def test_quantiles(self) -> None:
        """The least value that so many do not exceed."""
        hundred = [float(number) for number in range(1, 101)]
        self.assertEqual((quantile(hundred, 0.5), quantile(hundred, 0.99)), (50.0, 99.0))
        self.assertEqual(quantile([1.0, 2.0, 3.0], 0.5), 2.0)
        self.assertEqual(quantile([7.0], 0.99), 7.0)
        self.assertIsNone(quantile([], 0.5))

    def test_latency(self) -> None:
        """Only those of the last seconds count, and only so many are kept."""
        self.let_in(attrs.evolve(USUAL, handshake_seconds=9.0))
        self.clock.advance(11)
        for number in (3, 1, 2):
            self.let_in(attrs.evolve(USUAL, handshake_seconds=float(number)))
        self.let_in(attrs.evolve(USUAL, handshake_seconds=None))
        self.assertEqual(self.ledger.latency(10), (2.0, 3.0))
        self.assertEqual(self.ledger.latency(12), (2.0, 9.0))
        self.clock.advance(11)
        self.assertEqual(self.ledger.latency(10), (None, None))
        for _ in range(2 * RECENT):
            self.let_in()
        self.assertEqual(len(self.ledger.recent), RECENT)

    def test_histogram(self) -> None:
        """A bound belongs to what is below it."""
        histogram = Histogram((0.1, 1.0))
        for seconds in (0.05, 0.1, 0.5, 7.0):
            histogram.add(seconds)
        self.assertEqual(histogram.cumulative(), [("0.1", 2.0), ("1.0", 3.0), ("+Inf", 4.0)])
        self.assertAlmostEqual(histogram.total, 7.65)

    def test_total(self) -> None:
        self.assertEqual(total([Counter(a=1), Counter(a=2, b=1)]), {"a": 3, "b": 1})


class LineTests(LedgerCase):
    """One line in the log for each connection."""

    def line(self, error: BaseException = CONNECTION_DONE, **facts: Any) -> str:
        """The line of a connection with these facts that ends for this reason."""
        tls = self.let_in(attrs.evolve(USUAL, **facts))
        self.clock.advance(3.2)
        self.end(tls, error)
        return formatEvent(self.events.pop())

    def test_text(self) -> None:
        self.assertEqual(
            self.line(resumed=True, peer_chain=(certificate(),), handshake_seconds=0.0123),
            "192.0.2.7:50000 -> --listen 8443 localhost TLSv1.3 X25519MLKEM768"
            " TLS_AES_128_GCM_SHA256 h2 resumed CN=alice 1234 in 5678 out handshake 0.012 s"
            " lasted 3.2 s: closed",
        )

    def test_less(self) -> None:
        """What there was not is left out."""
        self.assertEqual(
            self.line(server_name=None, group=None, alpn=None, handshake_seconds=None),
            "192.0.2.7:50000 -> --listen 8443 TLSv1.3 TLS_AES_128_GCM_SHA256 1234 in 5678 out"
            " lasted 3.2 s: closed",
        )

    def test_fields(self) -> None:
        """All of it is there as fields, which JSON has too."""
        tls = self.let_in()
        self.end(tls, TimeoutError("nothing came for 60 seconds"))
        told = json.loads(eventAsJSON(self.events[0]))
        for name, value in {
            "number": 1,
            "listener": "--listen 8443",
            "peer": "192.0.2.7:50000",
            "server_name": "localhost",
            "version": "TLSv1.3",
            "group": "X25519MLKEM768",
            "cipher": "TLS_AES_128_GCM_SHA256",
            "alpn": "h2",
            "resumed": False,
            "client": None,
            "received": 1234,
            "sent": 5678,
            "handshake_seconds": 0.00421,
            "end": "timeout",
            "why": "timeout: nothing came for 60 seconds",
        }.items():
            self.assertEqual(told[name], value, name)

    def test_ends(self) -> None:
        """Why it ended is told in a few words."""
        for error, why in (
            (ConnectionDone(), "closed"),
            (ConnectionLost(), "lost"),
            (ConnectionLost("reset by peer"), "lost: reset by peer"),
            (ConnectionAborted(), "aborted"),
            (TimeoutError("no close within 30 seconds"), "timeout: no close within 30 seconds"),
            (PeerError("the record is corrupt"), "broken: the record is corrupt"),
            (SSL.Error([]), "broken: []"),
            (NoProtocol(), "refused by the application: NoProtocol"),
            (ValueError("two\nlines"), r"refused by the application: two\nlines"),
        ):
            self.assertEqual(self.line(error).partition(" s: ")[2], why)

    def test_hostile(self) -> None:
        """A terminal is given nothing to obey, nor a log a second line."""
        line = self.line(
            server_name="evil\x1b[31m\n",
            alpn=b"h\x07\xff\n",
            peer_chain=(certificate("al\x1bice\n"),),
        )
        self.assertTrue(line.isprintable(), line)
        self.assertIn(r"evil\x1b[31m\n", line)

    def test_unreadable_certificate(self) -> None:
        class Certificate:
            @property
            def subject(self) -> Any:
                raise ValueError("no DER")

        self.assertIn("subject cannot be read", self.line(peer_chain=(Certificate(),)))

    def test_off(self) -> None:
        """There need be no lines."""
        self.ledger.logs = False
        self.end(self.let_in())
        self.assertEqual((self.events, self.account.ends), ([], {End.CLOSED: 1}))


class EndpointTests(PreambleCase):
    """A ledger that observes an endpoint."""

    def setUp(self) -> None:
        super().setUp()
        self.ledger = Ledger(self.clock)
        self.account: Account = self.ledger.account("port")
        self.events = noted(self)

    def test_let_in(self) -> None:
        self.serve(observer=self.account)
        application = self.visit()
        [connection] = self.ledger.connections()
        self.assertIs(connection.state, ConnectionState.OPEN)
        self.theirs.one.transport.write(bytes(5000))
        self.clock.settle()
        received, sent = self.account.traffic()
        self.assertGreater(sent, 5000)
        application.transport.loseConnection()
        self.clock.settle()
        self.assertEqual(self.ledger.open_count, 0)
        self.assertGreaterEqual(self.account.traffic()[0], received)
        [event] = self.events
        self.assertEqual((event["end"], event["sent"]), ("closed", self.account.traffic()[1]))
        self.assertEqual(event["server_name"], "www.example.org")

    def test_proxied(self) -> None:
        """Behind a proxy, a client is called by its own address."""
        before = PreambleOptions(proxies=networks("127.0.0.0/8"))
        self.serve(before, observer=self.account)
        application = self.visit(V1)
        [connection] = self.ledger.connections()
        self.assertEqual(connection.peer, "192.0.2.7:56324")
        application.transport.loseConnection()
        self.clock.settle()
        self.assertEqual(self.events[0]["peer"], "192.0.2.7:56324")

    def test_client(self) -> None:
        """A client's subject is told."""
        self.serve(observer=self.account, options=serving(client_authorities=ROOTS))
        self.visit(certificate=certified(client()))
        [connection] = self.ledger.connections()
        self.assertIn("CN=", connection.described(0)["client"])

    def test_resumed(self) -> None:
        """A resumption is told as one."""
        self.serve(observer=self.account)
        sessions = SessionStore()
        for _ in range(2):
            self.visit(sessions=sessions).transport.loseConnection()
            self.clock.settle()
        self.assertEqual([event["resumed"] for event in self.events], [False, True])
        self.assertEqual(sum(key[2] for key in self.account.negotiated), 1)

    def test_every_end(self) -> None:
        """However connections end, none is left, and each is counted once."""
        self.serve(PreambleOptions(plain=Plain.REFUSE), observer=self.account)
        self.visit().transport.loseConnection()
        self.clock.settle()
        self.visit().transport.abortConnection()
        self.clock.settle()
        self.visit()
        self.theirs.built[-1].transport.abortConnection()
        self.clock.settle()
        self.visit()
        self.assertTrue(self.ledger.close(4))
        self.clock.settle()
        self.raw().transport.loseConnection()
        self.raw(RECORD).transport.loseConnection()
        self.raw(b"GET / HTTP/1.1\r\n\r\n")
        self.clock.settle()
        self.raw()
        self.wait(10)
        self.assertEqual(self.ledger.open_count, 0)
        self.assertEqual(self.account.results[OK], 4)
        self.assertEqual(self.account.results.total(), 8)
        self.assertEqual(self.account.ends.total(), 4)
        self.assertEqual(self.account.ends[End.OPERATOR], 1)
        self.assertEqual(len(self.events), 4)
        self.assertLeftNothing()

    def test_refused(self) -> None:
        self.serve(observer=self.account, limits=Limits(connections=1))
        self.raw()
        self.raw()
        self.assertEqual(self.account.limits, {Limit.CONNECTIONS: 1})
