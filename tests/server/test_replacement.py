"""Workers that are replaced in turn, with new keys for session tickets."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import time
from collections.abc import Iterable

import trustme

from tests.server.command import Command
from tests.server.test_workers import WorkersCase

_STARTED_AS = re.compile(r"worker \d+: pid (?P<pid>\d+)$")
_ENDED = re.compile(r"pid (?P<pid>\d+), which was replaced, has ended with (?P<how>.*)$")
_RENEWED = re.compile(r"keys for session tickets are renewed")

#: How to start the command in a world where it is tomorrow when there is a file of that name.
START = (
    "-c",
    """
import os
import twisted_bioconn.server.workers as workers
from twisted.scripts.twistd import run

workers.TRUST_INTERVAL = workers.SOONEST = 0.1
renew_when_due = workers.Workers._renew_when_due

def told_by_a_file(parent, now):
    workers.TICKET_KEY_LIFE = 1e6
    if os.path.exists("tomorrow"):
        os.remove("tomorrow")
        workers.TICKET_KEY_LIFE = 0.0
        parent._looked = -1e6
    renew_when_due(parent, now)

workers.Workers._renew_when_due = told_by_a_file
run()
""",
    "--nodaemon",
    "--pidfile=",
    "bioconn",
)


class ReplacementTests(WorkersCase):
    """Once a day, and when something else is asked of clients."""

    def begin(self, *words: str) -> tuple[Command, int, list[int]]:
        command = self.start("--workers", "2", *words, start=START)
        port = command.port()
        return command, port, self.started(command)

    def renew(self, command: Command) -> None:
        """A day has passed."""
        with open(os.path.join(command.directory, "tomorrow"), "w"):
            pass
        command.wait_for(_RENEWED)

    def answered(self, client: socket.socket) -> int:
        client.sendall(b"?")
        return int(client.recv(20))

    def one_of_each(self, port: int, pids: Iterable[int]) -> dict[int, socket.socket]:
        """A connection to each of these processes."""
        found: dict[int, socket.socket] = {}
        wanted = set(pids)
        for _ in range(200):
            pid, client = self.ask(port)
            if found.setdefault(pid, client) is not client:
                client.close()
            if wanted <= set(found):
                return found
        self.fail(f"{wanted - set(found)} accept nothing")

    def test_connections_go_on(self) -> None:
        """No connection is refused or cut, and a worker ends with its last one."""
        command, port, old = self.begin(
            "--listen", "tcp:0:interface=127.0.0.1", "--factory", "answers:Answers"
        )
        kept = self.one_of_each(port, old)
        self.renew(command)
        new = self.started(command)
        self.assertFalse(set(new) & set(old))
        # All the time there is one that accepts.
        deadline = time.monotonic() + 300
        while set(old) & self.served_by(port, new):
            self.assertLess(time.monotonic(), deadline)
        for pid in old:
            self.assertEqual(self.answered(kept[pid]), pid)
            kept[pid].close()
        ended: dict[int, str] = {}
        while not set(old) <= set(ended):
            found = command.wait_for(_ENDED)
            ended[int(found["pid"])] = found["how"]
        self.assertEqual({ended[pid] for pid in old}, {"exit status 0"})
        self.assertEqual(command.terminate(), 0)
        self.assertEqual(command.errors, [])

    def test_shutdown_in_the_middle(self) -> None:
        """Those that were replaced, and still have connections, are told too."""
        command, port, old = self.begin(
            "--listen", "tcp:0:interface=127.0.0.1", "--factory", "answers:Answers"
        )
        self.one_of_each(port, old)
        self.renew(command)
        new = self.started(command)
        self.assertEqual(command.terminate(), 0)
        for pid in (*old, *new):
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)
        self.assertEqual(command.errors, [])

    def test_new_one_that_cannot_start(self) -> None:
        """The one before it serves on until there is one that can."""
        command, port, old = self.begin(
            "--listen", "tcp:0:interface=127.0.0.1", "--factory", "answers:Sometimes"
        )
        self.assertEqual(self.served_by(port, old), set(old))
        spoiler = os.path.join(command.directory, "spoiled")
        with open(spoiler, "w"):
            pass
        self.renew(command)
        failed = int(command.wait_for(_STARTED_AS)["pid"])
        command.wait_for(re.compile(f"pid {failed}, has ended with exit status 1"))
        self.assertEqual(self.served_by(port, old), set(old))
        os.remove(spoiler)
        # One more may have been started, and have failed, before that.
        command.wait_for(re.compile("A worker with new keys takes over"))
        self.assertFalse({failed} & self.served_by(port, old))
        self.assertEqual(command.terminate(), 0)

    # Sessions

    def resumed(
        self, port: int, context: ssl.SSLContext, session: ssl.SSLSession | None
    ) -> tuple[int, bool, ssl.SSLSession | None]:
        """Who answers, whether the session was resumed, and the session to be resumed next."""
        plain = socket.create_connection(("127.0.0.1", port))
        with context.wrap_socket(plain, server_hostname="localhost", session=session) as tls:
            tls.sendall(b"?")
            return int(tls.recv(20)), bool(tls.session_reused), tls.session

    def resumes_at(
        self, port: int, context: ssl.SSLContext, pids: Iterable[int]
    ) -> dict[int, bool]:
        """Whether a session of one of these processes is resumed at each of them."""
        session: ssl.SSLSession | None = None
        seen: dict[int, bool] = {}
        for _ in range(200):
            pid, reused, following = self.resumed(port, context, session)
            if pid not in pids:
                continue
            if session is None:
                session = following
                continue
            seen[pid] = reused
            if set(pids) <= set(seen):
                break
        return seen

    def gone(self, pids: Iterable[int]) -> None:
        """Wait for these to have ended."""
        deadline = time.monotonic() + 300
        for pid in pids:
            while True:
                try:
                    os.kill(pid, 0)
                except ProcessLookupError:
                    break
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.05)

    def test_new_keys(self) -> None:
        """What was agreed on before is resumed no more; from then on, it is at every worker."""
        command, port, old = self.begin("--listen", "127.0.0.1:0", "--factory", "answers:Answers")
        context = ssl.create_default_context(cafile=command.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        _, _, session = self.resumed(port, context, None)
        self.renew(command)
        new = self.started(command)
        self.gone(old)
        _, reused, _ = self.resumed(port, context, session)
        self.assertFalse(reused)
        self.assertEqual(self.resumes_at(port, context, new), dict.fromkeys(new, True))
        self.assertEqual(command.terminate(), 0)
        self.assertEqual(command.errors, [])

    def test_other_authorities(self) -> None:
        """
        No session outlives what was asked of its client, and the next ones are resumed everywhere.
        """
        directory = os.path.abspath(self.mktemp())
        os.makedirs(directory)
        server, clients, others = trustme.CA(), trustme.CA(), trustme.CA()
        certificate = server.issue_cert("localhost")
        pair = os.path.join(directory, "pair.pem")
        trusted = os.path.join(directory, "clients.pem")
        own = os.path.join(directory, "own.pem")
        certificate.private_key_and_cert_chain_pem.write_to_path(pair)
        clients.cert_pem.write_to_path(trusted)
        clients.issue_cert("me@example.org").private_key_and_cert_chain_pem.write_to_path(own)
        command, port, old = self.begin(
            "--listen",
            f"bioconn:0:interface=127.0.0.1:privateKey={pair}:clientAuthorities={trusted}",
            "--factory",
            "answers:Answers",
        )
        context = ssl.create_default_context()
        server.configure_trust(context)
        context.load_cert_chain(own)
        self.assertEqual(self.resumes_at(port, context, old), dict.fromkeys(old, True))
        with open(trusted, "ab") as file:
            file.write(others.cert_pem.bytes())
        os.kill(command.pid, signal.SIGHUP)
        command.wait_for(_RENEWED)
        new = self.started(command)
        self.gone(old)
        self.assertEqual(self.resumes_at(port, context, new), dict.fromkeys(new, True))
        self.assertEqual(command.terminate(), 0)
        self.assertEqual(command.errors, [])

    def test_parent_does_nothing_but_wait(self) -> None:
        """Certificates are looked after by the workers: the parent has no thread and no watch."""
        command, port, pids = self.begin("--listen", "127.0.0.1:0", "--echo")
        directory = f"/proc/{command.pid}"
        if not os.path.isdir(directory):
            self.skipTest("it takes /proc")
        del port, pids
        links = [
            os.readlink(os.path.join(directory, "fd", name))
            for name in os.listdir(os.path.join(directory, "fd"))
        ]
        self.assertFalse([link for link in links if "inotify" in link])
        self.assertEqual(len(os.listdir(os.path.join(directory, "task"))), 1)
        self.assertEqual(command.terminate(), 0)
