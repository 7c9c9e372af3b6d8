"""
C{http-01}: a file that an authority fetches from port 80 (RFC 8555, section 8.3).
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredLock, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.protocols.policies import ThrottlingFactory
from twisted.web.pages import notFound
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from twisted_bioconn.errors import ConfigurationError

from .challenges import Solver, SolverError
from .records import Answer

__all__ = ["Http01Solver", "challenge_resource"]

_CONNECTIONS = 100
"""How many clients may be connected at once: an authority comes from a handful of places."""

_TIMEOUT = 10
"""After how many seconds of silence a client is sent away."""


class _Tokens(Resource):
    """
    The key authorizations, by token.
    """

    isLeaf = True

    def __init__(self) -> None:
        Resource.__init__(self)
        self.shown: dict[bytes, Answer] = {}

    def render_GET(self, request: Request) -> bytes:
        path = request.postpath
        answer = self.shown.get(path[0]) if path is not None and len(path) == 1 else None
        if answer is None:
            missing: bytes = notFound().render(request)
            return missing
        request.setHeader(b"content-type", b"application/octet-stream")
        return answer.key_authorization.encode("ascii")


class _Folder(Resource):
    """
    Nothing itself.
    """

    def __init__(self) -> None:
        Resource.__init__(self)

    def render(self, request: Request) -> bytes:
        missing: bytes = notFound().render(request)
        return missing


def challenge_resource(tokens: IResource) -> Resource:
    """
    The root of a site that answers C{/.well-known/acme-challenge/TOKEN}, and nothing else.

    @param tokens: L{Http01Solver.resource}.
    """
    root, well_known = _Folder(), _Folder()
    root.putChild(b".well-known", well_known)
    well_known.putChild(b"acme-challenge", tokens)
    return root


class Http01Solver(Solver):
    """
    Answers on an endpoint of its own, or on a site that is there already.

    @ivar resource: answers for the token that is the rest of the path: a site that has port 80
        puts it under C{.well-known/acme-challenge}.
    """

    kind = "http-01"

    def __init__(
        self, endpoint: str | IStreamServerEndpoint | None = "tcp:80", *, always: bool = False
    ) -> None:
        """
        @param endpoint: where to listen, as an endpoint or its description; L{None} to listen
            nowhere, where L{resource} is part of another site.
        @param always: listen from start to stop, not only while there is an answer to show.
        """
        self._endpoint = endpoint
        self._always = always
        self._tokens = _Tokens()
        self.resource: Resource = self._tokens
        self._reactor: Any = None
        self._port: IListeningPort | None = None
        self._lock = DeferredLock()

    def _begin(self, reactor: Any) -> None:
        """
        @raise ConfigurationError: the description is of no endpoint.
        """
        if isinstance(self._endpoint, str):
            try:
                self._endpoint = serverFromString(reactor, self._endpoint)
            except Exception as error:  # a parser raises whatever it likes
                raise ConfigurationError(
                    f"http-01 cannot be answered on {self._endpoint!r}: {error}"
                ) from None
        self._reactor = reactor
        if self._always:
            # Should it not succeed, it is tried again when there is an answer, and told of then.
            self._settled().addErrback(lambda failure: failure.trap(SolverError) and None)

    def _end(self) -> Deferred[None]:
        self._tokens.shown.clear()
        self._reactor = None
        return self._settled()

    def show(self, answer: Answer) -> Deferred[None]:
        self._tokens.shown[answer.token.encode("ascii")] = answer
        return self._settled()

    def hide(self, answer: Answer) -> Deferred[None]:
        self._tokens.shown.pop(answer.token.encode("ascii"), None)
        return self._settled()

    def _settled(self) -> Deferred[None]:
        """
        Listen, or listen no longer, one after the other.
        """
        settled: Deferred[None] = self._lock.run(lambda: Deferred.fromCoroutine(self._settle()))
        return settled

    async def _settle(self) -> None:
        if self._endpoint is None or isinstance(self._endpoint, str):
            return
        wanted = self._reactor is not None and (self._always or bool(self._tokens.shown))
        if wanted and self._port is None:
            site = Site(challenge_resource(self._tokens), timeout=_TIMEOUT)
            site.displayTracebacks = False
            site.noisy = False
            factory = ThrottlingFactory(site, maxConnectionCount=_CONNECTIONS)
            factory.noisy = False
            try:
                self._port = await self._endpoint.listen(factory)
            except CancelledError:
                raise
            except Exception as error:  # an endpoint fails with whatever it likes
                raise SolverError(f"http-01 cannot be answered: {error}") from None
        elif not wanted and self._port is not None:
            port, self._port = self._port, None
            await (port.stopListening() or succeed(None))
