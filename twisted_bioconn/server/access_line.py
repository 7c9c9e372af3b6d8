"""
The line of the log for each request of a site that is served.

A query is where sessions, keys and passwords are sent that have no place of their own (RFC 9110,
section 17.9): a line has the path alone; so has the address that a visitor came from.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.web.http import combinedLogFormatter
from twisted.web.iweb import IAccessLogFormatter
from twisted.web.server import Request
from zope.interface import provider

__all__ = ["access_line"]


class _WithoutQueries:
    """As much of a request as a line of the log has."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.uri = _without_query(request.uri)

    def getHeader(self, key: bytes) -> bytes | None:
        """
        @see: L{Request.getHeader}
        """
        value = self._request.getHeader(key)
        return value if value is None or key != b"referer" else _without_query(value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


def _without_query(url: bytes) -> bytes:
    # What stands before the host has no place there any more (RFC 9110, section 4.2.4).
    return re.sub(rb"//[^/@]*@", b"//", re.split(rb"[?#]", url, maxsplit=1)[0])


@provider(IAccessLogFormatter)
def access_line(timestamp: str, request: Request) -> str:
    """
    A line of the log, as Twisted's (and Apache's "combined"), without queries.

    @see: L{IAccessLogFormatter}
    """
    return combinedLogFormatter(timestamp, _WithoutQueries(request))  # type: ignore[no-any-return]
