"""
Values that only those can read who have a passphrase, for a store that others can look into.

The key is made of the passphrase by scrypt (RFC 7914), once: that takes 64 MiB and a few tenths of
a second, and so does each guess of somebody who has stolen the store.  The salt is made of the
store's name, so that all who share a store come to the same key without asking it; guesses can be
prepared for a store whose name is known, which is one reason more for a passphrase that nobody
guesses: C{openssl rand -base64 32} makes one.

A value is encrypted with AES-256-GCM (NIST SP 800-38D) under a random nonce, and the name that it
has goes into the tag: moved to another name, it does not open.  An older value of the same name
does: nothing here knows which is the newest.
"""

from __future__ import annotations

import secrets
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ..errors import ConfigurationError

__all__ = ["OVERHEAD", "Seal", "SealBroken"]

_FORMAT = b"\x01"  # what follows: the nonce, the ciphertext, the tag
_NONCE_LENGTH = 12  # bytes: SP 800-38D, section 8.2
_TAG_LENGTH = 16

OVERHEAD = len(_FORMAT) + _NONCE_LENGTH + _TAG_LENGTH
"""How many bytes a sealed value is longer."""

# RFC 7914, section 2: 128 * r * N bytes of memory.
_COST = 2**16
_BLOCK_SIZE = 8


class SealBroken(ConfigurationError):
    """
    A sealed value cannot be opened.
    """


class Seal:
    """
    Encrypts values, and opens what was encrypted with the same passphrase for the same store.
    """

    def __init__(self, passphrase: bytes, store: str) -> None:
        """
        @param passphrase: all who share the store have the same.
        @param store: the store's name, by which the salt is made.
        @raise ConfigurationError: the passphrase is empty.
        """
        if not passphrase:
            raise ConfigurationError(f"the passphrase for the store {store} is empty")
        salt = sha256(b"twisted_bioconn store\0" + store.encode("utf-8")).digest()
        key = Scrypt(salt=salt, length=32, n=_COST, r=_BLOCK_SIZE, p=1).derive(passphrase)
        self._cipher = AESGCM(key)

    def seal(self, name: str, value: bytes) -> bytes:
        """Encrypt the value of a name."""
        nonce = secrets.token_bytes(_NONCE_LENGTH)
        return _FORMAT + nonce + self._cipher.encrypt(nonce, value, _bound(name))

    def open(self, name: str, sealed: bytes) -> bytes:
        """
        Decrypt the value of a name.

        @raise SealBroken: it was sealed with another passphrase, for another store or name, or in a
            way that is not known here, or it is damaged.
        """
        if not sealed.startswith(_FORMAT):
            raise SealBroken(
                f"the value of {name} cannot be opened: it is damaged, or was sealed in a way that"
                " this version does not know"
            )
        nonce = sealed[len(_FORMAT) : len(_FORMAT) + _NONCE_LENGTH]
        ciphertext = sealed[len(_FORMAT) + _NONCE_LENGTH :]
        if len(ciphertext) >= _TAG_LENGTH:
            try:
                return self._cipher.decrypt(nonce, ciphertext, _bound(name))
            except InvalidTag:
                pass
        raise SealBroken(
            f"the value of {name} cannot be opened: the passphrase is not the one that it was"
            " sealed with, or it is damaged"
        )


def _bound(name: str) -> bytes:
    """
    What a value is bound to: it must be the same when it is opened.
    """
    return _FORMAT + name.encode("utf-8")
