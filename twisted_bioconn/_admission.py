"""
Rules over who may come in, put to the peer of a connection.

OpenSSL asks about a certificate when there is one.  About a client that shows none nobody would be
asked, so that is done when its handshake is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import ref

from cryptography import x509
from OpenSSL import SSL
from twisted.python.failure import Failure

from ._held import held_by
from ._verification import Check
from .access import AccessRefused, Peer, Rules

__all__ = ["refusal_without_certificate", "rules_check"]


def rules_check(rules: Rules, protocol: Any) -> Check:
    """
    A check of the chain of one connection.

    @param protocol: its TLS protocol, which is not kept alive by this.
    @return: it raises L{AccessRefused} to refuse.
    """
    # The connection refers to its verification.
    asked = ref(protocol)

    def check(chain: Sequence[x509.Certificate]) -> None:
        decision = rules.decide(_peer(asked(), chain))
        if not decision.allowed:
            raise AccessRefused(decision.reason)

    return check


def refusal_without_certificate(rules: Rules, protocol: Any) -> Failure | None:
    """
    Why a client is not let in whose handshake is done, and whose certificate nobody has asked
    about; L{None} if it is, or has one.
    """
    connection: SSL.Connection | None = protocol.getHandle()
    if connection is not None and connection.get_peer_certificate() is not None:
        return None
    decision = rules.decide(_peer(protocol, ()))
    return None if decision.allowed else Failure(AccessRefused(decision.reason))


def _peer(protocol: Any, chain: Sequence[x509.Certificate]) -> Peer:
    get_peer = getattr(protocol, "getPeer", None)
    address = None if get_peer is None else getattr(get_peer(), "host", None)
    held = None if protocol is None else held_by(protocol.getHandle())
    return Peer(tuple(chain), address, None if held is None else held.server_name)
