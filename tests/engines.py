"""Each test of what stands on L{twisted_bioconn._openssl}, run on both of its engines."""

from __future__ import annotations

import sys
from typing import ClassVar, TypeVar

from OpenSSL import SSL
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from twisted_bioconn import _openssl
from twisted_bioconn._public_engine import PublicEngine
from twisted_bioconn.connector import Connector
from twisted_bioconn.testing import Loopback


class EngineCase(SynchronousTestCase):
    """
    A test with one of the two engines in use, however the process was started.

    @cvar public_api: whether it is the one on the public API.
    """

    public_api: ClassVar[bool] = False

    def setUp(self) -> None:
        if not (self.public_api or _openssl.HAVE_PRIVATE_NAMES):
            raise SkipTest("pyOpenSSL's private names are not as they were")
        twin = "_public_" if self.public_api else "_fast_"
        self.patch(_openssl, "PUBLIC_API_ONLY", self.public_api)
        for name in (
            "set_verification",
            "set_groups",
            "set_signature_algorithms",
            "hold_names",
            "share_store",
        ):
            self.patch(_openssl, name, getattr(_openssl, twin + name))

    def connectors(self, client: SSL.Connection, server: SSL.Connection) -> Loopback:
        """The two joined, the handshake not begun."""
        loop = Loopback(Connector(client, True), Connector(server, False))
        kind = PublicEngine if self.public_api else _openssl.FastEngine
        self.assertIs(type(loop.client._engine), kind)
        self.assertIs(type(loop.server._engine), kind)
        return loop


Case = TypeVar("Case", bound=type[EngineCase])


def on_both_engines(case: Case) -> Case:
    """Put beside a class of tests another, whose name ends in C{OnPublicAPI}."""
    name = case.__name__ + "OnPublicAPI"
    members = {
        "public_api": True,
        "__module__": case.__module__,
        "__doc__": case.__doc__,
        "__qualname__": name,
    }
    setattr(sys.modules[case.__module__], name, type(name, (case,), members))
    return case
