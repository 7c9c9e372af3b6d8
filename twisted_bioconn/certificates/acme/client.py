"""
An ACME client (RFC 8555): what an authority can be asked, and no more.

It keeps nothing but nonces and the directory.  When to ask, what to keep and what to do about a
refusal is its caller's affair.  All its methods that ask return a Deferred, which may be cancelled
and fails with

  - L{AcmeError}: the authority has refused;
  - L{AcmeUnavailable}: there is no authority to be had just now;
  - L{ConfigurationError}: what was to be asked makes no sense.

Every request has a deadline, and every answer an end.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import wraps
from hashlib import sha256
from typing import Any, ParamSpec, TypeVar

from acme import jws, messages
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from josepy.errors import DeserializationError
from josepy.json_util import decode_b64jose, encode_b64jose
from josepy.jwa import ES256, ES384, ES512, RS256, JWASignature
from josepy.jwk import JWK, JWKEC, JWKRSA
from twisted.internet.defer import Deferred
from twisted.web.iweb import IAgent

from ... import __version__
from ...errors import ConfigurationError, UsageError
from .errors import PREFIX, AcmeError, AcmeUnavailable, Problem, in_one_line
from .exchange import PEM_CHAIN, Answer, Exchange
from .messages import (
    Authorization,
    Challenge,
    Directory,
    ExternalAccount,
    NewOrder,
    Order,
    Reader,
    RenewalInfo,
    Revocation,
    identifier,
    is_url,
)

__all__ = [
    "AcmeClient",
    "AcmeError",
    "AcmeUnavailable",
    "Authorization",
    "Challenge",
    "Directory",
    "ExternalAccount",
    "Order",
    "Problem",
    "RenewalInfo",
    "certificate_id",
]

USER_AGENT = f"twisted_bioconn/{__version__}"
"""RFC 8555, section 6.1, wants to know who asks."""

# The refusals that a request goes through for a bad nonce (RFC 8555, section 6.5).  pebble has been
# seen to be asked to refuse every second.
_MOST_TRIES = 20
_MOST_NONCES = 16
_MOST_REDIRECTIONS = 3
_DIRECTORY_LIFE = 3600.0

_ALGORITHMS: dict[str, JWASignature] = {
    "secp256r1": ES256,
    "secp384r1": ES384,
    "secp521r1": ES512,
}

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _deferred(
    function: Callable[_P, Coroutine[Deferred[Any], Any, _T]],
) -> Callable[_P, Deferred[_T]]:
    """Have a coroutine function return a Deferred: one runs without being awaited."""

    @wraps(function)
    def start(*args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
        return Deferred.fromCoroutine(function(*args, **kwargs))

    return start


def certificate_id(certificate: x509.Certificate) -> str:
    """
    How RFC 9773, section 4.1, names a certificate: its issuer's key and its serial number.

    @raise ConfigurationError: it does not say which key it was signed with.
    """
    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        issuer = extension.value.key_identifier
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        issuer = None
    if not issuer:
        raise ConfigurationError(
            f"the certificate with serial number {certificate.serial_number:x} has no authority key"
            " identifier"
        )
    number = certificate.serial_number
    # A DER INTEGER is signed: one whose first bit is set has a zero before it.
    serial = number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)
    return f"{encode_b64jose(issuer)}.{encode_b64jose(serial)}"


class AcmeClient:
    """
    Asks one authority, by one account.

    @ivar directory_url: where the authority's directory is.
    @ivar account_url: the account, once it is known: by L{register}, or from when it was made.
    """

    def __init__(
        self,
        reactor: Any,
        directory_url: str,
        account_key: object,
        *,
        trust_roots: Iterable[x509.Certificate] | None = None,
        user_agent: str = USER_AGENT,
        timeout: float = 30.0,
        account_url: str | None = None,
        agent: IAgent | None = None,
    ) -> None:
        """
        @param account_key: an RSA key, or an EC one of P-256, P-384 or P-521: cryptography's or a
            L{JWK}.
        @param trust_roots: who vouches for the authority's server; whom the system trusts if
            L{None}.
        @param timeout: seconds for each request and its answer.
        @param agent: what to ask by, instead of an agent of our own; C{trust_roots} is not used.
        @raise ConfigurationError: one of these is not what it has to be.
        """
        if not is_url(directory_url):
            raise ConfigurationError(
                f"{in_one_line(directory_url)!r} is no https: address of an ACME directory"
            )
        self._reactor = reactor
        self.directory_url = directory_url
        self.account_url = account_url
        self._key, self._algorithm = _jwk(account_key)
        self._exchange = Exchange(
            reactor,
            trust_roots=trust_roots,
            user_agent=user_agent,
            timeout=timeout,
            agent=agent,
        )
        self._directory: Directory | None = None
        self._directory_until = 0.0
        self._nonces: deque[str] = deque(maxlen=_MOST_NONCES)

    @_deferred
    async def directory(self) -> Directory:
        """What the authority offers, and where.  It is asked for again after an hour."""
        if self._directory is None or self._reactor.seconds() >= self._directory_until:
            answer = await self._get(self.directory_url)
            self._directory = answer.read("directory", Reader.as_directory)
            self._directory_until = self._reactor.seconds() + _DIRECTORY_LIFE
        return self._directory

    @_deferred
    async def register(
        self,
        contact: Sequence[str] = (),
        *,
        eab: ExternalAccount | None = None,
        only_existing: bool = False,
    ) -> str:
        """
        Make an account for the key, or find the one that it has (RFC 8555, section 7.3), and use it
        from now on.  The authority's terms of service are agreed to.

        @param contact: URLs, as C{mailto:ops@example.org}; without C{mailto:} will do.
        @param eab: the account that it is to belong to.
        @param only_existing: fail with C{accountDoesNotExist} where there is none.
        @return: the account's URL.
        """
        url = (await self.directory()).new_account
        fields: dict[str, Any] = {}
        if only_existing:
            fields["only_return_existing"] = True
        else:
            fields["terms_of_service_agreed"] = True
            if contact:
                fields["contact"] = tuple(
                    each if ":" in each else messages.Registration.email_prefix + each
                    for each in contact
                )
            if eab is not None:
                fields["external_account_binding"] = messages.ExternalAccountBinding.from_data(
                    self._key.public_key(),
                    eab.kid,
                    encode_b64jose(eab.hmac_key),
                    messages.Directory({"newAccount": url}),
                )
        answer = await self._post(url, messages.NewRegistration(**fields), by_key=True)
        self.account_url = answer.location()
        return self.account_url

    @_deferred
    async def new_order(
        self,
        identifiers: Sequence[str],
        *,
        profile: str | None = None,
        replaces: str | None = None,
    ) -> Order:
        """
        Order a certificate (RFC 8555, section 7.4).

        @param identifiers: DNS names in ASCII, also C{*.example.org}, and IP addresses (RFC 8738).
        @param profile: one of the directory's.
        @param replaces: the L{certificate_id} of the certificate that this one is to replace
            (RFC 9773, section 5); it is left out where the authority has no renewal information.
        @raise ConfigurationError: the authority does not have this profile, or a name is none.
        """
        directory = await self.directory()
        if profile is not None and profile not in directory.profiles:
            offered = ", ".join(sorted(directory.profiles)) or "none"
            raise ConfigurationError(
                f"the authority {self.directory_url} has no profile {profile!r}; it has:"
                f" {in_one_line(offered)}"
            )
        if directory.renewal_info is None:
            replaces = None
        if not identifiers:
            raise ConfigurationError("an order needs at least one name")
        order = NewOrder(
            identifiers=list(map(identifier, identifiers)), profile=profile, replaces=replaces
        )
        answer = await self._post(directory.new_order, order)
        return self._order(answer, answer.location())

    @_deferred
    async def get_order(self, url: str) -> Order:
        """Look how an order is getting on."""
        return self._order(await self._read(url), url)

    @_deferred
    async def get_authorization(self, url: str) -> Authorization:
        """Look how an authorization is getting on."""
        return self._authorization(await self._read(url), url)

    @_deferred
    async def answer(self, challenge: Challenge) -> Challenge:
        """Say that a challenge may be validated (RFC 8555, section 7.5.1)."""
        answer = await self._post(challenge.url, {})
        return answer.read("challenge", Reader.as_challenge)

    @_deferred
    async def deactivate_authorization(self, url: str) -> Authorization:
        """Give an authorization up (RFC 8555, section 7.5.2)."""
        return self._authorization(await self._post(url, {"status": "deactivated"}), url)

    def key_authorization(self, challenge: Challenge) -> str:
        """
        What shows that a challenge is answered by this account (RFC 8555, section 8.1); C{http-01}
        wants it as it is.

        @raise UsageError: the challenge has no token.
        """
        if not challenge.token:
            raise UsageError(f"a {in_one_line(challenge.type)} challenge has no token here")
        return f"{challenge.token}.{encode_b64jose(self._key.thumbprint())}"

    def tls_alpn_digest(self, challenge: Challenge) -> bytes:
        """What C{tls-alpn-01} wants in the certificate: 32 bytes (RFC 8737, section 3)."""
        return sha256(self.key_authorization(challenge).encode("ascii")).digest()

    def dns_validation(self, challenge: Challenge) -> str:
        """The TXT record that C{dns-01} wants (RFC 8555, section 8.4)."""
        return encode_b64jose(self.tls_alpn_digest(challenge))

    @_deferred
    async def finalize(self, order: Order, csr: x509.CertificateSigningRequest) -> Order:
        """Have the certificate of an order that is C{ready} issued (RFC 8555, section 7.4)."""
        answer = await self._post(order.finalize, messages.CertificateRequest(csr=csr))
        return self._order(answer, order.url)

    @_deferred
    async def certificates(self, order: Order) -> tuple[bytes, ...]:
        """
        Fetch the certificate of an order that is C{valid} (RFC 8555, section 7.4.2).

        @return: its chains in PEM: the authority's default, then the alternates.  Each can be read,
            and there is nothing but certificates in it.
        @raise UsageError: the order has none yet.
        """
        if order.certificate is None:
            raise UsageError(f"the order {order.url} has no certificate yet")
        answer = await self._read(order.certificate, PEM_CHAIN)
        chains = [answer.chain()]
        for url in answer.alternates():
            chains.append((await self._read(url, PEM_CHAIN)).chain())
        return tuple(chains)

    def certificate_id(self, certificate: x509.Certificate) -> str:
        """See L{certificate_id}."""
        return certificate_id(certificate)

    @_deferred
    async def renewal_info(self, certificate: x509.Certificate) -> RenewalInfo | None:
        """
        When the authority would have a certificate renewed (RFC 9773).

        @return: L{None} where it does not say.
        """
        base = (await self.directory()).renewal_info
        if base is None:
            return None
        answer = await self._get(f"{base.rstrip('/')}/{certificate_id(certificate)}")
        return answer.read(
            "renewal information", lambda reader: reader.as_renewal_info(answer.retry_after())
        )

    @_deferred
    async def revoke(self, certificate: x509.Certificate, reason: int | None = None) -> None:
        """
        Revoke a certificate that this account has ordered (RFC 8555, section 7.6).

        @param reason: a code of RFC 5280, section 5.3.1.
        @raise ConfigurationError: the authority does not offer that.
        """
        url = _offered((await self.directory()).revoke_cert, "revocation")
        await self._post(url, Revocation(certificate=certificate, reason=reason))

    @_deferred
    async def change_key(self, new_key: object) -> None:
        """
        Give the account another key (RFC 8555, section 7.3.5), and use it from now on.  Keep the
        new one first: where the answer is lost, L{register} with C{only_existing} tells which of
        the two it is.

        @raise ConfigurationError: it is of a kind that cannot be, or the authority does not offer
            that.
        """
        key, algorithm = _jwk(new_key)
        url = _offered((await self.directory()).key_change, "change of keys")
        change = {
            "account": self._account(),
            "oldKey": self._key.public_key().to_partial_json(),
        }
        inner = jws.JWS.sign(json.dumps(change).encode(), key, algorithm, None, url)
        await self._post(url, inner)
        self._key, self._algorithm = key, algorithm

    def close(self) -> Deferred[None]:
        """Give up what is being asked, and let go of the connections."""
        return self._exchange.close()

    def _account(self) -> str:
        if self.account_url is None:
            raise UsageError("there is no account yet: register() finds or makes it")
        return self.account_url

    def _order(self, answer: Answer, url: str) -> Order:
        return answer.read("order", lambda reader: reader.as_order(url, answer.retry_after()))

    def _authorization(self, answer: Answer, url: str) -> Authorization:
        return answer.read(
            "authorization", lambda reader: reader.as_authorization(url, answer.retry_after())
        )

    async def _get(self, url: str) -> Answer:
        """Ask without an account; a redirection is followed to where there is TLS as well."""
        for _ in range(_MOST_REDIRECTIONS):
            answer = await self._ask(b"GET", url)
            if answer.code not in (301, 302, 303, 307, 308):
                return answer.checked()
            url = answer.location()
        raise AcmeUnavailable(f"{in_one_line(self.directory_url)} redirects too often")

    async def _read(self, url: str, accept: str = "application/json") -> Answer:
        """Ask with an account, and change nothing: POST-as-GET (RFC 8555, section 6.3)."""
        return await self._post(url, None, accept=accept)

    async def _post(
        self, url: str, message: object, *, by_key: bool = False, accept: str = "application/json"
    ) -> Answer:
        """
        @param message: what has a JSON form, or L{None} for an empty payload.
        @param by_key: whether to say who we are by the key, not by the account.
        """
        payload = b"" if message is None else json.dumps(message, default=_serializable).encode()
        account = None if by_key else self._account()
        tries = 0
        while True:
            nonce = self._nonces.pop() if self._nonces else await self._new_nonce()
            signed = jws.JWS.sign(
                payload, self._key, self._algorithm, decode_b64jose(nonce), url, account
            )
            answer = await self._ask(b"POST", url, signed.json_dumps().encode(), accept)
            try:
                return answer.checked()
            except AcmeError as error:
                tries += 1
                if error.type != PREFIX + "badNonce" or tries == _MOST_TRIES:
                    raise
                # Those of before are as old or older.  The refusal has brought a new one.
                while len(self._nonces) > 1:
                    self._nonces.popleft()

    async def _new_nonce(self) -> str:
        url = (await self.directory()).new_nonce
        answer = (await self._ask(b"HEAD", url)).checked()
        if not self._nonces:
            raise answer.unusable("has no nonce")
        return self._nonces.pop()

    async def _ask(
        self, method: bytes, url: str, body: bytes | None = None, accept: str = "application/json"
    ) -> Answer:
        """Make one request, and take the nonce from its answer."""
        answer = await self._exchange.ask(method, url, body, accept)
        nonce = answer.header("replay-nonce")
        if nonce is not None and _is_nonce(nonce):
            self._nonces.append(nonce)
        return answer


def _jwk(key: object) -> tuple[JWK, JWASignature]:
    """
    A key, and what it signs with.

    @raise ConfigurationError: it is of a kind that authorities need not take (RFC 8555, section
        6.2), or has no private half.
    """
    if isinstance(key, JWKRSA | JWKEC):
        key = getattr(key.key, "_wrapped", key.key)
    if isinstance(key, rsa.RSAPrivateKey):
        return JWKRSA(key=key), RS256
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _ALGORITHMS:
        return JWKEC(key=key), _ALGORITHMS[key.curve.name]
    raise ConfigurationError(
        f"the account key is of the kind {type(key).__name__}, where a private key of RSA, or of"
        " P-256, P-384 or P-521, is needed"
    )


def _is_nonce(value: str) -> bool:
    """Whether it is base64url of something (RFC 8555, section 6.5.1: others are not to be used)."""
    try:
        return 0 < len(value) <= 512 and encode_b64jose(decode_b64jose(value)) == value
    except (DeserializationError, ValueError):
        return False


def _offered(url: str | None, what: str) -> str:
    if url is None:
        raise ConfigurationError(f"the authority offers no {what}")
    return url


def _serializable(message: Any) -> Any:
    return message.to_partial_json()
