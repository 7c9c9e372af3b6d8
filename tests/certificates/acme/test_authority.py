"""
The small authority refuses what a real one refuses.

Requests are signed here by hand: what the client would never send is what these tests are about.
"""

from __future__ import annotations

import json
from typing import Any

from acme import jws
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from josepy.json_util import decode_b64jose, encode_b64jose, encode_csr
from josepy.jwa import ES256, HS256, PS256, RS256
from josepy.jwk import JWKEC, JWKRSA, JWKOct
from twisted.web.client import readBody
from twisted.web.http_headers import Headers

from tests.certificates.acme.authority import Fault, Refused, SmallAuthority
from tests.certificates.acme.issuing import DAY, csr_for
from tests.certificates.acme.material import NAMES, AuthorityCase
from tests.tls_material import ec_key, rsa_key
from twisted_bioconn.certificates.acme.client import certificate_id
from twisted_bioconn.certificates.acme.exchange import _Body
from twisted_bioconn.certificates.loading import issued, load_certificates

KEY = JWKEC(key=ec_key(2))
OTHER = JWKEC(key=ec_key(3))


class SignedCase(AuthorityCase):
    """With requests that are signed here, for an account of L{KEY}."""

    def setUp(self) -> None:
        super().setUp()
        self.agent = self.authority.agent()
        self.acme = self.client(ec_key(2))
        self.account = self.now(self.acme.register())

    def ask(
        self, method: bytes, page: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Headers, bytes]:
        """Ask, and get the status, the headers and the content."""
        fields = {
            "user-agent": "a test",
            "content-type": "application/jose+json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        asking = self.agent.request(
            method,
            self.url(page).encode(),
            Headers({name: [value] for name, value in fields.items() if value}),
            None if body is None else _Body(body),
        )
        response: Any = self.successResultOf(asking)
        return response.code, response.headers, self.successResultOf(readBody(response))

    def url(self, page: str) -> str:
        return page if page.startswith("https:") else f"{self.authority.base}/{page}"

    def nonce(self) -> bytes:
        _, headers, _ = self.ask(b"HEAD", "nonce")
        (nonce,) = headers.getRawHeaders("replay-nonce") or ()
        return decode_b64jose(nonce)

    def signed(self, page: str, payload: object = None, **changes: Any) -> bytes:
        """A request; C{changes} are what L{jws.JWS.sign} takes."""
        text = b"" if payload is None else json.dumps(payload).encode()
        arguments: dict[str, Any] = {
            "key": KEY,
            "alg": ES256,
            "url": self.url(page),
            "kid": self.account,
            **changes,
        }
        if "nonce" not in arguments:
            arguments["nonce"] = self.nonce()
        body: str = jws.JWS.sign(text, **arguments).json_dumps()
        return body.encode()

    def post(self, page: str, payload: object = None, **changes: Any) -> tuple[int, Any]:
        """Send a signed request; the status, and what the answer says."""
        code, _, content = self.ask(b"POST", page, self.signed(page, payload, **changes))
        return code, json.loads(content) if content else None

    def assertRefused(self, answer: tuple[int, Any], code: str, status: int = 400) -> str:
        """It was refused for this reason; returns the detail."""
        self.assertEqual(answer[0], status, answer)
        self.assertEqual(answer[1]["type"], f"urn:ietf:params:acme:error:{code}", answer)
        detail: str = answer[1]["detail"]
        return detail


class RequestTests(SignedCase):
    """What a request has to be."""

    order = {"identifiers": [{"type": "dns", "value": "www.example.org"}]}

    def refusal(self, body: bytes, **headers: str) -> tuple[int, Any]:
        code, _, content = self.ask(b"POST", "new-order", body, **headers)
        return code, json.loads(content)

    def test_good(self) -> None:
        """This is one."""
        self.assertEqual(self.post("new-order", self.order)[0], 201)

    def test_nonces(self) -> None:
        """A nonce is good once, and only one that was given out."""
        nonce = self.nonce()
        self.assertEqual(self.post("new-order", self.order, nonce=nonce)[0], 201)
        for bad in (nonce, b"another nonce", None):
            self.assertRefused(self.post("new-order", self.order, nonce=bad), "badNonce")
        self.assertEqual(len(self.authority.orders), 1)

    def test_url(self) -> None:
        """A request is for one page."""
        answer = self.post("new-order", self.order, url=self.url("new-account"))
        self.assertRefused(answer, "unauthorized", 403)

    def test_signature(self) -> None:
        """The signature has to be the account's, of what is sent."""
        self.assertRefused(self.post("new-order", self.order, key=OTHER), "malformed")
        body = json.loads(self.signed("new-order", self.order))
        body["payload"] = encode_b64jose(json.dumps({**self.order, "profile": "x"}).encode())
        self.assertRefused(self.refusal(json.dumps(body).encode()), "malformed")
        self.assertEqual(self.authority.orders, {})

    def test_whose(self) -> None:
        """An account is named by C{kid}, but a new one by C{jwk}."""
        self.assertRefused(self.post("new-order", self.order, kid=None), "malformed")
        self.assertRefused(self.post("new-account", {}), "malformed")
        answer = self.post("new-order", self.order, kid=self.url("account/0"))
        self.assertRefused(answer, "accountDoesNotExist")

    def test_form(self) -> None:
        """Flattened JSON, all of it protected, of its own type."""
        good = self.signed("new-order", self.order)
        body = json.loads(good)
        for changed in (
            b"",
            b"[]",
            json.dumps({**body, "header": {"kid": "x"}}).encode(),
            json.dumps({**body, "signature": None}).encode(),
            json.dumps({"payload": body["payload"], "signatures": [body]}).encode(),
        ):
            self.assertRefused(self.refusal(changed), "malformed")
        for header, status in (("content_type", 415), ("user_agent", 400)):
            answer = self.refusal(good, **{header: ""})
            self.assertRefused(answer, "malformed", status)
        # None of this has used the nonce up.
        self.assertEqual(
            self.refusal(good)[0] if False else self.ask(b"POST", "new-order", good)[0], 201
        )

    def test_algorithm(self) -> None:
        """Algorithms that RFC 8555, section 6.2, has nobody use, or that are the wrong ones."""
        mac = JWKOct(key=b"k" * 32)
        self.assertRefused(self.post("new-order", self.order, key=mac, alg=HS256), "malformed")
        key = JWKRSA(key=rsa_key())
        answer = self.post("new-account", {}, key=key, alg=PS256, kid=None)
        self.assertRefused(answer, "badSignatureAlgorithm")
        curve = JWKEC(key=ec.generate_private_key(ec.SECP384R1()))
        answer = self.post("new-account", {}, key=curve, alg=ES256, kid=None)
        self.assertRefused(answer, "malformed")

    def test_keys(self) -> None:
        """Keys that are too small."""
        small = JWKRSA(key=rsa.generate_private_key(65537, 1024))
        answer = self.post("new-account", {}, key=small, alg=RS256, kid=None)
        self.assertRefused(answer, "badPublicKey")

    def test_get(self) -> None:
        """What is somebody's is not for everybody to get."""
        order = self.now(self.acme.new_order(NAMES))
        for page in (order.url, *order.authorizations, order.finalize, self.account):
            code, _, content = self.ask(b"GET", page)
            self.assertRefused((code, json.loads(content)), "malformed", 405)

    def test_others(self) -> None:
        """Nor for another account."""
        order = self.obtained()
        assert order.certificate is not None
        other = self.client(ec_key(3))
        kid = self.now(other.register())
        challenge = next(iter(self.authority.challenges))
        for page, payload in (
            (order.url, None),
            (order.authorizations[0], None),
            (order.finalize, {"csr": ""}),
            (order.certificate, None),
            (challenge, {}),
            (self.account, None),
        ):
            answer = self.post(page, payload, key=OTHER, kid=kid)
            self.assertRefused(answer, "unauthorized", 403)

    def test_read_only(self) -> None:
        """To read is not to send."""
        order = self.obtained()
        assert order.certificate is not None
        for page in (order.url, order.certificate):
            self.assertRefused(self.post(page, {}), "malformed")


class AccountTests(SignedCase):
    """Accounts."""

    def new(self, document: object) -> tuple[int, Any]:
        return self.post("new-account", document, key=OTHER, kid=None)

    def test_terms(self) -> None:
        """The terms have to be agreed to."""
        for document in ({}, {"termsOfServiceAgreed": False}, {"termsOfServiceAgreed": "yes"}):
            self.assertRefused(self.new(document), "malformed")
        self.assertEqual(self.new({"termsOfServiceAgreed": True})[0], 201)

    def test_contacts(self) -> None:
        """Addresses have to be some."""
        for contact, code in (
            ("tel:+12025551212", "unsupportedContact"),
            ("mailto:ops", "invalidContact"),
            ("mailto:a@example.org,b@example.org", "invalidContact"),
            ("mailto:a@example.org?cc=b@example.org", "invalidContact"),
            ("mailto:ä@example.org", "invalidContact"),
        ):
            document = {"termsOfServiceAgreed": True, "contact": [contact]}
            self.assertRefused(self.new(document), code)
            self.assertRefused(self.post(self.account, {"contact": [contact]}), code)
        self.assertRefused(self.post(self.account, {"contact": "a"}), "malformed")

    def test_deactivated(self) -> None:
        """An account that was given up is nobody's any more."""
        self.assertEqual(self.post(self.account, {"status": "deactivated"})[0], 200)
        self.refused(self.acme.new_order(NAMES), "unauthorized")
        self.refused(self.acme.register(), "unauthorized")

    def test_external(self) -> None:
        """The binding has to be this key's, for this page, with no nonce."""
        secret = b"k" * 32
        self.authority.external = {"kid-1": secret}
        good: dict[str, Any] = {
            "payload": json.dumps(OTHER.public_key().to_json()).encode(),
            "key": JWKOct(key=secret),
            "alg": HS256,
            "nonce": None,
            "url": self.url("new-account"),
            "kid": "kid-1",
        }

        def register(**changes: Any) -> tuple[int, Any]:
            binding = jws.JWS.sign(**{**good, **changes}).to_json()
            return self.new({"termsOfServiceAgreed": True, "externalAccountBinding": binding})

        changes: dict[str, Any]
        for changes in (
            {"payload": json.dumps(KEY.public_key().to_json()).encode()},
            {"nonce": b"nonce"},
            {"url": self.url("new-order")},
        ):
            self.assertRefused(register(**changes), "malformed")
        for changes in ({"kid": "kid-2"}, {"key": JWKOct(key=b"x" * 32)}):
            self.assertRefused(register(**changes), "unauthorized", 403)
        self.assertEqual(register()[0], 201)

    def test_key_change(self) -> None:
        """Each side has to agree to a new key."""
        page = "key-change"
        good = {"account": self.account, "oldKey": KEY.public_key().to_json()}

        def change(document: object, key: JWKEC = OTHER, **others: Any) -> tuple[int, Any]:
            arguments: dict[str, Any] = {"nonce": None, "url": self.url(page), **others}
            text = json.dumps(document).encode()
            inner = jws.JWS.sign(text, key=key, alg=ES256, **arguments)
            return self.post(page, inner.to_json())

        self.assertRefused(change({**good, "account": self.url("account/0")}), "malformed")
        self.assertRefused(change({**good, "oldKey": OTHER.public_key().to_json()}), "malformed")
        self.assertRefused(change(good, url=self.url("new-order")), "malformed")
        self.assertRefused(change(good, nonce=b"nonce"), "malformed")
        self.assertRefused(change(good, KEY), "malformed", 409)
        self.assertEqual(change(good)[0], 200)


class OrderTests(SignedCase):
    """Orders."""

    def order(self, *identifiers: object, **others: object) -> tuple[int, Any]:
        return self.post("new-order", {"identifiers": list(identifiers), **others})

    def name(self, value: str, type: str = "dns") -> dict[str, str]:
        return {"type": type, "value": value}

    def test_identifiers(self) -> None:
        """Names that are none, and more of them than anybody has."""
        for value in ("", "a b.example", "-a.example", "a..example", "*.*.example", "WWW.Example"):
            self.assertRefused(self.order(self.name(value)), "malformed")
        for value in ("1.2.3", "2001:DB8::1", "example.org", ""):
            self.assertRefused(self.order(self.name(value, "ip")), "malformed")
        self.assertRefused(self.order(self.name("1.2.3.4")), "malformed")
        self.assertRefused(self.order(self.name("localhost")), "rejectedIdentifier")
        self.assertRefused(self.order(self.name("a@b", "email")), "unsupportedIdentifier")
        self.assertRefused(self.order(), "malformed")
        self.assertRefused(self.order("www.example.org"), "malformed")
        many = [self.name(f"n{number}.example.org") for number in range(101)]
        self.assertRefused(self.order(*many), "malformed")
        self.assertEqual(self.authority.orders, {})

    def test_twice(self) -> None:
        """A name that is there twice counts once."""
        code, document = self.order(*[self.name("www.example.org")] * 2)
        self.assertEqual((code, len(document["identifiers"])), (201, 1))

    def test_list(self) -> None:
        """An account's orders, and nobody else's."""
        other = self.client(ec_key(3))
        self.now(other.register())
        self.now(other.new_order(NAMES))
        order = self.now(self.acme.new_order(NAMES))
        self.assertEqual(self.post(f"{self.account}/orders"), (200, {"orders": [order.url]}))

    def test_others(self) -> None:
        """What else may be wrong with an order."""
        name = self.name("www.example.org")
        self.assertRefused(self.order(name, profile="long"), "invalidProfile")
        self.assertRefused(self.order(name, notAfter="2030-01-01T00:00:00Z"), "malformed")

    def test_csr(self) -> None:
        """A request has to be for the order's names, all and only, and its key a good one."""
        order = self.ordered()
        good = csr_for(NAMES, ec_key(1))
        der = bytearray(good.public_bytes(Encoding.DER))
        der[-1] ^= 1
        for csr in (
            csr_for(NAMES[:1], ec_key(1)),
            csr_for([*NAMES, "more.example.org"], ec_key(1)),
            csr_for(NAMES, rsa.generate_private_key(65537, 1024)),
            csr_for(NAMES, ec.generate_private_key(ec.SECP256K1())),
            csr_for(NAMES, ec_key(2)),
            x509.load_der_x509_csr(bytes(der)),
        ):
            answer = self.post(order.finalize, {"csr": encode_csr(csr)})
            self.assertRefused(answer, "badCSR")
        self.assertRefused(self.post(order.finalize, {"csr": "AAAA"}), "badCSR")
        self.assertRefused(self.post(order.finalize, {}), "badCSR")
        self.assertEqual(self.authority.issued, [])
        self.assertEqual(self.post(order.finalize, {"csr": encode_csr(good)})[0], 200)
        answer = self.post(order.finalize, {"csr": encode_csr(good)})
        self.assertRefused(answer, "orderNotReady", 403)
        self.assertEqual(len(self.authority.issued), 1)

    def test_reuse(self) -> None:
        """Valid authorizations are used again, as long as they are valid."""
        first = self.ordered()
        second = self.now(self.acme.new_order(NAMES))
        self.assertEqual(second.status, "ready")
        self.assertEqual(second.authorizations, first.authorizations)
        self.clock.advance(31 * DAY.total_seconds())
        self.assertEqual(self.now(self.acme.new_order(NAMES)).status, "pending")
        self.authority.reuses = False
        self.ordered()
        self.assertEqual(self.now(self.acme.new_order(NAMES)).status, "pending")

    def test_expired(self) -> None:
        """Orders and authorizations that nobody has cared for."""
        order = self.now(self.acme.new_order(NAMES))
        ready = self.ordered(["other.example.org"])
        self.clock.advance(DAY.total_seconds())
        authorization = self.now(self.acme.get_authorization(order.authorizations[0]))
        self.assertEqual(authorization.status, "expired")
        self.refused(self.acme.answer(authorization.challenges[0]), "malformed")
        self.assertEqual(self.now(self.acme.get_order(order.url)).status, "invalid")
        self.assertEqual(self.now(self.acme.get_order(ready.url)).status, "ready")
        self.clock.advance(7 * DAY.total_seconds())
        self.assertEqual(self.now(self.acme.get_order(ready.url)).status, "invalid")

    def test_challenge(self) -> None:
        """A challenge is validated once, and answered by an empty object."""
        order = self.now(self.acme.new_order(NAMES[:1]))
        (authorization,) = self.authority.authorizations.values()
        challenge = authorization.challenges[0]
        self.assertRefused(self.post(challenge.url, {"keyAuthorization": "x"}), "malformed")
        self.assertEqual(self.answers, {})
        self.assertEqual(self.post(challenge.url, {})[1]["status"], "valid")
        self.answers.clear()
        self.assertEqual(self.post(challenge.url, {})[1]["status"], "valid")
        self.assertEqual(self.answers, {})
        self.assertRefused(self.post(authorization.challenges[1].url, {}), "malformed")
        self.assertEqual(self.now(self.acme.get_order(order.url)).status, "ready")

    def test_challenge_failed(self) -> None:
        """What goes wrong as it is validated is a problem of the connection."""

        def validate(*_: str) -> None:
            raise OSError("no route")

        self.authority.validate = validate
        order = self.ordered(NAMES[:1])
        self.assertEqual((order.status, str(order.error)), ("invalid", "no route (connection)"))

    def test_replaces(self) -> None:
        """What is replaced has to be the account's, of the same names, and not replaced yet."""
        self.obtained()
        identifier = certificate_id(self.authority.issued[0].certificate)
        other = self.client(ec_key(3))
        self.now(other.register())
        self.refused(other.new_order(NAMES, replaces=identifier), "unauthorized")
        strange = self.acme.new_order(["other.example.org"], replaces=identifier)
        self.refused(strange, "malformed")
        order = self.now(self.acme.new_order(NAMES[:1], replaces=identifier))
        self.refused(self.acme.new_order(NAMES, replaces=identifier), "alreadyReplaced")
        # An order that came to nothing has replaced nothing.
        self.authority.orders[order.url].status = "invalid"
        self.now(self.acme.new_order(NAMES, replaces=identifier))

    def test_revocation(self) -> None:
        """By the account, or by the certificate's own key; for a reason that is one."""
        self.obtained()
        (made,) = self.authority.issued
        document = {"certificate": encode_b64jose(made.certificate.public_bytes(Encoding.DER))}
        answer = self.post("revoke", document, key=OTHER, kid=None)
        self.assertRefused(answer, "unauthorized", 403)
        self.assertRefused(self.post("revoke", {**document, "reason": 2}), "badRevocationReason")
        answer = self.post("revoke", document, key=JWKEC(key=ec_key(1)), kid=None)
        self.assertEqual((answer[0], made.revoked), (200, 0))

    def test_certificate(self) -> None:
        """What is issued is what an authority issues, and each chain leads to its root."""
        self.obtained(["www.example.org", "192.0.2.1"])
        (made,) = self.authority.issued
        for root, pem in zip(self.authority.issuer.roots, made.chains, strict=True):
            leaf, intermediate = load_certificates(pem, "the chain")
            self.assertTrue(issued(intermediate, leaf))
            self.assertTrue(issued(root, intermediate))
        self.assertEqual(leaf.not_valid_after_utc - leaf.not_valid_before_utc, 90 * DAY)
        self.assertLess(leaf.not_valid_before_utc.timestamp(), self.clock.seconds())


class FaultTests(SignedCase):
    """Faults are as they were ordered."""

    def test_times(self) -> None:
        """As often as was said, for the step that was said; then no more."""
        fault = Fault(refusal=Refused("serverInternal", "no", 500))
        self.authority.fail("newOrder", fault, times=2)
        self.now(self.acme.directory())
        for _ in range(2):
            self.unavailable(self.acme.new_order(NAMES))
        self.now(self.acme.new_order(NAMES))
        self.authority.fail("*", fault, times=None)
        for _ in range(3):
            self.unavailable(self.acme.new_order(NAMES))
        self.authority.mend()
        self.now(self.acme.new_order(NAMES))
        self.assertEqual(self.authority.counts["newOrder"], 7)

    def test_limit(self) -> None:
        """A limit counts what is past as past."""
        self.authority.limit("newOrder", 2, 60)
        for expected in (None, None, 60.0):
            if expected is None:
                self.now(self.acme.new_order(NAMES))
            else:
                error = self.refused(self.acme.new_order(NAMES), "rateLimited")
                self.assertEqual(error.retry_after, expected)
        self.clock.advance(60)
        self.now(self.acme.new_order(NAMES))

    def test_no_profiles(self) -> None:
        """An authority without profiles has none in its directory nor its orders."""
        self.authority = SmallAuthority(self.clock, profiles={})
        self.acme = self.client()
        self.now(self.acme.register())
        self.assertEqual(self.now(self.acme.directory()).profiles, {})
        self.assertIsNone(self.obtained().profile)
