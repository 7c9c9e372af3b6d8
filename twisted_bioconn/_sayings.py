"""What is said of what cannot be agreed on, of certificates, and of alerts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ._causes import OWN, Cause, Saying, Who
from ._wire_sayings import WIRE_SAYINGS

_US, _PEER, _NEITHER, _NETWORK = Who.US, Who.PEER, Who.NEITHER, Who.NETWORK

_UPDATE = "Update the client{or_policy}"
_OFFER = "Have the client offer one of {need}{or_policy}"
_BROKEN = "If it is no scan, the {them}'s TLS is broken, or something on the way changes it"
_RENEW = "Renew that certificate and have it served"

_OFFERS: dict[Cause, Saying] = {
    Cause.CLIENT_TOO_OLD: Saying(
        "{peer} offers {offer} at most; {policy} needs {need}", _PEER, _UPDATE, "policy"
    ),
    Cause.CLIENT_TOO_NEW: Saying(
        "{peer} offers nothing older than {offer}; {need} is the newest version here",
        _US,
        "Let this side speak newer versions of TLS",
        "sslmethod",
    ),
    Cause.SSL2_HELLO: Saying(
        "{peer} sent a hello of SSL 2, which RFC 6176 forbids; {policy} needs {need}",
        _PEER,
        _UPDATE,
        "policy",
    ),
    Cause.SSL3_HELLO: Saying(
        "{peer} offers SSL 3.0 at most, which RFC 7568 forbids; {policy} needs {need}",
        _PEER,
        _UPDATE,
        "policy",
    ),
    Cause.SERVER_VERSION: Saying(
        "{peer} speaks no version of TLS that we offer; {policy} needs {need}",
        _PEER,
        "Have the server speak newer versions{or_policy}",
        "policy",
    ),
    Cause.FALLBACK: Saying(
        "{peer} says that it has fallen back to {offer} (RFC 7507) though both sides speak newer",
        _NETWORK,
        "Look for what broke its first try: a middlebox, or losses on the way",
    ),
    Cause.NO_SHARED_CIPHER: Saying(
        "{peer} offers no cipher that {policy} has: {offer}", _PEER, _UPDATE, "policy"
    ),
    Cause.NO_SHARED_GROUP: Saying(
        "{peer} offers no key exchange group that {policy} has: {offer}", _PEER, _OFFER, "policy"
    ),
    Cause.NO_SHARED_SIGNATURE: Saying(
        "{peer} offers no signature algorithm that {policy} has: {offer}",
        _PEER,
        _OFFER,
        "policy",
    ),
    Cause.ECDSA_ONLY_CLIENT: Saying(
        "{peer} verifies ECDSA signatures alone ({offer}), and the certificate for {name} has no"
        " such key",
        _US,
        "Serve an ECDSA certificate, too",
        OWN,
    ),
    Cause.RSA_ONLY_CLIENT: Saying(
        "{peer} verifies RSA signatures alone ({offer}), and the certificate for {name} has no RSA"
        " key",
        _US,
        "Serve an RSA certificate, too",
        OWN,
    ),
    Cause.NO_CERTIFICATE: Saying(
        "there is no certificate for {name} whose kind of key {peer} could use",
        _US,
        "Serve certificates with RSA and with ECDSA keys",
        OWN,
    ),
    Cause.KEY_SHARE_MISSING: Saying(
        "{peer} offers TLS 1.3 without a key share (RFC 8446, section 9.2)", _PEER, _BROKEN
    ),
    Cause.EXTENSION_MISSING: Saying(
        "{peer} left out an extension that TLS 1.3 needs (RFC 8446, section 9.2): {reason}",
        _PEER,
        _BROKEN,
    ),
    Cause.ALPN_MISMATCH: Saying(
        "{peer} speaks {offer} by ALPN, and we speak {need}",
        _PEER,
        "Have both sides name a common protocol",
        "alpn",
    ),
    Cause.UNKNOWN_NAME: Saying(
        "{peer} asks for {name}, for which there is no certificate",
        _US,
        "Get a certificate for that name, or correct the name where the client has it from",
        "unknownName",
    ),
    Cause.NO_NAME: Saying(
        "{peer} asks for no name, and there is no certificate for such clients",
        _US,
        "Have a default certificate",
        OWN,
    ),
    Cause.NAME_CHANGED: Saying(
        "{peer} asked for {name}, and for another name in its second hello"
        " (RFC 8446, section 4.1.2)",
        _PEER,
        _BROKEN,
    ),
    Cause.ACME_VALIDATION: Saying(
        "{peer} came to validate {name} for ACME, and no such challenge is under way here",
        _US,
        "Order the certificate where that name leads to, or expect a scan",
        "acme",
    ),
    Cause.CERTIFICATE_LOOKUP_FAILED: Saying(
        "the look-up of a certificate for {name} failed, so that {peer} got none",
        _US,
        "The log says before this what failed",
        OWN,
    ),
    Cause.CERTIFICATE_LOOKUP_TIMEOUT: Saying(
        "the look-up of a certificate for {name} took more than the {seconds} that {peer} had",
        _US,
        "Look at where certificates come from, or allow more time",
        "handshakeTimeout",
    ),
}

_CLIENT_CERTIFICATES: dict[Cause, Saying] = {
    Cause.CLIENT_CERTIFICATE_MISSING: Saying(
        "{peer} shows no certificate, and clients need one",
        _PEER,
        "Give the client a certificate, or ask for none with clientCertificate=",
        "clientCertificate",
    ),
    Cause.CLIENT_CERTIFICATE_EXPIRED: Saying(
        "{whose}, of the client {peer}, expired {when}", _PEER, "Renew the client's certificate"
    ),
    Cause.CLIENT_CERTIFICATE_NOT_YET_VALID: Saying(
        "{whose}, of the client {peer}, is not valid yet: {when}",
        _PEER,
        "Wait, or set the clocks of both sides right",
    ),
    Cause.CLIENT_CERTIFICATE_UNKNOWN_AUTHORITY: Saying(
        "{whose}, of the client {peer}, leads to no authority that is trusted here: {issuer}"
        " signed it",
        _PEER,
        "Give the client a certificate of an authority in clientAuthorities=, or add its own",
        "clientAuthorities",
    ),
    Cause.CLIENT_CERTIFICATE_SELF_SIGNED: Saying(
        "{whose}, of the client {peer}, is self-signed and not among the trusted ones",
        _PEER,
        "Give the client a certificate of an authority in clientAuthorities=, or add this one",
        "clientAuthorities",
    ),
    Cause.CLIENT_CERTIFICATE_INTERMEDIATE_MISSING: Saying(
        "{whose}, of the client {peer}, came without the certificate of {issuer}, which signed it",
        _PEER,
        "Have the client send its whole chain",
        "clientAuthorities",
    ),
    Cause.CLIENT_CERTIFICATE_WRONG_PURPOSE: Saying(
        "{whose}, of the client {peer}, is not for clients: its extended key usage is {usage}",
        _PEER,
        "Give the client a certificate for clientAuth (RFC 5280, section 4.2.1.12)",
    ),
    Cause.CLIENT_CERTIFICATE_REVOKED: Saying(
        "{whose}, of the client {peer}, was revoked", _PEER, "Give the client another one", "crl"
    ),
    Cause.CLIENT_CERTIFICATE_CRL_MISSING: Saying(
        "there is no revocation list by which {whose}, of the client {peer}, could be judged",
        _US,
        "Add the list of {issuer}, or set crlMode=soft",
        "crl",
    ),
    Cause.CLIENT_CERTIFICATE_CRL_STALE: Saying(
        "the revocation list for {whose}, of the client {peer}, is out of date",
        _US,
        "Fetch the newest list of {issuer}, or set crlMode=soft",
        "crl",
    ),
    Cause.CLIENT_CERTIFICATE_CRL_INVALID: Saying(
        "the revocation list for {whose}, of the client {peer}, is not by its issuer: {reason}",
        _US,
        "Get the list of {issuer} itself",
        "crl",
    ),
    Cause.CLIENT_CERTIFICATE_BAD_SIGNATURE: Saying(
        "the signature on {whose}, of the client {peer}, is wrong: {issuer} did not sign it",
        _PEER,
        "Give the client the certificate as its authority issued it",
    ),
    Cause.CLIENT_CERTIFICATE_WEAK: Saying(
        "{whose}, of the client {peer}, is not secure: {reason}",
        _PEER,
        "Issue one with RSA of 2048 bits or more, or ECDSA, signed with SHA-256",
    ),
    Cause.CLIENT_CERTIFICATE_PATH_TOO_LONG: Saying(
        "{whose} is in a longer chain, of the client {peer}, than an authority allows"
        " (RFC 5280, section 4.2.1.9)",
        _PEER,
        "Issue the client's certificate further up, or the authorities' with another path length",
    ),
    Cause.CLIENT_CERTIFICATE_NOT_AUTHORITY: Saying(
        "{whose}, in the chain of the client {peer}, signs another and is no authority",
        _PEER,
        "Issue it with basicConstraints CA:TRUE and keyCertSign, or sign with another",
    ),
    Cause.CLIENT_CERTIFICATE_NAME_CONSTRAINTS: Saying(
        "{whose}, of the client {peer}, has a name for which its authority may not sign"
        " (RFC 5280, section 4.2.1.10)",
        _PEER,
        "Issue the client a certificate with another name or by another authority",
    ),
    Cause.CLIENT_CERTIFICATE_CRITICAL_EXTENSION: Saying(
        "{whose}, of the client {peer}, has a critical extension that is not known here",
        _PEER,
        "Issue it without that extension, or with one that is not critical",
    ),
    Cause.CLIENT_CERTIFICATE_RULE: Saying(
        "a rule of this server refused {peer}: {reason}",
        _PEER,
        "Let it in by allow=, or give the client another certificate",
        "allow",
    ),
    Cause.CLIENT_CERTIFICATE_INVALID: Saying(
        "{whose}, of the client {peer}, does not verify: {reason}",
        _PEER,
        "Give the client another certificate",
        "clientAuthorities",
    ),
    Cause.CERTIFICATE_MALFORMED: Saying(
        "{peer} sent a certificate that cannot be read: {reason}", _PEER, _BROKEN
    ),
}

_SERVER_CERTIFICATES: dict[Cause, Saying] = {
    Cause.SERVER_CERTIFICATE_WRONG_HOST: Saying(
        "the server {peer} is not who it should be: {reason}",
        _PEER,
        "Correct the name asked for, or give the server a certificate for it",
        "serverName",
    ),
    Cause.SERVER_CERTIFICATE_EXPIRED: Saying(
        "{whose}, of the server {peer}, expired {when}", _PEER, "Renew the server's certificate"
    ),
    Cause.SERVER_CERTIFICATE_NOT_YET_VALID: Saying(
        "{whose}, of the server {peer}, is not valid yet: {when}",
        _PEER,
        "Wait, or set the clocks of both sides right",
    ),
    Cause.SERVER_CERTIFICATE_UNKNOWN_AUTHORITY: Saying(
        "{whose}, of the server {peer}, leads to no authority that is trusted here: {issuer}"
        " signed it",
        _US,
        "Trust its authority, if it is the right server",
        "trustRoots",
    ),
    Cause.SERVER_CERTIFICATE_SELF_SIGNED: Saying(
        "{whose}, of the server {peer}, is self-signed and not among the trusted ones",
        _US,
        "Trust it, or pin its key, if it is the right server",
        "trustRoots",
    ),
    Cause.SERVER_CERTIFICATE_INTERMEDIATE_MISSING: Saying(
        "{whose}, of the server {peer}, came without the certificate of {issuer}, which signed it",
        _PEER,
        "Have the server send its whole chain",
        "trustRoots",
    ),
    Cause.SERVER_CERTIFICATE_PIN: Saying(
        "the server {peer} has another key than was pinned: {reason}",
        _US,
        "Pin its new key, if that was changed on purpose",
        "pins",
    ),
    Cause.SERVER_CERTIFICATE_RULE: Saying(
        "a check of this client refused the server {peer}: {reason}",
        _PEER,
        "Change the check, or give the server another certificate",
    ),
    Cause.SERVER_CERTIFICATE_INVALID: Saying(
        "{whose}, of the server {peer}, does not verify: {reason}",
        _PEER,
        "Give the server another certificate",
        "trustRoots",
    ),
    Cause.SERVER_REFUSES_CERTIFICATE: Saying(
        "the server {peer} refused our certificate: {reason}",
        _US,
        "Show a certificate that the server takes",
        OWN,
    ),
    Cause.SERVER_WANTS_CERTIFICATE: Saying(
        "the server {peer} wants a certificate of its clients, and got none",
        _US,
        "Show one",
        "certificate",
    ),
}

_ALERTS: dict[Cause, Saying] = {
    Cause.ALERT_BAD_CERTIFICATE: Saying(
        "{peer} refused our certificate as bad: corrupt, or not for {name}",
        _US,
        "See with openssl s_client what is served for that name",
        OWN,
    ),
    Cause.ALERT_UNSUPPORTED_CERTIFICATE: Saying(
        "{peer} does not take certificates of our certificate's kind: its key, or its purpose",
        _US,
        "Use a certificate with a usual key that is made for this purpose",
        OWN,
    ),
    Cause.ALERT_CERTIFICATE_REVOKED: Saying(
        "{peer} says that our certificate for {name} was revoked", _US, _RENEW, OWN
    ),
    Cause.ALERT_CERTIFICATE_EXPIRED: Saying(
        "{peer} says that our certificate for {name} is not valid at this time",
        _US,
        _RENEW + "; if it is valid, the {them}'s clock is wrong",
        OWN,
    ),
    Cause.ALERT_CERTIFICATE_UNKNOWN: Saying(
        "{peer} refused our certificate for {name} and does not say why; browsers do so where the"
        " user does not trust it",
        _US,
        "See that it is for that name and by an authority that the {them} trusts",
        OWN,
    ),
    Cause.ALERT_UNKNOWN_CA: Saying(
        "{peer} does not trust the authority of our certificate for {name}, or got no"
        " intermediates",
        _US,
        "Send the whole chain, or have the {them} trust its authority",
        OWN,
    ),
    Cause.ALERT_ACCESS_DENIED: Saying(
        "{peer} knows our certificate and does not want to go on", _PEER, "Ask who runs it", OWN
    ),
    Cause.ALERT_DECRYPT_ERROR: Saying(
        "{peer} found a signature or a finished message of ours wrong",
        _US,
        "See that key and certificate belong together; else something on the way changes the"
        " handshake",
        OWN,
    ),
    Cause.ALERT_BAD_CERTIFICATE_STATUS_RESPONSE: Saying(
        "{peer} does not take the OCSP response that came with our certificate",
        _US,
        "See that the response is fresh and of the right authority",
        OWN,
    ),
    Cause.ALERT_ILLEGAL_PARAMETER: Saying(
        "{peer} found a field of our handshake wrong", _PEER, _BROKEN
    ),
    Cause.ALERT_INTERNAL_ERROR: Saying(
        "something went wrong inside {peer}", _PEER, "Look into the {them}'s own log"
    ),
    Cause.ALERT_PROTOCOL_VERSION: Saying(
        "{peer} does not take the version of TLS that we chose",
        _PEER,
        "Have the {them} speak TLS 1.2 or 1.3",
        "policy",
    ),
    Cause.ALERT_HANDSHAKE_FAILURE: Saying(
        "{peer} found nothing that both sides agree on: a cipher, a group, a signature, or a"
        " certificate that it wants",
        _PEER,
        "Compare what both sides are set to",
        "policy",
    ),
    Cause.ALERT_INSUFFICIENT_SECURITY: Saying(
        "{peer} wants stronger ciphers, groups or keys than it was offered",
        _US,
        "Use a stronger key, or a policy with what the {them} wants",
        "policy",
    ),
    Cause.ALERT_INAPPROPRIATE_FALLBACK: Saying(
        "{peer} takes our hello for a fallback though it speaks newer versions (RFC 7507)",
        _NETWORK,
        "Look for what broke the first try: a middlebox, or losses on the way",
        "policy",
    ),
    Cause.ALERT_USER_CANCELED: Saying(
        "{peer} gave the handshake up: its user did, or the program",
        _NEITHER,
        "Nothing is to be changed",
    ),
    Cause.ALERT_UNRECOGNIZED_NAME: Saying(
        "{peer} does not know the name {name}",
        _US,
        "Correct the name that is asked for",
        "serverName",
    ),
    Cause.ALERT_NO_APPLICATION_PROTOCOL: Saying(
        "{peer} takes none of the ALPN protocols here: {ours}",
        _US,
        "Have both sides name a common protocol",
        "alpn",
    ),
    Cause.ALERT_UNSUPPORTED_EXTENSION: Saying(
        "{peer} got an extension that it says it did not ask for", _PEER, _BROKEN
    ),
    Cause.ALERT_DECODE_ERROR: Saying(
        "{peer} could not make sense of a message of ours", _PEER, _BROKEN
    ),
    Cause.ALERT_UNEXPECTED_MESSAGE: Saying(
        "{peer} got a message that it did not expect", _PEER, _BROKEN
    ),
    Cause.ALERT_RECORD_OVERFLOW: Saying("{peer} found a record of ours too long", _PEER, _BROKEN),
    Cause.ALERT_BAD_RECORD_MAC: Saying(
        "{peer} could not decrypt what it got: it was damaged or changed on the way",
        _NETWORK,
        "Look for a middlebox, or a broken network card",
    ),
    Cause.ALERT_MISSING_EXTENSION: Saying(
        "{peer} misses an extension in our handshake", _PEER, _BROKEN
    ),
    Cause.ALERT_CERTIFICATE_REQUIRED: Saying(
        "{peer} says that a certificate is required, which servers say and clients do not",
        _PEER,
        _BROKEN,
    ),
    Cause.ALERT_CLOSE_NOTIFY: Saying(
        "{peer} closed the connection, in good order, before the handshake was done",
        _NEITHER,
        "Nothing is to be changed",
    ),
    Cause.ALERT_OTHER: Saying(
        "{peer} ended the handshake with an alert that is not of the usual ones: {reason}",
        _PEER,
        "Look into the {them}'s own log",
    ),
}

SAYINGS: Final[Mapping[Cause, Saying]] = MappingProxyType(
    {**_OFFERS, **_CLIENT_CERTIFICATES, **_SERVER_CERTIFICATES, **_ALERTS, **WIRE_SAYINGS}
)
"""What is said of each cause."""
