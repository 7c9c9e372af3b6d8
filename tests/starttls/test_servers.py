"""What the servers of L{twisted_bioconn.starttls} answer to all but the request for TLS."""

from __future__ import annotations

from xml.parsers import expat

from twisted.trial.unittest import SynchronousTestCase

from tests.starttls.material import (
    EXCHANGES,
    FEATURES,
    HOST,
    START_TLS,
    Outcome,
    play,
    server,
    stream,
)
from twisted_bioconn.starttls import DialogueState, StartTLSError

TALKING, TLS_NEXT, CLOSED = DialogueState.TALKING, DialogueState.TLS_NEXT, DialogueState.CLOSED


class ServerCase(SynchronousTestCase):
    """A test of one protocol's server."""

    name: str

    def outcome(self, *said: bytes) -> Outcome:
        """What becomes of it, without what it says first."""
        outcome = play(server(self.name), said)
        greeting = EXCHANGES[self.name][0][1]
        self.assertTrue(outcome.said.startswith(greeting))
        return Outcome(outcome.said.removeprefix(greeting), outcome.state, outcome.error)

    def check(self, said: bytes, answer: bytes, state: DialogueState = TALKING) -> None:
        """It answers so."""
        self.assertEqual(self.outcome(said), Outcome(answer, state), said)

    def fails(self, said: bytes, sentence: str, answer: bytes) -> None:
        """It answers so, and fails."""
        outcome = self.outcome(said)
        self.assertIsInstance(outcome.error, StartTLSError, outcome)
        self.assertEqual(str(outcome.error), f"{self.name}: {sentence}")
        self.assertEqual((outcome.said, outcome.state), (answer, CLOSED))


class SMTPTests(ServerCase):
    """SMTP."""

    name = "smtp"

    def test_commands(self) -> None:
        """RFC 3207, section 4: these are let in, and all others are told what is missing."""
        for said, answer in (
            (b"HELO me\r\n", b"250 mail.example.org\r\n"),
            (b"ehlo [127.0.0.1]\r\n", b"250-mail.example.org\r\n250 STARTTLS\r\n"),
            (b"EHLO\r\n", b"501 Syntax: EHLO hostname\r\n"),
            (b"NOOP at all\r\n", b"250 OK\r\n"),
            (b"rset\r\n", b"250 OK\r\n"),
            (b"STARTTLS now\r\n", b"501 Syntax error (no parameters allowed)\r\n"),
            *(
                (command + b"\r\n", b"530 Must issue a STARTTLS command first\r\n")
                for command in (b"MAIL FROM:<a@b>", b"AUTH PLAIN", b"LHLO me", b"", b"\xff\xfe")
            ),
        ):
            self.check(said, answer)

    def test_upgrade(self) -> None:
        """In any case, with space at the end or a bare line feed, and whatever came before."""
        for said in (b"StartTLS\r\n", b"STARTTLS \r\n", b"STARTTLS\n"):
            self.check(said, b"220 Ready to start TLS\r\n", TLS_NEXT)
        self.check(
            b"MAIL FROM:<a@b>\r\nSTARTTLS\r\n",
            b"530 Must issue a STARTTLS command first\r\n220 Ready to start TLS\r\n",
            TLS_NEXT,
        )

    def test_quit(self) -> None:
        """What follows is dropped."""
        self.check(b"QUIT\r\nNOOP\r\n", b"221 mail.example.org closing the connection\r\n", CLOSED)

    def test_broken(self) -> None:
        """What others could take for two lines is none; what was before it is answered."""
        for line in (b"NO\rOP\r\n", b"NO\0OP\r\n"):
            self.fails(
                b"NOOP\r\n" + line,
                "the client broke the protocol: a line has a carriage return or a NUL within",
                b"250 OK\r\n421 mail.example.org closing the connection\r\n",
            )


class LMTPTests(ServerCase):
    """LMTP."""

    name = "lmtp"

    def test_commands(self) -> None:
        """RFC 2033, section 4.1: there is neither HELO nor EHLO."""
        self.check(b"LHLO me\r\n", b"250-mail.example.org\r\n250 STARTTLS\r\n")
        for command in (b"HELO me", b"EHLO me"):
            self.check(command + b"\r\n", b"530 Must issue a STARTTLS command first\r\n")


class IMAPTests(ServerCase):
    """IMAP."""

    name = "imap"

    def test_commands(self) -> None:
        """What a client may do before it is authenticated, and what it may not."""
        first = b" Must issue a STARTTLS command first\r\n"
        for said, answer in (
            (b"a.1 noop\r\n", b"a.1 OK NOOP completed\r\n"),
            (b"a LOGIN {4}\r\n", b"a NO [PRIVACYREQUIRED]" + first),
            (b"a AUTHENTICATE PLAIN\r\n", b"a NO [PRIVACYREQUIRED]" + first),
            (b"a SELECT INBOX\r\n", b"a BAD" + first),
            (b"a STARTTLS now\r\n", b"a BAD STARTTLS has no arguments\r\n"),
            *(
                (said + b"\r\n", b"* BAD A tag and a command are expected\r\n")
                for said in (b"", b"a", b" NOOP", b"+ NOOP", b"a%b NOOP", b'"a" NOOP', b"* NOOP")
            ),
        ):
            self.check(said, answer)

    def test_tags(self) -> None:
        """Any that RFC 9051 has comes back as it was."""
        for tag in (b"!#$&',-./09:;<=>?@AZ[]^_`az|}~", b".", b"T" * 64):
            self.check(tag + b" STARTTLS\r\n", tag + b" OK Begin TLS negotiation now\r\n", TLS_NEXT)

    def test_logout(self) -> None:
        """Two lines, and the end."""
        self.check(
            b"a LOGOUT\r\n",
            b"* BYE mail.example.org closing the connection\r\na OK LOGOUT completed\r\n",
            CLOSED,
        )

    def test_literal(self) -> None:
        """What a literal holds is not read as a command."""
        self.fails(
            b"a LOGIN {12+}\r\na STARTTLS\r\n",
            "the client sent a literal that was not waited for",
            b"* BYE mail.example.org closing the connection\r\n",
        )


class POP3Tests(ServerCase):
    """POP3."""

    name = "pop3"

    def test_commands(self) -> None:
        """All else needs TLS."""
        for command in (b"USER me", b"APOP me 0123", b"AUTH PLAIN", b"NOOP", b"", b"\xff"):
            self.check(command + b"\r\n", b"-ERR Must issue a STLS command first\r\n")
        self.check(b"STLS now\r\n", b"-ERR STLS has no arguments\r\n")
        self.check(b"stls\r\n", b"+OK Begin TLS negotiation\r\n", TLS_NEXT)
        self.check(b"QUIT\r\n", b"+OK mail.example.org closing the connection\r\n", CLOSED)

    def test_broken(self) -> None:
        """It is told that this is the end."""
        self.fails(
            b"\0\r\n",
            "the client broke the protocol: a line has a carriage return or a NUL within",
            b"-ERR mail.example.org closing the connection\r\n",
        )


class SieveTests(ServerCase):
    """ManageSieve."""

    name = "sieve"

    def test_commands(self) -> None:
        """RFC 5804, section 2."""
        for said, answer in (
            (b"noop\r\n", b'OK "Done"\r\n'),
            (b'NOOP "A \\"tag\\""\r\n', b'OK (TAG "A \\"tag\\"") "Done"\r\n'),
            (b"LISTSCRIPTS\r\n", b'NO "Must issue a STARTTLS command first"\r\n'),
            (
                b'AUTHENTICATE "PLAIN" "AGEAYg=="\r\n',
                b'NO (ENCRYPT-NEEDED) "Must issue a STARTTLS command first"\r\n',
            ),
        ):
            self.check(said, answer)
        capabilities = self.outcome(b"CAPABILITY\r\n").said
        self.assertIn(b'\r\n"STARTTLS"\r\n', capabilities)
        self.assertTrue(capabilities.endswith(b"\r\nOK\r\n"))
        self.check(b"LOGOUT\r\n", b'OK "closing the connection"\r\n', CLOSED)

    def test_literal(self) -> None:
        """Every literal of a client comes unasked."""
        for said in (b"NOOP {10+}\r\nSTARTTLS\r\n", b"PUTSCRIPT {3}\r\n"):
            self.fails(
                said,
                "the client sent a literal before TLS",
                b'BYE "closing the connection"\r\n',
            )


NOTICE = bytes.fromhex("3024 020100 781f 0a0102 0400 0400 8a16") + b"1.3.6.1.4.1.1466.20036"


class LDAPTests(ServerCase):
    """LDAP."""

    name = "ldap"

    def test_requests(self) -> None:
        """Each is answered by an answer of its own kind, with confidentialityRequired."""
        text = b"TLS is required: send StartTLS first"
        for request, answer in (
            (bytes.fromhex("600c 020103 0403") + b"uid" + bytes.fromhex("8002") + b"pw", 0x61),
            (bytes.fromhex("6300"), 0x65),
            (bytes.fromhex("6600"), 0x67),
            (bytes.fromhex("6800"), 0x69),
            (bytes.fromhex("4a00"), 0x6B),
            (bytes.fromhex("6c00"), 0x6D),
            (bytes.fromhex("6e00"), 0x6F),
            (bytes.fromhex("770c 800a") + b"1.3.6.1.99", 0x78),
        ):
            for number in (b"\1", b"\x7f", b"\0\x80", b"\x7f\xff\xff\xff"):
                head = bytes((2, len(number))) + number
                result = bytes((answer, 7 + len(text))) + b"\x0a\1\x0d\4\0\4" + bytes((len(text),))
                whole = head + result + text
                said = bytes((0x30, len(head + request))) + head + request
                self.check(said, bytes((0x30, len(whole))) + whole)

    def test_long_form(self) -> None:
        """Lengths as OpenLDAP's library writes them."""
        said = bytes.fromhex("3084 00000025 020101 7784 0000001c 8084 00000016")
        said += b"1.3.6.1.4.1.1466.20037"
        expected = Outcome(EXCHANGES["ldap"][1][1], TLS_NEXT)
        self.assertEqual(self.outcome(said), expected)
        self.assertEqual(self.outcome(*(bytes((each,)) for each in said)), expected)

    def start_tls(self, more: bytes, controls: bytes = b"") -> bytes:
        """Ask for TLS with something more."""
        name = START_TLS[7:]
        request = bytes((0x77, len(name + more))) + name + more
        return bytes((0x30, 3 + len(request + controls))) + b"\2\1\1" + request + controls

    def answered(self, said: bytes, code: int) -> None:
        """It is refused with this code."""
        answer = bytearray(EXCHANGES["ldap"][1][1])
        answer[9] = code
        self.check(said, bytes(answer))

    def test_start_tls_with_value(self) -> None:
        """RFC 4511, section 4.14.1: there is none."""
        self.answered(self.start_tls(b"\x81\1x"), 2)

    def test_controls(self) -> None:
        """One that may not be passed over is not, any other is."""
        controls = bytes.fromhex("a00a 3008 0403") + b"1.2" + bytes.fromhex("0101ff")
        self.answered(self.start_tls(b"", controls), 12)
        self.check(self.start_tls(b"", controls[:-1] + b"\0"), EXCHANGES["ldap"][1][1], TLS_NEXT)

    def test_no_answer(self) -> None:
        """Abandon has none; unbind closes."""
        self.check(bytes.fromhex("3006 020102 500101"), b"")
        self.check(bytes.fromhex("3005 020102 4200"), b"", CLOSED)

    def test_broken(self) -> None:
        """The client has a notice of disconnection."""
        for said, sentence in (
            ("30800201", "a length is indefinite or too long"),
            ("3085", "a length is indefinite or too long"),
            ("3000", "a message is not a number, an operation and controls"),
            ("3003 020101", "a message is not a number, an operation and controls"),
            ("3007 020101 6000 6000", "a message is not a number, an operation and controls"),
            ("3005 040101 6000", "a message is not a number, an operation and controls"),
            ("3004 0200 6000", "the number of a message is none"),
            ("3005 0201ff 6000", "the number of a message is none"),
            ("3009 02050080000000 6000", "the number of a message is none"),
            ("3005 020100 6000", "a request has the number 0"),
            ("3005 020101 6001", "an element is longer than what it is in"),
            ("3004 020101 60", "an element is longer than what it is in"),
            ("3005 020101 6100", "there is no such request"),
            ("3005 020101 7700", "an extended request has no name"),
            ("3007 020101 77028100", "an extended request has no name"),
        ):
            self.fails(
                bytes.fromhex(said),
                f"the client sent a message that cannot be read: {sentence}",
                NOTICE,
            )
        self.fails(b"GET /", "the client sent what is no message of LDAP", NOTICE)


class XMPPTests(ServerCase):
    """XMPP."""

    name = "xmpp"

    client_header = stream(b"client", b"to='chat.example.org'")
    server_header = stream(b"client", b"from='chat.example.org' id='0011223344556677'")
    own_header = stream(b"client", b"from='mail.example.org' id='0011223344556677'")

    def error(self, condition: bytes) -> bytes:
        """A stream that ends with an error."""
        namespace = b" xmlns='urn:ietf:params:xml:ns:xmpp-streams'"
        return b"<stream:error><" + condition + namespace + b"/></stream:error></stream:stream>"

    def test_header(self) -> None:
        """The server is who the client wants; the client is told who it is, and is quoted well."""
        self.check(self.client_header, self.server_header + FEATURES)
        for said, answered in (
            (b"", b"from='" + HOST.encode() + b"' id='0011223344556677'"),
            (
                b"from='me@example.org/home' to='a'",
                b"from='a' id='0011223344556677' to='me@example.org'",
            ),
            (
                b"to='&lt;&apos;&amp;\"'",
                b"from='&lt;&apos;&amp;\"' id='0011223344556677'",
            ),
        ):
            self.check(stream(b"client", said), stream(b"client", answered) + FEATURES)

    def test_ids(self) -> None:
        """No two streams have the same."""
        said = set()
        for _ in range(20):
            dialogue = server(self.name)
            said.add(dialogue.feed(self.client_header))
        self.assertEqual(len(said), 20)

    def test_spelling(self) -> None:
        """By namespace, and not by prefix; an end tag is as good as none; space says nothing."""
        self.check(
            b'<s:stream version="1.0" xmlns:s="http://etherx.jabber.org/streams" '
            b"xmlns='jabber:client'>\r\n <t:starttls xmlns:t='urn:ietf:params:xml:ns:xmpp-tls' "
            b"a='>'>x</t:starttls>",
            self.own_header + FEATURES + EXCHANGES["xmpp"][2][1],
            TLS_NEXT,
        )

    def test_encoding(self) -> None:
        """It is UTF-8, whatever is declared: RFC 6120, section 11.6."""
        for name in (b"UTF-16", b"x-unknown", b"iso-8859-1"):
            declared = b"<?xml version='1.0' encoding='" + name + b"'?>"
            header = self.client_header.replace(b"<?xml version='1.0'?>", declared)
            self.check(
                header.replace(b"to='chat.example.org'", b"to='caf\xc3\xa9'"),
                stream(b"client", b"from='caf\xc3\xa9' id='0011223344556677'") + FEATURES,
            )

    def test_not_before_tls(self) -> None:
        """RFC 6120, section 6.5.4, and section 4.9.3.12."""
        begin = self.server_header + FEATURES
        sasl = b"urn:ietf:params:xml:ns:xmpp-sasl'"
        self.check(
            self.client_header + b"<auth xmlns='" + sasl + b" mechanism='PLAIN'>AGEAYg==</auth>",
            begin + b"<failure xmlns='" + sasl + b"><encryption-required/></failure>",
        )
        self.check(
            self.client_header + b"<iq type='get'><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'"
            b"/></iq>",
            begin + self.error(b"not-authorized"),
            CLOSED,
        )
        self.check(
            self.client_header + b"<starttls/>", begin + self.error(b"not-authorized"), CLOSED
        )

    def test_end(self) -> None:
        """A stream that is closed is closed by us too."""
        self.check(
            self.client_header + b"</stream:stream>",
            self.server_header + FEATURES + b"</stream:stream>",
            CLOSED,
        )

    def test_other_streams(self) -> None:
        """What is no stream of this protocol, in this version."""
        good = stream(b"client", b"to='chat.example.org'")
        for said, condition in (
            (good.replace(b"jabber:client", b"jabber:server"), b"invalid-namespace"),
            (good.replace(b"xmlns='jabber:client'", b""), b"invalid-namespace"),
            (good.replace(b"etherx", b"ether"), b"invalid-namespace"),
            (good.replace(b"stream:stream", b"stream:streams"), b"invalid-namespace"),
            (good.replace(b" version='1.0' xml", b" xml"), b"unsupported-version"),
            (good.replace(b" version='1.0' xml", b" version='0.9' xml"), b"unsupported-version"),
            (
                good.replace(b" version='1.0' xml", b" version='\xc2\xb2.0' xml"),
                b"unsupported-version",
            ),
        ):
            self.check(said, self.server_header + self.error(condition), CLOSED)

    def test_empty_stream(self) -> None:
        """What follows an error is not looked at, though it is in the same tag."""
        self.check(b"<a/>", self.own_header + self.error(b"invalid-namespace"), CLOSED)

    def test_nothing_put_off(self) -> None:
        """Since its version 2.6 expat may wait for more; it is asked not to."""
        told = []

        class Parser:
            def SetReparseDeferralEnabled(self, enabled: bool) -> None:
                told.append(enabled)

        self.patch(expat, "ParserCreate", lambda *_: Parser())
        server(self.name)
        self.assertEqual(told, [False])

    def test_restricted(self) -> None:
        """RFC 6120, section 11.1; nothing of an entity is read."""
        sentence = "the client sent a document type, an instruction or a comment"
        for said in (
            b"<!DOCTYPE stream>",
            b"<!DOCTYPE s [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]>",
            b"<!DOCTYPE s SYSTEM 'file:///etc/passwd'>",
            b"<?xml version='1.0'?><?php x?>",
            b"<!-- x -->",
        ):
            self.fails(said, sentence, self.own_header + self.error(b"restricted-xml"))
        self.fails(
            self.client_header + b"<!-- x -->",
            sentence,
            self.server_header + FEATURES + self.error(b"restricted-xml"),
        )

    def test_broken(self) -> None:
        """XML that is none."""
        for said, reason in (
            (b"<a></b>", "mismatched tag"),
            (b"<a b='&c;'>", "undefined entity"),
            (b"<c:a>", "unbound prefix"),
            (b"<a>\xff<b>", "not well-formed (invalid token)"),
            (b"<?xml version='1.0'?>", "XML or text declaration not at start of entity"),
        ):
            self.fails(
                self.client_header + said,
                f"the client sent broken XML: {reason}",
                self.server_header + FEATURES + self.error(b"not-well-formed"),
            )
        self.fails(
            b"GET / HTTP/1.1",
            "the client did not begin with XML",
            self.own_header + self.error(b"not-well-formed"),
        )


class PostgreSQLTests(ServerCase):
    """PostgreSQL."""

    name = "postgresql"

    startup = bytes.fromhex("0000000f 00030000") + b"user\0a\0"

    def test_startup(self) -> None:
        """Without TLS there is no session."""
        fields = b"SFATAL\0VFATAL\0C28000\0Mthis server requires SSL\0\0"
        error = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
        self.check(self.startup, error, CLOSED)
        newer = self.startup.replace(b"\0\3\0\0", b"\0\3\0\2")
        self.check(newer, error, CLOSED)

    def test_gssapi(self) -> None:
        """It is refused, once; TLS may be asked for after it."""
        request = bytes.fromhex("00000008 04d21630")
        self.check(request, b"N")
        self.check(request + EXCHANGES["postgresql"][1][0], b"NS", TLS_NEXT)
        outcome = self.outcome(request * 2)
        self.assertIn("a first message that is not known: code 80877104", str(outcome.error))

    def test_cancel(self) -> None:
        """It is no more answered than any other."""
        self.check(bytes.fromhex("00000010 04d2162e 00000001 00000002"), b"", CLOSED)

    def test_unknown(self) -> None:
        """What it is, is told."""
        fields = b"SFATAL\0VFATAL\0C08P01\0Mprotocol violation before SSL\0\0"
        error = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
        for said, code in (
            ("00000008 00020000", 0x20000),
            ("0000000c 04d2162f 00000000", 80877103),
            ("00000008 04d2162e", 80877102),
        ):
            self.fails(
                bytes.fromhex(said),
                f"the client sent a first message that is not known: code {code}",
                error,
            )
