"""
What pydoctor needs to know of other projects.

Their inventories are on the network, which a build may not have.  So the address of each name is
made here, and a name that cannot be imported is no name: pydoctor says so, and the build fails.
"""

from __future__ import annotations

import builtins
from importlib import import_module
from typing import Any

from pydoctor.model import System as BaseSystem
from pydoctor.sphinx import SphinxInventory

_CONSTANTS = ("None", "True", "False")

_PROJECTS = {
    "OpenSSL": "https://www.pyopenssl.org/en/latest/api/ssl.html#{name}",
    "cattrs": "https://catt.rs/",
    "josepy": "https://josepy.readthedocs.io/en/stable/api/jwk/",
    "prometheus_client": "https://prometheus.github.io/client_python/collector/custom/",
    "service_identity": "https://service-identity.readthedocs.io/en/stable/api.html#{name}",
    "treq": "https://treq.readthedocs.io/en/latest/api.html#{name}",
}
"""Where the pages of these are."""

_PYTHON = "https://docs.python.org/3/library"
_TWISTED = "https://docs.twisted.org/en/stable/api"


def _take(name: str) -> tuple[str, list[str]] | None:
    """The module in which a name is, and what follows; L{None} where there is no such name."""
    words = name.split(".")
    for count in range(len(words), 0, -1):
        try:
            found: Any = import_module(".".join(words[:count]))
        except ImportError:
            continue
        rest = words[count:]
        for word in rest:
            try:
                # An interface of zope's has its methods as items.
                found = getattr(found, word, None) or found[word]
            except (KeyError, TypeError):
                return None
        return ".".join(words[:count]), rest
    return None


def address_of(name: str) -> str | None:
    """
    Where the documentation of a name of another project is.

    @param name: the full name, with dots.
    @return: a URL; L{None} where there is no such name, or no such project is known.
    """
    name = name.removeprefix("builtins.")
    if name in _CONSTANTS:
        return f"{_PYTHON}/constants.html#{name}"
    if hasattr(builtins, name.partition(".")[0]):
        is_error = isinstance(getattr(builtins, name, None), type) and issubclass(
            getattr(builtins, name), BaseException
        )
        page = "exceptions" if is_error else "functions"
        return f"{_PYTHON}/{page}.html#{name}"
    taken = _take(name)
    if taken is None:
        return None
    module, rest = taken
    project = module.partition(".")[0]
    if project == "twisted":
        # As pydoctor names them: a page for each module and class, and a place in it.
        if not rest:
            return f"{_TWISTED}/{module}.html"
        if len(rest) == 1 and not rest[0][0].isupper():
            return f"{_TWISTED}/{module}.html#{rest[0]}"
        return f"{_TWISTED}/{module}.{rest[0]}.html" + "".join(f"#{each}" for each in rest[1:])
    if project in _PROJECTS:
        return _PROJECTS[project].format(name=name)
    import sys

    if project in sys.stdlib_module_names:
        return f"{_PYTHON}/{module}.html" + (f"#{name}" if rest else "")
    return None


class Inventory(SphinxInventory):
    """Names that are looked up when they are asked for."""

    def getLink(self, name: str) -> str | None:
        """As C{SphinxInventory.getLink}."""
        return address_of(name)


class System(BaseSystem):
    """Our package, and how to name what is outside of it."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.intersphinx = Inventory(logger=self.msg)
