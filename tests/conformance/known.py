"""
What OpenSSL does otherwise than the RFCs say, and ours with it; and what nginx does.

Each row has what is seen.  Ours is never alone there: L{tests.conformance.cases} has a case that
ours falls short of fall short in the same way at OpenSSL with nothing around it.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

OURS, BARE, NGINX = "bioconn", "OpenSSL", "nginx"
"""The servers, ours first.  C{OpenSSL} is what ours runs on, and nothing else."""


@attrs.frozen
class Deviation:
    """
    A case of which some server falls short.

    @ivar why: what it makes of it.
    @ivar seen: by the name of a server what is seen; those that are not here do as they should.
    """

    why: str
    seen: Mapping[str, str]


def of_openssl(seen: str, why: str, nginx: str | None = None) -> Deviation:
    """
    One of OpenSSL's.

    @param nginx: what is seen there, if that is something else, as its OpenSSL is older; empty
        where it does as it should, or has no such configuration.
    """
    others = {NGINX: seen if nginx is None else nginx} if nginx != "" else {}
    return Deviation(why, {OURS: seen, BARE: seen, **others})


def of_nginx(seen: str, why: str) -> Deviation:
    """One that is not ours."""
    return Deviation(why, {NGINX: seen})


_AS_HTTP = "nginx answers what is no TLS in plain HTTP"
_VERSIONS = "whatever is wrong with the list, there is no version in it"
_OLD = "OpenSSL 3.0 had not the right alert yet"
_EMPTY = "an empty record of this kind is passed over, up to 32 of them"

DEVIATIONS: dict[str, Deviation] = {
    # Hellos.
    "hello ends in the version": of_openssl(
        "illegal_parameter", "the version is looked at before the length", ""
    ),
    "versions are none": of_openssl("protocol_version", _VERSIONS),
    "versions have an odd length": of_openssl("protocol_version", _VERSIONS),
    "versions are shorter than they say": of_openssl("protocol_version", _VERSIONS),
    "versions have a byte after their end": of_openssl("protocol_version", _VERSIONS),
    "versions are an empty extension": of_openssl("protocol_version", _VERSIONS),
    "legacy version is SSL 3": of_nginx("handshake_failure", _OLD),
    "legacy version is SSL 3 beside TLS 1.3": of_nginx("handshake_failure", _OLD),
    "no cipher suites": of_nginx("illegal_parameter", _OLD),
    "no cipher suites in TLS 1.2": of_nginx("illegal_parameter", _OLD),
    "deflate alone": of_nginx("decode_error", _OLD),
    # Extensions.
    "unknown extension twice": of_openssl(
        "serves", "only extensions that it knows are looked for twice"
    ),
    "extension of GREASE twice": of_openssl(
        "serves", "only extensions that it knows are looked for twice"
    ),
    "name is empty": Deviation(
        "an empty name is taken for none",
        {OURS: "serves", BARE: "serves", NGINX: "serves|unrecognized_name"},
    ),
    "signatures by the hundred": of_openssl(
        "handshake_failure", "it looks at the first 128 signature algorithms", ""
    ),
    "point formats without the usual one in TLS 1.2": of_openssl(
        "serves", "what the client does not take, it does not look at", "handshake_failure"
    ),
    "authorities are an empty list": of_openssl("serves", "it takes an empty list"),
    # Key shares.
    "key exchange of P-256 is compressed": of_openssl(
        "bad_record_mac", "it takes the point; what does not fit is our finished message"
    ),
    "key exchange is no bytes": of_openssl(
        "handshake_failure", "a share that cannot be read ends with its general alert"
    ),
    # Records.
    "record of no kind before the hello": of_nginx("end within a record", _AS_HTTP),
    "data in place of the hello": of_nginx("end within a record", _AS_HTTP),
    "change_cipher_spec in place of the hello": of_nginx("end within a record", _AS_HTTP),
    "heartbeat in place of the hello": of_nginx("end within a record", _AS_HTTP),
    "hello in a record that is empty": of_openssl("serves", _EMPTY),
    "hello with a record amid it that is empty": of_openssl("serves", _EMPTY),
    "hello in a record of version 2": of_openssl("end", "only version 3 is TLS to it"),
    "hello in a record of version 4": of_openssl("end", "only version 3 is TLS to it"),
    "change_cipher_spec with another value": of_nginx("illegal_parameter", _OLD),
    "change_cipher_spec of two bytes": of_nginx("illegal_parameter", _OLD),
    "change_cipher_spec of no bytes": of_nginx("illegal_parameter", _OLD),
    "finished message with a warning amid it": of_openssl(
        "serves", "warnings and change_cipher_spec are passed over wherever they come"
    ),
    "finished message with a change_cipher_spec amid it": of_openssl(
        "serves", "warnings and change_cipher_spec are passed over wherever they come"
    ),
    "nothing in an encrypted record": of_openssl(
        "bad_record_mac", "a record has to be longer than its tag"
    ),
    "padding that is a byte too long": of_openssl(
        "serves", "the length is looked at once the padding is gone"
    ),
    "message of no bytes in TLS 1.2": of_openssl("serves", _EMPTY),
    "change of keys of no bytes": of_openssl("serves", _EMPTY),
    "record shorter than a tag in TLS 1.2": of_nginx("internal_error", _OLD),
    "record of no bytes in TLS 1.2": of_nginx("internal_error", _OLD),
    # Alerts.
    "close_notify is answered": of_nginx("end", "nginx closes with no word"),
    "close_notify is answered in TLS 1.2": of_nginx("end", "nginx closes with no word"),
    "close_notify in place of the hello": of_nginx("end within a record", _AS_HTTP),
    "fatal alert in place of the hello": of_nginx("end within a record", _AS_HTTP),
    "alert of a byte in place of the hello": of_nginx("end within a record", _AS_HTTP),
    "no_renegotiation as a warning in TLS 1.2": of_openssl(
        "handshake_failure", "to it that is a refusal of what it has asked for"
    ),
    # Certificates and sessions.
    "certificate with an unknown extension": of_openssl("serves", "it passes over it", ""),
    "key update of two bytes": of_openssl(
        "illegal_parameter", "the value is looked at before the length"
    ),
    "binder is wrong": of_nginx("illegal_parameter", _OLD),
    "binder is wrong in the second hello": of_nginx("illegal_parameter", _OLD),
    "binder is for another hello": of_nginx("illegal_parameter", _OLD),
    "binders have a byte after their end": of_nginx("illegal_parameter", _OLD),
    "sessions are more than binders": of_openssl(
        "serves resumed", "it looks at the binder of the session that it takes, and at no other"
    ),
    "sessions are none": of_openssl("serves anew", "it takes an empty list"),
    "session with another name in TLS 1.2": of_openssl(
        "serves resumed", "a session is resumed under any name of its context"
    ),
    "session without a name in TLS 1.2": of_openssl(
        "serves resumed", "a session is resumed under any name of its context"
    ),
    "session with another name, which is unknown, in TLS 1.2": of_nginx(
        "serves resumed", "nginx resumes before it looks for the name"
    ),
}
"""By the name of a case."""
