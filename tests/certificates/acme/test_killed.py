"""
A server with C{acme=} is killed in the middle of an order, and is started again.

It is a process that the kernel ends, at a step that it is told to die at, with C{pebble} as the
authority.  With BIOCONN_SLOW=1 in the environment it dies at every step that leaves something
behind, otherwise where there is the most to lose.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from twisted.internet import reactor as installed
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest

from tests.certificates.acme.pebble import Pebble, start_pebble
from tests.certificates.load_material import SLOW, LoadCase
from tests.peers.processes import Program, free_port
from tests.programs import require
from tests.tls_material import authority, pem
from twisted_bioconn.errors import PeerError

reactor: Any = installed

CHECKOUT = Path(__file__).parents[3]
NAME = "www.example.org"

SERVER = """
import os, signal, sys

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import globalLogBeginner, textFileLogObserver

from twisted_bioconn.certificates.acme import keeper, leases
from twisted_bioconn.certificates.acme.client import AcmeClient
from twisted_bioconn.certificates import directory_store
from twisted_bioconn.certificates.directory_store import DirectoryStore


class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)


def die(result=None):
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(kind, method, about, when, number):
    original, calls = getattr(kind, method), 0

    def call(self, *arguments, **keywords):
        nonlocal calls
        if not str(arguments[0]).startswith(about):
            return original(self, *arguments, **keywords)
        calls += 1
        if calls == number and when == "before":
            die()
        result = original(self, *arguments, **keywords)
        if calls == number:
            if not isinstance(result, Deferred):
                result = Deferred.fromCoroutine(result)
            result.addBoth(die)
        return result

    setattr(kind, method, call)


globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False)
# What a process that has died had taken is free a minute later: here it is sooner.
keeper.LEASE_SECONDS = leases.LEASE_SECONDS = 2.0
directory_store.GRACE = 0.5
keeper._LEAST_PAUSE = 1.0
text, *step = sys.argv[1:]
if step:
    kind, method, about, when, number = step
    kinds = {"authority": AcmeClient, "store": DirectoryStore}
    die_at(kinds[kind], method, about, when, int(number))


def told(result):
    print("listening" if hasattr(result, "getHost") else result, flush=True)


serverFromString(reactor, text).listen(Factory.forProtocol(Echo)).addBoth(told)
reactor.run()
"""
"""A server for an endpoint string, which may be followed by the step at which it is to die."""

STEPS = (
    ("authority", "register", "", "before", 1),
    ("authority", "register", "", "after", 1),
    ("store", "put", "acme/accounts/", "after", 1),
    ("store", "put", "acme/orders/", "after", 1),
    ("authority", "new_order", "", "after", 1),
    ("store", "put", "acme/orders/", "after", 2),
    ("store", "put", "acme/challenges/", "after", 1),
    ("authority", "answer", "", "before", 1),
    ("authority", "answer", "", "after", 1),
    ("authority", "finalize", "", "before", 1),
    ("authority", "finalize", "", "after", 1),
    ("authority", "certificates", "", "after", 1),
    ("store", "put", "acme/certificates/", "before", 1),
    ("store", "put", "acme/certificates/", "after", 1),
    ("store", "delete", "acme/orders/", "after", 1),
)
MOST_TO_LOSE = ("authority", "finalize", "", "after", 1)


class OrderCase(LoadCase):
    """
    A process that may die, and one that comes after it.

    @ivar pebble: the authority.
    @ivar state: the directory that both have their state in.
    """

    timeout = 1200

    async def prepare(self) -> None:
        """An authority that comes to our port, and nothing else yet."""
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.state = os.path.join(self.directory, "state")
        self.make_state()
        self.port = free_port()
        self.pebble: Pebble = await start_pebble(self, tls_port=self.port, authorization_reuse=0)
        roots = os.path.join(self.directory, "pebble-ca.pem")
        with open(roots, "wb") as file:
            file.write(pem(authority().certificate))
        given = {
            "interface": "127.0.0.1",
            "acme": "ops@example.org",
            "names": NAME,
            "acmeDirectory": self.pebble.directory_url,
            "acmeAuthorities": roots,
            "state": self.state,
        }
        options = ":".join(f"{key}={quoteStringArgument(value)}" for key, value in given.items())
        self.text = f"bioconn:{self.port}:{options}"

    def make_state(self) -> None:
        """Put something in the place of the directory that is to be made for the state."""

    def start(self, *step: object) -> Program:
        """Start a server, which is to die at this step."""
        command = [require("env"), f"PYTHONPATH={CHECKOUT}", sys.executable, "-c", SERVER]
        program = Program([*command, self.text, *map(str, step)], self.directory)
        self.addCleanup(program.stop)
        return program

    def kept(self, what: str) -> dict[str, str]:
        """What is in the state, by its path there, of what has this in its path."""
        found = {}
        for path, _, files in os.walk(self.state):
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o700, path)
            for each in files:
                file = os.path.join(path, each)
                self.assertEqual(stat.S_IMODE(os.stat(file).st_mode), 0o600, file)
                name = os.path.relpath(file, self.state)
                if what in name and name.endswith(".value"):
                    with open(file) as opened:
                        found[name] = opened.read()
        return found

    def told(self, pattern: str) -> list[str]:
        """What the authority has said."""
        return re.findall(pattern, self.pebble.program.said)

    async def served(self, program: Program) -> x509.Certificate:
        """Wait until a client is let in that trusts the authority alone."""
        endpoint = self.endpoint(NAME, trust_roots=[await self.pebble.root()])
        for _ in range(3000):
            self.assertFalse(program.has_ended, program.said)
            try:
                facts = await self.visit(endpoint)
            except PeerError:  # there is a stand-in
                await deferLater(reactor, 0.1)
            else:
                assert facts.peer_certificate is not None
                return facts.peer_certificate
        raise AssertionError(f"no certificate; the server has said:\n{program.said}")


class KilledTests(OrderCase):
    """It dies at a step of its order."""

    async def check(self, step: Sequence[object]) -> None:
        await self.prepare()
        dying = self.start(*step)
        self.assertEqual(await dying.ended(), -signal.SIGKILL, dying.said)
        self.assertIn("listening", dying.said)
        accounts = self.kept("accounts")
        # It is there before any authority hears of it.
        [account] = accounts.values()
        next_one = self.start()
        await next_one.wait_for("listening")
        found = await self.served(next_one)
        what = f"{step}: {next_one.said}"
        [after] = self.kept("accounts").values()
        before, now = json.loads(account), json.loads(after)
        self.assertEqual(now["key"], before["key"], what)
        self.assertIn(before["url"], (None, now["url"]), what)
        self.assertEqual(self.told(r"There are now (\d+) accounts")[-1], "1", what)
        issued = self.told("Issued certificate serial ([0-9a-f]+)")
        self.assertEqual([int(each, 16) for each in issued], [found.serial_number], what)
        self.assertLessEqual(len(self.told("There are now [0-9]+ orders")), 2, what)
        [certificate] = self.kept("certificates").values()
        self.assertEqual(json.loads(certificate)["names"], [NAME], what)
        await self.until(lambda: not self.kept("challenges"), "no answer is left")
        await next_one.stop()

    async def test_where_there_is_most_to_lose(self) -> None:
        """The authority has been told to issue, and nobody is there to hear that it has."""
        await self.check(MOST_TO_LOSE)

    async def test_each_step(self) -> None:
        """Wherever it dies, the next one finishes what there is: one account, one certificate."""
        if not SLOW:
            raise SkipTest("takes long: set BIOCONN_SLOW=1 to run it")
        for step in STEPS:
            await self.check(step)
