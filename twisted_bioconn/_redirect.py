"""
Plain HTTP that arrives where TLS was expected, and is told where that is.
"""

from __future__ import annotations

import re

__all__ = ["LONGEST_REQUEST", "answer_to", "https_location", "is_request"]

LONGEST_REQUEST = 8192
"""Bytes of an HTTP request's line and headers that are read to answer it."""

_BODY = b"This port speaks TLS: use https.\n"
_METHOD = re.compile(rb"[A-Z]{1,20}( |\Z)")
_END = re.compile(rb"\r?\n\r?\n")
_REQUEST_LINE = re.compile(rb"([A-Z]{3,20}) (\S{1,4096}) HTTP/1\.[01]\r?\n")
_HOST_FIELD = re.compile(rb"\r?\n[Hh][Oo][Ss][Tt]:[ \t]*(\S{1,255})[ \t]*\r?\n")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_TARGET = re.compile(r"/[\x21-\x7e]*")
_ABSOLUTE = re.compile(r"http://[^/?#]*", re.IGNORECASE)


def is_request(data: bytes) -> bool:
    """Whether this may be the beginning of a request."""
    return _METHOD.match(data[:21]) is not None


def answer_to(data: bytes) -> bytes | None:
    """
    What a request is answered; L{None} where more of it has to come.

    RFC 9110, section 15.4.9: 308 keeps the method, and what the client sends with it.
    """
    end = _END.search(data)
    if end is None:
        if len(data) > LONGEST_REQUEST:
            return _answer("431 Request Header Fields Too Large", None)
        return None
    head = data[: end.end()]
    line, host = _REQUEST_LINE.match(head), _HOST_FIELD.search(head)
    location = None
    if line is not None and host is not None:
        location = https_location(line[2].decode("latin-1"), host[1].decode("latin-1"))
    return _answer("400 Bad Request" if location is None else "308 Permanent Redirect", location)


def _answer(status: str, location: str | None) -> bytes:
    fields = "" if location is None else f"Location: {location}\r\n"
    head = (
        f"HTTP/1.1 {status}\r\n{fields}Content-Type: text/plain\r\n"
        f"Content-Length: {len(_BODY)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + _BODY


def https_location(target: str, host: str) -> str | None:
    """
    Where a request for a target would be with TLS, on the same port; L{None} where that makes no
    sense, or might be understood as something else.
    """
    target = _ABSOLUTE.sub("", target, count=1) or "/"
    if not _TARGET.fullmatch(target) or not _HOST.fullmatch(host):
        return None
    return f"https://{host}{target}"
