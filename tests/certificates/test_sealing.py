"""Values that only those can read who have a passphrase."""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates.test_store_contract import NAMES
from twisted_bioconn.certificates import sealing
from twisted_bioconn.certificates.sealing import OVERHEAD, Seal, SealBroken
from twisted_bioconn.errors import ConfigurationError


@cache
def _seal() -> Seal:
    return Seal(b"a passphrase", "bioconn:")


class SealTests(SynchronousTestCase):
    """One seal, which costs a while to make."""

    @property
    def seal(self) -> Seal:
        """As users make it."""
        return _seal()

    def cheap(self, passphrase: bytes, store: str = "bioconn:") -> Seal:
        """One that costs little."""
        self.patch(sealing, "_COST", 2)
        return Seal(passphrase, store)

    @given(st.sampled_from(NAMES), st.binary(max_size=2000))
    @settings(deadline=None)
    def test_it_opens(self, name: str, value: bytes) -> None:
        """What was sealed is what comes out, and does not show."""
        sealed = self.seal.seal(name, value)
        self.assertEqual(self.seal.open(name, sealed), value)
        self.assertEqual(len(sealed), len(value) + OVERHEAD)
        if len(value) > 4:
            self.assertNotIn(value, sealed)

    def test_the_same_value_twice(self) -> None:
        """Nobody sees that it is the same."""
        self.assertNotEqual(self.seal.seal("a", b"value"), self.seal.seal("a", b"value"))

    def test_another_process(self) -> None:
        """It needs the passphrase and the store's name, and nothing else."""
        self.assertEqual(
            Seal(b"a passphrase", "bioconn:").open("a", self.seal.seal("a", b"1")), b"1"
        )

    def test_what_was_sealed_stays_readable(self) -> None:
        """By later versions, too: this was sealed by the first."""
        sealed = bytes.fromhex(
            "01c52de74959732bcb6dadd131bc6fdf9a1302f3aa1f193c54caac06fba291306be95987"
        )
        self.assertEqual(self.seal.open("certificates/example.org", sealed), b"a value")

    def test_what_is_not_opened(self) -> None:
        """Another name, store or passphrase."""
        one = self.cheap(b"one")
        sealed = one.seal("a", b"secret value")
        for other, name in (
            (one, "b"),
            (one, "A"),
            (self.cheap(b"two"), "a"),
            (self.cheap(b"one "), "a"),
            (self.cheap(b"one", "other:"), "a"),
        ):
            error = self.assertRaises(SealBroken, other.open, name, sealed)
            self.assertEqual(
                str(error),
                f"the value of {name} cannot be opened: the passphrase is not the one that it was"
                " sealed with, or it is damaged",
            )
            self.assertIsInstance(error, ConfigurationError)
            self.assertIsNone(error.__cause__)

    @given(st.data())
    @settings(deadline=None)
    def test_no_bit_can_be_changed(self, data: st.DataObject) -> None:
        """Nor can anything be cut off or added."""
        sealed = self.seal.seal("a", b"secret value")
        at = data.draw(st.integers(0, len(sealed) * 8 - 1))
        flipped = bytearray(sealed)
        flipped[at // 8] ^= 1 << at % 8
        cut = data.draw(st.integers(0, len(sealed) - 1))
        for changed in (bytes(flipped), sealed[:cut], sealed[cut + 1 :], sealed + b"\0"):
            self.assertRaises(SealBroken, self.seal.open, "a", changed)

    @given(st.binary(max_size=100))
    @settings(deadline=None)
    def test_any_bytes(self, data: bytes) -> None:
        """They are refused in a sentence that does not repeat them."""
        for each in (data, b"\x01" + data):
            error = self.assertRaises(SealBroken, self.seal.open, "a", each)
            self.assertRegex(str(error), r"\Athe value of a cannot be opened: [a-z ,]+\Z")

    def test_a_format_of_the_future(self) -> None:
        """It is said that this may be newer."""
        error = self.assertRaises(SealBroken, self.seal.open, "a", b"\x02" + b"x" * 60)
        self.assertIn("a way that this version does not know", str(error))

    def test_passphrases(self) -> None:
        """One byte will do, and none will not."""
        seal = self.cheap(b"\0")
        self.assertEqual(seal.open("a", seal.seal("a", b"")), b"")
        error = self.assertRaises(ConfigurationError, Seal, b"", "bioconn:")
        self.assertEqual(str(error), "the passphrase for the store bioconn: is empty")
        self.assertNotIn("passphrase", repr(Seal(b"passphrase", "bioconn:")))
