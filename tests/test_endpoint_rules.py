"""What strings say of who may come in."""

from __future__ import annotations

import os
import ssl
from typing import Any

from tests.test_endpoint_strings import StringCase
from twisted_bioconn.client_policy import ClientCertificate


class RuleStringTests(StringCase):
    """Strings of servers."""

    def test_rules(self) -> None:
        """Who may come in, and what is asked of clients for that."""
        for rest, mode in (
            ("clientAuthorities=ca.pem:allow=cn=ci", ClientCertificate.REQUIRE),
            (
                "clientAuthorities=ca.pem:allow=cn=ci,address=10.0.0.1",
                ClientCertificate.VERIFY_IF_GIVEN,
            ),
            (
                "clientAuthorities=ca.pem:clientCertificate=require:allow=address=10.0.0.1",
                ClientCertificate.REQUIRE,
            ),
            ("allow=network=10.0.0.0/8", ClientCertificate.NONE),
            (
                f"clientCertificate=request:allow=pin=sha256\\:{'0' * 64}",
                ClientCertificate.REQUEST,
            ),
        ):
            clients = self.server(f"443:{rest}").options.clients
            self.assertIs(clients.mode, mode, rest)
            self.assertIsNotNone(clients.rules)
        for rest, words in (
            ("clientAuthorities=ca.pem:allow=nc=ci", "allow: "),
            ("allow=cn=ci", "allow=cn=ci: it is about client certificates"),
            ("clientAuthorities=system", "clientAuthorities=system lets in whoever has"),
            ("clientCertificate=request", "clientCertificate=request leaves the verdict to rules"),
            ("clientCertificate=request:allow=cn=ci", "of an own key, pin= tells"),
        ):
            self.mistake(self.server, f"443:{rest}", words)

    def test_system(self) -> None:
        """Whom the system trusts may be asked for, with a word on who of those may come in."""
        paths: Any = ssl.get_default_verify_paths()
        place = os.path.abspath("ca.pem")
        for found in ((place, None), (None, place)):
            given = paths._replace(cafile=found[0], capath=found[1])
            self.patch(ssl, "get_default_verify_paths", lambda given=given: given)
            clients = self.server("443:clientAuthorities=system:allow=anyone").options.clients
            self.assertEqual(len(clients.authorities), 1)
        self.patch(
            ssl, "get_default_verify_paths", lambda: paths._replace(cafile=None, capath=None)
        )
        self.mistake(
            self.server,
            "443:clientAuthorities=system:allow=anyone",
            "clientAuthorities=system: this system has no list of authorities",
        )
