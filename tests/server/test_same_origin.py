"""
Tests for L{twisted_bioconn.server.same_origin}: what the status and the visitors' page answer to
whom, a line of a table for each who may ask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
from twisted.internet.address import UNIXAddress
from twisted.web.http_headers import Headers
from twisted.web.server import Request
from twisted.web.test.requesthelper import DummyChannel

from tests.server.status_material import StatusCase
from tests.server.test_facts import USUAL
from tests.server.test_handshakes import HandshakesCase
from tests.server.test_status import CERTIFIED
from tests.server.test_status import PATHS as READ
from twisted_bioconn.server.same_origin import foreign_name, foreign_page
from twisted_bioconn.server.status import Controls
from twisted_bioconn.server.status_ports import Audience

#: Paths of the status; the last ones change something.
PATHS = (*READ, "/trace?of=1.1", "/nowhere", "/control/drain", "/control/close/1", "/control/x")

#: Those of the page.
PAGE_PATHS = ("/", "/facts.json", "/handshakes", "/nowhere")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "get")

OWN_HOSTS = ("localhost", "LocalHost:9090", "127.0.0.1:9090", "127.0.0.1", "[::1]:9090", "[::1]")
STRANGE_HOSTS = (
    *("", " ", "evil.example", "evil.example:9090", "localhost.evil.example", "evil.localhost"),
    *("127.0.0.1.evil.example:9090", "localhost@evil.example", "evil.example@localhost"),
    *("127.0.0.2", "127.1", "2130706433", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "::1"),
    *("localhost:", "localhost:x", "localhost.", "local host", "localhost, evil.example", "null"),
)

#: What a browser, or what is none, says of where its request is from; and who says so.
OWN: tuple[dict[str, Any], ...] = (
    {},
    {"Origin": "http://localhost:9090"},
    {"Origin": "HTTP://LOCALHOST:9090"},
    {"Sec_Fetch_Site": "same-origin"},
    {"Sec_Fetch_Site": "none"},
    {"Referer": "http://localhost:9090/"},
    {"Referer": "http://localhost:9090/status?a=b"},
    {"Origin": "http://localhost:9090", "Sec_Fetch_Site": "same-origin"},
    # The other two are newer, and are for this alone.
    {"Sec_Fetch_Site": "none", "Referer": "http://evil.example/"},
)
STRANGE: tuple[dict[str, Any], ...] = (
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost"},
    {"Origin": "http://localhost:9091"},
    {"Origin": "https://localhost:9090"},
    {"Origin": "http://localhost:9090.evil.example"},
    {"Origin": "http://evil.example/http://localhost:9090"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Sec_Fetch_Site": "Same-Origin"},
    {"Sec_Fetch_Site": "none of these"},
    {"Referer": "http://evil.example/"},
    {"Referer": "http://localhost:9091/"},
    {"Referer": "https://localhost:9090/"},
    {"Referer": "http://localhost:9090@evil.example/"},
    {"Referer": "http://evil.example/#http://localhost:9090/"},
    {"Referer": "http://[nonsense"},
    {"Referer": "about:blank"},
    {"Referer": ""},
    {"Origin": "http://evil.example", "Sec_Fetch_Site": "same-origin"},
    {"Origin": "http://localhost:9090", "Sec_Fetch_Site": "cross-site"},
    {"Origin": "http://evil.example", "Referer": "http://localhost:9090/"},
)
VISIT = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}

#: What lets pages of other origins read an answer, or ask more than what needs no leave.
CORS = "access-control-"


class StatusTests(StatusCase):
    """The status, on a port of this machine's."""

    def setUp(self) -> None:
        super().setUp()
        self.did: list[str] = []
        self.status.controls = Controls(drain=lambda: self.did.append("drain"))

    def requests(self, paths: Sequence[str] = PATHS) -> Iterator[tuple[str, str]]:
        for path in paths:
            for method in METHODS:
                yield path, method

    def assert_no(self, *arguments: Any, **more: Any) -> None:
        answer = self.ask(*arguments, **more)
        self.assertEqual(answer.code, 403, (arguments, more))
        self.assertFalse([name for name in answer.headers if name.startswith(CORS)])
        if answer.body:
            self.assertEqual(answer.told.keys(), {"error"})
            self.assertTrue(answer.told["error"].isprintable())

    def test_own(self) -> None:
        """Whoever asks by a name of it, and from no other page, is answered."""
        for path, method in self.requests(READ):
            expected = 200 if method in ("GET", "HEAD") else 405
            for host in OWN_HOSTS:
                answer = self.ask(path, method, host=host)
                self.assertEqual(answer.code, expected, (path, method, host))
        for headers in OWN:
            for path in READ:
                answer = self.ask(path, **headers)
                self.assertEqual(answer.code, 200, (path, headers))
                self.assertFalse([name for name in answer.headers if name.startswith(CORS)])

    def test_strange_names(self) -> None:
        """By no other name is anything told, whatever the path and the method."""
        for path, method in self.requests():
            for host in ("evil.example:9090", None):
                self.assert_no(path, method, host=host, X_Bioconn_Control="1")
        for host in STRANGE_HOSTS:
            for path in ("/status", "/control/drain"):
                self.assert_no(path, host=host)

    def test_strange_pages(self) -> None:
        """To no other page is anything told, whatever the path and the method."""
        for path, method in self.requests():
            self.assert_no(path, method, Origin="http://evil.example", X_Bioconn_Control="1")
        for headers in (*STRANGE, VISIT):
            for path in PATHS:
                self.assert_no(path, **headers)

    def test_leave(self) -> None:
        """A browser that asks for leave, for another page, has none."""
        for path in PATHS:
            self.assert_no(
                path,
                "OPTIONS",
                Origin="http://evil.example",
                Access_Control_Request_Method="POST",
                Access_Control_Request_Headers="x-bioconn-control",
                Access_Control_Request_Private_Network="true",
            )

    def test_changes(self) -> None:
        """
        Where something can be changed, at a socket and with a certificate, no page of another
        origin changes it.
        """
        there: tuple[dict[str, Any], ...] = (
            {"audience": Audience.OWNER, "here": UNIXAddress("/s"), "host": "localhost:9090"},
            {"audience": Audience.CERTIFIED, "negotiated": CERTIFIED, "host": "front.example"},
        )
        for more in there:
            for headers in (*STRANGE, VISIT):
                answer = self.order("/control/drain", **more, **headers)
                self.assertEqual(answer.code, 403, (more, headers))
        self.assertEqual(self.did, [])
        for host in STRANGE_HOSTS:
            answer = self.order("/control/drain", **{**there[1], "host": host})
            self.assertEqual(answer.code, 403, host)
        self.assertEqual(self.did, [])
        for number, more in enumerate(there):
            self.assertEqual(self.order("/control/drain", **more).code, 200)
            self.assertEqual(len(self.did), number + 1)


class PageTests(HandshakesCase):
    """The page that shows a visitor what was negotiated."""

    def code(self, path: str, asked: str = "localhost:8443", **headers: str) -> int:
        answer = self.ask(path, asked=asked, **headers)
        head = answer.text.partition("\r\n\r\n")[0]
        self.assertNotIn(CORS, head.lower())
        answer.lose()
        return int(head.split()[1])

    def test_own(self) -> None:
        for path in PAGE_PATHS:
            expected = 404 if path == "/nowhere" else 200
            for host in OWN_HOSTS:
                self.assertEqual(self.code(path, host), expected, (path, host))
            for headers in OWN:
                # There is no TLS below, in memory.
                own = {name: value.replace("9090", "8443") for name, value in headers.items()}
                self.assertEqual(self.code(path, **own), expected, (path, headers))

    def test_named_in_the_handshake(self) -> None:
        """What the handshake has named, a browser has seen a certificate for."""
        self.assertEqual(self.code("/", "page.example:8443"), 403)
        self.negotiated = attrs.evolve(USUAL, server_name="page.example")
        self.assertEqual(self.code("/", "page.example:8443"), 200)
        self.assertEqual(self.code("/", "Page.Example"), 200)
        self.assertEqual(self.code("/", "other.example:8443"), 403)

    def test_strange(self) -> None:
        for path in PAGE_PATHS:
            for host in STRANGE_HOSTS:
                self.assertEqual(self.code(path, host), 403, (path, host))
            for headers in STRANGE:
                other = {name: value.replace("9090", "8443") for name, value in headers.items()}
                self.assertEqual(self.code(path, **other), 403, (path, headers))

    def test_followed(self) -> None:
        """A link to it may be anywhere; to what it is made of there is none."""
        self.assertEqual(self.code("/", **VISIT), 200)
        for path in PAGE_PATHS[1:]:
            self.assertEqual(self.code(path, **VISIT), 403, path)
        for name, value in {
            "Sec_Fetch_Dest": "iframe",
            "Sec_Fetch_Mode": "no-cors",
            "Origin": "null",
        }.items():
            self.assertEqual(self.code("/", **{**VISIT, name: value}), 403, name)
        self.assertEqual(self.code("/", "evil.example", **VISIT), 403)


class TwiceTests(StatusCase):
    """What a request says twice counts twice."""

    def request(self, **headers: list[str]) -> Request:
        request = Request(DummyChannel(), False)
        names = {name.replace("_", "-"): values for name, values in headers.items()}
        request.requestHeaders = Headers(names)
        return request

    def test_hosts(self) -> None:
        for hosts in ([], ["localhost", "localhost"], ["evil.example", "localhost"]):
            self.assertIsNotNone(foreign_name(self.request(Host=hosts), None), hosts)
        self.assertIsNone(foreign_name(self.request(Host=["localhost"]), None))

    def test_pages(self) -> None:
        own, other = "http://localhost", "http://evil.example"
        for name, good, bad in (
            ("Origin", own, other),
            ("Sec_Fetch_Site", "none", "cross-site"),
            ("Referer", f"{own}/", f"{other}/"),
        ):
            for values in ([good, bad], [bad, good]):
                request = self.request(Host=["localhost"], **{name: values})
                self.assertIsNotNone(foreign_page(request), (name, values))
            self.assertIsNone(foreign_page(self.request(Host=["localhost"], **{name: [good]})))
