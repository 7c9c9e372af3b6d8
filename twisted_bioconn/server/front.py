"""
The service that C{twistd bioconn} runs: ports that open, serve and close together.

All ports are open before anything else starts, or none is.  From then on signals say what to do:

    - SIGTERM: accept no more; connections have the seconds of C{drain} to end by themselves, and
      are closed then.  A second one closes them at once.  SIGINT (Ctrl-C) does too;
    - SIGHUP: look for what has changed: certificates, lists, and, where there is a configuration
      to be read again, ports.  It is ignored by a process that is about to end;
    - SIGUSR2: start a new version of the program, which takes over the ports; this one ends with
      its last connection.

How the process ends: with exit status 1 and a line on stderr where a port could not be opened; with
0 after SIGTERM where all connections had ended in time, and with 1 where some had to be cut.  With
no time given to them, which is the default, none is counted as cut.  (A daemon's first process
reports that line and has that status; the status of the daemon itself nobody sees.)
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO, cast

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_bioconn.context import ServerOptions
from twisted_bioconn.server.adoption import Sockets
from twisted_bioconn.server.drain import Drain, StartFailed, State, exit_with_failure
from twisted_bioconn.server.memory import settle
from twisted_bioconn.server.openings import Listener, Opening, Openings, services_of, why_not
from twisted_bioconn.server.parental import SharedOpenings, exchange_services
from twisted_bioconn.server.reloading import Changes, Proposal, Reconfiguration, proposed, reload
from twisted_bioconn.server.renewal import Renewal
from twisted_bioconn.server.sites import describe
from twisted_bioconn.server.systemd import Notifier
from twisted_bioconn.server.upgrade import Listening, Predecessor, Progress, Successor
from twisted_bioconn.server.whole_log import keep_log_files_whole

if TYPE_CHECKING:
    from twisted_bioconn.server.forked import Worker, WorkerPort
    from twisted_bioconn.server.workers import Workers

__all__ = ["Front", "Listener", "StartFailed", "State"]

#: How much longer than its connections may take the process to end, in seconds.
END_SECONDS = 10.0


class Front(MultiService):
    """
    Opens ports, all or none, and closes them.

    With workers, this process opens the ports. It forks when the reactor is about to start, after
    all that twistd has to do; what else there is to start is started in the workers alone.

    @ivar state: where it stands.
    @ivar drain: how many seconds connections have to end by themselves, after SIGTERM.
    @ivar reconfigure: says what the configuration asks for now; it raises C{ConfigurationError} for
        what is wrong about it.  L{None} where there is nothing to be read again.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        listeners: Iterable[Listener],
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        workers: Workers | None = None,
        *,
        drain: float = 0.0,
        reconfigure: Callable[[], Proposal] | None = None,
        twistd: MutableMapping[str, Any] | None = None,
    ) -> None:
        """
        @param stdout: where to tell the user what to visit; L{None} to have it in the log.
        @param stderr: where to say why the start failed; L{None} to have it in the log alone.
        @param workers: the processes that are to serve; L{None} if it is this one.
        @param twistd: twistd's own options, of which the pid file is used.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.state = State.STARTING
        self.drain = drain
        self.reconfigure = reconfigure
        self.twistd = twistd
        self._reactor = reactor
        self._listeners = tuple(listeners)
        self._lines: list[str] = []
        self._stdout = stdout
        self._stderr = stderr
        self._opening: list[Deferred[None]] = []
        self._opened: Deferred[None] = succeed(None)
        self._failure: str | None = None
        self._begun = False
        self._has_terminal = False
        self._draining: Drain | None = None
        self._upgrade: Listening | None = None
        self._directory = os.getcwd()
        self._notifier = Notifier.from_environment(os.environ)
        self._watchdog: LoopingCall | None = None
        self._predecessor = Predecessor.from_environment(os.environ)
        self._sockets = Sockets(self._predecessor.sockets if self._predecessor else ())
        self._openings = (
            Openings(reactor, self._sockets)
            if workers is None
            else SharedOpenings(reactor, self._sockets, workers)
        )
        self._reconfiguring = False
        self._reload_again = False
        self._worker: Worker | None = None
        self._workers = workers
        if workers is not None:
            # Theirs are their parent's: with keys of its own, one would not resume what another has
            # agreed on.
            for options in self._served:
                options.upkeep.renews_ticket_keys = False
            workers.load_trust = self._load_trust
            workers.renew_ticket_keys = self._renew_ticket_keys
            workers.reload = partial(self._reconfigure_workers, workers)
            workers.begin_upgrade = self._begin_upgrade
            workers.all_ready = self._take_over
            workers.terminate = self.terminate
        self._worker_ports: list[WorkerPort] | None = None

    @property
    def ports(self) -> list[Any]:
        """The ports that are open."""
        if self._worker_ports is not None:
            return self._worker_ports
        return [each.port for each in self._openings.open]

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """What there is to be served, as it is now."""
        return self._listeners

    @property
    def connections(self) -> int:
        """How many connections are open in this process."""
        return self._openings.count

    def privilegedStartService(self) -> None:
        """
        Open the ports, while those below 1024 may still be opened.

        @raise StartFailed: one cannot be opened; the others are closed again.
        """
        self._begun = True
        if sys.platform == "win32":
            keep_log_files_whole()
        else:
            from twisted_bioconn.server.shared_log import share_log_files

            share_log_files()
        for listener in self._listeners:
            self._opening.append(self._open(listener))
            if self._failure is not None:
                self._close_at_once()
                self._say_failure()
                raise StartFailed(self._failure)
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """
        @raise StartFailed: a port cannot be opened.
        """
        # What runs this service need not know of privileges.
        if not self._begun:
            self.privilegedStartService()
        self._begun = False
        if self._workers is not None and self._reactor.running:
            raise StartFailed("--workers has come too late: the reactor is running")
        self._adopt_services(self._listeners)
        if self._workers is None:
            super().startService()  # type: ignore[no-untyped-call]
        else:
            self._workers.drain = self.drain
            self._workers.notifier = self._notifier
            Service.startService(self)
            self._reactor.addSystemEventTrigger("before", "startup", self._fork, self._workers)
        self._opened = DeferredList(self._opening).addCallback(self._all_open)
        self._reactor.callWhenRunning(self._settle)

    def stopService(self) -> Deferred[None]:
        """
        Close the ports.

        @return: fires when they are closed and all else has stopped.
        """
        self._has_stopped()
        waiting = [super().stopService(), *self._close()]  # type: ignore[no-untyped-call]
        return DeferredList(waiting).addCallback(lambda _: None)

    # Ports

    def _open(self, listener: Listener) -> Deferred[None]:
        """
        Open one port. Most endpoints have done it, or have failed, when this returns.
        """

        def failed(failure: Failure) -> None:
            if self._failure is None and self.state is State.STARTING:
                self._failure = f"{listener.name}: {why_not(cast(BaseException, failure.value))}"

        opening = self._openings.listen(listener)
        return opening.addCallback(self._say_what_to_visit).addErrback(failed)

    def _say_what_to_visit(self, opening: Opening) -> None:
        number = getattr(opening.port.getHost(), "port", None)
        if opening.listener.visit is not None and number is not None:
            self._lines += opening.listener.visit(number)

    def _all_open(self, _: object) -> None:
        if self._failure is not None:
            self._fail_late()
        elif self.state is State.STARTING:
            for line in self._lines:
                if self._stdout is None:
                    self._log.info("{line}", line=line)
                else:
                    print(line, file=self._stdout, flush=True)

    def _close(self, left: Iterable[Any] = ()) -> list[Deferred[Any]]:
        """
        @param left: the ports whose sockets another process has.
        """
        for opening in self._opening:
            opening.cancel()
        if self._worker_ports is not None:
            ports, self._worker_ports = self._worker_ports, []
            for port in ports:
                port.stopListening()
            return []
        return self._openings.close_all(left)

    def _close_at_once(self) -> None:
        """
        Close the ports before there is a reactor running: it takes them a turn of it. Otherwise
        sockets in the file system would stay there.
        """
        closing = self._close()
        for _ in range(10):
            if all(done.called for done in closing):
                break
            self._reactor.iterate(0)

    def _say_failure(self) -> None:
        # Not critical: as long as there is no log yet, Twisted writes that to stderr, as we do.
        self._log.error("bioconn: {reason}", reason=self._failure)
        if self._stderr is not None:
            print(f"bioconn: {self._failure}", file=self._stderr, flush=True)
        if self._predecessor is not None:
            self._predecessor.failed(str(self._failure))

    def _fail_late(self) -> None:
        """
        A port could not be opened, and that took so long that all else is running.
        """
        self._say_failure()
        # twistd has no exit status for this: where it has nothing more to do, the status is 0.
        atexit.register(exit_with_failure)
        self._stop()

    # Workers

    def _fork(self, workers: Workers) -> Deferred[None] | None:
        """
        Become a worker, or the parent of all until they have ended.

        @return: in a worker nothing. In the parent what never fires, so that its reactor ends
            without having run, and twistd does what it does at the end.
        """
        if self._predecessor is not None:
            self._predecessor.restore_stderr()
        self._make_ticket_keys()
        worker = workers.run()
        if worker is not None:
            try:
                self._serve(workers, worker)
            except BaseException as error:
                # The reactor would start without what is missing.
                worker.fail(describe(error))
            return None
        if workers.failed:
            self._failure = workers.failed
            self._say_failure()
        if workers.failed or workers.have_cut:
            atexit.register(exit_with_failure)
        self._reactor.crash()
        return Deferred()

    def _serve(self, workers: Workers, worker: Worker) -> None:
        """
        Start, in a worker, all that is to run there.
        """
        self._worker = worker
        # What there is to be said, to systemd and to the process before, is the parent's to say.
        self._notifier.close()
        if self._predecessor is not None:
            self._predecessor.close()
            self._predecessor = None
        self._worker_ports = list(workers.ports)
        workers.start_factories()
        worker.link.parent_gone = self._stop
        worker.link.reload = self._reload
        worker.link.retire = self._retire
        worker.link.end = self._cut
        for service in self.services:
            if isinstance(service, Renewal):
                service.load()
                service.renewed = worker.link.tell_renewed
                worker.link.renewed = service.load
                if not worker.is_steward:
                    continue
            service.startService()
        self._reactor.callWhenRunning(worker.link.tell_ready)
        # After all others, also those that are added to this event from now on.
        self._reactor.addSystemEventTrigger(
            "during",
            "shutdown",
            self._reactor.addSystemEventTrigger,
            "after",
            "shutdown",
            worker.end,
        )

    def _retire(self) -> None:
        """
        Accept no more, and end with the last connection: another worker has taken this one's place.
        """
        if self.state in (State.STARTING, State.SERVING):
            self._log.info("A worker with new keys takes over: accepting no more.")
            self._leave()

    # TLS

    @property
    def _served(self) -> list[ServerOptions]:
        """What is known of all ports' TLS; ports may share it."""
        return list(dict.fromkeys(one for each in self._listeners for one in each.all_options))

    def _make_ticket_keys(self) -> None:
        for options in self._served:
            options.make_ticket_keys()

    def _renew_ticket_keys(self) -> None:
        for options in self._served:
            options.renew_ticket_keys()
        self._make_ticket_keys()

    def _load_trust(self) -> bool:
        changed = [options.upkeep.load_trust() for options in self._served]
        return any(changed)

    # Signals

    def _settle(self) -> None:
        """
        Where the process is run for this service: end with status 0 on SIGTERM, which is how a
        service is told to stop (Twisted would end the process by that same signal, after all is
        done); look for what has changed on SIGHUP; and have the collector, which stops everything
        else, look at what came later alone.
        """
        ours = getattr(self._reactor, "sigTerm", None)
        if ours is not None and signal.getsignal(signal.SIGTERM) == ours:
            signal.signal(signal.SIGTERM, self._sigterm)
            # A worker is told by its parent.
            if hasattr(signal, "SIGHUP") and self._workers is None:
                self._has_terminal = os.isatty(0)
                signal.signal(signal.SIGHUP, self._sighup)
                if signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL:
                    signal.signal(signal.SIGUSR2, self._sigusr2)
            settle()
        self._opened.addCallback(self._begin_to_serve)

    def _sigterm(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self.terminate)

    def _sighup(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._hang_up)

    def _sigusr2(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._renew_program)

    def _begin_to_serve(self, _: object) -> None:
        if self.state is not State.STARTING:
            return
        if self._worker is None and not self._take_over():
            self._fail_late()
            return
        self.state = State.SERVING
        if self._notifier.interval is not None:
            self._watchdog = LoopingCall(self._notifier.alive)
            self._watchdog.clock = self._reactor
            self._watchdog.start(self._notifier.interval)

    def _take_over(self) -> bool:
        """
        Be the service, in the place of the process before where there is one.

        @return: whether it has nothing against that.
        """
        predecessor, self._predecessor = self._predecessor, None
        if predecessor is not None and not predecessor.ready(self._sockets.adopted):
            self._failure = "the process before goes on in our place"
            return False
        self._sockets.own()
        self._notifier.ready("serving")
        return True

    # The end

    def terminate(self) -> None:
        """
        What SIGTERM is for: close the ports, and give connections the time that they have; at the
        second time, none.
        """
        if self.state is State.DRAINING and self._worker is not None:
            # It may come from its parent, and from systemd as well.
            return
        if self.state in (State.DRAINING, State.STOPPING) or self.drain <= 0:
            self._cut()
            return
        if self._draining is not None:
            self._draining.cancel()
        self._give_up_upgrade()
        self._notifier.stopping("draining", self.drain + END_SECONDS)
        self._log.info(
            "Shutting down. {count} connections have {drain:g} s to end.",
            count=self.connections,
            drain=self.drain,
        )
        self._accept_no_more(State.DRAINING, self.drain)

    def _leave(self, left: Iterable[Any] = (), seconds: float | None = None) -> None:
        """
        End with the last connection: another process serves.

        @param left: the ports whose sockets it has.
        @param seconds: how long that may take; L{None} for as long as it wants.
        """
        self._accept_no_more(State.LEAVING, seconds, left)
        for service in self.services:
            if isinstance(service, Renewal):
                service.stopService()

    def _accept_no_more(
        self, state: State, seconds: float | None, left: Iterable[Any] = ()
    ) -> None:
        self.state = state
        self._close(left)
        self._draining = Drain(self._reactor, lambda: self._openings.are_in_use, seconds, self._cut)

    def _cut(self) -> None:
        """Stop, whatever connections there are."""
        count = self.connections
        if self.state in (State.LEAVING, State.DRAINING) and self.drain > 0 and count:
            self._log.warn("{count} connections are cut", count=count)
            if self._worker is not None:
                self._worker.status = 1
            else:
                atexit.register(exit_with_failure)
        self._stop()

    def _stop(self) -> None:
        if self.state is not State.STOPPING:
            self._notifier.stopping("shutting down", END_SECONDS)
            self._has_stopped()
            self._log.info("Shutting down.")
            self._reactor.stop()

    def _has_stopped(self) -> None:
        self.state = State.STOPPING
        self._give_up_upgrade()
        if self._draining is not None:
            self._draining.cancel()
        if self._watchdog is not None and self._watchdog.running:
            self._watchdog.stop()

    # A new version

    def _renew_program(self) -> None:
        """SIGUSR2: have a new version of the program take over."""
        if self.state is State.STARTING:
            self._opened.addCallback(lambda _: self._renew_program())
            return
        if self.state is not State.SERVING or self._upgrade is not None or self._reconfiguring:
            self._log.warn("SIGUSR2 is ignored: the service is {why}", why=self._why_busy())
            return
        successor = self._begin_upgrade()
        if successor is not None:
            self._upgrade = Listening(self._reactor, successor, lambda: self._hear_of(successor))

    def _begin_upgrade(self) -> Successor | None:
        """
        @return: the new version that is being started; L{None} if it cannot be.
        """
        successor = Successor(self.twistd)
        ports = [
            (asked, port, self._sockets.twins.get(port, ()))
            for asked, port in self._sockets.open_ports()
        ]
        try:
            successor.start(ports, self._directory)
        except OSError as error:
            self._log.error("a new version cannot be started: {error}", error=error)
            return None
        return successor

    def _hear_of(self, successor: Successor) -> None:
        self._upgrade = None
        if successor.progress is not Progress.READY:
            return
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        self._notifier.succeeded_by(successor.pid)
        successor.take_over()
        self._leave(successor.adopted, self.drain if self.drain > 0 else None)

    def _give_up_upgrade(self) -> None:
        upgrade, self._upgrade = self._upgrade, None
        if upgrade is not None:
            upgrade.cancel("this one is shutting down")

    def _why_busy(self) -> str:
        if self._upgrade is not None:
            return "being replaced by a new version"
        return "being reconfigured" if self._reconfiguring else self.state.value

    # Reloading

    def _hang_up(self) -> None:
        """SIGHUP: look for what has changed; or end, where it says that the terminal is closed."""
        if self._has_terminal and not os.isatty(0):
            self._stop()
        elif self.state is State.STARTING:
            self._opened.addCallback(lambda _: self._hang_up())
        elif self.state is not State.SERVING or self._upgrade is not None:
            self._log.warn("SIGHUP is ignored: the service is {why}", why=self._why_busy())
        else:
            self.reload()

    def reload(self) -> Deferred[None]:
        """
        Look at once for what has changed, and say what has come of it.

        @return: fires when that is done.
        """
        if self._reconfiguring:
            # What is there now may not have been when it began.
            self._reload_again = True
            return succeed(None)
        self._reconfiguring = True
        self._notifier.reloading()
        reconfigured = self._reconfigure()
        return reconfigured.addCallback(lambda _: self._reload()).addBoth(self._reloaded)

    def _reloaded(self, result: object) -> None:
        self._reconfiguring = False
        if isinstance(result, Failure):
            self._log.failure("What SIGHUP is for has failed", result)
        if self.state is State.SERVING:
            self._notifier.ready("serving")
        again, self._reload_again = self._reload_again, False
        if again and self.state is State.SERVING:
            self.reload()

    def _reload(self) -> Deferred[None]:
        """Load anew what is in files."""
        if self.state is State.STOPPING:
            return succeed(None)
        for service in self.services:
            if isinstance(service, Renewal):
                service.look()
        return reload(self._served)

    def _configured(self) -> Proposal | None:
        """What the configuration asks for now; L{None} if there is none, or if it is wrong."""
        return None if self.reconfigure is None else proposed(self.reconfigure)

    def _reconfigure(self) -> Deferred[None]:
        proposal = self._configured()
        if proposal is None:
            return succeed(None)

        def done(outcome: tuple[Changes, list[Opening]] | None) -> None:
            if self.state is not State.SERVING:
                # It was told to end meanwhile.
                self._close()
                return
            if outcome is None:
                return
            changes, closed = outcome
            self._adopt(proposal, changes)
            self._adopt_services(changes.added)
            needed = services_of(self._listeners)
            for service in services_of(changes.gone):
                if service not in needed:
                    self._stop_when_unused(service, closed)

        changing = Reconfiguration(self._openings, self._sockets).to(proposal.listeners)
        return changing.addCallback(done)

    def _adopt(self, proposal: Proposal, changes: Changes) -> None:
        """It is in force."""
        for difference in proposal.differences:
            self._log.info("the configuration file: {difference}", difference=difference)
        proposal.adopt()
        self._listeners = (*changes.kept, *changes.added)
        self._log.info("the configuration is loaded anew: {changes}", changes=changes)

    def _adopt_services(self, listeners: Iterable[Listener]) -> None:
        for service in services_of(listeners):
            if service.parent is None:
                service.setServiceParent(self)

    def _stop_when_unused(self, service: IService, closed: Sequence[Opening]) -> None:
        """Stop what runs for ports that are closed, when their connections have ended."""
        using = [each.accepted for each in closed if service in each.listener.services]

        def stop() -> None:
            if service.parent is self:
                service.disownServiceParent()

        Drain(self._reactor, lambda: any(each.are_open for each in using), None, stop)

    def _reconfigure_workers(self, workers: Workers) -> None:
        """What SIGHUP is for in the parent of workers."""
        proposal = self._configured()
        if proposal is None:
            return

        def done(outcome: tuple[Changes, list[Opening]] | None) -> None:
            if outcome is None or not (outcome[0] or proposal.differences):
                return
            changes, _ = outcome
            self._adopt(proposal, changes)
            workers.drain = self.drain
            exchange_services(self, changes.gone, self._listeners)
            for options in self._served:
                options.upkeep.renews_ticket_keys = False
            self._make_ticket_keys()
            workers.replace()

        Reconfiguration(self._openings, self._sockets).to(proposal.listeners).addCallback(done)
