"""
The page that shows a visitor what was negotiated with them.

It is one L{Resource} with three answers: HTML for browsers, text aligned for a terminal for curl
and its like, JSON for programs. What it says of a connection comes from the connection itself,
through the function that it is made with; with no TLS on it, the page says so.  No request is
answered that a stranger's page has a browser send: see L{twisted_bioconn.server.same_origin}.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import Request
from twisted.web.template import Element, Flattenable, Tag, XMLString, flattenString, renderer, tags

from twisted_bioconn._content_policy import hash_source
from twisted_bioconn.negotiated import Negotiated
from twisted_bioconn.server.facts import (
    Story,
    Visitor,
    as_json,
    as_text,
    decoded,
    printable,
    tell,
)
from twisted_bioconn.server.handshakes import KEPT, Handshakes, Watching
from twisted_bioconn.server.same_origin import foreign_name, foreign_page, is_visit

__all__ = ["NegotiationPage"]

_TEMPLATES: Final = files("twisted_bioconn.server") / "templates"
_STYLE: Final = (_TEMPLATES / "page.css").read_text("utf-8")
_DIAGRAM_STYLE: Final = _STYLE + (_TEMPLATES / "handshakes.css").read_text("utf-8")
_SCRIPT: Final = (_TEMPLATES / "handshakes.js").read_text("utf-8")
_PAGE: Final = XMLString((_TEMPLATES / "page.html").read_text("utf-8"))
_PROBLEM: Final = XMLString((_TEMPLATES / "problem.html").read_text("utf-8"))

_TEXT: Final = "text/plain"
_HTML: Final = "text/html"
_JSON: Final = "application/json"


# No frame, nothing from elsewhere; the style sheet by its hash, the icon as data.
_POLICY: Final = (
    "default-src 'none'; style-src {style}; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
_PLAIN_POLICY: Final = _POLICY.format(style=hash_source(_STYLE))
# With handshakes, the script that waits for further ones, by its hash; it asks this server alone.
_WATCHING_POLICY: Final = (
    f"{_POLICY.format(style=hash_source(_DIAGRAM_STYLE))}; script-src {hash_source(_SCRIPT)};"
    " connect-src 'self'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _PLAIN_POLICY,
    # The facts are of one connection and one visitor.
    "Cache-Control": "no-store",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # No Strict-Transport-Security. It is kept by host with no regard to the port (RFC 6797, section
    # 8.3), and this host is localhost: the browser would ask every other program that a developer
    # runs there for https, for as long as the header said.
}


class _PageElement(Element):
    """A story for a browser."""

    loader = _PAGE

    def __init__(self, story: Story, drawing: Tag | None = None, mark: str = "") -> None:
        """
        @param drawing: the handshake; L{None} where it is not shown.
        @param mark: stands for all handshakes that there have been.
        """
        super().__init__()
        self.story = story
        self._drawing = drawing
        self._mark = mark

    @renderer
    def page(self, request: IRequest | None, tag: Tag) -> Flattenable:
        """All that stands in one place."""
        story = self.story
        return tag.fillSlots(
            state=story.state,
            style=_STYLE if self._drawing is None else _DIAGRAM_STYLE,
            title="".join(story.headline),
            lede=story.lede,
            visitor=story.visitor,
            server=story.server,
            mark=self._mark,
            script=_SCRIPT,
            kept=(
                "Nothing is stored."
                if self._drawing is None
                else f"The last {KEPT} handshakes are kept in memory, to be shown here, and nowhere"
                " else."
            ),
        )

    @renderer
    def handshake(self, request: IRequest | None, tag: Tag) -> Flattenable:
        """The diagram, and room for those of further handshakes."""
        return "" if self._drawing is None else tag

    @renderer
    def drawing(self, request: IRequest | None, tag: Tag) -> Flattenable:
        """The diagram."""
        assert self._drawing is not None
        return self._drawing

    @renderer
    def headline(self, request: IRequest | None, tag: Tag) -> Flattenable:
        """The sentence, with every second piece stressed."""
        return tag(
            [tags.em(piece) if odd % 2 else piece for odd, piece in enumerate(self.story.headline)]
        )

    @renderer
    def strands(self, request: IRequest | None, tag: Tag) -> Flattenable:
        """What is between the two ends, joined by a plus sign."""
        for number, name in enumerate(self.story.strands):
            if number:
                tag(" ", tags.i("+"), " ")
            tag(tags.em(name))
        return tag

    @renderer
    def facts(self, request: IRequest | None, tag: Tag) -> Flattenable:
        """A row for each fact."""
        return [
            tag.clone().fillSlots(
                label=fact.label,
                value=[fact.value, " ", tags.strong(fact.stress)] if fact.stress else fact.value,
                meaning=fact.meaning,
            )
            for fact in self.story.facts
        ]

    @renderer
    def suggestions(self, request: IRequest | None, tag: Tag) -> Flattenable:
        """
        An item for each command.

        Each argument is an element of its own, so that no line breaks inside one: a browser breaks
        after a hyphen, and C{-- http1.1} is another command.
        """
        items: list[Flattenable] = []
        for suggestion in self.story.suggestions:
            command: list[Flattenable] = []
            for element, arguments in (
                ("span", suggestion.before),
                ("strong", suggestion.telling),
                ("span", suggestion.after),
            ):
                for argument in arguments:
                    command += [Tag(element)(shlex.quote(argument)), " "]
            items.append(tag.clone().fillSlots(why=suggestion.why, command=command[:-1]))
        return items


class _ProblemElement(Element):
    """The page for a browser that asked for something else."""

    loader = _PROBLEM

    def __init__(self, title: str, sentence: str) -> None:
        super().__init__()
        self.title = title
        self.sentence = sentence

    @renderer
    def page(self, request: IRequest | None, tag: Tag) -> Flattenable:
        """All that stands in one place."""
        return tag.fillSlots(style=_STYLE, title=self.title, sentence=self.sentence)


def _as_html(element: Element) -> str:
    """Flatten an element that waits for nothing."""
    outcome: list[bytes | Failure] = []
    flattenString(None, element).addBoth(outcome.append)
    [page] = outcome
    if isinstance(page, Failure):
        page.raiseException()
    return "<!DOCTYPE html>\n" + page.decode()


_QUALITY: Final = re.compile(r"\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*", re.ASCII | re.I)


def _preferred(accept: str) -> str:
    """
    Choose between HTML, text and JSON (RFC 9110, section 12.5.1).

    Whoever asks for HTML by its name, and likes nothing better, gets it: that is what browsers do.
    curl's C{*/*} likes all the same and gets text, as does a client that wants none of the three.
    """
    # For each offer, how exactly it was named, and how much it is liked.
    offers = dict.fromkeys((_TEXT, _HTML, _JSON), (-1, 0.0))
    for media_range in accept.split(","):
        wanted, *parameters = media_range.lower().split(";")
        qualities = [match[1] for match in map(_QUALITY.fullmatch, parameters) if match]
        quality = float(qualities[0]) if qualities else 1.0
        for offer, found in offers.items():
            forms = ("*/*", f"{offer.partition('/')[0]}/*", offer)
            if wanted.strip() in forms:
                # The most exact range is the one that counts, whatever its quality.
                offers[offer] = max(found, (forms.index(wanted.strip()), quality))

    def liking(offer: str) -> tuple[float, int, bool]:
        exactness, quality = offers[offer]
        return quality, exactness, exactness == 2 and offer == _HTML

    best = max(offers, key=liking)
    _, quality = offers[best]
    return best if quality else _TEXT


_AUTHORITY: Final = re.compile(r"([\w.-]+|\[[\da-fA-F:.]+\])(:\d{1,5})?", re.ASCII)


def _authority_of(request: Request) -> str:
    """
    The host and port that the visitor used, for commands that can be copied.

    It is taken from the request only where it can be nothing but a host and a port.
    """
    host = request.getHeader("host")
    if host is not None and _AUTHORITY.fullmatch(host):
        return host
    port = getattr(request.getHost(), "port", None)
    return "localhost" if port is None else f"localhost:{port}"


def _visitor_of(request: Request) -> Visitor | None:
    """Where the visitor is; L{None} where the transport does not know."""
    address = request.getClientAddress()
    if isinstance(address, IPv4Address | IPv6Address):
        return Visitor(address.host, address.port)
    if isinstance(address, UNIXAddress):
        return Visitor("a UNIX socket")
    return None


class NegotiationPage(Resource):
    """
    The page at C{/}, its facts at C{/facts.json}, and nothing else: a site's root resource.

    @param negotiated_of: what was negotiated on the connection that a request came on; L{None}
        where there is no TLS on it.
    @param authority_file: the file with the certificate of the authority that signed the server's.
        Every visitor sees its name in the commands to try. L{None} where clients trust it anyhow.
    @param now: the present, with a time zone.
    @param handshakes: shows each visitor their handshakes, the further ones at C{/handshakes};
        L{None} where no connection is traced.
    """

    isLeaf = True

    def __init__(
        self,
        negotiated_of: Callable[[Request], Negotiated | None],
        authority_file: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        handshakes: Handshakes | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._handshakes = handshakes
        self._negotiated_of = negotiated_of
        self._authority_file = authority_file
        self._now = now

    def render(self, request: Request) -> Any:
        """Answer a request."""
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        media = _preferred(",".join(request.requestHeaders.getRawHeaders("accept", ["*/*"])))
        foreign = self._foreign(request)
        if foreign is not None:
            request.setResponseCode(http.FORBIDDEN)
            body = self._problem(media, "Not from there", foreign)
        elif request.method not in (b"GET", b"HEAD"):
            request.setResponseCode(http.NOT_ALLOWED)
            request.setHeader("Allow", "GET, HEAD")
            title, sentence = "This page can only be read", "It knows GET and HEAD, nothing else."
            body = self._problem(media, title, sentence)
        elif request.path == b"/handshakes" and self._handshakes and request.method == b"GET":
            watching = Watching(self._handshakes).render(request)
            if isinstance(watching, int):
                return watching
            code, title, sentence = watching
            request.setResponseCode(code)
            body = self._problem(media, title, sentence)
        elif request.path == b"/facts.json":
            media = _JSON
            body = self._answer(request, media)
        elif request.path == b"/":
            body = self._answer(request, media)
        else:
            request.setResponseCode(http.NOT_FOUND)
            path = printable(decoded(request.path))
            title, sentence = (
                "There is nothing here",
                f"This server has / and /facts.json, no {path}.",
            )
            body = self._problem(media, title, sentence)
        # JSON is UTF-8 and has no charset to name (RFC 8259, section 11).
        request.setHeader("Content-Type", media if media == _JSON else f"{media}; charset=utf-8")
        octets = body.encode() + b"\n"
        # Set here, not by Twisted, which logs a complaint about a body for HEAD.
        request.setHeader("Content-Length", str(len(octets)))
        return b"" if request.method == b"HEAD" else octets

    def _foreign(self, request: Request) -> str | None:
        """Why a request is not answered; L{None} where it is."""
        name = foreign_name(request, self._negotiated_of(request))
        if name is None and not (request.path == b"/" and is_visit(request)):
            name = foreign_page(request)
        return None if name is None else f"{name[:1].upper()}{name[1:]}."

    def _answer(self, request: Request, media: str) -> str:
        """The facts in one form or another."""
        negotiated = self._negotiated_of(request)
        visitor = _visitor_of(request)
        if media == _JSON:
            return as_json(negotiated, visitor)
        story = tell(
            negotiated,
            visitor,
            authority=_authority_of(request),
            authority_file=self._authority_file,
            protocol=request.clientproto,
            now=self._now(),
        )
        if media != _HTML:
            return as_text(story)
        drawing = None if self._handshakes is None else self._handshakes.own(request)
        if self._handshakes is None or drawing is None:
            return _as_html(_PageElement(story))
        request.setHeader("Content-Security-Policy", _WATCHING_POLICY)
        return _as_html(_PageElement(story, drawing, self._handshakes.mark))

    @staticmethod
    def _problem(media: str, title: str, sentence: str) -> str:
        """What is wrong with a request, in one form or another."""
        if media == _HTML:
            return _as_html(_ProblemElement(title, sentence))
        if media == _JSON:
            return json.dumps({"error": f"{title}. {sentence}"})
        return f"{title}. {sentence}"
