"""What the tests of the examples have in common."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

from twisted.trial.unittest import SynchronousTestCase

from tests.shell import CHECKOUT, Shell

EXAMPLES = CHECKOUT / "examples"
STATE = "~/.local/state/bioconn"

MAKE_LEAF = (
    "from twisted_bioconn.certificates.development import DevelopmentAuthority, state_directory;"
    "DevelopmentAuthority(state_directory()).leaf()"
)
"""A program that makes the certificate of the development authority."""


def load(name: str) -> ModuleType:
    """An example, as a module; it runs nothing by itself."""
    module = f"example_{name}"
    spec = spec_from_file_location(module, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    # Where dataclasses and their like look for it.
    made = sys.modules[module] = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


class ExampleCase(SynchronousTestCase):
    """What runs the examples."""

    def setUp(self) -> None:
        self.shell = Shell(self)

    def refused(self, command: str, *sentences: str) -> None:
        """Fail unless the command ends with one line that has these in it, and status 1."""
        said = self.shell.run(command, status=1)
        self.assertEqual(said.count("\n"), 1, said)
        for sentence in sentences:
            self.assertIn(sentence, said)
