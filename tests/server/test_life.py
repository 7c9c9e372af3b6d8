"""How the process ends, and what it does when it is told to look for what has changed."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import time

from tests.peers.processes import free_port
from tests.server.load import DRAINING, ECHO, STARTED, Callers, LifeCase


class DrainTests(LifeCase):
    """SIGTERM."""

    def test_under_load(self) -> None:
        """What goes on goes on to its end; nobody else comes in; SIGHUP changes nothing."""
        back = self.begin(*ECHO)
        forward = f"127.0.0.1:{back.port()}"
        command = self.begin("--drain", "30", "--listen", "127.0.0.1:0", "--forward", forward)
        port = command.port()
        pumps = self.pumps(10, lambda: command.connect(port))
        self.all_pump(pumps)
        os.kill(command.pid, signal.SIGTERM)
        said = command.wait_for(DRAINING)
        self.assertEqual((int(said["count"]), float(said["seconds"])), (10, 30))
        self.until(lambda: self.is_refused(port))
        os.kill(command.pid, signal.SIGHUP)
        command.wait_for(re.compile("SIGHUP is ignored: the service is draining"))
        self.all_pump(pumps)
        self.all_exact(pumps)
        self.assertEqual(command.ended(), 0)
        self.assertEqual(command.errors, [])

    def test_nobody_is_there(self) -> None:
        """There is nothing to wait for."""
        command = self.begin("--drain", "500", *ECHO)
        self.all_exact(self.pumps(1, self.plain(command.port())))
        began = time.monotonic()
        self.assertEqual(command.terminate(), 0)
        self.assertLess(time.monotonic() - began, 250)

    def test_time_is_up(self) -> None:
        """Those that are left are closed, which is what the status says."""
        for workers in ("1", "2"):
            command = self.begin("--workers", workers, "--drain", "0.5", *ECHO)
            [pump] = self.pumps(1, self.plain(command.port()))
            self.all_pump([pump])
            self.assertEqual(command.terminate(), 1)
            pump.join(300)
            self.assertIsNotNone(pump.failure)
            cut = [line for line in command.lines if "1 connections are cut" in line]
            self.assertEqual(len(cut), 1, command.lines)

    def test_second_signal(self) -> None:
        """It ends at once."""
        for workers in ("1", "2"):
            command = self.begin("--workers", workers, "--drain", "100", *ECHO)
            [pump] = self.pumps(1, self.plain(command.port()))
            self.all_pump([pump])
            os.kill(command.pid, signal.SIGTERM)
            command.wait_for(re.compile(r"Shutting down\. 1 connections"))
            self.assertEqual(command.terminate(), 1)

    def test_no_time(self) -> None:
        """Without C{--drain} they are closed at once, and nothing is counted."""
        command = self.begin(*ECHO)
        [pump] = self.pumps(1, self.plain(command.port()))
        self.all_pump([pump])
        self.assertEqual(command.terminate(), 0)

    def test_workers(self) -> None:
        """All of them wait, and the parent for them."""
        command = self.begin("--workers", "2", "--drain", "30", *ECHO)
        port = command.port()
        pids = [int(command.wait_for(STARTED)["pid"]) for _ in range(2)]
        pumps = self.pumps(10, self.plain(port))
        self.all_pump(pumps)
        self.assertEqual({pump.served_by for pump in pumps}, set(pids))
        # As systemd does, which tells all of them.
        for pid in (command.pid, *pids):
            os.kill(pid, signal.SIGTERM)
        for _ in pids:
            command.wait_for(DRAINING)
        self.until(lambda: self.is_refused(port))
        os.kill(command.pid, signal.SIGHUP)
        command.wait_for(re.compile("SIGHUP is ignored"))
        self.all_pump(pumps)
        self.all_exact(pumps)
        self.assertEqual(command.ended(), 0)
        self.assertEqual(command.errors, [])

    def test_killed_worker(self) -> None:
        """Its own connections end, and no others."""
        command = self.begin("--workers", "2", *ECHO)
        port = command.port()
        first, second = (int(command.wait_for(STARTED)["pid"]) for _ in range(2))
        pumps = self.pumps(10, self.plain(port))
        self.all_pump(pumps)
        os.kill(first, signal.SIGKILL)
        command.wait_for(STARTED)
        of_second = [pump for pump in pumps if pump.served_by == second]
        self.all_pump(of_second)
        self.assertTrue(0 < len(of_second) < 10)
        for pump in pumps:
            if pump.served_by == first:
                pump.join(300)
                self.assertIsNotNone(pump.failure)
        self.all_exact(of_second)
        self.assertEqual(command.terminate(), 0)


_RELOADED = re.compile("reloaded: .* certificates are served, none failed")
_CHANGED = re.compile("the configuration is loaded anew: (.*)$")
_UNCHANGED = re.compile("nothing is changed: (.*)$")


class ReloadTests(LifeCase):
    """SIGHUP."""

    def test_five_times(self) -> None:
        """Nothing of what goes on is touched, nor is what is to be resumed."""
        command = self.begin("--listen", "127.0.0.1:0", "--factory", "echoes:Echoes")
        port = command.port()
        pumps = self.pumps(10, lambda: command.connect(port))
        context = ssl.create_default_context(cafile=command.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        session: ssl.SSLSession | None = None
        for number in range(5):
            plain = socket.create_connection(("127.0.0.1", port))
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as tls:
                tls.recv(20)
                self.assertEqual(bool(tls.session_reused), number > 0)
                session = tls.session
            self.all_pump(pumps, 1)
            self.hang_up(command, _RELOADED)
        self.all_pump(pumps)
        self.all_exact(pumps)
        self.assertEqual(command.terminate(), 0)
        self.assertEqual(command.errors, [])

    def test_ports(self) -> None:
        """What is new opens, what is gone closes, and what goes on goes on."""
        first, second, third = (f"tcp:{free_port()}:interface=127.0.0.1" for _ in range(3))
        echoes = ("--factory", "echoes:Echoes")
        before = ("--listen", first, *echoes, "--listen", second, *echoes)
        command = self.begin(*before, reconfigured=before)
        ports = [command.port() for _ in range(2)]
        kept, moved = self.pumps(1, self.plain(ports[0])), self.pumps(1, self.plain(ports[1]))
        # Nothing is other than it was.
        self.hang_up(command, re.compile("2 as before$"))
        # One more.
        self.write(command, *before, "--listen", third, "--echo")
        os.kill(command.pid, signal.SIGHUP)
        ports.append(command.port())
        command.wait_for(re.compile(f"opened --listen {third}; 2 as before$"))
        # What its clients get is another thing, and one is gone.
        self.write(command, "--listen", first, *echoes, "--listen", third, "--web", ".")
        os.kill(command.pid, signal.SIGHUP)
        command.wait_for(
            re.compile(f"changed --listen {third}; closed --listen {second}; 1 as before$")
        )
        with socket.create_connection(("127.0.0.1", ports[2])) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            self.assertIn(b"200 OK", client.makefile("rb").read())
        self.until(lambda: self.is_refused(ports[1]))
        self.all_pump([*kept, *moved])
        self.all_exact([*kept, *moved])
        self.all_exact(self.pumps(1, self.plain(ports[0])))
        self.assertEqual(command.terminate(), 0)
        for port in ports:
            self.assertRaises(ConnectionRefusedError, self.plain(port))
        self.assertEqual(command.errors, [])

    def test_all_or_none(self) -> None:
        """A mistake, or a port that cannot be had, leaves all as it was."""
        echoes = ("--factory", "echoes:Echoes")
        first = f"tcp:{free_port()}:interface=127.0.0.1"
        new = free_port()
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        listen = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        command = self.begin("--listen", first, *echoes, reconfigured=())
        port = command.port()
        [pump] = self.pumps(1, self.plain(port))
        self.write(command, "--listen", first, "--wbe", ".")
        self.assertIn("there is no option --wbe", self.hang_up(command, _UNCHANGED))
        new_listen = f"tcp:{new}:interface=127.0.0.1"
        self.write(command, "--listen", new_listen, "--echo", "--listen", listen, "--echo")
        said = self.hang_up(command, _UNCHANGED)
        self.assertEqual(said, "Address already in use")
        self.hang_up(command, _UNCHANGED)
        self.until(lambda: self.is_refused(new))
        self.all_exact([pump, *self.pumps(1, self.plain(port))])
        # And when it can be had, it is.
        taken.close()
        self.hang_up(command, _CHANGED)
        self.until(lambda: self.is_refused(port))
        self.plain(new)().close()
        self.assertEqual(command.terminate(), 0)

    def test_other_target_at_the_same_place(self) -> None:
        """Nobody is refused in between; a socket in the file system stays what it is."""
        listen = f"tcp:{free_port()}:interface=127.0.0.1"
        words = ("--listen", listen, "--factory", "echoes:Echoes", "--listen", "unix:app.sock")
        command = self.begin(*words, "--factory", "echoes:Echoes", reconfigured=(*words, "--echo"))
        port = command.port()
        callers = Callers(port, 200.0)
        self.addCleanup(callers.finish)
        path = os.path.relpath(os.path.join(command.directory, "app.sock"))
        self.until(lambda: callers.served)
        inode = os.stat(path).st_ino
        self.hang_up(command, re.compile("changed --listen unix:app.sock; 1 as before$"))
        for number in range(5):
            target = ("--factory", "echoes:Echoes") if number % 2 else ("--factory", "echoes:More")
            self.write(command, "--listen", listen, *target, *words[4:], "--echo")
            self.hang_up(command, re.compile(f"changed --listen {listen}; 1 as before$"))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(b"hello")
            self.assertEqual(client.recv(20), b"hello")
        self.assertEqual(os.stat(path).st_ino, inode)
        callers.finish()
        self.assertEqual(callers.failures, [])
        self.assertEqual(command.terminate(), 0)
        self.assertEqual(os.listdir(command.directory), ["words"])
        self.assertEqual(command.errors, [])
