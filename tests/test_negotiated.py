"""Tests for L{twisted_bioconn.negotiated}, and how a connector asks for it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ssl

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.hashes import SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tests.engines import EngineCase, on_both_engines
from tests.faults import client_of, meet, server_of
from tests.records import KeyLog
from tests.tls_material import (
    HOST,
    TLS12,
    TLS13,
    VERSIONS,
    Party,
    authority,
    certificate,
    chained_server,
    client,
    client_connection,
    context,
    ec_key,
    intermediate,
    pair,
    pem,
    rsa_server,
    server,
    server_connection,
)
from twisted_bioconn import negotiated
from twisted_bioconn.connector import Connector
from twisted_bioconn.errors import TruncatedError, UsageError
from twisted_bioconn.negotiated import Negotiated, channel_binding, negotiated_by

END_POINT = "tls-server-end-point"


def facts_of(connector: Connector) -> Negotiated:
    facts = connector.negotiated
    assert facts is not None
    return facts


@on_both_engines
class NegotiatedTests(EngineCase):
    """The facts of a connection."""

    def test_both_ends_agree(self) -> None:
        """Everything but the peer's certificates is the same at both ends."""
        for version, name, cipher in (
            (TLS12, "TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
            (TLS13, "TLSv1.3", "TLS_AES_256_GCM_SHA384"),
        ):
            loop = self.connectors(*pair(version))
            self.assertEqual((loop.client.negotiated, loop.server.negotiated), (None, None))
            loop.pump()
            for connector, chain in ((loop.client, (server().certificate,)), (loop.server, ())):
                facts = facts_of(connector)
                self.assertEqual(facts.version, name)
                self.assertEqual(facts.cipher, cipher)
                self.assertEqual(facts.server_name, HOST)
                self.assertIs(facts.alpn, None)
                self.assertFalse(facts.resumed)
                self.assertEqual(facts.peer_chain[:1], chain)
                self.assertIs(facts.handshake_seconds, None)
            self.assertEqual(facts_of(loop.client).group, facts_of(loop.server).group)
            self.assertIsNot(facts_of(loop.client).group, None)

    def test_group(self) -> None:
        """The post-quantum one is agreed on by default; a key sent encrypted has none."""
        loop = self.connectors(*pair(TLS13))
        loop.pump()
        self.assertEqual(facts_of(loop.client).group, "X25519MLKEM768")
        made = context(True, versions=(TLS12, TLS12), ciphers=b"AES128-GCM-SHA256:@SECLEVEL=0")
        its = context(
            False,
            own=rsa_server(),
            versions=(TLS12, TLS12),
            ciphers=b"AES128-GCM-SHA256:@SECLEVEL=0",
        )
        loop = self.connectors(client_connection(made), server_connection(its))
        loop.pump()
        self.assertEqual(facts_of(loop.client).cipher, "AES128-GCM-SHA256")
        self.assertIs(facts_of(loop.client).group, None)
        self.assertFalse(facts_of(loop.client).resumed or facts_of(loop.server).resumed)

    def test_application_protocol(self) -> None:
        """The one that the server chose."""
        for version in VERSIONS:
            for_client, for_server = client_of(version), server_of(version)
            for_client.set_alpn_protos([b"h2", b"http/1.1"])
            for_server.set_alpn_select_callback(lambda connection, offered: offered[1])
            loop = self.connectors(client_connection(for_client), server_connection(for_server))
            loop.pump()
            self.assertEqual(facts_of(loop.client).alpn, b"http/1.1")
            self.assertEqual(facts_of(loop.server).alpn, b"http/1.1")

    def test_no_server_name(self) -> None:
        """A client need not say whom it wants."""
        for version in VERSIONS:
            connection = SSL.Connection(client_of(version))
            connection.set_connect_state()
            loop = self.connectors(connection, server_connection(server_of(version)))
            loop.pump()
            self.assertIs(facts_of(loop.client).server_name, None)
            self.assertIs(facts_of(loop.server).server_name, None)

    def test_odd_server_name(self) -> None:
        """What is no ASCII is there to be looked at, and raises nothing."""
        for version in VERSIONS:
            connection = client_connection(client_of(version))
            connection.set_tlsext_host_name(b"caf\xe9.example")
            loop = self.connectors(connection, server_connection(server_of(version)))
            loop.pump()
            self.assertEqual(facts_of(loop.server).server_name, "caf\\xe9.example")

    def test_chains(self) -> None:
        """The whole chain, leaf first and each once, at a client and at a server."""
        for version in VERSIONS:
            own = client().padded(2 * 8000)
            loop = meet(client_of(version, own), server_of(version, chained_server()), demand=True)
            loop.pump()
            its = facts_of(loop.client)
            self.assertEqual(
                its.peer_chain[:2], (chained_server().certificate, intermediate().certificate)
            )
            self.assertEqual(its.peer_certificate, chained_server().certificate)
            self.assertEqual(len(set(its.peer_chain)), len(its.peer_chain))
            ours = facts_of(loop.server)
            self.assertEqual(ours.peer_certificate, client().certificate)
            self.assertEqual(ours.peer_chain[1], own.intermediates[0])
            loop = self.connectors(*pair(version))
            loop.pump()
            self.assertIs(facts_of(loop.server).peer_certificate, None)

    def test_after_the_end(self) -> None:
        """The facts outlast a clean close, and a failure: a log wants them then."""
        for version in VERSIONS:
            loop = self.connectors(*pair(version))
            loop.pump()
            facts = facts_of(loop.client)
            loop.client.close()
            loop.server.close()
            loop.pump()
            self.assertEqual(facts_of(loop.client), facts)
            loop = self.connectors(*pair(version))
            loop.pump()
            self.assertRaises(TruncatedError, loop.client.end_of_wire)
            self.assertEqual(facts_of(loop.client).version, facts.version)

    def test_frozen(self) -> None:
        """Facts do not change."""
        loop = self.connectors(*pair())
        loop.pump()
        facts = facts_of(loop.client)
        self.assertRaises(attrs.exceptions.FrozenInstanceError, setattr, facts, "version", "SSLv3")
        self.assertEqual(negotiated_by(loop.client.connection, False), facts)


@on_both_engines
class ExporterTests(EngineCase):
    """Keying material that both ends derive."""

    def test_equal(self) -> None:
        """At both ends, by label and context; and nothing else is the same."""
        for version in VERSIONS:
            loop = self.connectors(*pair(version))
            loop.pump()
            seen = set()
            for label in (b"EXPORTER-one", b"EXPORTER-other"):
                for extra in (None, b"context", b"another"):
                    ours = loop.client.export_keying_material(label, 40, extra)
                    theirs = loop.server.export_keying_material(label, 40, extra)
                    self.assertEqual(ours, theirs)
                    self.assertEqual(len(ours), 40)
                    seen.add(ours)
            self.assertEqual(len(seen), 6)
            other = self.connectors(*pair(version))
            other.pump()
            self.assertNotIn(other.client.export_keying_material(b"EXPORTER-one", 40), seen)

    def test_by_hand_in_tls13(self) -> None:
        """RFC 8446, section 7.5."""
        made = client_of(TLS13)
        log = KeyLog(made)
        loop = self.connectors(client_connection(made), server_connection())
        loop.pump()
        secret = log.secret(loop.client.connection, "EXPORTER_SECRET")

        def expand(key: bytes, label: bytes, data: bytes, size: int) -> bytes:
            name = b"tls13 " + label
            info = size.to_bytes(2, "big") + bytes([len(name)]) + name + bytes([len(data)]) + data
            return hmac.digest(key, info + b"\1", "sha384")[:size]

        derived = expand(secret, b"EXPORTER-x", hashlib.sha384().digest(), 48)
        expected = expand(derived, b"exporter", hashlib.sha384(b"context").digest(), 32)
        self.assertEqual(
            loop.server.export_keying_material(b"EXPORTER-x", 32, b"context"), expected
        )

    def test_by_hand_in_tls12(self) -> None:
        """RFC 5705, section 4."""
        loop = self.connectors(*pair(TLS12))
        loop.pump()
        connection = loop.client.connection
        master = connection.master_key()
        client_random, server_random = connection.client_random(), connection.server_random()
        assert master and client_random and server_random
        for extra in (None, b"context"):
            seed = b"EXPORTER-x" + client_random + server_random
            if extra is not None:
                seed += len(extra).to_bytes(2, "big") + extra
            first = hmac.digest(master, seed, "sha384")
            expected = hmac.digest(master, first + seed, "sha384")[:32]
            self.assertEqual(loop.server.export_keying_material(b"EXPORTER-x", 32, extra), expected)

    def test_too_early(self) -> None:
        """There is none before the end of the handshake, nor after a failure."""
        loop = self.connectors(*pair())
        for _ in range(2):
            error = self.assertRaises(
                UsageError, loop.client.export_keying_material, b"EXPORTER-x", 32
            )
            self.assertEqual(
                str(error),
                f"there is keying material once the handshake is done: {loop.client.state.value}",
            )
            loop.client.take()
        loop.pump()
        self.assertRaises(TruncatedError, loop.client.end_of_wire)
        self.assertRaises(UsageError, loop.client.export_keying_material, b"EXPORTER-x", 32)

    def test_no_such_length(self) -> None:
        """What OpenSSL does not derive is our caller's mistake."""
        loop = self.connectors(*pair())
        loop.pump()
        for length in (-1, 1_000_000):
            error = self.assertRaises(
                UsageError, loop.client.export_keying_material, b"EXPORTER-x", length
            )
            self.assertIn(f"there are no {length} bytes of keying material", str(error))


@on_both_engines
class ChannelBindingTests(EngineCase):
    """What binds a login to a connection."""

    def test_exporter(self) -> None:
        """RFC 9266: 32 bytes, the same at both ends, of this connection alone."""
        seen = set()
        for _ in range(3):
            loop = self.connectors(*pair(TLS13))
            loop.pump()
            binding = loop.client.channel_binding()
            self.assertEqual(binding, loop.server.channel_binding("tls-exporter"))
            self.assertEqual(
                binding, loop.client.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
            )
            seen.add(binding)
        self.assertEqual((len(seen), {len(each) for each in seen}), (3, {32}))

    def test_exporter_without_extended_master_secret(self) -> None:
        """In TLS 1.2 it is refused without RFC 7627: two connections could be made to agree."""
        made = client_of(TLS12)
        # SSL_OP_NO_EXTENDED_MASTER_SECRET.
        made.set_options(1)
        loop = self.connectors(client_connection(made), server_connection(server_of(TLS12)))
        loop.pump()
        for connector in (loop.client, loop.server):
            error = self.assertRaises(UsageError, connector.channel_binding)
            self.assertEqual(
                str(error), "tls-exporter needs TLS 1.3, or TLS 1.2 with extended master secret"
            )

    def test_end_point(self) -> None:
        """RFC 5929, section 4.1, reckoned by hand: the hash of the certificate's signature."""
        key = ec_key(5)
        for party, algorithm in (
            (server(), "sha256"),
            (rsa_server(), "sha256"),
            (Party(certificate("x", authority(), key=key, hash=SHA384()), key), "sha384"),
            (Party(certificate("x", authority(), key=key, hash=SHA512()), key), "sha512"),
        ):
            expected = hashlib.new(algorithm, party.certificate.public_bytes(Encoding.DER))
            for version in VERSIONS:
                loop = meet(client_of(version), server_of(version, party))
                loop.pump()
                for connector in (loop.client, loop.server):
                    self.assertEqual(connector.channel_binding(END_POINT), expected.digest())

    def test_end_point_of_a_swapped_certificate(self) -> None:
        """It is of the certificate that was shown, not of the first context's."""
        key = ec_key(5)
        other = Party(certificate("other", authority(), key=key), key)
        for version in VERSIONS:
            swapped = server_of(version, other)
            first = server_of(version)
            first.set_tlsext_servername_callback(
                lambda connection, swapped=swapped: connection.set_context(swapped)  # type: ignore[misc]
            )
            loop = meet(client_of(version), first)
            loop.pump()
            expected = hashlib.sha256(other.certificate.public_bytes(Encoding.DER)).digest()
            for connector in (loop.client, loop.server):
                self.assertEqual(connector.channel_binding(END_POINT), expected)

    def test_end_point_and_client_certificate(self) -> None:
        """It is of the server's certificate also where the client has shown one."""
        for version in VERSIONS:
            loop = meet(client_of(version, client()), server_of(version), demand=True)
            loop.pump()
            self.assertEqual(
                loop.client.channel_binding(END_POINT), loop.server.channel_binding(END_POINT)
            )

    def test_end_point_of_a_signature_with_no_hash(self) -> None:
        """For Ed25519 it is not defined, and is not made up."""
        signer = ed25519.Ed25519PrivateKey.generate()
        issuer = Party(certificate("ed25519", None, key=signer), signer)
        key = ec_key(5)
        party = Party(certificate("x", issuer, key=key), key)
        for version in VERSIONS:
            loop = meet(client_of(version), server_of(version, party))
            loop.pump()
            for connector in (loop.client, loop.server):
                error = self.assertRaises(UsageError, connector.channel_binding, END_POINT)
                self.assertEqual(
                    str(error),
                    "tls-server-end-point is not defined for a certificate whose signature has no"
                    " hash of its own: 1.3.101.112",
                )

    def test_end_point_with_no_certificate(self) -> None:
        """There need not be one: here there is no handshake yet."""
        for connection, is_client in (
            (client_connection(), True),
            (server_connection(context(False)), False),
        ):
            error = self.assertRaises(UsageError, channel_binding, connection, is_client, END_POINT)
            self.assertEqual(str(error), "tls-server-end-point needs a server certificate")

    def test_no_such_kind(self) -> None:
        """tls-unique is not safe in TLS 1.3 (RFC 9266, section 3), and is not here."""
        loop = self.connectors(*pair())
        loop.pump()
        error = self.assertRaises(UsageError, loop.client.channel_binding, "tls-unique")
        self.assertEqual(
            str(error),
            "there is no channel binding 'tls-unique': tls-exporter and tls-server-end-point are"
            " known",
        )

    def test_too_early(self) -> None:
        """There is none before the handshake is done."""
        connector = self.connectors(*pair()).client
        error = self.assertRaises(UsageError, connector.channel_binding, END_POINT)
        self.assertEqual(str(error), "there is a channel binding once the handshake is done: idle")


class EndPointHashTests(SynchronousTestCase):
    """The hash of a certificate's signature."""

    def test_old_hashes(self) -> None:
        """MD5 and SHA-1 become SHA-256.  Nothing here signs with them: it is only said."""
        for oid, name in (
            ("2a864886f70d010104", "sha256"),
            ("2a864886f70d010105", "sha256"),
            ("2a864886f70d01010b", "sha256"),
            ("2a864886f70d01010c", "sha384"),
        ):
            signed = certificate("x", rsa_authority())
            der = signed.public_bytes(Encoding.DER)
            # sha256WithRSAEncryption, as it stands in both places.
            changed = der.replace(bytes.fromhex("2a864886f70d01010b"), bytes.fromhex(oid))
            algorithm = negotiated._end_point_hash(x509.load_der_x509_certificate(changed))
            self.assertEqual(algorithm.name, name)

    def test_unknown(self) -> None:
        """An algorithm of which nobody here knows is refused, not guessed."""
        der = certificate("x", rsa_authority()).public_bytes(Encoding.DER)
        changed = der.replace(
            bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010163")
        )
        error = self.assertRaises(
            UsageError, negotiated._end_point_hash, x509.load_der_x509_certificate(changed)
        )
        self.assertIn("1.2.840.113549.1.1.99", str(error))


def rsa_authority() -> Party:
    return rsa_server()


class PythonsOwnTests(SynchronousTestCase):
    """Python's ssl module knows one binding, tls-unique, which is the first finished message."""

    def test_same_connection(self) -> None:
        """
        Python's client and our server see one connection: its tls-unique is the finished message
        that our OpenSSL received, and the certificate that it hashes is the one of our end point.
        """
        made = ssl.create_default_context(cadata=pem(authority().certificate).decode())
        made.maximum_version = ssl.TLSVersion.TLSv1_2
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        python = made.wrap_bio(into, out, server_hostname=HOST)
        connector = Connector(server_connection(server_of(TLS12)), False)
        for _ in range(3):
            with contextlib.suppress(ssl.SSLWantReadError):
                python.do_handshake()
            connector.feed(out.read())
            into.write(b"".join(iter(connector.take, b"")))
        finished = connector.connection.get_peer_finished()
        self.assertEqual(python.get_channel_binding("tls-unique"), finished)
        shown = python.getpeercert(binary_form=True)
        assert shown is not None
        self.assertEqual(connector.channel_binding(END_POINT), hashlib.sha256(shown).digest())
        self.assertEqual(python.version(), facts_of(connector).version)
        cipher = python.cipher()
        assert cipher is not None
        self.assertEqual(cipher[0], facts_of(connector).cipher)
