"""
What clients send and what they wait for.

The back end is nginx, an echo, or a sink that counts.  Requests of nginx have 200 bytes, head and
all; its answers have 200 bytes of body or 1 MiB.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
from contextlib import suppress

MEBIBYTE = 1 << 20
SMALL = b"." * 200
"""A small answer's body, and a message to an echo."""

BIG_NAME = "1m"
ENDLESS_NAME = "big"
ENDLESS_SIZE = 1 << 30
"""Bytes of the file that a slow reader never reads to its end."""

Address = tuple[str, int]

_GROUPS = {
    0x0017: "secp256r1",
    0x0018: "secp384r1",
    0x001D: "x25519",
    0x001E: "x448",
    0x11EC: "X25519MLKEM768",
}
"""Numbers of the TLS registry of supported groups."""

_CHANGE_CIPHER_SPEC, _HANDSHAKE = 20, 22
_SERVER_HELLO = 2
_KEY_SHARE = 51


def request(path: str, last: bool = False, body: int = 0) -> bytes:
    """
    The head of a request, 200 bytes long.

    @param last: whether the server is to close after it.
    @param body: the bytes that will follow.
    """
    lines = [f"{'POST' if body else 'GET'} /{path} HTTP/1.1", "Host: localhost"]
    if last:
        lines.append("Connection: close")
    if body:
        lines.append(f"Content-Length: {body}")
    head = "\r\n".join([*lines, "X-Padding: "])
    return (head + "." * (200 - len(head) - 4) + "\r\n\r\n").encode("ascii")


def client_context(group: str | None = None) -> ssl.SSLContext:
    """
    A client's context: TLS 1.3, and any certificate, since the load's own work is not the point.

    @param group: the only group to offer; L{None} for OpenSSL's own list.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if group is not None:
        context.set_ecdh_curve(group)
    return context


def connect(
    address: Address, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    """Connect, and do the handshake."""
    plain = socket.create_connection(address)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname="localhost", session=session)


def take(connection: ssl.SSLSocket, missing: int, buffer: bytearray) -> None:
    """
    Read this number of bytes.

    @raise ConnectionError: they do not come.
    """
    while missing:
        taken = connection.recv_into(buffer)
        if not taken:
            raise ConnectionError(f"the connection ended {missing} bytes early")
        missing -= taken


def answer_length(connection: ssl.SSLSocket, question: bytes) -> int:
    """
    Ask once and read the answer.

    @return: how long an answer to this question is, head and all.
    """
    connection.sendall(question)
    said = b""
    while b"\r\n\r\n" not in said:
        more = connection.recv(1 << 16)
        if not more:
            raise ConnectionError("the connection ended before the answer's head did")
        said += more
    length = complete_length(said)
    take(connection, length - len(said), bytearray(1 << 16))
    return length


def complete_length(said: bytes) -> int:
    """
    The length of an answer, of which the head is there.

    @raise ConnectionError: it is not the answer to expect.
    """
    head = said[: said.index(b"\r\n\r\n") + 4]
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if not head.startswith(b"HTTP/1.1 200 ") or length is None:
        raise ConnectionError(f"the back end says {head[:80]!r}")
    return len(head) + int(length[1])


def close(connection: ssl.SSLSocket) -> None:
    """
    Close as clients do whose server has closed: answer its close_notify.
    """
    with suppress(OSError):
        connection.unwrap()
    connection.close()


def reset(connection: socket.socket) -> None:
    """Drop a connection at once, and leave no port waiting."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def negotiated(address: Address, context: ssl.SSLContext) -> dict[str, str]:
    """
    What a server chooses out of what this client offers.

    Python's ssl does not tell the group, so the ServerHello is read here: RFC 8446, section 4.1.3.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    end = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    seen = b""
    with socket.create_connection(address, 10.0) as plain:
        while True:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                plain.sendall(outgoing.read())
                data = plain.recv(1 << 16)
                if not data:
                    raise ConnectionError("the server closed in mid-handshake") from None
                seen += data
                incoming.write(data)
            else:
                plain.sendall(outgoing.read())
                break
    cipher = end.cipher()
    return {
        "version": end.version() or "unknown",
        "cipher": cipher[0] if cipher else "unknown",
        "group": group_of(seen),
    }


def group_of(flight: bytes) -> str:
    """
    The group in the last ServerHello of what a server has sent.
    """
    group = "unknown"
    while len(flight) >= 5 and flight[0] in (_CHANGE_CIPHER_SPEC, _HANDSHAKE):
        end = 5 + int.from_bytes(flight[3:5], "big")
        record, flight = flight[5:end], flight[end:]
        if len(record) > 40 and record[0] == _SERVER_HELLO:
            # Header, version and random; the session id; cipher suite and compression.
            at = 4 + 2 + 32
            at += 1 + record[at] + 3 + 2
            while at + 4 <= len(record):
                kind, length = struct.unpack_from(">HH", record, at)
                if kind == _KEY_SHARE:
                    number = int.from_bytes(record[at + 4 : at + 6], "big")
                    group = _GROUPS.get(number, f"0x{number:04x}")
                at += 4 + length
    return group
