"""
The back ends of the soak: an echo, plain on one port and with TLS on another::

    python -m benchmarks.soak.backend PLAIN TLS PAIR
"""

from __future__ import annotations

import asyncio
import ssl
import sys

from ..peers.asyncio_peer import Echo


async def serve(plain: int, tls: int, pair: str) -> None:
    """Serve until killed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(Echo, "127.0.0.1", port, ssl=given, backlog=1024)
        for port, given in ((plain, None), (tls, context))
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
