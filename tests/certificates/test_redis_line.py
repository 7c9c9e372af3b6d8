"""How a Redis server is spoken to, and what becomes of a store when it is gone."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.programs import require_module
from twisted_bioconn.certificates import redis_line, sealing
from twisted_bioconn.certificates.redis_line import DEADLINE, RedisServer
from twisted_bioconn.certificates.redis_store import RedisStore
from twisted_bioconn.certificates.store import StoreUnavailable
from twisted_bioconn.errors import ConfigurationError

reactor: Any = installed


class URLTests(SynchronousTestCase):
    """Where the server is, in one string."""

    def test_urls(self) -> None:
        """All kinds of them."""
        for url, where, facts in (
            ("redis://h", "redis://h:6379", ("h", 6379, "", False, None, None, None)),
            ("redis://h:1/2", "redis://h:1", ("h", 1, "", False, None, None, 2)),
            ("redis://h/", "redis://h:6379", ("h", 6379, "", False, None, None, None)),
            ("redis://:p%40w@h", "redis://h:6379", ("h", 6379, "", False, None, "p@w", None)),
            ("redis://u%3a:p:w@h", "redis://h:6379", ("h", 6379, "", False, "u:", "p:w", None)),
            ("rediss://[::1]:7/0", "rediss://[::1]:7", ("::1", 7, "", True, None, None, 0)),
            (
                "redis+unix://:p@/run/a%20b.sock?db=3",
                "redis+unix:///run/a b.sock",
                ("", 6379, "/run/a b.sock", False, None, "p", 3),
            ),
            ("unix:///r", "redis+unix:///r", ("", 6379, "/r", False, None, None, None)),
        ):
            self.assertEqual(RedisServer.from_url(url), RedisServer(where, *facts))

    def test_what_is_no_url(self) -> None:
        """It is refused in one sentence, in which there is no password."""
        for url, said in (
            ("", "must begin with redis:"),
            ("http://:secret@h", "must begin with redis:"),
            ("redis:", "names no host"),
            ("redis://:secret@", "names no host"),
            ("redis://:secret@h:port", "bad host or port"),
            ("redis://:secret@h:99999", "bad host or port"),
            ("redis://:secret@[h", "bad host or port"),
            ("redis://:secret@h/one", "must be a number"),
            ("redis://:secret@h/1/2", "must be a number"),
            ("redis://:secret@h/²", "must be a number"),
            ("redis://:secret@h/0?timeout=3", "something after ? or #"),
            ("redis://secret@h", "a password alone is written :PASSWORD@"),
            ("redis://h/#secret", "something after ? or #"),
            ("redis+unix://:secret@h/path", "must have an absolute path"),
            ("redis+unix://", "must have an absolute path"),
            ("redis+unix:///path?db=x", "must be a number"),
            ("redis+unix:///path?other=x", "something after ? or #"),
        ):
            error = self.assertRaises(ConfigurationError, RedisServer.from_url, url)
            self.assertIn(said, str(error))
            self.assertTrue(str(error).startswith("redis: "))
            self.assertNotIn("secret", str(error))

    @given(st.text(max_size=30) | st.text("redis:/@[]?#%41 ", max_size=30).map("redis://".__add__))
    @settings(deadline=None)
    def test_any_text(self, url: str) -> None:
        """It is a URL, or refused."""
        try:
            server = RedisServer.from_url(url)
        except ConfigurationError:
            return
        self.assertTrue(server.host or server.path.startswith("/"))

    def test_no_password_shows(self) -> None:
        """Not in the value's text."""
        self.assertNotIn("secret", repr(RedisServer.from_url("redis://u:secret@h")))

    def test_options(self) -> None:
        """What else can be wrong."""
        for passphrase, prefix, said in (
            (b"", "bioconn:", "the passphrase for the store bioconn: is empty"),
            (b"p", "a b", "redis: 'a b' cannot begin the names of keys"),
            (b"p", "\n", "redis: '\\n' cannot begin the names of keys"),
        ):
            error = self.assertRaises(
                ConfigurationError,
                RedisStore,
                Clock(),
                "redis://h",
                passphrase=passphrase,
                prefix=prefix,
            )
            self.assertEqual(str(error), said)

    def test_trust_roots(self) -> None:
        """They are loaded at once, and mean nothing without TLS."""
        require_module("txredisapi")
        for url, said in (
            ("redis://h", "redis: authorities are given for redis://h:6379, which is not"),
            ("redis+unix:///s", "redis: authorities are given for redis+unix:///s, which is not"),
            ("rediss://h", "/not/there does not exist"),
        ):
            error = self.assertRaises(
                ConfigurationError,
                RedisStore,
                Clock(),
                url,
                passphrase=b"p",
                trust_roots="/not/there",
            )
            self.assertIn(said, str(error))

    def test_without_txredisapi(self) -> None:
        """It says what to install; nothing is imported, and no reactor installed, before."""
        program = (
            "import sys; sys.modules['txredisapi'] = None\n"
            "from twisted.internet.task import Clock\n"
            "from twisted_bioconn.certificates.redis_store import RedisStore\n"
            "assert 'twisted.internet.reactor' not in sys.modules\n"
            "try: RedisStore(Clock(), 'redis://h', passphrase=b'p')\n"
            "except ValueError as error: print(error)\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, timeout=300, check=True
        ).stdout
        self.assertEqual(
            said.decode().strip(),
            "redis: txredisapi is not installed: pip install 'twisted_bioconn[redis]'",
        )

    def test_the_installed_reactor_stays(self) -> None:
        """txredisapi uses whichever there is."""
        require_module("txredisapi")
        program = (
            "from twisted.internet import selectreactor; selectreactor.install()\n"
            "from twisted.internet import reactor\n"
            "from twisted_bioconn.certificates.redis_store import RedisStore\n"
            "RedisStore(reactor, 'redis://h', passphrase=b'p')\n"
            "import sys, txredisapi\n"
            "assert sys.modules['twisted.internet.reactor'] is reactor is txredisapi.reactor\n"
            "print(type(reactor).__name__)\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, timeout=300, check=True
        ).stdout
        self.assertEqual(said.strip(), b"SelectReactor")


class Transport(StringTransport):
    """A transport that ends in the next turn of the clock."""

    protocol: Any

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.ended = False

    def loseConnection(self) -> None:
        """End."""
        self.end(ConnectionDone())

    def abortConnection(self) -> None:
        """End, as a fault."""
        self.end(ConnectionAborted())

    def end(self, reason: Exception) -> None:
        """Tell the protocol, once."""
        if not self.ended:
            self.ended = True
            self.clock.callLater(0, self.protocol.connectionLost, Failure(reason))


@implementer(IStreamClientEndpoint)
class Wire:
    """
    An endpoint whose far end is the test.

    @ivar answers: what to do with the next connections: accept, refuse, or neither.
    @ivar drops: whether those that are accepted end before anybody knows of them.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.answers = "accept"
        self.drops = False
        self.attempts = 0
        self.transports: list[Transport] = []

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Do as C{answers} says."""
        self.attempts += 1
        if self.answers == "refuse":
            return fail(ConnectionRefusedError(111, "Connection refused"))
        connected: Deferred[Any] = Deferred()
        if self.answers == "accept":
            transport = Transport(self.clock)
            transport.protocol = protocolFactory.buildProtocol(None)
            self.transports.append(transport)
            transport.protocol.makeConnection(transport)
            if self.drops:
                transport.ended = True
                transport.protocol.connectionLost(Failure(ConnectionDone()))
            connected.callback(transport.protocol)
        return connected

    def said(self) -> bytes:
        """What has come on the newest connection since this was asked."""
        data: bytes = self.transports[-1].value()
        self.transports[-1].clear()
        return data

    def say(self, data: bytes) -> None:
        """Answer on the newest connection."""
        self.transports[-1].protocol.dataReceived(data)


class GoneCase(SynchronousTestCase):
    """A store with a clock, and a server that the test is."""

    def setUp(self) -> None:
        """The store has asked for nothing yet."""
        require_module("txredisapi")
        self.patch(sealing, "_COST", 2)
        self.clock = Clock()
        self.wire = Wire(self.clock)
        self.patch(RedisServer, "endpoint", lambda *_: self.wire)
        self.store = RedisStore(self.clock, "redis://:secret@h/1", passphrase=b"p")

    def tearDown(self) -> None:
        """The store leaves nothing behind."""
        closing = self.store.close()
        self.clock.pump([0.01] * 20 + [DEADLINE] * 4)
        self.successResultOf(closing)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual([each for each in self.wire.transports if not each.ended], [])

    def greet(self) -> None:
        """Take the password and the database."""
        self.assertIn(b"AUTH", self.wire.said())
        self.wire.say(b"+OK\r\n")
        self.assertIn(b"SELECT", self.wire.said())
        self.wire.say(b"+OK\r\n")

    def refusal(self, deferred: Deferred[Any]) -> str:
        """The sentence with which it has failed by now."""
        said = str(self.failureResultOf(deferred, StoreUnavailable).value)
        self.assertNotIn("secret", said)
        self.assertNotIn("\n", said)
        return said


class GoneTests(GoneCase):
    """The server is slow, strange or gone."""

    def test_refused(self) -> None:
        """It is said at once, and a connection tried less and less often."""
        self.wire.answers = "refuse"
        with capturedLogs() as logs:
            for _ in range(50):
                self.assertRegex(
                    self.refusal(self.store.get("a")),
                    r"\Aredis://h:6379 cannot be connected to: .*Connection refused\Z",
                )
            self.assertEqual(self.wire.attempts, 1)
            self.clock.pump([0.1] * 10)
            self.assertIn(self.wire.attempts, range(3, 8))
            before = self.wire.attempts
            self.clock.pump([1.0] * 600)
            self.assertIn(self.wire.attempts - before, range(100, 260))
            self.wire.answers = "accept"
            self.clock.pump([1.0] * 5)
            asked = self.store.get("a")
            self.greet()
            self.wire.say(b"$-1\r\n")
            self.assertIsNone(self.successResultOf(asked))
        self.assertEqual(
            [event["log_level"] for event in logs if "log_level" in event],
            [LogLevel.warn, LogLevel.info],
        )
        self.assertFalse(any("secret" in repr(event) for event in logs))

    def test_no_connection_in_time(self) -> None:
        """What waits for it fails after the deadline, and what comes then fails at once."""
        self.wire.answers = "nothing"
        asked = [self.store.get("a") for _ in range(10)]
        self.clock.advance(DEADLINE - 0.1)
        for each in asked:
            self.assertNoResult(each)
        self.clock.advance(0.2)
        for each in asked:
            self.assertEqual(self.refusal(each), "redis://h:6379 did not answer within 5 seconds")
        self.refusal(self.store.put("a", b""))
        self.assertEqual(self.store._questions._waiting, [])

    def test_cancelled_while_it_connects(self) -> None:
        """Who does not want to wait need not."""
        self.wire.answers = "nothing"
        asked = self.store.get("a")
        asked.cancel()
        self.failureResultOf(asked)
        self.assertEqual(self.store._questions._waiting, [])

    def test_no_answer_in_time(self) -> None:
        """The connection is spoiled: nobody gets an answer that was another's."""
        asked = self.store.get("a")
        self.greet()
        self.clock.advance(1)
        other = self.store.get("b")
        self.clock.advance(DEADLINE - 0.9)
        self.assertEqual(self.refusal(asked), "redis://h:6379 did not answer within 5 seconds")
        self.clock.advance(0)
        self.assertEqual(self.refusal(other), "redis://h:6379 did not answer within 5 seconds")
        self.assertTrue(self.wire.transports[0].ended)
        self.clock.advance(0.2)
        self.assertEqual(len(self.wire.transports), 2)

    def test_an_answer_to_one_who_has_left(self) -> None:
        """It is nobody else's."""
        left = self.store.names("")
        self.greet()
        asked = self.store.names("")
        left.cancel()
        self.failureResultOf(left)
        self.wire.say(b"$1\r\na\r\n$1\r\nb\r\n")
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(asked), ["b"])

    def test_a_lost_connection(self) -> None:
        """Who waits for an answer is told."""
        asked = self.store.put("a", b"secret")
        self.greet()
        self.wire.transports[0].loseConnection()
        self.clock.advance(0)
        self.assertEqual(self.refusal(asked), "redis://h:6379 has closed the connection")

    def test_connections_that_end_at_once(self) -> None:
        """There is none, and it is tried less and less often."""
        self.wire.drops = True
        for url in ("redis://h", "redis://:secret@h"):
            store = RedisStore(self.clock, url, passphrase=b"p")
            self.assertEqual(
                self.refusal(store.get("a")), "redis://h:6379 has closed the connection"
            )
            before = self.wire.attempts
            self.clock.pump([0.1] * 100)
            self.assertIn(self.wire.attempts - before, range(4, 20))
            self.successResultOf(store.close())

    def test_a_bad_password(self) -> None:
        """What the server says of it is said."""
        asked = self.store.get("a")
        self.wire.say(b"-WRONGPASS invalid username-password pair\r\n")
        self.assertEqual(
            self.refusal(asked),
            "redis://h:6379 has refused a command: WRONGPASS invalid username-password pair",
        )

    def test_a_command_that_is_not_known(self) -> None:
        """The server repeats it, with the password in it; we do not."""
        asked = self.store.get("a")
        self.wire.say(b"-ERR unknown command 'AUTH', with args beginning with: 'secret'\r\n")
        self.assertEqual(
            self.refusal(asked), "redis://h:6379 has refused a command: unknown command 'AUTH'"
        )

    def test_strange_servers(self) -> None:
        """What is no answer of Redis's ends the connection, and memory is bounded."""
        self.patch(redis_line, "_LARGEST_ANSWER", 100_000)
        for said, reason in (
            (b"\xff\xfe\r\n", "does not speak Redis's protocol"),
            (b"+OK\r\n:1\r\n:1\r\n", "the value of a cannot be opened"),
            (b"$99999999999\r\n" + b"x" * 200_000, "has answered with more than 100000 bytes"),
            (b"*1\r\n" * 60_000, "has answered with more than 100000 bytes"),
            (b"x" * 200_000, "has answered with more than 100000 bytes"),
        ):
            asked = self.store.get("a")
            self.greet()
            for at in range(0, len(said), 10_000):
                self.wire.say(said[at : at + 10_000])
            self.clock.advance(0)
            self.clock.advance(0)
            self.assertIn(reason, self.refusal(asked))
            self.assertTrue(self.wire.transports[-1].ended)
            self.clock.advance(DEADLINE)

    @given(st.binary(max_size=60) | st.text("$*:+-0129\r\n", max_size=40).map(str.encode))
    @settings(deadline=None, max_examples=150)
    def test_any_answer(self, said: bytes) -> None:
        """There is a value, a sentence or nothing yet; and a sentence when the time is up."""
        store = RedisStore(self.clock, "redis://h", passphrase=b"p")
        asked = store.get("a")
        self.wire.say(said)
        self.clock.pump([0.0, 0.0, DEADLINE + 0.1, 0.0])
        if not asked.called:
            self.fail("it waits for ever")
        asked.addErrback(lambda reason: reason.trap(StoreUnavailable))
        self.successResultOf(asked)
        store.close()
        self.clock.pump([0.0] * 3)

    def test_a_value_of_somebody_else(self) -> None:
        """One that does not open is told of by name."""
        asked = self.store.get("a")
        self.greet()
        self.wire.say(b"$5\r\nsecre\r\n")
        self.assertRegex(
            self.refusal(asked), r"\Aredis://h:6379: the value of a cannot be opened: "
        )

    def test_strange_names(self) -> None:
        """What others have put there is no name."""
        asked = self.store.names("")
        self.greet()
        names = b"b\n../x\n\xff\n\na"
        self.wire.say(b"$%d\r\n%s\r\n" % (len(names), names))
        self.assertEqual(self.successResultOf(asked), ["a", "b"])

    def test_the_silent_subscription(self) -> None:
        """It is asked now and then, and made anew where there is no answer."""
        told: list[str] = []
        self.store.watch(told.append)
        self.greet()
        self.assertIn(b"SUBSCRIBE", self.wire.said())
        self.wire.say(b"*3\r\n$9\r\nsubscribe\r\n$15\r\nbioconn:changed\r\n:1\r\n")
        self.clock.pump([0.0] * 4)
        self.assertEqual(told, [""])
        self.wire.say(b"*3\r\n$7\r\nmessage\r\n$15\r\nbioconn:changed\r\n$3\r\na/b\r\n")
        self.wire.say(b"*3\r\n$7\r\nmessage\r\n$15\r\nbioconn:changed\r\n$4\r\n../b\r\n")
        self.clock.pump([0.0] * 8)
        self.assertEqual(told, ["", "a/b"])
        for _ in range(10):
            self.clock.advance(5)
            self.assertIn(b"PING", self.wire.said())
            self.wire.say(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
            self.clock.pump([0.0] * 4)
        self.assertEqual(len(self.wire.transports), 1)
        self.clock.pump([0.1] * 120)
        self.assertTrue(self.wire.transports[0].ended)
        self.greet()
        self.wire.say(b"*3\r\n$9\r\nsubscribe\r\n$15\r\nbioconn:changed\r\n:1\r\n")
        self.clock.pump([0.0] * 4)
        self.assertEqual(told, ["", "a/b", ""])
