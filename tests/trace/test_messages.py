"""Tests for L{twisted_bioconn.trace.messages}, and for the records that they come in."""

from __future__ import annotations

from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.garbling import garbled
from tests.records import message, record
from tests.tls_material import authority, server
from tests.trace.material import HOSTILE
from twisted_bioconn.testing import Loopback, example_connections
from twisted_bioconn.testing import Way as WireWay
from twisted_bioconn.trace import Way
from twisted_bioconn.trace._records import RecordReader
from twisted_bioconn.trace.events import Message
from twisted_bioconn.trace.messages import (
    HELLO_RETRY_RANDOM,
    MESSAGES,
    certificate_fields,
    decoded,
    message_name,
    selected_version,
)
from twisted_bioconn.trace.recorder import Recorder


@cache
def flights(version: str) -> dict[WireWay, bytes]:
    """What both ends of a handshake send."""
    loop = Loopback(*example_connections(version, (b"h2",)))
    loop.pump()
    return {way: b"".join(piece for each, piece in loop.crossed if each is way) for way in WireWay}


def sized(data: bytes, size: int = 2) -> bytes:
    return len(data).to_bytes(size, "big") + data


def extension(number: int, data: bytes) -> bytes:
    return number.to_bytes(2, "big") + sized(data)


def server_hello(*extensions: bytes, random: bytes = bytes(32)) -> bytes:
    body = b"\3\3" + random + b"\0" + b"\x13\x01" + b"\0"
    return body + (sized(b"".join(extensions)) if extensions else b"")


class MessageTests(SynchronousTestCase):
    """What is in each."""

    def test_hello(self) -> None:
        """A real one, as OpenSSL sends it."""
        flight = flights("TLSv1.3")[WireWay.TO_SERVER]
        size = int.from_bytes(flight[6:9], "big")
        fields = dict(decoded(1, flight[9 : 9 + size], False))
        self.assertEqual(fields["server name"], "localhost")
        self.assertEqual(fields["ALPN"], ("h2",))
        self.assertEqual(fields["versions"], ("TLS 1.3",))
        self.assertIn("X25519MLKEM768", fields["groups"])
        self.assertIn("ed25519", fields["signature algorithms"])
        self.assertIn("server_name", fields["extensions"])

    def test_version(self) -> None:
        """The version is the extension's, where there is one."""
        self.assertEqual(selected_version(server_hello()), 0x0303)
        hello = server_hello(extension(43, b"\3\4"))
        self.assertEqual(selected_version(hello), 0x0304)
        self.assertEqual(dict(decoded(2, hello, True))["version"], "TLS 1.3")
        self.assertEqual(selected_version(b"\3"), 0)

    def test_retry(self) -> None:
        hello = server_hello(extension(51, b"\0\x18"), random=HELLO_RETRY_RANDOM)
        self.assertEqual(message_name(2, hello), "HelloRetryRequest")
        self.assertEqual(dict(decoded(2, hello, True))["group asked for"], "secp384r1")
        self.assertEqual(message_name(2, server_hello()), "ServerHello")
        self.assertEqual(message_name(99, b""), "message 99")

    def test_certificates(self) -> None:
        """The chain, in both versions' form."""
        parties = [server().certificate, authority().certificate]
        ders = [each.public_bytes(Encoding.DER) for each in parties]
        old = sized(b"".join(sized(each, 3) for each in ders), 3)
        new = b"\0" + sized(b"".join(sized(each, 3) + b"\0\0" for each in ders), 3)
        for body, is_13 in ((old, False), (new, True)):
            fields = dict(decoded(11, body, is_13))
            self.assertEqual(fields["certificates"], 2)
            leaf, root = (dict(each) for each in fields["chain"])  # type: ignore[attr-defined]
            self.assertEqual(leaf["issuer"], root["subject"])
            self.assertEqual((leaf["authority"], root["authority"]), ("no", "yes"))
            self.assertRegex(leaf["valid until"], r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$")
            self.assertRegex(leaf["pin"], "^sha256:[0-9a-f]{64}$")

    def test_certificate_request(self) -> None:
        """The authorities by name, and one that is no name."""
        name = x509.Name.from_rfc4514_string("CN=Some authority,O=Example")
        body = b"\x01\x40" + sized(b"\4\3") + sized(sized(name.public_bytes()) + sized(b"\x30\1"))
        fields = dict(decoded(13, body, False))
        self.assertEqual(
            fields["authorities"],
            ("CN=Some authority,O=Example", "a name of 2 bytes that cannot be read"),
        )
        self.assertEqual(fields["certificate types"], ("ECDSA",))
        names = sized(sized(name.public_bytes()))
        body = b"\0" + sized(extension(13, sized(b"\4\3")) + extension(47, names))
        self.assertEqual(
            dict(decoded(13, body, True))["authorities"], ("CN=Some authority,O=Example",)
        )

    def test_small_ones(self) -> None:
        for number, body, is_13, name, value in (
            (24, b"\1", True, "asks for ours", "yes"),
            (24, b"\0", True, "asks for ours", "no"),
            (20, bytes(12), False, "verify data", "12 bytes"),
            (
                15,
                b"\x08\x04" + sized(bytes(256)),
                True,
                "signature algorithm",
                "rsa_pss_rsae_sha256",
            ),
            (4, bytes(4) + sized(bytes(9)), False, "ticket", "9 bytes"),
            (4, bytes(8) + b"\1x" + sized(b"tick") + sized(b""), True, "ticket", "4 bytes"),
            (12, b"\3\0\x1d" + sized(bytes(32), 1), False, "group", "X25519"),
            (22, bytes(7), False, "status", "7 bytes"),
            (8, sized(extension(16, sized(sized(b"h2", 1)))), True, "ALPN", "h2"),
            (8, sized(extension(0, b"")), True, "server name", "taken"),
        ):
            self.assertEqual(dict(decoded(number, body, is_13))[name], value, MESSAGES[number])

    def test_cut_short(self) -> None:
        """It is said, and what comes before it is there."""
        flight = flights("TLSv1.3")[WireWay.TO_SERVER]
        size = int.from_bytes(flight[6:9], "big")
        hello = flight[9 : 9 + size]
        for cut in range(size):
            fields = dict(decoded(1, hello[:cut], False))
            self.assertTrue(
                "malformed" in fields or "malformed" in fields.values() or "ciphers" in fields
            )

    def test_many(self) -> None:
        """Of what there is much of, it is said how much."""
        suites = b"\x13\x01" * 20000
        body = b"\3\3" + bytes(32) + b"\0" + sized(suites) + b"\1\0"
        fields = dict(decoded(1, body, False))
        self.assertEqual(len(fields["ciphers"]), 101)  # type: ignore[arg-type]
        self.assertEqual(fields["ciphers"][-1], "… and 19900 more")  # type: ignore[index]

    def test_hostile(self) -> None:
        """Nothing that a terminal would obey, however it comes."""
        alpn = extension(16, sized(sized(HOSTILE.encode()[:200], 1)))
        name = extension(0, sized(b"\0" + sized(HOSTILE.encode())))
        body = b"\3\3" + bytes(32) + b"\0" + sized(b"\x13\x01") + b"\1\0" + sized(alpn + name)
        fields = dict(decoded(1, body, False))
        for told in (fields["server name"], fields["ALPN"][0]):  # type: ignore[index]
            self.assertIn("<script>", str(told))
            self.assertTrue(str(told).isprintable())
        authority_name = x509.Name(
            [x509.NameAttribute(x509.NameOID.COMMON_NAME, HOSTILE.replace("\n", " "))]
        )
        request = b"\1\1" + sized(b"\4\3") + sized(sized(authority_name.public_bytes()))
        listed: Any = dict(decoded(13, request, False))["authorities"]
        self.assertTrue(listed[0].isprintable())

    @settings(max_examples=300)
    @given(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=200), st.booleans())
    def test_any_bytes(self, number: int, body: bytes, is_13: bool) -> None:
        """It never raises."""
        decoded(number, body, is_13)
        message_name(number, body)
        selected_version(body)

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_nearly_right(self, data: st.DataObject) -> None:
        """It never raises, however nearly right it is, and is never longer than it may be."""
        version = data.draw(st.sampled_from(["TLSv1.2", "TLSv1.3"]))
        flight = flights(version)[data.draw(st.sampled_from(list(WireWay)))]
        recorder = Recorder(True)
        recorder.bytes_crossed(Way.RECEIVED, data.draw(garbled(flight)))
        for each in recorder.trace.events:
            if isinstance(each, Message):
                self.assertLess(len(repr(each.fields)), 100_000)

    def test_key_kinds(self) -> None:
        """A certificate's key is told of."""
        fields = dict(certificate_fields(server().certificate, 10))
        self.assertIn("ECDSA", str(fields["key"]))


class RecordTests(SynchronousTestCase):
    """The records of a stream, however it is split."""

    def records(self, pieces: list[bytes]) -> tuple[list[tuple[int, ...]], list[bytes], int]:
        told: list[tuple[int, ...]] = []
        clear: list[bytes] = []
        reader = RecordReader(
            lambda way, *rest: told.append(rest), lambda way, kind, body: clear.append(body)
        )
        for each in pieces:
            reader.feed(each, Way.SENT)
        return told, clear, reader.missing

    @given(st.data())
    def test_split(self, data: st.DataObject) -> None:
        stream = data.draw(
            st.lists(
                st.tuples(st.sampled_from([20, 21, 22, 23]), st.binary(max_size=50)), max_size=6
            ).map(lambda found: b"".join(record(*each) for each in found))
        )
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        self.assertEqual(self.records(pieces), self.records([stream]))
        self.assertEqual(self.records([stream])[2], 0)

    def test_missing(self) -> None:
        """How much of the last one is missing."""
        whole = record(22, b"abcdef")
        self.assertEqual(self.records([whole[:7]])[2], 4)
        self.assertEqual(self.records([whole[:3]])[2], 2)

    def test_garbage(self) -> None:
        """What is no record is told of once, and nothing of it is kept."""
        for garbage in (b"HTTP/1.1 400", b"\x16\x02\x00", b"\x17\x03\x03\xff\xff" + bytes(70000)):
            told, clear, missing = self.records([garbage, garbage])
            self.assertEqual((len(told), clear, missing), (1, [], 0))
            self.assertFalse(told[0][-1])

    def test_large_message(self) -> None:
        """A message that says it is endless is not gathered."""
        recorder = Recorder(True)
        recorder.bytes_crossed(Way.RECEIVED, record(22, b"\x0b\xff\xff\xff" + bytes(1000)))
        self.assertEqual(len(recorder._readers[Way.RECEIVED].messages), 0)
        recorder.bytes_crossed(Way.RECEIVED, record(22, message(14, b"")))
        self.assertEqual(recorder.trace.messages[-1].name, "ServerHelloDone")
