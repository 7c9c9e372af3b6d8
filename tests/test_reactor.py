"""Tests for L{twisted_bioconn.reactor}."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import trustme
from OpenSSL import SSL
from twisted.internet import default, reactor
from twisted.internet.ssl import PrivateCertificate
from twisted.internet.threads import deferToThread
from twisted.protocols import tls
from twisted.trial.unittest import SynchronousTestCase, TestCase

from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.protocol import TLSConnectorFactory, TLSConnectorProtocol
from twisted_bioconn.reactor import _MODULES, _TWISTEDS, _use_ours, _use_twisteds, install
from twisted_bioconn.testing import Loopback

CHECKOUT = Path(__file__).parent.parent
OURS = "twisted_bioconn.protocol.TLSConnectorProtocol"
TWISTEDS = "twisted.protocols.tls.BufferingTLSTransport"


def run_python(
    *arguments: str, limit: float = 300, environ: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    """Run this Python, with the checkout in its path, from another directory."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), **environ},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )


class WaysTests(TestCase):
    """Every way that Twisted has into TLS ends at our classes, over real connections."""

    def setUp(self) -> None:
        self.files = Path(self.mktemp()).absolute()
        for part in ("server", "authorities"):
            (self.files / part).mkdir(parents=True)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.files / "authorities" / "ca.pem")
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
            self.files / "server" / "server.pem"
        )

    async def go(self, when: str, name: str, class_met: str, reactor_met: str) -> str:
        """
        Run L{tests.ways}, and compare what it met.

        @return: what it said on standard error.
        """
        program = ("-m", "tests.ways", when, name, str(self.files))
        done = await deferToThread(run_python, *program)
        self.assertEqual(done.returncode, 0, done.stderr)
        found = json.loads(done.stdout)
        self.assertEqual(
            found["ways"],
            {
                way: [class_met, class_met]
                for way in ("listenSSL, connectSSL", "startTLS", "ssl: endpoints", "tls: endpoints")
            },
        )
        self.assertEqual(found["reactor"].rpartition(".")[2], reactor_met)
        return done.stderr

    async def test_first(self) -> None:
        """Installed first, this is the platform's best reactor, with our TLS."""
        self.assertEqual(await self.go("first", "", OURS, best_reactor()), "")

    async def test_first_default(self) -> None:
        """Twisted's own choice goes by its name too."""
        self.assertEqual(await self.go("first", "default", OURS, twisteds_reactor()), "")

    async def test_first_asyncio(self) -> None:
        """Named C{asyncio}, it is the asyncio reactor, with our TLS."""
        for name in ("asyncio", "bioconn-asyncio"):
            self.assertEqual(await self.go("first", name, OURS, "AsyncioSelectorReactor"), "")

    async def test_first_by_name(self) -> None:
        """Any other reactor goes by its short name."""
        self.assertEqual(await self.go("first", "select", OURS, "SelectReactor"), "")

    async def test_last(self) -> None:
        """A reactor that is installed already stays, and its TLS is ours."""
        self.assertEqual(await self.go("last", "", OURS, twisteds_reactor()), "")

    async def test_last_another(self) -> None:
        """A warning says so if that is not the reactor that was asked for."""
        said = await self.go("last", "asyncio", OURS, twisteds_reactor())
        self.assertIn(
            "RuntimeWarning: the reactor 'asyncio' is not installed, because another is already:"
            f" {twisteds_reactor()}",
            said,
        )

    async def test_never(self) -> None:
        """Without it the classes met are Twisted's."""
        self.assertEqual(await self.go("never", "", TWISTEDS, twisteds_reactor()), "")


def best_reactor() -> str:
    """The name of the class of the best reactor that we have for this platform."""
    return "ConnectorReactor" if hasattr(select, "epoll") else twisteds_reactor()


def twisteds_reactor() -> str:
    """The name of the class of Twisted's reactor for this platform."""
    module = sys.modules[default.install.__module__]
    [name] = [
        name
        for name, value in vars(module).items()
        if name.endswith("Reactor") and getattr(value, "__module__", None) == module.__name__
    ]
    return name


class InstallTests(SynchronousTestCase):
    """L{install} in a process that has a reactor."""

    def setUp(self) -> None:
        if tls.TLSMemoryBIOFactory is TLSConnectorFactory:
            self.addCleanup(_use_ours)
        else:
            self.addCleanup(_use_twisteds)
        _use_twisteds()

    def test_all_names(self) -> None:
        """Each module of Twisted's has our classes under the names of Twisted's."""
        install()
        for module in map(sys.modules.get, _MODULES):
            for name, ours in (
                ("TLSMemoryBIOFactory", TLSConnectorFactory),
                ("TLSMemoryBIOProtocol", TLSConnectorProtocol),
                ("BufferingTLSTransport", TLSConnectorProtocol),
            ):
                if hasattr(module, name):
                    self.assertIs(getattr(module, name), ours, f"{name} of {module}")

    def test_nothing_missed(self) -> None:
        """
        No other module of Twisted's uses the names of Twisted's classes.
        """
        root = Path(tls.__file__).parent.parent
        users = {
            ".".join(("twisted", *file.relative_to(root).with_suffix("").parts))
            for file in root.rglob("*.py")
            if "test" not in file.parts and "import TLSMemoryBIO" in file.read_text("utf-8")
        }
        # These name the classes in annotations alone.
        users -= {"twisted.internet.interfaces", "twisted.protocols._tls_legacy"}
        # This one defines the classes, and names the import in its documentation.
        users.add("twisted.protocols.tls")
        self.assertEqual(users, set(_MODULES))

    def test_alpn_of_contexts_out_of_sight(self) -> None:
        """
        A context that Twisted makes for one of several names, as C{tls:} does, lets in a client
        that offers protocols to an application that has none.
        """
        install()
        pem = trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.bytes()
        server = SSL.Connection(PrivateCertificate.loadPEM(pem).options().getContext())
        server.set_accept_state()
        server.set_app_data(None)
        client = SSL.Connection(SSL.Context(SSL.TLS_METHOD))
        client.set_connect_state()
        client.set_alpn_protos([b"h2"])
        loop = Loopback(client, server)
        loop.pump()
        self.assertIsNone(loop.server.error)
        negotiated = loop.client.negotiated
        assert negotiated is not None
        self.assertIsNone(negotiated.alpn)

    def test_completion_ports(self) -> None:
        """The module that is there on Windows alone is seen to where it is imported."""
        module = ModuleType("twisted.internet.iocpreactor.reactor")
        module.TLSMemoryBIOFactory = tls.TLSMemoryBIOFactory  # type: ignore[attr-defined]
        with mock.patch.dict(sys.modules, {module.__name__: module}):
            install()
        self.assertIs(module.TLSMemoryBIOFactory, TLSConnectorFactory)

    def test_transport_after_start_tls(self) -> None:
        """What Twisted leaves out after C{startTLS} is sent on to the TLS layer."""
        from twisted.internet import _newtls

        self.assertFalse(hasattr(_newtls.ConnectionMixin, "loseWriteConnection"))
        install()
        self.assertTrue(hasattr(_newtls.ConnectionMixin, "loseWriteConnection"))

    def test_twice(self) -> None:
        """A second call changes nothing."""
        install()
        before = dict(vars(tls))
        install("bioconn")
        self.assertEqual(vars(tls), before)

    def test_reactor_stays(self) -> None:
        """The reactor that is installed stays the same object, of the same class."""
        before = reactor, type(reactor)
        install()
        from twisted.internet import reactor as after

        self.assertEqual((after, type(after)), before)

    def test_other_names_untouched(self) -> None:
        """A module takes no name that it did not have."""
        from twisted.internet import _newtls

        install()
        self.assertFalse(hasattr(_newtls, "BufferingTLSTransport"))

    def test_still_a_twisted_factory(self) -> None:
        """Programs that test for Twisted's class find it."""
        self.assertTrue(issubclass(TLSConnectorFactory, _TWISTEDS["TLSMemoryBIOFactory"]))

    def test_unknown(self) -> None:
        """A name that no reactor has is an error that lists those that there are."""
        error = self.assertRaises(ConfigurationError, install, "epol")
        self.assertRegex(
            str(error),
            r"^no reactor is named 'epol' \(there are .*asyncio, bioconn, bioconn-asyncio, .*\);"
            r" did you mean 'epoll'\?$",
        )
        self.assertIs(tls.TLSMemoryBIOFactory, _TWISTEDS["TLSMemoryBIOFactory"])

    def test_unlike_any(self) -> None:
        """Nothing is proposed for a name that is like no other."""
        error = self.assertRaises(ConfigurationError, install, "zzz")
        self.assertTrue(str(error).endswith(")"), str(error))

    def test_does_not_work(self) -> None:
        """
        A reactor that cannot be installed is an error which gives the reason, and leaves Twisted's
        TLS as it was, unless that was ours before.
        """

        def fail() -> None:
            raise ImportError("no such library")

        broken = SimpleNamespace(shortName="broken", install=fail)
        self.patch(sys.modules[install.__module__], "getReactorTypes", lambda: [broken])
        with mock.patch.dict(sys.modules):
            del sys.modules["twisted.internet.reactor"]
            error = self.assertRaises(ConfigurationError, install, "broken")
        self.assertEqual(
            str(error), "the reactor 'broken' does not work on this machine: no such library"
        )
        self.assertIs(tls.TLSMemoryBIOFactory, _TWISTEDS["TLSMemoryBIOFactory"])

        install()
        with mock.patch.dict(sys.modules):
            del sys.modules["twisted.internet.reactor"]
            self.assertRaises(ConfigurationError, install, "broken")
        self.assertIs(tls.TLSMemoryBIOFactory, TLSConnectorFactory)


class PluginTests(TestCase):
    """The reactors that Twisted's own commands are given by name."""

    async def test_trial(self) -> None:
        """C{--reactor} installs the one asked for, with our TLS."""
        for name, expected in (
            ("bioconn", best_reactor()),
            ("bioconn-asyncio", "AsyncioSelectorReactor"),
        ):
            done = await deferToThread(
                run_python,
                "-c",
                "from twisted.application.reactors import installReactor\n"
                f"reactor = installReactor({name!r})\n"
                "from twisted.protocols.tls import TLSMemoryBIOFactory as factory\n"
                "print(type(reactor).__name__, factory.__name__)",
            )
            self.assertEqual(done.stdout, f"{expected} TLSConnectorFactory\n", done.stderr)

    async def test_no_epoll(self) -> None:
        """Where there is no epoll, Twisted's choice is ours."""
        done = await deferToThread(
            run_python,
            "-c",
            "import sys\n"
            "sys.modules['twisted_bioconn._epoll'] = None\n"
            "from twisted_bioconn.reactor import install; install()\n"
            "from twisted.internet import reactor; print(type(reactor).__name__)",
        )
        self.assertEqual(done.stdout, f"{twisteds_reactor()}\n", done.stderr)

    async def test_no_traceback(self) -> None:
        """A command that is given no reactor's name says so in a line."""
        done = await deferToThread(
            run_python,
            "-c",
            "from twisted_bioconn.reactor import install\n"
            "from twisted.python.usage import UsageError\n"
            "from twisted.application.app import ReactorSelectionMixin\n"
            "import twisted_bioconn.reactor as ours\n"
            "def fail(): raise ImportError('no epoll here')\n"
            "ours._install_best = fail\n"
            "try: ReactorSelectionMixin().opt_reactor('bioconn')\n"
            "except UsageError as error: print(str(error).splitlines()[0])",
        )
        self.assertEqual(
            done.stdout,
            "The specified reactor cannot be used, failed with error: the reactor 'bioconn' does"
            " not work on this machine: no epoll here.\n",
            done.stderr,
        )
