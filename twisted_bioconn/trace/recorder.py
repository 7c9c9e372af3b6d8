"""Writes down what happens to one connection, as events."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic

import attrs
from cryptography import x509

from .. import alerts
from ..connector import State, Step
from ..hello import LONGEST_RECORD, HelloReader, MalformedHello
from ..negotiated import Negotiated
from ..verify import subject_of, verify_error_string
from ._callbacks import shows_messages
from ._records import RecordReader
from .events import (
    Alert,
    Bytes,
    ChangeCipherSpec,
    Connected,
    Ended,
    Event,
    Handshaken,
    Judged,
    LeftOut,
    Message,
    NotShown,
    OpenSSLState,
    Read,
    Record,
    Secret,
    Trace,
    Transition,
    VerificationStep,
    Waited,
    Way,
    Worked,
    Written,
)
from .messages import (
    SERVER_HELLO,
    decoded,
    message_name,
    selected_version,
)

__all__ = ["Recorder", "TracerLimits"]

FIRST_BYTES = 64
"""How many of the first bytes that come are kept, to tell what they are if they are no TLS."""

PAST_LIMIT = 16
"""Events that a trace may have beyond its limit: those that say what has come of it."""

_TLS13 = 0x0304

_KINDS = {20: "change_cipher_spec", 21: "alert", 22: "handshake", 23: "application_data"}


@attrs.frozen
class TracerLimits:
    """
    How much is kept of one connection.

    @ivar events: the number of events at most.
    @ivar octets: bytes of ciphertext and of plaintext at most.
    """

    events: int = 5000
    octets: int = 4 * 1024 * 1024


class Recorder:
    """
    The trace of one connection, as it is written.

    @ivar trace: what there is of it.
    @ivar log_key: is given each line of a key log; L{None} where there is none.
    @ivar keeps_secrets: whether it has keys, C{keeps_plaintext} whether it has plaintext, and
        C{keeps_bytes} whether it has ciphertext.
    """

    def __init__(
        self,
        is_client: bool,
        *,
        title: str = "",
        limits: TracerLimits | None = None,
        keeps_bytes: bool = False,
        unsafe_secrets: bool = False,
        unsafe_plaintext: bool = False,
        log_key: Callable[[str], object] | None = None,
        told: Callable[[Trace, Event], object] | None = None,
        seconds: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.trace = Trace(began=now(), is_client=is_client, title=title)
        self.keeps_secrets = unsafe_secrets
        self.log_key = log_key
        self.keeps_plaintext = unsafe_plaintext
        self.keeps_bytes = keeps_bytes
        self._limits = limits or TracerLimits()
        self._told_of_each = told
        self._seconds = seconds
        self._began = seconds()
        self._octets_left = self._limits.octets
        self._is_full = self._is_ended = False
        self._last_way: Way | None = None
        self._last_at = 0.0
        self._is_13 = self._shows_messages = False
        # They refer to this: at the end they go.
        self._readers = {way: RecordReader(self._record, self._clear) for way in Way}
        self._told: set[str] = set()
        self._hello = None if is_client else HelloReader()

    @property
    def now(self) -> float:
        """Seconds after the trace began."""
        return self._seconds() - self._began

    def add(self, event: Event) -> None:
        """Write an event down, if there is room for it."""
        trace = self.trace
        if self._is_full:
            # A peer may send alerts without end.
            is_needed = isinstance(event, Handshaken | Judged | Alert)
            has_room = len(trace.events) < self._limits.events + PAST_LIMIT
            if not (isinstance(event, Ended) or (is_needed and has_room)):
                trace.left_out += 1
                return
        trace.events.append(event)
        if self._told_of_each is not None:
            self._told_of_each(trace, event)
        if not self._is_full and len(trace.events) >= self._limits.events:
            self._is_full = True
            why = f"there are {self._limits.events} events: what comes after them is left out"
            trace.events.append(LeftOut(self.now, why))

    def _kept(self, data: bytes, wanted: bool) -> bytes | None:
        """What is kept of bytes: nothing where that is not asked for, or there are too many."""
        if not wanted or self._is_full:
            return None
        if len(data) > self._octets_left:
            self._say_once(
                f"there are more than {self._limits.octets} bytes: those that come after them are"
                " counted and not kept"
            )
            self._octets_left = 0
            return None
        self._octets_left -= len(data)
        return data

    def _say_once(self, why: str) -> None:
        if why not in self._told:
            self._told.add(why)
            self.add(LeftOut(self.now, why))

    # The transport

    def connected(self, local: str, peer: str) -> None:
        """There is a transport."""
        self.trace.local, self.trace.peer = local, peer
        self.add(Connected(self.now, local, peer))

    def waited(self, what: str, seconds: float) -> None:
        """Something that was waited for is there."""
        self.add(Waited(self.now, what, seconds))

    def bytes_crossed(self, way: Way, data: bytes) -> None:
        """Ciphertext was sent, or has come."""
        at, trace = self.now, self.trace
        if way is Way.RECEIVED:
            trace.received += len(data)
            if len(trace.first_bytes) < FIRST_BYTES:
                trace.first_bytes += data[: FIRST_BYTES - len(trace.first_bytes)]
            self._read_hello(data)
            if self._last_way is Way.SENT:
                self.add(Waited(at, "for the peer", at - self._last_at))
        else:
            trace.sent += len(data)
        self._last_way, self._last_at = way, at
        self.add(Bytes(at, way, len(data), self._kept(data, self.keeps_bytes)))
        reader = self._readers.get(way)
        if reader is not None:
            reader.feed(data, way)

    def _read_hello(self, data: bytes) -> None:
        """A server's verdict has use for the client's hello."""
        if self._hello is not None:
            try:
                self.trace.hello = self._hello.feed(data)
            except MalformedHello:
                self._hello = None
            if self.trace.hello is not None:
                self._hello = None

    def _record(
        self, way: Way, kind: int, version: int, length: int, encrypted: bool, whole: bool
    ) -> None:
        if not whole:
            self.not_shown(
                "what comes "
                + ("from the peer" if way is Way.RECEIVED else "from us")
                + " is no TLS: it has no records"
            )
            return
        name = _KINDS.get(kind, f"type {kind}")
        self.add(Record(self.now, way, name, f"{version:#06x}", length, encrypted))
        if kind == 20 and not encrypted:
            if not self._shows_messages:
                self.change_cipher_spec(way is Way.SENT)
            if not self._is_13:
                self._readers[way].encrypts()

    # What OpenSSL tells

    def shows_messages(self) -> None:
        """OpenSSL tells of its messages, or is about to be asked in vain."""
        self._shows_messages = shows_messages()
        if not self._shows_messages:
            self.not_shown(
                "this engine, on pyOpenSSL's public API, shows no messages: those that are"
                " encrypted are told of as records alone"
            )

    def hides_messages(self) -> None:
        """OpenSSL was not asked, as somebody else has made the connection."""
        self.not_shown(
            "the connection is of a context of the program's own: messages that are encrypted are"
            " told of as records alone"
        )

    def message(self, written: bool, content: bytes) -> None:
        """A handshake message, with its header."""
        if len(content) < 4:
            return
        number, body = content[0], content[4:]
        way = Way.SENT if written else Way.RECEIVED
        if number == SERVER_HELLO:
            self._is_13 = selected_version(body) == _TLS13
        if self._is_full:
            # There may be no end to them.
            self.trace.left_out += 1
            return
        try:
            fields = decoded(number, body, self._is_13)
        except Exception as error:
            fields = (("malformed", f"{type(error).__name__}"),)
        self.add(Message(self.now, way, message_name(number, body), number, len(content), fields))

    def _clear(self, way: Way, kind: int, body: bytes) -> None:
        """A record in the clear: where OpenSSL shows nothing, its messages are read here."""
        if self._shows_messages:
            return
        reader = self._readers[way]
        if kind != 22:
            return
        reader.messages += body
        while len(reader.messages) >= 4:
            size = 4 + int.from_bytes(reader.messages[1:4], "big")
            if size > 16 * LONGEST_RECORD:
                reader.messages.clear()
                self.not_shown(f"a message of {size} bytes")
            if len(reader.messages) < size:
                break
            content = bytes(reader.messages[:size])
            del reader.messages[:size]
            self.message(way is Way.SENT, content)

    def alert(self, written: bool, level: int, number: int) -> None:
        """An alert."""
        name = alerts.ALERTS.get(number, f"alert {number}")
        way = Way.SENT if written else Way.RECEIVED
        meaning = _meaning(name, written)
        self.add(Alert(self.now, way, level == 2, name, meaning))

    def change_cipher_spec(self, written: bool) -> None:
        """A change of keys, or what stands for one."""
        self.add(ChangeCipherSpec(self.now, Way.SENT if written else Way.RECEIVED))

    def openssl_state(self, state: str) -> None:
        """OpenSSL has gone on to this state."""
        self.add(OpenSSLState(self.now, state))

    def secret(self, line: str) -> None:
        """A line for a key log."""
        if self.log_key is not None:
            self.log_key(line)
        if self.keeps_secrets:
            self.add(Secret(self.now, line))

    def not_shown(self, why: str) -> None:
        """Something cannot be shown."""
        if why not in self._told:
            self._told.add(why)
            self.add(NotShown(self.now, why))

    # What the connector does

    def transition(self, step: Step, before: State, after: State) -> None:
        """The connector has gone from one state to another."""
        self.add(Transition(self.now, step.value, before.value, after.value))

    def worked(self, seconds: float) -> None:
        """OpenSSL has gone on with the handshake."""
        self.add(Worked(self.now, seconds))

    def read(self, plaintext: bytes) -> None:
        """Plaintext was decrypted."""
        if plaintext:
            kept = self._kept(plaintext, self.keeps_plaintext)
            self.add(Read(self.now, len(plaintext), kept))

    def written(self, plaintext: bytes) -> None:
        """Plaintext was encrypted."""
        if plaintext:
            kept = self._kept(plaintext, self.keeps_plaintext)
            self.add(Written(self.now, len(plaintext), kept))

    def verification_step(
        self, depth: int, certificate: x509.Certificate | None, ok: bool, code: int
    ) -> None:
        """OpenSSL has looked at a certificate."""
        subject = "a certificate that cannot be read"
        if certificate is not None:
            subject = subject_of(certificate)
        reason = "" if ok else verify_error_string(code)
        self.add(VerificationStep(self.now, depth, subject, ok, 0 if ok else code, reason))

    def judged(self, accepted: bool, sentence: str) -> None:
        """There is a verdict on the peer."""
        self.add(Judged(self.now, accepted, sentence))

    def refused(self, certificate: x509.Certificate | None, sentence: str) -> None:
        """The peer is refused."""
        if certificate is not None:
            self.trace.refused = (certificate,)
        self.judged(False, sentence)

    def handshaken(self, facts: Negotiated) -> None:
        """The handshake is done."""
        fields: list[tuple[str, object]] = [
            ("version", facts.version),
            ("cipher", facts.cipher),
            ("group", facts.group or "none"),
            ("ALPN", "none" if facts.alpn is None else facts.alpn.decode("ascii", "replace")),
            ("server name", facts.server_name or "none"),
            ("resumed", facts.resumed),
        ]
        self.add(Handshaken(self.now, tuple(fields)))

    def ended(self, clean: bool, error: BaseException | None, reason: str) -> None:
        """The connection is over."""
        if self._is_ended:
            return
        self._is_ended = True
        for way, reader in self._readers.items():
            if reader.missing:
                whose = "we" if way is Way.SENT else "the peer"
                self.not_shown(f"{whose} left a record unfinished: {reader.missing} bytes missing")
        self._readers.clear()
        self.trace.error = error
        self.add(Ended(self.now, clean, reason))


def _meaning(name: str, written: bool) -> str:
    if name == "close_notify":
        return "nothing more will be sent this way"
    if not written:
        return alerts.meaning(name)
    return "tells the peer why the connection ends"
