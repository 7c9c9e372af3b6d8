"""Tests for L{twisted_bioconn.trace.verdict}; those of real handshakes are in C{tests.peers}."""

from __future__ import annotations

from datetime import timedelta
from ssl import TLSVersion

import attrs
from twisted.internet.error import (
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
)

from tests.context_material import serving, visiting
from tests.tls_material import expired, stranger
from tests.trace.material import BEGAN, TracedCase, trace_of
from twisted_bioconn.explanations import Cause, Side
from twisted_bioconn.policy import INTERMEDIATE
from twisted_bioconn.starttls import StartTLSError
from twisted_bioconn.trace import Trace, Way
from twisted_bioconn.trace._callbacks import shows_messages
from twisted_bioconn.trace.events import Handshaken, Message
from twisted_bioconn.trace.verdict import Intent, Verdict, unreached, verdict_on

FACTS = {
    "version": "TLSv1.3",
    "cipher": "TLS_AES_128_GCM_SHA256",
    "group": "X25519MLKEM768",
    "ALPN": "none",
    "server name": "localhost",
    "resumed": False,
}
TICKET = Message(0.1, Way.RECEIVED, "NewSessionTicket", 4, 200)


def certificate(subject: str, issuer: str, **more: object) -> tuple[tuple[str, object], ...]:
    given: dict[str, object] = {
        "subject": subject,
        "names": (subject.removeprefix("CN="),),
        "issuer": issuer,
        "valid until": "2027-11-26 12:00:00 UTC",
        "signature": "ecdsa-with-SHA256, sha256",
        **more,
    }
    return tuple(given.items())


LEAF = certificate("CN=a", "CN=i")
MIDDLE = certificate("CN=i", "CN=root")
ROOT = certificate("CN=root", "CN=root")


def done(
    *chain: tuple[tuple[str, object], ...],
    length: int = 900,
    more: tuple[Message, ...] = (),
    **facts: object,
) -> Trace:
    """A handshake that was done, with this chain."""
    fields = (("certificates", len(chain)), ("chain", chain))
    message = Message(0.01, Way.RECEIVED, "Certificate", 11, length, fields)
    return trace_of(message, *more, TICKET, Handshaken(0.02, tuple({**FACTS, **facts}.items())))


class BetterTests(TracedCase):
    """What would be better."""

    def better(self, trace: Trace, **intent: object) -> str:
        verdict = verdict_on(trace, Intent(now=BEGAN, **intent))  # type: ignore[arg-type]
        self.assertEqual(verdict.good, intent.get("verifies", True))
        return " | ".join(verdict.better)

    def test_nothing(self) -> None:
        self.assertEqual(self.better(done(LEAF, MIDDLE)), "")

    def test_each(self) -> None:
        """Each of them, by itself."""
        retry = Message(
            0.0, Way.RECEIVED, "HelloRetryRequest", 2, 90, (("group asked for", "secp384r1"),)
        )
        soon = certificate("CN=a", "CN=i", **{"valid until": "2026-11-30 12:00:00 UTC"})
        old = certificate("CN=i", "CN=root", signature="sha1WithRSAEncryption, sha1")
        for trace, part in (
            (done(LEAF, version="TLSv1.2"), "TLS 1.3: the server has agreed to TLS 1.2"),
            (done(LEAF, group="X25519"), "X25519MLKEM768: the server has agreed to X25519"),
            (done(LEAF, more=(retry,)), "no hello retry: the server has asked for secp384r1"),
            (done(soon), "expires in 4 days, at 2026-11-30"),
            (done(LEAF, MIDDLE, ROOT), "a chain without its root, CN=root"),
            (done(LEAF, ROOT), "a chain in order: CN=root has not issued"),
            (done(LEAF, old), "a newer signature on CN=i than sha1"),
            (done(LEAF, length=9000), "a shorter chain: its 9000 bytes"),
        ):
            self.assertIn(part, self.better(trace))
        self.assertIn("ALPN", self.better(done(LEAF), alpn=(b"h2",)))
        self.assertIn("verification", self.better(done(LEAF), verifies=False))

    def test_no_tickets(self) -> None:
        trace = done(LEAF)
        trace.events.remove(TICKET)
        self.assertIn("session tickets", self.better(trace))

    def test_root_signature(self) -> None:
        """That of a root is nothing that anybody relies on."""
        root = certificate("CN=root", "CN=root", signature="sha1WithRSAEncryption, sha1")
        self.assertNotIn("newer signature", self.better(done(LEAF, MIDDLE, root)))


class GoodTests(TracedCase):
    """Handshakes that succeed, at both ends."""

    def test_both_ends(self) -> None:
        client, server = self.converse()
        verdict = verdict_on(client)
        self.assertTrue(verdict.good)
        self.assertEqual(
            verdict.sentence, "the handshake is done, and the server is who it should be"
        )
        agreed = dict(verdict.agreed)
        self.assertEqual((agreed["version"], agreed["session"]), ("TLS 1.3", "new"))
        if shows_messages():
            self.assertIn("certificate", agreed)
        self.assertEqual(
            verdict_on(server).sentence, "the handshake is done, and the client was let in"
        )


class FailedTests(TracedCase):
    """Handshakes that fail."""

    def verdict(self, trace: Trace) -> Verdict:
        verdict = verdict_on(trace, Intent(policy=INTERMEDIATE))
        self.assertFalse(verdict.good)
        self.assertTrue(verdict.advice)
        return verdict

    def test_expired(self) -> None:
        """Seen from the client, whose doing it is, and from the server."""
        client, server = self.converse(server=serving(expired()), data=b"")
        self.assertEqual(self.verdict(client).cause, Cause.SERVER_CERTIFICATE_EXPIRED)
        self.assertEqual(self.verdict(server).cause, Cause.ALERT_CERTIFICATE_EXPIRED)

    def test_unknown(self) -> None:
        client, _ = self.converse(server=serving(stranger()), data=b"")
        verdict = self.verdict(client)
        self.assertEqual(verdict.cause, Cause.SERVER_CERTIFICATE_UNKNOWN_AUTHORITY)
        assert verdict.explanation is not None
        self.assertIn(verdict.explanation.remedy, (Side.CLIENT, Side.SERVER))

    def test_versions(self) -> None:
        policy = attrs.evolve(INTERMEDIATE, maximum_version=TLSVersion.TLSv1_2)
        newer = attrs.evolve(INTERMEDIATE, minimum_version=TLSVersion.TLSv1_3)
        client, server = self.converse(visiting(policy=policy), serving(policy=newer), data=b"")
        self.assertEqual(self.verdict(client).cause, Cause.SERVER_VERSION)
        self.assertFalse(self.verdict(server).good)

    def test_unfinished(self) -> None:
        """A trace that just ends."""
        verdict = verdict_on(trace_of())
        self.assertFalse(verdict.good)

    def test_expiry_passed(self) -> None:
        """A certificate that has expired is not said to expire soon."""
        trace = done(LEAF)
        later = Intent(now=BEGAN + timedelta(days=4000))
        self.assertNotIn("lasts", " ".join(verdict_on(trace, later).better))


class UnreachedTests(TracedCase):
    """What it comes to where there was no connection."""

    def test_each(self) -> None:
        for error, part in (
            (ConnectionRefusedError(), "nobody answers at a:1: Connection was refused"),
            (DNSLookupError("x"), "there is no address for a:1"),
            (TimeoutError("no connection with TLS within 1 seconds"), "within 1 seconds"),
            (StartTLSError("smtp: no"), "a:1 has not begun with TLS: smtp: no"),
            (OSError("broken\n\x1b"), "there is no connection to a:1: broken"),
        ):
            verdict = unreached(error, "a:1")
            self.assertIn(part, verdict.sentence)
            self.assertTrue(verdict.sentence.isprintable())
            self.assertFalse(verdict.good)
