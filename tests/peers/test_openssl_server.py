"""What C{openssl s_server} can do beyond the matrix."""

from __future__ import annotations

from pathlib import Path

import trustme
from twisted.internet.error import ConnectionDone, ConnectionLost

from tests.peers.ours import Fetch, HalfTalk, PeerCase, Talk
from tests.peers.processes import Program
from tests.peers.test_openssl_client import Choice
from tests.peers.with_openssl import VERSIONS, s_server
from twisted_bioconn._openssl import PUBLIC_API_ONLY
from twisted_bioconn.errors import PeerError, TruncatedError
from twisted_bioconn.protocol import AlertReceived
from twisted_bioconn.verify import CertificateRefused


class CommandTests(PeerCase):
    """What is typed into its stdin in mid-connection."""

    async def begin(self, kind: type[Talk], *arguments: object) -> tuple[Program, Talk]:
        """Connect, and say something each way."""
        port, program = await s_server(self, "-naccept", 1, *arguments)
        talk = await self.connect(port, kind())
        await self.say_both_ways(program, talk, "first")
        return program, talk

    async def say_both_ways(self, program: Program, talk: Talk, what: str) -> None:
        """Data goes both ways still."""
        talk.say(f"our {what}\n".encode())
        await program.wait_for(f"our {what}\n")
        program.write(f"their {what}\n")
        await talk.hear(f"their {what}\n".encode())

    async def test_key_updates(self) -> None:
        """
        The peer changes its keys, and asks us to change ours, again and again.
        """
        program, talk = await self.begin(Talk, VERSIONS["TLSv1.3"], "-msg")
        for at in range(4):
            program.write("k\n")
            await program.wait_for(r">>> TLS 1.3, Handshake \[length 0005\], KeyUpdate")
            await self.say_both_ways(program, talk, f"{at} after k")
            program.write("K\n")
            await program.wait_for(r">>> TLS 1.3, Handshake \[length 0005\], KeyUpdate")
            program.write("asked\n")
            await talk.hear(b"asked\n")
            # Our answer goes before what we say next.
            talk.say(b"answered\n")
            await program.wait_for(r"<<< TLS 1.3, Handshake \[length 0005\], KeyUpdate")
            await program.wait_for("answered\n")
            await self.say_both_ways(program, talk, f"{at} after K")
        talk.close()
        await program.wait_for("CONNECTION CLOSED")
        self.assertIsInstance(await talk.gone(), ConnectionDone)

    async def test_renegotiation(self) -> None:
        """
        What a server asks for is refused as well; s_server gives up then, with an alert of its own.
        """
        program, talk = await self.begin(Talk, VERSIONS["TLSv1.2"])
        program.write("r\n")
        await program.wait_for("no renegotiation")
        reason = await talk.gone()
        assert isinstance(reason, AlertReceived)
        self.assertEqual(reason.alert, "handshake_failure")

    async def test_certificate_after_the_handshake(self) -> None:
        """
        We have not offered to show a certificate later, so the peer may not ask, and nothing ends.
        """
        program, talk = await self.begin(Talk, VERSIONS["TLSv1.3"])
        program.write("c\n")
        await program.wait_for("extension not received")
        await self.say_both_ways(program, talk, "after it")
        talk.close()
        self.assertIsInstance(await talk.gone(), ConnectionDone)

    async def test_cut_tls12(self) -> None:
        await self._cut("TLSv1.2")

    async def test_cut_tls13(self) -> None:
        await self._cut("TLSv1.3")

    async def _cut(self, version: str) -> None:
        """At its Q it closes with no close_notify, and that is no clean end."""
        program, talk = await self.begin(Talk, VERSIONS[version])
        program.write("Q\n")
        reason = await talk.gone()
        self.assertIsInstance(reason, ConnectionLost)
        self.assertIn("no close_notify", str(reason))

    async def test_plaintext_tls12(self) -> None:
        await self._plaintext("TLSv1.2")

    async def test_plaintext_tls13(self) -> None:
        await self._plaintext("TLSv1.3")

    async def _plaintext(self, version: str) -> None:
        """At its P it sends plaintext past TLS.  None of it reaches the application."""
        program, talk = await self.begin(Talk, VERSIONS[version])
        program.write("P\n")
        reason = await talk.gone()
        self.assertIsInstance(reason, PeerError)
        self.assertNotIsInstance(reason, TruncatedError)
        self.assertEqual(talk.heard, b"their first\n")

    async def test_our_half_close_tls12(self) -> None:
        await self._our_half_close("TLSv1.2")

    async def test_our_half_close_tls13(self) -> None:
        await self._our_half_close("TLSv1.3")

    async def _our_half_close(self, version: str) -> None:
        """It reads to our close_notify, and closes in turn."""
        program, talk = await self.begin(HalfTalk, VERSIONS[version])
        assert isinstance(talk, HalfTalk)
        talk.say(b"our last words\n")
        talk.close_write()
        await program.wait_for("our last words\n")
        await program.wait_for("CONNECTION CLOSED")
        self.assertIsInstance(await talk.gone(), ConnectionDone)


CHOICES = {
    "cipher_aes128": Choice(
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"), "ECDHE-ECDSA-AES128-GCM-SHA256"
    ),
    "cipher_chacha20": Choice(
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"), "ECDHE-ECDSA-CHACHA20-POLY1305"
    ),
    "ciphersuite_aes128": Choice(
        ("-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"), "TLS_AES_128_GCM_SHA256"
    ),
    "group_x25519": Choice(("-tls1_3", "-groups", "X25519"), group="x25519"),
    # Ours sends no key share for this one, and is asked for it.
    "group_asked_for": Choice(("-tls1_3", "-groups", "P-384"), group="secp384r1"),
    "group_tls12": Choice(("-tls1_2", "-groups", "P-384:P-256"), group="secp256r1"),
    "short_records": Choice(("-tls1_3", "-max_send_frag", "512")),
    "padding": Choice(("-tls1_3", "-record_padding", "4096")),
    "no_tickets": Choice(("-tls1_3", "-num_tickets", "0")),
    "many_tickets": Choice(("-tls1_3", "-num_tickets", "20")),
}
"""What it can be told to accept."""


class ChoiceTests(PeerCase):
    """What it accepts, and what comes of it."""

    async def check_choice(self, choice: Choice) -> None:
        """A page comes, over what was chosen."""
        port, _ = await s_server(self, "-www", *choice.arguments)
        fetch = await self.connect(port, Fetch())
        self.assertIn("Cipher is", await fetch.answer)
        self.assertIn(choice.cipher, (None, fetch.facts.cipher))
        self.assertIn(choice.group, (None, fetch.facts.group))

    async def test_rsa(self) -> None:
        """A server with an RSA key."""
        own = self.material.issue("rsa", "localhost", key_type=trustme.KeyType.RSA)
        for version, option in VERSIONS.items():
            port, _ = await s_server(self, "-www", option, own=own)
            fetch = await self.connect(port, Fetch())
            self.assertIn(f"{version}, Cipher is", await fetch.answer)
            self.assertEqual(len(fetch.facts.peer_chain), 2)

    async def test_sessions_in_its_memory_tls12(self) -> None:
        await self._sessions_in_its_memory("TLSv1.2")

    async def test_sessions_in_its_memory_tls13(self) -> None:
        await self._sessions_in_its_memory("TLSv1.3")

    async def _sessions_in_its_memory(self, version: str) -> None:
        """A server that keeps sessions and sends no tickets of its own: session identifiers."""
        port, _ = await s_server(self, "-www", "-no_ticket", VERSIONS[version])
        for resumed in (False, True, True):
            fetch = await self.connect(port, Fetch())
            self.assertIn("Reused" if resumed else "New", await fetch.answer)
            self.assertEqual(fetch.facts.resumed, resumed)

    async def test_resumed_again_and_again(self) -> None:
        """Each connection brings the session of the next one."""
        for version, option in VERSIONS.items():
            port, _ = await s_server(self, "-www", option)
            for at in range(5):
                fetch = await self.connect(port, Fetch())
                await fetch.answer
                self.assertEqual((fetch.facts.version, fetch.facts.resumed), (version, at > 0))


for _name, _choice in CHOICES.items():

    async def _test(self: ChoiceTests, choice: Choice = _choice) -> None:
        await self.check_choice(choice)

    setattr(ChoiceTests, f"test_{_name}", _test)


class CertificateTests(PeerCase):
    """Certificates that we refuse, and the alerts that say why."""

    async def refused(self, alert: str, own: tuple[Path, Path], *arguments: object) -> str:
        """
        Connect to a server that is refused.

        @return: the reason that C{connect} gives.
        """
        for version in VERSIONS.values():
            port, program = await s_server(self, version, *arguments, own=own)
            error = await self.connect_in_vain(port, CertificateRefused, PeerError)
            if not PUBLIC_API_ONLY:
                await program.wait_for(f"alert {alert}")
        return str(error)

    async def test_expired(self) -> None:
        own = self.material.issue("expired", "localhost", expired=True)
        self.assertIn("expired", await self.refused("certificate expired", own))

    async def test_other_name(self) -> None:
        own = self.material.issue("other", "other.example.org")
        sentence = await self.refused("bad certificate", own)
        self.assertIn("other.example.org", sentence)
        self.assertIn("localhost", sentence)

    async def test_unknown_authority(self) -> None:
        stranger = self.stranger()
        own = (stranger.server, stranger.server_key)
        self.assertIn("trusted", await self.refused("unknown ca", own))

    async def test_no_certificate_of_ours(self) -> None:
        """A server that wants a certificate of ours, and gets none."""
        port, program = await s_server(self, VERSIONS["TLSv1.2"], certificate=True)
        reason = await self.connect_in_vain(port, AlertReceived)
        self.assertEqual(reason.alert, "handshake_failure")
        await program.wait_for("peer did not return a certificate")
        # In TLS 1.3 a client is connected before the server has looked.
        port, program = await s_server(self, VERSIONS["TLSv1.3"], certificate=True)
        talk = await self.connect(port, Talk())
        gone = await talk.gone()
        assert isinstance(gone, AlertReceived)
        self.assertEqual(gone.alert, "certificate_required")
