"""
Nothing that is secret is compared with what somebody has sent: the time that it takes would tell
how much of it was right.  Where that is to be done, C{hmac.compare_digest} does it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

PACKAGE = Path(__file__).parents[2] / "twisted_bioconn"

SECRET = re.compile(
    r"secret|password|passphrase|token|hmac|\bmac\b|cookie|bearer|authorization\b|_tag\b|owner"
)

#: Comparisons that have such a name in them, and what is compared in truth.
OPEN = {
    # The first line of a file of ours, with what it was before.
    ("certificates/directory.py", "passphrase != self._passphrase"),
    # The random word of a lease's owner: its own, and what is in a directory that is nobody else's.
    ("certificates/directory_store.py", "owner"),
    # What begins the number of an event that everybody is told.
    ("server/handshakes.py", "token == self._token"),
    # How long a token is, and whose it is: everybody may ask for an answer by it (RFC 8555, 8.3).
    ("certificates/acme/orders.py", "len(challenge.token) > _LONGEST_TOKEN"),
    ("certificates/acme/challenges.py", "answer.token not in by_token"),
    # When that file was changed.
    ("certificates/directory.py", "signature == self._passphrase_signature"),
    # What begins a line of IMAP.
    ("starttls/imap.py", "_STARTTLS_TAG"),
    # A length.
    ("certificates/sealing.py", "len(ciphertext) >= _TAG_LENGTH"),
}


class ComparisonTests(SynchronousTestCase):
    """C{==}, C{!=}, C{in} and C{startswith}, by the names in them."""

    def comparisons(self, path: Path) -> Iterator[str]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Compare):
                # What is, or is not, None is no secret.
                if all(isinstance(each, ast.Is | ast.IsNot) for each in node.ops):
                    continue
                if any(isinstance(each, ast.Constant) for each in [node.left, *node.comparators]):
                    continue
                yield ast.unparse(node)

    def test_all(self) -> None:
        found, used = set(), set()
        for path in sorted(PACKAGE.rglob("*.py")):
            name = path.relative_to(PACKAGE).as_posix()
            for text in self.comparisons(path):
                known = {(where, part) for where, part in OPEN if name == where and part in text}
                used |= known
                if SECRET.search(text.lower()) and not known:
                    found.add((name, text))
        self.assertEqual(found, set())
        self.assertEqual(OPEN - used, set())
