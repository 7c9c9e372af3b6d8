"""
What the client hello has decided, held until the handshake is done.

After a HelloRetryRequest the client sends a second hello, which may differ from the first in what
RFC 8446, section 4.1.2, lists; the server's name is not in that list.  By the first one the
certificate was chosen, and whether the client needs one: a second name would be let in by the rules
of the first.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress

import attrs
from OpenSSL import SSL

from ._engine import kept_on

__all__ = ["Held", "held_by", "hold", "keeps_to_its_name"]


@attrs.define
class Held:
    """
    What was decided by the first hello.

    @ivar server_name: the name that it asked for, as L{ClientHello<twisted_bioconn.hello>} has it.
    @ivar alpn: the one protocol that the connection is for; L{None} where there is no such thing.
    @ivar has_changed: whether another hello has asked for another name.
    """

    server_name: str | None
    alpn: bytes | None = None
    has_changed: bool = False


# On the connection, as what is known of its verification.
_NAME = "_bioconn_held"


def hold(connection: SSL.Connection, held: Held) -> None:
    """Keep what was decided on its connection."""
    setattr(connection, _NAME, held)


def held_by(connection: object) -> Held | None:
    """What L{hold} has kept; L{None} where nothing was decided by a hello."""
    found = kept_on(connection, _NAME)
    return found if isinstance(found, Held) else None


def keeps_to_its_name(connection: SSL.Connection) -> bool:
    """Whether OpenSSL has read the same name that the connection was chosen by."""
    held = held_by(connection)
    if held is None:
        return True
    if connection.get_protocol_version() < SSL.TLS1_3_VERSION:
        # There is no second hello; and of a session that is offered under another name, OpenSSL
        # tells the name that it was agreed on with.
        return True
    name = connection.get_servername()
    if _spelled(name) != held.server_name:
        held.has_changed = True
    return not held.has_changed


def _spelled(name: bytes | None) -> str | None:
    if name is None:
        return None
    text = name.decode("latin-1").lower().removesuffix(".")
    with suppress(ValueError):
        text = str(ipaddress.ip_address(text))
    return text
