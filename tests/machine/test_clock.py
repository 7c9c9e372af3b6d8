"""The clock is set, a day ahead and a day back: no deadline is due for that, and none is late."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import ssl
import time
from unittest import skipUnless

from twisted.trial.unittest import SkipTest

from tests.machine.case import REQUESTS, SLOW, Drained, MachineCase, show
from tests.server.command import TWISTD

DAY = 86400

#: The certificate is looked at more often than once an hour.
_PROGRAM = "import twisted_bioconn.server.renewal as renewal; renewal.INTERVAL = 0.5\n"

_LIBRARY = "/usr/lib/*/faketime/libfaketime.so.1"

_RENEWED = re.compile("the development certificate is renewed")


class ClockTests(MachineCase):
    """A process whose clock is ours to set."""

    kind = Drained

    def setUp(self) -> None:
        found = glob.glob(_LIBRARY)
        if not found:
            raise SkipTest("libfaketime is not installed")
        self.clock = os.path.abspath(self.mktemp())
        self.set(0)
        for name, value in {
            "LD_PRELOAD": found[0],
            "FAKETIME_TIMESTAMP_FILE": self.clock,
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }.items():
            self.patch_environment(name, value)

    def patch_environment(self, name: str, value: str) -> None:
        """For the programs that are started from here on."""
        self.assertNotIn(name, os.environ)
        os.environ[name] = value
        self.addCleanup(os.environ.pop, name)

    def set(self, seconds: int) -> None:
        """Set the clock, so far from what it is."""
        with open(f"{self.clock}.new", "w") as file:
            file.write(f"{seconds:+d}\n")
        os.replace(f"{self.clock}.new", self.clock)

    def jump(self, seconds: int) -> None:
        options = "127.0.0.1:0:handshakeTimeout=10:idleTimeout=10"
        command = self.command(
            "--listen", options, "--echo", start=("-c", _PROGRAM + TWISTD[1], *TWISTD[2:])
        )
        port = command.port()
        connect = self.echoes(command, port)
        honest = self.honest(connect)
        alone = honest.part(REQUESTS)
        parts = [honest.begin()]
        silent, idle = self.plain(port)(), connect()
        self.set(seconds)
        # They are late when their seconds are over, not when the clock says so.
        for each in (silent, idle):
            self.addCleanup(each.close)
            each.settimeout(300)
            with contextlib.suppress(ConnectionResetError):
                self.assertEqual(each.recv(1), b"")
            each.close()
        self.assert_resumes(command, port)
        honest.wait_for(REQUESTS)
        self.set(0)

        def there_and_back() -> None:
            for moved in (seconds, 0):
                parts.append(honest.begin())
                self.set(moved)
                self.assert_resumes(command, port)
                honest.wait_for(REQUESTS)

        levels = self.levels_off([command.pid], there_and_back, honest)
        after = honest.part(REQUESTS)
        self.all_served(alone, *parts, after)
        late = re.search(
            r'bioconn_connections_ended_total{.*"timeout".*} (\d+)', self.told(command)
        )
        assert late is not None
        self.assertEqual(int(late[1]), 1)
        honest.finish()
        show(
            f"clock set by {seconds // DAY:+d} d, and back",
            f"connections_ended, timeout {late[1]}",
            (alone, parts[0], after),
            levels,
        )
        self.ends_well(command)

    def assert_resumes(self, command: Drained, port: int) -> None:
        """A session that begins now is resumed now."""
        context = ssl.create_default_context(cafile=command.authority)
        session: ssl.SSLSession | None = None
        for number in range(3):
            plain = self.plain(port)()
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as tls:
                tls.sendall(b"x")
                self.assertEqual(tls.recv(1), b"x")
                self.assertEqual(bool(tls.session_reused), number > 0)
                session = tls.session

    def test_ahead(self) -> None:
        """Whoever is idle for less than a day is not late."""
        self.jump(DAY)

    @skipUnless(SLOW, "takes long: set BIOCONN_SLOW=1 to run it")
    def test_back(self) -> None:
        """Whoever is idle has not a day more."""
        self.jump(-DAY)

    @skipUnless(SLOW, "takes long: set BIOCONN_SLOW=1 to run it")
    def test_renewal(self) -> None:
        """
        Set ahead by 25 days a certificate is due, and renewed; set back again, the new one is from
        the future, and another is made at the next look, or on SIGHUP.
        """
        command = self.command(
            *("--listen", "127.0.0.1:0", "--echo"),
            start=("-c", _PROGRAM + TWISTD[1], *TWISTD[2:]),
        )
        port = command.port()
        connect = self.echoes(command, port)
        honest = self.honest(connect)
        alone = honest.part(REQUESTS)
        parts = []

        def due_and_from_the_future() -> None:
            first = self.leaf(connect())
            parts.append(honest.begin())
            honest.anew.clear()
            self.set(25 * DAY)
            command.wait_for(_RENEWED)
            end = time.monotonic() + 300
            while self.leaf_in_file(command) == first:
                self.assertLess(time.monotonic(), end)
                time.sleep(0.1)
            honest.wait_for(REQUESTS)
            self.set(0)
            parts.append(honest.begin())
            self.hang_up(command, re.compile("reloaded: .* none failed"))
            # It is valid now: who comes anew verifies it.
            honest.anew.set()
            honest.wait_for(REQUESTS)

        levels = self.levels_off([command.pid], due_and_from_the_future, honest)
        after = honest.part(REQUESTS)
        self.all_served(alone, *parts, after)
        honest.finish()
        show(
            "clock set by +25 d, and back: certificate",
            f"certificates renewed {len(command.said(_RENEWED.pattern))}",
            (alone, parts[0], after),
            levels,
        )
        self.ends_well(command)

    def leaf(self, tls: ssl.SSLSocket) -> bytes:
        with tls:
            found = tls.getpeercert(True)
        assert found is not None
        return found

    def leaf_in_file(self, command: Drained) -> bytes:
        with open(os.path.join(command.state, "bioconn", "leaf.pem")) as file:
            text = file.read()
        begin = text.index("-----BEGIN CERTIFICATE")
        return ssl.PEM_cert_to_DER_cert(text[begin:])
