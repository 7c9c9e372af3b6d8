"""
POP3, where the server speaks first, and three answers to when the handshake happens.

    python examples/pop3.py server
    python examples/pop3.py stls
    python examples/pop3.py pop3s
    python examples/pop3.py told

The server is Twisted's, knows nothing of TLS, and is on two ports of this machine: 4000 begins in
the clear and has STLS, 4001 begins with TLS.  The clients get the one message, and print what is
said, by whom, and whether it was encrypted.

C{stls} begins the handshake when the server has agreed to it (RFC 2595).  C{pop3s} does nothing:
the handshake begins with the connection, so that the greeting comes although the client has said
nothing.  C{told} is on the same port, and begins when the application says so:
C{startsHandshake=False}, and later C{startHandshake}.
"""

from __future__ import annotations

import sys
from io import BytesIO
from typing import IO, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    quoteStringArgument,
    serverFromString,
)
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import react
from twisted.mail.interfaces import IMailboxPOP3
from twisted.mail.pop3 import POP3, Mailbox
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_bioconn import ClientOptions, TLSConnectorFactory, install
from twisted_bioconn.certificates.development import DevelopmentAuthority, state_directory
from twisted_bioconn.certificates.loading import load_authorities

PORTS = {"stls": 4000, "pop3s": 4001, "told": 4001}


class OneMessage(Mailbox):
    """A mailbox."""

    message = b"Subject: the cat\n\nIt is in the bag.\n"

    def listMessages(self, i: int | None = None) -> Any:
        """The size of a message, or of all."""
        return [len(self.message)] if i is None else len(self.message)

    def getMessage(self, i: int) -> IO[Any]:
        """A message."""
        return BytesIO(self.message)


class Server(POP3):
    """Lets Ada in."""

    def authenticateUserPASS(self, user: bytes, password: bytes) -> Any:
        """Whoever gets here has sent the password encrypted: the ports see to that."""
        if (user, password) != (b"ada", b"moth"):
            return super().authenticateUserPASS(user, password)
        return succeed((IMailboxPOP3, OneMessage(), lambda: None))


@implementer(IHandshakeListener)
class Client(LineReceiver):
    """Gets the first message."""

    transport: Any

    def __init__(self, how: str, options: ClientOptions) -> None:
        self.how = how
        self.options = options
        self.encrypted = False
        commands = ["USER ada", "PASS moth", "RETR 1", "QUIT"]
        self.commands = ["STLS", *commands] if how == "stls" else commands
        self.in_message = False
        self.ended: Deferred[None] = Deferred()

    def say(self, who: str, what: str) -> None:
        """Show it."""
        print(f"{'encrypted' if self.encrypted else 'in the clear':12} {who}: {what}", flush=True)

    def connectionMade(self) -> None:
        """There is a connection."""
        print("connected", flush=True)
        if self.how == "told":
            print("nothing happens before we say so: now", flush=True)
            self.transport.startHandshake()

    def handshakeCompleted(self) -> None:
        """The server is who it should be, and all that follows is encrypted."""
        self.encrypted = True
        # After startTLS the TLS layer is the transport's protocol, else it is the transport itself.
        tls = self.transport.protocol if self.how == "stls" else self.transport
        facts = tls.negotiated
        print(f"handshake done: {facts.version}, {facts.cipher}", flush=True)
        if self.how == "stls":
            self.next()

    def lineReceived(self, line: bytes) -> None:
        """What the server says; each answer brings the next command."""
        self.say("server", line.decode("ascii", "backslashreplace"))
        if self.in_message:
            self.in_message = line != b"."
        elif not line.startswith(b"+OK"):
            self.transport.loseConnection()
            return
        elif self.commands == ["QUIT"]:
            self.in_message = True  # That was the first line of the answer to RETR.
        if not self.in_message:
            self.answered()

    def answered(self) -> None:
        """The server has agreed."""
        if self.how == "stls" and not self.encrypted and "STLS" not in self.commands:
            # What came in the clear with that line is not to be taken for what comes encrypted.
            self.clearLineBuffer()
            self.transport.startTLS(self.options)
        else:
            self.next()

    def next(self) -> None:
        """Say the next thing."""
        if self.commands:
            command = self.commands.pop(0)
            self.say("client", command)
            self.sendLine(command.encode())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end: a good one is after all that was to be said."""
        if self.commands and reason.check(ConnectionDone):
            self.ended.errback(ConnectionError("it ended before the message was there"))
        elif reason.check(ConnectionDone):
            self.ended.callback(None)
        else:
            self.ended.errback(reason)


async def serve(reactor: Any) -> None:
    """Serve until Ctrl-C."""
    authority = DevelopmentAuthority(state_directory())
    authority.leaf()
    rest = f"interface=127.0.0.1:privateKey={quoteStringArgument(authority.directory)}/leaf.pem"
    factory: Any = Factory()
    factory.protocol, factory.noisy = Server, False
    for endpoint in (f"bioconn:4000:starttls=pop3:{rest}", f"bioconn:4001:{rest}"):
        await serverFromString(reactor, endpoint).listen(factory)
        print(f"listening: {endpoint}", flush=True)
    await Deferred()


async def fetch(reactor: Any, how: str) -> None:
    """Get the message."""
    authority = DevelopmentAuthority(state_directory())
    roots = load_authorities(authority.certificate_path)
    client = Client(how, ClientOptions("localhost", trust_roots=roots))
    factory: Any = Factory.forProtocol(lambda: client)
    if how != "stls":
        factory = TLSConnectorFactory(client.options, True, factory, startsHandshake=how != "told")
    await TCP4ClientEndpoint(reactor, "127.0.0.1", PORTS[how]).connect(factory)
    await client.ended


async def main(reactor: Any, role: str = "") -> None:
    """Be the server or one of the clients."""
    if role != "server" and role not in PORTS:
        raise SystemExit("usage: pop3.py server|stls|pop3s|told")
    try:
        await (serve(reactor) if role == "server" else fetch(reactor, role))
    except Exception as error:
        raise SystemExit(f"pop3: {error}") from None


if __name__ == "__main__":
    install()
    react(main, sys.argv[1:2])
