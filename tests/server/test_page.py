"""Tests for L{twisted_bioconn.server.page}."""

from __future__ import annotations

import json
import re
import shlex
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from xml.etree import ElementTree

from attrs import evolve, frozen
from h2.config import H2Configuration
from h2.connection import H2Connection as H2Client
from h2.events import DataReceived, ResponseReceived, StreamEnded
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import http
from twisted.web._http2 import H2Connection
from twisted.web.server import Request, Site

from tests.server.contrast import contrast
from tests.server.test_facts import NOW, USUAL, certificate
from twisted_bioconn.negotiated import Negotiated
from twisted_bioconn.server.local import without_port
from twisted_bioconn.server.page import NegotiationPage

# What Firefox and Chromium send.
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
CHROMIUM = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;"
    "q=0.8,application/signed-exchange;v=b3;q=0.7"
)

PEER = IPv4Address("TCP", "192.0.2.7", 54321)
HERE = IPv4Address("TCP", "127.0.0.1", 8443)


@frozen
class Response:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def document(self) -> ElementTree.Element:
        """The body as a tree; the page is well-formed XML, so that nothing in it can be askew."""
        doctype, _, rest = self.text.partition("\n")
        assert doctype == "<!DOCTYPE html>"
        return ElementTree.fromstring(rest)

    def words(self, path: str) -> str:
        """The text of the one element there."""
        [element] = self.document.findall(path)
        return " ".join("".join(element.itertext()).split())

    def rows(self) -> dict[str, str]:
        """The values of the table by their labels."""
        rows = {}
        for row in self.document.findall(".//tbody/tr"):
            label, value, _ = ("".join(cell.itertext()) for cell in row)
            rows[label] = value
        return rows


class PageTestCase(SynchronousTestCase):
    """A site of the page alone, with connections in memory."""

    def site(
        self, negotiated: Negotiated | None = USUAL, authority_file: str | None = None
    ) -> Site:
        """The site; its clock stands still."""
        page = NegotiationPage(lambda request: negotiated, authority_file, lambda: NOW)
        site = Site(page, reactor=Clock())
        site.startFactory()
        self.addCleanup(site.stopFactory)
        return site

    def ask(
        self,
        path: str = "/",
        accept: str | None = FIREFOX,
        negotiated: Negotiated | None = USUAL,
        *,
        method: str = "GET",
        host: str = "localhost:8443",
        peer: IAddress = PEER,
        here: IAddress = HERE,
        authority_file: str | None = None,
    ) -> Response:
        """One request over HTTP/1.1."""
        site = self.site(negotiated, authority_file)
        protocol = site.buildProtocol(peer)
        assert protocol is not None
        transport = StringTransport(hostAddress=here, peerAddress=peer)
        protocol.makeConnection(transport)
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
        if accept is not None:
            lines.append(f"Accept: {accept}")
        protocol.dataReceived("\r\n".join([*lines, "", ""]).encode())
        head, _, body = transport.value().partition(b"\r\n\r\n")
        status, *headers = head.decode().split("\r\n")
        return Response(
            int(status.split()[1]),
            {
                name.lower(): value
                for name, _, value in (header.partition(": ") for header in headers)
            },
            body,
        )


class ContentTests(PageTestCase):
    """What the page says."""

    def test_usual(self) -> None:
        """The headline is the title, and every fact has its row."""
        response = self.ask()
        self.assertEqual(response.status, 200)
        sentence = (
            "Your connection is encrypted with TLS 1.3, with a key exchange that also resists"
            " quantum computers."
        )
        self.assertEqual(response.words(".//h1"), sentence)
        self.assertEqual(response.words(".//title"), sentence)
        self.assertEqual(
            response.rows(),
            {
                "Version": "TLS 1.3",
                "Cipher": "TLS_AES_128_GCM_SHA256",
                "Key exchange": "X25519MLKEM768 post-quantum hybrid",
                "Protocol (ALPN)": "h2",
                "Server name (SNI)": "localhost",
                "Session": "new",
                "Client certificate": "none",
                "Handshake time": "4.2 ms",
                "Your address": "192.0.2.7, port 54321",
            },
        )
        self.assertEqual(response.words(".//*[@class='names']"), "Between X25519 + ML-KEM-768")
        self.assertEqual(response.words(".//*[@class='you']"), "You 192.0.2.7")
        self.assertEqual(response.words(".//*[@class='server']"), "This server localhost:8443")

    def test_state(self) -> None:
        """The look of the page tells good from bad as its words do, and the style knows each."""
        style = self.ask().words(".//style")
        for negotiated, state in (
            (USUAL, "hybrid"),
            (evolve(USUAL, group="x25519"), "classical"),
            (evolve(USUAL, version="TLSv1.1"), "dated"),
            (None, "plain"),
        ):
            [body] = self.ask(negotiated=negotiated).document.findall("body")
            self.assertEqual(body.get("class"), state)
            self.assertIn(f".{state} {{ --accent:", style)

    def test_clientCertificate(self) -> None:
        """A client certificate has three rows."""
        rows = self.ask(negotiated=evolve(USUAL, peer_chain=(certificate(),))).rows()
        self.assertEqual(rows["Client certificate"], "CN=alice")
        self.assertEqual(rows["Issued by"], "CN=An Authority")
        self.assertEqual(rows["Valid until"], "2026-07-31 12:00 UTC")

    def test_plain(self) -> None:
        """Without TLS, each form says so."""
        response = self.ask(negotiated=None)
        self.assertEqual(response.words(".//h1"), "Your connection is not encrypted.")
        self.assertNotIn("Cipher", response.rows())
        self.assertEqual(response.rows()["Protocol"], "HTTP/1.1")
        text = self.ask(accept="*/*", negotiated=None).text
        self.assertTrue(text.startswith("Your connection is not encrypted.\n"), text)
        told = json.loads(self.ask("/facts.json", negotiated=None).body)
        self.assertIs(told["encrypted"], False)

    def test_visitors(self) -> None:
        """Every kind of address is shown."""
        for peer, shown in (
            (IPv6Address("TCP", "2001:db8::7", 54321), "2001:db8::7, port 54321"),
            (UNIXAddress(None), "a UNIX socket"),
            (HostnameAddress(b"visitor.example", 54321), "not known"),
        ):
            self.assertEqual(self.ask(peer=peer).rows()["Your address"], shown)

    def test_commands(self) -> None:
        """Each command on the page can be copied into a shell as it stands."""
        name = "/home/o'neil/my state/authority.pem"
        response = self.ask(authority_file=name)
        commands = [
            shlex.split("".join(code.itertext())) for code in response.document.findall(".//code")
        ]
        self.assertEqual(
            commands[:3],
            [
                ["curl", "--cacert", name, "https://localhost:8443/"],
                ["curl", "--cacert", name, "https://localhost:8443/facts.json"],
                ["curl", "--cacert", name, "--http1.1", "https://localhost:8443/"],
            ],
        )
        text = self.ask(accept="*/*", authority_file=name).text
        for command in commands:
            self.assertIn(f"    {shlex.join(command)}\n", text)

    def test_host(self) -> None:
        """A command has the host that the visitor used, where it is nothing but a host."""
        for host, used in {
            "bioconn.example": "bioconn.example",
            "192.0.2.1:9000": "192.0.2.1:9000",
            "[2001:db8::1]:8443": "[2001:db8::1]:8443",
            "x;reboot": "localhost:8443",
            "x$(reboot)": "localhost:8443",
            "user@evil.example": "localhost:8443",
            "evil.example/path": "localhost:8443",
            "<script>": "localhost:8443",
        }.items():
            # So it was asked for in the handshake too, in which a stranger may write anything.
            called = evolve(USUAL, server_name=without_port(host))
            response = self.ask(accept="*/*", host=host, negotiated=called)
            command = shlex.join(("curl", f"https://{used}/"))
            self.assertIn(f"    {command}\n", response.text, host)
        called = evolve(USUAL, server_name="x;reboot")
        here = UNIXAddress("/run/s")
        response = self.ask(accept="*/*", host="x;reboot", negotiated=called, here=here)
        self.assertIn("    curl https://localhost/\n", response.text)


class EscapingTests(PageTestCase):
    """What a peer sends is shown, and does nothing."""

    SCRIPT = "</td></style><script>alert('x\"')</script>&amp;"
    HOSTILE = evolve(
        USUAL,
        version=SCRIPT,
        cipher=SCRIPT,
        group=SCRIPT + "mlkem768",
        alpn=SCRIPT.encode() + b"\x1b]0;x\x07\xff",
        server_name=SCRIPT + "\x1b[31m\u202e",
        peer_chain=(certificate(SCRIPT, SCRIPT[:60]),),
    )

    def test_html(self) -> None:
        """Every value comes out as the text it is."""
        response = self.ask(negotiated=self.HOSTILE)
        self.assertNotIn("<script", response.text)
        self.assertEqual(response.document.findall(".//script"), [])
        rows = response.rows()
        self.assertEqual(rows["Server name (SNI)"], self.SCRIPT + "\\x1b[31m\\u202e")
        self.assertEqual(rows["Protocol (ALPN)"], self.SCRIPT + "\\x1b]0;x\\x07\\xff")
        self.assertEqual(rows["Cipher"], self.SCRIPT)
        # RFC 4514 puts a backslash before some of them.
        self.assertEqual(rows["Client certificate"].replace("\\", ""), f"CN={self.SCRIPT}")
        self.assertNotIn("\x1b", response.text)
        self.assertNotIn("\u202e", response.text)

    def test_text(self) -> None:
        """A terminal is given nothing to obey."""
        text = self.ask(accept="*/*", negotiated=self.HOSTILE).text
        self.assertEqual([line for line in text.split("\n") if not line.isprintable()], [])

    def test_json(self) -> None:
        """A program gets the value itself, in an escape that is JSON's own."""
        body = self.ask("/facts.json", negotiated=self.HOSTILE).body
        self.assertNotIn(b"\x1b", body)
        self.assertEqual(json.loads(body)["server_name"], self.HOSTILE.server_name)

    def test_path(self) -> None:
        """A path that is not there is told back as text."""
        response = self.ask("/<script>alert(1)</script>")
        self.assertEqual(response.status, 404)
        self.assertEqual(response.document.findall(".//script"), [])
        self.assertIn("no /<script>alert(1)</script>.", response.words(".//main"))


class NegotiationOfContentTests(PageTestCase):
    """Who gets which form."""

    def kind(self, accept: str | None, path: str = "/") -> str:
        """The media type of the answer."""
        return self.ask(path, accept).headers["content-type"].partition(";")[0]

    def test_kinds(self) -> None:
        """Browsers get HTML, curl gets text, a program gets what it asks for."""
        for accept, kind in {
            FIREFOX: "text/html",
            CHROMIUM: "text/html",
            "text/html": "text/html",
            "TEXT/HTML; charset=utf-8": "text/html",
            "text/plain, text/html": "text/html",
            "text/html;q=0.5, text/plain;q=0.4": "text/html",
            None: "text/plain",
            "*/*": "text/plain",
            "text/*": "text/plain",
            "text/plain": "text/plain",
            "text/html;q=0.5, */*": "text/plain",
            "text/html;q=0.4, text/plain;q=0.5": "text/plain",
            "text/html;q=0, */*;q=0.1": "text/plain",
            "application/json": "application/json",
            "application/*": "application/json",
            "application/json, */*;q=0.5": "application/json",
            "text/*;q=0.1, application/json;q=0.2": "application/json",
            "image/png": "text/plain",
            "": "text/plain",
            ";q=1,/,,": "text/plain",
        }.items():
            self.assertEqual(self.kind(accept), kind, accept)

    def test_json(self) -> None:
        """C{/facts.json} is JSON to everybody, with the same facts as C{/} gives a program."""
        for accept in (None, "*/*", FIREFOX):
            response = self.ask("/facts.json", accept)
            self.assertEqual(response.headers["content-type"], "application/json")
            self.assertEqual(json.loads(response.body)["group"], "X25519MLKEM768")
        self.assertEqual(self.ask("/", "application/json").body, self.ask("/facts.json").body)

    def test_query(self) -> None:
        """A query changes nothing."""
        self.assertEqual(self.ask("/?a=b").body, self.ask("/").body)

    def test_charset(self) -> None:
        """Text and HTML say that they are UTF-8."""
        for accept in ("text/html", "text/plain"):
            self.assertEqual(
                self.ask("/", accept).headers["content-type"], f"{accept}; charset=utf-8"
            )

    @settings(max_examples=50)
    @given(
        st.text("tex/hmlpain*;q=01., \t", max_size=60)
        | st.text(st.characters(codec="utf-8", min_codepoint=33))
    )
    def test_anything(self, accept: str) -> None:
        """No Accept header is an error."""
        value = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "", accept.encode().decode("latin-1"))
        self.assertEqual(self.ask("/", value).status, 200)


class MethodTests(PageTestCase):
    """GET and HEAD, and no other."""

    def test_head(self) -> None:
        """HEAD has the headers of GET and no body, in every form."""
        for path in ("/", "/facts.json", "/other"):
            for accept in (FIREFOX, "*/*"):
                got = self.ask(path, accept)
                asked = self.ask(path, accept, method="HEAD")
                self.assertEqual(asked.body, b"")
                self.assertEqual(asked.status, got.status)
                dropped = {"date"}
                self.assertEqual(
                    {k: v for k, v in asked.headers.items() if k not in dropped},
                    {k: v for k, v in got.headers.items() if k not in dropped},
                )
                self.assertEqual(asked.headers["content-length"], str(len(got.body)))

    def test_others(self) -> None:
        """Any other method is refused with a list of those that are not."""
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "NOSUCH"):
            response = self.ask(method=method)
            self.assertEqual(response.status, 405)
            self.assertEqual(response.headers["allow"], "GET, HEAD")
            self.assertEqual(response.words(".//h1"), "This page can only be read")


class NotFoundTests(PageTestCase):
    """Whatever else is asked for."""

    def test_forms(self) -> None:
        """A page with the way back, a line, or an object."""
        for path in ("/other", "/facts.json/", "/facts", "//", "/../etc/passwd"):
            response = self.ask(path)
            self.assertEqual(response.status, 404)
            self.assertEqual(response.words(".//h1"), "There is nothing here")
            self.assertEqual([a.get("href") for a in response.document.findall(".//a")], ["/"])
        response = self.ask("/other", "*/*")
        self.assertEqual(
            (response.status, response.text),
            (404, "There is nothing here. This server has / and /facts.json, no /other.\n"),
        )
        response = self.ask("/other", "application/json")
        self.assertEqual(response.status, 404)
        self.assertIn("no /other", json.loads(response.body)["error"])


class HeaderTests(PageTestCase):
    """The headers that every answer has."""

    def answers(self) -> list[Response]:
        """One of each kind."""
        return [
            self.ask(),
            self.ask(accept="*/*"),
            self.ask("/facts.json"),
            self.ask("/other"),
            self.ask(method="POST"),
            self.ask(negotiated=None),
        ]

    def test_every(self) -> None:
        """Nothing is kept, guessed, passed on or framed."""
        for response in self.answers():
            for name, value in {
                "cache-control": "no-store",
                "vary": "Accept",
                "x-content-type-options": "nosniff",
                "referrer-policy": "no-referrer",
                "cross-origin-resource-policy": "same-origin",
            }.items():
                self.assertEqual(response.headers[name], value)
            self.assertEqual(response.headers["content-length"], str(len(response.body)))

    def test_noStrictTransportSecurity(self) -> None:
        """The host is localhost, which is everybody's: it is not bound to https."""
        for response in self.answers():
            self.assertNotIn("strict-transport-security", response.headers)

    def test_policy(self) -> None:
        """Nothing may be loaded or run but the page's own style, by its hash, and its icon."""
        for response in (self.ask(), self.ask("/other"), self.ask(method="POST")):
            policy = dict(
                directive.strip().split(" ", 1)
                for directive in response.headers["content-security-policy"].split(";")
            )
            # A browser hashes the element's text as it stands in the source.
            match = re.search("<style>(.*)</style>", response.text, re.DOTALL)
            assert match is not None
            digest = b64encode(sha256(match[1].encode()).digest()).decode()
            self.assertEqual(
                policy,
                {
                    "default-src": "'none'",
                    "style-src": f"'sha256-{digest}'",
                    "img-src": "data:",
                    "base-uri": "'none'",
                    "form-action": "'none'",
                    "frame-ancestors": "'none'",
                },
            )
            self.assertNotIn(" style=", response.text)

    def test_selfContained(self) -> None:
        """Nothing comes from elsewhere, and nothing needs a script."""
        for response in (self.ask(), self.ask("/other")):
            for element in response.document.iter():
                self.assertNotEqual(element.tag, "script")
                for name, value in element.items():
                    if name in ("href", "src"):
                        self.assertRegex(value, r"^(/(facts\.json)?$|#|data:image/)")
                    self.assertFalse(name.startswith("on"), name)
            self.assertNotRegex(response.words(".//style"), r"url\(|@import|//")


class StyleTests(PageTestCase):
    """The style: fit to be read in light and in dark, on a phone and on a wide screen."""

    STYLE = (files("twisted_bioconn.server") / "templates" / "page.css").read_text("utf-8")

    def colours(self) -> tuple[dict[str, str], dict[str, str]]:
        """The colours by their names, in light and in dark."""
        light, dark = re.findall(r":root \{([^}]*)\}", self.STYLE)
        found = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block)) for block in (light, dark)]
        return found[0], found[1]

    def test_embeddable(self) -> None:
        """It has no character that the template would escape: its hash is of what it says."""
        self.assertNotRegex(self.STYLE, "[<>&]")

    def test_both(self) -> None:
        """Dark is asked for by the browser, and has a colour for each that light has."""
        self.assertIn("color-scheme: light dark;", self.STYLE)
        self.assertRegex(self.STYLE, r"@media \(prefers-color-scheme: dark\) \{\s*:root \{")
        light, dark = self.colours()
        self.assertEqual(light.keys(), dark.keys())
        self.assertGreater(len(light), 8)
        for name in light:
            self.assertNotEqual(light[name], dark[name])
        self.assertIn('name="color-scheme"', self.ask().text)

    def test_contrast(self) -> None:
        """Every colour of text stands out from what is behind it (WCAG 2.2, 1.4.3: 4.5 to 1)."""

        for colours in self.colours():
            backs = [colours["paper"], colours["panel"]]
            for name, colour in colours.items():
                if name in ("paper", "panel", "rule"):
                    continue
                for back in backs:
                    ratio = contrast(colour, back)
                    self.assertGreaterEqual(ratio, 4.5, f"{name} {colour} on {back}")

    def test_colours(self) -> None:
        """No colour is left out of the two lists."""
        beyond = re.sub(r":root \{[^}]*\}", "", self.STYLE)
        self.assertNotRegex(beyond, r"#[0-9a-f]{3,6}\b|rgba?\(")
        for name in re.findall(r"var\(--(\w+)\)", self.STYLE):
            self.assertIn(name, {*self.colours()[0], "accent"})

    def test_narrow(self) -> None:
        """A narrow screen has rules of its own, and the browser is told not to zoom out."""
        self.assertIn("@media (max-width:", self.STYLE)
        self.assertIn('content="width=device-width, initial-scale=1"', self.ask().text)

    def test_stillness(self) -> None:
        """What moves does so only for those who did not ask for stillness."""
        before, _, after = self.STYLE.partition("@media (prefers-reduced-motion: no-preference)")
        self.assertNotIn("animation", before)
        self.assertIn("animation", after)

    def test_reader(self) -> None:
        """A screen reader finds a language, a heading, a table with its parts, and no picture."""
        document = self.ask().document
        self.assertEqual(document.get("lang"), "en")
        self.assertEqual(len(document.findall(".//h1")), 1)
        # CSS that lays a table out anew takes its meaning from it, unless the roles are spelt out.
        self.assertEqual([t.get("role") for t in document.findall(".//table")], ["table"])
        for row in document.findall(".//tbody/tr"):
            self.assertEqual(row.get("role"), "row")
            self.assertEqual(
                [(cell.tag, cell.get("role"), cell.get("scope")) for cell in row],
                [("th", "rowheader", "row"), ("td", "cell", None), ("td", "cell", None)],
            )
        for section in document.findall(".//section"):
            [title] = section.findall("h2")
            self.assertEqual(section.get("aria-labelledby"), title.get("id"))
        [drawing] = document.findall(".//*[@aria-hidden]")
        self.assertEqual(len(drawing.findall(".//svg")), 1)
        self.assertEqual("".join(drawing.itertext()).strip(), "")


class HTTP2Tests(PageTestCase):
    """The same over HTTP/2, as a connection that agreed on it in ALPN gets it."""

    def test_page(self) -> None:
        """Page, facts, absence and HEAD on four streams of one connection."""
        clock = Clock()
        self.patch(http, "H2Connection", lambda: H2Connection(clock))
        seen: list[bytes] = []

        def negotiated_of(request: Request) -> Negotiated:
            seen.append(request.clientproto)
            return evolve(USUAL, server_name="bioconn.example")

        site = Site(NegotiationPage(negotiated_of, None, lambda: NOW), reactor=Clock())
        site.startFactory()
        self.addCleanup(site.stopFactory)
        server = site.buildProtocol(PEER)
        assert server is not None
        transport = StringTransport(hostAddress=HERE, peerAddress=PEER)
        transport.negotiatedProtocol = b"h2"  # type: ignore[attr-defined]
        server.makeConnection(transport)

        client = H2Client(H2Configuration(header_encoding="utf-8"))
        client.initiate_connection()
        # The page is larger than the window that a connection starts with, if somebody adds to it.
        client.increment_flow_control_window(1 << 20)
        requests = {1: ("GET", "/"), 3: ("GET", "/facts.json"), 5: ("GET", "/x"), 7: ("HEAD", "/")}
        for stream, (method, path) in requests.items():
            client.send_headers(
                stream,
                [
                    (":method", method),
                    (":scheme", "https"),
                    (":authority", "bioconn.example:8443"),
                    (":path", path),
                    ("accept", FIREFOX),
                ],
                end_stream=True,
            )
        headers: dict[int, dict[str, str]] = {}
        bodies = dict.fromkeys(requests, b"")
        open_streams = set(requests)
        for _ in range(100):
            server.dataReceived(client.data_to_send())
            clock.advance(0)
            output = transport.value()
            transport.clear()
            for event in client.receive_data(output):
                if isinstance(event, ResponseReceived):
                    headers[event.stream_id] = {str(k): str(v) for k, v in event.headers}
                elif isinstance(event, DataReceived):
                    bodies[event.stream_id] += event.data
                elif isinstance(event, StreamEnded):
                    open_streams.discard(event.stream_id)
            if not open_streams:
                break
        self.assertEqual(open_streams, set())

        self.assertEqual(
            {stream: found[":status"] for stream, found in headers.items()},
            {1: "200", 3: "200", 5: "404", 7: "200"},
        )
        for stream, found in headers.items():
            response = Response(int(found[":status"]), found, bodies[stream])
            self.assertEqual(response.headers["cache-control"], "no-store")
            if stream != 7:
                self.assertEqual(response.headers["content-length"], str(len(response.body)))
        page = Response(200, headers[1], bodies[1])
        self.assertEqual(page.rows()["Your address"], "192.0.2.7, port 54321")
        self.assertEqual(page.words(".//*[@class='server']"), "This server bioconn.example:8443")
        self.assertEqual(json.loads(bodies[3])["alpn"], "h2")
        self.assertEqual(bodies[7], b"")
        self.assertEqual(headers[7]["content-length"], str(len(bodies[1])))
        self.assertEqual(set(seen), {b"HTTP/2"})
