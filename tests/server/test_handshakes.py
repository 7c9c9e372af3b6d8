"""Tests for L{twisted_bioconn.server.handshakes}, and for the page that shows them."""

from __future__ import annotations

import re
import ssl
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Any
from xml.etree import ElementTree

import attrs
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.server.browser import Browser
from tests.server.command import Command
from tests.server.test_facts import NOW, USUAL
from tests.server.test_page import FIREFOX, HERE
from tests.trace.material import HOSTILE
from twisted_bioconn.server import handshakes as module
from twisted_bioconn.server.handshakes import (
    HEARTBEAT,
    KEPT,
    LIMITS,
    WATCHERS,
    WATCHERS_EACH,
    Handshakes,
    PageSite,
)
from twisted_bioconn.server.page import NegotiationPage
from twisted_bioconn.trace.events import Message, Way

STRANGER, ANOTHER = "192.0.2.7", "192.0.2.8"

#: Where to leave pictures, for whoever wants to look at them.

#: The command as it is, on whatever port is free.
START = (
    "-c",
    "import runpy, sys; from twisted_bioconn.server import service;"
    " service.PAGE_ENDPOINTS = ('bioconn:0:interface=127.0.0.1',);"
    " runpy.run_module('twisted_bioconn', run_name='__main__', alter_sys=True)",
)


class Visit:
    """A request over HTTP/1.1, and what has come of it so far."""

    def __init__(self, site: PageSite, request: str, peer: IAddress, recorder: Any = None) -> None:
        self.transport = StringTransport(hostAddress=HERE, peerAddress=peer)
        if recorder is not None:
            self.transport.recorder = recorder  # type: ignore[attr-defined]
        self.protocol: Any = site.buildProtocol(peer)
        self.protocol.makeConnection(self.transport)
        self.protocol.dataReceived(request.encode())

    @property
    def text(self) -> str:
        said: bytes = self.transport.value()
        return said.decode()

    @property
    def numbers(self) -> list[int]:
        """The numbers of the handshakes that it was told of."""
        return [int(number) for number in re.findall(r"(?m)^id: \w+-(\d+)\r?$", self.text)]

    def lose(self) -> None:
        """The visitor is gone."""
        self.protocol.connectionLost(Failure(ConnectionResetError()))


class HandshakesCase(SynchronousTestCase):
    """A page in memory, whose visitors may be anywhere."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.handshakes = Handshakes(self.clock)
        self.negotiated = USUAL
        page = NegotiationPage(lambda _: self.negotiated, None, lambda: NOW, self.handshakes)
        self.site = PageSite(page, self.handshakes)
        self.site.reactor = Clock()
        self.site.startFactory()
        self.addCleanup(self.site.stopFactory)

    def shake(self, host: str = STRANGER, done: bool = True) -> Any:
        """A connection whose handshake is done, or is not to be."""
        at = f"[{host}]" if ":" in host else host
        recorder = self.handshakes.tracer.begin(False, "127.0.0.1:8443", f"{at}:50000")
        recorder.bytes_crossed(Way.RECEIVED, b"\x16\x03\x01")
        if done:
            recorder.handshaken(USUAL)
        else:
            recorder.ended(False, ValueError(), f"it offers {HOSTILE}")
            self.handshakes.tracer.end(recorder.trace)
        self.clock.advance(0)
        return recorder

    def ask(
        self,
        path: str = "/handshakes",
        host: str = STRANGER,
        asked: str = "localhost:8443",
        recorder: Any = None,
        **headers: str,
    ) -> Visit:
        lines = [f"GET {path} HTTP/1.1", f"Host: {asked}", f"Accept: {FIREFOX}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        peer: IAddress = IPv4Address("TCP", host, 40000) if host else UNIXAddress(None)
        return Visit(self.site, "\r\n".join([*lines, "", ""]), peer, recorder)


class VisibilityTests(HandshakesCase):
    """Who sees what."""

    def test_own(self) -> None:
        """A visitor from another machine sees what comes from the same address, and no more."""
        visit = self.ask()
        self.shake(ANOTHER)
        self.shake("127.0.0.1")
        self.assertEqual(visit.numbers, [])
        self.shake()
        self.assertEqual(visit.numbers, [3])
        self.assertNotIn(ANOTHER, visit.text)

    def test_this_machine(self) -> None:
        """A visitor from this machine sees those of others too."""
        for number, (host, asked) in enumerate(
            (("127.0.0.1", "localhost:8443"), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]:8443"))
        ):
            visit = self.ask(f"/handshakes?after={self.handshakes.mark}", host, asked)
            self.shake(ANOTHER)
            self.assertEqual(visit.numbers, [number + 1], (host, asked))

    def test_relayed(self) -> None:
        """Who asks for another name was relayed here, and is nobody of this machine."""
        for asked in ("page.example", "page.example:8443", "localhost.example"):
            self.negotiated = attrs.evolve(USUAL, server_name=asked.removesuffix(":8443"))
            visit = self.ask(host="127.0.0.1", asked=asked)
            self.shake(ANOTHER)
            self.assertEqual(visit.numbers, [], asked)

    def test_mapped(self) -> None:
        """An IPv4 address is the same on a port of both kinds."""
        visit = self.ask()
        self.shake(f"::ffff:{STRANGER}")
        self.assertEqual(visit.numbers, [1])

    def test_no_address(self) -> None:
        """Who has no address is not taken for another who has none."""
        visit = self.ask(host="")
        recorder = self.handshakes.tracer.begin(False, "a local client", "a local client")
        recorder.handshaken(USUAL)
        self.clock.advance(0)
        self.assertEqual(visit.numbers, [])

    def test_policy(self) -> None:
        visit = self.ask()
        self.assertIn("Content-Type: text/event-stream; charset=utf-8\r\n", visit.text)
        for header in ("Content-Security-Policy: default-src 'none'", "Cache-Control: no-store"):
            self.assertIn(header, visit.text)
        self.assertNotIn("Access-Control", visit.text)


class LiveTests(HandshakesCase):
    """What those are told who watch."""

    def test_failed(self) -> None:
        """A handshake that fails is told of when it has; a connection with no word is not."""
        visit = self.ask()
        self.shake(done=False)
        self.assertEqual(visit.numbers, [1])
        self.assertIn("it offers", visit.text)
        silent = self.handshakes.tracer.begin(False, "127.0.0.1:8443", f"{STRANGER}:1")
        silent.ended(True, None, "it was closed")
        self.handshakes.tracer.end(silent.trace)
        self.clock.advance(0)
        self.assertEqual(visit.numbers, [1])

    def test_once(self) -> None:
        """The end of a connection is no other handshake."""
        visit = self.ask()
        recorder = self.shake()
        recorder.ended(True, None, "both sides have closed")
        self.handshakes.tracer.end(recorder.trace)
        self.clock.advance(0)
        self.assertEqual(visit.numbers, [1])

    def test_further_ones(self) -> None:
        """What the page knew is not told again, and after a break only what came meanwhile."""
        for _ in range(3):
            self.shake()
        visit = self.ask(f"/handshakes?after={self.handshakes.mark}")
        self.assertEqual(visit.numbers, [])
        self.shake()
        [last] = re.findall(r"(?m)^id: (\S+)", visit.text)
        visit.lose()
        self.shake()
        again = self.ask("/handshakes?after=x", Last_Event_ID=last)
        self.assertEqual(again.numbers, [5])

    def test_another_process(self) -> None:
        """The numbers of another process, and nonsense, stand for nothing known."""
        self.shake()
        token = self.handshakes.mark.partition("-")[0]
        for mark in ("beef-1", f"{token}-", f"{token}-%C2%B2", f"{token}--1", "%FF", "1"):
            self.assertEqual(self.ask(f"/handshakes?after={mark}").numbers, [1], mark)
            self.site.stopFactory()
            self.site.startFactory()

    def test_hostile(self) -> None:
        """What a stranger has written is text, and is no event of its own."""
        visit = self.ask(host="127.0.0.1")
        recorder = self.handshakes.tracer.begin(False, "127.0.0.1:8443", f"{STRANGER}:1")
        recorder.add(
            Message(0.1, Way.RECEIVED, HOSTILE, 1, 10, (("server name", "\n\nevent: x" + HOSTILE),))
        )
        recorder.handshaken(USUAL)
        self.clock.advance(0)
        self.assertEqual(visit.numbers, [1])
        body = visit.text.partition("\r\n\r\n")[2]
        self.assertIn("&lt;script&gt;", body)
        self.assertNotIn("<script", body)
        self.assertNotIn("\x1b", body)
        self.assertEqual(re.findall(r"(?m)^event: (.*)$", body), ["handshake"])
        data = "\n".join(re.findall(r"(?m)^data: (.*)$", body))
        self.assertEqual(ElementTree.fromstring(data).tag, "details")

    def test_too_large(self) -> None:
        """A diagram that is too large is not kept."""
        self.patch(module, "LARGEST", 1000)
        visit = self.ask()
        self.shake()
        self.assertIn("This has more than 1000 bytes, and is not shown.", visit.text)
        self.assertLess(len(visit.text), 2000)


class BoundsTests(HandshakesCase):
    """Whatever visitors do, so much is kept and no more."""

    def test_kept(self) -> None:
        """The last ones are kept, and of each so many events."""
        for _ in range(KEPT + 5):
            recorder = self.shake()
            for _ in range(2 * LIMITS.events):
                recorder.bytes_crossed(Way.SENT, b"x")
            self.assertLess(len(recorder.trace.events), LIMITS.events + 20)
        self.assertEqual(self.ask().numbers, list(range(6, KEPT + 6)))

    def test_watchers_each(self) -> None:
        """From one address so many watch, and no more, until one of them is gone."""
        visits = [self.ask() for _ in range(WATCHERS_EACH)]
        self.assertIn("503 Service Unavailable", self.ask().text)
        self.assertIn("200 OK", self.ask(host=ANOTHER).text)
        visits[2].lose()
        self.assertIn("200 OK", self.ask().text)

    def test_watchers(self) -> None:
        """And so many in all."""
        for number in range(WATCHERS):
            self.assertIn("200 OK", self.ask(host=f"198.51.100.{number}").text)
        self.assertIn("503 Service Unavailable", self.ask().text)

    def test_slow(self) -> None:
        """Who does not read is told no more; who reads again, what is still there then."""
        visit = self.ask()
        self.shake()
        producer: Any = visit.transport.producer
        producer.pauseProducing()
        before = len(visit.text)
        for _ in range(KEPT + 10):
            self.shake()
        self.clock.pump([HEARTBEAT])
        self.assertEqual(len(visit.text), before)
        producer.resumeProducing()
        self.assertEqual(visit.numbers, [1, *range(12, KEPT + 12)])

    def test_signs_of_life(self) -> None:
        """They go on as long as anybody watches."""
        visit = self.ask()
        before = visit.text
        self.clock.pump([HEARTBEAT])
        self.assertNotEqual(visit.text, before)
        visit.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobody(self) -> None:
        """Where nobody watches, nothing is drawn or waits to be."""
        self.patch(module, "diagram", None)
        for _ in range(3):
            self.shake()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closed(self) -> None:
        """When the port is closed, what is being answered ends, and so does its connection."""
        visits = [self.ask(), self.ask(host=ANOTHER)]
        recorder = self.handshakes.tracer.begin(False, "127.0.0.1:8443", f"{STRANGER}:1")
        recorder.handshaken(USUAL)
        self.site.stopFactory()
        self.site.startFactory()
        for visit in visits:
            self.assertTrue(visit.text.endswith("\r\n0\r\n\r\n"))
            self.assertTrue(visit.transport.disconnecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class PageTests(HandshakesCase):
    """The page that shows them."""

    def page(self, recorder: Any, path: str = "/") -> str:
        return self.ask(path, recorder=recorder).text.partition("\r\n\r\n")[2]

    def test_own(self) -> None:
        """The visitor's own handshake, with nothing that came after it."""
        recorder = self.shake()
        recorder.read(b"GET / HTTP/1.1")
        recorder.bytes_crossed(Way.SENT, bytes(4321))
        document = ElementTree.fromstring(self.page(recorder).partition("\n")[2])
        [trace] = document.findall(".//div[@class='trace']")
        self.assertEqual(trace.findall(".//h2")[0].text, "Your handshake, step by step")
        words = " ".join(trace.itertext())
        self.assertIn("the handshake is done", words)
        self.assertNotIn("plaintext", words)
        self.assertNotIn("4321", words)
        [further] = document.findall(".//section[@id='further']")
        self.assertEqual(further.get("data-mark"), self.handshakes.mark)
        self.assertEqual(further.get("hidden"), "hidden")

    def test_hostile(self) -> None:
        """What the visitor has written is text."""
        recorder = self.handshakes.tracer.begin(False, "127.0.0.1:8443", f"{STRANGER}:1")
        recorder.add(Message(0.1, Way.RECEIVED, HOSTILE, 1, 10, (("name", HOSTILE),)))
        page = self.page(recorder)
        self.assertEqual(page.count("<script"), 1)
        self.assertNotIn("\x1b", page)
        self.assertIn("alert(1)", "".join(ElementTree.fromstring(page[16:]).itertext()))

    def test_policy(self) -> None:
        """Its own style and script run, by their hashes, and it asks this server alone."""
        visit = self.ask("/", recorder=self.shake())
        [policy] = re.findall(r"Content-Security-Policy: (.*)\r\n", visit.text)
        given = dict(each.strip().split(" ", 1) for each in policy.split(";"))
        for element, directive in (("style", "style-src"), ("script", "script-src")):
            [text] = re.findall(rf"(?s)<{element}>(.*?)</{element}>", visit.text)
            digest = b64encode(sha256(text.encode()).digest()).decode()
            self.assertEqual(given[directive], f"'sha256-{digest}'")
        self.assertEqual(given["connect-src"], "'self'")
        self.assertEqual(given["default-src"], "'none'")
        self.assertNotIn(" style=", visit.text)

    def test_not_traced(self) -> None:
        """Where a connection is not traced there is no diagram, no script and room for neither."""
        text = self.ask("/").text
        self.assertNotIn("<script", text)
        self.assertNotIn('class="trace"', text)
        self.assertIn("Nothing is stored.", text)

    def test_embeddable(self) -> None:
        """Style and script have no character that the template would escape."""
        for name in ("handshakes.css", "handshakes.js"):
            text = (files("twisted_bioconn.server") / "templates" / name).read_text("utf-8")
            self.assertNotRegex(text, "[<>&]")
            # Every colour is one of the page's, whose contrast is looked at there.
            self.assertNotRegex(text, r"#[0-9a-f]{3,6}\b|rgba?\(")


class RunningTests(SynchronousTestCase):
    """The command, with real connections."""

    def test_drains(self) -> None:
        """Whoever watches does not keep the server from its end."""
        command = Command(self, "--drain", "3600", start=START)
        port = command.port()
        with command.connect(port) as client:
            client.sendall(f"GET /handshakes HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
            read = b""
            while b"event: handshake" not in read:
                read += client.recv(65536)
            self.assertIn(b"ClientHello", read + client.recv(65536))
            command.stop()
            try:
                while client.recv(65536):
                    pass
            except ssl.SSLEOFError:
                self.fail("it was cut")
        self.assertEqual(command.ended(), 0)
        self.assertEqual([line for line in command.lines if "are cut" in line], [])

    def test_browser(self) -> None:
        """Its own handshake without a script; each further one as it comes."""
        command = Command(self, "--drain", "3600", start=START)
        port = command.port()
        browser = Browser(self)
        browser.take_any_certificate()
        for width, dark, view in browser.views():
            browser.visit(f"https://localhost:{port}/?{width}{dark}")
            browser.wait_for(
                f"location.search === '?{width}{dark}' && watching.textContent.includes('far')"
                " || watching.textContent.includes('None yet')"
            )
            with command.connect(port, alpn=["http/1.1"]) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                browser.wait_for("list.querySelector('.further .good')")
            browser.evaluate("list.querySelector('.further').open = true")
            for opened in (False, True):
                browser.evaluate(
                    "document.querySelectorAll('.trace li details').forEach("
                    f"(each) => {{ each.open = {str(opened).lower()}; }})"
                )
                self.assertEqual(browser.width_needed(), width)
                browser.keep_picture(f"page-{view}-{opened}")
            self.assertGreater(
                browser.evaluate("document.querySelectorAll('.trace time').length"), 20
            )
            self.assertIn("ClientHello", browser.evaluate("document.body.innerText"))
        self.assertEqual(browser.complaints, [])
        # Nothing of it needs a script but what comes later.
        browser.run_scripts(False)
        browser.visit(f"https://localhost:{port}/?still")
        # A page with no scripts has no timers to wait by.
        still = "location.search === '?still' && Boolean(document.querySelector('#list'))"
        while not browser.evaluate(still):
            pass
        self.assertIn("ClientHello", browser.evaluate("document.body.innerText"))
        self.assertFalse(browser.evaluate("further.checkVisibility()"))
        # It watches over HTTP/2, which keeps the server from its end no more than HTTP/1.1.
        browser.run_scripts(True)
        browser.visit(f"https://localhost:{port}/?last")
        browser.wait_for(
            "location.search === '?last' && watching.textContent.includes('when it is done')"
        )
        command.stop()
        browser.wait_for("watching.textContent.includes('is gone')")
        self.assertEqual(command.ended(), 0)
        self.assertEqual([line for line in command.lines if "are cut" in line], [])
