"""PROXY headers that HAProxy and nginx read and write."""

from __future__ import annotations

import socket
import ssl
from contextlib import closing

import attrs
import trustme
from twisted.internet.threads import deferToThread

from tests.peers import with_nginx
from tests.peers.ours import PeerCase
from tests.peers.processes import DEADLINE
from twisted_bioconn.proxy_protocol import (
    HeaderReader,
    ProxyAddress,
    ProxyHeader,
    ProxyTLS,
    TransportProtocol,
    dump_v1,
    dump_v2,
    tls_tlvs,
)

FOUR = ProxyHeader(
    source=ProxyAddress("192.0.2.7", 56324), destination=ProxyAddress("198.51.100.1", 443)
)
SIX = ProxyHeader(
    source=ProxyAddress("2001:db8::7", 56324), destination=ProxyAddress("2001:db8::1", 443)
)
HEADERS = (
    FOUR,
    SIX,
    # Neither reads what it does not know, and each goes on behind it.
    attrs.evolve(FOUR, tlvs=tls_tlvs(version="TLSv1.3", alpn=b"h2", client_certificate=b"DER")),
)


def listening() -> socket.socket:
    """A socket on which a program, or we, can accept connections."""
    made = socket.create_server(("127.0.0.1", 0))
    made.settimeout(DEADLINE)
    return made


def received(connection: socket.socket) -> tuple[ProxyHeader, bytes]:
    """What a connection begins with, and what comes after it, to its end."""
    reader = HeaderReader()
    header = None
    while header is None:
        data = connection.recv(65536)
        assert data, reader.rest
        header = reader.feed(data)
    rest = reader.rest
    while data := connection.recv(65536):
        rest += data
    return header, rest


class HAProxyTests(PeerCase):
    """HAProxy stands between, and sends on what it has read."""

    def start(self, bind: str, server: str) -> None:
        """
        Start it.

        @param bind: how it reads.
        @param server: how it writes.
        """
        front, self.behind = listening(), listening()
        self.addCleanup(front.close)
        self.addCleanup(self.behind.close)
        self.port = front.getsockname()[1]
        configuration = self.directory / "haproxy.cfg"
        configuration.write_text(
            "defaults\n mode tcp\n timeout connect 200s\n timeout client 200s\n"
            " timeout server 200s\n unique-id-format %ci:%cp\n"
            f"listen it\n bind fd@3 {bind}\n"
            f" server behind 127.0.0.1:{self.behind.getsockname()[1]} {server}\n"
        )
        self.run_program("haproxy", "-db", "-f", configuration, files={3: front.fileno()})

    def sent_on(
        self, data: bytes, context: ssl.SSLContext | None = None
    ) -> tuple[ProxyHeader, bytes]:
        """What comes of these bytes and the end behind it."""
        with socket.create_connection(("127.0.0.1", self.port), DEADLINE) as client:
            if context is not None:
                client = context.wrap_socket(client, server_hostname="localhost")
            client.sendall(data)
            if context is None:
                client.shutdown(socket.SHUT_WR)
            connection, _ = self.behind.accept()
            connection.settimeout(DEADLINE)
            with closing(connection), closing(client):
                if context is not None:
                    client.close()
                return received(connection)

    async def test_v1(self) -> None:
        """What we write it reads, in either version; what it writes in the first one, we read."""
        self.start("accept-proxy", "send-proxy")
        for header in HEADERS:
            bare = attrs.evolve(header, tlvs=(), version=1)
            for wire in (dump_v1(header), dump_v2(header), dump_v2(header, crc32c=True)):
                found = await deferToThread(self.sent_on, wire + b"hello")
                self.assertEqual(found, (bare, b"hello"))

    async def test_v2(self) -> None:
        """And in the second one, with a checksum that each makes and the other verifies."""
        self.start("accept-proxy", "send-proxy-v2 proxy-v2-options crc32c,unique-id")
        for header in HEADERS:
            for wire in (dump_v1(header), dump_v2(header), dump_v2(header, crc32c=True)):
                found, rest = await deferToThread(self.sent_on, wire + b"hello")
                self.assertEqual(
                    (found.source, found.destination), (header.source, header.destination)
                )
                assert isinstance(header.source, ProxyAddress)
                self.assertEqual(
                    found.unique_id, f"{header.source.host}:{header.source.port}".encode()
                )
                self.assertIsNotNone(found.crc32c)
                self.assertIs(found.transport, TransportProtocol.STREAM)
                self.assertEqual(rest, b"hello")

    async def test_wrong_checksum(self) -> None:
        """It verifies them indeed."""
        self.start("accept-proxy", "send-proxy")
        wire = bytearray(dump_v2(FOUR, crc32c=True))
        wire[-1] ^= 1

        def refused() -> bytes:
            with socket.create_connection(("127.0.0.1", self.port), DEADLINE) as client:
                client.sendall(wire + b"hello")
                try:
                    return client.recv(1)
                except ConnectionError:
                    return b""

        self.assertEqual(await deferToThread(refused), b"")

    async def test_tls(self) -> None:
        """What it tells of a client's TLS, with a certificate and without."""
        authority = trustme.CA()
        mine = authority.issue_cert("localhost")
        theirs = authority.issue_cert("ci@example.org", common_name="Zoë")
        both, root = self.directory / "both.pem", self.directory / "ca.pem"
        mine.private_key_and_cert_chain_pem.write_to_path(str(both))
        authority.cert_pem.write_to_path(str(root))
        self.start(
            f"ssl crt {both} ca-file {root} verify optional alpn h2",
            "send-proxy-v2 proxy-v2-options"
            " ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c",
        )
        for shows in (False, True):
            context = ssl.create_default_context()
            authority.configure_trust(context)
            context.set_alpn_protocols(["h2"])
            context.maximum_version = context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
            if shows:
                theirs.configure_cert(context)
            header, rest = await deferToThread(self.sent_on, b"hello", context)
            self.assertEqual((header.alpn, header.authority, rest), (b"h2", "localhost", b"hello"))
            self.assertEqual(
                header.tls,
                ProxyTLS(
                    verified=shows,
                    shown_in_connection=shows,
                    shown_in_session=shows,
                    version="TLSv1.2",
                    common_name="Zoë" if shows else None,
                    cipher="ECDHE-ECDSA-AES128-GCM-SHA256",
                    signature_algorithm="ecdsa-with-SHA256",
                    key_algorithm="EC256",
                ),
            )


class NginxTests(PeerCase):
    """nginx answers with what it has read."""

    async def test_addresses(self) -> None:
        port, _ = await with_nginx.start(
            self,
            "http",
            "server { listen 127.0.0.1:PORT proxy_protocol; return 200 '$proxy_protocol_addr"
            " $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port'; }",
        )

        def answer(wire: bytes) -> str:
            with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
                client.sendall(wire + b"GET / HTTP/1.0\r\n\r\n")
                said = b""
                while data := client.recv(65536):
                    said += data
                return said.partition(b"\r\n\r\n")[2].decode()

        for header in HEADERS:
            source, destination = header.source, header.destination
            assert isinstance(source, ProxyAddress) and isinstance(destination, ProxyAddress)
            told = f"{source.host} {source.port} {destination.host} {destination.port}"
            for wire in (dump_v1(header), dump_v2(header), dump_v2(header, crc32c=True)):
                self.assertEqual(await deferToThread(answer, wire), told)
        local = dump_v2(ProxyHeader(is_local=True))
        self.assertEqual(await deferToThread(answer, local), "   ")
