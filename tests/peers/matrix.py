"""The matrix of peers and combinations, as data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from itertools import product

from attrs import frozen

from tests.peers.ours import PeerCase


@frozen
class Combination:
    """
    What two ends agree on.

    @ivar version: C{"TLSv1.2"} or C{"TLSv1.3"}.
    @ivar certificate: whether the client shows a certificate.
    @ivar resumed: whether there is a second connection, which resumes the first one's session.
    """

    version: str
    certificate: bool
    resumed: bool

    @property
    def connections(self) -> int:
        return 2 if self.resumed else 1

    @property
    def slug(self) -> str:
        return "_".join(
            [
                self.version.replace("v1.", "1").lower(),
                "certificate" if self.certificate else "no_certificate",
                "resumed" if self.resumed else "full",
            ]
        )


COMBINATIONS = tuple(
    Combination(*each) for each in product(("TLSv1.2", "TLSv1.3"), (False, True), (False, True))
)
"""Every peer is to do all of these, as a client of ours and as a server for ours."""


def once(version: str) -> Combination:
    """One connection, with no certificate of the client's."""
    return Combination(version, certificate=False, resumed=False)


@frozen
class Seen:
    """What the peer says of a connection."""

    version: str
    resumed: bool


ClientDriver = Callable[[PeerCase, int, Combination], Awaitable[list[Seen]]]
"""Has the peer fetch the page at this port, once for each connection, and tells what it saw."""


@frozen
class PeerServer:
    """
    A peer that serves.

    @ivar port: where.
    @ivar seen: what it says of the connections that it had, given what it answered to each.
    """

    port: int
    seen: Callable[[list[str]], Awaitable[list[Seen]]]


ServerDriver = Callable[[PeerCase, Combination], Awaitable[PeerServer]]
"""Has the peer serve a page."""

Gaps = Mapping[str, Mapping[Combination, str]]
"""By the peer's name, the combinations that it cannot do, each with the reason."""
