"""
TLS for any Twisted protocol, over memory BIOs.

Three ways in, none of which needs a change to a protocol: the prefix C{bioconn:} in an endpoint
string, the reactor C{bioconn} (or L{install}), and the server C{twistd bioconn}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError, Direction, PeerError, TruncatedError, UsageError

if TYPE_CHECKING:
    from .certificates.loading import CertifiedKey
    from .certificates.source import CertificateSource, Choice
    from .client_policy import ClientCertificate, ClientPolicy, CRLMode
    from .connector import Connector, State
    from .context import ClientOptions, ServerOptions, SessionStore, UnknownName
    from .endpoints import ClientEndpoint, ServerEndpoint
    from .hello import ClientHello
    from .negotiated import Negotiated
    from .policy import INTERMEDIATE, MODERN, Policy
    from .protocol import AlertReceived, TLSConnectorFactory, TLSConnectorProtocol
    from .reactor import install
    from .verify import CertificateRefused, Pin

__version__ = "26.11.0"

__all__ = [
    "INTERMEDIATE",
    "MODERN",
    "AlertReceived",
    "CRLMode",
    "CertificateRefused",
    "CertificateSource",
    "CertifiedKey",
    "Choice",
    "ClientCertificate",
    "ClientEndpoint",
    "ClientHello",
    "ClientOptions",
    "ClientPolicy",
    "ConfigurationError",
    "Connector",
    "Direction",
    "Negotiated",
    "PeerError",
    "Pin",
    "Policy",
    "ServerEndpoint",
    "ServerOptions",
    "SessionStore",
    "State",
    "TLSConnectorFactory",
    "TLSConnectorProtocol",
    "TruncatedError",
    "UnknownName",
    "UsageError",
    "install",
]

_HOMES = {
    "INTERMEDIATE": "policy",
    "MODERN": "policy",
    "AlertReceived": "protocol",
    "CertificateRefused": "verify",
    "CRLMode": "client_policy",
    "CertificateSource": "certificates.source",
    "CertifiedKey": "certificates.loading",
    "Choice": "certificates.source",
    "ClientCertificate": "client_policy",
    "ClientEndpoint": "endpoints",
    "ClientHello": "hello",
    "ClientOptions": "context",
    "ClientPolicy": "client_policy",
    "Connector": "connector",
    "Negotiated": "negotiated",
    "Pin": "verify",
    "Policy": "policy",
    "ServerEndpoint": "endpoints",
    "ServerOptions": "context",
    "SessionStore": "context",
    "State": "connector",
    "TLSConnectorFactory": "protocol",
    "TLSConnectorProtocol": "protocol",
    "UnknownName": "context",
    "install": "reactor",
}


def __getattr__(name: str) -> Any:
    """
    Import a public name when it is first asked for.

    The endpoints import Twisted's, and with them names that L{install} has to put in place before:
    so nothing is imported that was not asked for.
    """
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The names that are there, and those that will be when they are asked for."""
    return sorted({*globals(), *__all__})
