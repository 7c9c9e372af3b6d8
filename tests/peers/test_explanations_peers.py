"""What is said of handshakes that fail with real clients and real servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest

from tests.explanation_material import hello_in
from tests.peers.material import Material, certificates
from tests.peers.ours import PeerCase
from tests.peers.processes import DEADLINE, on_free_port, reactor
from tests.peers.with_curl import start as curl
from tests.peers.with_gnutls import cli
from tests.peers.with_nginx import start as nginx
from tests.peers.with_openssl import s_client, s_server
from twisted_bioconn._openssl import PUBLIC_API_ONLY
from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.client_policy import ClientCertificate, ClientPolicy
from twisted_bioconn.context import ClientOptions, ServerOptions
from twisted_bioconn.explanations import Cause, Explanation, FailedHandshake, Side, explain
from twisted_bioconn.policy import INTERMEDIATE
from twisted_bioconn.protocol import TLSConnectorFactory, TLSConnectorProtocol

OLD = "DEFAULT@SECLEVEL=0"
"""Ciphers with which OpenSSL 3 speaks versions before TLS 1.2."""

TLS13 = "-tls1_3"


class Watched(TLSConnectorProtocol):
    """
    TLS that remembers what came.

    @ivar came: all of it.
    """

    came = b""

    def dataReceived(self, data: bytes) -> None:
        self.came += data
        super().dataReceived(data)


class Told(Protocol):
    """
    An application that only waits for the end.

    @ivar lost: fires with the reason, and all that came.
    """

    transport: Any

    def __init__(self, lost: Deferred[tuple[BaseException, bytes]]) -> None:
        self.lost = lost

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert reason.value is not None
        self.lost.callback((reason.value, self.transport.came))


class ExplainedCase(PeerCase):
    """A test of one handshake."""

    def factory(
        self, options: Any, is_client: bool, **settings: Any
    ) -> tuple[TLSConnectorFactory, Deferred[tuple[BaseException, bytes]]]:
        lost: Deferred[tuple[BaseException, bytes]] = Deferred()
        wrapped = Factory.forProtocol(lambda: Told(lost))
        wrapped.noisy = False
        factory = TLSConnectorFactory(options, is_client, wrapped, **settings)
        factory.protocol = Watched
        return factory, lost

    async def explained(
        self,
        lost: Deferred[tuple[BaseException, bytes]],
        is_server: bool,
        **more: Any,
    ) -> Explanation:
        """What is said once the handshake has failed."""
        began = time.monotonic()
        error, came = await lost.addTimeout(DEADLINE, reactor)
        return explain(
            FailedHandshake(
                error=error,
                is_server=is_server,
                peer="127.0.0.1",
                hello=hello_in(came) if is_server else None,
                first_bytes=came[:64],
                received=len(came),
                policy=INTERMEDIATE,
                waited=time.monotonic() - began,
                now=datetime.now(UTC),
                **more,
            )
        )

    async def visited(
        self,
        visit: Callable[[int], object],
        clients: ClientPolicy | None = None,
        *,
        alpn: tuple[bytes, ...] = (),
        timeout: float = 10.0,
        **more: Any,
    ) -> Explanation:
        """
        A client comes to a server of ours.

        @param visit: starts it, for this port.
        @param clients: what is asked of clients' certificates.
        """
        material = self.material
        key = CertifiedKey.from_files(str(material.server), str(material.server_key))
        options = ServerOptions(key, clients=clients, alpn=alpn)
        factory, lost = self.factory(options, False, handshakeTimeout=timeout)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        visit(port.getHost().port)
        return await self.explained(lost, True, alpn=alpn, **more)

    async def visiting(self, port: int, timeout: float = 10.0, **more: Any) -> Explanation:
        """A client of ours comes to a server."""
        options = ClientOptions("localhost", trust_roots=certificates(self.material.root), **more)
        factory, lost = self.factory(options, True, handshakeTimeout=timeout)
        await TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(factory)
        return await self.explained(lost, False)

    def assert_said(
        self,
        found: Explanation,
        cause: Cause,
        sentence: str = "",
        remedy: Side | None = None,
    ) -> None:
        self.assertEqual(found.cause, cause, str(found))
        self.assertIn(sentence, found.sentence)
        if remedy is not None:
            self.assertEqual(found.remedy, remedy)


class OpenSSLTests(ExplainedCase):
    """C{openssl s_client}."""

    def client(self, *arguments: object) -> Callable[[int], object]:
        return lambda port: s_client(self, port, *arguments)

    async def test_old(self) -> None:
        """A client of TLS 1.1."""
        found = await self.visited(self.client("-tls1_1", "-cipher", OLD))
        self.assert_said(
            found,
            Cause.CLIENT_TOO_OLD,
            "127.0.0.1 offers TLS 1.1 at most; policy=intermediate needs TLS 1.2",
            Side.CLIENT,
        )

    async def test_cipher(self) -> None:
        found = await self.visited(self.client("-tls1_2", "-cipher", "AES128-SHA256"))
        self.assert_said(found, Cause.NO_SHARED_CIPHER, "has: AES128-SHA256", Side.CLIENT)

    async def test_ciphersuite(self) -> None:
        found = await self.visited(self.client(TLS13, "-ciphersuites", "TLS_AES_128_CCM_SHA256"))
        self.assert_said(found, Cause.NO_SHARED_CIPHER, "TLS_AES_128_CCM_SHA256", Side.CLIENT)

    async def test_group(self) -> None:
        if PUBLIC_API_ONLY:
            raise SkipTest("the public API cannot set groups")
        for version in (TLS13, "-tls1_2"):
            found = await self.visited(self.client(version, "-groups", "P-521:X448"))
            self.assert_said(found, Cause.NO_SHARED_GROUP, "secp521r1, X448", Side.CLIENT)

    async def test_signature(self) -> None:
        found = await self.visited(self.client(TLS13, "-sigalgs", "ed25519:ed448"))
        self.assert_said(found, Cause.NO_SHARED_SIGNATURE, "ed25519, ed448", Side.CLIENT)

    async def test_rsa_alone(self) -> None:
        """The server has an ECDSA certificate alone."""
        found = await self.visited(self.client(TLS13, "-sigalgs", "rsa_pss_rsae_sha256"))
        self.assert_said(found, Cause.RSA_ONLY_CLIENT, "for localhost has no RSA key", Side.SERVER)
        found = await self.visited(self.client("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"))
        self.assert_said(found, Cause.RSA_ONLY_CLIENT, "ECDHE-RSA-AES128-GCM-SHA256", Side.SERVER)

    async def test_fallback(self) -> None:
        found = await self.visited(self.client("-tls1_2", "-fallback_scsv"))
        self.assert_said(found, Cause.FALLBACK, "fallen back to TLS 1.2", Side.NETWORK)

    async def test_alpn(self) -> None:
        found = await self.visited(self.client("-alpn", "mqtt,imap"), alpn=(b"h2",))
        self.assert_said(found, Cause.ALPN_MISMATCH, "speaks mqtt, imap by ALPN, and we speak h2")

    async def test_unknown_authority(self) -> None:
        """It refuses our certificate, in TLS 1.2 and 1.3."""
        root = self.stranger().root
        for version in (TLS13, "-tls1_2"):
            found = await self.visited(self.client(version, "-CAfile", root))
            self.assert_said(found, Cause.ALERT_UNKNOWN_CA, "for localhost", Side.SERVER)

    async def test_wrong_host(self) -> None:
        found = await self.visited(self.client("-verify_hostname", "elsewhere.example"))
        self.assert_said(found, Cause.ALERT_BAD_CERTIFICATE, "for localhost", Side.SERVER)

    async def test_starttls(self) -> None:
        """It waits for the server to speak first; nobody does."""
        found = await self.visited(
            self.client("-starttls", "smtp"), timeout=1, settings={"handshakeTimeout": 1}
        )
        self.assert_said(found, Cause.TIMEOUT_SILENT, "sent nothing within 1 seconds")

    async def test_starttls_of_postgres(self) -> None:
        found = await self.visited(self.client("-starttls", "postgres"))
        self.assert_said(found, Cause.POSTGRESQL, "PostgreSQL", Side.CLIENT)

    async def test_starttls_of_ldap(self) -> None:
        found = await self.visited(self.client("-starttls", "ldap"))
        self.assert_said(found, Cause.LDAP, "LDAP", Side.CLIENT)

    async def test_starttls_of_xmpp(self) -> None:
        found = await self.visited(self.client("-starttls", "xmpp", "-xmpphost", "localhost"))
        self.assert_said(found, Cause.XMPP, "XMPP", Side.CLIENT)

    async def test_proxy(self) -> None:
        """It takes our port for an HTTP proxy."""
        found = await self.visited(
            lambda port: self.run_program(
                "openssl",
                *("s_client", "-proxy", f"127.0.0.1:{port}", "-connect", "localhost:443"),
            )
        )
        self.assert_said(found, Cause.HTTP, "speaks plain HTTP", Side.CLIENT)


class ClientCertificateTests(ExplainedCase):
    """C{openssl s_client} before a server that wants to see a certificate."""

    async def shown(self, *arguments: object, roots: Material | None = None) -> Explanation:
        """It shows the one that these arguments say, for a server that trusts these roots."""
        trusted = certificates((roots or self.material).root)
        return await self.visited(
            lambda port: s_client(self, port, *arguments),
            ClientPolicy(ClientCertificate.REQUIRE, trusted),
        )

    async def test_none(self) -> None:
        for version in (TLS13, "-tls1_2"):
            found = await self.shown(version)
            self.assert_said(found, Cause.CLIENT_CERTIFICATE_MISSING, "shows no", Side.CLIENT)

    async def test_expired(self) -> None:
        chain, key = self.material.issue("late", "late@example.org", expired=True)
        found = await self.shown(
            "-cert", chain, "-key", key, "-cert_chain", self.material.intermediate
        )
        self.assert_said(found, Cause.CLIENT_CERTIFICATE_EXPIRED, " ago", Side.CLIENT)

    async def test_unknown(self) -> None:
        """The root that signed for it is another."""
        other = self.stranger()
        found = await self.shown(
            *("-cert", other.client, "-key", other.client_key),
            *("-cert_chain", other.intermediate),
        )
        self.assert_said(found, Cause.CLIENT_CERTIFICATE_UNKNOWN_AUTHORITY, "", Side.CLIENT)


class OtherClientTests(ExplainedCase):
    """GnuTLS, curl, Node.js, and clients of other protocols."""

    def gnutls(self, priority: str) -> Callable[[int], object]:
        return lambda port: cli(self, port, "--priority", priority)

    async def test_gnutls(self) -> None:
        for priority, cause, sentence in (
            ("NORMAL:-VERS-ALL:+VERS-TLS1.1", Cause.CLIENT_TOO_OLD, "TLS 1.1 at most"),
            (
                "NORMAL:-VERS-ALL:+VERS-TLS1.3:-SIGN-ALL:+SIGN-EDDSA-ED25519",
                Cause.NO_SHARED_SIGNATURE,
                "ed25519",
            ),
            (
                "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-CCM",
                Cause.NO_SHARED_CIPHER,
                "TLS_AES_128_CCM_SHA256",
            ),
        ):
            found = await self.visited(self.gnutls(priority))
            self.assert_said(found, cause, sentence, Side.CLIENT)

    async def test_gnutls_group(self) -> None:
        if PUBLIC_API_ONLY:
            raise SkipTest("the public API cannot set groups")
        found = await self.visited(self.gnutls("NORMAL:-GROUP-ALL:+GROUP-SECP521R1"))
        self.assert_said(found, Cause.NO_SHARED_GROUP, "secp521r1", Side.CLIENT)

    async def test_curl_does_not_trust(self) -> None:
        """An older one says so; a newer one is gone, and its own log has to tell."""
        found = await self.visited(
            lambda port: curl(
                self, port, "--cacert", self.stranger().root, f"https://localhost:{port}/"
            )
        )
        if found.cause is Cause.RESET_AFTER_HELLO:
            self.assert_said(found, Cause.RESET_AFTER_HELLO, "", Side.CLIENT)
        else:
            self.assert_said(found, Cause.ALERT_UNKNOWN_CA, "", Side.SERVER)

    async def test_curl(self) -> None:
        for arguments, cause, side in (
            (["http://localhost:{port}/"], Cause.HTTP, Side.CLIENT),
            (
                ["--http2-prior-knowledge", "http://localhost:{port}/"],
                Cause.HTTP2,
                Side.CLIENT,
            ),
            (
                ["--haproxy-protocol", "https://localhost:{port}/"],
                Cause.PROXY_V1,
                Side.SERVER,
            ),
            (
                ["--socks5", "127.0.0.1:{port}", "https://www.example.org/"],
                Cause.SOCKS5,
                Side.CLIENT,
            ),
            (
                ["--socks4", "127.0.0.1:{port}", "https://192.0.2.1/"],
                Cause.SOCKS4,
                Side.CLIENT,
            ),
            (
                ["--tlsv1.1", "--tls-max", "1.1", "--ciphers", OLD, "https://localhost:{port}/"],
                Cause.CLIENT_TOO_OLD,
                Side.CLIENT,
            ),
            (["mqtt://localhost:{port}/topic"], Cause.MQTT, Side.CLIENT),
        ):

            def visit(port: int, arguments: list[Any] = arguments) -> object:
                texts = [str(each).replace("{port}", str(port)) for each in arguments]
                return curl(self, port, "--max-time", 2, *texts)

            # SOCKS 5 begins with fewer bytes than a record's header has, and then waits.
            found = await self.visited(visit, timeout=1)
            self.assert_said(found, cause, "", side)

    async def test_node(self) -> None:
        """Node.js refuses an authority after its handshake; what it offers it refuses before."""
        script = (
            "require('tls').connect({host: '127.0.0.1', port: +process.argv[1],"
            " minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0'})"
            ".on('error', () => {})"
        )
        found = await self.visited(lambda port: self.run_program("node", "-e", script, port))
        self.assert_said(found, Cause.CLIENT_TOO_OLD, "TLS 1.1 at most", Side.CLIENT)

    async def test_redis(self) -> None:
        found = await self.visited(
            lambda port: self.run_program("redis-cli", "-p", port, "PING"), timeout=2
        )
        self.assert_said(found, Cause.REDIS, "Redis", Side.CLIENT)

    async def test_postgresql(self) -> None:
        found = await self.visited(
            lambda port: self.run_program(
                "psql", f"host=127.0.0.1 port={port} user=nobody sslmode=require connect_timeout=2"
            )
        )
        self.assert_said(found, Cause.POSTGRESQL, "PostgreSQL", Side.CLIENT)

    async def test_ssh(self) -> None:
        found = await self.visited(
            lambda port: self.run_program(
                "ssh", "-p", port, "-o", "BatchMode=yes", "-F", "/dev/null", "nobody@127.0.0.1"
            )
        )
        self.assert_said(found, Cause.SSH, "speaks SSH", Side.CLIENT)


class ServerTests(ExplainedCase):
    """Servers that a client of ours comes to."""

    async def test_old(self) -> None:
        port, _ = await s_server(self, "-tls1_1", "-cipher", OLD)
        found = await self.visiting(port)
        self.assert_said(found, Cause.SERVER_VERSION, "policy=intermediate needs TLS", Side.SERVER)

    async def test_wants_certificate(self) -> None:
        port, _ = await s_server(self, TLS13, certificate=True)
        found = await self.visiting(port)
        self.assert_said(found, Cause.SERVER_WANTS_CERTIFICATE, "", Side.CLIENT)

    async def test_refuses_certificate(self) -> None:
        other = self.stranger()
        port, _ = await s_server(self, "-tls1_2", certificate=True)
        own = CertifiedKey.from_files(str(other.client), str(other.client_key))
        found = await self.visiting(port, certificate=own)
        self.assert_said(found, Cause.SERVER_REFUSES_CERTIFICATE, "does not trust", Side.CLIENT)

    async def test_expired(self) -> None:
        own = self.material.issue("late", "localhost", expired=True)
        port, _ = await s_server(self, own=own)
        found = await self.visiting(port)
        self.assert_said(found, Cause.SERVER_CERTIFICATE_EXPIRED, " ago", Side.SERVER)

    async def test_wrong_host(self) -> None:
        port, _ = await s_server(self, own=self.material.issue("other", "elsewhere.example"))
        found = await self.visiting(port)
        self.assert_said(
            found,
            Cause.SERVER_CERTIFICATE_WRONG_HOST,
            "the certificate is not for localhost: it is for elsewhere.example",
            Side.SERVER,
        )

    async def test_http(self) -> None:
        """A web server without TLS answers that it did not understand."""
        port, _ = await nginx(self, "http", "server { listen 127.0.0.1:PORT; return 204; }")
        found = await self.visiting(port)
        self.assert_said(found, Cause.SERVER_PLAIN_HTTP, "HTTP/1.1 400 Bad Request", Side.CLIENT)

    async def test_silent(self) -> None:
        """A server of another protocol waits for the rest of what it takes a hello for."""

        async def start(port: int) -> object:
            program = self.run_program(
                "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", ""
            )
            await program.wait_for("Ready to accept connections")
            return program

        port, _ = await on_free_port(start)
        found = await self.visiting(port, timeout=1)
        self.assert_said(found, Cause.SERVER_TIMEOUT, "0 bytes came", Side.SERVER)
