"""A new version in the place of the old one, with no connection refused."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import trustme
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tests.peers.processes import free_port
from tests.server.command import DAEMON
from tests.server.load import ECHO, Callers, LifeCase
from twisted_bioconn.server.upgrade import (
    START_SECONDS,
    VARIABLE,
    Listening,
    Predecessor,
    Progress,
    Successor,
)


class UpgradeTests(LifeCase):
    """SIGUSR2."""

    def test_status(self) -> None:
        """Somebody tells it at each moment: the old one, until the new one does."""
        command = self.begin("--status", "unix:s.sock", *ECHO)
        command.wait_for(re.compile(r"status: .*s\.sock$"))
        told: list[str] = []
        failures: list[Exception] = []
        enough = Event()

        def ask() -> None:
            while not enough.is_set():
                try:
                    told.append(command.status("/readyz"))
                except Exception as error:
                    failures.append(error)
                enough.wait(0.01)

        asking = Thread(target=ask)
        asking.start()
        self.addCleanup(asking.join, 300)
        self.addCleanup(enough.set)
        self.until(lambda: told)
        os.kill(command.pid, signal.SIGUSR2)
        self.succeeded(command)
        self.assertEqual(self.status_of(command), 0)
        count = len(told)
        self.until(lambda: len(told) > count + 5)
        enough.set()
        asking.join(300)
        self.assertEqual(failures, [])
        self.assertEqual(told[-1], "ready\n")
        # The name in the file system is the new one's: it goes with that.
        self.assertTrue(os.path.exists(os.path.join(command.directory, "s.sock")))

    def test_under_load(self) -> None:
        """None is refused, none is cut, and what the old one has goes on there to its end."""
        for workers in ("1", "2"):
            command = self.begin("--workers", workers, *ECHO)
            port = command.port()
            pumps = self.pumps(5, self.plain(port))
            callers = [Callers(port, 50.0) for _ in range(4)]
            for each in callers:
                self.addCleanup(each.finish)
            self.all_pump(pumps)
            os.kill(command.pid, signal.SIGUSR2)
            new = self.succeeded(command)
            self.all_pump(pumps)
            old = {pump.served_by for pump in pumps}
            self.until(lambda: all(set(each.served) - old for each in callers))  # noqa: B023
            self.all_exact(pumps)
            self.assertEqual(self.status_of(command), 0)
            for each in callers:
                each.finish()
            self.assertEqual([each.failures for each in callers], [[]] * 4)
            self.assertGreater(sum(sum(each.served.values()) for each in callers), 50)
            # And once more, of a process that is itself one that came later.
            [pump] = self.pumps(1, self.plain(port))
            os.kill(new, signal.SIGUSR2)
            newest = self.succeeded(command)
            self.all_pump([pump])
            self.all_exact([pump])
            self.until(lambda: self.is_gone(new))  # noqa: B023
            os.kill(newest, signal.SIGTERM)
            self.until(lambda: self.is_gone(newest))  # noqa: B023
            self.until(lambda: self.is_refused(port))  # noqa: B023
            self.assertEqual(command.errors, [])

    def test_new_one_that_cannot_start(self) -> None:
        """The old one says why, and goes on; and does it when asked again."""
        for workers in ("1", "2"):
            pair = os.path.abspath(self.mktemp())
            authority = trustme.CA()
            authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pair)
            listen = f"bioconn:0:interface=127.0.0.1:privateKey={pair}"
            command = self.begin("--workers", workers, "--listen", listen, *ECHO[2:])
            port = command.port()
            context = ssl.create_default_context()
            authority.configure_trust(context)

            def connect() -> socket.socket:
                plain = socket.create_connection(("127.0.0.1", port))  # noqa: B023
                return context.wrap_socket(plain, server_hostname="localhost")  # noqa: B023

            [pump] = self.pumps(1, connect)
            os.rename(pair, pair + ".away")
            os.kill(command.pid, signal.SIGUSR2)
            said = command.wait_for(re.compile("has not started, and this one goes on: (.*)$"))[1]
            self.assertIn(f"bioconn: --listen {listen}: ", said)
            self.assertIn("it has ended with 1", said)
            self.all_pump([pump])
            self.all_exact([pump])
            os.rename(pair + ".away", pair)
            [pump] = self.pumps(1, connect)
            os.kill(command.pid, signal.SIGUSR2)
            new = self.succeeded(command)
            self.all_pump([pump])
            self.all_exact([pump])
            self.assertEqual(self.status_of(command), 0)
            os.kill(new, signal.SIGTERM)
            self.until(lambda: self.is_gone(new))  # noqa: B023

    def test_shutdown_meanwhile(self) -> None:
        """The new version does not stay where the old one is told to end."""
        command = self.begin(*ECHO)
        self.all_exact(self.pumps(1, self.plain(command.port())))
        with open(self.module, "a") as file:
            file.write(
                "import time\nprint('pid', os.getpid(), 'is slow', flush=True)\ntime.sleep(100)\n"
            )
        os.kill(command.pid, signal.SIGUSR2)
        new = int(command.wait_for(re.compile(r"pid (\d+) is slow"))[1])
        self.end_later(new)
        os.kill(command.pid, signal.SIGUSR2)
        command.wait_for(re.compile("SIGUSR2 is ignored: the service is being replaced"))
        os.kill(command.pid, signal.SIGHUP)
        command.wait_for(re.compile("SIGHUP is ignored: the service is being replaced"))
        os.kill(command.pid, signal.SIGTERM)
        self.assertEqual(self.status_of(command), 0)
        self.until(lambda: self.is_gone(new))

    def test_socket_in_the_file_system(self) -> None:
        """It stays where it is, with the new one, and goes with that one."""
        for workers in ("1", "2"):
            listen = ("--listen", "unix:app.sock:mode=600")
            command = self.begin("--workers", workers, *listen, *ECHO[2:])
            path = os.path.relpath(os.path.join(command.directory, "app.sock"))

            def connect() -> socket.socket:
                client = socket.socket(socket.AF_UNIX)
                client.connect(path)  # noqa: B023
                return client

            self.until(lambda: os.path.lexists(path + ".lock"))  # noqa: B023
            command.wait_for(re.compile(r"(worker 1: pid \d+|listening on .*)$"))
            self.until(lambda: self.answers(connect))
            [pump] = self.pumps(1, connect)
            inode = os.stat(path).st_ino
            os.kill(command.pid, signal.SIGUSR2)
            new = self.succeeded(command)
            self.all_pump([pump])
            [other] = self.pumps(1, connect)
            self.assertNotEqual(other.served_by, pump.served_by)
            self.all_exact([pump, other])
            self.assertEqual(self.status_of(command), 0)
            found = os.stat(path)
            self.assertEqual((found.st_ino, found.st_mode & 0o777), (inode, 0o600))
            self.assertEqual(os.readlink(path + ".lock"), str(new))
            self.all_exact(self.pumps(1, connect))
            os.kill(new, signal.SIGTERM)
            self.until(lambda: self.is_gone(new))  # noqa: B023
            self.assertEqual(os.listdir(command.directory), [])

    def answers(self, connect: Callable[[], socket.socket]) -> bool:
        with contextlib.suppress(OSError):
            connect().close()
            return True
        return False

    def test_daemon(self) -> None:
        """The pid file names who serves: the new one at once, the old one where there is none."""
        port = free_port()
        listen = f"tcp:{port}:interface=127.0.0.1"
        for workers in ("1", "2"):
            words = ("--workers", workers, "--listen", listen, *ECHO[2:])
            command = self.begin(*words, start=DAEMON)
            self.assertEqual(command.ended(), 0)
            self.assertEqual((command.lines, command.errors), ([], []))

            def path(name: str) -> str:
                return os.path.join(command.directory, name)  # noqa: B023

            def read(name: str) -> str:
                with open(path(name)) as file:
                    return file.read()

            old = int(read("its.pid"))
            self.end_later(old)
            [pump] = self.pumps(1, self.plain(port))
            # One that is not there any more cannot be started again.
            os.rename(self.module, self.module + ".away")
            os.kill(old, signal.SIGUSR2)
            self.until(lambda: "has not started" in read("its.log"))
            self.assertIn("there is no module echoes", read("its.log"))
            self.assertEqual(int(read("its.pid")), old)
            os.rename(self.module + ".away", self.module)
            os.kill(old, signal.SIGUSR2)
            self.until(lambda: "the new version serves" in read("its.log"))
            new = int(read("its.pid"))
            self.end_later(new)
            self.assertNotEqual(new, old)
            self.all_pump([pump])
            self.all_exact([pump])
            self.until(lambda: self.is_gone(old))  # noqa: B023
            self.assertEqual(int(read("its.pid")), new)
            self.all_exact(self.pumps(1, self.plain(port)))
            os.kill(new, signal.SIGTERM)
            self.until(lambda: self.is_gone(new))  # noqa: B023
            self.assertEqual(os.listdir(command.directory), ["its.log"])


class SuccessorTests(SynchronousTestCase):
    """The new version, as the old one sees it: here it is a program of a few lines."""

    def start(self, program: str, twistd: dict[str, Any] | None = None) -> Successor:
        self.patch(sys, "orig_argv", [sys.executable, "-c", program])
        successor = Successor(twistd)
        successor.start([], os.getcwd())
        process = successor._process
        assert process is not None
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return successor

    def hear(self, successor: Successor) -> Progress:
        while successor.progress is Progress.STARTING:
            self.assertTrue(select.select([successor], [], [], 300)[0])
            successor.hear()
        return successor.progress

    def test_reasons(self) -> None:
        """What it has said in a message, or on stderr at last, or that it has said nothing."""
        say = f"import json, os, socket; link = json.loads(os.environ[{VARIABLE!r}])['link'];"
        say += "link = socket.socket(fileno=link);"
        for program, reason in (
            ("raise SystemExit('one\\ntwo')", "two (it has ended with 1)"),
            ("1 / 0", "ZeroDivisionError: division by zero (it has ended with 1)"),
            ("", "it has ended with 0"),
            ("import os; os.kill(os.getpid(), 9)", "it has ended with -9"),
            (say + """link.sendall(b'{"failed": "no luck"}\\n'); link.recv(1)""", "no luck"),
            (say + """link.sendall(b'nonsense\\n'); link.close()""", "it has ended with 0"),
        ):
            successor = self.start(program)
            self.assertIs(self.hear(successor), Progress.FAILED)
            self.assertEqual(successor.reason, reason)
            self.assertEqual(successor.fileno(), -1)

    def test_pid_file(self) -> None:
        """It has another name until there is one that serves, and its own again if none does."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("1")
        twistd = {"pidfile": path}
        successor = self.start("import sys; sys.stdin.read()", twistd)
        self.assertEqual([os.path.exists(each) for each in (path, path + ".old")], [False, True])
        successor.give_up("it is too late")
        self.assertEqual([os.path.exists(each) for each in (path, path + ".old")], [True, False])
        self.assertEqual(twistd, {"pidfile": path})

    def test_cannot_be_started(self) -> None:
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("1")
        self.patch(sys, "executable", os.path.abspath("absent"))
        self.patch(sys, "orig_argv", ["absent"])
        successor = Successor({"pidfile": path})
        self.assertRaises(OSError, successor.start, [], os.getcwd())
        self.assertTrue(os.path.exists(path))

    def test_late(self) -> None:
        """It has a time in which to start."""
        clock = MemoryReactorClock()
        successor = self.start("import time; time.sleep(100)")
        told: list[Progress] = []
        Listening(clock, successor, lambda: told.append(successor.progress))
        clock.advance(START_SECONDS - 1)
        self.assertEqual((told, len(clock.readers)), ([], 1))
        clock.advance(2)
        self.assertEqual((told, len(clock.readers)), ([Progress.FAILED], 0))
        self.assertIn("not opened its ports in 60 s", successor.reason)
        assert successor._process is not None
        self.assertEqual(successor._process.wait(300), -signal.SIGTERM)


class PredecessorTests(SynchronousTestCase):
    """The old version, as the new one sees it."""

    def pair(self) -> tuple[socket.socket, Predecessor]:
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        environ = {
            VARIABLE: json.dumps(
                {"link": theirs.detach(), "stderr": os.open(os.devnull, os.O_RDWR), "sockets": []}
            )
        }
        predecessor = Predecessor.from_environment(environ)
        assert predecessor is not None
        # What we start in turn has nothing to do with it.
        self.assertEqual(environ, {})
        # Which is for a process, and not for that of a test.
        self.patch(predecessor, "restore_stderr", lambda: None)
        return ours, predecessor

    def test_none(self) -> None:
        self.assertIsNone(Predecessor.from_environment({}))

    def test_nonsense(self) -> None:
        """It is said, and all is as if there had been none."""
        for text in ("", "{}", "[]", '{"link": 9999, "stderr": 2, "sockets": []}'):
            self.assertIsNone(Predecessor.from_environment({VARIABLE: text}))

    def test_answers(self) -> None:
        """It says whether we are to take over; when it is gone, we are."""
        for answer, ready in ((b"t", True), (b"e", False), (b"", True)):
            ours, predecessor = self.pair()
            ours.sendall(answer)
            ours.shutdown(socket.SHUT_WR)
            self.assertEqual(predecessor.ready([2, 5]), ready)
            said = json.loads(ours.recv(1000))
            self.assertEqual(said, {"ready": os.getpid(), "adopted": [2, 5]})
            self.assertEqual(ours.recv(1), b"")

    def test_failed(self) -> None:
        ours, predecessor = self.pair()
        ours.sendall(b"e")
        predecessor.failed("no luck")
        self.assertEqual(json.loads(ours.recv(1000)), {"failed": "no luck"})
