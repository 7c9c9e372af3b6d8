"""
The dialogues that come before TLS where it begins in mid-connection, with no I/O, for both ends.

In the role of a server we end TLS for one that does not know it: L{server_dialogue} speaks with the
client until TLS begins, and L{make_backend_filter} then keeps from the client what the server
behind says that the client has heard already.  That server is to offer no TLS of its own, and to
let its clients authenticate without.  In the role of a client, L{client_dialogue} asks a server for
TLS.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs

from ..errors import ConfigurationError
from .backend import BackendFilter, filter_for
from .dialogue import Dialogue, DialogueState, InjectionRefused, StartTLSError, StartTLSRefused
from .imap import IMAPClient, IMAPServer
from .ldap import LDAPClient, LDAPServer
from .pop3 import POP3Client, POP3Server
from .postgresql import PostgreSQLClient, PostgreSQLServer
from .sieve import SieveClient, SieveServer
from .smtp import SMTPClient, SMTPServer
from .xmpp import XMPPClient, XMPPServer

__all__ = [
    "NAMES",
    "BackendFilter",
    "Dialogue",
    "DialogueState",
    "InjectionRefused",
    "StartTLSError",
    "StartTLSRefused",
    "client_dialogue",
    "default_ports",
    "make_backend_filter",
    "server_dialogue",
]

_HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[A-Za-z0-9.:]{1,64}\]")
"""With the literals of addresses that SMTP has: RFC 5321, section 4.1.3."""


@attrs.frozen
class _Protocol:
    """
    @ivar ports: IANA's, on which TLS begins so; the first is the usual one.
    """

    ports: tuple[int, ...]
    server: Callable[[str, str], Dialogue]
    client: Callable[[str, str], Dialogue]


_PROTOCOLS = {
    "smtp": _Protocol((587, 25), SMTPServer, SMTPClient),
    "lmtp": _Protocol((24,), SMTPServer, SMTPClient),
    "imap": _Protocol((143,), IMAPServer, IMAPClient),
    "pop3": _Protocol((110,), POP3Server, POP3Client),
    "sieve": _Protocol((4190,), SieveServer, SieveClient),
    "ldap": _Protocol((389,), LDAPServer, LDAPClient),
    "xmpp": _Protocol((5222,), XMPPServer, XMPPClient),
    "xmpp-server": _Protocol((5269,), XMPPServer, XMPPClient),
    "postgresql": _Protocol((5432,), PostgreSQLServer, PostgreSQLClient),
}

NAMES = tuple(_PROTOCOLS)
"""The names of the protocols; C{xmpp-server} is XMPP between two servers."""


def default_ports(name: str) -> tuple[int, ...]:
    """
    The ports on which TLS begins so, the usual one first.

    @raise ConfigurationError: there is no such protocol.
    """
    return _protocol(name).ports


def server_dialogue(name: str, *, host_name: str) -> Dialogue:
    """
    The end of a server, which waits for its client to ask for TLS.

    @param name: one of L{NAMES}.
    @param host_name: what it calls itself.
    @raise ConfigurationError: there is no such protocol, or the name of the host is none.
    """
    return _protocol(name).server(name, _checked(name, host_name))


def client_dialogue(name: str, *, host_name: str) -> Dialogue:
    """
    The end of a client, which asks its server for TLS.

    @param name: one of L{NAMES}.
    @param host_name: for SMTP and LMTP what we call ourselves; for XMPP the domain that is asked
        for.  The others do not need it.
    @raise ConfigurationError: there is no such protocol, or the name of the host is none.
    """
    return _protocol(name).client(name, _checked(name, host_name))


def make_backend_filter(name: str) -> BackendFilter | None:
    """
    What is to stand between the server behind a front and the client, once TLS has begun.

    @param name: one of L{NAMES}.
    @return: L{None} where the server does not speak first, or where the client expects it to after
        TLS (ManageSieve: RFC 5804, section 2.2).
    @raise ConfigurationError: there is no such protocol.
    """
    _protocol(name)
    return filter_for(name)


def _protocol(name: str) -> _Protocol:
    found = _PROTOCOLS.get(name)
    if found is None:
        raise ConfigurationError(
            f"starttls: {name!r} is no protocol that is known: there are {', '.join(NAMES)}"
        )
    return found


def _checked(name: str, host_name: str) -> str:
    if _HOST_NAME.fullmatch(host_name) is None:
        raise ConfigurationError(f"starttls: {name}: {host_name!r} is no name of a host in ASCII")
    return host_name
