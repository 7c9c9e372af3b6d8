"""Tests for L{twisted_bioconn.trace}: two ends in memory, on both engines."""

from __future__ import annotations

import gc
from ssl import TLSVersion
from typing import Any
from unittest import mock
from weakref import ref

import attrs
from OpenSSL import SSL

from tests.context_material import ROOTS, certified, serving, visiting
from tests.endpoint_material import Applications
from tests.engines import on_both_engines
from tests.tls_material import HOST, expired
from tests.tls_material import client as visitor
from tests.trace.material import TracedCase, names, of
from twisted_bioconn.alerts import alert_record
from twisted_bioconn.connector import Connector
from twisted_bioconn.errors import PeerError
from twisted_bioconn.policy import INTERMEDIATE, MODERN
from twisted_bioconn.protocol import TLSConnectorProtocol
from twisted_bioconn.trace import Trace, Tracer, Way, _callbacks
from twisted_bioconn.trace._callbacks import shows_messages
from twisted_bioconn.trace.events import (
    Alert,
    Bytes,
    ChangeCipherSpec,
    Ended,
    Event,
    Handshaken,
    Judged,
    LeftOut,
    NotShown,
    Read,
    Record,
    Secret,
    Transition,
    VerificationStep,
    Waited,
    Written,
)
from twisted_bioconn.trace.layer import TracedConnector
from twisted_bioconn.trace.recorder import PAST_LIMIT, Recorder, TracerLimits

TLS12 = attrs.evolve(INTERMEDIATE, maximum_version=TLSVersion.TLSv1_2)

WHOLE_13 = [
    "ClientHello",
    "ServerHello",
    "EncryptedExtensions",
    "Certificate",
    "CertificateVerify",
    "Finished",
    "Finished",
    "NewSessionTicket",
    "NewSessionTicket",
]
WHOLE_12 = [
    "ClientHello",
    "ServerHello",
    "Certificate",
    "ServerKeyExchange",
    "ServerHelloDone",
    "ClientKeyExchange",
    "Finished",
    "NewSessionTicket",
    "Finished",
]


@on_both_engines
class HandshakeTests(TracedCase):
    """What is seen of a handshake."""

    def visible(self, messages: list[str], clear: int) -> list[str]:
        """Messages, as far as an engine shows them: in the clear are so many."""
        return messages if shows_messages() else messages[:clear]

    def test_tls13(self) -> None:
        for trace in self.converse():
            self.assertEqual(names(trace), self.visible(WHOLE_13, 2))
            hello = trace.message("ClientHello")
            chosen = trace.message("ServerHello")
            assert hello is not None and chosen is not None
            self.assertEqual(hello.get("versions"), ("TLS 1.3", "TLS 1.2"))
            self.assertEqual(chosen.get("version"), "TLS 1.3")
            self.assertIn(chosen.get("cipher"), hello.get("ciphers"))
            self.assertEqual(hello.get("server name"), HOST)

    def test_tls12(self) -> None:
        client, server = self.converse(visiting(policy=TLS12))
        # Of what comes after it, the key exchange and the ticket are in the clear.
        clear = [each for each in WHOLE_12 if each != "Finished"]
        for trace in (client, server):
            self.assertEqual(names(trace), WHOLE_12 if shows_messages() else clear)
            chain = trace.message("Certificate")
            assert chain is not None
            self.assertEqual(chain.get("certificates"), 1)
            for way in Way:
                found = [each for each in of(trace, ChangeCipherSpec) if each.way is way]
                self.assertEqual(len(found), 1)
            encrypted = [each for each in of(trace, Record) if each.encrypted]
            self.assertEqual(encrypted[0].kind, "handshake")

    def test_says_what_is_not_shown(self) -> None:
        for trace in self.converse():
            found = [each for each in of(trace, NotShown) if "public API" in each.why]
            self.assertEqual(len(found), 0 if shows_messages() else 1)

    def test_states(self) -> None:
        """The states of the connector, and the end."""
        client, server = self.converse()
        steps = [each.step for each in of(client, Transition)]
        self.assertEqual(
            steps,
            [
                "the handshake begins",
                "the handshake is done",
                "our close_notify is written",
                "the peer's close_notify is read",
            ],
        )
        self.assertEqual(of(server, Transition)[-1].after, "closed both ways")
        for trace in (client, server):
            self.assertEqual([each.clean for each in of(trace, Ended)], [True])
            [done] = of(trace, Handshaken)
            self.assertEqual(dict(done.fields)["version"], "TLSv1.3")

    def test_alerts(self) -> None:
        """Both close_notify alerts are seen, encrypted as they are."""
        for trace in self.converse():
            alerts = {(each.way, each.name, each.fatal) for each in of(trace, Alert)}
            self.assertEqual(
                alerts,
                {(Way.SENT, "close_notify", False), (Way.RECEIVED, "close_notify", False)},
            )

    def test_bytes_and_records(self) -> None:
        """All bytes are counted at both ends, and all are in records."""
        client, server = self.converse()
        self.assertEqual((client.sent, client.received), (server.received, server.sent))
        for trace in (client, server):
            for way, total in ((Way.SENT, trace.sent), (Way.RECEIVED, trace.received)):
                sizes = sum(each.size for each in of(trace, Bytes) if each.way is way)
                records = sum(each.length + 5 for each in of(trace, Record) if each.way is way)
                self.assertEqual((sizes, records), (total, total))
            self.assertTrue(of(trace, Waited))

    def test_plaintext_is_counted(self) -> None:
        """What was read and written is told of by its size."""
        client, server = self.converse(data=b"x" * 40000)
        self.assertEqual(sum(each.size for each in of(client, Written)), 40000)
        self.assertEqual(sum(each.size for each in of(server, Read)), 40000)
        for trace in (client, server):
            for each in of(trace, Read) + of(trace, Written):
                self.assertIsNone(each.plaintext)

    def test_nothing_secret(self) -> None:
        """No key, no plaintext, no ticket and no Finished is in a trace that was not to have it."""
        for trace in self.converse(data=b"a secret of mine", settings={"keeps_bytes": True}):
            self.assertEqual(of(trace, Secret), [])
            told = repr(trace.events)
            self.assertNotIn("a secret of mine", told)
            for each in trace.messages:
                if each.name in ("Finished", "NewSessionTicket"):
                    self.assertRegex(repr(each.fields), r"'\d+ bytes'")
                    self.assertNotIn("\\x", repr(each.fields))

    def test_unsafe(self) -> None:
        """Where it is asked for, keys and plaintext are there."""
        settings = {"unsafe_secrets": True, "unsafe_plaintext": True}
        client, server = self.converse(data=b"not a secret", settings=settings)
        self.assertEqual([each.plaintext for each in of(client, Written)], [b"not a secret"])
        self.assertEqual([each.plaintext for each in of(server, Read)], [b"not a secret"])
        lines = {each.line for each in of(client, Secret)}
        self.assertEqual(lines, {each.line for each in of(server, Secret)})
        self.assertEqual(
            {line.split()[0] for line in lines} & {"CLIENT_TRAFFIC_SECRET_0"},
            {"CLIENT_TRAFFIC_SECRET_0"},
        )

    def test_keys_of_another(self) -> None:
        """A context with whose connections one was traced logs no keys of those that are not."""
        options, server = visiting(), serving()
        self.converse(options, server, settings={"unsafe_secrets": True})
        client, _ = self.converse(options, server)
        self.assertEqual(of(client, Secret), [])

    def test_verification(self) -> None:
        """Each certificate that OpenSSL looks at, and the verdict."""
        client, server = self.converse()
        steps = of(client, VerificationStep)
        self.assertEqual([(each.depth, each.good) for each in steps], [(1, True), (0, True)])
        self.assertEqual([each.accepted for each in of(client, Judged)], [True])
        self.assertEqual(of(server, Judged), [])

    def test_refused(self) -> None:
        """The certificate that is refused is known, and the alert is seen at both ends."""
        party = expired()
        client, server = self.converse(server=serving(party), data=b"")
        [judged] = of(client, Judged)
        self.assertFalse(judged.accepted)
        self.assertIn("expired", judged.sentence)
        self.assertEqual(client.refused, (party.certificate,))
        self.assertIsInstance(client.error, BaseException)
        [alert] = [each for each in of(server, Alert) if each.fatal]
        self.assertIs(alert.way, Way.RECEIVED)

    def test_resumption(self) -> None:
        """The second handshake resumes, and its peer is looked at again where that is needed."""
        options, server = visiting(), serving()
        self.converse(options, server)
        for trace in self.converse(options, server):
            [done] = of(trace, Handshaken)
            self.assertTrue(dict(done.fields)["resumed"])
            hello, chosen = trace.message("ClientHello"), trace.message("ServerHello")
            assert hello is not None and chosen is not None
            self.assertIn("ticket", str(hello.get("resumption")))
            self.assertEqual(chosen.get("resumes"), "offer 1")

    def test_retry(self) -> None:
        """A group of which the hello has no share."""
        server = serving(policy=attrs.evolve(MODERN, groups=("secp384r1",)))
        if not shows_messages():
            # It cannot be told which groups it has.
            return
        for trace in self.converse(server=server):
            self.assertEqual(names(trace)[:3], ["ClientHello", "HelloRetryRequest", "ClientHello"])
            retry = trace.message("HelloRetryRequest")
            assert retry is not None
            self.assertEqual(retry.get("group asked for"), "secp384r1")

    def test_client_certificate(self) -> None:
        """It is asked for, shown, and verified by the server."""
        server = serving(client_authorities=ROOTS)
        _, trace = self.converse(visiting(certificate=certified(visitor())), server)
        self.assertEqual([each.accepted for each in of(trace, Judged)], [True])
        if shows_messages():
            request = trace.message("CertificateRequest")
            assert request is not None
            self.assertTrue(request.get("authorities"))


@on_both_engines
class OtherConnectionsTests(TracedCase):
    """What is not traced is left as it was."""

    def test_same_context(self) -> None:
        """A connection of a context from which a traced one was made tells nobody anything."""
        options, server = visiting(), serving()
        self.converse(options, server)
        self.traces.clear()
        with mock.patch.object(Recorder, "add") as add:
            self.listen(Applications(), server)
            connecting = self.client_endpoint(options).connect(Applications())
            self.meet()
            application: Any = self.successResultOf(connecting)
        add.assert_not_called()
        transport: Any = application.transport
        self.assertIs(type(transport), TLSConnectorProtocol)
        self.assertIs(type(transport._link.connector), Connector)
        self.assertIs(type(transport._link.connector._engine).__module__.count("trace"), 0)
        self.assertEqual(self.traces, [])

    def test_own_callback(self) -> None:
        """An info callback of somebody else's is called on."""
        called = []
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_info_callback(lambda *_: called.append(1))
        connection = _callbacks.new_connection(context)
        connection.set_connect_state()
        with self.assertRaises(SSL.WantReadError):
            connection.do_handshake()
        self.assertTrue(called)

    def test_tracer_fails(self) -> None:
        """Whoever takes the traces may fail: the connection does not."""

        def fail(trace: Trace) -> None:
            raise ValueError("no room")

        self.listen(Applications(), tracer=Tracer(fail))
        visitors = Applications()
        connecting = self.client_endpoint(None).connect(visitors)
        self.meet()
        self.successResultOf(connecting)
        visitors.one.transport.loseConnection()
        self.clock.settle()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_each_fails(self) -> None:
        """Whoever is told each event may fail as well."""

        def fail(trace: Trace, event: Event) -> None:
            raise ValueError("no room")

        client, _ = self.converse(settings={"each": fail})
        self.assertTrue(client.is_done)
        self.assertGreater(len(self.flushLoggedErrors(ValueError)), 10)

    def test_foreign_context(self) -> None:
        """A connection that somebody else has made is traced by its records, and says so."""
        recorder = Recorder(True)
        recorder.hides_messages()
        [told] = of(recorder.trace, NotShown)
        self.assertIn("context of the program's own", told.why)


class CycleTests(TracedCase):
    """Nothing of a traced connection waits for the collector of cycles."""

    def test_no_cycle(self) -> None:
        made: list[ref[Recorder]] = []
        begin = Tracer.begin

        def beginning(tracer: Tracer, *arguments: Any) -> Recorder:
            recorder = begin(tracer, *arguments)
            made.append(ref(recorder))
            return recorder

        self.patch(Tracer, "begin", beginning)
        gc.disable()
        self.addCleanup(gc.enable)
        self.converse(settings={"keeps_bytes": True})
        self.traces.clear()
        self.assertEqual([each() for each in made], [None, None])


@on_both_engines
class ConnectorTests(TracedCase):
    """The connector alone."""

    def test_refuses(self) -> None:
        """An alert that no engine has made."""
        recorder = Recorder(False)
        connector = TracedConnector(recorder, None, False)
        connector.feed(b"\x16\x03\x01\x00\x01")
        with self.assertRaises(PeerError):
            connector.refuse("unrecognized_name", "there is none")
        self.assertEqual(connector.take(), alert_record("unrecognized_name"))
        [alert] = of(recorder.trace, Alert)
        self.assertEqual((alert.name, alert.fatal), ("unrecognized_name", True))
        self.assertEqual((recorder.trace.received, recorder.trace.sent), (5, 7))

    def test_refuses_in_silence(self) -> None:
        recorder = Recorder(False)
        with self.assertRaises(PeerError):
            TracedConnector(recorder, None, False).refuse(None, "no reason")
        self.assertEqual(recorder.trace.sent, 0)


class EachTests(TracedCase):
    """Events that are told when they happen."""

    def test_as_they_happen(self) -> None:
        """All of them are, in their order, with the trace that they are of."""
        told: list[tuple[Trace, Event]] = []
        ends = self.converse(settings={"each": lambda *each: told.append(each)})
        for trace in ends:
            self.assertEqual([event for one, event in told if one is trace], trace.events)

    def test_connector(self) -> None:
        """A connector with no protocol is traced too, its encrypted messages among the rest."""
        told: list[Event] = []
        tracer = Tracer(lambda trace: None, each=lambda trace, event: told.append(event))
        ours = tracer.client_connector(visiting(), "here", "there")
        theirs = Connector(serving().serverConnectionForTLS(None), is_client=False)
        ours.start_handshake()
        for _ in range(4):
            theirs.feed(ours.take())
            theirs.read()
            ours.feed(theirs.take())
            ours.read()
        self.assertEqual((ours.recorder.trace.local, ours.recorder.trace.peer), ("here", "there"))
        self.assertEqual(told, ours.recorder.trace.events)
        self.assertTrue(ours.recorder.trace.is_done)
        if shows_messages():
            self.assertIn("EncryptedExtensions", names(ours.recorder.trace))


class LimitTests(TracedCase):
    """However much there is, so much is kept and no more."""

    def test_events(self) -> None:
        client, server = self.converse(settings={"limits": TracerLimits(events=10)})
        for trace in (client, server):
            self.assertLess(len(trace.events), 20)
            self.assertEqual(len(of(trace, LeftOut)), 1)
            self.assertGreater(trace.left_out, 5)
            # How it ended is always told.
            self.assertEqual(len(of(trace, Ended)), 1)

    def test_alerts_without_end(self) -> None:
        """What comes of a connection is told beyond the limit, but not any number of times."""
        recorder = Recorder(False, limits=TracerLimits(events=10))
        for _ in range(100):
            recorder.alert(False, 1, 100)
        recorder.ended(True, None, "both sides have closed")
        self.assertEqual(len(of(recorder.trace, Alert)), 10 + PAST_LIMIT - 1)
        self.assertEqual(recorder.trace.left_out, 100 - 10 - PAST_LIMIT + 1)
        self.assertEqual(len(of(recorder.trace, Ended)), 1)

    def test_bytes(self) -> None:
        settings = {
            "limits": TracerLimits(octets=50000),
            "keeps_bytes": True,
            "unsafe_plaintext": True,
        }
        client, _ = self.converse(data=b"x" * 200000, settings=settings)
        kept = [each.data for each in of(client, Bytes)] + [
            each.plaintext for each in of(client, Written)
        ]
        self.assertLessEqual(sum(len(each or b"") for each in kept), 50000)
        self.assertEqual(len(of(client, LeftOut)), 1)
        self.assertGreater(client.sent, 200000)
