"""What curl can do beyond the matrix."""

from __future__ import annotations

from tests.peers.ours import GREETING, PeerCase, page, stays_up
from tests.peers.with_curl import start


class CurlTests(PeerCase):
    """curl and a web server of Twisted's behind a C{bioconn:} endpoint."""

    async def test_http2_by_default(self) -> None:
        """It offers both, and our server prefers HTTP/2."""
        server = await self.serve(page())
        curl = start(self, server.port, f"https://localhost:{server.port}/")
        said = await curl.succeeded()
        self.assertIn(GREETING.decode(), said)
        self.assertIn("HTTP/2 200", said)
        self.assertEqual([each.alpn for each in server.facts], [b"h2"])

    async def test_our_alpn(self) -> None:
        """C{alpn=http/1.1} leaves no HTTP/2."""
        server = await self.serve(page(), alpn="http/1.1")
        curl = start(self, server.port, f"https://localhost:{server.port}/")
        self.assertIn("HTTP/1.1 200", await curl.succeeded())
        self.assertEqual([each.alpn for each in server.facts], [b"http/1.1"])

    async def test_no_alpn(self) -> None:
        """A client without ALPN has HTTP/1.1."""
        server = await self.serve(page())
        curl = start(self, server.port, "--no-alpn", f"https://localhost:{server.port}/")
        self.assertIn("HTTP/1.1 200", await curl.succeeded())
        self.assertEqual([each.alpn for each in server.facts], [None])

    async def test_many_at_once(self) -> None:
        """A hundred requests of HTTP/2 at once, on one connection."""
        server = await self.serve(page())
        curl = start(
            self,
            server.port,
            *("--http2", "--parallel", "--parallel-max", 50),
            *(f"https://localhost:{server.port}/{at}" for at in range(100)),
        )
        said = await curl.succeeded()
        self.assertEqual(said.count(GREETING.decode()), 100)
        self.assertEqual(len(server.facts), 1)

    async def test_kept_connection(self) -> None:
        """Twenty requests of HTTP/1.1, one after the other, on one connection."""
        server = await self.serve(page())
        urls = [f"https://localhost:{server.port}/{at}" for at in range(20)]
        curl = start(self, server.port, "--http1.1", *urls)
        said = await curl.succeeded()
        self.assertEqual(said.count(GREETING.decode()), 20)
        self.assertEqual(len(server.facts), 1)

    async def test_by_address(self) -> None:
        """An IP address is no server name, and the certificate is for it all the same."""
        server = await self.serve(page())
        curl = start(self, server.port, f"https://127.0.0.1:{server.port}/")
        self.assertIn(GREETING.decode(), await curl.succeeded())
        self.assertEqual([each.server_name for each in server.facts], [None])

    async def test_version_refused(self) -> None:
        server = await self.serve(page())
        curl = start(
            self,
            server.port,
            *("--tlsv1.0", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"),
            f"https://localhost:{server.port}/",
        )
        self.assertEqual(await curl.ended(), 35)
        self.assertIn("alert protocol version", curl.said)
        await stays_up(self, server)

    async def test_policy_modern(self) -> None:
        """C{policy=modern} leaves no TLS 1.2."""
        server = await self.serve(page(), policy="modern")
        url = f"https://localhost:{server.port}/"
        curl = start(self, server.port, "--tls-max", "1.2", url)
        self.assertEqual(await curl.ended(), 35)
        self.assertIn("alert protocol version", curl.said)
        curl = start(self, server.port, url)
        await curl.succeeded()
        self.assertEqual([each.version for each in server.facts], ["TLSv1.3"])

    async def test_not_our_authority(self) -> None:
        """It does not trust us; a newer one sees that when its handshake is done."""
        server = await self.serve(page())
        url = f"https://localhost:{server.port}/"
        curl = start(self, server.port, "--cacert", self.stranger().root, url)
        self.assertEqual(await curl.ended(), 60)
        self.assertLessEqual(len(server.facts), 1)
        await stays_up(self, server)

    async def test_client_certificate_missing_tls12(self) -> None:
        server = await self.serve(page(), clientAuthorities=self.material.root)
        url = f"https://localhost:{server.port}/"
        curl = start(self, server.port, "--tls-max", "1.2", url)
        self.assertEqual(await curl.ended(), 35)
        self.assertIn("alert handshake failure", curl.said)
        self.assertEqual(server.facts, [])

    async def test_client_certificate_missing_tls13(self) -> None:
        """
        By then its handshake is done, and it sends a request: to a connection that may be closed
        already, in which case it does not read why.
        """
        server = await self.serve(page(), clientAuthorities=self.material.root)
        url = f"https://localhost:{server.port}/"
        for _ in range(100):
            curl = start(self, server.port, "--tls-max", "1.3", url)
            status = await curl.ended()
            self.assertEqual(server.facts, [])
            if status != 55:
                break
        self.assertEqual(status, 56)
        self.assertIn("alert certificate required", curl.said)

    async def test_client_certificate_http2(self) -> None:
        server = await self.serve(page(), clientAuthorities=self.material.root)
        curl = start(self, server.port, f"https://localhost:{server.port}/", certificate=True)
        self.assertIn("HTTP/2 200", await curl.succeeded())
        self.assertEqual([len(each.peer_chain) for each in server.facts], [2])
