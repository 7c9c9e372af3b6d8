"""Client hellos, good ones and others, and the parts that they are made of."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import attrs
from tlslite.constants import CipherSuite, ExtensionType, PskKeyExchangeMode, SignatureScheme
from tlslite.extensions import (
    ALPNExtension,
    ClientKeyShareExtension,
    ECPointFormatsExtension,
    KeyShareEntry,
    PskKeyExchangeModesExtension,
    SignatureAlgorithmsExtension,
    SNIExtension,
    SupportedGroupsExtension,
    SupportedVersionsExtension,
    TLSExtension,
)

from tests.conformance.keys import P256, P384, TLS12, TLS13, X25519, share
from tests.tls_material import HOST

SERVER_NAME: int = ExtensionType.server_name
GROUPS: int = ExtensionType.supported_groups
POINT_FORMATS: int = ExtensionType.ec_point_formats
SIGNATURES: int = ExtensionType.signature_algorithms
ALPN: int = ExtensionType.alpn
MASTER_SECRET: int = ExtensionType.extended_master_secret
TICKET: int = ExtensionType.session_ticket
PRE_SHARED_KEY: int = ExtensionType.pre_shared_key
EARLY_DATA: int = ExtensionType.early_data
VERSIONS: int = ExtensionType.supported_versions
COOKIE: int = ExtensionType.cookie
PSK_MODES: int = ExtensionType.psk_key_exchange_modes
KEY_SHARE: int = ExtensionType.key_share
RENEGOTIATION: int = ExtensionType.renegotiation_info
STATUS: int = ExtensionType.status_request
PADDING: int = ExtensionType.client_hello_padding

GREASE = 0x3A3A
"""RFC 8701, section 2: one of those that mean nothing."""

SUITES_13 = (
    CipherSuite.TLS_AES_128_GCM_SHA256,
    CipherSuite.TLS_AES_256_GCM_SHA384,
    CipherSuite.TLS_CHACHA20_POLY1305_SHA256,
)
SUITES_12 = (
    CipherSuite.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
)
FALLBACK, RENEGOTIATION_SIGNAL = 0x5600, 0x00FF
"""RFC 7507, section 2; RFC 5746, section 3.3."""

SIGNATURE_SCHEMES: tuple[tuple[int, int], ...] = (
    SignatureScheme.ecdsa_secp256r1_sha256,
    SignatureScheme.ecdsa_secp384r1_sha384,
    SignatureScheme.rsa_pss_rsae_sha256,
    SignatureScheme.rsa_pkcs1_sha256,
)


def vector(prefix: int, data: bytes) -> bytes:
    """Bytes with their length, in so many bytes, before them: RFC 8446, section 3.4."""
    return len(data).to_bytes(prefix, "big") + data


def numbers(*values: int) -> bytes:
    """Numbers of two bytes."""
    return b"".join(each.to_bytes(2, "big") for each in values)


def message(kind: int, body: bytes) -> bytes:
    """A message of a handshake: RFC 8446, section 4."""
    return bytes([kind]) + vector(3, body)


def _body(extension: TLSExtension) -> bytes:
    return bytes(extension.extData)


def server_name(name: bytes = HOST.encode("ascii"), kind: int = 0) -> bytes:
    """RFC 6066, section 3."""
    return _body(SNIExtension().create(serverNames=[SNIExtension.ServerName(kind, name)]))


def groups(*values: int) -> bytes:
    """RFC 8446, section 4.2.7."""
    return _body(SupportedGroupsExtension().create(values))


def signatures(*schemes: tuple[int, int]) -> bytes:
    """RFC 8446, section 4.2.3."""
    return _body(SignatureAlgorithmsExtension().create(schemes))


def versions(*values: int) -> bytes:
    """RFC 8446, section 4.2.1."""
    pairs = [divmod(each, 256) for each in values]
    return _body(SupportedVersionsExtension().create(pairs))


def alpn(*names: bytes) -> bytes:
    """RFC 7301, section 3.1."""
    return _body(ALPNExtension().create([bytearray(each) for each in names]))


def key_shares(*entries: int | tuple[int, bytes]) -> bytes:
    """
    RFC 8446, section 4.2.8.

    @param entries: groups, for our share of them; or such a share.
    """
    made = []
    for each in entries:
        group, exchange = each if isinstance(each, tuple) else (each, share(each))
        made.append(KeyShareEntry().create(group, bytearray(exchange)))
    return _body(ClientKeyShareExtension().create(made))


def psk_modes(*modes: int) -> bytes:
    """RFC 8446, section 4.2.9."""
    return _body(PskKeyExchangeModesExtension().create(modes))


def point_formats(*formats: int) -> bytes:
    """RFC 8422, section 5.1.2."""
    return _body(ECPointFormatsExtension().create(formats))


@attrs.frozen
class Hello:
    """
    A client hello: RFC 8446, section 4.1.2.

    @ivar extensions: the number and the body of each, in their order.
    @ivar random: a new one with each writing, if it is empty.
    @ivar block: in place of all extensions, with their length.
    """

    extensions: tuple[tuple[int, bytes], ...]
    suites: bytes = numbers(*SUITES_13, *SUITES_12)
    session_id: bytes = b"\x05" * 32
    compressions: bytes = b"\0"
    version: int = TLS12
    random: bytes = b""
    block: bytes | None = None

    def plus(self, kind: int, body: bytes = b"") -> Hello:
        """With this extension, in the place of the one of this number if there is one."""
        if kind in dict(self.extensions):
            changed = [(each, body if each == kind else old) for each, old in self.extensions]
            return attrs.evolve(self, extensions=tuple(changed))
        return attrs.evolve(self, extensions=(*self.extensions, (kind, body)))

    def less(self, *kinds: int) -> Hello:
        """Without these extensions."""
        left = tuple(each for each in self.extensions if each[0] not in kinds)
        return attrs.evolve(self, extensions=left)

    def again(self, kind: int, body: bytes = b"") -> Hello:
        """With one more extension at its end, which it may have already."""
        return attrs.evolve(self, extensions=(*self.extensions, (kind, body)))

    def but(self, **changes: object) -> Hello:
        """With other fields."""
        return attrs.evolve(self, **changes)  # type: ignore[arg-type]

    def offers(self, *suites: int) -> Hello:
        """With other cipher suites."""
        return attrs.evolve(self, suites=numbers(*suites))

    @property
    def extension_bytes(self) -> bytes:
        """The extensions, without the length of all of them."""
        return b"".join(kind.to_bytes(2, "big") + vector(2, body) for kind, body in self.extensions)

    def body(self) -> bytes:
        """The message without its header."""
        block = vector(2, self.extension_bytes) if self.block is None else self.block
        return (
            self.version.to_bytes(2, "big")
            + (self.random or os.urandom(32))
            + vector(1, self.session_id)
            + vector(2, self.suites)
            + vector(1, self.compressions)
            + block
        )

    def write(self) -> bytes:
        """The message."""
        return message(1, self.body())


def hello(
    *,
    name: bytes = HOST.encode("ascii"),
    offered: Sequence[int] = (TLS13, TLS12),
    among: Sequence[int] = (X25519, P256, P384),
    shares: Iterable[int | tuple[int, bytes]] = (X25519,),
    protocols: Sequence[bytes] = (b"http/1.1",),
) -> Hello:
    """What a browser of today says, more or less."""
    return Hello(
        (
            (SERVER_NAME, server_name(name)),
            (MASTER_SECRET, b""),
            (RENEGOTIATION, b"\0"),
            (GROUPS, groups(*among)),
            (POINT_FORMATS, point_formats(0)),
            (TICKET, b""),
            (ALPN, alpn(*protocols)),
            (SIGNATURES, signatures(*SIGNATURE_SCHEMES)),
            (KEY_SHARE, key_shares(*shares)),
            (PSK_MODES, psk_modes(PskKeyExchangeMode.psk_dhe_ke)),
            (VERSIONS, versions(*offered)),
        )
    )


MODERN = hello()
"""A client of TLS 1.3, which would speak TLS 1.2."""

ONLY_13 = hello(offered=[TLS13]).offers(*SUITES_13)
"""A client of TLS 1.3 alone."""

OLDER = MODERN.less(KEY_SHARE, PSK_MODES, VERSIONS).offers(*SUITES_12).but(session_id=b"")
"""A client that knows nothing newer than TLS 1.2."""

P384_ONLY = hello(among=[P384], shares=[P384])
"""A client that knows one group, which is nobody's first."""
