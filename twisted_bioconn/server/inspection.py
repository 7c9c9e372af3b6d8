"""
What C{--show-certificates} and C{--explain NAME} say of a command line, with no port opened.

Nothing is started: no file is watched and no authority is talked to.  What is kept in a store is
read once; one that is asked over a network has a deadline.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any, TextIO

import attrs
from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.python.failure import Failure

from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.certificates.names import facts_about, names_of, spelled
from twisted_bioconn.certificates.source import CertificateFacts, CertificateSource, Choice
from twisted_bioconn.certificates.store import StoreUnavailable
from twisted_bioconn.client_policy import ClientCertificate, ClientPolicy
from twisted_bioconn.context import ServerOptions, UnknownName
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.hello import ClientHello
from twisted_bioconn.port_options import Route, all_options
from twisted_bioconn.server.facts import printable, whole_sentence
from twisted_bioconn.server.hints import did_you_mean

__all__ = ["Report", "Shown", "explain", "inspect", "name_asked_for", "show"]

PATIENCE = 5.0
"""Seconds that a store has to answer."""

_DAY = timedelta(days=1)
_HEAD = ("days left", "key", "next renewal", "source", "names")
_LISTS_HEAD = ("next update", "revocation list of", "in")


@attrs.define(eq=False)
class Shown:
    """
    A port as it is shown.

    @ivar name: what the user calls it.
    @ivar target: what its clients get, as the user wrote it.
    @ivar options: what is known of its TLS; L{None} where it has none, or none of ours.
    @ivar until_renewal: the seconds until its certificate for development is renewed.
    @ivar error: why what it has in a store is not known.
    @ivar routes: where some of its clients go instead.
    """

    name: str
    target: str
    options: ServerOptions | None
    until_renewal: Callable[[], float] | None = None
    error: str | None = None
    routes: Sequence[Route] = ()

    @property
    def all_options(self) -> list[ServerOptions]:
        """The options of the port, and those that routes have of their own; each once."""
        return all_options(self.options, self.routes)

    def facts(self, now: datetime) -> list[CertificateFacts]:
        """Of each certificate that it has."""
        options = self.options
        if options is None:
            return []
        if options.source is None:
            return [facts_about(options.certificate, "memory")]
        found = list(options.source.facts())
        if self.until_renewal is not None:
            due = now + timedelta(seconds=self.until_renewal())
            found = [attrs.evolve(each, next_renewal=due) for each in found]
        return found


@attrs.frozen
class Report:
    """
    What there is to say.

    @ivar lines: of text.
    @ivar is_good: whether all is as it should be.
    """

    lines: tuple[str, ...]
    is_good: bool


def inspect(
    reactor: Any,
    ports: Sequence[Shown],
    reports: Iterable[Callable[[Sequence[Shown], datetime], Report]],
    stdout: TextIO,
) -> int:
    """
    Read what is in the stores, and print what there is to say.

    @param reactor: one that does not run, and that may be used up.
    @return: the exit status: 0, or 1 where something is not as it should be.
    """
    reading = gatherResults([_read(reactor, port) for port in ports])
    if not reading.called:
        reading.addCallback(lambda _: reactor.stop())
        reactor.run()
    now = datetime.now(UTC)
    found = [report(ports, now) for report in reports]
    try:
        for line in (line for report in found for line in report.lines):
            # A name of a file may be in no encoding.
            print(line.encode("utf-8", "backslashreplace").decode(), file=stdout)
        stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough, such as head(1).
        sys.stderr.close()
    return 0 if all(report.is_good for report in found) else 1


def _read(reactor: Any, port: Shown) -> Deferred[None]:
    """Read what a port's sources have in a store."""
    source = None if port.options is None else port.options.source

    def failed(failure: Failure) -> None:
        failure.trap(StoreUnavailable, ConfigurationError, TimeoutError)
        port.error = (
            f"the store has not answered within {PATIENCE:g} s"
            if failure.check(TimeoutError)
            else failure.getErrorMessage()
        )

    reading = Deferred.fromCoroutine(_look(source))
    return reading.addTimeout(PATIENCE, reactor).addErrback(failed)


async def _look(source: CertificateSource | None) -> None:
    for each in _within(source):
        for keeper in each._keepers():
            await keeper.look()


def _within(source: CertificateSource | None) -> Iterator[Any]:
    """The sources among these that keep things in a store."""
    if source is None:
        return
    if hasattr(source, "_keepers"):
        yield source
    inner = (*getattr(source, "_sources", ()), getattr(source, "_source", None))
    for each in inner:
        if isinstance(each, CertificateSource):
            yield from _within(each)


# The table


def show(ports: Sequence[Shown], now: datetime) -> Report:
    """
    A table for each port.  All is as it should be where there are certificates, all are valid, and
    nothing has failed.
    """
    lines: list[str] = []
    is_good = any(port.options is not None for port in ports)
    for port in ports:
        lines.append(printable(port.name))
        if port.options is None:
            lines.append("  no certificates are looked after here")
            continue
        facts = port.facts(now)
        wrong = [problem for each in facts if (problem := _problem(each, now)) is not None]
        if facts:
            lines += _table(_HEAD, [_row(each, now) for each in facts])
        else:
            wrong.append("there is no certificate")
        if port.error is not None:
            wrong.append(port.error)
        for options in port.all_options:
            lists, more = _lists(options)
            lines += lists
            wrong += more
        lines += [f"  error: {whole_sentence(problem)}" for problem in wrong]
        is_good = is_good and not wrong
    return Report(tuple(lines), is_good)


def _row(facts: CertificateFacts, now: datetime) -> tuple[str, ...]:
    return (
        _left(facts, now),
        facts.key_type or "-",
        _moment(facts.next_renewal),
        facts.source,
        ", ".join(map(printable, facts.names)) or "-",
    )


def _problem(facts: CertificateFacts, now: datetime) -> str | None:
    if facts.last_error is not None:
        return facts.last_error
    if facts.not_after is None:
        return f"there is no certificate from {facts.source} yet"
    if now >= facts.not_after:
        return f"the certificate from {facts.source} has expired on {_moment(facts.not_after)} UTC"
    if facts.not_before is not None and now < facts.not_before:
        return (
            f"the certificate from {facts.source} is not valid before"
            f" {_moment(facts.not_before)} UTC"
        )
    return None


def _lists(options: ServerOptions) -> tuple[list[str], list[str]]:
    """The table of revocation lists, and what is wrong about the trust in clients."""
    trust = options.trust
    if trust is None:
        return [], []
    facts = trust.crl_facts()
    wrong = [
        f"the revocation list of {each.issuer} in {each.path} is out of date"
        for each in facts
        if each.is_stale
    ]
    if trust.last_error is not None:
        wrong.append(trust.last_error)
    rows = [(_moment(each.next_update), each.issuer, each.path) for each in facts]
    return (_table(_LISTS_HEAD, rows) if rows else []), wrong


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns, of which the last takes what room it needs."""
    cells = [head, *((*map(printable, row[:-1]), row[-1]) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
    return [
        "  "
        + "  ".join(
            [*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]
        )
        for row in cells
    ]


def _left(facts: CertificateFacts, now: datetime) -> str:
    if facts.not_after is None:
        return "-"
    if now >= facts.not_after:
        return "expired"
    days = (facts.not_after - now) / _DAY
    # Where hours count, show them; never more than is left.
    return str(int(days)) if days >= 10 else f"{int(days * 10) / 10:.1f}"


def _moment(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


# One name


def name_asked_for(text: str) -> str:
    """
    The name of C{--explain}, as a client spells it.

    @raise ConfigurationError: no client asks for that.
    """
    name = spelled(text)
    if name is None or name.startswith("*."):
        raise ConfigurationError(
            f"--explain {printable(text)}: this is neither a host name nor an IP address"
        )
    return name


def explain(name: str, ports: Sequence[Shown], now: datetime) -> Report:
    """
    What a client gets that asks each port for this name.  All is as it should be where one of them
    has a good certificate for it.

    @param name: see L{name_asked_for}.
    """
    lines: list[str] = []
    is_served = False
    known: set[str] = set()
    for port in ports:
        lines.append(printable(port.name))
        rows: list[tuple[str, str]] = []
        if port.options is None:
            rows.append(("certificate", "none is looked after here"))
        else:
            found = _Explained.of(port, port.options, name, now)
            rows += found.rows
            is_served = is_served or found.is_good
            known.update(each for fact in port.facts(now) for each in fact.names)
        rows.append(("target", port.target))
        lines += [f"  {label:<14}{printable(text)}" for label, text in rows]
    if not is_served:
        near = did_you_mean(name, known - {name})
        lines.append(f"{name}: no port has a valid certificate for it{near}")
    return Report(tuple(lines), is_served)


@attrs.frozen
class _Explained:
    rows: list[tuple[str, str]]
    is_good: bool

    @classmethod
    def of(cls, port: Shown, options: ServerOptions, name: str, now: datetime) -> _Explained:
        """What a port does for a client that asks for this name."""
        hello = _hello(name)
        route = next((each for each in port.routes if each.is_for(hello)), None)
        if route is not None and route.options is not None:
            options = route.options
        source = options.source
        known = None if source is None else source.find(hello)
        clients = options.clients
        if isinstance(known, Deferred):
            known.cancel()
            known.addErrback(lambda _: None)
            rows, is_good = [("certificate", "it is looked up when a client asks for it")], True
        else:
            chosen = Choice(options.certificate) if source is None else options.choose(hello)
            assert not isinstance(chosen, Deferred)
            if chosen is None:
                rows, is_good = [("certificate", f"none: {_refusal(options, name)}")], False
            else:
                clients = chosen.clients or clients
                rows, is_good = _certificate(port, chosen.certificate, name, now)
        if port.error is not None:
            rows.append(("error", port.error))
        rows += [
            ("policy", _policy(options)),
            ("clients", _clients(clients)),
            ("unknown names", _UNKNOWN[options.unknown_name]),
        ]
        if route is not None and route.passes_through:
            rule = "" if route.rules is None else f"; rules: {route.rules}"
            return cls([("certificate", f"that of who is behind: TLS ends there{rule}")], True)
        if route is not None:
            rows.append(("route", ", ".join(sorted(route.names))))
        return cls(rows, is_good)


_UNKNOWN = {
    UnknownName.DEFAULT: "get the default certificate",
    UnknownName.ALERT: "are refused with the alert unrecognized_name",
    UnknownName.CLOSE: "are refused without a word",
}

_CLIENTS = {
    ClientCertificate.NONE: "no certificate is asked for",
    ClientCertificate.REQUEST: "a certificate is asked for, and judged by rules",
    ClientCertificate.VERIFY_IF_GIVEN: "a certificate is verified where there is one",
    ClientCertificate.REQUIRE: "a certificate is required",
}


def _hello(name: str) -> ClientHello:
    try:
        ip_address(name)
    except ValueError:
        return ClientHello(server_name=name)
    # RFC 6066, section 3: an IP address is no server name; the client comes to it.
    return ClientHello(local_address=name)


def _refusal(options: ServerOptions, name: str) -> str:
    if options.unknown_name is UnknownName.DEFAULT or _hello(name).server_name is None:
        return "there is no default certificate"
    return f"{name} is not known here"


def _certificate(
    port: Shown, certificate: CertifiedKey, name: str, now: datetime
) -> tuple[list[tuple[str, str]], bool]:
    mine = facts_about(certificate, "")
    kept = next((each for each in port.facts(now) if _is_same(each, mine)), None)
    names = names_of(certificate)
    covers = name in names or ("." in name and f"*.{name.partition('.')[2]}" in names)
    leaf = certificate.leaf
    if kept is not None:
        source = kept.source
    elif leaf.issuer == leaf.subject:
        source = "nowhere: it is self-signed, and stands in until there is another"
    else:
        source = "not told"
    begin, end = leaf.not_valid_before_utc, certificate.not_valid_after
    problem = _problem(attrs.evolve(mine, source=source), now)
    rows = [
        ("certificate", f"{', '.join(names) or 'no name'} ({mine.key_type})"),
        ("source", source),
        ("valid", f"{_moment(begin)} to {_moment(end)} UTC, days left: {_left(mine, now)}"),
    ]
    if not covers:
        rows.append(("error", f"this is not a certificate for {name}: clients refuse it"))
    if problem is not None:
        rows.append(("error", problem))
    if kept is not None and kept.last_error is not None:
        rows.append(("error", kept.last_error))
    return rows, covers and problem is None and kept is not None


def _is_same(one: CertificateFacts, other: CertificateFacts) -> bool:
    return (one.key_type, one.not_before, one.not_after) == (
        other.key_type,
        other.not_before,
        other.not_after,
    ) and set(one.names) == set(other.names)


def _policy(options: ServerOptions) -> str:
    return f"{options.policy.name}, of {options.policy.date}"


def _clients(clients: ClientPolicy) -> str:
    text = _CLIENTS[clients.mode]
    if clients.authorities:
        text += f"; authorities: {len(clients.authorities)}"
    if clients.crls:
        text += f"; revocation lists: {len(clients.crls)} ({clients.crl_mode.value})"
    if clients.rules is not None:
        text += f"; rules: {clients.rules}"
    return text
