"""
What C{bioconn renew} is for: to have certificates renewed now, because an operator says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.logger import Logger

from twisted_bioconn.certificates.names import facts_about, spelled
from twisted_bioconn.certificates.source import CertificateSource
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.facts import printable, whole_sentence
from twisted_bioconn.server.hints import did_you_mean

__all__ = ["renew"]

_log = Logger()

#: How many sentences one answer has.
_MOST_TOLD = 20


def renew(served: Sequence[ServerOptions], name: str | None = None) -> Deferred[str]:
    """
    Have all sources renew what they can.

    @param name: a host name or an address: only what is served for it; all if not given.
    @return: fires with what was begun, and why something was not; fails with
        L{ConfigurationError} where there is nothing to be renewed, or nothing for this name.
    """
    wanted = None if name is None else spelled(name)
    if name is not None and wanted is None:
        raise ConfigurationError(f"{printable(name)} is neither a host name nor an IP address")
    # Ports may share one.
    sources: list[CertificateSource] = []
    given: list[str] = []
    for each in served:
        if each.source is None:
            facts = facts_about(each.certificate, "memory")
            if facts.is_for(wanted):
                title = facts.names[0] if facts.names else "no name"
                given.append(f"{title}: it is renewed in time by who has made it, and not before")
        elif each.source not in sources:
            sources.append(each.source)

    def told(results: Any) -> str:
        found = dict.fromkeys(given)
        for source, (success, result) in zip(sources, results, strict=True):
            if success:
                found |= dict.fromkeys(result)
            else:
                _log.failure("certificates of {source} are not renewed", result, source=source)
                found["what one source has is not renewed, and the log says why"] = None
        if not found:
            raise ConfigurationError(_nothing(wanted, served))
        sentences = list(found)
        more = len(sentences) - _MOST_TOLD
        if more > 0:
            sentences[_MOST_TOLD:] = [f"and {more} more"]
        return "; ".join(map(whole_sentence, sentences))

    renewing = [maybeDeferred(each.renew, wanted) for each in sources]
    waiting = DeferredList(renewing, consumeErrors=True) if renewing else succeed([])
    return waiting.addCallback(told)


def _nothing(name: str | None, served: Sequence[ServerOptions]) -> str:
    if name is None:
        return "there are no certificates that could be renewed here"
    known = {
        each
        for options in served
        if options.source is not None
        for facts in options.source.facts()
        for each in facts.names
    }
    return f"no certificate is served for {name}{did_you_mean(name, known)}"
