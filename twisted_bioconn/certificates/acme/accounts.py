"""
Our accounts with authorities: kept in the store, and made once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import evolve
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ..store import Store, StoreUnavailable, ValueUnreadable
from .authorities import Authority
from .client import AcmeClient
from .orders import key_from, key_text
from .records import ACCOUNTS, AccountRecord, dump, parse

__all__ = ["Accounts"]

_ATTEMPTS = 3

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Accounts:
    """
    Makes clients that speak for our account.
    """

    def __init__(
        self,
        store: Store,
        contact: Sequence[str],
        client: Callable[..., AcmeClient] = AcmeClient,
    ) -> None:
        """
        @param contact: whom an authority may write to, as in L{AcmeClient.register}.
        @param client: what makes a client, as L{AcmeClient} is made.
        """
        self._store = store
        self._contact = contact
        self._client = client

    async def client(self, reactor: Any, authority: Authority) -> AcmeClient:
        """
        A client with the key of our account; L{known} sees to it that the authority knows it.

        The key is in the store before any authority hears of it.  Of several fronts that make one
        at once, one succeeds, and the others take that.

        @raise ValueUnreadable: there is an account that cannot be read.  It is not overwritten:
            whoever has lost the key has lost the account (RFC 8555, section 7.3.5).
        @raise StoreUnavailable: the store cannot be asked.
        """
        name = ACCOUNTS + authority.identity
        for _ in range(_ATTEMPTS):
            found = await self._read(name)
            if found is not None:
                record, key = found
                break
            key = ec.generate_private_key(ec.SECP256R1())
            record = AccountRecord(authority.directory_url, key_text(key))
            if await self._store.create(name, dump(record)):
                break
        else:
            raise StoreUnavailable(f"{name} is neither in the store nor can it be put there")
        return self._client(
            reactor,
            authority.directory_url,
            key,
            trust_roots=authority.trust_roots,
            account_url=record.url,
        )

    async def _read(self, name: str) -> tuple[AccountRecord, _Key] | None:
        """
        The account in the store, and its key.

        @raise ValueUnreadable: there is one, and it cannot be read.
        @raise StoreUnavailable: the store cannot be asked.
        """
        value = await self._store.get(name)
        if value is None:
            return None
        record = parse(AccountRecord, name, value)
        key = None if record is None else key_from(record.key)
        if record is None or key is None:
            raise ValueUnreadable(
                f"the account {name} in the store cannot be read: mend it, or delete it for another"
                " to be made"
            )
        return record, key

    async def known(self, client: AcmeClient, authority: Authority, *, anew: bool = False) -> None:
        """
        Have an account, as it is needed to order.

        @param anew: the authority no longer knows the account that we had.
        @raise AcmeError: the authority has refused.
        @raise AcmeUnavailable: it cannot be asked.
        @raise ValueUnreadable: the account in the store cannot be read any more.
        @raise StoreUnavailable: the store cannot be asked.
        """
        if client.account_url is not None and not anew:
            return
        url = await client.register(self._contact, eab=authority.eab)
        name = ACCOUNTS + authority.identity
        found = await self._read(name)
        if found is not None:
            await self._store.put(name, dump(evolve(found[0], url=url)))
