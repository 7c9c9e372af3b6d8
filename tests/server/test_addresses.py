"""What may stand after C{--listen} and C{--forward}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    clientFromString,
    quoteStringArgument,
)
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.addresses import (
    client_description,
    client_endpoint,
    client_kinds,
    connect_timeout,
    leaves_in_the_clear,
    parse,
    server_description,
    server_endpoint,
    server_kinds,
)
from twisted_bioconn.server.local import is_local


class ListenTests(SynchronousTestCase):
    """After C{--listen}."""

    def test_short_forms(self) -> None:
        for text, description in (
            ("8443", "bioconn:8443"),
            ("8443:privateKey=key.pem", "bioconn:8443:privateKey=key.pem"),
            ("127.0.0.1:8443", "bioconn:8443:interface=127.0.0.1"),
            ("[::1]:8443", r"bioconn:8443:interface=\:\:1"),
            ("[::1]:8443:backlog=9", r"bioconn:8443:backlog=9:interface=\:\:1"),
            ("localhost:8443", "bioconn:8443:interface=127.0.0.1"),
        ):
            self.assertEqual(server_description(text), (description, True))

    def test_short_form_of_ipv6_is_read_back_as_it_was_meant(self) -> None:
        description, _ = server_description("[fe80::1%eth0]:8443")
        self.assertEqual(parse(description), (["bioconn", "8443"], {"interface": "fe80::1%eth0"}))

    def test_endpoint_strings_stay_as_they_are(self) -> None:
        for text in ("tcp:80", "unix:/run/app.sock", r"tls:dir:443", "ssl:443", "TCP6:80"):
            self.assertEqual(server_description(text), (text, False))

    def test_neither(self) -> None:
        for text, sentence in (
            ("tpc:80", "'tpc' is neither a port, nor an address, nor a kind of endpoint, did you"),
            ("http", "'http' is neither a port"),
            ("", "'' is neither"),
            ("port=80", "'port=80' is neither"),
            ("[::1]:https", "no port stands after the address"),
            ("[nonsense]:80", "'nonsense' is not an address"),
            ("127.0.0.1:", "no port stands after the address"),
            ("80\\", "it ends in a backslash"),
            ("bioconn:80:ä=1", "the name of an option in it is not ASCII"),
        ):
            error = self.assertRaises(ConfigurationError, server_description, text)
            self.assertIn(sentence, str(error))

    def test_kinds_of_twisteds_own_plugins_are_known(self) -> None:
        self.assertLessEqual({"tcp", "tcp6", "unix", "ssl", "tls", "systemd"}, server_kinds())
        self.assertLessEqual({"tcp", "unix", "ssl", "tls"}, client_kinds())


class ForwardTests(SynchronousTestCase):
    """After C{--forward}."""

    def test_short_forms(self) -> None:
        for text, description in (
            ("localhost:80", "tcp:localhost:80"),
            ("192.0.2.1:80:timeout=3", "tcp:192.0.2.1:80:timeout=3"),
            ("[::1]:80", r"tcp:\:\:1:80"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("tcp:host=db:port=80", "tcp:host=db:port=80"),
        ):
            self.assertEqual(client_description(text), description)

    def test_neither(self) -> None:
        for text, sentence in (
            ("8080", "no host, did you mean localhost:8080?"),
            ("tpc:db:80", "there is no kind 'tpc', did you mean tcp?"),
            ("db", "neither HOST:PORT nor an endpoint"),
            ("db:http", "neither HOST:PORT nor an endpoint"),
            ("", "neither HOST:PORT nor an endpoint"),
            ("[db]:80", "'db' is not an address"),
        ):
            error = self.assertRaises(ConfigurationError, client_description, text)
            self.assertIn(sentence, str(error))

    def test_timeout(self) -> None:
        self.assertEqual(connect_timeout("tcp:localhost:80:timeout=3"), "3")
        self.assertIsNone(connect_timeout("tcp:localhost:80"))


class InTheClearTests(SynchronousTestCase):
    """Which targets are refused without C{--unsafe-plain-target}."""

    def test_allowed(self) -> None:
        for description in (
            "unix:/run/app.sock",
            "tcp:127.0.0.1:80",
            "tcp:127.9.8.7:80",
            "tcp:localhost:80",
            "TCP:LocalHost:80",
            "tcp:host=localhost:port=80",
            "tcp:80:host=localhost",
            r"tcp:\:\:1:80",
            r"tcp:\:\:ffff\:127.0.0.1:80",
            "tls:db.example:443",
            "ssl:db.example:443",
            "bioconn:db.example:443",
        ):
            self.assertIsNone(leaves_in_the_clear(description), description)

    def test_refused(self) -> None:
        for description in (
            "tcp:192.0.2.1:80",
            "tcp:0.0.0.0:80",
            "tcp:db.example:80",
            "tcp:localhost.example:80",
            "tcp:127.1:80",
            "tcp:2130706433:80",
            "tcp:host=db.example:port=80",
            "tcp:80:host=db.example",
            r"tcp:2001\:db8\:\:1:80",
            r"tcp:\:\:ffff\:192.0.2.1:80",
            # Twisted takes the first of the two hosts.
            "tcp:db.example:80:host=localhost",
            "tcp:localhost:80:host=db.example",
            "onion:example:80",
            r"haproxy:tcp\:localhost\:80",
        ):
            self.assertIsNotNone(leaves_in_the_clear(description), description)

    @given(
        st.lists(st.sampled_from(["localhost", "127.0.0.1", "db.example", "80"]), max_size=2),
        st.dictionaries(
            st.sampled_from(["host", "port"]),
            st.sampled_from(["localhost", "db.example", "80"]),
        ),
    )
    def test_what_is_allowed_connects_to_this_machine(
        self, arguments: list[str], named: dict[str, str]
    ) -> None:
        """
        Whatever is allowed, Twisted makes a client of this machine out of it, or no client.
        """
        quoted = [quoteStringArgument(argument) for argument in arguments]
        description = ":".join(["tcp", *quoted, *(f"{key}={named[key]}" for key in named)])
        if leaves_in_the_clear(description) is not None:
            return
        try:
            endpoint = clientFromString(MemoryReactorClock(), description)
        except (TypeError, ValueError, KeyError):
            return
        self.assertTrue(is_local(endpoint._host), description)


class MakingTests(SynchronousTestCase):
    """Endpoints are made of strings, or one sentence says why not."""

    def test_made(self) -> None:
        reactor = MemoryReactorClock()
        self.assertIsInstance(server_endpoint(reactor, "tcp:80"), TCP4ServerEndpoint)
        self.assertIsInstance(client_endpoint(reactor, "tcp:localhost:80"), TCP4ClientEndpoint)

    def test_not_made(self) -> None:
        missing = self.mktemp()
        nothing = self.mktemp()
        with open(nothing, "w"):
            pass
        for make, description, sentence in (
            (server_endpoint, "tcp:80:interfaec=::1", "tcp: has no option 'interfaec'"),
            (server_endpoint, "tcp:80:1:2:3:4", "tcp: has too few or too many parts"),
            (server_endpoint, "tcp:http", "'http' is not a number"),
            (server_endpoint, "what:80", "Unknown endpoint type: 'what'"),
            (
                server_endpoint,
                f"ssl:443:privateKey={missing}",
                "No such file or directory: /",
            ),
            (
                server_endpoint,
                f"ssl:443:privateKey={nothing}",
                "the certificate or key cannot be used",
            ),
            (client_endpoint, "tcp:localhost:80:time=3", "tcp: has no option 'time'"),
            (client_endpoint, "tcp:localhost:80:timeout=x", "'x' is not a number"),
        ):
            error = self.assertRaises(ConfigurationError, make, MemoryReactorClock(), description)
            self.assertIn(sentence, str(error))
            self.assertNotIn("\n", str(error))
