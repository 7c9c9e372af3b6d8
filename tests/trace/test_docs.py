"""The snippet in C{docs/trace.md} runs."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from tests.peers.material import certificates
from tests.peers.ours import PeerCase, page

DOCS = Path(__file__).parent.parent.parent / "docs" / "trace.md"


class SnippetTests(PeerCase):
    """What the page has of Python."""

    async def test_snippet(self) -> None:
        from twisted.internet import reactor
        from twisted.internet.defer import Deferred

        [snippet] = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
        names: dict[str, Any] = {}
        exec(snippet, names)
        shown: Deferred[str] = Deferred()
        show = names["show"]

        def showing(trace: Any) -> None:
            said = StringIO()
            with redirect_stdout(said):
                show(trace)
            shown.callback(said.getvalue())

        names["show"] = showing
        server = await self.serve(page())
        protocol = await names["look"](
            reactor, "localhost", server.port, trust_roots=certificates(self.material.root)
        )
        protocol.transport.loseConnection()
        said = await shown
        self.assertIn("ClientHello", said)
        self.assertIn("\nGood: the handshake is done", said)
