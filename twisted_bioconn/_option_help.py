"""
What each option of an endpoint string is for, and what holds where it is not there.

L{endpoint_strings} has what values they take.  This is what the documentation is made of.
"""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen
class Help:
    """
    What is said of an option, in Markdown.

    @ivar meaning: what it is for.
    @ivar default: what holds where it is not there: a value in C{`}, or in words; empty where that
        is no question.
    """

    meaning: str
    default: str = ""


SERVER_HELP: Final[dict[str, Help]] = {
    "port": Help("to listen on; in a string it comes first and needs no name"),
    "interface": Help("the address to listen on", "all of IPv4"),
    "backlog": Help("those that wait to be accepted", "as many as the system lets wait"),
    "endpoint": Help("in place of these three: TLS on any other endpoint"),
    "privateKey": Help(
        "it may hold the certificates too; loaded anew when it changes", "`server.pem`"
    ),
    "certKey": Help("the certificate, and intermediates after it", "the file of `privateKey`"),
    "extraCertChain": Help("more intermediates"),
    "passphraseFile": Help("for keys that are encrypted, and to encrypt those in Redis"),
    "sslmethod": Help("as in `ssl:`; `policy` wins"),
    "dhParameters": Help("adds the `DHE` ciphers"),
    "certificates": Help("certificates by name, found there and loaded anew"),
    "acme": Help("certificates from an authority; `acme=none` to give no address"),
    "names": Help("what they are to be for"),
    "acmeDirectory": Help("the next is tried where one fails", "`letsencrypt`"),
    "acmeAuthorities": Help("who signs for the authority's own server", "the system's"),
    "acmeChallenge": Help("on the same port; `*.` names need `dns-01`", "`tls-alpn-01`"),
    "acmeBinding": Help("the account elsewhere: its identifier, and its HMAC key on the next line"),
    "acmeProfile": Help("which of the kinds of certificate that the authority has", "its choice"),
    "acmeChain": Help("which of several chains", "the authority's choice"),
    "state": Help(
        "where accounts, orders and certificates are kept",
        "`$STATE_DIRECTORY`, else `$XDG_STATE_HOME/bioconn`, else `~/.local/state/bioconn`",
    ),
    "redis": Help("shared by several machines, in place of `state`"),
    "clientAuthorities": Help("who signs the certificates of clients; loaded anew"),
    "clientCertificate": Help(
        "`request` asks for one, and leaves the verdict to `allow`",
        "`require`, where there are `clientAuthorities`",
    ),
    "crl": Help("what they have revoked; loaded anew"),
    "crlMode": Help(
        "where a list is missing or out of date, clients are refused; `soft`: it is said", "`hard`"
    ),
    "allow": Help("who may come in: a rule that matches is enough"),
    "unknownName": Help(
        "what a client gets that asks for a name without a certificate", "`default`"
    ),
    "policy": Help(
        "TLS 1.2 and 1.3, `modern` 1.3 alone: Mozilla's tables; it wins over `sslmethod`",
        "`intermediate`",
    ),
    "alpn": Help("best first", "those of the application"),
    "handshakeTimeout": Help("for all that comes before the handshake is done", "`10`"),
    "closeTimeout": Help("for the peer to close after us", "`30`"),
    "idleTimeout": Help("without a byte either way", "`off`"),
    "plain": Help(
        "what bytes get that are not TLS: `redirect` tells HTTP where TLS is, `forward` has the"
        " application take them as they are",
        "`refuse`",
    ),
    "plainAfter": Help("with `plain=forward`, after so much silence a client is a plain one"),
    "proxyProtocol": Help(
        "whose connections have to begin with a PROXY header, version 1 or 2; nobody else's may",
        "nobody's",
    ),
    "maxConnections": Help("at a time", "no limit"),
    "maxPerAddress": Help("of one address", "no limit"),
    "maxPerNetwork": Help("of 24 bits of an IPv4 address, 64 of an IPv6 address", "no limit"),
    "maxHandshakes": Help("at a time", "no limit"),
    "handshakeRate": Help("those over it are closed at their first record", "no limit"),
    "maxLifetime": Help("after which a connection is closed, whatever it is doing", "no limit"),
    "starttls": Help(
        "in which TLS is asked for: smtp, lmtp, imap, pop3, sieve, ldap, xmpp, xmpp-server or"
        " postgresql",
        "none: TLS from the first byte",
    ),
    "hostName": Help("what we call ourselves before TLS", "the machine's name"),
    "trace": Help(
        "each step of each connection: `.html` a page, `.pcapng` for Wireshark, `.json`, else text"
    ),
    "traceEvery": Help("with `trace`, the first of so many", "all"),
    "traceFrom": Help("with `trace`, of clients from there alone", "anywhere"),
    "traceFailures": Help("with `trace`, of handshakes that fail alone", "`no`"),
    "unsafeTraceSecrets": Help(
        "with `trace`, the keys too: who has the file can decrypt the connections", "`no`"
    ),
    "unsafeKeyLog": Help("the keys of all connections, as in `SSLKEYLOGFILE`"),
}
"""The options of a server's string."""

CLIENT_HELP: Final[dict[str, Help]] = {
    "host": Help("the first value; the certificate has to be for it"),
    "port": Help("the second value"),
    "timeout": Help("for the connection and the handshake together", "`30`"),
    "bindAddress": Help("to connect from", "any"),
    "certificate": Help("our own, with its chain", "none is shown"),
    "privateKey": Help("its key, if that is elsewhere", "the file of `certificate`"),
    "passphraseFile": Help("for a key that is encrypted"),
    "trustRoots": Help("who signs for servers", "those that the system trusts"),
    "endpoint": Help("TLS on any other endpoint, in place of host and port"),
    "serverName": Help("where the certificate is for another", "`host`"),
    "alpn": Help("best first", "those of the application"),
    "policy": Help("as for servers", "`intermediate`"),
    "pins": Help("the server's key has to be one of these"),
    "closeTimeout": Help("for the peer to close after us", "`30`"),
    "starttls": Help("in which the server is asked for TLS", "none: TLS from the first byte"),
    "hostName": Help(
        "what we call ourselves when we ask; in XMPP the domain that is asked for",
        "`localhost`, with XMPP `host`",
    ),
    "unsafeSkipVerification": Help("takes any certificate", "`no`"),
    "trace": Help("each step of each connection, as at a server"),
    "unsafeTraceSecrets": Help("with `trace`, the keys too", "`no`"),
    "unsafeKeyLog": Help("the keys of all connections"),
}
"""The options of a client's string."""
