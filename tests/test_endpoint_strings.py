"""What C{bioconn:} strings mean, and what is said of those that mean nothing."""

from __future__ import annotations

import base64
import os
import socket
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import endpoints
from twisted.internet.endpoints import (
    HostnameEndpoint,
    clientFromString,
    quoteStringArgument,
    serverFromString,
)
from twisted.internet.interfaces import (
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpointStringParser,
)
from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import IPlugin
from twisted.python.systemd import ListenFDs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.endpoint_material import Applications
from tests.socket_material import SECRET, key_pem
from tests.tls_material import HOST, authority, chained_server, client, pem, rsa_server, server
from twisted.plugins import bioconn_plugins
from twisted_bioconn.context import ClientCertificate
from twisted_bioconn.endpoint_strings import (
    CLIENT_OPTIONS,
    SERVER_OPTIONS,
    ClientParser,
    ServerParser,
)
from twisted_bioconn.endpoints import ClientEndpoint, ServerEndpoint
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.limits import Limits
from twisted_bioconn.policy import INTERMEDIATE, MODERN
from twisted_bioconn.port_options import Plain
from twisted_bioconn.verify import Pin


class StringCase(SynchronousTestCase):
    """
    A test with the files that strings name, in a directory whose name needs no quoting.
    """

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        here = os.getcwd()
        self.directory = self.mktemp()
        os.makedirs(os.path.join(self.directory, "authorities"))
        # Relative names, as an operator writes them.
        os.chdir(self.directory)
        self.addCleanup(os.chdir, here)
        roots = pem(authority().certificate)
        for name, content in {
            "server.pem": key_pem(server().key) + pem(server().certificate),
            "key.pem": key_pem(server().key),
            "encrypted.pem": key_pem(server().key, SECRET),
            "cert.pem": pem(server().certificate),
            "chained.pem": pem(chained_server().certificate),
            "fullchain.pem": b"".join(map(pem, chained_server().chain)),
            "chain.pem": b"".join(map(pem, chained_server().intermediates)),
            "client.pem": pem(client().certificate) + key_pem(client().key),
            "client-cert.pem": pem(client().certificate),
            "client-key.pem": key_pem(client().key),
            "rsa.pem": pem(rsa_server().certificate) + key_pem(rsa_server().key),
            "passphrase": SECRET + b"\n",
            "wrong": b"battery staple\n",
            "ca.pem": roots,
            "authorities/ca.pem": roots,
            "empty": b"",
        }.items():
            with open(name, "wb") as file:
                file.write(content)

    def server(self, rest: str) -> ServerEndpoint:
        """The endpoint of a server's string, less its prefix."""
        endpoint = serverFromString(self.reactor, f"bioconn:{rest}")
        assert isinstance(endpoint, ServerEndpoint)
        return endpoint

    def client(self, rest: str) -> ClientEndpoint:
        """The endpoint of a client's string, less its prefix."""
        endpoint = clientFromString(self.reactor, f"bioconn:{rest}")
        assert isinstance(endpoint, ClientEndpoint)
        return endpoint

    def listening(self, rest: str) -> tuple[Any, ...]:
        """Where a server's string listens: port, backlog and interface."""
        self.reactor.tcpServers.clear()
        self.successResultOf(self.server(rest).listen(Applications()))
        [(port, _, backlog, interface)] = self.reactor.tcpServers
        return port, backlog, interface

    def mistake(self, make: Any, rest: str, *parts: str) -> None:
        """A wrong string is refused in one sentence, which has these parts."""
        error = self.assertRaises(ConfigurationError, make, rest)
        sentence = str(error)
        for part in parts:
            self.assertIn(part, sentence)
        self.assertNotIn("\n", sentence)
        self.assertNotIn("Traceback", sentence)
        for secret in (SECRET.decode(), "battery staple", "BEGIN"):
            self.assertNotIn(secret, sentence)
        # A program that shows a traceback shows this one, and not how we came to it.
        self.assertTrue(error.__suppress_context__ or error.__context__ is None)
        self.assertIsNone(error.__cause__)


class PluginTests(StringCase):
    """How Twisted finds the parsers."""

    def test_interfaces(self) -> None:
        """The parsers, and the plugins that stand for them."""
        parsers: tuple[tuple[Any, tuple[Any, ...]], ...] = (
            (
                IStreamServerEndpointStringParser,
                (ServerParser(), bioconn_plugins.bioconn_server_endpoint),
            ),
            (
                IStreamClientEndpointStringParserWithReactor,
                (ClientParser(), bioconn_plugins.bioconn_client_endpoint),
            ),
        )
        for interface, providers in parsers:
            for parser in providers:
                verifyObject(interface, parser)
                self.assertTrue(IPlugin.providedBy(parser))
                self.assertEqual(parser.prefix, "bioconn")


class ServerTests(StringCase):
    """A server's string."""

    def test_where(self) -> None:
        """Port, interface and backlog, by position or by name."""
        for rest, expected in (
            ("443", (443, "")),
            ("port=443", (443, "")),
            ("0:interface=127.0.0.1", (0, "127.0.0.1")),
            ("interface=127.0.0.1:port=65535", (65535, "127.0.0.1")),
            ("8443:interface=\\:\\:1", (8443, "::1")),
            ("8443:interface=\\:\\:", (8443, "::")),
            ("8443:interface=", (8443, "")),
            ("8443:interface=localhost", (8443, "localhost")),
        ):
            port, _, interface = self.listening(rest)
            self.assertEqual((port, interface), expected)
        self.assertEqual(self.listening("443:backlog=7")[1], 7)
        self.assertGreaterEqual(self.listening("443")[1], 128)

    def test_defaults(self) -> None:
        """What is not given is as secure as it comes."""
        endpoint = self.server("443")
        options = endpoint.options
        self.assertEqual(
            (endpoint.handshake_timeout, endpoint.close_timeout, endpoint.idle_timeout),
            (10, 30, None),
        )
        self.assertIs(endpoint.clock, self.reactor)
        self.assertIs(options.policy, INTERMEDIATE)
        self.assertEqual(options.alpn, ())
        self.assertIs(options.clients.mode, ClientCertificate.NONE)
        self.assertEqual(options.certificate.chain, server().chain)

    def test_files(self) -> None:
        """Key and certificate: in one file or two, in one chain or two."""
        for rest, chain in (
            ("443", server().chain),
            ("443:privateKey=rsa.pem", rsa_server().chain),
            ("443:privateKey=key.pem:certKey=cert.pem", server().chain),
            ("443:certKey=cert.pem", server().chain),
            ("443:privateKey=key.pem:certKey=fullchain.pem", chained_server().chain),
            (
                "443:privateKey=key.pem:certKey=chained.pem:extraCertChain=chain.pem",
                chained_server().chain,
            ),
            (
                "443:privateKey=encrypted.pem:certKey=cert.pem:passphraseFile=passphrase",
                server().chain,
            ),
            ("443:privateKey=key.pem:certKey=cert.pem:passphraseFile=wrong", server().chain),
        ):
            self.assertEqual(self.server(rest).options.certificate.chain, chain)

    def test_options(self) -> None:
        """The others."""
        options = self.server("443:alpn=h2, http/1.1:policy=modern").options
        self.assertEqual(options.alpn, (b"h2", b"http/1.1"))
        self.assertIs(options.policy, MODERN)
        for authorities in ("ca.pem", "authorities"):
            options = self.server(f"443:clientAuthorities={authorities}").options
            self.assertEqual(options.clients.authorities, (authority().certificate,))
            self.assertIs(options.clients.mode, ClientCertificate.REQUIRE)
        options = self.server(
            "443:clientAuthorities=ca.pem:clientCertificate=verifyIfGiven"
        ).options
        self.assertIs(options.clients.mode, ClientCertificate.VERIFY_IF_GIVEN)

    def test_timeouts(self) -> None:
        """Seconds, fractions of them, and C{off}."""
        endpoint = self.server("443:handshakeTimeout=0.5:closeTimeout=1e2:idleTimeout=3600")
        self.assertEqual(
            (endpoint.handshake_timeout, endpoint.close_timeout, endpoint.idle_timeout),
            (0.5, 100, 3600),
        )
        endpoint = self.server("443:handshakeTimeout=off:closeTimeout=off:idleTimeout=off")
        self.assertEqual(
            (endpoint.handshake_timeout, endpoint.close_timeout, endpoint.idle_timeout),
            (None, None, None),
        )

    def test_below(self) -> None:
        """Any other server endpoint may be below, also another of ours."""
        below = self.server(r"endpoint=unix\:/run/app.sock\:mode=600").endpoint
        self.assertEqual((below._address, below._mode), ("/run/app.sock", 0o600))  # type: ignore[attr-defined]
        self.reactor.tcpServers.clear()
        endpoint = self.server(r"endpoint=tcp\:8443\:interface=127.0.0.1")
        self.successResultOf(endpoint.listen(Applications()))
        self.assertEqual(self.reactor.tcpServers[0][0], 8443)
        inner = self.server(r"endpoint=bioconn\:8443\:privateKey=rsa.pem").endpoint
        assert isinstance(inner, ServerEndpoint)
        self.assertEqual(inner.options.certificate.chain, rsa_server().chain)

    def test_systemd(self) -> None:
        """A socket of systemd's, and one that it did not hand over."""
        self.patch(endpoints._SystemdParser, "_sddaemon", ListenFDs([3, 4], ["plain", "web"]))
        for which, number in (("index=0", 3), ("name=web", 4)):
            below: Any = self.server(f"endpoint=systemd\\:domain=INET6\\:{which}").endpoint
            self.assertEqual((below.fileno, below.addressFamily), (number, socket.AF_INET6))
        for which, what in (("index=2", "list index out of range"), ("name=app", "'app'")):
            self.mistake(
                self.server,
                f"endpoint=systemd\\:domain=INET\\:{which}",
                f"endpoint=systemd:domain=INET:{which}: it names something that is not there"
                f" ({what})",
            )

    def test_quoted(self) -> None:
        """The whole string may stand in another one."""
        inner = r"bioconn:443:interface=\:\:1:privateKey=rsa.pem"
        outer = self.server(f"endpoint={quoteStringArgument(inner)}:alpn=x")
        assert isinstance(outer.endpoint, ServerEndpoint)
        self.assertEqual(outer.endpoint.options.certificate.chain, rsa_server().chain)

    def test_method(self) -> None:
        """C{sslmethod} as in C{ssl:}; the policy wins over it."""
        for name, versions in (
            ("TLS_METHOD", (None, None)),
            ("TLS_SERVER_METHOD", (None, None)),
            ("SSLv23_METHOD", (None, None)),
            ("TLSv1_2_METHOD", (0x0303, 0x0303)),
        ):
            options = self.server(f"443:sslmethod={name}").options
            self.assertEqual(options._settings.versions, versions)
            options = self.server(f"443:sslmethod={name}:policy=modern").options
            self.assertEqual(options._settings.versions, (None, None))

    def test_mistakes(self) -> None:
        """Each names its option, and the nearest right one."""
        for rest, parts in {
            "": ("'' is no port",),
            "https": ("'https' is no port: it must be a number from 0 to 65535",),
            "65536": ("'65536' is no port",),
            "-1": ("'-1' is no port",),
            "٤٤٣": ("is no port",),
            "4_4_3": ("is no port",),
            "1" * 5000: ("is no port",),
            "443:8443": ("cannot place '8443': each option is written NAME=VALUE",),
            "443:server.pem": ("cannot place 'server.pem'",),
            "443:": ("cannot place ''",),
            "443:port=8443": ("port is given twice, as '443' and as port=",),
            "interface=127.0.0.1": ("needs a port, or an endpoint= to listen on",),
            "443:privatekey=x": ("has no option 'privatekey'; did you mean privateKey?",),
            "443:certificate=x": ("has no option 'certificate'; did you mean",),
            "443:key=x": ("has no option 'key'",),
            "443:trustRoots=ca.pem": ("has no option 'trustRoots'",),
            "443:clientCA=x": ("has no option 'clientCA'",),
            "443:policies=modern": ("has no option 'policies'; did you mean policy?",),
            "443:=x": ("has no option ''",),
            "443:privateKey=": ("privateKey= has no value: it takes a file name",),
            "443:alpn=": ("alpn= has no value",),
            "443:backlog=many": ("backlog=many: this must be a whole number",),
            "443:backlog=-1": ("backlog=-1",),
            "443:policy=moderne": ("policy: ", "'moderne'", "did you mean modern?"),
            "443:policy=old": ("policy: ", "'old'", "intermediate and modern"),
            "443:clientAuthorities=ca.pem:clientCertificate=required": (
                "clientCertificate=required: it can be require, verifyIfGiven, request",
                "did you mean require?",
            ),
            "443:clientAuthorities=ca.pem:clientCertificate=request": (
                "clientCertificate=request leaves the verdict to rules, and there are none",
            ),
            "443:clientCertificate=require": ("clientCertificate=require needs clientAuthorities",),
            "443:clientAuthorities=nowhere": ("clientAuthorities: nowhere does not exist",),
            "443:clientAuthorities=key.pem": ("clientAuthorities: key.pem holds no certificate",),
            "443:clientAuthorities=.": ("clientAuthorities: ",),
            "443:sslmethod=TLSv1_METHOD": (
                "sslmethod=TLSv1_METHOD",
                "nothing newer than TLS 1.1",
                "policy=intermediate",
            ),
            "443:sslmethod=SSLv3_METHOD": ("sslmethod=SSLv3_METHOD",),
            "443:sslmethod=TLSv1_2": ("sslmethod=TLSv1_2", "did you mean TLSv1_2_METHOD?"),
            "443:dhParameters=nowhere": ("dhParameters: nowhere does not exist",),
            "443:dhParameters=cert.pem": ("dhParameters: cert.pem has no Diffie-Hellman",),
            "443:privateKey=nowhere": ("privateKey: nowhere does not exist",),
            "443:privateKey=cert.pem": ("privateKey: cert.pem holds no private key",),
            "443:privateKey=key.pem": ("privateKey: key.pem holds no certificate",),
            "443:privateKey=empty": ("privateKey: empty is empty",),
            "443:privateKey=authorities": ("privateKey: authorities is a directory",),
            "443:certKey=nowhere": ("certKey: nowhere does not exist",),
            "443:certKey=key.pem": ("certKey: key.pem holds no certificate",),
            "443:certKey=client-cert.pem": (
                "privateKey: the private key in server.pem belongs to no certificate in"
                " client-cert.pem",
            ),
            "443:extraCertChain=nowhere": ("extraCertChain: nowhere does not exist",),
            "443:extraCertChain=key.pem": ("extraCertChain: key.pem holds no certificate",),
            "443:passphraseFile=nowhere": ("passphraseFile: nowhere does not exist",),
            "443:passphraseFile=empty": ("passphraseFile: empty holds no passphrase",),
            "443:privateKey=encrypted.pem:certKey=cert.pem": (
                "privateKey: the private key in encrypted.pem is encrypted,"
                " and no passphrase was given",
            ),
            "443:privateKey=encrypted.pem:certKey=cert.pem:passphraseFile=wrong": (
                "privateKey: the private key in encrypted.pem cannot be decrypted",
            ),
            "443:privateKey=rsa.pem:policy=modern": ("policy=modern has no RSA keys",),
            "443:alpn=h2,,http/1.1": ("alpn=h2,,http/1.1: this must be names",),
            "443:alpn=" + "x" * 256: ("alpn=", "1 to 255 bytes"),
            "443:alpn=h2\udcc7": ("alpn=h2\\udcc7: this is not UTF-8",),
            r"443:endpoint=tcp\:80": ("endpoint= and port exclude each other",),
            r"interface=\:\::endpoint=tcp\:80": ("endpoint= and interface exclude each other",),
            r"backlog=5:endpoint=tcp\:80": ("endpoint= and backlog exclude each other",),
            r"endpoint=tcp\:many": ("endpoint=tcp:many: ", "many"),
            "endpoint=nosuch": ("endpoint=nosuch: Unknown endpoint type: 'nosuch'",),
            "endpoint=tcp": ("endpoint=tcp: ",),
            "endpoint=tcp\\:80\\\\": ("endpoint=tcp:80\\: it ends in a backslash, ",),
            r"endpoint=bioconn\:443\:polici=x": ("has no option 'polici'",),
        }.items():
            self.mistake(self.server, rest, *parts)

    def test_seconds(self) -> None:
        """What is no number of seconds."""
        for option in ("handshakeTimeout", "closeTimeout", "idleTimeout"):
            for value in ("0", "-1", "nan", "inf", "-inf", "1e9", "soon", "10s", "none", "OFF"):
                self.mistake(
                    self.server,
                    f"443:{option}={value}",
                    f"{option}={value}: this must be a number of seconds, or 'off'",
                )

    def test_before_tls(self) -> None:
        """What may come before TLS, by default nothing."""
        self.assertEqual(self.server("443").preamble.plain, Plain.REFUSE)
        made = self.server(
            r"443:plain=forward:plainAfter=2.5:proxyProtocol=10.0.0.0/8, 2001\:db8\:\:/32"
        ).preamble
        self.assertEqual((made.plain, made.plain_after), (Plain.FORWARD, 2.5))
        self.assertEqual([str(each) for each in made.proxies], ["10.0.0.0/8", "2001:db8::/32"])
        made = self.server("443:starttls=smtp:hostName=mail.example.org").preamble
        self.assertEqual((made.starttls, made.host_name), ("smtp", "mail.example.org"))
        for rest, words in (
            ("plain=redrect", "plain=redrect: it can be refuse, redirect, forward; did you mean"),
            ("plainAfter=2", "plainAfter= needs plain=forward"),
            ("plain=forward:plainAfter=off", "plainAfter=off: this must be a number of seconds"),
            ("proxyProtocol=10.0.0.1/8", "proxyProtocol: 10.0.0.1/8 has bits set beyond"),
            ("starttls=smpt", "starttls: 'smpt' is no protocol that is known"),
            ("starttls=imap:plain=forward", "starttls= and plain=forward exclude each other"),
        ):
            self.mistake(self.server, f"443:{rest}", words)

    def test_limits(self) -> None:
        """How much clients may have, by default any number."""
        self.assertEqual(self.server("443").limits, Limits())
        self.assertEqual(
            self.server(
                "443:maxConnections=1:maxPerAddress=2:maxPerNetwork=3:maxHandshakes=4"
                ":handshakeRate=5:maxLifetime=6.5"
            ).limits,
            Limits(
                connections=1,
                per_address=2,
                per_network=3,
                handshakes=4,
                handshake_rate=5,
                lifetime=6.5,
            ),
        )
        for value in ("0", "-1", "1.5", "many"):
            self.mistake(
                self.server,
                f"443:maxConnections={value}",
                f"maxConnections={value}: this must be a whole number above 0",
            )
        self.mistake(self.server, "443:maxLifetime=off", "maxLifetime=off: this must be a number")

    def test_each_option(self) -> None:
        """Each option that is documented is an option, and says so when it has no value."""
        for option in SERVER_OPTIONS:
            if option not in ("interface", "port"):
                self.mistake(self.server, f"443:{option}=", f"{option}= has no value")


class ClientTests(StringCase):
    """A client's string."""

    def connecting(self, rest: str) -> tuple[Any, ...]:
        """Where a client's string connects to: host, port, timeout and bind address."""
        below: Any = self.client(rest).endpoint
        self.assertIsInstance(below, HostnameEndpoint)
        return below._hostBytes, below._port, below._timeout, below._bindAddress

    def test_where(self) -> None:
        """Host and port, by position or by name."""
        for rest, host, port in (
            (f"{HOST}:443", HOST.encode(), 443),
            (f"host={HOST}:port=443", HOST.encode(), 443),
            (f"{HOST}:port=443", HOST.encode(), 443),
            (f"port=443:host={HOST}", HOST.encode(), 443),
            ("127.0.0.1:443", b"127.0.0.1", 443),
            (r"\:\:1:443", b"::1", 443),
            ("Bücher.example.:443", b"xn--bcher-kva.example", 443),
        ):
            self.assertEqual(self.connecting(rest)[:2], (host, port))
        self.assertEqual(self.connecting(f"{HOST}:443:bindAddress=127.0.0.2")[3], ("127.0.0.2", 0))

    def test_defaults(self) -> None:
        """What is not given is as secure as it comes."""
        endpoint = self.client(f"{HOST}:443")
        self.assertEqual((endpoint.timeout, endpoint.close_timeout), (30, 30))
        self.assertIs(endpoint.clock, self.reactor)
        options = endpoint.options
        self.assertEqual((options.host, options.verifies), (HOST, True))
        self.assertIs(options.policy, INTERMEDIATE)
        self.assertEqual((options.alpn, options.certificate), ((), None))

    def test_options(self) -> None:
        """The others."""
        endpoint = self.client(
            "10.0.0.1:443:serverName=WWW.Example.ORG:alpn=h2,x:policy=modern:trustRoots=ca.pem"
            ":timeout=2.5:closeTimeout=1"
        )
        options = endpoint.options
        self.assertEqual((options.host, options.alpn), (HOST, (b"h2", b"x")))
        self.assertIs(options.policy, MODERN)
        self.assertEqual((endpoint.timeout, endpoint.close_timeout), (2.5, 1))
        endpoint = self.client(f"{HOST}:443:timeout=off:closeTimeout=off")
        self.assertEqual((endpoint.timeout, endpoint.close_timeout), (None, None))

    def test_certificate(self) -> None:
        """Ours, in one file or two."""
        for rest in (
            "certificate=client.pem",
            "certificate=client-cert.pem:privateKey=client-key.pem",
        ):
            own = self.client(f"{HOST}:443:{rest}").options.certificate
            assert own is not None
            self.assertEqual(own.chain, client().chain)
        own = self.client(
            f"{HOST}:443:certificate=cert.pem:privateKey=encrypted.pem:passphraseFile=passphrase"
        ).options.certificate
        assert own is not None
        self.assertEqual(own.chain, server().chain)

    def test_pins(self) -> None:
        """However a digest is written, with slashes in it too."""
        slashed = bytes(range(224, 256))
        encoded = base64.b64encode(slashed).decode()
        self.assertIn("/", encoded)
        other = Pin.of(server().certificate)
        for text in (
            slashed.hex(),
            encoded,
            f"sha256//{encoded}",
            f"sha256\\:{encoded}",
            f"sha256\\:{slashed.hex()}",
        ):
            options = self.client(f"{HOST}:443:pins={text}, {other.digest.hex()}").options
            self.assertEqual(options._verifier.pins, {Pin(slashed), other})

    def test_unsafe(self) -> None:
        """It takes a word that nobody writes by accident."""
        self.assertFalse(self.client(f"{HOST}:443:unsafeSkipVerification=yes").options.verifies)
        self.assertTrue(self.client(f"{HOST}:443:unsafeSkipVerification=no").options.verifies)

    def test_below(self) -> None:
        """Any other client endpoint may be below; then the host is whom to verify."""
        endpoint = self.client(f"{HOST}:443:endpoint=unix\\:/run/app.sock")
        self.assertEqual(endpoint.endpoint._path, "/run/app.sock")  # type: ignore[attr-defined]
        self.assertEqual(endpoint.options.host, HOST)
        endpoint = self.client(f"{HOST}:endpoint=tcp\\:10.0.0.1\\:443")
        self.assertEqual(endpoint.endpoint._host, "10.0.0.1")  # type: ignore[attr-defined]
        inner = self.client(f"{HOST}:endpoint=bioconn\\:front.example\\:443").endpoint
        assert isinstance(inner, ClientEndpoint)
        self.assertEqual(inner.options.host, "front.example")

    def test_mistakes(self) -> None:
        """Each names its option, and the nearest right one."""
        for rest, parts in {
            "": ("needs a host and a port: bioconn:HOST:PORT",),
            HOST: ("needs a host and a port",),
            "443": ("needs a host and a port",),
            ":443": ("needs a host and a port",),
            f"{HOST}:": ("needs a host and a port",),
            "a b:443": ("'a b' is no host name",),
            f"{HOST}:https": ("'https' is no port",),
            f"{HOST}:443:x": ("cannot place 'x'",),
            f"{HOST}:443:host=x": (f"host is given twice, as '{HOST}' and as host=",),
            f"{HOST}:443:trustroot=x": ("has no option 'trustroot'; did you mean trustRoots?",),
            f"{HOST}:443:caCertsDir=x": ("has no option 'caCertsDir'",),
            f"{HOST}:443:hostname=x": ("has no option 'hostname'; did you mean",),
            f"{HOST}:443:verify=no": ("has no option 'verify'",),
            f"{HOST}:443:unsafeSkipVerification=true": (
                "unsafeSkipVerification=true: it can be yes, no",
            ),
            f"{HOST}:443:unsafeSkipVerification=": ("unsafeSkipVerification= has no value",),
            f"{HOST}:443:unsafeSkipVerification=yes:trustRoots=ca.pem": (
                "unsafeSkipVerification=yes takes any certificate:"
                " trustRoots= and pins= mean nothing then",
            ),
            f"{HOST}:443:unsafeSkipVerification=yes:pins=x": ("unsafeSkipVerification=yes",),
            f"{HOST}:443:trustRoots=nowhere": ("trustRoots: nowhere does not exist",),
            f"{HOST}:443:trustRoots=key.pem": ("trustRoots: key.pem holds no certificate",),
            f"{HOST}:443:trustRoots=empty": ("trustRoots: empty is empty",),
            f"{HOST}:443:serverName=a b": ("serverName: 'a b' is no host name",),
            f"{HOST}:443:privateKey=key.pem": ("privateKey= needs certificate=",),
            f"{HOST}:443:passphraseFile=passphrase": ("passphraseFile= needs certificate=",),
            f"{HOST}:443:certificate=nowhere": ("certificate: nowhere does not exist",),
            f"{HOST}:443:certificate=cert.pem": ("certificate: cert.pem holds no private key",),
            f"{HOST}:443:certificate=cert.pem:privateKey=client-key.pem": (
                "privateKey: the private key in client-key.pem belongs to no certificate",
            ),
            f"{HOST}:443:certificate=cert.pem:privateKey=nowhere": (
                "privateKey: nowhere does not exist",
            ),
            f"{HOST}:443:certificate=rsa.pem:policy=modern": ("policy=modern has no RSA keys",),
            f"{HOST}:443:pins=x": ("pins: the pin 'sha256:x' is not",),
            f"{HOST}:443:pins=": ("pins= has no value",),
            f"{HOST}:443:pins=,": ("pins: ",),
            f"{HOST}:443:policy=": ("policy= has no value: it takes intermediate or modern",),
            f"{HOST}:443:timeout=0": ("timeout=0: this must be a number of seconds, or 'off'",),
            f"{HOST}:443:bindAddress=127.0.0.1:endpoint=tcp\\:a\\:1": (
                "endpoint= and bindAddress exclude each other",
            ),
            f"{HOST}:443:endpoint=nosuch": ("endpoint=nosuch: Unknown endpoint type",),
            f"{HOST}:443:endpoint=tcp": ("endpoint=tcp: ",),
        }.items():
            self.mistake(self.client, rest, *parts)

    def test_each_option(self) -> None:
        """Each option that is documented is an option, and says so when it has no value."""
        for option in CLIENT_OPTIONS:
            if option not in ("host", "port"):
                self.mistake(self.client, f"{HOST}:443:{option}=", f"{option}= has no value")


class ValueTests(StringCase):
    """What parsers are given, by programs that call them themselves."""

    def test_bytes(self) -> None:
        """Bytes are UTF-8 text."""
        endpoint = clientFromString(
            self.reactor, f"bioconn:{HOST}:443:serverName=bücher.example".encode()
        )
        assert isinstance(endpoint, ClientEndpoint)
        self.assertEqual(endpoint.options.host, "xn--bcher-kva.example")
        server_endpoint = ServerParser().parseStreamServer(
            self.reactor, b"443", privateKey=b"rsa.pem", alpn=b"h2"
        )
        self.assertEqual(server_endpoint.options.alpn, (b"h2",))
        self.assertEqual(server_endpoint.options.certificate.chain, rsa_server().chain)

    def test_no_text(self) -> None:
        """Bytes that are no UTF-8 are refused, in the same way."""
        for arguments, keywords in (
            ((b"\xff", b"443"), {}),
            ((HOST, b"443"), {"serverName": b"\xff"}),
            ((HOST, "443", b"\xff"), {}),
        ):
            error = self.assertRaises(
                ConfigurationError,
                ClientParser().parseStreamClient,
                self.reactor,
                *arguments,
                **keywords,
            )
            self.assertIn("is not UTF-8", str(error))

    def test_numbers(self) -> None:
        """So may a number be one."""
        endpoint = ClientParser().parseStreamClient(self.reactor, HOST, 443, timeout=5)
        self.assertEqual(endpoint.timeout, 5)

    @given(
        st.lists(st.text(max_size=8), max_size=3),
        st.dictionaries(
            st.sampled_from([*CLIENT_OPTIONS, *SERVER_OPTIONS]) | st.text(max_size=8),
            st.text(max_size=12) | st.binary(max_size=6),
            max_size=3,
        ),
    )
    def test_anything(self, positional: list[str], keywords: dict[str, Any]) -> None:
        """
        Whatever stands in a string, it makes an endpoint or one kind of error, of one sentence.
        """
        for parse in (ServerParser().parseStreamServer, ClientParser().parseStreamClient):
            for given_keywords in (keywords, {**keywords, "privateKey": "server.pem"}):
                try:
                    parse(self.reactor, *positional, **given_keywords)
                except ConfigurationError as error:
                    self.assertTrue(str(error))
