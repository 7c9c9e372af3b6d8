"""
Every kind of bad file, wherever a file is read: each is named, with the reason, in bounded time.
"""

from __future__ import annotations

import gc
import os
import socket
import time
import tracemalloc
from collections.abc import Callable

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from tests.certificates.material import (
    BUNDLE,
    EC_PARAMETERS,
    ENCRYPTED,
    FULL_CHAIN,
    KEY,
    LEAF,
    LOWER,
    LOWER_CERTIFICATE,
    OWNER,
    ROOT,
    ROOT_CERTIFICATE,
    SECRET,
    STRANGER,
    UPPER_CERTIFICATE,
    FileCase,
    Signer,
    key_pem,
    pem,
)
from twisted_bioconn.certificates.files import load
from twisted_bioconn.certificates.loading import (
    LARGEST_FILE,
    LARGEST_KEY,
    LONGEST_CHAIN,
    CertifiedKey,
    load_authorities,
    read_file,
    read_passphrase,
)
from twisted_bioconn.certificates.revocation import load_crls

ARCHIVE = pkcs12.serialize_key_and_certificates(
    None, OWNER.key, LEAF, None, BestAvailableEncryption(SECRET)
)


class BadFileCase(FileCase):
    """A test of what is read."""

    def readers(self) -> dict[str, Callable[[str], object]]:
        """All that read a file of a given path."""
        good = self.file("good.pem", BUNDLE)
        return {
            "read_file": read_file,
            "read_passphrase": read_passphrase,
            "load_authorities": load_authorities,
            "load_crls": load_crls,
            "certificate": CertifiedKey.from_files,
            "key": lambda path: CertifiedKey.from_files(good, path),
            "passphrase": lambda path: CertifiedKey.from_files(good, good, path),
            "extra chain": lambda path: CertifiedKey.from_files(good, good, None, path),
            "any kind": load,
        }

    def sentences(self, path: str, *without: str) -> set[str]:
        """How the readers refuse it, in a second each of this process's own time."""
        found = set()
        for name, read in self.readers().items():
            if name not in without:
                before = time.process_time()
                found.add(self.refusal(read, path))
                self.assertLess(time.process_time() - before, 1.0, name)
        return found


class NoFileTests(BadFileCase):
    """What is no file, or cannot be opened."""

    def test_missing(self) -> None:
        path = self.path("missing")
        self.assertEqual(self.sentences(path), {f"{path} does not exist"})

    def test_dangling_link(self) -> None:
        """A link that leads nowhere is seen in a listing: that it is there is no comfort."""
        path = self.path("link.pem")
        os.symlink("nowhere", path)
        (sentence,) = self.sentences(path)
        self.assertTrue(sentence.startswith(f"{path} "), sentence)
        self.assertIn("not exist", sentence)

    def test_link_loop(self) -> None:
        path = self.path("loop.pem")
        os.symlink("loop.pem", path)
        self.assertEqual(
            self.sentences(path),
            {f"{path} cannot be read: Too many levels of symbolic links"},
        )

    def test_directory(self) -> None:
        """Of authorities and revocation lists there may be a directory."""
        path = self.path("directory")
        os.mkdir(path)
        self.assertEqual(
            self.sentences(path, "load_authorities", "load_crls"),
            {f"{path} is a directory, not a file"},
        )
        for read in (load_authorities, load_crls):
            self.assertIn(f"the directory {path} holds no file", self.refusal(read, path))

    def test_fifo(self) -> None:
        """Nobody waits for its writer, and one that is there gets to know of nothing."""
        path = self.path("fifo.pem")
        os.mkfifo(path)
        self.assertEqual(self.sentences(path), {f"{path} is not a regular file"})
        for read in (load_authorities, load_crls):
            self.assertEqual(self.refusal(read, self.directory), f"{path} is not a regular file")

    def test_fifo_put_there_in_between(self) -> None:
        """It was a file when it was looked at: still nobody waits."""
        path = self.path("fifo.pem")
        os.mkfifo(path)
        regular = os.stat(self.file("regular", b""))
        self.patch(os, "stat", lambda *arguments, **options: regular)
        self.assertEqual(self.refusal(read_file, path), f"{path} is not a regular file")

    def test_devices(self) -> None:
        for path in ("/dev/zero", "/dev/null", "/dev/tty"):
            self.assertEqual(self.sentences(path), {f"{path} is not a regular file"})

    def test_socket(self) -> None:
        path = self.path("socket.pem")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            self.assertEqual(self.sentences(path), {f"{path} is not a regular file"})

    def test_not_permitted(self) -> None:
        path = self.file("secret.pem", BUNDLE)
        os.chmod(path, 0)
        for read in self.readers().values():
            self.assertEqual(
                self.unprivileged(read, path), f"{path} cannot be read: Permission denied"
            )

    def test_in_a_directory_that_is_not_permitted(self) -> None:
        inside = self.path("inside")
        os.mkdir(inside)
        path = os.path.join(inside, "it.pem")
        with open(path, "wb") as file:
            file.write(BUNDLE)
        os.chmod(inside, 0)
        self.addCleanup(os.chmod, inside, 0o700)
        self.assertEqual(
            self.unprivileged(read_file, path), f"{path} cannot be read: Permission denied"
        )

    def test_path_that_is_too_long(self) -> None:
        path = self.path("a" * 300)
        self.assertEqual(self.sentences(path), {f"{path} cannot be read: File name too long"})

    def test_no_descriptor_is_left(self) -> None:
        """However often a bad file is looked at."""
        path = self.path("fifo.pem")
        os.mkfifo(path)
        regular = os.stat(self.file("regular", b""))
        # What earlier tests have left behind is closed whenever it is collected.
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        self.patch(os, "stat", lambda *arguments, **options: regular)
        for _ in range(50):
            self.refusal(read_file, path)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class SizeTests(BadFileCase):
    """Files that are large, or take long."""

    def huge(self) -> str:
        path = self.path("huge.pem")
        with open(path, "wb") as file:
            file.write(BUNDLE)
            file.truncate(100 * 1024 * 1024)
        return path

    def test_100_mebibytes(self) -> None:
        path = self.huge()
        self.assertEqual(
            self.sentences(path, "load_crls"), {f"{path} is larger than {LARGEST_FILE} bytes"}
        )

    def test_memory(self) -> None:
        """No more is read than it takes to know."""
        path = self.huge()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        self.refusal(CertifiedKey.from_files, path)
        self.assertLess(tracemalloc.get_traced_memory()[1], 4 * LARGEST_FILE)

    def test_revocation_lists_may_be_larger(self) -> None:
        path = self.huge()
        before = time.process_time()
        self.assertIn(f"{path} is larger than ", self.refusal(load_crls, path))
        self.assertLess(time.process_time() - before, 2.0)

    def test_full_of_nothing(self) -> None:
        """A file that is as large as may be, of what takes parsers longest."""
        for body in (
            b"\n",
            b"-",
            b"\0",
            b"-----BEGIN ",
            b"-----END X-----\n",
            b"-----BEGIN X-----\n-----END X-----\n",
            b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
            b"\x30\x80",
            b"\x30\x84\x7f\xff\xff\xff",
        ):
            path = self.file("full.pem", (body * (LARGEST_FILE // len(body) + 1))[:LARGEST_FILE])
            for sentence in self.sentences(path, "read_file", "read_passphrase", "passphrase"):
                self.assertIn(path, sentence)

    def test_large_key(self) -> None:
        """To check a key whose numbers are that large takes minutes."""
        label = b"PRIVATE KEY"
        body = b"A" * LARGEST_KEY
        text = b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label, body, label)
        path = self.file("key.pem", text)
        good = self.file("good.pem", BUNDLE)
        self.assertEqual(
            self.refusal(CertifiedKey.from_files, good, path),
            f"the private key in {path} has more than {LARGEST_KEY} bytes",
        )

    def test_largest_key(self) -> None:
        """One of RSA with 16384 bits is not too large, however it is written."""
        # Nine numbers, of which five have half the bits: RFC 8017, appendix A.1.2.
        der = 2 * (16384 // 8 + 5) + 5 * (16384 // 16 + 5) + 100
        self.assertLess((der + 200) * 4 // 3 * 66 // 64, LARGEST_KEY)


class ContentTests(BadFileCase):
    """Files whose content is bad."""

    def pair(self, certificate: bytes, key: bytes) -> tuple[str, str]:
        return self.file("chain.pem", certificate), self.file("key.pem", key)

    def test_empty(self) -> None:
        path = self.file("empty.pem", b"")
        self.assertEqual(
            self.sentences(path, "read_file", "read_passphrase", "passphrase"), {f"{path} is empty"}
        )

    def test_wrong_passphrase(self) -> None:
        for name, data in (("key.pem", ENCRYPTED + pem(LEAF)), ("key.p12", ARCHIVE)):
            path = self.file(name, data)
            wrong = self.file("passphrase", b"wrong\n")
            sentence = self.refusal(load, path, None, wrong)
            self.assertIn(path, sentence)
            self.assertIn("cannot be decrypted: the passphrase is wrong", sentence)
            self.assertIn("no passphrase was given", self.refusal(load, path))

    def test_short_vector(self) -> None:
        """Cryptography panics for it, with what is none of Python's usual exceptions."""
        head = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,AABBCCDDEEFF0011\n\nAAAA\n"
        key = f"-----BEGIN EC PRIVATE KEY-----\n{head}-----END EC PRIVATE KEY-----\n"
        chain, path = self.pair(FULL_CHAIN, key.encode())
        sentence = self.refusal(load, chain, path, self.file("passphrase", b"secret\n"))
        self.assertIn(f"the private key in {path} cannot be decrypted", sentence)

    def test_key_of_another_certificate(self) -> None:
        chain, key = self.pair(FULL_CHAIN, key_pem(STRANGER.key))
        self.assertEqual(
            self.refusal(load, chain, key),
            f"the private key in {key} belongs to no certificate in {chain}",
        )

    def test_parameters_before_the_key(self) -> None:
        """As C{openssl ecparam -genkey} writes them."""
        chain, key = self.pair(FULL_CHAIN, EC_PARAMETERS + KEY)
        self.assertEqual(load(chain, key).leaf, LEAF)
        self.assertEqual(load(self.file("all.pem", EC_PARAMETERS + BUNDLE)).leaf, LEAF)

    def test_der(self) -> None:
        key = OWNER.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        path = self.file("leaf.der", LEAF.public_bytes(Encoding.DER))
        for sentence in self.sentences(path, "read_file", "read_passphrase", "passphrase"):
            self.assertIn(path, sentence)
            self.assertIn("DER", sentence)
        chain, key_path = self.pair(FULL_CHAIN, key)
        self.assertEqual(
            self.refusal(load, chain, key_path),
            f"{key_path} is in DER or PKCS #12 form, where PEM is needed",
        )

    def test_cut_at_each_tenth(self) -> None:
        """Whichever file it is; and the whole ones are good."""
        encrypted = self.file("passphrase", SECRET)
        for tenth in range(1, 10):
            chain, key = self.pair(FULL_CHAIN[: len(FULL_CHAIN) * tenth // 10], KEY)
            self.assertIn(f"{chain} is damaged", self.refusal(load, chain, key), tenth)
            chain, key = self.pair(FULL_CHAIN, KEY[: len(KEY) * tenth // 10])
            self.assertIn(f"{key} is ", self.refusal(load, chain, key), tenth)
            archive = self.file("it.p12", ARCHIVE[: len(ARCHIVE) * tenth // 10])
            self.assertEqual(
                self.refusal(load, archive, None, encrypted),
                f"{archive} is damaged: it is cut short",
                tenth,
            )
        self.assertEqual(load(*self.pair(FULL_CHAIN, KEY)).leaf, LEAF)
        self.assertEqual(load(self.file("it.p12", ARCHIVE), None, encrypted).leaf, LEAF)

    def test_root_included(self) -> None:
        chain, key = self.pair(FULL_CHAIN + pem(ROOT_CERTIFICATE), KEY)
        self.assertEqual(load(chain, key).chain, (LEAF, LOWER_CERTIFICATE, UPPER_CERTIFICATE))

    def test_key_twice(self) -> None:
        """The first counts, as is said."""
        chain, key = self.pair(FULL_CHAIN, KEY + key_pem(STRANGER.key))
        self.assertEqual(load(chain, key).leaf, LEAF)


class ChainTests(BadFileCase):
    """Chains that lead in circles, or nowhere near an end."""

    def test_cycle(self) -> None:
        """Authorities that sign each other: each is in the chain once."""
        one, two = Signer.named("one"), Signer.named("two")
        circle = (one.certify(two), two.certify(one))
        leaf = one.certify(OWNER)
        path = self.file("circle.pem", pem(leaf, *circle * 50) + KEY)
        before = time.process_time()
        self.assertEqual(load(path).chain, (leaf, circle[1], circle[0]))
        self.assertLess(time.process_time() - before, 2.0)

    def test_too_long(self) -> None:
        signers = [Signer.named(f"authority {number}") for number in range(LONGEST_CHAIN + 1)]
        links = [
            upper.certify(lower) for upper, lower in zip(signers[1:], signers[:-1], strict=True)
        ]
        leaf = signers[0].certify(OWNER)
        longest = self.file("longest.pem", pem(leaf, *links[: LONGEST_CHAIN - 1]) + KEY)
        self.assertEqual(len(load(longest).chain), LONGEST_CHAIN)
        path = self.file("longer.pem", pem(leaf, *links) + KEY)
        self.assertEqual(
            self.refusal(load, path),
            f"{path} cannot be used: the chain of the certificate for CN=www.example.org has more"
            f" than {LONGEST_CHAIN} certificates",
        )

    def test_many_of_one_name(self) -> None:
        """Each would have to be told from the others by a signature."""
        crowd = [ROOT.certify(LOWER) for _ in range(101)]
        path = self.file("crowd.pem", pem(LEAF, *crowd) + KEY)
        self.assertEqual(
            self.refusal(load, path),
            f"{path} cannot be used: there are more than 100 certificates for CN=lower",
        )
        few = self.file("few.pem", pem(LEAF, *crowd[:100]) + KEY)
        self.assertEqual(len(load(few).chain), 2)

    def test_the_same_over_and_over(self) -> None:
        """It is one certificate, however often it is there."""
        path = self.file("same.pem", pem(LEAF, *[LOWER_CERTIFICATE] * 200) + KEY)
        self.assertEqual(load(path).chain, (LEAF, LOWER_CERTIFICATE))
