"""
A client and a server in one process, over memory alone: no socket, no reactor, no clock.

    python examples/memory_pair.py

OpenSSL's own sample does this to test the toolkit, and a connector for asynchronous sockets begins
here: whoever moves the bytes between the two is all that is missing.  It prints each flight, with
the records in it, and who is where after it::

    client -> server   1456 bytes: handshake
                       client: handshaking, server: handshaking
    …
    server read b'hello from memory'
    …

Another name than localhost after the command is one that the server has no certificate for.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted_bioconn import ClientOptions, Connector, PeerError, ServerOptions
from twisted_bioconn.certificates.development import DevelopmentAuthority, state_directory
from twisted_bioconn.certificates.loading import load_authorities

CONTENT_TYPES = {20: "change_cipher_spec", 21: "alert", 22: "handshake", 23: "application_data"}
"""RFC 8446, section 5.1.  What is encrypted calls itself application_data, whatever is in it."""


def records(flight: bytes) -> str:
    """The records of a flight, by their headers: type, version and length, five bytes in all."""
    found = []
    while flight:
        found.append(CONTENT_TYPES.get(flight[0], "unknown"))
        flight = flight[5 + int.from_bytes(flight[3:5], "big") :]
    return ", ".join(found)


class Pair:
    """Two connectors, and what moves bytes between them."""

    def __init__(self, host: str = "localhost") -> None:
        """
        @param host: whom the client wants to talk to; the server has a certificate for localhost.
        """
        authority = DevelopmentAuthority(state_directory())
        roots = load_authorities(authority.certificate_path)
        self.client = Connector(
            ClientOptions(host, trust_roots=roots).clientConnectionForTLS(None), is_client=True
        )
        self.server = Connector(
            ServerOptions(authority.leaf()).serverConnectionForTLS(None), is_client=False
        )

    def run(self) -> None:
        """
        Move bytes both ways until neither has any more.

        @raise PeerError: one of them has failed, and the other has its alert.
        """
        ends = {"client": self.client, "server": self.server}
        failed: PeerError | None = None
        moved = True
        while moved:
            moved = False
            for sender, receiver in (("client", "server"), ("server", "client")):
                flight = b""
                while piece := ends[sender].take():
                    flight += piece
                if not flight:
                    continue
                moved = True
                plaintext = b""
                try:
                    ends[receiver].feed(flight)
                    plaintext = ends[receiver].read()
                except PeerError as error:
                    failed = failed or error
                print(f"{sender} -> {receiver} {len(flight):6} bytes: {records(flight)}")
                states = ", ".join(f"{name}: {end.state.value}" for name, end in ends.items())
                print(f"{'':19}{states}")
                if plaintext:
                    print(f"{receiver} read {plaintext!r}")
        if failed is not None:
            raise failed


def main(arguments: list[str]) -> Any:
    """A handshake, a line each way, and an end that both have seen."""
    try:
        pair = Pair(*arguments)
        pair.client.write(b"hello from memory")  # It waits until the handshake is done.
        pair.run()
        pair.server.write(b"hello back")
        pair.run()
        pair.client.close()
        pair.server.close()
        pair.run()
    except PeerError as error:
        return f"memory_pair: {error}"
    facts = pair.client.negotiated
    assert facts is not None
    print(f"{facts.version}, {facts.cipher}, {facts.group}, with {facts.server_name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:2]))
