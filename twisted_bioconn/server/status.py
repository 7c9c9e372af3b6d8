"""
The status of a server over HTTP: for a person, for Prometheus, for C{bioconn status}.

What there is to read changes nothing, and what changes something (C{/control/…}) is there only for
those who have shown who they are: see L{twisted_bioconn.server.status_ports}.  No request is
answered that a stranger's page has a browser send: see L{twisted_bioconn.server.same_origin}.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import attrs
from prometheus_client import CollectorRegistry
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from twisted_bioconn._content_policy import hash_source
from twisted_bioconn._transport import one_line
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.drain import State
from twisted_bioconn.server.history import History
from twisted_bioconn.server.ledger import KEPT, Ledger
from twisted_bioconn.server.metrics import exposition, server_registry
from twisted_bioconn.server.same_origin import foreign_name, foreign_page
from twisted_bioconn.server.sites import negotiated_of
from twisted_bioconn.server.status_ports import CONTROL_HEADER, PROCESS_HEADER, Audience
from twisted_bioconn.server.status_reports import (
    certificates_report,
    connections_report,
    failures_report,
    history_report,
    memory_report,
    status_report,
)

if TYPE_CHECKING:
    from twisted_bioconn.server.fellows import Fellows

__all__ = ["Controls", "Status", "StatusSite"]

_TEMPLATES: Final = files("twisted_bioconn.server") / "templates"
_STYLE: Final = (_TEMPLATES / "status.css").read_text("utf-8")
_SCRIPT: Final = (_TEMPLATES / "status.js").read_text("utf-8")
_PAGE: Final = (
    (_TEMPLATES / "status.html")
    .read_text("utf-8")
    .replace("/* style */", _STYLE)
    .replace("/* script */", _SCRIPT)
    .encode()
)


_HEADERS: Final = {
    # The page's own script and style alone, by their hashes; the script asks this server alone.
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {hash_source(_SCRIPT)};"
        f" style-src {hash_source(_STYLE)}; img-src data:; connect-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_JSON: Final = "application/json"
_IS_CONNECTION: Final = re.compile(r"(\d{1,10}\.)?\d{1,19}", re.ASCII)
_IS_TRACE: Final = re.compile(r"\d{1,10}\.\d{1,19}", re.ASCII)
_TEXT: Final = "text/plain; charset=utf-8"
_ELSEWHERE: Final = "use the UNIX socket, or TLS with a client certificate"

_Answer = tuple[bytes, str]
"""A body, and its media type."""

_log = Logger()


@attrs.define(kw_only=True)
class Controls:
    """
    What can be done to a server from outside.  Each may return a Deferred, and what it returns is
    told as text; L{None} is for what cannot be done to this one.

    @ivar reload: looks for what has changed.
    @ivar renew: has the certificates renewed that can be: all, or those for one name.
    @ivar drain: accepts no more connections, and ends with the last.
    """

    reload: Callable[[], Any] | None = None
    renew: Callable[[str | None], Any] | None = None
    drain: Callable[[], Any] | None = None


@attrs.define(eq=False, kw_only=True)
class Status:
    """
    What there is to tell of a server.

    @ivar ledger: its connections.
    @ivar options: says which options its ports have, for their certificates.
    @ivar state: says where its process stands.
    @ivar checks: each is asked whether the server is ready, and says in a few words why it is not,
        or L{None}.
    @ivar controls: what can be done to it.
    @ivar worker: which of several processes this is; L{None} where it is the only one.
    @ivar fellows: the other processes, where this one tells of all.
    @ivar history: what it was like before.
    @ivar registry: its metrics.  What else there is to collect may be registered there.
    """

    ledger: Ledger
    options: Callable[[], Iterable[ServerOptions]] = tuple
    state: Callable[[], State] = lambda: State.STARTING
    checks: list[Callable[[], str | None]] = attrs.field(factory=list)
    controls: Controls = attrs.field(factory=Controls)
    worker: int | None = None
    fellows: Fellows | None = None
    history: History = attrs.field(init=False)
    registry: CollectorRegistry = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.history = History(self.ledger)
        self.registry = server_registry(self.ledger, lambda: self.options())

    def obstacles(self) -> list[str]:
        """Why it is not ready; nothing where it is."""
        state = self.state()
        if state is not State.SERVING:
            return [state.value]
        return [text for text in (check() for check in self.checks) if text is not None]


class StatusSite(Site):
    """
    The status of a server, as a factory for the port of a L{StatusPort<status_ports.StatusPort>}.
    """

    noisy = False

    def __init__(self, status: Status, audience: Audience) -> None:
        """
        @param audience: who can be at the other end of a connection.
        """
        super().__init__(StatusResource(status, audience))  # type: ignore[no-untyped-call]
        self._history = status.history

    def startFactory(self) -> None:
        """Begin to remember what the server is like."""
        super().startFactory()
        self._history.start()

    def stopFactory(self) -> None:
        """Remember no more."""
        self._history.stop()
        super().stopFactory()

    def log(self, request: Any) -> None:
        """A page that is open asks each second or two: that is not for the log."""


class _No(Exception):
    """A request is not answered as it was meant."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class StatusResource(Resource):
    """All that is there, by its path."""

    isLeaf = True

    def __init__(self, status: Status, audience: Audience) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._status = status
        self._audience = audience
        self._answers: dict[bytes, Callable[[Request], _Answer | Deferred[_Answer]]] = {
            b"/": lambda request: (_PAGE, "text/html; charset=utf-8"),
            b"/status": self._state,
            b"/history": self._history,
            b"/connections": self._connections,
            b"/certificates": self._certificates,
            b"/failures": self._failures,
            b"/trace": self._trace,
            b"/memory": self._memory,
            b"/healthz": lambda request: (b"alive\n", _TEXT),
            b"/readyz": self._readiness,
            b"/metrics": self._metrics,
        }

    def render(self, request: Request) -> Any:
        """Answer a request."""
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        request.setHeader(PROCESS_HEADER, str(os.getpid()))
        try:
            self._admit(request)
            if request.path.startswith(b"/control/"):
                return self._control(request)
            answer = self._answers.get(request.path)
            if answer is None:
                raise _No(http.NOT_FOUND, f"there is no {_path(request)} here")
            if request.method not in (b"GET", b"HEAD"):
                request.setHeader("Allow", "GET, HEAD")
                raise _No(http.NOT_ALLOWED, f"{_path(request)} can only be read")
            said = answer(request)
        except _No as no:
            request.setResponseCode(no.code)
            said = _as_json({"error": no.sentence})
        if isinstance(said, Deferred):
            return self._later(request, said)
        return _sent(request, *said)

    def _later(self, request: Request, coming: Deferred[_Answer]) -> Any:
        """Answer when the other processes have, unless whoever asked has gone."""
        request.notifyFinish().addErrback(lambda _: coming.cancel())

        def answer(said: _Answer) -> None:
            request.write(_sent(request, *said))
            request.finish()

        def failed(failure: Failure) -> None:
            if failure.check(CancelledError) is None:
                _log.failure("{path} cannot be told", failure, path=_path(request))
                request.setResponseCode(http.INTERNAL_SERVER_ERROR)
                answer(_as_json({"error": "the log has the reason"}))

        coming.addCallbacks(answer, failed)
        return NOT_DONE_YET

    # Who may ask

    def _admit(self, request: Request) -> None:
        """
        @raise _No: this request is from somewhere else than it should be.
        """
        if self._audience is Audience.CERTIFIED:
            negotiated = negotiated_of(request)
            if negotiated is None or negotiated.peer_certificate is None:
                raise _No(http.FORBIDDEN, "this is for those who show a client certificate")
        # Nobody can have a browser ask a UNIX socket, which has no name that could be another's.
        if self._audience is not Audience.OWNER:
            name = foreign_name(request, negotiated_of(request))
            if name is not None:
                raise _No(http.FORBIDDEN, name)
        page = foreign_page(request)
        if page is not None:
            raise _No(http.FORBIDDEN, page)

    # What there is to read

    def _state(self, request: Request) -> _Answer | Deferred[_Answer]:
        status = self._status
        report = {
            "state": status.state().value,
            "obstacles": status.obstacles(),
            "pid": os.getpid(),
            "worker": status.worker,
            **status_report(status.ledger),
        }
        report["processes"] = [
            {
                "pid": report["pid"],
                "worker": report["worker"],
                "state": report["state"],
                "connections": status.ledger.open_count,
            }
        ]
        if status.fellows is None:
            return _as_json(report)
        return status.fellows.status(report).addCallback(_as_json)

    def _history(self, request: Request) -> _Answer | Deferred[_Answer]:
        report, fellows = history_report(self._status.history), self._status.fellows
        if fellows is None:
            return _as_json(report)
        return fellows.history(report).addCallback(_as_json)

    def _failures(self, request: Request) -> _Answer | Deferred[_Answer]:
        report, fellows = failures_report(self._status.ledger), self._status.fellows
        if fellows is None:
            return _as_json(report)
        return fellows.failures(report, KEPT).addCallback(_as_json)

    def _trace(self, request: Request) -> _Answer | Deferred[_Answer]:
        """
        The trace of a handshake that has failed, by what stands for it among the failures.

        @raise _No: there is no such trace.
        """
        [given] = request.args.get(b"of", [b""])[-1:]
        gone = _No(http.NOT_FOUND, "there is no such trace, or it is kept no more")
        name = given.decode("ascii", "replace")
        if not _IS_TRACE.fullmatch(name):
            raise gone
        process, _, number = name.partition(".")
        if int(process) != os.getpid():
            if self._status.fellows is None:
                raise gone
            return self._status.fellows.trace(name).addCallback(
                lambda text: (text or f"{gone.sentence}\n".encode(), _TEXT)
            )
        for each in self._status.ledger.failures:
            if each.trace is not None and each.trace.number == int(number):
                return each.trace.text or b"the connection is not over yet\n", _TEXT
        raise gone

    def _memory(self, request: Request) -> _Answer | Deferred[_Answer]:
        """
        @raise _No: whoever asks could have the server count all day.
        """
        if self._audience is Audience.MACHINE:
            raise _No(http.FORBIDDEN, f"this is not told here: {_ELSEWHERE}")
        report = memory_report(self._status.ledger, self._status.worker)
        if self._status.fellows is None:
            return _as_json(report)
        return self._status.fellows.memory(report).addCallback(_as_json)

    def _connections(self, request: Request) -> _Answer | Deferred[_Answer]:
        offset = _number(request, b"offset", 0, 10**9)
        limit = _number(request, b"limit", 100, 1000)
        own = partial(connections_report, self._status.ledger)
        if self._status.fellows is None:
            return _as_json(own(offset, limit))
        return self._status.fellows.connections(own, offset, limit).addCallback(_as_json)

    def _certificates(self, request: Request) -> tuple[bytes, str]:
        return _as_json(certificates_report(self._status.options(), self._status.ledger.now()))

    def _readiness(self, request: Request) -> tuple[bytes, str]:
        obstacles = self._status.obstacles()
        if not obstacles:
            return b"ready\n", _TEXT
        request.setResponseCode(http.SERVICE_UNAVAILABLE)
        return f"not ready: {', '.join(obstacles)}\n".encode(), _TEXT

    def _metrics(self, request: Request) -> _Answer | Deferred[_Answer]:
        fellows = self._status.fellows
        if fellows is not None:
            own, media = exposition(self._status.registry, "text/plain")
            return fellows.metrics(own).addCallback(lambda text: (text, media))
        accept = ",".join(request.requestHeaders.getRawHeaders("accept", []))
        return exposition(self._status.registry, accept)

    # What there is to do

    def _control(self, request: Request) -> Any:
        if self._audience is Audience.MACHINE:
            raise _No(http.FORBIDDEN, f"nothing can be changed from here: {_ELSEWHERE}")
        if request.method != b"POST":
            request.setHeader("Allow", "POST")
            raise _No(http.NOT_ALLOWED, f"{_path(request)} is done by POST")
        if request.getHeader(CONTROL_HEADER) is None:
            raise _No(http.FORBIDDEN, f"the header {CONTROL_HEADER} is missing")
        what, slash, argument = (
            request.path.removeprefix(b"/control/").decode("latin-1").partition("/")
        )
        do: Callable[[], Any] | None
        if what == "close" and _IS_CONNECTION.fullmatch(argument):
            process, _, number = argument.rpartition(".")
            do = partial(self._close, int(process or os.getpid()), int(number))
        elif what == "renew" and (argument or not slash):
            renew = self._status.controls.renew
            do = None if renew is None else partial(renew, _unquoted(argument) or None)
        elif what in ("reload", "drain") and not argument:
            do = getattr(self._status.controls, what)
        else:
            raise _No(http.NOT_FOUND, f"there is no {_path(request)} here")
        if do is None:
            raise _No(http.NOT_IMPLEMENTED, f"this server has nothing to {what}")
        gone: list[bool] = []
        request.notifyFinish().addErrback(lambda _: gone.append(True))

        def finish(outcome: Any) -> None:
            said: dict[str, str | None]
            if isinstance(outcome, Failure):
                said = {"error": self._failed(request, what, outcome)}
            else:
                text = outcome if isinstance(outcome, str) else None
                _log.info(
                    "{what}, asked for by {who}: {said}",
                    what=what,
                    who=self._audience.value,
                    said=text or "done",
                )
                said = {"done": what, "said": text}
            if not gone:
                request.write(_sent(request, *_as_json(said)))
                request.finish()

        maybeDeferred(do).addBoth(finish)
        return NOT_DONE_YET

    def _close(self, process: int, number: int) -> str | Deferred[str]:
        if process == os.getpid():
            return self._closed(number, self._status.ledger.close(number))
        if self._status.fellows is None:
            return self._closed(number, False)
        closing = self._status.fellows.close(process, number)
        return closing.addCallback(partial(self._closed, number))

    @staticmethod
    def _closed(number: int, was_there: bool) -> str:
        if not was_there:
            raise _No(http.NOT_FOUND, f"there is no connection {number}")
        return f"connection {number} is closed"

    @staticmethod
    def _failed(request: Request, what: str, failure: Failure) -> str:
        error = failure.value
        if isinstance(error, _No):
            request.setResponseCode(error.code)
            return error.sentence
        if isinstance(error, ConfigurationError):
            request.setResponseCode(http.CONFLICT)
            return one_line(f"{what}: {error}")
        _log.failure("{what} has failed", failure, what=what)
        request.setResponseCode(http.INTERNAL_SERVER_ERROR)
        return f"{what} has failed: the log has the reason"


def _as_json(value: object) -> tuple[bytes, str]:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n", _JSON


def _sent(request: Request, body: bytes, media: str) -> bytes:
    request.setHeader("Content-Type", media)
    # Set here, not by Twisted, which logs a complaint about a body for HEAD.
    request.setHeader("Content-Length", str(len(body)))
    return b"" if request.method == b"HEAD" else body


def _path(request: Request) -> str:
    return one_line(request.path.decode("latin-1"))[:100]


def _unquoted(text: str) -> str:
    """What a part of a path says."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _No(http.BAD_REQUEST, "this is not UTF-8") from None


def _number(request: Request, name: bytes, otherwise: int, most: int) -> int:
    values = request.args.get(name)
    if not values:
        return otherwise
    text = values[-1].decode("latin-1")
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise _No(http.BAD_REQUEST, f"{name.decode()}= is to be a number, 0 or above")
    return min(int(text), most)
