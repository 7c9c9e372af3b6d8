"""TLS that begins in mid-connection: both ends of every protocol, in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost, TimeoutError
from twisted.internet.interfaces import IHalfCloseableProtocol, ISSLTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.context_material import visiting
from tests.endpoint_material import Application, Applications
from tests.test_preamble import V1, PreambleCase
from twisted_bioconn import _upgrade
from twisted_bioconn.endpoints import ClientEndpoint, ServerEndpoint
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.port_options import Plain, PreambleOptions, networks
from twisted_bioconn.starttls import (
    NAMES,
    Dialogue,
    DialogueState,
    InjectionRefused,
    StartTLSError,
    StartTLSRefused,
)

#: What a server says first, after TLS, if nobody keeps it from it.
GREETINGS = {
    "smtp": b"220 mail.example ESMTP\r\n",
    "lmtp": b"220-mail.example\r\n220 LMTP\r\n",
    "imap": b"* OK ready\r\n",
    "pop3": b"+OK ready\r\n",
}


class UpgradeCase(PreambleCase):
    """A server that is asked for TLS."""

    def serve_upgraded(self, name: str, **settings: Any) -> None:
        """Serve an application that greets."""
        greeting = GREETINGS.get(name, b"")
        self.theirs = Applications(made=lambda it: it.transport.write(greeting))
        options = PreambleOptions(starttls=name, host_name="front.example", **settings)
        self.listen(self.theirs, preamble=options)

    def ask(self, name: str, **settings: Any) -> Any:
        """What a client has that asks for TLS: its application, or why there is none."""
        results: list[Any] = []
        endpoint = self.client_endpoint(visiting(), starttls=name, **settings)
        endpoint.connect(Applications()).addBoth(results.append)
        self.meet()
        return results[0] if results else None


class BothEndsTests(UpgradeCase):
    """Our client and our server."""

    def test_each(self) -> None:
        """
        TLS, and then each end hears of the other what it expects: a client one greeting, that of
        before TLS, and a server what its client says.
        """
        for name in NAMES:
            self.serve_upgraded(name)
            client = self.ask(name)
            self.assertIsInstance(client, Application, name)
            server = self.theirs.one
            self.assertTrue(ISSLTransport.providedBy(client.transport), name)
            self.assertEqual(bool(client.received), name in GREETINGS, (name, client.received))
            self.assertNotIn(GREETINGS.get(name, b"mail.example"), client.received)
            before = client.received
            server.transport.write(b"hello ")
            server.transport.writeSequence([b"cli", b"ent"])
            client.transport.write(b"hello server")
            self.clock.settle()
            self.assertEqual(client.received, before + b"hello client", name)
            self.assertEqual(server.received, b"hello server", name)
            self.assertEqual(server.transport.negotiated.version, "TLSv1.3")
            client.transport.loseConnection()
            self.clock.settle()
            self.assertIn("lost", server.did, name)
            self.assertLeftNothing()

    def test_proxy_header(self) -> None:
        """It comes before all else."""
        self.theirs = Applications()
        options = PreambleOptions(
            starttls="smtp", host_name="front.example", proxies=networks("127.0.0.1")
        )
        self.listen(self.theirs, preamble=options)
        peer = self.raw()
        self.assertEqual(peer.received, b"")
        peer.transport.write(V1)
        self.clock.settle()
        self.assertTrue(peer.received.startswith(b"220 front.example"), peer.received)

    def test_client_that_is_early(self) -> None:
        """What a client says is the server's to hear when that has greeted."""
        self.theirs = Applications()
        self.listen(self.theirs, preamble=PreambleOptions(starttls="smtp"))
        client = self.ask("smtp")
        client.transport.write(b"EHLO a\r\n")
        client.transport.write(b"NOOP\r\n")
        self.clock.settle()
        server = self.theirs.one
        self.assertEqual(server.received, b"")
        server.transport.write(b"220-mail.example\r\n220 ES")
        self.clock.settle()
        self.assertEqual(server.received, b"")
        server.transport.write(b"MTP\r\n")
        self.clock.settle()
        self.assertEqual(server.received, b"EHLO a\r\nNOOP\r\n")
        # And no more than so much of it.
        self.theirs.built.clear()
        client = self.ask("smtp")
        client.transport.write(bytes(70000))
        self.clock.settle()
        self.assertIsNotNone(client.lost)

    def test_half_close(self) -> None:
        """The end of a client's data reaches a server that can take it, as it does without us."""

        @implementer(IHalfCloseableProtocol)
        class Half(Application):
            def readConnectionLost(self) -> None:
                self.note("end")
                self.transport.loseWriteConnection()

            def writeConnectionLost(self) -> None:
                self.note("ended")

        greet = GREETINGS["smtp"]
        self.theirs = Applications(kind=Half, made=lambda it: it.transport.write(greet))
        self.listen(self.theirs, preamble=PreambleOptions(starttls="smtp"))
        client = self.ask("smtp")
        client.transport.loseWriteConnection()
        self.clock.settle()
        self.assertEqual(self.theirs.one.did, ["made", "end", "lost"])

    def test_half_close_of_the_server(self) -> None:
        @implementer(IHalfCloseableProtocol)
        class Half(Application):
            def readConnectionLost(self) -> None:
                self.note("end")

            def writeConnectionLost(self) -> None:
                self.note("ended")

        greet = GREETINGS["smtp"]
        for kind, told in ((Half, ["made", "ended"]), (Application, ["made"])):
            self.theirs = Applications(kind=kind, made=lambda it: it.transport.write(greet))
            self.listen(self.theirs, preamble=PreambleOptions(starttls="smtp"))
            client = self.ask("smtp")
            server = self.theirs.one
            server.transport.loseWriteConnection()
            self.clock.turn()
            self.assertEqual(server.did[: len(told)], told)
            client.transport.loseConnection()
            self.clock.settle()

    def test_client_that_is_lost(self) -> None:
        """What was held for the server is for nobody then."""
        self.theirs = Applications()
        self.listen(self.theirs, preamble=PreambleOptions(starttls="smtp"))
        client = self.ask("smtp")
        client.transport.write(b"EHLO a\r\n")
        self.clock.settle()
        server = self.theirs.one
        server.transport.write(GREETINGS["smtp"])
        server.transport.transport.transport.connectionLost(Failure(ConnectionLost()))
        self.clock.settle()
        self.assertEqual(server.did, ["made", "lost"])

    def test_client_that_leaves(self) -> None:
        """What was held for the server is for nobody."""
        self.theirs = Applications()
        self.listen(self.theirs, preamble=PreambleOptions(starttls="smtp"))
        client = self.ask("smtp")
        client.transport.write(b"EHLO a\r\n")
        self.clock.settle()
        server = self.theirs.one
        server.transport.write(GREETINGS["smtp"])
        server.transport.abortConnection()
        self.clock.settle()
        self.assertEqual(server.did[-1], "lost")
        self.assertIsNotNone(client.lost)

    def test_server_behind_that_is_strange(self) -> None:
        """No client is let through to one that takes anybody as authenticated."""
        self.theirs = Applications(made=lambda it: it.transport.write(b"* PREAUTH hi\r\n"))
        self.listen(self.theirs, preamble=PreambleOptions(starttls="imap"))
        client = self.ask("imap")
        self.clock.settle()
        self.assertIsNotNone(client.lost)

    def test_no_application(self) -> None:
        self.theirs = Applications(kind=lambda: None)
        self.listen(self.theirs, preamble=PreambleOptions(starttls="smtp"))
        client = self.ask("smtp")
        self.assertIsNotNone(client.lost)


class ServerTests(UpgradeCase):
    """A server's clients."""

    def test_silent(self) -> None:
        self.serve_upgraded("smtp")
        peer = self.raw()
        self.wait(10)
        self.assertIsNotNone(peer.lost)
        self.assertEqual(
            self.lines,
            ["no handshake with 127.0.0.1:50000: no request for TLS within 10 seconds"],
        )
        self.assertLeftNothing()

    def test_injection(self) -> None:
        """Commands in the clear never reach what is behind."""
        self.serve_upgraded("smtp")
        peer = self.raw(b"EHLO a\r\nSTARTTLS\r\nRSET\r\n")
        self.clock.settle()
        self.wait(3)
        self.assertIsNotNone(peer.lost)
        self.assertEqual(self.theirs.built, [])
        self.assertEqual(
            self.lines,
            [
                "no handshake with 127.0.0.1:50000: smtp: the client sent more in the clear where"
                " TLS has to begin: 6 bytes"
            ],
        )
        self.assertLeftNothing()

    def test_quit(self) -> None:
        self.serve_upgraded("smtp")
        peer = self.raw(b"QUIT\r\n")
        self.assertIn(b"221 ", peer.received)
        self.wait(3)
        self.assertIsNotNone(peer.lost)
        self.assertEqual(self.lines, [])
        self.assertLeftNothing()

    def test_no_tls_after_it(self) -> None:
        self.serve_upgraded("smtp")
        peer = self.raw(b"EHLO a\r\nSTARTTLS\r\n")
        self.assertTrue(peer.received.endswith(b"\r\n") and b"\n220 " in peer.received)
        peer.transport.write(b"RSET\r\n")
        self.clock.settle()
        self.assertIsNotNone(peer.lost)
        self.assertEqual(self.theirs.built, [])
        self.assertEqual(len(self.lines), 1)

    def test_mistakes(self) -> None:
        for settings in (
            {"starttls": "smpt"},
            {"starttls": "smtp", "host_name": "a b"},
            {"starttls": "smtp", "plain": Plain.FORWARD},
        ):
            with self.assertRaises(ConfigurationError):
                PreambleOptions(**settings)


class ClientTests(UpgradeCase):
    """A client's servers."""

    def answered(self, *answers: bytes, name: str = "smtp", **settings: Any) -> Any:
        """What becomes of a connection to a server that says this, one after the other."""
        results: list[Any] = []
        endpoint = self.client_endpoint(visiting(), starttls=name, **settings)
        self.connecting = endpoint.connect(Applications()).addBoth(results.append)
        said = list(answers)

        def answer(it: Application) -> None:
            if said:
                it.transport.write(said.pop(0))

        self.peer = Application(made=answer, data=answer)
        self.transport = self.connector.reach(self.peer)
        self.clock.settle()
        return results[0] if results else None

    def test_closed_by_the_dialogue(self) -> None:
        """A dialogue that ends without TLS ends the attempt."""

        class Ends(Dialogue):
            def _take(self) -> bytes | None:
                taken = bytes(self._buffer) or None
                self._buffer.clear()
                return taken

            def _answer(self, unit: bytes) -> bytes:
                self.state = DialogueState.CLOSED
                return b"bye"

        self.patch(_upgrade, "client_dialogue", lambda name, host_name: Ends(name, host_name))
        found = self.answered(b"hello")
        assert isinstance(found, Failure)
        self.assertEqual(found.getErrorMessage(), "smtp: there will be no TLS")
        self.assertEqual(self.peer.received, b"bye")
        self.assertLeftNothing()

    def test_refused(self) -> None:
        """Nothing is sent in the clear in place of TLS."""
        found = self.answered(b"220 hi\r\n", b"250 mail.example\r\n")
        assert isinstance(found, Failure)
        self.assertIsInstance(found.value, StartTLSRefused)
        self.clock.settle()
        self.assertIsNotNone(self.peer.lost)
        self.assertLeftNothing()

    def test_injection(self) -> None:
        """Answers in the clear are not taken for those that come by TLS."""
        found = self.answered(
            b"220 hi\r\n", b"250-mail\r\n250 STARTTLS\r\n", b"220 go\r\n250 all is well\r\n"
        )
        assert isinstance(found, Failure)
        self.assertIsInstance(found.value, InjectionRefused)
        self.assertLeftNothing()

    def test_closed(self) -> None:
        found = self.answered()
        self.assertIsNone(found)
        self.peer.transport.loseConnection()
        self.clock.settle()
        assert isinstance(self.connecting.result, type(None))

    def test_timeout(self) -> None:
        results: list[Any] = []
        endpoint = self.client_endpoint(visiting(), starttls="smtp", timeout=5.0)
        endpoint.connect(Applications()).addBoth(results.append)
        peer = Application()
        self.connector.reach(peer)
        self.wait(5)
        [found] = results
        self.assertIsInstance(found.value, TimeoutError)
        self.assertIsInstance(peer.lost, Failure)
        self.assertLeftNothing()

    def test_cancelled(self) -> None:
        results: list[Any] = []
        endpoint = self.client_endpoint(visiting(), starttls="smtp")
        connecting = endpoint.connect(Applications())
        connecting.addErrback(results.append)
        peer = Application()
        self.connector.reach(peer)
        connecting.cancel()
        self.clock.settle()
        self.assertEqual(len(results), 1)
        self.assertIsNotNone(peer.lost)
        self.assertLeftNothing()

    def test_lost(self) -> None:
        results: list[Any] = []
        endpoint = self.client_endpoint(visiting(), starttls="pop3")
        endpoint.connect(Applications()).addErrback(results.append)
        peer = Application()
        self.connector.reach(peer)
        peer.transport.loseConnection()
        self.clock.settle()
        [failure] = results
        self.assertTrue(failure.check(ConnectionDone, ConnectionLost))
        self.assertLeftNothing()

    def test_mistakes(self) -> None:
        for settings in ({"starttls": "smpt"}, {"starttls": "smtp", "host_name": "a b"}):
            with self.assertRaises(ConfigurationError):
                self.client_endpoint(visiting(), **settings)


class NameTests(UpgradeCase):
    """What we call ourselves, or ask for."""

    def test_names(self) -> None:
        for name, settings, expected in (
            ("smtp", {}, "localhost"),
            ("smtp", {"host_name": "client.example"}, "client.example"),
            ("xmpp", {}, "server.example"),
            ("xmpp", {"host_name": "chat.example"}, "chat.example"),
        ):
            endpoint: ClientEndpoint = self.client_endpoint(
                visiting("server.example"), starttls=name, **settings
            )
            self.assertEqual(endpoint.host_name, expected)
        server: ServerEndpoint = self.server_endpoint()
        self.assertIsNone(server.preamble.starttls)
        self.assertTrue(issubclass(InjectionRefused, StartTLSError))
