"""
What all dialogues that lead to TLS have in common.

None of them does I/O.  What is sent and received before TLS is in the clear, and anybody on the way
may have written it; so nothing of it may be taken for what comes after: not a command to a server
(CVE-2011-0411), and not an answer to a client (CVE-2021-23222).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum

from ..errors import UsageError

__all__ = [
    "ClientDialogue",
    "Dialogue",
    "DialogueState",
    "InjectionRefused",
    "ServerDialogue",
    "StartTLSError",
    "StartTLSRefused",
    "quoted",
]

_LONGEST_QUOTE = 200  # bytes of what a peer has said that come into a message

_HANDSHAKE = b"\x16"
"""How a record of a handshake begins: RFC 8446, section 5.1.  No dialogue has it there."""


class DialogueState(Enum):
    """
    What becomes of a L{Dialogue}: C{TALKING -> TLS_NEXT} or C{TALKING -> CLOSED}.
    """

    TALKING = "talking"
    TLS_NEXT = "TLS is next"
    CLOSED = "closed"


class StartTLSError(Exception):
    """
    The dialogue has failed, and the connection is to be closed: one sentence says why.

    @ivar answer: bytes to send before; C{b""} where there is nothing to say.
    """

    answer = b""


class StartTLSRefused(StartTLSError):
    """
    The server does not offer TLS, or does not begin it.  Nothing may be sent in its place in the
    clear.
    """


class InjectionRefused(StartTLSError):
    """
    There were bytes in the clear where TLS has to begin, or where the peer had not been asked.

    @ivar protocol: the name of the protocol.
    @ivar count: how many bytes.
    """

    def __init__(self, sentence: str, protocol: str, count: int) -> None:
        super().__init__(sentence)
        self.protocol = protocol
        self.count = count


def quoted(data: bytes) -> str:
    """What a peer has said, fit for a message: in ASCII, without control characters, bounded."""
    more = "..." if len(data) > _LONGEST_QUOTE else ""
    return ascii(bytes(data[:_LONGEST_QUOTE]))[1:] + more


class Dialogue(ABC):
    """
    One end of what two parties say to each other before TLS.

    First send what L{start} returns, then give what arrives to L{feed} and send what that returns.
    When C{state} is C{TLS_NEXT}, TLS begins with the next byte each way; when it is C{CLOSED}, the
    connection is to be closed.  Time is not kept here.

    @ivar protocol: its name, one of L{twisted_bioconn.starttls.NAMES}.
    @ivar state: where the dialogue is.
    @ivar greeting_for_client: in the role of a client, what a client that is to speak after TLS
        expects to hear first from the server; C{b""} where there is no such thing, and until
        C{state} is C{TLS_NEXT}.  It came in the clear, and nothing is in it that a client acts on.
    """

    _PEER: str
    _MOST_UNITS: int
    _UNITS = "commands"

    def __init__(self, protocol: str, host_name: str) -> None:
        self.protocol = protocol
        self.state = DialogueState.TALKING
        self.greeting_for_client = b""
        self._host = host_name.encode("ascii")
        self._buffer = bytearray()
        self._units = 0

    def start(self) -> bytes:
        """What we send as soon as there is a connection."""
        return b""

    def feed(self, data: bytes) -> bytes:
        """
        Take what has arrived.  In C{CLOSED} it is dropped.

        @return: bytes to send, before TLS begins or the connection is closed.
        @raise StartTLSError: the dialogue has failed.
        @raise UsageError: TLS is next.
        """
        if self.state is DialogueState.TLS_NEXT:
            raise UsageError(f"{self.protocol}: TLS is next, and these bytes are for it")
        if self.state is DialogueState.CLOSED:
            return b""
        self._buffer += data
        said = bytearray()
        try:
            while self.state is DialogueState.TALKING:
                unit = self._take()
                if unit is None:
                    break
                answer = self._answer(unit)
                if self._buffer and self._must_be_last(answer):
                    raise self._injection()
                said += answer
        except StartTLSError as error:
            self.state = DialogueState.CLOSED
            error.answer = bytes(said) + self._farewell()
            raise
        finally:
            if self.state is not DialogueState.TALKING:
                self._buffer.clear()
        return bytes(said)

    @abstractmethod
    def _take(self) -> bytes | None:
        """
        Take the next line, message or piece out of the buffer; L{None} if it is not all there.

        @raise StartTLSError: it cannot be one.
        """

    @abstractmethod
    def _answer(self, unit: bytes) -> bytes:
        """
        What is to be sent upon it.

        @raise StartTLSError: it is not acceptable.
        """

    def _must_be_last(self, answer: bytes) -> bool:
        """Whether nothing may have come yet after what is answered so."""
        return self.state is DialogueState.TLS_NEXT

    def _farewell(self) -> bytes:
        """What a peer is told whose connection is closed for a fault."""
        return b""

    def _spend(self) -> None:
        """
        Count a command, an answer or a line of one.

        @raise StartTLSError: there were too many.
        """
        self._units += 1
        if self._units > self._MOST_UNITS:
            raise self._error(f"TLS has not begun after {self._MOST_UNITS} {self._UNITS}")

    def _error(self, sentence: str) -> StartTLSError:
        return StartTLSError(f"{self.protocol}: {sentence}")

    def _injection(self) -> InjectionRefused:
        count = len(self._buffer)
        if self.state is not DialogueState.TLS_NEXT:
            what = "sent what it was not asked for"
        elif self._buffer[:1] == _HANDSHAKE:
            what = "began TLS before it was told to"
        else:
            what = "sent more in the clear where TLS has to begin"
        return InjectionRefused(
            f"{self.protocol}: the {self._PEER} {what}: {count} byte{'s' if count > 1 else ''}",
            self.protocol,
            count,
        )


class ServerDialogue(Dialogue):
    """
    The end of the server.  TLS is all that it lets a client have.
    """

    _PEER = "client"
    _MOST_UNITS = 50

    def _check_no_tls(self) -> None:
        """
        @raise StartTLSError: where something is to begin, TLS begins.
        """
        if self._buffer[:1] == _HANDSHAKE:
            raise self._error("the client began TLS without asking for it first")


class ClientDialogue(Dialogue):
    """
    The end of the client.  It asks for TLS and for nothing else.
    """

    _PEER = "server"
    _MOST_UNITS = 200
    _UNITS = "lines or messages of the server's"

    def _must_be_last(self, answer: bytes) -> bool:
        # What is sent is a request, and what is here already cannot be the answer to it.
        return bool(answer) or super()._must_be_last(answer)

    def _refused(self, sentence: str) -> StartTLSRefused:
        return StartTLSRefused(f"{self.protocol}: the server {sentence}")
