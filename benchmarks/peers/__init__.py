"""
The programs that are compared, and how each is started.

A program's configuration files are in the directory of its name, one for each L{Role}; what a
file or a command has after a dollar sign is filled in when it is started.  Each has one process,
or worker, or thread that serves, and but for that its defaults.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import ssl
import subprocess
import sys
from collections.abc import Mapping
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from string import Template

from attrs import Factory, frozen

from ..material import Material
from ..processes import KEEP_MEMORY, Failed, Program, find, free_port

HERE = Path(__file__).resolve().parent

OURS = "bioconn"


class Role(Enum):
    """What a program does in a measurement."""

    RELAY = "relay"
    """TLS from the client, plain to the back end."""
    TLS = "tls"
    """TLS on both sides."""
    ECHO = "echo"
    """TLS from the client, whose bytes come back."""
    BARE = "bare"
    """TLS from the client, and nothing behind it."""


@frozen
class Peer:
    """
    A program.

    @ivar name: what the command line and the tables call it.
    @ivar title: what it is, for the list.
    @ivar commands: for each role that it can have, the words of the command.
    @ivar program: what must be on PATH; L{None} where it is Python.
    @ivar modules: what must be importable.
    @ivar version_words: the command whose output has the version; empty where it is Python.
    @ivar packages: the distributions whose versions matter; empty where Python's own does.
    @ivar more: variables of its environment.
    @ivar at_best: further ones, where memory is not what is measured.
    """

    name: str
    title: str
    commands: Mapping[Role, tuple[str, ...]]
    program: str | None = None
    modules: tuple[str, ...] = ()
    version_words: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    more: Mapping[str, str] = Factory(dict)
    at_best: Mapping[str, str] = Factory(dict)

    def missing(self) -> str | None:
        """Why it cannot be measured here; L{None} if it can."""
        if self.program is not None and find(self.program) is None:
            return f"{self.program} is not installed"
        for module in self.modules:
            if find_spec(module) is None:
                return f"the Python module {module} is not installed"
        return None

    def versions(self) -> str:
        """Its version, and those of what it stands on, in a line."""
        if self.version_words:
            return _said_version(self.version_words)
        if not self.packages:
            return f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}"
        return ", ".join(f"{name} {_installed(name)}" for name in self.packages)

    def template(self, role: Role) -> Path | None:
        """The configuration file for a role; L{None} where the command says all."""
        path = HERE / self.name / f"{role.value}.conf"
        return path if path.exists() else None


@frozen
class Site:
    """
    Where programs run in a measurement.

    @ivar directory: for whatever they write.
    @ivar core: the core of the server that is measured.
    """

    directory: Path
    material: Material
    core: int

    def start(
        self,
        peer: Peer,
        role: Role,
        backend: int,
        extra: tuple[str, ...] = (),
        for_memory: bool = False,
    ) -> tuple[Program, int]:
        """
        Start a program and wait until it listens.

        @param backend: the port of the back end.
        @param extra: more words for its command.
        @param for_memory: whether its memory is to be measured.
        @return: it, and its port.
        @raise Failed: it cannot have this role, or does not listen.
        """
        port = free_port()
        command, values = render(peer, role, self.directory, self.material, port, backend)
        more = {**peer.more, **({} if for_memory else peer.at_best)}
        name = f"{peer.name} {role.value}"
        program = Program(name, [*command, *extra], self.directory, self.core, more)
        try:
            ports = [port]
            template = peer.template(role)
            if template is not None and "$inner" in template.read_text("utf-8"):
                ports.append(int(values["inner"]))
            program.wait_until_listening(*ports)
        except BaseException:
            program.stop()
            raise
        return program, port


def render(
    peer: Peer, role: Role, directory: Path, material: Material, port: int, backend: int
) -> tuple[list[str], dict[str, str]]:
    """
    Write a program's configuration, if it has one.

    @return: the command that starts it, and the values that were filled in.
    @raise Failed: it cannot have this role.
    """
    words = peer.commands.get(role)
    if words is None:
        raise Failed(f"{peer.name} has no way to do this ({role.value})")
    values = common_values(directory, material)
    values.update(port=str(port), backend=str(backend), inner=str(free_port()), role=role.value)
    values["configuration"] = str(directory / f"{peer.name}-{role.value}.conf")
    template = peer.template(role)
    if template is not None:
        text = Template(template.read_text("utf-8")).substitute(values)
        Path(values["configuration"]).write_text(text, "utf-8")
    return [Template(word).substitute(values) for word in words], values


def common_values(directory: Path, material: Material) -> dict[str, str]:
    """What configurations may name, whatever program they are for."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    root = os.geteuid() == 0
    modules = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    return {
        "python": sys.executable,
        "here": str(HERE),
        "directory": str(directory),
        "authority": str(material.authority),
        "certificate": str(material.certificate),
        "key": str(material.key),
        "combined": str(material.combined),
        # Two for each relayed connection, and some for the program itself.
        "descriptors": str(descriptors - 64),
        "connections": str(relayed_connections(descriptors)),
        # Started by root, they want to know who else to be; the files are root's alone.
        "user": "user root;" if root else "",
        "hitch_user": 'user = "root"\ngroup = "root"' if root else "",
        "load_stream": f"load_module {modules};" if modules.exists() else "",
    }


def relayed_connections(descriptors: int) -> int:
    """
    The connections that a process can relay which may have so many descriptors.

    They take two each.  stunnel keeps more for itself than others, and takes 125 clients for 256.
    """
    return descriptors * 125 // 256 - 16


def _said_version(words: tuple[str, ...]) -> str:
    path = find(words[0])
    if path is None:
        return "not installed"
    try:
        done = subprocess.run(
            [path, *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return said_version(done.stdout + done.stderr)


def said_version(text: str) -> str:
    """The version number, and OpenSSL's, in what a program says of itself."""
    number = re.search(r"\b\d+\.\d+[\w.+~-]*", text)
    library = re.search(
        r"(?i)running +(?:with|on OpenSSL version *:) OpenSSL (\d+\.\d[\w.]*)", text
    )
    found = number[0] if number else "unknown"
    return f"{found} (OpenSSL {library[1]})" if library else found


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed as a package"


_CONFIGURED = (Role.RELAY, Role.TLS)
_BIOCONN = ("$python", "-m", "twisted_bioconn", "--listen")
_BIOCONN_PORT = "bioconn:$port:interface=127.0.0.1:privateKey=$key:certKey=$certificate"
_FILES = ("$certificate", "$key", "$authority")
_SCRIPTED = (Role.RELAY, Role.TLS, Role.ECHO)


def _asyncio(loop: str) -> Mapping[Role, tuple[str, ...]]:
    words = ("$python", "$here/asyncio_peer.py", loop, "$role", "$port", "$backend", *_FILES)
    return dict.fromkeys(_SCRIPTED, words)


PEERS: tuple[Peer, ...] = (
    Peer(
        OURS,
        "twistd bioconn",
        {
            Role.RELAY: (*_BIOCONN, _BIOCONN_PORT, "--forward", "tcp:127.0.0.1:$backend"),
            Role.TLS: (
                *_BIOCONN,
                _BIOCONN_PORT,
                "--forward",
                "bioconn:localhost:$backend:trustRoots=$authority",
            ),
            Role.ECHO: (*_BIOCONN, _BIOCONN_PORT, "--echo"),
        },
        packages=("Twisted", "pyOpenSSL", "cryptography"),
    ),
    Peer(
        "twisted",
        "Twisted's ssl: endpoint and portforward",
        dict.fromkeys(
            _SCRIPTED,
            ("$python", "$here/twisted_peer.py", "$role", "$port", "$backend", *_FILES),
        ),
        packages=("Twisted", "pyOpenSSL", "cryptography"),
        at_best=KEEP_MEMORY,
    ),
    Peer(
        "stunnel",
        "stunnel",
        dict.fromkeys(_CONFIGURED, ("stunnel", "$configuration")),
        program="stunnel",
        version_words=("stunnel", "-version"),
    ),
    Peer(
        "hitch",
        "hitch",
        {Role.RELAY: ("hitch", "--config=$configuration")},
        program="hitch",
        version_words=("hitch", "--version"),
    ),
    Peer(
        "haproxy",
        "haproxy, mode tcp",
        dict.fromkeys(_CONFIGURED, ("haproxy", "-db", "-q", "-f", "$configuration")),
        program="haproxy",
        version_words=("haproxy", "-vv"),
    ),
    Peer(
        "nginx",
        "nginx stream",
        dict.fromkeys(
            _CONFIGURED,
            ("nginx", "-e", "$directory/peer.log", "-p", "$directory", "-c", "$configuration"),
        ),
        program="nginx",
        version_words=("nginx", "-V"),
    ),
    Peer(
        "ghostunnel",
        "ghostunnel",
        {
            Role.RELAY: (
                "ghostunnel",
                "server",
                "--listen=127.0.0.1:$port",
                "--target=127.0.0.1:$backend",
                "--cert=$certificate",
                "--key=$key",
                "--disable-authentication",
                "--quiet=all",
            )
        },
        program="ghostunnel",
        version_words=("ghostunnel", "--version"),
        more={"GOMAXPROCS": "1"},
    ),
    Peer("asyncio", "asyncio, ssl=", _asyncio("asyncio"), at_best=KEEP_MEMORY),
    Peer(
        "uvloop",
        "the same on uvloop",
        _asyncio("uvloop"),
        modules=("uvloop",),
        packages=("uvloop",),
        at_best=KEEP_MEMORY,
    ),
)
"""In the order in which they are listed."""

BARE = Peer(
    "bare end",
    "a server end in memory, and no more",
    {Role.BARE: ("$python", "$here/bare_peer.py", "$port", "$certificate", "$key")},
)
"""The floor for memory; no peer."""


def peer_named(name: str) -> Peer:
    """
    @raise LookupError: there is none of that name.
    """
    for peer in PEERS:
        if peer.name == name:
            return peer
    raise LookupError(f"there is no peer {name!r}: {', '.join(each.name for each in PEERS)}")
