"""
What a server's options need while it serves: certificates that are watched and renewed, trust that
is loaded anew, and keys for session tickets that do not grow old.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from .certificates.watching import Watch
from .client_policy import ClientPolicy

if TYPE_CHECKING:
    from .certificates.source import CertificateSource
    from .context import ServerOptions

__all__ = ["TICKET_KEY_LIFE", "Upkeep"]

_log = Logger()

INTERVAL = 3600.0
"""Seconds between two looks at what only time can change."""

TICKET_KEY_LIFE = 86400.0
"""
Seconds after which session tickets get new keys: whoever comes by the old ones can read no more
than what was said in that time (RFC 8446, appendix F.1: a resumption key is as good as its ticket).
"""


_users: WeakKeyDictionary[CertificateSource, int] = WeakKeyDictionary()
"""How many options have started a source: it may be shared, and is stopped by the last."""


class Upkeep:
    """
    Looks after a server's options, as long as one of its ports is open.

    @ivar renews_ticket_keys: whether that is for us to do.  Workers leave it to their parent: they
        have to have the same keys.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._users = 0
        self._reactor: Any = None
        self._source: CertificateSource | None = None
        self._watch: Watch | None = None
        self._looking: LoopingCall | None = None
        self._renewed = 0.0
        self.renews_ticket_keys = True

    def start(self, reactor: Any) -> None:
        """Begin, for one more port."""
        self._users += 1
        if self._users > 1:
            return
        self._reactor = reactor
        self._renewed = reactor.seconds()
        options = self._options
        source = self._source = options.source
        if source is not None:
            _users[source] = _users.get(source, 0) + 1
            source.start(reactor)
        if options.trust is not None:
            self._watch = Watch(reactor, options.trust.paths, self._load_own_trust)
            self._watch.start()
            # It may have changed since it was loaded.
            self._load_own_trust()
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._looking.start(INTERVAL, now=False).addErrback(_failed)

    def stop(self) -> Deferred[None]:
        """
        One port is closed; with the last one, end.

        @return: fires when all has come to its end.
        """
        self._users -= 1
        if self._users:
            return succeed(None)
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.stop()
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()
        return self.let_go()

    def let_go(self) -> Deferred[None]:
        """
        Nothing is asked of the source any more.

        @return: fires when it has come to its end.
        """
        source, self._source = self._source, None
        if source is None:
            return succeed(None)
        _users[source] -= 1
        return succeed(None) if _users[source] else source.stop()

    def reload(self) -> Deferred[None]:
        """
        Look at once for what has changed.

        @return: fires when it is in use.  What cannot be loaded is logged, and what was there
            before stays.
        """
        self._load_own_trust()
        source = self._options.source
        return succeed(None) if source is None else source.reload()

    def load_trust(self) -> bool:
        """
        Load anew, with no reactor, the files of what is asked of clients.

        @return: whether there is something else in them now.
        """
        source = self._options.source
        files = [] if source is None else source.policies
        changed = [each.reload() for each in files if not isinstance(each, ClientPolicy)]
        return self._load_own_trust() or any(changed)

    def _load_own_trust(self) -> bool:
        trust = self._options.trust
        if trust is None:
            return False
        trust.reload()
        # Others may have the same files, and have loaded them.
        if self._options.clients is trust.policy:
            return False
        self._options.clients = trust.policy
        _log.info("authorities and revocation lists are loaded anew, and no session resumes")
        return True

    def _look(self) -> None:
        trust = self._options.trust
        if trust is not None:
            trust.look()
        if self._source is not None:
            # A certificate that has expired since is told of when it is looked at.
            self._source.reload().addErrback(_failed)
        if self.renews_ticket_keys and (self._reactor.seconds() - self._renewed >= TICKET_KEY_LIFE):
            self._renewed = self._reactor.seconds()
            self._options.renew_ticket_keys()


def _failed(failure: Failure) -> None:
    _log.failure("Unhandled error while certificates were looked after", failure)


def reload_all(options: list[ServerOptions]) -> Deferred[None]:
    """Reload for all of these."""
    return gatherResults([each.upkeep.reload() for each in options]).addCallback(lambda _: None)
