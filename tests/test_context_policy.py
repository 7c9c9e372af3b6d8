"""
A policy's versions, ciphers, groups and signature algorithms are what goes over the wire.

Code points are written out here, as IANA's registry of TLS parameters has them.
"""

from __future__ import annotations

from attrs import evolve
from OpenSSL import SSL

from tests.context_material import ROOTS, OptionsCase, serving, visiting
from tests.engines import on_both_engines
from tests.tls_material import (
    TLS12,
    TLS13,
    client_connection,
    context,
    rsa_server,
    server,
    server_connection,
)
from twisted_bioconn import _openssl
from twisted_bioconn._public_engine import PublicEngine
from twisted_bioconn.policy import INTERMEDIATE, MODERN
from twisted_bioconn.testing import Way

X25519MLKEM768, X25519, SECP256R1, SECP384R1 = 0x11EC, 0x001D, 0x0017, 0x0018
SUITES_13 = [0x1301, 0x1302, 0x1303]
ECDSA = [0x0403, 0x0503, 0x0603]
RSA = [0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601]
RENEGOTIATION_SCSV = 0x00FF
HELLO_RETRY_RANDOM = bytes.fromhex(
    "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"
)


class PolicyCase(OptionsCase):
    """What is the same for both sides."""

    def foreign(
        self,
        versions: tuple[int, int] = (TLS12, TLS13),
        ciphers: bytes | None = None,
        suites: bytes | None = None,
        groups: tuple[str, ...] = (),
    ) -> SSL.Connection:
        """A client of OpenSSL's own, with no policy of ours."""
        made = context(True, trusted=ROOTS, versions=versions, ciphers=ciphers, ciphersuites=suites)
        if groups:
            _openssl.set_groups(made, groups)
        return client_connection(made)


@on_both_engines
class ClientPolicyTests(PolicyCase):
    """What a client's hello offers."""

    def test_intermediate(self) -> None:
        """Versions and ciphers of C{intermediate}, in its order."""
        hello = self.meet(serving(), visiting()).hello()
        self.assertEqual(hello.versions, [0x0304, 0x0303])
        self.assertEqual(
            [each for each in hello.ciphers if each != RENEGOTIATION_SCSV],
            [*SUITES_13, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8],
        )

    def test_modern(self) -> None:
        """C{modern} is TLS 1.3 and nothing else."""
        hello = self.meet(serving(), visiting(policy=MODERN)).hello()
        self.assertEqual(hello.versions, [0x0304])
        self.assertEqual([each for each in hello.ciphers if each != RENEGOTIATION_SCSV], SUITES_13)

    def test_post_quantum_first(self) -> None:
        """
        The hybrid group comes first and is what two ends of ours agree on, with no settings of
        ours too.
        """
        meeting = self.meet(serving(), visiting())
        self.assertEqual(meeting.hello().groups[0], X25519MLKEM768)
        self.assertEqual(meeting.at_client.group, "X25519MLKEM768")
        self.assertEqual(meeting.at_server.group, "X25519MLKEM768")

    def test_second_share(self) -> None:
        """
        A share for X25519 goes along, so that a server without the hybrid group costs no round
        trip.
        """
        meeting = self.meet(serving(policy=evolve(INTERMEDIATE, groups=("X25519",))), visiting())
        self.assertEqual(meeting.hello().key_shares, [X25519MLKEM768, X25519])
        self.assertFalse(any(HELLO_RETRY_RANDOM in flight for _, flight in meeting.flights()))
        if not self.public_api:
            self.assertEqual(meeting.at_client.group, "x25519")

    def test_modern_and_old_server(self) -> None:
        """A client with C{modern} does not go back to TLS 1.2."""
        meeting = self.meet(serving(versions=(TLS12, TLS12)), visiting(policy=MODERN))
        self.assertEqual(meeting.client_error.alert, "protocol_version")

    def test_server_with_old_cipher(self) -> None:
        """A client takes no cipher that the policy does not have, whatever the server wants."""
        foreign = server_connection(
            context(False, own=rsa_server(), versions=(TLS12, TLS12), ciphers=b"AES128-GCM-SHA256")
        )
        meeting = self.meet(foreign, visiting())
        self.assertEqual(meeting.client_error.alert, "handshake_failure")


class ClientGroupTests(PolicyCase):
    """
    Groups and signature algorithms of a client's hello.  They have no public call: the twin goes
    without.
    """

    def test_intermediate_groups(self) -> None:
        """Groups and signature algorithms of C{intermediate}, in its order."""
        hello = self.meet(serving(), visiting()).hello()
        self.assertEqual(hello.groups, [X25519MLKEM768, X25519, SECP256R1, SECP384R1])
        self.assertEqual(hello.signature_algorithms, ECDSA + RSA)

    def test_modern_signatures(self) -> None:
        """C{modern} takes no RSA signature."""
        hello = self.meet(serving(), visiting(policy=MODERN)).hello()
        self.assertEqual(hello.signature_algorithms, ECDSA)

    def test_retry(self) -> None:
        """A server that has the third group alone costs one round trip, and gets its way."""
        meeting = self.meet(serving(policy=evolve(INTERMEDIATE, groups=("secp256r1",))), visiting())
        self.assertTrue(any(HELLO_RETRY_RANDOM in flight for _, flight in meeting.flights()))
        self.assertEqual(meeting.at_client.group, "secp256r1")

    def test_old_openssl(self) -> None:
        """An OpenSSL before 3.5 knows neither the asterisk nor the hybrid group."""
        set_groups = _openssl.set_groups

        def old(context: SSL.Context, names: list[str]) -> None:
            if any(name.startswith("*") or "MLKEM" in name for name in names):
                raise ValueError("unknown group")
            set_groups(context, names)

        self.patch(_openssl, "set_groups", old)
        hello = self.meet(serving(), visiting()).hello()
        self.assertEqual(hello.groups, [X25519, SECP256R1, SECP384R1])

    def test_no_group_left(self) -> None:
        """A policy with no group that this OpenSSL knows is a mistake, told at once."""
        policy = evolve(INTERMEDIATE, groups=("X1", "X2"))
        for make in (serving, visiting):
            self.refused("this OpenSSL knows none of the groups X1, X2", make, policy=policy)

    def test_modern_and_rsa(self) -> None:
        """A client with C{modern} does not take a server whose key is RSA."""
        meeting = self.meet(serving(rsa_server()), visiting(policy=MODERN))
        self.assertEqual(meeting.client_error.alert, "handshake_failure")
        self.assertEqual(str(meeting.server_error)[:31], "no signature algorithm fits the")


@on_both_engines
class ServerPolicyTests(PolicyCase):
    """What a server agrees to."""

    def test_versions(self) -> None:
        """C{intermediate} serves TLS 1.2 and 1.3, C{modern} 1.3 alone."""
        for version, name in ((TLS12, "TLSv1.2"), (TLS13, "TLSv1.3")):
            meeting = self.meet(serving(), self.foreign((version, version)))
            self.assertEqual(meeting.at_server.version, name)
        meeting = self.meet(serving(policy=MODERN), self.foreign())
        self.assertEqual(meeting.at_server.version, "TLSv1.3")
        meeting = self.meet(serving(policy=MODERN), self.foreign((TLS12, TLS12)))
        self.assertEqual(meeting.server_error.alert, "protocol_version")
        self.assertIn("no TLS version that we accept", str(meeting.server_error))

    def test_tls_11(self) -> None:
        """Nobody gets TLS 1.1, however much it lowers its demands."""
        old = self.foreign((SSL.TLS1_1_VERSION, SSL.TLS1_1_VERSION), b"ALL:@SECLEVEL=0")
        meeting = self.meet(serving(), old)
        self.assertEqual(meeting.server_error.alert, "protocol_version")

    def test_ciphers(self) -> None:
        """In TLS 1.2 each cipher of the policy is served, with the key that it is for."""
        for cipher in INTERMEDIATE.ciphers_tls12:
            party = rsa_server() if "RSA-" in cipher.replace("ECDSA", "") else server()
            meeting = self.meet(serving(party), self.foreign((TLS12, TLS12), cipher.encode()))
            self.assertEqual(meeting.at_server.cipher, cipher)

    def test_other_ciphers(self) -> None:
        """No forward secrecy, CBC, finite fields, no encryption: not served."""
        for cipher in (
            "AES128-GCM-SHA256",
            "ECDHE-RSA-AES128-SHA256",
            "ECDHE-RSA-AES256-SHA",
            "DHE-RSA-AES128-GCM-SHA256",
            "ECDHE-RSA-NULL-SHA:@SECLEVEL=0",
            "ECDHE-RSA-CAMELLIA128-SHA256",
            "AECDH-AES128-SHA:@SECLEVEL=0",
        ):
            offer = self.foreign((TLS12, TLS12), cipher.encode())
            meeting = self.meet(serving(rsa_server()), offer)
            self.assertEqual(meeting.server_error.alert, "handshake_failure", cipher)

    def test_suites(self) -> None:
        """In TLS 1.3 each suite of the policy is served and no other."""
        for suite in INTERMEDIATE.ciphersuites_tls13:
            meeting = self.meet(serving(), self.foreign((TLS13, TLS13), suites=suite.encode()))
            self.assertEqual(meeting.at_server.cipher, suite)
        meeting = self.meet(
            serving(), self.foreign((TLS13, TLS13), suites=b"TLS_AES_128_CCM_SHA256")
        )
        self.assertEqual(meeting.server_error.alert, "handshake_failure")

    def test_whose_order(self) -> None:
        """The client's order of ciphers wins, unless the policy says otherwise."""
        offer = b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256"
        meeting = self.meet(serving(), self.foreign((TLS12, TLS12), offer))
        self.assertEqual(meeting.at_server.cipher, "ECDHE-ECDSA-CHACHA20-POLY1305")
        ours = serving(policy=evolve(INTERMEDIATE, server_preference=True))
        meeting = self.meet(ours, self.foreign((TLS12, TLS12), offer))
        self.assertEqual(meeting.at_server.cipher, "ECDHE-ECDSA-AES128-GCM-SHA256")

    def test_narrowed(self) -> None:
        """Versions narrow what the policy has, and can not widen it."""
        meeting = self.meet(serving(versions=(None, TLS12)), visiting())
        self.assertEqual(meeting.at_client.version, "TLSv1.2")
        meeting = self.meet(serving(versions=(TLS13, None)), visiting())
        self.assertEqual(meeting.at_client.version, "TLSv1.3")
        wider = serving(policy=MODERN, versions=(SSL.TLS1_VERSION, None))
        meeting = self.meet(wider, self.foreign((TLS12, TLS12)))
        self.assertEqual(meeting.server_error.alert, "protocol_version")
        self.refused(
            "policy=modern and the given TLS versions have no version in common",
            serving,
            policy=MODERN,
            versions=(None, TLS12),
        )


class ServerGroupTests(PolicyCase):
    """Groups and signature algorithms of a server, which the twin cannot choose either."""

    def test_groups(self) -> None:
        """Each group of the policy is served and no other."""
        for group in INTERMEDIATE.groups:
            meeting = self.meet(serving(), self.foreign(groups=(group,)))
            self.assertEqual(str(meeting.at_server.group).lower(), group.lower())
        for group in ("secp521r1", "X448", "ffdhe2048"):
            meeting = self.meet(serving(), self.foreign(groups=(group,)))
            self.assertEqual(meeting.server_error.alert, "handshake_failure", group)

    def test_signatures_of_clients(self) -> None:
        """With C{modern} the request for a client's certificate names no RSA signature."""
        options = serving(policy=MODERN, client_authorities=ROOTS)
        made = context(True, own=rsa_server(), trusted=ROOTS, versions=(TLS13, TLS13))
        meeting = self.meet(options, client_connection(made))
        self.assertEqual(meeting.server_error.alert, "certificate_required")

    def test_retry_of_ours(self) -> None:
        """A client that sends a share for no group of ours is asked again, and served."""
        meeting = self.meet(serving(), self.foreign(groups=("X448", "secp384r1")))
        self.assertEqual(meeting.at_server.group, "secp384r1")
        self.assertIn(HELLO_RETRY_RANDOM, meeting.flights()[1][1])
        self.assertIs(meeting.flights()[1][0], Way.TO_CLIENT)


class TwinTests(PolicyCase):
    """What the twin on the public API lacks here."""

    public_api = True

    def test_own_groups(self) -> None:
        """
        Its groups and signature algorithms are OpenSSL's own, whatever the policy says; the hybrid
        group still comes first.
        """
        self.assertFalse(PublicEngine.can_set_groups)
        hello = self.meet(serving(), visiting(policy=MODERN)).hello()
        self.assertEqual(hello.groups[0], X25519MLKEM768)
        self.assertNotEqual(hello.groups, [X25519MLKEM768, X25519, SECP256R1, SECP384R1])
        self.assertTrue(set(RSA) & set(hello.signature_algorithms))
