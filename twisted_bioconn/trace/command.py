"""
C{bioconn trace}: connect to a server, show each step of the handshake, and say what it comes to.

The exit status is 0 where the handshake was done and the server verified, and 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn, TextIO

from cryptography.utils import CryptographyDeprecationWarning
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import react
from twisted.python.failure import Failure

from .. import _option_values as values
from .._contexts import ascii_host
from ..endpoint_strings import client_options
from ..endpoints import ClientEndpoint
from ..errors import ConfigurationError
from . import html, jsonlines, pcapng
from .events import Trace
from .text import style_for, trace_as_text, verdict_as_text
from .tracer import Tracer, TracerLimits
from .verdict import Intent, Verdict, unreached, verdict_on

__all__ = ["Command", "main"]

TICKETS = 0.5
"""Seconds at most that a server has to send session tickets, or to refuse us after all."""

CLOSE = 2.0
"""Seconds that a server has to close after us."""

_LIMITS = TracerLimits(events=3000, octets=8 * 1024 * 1024)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise SystemExit(f"bioconn trace: {message}")


def _parser() -> _Parser:
    parser = _Parser(
        prog="bioconn trace",
        description="Connect to a server, show each step of the handshake, and say what it comes"
        " to. The exit status is 0 where the handshake was done and the server verified.",
        allow_abbrev=False,
    )
    parser.add_argument("where", metavar="HOST:PORT", help="an IPv6 address in brackets")
    for name, metavar, about in (
        ("server-name", "NAME", "the name to ask for, where it is not HOST"),
        ("alpn", "NAME,...", "protocols to offer, best first"),
        ("policy", "NAME", "intermediate (the default) or modern"),
        ("starttls", "PROTOCOL", "ask for TLS in smtp, lmtp, imap, pop3, sieve, ldap, xmpp, …"),
        ("certificate", "FILE", "our own certificate, with its chain"),
        ("private-key", "FILE", "its key, if that is elsewhere"),
        ("passphrase-file", "FILE", "for a key that is encrypted"),
        ("trust-roots", "PATH", "whom to trust; by default those that the system trusts"),
        ("pins", "DIGEST,...", "the server's key has to be one of these"),
    ):
        parser.add_argument(f"--{name}", metavar=metavar, help=about)
    parser.add_argument(
        "--unsafe-skip-verification", action="store_true", help="take any certificate"
    )
    parser.add_argument("--timeout", metavar="SECONDS", default="10", help="10 by default")
    parser.add_argument(
        "--resume", action="store_true", help="connect twice: the second time, resume the session"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page with a sequence diagram")
    parser.add_argument("--pcapng", metavar="FILE", help="write a capture file for Wireshark")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each event")
    parser.add_argument(
        "--verbose", action="store_true", help="show records and OpenSSL's states as well"
    )
    parser.add_argument(
        "--unsafe-trace-secrets",
        action="store_true",
        help="have the keys in what is written: who has them can decrypt the connection",
    )
    parser.add_argument(
        "--unsafe-trace-plaintext",
        action="store_true",
        help="have what is decrypted in what is written",
    )
    return parser


def main(
    argv: Sequence[str] | None = None,
    *,
    reactor: Any = None,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
) -> None:
    """
    Trace, and end the process.

    @param argv: the words after C{bioconn trace}; those of this process, if not given.
    @param reactor: one that is not running; the usual one, if not given.
    @raise SystemExit: always.
    """
    command = Command(argv, stdout or sys.stdout, stderr or sys.stderr)
    # What is odd about a stranger's certificate is no fault of this program.
    warnings.simplefilter("ignore", CryptographyDeprecationWarning)

    async def run(reactor: Any) -> None:
        status = await command.run(reactor)
        if status:
            raise SystemExit(status)

    react(run, _reactor=reactor)


def _for_command_line(sentence: str) -> str:
    """A sentence about an option of an endpoint string, about that of the command line."""
    for name in _OPTIONS:
        words = "-".join(part.lower() for part in re.split(r"(?=[A-Z])", name))
        sentence = re.sub(rf"(?<![\w-]){name}=", f"--{words}=", sentence)
        sentence = re.sub(rf"^{name}:", f"--{words}:", sentence)
    return " ".join(sentence.split())


_OPTIONS = {
    "serverName": "server_name",
    "alpn": "alpn",
    "policy": "policy",
    "starttls": "starttls",
    "certificate": "certificate",
    "privateKey": "private_key",
    "passphraseFile": "passphrase_file",
    "trustRoots": "trust_roots",
    "pins": "pins",
    "timeout": "timeout",
    "unsafeSkipVerification": "unsafe_skip_verification",
}
"""Options of a client's endpoint string, and their names here."""


def split_address(where: str) -> tuple[str, int]:
    """
    A host and a port.

    @raise ConfigurationError: it is none.
    """
    match = re.fullmatch(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[^:]*))?", where)
    if match is None:
        raise ConfigurationError(
            f"{where!r} is no HOST:PORT; an IPv6 address is written in brackets"
        )
    port = values.port_number("443" if match["port"] is None else match["port"])
    if not port:
        raise ConfigurationError(f"{where}: nobody can be at port 0")
    return ascii_host(match["v6"] or match["host"]), port


class _Look(Protocol):
    """
    What is there in place of an application: it says nothing, and hears whatever comes.

    @ivar lost: fires when the connection is lost.
    """

    def __init__(self) -> None:
        self.lost: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


class Command:
    """
    One run.

    @ivar traces: the connections that there were.
    @ivar verdict: what they come to; L{None} before the end.
    """

    def __init__(self, argv: Sequence[str] | None, stdout: TextIO, stderr: TextIO) -> None:
        """
        @param argv: the words after C{bioconn trace}; those of this process, if not given.
        @raise SystemExit: they are wrong, or ask for help.
        """
        self._asked = _parser().parse_args(argv)
        self._stdout = stdout
        self._stderr = stderr
        self.traces: list[Trace] = []
        self.verdict: Verdict | None = None
        try:
            self._prepare(self._asked)
        except ConfigurationError as error:
            raise SystemExit(f"bioconn trace: {_for_command_line(str(error))}") from None

    def _prepare(self, asked: argparse.Namespace) -> None:
        self._host, self._port = split_address(asked.where)
        given = {
            option: getattr(asked, name)
            for option, name in _OPTIONS.items()
            if isinstance(getattr(asked, name), str)
        }
        if asked.unsafe_skip_verification:
            given["unsafeSkipVerification"] = "yes"
        empty = next((option for option, text in given.items() if not text), None)
        if empty is not None:
            raise ConfigurationError(f"{empty}= has no value")
        self._timeout = values.time("timeout", given["timeout"])
        self._options = client_options(self._host, given)
        self._intent = Intent(
            policy=self._options.policy,
            alpn=self._options.alpn,
            settings=given,
            verifies=not asked.unsafe_skip_verification,
        )
        # What is wrong about them is said before anybody is asked anything.
        ClientEndpoint(None, self._options, None, starttls=asked.starttls)  # type: ignore[arg-type]
        for path in filter(None, (asked.html, asked.pcapng)):
            _try_to_write(path)

    async def _trace(self, reactor: Any, title: str) -> Verdict:
        """Connect once."""
        ended: Deferred[Trace] = Deferred()
        tracer = Tracer(
            ended.callback,
            limits=_LIMITS,
            keeps_bytes=self._asked.pcapng is not None,
            unsafe_secrets=self._asked.unsafe_trace_secrets,
            unsafe_plaintext=self._asked.unsafe_trace_plaintext,
            title=title,
        )
        endpoint = ClientEndpoint(
            HostnameEndpoint(
                reactor, self._host.encode("ascii"), self._port, timeout=self._timeout
            ),
            self._options,
            reactor,
            timeout=self._timeout,
            close_timeout=CLOSE,
            starttls=self._asked.starttls,
            tracer=tracer,
        )
        factory = _Looks()
        failure: BaseException | None = None
        try:
            look: Any = await endpoint.connect(factory)
        except Exception as error:
            failure = error
        else:
            # Tickets come when the server has the client's last flight, and so does a refusal.
            await _either(reactor, look.lost, TICKETS)
            look.transport.loseConnection()
        if tracer.begun:
            trace = await ended.addTimeout(CLOSE + self._timeout, reactor)
            self.traces.append(trace)
            if failure is not None:
                # It knows better than the trace where it was us who have given up.
                trace.error = failure
            return verdict_on(trace, self._intent)
        assert failure is not None
        return unreached(failure, f"{self._asked.where}")

    async def run(self, reactor: Any) -> int:
        """
        Do what was asked for.

        @return: the exit status.
        """
        resumes = self._asked.resume
        verdict = await self._trace(reactor, "first connection" if resumes else "")
        if resumes and verdict.good:
            verdict = _of_both(await self._trace(reactor, "second connection"))
        self.verdict = verdict
        try:
            self._show(verdict)
            self._stdout.flush()
        except BrokenPipeError:
            # Whoever reads it has had enough, as head(1) may: Python is not to try again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stdout.fileno())
        except _Unwritten as error:
            print(f"bioconn trace: {error}", file=self._stderr)
            return 1
        return 0 if verdict.good else 1

    def _show(self, verdict: Verdict) -> None:
        asked = self._asked
        if asked.html is not None:
            _write(asked.html, html.page(self.traces, verdict, asked.where))
        if asked.pcapng is not None:
            _write(asked.pcapng, pcapng.header() + b"".join(pcapng.blocks(self.traces)))
        if asked.json:
            for trace in self.traces:
                self._stdout.writelines(jsonlines.lines(trace))
            self._stdout.write(jsonlines.verdict_line(verdict))
            return
        style = style_for(self._stdout)
        lines: list[str] = []
        for trace in self.traces:
            lines += [*trace_as_text(trace, style, asked.verbose), ""]
        lines += verdict_as_text(verdict, style)
        self._stdout.writelines(f"{line}\n" for line in lines)


class _Looks(Factory):
    """Makes what is in place of an application."""

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> _Look:
        return _Look()


def _of_both(second: Verdict) -> Verdict:
    """What two connections come to: the second was to resume the session of the first."""
    if not second.good:
        return second
    if dict(second.agreed).get("session") == "resumed":
        return second
    sentence = "both handshakes are done, and the second has not resumed the session of the first"
    return Verdict(True, sentence, second.agreed, second.better)


class _Unwritten(Exception):
    """A file could not be written."""


def _write(path: str, data: bytes) -> None:
    try:
        with open(path, "wb", opener=_private) as file:
            file.write(data)
    except OSError as error:
        raise _Unwritten(f"{path}: {error.strerror}") from error


def _private(path: str, flags: int) -> int:
    """Open a file that is nobody else's."""
    descriptor = os.open(path, flags, 0o600)
    with suppress(OSError):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, 0o600)
    return descriptor


def _try_to_write(path: str) -> None:
    """
    @raise ConfigurationError: nothing can be written there.
    """
    directory = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise ConfigurationError(f"{path}: this is a directory")
    if not os.path.isdir(directory):
        raise ConfigurationError(f"{path}: there is no directory {directory}")
    if not os.access(path if os.path.exists(path) else directory, os.W_OK):
        raise ConfigurationError(f"{path}: it may not be written")


async def _either(reactor: Any, lost: Deferred[None], seconds: float) -> None:
    """Wait for the end of a connection, or so long."""
    waiting: Deferred[None] = Deferred()
    timer = reactor.callLater(seconds, waiting.callback, None)

    def ended(_: None) -> None:
        if timer.active():
            timer.cancel()
            waiting.callback(None)

    lost.addCallback(ended)
    await waiting
