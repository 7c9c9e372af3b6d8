"""
Processes are killed at random instants: what they leave behind is whole, and the next one starts
with it, with nothing to repair by hand.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import ssl
import stat
import subprocess
import sys
import time
from typing import Any
from unittest import skipUnless

from twisted.internet import reactor as installed
from twisted.internet.task import Clock, deferLater

from tests.certificates.acme.test_killed import OrderCase
from tests.certificates.load_material import write_names
from tests.honest import PATIENCE, Figures
from tests.machine.case import MEBIBYTE, REQUESTS, SLOW, Drained, MachineCase, show
from tests.server.command import ROOT, TWISTD
from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.certificates.directory_store import DirectoryStore
from twisted_bioconn.certificates.loading import ABANDONED, CertifiedKey

KILLS = 24 if SLOW else 6
"""Of each kind; of those that take longer half as many, or a third."""

_RELOADED = re.compile("reloaded: .* certificates are served, none failed")

#: Certificates are made and written again and again, as fast as can be.
_MAKING = """
import shutil, sys
from twisted_bioconn.certificates import development
path = sys.argv[1]
number = 0
while True:
    if number == 1:
        print("begun", flush=True)
    # A place of its own each time, which the last name tells.
    authority = development.DevelopmentAuthority(f"{path}/{number}")
    authority.leaf()
    number += 1
"""

#: So are values of a store, each of which says of itself whether it is whole; and leases.
_WRITING = """
import hashlib, os, random, sys
from twisted.internet.task import Clock
from twisted_bioconn.certificates.directory_store import DirectoryStore
store = DirectoryStore(Clock(), sys.argv[1])
turn = 0
while True:
    if turn == 1:
        print("begun", flush=True)
    turn += 1
    data = os.urandom(random.randrange(1, 20000))
    value = hashlib.sha256(data).digest() + data
    name = f"acme/orders/{random.randrange(5)}"
    store.put(name, value)
    store.create(f"acme/accounts/{random.randrange(5)}", value)
    store.lease("acme/lease", 30)
    if random.random() < 0.3:
        store.delete(f"acme/accounts/{random.randrange(5)}")
"""


class KillCase(MachineCase):
    """Runs programs, and kills them."""

    kind = Drained

    def setUp(self) -> None:
        self.chance = random.Random()
        self.state = os.path.abspath(self.mktemp())

    def killed(self, program: str, latest: float = 0.1) -> None:
        """
        Run a program that writes, and kill it at some instant.

        @param latest: seconds after it has begun.
        """
        process = subprocess.Popen(
            [sys.executable, "-c", program, self.state],
            env={**os.environ, "PYTHONPATH": ROOT},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            self.assertEqual(process.stdout.readline(), b"begun\n")
            time.sleep(self.chance.uniform(0, latest))
            process.kill()
            self.assertEqual(process.wait(PATIENCE), -signal.SIGKILL)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def temporaries(self) -> list[str]:
        """The temporary files that there are."""
        return [
            os.path.join(folder, name)
            for folder, _, names in os.walk(self.state)
            for name in names
            if name.startswith(".")
        ]

    def are_private(self) -> None:
        """Nobody else may read what is secret, nor go where it is."""
        for folder, _, names in os.walk(self.state):
            self.assertEqual(stat.S_IMODE(os.stat(folder).st_mode) & 0o077, 0, folder)
            for name in names:
                path = os.path.join(folder, name)
                mode = stat.S_IMODE(os.stat(path).st_mode)
                self.assertEqual(mode, 0o644 if name == "ca.pem" else 0o600, path)

    def age(self) -> None:
        """Have all temporary files be old."""
        then = time.time() - ABANDONED - 10
        for path in self.temporaries():
            os.utime(path, (then, then))


class StateTests(KillCase):
    """What is written of the state."""

    def test_authority(self) -> None:
        """It is made with its key or not at all, and the next start makes what is missing."""
        left = 0
        for _ in range(KILLS):
            os.makedirs(self.state, mode=0o700, exist_ok=True)
            self.killed(_MAKING)
            numbers = sorted(map(int, os.listdir(self.state)))
            # The last one is the one that was being made.
            for number in numbers[-2:]:
                path = os.path.join(self.state, str(number))
                left += len(self.temporaries())
                self.assertLessEqual(len(self.temporaries()), 1)
                self.are_private()
                before = None
                if os.path.exists(os.path.join(path, "ca.pem")):
                    with open(os.path.join(path, "ca.pem"), "rb") as file:
                        before = file.read()
                authority = DevelopmentAuthority(path)
                authority.leaf()
                for name in ("ca-key.pem", "leaf.pem"):
                    CertifiedKey.from_files(os.path.join(path, name))
                if before is not None:
                    with open(authority.certificate_path, "rb") as file:
                        self.assertEqual(file.read(), before)
            self.age()
            DevelopmentAuthority(path)
            self.assertEqual(self.temporaries(), [])
            shutil.rmtree(self.state)
        show(
            f"SIGKILL x{KILLS} as an authority is made",
            f"temporary files left {left}, after the next start 0",
        )

    @skipUnless(SLOW, "takes long: set BIOCONN_SLOW=1 to run it")
    def test_store(self) -> None:
        """Each value is whole: the one of before, or the next."""
        most = 0
        for _ in range(KILLS):
            self.killed(_WRITING)
            self.are_private()
            store = DirectoryStore(Clock(), self.state)
            names = self.successResultOf(store.names(""))
            self.assertNotEqual(names, [])
            for name in names:
                value = store.get_now(name)
                assert value is not None
                self.assertEqual(hashlib.sha256(value[32:]).digest(), value[:32], name)
            most = max(most, len(self.temporaries()))
        # One for each kill, at most: what is not yet old may be somebody's.
        self.assertLessEqual(most, KILLS)
        self.age()
        store = DirectoryStore(Clock(), self.state)
        self.assertEqual(self.temporaries(), [])
        # Who has died holds its lease until it ends, and no longer.
        self.assertIsNone(self.successResultOf(store.lease("acme/lease", 30)))
        later = DirectoryStore(Clock(), self.state, now=lambda: time.time() + 60)
        self.assertIsNotNone(self.successResultOf(later.lease("acme/lease", 30)))
        show(
            f"SIGKILL x{KILLS} as a store is written",
            f"temporary files left {most}, after the next start 0",
        )


class CommandTests(KillCase):
    """The command is killed as it starts and reloads, and is started again."""

    def test_start(self) -> None:
        """At any instant from its first one on, in the place of the one that died before."""
        begun = time.monotonic()
        command = self.run_command()
        port = command.port()
        took = time.monotonic() - begun
        before = self.levels_with(command, port)
        self.kill(command)
        shutil.rmtree(self.state)
        for number in range(KILLS // 2):
            command = self.run_command()
            time.sleep(self.chance.uniform(0.3, 1.1) * took)
            self.kill(command)
            if os.path.exists(self.state):
                self.are_private()
            if number % 3 == 0:
                shutil.rmtree(self.state, ignore_errors=True)
        self.serves_well(f"SIGKILL x{KILLS // 2} as the command starts", before)

    @skipUnless(SLOW, "takes long: set BIOCONN_SLOW=1 to run it")
    def test_reload(self) -> None:
        """Within a reload of many certificates."""
        directory = os.path.abspath(self.mktemp())
        os.makedirs(directory)
        write_names(directory, 30)
        listen = f"127.0.0.1:0:certificates={directory}"
        command = self.run_command(listen)
        before = self.levels_with(command, command.port(), reload=True)
        self.kill(command)
        for _ in range(KILLS // 3):
            command = self.run_command(listen)
            # It takes signals once it serves, which is a little later than it listens.
            self.serves(command.port())
            for name in os.listdir(directory):
                os.utime(os.path.join(directory, name))
            os.kill(command.pid, signal.SIGHUP)
            time.sleep(self.chance.uniform(0, 0.2))
            self.kill(command)
        command = self.run_command(listen)
        levels = self.compare(before, self.levels_with(command, command.port(), reload=True))
        self.ends_well(command)
        self.assertEqual(len(os.listdir(directory)), 30)
        show(
            f"SIGKILL x{KILLS // 3} as the command reloads",
            "certificates served 30",
            levels=levels,
        )

    def levels_with(self, command: Drained, port: int, reload: bool = False) -> tuple[int, int]:
        """
        How many bytes and descriptors it has once honest clients have been served.

        @param reload: and once it was told to reload.
        """
        honest = self.honest(lambda: self.trusting(port))
        parts = [honest.part(REQUESTS)]
        if reload:
            os.kill(command.pid, signal.SIGHUP)
            command.wait_for(_RELOADED)
            parts.append(honest.part(REQUESTS))
        self.all_served(*parts)
        levels = self.levels([command.pid], honest)
        honest.finish()
        return levels

    def compare(self, before: tuple[int, int], after: tuple[int, int]) -> tuple[int, int]:
        """
        What is left behind takes no more of the next process than nothing does.

        @return: how many bytes and descriptors more it has.
        """
        grown, more = after[0] - before[0], after[1] - before[1]
        self.assertLess(grown, MEBIBYTE)
        self.assertEqual(more, 0)
        return grown, more

    def run_command(self, listen: str = "127.0.0.1:0") -> Drained:
        return self.command("--state", self.state, "--listen", listen, "--echo", start=TWISTD)

    def serves(self, port: int) -> None:
        """Wait until it serves."""
        with self.trusting(port) as tls:
            tls.sendall(b"x")
            self.assertEqual(tls.recv(1), b"x")

    def trusting(self, port: int) -> ssl.SSLSocket:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(self.plain(port)(), server_hostname="n00001.example.org")

    def kill(self, command: Drained) -> None:
        os.kill(command.pid, signal.SIGKILL)
        self.assertEqual(command.ended(), -signal.SIGKILL)
        self.no_traceback(command)

    def serves_well(self, case: str, before: tuple[int, int]) -> None:
        command = self.run_command()
        port = command.port()
        authority = os.path.join(self.state, "ca.pem")
        levels = self.compare(before, self.levels_with(command, port))
        honest = self.honest(lambda: command.connect(port, authority=authority))
        after = honest.part(REQUESTS)
        self.all_served(after)
        honest.finish()
        self.ends_well(command)
        self.are_private()
        show(
            case,
            f"temporary files left {len(self.temporaries())}",
            (Figures(), Figures(), after),
            levels,
        )


class OrderTests(OrderCase):
    """A server is killed at any instant of its order, and the next one goes on."""

    async def test_order(self) -> None:
        """Its order is neither lost nor made twice: there is one account, and one certificate."""
        kills = KILLS // 3
        await self.prepare()
        chance = random.Random()
        reactor: Any = installed
        for _ in range(kills):
            program = self.start()
            await program.wait_for("listening")
            await deferLater(reactor, chance.uniform(0, 3))
            await program.stop()
            self.kept("")
            self.assertNotIn("Traceback", program.said)
        program = self.start()
        await program.wait_for("listening")
        found = await self.served(program)
        self.assertNotIn("Traceback", program.said)
        self.assertEqual(len(self.kept("accounts")), 1)
        self.assertEqual(self.told(r"There are now (\d+) accounts")[-1], "1")
        issued = self.told("Issued certificate serial ([0-9a-f]+)")
        self.assertEqual([int(each, 16) for each in issued], [found.serial_number])
        orders = int(self.told(r"There are now (\d+) orders")[-1])
        self.assertLessEqual(orders, kills + 1)
        self.assertEqual(len(self.kept("certificates")), 1)
        await self.until(lambda: not self.kept("challenges"), "no answer is left")
        show(
            f"SIGKILL x{kills} within an ACME order", f"accounts 1, certificates 1, orders {orders}"
        )
        await program.stop()
