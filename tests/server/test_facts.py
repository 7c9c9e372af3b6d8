"""Tests for L{twisted_bioconn.server.facts}."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime, timedelta

from attrs import evolve
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.negotiated import Negotiated
from twisted_bioconn.server.facts import (
    Fact,
    Story,
    Visitor,
    as_json,
    as_text,
    decoded,
    printable,
    tell,
    whole_sentence,
)

NOW = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())


# What a browser of today negotiates.
USUAL = Negotiated(
    version="TLSv1.3",
    cipher="TLS_AES_128_GCM_SHA256",
    group="X25519MLKEM768",
    alpn=b"h2",
    server_name="localhost",
    resumed=False,
    peer_chain=(),
    handshake_seconds=0.00421,
)


def certificate(
    subject: str | None = "alice", issuer: str = "An Authority", left: timedelta = timedelta(30)
) -> x509.Certificate:
    """A certificate that is valid for so long from L{NOW}."""

    def name(common: str | None) -> x509.Name:
        return x509.Name(
            [] if common is None else [x509.NameAttribute(NameOID.COMMON_NAME, common)]
        )

    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(365))
        .not_valid_after(NOW + left)
    )
    return builder.sign(KEY, SHA256())


def damaged() -> x509.Certificate:
    """A certificate whose names are no UTF-8, as an unverified client can send one."""
    octets = certificate("alice", "alice").public_bytes(Encoding.DER)
    return x509.load_der_x509_certificate(octets.replace(b"alice", b"\xff" * 5))


def story(
    negotiated: Negotiated | None = USUAL,
    visitor: Visitor | None = Visitor("127.0.0.1", 54321),  # noqa: B008
    authority_file: str | None = None,
) -> Story:
    """The story of a connection."""
    return tell(
        negotiated,
        visitor,
        authority="localhost:8443",
        authority_file=authority_file,
        protocol=b"HTTP/1.1",
        now=NOW,
    )


def headline(told: Story) -> str:
    """The first sentence."""
    return "".join(told.headline)


def facts(told: Story) -> dict[str, Fact]:
    """The rows by their labels."""
    rows = {fact.label: fact for fact in told.facts}
    assert len(rows) == len(told.facts), "two rows have the same label"
    return rows


class HeadlineTests(SynchronousTestCase):
    """The sentence that says it in plain words."""

    def test_hybrid(self) -> None:
        """TLS 1.3 with a hybrid group: both are named, and what is between the ends."""
        told = story()
        self.assertEqual(
            headline(told),
            "Your connection is encrypted with TLS 1.3, with a key exchange that also resists"
            " quantum computers.",
        )
        self.assertEqual(told.headline[1::2], ("TLS 1.3", "resists quantum computers"))
        self.assertEqual(told.state, "hybrid")
        self.assertEqual(told.strands, ("X25519", "ML-KEM-768"))
        self.assertIn("unless both of the algorithms below fall", told.lede)

    def test_postQuantumAlone(self) -> None:
        """A post-quantum group that is no hybrid resists, but stands on one leg."""
        told = story(evolve(USUAL, group="MLKEM1024"))
        self.assertIn("resists quantum computers", headline(told))
        self.assertEqual(told.state, "classical")
        self.assertEqual(told.strands, ("ML-KEM-1024",))
        self.assertIn("unless ML-KEM falls", told.lede)

    def test_classical(self) -> None:
        """TLS 1.3 with a curve alone: nothing is claimed about quantum computers but the doubt."""
        told = story(evolve(USUAL, group="x25519"))
        self.assertEqual(headline(told), "Your connection is encrypted with TLS 1.3.")
        self.assertEqual(told.state, "classical")
        self.assertIn("might one day read", told.lede)

    def test_unknownGroup(self) -> None:
        """Where the group is not known, neither resistance nor doubt is claimed."""
        told = story(evolve(USUAL, group=None))
        self.assertEqual(headline(told), "Your connection is encrypted with TLS 1.3.")
        self.assertNotIn("quantum", told.lede)
        self.assertEqual(told.strands, ("TLS 1.3",))

    def test_tls12(self) -> None:
        """TLS 1.2 is called what it is."""
        told = story(evolve(USUAL, version="TLSv1.2", group="secp256r1"))
        self.assertEqual(
            headline(told),
            "Your connection is encrypted with TLS 1.2, the version before the newest.",
        )
        self.assertEqual(told.state, "classical")

    def test_outdated(self) -> None:
        """What RFC 8996 deprecates is called outdated, under its right name."""
        for version, name in {"TLSv1.1": "TLS 1.1", "TLSv1": "TLS 1.0", "SSLv3": "SSLv3"}.items():
            told = story(evolve(USUAL, version=version, group=None))
            self.assertEqual(
                headline(told),
                f"Your connection is encrypted, but with {name}, which is outdated.",
            )
            self.assertEqual(told.state, "dated")
            self.assertEqual(facts(told)["Version"].value, name)

    def test_certificateIsChecked(self) -> None:
        """No secrecy is promised to a client that did not check who it talks to."""
        for negotiated in (
            USUAL,
            evolve(USUAL, group="x25519"),
            evolve(USUAL, version="TLSv1.2", group=None),
        ):
            self.assertIn(
                "provided that your client checked this server's certificate",
                story(negotiated).lede,
            )

    def test_plain(self) -> None:
        """Without TLS, it says so, and no row pretends otherwise."""
        told = story(None)
        self.assertEqual(headline(told), "Your connection is not encrypted.")
        self.assertEqual(told.state, "plain")
        self.assertEqual(told.strands, ("plain text",))
        self.assertIn("read and change", told.lede)
        self.assertEqual(
            {label: fact.value for label, fact in facts(told).items()},
            {
                "Encryption": "none",
                "Protocol": "HTTP/1.1",
                "Your address": "127.0.0.1, port 54321",
            },
        )


class FactTests(SynchronousTestCase):
    """The rows."""

    def test_usual(self) -> None:
        """Every fact has its row, and every row says what it means."""
        rows = facts(story())
        self.assertEqual(
            {label: fact.value for label, fact in rows.items()},
            {
                "Version": "TLS 1.3",
                "Cipher": "TLS_AES_128_GCM_SHA256",
                "Key exchange": "X25519MLKEM768",
                "Protocol (ALPN)": "h2",
                "Server name (SNI)": "localhost",
                "Session": "new",
                "Client certificate": "none",
                "Handshake time": "4.2 ms",
                "Your address": "127.0.0.1, port 54321",
            },
        )
        for fact in rows.values():
            self.assertTrue(fact.meaning.endswith("."), fact)

    def test_absent(self) -> None:
        """What was not negotiated or not measured is said to be so."""
        rows = facts(
            story(
                evolve(USUAL, group=None, alpn=None, server_name=None, handshake_seconds=None),
                visitor=None,
            )
        )
        for label, value in {
            "Key exchange": "not known",
            "Protocol (ALPN)": "none",
            "Server name (SNI)": "none sent",
            "Handshake time": "not measured",
            "Your address": "not known",
        }.items():
            self.assertEqual(rows[label].value, value)

    def test_groups(self) -> None:
        """Each kind of group is told from the others, in any case of letters."""
        for group, value, stress, strands in (
            ("X25519MLKEM768", None, "post-quantum hybrid", ("X25519", "ML-KEM-768")),
            ("SecP256r1MLKEM768", None, "post-quantum hybrid", ("P-256", "ML-KEM-768")),
            ("SecP384r1MLKEM1024", None, "post-quantum hybrid", ("P-384", "ML-KEM-1024")),
            ("curveSM2MLKEM768", None, "post-quantum hybrid", ("SM2", "ML-KEM-768")),
            ("MLKEM768", None, "post-quantum", ("ML-KEM-768",)),
            ("x25519", "X25519", "not post-quantum", ("X25519",)),
            ("prime256v1", None, "not post-quantum", ("P-256",)),
            ("ffdhe2048", None, "not post-quantum", ("ffdhe2048",)),
        ):
            told = story(evolve(USUAL, group=group))
            fact = facts(told)["Key exchange"]
            self.assertEqual((fact.value, fact.stress), (value or group, stress))
            self.assertEqual(told.strands, strands)

    def test_ciphers(self) -> None:
        """The explanation is of that cipher."""
        for cipher, words in {
            "TLS_AES_256_GCM_SHA384": "AES with a 256-bit key, in a mode that notices",
            "TLS_AES_128_CCM_SHA256": "AES with a 128-bit key, in a mode that notices",
            "ECDHE-RSA-AES128-SHA": "AES with a 128-bit key in CBC mode",
            "TLS_CHACHA20_POLY1305_SHA256": "ChaCha20",
            "ECDHE-RSA-CAMELLIA128-SHA256": "What encrypts the data",
        }.items():
            self.assertIn(words, facts(story(evolve(USUAL, cipher=cipher)))["Cipher"].meaning)

    def test_resumed(self) -> None:
        """A resumed session is told from a new one."""
        self.assertEqual(facts(story(evolve(USUAL, resumed=True)))["Session"].value, "resumed")

    def test_alpn(self) -> None:
        """A protocol is explained where it is known."""
        for alpn, words in {
            b"h2": "HTTP/2,",
            b"http/1.1": "HTTP/1.1,",
            b"imap": "The protocol spoken inside,",
        }.items():
            fact = facts(story(evolve(USUAL, alpn=alpn)))["Protocol (ALPN)"]
            self.assertEqual(fact.value, alpn.decode())
            self.assertTrue(fact.meaning.startswith(words), fact.meaning)

    def test_clientCertificate(self) -> None:
        """Subject, issuer and expiry of the client's own certificate, not of its issuer's."""
        chain = (certificate(), certificate("An Authority", "A Root"))
        rows = facts(story(evolve(USUAL, peer_chain=chain)))
        self.assertEqual(rows["Client certificate"].value, "CN=alice")
        self.assertEqual(rows["Issued by"].value, "CN=An Authority")
        self.assertEqual(rows["Valid until"].value, "2026-07-31 12:00 UTC")
        self.assertEqual(rows["Valid until"].meaning, "It expires in 30 days.")

    def test_remaining(self) -> None:
        """How long is left, or how long ago it was, in the largest unit that fits."""
        for left, words in {
            timedelta(1): "It expires in 1 day.",
            timedelta(hours=23, minutes=59): "It expires in 23 hours.",
            timedelta(minutes=59): "It expires in 59 minutes.",
            timedelta(0): "It expires in 0 minutes.",
            timedelta(minutes=-1): "It expired 1 minute ago.",
            timedelta(hours=-2): "It expired 2 hours ago.",
            timedelta(-3): "It expired 3 days ago.",
        }.items():
            rows = facts(story(evolve(USUAL, peer_chain=(certificate(left=left),))))
            self.assertEqual(rows["Valid until"].meaning, words)

    def test_emptySubject(self) -> None:
        """A certificate may have no subject (RFC 5280, section 4.1.2.6)."""
        rows = facts(story(evolve(USUAL, peer_chain=(certificate(None),))))
        self.assertEqual(rows["Client certificate"].value, "empty")

    def test_unreadable(self) -> None:
        """A certificate that does not parse costs a row its value, not the visitor the page."""
        negotiated = evolve(USUAL, peer_chain=(damaged(),))
        rows = facts(story(negotiated))
        self.assertEqual(rows["Client certificate"].value, "unreadable")
        self.assertEqual(rows["Issued by"].value, "unreadable")
        self.assertEqual(rows["Valid until"].value, "2026-07-31 12:00 UTC")
        self.assertIsNone(json.loads(as_json(negotiated, None))["client_certificate"]["subject"])

    def test_visitor(self) -> None:
        """A visitor without a port has none shown."""
        told = story(visitor=Visitor("a UNIX socket"))
        self.assertEqual(facts(told)["Your address"].value, "a UNIX socket")
        self.assertEqual(told.visitor, "a UNIX socket")


class SuggestionTests(SynchronousTestCase):
    """The commands to try next."""

    def commands(self, negotiated: Negotiated | None, file: str | None = None) -> list[str]:
        """The commands alone."""
        return [s.command for s in story(negotiated, authority_file=file).suggestions]

    def test_hybrid(self) -> None:
        """Each changes one fact of the visitor's."""
        self.assertEqual(
            self.commands(USUAL),
            [
                "curl https://localhost:8443/",
                "curl https://localhost:8443/facts.json",
                "curl --http1.1 https://localhost:8443/",
                "curl --tls-max 1.2 https://localhost:8443/",
                "curl --curves X25519 https://localhost:8443/",
                "curl --http1.1 --header 'Connection: close' https://localhost:8443/"
                " https://localhost:8443/",
            ],
        )

    def test_others(self) -> None:
        """What the visitor has not got is what is offered."""
        commands = self.commands(evolve(USUAL, version="TLSv1.2", group="x25519", alpn=b"http/1.1"))
        self.assertIn("curl --http2 https://localhost:8443/", commands)
        self.assertIn("curl --tlsv1.3 https://localhost:8443/", commands)
        self.assertIn("curl --curves X25519MLKEM768 https://localhost:8443/", commands)

    def test_authorityFile(self) -> None:
        """Every command trusts the authority whose file it is, whatever the file is called."""
        name = "/home/o'neil/my state/authority.pem"
        for command in self.commands(USUAL, name):
            self.assertEqual(shlex.split(command)[:3], ["curl", "--cacert", name])

    def test_plain(self) -> None:
        """Without TLS there is nothing to try about it."""
        self.assertEqual(
            self.commands(None, "authority.pem"),
            ["curl http://localhost:8443/", "curl http://localhost:8443/facts.json"],
        )


class TextTests(SynchronousTestCase):
    """The text for a terminal."""

    def test_layout(self) -> None:
        """The headline, the values below each other, the commands."""
        lines = as_text(story()).splitlines()
        self.assertEqual(
            lines[:7],
            [
                "Your connection is encrypted with TLS 1.3, with a key exchange that also",
                "resists quantum computers.",
                "",
                "  Version             TLS 1.3",
                "  Cipher              TLS_AES_128_GCM_SHA256",
                "  Key exchange        X25519MLKEM768  (post-quantum hybrid)",
                "  Protocol (ALPN)     h2",
            ],
        )
        self.assertIn("    curl --http1.1 https://localhost:8443/", lines)

    @given(
        st.builds(
            Negotiated,
            st.text(),
            st.text(),
            st.none() | st.text() | st.text().map("{}MLKEM768".format),
            st.none() | st.binary(),
            st.none() | st.text(),
            st.booleans(),
            st.just(()),
        )
    )
    def test_anything(self, negotiated: Negotiated) -> None:
        """Whatever a peer sends, a terminal is given nothing to obey."""
        told = story(negotiated)
        for line in as_text(told).split("\n"):
            self.assertTrue(line.isprintable(), line)
        for fact in told.facts:
            self.assertTrue(fact.value.isprintable(), fact)
            self.assertTrue(fact.meaning.isprintable(), fact)
        for piece in (*told.headline, told.lede, *told.strands):
            self.assertTrue(piece.isprintable(), piece)


class PrintableTests(SynchronousTestCase):
    """L{printable} and L{decoded}."""

    def test_escapes(self) -> None:
        """What a terminal obeys or what turns text around is shown by its number."""
        self.assertEqual(printable("a\x1b[31mb\u202ec\r\n\x00"), "a\\x1b[31mb\\u202ec\\r\\n\\x00")

    def test_keeps(self) -> None:
        """Letters of any script stay as they are."""
        self.assertEqual(printable("bücher.例え"), "bücher.例え")

    def test_long(self) -> None:
        """A text beyond all measure is cut, one just within it is not."""
        self.assertEqual(printable("x" * 400), "x" * 400)
        self.assertEqual(printable("x" * 401), "x" * 400 + "…")

    def test_sentence(self) -> None:
        """One of our own is told to its end, whatever the length of the paths in it."""
        text = (
            f"{'/x' * 2000} cannot be read, for {'/y' * 2000} is closed to it: a reload would fail"
        )
        self.assertEqual(whole_sentence(text), text)

    def test_decoded(self) -> None:
        """A byte that is no ASCII is shown by its number."""
        self.assertEqual(decoded(b"h2\xff"), "h2\\xff")


class JSONTests(SynchronousTestCase):
    """The bare facts."""

    def test_usual(self) -> None:
        """As they are, not in words."""
        self.assertEqual(
            json.loads(as_json(USUAL, Visitor("::1", 5))),
            {
                "encrypted": True,
                "version": "TLSv1.3",
                "cipher": "TLS_AES_128_GCM_SHA256",
                "group": "X25519MLKEM768",
                "post_quantum": True,
                "hybrid": True,
                "alpn": "h2",
                "server_name": "localhost",
                "resumed": False,
                "client_certificate": None,
                "visitor": {"host": "::1", "port": 5},
                "handshake_seconds": 0.00421,
            },
        )

    def test_classical(self) -> None:
        """A group that is known not to be post-quantum is false, not null."""
        told = json.loads(as_json(evolve(USUAL, group="x25519"), None))
        self.assertIs(told["post_quantum"], False)
        self.assertIs(told["hybrid"], False)

    def test_clientCertificate(self) -> None:
        """The certificate's own facts, times in ISO 8601."""
        leaf = certificate()
        told = json.loads(as_json(evolve(USUAL, peer_chain=(leaf,)), None))
        self.assertEqual(
            told["client_certificate"],
            {
                "subject": "CN=alice",
                "issuer": "CN=An Authority",
                "not_before": "2025-07-01T12:00:00+00:00",
                "not_after": "2026-07-31T12:00:00+00:00",
                "sha256": leaf.fingerprint(SHA256()).hex(),
            },
        )

    def test_plain(self) -> None:
        """Without TLS every key is still there, and every answer is null but the honest one."""
        told = json.loads(as_json(None, None))
        self.assertEqual(told.keys(), json.loads(as_json(USUAL, None)).keys())
        self.assertIs(told.pop("encrypted"), False)
        self.assertEqual(set(told.values()), {None})
