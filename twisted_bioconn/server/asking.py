"""How the status of a process is asked for, at its UNIX socket."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import URI, Agent, readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from twisted_bioconn.server.status_ports import CONTROL_HEADER, PROCESS_HEADER

__all__ = ["Answer", "ask"]


@attrs.frozen
class Answer:
    """
    What a process has answered.

    @ivar process: its number, as it says; empty where it says none.
    """

    code: int
    process: str
    body: bytes


def ask(reactor: Any, socket: str, path: str, method: bytes = b"GET") -> Deferred[Answer]:
    """
    Ask.

    @param socket: its path.
    @param path: what is asked for, of ASCII.
    @return: fires with the answer; fails where nobody answers, and waits for as long as it takes.
    """
    agent = Agent.usingEndpointFactory(reactor, _AtSocket(reactor, socket))
    headers = Headers({"host": ["localhost"], CONTROL_HEADER: ["1"]})
    asking: Deferred[Any] = agent.request(
        method, b"http://localhost" + path.encode("ascii"), headers
    )

    def answered(response: Any) -> Deferred[Answer]:
        [process] = response.headers.getRawHeaders(PROCESS_HEADER, [""])[:1]
        reading: Deferred[bytes] = readBody(response)
        return reading.addCallback(lambda body: Answer(response.code, process, body))

    return asking.addCallback(answered)


@implementer(IAgentEndpointFactory)
class _AtSocket:
    """Connects to a socket, whatever the URL says."""

    def __init__(self, reactor: Any, path: str) -> None:
        self._endpoint = UNIXClientEndpoint(reactor, path, timeout=5)

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """The socket."""
        return self._endpoint
