"""64 MiB each way at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.web.server import Site

from tests.peers import with_curl, with_nginx
from tests.peers.bulk import OURS, SIZE, THEIRS, Bulk, Exchange, bulk, bulk_file, digest_of
from tests.peers.matrix import once
from tests.peers.ours import PeerCase
from tests.peers.processes import Program, on_free_port, reactor
from tests.peers.with_gnutls import PRIORITIES, cli
from tests.peers.with_openssl import VERSIONS, s_client, start_s_server
from tests.peers.with_scripts import ASYNCIO, BLOCKING, NODE, Script, reports_of


class BulkCase(PeerCase):
    """What the peers have in common."""

    timeout = 900
    size = SIZE

    def exchange(self) -> Exchange:
        return Exchange(bulk(OURS, self.size)[0], self.size)

    def exchanges(self) -> Factory[Exchange]:
        """A server's, which keeps the protocols that it makes."""
        self.made: list[Exchange] = []

        def make() -> Exchange:
            self.made.append(self.exchange())
            return self.made[-1]

        factory = Factory.forProtocol(make)
        factory.noisy = False
        return factory

    @contextmanager
    def stdout(self) -> Iterator[dict[int, int]]:
        """A file for a program's stdout."""
        with (self.directory / "out").open("wb") as target:
            yield {1: target.fileno()}

    def assert_sent(self) -> None:
        """All of what ours sent is in that file."""
        self.assertEqual(digest_of(self.directory / "out"), bulk(OURS, self.size)[1])

    def assert_received(self, exchange: Exchange, version: str | None) -> None:
        """All of what the peer sent has come."""
        self.assertEqual(exchange.received, self.size)
        self.assertEqual(exchange.sha256.hexdigest(), bulk(THEIRS, self.size)[1])
        self.assertEqual(exchange.facts and exchange.facts.version, version)


class OpenSSLTests(BulkCase):
    """C{openssl s_client} and C{openssl s_server}, whose stdout is a file."""

    async def test_client_tls12(self) -> None:
        await self._client("TLSv1.2")

    async def test_client_tls13(self) -> None:
        await self._client("TLSv1.3")

    async def test_server_tls12(self) -> None:
        await self._server("TLSv1.2")

    async def test_server_tls13(self) -> None:
        await self._server("TLSv1.3")

    async def _client(self, version: str) -> None:
        server = await self.serve(self.exchanges())
        with self.stdout() as files:
            # Without -quiet the end of its input would be the end of the connection, and a Q at the
            # start of what it reads too.
            program = s_client(self, server.port, "-quiet", VERSIONS[version], files=files)
        program.write(bulk(THEIRS)[0])
        await program.succeeded()
        [reason] = await server.ended(1)
        self.assertIsInstance(reason, ConnectionDone)
        self.assert_sent()
        self.assert_received(self.made[0], version)

    async def _server(self, version: str) -> None:
        async def start(port: int) -> tuple[Program, Exchange]:
            with self.stdout() as files:
                program = start_s_server(
                    self, port, "-naccept", 1, "-quiet", VERSIONS[version], files=files
                )
            # With -quiet it does not say when it listens.
            while True:
                try:
                    return program, await self.connect(port, self.exchange())
                except ConnectionRefusedError:
                    self.assertFalse(program.has_ended)
                    await deferLater(reactor, 0.02)

        _, (program, exchange) = await on_free_port(start)
        # At the end of its input it would close the connection, so that has none.
        program.write(bulk(THEIRS)[0])
        reason = await exchange.gone()
        self.assertIsInstance(reason, ConnectionDone)
        await program.succeeded()
        self.assert_sent()
        self.assert_received(exchange, version)


class GnuTLSTests(BulkCase):
    """
    C{gnutls-cli}, whose stdout is a file.

    It writes and flushes 4 KiB at a time, and so takes more than a minute for 64 MiB.
    """

    timeout = 900
    size = SIZE if os.environ.get("BIOCONN_SLOW") else 2 * 1024 * 1024

    async def test_client_tls12(self) -> None:
        await self._client("TLSv1.2")

    async def test_client_tls13(self) -> None:
        await self._client("TLSv1.3")

    async def _client(self, version: str) -> None:
        server = await self.serve(self.exchanges())
        with self.stdout() as files:
            program = cli(
                self,
                server.port,
                *("--logfile", self.directory / "log", "--priority", PRIORITIES[version]),
                files=files,
            )
        program.write(bulk(THEIRS, self.size)[0])
        await program.succeeded(800)
        # Its own close is none of TLS, see test_gnutls.
        await server.ended(1)
        self.assert_sent()
        self.assert_received(self.made[0], version)


class ScriptTests(BulkCase):
    """Python's C{ssl}, asyncio and Node.js."""

    async def test_python_client_tls12(self) -> None:
        await self._client(BLOCKING, "TLSv1.2")

    async def test_python_client_tls13(self) -> None:
        await self._client(BLOCKING, "TLSv1.3")

    async def test_python_server_tls12(self) -> None:
        await self._server(BLOCKING, "TLSv1.2")

    async def test_python_server_tls13(self) -> None:
        await self._server(BLOCKING, "TLSv1.3")

    async def test_asyncio_client_tls12(self) -> None:
        await self._client(ASYNCIO, "TLSv1.2")

    async def test_asyncio_client_tls13(self) -> None:
        await self._client(ASYNCIO, "TLSv1.3")

    async def test_asyncio_server_tls12(self) -> None:
        await self._server(ASYNCIO, "TLSv1.2")

    async def test_asyncio_server_tls13(self) -> None:
        await self._server(ASYNCIO, "TLSv1.3")

    async def test_node_client_tls12(self) -> None:
        await self._client(NODE, "TLSv1.2")

    async def test_node_client_tls13(self) -> None:
        await self._client(NODE, "TLSv1.3")

    async def test_node_server_tls12(self) -> None:
        await self._server(NODE, "TLSv1.2")

    async def test_node_server_tls13(self) -> None:
        await self._server(NODE, "TLSv1.3")

    async def _client(self, script: Script, version: str) -> None:
        server = await self.serve(self.exchanges())
        path, _ = bulk_file(self.directory, THEIRS)
        program = script.start_client(self, server.port, once(version), "exchange", file=str(path))
        said = await program.succeeded()
        [reason] = await server.ended(1)
        self.assertIsInstance(reason, ConnectionDone)
        self._compare(self.made[0], said, version)

    async def _server(self, script: Script, version: str) -> None:
        path, _ = bulk_file(self.directory, THEIRS)
        port, program = await script.start_server(self, once(version), "exchange", file=str(path))
        exchange = await self.connect(port, self.exchange())
        reason = await exchange.gone()
        self.assertIsInstance(reason, ConnectionDone)
        self._compare(exchange, await program.succeeded(), version)

    def _compare(self, exchange: Exchange, said: str, version: str) -> None:
        self.assert_received(exchange, version)
        [report] = reports_of(said)
        self.assertEqual(report["unsent"], 0)
        self.assertEqual(report["digest"], bulk(OURS)[1])


class CurlTests(BulkCase):
    """curl fetches and uploads files, one after the other."""

    async def test_http1_tls12(self) -> None:
        await self._transfer("--http1.1", "--tls-max", "1.2")

    async def test_http1_tls13(self) -> None:
        await self._transfer("--http1.1", "--tlsv1.3")

    async def test_http2_tls12(self) -> None:
        await self._transfer("--http2", "--tls-max", "1.2")

    async def test_http2_tls13(self) -> None:
        await self._transfer("--http2", "--tlsv1.3")

    async def _transfer(self, http: str, *version: str) -> None:
        server = await self.serve(Site(Bulk()))
        url = f"https://localhost:{server.port}/"
        path, digest = bulk_file(self.directory, THEIRS)
        down = with_curl.start(self, server.port, http, *version, "--output", "out", url)
        await down.succeeded()
        up = with_curl.start(self, server.port, http, *version, "--upload-file", path, url)
        self.assertIn(digest, await up.succeeded())
        self.assertEqual(digest_of(self.directory / "out"), bulk(OURS)[1])
        alpn = {"--http1.1": b"http/1.1", "--http2": b"h2"}[http]
        self.assertEqual([each.alpn for each in server.facts], [alpn] * 2)


class NginxTests(BulkCase):
    """nginx carries a stream between us and ourselves, with TLS on the one side of it."""

    async def test_client_tls12(self) -> None:
        await self._client("TLSv1.2")

    async def test_client_tls13(self) -> None:
        await self._client("TLSv1.3")

    async def test_server_tls12(self) -> None:
        await self._server("TLSv1.2")

    async def test_server_tls13(self) -> None:
        await self._server("TLSv1.3")

    async def _client(self, version: str) -> None:
        server = await self.serve(self.exchanges())
        port, _ = await with_nginx.start(
            self,
            "stream",
            f"server {{ listen 127.0.0.1:PORT; proxy_pass 127.0.0.1:{server.port}; proxy_ssl on;"
            f" {with_nginx.proxying(self, versions=version)} }}",
        )
        plain = await self.connect_plain(port, Exchange(bulk(THEIRS)[0]))
        await server.ended(1)
        await plain.gone()
        self.assert_received(self.made[0], version)
        self.assertEqual(plain.sha256.hexdigest(), bulk(OURS)[1])

    async def _server(self, version: str) -> None:
        plain = Exchange(bulk(THEIRS)[0])
        plain_port = await self.serve_plain(plain)
        port, _ = await with_nginx.start(
            self,
            "stream",
            f"server {{ {with_nginx.serving(self, versions=version)}"
            f" proxy_pass 127.0.0.1:{plain_port}; }}",
        )
        exchange = await self.connect(port, self.exchange())
        await exchange.gone()
        await plain.gone()
        self.assert_received(exchange, version)
        self.assertEqual(plain.sha256.hexdigest(), bulk(OURS)[1])
