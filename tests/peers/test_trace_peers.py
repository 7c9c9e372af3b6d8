"""C{bioconn trace} of handshakes with real servers: what it shows, and what it says of them."""

from __future__ import annotations

import json
import subprocess
from io import StringIO
from pathlib import Path
from typing import Any

import trustme
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest

from tests.peers.ours import PeerCase
from tests.peers.processes import reactor
from tests.peers.servers import exim
from tests.peers.with_gnutls import PRIORITIES, serv
from tests.peers.with_nginx import serving
from tests.peers.with_nginx import start as nginx
from tests.peers.with_openssl import s_server
from tests.programs import require
from twisted_bioconn._openssl import PUBLIC_API_ONLY
from twisted_bioconn.explanations import Cause
from twisted_bioconn.trace import Trace, Way, command
from twisted_bioconn.trace.command import Command
from twisted_bioconn.trace.verdict import Verdict

OLD = "DEFAULT@SECLEVEL=0"
"""Ciphers with which OpenSSL 3 speaks versions before TLS 1.2."""

TLS12 = "-tls1_2"
TLS13 = "-tls1_3"

SERVER_13 = ["ServerHello", "EncryptedExtensions", "Certificate", "CertificateVerify", "Finished"]
SERVER_12 = ["ServerHello", "Certificate", "ServerKeyExchange", "ServerHelloDone"]


class Sends(Protocol):
    """A server that says something else than TLS, and goes on as it is told to."""

    transport: Any

    def __init__(self, data: bytes = b"", end: str = "") -> None:
        self.data = data
        self.end = end

    def dataReceived(self, data: bytes) -> None:
        if self.data:
            self.transport.write(self.data)
        if self.end:
            getattr(self.transport, self.end)()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        pass


class Endless(Sends):
    """A server that sends for as long as it is listened to."""

    _begun = False

    def dataReceived(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        self.transport.write(self.data * 100)

    def stopProducing(self) -> None:
        pass


class EndlessPlaintext(Endless):
    """The same, behind TLS."""

    def connectionMade(self) -> None:
        self.dataReceived(b"")


class TraceCase(PeerCase):
    """A test of one trace."""

    async def look(self, port: int, *words: object, trust: Path | None = None) -> Verdict:
        """Trace a server on this machine; what is shown is in C{self.said} and C{self.traces}."""
        said, complaints = StringIO(), StringIO()
        argv = [f"localhost:{port}", *map(str, words)]
        if "--unsafe-skip-verification" not in argv:
            argv += ["--trust-roots", str(trust or self.material.root)]
        run = Command(argv, said, complaints)
        status = await run.run(reactor)
        self.said, self.traces = said.getvalue(), run.traces
        verdict = run.verdict
        assert verdict is not None
        self.assertEqual(status, 0 if verdict.good else 1, self.said)
        self.assertEqual(complaints.getvalue(), "")
        return verdict

    @property
    def trace(self) -> Trace:
        return self.traces[-1]

    def from_server(self, but: tuple[str, ...] = ("NewSessionTicket",)) -> list[str]:
        """The messages of the server's, but for tickets, of which there is any number."""
        return [
            each.name
            for each in self.trace.messages
            if each.way is Way.RECEIVED and each.name not in but
        ]

    def assert_good(self, verdict: Verdict, **agreed: str) -> None:
        """The handshake was done, and this is what was agreed on."""
        self.assertTrue(verdict.good, self.said)
        found = {name.replace(" ", "_"): text for name, text in verdict.agreed}
        self.assertEqual({name: found.get(name) for name in agreed}, agreed)
        self.assertIn("Good: the handshake is", self.said)

    def assert_failed(self, verdict: Verdict, cause: Cause, part: str) -> None:
        """It has failed, for this cause, and a person is told so."""
        self.assertFalse(verdict.good)
        self.assertEqual(verdict.cause, cause, verdict.sentence)
        self.assertIn(part, verdict.sentence)
        # Lines are wrapped.
        self.assertIn(f"Not good: {verdict.sentence}.", " ".join(self.said.split()))
        self.assertTrue(verdict.advice)


class GoodTests(TraceCase):
    """Handshakes that succeed."""

    def setUp(self) -> None:
        super().setUp()
        if PUBLIC_API_ONLY:
            raise SkipTest("messages are not shown on the public API")

    async def test_openssl_13(self) -> None:
        port, _ = await s_server(self, TLS13)
        verdict = await self.look(port)
        self.assert_good(verdict, version="TLS 1.3", server_name="localhost", session="new")
        self.assertEqual(self.from_server(), SERVER_13)
        chain = self.trace.message("Certificate")
        assert chain is not None
        self.assertEqual(chain.get("certificates"), 2)

    async def test_openssl_12(self) -> None:
        port, _ = await s_server(self, TLS12)
        verdict = await self.look(port)
        self.assert_good(verdict, version="TLS 1.2")
        self.assertEqual(self.from_server(), [*SERVER_12, "Finished"])
        self.assertIn("TLS 1.3", " ".join(verdict.better))

    async def test_hello_retry(self) -> None:
        """A server with a group of which the first hello has no share."""
        port, _ = await s_server(self, TLS13, "-groups", "P-384")
        verdict = await self.look(port)
        self.assert_good(verdict, key_exchange="secp384r1")
        self.assertEqual(self.from_server(), ["HelloRetryRequest", *SERVER_13])
        self.assertEqual(
            [each.name for each in self.trace.messages if each.way is Way.SENT],
            ["ClientHello", "ClientHello", "Finished"],
        )
        self.assertIn("no hello retry: the server has asked for secp384r1", verdict.better[1])

    async def test_openssl_certificate(self) -> None:
        """A server that asks for a certificate, and gets one."""
        port, _ = await s_server(self, TLS13, certificate=True)
        material = self.material
        verdict = await self.look(
            port, "--certificate", material.client, "--private-key", material.client_key
        )
        self.assert_good(verdict, version="TLS 1.3")
        self.assertIn("CertificateRequest", self.from_server())
        self.assertIn("device@example.org", self.said)

    async def test_openssl_resumed(self) -> None:
        for version in (TLS12, TLS13):
            port, _ = await s_server(self, version)
            verdict = await self.look(port, "--resume")
            self.assert_good(verdict, session="resumed")
            self.assertEqual(len(self.traces), 2)
            self.assertNotIn("Certificate", self.from_server())

    async def test_alpn(self) -> None:
        port, _ = await s_server(self, "-alpn", "h2,http/1.1")
        self.assert_good(await self.look(port, "--alpn", "http/1.1,h2"), ALPN="h2")

    async def test_gnutls(self) -> None:
        for version, text in (("TLSv1.2", "TLS 1.2"), ("TLSv1.3", "TLS 1.3")):
            port, _ = await serv(self, "--echo", "--priority", PRIORITIES[version])
            self.assert_good(await self.look(port), version=text)

    async def test_nginx(self) -> None:
        port, _ = await nginx(self, "http", f"server {{ {serving(self)} return 204; }}")
        self.assert_good(await self.look(port, "--resume"), version="TLS 1.3", session="resumed")

    async def test_node(self) -> None:
        port = await node_server(self)
        verdict = await self.look(port)
        self.assert_good(verdict, version="TLS 1.3", certificate="localhost, 127.0.0.1")

    async def test_starttls(self) -> None:
        port = (await exim(self, tls=True)).port
        self.assert_good(await self.look(port, "--starttls", "smtp"), server_name="localhost")

    async def test_json(self) -> None:
        """Each line is an object, the last one the verdict."""
        port, _ = await s_server(self, TLS13)
        await self.look(port, "--json")
        told = [json.loads(line) for line in self.said.splitlines()]
        self.assertEqual(told[0]["peer"], f"127.0.0.1:{port}")
        hello = next(each for each in told if each.get("name") == "ServerHello")
        self.assertEqual(hello["fields"]["version"], "TLS 1.3")
        self.assertEqual((told[-1]["event"], told[-1]["good"]), ("Verdict", True))


async def node_server(case: PeerCase) -> int:
    """Start a server of Node's."""
    require("node")
    script = Path(__file__).parent / "scripts" / "node.js"
    given = {
        "role": "server",
        "act": "answer",
        "version": "TLSv1.3",
        "certificate": str(case.material.server),
        "key": str(case.material.server_key),
    }
    program = case.run_program("node", script, json.dumps(given))
    match = await program.wait_for(r'"port":(\d+)')
    return int(match[1])


class FailedTests(TraceCase):
    """Handshakes that fail: each has the right cause."""

    async def test_too_old(self) -> None:
        port, _ = await s_server(self, "-tls1_1", "-cipher", OLD)
        self.assert_failed(await self.look(port), Cause.SERVER_VERSION, "TLS")

    async def test_modern(self) -> None:
        """A server of TLS 1.2 alone, where we take TLS 1.3 alone."""
        port, _ = await s_server(self, TLS12)
        verdict = await self.look(port, "--policy", "modern")
        self.assert_failed(verdict, Cause.SERVER_VERSION, "")
        # GnuTLS has no more to say of it.
        port, _ = await serv(self, "--echo", "--priority", PRIORITIES["TLSv1.2"])
        verdict = await self.look(port, "--policy", "modern")
        self.assert_failed(verdict, Cause.ALERT_HANDSHAKE_FAILURE, "")

    async def test_cipher(self) -> None:
        port, _ = await s_server(self, TLS12, "-cipher", "AES128-SHA")
        verdict = await self.look(port)
        self.assert_failed(verdict, Cause.ALERT_HANDSHAKE_FAILURE, "")

    async def test_unknown_authority(self) -> None:
        port, _ = await s_server(self)
        verdict = await self.look(port, trust=self.stranger().root)
        self.assert_failed(
            verdict, Cause.SERVER_CERTIFICATE_UNKNOWN_AUTHORITY, "leads to no authority"
        )

    async def test_expired(self) -> None:
        own = self.material.issue("late", "localhost", expired=True)
        port, _ = await s_server(self, own=own)
        self.assert_failed(await self.look(port), Cause.SERVER_CERTIFICATE_EXPIRED, " ago")

    async def test_wrong_host(self) -> None:
        port, _ = await s_server(self, own=self.material.issue("other", "elsewhere.example"))
        self.assert_failed(
            await self.look(port),
            Cause.SERVER_CERTIFICATE_WRONG_HOST,
            "it is for elsewhere.example",
        )

    async def test_rsa_at_modern(self) -> None:
        """An RSA key, where the policy has none."""
        if PUBLIC_API_ONLY:
            raise SkipTest("signature algorithms cannot be set on the public API")
        own = self.material.issue("rsa", "localhost", key_type=trustme.KeyType.RSA)
        port, _ = await s_server(self, own=own)
        verdict = await self.look(port, "--policy", "modern")
        self.assertFalse(verdict.good)
        self.assertIn("alert handshake_failure", self.said)

    async def test_pin(self) -> None:
        port, _ = await s_server(self)
        verdict = await self.look(port, "--pins", "00" * 32)
        self.assert_failed(verdict, Cause.SERVER_CERTIFICATE_PIN, "another key than was pinned")

    async def test_wants_certificate(self) -> None:
        """In TLS 1.3 it says so after our handshake is done."""
        for version in (TLS12, TLS13):
            port, _ = await s_server(self, version, certificate=True)
            verdict = await self.look(port)
            self.assertFalse(verdict.good, self.said)
            if version == TLS13:
                self.assert_failed(verdict, Cause.SERVER_WANTS_CERTIFICATE, "")

    async def test_refuses_certificate(self) -> None:
        other = self.stranger()
        port, _ = await s_server(self, TLS12, certificate=True)
        verdict = await self.look(
            port, "--certificate", other.client, "--private-key", other.client_key
        )
        self.assert_failed(verdict, Cause.SERVER_REFUSES_CERTIFICATE, "does not trust")

    async def test_gnutls_wants_certificate(self) -> None:
        port, _ = await serv(self, "--echo", certificate=True)
        verdict = await self.look(port)
        self.assert_failed(verdict, Cause.SERVER_WANTS_CERTIFICATE, "")

    async def test_plain_http(self) -> None:
        port, _ = await nginx(self, "http", "server { listen 127.0.0.1:PORT; return 204; }")
        self.assert_failed(await self.look(port), Cause.SERVER_PLAIN_HTTP, "HTTP/1.1 400")

    async def test_plain_smtp(self) -> None:
        """A server that speaks first, of a protocol in which TLS is asked for."""
        port = (await exim(self)).port
        self.assert_failed(await self.look(port), Cause.SERVER_PLAIN_SMTP, "")

    async def test_starttls_refused(self) -> None:
        port = (await exim(self)).port
        verdict = await self.look(port, "--starttls", "smtp")
        self.assertFalse(verdict.good)
        self.assertIn("has not begun with TLS", verdict.sentence)

    async def test_silent(self) -> None:
        port = await self.serve_plain(Sends())
        verdict = await self.look(port, "--timeout", "0.2")
        self.assert_failed(verdict, Cause.SERVER_TIMEOUT, "within 0.2 seconds; 0 bytes came")

    async def test_garbage(self) -> None:
        port = await self.serve_plain(Sends(bytes(range(200, 256)) * 3))
        self.assert_failed(await self.look(port), Cause.SERVER_PLAIN_OTHER, "no TLS")

    async def test_closes(self) -> None:
        port = await self.serve_plain(Sends(end="loseConnection"))
        self.assert_failed(await self.look(port), Cause.SERVER_CLOSED, "")

    async def test_resets(self) -> None:
        port = await self.serve_plain(Sends(end="abortConnection"))
        verdict = await self.look(port)
        self.assertFalse(verdict.good)
        self.assertIn(verdict.cause, (Cause.SERVER_RESET, Cause.SERVER_CLOSED))

    async def test_endless(self) -> None:
        """Records without an end, of each kind: it ends by itself, and does not keep them all."""
        empty = bytes.fromhex("1603030000")
        for record in (
            empty,
            bytes.fromhex("140303000101"),
            bytes.fromhex("15030300020178"),
            bytes.fromhex("1603034000") + bytes(0x4000),
            bytes.fromhex("1603030004") + b"\x02\xff\xff\xff",
        ):
            port = await self.serve_plain(Endless(record))
            verdict = await self.look(port, "--timeout", "2")
            self.assertFalse(verdict.good)
            self.assertLess(len(self.trace.events), 3100)

    async def test_endless_plaintext(self) -> None:
        """A server whose handshake is good, and which then sends and sends, and never closes."""
        self.patch(command, "CLOSE", 0.5)
        server = await self.serve(Factory.forProtocol(lambda: EndlessPlaintext(bytes(1000))))
        verdict = await self.look(server.port)
        self.assertTrue(verdict.good, self.said)
        self.assertLess(len(self.trace.events), 3100)

    async def test_nobody(self) -> None:
        port = await self.serve_plain(Sends())
        verdict = await self.look(1 if port != 1 else 2)
        self.assertFalse(verdict.good)
        self.assertIn("nobody answers", verdict.sentence)
        self.assertEqual(self.traces, [])

    async def test_unverified(self) -> None:
        """With verification switched off it is done, and not good."""
        port, _ = await s_server(self)
        verdict = await self.look(port, "--unsafe-skip-verification")
        self.assertFalse(verdict.good)
        self.assertIn("nobody has verified the server", verdict.sentence)


# By their numbers, as tshark has them.
_TSHARK = "tls.handshake.type"


class WiresharkTests(TraceCase):
    """tshark reads the capture file, and decrypts it."""

    async def fields(self, path: Path, *words: str) -> list[str]:
        """What tshark has of a file, by lines."""
        program = require("tshark")
        line = [program, "-n", "-r", str(path), *words]
        home = {"HOME": str(self.directory), "PATH": "/usr/bin:/bin", "LC_ALL": "C"}
        done = await deferToThread(
            subprocess.run, line, capture_output=True, text=True, env=home, check=False
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return str(done.stdout).split()

    async def agrees(self, path: Path) -> list[int]:
        """The messages that tshark has found are those that we have."""
        told = await self.fields(path, "-Y", "tls.handshake", "-T", "fields", "-e", _TSHARK)
        found = [int(each) for line in told for each in line.split(",")]
        ours = [each.number for trace in self.traces for each in trace.messages]
        if not PUBLIC_API_ONLY:
            self.assertEqual(found, ours)
        return found

    async def test_decrypts(self) -> None:
        for version, port in (
            (TLS12, (await s_server(self, TLS12))[0]),
            (TLS13, (await s_server(self, TLS13))[0]),
        ):
            path = self.directory / f"trace{version}.pcapng"
            await self.look(port, "--pcapng", path, "--unsafe-trace-secrets", "--resume")
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
            found = await self.agrees(path)
            self.assertIn(20, found)
            self.assertEqual(found.count(11), 1)
            # Both have closed: that is encrypted too.
            alerts = await self.fields(path, "-T", "fields", "-e", "tls.alert_message.desc")
            self.assertEqual(alerts, ["0"] * len(alerts))
            self.assertGreaterEqual(len(alerts), 2)
            bad = await self.fields(
                path,
                *("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"),
                *(
                    "-Y",
                    "tcp.checksum.status == 0 || ip.checksum.status == 0 || tcp.analysis.flags"
                    " || _ws.malformed",
                ),
            )
            self.assertEqual(bad, [])

    async def test_ipv6(self) -> None:
        server = await self.serve_ipv6()
        path = self.directory / "trace.pcapng"
        said = StringIO()
        argv = [f"[::1]:{server}", "--server-name", "localhost"]
        argv += ["--trust-roots", str(self.material.root), "--pcapng", str(path)]
        argv.append("--unsafe-trace-secrets")
        run = Command(argv, said, said)
        self.assertEqual(await run.run(reactor), 0, said.getvalue())
        self.traces = run.traces
        await self.agrees(path)
        self.assertEqual(set(await self.fields(path, "-T", "fields", "-e", "ipv6.src")), {"::1"})

    async def serve_ipv6(self) -> int:
        program = self.run_program(
            "openssl",
            *("s_server", "-accept", "[::1]:0", "-tls1_3", "-cert", self.material.server),
            *("-key", self.material.server_key, "-cert_chain", self.material.intermediate),
        )
        match = await program.wait_for(r"ACCEPT \S+:(\d+)\n")
        return int(match[1])

    async def test_without_secrets(self) -> None:
        """No key is in a file for which none was asked for."""
        port, _ = await s_server(self, TLS13)
        path = self.directory / "trace.pcapng"
        await self.look(port, "--pcapng", path)
        told = await self.fields(path, "-Y", "tls.handshake", "-T", "fields", "-e", _TSHARK)
        self.assertEqual(told, ["1", "2"])
        self.assertNotIn(b"SECRET", path.read_bytes())
