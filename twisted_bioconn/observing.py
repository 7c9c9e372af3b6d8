"""
What becomes of the connections of a port, told to whoever counts, logs or shows them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure

from .explanations import Explanation
from .limits import Limit
from .negotiated import Negotiated

if TYPE_CHECKING:
    from .protocol import TLSConnectorProtocol

__all__ = ["Observer"]


class Observer:
    """
    Is told of each step of each connection.  Here nothing comes of it.

    A TLS connection is told of by C{begun}, then by C{let_in} or C{not_let_in}, then by C{ended}.
    One that has not come as far as TLS is told of by C{refused} or C{not_let_in} alone, and a plain
    one by C{plain}, then by C{plain_ended}.  What is raised here is the caller's trouble: nothing
    should be.
    """

    def refused(self, limit: Limit) -> None:
        """A connection was closed, because a limit has been reached."""

    def begun(self, tls: TLSConnectorProtocol) -> None:
        """A client's hello has come, and a handshake begins."""

    def let_in(self, tls: TLSConnectorProtocol, facts: Negotiated) -> None:
        """A handshake is done and its client let in; the application is yet to be built."""

    def not_let_in(
        self, tls: TLSConnectorProtocol | None, peer: str, explanation: Explanation, waited: float
    ) -> None:
        """
        A connection has ended before its client was let in.

        @param tls: L{None} for one that has not come as far as TLS.
        @param peer: the client's address, as it is to be called.
        @param waited: seconds since it was accepted.
        """

    def plain(self, transport: Any, peer: IAddress | None) -> None:
        """A connection is not TLS, and is let in as it is."""

    def plain_ended(self, peer: IAddress | None, lasted: float, reason: Failure) -> None:
        """
        A plain connection has ended.

        @param lasted: seconds since it was accepted.
        """

    def ended(self, tls: TLSConnectorProtocol, reason: Failure) -> None:
        """A connection that was begun has ended."""
