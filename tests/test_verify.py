"""Tests for L{twisted_bioconn.verify}."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase

from tests.engines import EngineCase, on_both_engines
from tests.faults import client_of, meet, server_of
from tests.tls_material import (
    DAY,
    HOST,
    NOW,
    VERSIONS,
    Party,
    authority,
    certificate,
    chained_server,
    client,
    client_connection,
    ec_key,
    expired,
    intermediate,
    nameless,
    not_yet_valid,
    pair,
    rsa_server,
    server,
    server_connection,
    signed_anew,
    stranger,
)
from twisted_bioconn._verification import CERTIFICATE_REJECTED, HOSTNAME_MISMATCH, Verification
from twisted_bioconn.connector import State
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.verify import (
    IP_ADDRESS_MISMATCH,
    CertificateRefused,
    HostVerifier,
    Pin,
    TrustStore,
    explain,
    full_chain,
    is_ip_address,
    names_of,
    subject_of,
    verify_error_string,
)


def named(*names: str, title: str = "x") -> x509.Certificate:
    """A certificate for names and addresses."""
    listed: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address(each)) if is_ip_address(each) else x509.DNSName(each)
        for each in names
    ]
    return certificate(title, authority(), names=listed)


class HostVerifierTests(SynchronousTestCase):
    """Whether a certificate is for a host: RFC 9525."""

    def passes(self, leaf: x509.Certificate, host: str) -> bool:
        try:
            HostVerifier(host)([leaf])
        except CertificateRefused:
            return False
        return True

    def refused(self, verifier: HostVerifier, *chain: x509.Certificate) -> CertificateRefused:
        error: CertificateRefused = self.assertRaises(CertificateRefused, verifier, chain)
        self.assertNotIn("\n", str(error))
        return error

    def test_names(self) -> None:
        """Each of them counts, whatever its case, and none that only resembles one."""
        leaf = named("www.example.org", "Mail.Example.ORG")
        for host, passes in (
            ("www.example.org", True),
            ("WWW.EXAMPLE.ORG", True),
            ("mail.example.org", True),
            ("example.org", False),
            ("xwww.example.org", False),
            ("www.example.org.evil.example", False),
            ("a.www.example.org", False),
        ):
            self.assertEqual(self.passes(leaf, host), passes, host)

    def test_wildcards(self) -> None:
        """The first label alone, the whole of it, and one of it."""
        leaf = named("*.example.org")
        for host, passes in (
            ("www.example.org", True),
            ("WWW.Example.Org", True),
            ("example.org", False),
            ("a.b.example.org", False),
        ):
            self.assertEqual(self.passes(leaf, host), passes, host)
        for pattern in ("*", "*.org", "w*.example.org", "www.*.org", "*.*.example.org"):
            self.assertFalse(self.passes(named(pattern), "www.example.org"), pattern)

    def test_international_names(self) -> None:
        """They are compared as A-labels (RFC 5890): no wildcard is a part of one."""
        leaf = named("xn--bcher-kva.example")
        self.assertTrue(self.passes(leaf, "xn--bcher-kva.example"))
        self.assertTrue(self.passes(leaf, "XN--BCHER-KVA.example"))
        self.assertFalse(self.passes(leaf, "buecher.example"))
        self.assertFalse(self.passes(named("xn--*.example"), "xn--bcher-kva.example"))

    def test_addresses(self) -> None:
        """An address is for an address, however it is written, and a name for a name."""
        leaf = named("192.0.2.7", "2001:db8::7", "fe80::1")
        for host, passes in (
            ("192.0.2.7", True),
            ("192.0.2.8", False),
            ("2001:db8::7", True),
            ("2001:DB8:0:0:0:0:0:7", True),
            ("2001:db8::8", False),
            ("fe80::1%eth0", True),
            ("fe80::2%eth0", False),
            ("www.example.org", False),
        ):
            self.assertEqual(self.passes(leaf, host), passes, host)
        as_name = certificate("x", authority(), names=[x509.DNSName("192.0.2.7")])
        self.assertFalse(self.passes(as_name, "192.0.2.7"))
        self.assertFalse(self.passes(named("*.0.2.7"), "192.0.2.7"))

    def test_mismatch(self) -> None:
        """The sentence says for whom it is, and the number which alert is sent."""
        error = self.refused(HostVerifier("other.example"), server().certificate)
        self.assertEqual(
            str(error),
            "the certificate is not for other.example: it is for www.example.org, 127.0.0.1",
        )
        self.assertEqual(error.x509_error, HOSTNAME_MISMATCH)
        self.assertEqual(len(error.errors), 1)
        error = self.refused(HostVerifier("192.0.2.9"), server().certificate)
        self.assertEqual(error.x509_error, IP_ADDRESS_MISMATCH)
        self.assertIn("the certificate is not for 192.0.2.9", str(error))

    def test_other_kinds_of_names(self) -> None:
        """A certificate for something else than a host is for none."""
        leaf = certificate("x", authority(), names=[x509.RFC822Name("root@www.example.org")])
        error = self.refused(HostVerifier("www.example.org"), leaf)
        self.assertEqual(error.x509_error, HOSTNAME_MISMATCH)

    def test_no_names(self) -> None:
        """Without a subject alternative name it is refused, whatever its common name says."""
        leaf = certificate(HOST, authority())
        for host in (HOST, "127.0.0.1"):
            error = self.refused(HostVerifier(host), leaf)
            self.assertIn(f"CN={HOST} cannot be verified for {host}", str(error))
            self.assertEqual(error.x509_error, HOSTNAME_MISMATCH)
        self.refused(HostVerifier(HOST), nameless().certificate)

    def test_malformed_names(self) -> None:
        """What a parser cannot take is refused, and so is what service_identity cannot."""
        whole = named("www.example.org")
        for old, new in (
            # The length of the name goes past the end.
            (b"\x82\x0fwww", b"\x82\x7fwww"),
            # A name that is no IA5String.
            (b"www.example", b"w\xffw.example"),
            (b"www.example.org", b"*.*.example.org"),
        ):
            der = signed_anew(whole, old, new, authority())
            leaf = x509.load_der_x509_certificate(der)
            error = self.refused(HostVerifier("www.example.org"), leaf)
            self.assertIn("www.example.org", str(error))

    def test_nothing_asked(self) -> None:
        """Without host, pins and check everything passes: OpenSSL has verified it."""
        HostVerifier()([nameless().certificate])

    def test_names_that_are_hard_to_read(self) -> None:
        """Line breaks and endless names of a stranger's do not reach the sentence as they are."""
        odd = named(
            "a" * 60 + ".example", *(f"n{at}.example" for at in range(100)), title="x\nERROR: fake"
        )
        error = self.refused(HostVerifier("other.example"), odd)
        self.assertLess(len(str(error)), 450)
        self.assertTrue(str(error).endswith("..."))
        self.assertEqual(subject_of(odd), "CN=x\\x0aERROR: fake")
        self.refused(HostVerifier(pins=frozenset([Pin(bytes(32))])), odd)

    def test_pins(self) -> None:
        """The leaf's key is one of them, whoever signed it."""
        leaf, other = server().certificate, client().certificate
        pins = frozenset([Pin.of(other), Pin.of(leaf)])
        HostVerifier(pins=pins)([leaf])
        error = self.refused(HostVerifier(pins=frozenset([Pin.of(other)])), leaf, other)
        self.assertEqual(
            str(error),
            f"the key of CN=server is none of the pinned ones: it is {Pin.of(leaf)}",
        )
        self.assertFalse(hasattr(error, "x509_error"))

    def test_callable(self) -> None:
        """It is asked last, and sees the whole chain."""
        asked: list[Sequence[x509.Certificate]] = []
        chain = [server().certificate, authority().certificate]
        HostVerifier(HOST, check=asked.append)(chain)
        self.assertEqual(asked, [chain])
        self.refused(HostVerifier("other.example", check=asked.append), *chain)
        pins = frozenset([Pin(bytes(32))])
        self.refused(HostVerifier(HOST, pins, asked.append), *chain)
        self.assertEqual(len(asked), 1)


class PinTests(SynchronousTestCase):
    """The SHA-256 of a public key."""

    def test_of(self) -> None:
        """By hand: of the SubjectPublicKeyInfo."""
        key = rsa_server().certificate.public_key()
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.assertEqual(Pin.of(rsa_server().certificate).digest, hashlib.sha256(der).digest())

    def test_spellings(self) -> None:
        """Hex and base64, as curl and others print it; and as it prints itself."""
        digest = hashlib.sha256(b"key").digest()
        encoded = base64.b64encode(digest).decode()
        for text in (
            f"sha256:{digest.hex()}",
            f"SHA256:{digest.hex().upper()}",
            f"sha256:{encoded}",
            f"sha256//{encoded}",
            f"  sha256:{encoded}\n",
            str(Pin(digest)),
        ):
            self.assertEqual(Pin.parse(text), Pin(digest))

    def test_what_is_none(self) -> None:
        """One sentence, with the text in it."""
        digest = hashlib.sha256(b"key").digest()
        for text in (
            "",
            "sha256:",
            digest.hex(),
            f"sha1:{digest.hex()}",
            f"sha256:{digest.hex()[:-2]}",
            f"sha256:{'g' * 64}",
            f"sha256:{' ' * 64}",
            f"sha256:{base64.b64encode(digest[:-1]).decode()}",
            f"sha256:{base64.b64encode(digest).decode()[:-1]}",
            "sha256:not base64 at all",
            "sha256:ä",
        ):
            error = self.assertRaises(ConfigurationError, Pin.parse, text)
            self.assertEqual(
                str(error),
                f"the pin {text!r} is not 'sha256:' and 64 hex digits or base64 of 32 bytes",
            )


class NamesTests(SynchronousTestCase):
    """What is read out of certificates for people."""

    def test_names_of(self) -> None:
        """Names, then addresses; none where there are none or they cannot be read."""
        leaf = named("a.example", "2001:db8::1", "b.example")
        self.assertEqual(names_of(leaf), ["a.example", "b.example", "2001:db8::1"])
        self.assertEqual(names_of(nameless().certificate), [])
        der = signed_anew(named("www.example.org"), b"\x82\x0fwww", b"\x82\x7fwww", authority())
        self.assertEqual(names_of(x509.load_der_x509_certificate(der)), [])

    def test_subject_of(self) -> None:
        """The subject; or the serial number where there is no subject, or none to be read."""
        self.assertEqual(subject_of(server().certificate), "CN=server")
        key = ec_key()
        builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([]))
        builder = builder.public_key(key.public_key()).serial_number(0xABC)
        builder = builder.not_valid_before(NOW).not_valid_after(NOW + DAY)
        self.assertEqual(subject_of(builder.sign(key, SHA256())), "serial number abc")
        whole = certificate("title", authority())
        # A UTF8String that is none.
        der = signed_anew(whole, b"\x0c\x05title", b"\x0c\x05t\xfftle", authority())
        leaf = x509.load_der_x509_certificate(der)
        self.assertEqual(subject_of(leaf), f"serial number {leaf.serial_number:x}")

    def test_is_ip_address(self) -> None:
        """Addresses of both families, and nothing else."""
        for host in ("127.0.0.1", "::1", "2001:db8::1", "fe80::1%eth0"):
            self.assertTrue(is_ip_address(host), host)
        for host in ("", "localhost", "127.0.0.1.example", "127.1", "[::1]", "1.2.3.256"):
            self.assertFalse(is_ip_address(host), host)


class ExplainTests(SynchronousTestCase):
    """Why a peer was refused, in one sentence."""

    def explain(
        self,
        code: int,
        certificate: x509.Certificate | None = None,
        failure: BaseException | None = None,
    ) -> str:
        verification = Verification(None)
        verification.code = code
        verification.certificate = certificate
        verification.failure = failure
        return explain(verification)

    def test_refused_by_us(self) -> None:
        """The sentence of the refusal itself, or what was raised, or what it is called."""
        leaf = server().certificate
        self.assertEqual(self.explain(62, leaf, CertificateRefused("no")), "no")
        for failure, words in ((ValueError("odd"), "odd"), (KeyError(), "KeyError")):
            self.assertEqual(
                self.explain(CERTIFICATE_REJECTED, leaf, failure),
                f"the certificate of CN=server was refused: {words}",
            )

    def test_expired(self) -> None:
        """When it was, and how long ago, in a unit that fits."""
        for ago, words in (
            (timedelta(seconds=5), "less than a minute"),
            (timedelta(minutes=1, seconds=30), "1 minute"),
            (timedelta(hours=5, minutes=1), "5 hours"),
            (timedelta(days=1, hours=3), "1 day"),
            (timedelta(days=400), "400 days"),
        ):
            end = datetime.now(UTC) - ago
            leaf = certificate("old", authority(), begin=end - DAY, end=end)
            self.assertEqual(
                self.explain(10, leaf),
                f"the certificate of CN=old expired {words} ago, at {end:%Y-%m-%d %H:%M} UTC",
            )

    def test_not_yet_valid(self) -> None:
        """From when on it will be."""
        begin = not_yet_valid().certificate.not_valid_before_utc
        self.assertEqual(
            self.explain(9, not_yet_valid().certificate),
            f"the certificate of CN=early is valid from {begin:%Y-%m-%d %H:%M} UTC only",
        )

    def test_odd_dates(self) -> None:
        """A date that Python cannot hold is a date all the same."""
        late = datetime(2051, 1, 1, tzinfo=UTC)
        for code, begin, end, words in (
            (10, NOW - DAY, late, "it has expired"),
            (9, late, late + DAY, "it is not valid yet"),
        ):
            whole = certificate("odd", authority(), begin=begin, end=end)
            der = signed_anew(whole, b"20510101000000Z", b"00000101000000Z", authority())
            leaf = x509.load_der_x509_certificate(der)
            self.assertEqual(
                self.explain(code, leaf), f"the certificate of CN=odd does not verify: {words}"
            )

    def test_others(self) -> None:
        """In words where there are any; the number where there are none."""
        leaf = server().certificate
        self.assertEqual(
            self.explain(23, leaf), "the certificate of CN=server does not verify: it was revoked"
        )
        self.assertEqual(
            self.explain(10), "the certificate of the peer does not verify: it has expired"
        )
        self.assertEqual(
            self.explain(9), "the certificate of the peer does not verify: it is not valid yet"
        )
        self.assertEqual(verify_error_string(99), "verification error 99")
        self.assertEqual(str(CertificateRefused("a sentence", errors=[ValueError()])), "a sentence")


class TrustStoreTests(SynchronousTestCase):
    """A leaf outside of a handshake."""

    def store(self, *trusted: x509.Certificate) -> TrustStore:
        made = crypto.X509Store()
        for each in trusted:
            made.add_cert(crypto.X509.from_cryptography(each))
        return TrustStore(made)

    def test_good(self) -> None:
        """The chain that was found, to the authority, with the help of what came along."""
        trust = self.store(authority().certificate)
        leaf, root = server().certificate, authority().certificate
        self.assertEqual(trust.verify([leaf]), (leaf, root))
        chained, middle = chained_server().certificate, intermediate().certificate
        self.assertEqual(trust.verify([chained, middle]), (chained, middle, root))
        self.assertEqual(self.store(root, middle).verify([chained]), (chained, middle, root))

    def test_refused(self) -> None:
        """Why, and with which number."""
        trust = self.store(authority().certificate)
        for party, number, words in (
            (expired(), 10, "it has expired"),
            (not_yet_valid(), 9, "it is not valid yet"),
            (stranger(), 20, "its issuer is not among the trusted authorities"),
            (chained_server(), 20, "its issuer is not among the trusted authorities"),
        ):
            error = self.assertRaises(CertificateRefused, trust.verify, [party.certificate])
            self.assertEqual(
                str(error),
                f"the certificate of {subject_of(party.certificate)} does not verify any more:"
                f" {words}",
            )
            self.assertEqual(error.x509_error, number)


@on_both_engines
class InHandshakesTests(EngineCase):
    """The same inside of handshakes, where the peer is a real one."""

    def test_good(self) -> None:
        """Name, address, pin and a callable, all at once."""
        for version in VERSIONS:
            for host in (HOST, "127.0.0.1"):
                asked: list[Sequence[x509.Certificate]] = []
                check = HostVerifier(host, frozenset([Pin.of(server().certificate)]), asked.append)
                loop = meet(client_of(version), server_of(version), client_check=check)
                loop.pump()
                self.assertEqual((loop.client.state, loop.server.state), (State.OPEN, State.OPEN))
                self.assertEqual(asked, [[server().certificate, authority().certificate]])

    def test_no_names(self) -> None:
        """A certificate with no subject alternative name is refused: this fails closed."""
        for version in VERSIONS:
            loop = meet(
                client_of(version),
                server_of(version, nameless()),
                client_check=HostVerifier("nameless"),
            )
            loop.pump()
            self.assertIn(
                "the certificate of CN=nameless cannot be verified for nameless",
                str(loop.client_error),
            )
            self.assertIs(loop.server.state, State.FAILED)

    def test_odd_date(self) -> None:
        """A certificate that expired in the year 0 raises nothing but a refusal."""
        key = ec_key(3)
        whole = certificate("odd", authority(), key=key, end=datetime(2051, 1, 1, tzinfo=UTC))
        der = signed_anew(whole, b"20510101000000Z", b"00000101000000Z", authority())
        for version in VERSIONS:
            party = Party(x509.load_der_x509_certificate(der), key)
            loop = meet(client_of(version), server_of(version, party), verify_server=True)
            loop.pump()
            assert loop.client_error is not None
            self.assertEqual(
                loop.client_error.sentence,
                "the certificate of CN=odd does not verify: it has expired",
            )

    def test_full_chain(self) -> None:
        """Leaf first, each once; and none before the handshake or where none was shown."""
        for version in VERSIONS:
            connections = pair(version)
            self.assertEqual(full_chain(connections[0]), ())
            loop = meet(client_of(version), server_of(version, chained_server()))
            loop.pump()
            chain = full_chain(loop.client.connection)
            self.assertEqual(chain[:2], (chained_server().certificate, intermediate().certificate))
            self.assertEqual(full_chain(loop.server.connection), ())

    def test_no_chain(self) -> None:
        """A connection that has a leaf and no chain has a chain of one."""

        class Leaf(SSL.Connection):
            """As some old OpenSSL has it in a resumption."""

            def get_peer_cert_chain(self, **_: object) -> None:
                return None

        for version in VERSIONS:
            loop = self.connectors(
                client_connection(client_of(version)), server_connection(server_of(version))
            )
            loop.pump()
            self.patch(SSL.Connection, "get_peer_cert_chain", Leaf.get_peer_cert_chain)
            self.assertEqual(full_chain(loop.client.connection), (server().certificate,))
