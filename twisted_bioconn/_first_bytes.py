"""
What a stranger speaks, by its first bytes: clients that have come to the wrong port, and servers
that greet in the clear.
"""

from __future__ import annotations

import re
from typing import Final

from ._causes import Cause

__all__ = ["is_record", "is_ssl2_hello", "protocol_of"]

_PATTERNS: Final[tuple[tuple[Cause, re.Pattern[bytes]], ...]] = tuple(
    (cause, re.compile(pattern, re.DOTALL))
    for cause, pattern in (
        (Cause.HTTP2, rb"PRI \* HTTP/2\.0\r\n"),  # RFC 9113, section 3.4
        (Cause.PROXY_V1, rb"PROXY (TCP4|TCP6|UNKNOWN)[ \r]"),
        (Cause.PROXY_V2, rb"\r\n\r\n\0\r\nQUIT\n"),
        (Cause.HTTP, rb"HTTP/[0-9]"),
        # An answer to a request of no version has no more than its body.
        (Cause.HTTP, rb"(?i)<(!doctype )?html"),
        (Cause.HTTP, rb"[A-Z]{3,20} (/|\*|https?:)"),  # RFC 9112, section 3
        (Cause.HTTP, rb"CONNECT [^ ]+:[0-9]+"),
        (Cause.SSH, rb"SSH-[0-9]"),  # RFC 4253, section 4.2
        (Cause.XMPP, rb"(\xef\xbb\xbf)?<(\?xml|stream:stream)"),  # RFC 6120, section 4
        (Cause.SMTP, rb"(?i)(EHLO|HELO|LHLO|MAIL FROM:|STARTTLS\r\n)"),  # RFC 5321, section 4.1
        (Cause.FTP, rb"220[ -].*FTP"),
        (Cause.SMTP, rb"220[ -]"),
        (Cause.IMAP, rb"\* (OK|PREAUTH|BYE) "),  # RFC 9051, section 7.1
        # A tag comes before each command: RFC 9051, section 2.2.1.
        (
            Cause.IMAP,
            rb"(?i)[a-z0-9.]{1,12} (CAPABILITY|STARTTLS|LOGIN |AUTHENTICATE |NOOP|LOGOUT|ID \()",
        ),
        (Cause.POP3, rb"\+OK"),  # RFC 1939, section 4
        (Cause.POP3, rb"(?i)(CAPA|STLS|APOP [^ ]+ .*)\r?\n"),
        (Cause.FTP, rb"(?i)(AUTH (TLS|SSL)|USER [^\r\n]*|FEAT|SYST)\r?\n"),  # RFC 959, RFC 4217
        (Cause.REDIS, rb"\*[0-9]+\r\n\$[0-9]+\r\n"),
        (Cause.REDIS, rb"(-(ERR|NOAUTH|DENIED) |\+PONG\r\n)"),
        (Cause.REDIS, rb"(?i)(PING|INFO|AUTH [^\r\n]+|HELLO [23]( [^\r\n]*)?)\r?\n"),
        (Cause.MEMCACHED, rb"(gets?|set|add|stats|version|delete|incr|flush_all)( [^\r\n]*)?\r\n"),
        (Cause.MEMCACHED, rb"(ERROR|VERSION [^\r\n]+)\r\n"),
        (Cause.MEMCACHED, rb"[\x80\x81][\x00-\x24][\x00-\x01].[\x00-\x20]\0"),
        # The packets of a client are numbered; its first one is 1, a server's greeting 0.
        (Cause.MYSQL, rb"...\x00\x0a[0-9][\x20-\x7e]*\0"),
        (Cause.MYSQL, rb"..\0\x01.{4}\0\0\0[\x01\x40]"),
        # SSLRequest, GSSENCRequest, CancelRequest, or a start-up message of version 3.
        (Cause.POSTGRESQL, rb"\0\0..(\x04\xd2\x16[\x2e\x2f\x30]|\x00\x03\x00[\x00-\x02])"),
        (Cause.SMB, rb"\0...[\xff\xfe\xfd]SMB"),
        (Cause.SMB, rb"\x81\0\0\x44\x20"),  # a session request of NetBIOS: RFC 1002, section 4.3.2
        (Cause.RDP, rb"\x03\x00\x00.[\x02-\xfe]\xe0"),  # TPKT and X.224: RFC 2126, section 4
        (Cause.STUN, rb"[\x00-\x3f].[\x00-\xff][\x00-\xff]\x21\x12\xa4\x42"),  # RFC 8489, section 5
        # A question: its length, a number, flags, one question, no answer. RFC 1035, section 4.
        (Cause.DNS, rb"[\x00-\x02].{3}[\x00-\x07\x20-\x27].\x00\x01\x00\x00"),
        # BER: a sequence, the number of the message, a bind, a search or an extended request.
        (Cause.LDAP, rb"\x30(.|\x84.{4}|\x82.{2}|\x81.)\x02[\x01-\x04].{1,4}?[\x60\x63\x77]"),
        (Cause.MQTT, rb"\x10[\x80-\xff]{0,3}[\x00-\x7f]\x00(\x04MQTT|\x06MQIsdp)"),
        (Cause.SOCKS4, rb"\x04[\x01\x02].{6}"),
        (Cause.SOCKS5, rb"\x05[\x01-\x0a][\x00-\x09\x80-\xff]"),  # RFC 1928, section 3
        (Cause.TELNET, rb"\xff[\xfb-\xfe]"),  # RFC 854
    )
)
"""What each protocol begins with.  The first that fits is the one."""


def is_record(first: bytes) -> bool:
    """Whether this begins as a record does, by its kind: RFC 8446, section 5.1."""
    return 20 <= first[0] <= 23 if first else False


def is_ssl2_hello(first: bytes) -> bool:
    """Whether this begins as a hello of SSL 2: two bytes of length, 1, and a version."""
    return len(first) >= 5 and first[0] & 0x80 != 0 and first[2] == 1 and first[3] in (0, 3)


def protocol_of(first: bytes) -> Cause | None:
    """
    What speaks like this.

    @param first: the first bytes that came; some 16 will do mostly.
    @return: L{None} where it is nothing that is known here.
    """
    if first and not first.strip(b"\0"):
        return Cause.NUL_BYTES
    return next((cause for cause, pattern in _PATTERNS if pattern.match(first)), None)
