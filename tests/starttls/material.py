"""Conversations for the tests of dialogues, and the parties to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from unittest.mock import patch

import attrs

from twisted_bioconn.starttls import (
    NAMES,
    Dialogue,
    DialogueState,
    StartTLSError,
    client_dialogue,
    server_dialogue,
    xmpp,
)

HOST = "mail.example.org"
TLS_NAMESPACE = b"xmlns='urn:ietf:params:xml:ns:xmpp-tls'"
STREAMS = b"http://etherx.jabber.org/streams"
STREAM_ID = "0011223344556677"

SSL_REQUEST = bytes.fromhex("00000008 04d2162f")
START_TLS = bytes.fromhex("301d 020101 7718 8016") + b"1.3.6.1.4.1.1466.20037"
START_TLS_DONE = bytes.fromhex("3024 020101 781f 0a0100 0400 0400 8a16") + b"1.3.6.1.4.1.1466.20037"

# What a client begins a handshake with.
HELLO = bytes.fromhex("16030100050100000100")

Exchange = tuple[bytes, bytes]


def stream(kind: bytes, attributes: bytes) -> bytes:
    """What opens a stream of XMPP."""
    return (
        b"<?xml version='1.0'?><stream:stream " + attributes + b" version='1.0' xml:lang='en'"
        b" xmlns='jabber:" + kind + b"' xmlns:stream='" + STREAMS + b"'>"
    )


STARTTLS = b"<starttls " + TLS_NAMESPACE + b"/>"
PROCEED = b"<proceed " + TLS_NAMESPACE + b"/>"
FEATURES = (
    b"<stream:features><starttls " + TLS_NAMESPACE + b"><required/></starttls></stream:features>"
)


def xmpp_exchanges(kind: bytes) -> list[Exchange]:
    """XMPP from a client or another server."""
    host = HOST.encode()
    return [
        (b"", b""),
        (
            stream(kind, b"to='" + host + b"'"),
            stream(kind, b"from='" + host + b"' id='" + STREAM_ID.encode() + b"'") + FEATURES,
        ),
        (STARTTLS, PROCEED),
    ]


# What the server says first, then what the client says and what the server answers.
EXCHANGES: dict[str, list[Exchange]] = {
    "smtp": [
        (b"", b"220 mail.example.org ESMTP\r\n"),
        (b"EHLO mail.example.org\r\n", b"250-mail.example.org\r\n250 STARTTLS\r\n"),
        (b"STARTTLS\r\n", b"220 Ready to start TLS\r\n"),
    ],
    "lmtp": [
        (b"", b"220 mail.example.org LMTP\r\n"),
        (b"LHLO mail.example.org\r\n", b"250-mail.example.org\r\n250 STARTTLS\r\n"),
        (b"STARTTLS\r\n", b"220 Ready to start TLS\r\n"),
    ],
    "imap": [
        (b"", b"* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] mail.example.org ready\r\n"),
        (
            b"TLS1 CAPABILITY\r\n",
            b"* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED\r\nTLS1 OK CAPABILITY completed\r\n",
        ),
        (b"TLS2 STARTTLS\r\n", b"TLS2 OK Begin TLS negotiation now\r\n"),
    ],
    "pop3": [
        (b"", b"+OK mail.example.org ready\r\n"),
        (b"CAPA\r\n", b"+OK Capability list follows\r\nSTLS\r\n.\r\n"),
        (b"STLS\r\n", b"+OK Begin TLS negotiation\r\n"),
    ],
    "sieve": [
        (
            b"",
            b'"IMPLEMENTATION" "mail.example.org"\r\n"SASL" ""\r\n"SIEVE" ""\r\n"STARTTLS"\r\n'
            b'"VERSION" "1.0"\r\nOK "mail.example.org ready"\r\n',
        ),
        (b"STARTTLS\r\n", b'OK "Begin TLS negotiation now"\r\n'),
    ],
    "ldap": [(b"", b""), (START_TLS, START_TLS_DONE)],
    "xmpp": xmpp_exchanges(b"client"),
    "xmpp-server": xmpp_exchanges(b"server"),
    "postgresql": [(b"", b""), (SSL_REQUEST, b"S")],
}
"""What the two roles say to each other, as it is on the wire."""

assert tuple(EXCHANGES) == NAMES


@attrs.frozen
class Outcome:
    """
    What became of a dialogue.

    @ivar said: all that it has sent.
    @ivar state: where it is.
    @ivar error: the sentence with which it failed, if it did.
    """

    said: bytes
    state: DialogueState
    error: StartTLSError | None = attrs.field(default=None, eq=str)


def server(name: str) -> Dialogue:
    return server_dialogue(name, host_name=HOST)


def client(name: str) -> Dialogue:
    return client_dialogue(name, host_name=HOST)


def play(dialogue: Dialogue, pieces: Iterable[bytes]) -> Outcome:
    """Start it, and give it the pieces as long as it talks."""
    with patch.object(xmpp, "_stream_id", lambda: STREAM_ID):
        said = dialogue.start()
        for piece in pieces:
            if dialogue.state is not DialogueState.TALKING:
                break
            try:
                said += dialogue.feed(piece)
            except StartTLSError as error:
                return Outcome(said + error.answer, dialogue.state, error)
    return Outcome(said, dialogue.state)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut something, at places that are taken within its length."""
    ends = sorted({place % (len(data) + 1) for place in places})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True) if a < b]
