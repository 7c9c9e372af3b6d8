"""Tests for L{twisted_bioconn.server.parental}: SIGHUP, where workers serve."""

from __future__ import annotations

import json
import os
import re
import signal
import socket

from tests.peers.processes import free_port
from tests.server.command import Command
from tests.server.load import STARTED, Callers, LifeCase

_ECHOES = ("--factory", "echoes:Echoes")
_REPLACED = re.compile(r"which was replaced, has ended with exit status 0$")


class WorkersTests(LifeCase):
    """Ports come and go, and connections do not."""

    def begun(self, *words: str) -> tuple[Command, list[int]]:
        """
        @return: the command, and its workers.
        """
        command = self.begin("--workers", "2", "--drain", "60", *words, reconfigured=words)
        pids = [int(command.wait_for(STARTED)["pid"]) for _ in range(2)]
        return command, pids

    def replaced(self, command: Command) -> list[int]:
        """Wait until two workers have taken the place of others."""
        return [int(command.wait_for(STARTED)["pid"]) for _ in range(2)]

    def test_ports(self) -> None:
        """One that stays refuses nobody; what is gone is refused when the old workers have gone."""
        first, second, third = (f"tcp:{free_port()}:interface=127.0.0.1" for _ in range(3))
        numbers = [int(each.split(":")[1]) for each in (first, second, third)]
        before = ("--listen", first, *_ECHOES, "--listen", second, *_ECHOES)
        command, pids = self.begun(*before)
        self.until(lambda: not self.is_refused(numbers[1]))
        kept, gone = (self.pumps(5, self.plain(number)) for number in numbers[:2])
        callers = Callers(numbers[0], 100.0)
        self.addCleanup(callers.finish)
        self.until(lambda: callers.served)
        self.write(command, "--listen", first, *_ECHOES, "--listen", third, "--echo")
        os.kill(command.pid, signal.SIGHUP)
        command.wait_for(
            re.compile(f"opened --listen {third}; closed --listen {second}; 1 as before$")
        )
        new = self.replaced(command)
        self.assertFalse(set(new) & set(pids))
        with socket.create_connection(("127.0.0.1", numbers[2])) as client:
            client.sendall(b"hello")
            self.assertEqual(client.recv(10), b"hello")
        self.until(lambda: self.is_refused(numbers[1]))
        self.all_pump([*kept, *gone])
        self.assertTrue({each.served_by for each in [*kept, *gone]} <= set(pids))
        self.all_exact([*kept, *gone])
        for _ in range(2):
            command.wait_for(_REPLACED)
        callers.finish()
        self.assertEqual(callers.failures, [])
        [pump] = self.pumps(1, self.plain(numbers[0]))
        self.assertIn(pump.served_by, new)
        self.all_exact([pump])
        self.assertEqual(command.terminate(), 0)
        for number in numbers:
            self.assertTrue(self.is_refused(number))
        self.assertEqual(command.errors, [])

    def test_other_target_at_the_same_place(self) -> None:
        """It has the sockets that there are, the workers' own too, and a path stays what it is."""
        listen = f"tcp:{free_port()}:interface=127.0.0.1"
        command, _ = self.begun("--listen", listen, *_ECHOES, "--listen", "unix:app.sock", *_ECHOES)
        number = int(listen.split(":")[1])
        self.until(lambda: not self.is_refused(number))
        path = os.path.relpath(os.path.join(command.directory, "app.sock"))
        inode = os.stat(path).st_ino
        callers = Callers(number, 100.0)
        self.addCleanup(callers.finish)
        for turn in range(3):
            target = ("--factory", "echoes:More") if turn % 2 == 0 else _ECHOES
            self.write(command, "--listen", listen, *target, "--listen", "unix:app.sock", *target)
            os.kill(command.pid, signal.SIGHUP)
            command.wait_for(re.compile("is loaded anew: changed .*; 0 as before"))
            new = self.replaced(command)
            for _ in range(2):
                command.wait_for(_REPLACED)
            [pump] = self.pumps(1, self.plain(number))
            self.assertIn(pump.served_by, new)
            self.all_exact([pump])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            self.assertIn(int(client.recv(10)), new)
        self.assertEqual(os.stat(path).st_ino, inode)
        callers.finish()
        self.assertEqual(callers.failures, [])
        self.assertEqual(command.terminate(), 0)
        self.assertEqual(command.errors, [])
        self.assertEqual(os.listdir(command.directory), ["words"])

    def test_status(self) -> None:
        """What is open now is told of, with its address."""
        first, second = (f"tcp:{free_port()}:interface=127.0.0.1" for _ in range(2))
        command, _ = self.begun("--status", "unix:s.sock", "--listen", first, "--echo")
        for _ in range(2):
            command.wait_for(re.compile("status: "))
        self.write(command, "--listen", first, "--echo", "--listen", second, "--echo")
        self.hang_up(command, re.compile(f"opened --listen {second}; 1 as before$"))
        for _ in range(2):
            command.wait_for(_REPLACED)
        wanted = {f"--listen {each}": f"127.0.0.1:{each.split(':')[1]}" for each in (first, second)}

        def is_told() -> bool:
            try:
                told = json.loads(command.status("/status"))
            except OSError:
                # The new first worker waits until the old one has left the place.
                return False
            return {each["name"]: each["address"] for each in told["listeners"]} == wanted

        self.until(is_told)
        self.assertEqual(command.terminate(), 0)

    def test_all_or_none(self) -> None:
        """A mistake, or a port that cannot be had, leaves all as it was, and the workers too."""
        listen, new = (f"tcp:{free_port()}:interface=127.0.0.1" for _ in range(2))
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        other = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        command, pids = self.begun("--listen", listen, *_ECHOES)
        number = int(listen.split(":")[1])
        self.until(lambda: not self.is_refused(number))
        [pump] = self.pumps(1, self.plain(number))
        unchanged = re.compile("nothing is changed: .*")
        self.write(command, "--listen", listen, "--wbe", ".")
        self.hang_up(command, unchanged)
        self.write(command, "--listen", new, "--echo", "--listen", other, "--echo")
        self.assertEqual(self.hang_up(command, unchanged), "Address already in use")
        self.assertTrue(self.is_refused(int(new.split(":")[1])))
        [after] = self.pumps(1, self.plain(number))
        self.assertIn(after.served_by, pids)
        self.all_exact([pump, after])
        # And when it can be had, it is.
        taken.close()
        self.hang_up(command, re.compile("the configuration is loaded anew"))
        self.replaced(command)
        self.until(lambda: self.is_refused(number))
        self.plain(int(new.split(":")[1]))().close()
        self.assertEqual(command.terminate(), 0)
        self.assertEqual(command.errors, [])
