"""Tests for what a trace becomes: text, JSON, the log, a page, a capture file."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from struct import unpack_from
from typing import Any
from xml.etree import ElementTree

import attrs
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.server.browser import Browser
from tests.server.contrast import contrast
from tests.trace.material import BEGAN, HOSTILE, TracedCase, trace_of
from twisted_bioconn.trace import Trace, Way, html, jsonlines, pcapng
from twisted_bioconn.trace.events import (
    Alert,
    Bytes,
    ChangeCipherSpec,
    Connected,
    Ended,
    Event,
    Handshaken,
    Judged,
    Message,
    NotShown,
    Read,
    Record,
    Secret,
    VerificationStep,
    Waited,
    Worked,
    Written,
)
from twisted_bioconn.trace.log import log_trace
from twisted_bioconn.trace.text import (
    Style,
    style_for,
    told_in_a_line,
    trace_as_text,
    verdict_as_text,
)
from twisted_bioconn.trace.verdict import Verdict

HELLO = Message(
    0.001, Way.SENT, "ClientHello", 1, 200, (("server name", "localhost"), ("ALPN", ("h2", "x")))
)
CHAIN = (
    ("certificates", 1),
    ("chain", ((("subject", HOSTILE), ("names", (HOSTILE, "b.example")), ("bytes", 99)),)),
)
EVENTS: tuple[Event, ...] = (
    Connected(0.0, "192.0.2.1:50000", "192.0.2.7:443"),
    Worked(0.001, 0.0005),
    HELLO,
    Bytes(0.001, Way.SENT, 205, b"\x16\x03\x01\x00\xc8" + bytes(200)),
    Record(0.001, Way.SENT, "handshake", "0x0301", 200, False),
    Waited(0.005, "for the peer", 0.004),
    Bytes(0.005, Way.RECEIVED, 105, b"\x16\x03\x03\x00\x64" + bytes(100)),
    Record(0.005, Way.RECEIVED, "handshake", "0x0303", 100, False),
    Message(0.0051, Way.RECEIVED, "Certificate", 11, 100, CHAIN),
    VerificationStep(0.0052, 0, HOSTILE, False, 20, "its issuer is not trusted"),
    Judged(0.0053, False, HOSTILE),
    Alert(0.0054, Way.SENT, True, "unknown_ca", "tells the peer why the connection ends"),
    NotShown(0.0055, "nothing"),
    Ended(0.006, False, HOSTILE),
)
BAD = Verdict(
    False,
    f"it was {HOSTILE}",
    (("server name", HOSTILE),),
    (HOSTILE,),
)
GOOD = Verdict(True, "the handshake is done", (("version", "TLS 1.3"),), ("a longer life",))


class Terminal(StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


class TextTests(SynchronousTestCase):
    """Text for a terminal."""

    def lines(self, trace: Trace, style: Style | None = None, everything: bool = False) -> str:
        return "\n".join(trace_as_text(trace, style, everything))

    def test_aligned(self) -> None:
        """Times, arrows and what is told stand below each other, in lines of a width."""
        said = self.lines(trace_of(*EVENTS), Style(width=60))
        self.assertIn("      1.0 ms  ──▶ ClientHello, 200 bytes", said)
        self.assertIn("      5.1 ms  ◀── Certificate, 100 bytes", said)
        self.assertIn("      1.0 ms      205 bytes sent", said)
        for line in said.splitlines():
            self.assertLessEqual(len(line), 60, line)
        columns = {match.start() for match in re.finditer("(?m)(?<=^.{13}[ ]).{3} ", said)}
        self.assertTrue(columns)

    def test_everything(self) -> None:
        """Records and the like are there where they are asked for."""
        trace = trace_of(*EVENTS)
        self.assertNotIn("record handshake", self.lines(trace))
        self.assertIn("record handshake, 200 bytes", self.lines(trace, everything=True))

    def test_hostile(self) -> None:
        """Nothing in it is obeyed by a terminal."""
        for verdict in (BAD, GOOD):
            said = [*trace_as_text(trace_of(*EVENTS), None, True), *verdict_as_text(verdict)]
            for line in said:
                self.assertTrue(line.isprintable(), line)
        self.assertIn("\\x1b[31m", "\n".join(said) + self.lines(trace_of(*EVENTS)))

    def test_ascii(self) -> None:
        """A terminal that has no more than ASCII gets no more."""
        said = self.lines(trace_of(*EVENTS), Style(is_plain=True))
        self.assertTrue(said.isascii())
        self.assertIn("--> ClientHello", said)

    def test_colour(self) -> None:
        """There is colour where it is a terminal, and nobody has asked for none."""
        self.assertTrue(style_for(Terminal(), {}).colour)
        for stream, environ in (
            (StringIO(), {}),
            (Terminal(), {"NO_COLOR": "1"}),
            (Terminal(), {"TERM": "dumb"}),
        ):
            self.assertFalse(style_for(stream, environ).colour)
        # An empty one is none: https://no-color.org/.
        self.assertTrue(style_for(Terminal(), {"NO_COLOR": ""}).colour)
        said = self.lines(trace_of(*EVENTS), Style(colour=True))
        self.assertIn("\x1b[36mClientHello", said)
        plain = re.sub("\x1b\\[[0-9;]*m", "", said)
        self.assertEqual(plain, self.lines(trace_of(*EVENTS)))

    def test_every_event(self) -> None:
        """Each kind of event has its words."""
        kinds = Event.__subclasses__()
        self.assertGreater(len(kinds), 15)
        for kind in kinds:
            values: Any = [0.0]
            for field in attrs.fields(kind)[1:]:
                values.append(
                    {"Way": Way.SENT, "int": 1, "float": 1.0, "bool": True}.get(
                        str(field.type), () if field.type == "Fields" else None
                    )
                )
                if values[-1] is None and "bytes" not in str(field.type):
                    values[-1] = "text"
            told = told_in_a_line(kind(*values))
            self.assertTrue(told != kind.__name__ or kind is ChangeCipherSpec, told)

    def test_left_out(self) -> None:
        self.assertIn("12 more events are left out", self.lines(trace_of(HELLO, left_out=12)))

    def test_plaintext(self) -> None:
        """It is shown where there is some."""
        said = self.lines(trace_of(Read(0, 3, b"a\x1bb"), Written(0, 5)))
        self.assertIn("3 bytes of plaintext read: a\\x1bb", said)
        self.assertIn("5 bytes of plaintext written\n", said + "\n")


class JSONTests(SynchronousTestCase):
    """A JSON object a line."""

    def test_lines(self) -> None:
        told = [json.loads(each) for each in jsonlines.lines(trace_of(*EVENTS), BAD)]
        self.assertEqual(len(told), len(EVENTS) + 2)
        self.assertEqual(told[0]["role"], "client")
        self.assertEqual(told[3]["fields"], {"server name": "localhost", "ALPN": ["h2", "x"]})
        self.assertEqual(told[3]["time"], "2026-11-26T12:00:00.001000+00:00")
        self.assertEqual(told[4]["data"][:10], "16030100c8")
        chain = told[9]["fields"]["chain"]
        self.assertEqual(chain[0]["names"], [HOSTILE, "b.example"])
        self.assertEqual((told[-1]["event"], told[-1]["good"]), ("Verdict", False))

    def test_one_line_each(self) -> None:
        for each in jsonlines.lines(trace_of(*EVENTS), BAD):
            self.assertEqual(each.count("\n"), 1)
            self.assertTrue(each.isascii())


class LogTests(SynchronousTestCase):
    """C{twisted.logger}."""

    def test_log(self) -> None:
        """Each event at its level; and nothing that is a secret, whatever the trace has."""
        told: list[LogEvent] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            told.append(event)

        log = Logger("test", observer=observe)
        secret = Secret(0.0, "CLIENT_RANDOM aa bb")
        read = Read(0.0, 6, b"secret")
        log_trace(trace_of(*EVENTS, secret, read), BAD, log)
        self.assertEqual(len(told), len(EVENTS) + 2)
        levels = [each["log_level"] for each in told]
        self.assertEqual(levels.count(LogLevel.info), 3)
        self.assertEqual(told[2]["tls"]["name"], "ClientHello")
        said = "\n".join(map(formatEvent, told)) + repr([each.get("tls") for each in told])
        self.assertNotIn("CLIENT_RANDOM", said)
        self.assertNotIn(b"secret".hex(), said)
        self.assertNotIn(": secret", said)


class PageTests(SynchronousTestCase):
    """The page, as it is written."""

    def page(self, *events: Event, verdict: Verdict = BAD, **more: Any) -> str:
        trace = trace_of(*(events or EVENTS), **more)
        return html.page([trace], verdict, HOSTILE).decode()

    def test_well_formed(self) -> None:
        """It is well-formed, so that nothing in it can be askew."""
        page = self.page()
        body = page[page.index("<body>") : page.index("</html>")]
        ElementTree.fromstring(re.sub(r"<(br)>", r"<\1/>", body))

    def test_escaped(self) -> None:
        """What peers have written is text."""
        page = self.page()
        self.assertNotIn("<script", page)
        self.assertEqual(page.count("</style>"), 1)
        for character in "\x1b\u202e":
            self.assertNotIn(character, page)
        self.assertIn("&lt;script&gt;", page)

    def test_self_contained(self) -> None:
        """Nothing comes from elsewhere, and a policy says so."""
        page = self.page()
        self.assertNotIn("http:", page)
        self.assertNotIn("https:", page)
        self.assertIn("default-src 'none'", page)
        self.assertNotRegex(page, r'\sstyle="')
        for word in ("src=", "href=", "url(", "@import"):
            self.assertNotIn(word, page)

    def test_to_scale(self) -> None:
        """Between the hello and the answer, at 1 ms and 5 ms of 5.4 ms, is the most room."""
        events = [each for each in EVENTS if not isinstance(each, Ended)]
        page = self.page(*events)
        bars = re.findall(r'<svg[^>]*class="bar"[^>]*>', page)
        heights = [int(each) for bar in bars for each in re.findall(r'height="(\d+)"', bar)]
        self.assertEqual(max(heights), round(0.004 / 0.0055 * html.GAPS))

    def test_nothing(self) -> None:
        """A page of no connection, and of an empty one."""
        self.assertIn(b"Nobody", html.page([], Verdict(False, "nobody answers")))
        self.assertIn(b"</html>", html.page([trace_of()]))

    def test_many(self) -> None:
        """Of very many events, not all are drawn."""
        page = self.page(*([HELLO] * 1500), left_out=3)
        self.assertIn("500 more events are in the table alone", page)
        self.assertIn("3 more are left out", page)

    def test_contrast(self) -> None:
        """Every colour of text stands out from what is behind it (WCAG 2.2, 1.4.3: 4.5 to 1)."""
        for block in re.findall(r":root \{(.*?)\}", html._STYLE, re.DOTALL):
            colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
            for back in ("ground", "raised"):
                # What is no text has less to stand out: 1.4.11.
                self.assertGreaterEqual(contrast(colours["wait"], colours[back]), 3.0)
            for name in ("text", "faint", "sent", "received", "good", "bad"):
                for back in ("ground", "raised", "good-ground", "bad-ground"):
                    ratio = contrast(colours[name], colours[back])
                    self.assertGreaterEqual(ratio, 4.5, f"{name} on {back}")


class BrowserTests(TracedCase):
    """The page in a browser, as wide and as dark as people have it."""

    def test_page(self) -> None:
        path = Path(self.mktemp() + ".html").absolute()
        done = Handshaken(0.0055, (("version", "TLSv1.3"), ("resumed", False)))
        trace = trace_of(*EVENTS[:-1], done, EVENTS[-1])
        path.write_bytes(html.page([trace, *self.converse()], BAD, HOSTILE * 3))
        browser = Browser(self)
        for width, dark, view in browser.views():
            browser.visit(path.as_uri())
            browser.wait_for("document.querySelectorAll('ol').length === 3")
            for opened in (False, True):
                browser.evaluate(
                    "document.querySelectorAll('details').forEach("
                    f"(each) => {{ each.open = {str(opened).lower()}; }})"
                )
                self.assertEqual(browser.width_needed(), width)
            ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
            self.assertEqual(ground, "rgb(20, 22, 26)" if dark else "rgb(251, 251, 249)")
            browser.keep_picture(f"trace-{view}")
        self.assertEqual(browser.complaints, [])
        self.assertIsNone(browser.evaluate("document.querySelector('script')"))
        # A message unfolds to its fields.
        browser.visit(path.as_uri())
        browser.wait_for("document.querySelectorAll('ol').length === 3")
        shown = "document.querySelector('li.sent dl').checkVisibility()"
        self.assertFalse(browser.evaluate(shown))
        browser.evaluate("document.querySelector('li.sent summary').click()")
        self.assertTrue(browser.evaluate(shown))
        # Time runs down: no event is drawn above one that was before it.
        tops = browser.evaluate(
            "[...document.querySelectorAll('ol')[0].querySelectorAll('time')]"
            ".map((each) => each.getBoundingClientRect().top)"
        )
        self.assertEqual(tops, sorted(tops))


class CaptureTests(SynchronousTestCase):
    """The capture file; tshark reads it in C{tests.peers.test_trace_peers}."""

    def blocks(self, data: bytes) -> list[tuple[int, bytes]]:
        """The blocks of a file."""
        found, at = [], 0
        while at < len(data):
            kind, size = unpack_from("<II", data, at)
            self.assertEqual(size % 4, 0)
            self.assertEqual(unpack_from("<I", data, at + size - 4)[0], size)
            found.append((kind, data[at + 8 : at + size - 4]))
            at += size
        self.assertEqual(at, len(data))
        return found

    def test_blocks(self) -> None:
        """Section, interface, secrets before packets, and as many packets as there have to be."""
        trace = trace_of(Secret(0.0, "CLIENT_RANDOM 00 11"), *EVENTS)
        found = self.blocks(pcapng.header() + b"".join(pcapng.blocks([trace])))
        # Three to connect, two with bytes, three to close.
        self.assertEqual([kind for kind, _ in found], [0x0A0D0D0A, 1, 10, *[6] * 8])
        self.assertIn(b"CLIENT_RANDOM 00 11\n", found[2][1])
        first = found[3][1]
        _, high, low, size, _ = unpack_from("<IIIII", first)
        self.assertEqual((high << 32 | low) / 1e6, BEGAN.timestamp())
        self.assertEqual(size, 54)

    def test_large(self) -> None:
        """What does not fit into one packet is in several."""
        data = bytes(range(256)) * 1000
        trace = trace_of(Bytes(0.0, Way.RECEIVED, len(data), data), local="[::1]:1", peer="[::1]:2")
        packets = [body for kind, body in self.blocks(b"".join(pcapng.blocks([trace])))]
        # Behind the headers of the block, of Ethernet, IPv6 and TCP.
        carried = b"".join(each[20 + 74 : 20 + unpack_from("<I", each, 12)[0]] for each in packets)
        self.assertEqual(carried, data)

    def test_addresses(self) -> None:
        """Whatever the addresses are, there are some in the file."""
        for local, peer in (
            ("", ""),
            ("a local client", "/run/app.sock"),
            ("[fe80::1%eth0]:5", "[fe80::2]:443"),
            ("127.0.0.1:5", "[::1]:443"),
            ("1.2.3.4:99999999", "1.2.3.4:-1"),
        ):
            trace = trace_of(*EVENTS, local=local, peer=peer)
            self.assertEqual(len(self.blocks(b"".join(pcapng.blocks([trace])))), 8)
