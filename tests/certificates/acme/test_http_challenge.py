"""Tests for L{twisted_bioconn.certificates.acme.http_challenge}."""

from __future__ import annotations

from typing import Any

import treq
from attrs import evolve
from treq.testing import StubTreq
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.certificates.acme.test_challenges import ANSWER as TLS_ANSWER
from tests.peers.processes import free_port
from twisted_bioconn.certificates.acme.challenges import SolverError
from twisted_bioconn.certificates.acme.http_challenge import Http01Solver, challenge_resource
from twisted_bioconn.errors import ConfigurationError

reactor: Any = installed

ANSWER = evolve(TLS_ANSWER, kind="http-01")
PATH = f"/.well-known/acme-challenge/{ANSWER.token}"


class ResourceTests(SynchronousTestCase):
    """L{challenge_resource}."""

    def setUp(self) -> None:
        self.solver = Http01Solver(None)
        self.client: Any = StubTreq(challenge_resource(self.solver.resource))

    def get(self, path: str) -> tuple[int, bytes]:
        response = self.successResultOf(self.client.get(f"http://www.example.org{path}"))
        return response.code, self.successResultOf(treq.content(response))

    def test_answer(self) -> None:
        self.successResultOf(self.solver.show(ANSWER))
        self.assertEqual(self.get(PATH), (200, ANSWER.key_authorization.encode()))
        self.successResultOf(self.solver.hide(ANSWER))
        self.assertEqual(self.get(PATH)[0], 404)

    def test_nothing_else(self) -> None:
        self.successResultOf(self.solver.show(ANSWER))
        token = ANSWER.token
        for path in (
            *("/", "/.well-known", "/.well-known/acme-challenge", "/.well-known/acme-challenge/"),
            *(f"/{token}", f"/.well-known/{token}", f"{PATH}/", f"{PATH}/x", f"{PATH}x"),
            *(PATH.lower(), f"/.well-known/acme-challenge//{token}", PATH.replace("/", "//")),
            "/.well-known/acme-challenge/../../etc/passwd",
            "/.well-known/acme-challenge/%00%ff",
        ):
            code, content = self.get(path)
            self.assertEqual(code, 404, path)
            self.assertNotIn(ANSWER.key_authorization.encode(), content)


class ListeningTests(TestCase):
    """It listens while there is something to show."""

    def setUp(self) -> None:
        self.port = free_port()
        self.description = f"tcp:{self.port}:interface=127.0.0.1"

    def solver(self, **options: Any) -> Http01Solver:
        solver = Http01Solver(self.description, **options)
        solver.start(reactor)
        self.addCleanup(lambda: solver.stop() if solver._users else None)
        return solver

    async def failed(self, shown: Deferred[None]) -> Any:
        with self.assertRaises(SolverError) as caught:
            await shown
        return caught.exception

    async def get(self) -> bytes:
        response = await treq.get(f"http://127.0.0.1:{self.port}{PATH}", persistent=False)
        content: bytes = await response.content()
        return content

    async def is_free(self) -> bool:
        endpoint = TCP4ServerEndpoint(reactor, self.port, interface="127.0.0.1")
        try:
            port = await endpoint.listen(Factory())
        except CannotListenError:
            return False
        await port.stopListening()
        return True

    async def test_while_needed(self) -> None:
        solver = self.solver()
        self.assertTrue(await self.is_free())
        other = evolve(ANSWER, token="other")
        await solver.show(ANSWER)
        await solver.show(other)
        self.assertEqual(await self.get(), ANSWER.key_authorization.encode())
        await solver.hide(ANSWER)
        self.assertFalse(await self.is_free())
        await solver.hide(other)
        self.assertTrue(await self.is_free())

    async def test_always(self) -> None:
        solver = self.solver(always=True)
        self.assertFalse(await self.is_free())
        await solver.stop()
        self.assertTrue(await self.is_free())

    async def test_stopped(self) -> None:
        solver = self.solver()
        await solver.show(ANSWER)
        await solver.stop()
        self.assertTrue(await self.is_free())

    async def test_at_the_same_time(self) -> None:
        """What is shown and hidden faster than a port opens comes out right."""
        solver = self.solver()
        for _ in range(20):
            shown = solver.show(ANSWER)
            hidden = solver.hide(ANSWER)
            again = solver.show(ANSWER)
        for each in (shown, hidden, again):
            await each
        self.assertEqual(await self.get(), ANSWER.key_authorization.encode())

    async def test_taken(self) -> None:
        """A port that another program has is named; when it is free it is used."""
        endpoint = TCP4ServerEndpoint(reactor, self.port, interface="127.0.0.1")
        port = await endpoint.listen(Factory())
        solver = self.solver()
        error: Any = await self.failed(solver.show(ANSWER))
        self.assertIn(f"127.0.0.1:{self.port}", str(error))
        await port.stopListening()
        await solver.show(ANSWER)
        self.assertEqual(await self.get(), ANSWER.key_authorization.encode())

    def test_no_endpoint(self) -> None:
        solver = Http01Solver("nonsense:80")
        error = self.assertRaises(ConfigurationError, solver.start, reactor)
        self.assertIn("'nonsense:80'", str(error))

    async def test_endpoint_that_fails(self) -> None:
        class Failing:
            def listen(self, factory: object) -> Deferred[Any]:
                return fail(RuntimeError("no such network"))

        solver = Http01Solver(Failing())  # type: ignore[arg-type]
        solver.start(reactor)
        error: Any = await self.failed(solver.show(ANSWER))
        self.assertEqual(str(error), "http-01 cannot be answered: no such network")
