"""
The whole program, run with secrets planted in all that it is given, and all that it writes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from OpenSSL._util import ffi, lib
from twisted.trial.unittest import SynchronousTestCase

from tests.secrets.planted import Finder, Secret, of_key
from tests.secrets.planting import Planted
from tests.server.command import MODULE, ROOT, Command
from tests.tls_material import HOST

PATIENCE = 200.0
"""Seconds in which a server has to do what is waited for."""


#: What is said before TLS begins in mid-connection.
DIALOGUES = {
    "smtp": ("EHLO x{secret}", "AUTH PLAIN {plain}", "EHLO x", "STARTTLS"),
    "imap": ("a LOGIN me {secret}", "b {secret}", "c STARTTLS"),
    "pop3": ("USER me", "PASS {secret}", "STLS"),
}


class Session:
    """
    What a client keeps of its TLS sessions: the tickets, and the secrets of each connection.
    """

    def __init__(self, planted: Planted) -> None:
        self.planted = planted
        self.log = Path(planted.path("client-keys"))
        self.tickets: list[Secret] = []

    def context(self, pair: str | None = None, version: int | None = None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=self.planted.path("ca.pem"))
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
        made.keylog_filename = str(self.log)
        if version is not None:
            made.maximum_version = ssl.TLSVersion(version)
        if pair is not None:
            made.load_cert_chain(self.planted.path(pair))
        return made

    def resume(self, port: int, version: int) -> None:
        """Connect, be given tickets, and connect again with the last of them."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(version)
        context.set_keylog_callback(self._note)
        session = None
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain:
                plain.settimeout(None)
                client = SSL.Connection(context, plain)
                client.set_tlsext_host_name(HOST.encode())
                if session is not None:
                    client.set_session(session)
                client.set_connect_state()
                client.do_handshake()
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                client.recv(1000)
                session = client.get_session()
                assert session is not None
                self._keep(session)
                client.shutdown()

    def _note(self, _: SSL.Connection, line: bytes) -> None:
        with self.log.open("ab") as file:
            file.write(line + b"\n")

    def _keep(self, session: SSL.Session) -> None:
        size = lib.i2d_SSL_SESSION(session._session, ffi.NULL)
        octets = ffi.new("unsigned char[]", size)
        lib.i2d_SSL_SESSION(session._session, ffi.new("unsigned char **", octets))
        # ssl_asn1.c: the master secret is the third OCTET STRING, [10] has the ticket.
        strings = list(_octet_strings(bytes(ffi.buffer(octets, size))))
        self.tickets.append(Secret("master secret of a session", strings[2][1]))
        self.tickets += [Secret("ticket", value) for tag, value in strings if tag == 0xAA]

    @property
    def secrets(self) -> list[Secret]:
        found = [*self.tickets]
        for line in self.log.read_text().splitlines():
            if line.startswith("#"):
                continue
            label, _, value = line.split()
            found.append(Secret(label, bytes.fromhex(value)))
        return found


def _octet_strings(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The OCTET STRINGs in DER, each with the tag that it is in; C{4} where that is none."""
    place = 0
    while place < len(data):
        tag, size, place = data[place], data[place + 1], place + 2
        if size & 0x80:
            count = size & 0x7F
            size, place = int.from_bytes(data[place : place + count], "big"), place + count
        value, place = data[place : place + size], place + size
        if tag == 4:
            yield tag, value
        elif tag & 0x20:
            for inner, octets in _octet_strings(value):
                yield (tag if inner == 4 and tag != 0x30 else inner), octets


_KEY = re.compile(rb"-----BEGIN [A-Z ]*KEY-----.*?-----END[^\n]*\n?", re.DOTALL)


class Run:
    """
    The program with all that is planted, from its start to its end.

    @ivar outputs: what it has written, by where.
    """

    def __init__(
        self,
        case: SynchronousTestCase,
        directory: Path,
        *,
        log: str = "text",
        workers: int = 1,
        redis: str | None = None,
        authority_url: str = "https://127.0.0.1:1/",
        roots: str | None = None,
        planted: Planted | None = None,
    ) -> None:
        self.case = case
        self.planted = planted or Planted(directory)
        self.session = Session(self.planted)
        self.outputs: dict[str, bytes] = {}
        self.traces = 0
        self.log = log
        config = self.planted.configuration(
            log, workers, redis, authority_url, roots or self.planted.path("ca.pem")
        )
        self.config = self.planted.file("bioconn.toml", config.encode())
        self.temporary = directory / "temporary"
        self.temporary.mkdir()
        self.shared = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
        before = dict(os.environ)
        os.environ["TMPDIR"] = str(self.temporary)
        case.addCleanup(lambda: os.environ.update({"TMPDIR": before.get("TMPDIR", "")}))
        if "TMPDIR" not in before:
            case.addCleanup(os.environ.pop, "TMPDIR", None)
        self.ports = self.planted.ports

    # The program

    def start(self) -> None:
        self.command = Command(
            self.case, "--config", self.config, python_path=[self.planted.path("modules")]
        )
        # It has more to say than a pipe holds.
        self.reader = Thread(target=self.command.ended)
        self.reader.start()
        self.until(self.is_ready)

    def is_ready(self) -> bool:
        if not self.command.is_running:
            raise AssertionError(f"it has ended: {self.command.lines}\n{self.command.errors}")
        try:
            return self.command.status("/readyz") == "ready\n"
        except (OSError, http.client.HTTPException):
            return False

    def until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            self.case.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)

    def status(self) -> Any:
        told = json.loads(self.command.status("/status"))
        self.case.assertNotIn("error", told)
        return told

    def reload(self) -> None:
        os.kill(self.command.pid, signal.SIGHUP)
        self.until(lambda: "cut.pem" in self.command.status("/certificates"))

    def bioconn(self, name: str, *words: str) -> bytes:
        """Run another command, and keep what it writes."""
        environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{self.planted.path('modules')}"}
        done = subprocess.run(
            [sys.executable, *MODULE, *words],
            cwd=self.command.directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        self.outputs[name] = done.stdout
        return done.stdout

    # Its clients

    @contextlib.contextmanager
    def connected(
        self,
        name: str,
        pair: str | None = None,
        host: str = HOST,
        version: int | None = None,
        before: Callable[[socket.socket], object] | None = None,
    ) -> Iterator[ssl.SSLSocket]:
        with socket.create_connection(("127.0.0.1", self.ports[name]), PATIENCE) as plain:
            if before is not None:
                before(plain)
            context = self.session.context(pair, version)
            with context.wrap_socket(plain, server_hostname=host) as tls:
                yield tls

    def visit(self) -> None:
        """What goes as it should."""
        words = self.planted.words
        answer = self.request("GET", f"/?token={words['query']}")
        self.case.assertIn(words["answer"].encode(), answer)
        self.case.assertIn(words["answer"].encode(), self.request("POST", "/", words["body"]))
        with self.connected("development") as tls:
            self.say(tls, words["echoed"], words["echoed"])
        for host in ("p.example", "d.example"):
            with self.connected("relay", host=host) as tls:
                self.say(tls, words["relayed"], words["relayed"])
        with self.connected("clients", "client.pem") as tls:
            self.say(tls, words["relayed"], words["relayed"])
        with self.connected("web") as tls:
            tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
            self.case.assertIn(words["file"].encode(), self.rest(tls))
        for name in ("smtp", "imap", "pop3"):
            with self.connected(name, before=self.starttls(name)) as tls:
                self.say(tls, words["after STARTTLS"], words["after STARTTLS"])
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            self.session.resume(self.ports["wsgi"], version)

    def say(self, tls: ssl.SSLSocket, text: str, expected: str) -> None:
        tls.sendall(text.encode())
        heard = b""
        while len(heard) < len(expected.encode()):
            heard += tls.recv(10000) or self.case.fail(f"{heard!r}")
        self.case.assertEqual(heard, expected.encode())

    def rest(self, tls: socket.socket) -> bytes:
        heard = b""
        with contextlib.suppress(OSError):
            while data := tls.recv(10000):
                heard += data
        return heard

    def request(self, method: str, path: str, body: str = "") -> bytes:
        """A request with credentials."""
        words = self.planted.words
        lines = [
            f"{method} {quote(path, safe='/?=&')} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {words['authorization']}",
            f"Cookie: sid={words['cookie']}",
            f"Content-Length: {len(body.encode())}",
            "Connection: close",
            "",
            body,
        ]
        with self.connected("wsgi") as tls:
            tls.sendall("\r\n".join(lines).encode())
            return self.rest(tls)

    def starttls(self, name: str) -> Callable[[socket.socket], None]:
        """What is said before TLS; first something that has no place there."""
        secret = self.planted.words["before TLS"]
        plain = b64encode(f"\0me\0{secret}".encode()).decode()

        def before(connection: socket.socket) -> None:
            connection.recv(1000)
            for line in DIALOGUES[name]:
                connection.sendall(line.format(secret=secret, plain=plain).encode() + b"\r\n")
                while not connection.recv(1000).endswith(b"\n"):
                    pass

        return before

    def crash(self) -> None:
        """The application crashes, with what it was sent and what it has at hand."""
        for path in ("/crash", "/nothing", "/bad", "/late"):
            words = self.planted.words
            self.request("POST", f"{path}?token={words['query']}", words["body"])
        for how in "edltaw" * 2:
            with contextlib.suppress(OSError), self.connected("factory") as tls:
                tls.sendall(f"{how}{self.planted.words['crashing']}".encode())
                tls.settimeout(0.3)
                self.rest(tls)

    def fail(self) -> None:
        """Handshakes, and what comes before them, that go wrong in many ways."""
        words = self.planted.words
        clear = words["in the clear: request"]
        http_request = (
            f"GET /it?token={clear} HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Basic {clear}\r\nCookie: {clear}\r\n\r\n"
        )
        garbage, injected = words["in the clear: garbage"], words["in the clear: injected"]
        hello = b"\x16\x03\x01\x00\x20\x01\x00\x00\x1c\x03\x03"
        record = b"\x16\x03\x01\x40\x00" + garbage.encode() * 100
        says = (
            http_request.encode(),
            garbage.encode(),
            hello + garbage.encode(),
            record,
            b"\x15\x03\x03\x00\x02\x02\x28" + garbage.encode(),
            b"\x80\x2e\x01\x00\x02" + garbage.encode(),
            f"{garbage}\r\n".encode() * 20,
            f"EHLO {garbage}\r\nSTARTTLS\r\n{injected}\r\n".encode(),
            f"a LOGIN {garbage} x\r\na STARTTLS\r\nb {injected}\r\n".encode(),
            f"USER {garbage}\r\nPASS {garbage}\r\nSTLS\r\n{injected}\r\n".encode(),
            f"<stream:stream to='{garbage}' xmlns:stream='x'><{garbage[:8]}".encode(),
        )
        with contextlib.ExitStack() as held:
            for name, port in self.ports.items():
                for said in says:
                    held.enter_context(self.throw(port, said))
                if name == "xmpp":
                    # It waits for what it is to be told first.
                    continue
                others: tuple[dict[str, Any], ...]
                others = {"host": "nowhere.example"}, {"pair": "stranger.pem"}, {}
                for more in others:
                    before = self.starttls(name) if name in DIALOGUES else None
                    with (
                        contextlib.suppress(OSError),
                        self.connected(name, before=before, **more) as tls,
                    ):
                        tls.sendall(http_request.encode())
                        tls.settimeout(0.2)
                        self.rest(tls)
                if name not in DIALOGUES:
                    self.damage(name, garbage)
            with contextlib.suppress(OSError), self.connected("dead") as tls:
                tls.sendall(http_request.encode())
                self.rest(tls)
            # All have failed, by their ends or by time.
            self.until(lambda: self.status()["connections"]["open"] == 0)

    def throw(self, port: int, data: bytes) -> socket.socket:
        """Say something, and no more."""
        plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
        plain.sendall(data)
        plain.shutdown(socket.SHUT_WR)
        return plain

    def damage(self, name: str, garbage: str) -> None:
        """A connection whose records are damaged once the handshake is done."""
        at = "127.0.0.1", self.ports[name]
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.session.context().wrap_bio(incoming, outgoing, server_hostname=HOST)
        with contextlib.suppress(OSError), socket.create_connection(at, PATIENCE) as plain:
            plain.settimeout(0.5)
            for _ in range(10):
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(plain.recv(20000))
            tls.write(garbage.encode())
            sent = bytearray(outgoing.read())
            sent[-1] ^= 1
            plain.sendall(sent + b"\x17\x03\x03\x00\x40" + garbage.encode())
            self.rest(plain)

    # What it writes

    def ask(self) -> None:
        """All that the status tells, of each process."""
        places = [p for p in os.listdir(self.command.directory) if p.startswith("s.sock")]
        for place in places:
            for path in (
                *("/", "/status", "/history", "/connections", "/certificates", "/failures"),
                *("/healthz", "/readyz", "/metrics", "/nowhere"),
            ):
                self.outputs[f"{place} {path}"] = self.command.status(path, place).encode()
            failures = json.loads(self.command.status("/failures", place))["failures"]
            traces = [each["trace"] for each in failures if each["trace"] is not None]
            self.traces += len(traces)
            for trace in traces:
                text = self.command.status(f"/trace?of={trace}", place)
                self.outputs[f"{place} the trace {trace}"] = text.encode()

    def control(self, brief: bool) -> None:
        """What the commands print."""
        at = ("--socket", "s.sock")
        names = ("status", "failures", "renew", "connections", "certificates")
        for name in names[: 3 if brief else None]:
            self.bioconn(f"bioconn {name}", name, *at)
        for name in () if brief else ("status", "failures", "certificates"):
            self.bioconn(f"bioconn {name} --json", name, "--json", *at)
        port = f"127.0.0.1:{self.ports['clients']}"
        pair = ("--certificate", self.planted.path("client.pem"), "--server-name", HOST)
        roots = ("--trust-roots", self.planted.path("ca.pem"))
        files = ("--html", "its.html", "--pcapng", "its.pcapng")
        ways = ("--verbose", *files), ("--json", "--resume"), ("--policy", "modern")
        for number, more in enumerate(ways[: 1 if brief else None]):
            said = self.bioconn(f"bioconn trace {number}", "trace", *pair, *roots, *more, port)
            self.case.assertIn(b"TLS", said)
        if not brief:
            self.bioconn("bioconn trace, sealed", "trace", *self.sealed("wrong-password"), port)

    def sealed(self, password: str) -> tuple[str, ...]:
        path = self.planted.path
        return (
            *("--certificate", path("sealed.crt"), "--private-key", path("sealed.key")),
            *("--passphrase-file", path(password), "--unsafe-skip-verification"),
        )

    def inspect(self, brief: bool) -> None:
        """What is printed of a configuration, with no server."""
        ways = ("--check", "--dump"), ("--check",), ("--show-certificates",), ("--explain", HOST)
        for words in ways[: 1 if brief else None]:
            self.bioconn(f"bioconn {words}", "--config", self.config, *words)

    def mistake(self, brief: bool) -> None:
        """What is said where it cannot start."""
        path = self.planted.path
        chain = f"certKey={path('sealed.crt')}"
        ways = (
            ("sealed.key", f"{chain}:passphraseFile={path('wrong-password')}"),
            ("sealed.key", chain),
            ("certificates/cut.pem", chain),
            ("certificates/der.pem", chain),
            ("certificates/p.p12", f"passphraseFile={path('wrong-password')}"),
            ("key-password", "acme=none"),
            ("binding", f"certKey={path('phrase')}"),
            ("ec.pem", f"acme=none:names=a.example:acmeBinding={path('swapped')}"),
            ("", f"acme=none:names=a.example:acmeBinding={path('swapped')}"),
            ("", f"acme=none:names=a.example:acmeBinding={path('phrase')}"),
            ("ec.pem", f"clientAuthorities={path('phrase')}"),
            ("ec.pem", f"crl={path('key-password')}:clientAuthorities={path('ca.pem')}"),
        )
        words = []
        for key, more in ways:
            given = f"privateKey={path(key)}:{more}" if key else more
            words += ["--listen", f"bioconn:0:{given}", "--echo"]
        starts: list[tuple[str, list[str]]] = [("the start", []), ("--check", ["--check"])]
        for name, first in starts[: 1 if brief else None]:
            said = self.bioconn(f"{name} of what is wrong", *first, *words)
            self.case.assertGreaterEqual(said.count(b"\n"), len(ways), said)
            self.case.assertNotIn(b"Traceback", said)

    def look_at_processes(self) -> None:
        """What everybody on the machine, and who it belongs to, see of it."""
        for pid in self.pids():
            for name in ("cmdline", "environ", "comm", "status", "maps", "mountinfo"):
                with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
                    self.outputs[f"/proc/{pid}/{name}"] = file.read()

    def pids(self) -> list[int]:
        found = [self.command.pid]
        for pid in found:
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
                found += map(int, file.read().split())
        return found

    def end(self) -> None:
        self.command.stop()
        self.reader.join(PATIENCE)
        self.outputs["stdout"] = "\n".join(self.command.lines).encode()
        self.outputs["stderr"] = "\n".join(self.command.errors).encode()

    def look_at_files(self) -> None:
        """All that it has left."""
        own = {Path(self.command.directory), self.temporary}
        named = [each for each in self.planted.directory.glob("t*.*") if each.is_file()]
        for top in own:
            named += [each for each in top.rglob("*") if each.is_file()]
        for each in named:
            self.outputs[str(each)] = each.read_bytes()
        if os.path.isdir("/dev/shm"):
            for name in set(os.listdir("/dev/shm")) - self.shared:
                with contextlib.suppress(OSError):
                    self.outputs[f"/dev/shm/{name}"] = Path("/dev/shm", name).read_bytes()

    def run(self, brief: bool) -> None:
        """All of it."""
        self.start()
        self.visit()
        self.crash()
        self.fail()
        self.planted.spoil()
        self.reload()
        self.look_at_processes()
        self.ask()
        self.control(brief)
        self.end()
        self.inspect(brief)
        self.mistake(brief)
        self.look_at_files()

    # What must not be there

    def state_keys(self) -> list[Secret]:
        """The keys that it has made, which are in files of theirs."""
        found: list[Secret] = []
        for path in Path(self.command.state).rglob("*"):
            data = path.read_bytes() if path.is_file() else b""
            texts = [data, *(_json_texts(data))]
            for text in texts:
                for block in _KEY.findall(text):
                    key: Any = load_pem_private_key(block, None)
                    found += of_key(f"state: {path.name}", key)
        return found

    def found(self) -> dict[str, set[tuple[str, str]]]:
        """The secrets that are somewhere, by where."""
        state = self.state_keys()
        finder = Finder([*self.planted.secrets, *self.session.secrets, *state])
        self.finder = finder
        found = {}
        for where, data in self.outputs.items():
            there = finder.find(data)
            if where.startswith(self.command.state):
                # Files of keys have their own keys in them.
                there = {each for each in there if not each[0].startswith("state: ")}
            if where.endswith(".pcapng"):
                # What crossed the wire, where tickets are in the clear when they are taken, and
                # what was said in the clear to a port for TLS.
                there = {
                    each for each in there if not each[0].startswith(("ticket", "in the clear"))
                }
            if there:
                found[where] = there
        return found


def _json_texts(data: bytes) -> Iterator[bytes]:
    with contextlib.suppress(ValueError):
        told = json.loads(data)
        if isinstance(told, dict):
            yield from (each.encode() for each in told.values() if isinstance(each, str))
