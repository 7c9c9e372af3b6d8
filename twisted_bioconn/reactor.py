"""
A reactor whose TLS is ours.

Twisted's reactors have no TLS of their own: C{listenSSL}, C{connectSSL}, C{startTLS} and the
C{ssl:} and C{tls:} endpoints all build a C{TLSMemoryBIOFactory}, and find that class as an
attribute of one of five modules. L{install} puts L{TLSConnectorFactory} and
L{TLSConnectorProtocol} there, so that every reactor, installed already or not, runs TLS on the
connector; and what an application calls on its transport after C{startTLS} reaches the TLS layer
(L{_newtls}).

Ports and connections that were made before stay what they are. So does code that took a name out of
C{twisted.protocols.tls} before: L{install}, as any installation of a reactor, belongs first in a
program.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any
from warnings import warn

from twisted.application.reactors import IReactorInstaller, getReactorTypes
from twisted.internet import _sslverify
from twisted.protocols import tls

from . import _creators, _newtls
from .errors import ConfigurationError
from .protocol import TLSConnectorFactory, TLSConnectorProtocol

_OURS: dict[str, Any] = {
    "TLSMemoryBIOFactory": TLSConnectorFactory,
    "TLSMemoryBIOProtocol": TLSConnectorProtocol,
    "BufferingTLSTransport": TLSConnectorProtocol,
    # The C{tls:} server endpoint makes contexts out of sight, with Twisted's ALPN callback in them.
    "setupForALPN": _creators.setup_for_alpn,
}
_TWISTEDS: dict[str, Any] = {
    name: getattr(_sslverify if name == "setupForALPN" else tls, name) for name in _OURS
}

# Where Twisted 26.10 looks those names up at the time of use, as attributes of the module. One that
# is not imported yet is left alone: its import takes the names from the first, which has ours.
_MODULES = (
    "twisted.protocols.tls",
    "twisted.protocols._sni",
    "twisted.internet._newtls",
    "twisted.internet._sslverify",
    "twisted.internet.endpoints",
    "twisted.internet.iocpreactor.reactor",
)


def install(name: str | None = None) -> None:
    """
    Install a reactor and move the TLS of all reactors onto the connector.

    Where a reactor is installed already it stays, with a warning if it is not the named one, and
    only its TLS moves. To call this again changes nothing.

    @param name: C{"bioconn"} or L{None} for the platform's best reactor, which on Linux is our own
        on epoll (L{_epoll}); C{"asyncio"} or C{"bioconn-asyncio"} for the one on asyncio, with the
        event loop of asyncio's policy; or the short name of any other reactor that
        C{twistd --help-reactors} lists.
    @raise ConfigurationError: no reactor has that name, or it does not work on this machine.
    """
    module, make = _find(name)
    was_ours = tls.TLSMemoryBIOFactory is TLSConnectorFactory
    _use_ours()
    installed = sys.modules.get("twisted.internet.reactor")
    if installed is None:
        try:
            make()
        except Exception as error:
            if not was_ours:
                _use_twisteds()
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(
                f"the reactor {name!r} does not work on this machine: {error}"
            ) from error
    elif module is not None and not _comes_from(type(installed), module):
        warn(
            f"the reactor {name!r} is not installed, because another is already:"
            f" {type(installed).__qualname__}",
            RuntimeWarning,
            stacklevel=2,
        )


def install_best_reactor() -> None:
    """
    Install the platform's best reactor, on Linux our own, unless there is a reactor already.

    The TLS of other endpoints stays what it is.
    """
    if "twisted.internet.reactor" not in sys.modules:
        _install_best()


def _find(name: str | None) -> tuple[str | None, Callable[[], object]]:
    """
    Find the module that the named reactor's class comes from (L{None} if any will do), and what
    installs it.
    """
    if name in (None, "bioconn"):
        return None, _install_best
    if name == "default":
        return None, _install_default
    if name in ("asyncio", "bioconn-asyncio"):
        return "twisted.internet.asyncioreactor", _install_asyncio
    installers: dict[str, IReactorInstaller] = {
        installer.shortName: installer for installer in getReactorTypes()
    }
    if name in installers:
        return getattr(installers[name], "moduleName", None), installers[name].install
    nearest = get_close_matches(str(name), installers, 1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ConfigurationError(
        f"no reactor is named {name!r} (there are {', '.join(sorted(installers))}){hint}"
    )


def _comes_from(reactor: type, module: str) -> bool:
    return any(f"{base.__module__}.".startswith(f"{module}.") for base in reactor.__mro__)


def _install_best() -> None:
    try:
        from ._epoll import install as install_it
    except ImportError:
        # Linux alone has epoll.
        from twisted.internet.default import install as install_it
    install_it()


def _install_default() -> None:
    from twisted.internet import default

    default.install()


def _install_asyncio() -> None:
    from twisted.internet import asyncioreactor

    asyncioreactor.install()


def _use_ours() -> None:
    _put(_OURS)
    _newtls.route()


def _use_twisteds() -> None:
    _put(_TWISTEDS)
    _newtls.restore()


def _put(classes: dict[str, Any]) -> None:
    """
    Let Twisted's modules find these classes under the names of Twisted's.
    """
    for module in map(sys.modules.get, _MODULES):
        for name, value in classes.items():
            if hasattr(module, name):
                setattr(module, name, value)
