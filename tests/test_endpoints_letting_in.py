"""Whom a server's endpoint lets in, and what it says of those whom it does not."""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import NameOID
from twisted.internet.defer import fail

from tests.context_material import ROOTS, certified, serving, visiting
from tests.endpoint_material import Applications, EndpointCase, Silent, raising
from tests.engines import on_both_engines
from tests.protocol_wire import MemoryConnection, MemorySocket
from tests.tls_material import TLS12, TLS13, Party, authority, certificate, ec_key, stranger
from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.context import SessionStore
from twisted_bioconn.errors import ConfigurationError

VERSIONS = ((TLS12, TLS12), (TLS13, TLS13))


@on_both_engines
class LettingInTests(EndpointCase):
    """Whom a server lets in, and what it says of those whom it does not."""

    def raw(self, data: bytes = b"") -> Silent:
        """A connection on which this is sent, and nothing else."""
        peer = Silent()
        one, two = MemorySocket.pair()
        theirs = MemoryConnection(one, self.arrival(), self.clock)
        ours = MemoryConnection(two, peer, self.clock)
        theirs.begin()
        ours.begin()
        ours.write(data)
        self.clock.settle()
        return peer

    def test_not_built_before(self) -> None:
        """Nobody is built for whom is not let in: no certificate, a stranger's, no TLS."""
        theirs = Applications()
        for versions in VERSIONS:
            self.listen(theirs, serving(versions=versions, client_authorities=ROOTS))
            for own in (None, certified(stranger())):
                done = self.client_endpoint(visiting(certificate=own)).connect(Applications())
                done.addBoth(lambda _: None)
                self.meet()
                self.assertEqual(theirs.built, [])
                self.assertLeftNothing()
        self.assertEqual(len(self.lines), 4)

    def test_lines(self) -> None:
        """One line for each refused handshake: who and why."""
        theirs = Applications()
        self.listen(theirs, serving(client_authorities=ROOTS))
        for own, why in (
            (
                None,
                "127.0.0.1:50000 shows no certificate, and clients need one. Give the client a"
                " certificate, or ask for none with clientCertificate=.",
            ),
            (
                certified(stranger()),
                "the certificate of CN=stranger, of the client 127.0.0.1:50000, leads to no"
                " authority that is trusted here: CN=nobody signed it. Give the client a"
                " certificate of an authority in clientAuthorities=, or add its own.",
            ),
        ):
            self.lines.clear()
            self.client_endpoint(visiting(certificate=own)).connect(Applications())
            self.meet()
            self.assertEqual(self.lines, [f"no handshake: {why}"])

    def test_lines_of_strangers(self) -> None:
        """Other protocols, and other versions; what they said is not repeated."""
        self.listen(Applications())
        for data, why in (
            (
                b"GET /?token=hunter2 HTTP/1.1\r\n\r\n",
                " speaks plain HTTP, and this port speaks TLS",
            ),
            (b"EHLO hunter2\r\n", " speaks SMTP in the clear, and this port speaks TLS"),
            (b"\x16\x03\x01\xff\xffhunter2", " sent a record"),
        ):
            self.lines.clear()
            self.raw(data)
            [line] = self.lines
            self.assertIn(f"no handshake: 127.0.0.1:50000{why}", line)
            self.assertNotIn("hunter2", line)

    def test_line_of_a_client_that_refuses(self) -> None:
        """A client that does not trust us says so, and so do we."""
        self.listen(Applications(), serving(stranger()))
        done = self.client_endpoint().connect(Applications())
        self.meet()
        self.failureResultOf(done)
        self.assertEqual(
            self.lines,
            [
                "no handshake: 127.0.0.1:50000 does not trust the authority of our certificate for"
                " www.example.org, or got no intermediates. Send the whole chain, or have the"
                " client trust its authority."
            ],
        )

    def test_no_line(self) -> None:
        """
        None for those who leave without a word that counts: health checks, scans of ports.
        """
        self.listen(Applications())
        for end in ("loseConnection", "abortConnection"):
            peer = self.raw()
            getattr(peer.transport, end)()
            self.clock.settle()
            self.assertIsNotNone(peer.lost)
            self.assertEqual(self.lines, [])
            self.assertLeftNothing()

    def test_line_of_one_who_left(self) -> None:
        """But one for a client that began, and left in the middle."""
        self.listen(Applications())
        self.client_endpoint().connect(Applications()).addErrback(lambda _: None)
        transport = self.connector.reach(self.arrival())
        while not transport.end.was_sent:
            self.clock.turn()
        self.clock.turn()
        transport.abortConnection()
        self.clock.settle()
        self.assertEqual(len(self.lines), 1)
        self.assertLeftNothing()

    def test_hostile_name(self) -> None:
        """Nothing that a peer puts into its certificate starts a new line, or moves a cursor."""
        title = "x\n2026-11-25 [-] all is well\r\x1b[2J\x07\u202e\u2028"
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
        self.assertEqual(name.rfc4514_string()[3:5], "x\n")
        evil = Party(certificate(title, authority("nobody"), key=ec_key(8)), ec_key(8))
        own = CertifiedKey(evil.chain, evil.key)
        roots = [*ROOTS, authority("nobody").certificate]
        for options in (
            serving(client_authorities=ROOTS),
            # A check of the operator's that repeats what it was shown.
            serving(client_authorities=roots, check=raising(ValueError(f"who is {title}?"))),
        ):
            self.lines.clear()
            self.listen(Applications(), options)
            self.client_endpoint(visiting(certificate=own)).connect(Applications())
            self.meet()
            [line] = self.lines
            self.assertTrue(line.isprintable(), repr(line))
            self.assertIn("2026-11-25 [-] all is well", line)

    def test_silent_client(self) -> None:
        """One that never says hello is let go after ten seconds, with a line."""
        self.listen(Applications())
        peer = self.raw()
        self.wait(9.5)
        self.assertIsNone(peer.lost)
        self.wait(0.5)
        self.assertIsNotNone(peer.lost)
        [line] = self.lines
        self.assertIn("127.0.0.1:50000 sent nothing within 10 seconds", line)
        self.assertLeftNothing()

    def test_dripping_client(self) -> None:
        """Bytes are no handshake: a byte each second gives no more time."""
        self.listen(Applications(), handshake_timeout=3.0)
        peer = self.raw(b"\x16\x03\x01\x02\x00\x01")
        for _ in range(3):
            self.assertIsNone(peer.lost)
            peer.transport.write(b"\0")
            self.wait(1)
        self.assertIsNotNone(peer.lost)
        self.assertLeftNothing()

    def test_no_handshake_timeout(self) -> None:
        """C{None} is none."""
        self.listen(Applications(), handshake_timeout=None)
        peer = self.raw()
        self.wait(1000, 100)
        self.assertIsNone(peer.lost)

    def test_idle(self) -> None:
        """A connection on which nothing goes either way is closed, when that is asked for."""
        theirs = Applications()
        self.listen(theirs, idle_timeout=60.0)
        ours = Applications()
        self.client_endpoint().connect(ours)
        self.meet()
        for _ in range(3):
            self.wait(50, 10)
            ours.one.transport.write(b"still here")
        self.wait(50, 10)
        self.assertIsNone(theirs.one.lost)
        self.wait(80, 10)
        self.assertIsNotNone(theirs.one.lost)
        self.assertIn("nothing came or went for 60 seconds", str(theirs.one.lost.value))
        self.assertLeftNothing()

    def test_never_idle(self) -> None:
        """By default nobody is too quiet."""
        theirs = Applications()
        self.listen(theirs)
        self.client_endpoint().connect(Applications())
        self.meet()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.wait(1e5, 1e4)
        self.assertIsNone(theirs.one.lost)

    def test_close_timeouts(self) -> None:
        """Both ends wait so long for a peer that does not close after them."""
        for ours_closes in (True, False):
            ours, theirs = Applications(), Applications()
            self.listen(theirs, close_timeout=4.0)
            options = visiting(sessions=SessionStore())
            self.client_endpoint(options, close_timeout=4.0).connect(ours)
            transport = self.meet()
            closing, quiet = (ours, theirs) if ours_closes else (theirs, ours)
            # Nothing that is sent from now on is read at the other end.
            end = transport if not ours_closes else theirs.one.transport.transport
            end.pauseProducing()
            self.assertIsNone(quiet.one.lost)
            closing.one.transport.loseConnection()
            self.wait(3.5)
            self.assertIsNone(closing.one.lost)
            # It looks four times in this time, and so once more after it.
            self.wait(1.5)
            self.assertIsNotNone(closing.one.lost)
            end.abortConnection()
            self.clock.settle()
            self.assertLeftNothing()

    def test_deadlines_that_cannot_be_met(self) -> None:
        """They are told when the endpoint is made, and not by each connection."""
        for make, names in (
            (self.server_endpoint, ("handshake_timeout", "close_timeout", "idle_timeout")),
            (self.client_endpoint, ("timeout", "close_timeout")),
        ):
            for name in names:
                for seconds in (0, -1, float("nan"), float("-inf")):
                    error = self.assertRaises(ConfigurationError, make, **{name: seconds})
                    self.assertEqual(
                        str(error), f"{name}={seconds}: this must be seconds above 0, or None"
                    )
                self.assertIsNone(getattr(make(**{name: None}), name))
                self.assertEqual(getattr(make(**{name: 1e-3}), name), 1e-3)

    def test_factory_is_told(self) -> None:
        """The application's factory hears of its ports, as with any endpoint."""
        told: list[str] = []

        class Told(Applications):
            def doStart(self) -> None:
                told.append("start")

            def doStop(self) -> None:
                told.append("stop")

        self.listen(Told())
        self.listener.factory.doStart()
        self.listener.factory.doStop()
        self.assertEqual(told, ["start", "stop"])

    def test_port_taken(self) -> None:
        """What the endpoint below says to C{listen} is passed on."""
        self.patch(self.listener, "listen", lambda factory: fail(OSError("taken")))
        self.failureResultOf(self.server_endpoint().listen(Applications()), OSError)
