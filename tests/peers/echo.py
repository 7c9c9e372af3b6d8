"""Lines that go to and fro."""

from __future__ import annotations

from twisted.internet.protocol import Protocol


class Echo(Protocol):
    """Sends back what comes."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


def lines(count: int) -> str:
    """So many lines, no two of which are alike."""
    return "".join(f"line {at}\n" for at in range(count))
