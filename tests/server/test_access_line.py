"""Tests for L{twisted_bioconn.server.access_line}."""

from __future__ import annotations

import io

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.static import Data

from twisted_bioconn.server.ending_site import EndingSite


class LineTests(SynchronousTestCase):
    """A line of the log, for each request."""

    def line(self, target: str, *headers: str) -> str:
        """What is written of a request."""
        page = Data(b"it", "text/plain")
        page.isLeaf = True
        site = EndingSite(page, reactor=Clock())
        site.startFactory()
        self.addCleanup(site.stopFactory)
        written = io.StringIO()
        site._logFile = written
        peer = IPv4Address("TCP", "192.0.2.7", 54321)
        protocol = site.buildProtocol(peer)
        transport = StringTransport(peerAddress=peer)
        protocol.makeConnection(transport)
        lines = [f"GET {target} HTTP/1.1", "Host: a", "Connection: close", *headers, "", ""]
        protocol.dataReceived("\r\n".join(lines).encode())
        self.assertIn(b"200 OK", transport.value())
        return written.getvalue()

    def test_usual(self) -> None:
        said = self.line("/a/b%20c", "User-Agent: it", "Referer: https://there.example/a")
        self.assertRegex(
            said,
            r'^"192\.0\.2\.7" - - \[.*\] "GET /a/b%20c HTTP/1\.1" 200 2'
            r' "https://there\.example/a" "it"\n$',
        )

    def test_without_queries(self) -> None:
        for target in ("/a?secret", "/a?b=c&secret#d", "/a#secret", "//me:secret@a/b", "?secret"):
            said = self.line(target, "Cookie: secret", "Authorization: secret")
            self.assertNotIn("secret", said, target)
            self.assertIn('"GET ', said)
        for referrer in ("https://a/b?secret", "https://me:secret@a/", "https://a/#secret"):
            said = self.line("/a", f"Referer: {referrer}")
            self.assertNotIn("secret", said, referrer)
            self.assertIn("https://a/", said)
