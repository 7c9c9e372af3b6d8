"""
What may come before TLS on a port, and where its clients go, as values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import attrs
from twisted.internet.interfaces import IProtocolFactory

from .access import Rules
from .certificates.names import spelled
from .client_policy import ClientPolicy
from .context import ServerOptions
from .errors import ConfigurationError
from .hello import ClientHello
from .starttls import server_dialogue

__all__ = [
    "Network",
    "Plain",
    "PreambleOptions",
    "Route",
    "all_options",
    "is_in",
    "network",
    "networks",
]


class Plain(Enum):
    """What bytes get that are not TLS."""

    REFUSE = "refuse"
    """OpenSSL's judgement, which is that this is no TLS."""
    REDIRECT = "redirect"
    """HTTP is told to come again with TLS; all else is as with C{REFUSE}."""
    FORWARD = "forward"
    """The application, over a transport that is not TLS."""


Network = IPv4Network | IPv6Network


@attrs.frozen(kw_only=True)
class PreambleOptions:
    """
    What may come before TLS.

    @ivar proxies: the networks whose connections begin with a PROXY header, all of them; nobody
        else's may.
    @ivar plain: what bytes get that are not TLS.
    @ivar plain_after: seconds of silence after which a client is taken for one of a protocol in
        which the server speaks first, and so for a plain one; L{None} for never.
    @ivar starttls: the protocol in which TLS is asked for, one of
        L{twisted_bioconn.starttls.NAMES}; L{None} where it begins by itself.
    @ivar host_name: what we call ourselves before TLS.
    @raise ConfigurationError: this does not fit together.
    """

    proxies: tuple[Network, ...] = ()
    plain: Plain = Plain.REFUSE
    plain_after: float | None = None
    starttls: str | None = None
    host_name: str = "localhost"

    def __attrs_post_init__(self) -> None:
        if self.starttls is not None:
            # What is wrong about them is said now.
            server_dialogue(self.starttls, host_name=self.host_name)
            if self.plain is not Plain.REFUSE:
                raise ConfigurationError(
                    f"starttls= and plain={self.plain.value} exclude each other:"
                    " before TLS there is a dialogue, and nothing else"
                )
        if self.plain_after is not None and self.plain is not Plain.FORWARD:
            raise ConfigurationError(
                "plainAfter= needs plain=forward: a client that says nothing is no plain one"
            )

    def may_send_header(self, host: str | None) -> bool:
        """Whether a sender at this address has to begin with a PROXY header."""
        return is_in(host, self.proxies)


def is_in(host: str | None, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of these; L{None}, and what is no address, is in none."""
    if host is None or not networks:
        return False
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any(
        address in network or (mapped is not None and mapped in network) for network in networks
    )


def _names(given: Iterable[str]) -> frozenset[str]:
    return frozenset(_name(each) for each in given)


def _name(given: str) -> str:
    name = spelled(given)
    if name is None:
        raise ConfigurationError(f"{given!r} is no name of a server that a client could ask for")
    return name


def _protocols(given: Iterable[bytes]) -> frozenset[bytes]:
    return frozenset(given)


@attrs.frozen(kw_only=True)
class Route:
    """
    Where some of the clients of a port go, by what their hello asks for.  With neither names nor
    protocols, all do.

    @ivar factory: makes the protocols.
    @ivar names: host names; one that begins with C{*.} is for all that differ from it in the first
        label.
    @ivar alpn: protocols, of which the client has to offer one.
    @ivar passes_through: whether the connection goes on as it came, TLS and all: it ends where the
        factory takes it, and nothing is decrypted here.
    @ivar options: what these clients are served by, where that is not what all others are: see
        L{ServerOptions.for_clients}.
    @ivar rules: who may go on to where the connection passes through to, by address and by name;
        L{None} for anybody.
    @raise ConfigurationError: one of the names is none, or this does not fit together.
    """

    factory: IProtocolFactory
    names: frozenset[str] = attrs.field(default=frozenset(), converter=_names)
    alpn: frozenset[bytes] = attrs.field(default=frozenset(), converter=_protocols)
    passes_through: bool = False
    options: ServerOptions | None = None
    rules: Rules | None = None

    def __attrs_post_init__(self) -> None:
        if self.options is not None and self.passes_through:
            raise ConfigurationError(
                "a route that passes through has no TLS, and no options for it"
            )
        if self.rules is not None:
            if not self.passes_through:
                raise ConfigurationError("rules of a route are those of its options")
            # Nobody here sees a certificate.
            ClientPolicy(rules=self.rules)

    def is_for(self, hello: ClientHello) -> bool:
        """Whether a client that says this goes here."""
        if self.alpn and self.alpn.isdisjoint(hello.alpn):
            return False
        name = hello.server_name
        return not self.names or (
            name is not None and (name in self.names or "*." + name.partition(".")[2] in self.names)
        )


def networks(text: str) -> tuple[Network, ...]:
    """
    Networks with commas between them.

    @raise ConfigurationError: one of them is none.
    """
    return tuple(network(each.strip()) for each in text.split(","))


def network(text: str) -> Network:
    """
    A network, or an address, which is one of a single member.

    @raise ConfigurationError: it is none.
    """
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        raise ConfigurationError(f"{text!r} is no network: 10.0.0.0/8 is one") from None
    raise ConfigurationError(f"{text} has bits set beyond its length: do you mean {meant}?")


def all_options(own: ServerOptions | None, routes: Iterable[Route]) -> list[ServerOptions]:
    """The options of a port, where it has TLS, and those that routes have; each once."""
    found = [own, *(each.options for each in routes)]
    return list(dict.fromkeys(each for each in found if each is not None))
