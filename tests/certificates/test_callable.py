"""Tests for L{twisted_bioconn.certificates.callable}."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates.material import BEGIN, DAY, pem
from tests.certificates.placed import asking, certified
from twisted_bioconn.certificates.callable import CallableSource, FirstOf, MemorySource, PerName
from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.certificates.revocation import TrustFiles
from twisted_bioconn.certificates.source import CertificateFacts, CertificateSource, Choice, Found
from twisted_bioconn.client_policy import ANYBODY, ClientCertificate, ClientPolicy
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.hello import ClientHello

A, B, OTHER = asking("a.example.org"), asking("b.example.org"), asking("other.example.com")
NOBODY = asking()


class Oops(Exception):
    """What the code of a user may raise."""


class CallableSourceTests(SynchronousTestCase):
    """L{CallableSource}."""

    def setUp(self) -> None:
        self.one = certified("a.example.org")

    def test_answers(self) -> None:
        choice = Choice(self.one, clients=ANYBODY)
        for answer, expected in (
            (self.one, Choice(self.one)),
            (choice, choice),
            (None, None),
        ):

            async def later(_: ClientHello, answer: Any = answer) -> Any:
                return await succeed(answer)

            at_once: Any = lambda _, answer=answer: answer  # noqa: E731
            self.assertEqual(CallableSource(at_once).find(A), expected)
            calls: list[Any] = [later, lambda _, answer=answer: succeed(answer)]
            for call in calls:
                found = CallableSource(call).find(A)
                assert isinstance(found, Deferred)
                self.assertEqual(self.successResultOf(found), expected)

    def test_hello(self) -> None:
        asked: list[ClientHello] = []
        CallableSource(asked.append).find(A)
        self.assertEqual(asked, [A])

    def test_default(self) -> None:
        self.assertIsNone(CallableSource(lambda _: None).default(A))
        source = CallableSource(lambda _: None, self.one)
        self.assertEqual(source.default(A), Choice(self.one))
        self.assertEqual([fact.names for fact in source.facts()], [("a.example.org",)])

    def test_errors(self) -> None:
        """They are refusals: what it would have asked of the client is not known."""

        def broken(_: ClientHello) -> CertifiedKey:
            raise Oops

        async def broken_later(_: ClientHello) -> CertifiedKey:
            raise Oops

        self.assertRaises(Oops, CallableSource(broken, self.one).find, A)
        calls: list[Any] = [broken_later, lambda _: fail(Oops())]
        for call in calls:
            found = CallableSource(call, self.one).find(A)
            assert isinstance(found, Deferred)
            self.failureResultOf(found, Oops)

    def test_nonsense(self) -> None:
        """So is an answer of another type, which is not shown: it may be a key."""
        secret: Any = b"secret"
        error = self.assertRaises(TypeError, CallableSource(lambda _: secret).find, A)
        found = CallableSource(lambda _: succeed(secret)).find(A)
        assert isinstance(found, Deferred)
        for each in (error, self.failureResultOf(found, TypeError).value):
            self.assertIn("answers with a bytes, where a CertifiedKey", str(each))
            self.assertNotIn("secret", str(each))

    def test_cancelled(self) -> None:
        """Who waits in vain stops also what is waited for, and nothing is logged."""
        cancelled: list[object] = []

        async def later(_: ClientHello) -> CertifiedKey:
            await Deferred(cancelled.append)
            return self.one

        calls: list[Any] = [later, lambda _: Deferred(cancelled.append)]
        for call in calls:
            with capturedLogs() as events:
                found = CallableSource(call).find(A)
                assert isinstance(found, Deferred)
                found.cancel()
            self.failureResultOf(found, CancelledError)
            self.assertEqual(len(events), 0)
        self.assertEqual(len(cancelled), 2)


class MemorySourceTests(SynchronousTestCase):
    """L{MemorySource}."""

    def setUp(self) -> None:
        self.one, self.two = certified("a.example.org", "*.example.net"), certified("b.example.org")

    def test_by_their_names(self) -> None:
        source = MemorySource([self.one, self.two])
        self.assertEqual(source.find(A), Choice(self.one))
        self.assertEqual(source.find(asking("x.example.net")), Choice(self.one))
        self.assertEqual(source.find(B), Choice(self.two))
        self.assertIsNone(source.find(OTHER))
        self.assertEqual(source.default(OTHER), Choice(self.one))

    def test_by_given_names(self) -> None:
        """These alone count."""
        source = MemorySource(
            {"*.example.com": self.two, "B.example.org": self.one, "c.example.org": self.one},
            default=self.two,
        )
        self.assertEqual(source.find(OTHER), Choice(self.two))
        self.assertEqual(source.find(B), Choice(self.one))
        self.assertEqual(source.find(asking("c.example.org")), Choice(self.one))
        self.assertIsNone(source.find(A))
        self.assertEqual(source.default(A), Choice(self.two))
        self.assertEqual(
            [fact.names for fact in source.facts()],
            [("*.example.com",), ("B.example.org", "c.example.org")],
        )

    def test_replace(self) -> None:
        source = MemorySource([self.one])
        source.replace([self.two])
        self.assertIsNone(source.find(A))
        self.assertEqual(source.find(B), Choice(self.two))
        self.assertEqual(source.default(A), Choice(self.two))
        error = self.assertRaises(ConfigurationError, source.replace, {"no name!": self.one})
        self.assertEqual(str(error), "'no name!' is neither a DNS name nor an IP address")
        self.assertEqual(source.find(B), Choice(self.two))

    def test_valid_first(self) -> None:
        late = certified("a.example.org", begin=BEGIN + DAY)
        early = certified("a.example.org", end=BEGIN + DAY)
        time = BEGIN.timestamp()
        source = MemorySource([late, early], now=lambda: time)
        self.assertEqual(source.find(A), Choice(early))
        time += 86400
        self.assertEqual(source.find(A), Choice(late))

    def test_empty(self) -> None:
        source = MemorySource([])
        self.assertIsNone(source.find(A))
        self.assertIsNone(source.default(A))
        self.assertEqual(source.facts(), [])


class Recording(CertificateSource):
    """A source that answers as it was told to, and notes what is done with it."""

    def __init__(self, answer: Any = None, default: Found = None) -> None:
        self.answer = answer
        self.done: list[object] = []
        self._default = default

    def find(self, hello: ClientHello) -> Found | Deferred[Found]:
        self.done.append("find")
        if isinstance(self.answer, Exception):
            raise self.answer
        answer: Found | Deferred[Found] = self.answer
        return answer

    def default(self, hello: ClientHello) -> Found:
        return self._default

    def start(self, reactor: Any) -> None:
        self.done.append(reactor)

    def stop(self) -> Deferred[None]:
        self.done.append("stop")
        return succeed(None)

    def reload(self) -> Deferred[None]:
        self.done.append("reload")
        return self.answer if isinstance(self.answer, Deferred) else succeed(None)

    def facts(self) -> Sequence[CertificateFacts]:
        return [CertificateFacts(names=("x",), source="recording")]


class FirstOfTests(SynchronousTestCase):
    """L{FirstOf}."""

    def setUp(self) -> None:
        self.one, self.two = Choice(certified("a.example.org")), Choice(certified("b.example.org"))

    def test_in_turn(self) -> None:
        """The next is asked only if there was nothing."""
        sources = [Recording(), Recording(self.one), Recording(self.two)]
        self.assertEqual(FirstOf(sources).find(A), self.one)
        self.assertEqual([source.done for source in sources], [["find"], ["find"], []])
        self.assertIsNone(FirstOf(sources[:1]).find(A))

    def test_later(self) -> None:
        waiting: Deferred[Found] = Deferred()
        second: Deferred[Found] = Deferred()
        found = FirstOf([Recording(waiting), Recording(second), Recording(self.two)]).find(A)
        assert isinstance(found, Deferred)
        waiting.callback(None)
        self.assertNoResult(found)
        second.callback(None)
        self.assertEqual(self.successResultOf(found), self.two)

    def test_failure(self) -> None:
        """Where one fails no other is asked: it may ask less of the client."""
        last = Recording(self.two)
        self.assertRaises(Oops, FirstOf([Recording(Oops()), last]).find, A)
        found = FirstOf([Recording(fail(Oops())), last]).find(A)
        assert isinstance(found, Deferred)
        self.failureResultOf(found, Oops)
        self.assertEqual(last.done, [])

    def test_cancelled(self) -> None:
        """Whichever is waited for; the next is not asked."""
        cancelled: list[object] = []
        last = Recording(self.two)
        first: Deferred[Found] = Deferred()
        second: Deferred[Found] = Deferred(cancelled.append)
        found = FirstOf([Recording(first), Recording(second), last]).find(A)
        assert isinstance(found, Deferred)
        first.callback(None)
        found.cancel()
        self.failureResultOf(found, CancelledError)
        self.assertEqual((cancelled, last.done), ([second], []))

    def test_default(self) -> None:
        sources = [Recording(), Recording(default=self.one), Recording(default=self.two)]
        self.assertEqual(FirstOf(sources).default(A), self.one)
        self.assertIsNone(FirstOf(sources[:1]).default(A))

    def test_all(self) -> None:
        waiting: Deferred[Any] = Deferred()
        sources = [Recording(fail(Oops())), Recording(waiting), Recording()]
        source, clock = FirstOf(sources), Clock()
        source.start(clock)
        done = source.reload()
        self.assertNoResult(done)
        waiting.callback(None)
        self.assertIsNone(self.successResultOf(done))
        self.assertIsNone(self.successResultOf(source.stop()))
        for each in sources:
            self.assertEqual(each.done, [clock, "reload", "stop"])
        self.assertEqual(len(source.facts()), 3)
        self.assertEqual(len(self.flushLoggedErrors(Oops)), 1)

    def test_only(self) -> None:
        class Only(Recording):
            only = self.one.certificate

        self.assertIs(FirstOf([Only()]).only, self.one.certificate)
        self.assertIsNone(FirstOf([Only(), Recording()]).only)
        self.assertRaises(ConfigurationError, FirstOf, [])


class PerNameTests(SynchronousTestCase):
    """L{PerName}."""

    def setUp(self) -> None:
        self.exact, self.star = (
            ClientPolicy(ClientCertificate.REQUEST, check=lambda *_: None) for _ in range(2)
        )
        self.one = certified("a.example.org", "x.example.com")
        self.memory = MemorySource([self.one, certified("b.example.org")])
        self.source = PerName(
            self.memory, {"A.example.org": self.exact, "*.example.org": self.star}
        )

    def clients(self, found: object) -> ClientPolicy | None:
        if isinstance(found, Deferred):
            found = self.successResultOf(found)
        assert isinstance(found, Choice)
        return found.clients

    def test_by_name(self) -> None:
        self.assertIs(self.clients(self.source.find(A)), self.exact)
        self.assertIs(self.clients(self.source.find(B)), self.star)
        self.assertIsNone(self.clients(self.source.find(asking("x.example.com"))))
        self.assertIsNone(self.source.find(OTHER))

    def test_default(self) -> None:
        """The name asked for counts, also where no certificate is for it."""
        self.assertIs(self.clients(self.source.default(asking("z.example.org"))), self.star)

    def test_name_left_out(self) -> None:
        """Nobody gets by without a name, or with one that nothing is said for, what the name of
        the certificate protects."""
        self.assertIs(self.clients(self.source.default(NOBODY)), self.exact)
        self.assertIs(self.clients(self.source.default(OTHER)), self.exact)
        by_address = PerName(MemorySource([certified("192.0.2.1")]), {"192.0.2.1": self.exact})
        self.assertIs(self.clients(by_address.find(asking(address="192.0.2.1"))), self.exact)

    def test_strictest(self) -> None:
        """Where several names, or an address, lead to a certificate, the most that one of them asks
        is asked of who says none."""
        ask = ClientPolicy(ClientCertificate.REQUEST, check=print)
        demand = ClientPolicy(ClientCertificate.REQUIRE, [self.one.leaf])
        for names, address, policies in (
            (("open.example", "admin.example"), None, {"open.example": ANYBODY}),
            (("admin.example", "open.example"), None, {"open.example": ask}),
            (("*.example",), None, {"x.y.example": ANYBODY}),
            (("open.example", "192.0.2.1"), "192.0.2.1", {"open.example": ANYBODY}),
            (("open.example",), "192.0.2.1", {"open.example": ask}),
        ):
            strict = "192.0.2.1" if address else "admin.example"
            source = PerName(MemorySource([certified(*names)]), {**policies, strict: demand})
            found = source.find(asking(address=address)) or source.default(asking(address=address))
            self.assertIs(self.clients(found), demand, names)

    def test_files(self) -> None:
        """What is asked may come from files, which are loaded anew."""
        ours, theirs = self.one.leaf, certified("b.example.org").leaf
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(pem(ours))
        trust = TrustFiles(path)
        source, clock = PerName(Recording(Choice(self.one)), {"a.example.org": trust}), Clock()
        before = self.clients(source.find(A))
        self.assertIs(before, trust.policy)
        with open(path, "wb") as file:
            file.write(pem(theirs))
        self.successResultOf(source.reload())
        after = self.clients(source.find(A))
        assert after is not None and after is not before
        self.assertEqual(after.authorities, (theirs,))
        with open(path, "wb") as file:
            file.write(pem(ours))
        source.start(clock)
        after = self.clients(source.find(A))
        assert after is not None
        self.assertEqual(after.authorities, (ours,))
        self.successResultOf(source.stop())
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_later(self) -> None:
        waiting: Deferred[Found] = Deferred()
        found = PerName(Recording(waiting), {"a.example.org": self.exact}).find(A)
        waiting.callback(Choice(self.one))
        self.assertIs(self.clients(found), self.exact)

    def test_what_the_source_says(self) -> None:
        """It stands; and a handshake that is all there is asks nothing more."""
        for choice in (
            Choice(self.one, clients=ANYBODY),
            Choice(self.one, ends_with_handshake=True, alpn=b"acme-tls/1"),
        ):
            self.assertIs(PerName(Recording(choice), {"a.example.org": self.exact}).find(A), choice)

    def test_passed_on(self) -> None:
        inner, clock = Recording(), Clock()
        source = PerName(inner, {"a.example.org": self.exact})
        source.start(clock)
        source.reload()
        source.stop()
        self.assertEqual(inner.done, [clock, "reload", "stop"])
        self.assertEqual(source.facts(), inner.facts())

    def test_only(self) -> None:
        class Only(Recording):
            only = self.one

        self.assertIs(PerName(Only(), {}).only, self.one)
        self.assertIsNone(PerName(Only(), {"a.example.org": self.exact}).only)

    def test_no_name(self) -> None:
        error = self.assertRaises(ConfigurationError, PerName, self.memory, {"*": self.exact})
        self.assertEqual(str(error), "'*' is neither a DNS name nor an IP address")
