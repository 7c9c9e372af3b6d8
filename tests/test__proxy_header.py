"""L{twisted_bioconn._proxy_header}, through what is public of it."""

from __future__ import annotations

from struct import pack
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy_material import FACTS, TLS_TLV, read, tlv
from twisted_bioconn.proxy_protocol import MalformedHeader, ProxyHeader, ProxyTLS, dump_v2, tls_tlvs


class FactsTests(SynchronousTestCase):
    """What the TLVs tell."""

    def test_none(self) -> None:
        for name in ("alpn", "authority", "crc32c", "unique_id", "netns", "tls"):
            self.assertIsNone(getattr(FACTS, name), name)

    def test_all(self) -> None:
        header = ProxyHeader(
            tlvs=(
                (0x01, b"h2"),
                (0x02, "bücher.example".encode()),
                (0x05, b"\0id"),
                (0x20, TLS_TLV),
                (0x30, b"blue"),
            )
        )
        self.assertEqual(
            (header.alpn, header.authority, header.unique_id, header.netns),
            (b"h2", "bücher.example", b"\0id", "blue"),
        )
        self.assertEqual(
            header.tls,
            ProxyTLS(
                verified=True,
                shown_in_connection=True,
                shown_in_session=True,
                version="TLSv1.3",
                common_name="ci",
                client_certificate=b"DER",
            ),
        )

    def test_first(self) -> None:
        """Of several of a kind, the first counts."""
        header = ProxyHeader(tlvs=((2, b"one.example"), (2, b"other.example")))
        self.assertEqual(header.authority, "one.example")

    def test_no_utf8(self) -> None:
        self.assertEqual(ProxyHeader(tlvs=((2, b"a\xff"),)).authority, "a\\xff")

    def test_verified(self) -> None:
        """Only a certificate that was shown is verified: a zero is there without any, too."""
        for client, verify, facts in (
            (0x01, 0, (False, False, False)),
            (0x01, 1, (False, False, False)),
            (0x07, 0, (True, True, True)),
            (0x07, 1, (False, True, True)),
            (0x07, 0x100, (False, True, True)),
            (0x05, 0, (True, False, True)),
            (0x03, 0, (True, True, True)),
            (0xF9, 0, (False, False, False)),
        ):
            tls = ProxyHeader(tlvs=((0x20, pack(">BI", client, verify)),)).tls
            assert tls is not None
            self.assertEqual(
                (tls.verified, tls.shown_in_connection, tls.shown_in_session), facts, client
            )

    def test_without_tls(self) -> None:
        """A client that came without TLS has no facts of it, whatever else is said."""
        self.assertIsNone(ProxyHeader(tlvs=((0x20, b"\x06" + TLS_TLV[1:]),)).tls)

    def test_malformed(self) -> None:
        """Of a header that nobody has read, the facts may make no sense."""
        header = ProxyHeader(tlvs=((0x20, b"\1"),))
        self.assertRaises(MalformedHeader, lambda: header.tls)


class TLSTests(SynchronousTestCase):
    """L{tls_tlvs}."""

    def test_all(self) -> None:
        tlvs = tls_tlvs(
            version="TLSv1.3",
            cipher="TLS_AES_256_GCM_SHA384",
            group="X25519MLKEM768",
            alpn=b"h2",
            authority="bücher.example",
            common_name="Zoë",
            client_certificate=b"DER",
            verified=True,
            signature_algorithm="RSA-SHA256",
            key_algorithm="RSA2048",
            signature_scheme="rsa_pss_rsae_sha256",
        )
        header, _ = read(dump_v2(attrs.evolve(FACTS, tlvs=tlvs)))
        assert isinstance(header, ProxyHeader)
        self.assertEqual([number for number, _ in header.tlvs], [0x01, 0x02, 0x20])
        self.assertEqual((header.alpn, header.authority), (b"h2", "bücher.example"))
        self.assertEqual(
            header.tls,
            ProxyTLS(
                verified=True,
                shown_in_connection=True,
                shown_in_session=True,
                version="TLSv1.3",
                common_name="Zoë",
                cipher="TLS_AES_256_GCM_SHA384",
                group="X25519MLKEM768",
                signature_algorithm="RSA-SHA256",
                key_algorithm="RSA2048",
                signature_scheme="rsa_pss_rsae_sha256",
                client_certificate=b"DER",
            ),
        )

    def test_bytes(self) -> None:
        self.assertEqual(
            tls_tlvs(version="TLSv1.2", client_certificate=b"DER", common_name="ci", verified=True),
            ((0x20, b"\7\0\0\0\0" + tlv(0x21, b"TLSv1.2") + tlv(0x22, b"ci") + tlv(0x28, b"DER")),),
        )
        # Where no certificate was verified, the number may not be zero.
        self.assertEqual(
            tls_tlvs(version="TLSv1.2"), ((0x20, b"\1\0\0\0\1" + tlv(0x21, b"TLSv1.2")),)
        )

    def test_shown(self) -> None:
        """With any fact of a certificate, one was shown."""
        cases: tuple[tuple[dict[str, Any], tuple[bool, bool, bool]], ...] = (
            ({}, (False, False, False)),
            ({"client_certificate": b"DER"}, (False, True, True)),
            ({"common_name": "ci"}, (False, True, True)),
            ({"verified": True}, (True, True, True)),
            ({"verified": True, "resumed": True}, (True, False, True)),
            ({"resumed": True}, (False, False, False)),
        )
        for facts, expected in cases:
            tls = ProxyHeader(tlvs=tls_tlvs(version="TLSv1.3", **facts)).tls
            assert tls is not None
            self.assertEqual(
                (tls.verified, tls.shown_in_connection, tls.shown_in_session), expected, facts
            )

    def test_too_long(self) -> None:
        for facts, sentence in (
            ({"client_certificate": bytes(65536)}, "client certificate of 65536 bytes"),
            ({"common_name": "é" * 32768}, "common name of 65536 bytes"),
            ({"authority": "a" * 65536}, "host name of 65536 bytes"),
            ({"client_certificate": bytes(65535)}, "account of the TLS connection of 65553 bytes"),
        ):
            error = self.assertRaises(ValueError, tls_tlvs, version="TLSv1.3", **facts)
            self.assertEqual(
                str(error), f"a PROXY header cannot tell the {sentence}: 65535 are the most"
            )
