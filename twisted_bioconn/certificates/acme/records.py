"""
What is kept in a L{Store} for ACME, and under which names.

Each value is JSON.  One that cannot be read, because it was damaged or another version has written
it, counts as not there and is told of: whatever is in the store, the engine goes on.

  - C{acme/accounts/AUTHORITY}: L{AccountRecord};
  - C{acme/certificates/ID}: L{CertificateRecord};
  - C{acme/orders/ID/AUTHORITY}: L{OrderRecord}, while an order is under way;
  - C{acme/renewals/ID}: L{RenewalRecord}, what the authority advises;
  - C{acme/troubles/ID}: L{TroublesRecord}, what has gone wrong, and when to try again;
  - C{acme/challenges/TOKEN}: L{Answer}, for as long as an authority may ask;
  - C{acme/lease/ID}: held by the front that is at work.

C{ID} stands for a set of names and a kind of key, C{AUTHORITY} for an authority.
"""

from __future__ import annotations

from hashlib import sha256
from math import isfinite
from typing import TypeVar

from attrs import Factory, field, frozen
from cattrs import BaseValidationError
from cattrs.preconf.json import make_converter
from josepy.b64 import b64encode
from twisted.logger import Logger

from twisted_bioconn.errors import ConfigurationError

from ..store import Store, ValueUnreadable

__all__ = [
    "CHALLENGES",
    "AccountRecord",
    "Answer",
    "CertificateRecord",
    "OrderRecord",
    "RenewalRecord",
    "Trouble",
    "TroublesRecord",
    "dump",
    "load",
    "parse",
]

ACCOUNTS = "acme/accounts/"
CERTIFICATES = "acme/certificates/"
ORDERS = "acme/orders/"
RENEWALS = "acme/renewals/"
TROUBLES = "acme/troubles/"
CHALLENGES = "acme/challenges/"
LEASES = "acme/lease/"

_Record = TypeVar("_Record")
_log = Logger()


def _text(value: object, _: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _number(value: object, _: object) -> float:
    # What is no number at all, and infinity, are Python's additions to JSON.
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise TypeError("no number")
    return float(value)


_converter = make_converter()
_converter.register_structure_hook(str, _text)
_converter.register_structure_hook(float, _number)


@frozen
class AccountRecord:
    """
    An account with an authority.

    @ivar key: its private key, in PEM.
    @ivar url: what the authority calls it; L{None} where it has not said so yet.
    """

    directory: str
    key: str = field(repr=False)
    url: str | None = None


@frozen
class CertificateRecord:
    """
    A certificate that was had.

    @ivar names: what it was ordered for.
    @ivar pem: its key and its chain, as L{CertifiedKey.to_pem} writes them.
    @ivar directory: the URL of the authority's directory.
    @ivar fraction: a number from 0 to 1, drawn once, that says where in the time for renewal all
        who share the certificate renew it.
    @ivar issued: when it was had, in seconds since the epoch.
    """

    names: tuple[str, ...]
    pem: str = field(repr=False)
    directory: str
    fraction: float
    issued: float


@frozen
class OrderRecord:
    """
    An order that is under way, written before the authority hears of it.

    @ivar key: the certificate's private key, in PEM.
    @ivar url: the order at the authority; L{None} where that is not known yet.
    @ivar begun: when it was begun, in seconds since the epoch; L{None} where an earlier version has
        written it.
    """

    names: tuple[str, ...]
    key: str = field(repr=False)
    profile: str | None = None
    url: str | None = None
    begun: float | None = None


@frozen
class RenewalRecord:
    """
    When an authority wants a certificate renewed (RFC 9773).

    @ivar certificate: the certificate's identifier, section 4.1.
    @ivar start: the window in which to renew, in seconds since the epoch; L{None} where the
        authority has given none.
    @ivar ask_again: when to ask the next time.
    """

    certificate: str
    start: float | None
    end: float | None
    ask_again: float


@frozen
class Trouble:
    """
    What has gone wrong with one authority since all was well.

    @ivar failures: how often, one after the other.
    @ivar retry: when we would try again, in seconds since the epoch.
    @ivar refused_until: before when the authority has said not to, by a rate limit.
    @ivar failed_validations: when validations have failed, within the last hour.
    @ivar error: the last, in a sentence.
    """

    failures: int = 0
    retry: float = 0.0
    refused_until: float = 0.0
    failed_validations: tuple[float, ...] = ()
    error: str = ""


@frozen
class TroublesRecord:
    """What has gone wrong, by the URL of the authority's directory."""

    authorities: dict[str, Trouble] = Factory(dict)


@frozen
class Answer:
    """
    What an authority wants to see as proof of a name.

    @ivar kind: C{tls-alpn-01}, C{http-01} or C{dns-01}.
    @ivar identifier: the DNS name, with no wildcard, or the IP address.
    @ivar certificate: whose order it is for: the C{ID} of it.
    @ivar expires: when nobody will want it any more, in seconds since the epoch.
    """

    kind: str
    identifier: str
    token: str
    key_authorization: str = field(repr=False)
    certificate: str
    expires: float

    @property
    def digest(self) -> bytes:
        """SHA-256 of the key authorization (RFC 8555, section 8.1)."""
        return sha256(self.key_authorization.encode("ascii")).digest()

    @property
    def dns_value(self) -> str:
        """What the TXT record has to say (RFC 8555, section 8.4)."""
        return b64encode(self.digest).decode("ascii")

    @property
    def store_name(self) -> str:
        """Its name in a L{Store}."""
        return CHALLENGES + self.token


def dump(record: object) -> bytes:
    """A record as JSON."""
    text: str = _converter.dumps(record)
    return text.encode()


def parse(kind: type[_Record], name: str, value: bytes | None) -> _Record | None:
    """
    A record from JSON.

    @param name: what the value is called in the store.
    @return: L{None} where there is no value, or none that can be read.
    """
    if value is None:
        return None
    try:
        return _converter.loads(value, kind)
    # RecursionError: JSON can be nested deeper than Python goes.
    except (
        BaseValidationError,
        ArithmeticError,
        KeyError,
        RecursionError,
        TypeError,
        ValueError,
    ):
        _log.warn("{name} in the store cannot be read: it counts as not there", name=name)
        return None


async def load(
    store: Store, kind: type[_Record], name: str, *, is_precious: bool = False
) -> _Record | None:
    """
    Have a record from a store.

    @param is_precious: whether a value that is there, but cannot be had, is an error: it must not
        be overwritten.  Others count as not there.
    @raise StoreUnavailable: the store cannot be asked.
    @raise ValueUnreadable: such a value cannot be had.
    """
    try:
        value = await store.get(name)
    except (ConfigurationError, ValueUnreadable) as error:  # there is one, but it cannot be had
        if is_precious and isinstance(error, ValueUnreadable):
            raise
        _log.warn("{error}: it counts as not there", error=error)
        value = None
    return parse(kind, name, value)
