"""The client, against the small authority in memory."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from josepy.json_util import encode_b64jose
from josepy.jwk import JWKEC
from twisted.internet.defer import CancelledError, Deferred

from tests.certificates.acme.authority import Drop, Fault, Refused
from tests.certificates.acme.issuing import DAY, csr_for
from tests.certificates.acme.material import BEGIN, NAMES, AuthorityCase
from tests.tls_material import certificate, ec_key, rsa_key
from twisted_bioconn import __version__
from twisted_bioconn.certificates.acme.client import (
    AcmeClient,
    Challenge,
    ExternalAccount,
    Order,
    certificate_id,
)
from twisted_bioconn.certificates.loading import load_certificates
from twisted_bioconn.errors import ConfigurationError, UsageError


class ConstructionTests(AuthorityCase):
    """What a client may be made of."""

    def test_address(self) -> None:
        """A directory without TLS is refused, and what is no address."""
        for wrong in ("http://example.org/", "example.org", "", "https://", "https://a b/"):
            with self.assertRaises(ConfigurationError) as caught:
                AcmeClient(self.clock, wrong, ec_key())
            self.assertIn(repr(wrong), str(caught.exception))

    def test_key(self) -> None:
        """Keys that no authority need take are refused, and public halves; none is shown."""
        for wrong in (
            ed25519.Ed25519PrivateKey.generate(),
            ec.generate_private_key(ec.SECP256K1()),
            ec_key().public_key(),
            JWKEC(key=ec_key().public_key()),
            b"secret",
        ):
            with self.assertRaises(ConfigurationError) as caught:
                self.client(wrong)
            self.assertIn("the account key is of the kind", str(caught.exception))
            self.assertNotIn("secret", str(caught.exception))

    def test_timeout(self) -> None:
        """A deadline has to be one."""
        for wrong in (0, -1, float("nan")):
            self.assertRaises(ConfigurationError, self.client, timeout=wrong)

    def test_jwk(self) -> None:
        """A key may be one of josepy's; it is the same account."""
        url = self.now(self.client(ec_key(2)).register())
        self.assertEqual(self.now(self.client(JWKEC(key=ec_key(2))).register()), url)


class AccountTests(AuthorityCase):
    """Accounts."""

    def test_found(self) -> None:
        """A key has one account, found again; C{only_existing} makes none."""
        self.refused(self.acme.register(only_existing=True), "accountDoesNotExist")
        self.assertIsNone(self.acme.account_url)
        url = self.now(self.acme.register(["ops@example.org", "mailto:b@example.org"]))
        self.assertEqual(self.acme.account_url, url)
        (account,) = self.authority.accounts.values()
        self.assertEqual(account.contact, ["mailto:ops@example.org", "mailto:b@example.org"])
        self.assertEqual(self.now(self.acme.register()), url)
        self.assertEqual(self.now(self.acme.register(only_existing=True)), url)
        self.assertEqual(len(self.authority.accounts), 1)

    def test_kinds_of_key(self) -> None:
        """Each kind of key signs as the authority wants it."""
        keys = (
            rsa_key(),
            ec.generate_private_key(ec.SECP384R1()),
            ec.generate_private_key(ec.SECP521R1()),
        )
        for key in keys:
            client = self.client(key)
            self.now(client.register())
            self.now(client.new_order(NAMES))

    def test_too_early(self) -> None:
        """What needs an account says so, and asks nobody."""
        self.failureResultOf(self.acme.new_order(NAMES), UsageError)
        self.assertEqual(self.authority.counts["newOrder"], 0)

    def test_lost(self) -> None:
        """An account that the authority does not know of (any more)."""
        url = self.authority.base + "/account/0"
        client = self.client(account_url=url)
        self.refused(client.new_order(NAMES), "accountDoesNotExist")

    def test_external(self) -> None:
        """An external account is bound; a wrong one is refused."""
        self.authority.external = {"kid-1": b"k" * 32}
        self.refused(self.acme.register(), "externalAccountRequired")
        for wrong in (ExternalAccount("kid-1", b"x" * 32), ExternalAccount("kid-2", b"k" * 32)):
            self.refused(self.acme.register(eab=wrong), "unauthorized")
        self.now(self.acme.register(eab=ExternalAccount("kid-1", b"k" * 32)))
        (account,) = self.authority.accounts.values()
        self.assertEqual(account.external, "kid-1")

    def test_key_change(self) -> None:
        """The new key counts, and the old one no more."""
        old = self.client(ec_key(3))
        url = self.now(old.register())
        changing = self.client(ec_key(3), account_url=url)
        self.now(changing.change_key(rsa_key()))
        self.now(changing.new_order(NAMES))
        self.refused(old.new_order(NAMES), "malformed")
        self.assertEqual(self.now(self.client(rsa_key()).register(only_existing=True)), url)

    def test_key_in_use(self) -> None:
        """A key that has an account already is refused, and the old one goes on."""
        self.now(self.client(ec_key(3)).register())
        self.now(self.acme.register())
        error = self.refused(self.acme.change_key(ec_key(3)), "malformed")
        self.assertEqual(error.status, 409)
        self.now(self.acme.new_order(NAMES))

    def test_bad_new_key(self) -> None:
        """A new key of a kind that cannot be is found out here."""
        self.now(self.acme.register())
        changing = self.acme.change_key(ed25519.Ed25519PrivateKey.generate())
        self.failureResultOf(changing, ConfigurationError)
        self.assertEqual(self.authority.counts["keyChange"], 0)


class RegisteredCase(AuthorityCase):
    """With an account."""

    def setUp(self) -> None:
        super().setUp()
        self.now(self.acme.register())


class OrderTests(RegisteredCase):
    """From the order to the certificate."""

    def test_order(self) -> None:
        """All that an order says is read."""
        order = self.now(self.acme.new_order(["WWW.example.org", "2001:DB8:0::1"]))
        self.assertEqual(
            order,
            Order(
                url=next(iter(self.authority.orders)),
                status="pending",
                identifiers=("www.example.org", "2001:db8::1"),
                authorizations=tuple(self.authority.authorizations),
                finalize=order.finalize,
                expires=datetime.fromtimestamp(BEGIN, UTC) + 7 * DAY,
                retry_after=3.0,
                profile="classic",
            ),
        )
        self.assertEqual(self.now(self.acme.get_order(order.url)), order)

    def test_names(self) -> None:
        """What cannot be a name is found out here."""
        for wrong in ((), ("",), ("ä.example",), ("a b",), ("fe80::1%eth0",)):
            self.failureResultOf(self.acme.new_order(wrong), ConfigurationError)
        self.assertEqual(self.authority.counts["newOrder"], 0)

    def test_certificate(self) -> None:
        """The certificate is for what was asked, and has a chain for each root."""
        order = self.obtained()
        self.assertEqual((order.status, order.retry_after), ("valid", None))
        chains = self.now(self.acme.certificates(order))
        (made,) = self.authority.issued
        self.assertEqual(list(chains), made.chains)
        roots = [load_certificates(each, "it")[1].issuer for each in chains]
        self.assertEqual(roots, [each.subject for each in self.authority.issuer.roots])

    def test_processing(self) -> None:
        """An order that takes its time says when to look again."""
        self.authority.polls = 1
        self.authority.retry_after = 17
        order = self.obtained()
        self.assertEqual((order.status, order.retry_after), ("processing", 17.0))
        self.failureResultOf(self.acme.certificates(order), UsageError)
        self.assertEqual(self.now(self.acme.get_order(order.url)).status, "processing")
        self.assertEqual(self.now(self.acme.get_order(order.url)).status, "valid")

    def test_refused_at_the_end(self) -> None:
        """An order that ends as invalid says why."""
        self.authority.refuses_issuance = Refused("caa", "a CAA record forbids it", 0)
        order = self.obtained()
        self.assertEqual(
            (order.status, str(order.error)), ("invalid", "a CAA record forbids it (caa)")
        )

    def test_too_early(self) -> None:
        """An order that is not ready is not finalized."""
        order = self.now(self.acme.new_order(NAMES))
        finalizing = self.acme.finalize(order, csr_for(NAMES, ec_key(1)))
        self.assertEqual(self.refused(finalizing, "orderNotReady").status, 403)

    def test_rejected(self) -> None:
        """Which of the names are not issued for is told."""
        self.authority.rejects = {"www.example.org"}
        error = self.refused(self.acme.new_order(NAMES), "rejectedIdentifier")
        self.assertEqual(
            error.subproblems,
            (("www.example.org", "urn:ietf:params:acme:error:rejectedIdentifier", "forbidden"),),
        )
        self.assertEqual(
            str(error),
            "some names are not issued for (rejectedIdentifier);"
            " www.example.org: forbidden (rejectedIdentifier)",
        )

    def test_profile(self) -> None:
        """A profile is asked for by name; one that is not offered is not asked for."""
        order = self.obtained(profile="shortlived")
        self.assertEqual(order.profile, "shortlived")
        (made,) = self.authority.issued
        life = made.certificate.not_valid_after_utc - made.certificate.not_valid_before_utc
        self.assertLess(life, 7 * DAY)
        failure = self.failureResultOf(
            self.acme.new_order(NAMES, profile="long"), ConfigurationError
        )
        self.assertEqual(
            str(failure.value),
            "the authority https://authority.example/directory has no profile 'long'; it has:"
            " classic, shortlived",
        )

    def test_revocation(self) -> None:
        """A certificate is revoked with a reason, or without; once."""
        for reason, kept in ((4, 4), (None, 0)):
            self.obtained()
            leaf = self.authority.issued[-1].certificate
            self.now(self.acme.revoke(leaf, reason))
            self.assertEqual(self.authority.issued[-1].revoked, kept)
            self.refused(self.acme.revoke(leaf), "alreadyRevoked")
        self.refused(self.acme.revoke(self.authority.issuer.roots[0]), "malformed")


class ChallengeTests(RegisteredCase):
    """Authorizations and challenges."""

    def challenge(self, type: str, name: str = "www.example.org") -> tuple[str, Challenge]:
        order = self.now(self.acme.new_order([name]))
        (url,) = order.authorizations
        authorization = self.now(self.acme.get_authorization(url))
        self.assertEqual(authorization.status, "pending")
        return url, next(each for each in authorization.challenges if each.type == type)

    def test_answers(self) -> None:
        """All of what shows a challenge's answer comes from the key authorization."""
        url, challenge = self.challenge("http-01")
        answered = self.now(self.acme.answer(challenge))
        self.assertEqual((answered.url, answered.status), (challenge.url, "valid"))
        self.assertEqual(self.now(self.acme.get_authorization(url)).status, "valid")
        wanted = self.answers["www.example.org", "http-01"]
        self.assertEqual(self.acme.key_authorization(challenge), wanted)
        digest = sha256(wanted.encode()).digest()
        self.assertEqual(self.acme.tls_alpn_digest(challenge), digest)
        self.assertEqual(self.acme.dns_validation(challenge), encode_b64jose(digest))

    def test_failed(self) -> None:
        """A challenge that is not met says why; the order ends."""

        def validate(*_: str) -> None:
            raise Refused("dns", "there is no TXT record", 0)

        self.authority.validate = validate
        order = self.now(self.acme.new_order(["www.example.org"]))
        (url,) = order.authorizations
        challenge = self.now(self.acme.get_authorization(url)).challenges[1]
        self.now(self.acme.answer(challenge))
        authorization = self.now(self.acme.get_authorization(url))
        self.assertEqual(authorization.status, "invalid")
        self.assertEqual(
            [str(each.error) for each in authorization.challenges if each.status == "invalid"],
            ["there is no TXT record (dns)"],
        )
        order = self.now(self.acme.get_order(order.url))
        self.assertEqual(
            (order.status, str(order.error)), ("invalid", "there is no TXT record (dns)")
        )

    def test_slow(self) -> None:
        """A validation that takes its time."""
        validating: Deferred[None] = Deferred()
        self.authority.validate = lambda *_: validating
        url, challenge = self.challenge("tls-alpn-01")
        self.assertEqual(self.now(self.acme.answer(challenge)).status, "processing")
        authorization = self.now(self.acme.get_authorization(url))
        self.assertEqual((authorization.status, authorization.retry_after), ("pending", 3.0))
        validating.callback(None)
        self.assertEqual(self.now(self.acme.get_authorization(url)).status, "valid")

    def test_wildcard(self) -> None:
        """The authorization of a wildcard is for the name below it."""
        order = self.now(self.acme.new_order(["*.example.org"]))
        self.assertEqual(order.identifiers, ("*.example.org",))
        authorization = self.now(self.acme.get_authorization(order.authorizations[0]))
        self.assertEqual((authorization.identifier, authorization.wildcard), ("example.org", True))
        self.assertEqual([each.type for each in authorization.challenges], ["dns-01"])

    def test_given_up(self) -> None:
        """An authorization is given up."""
        url, _ = self.challenge("http-01")
        self.assertEqual(self.now(self.acme.deactivate_authorization(url)).status, "deactivated")

    def test_no_token(self) -> None:
        """There is no answer to a challenge of a type that is not known."""
        challenge = Challenge(url="https://a/", type="dns-persist-01", status="pending")
        self.assertRaises(UsageError, self.acme.key_authorization, challenge)


class RenewalInfoTests(RegisteredCase):
    """RFC 9773."""

    def leaf(self) -> x509.Certificate:
        self.obtained()
        return self.authority.issued[-1].certificate

    def test_window(self) -> None:
        """The window is where the authority has put it."""
        leaf = self.leaf()
        self.authority.issued[0].window = (BEGIN + 10, BEGIN + 20)
        self.authority.explanation = "https://authority.example/why"
        info = self.now(self.acme.renewal_info(leaf))
        assert info is not None
        self.assertEqual(info.start, datetime.fromtimestamp(BEGIN + 10, UTC))
        self.assertEqual(info.end, datetime.fromtimestamp(BEGIN + 20, UTC))
        self.assertEqual(info.explanation_url, "https://authority.example/why")
        self.assertEqual(info.retry_after, 21600.0)

    def test_backwards(self) -> None:
        """A window that ends before it begins is as good as no answer (section 4.2)."""
        leaf = self.leaf()
        for end in (BEGIN, BEGIN - 1):
            self.authority.issued[0].window = (BEGIN, end)
            error = self.unavailable(self.acme.renewal_info(leaf))
            self.assertIn("ends before it begins", str(error))
            self.assertEqual(error.retry_after, 21600.0)

    def test_unknown(self) -> None:
        """A certificate that the authority has never issued."""
        stranger = certificate(
            "stranger",
            None,
            extensions=[
                (x509.AuthorityKeyIdentifier.from_issuer_public_key(ec_key().public_key()), False)
            ],
        )
        self.assertEqual(self.refused(self.acme.renewal_info(stranger), "malformed").status, 404)

    def test_none(self) -> None:
        """An authority that has no renewal information is not asked; nor told what is replaced."""
        leaf = self.leaf()
        self.authority.has_renewal_info = False
        fresh = self.client(ec_key(4))
        self.now(fresh.register())
        self.assertIsNone(self.now(fresh.renewal_info(leaf)))
        order = self.now(fresh.new_order(NAMES, replaces=certificate_id(leaf)))
        self.assertIsNone(order.replaces)

    def test_replaces(self) -> None:
        """What an order replaces is told, and counts once."""
        identifier = self.acme.certificate_id(self.leaf())
        order = self.now(self.acme.new_order(NAMES, replaces=identifier))
        self.assertEqual(order.replaces, identifier)
        error = self.refused(self.acme.new_order(NAMES, replaces=identifier), "alreadyReplaced")
        self.assertEqual(error.status, 409)
        self.refused(self.acme.new_order(NAMES, replaces="AA.AA"), "malformed")

    def test_identifier(self) -> None:
        """The example of RFC 9773, section 4.1: a serial number whose first bit is set."""
        key = bytes.fromhex("69885b6b87464041e1b37b847bd0ae2cde01c8d4")
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(x509.Name([]))
            .public_key(ec_key().public_key())
            .serial_number(0x87654321)
            .not_valid_before(datetime(2026, 1, 1))
            .not_valid_after(datetime(2027, 1, 1))
            .add_extension(x509.AuthorityKeyIdentifier(key, None, None), critical=False)
            .sign(ec_key(), SHA256())
        )
        self.assertEqual(certificate_id(made), "aYhba4dGQEHhs3uEe9CuLN4ByNQ.AIdlQyE")

    def test_no_identifier(self) -> None:
        """A certificate that cannot be named."""
        error = self.assertRaises(ConfigurationError, certificate_id, certificate("none", None))
        self.assertIn("has no authority key identifier", str(error))


class FaultTests(RegisteredCase):
    """An authority that is out of order, or another than it ought to be."""

    def test_bad_nonces(self) -> None:
        """A refused nonce is not the end: the refusal brings another."""
        self.authority.bad_nonces = 10
        nonces = self.authority.counts["newNonce"]
        order = self.now(self.acme.new_order(NAMES))
        self.assertEqual(list(self.authority.orders), [order.url])
        self.assertEqual(self.authority.counts["newNonce"], nonces)

    def test_forgotten_nonces(self) -> None:
        """An authority that has forgotten all its nonces is asked by one of them, and no more."""
        self.authority.fail("newOrder", Fault(delay=1), times=5)
        orders = [self.acme.new_order(NAMES) for _ in range(5)]
        self.clock.advance(1)
        for order in orders:
            self.now(order)
        self.authority.forget_nonces()
        asked = self.authority.counts["newOrder"]
        self.now(self.acme.new_order(NAMES))
        self.now(self.acme.new_order(NAMES))
        self.assertEqual(self.authority.counts["newOrder"], asked + 3)

    def test_bad_nonces_for_ever(self) -> None:
        """There is an end to it."""
        self.authority.bad_nonces = 10**6
        self.refused(self.acme.new_order(NAMES), "badNonce")
        self.assertLess(self.authority.counts["newOrder"], 30)
        self.assertEqual(self.authority.orders, {})

    def test_rate_limit(self) -> None:
        """A limit, and when it ends."""
        self.authority.limit("newOrder", 1, 3600)
        self.now(self.acme.new_order(NAMES))
        self.clock.advance(600)
        error = self.refused(self.acme.new_order(NAMES), "rateLimited")
        self.assertTrue(error.is_rate_limited)
        self.assertEqual((error.status, error.retry_after), (429, 3000.0))
        self.clock.advance(3000)
        self.now(self.acme.new_order(NAMES))

    def test_not_rate_limited(self) -> None:
        """Other refusals are no limits."""
        self.authority.rejects = {"example.org"}
        error = self.refused(self.acme.new_order(NAMES), "rejectedIdentifier")
        self.assertFalse(error.is_rate_limited)
        self.assertIsNone(error.retry_after)

    def test_retry_at(self) -> None:
        """A time at which to try again, by the authority's clock."""
        self.authority.now = lambda: BEGIN - 7 * 3600
        when = "Fri, 15 Jan 2027 01:30:00 GMT"
        self.authority.fail("newOrder", Fault(status=503, retry_after=when))
        error = self.unavailable(self.acme.new_order(NAMES))
        self.assertEqual(error.retry_after, 1800.0)
        self.assertEqual(
            str(error),
            "the answer of https://authority.example/new-order is status 503, and not ACME",
        )

    def test_internal(self) -> None:
        """What an authority says that is out of order itself."""
        refusal = Refused("serverInternal", "it hurts", 500, retry_after=60)
        self.authority.fail("newOrder", Fault(refusal=refusal))
        error = self.unavailable(self.acme.new_order(NAMES))
        self.assertEqual(error.retry_after, 60.0)
        self.assertIn("status 500: it hurts (serverInternal)", str(error))

    def test_late(self) -> None:
        """An answer that comes in time counts, one that does not does not."""
        self.authority.fail("newOrder", Fault(delay=29))
        ordering = self.acme.new_order(NAMES)
        self.assertNoResult(ordering)
        self.clock.advance(29)
        self.now(ordering)
        self.authority.fail("newOrder", Fault(delay=31))
        ordering = self.acme.new_order(NAMES)
        self.clock.advance(30)
        self.assertIn("has not answered within 30 seconds", str(self.unavailable(ordering)))
        self.clock.advance(1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_dropped(self) -> None:
        """A connection that is lost: whether it was done is not known, and nothing is repeated."""
        self.authority.fail("newOrder", Fault(drop=Drop.AFTER))
        self.unavailable(self.acme.new_order(NAMES))
        self.assertEqual(len(self.authority.orders), 1)
        self.authority.fail("newOrder", Fault(drop=Drop.BEFORE))
        self.unavailable(self.acme.new_order(NAMES))
        self.assertEqual(len(self.authority.orders), 1)
        self.assertEqual(self.authority.counts["newOrder"], 2)
        self.now(self.acme.new_order(NAMES))

    def test_content_type(self) -> None:
        """A page for people is no answer, nor is JSON a certificate."""
        self.authority.fail("newOrder", Fault(content_type="text/html"))
        error = self.unavailable(self.acme.new_order(NAMES))
        self.assertIn("is not ACME: the order is of the type 'text/html'", str(error))
        order = self.obtained()
        self.authority.fail("certificate", Fault(content_type="application/json"))
        error = self.unavailable(self.acme.certificates(order))
        self.assertIn("is of the type 'application/json', not PEM", str(error))

    def test_chain(self) -> None:
        """A chain that is damaged, or brings a key along, is not taken."""
        order = self.obtained()
        (chain, _) = self.authority.issued[0].chains
        key = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
        for body in (chain[:-40], b"", b"{}", key, chain + key, chain + b"-----BEGIN CERT"):
            self.authority.fail("certificate", Fault(body=body))
            self.assertNotIn("AAAA", str(self.unavailable(self.acme.certificates(order))))
        self.now(self.acme.certificates(order))

    def test_too_large(self) -> None:
        """An answer without end has one."""
        body = b"[" + b"1," * 2**19 + b"1]"
        self.authority.fail("newOrder", Fault(body=body))
        error = self.unavailable(self.acme.new_order(NAMES))
        self.assertIn("is larger than 1048576 bytes", str(error))
        self.now(self.acme.new_order(NAMES))

    def test_cancelled(self) -> None:
        """To cancel ends the request; the client goes on."""
        self.authority.fail("newOrder", Fault(delay=20))
        ordering = self.acme.new_order(NAMES)
        ordering.cancel()
        self.failureResultOf(ordering, CancelledError)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.now(self.acme.new_order(NAMES))

    def test_closed(self) -> None:
        """To close gives up what is being asked."""
        self.authority.fail("newOrder", Fault(delay=float("inf")))
        ordering = self.acme.new_order(NAMES)
        self.assertNoResult(ordering)
        self.now(self.acme.close())
        self.failureResultOf(ordering, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_at_once(self) -> None:
        """Several requests at once have a nonce each."""
        self.authority.fail("newOrder", Fault(delay=1), times=5)
        orders = [self.acme.new_order(NAMES) for _ in range(5)]
        self.clock.advance(1)
        self.assertEqual(len({self.now(each).url for each in orders}), 5)

    def test_directory(self) -> None:
        """The directory is asked for once an hour."""
        self.now(self.acme.new_order(NAMES))
        self.assertEqual(self.authority.counts["directory"], 1)
        self.clock.advance(3599)
        self.now(self.acme.directory())
        self.assertEqual(self.authority.counts["directory"], 1)
        self.clock.advance(1)
        self.now(self.acme.directory())
        self.assertEqual(self.authority.counts["directory"], 2)

    def test_not_offered(self) -> None:
        """What an authority does not offer is not asked for."""
        directory = self.authority.directory

        def less() -> dict[str, Any]:
            return {
                name: value
                for name, value in directory().items()
                if name not in ("revokeCert", "keyChange")
            }

        self.authority.directory = less  # type: ignore[method-assign]
        client = self.client()
        self.now(client.register())
        for asking, what in (
            (client.revoke(self.authority.issuer.roots[0]), "revocation"),
            (client.change_key(ec_key(5)), "change of keys"),
        ):
            failure = self.failureResultOf(asking, ConfigurationError)
            self.assertEqual(str(failure.value), f"the authority offers no {what}")

    def test_not_there(self) -> None:
        """A page that the authority does not have."""
        error = self.refused(self.acme.get_order(self.authority.base + "/order/0"), "malformed")
        self.assertEqual(error.status, 404)

    def test_bad_address(self) -> None:
        """An address that cannot be asked is no more than unavailable."""
        for url in ("https://[::1/", "https://authority.example:x/"):
            self.unavailable(self.acme.get_order(url))


class HeaderTests(AuthorityCase):
    """What each request says."""

    def test_agent(self) -> None:
        """RFC 8555, section 6.1, has a client say who it is."""
        seen: list[Any] = []
        inner: Any = self.authority.agent()

        class Agent:
            def request(self, method: bytes, uri: bytes, headers: Any, body: Any) -> Any:
                seen.append(headers)
                return inner.request(method, uri, headers, body)

        self.now(self.client(agent=Agent()).register())
        self.now(self.client(agent=Agent(), user_agent="mine/1").directory())
        agents = [each.getRawHeaders("user-agent") for each in seen]
        self.assertEqual(agents, [[f"twisted_bioconn/{__version__}"]] * 3 + [["mine/1"]])
