"""
C{starttls=} between real clients and real servers.

The front ends TLS for servers that run in the clear; the tunnel brings it to those that demand it,
for clients that run in the clear.  Both are the command, run as a program.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path

from twisted.internet.endpoints import quoteStringArgument

from tests.peers import servers
from tests.peers.ours import PeerCase, Talk
from tests.peers.processes import Program
from tests.peers.servers import MANAGER, PASSWORD, SUFFIX, USER
from tests.peers.with_openssl import s_client
from tests.server.command import TWISTD, Command

LINES = [f"{number}: To be, or not to be, that is the question." for number in range(20_000)]
"""A megabyte, to be sent and got back."""

LOGIN = b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
"""RFC 4616: SASL's C{PLAIN}."""

STREAM = (
    "<?xml version='1.0'?><stream:stream to='localhost' version='1.0' xmlns='jabber:client'"
    " xmlns:stream='http://etherx.jabber.org/streams'>"
)
SASL = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" + LOGIN + "</auth>"
BIND = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"


class PlainTalk(Talk):
    """A conversation by hand, in the clear."""

    def connectionMade(self) -> None:
        pass

    def say(self, text: bytes) -> None:
        assert self.transport is not None
        self.transport.write(text)


class Case(PeerCase):
    """
    A test of one protocol.

    @cvar protocol: its name.
    """

    timeout = 600
    protocol: str

    def front(self, port: int) -> int:
        """
        Run a front before a server in the clear.

        @return: where it listens.
        """
        material = self.material
        return self._command(
            f"bioconn:0:interface=127.0.0.1:starttls={self.protocol}"
            f":certKey={quoteStringArgument(str(material.server))}"
            f":privateKey={quoteStringArgument(str(material.server_key))}",
            f"tcp:127.0.0.1:{port}",
        )

    def tunnel(self, port: int, more: str = "") -> int:
        """
        Run a tunnel to a server that demands TLS.

        @param more: options of the client's string.
        @return: where it listens, in the clear.
        """
        return self._command(
            "tcp:0:interface=127.0.0.1",
            f"bioconn:localhost:{port}:starttls={self.protocol}"
            f":trustRoots={quoteStringArgument(str(self.material.root))}{more}",
        )

    def _command(self, listen: str, forward: str) -> int:
        command = Command(self, "--listen", listen, "--forward", forward, start=TWISTD)

        def end() -> None:
            self.assertEqual(command.terminate(), 0)
            self.assertNotIn("Traceback", "\n".join([*command.lines, *command.errors]))

        self.addCleanup(end)
        return command.port()

    def file(self, name: str, text: str) -> Path:
        """Write a file for a client."""
        path = self.directory / name
        path.write_text(text, "utf-8")
        return path

    def curl(self, *arguments: object) -> Program:
        """Run curl; with C{--ssl-reqd} it demands TLS of the server, without it asks for none."""
        return self.run_program(
            *("curl", "--disable", "--silent", "--show-error", "--max-time", 50),
            *("--user", f"{USER}:{PASSWORD}", "--cacert", self.material.root),
            *arguments,
        )

    def assert_lines(self, text: str) -> None:
        """All of L{LINES} has come, and nothing else; a failure does not print them."""
        self.assertTrue(text.splitlines() == LINES, f"{len(text)} bytes: {text[:1000]}")


class SMTPTests(Case):
    """swaks and curl send mail to Exim."""

    protocol = "smtp"

    def swaks(self, port: int, *arguments: object) -> Program:
        body = self.file("body", "\n".join(LINES) + "\n")
        return self.run_program(
            *("swaks", "--server", f"127.0.0.1:{port}", "--helo", "client.example.org"),
            *("--from", "a@example.org", "--to", "b@example.org", "--body", f"@{body}"),
            # It would print what it sends.
            *("--suppress-data", *arguments),
        )

    def assert_taken(self, exim: servers.Exim, how: str) -> None:
        """
        The one mail has come.

        @param how: the protocol that Exim has noted.
        """
        [(head, body)] = exim.taken()
        self.assertIn(f"with {how}", head)
        self.assert_lines(body.rstrip("\n"))

    async def test_swaks(self) -> None:
        """The certificate is verified, and the mail comes as it was sent."""
        exim = await servers.exim(self)
        port = self.front(exim.port)
        root = self.material.root
        said = await self.swaks(port, "--tls", "--tls-verify", "--tls-ca-path", root).succeeded()
        self.assertIn("=== TLS started with cipher TLSv1.", said)
        # After TLS swaks says hello to Exim, which knows nothing of TLS.
        self.assertIn("<~  250-mail.example.org Hello client.example.org", said)
        self.assert_taken(exim, "esmtp")

    async def test_curl(self) -> None:
        """The name is verified too."""
        exim = await servers.exim(self)
        port = self.front(exim.port)
        mail = self.file("mail", "Subject: a\n\n" + "\n".join(LINES) + "\n")
        await self.curl(
            *(f"smtp://localhost:{port}/client.example.org", "--ssl-reqd", "--crlf"),
            *("--mail-from", "a@example.org", "--mail-rcpt", "b@example.org"),
            *("--upload-file", mail),
        ).succeeded()
        self.assert_taken(exim, "esmtp")

    async def test_plain(self) -> None:
        """Without TLS there is nothing but a hello."""
        exim = await servers.exim(self)
        swaks = self.swaks(self.front(exim.port))
        self.assertNotEqual(await swaks.ended(), 0)
        self.assertIn("<** 530 Must issue a STARTTLS command first", swaks.said)
        self.assertEqual(exim.taken(), [])

    async def test_wrong_authority(self) -> None:
        """A client that does not trust the front does not go on."""
        exim = await servers.exim(self)
        port = self.front(exim.port)
        swaks = self.swaks(port, "--tls", "--tls-verify", "--tls-ca-path", self.stranger().root)
        self.assertNotEqual(await swaks.ended(), 0)
        self.assertIn("TLS startup failed", swaks.said)
        self.assertEqual(exim.taken(), [])

    async def test_tunnel(self) -> None:
        """swaks knows nothing of TLS, and Exim has it."""
        exim = await servers.exim(self, tls=True)
        said = await self.swaks(self.tunnel(exim.port)).succeeded()
        self.assertIn("<-  220 mail.example.org ESMTP Exim", said)
        # To a client that is on TLS already, it is not offered.
        self.assertNotIn("STARTTLS", said)
        self.assert_taken(exim, "esmtps  (TLS1.3)")

    async def test_front_and_tunnel(self) -> None:
        """TLS ends at the front, and begins anew."""
        exim = await servers.exim(self, tls=True)
        port = self.front(self.tunnel(exim.port))
        root = self.material.root
        await self.swaks(port, "--tls", "--tls-verify", "--tls-ca-path", root).succeeded()
        self.assert_taken(exim, "esmtps  (TLS1.3)")


class IMAPTests(Case):
    """curl keeps a mail at Dovecot."""

    protocol = "imap"

    async def keep(self, port: int, *tls: str) -> None:
        """Bring a mail there, and get it back."""
        mail = self.file("mail", "\r\n".join(LINES) + "\r\n")
        url = f"imap://localhost:{port}/INBOX"
        await self.curl(url, *tls, "--upload-file", mail).succeeded()
        self.assert_lines(await self.curl(f"{url};UID=1", *tls).succeeded())
        self.assertIn("* STATUS INBOX (MESSAGES 1)", await self.status(url, *tls).succeeded())

    def status(self, url: str, *tls: str) -> Program:
        return self.curl(url, *tls, "--request", "STATUS INBOX (MESSAGES)")

    async def test_curl(self) -> None:
        """The front is before Dovecot, which has no TLS; a client without is let in nowhere."""
        port = self.front((await servers.dovecot(self)).imap)
        await self.keep(port, "--ssl-reqd")
        plain = self.status(f"imap://localhost:{port}/INBOX")
        self.assertNotEqual(await plain.ended(), 0)
        self.assertNotIn("STATUS", plain.said)

    async def test_tunnel(self) -> None:
        """Dovecot demands TLS, and curl knows nothing of it."""
        await self.keep(self.tunnel((await servers.dovecot(self, tls=True)).imap))


class POP3Tests(Case):
    """curl fetches a mail from Dovecot."""

    protocol = "pop3"

    async def fetch(self, dovecot: servers.Dovecot, port: int, *tls: str) -> None:
        """Put a mail there, and fetch it."""
        mail = self.file("mail", "\r\n".join(LINES) + "\r\n")
        put = ("--upload-file", mail, "--ssl", "--insecure")
        await self.curl(f"imap://localhost:{dovecot.imap}/INBOX", *put).succeeded()
        self.assert_lines(await self.curl(f"pop3://localhost:{port}/1", *tls).succeeded())

    async def test_curl(self) -> None:
        """The front is before Dovecot, which has no TLS; a client without is let in nowhere."""
        dovecot = await servers.dovecot(self)
        port = self.front(dovecot.pop3)
        await self.fetch(dovecot, port, "--ssl-reqd")
        plain = self.curl(f"pop3://localhost:{port}/1")
        self.assertNotEqual(await plain.ended(), 0)
        self.assertNotIn(LINES[0], plain.said)

    async def test_tunnel(self) -> None:
        """Dovecot demands TLS, and curl knows nothing of it."""
        dovecot = await servers.dovecot(self, tls=True)
        await self.fetch(dovecot, self.tunnel(dovecot.pop3))


class SieveTests(Case):
    """A script is kept at Dovecot."""

    protocol = "sieve"

    async def test_openssl(self) -> None:
        """C{openssl s_client} begins TLS; the server greets after it: RFC 5804, section 2.2."""
        port = self.front((await servers.dovecot(self)).sieve)
        client = s_client(self, port, "-starttls", "sieve", "-quiet")
        await client.wait_for('OK "Dovecot .*ready')
        for said, answer in (
            (f'AUTHENTICATE "PLAIN" "{LOGIN}"', "OK .*Logged in"),
            ('PUTSCRIPT "mine" {5+}\r\nkeep;', "OK .*PUTSCRIPT"),
            ("LISTSCRIPTS", '"mine"\r\nOK'),
            ("LOGOUT", "OK"),
        ):
            client.write(f"{said}\r\n")
            await client.wait_for(answer)
        await client.succeeded()

    async def test_tunnel(self) -> None:
        """Dovecot demands TLS, and the client knows nothing of it."""
        port = self.tunnel((await servers.dovecot(self, tls=True)).sieve)
        client = await self.connect_plain(port, PlainTalk())
        await client.hear(b'OK "')
        self.assertNotIn(b"STARTTLS", client.heard)
        client.say(f'AUTHENTICATE "PLAIN" "{LOGIN}"\r\nLOGOUT\r\n'.encode())
        await client.hear(b"Logged in")
        await client.gone()


class LDAPTests(Case):
    """OpenLDAP's programs talk with its server."""

    protocol = "ldap"

    def ldap(self, program: str, port: int, *arguments: object) -> Program:
        # It reads this from its home directory.  It takes "localhost" for the machine's own name.
        self.file(".ldaprc", f"TLS_CACERT {self.material.root}\nTLS_REQCERT demand\n")
        return self.run_program(
            *(program, "-x", "-H", f"ldap://127.0.0.1:{port}", "-D", MANAGER, "-w", PASSWORD),
            *arguments,
        )

    async def use(self, port: int, *tls: str) -> None:
        """Add an entry, and find it."""
        text = "\n".join(LINES)
        entry = self.file(
            "entry.ldif",
            f"dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\n"
            f"o: Example\ndescription:: {b64encode(text.encode()).decode()}\n",
        )
        await self.ldap("ldapadd", port, *tls, "-f", entry).succeeded()
        wanted = ("-LLL", "-o", "ldif-wrap=no", "-b", SUFFIX, "(o=Example)", "description")
        said = await self.ldap("ldapsearch", port, *tls, *wanted).succeeded()
        self.assert_lines(b64decode(said.partition("description:: ")[2]).decode())

    async def test_ldapsearch(self) -> None:
        """C{-ZZ} demands TLS, and without it nothing is answered but that."""
        port = self.front(await servers.slapd(self))
        await self.use(port, "-ZZ")
        plain = self.ldap("ldapsearch", port, "-LLL", "-b", SUFFIX)
        # RFC 4511, appendix A.2: confidentialityRequired.
        self.assertEqual(await plain.ended(), 13)
        self.assertNotIn("dn:", plain.said)

    async def test_tunnel(self) -> None:
        """slapd demands TLS, and its clients know nothing of it."""
        await self.use(self.tunnel(await servers.slapd(self, tls=True)))


class XMPPTests(Case):
    """A client logs in at Prosody."""

    protocol = "xmpp"

    async def test_openssl(self) -> None:
        """C{openssl s_client} begins TLS; then there is a new stream: RFC 6120, section 5.4.3.3."""
        port = self.front(await servers.prosody(self))
        client = s_client(self, port, "-starttls", "xmpp", "-xmpphost", "localhost", "-quiet")
        for said, answer in (
            (STREAM, "<mechanism>PLAIN</mechanism>.*</stream:features>"),
            (SASL, "<success"),
            (STREAM, "urn:ietf:params:xml:ns:xmpp-bind.*</stream:features>"),
            (BIND, f"<jid>{USER}@localhost/"),
            ("</stream:stream>", "</stream:stream>"),
        ):
            client.write(said)
            await client.wait_for(answer)

    async def test_tunnel(self) -> None:
        """Prosody demands TLS, and the client knows nothing of it."""
        port = self.tunnel(await servers.prosody(self, tls=True), ":hostName=localhost")
        client = await self.connect_plain(port, PlainTalk())
        for said, answer in (
            (STREAM, "</stream:features>"),
            (SASL, "<success"),
            (STREAM, "</stream:features>"),
            (BIND, f"<jid>{USER}@localhost/"),
            ("</stream:stream>", "</stream:stream>"),
        ):
            client.say(said.encode())
            await client.hear(answer.encode())
        self.assertNotIn(b"<starttls", client.heard)


class PostgreSQLTests(Case):
    """psql talks with PostgreSQL."""

    protocol = "postgresql"

    def psql(self, port: int, mode: str, *commands: str) -> Program:
        where = f"host=localhost hostaddr=127.0.0.1 port={port} dbname=postgres gssencmode=disable"
        login = f"user={USER} password={PASSWORD}"
        tls = f"sslmode={mode} sslrootcert={self.material.root}"
        return self.run_program(
            *("psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"),
            *("--set", "ON_ERROR_STOP=1", *(f"--command={each}" for each in commands)),
            f"{where} {login} {tls}",
        )

    async def use(self, port: int, mode: str) -> None:
        """Bring a table there, and get it back."""
        rows = self.file("rows", "\n".join(LINES) + "\n")
        copied = self.psql(
            *(port, mode, "create table a (number serial, line text)"),
            *(rf"\copy a (line) from '{rows}'", "copy (select line from a) to stdout"),
        )
        self.assert_lines(await copied.succeeded())

    async def test_psql(self) -> None:
        """The certificate and the name are verified; SCRAM takes it that there is TLS between."""
        port = self.front(await servers.postgresql(self))
        await self.use(port, "verify-full")
        said = await self.psql(port, "verify-full", r"\conninfo").succeeded()
        self.assertIn("SSL connection (protocol: TLSv1.", said)
        plain = self.psql(port, "disable", "select 'in'")
        self.assertEqual(await plain.ended(), 2)
        self.assertIn("this server requires SSL", plain.said)

    async def test_error(self) -> None:
        """What the server says of a wrong password comes to the client."""
        port = self.front(await servers.postgresql(self))
        wrong = self.psql(port, "verify-full password=wrong", "select 'in'")
        self.assertEqual(await wrong.ended(), 2)
        self.assertIn(f'password authentication failed for user "{USER}"', wrong.said)

    async def test_tunnel(self) -> None:
        """PostgreSQL demands TLS, and psql knows nothing of it."""
        port = self.tunnel(await servers.postgresql(self, tls=True))
        await self.use(port, "disable")
        told = "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()"
        self.assertEqual(await self.psql(port, "disable", told).succeeded(), "t|TLSv1.3\n")
