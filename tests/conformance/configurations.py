"""What the servers serve, each on ports of its own."""

from __future__ import annotations

import attrs

from twisted_bioconn.policy import INTERMEDIATE, MODERN, Policy

BODY = b"The page of the conformance tests.\n"
"""The page that every server has."""


@attrs.frozen
class Configuration:
    """
    What is served on a port.

    @ivar certificate: the file of the certificate and its key.
    @ivar clients: what is asked of clients' certificates, if anything is.
    @ivar by_name: whether there is a certificate for one name and none for others.
    """

    name: str
    policy: Policy = INTERMEDIATE
    certificate: str = "server.pem"
    clients: str | None = None
    by_name: bool = False


CONFIGURATIONS = (
    Configuration("web"),
    Configuration("names", by_name=True),
    Configuration("modern", MODERN),
    Configuration("rsa", certificate="rsa.pem"),
    Configuration("mutual", clients="require"),
    Configuration("given", clients="verifyIfGiven"),
)
"""
C{names} has ours read the hello before there is a connection; on the other ports there is nothing
before OpenSSL.
"""

WITHOUT_NAMES = tuple(each for each in CONFIGURATIONS if not each.by_name)
"""OpenSSL alone has nothing to say about names."""
