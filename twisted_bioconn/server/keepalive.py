"""Ends of connections that have vanished with no end are found out by the kernel (tcp(7))."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.protocols.policies import ProtocolWrapper

from twisted_bioconn._tcp import Connected
from twisted_bioconn.server.local import is_local

__all__ = ["KEEPALIVE", "keep_alive", "keep_outgoing_alive"]

KEEPALIVE = (("TCP_KEEPIDLE", 120), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 4))
"""
Seconds of silence after which the other end is asked whether it is there, seconds between two
questions, and how many it may leave without an answer: one that has vanished is gone after 4
minutes.
"""


def keep_alive(of: socket.socket | None) -> None:
    """
    Have the other end of this connection asked, or those of all that a listening socket accepts.

    @param of: a socket; what is of no network has nothing that could vanish.
    """
    if of is None or of.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):
        of.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE:
            # Windows and macOS have some of them.
            if hasattr(socket, name):
                of.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def keep_outgoing_alive(transport: Any) -> None:
    """
    Have a back end asked, whatever layers are above the connection to it.

    One on this machine is not: between it and us is no cable, and the questions would cost each
    connection four calls.
    """
    below = transport
    while isinstance(below, ProtocolWrapper):
        below = below.transport
    if isinstance(below, Connected):
        # It has taken no waiting, so that it is on this machine: to ask for its address would cost
        # more than all else here.
        return
    peer = transport.getPeer()
    if isinstance(peer, IPv4Address | IPv6Address) and not is_local(peer.host):
        keep_alive(getattr(below, "socket", None))
