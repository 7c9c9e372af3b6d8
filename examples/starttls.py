"""
TLS that begins in the middle of a conversation, by C{startTLS} of Twisted's own transports.

    python examples/starttls.py server [PORT]
    python examples/starttls.py client [PORT]

The client asks in the clear, the server agrees, and both go on under TLS.  C{install()}, before
there is a reactor, is all that puts that TLS on the connector.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITLSTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import react
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from twisted_bioconn import ClientOptions, ServerOptions, install
from twisted_bioconn.certificates.development import DevelopmentAuthority, state_directory
from twisted_bioconn.certificates.loading import load_authorities


class Server(LineReceiver):
    """Agrees to TLS, and has a secret for those who speak it."""

    transport: ITLSTransport

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.encrypted = False

    def lineReceived(self, line: bytes) -> None:
        """A command."""
        if line == b"STARTTLS" and not self.encrypted:
            self.sendLine(b"go ahead")
            # Whatever came with that line came in the clear, from anybody.
            self.clearLineBuffer()
            self.transport.startTLS(self.options)
            self.encrypted = True
        elif line == b"SECRET":
            self.sendLine(b"the cat is in the bag" if self.encrypted else b"STARTTLS first")
        else:
            self.sendLine(b"STARTTLS or SECRET")


class Client(LineReceiver):
    """Asks for TLS, and then for the secret."""

    transport: ITLSTransport

    def __init__(self, options: ClientOptions) -> None:
        self.options = options
        self.encrypted = False
        self.secret: Deferred[str] = Deferred()

    def connectionMade(self) -> None:
        """The server is there."""
        self.sendLine(b"STARTTLS")

    def lineReceived(self, line: bytes) -> None:
        """An answer."""
        print(f"{'encrypted' if self.encrypted else 'in the clear'}: {line.decode()}", flush=True)
        if self.encrypted:
            self.secret.callback(line.decode())
            self.transport.loseConnection()
        elif line == b"go ahead":
            self.clearLineBuffer()
            self.transport.startTLS(self.options)
            self.encrypted = True
            self.sendLine(b"SECRET")
        else:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end: a server that is not who it should be gets no further than this."""
        if not self.secret.called:
            why = "no TLS here" if reason.check(ConnectionDone) else reason.getErrorMessage()
            self.secret.errback(ConnectionError(why))


class ServerFactory(Factory):
    """Servers, all with the same certificate."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options

    def buildProtocol(self, addr: object) -> Server:
        """Somebody has come."""
        return Server(self.options)


async def serve(reactor: Any, port: int) -> None:
    """Serve until Ctrl-C, with a certificate of the development authority."""
    certificate = DevelopmentAuthority(state_directory()).leaf()
    endpoint = TCP4ServerEndpoint(reactor, port, interface="127.0.0.1")
    await endpoint.listen(ServerFactory(ServerOptions(certificate)))
    print(f"listening: port {port}", flush=True)
    await Deferred()


async def ask(reactor: Any, port: int) -> None:
    """Get the secret of a server that has a certificate of the development authority."""
    authority = DevelopmentAuthority(state_directory())
    roots = load_authorities(authority.certificate_path)
    client = Client(ClientOptions("localhost", trust_roots=roots))
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    await endpoint.connect(Factory.forProtocol(lambda: client))
    await client.secret


async def main(reactor: Any, role: str = "", port: str = "4001") -> None:
    """Be a server or a client."""
    roles = {"server": serve, "client": ask}
    if role not in roles or not port.isdecimal():
        raise SystemExit("usage: starttls.py server|client [PORT]")
    try:
        await roles[role](reactor, int(port))
    except Exception as error:
        raise SystemExit(f"starttls: {error}") from None


if __name__ == "__main__":
    install()
    react(main, sys.argv[1:3])
