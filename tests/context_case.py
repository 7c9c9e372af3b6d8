"""Tests whose connections are on contexts of their own, to be changed before they meet."""

from __future__ import annotations

from OpenSSL import SSL

from tests.engines import EngineCase
from tests.tls_material import (
    Party,
    authority,
    client_connection,
    context,
    server,
    server_connection,
)
from twisted_bioconn.testing import Loopback


class ContextCase(EngineCase):
    """Connections on contexts of their own."""

    def contexts(self, version: int, own: Party | None = None) -> tuple[SSL.Context, SSL.Context]:
        trusted = [authority().certificate]
        versions = (version, version)
        return (
            context(True, own=own, trusted=trusted, versions=versions),
            context(False, own=server(), trusted=trusted, versions=versions),
        )

    def meet(self, contexts: tuple[SSL.Context, SSL.Context]) -> Loopback:
        return self.connectors(client_connection(contexts[0]), server_connection(contexts[1]))
