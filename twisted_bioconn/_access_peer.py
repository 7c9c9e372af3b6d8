"""What a peer shows of itself, for the rules of L{access}, and how it is called in a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import TypeVar

import attrs
from cryptography import x509
from cryptography.x509.oid import NameOID

from ._access_values import URI, Address, Kind, address, dns_name, is_pin, mailbox
from .verify import Pin, subject_of

__all__ = [
    "OF_ADDRESS",
    "OF_NO_CERTIFICATE",
    "Peer",
    "Shown",
    "described",
    "in_line",
    "quoted",
    "whereabouts",
]

_T = TypeVar("_T")

OF_ADDRESS = frozenset({Kind.ADDRESS, Kind.NETWORK})
"""The kinds that are about where a peer comes from."""

OF_NO_CERTIFICATE = OF_ADDRESS | {Kind.NAME}
"""The kinds that ask for nothing in a certificate."""

# How much of what a stranger has chosen goes into a sentence.
_MOST_NAMES = 3
_MOST = 80  # characters


def _certificates(given: Iterable[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    return tuple(given)


@attrs.frozen
class Peer:
    """
    Who wants to come in.

    @ivar chain: its certificates, leaf first, as they were verified; empty where it has shown none.
    @ivar address: the IP address that it comes from; L{None} where there is none.
    @ivar server_name: the name that it asked for; L{None} where it asked for none.
    @ivar alpn: the application protocol agreed on, for a check.
    """

    chain: tuple[x509.Certificate, ...] = attrs.field(default=(), converter=_certificates)
    address: str | None = None
    server_name: str | None = None
    alpn: bytes | None = None


class Shown:
    """
    What a peer shows, read when it is first asked for.

    @ivar peer: the peer.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._keys: dict[Kind, frozenset[str]] = {}

    def keys(self, kind: Kind) -> frozenset[str]:
        """The values of conditions of a kind that hold of this peer, as far as they are keys."""
        found = self._keys.get(kind)
        if found is None:
            found = self._keys[kind] = frozenset(self._read(kind))
        return found

    def names(self, kind: Kind) -> list[str]:
        """The certificate's DNS names, URIs or e-mail addresses, as they are written there."""
        try:
            extensions = self.peer.chain[0].extensions
            names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            if kind is Kind.DNS:
                return names.get_values_for_type(x509.DNSName)
            if kind is Kind.URI:
                return names.get_values_for_type(x509.UniformResourceIdentifier)
            return names.get_values_for_type(x509.RFC822Name)
        except Exception:
            # There are none, or a parser cannot take them, which a hostile certificate may see to.
            return []

    @cached_property
    def uris(self) -> list[URI]:
        return _good(URI.parse, self.names(Kind.URI))

    @cached_property
    def address(self) -> Address | None:
        try:
            return address((self.peer.address or "").partition("%")[0])
        except ValueError:
            return None

    def _read(self, kind: Kind) -> Iterable[str]:
        chain = self.peer.chain
        if kind in OF_ADDRESS:
            return [] if self.address is None else [str(self.address)]
        if kind is Kind.NAME:
            name = self.peer.server_name
            if name is None or "*" in name:  # nobody is called so
                return []
            return [name, f"*.{name.partition('.')[2]}"]
        if not chain:
            return []
        if kind is Kind.DNS:
            # One with a "*" says of many hosts that they may be this one: it is none of them.
            own = [each for each in _good(dns_name, self.names(kind)) if "*" not in each]
            return [*own, *(f"*.{each.partition('.')[2]}" for each in own)]
        if kind is Kind.EMAIL:
            mailboxes = _good(mailbox, self.names(kind))
            return [*mailboxes, *(f"*@{each.partition('@')[2]}" for each in mailboxes)]
        if kind is Kind.URI:
            return map(str, self.uris)
        if kind is Kind.ANYONE:
            return [""]
        try:
            if kind is Kind.PIN:
                return [str(Pin.of(chain[0]))]
            if kind is Kind.CN:
                return _attributes(chain[0], NameOID.COMMON_NAME)[-1:]
            if kind is Kind.OU:
                return _attributes(chain[0], NameOID.ORGANIZATIONAL_UNIT_NAME)
            return _issuer(chain)
        except Exception:
            # What is in a certificate was chosen by a stranger: a parser may raise anything.
            return []


def _attributes(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> list[str]:
    found = certificate.subject.get_attributes_for_oid(oid)
    return [each.value for each in found if isinstance(each.value, str)]


def _issuer(chain: Sequence[x509.Certificate]) -> list[str]:
    """
    The pin and the common name of who signed the leaf.

    That it did is looked at here, so that this holds of whatever chain is given.
    """
    if len(chain) < 2:
        return []
    chain[0].verify_directly_issued_by(chain[1])
    # An authority that calls itself like the pin of another one has no name here.
    names = _attributes(chain[1], NameOID.COMMON_NAME)[-1:]
    return [str(Pin.of(chain[1])), *(name for name in names if not is_pin(name))]


def _good(read: Callable[[str], _T], texts: Iterable[str]) -> list[_T]:
    found = []
    for text in texts:
        try:
            found.append(read(text))
        except ValueError:
            continue
    return found


_PLAIN = re.compile(r"[!#-&(-+\--\[\]-~]+")  # no space, comma, quotes or backslash


def in_line(text: str) -> str:
    """Text that a rule or a user has, as a part of one line."""
    line = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text[:_MOST])
    return line if len(text) <= _MOST else f"{line}..."


def quoted(text: str) -> str:
    """
    Text that a stranger has chosen, as a part of one line: in quotes, unless it is of characters
    that nobody takes for a part of the sentence.
    """
    line = text[:_MOST] if _PLAIN.fullmatch(text[:_MOST]) else repr(text[:_MOST])
    return line if len(text) <= _MOST else f"{line}..."


def described(shown: Shown, kinds: Collection[Kind]) -> str:
    """
    How to call a peer in a sentence: by what it has shown.

    @param kinds: what the rules look at.  Key, issuer and address are told of where they do.
    """
    chain = shown.peer.chain
    asked = [_asked(shown)] if Kind.NAME in kinds else []
    if not chain:
        return ", ".join([whereabouts(shown), *asked])
    names = [
        f"{kind.value} {quoted(name)}"
        for kind in (Kind.DNS, Kind.URI, Kind.EMAIL)
        for name in shown.names(kind)
    ]
    parts = [subject_of(chain[0]), *names[:_MOST_NAMES]]
    if len(names) > _MOST_NAMES:
        parts.append(f"{len(names) - _MOST_NAMES} more names")
    if Kind.PIN in kinds:
        parts += (f"key {pin}" for pin in shown.keys(Kind.PIN))
    if Kind.ISSUER in kinds:
        # The pin is longer, and the name is what people know.
        issuers = sorted(shown.keys(Kind.ISSUER), key=is_pin)
        parts.append(f"issued by {quoted(issuers[0])}" if issuers else "with no issuer to be seen")
    if not OF_ADDRESS.isdisjoint(kinds):
        parts.append(f"from {whereabouts(shown)}")
    return ", ".join([*parts, *asked])


def _asked(shown: Shown) -> str:
    name = shown.peer.server_name
    return "asking for no name" if name is None else f"asking for {quoted(name)}"


def whereabouts(shown: Shown) -> str:
    """Where a peer comes from, in a sentence."""
    if shown.address is not None:
        return str(shown.address)
    return quoted(shown.peer.address) if shown.peer.address else "an unknown address"
