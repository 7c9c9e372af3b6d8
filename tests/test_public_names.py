"""The names of the package: all there, typed, and imported when they are asked for."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib import import_module
from inspect import isclass
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import twisted_bioconn
from tests.programs import require_module

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(program: str) -> Any:
    """Run a program in a process of its own; returns what it prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{program}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


class ImportTests(SynchronousTestCase):
    """What an import imports."""

    def test_nothing_before_it_is_asked_for(self) -> None:
        """
        The package by itself imports no reactor, and none of the modules that C{install} changes.
        """
        loaded = run("import twisted_bioconn\nprint(json.dumps(sorted(sys.modules)))")
        for name in (
            "twisted.internet.reactor",
            "twisted.internet.endpoints",
            "twisted.internet._newtls",
            "twisted.protocols.tls",
            "twisted_bioconn.endpoints",
        ):
            self.assertNotIn(name, loaded)
        self.assertIn("twisted_bioconn.errors", loaded)

    def test_no_reactor(self) -> None:
        """No public name imports a reactor; the choice is the program's."""
        loaded = run(
            "from twisted_bioconn import *\nimport twisted_bioconn.http, twisted_bioconn.testing\n"
            "print(json.dumps(sorted(sys.modules)))"
        )
        self.assertNotIn("twisted.internet.reactor", loaded)
        self.assertIn("twisted_bioconn.endpoints", loaded)

    def test_without_reactor(self) -> None:
        """What works with no reactor does not so much as import Twisted's endpoints."""
        loaded = run(
            "from twisted_bioconn import Connector, ServerOptions, ClientOptions, MODERN\n"
            "print(json.dumps(sorted(sys.modules)))"
        )
        self.assertNotIn("twisted.internet.endpoints", loaded)
        self.assertNotIn("twisted_bioconn.protocol", loaded)


class NameTests(SynchronousTestCase):
    """The names."""

    def test_all(self) -> None:
        """Each of C{__all__} is there, the same as at home, and is found once only."""
        self.assertEqual(len(set(twisted_bioconn.__all__)), len(twisted_bioconn.__all__))
        for name in twisted_bioconn.__all__:
            value = getattr(twisted_bioconn, name)
            home = twisted_bioconn._HOMES.get(name, "errors")
            self.assertIs(value, getattr(import_module(f"twisted_bioconn.{home}"), name))
            self.assertIs(vars(twisted_bioconn)[name], value)
            if isclass(value):
                self.assertTrue(value.__doc__, name)

    def test_one_list(self) -> None:
        """
        What mypy sees, what C{__all__} has and what is found when it is asked for are the same
        names.
        """
        path = os.path.join(ROOT, "twisted_bioconn", "__init__.py")
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
        seen = {
            alias.name: node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.level == 1
            for alias in node.names
        }
        self.assertEqual(sorted(seen), sorted(twisted_bioconn.__all__))
        homes = dict.fromkeys(twisted_bioconn.__all__, "errors") | twisted_bioconn._HOMES
        self.assertEqual(seen, homes)

    def test_what_users_meet(self) -> None:
        """
        Whatever a user hands in, or gets and may want to name, is there: the classes of the
        modules for users, and their exceptions.
        """
        for module, names in {
            "context": ["ClientCertificate", "ClientOptions", "ServerOptions", "SessionStore"],
            "endpoints": ["ClientEndpoint", "ServerEndpoint"],
            "connector": ["Connector", "State"],
            "errors": ["ConfigurationError", "UsageError", "PeerError", "TruncatedError"],
            "policy": ["Policy", "MODERN", "INTERMEDIATE"],
            "protocol": ["TLSConnectorFactory", "TLSConnectorProtocol", "AlertReceived"],
            "verify": ["CertificateRefused", "Pin"],
            "certificates.loading": ["CertifiedKey"],
            "negotiated": ["Negotiated"],
            "reactor": ["install"],
        }.items():
            for name in names:
                self.assertIn(name, twisted_bioconn.__all__)
                found = getattr(import_module(f"twisted_bioconn.{module}"), name)
                self.assertIs(getattr(twisted_bioconn, name), found)

    def test_star(self) -> None:
        """C{import *} brings them all and nothing else."""
        names = run(
            "from twisted_bioconn import *\n"
            "print(json.dumps([name for name in dir() if not name.startswith('__')]))"
        )
        self.assertEqual(set(names) - {"json", "sys"}, set(twisted_bioconn.__all__))

    def test_dir(self) -> None:
        """C{dir} shows those too that were not asked for yet."""
        names = run("import twisted_bioconn\nprint(json.dumps(dir(twisted_bioconn)))")
        self.assertLessEqual(set(twisted_bioconn.__all__), set(names))
        self.assertIn("__version__", names)

    def test_no_such_name(self) -> None:
        """A name that is not there is told as any module tells it."""
        error = self.assertRaises(AttributeError, getattr, twisted_bioconn, "Nothing")
        self.assertEqual(str(error), "module 'twisted_bioconn' has no attribute 'Nothing'")
        self.assertFalse(hasattr(twisted_bioconn, "_nothing"))
        error = self.assertRaises(ImportError, exec, "from twisted_bioconn import Nothing")
        self.assertIn("cannot import name 'Nothing'", str(error))

    def test_version(self) -> None:
        """The one that the change log begins with."""
        changes = (Path(__file__).parents[1] / "CHANGELOG.md").read_text("utf-8")
        self.assertIn(f"\n## {twisted_bioconn.__version__}", changes)


class TypeTests(SynchronousTestCase):
    """What mypy knows of the names."""

    def test_types(self) -> None:
        """Each has its own type and is not C{Any}; a name that is not there is an error."""
        lines = [
            "import twisted_bioconn",
            *(f"reveal_type(twisted_bioconn.{name})" for name in twisted_bioconn.__all__),
        ]
        require_module("mypy")
        options = ["--strict", "--cache-dir", os.path.abspath(self.mktemp())]
        done = subprocess.run(
            [sys.executable, "-m", "mypy", *options, "-c", "\n".join(lines)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        report = done.stdout
        self.assertEqual(done.returncode, 0, report + done.stderr)
        for number, name in enumerate(twisted_bioconn.__all__, 2):
            [line] = [
                each for each in report.splitlines() if each.startswith(f"<string>:{number}:")
            ]
            self.assertNotIn('"Any"', line)
            self.assertIn("twisted_bioconn." if name != "install" else "def (", line)
