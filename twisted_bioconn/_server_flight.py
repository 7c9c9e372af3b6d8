"""What the first flight of a server, which is in the clear, says of the session."""

from __future__ import annotations


def resumes_session(flight: bytes) -> bool:
    """
    Whether this is a server's flight, and resumes a session: in TLS 1.3 the server hello has the
    extension pre_shared_key (RFC 8446, section 4.2.11); in TLS 1.2 nothing comes after it in the
    clear but perhaps a new ticket (RFC 5246, section 7.3; RFC 5077, section 3.1).
    """
    kinds: set[int] = set()
    for kind, body in _messages(flight):
        kinds.add(kind)
        if kind == 2:
            extensions = _server_hello_extensions(body)
            # 43 is supported_versions: this is TLS 1.3; 41 is pre_shared_key.
            if 43 in extensions and body[2:34] != _RETRY_RANDOM:
                return 41 in extensions
    return kinds in ({2}, {2, 4})


def _messages(flight: bytes) -> list[tuple[int, bytes]]:
    """The kind and the body of each handshake message in the clear; the last may be cut short."""
    messages = bytearray()
    at = 0
    while (kind := flight[at : at + 1]) in (b"\x14", b"\x15", b"\x16"):
        size = int.from_bytes(flight[at + 3 : at + 5], "big")
        if kind == b"\x16":
            messages += flight[at + 5 : at + 5 + size]
        elif kind == b"\x14" and messages[6:38] != _RETRY_RANDOM:
            # From here on it is encrypted.  But in TLS 1.3 a change_cipher_spec means nothing
            # (RFC 8446, appendix D.4), and a second hello may follow it.
            break
        at += 5 + size
    found = []
    at = 0
    while at + 4 <= len(messages):
        end = at + 4 + int.from_bytes(messages[at + 1 : at + 4], "big")
        found.append((messages[at], bytes(messages[at + 4 : end])))
        at = end
    return found


_RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""By this random a server hello is a HelloRetryRequest: RFC 8446, section 4.1.3."""


def _server_hello_extensions(body: bytes) -> set[int]:
    """The numbers of the extensions in a server hello: RFC 8446, section 4.1.3."""
    at = 2 + 32
    at += 1 + (body[at] if at < len(body) else 0)
    at += 2 + 1  # the cipher suite and the compression method
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    at += 2
    found = set()
    while at + 4 <= min(end, len(body)):
        found.add(int.from_bytes(body[at : at + 2], "big"))
        at += 4 + int.from_bytes(body[at + 2 : at + 4], "big")
    return found
