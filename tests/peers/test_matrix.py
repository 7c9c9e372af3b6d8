"""Every peer, in both roles and in every combination."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.peers import with_curl, with_gnutls, with_nginx, with_openssl
from tests.peers.material import certificates
from tests.peers.matrix import (
    COMBINATIONS,
    ClientDriver,
    Combination,
    Gaps,
    ServerDriver,
)
from tests.peers.ours import Fetch, PeerCase, page
from tests.peers.with_scripts import ASYNCIO, BLOCKING, NODE
from twisted_bioconn.negotiated import Negotiated

CLIENTS: dict[str, ClientDriver] = {
    "curl": with_curl.client,
    "openssl": with_openssl.client,
    "gnutls": with_gnutls.client,
    "python": BLOCKING.client,
    "asyncio": ASYNCIO.client,
    "node": NODE.client,
    "nginx_http": with_nginx.http_client,
    "nginx_stream": with_nginx.stream_client,
}
"""The peers that are clients of ours."""

SERVERS: dict[str, ServerDriver] = {
    "openssl": with_openssl.server,
    "gnutls": with_gnutls.server,
    "python": BLOCKING.server,
    "asyncio": ASYNCIO.server,
    "node": NODE.server,
    "nginx_http": with_nginx.http_server,
    "nginx_stream": with_nginx.stream_server,
}
"""The peers that serve ours.  curl serves nothing."""

CLIENT_GAPS: Gaps = {}
SERVER_GAPS: Gaps = {}
"""None yet: each of them does all that is asked of it."""


class MatrixCase(PeerCase):
    """What both roles have in common."""

    def assert_facts(
        self, facts: list[Negotiated], how: Combination, chain: tuple[object, ...]
    ) -> None:
        """
        Ours has noted what it should have.

        @param chain: the certificates that the peer was to show.
        """
        self.assertEqual([each.version for each in facts], [how.version] * how.connections)
        self.assertEqual([each.resumed for each in facts], [False, True][: how.connections])
        self.assertEqual(facts[0].peer_chain, chain)
        for resumed in facts[1:]:
            # A ticket holds the leaf alone, a session in somebody's memory the whole chain.
            self.assertIn(resumed.peer_chain, (chain, chain[:1]))

    async def check_client(self, driver: ClientDriver, how: Combination) -> None:
        """The peer is the client."""
        options = {"clientAuthorities": self.material.root} if how.certificate else {}
        server = await self.serve(page(), **options)
        seen = await driver(self, server.port, how)
        chain = certificates(self.material.client) if how.certificate else ()
        self.assert_facts(server.facts, how, chain)
        self.assertEqual([each.version for each in seen], [how.version] * how.connections)
        self.assertEqual([each.resumed for each in seen], [False, True][: how.connections])
        self.assertEqual({each.server_name for each in server.facts}, {"localhost"})

    async def check_server(self, driver: ServerDriver, how: Combination) -> None:
        """The peer is the server."""
        peer = await driver(self, how)
        facts, answers = [], []
        for _ in range(how.connections):
            fetch = await self.connect(peer.port, Fetch(), certificate=how.certificate)
            answers.append(await fetch.answer)
            facts.append(fetch.facts)
        self.assert_facts(facts, how, certificates(self.material.server))
        seen = await peer.seen(answers)
        self.assertEqual([each.version for each in seen], [how.version] * how.connections)
        self.assertEqual([each.resumed for each in seen], [False, True][: how.connections])


class ClientsOfOurs(MatrixCase):
    """The peer is the client, and ours serves a page."""


class ServersForOurs(MatrixCase):
    """The peer serves, and ours asks."""


def _add(
    case: type[MatrixCase],
    name: str,
    how: Combination,
    run: Callable[[MatrixCase], Awaitable[None]],
    gaps: Gaps,
) -> None:
    async def test(self: MatrixCase) -> None:
        await run(self)

    test.__name__ = f"test_{name}_{how.slug}"
    reason = gaps.get(name, {}).get(how)
    if reason is not None:
        test.skip = reason  # type: ignore[attr-defined]
    setattr(case, test.__name__, test)


for _how in COMBINATIONS:
    for _name, _client in CLIENTS.items():
        _add(
            ClientsOfOurs,
            _name,
            _how,
            lambda case, driver=_client, how=_how: case.check_client(driver, how),  # type: ignore[misc]
            CLIENT_GAPS,
        )
    for _name, _server in SERVERS.items():
        _add(
            ServersForOurs,
            _name,
            _how,
            lambda case, driver=_server, how=_how: case.check_server(driver, how),  # type: ignore[misc]
            SERVER_GAPS,
        )
