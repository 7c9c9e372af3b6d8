"""L{twisted_bioconn.hello.ClientHello.supports_key}."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tests.hello_material import openssl_hello, read
from twisted_bioconn.hello import ClientHello

RSA = rsa.generate_private_key(65537, 2048).public_key()
P256 = ec.generate_private_key(ec.SECP256R1()).public_key()
P384 = ec.generate_private_key(ec.SECP384R1()).public_key()
BRAINPOOL = ec.generate_private_key(ec.BrainpoolP256R1()).public_key()
SECP256K1 = ec.generate_private_key(ec.SECP256K1()).public_key()
ED25519 = ed25519.Ed25519PrivateKey.generate().public_key()
ED448 = ed448.Ed448PrivateKey.generate().public_key()
DSA = dsa.generate_private_key(1024).public_key()
KEYS = {
    "rsa": RSA,
    "p256": P256,
    "p384": P384,
    "brainpool": BRAINPOOL,
    "secp256k1": SECP256K1,
    "ed25519": ED25519,
    "ed448": ED448,
    "dsa": DSA,
}


class SupportsKeyTests(SynchronousTestCase):
    """L{ClientHello.supports_key}."""

    def supported(self, expected: str, **hello: Any) -> None:
        found = [name for name, key in KEYS.items() if ClientHello(**hello).supports_key(key)]
        self.assertEqual(found, expected.split(), hello)

    def test_nothing_said(self) -> None:
        """RFC 5246, section 7.4.1.4.1: there are defaults."""
        self.supported(" ".join(KEYS))
        self.supported(" ".join(KEYS), versions=(0x0303,), cipher_suites=(0xC02F,))

    def test_13(self) -> None:
        """RFC 8446, section 4.2.3: a scheme is of one curve, and PKCS #1 is for certificates."""
        for expected, *schemes in (
            ("p256", 0x0403),
            ("p384", 0x0503),
            ("p256 p384", 0x0403, 0x0503),
            ("brainpool", 0x081A),
            ("rsa", 0x0804),
            ("rsa", 0x0806),
            ("ed25519", 0x0807),
            ("ed448", 0x0808),
            ("", 0x0401, 0x0201, 0x0203),
            ("", 0x0809),
            ("rsa p256", 0x0804, 0x0403, 0x9999),
        ):
            for versions in ((0x0304,), (0x0304, 0x0303), ()):
                self.supported(expected, versions=versions, signature_algorithms=tuple(schemes))

    def test_13_groups_and_suites_have_no_say(self) -> None:
        self.supported(
            "p256",
            versions=(0x0304, 0x0303),
            groups=(29,),
            signature_algorithms=(0x0403,),
            cipher_suites=(0x1301, 0xC02F),
        )

    def test_12_schemes(self) -> None:
        """A hash, and the curve is chosen by the groups."""
        for expected, *schemes in (
            ("p256 p384 brainpool secp256k1", 0x0403),
            ("p256 p384 brainpool secp256k1", 0x0203),
            ("rsa", 0x0401),
            ("rsa", 0x0201),
            ("rsa", 0x0804),
            ("ed25519", 0x0807),
            ("ed448", 0x0808),
            ("", 0x081A),
        ):
            for versions in ((0x0303,), (0x0303, 0x0302, 0x0301)):
                self.supported(expected, versions=versions, signature_algorithms=tuple(schemes))

    def test_12_groups(self) -> None:
        for expected, *groups in (
            ("p256", 23),
            ("p384", 29, 24),
            ("brainpool", 26),
            ("", 29),
        ):
            self.supported(
                expected,
                versions=(0x0303,),
                groups=tuple(groups),
                signature_algorithms=(0x0403, 0x0503),
            )

    def test_12_suites(self) -> None:
        """RFC 8422, section 2.2: a suite says what kind of key signs."""
        ecdsa, rsa = "p256 p384 brainpool secp256k1 ed25519 ed448", "rsa"
        for expected, *suites in (
            (ecdsa, 0xC02B),
            (ecdsa, 0xC009, 0x00FF),
            (ecdsa, 0xCCA9, 0x1301, 0x5600),
            (rsa, 0xC02F),
            (rsa, 0xCCA8, 0x00FF),
            (rsa, 0x002F),
            (f"rsa {ecdsa}", 0xC02B, 0xC02F),
            ("", 0x00FF, 0x1301),
        ):
            self.supported(
                expected,
                versions=(0x0303,),
                signature_algorithms=(0x0403, 0x0401, 0x0807, 0x0808),
                cipher_suites=tuple(suites),
            )

    def test_ecdsa_suites_are_openssls(self) -> None:
        """No suite of OpenSSL's that an ECDSA key signs for is missing, and none is too many."""
        for kinds, expected in ((b"aECDSA", P256), (b"aRSA", RSA)):
            context = SSL.Context(SSL.TLS_METHOD)
            context.set_max_proto_version(SSL.TLS1_2_VERSION)
            context.set_cipher_list(kinds + b":@SECLEVEL=0")
            client = SSL.Connection(context, None)
            client.set_connect_state()
            self.assertRaises(SSL.WantReadError, client.do_handshake)
            hello = read(client.bio_read(1 << 16))
            assert hello is not None
            for suite in set(hello.cipher_suites) - {0x00FF}:
                one = ClientHello(
                    versions=(0x0303,),
                    signature_algorithms=hello.signature_algorithms,
                    cipher_suites=(suite,),
                )
                self.assertEqual(one.supports_key(P256), expected is P256, hex(suite))
                self.assertEqual(one.supports_key(RSA), expected is RSA, hex(suite))

    def test_client_of_today(self) -> None:
        """OpenSSL's takes the keys that certificates have."""
        hello = read(openssl_hello())
        assert hello is not None
        for key in (RSA, P256, P384, ED25519):
            self.assertTrue(hello.supports_key(key), key)
