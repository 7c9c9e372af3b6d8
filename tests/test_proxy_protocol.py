"""L{twisted_bioconn.proxy_protocol}."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from ipaddress import ip_address

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy_material import (
    ADDRESSES,
    FACTS,
    LINE,
    NO_HEADER,
    SIGNATURE,
    UNKNOWN,
    crc32c,
    cut,
    read,
    tlv,
    v2,
)
from twisted_bioconn.proxy_protocol import (
    LARGEST_HEADER,
    HeaderReader,
    MalformedHeader,
    ProxyAddress,
    ProxyHeader,
    TransportProtocol,
    dump_v1,
    dump_v2,
    starts_like_header,
)

REQUEST = b"GET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n"


class HeaderCase(SynchronousTestCase):
    def reads(self, data: bytes, header: ProxyHeader) -> None:
        """The data is this header, and nothing of what follows is."""
        self.assertEqual(read(data), (header, b""))
        self.assertEqual(read(data + data), (header, data))

    def refuses(self, data: bytes, sentence: str) -> None:
        """The data is refused, whether it comes at once or byte by byte."""
        self.assertEqual(read(data)[0], sentence)
        self.assertEqual(read(*cut(data, list(range(len(data)))))[0], sentence)


class LineTests(HeaderCase):
    """Version 1."""

    def test_example(self) -> None:
        self.assertEqual(read(LINE + REQUEST), (attrs.evolve(FACTS, version=1), REQUEST))

    def test_longest(self) -> None:
        """The longest lines of section 2.1."""
        four, six = "255.255.255.255", "ffff:" * 7 + "ffff"
        for kind, host, size in (("TCP4", four, 56), ("TCP6", six, 104)):
            line = f"PROXY {kind} {host} {host} 65535 65535\r\n".encode()
            self.assertEqual(len(line), size)
            address = ProxyAddress(host, 65535)
            self.reads(line, ProxyHeader(source=address, destination=address, version=1))
        line = f"PROXY UNKNOWN {six} {six} 65535 65535\r\n".encode()
        self.assertEqual(len(line), 107)
        self.reads(line, UNKNOWN)

    def test_unknown(self) -> None:
        """Whatever follows that word is ignored, up to the CRLF."""
        for rest in (b"", b" ", b" x", b" \0\xff  PROXY TCP4"):
            self.reads(b"PROXY UNKNOWN" + rest + b"\r\n", UNKNOWN)
        self.assertIs(UNKNOWN.transport, TransportProtocol.UNSPECIFIED)

    def test_spellings(self) -> None:
        """However an IPv6 address is spelled, the header has its usual spelling."""
        for given_, usual in (
            ("2001:DB8:0:0::0001", "2001:db8::1"),
            ("::", "::"),
            ("1::", "1::"),
            ("::FFFF:192.0.2.1", "::ffff:192.0.2.1"),
            ("::ffff:c000:201", "::ffff:192.0.2.1"),
        ):
            header, _ = read(f"PROXY TCP6 {given_} ::1 0 9\r\n".encode())
            assert isinstance(header, ProxyHeader)
            self.assertEqual(header.source, ProxyAddress(usual, 0))
            self.assertEqual(header.destination, ProxyAddress("::1", 9))

    def test_ends(self) -> None:
        """Neither CR nor LF ends a line by itself, not even where all of it is ignored."""
        sentence = "the line of the PROXY header ends with CR or LF, not with both"
        for end in (b"\n", b"\rx", b"\r\r\n", b"\n\r\n"):
            self.refuses(LINE[:-2] + end, sentence)
            self.refuses(b"PROXY UNKNOWN" + end + b"\r\n", sentence)

    def test_too_long(self) -> None:
        sentence = "the line of the PROXY header is longer than 107 bytes"
        start = b"PROXY UNKNOWN".ljust(105)
        self.reads(start + b"\r\n", UNKNOWN)
        for end in (b"x\r\n", b"xx", b"x\r"):
            self.refuses(start + end, sentence)
        self.assertEqual(read(start + b"x"), (None, start + b"x"))

    def test_addresses(self) -> None:
        """What is no address names which one it is."""
        for host in (
            *("", "1", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.1000", "01.2.3.4", "1.2.3.04"),
            *("0x1.2.3.4", "1.2.3.4 ", "+1.2.3.4", "1.2.3.4\0", "::1", "localhost", "1.2.3.-4"),
            "1..2.3",
        ):
            for mine, where in (("source", "{0} 5.6.7.8"), ("destination", "5.6.7.8 {0}")):
                if " " in host:
                    continue
                line = f"PROXY TCP4 {where.format(host)} 1 2\r\n".encode()
                self.refuses(
                    line, f"the PROXY header's {mine} {repr(host.encode())[1:]} is no IPv4 address"
                )
        for host in (
            *("", ":", ":::", "1", "1::2::3", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7", "00001::"),
            *("g::", "::1%lo", "::1.2.3.256", "1.2.3.4", "[::1]", "::\xb2"),
        ):
            wire = host.encode("latin-1")
            self.refuses(
                b"PROXY TCP6 ::1 " + wire + b" 1 2\r\n",
                f"the PROXY header's destination {repr(wire)[1:]} is no IPv6 address",
            )

    def test_ports(self) -> None:
        for port in ("", "00", "01", "65536", "99999", "100000", "-1", "+1", "0x1", "1e3", "1_0"):
            text = repr(port.encode())[1:]
            for mine, where in (("source", "{0} 9"), ("destination", "9 {0}")):
                line = f"PROXY TCP4 1.2.3.4 5.6.7.8 {where.format(port)}\r\n".encode()
                self.refuses(line, f"the PROXY header's {mine} port {text} is no port")

    def test_fields(self) -> None:
        """There is one space before each field, and none after the last."""
        sentence = (
            "the PROXY header has not two addresses and two ports, with one space before each"
        )
        for fields in (
            *("", " 1.2.3.4", " 1.2.3.4 5.6.7.8 1", " 1.2.3.4 5.6.7.8 1 2 3"),
            *(" 1.2.3.4 5.6.7.8 1 2 ", "  1.2.3.4 5.6.7.8 1 2", " 1.2.3.4 5.6.7.8  1 2"),
            " 1.2.3.4\t5.6.7.8 1 2",
        ):
            self.refuses(f"PROXY TCP4{fields}\r\n".encode(), sentence)

    def test_protocols(self) -> None:
        for word in (b"", b"TCP", b"tcp4", b"TCP5", b"UDP4", b"UNKNOWN\0", b"UNKNOWNS", b"\x1b["):
            self.refuses(
                b"PROXY " + word + b" 1.2.3.4 5.6.7.8 1 2\r\n",
                f"the PROXY header names the protocol {repr(word)[1:]}, not TCP4, TCP6 or UNKNOWN",
            )

    def test_other_protocols(self) -> None:
        """What can be the start of no header is refused with its first wrong byte."""
        for data in (b"GET / ", b"\x16\x03\x01", b"PUT ", b" PROXY", b"proxy ", b"PROXY\t", b"\0"):
            self.refuses(data, NO_HEADER)
        for start in (b"Q", b"PRI", b"PROXX", b"\n", b"\r\n\r\r", SIGNATURE[:11] + b"\r"):
            self.assertIsNone(read(start[:-1])[0])
            self.assertEqual(read(start)[0], NO_HEADER)


class BinaryTests(HeaderCase):
    """Version 2."""

    def test_ipv4(self) -> None:
        self.assertEqual(read(v2(ADDRESSES) + REQUEST), (FACTS, REQUEST))
        self.reads(
            v2(ADDRESSES, kind=0x12), attrs.evolve(FACTS, transport=TransportProtocol.DATAGRAM)
        )

    def test_ipv6(self) -> None:
        six = ip_address("2001:db8::1").packed + ip_address("::ffff:1.2.3.4").packed
        self.reads(
            v2(six + b"\0\0\xff\xff", kind=0x21),
            ProxyHeader(
                source=ProxyAddress("2001:db8::1", 0),
                destination=ProxyAddress("::ffff:1.2.3.4", 65535),
            ),
        )

    def test_unix(self) -> None:
        """Paths, the names of abstract sockets, and sockets that have none."""
        for source, destination, found in (
            (b"", b"/run/s", b"/run/s"),
            (b"\0abstract", b"/run/s\0left over", b"/run/s"),
            (b"\0a\0b", b"x" * 108, b"x" * 108),
        ):
            block = source.ljust(108, b"\0") + destination.ljust(108, b"\0")
            header = ProxyHeader(source=source, destination=found)
            self.reads(v2(block, kind=0x31), header)
            self.assertIs(header.transport, TransportProtocol.STREAM)
            self.reads(
                v2(block, kind=0x32), attrs.evolve(header, transport=TransportProtocol.DATAGRAM)
            )

    def test_local(self) -> None:
        """Whatever a LOCAL header has, it is valid, and its addresses are discarded."""
        local = ProxyHeader(is_local=True)
        self.assertIs(local.transport, TransportProtocol.UNSPECIFIED)
        for kind in (0x00, 0x11, 0x21, 0x31, 0x4F, 0xFF):
            self.reads(v2(command=0x20, kind=kind), local)
            self.reads(v2(b"\x01" * 20, command=0x20, kind=kind), local)
        self.reads(v2(ADDRESSES, command=0x20), local)
        named = attrs.evolve(local, tlvs=((0x05, b"id"),))
        self.reads(v2(tlv(5, b"id"), command=0x20, kind=0), named)
        self.reads(v2(ADDRESSES + tlv(5, b"id"), command=0x20), named)

    def test_unspecified(self) -> None:
        """Where one half of the protocol is not known, neither are the addresses."""
        for kind in (0x00, 0x01, 0x02, 0x10, 0x20, 0x30):
            self.reads(v2(kind=kind), ProxyHeader())
            self.reads(v2(b"\xff" * 250, kind=kind), ProxyHeader())
        self.reads(v2(tlv(1, b"h2"), kind=0), ProxyHeader(tlvs=((1, b"h2"),)))

    def test_first_bytes(self) -> None:
        """What the first 16 bytes are refused for, before any other has come."""
        for command in (0x01, 0x10, 0x11, 0x31, 0xF1):
            self.refuses(v2(command=command), f"the PROXY header is of version {command >> 4}")
        for command in (0x22, 0x2F):
            self.refuses(
                v2(command=command), f"the PROXY header has the unknown command {command & 15}"
            )
        for kind in (0x03, 0x13, 0x1F, 0x40, 0x41, 0xF1, 0xFF):
            self.refuses(
                v2(kind=kind), f"the PROXY header has the unknown family and protocol 0x{kind:02x}"
            )
        for kind, size in ((0x11, 12), (0x12, 12), (0x21, 36), (0x22, 36), (0x31, 216)):
            self.refuses(
                v2(kind=kind, size=size - 1),
                f"the PROXY header has {size - 1} bytes for addresses that need {size}",
            )

    def test_limit(self) -> None:
        """A header that says that it is too large is refused when it has said it."""
        block = ADDRESSES + tlv(4, bytes(4096 - 12 - 3))
        self.assertEqual(len(v2(block)), LARGEST_HEADER)
        self.assertIsInstance(read(v2(block))[0], ProxyHeader)
        self.refuses(v2(size=4097), "the PROXY header has 4113 bytes, more than 4112")
        self.refuses(v2(size=0xFFFF), "the PROXY header has 65551 bytes, more than 4112")
        self.assertEqual(read(v2(ADDRESSES), limit=28), (FACTS, b""))
        self.assertEqual(
            read(v2(ADDRESSES), limit=27)[0], "the PROXY header has 28 bytes, more than 27"
        )

    def test_tlvs(self) -> None:
        """All are there, in their order, also those of types that are not known."""
        tlvs = ((0x04, b""), (0xE0, b"ours"), (0x01, b"h2"), (0xE0, b"ours too"), (0xFF, b"\0"))
        self.reads(
            v2(ADDRESSES + b"".join(tlv(*each) for each in tlvs)), attrs.evolve(FACTS, tlvs=tlvs)
        )

    def test_lengths(self) -> None:
        """TLVs fill what they are in, exactly."""
        sentence = "a TLV of the PROXY header reaches beyond the end of what it is in"
        for end in (b"\x01", b"\x01\0", b"\x01\0\x01", b"\x01\xff\xff" + bytes(99)):
            self.refuses(v2(ADDRESSES + end), sentence)
            self.refuses(v2(ADDRESSES + tlv(4, b"x") + end), sentence)
            self.refuses(v2(ADDRESSES + tlv(0x20, b"\1\0\0\0\0" + end)), sentence)

    def test_values(self) -> None:
        for size in range(5):
            self.refuses(
                v2(ADDRESSES + tlv(0x20, bytes(size))),
                f"the PROXY header's TLV of TLS has {size} bytes, less than 5",
            )
        self.assertIsInstance(read(v2(ADDRESSES + tlv(5, bytes(128))))[0], ProxyHeader)
        self.refuses(
            v2(ADDRESSES + tlv(5, bytes(129))),
            "the PROXY header's unique ID has 129 bytes, more than 128",
        )

    def test_checksum(self) -> None:
        """A checksum is verified wherever it is among the TLVs."""
        first = v2(ADDRESSES + tlv(3, bytes(4)) + tlv(1, b"h2"))
        right = crc32c(first)
        at = 28 + 3
        made = first[:at] + right.to_bytes(4, "big") + first[at + 4 :]
        header, rest = read(made + REQUEST)
        assert isinstance(header, ProxyHeader), header
        self.assertEqual((header.crc32c, header.alpn, rest), (right, b"h2", REQUEST))
        for place in (17, 27, at, at + 3, len(made) - 1):
            changed = bytearray(made)
            changed[place] ^= 0x10
            sentence = read(bytes(changed))[0]
            assert isinstance(sentence, str), sentence
            self.assertIn("the PROXY header has the checksum 0x", sentence)
        for wrong in (tlv(3, b""), tlv(3, bytes(3)), tlv(3, bytes(5)), 2 * tlv(3, bytes(4))):
            self.refuses(
                v2(ADDRESSES + wrong), "the PROXY header's checksum is not one of four bytes"
            )

    def test_published_checksums(self) -> None:
        """What the tests hold the checksums of headers against: RFC 3720, appendix B.4."""
        for data, checksum in (
            (bytes(32), "aa 36 91 8a"),
            (b"\xff" * 32, "43 ab a8 62"),
            (bytes(range(32)), "4e 79 dd 46"),
            (bytes(range(31, -1, -1)), "5c db 3f 11"),
        ):
            self.assertEqual(crc32c(data).to_bytes(4, "little"), bytes.fromhex(checksum))

    def test_checksum_of_local(self) -> None:
        """A checksum counts even where the addresses do not."""
        made = dump_v2(ProxyHeader(is_local=True), crc32c=True)
        self.assertIsInstance(read(made)[0], ProxyHeader)
        # Somebody's connection may not become a local one by a single wrong bit.
        turned = bytearray(dump_v2(FACTS, crc32c=True))
        turned[12] ^= 1
        for data in (made[:-1] + bytes([made[-1] ^ 1]), bytes(turned)):
            self.assertIn("checksum", str(read(data)[0]))


class ReaderTests(SynchronousTestCase):
    """L{HeaderReader}, whatever it reads."""

    def test_rest(self) -> None:
        """Not one byte is missing, whichever piece the header has ended in."""
        for data in (LINE, v2(ADDRESSES), dump_v2(FACTS, crc32c=True)):
            for at in range(len(data)):
                reader = HeaderReader()
                self.assertIsNone(reader.feed(data[:at]))
                self.assertEqual(reader.rest, data[:at])
                self.assertIsNotNone(reader.feed(data[at:] + data + b"\r\n"))
                self.assertEqual(reader.rest, data + b"\r\n")
                self.assertIs(type(reader.rest), bytes)

    def test_done(self) -> None:
        """No second header is read from what the client sends."""
        reader = HeaderReader()
        self.assertIsNotNone(reader.feed(LINE))
        self.assertRaises(RuntimeError, reader.feed, LINE)
        self.assertEqual(reader.rest, b"")
        reader = HeaderReader()
        self.assertRaises(MalformedHeader, reader.feed, b"x")
        self.assertRaises(RuntimeError, reader.feed, LINE)

    def test_memory(self) -> None:
        """What is not complete takes no more than the largest header, byte by byte."""
        largest = v2(ADDRESSES, size=4096).ljust(LARGEST_HEADER - 1, b"\0")
        for data, most in ((b"PROXY UNKNOWN".ljust(106), 106), (largest, LARGEST_HEADER - 1)):
            reader = HeaderReader()
            tracemalloc.start()
            try:
                for at in range(len(data)):
                    self.assertIsNone(reader.feed(data[at : at + 1]))
                self.assertLess(tracemalloc.get_traced_memory()[1], 3 * most + 4096)
            finally:
                tracemalloc.stop()
            self.assertEqual(reader.rest, data)

    def test_starts_like_header(self) -> None:
        for signature in (b"PROXY ", SIGNATURE):
            for size in range(len(signature)):
                self.assertIsNone(starts_like_header(signature[:size]))
                self.assertIs(starts_like_header(signature[:size] + b"\xee"), False)
            self.assertIs(starts_like_header(signature), True)
            self.assertIs(starts_like_header(signature + b"\xee"), True)
        self.assertIs(starts_like_header(b"\x16\x03\x01"), False)

    def test_no_reactor(self) -> None:
        """No reactor is imported, and none of OpenSSL by these modules."""
        program = (
            "import sys, types\n"
            "package = sys.modules['twisted_bioconn'] = types.ModuleType('twisted_bioconn')\n"
            "package.__path__ = ['twisted_bioconn']\n"
            "import twisted_bioconn.proxy_protocol\n"
            "roots = {name.partition('.')[0] for name in sys.modules}\n"
            "sys.exit(', '.join(roots & {'OpenSSL', 'twisted'}) or 0)\n"
        )
        root = __file__.rpartition("/tests/")[0]
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))


class WritingTests(SynchronousTestCase):
    """L{dump_v1} and L{dump_v2}."""

    def refuses(self, header: ProxyHeader, sentence: str) -> None:
        """Neither version is written."""
        for dump in (dump_v1, dump_v2):
            self.assertEqual(str(self.assertRaises(ValueError, dump, header)), sentence)

    def test_v1(self) -> None:
        self.assertEqual(dump_v1(FACTS), LINE)
        self.assertEqual(dump_v1(attrs.evolve(FACTS, tlvs=((1, b"h2"),))), LINE)

    def test_v2(self) -> None:
        self.assertEqual(dump_v2(FACTS), v2(ADDRESSES))
        self.assertEqual(dump_v2(ProxyHeader(is_local=True)), v2(command=0x20, kind=0))
        self.assertEqual(dump_v2(ProxyHeader()), v2(kind=0))

    def test_unknown(self) -> None:
        """The first version has no name for what is not TCP."""
        for header in (
            ProxyHeader(),
            ProxyHeader(is_local=True),
            ProxyHeader(source=b"/a", destination=b"/b"),
            attrs.evolve(FACTS, transport=TransportProtocol.DATAGRAM),
        ):
            self.assertEqual(dump_v1(header), b"PROXY UNKNOWN\r\n")

    def test_mixed(self) -> None:
        """An IPv4 address is told as an IPv6 one where the other is such."""
        header = ProxyHeader(
            source=ProxyAddress("fe80::1%eth0", 1), destination=ProxyAddress("192.0.2.1", 2)
        )
        self.assertEqual(dump_v1(header), b"PROXY TCP6 fe80::1 ::ffff:192.0.2.1 1 2\r\n")
        self.assertEqual(
            read(dump_v2(header))[0],
            ProxyHeader(
                source=ProxyAddress("fe80::1", 1),
                destination=ProxyAddress("::ffff:192.0.2.1", 2),
            ),
        )

    def test_checksum_of_other_bytes(self) -> None:
        """A header that goes on has no checksum that was another's."""
        header, _ = read(dump_v2(FACTS, crc32c=True))
        assert isinstance(header, ProxyHeader)
        self.assertEqual(dump_v2(header), v2(ADDRESSES))
        further = attrs.evolve(header, source=ProxyAddress("192.0.2.1", 1))
        found, _ = read(dump_v2(further, crc32c=True))
        assert isinstance(found, ProxyHeader)
        self.assertEqual([number for number, _ in found.tlvs], [3])
        self.assertNotEqual(found.crc32c, header.crc32c)

    def test_no_address(self) -> None:
        for host in ("localhost", "", "1.2.3", "01.2.3.4", "::g", "1.2.3.4\0", "é"):
            self.refuses(
                attrs.evolve(FACTS, source=ProxyAddress(host, 1)),
                f"a PROXY header cannot tell the host {host!r}: no IP address",
            )
        for port in (-1, 65536):
            self.refuses(
                attrs.evolve(FACTS, destination=ProxyAddress("192.0.2.1", port)),
                f"a PROXY header cannot tell the port {port}",
            )

    def test_no_path(self) -> None:
        for path in (b"/" * 109, b"/a\0b", b"/a\0", b"\0", b"\0a\0"):
            header = ProxyHeader(source=path, destination=b"")
            error = self.assertRaises(ValueError, dump_v2, header)
            self.assertEqual(str(error), f"a PROXY header cannot tell the path {path!r}")

    def test_no_pair(self) -> None:
        address = ProxyAddress("192.0.2.1", 1)
        for source, destination in ((address, None), (None, address), (address, b"/run/s")):
            self.refuses(
                ProxyHeader(source=source, destination=destination),
                "a PROXY header needs two addresses of the internet, or two paths, and not"
                f" {source!r} and {destination!r}",
            )

    def test_no_addresses_to_tell(self) -> None:
        for changes in ({"is_local": True}, {"transport": TransportProtocol.UNSPECIFIED}):
            self.refuses(
                attrs.evolve(FACTS, **changes),
                "a PROXY header that is local or of no protocol tells no addresses",
            )

    def test_too_long(self) -> None:
        """Nothing is cut off."""
        for tlvs, sentence in (
            (
                ((0xE0, bytes(65536)),),
                "a PROXY header cannot tell the TLV 0xe0 of 65536 bytes: 65535 are the most",
            ),
            (
                ((0x05, bytes(129)),),
                "a PROXY header cannot tell the unique ID of 129 bytes: 128 are the most",
            ),
            (
                ((0xE0, bytes(40000)), (0xE1, bytes(30000))),
                "the PROXY header would have 70018 bytes after its first 16, and 65535 are the"
                " most",
            ),
            (((256, b""),), "a PROXY header cannot tell a TLV of the type 256"),
            (((-1, b""),), "a PROXY header cannot tell a TLV of the type -1"),
        ):
            error = self.assertRaises(ValueError, dump_v2, attrs.evolve(FACTS, tlvs=tlvs))
            self.assertEqual(str(error), sentence)
        exact = attrs.evolve(FACTS, tlvs=((0xE0, bytes(65535 - 12 - 3)),))
        self.assertEqual(read(dump_v2(exact), limit=65551)[0], exact)
