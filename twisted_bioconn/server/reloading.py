"""
What SIGHUP is for: to look at once for certificates and lists that have changed, and for ports that
the configuration has now, or has no longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_bioconn.certificates.source import CertificateFacts
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.adoption import AdoptedUNIXPort, Sockets
from twisted_bioconn.server.openings import Listener, Opening, Openings, why_not
from twisted_bioconn.server.sites import describe

__all__ = ["Changes", "Proposal", "Reconfiguration", "proposed", "reload"]

_log = Logger()

#: How many failures one line names.
_MOST_NAMED = 5


def reload(served: Sequence[ServerOptions]) -> Deferred[None]:
    """
    Have all look for what has changed, and log in one line what has come of it.

    @return: fires when that is done.
    """

    def failed(failure: Failure) -> None:
        _log.failure("certificates are not loaded anew", failure)

    def done(_: object) -> None:
        facts = list(_facts(served))
        count = sum(each.not_after is not None for each in facts)
        errors = list(dict.fromkeys([*_errors(facts), *_trust_errors(served)]))
        text = "; ".join(errors[:_MOST_NAMED])
        if len(errors) > _MOST_NAMED:
            text += f"; and {len(errors) - _MOST_NAMED} more"
        log = _log.error if errors else _log.info
        log(
            "reloaded: {count} certificates are served, {failures}",
            count=count,
            failures=f"{len(errors)} failed: {text}" if errors else "none failed",
        )

    reloading = [maybeDeferred(each.upkeep.reload).addErrback(failed) for each in served]
    return DeferredList(reloading).addCallback(done)


@frozen
class Proposal:
    """
    What a configuration asks for that is not in force yet.

    @ivar listeners: the ports that are to be open, and no others.
    @ivar differences: what is new about it, a sentence each.
    @ivar adopt: called when it is in force.
    """

    listeners: Sequence[Listener]
    differences: Sequence[str] = ()
    adopt: Callable[[], object] = lambda: None


def proposed(reconfigure: Callable[[], Proposal]) -> Proposal | None:
    """
    What the configuration asks for now; L{None} if it is wrong, for which the reason is logged.

    @param reconfigure: raises C{ConfigurationError} for what is wrong about it.
    """
    try:
        return reconfigure()
    except (ConfigurationError, SystemExit) as error:
        _log.error("nothing is changed: {error}", error=error)
    except Exception as error:
        _log.failure("nothing is changed: {error}", error=describe(error))
    return None


@frozen
class Changes:
    """
    What one configuration has that another one has not.

    @ivar kept: the listeners that are in both, as they are.
    @ivar added: those that are to be opened.
    @ivar gone: those that are to be closed.
    """

    kept: tuple[Listener, ...]
    added: tuple[Listener, ...]
    gone: tuple[Listener, ...]

    @classmethod
    def between(cls, before: Iterable[Listener], after: Iterable[Listener]) -> Changes:
        """What has to be done to have this in the place of that."""
        gone, kept, added = list(before), [], []
        for wanted in after:
            same = next((each for each in gone if each.identity == wanted.identity), None)
            if same is None:
                added.append(wanted)
            else:
                gone.remove(same)
                kept.append(same)
        return cls(tuple(kept), tuple(added), tuple(gone))

    def __bool__(self) -> bool:
        return bool(self.added or self.gone)

    def __str__(self) -> str:
        names = [each.name for each in self.added]
        gone = [each.name for each in self.gone]
        changed = [name for name in names if name in gone]
        parts = [
            f"{word} {', '.join(found)}"
            for word, found in (
                ("opened", [name for name in names if name not in changed]),
                ("changed", changed),
                ("closed", [name for name in gone if name not in changed]),
            )
            if found
        ]
        return "; ".join([*parts, f"{len(self.kept)} as before"])


class Reconfiguration:
    """
    Another configuration in the place of the present one: all of it, or none.

    The new ports are opened first.  One that is where an old one was has its socket, so that nobody
    is refused meanwhile; one that is as before is not touched.  When all are open, those that are
    no longer wanted are closed.  Connections go on, wherever they came in.
    """

    def __init__(self, openings: Openings, sockets: Sockets) -> None:
        self._openings = openings
        self._sockets = sockets

    def to(self, listeners: Sequence[Listener]) -> Deferred[tuple[Changes, list[Opening]] | None]:
        """
        Have these listeners, and no others.

        @return: fires with what was changed and what was closed; with L{None} if nothing was, for
            which the reason is logged.
        """
        before = self._openings.open[:]
        changes = Changes.between([each.listener for each in before], listeners)
        gone = [each for each in before if any(each.listener is one for one in changes.gone)]
        lent = [(each, self._openings.lend(each)) for each in gone]
        opening = [self._openings.listen(each) for each in changes.added]

        def all_tried(
            results: Sequence[tuple[bool, Any]],
        ) -> Deferred[tuple[Changes, list[Opening]] | None]:
            reasons = [
                f"{listener.name}: {why_not(result.value)}"
                for listener, (success, result) in zip(changes.added, results, strict=True)
                if not success
            ]
            closing: list[Deferred[Any]] = []
            if reasons:
                closing += [self._openings.close(each) for success, each in results if success]
            for each, held in lent:
                taken = None if held is None else held.taken
                if not reasons:
                    if isinstance(taken, AdoptedUNIXPort):
                        taken.own(each.port)
                    closing.append(self._openings.close(each, taken is not None))
                if held is not None:
                    self._sockets.take_back(held)

            def closed(_: object) -> tuple[Changes, list[Opening]] | None:
                if not reasons:
                    return changes, gone
                _log.error("nothing is changed: {reasons}", reasons="; ".join(reasons))
                return None

            return DeferredList(closing).addCallback(closed)

        return DeferredList(opening, consumeErrors=True).addCallback(all_tried)


def _facts(served: Iterable[ServerOptions]) -> Iterable[CertificateFacts]:
    """Of each certificate once, although several ports may have it."""
    found: dict[CertificateFacts, None] = {}
    for options in served:
        if options.source is not None:
            found.update(dict.fromkeys(options.source.facts()))
    return found


def _errors(facts: Iterable[CertificateFacts]) -> Iterable[str]:
    return (each.last_error for each in facts if each.last_error is not None)


def _trust_errors(served: Iterable[ServerOptions]) -> Iterable[str]:
    trusts = [options.trust for options in served if options.trust is not None]
    return (each.last_error for each in trusts if each.last_error is not None)
