"""Sessions: resumed where nothing has changed, nowhere else, and judged again when they are."""

from __future__ import annotations

import gc
import itertools
import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import patch
from weakref import ref

from attrs import evolve
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL
from OpenSSL.crypto import X509StoreFlags
from twisted.trial.unittest import SynchronousTestCase

from tests.context_material import (
    ROOTS,
    Meeting,
    OptionsCase,
    Speaking,
    certified,
    layer,
    serving,
    visiting,
)
from tests.engines import on_both_engines
from tests.tls_material import (
    DAY,
    FOR_CLIENTS,
    HOST,
    NOW,
    TLS12,
    TLS13,
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
    rsa_server,
    server,
)
from twisted_bioconn import _realm as realm_module
from twisted_bioconn import context as context_module
from twisted_bioconn._sessions import FOR_EACH
from twisted_bioconn.certificates.loading import issued
from twisted_bioconn.context import ClientCertificate, ClientOptions, ServerOptions, SessionStore
from twisted_bioconn.policy import INTERMEDIATE, MODERN
from twisted_bioconn.verify import Pin, TrustStore

VERSIONS = ((TLS12, TLS12), (TLS13, TLS13))
OTHER = "other.example.org"


def two_names() -> Party:
    """A server for two hosts."""
    names = [x509.DNSName(HOST), x509.DNSName(OTHER)]
    return Party(certificate("two names", authority(), key=ec_key(1), names=names), ec_key(1))


def chained_client() -> Party:
    """A client with an intermediate."""
    made = certificate("far client", intermediate(), key=ec_key(2), usage=FOR_CLIENTS)
    return Party(made, ec_key(2), (intermediate().certificate,))


def trust_store_of(options: ServerOptions | ClientOptions) -> TrustStore:
    """Where an end looks when it judges a resumed session."""
    return (
        options._trust_store if isinstance(options, ClientOptions) else options._realm._trust_store
    )


def revoke(options: ServerOptions | ClientOptions, party: Party) -> None:
    """Let the authority have revoked this party's certificate, for an end that verifies."""
    gone = (
        x509.RevokedCertificateBuilder()
        .serial_number(party.certificate.serial_number)
        .revocation_date(NOW)
        .build()
    )
    revoked = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority().certificate.subject)
        .last_update(NOW - DAY)
        .next_update(NOW + DAY)
        .add_revoked_certificate(gone)
        .sign(authority().key, SHA256())
    )
    trusted = trust_store_of(options)
    trusted.store.add_crl(revoked)
    trusted.store.set_flags(X509StoreFlags.CRL_CHECK)
    trusted.changed()


_numbers = itertools.count()


def visiting_alone(**options: Any) -> ClientOptions:
    """
    Options of a client that share their context, and so their trust store, with no others: these
    are to be changed.
    """
    unique = certificate(f"nobody {next(_numbers)}", None, ca=True)
    return visiting(trust_roots=[*ROOTS, unique], **options)


def later(options: ServerOptions | ClientOptions, days: int) -> None:
    """Let it be so many days later for an end that verifies."""
    trusted = trust_store_of(options)
    trusted.store.set_time((NOW + timedelta(days=days)).replace(tzinfo=None))
    trusted.changed()


class Fickle:
    """A check that lets everybody in until it changes its mind."""

    def __init__(self) -> None:
        self.seen: list[tuple[x509.Certificate, ...]] = []
        self._turned = False

    def turn(self) -> None:
        self._turned = True

    def __call__(self, chain: Sequence[x509.Certificate]) -> None:
        self.seen.append(tuple(chain))
        if self._turned:
            raise PermissionError("not any more")


class SessionCase(OptionsCase):
    """A test with a first connection and a second."""

    def assertResumed(self, meeting: Meeting) -> None:
        """Both ends resumed, and say so."""
        self.assertEqual((meeting.at_client.resumed, meeting.at_server.resumed), (True, True))

    def assertFull(self, meeting: Meeting) -> None:
        """Both ends went all the way."""
        self.assertEqual((meeting.at_client.resumed, meeting.at_server.resumed), (False, False))


@on_both_engines
class ResumptionTests(SessionCase):
    """Where sessions are resumed."""

    def test_again_and_again(self) -> None:
        """Each connection leaves a session for the next, with and without client certificates."""
        for versions in VERSIONS:
            for ours in (None, client(), chained_client()):
                server_options = serving(
                    chained_server(),
                    versions=versions,
                    client_authorities=() if ours is None else ROOTS,
                )
                client_options = visiting(certificate=None if ours is None else certified(ours))
                self.assertFull(self.meet(server_options, client_options).end())
                for _ in range(3):
                    meeting = self.meet(server_options, client_options).end()
                    self.assertResumed(meeting)
                    self.assertEqual(
                        meeting.at_client.peer_certificate, chained_server().certificate
                    )
                    self.assertEqual(
                        meeting.at_server.peer_certificate,
                        None if ours is None else ours.certificate,
                    )

    def test_options_made_anew(self) -> None:
        """
        An endpoint string makes its options each time; those that say the same share sessions.
        """
        sessions = SessionStore()
        options = serving(client_authorities=ROOTS)
        pins = [Pin.of(server().certificate), Pin.of(rsa_server().certificate)]
        for number in range(3):
            ours = visiting(
                HOST.upper() + "." * (number % 2),
                sessions=sessions,
                certificate=certified(client()),
                pins=pins[:: (-1) ** number],
                trust_roots=[*ROOTS, authority("more").certificate][:: (-1) ** number],
            )
            meeting = self.meet(options, ours).end()
            self.assertEqual(meeting.at_client.resumed, number > 0)

    def test_one_store_for_all(self) -> None:
        """Where no store is given there is one for the process."""
        options = serving()
        self.patch(context_module, "_SESSIONS", SessionStore())
        for resumed in (False, True):
            meeting = self.meet(options, ClientOptions(HOST, trust_roots=ROOTS)).end()
            self.assertEqual(meeting.at_client.resumed, resumed)

    def test_store_of_a_check(self) -> None:
        """
        Nobody else can use the sessions of one who has a check of its own, so they, and the context
        that they keep, go with it.
        """
        theirs = serving()
        contexts = []
        for _ in range(3):
            ours = ClientOptions(HOST, trust_roots=ROOTS, check=lambda chain: None)
            contexts.append(ref(ours._context))
            self.assertFull(self.meet(theirs, ours).end())
            self.assertResumed(self.meet(theirs, ours.for_host(HOST)).end())
        del ours
        gc.collect()
        self.assertEqual([each() for each in contexts], [None] * 3)

    def test_context_of_a_session(self) -> None:
        """Options that are gone leave a session, and the context that it needs."""
        sessions = SessionStore()
        theirs = serving()
        for resumed in (False, True):
            meeting = self.meet(theirs, visiting(sessions=sessions)).end()
            self.assertEqual(meeting.at_client.resumed, resumed)
            del meeting
            gc.collect()

    def test_new_certificate(self) -> None:
        """A session outlives the certificate that it began with: the ticket key stays."""
        for versions in VERSIONS:
            server_options = serving(versions=versions, client_authorities=ROOTS)
            ours = visiting(certificate=certified(client()))
            self.meet(server_options, ours).end()
            server_options.use(certified(rsa_server()))
            self.assertResumed(self.meet(server_options, ours).end())
            server_options.use(certified(chained_server()))
            self.assertResumed(self.meet(server_options, ours).end())

    def test_cut(self) -> None:
        """A connection that was cut after some bytes leaves its session all the same."""
        server_options, ours = serving(), visiting()
        meeting = self.meet(server_options, ours)
        meeting.loop.client.forget()
        self.assertResumed(self.meet(server_options, ours))

    def test_only_once(self) -> None:
        """A session is offered to the server once, though it be the only one."""
        server_options, ours = serving(), visiting()
        self.meet(server_options, ours).end()
        first = ours.clientConnectionForTLS(layer())
        second = ours.clientConnectionForTLS(layer())
        self.assertResumed(self.meet(server_options, first))
        self.assertFull(self.meet(server_options, second))

    def test_server_restarted(self) -> None:
        """A server that does not know the ticket gets a full handshake."""
        for versions in VERSIONS:
            ours = visiting()
            self.meet(serving(versions=versions), ours).end()
            self.assertFull(self.meet(serving(versions=versions), ours))

    def test_server_of_another_version(self) -> None:
        """A session of one version does not stand in the way of the other."""
        for one, other in (VERSIONS, VERSIONS[::-1]):
            ours = visiting()
            self.meet(serving(versions=one), ours).end()
            self.assertFull(self.meet(serving(versions=other), ours))

    def test_no_ticket(self) -> None:
        """A client of TLS 1.2 that takes no tickets resumes by the server's cache."""
        made = context(True, trusted=ROOTS, versions=(TLS12, TLS12))
        made.set_options(SSL.OP_NO_TICKET)
        options = serving()
        first = client_connection(made)
        self.meet(options, first).end()
        second = client_connection(made)
        session = first.get_session()
        assert session is not None
        second.set_session(session)
        self.assertTrue(self.meet(options, second).at_server.resumed)


@on_both_engines
class ApartTests(SessionCase):
    """Where a session must not be resumed: another name, another trust."""

    def test_apart(self) -> None:
        """
        Whatever makes a client believe more, or other things, keeps a session to itself.
        """
        more = [*ROOTS, authority("more").certificate]
        pin = Pin.of(two_names().certificate)
        different: list[tuple[str, dict[str, Any]]] = [
            (HOST, {}),
            (OTHER, {}),
            (HOST, {"server_name": OTHER, "pins": [pin]}),
            (HOST, {"trust_roots": more}),
            (HOST, {"certificate": certified(client())}),
            (HOST, {"certificate": certified(chained_client())}),
            (HOST, {"pins": [pin]}),
            (HOST, {"pins": [pin, Pin(b"\0" * 32)]}),
            (HOST, {"unsafe_skip_verification": True}),
            (HOST, {"policy": MODERN}),
            (HOST, {"policy": evolve(INTERMEDIATE, groups=("X25519",))}),
            (HOST, {"alpn": [b"h2"]}),
            (HOST, {"alpn": [b"h2", b"h3"]}),
            (HOST, {"alpn": [b"h2h3"]}),
            (HOST, {"check": lambda chain: None}),
            (HOST, {"check": lambda chain: None}),
        ]
        sessions = SessionStore()
        server_options = serving(
            two_names(),
            client_authorities=ROOTS,
            client_certificate=ClientCertificate.VERIFY_IF_GIVEN,
        )
        clients = []
        for host, options in different:
            if "unsafe_skip_verification" not in options:
                options.setdefault("trust_roots", ROOTS)
            clients.append(ClientOptions(host, sessions=sessions, **options))
        for ours in clients:
            self.assertFull(self.meet(server_options, ours).end())
        self.assertEqual(len(sessions), len(clients))
        for ours in clients:
            self.assertResumed(self.meet(server_options, ours).end())

    def test_system_is_not_the_same_list(self) -> None:
        """Trust in the system's roots is apart from trust in a list, and from no trust at all."""
        file = self.mktemp()
        with open(file, "wb") as out:
            out.write(pem(ROOTS[0]))
        sessions = SessionStore()
        theirs = serving()
        with patch.dict(os.environ, SSL_CERT_FILE=file):
            clients = [
                ClientOptions(HOST, sessions=sessions),
                ClientOptions(HOST, sessions=sessions, trust_roots=ROOTS),
                ClientOptions(HOST, sessions=sessions, unsafe_skip_verification=True),
            ]
        for ours in clients:
            self.assertFull(self.meet(theirs, ours).end())
        # The system's roots as they are now, which do not have this one.
        ours = ClientOptions(HOST, sessions=sessions)
        self.assertEqual(self.meet(theirs, ours).client_error.alert, "unknown_ca")

    def test_application_protocols(self) -> None:
        """Nor is one resumed by an application that speaks something else."""
        server_options, ours = serving(), visiting()
        names = (Speaking(b"a"), Speaking(b"a", b"b"), None)
        for application in names:
            self.assertFull(self.meet(server_options, ours, None, application).end())
        for application in names:
            self.assertResumed(self.meet(server_options, ours, None, application).end())

    def test_open_and_protected(self) -> None:
        """
        A session of an open server opens no protected one, though name, key and certificate be the
        same (as nginx's CVE-2025-23419 did).
        """
        for versions in VERSIONS:
            ours = visiting()
            self.meet(serving(versions=versions), ours).end()
            protected = serving(versions=versions, client_authorities=ROOTS)
            meeting = self.meet(protected, ours)
            self.assertIn("we want a client certificate", str(meeting.server_error))

    def test_refused(self) -> None:
        """A refused handshake leaves no session."""
        for ours, theirs in (
            (visiting(trust_roots=[authority("nobody").certificate]), serving()),
            (visiting(), serving(client_authorities=ROOTS)),
        ):
            meeting = self.meet(theirs, ours)
            self.assertTrue(meeting.loop.client_error or meeting.loop.server_error)
            meeting.end()
            self.assertEqual(len(ours._sessions), 0)


@on_both_engines
class JudgedAgainTests(SessionCase):
    """
    OpenSSL verifies nothing when it resumes.  We do, and what was good when the session began may
    not be good any more.
    """

    def second(self, theirs: ServerOptions, ours: ClientOptions, change: Callable[[], Any]) -> Any:
        """Connect, let something change, and connect with the session of before."""
        self.meet(theirs, ours).end()
        change()
        loop = self.connectors(
            ours.clientConnectionForTLS(layer()), theirs.serverConnectionForTLS(layer())
        )
        loop.pump()
        # It was offered and taken: what refuses now is not the first verification.
        self.assertTrue(loop.client._engine.resumed())
        for end in (loop.client, loop.server):
            if end.error is None:
                end.write(b"secret")
        loop.pump()
        return loop

    def test_server_expired(self) -> None:
        """The server's certificate has expired since."""
        for versions in VERSIONS:
            ours = visiting_alone()
            loop = self.second(serving(versions=versions), ours, partial(later, ours, 31))
            self.assertEqual(
                loop.client_error.sentence,
                "the certificate of CN=server does not verify any more: it has expired",
            )
            self.assertEqual(loop.received_by_client, b"")

    def test_client_expired(self) -> None:
        """The client's has."""
        for versions in VERSIONS:
            for party in (client(), chained_client()):
                theirs = serving(versions=versions, client_authorities=ROOTS)
                ours = visiting(certificate=certified(party))
                loop = self.second(theirs, ours, partial(later, theirs, 31))
                self.assertIn("does not verify any more: it has expired", str(loop.server_error))
                self.assertEqual(loop.received_by_server, b"")
                self.assertEqual(loop.received_by_client, b"")

    def test_server_revoked(self) -> None:
        """The server's authority has revoked its certificate since."""
        for versions in VERSIONS:
            ours = visiting_alone()
            loop = self.second(serving(versions=versions), ours, partial(revoke, ours, server()))
            self.assertIn("does not verify any more: it was revoked", str(loop.client_error))
            self.assertEqual(loop.received_by_client, b"")

    def test_client_revoked(self) -> None:
        """The client's has."""
        for versions in VERSIONS:
            theirs = serving(versions=versions, client_authorities=ROOTS)
            ours = visiting(certificate=certified(client()))
            loop = self.second(theirs, ours, partial(revoke, theirs, client()))
            self.assertIn("does not verify any more: it was revoked", str(loop.server_error))
            self.assertEqual(loop.received_by_server, b"")

    def test_authority_removed(self) -> None:
        """
        Options with an authority less are other options: the session of before is not even taken,
        and the full handshake is refused.
        """
        one, other = authority("one").certificate, ROOTS[0]
        for versions in VERSIONS:
            ours = visiting(certificate=certified(client()))
            self.meet(serving(versions=versions, client_authorities=[one, other]), ours).end()
            meeting = self.meet(serving(versions=versions, client_authorities=[one]), ours)
            self.assertEqual(meeting.server_error.alert, "unknown_ca")
            sessions = SessionStore()
            self.meet(serving(), visiting(trust_roots=[one, other], sessions=sessions)).end()
            meeting = self.meet(serving(), visiting(trust_roots=[one], sessions=sessions))
            self.assertEqual(meeting.client_error.alert, "unknown_ca")

    def test_pins_changed(self) -> None:
        """Other pins are other trust: full handshake, and refused."""
        sessions = SessionStore()
        theirs = serving()
        self.meet(theirs, visiting(sessions=sessions, pins=[Pin.of(server().certificate)])).end()
        meeting = self.meet(theirs, visiting(sessions=sessions, pins=[Pin(b"\1" * 32)]))
        self.assertIn("the key of CN=server is none of the pinned ones", str(meeting.client_error))

    def test_check_of_client(self) -> None:
        """A client's check has changed its mind; it sees the same chain as the first time."""
        for versions in VERSIONS:
            check = Fickle()
            loop = self.second(
                serving(chained_server(), versions=versions), visiting(check=check), check.turn
            )
            self.assertEqual(
                loop.client_error.sentence,
                "the certificate of CN=chained server was refused: not any more",
            )
            whole = (*chained_server().chain, *ROOTS)
            self.assertEqual(check.seen, [whole, whole])
            self.assertEqual(loop.received_by_client, b"")

    def test_check_of_server(self) -> None:
        """A server's has, and it sees the whole chain again, of which the leaf alone was left."""
        for party in (client(), chained_client()):
            for versions in VERSIONS:
                check = Fickle()
                theirs = serving(versions=versions, client_authorities=ROOTS, check=check)
                loop = self.second(theirs, visiting(certificate=certified(party)), check.turn)
                self.assertIn("was refused: not any more", str(loop.server_error))
                whole = (*party.chain, *ROOTS)
                self.assertEqual(check.seen, [whole, whole])
                self.assertEqual(loop.received_by_server, b"")

    def test_nothing_new(self) -> None:
        """A server of whom all is known is not verified again; one with a check of ours is."""
        looked: list[object] = []
        again = context_module._Verdict.again

        def look(self: Any, chain: Sequence[x509.Certificate]) -> None:
            looked.append(chain)
            again(self, chain)

        self.patch(context_module._Verdict, "again", look)
        theirs = serving()
        for options, looks in (({}, 0), ({"check": lambda chain: None}, 2)):
            looked.clear()
            ours = visiting_alone(**options)
            self.assertFull(self.meet(theirs, ours).end())
            for _ in range(2):
                self.assertResumed(self.meet(theirs, ours).end())
            self.assertEqual(len(looked), looks)

    def test_end_of_what_is_known(self) -> None:
        """What is known of a server is good as long as its certificates are."""
        looked: list[object] = []
        self.patch(context_module._Verdict, "again", lambda self, chain: looked.append(chain))
        theirs, ours = serving(), visiting_alone()
        self.assertFull(self.meet(theirs, ours).end())
        ends = server().certificate.not_valid_after_utc.timestamp()
        for now, looks in ((ends - 1, 0), (ends + 1, 1)):
            self.patch(time, "time", lambda now=now: now)
            self.assertResumed(self.meet(theirs, ours).end())
            self.assertEqual(len(looked), looks)

    def test_first_verification_alone_is_fooled(self) -> None:
        """What these tests rest on: without the second look the session would be good."""
        theirs, ours = serving(), visiting_alone()
        self.patch(context_module._Verdict, "again", lambda self, chain: None)
        loop = self.second(theirs, ours, partial(later, ours, 31))
        self.assertIsNone(loop.client_error)
        self.assertEqual(loop.received_by_client, b"secret")

    def test_many_clients(self) -> None:
        """
        A server need not remember each client to judge it again: those who signed for them are
        few.
        """
        self.patch(realm_module, "_KEPT_ISSUERS", 2)
        theirs = serving(client_authorities=ROOTS)
        clients = []
        for number in range(20):
            made = certificate(f"{number}", intermediate(), key=ec_key(2), usage=FOR_CLIENTS)
            party = Party(made, ec_key(2), (intermediate().certificate,))
            clients.append(visiting(certificate=certified(party)))
        for resumed in (False, True):
            for ours in clients:
                meeting = self.meet(theirs, ours).end()
                self.assertEqual(meeting.at_server.resumed, resumed)

    def test_issuers_are_bounded(self) -> None:
        """
        However many sign, no more than so many are remembered.  Who was forgotten is refused as
        long as the session is tried, never let in unlooked at.
        """
        self.patch(realm_module, "_KEPT_ISSUERS", 4)
        theirs = serving(client_authorities=ROOTS)
        clients = []
        for number in range(8):
            key = ec_key(10 + number)
            middle = certificate(f"middle {number}", authority(), key=key, ca=True)
            leaf = certificate("client", Party(middle, key), key=ec_key(2), usage=FOR_CLIENTS)
            ours = visiting(certificate=certified(Party(leaf, ec_key(2), (middle,))))
            self.meet(theirs, ours).end()
            clients.append(ours)
        self.assertEqual(len(theirs._realm._issuers._by_name), 4)
        self.assertIn("is not among", str(self.meet(theirs, clients[0]).server_error))
        self.assertFull(self.meet(theirs, clients[0]).end())
        self.assertResumed(self.meet(theirs, clients[0]))

    def test_new_intermediate(self) -> None:
        """An intermediate that was made anew under its name does not hide the old one."""
        theirs = serving(client_authorities=ROOTS)
        clients = []
        for number in range(3):
            key = ec_key(10 + number)
            middle = certificate("the middle", authority(), key=key, ca=True)
            leaf = certificate("client", Party(middle, key), key=ec_key(2), usage=FOR_CLIENTS)
            clients.append(visiting(certificate=certified(Party(leaf, ec_key(2), (middle,)))))
        for resumed in (False, True):
            for ours in clients:
                meeting = self.meet(theirs, ours).end()
                self.assertEqual(meeting.at_server.resumed, resumed)


@on_both_engines
class OtherHostTests(SessionCase):
    """C{for_host}: one context for many hosts."""

    def test_verified(self) -> None:
        """Each is verified for itself, asks for its own name, and keeps its own sessions."""
        ours = visiting(certificate=certified(client()), check=lambda chain: None)
        other = ours.for_host(OTHER.upper())
        self.assertIs(other._context, ours._context)
        self.assertEqual((ours.host, other.host), (HOST, OTHER))
        theirs = serving(two_names(), client_authorities=ROOTS)
        for options in (ours, other):
            meeting = self.meet(theirs, options).end()
            self.assertFull(meeting)
            self.assertEqual(meeting.hello().server_name, options.host.encode())
        for options in (ours, other, ours.for_host(OTHER)):
            self.assertResumed(self.meet(theirs, options).end())
        meeting = self.meet(serving(client_authorities=ROOTS), other.for_host(OTHER))
        self.assertIn(f"is not for {OTHER}", str(meeting.client_error))

    def test_no_host(self) -> None:
        """What is no host is refused."""
        self.refused("'a b' is no host name", visiting().for_host, "a b")


class IssuerTests(SynchronousTestCase):
    """Who may have signed for whom."""

    def test_issued(self) -> None:
        """Who has signed, and nobody else of the same name."""
        leaf, issuer = chained_client().certificate, intermediate().certificate
        impostor = certificate("intermediate", None, ca=True)
        self.assertTrue(issued(issuer, leaf))
        self.assertFalse(issued(impostor, leaf))
        self.assertFalse(issued(ROOTS[0], leaf))

    def test_unknown_signature(self) -> None:
        """Of a kind of signature that is not known here OpenSSL has the last word."""
        leaf: Any = Unreadable()
        self.assertTrue(issued(ROOTS[0], leaf))


class Unreadable:
    """A certificate whose signature is of a kind that cryptography does not know."""

    issuer = ROOTS[0].subject

    @property
    def signature_hash_algorithm(self) -> None:
        raise UnsupportedAlgorithm("signature")


class SessionStoreTests(SynchronousTestCase):
    """The store by itself."""

    def setUp(self) -> None:
        self.sessions = [object() for _ in range(5)]

    def test_once(self) -> None:
        """What is taken is gone."""
        store: Any = SessionStore()
        store.put(b"a", self.sessions[0])
        self.assertEqual(len(store), 1)
        self.assertIs(store.take(b"a"), self.sessions[0])
        self.assertIsNone(store.take(b"a"))
        self.assertEqual(len(store), 0)

    def test_newest(self) -> None:
        """Of several the newest is given out first; so many are kept as are good for anything."""
        store: Any = SessionStore()
        for session in self.sessions * 5:
            store.put(b"a", session)
        self.assertEqual(len(store), FOR_EACH)
        for number in range(FOR_EACH):
            self.assertIs(store.take(b"a"), self.sessions[-1 - number % 5])
        self.assertIsNone(store.take(b"a"))

    def test_bound(self) -> None:
        """Those of the server left alone the longest go first, and the oldest of them."""
        store: Any = SessionStore(3)
        for key, session in zip((b"a", b"b", b"a", b"a", b"d"), self.sessions, strict=True):
            store.put(key, session)
        self.assertEqual(len(store), 3)
        self.assertIsNone(store.take(b"b"))
        for key, session in ((b"a", 3), (b"a", 2), (b"d", 4)):
            self.assertIs(store.take(key), self.sessions[session])
        self.assertIsNone(store.take(b"a"))

    def test_none(self) -> None:
        """A size of 0 keeps none."""
        store: Any = SessionStore(0)
        store.put(b"a", self.sessions[0])
        self.assertEqual(len(store), 0)
