"""C{bioconn renew}, with C{pebble} as the authority: the program as it is run."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import sys
import tempfile
from pathlib import Path
from typing import Any

from cryptography import x509
from twisted.internet import reactor as installed
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.certificates.acme.pebble import Pebble, start_pebble
from tests.peers.processes import Program, free_port
from tests.programs import require
from tests.tls_material import authority, pem

reactor: Any = installed

CHECKOUT = Path(__file__).parents[3]
NAME = "www.example.org"


class RenewCommandTests(TestCase):
    """A server whose certificate is some hours old, and an operator who wants another one."""

    timeout = 110

    def setUp(self) -> None:
        # The path of a socket has a limit.
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)

    def path(self, *names: str) -> str:
        return os.path.join(self.directory, *names)

    def bioconn(self, *words: str) -> Program:
        environment = f"PYTHONPATH={CHECKOUT}"
        command = [require("env"), environment, sys.executable, "-m", "twisted_bioconn", *words]
        program = Program(command, self.directory)
        self.addCleanup(program.stop)
        return program

    async def serve(self, pebble: Pebble, *words: str) -> Program:
        options = {
            "interface": "127.0.0.1",
            "acme": "none",
            "names": NAME,
            "acmeDirectory": pebble.directory_url,
            "acmeAuthorities": self.path("authority.pem"),
            "state": self.path("state"),
        }
        described = ":".join(f"{key}={quoteStringArgument(options[key])}" for key in options)
        server = self.bioconn(
            *("--listen", f"bioconn:{self.port}:{described}", "--echo"),
            *("--status", self.path("s"), *words),
        )
        await server.wait_for(r"listening on \S+")
        return server

    def served(self) -> x509.Certificate:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", self.port))
        with context.wrap_socket(plain, server_hostname=NAME) as tls:
            found = tls.getpeercert(binary_form=True)
        assert found is not None
        return x509.load_der_x509_certificate(found)

    async def until_served(self, *others: x509.Certificate) -> x509.Certificate:
        """Wait until all workers serve a certificate of the authority's that is none of these."""
        in_turn = 0
        while True:
            found = await deferToThread(self.served)
            is_new = found.issuer != found.subject and found not in others
            in_turn = in_turn + 1 if is_new else 0
            if in_turn == 8:
                return found
            await deferLater(reactor, 0.05)

    def age(self) -> None:
        """Have the certificate be some hours older than it is."""
        [path] = Path(self.path("state", "acme")).rglob("certificates/*")
        record = json.loads(path.read_bytes())
        record["issued"] -= 7200
        path.write_text(json.dumps(record))

    async def run_it(self, *words: str) -> None:
        self.port = free_port()
        pebble = await start_pebble(self, tls_port=self.port)
        with open(self.path("authority.pem"), "wb") as file:
            file.write(pem(authority().certificate))
        server = await self.serve(pebble, *words)
        first = await self.until_served()
        asked = self.bioconn("renew", "--socket", self.path("s"))
        said = await asked.succeeded()
        self.assertRegex(said, rf"^{re.escape(NAME)}: nothing is ordered, for it was issued just")
        await self.end(server)

        self.age()
        server = await self.serve(pebble, *words)
        self.assertEqual(await self.until_served(), first)
        asked = self.bioconn("renew", "other.example.org", "--socket", self.path("s"))
        self.assertEqual(await asked.ended(), 1)
        self.assertIn("renew: no certificate is served for other.example.org", asked.said)
        asked = self.bioconn("renew", NAME, "--socket", self.path("s"))
        said = await asked.succeeded()
        self.assertEqual(
            said, f"{NAME}: another certificate is ordered from {pebble.directory_url}\n"
        )
        second = await self.until_served(first)
        self.assertEqual(second.issuer, first.issuer)
        await self.end(server)
        orders = re.findall("a new certificate from", server.said)
        self.assertEqual(len(orders), 1, server.said)
        self.assertRegex(server.said, rf"renew, asked for by .*: {re.escape(NAME)}: another")

    async def end(self, server: Program) -> None:
        assert server.transport is not None
        server.transport.signalProcess("TERM")
        self.assertEqual(await server.ended(), 0, server.said)

    async def test_one_process(self) -> None:
        await self.run_it()

    async def test_workers(self) -> None:
        """The first of them orders; the other takes it over."""
        await self.run_it("--workers", "2")
