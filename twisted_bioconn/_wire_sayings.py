"""What is said of other protocols, of connections that end early, and of what breaks the rules."""

from __future__ import annotations

from typing import Final

from ._causes import Cause, Saying, Who

_US, _PEER, _NEITHER, _NETWORK = Who.US, Who.PEER, Who.NEITHER, Who.NETWORK

_BROKEN = "If it is no scan, the {them}'s TLS is broken, or something on the way changes it"
_WAY = "Look for a middlebox, or a broken network card"

PROTOCOLS: Final[dict[Cause, tuple[str, str]]] = {
    Cause.HTTP: ("plain HTTP", "Use https:, or have plain=redirect tell it to"),
    Cause.HTTP2: ("HTTP/2 without TLS", "Use https: and no prior knowledge (h2c)"),
    Cause.SSH: ("SSH", "Have it come to the port of the SSH server"),
    Cause.SMTP: ("SMTP in the clear", "Set the client to TLS from the start, not to STARTTLS"),
    Cause.POP3: ("POP3 in the clear", "Set the client to TLS from the start, not to STLS"),
    Cause.IMAP: ("IMAP in the clear", "Set the client to TLS from the start, not to STARTTLS"),
    Cause.FTP: ("FTP in the clear", "Set the client to implicit TLS, not to AUTH TLS"),
    Cause.PROXY_V1: (
        "the PROXY protocol, version 1",
        "Name the proxy's network in proxyProtocol=, or have the proxy send no header",
    ),
    Cause.PROXY_V2: (
        "the PROXY protocol, version 2",
        "Name the proxy's network in proxyProtocol=, or have the proxy send no header",
    ),
    Cause.RDP: ("RDP", "Expect scans; otherwise it has the wrong port"),
    Cause.SMB: ("SMB", "Expect scans; otherwise it has the wrong port"),
    Cause.POSTGRESQL: (
        "PostgreSQL's protocol, which has its own way to begin TLS",
        "Use sslnegotiation=direct, which PostgreSQL has from version 17 on",
    ),
    Cause.MYSQL: ("MySQL's protocol", "MySQL begins in the clear: take TLS off this port"),
    Cause.LDAP: ("LDAP in the clear", "Use ldaps:, not StartTLS"),
    Cause.XMPP: ("XMPP in the clear", "Use direct TLS (XEP-0368), not STARTTLS"),
    Cause.REDIS: ("Redis's protocol in the clear", "Use rediss:, or redis-cli --tls"),
    Cause.MQTT: ("MQTT in the clear", "Use mqtts:"),
    Cause.DNS: ("DNS over TCP in the clear", "Use DNS over TLS (RFC 7858)"),
    Cause.SOCKS4: ("SOCKS 4", "This port is no proxy: correct the client's proxy settings"),
    Cause.SOCKS5: ("SOCKS 5", "This port is no proxy: correct the client's proxy settings"),
    Cause.MEMCACHED: ("memcached's protocol in the clear", "Have the client begin TLS"),
    Cause.TELNET: ("Telnet", "Expect scans; otherwise it has the wrong port"),
    Cause.STUN: ("STUN or TURN without TLS", "Use turns: or stuns: (RFC 7065, RFC 7064)"),
}
"""Other protocols: each in words, and what a client of it has to change."""

_ON_PORT = "{peer} speaks {protocol}, and this port speaks TLS"
_PROXIES = (Cause.PROXY_V1, Cause.PROXY_V2)

_FOREIGN: dict[Cause, Saying] = {
    cause: Saying(
        _ON_PORT,
        _US if cause in _PROXIES else _PEER,
        advice,
        "proxyProtocol" if cause in _PROXIES else "plain",
    )
    for cause, (_, advice) in PROTOCOLS.items()
} | {
    Cause.NUL_BYTES: Saying(
        "{peer} sent nothing but NUL bytes, which are no TLS", _PEER, "Expect scans", "plain"
    ),
    Cause.GARBAGE: Saying(
        "{peer} sent what is neither TLS nor any protocol known here: {first}",
        _PEER,
        "Expect scans; otherwise it has the wrong port",
        "plain",
    ),
    Cause.SERVER_PLAIN_HTTP: Saying(
        "{peer} answers in plain HTTP, and we connect with TLS: {first}",
        _US,
        "Connect without TLS, or to the server's port for https",
        "port",
    ),
    Cause.SERVER_PLAIN_SMTP: Saying(
        "{peer} greets as a mail server does in the clear, and we connect with TLS: {first}",
        _US,
        "Begin with STARTTLS, or connect to the port for TLS (465)",
        "port",
    ),
    Cause.SERVER_PLAIN_OTHER: Saying(
        "{peer} speaks {protocol}, and we connect with TLS: {first}",
        _US,
        "Connect without TLS, or to a port of the server's that speaks it",
        "port",
    ),
}

_ENDS: dict[Cause, Saying] = {
    Cause.CLOSED_SILENT: Saying(
        "{peer} connected and closed without a byte, after {waited}: a health check, or a scan",
        _NEITHER,
        "Nothing is to be changed",
    ),
    Cause.CLOSED_IN_HELLO: Saying(
        "{peer} closed after {received} of its hello",
        _PEER,
        "Expect scans; otherwise look into the client's own log",
    ),
    Cause.CLOSED_AFTER_HELLO: Saying(
        "{peer} closed in mid-handshake, after its hello, without an alert",
        _PEER,
        "Look into the client's own log: some close where they do not like a certificate",
    ),
    Cause.RESET_SILENT: Saying(
        "{peer} connected and reset the connection without a byte, after {waited}: a health check,"
        " or a scan",
        _NEITHER,
        "Nothing is to be changed",
    ),
    Cause.RESET_IN_HELLO: Saying(
        "the connection of {peer} was reset after {received} of its hello",
        _NETWORK,
        "Expect scans; otherwise look for a firewall that reads hellos",
    ),
    Cause.RESET_AFTER_HELLO: Saying(
        "the connection of {peer} was reset in mid-handshake, after its hello",
        _NETWORK,
        "Look into the client's own log, and for a firewall that reads hellos",
    ),
    Cause.TIMEOUT_SILENT: Saying(
        "{peer} sent nothing within {seconds}: a scan, a connection kept in reserve, or a protocol"
        " whose server speaks first",
        _PEER,
        "Have it begin TLS at once",
        "handshakeTimeout",
    ),
    Cause.TIMEOUT_IN_HELLO: Saying(
        "{peer} sent {received} of a hello within {seconds}, and no more",
        _NETWORK,
        "Look for a path that drops large packets; a slow sender may also mean to hold connections",
        "handshakeTimeout",
    ),
    Cause.TIMEOUT_AFTER_HELLO: Saying(
        "{peer} did not answer our part of the handshake within {seconds}",
        _NETWORK,
        "Look for a path that drops large packets (its MTU), or a client that waits for its user",
        "handshakeTimeout",
    ),
    Cause.SERVER_CLOSED: Saying(
        "the server {peer} closed in mid-handshake, without an alert, after {received}",
        _PEER,
        "Look into the server's own log, and see that the port speaks TLS",
    ),
    Cause.SERVER_RESET: Saying(
        "the connection to {peer} was reset in mid-handshake, after {received}",
        _NETWORK,
        "Look into the server's own log, and for a firewall on the way",
    ),
    Cause.SERVER_TIMEOUT: Saying(
        "the server {peer} did not finish the handshake within {seconds}; {received} came",
        _PEER,
        "See that the port speaks TLS and that the server is not overloaded",
        "timeout",
    ),
    Cause.ABORTED: Saying(
        "the handshake with {peer} was given up on this side, after {waited}",
        _NEITHER,
        "Nothing is to be changed",
    ),
}

_AGAINST_THE_RULES: dict[Cause, Saying] = {
    Cause.RECORD_TOO_LONG: Saying(
        "{peer} sent a record longer than TLS allows (RFC 8446, section 5.1)", _PEER, _BROKEN
    ),
    Cause.MESSAGE_TOO_LONG: Saying(
        "{peer} sent a message longer than is taken here, such as a chain of certificates of more"
        " than 100 KiB",
        _PEER,
        "Have the {them} send a shorter chain",
    ),
    Cause.BAD_RECORD_VERSION: Saying(
        "{peer} sent a record of no version of TLS: {first}", _PEER, _BROKEN
    ),
    Cause.BAD_RECORD_MAC: Saying(
        "a record of {peer} could not be decrypted: it was damaged or changed on the way",
        _NETWORK,
        _WAY,
    ),
    Cause.EMPTY_RECORDS: Saying(
        "{peer} sent records with nothing in them, which RFC 8446, section 5.1, forbids",
        _PEER,
        _BROKEN,
    ),
    Cause.CORRUPT_HELLO: Saying("the hello of {peer} makes no sense: {reason}", _PEER, _BROKEN),
    Cause.MALFORMED_MESSAGE: Saying(
        "{peer} sent a message that makes no sense: {reason}", _PEER, _BROKEN
    ),
    Cause.UNEXPECTED_MESSAGE: Saying(
        "{peer} sent what has no place at that point of a handshake: {reason}", _PEER, _BROKEN
    ),
    Cause.ILLEGAL_FIELD: Saying(
        "{peer} sent a field with a value that is not allowed: {reason}", _PEER, _BROKEN
    ),
    Cause.BAD_HANDSHAKE_SIGNATURE: Saying(
        "the signature of {peer} on the handshake does not verify: {reason}",
        _PEER,
        "See that the {them}'s key and certificate belong together",
    ),
    Cause.BAD_FINISHED: Saying(
        "the finished message of {peer} does not verify: both sides saw different handshakes",
        _NETWORK,
        "Look for a middlebox that changes handshakes",
    ),
    Cause.TOO_MANY_ALERTS: Saying(
        "{peer} sent one warning after the other and no handshake", _PEER, _BROKEN
    ),
    Cause.CALLBACK_FAILED: Saying(
        "something of this program failed during the handshake with {peer}: {reason}",
        _US,
        "Mend the callback",
    ),
    Cause.INTERNAL_ERROR: Saying(
        "something went wrong here, inside OpenSSL or one of its callbacks, with {peer}",
        _US,
        "Look at what is logged before this",
    ),
    Cause.UNKNOWN: Saying(
        "the handshake with {peer} failed for a reason that has no name here: {reason}",
        _NEITHER,
        "Look the reason up",
    ),
}

WIRE_SAYINGS: Final[dict[Cause, Saying]] = {**_FOREIGN, **_ENDS, **_AGAINST_THE_RULES}
"""What is said of these causes."""
