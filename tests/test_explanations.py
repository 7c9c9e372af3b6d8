"""Every failed handshake explains itself."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import evolve
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from service_identity import VerificationError
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    TimeoutError,
)

from tests.engines import EngineCase
from tests.explanation_material import PEER, at_server, hello_in, known, showing
from tests.explanation_material import usual_hello as flight
from tests.explanation_table import offered
from tests.explanation_table_wire import all_failing
from tests.tls_material import (
    Party,
    authority,
    certificate,
    client,
    ec_key,
    expired,
    signed_anew,
)
from twisted_bioconn._first_bytes import protocol_of
from twisted_bioconn._sayings import SAYINGS
from twisted_bioconn.access import AccessRefused
from twisted_bioconn.alerts import ALERTS, meaning
from twisted_bioconn.endpoint_strings import CLIENT_OPTIONS, SERVER_OPTIONS
from twisted_bioconn.errors import Direction, PeerError, TruncatedError
from twisted_bioconn.explanations import Cause, Explanation, Side, explain
from twisted_bioconn.hello import ClientHello
from twisted_bioconn.policy import INTERMEDIATE, MODERN
from twisted_bioconn.protocol import AlertReceived
from twisted_bioconn.verify import CertificateRefused, verify_error_string

REFUSED = [("SSL routines", "", "certificate verify failed")]
"""OpenSSL's error queue where a certificate was refused."""


class TableTests(EngineCase):
    """Handshakes that fail, each in its own way."""

    def test_each(self) -> None:
        """Each has its cause, says the facts, and says who has to change what."""
        wrong = []
        for at, each in enumerate(all_failing()):
            found = explain(each.make())
            self.flushLoggedErrors()
            wanted = (each.cause, each.remedy, each.setting)
            if (found.cause, found.remedy, found.setting) != wanted or (
                each.sentence not in found.sentence
            ):
                wrong.append(f"{at}: {each.cause.name} {wanted[1:]} {each.sentence!r}: {found!r}")
        self.assertEqual(wrong, [], "\n".join(wrong))

    def test_every_cause(self) -> None:
        """There is none that cannot come about, and none about which nothing is said."""
        self.assertEqual({each.cause for each in all_failing()}, set(Cause))
        self.assertEqual(set(SAYINGS), set(Cause))

    def test_with_less_known(self) -> None:
        """What is not known makes a sentence poorer, and fails nothing."""
        for each in all_failing():
            failure = each.make()
            self.flushLoggedErrors()
            less: tuple[dict[str, Any], ...] = (
                {"hello": None},
                {"policy": None},
                {"chain": ()},
                {"first_bytes": b""},
                {"settings": {}},
                {"hello": None, "policy": None, "chain": (), "first_bytes": b"", "received": 0},
                {"is_server": not failure.is_server},
            )
            for unknown in less:
                found = explain(evolve(failure, **unknown))
                self.assertTrue(found.sentence, each.cause)
                self.assertNotRegex(str(found), r"\n|Traceback|[{}]|\bNone\b")


class TextTests(EngineCase):
    """What is said."""

    def test_labels(self) -> None:
        """A cause is a label as Prometheus's are, and short."""
        for cause in Cause:
            self.assertRegex(cause.value, r"\A[a-z][a-z0-9_]{2,45}\Z")
            self.assertEqual(str(cause), cause.value)

    def test_sentences(self) -> None:
        """One sentence with no full stop; what to change is a sentence too."""
        for cause, saying in SAYINGS.items():
            for text in (saying.sentence, saying.advice):
                self.assertFalse(text.endswith("."), cause)
                self.assertNotIn(". ", text, cause)
                self.assertNotIn("\n", text)
            self.assertIn("{peer}", saying.sentence)

    def test_settings(self) -> None:
        """The options that are named are options, of the string of an endpoint."""
        options = {*SERVER_OPTIONS, *CLIENT_OPTIONS}
        for each in all_failing():
            if each.setting is not None:
                failure = each.make()
                self.flushLoggedErrors()
                own = SERVER_OPTIONS if failure.is_server else CLIENT_OPTIONS
                self.assertIn(each.setting, own)
        for saying in SAYINGS.values():
            for option in re.findall(r"\b([a-z]+[A-Z]?[A-Za-z]*)=", saying.advice):
                self.assertIn(option, {*options, "sslnegotiation"})

    def test_text(self) -> None:
        """The sentence, then what to change."""
        found = Explanation(Cause.HTTP, "it is so", Side.CLIENT, "plain", "Change it")
        self.assertEqual(str(found), "it is so. Change it.")

    def test_strangers_words(self) -> None:
        """What a peer has chosen stays in its place: no line breaks, no templates, no end."""
        title = "{peer} {0}\n\x1b[31mERROR x does not verify: it was revoked"
        made = certificate(title, None, key=ec_key(7))
        failure = at_server(showing(Party(made, ec_key(7))))
        for chain in (failure.chain, ()):
            found = explain(evolve(failure, chain=chain))
            self.assertEqual(found.cause, Cause.CLIENT_CERTIFICATE_SELF_SIGNED)
            self.assertIn("{peer} {0}\\x0a\\x1b[31mERROR", found.sentence)
            self.assertTrue(str(found).isprintable())
        found = explain(known(ConnectionDone(), b"\x1b[2J{peer}{}", True, peer="\x1b\n"))
        self.assertEqual(found.cause, Cause.GARBAGE)
        self.assertTrue(found.sentence.isprintable())

    def test_long_words(self) -> None:
        """An error of a megabyte makes no line of a megabyte."""
        for kind in (PeerError, CertificateRefused, ValueError):
            error = kind("x" * 10**6)
            self.assertLess(len(str(explain(known(error, b"", True)))), 1500)

    def test_looser_policy(self) -> None:
        """Where another policy might take the client, that is said; where none would, not."""
        failure = known(
            PeerError("", None, None, [("", "", "unsupported protocol")]), b"", True, policy=MODERN
        )
        self.assertIn("Update the client, or set policy=intermediate.", str(explain(failure)))
        failure = evolve(failure, policy=INTERMEDIATE)
        self.assertIn("Update the client.", str(explain(failure)))

    def test_what_would_do(self) -> None:
        """Of groups and signatures it is said which ones would do."""
        advice = explain(offered(groups=["secp521r1"])).advice
        self.assertEqual(
            advice, "Have the client offer one of X25519MLKEM768, X25519, secp256r1, secp384r1"
        )

    def test_nothing_known_of_the_bytes(self) -> None:
        """OpenSSL's word that this is no TLS is taken for it, where the bytes are not known."""
        error = PeerError("", None, None, [("SSL routines", "", "wrong version number")])
        self.assertEqual(explain(known(error, b"", True)).cause, Cause.GARBAGE)
        self.assertEqual(explain(known(error, b"", False)).cause, Cause.SERVER_PLAIN_OTHER)
        error = PeerError("", None, None, [("SSL routines", "", "http request")])
        self.assertEqual(explain(known(error, b"", True)).cause, Cause.HTTP)


class CertificateTests(EngineCase):
    """What is said of certificates."""

    def test_days(self) -> None:
        """How long ago it has expired, at the time when it failed."""
        failure = at_server(showing(expired()))
        end = expired().certificate.not_valid_after_utc
        for after, said in (
            (timedelta(seconds=5), "less than a day ago"),
            (timedelta(days=1, hours=3), "1 day ago"),
            (timedelta(days=100), "100 days ago"),
        ):
            self.assertIn(said, explain(evolve(failure, now=end + after)).sentence)

    def test_codes(self) -> None:
        """
        Of every number of OpenSSL's something is said, in a full handshake and for a session, with
        the certificate at hand and without.
        """
        for is_server in (True, False):
            for code in range(2, 100):
                words = verify_error_string(code)
                causes = set()
                for text in ("does not verify", "does not verify any more"):
                    sentence = f"the certificate of CN=client {text}: {words}"
                    for error in (
                        PeerError(sentence, queue=REFUSED),
                        CertificateRefused(sentence, code),
                    ):
                        for chain in ((), client().chain):
                            found = explain(known(error, b"", is_server, chain=chain))
                            self.assertTrue(
                                found.cause.value.startswith(
                                    "client_certificate" if is_server else "server_certificate"
                                )
                            )
                            causes.add(found.cause)
                # 47 and 48 are said by the same words.
                self.assertEqual(len(causes), 1, (code, causes))

    def test_rules(self) -> None:
        """A refusal by a rule, after the handshake too, is one; service_identity's is a name's."""
        found = explain(known(AccessRefused("no rule has it"), flight(), True))
        self.assertEqual(found.cause, Cause.CLIENT_CERTIFICATE_RULE)
        found = explain(known(VerificationError([]), b"\x16\3\3", False))
        self.assertEqual(found.cause, Cause.SERVER_CERTIFICATE_WRONG_HOST)
        found = explain(known(VerificationError([]), flight(), True))
        self.assertEqual(found.cause, Cause.CLIENT_CERTIFICATE_RULE)

    def test_refused_cause(self) -> None:
        """The number of a refusal may be that of what it was raised from."""
        error = CertificateRefused("the certificate of CN=client does not verify: it was revoked")
        error.__cause__ = CertificateRefused("", 23)
        self.assertEqual(explain(known(error, b"", True)).cause, Cause.CLIENT_CERTIFICATE_REVOKED)

    def test_odd_date(self) -> None:
        """A date that Python cannot hold is left out."""
        made = certificate("x", authority(), end=datetime(2050, 1, 1, tzinfo=UTC))
        der = signed_anew(made, b"20500101", b"00000101", authority())
        chain = [x509.load_der_x509_certificate(der)]
        error = PeerError("the certificate of CN=x does not verify: it has expired", queue=REFUSED)
        found = explain(known(error, b"", True, chain=chain))
        self.assertEqual(found.cause, Cause.CLIENT_CERTIFICATE_EXPIRED)
        self.assertIn("the certificate of CN=x, of the client", found.sentence)

    def test_odd_extensions(self) -> None:
        """Extensions that cannot be read are none."""
        names = x509.SubjectAlternativeName([x509.DNSName("x")])
        others = x509.IssuerAlternativeName([x509.DNSName("x")])
        made = certificate("x", authority("nobody"), extensions=[(names, False), (others, False)])
        der = signed_anew(made, b"\x55\x1d\x12", b"\x55\x1d\x11", authority("nobody"))
        chain = [x509.load_der_x509_certificate(der)]
        with self.assertRaises(x509.DuplicateExtension):
            chain[0].extensions  # noqa: B018
        for code, cause in (
            (20, Cause.CLIENT_CERTIFICATE_UNKNOWN_AUTHORITY),
            (26, Cause.CLIENT_CERTIFICATE_WRONG_PURPOSE),
        ):
            words = verify_error_string(code)
            error = PeerError(f"the certificate of CN=x does not verify: {words}", queue=REFUSED)
            failure = known(error, b"", True, chain=chain, settings={"clientAuthorities": "x.pem"})
            self.assertEqual(explain(failure).cause, cause)

    def test_odd_names(self) -> None:
        """An issuer whose name cannot be read is called an issuer."""
        made = certificate("x", authority("nobody"))
        der = signed_anew(made, b"\x0c\x06nobody", b"\x0c\x06nob\xffdy", authority("nobody"))
        chain = [x509.load_der_x509_certificate(der)]
        error = PeerError(
            f"the certificate of CN=x does not verify: {verify_error_string(20)}", queue=REFUSED
        )
        trusted = [authority().certificate]
        failure = known(error, b"", True, chain=chain, settings={"clientAuthorities": trusted})
        found = explain(failure)
        self.assertEqual(found.cause, Cause.CLIENT_CERTIFICATE_UNKNOWN_AUTHORITY)
        self.assertIn("its issuer signed it", found.sentence)

    def test_sentences(self) -> None:
        """Refusals that no number tells."""
        for sentence, is_server, cause in (
            ("the certificate of CN=x was refused: no", True, Cause.CLIENT_CERTIFICATE_RULE),
            ("the certificate of CN=x was refused: no", False, Cause.SERVER_CERTIFICATE_RULE),
            ("CN=x does not verify: for some reason", True, Cause.CLIENT_CERTIFICATE_INVALID),
            ("", False, Cause.SERVER_CERTIFICATE_INVALID),
        ):
            error = PeerError(sentence, queue=REFUSED)
            self.assertEqual(explain(known(error, b"", is_server)).cause, cause)
        error = PeerError("the peer's certificate cannot be read: x")
        self.assertEqual(explain(known(error, b"", True)).cause, Cause.CERTIFICATE_MALFORMED)


class HelloTests(EngineCase):
    """What can be told of a hello that nobody has read."""

    def test_ciphers(self) -> None:
        """In TLS 1.2 a certificate may fit by its ciphers, and fail by its signatures."""
        hello = ClientHello(
            versions=(0x0303,),
            cipher_suites=(0xC02B, 0xC02F, 0x00FF),
            signature_algorithms=(0x0201, 0x0203),
        )
        error = PeerError("", queue=[("SSL routines", "", "no shared cipher")])
        found = explain(known(error, b"", True, hello=hello))
        self.assertEqual(found.cause, Cause.NO_SHARED_SIGNATURE)
        self.assertIn("has: rsa_pkcs1_sha1, ecdsa_sha1", found.sentence)
        many = evolve(hello, cipher_suites=(*range(0x30, 0x40), 0x00FF))
        found = explain(known(error, b"", True, hello=many))
        self.assertEqual(found.cause, Cause.NO_SHARED_CIPHER)
        self.assertIn("0x0030, 0x0031, 0x0032, DHE-RSA-AES128-SHA, 0x0034, AES", found.sentence)
        self.assertTrue(found.sentence.endswith(" and 10 more"))

    def test_old(self) -> None:
        """A client older than TLS 1.2 names its version in its first bytes."""
        for each in all_failing():
            if each.cause is Cause.CLIENT_TOO_OLD and "TLS 1.0" in each.sentence:
                found = explain(evolve(each.make(), hello=None))
                self.assertIn(each.sentence, found.sentence)

    def test_whole(self) -> None:
        """Whether all of a hello has come is known by its length, however it is cut."""
        data = flight()
        for received, cause in (
            (1, Cause.CLOSED_IN_HELLO),
            (8, Cause.CLOSED_IN_HELLO),
            (len(data) - 1, Cause.CLOSED_IN_HELLO),
            (len(data), Cause.CLOSED_AFTER_HELLO),
            (len(data) + 100, Cause.CLOSED_AFTER_HELLO),
        ):
            failure = known(ConnectionDone(), data[:received], True, received=received, hello=None)
            self.assertEqual(explain(failure).cause, cause, received)

    def test_alerts(self) -> None:
        """There is a cause for each alert of TLS, and it is never taken for another."""
        for name in ALERTS.values():
            error = AlertReceived(meaning(name), name, Direction.RECEIVED)
            found = explain(known(error, flight(), True))
            wanted = Cause.__members__.get(f"ALERT_{name.upper()}", Cause.ALERT_OTHER)
            self.assertIs(found.cause, wanted)

    def test_ends(self) -> None:
        """The same end comes in several forms."""
        eof = PeerError("", None, None, [("", "", "unexpected eof while reading")])
        for error in (
            TruncatedError("the connection ended in mid-handshake"),
            ConnectionLost("the connection ended in mid-handshake"),
            ConnectionDone(),
            eof,
        ):
            self.assertEqual(explain(known(error, flight(), True)).cause, Cause.CLOSED_AFTER_HELLO)
        self.assertEqual(
            explain(known(ConnectionLost(), flight(), True)).cause, Cause.RESET_AFTER_HELLO
        )


REASONS = [
    "",
    "bad length",
    "certificate verify failed",
    "no application protocol",
    "no shared cipher",
    "no suitable key share",
    "no suitable signature algorithm",
    "unsupported protocol",
    "what nobody knows",
]
OPTIONS = """
    acme clientAuthorities handshakeTimeout policy serverName sslmethod timeout trustRoots
""".split()

ERRORS = st.one_of(
    st.sampled_from(
        [
            TimeoutError("no handshake within 10 seconds"),
            ConnectionLost(),
            ConnectionDone(),
            ConnectionAborted(),
            TruncatedError("the connection ended in mid-handshake"),
            VerificationError([]),
            PeerError(""),
            ValueError(),
            KeyboardInterrupt(),
        ]
    ),
    st.builds(
        PeerError,
        st.text(max_size=30),
        st.sampled_from([None, *ALERTS.values(), "no such alert"]),
        st.sampled_from([None, *Direction]),
        st.lists(
            st.tuples(
                st.sampled_from(["SSL routines", "asn1 encoding routines"]),
                st.just(""),
                st.sampled_from(REASONS),
            ),
            max_size=3,
        ),
    ),
    st.builds(CertificateRefused, st.text(max_size=30), st.integers(-1, 200)),
)


class AnyTests(EngineCase):
    """Whatever has happened."""

    @settings(max_examples=400, deadline=None)
    @given(
        error=ERRORS,
        came=st.one_of(
            st.binary(max_size=80),
            st.builds(lambda size: flight()[:size], st.integers(0, 2000)),
        ),
        is_server=st.booleans(),
        hello=st.sampled_from([None, hello_in(flight())]),
        policy=st.sampled_from([None, INTERMEDIATE, MODERN]),
        chain=st.sampled_from([(), client().chain, expired().chain]),
        alpn=st.lists(st.binary(min_size=1, max_size=9), max_size=3).map(tuple),
        options=st.dictionaries(
            st.sampled_from(OPTIONS),
            st.one_of(st.text(max_size=9), st.floats(), st.none(), st.tuples(st.integers())),
        ),
        waited=st.floats(0, 1e6),
    )
    def test_any(self, error: BaseException, came: bytes, is_server: bool, **more: Any) -> None:
        """There is an explanation in one line, which can be printed and says who it was."""
        more["settings"] = more.pop("options")
        found = explain(known(error, came, is_server, **more))
        self.assertIsInstance(found.cause, Cause)
        self.assertTrue(str(found).isprintable())
        self.assertIn(PEER, found.sentence)

    @settings(max_examples=500, deadline=None)
    @given(st.binary(max_size=64))
    def test_first_bytes(self, first: bytes) -> None:
        """Whatever comes first is looked at, and nothing that is TLS is taken for anything else."""
        protocol_of(first)
        self.assertIsNone(protocol_of(b"\x16\3\1" + first))

    def test_hellos(self) -> None:
        """No client's hello is taken for another protocol."""
        for data in (flight(), flight()[:3], b"\x16\3\0\0\x2d", b"\x15\3\1\0\2"):
            self.assertIsNone(protocol_of(data))
