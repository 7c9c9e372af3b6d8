"""
The tests that Twisted, treq and foolscap ship, on our TLS.

Each suite runs twice at once, as C{trial SUITE} and as C{trial --reactor bioconn SUITE}, and may
fail in nothing that it passes with Twisted's own TLS.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import cast

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SkipTest, TestCase

from tests.outcomes import Report
from tests.programs import require_module

CHECKOUT = Path(__file__).parent.parent
OURS = "twisted_bioconn.protocol.TLSConnectorFactory"
TWISTEDS = "twisted.protocols.tls.TLSMemoryBIOFactory"

# Tests of Twisted's TLS classes that look at what is private to them, and at what.
PRIVATE: dict[str, str] = {}


def slow() -> None:
    """Skip a test that takes long, unless it is asked for."""
    if not os.environ.get("BIOCONN_SLOW"):
        raise SkipTest("takes long: set BIOCONN_SLOW=1 to run it")


class ShippedTestCase(TestCase):
    """What compares one run of a suite with another."""

    timeout = 1400

    async def report(self, *arguments: str) -> Report:
        """
        Run L{tests.outcomes} in a process of its own.
        """
        file = Path(self.mktemp()).absolute()
        out, err, code = await getProcessOutputAndValue(
            sys.executable,
            ["-m", "tests.outcomes", "--temp-directory", self.mktemp(), str(file), *arguments],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            path=os.getcwd(),
        )
        self.assertEqual(code, 0, (out + err).decode(errors="replace")[-2000:])
        return cast(Report, json.loads(file.read_text(encoding="utf-8")))

    async def compare(
        self,
        *suites: str,
        stock: tuple[str, ...] = (),
        ours: tuple[str, ...] = ("--reactor", "bioconn"),
    ) -> None:
        """
        Fail if any test passes with the one set of arguments and not with the other.
        """
        runs = [
            Deferred.fromCoroutine(self.report(*arguments, *suites)) for arguments in (stock, ours)
        ]
        # Neither process may outlive the test, so both are waited for before either may fail it.
        await DeferredList(runs, consumeErrors=True)
        with_stock, with_ours = [await run for run in runs]
        self.assertEqual((with_stock["factory"], with_ours["factory"]), (TWISTEDS, OURS))
        passed = {
            name for name, result in with_stock["outcomes"].items() if result["outcome"] == "passed"
        }
        self.assertTrue(passed, "no test passes with Twisted's own TLS")
        self.assert_passed(passed - PRIVATE.keys(), with_ours)

    def assert_passed(self, names: set[str], report: Report) -> None:
        """
        Fail if any of the named tests did not pass, with what became of each that did not.
        """
        lost = []
        for name in sorted(names):
            result = report["outcomes"].get(name)
            if result is None:
                lost.append(f"{name}: did not run")
            elif result["outcome"] != "passed":
                lost.append(f"{name}: {result['outcome']}\n{result['reason']}")
        if lost:
            self.fail(f"{len(lost)} of {len(names)} tests do not pass:\n" + "\n".join(lost))


class TwistedTests(ShippedTestCase):
    """Twisted's own tests, with C{--reactor bioconn}."""

    async def test_ssl(self) -> None:
        """C{listenSSL}, C{connectSSL}, C{startTLS} and the verification of certificates."""
        await self.compare("twisted.test.test_ssl", "twisted.test.test_sslverify")

    async def test_internet(self) -> None:
        """Transports and endpoints, on each reactor that Twisted's tests know."""
        await self.compare(
            "twisted.internet.test.test_tls",
            "twisted.internet.test.test_newtls",
            "twisted.internet.test.test_endpoints",
            "twisted.internet.test.test_posixbase",
            "twisted.internet.test.test_tcp",
            "twisted.internet.test.test_unix",
            "twisted.test.test_internet",
            "twisted.test.test_tcp",
        )

    async def test_protocols(self) -> None:
        """The TLS protocol itself, and protocols that begin TLS or stand before it."""
        await self.compare(
            "twisted.protocols.test",
            "twisted.protocols.haproxy.test",
            "twisted.test.test_amp",
            "twisted.test.test_iosim",
            "twisted.words.test",
        )

    async def test_web(self) -> None:
        """HTTP/1.1, HTTP/2, agents, WSGI and the rest of the web."""
        await self.compare("twisted.web.test")

    async def test_mail(self) -> None:
        """SMTP, IMAP and POP3, with their STARTTLS."""
        await self.compare("twisted.mail.test")

    async def test_in_place(self) -> None:
        """
        The tests of C{twisted.protocols.tls} pass for our two classes under the names of Twisted's.
        """
        suite = "twisted.protocols.test.test_tls"
        report = await self.report("--in-place", suite, suite)
        self.assert_passed(report["outcomes"].keys() - PRIVATE.keys(), report)

    async def test_asyncio(self) -> None:
        """The reactor C{bioconn-asyncio} loses nothing that C{asyncio} has."""
        await self.compare(
            "twisted.test.test_ssl",
            "twisted.test.test_amp",
            "twisted.protocols.test.test_tls",
            "twisted.web.test.test_agent",
            stock=("--reactor", "asyncio"),
            ours=("--reactor", "bioconn-asyncio"),
        )


class TreqTests(ShippedTestCase):
    """The tests of treq, whose integration tests need httpbin."""

    async def test_treq(self) -> None:
        """treq's client over HTTPS."""
        require_module("httpbin")
        await self.compare("treq")

    async def test_asyncio(self) -> None:
        """The same on asyncio, where trial sees each delayed call that is left."""
        require_module("httpbin")
        await self.compare(
            "treq.test.test_treq_integration",
            stock=("--reactor", "asyncio"),
            ours=("--reactor", "bioconn-asyncio"),
        )


class FoolscapTests(ShippedTestCase):
    """The tests of foolscap, which runs all it does over startTLS on one socket."""

    async def test_negotiation(self) -> None:
        """Modules that negotiate TLS, switch it on in mid-connection and drop connections."""
        require_module("foolscap")
        await self.compare(
            *(
                f"foolscap.test.test_{name}"
                for name in ("call", "crypto", "gifts", "negotiate", "pb", "tub", "unreachable")
            )
        )

    async def test_all(self) -> None:
        """Every module."""
        slow()
        require_module("foolscap")
        await self.compare("foolscap")
