"""What strings say of where certificates come from, and how they are looked after."""

from __future__ import annotations

import os
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    pkcs12,
)
from twisted.logger import LogLevel, capturedLogs, formatEvent

from tests.context_material import certified, visiting
from tests.endpoint_material import Application, Applications, EndpointCase
from tests.engines import on_both_engines
from tests.socket_material import SECRET, key_pem
from tests.source_material import Told, choice
from tests.test_client_matrix import revocation_list
from tests.test_endpoint_strings import StringCase
from tests.tls_material import HOST, authority, client, pem, server, stranger
from twisted_bioconn import _upkeep
from twisted_bioconn._certificate_options import CERTIFICATE_OPTIONS
from twisted_bioconn.certificates.callable import FirstOf, PerName
from twisted_bioconn.certificates.directory import DirectorySource
from twisted_bioconn.certificates.files import FileSource
from twisted_bioconn.certificates.revocation import TrustFiles
from twisted_bioconn.client_policy import ClientCertificate, CRLMode
from twisted_bioconn.context import ServerOptions, SessionStore, UnknownName
from twisted_bioconn.hello import ClientHello


def write(path: str, *parts: bytes) -> None:
    """Put this into a file, which is replaced as a whole."""
    with open(path + ".new", "wb") as file:
        file.write(b"".join(parts))
    os.replace(path + ".new", path)


class ServerStringTests(StringCase):
    """Strings of servers."""

    def acme(self, rest: str = "") -> Any:
        """The source of a string with C{acme=}."""
        return self.server(f"0:acme=ops@example.org:names=example.org:state=state{rest}")

    def test_files(self) -> None:
        """Files are a source, which is asked for no hello."""
        options = self.server("0:privateKey=key.pem:certKey=cert.pem").options
        self.assertIsInstance(options.source, FileSource)
        self.assertFalse(options.reads_hello)
        self.assertTrue(
            self.server("0:privateKey=server.pem:unknownName=alert").options.reads_hello
        )

    def test_directory(self) -> None:
        """A directory of certificates."""
        os.mkdir("sites")
        write("sites/www.pem", pem(server().certificate), key_pem(server().key))
        options = self.server("0:certificates=sites:unknownName=close").options
        self.assertIsInstance(options.source, DirectorySource)
        self.assertIs(options.unknown_name, UnknownName.CLOSE)
        self.assertEqual(options.certificate.leaf, server().certificate)
        self.mistake(self.server, "0:certificates=nowhere", "certificates:", "nowhere")
        self.mistake(self.server, "0:certificates=authorities", "certificates:", "authorities")

    def test_pkcs12(self) -> None:
        """A key file may be PKCS #12, with chain and all."""
        bundle = pkcs12.serialize_key_and_certificates(
            b"www", server().key, server().certificate, None, BestAvailableEncryption(SECRET)
        )
        write("www.p12", bundle)
        options = self.server("0:privateKey=www.p12:passphraseFile=passphrase").options
        self.assertEqual(options.certificate.leaf, server().certificate)
        self.mistake(self.server, "0:privateKey=www.p12:passphraseFile=wrong", "privateKey: www")
        self.mistake(self.server, "0:privateKey=www.p12", "privateKey: ", "www.p12")
        self.mistake(
            self.server,
            "0:privateKey=key.pem:certKey=www.p12:passphraseFile=passphrase",
            "certKey: ",
            "key.pem cannot be used with it",
        )

    def test_other_directory(self) -> None:
        """A process that goes elsewhere finds its files again."""
        os.mkdir("sites")
        write("sites/www.pem", pem(server().certificate), key_pem(server().key))
        made = [
            self.server(rest).options
            for rest in (
                "0:certificates=sites",
                "0:privateKey=key.pem:certKey=cert.pem:clientAuthorities=ca.pem",
            )
        ]
        os.chdir("/")
        with capturedLogs() as logs:
            for options in made:
                self.successResultOf(options.upkeep.reload())
        self.assertEqual([formatEvent(each) for each in logs], [])

    def test_excluded(self) -> None:
        """A pair of files has no place beside a directory or an authority."""
        for option in ("privateKey", "certKey", "extraCertChain"):
            self.mistake(
                self.server, f"0:certificates=sites:{option}=key.pem", "certificates=", option
            )
            self.mistake(self.server, f"0:acme=none:names=a.example:{option}=x", "acme=", option)

    def test_acme(self) -> None:
        """An authority by its name or its URL, for several names; nothing is awaited."""
        from twisted_bioconn.certificates.acme.source import AcmeSource

        for rest in (
            "",
            r":acmeDirectory=letsencrypt-staging,https\://acme.example/directory",
            ":acmeAuthorities=ca.pem:acmeProfile=shortlived:acmeChain=Root",
            ":acmeChallenge=http-01@8080,tls-alpn-01",
        ):
            options = self.acme(rest).options
            self.assertIsInstance(options.source, AcmeSource)
            self.assertTrue(options.reads_hello)
            self.assertEqual(options.certificate.names, ("example.org",))

    def test_acme_with_directory(self) -> None:
        """Other names may come from a directory."""
        os.mkdir("sites")
        write("sites/www.pem", pem(server().certificate), key_pem(server().key))
        source = self.acme(":certificates=sites").options.source
        assert isinstance(source, FirstOf)
        found = source.find(ClientHello(server_name=HOST))
        assert found is not None and not hasattr(found, "addCallback")
        self.assertEqual(found.certificate.leaf, server().certificate)

    def test_acme_mistakes(self) -> None:
        """Each mistake is told of the option that it is in."""
        for option in CERTIFICATE_OPTIONS:
            if option not in ("acme", "certificates"):
                self.mistake(self.server, f"0:{option}=x", f"{option}=", "acme=")
        self.mistake(self.server, "0:acme=ops@example.org", "acme=", "names=")
        self.mistake(self.acme, ":acmeDirectory=letsencript", "acmeDirectory", "letsencrypt")
        self.mistake(self.acme, ":acmeAuthorities=empty", "acmeAuthorities", "empty")
        self.mistake(self.acme, ":acmeChallenge=dns-02", "acmeChallenge=dns-02")
        self.mistake(self.acme, ":acmeChallenge=dns-01", "acmeChallenge=dns-01")
        self.mistake(self.acme, ":acmeChallenge=dns-01@nobody", "acmeChallenge", "nobody")
        self.mistake(self.acme, ":acmeChallenge=dns-01@./none", "acmeChallenge", "./none")
        self.mistake(self.acme, ":acmeChallenge=tls-alpn-01,,http-01", "acmeChallenge=")
        self.mistake(self.acme, ":acmeBinding=empty", "acmeBinding", "empty")
        write("binding", b"kid\nno base64!\n")
        self.mistake(self.acme, ":acmeBinding=binding", "acmeBinding")
        write("binding", b"kid\nMTIzNA\n")
        self.acme(":acmeBinding=binding")
        wild = "0:acme=none:names=*.example.org:state=state"
        self.mistake(self.server, wild, "acme", "*.example.org", "dns-01")

    def test_redis(self) -> None:
        """Keys go to Redis encrypted, or not at all."""
        redis = r":redis=redis\://127.0.0.1\:1/0"
        self.mistake(self.acme, redis, "redis=", "passphraseFile=")
        self.acme(f"{redis}:passphraseFile=passphrase")
        self.mistake(
            self.acme,
            r":redis=http\://127.0.0.1\:1:passphraseFile=passphrase",
            "redis: the URL of the server must begin with",
        )

    def test_trust(self) -> None:
        """Authorities and lists are files, too."""
        write("list.pem", revocation_list().public_bytes(Encoding.PEM))
        options = self.server(
            "0:privateKey=server.pem:clientAuthorities=ca.pem:crl=list.pem:crlMode=soft"
        ).options
        self.assertIsInstance(options.trust, TrustFiles)
        self.assertEqual(len(options.clients.crls), 1)
        self.assertIs(options.clients.crl_mode, CRLMode.SOFT)
        self.assertIs(options.clients.mode, ClientCertificate.REQUIRE)
        for rest, *parts in (
            ("crl=list.pem", "crl=", "clientAuthorities="),
            ("clientAuthorities=ca.pem:crl=empty", "crl: ", "empty is empty"),
            ("clientAuthorities=ca.pem:crl=nowhere", "crl: ", "nowhere"),
            ("clientAuthorities=ca.pem:crlMode=soft", "crlMode=", "crl="),
            ("clientAuthorities=ca.pem:crl=list.pem:crlMode=sorft", "crlMode=sorft", "soft"),
        ):
            self.mistake(self.server, f"0:privateKey=server.pem:{rest}", *parts)


class ClientStringTests(StringCase):
    """Strings of clients."""

    def test_reloaded(self) -> None:
        """
        What is in the files counts for the next connection; what cannot be used does not.
        """
        string = f"{HOST}:443:certificate=client.pem:trustRoots=authorities"
        endpoint = self.client(string)
        before = endpoint.options
        connect = lambda: endpoint.connect(Applications()).addErrback(lambda _: None).cancel()  # noqa: E731
        connect()
        self.assertIs(endpoint.options, before)
        self.reactor.advance(2)
        connect()
        self.assertIs(endpoint.options, before)

        write("client.pem", pem(stranger().certificate), key_pem(stranger().key))
        self.reactor.advance(2)
        connect()
        renewed = endpoint.options
        assert renewed.certificate is not None
        self.assertEqual(renewed.certificate.leaf, stranger().certificate)
        # Nothing is carried over.
        self.assertNotEqual(renewed._trust_key, before._trust_key)

        write("client.pem", b"half of it")
        self.reactor.advance(2)
        with capturedLogs() as logs:
            connect()
        self.assertIs(endpoint.options, renewed)
        [line] = [formatEvent(each) for each in logs if each["log_level"] is LogLevel.error]
        self.assertIn("certificate: client.pem", line)

        with capturedLogs():
            os.rename("authorities", "elsewhere")
            self.reactor.advance(2)
            connect()
            os.rename("elsewhere", "authorities")
        self.assertIs(endpoint.options, renewed)

        write("client.pem", pem(client().certificate), key_pem(client().key))
        write("authorities/ca.pem", pem(authority("others").certificate))
        self.reactor.advance(2)
        connect()
        assert endpoint.options.certificate is not None
        self.assertEqual(endpoint.options.certificate.leaf, client().certificate)
        self.assertNotIn(endpoint.options._trust_key, (before._trust_key, renewed._trust_key))


@on_both_engines
class UpkeepTests(EndpointCase):
    """Who looks after certificates, and for how long."""

    def options(self, **what: Any) -> ServerOptions:
        self.source = Watched({HOST: choice(HOST)})
        return ServerOptions(self.source, **what)

    def test_as_long_as_a_port_is_open(self) -> None:
        """From the first port to the last."""
        options = self.options()
        for _ in range(2):
            one, two = self.opened(options), self.opened(options)
            self.assertEqual(self.source.did, ["start"])
            one.doStop()
            self.assertEqual(self.source.did, ["start"])
            two.doStop()
            self.assertEqual(self.source.did, ["start", "stop"])
            self.source.did.clear()
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_source_that_is_replaced(self) -> None:
        """A source in whose place a certificate was given is let go of at once, and once."""
        options = self.options()
        factory = self.opened(options)
        options.use(certified(server()))
        self.assertEqual(self.source.did, ["start", "stop"])
        factory.doStop()
        self.assertEqual(self.source.did, ["start", "stop"])

    def test_shared_source(self) -> None:
        """A source of several options is looked after until the last of their ports is closed."""
        one = self.options()
        two = ServerOptions(self.source)
        opened = [self.opened(one), self.opened(two)]
        opened[0].doStop()
        self.assertNotIn("stop", self.source.did)
        opened[1].doStop()
        self.assertEqual(self.source.did.count("stop"), 1)

    def test_shared_trust(self) -> None:
        """Files of trust that several options have count for all of them."""
        path = self.mktemp()
        write(path, pem(authority().certificate))
        trust = TrustFiles(path)
        both = [self.options(clients=trust), self.options(clients=trust)]
        write(path, pem(authority("others").certificate))
        for options in both:
            self.successResultOf(options.upkeep.reload())
        for options in both:
            self.assertEqual(options.clients.authorities, (authority("others").certificate,))

    def test_trust_without_a_reactor(self) -> None:
        """The parent of workers, which runs none, can tell whether there is something new."""
        own, other = self.mktemp(), self.mktemp()
        for path in (own, other):
            write(path, pem(authority().certificate))
        source = PerName(Watched({}), {HOST: TrustFiles(other)})
        options = ServerOptions(source, clients=TrustFiles(own))
        self.assertFalse(options.upkeep.load_trust())
        for path in (own, other):
            write(path, pem(authority("others").certificate))
            self.assertTrue(options.upkeep.load_trust())
            self.assertFalse(options.upkeep.load_trust())
        self.assertEqual(options.clients.authorities, (authority("others").certificate,))
        self.assertFalse(ServerOptions(certified(server())).upkeep.load_trust())

    def opened(self, options: ServerOptions) -> Any:
        self.listen(Applications(), options)
        factory = self.listener.factory
        factory.doStart()
        return factory

    def test_when_the_reactor_runs(self) -> None:
        """A port that is open before the reactor runs waits for that; or is closed before it."""
        waiting: dict[int, Any] = {}

        def later(call: Any) -> int:
            waiting[len(waiting)] = call
            return len(waiting) - 1

        clock: Any = self.clock
        clock.callWhenRunning, clock.removeSystemEventTrigger = later, waiting.pop
        options = self.options()
        factory = self.opened(options)
        self.assertEqual(self.source.did, [])
        factory.doStop()
        self.assertEqual(waiting, {})
        factory.doStart()
        waiting.pop(0)()
        self.assertEqual(self.source.did, ["start"])
        factory.doStop()
        self.assertEqual(self.source.did, ["start", "stop"])

    def test_ticket_keys(self) -> None:
        """Each day they are new ones, unless somebody else sees to that."""
        for renews in (True, False):
            options = self.options()
            options.upkeep.renews_ticket_keys = renews
            factory = self.opened(options)
            realms = [options._realm]
            for _ in range(25 * 2):
                self.clock.advance(_upkeep.INTERVAL)
                if options._realm is not realms[-1]:
                    realms.append(options._realm)
            self.assertEqual(len(realms), 3 if renews else 1)
            # What only time can change is looked at, too.
            self.assertEqual(self.source.did, ["start", *["reload"] * 50])
            factory.doStop()

    def test_reload(self) -> None:
        """Sources are asked, and files of trust are read."""
        options = self.options()
        self.successResultOf(options.upkeep.reload())
        self.successResultOf(_upkeep.reload_all([options, options]))
        self.assertEqual(self.source.did, ["reload"] * 3)

    def test_trust(self) -> None:
        """
        Another list, or other authorities, hold for the next connection, and no session is good
        any more; a file that is broken changes nothing.
        """
        directory = self.mktemp()
        os.mkdir(directory)
        roots, lists = os.path.join(directory, "ca.pem"), os.path.join(directory, "list.pem")
        write(roots, pem(authority().certificate))
        write(lists, revocation_list().public_bytes(Encoding.PEM))
        trust = TrustFiles(roots, lists)
        options = self.options(clients=trust)
        theirs = Applications(made=lambda it: it.transport.write(b"secret"))
        self.listen(theirs, options)
        sessions = SessionStore()

        def come() -> Any:
            endpoint = self.client_endpoint(
                visiting(HOST, certificate=certified(client()), sessions=sessions)
            )
            done = endpoint.connect(Applications())
            results: list[Any] = []
            done.addBoth(results.append)
            self.meet()
            built = list(theirs.built)
            theirs.built.clear()
            resumed = None
            for application in built:
                resumed = application.transport.negotiated.resumed
                application.transport.loseConnection()
            self.clock.settle()
            return resumed

        self.assertEqual([come(), come()], [False, True])
        self.successResultOf(options.upkeep.reload())
        self.assertEqual(come(), True)
        write(lists, b"-----BEGIN X509 CRL-----\nhalf")
        with capturedLogs() as logs:
            self.successResultOf(options.upkeep.reload())
        self.assertEqual(come(), True)
        self.assertIn("crl: ", formatEvent(logs[0]))
        self.assertIn(lists, formatEvent(logs[0]))
        self.assertIsNotNone(trust.last_error)
        write(lists, revocation_list(client().certificate).public_bytes(Encoding.PEM))
        self.successResultOf(options.upkeep.reload())
        self.assertIsNone(come())
        self.assertIn("of the client 127.0.0.1:50000, was revoked", self.lines[-1])
        write(lists, revocation_list().public_bytes(Encoding.PEM))
        self.successResultOf(options.upkeep.reload())
        self.assertEqual([come(), come()], [False, True])
        write(roots, pem(authority("others").certificate))
        self.successResultOf(options.upkeep.reload())
        self.assertIsNone(come())


class Watched(Told):
    """A source that notes what it is told to do."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.did: list[str] = []

    def start(self, reactor: Any) -> None:
        self.did.append("start")

    def stop(self) -> Any:
        self.did.append("stop")
        return super().stop()

    def reload(self) -> Any:
        self.did.append("reload")
        return super().reload()


@on_both_engines
class ForeignHandshakeTests(EndpointCase):
    """Handshakes that are to prove something."""

    def test_no_proof_here(self) -> None:
        """A client that speaks nothing but C{acme-tls/1} gets no other certificate."""
        self.listen(Applications(), ServerOptions(Told({HOST: choice(HOST)}, choice(HOST))))
        done = self.client_endpoint(visiting(HOST, alpn=[b"acme-tls/1"])).connect(Applications())
        self.meet()
        self.assertEqual(self.failureResultOf(done).value.alert, "unrecognized_name")
        done = self.client_endpoint(visiting(HOST, alpn=[b"acme-tls/1", b"h2"])).connect(
            Applications()
        )
        self.meet()
        self.assertIsInstance(self.successResultOf(done), Application)
