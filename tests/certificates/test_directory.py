"""Tests for L{twisted_bioconn.certificates.directory}: what is found there, and for whom."""

from __future__ import annotations

import os
import shutil

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    pkcs12,
)
from twisted.logger import capturedLogs

from tests.certificates.material import (
    BEGIN,
    DAY,
    LOWER_CERTIFICATE,
    ROOT,
    SECRET,
    UPPER,
    key_pem,
    pem,
)
from tests.certificates.placed import (
    RSA_ONLY,
    SourceCase,
    asking,
    certified,
    lines,
    private_pem,
    rsa_key,
)
from twisted_bioconn.certificates.directory import DirectorySource
from twisted_bioconn.certificates.loading import CertifiedKey


class DirectoryCase(SourceCase):
    """A test of a L{DirectorySource}."""

    def source(self, passphrase_file: str | None = None) -> DirectorySource:
        source = DirectorySource(self.directory, passphrase_file, now=self.now)
        self.addCleanup(source.stop)
        return source

    def certbot(self, name: str, certificate: CertifiedKey, number: int, under: str = "") -> None:
        """What certbot does when it has a certificate: links one after the other."""
        for part, data in (
            ("privkey", private_pem(certificate)),
            ("cert", pem(certificate.leaf)),
            ("chain", pem(*certificate.intermediates)),
            ("fullchain", certificate.chain_pem()),
        ):
            archived = f"archive/{name}/{part}{number}.pem"
            self.write(archived, data)
            up = "../" if not under else "../../"
            self.link(f"{up}{archived}", os.path.join(under, name, f"{part}.pem"))

    def secret(self, certificate: CertifiedKey, number: int, under: str = "") -> None:
        """What Kubernetes does when a secret has changed: a new directory, and one link to it."""
        directory = f"..2026_{number}"
        for name, data in (
            ("tls.crt", certificate.chain_pem()),
            ("tls.key", private_pem(certificate)),
            ("ca.crt", pem(LOWER_CERTIFICATE)),
        ):
            self.write(os.path.join(under, directory, name), data)
            path = os.path.join(under, name)
            if not os.path.islink(self.path(path)):
                self.link(f"..data/{name}", path)
        self.link(directory, os.path.join(under, "..data"))


class LayoutTests(DirectoryCase):
    """What is found."""

    def test_all_at_once(self) -> None:
        """Each layout, in one directory."""
        made = {
            name: certified(f"{name}.example.org")
            for name in ("bundle", "pair", "chain", "p12", "live", "dir", "secret", "cer")
        }
        self.bundle("bundle.pem", made["bundle"])
        self.pair("pair.crt", "pair.key", made["pair"])
        self.pair("cer.CER", "cer.key", made["cer"])
        self.pair("chain.pem", "chain.key", made["chain"])
        self.certbot("live.example.org", made["live"], 1, "live")
        self.certbot("dir.example.org", made["dir"], 1)
        self.secret(made["secret"], 1, "secret.example.org")
        archived = made.pop("p12")
        self.write("p12.p12", self.pkcs12(archived))
        self.write("README.md", b"hello")
        self.write(".hidden.pem", b"hello")
        self.write("notes.txt", b"hello")
        self.write("live/README", b"hello")
        os.mkdir(self.path("empty"))
        source = self.source()
        for name, certificate in {**made, "p12": archived}.items():
            self.assertServed(source, f"{name}.example.org", certificate)
        self.assertEqual(self.errors(source), {})
        self.assertEqual(len(source.facts()), 8)

    def pkcs12(self, certificate: CertifiedKey, passphrase: bytes | None = None) -> bytes:
        encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        return pkcs12.serialize_key_and_certificates(
            b"", certificate.key, certificate.leaf, certificate.intermediates, encryption
        )

    def test_live_itself(self) -> None:
        """C{live/NAME} is a directory that can be given, too."""
        self.certbot("x", one := certified("a.example.org"), 1)
        source = DirectorySource(self.path("x"), now=self.now)
        self.assertServed(source, "a.example.org", one)
        self.assertEqual(len(source.facts()), 1)

    def test_secret_itself(self) -> None:
        self.secret(one := certified("a.example.org"), 1)
        source = self.source()
        self.assertServed(source, "a.example.org", one)
        self.assertEqual([fact.source for fact in source.facts()], [self.path("tls.crt")])

    def test_key_of_another_name(self) -> None:
        """Keys belong to chains by what they are, not by what they are called."""
        one, two = certified("a.example.org"), certified("b.example.org")
        self.pair("a.crt", "b.key", one)
        self.pair("b.crt", "a.key", two)
        source = self.source()
        self.assertServed(source, "a.example.org", one)
        self.assertServed(source, "b.example.org", two)

    def test_key_in_another_bundle(self) -> None:
        one, two = certified("a.example.org"), certified("b.example.org")
        self.write("a.pem", one.chain_pem() + private_pem(two))
        self.write("b.pem", two.chain_pem() + private_pem(one))
        source = self.source()
        self.assertServed(source, "a.example.org", one)
        self.assertServed(source, "b.example.org", two)

    def test_key_in_another_directory(self) -> None:
        """Directories are apart."""
        one, two = certified("a.example.org"), certified("b.example.org")
        self.bundle("z.pem", certified("z.example.org"))
        self.pair("a/tls.crt", "b/tls.key", one)
        self.pair("b/tls.crt", "a/tls.key", two)
        self.assertEqual(
            self.errors(self.source()),
            {
                f"{name}/tls.crt": f"the private key in {self.path(name)}/tls.key belongs to no"
                f" certificate in {self.path(name)}/tls.crt"
                for name in "ab"
            },
        )

    def test_authorities(self) -> None:
        """What is only who signs is not for serving, and no error."""
        authority = ROOT.certify(UPPER, extension=x509.BasicConstraints(ca=True, path_length=0))
        self.bundle("a.pem", certified("a.example.org"))
        self.write("ca.pem", pem(authority))
        self.write("spare.key", private_pem(certified()))
        source = self.source()
        self.assertEqual(len(source.facts()), 1)

    def test_passphrase(self) -> None:
        one, two = certified("a.example.org"), certified("b.example.org")
        secret = self.write("passphrase", SECRET)
        encrypted = key_pem(one.key, encryption=BestAvailableEncryption(SECRET))
        self.write("a.pem", one.chain_pem() + encrypted)
        self.write("b.p12", self.pkcs12(two, SECRET))
        source = self.source(secret)
        self.assertServed(source, "a.example.org", one)
        self.assertServed(source, "b.example.org", two)

    def test_shared_intermediates(self) -> None:
        """There is one object for all that have the same."""
        for name in "ab":
            self.bundle(f"{name}.pem", certified(f"{name}.example.org"))
        source = self.source()
        first, second = (self.served(source, f"{name}.example.org") for name in "ab")
        self.assertIs(first.intermediates[0], second.intermediates[0])


class ChoosingTests(DirectoryCase):
    """Which certificate it is."""

    def test_names(self) -> None:
        """Exact, wildcard, and what the file is called, in this order."""
        exact, star = certified("a.example.org"), certified("*.example.org")
        bare, other = certified(), certified("x.example.net")
        self.bundle("1.pem", star)
        self.bundle("2.pem", exact)
        self.bundle("c.example.com.pem", bare)
        self.bundle("b.example.org.pem", other)
        self.bundle("*.example.com.pem", other)
        source = self.source()
        for name, expected in {
            "a.example.org": exact,
            "b.example.org": star,
            "c.example.com": bare,
            "d.example.com": other,
            "x.example.net": other,
            "c.b.example.org": None,
            None: None,
        }.items():
            self.assertServed(source, name, expected)

    def test_default(self) -> None:
        """C{default}, else the first by name."""
        first, second, third = (certified(f"{name}.example.org") for name in "abc")
        self.bundle("b.example.org.pem", second)
        self.certbot("a.example.org", first, 1, "live")
        source = self.source()
        self.assertDefault(source, first)
        self.bundle("Default.pem", third)
        self.reload(source)
        self.assertDefault(source, third)
        self.assertDefault(self.source(), third)

    def test_default_directory(self) -> None:
        self.bundle("a.pem", certified("a.example.org"))
        self.pair("default/tls.crt", "default/tls.key", one := certified("z.example.org"))
        self.assertDefault(self.source(), one)

    def test_default_of_two_kinds(self) -> None:
        by_ecdsa = certified("a.example.org")
        by_rsa = certified("a.example.org", key=rsa_key())
        self.bundle("a.example.org.ecdsa.pem", by_ecdsa)
        self.bundle("z.pem", by_rsa)
        source = self.source()
        self.assertFound(source.default(asking()), by_ecdsa)
        self.assertFound(source.default(asking(None, RSA_ONLY)), by_rsa)
        self.assertFound(source.find(asking("a.example.org", RSA_ONLY)), by_rsa)

    def test_unknown_name_costs_no_file(self) -> None:
        self.bundle("a.pem", certified("a.example.org"))
        source = self.source()
        shutil.rmtree(self.directory)
        os.mkdir(self.directory)
        self.assertServed(source, "unknown.example.org", None)


class NothingTests(DirectoryCase):
    """A server that has no certificate at all cannot start."""

    def test_missing(self) -> None:
        missing = self.path("x")
        self.assertEqual(
            self.refusal(DirectorySource, missing),
            f"the directory {missing} cannot be read: No such file or directory",
        )

    def test_empty(self) -> None:
        self.write("README", b"")
        self.assertEqual(
            self.refusal(self.source),
            f"{self.directory} holds no certificate that can be used: no file in it ends in .pem,"
            " .crt, .cer, .key, .p12, .pfx, and no directory has fullchain.pem or tls.crt",
        )

    def test_reasons(self) -> None:
        """Each of at most five, and how many more."""
        for number in range(6):
            self.write(f"{number}.pem", b"")
        authority = ROOT.certify(UPPER, extension=x509.BasicConstraints(ca=True, path_length=0))
        self.write("00.pem", pem(authority))
        self.write("01.key", private_pem(certified()))
        reasons = [f"{self.path(f'{number}.pem')} is empty" for number in range(3)]
        reasons[1:1] = [
            f"{self.path('00.pem')} holds certificates of authorities alone",
            f"{self.path('01.key')} holds a key alone",
        ]
        self.assertEqual(
            self.refusal(self.source),
            f"{self.directory} holds no certificate that can be used:"
            f" {'; '.join(sorted(reasons))}; and 3 more",
        )

    def test_passphrase(self) -> None:
        missing = self.path("passphrase")
        self.assertEqual(self.refusal(self.source, missing), f"{missing} does not exist")


class BrokenTests(DirectoryCase):
    """One that is broken stops none of the others."""

    def test_broken(self) -> None:
        good, other = certified("good.example.org"), certified("other.example.org")
        self.bundle("good.pem", good)
        whole = other.to_pem()
        self.write("empty.pem", b"")
        self.write("der.crt", other.leaf.public_bytes(Encoding.DER))
        self.write("text.pem", b"hello")
        self.write("cut.pem", whole[: len(whole) // 2])
        self.pair("other.crt", "x.key", other)
        self.write("x.key", private_pem(good))
        self.write("lonely.crt", certified("x.example.org").chain_pem())
        self.write("encrypted.key", key_pem(other.key, encryption=BestAvailableEncryption(SECRET)))
        os.mkdir(self.path("directory.pem"))
        os.mkfifo(self.path("fifo.pem"))
        os.symlink("nowhere", self.path("dangling.pem"))
        os.symlink("loop.pem", self.path("loop.pem"))
        os.symlink("/dev/zero", self.path("zero.pem"))
        with open(self.path("huge.pem"), "wb") as file:
            file.truncate(100 * 1024 * 1024)
        with capturedLogs() as events:
            source = self.source()
        self.assertServed(source, "good.example.org", good)
        errors = self.errors(source)
        self.assertEqual(
            sorted(errors),
            sorted(
                "empty.pem der.crt text.pem cut.pem other.crt lonely.crt encrypted.key"
                " directory.pem fifo.pem dangling.pem loop.pem zero.pem huge.pem".split()
            ),
        )
        for name, reason in errors.items():
            self.assertIn(self.path(name), reason)
            self.assertEqual(sum(line.startswith(reason) for line in lines(events)), 1, reason)
        self.assertIn("is not a regular file", errors["fifo.pem"])
        # What is said once is not said again.
        self.assertEqual(self.reload(source), [])

    def test_one_unreadable(self) -> None:
        self.bundle("good.pem", good := certified("good.example.org"))
        path = self.bundle("bad.pem", certified("bad.example.org"))
        os.chmod(path, 0)

        def look() -> None:
            source = self.source()
            self.assertServed(source, "good.example.org", good)
            self.assertEqual(
                self.errors(source), {"bad.pem": f"{path} cannot be read: Permission denied"}
            )

        self.as_nobody(look)

    def test_expired(self) -> None:
        """One that has expired is served where there is nothing else for the name."""
        expired = certified("a.example.org", end=BEGIN + DAY / 2)
        path = self.bundle("a.pem", expired)
        source = self.source()
        self.assertServed(source, "a.example.org", expired)
        self.assertEqual(
            self.errors(source),
            {"a.pem": f"the certificate in {path} has expired on 2026-01-01 12:00 UTC"},
        )
        self.bundle("b.pem", valid := certified("a.example.org"))
        self.reload(source)
        self.assertServed(source, "a.example.org", valid)
