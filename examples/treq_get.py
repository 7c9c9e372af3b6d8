"""
treq, with TLS from this package.

    python examples/treq_get.py [URL [AUTHORITIES]]

Prints the status and the body.  With no URL it asks C{twistd -n bioconn} what was negotiated, and
trusts the development authority.  AUTHORITIES is a PEM file or a directory of whom to trust;
without it those that the system trusts.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.task import react

from twisted_bioconn.certificates.development import DevelopmentAuthority, state_directory
from twisted_bioconn.certificates.loading import load_authorities
from twisted_bioconn.http import treq_client


async def main(reactor: Any, url: str | None = None, authorities: str | None = None) -> None:
    """Get a page, and print it."""
    if url is None:
        url = "https://localhost:8443/facts.json"
        authorities = DevelopmentAuthority(state_directory()).certificate_path
    try:
        roots = None if authorities is None else load_authorities(authorities)
        treq = treq_client(reactor, trust_roots=roots)
        response = await treq.get(url)
        print(response.code, response.headers.getRawHeaders("content-type", ["of no type"])[0])
        print(await response.text())
    except Exception as error:
        raise SystemExit(f"{url}: {error}") from None


if __name__ == "__main__":
    react(main, sys.argv[1:3])
