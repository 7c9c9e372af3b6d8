"""LDAP: RFC 4511, section 4.14, and of the BER in section 5.1 as much as that takes."""

from __future__ import annotations

from enum import IntEnum

from .dialogue import ClientDialogue, Dialogue, DialogueState, ServerDialogue, quoted

__all__ = ["LDAPClient", "LDAPServer"]

_START_TLS = b"1.3.6.1.4.1.1466.20037"
_NOTICE_OF_DISCONNECTION = b"1.3.6.1.4.1.1466.20036"

_LONGEST = 8192  # bytes of a message, with its head
_LARGEST_ID = 2**31 - 1

_BOOLEAN, _INTEGER, _OCTETS, _ENUMERATED, _SEQUENCE = 0x01, 0x02, 0x04, 0x0A, 0x30
_CONTROLS = 0xA0
_REQUEST_NAME, _REQUEST_VALUE, _RESPONSE_NAME = 0x80, 0x81, 0x8A
_UNBIND, _ABANDON, _EXTENDED_REQUEST, _EXTENDED_RESPONSE = 0x42, 0x50, 0x77, 0x78

_ANSWERS = {
    0x60: 0x61,  # bind
    0x63: 0x65,  # search: the message that ends the results
    0x66: 0x67,  # modify
    0x68: 0x69,  # add
    0x4A: 0x6B,  # delete
    0x6C: 0x6D,  # modify DN
    0x6E: 0x6F,  # compare
    _EXTENDED_REQUEST: _EXTENDED_RESPONSE,
}
"""The tag of the answer by that of the request: RFC 4511, section 4.2 and those after it."""


class _Code(IntEnum):
    """RFC 4511, section 4.1.9."""

    SUCCESS = 0
    PROTOCOL_ERROR = 2
    UNAVAILABLE_CRITICAL_EXTENSION = 12
    CONFIDENTIALITY_REQUIRED = 13


class _Malformed(Exception):
    """The words say what is wrong with a message."""


def _head(data: bytes | bytearray, at: int) -> tuple[int, int, int] | None:
    """
    The head of an element: its tag, where its content begins, and how long that is.

    @return: L{None} if it is not all there.
    @raise _Malformed: the length is indefinite (RFC 4511, section 5.1), or longer than any of ours.
    """
    if len(data) < at + 2:
        return None
    tag, first = data[at], data[at + 1]
    if first < 0x80:
        return tag, at + 2, first
    octets = first & 0x7F
    if not 1 <= octets <= 4:
        raise _Malformed("a length is indefinite or too long")
    begin = at + 2 + octets
    if len(data) < begin:
        return None
    return tag, begin, int.from_bytes(data[at + 2 : begin], "big")


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """
    The elements of which something consists: their tags and contents.

    @raise _Malformed: it does not consist of elements.
    """
    found = []
    at = 0
    while at < len(data):
        head = _head(data, at)
        if head is None or head[1] + head[2] > len(data):
            raise _Malformed("an element is longer than what it is in")
        tag, begin, size = head
        at = begin + size
        found.append((tag, data[begin:at]))
    return found


def _element(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return bytes((tag, len(content))) + content  # none of ours has more than 127 bytes


def _message(number: int, *operation: bytes) -> bytes:
    # With a byte for the sign, where that is set: ITU-T X.690, section 8.3.
    octets = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return _element(_SEQUENCE, _element(_INTEGER, octets), *operation)


def _result(number: int, tag: int, code: _Code, text: bytes = b"", name: bytes = b"") -> bytes:
    """A message with an C{LDAPResult}: RFC 4511, section 4.1.9."""
    return _message(
        number,
        _element(
            tag,
            _element(_ENUMERATED, bytes((code,))),
            _element(_OCTETS),
            _element(_OCTETS, text),
            _element(_RESPONSE_NAME, name) if name else b"",
        ),
    )


def _read(message: bytes) -> tuple[int, int, bytes, bytes]:
    """
    @return: the number of a message; the tag of its operation, and the content; its controls.
    @raise _Malformed: it is none.
    """
    [(_, content)] = _elements(message)
    parts = _elements(content)
    tags = [tag for tag, _ in parts]
    if not 2 <= len(parts) <= 3 or tags[0] != _INTEGER or tags[2:] not in ([], [_CONTROLS]):
        raise _Malformed("a message is not a number, an operation and controls")
    number = int.from_bytes(parts[0][1], "big", signed=True)
    if not (1 <= len(parts[0][1]) <= 4 and 0 <= number <= _LARGEST_ID):
        raise _Malformed("the number of a message is none")
    return number, *parts[1], parts[2][1] if len(parts) > 2 else b""


def _has_critical(controls: bytes) -> bool:
    """
    Whether there is a control that may not be passed over: RFC 4511, section 4.1.11.

    @raise _Malformed: they are none.
    """
    return any(
        part[0] == _BOOLEAN and part[1] != b"\0"
        for _, control in _elements(controls)
        for part in _elements(control)
    )


class _Messages(Dialogue):
    def _take(self) -> bytes | None:
        buffer = self._buffer
        if not buffer:
            return None
        if buffer[0] != _SEQUENCE:
            raise self._error(f"the {self._PEER} sent what is no message of LDAP")
        try:
            head = _head(buffer, 0)
        except _Malformed as error:
            raise self._broken(error) from None
        if head is None:
            return None
        _, begin, size = head
        if begin + size > _LONGEST:
            raise self._error(f"the {self._PEER} sent a message of more than {_LONGEST} bytes")
        if len(buffer) < begin + size:
            return None
        unit = bytes(buffer[: begin + size])
        del buffer[: begin + size]
        return unit

    def _broken(self, error: _Malformed) -> Exception:
        return self._error(f"the {self._PEER} sent a message that cannot be read: {error}")


class LDAPServer(_Messages, ServerDialogue):
    """
    Ends TLS for a server of LDAP.
    """

    def _take(self) -> bytes | None:
        self._check_no_tls()
        return super()._take()

    def _answer(self, unit: bytes) -> bytes:
        self._spend()
        try:
            return self._request(*_read(unit))
        except _Malformed as error:
            raise self._broken(error) from None

    def _request(self, number: int, tag: int, content: bytes, controls: bytes) -> bytes:
        if number == 0:
            raise _Malformed("a request has the number 0")
        if tag == _UNBIND:
            self.state = DialogueState.CLOSED
            return b""
        if tag == _ABANDON:  # it has no answer, and all others have had theirs
            return b""
        answer = _ANSWERS.get(tag)
        if answer is None:
            raise _Malformed("there is no such request")
        if tag == _EXTENDED_REQUEST:
            parts = _elements(content)
            if not parts or parts[0][0] != _REQUEST_NAME:
                raise _Malformed("an extended request has no name")
            if parts[0][1] == _START_TLS:
                return self._start_tls(number, len(parts) > 1, controls)
        return _result(
            number, answer, _Code.CONFIDENTIALITY_REQUIRED, b"TLS is required: send StartTLS first"
        )

    def _start_tls(self, number: int, has_value: bool, controls: bytes) -> bytes:
        code = _Code.SUCCESS
        if has_value:  # RFC 4511, section 4.14.1
            code = _Code.PROTOCOL_ERROR
        elif _has_critical(controls):
            code = _Code.UNAVAILABLE_CRITICAL_EXTENSION
        else:
            self.state = DialogueState.TLS_NEXT
        return _result(number, _EXTENDED_RESPONSE, code, name=_START_TLS)

    def _farewell(self) -> bytes:
        # RFC 4511, section 4.4.1.
        return _result(
            0, _EXTENDED_RESPONSE, _Code.PROTOCOL_ERROR, b"", name=_NOTICE_OF_DISCONNECTION
        )


class LDAPClient(_Messages, ClientDialogue):
    """
    Asks a server of LDAP for TLS, by message 1.
    """

    def start(self) -> bytes:
        return _message(1, _element(_EXTENDED_REQUEST, _element(_REQUEST_NAME, _START_TLS)))

    def _answer(self, unit: bytes) -> bytes:
        try:
            number, tag, content, _ = _read(unit)
            parts = _elements(content)
        except _Malformed as error:
            raise self._broken(error) from None
        if tag != _EXTENDED_RESPONSE or [each for each, _ in parts[:3]] != [
            _ENUMERATED,
            _OCTETS,
            _OCTETS,
        ]:
            raise self._error("the server's answer is no extended response")
        if len(parts[0][1]) != 1:
            raise self._error("the server's answer has no result code")
        code = parts[0][1][0]
        names = [value for each, value in parts[3:] if each == _RESPONSE_NAME]
        told = f"result code {code}, {quoted(parts[2][1])}"
        if number == 0:
            raise self._refused(f"ends the connection: {told}")
        if number != 1 or names not in ([], [_START_TLS]):
            raise self._error("the server's answer is one to something else")
        if code != _Code.SUCCESS:
            raise self._refused(f"refuses to begin TLS: {told}")
        self.state = DialogueState.TLS_NEXT
        return b""
