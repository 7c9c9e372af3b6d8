"""
XMPP: RFC 6120, section 5, between a client and a server or between two servers.

XML is read by expat, in UTF-8, with all refused that RFC 6120, section 11.1, takes from it: no
declaration of a document's type, and so no entity but XML's own; no instructions, no comments.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape

import attrs

from .dialogue import ClientDialogue, Dialogue, DialogueState, ServerDialogue

__all__ = ["XMPPClient", "XMPPServer"]

_LONGEST = 10 * 1024
"""
Bytes of a stanza at most, or of what opens the stream: RFC 6120, section 13.12, lets a server bound
them, and not below 10000.
"""

_STREAMS = "http://etherx.jabber.org/streams"
_TLS = "urn:ietf:params:xml:ns:xmpp-tls"
_SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
_ERRORS = "urn:ietf:params:xml:ns:xmpp-streams"
_CONTENT = {"xmpp": "jabber:client", "xmpp-server": "jabber:server"}

# As expat spells a name with its namespace.
_STREAM, _FEATURES, _STREAM_ERROR = (
    f"{_STREAMS} {each}" for each in ("stream", "features", "error")
)
_STARTTLS, _PROCEED, _FAILURE = (f"{_TLS} {each}" for each in ("starttls", "proceed", "failure"))

_STARTTLS_REQUEST = f"<starttls xmlns='{_TLS}'/>".encode()
_STREAM_END = b"</stream:stream>"

_WHITESPACE = b" \t\r\n"


@attrs.frozen
class _Start:
    name: str
    attributes: dict[str, str]


@attrs.frozen
class _Namespace:
    prefix: str | None
    uri: str | None


@attrs.frozen
class _End:
    pass


class _Restricted(Exception):
    """There is something in the XML that has no place in XMPP."""


def _restricted(*_: object) -> None:
    raise _Restricted


class _Reader:
    """
    XML as it comes in.  It makes no cycle of references.
    """

    def __init__(self) -> None:
        self._events: list[_Start | _Namespace | _End] = []
        add = self._events.append
        self._parser: Any = expat.ParserCreate("utf-8", " ")
        self._parser.StartElementHandler = lambda name, attributes: add(_Start(name, attributes))
        self._parser.EndElementHandler = lambda name: add(_End())
        self._parser.StartNamespaceDeclHandler = lambda prefix, uri: add(_Namespace(prefix, uri))
        self._parser.StartDoctypeDeclHandler = _restricted
        self._parser.ProcessingInstructionHandler = _restricted
        self._parser.CommentHandler = _restricted
        # Since its version 2.6 expat may put off what it has all of, to wait for more.
        at_once = getattr(self._parser, "SetReparseDeferralEnabled", None)
        if at_once is not None:
            at_once(False)

    def feed(self, data: bytes) -> list[_Start | _Namespace | _End]:
        """
        @raise _Restricted: there is something that may not be.
        @raise expat.ExpatError: it is not well-formed.
        """
        self._parser.Parse(data, False)
        events = self._events[:]
        self._events.clear()
        return events


class _Stream(Dialogue):
    """
    What comes is taken up to each C{>}: so nothing of what comes after an element goes to expat
    with it, and the same goes there whatever the pieces in which it arrives.
    """

    def __init__(self, protocol: str, host_name: str) -> None:
        super().__init__(protocol, host_name)
        self._reader = _Reader()
        self._size = 0  # bytes of the present stanza that have gone to the reader
        self._depth = 0
        self._default_namespace: str | None = None
        self._stanza_name = ""
        self._children: list[str] = []
        self._condition = "policy-violation"

    def _take(self) -> bytes | None:
        buffer = self._buffer
        if buffer and not (self._size or self._depth) and buffer[0] != ord("<"):
            self._condition = "not-well-formed"
            raise self._error(f"the {self._PEER} did not begin with XML")
        end = buffer.find(b">") + 1
        if self._size + (end or len(buffer)) > _LONGEST:
            raise self._error(f"the {self._PEER} sent a stanza of more than {_LONGEST} bytes")
        if not end:
            return None
        unit = bytes(buffer[:end])
        del buffer[:end]
        self._size += end
        return unit

    def _answer(self, unit: bytes) -> bytes:
        try:
            events = self._reader.feed(unit)
        except _Restricted:
            self._condition = "restricted-xml"
            raise self._error(
                f"the {self._PEER} sent a document type, an instruction or a comment"
            ) from None
        except expat.ExpatError as error:
            self._condition = "not-well-formed"
            reason = expat.ErrorString(error.code)
            raise self._error(f"the {self._PEER} sent broken XML: {reason}") from None
        said = b""
        for event in events:
            if self.state is DialogueState.TALKING:
                said += self._event(event)
        return said

    def _event(self, event: _Start | _Namespace | _End) -> bytes:
        if isinstance(event, _Namespace):
            if self._depth == 0 and event.prefix is None:
                self._default_namespace = event.uri
            return b""
        if isinstance(event, _Start):
            self._depth += 1
            if self._depth == 1:
                self._size = 0
                self._spend()
                return self._opened(event.name, event.attributes)
            if self._depth == 2:
                self._stanza_name, self._children = event.name, []
            elif self._depth == 3:
                self._children.append(event.name)
            return b""
        self._depth -= 1
        if self._depth == 1:
            self._size = 0
            self._spend()
            return self._stanza(self._stanza_name, self._children)
        return b"" if self._depth else self._ended()

    def _wrong_header(self, name: str, attributes: dict[str, str]) -> str | None:
        """What is wrong with the opening of the peer's stream: a condition of section 4.9.3."""
        if name != _STREAM or self._default_namespace != _CONTENT[self.protocol]:
            return "invalid-namespace"
        major = attributes.get("version", "0").partition(".")[0]
        # Section 4.7.5: without a version there is no STARTTLS.
        return None if major == "1" else "unsupported-version"

    @abstractmethod
    def _opened(self, name: str, attributes: dict[str, str]) -> bytes:
        """The peer's stream is open."""

    @abstractmethod
    def _stanza(self, name: str, children: list[str]) -> bytes:
        """Right below it there was this."""

    @abstractmethod
    def _ended(self) -> bytes:
        """The peer has closed its stream."""


def _header(protocol: str, **attributes: str) -> bytes:
    """What opens a stream: RFC 6120, section 4.7."""
    told = "".join(
        f" {name.rstrip('_')}='{escape(value, {chr(39): '&apos;'})}'"
        for name, value in attributes.items()
    )
    return (
        f"<?xml version='1.0'?><stream:stream{told} version='1.0' xml:lang='en'"
        f" xmlns='{_CONTENT[protocol]}' xmlns:stream='{_STREAMS}'>"
    ).encode()


def _stream_id() -> str:
    """One that nobody can guess: RFC 6120, section 4.7.3."""
    return secrets.token_hex(8)


class XMPPServer(_Stream, ServerDialogue):
    """
    Ends TLS for a server of XMPP.
    """

    def __init__(self, protocol: str, host_name: str) -> None:
        super().__init__(protocol, host_name)
        self._is_open = False

    def _take(self) -> bytes | None:
        self._check_no_tls()
        return super()._take()

    def _opened(self, name: str, attributes: dict[str, str]) -> bytes:
        wrong = self._wrong_header(name, attributes)
        # The server behind is asked for the same, after TLS, and says whether it has it.
        ours = {"from_": attributes.get("to") or self._host.decode(), "id": _stream_id()}
        if "from" in attributes:  # section 4.7.2
            ours["to"] = attributes["from"].partition("/")[0]
        self._is_open = True
        header = _header(self.protocol, **ours)
        if wrong is not None:
            return header + self._close(wrong)
        offer = f"<starttls xmlns='{_TLS}'><required/></starttls>"
        return header + f"<stream:features>{offer}</stream:features>".encode()

    def _stanza(self, name: str, children: list[str]) -> bytes:
        if name == _STARTTLS:
            self.state = DialogueState.TLS_NEXT
            return f"<proceed xmlns='{_TLS}'/>".encode()
        if name == f"{_SASL} auth":  # section 6.5.4
            return f"<failure xmlns='{_SASL}'><encryption-required/></failure>".encode()
        return self._close("not-authorized")

    def _ended(self) -> bytes:
        self.state = DialogueState.CLOSED
        return _STREAM_END

    def _close(self, condition: str) -> bytes:
        self.state = DialogueState.CLOSED
        error = f"<stream:error><{condition} xmlns='{_ERRORS}'/></stream:error>"
        return error.encode() + _STREAM_END

    def _farewell(self) -> bytes:
        # Section 4.9.1.2: where there is no stream yet, there is one for the error.
        opening = b""
        if not self._is_open:
            opening = _header(self.protocol, from_=self._host.decode(), id=_stream_id())
        return opening + self._close(self._condition)


class XMPPClient(_Stream, ClientDialogue):
    """
    Asks a server of XMPP for TLS.  The name of the host is the domain that is asked for.
    """

    def __init__(self, protocol: str, host_name: str) -> None:
        super().__init__(protocol, host_name)
        self._has_asked = False

    def start(self) -> bytes:
        return _header(self.protocol, to=self._host.decode())

    def _opened(self, name: str, attributes: dict[str, str]) -> bytes:
        wrong = self._wrong_header(name, attributes)
        if wrong == "unsupported-version":
            raise self._refused("does not offer STARTTLS: it has no version 1 of XMPP")
        if wrong is not None:
            raise self._error("the server's stream is none of this protocol's")
        return b""

    def _stanza(self, name: str, children: list[str]) -> bytes:
        if name == _STREAM_ERROR:
            conditions = [each.rpartition(" ")[2] for each in children[:1]]
            told = f": {conditions[0][:100]!a}" if conditions else ""
            raise self._refused(f"ends the stream with an error{told}")
        if self._has_asked:
            if name == _PROCEED:
                self.state = DialogueState.TLS_NEXT
                return b""
            if name == _FAILURE:
                raise self._refused("refuses to begin TLS: it answered with a failure")
            raise self._error("the answer to our asking for TLS cannot be read")
        if name != _FEATURES:
            raise self._error("the server did not say first what it offers")
        if _STARTTLS not in children:
            raise self._refused("does not offer STARTTLS")
        # Space between elements says nothing; only from here on there may be none (section 5.3.3).
        del self._buffer[: len(self._buffer) - len(self._buffer.lstrip(_WHITESPACE))]
        self._has_asked = True
        return _STARTTLS_REQUEST

    def _ended(self) -> bytes:
        raise self._refused("closes the stream")
