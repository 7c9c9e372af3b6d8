"""Tests for L{twisted_bioconn.policy}."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime, timedelta
from ssl import TLSVersion
from urllib.parse import urlsplit

from attrs import evolve
from attrs.exceptions import FrozenInstanceError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from OpenSSL._util import lib
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.policy import INTERMEDIATE, MODERN, POLICIES, Policy, policy_named

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def certified(key: PrivateKey) -> tuple[x509.Certificate, PrivateKey]:
    """A certificate that C{key} signed for itself."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
    )
    return builder.sign(key, SHA256()), key


ECDSA = certified(ec.generate_private_key(ec.SECP256R1()))
RSA = certified(rsa.generate_private_key(65537, 2048))

# What a peer that nobody should talk to any more would accept.
ANYTHING = b"ALL:@SECLEVEL=0"


def contextOf(policy: Policy) -> SSL.Context:
    """A context that is C{policy} and nothing else."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(policy.minimum_version)
    context.set_max_proto_version(policy.maximum_version)
    if policy.ciphers_tls12:
        context.set_cipher_list(":".join(policy.ciphers_tls12).encode())
    context.set_tls13_ciphersuites(":".join(policy.ciphersuites_tls13).encode())
    accepted = lib.SSL_CTX_set1_curves_list(context._context, ":".join(policy.groups).encode())
    assert accepted == 1, f"OpenSSL refuses the groups of {policy.name}"
    accepted = lib.SSL_CTX_set1_sigalgs_list(
        context._context, ":".join(policy.signature_algorithms).encode()
    )
    assert accepted == 1, f"OpenSSL refuses the signature algorithms of {policy.name}"
    return context


def serverOf(
    policy: Policy, identity: tuple[x509.Certificate, PrivateKey] = ECDSA
) -> SSL.Connection:
    """A server of C{policy}, with no socket."""
    return serverIn(contextOf(policy), identity)


def serverIn(
    context: SSL.Context, identity: tuple[x509.Certificate, PrivateKey] = ECDSA
) -> SSL.Connection:
    """A server of C{context}, with no socket."""
    certificate, key = identity
    context.use_certificate(certificate)
    context.use_privatekey(key)
    connection = SSL.Connection(context)
    connection.set_accept_state()
    return connection


def clientOf(policy: Policy) -> SSL.Connection:
    """A client of C{policy}, with no socket."""
    return clientIn(contextOf(policy))


def clientIn(context: SSL.Context) -> SSL.Connection:
    """A client of C{context}, with no socket."""
    connection = SSL.Connection(context)
    connection.set_connect_state()
    return connection


def permissiveContext(version: TLSVersion, ciphers: bytes = ANYTHING) -> SSL.Context:
    """A context for C{version} alone, which takes whatever OpenSSL still has."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.set_cipher_list(ciphers)
    return context


def handshake(client: SSL.Connection, server: SSL.Connection) -> None:
    """
    Complete a handshake in memory.

    @raise SSL.Error: one of them refused the other.
    """
    waiting = {client, server}
    # No handshake here has more than three flights of each side; one more shows it hangs.
    for _ in range(4):
        for near, far in ((client, server), (server, client)):
            try:
                near.do_handshake()
                waiting.discard(near)
            except SSL.WantReadError:
                pass
            with contextlib.suppress(SSL.WantReadError):
                far.bio_write(near.bio_read(1 << 16))
    assert not waiting, "the handshake did not come to an end"


class EveryPolicyTests(SynchronousTestCase):
    """What holds for each of the policies."""

    def test_names(self) -> None:
        """Each is found by the name that it bears, the default first."""
        self.assertEqual(list(POLICIES), ["intermediate", "modern"])
        for name, policy in POLICIES.items():
            self.assertEqual(policy.name, name)
            self.assertIs(policy_named(name), policy)

    def test_source(self) -> None:
        """Each says where it is from and how old it is."""
        for policy in POLICIES.values():
            self.assertIn("mozilla.org", urlsplit(policy.source).netloc)
            # The first revision of the source that names a post-quantum group.
            self.assertGreaterEqual(policy.date, date(2026, 4, 6))

    def test_ciphers(self) -> None:
        """OpenSSL knows each cipher, by that name and in that order, and adds none."""
        for policy in POLICIES.values():
            context = contextOf(policy)
            if not policy.ciphers_tls12:
                # No TLS 1.2 can happen, so OpenSSL's own TLS 1.2 list does not matter.
                self.assertIs(policy.minimum_version, TLSVersion.TLSv1_3)
                expected = list(policy.ciphersuites_tls13)
                listed = SSL.Connection(context).get_cipher_list()
                self.assertEqual([c for c in listed if c.startswith("TLS_")], expected)
            else:
                self.assertEqual(
                    SSL.Connection(context).get_cipher_list(),
                    [*policy.ciphersuites_tls13, *policy.ciphers_tls12],
                )

    def test_eachNameIsKnown(self) -> None:
        """
        Each group and signature algorithm is known by itself, and a wrong one is refused.

        The second half shows that the first one could fail.
        """
        setters = {
            "groups": lib.SSL_CTX_set1_curves_list,
            "signature_algorithms": lib.SSL_CTX_set1_sigalgs_list,
        }
        for policy in POLICIES.values():
            for attribute, setter in setters.items():
                names: tuple[str, ...] = getattr(policy, attribute)
                self.assertEqual(len(set(names)), len(names))
                for name in names:
                    context = SSL.Context(SSL.TLS_METHOD)
                    self.assertEqual(setter(context._context, name.encode()), 1, name)
                    self.assertEqual(setter(context._context, f"{name}x".encode()), 0, name)

    def test_postQuantum(self) -> None:
        """Two ends of one policy agree on TLS 1.3 and on the hybrid group."""
        for policy in POLICIES.values():
            client, server = clientOf(policy), serverOf(policy)
            handshake(client, server)
            for end in (client, server):
                self.assertEqual(end.get_group_name(), "X25519MLKEM768")
                self.assertEqual(end.get_protocol_version_name(), "TLSv1.3")
                self.assertIn(end.get_cipher_name(), policy.ciphersuites_tls13)

    def test_eachGroup(self) -> None:
        """A peer that has one group of the policy's alone is served with that one."""
        for policy in POLICIES.values():
            for group in policy.groups:
                client = clientOf(evolve(policy, groups=(group,)))
                server = serverOf(policy)
                handshake(client, server)
                name = server.get_group_name()
                assert name is not None
                self.assertEqual(name.lower(), group.lower())

    def test_otherGroup(self) -> None:
        """A peer that has no group of the policy's is refused."""
        for policy in POLICIES.values():
            client = clientOf(evolve(policy, groups=("secp521r1",)))
            self.assertRaises(SSL.Error, handshake, client, serverOf(policy))

    def test_clientOrder(self) -> None:
        """The client's order of ciphers is the one that counts."""
        for policy in POLICIES.values():
            self.assertFalse(policy.server_preference)
            for cipher in policy.ciphersuites_tls13:
                others = tuple(c for c in policy.ciphersuites_tls13 if c != cipher)
                client = clientOf(evolve(policy, ciphersuites_tls13=(cipher, *others)))
                handshake(client, serverOf(policy))
                self.assertEqual(client.get_cipher_name(), cipher)

    def test_frozen(self) -> None:
        """A policy cannot be weakened in place, nor can the table of them."""
        with self.assertRaises(FrozenInstanceError):
            INTERMEDIATE.groups = ()  # type: ignore[misc]
        with self.assertRaises(TypeError):
            POLICIES["modern"] = INTERMEDIATE  # type: ignore[index]


class ModernTests(SynchronousTestCase):
    """C{modern}: nothing but TLS 1.3 and ECDSA."""

    def test_refusesTLS12(self) -> None:
        """A peer of TLS 1.2 is refused, whichever side it is on; of TLS 1.3 it is not."""
        tls12 = permissiveContext(TLSVersion.TLSv1_2)
        self.assertRaises(SSL.Error, handshake, clientIn(tls12), serverOf(MODERN))
        tls12 = permissiveContext(TLSVersion.TLSv1_2)
        self.assertRaises(SSL.Error, handshake, clientOf(MODERN), serverIn(tls12))
        handshake(clientIn(permissiveContext(TLSVersion.TLSv1_3)), serverOf(MODERN))
        handshake(clientOf(MODERN), serverIn(permissiveContext(TLSVersion.TLSv1_3)))

    def test_refusesRSA(self) -> None:
        """An RSA key has no signature algorithm to sign with: on the server, and at the client."""
        self.assertRaises(SSL.Error, handshake, clientOf(INTERMEDIATE), serverOf(MODERN, RSA))
        self.assertRaises(SSL.Error, handshake, clientOf(MODERN), serverOf(INTERMEDIATE, RSA))

    def test_meetsIntermediate(self) -> None:
        """The two policies understand each other."""
        handshake(clientOf(MODERN), serverOf(INTERMEDIATE))
        handshake(clientOf(INTERMEDIATE), serverOf(MODERN))


class IntermediateTests(SynchronousTestCase):
    """C{intermediate}: TLS 1.2 at its best, and TLS 1.3."""

    def test_bothKindsOfCertificate(self) -> None:
        """RSA and ECDSA certificates are good in both versions."""
        for identity in (RSA, ECDSA):
            for version in (TLSVersion.TLSv1_2, TLSVersion.TLSv1_3):
                client = clientOf(evolve(INTERMEDIATE, maximum_version=version))
                server = serverOf(INTERMEDIATE, identity)
                handshake(client, server)
                self.assertEqual(server.get_protocol_version(), version)

    def test_oldSignature(self) -> None:
        """A TLS 1.2 client that knows PKCS#1 alone gets it from an RSA key (Java 8, Windows 10)."""
        client = clientOf(
            evolve(
                INTERMEDIATE,
                maximum_version=TLSVersion.TLSv1_2,
                signature_algorithms=("rsa_pkcs1_sha256",),
            )
        )
        handshake(client, serverOf(INTERMEDIATE, RSA))

    def test_refusesSHA1(self) -> None:
        """
        A client that can check SHA-1 signatures alone is refused.

        An open-minded server takes the same client.
        """

        def client() -> SSL.Connection:
            context = permissiveContext(TLSVersion.TLSv1_2)
            assert lib.SSL_CTX_set1_sigalgs_list(context._context, b"RSA+SHA1") == 1
            return clientIn(context)

        handshake(client(), serverIn(permissiveContext(TLSVersion.TLSv1_2), RSA))
        self.assertRaises(SSL.Error, handshake, client(), serverOf(INTERMEDIATE, RSA))

    def test_refusesTLS11(self) -> None:
        """A TLS 1.1 client is refused, though an open-minded server takes the same one."""
        tls11 = permissiveContext(TLSVersion.TLSv1_1)
        handshake(clientIn(tls11), serverIn(permissiveContext(TLSVersion.TLSv1_1), RSA))
        tls11 = permissiveContext(TLSVersion.TLSv1_1)
        self.assertRaises(SSL.Error, handshake, clientIn(tls11), serverOf(INTERMEDIATE, RSA))

    def test_refusesWeakCiphers(self) -> None:
        """
        No CBC, no RSA key exchange, no finite-field Diffie-Hellman.

        An open-minded server takes each of these clients, so that what refuses them is the policy.
        """
        for cipher in (
            b"ECDHE-RSA-AES128-SHA",
            b"ECDHE-RSA-AES256-SHA384",
            b"AES128-GCM-SHA256",
            b"AES256-SHA",
            b"DHE-RSA-AES128-GCM-SHA256",
        ):
            version = TLSVersion.TLSv1_2
            client = clientIn(permissiveContext(version, cipher))
            handshake(client, serverIn(permissiveContext(version), RSA))
            self.assertEqual(client.get_cipher_name(), cipher.decode())
            client = clientIn(permissiveContext(version, cipher))
            self.assertRaises(SSL.Error, handshake, client, serverOf(INTERMEDIATE, RSA))

    def test_everyCipherIsServed(self) -> None:
        """Each TLS 1.2 cipher of the list is negotiated with the client that asks for it."""
        for cipher in INTERMEDIATE.ciphers_tls12:
            identity = ECDSA if "-ECDSA-" in cipher else RSA
            client = clientIn(permissiveContext(TLSVersion.TLSv1_2, cipher.encode()))
            handshake(client, serverOf(INTERMEDIATE, identity))
            self.assertEqual(client.get_cipher_name(), cipher)


class PolicyNamedTests(SynchronousTestCase):
    """L{policy_named} and what it says when there is none."""

    def message(self, name: str) -> str:
        """The sentence about a wrong name."""
        return str(self.assertRaises(ConfigurationError, policy_named, name))

    def test_nearest(self) -> None:
        """A slip of the finger is answered with the right name."""
        for slip, right in {
            "modren": "modern",
            "Modern": "modern",
            " intermediate": "intermediate",
            "intermediat": "intermediate",
        }.items():
            self.assertEqual(
                self.message(slip),
                f"There is no policy {slip!r} (there are intermediate and modern);"
                f" did you mean {right}?",
            )

    def test_nothingNear(self) -> None:
        """A name like none of them gets the list."""
        for name in ("old", ""):
            self.assertEqual(
                self.message(name),
                f"There is no policy {name!r} (there are intermediate and modern).",
            )
