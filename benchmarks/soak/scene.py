"""
What stands around the load: the server with its configuration and its certificates, the back ends,
and an authority that certificates are ordered from, where there is one.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from attrs import define, fields
from prometheus_client.parser import text_string_to_metric_families

from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.certificates.loading import CertifiedKey

from ..processes import Failed, Program, find, free_port, python_module

NAMES = ("a.soak.test", "b.soak.test", "one.w.soak.test")
"""What most clients ask for: two names, and one that a wildcard is for."""

TLS_BACK_END = "tls.soak.test"
"""What is forwarded to the back end that speaks TLS."""

CLIENT = "client.soak.test"
"""Where clients need a certificate."""

DEVELOPMENT = "localhost"
"""What the certificate for development is for."""

ACME = "acme.soak.test"
"""What a certificate is ordered for."""

SITES = {
    "a": ("a.soak.test",),
    "b": ("b.soak.test",),
    "w": ("*.w.soak.test",),
    "tls": (TLS_BACK_END,),
    "client": (CLIENT,),
}
"""The files of the directory of certificates, and what each is for."""

HANDSHAKE_TIMEOUT = 120
"""
Seconds.  It is more than the default: on a machine that others use as well, all may stand still for
longer than that, and an honest client that was late for that reason is not to be taken for one that
the server has lost.
"""

IMPATIENT_TIMEOUT = 5
"""The same where those come that do not go on with theirs."""

STRANGER = "127.0.0.66"
"""An address that no rule lets in."""

_PATIENCE = 60.0
"""Seconds that the server has to answer, or to start."""

_STATUS = "status.sock"
_CONFIGURATION = "soak.toml"
_LOG = "bioconn"


def configuration(ports: Ports, changed: bool = False, acme: str | None = None) -> str:
    """
    The server's file.

    @param changed: the other one of the two between which it is reloaded: one listener is another,
        and there is one more.
    @param acme: the URL of the directory of an authority.
    """
    extra = f"""
[[listen]]
endpoint = "127.0.0.1:{ports.extra}"
certificates = "sites"
echo = true
"""
    ordered = f"""
[[listen]]
endpoint = "127.0.0.1:{ports.acme}"
acme = "soak@soak.test"
names = ["{ACME}"]
acmeDirectory = "{acme}"
acmeAuthorities = "ca.pem"
state = "state"
handshakeTimeout = {HANDSHAKE_TIMEOUT}
forward = "127.0.0.1:{ports.plain}"
"""
    return f"""
status = "unix:{_STATUS}"
state = "state"

[[listen]]
endpoint = "127.0.0.1:{ports.main}"
certificates = "sites"
handshakeTimeout = {HANDSHAKE_TIMEOUT + changed}
unknownName = "alert"
allow = ["network=127.0.0.0/26"]
forward = "127.0.0.1:{ports.plain}"

[[listen.route]]
names = ["{TLS_BACK_END}"]
forward = "bioconn:localhost:{ports.tls}:trustRoots=ca.pem"

[[listen.route]]
names = ["{CLIENT}"]
clientAuthorities = "ca.pem"
allow = ["cn=welcome"]
forward = "127.0.0.1:{ports.plain}"

[[listen]]
endpoint = "127.0.0.1:{ports.impatient}"
certificates = "sites"
handshakeTimeout = {IMPATIENT_TIMEOUT}
forward = "127.0.0.1:{ports.plain}"

[[listen]]
endpoint = "127.0.0.1:{ports.development}"
handshakeTimeout = {HANDSHAKE_TIMEOUT}
forward = "127.0.0.1:{ports.plain}"
{ordered if acme else ""}{extra if changed else ""}"""


@define
class Ports:
    """
    The server's, and those of the back ends.

    @ivar impatient: where a handshake may not take long.
    @ivar extra: one that the server has in one of its two configurations alone.
    """

    main: int
    impatient: int
    development: int
    acme: int
    extra: int
    plain: int
    tls: int
    authority: int
    management: int

    @classmethod
    def free(cls) -> Self:
        """Ports that nobody has, and that differ."""
        found: set[int] = set()
        while len(found) < len(fields(cls)):
            found.add(free_port())
        return cls(*sorted(found))


class Scene:
    """
    It is set up when it is entered, and all has ended when it is left.

    @ivar server: the server's process.
    @ivar has_acme: whether there is an authority to order from.
    @ivar left_out: why there is none.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = Ports.free()
        self.has_acme = False
        self.left_out = self._no_acme()
        self.server: Program
        self._programs: list[Program] = []
        self._directory_url: str | None = None

    @property
    def port(self) -> int:
        """Where most clients come to."""
        return self.ports.main

    @property
    def development_port(self) -> int:
        """Where there is the certificate for development."""
        return self.ports.development

    @property
    def acme_port(self) -> int:
        """Where there is a certificate that was ordered."""
        return self.ports.acme

    @property
    def backends(self) -> list[Program]:
        """All but the server."""
        return [each for each in self._programs if each is not self.server]

    @property
    def log(self) -> Path:
        """What the server has written."""
        return self.directory / f"{_LOG}.log"

    def path(self, name: str) -> str:
        """Of a file of ours."""
        return str(self.directory / name)

    def __enter__(self) -> Self:
        """
        @raise Failed: something does not start.
        """
        try:
            self._begin()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        for program in reversed(self._programs):
            program.stop()

    def _begin(self) -> None:
        self._authority = DevelopmentAuthority(self.path("authority"))
        stranger = DevelopmentAuthority(self.path("other-authority"))
        os.symlink("authority/ca.pem", self.path("ca.pem"))
        os.mkdir(self.path("sites"))
        for name in SITES:
            self.replace(name)
        self._write("back-end.pem", self._authority.issue(["localhost"]))
        self._write("welcome.pem", self._authority.issue_client("welcome"))
        self._write("unwelcome.pem", self._authority.issue_client("unwelcome"))
        self._write("stranger.pem", stranger.issue_client("welcome"))
        ports = self.ports
        words = [str(ports.plain), str(ports.tls), self.path("back-end.pem")]
        backend = self._start("back end", python_module("soak.backend", *words))
        backend.wait_until_listening(ports.plain, ports.tls)
        if self.left_out is None:
            self._start_authority()
        self.configure(changed=False)
        command = [sys.executable, "-m", "twisted_bioconn", "--config", _CONFIGURATION]
        self.server = self._start(_LOG, command)
        self.server.wait_until_listening(ports.main, ports.development, limit=_PATIENCE)
        if self.has_acme:
            self._wait_for_order()

    def _start(
        self, name: str, command: Sequence[str], more: dict[str, str] | None = None
    ) -> Program:
        program = Program(name, command, self.directory, None, more)
        self._programs.append(program)
        return program

    def _write(self, name: str, certificate: CertifiedKey) -> None:
        """In one step: whoever looks finds the one before or this one."""
        path = self.directory / name
        part = path.with_suffix(".part")
        part.write_bytes(certificate.to_pem())
        part.chmod(0o600)
        part.replace(path)

    # An authority to order from

    @staticmethod
    def _no_acme() -> str | None:
        if find("pebble") is None:
            return "pebble is not installed"
        for module in ("acme", "josepy"):
            if find_spec(module) is None:
                return f"the Python module {module} is not installed"
        return None

    def _start_authority(self) -> None:
        own = self._authority.issue(["localhost"])
        self._write("pebble.pem", own)
        settings = {
            "listenAddress": f"127.0.0.1:{self.ports.authority}",
            "managementListenAddress": f"127.0.0.1:{self.ports.management}",
            "certificate": self.path("pebble.pem"),
            "privateKey": self.path("pebble.pem"),
            "httpPort": 1,
            "tlsPort": 1,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
        }
        Path(self.path("pebble.json")).write_text(json.dumps({"pebble": settings}), "utf-8")
        program = find("pebble")
        assert program is not None
        # It takes every challenge for answered: how they are answered is not the point here.
        more = {"PEBBLE_VA_ALWAYS_VALID": "1", "PEBBLE_VA_NOSLEEP": "1"}
        command = [program, "-config", self.path("pebble.json"), "-strict=false"]
        pebble = self._start("pebble", command, more)
        pebble.wait_until_listening(self.ports.authority, self.ports.management)
        context = ssl.create_default_context(cafile=self.path("ca.pem"))
        asked = http.client.HTTPSConnection(
            "localhost", self.ports.management, context=context, timeout=_PATIENCE
        )
        try:
            asked.request("GET", "/roots/0")
            Path(self.path("pebble-root.pem")).write_bytes(asked.getresponse().read())
        finally:
            asked.close()
        self.has_acme = True
        self._directory_url = f"https://localhost:{self.ports.authority}/dir"

    def _wait_for_order(self) -> None:
        """Until the first certificate is there, a stand-in is served, which nobody trusts."""
        context = ssl.create_default_context(cafile=self.path("pebble-root.pem"))

        def issued() -> bool:
            with suppress(OSError):
                self.serial(self.acme_port, ACME, context)
                return True
            return False

        if not wait_until(issued, _PATIENCE):
            raise Failed("pebble has issued no certificate")

    # What an operator does

    def replace(self, name: str) -> int:
        """
        Put another certificate in the place of one.

        @param name: a key of L{SITES}.
        @return: its serial number.
        """
        made = self._authority.issue(SITES[name])
        self._write(f"sites/{name}.pem", made)
        return made.leaf.serial_number

    def configure(self, changed: bool) -> None:
        """Write one of the two configurations."""
        text = configuration(self.ports, changed, self._directory_url)
        Path(self.path(_CONFIGURATION)).write_text(text, "utf-8")

    def misconfigure(self) -> None:
        """Write one that is wrong."""
        text = configuration(self.ports, True, self._directory_url)
        wrong = text.replace("unknownName", "unkownName")
        Path(self.path(_CONFIGURATION)).write_text(wrong, "utf-8")

    def hang_up(self) -> None:
        """Have it look for what has changed."""
        os.kill(self.server.pid, signal.SIGHUP)

    def renew(self, name: str | None = None) -> str:
        """
        Have it renew certificates, as C{bioconn renew} does.

        @return: what it says.
        """
        path = "/control/renew" + (f"/{name}" if name else "")
        told = json.loads(self.ask(path, "POST"))
        if "error" in told:
            raise RuntimeError(f"{path}: {told['error']}")
        return str(told["said"])

    def serial(self, port: int, name: str, context: ssl.SSLContext) -> int:
        """The serial number of the certificate that a client gets now, and verifies."""
        with (
            socket.create_connection(("127.0.0.1", port), _PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=name) as connection,
        ):
            told = connection.getpeercert()
            assert told is not None
            return int(str(told["serialNumber"]), 16)

    # What it tells

    def ask(self, path: str, method: str = "GET") -> bytes:
        """
        What its status says at a path.
        """
        asked = http.client.HTTPConnection("localhost", timeout=_PATIENCE)
        asked.sock = socket.socket(socket.AF_UNIX)
        try:
            asked.sock.settimeout(_PATIENCE)
            asked.sock.connect(self.path(_STATUS))
            asked.request(method, path, headers={"X-Bioconn-Control": "1"})
            return asked.getresponse().read()
        finally:
            asked.close()

    def metrics(self) -> dict[str, float]:
        """
        Its metrics, each the sum over all that it is told of, and those of one label also by that.
        """
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.ask("/metrics").decode()):
            for sample in family.samples:
                labels = {key: value for key, value in sample.labels.items() if key != "listener"}
                names = [sample.name]
                if len(labels) == 1:
                    names.append(f"{sample.name} {next(iter(labels.values()))}")
                for name in names:
                    found[name] = found.get(name, 0.0) + sample.value
        return found

    def types(self) -> dict[str, int]:
        """How many objects of each type it has."""
        [told] = json.loads(self.ask("/memory"))["processes"]
        found: dict[str, int] = told["types"]
        return found


def wait_until(done: Callable[[], Any], limit: float, pause: float = 0.2) -> bool:
    """
    Ask now and then whether something is done.

    @param limit: seconds.
    """
    deadline = time.monotonic() + limit
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
