"""The service of C{twistd bioconn}, where somebody wants to see how it is."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.backend_metrics import BackEndCollector, BufferCollector, none_is_up
from twisted_bioconn.server.drain import StartFailed
from twisted_bioconn.server.front import Front
from twisted_bioconn.server.holdings import HOLDINGS
from twisted_bioconn.server.ledger import Ledger
from twisted_bioconn.server.openings import Listener, Opening
from twisted_bioconn.server.reloading import Changes, Proposal
from twisted_bioconn.server.renewing import renew
from twisted_bioconn.server.status import Controls, Status
from twisted_bioconn.server.status_service import StatusService

if TYPE_CHECKING:
    from twisted_bioconn.server.forked import Worker
    from twisted_bioconn.server.workers import Workers

__all__ = ["ObservedFront"]


class ObservedFront(Front):
    """
    A front that keeps a ledger of its connections, logs each when it ends, and tells its status.
    """

    def __init__(
        self,
        status: str,
        reactor: Any,
        listeners: Iterable[Listener],
        *args: Any,
        trace_failures: bool = False,
        **kw: Any,
    ) -> None:
        """
        @param status: where: see L{status_port<twisted_bioconn.server.status_ports.status_port>}.
            All else is as for L{Front}.
        @param trace_failures: whether connections are traced, and the traces of those kept that
            fail.
        @raise ConfigurationError: strangers could come there.
        """
        super().__init__(reactor, listeners, *args, **kw)
        told = Status(
            ledger=Ledger(reactor),
            options=lambda: self._served,
            state=lambda: self.state,
            controls=Controls(
                reload=self._reload_for_operator,
                renew=lambda name: renew(self._served, name),
                drain=self._drain_for_operator,
            ),
        )
        if trace_failures:
            # What traces takes a while to import.
            from twisted_bioconn.server.failure_traces import FailureTraces

            told.ledger.failure_traces = FailureTraces()
        told.checks.append(lambda: none_is_up(self._listeners))
        told.registry.register(BackEndCollector(lambda: self._listeners))
        told.registry.register(BufferCollector(HOLDINGS))
        # With workers it is the first of them that listens, and they inherit nothing.
        sockets = self._sockets if self._workers is None else None
        self._status = StatusService(reactor, status, told, sockets)
        # The one before has the place until we say that we are ready.
        self._status.waits = self._predecessor is not None
        self._status.setServiceParent(self)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """
        @raise StartFailed: a port cannot be opened, or the place of the status cannot be had.
        """
        try:
            super().startService()
        except ConfigurationError as error:
            self._failure = str(error)
            self._close_at_once()
            self._say_failure()
            raise StartFailed(self._failure) from error

    def _open(self, listener: Listener) -> Deferred[None]:
        self._status.account_for([listener])
        return super()._open(listener)

    def _say_what_to_visit(self, opening: Opening) -> None:
        self._status.opened(opening.listener, opening.port)
        super()._say_what_to_visit(opening)

    def _configured(self) -> Proposal | None:
        proposal = super()._configured()
        self._status.account_for(() if proposal is None else proposal.listeners)
        return proposal

    def _adopt(self, proposal: Proposal, changes: Changes) -> None:
        super()._adopt(proposal, changes)
        for opening in self._openings.open:
            self._status.opened(opening.listener, opening.port)

    def _fork(self, workers: Workers) -> Deferred[None] | None:
        self._status.be_parent()
        never = super()._fork(workers)
        if never is not None:
            self._status.childless()
        return never

    def _serve(self, workers: Workers, worker: Worker) -> None:
        self._status.be_worker(worker.index)
        super()._serve(workers, worker)

    def _leave(self, left: Iterable[Any] = (), seconds: float | None = None) -> None:
        left = list(left)
        super()._leave(left, seconds)
        self._status.step_aside(left)

    def _take_over(self) -> bool:
        takes_over = super()._take_over()
        if takes_over:
            self._status.take_over()
        return takes_over

    def _reload_for_operator(self) -> str | Deferred[str]:
        if self._worker is not None:
            # It is the parent's to have all of them do it.
            os.kill(os.getppid(), signal.SIGHUP)
            return "all processes look for what has changed: the log says what it is"
        return self.reload().addCallback(lambda _: "reloaded: the log says what has changed")

    def _drain_for_operator(self) -> str:
        if self._worker is not None:
            os.kill(os.getppid(), signal.SIGTERM)
            return f"the connections of all processes have {self.drain:g} s to end"
        # The answer goes out first.
        self._reactor.callLater(0, self.terminate)
        return f"{self.connections} connections have {self.drain:g} s to end"
