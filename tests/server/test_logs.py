"""Tests for L{twisted_bioconn.server.logs}."""

from __future__ import annotations

import json
import os
from io import StringIO
from typing import Any, cast

from twisted.logger import FileLogObserver, Logger, LogPublisher
from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

from tests.server.command import TWISTD, Command
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.logs import json_line, log_as


class LineTests(SynchronousTestCase):
    """Each event is a line of JSON."""

    def setUp(self) -> None:
        self.out = StringIO()
        publisher = LogPublisher(FileLogObserver(self.out, json_line))
        self.log = Logger("somewhere", observer=publisher)

    def told(self) -> Any:
        [line] = self.out.getvalue().splitlines()
        return json.loads(line)

    def test_fields(self) -> None:
        self.log.warn("{peer} has gone", peer="192.0.2.7:1", number=5, seconds=0.25, alpn=None)
        told = self.told()
        self.assertRegex(told.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00$")
        self.assertEqual(
            told,
            {
                "level": "warn",
                "from": "somewhere",
                "message": "192.0.2.7:1 has gone",
                "peer": "192.0.2.7:1",
                "number": 5,
                "seconds": 0.25,
                "alpn": None,
            },
        )

    def test_objects(self) -> None:
        """What is no number and no text is left out, and no field takes the place of ours."""
        fields = {"from": "elsewhere", "secret": b"private", "other": object()}
        self.log.info("a\nb {key}", key="c", **fields)
        told = self.told()
        self.assertEqual(told["message"], "a\nb c")
        self.assertEqual(told["from"], "somewhere")
        self.assertEqual(told.keys(), {"time", "level", "from", "message", "key"})

    def test_failure(self) -> None:
        try:
            raise ValueError("it was this")
        except ValueError:
            self.log.failure("it has failed")
        told = self.told()
        self.assertEqual(told["level"], "critical")
        self.assertIn("ValueError: it was this", told["traceback"])


class FormTests(SynchronousTestCase):
    """What the log looks like is asked for."""

    def test_text(self) -> None:
        options: dict[str, Any] = {}
        log_as("text", options)
        self.assertEqual(options, {})

    def test_unknown(self) -> None:
        error = self.assertRaises(ConfigurationError, log_as, "yaml", {})
        self.assertEqual(str(error), "log=yaml: this must be text or json")

    def test_file(self) -> None:
        """It goes where twistd has it go."""
        path = self.mktemp()
        options: dict[str, Any] = {"logfile": path, "nodaemon": True}
        log_as("json", options)
        observer = cast(FileLogObserver, namedAny(options["logger"])())
        observer({"log_format": "hello", "log_time": 0.0})
        with open(path) as file:
            self.assertEqual(json.loads(file.read())["message"], "hello")

    def test_command(self) -> None:
        """A connection that has ended is a line, with all that is known of it."""
        command = Command(
            self,
            *("--log", "json", "--status", "on", "--listen", "127.0.0.1:0", "--echo"),
            start=(*TWISTD[:-1], "--logfile=all.log", TWISTD[-1]),
        )
        path = os.path.join(command.directory, "all.log")
        port = None
        while port is None and command.is_running:
            # It is there before anything is written to it.
            lines = []
            if os.path.exists(path):
                with open(path) as file:
                    lines = file.readlines()
            found = [line for line in lines if "listening on" in line and line.endswith("\n")]
            if found:
                port = int(json.loads(found[0])["address"].rpartition(":")[2])
        assert port is not None, command.errors
        socket_path = os.path.join(command.state, "bioconn", "control.sock")
        tls = command.connect(port)
        tls.sendall(b"hello")
        self.assertEqual(tls.recv(5), b"hello")
        self.assertTrue(os.path.exists(socket_path))
        tls.close()
        self.assertEqual(command.terminate(), 0)
        with open(path) as file:
            told = [json.loads(line) for line in file]
        [ended] = [each for each in told if "end" in each]
        self.assertEqual((ended["version"], ended["server_name"]), ("TLSv1.3", "localhost"))
        self.assertEqual(ended["listener"], "--listen 127.0.0.1:0")
        self.assertGreater(ended["received"], 0)
        self.assertEqual(command.errors, [])
