"""
One request to an authority, and its answer: with TLS, a deadline, and an end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn, TypeVar
from urllib.parse import urljoin

import attrs
from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import HTTPConnectionPool, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from ..._transport import abort
from ...endpoints import deadline
from ...errors import ConfigurationError
from ...http import agent as agent_with
from ..loading import load_certificates
from .errors import PREFIX, AcmeError, AcmeUnavailable, Problem, in_one_line
from .messages import NotAcme, Reader, is_url

__all__ = ["LARGEST_ANSWER", "LONGEST_WAIT", "Answer", "Exchange"]

LARGEST_ANSWER = 1024 * 1024
"""The most that is read of any answer, in bytes."""

LONGEST_WAIT = 30 * 24 * 3600.0
"""The most that an authority can ask us to wait, in seconds."""

PEM_CHAIN = "application/pem-certificate-chain"

_MOST_ALTERNATES = 10
# A connection that the authority closes as a request is sent loses that request's answer.
_IDLE = 10

_LINK = re.compile("<([^<>]*)>([^<>]*)")
_RELATION = re.compile(r";\s*rel\s*=\s*\"?([^\";,]*)", re.IGNORECASE)

_T = TypeVar("_T")


class _Closed(Deferred[None]):
    """
    Fires when connections are closed.

    Who gives up waiting is told so, but no sooner: what is not closed yet would outlast whoever had
    it.  (The pool would cancel each of them, and say so of one, wrapped in another error.)
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_given_up = False

    def cancel(self) -> None:
        self._is_given_up = True

    def done(self, result: Any) -> None:
        """They are closed, or have failed to be."""
        if isinstance(result, Failure):
            self.errback(result)
        elif self._is_given_up:
            self.errback(CancelledError())
        else:
            self.callback(None)


class Exchange:
    """
    Makes requests.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        trust_roots: Iterable[x509.Certificate] | None,
        user_agent: str,
        timeout: float,
        agent: IAgent | None,
    ) -> None:
        """
        @param timeout: seconds for each request and its answer.
        @param agent: what to ask by, instead of an agent of our own.
        @raise ConfigurationError: the timeout is no time.
        """
        deadline("timeout", timeout)
        self._reactor = reactor
        self._user_agent = user_agent
        self._timeout = timeout
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.cachedConnectionTimeout = _IDLE
        self._agent: Any = agent or agent_with(
            reactor, self._pool, trust_roots=trust_roots, timeout=timeout
        )
        self._running: set[Deferred[Answer]] = set()

    def close(self) -> Deferred[None]:
        """Give up what is being asked, and let go of the connections."""
        for running in list(self._running):
            running.cancel()
        closed = _Closed()
        (self._pool.closeCachedConnections() or succeed(None)).addBoth(closed.done)
        return closed

    async def ask(
        self, method: bytes, url: str, body: bytes | None = None, accept: str = "application/json"
    ) -> Answer:
        """
        Make one request.

        @raise AcmeUnavailable: there was no answer.
        """

        def late(result: object, seconds: float) -> NoReturn:
            raise AcmeUnavailable(f"{in_one_line(url)} has not answered within {seconds:g} seconds")

        running = Deferred.fromCoroutine(self._request(method, url, body, accept))
        self._running.add(running)
        try:
            return await running.addTimeout(self._timeout, self._reactor, late)
        except AcmeUnavailable:
            raise
        except Exception as error:
            cause = _cause(error)
            if isinstance(cause, CancelledError):
                raise CancelledError from None
            reason = in_one_line(str(cause)) or type(cause).__name__
            raise AcmeUnavailable(f"{in_one_line(url)} cannot be asked: {reason}") from error
        finally:
            self._running.discard(running)

    async def _request(self, method: bytes, url: str, body: bytes | None, accept: str) -> Answer:
        headers = Headers(
            {"User-Agent": [self._user_agent], "Accept": [accept], "Accept-Language": ["en"]}
        )
        if body is not None:
            headers.addRawHeader("Content-Type", "application/jose+json")
        producer = None if body is None else _Body(body)
        response = await self._agent.request(method, url.encode("ascii"), headers, producer)
        content = await _Content.of(response, url)
        return Answer(url, response.code, response.headers, content, self._reactor.seconds())


@attrs.frozen
class Answer:
    """
    What an authority has answered.

    @ivar at: when, in seconds as the reactor counts them.
    """

    url: str
    code: int
    headers: Headers
    content: bytes
    at: float

    def unusable(self, why: str) -> AcmeUnavailable:
        """The error for an answer that cannot be used."""
        return AcmeUnavailable(f"the answer of {in_one_line(self.url)} {why}", self.retry_after())

    def header(self, name: str) -> str | None:
        """The last of these headers."""
        values = self.headers.getRawHeaders(name.encode("ascii"))
        return values[-1].decode("latin-1").strip() if values else None

    def media_type(self) -> str:
        """The type of the content, without parameters."""
        return (self.header("content-type") or "").partition(";")[0].strip().lower()

    def checked(self) -> Answer:
        """
        This answer, if it is one.

        @raise AcmeError: it is a refusal.
        @raise AcmeUnavailable: it is neither.
        """
        if 200 <= self.code < 300:
            return self
        problem = self._problem()
        if self.code >= 500 and problem is not None:
            raise self.unusable(f"is status {self.code}: {problem}")
        if problem is None or self.code < 400:
            raise self.unusable(f"is status {self.code}, and not ACME")
        raise AcmeError(problem, self.retry_after())

    def _problem(self) -> Problem | None:
        """The problem that it is; other JSON may come from what stands before the authority."""
        try:
            problem = Reader.of(self.content, "problem").as_problem(self.code)
        except NotAcme:
            return None
        is_one = self.media_type() == "application/problem+json"
        return problem if is_one or problem.type.startswith(PREFIX) else None

    def read(self, what: str, reading: Callable[[Reader], _T]) -> _T:
        """
        Read what is in it.

        @raise AcmeUnavailable: it is something else.
        """
        try:
            if self.media_type() != "application/json":
                raise NotAcme(f"the {what} is of the type {in_one_line(self.media_type())!r}")
            return reading(Reader.of(self.content, what))
        except NotAcme as error:
            raise self.unusable(f"is not ACME: {error}") from None

    def location(self) -> str:
        """The URL that it names."""
        try:
            url = urljoin(self.url, self.header("location") or "")
        except ValueError:
            url = ""
        if url == self.url or not is_url(url):
            raise self.unusable("has no Location with TLS")
        return url

    def alternates(self) -> list[str]:
        """The URLs of other forms of what it is (RFC 8555, section 7.4.2)."""
        found: dict[str, None] = {}
        for value in self.headers.getRawHeaders(b"link") or ():
            for target, parameters in _LINK.findall(value.decode("latin-1")):
                relation = _RELATION.search(parameters)
                if relation is None or "alternate" not in relation[1].lower().split():
                    continue
                with suppress(ValueError):
                    url = urljoin(self.url, target)
                    if is_url(url):
                        found[url] = None
        return list(found)[:_MOST_ALTERNATES]

    def chain(self) -> bytes:
        """
        The PEM that it is.

        @raise AcmeUnavailable: it is something else, or holds something else as well: what is
            written to a file of certificates must not bring a key along.
        """
        if self.media_type() != PEM_CHAIN:
            raise self.unusable(f"is of the type {in_one_line(self.media_type())!r}, not PEM")
        try:
            load_certificates(self.content, "it")
        except ConfigurationError as error:
            raise self.unusable(f"is no chain of certificates: {error}") from None
        if self.content.count(b"-----BEGIN") != self.content.count(b"-----BEGIN CERTIFICATE-----"):
            raise self.unusable("holds more than certificates")
        return self.content

    def retry_after(self) -> float | None:
        """In how many seconds to ask again (RFC 9110, section 10.2.3); L{None} if never said."""
        value = self.header("retry-after") or ""
        if value.isascii() and value.isdigit():
            seconds = float(value[:12]) if len(value) <= 12 else LONGEST_WAIT
        else:
            then = _date(value)
            if then is None:
                return None
            # By the authority's own clock, where it says what that shows.
            now = _date(self.header("date") or "")
            seconds = then - (self.at if now is None else now)
        return min(max(seconds, 0.0), LONGEST_WAIT)


def _date(value: str) -> float | None:
    """An HTTP date, in seconds since 1970."""
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _cause(error: Exception) -> BaseException:
    """What is behind an error of Twisted's HTTP client, which wraps what has gone wrong."""
    cause: BaseException = error
    while getattr(cause, "reasons", None):
        first: Any = cause
        cause = first.reasons[0].value
    return cause


@implementer(IBodyProducer)
class _Body:
    """A request's body, at once."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write it."""
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """There is nothing more to come."""

    resumeProducing = pauseProducing
    stopProducing = pauseProducing


class _Content(Protocol):
    """Reads a response's content, up to L{LARGEST_ANSWER}."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._received = bytearray()
        self._whole: Deferred[bytes] | None = Deferred(lambda _: self._abort())

    @classmethod
    def of(cls, response: IResponse, url: str) -> Deferred[bytes]:
        """The content; to cancel it ends the connection."""
        reading = cls(url)
        whole = reading._whole
        assert whole is not None
        response.deliverBody(reading)
        return whole

    def _abort(self) -> None:
        self._whole = None
        transport: Any = self.transport
        if not hasattr(transport, "abortConnection"):
            # Twisted's client gives contents a proxy of the transport that can close it, which
            # waits for the peer, but not abort it.  It has none any more when all was read.
            transport = getattr(transport, "_producer", transport)
        if transport is not None:
            abort(transport)

    def dataReceived(self, data: bytes) -> None:
        if self._whole is None:
            return
        self._received += data
        if len(self._received) > LARGEST_ANSWER:
            whole = self._whole
            self._abort()
            whole.errback(
                AcmeUnavailable(
                    f"the answer of {in_one_line(self._url)} is larger than {LARGEST_ANSWER} bytes"
                )
            )

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        whole, self._whole = self._whole, None
        if whole is None:
            return
        if reason.check(ResponseDone):
            whole.callback(bytes(self._received))
        else:
            # One that ends with the connection may have been cut short, PotentialDataLoss.
            whole.errback(
                AcmeUnavailable(f"the answer of {in_one_line(self._url)} has ended too early")
            )
