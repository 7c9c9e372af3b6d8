"""
A password that an operator has written where it belongs, or where it does not: what is said of the
command line and of the file does not repeat it.
"""

from __future__ import annotations

import io
import itertools
import os
import sys
from pathlib import Path

from twisted.internet.endpoints import quoteStringArgument
from twisted.trial.unittest import SynchronousTestCase

from tests.programs import require_module
from tests.secrets.planted import Finder, Secret
from twisted_bioconn.server.options import Options

PASSWORDS = ("7f3a-of-redis-", "7f3a%3A%20of%2Fredis", "7f3a:of:redis:", "7f3a of redis/+")

URLS = (
    *("redis://:PW@127.0.0.1:1", "redis://me:PW@127.0.0.1:1/0", "rediss://:PW@[::1]:1"),
    "redis+unix://:PW@/run/redis.sock",
    # None of these is what it should be.
    *("redis://PW@127.0.0.1:1", "redis://:PW@", "redis://:PW@host:x", "redis://:PW@host/x"),
    *("redis:/:PW@host", "redis::PW@host", ":PW@host", "me:PW@host", "PW@host"),
    *("http://:PW@host", "http://me:PW@host:1/", "redis//:PW@host", "Redis://:PW@host"),
)

STRIDE = 1 if os.environ.get("BIOCONN_SLOW") else 11
"""Of what there is to try, each so many is tried: all takes a while."""

#: What is around it.
OPTIONS = (
    "acme=none:names=a.example:passphraseFile=phrase:redis=",
    "redis=",
    "acme=none:redis=",
    "acme=none:names=a.example:passphraseFile=nowhere:redis=",
    "acme=nonsense:names=!!:redis=",
    "privateKey=nowhere:redis=",
    "unknown=1:redis=",
    "redsi=",
)


class WordsTests(SynchronousTestCase):
    """Command lines and files that are wrong, one way or another."""

    def setUp(self) -> None:
        require_module("acme")
        require_module("txredisapi")
        Path("phrase").write_text("a passphrase\n")

    def said(self, *words: str) -> str:
        """What is written, and why it has ended."""
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        why: object = ""
        try:
            Options().parseOptions(words)
        except SystemExit as ended:
            why = ended.code
        return f"{out.getvalue()}{err.getvalue()}{why}"

    def assert_silent(self, password: str, *words: str) -> str:
        said = self.said(*words)
        # What is left of it when it is taken apart at its colons, too.
        pieces = [piece for piece in password.split(":") if len(piece) > 9] + [password]
        finder = Finder(Secret("password", piece.encode()) for piece in pieces)
        self.assertEqual(finder.find(said.encode("utf-8", "surrogateescape")), set(), said)
        return said

    def listens(self) -> list[tuple[str, str]]:
        found = []
        for password, url, options in itertools.product(PASSWORDS, URLS, OPTIONS):
            given = url.replace("PW", password)
            found.append((password, f"bioconn:0:{options}{quoteStringArgument(given)}"))
            if ":" not in password:
                # The colons of the URL are forgotten.
                found.append((password, f"bioconn:0:{options}{given}"))
        return found

    def test_command_line(self) -> None:
        for number, (password, listen) in enumerate(self.listens()[::STRIDE]):
            ways = (
                ("--listen", listen),
                ("--listen", listen, "--echo"),
                ("--listen", listen, "--echo", "--web", "."),
                ("--check", "--listen", listen, "--echo"),
                ("--dump", "--listen", listen, "--echo"),
                ("--listen", listen, "--forward", "nonsense:"),
                ("--listen", "tcp:0", "--echo", "--status", listen),
                ("--listen", "tcp:0", "--forward", listen.replace("bioconn:0", "bioconn:a:1")),
                ("--forward", listen),
                ("--listen", "0", "--forward", "tcp:a:1", "--health-check", listen),
                ("--check", "--listen", "tcp:0", "--echo", "--status", listen),
            )
            # All ways for some, and each way for many.
            for words in ways if number % 40 == 1 else ways[number % 11 :: 11]:
                said = self.assert_silent(password, *words)
                self.assertLess(said.count("\n"), 30)

    def test_file(self) -> None:
        whole = 'acme = "none"\nnames = ["a.example"]\npassphraseFile = "phrase"\n'
        for password, url in [*itertools.product(PASSWORDS, URLS)][:: min(STRIDE, 7)]:
            given = url.replace("PW", password)
            for number, line in enumerate(
                (
                    f'redis = "{given}"',
                    f'{whole}redis = "{given}"',
                    f'redis = ["{given}"]',
                    f'redis = {{url = "{given}"}}',
                    f'redsi = "{given}"',
                    f'redis = "{given}',
                    f"redis = {given}",
                    f'endpoint = "bioconn:0:acme=none:redis={given}"',
                    f'web = "."\nredis = "{given}"',
                )
            ):
                port = "" if "endpoint" in line else "port = 0\n"
                Path("it.toml").write_text(f"[[listen]]\n{port}{line}\necho = true\n")
                for words in ((), ("--check",), ("--dump",)):
                    if (number + len(words)) % 2 and password != PASSWORDS[0]:
                        continue
                    self.assert_silent(password, *words, "--config", "it.toml")
