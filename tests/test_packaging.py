"""
The package as it is installed: what Twisted finds of it, and what importing it brings along.
"""

from __future__ import annotations

import ast
import configparser
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.programs import missing
from twisted_bioconn.endpoint_strings import SERVER_OPTIONS

CHECKOUT = Path(__file__).parent.parent
PACKAGE = CHECKOUT / "twisted_bioconn"


def run(
    *arguments: str | Path, cwd: str | Path, python_path: str | Path = ""
) -> subprocess.CompletedProcess[str]:
    """Run a program with nothing in its environment that could point at the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if python_path:
        environment["PYTHONPATH"] = str(python_path)
    return subprocess.run(
        arguments,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


class Installation:
    """
    A virtual environment into which a copy of the checkout was installed.

    Its dependencies are those of the Python that runs the tests: nothing is fetched.
    """

    def __init__(self, directory: Path) -> None:
        self.elsewhere = directory / "elsewhere"
        self.elsewhere.mkdir(parents=True)
        source = directory / "source"
        source.mkdir()
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(CHECKOUT / name, source)
        left_out = shutil.ignore_patterns("__pycache__", "dropin.cache")
        for name in ("twisted", "twisted_bioconn"):
            shutil.copytree(CHECKOUT / name, source / name, ignore=left_out)
        self.programs = directory / "venv" / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.programs / "python"
        self._check("-m", "venv", "--without-pip", directory / "venv", python=sys.executable)
        self.packages = Path(
            self._check("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        )
        (self.packages / "dependencies.pth").write_text(
            "\n".join(
                path for path in sys.path if path.endswith(("site-packages", "dist-packages"))
            )
        )
        self._check(
            *("-m", "pip", "--python", self.python, "install", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--ignore-installed", "--disable-pip-version-check", source),
            python=sys.executable,
        )

    def _check(self, *arguments: str | Path, python: str | Path | None = None) -> str:
        done = run(python or self.python, *arguments, cwd=self.elsewhere)
        if done.returncode:
            raise AssertionError(done.stdout + done.stderr)
        return done.stdout

    def code(self, code: str) -> str:
        """Run code, and return what it prints."""
        return self._check("-c", code)

    def twistd(self, *arguments: str) -> str:
        """Run C{twistd}, and return what it prints."""
        return self.code(
            f"import sys; sys.argv[:] = ['twistd', *{arguments!r}]\n"
            "from twisted.scripts.twistd import run; run()"
        )


class InstallationTests(TestCase):
    """What a plain C{pip install .} gives, seen from another directory."""

    installation: Installation | None = None

    async def setUp(self) -> None:  # type: ignore[override]
        # One for all the tests of this class, as none of them changes it for another.
        if InstallationTests.installation is None:
            # The first version that builds a wheel with no other package.
            if tuple(map(int, version("setuptools").split(".")[:2])) < (70, 1):
                raise missing("setuptools 70.1 or newer is not installed")
            directory = Path(self.mktemp()).absolute()
            InstallationTests.installation = await deferToThread(Installation, directory)
        self.installed = InstallationTests.installation

    def test_command(self) -> None:
        """C{twistd} has the command."""
        self.assertRegex(self.installed.twistd("--help"), r"(?m)^ +bioconn +A TLS server")

    def test_reactors(self) -> None:
        """C{twistd} has both reactors, and both can be imported."""
        listed = self.installed.twistd("--help-reactors")
        working = listed.partition("reactors not available")[0]
        self.assertRegex(working, r"(?m)^ +bioconn\s+The platform's best reactor")
        self.assertRegex(working, r"(?m)^ +bioconn-asyncio\s+The asyncio reactor")

    def test_endpoints(self) -> None:
        """Both parsers answer to the prefix, with the classes that they stand for."""
        for kind, description in (("client", "bioconn:localhost:443"), ("server", "bioconn:0")):
            printed = self.installed.code(
                "from twisted.internet import endpoints, reactor\n"
                "try:\n"
                f"    made = endpoints.{kind}FromString(reactor, {description!r})\n"
                "except ValueError as error:\n"
                "    made = error\n"
                "print(type(made).__module__)"
            )
            # What a server without a certificate says is ours too.
            modules = ("endpoints", "endpoint_strings", "errors")
            self.assertIn(printed, [f"twisted_bioconn.{each}\n" for each in modules])

    def test_program(self) -> None:
        """The console script is there and speaks."""
        done = run(self.installed.programs / "bioconn", "--help", cwd=self.installed.elsewhere)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("--listen", done.stdout)

    def test_files(self) -> None:
        """Every file of the package is installed: modules, templates, the mark of its types."""
        left_out = {"__pycache__"}
        expected = {
            file.relative_to(CHECKOUT)
            for file in PACKAGE.rglob("*")
            if file.is_file() and not left_out.intersection(file.parts)
        }
        root = self.installed.packages
        found = {
            file.relative_to(root)
            for file in (root / "twisted_bioconn").rglob("*")
            if file.is_file() and not left_out.intersection(file.parts)
        }
        self.assertEqual(found, expected)
        self.assertIn(Path("twisted_bioconn/py.typed"), found)

    def test_one_plugin_file(self) -> None:
        """Of C{twisted} nothing is installed but the plugin file."""
        installed = self.installed.packages / "twisted"
        files = [file.name for file in installed.rglob("*") if file.suffix == ".py"]
        self.assertEqual(files, ["bioconn_plugins.py"])

    def test_metadata(self) -> None:
        """The version is the package's own, and every extra is declared."""
        printed = self.installed.code(
            "import twisted_bioconn; from importlib.metadata import metadata\n"
            "found = metadata('twisted_bioconn')\n"
            "print(found['Version'] == twisted_bioconn.__version__)\n"
            "print(*sorted(found.get_all('Provides-Extra')))"
        )
        self.assertEqual(printed, "True\nacme bench docs fuzz redis test\n")

    def test_stale_plugin_cache(self) -> None:
        """
        C{dropin.cache}, in which Twisted remembers plugins, may be from before the installation, or
        broken, or impossible to write.
        """
        cache = self.installed.packages / "twisted" / "plugins" / "dropin.cache"
        for content in (pickle.dumps({}), b"no pickle"):
            cache.write_bytes(content)
            os.utime(cache, (2**31, 2**31))
            self.assertIn(" bioconn ", self.installed.twistd("--help"))
        cache.unlink()
        cache.mkdir()
        self.addCleanup(cache.rmdir)
        self.assertIn(" bioconn ", self.installed.twistd("--help"))


class SecurityTests(SynchronousTestCase):
    """C{SECURITY.md}: for whoever has found a fault."""

    TEXT = (CHECKOUT / "SECURITY.md").read_text("utf-8")

    def test_in_source_distribution(self) -> None:
        """It is in what is uploaded, with the pages that it leads to."""
        source, out = Path(self.mktemp()).absolute(), Path(self.mktemp()).absolute()
        source.mkdir()
        out.mkdir()
        left_out = shutil.ignore_patterns("__pycache__", "dropin.cache")
        for path in CHECKOUT.iterdir():
            if path.is_file():
                shutil.copy(path, source)
            elif path.name in ("docs", "twisted", "twisted_bioconn"):
                # There may be an environment beside them, and trial's directory, which changes.
                shutil.copytree(path, source / path.name, ignore=left_out)
        build = f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})"
        done = run(sys.executable, "-c", build, cwd=source)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        [archive] = out.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            names = {name.partition("/")[2] for name in packed.getnames()}
        linked = re.findall(r"\]\(([^)]+)\)", self.TEXT)
        self.assertIn("docs/threat-model.md", linked)
        self.assertLessEqual({"SECURITY.md", "CHANGELOG.md", "LICENSE", *linked}, names)

    def test_facts(self) -> None:
        """What it names is there, it invents no address, and the README leads to it."""
        for path in re.findall(r"\]\(([^)]+)\)", self.TEXT):
            self.assertTrue((CHECKOUT / path).is_file(), path)
        settings = configparser.ConfigParser()
        settings.read(CHECKOUT / "setup.cfg")
        self.assertIn("cryptography", settings["options"]["install_requires"])
        self.assertEqual(
            {name for name in SERVER_OPTIONS if name.startswith("unsafe")},
            {"unsafeTraceSecrets", "unsafeKeyLog"},
        )
        command = (PACKAGE / "server" / "options.py").read_text("utf-8")
        for option in ("trace-failures", "version"):
            self.assertIn(f"--{option}", self.TEXT)
            self.assertIn(option, command)
        addresses = set(re.findall(r"[\w.+-]+@[\w-]+\.[\w.]+|https?://\S+", self.TEXT))
        self.assertEqual(addresses, set())
        for heading in ("Supported versions", "How to report", "What is promised"):
            self.assertIn(f"## {heading}\n", self.TEXT)
        self.assertIn("(SECURITY.md)", (CHECKOUT / "README.md").read_text("utf-8"))


class CheckoutTests(SynchronousTestCase):
    """The checkout as a place to start Python in."""

    def test_twisted_not_shadowed(self) -> None:
        """C{import twisted} finds Twisted, and C{twistd} finds our plugins."""
        done = run(
            *(sys.executable, "-c", "import twisted.plugins; print(twisted.__file__)"),
            cwd=CHECKOUT,
        )
        twisted = Path(done.stdout.strip())
        self.assertEqual(twisted.name, "__init__.py", done.stderr)
        self.assertNotIn(CHECKOUT / "twisted", twisted.parents)
        self.assertEqual(list((CHECKOUT / "twisted").rglob("__init__.py")), [])

    def test_plugins_are_light(self) -> None:
        """
        What Twisted imports at each start of C{twistd} brings neither OpenSSL nor this package.
        """
        done = run(
            *(sys.executable, "-c"),
            "import sys, twisted.plugins.bioconn_plugins\n"
            "print([name for name in ('OpenSSL', 'twisted_bioconn') if name in sys.modules])",
            cwd=CHECKOUT,
        )
        self.assertEqual(done.stdout, "[]\n", done.stderr)


def modules() -> dict[str, Path]:
    """The modules of the package, by name."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(CHECKOUT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(name: str, file: Path) -> set[str]:
    """The modules that a module imports anywhere in its text, by full name."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - (node.level - 1)]
            base = ".".join([*above, *filter(None, [node.module])]) if node.level else node.module
            found |= {str(base), *(f"{base}.{alias.name}" for alias in node.names)}
    return found


class ImportTests(SynchronousTestCase):
    """Imports go one way, and none installs a reactor that was not asked for."""

    def test_no_reactor(self) -> None:
        """
        No module imports a reactor: a program chooses one after it has imported what it needs, and
        whatever comes of a plugin is imported before that.
        """
        done = run(
            *(sys.executable, "-c"),
            "import importlib, sys\n"
            f"for name in {sorted(modules())}:\n"
            "    importlib.import_module(name)\n"
            "    assert 'twisted.internet.reactor' not in sys.modules, name\n",
            cwd=CHECKOUT,
        )
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_sans_io(self) -> None:
        """What does no I/O imports nothing of Twisted's."""
        names = {
            f"twisted_bioconn.{name}" for name in ("_openssl", "alerts", "connector", "policy")
        }
        self.assertLessEqual(names, modules().keys())
        done = run(
            *(sys.executable, "-c"),
            "import importlib, sys\n"
            f"for name in {sorted(names)}:\n"
            "    importlib.import_module(name)\n"
            "    found = [name for name in sys.modules if name.startswith('twisted.')]\n"
            "    assert not found, (name, found)\n",
            cwd=CHECKOUT,
        )
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_server_is_on_top(self) -> None:
        """Nothing outside of C{server} and C{__main__} imports from C{server}."""
        server = "twisted_bioconn.server"
        for name, file in modules().items():
            if name.startswith(server) or name == "twisted_bioconn.__main__":
                continue
            users = {each for each in imported(name, file) if f"{each}.".startswith(f"{server}.")}
            self.assertEqual(users, set(), f"{name} imports from server/")

    def test_one_way(self) -> None:
        """C{_openssl}, C{connector}, C{protocol}, C{endpoints}: none imports from a later one."""
        order = [
            f"twisted_bioconn.{name}" for name in ("_openssl", "connector", "protocol", "endpoints")
        ]
        files = modules()
        for position, name in enumerate(order):
            later = set(order[position + 1 :])
            self.assertEqual(imported(name, files[name]) & later, set(), f"{name} imports upwards")

    def test_beside_the_connector(self) -> None:
        """What stands beside the connector does not import what is built on it."""
        upper = {f"twisted_bioconn.{name}" for name in ("protocol", "endpoints", "reactor", "http")}
        beside = {
            name: file
            for name, file in modules().items()
            if name.split(".")[1:2]
            in (["hello"], ["policy"], ["context"], ["verify"], ["access"], ["certificates"])
        }
        self.assertIn("twisted_bioconn.context", beside)
        # To talk to an authority is to be a client of HTTP over TLS, which is built on all of it.
        # What stands beside the connector imports that when it is asked for, and not before.
        del beside["twisted_bioconn.certificates.acme.exchange"]
        for name, file in beside.items():
            self.assertEqual(imported(name, file) & upper, set(), f"{name} imports upwards")

    def test_dependencies_declared(self) -> None:
        """Each top-level module that is imported comes with Python or a declared dependency."""
        homes = {"OpenSSL": "pyopenssl", "attr": "attrs", "zope": "zope-interface"}
        settings = configparser.ConfigParser()
        settings.read(CHECKOUT / "setup.cfg")
        text = settings["options"]["install_requires"] + "".join(
            settings["options.extras_require"][extra] for extra in ("acme", "redis")
        )
        declared = {
            name.lower().replace(".", "-").replace("_", "-")
            for name in re.findall(r"(?m)^([\w.-]+)", text)
        }
        for name, file in modules().items():
            for top in {each.partition(".")[0] for each in imported(name, file)}:
                if top in sys.stdlib_module_names or top == "twisted_bioconn":
                    continue
                home = homes.get(top, top).replace("_", "-")
                self.assertIn(home, declared, f"{name} imports {top}")
