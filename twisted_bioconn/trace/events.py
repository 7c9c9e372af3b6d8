"""What can happen to a TLS connection, one class for each."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

import attrs
from cryptography import x509

from ..hello import ClientHello

__all__ = [
    "Alert",
    "Bytes",
    "ChangeCipherSpec",
    "Connected",
    "Ended",
    "Event",
    "Fields",
    "Handshaken",
    "Judged",
    "LeftOut",
    "Message",
    "NotShown",
    "OpenSSLState",
    "Read",
    "Record",
    "Secret",
    "Trace",
    "Transition",
    "VerificationStep",
    "Waited",
    "Way",
    "Worked",
    "Written",
]


class Way(Enum):
    """Which way something went."""

    SENT = "sent"
    RECEIVED = "received"


Fields = tuple[tuple[str, object], ...]
"""
What is in a message: names, and for each a text, a number, several texts, or several more of these.
"""


@attrs.frozen
class Event:
    """
    Something that has happened.

    @ivar at: seconds after the trace began.
    """

    at: float


@attrs.frozen
class Connected(Event):
    """
    There is a transport to carry TLS.

    @ivar local: our address, as people write it, and C{peer} is the other's.
    """

    local: str
    peer: str


@attrs.frozen
class Bytes(Event):
    """
    Ciphertext was sent or has come.

    @ivar data: the bytes, where the trace is to have them; otherwise L{None}.
    """

    way: Way
    size: int
    data: bytes | None = attrs.field(default=None, repr=False)


@attrs.frozen
class Record(Event):
    """
    A record, as its header has it: RFC 8446, section 5.1.

    @ivar kind: its type by name.
    @ivar version: the version that it names, which says little.
    @ivar length: bytes after the header.
    @ivar encrypted: whether it is.
    """

    way: Way
    kind: str
    version: str
    length: int
    encrypted: bool


@attrs.frozen
class Message(Event):
    """
    A handshake message.

    @ivar name: RFC 8446's name of it.
    @ivar number: the number of its type.
    @ivar length: bytes, its header counted in.
    @ivar fields: what is in it.
    """

    way: Way
    name: str
    number: int
    length: int
    fields: Fields = ()

    def get(self, name: str) -> object:
        """What a field has; L{None} where there is no such field."""
        return dict(self.fields).get(name)


@attrs.frozen
class ChangeCipherSpec(Event):
    """In TLS 1.2 encryption begins; in TLS 1.3 it means nothing (RFC 8446, section 5)."""

    way: Way


@attrs.frozen
class Alert(Event):
    """
    An alert.

    @ivar fatal: whether it ends the connection.
    @ivar name: RFC 8446's name of it.
    @ivar meaning: what it means, in words.
    """

    way: Way
    fatal: bool
    name: str
    meaning: str


@attrs.frozen
class Transition(Event):
    """
    The connector went from one state to another.

    @ivar step: what took it there.
    """

    step: str
    before: str
    after: str


@attrs.frozen
class OpenSSLState(Event):
    """
    Where OpenSSL is in the handshake, in its own words.
    """

    state: str


@attrs.frozen
class Read(Event):
    """
    Plaintext was decrypted.

    @ivar plaintext: L{None} unless it was asked for.
    """

    size: int
    plaintext: bytes | None = attrs.field(default=None, repr=False)


@attrs.frozen
class Written(Event):
    """
    Plaintext was encrypted.

    @ivar plaintext: L{None} unless it was asked for.
    """

    size: int
    plaintext: bytes | None = attrs.field(default=None, repr=False)


@attrs.frozen
class Waited(Event):
    """
    Something that was waited for has come.

    @ivar what: what it was.
    @ivar seconds: how long it took.
    """

    what: str
    seconds: float


@attrs.frozen
class Worked(Event):
    """
    OpenSSL has gone on with the handshake, callbacks of ours counted in.

    @ivar seconds: how long it took.
    """

    seconds: float


@attrs.frozen
class VerificationStep(Event):
    """
    OpenSSL has looked at a certificate of the peer's chain.

    @ivar depth: 0 for the leaf.
    @ivar subject: whose it is.
    @ivar good: whether it is good.
    @ivar code: the C{X509_V_ERR_} number where it is not.
    @ivar reason: in words, what is wrong.
    """

    depth: int
    subject: str
    good: bool
    code: int
    reason: str


@attrs.frozen
class Judged(Event):
    """
    The verdict on the peer.

    @ivar accepted: whether it is who it should be.
    @ivar sentence: what was found.
    """

    accepted: bool
    sentence: str


@attrs.frozen
class Handshaken(Event):
    """
    The handshake is done.

    @ivar fields: what was agreed on.
    """

    fields: Fields


@attrs.frozen
class Secret(Event):
    """
    A line of a key log: https://www.ietf.org/archive/id/draft-ietf-tls-keylogfile-05.html.

    Whoever has it can decrypt the connection.
    """

    line: str = attrs.field(repr=False)


@attrs.frozen
class NotShown(Event):
    """
    Something cannot be shown.

    @ivar why: in a sentence.
    """

    why: str


@attrs.frozen
class LeftOut(Event):
    """
    The trace has reached its limit: what comes after is left out.

    @ivar why: in a sentence.
    """

    why: str


@attrs.frozen
class Ended(Event):
    """
    The connection is over.

    @ivar clean: whether both sides have closed it.
    @ivar reason: why, in a sentence.
    """

    clean: bool
    reason: str


@attrs.define
class Trace:
    """
    A connection.

    @ivar began: when the trace began.
    @ivar is_client: whether we are the client.
    @ivar local: our address, and C{peer} is the other's.
    @ivar title: what the connection is called.
    @ivar events: what has happened, in its order.
    @ivar hello: the client's hello, where we are the server and it could be read.
    @ivar first_bytes: the first bytes that came, 64 at most.
    @ivar sent: bytes sent, and C{received} those that have come, whether or not they are in
        C{events}.
    @ivar left_out: how many events there were after the limit.
    @ivar refused: the certificate of the peer's that was refused, if there is one.
    @ivar error: why the connection has failed; L{None} where it did not.
    """

    began: datetime
    is_client: bool
    title: str = ""
    local: str = ""
    peer: str = ""
    events: list[Event] = attrs.field(factory=list, repr=False)
    hello: ClientHello | None = None
    first_bytes: bytes = attrs.field(default=b"", repr=False)
    sent: int = 0
    received: int = 0
    left_out: int = 0
    refused: tuple[x509.Certificate, ...] = ()
    error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        """Whether the handshake was done."""
        return any(isinstance(each, Handshaken) for each in self.events)

    @property
    def messages(self) -> list[Message]:
        """The handshake messages."""
        return [each for each in self.events if isinstance(each, Message)]

    def message(self, name: str) -> Message | None:
        """The last message of this name."""
        return next((each for each in reversed(self.messages) if each.name == name), None)
