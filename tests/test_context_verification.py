"""Whom a client believes: hosts and addresses, pins, checks, and nobody by accident."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.context_material import ROOTS, Meeting, OptionsCase, certified, serving, visiting
from tests.engines import on_both_engines
from tests.tls_material import (
    FOR_CLIENTS,
    FOR_SERVERS,
    HOST,
    TLS12,
    TLS13,
    Party,
    authority,
    certificate,
    client,
    ec_key,
    expired,
    intermediate,
    nameless,
    not_yet_valid,
    server,
    stranger,
)
from twisted_bioconn.context import ClientOptions, SessionStore, ascii_host
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.policy import INTERMEDIATE, MODERN
from twisted_bioconn.testing import Loopback
from twisted_bioconn.verify import Pin


def general(name: str) -> x509.GeneralName:
    """A host or an address, as a certificate has it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def named(*names: str) -> Party:
    """A server for these hosts and addresses."""
    return Party(certificate("named", authority(), names=[*map(general, names)]), ec_key())


class NameTests(SynchronousTestCase):
    """What is a host, and how it stands in a certificate."""

    def test_names(self) -> None:
        """Case, trailing dots and scripts make no difference."""
        for given_host, expected in (
            ("localhost", "localhost"),
            ("WWW.Example.ORG", "www.example.org"),
            ("www.example.org.", "www.example.org"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("bücher。example.", "xn--bcher-kva.example"),
            ("faß.example", "xn--fa-hia.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("_service.host_name.example", "_service.host_name.example"),
            ("x" * 63 + ".example", "x" * 63 + ".example"),
        ):
            self.assertEqual(ascii_host(given_host), expected)

    def test_addresses(self) -> None:
        """An address stays one, in its canonical form."""
        for given_host, expected in (
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("１２７.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("0:0:0:0:0:0:0:1", "::1"),
            ("2001:DB8::A", "2001:db8::a"),
            ("fe80::1%eth0", "fe80::1%eth0"),
        ):
            self.assertEqual(ascii_host(given_host), expected)

    def test_no_names(self) -> None:
        """What is no host is refused, and the sentence shows it."""
        for host in (
            "",
            ".",
            "..",
            "a..b",
            ".example.org",
            "a b",
            "host:443",
            "[::1]",
            "https://host/",
            "user@host",
            "*.example.org",
            "host\0.example",
            "host\n",
            "x" * 64 + ".example",
            ".".join(["x" * 60] * 5),
            "bü cher.example",
            "\udcff.example",
            "ü" * 64,
            "%",
        ):
            error = self.assertRaises(ConfigurationError, ascii_host, host)
            self.assertTrue(str(error).startswith(f"{host!r} is no host name"), str(error))

    @given(st.text(max_size=80))
    def test_anything(self, host: str) -> None:
        """Whatever is given is a host, in a form that stays as it is, or one kind of error."""
        try:
            name = ascii_host(host)
        except ConfigurationError:
            return
        self.assertEqual(ascii_host(name), name)
        self.assertTrue(name.isascii())
        self.assertEqual(name, name.lower())


@on_both_engines
class HostTests(OptionsCase):
    """The certificate has to be for the host that was asked for."""

    def let_in(self, party: Party, host: str, **options: Any) -> Meeting:
        meeting = self.meet(serving(party), visiting(host, **options))
        self.assertEqual(meeting.at_client.peer_certificate, party.certificate)
        return meeting

    def test_names(self) -> None:
        """However it was written; the hello has the ASCII form."""
        for certified_name, host, asked in (
            (HOST, HOST, HOST),
            (HOST, HOST.upper() + ".", HOST),
            ("*.example.org", HOST, HOST),
            ("xn--bcher-kva.example", "Bücher.example", "xn--bcher-kva.example"),
        ):
            meeting = self.let_in(named(certified_name), host)
            self.assertEqual(meeting.hello().server_name, asked.encode())
            self.assertEqual(meeting.at_server.server_name, asked)

    def test_other_name(self) -> None:
        """A certificate for another host is refused, by the fitting alert."""
        meeting = self.meet(serving(named(HOST, "10.0.0.1")), visiting("mail.example.org"))
        self.assertEqual(
            meeting.client_error.sentence,
            f"the certificate is not for mail.example.org: it is for {HOST}, 10.0.0.1",
        )
        if not self.public_api:
            self.assertEqual(meeting.server_error.alert, "bad_certificate")
        for party in (named("*.example.org"), named("www.example.com"), named("example.org")):
            meeting = self.meet(serving(party), visiting("a.b.example.org"))
            self.assertIn("is not for a.b.example.org", str(meeting.client_error))

    def test_addresses(self) -> None:
        """Addresses are verified as addresses, and are no server names: RFC 6066, section 3."""
        for address, host in (
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "0:0:0:0:0:0:0:1"),
            ("fe80::1", "fe80::1%eth0"),
        ):
            meeting = self.let_in(named(address), host)
            self.assertIsNone(meeting.hello().server_name)
            self.assertIsNone(meeting.at_server.server_name)

    def test_other_address(self) -> None:
        """A name that looks like the address does not do; service_identity finds it malformed."""
        lookalike = Party(
            certificate(
                "127.0.0.1",
                authority(),
                names=[x509.DNSName("127.0.0.1"), x509.IPAddress(ipaddress.ip_address("::1"))],
            ),
            ec_key(),
        )
        meeting = self.meet(serving(lookalike), visiting("127.0.0.1"))
        self.assertIn("cannot be verified for 127.0.0.1", str(meeting.client_error))
        self.assertEqual(meeting.loop.received_by_client, b"")

    def test_server_name(self) -> None:
        """Where another name is given, that is asked for and verified, and the host is not."""
        meeting = self.let_in(named(HOST), "10.0.0.1", server_name=HOST)
        self.assertEqual(meeting.hello().server_name, HOST.encode())
        meeting = self.meet(serving(named("10.0.0.1")), visiting("10.0.0.1", server_name=HOST))
        self.assertIn(f"is not for {HOST}", str(meeting.client_error))

    def test_dates(self) -> None:
        """Expired, and not valid yet."""
        meeting = self.meet(serving(expired()), visiting())
        self.assertEqual(meeting.client_error.alert, "certificate_expired")
        self.assertIn("CN=expired expired 3 days ago", str(meeting.client_error))
        meeting = self.meet(serving(not_yet_valid()), visiting())
        self.assertIn("is valid from", str(meeting.client_error))

    def test_nameless(self) -> None:
        """No alternative name is no name: a common name is not looked at."""
        for party in (nameless(), Party(certificate(HOST, authority(), key=ec_key()), ec_key())):
            meeting = self.meet(serving(party), visiting())
            self.assertIn(f"cannot be verified for {HOST}", str(meeting.client_error))

    def test_wrong_purpose(self) -> None:
        """A client's certificate makes no server."""
        made = certificate(
            "client", authority(), names=[x509.DNSName(HOST)], usage=FOR_CLIENTS, key=ec_key()
        )
        meeting = self.meet(serving(Party(made, ec_key())), visiting())
        self.assertEqual(meeting.client_error.alert, "unsupported_certificate")


@on_both_engines
class MoreThanTheNameTests(OptionsCase):
    """Pins, checks, and the unsafe switch."""

    def test_pins(self) -> None:
        """The leaf's key has to be one of those pinned, where any is."""
        right, wrong = Pin.of(server().certificate), Pin(b"\0" * 32)
        for pins in ([right], [wrong, right]):
            self.meet(serving(), visiting(pins=pins)).at_client  # noqa: B018
        for pins in ([wrong], [Pin.of(ROOTS[0])]):
            meeting = self.meet(serving(), visiting(pins=pins))
            self.assertEqual(
                meeting.client_error.sentence,
                f"the key of CN=server is none of the pinned ones: it is {right}",
            )

    def test_pins_are_not_enough(self) -> None:
        """A pinned key needs a good certificate all the same, for the right host."""
        for party in (stranger(), expired(), named("mail.example.org")):
            pins = [Pin.of(party.certificate)]
            meeting = self.meet(serving(party), visiting(pins=pins))
            self.assertIsNotNone(meeting.client_error)

    def test_check(self) -> None:
        """It sees a chain that is good, leaf first and root last."""
        seen: list[Sequence[x509.Certificate]] = []
        self.meet(serving(), visiting(check=seen.append)).at_client  # noqa: B018
        self.assertEqual([tuple(chain) for chain in seen], [(*server().chain, *ROOTS)])
        seen.clear()
        for party in (stranger(), named("mail.example.org")):
            self.assertIsNotNone(
                self.meet(serving(party), visiting(check=seen.append)).client_error
            )
        self.assertEqual(seen, [])

    def test_check_raises(self) -> None:
        """Whatever it raises is a refusal: this fails closed."""
        for failure in (
            ValueError("no"),
            AssertionError(),
            KeyError("no"),
            StopIteration(),
            MemoryError(),
            SystemExit(0),
            KeyboardInterrupt(),
            GeneratorExit(),
        ):

            def check(chain: Sequence[x509.Certificate], failure: BaseException = failure) -> None:
                raise failure

            meeting = self.meet(serving(), visiting(check=check))
            self.assertIn(
                f"the certificate of CN=server was refused: {failure or type(failure).__name__}",
                str(meeting.client_error),
            )
            self.assertIs(meeting.loop.client.refusal, failure)
            self.assertIsNotNone(meeting.server_error)

    def test_check_is_no_test(self) -> None:
        """What it returns means nothing: only to raise refuses."""
        check: Any = lambda chain: False  # noqa: E731
        self.meet(serving(), visiting(check=check)).at_client  # noqa: B018

    def test_unsafe(self) -> None:
        """Unsafe is unsafe: anybody is let in, and is told apart in nothing else."""
        for party in (stranger(), expired(), nameless(), named("mail.example.org")):
            for versions in ((TLS12, TLS12), (TLS13, TLS13)):
                ours = visiting(unsafe_skip_verification=True)
                self.assertFalse(ours.verifies)
                meeting = self.meet(serving(party, versions=versions), ours).end()
                self.assertEqual(meeting.at_client.peer_certificate, party.certificate)
                self.assertEqual(meeting.hello().server_name, HOST.encode())
                again = self.meet(serving(party, versions=versions), ours)
                self.assertIsNone(again.loop.client_error)

    def test_unsafe_with_anything_else(self) -> None:
        """It goes with nothing that looks as if somebody were verified."""
        options: tuple[dict[str, Any], ...] = (
            {"trust_roots": ROOTS},
            {"trust_roots": ()},
            {"pins": [Pin(b"\0" * 32)]},
            {"check": len},
        )
        for more in options:
            self.refused(
                "unsafe_skip_verification takes any certificate:"
                " trust roots, pins and a check mean nothing then",
                ClientOptions,
                HOST,
                unsafe_skip_verification=True,
                **more,
            )


class PinTests(SynchronousTestCase):
    """How a pin is written."""

    def test_forms(self) -> None:
        """Hex or base64, with the prefix of OpenSSL's people or of curl's."""
        digest = bytes(range(224, 256))
        encoded = base64.b64encode(digest).decode()
        self.assertIn("/", encoded)
        for text in (
            f"sha256:{digest.hex()}",
            f"SHA256:{digest.hex().upper()}",
            f"sha256:{encoded}",
            f"sha256//{encoded}",
            f"  sha256//{encoded}\n",
        ):
            self.assertEqual(Pin.parse(text), Pin(digest))
        self.assertEqual(Pin.parse(str(Pin(digest))), Pin(digest))

    def test_mistakes(self) -> None:
        """Anything else is refused."""
        for text in ("", "sha256:", "sha1:" + "0" * 40, "sha256:" + "0" * 63, "sha256:!!!!", "x"):
            self.assertRaises(ConfigurationError, Pin.parse, text)


def impostor() -> Party:
    """One that goes by the name of the trusted authority."""
    return Party(certificate("authority", None, ca=True), ec_key())


class NobodyByAccidentTests(SynchronousTestCase):
    """Options as they come believe nobody who is not signed for."""

    @settings(max_examples=150, deadline=None)
    @given(
        # Signed by nobody, by an authority that is unknown, or by somebody who is no authority.
        issuer=st.sampled_from(
            [None, authority("nobody"), impostor(), server(), client(), stranger()]
        ),
        names=st.lists(st.sampled_from([HOST, "*.example.org", "127.0.0.1"]), max_size=2),
        is_authority=st.booleans(),
        usage=st.sampled_from([None, FOR_SERVERS, FOR_CLIENTS]),
        along=st.lists(
            st.sampled_from(
                [
                    authority().certificate,
                    authority("nobody").certificate,
                    intermediate().certificate,
                    server().certificate,
                ]
            ),
            max_size=3,
        ),
        host=st.sampled_from([HOST, HOST.upper(), "127.0.0.1"]),
        with_roots=st.booleans(),
        policy=st.sampled_from([INTERMEDIATE, MODERN]),
        alpn=st.sampled_from([(), (b"h2",)]),
        newest=st.sampled_from([TLS12, TLS13]),
        ours=st.sampled_from([None, client()]),
        connections=st.integers(1, 2),
    )
    def test_unknown_authority(
        self,
        issuer: Party | None,
        names: list[str],
        is_authority: bool,
        usage: x509.ExtendedKeyUsage | None,
        along: list[x509.Certificate],
        host: str,
        with_roots: bool,
        policy: Any,
        alpn: tuple[bytes, ...],
        newest: int,
        ours: Party | None,
        connections: int,
    ) -> None:
        """
        Whatever else the server's certificate says, whatever it sends along, however often it
        tries: without the signature of an authority that is trusted no byte goes either way.
        """
        made = certificate(
            "who knows",
            issuer,
            key=ec_key(7),
            names=[*map(general, names)] or None,
            usage=usage,
            ca=is_authority,
        )
        theirs = serving(Party(made, ec_key(7), tuple(along)), versions=(None, newest))
        options = ClientOptions(
            host,
            trust_roots=ROOTS if with_roots else None,
            policy=policy,
            alpn=alpn,
            certificate=None if ours is None else certified(ours),
            sessions=SessionStore(),
        )
        for _ in range(connections):
            loop = Loopback(
                options.clientConnectionForTLS(None), theirs.serverConnectionForTLS(None)
            )
            loop.pump()
            self.assertIsNotNone(loop.client_error)
            self.assertIsNone(loop.client.negotiated)
            self.assertIsNotNone(loop.server_error)
            loop.client.forget()
            self.assertEqual(len(options._sessions), 0)
