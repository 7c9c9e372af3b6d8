"""Tests for what L{twisted_bioconn.certificates.development} issues."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.trial.unittest import SkipTest

from tests.certificates.material import (
    DAY,
    SECOND,
    AuthorityCase,
    Signer,
    key_pem,
    pem,
)
from twisted_bioconn.certificates.development import (
    LEAF_LIFE,
    LOCAL_NAMES,
    DevelopmentAuthority,
)
from twisted_bioconn.certificates.loading import (
    CertifiedKey,
    load_certificates,
    read_file,
    write_private,
)
from twisted_bioconn.errors import ConfigurationError


class IssueTests(AuthorityCase):
    """What L{DevelopmentAuthority.issue} and its sibling make."""

    def test_server(self) -> None:
        authority = self.authority()
        it = authority.issue()
        self.assertEqual(it.names, LOCAL_NAMES)
        self.assertEqual(it.names, ("localhost", "127.0.0.1", "::1"))
        self.assertEqual(it.chain, (it.leaf,))
        self.assertEqual(it.not_valid_after, self.time + 30 * DAY)
        self.assertLess(it.leaf.not_valid_before_utc, self.time)
        self.check(authority, it, ExtendedKeyUsageOID.SERVER_AUTH)
        self.assertNotEqual(it.leaf.serial_number, authority.issue().leaf.serial_number)
        self.assertEqual(os.listdir(self.state).count("leaf.pem"), 0)

    def test_client(self) -> None:
        authority = self.authority()
        it = authority.issue_client("Alice")
        self.assertEqual(it.leaf.subject.rfc4514_string(), "CN=Alice")
        self.assertEqual(it.names, ("alice",))
        self.check(authority, it, ExtendedKeyUsageOID.CLIENT_AUTH)

    def check(
        self, authority: DevelopmentAuthority, it: CertifiedKey, purpose: x509.ObjectIdentifier
    ) -> None:
        (certificate,) = load_certificates(read_file(authority.certificate_path), "ca.pem")
        it.leaf.verify_directly_issued_by(certificate)
        assert isinstance(it.key, ec.EllipticCurvePrivateKey)
        self.assertIsInstance(it.key.curve, ec.SECP256R1)
        extensions = it.leaf.extensions
        self.assertEqual(
            list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value), [purpose]
        )
        self.assertFalse(extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        self.assertTrue(usage.digital_signature)
        self.assertFalse(usage.key_cert_sign)
        above = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        self.assertEqual(above.key_identifier, own.digest)
        below = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        self.assertEqual(below, x509.SubjectKeyIdentifier.from_public_key(it.leaf.public_key()))

    def test_client_that_is_no_host(self) -> None:
        it = self.authority().issue_client("Alice Müller")
        names = it.leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        self.assertEqual([name.value for name in names], ["Alice Müller"])
        self.assertEqual(it.names, ())

    def test_client_names_refused(self) -> None:
        authority = self.authority()
        authority.issue_client("a" * 64)
        for name in ("", " ", "a" * 65, "a\nb", "a\0b"):
            self.assertEqual(
                self.refusal(authority.issue_client, name),
                f"{name!r} cannot be a client's name: it needs 1 to 64 printable characters",
            )

    def test_spelling(self) -> None:
        """Each name comes in its usual spelling, and once."""
        names = (
            "LOCALHOST",
            "localhost.",
            "2001:DB8:0::1",
            "*.Example.org",
            "*.bücher.example",
            "my_container",
            "localhost",
        )
        self.assertEqual(
            self.authority().issue(names).names,
            (
                "localhost",
                "2001:db8::1",
                "*.example.org",
                "*.xn--bcher-kva.example",
                "my_container",
            ),
        )

    def test_long_name(self) -> None:
        """A DNS name may be longer than a common name."""
        name = ".".join(["a" * 61] * 4) + ".aaaaa"
        self.assertEqual(len(name), 253)
        it = self.authority().issue([name])
        self.assertEqual(it.names, (name,))
        self.assertEqual(it.leaf.subject.rfc4514_string(), "CN=bioconn development")

    def test_names_refused(self) -> None:
        authority = self.authority()
        for name in (
            "",
            ".",
            "a..b",
            "a b",
            "a\n",
            "-a",
            "a-",
            "a" * 64,
            ".".join(["a" * 61] * 4) + ".aaaaaa",
            "*",
            "*.",
            "a.*.b",
            "a*.b",
            "localhost:8443",
            "https://localhost/",
            "[::1]",
            "127.0.0.256",
            "10.0.0",
            "fe80::1%eth0",
            "a/b",
        ):
            sentence = self.refusal_of_name(authority, name)
            self.assertEqual(sentence, f"{name!r} is neither a DNS name nor an IP address")
        self.assertIn(
            "neither a DNS name nor an IP address: ",
            self.refusal_of_name(authority, "\N{SNOWMAN}\N{COMBINING ACUTE ACCENT}"),
        )
        self.assertEqual(
            self.refusal(authority.issue, ()), "a server's certificate needs at least one name"
        )

    def refusal_of_name(self, authority: DevelopmentAuthority, name: str) -> str:
        error = self.assertRaises(ConfigurationError, authority.issue, ["localhost", name])
        return str(error)


class LeafTests(AuthorityCase):
    """The leaf that is kept."""

    def test_kept(self) -> None:
        authority = self.authority()
        leaf = authority.leaf()
        self.assertEqual(leaf.names, LOCAL_NAMES)
        self.assertEqual(authority.leaf(), leaf)
        self.assertEqual(self.authority().leaf(), leaf)
        kept = CertifiedKey.from_files(self.leaf_path)
        self.assertEqual(kept, leaf)
        self.assertEqual(key_pem(kept.key), key_pem(leaf.key))

    def test_renewal(self) -> None:
        """Two thirds of its life, and not a second before."""
        authority = self.authority()
        self.assertEqual(authority.seconds_until_renewal(), 0)
        leaf = authority.leaf()
        wait = authority.seconds_until_renewal()
        life = leaf.not_valid_after - leaf.leaf.not_valid_before_utc
        due = leaf.leaf.not_valid_before_utc + life * 2 / 3
        self.assertEqual(self.time + timedelta(seconds=wait), due)
        self.assertTrue(19 * DAY < timedelta(seconds=wait) < 20 * DAY)
        self.time = due - SECOND
        self.assertEqual(authority.leaf(), leaf)
        self.assertEqual(authority.seconds_until_renewal(), 1)
        self.time = due
        self.assertEqual(authority.seconds_until_renewal(), 0)
        renewed = authority.leaf()
        self.assertNotEqual(renewed, leaf)
        self.assertEqual(renewed.not_valid_after, due + LEAF_LIFE)
        self.assertEqual(authority.seconds_until_renewal(), wait)

    def test_long_overdue(self) -> None:
        authority = self.authority()
        authority.leaf()
        self.time += 100 * DAY
        self.assertEqual(authority.seconds_until_renewal(), 0)
        self.assertEqual(authority.leaf().not_valid_after, self.time + LEAF_LIFE)

    def test_from_the_future(self) -> None:
        """A leaf that was made while the clock was wrong."""
        authority = self.authority()
        self.time += 30 * DAY
        leaf = authority.leaf()
        self.time -= 30 * DAY
        renewed = authority.leaf()
        self.assertNotEqual(renewed, leaf)
        self.assertLessEqual(renewed.leaf.not_valid_before_utc, self.time)

    def test_a_year_of_calls(self) -> None:
        """A caller that calls when it is told to has a valid leaf all the time, and few of them."""
        authority = self.authority()
        end = self.time + 365 * DAY
        leaves = []
        while self.time < end:
            leaf = authority.leaf()
            leaves.append(leaf)
            self.time += timedelta(seconds=authority.seconds_until_renewal())
            self.assertLess(self.time + 9 * DAY, leaf.not_valid_after)
        self.assertEqual(len(set(leaves)), len(leaves))
        self.assertEqual(len(leaves), 19)

    def test_missing(self) -> None:
        self.reissued(lambda: os.unlink(self.leaf_path))

    def test_damaged(self) -> None:
        self.reissued(lambda: write_private(self.leaf_path, read_file(self.leaf_path)[:-30]))
        self.reissued(lambda: write_private(self.leaf_path, b""))

    def test_of_another_authority(self) -> None:
        other = DevelopmentAuthority(self.path("other"), self.now)
        self.reissued(lambda: write_private(self.leaf_path, other.issue().to_pem()))

    def test_of_the_authority_before(self) -> None:
        def start_anew() -> None:
            os.unlink(self.certificate_path)
            os.unlink(self.key_path)

        self.reissued(start_anew)

    def test_unreadable_names(self) -> None:
        extension = x509.UnrecognizedExtension(x509.OID_SUBJECT_ALTERNATIVE_NAME, b"\x30\x7f")
        owner = Signer.named("owner")
        data = pem(owner.certify(owner, extension=extension)) + key_pem(owner.key)
        self.reissued(lambda: write_private(self.leaf_path, data))

    def reissued(self, change: object) -> None:
        """After that change there is another leaf, a good one."""
        assert callable(change)
        before = self.authority().leaf()
        change()
        authority = self.authority()
        after = authority.leaf()
        self.assertNotEqual(after, before)
        (certificate,) = load_certificates(read_file(self.certificate_path), "ca.pem")
        after.leaf.verify_directly_issued_by(certificate)
        self.assertEqual(CertifiedKey.from_files(self.leaf_path), after)

    def test_other_names(self) -> None:
        authority = self.authority()
        leaf = authority.leaf(["a.example", "192.0.2.1"])
        self.assertEqual(authority.leaf(["192.0.2.1", "A.example."]), leaf)
        for names in (["a.example"], ["a.example", "192.0.2.1", "b.example"]):
            other = authority.leaf(names)
            self.assertNotEqual(other, leaf)
            self.assertEqual(other.names, tuple(names))

    def test_cannot_be_written(self) -> None:
        authority = self.authority()
        os.mkdir(self.leaf_path)
        self.assertEqual(
            self.refusal(authority.leaf), f"{self.leaf_path} cannot be written: Is a directory"
        )


class HandshakeTests(AuthorityCase):
    """Others take what the authority issues."""

    def server(self, leaf: CertifiedKey) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        write_private(self.path("server.pem"), leaf.to_pem())
        context.load_cert_chain(self.path("server.pem"))
        return context

    def client(self, authority: DevelopmentAuthority) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=authority.certificate_path)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    def handshake(
        self, client: ssl.SSLContext, server: ssl.SSLContext, name: str
    ) -> tuple[ssl.SSLObject, ssl.SSLObject]:
        """A handshake over four memory BIOs."""
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        one = client.wrap_bio(down, up, server_hostname=name)
        other = server.wrap_bio(up, down, server_side=True)
        for _ in range(4):
            for side in (one, other):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        for side in (one, other):
            self.assertIsNotNone(side.version(), "the handshake is not done")
        return one, other

    def test_names(self) -> None:
        authority = self.authority()
        server = self.server(authority.leaf())
        for name in LOCAL_NAMES:
            client, _ = self.handshake(self.client(authority), server, name)
            certificate = client.getpeercert()
            assert certificate is not None
            self.assertIn(("DNS", "localhost"), certificate["subjectAltName"])

    def test_wrong_name(self) -> None:
        authority = self.authority()
        error = self.assertRaises(
            ssl.SSLCertVerificationError,
            self.handshake,
            self.client(authority),
            self.server(authority.leaf()),
            "www.example.org",
        )
        self.assertIn("Hostname mismatch", str(error))

    def test_another_authority(self) -> None:
        other = DevelopmentAuthority(self.path("other"), self.now)
        self.assertRaises(
            ssl.SSLCertVerificationError,
            self.handshake,
            self.client(other),
            self.server(self.authority().leaf()),
            "localhost",
        )

    def test_client_certificate(self) -> None:
        authority = self.authority()
        server = self.server(authority.leaf())
        server.load_verify_locations(authority.certificate_path)
        server.verify_mode = ssl.CERT_REQUIRED
        server.verify_flags |= ssl.VERIFY_X509_STRICT
        client = self.client(authority)
        write_private(self.path("client.pem"), authority.issue_client("alice").to_pem())
        client.load_cert_chain(self.path("client.pem"))
        _, side = self.handshake(client, server, "localhost")
        certificate = side.getpeercert()
        assert certificate is not None
        self.assertEqual(certificate["subject"], ((("commonName", "alice"),),))

    def test_purposes_are_apart(self) -> None:
        """A client's certificate is none for a server."""
        authority = self.authority()
        error = self.assertRaises(
            ssl.SSLCertVerificationError,
            self.handshake,
            self.client(authority),
            self.server(authority.issue_client("localhost")),
            "localhost",
        )
        self.assertIn("unsuitable certificate purpose", str(error))

    def test_openssl(self) -> None:
        """The strictest reading of RFC 5280 that there is a program for."""
        openssl = shutil.which("openssl")
        if openssl is None:
            raise SkipTest("there is no openssl program")
        authority = self.authority()
        authority.leaf()
        write_private(self.path("client.pem"), authority.issue_client("a").chain_pem())
        for purpose, path in (
            ("sslserver", self.leaf_path),
            ("sslclient", self.path("client.pem")),
            ("any", authority.certificate_path),
        ):
            command = [openssl, "verify", "-x509_strict", "-check_ss_sig", "-purpose", purpose]
            done = subprocess.run(
                [*command, "-CAfile", authority.certificate_path, path],
                capture_output=True,
                text=True,
                check=False,
            )
            self.assertEqual((done.stdout, done.stderr), (f"{path}: OK\n", ""))
