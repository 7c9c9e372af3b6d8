"""What the clients of L{twisted_bioconn.starttls} make of servers of all kinds."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.starttls.material import FEATURES, PROCEED, START_TLS_DONE, client, play, stream
from twisted_bioconn.starttls import Dialogue, DialogueState, StartTLSError, StartTLSRefused


class ClientCase(SynchronousTestCase):
    """A test of one protocol's client."""

    name: str

    def upgrades(self, *pieces: bytes) -> Dialogue:
        """TLS is next."""
        dialogue = client(self.name)
        outcome = play(dialogue, pieces)
        self.assertIs(outcome.state, DialogueState.TLS_NEXT, outcome)
        return dialogue

    def fails(self, sentence: str, *pieces: bytes, kind: type = StartTLSRefused) -> None:
        """It fails with this sentence."""
        outcome = play(client(self.name), pieces)
        self.assertIs(type(outcome.error), kind, outcome)
        self.assertEqual(str(outcome.error), f"{self.name}: {sentence}")

    def strange(self, sentence: str, *pieces: bytes) -> None:
        """It fails, and not by the server's wish."""
        self.fails(sentence, *pieces, kind=StartTLSError)


class SMTPTests(ClientCase):
    """SMTP."""

    name = "smtp"

    def test_real_server(self) -> None:
        """With all that such a server says; what it offers is found in any case and place."""
        dialogue = self.upgrades(
            b"220-mx.example.org ESMTP\r\n220 be patient\r\n",
            b"250-mx.example.org at your service\r\n250-SIZE 35882577\r\n250-starttls\r\n"
            b"250-AUTH LOGIN PLAIN\r\n250 CHUNKING\r\n",
            b"220 2.0.0 Ready\r\n",
        )
        self.assertEqual(
            dialogue.greeting_for_client, b"220-mx.example.org ESMTP\r\n220 be patient\r\n"
        )

    def test_not_offered(self) -> None:
        """The server's name is no extension; nor is a longer word, or one of another's."""
        for said in (b"250 STARTTLS\r\n", b"250-a\r\n250-STARTTLSX\r\n250 AUTH STARTTLS\r\n"):
            self.fails("the server does not offer STARTTLS", b"220 a\r\n", said)

    def test_refused(self) -> None:
        """The server's words, made harmless, and not all of them."""
        self.fails("the server does not want to talk: '554 go away'", b"554 go away\r\n")
        self.fails(
            "the server does not say what it can do: '502 what?'", b"220 a\r\n", b"502 what?\r\n"
        )
        self.fails(
            "the server refuses to begin TLS: '454 \\x1b[31m\\xff\\\\'",
            *(b"220 a\r\n", b"250-a\r\n250 STARTTLS\r\n", b"454 \x1b[31m\xff\\\r\n"),
        )
        self.fails(
            f"the server does not want to talk: '554 {'x' * 196}'...", b"554 " + b"x" * 900 + b"\n"
        )

    def test_strange(self) -> None:
        """What is no reply."""
        self.strange("the greeting cannot be read: 'SSH-2.0-OpenSSH_9'", b"SSH-2.0-OpenSSH_9\r\n")
        self.strange("the greeting cannot be read: '221 b'", b"220-a\r\n221 b\r\n")
        self.strange("the list of what the server can do cannot be read: ''", b"220 a\r\n", b"\r\n")
        self.strange(
            "the answer to our asking for TLS cannot be read: '2200 a'",
            *(b"220 a\r\n", b"250-a\r\n250 STARTTLS\r\n", b"2200 a\r\n"),
        )


class LMTPTests(ClientCase):
    """LMTP."""

    name = "lmtp"

    def test_refused(self) -> None:
        """As with SMTP."""
        self.fails("the server does not offer STARTTLS", b"220 a\r\n", b"250-a\r\n250 SIZE\r\n")


class IMAPTests(ClientCase):
    """IMAP."""

    name = "imap"

    def test_greeting(self) -> None:
        """No response code of the clear is for the plain client."""
        for said, greeting in (
            (b"* OK [CAPABILITY IMAP4rev1 STARTTLS] Dovecot ready.", b"* OK Dovecot ready."),
            (b"* ok hello", b"* OK hello"),
            (b"* OK", b"* OK ready"),
            (b"* OK [ALERT] [REFERRAL imap://evil/] [X", b"* OK ready"),
        ):
            dialogue = self.upgrades(
                said + b"\r\n",
                b"* 3 EXISTS\r\n* CAPABILITY IMAP4rev1 starttls\r\nTLS1 OK done\r\n",
                b"* OK wait\r\nTLS2 ok\r\n",
            )
            self.assertEqual(dialogue.greeting_for_client, greeting + b"\r\n")

    def test_refused(self) -> None:
        """By any of its answers."""
        hello, able = b"* OK a\r\n", b"* CAPABILITY STARTTLS\r\nTLS1 OK b\r\n"
        self.fails("the server does not want to talk: '* BYE busy'", b"* BYE busy\r\n")
        self.fails(
            "the server has authenticated us, and so cannot begin TLS: '* PREAUTH hi'",
            b"* PREAUTH hi\r\n",
        )
        self.fails("the server does not offer STARTTLS", hello, b"TLS1 OK b\r\n")
        self.fails(
            "the server does not offer STARTTLS",
            *(b"* OK [CAPABILITY STARTTLS] a\r\n", b"* CAPABILITY XSTARTTLS\r\nTLS1 OK b\r\n"),
        )
        self.fails("the server does not say what it can do: 'TLS1 BAD x'", hello, b"TLS1 BAD x\r\n")
        self.fails("the server refuses to begin TLS: 'TLS2 NO x'", hello, able, b"TLS2 NO x\r\n")
        self.fails("the server refuses to begin TLS: '* BYE x'", hello, able, b"* BYE x\r\n")

    def test_strange(self) -> None:
        """What is no answer to what was asked."""
        hello, able = b"* OK a\r\n", b"* CAPABILITY STARTTLS\r\nTLS1 OK b\r\n"
        what = "the answer to our asking for TLS cannot be read"
        self.strange("the greeting cannot be read: '+OK a'", b"+OK a\r\n")
        self.strange(f"{what}: 'TLS1 OK'", hello, able, b"TLS1 OK\r\n")
        self.strange(f"{what}: 'TLS2 MAYBE'", hello, able, b"TLS2 MAYBE\r\n")
        self.strange(f"{what}: '+ go on'", hello, able, b"+ go on\r\n")
        # In a literal there could be what looks like an answer.
        self.strange(f"{what}: '* LIST {{9}}'", hello, able, b"* LIST {9}\r\nTLS2 OK\r\n")


class POP3Tests(ClientCase):
    """POP3."""

    name = "pop3"

    def test_greeting(self) -> None:
        """The time stamp for APOP is in it."""
        greeting = b"+OK ready <1896.697170952@dbc.mtview.ca.us>\r\n"
        capabilities = b"+OK\r\nTOP\r\nUSER\r\nstls\r\nUIDL\r\n.\r\n"
        dialogue = self.upgrades(greeting, capabilities, b"+OK\r\n")
        self.assertEqual(dialogue.greeting_for_client, greeting)

    def test_refused(self) -> None:
        """By any of its answers."""
        hello = b"+OK\r\n"
        self.fails("the server does not want to talk: '-ERR busy'", b"-ERR busy\r\n")
        self.fails("the server does not say what it can do: '-ERR'", hello, b"-ERR\r\n")
        self.fails("the server does not offer STARTTLS", hello, b"+OK STLS\r\nXSTLS\r\n.\r\n")
        self.fails(
            "the server refuses to begin TLS: '-ERR x'", hello, b"+OK\r\nSTLS\r\n.\r\n", b"-ERR x\n"
        )

    def test_strange(self) -> None:
        """What is no status."""
        self.strange("the greeting cannot be read: '220 a'", b"220 a\r\n")


class SieveTests(ClientCase):
    """ManageSieve."""

    name = "sieve"

    def test_real_server(self) -> None:
        """What the server says after TLS is the greeting."""
        dialogue = self.upgrades(
            b'"IMPLEMENTATION" "Dovecot \\"Pigeonhole\\""\r\n"SIEVE" "fileinto reject"\r\n'
            b'"SASL" ""\r\n"StartTLS"\r\n"VERSION" "1.0"\r\nOK "Dovecot ready."\r\n',
            b'OK "Begin TLS negotiation now."\r\n',
        )
        self.assertEqual(dialogue.greeting_for_client, b"")

    def test_refused(self) -> None:
        """By any of its answers."""
        able = b'"STARTTLS"\r\nOK\r\n'
        self.fails("the server does not want to talk: 'BYE \"busy\"'", b'BYE "busy"\r\n')
        self.fails("the server does not offer STARTTLS", b'"SASL" "STARTTLS"\r\nOK\r\n')
        self.fails("the server refuses to begin TLS: 'NO'", able, b"NO\r\n")
        self.fails("the server refuses to begin TLS: 'NO(X) \"a\"'", able, b'NO(X) "a"\r\n')

    def test_strange(self) -> None:
        """What is neither a capability nor an answer."""
        self.strange("the greeting cannot be read: '220 a'", b"220 a\r\n")
        self.strange("the greeting cannot be read: '\"A\" {4}'", b'"A" {4}\r\nOK\r\n')
        self.strange(
            "the answer to our asking for TLS cannot be read: '\"STARTTLS\"'",
            *(b'"STARTTLS"\r\nOK\r\n', b'"STARTTLS"\r\n'),
        )


class LDAPTests(ClientCase):
    """LDAP."""

    name = "ldap"

    def test_without_name(self) -> None:
        """The answer need not have the name of the request; its lengths may be long."""
        self.upgrades(bytes.fromhex("300c 020101 7807 0a0100 0400 0400"))
        self.upgrades(bytes.fromhex("3084 00000010 020101 7884 00000007 0a0100 0400 0400"))

    def test_refused(self) -> None:
        """The code, and what the server says to it."""
        self.fails(
            "the server refuses to begin TLS: result code 52, 'no\\n'",
            bytes.fromhex("300f 020101 780a 0a0134 0400 0403") + b"no\n",
        )
        self.fails(
            "the server ends the connection: result code 52, 'no\\n'",
            bytes.fromhex("300f 020100 780a 0a0134 0400 0403") + b"no\n",
        )

    def test_strange(self) -> None:
        """What is no answer to what was asked."""
        for said, sentence in (
            ("300c 020102 7807 0a0100 0400 0400", "the server's answer is one to something else"),
            (
                "3011 020101 780c 0a0100 0400 0400 8a03312e32",
                "the server's answer is one to something else",
            ),
            ("300c 020101 6107 0a0100 0400 0400", "the server's answer is no extended response"),
            ("300a 020101 7805 0a0100 0400", "the server's answer is no extended response"),
            ("300b 020101 7806 0a00 0400 0400", "the server's answer has no result code"),
            (
                "300c 020101 7807 0a0100 0400 0401",
                "the server sent a message that cannot be read:"
                " an element is longer than what it is in",
            ),
            ("485454502f", "the server sent what is no message of LDAP"),
        ):
            self.strange(sentence, bytes.fromhex(said))
        self.upgrades(START_TLS_DONE)


class XMPPTests(ClientCase):
    """XMPP."""

    name = "xmpp"

    header = stream(b"client", b"from='mail.example.org' id='1'")

    def test_real_server(self) -> None:
        """Space between elements, in pieces, and more than one feature."""
        self.upgrades(
            self.header + b"\n",
            b"<stream:features>\n<a xmlns='b'><starttls/></a><starttls "
            b"xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>\n",
            PROCEED,
        )

    def test_refused(self) -> None:
        """By any of its answers."""
        failure = b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
        condition = b"<host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
        error = b"<stream:error>" + condition + b"</stream:error>"
        self.fails(
            "the server does not offer STARTTLS: it has no version 1 of XMPP",
            self.header.replace(b"version='1.0' xml", b"xml"),
        )
        for features in (b"", b"<starttls/>", b"<a xmlns='b'>" + FEATURES + b"</a>"):
            self.fails(
                "the server does not offer STARTTLS",
                self.header + b"<stream:features>" + features + b"</stream:features>",
            )
        self.fails("the server ends the stream with an error: 'host-unknown'", self.header + error)
        self.fails(
            "the server refuses to begin TLS: it answered with a failure",
            *(self.header + FEATURES, failure),
        )
        self.fails("the server closes the stream", self.header + b"</stream:stream>")

    def test_strange(self) -> None:
        """What is no stream, or no answer."""
        self.strange(
            "the server's stream is none of this protocol's",
            self.header.replace(b"jabber:client", b"jabber:server"),
        )
        self.strange("the server did not say first what it offers", self.header + PROCEED)
        self.strange(
            "the answer to our asking for TLS cannot be read", self.header + FEATURES, b"<a/>"
        )
        self.strange(
            "the server sent a document type, an instruction or a comment", b"<!DOCTYPE a>"
        )


class PostgreSQLTests(ClientCase):
    """PostgreSQL."""

    name = "postgresql"

    def test_refused(self) -> None:
        """In a byte, or with an error, which anybody may have written."""
        self.fails("the server refuses to begin TLS: it answered N", b"N")
        self.fails("the server refuses to begin TLS: it answered with an error", b"E\0\0\0\5\0")

    def test_strange(self) -> None:
        """What is neither."""
        self.strange("the answer to our asking for TLS cannot be read", b"HTTP/1.1 400")
