"""
The transport that an application keeps through C{startTLS}.

After C{startTLS} the application still writes to its TCP transport, and Twisted sends the calls
that TLS has to hear of on to the TLS layer.  It leaves three out: C{loseWriteConnection} closes TCP
with no close_notify, and with bytes still to be encrypted; C{pauseProducing} and
C{resumeProducing} stop the handshake too.  L{route} adds those, for connections whose TLS is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet._newtls import ConnectionMixin, _BypassTLS
from twisted.internet.abstract import FileDescriptor

from .protocol import TLSConnectorProtocol

_METHODS = ("loseWriteConnection", "pauseProducing", "resumeProducing")


def _routed(name: str) -> Callable[[Any], None]:
    def method(self: Any) -> None:
        ours = self.TLS and isinstance(self.protocol, TLSConnectorProtocol)
        if ours:
            getattr(self.protocol, name)()
        else:
            getattr(FileDescriptor, name)(self)

    method.__name__ = name
    method.__doc__ = f"Send C{{{name}}} to the TLS layer, where there is one of ours."
    return method


def _bypassing(name: str) -> Callable[[Any], None]:
    def method(self: Any) -> None:
        getattr(self._base, name)(self._connection)

    method.__name__ = name
    method.__doc__ = f"C{{{name}}} of the transport itself, which is what the TLS layer wants."
    return method


def route() -> None:
    """Send the calls to the TLS layer.  To do it again changes nothing."""
    for name in _METHODS:
        if name not in vars(ConnectionMixin):
            setattr(ConnectionMixin, name, _routed(name))
            setattr(_BypassTLS, name, _bypassing(name))


def restore() -> None:
    """Undo L{route}."""
    for name in _METHODS:
        if name in vars(ConnectionMixin):
            delattr(ConnectionMixin, name)
            delattr(_BypassTLS, name)
