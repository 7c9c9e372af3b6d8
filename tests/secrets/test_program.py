"""
A full run of the program, with secrets planted in all that it is given: none is in what it writes.

With BIOCONN_SLOW=1 in the environment there are runs with one process and with two, with the log as
text and as JSON, with a redis-server and C{pebble}; otherwise there is one, without these two.
"""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
from base64 import urlsafe_b64encode
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from tests.certificates.acme.pebble import start_pebble
from tests.programs import require_module
from tests.redis_server import RedisServer
from tests.secrets.planted import Finder, Secret, of_key
from tests.secrets.planting import Planted, marker
from tests.secrets.running import PATIENCE, Run
from tests.server.command import Command
from tests.server.test_handshakes import START
from tests.tls_material import authority, pem


class ProgramCase(SynchronousTestCase):
    """Runs it."""

    def directory(self) -> Path:
        require_module("acme")
        require_module("txredisapi")
        # The path of a socket is short: unix(7).
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        return Path(made.name)

    def assert_silent(self, run: Run) -> None:
        found = run.found()
        lines = [f"{where}: {sorted(what)}" for where, what in found.items()]
        self.assertEqual(found, {}, "\n".join(lines))
        # There was something to look at.
        self.assertGreater(run.traces, 10)
        self.assertGreater(len(run.outputs["stdout"]), 10_000)
        names = {each.name for each in run.finder.secrets}
        for name in ("ticket", "master secret of a session", "SERVER_TRAFFIC_SECRET_0"):
            self.assertIn(name, names)
        for name in ("t.txt", "t.json", "t.pcapng", "its.html"):
            self.assertTrue([each for each in run.outputs if each.endswith(name)], name)


class ProgramTests(ProgramCase):
    """One process, with what is there on every machine."""

    def test_brief(self) -> None:
        run = Run(self, self.directory(), log="json")
        run.run(brief=True)
        self.assert_silent(run)

    def test_found(self) -> None:
        """What is written where C{unsafe} asks for it is found: it is what is looked for."""
        run = Run(self, self.directory())
        path = run.planted.path
        log, capture = path("log"), path("unsafe.pcapng")
        words = f"bioconn:0:interface=127.0.0.1:privateKey={path('ec.pem')}"
        more = f":unsafeKeyLog={log}:trace={capture}:unsafeTraceSecrets=yes"
        command = Command(self, "--listen", words + more, "--echo")
        run.planted.ports["echo"] = command.port()
        with run.connected("echo") as tls:
            run.say(tls, "?", "?")
        command.terminate()
        finder = Finder(run.session.secrets)
        for written in (log, capture):
            found = {name for name, _ in finder.find(Path(written).read_bytes())}
            self.assertIn("CLIENT_TRAFFIC_SECRET_0", found)
            self.assertIn("SERVER_TRAFFIC_SECRET_0", found)

    def test_page(self) -> None:
        """The page that shows visitors their handshakes, and its event stream."""
        command = Command(self, start=START)
        port = command.port()
        clear, query, cookie = marker("clear"), marker("query"), marker("cookie")
        request = (
            f"GET {{}}?token={query} HTTP/1.1\r\nHost: localhost:{port}\r\n"
            f"Accept: text/html\r\nCookie: {cookie}\r\n{{}}\r\n"
        )
        keys = os.path.join(command.directory, "keys")
        context = ssl.create_default_context(cafile=command.authority)
        context.keylog_filename = keys

        def ask(path: str, *headers: str) -> ssl.SSLSocket:
            plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
            tls = context.wrap_socket(plain, server_hostname="localhost")
            self.addCleanup(tls.close)
            tls.sendall(request.format(path, "".join(f"{each}\r\n" for each in headers)).encode())
            return tls

        watching = ask("/handshakes")
        told = b"".join(iter(partial(_until_close, ask("/", "Connection: close")), b""))
        self.assertIn(b"200 OK", told)
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain:
            plain.sendall(f"GET /{clear} HTTP/1.1\r\nAuthorization: {clear}\r\n\r\n".encode())
        seen = b""
        while seen.count(b"event: handshake") < 3:
            seen += watching.recv(100_000) or self.fail("it has ended")
        self.assertIn(b"403", _until_close(ask("/", "Origin: https://evil.example")))
        command.terminate()
        secrets = [Secret(name, name.encode()) for name in (clear, query, cookie)]
        for line in Path(keys).read_text().splitlines():
            if not line.startswith("#"):
                secrets.append(Secret(line.split()[0], bytes.fromhex(line.split()[2])))
        authority_key = Path(command.authority).with_name("ca-key.pem").read_bytes()
        leaf_key = Path(command.authority).with_name("leaf.pem").read_bytes()
        for pem_of_it in (authority_key, leaf_key):
            key: Any = load_pem_private_key(pem_of_it[pem_of_it.index(b"-----BEGIN PR") :], None)
            secrets += of_key("development", key)
        finder = Finder(secrets)
        log = "\n".join([*command.lines, *command.errors]).encode()
        self.assertIn(b"GET /", log)
        for where, data in (("page", told), ("stream", seen), ("log", log)):
            self.assertEqual(finder.find(data), set(), where)


def _until_close(connection: socket.socket) -> bytes:
    connection.settimeout(PATIENCE)
    return connection.recv(100_000)


class FullTests(TestCase, ProgramCase):
    """With a redis-server that asks for a password, and an authority that asks for an account."""

    timeout = 900

    async def run_it(self, log: str, workers: int) -> None:
        if not os.environ.get("BIOCONN_SLOW"):
            raise SkipTest("takes long: set BIOCONN_SLOW=1 to run it")
        planted = Planted(self.directory())
        password = marker("redis")
        planted.plant("redis password", password)
        redis = await RedisServer.started(self, "--requirepass", password)
        hmac_key = planted.words["HMAC key"].encode()
        pebble = await start_pebble(
            self,
            eab={"kid-1": urlsafe_b64encode(hmac_key).decode().rstrip("=")},
            always_valid=True,
        )
        run = Run(
            self,
            planted.directory,
            log=log,
            workers=workers,
            redis=redis.url.replace("//", f"//:{password}@"),
            authority_url=pebble.directory_url,
            roots=planted.file("roots.pem", pem(authority().certificate)),
            planted=planted,
        )
        await deferToThread(run.run, brief=log == "text" and workers == 2)
        self.assertIn(b"a new certificate from", run.outputs["stdout"])
        self.assert_silent(run)
        await redis.kill()

    async def test_one_process(self) -> None:
        await self.run_it("text", 1)

    async def test_workers(self) -> None:
        await self.run_it("json", 2)

    async def test_workers_as_text(self) -> None:
        await self.run_it("text", 2)
