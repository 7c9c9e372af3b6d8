"""What holds for every protocol of L{twisted_bioconn.starttls}, in both roles."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from weakref import ref

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.garbling import garbled
from tests.starttls.material import (
    EXCHANGES,
    HELLO,
    HOST,
    Outcome,
    client,
    cut,
    play,
    server,
)
from twisted_bioconn.errors import ConfigurationError, UsageError
from twisted_bioconn.starttls import (
    NAMES,
    Dialogue,
    DialogueState,
    InjectionRefused,
    StartTLSError,
    client_dialogue,
    default_ports,
    make_backend_filter,
    server_dialogue,
)

names = st.sampled_from(NAMES)
places = st.lists(st.integers(0, 2000), max_size=8)


def asked(name: str) -> bytes:
    """All that a client says before TLS."""
    return b"".join(said for said, _ in EXCHANGES[name])


def answers(name: str) -> list[bytes]:
    """What a server says, each time that it is its turn."""
    return [answer for _, answer in EXCHANGES[name] if answer]


class NameTests(SynchronousTestCase):
    """How a dialogue is made."""

    def test_unknown(self) -> None:
        """A protocol that is not there is named, with those that are."""
        for call in (
            lambda: server_dialogue("gopher", host_name=HOST),
            lambda: client_dialogue("gopher", host_name=HOST),
            lambda: default_ports("gopher"),
            lambda: make_backend_filter("gopher"),
        ):
            error = self.assertRaises(ConfigurationError, call)
            self.assertIn("'gopher'", str(error))
            self.assertIn("smtp, lmtp, imap", str(error))

    def test_host_name(self) -> None:
        """What would not be one name on the wire is refused; an address as SMTP has it is not."""
        for make in (server_dialogue, client_dialogue):
            for host in ("", "a b", "a\r\nMAIL", "a'b", "<a>", "münchen.example", "a" * 254):
                error = self.assertRaises(ConfigurationError, make, "smtp", host_name=host)
                self.assertIn(repr(host), str(error))
            make("smtp", host_name="[IPv6:2001:db8::1]")
            make("smtp", host_name="a.example.org")

    def test_ports(self) -> None:
        """Each has a usual port of its own."""
        usual = [default_ports(name)[0] for name in NAMES]
        self.assertEqual(usual, [587, 24, 143, 110, 4190, 389, 5222, 5269, 5432])


class ImportTests(SynchronousTestCase):
    """What the package needs."""

    def test_sans_io(self) -> None:
        """Nothing of Twisted's."""
        program = (
            "import sys, twisted_bioconn.starttls\n"
            "print([name for name in sys.modules if name.startswith('twisted.')])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.assertEqual(done.stdout, "[]\n", done.stderr)

    def test_no_garbage(self) -> None:
        """A dialogue is gone when nobody has it any more."""
        gc.disable()
        self.addCleanup(gc.enable)
        for name in NAMES:
            dialogue = server(name)
            play(dialogue, [said for said, _ in EXCHANGES[name]])
            gone = ref(dialogue)
            del dialogue
            self.assertIsNone(gone(), name)


class TranscriptTests(SynchronousTestCase):
    """The way to TLS, byte by byte as it is on the wire."""

    def test_server(self) -> None:
        """What a server says."""
        for name, exchanges in EXCHANGES.items():
            outcome = play(server(name), [said for said, _ in exchanges])
            expected = b"".join(answer for _, answer in exchanges)
            self.assertEqual(outcome, Outcome(expected, DialogueState.TLS_NEXT), name)

    def test_client(self) -> None:
        """What a client says."""
        for name in NAMES:
            outcome = play(client(name), answers(name))
            self.assertEqual(outcome, Outcome(asked(name), DialogueState.TLS_NEXT), name)

    def test_each_other(self) -> None:
        """The two roles lead each other to TLS."""
        for name in NAMES:
            ours, theirs = client(name), server(name)
            to_server, to_client = ours.start(), theirs.start()
            for _ in range(10):
                if to_client:
                    to_server += ours.feed(to_client)
                to_client = theirs.feed(to_server) if to_server else b""
                to_server = b""
            self.assertEqual((ours.state, theirs.state), (DialogueState.TLS_NEXT,) * 2, name)

    def test_greeting(self) -> None:
        """What the client's plain client is to hear first, if anything."""
        greetings = {
            "smtp": b"220 mail.example.org ESMTP\r\n",
            "lmtp": b"220 mail.example.org LMTP\r\n",
            "imap": b"* OK mail.example.org ready\r\n",
            "pop3": b"+OK mail.example.org ready\r\n",
        }
        for name in NAMES:
            dialogue = client(name)
            dialogue.start()
            for answer in answers(name):
                self.assertEqual(dialogue.greeting_for_client, b"")
                dialogue.feed(answer)
            self.assertEqual(dialogue.greeting_for_client, greetings.get(name, b""), name)


class InjectionTests(SynchronousTestCase):
    """Bytes in the clear ahead of TLS."""

    def refused(self, dialogue: Dialogue, pieces: list[bytes], count: int) -> InjectionRefused:
        outcome = play(dialogue, pieces)
        error = outcome.error
        assert isinstance(error, InjectionRefused), outcome
        self.assertIs(outcome.state, DialogueState.CLOSED)
        self.assertEqual((error.protocol, error.count), (dialogue.protocol, count))
        self.assertTrue(str(error).startswith(f"{dialogue.protocol}: the "))
        self.assertIn(f"{count} byte", str(error))
        return error

    def test_commands(self) -> None:
        """A server begins no TLS where a client has said more than that it wants it."""
        for name, exchanges in EXCHANGES.items():
            *first, (last, agreed) = exchanges
            for more in (b"X", b"EVIL COMMAND\r\n", b"\r\n", b"\0", last):
                pieces = [said for said, _ in first] + [last + more]
                error = self.refused(server(name), pieces, len(more))
                self.assertIn(
                    "the client sent more in the clear where TLS has to begin", str(error)
                )
                self.assertFalse(error.answer.startswith(agreed))
                # All in one piece, it is the same.
                self.refused(server(name), [b"".join(pieces)], len(more))

    def test_hello(self) -> None:
        """Nor where the client has not waited for the answer."""
        for name in NAMES:
            error = self.refused(server(name), [asked(name) + HELLO], len(HELLO))
            self.assertIn("the client began TLS before it was told to", str(error))

    def test_answers(self) -> None:
        """A client begins no TLS where a server has said more than yes."""
        for name in NAMES:
            *first, last = answers(name)
            for more in (b"X", b"* OK evil\r\n", b"\n", last, HELLO):
                error = self.refused(client(name), [*first, last + more], len(more))
                self.assertEqual(error.answer, b"")

    def test_answers_ahead(self) -> None:
        """A client asks for nothing where the answer is there already."""
        for name in NAMES:
            for at, answer in enumerate(answers(name)[:-1]):
                ahead = answers(name)[at + 1]
                pieces = [*answers(name)[:at], answer + ahead]
                error = self.refused(client(name), pieces, len(ahead))
                self.assertIn("the server sent what it was not asked for", str(error))

    def test_one_byte(self) -> None:
        """The sentence is right for one."""
        error = self.refused(server("postgresql"), [asked("postgresql") + b"Q"], 1)
        self.assertTrue(str(error).endswith(": 1 byte"), error)


class EndTests(SynchronousTestCase):
    """What comes when there is no more to say."""

    def test_tls_next(self) -> None:
        """The next bytes are for TLS, and nobody else."""
        for name in NAMES:
            for dialogue, pieces in ((server(name), [asked(name)]), (client(name), answers(name))):
                self.assertIs(play(dialogue, pieces).state, DialogueState.TLS_NEXT)
                error = self.assertRaises(UsageError, dialogue.feed, HELLO)
                self.assertIn(name, str(error))

    def test_closed(self) -> None:
        """After a failure all is dropped."""
        for name in NAMES:
            for dialogue in (server(name), client(name)):
                outcome = play(dialogue, [b"\xff\r\n" * 5000])
                self.assertIsInstance(outcome.error, StartTLSError)
                self.assertIs(dialogue.state, DialogueState.CLOSED)
                self.assertEqual(dialogue.feed(asked(name)), b"")

    def test_tls_at_once(self) -> None:
        """TLS that nobody has asked for is called by its name."""
        for name in NAMES:
            outcome = play(server(name), [HELLO[:1], HELLO[1:]])
            self.assertIn("the client began TLS without asking for it first", str(outcome.error))


class BoundTests(SynchronousTestCase):
    """
    How much a peer may say.

    @cvar LONGEST: bytes of a line or a stanza.
    """

    LONGEST = {
        "smtp": 2048,
        "lmtp": 2048,
        "imap": 8192,
        "pop3": 2048,
        "sieve": 2048,
        "xmpp": 10 * 1024,
        "xmpp-server": 10 * 1024,
    }

    def test_length(self) -> None:
        """A line or a stanza of just that length, and one of a byte more."""
        for name, longest in self.LONGEST.items():
            begin, end = (b"<a b='", b"'>") if "xmpp" in name else (b"* OK ", b"\r\n")
            for dialogue in (server, client):
                for size in (longest, longest + 1):
                    whole = begin + b"x" * (size - len(begin + end)) + end
                    error = play(dialogue(name), [whole]).error
                    is_told = f"more than {longest} b" in str(error) or (
                        f"longer than {longest} b" in str(error)
                    )
                    self.assertEqual(is_told, size > longest, (name, error))

    def test_nothing_is_kept(self) -> None:
        """What never ends is given up at the bound."""
        for name, longest in self.LONGEST.items():
            for make in (server, client):
                dialogue = make(name)
                outcome = play(dialogue, [b"<"] + [b"x"] * (longest + 10))
                self.assertIn(f"{longest} bytes", str(outcome.error))

    def test_messages(self) -> None:
        """A length that is too long is refused when it is read, before what it announces comes."""
        for name, head, sentence in (
            ("ldap", b"\x30\x82\x20\x01", "more than 8192 bytes"),
            ("ldap", b"\x30\x84\x7f\xff\xff\xff", "more than 8192 bytes"),
            ("postgresql", b"\0\0\x20\x01", "a first message of 8193 bytes"),
            ("postgresql", b"\0\0\0\x07", "a first message of 7 bytes"),
        ):
            self.assertIn(sentence, str(play(server(name), [head]).error))
        for name, head in (("ldap", b"\x30\x82\x1f\xfc"), ("postgresql", b"\0\0\x20\x00")):
            self.assertIsNone(play(server(name), [head]).error)
            self.assertIsNotNone(play(server(name), [head.ljust(8192, b"\0")]).error)

    def test_commands(self) -> None:
        """Fifty commands, and TLS has not begun."""
        abandon = bytes.fromhex("3006 020102 500101")
        auth = b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
        for name, first, command in (
            ("smtp", b"", b"NOOP\r\n"),
            ("lmtp", b"", b"RSET\r\n"),
            ("imap", b"", b"a NOOP\r\n"),
            ("pop3", b"", b"CAPA\r\n"),
            ("sieve", b"", b"NOOP\r\n"),
            ("ldap", b"", abandon),
            ("xmpp", EXCHANGES["xmpp"][1][0], auth),
            ("xmpp-server", EXCHANGES["xmpp-server"][1][0], auth),
        ):
            most = 50 - bool(first)
            self.assertIsNone(play(server(name), [first, command * most]).error, name)
            outcome = play(server(name), [first, command * (most + 1)])
            self.assertIn("TLS has not begun after 50 commands", str(outcome.error), name)

    def test_lines_of_a_server(self) -> None:
        """A server that goes on and on."""
        for name, line in (
            ("smtp", b"220-x\r\n"),
            ("sieve", b'"A" "b"\r\n'),
        ):
            outcome = play(client(name), [line] * 300)
            self.assertIn("TLS has not begun after 200 lines", str(outcome.error))


class AnyBytesTests(SynchronousTestCase):
    """Any bytes, in any pieces."""

    @settings(deadline=None, max_examples=150)
    @given(names, places)
    def test_pieces_for_a_server(self, name: str, where: list[int]) -> None:
        """The pieces in which a client is heard make no difference."""
        whole = play(server(name), [asked(name)])
        self.assertIs(whole.state, DialogueState.TLS_NEXT)
        self.assertEqual(play(server(name), cut(asked(name), where)), whole)

    @settings(deadline=None, max_examples=150)
    @given(names, st.lists(places, min_size=6, max_size=6))
    def test_pieces_for_a_client(self, name: str, where: list[list[int]]) -> None:
        """Nor those in which a server is heard, each time that it is its turn."""
        pieces = [
            piece
            for answer, each in zip(answers(name), where, strict=False)
            for piece in cut(answer, each)
        ]
        self.assertEqual(play(client(name), pieces), play(client(name), answers(name)))

    @settings(deadline=None, max_examples=400)
    @given(st.data())
    def test_garbage_for_a_server(self, data: st.DataObject) -> None:
        """
        Whatever comes, there is no other error, and it is the same one in any pieces; but where TLS
        could begin, what comes in a piece of its own is for TLS.
        """
        name = data.draw(names)
        said = data.draw(st.binary() | garbled(asked(name)) | garbled(asked(name) * 3))
        whole = play(server(name), [said])
        pieces = play(server(name), cut(said, data.draw(places)))
        if isinstance(whole.error, InjectionRefused):
            self.assertIsNot(pieces.state, DialogueState.TALKING)
        else:
            self.assertEqual(pieces, whole)

    @settings(deadline=None, max_examples=400)
    @given(st.data())
    def test_garbage_for_a_client(self, data: st.DataObject) -> None:
        """The same for a client."""
        name = data.draw(names)
        pieces = []
        for answer in answers(name):
            said = data.draw(st.binary() | garbled(answer))
            pieces += cut(said, data.draw(places))
        outcome = play(client(name), pieces)
        self.assertEqual(outcome.error is not None, outcome.state is DialogueState.CLOSED)
        if outcome.error is not None:
            self.assertTrue(str(outcome.error).isascii() and str(outcome.error).isprintable())
