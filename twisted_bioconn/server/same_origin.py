"""
Whether a request is one of our own page's, or of somebody who asks for it by name: and not one that
a stranger's page has a browser send.

A browser that has a page of ours open also has others open, and each of them may ask this server
too, from inside of whatever keeps strangers out.  So no request is answered that calls this server
by a name which is not its own (C{Host}: otherwise a stranger's name could be made to stand for
127.0.0.1, and a stranger's page would be of the same origin), or that comes from another page
(C{Origin}, RFC 6454, section 7; C{Sec-Fetch-Site}, https://www.w3.org/TR/fetch-metadata/; and of a
browser that sends neither, C{Referer}, RFC 9110, section 10.1.3).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from twisted.web.server import Request

from twisted_bioconn._transport import one_line
from twisted_bioconn.negotiated import Negotiated
from twisted_bioconn.server.local import without_port

__all__ = ["foreign_name", "foreign_page", "is_visit"]

_LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})


def foreign_name(request: Request, negotiated: Negotiated | None) -> str | None:
    """
    What is wrong with the name that a request calls this server by, in a sentence; L{None} where it
    is surely one of its own: C{localhost}, the address that the connection has come to, or what the
    TLS handshake has named, for which a browser has seen a certificate.

    @param negotiated: what was agreed on there; L{None} where there is no TLS.
    """
    # RFC 9112, section 3.2: there is one.
    asked = _values(request, b"host")
    if len(asked) == 1 and without_port(asked[0]) in _own_names(request, negotiated):
        return None
    called = one_line(" and ".join(asked)) or "nothing"
    return f"this server is not called {called}: ask for it by localhost or by its address"


def _own_names(request: Request, negotiated: Negotiated | None) -> set[str]:
    names = set(_LOCAL)
    address = getattr(request.getHost(), "host", None)
    if address is not None:
        names.add(f"[{address}]" if ":" in address else address)
    if negotiated is not None and negotiated.server_name is not None:
        names.add(negotiated.server_name.lower())
    return names


def foreign_page(request: Request) -> str | None:
    """
    Which other page a request is from, in a sentence; L{None} where it is from none.
    """
    scheme = "https" if request.isSecure() else "http"
    own = f"{scheme}://{request.getHeader('host') or ''}".lower()
    origins = _values(request, b"origin")
    for origin in origins:
        if origin.lower() != own:
            return f"pages of {one_line(origin)} have no business here"
    sites = _values(request, b"sec-fetch-site")
    # "none" is for what the user has typed.
    if any(site not in ("same-origin", "none") for site in sites):
        return "open this page by its address, and not from another page"
    if origins or sites:
        return None
    for referrer in _values(request, b"referer"):
        if _origin_of(referrer) != own:
            return f"{one_line(referrer)} has no business here"
    return None


def is_visit(request: Request) -> bool:
    """
    Has somebody followed a link, from wherever?  The answer takes the place of the page that the
    link was on, which learns nothing of it.
    """
    return (
        request.method == b"GET"
        and _values(request, b"sec-fetch-mode") == ["navigate"]
        and _values(request, b"sec-fetch-dest") == ["document"]
        and not _values(request, b"origin")
    )


def _values(request: Request, name: bytes) -> list[str]:
    """All that a request says under a name: who has it said twice may mean either."""
    return [value.decode("latin-1") for value in request.requestHeaders.getRawHeaders(name, [])]


def _origin_of(url: str) -> str:
    """The origin of a URL, as browsers write it; nothing where there is none."""
    try:
        parts = urlsplit(url.lower())
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}"
