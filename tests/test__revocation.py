"""Revocation lists of clients, in full handshakes and in resumed ones."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from itertools import product
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from tests.context_material import OptionsCase, certified, serving, visiting
from tests.engines import on_both_engines
from tests.tls_material import (
    DAY,
    FOR_CLIENTS,
    NOW,
    TLS12,
    TLS13,
    Party,
    certificate,
    ec_key,
)
from twisted_bioconn import _realm
from twisted_bioconn._revocation import Revocation
from twisted_bioconn.client_policy import ClientCertificate, ClientPolicy, CRLMode
from twisted_bioconn.context import SessionStore


def keyed(title: str, issuer: Party | None, number: int) -> Party:
    """An authority as real ones are: with key identifiers."""
    key = ec_key(number)
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    extensions: list[tuple[x509.ExtensionType, bool]] = [(own, False)]
    if issuer is not None:
        extensions.append((issued_by(issuer), False))
    return Party(certificate(title, issuer, key=key, ca=True, extensions=extensions), key)


def issued_by(issuer: Party) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())


ROOT = keyed("root", None, 31)
MIDDLE = keyed("middle", ROOT, 32)
LEAF = Party(
    certificate(
        "visitor",
        MIDDLE,
        key=ec_key(33),
        usage=FOR_CLIENTS,
        extensions=[(issued_by(MIDDLE), False)],
    ),
    ec_key(33),
    (MIDDLE.certificate,),
)


def crl(
    issuer: Party,
    *revoked: Party,
    keyed: bool = True,
    begin: Any = NOW - 2 * DAY,
    end: Any = NOW + DAY,
) -> x509.CertificateRevocationList:
    """An authority's list."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(begin)
        .next_update(end)
    )
    if keyed:
        builder = builder.add_extension(issued_by(issuer), critical=False)
    for each in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(each.certificate.serial_number)
            .revocation_date(begin)
            .build()
        )
    return builder.sign(issuer.key, SHA256())


@on_both_engines
class RevocationTests(OptionsCase):
    """Who is let in, by what the lists say; full and resumed, TLS 1.2 and 1.3."""

    def policy(
        self,
        anchors: Sequence[Party],
        lists: Sequence[x509.CertificateRevocationList],
        mode: CRLMode,
    ) -> ClientPolicy:
        trusted = [each.certificate for each in anchors]
        return ClientPolicy(ClientCertificate.REQUIRE, trusted, lists, mode)

    def let_in(self, policy: ClientPolicy) -> bool:
        """Whether the visitor is; a full handshake and a session say the same."""
        verdicts = set()
        for version in (TLS12, TLS13):
            # A session that was agreed on before there was any list.
            options = serving(
                versions=(version, version), clients=ClientPolicy(policy.mode, policy.authorities)
            )
            sessions = SessionStore()
            ours = visiting(certificate=certified(LEAF), sessions=sessions)
            self.meet(options, ours).end()
            full = serving(versions=(version, version), clients=policy)
            verdicts.add(self.verdict(full, visiting(certificate=certified(LEAF))))
            # The same realm, had the lists been there.
            options._realm._revocation = Revocation(policy) if policy.crls else None
            verdicts.add(self.verdict(options, ours))
        [verdict] = verdicts
        return verdict

    def verdict(self, options: Any, ours: Any) -> bool:
        return self.meet(options, ours).loop.server_error is None

    def test_modes(self) -> None:
        """
        What a list has is refused in any mode, also where OpenSSL ends the chain before it comes to
        that list; who is on none is let in as the mode has it.
        """
        hard, soft = CRLMode.HARD, CRLMode.SOFT
        both = [crl(ROOT), crl(MIDDLE)]
        stale = crl(MIDDLE, begin=NOW - 9 * DAY, end=NOW - DAY)
        stale_revoked = crl(MIDDLE, LEAF, begin=NOW - 9 * DAY, end=NOW - DAY)
        for mode, (anchors, lists, allowed) in product(
            (hard, soft),
            (
                ([ROOT], both, (True, True)),
                ([ROOT, MIDDLE], both, (True, True)),
                ([MIDDLE], both, (True, True)),
                ([MIDDLE], [crl(MIDDLE)], (True, True)),
                ([ROOT], [crl(ROOT), crl(MIDDLE, LEAF)], (False, False)),
                ([MIDDLE], [crl(MIDDLE, LEAF)], (False, False)),
                ([ROOT], [crl(ROOT, MIDDLE), crl(MIDDLE)], (False, False)),
                ([ROOT, MIDDLE], [crl(ROOT, MIDDLE), crl(MIDDLE)], (False, False)),
                ([ROOT], [crl(ROOT)], (False, True)),
                ([ROOT], [crl(MIDDLE)], (False, True)),
                ([ROOT], [crl(ROOT), stale], (False, True)),
                ([ROOT], [crl(ROOT), stale_revoked], (False, False)),
                ([ROOT, MIDDLE], [crl(ROOT, keyed=False), crl(MIDDLE, keyed=False)], (True, True)),
                (
                    [ROOT, MIDDLE],
                    [crl(ROOT, MIDDLE, keyed=False), crl(MIDDLE, keyed=False)],
                    (False, False),
                ),
            ),
        ):
            cell = (mode, [each.certificate.subject for each in anchors], lists, allowed)
            policy = self.policy(anchors, lists, mode)
            self.assertEqual(self.let_in(policy), allowed[mode is soft], cell)

    def test_reason(self) -> None:
        """The log says that it was revoked, and whose certificate."""
        policy = self.policy([ROOT, MIDDLE], [crl(ROOT, MIDDLE), crl(MIDDLE)], CRLMode.HARD)
        meeting = self.meet(serving(clients=policy), visiting(certificate=certified(LEAF)))
        self.assertIn("CN=middle does not verify: it was revoked", str(meeting.server_error))

    def test_one_store(self) -> None:
        """The lists are parsed once for a policy, however many certificates there are."""
        parsed: list[object] = []
        watch = Revocation.watch

        def watched(revocation: Revocation, store: Any) -> None:
            parsed.append(store)
            watch(revocation, store)

        self.patch(Revocation, "watch", watched)
        policy = self.policy([ROOT], [crl(ROOT), crl(MIDDLE, LEAF)], CRLMode.HARD)
        for _ in range(3):
            options = serving(clients=policy)
            for _ in range(4):
                again = serving()
                options.use(again.certificate)
                meeting = self.meet(options, visiting(certificate=certified(LEAF)))
                self.assertIn("revoked", str(meeting.server_error))
        if not self.public_api:
            self.assertEqual(len(parsed), 3)

    def test_contexts_are_bounded(self) -> None:
        """The certificate that was not used for the longest time loses its context."""
        self.patch(_realm, "KEPT_CONTEXTS", 2)
        options = serving()
        kept = [serving().certificate for _ in range(3)]
        first = options._realm.context(kept[0])
        options._realm.context(kept[1])
        self.assertIs(options._realm.context(kept[0]), first)
        options._realm.context(kept[2])
        self.assertIs(options._realm.context(kept[0]), first)
        self.assertEqual(len(options._realm._contexts), 2)
        # One that is not there any more, nor its context.
        kept.clear()
        gc.collect()
        self.assertEqual(len(options._realm._contexts), 0)
