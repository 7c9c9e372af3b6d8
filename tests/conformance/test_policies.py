"""
What a policy says is what a server does, and it does nothing more: everything that a client could
offer is offered to it, number by number.

With BIOCONN_SLOW=1 in the environment testssl.sh has its say too.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest import skipUnless

from tlslite.constants import CipherSuite, GroupName, SignatureScheme
from twisted.trial.unittest import SynchronousTestCase

from tests.conformance.client import Client
from tests.conformance.configurations import CONFIGURATIONS
from tests.conformance.hellos import (
    FALLBACK,
    GROUPS,
    MODERN,
    OLDER,
    ONLY_13,
    SIGNATURES,
    VERSIONS,
    Hello,
    groups,
    hello,
    numbers,
    vector,
)
from tests.conformance.keys import TLS12, TLS13
from tests.conformance.servers import bioconn, directory
from tests.conformance.wire import Ended
from tests.programs import require
from twisted_bioconn.policy import INTERMEDIATE, Policy
from twisted_bioconn.policy import MODERN as MODERN_POLICY

SLOW = bool(os.environ.get("BIOCONN_SLOW"))

EVERY = range(0x10000)
"""Whatever has a number of two bytes."""

OPEN = tuple(each for each in CONFIGURATIONS if each.clients is None)
"""Those that take a client with no certificate."""

_REFUSALS = ("handshake_failure", "protocol_version")

_TLSLITE = {"X25519": "x25519", "X25519MLKEM768": "x25519mlkem768"}
"""Names of groups that are spelled otherwise in tlslite-ng."""


def agreed(
    port: str, offers: Iterable[int], size: int, say: Callable[[list[int]], Hello], take: Take
) -> set[int]:
    """
    All numbers that a server agrees to.

    It is offered so many at a time, and each that it takes is left out when it is asked again.
    OpenSSL looks at the first 128 of some lists.

    @param say: the hello that offers some.
    @param take: what of them was taken.
    """
    ports, found = bioconn().ports, set()
    left = list(offers)
    while left:
        offered, left = left[:size], left[size:]
        while offered:
            with Client(ports, port) as client:
                client.hello(say(offered))
                try:
                    taken = take(client)
                except Ended as ended:
                    if ended.what not in _REFUSALS:
                        raise
                    break
            found.add(taken)
            offered.remove(taken)
    return found


Take = Callable[[Client], int]


def suite_of(client: Client) -> int:
    """The cipher suite that was agreed on."""
    return client.any_hello().cipher_suite  # type: ignore[no-any-return]


def version_of(client: Client) -> int:
    """The version that was agreed on."""
    chosen = client.any_hello().getExtension(VERSIONS)
    if chosen is None:
        return TLS12
    high, low = chosen.version
    return int(high << 8 | low)


def group_of(client: Client) -> int:
    """The group of which the server wants a share; or of which it has sent one, in TLS 1.2."""
    answer = client.server_hello()
    if client.version == TLS12:
        client.flight()
        return client.group
    return answer.getExtension(51).selected_group  # type: ignore[no-any-return]


def scheme_of(client: Client) -> int:
    """What the server has signed by."""
    client.server_hello()
    client.flight()
    return client.scheme


def suites_of(policy: Policy, of_13: bool, key: str) -> set[int]:
    """A policy's cipher suites of a version, for a kind of key."""
    if of_13:
        return {getattr(CipherSuite, name) for name in policy.ciphersuites_tls13}
    # OpenSSL's names leave out what goes without saying: RFC 5289 and RFC 7905 do not.
    names = (
        each.replace("AES", "AES_").replace("POLY1305", "POLY1305_SHA256")
        for each in policy.ciphers_tls12
        if key in each
    )
    names = (each.replace(f"{key}-", f"{key}_WITH_", 1).replace("-", "_") for each in names)
    return {getattr(CipherSuite, f"TLS_{each}") for each in names}


def groups_of(policy: Policy) -> set[int]:
    return {getattr(GroupName, _TLSLITE.get(each, each)) for each in policy.groups}


def schemes_of(policy: Policy) -> list[int]:
    pairs = (getattr(SignatureScheme, each) for each in policy.signature_algorithms)
    return [high << 8 | low for high, low in pairs]


class PolicyTests(SynchronousTestCase):
    """Every number is offered."""

    def test_versions(self) -> None:
        """TLS 1.2 and TLS 1.3, or TLS 1.3 alone."""
        for each in OPEN:
            found = agreed(
                each.name,
                EVERY,
                127,
                lambda some: MODERN.plus(VERSIONS, vector(1, numbers(*some))),
                version_of,
            )
            policy = each.policy
            expected = {TLS12, TLS13} & {policy.minimum_version, policy.maximum_version}
            self.assertEqual(found, expected, each.name)

    def test_suites_13(self) -> None:
        """Those of TLS 1.3."""
        for each in OPEN:
            found = agreed(each.name, EVERY, 4000, lambda some: ONLY_13.offers(*some), suite_of)
            self.assertEqual(found, suites_of(each.policy, True, ""), each.name)

    def test_suites_12(self) -> None:
        """Those of TLS 1.2, each for its kind of key; the policy with TLS 1.3 alone has none."""
        offers = [number for number in EVERY if number != FALLBACK]
        for each in OPEN:
            found = agreed(each.name, offers, 4000, lambda some: OLDER.offers(*some), suite_of)
            key = "RSA" if each.name == "rsa" else "ECDSA"
            expected = suites_of(each.policy, False, f"ECDHE-{key}")
            self.assertEqual(len(expected), 0 if each.policy is MODERN_POLICY else 3)
            self.assertEqual(found, expected, each.name)

    def test_groups_13(self) -> None:
        """The groups, each of which the server asks for where it is the only one that it has."""
        for each in OPEN:
            found = agreed(
                each.name,
                EVERY,
                100,
                lambda some: hello(shares=[], offered=[TLS13]).plus(GROUPS, groups(*some)),
                group_of,
            )
            self.assertEqual(found, groups_of(each.policy), each.name)

    def test_groups_12(self) -> None:
        """
        The same in TLS 1.2, which has no hybrids.

        The key is of RSA: that of an ECDSA key has to be among the groups (RFC 8422, section 5.1).
        """
        found = agreed("rsa", EVERY, 100, lambda some: OLDER.plus(GROUPS, groups(*some)), group_of)
        hybrid = {GroupName.x25519mlkem768}
        self.assertEqual(found, groups_of(INTERMEDIATE) - hybrid)

    def test_signatures(self) -> None:
        """What the server signs by: as its key can, and the policy says."""
        for each, key, said in (
            ("web", "ecdsa_secp256r1", ONLY_13),
            ("modern", "ecdsa_secp256r1", ONLY_13),
            ("rsa", "rsa_pss_rsae", ONLY_13),
            ("rsa", "rsa_", OLDER),
        ):
            found = agreed(
                each,
                range(0x0A00),
                100,
                lambda some, said=said: said.plus(SIGNATURES, vector(2, numbers(*some))),  # type: ignore[misc]
                scheme_of,
            )
            names = (name for name in INTERMEDIATE.signature_algorithms if name.startswith(key))
            expected = {getattr(SignatureScheme, name) for name in names}
            self.assertEqual(found, {high << 8 | low for high, low in expected}, each)

    def test_signatures_of_clients(self) -> None:
        """What the server wants clients to sign by, in the policy's order."""
        for said in (MODERN, OLDER):
            with Client(bioconn().ports, "mutual") as client:
                client.hello(said)
                client.server_hello()
                client.flight()
                assert client.request is not None
                wanted = [high << 8 | low for high, low in client.request.supported_signature_algs]
            self.assertEqual(wanted, schemes_of(INTERMEDIATE))


@skipUnless(SLOW, "takes long: set BIOCONN_SLOW=1 to run it")
class TestSSLTests(SynchronousTestCase):
    """What testssl.sh finds."""

    def findings(self, port: str) -> dict[str, tuple[str, str]]:
        """By the name of what was looked at, how bad it is and what was found."""
        program = require("testssl", "testssl.sh")
        output = Path(self.mktemp()).absolute()
        done = subprocess.run(
            [
                *(program, "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none"),
                *("--jsonfile", output, "--protocols", "--fs", "--cipher-per-proto"),
                *("--server-preference", "--vulnerable", f"127.0.0.1:{bioconn().ports[port]}"),
            ],
            cwd=directory(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if not output.exists():
            self.fail(f"testssl.sh says nothing: {done.stdout}{done.stderr}")
        listed = json.loads(output.read_text())
        return {each["id"]: (each["severity"], each["finding"]) for each in listed}

    def check(self, port: str, policy: Policy, key: str) -> None:
        found = self.findings(port)
        offered = {
            name: not said.startswith("not offered")
            for name, (_, said) in found.items()
            if name in ("SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2", "TLS1_3")
        }
        older = policy is INTERMEDIATE
        self.assertEqual(
            offered,
            {
                **dict.fromkeys(("SSLv2", "SSLv3", "TLS1", "TLS1_1"), False),
                "TLS1_2": older,
                "TLS1_3": True,
            },
        )
        ciphers = {
            (name.split("_x")[0].removeprefix("cipher-"), said.split()[3])
            for name, (_, said) in found.items()
            if name.startswith("cipher-tls")
        }
        self.assertEqual(
            ciphers,
            {("tls1_3", each) for each in policy.ciphersuites_tls13}
            | {("tls1_2", each) for each in policy.ciphers_tls12 if key in each},
        )
        # What is called PFS_ in 3.0 is called FS_ in 3.2, which knows of hybrids.
        curves = next(said for name, (_, said) in found.items() if name.endswith("FS_ECDHE_curves"))
        names = {each.replace("secp256r1", "prime256v1") for each in policy.groups}
        self.assertEqual(set(curves.split()), names - {"X25519MLKEM768"})
        # Mozilla leaves the order to the client, as all of them are good.
        self.assertEqual(
            {
                name: said
                for name, (severity, said) in found.items()
                if severity in ("LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL")
                and not name.startswith("cipher_order")
            },
            {},
        )
        self.assertEqual(bioconn().unhandled(), [])

    def test_intermediate(self) -> None:
        """With an ECDSA key."""
        self.check("web", INTERMEDIATE, "ECDHE-ECDSA")

    def test_intermediate_rsa(self) -> None:
        """With an RSA key."""
        self.check("rsa", INTERMEDIATE, "ECDHE-RSA")

    def test_modern(self) -> None:
        """TLS 1.3 alone."""
        self.check("modern", MODERN_POLICY, "none")
