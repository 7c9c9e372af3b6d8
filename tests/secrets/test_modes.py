"""
Who may read what the program makes: whatever the umask is, and from the moment it is there.

The program runs with a umask of 0, as a careless init script has it, and notes with which mode each
file, directory and socket is asked for, before it is there.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import quoteStringArgument
from twisted.trial.unittest import SynchronousTestCase

from tests.programs import require_module
from tests.server.command import Command
from tests.server.load import STARTED

#: C{python -m twisted_bioconn}, which notes in the file C{made} what it makes.
NOTING = """
import builtins, io, json, os, runpy, sys
os.umask(0)
note = os.open("made", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
os_open, os_mkdir, io_open = os.open, os.mkdir, io.open

def made(how, path, mode):
    mask = os.umask(0)
    os.umask(mask)
    line = json.dumps([how, os.path.abspath(os.fsdecode(path)), mode & ~mask])
    os.write(note, line.encode() + b"\\n")

def open_number(path, flags, mode=0o777, **more):
    if flags & os.O_CREAT and not os.path.lexists(path):
        made("open", path, mode)
    return os_open(path, flags, mode, **more)

def open_file(file, mode="r", *more, **named):
    plain = named.get("opener") is None and not isinstance(file, int)
    if plain and set(mode) & set("wax") and not os.path.lexists(file):
        made("open", file, 0o666)
    return io_open(file, mode, *more, **named)

def mkdir(path, mode=0o777, **more):
    if not os.path.lexists(path):
        made("mkdir", path, mode)
    return os_mkdir(path, mode, **more)

def hook(event, given):
    if event == "socket.bind" and isinstance(given[1], (str, bytes)) and given[1][:1]:
        made("bind", given[1], 0o777)
    elif event == "os.chmod" and not isinstance(given[0], int):
        made("chmod", given[0], given[1] | os.stat(given[0]).st_mode)

os.open, os.mkdir, io.open, builtins.open = open_number, mkdir, open_file, open_file
sys.addaudithook(hook)
sys.dont_write_bytecode = True
runpy.run_module("twisted_bioconn", run_name="__main__", alter_sys=True)
"""

#: What everybody may read, by its name: it is given to those who are to trust it.
PUBLIC = "ca.pem"


class ModeTests(SynchronousTestCase):
    """All that a server makes, with all that makes it make something."""

    def setUp(self) -> None:
        # The path of a socket is short: unix(7).
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.root = Path(made.name)
        for name in ("temporary", "place"):
            (self.root / name).mkdir(0o700)
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = str(self.root / "temporary")
        self.addCleanup(self.set_back, before)

    def set_back(self, before: str | None) -> None:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before

    def path(self, name: str) -> str:
        return str(self.root / "place" / name)

    def words(self, *status: str) -> list[str]:
        require_module("acme")
        found = ["--state", self.path("deep/er/state"), *status]
        for name in ("t.txt", "t.json", "t.html", "t.pcapng"):
            more = "" if "--workers" in status and name == "t.html" else f":trace={self.path(name)}"
            log = quoteStringArgument(self.path(f"{name}.keys"))
            words = f"bioconn:0:interface=127.0.0.1{more}:unsafeKeyLog={log}"
            found += ["--listen", f"0:{words.split(':', 2)[2]}", "--echo"]
        # Nobody answers there; what is asked with is made first.
        options = "acme=none:names=a.example:acmeDirectory=https\\://127.0.0.1\\:1/"
        state = quoteStringArgument(self.path("low/er/acme"))
        words = f"bioconn:0:interface=127.0.0.1:{options}:state={state}"
        return [*found, "--listen", words, "--echo"]

    def run_it(self, words: list[str]) -> None:
        command = Command(self, *words, start=("-c", NOTING))
        ports = [command.port() for _ in range(5)]
        if "--workers" in words:
            for _ in range(2):
                command.wait_for(STARTED)
        authority = self.path("deep/er/state/ca.pem")
        for port in ports[:4]:
            with command.connect(port, authority=authority) as client:
                client.sendall(b"?")
                self.assertEqual(client.recv(10), b"?")
        self.look_at_what_is_there()
        self.assertEqual(command.terminate(), 0, command.lines)
        self.look_at_what_is_there()
        with open(os.path.join(command.directory, "made")) as file:
            self.look_at_what_was_made([json.loads(line) for line in file])

    def look_at_what_is_there(self) -> None:
        found: dict[str, int] = {}
        for path in (*self.root.glob("place/**/*"), *self.root.glob("temporary/**/*")):
            if path.name != PUBLIC:
                found[str(path)] = stat.S_IMODE(path.lstat().st_mode) & 0o077
        self.assertGreater(len(found), 10)
        self.assertEqual([path for path, mode in found.items() if mode], [])

    def look_at_what_was_made(self, made: list[Any]) -> None:
        kinds = {how for how, _, _ in made}
        self.assertEqual(kinds, {"open", "mkdir", "bind", "chmod"})
        wrong = [
            (how, path, oct(mode))
            for how, path, mode in made
            if mode & 0o077 and not (how == "chmod" and f".{PUBLIC}." in path)
            if path != os.devnull
        ]
        self.assertEqual(wrong, [])

    def test_one_process(self) -> None:
        self.run_it(self.words("--status", "on"))

    def test_workers(self) -> None:
        """Where the status has a port, those of the workers are in a directory of their own."""
        self.run_it(self.words("--workers", "2", "--status", "127.0.0.1:0"))

    def test_workers_sockets(self) -> None:
        """Where it has a socket, they are beside it."""
        self.run_it(self.words("--workers", "2", "--status", self.path("up/s.sock")))
