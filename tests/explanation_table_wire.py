"""
The table of L{tests.explanation_table}, third part: alerts, other protocols, ends, and damage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.context_material import serving, visiting
from tests.explanation_material import (
    Failing,
    Wire,
    at_server,
    by_hand,
    hello_in,
    known,
    meeting,
    sending,
    usual_hello,
)
from tests.explanation_table import AGREEMENT, fault
from tests.explanation_table_certificates import CLIENTS, SERVERS
from tests.fault_table_wire import in_tls12
from tests.faults import client_of, meet, server_of
from tests.protocol_material import App
from tests.tls_material import (
    HOST,
    TLS12,
    TLS13,
    Party,
    client,
    expired,
    not_yet_valid,
    stranger,
)
from twisted_bioconn.alerts import alert_record
from twisted_bioconn.errors import PeerError
from twisted_bioconn.explanations import Cause, FailedHandshake, Side
from twisted_bioconn.testing import Loopback

TLS12_FAULTS = {each.name: each for each in in_tls12()}


def refused_by_client(party: Party, version: int = TLS13, **options: Any) -> FailedHandshake:
    """What a server knows whose certificate a client of ours refused."""
    return at_server(meeting(serving(party, versions=(version, version)), visiting(**options)))


def alerted(number: int, **more: Any) -> FailedHandshake:
    """A client says hello, and then this alert."""

    def do(wire: Wire, app: App) -> None:
        wire.send(usual_hello())
        wire.send(bytes((21, 3, 3, 0, 2, 2, number)))

    return by_hand(do, **more)


def by_alert(cause: Cause, number: int, sentence: str, *more: Any, **known: Any) -> Failing:
    return Failing(cause, lambda: alerted(number, **known), sentence, *more)


def by_alert_of_tls12(number: int) -> Loopback:
    """As TLS 1.3 has it, some alerts end nothing: RFC 8446, section 6.1."""
    loop = meet(client_of(TLS12), server_of(TLS12))
    loop.to_server.put(loop.client.take() + bytes((21, 3, 3, 0, 2, 2, number)))
    return loop


SERVER_NAME = {"serverName": HOST}
OURS = (Side.SERVER, "certKey")

ALERTS = [
    Failing(
        Cause.ALERT_CERTIFICATE_EXPIRED,
        lambda: refused_by_client(expired(), TLS12),
        "192.0.2.7:50000 says that our certificate for www.example.org is not valid at this time",
        *OURS,
    ),
    Failing(
        Cause.ALERT_BAD_CERTIFICATE,
        lambda: refused_by_client(not_yet_valid()),
        "refused our certificate as bad: corrupt, or not for www.example.org",
        *OURS,
    ),
    Failing(
        Cause.ALERT_UNSUPPORTED_CERTIFICATE,
        lambda: refused_by_client(client()),
        "does not take certificates of our certificate's kind",
        *OURS,
    ),
    Failing(
        Cause.ALERT_UNKNOWN_CA,
        lambda: refused_by_client(stranger()),
        "does not trust the authority of our certificate for www.example.org",
        *OURS,
    ),
    Failing(
        Cause.ALERT_DECRYPT_ERROR,
        lambda: at_server(
            TLS12_FAULTS["TLSv1.2 server's signature"].make(), hello=hello_in(usual_hello())
        ),
        "found a signature or a finished message of ours wrong",
        *OURS,
    ),
    by_alert(Cause.ALERT_CERTIFICATE_UNKNOWN, 46, "does not say why; browsers do so", *OURS),
    by_alert(Cause.ALERT_CERTIFICATE_REVOKED, 44, "for www.example.org was revoked", *OURS),
    by_alert(
        Cause.ALERT_ACCESS_DENIED,
        49,
        "knows our certificate and does not want to go on",
        Side.CLIENT,
        "acme",
        settings={"acme": "admin@example.org"},
    ),
    by_alert(Cause.ALERT_BAD_CERTIFICATE_STATUS_RESPONSE, 113, "OCSP", *OURS),
    by_alert(Cause.ALERT_ILLEGAL_PARAMETER, 47, "found a field of our handshake wrong"),
    by_alert(Cause.ALERT_INTERNAL_ERROR, 80, "something went wrong inside 192.0.2.7:50000"),
    by_alert(
        Cause.ALERT_PROTOCOL_VERSION, 70, "the version of TLS that we chose", Side.CLIENT, "policy"
    ),
    by_alert(
        Cause.ALERT_HANDSHAKE_FAILURE,
        40,
        "found nothing that both sides agree on",
        Side.CLIENT,
        "policy",
    ),
    by_alert(
        Cause.ALERT_INSUFFICIENT_SECURITY, 71, "wants stronger ciphers", Side.SERVER, "policy"
    ),
    by_alert(Cause.ALERT_INAPPROPRIATE_FALLBACK, 86, "for a fallback", Side.NETWORK, "policy"),
    by_alert(Cause.ALERT_UNRECOGNIZED_NAME, 112, "does not know the name", Side.SERVER),
    Failing(
        Cause.ALERT_UNRECOGNIZED_NAME,
        lambda: sending(alert_record("unrecognized_name"), visiting(), settings=SERVER_NAME),
        "192.0.2.7:50000 does not know the name www.example.org",
        Side.CLIENT,
        "serverName",
    ),
    Failing(
        Cause.ALERT_HANDSHAKE_FAILURE,
        lambda: sending(alert_record("handshake_failure"), visiting()),
        "found nothing that both sides agree on",
        Side.SERVER,
        "policy",
    ),
    Failing(
        Cause.SERVER_VERSION,
        lambda: sending(alert_record("protocol_version"), visiting()),
        "speaks no version of TLS that we offer",
        Side.SERVER,
        "policy",
    ),
    by_alert(
        Cause.ALERT_NO_APPLICATION_PROTOCOL,
        120,
        "takes none of the ALPN protocols here: h2",
        Side.SERVER,
        "alpn",
        alpn=(b"h2",),
    ),
    by_alert(Cause.ALERT_UNSUPPORTED_EXTENSION, 110, "did not ask for"),
    by_alert(Cause.ALERT_DECODE_ERROR, 50, "could not make sense of a message of ours"),
    by_alert(Cause.ALERT_UNEXPECTED_MESSAGE, 10, "a message that it did not expect"),
    by_alert(Cause.ALERT_RECORD_OVERFLOW, 22, "found a record of ours too long"),
    by_alert(Cause.ALERT_BAD_RECORD_MAC, 20, "could not decrypt what it got", Side.NETWORK),
    by_alert(Cause.ALERT_MISSING_EXTENSION, 109, "misses an extension"),
    by_alert(Cause.ALERT_CERTIFICATE_REQUIRED, 116, "that a certificate is required"),
    by_alert(Cause.ALERT_OTHER, 115, "not of the usual ones: unknown_psk_identity"),
    by_alert(Cause.ALERT_OTHER, 99, "not of the usual ones: one without a name"),
    Failing(
        Cause.ALERT_USER_CANCELED,
        lambda: at_server(by_alert_of_tls12(90)),
        "gave the handshake up",
        Side.NEITHER,
    ),
    Failing(
        Cause.ALERT_CLOSE_NOTIFY,
        lambda: sending(usual_hello() + bytes.fromhex("15 0303 0002 01 00")),
        "closed the connection, in good order, before the handshake was done",
        Side.NEITHER,
    ),
]


PLAIN = [
    (Cause.HTTP, b"GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n"),
    (Cause.HTTP, b"POST /cgi-bin HTTP/1.0\r\n\r\n"),
    (Cause.HTTP, b"CONNECT example.com:443 HTTP/1.1\r\n\r\n"),
    (Cause.HTTP, b"OPTIONS * HTTP/1.1\r\n\r\n"),
    (Cause.HTTP2, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (Cause.SSH, b"SSH-2.0-OpenSSH_9.6\r\n"),
    (Cause.SMTP, b"EHLO client.example\r\n"),
    (Cause.SMTP, b"helo x\r\n"),
    (Cause.POP3, b"CAPA\r\n"),
    (Cause.IMAP, b"a001 CAPABILITY\r\n"),
    (Cause.IMAP, b". LOGIN user secret\r\n"),
    (Cause.FTP, b"AUTH TLS\r\n"),
    (Cause.FTP, b"USER anonymous\r\n"),
    (Cause.PROXY_V1, b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n"),
    (Cause.PROXY_V2, b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c" + bytes(range(12))),
    # What mstsc sends first, and what scanners do.
    (
        Cause.RDP,
        bytes.fromhex("0300002b26e00000000000436f6f6b69653a206d737473686173683d68656c6c6f0d0a"),
    ),
    (Cause.RDP, bytes.fromhex("030000130ee000000000000100080003000000")),
    (Cause.SMB, bytes.fromhex("00000054ff534d42720000000018012800000000")),
    (Cause.SMB, bytes.fromhex("000000d0fe534d4240000100")),
    (Cause.POSTGRESQL, bytes.fromhex("0000000804d2162f")),
    (Cause.POSTGRESQL, b"\0\0\0\x29\0\3\0\0user\0postgres\0"),
    (Cause.MYSQL, bytes.fromhex("2000000185ae7f000000000121") + bytes(23)),
    (Cause.LDAP, bytes.fromhex("300c020101600702010304008000")),
    (Cause.LDAP, bytes.fromhex("30840000002d02010763840000002404000a0100")),
    (Cause.XMPP, b"<?xml version='1.0'?><stream:stream to='example.org'>"),
    (Cause.REDIS, b"PING\r\n"),
    (Cause.REDIS, b"*1\r\n$4\r\nPING\r\n"),
    (Cause.MQTT, b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04test"),
    (Cause.MQTT, b"\x10\x12\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x04test"),
    (Cause.DNS, bytes.fromhex("001d123401000001000000000000076578616d706c6503636f6d0000010001")),
    (Cause.SOCKS4, b"\x04\x01\x01\xbb\x5d\xb8\xd8\x22\x00"),
    (Cause.SOCKS5, b"\x05\x01\x00"),
    (Cause.MEMCACHED, b"stats\r\n"),
    (Cause.MEMCACHED, b"\x80\x0b" + bytes(22)),
    (Cause.TELNET, b"\xff\xfb\x1f\xff\xfb\x20"),
    (Cause.STUN, b"\0\1\0\0\x21\x12\xa4\x42abcdefghijkl"),
]
"""What comes to a port that speaks TLS, and is none."""


def plain(cause: Cause, data: bytes) -> Failing:
    is_proxied = cause in (Cause.PROXY_V1, Cause.PROXY_V2)
    return Failing(
        cause,
        lambda: sending(data),
        ", and this port speaks TLS",
        Side.SERVER if is_proxied else Side.CLIENT,
        "proxyProtocol" if is_proxied else "plain",
    )


def answering(data: bytes) -> Callable[[], FailedHandshake]:
    """A server of something else is come to by a client of ours."""
    return lambda: sending(data, visiting())


PROTOCOLS = [
    *(plain(cause, data) for cause, data in PLAIN),
    Failing(
        Cause.NUL_BYTES,
        lambda: sending(bytes(20)),
        "192.0.2.7:50000 sent nothing but NUL bytes",
        setting="plain",
    ),
    Failing(
        Cause.GARBAGE,
        lambda: sending(b"\x9d\x01\xfd\xee what"),
        "sent what is neither TLS nor any protocol known here: 9d 01 fd ee …",
        setting="plain",
    ),
    Failing(
        Cause.GARBAGE,
        lambda: sending(b"hello there\r\n"),
        "known here: 'hell' …",
        setting="plain",
    ),
    Failing(
        Cause.SERVER_PLAIN_HTTP,
        answering(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n"),
        "192.0.2.7:50000 answers in plain HTTP, and we connect with TLS: 'HTTP/1.1 400 Bad Requ",
        Side.CLIENT,
        "port",
    ),
    Failing(
        Cause.SERVER_PLAIN_HTTP,
        answering(b"<!DOCTYPE HTML>\n<html lang='en'>"),
        "answers in plain HTTP, and we connect with TLS: '<!DOCTYPE HTML>'",
        Side.CLIENT,
        "port",
    ),
    Failing(
        Cause.SERVER_PLAIN_SMTP,
        answering(b"220 mail.example ESMTP\r\n"),
        "greets as a mail server does in the clear",
        Side.CLIENT,
        "port",
    ),
    *(
        Failing(
            Cause.SERVER_PLAIN_OTHER,
            answering(data),
            f"192.0.2.7:50000 speaks {words}, and we connect with TLS",
            Side.CLIENT,
            "port",
        )
        for data, words in (
            (b"SSH-2.0-dropbear\r\n", "SSH"),
            (b"* OK IMAP4rev1 ready\r\n", "IMAP in the clear"),
            (b"+OK ready\r\n", "POP3 in the clear"),
            (b"220 ProFTPD Server (FTP) ready\r\n", "FTP in the clear"),
            (b"-ERR unknown command\r\n", "Redis's protocol in the clear"),
            (b"\x4a\0\0\0\x0a8.0.36\0" + bytes(30), "MySQL's protocol"),
            (b"what is that?\r\n", "no TLS"),
        )
    ),
]


def reset(data: bytes) -> Callable[[], FailedHandshake]:
    """The client sends this and then resets the connection."""

    def do(wire: Wire, app: App) -> None:
        if data:
            wire.send(data)
        wire.clock.advance(0.5)
        wire.reset()

    return lambda: by_hand(do)


def waiting(data: bytes, options: Any = None) -> Callable[[], FailedHandshake]:
    """The peer sends this and then nothing more."""

    def do(wire: Wire, app: App) -> None:
        if data:
            wire.send(data)
        wire.wait(10.5)

    return lambda: by_hand(do, options, settings={"handshakeTimeout": 10, "timeout": 10})


def resetting_server() -> FailedHandshake:
    return by_hand(lambda wire, app: wire.reset(), visiting())


NEITHER, NETWORK = Side.NEITHER, Side.NETWORK

ENDS = [
    Failing(
        Cause.CLOSED_SILENT,
        lambda: by_hand(lambda wire, app: wire.close()),
        "192.0.2.7:50000 connected and closed without a byte, after 0 seconds: a health check",
        NEITHER,
    ),
    Failing(
        Cause.RESET_SILENT,
        reset(b""),
        "connected and reset the connection without a byte, after 0.5 seconds",
        NEITHER,
    ),
    Failing(
        Cause.CLOSED_IN_HELLO,
        lambda: sending(usual_hello()[:100]),
        "192.0.2.7:50000 closed after 100 bytes of its hello",
    ),
    Failing(Cause.CLOSED_IN_HELLO, lambda: sending(b"\x16"), "closed after 1 byte of its hello"),
    Failing(Cause.RESET_IN_HELLO, reset(usual_hello()[:100]), "was reset after 100 bytes", NETWORK),
    Failing(
        Cause.CLOSED_AFTER_HELLO,
        lambda: sending(usual_hello()),
        "closed in mid-handshake, after its hello, without an alert",
    ),
    Failing(Cause.RESET_AFTER_HELLO, reset(usual_hello()), "in mid-handshake, after its", NETWORK),
    Failing(
        Cause.TIMEOUT_SILENT,
        waiting(b""),
        "192.0.2.7:50000 sent nothing within 10 seconds",
        Side.CLIENT,
        "handshakeTimeout",
    ),
    Failing(
        Cause.TIMEOUT_IN_HELLO,
        waiting(usual_hello()[:100]),
        "sent 100 bytes of a hello within 10 seconds, and no more",
        NETWORK,
        "handshakeTimeout",
    ),
    Failing(
        Cause.TIMEOUT_AFTER_HELLO,
        waiting(usual_hello()),
        "did not answer our part of the handshake within 10 seconds",
        NETWORK,
        "handshakeTimeout",
    ),
    Failing(Cause.SOCKS5, waiting(b"\x05\x01\x00"), "speaks SOCKS 5", Side.CLIENT, "plain"),
    Failing(
        Cause.SERVER_CLOSED,
        lambda: by_hand(lambda wire, app: wire.close(), visiting()),
        "the server 192.0.2.7:50000 closed in mid-handshake, without an alert, after 0 bytes",
        Side.SERVER,
    ),
    Failing(
        Cause.SERVER_RESET,
        resetting_server,
        "the connection to 192.0.2.7:50000 was reset in mid-handshake",
        NETWORK,
    ),
    Failing(
        Cause.SERVER_TIMEOUT,
        waiting(b"", visiting()),
        "did not finish the handshake within 10 seconds; 0 bytes came",
        Side.SERVER,
        "timeout",
    ),
    Failing(
        Cause.ABORTED,
        lambda: by_hand(lambda wire, app: app.transport.abortConnection()),
        "was given up on this side",
        NEITHER,
    ),
]

HELLO = hello_in(usual_hello())


def no_version() -> FailedHandshake:
    return sending(b"\x16\x05\x01" + usual_hello()[3:])


def tls12_fault(name: str) -> Callable[[], FailedHandshake]:
    return lambda: at_server(TLS12_FAULTS[name].make(), hello=HELLO)


def unheard_of(is_server: bool = True) -> FailedHandshake:
    queue = [("SSL routines", "", "what a later OpenSSL says")]
    error = PeerError("what a later OpenSSL says", None, None, queue)
    return known(error, usual_hello(), is_server)


DAMAGE = [
    Failing(
        Cause.RECORD_TOO_LONG,
        lambda: sending(b"\x16\3\1\xff\xff" + bytes(65535)),
        "sent a record longer than TLS allows",
    ),
    Failing(Cause.RECORD_TOO_LONG, fault("TLSv1.3 client's long record", hello=HELLO), "longer"),
    Failing(Cause.MESSAGE_TOO_LONG, fault("TLSv1.3 client's huge message"), "100 KiB"),
    Failing(Cause.BAD_RECORD_VERSION, no_version, "sent a record of no version of TLS: 16 05 01"),
    Failing(
        Cause.BAD_RECORD_MAC,
        tls12_fault("TLSv1.2 client's damage at the end"),
        "could not be decrypted: it was damaged or changed on the way",
        NETWORK,
    ),
    Failing(Cause.EMPTY_RECORDS, fault("TLSv1.3 client's empty record"), "nothing in them"),
    Failing(
        Cause.CORRUPT_HELLO,
        fault("TLSv1.3 client's short hello"),
        "the hello of 192.0.2.7:50000 makes no sense: length mismatch",
    ),
    Failing(
        Cause.MALFORMED_MESSAGE,
        fault("TLSv1.3 client's short certificate", hello=HELLO),
        "sent a message that makes no sense",
    ),
    Failing(Cause.UNEXPECTED_MESSAGE, fault("TLSv1.3 client's message of no kind"), "no place"),
    Failing(
        Cause.UNEXPECTED_MESSAGE,
        fault("TLSv1.3 client's changes of keys"),
        "has no place at that point of a handshake: unexpected ccs message",
    ),
    Failing(
        Cause.UNEXPECTED_MESSAGE,
        tls12_fault("TLSv1.2 client's data at the end"),
        "has no place at that point of a handshake: data between ccs and finished",
    ),
    Failing(
        Cause.ILLEGAL_FIELD,
        fault("TLSv1.3 client's no compression"),
        "a field with a value that is not allowed: required compression algorithm missing",
    ),
    Failing(
        Cause.BAD_HANDSHAKE_SIGNATURE,
        fault("TLSv1.3 client's signature"),
        "the signature of 192.0.2.7:50000 on the handshake does not verify",
    ),
    Failing(
        Cause.BAD_FINISHED,
        fault("TLSv1.3 client's finished"),
        "both sides saw different handshakes",
        NETWORK,
    ),
    Failing(Cause.TOO_MANY_ALERTS, fault("TLSv1.3 client's warnings"), "one warning after"),
    Failing(
        Cause.CALLBACK_FAILED,
        fault("TLSv1.3: the choice of an application protocol fails"),
        "failed during the handshake with 192.0.2.7:50000: division by zero",
        Side.SERVER,
    ),
    Failing(
        Cause.INTERNAL_ERROR,
        fault("TLSv1.3: the choice of an application protocol is none"),
        "something went wrong here",
        Side.SERVER,
    ),
    Failing(
        Cause.UNKNOWN,
        unheard_of,
        "that has no name here: what a later OpenSSL says (OpenSSL: what a later OpenSSL says)",
        NEITHER,
    ),
]


def all_failing() -> list[Failing]:
    """The whole table."""
    return [*AGREEMENT, *CLIENTS, *SERVERS, *ALERTS, *PROTOCOLS, *ENDS, *DAMAGE]
