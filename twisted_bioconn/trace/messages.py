"""
What is in a handshake message.

Whatever is not as it should be is said, and the rest read on: OpenSSL is the judge of it.  What a
peer has written is cut to a length that can be looked at, and has nothing in it that a terminal
would obey.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from contextlib import suppress

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from .._agreement import cipher_name, group_name, signature_name, version_name
from .._transport import one_line
from ..verify import Pin
from .events import Fields

__all__ = [
    "CERTIFICATE",
    "CLIENT_HELLO",
    "HELLO_RETRY_RANDOM",
    "MESSAGES",
    "SERVER_HELLO",
    "certificate_fields",
    "decoded",
    "is_hello_retry",
    "message_name",
    "selected_version",
]

CLIENT_HELLO, SERVER_HELLO, CERTIFICATE = 1, 2, 11

MESSAGES = {
    0: "HelloRequest",
    CLIENT_HELLO: "ClientHello",
    SERVER_HELLO: "ServerHello",
    4: "NewSessionTicket",
    5: "EndOfEarlyData",
    8: "EncryptedExtensions",
    CERTIFICATE: "Certificate",
    12: "ServerKeyExchange",
    13: "CertificateRequest",
    14: "ServerHelloDone",
    15: "CertificateVerify",
    16: "ClientKeyExchange",
    20: "Finished",
    21: "CertificateURL",
    22: "CertificateStatus",
    23: "SupplementalData",
    24: "KeyUpdate",
    25: "CompressedCertificate",
    254: "MessageHash",
}
"""Handshake messages by the numbers of IANA's registry of TLS HandshakeTypes."""

_EXTENSIONS = {
    0: "server_name",
    1: "max_fragment_length",
    5: "status_request",
    10: "supported_groups",
    11: "ec_point_formats",
    13: "signature_algorithms",
    14: "use_srtp",
    15: "heartbeat",
    16: "application_layer_protocol_negotiation",
    18: "signed_certificate_timestamp",
    19: "client_certificate_type",
    20: "server_certificate_type",
    21: "padding",
    22: "encrypt_then_mac",
    23: "extended_master_secret",
    27: "compress_certificate",
    28: "record_size_limit",
    34: "delegated_credential",
    35: "session_ticket",
    41: "pre_shared_key",
    42: "early_data",
    43: "supported_versions",
    44: "cookie",
    45: "psk_key_exchange_modes",
    47: "certificate_authorities",
    48: "oid_filters",
    49: "post_handshake_auth",
    50: "signature_algorithms_cert",
    51: "key_share",
    57: "quic_transport_parameters",
    17513: "application_settings",
    17613: "application_settings",
    65037: "encrypted_client_hello",
    65281: "renegotiation_info",
}
"""Extensions by the numbers of IANA's registry of TLS ExtensionType Values."""

HELLO_RETRY_RANDOM = bytes.fromhex(
    "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"
)
"""What a hello retry request has where a server hello has random bytes: RFC 8446, section 4.1.3."""

_TLS13 = 0x0304
_GREASE = frozenset(range(0x0A0A, 0x10000, 0x1010))

MOST = 100
"""Names that are listed of what a message has many of."""

LONGEST = 300
"""Characters of a text that somebody else has written."""

MOST_CERTIFICATES = 12
"""Certificates of a chain that are read."""

_Field = tuple[str, object]


class _Short(Exception):
    """There is less than it says there is."""


class _Reader:
    """Takes a message to pieces."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __len__(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > len(self):
            raise _Short
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self, size: int) -> bytes:
        """What has its length before it, in so many bytes."""
        return self.take(self.number(size))

    def rest(self) -> bytes:
        return self.take(len(self))


def is_hello_retry(number: int, body: bytes) -> bool:
    """Whether a server hello asks for another client hello."""
    return number == SERVER_HELLO and body[2:34] == HELLO_RETRY_RANDOM


def message_name(number: int, body: bytes) -> str:
    """What a message is called."""
    if is_hello_retry(number, body):
        return "HelloRetryRequest"
    return MESSAGES.get(number, f"message {number}")


def selected_version(body: bytes) -> int:
    """The version that a server hello has chosen; 0 where it cannot be read."""
    with suppress(_Short):
        reader = _Reader(body)
        version = reader.number(2)
        reader.take(32)
        reader.sized(1)
        reader.take(3)
        if len(reader):
            for number, data in _extensions(reader.sized(2)):
                if number == 43 and len(data) == 2:
                    return int.from_bytes(data, "big")
        return version
    return 0


def decoded(number: int, body: bytes, is_13: bool) -> Fields:
    """
    What is in a message.

    @param number: of its type.
    @param body: what comes after its header of four bytes.
    @param is_13: whether TLS 1.3 was agreed on.
    """
    fields: list[_Field] = []
    read = _READERS.get(number)
    if read is not None:
        try:
            read(_Reader(body), fields, is_13)
        except (_Short, ValueError):
            fields.append(("malformed", "it is shorter than it says, or ends in the wrong place"))
    return tuple(fields)


# How what is in it is written


def _text(data: bytes) -> str:
    return _cut(one_line(data.decode("utf-8", "backslashreplace")))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _listed(names: Iterable[str], total: int | None = None) -> tuple[str, ...]:
    found = tuple(names)
    count = len(found) if total is None else total
    more = (f"… and {count - MOST} more",) if count > MOST else ()
    return found[:MOST] + more


def _numbers(data: bytes, name: Callable[[int], str]) -> tuple[str, ...]:
    if len(data) % 2:
        raise _Short
    found = [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
    return _listed(
        [_named(number, name) for number in found[: MOST + 1]],
        len(found),
    )


def _named(number: int, name: Callable[[int], str]) -> str:
    return f"GREASE ({number:#06x})" if number in _GREASE else name(number)


def _extensions(data: bytes) -> list[tuple[int, bytes]]:
    reader, found = _Reader(data), []
    while len(reader):
        found.append((reader.number(2), reader.sized(2)))
    return found


def extension_name(number: int) -> str:
    """An extension, by IANA's name."""
    return _named(number, lambda each: _EXTENSIONS.get(each, f"extension {each}"))


def _read_extensions(data: bytes, fields: list[_Field], of_client: bool) -> None:
    found = _extensions(data)
    for number, body in found:
        read = _OF_EXTENSION.get(number)
        if read is not None:
            try:
                read(_Reader(body), fields, of_client)
            except (_Short, ValueError):
                fields.append((extension_name(number), "malformed"))
    names = _listed((extension_name(number) for number, _ in found[: MOST + 1]), len(found))
    fields.append(("extensions", names))


def _server_name(reader: _Reader, fields: list[_Field], of_client: bool) -> None:
    if not len(reader):
        fields.append(("server name", "taken"))
        return
    names = _Reader(reader.sized(2))
    kind, name = names.number(1), names.sized(2)
    fields.append(("server name", _text(name) if not kind else f"of kind {kind}"))


def _alpn(reader: _Reader, fields: list[_Field], of_client: bool) -> None:
    names, found = _Reader(reader.sized(2)), []
    while len(names):
        found.append(_text(names.sized(1)))
    fields.append(("ALPN", _listed(found) if of_client else found[0] if found else ""))


def _versions(reader: _Reader, fields: list[_Field], of_client: bool) -> None:
    if of_client:
        fields.append(("versions", _numbers(reader.sized(1), version_name)))
    else:
        fields.append(("version", version_name(reader.number(2))))


def _groups(reader: _Reader, fields: list[_Field], of_client: bool) -> None:
    fields.append(("groups", _numbers(reader.sized(2), group_name)))


def _signatures(reader: _Reader, fields: list[_Field], of_client: bool) -> None:
    fields.append(("signature algorithms", _numbers(reader.sized(2), signature_name)))


def _signatures_cert(reader: _Reader, fields: list[_Field], of_client: bool) -> None:
    names = _numbers(reader.sized(2), signature_name)
    fields.append(("signature algorithms in certificates", names))


def _key_share(reader: _Reader, fields: list[_Field], of_client: bool) -> None:
    if of_client:
        shares, found = _Reader(reader.sized(2)), []
        while len(shares):
            group = _named(shares.number(2), group_name)
            found.append(f"{group} ({len(shares.sized(2))} bytes)")
        fields.append(("key shares", _listed(found) or ("none",)))
        return
    group = group_name(reader.number(2))
    if len(reader):
        fields.append(("key share", f"{group} ({len(reader.sized(2))} bytes)"))
    else:
        fields.append(("group asked for", group))


def _ticket(reader: _Reader, fields: list[_Field], of_client: bool) -> None:
    if len(reader):
        fields.append(("session ticket", f"{len(reader)} bytes"))


def _pre_shared_key(reader: _Reader, fields: list[_Field], of_client: bool) -> None:
    if not of_client:
        fields.append(("resumes", f"offer {reader.number(2) + 1}"))
        return
    offers, found = _Reader(reader.sized(2)), []
    while len(offers):
        found.append(f"a ticket of {len(offers.sized(2))} bytes")
        offers.take(4)
    fields.append(("resumption", _listed(found)))


def _early_data(reader: _Reader, fields: list[_Field], of_client: bool) -> None:
    fields.append(("early data", f"{reader.number(4)} bytes" if len(reader) == 4 else "yes"))


def _authorities(reader: _Reader, fields: list[_Field], of_client: bool) -> None:
    _read_authorities(reader.sized(2), fields)


def _read_authorities(data: bytes, fields: list[_Field]) -> None:
    names, found, total = _Reader(data), [], 0
    while len(names):
        name = names.sized(2)
        total += 1
        if total <= MOST:
            found.append(_distinguished_name(name))
    fields.append(("authorities", _listed([*found, *[""] * (total > MOST)], total) or ("any",)))


def _distinguished_name(der: bytes) -> str:
    # cryptography reads a name only as a part of something; the smallest such thing is a list of
    # revoked certificates with nothing on it (RFC 5280, section 5.1).
    listed = _der(0x30, _ECDSA_WITH_SHA256 + der + _SOME_TIME)
    try:
        crl = x509.load_der_x509_crl(_der(0x30, listed + _ECDSA_WITH_SHA256 + b"\x03\x01\x00"))
        return _cut(one_line(crl.issuer.rfc4514_string())) or "(empty)"
    except Exception:
        return f"a name of {len(der)} bytes that cannot be read"


_ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_SOME_TIME = b"\x17\x0d200101000000Z"


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def _cookie(reader: _Reader, fields: list[_Field], of_client: bool) -> None:
    fields.append(("cookie", f"{len(reader.sized(2))} bytes"))


def _status(reader: _Reader, fields: list[_Field], of_client: bool) -> None:
    fields.append(("status request", "OCSP" if of_client else "yes"))


def _extended_secret(reader: _Reader, fields: list[_Field], of_client: bool) -> None:
    fields.append(("extended master secret", "yes"))


def _modes(reader: _Reader, fields: list[_Field], of_client: bool) -> None:
    words = {0: "without a key exchange", 1: "with a key exchange"}
    modes = tuple(words.get(each, f"mode {each}") for each in reader.sized(1))
    fields.append(("resumption modes", _listed(modes)))


_OF_EXTENSION: dict[int, Callable[[_Reader, list[_Field], bool], None]] = {
    0: _server_name,
    5: _status,
    10: _groups,
    13: _signatures,
    16: _alpn,
    23: _extended_secret,
    35: _ticket,
    41: _pre_shared_key,
    42: _early_data,
    43: _versions,
    44: _cookie,
    45: _modes,
    47: _authorities,
    50: _signatures_cert,
    51: _key_share,
}


# The messages


def _client_hello(reader: _Reader, fields: list[_Field], is_13: bool) -> None:
    legacy = reader.number(2)
    reader.take(32)
    session = reader.sized(1)
    suites = reader.sized(2)
    reader.sized(1)
    found: list[_Field] = []
    if len(reader):
        _read_extensions(reader.sized(2), found, True)
    order = ("server name", "versions", "ALPN", "groups", "key shares")
    first = [each for name in order for each in found if each[0] == name]
    if "versions" not in dict(first):
        first.insert(0, ("version", version_name(legacy)))
    fields += first
    fields.append(("ciphers", _numbers(suites, cipher_name)))
    fields += [each for each in found if each not in first]
    if session:
        fields.append(("session id", f"{len(session)} bytes"))
    if len(reader):
        raise _Short


def _server_hello(reader: _Reader, fields: list[_Field], is_13: bool) -> None:
    legacy = reader.number(2)
    reader.take(32)
    session = reader.sized(1)
    cipher = cipher_name(reader.number(2))
    reader.take(1)
    found: list[_Field] = []
    if len(reader):
        _read_extensions(reader.sized(2), found, False)
    if "version" not in dict(found):
        fields.append(("version", version_name(legacy)))
    fields += [each for each in found if each[0] == "version"]
    fields.append(("cipher", cipher))
    fields += [each for each in found if each[0] != "version"]
    if session:
        fields.append(("session id", f"{len(session)} bytes"))


def _encrypted_extensions(reader: _Reader, fields: list[_Field], is_13: bool) -> None:
    _read_extensions(reader.sized(2), fields, False)


def _certificate(reader: _Reader, fields: list[_Field], is_13: bool) -> None:
    if is_13:
        reader.sized(1)
    chain, found, count = _Reader(reader.sized(3)), [], 0
    while len(chain):
        der = chain.sized(3)
        if is_13:
            chain.sized(2)
        count += 1
        if count <= MOST_CERTIFICATES:
            found.append(_der_fields(der))
    fields.append(("certificates", count))
    fields.append(("chain", tuple(found)))


def _der_fields(der: bytes) -> Fields:
    try:
        certificate = x509.load_der_x509_certificate(der)
        return certificate_fields(certificate, len(der))
    except Exception as error:
        # A stranger's certificate can make a parser raise nearly anything.
        why = _cut(one_line(str(error))) or type(error).__name__
        return (("malformed", why), ("bytes", len(der)))


def certificate_fields(certificate: x509.Certificate, size: int) -> Fields:
    """
    What is in a certificate.

    @param size: its bytes.
    @raise Exception: it cannot be read.
    """
    names, more = _alternative_names(certificate)
    algorithm = certificate.signature_hash_algorithm
    signature = certificate.signature_algorithm_oid._name
    fields: list[_Field] = [
        ("subject", _cut(one_line(certificate.subject.rfc4514_string())) or "(empty)"),
        ("names", _listed(names, more) or ("none",)),
        ("issuer", _cut(one_line(certificate.issuer.rfc4514_string())) or "(empty)"),
        ("valid from", f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC"),
        ("valid until", f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"),
        ("key", _key(certificate)),
        ("signature", f"{signature}" + (f", {algorithm.name}" if algorithm else "")),
        ("authority", "yes" if _is_authority(certificate) else "no"),
        ("serial number", f"{certificate.serial_number:x}"),
        ("pin", str(Pin.of(certificate))),
        ("bytes", size),
    ]
    return tuple(fields)


def _alternative_names(certificate: x509.Certificate) -> tuple[list[str], int]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], 0
    found = []
    for each in list(names)[: MOST + 1]:
        value = each.value
        if isinstance(each, x509.IPAddress):
            value = str(ipaddress.ip_network(value) if "/" in str(value) else value)
        kind = "" if isinstance(each, x509.DNSName | x509.IPAddress) else f"{type(each).__name__} "
        found.append(kind + _cut(one_line(str(value))))
    return found, len(names)


def _is_authority(certificate: x509.Certificate) -> bool:
    with suppress(x509.ExtensionNotFound):
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    return False


def _key(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA, {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA, {key.curve.name}"
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "Ed25519"
    if isinstance(key, ed448.Ed448PublicKey):
        return "Ed448"
    return f"DSA, {key.key_size} bits" if isinstance(key, dsa.DSAPublicKey) else type(key).__name__


def _certificate_request(reader: _Reader, fields: list[_Field], is_13: bool) -> None:
    if is_13:
        reader.sized(1)
        _read_extensions(reader.sized(2), fields, True)
        return
    kinds = {1: "RSA", 2: "DSA", 64: "ECDSA"}
    found = tuple(kinds.get(each, f"type {each}") for each in reader.sized(1))
    fields.append(("certificate types", _listed(found)))
    fields.append(("signature algorithms", _numbers(reader.sized(2), signature_name)))
    _read_authorities(reader.sized(2), fields)


def _certificate_verify(reader: _Reader, fields: list[_Field], is_13: bool) -> None:
    fields.append(("signature algorithm", signature_name(reader.number(2))))
    fields.append(("signature", f"{len(reader.sized(2))} bytes"))


def _server_key_exchange(reader: _Reader, fields: list[_Field], is_13: bool) -> None:
    # Of the key exchanges that a policy of ours may have, the one on curves: RFC 8422, section 5.4.
    if len(reader) and reader.number(1) == 3:
        fields.append(("group", group_name(reader.number(2))))
        fields.append(("public key", f"{len(reader.sized(1))} bytes"))
        if len(reader):
            fields.append(("signature algorithm", signature_name(reader.number(2))))
            fields.append(("signature", f"{len(reader.sized(2))} bytes"))


def _new_session_ticket(reader: _Reader, fields: list[_Field], is_13: bool) -> None:
    fields.append(("lifetime", f"{reader.number(4)} seconds"))
    if is_13:
        reader.take(4)
        reader.sized(1)
    fields.append(("ticket", f"{len(reader.sized(2))} bytes"))
    if is_13 and len(reader):
        _read_extensions(reader.sized(2), fields, False)


def _finished(reader: _Reader, fields: list[_Field], is_13: bool) -> None:
    fields.append(("verify data", f"{len(reader)} bytes"))


def _key_update(reader: _Reader, fields: list[_Field], is_13: bool) -> None:
    fields.append(("asks for ours", "yes" if reader.number(1) else "no"))


def _certificate_status(reader: _Reader, fields: list[_Field], is_13: bool) -> None:
    fields.append(("status", f"{len(reader.rest())} bytes"))


_READERS: dict[int, Callable[[_Reader, list[_Field], bool], None]] = {
    CLIENT_HELLO: _client_hello,
    SERVER_HELLO: _server_hello,
    4: _new_session_ticket,
    8: _encrypted_extensions,
    CERTIFICATE: _certificate,
    12: _server_key_exchange,
    13: _certificate_request,
    15: _certificate_verify,
    20: _finished,
    22: _certificate_status,
    24: _key_update,
}
