"""
The servers that the cases are put to: C{twistd bioconn}, and what it is compared with.

Each is one process, which is started when it is first needed and ends with the one that runs the
tests.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.conformance.configurations import BODY, CONFIGURATIONS, WITHOUT_NAMES, Configuration
from tests.conformance.known import BARE, NGINX, OURS
from tests.honest import settled_levels
from tests.peers.processes import free_port
from tests.programs import require
from tests.server.command import ROOT, TWISTD
from tests.tls_material import HOST, Party, authority, pem, rsa_server, server

_SECONDS = 60.0
"""In which a server has to be there."""

_LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")

_SETPRIV = shutil.which("setpriv")


class Server:
    """
    A server.

    @ivar name: what it is called.
    @ivar version: of what it runs on.
    @ivar ports: by the name of a configuration.
    """

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.ports: dict[str, int] = {}
        self.lines: list[str] = []
        self._said: Queue[str | None] = Queue()
        self._process: subprocess.Popen[str] | None = None

    def start(self, command: Sequence[str | Path]) -> None:
        """Start its process."""
        if _SETPRIV is not None:
            command = [_SETPRIV, "--pdeathsig", "KILL", *command]
        environment = {**os.environ, "PYTHONPATH": ROOT, "PYTHONUNBUFFERED": "1"}
        process = self._process = subprocess.Popen(
            [*map(str, command)],
            cwd=directory(),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        Thread(target=self._listen, args=(process.stdout,), daemon=True).start()
        atexit.register(self.stop)

    def _listen(self, output: Sequence[str]) -> None:
        for line in output:
            self._said.put(line.rstrip("\n"))
        self._said.put(None)

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Wait for a line; L{None} where the process has ended without it."""
        while True:
            try:
                line = self._said.get(timeout=_SECONDS)
            except Empty:
                raise AssertionError(f"{self.name} does not start: {self.lines}") from None
            if line is None:
                return None
            self.lines.append(line)
            match = pattern.search(line)
            if match is not None:
                return match

    def listens(self, where: Sequence[Configuration]) -> None:
        """Wait until it says on which ports it serves these."""
        for each in where:
            match = self.wait_for(_LISTENING)
            if match is None:
                raise AssertionError(f"{self.name} has ended: {self.lines}")
            self.ports[each.name] = int(match[1])

    def unhandled(self) -> list[str]:
        """What it has said, since this was asked last, of errors that nobody had thought of."""
        lines = []
        while True:
            try:
                line = self._said.get_nowait()
            except Empty:
                break
            lines.append("it has ended" if line is None else line)
        self.lines += lines
        wrong = ("Traceback", "Unhandled", "#error", "#critical", "it has ended")
        return [line for line in lines if any(each in line for each in wrong)]

    def levels(self) -> tuple[int, int]:
        """How many bytes and descriptors it has, once the latter do not change any more."""
        assert self._process is not None
        return settled_levels([self._process.pid])

    def stop(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


def _pair(party: Party) -> bytes:
    key = party.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return b"".join(map(pem, party.chain)) + key


@cache
def directory() -> Path:
    """The directory with what the servers need, below where the tests run."""
    made = Path("conformance").absolute()
    (made / "names").mkdir(parents=True)
    (made / "web").mkdir()
    (made / "web" / "index.html").write_bytes(BODY)
    (made / "root.pem").write_bytes(pem(authority().certificate))
    for name, party in (
        ("server.pem", server()),
        ("rsa.pem", rsa_server()),
        (f"names/{HOST}.pem", server()),
    ):
        path = made / name
        path.touch(mode=0o600)
        path.write_bytes(_pair(party))
    return made


@cache
def bioconn() -> Server:
    """C{twistd bioconn}."""
    from OpenSSL import SSL

    made = Server("bioconn", SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode())
    words: list[str] = ["--state", "state"]
    for each in CONFIGURATIONS:
        options = f"bioconn:0:interface=127.0.0.1:policy={each.policy.name}"
        if each.by_name:
            options += ":certificates=names:unknownName=alert"
        else:
            options += f":privateKey={each.certificate}"
        if each.clients is not None:
            options += f":clientAuthorities=root.pem:clientCertificate={each.clients}"
        words += ["--listen", options, "--web", "web"]
    made.start([sys.executable, *TWISTD, *words])
    made.listens(CONFIGURATIONS)
    return made


@cache
def bare() -> Server:
    """OpenSSL with nothing around it."""
    made = Server("OpenSSL", bioconn().version)
    made.start([sys.executable, "-m", "tests.conformance.bare", directory()])
    made.listens(WITHOUT_NAMES)
    return made


@cache
def nginx() -> Server:
    """
    nginx.

    It has no configuration with clients' certificates, which it judges after the handshake.
    """
    program = require("nginx")
    told = subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stderr
    built = re.search(r"(?:running|built) with (OpenSSL \S+)", told)
    where = [each for each in CONFIGURATIONS if each.clients is None]
    for _ in range(3):
        made = Server("nginx", built[1] if built is not None else "an unknown OpenSSL")
        made.ports = {each.name: free_port() for each in where}
        configuration = directory() / "nginx.conf"
        blocks = "\n".join(_block(each, made.ports[each.name]) for each in where)
        temporary = "".join(
            f"{name}_temp_path {directory()}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration.write_text(
            f"daemon off; master_process off; pid {directory()}/nginx.pid;\n"
            "error_log stderr notice; events { }\n"
            f"http {{ access_log off; {temporary} root {directory()}/web;\n{blocks}\n}}\n"
        )
        made.start([program, "-p", directory(), "-c", configuration, "-e", "stderr"])
        if made.wait_for(re.compile("start worker|event method")) is not None:
            return made
        # Somebody else was quicker to take a port.
    raise AssertionError(f"nginx does not start: {made.lines}")


def _block(how: Configuration, port: int) -> str:
    policy = how.policy
    versions = "TLSv1.3" if policy is not CONFIGURATIONS[0].policy else "TLSv1.2 TLSv1.3"
    # nginx's OpenSSL may be older than the first of the groups.
    tls = (
        f"ssl_protocols {versions}; ssl_ecdh_curve {':'.join(policy.groups[1:])};"
        f" ssl_conf_command Ciphersuites {':'.join(policy.ciphersuites_tls13)};"
        f" ssl_conf_command SignatureAlgorithms {':'.join(policy.signature_algorithms)};"
        f" ssl_certificate {how.certificate}; ssl_certificate_key {how.certificate};"
        f" ssl_session_cache shared:{how.name}:1m;"
    )
    if policy.ciphers_tls12:
        tls += f" ssl_ciphers {':'.join(policy.ciphers_tls12)};"
    if not how.by_name:
        return f"server {{ listen 127.0.0.1:{port} ssl http2; {tls} }}"
    return (
        f"server {{ listen 127.0.0.1:{port} ssl http2 default_server;"
        f" ssl_reject_handshake on; {tls} }}\n"
        f"server {{ listen 127.0.0.1:{port} ssl http2; server_name {HOST}; {tls} }}"
    )


SERVERS: dict[str, Callable[[], Server]] = {OURS: bioconn, BARE: bare, NGINX: nginx}
"""By their names, ours first."""

PORTS: dict[str, Sequence[str]] = {
    OURS: [each.name for each in CONFIGURATIONS],
    BARE: [each.name for each in WITHOUT_NAMES],
    NGINX: [each.name for each in CONFIGURATIONS if each.clients is None],
}
"""Which configurations each of them has."""
