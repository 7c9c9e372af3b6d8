"""Tests for L{twisted_bioconn.certificates.acme.accounts}, by what L{AcmeSource} does with them."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed

from tests.certificates.acme.fronts import HOUR, MINUTE, RENEWED, FrontCase
from twisted_bioconn.certificates.acme.authorities import Authority
from twisted_bioconn.certificates.acme.client import ExternalAccount
from twisted_bioconn.certificates.store import ValueUnreadable


class AccountTests(FrontCase):
    """The account with the authority."""

    def test_kept(self) -> None:
        for name in ("a.example.org", "b.example.org"):
            source = self.started(name)
            self.pass_time(MINUTE)
            self.assertServed(source, name)
        self.assertEqual(len(self.authority.accounts), 1)
        self.assertEqual(self.authority.counts["newAccount"], 1)

    def test_forgotten(self) -> None:
        """The authority was made anew, as those for tests are: there is an account again."""
        source = self.started()
        self.pass_time(MINUTE)
        self.authority.accounts.clear()
        self.pass_days(RENEWED)
        self.assertEqual(len(self.authority.issued), 2)
        self.assertIsNone(self.facts(source).last_error)

    def test_damaged(self) -> None:
        """One that cannot be read is not overwritten; it is gone on with when it was mended."""
        for damage in (b"", b"null", b'{"directory": "", "key": "x"}', b"\xff" * 10):
            self.setUp()
            source = self.started()
            self.pass_time(MINUTE)
            (name,) = [each for each in self.shared.values if "/accounts/" in each]
            whole, self.shared.values[name] = self.shared.values[name], damage
            self.pass_days(RENEWED)
            self.assertEqual(self.shared.values[name], damage)
            self.assertEqual(len(self.authority.issued), 1)
            self.assertServed(source)
            self.assertIn(
                f"the account {name} in the store cannot be read",
                self.facts(source).last_error or "",
            )
            self.shared.values[name] = whole
            self.pass_time(HOUR)
            self.assertEqual(len(self.authority.issued), 2)
            self.assertEqual(self.authority.counts["newAccount"], 1)
            self.assertIsNone(self.facts(source).last_error)
            self.stop_all()

    def test_damaged_and_deleted(self) -> None:
        """Whoever has deleted it gets another."""
        source = self.started()
        self.pass_time(MINUTE)
        (name,) = [each for each in self.shared.values if "/accounts/" in each]
        self.shared.values[name] = b"{"
        self.pass_days(RENEWED)
        self.assertEqual(len(self.authority.issued), 1)
        del self.shared.values[name]
        self.pass_time(HOUR)
        self.assertEqual(len(self.authority.issued), 2)
        self.assertEqual(len(self.authority.accounts), 2)
        self.assertIsNone(self.facts(source).last_error)

    def test_sealed(self) -> None:
        """One that the store cannot give back is not overwritten."""
        front = self.front()
        name = "acme/accounts/" + Authority(self.authority.directory_url).identity
        self.shared.values[name] = b"sealed"
        get = front.store.get

        def refuse(asked: str) -> Deferred[bytes | None]:
            return fail(ValueUnreadable("it is sealed")) if asked == name else get(asked)

        self.patch(front.store, "get", refuse)
        source = self.started(front=front)
        self.pass_time(HOUR)
        self.assertEqual(self.shared.values[name], b"sealed")
        self.assertEqual(self.authority.accounts, {})
        self.assertEqual(self.facts(source).last_error, "it is sealed")

    def test_there_and_not_there(self) -> None:
        """A store that says both is not asked for ever."""
        front = self.front()

        def refuse(asked: str, value: bytes) -> Deferred[bool]:
            return succeed(False)

        self.patch(front.store, "create", refuse)
        source = self.started(front=front)
        self.pass_time(1)
        self.assertIn("neither in the store", self.facts(source).last_error or "")

    def test_external(self) -> None:
        self.authority.external = {"kid-1": b"k" * 32}
        eab = ExternalAccount("kid-1", b"k" * 32)
        url = self.authority.directory_url
        source = self.started(authorities=[Authority(url, eab=eab)])
        self.pass_time(MINUTE)
        self.assertServed(source)

    def test_external_is_missing(self) -> None:
        self.authority.external = {"kid-1": b"k" * 32}
        source = self.started()
        self.pass_time(MINUTE)
        self.assertIn("externalAccountRequired", self.facts(source).last_error or "")
