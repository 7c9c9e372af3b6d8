"""
TLS records made by hand, for what no OpenSSL sends: its peer's key updates, and things that are
against the rules.

The keys are derived from what an OpenSSL connection at one end gives away: in TLS 1.3 from its key
log (RFC 8446, section 7), in TLS 1.2 from its master secret (RFC 5246, section 6.3).  The ciphers
are AES-GCM: RFC 8446, section 5.2, and RFC 5288.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from OpenSSL import SSL

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
KEY_UPDATE = b"\x18\x00\x00\x01"


def message(kind: int, body: bytes) -> bytes:
    """A handshake message: RFC 8446, section 4."""
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def record(kind: int, content: bytes, version: int = 0x0303) -> bytes:
    """A record in the clear: RFC 8446, section 5.1."""
    return bytes([kind]) + version.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content


def split(flight: bytes) -> Iterator[bytes]:
    """The records of a flight; a last one cut short as it is."""
    while flight:
        size = 5 + int.from_bytes(flight[3:5], "big")
        yield flight[:size]
        flight = flight[size:]


class KeyLog:
    """
    The secrets of all TLS 1.3 connections of a context.

    @ivar secrets: by the client's random and the label.
    """

    def __init__(self, context: SSL.Context) -> None:
        self.secrets: dict[tuple[bytes, str], bytes] = {}
        context.set_keylog_callback(self._line)

    def _line(self, connection: SSL.Connection, line: bytes) -> None:
        label, random, secret = line.decode("ascii").split()
        self.secrets[bytes.fromhex(random), label] = bytes.fromhex(secret)

    def secret(self, connection: SSL.Connection, label: str) -> bytes:
        random = connection.client_random()
        assert random is not None
        return self.secrets[random, label]

    def traffic(self, connection: SSL.Connection, from_client: bool) -> Records13:
        """The records of one direction once the handshake is done."""
        label = "CLIENT_TRAFFIC_SECRET_0" if from_client else "SERVER_TRAFFIC_SECRET_0"
        return Records13(self.secret(connection, label))

    def handshake(self, connection: SSL.Connection, from_client: bool) -> Records13:
        """The encrypted records of one direction's handshake."""
        side = "CLIENT" if from_client else "SERVER"
        return Records13(self.secret(connection, f"{side}_HANDSHAKE_TRAFFIC_SECRET"))


class Records13:
    """
    One direction of a TLS 1.3 connection.

    @ivar sequence: the number of the next record.
    """

    def __init__(self, secret: bytes) -> None:
        self._hash = "sha384" if len(secret) == 48 else "sha256"
        self._use(secret)

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        # AES-256-GCM goes with SHA-384, and AES-128-GCM with SHA-256.
        key = self._expand("key", 32 if self._hash == "sha384" else 16)
        self._cipher = AESGCM(key)
        self._iv = int.from_bytes(self._expand("iv", 12), "big")
        self.sequence = 0

    def _expand(self, label: str, size: int) -> bytes:
        """HKDF-Expand-Label with no context: RFC 8446, section 7.1.  One block is enough here."""
        name = b"tls13 " + label.encode("ascii")
        info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
        return hmac.digest(self._secret, info + b"\1", self._hash)[:size]

    def update(self) -> None:
        """Go on with the next secret: RFC 8446, section 7.2."""
        self._use(self._expand("traffic upd", len(self._secret)))

    def _nonce(self) -> bytes:
        nonce = (self._iv ^ self.sequence).to_bytes(12, "big")
        self.sequence += 1
        return nonce

    def seal(self, kind: int, content: bytes, padding: int = 0) -> bytes:
        """An encrypted record."""
        inner = content + bytes([kind]) + bytes(padding)
        header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        return header + self._cipher.encrypt(self._nonce(), inner, header)

    def open(self, sealed: bytes) -> tuple[int, bytes]:
        """
        The kind and the content of an encrypted record.

        @raise InvalidTag: it is not the next of this direction.
        """
        inner = self._cipher.decrypt(self._nonce(), sealed[5:], sealed[:5]).rstrip(b"\0")
        return inner[-1], inner[:-1]

    def skip(self, flight: bytes) -> None:
        """Count those records of a flight that are under these keys."""
        for each in split(flight):
            try:
                self.open(each)
            except InvalidTag:
                self.sequence -= 1


class Records12:
    """One direction of a TLS 1.2 connection; the first record of it was the finished message."""

    def __init__(self, connection: SSL.Connection, from_client: bool) -> None:
        master = connection.master_key()
        client, server = connection.client_random(), connection.server_random()
        name = connection.get_cipher_name()
        assert master and client and server and name
        size, hash = (32, "sha384") if "AES256" in name else (16, "sha256")
        block = _prf(master, b"key expansion" + server + client, 2 * size + 8, hash)
        key, iv = (0, 2 * size) if from_client else (size, 2 * size + 4)
        self._cipher = AESGCM(block[key : key + size])
        self._iv = block[iv : iv + 4]
        self.sequence = 1

    def seal(self, kind: int, content: bytes) -> bytes:
        """An encrypted record."""
        explicit = self.sequence.to_bytes(8, "big")
        head = bytes([kind]) + b"\x03\x03"
        data = explicit + head + len(content).to_bytes(2, "big")
        self.sequence += 1
        sealed = explicit + self._cipher.encrypt(self._iv + explicit, content, data)
        return head + len(sealed).to_bytes(2, "big") + sealed


def _prf(secret: bytes, seed: bytes, size: int, hash: str) -> bytes:
    """RFC 5246, section 5."""
    made, link = b"", seed
    while len(made) < size:
        link = hmac.digest(secret, link, hash)
        made += hmac.digest(secret, link + seed, hash)
    return made[:size]


Change = Callable[[int, bytes], list[tuple[int, bytes]]]
"""Makes of a record's kind and content the kinds and contents of the records in its place."""


def rewrite(flight: bytes, opening: Records13, sealing: Records13, change: Change) -> bytes:
    """A TLS 1.3 flight with its encrypted records changed; the others stay."""
    rewritten = b""
    for each in split(flight):
        if each[0] == APPLICATION_DATA:
            for kind, content in change(*opening.open(each)):
                rewritten += sealing.seal(kind, content)
        else:
            rewritten += each
    return rewritten
