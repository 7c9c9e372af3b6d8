"""Several processes that serve the same ports."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import ssl
import sys
from collections.abc import Iterable, Sequence
from io import StringIO
from textwrap import dedent
from typing import Any, cast
from unittest import skipUnless

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, _FakePort
from twisted.trial.unittest import SynchronousTestCase

from tests.peers.processes import free_port
from tests.server.command import DAEMON, MODULE, TWIST, TWISTD, Command
from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.server.drain import State
from twisted_bioconn.server.options import Options
from twisted_bioconn.server.renewal import Renewal
from twisted_bioconn.server.service import Front, Listener, StartFailed

if sys.platform != "win32":
    from twisted_bioconn.server.forked import HeldFactory, Link, Worker
    from twisted_bioconn.server.seats import Seat, delay_before, how_it_ended
    from twisted_bioconn.server.workers import Workers

TWO = ("--workers", "2", "--listen", "tcp:0:interface=127.0.0.1")
_STARTED = re.compile(r"worker (?P<index>\d+): pid (?P<pid>\d+)$")

#: Factories whose protocols say which process they are in.
MODULE_TEXT = """
    import os, signal, time
    from twisted.internet.protocol import Factory, Protocol

    class Answer(Protocol):
        def dataReceived(self, data):
            self.transport.write(b"%d " % os.getpid())

    class Answers(Factory):
        protocol = Answer

    class Fails(Answers):
        def startFactory(self):
            raise RuntimeError("this worker has no luck")

    class Sometimes(Answers):
        def startFactory(self):
            if os.path.exists("spoiled"):
                raise RuntimeError("not just now")

    class Ends(Answers):
        def startFactory(self):
            from twisted.internet import reactor
            reactor.callLater(0, os._exit, 3)

    class IsTold(Answers):
        def startFactory(self):
            if "told" not in os.listdir():
                open("told", "x").close()
                # By systemd, say, which tells all processes of a service.
                for each in os.getppid(), os.getpid():
                    os.kill(each, signal.SIGTERM)

    class Hangs(Answers):
        def buildProtocol(self, address):
            print("it hangs")
            while True:
                time.sleep(1)
    """


@skipUnless(hasattr(os, "fork"), "it takes a system with fork")
class WorkersCase(SynchronousTestCase):
    """Runs the command with workers."""

    def start(self, *words: str, start: Sequence[str] = MODULE) -> Command:
        modules = os.path.abspath(self.mktemp())
        os.makedirs(modules)
        with open(os.path.join(modules, "answers.py"), "w") as file:
            file.write(dedent(MODULE_TEXT))
        return Command(self, *words, start=start, python_path=[modules])

    def started(self, command: Command, count: int = 2) -> list[int]:
        """The process ids of the next workers that are started."""
        return [int(command.wait_for(_STARTED)["pid"]) for _ in range(count)]

    def ask(self, port: int) -> tuple[int, socket.socket]:
        """Which process a new connection is served by."""
        client = socket.create_connection(("127.0.0.1", port))
        self.addCleanup(client.close)
        client.sendall(b"?")
        return int(client.recv(20)), client

    def served_by(self, port: int, wanted: Iterable[int]) -> set[int]:
        """Ask until each of these processes has answered."""
        left, seen = set(wanted), set()
        for _ in range(200):
            pid, client = self.ask(port)
            client.close()
            seen.add(pid)
            if left <= seen:
                break
        return seen


class ServingTests(WorkersCase):
    """Workers that serve."""

    def test_both_serve_and_end(self) -> None:
        """In every way to start; on SIGTERM the status is 0 and no process is left."""
        for start in (MODULE, TWISTD, TWIST):
            command = self.start(*TWO, "--factory", "answers:Answers", start=start)
            port = command.port()
            pids = self.started(command)
            self.assertEqual(self.served_by(port, pids), set(pids))
            self.assertNotIn(command.pid, pids)
            self.assertEqual(command.terminate(), 0)
            self.assertEqual(command.errors, [])
            for pid in pids:
                self.assertRaises(ProcessLookupError, os.kill, pid, 0)
            self.assertRaises(ConnectionRefusedError, self.ask, port)

    def test_other_reactors(self) -> None:
        for reactor in ("poll", "select"):
            start = (*TWISTD[:-1], "--reactor", reactor, "bioconn")
            command = self.start(*TWO, "--factory", "answers:Answers", start=start)
            port = command.port()
            pids = self.started(command)
            self.assertEqual(self.served_by(port, pids), set(pids))
            self.assertEqual(command.terminate(), 0)

    def test_interrupt(self) -> None:
        """As with one process, the interrupted one ends by that signal."""
        command = self.start(*TWO, "--echo")
        pids = self.started(command)
        # A terminal sends it to all of them.
        for pid in (*pids, command.pid):
            os.kill(pid, signal.SIGINT)
        self.assertEqual(command.ended(), -signal.SIGINT)
        for pid in pids:
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)
        self.assertFalse([line for line in command.lines if "has ended with" in line])

    def test_session_resumes_at_either(self) -> None:
        command = self.start(
            *("--workers", "2", "--listen", "127.0.0.1:0", "--factory", "answers:Answers")
        )
        port = command.port()
        pids = self.started(command)
        context = ssl.create_default_context(cafile=command.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        session: ssl.SSLSession | None = None
        seen: dict[int, bool | None] = {}
        for _ in range(200):
            plain = socket.create_connection(("127.0.0.1", port))
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as tls:
                tls.sendall(b"?")
                pid = int(tls.recv(20))
                if session is None:
                    session = tls.session
                    continue
                seen[pid] = tls.session_reused
            if set(pids) <= set(seen):
                break
        self.assertEqual(seen, dict.fromkeys(pids, True))

    def test_what_to_visit_is_said_once(self) -> None:
        command = self.start("--workers", "2", "--listen", "127.0.0.1:0", "--web", ".")
        self.started(command)
        command.terminate()
        for part in ("curl --cacert", "listening on"):
            said = [line for line in command.lines if part in line]
            self.assertEqual(len(said), 1, command.lines)

    def test_taken_port(self) -> None:
        """That others of its kind share their port does not let a second server in."""
        first = self.start(*TWO, "--echo")
        port = first.port()
        pids = self.started(first)
        taken = f"tcp:{port}:interface=127.0.0.1"
        second = self.start("--workers", "2", "--listen", taken, "--echo")
        self.assertEqual(second.ended(), 1)
        self.assertEqual(second.errors, [f"bioconn: --listen {taken}: Address already in use"])
        self.assertFalse([line for line in second.lines if "worker" in line])
        self.assertEqual(len(pids), 2)

    def test_wsgi(self) -> None:
        command = self.start(*TWO, "--wsgi", "wsgiref.simple_server:demo_app")
        port = command.port()
        self.started(command)
        for _ in range(4):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                self.assertIn(b"Hello world!", client.makefile("rb").read())
        self.assertEqual(command.terminate(), 0)


@skipUnless(hasattr(os, "pidfd_open"), "it takes Linux to wait for a process of somebody else's")
class EndingTests(WorkersCase):
    """Workers and parents that end before their time."""

    def watch(self, pid: int) -> int:
        watched = os.pidfd_open(pid)
        self.addCleanup(os.close, watched)
        return watched

    def wait(self, *watched: int) -> None:
        """Wait until processes have ended."""
        for each in watched:
            self.assertEqual(select.select([each], [], [], 300)[0], [each])

    def test_killed_worker_is_replaced(self) -> None:
        """Another takes its place, and what was waiting for it; it is said."""
        command = self.start(*TWO, "--factory", "answers:Answers")
        port = command.port()
        first, second = self.started(command)
        self.assertEqual(self.served_by(port, [first, second]), {first, second})
        os.kill(first, signal.SIGSTOP)
        waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        for client in waiting:
            self.addCleanup(client.close)
            client.sendall(b"?")
        os.kill(first, signal.SIGKILL)
        said = command.wait_for(re.compile(r"worker 0, pid (\d+), has ended with (\w+); .* now$"))
        self.assertEqual(said.groups(), (str(first), "SIGKILL"))
        match = command.wait_for(_STARTED)
        self.assertEqual(match["index"], "0")
        third = int(match["pid"])
        self.assertEqual({int(client.recv(20)) for client in waiting}, {second, third})
        self.assertEqual(self.served_by(port, [second, third]), {second, third})
        self.assertEqual(command.terminate(), 0)

    def test_socket_in_the_file_system(self) -> None:
        """It is shared by all, stays while one of them ends, and goes with the parent."""
        listen = ("--workers", "2", "--listen", "unix:app.sock")
        command = self.start(*listen, "--factory", "answers:Answers")
        first, second = self.started(command)
        path = os.path.relpath(os.path.join(command.directory, "app.sock"))

        def ask() -> int:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(b"?")
                return int(client.recv(20))

        # While one stands still the other answers, and once it does it can be told to end.
        os.kill(second, signal.SIGSTOP)
        self.assertEqual(ask(), first)
        os.kill(second, signal.SIGCONT)
        os.kill(first, signal.SIGTERM)
        command.wait_for(re.compile("worker 0, pid .* has ended with exit status 0"))
        third = self.started(command, 1)[0]
        os.kill(second, signal.SIGSTOP)
        self.assertEqual(ask(), third)
        os.kill(second, signal.SIGCONT)
        self.assertEqual(command.terminate(), 0)
        self.assertEqual(os.listdir(command.directory), [])

    def test_killed_parent(self) -> None:
        """No worker stays without its parent."""
        command = self.start(*TWO, "--echo")
        watched = [self.watch(pid) for pid in self.started(command)]
        os.kill(command.pid, signal.SIGKILL)
        self.assertEqual(command.ended(), -signal.SIGKILL)
        self.wait(*watched)

    def test_ends_again_and_again(self) -> None:
        """A worker that ends at once is replaced at once, and then after longer and longer."""
        command = self.start(*TWO, "--factory", "answers:Ends")
        for delay in ("now", "in 1 s", "in 2 s"):
            command.wait_for(re.compile(f"worker .* exit status 3; the next one starts {delay}$"))
        self.assertEqual(command.terminate(), 0)
        starts = [line for line in command.lines if _STARTED.search(line)]
        self.assertGreaterEqual(len(starts), 5)

    def test_cannot_start(self) -> None:
        """As with one process: one line, and status 1."""
        command = self.start(*TWO, "--factory", "answers:Fails")
        self.assertEqual(command.ended(), 1)
        [line] = command.errors
        self.assertRegex(
            line, r"^bioconn: worker \d cannot start: RuntimeError: this worker has no luck$"
        )

    def test_told_to_end_while_it_starts(self) -> None:
        """Nothing is cut, as nothing has begun."""
        command = self.start(*TWO, "--drain", "30", "--factory", "answers:IsTold")
        self.assertEqual(command.ended(), 0, command.lines)
        self.assertEqual(command.errors, [])
        said = "\n".join(command.lines)
        self.assertNotRegex(said, "Traceback|has ended with|are ended")

    def test_worker_that_does_not_end(self) -> None:
        program = "import twisted_bioconn.server.workers as workers; workers.GRACE = 0.3\n"
        start = ("-c", program + TWISTD[1], *TWISTD[2:])
        command = self.start(*TWO, "--factory", "answers:Hangs", start=start)
        port = command.port()
        watched = [self.watch(pid) for pid in self.started(command)]
        for _ in range(20):
            client = socket.create_connection(("127.0.0.1", port))
            self.addCleanup(client.close)
        for _ in range(2):
            command.wait_for(re.compile("it hangs"))
        self.assertEqual(command.terminate(), 0)
        self.wait(*watched)
        said = [line for line in command.lines if "not done after 0.3 s" in line]
        self.assertEqual(len(said), 1, command.lines)

    def test_daemon(self) -> None:
        """
        The pid file has the parent's pid, stays while workers end, and goes with it. SIGUSR1
        rotates the log, and all write to the new one.
        """
        port = free_port()
        listen = f"tcp:{port}:interface=127.0.0.1"
        target = ("--factory", "answers:Answers")
        command = self.start("--workers", "2", "--listen", listen, *target, start=DAEMON)
        self.assertEqual(command.ended(), 0)
        self.assertEqual((command.lines, command.errors), ([], []))

        def path(name: str) -> str:
            return os.path.join(command.directory, name)

        def log(name: str, pattern: str, count: int) -> list[str]:
            """Wait for so many lines of a log."""
            for _ in range(6000):
                if os.path.exists(path(name)):
                    with open(path(name)) as file:
                        found = re.findall(pattern, file.read(), re.MULTILINE)
                    if len(found) >= count:
                        return found
                select.select([], [], [], 0.05)
            raise AssertionError(f"{name} has no {pattern}")

        with open(path("its.pid")) as file:
            parent = int(file.read())
        watched = self.watch(parent)
        try:
            first, second = map(int, log("its.log", r"worker \d: pid (\d+)$", 2))
            self.assertEqual(self.served_by(port, [first, second]), {first, second})
            gone = self.watch(first)
            os.kill(first, signal.SIGTERM)
            self.wait(gone)
            log("its.log", r"worker 0, pid \d+, has ended with exit status 0", 1)
            self.assertTrue(os.path.exists(path("its.pid")))
            os.kill(parent, signal.SIGUSR1)
            log("its.log.1", "worker 0, pid", 1)
            gone = self.watch(second)
            os.kill(second, signal.SIGTERM)
            self.wait(gone)
            log("its.log", "Front#info. Shutting down", 1)
            log("its.log", "worker 1, pid .* has ended with exit status 0", 1)
        finally:
            os.kill(parent, signal.SIGTERM)
        self.wait(watched)
        self.assertEqual(sorted(os.listdir(command.directory)), ["its.log", "its.log.1"])


class RefusedTests(WorkersCase):
    """Command lines that cannot be."""

    def one_line(self, *words: str, start: Sequence[str] = MODULE) -> str:
        command = self.start(*words, start=start)
        self.assertEqual(command.ended(), 1)
        [line] = command.errors
        return line

    def test_values(self) -> None:
        for value in ("0", "x", "-1", "1025", "2.0", "1e1", "٢"):
            ended = self.assertRaises(SystemExit, Options().parseOptions, ["--workers", value])
            self.assertEqual(
                ended.code,
                f"bioconn: --workers {value}: this must be a number from 1 to 1024, or 'auto'",
            )

    def test_command(self) -> None:
        self.assertTrue(self.one_line(*TWO[2:], "--echo", "--workers", "0").startswith("bioconn: "))

    def test_no_fork(self) -> None:
        self.patch(os, "fork", None)
        del os.fork
        options = Options()
        ended = self.assertRaises(SystemExit, options.parseOptions, ["--workers", "2"])
        self.assertEqual(ended.code, "bioconn: --workers 2: this system can have no more than 1")
        options = Options()
        options.parseOptions(["--workers", "auto"])
        self.assertEqual(options["workers"], 1)

    def test_good_values(self) -> None:
        for words, count in ((["--workers", "3"], 3), ([], 1), (["--workers=1024"], 1024)):
            options = Options()
            options.parseOptions(words)
            self.assertEqual(options["workers"], count)
        self.patch(os, "sched_getaffinity", lambda pid: {0, 2, 5})
        options = Options()
        options.parseOptions(["--workers", "auto"])
        self.assertEqual(options["workers"], 3)

    def test_endpoint_that_opens_too_late(self) -> None:
        class Late:
            def listen(self, factory: object) -> Deferred[Any]:
                return Deferred()

        reactor = MemoryReactorClock()
        err = StringIO()
        workers = Workers(SelectReactor(), 2)
        listener = Listener("--listen late:", cast(Any, Late()), Factory())
        front = Front(reactor, [listener], None, err, workers)
        self.patch(reactor, "iterate", lambda delay: None)
        self.assertRaises(StartFailed, front.privilegedStartService)
        self.assertEqual(
            err.getvalue(),
            "bioconn: --listen late:: it opens too late for --workers to share it\n",
        )

    def test_port_that_cannot_be_shared(self) -> None:
        """One that is no file descriptor."""

        class Endpoint:
            def listen(self, factory: object) -> Deferred[Any]:
                return succeed(_FakePort(8443))

        reactor = MemoryReactorClock()
        err = StringIO()
        listener = Listener("--listen odd:", cast(Any, Endpoint()), Factory())
        front = Front(reactor, [listener], None, err, Workers(SelectReactor(), 2))
        self.patch(reactor, "iterate", lambda delay: None)
        self.assertRaises(StartFailed, front.privilegedStartService)
        self.assertEqual(
            err.getvalue(), "bioconn: --listen odd:: --workers 2: this port cannot be shared\n"
        )

    def test_reactor_that_runs(self) -> None:
        reactor = MemoryReactorClock()
        reactor.running = True
        front = Front(reactor, [], workers=Workers(SelectReactor(), 2))
        self.assertRaises(StartFailed, front.startService)

    def test_reactor_that_cannot_be_forked(self) -> None:
        start = (*TWISTD[:-1], "--reactor", "asyncio", "bioconn")
        line = self.one_line(*TWO, "--echo", start=start)
        self.assertIn("bioconn: --workers 2: the reactor is an AsyncioSelectorReactor", line)


@skipUnless(hasattr(os, "fork"), "it takes a system with fork")
class StewardTests(SynchronousTestCase):
    """What is renewed reaches all workers."""

    def setUp(self) -> None:
        self.reactor = SelectReactor()
        self.addCleanup(self.reactor.waker.connectionLost, None)
        self.addCleanup(self.reactor.removeAll)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
            self.addCleanup(end.close)
        return ends

    def front(self, index: int) -> tuple[Front, Renewal, socket.socket, list[CertifiedKey]]:
        """A worker's service as it is after the fork, and its parent's end of its link."""
        used: list[CertifiedKey] = []
        authority = DevelopmentAuthority(self.directory)
        renewal = Renewal(authority, used.append, Clock())
        workers = Workers(self.reactor, 2)
        front = Front(self.reactor, [], workers=workers)
        renewal.setServiceParent(front)
        ours, theirs = self.pair()
        front._serve(workers, Worker(index, Link(self.reactor, theirs)))
        return front, renewal, ours, used

    def test_from_steward_to_the_others(self) -> None:
        self.directory = self.mktemp()
        _, steward, heard, used = self.front(0)
        _, other, told, used_there = self.front(1)
        self.assertTrue(steward.running)
        self.assertFalse(other.running)
        # A third of its life is left.
        os.remove(os.path.join(self.directory, "leaf.pem"))
        self.assertTrue(steward._renew())
        self.assertNotEqual(used[-1].leaf, used_there[-1].leaf)
        workers = Workers(self.reactor, 2)
        first, second = (Seat(0, pid=1, link=heard), Seat(1, pid=2, link=told))
        workers._seats = [first, second]
        workers._hear(first)
        self.reactor.iterate(0)
        self.assertEqual(used[-1].leaf, used_there[-1].leaf)
        # Nothing comes back.
        self.assertRaises(BlockingIOError, heard.recv, 1)
        steward.stopService()

    def test_replacement_has_the_last_one(self) -> None:
        self.directory = self.mktemp()
        used: list[CertifiedKey] = []
        renewal = Renewal(DevelopmentAuthority(self.directory), used.append, Clock())
        new = DevelopmentAuthority(self.directory)
        os.remove(os.path.join(self.directory, "leaf.pem"))
        made = new.leaf()
        renewal.load()
        self.assertEqual(used[-1].leaf, made.leaf)

    def test_state_that_is_lost(self) -> None:
        """A certificate that cannot be loaded is said; the one in use stays."""
        self.directory = self.mktemp()
        _, renewal, _, used = self.front(1)
        before = len(used)
        os.remove(os.path.join(self.directory, "leaf.pem"))
        os.mkdir(os.path.join(self.directory, "leaf.pem"))
        renewal.load()
        self.assertEqual(len(used), before)

    def test_parent_that_is_gone(self) -> None:
        self.directory = self.mktemp()
        front, _, parent, _ = self.front(1)
        stopped: list[None] = []
        self.patch(self.reactor, "stop", lambda: stopped.append(None))
        parent.close()
        self.reactor.iterate(0)
        self.assertEqual(stopped, [None])
        self.assertIs(front.state, State.STOPPING)


@skipUnless(hasattr(os, "fork"), "it takes a system with fork")
class PartTests(SynchronousTestCase):
    """The smaller parts."""

    def test_delays(self) -> None:
        delays = [delay_before(attempt) for attempt in range(10)]
        self.assertEqual(delays, [0, 0, 1, 2, 4, 8, 16, 30, 30, 30])
        self.assertEqual(delay_before(10**6), 30)

    def test_steady_worker_has_no_delay(self) -> None:
        workers = Workers(SelectReactor(), 2)
        seat = Seat(0, pid=1, begun=-1e9, short_lives=7)
        workers._ended(seat, 1, "SIGKILL")
        self.assertEqual((seat.short_lives, seat.pid), (0, None))

    def test_how_it_ended(self) -> None:
        for status, said in ((0, "exit status 0"), (3 << 8, "exit status 3"), (9, "SIGKILL")):
            self.assertEqual(how_it_ended(status), said)
        self.assertEqual(how_it_ended(signal.SIGRTMIN + 1), f"signal {signal.SIGRTMIN + 1}")

    def test_held_factory(self) -> None:
        """It is started where it is used, once for each of its ports."""
        started: list[int] = []

        class Counted(Factory[Any]):
            noisy = False

            def startFactory(self) -> None:
                started.append(self.numPorts)

        factory = Counted()
        held = HeldFactory(factory)
        factory.doStart()
        factory.doStart()
        factory.doStop()
        self.assertEqual(started, [])
        held.start()
        self.assertEqual((started, factory.numPorts), ([0], 2))

    def test_factory_that_cannot_be_held(self) -> None:
        class Closed:
            __slots__ = ()

        workers = Workers(SelectReactor(), 2)
        workers.hold(cast(Any, Closed()))
        workers.start_factories()
