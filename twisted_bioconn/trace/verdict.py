"""
What a trace comes to, for a person: what was agreed on, what would be better, and why it failed
where it failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import attrs
from twisted.internet.error import ConnectError, DNSLookupError, TimeoutError, UnknownHostError

from .._transport import one_line
from ..explanations import Cause, Explanation, FailedHandshake, explain
from ..policy import Policy
from ..starttls import StartTLSError
from .events import Alert, Handshaken, Judged, Message, NotShown, Trace, Way

__all__ = ["Intent", "Verdict", "unreached", "verdict_on"]

SOON = timedelta(days=14)
"""How long before it expires a certificate is to be renewed at the latest."""

_HYBRID = ("MLKEM", "Kyber")
_BIG_CHAIN = 8 * 1024
"""Bytes of a chain that do not fit into what a server may send at first: RFC 6928, section 2."""

_OLD_HASHES = ("sha1", "md5")


@attrs.frozen(kw_only=True)
class Intent:
    """
    What we were after, as far as it bears on the verdict.

    @ivar policy: ours.
    @ivar alpn: the names of application protocols that we offer or take.
    @ivar settings: the options that were given, by their names.
    @ivar verifies: whether the peer is verified.
    @ivar now: when this is; the end of the trace, if not given.
    """

    policy: Policy | None = None
    alpn: tuple[bytes, ...] = ()
    settings: Mapping[str, object] = attrs.field(factory=dict)
    verifies: bool = True
    now: datetime | None = None


@attrs.frozen
class Verdict:
    """
    What a trace comes to.

    @ivar good: whether the handshake was done and the peer verified.
    @ivar sentence: the whole in a sentence, with no full stop.
    @ivar agreed: what was agreed on, by name.
    @ivar better: what would be better, in sentences with no full stop.
    @ivar explanation: why the handshake failed; L{None} where it did not, or where no TLS was
        begun.
    """

    good: bool
    sentence: str
    agreed: tuple[tuple[str, str], ...] = ()
    better: tuple[str, ...] = ()
    explanation: Explanation | None = None

    @property
    def advice(self) -> str:
        """What to change so that it succeeds; empty where that is not known."""
        return "" if self.explanation is None else self.explanation.advice

    @property
    def cause(self) -> Cause | None:
        """Which of the causes it was."""
        return None if self.explanation is None else self.explanation.cause


def verdict_on(trace: Trace, intent: Intent | None = None) -> Verdict:
    """What a trace comes to."""
    intent = intent or Intent()
    now = intent.now or datetime.now(UTC)
    done = next((each for each in trace.events if isinstance(each, Handshaken)), None)
    if done is None or _was_refused(trace):
        return _failed(trace, intent, now)
    facts = dict(done.fields)
    agreed = tuple(_agreed(trace, facts, intent))
    better = tuple(_better(trace, facts, intent, now))
    name = "resumed" if facts["resumed"] else "done"
    sentence = f"the handshake is {name}"
    refusal = _late_refusal(trace)
    if refusal is not None:
        # In TLS 1.3 a client has done with the handshake before its server has.
        failed = _explained(trace, intent, now, trace.error)
        return Verdict(False, failed.sentence, agreed, better, failed)
    if not intent.verifies:
        who = "client" if not trace.is_client else "server"
        return Verdict(False, f"{sentence}, and nobody has verified the {who}", agreed, better)
    whom = "the server is who it should be" if trace.is_client else "the client was let in"
    return Verdict(True, f"{sentence}, and {whom}", agreed, better)


def unreached(error: BaseException, where: str) -> Verdict:
    """What it comes to where there was no connection, or no TLS on it."""
    if isinstance(error, DNSLookupError | UnknownHostError):
        sentence = f"there is no address for {where}: the name is not known"
    elif isinstance(error, StartTLSError):
        sentence = f"{where} has not begun with TLS: {error}"
    elif isinstance(error, TimeoutError):
        sentence = f"nobody answers at {where}: {error or 'it took too long'}"
    elif isinstance(error, ConnectError):
        sentence = f"nobody answers at {where}: {str(error).rstrip('.')}"
    else:
        sentence = f"there is no connection to {where}: {error or type(error).__name__}"
    return Verdict(False, one_line(" ".join(sentence.split())))


def _was_refused(trace: Trace) -> bool:
    judged = [each for each in trace.events if isinstance(each, Judged)]
    return bool(judged) and not judged[-1].accepted


def _late_refusal(trace: Trace) -> Alert | None:
    """A fatal alert of the peer's, with no plaintext before it."""
    for each in trace.events:
        if isinstance(each, Alert) and each.way is Way.RECEIVED and each.fatal:
            return each
    return None


def _failed(trace: Trace, intent: Intent, now: datetime) -> Verdict:
    error = trace.error
    explanation = _explained(trace, intent, now, error)
    return Verdict(False, explanation.sentence, (), (), explanation)


def _explained(
    trace: Trace, intent: Intent, now: datetime, error: BaseException | None
) -> Explanation:
    last = trace.events[-1].at if trace.events else 0.0
    return explain(
        FailedHandshake(
            error=error or ConnectError(string="the trace ends before the handshake was done"),
            is_server=not trace.is_client,
            peer=trace.peer,
            hello=trace.hello,
            first_bytes=trace.first_bytes,
            received=trace.received,
            chain=trace.refused,
            policy=intent.policy,
            alpn=intent.alpn,
            settings=intent.settings,
            waited=last,
            now=now,
        )
    )


_WORDS = {"TLSv1.3": "TLS 1.3", "TLSv1.2": "TLS 1.2"}


def _agreed(trace: Trace, facts: dict[str, object], intent: Intent) -> list[tuple[str, str]]:
    version = str(facts["version"])
    found = [
        ("version", _WORDS.get(version, version)),
        ("cipher", str(facts["cipher"])),
        ("key exchange", str(facts["group"])),
        ("ALPN", str(facts["ALPN"])),
        ("server name", str(facts["server name"])),
        ("session", "resumed" if facts["resumed"] else "new"),
    ]
    certificate = _peer_certificate(trace)
    if certificate:
        names = certificate.get("names")
        found.append(("certificate", _joined(names) if names else str(certificate.get("subject"))))
        found.append(("issued by", str(certificate.get("issuer"))))
        found.append(("valid until", str(certificate.get("valid until"))))
    at = next(each.at for each in trace.events if isinstance(each, Handshaken))
    found.append(("took", f"{at * 1000:.1f} ms, {_bytes_until(trace)} bytes of handshake"))
    return [(name, one_line(text)) for name, text in found]


def _joined(names: object) -> str:
    listed = list(names) if isinstance(names, tuple) else [str(names)]
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


def _bytes_until(trace: Trace) -> int:
    return sum(each.length for each in trace.messages if each.name != "NewSessionTicket")


def _peer_message(trace: Trace) -> Message | None:
    way = Way.RECEIVED
    found = [each for each in trace.messages if each.name == "Certificate" and each.way is way]
    return found[-1] if found else None


def _peer_chain(trace: Trace) -> list[dict[str, object]]:
    message = _peer_message(trace)
    chain = None if message is None else message.get("chain")
    return [dict(each) for each in chain] if isinstance(chain, tuple) else []


def _peer_certificate(trace: Trace) -> dict[str, object]:
    chain = _peer_chain(trace)
    return chain[0] if chain else {}


def _better(trace: Trace, facts: dict[str, object], intent: Intent, now: datetime) -> list[str]:
    found: list[str] = []
    peer = "server" if trace.is_client else "client"
    if facts["version"] == "TLSv1.2":
        found.append(
            f"TLS 1.3: the {peer} has agreed to TLS 1.2, which takes a round trip more and shows"
            " certificates to whoever listens"
        )
    elif not any(word in str(facts["group"]) for word in _HYBRID):
        found.append(
            f"a group that quantum computers do not break, X25519MLKEM768: the {peer} has agreed"
            f" to {facts['group']}, and what is recorded today can be decrypted one day"
        )
    retry = trace.message("HelloRetryRequest")
    if retry is not None:
        found.append(
            f"no hello retry: the server has asked for {retry.get('group asked for')}, of which"
            " there was no key share in the first hello, and that took a round trip more"
        )
    if intent.alpn and facts["ALPN"] == "none":
        found.append("a protocol agreed on by ALPN: none of those that were offered was chosen")
    found += _better_chain(trace, now)
    # Where messages cannot be seen, neither can tickets.
    is_seen = not any(isinstance(each, NotShown) for each in trace.events)
    is_new = trace.is_client and not facts["resumed"]
    if is_new and is_seen and not trace.message("NewSessionTicket"):
        found.append(
            "session tickets: the server has sent none, so that each handshake is a whole one"
        )
    hello = trace.message("ServerHello")
    is_12 = facts["version"] == "TLSv1.2"
    if is_12 and hello is not None and not hello.get("extended master secret"):
        found.append(f"the extended master secret (RFC 7627), which the {peer} does not have")
    if not intent.verifies:
        found.append("verification: with it switched off, anybody on the way can read everything")
    return [one_line(each) for each in found]


def _better_chain(trace: Trace, now: datetime) -> list[str]:
    chain = _peer_chain(trace)
    if not chain:
        return []
    found = []
    end = _time(chain[0].get("valid until"))
    if end is not None and now <= end < now + SOON:
        left = end - now
        days = f"{left.days} day{'s' if left.days != 1 else ''}"
        found.append(f"a certificate that lasts: this one expires in {days}, at {end:%Y-%m-%d}")
    roots = [each for each in chain[1:] if each.get("subject") == each.get("issuer")]
    if roots:
        found.append(
            f"a chain without its root, {roots[0].get('subject')}: whoever trusts it has it"
        )
    for before, after in pairwise(chain):
        if before.get("issuer") != after.get("subject"):
            found.append(
                f"a chain in order: {after.get('subject')} has not issued what is before it"
            )
            break
    for each in chain:
        signature = str(each.get("signature"))
        if each not in roots and any(word in signature.lower() for word in _OLD_HASHES):
            found.append(f"a newer signature on {each.get('subject')} than {signature}")
    message = _peer_message(trace)
    if message is not None and message.length > _BIG_CHAIN:
        found.append(
            f"a shorter chain: its {message.length} bytes do not fit into what a server may send"
            " before it is answered"
        )
    return found


def _time(text: object) -> datetime | None:
    try:
        return datetime.strptime(str(text), "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
    except ValueError:
        return None
