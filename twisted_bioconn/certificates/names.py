"""
Which certificate for which name.

A client says the name of the server that it wants (RFC 6066, section 3).  The certificate for
exactly this name goes first, then one with a C{*} for the name's first label (RFC 9525, section
6.3), and last one that is only called by this name, say because its file is.

Several certificates may be for one name: an RSA and an ECDSA one, an old and a new one.  All are
kept, and for each client the best is taken, see L{Candidates}.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import attrs
import idna
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from twisted.logger import Logger

from ..errors import ConfigurationError
from ..hello import ClientHello
from .loading import CertifiedKey, PrivateKey
from .source import CertificateFacts

__all__ = ["ByName", "Candidates", "NameTable", "facts_about", "key_type", "names_of", "spelled"]

_log = Logger()

_LONGEST_NAME = 253  # characters: RFC 1035, section 2.3.4, less what only the wire form has
_LABEL = re.compile("[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")  # containers have underscores

_T = TypeVar("_T")


def spelled(name: str) -> str | None:
    """
    A name as a client spells it: in lower case, in ASCII (UTS 46), without a dot at its end; an IP
    address in its usual spelling.  The first label may be a C{*}.

    @return: L{None} for what is no name of a server.
    """
    if ":" in name or name.rpartition(".")[2].isdigit():  # no host name is like that
        try:
            return str(ipaddress.ip_address(name))
        except ValueError:
            return None
    wildcard = "*." if name.startswith("*.") else ""
    host = name.removeprefix(wildcard).removesuffix(".")
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            return None
    labels = host.lower().split(".")
    # A certificate may say anything. An address gone wrong, with digits last, is no name either.
    if (
        len(wildcard + host) > _LONGEST_NAME
        or labels[-1].isdigit()
        or not all(map(_LABEL.fullmatch, labels))
    ):
        return None
    return wildcard + ".".join(labels)


def key_type(key: PrivateKey) -> str:
    """The kind of a key, such as C{EC secp256r1} or C{RSA 2048}."""
    if isinstance(key, RSAPrivateKey):
        return f"RSA {key.key_size}"
    if isinstance(key, EllipticCurvePrivateKey):
        return f"EC {key.curve.name}"
    return "Ed25519" if isinstance(key, Ed25519PrivateKey) else "Ed448"


def facts_about(
    certificate: CertifiedKey, source: str, last_error: str | None = None
) -> CertificateFacts:
    """What an operator wants to see of a certificate that is not renewed by its source."""
    return CertificateFacts(
        names=names_of(certificate),
        source=source,
        key_type=key_type(certificate.key),
        not_before=certificate.leaf.not_valid_before_utc,
        not_after=certificate.not_valid_after,
        last_error=last_error,
    )


def names_of(certificate: CertifiedKey) -> tuple[str, ...]:
    """The names of a certificate as a client spells them."""
    try:
        names = certificate.names
    except ConfigurationError:  # the rest of it is good: it can be a default
        return ()
    return _known(names)


class ByName(Generic[_T]):
    """
    Values by name: of the exact name, else of the one with a C{*} for its first label.
    """

    __slots__ = ("_exact", "_wildcard")

    def __init__(self, values: Mapping[str, _T] | None = None) -> None:
        """
        @raise ConfigurationError: one of the names is no name of a server.
        """
        self._exact: dict[str, _T] = {}
        self._wildcard: dict[str, _T] = {}
        for name, value in (values or {}).items():
            known = spelled(name)
            if known is None:
                raise ConfigurationError(f"{name!r} is neither a DNS name nor an IP address")
            self[known] = value

    def __len__(self) -> int:
        return len(self._exact) + len(self._wildcard)

    def __getitem__(self, name: str) -> _T:
        """The value of just this name, C{*} and all, in the spelling of L{spelled}."""
        names, key = self._place(name)
        return names[key]

    def __setitem__(self, name: str, value: _T) -> None:
        names, key = self._place(name)
        names[key] = value

    def __delitem__(self, name: str) -> None:
        names, key = self._place(name)
        del names[key]

    def get(self, name: str) -> _T | None:
        """The value of just this name."""
        names, key = self._place(name)
        return names.get(key)

    def find(self, name: str) -> _T | None:
        """The value for a server that is called so."""
        found = self._exact.get(name)
        if found is None and self._wildcard:
            first, _, rest = name.partition(".")
            if first:
                return self._wildcard.get(rest)
        return found

    def under(self, rest: str) -> list[_T]:
        """The values of all names that are one label and this."""
        return [value for name, value in self._exact.items() if name.partition(".")[2] == rest]

    def _place(self, name: str) -> tuple[dict[str, _T], str]:
        if name.startswith("*."):
            return self._wildcard, name[2:]
        return self._exact, name


def _rank(key: PrivateKey) -> int:
    """
    Which kind of key is preferred: the one that costs a server least, of those that clients know.
    """
    for rank, kind in enumerate((RSAPrivateKey, Ed448PrivateKey, Ed25519PrivateKey)):
        if isinstance(key, kind):
            return rank
    return 3  # EC


@attrs.frozen
class _Entry:
    """
    A certificate in a table.

    @ivar begin: from when on it is valid, in seconds since 1970.
    @ivar end: when it has expired.
    """

    certificate: CertifiedKey
    origin: str
    begin: float
    end: float

    @classmethod
    def of(cls, certificate: CertifiedKey, origin: str) -> _Entry:
        leaf = certificate.leaf
        return cls(
            certificate,
            origin,
            leaf.not_valid_before_utc.timestamp(),
            leaf.not_valid_after_utc.timestamp(),
        )

    def is_valid(self, now: float) -> bool:
        return self.begin <= now < self.end


def _preference(entry: _Entry) -> tuple[float, ...]:
    # Of two files with the same leaf, the one with the intermediates is of more use.
    return (_rank(entry.certificate.key), entry.end, len(entry.certificate.chain))


class Candidates:
    """
    Several certificates for one purpose.  The best for a client is:

      1. one that is valid now, where there is one;
      2. of these, one that the client can verify;
      3. of these, ECDSA before RSA;
      4. of these, the one that expires last.

    The order is found once, and again when one of them begins or ceases to be valid.
    """

    __slots__ = ("_from", "_order", "_until", "entries")

    def __init__(self, entries: Iterable[_Entry]) -> None:
        self.entries = tuple(entries)
        self._order: tuple[tuple[CertifiedKey, object], ...] = ()
        self._from = self._until = 0.0  # the time in which the order holds

    def choose(self, hello: ClientHello, now: Callable[[], float]) -> CertifiedKey:
        """
        The best for a client.

        @param now: the present time, in seconds since 1970.  It is not asked where there is only
            one certificate.
        """
        if len(self.entries) == 1:
            return self.entries[0].certificate
        moment = now()
        if not self._from <= moment < self._until:
            self._arrange(moment)
        order = self._order
        for certificate, public_key in order:
            if hello.supports_key(public_key):
                return certificate
        return order[0][0]

    def _arrange(self, now: float) -> None:
        valid = [entry for entry in self.entries if entry.is_valid(now)]
        self._order = tuple(
            (entry.certificate, entry.certificate.key.public_key())
            for entry in sorted(
                valid or self.entries,
                key=_preference,
                reverse=True,
            )
        )
        bounds = [float("-inf"), float("inf")]
        for entry in self.entries:
            bounds += (entry.begin, entry.end)
        self._from = max(bound for bound in bounds if bound <= now)
        self._until = min(bound for bound in bounds if bound > now)


@attrs.frozen
class _Place:
    """What came from one origin: its certificates, and the names that lead to them."""

    candidates: Candidates
    names: tuple[str, ...]
    called: tuple[str, ...]


class NameTable:
    """
    Certificates by name.

    Each comes from an origin, such as a file, and those of one origin are exchanged together.
    """

    def __init__(
        self,
        certificates: Iterable[tuple[CertifiedKey, str]] = (),
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        @param certificates: certificates, each with its origin; for the names that they have.
        @param now: the present time, in seconds since 1970.
        """
        self._now = now
        self._named: ByName[Candidates] = ByName()
        self._called: ByName[Candidates] = ByName()
        self._places: dict[str, _Place] = {}
        self._doubles: dict[str, set[tuple[str, str]]] = {}
        by_origin: dict[str, list[CertifiedKey]] = {}
        for certificate, origin in certificates:
            by_origin.setdefault(origin, []).append(certificate)
        for origin, of_this in by_origin.items():
            self.put(origin, of_this)

    def find(self, hello: ClientHello) -> CertifiedKey | None:
        """
        The best certificate for the name that a client asks for; where it names nobody, for the IP
        address that it has come to.
        """
        name = hello.server_name
        if name is not None:
            found = self._named.find(name) or self._called.find(name)
        elif hello.local_address is not None:
            found = self._named.get(_address(hello.local_address))
        else:
            return None
        return None if found is None else found.choose(hello, self._now)

    def put(
        self,
        origin: str,
        certificates: Sequence[CertifiedKey],
        *,
        names: Iterable[str] | None = None,
        called: Iterable[str] = (),
    ) -> None:
        """
        Have these, at least one, in place of all that have come from this origin before.

        Where another origin has a certificate for the same name, and with a key of the same kind,
        that is logged, once.

        @param names: the names that they are for; L{None} for those that each has.
        @param called: further names, that lead here where no certificate is for them.  What is no
            name of a server is passed over.
        """
        self._take_out(origin)
        entries = [_Entry.of(certificate, origin) for certificate in certificates]
        everything = Candidates(entries)
        wanted: dict[str, list[_Entry]] = {}
        given = None if names is None else _known(names)
        for entry in entries:
            for name in names_of(entry.certificate) if given is None else given:
                wanted.setdefault(name, []).append(entry)
        doubles: dict[tuple[str, str], list[str]] = {}
        for name, of_name in wanted.items():
            present = self._named.get(name)
            if present is not None:
                self._note_double(doubles, name, of_name, present)
            self._named[name] = _joined(present, of_name, everything)
        also = _known(called)
        for name in also:
            self._called[name] = _joined(self._called.get(name), entries, everything)
        self._places[origin] = _Place(everything, tuple(wanted), also)
        self._tell_doubles(origin, doubles)

    def remove(self, origin: str) -> None:
        """Forget what has come from there, if there was anything."""
        self._take_out(origin)
        self._doubles.pop(origin, None)

    def among(self, origins: Iterable[str]) -> Candidates:
        """All that have come from several origins."""
        return Candidates(
            entry for origin in origins for entry in self._places[origin].candidates.entries
        )

    def of_other_kinds(self, origin: str) -> Sequence[str]:
        """
        Where those certificates come from that are for the first name of what has come from one
        origin, with keys of other kinds.
        """
        place = self._places[origin]
        kinds = set(map(_kind, place.candidates.entries))
        return [
            entry.origin
            for name in place.names[:1]
            for entry in self._named[name].entries
            if _kind(entry) not in kinds
        ]

    def of(self, origin: str, hello: ClientHello) -> CertifiedKey | None:
        """The best for a client of those that have come from one origin, whatever it asks for."""
        place = self._places.get(origin)
        return None if place is None else place.candidates.choose(hello, self._now)

    def _take_out(self, origin: str) -> None:
        place = self._places.pop(origin, None)
        if place is None:
            return
        for table, names in ((self._named, place.names), (self._called, place.called)):
            for name in names:
                rest = [entry for entry in table[name].entries if entry.origin != origin]
                if rest:
                    table[name] = Candidates(rest)
                else:
                    del table[name]

    def _note_double(
        self,
        doubles: dict[tuple[str, str], list[str]],
        name: str,
        entries: Sequence[_Entry],
        present: Candidates,
    ) -> None:
        for kind in {_kind(entry) for entry in entries}:
            other = next((each for each in present.entries if _kind(each) == kind), None)
            if other is not None:
                doubles.setdefault((other.origin, kind), []).append(name)

    def _tell_doubles(self, origin: str, doubles: Mapping[tuple[str, str], list[str]]) -> None:
        told = self._doubles.get(origin, set())
        for (other, kind), names in doubles.items():
            if (other, kind) in told or (origin, kind) in self._doubles.get(other, ()):
                continue
            _log.warn(
                "{names} has a certificate with a key of the kind {kind} in {other} and in"
                " {origin}: the one that expires last is served",
                names=_some(names),
                kind=kind,
                other=other,
                origin=origin,
            )
        if doubles:
            self._doubles[origin] = set(doubles)
        else:
            self._doubles.pop(origin, None)


def _kind(entry: _Entry) -> str:
    return key_type(entry.certificate.key).split()[0]


def _some(names: Sequence[str]) -> str:
    more = len(names) - 1
    return f"{names[0]} (and {more} more)" if more else names[0]


def _known(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(spelled, names))))


def _joined(
    present: Candidates | None, entries: Sequence[_Entry], everything: Candidates
) -> Candidates:
    """Candidates for a name: mostly all of one origin, which then share the one object."""
    if present is not None:
        return Candidates((*present.entries, *entries))
    return everything if len(entries) == len(everything.entries) else Candidates(entries)


def _address(text: str) -> str:
    """An address of a socket as a certificate has it: neither zone nor IPv4 within IPv6."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)
