"""What can be known of a transport, and done to it, whatever it is."""

from __future__ import annotations

from typing import Any


def abort(transport: Any) -> None:
    """Drop a transport's connection; close it where the transport can do no more than that."""
    drop = getattr(transport, "abortConnection", None)
    if drop is None:
        transport.loseConnection()
    else:
        drop()


def unsent(transport: Any) -> int:
    """Bytes that a transport has not sent yet, as far as that can be known."""
    size: int = len(getattr(transport, "dataBuffer", b"")) - getattr(transport, "offset", 0)
    return size + getattr(transport, "_tempDataLen", 0)
