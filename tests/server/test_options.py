"""The command line of C{twistd bioconn}."""

from __future__ import annotations

import os
import sys
from textwrap import dedent

from twisted.internet.protocol import Factory
from twisted.python.usage import Options as UsageOptions
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.server.options import WSGI, Custom, Echo, Forward, Options, Web


class OptionsCase(SynchronousTestCase):
    """Parses command lines."""

    def parse(self, *words: str) -> Options:
        options = Options()
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
