"""
Some connections by TLS and some not, on one port; the application sees which is which.

    python examples/mixed_port.py
    python examples/mixed_port.py ask

The first serves on port 4433 of this machine, with a certificate of the development authority. The
second comes by both ways, one after the other, and prints what it was told::

    plain: you are plain: no secret for you
    TLS:   you come by TLSv1.3: the cat is in the bag

There is no flag that a client could forge.  What is not TLS never meets the TLS layer, and its
protocol has a transport that is none.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, quoteStringArgument, serverFromString
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from twisted_bioconn import TLSConnectorProtocol
from twisted_bioconn.certificates.development import DevelopmentAuthority, state_directory


class Guard(LineOnlyReceiver):
    """Has a secret for those who come by TLS."""

    transport: Any

    def lineReceived(self, line: bytes) -> None:
        """A question."""
        if isinstance(self.transport, TLSConnectorProtocol):
            # The handshake is done: before that there is no Guard.
            facts = self.transport.negotiated
            assert facts is not None
            answer = f"you come by {facts.version}: the cat is in the bag"
        else:
            answer = "you are plain: no secret for you"
        self.sendLine(answer.encode())


class Visitor(LineOnlyReceiver):
    """Asks once."""

    transport: Any

    def __init__(self) -> None:
        self.told: Deferred[str] = Deferred()

    def connectionMade(self) -> None:
        """On a mixed port it is the client who speaks first: that tells what it speaks."""
        self.sendLine(b"the secret?")

    def lineReceived(self, line: bytes) -> None:
        """The answer."""
        if not self.told.called:
            self.told.callback(line.decode())
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end, perhaps before there was an answer."""
        if not self.told.called:
            self.told.errback(reason)


async def serve(reactor: Any) -> None:
    """Serve until Ctrl-C."""
    authority = DevelopmentAuthority(state_directory())
    authority.leaf()
    key = quoteStringArgument(f"{authority.directory}/leaf.pem")
    # Where the server has to speak first, plainAfter=2 takes who is silent for so long for plain.
    endpoint = f"bioconn:4433:interface=127.0.0.1:plain=forward:privateKey={key}"
    await serverFromString(reactor, endpoint).listen(Factory.forProtocol(Guard))
    print(f"listening: {endpoint}", flush=True)
    await Deferred()


async def ask(reactor: Any) -> None:
    """Come by both ways."""
    roots = quoteStringArgument(DevelopmentAuthority(state_directory()).certificate_path)
    for title, endpoint in (
        ("plain:", "tcp:localhost:4433"),
        ("TLS:  ", f"bioconn:localhost:4433:trustRoots={roots}"),
    ):
        visitor: Any = await clientFromString(reactor, endpoint).connect(
            Factory.forProtocol(Visitor)
        )
        print(title, await visitor.told, flush=True)


async def main(reactor: Any, role: str = "serve") -> None:
    """Serve, or ask."""
    roles = {"serve": serve, "ask": ask}
    if role not in roles:
        raise SystemExit("usage: mixed_port.py [ask]")
    try:
        await roles[role](reactor)
    except Exception as error:
        raise SystemExit(f"mixed_port: {error}") from None


if __name__ == "__main__":
    react(main, sys.argv[1:2])
