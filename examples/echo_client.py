"""
An echo client that has TLS from its endpoint string alone, and verifies the server.

    python examples/echo_client.py [ENDPOINT [MESSAGE]]

It sends the message, and prints what comes back and what was negotiated.
With no ENDPOINT it connects to C{echo_server.py} and trusts the development authority.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, quoteStringArgument
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import react
from twisted.python.failure import Failure

from twisted_bioconn.certificates.development import DevelopmentAuthority, state_directory


class Ask(Protocol):
    """Sends a message, and waits until as much has come back."""

    transport: Any

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.received = b""
        self.answer: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        """The handshake is done, and the server is who it should be."""
        self.transport.write(self.message)

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come."""
        self.received += data
        if len(self.received) >= len(self.message):
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end: C{ConnectionDone} is a clean one, and anything else says what went wrong."""
        if reason.check(ConnectionDone):
            self.answer.callback(self.received)
        else:
            self.answer.errback(reason)


def default_endpoint() -> str:
    """Where C{echo_server.py} listens, and whom to trust there."""
    authority = DevelopmentAuthority(state_directory())
    return f"bioconn:localhost:4433:trustRoots={quoteStringArgument(authority.certificate_path)}"


async def main(reactor: Any, endpoint: str | None = None, message: str = "hello") -> None:
    """Connect, ask, and print the answer."""
    try:
        client = clientFromString(reactor, endpoint or default_endpoint())
        asking = Ask(message.encode())
        await client.connect(Factory.forProtocol(lambda: asking))
        facts = getattr(asking.transport, "negotiated", None)
        answer = await asking.answer
    except Exception as error:
        raise SystemExit(f"echo_client: {error}") from None
    print(answer.decode())
    if facts is not None:
        print(f"over {facts.version}, {facts.cipher}, {facts.group}")


if __name__ == "__main__":
    react(main, sys.argv[1:3])
