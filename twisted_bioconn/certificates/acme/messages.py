"""
What an authority says, as values.

An authority may be anybody's server: each of its answers is read by L{Reader}, which takes nothing
for granted, and says which member of which answer is not what RFC 8555 has there.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import attrs
from acme import messages
from josepy.errors import DeserializationError
from josepy.json_util import decode_b64jose, field

from ...errors import ConfigurationError
from .errors import Problem

__all__ = [
    "Authorization",
    "Challenge",
    "Directory",
    "ExternalAccount",
    "NotAcme",
    "Order",
    "Reader",
    "RenewalInfo",
]

_T = TypeVar("_T")

MOST_PARTS = 1000
"""The most identifiers, authorizations, challenges that are read in one answer."""

_BASE64URL = re.compile("[A-Za-z0-9_-]+")


class NotAcme(Exception):
    """An answer is not what RFC 8555 has there; the message says what of it."""


@attrs.frozen
class ExternalAccount:
    """
    An account that one has with an authority by other means (RFC 8555, section 7.3.4).

    @ivar kid: the key identifier that the authority has given out.
    @ivar hmac_key: the key that came with it, decoded.
    """

    kid: str
    hmac_key: bytes = attrs.field(repr=False)

    @classmethod
    def from_text(cls, kid: str, hmac_key: str) -> ExternalAccount:
        """
        Take the key as authorities give it out: in base64url, or in base64.

        @raise ConfigurationError: it is neither.
        """
        text = hmac_key.strip().replace("+", "-").replace("/", "_").rstrip("=")
        try:
            if not _BASE64URL.fullmatch(text):
                raise DeserializationError
            key = decode_b64jose(text)
        except DeserializationError:
            # The identifier is not said: where the two have changed places, it is the key.
            sentence = "the HMAC key of the external account is not base64url"
            raise ConfigurationError(sentence) from None
        return cls(kid, key)


@attrs.frozen(kw_only=True)
class Directory:
    """
    Where an authority is asked for what (RFC 8555, section 7.1.1).

    @ivar renewal_info: where it says when to renew (RFC 9773); L{None} where it does not.
    @ivar terms_of_service: the URL of what one agrees to with an account.
    @ivar profiles: the kinds of certificate that it has, by name, each with a description
        (draft-aaron-acme-profiles).
    """

    new_nonce: str
    new_account: str
    new_order: str
    revoke_cert: str | None = None
    key_change: str | None = None
    renewal_info: str | None = None
    terms_of_service: str | None = None
    website: str | None = None
    caa_identities: tuple[str, ...] = ()
    external_account_required: bool = False
    profiles: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Order:
    """
    An order (RFC 8555, section 7.1.3).

    @ivar status: C{pending}, C{ready}, C{processing}, C{valid} or C{invalid}.
    @ivar identifiers: the DNS names and IP addresses that it is for.
    @ivar authorizations: the URLs of what is to be, or was, shown for each.
    @ivar finalize: the URL that takes the request for the certificate.
    @ivar certificate: the URL of the certificate, once it is C{valid}.
    @ivar expires: until when the authority keeps it, in UTC.
    @ivar error: why it is C{invalid}.
    @ivar retry_after: in how many seconds to look again at the earliest.
    @ivar replaces: L{certificate_id<client.AcmeClient.certificate_id>} of what it replaces, if the
        authority has taken note of that.
    @ivar profile: the profile that the authority issues by.
    """

    url: str
    status: str
    identifiers: tuple[str, ...]
    authorizations: tuple[str, ...]
    finalize: str
    certificate: str | None = None
    expires: datetime | None = None
    error: Problem | None = None
    retry_after: float | None = None
    replaces: str | None = None
    profile: str | None = None


@attrs.frozen(kw_only=True)
class Challenge:
    """
    A way to show that one has an identifier (RFC 8555, section 7.1.5).

    @ivar type: C{http-01}, C{dns-01}, C{tls-alpn-01}, or what else the authority has.
    @ivar status: C{pending}, C{processing}, C{valid} or C{invalid}.
    @ivar token: what the key authorization begins with; of letters, digits, C{-} and C{_}, so it
        can stand in a URL or a file's name as it is.  Empty where this type has none.
    @ivar error: why it is C{invalid}.
    """

    url: str
    type: str
    status: str
    token: str = ""
    error: Problem | None = None


@attrs.frozen(kw_only=True)
class Authorization:
    """
    Whether one may have a certificate for an identifier (RFC 8555, section 7.1.4).

    @ivar identifier: the DNS name, without the C{*.} of a wildcard, or the IP address.
    @ivar status: C{pending}, C{valid}, C{invalid}, C{deactivated}, C{expired} or C{revoked}.
    @ivar wildcard: whether it is for the wildcard of that name.
    @ivar expires: until when it holds, in UTC.
    @ivar challenges: of which one is to be answered.
    @ivar retry_after: in how many seconds to look again at the earliest.
    """

    url: str
    identifier: str
    status: str
    wildcard: bool = False
    expires: datetime | None = None
    challenges: tuple[Challenge, ...] = ()
    retry_after: float | None = None


@attrs.frozen(kw_only=True)
class RenewalInfo:
    """
    When the authority would have a certificate renewed (RFC 9773, section 4.2).

    @ivar start: the beginning of the window, in UTC; it may be past.
    @ivar end: its end, after the start.
    @ivar explanation_url: for a person to read why.
    @ivar retry_after: in how many seconds to ask again.
    """

    start: datetime
    end: datetime
    explanation_url: str | None = None
    retry_after: float | None = None


def identifier(name: str) -> messages.Identifier:
    """
    How an order says a name: an IP address in its one spelling (RFC 8738, section 3), or else a DNS
    name.

    @raise ConfigurationError: it is neither; names that are not ASCII are to be in their IDNA form.
    """
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        if not name or not name.isascii() or not name.isprintable() or " " in name:
            raise ConfigurationError(
                f"{name!r} is neither a DNS name in ASCII nor an IP address"
            ) from None
        return messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=name.lower())
    if getattr(address, "scope_id", None) is not None:
        raise ConfigurationError(f"{name!r} is an address of this machine's alone")
    return messages.Identifier(typ=messages.IDENTIFIER_IP, value=str(address))


class NewOrder(messages.NewOrder):
    """With what C{acme}'s own does not know of (RFC 9773, section 5)."""

    replaces: str | None = field("replaces", omitempty=True)


class Revocation(messages.Revocation):
    """With a reason that may be left out (RFC 8555, section 7.6)."""

    reason: int = field("reason", omitempty=True)


class Reader:
    """
    Reads the members of one JSON object.

    @raise NotAcme: by each method, where a member is missing, or not of its kind.
    """

    def __init__(self, value: object, what: str) -> None:
        """
        @param what: what to call it in a message: C{order}.
        """
        if not isinstance(value, dict):
            raise NotAcme(f"the {what} is no JSON object")
        self._members = value
        self._what = what

    @classmethod
    def of(cls, text: bytes, what: str) -> Reader:
        """Read JSON."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise NotAcme(f"the {what} is no JSON") from None
        return cls(value, what)

    def _wrong(self, name: str) -> NotAcme:
        missing = self._members.get(name) is None
        return NotAcme(f"the {self._what} has {'no' if missing else 'a bad'} {name!r}")

    def _one(self, name: str, kind: type[_T]) -> _T:
        value = self._members.get(name)
        if not isinstance(value, kind):
            raise self._wrong(name)
        return value

    def has(self, name: str) -> bool:
        """Whether there is such a member, and not C{null}."""
        return self._members.get(name) is not None

    def text(self, name: str) -> str:
        """A text that can be sent back as it is: JSON can hold half of a surrogate pair."""
        value = self._one(name, str)
        if any("\ud800" <= each <= "\udfff" for each in value):
            raise self._wrong(name)
        return value

    def text_or_none(self, name: str) -> str | None:
        """A text that may be left out."""
        return self.text(name) if self.has(name) else None

    def flag(self, name: str) -> bool:
        """A boolean that is false where it is left out."""
        return self._one(name, bool) if self.has(name) else False

    def url(self, name: str) -> str:
        """The URL of a resource of the authority's: never one without TLS."""
        value = self.text(name)
        if not is_url(value):
            raise self._wrong(name)
        return value

    def url_or_none(self, name: str) -> str | None:
        """A URL that may be left out."""
        return self.url(name) if self.has(name) else None

    def time(self, name: str) -> datetime:
        """A time as RFC 3339 has it."""
        try:
            found = datetime.fromisoformat(self.text(name).upper())
            if found.tzinfo is None:
                raise ValueError
            return found.astimezone(UTC)
        except (ValueError, OverflowError):
            raise self._wrong(name) from None

    def time_or_none(self, name: str) -> datetime | None:
        """A time that may be left out."""
        return self.time(name) if self.has(name) else None

    def token(self, name: str) -> str:
        """A token in base64url (RFC 8555, section 8.1); empty where it is left out."""
        if not self.has(name):
            return ""
        value = self.text(name)
        if not _BASE64URL.fullmatch(value):
            raise self._wrong(name)
        return value

    def part(self, name: str) -> Reader:
        """A member that is an object itself; an empty one where it is left out."""
        return Reader(self._members[name] if self.has(name) else {}, f"{self._what}'s {name!r}")

    def parts(self, name: str) -> list[Reader]:
        """A list of objects; empty where it is left out."""
        return [Reader(each, f"{self._what}'s {name!r}") for each in self._list(name)]

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; empty where it is left out."""
        values = self._list(name)
        if not all(isinstance(each, str) for each in values):
            raise self._wrong(name)
        return tuple(values)

    def urls(self, name: str) -> tuple[str, ...]:
        """A list of the authority's URLs; empty where it is left out."""
        values = self.texts(name)
        if not all(is_url(each) for each in values):
            raise self._wrong(name)
        return values

    def descriptions(self, name: str) -> dict[str, str]:
        """Names, each with a text; empty where it is left out."""
        values = self._one(name, dict) if self.has(name) else {}
        if len(values) > MOST_PARTS or not all(isinstance(each, str) for each in values.values()):
            raise self._wrong(name)
        return values

    def _list(self, name: str) -> list[Any]:
        values: list[Any] = self._one(name, list) if self.has(name) else []
        if len(values) > MOST_PARTS:
            raise self._wrong(name)
        return values

    def identifier(self) -> str:
        """An identifier's value, in small letters."""
        return self.text("value").lower()

    def problem(self, name: str) -> Problem | None:
        """A problem in the middle of an answer; L{None} where it is left out."""
        return self.part(name).as_problem(0) if self.has(name) else None

    def as_problem(self, status: int) -> Problem:
        """
        This object as a problem document.  What is wrong with it is passed over: that there is a
        problem is known.
        """
        members = [each for each in self._lenient_list("subproblems") if isinstance(each, dict)]
        return Problem(
            # RFC 7807, section 4.2.
            _text_in(self._members, "type") or "about:blank",
            _text_in(self._members, "detail") or _text_in(self._members, "title"),
            status,
            tuple(
                (
                    _text_in(identifier, "value") if isinstance(identifier, dict) else "",
                    _text_in(each, "type") or "about:blank",
                    _text_in(each, "detail"),
                )
                for each in members[:MOST_PARTS]
                for identifier in [each.get("identifier")]
            ),
        )

    def _lenient_list(self, name: str) -> list[Any]:
        value = self._members.get(name)
        return value if isinstance(value, list) else []

    def as_directory(self) -> Directory:
        """This object as a directory."""
        meta = self.part("meta")
        return Directory(
            new_nonce=self.url("newNonce"),
            new_account=self.url("newAccount"),
            new_order=self.url("newOrder"),
            revoke_cert=self.url_or_none("revokeCert"),
            key_change=self.url_or_none("keyChange"),
            renewal_info=self.url_or_none("renewalInfo"),
            terms_of_service=meta.text_or_none("termsOfService"),
            website=meta.text_or_none("website"),
            caa_identities=meta.texts("caaIdentities"),
            external_account_required=meta.flag("externalAccountRequired"),
            profiles=meta.descriptions("profiles"),
        )

    def as_order(self, url: str, retry_after: float | None) -> Order:
        """This object as an order."""
        return Order(
            url=url,
            status=self.text("status"),
            identifiers=tuple(each.identifier() for each in self.parts("identifiers")),
            authorizations=self.urls("authorizations"),
            finalize=self.url("finalize"),
            certificate=self.url_or_none("certificate"),
            expires=self.time_or_none("expires"),
            error=self.problem("error"),
            retry_after=retry_after,
            replaces=self.text_or_none("replaces"),
            profile=self.text_or_none("profile"),
        )

    def as_challenge(self) -> Challenge:
        """This object as a challenge."""
        return Challenge(
            url=self.url("url"),
            type=self.text("type"),
            status=self.text("status"),
            token=self.token("token"),
            error=self.problem("error"),
        )

    def as_authorization(self, url: str, retry_after: float | None) -> Authorization:
        """This object as an authorization."""
        return Authorization(
            url=url,
            identifier=self.part("identifier").identifier(),
            status=self.text("status"),
            wildcard=self.flag("wildcard"),
            expires=self.time_or_none("expires"),
            challenges=tuple(each.as_challenge() for each in self.parts("challenges")),
            retry_after=retry_after,
        )

    def as_renewal_info(self, retry_after: float | None) -> RenewalInfo:
        """This object as what RFC 9773, section 4.2, has an authority say."""
        window = self.part("suggestedWindow")
        info = RenewalInfo(
            start=window.time("start"),
            end=window.time("end"),
            explanation_url=self.text_or_none("explanationURL"),
            retry_after=retry_after,
        )
        if info.end <= info.start:
            raise NotAcme(f"the {self._what} has a window that ends before it begins")
        return info


def _text_in(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    return value if isinstance(value, str) else ""


def is_url(text: str) -> bool:
    """Whether this is a URL that can be asked: with TLS (RFC 8555, section 6.1), in ASCII."""
    return (
        text[:8].lower() == "https://"
        and len(text) > len("https://")
        and len(text) <= 2048
        and text.isascii()
        and text.isprintable()
        and " " not in text
    )
