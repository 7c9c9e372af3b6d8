"""The tables themselves, what is known of them, and how they are printed."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path

from tlslite.constants import AlertDescription
from twisted.trial.unittest import FailTest, SynchronousTestCase

from tests.conformance.__main__ import main
from tests.conformance.cases import TABLES, Case, Conformance, says, verdict
from tests.conformance.client import Client
from tests.conformance.hellos import MODERN, OLDER
from tests.conformance.known import BARE, DEVIATIONS, NGINX, OURS, of_openssl
from tests.conformance.servers import PORTS, bioconn

_ENDS = frozenset({"end", "reset"})
_SECTION = re.compile(r"(RFC \d{4}|draft-[a-z-]+) ([0-9]+|[A-E])(\.[0-9]+)*")

for _path in sorted(Path(__file__).parent.glob("test_*.py")):
    if _path.stem != "test_tables":
        import_module(f"tests.conformance.{_path.stem}")

CASES = [case for table in TABLES for case in table]


class TableTests(SynchronousTestCase):
    """What is in them."""

    def test_names(self) -> None:
        """Each case has a name of its own."""
        names = [case.name for case in CASES]
        self.assertEqual(len(names), len(set(names)))
        self.assertGreaterEqual(len(names), 600)

    def test_sections(self) -> None:
        """Each says where it is written."""
        for case in CASES:
            self.assertIsNotNone(_SECTION.fullmatch(case.section), case)

    def test_words(self) -> None:
        """What must be seen is an alert that there is, or begins with no alert's name."""
        for case in CASES:
            for word in case.allowed:
                if re.fullmatch(r"[a-z]+(_[a-z]+)*", word) and word not in _ENDS:
                    known = hasattr(AlertDescription, word) or word in (
                        *("serves", "none", "nothing", "different"),
                        *("no_application_protocol", "certificate_required", "missing_extension"),
                    )
                    self.assertTrue(known, f"{case.name}: {word}")

    def test_ports(self) -> None:
        """Each is put to ours."""
        for case in CASES:
            self.assertTrue(case.ports)
            self.assertLessEqual(set(case.ports), set(PORTS[OURS]), case.name)

    def test_known(self) -> None:
        """What falls short is a case, and ours is not alone in it."""
        by_name = {case.name: case for case in CASES}
        for name, known in DEVIATIONS.items():
            self.assertLessEqual(set(known.seen), {OURS, BARE, NGINX})
            self.assertEqual(known.seen.get(OURS), known.seen.get(BARE), name)
            for outcomes in known.seen.values():
                self.assertTrue(set(outcomes.split("|")) - set(by_name[name].allowed), name)


class VerdictTests(SynchronousTestCase):
    """How a case is judged."""

    wrong = Case("a good hello is refused", "internal_error", "RFC 8446 4.1.2", says(MODERN))

    def test_verdicts(self) -> None:
        """Right, or wrong; and what is known, is known of its own case alone."""
        server = bioconn()
        right = Case("a good hello", "serves|internal_error", "RFC 8446 4.1.2", says(MODERN))
        self.assertEqual(verdict(right, server, "web"), ("serves", "right"))
        self.assertEqual(verdict(self.wrong, server, "web"), ("serves", "wrong"))
        refused = Case("a hello of old", "serves", "RFC 8446 4.2.1", says(OLDER))
        self.assertEqual(verdict(refused, server, "modern"), ("protocol_version", "wrong"))
        known = Case("sessions are none", "decode_error", "RFC 8446 4.2.11", says(MODERN))
        self.assertEqual(verdict(known, server, "web"), ("serves", "wrong"))

    def test_failure(self) -> None:
        """A case that is wrong fails its test, which says what was seen and what must be."""
        error = self.assertRaises(FailTest, Conformance().check, self.wrong, OURS, "web")
        self.assertIn("serves, but RFC 8446 4.1.2 says internal_error", str(error))

    def test_known_alone(self) -> None:
        """Where OpenSSL does not fall short as ours does, it is not OpenSSL's."""

        def how(client: Client) -> str:
            return "odd" if client.ports is bioconn().ports else "right"

        case = Case("only ours", "right", "RFC 8446 4", how)
        DEVIATIONS["only ours"] = of_openssl("odd", "it is a test")
        self.addCleanup(DEVIATIONS.pop, "only ours")
        error = self.assertRaises(FailTest, Conformance().check, case, OURS, "web")
        self.assertIn("odd", str(error))


class PrintTests(SynchronousTestCase):
    """The command."""

    def test_print(self) -> None:
        """A row for each case, and the sums; what ours is alone in ends it with status 1."""
        printed = StringIO()
        with redirect_stdout(printed):
            status = main(["sessions are none", "name is acknowledged in"])
        self.assertEqual(status, 0)
        text = printed.getvalue()
        self.assertIn("\nsessions are none  ", text)
        self.assertIn("*serves anew", text)
        self.assertIn(" serves, and says so", text)
        self.assertIn("\n2 cases\nbioconn: 1 right, 1 known, 0 wrong\n", text)

    def test_wrong(self) -> None:
        """What is wrong has a mark, and the command fails."""
        TABLES.append([VerdictTests.wrong])
        self.addCleanup(TABLES.pop)
        printed = StringIO()
        with redirect_stdout(printed):
            status = main([VerdictTests.wrong.name])
        self.assertEqual(status, 1)
        self.assertIn("!serves", printed.getvalue())
