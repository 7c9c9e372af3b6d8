"""
Who may come in, by rules: each kind of rule, with each kind of client, full and resumed.

The oracle is a few lines: a client is let in where its certificate is good, and a rule that is in
force now matches it, or the address that it comes from now.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from itertools import product
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from tests.context_material import ROOTS, certified, serving
from tests.endpoint_material import Application
from tests.engines import on_both_engines
from tests.test_preamble import PreambleCase
from tests.tls_material import (
    DAY,
    FOR_CLIENTS,
    NOW,
    TLS12,
    TLS13,
    Party,
    authority,
    ec_key,
    server,
    stranger,
)
from twisted_bioconn.access import Peer, Rules, parse_rules
from twisted_bioconn.client_policy import ClientCertificate, ClientPolicy
from twisted_bioconn.context import SessionStore
from twisted_bioconn.errors import ConfigurationError, UsageError
from twisted_bioconn.port_options import PreambleOptions, networks

HERE, ELSEWHERE = "192.0.2.7", "198.51.100.1"


@cache
def party(issuer: str = "", age: int = 0) -> Party:
    """A client that has a name of every kind."""
    by = authority(issuer) if issuer else authority()
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "ops"),
            x509.NameAttribute(NameOID.COMMON_NAME, "ci"),
        ]
    )
    names = [
        x509.DNSName("ci.example.org"),
        x509.UniformResourceIdentifier("spiffe://example.org/ns/build/sa/ci"),
        x509.RFC822Name("ci@example.org"),
    ]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject)
        .public_key(ec_key(4).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 10 * DAY)
        .not_valid_after(NOW + (3 - age) * DAY)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(FOR_CLIENTS, critical=False)
        .sign(by.key, SHA256())
    )
    return Party(made, ec_key(4))


def pin(made: Party) -> str:
    """The pin of a key."""
    key = made.key.public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{sha256(info).hexdigest()}"


RULES = {
    "cn": ("cn=ci", "cn=c"),
    "ou": ("ou=ops", "ou=op"),
    "dns": ("dns=*.example.org", "dns=*.org"),
    "uri": ("uri=spiffe://example.org/ns/*/sa/ci", "uri=spiffe://example.org/ns/*"),
    "email": ("email=ci@example.org", "email=ci@example.com"),
    "pin": (f"pin={pin(party())}", f"pin={pin(server())}"),
    "issuer": ("issuer=authority", "issuer=others"),
    "address": (f"address={HERE}", f"address={ELSEWHERE}"),
    "network": ("network=192.0.2.0/24", "network=10.0.0.0/8"),
    "anyone": ("anyone", "cn=nobody"),
    "both": (f"cn=ci & address={HERE}", f"cn=ci & address={ELSEWHERE}"),
    "one of": (f"cn=x,address={HERE},dns=ci.example.org", f"cn=x,address={ELSEWHERE}"),
}

CLIENTS: dict[str, Party | None] = {
    "good": party(),
    "none": None,
    "expired": party(age=6),
    "other authority": party("nobody"),
}


def policy(rules: str, mode: ClientCertificate | None = None) -> ClientPolicy:
    """As an endpoint string has it by default."""
    parsed = parse_rules(rules)
    if mode is None:
        mode = ClientCertificate.REQUIRE
        if not parsed.needs_certificate:
            mode = ClientCertificate.VERIFY_IF_GIVEN
    return ClientPolicy(mode, ROOTS, rules=parsed)


class AdmissionCase(PreambleCase):
    """A server with rules, behind a proxy that says where clients come from."""

    def admit(self, clients: ClientPolicy, **options: Any) -> Any:
        self.options = serving(clients=clients, **options)
        self.serve(PreambleOptions(proxies=networks("127.0.0.1")), options=self.options)
        return self.options

    def come(self, made: Party | None, source: str = HERE, **options: Any) -> bool | None:
        """
        Come from an address with this certificate.

        @return: whether a session was resumed; L{None} for one who was not let in.
        """
        self.theirs.built.clear()
        header = f"PROXY TCP4 {source} 127.0.0.1 1 443\r\n".encode()
        found = self.visit(header, certificate=None if made is None else certified(made), **options)
        if not self.theirs.built:
            return None
        assert isinstance(found, Application)
        # With the first bytes comes what can be resumed.
        self.theirs.one.transport.write(b"secret")
        self.clock.settle()
        resumed: bool = found.transport.negotiated.resumed
        found.transport.loseConnection()
        self.clock.settle()
        return resumed


@on_both_engines
class MatrixTests(AdmissionCase):
    """No cell of the matrix is a way round."""

    def test_full(self) -> None:
        for (kind, texts), (who, made) in product(RULES.items(), CLIENTS.items()):
            for matches, text in zip((True, False), texts, strict=True):
                for version in (TLS12, TLS13):
                    clients = policy(text)
                    self.admit(clients, versions=(version, version))
                    by_address = not clients.rules.needs_certificate  # type: ignore[union-attr]
                    allowed = matches and (who == "good" or (who == "none" and by_address))
                    came = self.come(made)
                    self.assertEqual(came is not None, allowed, (kind, text, who, version))
                    if not allowed:
                        self.assertEqual(len(self.lines), 1, self.lines)
                    self.lines.clear()

    def test_resumed(self) -> None:
        """A session is resumed where a full handshake would do, and is no way round where not."""
        for kind, (text, other) in RULES.items():
            for made, version in product((party(), None), (TLS12, TLS13)):
                sessions = SessionStore()
                cell = (kind, made is None, version)
                options = self.admit(policy(text), versions=(version, version))
                if self.come(made, sessions=sessions) is None:
                    self.assertIsNone(made, cell)
                    continue
                self.assertTrue(self.come(made, sessions=sessions), cell)
                # From another address.
                came = self.come(made, ELSEWHERE, sessions=sessions)
                by_address = kind in ("address", "network", "both")
                if kind == "one of":
                    by_address = made is None
                self.assertEqual(came is None, by_address, cell)
                # Under other rules.
                options.clients = policy(other)
                self.assertIsNone(self.come(made, sessions=sessions), cell)

    def test_no_certificate_asked_for(self) -> None:
        """Addresses alone ask nobody for a certificate."""
        rules = parse_rules(f"address={HERE}")
        self.admit(ClientPolicy(rules=rules))
        for made in (party(), None):
            self.assertIsNotNone(self.come(made))
            self.assertIsNone(self.come(made, ELSEWHERE))
        self.assertEqual(
            self.lines[0],
            f"no handshake: a rule of this server refused {ELSEWHERE}:1: showed no certificate,"
            f" and {ELSEWHERE} is in no network that may come in: address={HERE}. Let it in by"
            " allow=, or give the client another certificate.",
        )

    def test_own_keys(self) -> None:
        """Without any authority, a pin is of a key that the client has proved to have."""
        rules = parse_rules(f"pin={pin(stranger())}")
        self.admit(ClientPolicy(ClientCertificate.REQUEST, rules=rules))
        self.assertIsNotNone(self.come(stranger()))
        self.assertIsNone(self.come(party()))
        self.assertIsNone(self.come(None))

    def test_check(self) -> None:
        """A callable of the program's own is asked about everybody."""
        asked: list[Peer] = []

        def check(peer: Peer) -> bool:
            asked.append(peer)
            return peer.address == HERE

        self.admit(ClientPolicy(ClientCertificate.VERIFY_IF_GIVEN, ROOTS, rules=Rules(check=check)))
        self.assertIsNotNone(self.come(party()))
        self.assertIsNotNone(self.come(None))
        self.assertIsNone(self.come(party(), ELSEWHERE))
        self.assertIsNone(self.come(None, ELSEWHERE))
        self.assertEqual(asked[0].chain[0], party().certificate)
        self.assertEqual(asked[1].chain, ())

    def test_reason(self) -> None:
        """The log says who was refused, and who would not have been."""
        self.admit(policy("cn=deploy"))
        self.assertIsNone(self.come(party()))
        [line] = self.lines
        self.assertIn(f"no handshake: a rule of this server refused {HERE}:1: ", line)
        self.assertIn("is none of those that may come in: cn=deploy", line)
        self.assertIn("ci", line)

    def test_no_bytes_for_the_refused(self) -> None:
        """Of one who is refused when the handshake is done, nothing reaches an application."""
        self.admit(ClientPolicy(rules=parse_rules(f"address={HERE}")))
        self.assertIsNone(self.come(None, ELSEWHERE))
        self.assertEqual(self.theirs.built, [])
        self.assertLeftNothing()

    def test_other_layers(self) -> None:
        """Where nobody would ask about clients without certificates, nobody is served."""

        class Layered(Protocol):
            pass

        for clients, works in (
            (policy("cn=ci"), True),
            (policy(f"address={HERE}"), False),
        ):
            options = serving(clients=clients)
            layer = TLSMemoryBIOFactory(options, False, Factory.forProtocol(Layered))
            protocol = layer.buildProtocol(None)
            if works:
                self.assertIsNotNone(options.serverConnectionForTLS(protocol))
            else:
                with self.assertRaises(UsageError):
                    options.serverConnectionForTLS(protocol)


class PolicyTests(AdmissionCase):
    """What fits together."""

    def test_mistakes(self) -> None:
        for mode, rules, words in (
            (ClientCertificate.NONE, "cn=ci", "without clientAuthorities= none is asked for"),
            (ClientCertificate.REQUEST, "cn=ci", "pin= tells"),
            (ClientCertificate.REQUEST, "anyone", "pin= tells"),
        ):
            with self.assertRaises(ConfigurationError) as caught:
                ClientPolicy(mode, rules=parse_rules(rules))
            self.assertIn(words, str(caught.exception))
