"""Opening all ports or none, and ending."""

from __future__ import annotations

import ctypes
import os
import signal
from io import StringIO
from typing import Any, cast

from twisted.internet import reactor as installed_reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.endpoints import ServerEndpoint
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.memory import give_back_large_blocks
from twisted_bioconn.server.options import Options
from twisted_bioconn.server.renewal import Renewal
from twisted_bioconn.server.service import (
    Front,
    Listener,
    StartFailed,
    makeService,
)
from twisted_bioconn.server.sites import WSGIThreads


@implementer(IListeningPort)
class Port:
    """A port that is closed when the test says so."""

    def __init__(self) -> None:
        self.closing: Deferred[None] | None = None

    def startListening(self) -> None:
        raise NotImplementedError

    def stopListening(self) -> Deferred[None]:
        self.closing = Deferred()
        return self.closing

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 8443)


@implementer(IStreamServerEndpoint)
class Endpoint:
    """An endpoint with a given outcome."""

    def __init__(self, outcome: Deferred[IListeningPort]) -> None:
        self.outcome = outcome
        self.asked = 0

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        self.asked += 1
        return self.outcome


class Reactor(MemoryReactorClock):
    """A reactor that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped = 0
        self.turns: list[Port] = []

    def stop(self) -> None:
        self.stopped += 1

    def iterate(self, delay: float = 0) -> None:
        for port in self.turns:
            if port.closing is not None and not port.closing.called:
                port.closing.callback(None)

    def sigTerm(self, *arguments: object) -> None:
        raise AssertionError("Twisted's own handler was left in place")

    def callFromThread(self, function: Any, *arguments: Any) -> None:
        function(*arguments)


class FrontTests(SynchronousTestCase):
    """The service, on a reactor in memory."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.out, self.err = StringIO(), StringIO()

    def front(self, *endpoints: Endpoint) -> Front:
        def visit(port: int) -> list[str]:
            return [f"visit {port}"]

        listeners = [
            Listener(f"--listen {number}", endpoint, Factory(), None if number else visit)
            for number, endpoint in enumerate(endpoints)
        ]
        return Front(self.reactor, listeners, self.out, self.err)

    def start(self, front: Front) -> None:
        front.privilegedStartService()
        front.startService()

    def test_all_open(self) -> None:
        ports = [Port(), Port()]
        front = self.front(*(Endpoint(succeed(port)) for port in ports))
        self.start(front)
        self.assertEqual(front.ports, ports)
        self.assertEqual(self.out.getvalue(), "visit 8443\n")
        self.assertTrue(front.running)

    def test_started_without_privileges(self) -> None:
        endpoint = Endpoint(succeed(Port()))
        front = self.front(endpoint)
        front.startService()
        self.assertEqual((endpoint.asked, len(front.ports)), (1, 1))

    def test_one_fails(self) -> None:
        """The ports opened before are closed, and those after are not opened."""
        for error, reason in (
            (
                CannotListenError("", 80, OSError(98, "Address already in use")),
                "Address already in",
            ),
            (OSError(13, "Permission denied"), "Permission denied"),
            (ConfigurationError("key.pem is damaged"), "key.pem is damaged"),
            (RuntimeError("so\nit is"), "RuntimeError: so it is"),
        ):
            self.setUp()
            port, last = Port(), Endpoint(succeed(Port()))
            front = self.front(Endpoint(succeed(port)), Endpoint(fail(Failure(error))), last)
            self.reactor.turns.append(port)
            failed = self.assertRaises(StartFailed, front.privilegedStartService)
            self.assertEqual(failed.code, 1)
            [line] = self.err.getvalue().splitlines()
            self.assertIn(f"bioconn: --listen 1: {reason}", line)
            self.assertTrue(port.closing is not None and port.closing.called)
            self.assertEqual(last.asked, 0)
            self.assertEqual(self.out.getvalue(), "")
            self.assertFalse(front.running)

    def test_endpoint_that_raises(self) -> None:
        endpoint = Endpoint(succeed(Port()))
        endpoint.listen = lambda factory: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        self.assertRaises(StartFailed, self.front(endpoint).privilegedStartService)
        self.assertIn("ZeroDivisionError", self.err.getvalue())

    def test_failure_is_what_twistd_takes_for_one(self) -> None:
        """twistd catches an Exception, and Python ends quietly with a SystemExit."""
        self.assertTrue(issubclass(StartFailed, Exception))
        self.assertTrue(issubclass(StartFailed, SystemExit))
        self.assertEqual(str(StartFailed("why")), "why")

    def test_slow_endpoint(self) -> None:
        slow: Deferred[IListeningPort] = Deferred()
        front = self.front(Endpoint(slow))
        self.start(front)
        self.assertEqual(self.out.getvalue(), "")
        slow.callback(Port())
        self.assertEqual(self.out.getvalue(), "visit 8443\n")

    def test_slow_endpoint_that_fails(self) -> None:
        registered: list[object] = []
        self.patch(__import__("atexit"), "register", lambda function: registered.append(function))
        slow: Deferred[IListeningPort] = Deferred()
        front = self.front(Endpoint(slow), Endpoint(succeed(Port())))
        self.start(front)
        slow.errback(Failure(OSError(98, "Address already in use")))
        self.assertEqual(self.err.getvalue(), "bioconn: --listen 0: Address already in use\n")
        self.assertEqual(self.out.getvalue(), "")
        self.assertEqual(self.reactor.stopped, 1)
        self.assertEqual(len(registered), 1)

    def test_stop_closes_the_ports(self) -> None:
        port = Port()
        front = self.front(Endpoint(succeed(port)))
        self.start(front)
        stopped = front.stopService()
        self.assertNoResult(stopped)
        assert port.closing is not None
        port.closing.callback(None)
        self.successResultOf(stopped)

    def test_stop_while_opening(self) -> None:
        slow: Deferred[IListeningPort] = Deferred()
        front = self.front(Endpoint(slow))
        self.start(front)
        self.successResultOf(front.stopService())
        self.assertEqual(self.err.getvalue(), "")
        self.assertEqual(self.reactor.stopped, 0)

    def test_sigterm(self) -> None:
        before = signal.signal(signal.SIGTERM, self.reactor.sigTerm)
        self.addCleanup(signal.signal, signal.SIGTERM, before)
        self.start(self.front())
        for function, arguments, named in self.reactor.whenRunningHooks:
            function(*arguments, **named)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        self.assertEqual(self.reactor.stopped, 1)

    def test_sigterm_that_is_somebody_elses(self) -> None:
        def theirs(number: int, frame: object) -> None:
            pass

        before = signal.signal(signal.SIGTERM, theirs)
        self.addCleanup(signal.signal, signal.SIGTERM, before)
        self.start(self.front())
        for function, arguments, named in self.reactor.whenRunningHooks:
            function(*arguments, **named)
        self.assertEqual(signal.getsignal(signal.SIGTERM), theirs)


class MemoryTests(SynchronousTestCase):
    """What glibc is told."""

    def test_large_blocks(self) -> None:
        """From which size on blocks go back to the system; other C libraries are left alone."""
        told: list[tuple[int, int]] = []

        class Library:
            """A C library."""

            def mallopt(self, option: int, value: int) -> None:
                told.append((option, value))

        def none(_: object) -> None:
            raise OSError("no such library")

        for library in (lambda _: Library(), lambda _: object(), none):
            self.patch(ctypes, "CDLL", library)
            give_back_large_blocks()
        # mallopt(3): M_MMAP_THRESHOLD is -3.
        self.assertEqual(told, [(-3, 131072)])


class RealPortTests(TestCase):
    """On the installed reactor."""

    def test_stop(self) -> Deferred[None]:
        factory = Factory()
        endpoint = TCP4ServerEndpoint(installed_reactor, 0, interface="127.0.0.1")
        front = Front(installed_reactor, [Listener("one", endpoint, factory)])
        front.startService()
        self.assertEqual(len(front.ports), 1)
        return front.stopService()


class MakingTests(SynchronousTestCase):
    """What is made of a command line, with no port opened."""

    def make(self, *words: str, parent: dict[str, object] | None = None) -> Front:
        self.state = os.path.abspath(self.mktemp())
        options = Options()
        options.parseOptions(["--state", self.state, *words])
        options.parent = cast(Any, parent)
        return makeService(options)

    def endpoints(self, front: Front) -> list[ServerEndpoint]:
        return [cast(ServerEndpoint, listener.endpoint) for listener in front._listeners]

    def test_every_kind_of_target(self) -> None:
        front = self.make(
            *("--listen", "tcp:0", "--forward", "localhost:1", "--listen", "tcp:0", "--web", "."),
            *("--listen", "tcp:0", "--wsgi", "wsgiref.simple_server:demo_app"),
            *("--listen", "tcp:0", "--factory", "twisted.internet.protocol:Factory"),
            *("--listen", "tcp:0", "--echo"),
        )
        kinds = [type(listener.factory).__name__ for listener in front._listeners]
        self.assertEqual(
            kinds, ["RelayFactory", "EndingSite", "EndingSite", "Factory", "EchoFactory"]
        )
        [service] = front.services
        self.assertIsInstance(service, WSGIThreads)
        self.assertFalse(os.path.exists(self.state))

    def test_new_certificate_reaches_every_port(self) -> None:
        front = self.make(
            *("--listen", "0", "--echo", "--listen", "[::1]:0", "--echo"),
        )
        [renewal] = front.services
        assert isinstance(renewal, Renewal)
        first, second = self.endpoints(front)
        self.assertEqual(first.options.certificate.names, second.options.certificate.names)
        new = renewal._authority.issue()
        renewal._use(new)
        self.assertEqual([first.options.certificate, second.options.certificate], [new, new])

    def test_certificate_is_for_the_address(self) -> None:
        front = self.make("--listen", "192.0.2.1:0", "--echo", "--listen", "0.0.0.0:0", "--echo")
        names = self.endpoints(front)[0].options.certificate.names
        self.assertEqual(set(names), {"localhost", "127.0.0.1", "::1", "192.0.2.1"})
        visits = [listener.visit for listener in front._listeners]
        said = [line for visit in visits if visit is not None for line in visit(8443)]
        self.assertEqual(
            said,
            [
                f"The certificate of {at}:8443 is for development:"
                f" clients have to trust {self.state}/ca.pem"
                for at in ("192.0.2.1", "localhost")
            ],
        )

    def test_key_that_is_given(self) -> None:
        key = os.path.abspath(self.mktemp())
        pair = DevelopmentAuthority(self.mktemp()).issue(["own.example"])
        with open(key, "wb") as file:
            file.write(pair.to_pem())
        front = self.make("--listen", f"0:privateKey={key}", "--echo")
        self.assertEqual(
            tuple(self.endpoints(front)[0].options.certificate.names), ("own.example",)
        )
        self.assertFalse(os.path.exists(self.state))

    def test_page(self) -> None:
        front = self.make()
        listeners = front._listeners
        self.assertEqual({listener.name for listener in listeners}, {"https://localhost:8443/"})
        self.assertIsNotNone(listeners[0].visit)
        self.assertTrue(all(listener.visit is None for listener in listeners[1:]))

    def test_daemon_has_no_terminal(self) -> None:
        for parent, has in (({"nodaemon": 0}, False), ({"nodaemon": 1}, True), ({}, True)):
            front = self.make(parent=cast("dict[str, object]", parent))
            self.assertEqual(front._stdout is not None, has)
            self.assertEqual(front._stderr is not None, has)
