"""What nginx can do beyond the matrix."""

from __future__ import annotations

import hashlib

from treq.client import HTTPClient
from twisted.internet.defer import Deferred, gatherResults
from twisted.web.client import HTTPConnectionPool

from tests.peers import with_nginx
from tests.peers.bulk import OURS, THEIRS, bulk, bulk_file, digest_of
from tests.peers.material import certificates
from tests.peers.ours import GREETING, Fetch, PeerCase, page
from tests.peers.processes import reactor
from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.http import treq_client
from twisted_bioconn.protocol import AlertReceived


class BackEndTests(PeerCase):
    """nginx serves, and treq asks over our endpoints."""

    def client(self, *, persistent: bool = True, certificate: bool = False) -> HTTPClient:
        """A client that trusts the root."""
        pool = HTTPConnectionPool(reactor, persistent)
        self.addCleanup(pool.closeCachedConnections)
        material = self.material
        own = (
            CertifiedKey.from_files(str(material.client), str(material.client_key))
            if certificate
            else None
        )
        return treq_client(reactor, pool, trust_roots=certificates(material.root), certificate=own)

    async def text(self, client: HTTPClient, port: int) -> str:
        """What it says of a connection."""
        answer: str = await (await client.get(f"https://localhost:{port}/")).text()
        return answer

    async def test_facts(self) -> None:
        """What it knows of us."""
        port, _ = await with_nginx.start(
            self,
            "http",
            f"server {{ {with_nginx.serving(self, certificate=True)} return 200"
            ' "$ssl_server_name, $ssl_client_verify, $ssl_session_reused"; }',
        )
        client = self.client(persistent=False, certificate=True)
        answers = [await self.text(client, port) for _ in range(3)]
        self.assertEqual(
            answers,
            ["localhost, SUCCESS, .", "localhost, SUCCESS, r", "localhost, SUCCESS, r"],
        )

    async def test_kept_connection(self) -> None:
        """Many requests on one connection, which nginx numbers."""
        port, _ = await with_nginx.start(
            self,
            "http",
            f'server {{ {with_nginx.serving(self)} return 200 "$connection_requests"; }}',
        )
        client = self.client()
        answers = [await self.text(client, port) for _ in range(20)]
        self.assertEqual(answers, [str(at + 1) for at in range(20)])

    async def test_files(self) -> None:
        """64 MiB up, and 64 MiB down, by HTTP."""
        (self.directory / "files").mkdir()
        path, _ = bulk_file(self.directory / "files", THEIRS)
        port, _ = await with_nginx.start(
            self,
            "http",
            f"server {{ {with_nginx.serving(self)} root {self.directory}/files;"
            " client_max_body_size 0; dav_methods PUT; }",
        )
        client = self.client()
        url = f"https://localhost:{port}"
        digest = hashlib.sha256()
        response = await client.get(f"{url}/{path.name}", unbuffered=True)
        await response.collect(digest.update)
        self.assertEqual(digest.hexdigest(), bulk(THEIRS)[1])
        data, uploaded = bulk(OURS)
        response = await client.put(f"{url}/upload", data=data)
        self.assertEqual(response.code, 201)
        await response.content()
        self.assertEqual(digest_of(self.directory / "files" / "upload"), uploaded)

    async def test_rejected_name(self) -> None:
        """It has no server of our name, and says so by an alert."""
        port, _ = await with_nginx.start(
            self,
            "http",
            "server { listen 127.0.0.1:PORT ssl; ssl_reject_handshake on; }",
        )
        reason = await self.connect_in_vain(port, AlertReceived)
        self.assertEqual(reason.alert, "unrecognized_name")


class ProxyTests(PeerCase):
    """nginx asks ours, for clients that ask it without TLS."""

    async def proxy(self, port: int, more: str = "") -> int:
        """
        Start one.

        @return: its port.
        """
        own_port, self.program = await with_nginx.start(
            self,
            "http",
            f"upstream ours {{ server 127.0.0.1:{port}; {more} }}"
            " server { listen 127.0.0.1:PORT; "
            + with_nginx.proxying(self)
            + " proxy_http_version 1.1; proxy_set_header Connection '';"
            " location / { proxy_pass https://ours; } }",
        )
        return own_port

    async def fetch(self, port: int) -> str:
        return await (await self.connect_plain(port, Fetch())).answer

    async def test_kept_connection(self) -> None:
        """It keeps its connection to us for many requests."""
        server = await self.serve(page())
        port = await self.proxy(server.port, "keepalive 4;")
        for _ in range(20):
            self.assertIn(GREETING.decode(), await self.fetch(port))
        self.assertEqual(len(server.facts), 1)

    async def test_many_at_once(self) -> None:
        """
        Fifty requests at once, each on a connection of its own; later ones resume.  A newer nginx
        keeps the first one.
        """
        server = await self.serve(page())
        port = await self.proxy(server.port)
        await self.fetch(port)
        answers = await gatherResults([Deferred.fromCoroutine(self.fetch(port)) for _ in range(50)])
        self.assertEqual({GREETING.decode() in each for each in answers}, {True})
        self.assertIn(len(server.facts), (50, 51))
        self.assertTrue(any(each.resumed for each in server.facts))

    async def test_other_name(self) -> None:
        """It finds that we are not who it wants to talk to, and we serve on."""
        material = self.material
        material.server, material.server_key = material.issue(
            "other", "other.example.org", "127.0.0.1"
        )
        server = await self.serve(page())
        port = await self.proxy(server.port)
        self.assertIn("502 Bad Gateway", await self.fetch(port))
        await self.program.wait_for('upstream SSL certificate does not match "localhost"')
        await server.ended(1)
        fetch = await self.connect(server.port, Fetch(), serverName="other.example.org")
        self.assertIn(GREETING.decode(), await fetch.answer)
