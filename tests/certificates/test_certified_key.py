"""Tests for L{twisted_bioconn.certificates.loading.CertifiedKey}."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from datetime import timedelta
from itertools import permutations

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import (
    dsa,
    ec,
    ed448,
    ed25519,
    mldsa,
    rsa,
    x25519,
)
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from OpenSSL.crypto import X509, PKey

from tests.certificates.material import (
    BEGIN,
    BUNDLE,
    DAY,
    EC_PARAMETERS,
    ENCRYPTED,
    FULL_CHAIN,
    KEY,
    LEAF,
    LOWER,
    LOWER_CERTIFICATE,
    OTHER,
    OWNER,
    ROOT,
    ROOT_CERTIFICATE,
    SECRET,
    STRANGER,
    UPPER,
    UPPER_CERTIFICATE,
    FileCase,
    Signer,
    key_pem,
    pem,
)
from twisted_bioconn.certificates.loading import (
    CertifiedKey,
    load_certificates,
    read_file,
)
from twisted_bioconn.errors import ConfigurationError


class CertifiedKeyTests(FileCase):
    """L{CertifiedKey} itself, and what it tells."""

    def test_facts(self) -> None:
        chain = (LEAF, LOWER_CERTIFICATE, UPPER_CERTIFICATE)
        it = CertifiedKey(chain, OWNER.key)
        self.assertIs(it.leaf, LEAF)
        self.assertEqual(it.intermediates, chain[1:])
        self.assertEqual(it.not_valid_after, BEGIN + 90 * DAY)
        self.assertEqual(it.not_valid_after.utcoffset(), timedelta(0))
        self.assertEqual(it.chain_pem(), FULL_CHAIN)

    def test_names(self) -> None:
        names = ("www.example.org", "*.example.org", "192.0.2.1", "2001:db8::1")
        authority = trustme.CA()
        issued = authority.issue_cert(*names, "someone@example.org")
        it = CertifiedKey.from_pem(issued.private_key_and_cert_chain_pem.bytes())
        self.assertEqual(set(it.names), set(names))

    def test_no_names(self) -> None:
        """The common name is no name of a server."""
        self.assertEqual(CertifiedKey((LEAF,), OWNER.key).names, ())

    def test_names_that_cannot_be_read(self) -> None:
        extension = x509.UnrecognizedExtension(x509.OID_SUBJECT_ALTERNATIVE_NAME, b"\x30\x7f")
        it = CertifiedKey((LOWER.certify(OWNER, extension=extension),), OWNER.key)
        self.assertIn(
            "the names in the certificate for CN=www.example.org cannot be read:",
            self.refusal(lambda: it.names),
        )

    def test_kinds_of_key(self) -> None:
        for key in (
            rsa.generate_private_key(65537, 2048),
            ec.generate_private_key(ec.SECP384R1()),
            ed25519.Ed25519PrivateKey.generate(),
            ed448.Ed448PrivateKey.generate(),
        ):
            owner = Signer.named("owner", key)
            certificate = owner.certify(owner)
            it = CertifiedKey.from_pem(pem(certificate), key_pem(key))
            self.assertEqual(it, CertifiedKey((certificate,), key))

    def test_other_kinds_of_key(self) -> None:
        for key, name in (
            (dsa.generate_private_key(1024), "DSAPrivateKey"),
            (x25519.X25519PrivateKey.generate(), "X25519PrivateKey"),
            (mldsa.MLDSA44PrivateKey.generate(), "MLDSA44PrivateKey"),
        ):
            reason = f"is of the kind {name}, where RSA, EC, Ed25519 or Ed448 is needed"
            self.assertEqual(self.refusal(CertifiedKey, (LEAF,), key), f"the private key {reason}")
            path = self.file("leaf.pem", pem(LEAF) + key_pem(key))
            self.assertEqual(
                self.refusal(CertifiedKey.from_files, path), f"the private key in {path} {reason}"
            )

    def test_restricted_rsa(self) -> None:
        """
        OpenSSL would not take key and certificate together; seen before, it can be explained.
        """
        owner = Signer.named("owner", rsa.generate_private_key(65537, 2048))
        certificate = owner.certify(owner)
        plain = bytes.fromhex("300d06092a864886f70d0101010500038201")
        restricted = bytes.fromhex("300d06092a864886f70d01010a3000038201")
        der = certificate.public_bytes(Encoding.DER)
        self.assertEqual(der.count(plain), 1)
        certificate = x509.load_der_x509_certificate(der.replace(plain, restricted))
        path = self.file("leaf.pem", pem(certificate) + key_pem(owner.key))
        self.assertEqual(
            self.refusal(CertifiedKey.from_files, path),
            f"{path} cannot be used: the certificate for CN=owner restricts its key to RSA-PSS,"
            " where a plain RSA key is needed (TLS signs with RSA-PSS all the same)",
        )

    def test_mismatch(self) -> None:
        self.assertEqual(
            self.refusal(CertifiedKey, (LEAF,), STRANGER.key),
            "the private key is not that of the certificate for CN=www.example.org",
        )
        rsa_key = rsa.generate_private_key(65537, 2048)
        self.refusal(CertifiedKey, (LEAF,), rsa_key)

    def test_nameless_mismatch(self) -> None:
        nameless = LOWER.certify(Signer(x509.Name([]), OWNER.key))
        self.assertEqual(
            self.refusal(CertifiedKey, (nameless,), STRANGER.key),
            "the private key is not that of the certificate for an empty name",
        )

    def test_no_certificate(self) -> None:
        self.assertEqual(
            self.refusal(CertifiedKey, (), OWNER.key), "a key needs at least one certificate"
        )

    def test_equality(self) -> None:
        """What was loaded twice is equal: a reload can tell that nothing has changed."""
        one, other = CertifiedKey.from_pem(BUNDLE), CertifiedKey.from_pem(BUNDLE)
        self.assertEqual(one, other)
        self.assertEqual(hash(one), hash(other))
        self.assertNotEqual(one, CertifiedKey((OTHER,), STRANGER.key))

    def test_frozen_and_discreet(self) -> None:
        it = CertifiedKey((LEAF,), OWNER.key)
        self.assertRaises(AttributeError, setattr, it, "chain", ())
        self.assertNotIn("key", repr(it))

    def test_to_pem(self) -> None:
        it = CertifiedKey((LEAF, LOWER_CERTIFICATE), OWNER.key)
        again = CertifiedKey.from_pem(it.to_pem())
        self.assertEqual(again, it)
        self.assertEqual(key_pem(again.key), KEY)


class ChainTests(FileCase):
    """Which certificates become the chain, and in which order."""

    def test_any_order(self) -> None:
        whole = (LEAF, LOWER_CERTIFICATE, UPPER_CERTIFICATE, ROOT_CERTIFICATE)
        for order in permutations(whole):
            it = CertifiedKey.from_pem(pem(*order), KEY)
            self.assertEqual(it.chain, whole[:3])

    def test_key_anywhere(self) -> None:
        a, b = pem(UPPER_CERTIFICATE, LEAF), pem(LOWER_CERTIFICATE)
        for data in (KEY + a + b, a + KEY + b, a + b + KEY, a + EC_PARAMETERS + KEY + b):
            it = CertifiedKey.from_pem(data)
            self.assertEqual(it.chain, (LEAF, LOWER_CERTIFICATE, UPPER_CERTIFICATE))

    def test_older_key_forms(self) -> None:
        key = key_pem(OWNER.key, PrivateFormat.TraditionalOpenSSL)
        self.assertIn(b"BEGIN EC PRIVATE KEY", key)
        for data in (key, EC_PARAMETERS + key, b"Bag Attributes\n  friendlyName: a\n" + key):
            self.assertEqual(CertifiedKey.from_pem(pem(LEAF), data).chain, (LEAF,))

    def test_what_does_not_belong(self) -> None:
        data = pem(OTHER, UPPER_CERTIFICATE, LEAF, LEAF, STRANGER.certify(STRANGER))
        self.assertEqual(CertifiedKey.from_pem(data, KEY).chain, (LEAF,))

    def test_self_signed(self) -> None:
        """The leaf itself is sent, whoever signed it."""
        certificate = OWNER.certify(OWNER)
        self.assertEqual(CertifiedKey.from_pem(pem(certificate), KEY).chain, (certificate,))

    def test_same_name_other_key(self) -> None:
        """The issuer is the one that signed, not one that has its name."""
        for key in (None, ed25519.Ed25519PrivateKey.generate()):
            namesake = ROOT.certify(Signer.named("lower", key), days=900)
            data = pem(namesake, LEAF, LOWER_CERTIFICATE)
            self.assertEqual(CertifiedKey.from_pem(data, KEY).chain, (LEAF, LOWER_CERTIFICATE))

    def test_renewed_intermediate(self) -> None:
        """Of an old and a new certificate for one authority, the one that lasts longer."""
        renewed = UPPER.certify(LOWER, days=900)
        for order in permutations((LEAF, LOWER_CERTIFICATE, renewed)):
            self.assertEqual(CertifiedKey.from_pem(pem(*order), KEY).chain, (LEAF, renewed))

    def test_cross_signed_root(self) -> None:
        """A new root's certificate from an old root is sent; the new root's own is not."""
        crossed = STRANGER.certify(ROOT)
        for order in permutations((ROOT_CERTIFICATE, crossed, UPPER_CERTIFICATE)):
            data = pem(LEAF, LOWER_CERTIFICATE, *order)
            self.assertEqual(
                CertifiedKey.from_pem(data, KEY).chain,
                (LEAF, LOWER_CERTIFICATE, UPPER_CERTIFICATE, crossed),
            )

    def test_authorities_that_sign_each_other(self) -> None:
        a, b = Signer.named("a"), Signer.named("b")
        leaf, a_by_b, b_by_a = a.certify(OWNER), b.certify(a), a.certify(b)
        it = CertifiedKey.from_pem(pem(leaf, a_by_b, b_by_a), KEY)
        self.assertEqual(it.chain, (leaf, a_by_b, b_by_a))

    def test_signature_of_an_unknown_kind(self) -> None:
        """Where a signature cannot be checked here, the issuer's name has to do."""
        ecdsa_with_sha256 = bytes.fromhex("300a06082a8648ce3d040302")
        unknown = bytes.fromhex("300a06082a8648ce3d04037f")
        der = LEAF.public_bytes(Encoding.DER)
        self.assertEqual(der.count(ecdsa_with_sha256), 2)
        leaf = x509.load_der_x509_certificate(der.replace(ecdsa_with_sha256, unknown))
        it = CertifiedKey.from_pem(pem(leaf, OTHER, LOWER_CERTIFICATE), KEY)
        self.assertEqual(it.chain, (leaf, LOWER_CERTIFICATE))

    def test_two_leaves_of_one_key(self) -> None:
        """The first is taken, as OpenSSL does."""
        other = LOWER.certify(OWNER, days=1)
        self.assertEqual(CertifiedKey.from_pem(pem(other, LEAF), KEY).chain, (other,))

    def test_certificate_of_an_unknown_kind_of_key(self) -> None:
        """It is passed over in the search for the leaf."""
        der = OTHER.public_bytes(Encoding.DER)
        strange = x509.load_der_x509_certificate(
            der.replace(bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d027f"))
        )
        self.assertEqual(CertifiedKey.from_pem(pem(strange, LEAF), KEY).chain, (LEAF,))

    def test_extra_chain(self) -> None:
        extra = pem(ROOT_CERTIFICATE, UPPER_CERTIFICATE, LOWER_CERTIFICATE)
        whole = (LEAF, LOWER_CERTIFICATE, UPPER_CERTIFICATE)
        self.assertEqual(CertifiedKey.from_pem(pem(LEAF), KEY, extra_chain=extra).chain, whole)
        files = CertifiedKey.from_files(
            self.file("leaf.pem", pem(LEAF)),
            self.file("leaf.key", KEY),
            extra_chain=self.file("chain.pem", extra),
        )
        self.assertEqual(files.chain, whole)

    def test_bad_extra_chain(self) -> None:
        path = self.file("chain.pem", KEY)
        leaf = self.file("leaf.pem", BUNDLE)
        reason = "holds no certificate (only: PRIVATE KEY)"
        self.assertEqual(
            self.refusal(CertifiedKey.from_files, leaf, extra_chain=path), f"{path} {reason}"
        )
        self.assertEqual(
            self.refusal(CertifiedKey.from_pem, BUNDLE, extra_chain=KEY, where="it"),
            f"it (extra chain) {reason}",
        )


class FromFilesTests(FileCase):
    """L{CertifiedKey.from_files}, and L{CertifiedKey.from_pem} where it differs."""

    def test_combined(self) -> None:
        path = self.file("server.pem", BUNDLE)
        for it in (CertifiedKey.from_files(path), CertifiedKey.from_files(path, path)):
            self.assertEqual(it.chain, (LEAF,))
            self.assertEqual(key_pem(it.key), KEY)

    def test_made_by_another_program(self) -> None:
        """trustme's files, with a chain of three and keys of both kinds."""
        for kind in (trustme.KeyType.ECDSA, trustme.KeyType.RSA):
            authority = trustme.CA(key_type=kind).create_child_ca().create_child_ca()
            issued = authority.issue_cert("a.example", key_type=kind)
            chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
            it = CertifiedKey.from_files(
                self.file("chain.pem", chain),
                self.file("key.pem", issued.private_key_pem.bytes()),
            )
            self.assertEqual(it.chain, load_certificates(chain, "chain"))
            self.assertEqual(len(it.chain), 3)
            self.assertEqual(it.names, ("a.example",))

    def test_mismatch_names_both(self) -> None:
        certificate, key = self.file("leaf.pem", pem(OTHER)), self.file("leaf.key", KEY)
        self.assertEqual(
            self.refusal(CertifiedKey.from_files, certificate, key),
            f"the private key in {key} belongs to no certificate in {certificate}",
        )
        self.assertEqual(
            self.refusal(CertifiedKey.from_pem, pem(OTHER), KEY, where="it"),
            "the private key in it (key) belongs to no certificate in it",
        )

    def test_no_key(self) -> None:
        path = self.file("leaf.pem", pem(LEAF))
        self.assertEqual(
            self.refusal(CertifiedKey.from_files, path),
            f"{path} holds no private key (only: CERTIFICATE)",
        )

    def test_files_confused(self) -> None:
        certificate, key = self.file("leaf.pem", pem(LEAF)), self.file("leaf.key", KEY)
        self.assertEqual(
            self.refusal(CertifiedKey.from_files, key, certificate),
            f"{key} holds no certificate (only: PRIVATE KEY)",
        )

    def test_bad_key_files(self) -> None:
        certificate = self.file("leaf.pem", pem(LEAF))
        key = OWNER.key
        openssh = key_pem(key, PrivateFormat.OpenSSH)
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        lines = KEY.splitlines(keepends=True)
        for data, expected in (
            (b"", "{} is empty"),
            (b"hello", "{} is not PEM: there is no -----BEGIN in it"),
            (der, "{} is in DER or PKCS #12 form, where PEM is needed"),
            (openssh, "the private key in {} is in OpenSSH's form, not PKCS #8"),
            (lines[0] + lines[2] + lines[-1], "the private key in {} is damaged"),
            (KEY[:80], "{} is damaged: its PEM block 1 is cut short"),
            (KEY[80:], "{} is damaged: its PEM block 1 is cut short"),
        ):
            path = self.file("leaf.key", data)
            sentence = self.refusal(CertifiedKey.from_files, certificate, path)
            self.assertEqual(sentence, expected.format(path))

    def test_unsupported_key(self) -> None:
        """An algorithm that nobody knows."""
        key = OWNER.key
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        der = der.replace(bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d027f"))
        data = b"-----BEGIN PRIVATE KEY-----\n" + b64encode(der) + b"\n-----END PRIVATE KEY-----"
        path = self.file("leaf.pem", pem(LEAF) + data)
        self.assertEqual(
            self.refusal(CertifiedKey.from_files, path),
            f"the private key in {path} is of an unsupported kind, or encrypted in such a way",
        )


class PassphraseTests(FileCase):
    """Encrypted keys."""

    def setUp(self) -> None:
        super().setUp()
        self.certificate = self.file("leaf.pem", pem(LEAF))
        legacy = key_pem(
            OWNER.key, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(SECRET)
        )
        self.assertIn(b"Proc-Type: 4,ENCRYPTED", legacy)
        self.keys = (self.file("pkcs8.key", ENCRYPTED), self.file("legacy.key", legacy))

    def test_right(self) -> None:
        passphrase = self.file("passphrase", SECRET + b"\n")
        for key in self.keys:
            it = CertifiedKey.from_files(self.certificate, key, passphrase)
            self.assertEqual(key_pem(it.key), KEY)
            combined = self.file("combined.pem", read_file(key) + pem(LEAF))
            self.assertEqual(CertifiedKey.from_files(combined, None, passphrase).chain, (LEAF,))

    def test_none(self) -> None:
        for key in self.keys:
            sentence = f"the private key in {key} is encrypted, and no passphrase was given"
            self.assertEqual(self.refusal(CertifiedKey.from_files, self.certificate, key), sentence)
        self.assertEqual(
            self.refusal(CertifiedKey.from_pem, pem(LEAF), ENCRYPTED, b"", where="it"),
            "the private key in it (key) is encrypted, and no passphrase was given",
        )

    def test_wrong(self) -> None:
        passphrase = self.file("passphrase", b"wrong staple\n")
        for key in self.keys:
            sentence = self.refusal(CertifiedKey.from_files, self.certificate, key, passphrase)
            self.assertEqual(
                sentence,
                f"the private key in {key} cannot be decrypted: the passphrase is wrong, the key is"
                " damaged, or its cipher is not supported",
            )
            self.assertNotIn("staple", sentence)

    def test_not_needed(self) -> None:
        key = self.file("plain.key", KEY)
        passphrase = self.file("passphrase", SECRET)
        it = CertifiedKey.from_files(self.certificate, key, passphrase)
        self.assertEqual(it.chain, (LEAF,))

    def test_nothing_of_it_in_a_traceback(self) -> None:
        error = self.assertRaises(
            ConfigurationError, CertifiedKey.from_pem, pem(LEAF), ENCRYPTED, b"wrong"
        )
        self.assertIs(error.__cause__, None)
        self.assertTrue(error.__suppress_context__)


class FromObjectsTests(FileCase):
    """L{CertifiedKey.from_objects}."""

    def test_cryptography(self) -> None:
        chain = (ROOT_CERTIFICATE, UPPER_CERTIFICATE, LOWER_CERTIFICATE)
        it = CertifiedKey.from_objects(LEAF, OWNER.key, chain)
        self.assertEqual(it.chain, (LEAF, LOWER_CERTIFICATE, UPPER_CERTIFICATE))
        self.assertIs(it.key, OWNER.key)

    def test_pyopenssl(self) -> None:
        assert isinstance(OWNER.key, ec.EllipticCurvePrivateKey)
        it = CertifiedKey.from_objects(
            X509.from_cryptography(LEAF),
            PKey.from_cryptography_key(OWNER.key),
            [X509.from_cryptography(LOWER_CERTIFICATE)],
        )
        self.assertEqual(it.chain, (LEAF, LOWER_CERTIFICATE))
        self.assertEqual(key_pem(it.key), KEY)

    def test_mismatch(self) -> None:
        self.assertEqual(
            self.refusal(CertifiedKey.from_objects, LEAF, STRANGER.key),
            "the private key is not that of the certificate for CN=www.example.org",
        )

    def test_public_half(self) -> None:
        public = OWNER.key.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        for key in (public, PKey.from_cryptography_key(public)):
            self.assertIn(
                "is of the kind ECPublicKey, where RSA,",
                self.refusal(CertifiedKey.from_objects, LEAF, key),
            )

    def test_certificate_that_cannot_be_read(self) -> None:
        der = LEAF.public_bytes(Encoding.DER)
        strange = x509.load_der_x509_certificate(
            der.replace(b"www.example.org", b"www.example.\xff\xff\xff")
        )
        self.assertIn(
            "a given certificate cannot be read:",
            self.refusal(CertifiedKey.from_objects, strange, OWNER.key),
        )


class HostileTests(FileCase):
    """Whatever is done to the bytes, there is a sentence."""

    @given(length=st.integers(0, len(BUNDLE)))
    @settings(deadline=None, max_examples=200)
    def test_cut(self, length: int) -> None:
        try:
            it = CertifiedKey.from_pem(BUNDLE[:length])
        except ConfigurationError:
            self.assertLess(length, len(BUNDLE.rstrip()))
        else:
            self.assertGreaterEqual(length, len(BUNDLE.rstrip()))
            self.assertEqual(it.chain, (LEAF,))

    @given(
        position=st.integers(0, len(BUNDLE) - 1),
        length=st.integers(0, 40),
        instead=st.binary(max_size=40),
    )
    @settings(deadline=None, max_examples=300)
    def test_garbled(self, position: int, length: int, instead: bytes) -> None:
        self.survive(BUNDLE[:position] + instead + BUNDLE[position + length :])

    @given(st.data())
    @settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
    def test_garbled_inside(self, data: st.DataObject) -> None:
        """The bytes under the Base64: what the parser of DER sees."""
        whole = bytearray()
        for label, body in re.findall(rb"BEGIN (.+?)-----(.+?)-----END", BUNDLE, re.DOTALL):
            der = bytearray(b64decode(body))
            for position in data.draw(st.lists(st.integers(0, len(der) - 1), max_size=2)):
                der[position] = data.draw(st.integers(0, 255))
            whole += b"-----BEGIN %b-----\n%b\n" % (label, b64encode(der))
            whole += b"-----END %b-----\n" % label
        self.survive(bytes(whole))

    @given(st.binary(max_size=200), st.binary(max_size=20), st.binary(max_size=20))
    @settings(deadline=None, max_examples=200)
    def test_anything(self, body: bytes, passphrase: bytes, around: bytes) -> None:
        self.survive(body)
        for label in (b"PRIVATE KEY", b"RSA PRIVATE KEY", b"ENCRYPTED PRIVATE KEY"):
            text = b"-----BEGIN %b-----\n%b\n-----END %b-----\n"
            for inside in (body, b64encode(body)):
                self.survive(pem(LEAF) + around + text % (label, inside, label), passphrase)

    def survive(self, data: bytes, passphrase: bytes | None = None) -> None:
        try:
            it = CertifiedKey.from_pem(data, passphrase=passphrase, where="it")
            _ = (it.names, it.not_valid_after)
        except ConfigurationError as error:
            self.assertNotIn("\n", str(error))
            self.assertIn("it", str(error))
