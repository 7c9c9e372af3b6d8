"""
A line-based chat that knows nothing of TLS, and has it by its endpoint string alone.

    python examples/chat.py tcp:4000
    python examples/chat.py bioconn:4000:privateKey=server.pem

The first line that somebody sends is a name; each line after it goes to everybody else.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure


class Chat(LineOnlyReceiver):
    """One person."""

    delimiter = b"\n"

    def __init__(self, people: dict[bytes, Chat]) -> None:
        self.people = people
        self.name = b""

    def connectionMade(self) -> None:
        """Somebody has come."""
        self.sendLine(b"Your name?")

    def lineReceived(self, line: bytes) -> None:
        """A name, or something to pass on."""
        line = line.strip()
        if self.name:
            self.tell(self.name + b": " + line)
        elif not line or line in self.people:
            self.sendLine(b"Another name?")
        else:
            self.name = line
            self.people[line] = self
            self.sendLine(b"Here: " + b", ".join(self.people))
            self.tell(line + b" has come")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Somebody has left."""
        if self.people.pop(self.name, None) is not None:
            self.tell(self.name + b" has left")

    def tell(self, line: bytes) -> None:
        """Send a line to everybody else."""
        for person in self.people.values():
            if person is not self:
                person.sendLine(line)


class ChatFactory(Factory):
    """A room."""

    def __init__(self) -> None:
        self.people: dict[bytes, Chat] = {}

    def buildProtocol(self, addr: IAddress | None) -> Chat:
        """Somebody at the door."""
        return Chat(self.people)


async def main(reactor: Any, endpoint: str = "tcp:4000:interface=127.0.0.1") -> None:
    """Serve until Ctrl-C."""
    try:
        await serverFromString(reactor, endpoint).listen(ChatFactory())
    except Exception as error:
        raise SystemExit(f"chat: {error}") from None
    print(f"listening: {endpoint}", flush=True)
    await Deferred()


if __name__ == "__main__":
    react(main, sys.argv[1:2])
