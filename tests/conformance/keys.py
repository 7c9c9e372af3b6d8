"""
Keys and records of a TLS client that may misbehave: whatever it is told to seal, it seals.

What is derived is derived by tlslite-ng; the ciphers are cryptography's, which are much faster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tlslite.constants import CipherSuite, GroupName
from tlslite.mathtls import PRF_1_2, PRF_1_2_SHA384
from tlslite.utils.cryptomath import HKDF_expand_label, secureHMAC

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
TLS12, TLS13 = 0x0303, 0x0304

X25519, P256, P384, P521 = (
    GroupName.x25519,
    GroupName.secp256r1,
    GroupName.secp384r1,
    GroupName.secp521r1,
)
HYBRID: int = GroupName.x25519mlkem768
"""X25519MLKEM768: draft-ietf-tls-ecdhe-mlkem."""


@attrs.frozen
class Suite:
    """
    A cipher suite.

    @ivar number: on the wire.
    @ivar hash: its hash, by hashlib's name.
    @ivar key_size: bytes of a key.
    @ivar aead: the cipher, of a key.
    """

    number: int
    hash: str
    key_size: int
    aead: Callable[[bytes], Any]

    @property
    def is_13(self) -> bool:
        return self.number >> 8 == 0x13

    def digest(self, data: bytes) -> bytes:
        return hashlib.new(self.hash, data).digest()

    def hmac(self, key: bytes, data: bytes) -> bytes:
        return bytes(secureHMAC(key, data, self.hash))

    @property
    def size(self) -> int:
        """Bytes of its hash."""
        return 48 if self.hash == "sha384" else 32

    def expand(self, secret: bytes, label: str, context: bytes, size: int | None = None) -> bytes:
        """HKDF-Expand-Label: RFC 8446, section 7.1."""
        name = bytearray(label.encode("ascii"))
        length = self.size if size is None else size
        return bytes(HKDF_expand_label(bytearray(secret), name, context, length, self.hash))

    def derive(self, secret: bytes, label: str, transcript: bytes) -> bytes:
        """Derive-Secret: RFC 8446, section 7.1."""
        return self.expand(secret, label, self.digest(transcript))

    def finished(self, secret: bytes, transcript: bytes) -> bytes:
        """The content of a finished message of TLS 1.3: RFC 8446, section 4.4.4."""
        return self.hmac(self.expand(secret, "finished", b""), self.digest(transcript))

    def prf(self, secret: bytes, label: bytes, seed: bytes, size: int) -> bytes:
        """RFC 5246, section 5."""
        prf = PRF_1_2_SHA384 if self.hash == "sha384" else PRF_1_2
        return bytes(prf(bytearray(secret), label, bytearray(seed), size))


_AES_128, _AES_256 = ("sha256", 16, AESGCM), ("sha384", 32, AESGCM)
_CHACHA = ("sha256", 32, ChaCha20Poly1305)

SUITES = {
    number: Suite(number, *how)
    for numbers, how in (
        (
            (
                CipherSuite.TLS_AES_128_GCM_SHA256,
                CipherSuite.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                CipherSuite.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            ),
            _AES_128,
        ),
        (
            (
                CipherSuite.TLS_AES_256_GCM_SHA384,
                CipherSuite.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                CipherSuite.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            ),
            _AES_256,
        ),
        (
            (
                CipherSuite.TLS_CHACHA20_POLY1305_SHA256,
                CipherSuite.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                CipherSuite.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ),
            _CHACHA,
        ),
    )
    for number in numbers
}
"""By number: all of the policies, and no other."""


class BadRecord(Exception):
    """A record of the server's could not be decrypted."""


class Direction:
    """
    The protection of records of one direction of a connection.

    @ivar secret: what the keys of TLS 1.3 come from.
    @ivar sequence: the number of the next record.
    """

    def __init__(
        self, suite: Suite, secret: bytes = b"", key: bytes = b"", iv: bytes = b""
    ) -> None:
        """
        @param secret: of TLS 1.3; else a key and the part of the nonces that is kept (RFC 5288,
            section 3; RFC 7905, section 2).
        """
        self.suite = suite
        self._use(secret or key, iv)

    def _use(self, secret: bytes, iv: bytes) -> None:
        suite = self.suite
        self.secret = secret
        if suite.is_13:
            iv = suite.expand(secret, "iv", b"", 12)
            secret = suite.expand(secret, "key", b"", suite.key_size)
        self._cipher = suite.aead(secret)
        self._iv = iv
        self.sequence = 0

    def update(self) -> None:
        """Go on with the next secret: RFC 8446, section 7.2."""
        self._use(self.suite.expand(self.secret, "traffic upd", b""), b"")

    def seal(
        self,
        kind: int,
        content: bytes,
        *,
        padding: int = 0,
        outer: int = APPLICATION_DATA,
        version: int = TLS12,
        inner: bytes | None = None,
    ) -> bytes:
        """
        A record.

        @param padding: zero bytes after the kind, in TLS 1.3.
        @param outer: what the record says that it is, in TLS 1.3.
        @param inner: the whole of what is encrypted, in TLS 1.3.
        """
        if not self.suite.is_13:
            return self._seal_12(kind, content, version)
        if inner is None:
            inner = content + bytes([kind]) + bytes(padding)
        header = bytes([outer]) + version.to_bytes(2, "big") + (len(inner) + 16).to_bytes(2, "big")
        return header + bytes(self._cipher.encrypt(self._nonce(), inner, header))

    def _nonce(self) -> bytes:
        nonce = int.from_bytes(self._iv, "big") ^ self.sequence
        self.sequence += 1
        return nonce.to_bytes(12, "big")

    def _nonce_12(self, explicit: bytes) -> bytes:
        if len(self._iv) == 12:
            return self._nonce()
        self.sequence += 1
        return self._iv + explicit

    def _seal_12(self, kind: int, content: bytes, version: int) -> bytes:
        number = self.sequence.to_bytes(8, "big")
        head = bytes([kind]) + version.to_bytes(2, "big")
        data = number + head + len(content).to_bytes(2, "big")
        explicit = b"" if len(self._iv) == 12 else number
        sealed = explicit + self._cipher.encrypt(self._nonce_12(explicit), content, data)
        return head + len(sealed).to_bytes(2, "big") + bytes(sealed)

    def open(self, header: bytes, body: bytes) -> tuple[int, bytes]:
        """
        The kind and the content of a record.

        @raise BadRecord: it is not the next of this direction.
        """
        try:
            if self.suite.is_13:
                inner = bytes(self._cipher.decrypt(self._nonce(), body, header)).rstrip(b"\0")
                return inner[-1], inner[:-1]
            explicit = b"" if len(self._iv) == 12 else body[:8]
            size = len(body) - len(explicit) - 16
            data = self.sequence.to_bytes(8, "big") + header[:3] + size.to_bytes(2, "big")
            content = self._cipher.decrypt(self._nonce_12(explicit), body[len(explicit) :], data)
            return header[0], bytes(content)
        except InvalidTag:
            raise BadRecord from None


@cache
def private_key(group: int) -> Any:
    """Our private key of a group, or what there is in place of one; always the same."""
    if group == X25519:
        return x25519.X25519PrivateKey.generate()
    if group == HYBRID:
        return mlkem.MLKEM768PrivateKey.generate()
    curves: dict[int, ec.EllipticCurve] = {
        P256: ec.SECP256R1(),
        P384: ec.SECP384R1(),
        P521: ec.SECP521R1(),
    }
    return ec.generate_private_key(curves[group])


def share(group: int, compressed: bool = False) -> bytes:
    """
    Our key share of a group: RFC 8446, section 4.2.8.2.

    @param compressed: write a point in the form that no TLS 1.3 has.
    """
    key = private_key(group).public_key()
    if group == HYBRID:
        return bytes(key.public_bytes_raw()) + share(X25519)
    if group == X25519:
        return bytes(key.public_bytes_raw())
    form = PublicFormat.CompressedPoint if compressed else PublicFormat.UncompressedPoint
    return bytes(key.public_bytes(Encoding.X962, form))


def agree(group: int, theirs: bytes) -> bytes:
    """What we and the owner of this share have in common."""
    if group == HYBRID:
        first: bytes = private_key(group).decapsulate(theirs[:-32])
        return first + agree(X25519, theirs[-32:])
    key = private_key(group)
    if group == X25519:
        return bytes(key.exchange(x25519.X25519PublicKey.from_public_bytes(theirs)))
    public = ec.EllipticCurvePublicKey.from_encoded_point(key.curve, theirs)
    return bytes(key.exchange(ec.ECDH(), public))
