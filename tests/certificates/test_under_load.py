"""
Certificates that are exchanged, or looked up later, while a server has much to do.

With BIOCONN_SLOW=1 in the environment it is as much as it has to stand: a hundred reloads under 50
connections and 100 new ones a second, or as many as the machine can carry.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, serverFromString
from twisted.internet.error import ConnectingCancelledError, ConnectionLost
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest

from tests.certificates.load_material import (
    SLOW,
    EchoFactory,
    LoadCase,
    issued_for,
    live_contexts,
    percentile,
    quiet,
    resident,
    settled_objects,
)
from tests.context_material import visiting
from tests.endpoint_material import Application, Applications, EndpointCase
from tests.engines import on_both_engines
from tests.protocol_wire import MemoryConnection
from tests.source_material import Told, choice
from tests.tls_material import TLS12, TLS13
from twisted_bioconn import verify
from twisted_bioconn._sessions import FOR_EACH
from twisted_bioconn.certificates.directory import DirectorySource
from twisted_bioconn.certificates.source import CertificateSource, Choice, Found
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.endpoints import ClientEndpoint, ServerEndpoint
from twisted_bioconn.hello import ClientHello
from twisted_bioconn.negotiated import Negotiated

reactor: Any = installed

NAME, OTHER = "www.example.org", "other.example.org"
LIVE, RELOADS, RATE = (50, 100, 100) if SLOW else (10, 10, 50)
"""Connections that go on, reloads under them, and new connections in a second."""

UNDISTURBED = 200 if SLOW else 20
"""New connections before the reloads, and as many after them."""

GROWTH = 4 * 1024 * 1024
"""Bytes that the process may have grown by, after all of it: what malloc has scattered."""

OBJECTS = 600
"""How many more objects there may be: fewer than one for each new connection and each reload."""

WAITING = 100
"""Clients that wait for a look-up."""

_log = Logger()


class Visits:
    """
    New connections at a rate, as long as it is wanted, or until there are so many.

    Where that is more than the machine can carry, none begins before another has ended: as many are
    under way at most as a client keeps sessions for one server, so that each may have one.

    @ivar results: of each that has ended, whether it has resumed a session.
    @ivar times: seconds from its beginning to its end.
    """

    def __init__(self, case: LoadCase, endpoint: ClientEndpoint, most: int | None = None) -> None:
        self.results: list[bool] = []
        self.times: list[float] = []
        self._case = case
        self._endpoint = endpoint
        self._most = most
        self._begun = 0
        self._failures: list[Failure] = []
        self._loop = LoopingCall.withCount(self._begin)
        self._running = self._loop.start(1 / RATE)

    def _begin(self, count: int) -> None:
        for _ in range(count):
            if self._begun == self._most:
                self._loop.stop()
                return
            if self._begun - self._ended_so_far >= FOR_EACH:
                return
            self._begun += 1
            began = reactor.seconds()
            visit = Deferred.fromCoroutine(self._case.visit(self._endpoint))
            visit.addCallback(self._ended, began).addErrback(self._failures.append)

    def _ended(self, facts: Negotiated, began: float) -> None:
        self.results.append(facts.resumed)
        self.times.append(reactor.seconds() - began)

    @property
    def _ended_so_far(self) -> int:
        return len(self.results) + len(self._failures)

    async def end(self) -> None:
        """Wait for those that have begun; begin no more, unless there is a number to come to."""
        if self._most is None and self._loop.running:
            self._loop.stop()
        await self._running
        await self._case.until(lambda: self._ended_so_far == self._begun, "all visits have ended")
        for failure in self._failures:
            failure.raiseException()

    @property
    def resumed(self) -> float:
        """Which part of them has resumed a session."""
        return sum(self.results) / len(self.results)


class ReloadTests(LoadCase):
    """A directory of certificates that change under connections."""

    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        for name in (NAME, OTHER):
            self.renew(name)

    def renew(self, name: str) -> int:
        """
        Put a new certificate where the one of a name is, as programs do that are careful.

        @return: its serial number.
        """
        path = os.path.join(self.directory, f"{name}.pem")
        new = issued_for(name)
        with open(f"{path}.new", "wb") as file:
            file.write(new.to_pem())
        os.replace(f"{path}.new", path)
        return new.leaf.serial_number

    async def listen(self, version: int) -> ServerOptions:
        """A server for the directory, by its endpoint string."""
        text = f"bioconn:0:interface=127.0.0.1:certificates={self.directory}"
        endpoint: Any = serverFromString(reactor, text)
        if version == TLS12:
            endpoint.options = ServerOptions(
                DirectorySource(self.directory), versions=(version, version)
            )
        self.listening(await endpoint.listen(EchoFactory()))
        options: ServerOptions = endpoint.options
        return options

    async def reload(self, options: ServerOptions) -> None:
        """Renew both certificates, and see that who has no session gets the new one."""
        serials = {name: self.renew(name) for name in (NAME, OTHER)}
        await options.upkeep.reload()
        for name, serial in serials.items():
            facts = await self.visit(self.endpoint(name))
            assert facts.peer_certificate is not None
            self.assertEqual(facts.peer_certificate.serial_number, serial)

    async def check(self, version: int) -> None:
        quiet(self)
        options = await self.listen(version)
        endpoint, known = self.endpoint(NAME), self.endpoint(NAME)
        # From here on all has been there once: what is made at first use, and a session.
        for _ in range(5):
            await self.reload(options)
            facts = await self.visit(endpoint)
        await self.visit(known)
        self.assertEqual(facts.version, {TLS12: "TLSv1.2", TLS13: "TLSv1.3"}[version])
        pumps = await self.pumps(LIVE, NAME)
        before = await self.undisturbed(endpoint)
        memory, contexts, objects = self.grown()
        began = reactor.seconds()
        visits = Visits(self, endpoint)
        for _ in range(RELOADS):
            await self.reload(options)
            facts = await self.visit(known)
            self.assertTrue(facts.resumed, "a session has not outlived a reload")
        await self.until(lambda: len(visits.results) >= UNDISTURBED, "there were enough visits")
        await visits.end()
        took = reactor.seconds() - began
        after = await self.undisturbed(endpoint)
        more_memory, more_contexts, more_objects = self.grown()
        count = await self.finished(pumps)
        figures = (
            f"{facts.version}: {RELOADS} reloads under {LIVE} connections that pumped {count}"
            f" bytes, within {took:.1f} s; {len(visits.results)} new ones,"
            f" {len(visits.results) / took:.0f} a second, p99"
            f" {percentile(visits.times, 0.99) * 1000:.1f} ms; resumed {before:.0%} before,"
            f" {visits.resumed:.1%} meanwhile, {after:.0%} after; resident"
            f" {memory / 2**20:.1f} MiB before, {more_memory / 2**20:.1f} after; contexts"
            f" {contexts} and {more_contexts}; objects {objects.total()} and"
            f" {more_objects.total()}: {dict((more_objects - objects).most_common(3))} more"
        )
        _log.info("{figures}", figures=figures)
        self.assertEqual((before, after), (1.0, 1.0), figures)
        # One more is that of the connections that have lasted: its certificate is not served now.
        self.assertEqual(more_contexts, contexts + 1, figures)
        for kind in ("CertifiedKey", "Visit"):
            self.assertEqual(more_objects[kind], objects[kind], f"{kind}: {figures}")
        # How far those that pump have come, and what sessions are kept, makes a difference.
        self.assertLess(more_objects.total() - objects.total(), OBJECTS, figures)
        self.assertLess(more_memory - memory, GROWTH, figures)
        # The first of them have one session between them.
        self.assertGreater(visits.resumed, 0.5, figures)

    async def undisturbed(self, endpoint: ClientEndpoint) -> float:
        """
        Some new connections, one after the other.

        @return: which part of them has resumed a session.
        """
        facts = [await self.visit(endpoint) for _ in range(UNDISTURBED)]
        return sum(each.resumed for each in facts) / UNDISTURBED

    def grown(self) -> tuple[int, int, Counter[str]]:
        """How large the process is: bytes, contexts of OpenSSL, and objects by their types."""
        # It keeps what it has found out of so many certificates, and no more.
        verify._verify_host.cache_clear()
        return resident(), len(list(live_contexts())), settled_objects()

    async def test_tls13(self) -> None:
        await self.check(TLS13)

    async def test_tls12(self) -> None:
        await self.check(TLS12)


class _Later(CertificateSource):
    """
    Has a certificate for one name at once, and for the other when it is told to.

    @ivar asked: how many have asked for the other.
    @ivar waiting: how many wait.
    @ivar cancelled: how many were cancelled.
    """

    def __init__(self) -> None:
        self._choices = {name: Choice(issued_for(name)) for name in (NAME, OTHER)}
        self._answers: list[Deferred[Found]] = []
        self.asked = 0
        self.cancelled = 0

    @property
    def waiting(self) -> int:
        return len(self._answers)

    def find(self, hello: ClientHello) -> Found | Deferred[Found]:
        if hello.server_name != OTHER:
            return self._choices[NAME]
        self.asked += 1
        answer: Deferred[Found] = Deferred(self._cancel)
        self._answers.append(answer)
        return answer

    def answer(self) -> None:
        """Have it for all who wait."""
        answers, self._answers = self._answers, []
        for answer in answers:
            answer.callback(self._choices[OTHER])

    def _cancel(self, answer: Deferred[Found]) -> None:
        self._answers.remove(answer)
        self.cancelled += 1


class LaterOnWireTests(LoadCase):
    """Look-ups that take their time, on real ports."""

    async def serve(
        self, source: CertificateSource, handshake_timeout: float | None = None
    ) -> None:
        below = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        options = ServerOptions(source)
        endpoint = ServerEndpoint(below, options, reactor, handshake_timeout=handshake_timeout)
        self.listening(await endpoint.listen(EchoFactory()))

    def visits_that_wait(self) -> list[Deferred[Negotiated]]:
        """Clients that ask for what takes its time."""
        endpoint = self.endpoint(OTHER)
        # How long that is, the source says.
        endpoint.timeout = None
        return [Deferred.fromCoroutine(self.visit(endpoint)) for _ in range(WAITING)]

    async def cost(self, endpoint: ClientEndpoint) -> tuple[float, float]:
        """
        What new connections take, at their best of three times: what else the machine does is not
        meant.

        @return: seconds of this process's own for each, and seconds until the slowest in a hundred
            was done.
        """
        own, slowest = float("inf"), float("inf")
        for _ in range(3):
            began = time.process_time()
            visits = Visits(self, endpoint, most=RATE)
            await visits.end()
            own = min(own, (time.process_time() - began) / RATE)
            slowest = min(slowest, percentile(visits.times, 0.99))
        return own, slowest

    async def test_others(self) -> None:
        """Others do not wait for a hundred that do, and cost no more than while nobody does."""
        if not SLOW:
            raise SkipTest("takes long: set BIOCONN_SLOW=1 to run it")
        source = _Later()
        await self.serve(source)
        endpoint = self.endpoint(NAME)
        await self.cost(endpoint)
        before = await self.cost(endpoint)
        waiting = self.visits_that_wait()
        await self.until(lambda: source.waiting == WAITING, "all of them wait")
        # None of these would come to an end if it waited, too.
        beside = await self.cost(endpoint)
        self.assertEqual(source.waiting, WAITING)
        source.answer()
        for each in waiting:
            await each
        after = await self.cost(endpoint)
        own = (before[0] + after[0]) / 2
        figures = (
            f"{RATE} connections: p99 {before[1] * 1000:.2f} ms with nobody waiting,"
            f" {beside[1] * 1000:.2f} ms beside {WAITING} that wait, {after[1] * 1000:.2f} ms when"
            f" those are done; {own * 1000:.2f} ms of the processor's time for each, and"
            f" {beside[0] / own:.2f} times that beside those"
        )
        _log.info("{figures}", figures=figures)
        self.assertLess(beside[0], 3 * own, figures)

    async def test_leaves(self) -> None:
        """Whoever waits and leaves has the look-up cancelled at once, and nobody else's."""
        source = _Later()
        await self.serve(source)
        waiting = self.visits_that_wait()
        await self.until(lambda: source.waiting == WAITING, "all of them wait")
        for each in waiting[::2]:
            each.addErrback(lambda failure: failure.trap(ConnectingCancelledError))
            each.cancel()
        await self.until(lambda: source.cancelled == WAITING // 2, "half of them have left")
        self.assertEqual(source.waiting, WAITING - WAITING // 2)
        source.answer()
        for each in waiting[1::2]:
            self.assertFalse((await each).resumed)
        self.assertEqual((source.asked, source.cancelled), (WAITING, WAITING // 2))

    async def test_deadline(self) -> None:
        """Look-ups that do not come to an end are cancelled when their time is up."""
        source = _Later()
        await self.serve(source, handshake_timeout=2.0)
        waiting = self.visits_that_wait()
        for each in waiting:
            error = await each.addErrback(lambda failure: failure.value)
            self.assertIsInstance(error, ConnectionLost)
        # On a machine with much to do, some have no time left in which to ask.
        self.assertGreater(source.asked, 0)
        self.assertEqual((source.waiting, source.cancelled), (0, source.asked))
        self.assertFalse((await self.visit(self.endpoint(NAME))).resumed)


@on_both_engines
class LaterTests(EndpointCase):
    """A hundred look-ups that wait, where time passes when it is told to."""

    def setUp(self) -> None:
        super().setUp()
        self.cancelled: list[Deferred[Any]] = []
        self.answers: list[Deferred[Any]] = []
        self.source = Told({NAME: choice(NAME)})
        self.listen(Applications(), ServerOptions(self.source))
        self.wires: list[MemoryConnection] = []
        self.waiting = [self.begin(OTHER) for _ in range(WAITING)]
        self.assertEqual([each for each in self.waiting if each], [])

    def begin(self, name: str) -> list[Any]:
        """A client for a name: where what becomes of it will be."""
        if name == OTHER:
            self.source.answers[OTHER] = Deferred(self.cancelled.append)
            self.answers.append(self.source.answers[OTHER])
        results: list[Any] = []
        self.client_endpoint(visiting(name)).connect(Applications()).addBoth(results.append)
        self.wires.append(self.meet())
        return results

    def test_others(self) -> None:
        """No other waits for them, not for a moment."""
        began = self.clock.seconds()
        for _ in range(WAITING):
            [application] = self.begin(NAME)
            self.assertIsInstance(application, Application)
        self.assertEqual(self.clock.seconds(), began)
        self.assertEqual([each for each in self.waiting if each], [])
        # The last is answered first.
        for answer in reversed(self.answers):
            answer.callback(choice(OTHER))
        self.clock.settle()
        for [application] in self.waiting:
            self.assertIsInstance(application, Application)
        self.assertEqual(self.cancelled, [])

    def test_deadline(self) -> None:
        """All end at theirs, and each look-up is cancelled."""
        self.wait(9)
        self.assertEqual(self.cancelled, [])
        self.wait(2)
        self.assertEqual(self.cancelled, self.answers)
        for [failure] in self.waiting:
            self.assertIsInstance(failure, Failure)
        self.assertEqual(len(self.lines), WAITING)
        self.assertLeftNothing()

    def test_leave(self) -> None:
        """The look-up of one that leaves is cancelled, and no other."""
        for wire in self.wires[::2]:
            wire.abortConnection()
        self.clock.settle()
        self.assertEqual(self.cancelled, self.answers[::2])
        for answer in self.answers[1::2]:
            answer.callback(choice(OTHER))
        self.clock.settle()
        for [application] in self.waiting[1::2]:
            self.assertIsInstance(application, Application)
