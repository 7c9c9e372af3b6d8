"""L{twisted_bioconn.proxy_protocol}: what holds of all headers."""

from __future__ import annotations

import attrs
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy_material import LINE, NO_HEADER, TLS_TLV, cut, read
from twisted_bioconn.proxy_protocol import (
    ProxyAddress,
    ProxyHeader,
    TransportProtocol,
    dump_v1,
    dump_v2,
    starts_like_header,
)

PORTS = st.integers(0, 65535)
PATHS = st.one_of(
    st.binary(max_size=108).map(lambda path: path.replace(b"\0", b"/")),
    st.binary(min_size=1, max_size=107).map(lambda name: b"\0" + name[:-1] + b"x"),
)


@st.composite
def addresses(draw: st.DrawFn) -> tuple[ProxyAddress, ProxyAddress]:
    """Two addresses of the same family."""
    hosts = st.ip_addresses(v=draw(st.sampled_from([4, 6])))
    # The spelling is that of the system, which writes some IPv6 addresses with dots.
    first, second = (
        read(f"PROXY TCP{host.version} {host} {host} 0 0\r\n".encode())[0]
        for host in (draw(hosts), draw(hosts))
    )
    assert isinstance(first, ProxyHeader) and isinstance(first.source, ProxyAddress)
    assert isinstance(second, ProxyHeader) and isinstance(second.source, ProxyAddress)
    return (
        ProxyAddress(first.source.host, draw(PORTS)),
        ProxyAddress(second.source.host, draw(PORTS)),
    )


@st.composite
def headers(draw: st.DrawFn) -> ProxyHeader:
    """Headers of version 2."""
    values = st.tuples(
        st.integers(0, 255).filter(lambda number: number not in (0x03, 0x20)),
        st.binary(max_size=100),
    )
    tls = st.just((0x20, TLS_TLV))
    tlvs = tuple(draw(st.lists(values | tls, max_size=5)))
    ends = draw(st.none() | addresses() | st.tuples(PATHS, PATHS))
    if ends is None:
        return ProxyHeader(is_local=draw(st.booleans()), tlvs=tlvs)
    return ProxyHeader(
        source=ends[0],
        destination=ends[1],
        transport=draw(st.sampled_from([TransportProtocol.STREAM, TransportProtocol.DATAGRAM])),
        tlvs=tlvs,
    )


WIRE = st.one_of(
    headers().map(dump_v2),
    headers().map(lambda header: dump_v2(header, crc32c=True)),
    headers().map(dump_v1),
)


class PropertyTests(SynchronousTestCase):
    """What holds of all headers."""

    @given(addresses(), st.binary(max_size=50))
    def test_v1_comes_back(self, ends: tuple[ProxyAddress, ProxyAddress], rest: bytes) -> None:
        header = ProxyHeader(source=ends[0], destination=ends[1], version=1)
        line = dump_v1(header)
        self.assertEqual(read(line + rest), (header, rest))
        self.assertLessEqual(len(line), 104)

    @given(headers(), st.booleans(), st.binary(max_size=50))
    def test_v2_comes_back(self, header: ProxyHeader, checksum: bool, rest: bytes) -> None:
        made = dump_v2(header, crc32c=checksum)
        found, left = read(made + rest)
        assert isinstance(found, ProxyHeader), found
        if checksum:
            self.assertEqual(found.tlvs[-1][0], 0x03)
            found = attrs.evolve(found, tlvs=found.tlvs[:-1])
        self.assertEqual((found, left), (header, rest))

    @given(WIRE | st.binary(max_size=200), st.binary(max_size=20), st.lists(st.integers(0, 999)))
    def test_any_pieces(self, data: bytes, rest: bytes, at: list[int]) -> None:
        """The same comes of the same bytes, in whatever pieces they come."""
        self.assertEqual(read(*cut(data + rest, at)), read(data + rest))

    @given(WIRE, st.integers(0, 999))
    def test_truncated(self, data: bytes, size: int) -> None:
        """Of a part nothing is known yet."""
        part = data[: size % len(data)]
        self.assertEqual(read(part), (None, part))

    @given(WIRE, st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), min_size=1))
    @example(LINE, [(6, 0xFF)])
    def test_changed(self, data: bytes, changes: list[tuple[int, int]]) -> None:
        """Whatever is changed, it is a header, or not yet one, or none; all of it can be asked."""
        changed = bytearray(data)
        for place, byte in changes:
            changed[place % len(data)] = byte
        header, rest = read(bytes(changed))
        if isinstance(header, ProxyHeader):
            self.assertTrue(bytes(changed).endswith(rest))
            _ = (header.alpn, header.authority, header.crc32c, header.unique_id, header.netns)
            _ = header.tls
            has_none = header.transport is TransportProtocol.UNSPECIFIED
            self.assertEqual((header.source is None, header.destination is None), (has_none,) * 2)
            again, _ = read(dump_v2(header))
            assert isinstance(again, ProxyHeader)
            self.assertEqual(again.source, header.source)

    @given(st.binary())
    def test_garbage(self, data: bytes) -> None:
        """Nothing but L{MalformedHeader} is raised, and the two functions agree."""
        found, _ = read(data)
        starts = starts_like_header(data)
        if starts is False:
            self.assertEqual(found, NO_HEADER)
        elif starts is None:
            self.assertIsNone(found)

    @given(headers(), st.integers(0, 999), st.integers(1, 255))
    def test_checksum(self, header: ProxyHeader, at: int, flip: int) -> None:
        """With a checksum, no change of a byte after the first 16 goes unseen."""
        header = attrs.evolve(header, tlvs=())
        made = bytearray(dump_v2(header, crc32c=True))
        # The type and the length of the TLV say that this is a checksum.
        places = [*range(16, len(made) - 7), *range(len(made) - 4, len(made))]
        made[places[at % len(places)]] ^= flip
        self.assertIn("checksum", str(read(bytes(made))[0]))
