"""The command line of C{twistd bioconn}."""

from __future__ import annotations

import os
import sys
from io import StringIO
from textwrap import dedent
from typing import Any

from twisted.internet.protocol import Factory
from twisted.python.usage import Options as UsageOptions
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.server.config import Configuration, Listening, Mistakes
from twisted_bioconn.server.options import Options
from twisted_bioconn.server.targets import WSGI, Custom, Echo, Forward, Web


class OptionsCase(SynchronousTestCase):
    """Parses command lines."""

    def parse(self, *words: str, parent: dict[str, Any] | None = None) -> Options:
        options = Options()
        options.parent = parent  # type: ignore[assignment]
        options.parseOptions(list(words))
        return options

    def refused(self, *words: str) -> str:
        """The one line that a wrong command line gets."""
        ended = self.assertRaises(SystemExit, self.parse, *words)
        # Python prints such a code on stderr and ends with status 1.
        self.assertIsInstance(ended.code, str)
        self.assertNotIn("\n", ended.code)
        self.assertTrue(ended.code.startswith("bioconn: "), ended.code)
        return str(ended.code)


class PairTests(OptionsCase):
    """C{--listen} and its target."""

    def test_nothing(self) -> None:
        self.assertEqual(self.parse().pairs, [])

    def test_pairs_in_their_order(self) -> None:
        options = self.parse(
            *("--listen", "tcp:80", "--forward", "localhost:8080"),
            *("--listen", "unix:/run/x", "--echo"),
            *("--listen=tcp:81", "--web=."),
        )
        self.assertEqual(
            [(pair.listen.text, type(pair.target)) for pair in options.pairs],
            [("tcp:80", Forward), ("unix:/run/x", Echo), ("tcp:81", Web)],
        )

    def test_short_form_gets_the_development_certificate(self) -> None:
        [pair] = self.parse("--listen", "8443", "--echo").pairs
        self.assertEqual(pair.listen.description, "bioconn:8443")
        self.assertIsNone(pair.listen.endpoint)

    def test_listen_without_a_target(self) -> None:
        for words in (("--listen", "tcp:80"), ("--listen", "tcp:80", "--listen", "1", "--echo")):
            self.assertIn("--listen tcp:80: no target follows it", self.refused(*words))

    def test_target_without_a_listen(self) -> None:
        self.assertEqual(
            self.refused("--forward", "localhost:80", "--listen", "tcp:80"),
            "bioconn: --forward localhost:80: no --listen before it",
        )
        self.assertEqual(self.refused("--echo"), "bioconn: --echo: no --listen before it")

    def test_two_targets(self) -> None:
        self.assertEqual(
            self.refused("--listen", "tcp:80", "--echo", "--web", "."),
            "bioconn: --web: --listen tcp:80 has its target already (--echo)",
        )

    def test_wrong_endpoints(self) -> None:
        self.assertIn(
            "--listen tcp:80:interfce=x: tcp: has no option 'interfce'",
            self.refused("--listen", "tcp:80:interfce=x", "--echo"),
        )
        self.assertIn(
            "--listen tpc:80: 'tpc' is neither", self.refused("--listen", "tpc:80", "--echo")
        )
        self.assertIn(
            "--forward tcp:localhost:80:tmeout=3: tcp: has no option 'tmeout'",
            self.refused("--listen", "tcp:80", "--forward", "tcp:localhost:80:tmeout=3"),
        )

    def test_several_back_ends(self) -> None:
        words = ("--listen", "tcp:80", "--forward", "localhost:1", "--forward", "localhost:2")
        [pair] = self.parse(*words).pairs
        assert isinstance(pair.target, Forward)
        self.assertEqual(pair.target.description, "localhost:1, localhost:2")
        self.assertEqual(pair.words, "--forward localhost:1 --forward localhost:2")
        self.assertIn("its target already (--forward)", self.refused(*words, "--echo"))

    def test_forwarding(self) -> None:
        """It belongs to the pair that it stands after."""
        words = ("--listen", "tcp:80", "--forward", "localhost:1")
        options = self.parse(
            *words, *("--max-fails", "5", "--fail-time=2.5", "--health-check", "tcp"), *words
        )
        self.assertEqual(
            [dict(each.forwarding) for each in options.configuration.listen],
            [{"max-fails": 5, "fail-time": 2.5, "health-check": "tcp"}, {}],
        )
        for more, sentence in (
            (("--max-fails", "x"), "--max-fails x: this must be a whole number"),
            (("--max-fails", "1.5"), "--max-fails 1.5: this must be a whole number, and is a num"),
            (("--fail-time", "0"), "--fail-time 0: this must be above 0"),
            (("--fail-time", "nan"), "--fail-time nan: this must be a number of seconds from 0"),
            (("--send-proxy", "v3"), "--send-proxy v3: it can be v1, v2, v2-tls, v2-tls-cert"),
            (("--health-rise", "2"), "--health-rise 2: this is of no use without --health-check"),
        ):
            found = self.refused(*words, *more)
            self.assertTrue(found.startswith(f"bioconn: {sentence}"), found)
        self.assertEqual(
            self.refused("--max-fails", "1"), "bioconn: --max-fails 1: no --listen before it"
        )
        self.assertEqual(
            self.refused("--listen", "tcp:80", "--echo", "--max-fails", "1"),
            "bioconn: --max-fails: --listen tcp:80 has no --forward",
        )

    def test_empty_words(self) -> None:
        for words, sentence in (
            (("--listen", "tcp:80", "--web", ""), "bioconn: --web: there is none"),
            (("--listen", "tcp:80", "--wsgi", ""), "bioconn: --wsgi: this is not MODULE:NAME"),
            (("--listen", "tcp:80", "--forward", ""), "bioconn: --forward: this is neither"),
            (("--listen", "", "--echo"), "bioconn: --listen : '' is neither a port"),
        ):
            self.assertIn(sentence, self.refused(*words))

    def test_short_form_with_certificates_of_its_own(self) -> None:
        directory = self.mktemp()
        authority = DevelopmentAuthority(directory)
        authority.leaf()
        [pair] = self.parse("--listen", f"8443:certificates={directory}", "--echo").pairs
        self.assertIsNotNone(pair.listen.endpoint)


class ScalarTests(OptionsCase):
    """Options that are no pairs."""

    def test_defaults(self) -> None:
        options = self.parse()
        self.assertEqual(options.configuration, Configuration())
        self.assertEqual(
            [options[key] for key in ("state", "workers", "drain", "status", "max-buffered")],
            [None, 1, 0, None, None],
        )

    def test_given(self) -> None:
        options = self.parse("--drain", "2.5", "--status", "unix:s", "--state=x", "--workers=auto")
        self.assertEqual(options.configuration, Configuration("x", "auto", 2.5, "unix:s"))
        self.assertGreaterEqual(options["workers"], 1)
        self.assertEqual(options["drain"], 2.5)
        options = self.parse("--status", "on", "--state", "x", "--max-buffered", "2000000")
        self.assertEqual(options["status"], os.path.abspath("x/control.sock"))
        self.assertEqual(options["max-buffered"], 2_000_000)

    def test_log(self) -> None:
        """What the log looks like is twistd's to know before it begins."""
        parent: dict[str, Any] = {"logfile": "-"}
        self.parse("--log", "text", parent=parent)
        self.assertNotIn("logger", parent)
        self.parse("--log", "json", parent=parent)
        self.assertIn("logger", parent)
        for other in ("logger", "syslog"):
            ended = self.assertRaises(
                SystemExit, self.parse, "--log", "json", parent={other: "something"}
            )
            self.assertIn(f"log=json: this does not go with twistd's --{other}", str(ended))

    def test_wrong(self) -> None:
        for words, sentence in (
            (("--log", "yaml"), "--log yaml: this must be text or json"),
            (
                ("--max-buffered", "64k"),
                "--max-buffered 64k: this must be a number of bytes, 1048576 at least",
            ),
            (
                ("--max-buffered", "1048575"),
                "--max-buffered 1048575: this must be a number of bytes, 1048576 at least",
            ),
            (("--drain", "soon"), "--drain soon: this must be a number of seconds"),
            (("--state", ""), "--state: this is empty"),
            (("--drain", "nan"), "--drain nan: this must be a number of seconds"),
            (("--workers", "0"), "--workers 0: this must be a number from 1 to 1024, or 'auto'"),
            (("--status", "tpc:a:1"), "--status tpc:a:1: this is neither the path of a socket"),
        ):
            found = self.refused(*words)
            self.assertTrue(found.startswith(f"bioconn: {sentence}"), found)


class ConfigTests(OptionsCase):
    """C{--config}, C{--check} and C{--dump}."""

    def write(self, text: str) -> str:
        path: str = self.mktemp()
        with open(path, "w") as file:
            file.write(text)
        return path

    def said(self, status: int, *words: str) -> str:
        """What is printed by a command that starts nothing."""
        stdout = StringIO()
        self.patch(sys, "stdout", stdout)
        ended = self.assertRaises(SystemExit, self.parse, *words)
        self.assertEqual(ended.code, status)
        return stdout.getvalue()

    def test_file_and_command_line(self) -> None:
        """Pairs are added; what is said in a word wins."""
        path = self.write('state = "x"\ndrain = 5\n[[listen]]\nendpoint = "tcp:80"\necho = true\n')
        options = self.parse(
            *("--config", path, "--drain", "7", "--unsafe-plain-target"),
            *("--listen", "tcp:81", "--forward", "db.example:1"),
        )
        self.assertEqual(
            options.configuration,
            Configuration(
                "x",
                drain=7.0,
                listen=(
                    Listening("tcp:80", echo=True),
                    Listening("tcp:81", forward=("db.example:1",), unsafe_plain_target=True),
                ),
            ),
        )
        self.assertEqual(
            [(pair.listen.name, pair.words) for pair in options.pairs],
            [("listen tcp:80", "echo"), ("--listen tcp:81", "--forward db.example:1")],
        )

    def test_allowed_on_the_command_line_alone(self) -> None:
        """What the command line allows, it allows to its own pairs."""
        path = self.write('[[listen]]\nendpoint = "tcp:80"\nforward = "db.example:1"\n')
        self.assertIn(
            f"bioconn: {path}:3: forward: db.example:1: it is plain, and not on this machine;"
            " unsafe-plain-target = true allows it",
            self.refused("--config", path, "--unsafe-plain-target"),
        )

    def test_mistakes_at_start(self) -> None:
        """They are all told, with the file's before the command line's."""
        path = self.write("drian = 5\n\nworkers = 0\n")
        ended = self.assertRaises(SystemExit, self.parse, "--config", path)
        self.assertEqual(
            str(ended.code).splitlines(),
            [
                f"bioconn: {path}:1: drian: there is no such key at the top, did you mean drain?",
                f'bioconn: {path}:3: workers: this must be a number from 1 to 1024, or "auto"',
            ],
        )

    def test_check(self) -> None:
        empty = self.write("workers = 1")
        self.assertEqual(
            self.said(1, "--check", "--config", empty),
            f"{empty}: there is no [[listen]] in it: nothing to serve\n",
        )
        path = self.write("drian = 5\n[[listen]]\nport = 1\nweb = 'absent'")
        self.assertEqual(
            self.said(1, "--check", "--listen", "tpc:1", "--wsgi", "no_where:x", "--config", path),
            f"{path}:1: drian: there is no such key at the top, did you mean drain?\n"
            f"{path}:4: web: absent: there is none\n"
            "--listen tpc:1: 'tpc' is neither a port, nor an address, nor a kind of endpoint, did"
            " you mean tcp?\n"
            "--wsgi no_where:x: there is no module no_where\n",
        )
        good = self.write("[[listen]]\nport = 1\necho = true")
        self.assertEqual(self.said(0, "--config", good, "--check"), f"{good}: no mistakes\n")
        self.assertEqual(self.said(0, "--check"), "the command line: no mistakes\n")
        self.assertEqual(
            self.said(1, "--config", "absent.toml", "--check"),
            "absent.toml: it cannot be read: No such file or directory\n",
        )

    def test_dump(self) -> None:
        path = self.write("[[listen]]\nport = 1\nweb = 'absent'\nalpn = 'h2'\n")
        words = ("--config", path, "--listen", "tcp:80", "--echo", "--workers", "3", "--dump")
        text = self.said(0, *words)
        self.assertEqual(
            text,
            dedent(
                """\
                workers = 3
                drain = 0
                log = "text"

                [[listen]]
                port = 1
                alpn = ["h2"]
                web = "absent"

                [[listen]]
                endpoint = "tcp:80"
                echo = true
                """
            ),
        )
        self.assertEqual(self.said(0, "--config", self.write(text), "--dump"), text)

    def test_check_and_dump(self) -> None:
        path = self.write("[[listen]]\nport = 1\nweb = 'absent'\n")
        self.assertNotIn("[[listen]]", self.said(1, "--config", path, "--check", "--dump"))

    def test_reread(self) -> None:
        """The file is read again, and the command line still wins."""
        path = self.write("drain = 1\n[[listen]]\nendpoint = 'tcp:80'\necho = true")
        options = self.parse("--config", path, "--drain", "9", "--listen", "tcp:81", "--echo")
        os.chdir("/")
        before = options.configuration
        with open(os.path.join(self.here, path), "w") as file:
            file.write("workers = 2\n[[listen]]\nendpoint = 'tcp:82'\necho = true")
        after, pairs = options.reread()
        self.assertEqual(
            before.differences(after),
            ["workers: 1 -> 2", "listen tcp:80 is gone", "listen tcp:82 is new"],
        )
        self.assertEqual([pair.listen.text for pair in pairs], ["tcp:82", "tcp:81"])
        with open(os.path.join(self.here, path), "w") as file:
            file.write("workers = 0\ndrian = 1\n")
        error = self.assertRaises(Mistakes, options.reread)
        self.assertEqual(len(error.mistakes), 2)
        self.assertIs(options.configuration, before)

    def setUp(self) -> None:
        self.here = os.getcwd()
        self.addCleanup(os.chdir, self.here)


class MistypedTests(OptionsCase):
    """Words that are no options."""

    def test_nearest(self) -> None:
        self.assertEqual(
            self.refused("--lsten", "8443"),
            "bioconn: there is no option --lsten, did you mean --listen?",
        )

    def test_nothing_near(self) -> None:
        self.assertEqual(self.refused("--quux"), "bioconn: there is no option --quux")
        self.assertEqual(self.refused("-x"), "bioconn: there is no option -x")

    def test_option_of_twistd(self) -> None:
        class Twistd(UsageOptions):
            optFlags = [["nodaemon", "n", "Stay."]]

        for word in ("-n", "--nodaemon"):
            options = Options()
            options.parent = Twistd()
            ended = self.assertRaises(SystemExit, options.parseOptions, [word])
            self.assertIn(f"{word} is an option of the command before", str(ended.code))

    def test_stray_word(self) -> None:
        self.assertIn("'8443' follows no option", self.refused("8443"))

    def test_missing_value(self) -> None:
        self.assertIn("requires argument", self.refused("--listen"))

    def test_value_for_a_flag(self) -> None:
        self.assertIn(
            "must not have an argument", self.refused("--listen", "tcp:80", "--echo=loud")
        )


class ForwardTests(OptionsCase):
    """C{--forward}."""

    def test_plain_target_elsewhere(self) -> None:
        sentence = self.refused("--listen", "tcp:80", "--forward", "db.example:5432")
        self.assertIn("--forward db.example:5432: it is plain, and not on this machine", sentence)
        self.assertIn("--unsafe-plain-target", sentence)
        words = ("--listen", "tcp:80", "--forward", "db.example:5432")
        self.assertEqual(len(self.parse(*words, "--unsafe-plain-target").pairs), 1)

    def test_timeout(self) -> None:
        for target, seconds in (("localhost:80", 10.0), ("tcp:localhost:80:timeout=20", None)):
            [pair] = self.parse("--listen", "tcp:80", "--forward", target).pairs
            assert isinstance(pair.target, Forward)
            self.assertEqual(pair.target.connect_timeout, seconds)


class WebTests(OptionsCase):
    """C{--web}."""

    def test_directory(self) -> None:
        [pair] = self.parse("--listen", "tcp:80", "--web", ".").pairs
        self.assertEqual(pair.target, Web(os.getcwd()))

    def test_no_directory(self) -> None:
        missing = self.mktemp()
        self.assertIn(
            f"--web {missing}: there is none", self.refused("--listen", "80", "--web", missing)
        )
        self.assertIn(
            f"--web {__file__}: this is no directory",
            self.refused("--listen", "tcp:80", "--web", __file__),
        )


class ModuleTests(OptionsCase):
    """C{--wsgi} and C{--factory}, which import."""

    def setUp(self) -> None:
        directory = self.mktemp()
        os.mkdir(directory)
        here = os.getcwd()
        os.chdir(directory)
        self.addCleanup(os.chdir, here)
        self.patch(sys, "path", [entry for entry in sys.path if entry != os.getcwd()])
        self.modules = set(sys.modules)
        self.addCleanup(self.forget)

    def forget(self) -> None:
        for name in set(sys.modules) - self.modules:
            del sys.modules[name]

    def write(self, name: str, text: str) -> None:
        with open(f"{name}.py", "w") as file:
            file.write(dedent(text))

    def test_application(self) -> None:
        self.write("bioconn_app", "class site:\n    def application(environ, start): ...\n")
        [pair] = self.parse("--listen", "tcp:80", "--wsgi", "bioconn_app:site.application").pairs
        assert isinstance(pair.target, WSGI)
        self.assertEqual(pair.target.application, sys.modules["bioconn_app"].site.application)

    def test_factories(self) -> None:
        self.write(
            "bioconn_factories",
            """
            from twisted.internet.protocol import Factory
            one = Factory()
            class Class(Factory): pass
            def make(): return one
            """,
        )
        for name in ("one", "Class", "make"):
            words = ("--listen", "tcp:80", "--factory", f"bioconn_factories:{name}")
            [pair] = self.parse(*words).pairs
            assert isinstance(pair.target, Custom)
            self.assertIsInstance(pair.target.factory, Factory)

    def test_mistakes(self) -> None:
        self.write("bioconn_broken", "\n\nraise ValueError('so\\nit is')\n")
        self.write("bioconn_syntax", "def\n")
        self.write("bioconn_leaves", "raise SystemExit('bye')\n")
        self.write("bioconn_needs", "import bioconn_not_there\n")
        self.write(
            "bioconn_app",
            """
            application = 7
            def nothing(): return None
            def fails(): raise KeyError("x")
            """,
        )
        for option, value, sentence in (
            ("--wsgi", "bioconn_app", "this is not MODULE:NAME"),
            ("--wsgi", ":application", "this is not MODULE:NAME"),
            ("--wsgi", "bioconn_nowhere:app", "there is no module bioconn_nowhere"),
            ("--wsgi", "os.nowhere.at.all:app", "there is no module os.nowhere"),
            ("--wsgi", "bioconn_needs:app", "ModuleNotFoundError: No module named 'bioconn_not_th"),
            ("--wsgi", "bioconn_broken:app", "ValueError: so it is ("),
            ("--wsgi", "bioconn_broken:app", "bioconn_broken.py, line 3)"),
            ("--wsgi", "bioconn_syntax:app", "SyntaxError"),
            ("--wsgi", "bioconn_leaves:app", "SystemExit: bye"),
            (
                "--wsgi",
                "bioconn_app:aplication",
                "bioconn_app has no aplication, did you mean application?",
            ),
            ("--wsgi", "bioconn_app:application", "an object of type int is no WSGI application"),
            ("--factory", "bioconn_app:application", "an object of type int is neither"),
            ("--factory", "bioconn_app:nothing", "what it returns, None, is no IProtocolFactory"),
            ("--factory", "bioconn_app:fails", "KeyError: 'x'"),
        ):
            found = self.refused("--listen", "tcp:80", option, value)
            self.assertIn(f"bioconn: {option} {value}: ", found)
            self.assertIn(sentence, found)

    def test_nothing_is_imported_before_the_rest_is_right(self) -> None:
        self.write("bioconn_app", "raise ValueError\n")
        found = self.refused(
            *("--listen", "tcp:80", "--wsgi", "bioconn_app:application", "--listen", "tpc:80"),
            "--echo",
        )
        self.assertIn("'tpc'", found)
