"""A certificate that is renewed by C{pebble} while connections pump, all by an endpoint string."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from functools import partial
from typing import Any

from cryptography import x509
from twisted.internet import reactor as installed
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.logger import Logger
from twisted.trial.unittest import SkipTest

from tests.certificates.acme.pebble import Names, Pebble, start_pebble
from tests.certificates.load_material import SLOW, EchoFactory, LoadCase
from tests.context_material import certified
from tests.tls_material import authority, client, pem
from twisted_bioconn.certificates.acme import source as acme_source
from twisted_bioconn.certificates.acme.source import AcmeSource
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.errors import PeerError
from twisted_bioconn.hello import ClientHello

reactor: Any = installed

NAME = "www.example.org"
LIVE = 10
DUE = 0.8
"""Of a certificate's life: by then it has to be renewed, whatever its authority advises."""

_log = Logger()


class RenewalCase(LoadCase):
    """
    A server by its endpoint string, and an authority that comes to its port.

    @ivar later: seconds by which the source's clock is ahead of everybody else's.
    """

    def setUp(self) -> None:
        self.later = 0.0
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        # No option says what time it is.
        self.patch(
            acme_source, "AcmeSource", partial(AcmeSource, now=lambda: time.time() + self.later)
        )

    def written(self, name: str, certificate: x509.Certificate) -> str:
        path = os.path.join(self.directory, name)
        with open(path, "wb") as file:
            file.write(pem(certificate))
        return path

    async def serve(self, **more: str) -> tuple[ServerOptions, Pebble]:
        """
        Serve, and wait for the first certificate.

        @param more: options of the string.
        """
        # The authority has to know our port, and we have to know its.
        first: Any = serverFromString(reactor, "tcp:0:interface=127.0.0.1")
        port = await first.listen(EchoFactory())
        number = port.getHost().port
        pebble = await start_pebble(self, tls_port=number, names=Names(), authorization_reuse=0)
        await port.stopListening()
        given = {
            "interface": "127.0.0.1",
            "acme": "ops@example.org",
            "names": NAME,
            "acmeDirectory": pebble.directory_url,
            "acmeAuthorities": self.written("pebble-ca.pem", authority().certificate),
            "state": os.path.join(self.directory, "state"),
            **more,
        }
        options = ":".join(f"{key}={quoteStringArgument(value)}" for key, value in given.items())
        endpoint: Any = serverFromString(reactor, f"bioconn:{number}:{options}")
        self.listening(await endpoint.listen(EchoFactory()))
        served: ServerOptions = endpoint.options
        await self.until(lambda: self.is_issued(served), "there is a first certificate")
        return served, pebble

    def leaf(self, options: ServerOptions) -> x509.Certificate:
        """What a client gets just now."""
        found: Any = options.choose(ClientHello(server_name=NAME))
        leaf: x509.Certificate = found.certificate.leaf
        return leaf

    def is_issued(self, options: ServerOptions) -> bool:
        """Whether that is an authority's, and no stand-in."""
        leaf = self.leaf(options)
        return leaf.issuer != leaf.subject

    async def check(self, options: ServerOptions, pebble: Pebble, **who: Any) -> None:
        """Renew under connections that pump."""
        who["trust_roots"] = [await pebble.root()]
        pumps = await self.pumps(LIVE, NAME, **who)
        before = self.leaf(options)
        facts = await self.visit(self.endpoint(NAME, **who))
        assert facts.peer_certificate is not None
        self.assertEqual(facts.peer_certificate, before)
        issued = pebble.program.said.count("Issued certificate serial")
        counts = [pump.count for pump in pumps]
        began = reactor.seconds()
        life = before.not_valid_after_utc - before.not_valid_before_utc
        self.later = DUE * life.total_seconds()
        await options.upkeep.reload()
        await self.until(lambda: self.leaf(options) != before, "the certificate is renewed")
        took = reactor.seconds() - began
        facts = await self.visit(self.endpoint(NAME, **who))
        self.assertEqual(facts.peer_certificate, self.leaf(options))
        moved = [pump.count - count for pump, count in zip(pumps, counts, strict=True)]
        self.assertGreater(min(moved), 0, "a connection has stood still meanwhile")
        total = await self.finished(pumps)
        self.assertEqual(pebble.program.said.count("Issued certificate serial"), issued + 1)
        _log.info(
            "renewed in {took:.1f} s under {live} connections that pumped {total} bytes",
            took=took,
            live=LIVE,
            total=total,
        )


class RenewalUnderLoadTests(RenewalCase):
    """What goes on, goes on."""

    async def test_open(self) -> None:
        """Who is there keeps what it has; who comes gets what is new."""
        if not SLOW:
            raise SkipTest("takes long: set BIOCONN_SLOW=1 to run it")
        await self.check(*await self.serve())

    async def test_clients_need_certificates(self) -> None:
        """The authority is let in with none, for its question and for nothing else."""
        options, pebble = await self.serve(
            clientAuthorities=self.written("clients.pem", authority().certificate)
        )
        await self.check(options, pebble, certificate=certified(client()))
        roots = [await pebble.root()]
        for alert, more in (
            ("certificate_required", {}),
            ("unrecognized_name", {"alpn": [b"acme-tls/1"]}),
        ):
            endpoint = self.endpoint(NAME, trust_roots=roots, **more)
            with self.assertRaises(PeerError) as caught:
                await self.visit(endpoint)
            self.assertEqual(caught.exception.alert, alert)
