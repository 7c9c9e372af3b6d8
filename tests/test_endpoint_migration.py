"""
To change the prefix is all that it takes: each option of Twisted's own strings means the same here.

Over real sockets.  The other end is OpenSSL, driven by nothing of ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    quoteStringArgument,
)
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThread
from twisted.web import tap

from tests.endpoint_material import Applications
from tests.programs import require_ipv6
from tests.socket_material import SocketCase, Talking, firing, greeting, one
from tests.test_reactor import run_python
from tests.tls_material import (
    HOST,
    TLS12,
    authority,
    client,
    context,
)
from twisted_bioconn.context import SessionStore
from twisted_bioconn.http import treq_client


class ServerMigrationTests(SocketCase):
    """C{ssl:} becomes C{bioconn:}, of a server."""

    async def outcomes(self, rest: str, made: SSL.Context) -> list[tuple[Any, ...]]:
        """What a client sees of the server with the one prefix and with the other."""
        found = []
        for prefix in ("ssl", "bioconn"):
            theirs = Applications(made=greeting)
            host = await self.serve(f"{prefix}:{rest}", theirs)
            peer = Talking(made, True)
            answered = peer.answered
            await TCP4ClientEndpoint(reactor, "127.0.0.1", host.port).connect(one(peer))
            await answered
            chain = peer.ssl.get_peer_cert_chain(as_cryptography=True) or []
            found.append(
                (
                    host.host,
                    peer.received,
                    peer.ssl.get_protocol_version_name(),
                    peer.ssl.get_cipher_name(),
                    tuple(each.subject.rfc4514_string() for each in chain),
                )
            )
            if peer.lost is None:
                lost = peer.answered
                peer.transport.loseConnection()
                await lost
        return found

    async def assertSame(
        self,
        rest: str,
        *expected: Any,
        made: SSL.Context | None = None,
    ) -> None:
        """The two are the same, and as expected."""
        one_way, other_way = await self.outcomes(rest, made or context(True))
        self.assertEqual(one_way, other_way)
        self.assertEqual(one_way[1], b"hello")
        for each in expected:
            self.assertIn(each, one_way)

    async def test_one_file(self) -> None:
        """C{privateKey}, with the certificate in it."""
        await self.assertSame(
            "0:privateKey=DIR/server.pem:interface=127.0.0.1", "TLSv1.3", ("CN=local",)
        )

    async def test_by_name(self) -> None:
        """C{port=} by name, options in any order."""
        await self.assertSame("interface=127.0.0.1:privateKey=DIR/server.pem:port=0", ("CN=local",))

    async def test_two_files(self) -> None:
        """C{privateKey} and C{certKey}."""
        await self.assertSame(
            "0:privateKey=DIR/key.pem:certKey=DIR/cert.pem:interface=127.0.0.1", ("CN=local",)
        )

    async def test_default_file(self) -> None:
        """C{server.pem} where the program was started."""
        here = os.getcwd()
        os.chdir(self.directory)
        self.addCleanup(os.chdir, here)
        await self.assertSame("0:interface=127.0.0.1", ("CN=local",))

    async def test_chain(self) -> None:
        """C{extraCertChain}."""
        await self.assertSame(
            "0:privateKey=DIR/key.pem:certKey=DIR/chained.pem:extraCertChain=DIR/chain.pem"
            ":interface=127.0.0.1",
            ("CN=chained server", "CN=intermediate"),
        )

    async def test_interface(self) -> None:
        """C{interface}: an address, a name, none, an empty one."""
        for interface, host in (
            (":interface=127.0.0.1", "127.0.0.1"),
            (":interface=127.0.0.2", "127.0.0.2"),
            ("", "0.0.0.0"),
            (":interface=", "0.0.0.0"),
            (":interface=localhost", "127.0.0.1"),
        ):
            for prefix in ("ssl", "bioconn"):
                address = await self.serve(
                    f"{prefix}:0:privateKey=DIR/server.pem{interface}", Applications()
                )
                self.assertEqual(address.host, host)

    async def test_backlog(self) -> None:
        """C{backlog}."""
        await self.assertSame("0:privateKey=DIR/server.pem:backlog=1:interface=127.0.0.1")

    async def test_method(self) -> None:
        """C{sslmethod}."""
        for method, version in (
            ("TLSv1_2_METHOD", "TLSv1.2"),
            ("TLS_METHOD", "TLSv1.3"),
            ("SSLv23_METHOD", "TLSv1.3"),
        ):
            await self.assertSame(
                f"0:privateKey=DIR/server.pem:sslmethod={method}:interface=127.0.0.1", version
            )

    async def test_diffie_hellman(self) -> None:
        """C{dhParameters}: with it there is such a cipher, for those who have no other."""
        cipher = "DHE-RSA-AES256-GCM-SHA384"
        made = context(True, versions=(TLS12, TLS12), ciphers=cipher.encode())
        rest = "0:privateKey=DIR/rsa.pem:interface=127.0.0.1"
        await self.assertSame(f"{rest}:dhParameters=DIR/dh.pem", cipher, made=made)
        # Without it Twisted's serves those who know the groups of RFC 7919; no policy has them.
        _, (_, received, *_) = await self.outcomes(rest, made)
        self.assertEqual(received, b"")


class ClientMigrationTests(SocketCase):
    """C{tls:} becomes C{bioconn:}, of a client."""

    def setUp(self) -> None:
        super().setUp()
        self.peers: list[Talking] = []

    async def server(self, **options: Any) -> Any:
        """OpenSSL's server, for localhost; returns its address."""
        made = context(False, trusted=[authority().certificate], **options)
        made.use_certificate_file(self.path("cert.pem"))
        made.use_privatekey_file(self.path("key.pem"))
        made.set_verify(SSL.VERIFY_PEER, lambda *_: True)

        def build() -> Talking:
            self.peers.append(Talking(made, False))
            return self.peers[-1]

        factory: Any = Factory.forProtocol(build)
        return await self.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), factory)

    async def outcome(self, description: str) -> tuple[Any, ...]:
        """What the server sees of a client."""
        ours = Applications(
            made=lambda application: application.transport.write(b"hello"),
        )
        application = await self.connect(description, ours)
        self.assertIs(application, ours.one)
        peer = self.peers[-1]
        if not peer.received:
            await peer.answered
        peer_certificate = peer.ssl.get_peer_certificate(as_cryptography=True)
        name = peer.ssl.get_servername()
        address = peer.transport.getPeer().host
        lost = peer.answered
        application.transport.abortConnection()
        await lost
        return (
            peer.received,
            None if peer_certificate is None else peer_certificate.subject.rfc4514_string(),
            name,
            address,
        )

    async def assertSame(self, rest: str, *expected: Any) -> None:
        """Both prefixes show the server the same, and it is this."""
        for prefix in ("tls", "bioconn"):
            found = await self.outcome(f"{prefix}:{rest}")
            self.assertEqual(found, (b"hello", *expected))

    async def test_trust_roots(self) -> None:
        """C{trustRoots}: a directory, in which what is no certificate does no harm."""
        port = (await self.server()).port
        await self.assertSame(
            f"localhost:{port}:trustRoots=DIR/authorities", None, b"localhost", "127.0.0.1"
        )
        for prefix in ("tls", "bioconn"):
            for rest in (f"localhost:{port}:trustRoots=DIR/strangers", f"localhost:{port}"):
                ours = Applications()
                refused: Any = None
                try:
                    application = await self.connect(f"{prefix}:{rest}", ours)
                except SSL.Error as error:
                    refused = error
                else:
                    # Twisted's own tells only the application.
                    self.assertEqual(prefix, "tls")
                    application.transport.abortConnection()
                self.assertEqual(refused is not None, prefix == "bioconn")

    async def test_by_name(self) -> None:
        """C{host} and C{port} by name, and a C{timeout}."""
        port = (await self.server()).port
        await self.assertSame(
            f"host=localhost:port={port}:timeout=10:trustRoots=DIR/authorities",
            None,
            b"localhost",
            "127.0.0.1",
        )

    async def test_certificate(self) -> None:
        """C{certificate} and C{privateKey}, in one file or two."""
        port = (await self.server()).port
        for rest in (
            "certificate=DIR/client.pem",
            "certificate=DIR/client-cert.pem:privateKey=DIR/client-key.pem",
        ):
            await self.assertSame(
                f"localhost:{port}:trustRoots=DIR/authorities:{rest}",
                "CN=client",
                b"localhost",
                "127.0.0.1",
            )

    async def test_bind_address(self) -> None:
        """C{bindAddress}."""
        port = (await self.server()).port
        await self.assertSame(
            f"localhost:{port}:trustRoots=DIR/authorities:bindAddress=127.0.0.2",
            None,
            b"localhost",
            "127.0.0.2",
        )

    async def test_endpoint(self) -> None:
        """C{endpoint}: what to connect to, and then the host is whom to verify."""
        port = (await self.server()).port
        await self.assertSame(
            f"localhost:1:trustRoots=DIR/authorities:endpoint=tcp\\:127.0.0.1\\:{port}",
            None,
            b"localhost",
            "127.0.0.1",
        )


class StringTests(SocketCase):
    """Strings at both ends."""

    async def talk(self, server: str, client: Callable[[Any], str]) -> tuple[Any, Any]:
        """
        Connect the one to the other.

        @return: what each end negotiated, the server's first.
        """
        heard: Deferred[None] = Deferred()
        theirs = Applications(made=greeting)
        ours = Applications(data=firing(heard))
        address = await self.serve(server, theirs)
        application = await self.connect(client(address), ours)
        await heard
        self.assertEqual(application.received, b"hello")
        facts = theirs.one.transport.negotiated, application.transport.negotiated
        ends = []
        for each in (theirs.one, application):
            gone: Deferred[None] = Deferred()
            each.hooks["lost"] = firing(gone)
            ends.append(gone)
        application.transport.loseConnection()
        for gone in ends:
            await gone
        return facts

    async def test_encrypted_key(self) -> None:
        """C{passphraseFile}."""
        await self.talk(
            "bioconn:0:privateKey=DIR/encrypted.pem:certKey=DIR/cert.pem"
            ":passphraseFile=DIR/passphrase:interface=127.0.0.1",
            lambda address: f"bioconn:localhost:{address.port}:trustRoots=DIR/authorities",
        )

    async def test_client_certificates(self) -> None:
        """C{clientAuthorities}, and a client that has one; it is known by name at the server."""
        facts, _ = await self.talk(
            "bioconn:0:privateKey=DIR/server.pem:interface=127.0.0.1"
            ":clientAuthorities=DIR/authorities",
            lambda address: (
                f"bioconn:localhost:{address.port}:trustRoots=DIR/authorities/ca.pem"
                ":certificate=DIR/client.pem:alpn=x"
            ),
        )
        self.assertEqual(facts.peer_certificate, client().certificate)

    async def test_unix(self) -> None:
        """Over a UNIX socket."""
        await self.talk(
            r"bioconn:endpoint=unix\:DIR/app.sock:privateKey=DIR/server.pem",
            lambda _: r"bioconn:localhost:endpoint=unix\:DIR/app.sock:trustRoots=DIR/authorities",
        )

    async def test_ipv6(self) -> None:
        """Over IPv6, to a name and to an address that the certificate is not for."""
        require_ipv6()
        await self.talk(
            r"bioconn:0:interface=\:\:1:privateKey=DIR/server.pem",
            lambda address: (
                f"bioconn:\\:\\:1:{address.port}:serverName=localhost:trustRoots=DIR/authorities"
            ),
        )

    async def test_tls_in_tls(self) -> None:
        """One string in the other, at both ends."""
        inner = quoteStringArgument("bioconn:0:interface=127.0.0.1:privateKey=DIR/rsa.pem")

        def client(address: Any) -> str:
            below = f"bioconn:127.0.0.1:{address.port}:serverName={HOST}:trustRoots=DIR/authorities"
            return (
                f"bioconn:localhost:endpoint={quoteStringArgument(below)}"
                ":trustRoots=DIR/authorities"
            )

        await self.talk(f"bioconn:endpoint={inner}:privateKey=DIR/server.pem", client)

    async def test_unverified(self) -> None:
        """C{unsafeSkipVerification=yes}."""
        await self.talk(
            "bioconn:0:privateKey=DIR/rsa.pem:interface=127.0.0.1",
            lambda address: f"bioconn:127.0.0.1:{address.port}:unsafeSkipVerification=yes",
        )

    async def test_resumption(self) -> None:
        """
        A string is parsed anew each time, and the second connection resumes all the same; also
        through a new endpoint of the same server, with a certificate of ours.
        """
        self.patch(sys.modules["twisted_bioconn.context"], "_SESSIONS", SessionStore())
        theirs = Applications(made=greeting)
        address = await self.serve(
            "bioconn:0:privateKey=DIR/server.pem:interface=127.0.0.1"
            ":clientAuthorities=DIR/authorities:clientCertificate=verifyIfGiven",
            theirs,
        )
        for certified in ("", ":certificate=DIR/client.pem"):
            resumed = []
            for _ in range(3):
                heard: Deferred[None] = Deferred()
                gone: Deferred[None] = Deferred()
                ours = Applications(
                    data=firing(heard),
                    lost=firing(gone),
                )
                application = await self.connect(
                    f"bioconn:localhost:{address.port}:trustRoots=DIR/authorities{certified}",
                    ours,
                )
                await heard
                resumed.append(application.transport.negotiated.resumed)
                self.assertEqual(theirs.built[-1].transport.negotiated.resumed, resumed[-1])
                application.transport.loseConnection()
                await gone
            self.assertEqual(resumed, [False, True, True])


class ProgramTests(SocketCase):
    """Twisted's own programs, given such strings."""

    async def test_web(self) -> None:
        """C{twist web --listen bioconn:…} serves."""
        with open(self.path("index.html"), "w") as file:
            file.write("a page")
        options = tap.Options()
        quoted = quoteStringArgument(self.path("server.pem"))
        options.parseOptions(
            [
                "--listen",
                f"bioconn:0:interface=127.0.0.1:privateKey={quoted}",
                "--path",
                self.directory,
            ]
        )
        service = tap.makeService(options)
        [listening] = service.services
        service.privilegedStartService()
        service.startService()
        self.addCleanup(service.stopService)
        port = (await listening._waitingForPort).getHost().port
        web = treq_client(reactor, trust_roots=[authority().certificate])
        response = await web.get(f"https://localhost:{port}/index.html")
        self.assertEqual(await response.text(), "a page")

    async def test_mistake(self) -> None:
        """
        Neither C{twist} nor C{twistd} expects a mistake there, whoever's endpoint it is, and shows
        a traceback; but it ends with the sentence, and with a status that says so.
        """
        # Not by the reactor, which on uvloop may never learn that a process has ended.
        for program in (
            ["-m", "twisted"],
            ["-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="],
        ):
            ended = await deferToThread(
                run_python, *program, "web", "--listen", "bioconn:443:privatkey=x"
            )
            self.assertNotEqual(ended.returncode, 0)
            self.assertTrue(
                ended.stderr.rstrip().endswith(
                    "bioconn: has no option 'privatkey'; did you mean privateKey?"
                ),
                ended.stderr,
            )
            self.assertNotIn("During handling of the above", ended.stderr)
            self.assertNotIn("direct cause of", ended.stderr)
