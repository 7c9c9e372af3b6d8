"""Every method may be called in every phase, in any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.protocol_material import (
    STOCK,
    App,
    HalfApp,
    Link,
    ListeningApp,
    ProtocolCase,
    on_every_engine,
)
from tests.test_protocol_closing import Producer
from twisted_bioconn.errors import UsageError

CALLS: dict[str, Callable[[Any], object]] = {
    "write": lambda tls: tls.write(b"x"),
    "write much": lambda tls: tls.write(bytes(70_000)),
    "writeSequence": lambda tls: tls.writeSequence([b"x", b"y"]),
    "flush": lambda tls: tls.flush(),
    "pauseProducing": lambda tls: tls.pauseProducing(),
    "resumeProducing": lambda tls: tls.resumeProducing(),
    "unregisterProducer": lambda tls: tls.unregisterProducer(),
    "getHandle": lambda tls: tls.getHandle(),
    "getPeerCertificate": lambda tls: tls.getPeerCertificate(),
    "negotiatedProtocol": lambda tls: tls.negotiatedProtocol,
    "negotiated": lambda tls: tls.negotiated,
    "whenHandshakeDone": lambda tls: tls.whenHandshakeDone().addErrback(lambda _: None),
    "disconnecting": lambda tls: tls.disconnecting,
    "logPrefix": lambda tls: tls.logPrefix(),
    "dataReceived": lambda tls: tls.dataReceived(b""),
    "writeConnectionLost": lambda tls: tls.writeConnectionLost(),
}
"""What may be called at any time, any number of times, and ends nothing."""

PRODUCE: dict[str, Callable[[Any], object]] = {
    "registerProducer": lambda tls: tls.registerProducer(Producer(tls), True),
}

ENDS: dict[str, Callable[[Any], object]] = {
    "loseWriteConnection": lambda tls: tls.loseWriteConnection(),
    "loseConnection": lambda tls: tls.loseConnection(),
    "stopProducing": lambda tls: tls.stopProducing(),
    "stopConsuming": lambda tls: tls.stopConsuming(),
    "readConnectionLost": lambda tls: tls.readConnectionLost(),
    "abortConnection": lambda tls: tls.abortConnection(),
    "failVerification": lambda tls: tls.failVerification(Failure(ConnectionLost())),
    "transport lost": lambda tls: (
        tls.transport and tls.transport.connectionLost(Failure(ConnectionDone()))
    ),
}
"""What may be called at any time and ends the connection, or a part of it."""

OURS_ALONE = {
    "flush",
    "negotiated",
    "whenHandshakeDone",
    "readConnectionLost",
    "writeConnectionLost",
}
"""What Twisted's own class has not."""


@on_every_engine
class PhaseTests(ProtocolCase):
    """Every method may be called in every phase, and raises nothing."""

    def phases(self) -> dict[str, Link]:
        """A connection in each of its phases."""
        links = {"new": self.link(begin=False), "before the handshake": self.link(begin=False)}
        links["before the handshake"].transport.begin()
        links["in mid-handshake"] = self.link(client=True, begin=False)
        links["in mid-handshake"].transport.begin()
        links["in mid-handshake"].wire.begin()
        links["in mid-handshake"].transport.doWrite()
        links["in mid-handshake"].wire.doRead()
        links["open"] = self.link(HalfApp(), answers=False)
        for name, call in (
            ("paused", CALLS["pauseProducing"]),
            ("producing", PRODUCE["registerProducer"]),
            ("half-closed", ENDS["loseWriteConnection"]),
            ("closing", ENDS["loseConnection"]),
            ("aborted", ENDS["abortConnection"]),
            ("lost", ENDS["transport lost"]),
        ):
            links[name] = self.link(HalfApp(), answers=False)
            call(links[name].tls)
        links["ending"] = self.link(begin=False)
        links["ending"].transport.begin()
        links["ending"].tls.write(b"early")
        links["ending"].tls.loseConnection()
        links["half-closed by the peer"] = self.link(HalfApp(), answers=False)
        links["half-closed by the peer"].peer.close()
        links["half-closed by the peer"].settle()
        return links

    def calls(self, table: dict[str, Callable[[Any], object]]) -> list[Callable[[Any], object]]:
        """Those calls that the class under test has."""
        left_out = OURS_ALONE if self.factory_class is STOCK else set()
        return [call for name, call in table.items() if name not in left_out]

    def test_every_call(self) -> None:
        """Those that end nothing, twice, one after the other."""
        calls = self.calls(CALLS)
        for link in self.phases().values():
            for call in (*calls, *calls, *PRODUCE.values(), *calls, *calls):
                call(link.tls)

    def test_every_end(self) -> None:
        """Those that end it, and whatever comes after."""
        calls, ends = self.calls(CALLS), self.calls(ENDS)
        for end in ends:
            for link in self.phases().values():
                for call in (end, *calls, end, *ends):
                    call(link.tls)
                self.assertLessEqual(len(link.app.reasons), 1)
                self.clock.removeReader(link.transport)
                self.clock.removeWriter(link.transport)

    def test_usage_errors(self) -> None:
        """Those that are told off where they make no sense are told off by C{UsageError} alone."""
        for link in self.phases().values():
            for call in (
                link.tls.startHandshake,
                link.tls.channelBinding,
                lambda link=link: link.tls.exportKeyingMaterial(b"EXPORTER-test", 8),
            ):
                try:
                    call()
                except UsageError as error:
                    self.assertTrue(str(error))

    def test_disconnecting(self) -> None:
        """C{disconnecting} says whether it is closed or is going to be."""
        expected = {"closing", "ending", "aborted", "lost"}
        found = {name for name, link in self.phases().items() if link.tls.disconnecting}
        self.assertEqual(found, expected)


STEPS = st.lists(
    st.sampled_from(
        [
            *CALLS,
            *PRODUCE,
            *(name for name in ENDS if name != "transport lost"),
            "settle",
            "time",
            "peer sends",
            "peer closes",
            "peer ends",
            "peer resets",
        ]
    ),
    max_size=14,
)


class AnyOrderTests(SynchronousTestCase):
    """Whatever is called in whatever order, the connection ends once and leaves nothing."""

    def link(self, app: App, **kinds: Any) -> tuple[ProtocolCase, Link]:
        case = ProtocolCase()
        case.setUp()
        return case, case.link(app, **kinds)

    @settings(max_examples=6000, database=None, deadline=None)
    @given(STEPS, st.booleans(), st.booleans(), st.sampled_from([App, HalfApp, ListeningApp]))
    def test_any_order(
        self, steps: list[str], client: bool, early: bool, app_class: type[App]
    ) -> None:
        """Random calls of the application's and random acts of the peer's."""
        case, link = self.link(
            app_class(), client=client, answers=False, settle=not early, capacity=100_000
        )
        for step in steps:
            if step == "settle":
                link.settle()
            elif step == "time":
                link.wait(2)
            elif step.startswith("peer"):
                self.act(link, step)
            else:
                try:
                    (CALLS | PRODUCE | ENDS)[step](link.tls)
                except RuntimeError as error:
                    self.assertIn("was never unregistered", str(error))
        link.settle()
        link.tls.unregisterProducer()
        link.tls.loseConnection()
        link.wait(100, step=5)
        self.assertEqual(len(link.app.reasons), 1)
        self.assertEqual(link.app.did.count("lost"), 1)
        self.assertEqual(link.app.did[-1], "lost")
        for once in ("made", "handshake", "read lost", "write lost"):
            self.assertLessEqual(link.app.did.count(once), 1)
        self.assertEqual(self.flushLoggedErrors(), [])
        case.assertLeftNothing()
        self.assertEqual(link.factory.protocols, {})

    @settings(max_examples=6000, database=None, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.sampled_from(["write", "peer sends"]), st.integers(1, 90_000)),
                st.tuples(st.sampled_from(["pause", "resume", "turn", "flush"]), st.just(0)),
            ),
            max_size=20,
        ),
        st.sampled_from(["lose", "lose write", "peer closes", "producer ends"]),
        st.booleans(),
        st.booleans(),
        st.integers(200, 100_000),
        st.sampled_from([App, HalfApp]),
    )
    def test_any_bytes(
        self,
        steps: list[tuple[str, int]],
        end: str,
        client: bool,
        early: bool,
        capacity: int,
        app_class: type[App],
    ) -> None:
        """
        Whatever is written when, and however it ends, the same bytes come out at the other end;
        and so they do here, for an application that does not close while it has paused.
        """
        case, link = self.link(app_class(), client=client, settle=not early, capacity=capacity)
        tls, peer = link.tls, link.peer
        if end == "producer ends":
            tls.registerProducer(Producer(tls), True)
        ours, theirs, paused = bytearray(), bytearray(), False
        for number, (step, size) in enumerate(steps):
            data = bytes([number]) * size
            if step == "write":
                tls.write(data)
                ours += data
            elif step == "peer sends" and peer.open:
                peer.send(data)
                theirs += data
            elif step in ("pause", "resume"):
                paused = step == "pause"
                getattr(tls, f"{step}Producing")()
            elif step == "turn":
                self.assertTrue(theirs.startswith(link.app.received))
                link.clock.turn()
            elif step == "flush":
                tls.flush()
        if end in ("lose", "producer ends") and tls.negotiated is None:
            tls.write(b"end")
            ours += b"end"
        if end == "peer closes" or (end == "lose write" and paused):
            # Nothing happens to who has paused, be it for ever.
            tls.resumeProducing()
            paused = False
        if end == "peer closes":
            link.settle()
            peer.close()
        elif end == "lose write":
            tls.loseWriteConnection()
        else:
            tls.loseConnection()
            tls.unregisterProducer()
        link.wait(1)
        if end == "peer closes" and isinstance(link.app, HalfApp):
            tls.loseConnection()
        link.wait(40, step=5)
        self.assertEqual(peer.received, ours)
        self.assertTrue(peer.closed)
        if not paused:
            self.assertEqual(link.app.received, theirs)
        self.assertEqual(link.app.reason.type, ConnectionDone)
        case.assertLeftNothing()

    def act(self, link: Link, step: str) -> None:
        """Something that the peer does, if it still can."""
        peer, wire = link.peer, link.wire
        if not wire.connected:
            return
        if step == "peer ends":
            wire.loseWriteConnection()
        elif step == "peer resets":
            wire.abortConnection()
        elif peer.open and not peer.closing:
            if step == "peer sends":
                peer.send(b"data")
            else:
                peer.close()
