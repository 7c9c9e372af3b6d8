"""HAProxy before us, nginx and HAProxy behind us: what each learns of the client."""

from __future__ import annotations

import socket
import ssl
from itertools import product

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.endpoints import clientFromString, quoteStringArgument, serverFromString
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.peers import with_nginx
from tests.peers.material import certificates
from tests.peers.ours import PeerCase
from tests.peers.processes import DEADLINE, on_free_port, reactor
from twisted_bioconn.proxy_protocol import HeaderReader, ProxyAddress, ProxyHeader
from twisted_bioconn.server.backends import BackEnds, SendProxy, State
from twisted_bioconn.server.checks import check_from_string
from twisted_bioconn.server.relay import RelayFactory

ADDRESSES = (
    "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr"
    " $proxy_protocol_server_port"
)


class ChainTests(PeerCase):
    """A request through several proxies."""

    async def front(self, back_ends: BackEnds, **options: str) -> int:
        """
        Relay to these.

        @param options: of the endpoint's string.
        @return: the port.
        """
        material = self.material
        given = {
            "interface": "127.0.0.1",
            "certKey": str(material.server),
            "privateKey": str(material.server_key),
            **options,
        }
        text = ":".join(f"{name}={quoteStringArgument(each)}" for name, each in given.items())
        endpoint = serverFromString(reactor, f"bioconn:0:{text}")
        port = await endpoint.listen(RelayFactory(back_ends, "the back end", reactor))
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def to(self, port: int, tls: bool = False, how: SendProxy = SendProxy.V2_TLS) -> BackEnds:
        description = f"tcp:127.0.0.1:{port}"
        if tls:
            roots = quoteStringArgument(str(self.material.root))
            description = f"bioconn:127.0.0.1:{port}:serverName=localhost:trustRoots={roots}"
        return BackEnds(
            [(clientFromString(reactor, description), description)], reactor, send_proxy=how
        )

    async def haproxy(self, configuration: str) -> int:
        """
        Start it.

        @param configuration: with C{PORT} where its port is to be.
        """

        async def on(port: int) -> int:
            file = self.directory / f"haproxy-{port}.cfg"
            file.write_text(
                "defaults\n mode tcp\n timeout connect 200s\n timeout client 200s\n"
                " timeout server 200s\n unique-id-format %ci:%cp\n"
                + configuration.replace("PORT", str(port))
            )
            self.run_program("haproxy", "-db", "-f", file)
            for _ in range(2000):
                try:
                    await deferToThread(self._try, port)
                except ConnectionRefusedError:
                    await _pause()
                else:
                    return port
            raise AssertionError("HAProxy does not listen")

        return (await on_free_port(on))[1]

    def _try(self, port: int) -> None:
        socket.create_connection(("127.0.0.1", port), DEADLINE).close()

    def ask(self, port: int, certificate: bool = True) -> tuple[str, int]:
        """
        Ask for a page.

        @return: the page, and our own port.
        """
        context = ssl.create_default_context(cafile=str(self.material.root))
        context.set_alpn_protocols(["http/1.1"])
        if certificate:
            context.load_cert_chain(str(self.material.client), str(self.material.client_key))
        with (
            socket.create_connection(("127.0.0.1", port), DEADLINE) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            number = client.getsockname()[1]
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            said = b""
            while data := client.recv(65536):
                said += data
        return said.partition(b"\r\n\r\n")[2].decode(), number

    async def nginx(self, answer: str, ssl: bool = False) -> int:
        listen = "listen 127.0.0.1:PORT proxy_protocol;"
        if ssl:
            listen = with_nginx.serving(self).replace("PORT ssl;", "PORT ssl proxy_protocol;")
        block = f"server {{ {listen} return 200 '{answer}'; }}"
        return (await with_nginx.start(self, "http", block))[0]

    async def before(self, back_ends: BackEnds) -> tuple[int, int]:
        """
        Start HAProxy, which passes TLS on to us as it is.

        @return: its port, and ours.
        """
        port = await self.front(
            back_ends,
            proxyProtocol="127.0.0.1",
            alpn="http/1.1",
            clientAuthorities=str(self.material.root),
            clientCertificate="verifyIfGiven",
        )
        front = await self.haproxy(
            f"listen it\n bind 127.0.0.1:PORT\n server us 127.0.0.1:{port}"
            " send-proxy-v2 proxy-v2-options unique-id,crc32c\n"
        )
        return front, port

    async def test_haproxy_before_and_nginx_behind(self) -> None:
        """
        HAProxy tells us the client's address before its TLS, and we tell it nginx, before TLS too.
        """
        for tls, how in product((False, True), SendProxy):
            if tls and how in (SendProxy.V2_TLS, SendProxy.V2_TLS_CERTIFICATE):
                # nginx 1.22 takes no longer header before TLS than one of version 1 can be.
                continue
            behind = await self.nginx(ADDRESSES, tls)
            front, _ = await self.before(self.to(behind, tls, how))
            for shows in (True, False):
                said, ours = await deferToThread(self.ask, front, shows)
                self.assertEqual(said, f"127.0.0.1 {ours} 127.0.0.1 {front}", (tls, how, shows))

    async def test_facts(self) -> None:
        """What HAProxy has told beside the addresses is passed on, next to what we know."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        listening.settimeout(DEADLINE)

        def answered() -> ProxyHeader:
            connection, _ = listening.accept()
            reader, header = HeaderReader(), None
            with connection:
                connection.settimeout(DEADLINE)
                while header is None:
                    header = reader.feed(connection.recv(65536))
                rest = reader.rest
                while b"\r\n\r\n" not in rest:
                    rest += connection.recv(65536)
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nwelcome")
            return header

        number = listening.getsockname()[1]
        front, _ = await self.before(self.to(number, how=SendProxy.V2_TLS_CERTIFICATE))
        der = certificates(self.material.client)[0].public_bytes(Encoding.DER)
        for shows in (True, False):
            answering = deferToThread(answered)
            said, ours = await deferToThread(self.ask, front, shows)
            header = await answering
            self.assertEqual(said, "welcome")
            self.assertEqual(header.source, ProxyAddress("127.0.0.1", ours))
            self.assertEqual(header.destination, ProxyAddress("127.0.0.1", front))
            self.assertEqual(header.unique_id, f"127.0.0.1:{ours}".encode())
            self.assertEqual((header.alpn, header.authority), (b"http/1.1", "localhost"))
            self.assertIsNone(header.crc32c)
            tls = header.tls
            assert tls is not None
            self.assertEqual((tls.version, tls.verified), ("TLSv1.3", shows))
            self.assertEqual((tls.shown_in_session, tls.shown_in_connection), (shows, shows))
            self.assertIn(tls.cipher, ("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"))
            self.assertIsNotNone(tls.group)
            self.assertEqual(tls.client_certificate, der if shows else None)

    async def test_haproxy_behind(self) -> None:
        """It reads what we write before TLS to it, and passes it on to nginx."""
        nginx = await self.nginx(ADDRESSES)
        both = self.directory / "both.pem"
        both.write_bytes(self.material.server.read_bytes() + self.material.server_key.read_bytes())
        for how in (SendProxy.V1, SendProxy.V2_TLS_CERTIFICATE):
            behind = await self.haproxy(
                f"listen it\n bind 127.0.0.1:PORT accept-proxy ssl crt {both}\n"
                f" server web 127.0.0.1:{nginx} send-proxy-v2\n"
            )
            port = await self.front(
                self.to(behind, True, how), clientAuthorities=str(self.material.root)
            )
            said, ours = await deferToThread(self.ask, port)
            self.assertEqual(said, f"127.0.0.1 {ours} 127.0.0.1 {port}")

    async def test_checks(self) -> None:
        """A check's header says that it is nobody's connection, and the answer counts."""
        for tls in (False, True):
            behind = await self.nginx(ADDRESSES, tls)
            description = f"tcp:127.0.0.1:{behind}"
            if tls:
                roots = quoteStringArgument(str(self.material.root))
                description = f"bioconn:localhost:{behind}:trustRoots={roots}"
            members = [(clientFromString(reactor, description), "nginx")]
            for check in ("tcp", "http:/") + (("tls",) if tls else ()):
                back_ends = BackEnds(
                    members,
                    reactor,
                    send_proxy=SendProxy.V2,
                    check=check_from_string(check, interval=0.05, fall=1),
                )
                back_ends.start()
                for _ in range(2000):
                    if back_ends.members[0].state is not State.UNKNOWN:
                        break
                    await _pause()
                back_ends.stop()
                self.assertIs(
                    back_ends.members[0].state, State.UP, back_ends.members[0].last_failure
                )
            await _pause()


async def _pause() -> None:
    await deferLater(reactor, 0.05, lambda: None)
