"""Tests for L{twisted_bioconn.certificates.files}."""

from __future__ import annotations

import gc
import os

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12
from twisted.logger import capturedLogs

from tests.certificates.load_material import quiet
from tests.certificates.material import BEGIN, DAY, LOWER_CERTIFICATE, SECRET, key_pem, pem
from tests.certificates.placed import SourceCase, asking, certified, lines, private_pem
from twisted_bioconn.certificates import files
from twisted_bioconn.certificates.files import FileSource
from twisted_bioconn.certificates.loading import CertifiedKey


class LoadTests(SourceCase):
    """What kinds of file there may be."""

    def setUp(self) -> None:
        super().setUp()
        self.one = certified("www.example.org")

    def source(self, *files: str | None) -> FileSource:
        return FileSource(*files, now=self.now)  # type: ignore[arg-type]

    def assertLoads(self, *files: str | None) -> None:
        source = self.source(*files)
        self.assertEqual(source.only, self.one)
        self.assertDefault(source, self.one)

    def test_bundle(self) -> None:
        self.assertLoads(self.bundle("a.pem", self.one))

    def test_pair(self) -> None:
        self.assertLoads(
            self.write("a.crt", self.one.chain_pem()), self.write("a.key", private_pem(self.one))
        )

    def test_passphrase_and_extra_chain(self) -> None:
        self.assertLoads(
            self.write("a.crt", pem(self.one.leaf)),
            self.write("a.key", key_pem(self.one.key, encryption=BestAvailableEncryption(SECRET))),
            self.write("passphrase", SECRET),
            self.write("chain.pem", pem(LOWER_CERTIFICATE)),
        )

    def pkcs12(self, *chain: x509.Certificate) -> str:
        data = pkcs12.serialize_key_and_certificates(
            b"",
            self.one.key,
            self.one.leaf,
            chain,
            BestAvailableEncryption(SECRET),
        )
        return self.write("a.p12", data)

    def test_pkcs12(self) -> None:
        """It is told by its content."""
        self.assertLoads(self.pkcs12(LOWER_CERTIFICATE), None, self.write("passphrase", SECRET))

    def test_pkcs12_and_extra_chain(self) -> None:
        self.assertLoads(
            self.pkcs12(),
            None,
            self.write("passphrase", SECRET),
            self.write("chain.pem", pem(LOWER_CERTIFICATE)),
        )

    def test_pkcs12_and_key(self) -> None:
        archive, key = self.pkcs12(), self.write("a.key", private_pem(self.one))
        self.assertEqual(
            self.refusal(self.source, archive, key),
            f"{archive} is a PKCS #12 file, which has its own key: {key} cannot be used with it",
        )

    def test_nothing_to_begin_with(self) -> None:
        """A server that never had a certificate cannot start."""
        chain = self.write("a.crt", self.one.chain_pem())
        other = self.write("a.key", private_pem(certified()))
        self.assertEqual(self.refusal(self.source, f"{chain}x"), f"{chain}x does not exist")
        self.assertEqual(
            self.refusal(self.source, chain, other),
            f"the private key in {other} belongs to no certificate in {chain}",
        )


class FileSourceTests(SourceCase):
    """L{FileSource}, as its files change."""

    def setUp(self) -> None:
        super().setUp()
        self.old = certified("www.example.org", "*.example.net")
        self.new = certified("www.example.org")
        self.pair("a.crt", "a.key", self.old)
        self.chain, self.key = self.path("a.crt"), self.path("a.key")
        self.source = FileSource(self.chain, self.key, now=self.now)
        self.addCleanup(self.source.stop)

    def test_names(self) -> None:
        """It is found by its names, and is the default for all others."""
        for name in ("www.example.org", "a.example.net"):
            self.assertServed(self.source, name, self.old)
        for unknown in ("other.example.org", None):
            self.assertServed(self.source, unknown, None)
            self.assertFound(self.source.default(asking(unknown)), self.old)

    def test_any_order(self) -> None:
        """A key and a chain that do not belong together are never served."""
        for first, second in (("a.crt", "a.key"), ("a.key", "a.crt")):
            data = {"a.crt": self.new.chain_pem(), "a.key": private_pem(self.new)}
            self.write(first, data[first])
            self.assertEqual(
                self.reload(self.source),
                [
                    f"the private key in {self.key} belongs to no certificate in {self.chain};"
                    " the certificate before it is served on"
                ],
            )
            self.assertDefault(self.source, self.old)
            self.write(second, data[second])
            self.assertEqual(
                self.reload(self.source),
                [f"{self.chain} is served for www.example.org; it expires on 2026-04-01 00:00 UTC"],
            )
            self.assertDefault(self.source, self.new)
            self.assertServed(self.source, "a.example.net", None)
            self.assertEqual(self.errors(self.source), {})
            self.old, self.new = self.new, certified("www.example.org")

    def test_half_written(self) -> None:
        """At whatever byte the writer has stopped, the old one is served."""
        whole = self.new.chain_pem()
        self.write("a.key", private_pem(self.new))
        for tenth in range(10):
            self.write("a.crt", whole[: len(whole) * tenth // 20])  # within the leaf
            self.reload(self.source)
            self.assertDefault(self.source, self.old)
            self.assertIn(self.chain, self.errors(self.source)["a.crt"])
        self.write("a.crt", whole)
        self.reload(self.source)
        self.assertDefault(self.source, self.new)

    def test_gone_and_back(self) -> None:
        """Missing, not to be read, a directory: the old one is served, and it is said once."""
        for make, reason in (
            (None, "does not exist"),
            (os.mkdir, "is a directory, not a file"),
            (lambda path: os.symlink(path, path), "cannot be read"),
        ):
            os.unlink(self.chain)
            if make is not None:
                make(self.chain)
            logged = self.reload(self.source)
            self.assertEqual(len(logged), 1)
            self.assertIn(f"{self.chain} {reason}", logged[0])
            self.assertEqual(self.reload(self.source), [])
            self.assertDefault(self.source, self.old)
            if os.path.isdir(self.chain):
                os.rmdir(self.chain)
            elif os.path.islink(self.chain):
                os.unlink(self.chain)
            self.write("a.crt", self.old.chain_pem())
            self.assertEqual(self.reload(self.source), [])
            self.assertEqual(self.errors(self.source), {})

    def test_same_content(self) -> None:
        """What is made of a certificate hangs on the object, so that is kept."""
        before = self.source.only
        self.pair("a.crt", "a.key", self.old)
        self.assertEqual(self.reload(self.source), [])
        self.assertIs(self.source.only, before)

    def test_not_changed(self) -> None:
        """Files that have not changed are not read."""
        for path in (self.chain, self.key):
            os.utime(path)
        self.age()
        self.reload(self.source)
        self.patch(CertifiedKey, "from_files", None)
        self.assertEqual(self.reload(self.source), [])

    def test_expired(self) -> None:
        """One that has expired does not replace one that has not, until that has too."""
        expired = certified("www.example.org", end=BEGIN + DAY / 2)
        self.pair("a.crt", "a.key", expired)
        self.assertEqual(
            self.reload(self.source),
            [
                f"the certificate in {self.chain} has expired on 2026-01-01 12:00 UTC; the"
                " certificate before it is served on"
            ],
        )
        self.assertDefault(self.source, self.old)
        self.assertIn("has expired", self.errors(self.source)["a.crt"])
        self.assertEqual(len(self.source.facts()), 2)

    def test_not_yet_valid(self) -> None:
        """One whose time is to come waits for it, and needs no reload then."""
        coming = certified("www.example.org", begin=BEGIN + 10 * DAY)
        self.pair("a.crt", "a.key", coming)
        self.reload(self.source)
        self.assertDefault(self.source, self.old)
        self.time = (BEGIN + 10 * DAY).timestamp()
        self.assertDefault(self.source, coming)
        self.assertEqual(self.source.only, coming)
        self.assertIn(f"{self.chain} is served", self.reload(self.source)[0])
        self.assertEqual(self.errors(self.source), {})
        self.assertEqual(len(self.source.facts()), 1)

    def test_expired_to_begin_with(self) -> None:
        """It is better than nothing, and is said."""
        self.time = (BEGIN + 100 * DAY).timestamp()
        with capturedLogs() as events:
            source = FileSource(self.chain, self.key, now=self.now)
        self.assertDefault(source, self.old)
        self.assertEqual(
            lines(events)[0],
            f"the certificate in {self.chain} has expired on 2026-04-01 00:00 UTC; it is served"
            " all the same, as there is no other",
        )

    def test_watched(self) -> None:
        """A change is seen by looking, on any reactor."""
        self.source.start(self.clock)
        self.source.start(self.clock)
        self.pair("a.crt", "a.key", self.new)
        self.clock.pump([0.1] * 60)
        self.assertDefault(self.source, self.new)
        self.source.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_changed_before_start(self) -> None:
        self.pair("a.crt", "a.key", self.new)
        self.source.start(self.clock)
        self.assertDefault(self.source, self.new)

    def test_hundred_reloads(self) -> None:
        """Neither descriptors nor objects become more."""
        quiet(self)

        def swap(times: int) -> tuple[int, int]:
            for number in range(times):
                self.pair("a.crt", "a.key", (self.old, self.new)[number % 2])
                self.reload(self.source)
            gc.collect()
            return len(os.listdir("/proc/self/fd")), len(gc.get_objects())

        descriptors, objects = swap(10)
        more_descriptors, more_objects = swap(100)
        self.assertEqual(more_descriptors, descriptors)
        self.assertLess(more_objects - objects, 100)

    def age(self) -> None:
        """Have the files taken for ones that were not changed just now."""
        self.patch(files, "_GRAIN", 0)
        self.reload(self.source)
