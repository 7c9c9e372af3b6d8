"""L{twisted_bioconn.certificates._derivation}."""

from __future__ import annotations

import subprocess
import time
from base64 import b64decode, b64encode
from collections.abc import Callable

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.certificates.material import BUNDLE, KEY, LEAF, OWNER, SECRET, FileCase, pem
from tests.programs import require
from twisted_bioconn.certificates._derivation import (
    MOST_ROUNDS,
    MOST_SCRYPT_BYTES,
    refuse_costly_pem,
    refuse_costly_pkcs12,
)
from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.certificates.pkcs12 import load_pkcs12
from twisted_bioconn.errors import ConfigurationError

ROUNDS = 70_000
FEW = b"\x02\x03" + ROUNDS.to_bytes(3, "big")
MANY = b"\x02\x03\x7f\xff\xff"
"""As long as C{FEW}, so that nothing else of the file changes; to do so many takes 4 s and more."""


ARCHIVE = pkcs12.serialize_key_and_certificates(
    None, OWNER.key, LEAF, None, BestAvailableEncryption(SECRET)
)


def changed(block: bytes, old: bytes, new: bytes) -> bytes:
    """A PEM block with other bytes inside."""
    lines = block.strip().splitlines()
    body = b64decode(b"".join(lines[1:-1]))
    assert body.count(old) == 1
    return b"\n".join([lines[0], b64encode(body.replace(old, new)), lines[-1], b""])


class CostTests(FileCase):
    """What would take for ever is refused before it is begun."""

    def quick(self, call: Callable[..., object], *arguments: object) -> str:
        """The refusal, in the time of this process, which others cannot lengthen."""
        before = time.process_time()
        sentence = self.refusal(call, *arguments)
        self.assertLess(time.process_time() - before, 1.0)
        return sentence

    def encrypted(self, *options: str) -> bytes:
        """A private key as the program C{openssl} encrypts it."""
        command = [require("openssl"), "pkcs8", "-topk8", "-passout"]
        command += [f"file:{self.file('secret', SECRET)}", *options]
        made = subprocess.run(command, input=KEY, check=True, capture_output=True, timeout=300)
        self.assertEqual(CertifiedKey.from_pem(pem(LEAF), made.stdout, SECRET).chain, (LEAF,))
        return made.stdout

    def test_pem(self) -> None:
        """Of PKCS #5's newer scheme, and of PKCS #12's, which OpenSSL calls the first version."""
        for options in ((), ("-v1", "PBE-SHA1-3DES")):
            greedy = changed(self.encrypted("-iter", str(ROUNDS), *options), FEW, MANY)
            self.assertEqual(
                self.quick(CertifiedKey.from_pem, pem(LEAF), greedy, SECRET, b"", "it"),
                f"the private key in it (key) takes {0x7FFFFF} rounds to decrypt, where"
                f" {MOST_ROUNDS} are the most",
            )

    def test_layouts_of_pem(self) -> None:
        """However cryptography takes it, it is looked into."""
        good = self.encrypted("-iter", str(ROUNDS))
        greedy = changed(good, FEW, MANY)
        layouts: list[Callable[[bytes], bytes]] = [
            lambda data: data.replace(b"\n", b"\r"),
            lambda data: data.replace(b"\n", b"\r\n"),
            lambda data: b"  " + data.replace(b"\n", b"\n  "),
            lambda data: data.replace(b"\n", b""),
            lambda data: data.replace(b"\n", b"\nComment: AAAA\n\n", 1),
        ]
        for layout in layouts:
            found = CertifiedKey.from_pem(pem(LEAF), layout(good), SECRET)
            self.assertEqual(found.chain, (LEAF,))
            sentence = self.quick(CertifiedKey.from_pem, pem(LEAF), layout(greedy), SECRET)
            self.assertIn(f"takes {0x7FFFFF} rounds", sentence)

    def archive(self) -> bytes:
        """A PKCS #12 file of the program C{openssl}, with rounds for its check, too."""
        command = [require("openssl"), "pkcs12", "-export", "-iter", str(ROUNDS), "-passout"]
        command += [f"file:{self.file('secret', SECRET)}", "-in", self.file("bundle", BUNDLE)]
        made = subprocess.run(command, check=True, capture_output=True, timeout=300).stdout
        self.assertEqual(load_pkcs12(made, SECRET, "it").chain, (LEAF,))
        self.assertEqual(made.count(FEW), 3)
        return made

    def test_pkcs12(self) -> None:
        """Its key's rounds, its certificates' and those of its check."""
        first, *pieces = self.archive().split(FEW)
        for greedy in range(3):
            data = first
            for number, piece in enumerate(pieces):
                data += (MANY if number == greedy else FEW) + piece
            self.assertEqual(
                self.quick(load_pkcs12, data, SECRET, "it"),
                f"it takes {2 * ROUNDS + 0x7FFFFF} rounds to decrypt, where {MOST_ROUNDS} are the"
                " most",
            )

    def test_all_together(self) -> None:
        """Many that are few enough each."""
        half = MOST_ROUNDS // 2
        data = self.archive().replace(FEW, b"\x02\x03" + half.to_bytes(3, "big"))
        self.assertEqual(
            self.quick(load_pkcs12, data, SECRET, "it"),
            f"it takes {half * 3} rounds to decrypt, where {MOST_ROUNDS} are the most",
        )

    def test_scrypt(self) -> None:
        # N, r and p: what is changed is how often it is done.
        lanes = b"\x02\x02\x40\x00\x02\x01\x08\x02\x01"
        greedy = changed(self.encrypted("-scrypt"), lanes + b"\x01", lanes + b"\x7f")
        self.assertEqual(
            self.quick(CertifiedKey.from_pem, pem(LEAF), greedy, SECRET, b"", "it"),
            f"the private key in it (key) takes {128 * 0x4000 * 8 * 127} bytes of scrypt to"
            f" decrypt, where {MOST_SCRYPT_BYTES} are the most",
        )

    def test_number_without_end(self) -> None:
        """One that has more digits than Python would print."""
        number = b"\x02\x82\x20\x00" + b"\x7f" * 0x2000
        inside = b"\x04\x01s" + number
        scheme = bytes.fromhex("06092a864886f70d01050c") + b"\x30\x82\x30\x00" + inside
        block = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n%b\n-----END ENCRYPTED PRIVATE KEY-----\n"
        expected = "it is damaged: how it is encrypted cannot be read"
        self.assertEqual(self.quick(refuse_costly_pem, block % b64encode(scheme), "it"), expected)
        self.assertEqual(self.quick(refuse_costly_pkcs12, scheme, "it"), expected)

    @given(st.binary(max_size=100), st.integers(0, len(ARCHIVE)))
    @settings(deadline=None)
    def test_anything(self, data: bytes, place: int) -> None:
        for whole in (data, ARCHIVE[:place] + data, ARCHIVE[:place] + data + ARCHIVE[place:]):
            for call in (refuse_costly_pem, refuse_costly_pkcs12):
                try:
                    call(whole, "it")
                except ConfigurationError as error:
                    self.assertTrue(str(error).startswith("it "))
