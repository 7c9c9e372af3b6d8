"""What the small authority does when it is asked: accounts, orders, challenges, certificates."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from cryptography import x509
from josepy.json_util import decode_b64jose, encode_b64jose
from josepy.jwk import JWK
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.certificates.acme.issuing import (
    DAY,
    Issuer,
    Profile,
    Refused,
    check_request,
    json_identifier,
)
from tests.certificates.acme.records import (
    Account,
    Answer,
    Authorization,
    Challenge,
    Issued,
    Order,
    Signed,
    own,
    read_contacts,
    read_jws,
    read_key,
    read_names,
    to_challenge,
    to_json,
    to_time,
)

BASE = "https://authority.example"
PROFILES = {
    "classic": Profile("90 days", 90 * DAY),
    "shortlived": Profile("6 days", timedelta(hours=160)),
}
CHALLENGES = ("http-01", "dns-01", "tls-alpn-01")

Validate = Callable[[str, str, str, str], "Deferred[None] | None"]


def accept_all(type: str, identifier: str, token: str, key_authorization: str) -> None:
    """Find every challenge answered."""


class Desk:
    """
    Where an authority's work is done, once it is known who asks.

    @ivar validate: is called with a challenge's type, identifier, token and the key authorization
        that it has to be answered by.  It raises L{Refused}, or returns a Deferred that fails with
        it, where the challenge is not answered.
    @ivar issued: the certificates, in order.
    @ivar profiles: what it has; the first is the default.  Empty for an authority that knows of no
        profiles.
    @ivar external: HMAC keys of external accounts by key identifier; where there are some, one is
        needed.
    @ivar offers: the types of challenges.
    @ivar rejects: names that it does not issue for.
    @ivar reuses: whether a valid authorization is used again.
    @ivar polls: how often an order is looked at before its certificate is issued.
    @ivar retry_after: goes with what is not done yet, seconds or a text; L{None} for nothing.
    @ivar refuses_issuance: why, at the very end, no certificate is issued.
    @ivar has_renewal_info: whether there is RFC 9773.
    @ivar renewal_retry_after: goes with renewal information.
    @ivar explanation: goes with it too.
    """

    def __init__(
        self,
        now: Callable[[], float],
        validate: Validate,
        profiles: Mapping[str, Profile],
        external: Mapping[str, bytes],
    ) -> None:
        self.now = now
        self.validate = validate
        self.profiles = dict(profiles)
        self.external = dict(external)
        self.offers: tuple[str, ...] = CHALLENGES
        self.rejects: set[str] = set()
        self.reuses = True
        self.polls = 0
        self.retry_after: float | str | None = 3
        self.refuses_issuance: Refused | None = None
        self.has_renewal_info = True
        self.renewal_retry_after: float | str | None = 21600
        self.explanation: str | None = None
        self.base = BASE
        self.issuer = Issuer(self.now)
        self.accounts: dict[str, Account] = {}
        self.orders: dict[str, Order] = {}
        self.authorizations: dict[str, Authorization] = {}
        self.challenges: dict[str, Challenge] = {}
        self.issued: list[Issued] = []

    def find(self, certificate_id: str) -> Issued:
        """
        What was issued under this identifier (RFC 9773, section 4.1).

        @raise Refused: nothing.
        """
        for issued in self.issued:
            extension = issued.certificate.extensions.get_extension_for_class(
                x509.AuthorityKeyIdentifier
            )
            number = issued.certificate.serial_number
            serial = number.to_bytes(number.bit_length() // 8 + 1, "big")
            assert extension.value.key_identifier is not None
            known = f"{encode_b64jose(extension.value.key_identifier)}.{encode_b64jose(serial)}"
            if known == certificate_id:
                return issued
        raise Refused("malformed", "there is no certificate of this identifier", 404)

    # What can be asked for.

    def directory(self) -> dict[str, Any]:
        meta: dict[str, Any] = {
            "termsOfService": self.base + "/terms",
            "website": self.base,
            "caaIdentities": ["authority.example"],
            "externalAccountRequired": bool(self.external),
        }
        if self.profiles:
            meta["profiles"] = {name: each.description for name, each in self.profiles.items()}
        names = {
            "newNonce": "nonce",
            "newAccount": "new-account",
            "newOrder": "new-order",
            "revokeCert": "revoke",
            "keyChange": "key-change",
        }
        if self.has_renewal_info:
            names["renewalInfo"] = "renewal"
        # For clients to pass over, as Let's Encrypt has one.
        return {
            **{name: f"{self.base}/{page}" for name, page in names.items()},
            secrets.token_urlsafe(8): "https://example.org/why-is-this-here",
            "meta": meta,
        }

    def new_account(self, signed: Signed, url: str) -> Answer:
        document = signed.document
        for account in self.accounts.values():
            if account.key == signed.key:
                if account.status != "valid":
                    raise Refused("unauthorized", f"the account is {account.status}", 403)
                return self._account_answer(account, 200)
        if document.get("onlyReturnExisting"):
            raise Refused("accountDoesNotExist", "no account has this key")
        if document.get("termsOfServiceAgreed") is not True:
            raise Refused("malformed", "the terms of service have to be agreed to")
        contact = read_contacts(document.get("contact", []))
        external = self._external(document.get("externalAccountBinding"), signed.key, url)
        account = Account(self._url("account"), signed.key, contact, external)
        self.accounts[account.url] = account
        return self._account_answer(account, 201)

    def _external(self, binding: object, key: JWK, url: str) -> str | None:
        """RFC 8555, section 7.3.4."""
        if not self.external:
            return None
        if binding is None:
            raise Refused("externalAccountRequired", "an external account is needed", 403)
        header, payload, verify = read_jws(to_json(binding))
        if header.get("alg") != "HS256" or "nonce" in header or header.get("url") != url:
            raise Refused("malformed", "the external account's alg, nonce or url is wrong")
        if JWK.from_json(json.loads(payload)) != key:
            raise Refused("malformed", "the external account is bound to another key")
        secret = self.external.get(str(header.get("kid")))
        if secret is None or not verify(secret):
            raise Refused("unauthorized", "there is no such external account", 403)
        return str(header["kid"])

    def _account_answer(self, account: Account, code: int) -> Answer:
        document = {
            "status": account.status,
            "contact": account.contact,
            "orders": account.url + "/orders",
        }
        return Answer(code, to_json(document), headers=(("Location", account.url),))

    def account(self, signed: Signed, url: str) -> Answer:
        account = own(self.accounts.get(url.removesuffix("/orders")), signed)
        if url.endswith("/orders"):
            signed.read_only()
            orders = [each.url for each in self.orders.values() if each.account is account]
            return Answer(200, to_json({"orders": orders}))
        if signed.payload:
            if "contact" in signed.document:
                account.contact = read_contacts(signed.document["contact"])
            if signed.document.get("status") == "deactivated":
                account.status = "deactivated"
        return self._account_answer(account, 200)

    def key_change(self, signed: Signed, url: str) -> Answer:
        """RFC 8555, section 7.3.5."""
        account = signed.account
        assert account is not None
        header, payload, verify = read_jws(signed.payload)
        key = read_key(header.get("jwk"))
        document = json.loads(payload)
        if not verify(key):
            raise Refused("malformed", "the inner signature is not the new key's")
        if header.get("url") != url or "nonce" in header:
            raise Refused("malformed", "the inner url or nonce is wrong")
        if document.get("account") != account.url or account.key != JWK.from_json(
            document.get("oldKey")
        ):
            raise Refused("malformed", "the inner account or key is another")
        for other in self.accounts.values():
            if other.key == key:
                raise Refused("malformed", "this key is in use", 409, location=other.url)
        account.key = key
        return self._account_answer(account, 200)

    def new_order(self, signed: Signed, url: str) -> Answer:
        account = signed.account
        assert account is not None
        document = signed.document
        names = read_names(document.get("identifiers"))
        rejected = [name for name in names if name.removeprefix("*.") in self.rejects]
        if rejected:
            raise Refused(
                "rejectedIdentifier",
                "some names are not issued for",
                403,
                identifiers=[(each, "rejectedIdentifier", "forbidden") for each in rejected],
            )
        if document.get("notBefore") or document.get("notAfter"):
            raise Refused("malformed", "the dates are not for you to choose")
        profile = document.get("profile")
        if profile is not None and profile not in self.profiles:
            raise Refused("invalidProfile", f"there is no profile {profile!r}")
        if profile is None and self.profiles:
            profile = next(iter(self.profiles))
        replaces = document.get("replaces")
        replaced = None if replaces is None else self._replaced(replaces, account, names)
        order = Order(
            self._url("order"),
            account,
            names,
            [self._authorize(account, name) for name in names],
            self._url("finalize"),
            self.now() + 7 * DAY.total_seconds(),
            profile,
            replaces,
        )
        if replaced is not None:
            replaced.replaced_by = order
        self.orders[order.url] = order
        self._look(order)
        return self._order_answer(order, 201)

    def _replaced(self, identifier: object, account: Account, names: list[str]) -> Issued:
        """RFC 9773, section 5."""
        try:
            if not self.has_renewal_info:
                raise Refused("malformed")
            replaced = self.find(str(identifier))
        except Refused:
            raise Refused("malformed", f"replaces {identifier!r}, which was never issued") from None
        if replaced.account is not account:
            raise Refused("unauthorized", "what it replaces is another account's", 403)
        if not set(names) & set(replaced.names):
            raise Refused("malformed", "what it replaces has none of its names")
        if replaced.replaced_by is not None:
            self._look(replaced.replaced_by)
            if replaced.replaced_by.status != "invalid":
                raise Refused("alreadyReplaced", "it was replaced already", 409)
        return replaced

    def _authorize(self, account: Account, name: str) -> Authorization:
        wildcard = name.startswith("*.")
        identifier = name.removeprefix("*.")
        for known in self.authorizations.values():
            if (
                self.reuses
                and known.account is account
                and (known.identifier, known.wildcard) == (identifier, wildcard)
                and known.status == "valid"
                and known.expires > self.now()
            ):
                return known
        authorization = Authorization(
            self._url("authorization"), account, identifier, wildcard, self.now() + 86400.0
        )
        self.authorizations[authorization.url] = authorization
        is_ip = json_identifier(identifier)["type"] == "ip"
        for type in self.offers:
            # RFC 8555, section 7.1.3; RFC 8738, section 7.
            if (wildcard and type != "dns-01") or (is_ip and type == "dns-01"):
                continue
            challenge = Challenge(
                self._url("challenge"), type, secrets.token_urlsafe(16), authorization
            )
            self.challenges[challenge.url] = challenge
            authorization.challenges.append(challenge)
        return authorization

    def _look(self, order: Order) -> None:
        """Bring an order's status up to date (RFC 8555, section 7.1.6)."""
        if order.status not in ("pending", "ready"):
            return
        for authorization in order.authorizations:
            if authorization.status == "pending" and authorization.expires <= self.now():
                authorization.status = "expired"
        states = {each.status for each in order.authorizations}
        if order.expires <= self.now() or not states <= {"pending", "valid"}:
            order.status = "invalid"
            order.error = next(
                (
                    challenge.error
                    for authorization in order.authorizations
                    for challenge in authorization.challenges
                    if challenge.error is not None
                ),
                None,
            )
        else:
            order.status = "ready" if states == {"valid"} else "pending"

    def _order_answer(self, order: Order, code: int) -> Answer:
        document: dict[str, Any] = {
            "status": order.status,
            "expires": to_time(order.expires),
            "identifiers": [json_identifier(each) for each in order.names],
            "authorizations": [each.url for each in order.authorizations],
            "finalize": order.finalize,
        }
        if order.profile is not None:
            document["profile"] = order.profile
        if order.replaces is not None:
            document["replaces"] = order.replaces
        if order.error is not None:
            document["error"] = order.error.document()
        if order.issued is not None:
            document["certificate"] = order.issued.url
        headers = [("Location", order.url)]
        if order.status in ("pending", "processing"):
            headers += self._waiting()
        return Answer(code, to_json(document), headers=tuple(headers))

    def _waiting(self) -> list[tuple[str, str]]:
        return [] if self.retry_after is None else [("Retry-After", str(self.retry_after))]

    def order(self, signed: Signed, url: str) -> Answer:
        signed.read_only()
        order = own(self.orders.get(url), signed)
        self._look(order)
        if order.status == "processing":
            if order.polls > 0:
                order.polls -= 1
            else:
                self._issue(order)
        return self._order_answer(order, 200)

    def finalize(self, signed: Signed, url: str) -> Answer:
        found = next((each for each in self.orders.values() if each.finalize == url), None)
        order = own(found, signed)
        self._look(order)
        if order.status != "ready":
            raise Refused("orderNotReady", f"the order is {order.status}", 403)
        try:
            csr = x509.load_der_x509_csr(decode_b64jose(signed.document["csr"]))
        except Exception:
            raise Refused("badCSR", "it cannot be read") from None
        check_request(csr, order.names)
        if csr.public_key() == signed.key.key._wrapped:
            raise Refused("badCSR", "its key is the account's")
        order.csr = csr
        order.status = "processing"
        order.polls = self.polls
        if self.polls == 0:
            self._issue(order)
        return self._order_answer(order, 200)

    def _issue(self, order: Order) -> None:
        assert order.csr is not None
        if self.refuses_issuance is not None:
            order.status, order.error = "invalid", self.refuses_issuance
            return
        lifetime = 90 * DAY if order.profile is None else self.profiles[order.profile].lifetime
        leaf = self.issuer.issue(order.csr.public_key(), order.names, lifetime)
        begin, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        window = (begin + (end - begin) * 0.65, begin + (end - begin) * 0.7)
        chains = self.issuer.chains(leaf)
        order.issued = Issued(
            self._url("certificate"), order.account, leaf, chains, order.names, window
        )
        order.status = "valid"
        self.issued.append(order.issued)

    def authorization(self, signed: Signed, url: str) -> Answer:
        authorization = own(self.authorizations.get(url), signed)
        if signed.payload:
            if signed.document != {"status": "deactivated"}:
                raise Refused("malformed", "an authorization can be deactivated only")
            authorization.status = "deactivated"
        if authorization.expires <= self.now() and authorization.status in ("pending", "valid"):
            authorization.status = "expired"
        document: dict[str, Any] = {
            "identifier": json_identifier(authorization.identifier),
            "status": authorization.status,
            "expires": to_time(authorization.expires),
            "challenges": [to_challenge(each) for each in authorization.challenges],
        }
        if authorization.wildcard:
            document["wildcard"] = True
        waiting = self._waiting() if authorization.status == "pending" else []
        return Answer(200, to_json(document), headers=tuple(waiting))

    def challenge(self, signed: Signed, url: str) -> Answer:
        challenge = self.challenges.get(url)
        authorization = own(None if challenge is None else challenge.authorization, signed)
        assert challenge is not None
        if signed.payload:
            if signed.document:
                raise Refused("malformed", "the answer to a challenge is {}")
            if challenge.status == "pending":
                if authorization.status != "pending" or authorization.expires <= self.now():
                    raise Refused("malformed", "the authorization is not pending")
                self._begin(challenge)
        headers = (("Link", f'<{authorization.url}>;rel="up"'), *self._waiting())
        return Answer(200, to_json(to_challenge(challenge)), headers=headers)

    def _begin(self, challenge: Challenge) -> None:
        authorization = challenge.authorization
        challenge.status = "processing"
        thumbprint = encode_b64jose(authorization.account.key.thumbprint())

        def good(_: None) -> None:
            challenge.status = authorization.status = "valid"
            authorization.expires = self.now() + 30 * DAY.total_seconds()

        def bad(failure: Failure) -> None:
            error = failure.value
            refused = error if isinstance(error, Refused) else Refused("connection", str(error))
            challenge.error = refused
            challenge.status = authorization.status = "invalid"

        checking: Deferred[None] = Deferred()
        checking.addCallback(
            lambda _: self.validate(
                challenge.type,
                authorization.identifier,
                challenge.token,
                f"{challenge.token}.{thumbprint}",
            )
        )
        checking.addCallbacks(good, bad)
        checking.callback(None)

    def certificate(self, signed: Signed, url: str) -> Answer:
        signed.read_only()
        for issued in self.issued:
            urls = [issued.url, *(f"{issued.url}/{each}" for each in range(1, len(issued.chains)))]
            if url in urls:
                own(issued, signed)
                links = [("Link", f'<{each}>;rel="alternate"') for each in urls if each != url]
                chain = issued.chains[urls.index(url)]
                return Answer(200, chain, "application/pem-certificate-chain", tuple(links))
        raise Refused("malformed", "there is no such certificate", 404)

    def renewal_info(self, identifier: str) -> Answer:
        start, end = self.find(identifier).window
        document: dict[str, Any] = {
            "suggestedWindow": {"start": to_time(start), "end": to_time(end)},
        }
        if self.explanation is not None:
            document["explanationURL"] = self.explanation
        wait = self.renewal_retry_after
        headers = () if wait is None else (("Retry-After", str(wait)),)
        return Answer(200, to_json(document), headers=headers)

    def revoke(self, signed: Signed, url: str) -> Answer:
        try:
            certificate = x509.load_der_x509_certificate(
                decode_b64jose(signed.document["certificate"])
            )
        except Exception:
            raise Refused("malformed", "the certificate cannot be read") from None
        issued = next((each for each in self.issued if each.certificate == certificate), None)
        if issued is None:
            raise Refused("malformed", "this was never issued", 404)
        if (
            signed.account is not issued.account
            and signed.key.key._wrapped != certificate.public_key()
        ):
            raise Refused("unauthorized", "it is not yours to revoke", 403)
        if issued.revoked is not None:
            raise Refused("alreadyRevoked", "it was revoked already")
        reason = signed.document.get("reason", 0)
        if reason not in (0, 1, 3, 4, 5):
            raise Refused("badRevocationReason", f"{reason} is no reason")
        issued.revoked = reason
        return Answer(200)

    def _url(self, kind: str) -> str:
        return f"{self.base}/{kind}/{secrets.token_hex(8)}"
