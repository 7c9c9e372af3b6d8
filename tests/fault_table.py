"""
A table of faults of TLS connections, and of what is to be said of each.

What cannot be agreed on, certificates that are refused, and messages and records that are wrong.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from cryptography import x509
from OpenSSL import SSL

from tests.faults import (
    afterwards,
    changing,
    client_of,
    damaged,
    flip,
    in_clear,
    in_client_flight,
    in_hello,
    in_server_flight,
    instead_of_finished,
    meet,
    sealed,
    server_of,
)
from tests.records import ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, message, record
from tests.tls_material import (
    TLS12,
    TLS13,
    VERSION_NAMES,
    VERSIONS,
    Party,
    authority,
    certificate,
    client,
    context,
    ec_key,
    expired,
    intermediate,
    not_yet_valid,
    server,
    stranger,
)
from twisted_bioconn import _openssl
from twisted_bioconn._creators import NoApplicationProtocol
from twisted_bioconn.testing import Loopback
from twisted_bioconn.verify import HostVerifier, Pin

CERTIFICATE, KEY_EXCHANGE, VERIFY, FINISHED = 11, 12, 15, 20


@frozen
class Fault:
    """
    A fault, and what the judge is to say of it.

    @ivar alert: what it sends, and the other end receives.
    @ivar sentence: what it says, or a part of that.
    @ivar on_twin: the alert of the twin on the public API, where it cannot choose.
    @ivar needs: what an engine must be able to do for the fault to come about.
    """

    name: str
    make: Callable[[], Loopback]
    judge: str
    alert: str
    sentence: str
    on_twin: str | None = None
    needs: str | None = None


def boom(chain: object) -> None:
    raise ValueError("boom")


def by_agreement(version: int) -> list[Fault]:
    """Nothing that both ends agree on."""
    name = VERSION_NAMES[version]

    def groups() -> Loopback:
        for_client, for_server = client_of(version), server_of(version)
        _openssl.set_groups(for_client, ["X25519"])
        _openssl.set_groups(for_server, ["secp384r1"])
        return meet(for_client, for_server)

    def signatures() -> Loopback:
        for_client = client_of(version)
        _openssl.set_signature_algorithms(for_client, ["rsa_pss_rsae_sha256"])
        return meet(for_client, server_of(version))

    def protocols(choose: Callable[[SSL.Connection, list[bytes]], bytes]) -> Loopback:
        for_client, for_server = client_of(version), server_of(version)
        for_client.set_alpn_protos([b"h2"])
        for_server.set_alpn_select_callback(choose)
        return meet(for_client, for_server)

    def none(connection: SSL.Connection, offered: list[bytes]) -> bytes:
        raise NoApplicationProtocol

    def ciphers() -> Loopback:
        if version == TLS13:
            one, other = b"TLS_AES_128_GCM_SHA256", b"TLS_AES_256_GCM_SHA384"
            return meet(
                context(True, versions=(TLS13, TLS13), ciphersuites=one),
                context(False, own=server(), versions=(TLS13, TLS13), ciphersuites=other),
            )
        one, other = b"ECDHE-ECDSA-AES128-GCM-SHA256", b"ECDHE-ECDSA-AES256-GCM-SHA384"
        return meet(
            context(True, versions=(TLS12, TLS12), ciphers=one),
            context(False, own=server(), versions=(TLS12, TLS12), ciphers=other),
        )

    failure = "handshake_failure"
    no_cipher = "the peer offers no cipher that we accept"
    other_version = TLS12 if version == TLS13 else TLS13
    return [
        Fault(
            f"the server speaks {name} alone and the client does not",
            lambda: meet(client_of(other_version), server_of(version)),
            "server",
            "protocol_version",
            "the peer offers no TLS version that we accept",
        ),
        Fault(f"{name}: ciphers", ciphers, "server", failure, no_cipher),
        Fault(
            f"{name}: groups",
            groups,
            "server",
            failure,
            "the peer offers no group that we accept" if version == TLS13 else no_cipher,
            needs="can_set_groups",
        ),
        Fault(
            f"{name}: signature algorithms",
            signatures,
            "server",
            failure,
            "no signature algorithm fits the peer and our key" if version == TLS13 else no_cipher,
            needs="can_set_groups",
        ),
        Fault(
            f"{name}: application protocols",
            lambda: protocols(none),
            "server",
            "no_application_protocol",
            "the peer offers no ALPN protocol that we speak",
        ),
        Fault(
            f"{name}: the choice of an application protocol is none",
            lambda: protocols(lambda connection, offered: b""),
            "server",
            "internal_error",
            "something went wrong here, inside OpenSSL or one of its callbacks",
        ),
        Fault(
            f"{name}: the choice of an application protocol fails",
            lambda: protocols(lambda connection, offered: 1 / 0),  # type: ignore[arg-type,return-value]
            "server",
            "no_application_protocol",
            "a callback of ours failed: division by zero",
        ),
        Fault(
            f"{name}: there is no certificate",
            lambda: meet(client_of(version), context(False, versions=(version, version))),
            "server",
            "protocol_version" if version == TLS13 else failure,
            "or none for which there is a certificate here" if version == TLS13 else no_cipher,
        ),
    ]


def by_certificate(version: int) -> list[Fault]:
    """Certificates that are refused, of servers and of clients."""
    name = VERSION_NAMES[version]
    no_ca = Party(certificate("no authority", authority(), key=ec_key(7)), ec_key(7))
    forger = Party(authority().certificate, ec_key(9))
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x")
    key = ec_key(8)
    refused = [
        (expired(), "certificate_expired", "the certificate of CN=expired expired 3 days ago"),
        (not_yet_valid(), "bad_certificate", "the certificate of CN=early is valid from 2"),
        (stranger(), "unknown_ca", "its issuer is not among the trusted authorities"),
        (
            Party(certificate("own", None, key=key), key),
            "unknown_ca",
            "CN=own does not verify: it is self-signed and not trusted",
        ),
        (
            Party(
                certificate("x", authority("nobody"), key=key),
                key,
                (authority("nobody").certificate,),
            ),
            "unknown_ca",
            "its chain ends in a root that is not trusted",
        ),
        (
            Party(certificate("x", intermediate(), key=key), key),
            "unknown_ca",
            "its issuer is not among the trusted authorities",
        ),
        (
            Party(certificate("x", no_ca, key=key), key, (no_ca.certificate,)),
            "unknown_ca",
            "CN=no authority does not verify: its issuer is no authority",
        ),
        (
            Party(certificate("x", forger, key=key), key),
            "decrypt_error",
            "its signature is wrong",
        ),
        (
            Party(certificate("x", authority(), key=key, extensions=[(unknown, True)]), key),
            "certificate_unknown",
            "it has a critical extension that nobody here understands",
        ),
    ]
    purpose = "it is not meant for this purpose"
    faults = []
    for number, (party, alert, sentence) in enumerate(
        [*refused, (client(), "unsupported_certificate", purpose)]
    ):
        faults.append(
            Fault(
                f"{name}: server certificate {number}",
                lambda party=party: meet(  # type: ignore[misc]
                    client_of(version), server_of(version, party), verify_server=True
                ),
                "client",
                alert,
                sentence,
            )
        )
    for number, (party, alert, sentence) in enumerate(
        [*refused, (server(), "unsupported_certificate", purpose)]
    ):
        faults.append(
            Fault(
                f"{name}: client certificate {number}",
                lambda party=party: meet(  # type: ignore[misc]
                    client_of(version, party), server_of(version), demand=True
                ),
                "server",
                alert,
                sentence,
            )
        )
    for what, check, sentence in (
        ("name", HostVerifier("other.example"), "the certificate is not for other.example"),
        ("address", HostVerifier("10.0.0.1"), "the certificate is not for 10.0.0.1"),
        ("pin", HostVerifier(pins=frozenset([Pin(bytes(32))])), "is none of the pinned ones"),
        ("check", boom, "the certificate of CN=server was refused: boom"),
    ):
        faults.append(
            Fault(
                f"{name}: {what} of a server",
                lambda check=check: meet(  # type: ignore[misc]
                    client_of(version), server_of(version), client_check=check
                ),
                "client",
                "bad_certificate",
                sentence,
                on_twin="internal_error",
            )
        )
    return [
        *faults,
        Fault(
            f"{name}: check of a client",
            lambda: meet(client_of(version, client()), server_of(version), server_check=boom),
            "server",
            "bad_certificate",
            "the certificate of CN=client was refused: boom",
            on_twin="internal_error",
        ),
        Fault(
            f"{name}: no client certificate",
            lambda: meet(client_of(version), server_of(version), demand=True),
            "server",
            "certificate_required" if version == TLS13 else "handshake_failure",
            "we want a client certificate and got none",
        ),
    ]


def fallback() -> Loopback:
    """A client that says it has fallen back, RFC 7507; OpenSSL has a mode for that."""
    made = client_of(TLS12)
    made.set_mode(0x80)
    return meet(made, context(False, own=server()))


def name_lookup() -> Loopback:
    """The choice of a certificate fails."""
    made = server_of(TLS13)
    made.set_tlsext_servername_callback(boom)
    return meet(client_of(TLS13), made)


def flipped_ending(version: int, by_client: bool) -> Callable[[], Loopback]:
    """A bit of an application's data flips on the way."""

    def make() -> Loopback:
        loop = meet(client_of(version), server_of(version))
        loop.pump()
        wire = loop.to_server if by_client else loop.to_client
        wire.flip(wire.sent + 20, 3)
        (loop.client if by_client else loop.server).write(b"data")
        return loop

    return make


DAMAGED = "a record could not be decrypted: it was damaged on the way"
TOO_LONG = "the peer sent a record that is too long"
NO_PLACE = "the peer sent a message that does not belong here"

OTHERS = [
    Fault(
        "fallback",
        fallback,
        "server",
        "inappropriate_fallback",
        "the peer fell back to an older version than both sides speak",
    ),
    Fault(
        "name lookup",
        name_lookup,
        "server",
        "unrecognized_name",
        "the lookup of a certificate failed",
    ),
]


def in_handshake() -> list[Fault]:
    """Messages of the handshake that are wrong."""
    faults: list[Fault] = []

    def server_flight(name: str, change: object, alert: str, sentence: str) -> None:
        make = lambda: in_server_flight(change)  # type: ignore[arg-type]  # noqa: E731
        faults.append(Fault(f"TLSv1.3 server's {name}", make, "client", alert, sentence))

    def client_flight(name: str, change: object, alert: str, sentence: str) -> None:
        make = lambda: in_client_flight(change, client())  # type: ignore[arg-type]  # noqa: E731
        faults.append(Fault(f"TLSv1.3 client's {name}", make, "server", alert, sentence))

    def broken_der(body: bytes) -> bytes:
        return message(CERTIFICATE, body[:7] + b"\x31" + body[8:])

    def with_extension(kind: bytes) -> Callable[[bytes], bytes]:
        """A certificate's last extensions, which are none, get one."""

        def change(body: bytes) -> bytes:
            size = (int.from_bytes(body[1:4], "big") + 4).to_bytes(3, "big")
            added = b"\0\4" + kind + b"\0\0"
            return message(CERTIFICATE, body[:1] + size + body[4:-2] + added)

        return change

    for add in (server_flight, client_flight):
        add("finished", flip(FINISHED), "decrypt_error", "finished message did not verify")
        add("signature", flip(VERIFY), "decrypt_error", "the peer's signature does not verify")
        add(
            "signature algorithm",
            changing(VERIFY, lambda body: message(VERIFY, b"\x02\x03" + body[2:])),
            "illegal_parameter",
            "the peer signed in a way that we do not accept",
        )
        add(
            "short finished",
            changing(FINISHED, lambda body: message(FINISHED, body[:-1])),
            "decode_error",
            "bad digest length",
        )
        add(
            "short certificate",
            changing(CERTIFICATE, lambda body: message(CERTIFICATE, body[:-1])),
            "decode_error",
            "the peer sent a message that is cut short or too long",
        )
        add(
            "certificate",
            changing(CERTIFICATE, broken_der),
            "bad_certificate" if add is server_flight else "decode_error",
            "wrong tag",
        )
        add(
            "extension",
            changing(CERTIFICATE, with_extension(b"\0\5")),
            "unsupported_extension",
            "unsolicited extension",
        )
        add(
            "extension of another message",
            changing(CERTIFICATE, with_extension(b"\0\x2b")),
            "illegal_parameter",
            "bad extension",
        )
        add(
            "message of no kind",
            changing(FINISHED, lambda body: message(99, body)),
            "unexpected_message",
            NO_PLACE,
        )
        add(
            "missing message",
            changing(CERTIFICATE, lambda body: b""),
            "unexpected_message",
            "",
        )
        add(
            "huge message",
            changing(CERTIFICATE, lambda body: b"\x0b\xff\xff\xff"),
            "illegal_parameter",
            "larger than OpenSSL takes",
        )
        add(
            "message after finished",
            changing(FINISHED, lambda body: message(FINISHED, body) + b"\x18\0\0\1\0"),
            "unexpected_message",
            "not on record boundary",
        )
        add(
            "data",
            lambda kind, content: [(APPLICATION_DATA, b"x"), (kind, content)],
            "unexpected_message",
            "the peer sent a record that does not belong here",
        )
        add("empty record", lambda kind, content: [(HANDSHAKE, b"")], "unexpected_message", "")
        add("kind of record", lambda kind, content: [(0, b"")], "unexpected_message", "")
        add("long record", lambda *_: [(HANDSHAKE, bytes(17000))], "record_overflow", TOO_LONG)
        add(
            "warnings",
            lambda kind, content: [(ALERT, b"\1\x5a")] * 10,
            "unexpected_message",
            "too many warn alerts",
        )
    client_flight(
        "certificate request context",
        changing(CERTIFICATE, lambda body: message(CERTIFICATE, b"\1x" + body[1:])),
        "decode_error",
        "invalid context",
    )
    return faults


def in_tls12() -> list[Fault]:
    """The same of TLS 1.2: in the clear, then after change_cipher_spec."""
    faults = [
        Fault(
            "TLSv1.2 server's signature",
            lambda: in_clear(flip(KEY_EXCHANGE), by_client=False),
            "client",
            "decrypt_error",
            "the peer's signature does not verify",
        ),
        Fault(
            "TLSv1.2 server's curve",
            lambda: in_clear(flip(KEY_EXCHANGE, 2), by_client=False),
            "client",
            "illegal_parameter",
            "wrong curve",
        ),
        Fault(
            "TLSv1.2 server's certificate",
            lambda: in_clear(flip(CERTIFICATE, 8), by_client=False),
            "client",
            "bad_certificate",
            "",
        ),
        Fault(
            "TLSv1.2 client's signature",
            lambda: in_clear(flip(VERIFY), by_client=True, own=client()),
            "server",
            "decrypt_error",
            "the peer's signature does not verify",
        ),
    ]
    for by_client in (True, False):
        judge = "server" if by_client else "client"
        for name, make, alert, sentence in (
            (
                "finished",
                lambda records, flight: [records.seal(HANDSHAKE, message(FINISHED, bytes(12)))],
                "decrypt_error",
                "finished message did not verify",
            ),
            (
                "short finished",
                lambda records, flight: [records.seal(HANDSHAKE, message(FINISHED, bytes(11)))],
                "decode_error",
                "bad digest length",
            ),
            (
                "other message",
                lambda records, flight: [records.seal(HANDSHAKE, message(14, b""))],
                "unexpected_message",
                NO_PLACE,
            ),
            (
                "data",
                lambda records, flight: [records.seal(APPLICATION_DATA, b"data")],
                "unexpected_message",
                "data between ccs and finished",
            ),
            (
                "long record",
                lambda records, flight: [records.seal(HANDSHAKE, bytes(17000))],
                "record_overflow",
                TOO_LONG,
            ),
            (
                "damage",
                lambda records, flight: [flight[-1][:-1] + bytes([flight[-1][-1] ^ 1])],
                "bad_record_mac",
                DAMAGED,
            ),
        ):
            faults.append(
                Fault(
                    f"TLSv1.2 {'client' if by_client else 'server'}'s {name} at the end",
                    lambda make=make, by_client=by_client: instead_of_finished(  # type: ignore[misc]
                        lambda records, flight: flight[:-1] + make(records, flight),
                        by_client=by_client,
                    ),
                    judge,
                    alert,
                    sentence,
                )
            )
        for name, content in (("kind", b"\2"), ("length", b"\1\1")):
            faults.append(
                Fault(
                    f"TLSv1.2 {judge} judges change_cipher_spec {name}",
                    lambda content=content, by_client=by_client: instead_of_finished(  # type: ignore[misc]
                        lambda records, flight: [
                            *flight[:-2],
                            record(CHANGE_CIPHER_SPEC, content),
                        ],
                        by_client=by_client,
                    ),
                    judge,
                    "unexpected_message",
                    "bad change cipher spec",
                )
            )
    return faults


def in_open() -> list[Fault]:
    """Records of an open connection that are wrong."""
    faults = []
    both = [
        ("damage", damaged, "bad_record_mac", DAMAGED),
        ("long record", sealed(APPLICATION_DATA, bytes(16385)), "record_overflow", TOO_LONG),
        ("longer record", sealed(APPLICATION_DATA, bytes(20000)), "record_overflow", TOO_LONG),
        ("kind of record", sealed(99, b"x"), "unexpected_message", ""),
        ("message of no kind", sealed(HANDSHAKE, message(99, b"x")), "unexpected_message", ""),
        ("finished", sealed(HANDSHAKE, message(FINISHED, bytes(12))), "unexpected_message", ""),
        ("empty records", sealed(APPLICATION_DATA, b"", 40), "unexpected_message", ""),
        ("warnings", sealed(ALERT, b"\1\x5a", 10), "unexpected_message", ""),
        ("long alert", sealed(ALERT, b"\1\0\0"), "unexpected_message", "invalid alert"),
        ("empty alert", sealed(ALERT, b""), "unexpected_message", ""),
        ("change_cipher_spec", sealed(CHANGE_CIPHER_SPEC, b"\1"), "unexpected_message", ""),
        (
            "short record",
            lambda records: [record(APPLICATION_DATA, b"x" * 5)],
            "bad_record_mac",
            DAMAGED,
        ),
    ]
    for version in VERSIONS:
        if version == TLS13:
            particular = [
                (
                    "version",
                    lambda records: [record(APPLICATION_DATA, bytes(50), 0x0505)],
                    "decode_error",
                    "",
                ),
                ("empty message", sealed(HANDSHAKE, b""), "unexpected_message", "bad length"),
                ("long key update", sealed(HANDSHAKE, b"\x18\0\0\2\0\0"), "illegal_parameter", ""),
                (
                    "data in the middle of a message",
                    lambda records: [
                        records.seal(HANDSHAKE, b"\x18\0"),
                        records.seal(APPLICATION_DATA, b"x"),
                    ],
                    "unexpected_message",
                    "mixed handshake and non handshake data",
                ),
            ]
        else:
            particular = [
                (
                    "version",
                    lambda records: [record(APPLICATION_DATA, bytes(50), 0x0505)],
                    "protocol_version",
                    "what arrived is not TLS",
                ),
                ("alert's level", sealed(ALERT, b"\7\x50"), "illegal_parameter", "unknown alert"),
            ]
        for name, make, alert, sentence in [*both, *particular]:
            for by_client in (True, False):
                faults.append(
                    Fault(
                        f"{VERSION_NAMES[version]} open {'client' if by_client else 'server'}'s"
                        f" {name}",
                        lambda make=make, version=version, by_client=by_client: afterwards(  # type: ignore[misc]
                            make, version, by_client=by_client
                        ),
                        "server" if by_client else "client",
                        alert,
                        sentence,
                    )
                )
        for by_client in (True, False):
            faults.append(
                Fault(
                    f"{VERSION_NAMES[version]} flip by the {'client' if by_client else 'server'}",
                    flipped_ending(version, by_client),
                    "server" if by_client else "client",
                    "bad_record_mac",
                    DAMAGED,
                )
            )
    return faults


def in_first_flights() -> list[Fault]:
    """Hellos that are wrong."""

    def put(at: int, data: bytes) -> Callable[[bytes], bytes]:
        """Write over a server's hello; C{at} is counted from the end of its session id."""

        def change(flight: bytes) -> bytes:
            begin = 44 + flight[43] + at
            return flight[:begin] + data + flight[begin + len(data) :]

        return change

    def cut_short(hello: bytes) -> bytes:
        return record(HANDSHAKE, message(1, hello[9:60]), 0x0301)

    def compressed(hello: bytes) -> bytes:
        begin = 44 + hello[43]
        begin += 2 + int.from_bytes(hello[begin : begin + 2], "big") + 1
        return hello[:begin] + b"\7" + hello[begin + 1 :]

    faults = []
    for version in VERSIONS:
        for name, change, by_client, alert, sentence in (
            ("unknown cipher", put(0, b"\0\0"), False, "illegal_parameter", "unknown cipher"),
            ("compression", put(2, b"\1"), False, "illegal_parameter", "compression"),
            ("short hello", cut_short, True, "decode_error", "cut short or too long"),
            ("no compression", compressed, True, "illegal_parameter", "compression"),
        ):
            faults.append(
                Fault(
                    f"{VERSION_NAMES[version]} {'client' if by_client else 'server'}'s {name}",
                    lambda change=change, version=version, by_client=by_client: in_hello(  # type: ignore[misc]
                        change, version, by_client=by_client
                    ),
                    "server" if by_client else "client",
                    alert,
                    sentence,
                )
            )
    return faults


def all_faults() -> list[Fault]:
    """The whole table."""
    faults = [*OTHERS, *in_handshake(), *in_tls12(), *in_open(), *in_first_flights()]
    for version in VERSIONS:
        faults += by_agreement(version) + by_certificate(version)
    return faults
