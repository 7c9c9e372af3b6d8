"""
C{bioconn status} and its like: what a running server is asked, and told to do, from a terminal.

They speak HTTP over the UNIX socket on which the server tells its status.  The exit status is 0;
1 where the server says no, or C{status} finds it not ready; 2 where the command line is wrong; 3
where no server answers.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, HelpFormatter, Namespace
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TextIO
from urllib.parse import quote

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.task import react
from twisted.web.client import ResponseFailed

from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.asking import Answer, ask
from twisted_bioconn.server.facts import printable, whole_sentence
from twisted_bioconn.server.status_ports import default_socket

__all__ = ["COMMANDS", "main"]

PATIENCE = 60.0
"""Seconds that a server has to answer; a reload reads files, and a renewal asks an authority."""

PAGE = 1000
"""How many connections are asked for at a time."""

MOST_TYPES = 20
"""How many types of objects are told: those with most."""

_NO = 1
_NOBODY = 3


def main(
    argv: Sequence[str] | None = None,
    *,
    reactor: Any = None,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
) -> None:
    """
    Run a command, and end the process.

    @param argv: the words after C{bioconn}; those of this process, if not given.
    @param reactor: one that is not running; the usual one, if not given.
    @raise SystemExit: always.
    """
    asked = _parser().parse_args(argv)
    try:
        path = os.path.expanduser(asked.socket) if asked.socket else default_socket()
    except ConfigurationError as error:
        raise SystemExit(f"bioconn: {error}; --socket says where the server is") from None
    command = _Command(path, stdout or sys.stdout, stderr or sys.stderr, asked)
    react(command.run, _reactor=reactor)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="bioconn",
        description="Ask a running server, or tell it what to do.",
        formatter_class=partial(HelpFormatter, max_help_position=20),
    )
    parser.set_defaults(number=None, name=None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, (_, about) in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument(
            "--socket", metavar="PATH", help="the server's socket; by default the one in its state"
        )
        command.add_argument(
            "--json", action="store_true", help="print what the server says, for programs"
        )
        if name == "close":
            command.add_argument("number", type=_number, help="as `bioconn connections` shows it")
        if name == "renew":
            command.add_argument(
                "name", nargs="?", metavar="NAME", help="only what is served for this name"
            )
    return parser


def _number(text: str) -> str:
    """
    A connection's number, with that of its process and a full stop before it where that is needed.

    @raise ValueError: it is no such number.
    """
    if not all(part.isascii() and part.isdecimal() for part in text.split(".", 1)):
        raise ValueError(text)
    return text


class _Refused(Exception):
    """The server has said no, in a sentence."""


class _Command:
    """One command."""

    def __init__(self, path: str, stdout: TextIO, stderr: TextIO, asked: Namespace) -> None:
        self._path = path
        self._stdout = stdout
        self._stderr = stderr
        self._asked = asked
        self._reactor: Any = None

    @inlineCallbacks
    def run(self, reactor: Any) -> Any:
        """
        Do what was asked for.

        @raise SystemExit: it has not gone as it should.
        """
        self._reactor = reactor
        name = self._asked.command
        steps = COMMANDS[name][0]
        try:
            outcome = yield steps(self)
            self._stdout.flush()
        except _Refused as error:
            self._end(_NO, str(error))
        except BrokenPipeError:
            # Whoever reads it has had enough, as head(1) may: Python is not to try again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stdout.fileno())
        except (ConnectError, ConnectionClosed, ResponseFailed, OSError) as error:
            self._end(_NOBODY, f"no server answers at {self._path}: {_why(error)}")
        else:
            if outcome:
                raise SystemExit(outcome)

    def _end(self, status: int, sentence: str) -> None:
        print(f"bioconn: {whole_sentence(sentence)}", file=self._stderr)
        raise SystemExit(status)

    # How the server is spoken to

    def _ask(self, path: str, method: bytes = b"GET") -> Deferred[Any]:
        """
        What the server says, as JSON has it.

        @return: fails with L{_Refused} where it says no.
        """

        def answered(answer: Answer) -> Any:
            try:
                said = json.loads(answer.body)
            except ValueError:
                raise _Refused(f"{self._path} is no socket of a bioconn server's") from None
            if answer.code != 200:
                raise _Refused(said.get("error") or f"the answer is {answer.code}")
            return said

        asking = ask(self._reactor, self._path, path, method)
        return asking.addCallback(answered).addTimeout(PATIENCE, self._reactor)

    def _print(self, line: str = "") -> None:
        print(line, file=self._stdout)

    def _table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Columns that are as wide as they have to be; the last one as it comes."""
        lines = [list(map(str, head)), *([printable(cell) for cell in row] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
            self._print("  ".join(cells).rstrip())

    def _as_json(self, said: Any) -> bool:
        """Print what was said as it is, where that was asked for."""
        if self._asked.json:
            self._print(json.dumps(said, indent=2))
        return bool(self._asked.json)

    # What can be asked

    @inlineCallbacks
    def status(self) -> Any:
        """How the server is."""
        said = yield self._ask("/status")
        ready = not said["obstacles"]
        if not self._as_json(said):
            self._show_status(said, ready)
        return 0 if ready else _NO

    def _show_status(self, said: dict[str, Any], ready: bool) -> None:
        connections, handshakes, sample = said["connections"], said["handshakes"], said["sample"]
        worker = "" if said["worker"] is None else f", worker {said['worker']}"
        others = len(said["processes"]) - 1
        worker += f" and {others} more" if others else ""
        state = "ready" if ready else f"not ready: {', '.join(said['obstacles'])}"
        self._print(f"twisted_bioconn {said['version']}, process {said['pid']}{worker}: {state}")
        self._print(f"up for {_span(said['uptime'])}, since {_moment(said['started'])}")
        self._print()
        rows = [
            (
                "connections",
                f"{connections['open']} open, {connections['handshake']} in the handshake,"
                f" {connections['closing']} closing",
            ),
            (
                "handshakes",
                f"{handshakes['done']} done ({handshakes['resumed']} resumed),"
                f" {handshakes['failed']} failed, {handshakes['silent']} said nothing",
            ),
            (
                "latency",
                f"half within {_took(sample['p50'])}, 99 of 100 within {_took(sample['p99'])}",
            ),
            ("traffic", f"{_bytes(sample['received'])} in, {_bytes(sample['sent'])} out"),
        ]
        failed = sorted(sample["failed"].items(), key=lambda each: -each[1])
        rows += [(f"failed: {number}", cause.replace("_", " ")) for cause, number in failed[:5]]
        rows += [
            (f"refused: {number}", f"{limit} has been reached")
            for limit, number in said["refused"].items()
        ]
        width = max(len(label) for label, _ in rows)
        for label, text in rows:
            self._print(f"{label:<{width}}  {text}")
        if said["listeners"]:
            self._print()
            self._table(
                ("open", "done", "failed", "in", "out", "port"),
                (
                    (
                        str(each["connections"]["open"]),
                        str(each["handshakes"]["done"]),
                        str(each["handshakes"]["failed"]),
                        _bytes(each["bytes"]["received"]),
                        _bytes(each["bytes"]["sent"]),
                        " ".join(filter(None, (each["name"], each["address"], each["target"]))),
                    )
                    for each in said["listeners"]
                ),
            )

    @inlineCallbacks
    def connections(self) -> Any:
        """Which connections there are."""
        found: dict[tuple[int, int], Any] = {}
        while True:
            said = yield self._ask(f"/connections?offset={len(found)}&limit={PAGE}")
            before = len(found)
            found |= {(each["process"], each["number"]): each for each in said["connections"]}
            if len(found) == before or len(said["connections"]) < PAGE:
                break
        told = list(found.values())
        if self._as_json(told):
            return
        self._table(
            ("number", "peer", "name", "state", "age", "in", "out", "TLS", "client", "port"),
            (
                (
                    _called(each, said["pid"]),
                    each["peer"],
                    each["server_name"] or "-",
                    each["state"],
                    _span(each["seconds"]),
                    _bytes(each["received"]),
                    _bytes(each["sent"]),
                    " ".join(filter(None, (each["version"], each["group"], each["alpn"]))) or "-",
                    each["client"] or "-",
                    each["listener"],
                )
                for each in told
            ),
        )

    @inlineCallbacks
    def certificates(self) -> Any:
        """Which certificates there are."""
        said = yield self._ask("/certificates")
        if self._as_json(said["certificates"]):
            return
        self._table(
            ("days left", "expires", "renewal", "key", "names", "source"),
            (
                (
                    "-" if each["days_left"] is None else f"{each['days_left']:.1f}",
                    _day(each["not_after"]),
                    _day(each["next_renewal"]),
                    each["key"] or "-",
                    _names(each),
                    each["source"],
                )
                for each in said["certificates"]
            ),
        )
        for each in said["certificates"]:
            if each["last_error"]:
                self._print(
                    f"error: {printable(_names(each))}: {whole_sentence(each['last_error'])}"
                )

    @inlineCallbacks
    def failures(self) -> Any:
        """Which handshakes have failed last, and why."""
        said = yield self._ask("/failures")
        if self._as_json(said["failures"]):
            return
        for each in said["failures"]:
            self._print(f"{_moment(each['when'])}  {whole_sentence(each['sentence'])}.")
            if each["advice"]:
                self._print(f"{'':19}  {whole_sentence(each['advice'])}.")
        if not said["failures"]:
            self._print("none has failed since the start")

    @inlineCallbacks
    def memory(self) -> Any:
        """What its memory is used for."""
        said = yield self._ask("/memory")
        if self._as_json(said["processes"]):
            return
        for each in said["processes"]:
            worker = "" if each["worker"] is None else f", worker {each['worker']}"
            calls = each["delayed_calls"]
            self._print(
                f"process {each['pid']}{worker}: {calls['call']} delayed calls,"
                f" {calls['deadline']} deadlines"
            )
            held = {"Python's small objects": f"{each['python_blocks']} blocks"}
            held |= {f"heap, {name}": _bytes(size) for name, size in (each["heap"] or {}).items()}
            for label, text in held.items():
                self._print(f"{label:<22}  {text}")
            self._print(f"{'objects since the start':<22}  {each['objects']}")
            common = list(each["types"].items())[:MOST_TYPES]
            self._table(("number", "type"), ((str(number), name) for name, number in common))

    # What can be done

    def control(self) -> Deferred[Any]:
        """Tell the server to do something, and say what it says."""
        name = self._asked.command
        argument = self._asked.name if self._asked.number is None else str(self._asked.number)
        path = name if argument is None else f"{name}/{quote(argument, safe='')}"

        def done(said: Any) -> None:
            if not self._as_json(said):
                self._print(printable(said["said"] or f"{name}: done"))

        return self._ask(f"/control/{path}", b"POST").addCallback(done)


COMMANDS: dict[str, tuple[Callable[[_Command], Any], str]] = {
    "status": (_Command.status, "tell how the server is"),
    "connections": (_Command.connections, "list its connections"),
    "certificates": (_Command.certificates, "list its certificates, with the days they have left"),
    "failures": (_Command.failures, "tell which handshakes have failed last, and why"),
    "memory": (_Command.memory, "tell what its memory is used for, to see whether it grows"),
    "reload": (_Command.control, "have it look for what has changed"),
    "renew": (_Command.control, "have it renew its certificates now"),
    "drain": (_Command.control, "have it accept no more, and end with its last connection"),
    "close": (_Command.control, "drop one of its connections"),
}
"""The commands: how each is carried out, and what it is for."""


def _called(connection: dict[str, Any], pid: int) -> str:
    """What L{_number} takes for a connection."""
    process, number = connection["process"], connection["number"]
    return str(number) if process == pid else f"{process}.{number}"


def _why(error: Exception) -> str:
    """Why nobody answers."""
    while isinstance(error, ResponseFailed) and error.reasons:
        error = error.reasons[0].value
    if isinstance(error, ConnectError) and isinstance(error.osError, int):
        return os.strerror(error.osError)
    return getattr(error, "strerror", None) or " ".join(str(error).split()).rstrip(".")


def _names(each: dict[str, Any]) -> str:
    names = ", ".join(each["names"]) or "-"
    return f"{names}, and {each['more_names']} more" if each["more_names"] else names


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _day(text: str | None) -> str:
    return "-" if text is None else text[:10]


def _took(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def _span(seconds: float) -> str:
    """A time as it is said: in the two units that matter."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _bytes(number: float) -> str:
    """A number of bytes in the unit that suits it, by powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} PB"
