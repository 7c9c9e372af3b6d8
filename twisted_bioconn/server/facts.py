"""
The facts of a connection in words: as a story for people, as text for a terminal, as JSON.

Nothing in here knows of HTTP or of a transport; L{twisted_bioconn.server.page} does.
"""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from twisted_bioconn.negotiated import Negotiated

__all__ = [
    "Fact",
    "Story",
    "Suggestion",
    "Visitor",
    "as_json",
    "as_text",
    "decoded",
    "printable",
    "tell",
]


@frozen
class Visitor:
    """
    Where a visitor is.

    @ivar host: an IP address, or words where the transport has none.
    @ivar port: the port, where there is one.
    """

    host: str
    port: int | None = None


@frozen
class Fact:
    """One row: what it is, its value, what that means, and a word on the value to stress."""

    label: str
    value: str
    meaning: str
    stress: str = ""


@frozen
class Suggestion:
    """
    Something to try.

    @ivar why: what it shows.
    @ivar before: how the command begins.
    @ivar telling: the arguments that make the difference.
    @ivar after: how the command ends.
    """

    why: str
    before: tuple[str, ...]
    telling: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command, quoted for a POSIX shell."""
        return shlex.join((*self.before, *self.telling, *self.after))


@frozen
class Story:
    """
    All that there is to say of a connection, before it is put into a form.

    @ivar state: C{hybrid}, C{classical}, C{dated} or C{plain}.
    @ivar headline: one sentence, in pieces, of which every second one is stressed.
    @ivar lede: what the headline means for the visitor.
    @ivar strands: what there is between the two ends.
    @ivar visitor: the one end.
    @ivar server: the other end.
    @ivar facts: the rows.
    @ivar suggestions: what to try next.
    """

    state: str
    headline: tuple[str, ...]
    lede: str
    strands: tuple[str, ...]
    visitor: str
    server: str
    facts: tuple[Fact, ...]
    suggestions: tuple[Suggestion, ...]


# The longest value that is shown, in characters: the visitor chooses some of them.
_LONGEST: Final = 400

LONGEST_SENTENCE: Final = 10_000
"""Characters of a sentence of our own: there may be two paths in it, and what to do stands last."""


def printable(text: str, longest: int = _LONGEST) -> str:
    r"""
    Make a text from elsewhere fit to be looked at.

    Control characters (a terminal obeys them) and marks of direction (which make a name look like
    another one) are shown as C{\x1b}, C{\u202e}; a text beyond all measure is cut.

    @param longest: that measure, in characters.
    """
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[:longest]
    )
    return shown if len(text) <= longest else shown + "…"


def whole_sentence(text: str) -> str:
    """L{printable}, for a sentence of our own."""
    return printable(text, LONGEST_SENTENCE)


def decoded(octets: bytes) -> str:
    r"""Bytes that are ASCII by rights, as text; each other byte as C{\xff}."""
    return octets.decode("ascii", "backslashreplace")


# OpenSSL has some in lower case, and the NIST curves under SECG's or X9.62's names.
_CURVES: Final = {
    "x25519": "X25519",
    "x448": "X448",
    "prime256v1": "P-256",
    "secp256r1": "P-256",
    "secp384r1": "P-384",
    "secp521r1": "P-521",
    "curvesm2": "SM2",
}


@frozen
class _Group:
    """
    A key exchange group.

    @ivar names: the algorithms in it: two for a hybrid, none where the group is not known.
    @ivar post_quantum: whether one of them is made to resist a quantum computer.
    """

    names: tuple[str, ...]
    post_quantum: bool

    @classmethod
    def of(cls, negotiated: Negotiated | None) -> _Group:
        """Take OpenSSL's name of a group apart (the hybrids are those of RFC 10024)."""
        if negotiated is None or not negotiated.group:
            return cls((), False)
        match = re.fullmatch(r"(.*)mlkem(\d+)", negotiated.group, re.IGNORECASE)
        curve = negotiated.group if match is None else match[1]
        names = (_CURVES.get(curve.lower(), printable(curve)),) if curve else ()
        return cls(names, False) if match is None else cls((*names, f"ML-KEM-{match[2]}"), True)

    @property
    def hybrid(self) -> bool:
        """Whether it holds as long as one of two algorithms of different kinds does."""
        return self.post_quantum and len(self.names) > 1


def _distinguished(name: Callable[[], x509.Name]) -> str | None:
    """A name as RFC 4514 writes it."""
    try:
        return name().rfc4514_string()
    except ValueError:
        return None


@frozen
class _Identity:
    """
    What a certificate says.

    cryptography parses a name when it is asked for, and a server that asks for certificates without
    verifying them gets to see any: a name that does not parse is L{None}.
    """

    subject: str | None
    issuer: str | None
    not_before: datetime
    not_after: datetime
    sha256: str

    @classmethod
    def of(cls, certificate: x509.Certificate) -> _Identity:
        """Read what can be read."""
        return cls(
            _distinguished(lambda: certificate.subject),
            _distinguished(lambda: certificate.issuer),
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
            certificate.fingerprint(SHA256()).hex(),
        )


def _spoken(version: str) -> str:
    """C{"TLS 1.3"} for C{"TLSv1.3"}; OpenSSL calls TLS 1.0 C{"TLSv1"}."""
    return "TLS 1.0" if version == "TLSv1" else printable(version.replace("TLSv", "TLS ", 1))


_SAFE: Final = (
    "Nobody on the way can read or change it, provided that your client checked this server's"
    " certificate."
)


def _opening(negotiated: Negotiated | None, group: _Group) -> tuple[str, tuple[str, ...], str]:
    """The state, headline and lede of a story."""
    if negotiated is None:
        return (
            "plain",
            ("Your connection is ", "not encrypted", "."),
            "This server saw no TLS on it. Anybody on the way can read and change what is sent.",
        )
    version = _spoken(negotiated.version)
    if negotiated.version not in ("TLSv1.3", "TLSv1.2"):
        return (
            "dated",
            ("Your connection is encrypted, but with ", version, ", which is outdated."),
            "It was given up in 2021 (RFC 8996) for its weaknesses. A newer client does better.",
        )
    if group.post_quantum:
        unless = "both of the algorithms below fall" if group.hybrid else "ML-KEM falls"
        return (
            "hybrid" if group.hybrid else "classical",
            (
                "Your connection is encrypted with ",
                version,
                ", with a key exchange that also ",
                "resists quantum computers",
                ".",
            ),
            f"{_SAFE} A recording made today stays closed to a quantum computer too, unless"
            f" {unless}.",
        )
    ending = "." if negotiated.version == "TLSv1.3" else ", the version before the newest."
    doubt = " A quantum computer might one day read a recording of it." if group.names else ""
    return (
        "classical",
        ("Your connection is encrypted with ", version, ending),
        f"{_SAFE}{doubt}",
    )


def _about_version(version: str) -> str:
    if version == "TLSv1.3":
        return "The newest version. The certificates travel encrypted too."
    if version == "TLSv1.2":
        return "Still good with the right cipher. TLS 1.3 is quicker and hides more."
    return "Deprecated by RFC 8996. It is time for another client."


def _about_cipher(cipher: str) -> str:
    if "CHACHA20" in cipher:
        return "ChaCha20 with a 256-bit key encrypts, Poly1305 notices every change."
    aes = re.search("AES_?(128|256)", cipher)
    if aes is None:
        return "What encrypts the data of this connection."
    if "GCM" in cipher or "CCM" in cipher:
        return f"AES with a {aes[1]}-bit key, in a mode that notices every change."
    return f"AES with a {aes[1]}-bit key in CBC mode, which TLS 1.3 has given up."


def _group_fact(name: str | None, group: _Group) -> Fact:
    label = "Key exchange"
    if not name:
        return Fact(label, "not known", "OpenSSL names no group for this handshake.")
    if group.hybrid:
        meaning = (
            f"{' and '.join(group.names)} together. To read a recording of this connection, one has"
            " to break both."
        )
        return Fact(label, printable(name), meaning, "post-quantum hybrid")
    if group.post_quantum:
        meaning = "Made to resist quantum computers, with no older algorithm beside it."
        return Fact(label, printable(name), meaning, "post-quantum")
    [algorithm] = group.names
    # OpenSSL says "x25519", everybody else X25519.
    value = algorithm if algorithm.lower() == name.lower() else printable(name)
    meaning = "Strong today. A quantum computer might one day read a recording."
    return Fact(label, value, meaning, "not post-quantum")


def _alpn_fact(alpn: bytes | None) -> Fact:
    label = "Protocol (ALPN)"
    if alpn is None:
        return Fact(label, "none", "The handshake agreed on none, so HTTP/1.1 it is.")
    known = {b"h2": "HTTP/2", b"http/1.1": "HTTP/1.1", b"http/1.0": "HTTP/1.0"}.get(alpn)
    meaning = f"{known or 'The protocol spoken inside'}, agreed on in the handshake."
    return Fact(label, printable(decoded(alpn)), meaning)


def _server_name_fact(name: str | None) -> Fact:
    label = "Server name (SNI)"
    if name is None:
        return Fact(
            label, "none sent", "Your client asked for no name, as it does for an IP address."
        )
    return Fact(label, printable(name), "The name your client asked for. It travels unencrypted.")


def _session_fact(resumed: bool) -> Fact:
    if resumed:
        return Fact("Session", "resumed", "It goes on from an earlier one: no certificates again.")
    return Fact("Session", "new", "A full handshake. The next connection may resume from it.")


def _certificate_facts(chain: Sequence[x509.Certificate], now: datetime) -> tuple[Fact, ...]:
    label = "Client certificate"
    if not chain:
        return (Fact(label, "none", "The handshake did not say who you are."),)
    identity = _Identity.of(chain[0])

    def shown(name: str | None) -> str:
        return "unreadable" if name is None else printable(name) or "empty"

    return (
        Fact(label, shown(identity.subject), "Who you are, by the certificate that you sent."),
        Fact("Issued by", shown(identity.issuer), "Who vouches for it."),
        Fact(
            "Valid until",
            f"{identity.not_after:%Y-%m-%d %H:%M} UTC",
            _remaining(identity.not_after - now),
        ),
    )


def _remaining(left: timedelta) -> str:
    """C{"It expires in 30 days."}, or C{"It expired 3 hours ago."}."""
    gap = abs(left)
    if gap >= timedelta(days=1):
        count, unit = gap.days, "day"
    elif gap >= timedelta(hours=1):
        count, unit = gap // timedelta(hours=1), "hour"
    else:
        count, unit = gap // timedelta(minutes=1), "minute"
    words = f"{count} {unit}{'' if count == 1 else 's'}"
    return f"It expires in {words}." if left >= timedelta() else f"It expired {words} ago."


def _handshake_fact(seconds: float | None) -> Fact:
    label = "Handshake time"
    if seconds is None:
        return Fact(label, "not measured", "This server did not time it.")
    return Fact(label, f"{seconds * 1000:.1f} ms", "As this server saw it, network included.")


def _address_fact(visitor: Visitor | None) -> Fact:
    label = "Your address"
    if visitor is None:
        return Fact(label, "not known", "This transport has no addresses.")
    port = "" if visitor.port is None else f", port {visitor.port}"
    return Fact(label, f"{visitor.host}{port}", "Where this server sees you.")


def _suggestions(
    negotiated: Negotiated | None, group: _Group, base: str, authority_file: str | None
) -> tuple[Suggestion, ...]:
    """What a visitor can do to see the facts change."""
    trust = () if negotiated is None or authority_file is None else ("--cacert", authority_file)

    def curl(why: str, *telling: str, urls: Sequence[str] = (f"{base}/",)) -> Suggestion:
        return Suggestion(why, ("curl", *trust), telling, tuple(urls))

    always = (
        curl("This page, in a terminal"),
        curl("The same facts, for a program", urls=(f"{base}/facts.json",)),
    )
    if negotiated is None:
        return always
    return (
        *always,
        curl("HTTP/1.1 in place of HTTP/2", "--http1.1")
        if negotiated.alpn == b"h2"
        else curl("HTTP/2, if your curl has it", "--http2"),
        curl("One version back, TLS 1.2", "--tls-max", "1.2")
        if negotiated.version == "TLSv1.3"
        else curl("The newest version, TLS 1.3", "--tlsv1.3"),
        curl("A key exchange that is not post-quantum", "--curves", "X25519")
        if group.post_quantum
        else curl("A post-quantum key exchange, if your curl has it", "--curves", "X25519MLKEM768"),
        curl(
            "Two connections, the second one resumed",
            "--http1.1",
            "--header",
            "Connection: close",
            urls=(f"{base}/", f"{base}/"),
        ),
    )


def tell(
    negotiated: Negotiated | None,
    visitor: Visitor | None,
    *,
    authority: str,
    authority_file: str | None,
    protocol: bytes,
    now: datetime,
) -> Story:
    """
    Put the facts of a connection into words.

    @param negotiated: what was negotiated; L{None} where there is no TLS.
    @param visitor: where the other end is; L{None} where the transport does not know.
    @param authority: this server's host and port, as in a URL.
    @param authority_file: the file with the certificate of the authority that signed the server's;
        L{None} where clients trust it anyhow.
    @param protocol: the version of HTTP that the request came in.
    @param now: the present, with a time zone.
    """
    group = _Group.of(negotiated)
    state, headline, lede = _opening(negotiated, group)
    if negotiated is None:
        facts: tuple[Fact, ...] = (
            Fact("Encryption", "none", "No handshake took place."),
            Fact("Protocol", printable(decoded(protocol)), "What the request came in."),
        )
    else:
        facts = (
            Fact("Version", _spoken(negotiated.version), _about_version(negotiated.version)),
            Fact("Cipher", printable(negotiated.cipher), _about_cipher(negotiated.cipher)),
            _group_fact(negotiated.group, group),
            _alpn_fact(negotiated.alpn),
            _server_name_fact(negotiated.server_name),
            _session_fact(negotiated.resumed),
            *_certificate_facts(negotiated.peer_chain, now),
            _handshake_fact(negotiated.handshake_seconds),
        )
    scheme = "http" if negotiated is None else "https"
    return Story(
        state=state,
        headline=headline,
        lede=lede,
        strands=("plain text",)
        if negotiated is None
        else group.names or (_spoken(negotiated.version),),
        visitor="not known" if visitor is None else visitor.host,
        server=authority,
        facts=(*facts, _address_fact(visitor)),
        suggestions=_suggestions(negotiated, group, f"{scheme}://{authority}", authority_file),
    )


def as_text(story: Story) -> str:
    """A story for a terminal of 80 columns; only commands and long values are wider."""
    width = max(len(fact.label) for fact in story.facts)
    lines = [*textwrap.wrap("".join(story.headline), 78), ""]
    for fact in story.facts:
        stress = f"  ({fact.stress})" if fact.stress else ""
        lines.append(f"  {fact.label:<{width}}  {fact.value}{stress}")
    lines += ["", "What to try next"]
    for suggestion in story.suggestions:
        lines += ["", f"  {suggestion.why}:", f"    {suggestion.command}"]
    return "\n".join(lines)


def as_json(negotiated: Negotiated | None, visitor: Visitor | None) -> str:
    """The bare facts for a program. Every key is always there, null where there is no answer."""
    identity = None
    if negotiated is not None and negotiated.peer_chain:
        leaf = _Identity.of(negotiated.peer_chain[0])
        identity = {
            "subject": leaf.subject,
            "issuer": leaf.issuer,
            "not_before": leaf.not_before.isoformat(),
            "not_after": leaf.not_after.isoformat(),
            "sha256": leaf.sha256,
        }
    group = _Group.of(negotiated)
    alpn = None if negotiated is None else negotiated.alpn
    return json.dumps(
        {
            "encrypted": negotiated is not None,
            "version": None if negotiated is None else negotiated.version,
            "cipher": None if negotiated is None else negotiated.cipher,
            "group": None if negotiated is None else negotiated.group,
            "post_quantum": group.post_quantum if group.names else None,
            "hybrid": group.hybrid if group.names else None,
            "alpn": None if alpn is None else decoded(alpn),
            "server_name": None if negotiated is None else negotiated.server_name,
            "resumed": None if negotiated is None else negotiated.resumed,
            "client_certificate": identity,
            "visitor": None if visitor is None else {"host": visitor.host, "port": visitor.port},
            "handshake_seconds": None if negotiated is None else negotiated.handshake_seconds,
        },
        indent=2,
    )
