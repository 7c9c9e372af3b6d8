"""How a server that ends a connection by an alert sees to it that its client can read that."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone

from tests.protocol_material import (
    App,
    HalfApp,
    Link,
    ProtocolCase,
    authority,
    client_context,
    holds_on_stock,
    on_every_engine,
    server_options,
    trust,
)
from tests.reactor_material import Made, ReactorCase, sent_by, twisteds_reactor
from tests.records import ALERT
from twisted_bioconn._ending import LINGER, LINGER_BYTES
from twisted_bioconn.protocol import TLSConnectorFactory

NO_HELLO = bytes.fromhex("16 0301 0005 01 000001 00")
"""A ClientHello that is too short."""


@on_every_engine
class LingeringTests(ProtocolCase):
    """Our direction ends with the alert, and what still comes is discarded."""

    def refused(self, said: bytes = NO_HELLO, **settings: Any) -> tuple[Link, HalfApp]:
        """
        A peer that has been told, and that has not ended its direction.

        @param said: all that it has said.
        """
        link = self.link(begin=False, **settings)
        link.transport.begin()
        link.wire.protocol = peer = HalfApp()
        link.wire.begin()
        link.wire.write(said)
        link.settle()
        return link, peer

    def lingers(self, link: Link, peer: HalfApp) -> None:
        self.assertEqual(link.app.did, ["made"])
        self.assertEqual(peer.did, ["made", "data", "read lost"])
        self.assertEqual(peer.received[0], ALERT)

    def ended(self, link: Link) -> None:
        self.assertEqual(link.app.did, ["made", "lost"])
        self.assertEqual(link.app.reason.type, SSL.Error)
        self.assertLeftNothing()

    def test_until_the_peer_ends(self) -> None:
        """Both ends are closed in good order, and the application is told what was wrong."""
        link, peer = self.refused()
        self.lingers(link, peer)
        for _ in range(3):
            link.wire.write(b"x" * 1000)
            link.settle()
        self.lingers(link, peer)
        link.wire.loseConnection()
        link.settle()
        self.ended(link)
        self.assertEqual(peer.reason.type, ConnectionDone)

    def test_no_longer_than_that(self) -> None:
        link, peer = self.refused()
        link.wait(LINGER - 0.25)
        self.lingers(link, peer)
        link.wait(0.25)
        self.ended(link)

    def test_no_more_than_that(self) -> None:
        link, peer = self.refused()
        link.wire.write(b"x" * (LINGER_BYTES - 1))
        link.settle()
        self.lingers(link, peer)
        link.wire.write(b"x")
        link.settle()
        self.ended(link)

    def test_aborted_meanwhile(self) -> None:
        link, peer = self.refused()
        self.lingers(link, peer)
        link.tls.abortConnection()
        link.settle()
        # Not what a transport does.
        link.tls.dataReceived(b"x" * LINGER_BYTES)
        link.settle()
        self.ended(link)

    @holds_on_stock
    def test_peer_that_has_ended_before(self) -> None:
        """It hears no more than what is on its way."""
        link = self.link(begin=False)
        link.transport.begin()
        link.wire.protocol = HalfApp()
        link.wire.begin()
        link.wire.write(NO_HELLO)
        link.wire.loseWriteConnection()
        link.settle()
        self.ended(link)

    @holds_on_stock
    def test_alert_of_the_peers(self) -> None:
        """There is nothing to tell."""
        context = client_context()
        context.set_verify(SSL.VERIFY_PEER, lambda *_: False)
        link = self.link(context=context)
        self.assertFalse(link.peer.closed)
        self.ended(link)

    @holds_on_stock
    def test_client(self) -> None:
        """A server writes nothing before it knows whether it is believed."""
        link, _ = self.refused(client=True)
        self.ended(link)


class KernelTests(ReactorCase):
    """With TCP."""

    def test_no_reset(self) -> None:
        """A client with no certificate that goes on writing, as TLS 1.3 has it, is not reset."""
        options = server_options(verify=True, requireCertificate=True, caCerts=[trust().original])
        made = Made(App)
        factory = TLSConnectorFactory(options, False, made, self.reactor)
        client = self.raw(self.listen(factory))
        context = ssl.create_default_context()
        authority().configure_trust(context)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        come, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(come, goes, server_hostname="localhost")
        with self.assertRaises(ssl.SSLWantReadError):
            tls.do_handshake()
        sent_by(client, goes.read())
        while True:
            come.write(self.received_by(client, 1))
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                pass
        sent_by(client, goes.read())
        come.write(self.end_of(client))
        for _ in range(2):
            tls.write(b"GET / HTTP/1.1\r\n\r\n")
            sent_by(client, goes.read())
            self.turn(3)
        client.shutdown(socket.SHUT_WR)
        self.until(lambda: made.made[0].reasons)
        self.assertEqual(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)
        with self.assertRaises(ssl.SSLError) as caught:
            tls.read()
        self.assertIn("certificate required", str(caught.exception))


class TwistedsKernelTests(KernelTests):
    """The same on Twisted's own reactor."""

    make_reactor = staticmethod(twisteds_reactor)
