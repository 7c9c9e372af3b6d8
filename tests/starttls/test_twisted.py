"""
The dialogues of L{twisted_bioconn.starttls} with what Twisted has of these protocols.

There is no TLS here: where it would begin, what is said goes on in the clear, to the server behind
the front or from the client in front of the dialogue.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITLSTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.mail import imap4, pop3, smtp
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.protocols.jabber.client import XMPPAuthenticator
from twisted.words.protocols.jabber.jid import JID
from twisted.words.protocols.jabber.xmlstream import XmlStream
from zope.interface import alsoProvides, implementer

from tests.starttls.material import client, server
from twisted_bioconn.starttls import DialogueState, make_backend_filter

CREATOR: Any = object()
"""What would make TLS."""


class Wire(StringTransport):
    """
    A transport on which TLS can begin.

    @ivar is_tls: whether it has.
    """

    is_tls = False

    def startTLS(self, contextFactory: Any, normal: bool = True) -> None:
        self.is_tls = True

    def take(self) -> bytes:
        """All that was written, and that a producer has to write."""
        while self.producer is not None:
            self.producer.resumeProducing()
        data: bytes = self.value()
        self.clear()
        return data


@implementer(smtp.IMessage)
class Message:
    """A message that is delivered."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines

    def lineReceived(self, line: bytes) -> None:
        self._lines.append(line)

    def eomReceived(self) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def connectionLost(self) -> None:
        pass


@implementer(smtp.IMessageDelivery)
class Delivery:
    """
    Takes all.

    @ivar lines: what was delivered.
    """

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> bytes:
        return b"Received: yes"

    def validateFrom(self, helo: Any, origin: Any) -> Any:
        return origin

    def validateTo(self, user: Any) -> Callable[[], Message]:
        return lambda: Message(self.lines)


class Sender(smtp.ESMTPClient):
    """
    Sends a message.

    @ivar sent: how many took it.
    """

    sent = 0

    def getMailFrom(self) -> str | None:
        return None if self.sent else "a@example.org"

    def getMailTo(self) -> list[str]:
        return ["b@example.org"]

    def getMailData(self) -> BytesIO:
        return BytesIO(b"the message\n")

    def sentMail(self, code: int, resp: Any, numOk: int, addresses: Any, log: Any) -> None:
        self.sent = numOk


class TwistedCase(SynchronousTestCase):
    """A test with both ends in memory."""

    def connect(self, protocol: Any) -> Wire:
        """Connect an end; it keeps time by a clock that stands still."""
        protocol.callLater = Clock().callLater
        wire = Wire()
        alsoProvides(wire, ITLSTransport)
        protocol.makeConnection(wire)
        return wire

    def through_front(self, name: str, theirs: Any, behind: Any) -> Wire:
        """A client of the front's, and a server behind it that knows no TLS."""
        dialogue = server(name)
        wire = self.connect(theirs)
        theirs.dataReceived(dialogue.start())
        while dialogue.state is DialogueState.TALKING:
            said = wire.take()
            assert said, "the client says no more"
            theirs.dataReceived(dialogue.feed(said))
        self.assertIs(dialogue.state, DialogueState.TLS_NEXT)
        self.assertTrue(wire.is_tls)
        kept = make_backend_filter(name)
        assert kept is not None
        self.assertFalse(kept.has_greeted)
        self.pump(wire, theirs, self.connect(behind), behind, kept.feed)
        self.assertTrue(kept.has_greeted)
        return wire

    def to_server(self, name: str, plain: Any, theirs: Any) -> None:
        """A server that knows TLS, and a client behind us that does not."""
        dialogue = client(name)
        wire = self.connect(theirs)
        theirs.dataReceived(dialogue.start())
        while dialogue.state is DialogueState.TALKING:
            said = wire.take()
            assert said, "the server says no more"
            theirs.dataReceived(dialogue.feed(said))
        self.assertIs(dialogue.state, DialogueState.TLS_NEXT)
        self.assertTrue(wire.is_tls)
        own = self.connect(plain)
        plain.dataReceived(dialogue.greeting_for_client)
        self.pump(own, plain, wire, theirs)

    def pump(
        self,
        one: Wire,
        asks: Any,
        other: Wire,
        answers: Any,
        passed: Callable[[bytes], bytes] = lambda data: data,
    ) -> None:
        """Let them talk until neither has anything to say."""
        while True:
            told = passed(other.take())
            if told:
                asks.dataReceived(told)
            said = one.take()
            if said:
                answers.dataReceived(said)
            if not (told or said):
                break


class FrontTests(TwistedCase):
    """Clients of Twisted's, of a front of ours."""

    def test_smtp(self) -> None:
        """A message is delivered, by a client that insists on TLS."""
        sender = Sender(b"", CREATOR, b"example.org", 10)
        sender.requireTransportSecurity = True
        behind = smtp.ESMTP()
        behind.delivery = Delivery()
        self.through_front("smtp", sender, behind)
        self.assertEqual(behind.delivery.lines, [b"Received: yes", b"", b"the message"])
        self.assertEqual(sender.sent, 1)

    def test_imap(self) -> None:
        """The client asks anew what the server can do, and gets the answer of the one behind."""
        theirs = imap4.IMAP4Client(CREATOR)
        greeted: list[Any] = []

        def greet(capabilities: Any) -> None:
            greeted.append(theirs.startTLS(CREATOR))

        self.patch(theirs, "serverGreeting", greet)
        behind = imap4.IMAP4Server()
        self.through_front("imap", theirs, behind)
        self.successResultOf(greeted[0])
        self.assertNotIn(b"STARTTLS", self.successResultOf(theirs.getCapabilities()))
        self.assertNotIn(b"LOGINDISABLED", self.successResultOf(theirs.getCapabilities()))

    def test_pop3(self) -> None:
        """The client asks the server behind what it can do."""
        theirs = pop3.AdvancedPOP3Client()
        ended: list[Any] = []

        def greet(greeting: bytes) -> None:
            begun = theirs.startTLS(CREATOR)
            begun.addCallback(lambda _: ended.append(theirs.capabilities(useCache=False)))

        self.patch(theirs, "serverGreeting", greet)
        self.through_front("pop3", theirs, pop3.POP3())
        self.assertIn(b"UIDL", self.successResultOf(ended[0]))

    def test_xmpp(self) -> None:
        """After TLS the client opens a stream, which is for the server behind."""
        dialogue = server("xmpp")
        theirs = XmlStream(XMPPAuthenticator(JID("me@example.org/home"), "secret", CREATOR))
        wire = self.connect(theirs)
        while dialogue.state is DialogueState.TALKING:
            theirs.dataReceived(dialogue.feed(wire.take()))
        self.assertIs(dialogue.state, DialogueState.TLS_NEXT)
        self.assertTrue(wire.is_tls)
        self.assertIn(b"<stream:stream", wire.take())
        self.assertIs(make_backend_filter("xmpp"), None)


class ServerTests(TwistedCase):
    """Servers of Twisted's, and plain clients behind us."""

    def test_smtp(self) -> None:
        """A message is delivered."""
        theirs = smtp.ESMTP(contextFactory=CREATOR)
        theirs.delivery = Delivery()
        sender = Sender(b"", None, b"example.org", 10)
        self.to_server("smtp", sender, theirs)
        self.assertTrue(theirs.startedTLS)
        self.assertEqual(theirs.delivery.lines, [b"Received: yes", b"", b"the message"])
        self.assertEqual(sender.sent, 1)

    def test_imap(self) -> None:
        """The plain client is greeted, and asks what the server can do."""
        theirs = imap4.IMAP4Server(contextFactory=CREATOR)
        plain = imap4.IMAP4Client()
        told: list[Any] = []
        self.patch(
            plain, "serverGreeting", lambda known: told.extend([known, plain.getCapabilities()])
        )
        self.to_server("imap", plain, theirs)
        self.assertTrue(theirs.startedTLS)
        # The greeting has told it nothing of that.
        self.assertIs(told[0], None)
        self.assertIn(b"IMAP4rev1", self.successResultOf(told[1]))
