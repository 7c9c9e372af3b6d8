"""
Handshakes that fail, each by another cause, first part: what cannot be agreed on.

L{tests.explanation_table_certificates} and L{tests.explanation_table_wire} have the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred

from tests.context_material import Speaking, layer, serving, visiting
from tests.explanation_material import (
    Failing,
    Wire,
    at_client,
    at_server,
    by_hand,
    meeting,
    sending,
    usual_hello,
)
from tests.fault_table import Fault, by_agreement, fallback
from tests.fault_table_wire import in_first_flights, in_handshake
from tests.faults import client_of, server_of
from tests.hello_material import host_name, message, openssl_hello, records
from tests.source_material import Told, choice
from tests.tls_material import (
    HOST,
    TLS12,
    TLS13,
    Party,
    client_connection,
    context,
    rsa_server,
    server_connection,
)
from twisted_bioconn import _openssl
from twisted_bioconn.context import ServerOptions, UnknownName
from twisted_bioconn.explanations import Cause, FailedHandshake, Side
from twisted_bioconn.policy import MODERN
from twisted_bioconn.testing import Loopback

OTHER_HOST = b"xxx.example.org"
"""As long as L{HOST}."""


def faults() -> dict[str, Fault]:
    """Those faults of L{tests.fault_table} that are of use here, by their names."""
    found = [*in_handshake(), *in_first_flights(), *by_agreement(TLS12), *by_agreement(TLS13)]
    return {each.name: each for each in found}


FAULTS = faults()


def fault(name: str, **more: Any) -> Callable[[], FailedHandshake]:
    """What the server knows of a fault of that name."""
    return lambda: at_server(FAULTS[name].make(), **more)


def offering(**what: Any) -> Callable[[Any, Any], object]:
    """Prepares a client of OpenSSL's that offers these groups, signature algorithms or ciphers."""

    def prepare(made: Any, connection: Any) -> None:
        if made is None:
            return
        if "groups" in what:
            _openssl.set_groups(made, what["groups"])
        if "signatures" in what:
            _openssl.set_signature_algorithms(made, what["signatures"])
        if "ciphers" in what:
            made.set_cipher_list(what["ciphers"])
        if "suites" in what:
            made.set_tls13_ciphersuites(what["suites"])
        if "version" in what:
            made.set_min_proto_version(what["version"])
            made.set_max_proto_version(what["version"])

    return prepare


def offered(party: Party | None = None, **what: Any) -> FailedHandshake:
    """A client that offers this comes to the usual server, or to this one."""
    return sending(openssl_hello(offering(**what)), serving(party))


def told(source: Told, hello: bytes, **options: Any) -> FailedHandshake:
    """A client comes to a server whose certificates are a source's."""
    return sending(hello, ServerOptions(source, **options))


def lookup_timeout() -> FailedHandshake:
    def do(wire: Wire, app: object) -> None:
        wire.send(usual_hello())
        wire.wait(11)

    return by_hand(do, ServerOptions(Told({HOST: Deferred()})), settings={"handshakeTimeout": "10"})


def other_name() -> FailedHandshake:
    """After a HelloRetryRequest, a client asks for another name."""
    made = context(True)
    _openssl.set_groups(made, ["secp521r1", "secp256r1"])
    connection = client_connection(made)

    def flight() -> bytes:
        with suppress(SSL.WantReadError):
            connection.do_handshake()
        return connection.bio_read(1 << 16)

    def do(wire: Wire, app: object) -> None:
        wire.send(flight())
        connection.bio_write(wire.heard)
        wire.send(flight().replace(HOST.encode(), OTHER_HOST))

    return by_hand(do, ServerOptions(Told({HOST: choice(HOST)}, choice(HOST))))


def alpn() -> FailedHandshake:
    ours, theirs = Speaking(b"h2", b"http/1.1"), Speaking(b"mqtt")
    loop = Loopback(
        visiting().clientConnectionForTLS(layer(theirs)),
        serving().serverConnectionForTLS(layer(ours)),
    )
    return at_server(loop, alpn=(b"h2", b"http/1.1"))


def bare_hello(*extensions: tuple[int, bytes], suites: tuple[int, ...] = (0x1301,)) -> bytes:
    """A hello of TLS 1.3 with these extensions."""
    return records(message((43, b"\2\3\4"), *extensions, suites=suites))


AGREEMENT = [
    Failing(
        Cause.CLIENT_TOO_OLD,
        lambda: sending(records(message(legacy=0x0301, suites=(0xC02B, 0x002F)))),
        "192.0.2.7:50000 offers TLS 1.0 at most; policy=intermediate needs TLS 1.2",
        setting="policy",
    ),
    Failing(
        Cause.CLIENT_TOO_OLD,
        lambda: at_server(
            meeting(serving(policy=MODERN), client_connection(client_of(TLS12))), policy=MODERN
        ),
        "192.0.2.7:50000 offers TLS 1.2 at most; policy=modern needs TLS 1.3",
        setting="policy",
    ),
    Failing(
        Cause.CLIENT_TOO_NEW,
        lambda: at_server(
            meeting(serving(versions=(None, TLS12)), client_connection(client_of(TLS13))),
            settings={"sslmethod": "TLSv1_2_METHOD"},
        ),
        "offers nothing older than TLS 1.3; TLS 1.2 is the newest version here",
        Side.SERVER,
        "sslmethod",
    ),
    Failing(
        Cause.SSL2_HELLO,
        lambda: sending(
            bytes.fromhex("802e0100020015000000100100800200800300800400800500806407c0")
        ),
        "sent a hello of SSL 2",
        setting="policy",
    ),
    Failing(
        Cause.SSL3_HELLO,
        lambda: sending(records(message(legacy=0x0300, suites=(5,), tail=b""), version=b"\3\0")),
        "offers SSL 3.0 at most",
        setting="policy",
    ),
    Failing(
        Cause.SERVER_VERSION,
        lambda: at_client(
            meeting(server_connection(server_of(TLS12)), visiting(policy=MODERN)), policy=MODERN
        ),
        "speaks no version of TLS that we offer; policy=modern needs TLS 1.3",
        Side.SERVER,
        "policy",
    ),
    Failing(
        Cause.FALLBACK,
        lambda: at_server(fallback()),
        "has fallen back to TLS 1.2 (RFC 7507)",
        Side.NETWORK,
    ),
    Failing(
        Cause.NO_SHARED_CIPHER,
        lambda: offered(version=TLS12, ciphers=b"AES128-SHA256:AES256-SHA256"),
        "offers no cipher that policy=intermediate has: AES128-SHA256, AES256-SHA256",
        setting="policy",
    ),
    Failing(
        Cause.NO_SHARED_CIPHER,
        lambda: offered(version=TLS13, suites=b"TLS_AES_128_CCM_SHA256"),
        "has: TLS_AES_128_CCM_SHA256",
        setting="policy",
    ),
    Failing(
        Cause.NO_SHARED_GROUP,
        lambda: offered(groups=["secp521r1", "X448"]),
        "has: secp521r1, X448",
        setting="policy",
    ),
    Failing(
        Cause.NO_SHARED_GROUP,
        lambda: offered(version=TLS12, groups=["secp521r1"]),
        "has: secp521r1",
        setting="policy",
    ),
    Failing(
        Cause.NO_SHARED_SIGNATURE,
        lambda: offered(signatures=["ed25519", "ed448"]),
        "offers no signature algorithm that policy=intermediate has: ed25519, ed448",
        setting="policy",
    ),
    Failing(
        Cause.ECDSA_ONLY_CLIENT,
        lambda: offered(rsa_server(), signatures=["ecdsa_secp256r1_sha256"]),
        "verifies ECDSA signatures alone (ecdsa_secp256r1_sha256)",
        Side.SERVER,
        "certKey",
    ),
    Failing(
        Cause.ECDSA_ONLY_CLIENT,
        lambda: offered(rsa_server(), version=TLS12, ciphers=b"ECDHE-ECDSA-AES128-GCM-SHA256"),
        "verifies ECDSA signatures alone",
        Side.SERVER,
        "certKey",
    ),
    Failing(
        Cause.RSA_ONLY_CLIENT,
        fault("TLSv1.3: signature algorithms"),
        "verifies RSA signatures alone (rsa_pss_rsae_sha256), and the certificate for www.",
        Side.SERVER,
        "certKey",
    ),
    Failing(
        Cause.RSA_ONLY_CLIENT,
        lambda: offered(version=TLS12, ciphers=b"ECDHE-RSA-AES128-GCM-SHA256"),
        "verifies RSA signatures alone (ECDHE-RSA-AES128-GCM-SHA256)",
        Side.SERVER,
        "certKey",
    ),
    Failing(
        Cause.NO_CERTIFICATE,
        fault("TLSv1.3: there is no certificate", settings={"certificates": "/certificates"}),
        "there is no certificate for www.example.org whose kind of key",
        Side.SERVER,
        "certificates",
    ),
    Failing(
        Cause.KEY_SHARE_MISSING,
        lambda: sending(bare_hello((10, b"\0\2\0\x1d"), (13, b"\0\2\4\3"))),
        "offers TLS 1.3 without a key share",
    ),
    Failing(
        Cause.EXTENSION_MISSING,
        lambda: sending(
            bare_hello((51, b"\0\x24\0\x1d\0\x20" + bytes(range(32))), (13, b"\0\2\4\3"))
        ),
        "left out an extension that TLS 1.3 needs",
    ),
    Failing(
        Cause.ALPN_MISMATCH, alpn, "speaks mqtt by ALPN, and we speak h2, http/1.1", setting="alpn"
    ),
    Failing(
        Cause.UNKNOWN_NAME,
        lambda: told(Told({}), usual_hello(), unknown_name=UnknownName.ALERT),
        "asks for www.example.org, for which there is no certificate",
        Side.SERVER,
        "unknownName",
    ),
    Failing(
        Cause.NO_NAME,
        lambda: told(Told({}), openssl_hello()),
        "asks for no name, and there is no certificate for such clients",
        Side.SERVER,
        "certKey",
    ),
    Failing(
        Cause.NAME_CHANGED, other_name, "asked for www.example.org, and for another name in its"
    ),
    Failing(
        Cause.ACME_VALIDATION,
        lambda: told(
            Told({}),
            records(message((0, host_name(HOST.encode())), (16, b"\0\x0b\x0aacme-tls/1"))),
        ),
        "came to validate www.example.org for ACME",
        Side.SERVER,
        "acme",
    ),
    Failing(
        Cause.CERTIFICATE_LOOKUP_FAILED,
        lambda: told(Told({HOST: ValueError("boom")}), usual_hello()),
        "the look-up of a certificate for www.example.org failed",
        Side.SERVER,
        "certKey",
    ),
    Failing(
        Cause.CERTIFICATE_LOOKUP_TIMEOUT,
        lookup_timeout,
        "the look-up of a certificate for www.example.org took more than the 10 seconds",
        Side.SERVER,
        "handshakeTimeout",
    ),
]
