"""What can be known of a transport, and done to it, whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from twisted.internet import tcp
from zope.interface import providedBy
from zope.interface.declarations import Provides


def abort(transport: Any) -> None:
    """Drop a transport's connection; close it where the transport can do no more than that."""
    drop = getattr(transport, "abortConnection", None)
    if drop is None:
        transport.loseConnection()
    else:
        drop()


def provide_as(transport: Any, layer: Any) -> None:
    """
    Have a layer say that it provides what the transport below it does.

    It is what C{directlyProvides} does, but looked up once for each kind of both.
    """
    kind: Any = type(layer)
    layer.__provides__ = _declaration(kind, providedBy(transport))


@lru_cache(maxsize=64)
def _declaration(kind: Any, provided: Any) -> Any:
    return Provides(kind, provided)


def unsent(transport: Any) -> int:
    """Bytes that a transport has not sent yet, as far as that can be known."""
    if isinstance(transport, tcp.Connection):
        return len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    size: int = len(getattr(transport, "dataBuffer", b"")) - getattr(transport, "offset", 0)
    return size + getattr(transport, "_tempDataLen", 0)


def address_text(address: Any) -> str:
    """An address as people write it: C{192.0.2.1:443}, C{[2001:db8::1]:443} or a path."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is not None:
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    name = getattr(address, "name", None)
    if isinstance(name, bytes):
        # A client may have chosen it.
        return one_line(name.decode("utf-8", "backslashreplace"))
    return "a local client"


def one_line(text: str) -> str:
    """What a peer may have had a part in writing, with nothing that a terminal would obey."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


class Stream:
    """
    What a transport is that receives into a buffer of its reactor's, and can send at once.

    @ivar receiver: called with the C{data} of the reactor's
        L{Inbox<twisted_bioconn._openssl.Inbox>} and the number of bytes in it, in place of the
        protocol's C{dataReceived}.
    """

    receiver: Callable[[Any, int], object] | None = None

    def send(self, data: Any) -> None:
        """
        Send now what the kernel takes, and the rest when it takes more.

        @param data: C{bytes}, or a buffer of bytes that may be used again afterwards.
        """
        raise NotImplementedError

    def send_received(self, data: Any, count: int) -> None:
        """Send what another transport has just received."""
        raise NotImplementedError


def sender(transport: Any) -> Callable[[Any], None]:
    """
    How to send through a transport what is not to wait for the reactor's next turn.

    Twisted's C{write} costs two changes of what the reactor waits for, and a turn.

    @return: takes C{bytes}, or a buffer of bytes that may be used again afterwards.
    """
    if isinstance(transport, Stream):
        return transport.send
    if not isinstance(transport, tcp.Connection):
        return lambda data: transport.write(bytes(data))

    def send(data: Any) -> None:
        sent = 0
        if transport.connected and not (
            transport.dataBuffer or transport._tempDataLen or transport.TLS or transport._aborting
        ):
            result = transport.writeSomeData(data)
            # What is wrong will be found when the reactor sends it.
            sent = result if isinstance(result, int) else 0
        if sent < len(data):
            transport.write(bytes(data[sent:]))

    return send
