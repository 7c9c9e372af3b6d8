"""The disk under the state is full, or cannot be written to: what is in use is served on."""

from __future__ import annotations

import os
import re
import socket
import ssl
import stat
import time
from collections.abc import Callable
from unittest import skipUnless

from tests.certificates.acme.test_killed import NAME, OrderCase
from tests.honest import Figures, Honest
from tests.machine.case import REQUESTS, SLOW, Drained, MachineCase, show
from tests.machine.disks import Disk
from tests.server.command import TWISTD
from twisted_bioconn.certificates.loading import CertifiedKey

#: The certificate is due all the time, though it is good for a month.
_PROGRAM = """
import twisted_bioconn.certificates.development as development
import twisted_bioconn.server.renewal as renewal
from datetime import timedelta
renewal.INTERVAL = 0.2
development.DevelopmentAuthority._renewal = lambda self, leaf: (
    leaf.leaf.not_valid_before_utc + development.SKEW + timedelta(seconds=2))
"""

_START = ("-c", _PROGRAM + TWISTD[1], *TWISTD[2:])
_RENEWED = re.compile("the development certificate is renewed")
_FILES = ["bioconn/ca-key.pem", "bioconn/ca.pem", "bioconn/leaf.pem"]
_LINES = 50
"""Lines of the log that are longer than a page."""

_FULL, _READ_ONLY = "No space left on device", "Read-only file system"


class DiskTests(MachineCase):
    """The state of the command is on a disk of its own."""

    kind = Drained

    def setUp(self) -> None:
        self.disk = Disk(self, os.path.abspath(self.mktemp()))
        self.state = os.path.join(self.disk.path, "bioconn")

    def start(self, *words: str) -> Drained:
        return self.command("--state", self.state, *words, start=_START)

    def connecting(self, command: Drained, port: int) -> Callable[[], ssl.SSLSocket]:
        authority = os.path.join(self.state, "ca.pem")
        return lambda: command.connect(port, authority=authority)

    def not_renewed(self, reason: str) -> re.Pattern[str]:
        """The line that says so."""
        path = re.escape(os.path.join(self.state, "leaf.pem"))
        return re.compile(f"is not renewed: {path} cannot be written: {reason}$")

    def is_whole(self) -> None:
        """All files are there, none but those, and can be used."""
        end = time.monotonic() + 300
        while self.disk.files != _FILES:  # one may be about to be written
            self.assertLess(time.monotonic(), end, self.disk.files)
            time.sleep(0.05)
        for name in ("ca-key.pem", "leaf.pem"):
            path = os.path.join(self.state, name)
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
            CertifiedKey.from_files(path)

    def renew(self, reason: str, harm: Callable[[], None], mend: Callable[[], None]) -> None:
        command = self.start("--listen", "127.0.0.1:0", "--echo")
        honest = self.honest(self.connecting(command, command.port()))
        honest.part(REQUESTS)
        alone = honest.part(REQUESTS)
        command.wait_for(_RENEWED)
        parts: list[Figures] = []

        def fault() -> None:
            parts.append(honest.begin())
            harm()
            command.wait_for(self.not_renewed(reason))
            self.is_whole()
            honest.wait_for(REQUESTS)
            mend()
            command.wait_for(_RENEWED)
            honest.begin()

        levels = self.levels_off([command.pid], fault, honest)
        after = honest.part(REQUESTS)
        self.all_served(alone, *parts, after)
        renewals = self.metric(command, "bioconn_handshakes_total")
        honest.finish()
        self.ends_well(command)
        self.is_whole()
        # Nothing has to be done by hand.
        again = self.start("--listen", "127.0.0.1:0", "--echo")
        self.connecting(again, again.port())().close()
        self.ends_well(again)
        show(
            f"disk, renewal: {reason}", f"handshakes {renewals}", (alone, parts[-1], after), levels
        )

    def test_full(self) -> None:
        """The certificate is not renewed, which is said; once there is room, it is."""
        self.renew(_FULL, self.disk.fill, self.disk.make_room)

    @skipUnless(SLOW, "takes long: set BIOCONN_SLOW=1 to run it")
    def test_read_only(self) -> None:
        """The same where nothing can be written."""
        self.renew(_READ_ONLY, self.disk.protect, self.disk.unprotect)

    def test_start(self) -> None:
        """
        With no certificate there is no start, and one line says why; with one that is good there
        is.
        """
        for reason, harm, mend in (
            (_FULL, self.disk.fill, self.disk.make_room),
            (_READ_ONLY, self.disk.protect, self.disk.unprotect),
        ):
            harm()
            command = self.start("--listen", "127.0.0.1:0", "--echo")
            self.assertEqual(command.ended(), 1)
            [line] = command.errors
            self.assertRegex(
                line,
                f"^bioconn: (the directory )?{self.state}.* cannot be (made|written): {reason}$",
            )
            self.assertEqual(self.disk.files, [])
            mend()
        command = self.start("--listen", "127.0.0.1:0", "--echo")
        self.connecting(command, command.port())().close()
        self.ends_well(command)
        for reason, harm, mend in (
            (_FULL, self.disk.fill, self.disk.make_room),
            (_READ_ONLY, self.disk.protect, self.disk.unprotect),
        ):
            time.sleep(2)  # until the certificate is due
            harm()
            command = self.start("--listen", "127.0.0.1:0", "--echo")
            command.wait_for(self.not_renewed(reason))
            self.connecting(command, command.port())().close()
            mend()
            command.wait_for(_RENEWED)
            self.ends_well(command)
            self.is_whole()

    @skipUnless(SLOW, "takes long: set BIOCONN_SLOW=1 to run it")
    def test_log(self) -> None:
        """
        The log says how many lines are missing, once it can; nothing else comes of it.
        """
        log = os.path.join(self.disk.path, "its.log")
        start = (*TWISTD[:-1], "--logfile", log, TWISTD[-1])
        command = self.begin(
            "--status", "unix:s.sock", "--listen", "127.0.0.1:0", "--echo", start=start
        )
        assert isinstance(command, Drained)
        port = int(self.logged(log, r": listening on .*:(\d+)$"))
        honest = self.honest(self.echoes(command, port))
        honest.part(REQUESTS)
        alone = honest.part(REQUESTS)
        missing = 0
        parts: list[Figures] = []

        def fault() -> None:
            nonlocal missing
            beside = honest.begin()
            parts.append(beside)
            self.disk.fill()
            # There is a line for each connection, and room for them in the last page of the log.
            self.until(lambda: len(beside.anew) >= _LINES)
            honest.wait_for(REQUESTS)
            self.disk.make_room()
            self.until(lambda: len(beside.anew) >= _LINES + 5)
            pattern = f"(\\d+) lines are missing here: {log} could not be written: {_FULL}$"
            missing += int(self.logged(log, pattern))
            honest.begin()
            # What was is of no interest any more, and would fill it.
            os.truncate(log, 0)

        levels = self.levels_off([command.pid], fault, honest)
        after = honest.part(REQUESTS)
        self.all_served(alone, *parts, after)
        honest.finish()
        self.assertEqual(command.terminate(), 0)
        said = f"bioconn: the log {log} cannot be written: {_FULL}"
        self.assertEqual(command.errors, [said] * len(parts))
        with open(log) as file:
            text = file.read()
        self.assertNotIn("Traceback", text)
        show(f"disk, log: {_FULL}", f"lines missing {missing}", (alone, parts[-1], after), levels)

    def logged(self, log: str, pattern: str) -> str:
        """Wait for a line of the log."""
        end = time.monotonic() + 300
        while True:
            if os.path.exists(log):
                with open(log) as file:
                    match = re.search(pattern, file.read(), re.MULTILINE)
                if match is not None:
                    return match[1]
            self.assertLess(time.monotonic(), end, pattern)
            time.sleep(0.05)


@skipUnless(SLOW, "takes long: set BIOCONN_SLOW=1 to run it")
class AcmeDiskTests(OrderCase):
    """The state of a server with C{acme=} is on such a disk, with C{pebble} as the authority."""

    def make_state(self) -> None:
        self.disk = Disk(self, self.state)
        # Without it there is no start, which is told as for the other files.
        os.mkdir(os.path.join(self.state, "acme"), 0o700)

    def connect(self) -> ssl.SSLSocket:
        """A client that takes what stands in for a certificate, too."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", self.port))
        return context.wrap_socket(plain, server_hostname=NAME)

    async def test_full(self) -> None:
        """
        The first certificate is asked for when there is room to keep the account in: no order is
        made that would be forgotten.
        """
        await self.check(_FULL, lambda: self.disk.fill(), lambda: self.disk.make_room())

    async def test_read_only(self) -> None:
        await self.check(_READ_ONLY, lambda: self.disk.protect(), lambda: self.disk.unprotect())

    async def check(self, reason: str, harm: Callable[[], None], mend: Callable[[], None]) -> None:
        await self.prepare()
        harm()
        program = self.start()
        await program.wait_for("listening")
        honest = Honest(self, self.connect)
        beside = honest.begin()
        await program.wait_for(f"{self.state}.* cannot be (written|used|made): {reason}")
        await self.until(lambda: beside.made >= REQUESTS, "the honest clients are served")
        self.assertEqual(self.told("There are now (\\d+) orders"), [])
        self.assertEqual([each for each in self.disk.files if not each.endswith(".value")], [])
        mend()
        honest.begin()
        await self.served(program)
        alone = honest.begin()
        await self.until(lambda: alone.made >= REQUESTS, "the honest clients are served")
        honest.finish()
        self.assertEqual(dict(beside.lost + alone.lost), {})
        self.assertEqual(len(self.told("Issued certificate serial")), 1)
        self.assertEqual(len(self.kept("certificates")), 1)
        self.assertNotIn("Traceback", program.said)
        show(
            f"disk, acme=: {reason}",
            f"orders {self.told('There are now (.+) orders')[-1]}",
            (alone, beside, alone),
        )
        await program.stop()
