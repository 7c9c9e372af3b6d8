"""
Servers of the protocols in which TLS begins in mid-connection, from Debian's packages.

Each runs on a port of 127.0.0.1, with a configuration and a directory of its own, in nobody's name
where the tests run in root's; in the clear alone, or so that it demands TLS of its clients.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

import attrs
from twisted.internet.defer import Deferred

from tests.peers.ours import PeerCase
from tests.peers.processes import Program, free_port, on_free_port
from tests.programs import missing, require

USER, PASSWORD = "romeo", "wherefore"
"""Who may log in."""

SUFFIX = "dc=example,dc=org"
MANAGER = f"cn=manager,{SUFFIX}"
"""What LDAP's server has, and who may write there."""


class Home:
    """
    A directory that is a server's own.

    It is not below the tests': a plain user could not go there, and sockets' paths are to be short.
    """

    def __init__(self, case: PeerCase) -> None:
        self._case = case
        self.path = Path(mkdtemp(prefix="bioconn-"))
        case.addCleanup(shutil.rmtree, self.path)
        self.user, self._become = pwd.getpwuid(os.getuid()).pw_name, list[str]()
        if os.getuid() == 0:
            # It stays this user, and ends with the process that runs the tests.
            self.user = "nobody"
            self._become = [require("setpriv"), "--reuid", self.user]
            self._become += ["--regid", str(pwd.getpwnam(self.user).pw_gid), "--clear-groups"]
            self._become += ["--no-new-privs", "--pdeathsig", "TERM"]
        self.group = grp.getgrgid(pwd.getpwnam(self.user).pw_gid).gr_name
        self._own(self.path)

    def write(self, name: str, text: str) -> Path:
        """Write a file, and the directories that it is in."""
        path = self.path
        for part in Path(name).parts[:-1]:
            path = path / part
            if not path.exists():
                path.mkdir()
                self._own(path)
        path = path / Path(name).name
        path.write_text(text)
        path.chmod(0o600)
        self._own(path)
        return path

    def pair(self) -> tuple[Path, Path]:
        """Our certificate for C{localhost}, and its key, where the server can read them."""
        material = self._case.material
        certificate = self.write("server.pem", material.server.read_text())
        return certificate, self.write("key.pem", material.server_key.read_text())

    def run(
        self,
        name: str,
        *arguments: object,
        end: signal.Signals = signal.SIGTERM,
        in_our_name: bool = False,
    ) -> Program:
        """
        Start a program in the user's name.

        @param end: by which it is told to end with the test.
        @param in_our_name: start it in the name of whoever runs the tests.
        """
        become = [] if in_our_name else self._become
        command = [*become, require(name), *map(str, arguments)]
        program = self._case.run_program(*command)

        async def stop() -> None:
            if not program.has_ended:
                assert program.transport is not None
                program.transport.signalProcess(end.name.removeprefix("SIG"))
                await program.ended()

        self._case.addCleanup(lambda: Deferred.fromCoroutine(stop()))
        return program

    def _own(self, path: Path) -> None:
        if os.getuid() == 0:
            shutil.chown(path, self.user, self.group)


def _lines(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


@attrs.frozen
class Dovecot:
    """
    Dovecot's ports.
    """

    imap: int
    pop3: int
    sieve: int


async def dovecot(case: PeerCase, *, tls: bool = False) -> Dovecot:
    """
    Start Dovecot.

    @param tls: whether it demands TLS.
    """
    version = await case.run_program("dovecot", "--version").succeeded()
    if not version.startswith("2.3."):
        raise missing(f"the configuration here is for Dovecot 2.3, and this is {version.strip()}")
    home = Home(case)
    names = {"imap": "imap", "pop3": "pop3", "sieve": "managesieve"}
    own = ["ssl = no", "disable_plaintext_auth = no"]
    if tls:
        certificate, key = home.pair()
        own = ["ssl = required", f"ssl_cert = <{certificate}", f"ssl_key = <{key}"]
    services: list[str] = []
    # They would go to a directory of root's.
    for name in ("anvil", "stats", *(f"{each}-login" for each in names.values())):
        services += [f"service {name} {{", "  chroot =", "}"]

    async def on(_: int) -> Dovecot:
        ports = {name: free_port() for name in names}
        listeners: list[str] = []
        for name, service in names.items():
            listeners += [f"service {service}-login {{", f"  inet_listener {name} {{"]
            listeners += [f"    port = {ports[name]}", "  }"]
            if name != "sieve":
                listeners += [f"  inet_listener {name}s {{", "    port = 0", "  }"]
            listeners += ["}"]
        identity = f"uid={home.user} gid={home.group}"
        configuration = home.write(
            "dovecot.conf",
            _lines(
                f"base_dir = {home.path}/run",
                f"state_dir = {home.path}/state",
                "protocols = imap pop3 sieve",
                "listen = 127.0.0.1",
                f"default_internal_user = {home.user}",
                f"default_internal_group = {home.group}",
                f"default_login_user = {home.user}",
                "log_path = /dev/stderr",
                f"mail_location = maildir:{home.path}/mail",
                "first_valid_uid = 1",
                *("passdb {", "  driver = static", f"  args = password={PASSWORD}", "}"),
                *("userdb {", "  driver = static", f"  args = {identity} home={home.path}", "}"),
                *own,
                *services,
                *listeners,
            ),
        )
        await home.run("dovecot", "-F", "-c", configuration).wait_for("starting up for")
        return Dovecot(**ports)

    _, ports = await on_free_port(on)
    return ports


@attrs.frozen
class Exim:
    """
    Exim, which takes all mail and delivers none.

    @ivar spool: where it keeps what it has taken.
    """

    port: int
    spool: Path

    def taken(self) -> list[tuple[str, str]]:
        """What it has taken: of each mail its headers, as Exim keeps them, and its body."""
        found = []
        for head in sorted(self.spool.glob("input/*-H")):
            # The first line is the file's own name.
            body = head.with_name(head.name[:-1] + "D").read_text().partition("\n")[2]
            found.append((head.read_text(), body))
        return found


async def exim(case: PeerCase, *, tls: bool = False) -> Exim:
    """
    Start Exim.

    @param tls: whether it demands TLS.
    """
    home = Home(case)
    own = ["acl_smtp_rcpt = accept", "tls_advertise_hosts ="]
    rules = []
    if tls:
        certificate, key = home.pair()
        own = ["acl_smtp_rcpt = encrypted", "tls_advertise_hosts = *"]
        own += [f"tls_certificate = {certificate}", f"tls_privatekey = {key}"]
        rules = ["encrypted:", "  accept encrypted = *"]
    configuration = home.write(
        "exim.conf",
        _lines(
            "primary_hostname = mail.example.org",
            f"spool_directory = {home.path}/spool",
            f"log_file_path = {home.path}/%slog",
            f"pid_file_path = {home.path}/exim.pid",
            f"exim_user = {home.user}",
            f"exim_group = {home.group}",
            "keep_environment =",
            "queue_only",
            "acl_smtp_data = accept",
            *own,
            *("begin acl", *rules, "begin routers", "begin transports"),
        ),
    )

    async def on(port: int) -> None:
        # It says on stderr what it would write into its log.
        arguments = ("-bdf", "-oX", f"127.0.0.1:{port}", "-d-all+receive")
        await home.run("exim4", "-C", configuration, *arguments).wait_for("listening for SMTP")

    port, _ = await on_free_port(on)
    return Exim(port, home.path / "spool")


async def slapd(case: PeerCase, *, tls: bool = False) -> int:
    """
    Start OpenLDAP's server, with nothing in it.

    @param tls: whether it demands TLS.
    """
    schema = Path("/etc/ldap/schema/core.schema")
    require("slapd")
    if not schema.exists():
        raise missing(f"slapd has no {schema}")
    home = Home(case)
    home.write("data/empty", "").unlink()
    own: Sequence[str] = ()
    if tls:
        certificate, key = home.pair()
        own = (f"TLSCertificateFile {certificate}", f"TLSCertificateKeyFile {key}")
        own = (*own, "security ssf=128")
    configuration = home.write(
        "slapd.conf",
        _lines(
            f"include {schema}",
            f"pidfile {home.path}/slapd.pid",
            *own,
            "database ldif",
            f"suffix {SUFFIX}",
            f"directory {home.path}/data",
            f"rootdn {MANAGER}",
            f"rootpw {PASSWORD}",
        ),
    )

    async def on(port: int) -> None:
        url = f"ldap://127.0.0.1:{port}"
        # 256: it stays in the foreground, and says what it is asked.
        await home.run("slapd", "-h", url, "-f", configuration, "-d", 256).wait_for("starting")

    port, _ = await on_free_port(on)
    return port


async def prosody(case: PeerCase, *, tls: bool = False) -> int:
    """
    Start Prosody, an XMPP server, which has the domain C{localhost}.

    @param tls: whether it demands TLS.
    """
    home = Home(case)
    home.write(f"data/localhost/accounts/{USER}.dat", f'return {{ password = "{PASSWORD}" }};')
    modules, own = ["saslauth", "roster"], ["c2s_require_encryption = false"]
    own += ["allow_unencrypted_plain_auth = true"]
    if tls:
        certificate, key = home.pair()
        modules.append("tls")
        own = ["c2s_require_encryption = true"]
        own += [f'ssl = {{ certificate = "{certificate}"; key = "{key}" }}']

    async def on(port: int) -> None:
        configuration = home.write(
            "prosody.cfg.lua",
            _lines(
                f'pidfile = "{home.path}/prosody.pid"',
                f'data_path = "{home.path}/data"',
                'log = { info = "*console" }',
                f"modules_enabled = {{ {'; '.join(map(_quoted, modules))} }}",
                'modules_disabled = { "s2s" }',
                f"c2s_ports = {{ {port} }}",
                'c2s_interfaces = { "127.0.0.1" }',
                'authentication = "internal_plain"',
                *own,
                'VirtualHost "localhost"',
            ),
        )
        program = home.run("prosody", "-F", "--config", configuration)
        await program.wait_for(rf"'c2s' on \[127\.0\.0\.1\]:{port}")

    port, _ = await on_free_port(on)
    return port


def _quoted(text: str) -> str:
    return f'"{text}"'


async def postgresql(case: PeerCase, *, tls: bool = False) -> int:
    """
    Start PostgreSQL, whose database C{postgres} the user may use.

    @param tls: whether it demands TLS.
    """
    initdb = _server_program("initdb")
    home = Home(case)
    data = home.path / "data"
    password = home.write("password", PASSWORD)
    await home.run(
        *(initdb, "--pgdata", data, "--username", USER, "--pwfile", password, "--no-sync"),
        *("--auth", "scram-sha-256", "--no-locale", "--encoding", "UTF8"),
    ).succeeded()
    own: list[object] = []
    if tls:
        certificate, key = home.pair()
        own = ["-c", "ssl=on", "-c", f"ssl_cert_file={certificate}", "-c", f"ssl_key_file={key}"]
        # SCRAM with channel binding would find out that TLS does not end at the client.
        home.write("data/pg_hba.conf", "hostssl all all 127.0.0.1/32 password\n")

    async def on(port: int) -> None:
        program = home.run(
            *(_server_program("postgres"), "-D", data, "-h", "127.0.0.1", "-p", port),
            # No shared memory that would outlive it.
            *("-k", home.path, "-c", "fsync=off", "-c", "dynamic_shared_memory_type=mmap"),
            *own,
            # Do not wait for clients.
            end=signal.SIGINT,
        )
        await program.wait_for("ready to accept connections")

    port, _ = await on_free_port(on)
    return port


def _server_program(name: str) -> str:
    """Debian keeps the server's programs, of each version, where no PATH leads to."""
    found = [*Path("/usr/lib/postgresql").glob(f"*/bin/{name}")]
    if found:
        return str(max(found, key=lambda path: int(path.parts[4].split(".")[0])))
    return require(name)
