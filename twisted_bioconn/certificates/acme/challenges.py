"""
How a name is proved to an authority: what all ways have in common, and C{tls-alpn-01}.

A L{Solver} shows an L{Answer} to whoever asks.  Of those that other fronts can be asked for as well
(a name may lead to any of them) each front shows all that are in the store.
"""

from __future__ import annotations

import ipaddress
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import time
from typing import Any

from cryptography import x509
from twisted.internet.defer import Deferred, succeed

from ...client_policy import ANYBODY
from ..loading import CertifiedKey
from ..source import Choice
from .records import Answer
from .stand_in import self_signed

__all__ = ["ACME_TLS", "Solver", "SolverError", "TlsAlpn01Solver", "challenge_certificate"]

ACME_TLS = b"acme-tls/1"
"""The protocol that an authority asks for by ALPN (RFC 8737, section 6.2)."""

_ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # RFC 8737, section 6.1


class SolverError(Exception):
    """An answer cannot be shown: one sentence says why."""


class Solver(ABC):
    """
    Shows answers to authorities.  Several sources may have one, as only one can have port 80.

    @cvar kind: the type of challenge, as in the registry of RFC 8555, section 9.7.8.
    @cvar on_every_front: whether an authority may come to any front to see the answer.
    @ivar propagation: for how many seconds after the answer is shown it may not be seen everywhere.
    """

    kind: str
    on_every_front: bool = True
    propagation: float = 0.0

    def can_prove(self, name: str) -> bool:
        """Whether a name (with its wildcard) or an IP address can be proved so."""
        return not name.startswith("*.")

    _users = 0

    def start(self, reactor: Any) -> None:
        """Be ready to show answers."""
        self._users += 1
        if self._users == 1:
            self._begin(reactor)

    def stop(self) -> Deferred[None]:
        """
        When it was called as often as L{start}: let go of all that is open, and show no answer any
        more.
        """
        self._users -= 1
        return succeed(None) if self._users else self._end()

    def _begin(self, reactor: Any) -> None:
        """The first has started."""
        return

    def _end(self) -> Deferred[None]:
        """The last has stopped."""
        return succeed(None)

    @abstractmethod
    def show(self, answer: Answer) -> Deferred[None]:
        """
        Show an answer.  One that is shown already may be shown again.

        The Deferred fails with L{SolverError} where it cannot be shown.
        """

    @abstractmethod
    def hide(self, answer: Answer) -> Deferred[None]:
        """
        Show an answer no longer.  One that is not shown is no error.

        The Deferred fails with L{SolverError} where that cannot be done.
        """


def challenge_certificate(answer: Answer, now: float) -> CertifiedKey:
    """
    The certificate that answers a C{tls-alpn-01} challenge (RFC 8737, section 3): of the one name,
    with the digest in an extension that is critical.
    """
    # An OCTET STRING of 32 bytes, in DER.
    extension = x509.UnrecognizedExtension(_ACME_IDENTIFIER, b"\x04\x20" + answer.digest)
    return self_signed("ACME challenge", [_general_name(answer.identifier)], now, extension)


def _general_name(identifier: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(identifier))
    except ValueError:
        return x509.DNSName(identifier)


def _server_name(identifier: str) -> str:
    """
    What an authority says for a server name.  One cannot be an address: it is the name under which
    an address is looked up in reverse (RFC 8738, section 6).
    """
    try:
        return ipaddress.ip_address(identifier).reverse_pointer
    except ValueError:
        return identifier.lower()


class TlsAlpn01Solver(Solver):
    """
    C{tls-alpn-01} (RFC 8737): a handshake with a certificate made for it, on the port of the
    server itself.
    """

    kind = "tls-alpn-01"

    def __init__(self, now: Callable[[], float] = time) -> None:
        """
        @param now: the present time, in seconds since the epoch.
        """
        self._now = now
        # By server name, then by token: two orders may be under way for one name.
        self._shown: dict[str, dict[str, Choice]] = {}

    def show(self, answer: Answer) -> Deferred[None]:
        by_token = self._shown.setdefault(_server_name(answer.identifier), {})
        if answer.token not in by_token:
            by_token[answer.token] = Choice(
                challenge_certificate(answer, self._now()),
                clients=ANYBODY,
                ends_with_handshake=True,
                alpn=ACME_TLS,
            )
        return succeed(None)

    def hide(self, answer: Answer) -> Deferred[None]:
        name = _server_name(answer.identifier)
        by_token = self._shown.get(name, {})
        by_token.pop(answer.token, None)
        if not by_token:
            self._shown.pop(name, None)
        return succeed(None)

    def _end(self) -> Deferred[None]:
        self._shown.clear()
        return succeed(None)

    def choice(self, server_name: str | None) -> Choice | None:
        """The newest answer for the server name in a hello."""
        by_token = self._shown.get(server_name or "")
        return next(reversed(by_token.values())) if by_token else None
