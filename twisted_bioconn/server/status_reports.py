"""What is told of a server, as values that JSON has."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import attrs

from twisted_bioconn import __version__
from twisted_bioconn.certificates.names import facts_about
from twisted_bioconn.certificates.source import CertificateFacts
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.server.history import History, Sample
from twisted_bioconn.server.ledger import (
    GOOD,
    QUIET,
    Account,
    Connection,
    ConnectionState,
    Ledger,
    total,
)
from twisted_bioconn.server.memory import heap, objects_by_type
from twisted_bioconn.server.process_metrics import calls_to_come

__all__ = [
    "certificates_report",
    "connections_report",
    "failures_report",
    "history_report",
    "memory_report",
    "status_report",
]

MOST_CERTIFICATES = 1000
"""How many certificates are told of: those that expire first."""

MOST_NAMES = 20
"""How many names of one certificate are told."""

_DAY = timedelta(days=1)


def status_report(ledger: Ledger) -> dict[str, Any]:
    """Counts of all that there is and was."""
    accounts = ledger.accounts
    states = {id(each): each.states() for each in accounts}
    traffic = {id(each): each.traffic() for each in accounts}
    negotiated = total(each.negotiated for each in accounts)
    results = total(each.results for each in accounts)
    versions: Counter[str] = Counter()
    groups: Counter[str] = Counter()
    resumed = 0
    for (version, group, was_resumed), number in negotiated.items():
        versions[version] += number
        groups[group or "none"] += number
        resumed += number if was_resumed else 0
    return {
        "version": __version__,
        "now": _iso(ledger.now()),
        "started": _iso(ledger.started),
        "uptime": round(ledger.uptime, 3),
        "connections": _connections(accounts, states.values()),
        "handshakes": {
            **_handshakes(results),
            "resumed": resumed,
            "results": dict(results),
            "versions": dict(versions),
            "groups": dict(groups),
        },
        "ends": {
            end.name.lower(): number
            for end, number in total(each.ends for each in accounts).items()
        },
        "refused": _limits(accounts),
        "bytes": _bytes(traffic.values()),
        "sample": attrs.asdict(Sample.of(ledger)),
        "listeners": [
            {
                "name": each.name,
                "target": each.target,
                "address": each.address,
                "connections": _connections([each], [states[id(each)]]),
                "handshakes": _handshakes(each.results),
                "refused": _limits([each]),
                "bytes": _bytes([traffic[id(each)]]),
            }
            for each in accounts
        ],
    }


def _connections(
    accounts: Iterable[Account], states: Iterable[Counter[ConnectionState]]
) -> dict[str, int]:
    found = total(states)
    accounts = list(accounts)
    return {
        **{state.value: found[state] for state in ConnectionState},
        "begun": sum(each.begun_count for each in accounts),
        "plain": sum(each.plain_count for each in accounts),
    }


def _handshakes(results: Counter[str]) -> dict[str, int]:
    done = sum(results[result] for result in GOOD)
    quiet = sum(results[result] for result in QUIET)
    return {"done": done, "failed": results.total() - done - quiet, "silent": quiet}


def _limits(accounts: Iterable[Account]) -> dict[str, int]:
    found = total(each.limits for each in accounts)
    return {limit.value: number for limit, number in found.items()}


def _bytes(traffic: Iterable[tuple[int, int]]) -> dict[str, int]:
    traffic = list(traffic)
    return {
        "received": sum(received for received, _ in traffic),
        "sent": sum(sent for _, sent in traffic),
    }


def history_report(history: History) -> dict[str, Any]:
    """What there was, the oldest first."""
    return {"samples": [attrs.asdict(each) for each in history.samples]}


def memory_report(ledger: Ledger, worker: int | None) -> dict[str, Any]:
    """
    What this process's memory is used for, as the only one of a list: others may be added.

    @param worker: which of several processes this is.
    """
    now, types = heap(), objects_by_type()
    report = {
        "pid": os.getpid(),
        "worker": worker,
        "delayed_calls": calls_to_come(ledger.clock),
        "heap": None if now is None else attrs.asdict(now),
        "python_blocks": sys.getallocatedblocks(),
        "objects": types.total(),
        "types": dict(types.most_common()),
    }
    return {"processes": [report]}


def connections_report(ledger: Ledger, offset: int, limit: int) -> dict[str, Any]:
    """
    Some of the connections, port by port and the oldest of each first.

    @param offset: how many of them to leave out.
    @param limit: how many to tell of at most.
    """
    now, moment, pid = ledger.clock.seconds(), ledger.now(), os.getpid()

    def described(connection: Connection) -> dict[str, Any]:
        told = connection.described(now)
        return {"process": pid, **told, "began": _iso(moment - told["seconds"])}

    found = islice(ledger.connections(), offset, offset + limit)
    return {
        "pid": pid,
        "total": ledger.open_count,
        "offset": offset,
        "limit": limit,
        "connections": [described(connection) for connection in found],
    }


def failures_report(ledger: Ledger) -> dict[str, Any]:
    """The handshakes that have failed, the newest first."""
    pid = os.getpid()
    return {
        "failures": [
            {
                "when": _iso(each.moment),
                "listener": each.listener,
                "peer": each.peer,
                "cause": each.explanation.cause.value,
                "sentence": each.explanation.sentence,
                "remedy": each.explanation.remedy.value,
                "setting": each.explanation.setting,
                "advice": each.explanation.advice,
                "waited": round(each.waited, 3),
                "trace": None if each.trace is None else f"{pid}.{each.trace.number}",
            }
            for each in reversed(ledger.failures)
        ]
    }


def certificates_report(options: Iterable[ServerOptions], moment: float) -> dict[str, Any]:
    """
    The certificates of some servers, those that expire first in front.

    @param moment: the present, in seconds since 1970.
    """
    found: dict[CertificateFacts, None] = {}
    for each in {id(each): each for each in options}.values():
        if each.source is None:
            found[facts_about(each.certificate, "memory")] = None
        else:
            found |= dict.fromkeys(each.source.facts())
    now = datetime.fromtimestamp(moment, UTC)
    never = datetime.max.replace(tzinfo=UTC)
    told = sorted(found, key=lambda each: each.not_after or never)[:MOST_CERTIFICATES]
    return {"total": len(found), "certificates": [_certificate(each, now) for each in told]}


def _certificate(facts: CertificateFacts, now: datetime) -> dict[str, Any]:
    end = facts.not_after
    return {
        "names": list(facts.names[:MOST_NAMES]),
        "more_names": max(0, len(facts.names) - MOST_NAMES),
        "source": facts.source,
        "key": facts.key_type,
        "not_before": None if facts.not_before is None else facts.not_before.isoformat(),
        "not_after": None if end is None else end.isoformat(),
        "days_left": None if end is None else round((end - now) / _DAY, 2),
        "lifetime_days": (
            None
            if end is None or facts.not_before is None
            else round((end - facts.not_before) / _DAY, 2)
        ),
        "next_renewal": None if facts.next_renewal is None else facts.next_renewal.isoformat(),
        "last_error": facts.last_error,
    }


def _iso(moment: float) -> str:
    """A time in seconds since 1970, as RFC 3339 writes it, to the millisecond."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
