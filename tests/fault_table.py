"""
A table of faults of TLS connections, and of what is to be said of each.

What cannot be agreed on, and certificates that are refused; L{tests.fault_table_wire} has the rest.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from cryptography import x509
from OpenSSL import SSL

from tests.faults import (
    client_of,
    meet,
    server_of,
)
from tests.tls_material import (
    TLS12,
    TLS13,
    VERSION_NAMES,
    Party,
    authority,
    certificate,
    client,
    context,
    ec_key,
    expired,
    intermediate,
    not_yet_valid,
    server,
    stranger,
)
from twisted_bioconn import _openssl
from twisted_bioconn._creators import NoApplicationProtocol
from twisted_bioconn.testing import Loopback
from twisted_bioconn.verify import HostVerifier, Pin


@frozen
class Fault:
    """
    A fault, and what the judge is to say of it.

    @ivar alert: what it sends, and the other end receives.
    @ivar sentence: what it says, or a part of that.
    @ivar on_twin: the alert of the twin on the public API, where it cannot choose.
    @ivar needs: what an engine must be able to do for the fault to come about.
    """

    name: str
    make: Callable[[], Loopback]
    judge: str
    alert: str
    sentence: str
    on_twin: str | None = None
    needs: str | None = None


def boom(chain: object) -> None:
    raise ValueError("boom")


def by_agreement(version: int) -> list[Fault]:
    """Nothing that both ends agree on."""
    name = VERSION_NAMES[version]

    def groups() -> Loopback:
        for_client, for_server = client_of(version), server_of(version)
        _openssl.set_groups(for_client, ["X25519"])
        _openssl.set_groups(for_server, ["secp384r1"])
        return meet(for_client, for_server)

    def signatures() -> Loopback:
        for_client = client_of(version)
        _openssl.set_signature_algorithms(for_client, ["rsa_pss_rsae_sha256"])
        return meet(for_client, server_of(version))

    def protocols(choose: Callable[[SSL.Connection, list[bytes]], bytes]) -> Loopback:
        for_client, for_server = client_of(version), server_of(version)
        for_client.set_alpn_protos([b"h2"])
        for_server.set_alpn_select_callback(choose)
        return meet(for_client, for_server)

    def none(connection: SSL.Connection, offered: list[bytes]) -> bytes:
        raise NoApplicationProtocol

    def ciphers() -> Loopback:
        if version == TLS13:
            one, other = b"TLS_AES_128_GCM_SHA256", b"TLS_AES_256_GCM_SHA384"
            return meet(
                context(True, versions=(TLS13, TLS13), ciphersuites=one),
                context(False, own=server(), versions=(TLS13, TLS13), ciphersuites=other),
            )
        one, other = b"ECDHE-ECDSA-AES128-GCM-SHA256", b"ECDHE-ECDSA-AES256-GCM-SHA384"
        return meet(
            context(True, versions=(TLS12, TLS12), ciphers=one),
            context(False, own=server(), versions=(TLS12, TLS12), ciphers=other),
        )

    failure = "handshake_failure"
    no_cipher = "the peer offers no cipher that we accept"
    other_version = TLS12 if version == TLS13 else TLS13
    return [
        Fault(
            f"the server speaks {name} alone and the client does not",
            lambda: meet(client_of(other_version), server_of(version)),
            "server",
            "protocol_version",
            "the peer offers no TLS version that we accept",
        ),
        Fault(f"{name}: ciphers", ciphers, "server", failure, no_cipher),
        Fault(
            f"{name}: groups",
            groups,
            "server",
            failure,
            "the peer offers no group that we accept" if version == TLS13 else no_cipher,
            needs="can_set_groups",
        ),
        Fault(
            f"{name}: signature algorithms",
            signatures,
            "server",
            failure,
            "no signature algorithm fits the peer and our key" if version == TLS13 else no_cipher,
            needs="can_set_groups",
        ),
        Fault(
            f"{name}: application protocols",
            lambda: protocols(none),
            "server",
            "no_application_protocol",
            "the peer offers no ALPN protocol that we speak",
        ),
        Fault(
            f"{name}: the choice of an application protocol is none",
            lambda: protocols(lambda connection, offered: b""),
            "server",
            "internal_error",
            "something went wrong here, inside OpenSSL or one of its callbacks",
        ),
        Fault(
            f"{name}: the choice of an application protocol fails",
            lambda: protocols(lambda connection, offered: 1 / 0),  # type: ignore[arg-type,return-value]
            "server",
            "no_application_protocol",
            "a callback of ours failed: division by zero",
        ),
        Fault(
            f"{name}: there is no certificate",
            lambda: meet(client_of(version), context(False, versions=(version, version))),
            "server",
            "protocol_version" if version == TLS13 else failure,
            "or none for which there is a certificate here" if version == TLS13 else no_cipher,
        ),
    ]


def by_certificate(version: int) -> list[Fault]:
    """Certificates that are refused, of servers and of clients."""
    name = VERSION_NAMES[version]
    no_ca = Party(certificate("no authority", authority(), key=ec_key(7)), ec_key(7))
    forger = Party(authority().certificate, ec_key(9))
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x")
    key = ec_key(8)
    refused = [
        (expired(), "certificate_expired", "the certificate of CN=expired expired 3 days ago"),
        (not_yet_valid(), "bad_certificate", "the certificate of CN=early is valid from 2"),
        (stranger(), "unknown_ca", "its issuer is not among the trusted authorities"),
        (
            Party(certificate("own", None, key=key), key),
            "unknown_ca",
            "CN=own does not verify: it is self-signed and not trusted",
        ),
        (
            Party(
                certificate("x", authority("nobody"), key=key),
                key,
                (authority("nobody").certificate,),
            ),
            "unknown_ca",
            "its chain ends in a root that is not trusted",
        ),
        (
            Party(certificate("x", intermediate(), key=key), key),
            "unknown_ca",
            "its issuer is not among the trusted authorities",
        ),
        (
            Party(certificate("x", no_ca, key=key), key, (no_ca.certificate,)),
            "unknown_ca",
            "CN=no authority does not verify: its issuer is no authority",
        ),
        (
            Party(certificate("x", forger, key=key), key),
            "decrypt_error",
            "its signature is wrong",
        ),
        (
            Party(certificate("x", authority(), key=key, extensions=[(unknown, True)]), key),
            "certificate_unknown",
            "it has a critical extension that nobody here understands",
        ),
    ]
    purpose = "it is not meant for this purpose"
    faults = []
    for number, (party, alert, sentence) in enumerate(
        [*refused, (client(), "unsupported_certificate", purpose)]
    ):
        faults.append(
            Fault(
                f"{name}: server certificate {number}",
                lambda party=party: meet(  # type: ignore[misc]
                    client_of(version), server_of(version, party), verify_server=True
                ),
                "client",
                alert,
                sentence,
            )
        )
    for number, (party, alert, sentence) in enumerate(
        [*refused, (server(), "unsupported_certificate", purpose)]
    ):
        faults.append(
            Fault(
                f"{name}: client certificate {number}",
                lambda party=party: meet(  # type: ignore[misc]
                    client_of(version, party), server_of(version), demand=True
                ),
                "server",
                alert,
                sentence,
            )
        )
    for what, check, sentence in (
        ("name", HostVerifier("other.example"), "the certificate is not for other.example"),
        ("address", HostVerifier("10.0.0.1"), "the certificate is not for 10.0.0.1"),
        ("pin", HostVerifier(pins=frozenset([Pin(bytes(32))])), "is none of the pinned ones"),
        ("check", boom, "the certificate of CN=server was refused: boom"),
    ):
        faults.append(
            Fault(
                f"{name}: {what} of a server",
                lambda check=check: meet(  # type: ignore[misc]
                    client_of(version), server_of(version), client_check=check
                ),
                "client",
                "bad_certificate",
                sentence,
                on_twin="internal_error",
            )
        )
    return [
        *faults,
        Fault(
            f"{name}: check of a client",
            lambda: meet(client_of(version, client()), server_of(version), server_check=boom),
            "server",
            "bad_certificate",
            "the certificate of CN=client was refused: boom",
            on_twin="internal_error",
        ),
        Fault(
            f"{name}: no client certificate",
            lambda: meet(client_of(version), server_of(version), demand=True),
            "server",
            "certificate_required" if version == TLS13 else "handshake_failure",
            "we want a client certificate and got none",
        ),
    ]


def fallback() -> Loopback:
    """A client that says it has fallen back, RFC 7507; OpenSSL has a mode for that."""
    made = client_of(TLS12)
    made.set_mode(0x80)
    return meet(made, context(False, own=server()))


def name_lookup() -> Loopback:
    """The choice of a certificate fails."""
    made = server_of(TLS13)
    made.set_tlsext_servername_callback(boom)
    return meet(client_of(TLS13), made)


OTHERS = [
    Fault(
        "fallback",
        fallback,
        "server",
        "inappropriate_fallback",
        "the peer fell back to an older version than both sides speak",
    ),
    Fault(
        "name lookup",
        name_lookup,
        "server",
        "unrecognized_name",
        "the lookup of a certificate failed",
    ),
]
