"""
An echo server that has TLS from its endpoint string alone.

    python examples/echo_server.py [ENDPOINT]

With no ENDPOINT it listens on port 4433 of this machine, with a certificate for localhost from the
development authority, which is made on first use.  C{echo_client.py} talks to it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react

from twisted_bioconn.certificates.development import DevelopmentAuthority, state_directory


class Echo(Protocol):
    """Sends back what it receives."""

    transport: ITransport

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come."""
        self.transport.write(data)


def default_endpoint() -> str:
    """Where to listen, with the certificate of the development authority."""
    authority = DevelopmentAuthority(state_directory())
    authority.leaf()
    key = quoteStringArgument(os.path.join(authority.directory, "leaf.pem"))
    return f"bioconn:4433:interface=127.0.0.1:privateKey={key}"


async def main(reactor: Any, endpoint: str | None = None) -> None:
    """Serve until Ctrl-C."""
    try:
        endpoint = endpoint or default_endpoint()
        await serverFromString(reactor, endpoint).listen(Factory.forProtocol(Echo))
    except Exception as error:
        raise SystemExit(f"echo_server: {error}") from None
    print(f"listening: {endpoint}", flush=True)
    await Deferred()


if __name__ == "__main__":
    react(main, sys.argv[1:2])
