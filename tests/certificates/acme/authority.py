"""
A small ACME authority, written from RFC 8555, 8738, 9773 and draft-aaron-acme-profiles.

It refuses what a real one would refuse, goes by a clock that a test moves, counts what it was asked
for, and fails as it is told to.  It runs in memory (L{SmallAuthority.agent}), or on a port
(L{SmallAuthority.listen}).
"""

from __future__ import annotations

import math
import secrets
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from email.utils import formatdate
from enum import Enum
from typing import Any

import attrs
from cryptography import x509
from OpenSSL.crypto import X509, PKey
from treq.testing import RequestTraversalAgent
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.ssl import CertificateOptions
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.certificates.acme.desk import PROFILES, Desk, Validate, accept_all
from tests.certificates.acme.issuing import Issuer, Profile, Refused
from tests.certificates.acme.records import Answer, Signed, read_jws, read_key, to_json

__all__ = ["Drop", "Fault", "Profile", "Refused", "SmallAuthority", "accept_all"]

_MOST_NONCES = 1000


class Drop(Enum):
    """When a connection is dropped."""

    BEFORE = "before the work"
    AFTER = "after the work"


@attrs.frozen(kw_only=True)
class Fault:
    """
    How a request is to fail.

    @ivar refusal: it is refused, and nothing done.
    @ivar status: this status, with a page for people, and nothing done.
    @ivar retry_after: what goes with that status.
    @ivar drop: the connection is dropped.
    @ivar delay: seconds before the answer is sent, when all was done; infinite for never.
    @ivar content_type: the type of the answer, when all was done.
    @ivar body: the answer, when all was done.
    """

    refusal: Refused | None = None
    status: int | None = None
    retry_after: float | str | None = None
    drop: Drop | None = None
    delay: float | None = None
    content_type: str | None = None
    body: bytes | None = None


class SmallAuthority(Desk):
    """
    An authority.  All attributes may be changed at any time.

    @ivar counts: how often each step was asked for, done or not.
    @ivar server_roots: who vouches for its server, once it listens.
    @ivar bad_nonces: how many of the next good nonces are refused.
    """

    def __init__(
        self,
        clock: Any,
        validate: Validate = accept_all,
        *,
        now: Callable[[], float] | None = None,
        profiles: Mapping[str, Profile] = PROFILES,
        external: Mapping[str, bytes] | None = None,
    ) -> None:
        """
        @param clock: for answers that are late.
        @param now: seconds since 1970; the clock's if L{None}.
        """
        super().__init__(clock.seconds if now is None else now, validate, profiles, external or {})
        self._clock = clock
        self.server_roots: list[x509.Certificate] = []
        self.bad_nonces = 0
        self.counts: Counter[str] = Counter()
        self._nonces: dict[str, None] = {}
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}
        self._limits: dict[str, tuple[int, float]] = {}
        self._times: dict[str, list[float]] = defaultdict(list)
        self._agents: list[RequestTraversalAgent] = []
        self._steps: dict[str, tuple[str, Callable[[Signed, str], Answer]]] = {
            "new-account": ("newAccount", self.new_account),
            "new-order": ("newOrder", self.new_order),
            "revoke": ("revokeCert", self.revoke),
            "key-change": ("keyChange", self.key_change),
            "account": ("account", self.account),
            "order": ("order", self.order),
            "finalize": ("finalize", self.finalize),
            "authorization": ("authorization", self.authorization),
            "challenge": ("challenge", self.challenge),
            "certificate": ("certificate", self.certificate),
        }

    # What a test does with it.

    @property
    def directory_url(self) -> str:
        """Where its directory is."""
        return self.base + "/directory"

    def agent(self) -> RequestTraversalAgent:
        """An agent whose requests all end up here, in memory."""
        agent = RequestTraversalAgent(_Root(self))
        self._agents.append(agent)
        return agent

    async def listen(self, reactor: Any) -> Any:
        """
        Listen with TLS on a free port of the loopback, as C{localhost}.

        @return: the port, for the test to stop.
        """
        # Whoever connects goes by the real time.
        issuer = Issuer(time.time, ("Server",))
        self.server_roots = issuer.roots
        certificate, key = issuer.server("localhost")
        options = CertificateOptions(
            privateKey=PKey.from_cryptography_key(key),
            certificate=X509.from_cryptography(certificate),
            extraCertChain=[X509.from_cryptography(issuer.intermediates[0])],
        )
        endpoint = SSL4ServerEndpoint(reactor, 0, options, interface="127.0.0.1")
        port = await endpoint.listen(Site(_Root(self)))
        self.base = f"https://localhost:{port.getHost().port}"
        return port

    def fail(self, step: str, fault: Fault, times: int | None = 1) -> None:
        """
        Have the next requests for a step fail; all of them where C{times} is L{None}.

        @param step: the directory's name of it, or C{directory}, C{account}, C{order},
            C{authorization}, C{challenge}, C{finalize}, C{certificate}; C{*} for whatever comes.
        """
        if times is None:
            self._always[step] = fault
        else:
            self._faults[step].extend([fault] * times)

    def mend(self) -> None:
        """Fail no more."""
        self._faults.clear()
        self._always.clear()
        self._limits.clear()

    def forget_nonces(self) -> None:
        """Know none of the nonces that were given out, as after a restart."""
        self._nonces.clear()

    def limit(self, step: str, number: int, seconds: float) -> None:
        """Refuse more than so many requests for a step in so many seconds."""
        self._limits[step] = (number, seconds)

    # What a request goes through.

    def render(self, request: Request) -> Any:
        """Answer a request."""
        parts = request.path.decode("latin-1").split("/")[1:]
        step = self._step_of(parts[0])
        self.counts[step] += 1
        fault = self._fault(step)
        if fault.drop is Drop.BEFORE:
            _abort(request)
            return NOT_DONE_YET
        if fault.status is not None:
            answer = Answer(fault.status, b"<html>sorry</html>", "text/html")
            return self._send(request, answer, fault.retry_after)
        try:
            if fault.refusal is not None:
                raise fault.refusal
            self._within_limit(step)
            answer = self._done(request, parts, step)
            retry_after = None
        except Refused as refused:
            headers = () if refused.location is None else (("Location", refused.location),)
            answer = Answer(
                refused.status, to_json(refused.document()), "application/problem+json", headers
            )
            retry_after = refused.retry_after
        if fault.drop is Drop.AFTER:
            _abort(request)
            return NOT_DONE_YET
        if fault.content_type is not None:
            answer = attrs.evolve(answer, type=fault.content_type)
        if fault.body is not None:
            answer = attrs.evolve(answer, body=fault.body)
        if fault.delay is not None:
            self._later(request, answer, retry_after, fault.delay)
            return NOT_DONE_YET
        return self._send(request, answer, retry_after)

    def _step_of(self, first: str) -> str:
        others = {"directory": "directory", "nonce": "newNonce", "renewal": "renewalInfo"}
        return self._steps[first][0] if first in self._steps else others.get(first, "unknown")

    def _fault(self, step: str) -> Fault:
        for name in (step, "*"):
            if self._faults.get(name):
                return self._faults[name].popleft()
        return self._always.get(step) or self._always.get("*") or Fault()

    def _within_limit(self, step: str) -> None:
        if step not in self._limits:
            return
        number, seconds = self._limits[step]
        times = self._times[step]
        times[:] = [each for each in times if each > self.now() - seconds]
        if len(times) >= number:
            wait = math.ceil(times[-number] + seconds - self.now())
            raise Refused(
                "rateLimited",
                f"too many requests: {number} in {seconds:g} s",
                429,
                retry_after=wait,
            )
        times.append(self.now())

    def _later(
        self, request: Request, answer: Answer, retry_after: float | str | None, delay: float
    ) -> None:
        def send() -> None:
            if not gone:
                request.write(self._send(request, answer, retry_after))
                request.finish()
                for agent in self._agents:
                    agent.flush()

        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)
        if math.isfinite(delay):
            self._clock.callLater(delay, send)

    def _send(self, request: Request, answer: Answer, retry_after: float | str | None) -> bytes:
        request.setResponseCode(answer.code)
        request.setHeader("Content-Type", answer.type)
        request.setHeader("Date", formatdate(self.now(), usegmt=True))
        request.setHeader("Link", f'<{self.directory_url}>;rel="index"')
        if request.method != b"GET":
            request.setHeader("Replay-Nonce", self._new_nonce())
        if retry_after is not None:
            wait = retry_after if isinstance(retry_after, str) else str(math.ceil(retry_after))
            request.setHeader("Retry-After", wait)
        for name, value in answer.headers:
            request.responseHeaders.addRawHeader(name, value)
        return answer.body

    def _new_nonce(self) -> str:
        nonce = secrets.token_urlsafe(16)
        self._nonces[nonce] = None
        if len(self._nonces) > _MOST_NONCES:
            del self._nonces[next(iter(self._nonces))]
        return nonce

    def _done(self, request: Request, parts: list[str], step: str) -> Answer:
        if not request.requestHeaders.hasHeader("user-agent"):
            raise Refused("malformed", "no User-Agent (RFC 8555, section 6.1)")
        method = request.method
        if step == "newNonce" and method in (b"HEAD", b"GET"):
            return Answer(200 if method == b"HEAD" else 204)
        if step == "directory" and method == b"GET":
            return Answer(200, to_json(self.directory()))
        if step == "renewalInfo" and method == b"GET" and self.has_renewal_info:
            return self.renewal_info(parts[-1])
        if step == "unknown":
            raise Refused("malformed", "there is no such page", 404)
        if method != b"POST" or parts[0] not in self._steps:
            raise Refused("malformed", f"{method!r} is not for this", 405)
        if request.requestHeaders.getRawHeaders("content-type") != ["application/jose+json"]:
            raise Refused("malformed", "the request is not of the type application/jose+json", 415)
        url = self.base + request.path.decode("latin-1")
        assert request.content is not None
        signed = self._signed(request.content.read(), url, step)
        return self._steps[parts[0]][1](signed, url)

    def _signed(self, body: bytes, url: str, step: str) -> Signed:
        header, payload, verify = read_jws(body)
        # Whoever replays an old request is told no more than that.
        self._use_nonce(header.get("nonce"))
        if header.get("url") != url:
            raise Refused("unauthorized", f"it was signed for {header.get('url')!r}", 403)
        if ("jwk" in header) == ("kid" in header):
            raise Refused("malformed", "it has to have one of jwk and kid")
        account = None
        if "kid" in header:
            if step == "newAccount":
                raise Refused("malformed", "a new account has to be signed for by its key")
            account = self.accounts.get(str(header["kid"]))
            if account is None:
                raise Refused("accountDoesNotExist", f"there is no {header['kid']}")
            key = account.key
        elif step in ("newAccount", "revokeCert"):
            key = read_key(header["jwk"])
        else:
            raise Refused("malformed", "it has to be signed for an account, by kid")
        if not verify(key):
            raise Refused("malformed", "the signature is not this key's")
        if account is not None and account.status != "valid":
            raise Refused("unauthorized", f"the account is {account.status}", 403)
        return Signed(account, key, payload)

    def _use_nonce(self, nonce: object) -> None:
        if not isinstance(nonce, str) or nonce not in self._nonces:
            raise Refused("badNonce", "this nonce was used, or never given out")
        del self._nonces[nonce]
        if self.bad_nonces > 0:
            self.bad_nonces -= 1
            raise Refused("badNonce", "this nonce is not liked")


def _abort(request: Request) -> None:
    transport: Any = request.transport
    transport.abortConnection()


class _Root(Resource):
    isLeaf = True

    def __init__(self, authority: SmallAuthority) -> None:
        super().__init__()
        self._authority = authority

    def render(self, request: Request) -> Any:
        return self._authority.render(request)
