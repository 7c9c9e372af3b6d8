"""
Every failed handshake explains itself: which of many causes it was, who has to change something,
and which option of ours decides it.

L{explain} takes what is known of a handshake when it fails, and never fails itself.  What OpenSSL
says is not enough: a client with no cipher in common, one that takes no signature by our key, and
one for which there is no certificate are all "no shared cipher" to it.  What the client has
offered tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum

import attrs
from cryptography import x509
from service_identity import VerificationError
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionClosed,
    ConnectionDone,
    TimeoutError,
)

from . import alerts
from ._agreement import (
    Found,
    no_shared_cipher,
    no_shared_group,
    no_shared_signature,
    no_shared_version,
    version_bounds,
    version_name,
    versions_offered,
)
from ._causes import OWN, Cause, Who
from ._certificate_causes import refused_by_check, unverified
from ._first_bytes import is_record, is_ssl2_hello, protocol_of
from ._sayings import SAYINGS
from ._transport import one_line
from ._wire_sayings import PROTOCOLS
from .errors import Direction, PeerError, TruncatedError
from .hello import ClientHello
from .policy import INTERMEDIATE, Policy

__all__ = ["Cause", "Explanation", "FailedHandshake", "Side", "explain"]


class Side(Enum):
    """Who has to change something, so that such a handshake succeeds."""

    CLIENT = "client"
    SERVER = "server"
    NEITHER = "neither"
    NETWORK = "network"
    """What is between the two."""


def _certificates(given: object) -> tuple[x509.Certificate, ...]:
    return tuple(given)  # type: ignore[arg-type]


@attrs.frozen(kw_only=True)
class FailedHandshake:
    """
    What is known of a handshake that has failed.

    @ivar error: what C{connectionLost} is told: a L{PeerError<errors.PeerError>}, a
        L{VerificationError}, or one of Twisted's ends of connections.
    @ivar is_server: whether we are the server.
    @ivar peer: the peer's address, as it is to be called.
    @ivar hello: the client's hello; L{None} where it has not come, or nobody has read it.
    @ivar first_bytes: the first bytes that came, 64 at most.
    @ivar received: how many bytes came.
    @ivar chain: the peer's certificates, leaf first, as far as they are known; the one alone that
        was refused will do.
    @ivar policy: ours.
    @ivar alpn: the names of application protocols that we take.
    @ivar settings: options of ours by their names, with their values: as in an endpoint's string,
        or for C{clientAuthorities} and C{trustRoots} the certificates themselves.
    @ivar waited: seconds from the connection to its end.
    @ivar now: the time at which it failed, with its time zone.
    """

    error: BaseException
    is_server: bool
    peer: str
    hello: ClientHello | None = None
    first_bytes: bytes = attrs.field(default=b"", repr=False)
    received: int = 0
    chain: tuple[x509.Certificate, ...] = attrs.field(default=(), converter=_certificates)
    policy: Policy | None = None
    alpn: tuple[bytes, ...] = ()
    settings: Mapping[str, object] = attrs.field(factory=dict)
    waited: float = 0.0
    now: datetime = attrs.field(factory=lambda: datetime.now(UTC))


@attrs.frozen
class Explanation:
    """
    Why a handshake failed.  As text it is the sentence, and what is to be changed.

    @ivar cause: for a metric's label, and for programs.
    @ivar sentence: for the log: the cause with the facts, with no full stop.
    @ivar remedy: who has to change something.
    @ivar setting: the option of ours that decides it; L{None} where there is none.
    @ivar advice: what to change, with no full stop.
    """

    cause: Cause
    sentence: str
    remedy: Side
    setting: str | None
    advice: str

    def __str__(self) -> str:
        return f"{self.sentence}. {self.advice}."


def explain(failure: FailedHandshake) -> Explanation:
    """Why this handshake failed.  It raises nothing."""
    cause, facts = _found(failure)
    saying = SAYINGS[cause]
    facts = {name: _short(text) for name, text in {**_facts(failure), **facts}.items()}
    side = {
        Who.US: Side.SERVER if failure.is_server else Side.CLIENT,
        Who.PEER: Side.CLIENT if failure.is_server else Side.SERVER,
        Who.NEITHER: Side.NEITHER,
        Who.NETWORK: Side.NETWORK,
    }[saying.who]
    setting = _own_setting(failure) if saying.setting == OWN else saying.setting
    if setting == "serverName" and failure.is_server:
        # That is a client's, whose server says what ours are told by none.
        setting = None
    return Explanation(
        cause,
        one_line(saying.sentence.format_map(facts)),
        side,
        setting,
        one_line(saying.advice.format_map(facts)),
    )


# Which cause


def _found(failure: FailedHandshake) -> Found:
    error = failure.error
    if isinstance(error, ConnectionAborted):
        return Cause.ABORTED, {}
    if isinstance(error, VerificationError):
        return refused_by_check(failure, error)
    if isinstance(error, PeerError) and error.direction is Direction.RECEIVED:
        return _alert(failure, error)
    if isinstance(error, PeerError) and "certificate verify failed" in _reasons(error):
        return unverified(failure, error.sentence)
    foreign = _foreign(failure)
    if foreign is not None:
        return foreign
    if isinstance(error, TimeoutError):
        return _timeout(failure)
    reasons = _reasons(error)
    if (
        isinstance(error, ConnectionClosed | TruncatedError)
        or "unexpected eof while reading" in reasons
    ):
        return _ended(failure)
    if isinstance(error, PeerError):
        return _broken(failure, error, reasons)
    return Cause.UNKNOWN, {"reason": _text(error)}


def _queue(error: BaseException) -> list[tuple[str, str, str]]:
    """OpenSSL's error queue: library, function and reason, oldest first."""
    queue = error.args[0] if error.args else None
    if not isinstance(queue, list):
        return []
    return [entry for entry in queue if isinstance(entry, tuple) and len(entry) == 3]


def _reasons(error: BaseException) -> list[str]:
    return [reason for _, _, reason in _queue(error)]


def _foreign(failure: FailedHandshake) -> Found | None:
    """Whether the peer speaks another protocol altogether."""
    first = failure.first_bytes
    if not first or is_record(first) or (failure.hello is not None and failure.is_server):
        return None
    protocol = protocol_of(first)
    if failure.is_server:
        if is_ssl2_hello(first):
            return Cause.SSL2_HELLO, {}
        return protocol or Cause.GARBAGE, {}
    if protocol is Cause.HTTP:
        return Cause.SERVER_PLAIN_HTTP, {}
    if protocol is Cause.SMTP:
        return Cause.SERVER_PLAIN_SMTP, {}
    words = PROTOCOLS[protocol][0] if protocol in PROTOCOLS else "no TLS"
    return Cause.SERVER_PLAIN_OTHER, {"protocol": words}


def _hello_is_whole(failure: FailedHandshake) -> bool:
    """Whether all of the client's hello has come; its length is in its first nine bytes."""
    first = failure.first_bytes
    if failure.hello is not None:
        return True
    return len(first) >= 9 and failure.received >= 9 + int.from_bytes(first[6:9], "big")


def _is_in_hello(failure: FailedHandshake) -> bool:
    """Whether nothing can have come that is wrong but the client's hello."""
    first = failure.first_bytes
    if not failure.is_server or failure.hello is not None or len(first) < 9:
        return False
    return failure.received <= 9 + int.from_bytes(first[6:9], "big")


def _timeout(failure: FailedHandshake) -> Found:
    if not failure.is_server:
        return Cause.SERVER_TIMEOUT, {}
    if _text(failure.error).startswith("no certificate for"):
        return Cause.CERTIFICATE_LOOKUP_TIMEOUT, {}
    if not failure.received:
        return Cause.TIMEOUT_SILENT, {}
    return (Cause.TIMEOUT_AFTER_HELLO if _hello_is_whole(failure) else Cause.TIMEOUT_IN_HELLO), {}


def _ended(failure: FailedHandshake) -> Found:
    """The transport ended."""
    error = failure.error
    was_closed = (
        isinstance(error, ConnectionDone | TruncatedError)
        or "unexpected eof while reading" in _reasons(error)
        # That is what TruncatedError becomes for connectionLost.
        or "in mid-handshake" in _text(error)
    )
    if not failure.is_server:
        return (Cause.SERVER_CLOSED if was_closed else Cause.SERVER_RESET), {}
    if not failure.received:
        return (Cause.CLOSED_SILENT if was_closed else Cause.RESET_SILENT), {}
    if not _hello_is_whole(failure):
        return (Cause.CLOSED_IN_HELLO if was_closed else Cause.RESET_IN_HELLO), {}
    return (Cause.CLOSED_AFTER_HELLO if was_closed else Cause.RESET_AFTER_HELLO), {}


_OF_OUR_CERTIFICATE = frozenset(
    {
        "bad_certificate",
        "unsupported_certificate",
        "certificate_revoked",
        "certificate_expired",
        "certificate_unknown",
        "unknown_ca",
        "access_denied",
    }
)

_OF_ALERT = {
    cause.value.removeprefix("alert_"): cause
    for cause in Cause
    if cause.value.startswith("alert_") and cause is not Cause.ALERT_OTHER
}


def _alert(failure: FailedHandshake, error: PeerError) -> Found:
    """The peer sent an alert."""
    alert = error.alert or ""
    if not failure.is_server:
        if alert in _OF_OUR_CERTIFICATE:
            meaning = alerts.meaning(alert).replace("the peer", "it", 1)
            return Cause.SERVER_REFUSES_CERTIFICATE, {"reason": meaning}
        if alert == "certificate_required":
            return Cause.SERVER_WANTS_CERTIFICATE, {}
        if alert == "protocol_version":
            return Cause.SERVER_VERSION, {}
    return _OF_ALERT.get(alert, Cause.ALERT_OTHER), {"reason": alert or "one without a name"}


# What breaks the rules, or cannot be agreed on

_ILLEGAL = Cause.ILLEGAL_FIELD
_UNEXPECTED = Cause.UNEXPECTED_MESSAGE
_MALFORMED = Cause.MALFORMED_MESSAGE

_OF_REASON: dict[str, Cause] = {
    "inappropriate fallback": Cause.FALLBACK,
    "peer did not return a certificate": Cause.CLIENT_CERTIFICATE_MISSING,
    "no certificate set": Cause.NO_CERTIFICATE,
    "missing supported groups extension": Cause.EXTENSION_MISSING,
    "missing sigalgs extension": Cause.EXTENSION_MISSING,
    "http request": Cause.HTTP,
    "https proxy request": Cause.HTTP,
    "packet length too long": Cause.RECORD_TOO_LONG,
    "encrypted length too long": Cause.RECORD_TOO_LONG,
    "data length too long": Cause.RECORD_TOO_LONG,
    "excessive message size": Cause.MESSAGE_TOO_LONG,
    "wrong version number": Cause.BAD_RECORD_VERSION,
    "decryption failed or bad record mac": Cause.BAD_RECORD_MAC,
    "invalid aad": Cause.BAD_RECORD_MAC,
    "bad decrypt": Cause.BAD_RECORD_MAC,
    "record too small": Cause.EMPTY_RECORDS,
    "zero length in read": Cause.EMPTY_RECORDS,
    "digest check failed": Cause.BAD_FINISHED,
    "bad signature": Cause.BAD_HANDSHAKE_SIGNATURE,
    "wrong signature type": Cause.BAD_HANDSHAKE_SIGNATURE,
    "too many warn alerts": Cause.TOO_MANY_ALERTS,
    "internal error": Cause.INTERNAL_ERROR,
    "callback failed": Cause.CERTIFICATE_LOOKUP_FAILED,
    "app data in handshake": _UNEXPECTED,
    "bad change cipher spec": _UNEXPECTED,
    "bad record type": _UNEXPECTED,
    "ccs received early": _UNEXPECTED,
    "data between ccs and finished": _UNEXPECTED,
    "invalid alert": _UNEXPECTED,
    "invalid record type": _UNEXPECTED,
    "mixed handshake and non handshake data": _UNEXPECTED,
    "not on record boundary": _UNEXPECTED,
    "unexpected ccs message": _UNEXPECTED,
    "unexpected message": _UNEXPECTED,
    "unexpected record": _UNEXPECTED,
    "unsolicited extension": _UNEXPECTED,
    "bad digest length": _MALFORMED,
    "bad extension": _MALFORMED,
    "bad handshake length": _MALFORMED,
    "bad packet": _MALFORMED,
    "invalid context": _MALFORMED,
    "length mismatch": _MALFORMED,
    "length too long": _MALFORMED,
    "length too short": _MALFORMED,
    "bad cipher": _ILLEGAL,
    "bad ecpoint": _ILLEGAL,
    "bad key share": _ILLEGAL,
    "invalid compression algorithm": _ILLEGAL,
    "required compression algorithm missing": _ILLEGAL,
    "unknown cipher returned": _ILLEGAL,
    "unsupported compression algorithm": _ILLEGAL,
    "wrong cipher returned": _ILLEGAL,
    "wrong curve": _ILLEGAL,
}
"""
What OpenSSL's reasons mean where they mean one thing only: C{ssl/ssl_err.c} has their list.
"""

_VERSION_REASONS = frozenset(
    {"unsupported protocol", "version too low", "no protocols available", "wrong ssl version"}
)
_SIGNATURE_REASONS = frozenset(
    {"no suitable signature algorithm", "no shared signature algorithms"}
)
_GROUP_REASONS = frozenset({"no suitable key share", "no suitable groups"})


def _broken(failure: FailedHandshake, error: PeerError, reasons: list[str]) -> Found:
    hello, policy = failure.hello, failure.policy
    bounds = version_bounds(policy, failure.settings)
    ours = _ours(failure, error)
    if ours is not None:
        return ours
    if any(library.startswith("asn1 ") for library, _, _ in _queue(error)):
        return Cause.CERTIFICATE_MALFORMED, {"reason": error.sentence}
    if "bad length" in reasons:
        # A record with nothing in it, or else a message.
        cause = Cause.EMPTY_RECORDS if "record layer failure" in reasons else _MALFORMED
        return cause, {"reason": error.sentence}
    for reason in reasons:
        if reason in _VERSION_REASONS:
            if not failure.is_server:
                return Cause.SERVER_VERSION, {}
            return no_shared_version(versions_offered(hello, failure.first_bytes), bounds)
        if reason == "no application protocol":
            offer = "no protocol" if hello is None else _names(hello.alpn)
            return Cause.ALPN_MISMATCH, {"offer": offer, "need": _names(failure.alpn)}
        if reason == "no shared cipher":
            return no_shared_cipher(hello, policy, bounds)
        if reason in _GROUP_REASONS:
            if error.alert == "missing_extension":
                return Cause.KEY_SHARE_MISSING, {}
            return no_shared_group(hello, policy)
        if reason in _SIGNATURE_REASONS:
            return no_shared_signature(hello, policy)
        meant = _OF_REASON.get(reason)
        if meant is Cause.BAD_RECORD_VERSION and not failure.first_bytes:
            # OpenSSL says this of the first bytes of whatever is no TLS.
            no_tls = {"protocol": "no TLS"}
            return (Cause.GARBAGE if failure.is_server else Cause.SERVER_PLAIN_OTHER), no_tls
        if meant in (_MALFORMED, _ILLEGAL) and _is_in_hello(failure):
            meant = Cause.CORRUPT_HELLO
        if meant is Cause.BAD_HANDSHAKE_SIGNATURE:
            ways = {"bad signature": "its key is not its certificate's"}
            return meant, {"reason": ways.get(reason, "it signed in a way that we do not take")}
        if meant is not None:
            return meant, {"reason": reason}
    quoted = f" (OpenSSL: {', '.join(reasons)})" if reasons else ""
    return Cause.UNKNOWN, {"reason": f"{error.sentence}{quoted}"}


def _ours(failure: FailedHandshake, error: PeerError) -> Found | None:
    """What this package itself has refused, which it says by its sentences alone."""
    sentence, hello = error.sentence, failure.hello
    if sentence == "the client has asked for another name in its second hello":
        return Cause.NAME_CHANGED, {}
    if sentence.startswith("there is no certificate for "):
        if hello is not None and hello.alpn == (b"acme-tls/1",):
            return Cause.ACME_VALIDATION, {}
        nameless = sentence.endswith("clients that ask for no name")
        return (Cause.NO_NAME if nameless else Cause.UNKNOWN_NAME), {}
    if "the client hello" in sentence:
        return Cause.CORRUPT_HELLO, {"reason": sentence}
    if sentence.startswith("no certificate could be had for "):
        return Cause.CERTIFICATE_LOOKUP_FAILED, {}
    if sentence.startswith("a callback of ours failed: "):
        return Cause.CALLBACK_FAILED, {"reason": sentence.partition(": ")[2]}
    if sentence.startswith("the peer's certificate cannot be read: "):
        return Cause.CERTIFICATE_MALFORMED, {"reason": sentence.partition(": ")[2]}
    return None


# The facts

_LONGEST = 400
"""Characters of a fact: much of it was chosen by a stranger."""


def _facts(failure: FailedHandshake) -> dict[str, str]:
    """What any sentence may want to say."""
    hello, first = failure.hello, failure.first_bytes
    name = None if hello is None else hello.server_name or hello.local_address
    if name is None and not failure.is_server:
        name = str(failure.settings.get("serverName", "that server"))
    is_strict = failure.policy is not None and failure.policy != INTERMEDIATE
    offered = versions_offered(hello, first)
    protocol = PROTOCOLS.get(protocol_of(first) or Cause.HTTP, ("another protocol", ""))[0]
    return {
        "peer": failure.peer,
        "them": "client" if failure.is_server else "server",
        "policy": "what we speak" if failure.policy is None else f"policy={failure.policy.name}",
        "need": version_name(version_bounds(failure.policy, failure.settings)[0]),
        "offer": version_name(max(offered)) if offered else "another version",
        "or_policy": ", or set policy=intermediate" if is_strict else "",
        "name": name or "clients that ask for no name",
        "ours": _names(failure.alpn),
        "seconds": _seconds(failure),
        "waited": f"{failure.waited:.3g} seconds",
        "received": "1 byte" if failure.received == 1 else f"{failure.received} bytes",
        "first": _excerpt(first, failure.is_server),
        "reason": _text(failure.error),
        "protocol": protocol,
        "whose": "the certificate",
        "when": "at a time that is not known",
        "issuer": "its issuer",
        "usage": "another",
    }


def _text(error: BaseException) -> str:
    """What an error says, without what a C{TimeoutError} of Twisted's says before that."""
    said = getattr(error, "osError" if isinstance(error, TimeoutError) else "sentence", None)
    return said if isinstance(said, str) else str(error) or type(error).__name__


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _names(names: tuple[bytes, ...]) -> str:
    return ", ".join(name.decode("ascii", "backslashreplace") for name in names) or "none"


def _seconds(failure: FailedHandshake) -> str:
    limit = failure.settings.get("handshakeTimeout" if failure.is_server else "timeout")
    try:
        return f"{float(str(limit)):g} seconds"
    except ValueError:
        return f"{failure.waited:.3g} seconds"


_TOLD = 4
"""Of what a client has sent, so many bytes are told: as many as say what it may be."""


def _excerpt(first: bytes, is_client: bool) -> str:
    """
    The first bytes: as text as far as they are that, else in hexadecimal.

    @param is_client: whether they are a client's, who may have begun with a password.  What a
        server begins with is a greeting, or the status of an answer.
    """
    if not first:
        return "nothing is known of it"
    if is_client and len(first) > _TOLD:
        return f"{_excerpt(first[:_TOLD], True)} …"
    line = first[:40].partition(b"\n")[0].rstrip(b"\r")
    if line and all(0x20 <= each < 0x7F for each in line):
        return repr(line.decode("ascii"))
    return first[:16].hex(" ")


def _own_setting(failure: FailedHandshake) -> str:
    """The option that says where our certificate comes from."""
    if not failure.is_server:
        return "certificate"
    for option in ("acme", "certificates", "certKey", "privateKey"):
        if option in failure.settings:
            return option
    return "certKey"
