"""Options of servers and clients: keys, chains, authorities, ALPN, client certificates."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from functools import cache
from typing import Any
from unittest.mock import patch
from weakref import ref

from attrs import evolve
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tests.context_material import (
    FFDHE2048,
    OAKLEY_1024,
    ROOTS,
    OptionsCase,
    Speaking,
    certified,
    dh_parameters,
    layer,
    serving,
    visiting,
)
from tests.engines import on_both_engines
from tests.tls_material import (
    FOR_CLIENTS,
    HOST,
    TLS12,
    TLS13,
    Key,
    Party,
    authority,
    certificate,
    chained_server,
    client,
    client_connection,
    context,
    ec_key,
    intermediate,
    pem,
    rsa_key,
    rsa_server,
    server,
    stranger,
)
from twisted_bioconn import _openssl
from twisted_bioconn.certificates.loading import CertifiedKey, load_authorities
from twisted_bioconn.client_policy import ClientPolicy
from twisted_bioconn.context import ClientCertificate, ClientOptions, ServerOptions, SessionStore
from twisted_bioconn.policy import INTERMEDIATE, MODERN

# A server's authority that is no client's, and a client's that is no server's.
CLIENT_ROOTS = (authority("clients").certificate,)


def with_key(key: Key | ed448.Ed448PrivateKey) -> CertifiedKey:
    """A certificate for the usual host, with this key."""
    made = certificate("other key", authority(), key=key, names=[x509.DNSName(HOST)])  # type: ignore[arg-type]
    return CertifiedKey((made,), key)


@cache
def a_client(title: str = "client of theirs", issuer: Party | None = None) -> Party:
    """A client that the authority for clients has signed, or somebody for it."""
    key = ec_key(4)
    made = certificate(title, issuer or authority("clients"), key=key, usage=FOR_CLIENTS)
    return Party(made, key)


@on_both_engines
class KeyTests(OptionsCase):
    """Which keys a server may have."""

    def test_ecdsa(self) -> None:
        """Both curves of the policy, in both versions."""
        for curve in (ec.SECP256R1(), ec.SECP384R1()):
            options = ServerOptions(with_key(ec.generate_private_key(curve)), policy=INTERMEDIATE)
            for versions in ((TLS12, TLS12), (TLS13, TLS13)):
                made = context(True, trusted=ROOTS, versions=versions)
                meeting = self.meet(options, client_connection(made))
                self.assertEqual(meeting.at_client.peer_chain, options.certificate.chain)
            self.meet(options, visiting()).at_client  # noqa: B018

    def test_rsa(self) -> None:
        """RSA, in both versions."""
        for versions in ((TLS12, TLS12), (TLS13, TLS13)):
            meeting = self.meet(serving(rsa_server(), versions=versions), visiting())
            self.assertEqual(meeting.at_client.peer_chain, rsa_server().chain)

    def test_edwards(self) -> None:
        """
        Mozilla's policies know neither Ed25519 nor Ed448; who has such a key means it to be used.
        """
        for key in (ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate()):
            for policy in (INTERMEDIATE, MODERN):
                options = ServerOptions(with_key(key), policy=policy)
                meeting = self.meet(options, client_connection(context(True, trusted=ROOTS)))
                self.assertEqual(meeting.at_client.peer_chain, options.certificate.chain)

    def test_rsa_and_modern(self) -> None:
        """RSA under C{modern} would serve nobody: the sentence says what to do."""
        self.refused(
            "policy=modern has no RSA keys, and the certificate has one:"
            " use policy=intermediate, or an ECDSA certificate",
            serving,
            rsa_server(),
            policy=MODERN,
        )
        self.refused(
            "policy=modern has no RSA keys",
            visiting,
            certificate=certified(rsa_server()),
            policy=MODERN,
        )

    def test_other_curve(self) -> None:
        """A curve that no signature algorithm of the policy is for."""
        for curve in (ec.SECP256K1(), ec.BrainpoolP256R1()):
            key = with_key(ec.generate_private_key(curve))
            self.refused(
                f"policy=intermediate has no keys on the curve {curve.name}:"
                " use secp256r1 or secp384r1",
                ServerOptions,
                key,
            )

    def test_p521(self) -> None:
        """
        The policies have a signature algorithm for secp521r1 and no such group: that is what a
        certificate needs.
        """
        options = ServerOptions(with_key(ec.generate_private_key(ec.SECP521R1())))
        meeting = self.meet(options, visiting())
        self.assertEqual(meeting.at_client.version, "TLSv1.3")

    def test_weak(self) -> None:
        """OpenSSL's own refusal is a sentence too."""
        self.refused(
            "OpenSSL refuses the certificate or its key: ee key too small",
            ServerOptions,
            with_key(rsa_key(1024)),
        )


@on_both_engines
class ChainTests(OptionsCase):
    """What is sent, and whose signature counts."""

    def test_intermediates_sent(self) -> None:
        """A full chain goes out as it is, so that a client needs the root alone."""
        meeting = self.meet(serving(chained_server()), visiting())
        self.assertEqual(meeting.at_client.peer_chain, chained_server().chain)

    def test_intermediates_of_client(self) -> None:
        """A client's chain too."""
        middle = Party(
            certificate("middle", authority("clients"), key=ec_key(6), ca=True), ec_key(6)
        )
        ours = evolve(a_client("far", middle), intermediates=(middle.certificate,))
        meeting = self.meet(
            serving(client_authorities=CLIENT_ROOTS), visiting(certificate=certified(ours))
        )
        self.assertEqual(meeting.at_server.peer_chain, ours.chain)

    def test_intermediate_missing(self) -> None:
        """A leaf alone does not verify at a client that knows the root alone."""
        leaf = evolve(chained_server(), intermediates=())
        meeting = self.meet(serving(leaf), visiting())
        self.assertEqual(
            str(meeting.client_error),
            "the certificate of CN=chained server does not verify: its issuer is not among the"
            " trusted authorities (alert unknown_ca, sent)",
        )

    def test_nothing_of_the_trusted_is_sent(self) -> None:
        """OpenSSL would fill up the chain with those whom we trust, the root too."""
        chain = serving(client_authorities=ROOTS)
        meeting = self.meet(chain, visiting(certificate=certified(client())))
        self.assertEqual(meeting.at_client.peer_chain, server().chain)
        self.assertEqual(meeting.at_server.peer_chain, client().chain)

    def test_bundle(self) -> None:
        """Each certificate of a bundle is trusted, whichever comes first."""
        bundle = [authority(each).certificate for each in ("a", "b")] + [ROOTS[0]]
        file = self.mktemp()
        with open(file, "wb") as out:
            out.writelines(map(pem, bundle))
        self.meet(serving(), visiting(trust_roots=load_authorities(file))).at_client  # noqa: B018
        for title in ("a", "b"):
            party = Party(
                certificate("by one of them", authority(title), names=[x509.DNSName(HOST)]),
                ec_key(),
            )
            meeting = self.meet(serving(party), visiting(trust_roots=load_authorities(file)))
            self.assertEqual(meeting.at_client.peer_chain, party.chain)

    def test_trusted_intermediate(self) -> None:
        """Who lists an intermediate means that one, and not whatever its root signs besides."""
        roots = (intermediate().certificate,)
        meeting = self.meet(serving(chained_server()), visiting(trust_roots=roots))
        self.assertEqual(meeting.at_client.peer_chain[0], chained_server().certificate)
        meeting = self.meet(serving(server()), visiting(trust_roots=roots))
        self.assertEqual(meeting.client_error.alert, "unknown_ca")

    def test_trusted_leaf(self) -> None:
        """A leaf in a list of authorities is itself trusted, and signs for nobody."""
        roots = (server().certificate,)
        self.meet(serving(), visiting(trust_roots=roots)).at_client  # noqa: B018
        signed = certificate("by a leaf", server(), key=ec_key(), names=[x509.DNSName(HOST)])
        forged = Party(signed, ec_key(), (server().certificate,))
        meeting = self.meet(serving(forged), visiting(trust_roots=roots))
        self.assertIsNotNone(meeting.client_error)

    def test_no_roots(self) -> None:
        """Nobody to trust is a mistake; it must not come to mean the system's."""
        self.refused(
            "trustRoots has no certificate: no server could be trusted", visiting, trust_roots=()
        )

    def test_system_roots(self) -> None:
        """With none given it is the system's, where OpenSSL looks for them."""
        file = self.mktemp()
        with open(file, "wb") as out:
            out.write(pem(ROOTS[0]))
        meeting = self.meet(serving(), ClientOptions(HOST))
        self.assertEqual(meeting.client_error.alert, "unknown_ca")
        with patch.dict(os.environ, SSL_CERT_FILE=file):
            options = ClientOptions(HOST, sessions=SessionStore())
        self.meet(serving(), options).at_client  # noqa: B018


@on_both_engines
class ALPNTests(OptionsCase):
    """Who says which application protocols there are."""

    def agreed(
        self,
        server: object,
        client: object,
        server_alpn: tuple[bytes, ...] = (),
        client_alpn: tuple[bytes, ...] = (),
    ) -> bytes | None:
        """The name that both ends found, made with these applications and these names."""
        meeting = self.meet(serving(alpn=server_alpn), visiting(alpn=client_alpn), server, client)
        self.assertEqual(meeting.at_client.alpn, meeting.at_server.alpn)
        return meeting.at_client.alpn

    def test_from_applications(self) -> None:
        """The two applications' names; the server's order wins."""
        self.assertEqual(self.agreed(Speaking(b"b", b"a"), Speaking(b"a", b"b", b"c")), b"b")

    def test_explicit(self) -> None:
        """Names that were given win over those of the application, at either side."""
        both = Speaking(b"h2", b"http/1.1")
        self.assertEqual(self.agreed(both, both), b"h2")
        self.assertEqual(self.agreed(both, both, client_alpn=(b"http/1.1",)), b"http/1.1")
        self.assertEqual(self.agreed(both, both, server_alpn=(b"http/1.1",)), b"http/1.1")
        self.assertEqual(self.agreed(None, None, (b"x",), (b"y", b"x")), b"x")

    def test_offered(self) -> None:
        """What is offered is just that, in its order, and nothing at all where there is none."""
        for given, application, offered in (
            ((b"x", b"y"), Speaking(b"z"), [b"x", b"y"]),
            ((), Speaking(b"z", b"x"), [b"z", b"x"]),
            ((), Speaking(), None),
            ((), None, None),
        ):
            meeting = self.meet(serving(), visiting(alpn=given), None, application)
            self.assertEqual(meeting.hello().alpn, offered)

    def test_no_overlap(self) -> None:
        """A server that has names and none of the client's says so: RFC 7301, section 3.2."""
        meeting = self.meet(serving(alpn=(b"x",)), visiting(alpn=(b"y",)))
        self.assertEqual(
            str(meeting.server_error),
            "the peer offers no ALPN protocol that we speak (alert no_application_protocol, sent)",
        )
        self.assertEqual(meeting.client_error.alert, "no_application_protocol")

    def test_none(self) -> None:
        """An application with no names gets a connection without ALPN; so does an old client."""
        self.assertIsNone(self.agreed(None, None, client_alpn=(b"h2",)))
        self.assertIsNone(self.agreed(None, None, server_alpn=(b"h2",)))
        self.assertIsNone(self.agreed(Speaking(b"h2"), None))

    def test_not_names(self) -> None:
        """RFC 7301 has 1 to 255 bytes, and they are bytes."""
        for make in (serving, visiting):
            for name in (b"", b"x" * 256, "h2"):
                self.refused(f"{name!r} is no ALPN name", make, alpn=(name,))
            self.assertEqual(make(alpn=(b"x" * 255,)).alpn, (b"x" * 255,))

    def test_after_a_new_certificate(self) -> None:
        """The certificate's context asks the application too."""
        options = serving()
        options.use(certified(rsa_server()))
        meeting = self.meet(options, visiting(alpn=(b"h2",)), Speaking(b"h2"))
        self.assertEqual(meeting.at_client.alpn, b"h2")


@on_both_engines
class ClientCertificateTests(OptionsCase):
    """Whom a server lets in."""

    def test_mode_is_none(self) -> None:
        """Authorities in the place of the mode are a mistake, and not a server that asks nobody."""
        forgotten: Any = CLIENT_ROOTS
        self.assertRaises(TypeError, ClientPolicy, forgotten)

    def test_required(self) -> None:
        """With authorities a certificate is required; without one nobody comes in."""
        options = serving(client_authorities=CLIENT_ROOTS)
        meeting = self.meet(options, visiting(certificate=certified(a_client())))
        self.assertEqual(meeting.at_server.peer_chain, a_client().chain)
        for versions, alert in (
            ((TLS12, TLS12), "handshake_failure"),
            ((TLS13, TLS13), "certificate_required"),
        ):
            options = serving(client_authorities=CLIENT_ROOTS, versions=versions)
            meeting = self.meet(options, visiting())
            self.assertEqual(
                str(meeting.server_error),
                f"we want a client certificate and got none (alert {alert}, sent)",
            )
            self.assertEqual(meeting.client_error.alert, alert)

    def test_if_given(self) -> None:
        """C{verifyIfGiven}: none is fine, a bad one is not."""
        options = serving(
            client_authorities=CLIENT_ROOTS, client_certificate=ClientCertificate.VERIFY_IF_GIVEN
        )
        self.assertEqual(self.meet(options, visiting()).at_server.peer_chain, ())
        meeting = self.meet(options, visiting(certificate=certified(a_client())))
        self.assertEqual(meeting.at_server.peer_chain, a_client().chain)
        meeting = self.meet(options, visiting(certificate=certified(stranger())))
        self.assertEqual(meeting.server_error.alert, "unknown_ca")

    def test_not_asked(self) -> None:
        """C{none}, and no authorities: no certificate is asked for, and none is shown."""
        for options in (
            serving(),
            serving(client_authorities=CLIENT_ROOTS, client_certificate=ClientCertificate.NONE),
        ):
            meeting = self.meet(options, visiting(certificate=certified(a_client())))
            self.assertEqual(meeting.at_server.peer_chain, ())

    def test_wrong_authority(self) -> None:
        """The authority of servers is none of clients, nor is the system's."""
        options = serving(client_authorities=CLIENT_ROOTS)
        for party in (client(), stranger()):
            meeting = self.meet(options, visiting(certificate=certified(party)))
            self.assertEqual(meeting.server_error.alert, "unknown_ca")

    def test_wrong_purpose(self) -> None:
        """A server's certificate lets nobody in as a client."""
        options = serving(client_authorities=ROOTS)
        meeting = self.meet(options, visiting(certificate=certified(server())))
        self.assertEqual(meeting.server_error.alert, "unsupported_certificate")

    def test_names_of_authorities(self) -> None:
        """The client is told whose signature is wanted, so that it can choose a certificate."""
        roots = [authority(each).certificate for each in ("clients", "more clients")]
        for versions in ((TLS12, TLS12), (TLS13, TLS13)):
            options = serving(client_authorities=roots, versions=versions)
            meeting = self.meet(options, visiting(certificate=certified(a_client())))
            names = meeting.loop.client.connection.get_client_ca_list()
            self.assertEqual([name.CN for name in names], ["clients", "more clients"])

    def test_nobody_to_sign(self) -> None:
        """To want certificates and name no authority would let nobody in."""
        for wanted in (ClientCertificate.REQUIRE, ClientCertificate.VERIFY_IF_GIVEN):
            self.refused(
                f"clientCertificate={wanted.value} needs clientAuthorities",
                serving,
                client_certificate=wanted,
            )

    def test_check(self) -> None:
        """A check sees the chain, leaf first and root last, and its exception refuses."""
        seen: list[Sequence[x509.Certificate]] = []
        options = serving(client_authorities=CLIENT_ROOTS, check=seen.append)
        self.meet(options, visiting(certificate=certified(a_client()))).at_server  # noqa: B018
        self.assertEqual([tuple(chain) for chain in seen], [(*a_client().chain, *CLIENT_ROOTS)])

        def nobody(chain: object) -> None:
            raise LookupError("not on the list")

        options = serving(client_authorities=CLIENT_ROOTS, check=nobody)
        meeting = self.meet(options, visiting(certificate=certified(a_client())))
        self.assertIn(
            "the certificate of CN=client of theirs was refused: not on the list",
            str(meeting.server_error),
        )

    def test_check_that_is_never_asked(self) -> None:
        """A check without authorities looks like a rule and would be none."""
        for options in ({}, {"client_authorities": CLIENT_ROOTS}):
            self.refused(
                "a check of client certificates needs client authorities: it would never be asked",
                serving,
                check=len,
                client_certificate=ClientCertificate.NONE,
                **options,
            )


@on_both_engines
class NewCertificateTests(OptionsCase):
    """A certificate changes while the server runs."""

    def test_use(self) -> None:
        """The new one is served, chain and all; connections that are there go on."""
        options = serving()
        before = self.meet(options, visiting())
        options.use(certified(chained_server()))
        self.assertEqual(options.certificate, certified(chained_server()))
        after = self.meet(options, visiting())
        self.assertEqual(after.at_client.peer_chain, chained_server().chain)
        before.loop.client.write(b"still here")
        before.loop.pump()
        self.assertIn(b"still here", before.loop.received_by_server)
        options.use(certified(server()))
        after = self.meet(options, visiting())
        self.assertEqual(after.at_client.peer_chain, server().chain)

    def test_key_of_another_kind(self) -> None:
        """From ECDSA to RSA to Ed25519, each signs in its own way, in both versions."""
        ed = with_key(ed25519.Ed25519PrivateKey.generate())
        for version in (TLS12, TLS13):
            options = serving()
            for key in (certified(rsa_server()), ed, certified(server())):
                options.use(key)
                made = context(True, trusted=ROOTS, versions=(version, version))
                meeting = self.meet(options, client_connection(made))
                self.assertEqual(meeting.at_client.peer_chain, key.chain)

    def test_clients_are_still_verified(self) -> None:
        """The rule for client certificates is the connection's, whatever is swapped in."""
        options = serving(client_authorities=CLIENT_ROOTS)
        options.use(certified(rsa_server()))
        meeting = self.meet(options, visiting())
        self.assertEqual(meeting.server_error.alert, "certificate_required")
        meeting = self.meet(options, visiting(certificate=certified(stranger())))
        self.assertEqual(meeting.server_error.alert, "unknown_ca")
        meeting = self.meet(options, visiting(certificate=certified(a_client())))
        self.assertEqual(meeting.at_server.peer_chain, a_client().chain)

    def test_policy_holds(self) -> None:
        """The policy holds for what is swapped in."""
        options = serving(policy=MODERN)
        options.use(with_key(ec.generate_private_key(ec.SECP384R1())))
        made = context(True, trusted=ROOTS, versions=(TLS12, TLS12))
        meeting = self.meet(options, client_connection(made))
        self.assertEqual(meeting.server_error.alert, "protocol_version")

    def test_bad(self) -> None:
        """One that cannot be used leaves the old one in place."""
        options = serving(policy=MODERN)
        old = options.certificate
        self.refused("policy=modern has no RSA keys", options.use, certified(rsa_server()))
        self.refused("ee key too small", serving().use, with_key(rsa_key(1024)))
        self.assertIs(options.certificate, old)
        meeting = self.meet(options, visiting())
        self.assertEqual(meeting.at_client.peer_chain, server().chain)

    def test_often(self) -> None:
        """A certificate that was replaced is not kept."""
        options = serving()
        gone = []
        for _ in range(10):
            options.use(with_key(ec.generate_private_key(ec.SECP256R1())))
            gone.append(ref(options._realm.context(options.certificate)))
            self.meet(options, visiting()).end()
        gc.collect()
        self.assertEqual([each() is None for each in gone], [True] * 9 + [False])


@on_both_engines
class DiffieHellmanTests(OptionsCase):
    """C{dhParameters}, as C{ssl:} has them."""

    def parameters(self, prime: str = FFDHE2048) -> str:
        """A file of parameters."""
        file: str = self.mktemp()
        with open(file, "wb") as out:
            out.write(dh_parameters(prime))
        return file

    def test_cipher(self) -> None:
        """With parameters the two ciphers of RFC 5288 are served, without them not."""
        for cipher in (b"DHE-RSA-AES128-GCM-SHA256", b"DHE-RSA-AES256-GCM-SHA384"):
            made = context(True, trusted=ROOTS, versions=(TLS12, TLS12), ciphers=cipher)
            options = serving(rsa_server(), dh_parameters=self.parameters())
            meeting = self.meet(options, client_connection(made))
            self.assertEqual(meeting.at_server.cipher, cipher.decode())
            meeting = self.meet(serving(rsa_server()), client_connection(made))
            self.assertEqual(meeting.server_error.alert, "handshake_failure")

    def test_client_of_before(self) -> None:
        """A client that knows of no named group of this kind gets the given parameters."""
        cipher = b"DHE-RSA-AES128-GCM-SHA256"
        made = context(True, trusted=ROOTS, versions=(TLS12, TLS12), ciphers=cipher)
        _openssl.set_groups(made, ("secp256r1",))
        options = serving(rsa_server(), dh_parameters=self.parameters())
        meeting = self.meet(options, client_connection(made))
        self.assertEqual(meeting.at_server.cipher, cipher.decode())

    def test_preferred_last(self) -> None:
        """They are for those who can nothing better."""
        options = serving(rsa_server(), dh_parameters=self.parameters(), versions=(TLS12, TLS12))
        meeting = self.meet(options, visiting())
        self.assertEqual(meeting.at_server.cipher, "ECDHE-RSA-AES128-GCM-SHA256")

    def test_mistakes(self) -> None:
        """The sentence names the file and what is wrong."""
        self.refused(
            "dhParameters: nowhere.pem does not exist", serving, dh_parameters="nowhere.pem"
        )
        file = self.mktemp()
        with open(file, "wb") as out:
            out.write(pem(ROOTS[0]))
        self.refused(
            f"dhParameters: {file} has no Diffie-Hellman parameters in PEM",
            serving,
            dh_parameters=file,
        )
        file = self.parameters(OAKLEY_1024)
        self.refused(
            f"dhParameters: the parameters in {file} are too short to be secure",
            serving,
            dh_parameters=file,
        )


class CreationTests(SynchronousTestCase):
    """What makes connections for a TLS protocol."""

    def test_app_data(self) -> None:
        """The protocol is found from the connection, as everybody expects."""
        protocol = layer()
        for connection in (
            serving().serverConnectionForTLS(protocol),
            visiting().clientConnectionForTLS(protocol),
        ):
            self.assertIs(connection.get_app_data(), protocol)

    def test_sides(self) -> None:
        """Each connection is told which side it is."""
        self.assertRaises(SSL.WantReadError, serving().serverConnectionForTLS(None).do_handshake)
        connection = visiting().clientConnectionForTLS(None)
        self.assertRaises(SSL.WantReadError, connection.do_handshake)
        self.assertEqual(connection.bio_read(6)[5], 1)

    def test_not_kept(self) -> None:
        """Neither options object keeps the protocols of its connections."""
        server_options, client_options = serving(), visiting()
        protocols = []
        for make in (
            server_options.serverConnectionForTLS,
            client_options.clientConnectionForTLS,
        ):
            protocol = layer()
            protocols.append(ref(protocol))
            make(protocol)
            del protocol
        gc.collect()
        self.assertEqual([each() for each in protocols], [None, None])
