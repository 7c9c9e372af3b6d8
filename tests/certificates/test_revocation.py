"""Tests for L{twisted_bioconn.certificates.revocation}."""

from __future__ import annotations

import os
from base64 import b64encode
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import crypto
from OpenSSL.crypto import X509StoreFlags
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates.material import (
    BEGIN,
    DAY,
    EC_PARAMETERS,
    KEY,
    LOWER,
    LOWER_CERTIFICATE,
    OWNER,
    ROOT,
    ROOT_CERTIFICATE,
    SECOND,
    UPPER,
    UPPER_CERTIFICATE,
    FileCase,
    Signer,
    pem,
)
from twisted_bioconn.certificates import revocation
from twisted_bioconn.certificates.revocation import CRLFacts, TrustFiles, load_crls
from twisted_bioconn.client_policy import ClientCertificate, CRLMode
from twisted_bioconn.errors import ConfigurationError

WEEK = 7 * DAY
NOON = BEGIN + DAY
OVER = BEGIN + WEEK + SECOND


def revoked(
    by: Signer,
    *serials: int,
    begin: datetime = BEGIN,
    end: datetime | None = BEGIN + WEEK,
    extension: x509.ExtensionType | None = None,
    critical: bool = True,
    key: Any = None,
) -> x509.CertificateRevocationList:
    """A revocation list."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(by.name).last_update(begin)
    # cryptography makes none without: it is cut out by L{endless}.
    builder = builder.next_update(end or begin + WEEK)
    if extension is not None:
        builder = builder.add_extension(extension, critical)
    for serial in serials:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin).build()
        )
    key = key or by.key
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256())


def endless(by: Signer) -> x509.CertificateRevocationList:
    """A list that does not say when there will be another."""
    assert isinstance(by.key, ec.EllipticCurvePrivateKey)
    crl = revoked(by, end=BEGIN + WEEK)
    inside = crl.tbs_certlist_bytes
    end = b"\x17\x0d" + (BEGIN + WEEK).strftime("%y%m%d%H%M%SZ").encode()
    assert inside.count(end) == 1 and inside[1] < 0x80
    inside = inside.replace(end, b"")
    inside = bytes([0x30, len(inside) - 2]) + inside[2:]
    signature = by.key.sign(inside, ec.ECDSA(SHA256()))
    kind = bytes.fromhex("300a06082a8648ce3d040302")  # ecdsa-with-SHA256
    body = inside + kind + bytes([0x03, len(signature) + 1, 0]) + signature
    return x509.load_der_x509_crl(b"\x30\x81" + bytes([len(body)]) + body)


def der(crl: x509.CertificateRevocationList) -> bytes:
    return crl.public_bytes(Encoding.DER)


def armored(*lists: x509.CertificateRevocationList) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in lists)


def authority(signs_lists: bool = True) -> x509.Certificate:
    """ROOT's certificate, as authorities have it."""
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=signs_lists,
        encipher_only=False,
        decipher_only=False,
    )
    assert isinstance(ROOT.key, ec.EllipticCurvePrivateKey)
    return (
        x509.CertificateBuilder()
        .subject_name(ROOT.name)
        .issuer_name(ROOT.name)
        .public_key(ROOT.key.public_key())
        .serial_number(1)
        .not_valid_before(BEGIN)
        .not_valid_after(BEGIN + 90 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(ROOT.key, SHA256())
    )


def verdict(trusted: x509.Certificate, crl: x509.CertificateRevocationList, time: datetime) -> int:
    """What OpenSSL says of a certificate by ROOT: an C{X509_V_ERR_} number, 0 where it is good."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(trusted))
    store.add_crl(crl)
    store.set_time(time.replace(tzinfo=None))
    store.set_flags(X509StoreFlags.CRL_CHECK)
    context = crypto.X509StoreContext(store, crypto.X509.from_cryptography(UPPER_CERTIFICATE))
    try:
        context.verify_certificate()
    except crypto.X509StoreContextError as error:
        return int(error.errors[0])
    return 0


ROOTS_LIST = revoked(ROOT, 1, 2)
UPPERS_LIST = revoked(UPPER, 3)
LOWERS_LIST = revoked(LOWER)


class LoadTests(FileCase):
    """L{load_crls}."""

    def test_one(self) -> None:
        for data in (armored(ROOTS_LIST), der(ROOTS_LIST)):
            self.assertEqual(load_crls(self.file("list", data)), (ROOTS_LIST,))

    def test_bundle(self) -> None:
        """Each once, in its order; what else is in it is passed over."""
        data = (
            b"the root's:\n"
            + armored(UPPERS_LIST, ROOTS_LIST)
            + EC_PARAMETERS
            + pem(ROOT_CERTIFICATE)
            + armored(UPPERS_LIST).replace(b"\n", b"\r\n")
        )
        self.assertEqual(load_crls(self.file("list", data)), (UPPERS_LIST, ROOTS_LIST))

    def test_directory(self) -> None:
        """Files of two kinds count, in the order of their names, and no others."""
        self.file("b.crl", der(ROOTS_LIST))
        self.file("a.PEM", armored(UPPERS_LIST, LOWERS_LIST))
        self.file("c.crl", armored(ROOTS_LIST))
        for name in (".hidden.crl", "a.crl.bak", "README", "ca.crt"):
            self.file(name, b"what is this")
        os.mkdir(self.path("d.crl"))
        self.assertEqual(load_crls(self.directory), (UPPERS_LIST, LOWERS_LIST, ROOTS_LIST))

    def test_directory_of_links(self) -> None:
        """As Kubernetes has it."""
        os.mkdir(self.path("..2026"))
        self.file("..2026/list.crl", der(ROOTS_LIST))
        os.symlink("..2026", self.path("..data"))
        os.symlink("..data/list.crl", self.path("list.crl"))
        self.assertEqual(load_crls(self.directory), (ROOTS_LIST,))

    def test_empty_directory(self) -> None:
        self.file("list.txt", armored(ROOTS_LIST))
        self.assertEqual(
            self.refusal(load_crls, self.directory),
            f"the directory {self.directory} holds no file that ends in .pem, .crl",
        )

    def test_broken_one_in_a_directory(self) -> None:
        self.file("a.crl", armored(ROOTS_LIST))
        path = self.file("b.crl", armored(UPPERS_LIST)[:-30])
        self.assertEqual(
            self.refusal(load_crls, self.directory),
            f"{path} is damaged: its PEM block 1 is cut short",
        )

    def test_no_next_update(self) -> None:
        crl = endless(ROOT)
        self.assertIs(crl.next_update_utc, None)
        for data in (armored(crl), der(crl)):
            self.assertEqual(load_crls(self.file("list", data)), (crl,))

    def test_missing(self) -> None:
        path = self.path("list")
        self.assertEqual(self.refusal(load_crls, path), f"{path} does not exist")

    def test_unreadable(self) -> None:
        path = self.file("list", armored(ROOTS_LIST))
        os.chmod(path, 0)
        self.assertEqual(
            self.unprivileged(load_crls, path), f"{path} cannot be read: Permission denied"
        )

    def test_bad(self) -> None:
        text, binary = armored(ROOTS_LIST), der(ROOTS_LIST)
        unreadable = "{} is damaged: its PEM block {} is no revocation list that can be read"
        not_der = "{} is in DER form and no revocation list that can be read"
        marker = b"-----BEGIN X509 CRL-----\n", b"\n-----END X509 CRL-----\n"
        broken_name = binary.replace(b"\x0c\x04root", b"\x0c\x04\xff\xff\xff\xff")
        self.assertNotEqual(broken_name, binary)
        for data, expected in (
            (b"", "{} is empty"),
            (b" \n", "{} is empty"),
            (b"hello", "{} is not PEM: there is no -----BEGIN in it"),
            (KEY + pem(ROOT_CERTIFICATE), "{} holds no revocation list (only: PRIVATE KEY,"),
            (text + text[:100], "{} is damaged: its PEM block 2 is cut short"),
            (text[100:], "{} is damaged: its PEM block 1 is cut short"),
            (text + b"\n".join(marker), unreadable.replace("{} is no", "2 is no")),
            (broken_name.join((b"", b"")) + broken_name, not_der),
            (binary[:-1], not_der),
            (binary + b"\0", not_der),
            (b"\x30", not_der),
            (LOWER_CERTIFICATE.public_bytes(Encoding.DER), not_der),
            (b64encode(broken_name).join(marker), unreadable.replace("{} is no", "1 is no")),
        ):
            path = self.file("list.pem", data)
            sentence = self.refusal(load_crls, path)
            self.assertTrue(sentence.startswith(expected.replace("{}", path)), sentence)

    def test_too_large(self) -> None:
        """A list may be larger than a certificate."""
        path = self.path("list")
        with open(path, "wb") as file:
            file.truncate(revocation.LARGEST_CRL + 1)
        self.assertEqual(self.refusal(load_crls, path), f"{path} is larger than 33554432 bytes")
        padding = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(1024 * 1024))
        crl = revoked(ROOT, extension=padding, critical=False)
        self.assertGreater(len(der(crl)), 1024 * 1024)
        self.assertEqual(load_crls(self.file("list", armored(crl))), (crl,))

    def test_kind_that_is_not_gone_by(self) -> None:
        """OpenSSL would pass over the one, and refuse everybody for the other."""
        path = self.file("list", armored(revoked(ROOT, extension=x509.DeltaCRLIndicator(1))))
        self.assertEqual(
            self.refusal(load_crls, path),
            f"{path} holds a delta revocation list, where a complete one is needed",
        )
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0")
        path = self.file("list", der(revoked(ROOT, extension=unknown)))
        self.assertEqual(
            self.refusal(load_crls, path),
            f"{path} holds a revocation list with a critical extension that is not known: 1.2.3.4",
        )

    def test_critical_extension_that_openssl_knows(self) -> None:
        for extension in (
            x509.CRLNumber(1),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ROOT.key.public_key()),
            x509.IssuingDistributionPoint(
                full_name=[x509.UniformResourceIdentifier("http://x.example/1.crl")],
                relative_name=None,
                only_contains_user_certs=False,
                only_contains_ca_certs=False,
                only_some_reasons=None,
                indirect_crl=False,
                only_contains_attribute_certs=False,
            ),
        ):
            crl = revoked(ROOT, extension=extension)
            self.assertEqual(load_crls(self.file("list", der(crl))), (crl,))


class DamageTests(SynchronousTestCase):
    """What a revocation list is read from, damaged at random."""

    def parse(self, data: bytes) -> None:
        try:
            for crl in revocation._parse(data, "it"):
                crypto.X509Store().add_crl(crl)
        except ConfigurationError as error:
            self.assertTrue(str(error).startswith("it "), error)
            self.assertNotIn("\n", str(error))

    @given(
        st.sampled_from([der(ROOTS_LIST), armored(ROOTS_LIST), armored(ROOTS_LIST, UPPERS_LIST)]),
        st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), max_size=4),
        st.integers(0, 2000),
    )
    @settings(deadline=None, max_examples=300)
    def test_changed(self, data: bytes, changes: list[tuple[int, bytes]], length: int) -> None:
        for at, new in changes:
            at %= len(data)
            data = data[:at] + new + data[at + len(new) :]
        self.parse(data)
        self.parse(data[:length])

    @given(st.integers(0, len(armored(ROOTS_LIST, UPPERS_LIST))))
    @settings(deadline=None)
    def test_cut_anywhere(self, length: int) -> None:
        """A cut bundle is refused, unless all that is left of the next list is its first dashes."""
        data = armored(ROOTS_LIST, UPPERS_LIST)[:length]
        try:
            found = revocation._parse(data, "it")
        except ConfigurationError:
            return
        self.assertEqual(data.count(b"-----BEGIN X509"), len(found))
        self.assertRegex(data, rb"-----END X509 CRL-----\n?-{0,5}\Z")


class TrustCase(FileCase):
    """A test with files of whom to trust."""

    def setUp(self) -> None:
        super().setUp()
        self.time = NOON
        self.authorities = self.file("ca.pem", pem(ROOT_CERTIFICATE))
        self.crl = self.file("list.crl", armored(ROOTS_LIST))

    def trust(self, **options: Any) -> TrustFiles:
        return TrustFiles(self.authorities, self.crl, now=lambda: self.time.timestamp(), **options)

    def assertTells(self, call: Any, *expected: tuple[LogLevel, str]) -> Any:
        """What a call logs; of each line only the beginning has to be told."""
        with capturedLogs() as logs:
            result = call()
        lines = [(each["log_level"], formatEvent(each)) for each in logs]
        self.assertEqual(len(lines), len(expected), lines)
        for (level, line), (expected_level, beginning) in zip(lines, expected, strict=True):
            self.assertEqual(level, expected_level)
            self.assertTrue(line.startswith(beginning), line)
            self.assertNotIn("\n", line)
        return result


class TrustTests(TrustCase):
    """L{TrustFiles}, and files that are as they should be."""

    def test_loads_at_once(self) -> None:
        policy = self.trust().policy
        self.assertEqual(policy.authorities, (ROOT_CERTIFICATE,))
        self.assertEqual(policy.crls, (ROOTS_LIST,))
        self.assertIs(policy.mode, ClientCertificate.REQUIRE)
        self.assertIs(policy.crl_mode, CRLMode.HARD)

    def test_what_is_passed_on(self) -> None:
        def check(chain: object) -> None:
            raise NotImplementedError

        options = {
            "mode": ClientCertificate.VERIFY_IF_GIVEN,
            "crl_mode": CRLMode.SOFT,
            "check": check,
        }
        trust = self.trust(**options)
        self.file("ca.pem", pem(ROOT_CERTIFICATE, UPPER_CERTIFICATE))
        for reload in (False, True):
            self.assertEqual(trust.reload() if reload else False, reload)
            self.assertEqual({name: getattr(trust.policy, name) for name in options}, options)

    def test_without_lists(self) -> None:
        trust = TrustFiles(self.authorities)
        self.assertEqual(trust.policy.crls, ())
        self.assertEqual(trust.crl_facts(), [])
        self.assertEqual(trust.paths(), [self.authorities])
        self.assertFalse(trust.reload())

    def test_what_does_not_fit(self) -> None:
        sentence = self.refusal(TrustFiles, self.authorities, mode=ClientCertificate.REQUEST)
        self.assertTrue(sentence.startswith("clientCertificate=request"), sentence)

    def test_same_content(self) -> None:
        """However it is written, and wherever: the same policy."""
        trust = self.trust()
        policy = trust.policy
        self.assertFalse(trust.reload())
        self.file("list.crl", der(ROOTS_LIST))
        self.file("ca.pem", b"\n\n" + pem(ROOT_CERTIFICATE).replace(b"\n", b"\r\n"))
        self.assertFalse(self.assertTells(trust.reload))
        self.assertIs(trust.policy, policy)

    def test_same_content_in_other_files(self) -> None:
        os.mkdir(self.path("ca"))
        os.mkdir(self.path("lists"))
        self.authorities, self.crl = self.path("ca"), self.path("lists")
        self.file("ca/1.pem", pem(ROOT_CERTIFICATE))
        self.file("ca/2.pem", pem(UPPER_CERTIFICATE))
        self.file("lists/1.crl", armored(ROOTS_LIST))
        self.file("lists/2.crl", armored(UPPERS_LIST))
        trust = self.trust()
        policy = trust.policy
        os.rename(self.path("ca/1.pem"), self.path("ca/3.pem"))
        os.rename(self.path("lists/1.crl"), self.path("lists/3.crl"))
        self.assertFalse(trust.reload())
        self.assertIs(trust.policy, policy)
        self.assertEqual(
            [each.path for each in trust.crl_facts()],
            [self.path("lists/2.crl"), self.path("lists/3.crl")],
        )

    def test_other_list(self) -> None:
        trust = self.trust()
        before = trust.policy
        new = revoked(ROOT, 1, 2, 3)
        self.file("list.crl", armored(new))
        self.assertTrue(
            self.assertTells(trust.reload, (LogLevel.info, "clients are verified by what is in "))
        )
        self.assertIsNot(trust.policy, before)
        self.assertEqual(trust.policy.crls, (new,))
        self.assertEqual(trust.policy.authorities, before.authorities)
        self.assertFalse(trust.reload())

    def test_other_authorities(self) -> None:
        trust = self.trust()
        self.file("ca.pem", pem(ROOT_CERTIFICATE, UPPER_CERTIFICATE))
        self.assertTrue(trust.reload())
        self.assertEqual(trust.policy.authorities, (ROOT_CERTIFICATE, UPPER_CERTIFICATE))
        self.file("ca.pem", pem(UPPER_CERTIFICATE))
        self.assertTrue(trust.reload())
        self.assertEqual(trust.policy.authorities, (UPPER_CERTIFICATE,))

    def test_paths(self) -> None:
        """A directory, and the files in it: some file systems tell of these alone."""
        self.assertEqual(self.trust().paths(), [self.authorities, self.crl])
        os.mkdir(self.path("lists"))
        self.crl = self.path("lists")
        listed = self.file("lists/1.crl", armored(ROOTS_LIST))
        trust = self.trust()
        self.assertEqual(trust.paths(), [self.authorities, self.crl, listed])
        os.unlink(listed)
        self.assertEqual(trust.paths(), [self.authorities, self.crl])

    def test_of_intermediates(self) -> None:
        """Whose certificates the client brings: nobody can say yet whether it is theirs."""
        self.file("list.crl", armored(ROOTS_LIST, revoked(UPPER, key=OWNER.key)))
        self.assertEqual(len(self.trust().policy.crls), 2)


class BadTrustTests(TrustCase):
    """L{TrustFiles}, and files that are not as they should be."""

    def test_at_first(self) -> None:
        missing = self.path("missing")
        self.assertEqual(
            self.refusal(TrustFiles, missing), f"clientAuthorities: {missing} does not exist"
        )
        self.assertEqual(
            self.refusal(TrustFiles, self.authorities, missing), f"crl: {missing} does not exist"
        )
        self.assertEqual(
            self.refusal(TrustFiles, self.crl),
            f"clientAuthorities: {self.crl} holds no certificate (only: X509 CRL)",
        )

    def test_later(self) -> None:
        """What was loaded before is used on; it is told once, and once more when it recurs."""
        trust = self.trust()
        policy, facts = trust.policy, trust.crl_facts()
        for path, option in ((self.authorities, "clientAuthorities"), (self.crl, "crl")):
            with open(path, "rb") as file:
                good = file.read()
            damage = f"{option}: {path} is damaged: its PEM block 1 is cut short"
            for _ in range(2):
                self.file(path, good[:100])
                self.assertFalse(self.assertTells(trust.reload, (LogLevel.error, f"{damage}; ")))
                self.assertEqual(trust.last_error, damage)
                self.assertFalse(self.assertTells(trust.reload))
                os.unlink(path)
                missing = f"{option}: {path} does not exist"
                self.assertFalse(self.assertTells(trust.reload, (LogLevel.error, f"{missing}; ")))
                self.assertEqual(trust.last_error, missing)
                self.assertIs(trust.policy, policy)
                self.assertEqual(trust.crl_facts(), facts)
                self.file(path, good)
                self.assertFalse(self.assertTells(trust.reload))
                self.assertIs(trust.last_error, None)
                self.assertIs(trust.policy, policy)

    def test_one_of_two(self) -> None:
        """Good authorities with a bad list are not taken by halves."""
        trust = self.trust()
        policy = trust.policy
        self.file("ca.pem", pem(UPPER_CERTIFICATE))
        self.file("list.crl", b"")
        self.assertFalse(trust.reload())
        self.assertIs(trust.policy, policy)

    def test_forged(self) -> None:
        """A list in an authority's name by somebody else would have OpenSSL refuse everybody."""
        trust = self.trust()
        for key in (OWNER.key, ed25519.Ed25519PrivateKey.generate()):
            self.file("list.crl", armored(revoked(ROOT, key=key)))
            self.assertFalse(trust.reload())
            self.assertEqual(
                trust.last_error,
                f"crl: the revocation list of CN=root in {self.crl} has another signature than"
                " that of the authority of this name",
            )

    def test_authority_with_a_new_key(self) -> None:
        """While an authority changes its key there are two of one name."""
        renewed = Signer(ROOT.name, OWNER.key)
        self.file("ca.pem", pem(ROOT_CERTIFICATE, renewed.certify(renewed)))
        self.file("list.crl", armored(ROOTS_LIST, revoked(renewed)))
        self.assertEqual(len(self.trust().policy.crls), 2)

    def test_authority_that_may_not(self) -> None:
        for signs in (False, True):
            certificate = authority(signs)
            self.file("ca.pem", pem(certificate))
            code = verdict(certificate, ROOTS_LIST, NOON)
            if signs:
                self.assertEqual(code, 0)
                self.assertEqual(self.trust().policy.crls, (ROOTS_LIST,))
            else:
                self.assertEqual(code, 35)  # X509_V_ERR_KEYUSAGE_NO_CRL_SIGN
                self.assertEqual(
                    self.refusal(self.trust),
                    f"crl: the revocation list of CN=root in {self.crl} is by an authority whose"
                    " certificate does not let it sign any (its key usage has no cRLSign)",
                )

    def test_issuer_that_would_be_two_lines(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a\nb\u202e")])
        odd = Signer(name, OWNER.key)
        self.file("list.crl", armored(revoked(odd)))
        self.time = OVER
        trust = self.assertTells(
            self.trust, (LogLevel.warn, "crl: the revocation list of CN=a\\nb\\u202e in ")
        )
        self.assertEqual(trust.crl_facts()[0].issuer, "CN=a\\nb\\u202e")


class StaleTests(TrustCase):
    """Lists that time has gone over."""

    def warning(self, what: str = "has expired on 2026-01-08 00:00 UTC") -> tuple[LogLevel, str]:
        return LogLevel.warn, f"crl: the revocation list of CN=root in {self.crl} {what}; "

    def test_facts(self) -> None:
        trust = self.trust()
        facts = CRLFacts(path=self.crl, issuer="CN=root", next_update=BEGIN + WEEK, is_stale=False)
        for time, is_stale in (
            (BEGIN - SECOND, True),
            (BEGIN, False),
            (BEGIN + WEEK, False),
            (OVER - SECOND / 2, False),
            (OVER, True),
        ):
            self.time = time
            (found,) = trust.crl_facts()
            self.assertEqual(found.is_stale, is_stale, time)
            self.assertEqual((found.path, found.issuer), (facts.path, facts.issuer))
            self.assertEqual(found.next_update, facts.next_update)

    def test_as_openssl_has_it(self) -> None:
        """The moments at which a list begins and ceases to be gone by."""
        trust = self.trust()
        for time in (
            BEGIN,
            BEGIN + SECOND,
            BEGIN + WEEK - SECOND,
            BEGIN + WEEK,
            BEGIN + WEEK + SECOND,
        ):
            self.time = time
            code = 12 if trust.crl_facts()[0].is_stale else 0  # X509_V_ERR_CRL_HAS_EXPIRED
            self.assertEqual(verdict(authority(), ROOTS_LIST, time), code, time)

    def test_without_end(self) -> None:
        self.file("list.crl", der(endless(ROOT)))
        self.time = BEGIN + 10_000 * DAY
        (facts,) = self.assertTells(self.trust).crl_facts()
        self.assertEqual((facts.next_update, facts.is_stale), (None, False))

    def test_told_when_loaded(self) -> None:
        self.time = OVER
        trust = self.assertTells(self.trust, self.warning())
        self.assertTells(trust.look)
        self.assertTells(trust.reload)

    def test_told_when_loaded_anew(self) -> None:
        trust = self.trust()
        self.file("list.crl", armored(revoked(ROOT, end=BEGIN + SECOND)))
        self.assertTrue(
            self.assertTells(
                trust.reload,
                (LogLevel.info, "clients are verified by what is in "),
                self.warning("has expired on 2026-01-01 00:00 UTC"),
            )
        )

    def test_told_when_time_has_passed(self) -> None:
        trust = self.assertTells(self.trust)
        self.assertTells(trust.look)
        self.time = OVER
        self.assertTells(trust.look, self.warning())
        self.assertTells(trust.look)

    def test_told_though_a_reload_fails(self) -> None:
        trust = self.trust()
        os.unlink(self.authorities)
        trust.reload()
        self.time = OVER
        self.assertTells(trust.reload, self.warning())

    def test_told_of_the_next(self) -> None:
        """A newer list that has become stale, too, is another matter."""
        self.time = OVER
        trust = self.trust()
        self.file("list.crl", armored(revoked(ROOT, begin=BEGIN + WEEK, end=BEGIN + 2 * WEEK)))
        self.assertTrue(
            self.assertTells(trust.reload, (LogLevel.info, "clients are verified by what is in "))
        )
        self.time = OVER + WEEK
        self.assertTells(trust.look, self.warning("has expired on 2026-01-15 00:00 UTC"))

    def test_not_valid_yet(self) -> None:
        self.time = BEGIN - SECOND
        trust = self.assertTells(
            self.trust, self.warning("is not valid before 2026-01-01 00:00 UTC")
        )
        self.time = BEGIN
        self.assertTells(trust.look)
        self.assertFalse(trust.crl_facts()[0].is_stale)

    def test_outcome(self) -> None:
        """What becomes of clients is told, too."""
        self.time = OVER
        for mode, outcome in (
            (CRLMode.HARD, "clients that it is for are refused until there is a newer one"),
            (CRLMode.SOFT, "it is searched all the same"),
        ):
            level, beginning = self.warning()
            self.assertTells(
                lambda mode=mode: self.trust(crl_mode=mode), (level, beginning + outcome)
            )
