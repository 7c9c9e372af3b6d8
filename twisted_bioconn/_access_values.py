"""
What a rule of L{access} may look at, and the one spelling in which each value is compared.

A function here takes a value, of a rule or out of a certificate, and gives it in that spelling; it
raises C{ValueError} for what is none, with what is wrong in words that follow a colon.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from enum import Enum

import attrs

from .errors import ConfigurationError
from .verify import Pin, is_ip_address

__all__ = [
    "MEANINGS",
    "URI",
    "Address",
    "Kind",
    "Network",
    "address",
    "dns_name",
    "is_pin",
    "mailbox",
]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LONGEST_URI = 2048  # bytes: the SPIFFE-ID standard, section 2.3


class Kind(Enum):
    """
    What a condition looks at.

    Names of a certificate that are compared as they stand are compared with their case.
    """

    CN = "cn"
    """The common name of the subject, as it stands; of several the most specific, which is the last
    (RFC 2818, section 3.1)."""
    OU = "ou"
    """One of the organizational units of the subject, as it stands."""
    DNS = "dns"
    """One of the DNS names.  A C{*} for the first label is any one label (RFC 9525, section 6.3); a
    certificate's own name with a C{*} is nobody's."""
    URI = "uri"
    """One of the URIs, such as a SPIFFE ID: C{SCHEME://HOST/PATH}.  C{*} for a segment of the path
    is any one segment, C{**} any number of them, none too.  Scheme and host are compared without
    their case."""
    EMAIL = "email"
    """One of the e-mail addresses; the domain is compared without its case (RFC 5280, section 7.5),
    and C{*@example.org} is any of that domain."""
    PIN = "pin"
    """The SHA-256 of the public key: L{Pin}."""
    ISSUER = "issuer"
    """Who signed the certificate, as its issuer's certificate in the chain has it and not only the
    issuer's name in the certificate: the common name as it stands, or the pin."""
    ADDRESS = "address"
    """The IP address that the peer comes from; IPv4 within IPv6 (RFC 4291, section 2.5.5.2) is
    IPv4, and the zone of an address does not count."""
    NETWORK = "network"
    """A network that this address is in, such as C{10.0.0.0/8} or C{2001:db8::/32}."""
    NAME = "name"
    """The name of the server that the peer has asked for in its hello (RFC 6066, section 3).  A
    C{*} for the first label is any one label.  Who has asked for no name has none."""
    ANYONE = "anyone"
    """Whoever has a certificate that was verified.  It has no value."""


def dns_name(text: str) -> str:
    """A DNS name in lower case and ASCII (UTS 46); its first label may be a C{*}."""
    # Imported here, for the sources of certificates have client policies, and these have rules.
    from .certificates.names import spelled

    name = spelled(text)
    if name is None or is_ip_address(name):
        raise ValueError(
            "a * is allowed in place of the whole first label, and nowhere else"
            if "*" in text
            else "it is no DNS name"
        )
    return name


# RFC 5322, section 3.2.3: a dot-atom.  A quoted string is nothing that people have.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL_PART = re.compile(rf"{_ATOM}(\.{_ATOM})*")


def mailbox(text: str) -> str:
    """An e-mail address, with its domain as L{dns_name} has it."""
    local, at, domain = text.partition("@")
    if not at or not _LOCAL_PART.fullmatch(local):
        raise ValueError("it is no e-mail address")
    domain = dns_name(domain)
    if "*" in domain:
        raise ValueError("a * is allowed in place of all that is before the @, and nowhere else")
    return f"{local}@{domain}"


def _mailboxes(text: str) -> str:
    found = mailbox(text)
    local = found.partition("@")[0]
    if "*" in local and local != "*":
        raise ValueError("a * is allowed in place of all that is before the @, and nowhere else")
    return found


_SCHEME = re.compile("[a-z][a-z0-9+.-]*")
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*(:[1-9][0-9]{0,4})?")
_SEGMENT = re.compile("[A-Za-z0-9._~!$&'()*+,;=:@-]+")  # RFC 3986, section 3.3, without "%"


@attrs.frozen
class URI:
    """
    A URI with a host, of which there is only one way to read it.

    @ivar scheme: its scheme, in lower case.
    @ivar host: its host, in lower case, and its port, if it has one.
    @ivar segments: its path.
    """

    scheme: str
    host: str
    segments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> URI:
        """
        Read C{SCHEME://HOST[:PORT][/PATH]}.

        What is written in a way that programs do not agree on is none: C{%}, C{..}, empty segments
        of the path; and neither is one with a user, a query or a fragment.
        """
        if not text.isascii():
            raise ValueError("it has a character that is not in ASCII")
        scheme, found, rest = text.partition("://")
        if not found or not _SCHEME.fullmatch(scheme.lower()):
            raise ValueError("it has no scheme and host, as in spiffe://example.org/web")
        if len(text) > _LONGEST_URI:
            raise ValueError(f"it is longer than {_LONGEST_URI} characters")
        for each, what in (("%", "a percent sign"), ("?", "a query"), ("#", "a fragment")):
            if each in rest:
                raise ValueError(f"it has {what}, which is not allowed here")
        host, _, path = rest.partition("/")
        if "@" in host:
            raise ValueError("it has a user, which is not allowed here")
        if not _HOST.fullmatch(host.lower()):
            raise ValueError(
                "a * is allowed in the path only"
                if "*" in host
                else "its host is no host name"
                if host
                else "it has no host"
            )
        segments = tuple(path.split("/")) if path else ()
        for segment in segments:
            if segment in ("", ".", ".."):
                raise ValueError("its path has a segment that is empty, '.' or '..'")
            if not _SEGMENT.fullmatch(segment):
                raise ValueError("its path has a character that a URI cannot have")
        return cls(scheme.lower(), host.lower(), segments)

    def __str__(self) -> str:
        return "/".join((f"{self.scheme}://{self.host}", *self.segments))

    @property
    def is_pattern(self) -> bool:
        """Whether a segment of its path stands for others."""
        return "*" in self.segments or "**" in self.segments

    def matches(self, other: URI) -> bool:
        """Whether another one is what this pattern stands for."""
        if (self.scheme, self.host) != (other.scheme, other.host):
            return False
        # Each "**" takes as little as it can.  Where that does not do, the last one takes more:
        # no other choice of those before it could help.
        pattern, segments = self.segments, other.segments
        at = taken = 0
        last, resume = -1, 0
        while taken < len(segments):
            if at < len(pattern) and pattern[at] == "**":
                last, resume = at, taken
                at += 1
            elif at < len(pattern) and pattern[at] in ("*", segments[taken]):
                at += 1
                taken += 1
            elif last >= 0:
                resume += 1
                at, taken = last + 1, resume
            else:
                return False
        return all(each == "**" for each in pattern[at:])


def _uri(text: str) -> URI:
    found = URI.parse(text)
    if any("*" in each and each not in ("*", "**") for each in found.segments):
        raise ValueError("* and ** are allowed in place of whole segments of the path only")
    return found


def address(text: str) -> Address:
    """An IP address; IPv4 within IPv6 is IPv4."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(
            "it is no IP address; did you mean network?" if "/" in text else "it is no IP address"
        ) from None
    if isinstance(found, ipaddress.IPv6Address):
        if found.scope_id is not None:
            raise ValueError("an address with a zone is known on one machine only: leave out the %")
        return found.ipv4_mapped or found
    return found


_NETWORK = re.compile(r"([0-9A-Fa-f.:]+)/([0-9]{1,3})")


def _network(text: str) -> Network:
    form = _NETWORK.fullmatch(text)
    if form is None:
        raise ValueError(
            "it has no length of a prefix, as in 10.0.0.0/8; did you mean address?"
            if is_ip_address(text)
            else "it is no network, as in 10.0.0.0/8 or 2001:db8::/32"
        )
    try:
        meant = _as_ipv4(ipaddress.ip_network(text, strict=False))
        found = ipaddress.ip_address(form[1])
    except ValueError:
        raise ValueError("it is no network, as in 10.0.0.0/8 or 2001:db8::/32") from None
    first = address(form[1]) if isinstance(meant, ipaddress.IPv4Network) else found
    if first != meant.network_address:
        raise ValueError(
            f"it is an address within a network; the network is {meant}, and the one address"
            f" is address={first}"
        )
    return meant


def _as_ipv4(network: Network) -> Network:
    """The same, as it is compared with addresses: see L{address}."""
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def is_pin(text: str) -> bool:
    """Whether this is written like a L{Pin}, even if it is none."""
    return text.strip().lower().startswith("sha256:") or text.strip().startswith("sha256//")


def _pin(text: str) -> Pin:
    try:
        return Pin.parse(text)
    except ConfigurationError:
        raise ValueError("it is not 'sha256:' and 64 hex digits or base64 of 32 bytes") from None


def _as_it_stands(text: str) -> str:
    if "*" in text:
        raise ValueError("a * is not allowed here: the name is compared as it stands")
    return text


MEANINGS: dict[Kind, Callable[[str], str | Pin | URI | Address | Network]] = {
    Kind.CN: _as_it_stands,
    Kind.OU: _as_it_stands,
    Kind.DNS: dns_name,
    Kind.URI: _uri,
    Kind.EMAIL: _mailboxes,
    Kind.PIN: _pin,
    Kind.ISSUER: lambda text: _pin(text) if is_pin(text) else _as_it_stands(text),
    Kind.ADDRESS: address,
    Kind.NETWORK: _network,
    Kind.NAME: dns_name,
    Kind.ANYONE: str,
}
"""What a value means in a rule, by its kind; as text it is the spelling in which it is compared."""
