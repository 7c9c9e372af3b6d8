"""L{twisted_bioconn.hello}."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tests.context_material import Hello
from tests.hello_material import (
    ALPN,
    GROUPS,
    SERVER_NAME,
    SIGNATURES,
    VERSIONS,
    block,
    host_name,
    message,
    numbers,
    openssl_hello,
    read,
    records,
    ssl_hello,
)
from twisted_bioconn.hello import LARGEST_HELLO, ClientHello, HelloReader, MalformedHello

RFC_8448 = bytes.fromhex(
    """
    16 03 01 00 c4 01 00 00 c0 03 03 cb 34 ec b1 e7 81 63 ba 1c 38 c6 da cb 19 6a 6d ff a2 1a 8d 99
    12 ec 18 a2 ef 62 83 02 4d ec e7 00 00 06 13 01 13 03 13 02 01 00 00 91 00 00 00 0b 00 09 00 00
    06 73 65 72 76 65 72 ff 01 00 01 00 00 0a 00 14 00 12 00 1d 00 17 00 18 00 19 01 00 01 01 01 02
    01 03 01 04 00 23 00 00 00 33 00 26 00 24 00 1d 00 20 99 38 1d e5 60 e4 bd 43 d2 3d 8e 43 5a 7d
    ba fe b3 c0 6e 51 c1 3c ae 4d 54 13 69 1e 52 9a af 2c 00 2b 00 03 02 03 04 00 0d 00 20 00 1e 04
    03 05 03 06 03 02 03 08 04 08 05 08 06 04 01 05 01 06 01 02 01 04 02 05 02 06 02 02 02 00 2d 00
    02 01 01 00 1c 00 02 40 01
    """
)
"""The client hello of RFC 8448, section 3, in its record."""


@st.composite
def hellos(draw: st.DrawFn) -> tuple[ClientHello, bytes]:
    """What a hello says, and its message."""
    number = st.integers(0, 0xFFFF).filter(lambda each: each & 0x0F0F != 0x0A0A)
    some = st.lists(number, min_size=1, max_size=20).map(tuple)
    label = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63)
    name = st.lists(label, min_size=1, max_size=3).map(lambda labels: ".".join([*labels, "org"]))
    address = st.ip_addresses().map(str)
    hello = ClientHello(
        server_name=draw(st.none() | name | address),
        alpn=tuple(draw(st.lists(st.binary(min_size=1, max_size=255), max_size=4))),
        versions=draw(some),
        groups=draw(st.just(()) | some),
        signature_algorithms=draw(st.just(()) | some),
        cipher_suites=draw(some),
    )
    extensions = [(VERSIONS, numbers(1, hello.versions))]
    if hello.server_name is not None:
        case = draw(st.sampled_from([str.upper, str.lower, str.title]))
        dot = draw(st.sampled_from(["", "."])) if ":" not in hello.server_name else ""
        extensions.append((SERVER_NAME, host_name((case(hello.server_name) + dot).encode())))
    if hello.alpn:
        extensions.append((ALPN, block(2, *(block(1, each) for each in hello.alpn))))
    if hello.groups:
        extensions.append((GROUPS, numbers(2, hello.groups)))
    if hello.signature_algorithms:
        extensions.append((SIGNATURES, numbers(2, hello.signature_algorithms)))
    taken = {SERVER_NAME, GROUPS, SIGNATURES, ALPN, VERSIONS}
    others = st.dictionaries(number.filter(lambda each: each not in taken), st.binary(max_size=99))
    extensions += draw(others).items()
    return hello, message(
        *draw(st.permutations(extensions)),
        session=draw(st.binary(max_size=32)),
        suites=hello.cipher_suites,
        compressions=draw(st.binary(min_size=1, max_size=3)),
    )


class PublishedTests(SynchronousTestCase):
    """A hello that others have published."""

    def test_rfc_8448(self) -> None:
        self.assertEqual(
            read(RFC_8448),
            ClientHello(
                server_name="server",
                versions=(0x0304,),
                groups=(0x1D, 0x17, 0x18, 0x19, 0x100, 0x101, 0x102, 0x103, 0x104),
                signature_algorithms=(
                    *(0x0403, 0x0503, 0x0603, 0x0203, 0x0804, 0x0805, 0x0806, 0x0401),
                    *(0x0501, 0x0601, 0x0201, 0x0402, 0x0502, 0x0602, 0x0202),
                ),
                cipher_suites=(0x1301, 0x1303, 0x1302),
            ),
        )

    def test_cut_anywhere(self) -> None:
        """Of a part nothing is known yet."""
        for length in range(len(RFC_8448)):
            self.assertIsNone(read(RFC_8448[:length]), length)

    def test_byte_by_byte(self) -> None:
        reader = HelloReader()
        found = [reader.feed(RFC_8448[at : at + 1]) for at in range(len(RFC_8448))]
        self.assertEqual(found[:-1], [None] * (len(found) - 1))
        self.assertEqual(found[-1], read(RFC_8448))


class RealTests(SynchronousTestCase):
    """What OpenSSL's clients send."""

    def same(self, flight: bytes) -> ClientHello:
        """The hello, when another reader has found the same in it."""
        hello = read(flight)
        assert hello is not None
        other = Hello.read(flight)
        self.assertEqual(list(hello.cipher_suites), other.ciphers)
        self.assertEqual(list(hello.signature_algorithms), other.signature_algorithms)
        self.assertEqual(list(hello.alpn), other.alpn or [])
        self.assertEqual((hello.server_name or "").encode(), (other.server_name or b"").lower())
        return hello

    def test_plain(self) -> None:
        flight = openssl_hello()
        hello = self.same(flight)
        self.assertIsNone(hello.server_name)
        self.assertEqual(hello.alpn, ())
        self.assertEqual(hello.versions, (0x0304, 0x0303))
        self.assertEqual(list(hello.groups), Hello.read(flight).groups)
        self.assertIsNone(hello.local_address)

    def test_name_and_protocols(self) -> None:
        def prepare(context: Any, connection: Any) -> None:
            if context:
                context.set_alpn_protos([b"h2", b"http/1.1"])
            else:
                connection.set_tlsext_host_name(b"WWW.Example.ORG")

        hello = self.same(openssl_hello(prepare))
        self.assertEqual(hello.server_name, "www.example.org")
        self.assertEqual(hello.alpn, (b"h2", b"http/1.1"))

    def test_only_12(self) -> None:
        """A hello of TLS 1.2 alone has no list of versions."""

        def prepare(context: Any, connection: Any) -> None:
            if context:
                context.set_max_proto_version(SSL.TLS1_2_VERSION)

        hello = self.same(openssl_hello(prepare))
        self.assertEqual(hello.versions, (0x0303, 0x0302, 0x0301))
        self.assertFalse({0x1301, 0x1302} & set(hello.cipher_suites))

    def test_only_13(self) -> None:
        def prepare(context: Any, connection: Any) -> None:
            if context:
                context.set_min_proto_version(SSL.TLS1_3_VERSION)

        self.assertEqual(self.same(openssl_hello(prepare)).versions, (0x0304,))

    def test_groups(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_ecdh_curve("secp384r1")
        self.assertEqual(self.same(ssl_hello(context)).groups, (24,))

    def test_standard_library(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["imap"])
        hello = self.same(ssl_hello(context, "MAIL.example.org"))
        self.assertEqual((hello.server_name, hello.alpn), ("mail.example.org", (b"imap",)))

    def test_openssl_takes_the_largest(self) -> None:
        """
        The limit is OpenSSL's own: it answers a hello of that length, and refuses a longer one.
        """
        context = SSL.Context(SSL.TLS_METHOD)
        largest = message(
            (21, bytes(65535 - 4)),
            session=bytes(32),
            suites=[0x1301] * 32767,
            compressions=bytes(255),
        )
        self.assertEqual(len(largest) - 4, LARGEST_HELLO)
        for size, name in ((LARGEST_HELLO, None), (LARGEST_HELLO + 1, "excessive message size")):
            server = SSL.Connection(context, None)
            server.set_accept_state()
            server.bio_write(records(b"\1" + size.to_bytes(3, "big") + largest[4:]))
            error = self.assertRaises(SSL.Error, server.do_handshake)
            reasons = [entry[2] for entry in error.args[0]] if error.args else []
            if name is None:
                self.assertNotIn("excessive message size", reasons)
            else:
                self.assertIn(name, reasons)


class FieldTests(SynchronousTestCase):
    """What is found in a hello."""

    def hello(self, *extensions: tuple[int, bytes], **options: Any) -> ClientHello:
        hello = read(records(message(*extensions, **options)))
        assert hello is not None
        return hello

    def refused(self, *extensions: tuple[int, bytes], **options: Any) -> str:
        error = self.assertRaises(MalformedHello, self.hello, *extensions, **options)
        self.assertNotIn("\n", str(error))
        return str(error)

    def test_nothing_but_suites(self) -> None:
        expected = ClientHello(versions=(0x0303, 0x0302, 0x0301), cipher_suites=(0x1301,))
        self.assertEqual(self.hello(), expected)
        self.assertEqual(self.hello(tail=b""), expected)

    def test_legacy_versions(self) -> None:
        """The one that is named and those before it, and 1.3 is never named so."""
        for legacy, versions in (
            (0x0300, (0x0300,)),
            (0x0301, (0x0301,)),
            (0x0302, (0x0302, 0x0301)),
            (0x0304, (0x0303, 0x0302, 0x0301)),
            (0x7F1C, (0x0303, 0x0302, 0x0301)),
        ):
            self.assertEqual(self.hello(legacy=legacy).versions, versions)

    def test_grease(self) -> None:
        """The numbers of RFC 8701 are no offer; those that look like them are."""
        grease = [0x0A0A + 0x1010 * step for step in range(16)]
        hello = self.hello(
            (0x2A2A, b""),
            (VERSIONS, numbers(1, [0x0304, *grease, 0x0303])),
            (GROUPS, numbers(2, [*grease, 29])),
            (SIGNATURES, numbers(2, [0x0403, *grease])),
            (0xFAFA, b"\0"),
            suites=[*grease, 0x1301, 0x0A1A],
        )
        self.assertEqual(hello.versions, (0x0304, 0x0303))
        self.assertEqual(hello.groups, (29,))
        self.assertEqual(hello.signature_algorithms, (0x0403,))
        self.assertEqual(hello.cipher_suites, (0x1301, 0x0A1A))

    def test_names(self) -> None:
        longest = b".".join([b"a" * 63] * 3 + [b"a" * 61])
        for sent, name in (
            (b"www.example.org", "www.example.org"),
            (b"WWW.Example.ORG.", "www.example.org"),
            (b"XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            (b"_443._tcp.a-b.example", "_443._tcp.a-b.example"),
            (b"localhost", "localhost"),
            (b"web1", "web1"),
            (b"1.2.3", "1.2.3"),
            (longest, longest.decode()),
            (b"192.0.2.1", "192.0.2.1"),
            (b"2001:DB8:0::1", "2001:db8::1"),
            (b"2001:DB8::192.0.2.1", "2001:db8::c000:201"),
        ):
            self.assertEqual(self.hello((SERVER_NAME, host_name(sent))).server_name, name)

    def test_no_names(self) -> None:
        """RFC 6066, section 3; RFC 1035, section 2.3.4."""
        for sent in (
            *(b".", b"..", b"a..b", b".a", b"*.example.org", b"a b", b"a\0b", b"\0", b"a\n"),
            *(
                "bücher.example".encode(),
                b"\xff",
                b"a/b",
                b"[::1]",
                b"fe80::1%eth0",
                b"1:2",
            ),
            *(b"a" * 64, b".".join([b"a" * 63] * 4 + [b"a"]), b"a:443", b"192.0.2.1:443"),
        ):
            self.assertEqual(
                self.refused((SERVER_NAME, host_name(sent))),
                "the server name in the client hello is no host name",
                sent,
            )

    def test_name_lists(self) -> None:
        entry = b"\0" + block(2, b"a.example")
        for body in (
            *(b"", b"\0", block(2), block(2, b"\0"), block(2, b"\0\0")),
            *(block(2, entry, entry), block(2, entry) + b"\0", block(2, entry)[:-1]),
        ):
            self.assertEqual(
                self.refused((SERVER_NAME, body)), "a list in the client hello has a wrong length"
            )
        self.assertEqual(
            self.refused((SERVER_NAME, block(2, b"\1" + entry[1:]))),
            "the server name in the client hello is of the kind 1",
        )
        self.assertEqual(
            self.refused((SERVER_NAME, host_name(b""))),
            "the server name in the client hello is empty",
        )

    def test_alpn(self) -> None:
        """RFC 7301, section 3.1: names are bytes, of 1 to 255."""
        names = (b"h2", b"\0\xff", b"x" * 255, b"\x0a\x0a", b"h2")
        body = block(2, *(block(1, name) for name in names))
        self.assertEqual(self.hello((ALPN, body)).alpn, names)
        wrong = "a list in the client hello has a wrong length"
        for body, sentence in (
            (block(2, b"\0"), "the client hello has an empty protocol name"),
            (block(2, b"\2h2\0"), "the client hello has an empty protocol name"),
            (block(2), wrong),
            (b"", wrong),
            (block(2, b"\3h2"), wrong),
            (block(2, b"\2h2") + b"\0", wrong),
            (block(2, b"\2h2")[:-1], wrong),
        ):
            self.assertEqual(self.refused((ALPN, body)), sentence)

    def test_number_lists(self) -> None:
        for kind, prefix in ((VERSIONS, 1), (GROUPS, 2), (SIGNATURES, 2)):
            for body in (
                *(b"", bytes(prefix), block(prefix, b"\3"), block(prefix, b"\3\4\3")),
                *(numbers(prefix, [1, 2])[:-2], numbers(prefix, [1, 2]) + b"\0\0"),
            ):
                self.assertEqual(
                    self.refused((kind, body)), "a list in the client hello has a wrong length"
                )

    def test_lists_of_any_length(self) -> None:
        """Those that are kept, and those that are too long for that; what is wrong is so again."""
        for length in (1, 127, 128, 129, 3000):
            offered = [*[29] * (length - 1), 0x1A1A]
            for _ in range(2):
                hello = self.hello(
                    (GROUPS, numbers(2, offered)), (SIGNATURES, numbers(2, [7])), suites=[7]
                )
                self.assertEqual(hello.groups, (29,) * (length - 1))
                self.assertEqual(hello.signature_algorithms, hello.cipher_suites)
                self.refused((GROUPS, block(2, numbers(2, offered)[3:])))

    def test_fixed_part(self) -> None:
        wrong = "a list in the client hello has a wrong length"
        self.assertEqual(self.refused(session=bytes(33)), wrong)
        self.assertEqual(self.refused(compressions=b""), wrong)
        self.assertEqual(self.refused(suites=()), wrong)
        self.assertEqual(self.hello(session=bytes(32)).cipher_suites, (0x1301,))

    def test_odd_suites(self) -> None:
        body = b"\3\3" + bytes(32) + b"\0" + block(2, b"\x13\1\0") + b"\1\0"
        sentence = str(self.assertRaises(MalformedHello, read, records(b"\1" + block(3, body))))
        self.assertEqual(sentence, "a list in the client hello has a wrong length")

    def test_twice(self) -> None:
        self.assertEqual(
            self.refused((ALPN, block(2, b"\2h2")), (99, b""), (99, b"")),
            "the client hello has extension 99 twice",
        )

    def test_alerts(self) -> None:
        """There is one where OpenSSL would pass over what is wrong, and none where it would not."""
        for extensions, alert in (
            (((99, b""), (99, b"")), "illegal_parameter"),
            (((SERVER_NAME, host_name(b"")),), "decode_error"),
            (((SERVER_NAME, host_name(b"a b")),), "unrecognized_name"),
            (((SERVER_NAME, b"\0"),), None),
            (((ALPN, b"\0"),), None),
        ):
            error = self.assertRaises(MalformedHello, self.hello, *extensions)
            self.assertEqual(error.alert, alert)

    def test_end_of_extensions(self) -> None:
        outside = "the extensions of the client hello do not end where it does"
        shorter = "the client hello is shorter than it says"
        whole = block(2, b"\0\x63" + block(2, b"abc"))
        for tail, sentence in (
            (b"\0", shorter),
            (whole + b"\0", outside),
            (whole[:-1], outside),
            (block(2, b"\0\x63" + block(2, b"abc") + b"\0\x64\0"), shorter),
            (block(2, b"\0\x63\0\x04abc"), shorter),
            (b"\0\0", None),
        ):
            if sentence is None:
                self.assertEqual(self.hello(tail=tail).alpn, ())
            else:
                self.assertEqual(self.refused(tail=tail), sentence)

    def test_shorter_than_it_says(self) -> None:
        """Every length is followed to its end; the message's own header says the truth here."""
        body = message((ALPN, block(2, b"\2h2")), session=bytes(32))[4:]
        at_extensions = len(body) - 2 - 4 - 5
        for length in range(len(body)):
            if length == at_extensions:
                continue  # a hello may end before its extensions
            cut = records(b"\1" + block(3, body[:length]))
            self.assertRaises(MalformedHello, read, cut)


class RecordTests(SynchronousTestCase):
    """How a hello comes in records."""

    whole = message((SERVER_NAME, host_name(b"a.example")))

    def refused(self, data: bytes, limit: int = LARGEST_HELLO) -> str:
        return str(self.assertRaises(MalformedHello, read, data, limit))

    def test_no_tls(self) -> None:
        sentence = "the client does not begin with a handshake record of TLS"
        for data in (b"GET / HTTP/1.1\r\n", b"\x80", b"\0", b"\x15", b"\x16\x02", b"\x16\xfe\xff"):
            self.assertEqual(self.refused(data), sentence)

    def test_no_tls_later(self) -> None:
        """Every record has to be one of a handshake."""
        data = records(self.whole, 20)
        self.assertEqual(
            self.refused(data[:25] + b"\x17" + data[26:]),
            "the client does not begin with a handshake record of TLS",
        )

    def test_any_minor_version(self) -> None:
        """RFC 8446, section 5.1: it must be ignored."""
        for minor in (0, 1, 3, 4, 255):
            hello = read(records(self.whole, version=bytes([3, minor])))
            assert hello is not None
            self.assertEqual(hello.server_name, "a.example")

    def test_sizes(self) -> None:
        for size in (0, 16385, 65535):
            self.assertEqual(
                self.refused(b"\x16\3\1" + size.to_bytes(2, "big")),
                f"a record of the client hello says that it has {size} bytes",
            )
        self.assertIsNone(read(b"\x16\3\1" + (16384).to_bytes(2, "big")))

    def test_empty_record_later(self) -> None:
        data = records(self.whole[:10]) + records(b"x")[:3] + b"\0\0" + records(self.whole[10:])
        self.assertEqual(
            self.refused(data), "a record of the client hello says that it has 0 bytes"
        )

    def test_another_message(self) -> None:
        self.assertEqual(self.refused(records(b"\2")), "the client begins with message 2, no hello")

    def test_many_records(self) -> None:
        for size in (1, 2, 3, 4, 5, 50):
            self.assertEqual(read(records(self.whole, size)), read(records(self.whole)), size)

    def test_more_after_it(self) -> None:
        """In its record, or after that: it is not ours to judge."""
        expected = read(records(self.whole))
        for data in (
            records(self.whole + b"\2more"),
            records(self.whole) + b"\x17\3\3\0\0no record",
            records(self.whole, 30) + records(self.whole),
        ):
            self.assertEqual(read(data), expected)

    def test_limit(self) -> None:
        length = len(self.whole) - 4
        self.assertIsNotNone(read(records(self.whole), length))
        self.assertEqual(
            self.refused(records(self.whole), length - 1), f"the client hello has {length} bytes"
        )

    def test_limit_is_told_at_once(self) -> None:
        """With the header of the message, and not when all of it has come."""
        header = b"\1" + (LARGEST_HELLO + 1).to_bytes(3, "big")
        self.assertEqual(
            self.refused(records(header)), f"the client hello has {LARGEST_HELLO + 1} bytes"
        )
        self.assertIsNone(read(records(b"\1" + LARGEST_HELLO.to_bytes(3, "big"))))

    def test_bytes_around_it(self) -> None:
        """What is waiting for OpenSSL is little more than a hello, however small its records."""
        data = records(b"\1" + LARGEST_HELLO.to_bytes(3, "big") + bytes(LARGEST_HELLO - 1), 1)
        reader = HelloReader()
        with self.assertRaises(MalformedHello) as caught:
            for at in range(0, len(data), 1000):
                self.assertIsNone(reader.feed(data[at : at + 1000]))
        self.assertEqual(str(caught.exception), "the client hello comes in far too many records")
        self.assertLess(at, LARGEST_HELLO + 66000)

    def test_work_is_linear(self) -> None:
        """
        Of the largest hello in the smallest pieces every byte is handled a small number of times:
        counted, for a clock would tell of the machine.
        """
        steps: list[int] = []
        for padding in (4_000, 8_000, 16_000):
            data = records(message((21, bytes(padding))), 1)
            reader = HelloReader()
            count = 0

            def trace(frame: Any, event: str, argument: object) -> Any:
                nonlocal count
                count += 1
                return trace

            before = sys.gettrace()
            sys.settrace(trace)
            try:
                for at in range(len(data)):
                    reader.feed(data[at : at + 1])
            finally:
                sys.settrace(before)
            steps.append(count)
        for smaller, larger in pairwise(steps):
            self.assertLess(larger, 2.1 * smaller)

    def test_memory(self) -> None:
        """What is kept of a hello is that hello, and one record that is not whole."""
        reader = HelloReader()
        data = records(b"\1" + LARGEST_HELLO.to_bytes(3, "big") + bytes(LARGEST_HELLO - 1), 20)
        for at in range(0, len(data), 1000):
            self.assertIsNone(reader.feed(data[at : at + 1000]))
            self.assertLess(len(reader._rest), 25)
        self.assertEqual(len(reader._message), LARGEST_HELLO + 3)


class PropertyTests(SynchronousTestCase):
    """What holds for every hello, and for all that is none."""

    @given(hellos(), st.integers(1, 16384))
    @settings(deadline=None)
    def test_round_trip(self, made: tuple[ClientHello, bytes], size: int) -> None:
        hello, data = made
        self.assertEqual(read(records(data, size)), hello)

    @given(hellos(), st.integers(1, 200), st.data())
    @settings(deadline=None)
    def test_any_split(
        self, made: tuple[ClientHello, bytes], size: int, data: st.DataObject
    ) -> None:
        hello, sent = made
        flight = records(sent, size)
        cuts = data.draw(st.sets(st.integers(1, len(flight) - 1), max_size=30))
        reader = HelloReader()
        found = [
            reader.feed(flight[start:end])
            for start, end in pairwise([0, *sorted(cuts), len(flight)])
        ]
        self.assertEqual(found, [None] * len(cuts) + [hello])

    def only(self, data: bytes) -> None:
        """A hello, L{None} or a L{MalformedHello}, at once and byte by byte, and the same."""

        def outcome(pieces: Iterable[bytes]) -> object:
            reader = HelloReader()
            try:
                for piece in pieces:
                    found = reader.feed(piece)
                    if found is not None:
                        return found
            except MalformedHello as error:
                return str(error)
            return None

        at_once = outcome([data])
        self.assertEqual(at_once, outcome(data[at : at + 1] for at in range(len(data))))

    @given(hellos(), st.data())
    @settings(deadline=None)
    def test_mutation(self, made: tuple[ClientHello, bytes], data: st.DataObject) -> None:
        flight = bytearray(records(made[1]))
        places = st.integers(0, len(flight) - 1)
        for place, value in data.draw(
            st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)
        ):
            flight[place] = value
        cut = data.draw(st.integers(0, len(flight)))
        self.only(bytes(flight[:cut] if data.draw(st.booleans()) else flight))

    @given(hellos(), st.data())
    @settings(deadline=None)
    def test_truncated_message(self, made: tuple[ClientHello, bytes], data: st.DataObject) -> None:
        """One whose header says how long it is now."""
        length = data.draw(st.integers(0, len(made[1]) - 5))
        self.only(records(b"\1" + block(3, made[1][4 : 4 + length])))

    @given(st.binary(max_size=400))
    @settings(deadline=None)
    @example(b"")
    def test_anything(self, data: bytes) -> None:
        self.only(data)
        self.only(records(data or b"\1"))
        self.only(records(b"\1" + block(3, data)))
        self.only(records(b"\1" + block(3, b"\3\3" + bytes(32) + data)))
        self.only(records(message(tail=block(2, data))))
        for kind in (SERVER_NAME, GROUPS, SIGNATURES, ALPN, VERSIONS):
            self.only(records(message((kind, data))))
            self.only(records(message((kind, block(2, data)))))
        self.only(records(message((SERVER_NAME, host_name(data)))))


class ImportTests(SynchronousTestCase):
    """What the module stands on."""

    def test_no_reactor_and_no_openssl(self) -> None:
        """Not by itself: the package's own front door has both."""
        program = (
            "import importlib.util, sys\n"
            "spec = importlib.util.spec_from_file_location('hello', sys.argv[1])\n"
            "sys.modules['hello'] = module = importlib.util.module_from_spec(spec)\n"
            "spec.loader.exec_module(module)\n"
            "sys.exit(bool({'twisted', 'OpenSSL', 'ssl'} & sys.modules.keys()))\n"
        )
        path = sys.modules[ClientHello.__module__].__file__
        status = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
        self.assertEqual(status.returncode, 0)
