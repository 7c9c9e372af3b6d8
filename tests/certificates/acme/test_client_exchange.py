"""L{twisted_bioconn.certificates.acme.exchange}: one request and its answer."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as installed
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss, Request
from twisted.web.http_headers import Headers
from twisted.web.server import NOT_DONE_YET

from tests.certificates.acme.authority import Drop, Fault, SmallAuthority
from tests.certificates.acme.issuing import csr_for
from tests.certificates.acme.material import BEGIN, NAMES
from tests.tls_material import authority, ec_key
from twisted_bioconn.certificates.acme.client import AcmeClient, AcmeError, AcmeUnavailable
from twisted_bioconn.certificates.acme.exchange import LARGEST_ANSWER, LONGEST_WAIT, Answer

reactor: Any = installed

URL = "https://authority.example/here"
DIRECTORY = (
    b'{"newNonce": "https://a.example/n", "newAccount": "https://a.example/a",'
    b' "newOrder": "https://a.example/o"}'
)


def answer(
    headers: dict[str, list[str]] | None = None, code: int = 200, content: bytes = b""
) -> Answer:
    return Answer(URL, code, Headers(headers or {}), content, BEGIN)


class RetryAfterTests(SynchronousTestCase):
    """When to ask again."""

    def after(self, value: str, **others: str) -> float | None:
        headers = {"Retry-After": value, **others}
        return answer({name: [each] for name, each in headers.items()}).retry_after()

    def test_seconds(self) -> None:
        """Seconds; at most a month."""
        self.assertIsNone(answer().retry_after())
        self.assertEqual(self.after("0"), 0.0)
        self.assertEqual(self.after("120"), 120.0)
        for far in ("9999999", "9" * 5000):
            self.assertEqual(self.after(far), LONGEST_WAIT)

    def test_date(self) -> None:
        """A date, by the authority's clock, or by ours where it does not say what it shows."""
        self.assertEqual(self.after("Fri, 15 Jan 2027 08:30:00 GMT"), 1800.0)
        self.assertEqual(
            self.after("Fri, 15 Jan 2027 08:30:00 GMT", Date="Fri, 15 Jan 2027 08:20:00 GMT"),
            600.0,
        )
        self.assertEqual(self.after("Fri, 15 Jan 2027 07:00:00 GMT"), 0.0)
        self.assertEqual(self.after("Fri, 15 Jan 2099 07:00:00 GMT"), LONGEST_WAIT)

    def test_neither(self) -> None:
        """What is neither was not said."""
        for wrong in ("", "soon", "-5", "1.5", "1e9", "²", "Fri, 99 Jan 2027 08:30:00 GMT"):
            self.assertIsNone(self.after(wrong), wrong)

    @given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0")))
    def test_any(self, value: str) -> None:
        """Whatever it is, it is a time to wait or nothing."""
        for seconds in (self.after(value), self.after("Fri, 15 Jan 2027 08:30:00 GMT", Date=value)):
            self.assertTrue(seconds is None or 0 <= seconds <= LONGEST_WAIT)


class AlternatesTests(SynchronousTestCase):
    """Links to other chains."""

    def test_links(self) -> None:
        """Links of that relation, each once, also relative, also several in a header."""
        links = [
            '<https://a.example/1>;rel="alternate"',
            '<https://a.example/1>; rel=alternate, </2> ; title="a, b" ; REL="up Alternate"',
            '<https://a.example/3>;rel="index"',
            '<http://a.example/4>;rel="alternate"',
            "<https://a.example/5>",
            "https://a.example/6;rel=alternate",
            "<https://[>;rel=alternate",
        ]
        self.assertEqual(
            answer({"Link": links}).alternates(),
            ["https://a.example/1", "https://authority.example/2"],
        )

    def test_many(self) -> None:
        """Nobody has so many."""
        links = [f"<https://a.example/{number}>;rel=alternate" for number in range(1000)]
        self.assertEqual(len(answer({"Link": links}).alternates()), 10)

    @given(st.lists(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"))))
    def test_any(self, links: list[str]) -> None:
        """Whatever they are, what comes out can be asked."""
        for url in answer({"Link": links}).alternates():
            self.assertTrue(url.lower().startswith("https://"))


class CheckedTests(SynchronousTestCase):
    """What is an answer, and what is none."""

    problem = b'{"type": "urn:ietf:params:acme:error:malformed", "detail": "no"}'

    def test_refusal(self) -> None:
        """A problem document is a refusal; ACME's own also by another type."""
        for type in ("application/problem+json", "application/json; charset=utf-8"):
            given = answer({"Content-Type": [type]}, 403, self.problem)
            error = self.assertRaises(AcmeError, given.checked)
            self.assertEqual((error.status, str(error)), (403, "no (malformed)"))

    def test_others(self) -> None:
        """What may come from what stands before the authority is no refusal."""
        for type, code, content in (
            ("application/json", 404, b'{"type": "error", "detail": "no"}'),
            ("text/html", 403, b"<html>"),
            ("application/problem+json", 403, b"{"),
            ("application/problem+json", 302, self.problem),
            ("application/problem+json", 500, self.problem),
            ("application/problem+json", 100, self.problem),
        ):
            given = answer({"Content-Type": [type], "Retry-After": ["5"]}, code, content)
            error = self.assertRaises(AcmeUnavailable, given.checked)
            self.assertIn(f"is status {code}", str(error))
            self.assertEqual(error.retry_after, 5.0)


class Response:
    """A response of an agent."""

    transport: Any = None

    def __init__(self, code: int, headers: dict[str, str], *parts: bytes, end: Any = None) -> None:
        self.code = code
        self.headers = Headers({name: [each] for name, each in headers.items()})
        self._parts = parts
        self._end = end or ResponseDone()

    def deliverBody(self, protocol: Any) -> None:
        for part in self._parts:
            protocol.dataReceived(part)
        protocol.connectionLost(Failure(self._end))


class Agent:
    """An agent that has its answers ready."""

    def __init__(self, *responses: Response) -> None:
        self.asked: list[str] = []
        self._responses = list(responses)

    def request(self, method: bytes, uri: bytes, headers: Any, body: Any) -> Any:
        self.asked.append(f"{method.decode()} {uri.decode()}")
        return succeed(self._responses.pop(0))


class ResponseTests(SynchronousTestCase):
    """Answers from another agent."""

    def directory(self, *responses: Response) -> tuple[Any, list[str]]:
        agent: Any = Agent(*responses)
        client = AcmeClient(Clock(), "https://a.example/d", ec_key(), agent=agent)
        return client.directory(), agent.asked

    def test_redirected(self) -> None:
        """A directory that has moved is found, but not without TLS, and not for ever."""
        there = Response(200, {"Content-Type": "application/json"}, DIRECTORY[:9], DIRECTORY[9:])
        found, asked = self.directory(Response(301, {"Location": "/e"}), there)
        self.assertEqual(self.successResultOf(found).new_order, "https://a.example/o")
        self.assertEqual(asked, ["GET https://a.example/d", "GET https://a.example/e"])
        for location in ("http://a.example/e", "", "https://a.example/d", "https://[/"):
            found, asked = self.directory(Response(302, {"Location": location}))
            failure = self.failureResultOf(found, AcmeUnavailable)
            self.assertIn("has no Location with TLS", str(failure.value))
            self.assertEqual(len(asked), 1)
        found, asked = self.directory(*(Response(302, {"Location": f"/{n}"}) for n in range(9)))
        self.assertIn(
            "redirects too often", str(self.failureResultOf(found, AcmeUnavailable).value)
        )
        self.assertEqual(len(asked), 3)

    def test_cut_short(self) -> None:
        """An answer whose end is not known is none, even if it looks whole."""
        cut = Response(
            200, {"Content-Type": "application/json"}, DIRECTORY, end=PotentialDataLoss()
        )
        found, _ = self.directory(cut)
        failure = self.failureResultOf(found, AcmeUnavailable)
        self.assertIn("has ended too early", str(failure.value))

    def test_never_ends(self) -> None:
        """An answer that goes on and on is given up in time, and its connection with it."""
        aborted: list[str] = []

        class Transport:
            def abortConnection(self) -> None:
                aborted.append("aborted")

        class Dripping(Response):
            def deliverBody(self, protocol: Any) -> None:
                protocol.makeConnection(Transport())
                protocol.dataReceived(b"{")
                self.protocol = protocol

        clock = Clock()
        response = Dripping(200, {"Content-Type": "application/json"})
        agent: Any = Agent(response)
        client = AcmeClient(clock, "https://a.example/d", ec_key(), agent=agent)
        found = client.directory()
        for _ in range(29):
            clock.advance(1)
            response.protocol.dataReceived(b" ")
        self.assertNoResult(found)
        self.assertEqual(aborted, [])
        clock.advance(1)
        failure = self.failureResultOf(found, AcmeUnavailable)
        self.assertIn("has not answered within 30 seconds", str(failure.value))
        self.assertEqual(aborted, ["aborted"])
        response.protocol.dataReceived(b"}")
        response.protocol.connectionLost(Failure(ResponseDone()))

    def test_nonces(self) -> None:
        """A nonce that is none is not used (RFC 8555, section 6.5.1)."""
        directory = Response(200, {"Content-Type": "application/json"}, DIRECTORY)
        for wrong in ("", "a b", "MTI=", "MTIzNDU2Nzg5MB", "\xff", "A" * 600):
            agent: Any = Agent(directory, Response(200, {"Replay-Nonce": wrong}))
            client = AcmeClient(Clock(), "https://a.example/d", ec_key(), agent=agent)
            failure = self.failureResultOf(client.register(), AcmeUnavailable)
            self.assertIn("has no nonce", str(failure.value))


class SocketTests(TestCase):
    """Over TLS, on the real reactor."""

    timeout = 300

    async def started(self) -> tuple[SmallAuthority, AcmeClient]:
        small = SmallAuthority(reactor)
        port = await small.listen(reactor)
        self.addCleanup(port.stopListening)
        return small, self.client(small, trust_roots=small.server_roots)

    def client(self, small: SmallAuthority, **options: Any) -> AcmeClient:
        client = AcmeClient(reactor, small.directory_url, ec_key(), **options)
        self.addCleanup(client.close)
        return client

    async def test_whole(self) -> None:
        """A certificate, from the first request to the last."""
        small, client = await self.started()
        await client.register(["ops@example.org"])
        order = await client.new_order(NAMES)
        for url in order.authorizations:
            await client.answer((await client.get_authorization(url)).challenges[0])
        order = await client.finalize(order, csr_for(NAMES, ec_key(1)))
        self.assertEqual(list(await client.certificates(order)), small.issued[0].chains)
        self.assertIsNotNone(await client.renewal_info(small.issued[0].certificate))

    async def test_trust(self) -> None:
        """Whom nobody vouches for is told nothing."""
        small, _ = await self.started()
        client = self.client(small, trust_roots=[authority("nobody").certificate])
        error = await self.assertFailure(client.register(), AcmeUnavailable)
        self.assertIn("does not verify", str(error))
        self.assertEqual(sum(small.counts.values()), 0)

    async def test_dropped(self) -> None:
        """A lost connection; the next request has another."""
        small, client = await self.started()
        await client.register()
        for drop in Drop:
            small.fail("newOrder", Fault(drop=drop))
            error = await self.assertFailure(client.new_order(NAMES), AcmeUnavailable)
            self.assertIn("/new-order cannot be asked: ", str(error))
        await client.new_order(NAMES)
        self.assertEqual((small.counts["newOrder"], len(small.orders)), (3, 2))

    async def test_late(self) -> None:
        """An answer that does not come."""
        small, _ = await self.started()
        client = self.client(small, trust_roots=small.server_roots, timeout=0.3)
        small.fail("directory", Fault(delay=float("inf")))
        error = await self.assertFailure(client.register(), AcmeUnavailable)
        self.assertIn("has not answered within 0.3 seconds", str(error))

    async def ended(self, small: SmallAuthority, size: int, **options: Any) -> str:
        """
        What becomes of an answer that begins, and does not end.

        @param size: how much of it is sent, in bytes.
        @return: the error, when the server's connection has ended.
        """
        ended: Deferred[None] = Deferred()

        def render(request: Request) -> int:
            request.notifyFinish().addErrback(lambda _: ended.callback(None))
            request.setHeader("Content-Type", "application/json")
            request.setHeader("Content-Length", str(2 * LARGEST_ANSWER))
            request.write(b" " * size)
            return NOT_DONE_YET

        self.patch(small, "render", render)
        client = self.client(small, trust_roots=small.server_roots, **options)
        error = await self.assertFailure(client.directory(), AcmeUnavailable)
        await ended.addTimeout(100, reactor)
        return str(error)

    async def test_stalled(self) -> None:
        """A connection whose answer has stalled is cut."""
        small, _ = await self.started()
        self.assertIn("has not answered within 3 seconds", await self.ended(small, 10, timeout=3))

    async def test_oversized(self) -> None:
        """And so is one whose answer is too large, with no waiting for the rest."""
        small, _ = await self.started()
        error = await self.ended(small, LARGEST_ANSWER + 1)
        self.assertIn(f"is larger than {LARGEST_ANSWER} bytes", error)

    async def test_close_is_not_waited_for(self) -> None:
        """Who gives that up is told so when the connection is closed; trial looks whether it is."""
        _, client = await self.started()
        await client.register()

        async def close() -> None:
            await client.close()

        closing = Deferred.fromCoroutine(close())
        closing.cancel()
        await self.assertFailure(closing, CancelledError)

    async def test_closed(self) -> None:
        """After it was closed, nothing is left; trial looks."""
        _, client = await self.started()
        await client.directory()
        await client.close()

    async def test_nobody(self) -> None:
        """Nobody listens."""
        small, client = await self.started()
        small.base = "https://localhost:1"
        error = await self.assertFailure(self.client(small).register(), AcmeUnavailable)
        self.assertIn("cannot be asked", str(error))
        await client.directory()
