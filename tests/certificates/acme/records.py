"""What the small authority keeps, and how it reads what it is sent."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from josepy.json_util import decode_b64jose
from josepy.jwa import JWASignature
from josepy.jwk import JWK, JWKEC, JWKRSA

from tests.certificates.acme.issuing import Refused

# The algorithms, each with the curve that its keys are of.
_ALGORITHMS = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "RS256": None, "HS256": None}
_LABEL = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MAIL = re.compile("mailto:[^@?,;% ]+@[^@?,;% ]+[.][^@?,;% ]+")
_MOST_NAMES = 100

_T = TypeVar("_T", "Account", "Authorization", "Order", "Issued")


@attrs.define(eq=False)
class Account:
    """An account."""

    url: str
    key: Any
    contact: list[str]
    external: str | None = None
    status: str = "valid"


@attrs.define(eq=False)
class Challenge:
    """A challenge."""

    url: str
    type: str
    token: str
    authorization: Authorization
    status: str = "pending"
    error: Refused | None = None


@attrs.define(eq=False)
class Authorization:
    """An authorization."""

    url: str
    account: Account
    identifier: str
    wildcard: bool
    expires: float
    status: str = "pending"
    challenges: list[Challenge] = attrs.field(factory=list)


@attrs.define(eq=False)
class Issued:
    """A certificate that was issued."""

    url: str
    account: Account
    certificate: x509.Certificate
    chains: list[bytes]
    names: list[str]
    window: tuple[float, float]
    replaced_by: Order | None = None
    revoked: int | None = None


@attrs.define(eq=False)
class Order:
    """An order."""

    url: str
    account: Account
    names: list[str]
    authorizations: list[Authorization]
    finalize: str
    expires: float
    profile: str | None
    replaces: str | None
    status: str = "pending"
    error: Refused | None = None
    csr: x509.CertificateSigningRequest | None = None
    polls: int = 0
    issued: Issued | None = None


@attrs.frozen
class Answer:
    code: int
    body: bytes = b""
    type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@attrs.frozen
class Signed:
    """A request whose signature is good: whose it is, and what it says."""

    account: Account | None
    key: JWK
    payload: bytes

    @property
    def document(self) -> dict[str, Any]:
        try:
            document = json.loads(self.payload)
        except ValueError:
            raise Refused("malformed", "the payload is no JSON") from None
        if not isinstance(document, dict):
            raise Refused("malformed", "the payload is no JSON object")
        return document

    def read_only(self) -> None:
        if self.payload:
            raise Refused("malformed", "to read, the payload has to be empty")


def to_json(value: object) -> bytes:
    """JSON."""
    return json.dumps(value).encode()


def to_time(seconds: float) -> str:
    """A time as RFC 3339 has it."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def to_challenge(challenge: Challenge) -> dict[str, Any]:
    """A challenge as ACME has it."""
    document: dict[str, Any] = {
        "type": challenge.type,
        "url": challenge.url,
        "status": challenge.status,
        "token": challenge.token,
    }
    if challenge.error is not None:
        document["error"] = challenge.error.document()
    return document


def read_jws(text: bytes) -> tuple[dict[str, Any], bytes, Callable[[Any], bool]]:
    """
    Take a JWS apart (RFC 8555, section 6.2).

    @return: the protected header, the payload, and what tells whether a key has signed this: a
        L{JWK}, or the bytes of an HMAC key.
    @raise Refused: it is none, or not as it has to be.
    """
    try:
        document = json.loads(text)
        protected, payload = document["protected"], document["payload"]
        header = json.loads(decode_b64jose(protected))
        content, signature = decode_b64jose(payload), decode_b64jose(document["signature"])
        if set(document) != {"protected", "payload", "signature"} or not isinstance(header, dict):
            raise ValueError
    except Exception:
        raise Refused("malformed", "the request is no flattened JWS") from None
    name = header.get("alg")
    if name not in _ALGORITHMS:
        raise Refused("badSignatureAlgorithm", f"{name!r} is not signed with here")
    if "crit" in header:
        raise Refused("malformed", "nothing critical is understood here")
    algorithm: Any = JWASignature.from_json(name)

    message = f"{protected}.{payload}".encode("ascii")

    def is_by(key: Any) -> bool:
        if isinstance(key, bytes):
            return bool(name == "HS256" and algorithm.verify(key, message, signature))
        curve = key.to_json().get("crv")
        if not isinstance(key, algorithm.kty) or curve != _ALGORITHMS[name]:
            return False
        return bool(algorithm.verify(key.key, message, signature))

    return header, content, is_by


def read_key(value: object) -> Any:
    """
    An account's key.

    @raise Refused: it is of a kind that is not taken, or has its private half with it.
    """
    try:
        assert isinstance(value, dict) and "d" not in value
        key: Any = JWK.from_json(value)
    except Exception:
        raise Refused("badPublicKey", "this is no public key") from None
    if isinstance(key, JWKEC) and isinstance(key.key._wrapped, ec.EllipticCurvePublicKey):
        return key
    is_rsa = isinstance(key, JWKRSA) and isinstance(key.key._wrapped, rsa.RSAPublicKey)
    if is_rsa and 2048 <= key.key.key_size <= 4096:
        return key
    raise Refused("badPublicKey", "this kind of key is not taken")


def read_contacts(value: object) -> list[str]:
    """RFC 8555, section 7.3."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise Refused("malformed", "contact is no list of texts")
    for each in value:
        if not each.startswith("mailto:"):
            raise Refused("unsupportedContact", f"{each!r} is no mailto:")
        if not _MAIL.fullmatch(each) or not each.isascii():
            raise Refused("invalidContact", f"{each!r} is no address")
    return value


def read_names(value: object) -> list[str]:
    """The names of an order, each once."""
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_NAMES:
        raise Refused("malformed", f"an order has 1 to {_MOST_NAMES} identifiers")
    found: dict[str, None] = {}
    for each in value:
        if not isinstance(each, dict) or not isinstance(each.get("value"), str):
            raise Refused("malformed", "an identifier has a type and a value")
        name = each["value"]
        if each.get("type") == "ip":
            # RFC 8738, section 3: in the one spelling of RFC 5952.
            try:
                if str(ipaddress.ip_address(name)) != name:
                    raise ValueError
            except ValueError:
                raise Refused("malformed", f"{name!r} is no IP address") from None
        elif each.get("type") == "dns":
            labels = name.removeprefix("*.").split(".")
            if not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit() or len(name) > 253:
                raise Refused("malformed", f"{name!r} is no DNS name")
            if len(labels) < 2:
                raise Refused(
                    "rejectedIdentifier",
                    f"{name!r} is nobody's to own",
                    identifiers=[(name, "rejectedIdentifier", "it needs a dot")],
                )
        else:
            raise Refused("unsupportedIdentifier", f"{each.get('type')!r} is not issued for")
        found[name] = None
    return list(found)


def own(thing: _T | None, signed: Signed) -> _T:
    """
    What was asked for, if it is of the account that asks.

    @raise Refused: there is none, or it is another's.
    """
    if thing is None:
        raise Refused("malformed", "there is no such thing", 404)
    account = thing if isinstance(thing, Account) else thing.account
    if account is not signed.account:
        raise Refused("unauthorized", "this is another account's", 403)
    return thing
