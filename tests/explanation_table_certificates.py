"""The table of L{tests.explanation_table}, second part: certificates that are refused by us."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID
from OpenSSL import crypto

from tests.context_material import ROOTS, serving, visiting
from tests.explanation_material import (
    Failing,
    at_client,
    at_server,
    meeting,
    showing,
)
from tests.explanation_table import fault
from tests.fault_table import boom
from tests.faults import client_of, meet, server_of
from tests.test__revocation import LEAF, MIDDLE, ROOT, crl
from tests.tls_material import (
    DAY,
    FOR_CLIENTS,
    NOW,
    TLS12,
    Party,
    authority,
    certificate,
    client,
    client_connection,
    context,
    ec_key,
    expired,
    intermediate,
    not_yet_valid,
    of_version,
    rsa_key,
    server,
    signed_anew,
    stranger,
)
from twisted_bioconn.client_policy import ClientCertificate, ClientPolicy
from twisted_bioconn.explanations import Cause, FailedHandshake, Side
from twisted_bioconn.testing import Loopback
from twisted_bioconn.verify import CertificateRefused, Pin


def issued(title: str, issuer: Party | None = None, key: int = 7, **what: Any) -> Party:
    """A certificate for a client, and its issuer's after it."""
    made = certificate(title, issuer or authority(), key=ec_key(key), **what)
    return Party(made, ec_key(key))


def under(issuer: Party, **what: Any) -> Party:
    """A client's certificate of this intermediate, which comes along."""
    made = issued("x", issuer, **what)
    return Party(made.certificate, made.key, (issuer.certificate,))


def constrained(*extensions: tuple[x509.ExtensionType, bool]) -> Party:
    """An authority with other extensions; signed by the usual one."""
    return issued("constrained", key=8, extensions=extensions)


def too_deep() -> Party:
    """A certificate under an authority under one that allows for no other below it."""
    top = constrained((x509.BasicConstraints(True, 0), True))
    below = issued("below", top, key=9, ca=True)
    made = issued("x", below, usage=FOR_CLIENTS)
    return Party(made.certificate, made.key, (below.certificate, top.certificate))


def weak() -> Loopback:
    key = rsa_key(1024)
    party = Party(certificate("weak", authority(), key=key), key)
    return showing(party, ciphers=b"ALL:@SECLEVEL=0")


def raw(der: bytes, key: int) -> Loopback:
    """A client shows this."""
    made = context(True)
    made.use_certificate(crypto.load_certificate(crypto.FILETYPE_ASN1, der))
    made.use_privatekey(ec_key(key))
    clients = ClientPolicy(ClientCertificate.REQUIRE, ROOTS)
    return meeting(serving(clients=clients), client_connection(made))


def no_date() -> Loopback:
    """A certificate that begins at a time that is none."""
    made = issued("dateless").certificate
    begin = made.not_valid_before_utc.strftime("%y%m%d").encode()
    return raw(signed_anew(made, begin, b"xxxxxx", authority()), 7)


def organized() -> tuple[Party, Party]:
    """A root, and the leaf of an intermediate of the same organization, without that."""

    def named(title: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
                x509.NameAttribute(NameOID.COMMON_NAME, title),
            ]
        )

    def build(subject: str, issuer: str, key: int, by: int, ca: bool) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named(issuer))
            .public_key(ec_key(key).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - DAY)
            .not_valid_after(NOW + DAY)
            .add_extension(x509.BasicConstraints(ca, None), True)
            .sign(ec_key(by), SHA256())
        )

    root = Party(build("root", "root", 11, 11, True), ec_key(11))
    return root, Party(build("leaf", "middle", 13, 12, False), ec_key(13))


def alone_by_organization() -> FailedHandshake:
    root, leaf = organized()
    trusted = [root.certificate]
    return at_server(
        showing(leaf, authorities=trusted), settings={"clientAuthorities": tuple(trusted)}
    )


def alone_by_address() -> FailedHandshake:
    where = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(
                AuthorityInformationAccessOID.CA_ISSUERS,
                x509.UniformResourceIdentifier("http://ca.example/middle.cer"),
            )
        ]
    )
    made = issued("x", intermediate(), extensions=[(where, False)])
    return at_server(showing(made))


def listed(*lists: x509.CertificateRevocationList) -> FailedHandshake:
    """A client of L{LEAF} comes where these lists are."""
    return at_server(showing(LEAF, authorities=[ROOT.certificate], crls=lists))


def forged_list() -> x509.CertificateRevocationList:
    return crl(Party(MIDDLE.certificate, ec_key(20)), keyed=False)


def refuse(chain: object) -> None:
    raise CertificateRefused("no rule lets it in")


CLIENTS = [
    Failing(
        Cause.CLIENT_CERTIFICATE_MISSING,
        lambda: at_server(showing(None)),
        "192.0.2.7:50000 shows no certificate, and clients need one",
        setting="clientCertificate",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_EXPIRED,
        lambda: at_server(showing(expired()), now=NOW + timedelta(hours=1)),
        "the certificate of CN=expired, of the client 192.0.2.7:50000, expired 3 days ago, on 2",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_EXPIRED,
        lambda: at_server(showing(expired()), chain=()),
        "the certificate of CN=expired, of the client 192.0.2.7:50000, expired 3 days ago, at 2",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_NOT_YET_VALID,
        lambda: at_server(showing(not_yet_valid()), now=NOW - DAY),
        "the certificate of CN=early, of the client 192.0.2.7:50000, is not valid yet: it begins in"
        " 2 days, on 2",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_UNKNOWN_AUTHORITY,
        lambda: at_server(showing(stranger())),
        "CN=stranger, of the client 192.0.2.7:50000, leads to no authority that is trusted here:"
        " CN=nobody signed it",
        setting="clientAuthorities",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_UNKNOWN_AUTHORITY,
        lambda: at_server(showing(under(issued("below", authority("nobody"), 8, ca=True)))),
        "CN=below, of the client 192.0.2.7:50000, leads to no authority that is trusted here: CN=n",
        setting="clientAuthorities",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_UNKNOWN_AUTHORITY,
        lambda: at_server(showing(under(authority("nobody")))),
        "leads to no authority that is trusted here",
        setting="clientAuthorities",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_SELF_SIGNED,
        lambda: at_server(showing(Party(certificate("own", None, key=ec_key(7)), ec_key(7)))),
        "CN=own, of the client 192.0.2.7:50000, is self-signed",
        setting="clientAuthorities",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_INTERMEDIATE_MISSING,
        alone_by_address,
        "came without the certificate of CN=intermediate, which signed it",
        setting="clientAuthorities",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_INTERMEDIATE_MISSING,
        alone_by_organization,
        "came without the certificate of CN=middle,O=Example, which signed it",
        setting="clientAuthorities",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_WRONG_PURPOSE,
        lambda: at_server(showing(server())),
        "CN=server, of the client 192.0.2.7:50000, is not for clients: its extended key usage is"
        " serverAuth",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_REVOKED,
        lambda: listed(crl(ROOT), crl(MIDDLE, LEAF)),
        "CN=visitor, of the client 192.0.2.7:50000, was revoked",
        setting="crl",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_CRL_MISSING,
        lambda: listed(crl(ROOT)),
        "there is no revocation list by which the certificate of CN=visitor",
        Side.SERVER,
        "crl",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_CRL_STALE,
        lambda: listed(crl(ROOT), crl(MIDDLE, end=NOW - DAY)),
        "the revocation list for the certificate of CN=visitor, of the client 192.0.2.7:50000, is"
        " out of date",
        Side.SERVER,
        "crl",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_CRL_INVALID,
        lambda: listed(crl(ROOT), forged_list()),
        "is not by its issuer: the signature on it is wrong",
        Side.SERVER,
        "crl",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_BAD_SIGNATURE,
        lambda: at_server(showing(issued("x", Party(authority().certificate, ec_key(9))))),
        "the signature on the certificate of CN=x, of the client 192.0.2.7:50000, is wrong",
    ),
    Failing(Cause.CLIENT_CERTIFICATE_WEAK, lambda: at_server(weak()), "its key is too weak"),
    Failing(
        Cause.CLIENT_CERTIFICATE_PATH_TOO_LONG,
        lambda: at_server(showing(too_deep())),
        "is in a longer chain, of the client 192.0.2.7:50000, than an authority allows",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_NOT_AUTHORITY,
        lambda: at_server(showing(under(issued("no authority", key=8)))),
        "CN=no authority, in the chain of the client 192.0.2.7:50000, signs another and is no",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_NAME_CONSTRAINTS,
        lambda: at_server(
            showing(
                under(
                    constrained(
                        (x509.BasicConstraints(True, None), True),
                        (x509.NameConstraints([x509.DNSName("example.com")], None), True),
                    ),
                    names=[x509.DNSName("client.example.org")],
                )
            )
        ),
        "has a name for which its authority may not sign",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_CRITICAL_EXTENSION,
        lambda: at_server(
            showing(
                issued(
                    "x",
                    extensions=[
                        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x"), True)
                    ],
                )
            )
        ),
        "has a critical extension that is not known here",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_RULE,
        lambda: at_server(showing(client(), check=refuse)),
        "a rule of this server refused 192.0.2.7:50000: no rule lets it in",
        setting="allow",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_RULE,
        lambda: at_server(showing(client(), check=boom)),
        "refused 192.0.2.7:50000: the certificate of CN=client was refused: boom",
        setting="allow",
    ),
    Failing(
        Cause.CLIENT_CERTIFICATE_INVALID,
        lambda: at_server(no_date()),
        "the certificate, of the client 192.0.2.7:50000, does not verify: the date at which it",
        setting="clientAuthorities",
    ),
    Failing(
        Cause.CERTIFICATE_MALFORMED,
        fault("TLSv1.3 client's certificate"),
        "sent a certificate that cannot be read: wrong tag",
    ),
    Failing(
        Cause.CERTIFICATE_MALFORMED,
        lambda: at_server(raw(of_version(client().certificate, 4, authority()), 2)),
        "sent a certificate that cannot be read: ",
    ),
]


def visited(party: Party, **options: Any) -> FailedHandshake:
    """What a client knows that came to a server with this certificate."""
    return at_client(meeting(serving(party), visiting(**options)))


SERVERS = [
    Failing(
        Cause.SERVER_CERTIFICATE_WRONG_HOST,
        lambda: visited(server(), host="other.example"),
        "is not who it should be: the certificate is not for other.example: it is for www",
        Side.SERVER,
        "serverName",
    ),
    Failing(
        Cause.SERVER_CERTIFICATE_WRONG_HOST,
        lambda: visited(server(), host="10.0.0.1"),
        "the certificate is not for 10.0.0.1",
        Side.SERVER,
        "serverName",
    ),
    Failing(
        Cause.SERVER_CERTIFICATE_EXPIRED,
        lambda: visited(expired()),
        "the certificate of CN=expired, of the server 192.0.2.7:50000, expired 3 days ago",
        Side.SERVER,
    ),
    Failing(
        Cause.SERVER_CERTIFICATE_NOT_YET_VALID,
        lambda: visited(not_yet_valid()),
        "of the server 192.0.2.7:50000, is not valid yet: it begins in",
        Side.SERVER,
    ),
    Failing(
        Cause.SERVER_CERTIFICATE_UNKNOWN_AUTHORITY,
        lambda: visited(stranger()),
        "leads to no authority that is trusted here: CN=nobody signed it",
        Side.CLIENT,
        "trustRoots",
    ),
    Failing(
        Cause.SERVER_CERTIFICATE_SELF_SIGNED,
        lambda: visited(Party(certificate("own", None, key=ec_key(7)), ec_key(7))),
        "CN=own, of the server 192.0.2.7:50000, is self-signed",
        Side.CLIENT,
        "trustRoots",
    ),
    Failing(
        Cause.SERVER_CERTIFICATE_INTERMEDIATE_MISSING,
        lambda: at_client(
            meeting(serving(organized()[1]), visiting(trust_roots=[organized()[0].certificate])),
            settings={"trustRoots": [organized()[0].certificate]},
        ),
        "came without the certificate of CN=middle,O=Example",
        Side.SERVER,
        "trustRoots",
    ),
    Failing(
        Cause.SERVER_CERTIFICATE_PIN,
        lambda: visited(server(), pins=[Pin(bytes(32))]),
        "has another key than was pinned: the key of CN=server is none of the pinned ones",
        Side.CLIENT,
        "pins",
    ),
    Failing(
        Cause.SERVER_CERTIFICATE_RULE,
        lambda: visited(server(), check=boom),
        "a check of this client refused the server 192.0.2.7:50000: the certificate of CN=server",
        Side.SERVER,
    ),
    Failing(
        Cause.SERVER_CERTIFICATE_INVALID,
        lambda: visited(client()),
        "does not verify: it is not meant for this purpose",
        Side.SERVER,
        "trustRoots",
    ),
    Failing(
        Cause.SERVER_REFUSES_CERTIFICATE,
        lambda: at_client(meet(client_of(TLS12, stranger()), server_of(TLS12), demand=True)),
        "refused our certificate: it does not trust the authority that signed",
        Side.CLIENT,
        "certificate",
    ),
    Failing(
        Cause.SERVER_WANTS_CERTIFICATE,
        lambda: at_client(showing(None)),
        "wants a certificate of its clients, and got none",
        Side.CLIENT,
        "certificate",
    ),
]
