"""
Why handshakes fail: the causes by name, and what can be said of one.

What is said of each is in the tables of L{_sayings} and L{_wire_sayings}; which cause it was is
found by L{explanations}.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto
from typing import Final

import attrs


class Cause(StrEnum):
    """Why a handshake failed.  The value is its name in small letters, for a metric's label."""

    # What was offered
    CLIENT_TOO_OLD = auto()
    CLIENT_TOO_NEW = auto()
    SSL2_HELLO = auto()
    SSL3_HELLO = auto()
    SERVER_VERSION = auto()
    FALLBACK = auto()
    NO_SHARED_CIPHER = auto()
    NO_SHARED_GROUP = auto()
    NO_SHARED_SIGNATURE = auto()
    ECDSA_ONLY_CLIENT = auto()
    RSA_ONLY_CLIENT = auto()
    NO_CERTIFICATE = auto()
    KEY_SHARE_MISSING = auto()
    EXTENSION_MISSING = auto()
    ALPN_MISMATCH = auto()
    # Which certificate
    UNKNOWN_NAME = auto()
    NO_NAME = auto()
    NAME_CHANGED = auto()
    ACME_VALIDATION = auto()
    CERTIFICATE_LOOKUP_FAILED = auto()
    CERTIFICATE_LOOKUP_TIMEOUT = auto()
    # The client's certificate, refused by us
    CLIENT_CERTIFICATE_MISSING = auto()
    CLIENT_CERTIFICATE_EXPIRED = auto()
    CLIENT_CERTIFICATE_NOT_YET_VALID = auto()
    CLIENT_CERTIFICATE_UNKNOWN_AUTHORITY = auto()
    CLIENT_CERTIFICATE_SELF_SIGNED = auto()
    CLIENT_CERTIFICATE_INTERMEDIATE_MISSING = auto()
    CLIENT_CERTIFICATE_WRONG_PURPOSE = auto()
    CLIENT_CERTIFICATE_REVOKED = auto()
    CLIENT_CERTIFICATE_CRL_MISSING = auto()
    CLIENT_CERTIFICATE_CRL_STALE = auto()
    CLIENT_CERTIFICATE_CRL_INVALID = auto()
    CLIENT_CERTIFICATE_BAD_SIGNATURE = auto()
    CLIENT_CERTIFICATE_WEAK = auto()
    CLIENT_CERTIFICATE_PATH_TOO_LONG = auto()
    CLIENT_CERTIFICATE_NOT_AUTHORITY = auto()
    CLIENT_CERTIFICATE_NAME_CONSTRAINTS = auto()
    CLIENT_CERTIFICATE_CRITICAL_EXTENSION = auto()
    CLIENT_CERTIFICATE_RULE = auto()
    CLIENT_CERTIFICATE_INVALID = auto()
    # The server's certificate, refused by us
    SERVER_CERTIFICATE_WRONG_HOST = auto()
    SERVER_CERTIFICATE_EXPIRED = auto()
    SERVER_CERTIFICATE_NOT_YET_VALID = auto()
    SERVER_CERTIFICATE_UNKNOWN_AUTHORITY = auto()
    SERVER_CERTIFICATE_SELF_SIGNED = auto()
    SERVER_CERTIFICATE_INTERMEDIATE_MISSING = auto()
    SERVER_CERTIFICATE_PIN = auto()
    SERVER_CERTIFICATE_RULE = auto()
    SERVER_CERTIFICATE_INVALID = auto()
    # Either's
    CERTIFICATE_MALFORMED = auto()
    # Our certificate, or the lack of one, refused by the server
    SERVER_REFUSES_CERTIFICATE = auto()
    SERVER_WANTS_CERTIFICATE = auto()
    # Alerts that the peer sent
    ALERT_BAD_CERTIFICATE = auto()
    ALERT_UNSUPPORTED_CERTIFICATE = auto()
    ALERT_CERTIFICATE_REVOKED = auto()
    ALERT_CERTIFICATE_EXPIRED = auto()
    ALERT_CERTIFICATE_UNKNOWN = auto()
    ALERT_UNKNOWN_CA = auto()
    ALERT_ACCESS_DENIED = auto()
    ALERT_DECRYPT_ERROR = auto()
    ALERT_BAD_CERTIFICATE_STATUS_RESPONSE = auto()
    ALERT_ILLEGAL_PARAMETER = auto()
    ALERT_INTERNAL_ERROR = auto()
    ALERT_PROTOCOL_VERSION = auto()
    ALERT_HANDSHAKE_FAILURE = auto()
    ALERT_INSUFFICIENT_SECURITY = auto()
    ALERT_INAPPROPRIATE_FALLBACK = auto()
    ALERT_USER_CANCELED = auto()
    ALERT_UNRECOGNIZED_NAME = auto()
    ALERT_NO_APPLICATION_PROTOCOL = auto()
    ALERT_UNSUPPORTED_EXTENSION = auto()
    ALERT_DECODE_ERROR = auto()
    ALERT_UNEXPECTED_MESSAGE = auto()
    ALERT_RECORD_OVERFLOW = auto()
    ALERT_BAD_RECORD_MAC = auto()
    ALERT_MISSING_EXTENSION = auto()
    ALERT_CERTIFICATE_REQUIRED = auto()
    ALERT_CLOSE_NOTIFY = auto()
    ALERT_OTHER = auto()
    # Other protocols on this port
    HTTP = auto()
    HTTP2 = auto()
    SSH = auto()
    SMTP = auto()
    POP3 = auto()
    IMAP = auto()
    FTP = auto()
    PROXY_V1 = auto()
    PROXY_V2 = auto()
    RDP = auto()
    SMB = auto()
    POSTGRESQL = auto()
    MYSQL = auto()
    LDAP = auto()
    XMPP = auto()
    REDIS = auto()
    MQTT = auto()
    DNS = auto()
    SOCKS4 = auto()
    SOCKS5 = auto()
    MEMCACHED = auto()
    TELNET = auto()
    STUN = auto()
    NUL_BYTES = auto()
    GARBAGE = auto()
    SERVER_PLAIN_HTTP = auto()
    SERVER_PLAIN_SMTP = auto()
    SERVER_PLAIN_OTHER = auto()
    # Ends
    CLOSED_SILENT = auto()
    CLOSED_IN_HELLO = auto()
    CLOSED_AFTER_HELLO = auto()
    RESET_SILENT = auto()
    RESET_IN_HELLO = auto()
    RESET_AFTER_HELLO = auto()
    TIMEOUT_SILENT = auto()
    TIMEOUT_IN_HELLO = auto()
    TIMEOUT_AFTER_HELLO = auto()
    SERVER_CLOSED = auto()
    SERVER_RESET = auto()
    SERVER_TIMEOUT = auto()
    ABORTED = auto()
    # What is against the rules
    RECORD_TOO_LONG = auto()
    MESSAGE_TOO_LONG = auto()
    BAD_RECORD_VERSION = auto()
    BAD_RECORD_MAC = auto()
    EMPTY_RECORDS = auto()
    CORRUPT_HELLO = auto()
    MALFORMED_MESSAGE = auto()
    UNEXPECTED_MESSAGE = auto()
    ILLEGAL_FIELD = auto()
    BAD_HANDSHAKE_SIGNATURE = auto()
    BAD_FINISHED = auto()
    TOO_MANY_ALERTS = auto()
    # Ours
    CALLBACK_FAILED = auto()
    INTERNAL_ERROR = auto()
    UNKNOWN = auto()


class Who(Enum):
    """Who has to change something, seen from us."""

    US = auto()
    PEER = auto()
    NEITHER = auto()
    NETWORK = auto()


OWN: Final = "our certificate"
"""Stands for the option that says where it comes from; which one depends on what is set."""


@attrs.frozen
class Saying:
    """
    What is said of a cause.

    @ivar sentence: a template of C{str.format}'s; L{explanations} has the facts for it.
    @ivar who: who has to change something.
    @ivar advice: what, another template, without the full stop.
    @ivar setting: the option that decides it, or L{OWN}.
    """

    sentence: str
    who: Who
    advice: str
    setting: str | None = None
