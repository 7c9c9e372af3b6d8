"""The client and C{pebble}, over real ports."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from zope.interface import implementer

from tests.certificates.acme.issuing import csr_for, general_name
from tests.certificates.acme.pebble import Pebble, start_pebble
from tests.tls_material import authority, certificate, ec_key, rsa_key
from twisted_bioconn.certificates.acme.client import (
    AcmeClient,
    AcmeError,
    AcmeUnavailable,
    Authorization,
    Challenge,
    ExternalAccount,
    Order,
)
from twisted_bioconn.certificates.loading import issued, load_certificates
from twisted_bioconn.errors import ConfigurationError

reactor: Any = installed

NAMES = ("www.example.org", "example.org")
POLLS = 1000
PAUSE = 0.1

Solve = Callable[[AcmeClient, Authorization, Challenge], object]


class Answers(Resource):
    """Serves the key authorizations of C{http-01}."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[bytes, bytes] = {}

    def render_GET(self, request: Request) -> bytes:
        answer = self.answers.get(request.path)
        if answer is None:
            request.setResponseCode(404)
        return answer or b""

    def solve(self, client: AcmeClient, _: Authorization, challenge: Challenge) -> None:
        path = f"/.well-known/acme-challenge/{challenge.token}"
        self.answers[path.encode()] = client.key_authorization(challenge).encode()


class PebbleCase(TestCase):
    """What tests with pebble do over and over."""

    timeout = 600

    def client(self, pebble: Pebble, key: object = None, **options: Any) -> AcmeClient:
        options.setdefault("trust_roots", pebble.trust_roots)
        key = ec.generate_private_key(ec.SECP256R1()) if key is None else key
        client = AcmeClient(reactor, pebble.directory_url, key, **options)
        self.addCleanup(client.close)
        return client

    async def listen(self, endpoint: Any, factory: Any) -> int:
        port = await endpoint.listen(factory)
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def http(self) -> tuple[int, Answers]:
        answers = Answers()
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        return await self.listen(endpoint, Site(answers)), answers

    async def refusal(self, asked: Deferred[Any]) -> AcmeError:
        """Why what was asked for is refused."""
        error = await self.assertFailure(asked, AcmeError)
        assert isinstance(error, AcmeError)
        return error

    async def settled(self, look: Callable[[], Any], *states: str) -> Any:
        """Look until there is one of these states."""
        for _ in range(POLLS):
            seen = await look()
            if seen.status in states:
                return seen
            await deferLater(reactor, PAUSE)
        self.fail(f"it stays {seen.status}")

    async def authorize(self, client: AcmeClient, order: Order, type: str, solve: Solve) -> Order:
        """Answer all challenges of this type."""
        for url in order.authorizations:
            authorization = await client.get_authorization(url)
            if authorization.status == "valid":
                continue
            challenge = next(each for each in authorization.challenges if each.type == type)
            solve(client, authorization, challenge)
            await client.answer(challenge)
            await self.settled(partial(client.get_authorization, url), "valid", "invalid")
        found: Order = await self.settled(
            lambda: client.get_order(order.url), "ready", "valid", "invalid"
        )
        return found

    async def obtain(
        self, client: AcmeClient, names: Sequence[str], type: str, solve: Solve
    ) -> tuple[bytes, ...]:
        """The chains of a new certificate."""
        order = await client.new_order(names)
        self.assertEqual(set(order.identifiers), set(names))
        order = await self.authorize(client, order, type, solve)
        self.assertEqual((order.status, order.error), ("ready", None))
        await client.finalize(order, csr_for(names, ec_key(1)))
        order = await self.settled(lambda: client.get_order(order.url), "valid", "invalid")
        self.assertEqual(order.status, "valid")
        return await client.certificates(order)

    def assertIsFor(self, chain: bytes, names: Sequence[str]) -> x509.Certificate:
        """It is a chain in order, whose leaf is for these names and our key."""
        leaf, intermediate = load_certificates(chain, "the chain")
        self.assertTrue(issued(intermediate, leaf))
        self.assertEqual(leaf.public_key(), ec_key(1).public_key())
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(set(found), {general_name(each) for each in names})
        return leaf


class IssuanceTests(PebbleCase):
    """Certificates, by each kind of challenge."""

    async def test_http(self) -> None:
        """With C{http-01}, and half of all nonces refused; an IP address is an identifier too."""
        port, answers = await self.http()
        pebble = await start_pebble(self, http_port=port, nonce_reject=50, authorization_reuse=0)
        client = self.client(pebble)
        await client.register(["ops@example.org"])
        names = (*NAMES, "127.0.0.1")
        (chain,) = await self.obtain(client, names, "http-01", answers.solve)
        leaf = self.assertIsFor(chain, names)
        advice = await client.renewal_info(leaf)
        if (await client.directory()).renewal_info is None:
            self.assertIsNone(advice)
        else:
            # Pebble 2.5 and newer have some.
            assert advice is not None
            self.assertLess(leaf.not_valid_before_utc, advice.start)
            self.assertLess(advice.end, leaf.not_valid_after_utc)

    async def test_dns(self) -> None:
        """With C{dns-01}, of a name and its wildcard."""
        pebble = await start_pebble(self)

        def solve(client: AcmeClient, authorization: Authorization, challenge: Challenge) -> None:
            wildcards.append(authorization.wildcard)
            name = f"_acme-challenge.{authorization.identifier}"
            pebble.names.texts.setdefault(name, []).append(client.dns_validation(challenge))

        wildcards: list[bool] = []
        client = self.client(pebble)
        await client.register()
        names = ("example.org", "*.example.org")
        (chain,) = await self.obtain(client, names, "dns-01", solve)
        self.assertIsFor(chain, names)
        self.assertEqual(sorted(wildcards), [False, True])

    async def test_tls_alpn(self) -> None:
        """With C{tls-alpn-01}: the digest is the one that is wanted."""

        @implementer(IOpenSSLServerConnectionCreator)
        class Server:
            """Has a certificate for one challenge at a time."""

            options: Any = None

            def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
                return SSL.Connection(self.options.getContext(), None)

        def solve(client: AcmeClient, authorization: Authorization, challenge: Challenge) -> None:
            digest = client.tls_alpn_digest(challenge)
            identifier = x509.UnrecognizedExtension(
                x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31"), b"\x04\x20" + digest
            )
            made = certificate(
                "challenge",
                None,
                names=[x509.DNSName(authorization.identifier)],
                extensions=[(identifier, True)],
            )
            server.options = CertificateOptions(
                privateKey=PKey.from_cryptography_key(ec_key()),
                certificate=X509.from_cryptography(made),
                acceptableProtocols=[b"acme-tls/1"],
            )

        server = Server()
        endpoint = SSL4ServerEndpoint(reactor, 0, server, interface="127.0.0.1")
        port = await self.listen(endpoint, Factory.forProtocol(Protocol))
        pebble = await start_pebble(self, tls_port=port)
        client = self.client(pebble)
        await client.register()
        (chain,) = await self.obtain(client, NAMES, "tls-alpn-01", solve)
        self.assertIsFor(chain, NAMES)

    async def test_alternates(self) -> None:
        """Each chain ends at another root."""
        pebble = await start_pebble(self, always_valid=True, alternate_roots=2)
        client = self.client(pebble)
        await client.register()
        chains = await self.obtain(client, NAMES, "http-01", lambda *_: None)
        self.assertEqual(len(chains), 3)
        for number, chain in enumerate(chains):
            *_, intermediate = load_certificates(chain, "the chain")
            self.assertIsFor(chain, NAMES)
            self.assertTrue(issued(await pebble.root(number), intermediate))
        self.assertEqual(len({load_certificates(each, "a chain")[0] for each in chains}), 1)

    async def test_not_answered(self) -> None:
        """A challenge that is not answered has the order end, with a reason."""
        port, _ = await self.http()
        pebble = await start_pebble(self, http_port=port)
        client = self.client(pebble)
        await client.register()
        order = await client.new_order(["www.example.org"])
        order = await self.authorize(client, order, "http-01", lambda *_: None)
        self.assertEqual(order.status, "invalid")
        (url,) = order.authorizations
        authorization = await client.get_authorization(url)
        (error,) = [each.error for each in authorization.challenges if each.error is not None]
        self.assertEqual(error.code, "unauthorized")
        self.assertIn("404", error.detail)

    async def test_revocation(self) -> None:
        """A certificate is revoked, once."""
        pebble = await start_pebble(self, always_valid=True)
        client = self.client(pebble)
        await client.register()
        (chain,) = await self.obtain(client, NAMES, "http-01", lambda *_: None)
        leaf = self.assertIsFor(chain, NAMES)
        self.assertEqual((await pebble.status(leaf.serial_number))["Status"], "Valid")
        await client.revoke(leaf, 4)
        status = await pebble.status(leaf.serial_number)
        self.assertEqual((status["Status"], status["Reason"]), ("Revoked", 4))
        error = await self.refusal(client.revoke(leaf))
        self.assertEqual(error.code, "alreadyRevoked")


class AccountTests(PebbleCase):
    """Accounts."""

    async def test_found(self) -> None:
        """The account of a key is found, whatever kind of key it is."""
        pebble = await start_pebble(self)
        for key in (ec_key(2), ec.generate_private_key(ec.SECP384R1()), rsa_key()):
            missing = self.client(pebble, key).register(only_existing=True)
            error = await self.refusal(missing)
            self.assertEqual(error.code, "accountDoesNotExist")
            url = await self.client(pebble, key).register(["mailto:ops@example.org"])
            self.assertEqual(await self.client(pebble, key).register(), url)
            self.assertEqual(await self.client(pebble, key).register(only_existing=True), url)
            client = self.client(pebble, key, account_url=url)
            self.assertEqual((await client.new_order(NAMES)).status, "pending")

    async def test_key_change(self) -> None:
        """An account gets another key, of another kind; the old one counts no more."""
        pebble = await start_pebble(self)
        client = self.client(pebble, ec_key(3))
        url = await client.register()
        await client.change_key(rsa_key())
        await client.new_order(NAMES)
        self.assertEqual(await self.client(pebble, rsa_key()).register(only_existing=True), url)
        old = self.client(pebble, ec_key(3), account_url=url)
        await self.refusal(old.new_order(NAMES))

    async def test_external(self) -> None:
        """An external account has to be the right one."""
        secret = b"a secret that is thirty-two long"
        pebble = await start_pebble(
            self, eab={"kid-1": urlsafe_b64encode(secret).decode().rstrip("=")}
        )
        client = self.client(pebble)
        self.assertTrue((await client.directory()).external_account_required)
        error = await self.refusal(client.register())
        self.assertEqual(error.code, "externalAccountRequired")
        for wrong in (ExternalAccount("kid-1", b"x" * 32), ExternalAccount("kid-2", secret)):
            await self.refusal(client.register(eab=wrong))
        url = await client.register(eab=ExternalAccount("kid-1", secret))
        self.assertEqual(client.account_url, url)

    async def test_contact(self) -> None:
        """What an authority finds wrong with a contact is told."""
        pebble = await start_pebble(self)
        error = await self.refusal(self.client(pebble).register(["tel:+12025551212"]))
        self.assertEqual(error.code, "unsupportedContact")

    async def test_deactivated_authorization(self) -> None:
        """An authorization is given up."""
        pebble = await start_pebble(self)
        client = self.client(pebble)
        await client.register()
        order = await client.new_order(["www.example.org"])
        (url,) = order.authorizations
        gone = await client.deactivate_authorization(url)
        self.assertEqual(gone.status, "deactivated")

    async def test_profile(self) -> None:
        """A profile that there is not is not asked for."""
        client = self.client(await start_pebble(self))
        await client.register()
        error = await self.assertFailure(
            client.new_order(NAMES, profile="shortlived"), ConfigurationError
        )
        # Pebble has some since 2.5.
        offered = ", ".join(sorted((await client.directory()).profiles)) or "none"
        self.assertIn(f"has no profile 'shortlived'; it has: {offered}", str(error))


class ServerTests(PebbleCase):
    """The authority's server."""

    async def test_not_trusted(self) -> None:
        """One that nobody vouches for is told nothing."""
        pebble = await start_pebble(self)
        client = self.client(pebble, trust_roots=[authority("nobody").certificate])
        error = await self.assertFailure(client.register(), AcmeUnavailable)
        self.assertIn("its issuer is not among the trusted authorities", str(error))

    async def test_gone(self) -> None:
        """One that ends in the middle is not there."""
        pebble = await start_pebble(self)
        client = self.client(pebble)
        await client.register()
        await pebble.program.stop()
        error = await self.assertFailure(client.new_order(NAMES), AcmeUnavailable)
        self.assertIn("cannot be asked", str(error))
