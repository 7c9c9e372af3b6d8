"""The table of L{tests.fault_table}, second part: messages and records that are wrong."""

from __future__ import annotations

from collections.abc import Callable

from OpenSSL import SSL

from tests.fault_table import OTHERS, Fault, by_agreement, by_certificate
from tests.faults import (
    afterwards,
    changing,
    client_of,
    damaged,
    flip,
    flush,
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
    client,
)
from twisted_bioconn.testing import Loopback

CERTIFICATE, KEY_EXCHANGE, VERIFY, FINISHED = 11, 12, 15, 20


DAMAGED = "a record could not be decrypted: it was damaged on the way"
TOO_LONG = "the peer sent a record that is too long"
NO_PLACE = "the peer sent a message that does not belong here"

_OF_SHORT_RECORD = dict.fromkeys(VERSIONS, "bad_record_mac")
"""The alert for a record that has no tag."""

if 0x40000000 <= SSL.OPENSSL_VERSION_NUMBER < 0x40000030:
    # OpenSSL 4.0.0 to 4.0.2 take that for their own fault.
    _OF_SHORT_RECORD[TLS12] = "internal_error"


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


def changes_of_keys() -> Loopback:
    """TLS 1.3: a client's change_cipher_spec comes again and again, and no finished message."""
    loop = meet(client_of(TLS13), server_of(TLS13))
    loop.server.feed(loop.client.take())
    loop.client.feed(flush(loop.server))
    # Its finished message is lost.
    flush(loop.client)
    loop.to_server.put(record(CHANGE_CIPHER_SPEC, b"\1") * 100)
    loop.pump()
    return loop


def in_handshake() -> list[Fault]:
    """Messages of the handshake that are wrong."""
    faults = [
        Fault(
            "TLSv1.3 client's changes of keys",
            changes_of_keys,
            "server",
            "unexpected_message",
            "unexpected ccs message",
        )
    ]

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
    ]
    for version in VERSIONS:
        short_record = (
            "short record",
            lambda records: [record(APPLICATION_DATA, b"x" * 5)],
            _OF_SHORT_RECORD[version],
            DAMAGED,
        )
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
        for name, make, alert, sentence in [*both, short_record, *particular]:
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
