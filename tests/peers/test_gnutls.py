"""What GnuTLS can do beyond the matrix."""

from __future__ import annotations

import re

from twisted.internet.error import ConnectionDone, ConnectionLost

from tests.peers.echo import lines
from tests.peers.ours import (
    GREETING,
    Fetch,
    HalfTalk,
    PeerCase,
    Talk,
    Talks,
    page,
    stays_up,
)
from tests.peers.processes import Program
from tests.peers.with_gnutls import PRIORITIES, cli, serv
from twisted_bioconn._openssl import PUBLIC_API_ONLY
from twisted_bioconn.errors import PeerError
from twisted_bioconn.protocol import AlertReceived
from twisted_bioconn.verify import CertificateRefused

TLS12, TLS13 = PRIORITIES["TLSv1.2"], PRIORITIES["TLSv1.3"]


class ClientTests(PeerCase):
    """C{gnutls-cli} in mid-connection."""

    async def begin(self, priority: str, *arguments: object) -> tuple[Program, HalfTalk]:
        """Connect, and say something each way."""
        self.talks = Talks(HalfTalk)
        self.server = await self.serve(self.talks)
        program = cli(
            self, self.server.port, "--inline-commands", "--priority", priority, *arguments
        )
        await program.wait_for("Simple Client Mode")
        talk = await self.next_talk()
        await self.say_both_ways(program, talk, "first")
        return program, talk

    async def next_talk(self) -> HalfTalk:
        talk = await self.talks.next()
        assert isinstance(talk, HalfTalk)
        return talk

    async def say_both_ways(self, program: Program, talk: Talk, what: str) -> None:
        """Data goes both ways still."""
        program.write(f"their {what}\n")
        await talk.hear(f"their {what}\n".encode())
        talk.say(f"our {what}\n".encode())
        await program.wait_for(f"our {what}\n")

    async def test_key_updates(self) -> None:
        """It changes its keys (C{rekey1}), and asks us to change ours (C{rekey})."""
        program, talk = await self.begin(TLS13)
        for at in range(4):
            for command in ("rekey1", "rekey"):
                program.write(f"^{command}^\n")
                await program.wait_for("Rekey was completed")
                await self.say_both_ways(program, talk, f"{at} after {command}")
        talk.close()
        await program.succeeded()
        self.assertIsInstance(await talk.gone(), ConnectionDone)

    async def test_renegotiation(self) -> None:
        """Each try is refused with C{no_renegotiation}, until gnutls-cli gives up with an alert."""
        program, talk = await self.begin(TLS12)
        program.write("^renegotiate^\n")
        await program.wait_for("No renegotiation is allowed")
        self.assertEqual(await program.ended(), 1)
        reason = await talk.gone()
        assert isinstance(reason, AlertReceived)
        self.assertEqual(reason.alert, "internal_error")

    async def test_resumed_by_command_tls12(self) -> None:
        await self._resumed_by_command(TLS12)

    async def test_resumed_by_command_tls13(self) -> None:
        await self._resumed_by_command(TLS13)

    async def _resumed_by_command(self, priority: str) -> None:
        """
        It closes and connects again, in one run.  After a resumption it has no session any more:
        every other connection is resumed.
        """
        program, _ = await self.begin(priority)
        for _ in range(3):
            program.write("^resume^\n")
            await program.wait_for("Resume Handshake was completed")
            await self.say_both_ways(program, await self.next_talk(), "after it")
        self.assertEqual([each.resumed for each in self.server.facts], [False, True, False, True])

    async def test_half_close_tls12(self) -> None:
        await self._half_close(TLS12)

    async def test_half_close_tls13(self) -> None:
        await self._half_close(TLS13)

    async def _half_close(self, priority: str) -> None:
        """
        At the end of its input it sends close_notify, and reads on to ours.
        """
        program, talk = await self.begin(priority)
        program.end_input()
        await talk.peer_closed()
        text = lines(20_000)
        talk.say(text.encode())
        talk.close()
        await program.succeeded()
        self.assertIn(text, program.said)
        self.assertIsInstance(await talk.gone(), ConnectionDone)

    async def test_our_half_close_tls12(self) -> None:
        await self._our_half_close(TLS12)

    async def test_our_half_close_tls13(self) -> None:
        await self._our_half_close(TLS13)

    async def _our_half_close(self, priority: str) -> None:
        """It reads to our close_notify, and closes in turn, with no close_notify of its own."""
        program, talk = await self.begin(priority)
        talk.say(b"our last words\n")
        talk.close_write()
        await program.wait_for("our last words\n")
        await program.wait_for("Peer has closed the GnuTLS connection")
        await program.succeeded()
        self.assertIsInstance(await talk.gone(), ConnectionLost)

    async def test_bindings_tls12(self) -> None:
        await self._bindings(TLS12)

    async def test_bindings_tls13(self) -> None:
        await self._bindings(TLS13)

    async def _bindings(self, priority: str) -> None:
        """Both ends know the same channel bindings and the same keying material."""
        program, talk = await self.begin(
            priority, "--verbose", "--keymatexport=EXPERIMENTAL", "--keymatexportsize=32"
        )
        self.assertEqual(
            talk.tls.exportKeyingMaterial(b"EXPERIMENTAL", 32).hex(),
            _printed(program.said, "Key material"),
        )
        for kind in ("tls-exporter", "tls-server-end-point"):
            if not PUBLIC_API_ONLY or kind == "tls-server-end-point" or priority == TLS13:
                self.assertEqual(
                    talk.tls.channelBinding(kind).hex(), _printed(program.said, f"'{kind}'")
                )


def _printed(said: str, what: str) -> str:
    """The bytes that it has printed under this name, in hexadecimal."""
    match = re.search(rf"{what}: ([0-9a-f]+)\n", said)
    assert match is not None, said
    return match[1]


class ServerTests(PeerCase):
    """C{gnutls-serv --echo} in mid-connection."""

    async def begin(self, priority: str) -> tuple[Program, HalfTalk]:
        """Connect, and say something each way."""
        port, program = await serv(self, "--echo", "--priority", priority)
        talk = await self.connect(port, HalfTalk())
        await self.say(talk, "first")
        return program, talk

    async def say(self, talk: Talk, what: str) -> None:
        """Data goes both ways still."""
        talk.say(f"{what}\n".encode())
        await talk.hear(f"{what}\n".encode())

    async def test_key_update(self) -> None:
        """In TLS 1.3 a rehandshake is a key update."""
        program, talk = await self.begin(TLS13)
        for at in range(4):
            talk.say(b"**REHANDSHAKE**\n")
            await talk.hear(b"Successfully executed command\n")
            await self.say(talk, f"after {at}")
        self.assertEqual(program.said.count("Sending rehandshake request"), 4)
        talk.close()
        self.assertIsInstance(await talk.gone(), ConnectionDone)

    async def test_renegotiation(self) -> None:
        """In TLS 1.2 it is refused with C{no_renegotiation}; gnutls-serv drops the connection."""
        program, talk = await self.begin(TLS12)
        talk.say(b"**REHANDSHAKE**\n")
        await program.wait_for("A TLS warning alert has been received")
        self.assertIsInstance(await talk.gone(), ConnectionLost)

    async def test_our_half_close_tls12(self) -> None:
        await self._our_half_close(TLS12)

    async def test_our_half_close_tls13(self) -> None:
        await self._our_half_close(TLS13)

    async def _our_half_close(self, priority: str) -> None:
        """All that was said before comes back after our close_notify."""
        _, talk = await self.begin(priority)
        for at in range(100):
            talk.say(f"line {at}\n".encode())
        talk.close_write()
        await talk.peer_closed()
        self.assertIsInstance(await talk.gone(), ConnectionDone)
        self.assertTrue(talk.heard.endswith(b"line 99\n"), talk.heard)


CHOICES: dict[str, tuple[str, str | None, str | None]] = {
    "group_secp384r1": ("-GROUP-ALL:+GROUP-SECP384R1", None, "secp384r1"),
    "group_x25519": ("-GROUP-ALL:+GROUP-X25519", None, "x25519"),
    "cipher_aes128": ("-CIPHER-ALL:+AES-128-GCM", "TLS_AES_128_GCM_SHA256", None),
    "cipher_chacha20": ("-CIPHER-ALL:+CHACHA20-POLY1305", "TLS_CHACHA20_POLY1305_SHA256", None),
}
"""What its priority string leaves of TLS 1.3, and the cipher or the group that comes of it."""


class ChoiceTests(PeerCase):
    """What GnuTLS offers or accepts, and what comes of it."""

    async def check_client(self, priority: str, cipher: str | None, group: str | None) -> None:
        server = await self.serve(page())
        program = cli(self, server.port, "--priority", f"{TLS13}:{priority}")
        await program.wait_for("Simple Client Mode")
        program.write("GET / HTTP/1.0\r\n\r\n")
        self.assertIn(GREETING.decode(), await program.succeeded())
        [facts] = server.facts
        self.assertIn(cipher, (None, facts.cipher))
        self.assertIn(group, (None, facts.group))

    async def check_server(self, priority: str, cipher: str | None, group: str | None) -> None:
        port, _ = await serv(self, "--http", "--priority", f"{TLS13}:{priority}")
        fetch = await self.connect(port, Fetch())
        self.assertIn("GnuTLS", await fetch.answer)
        self.assertIn(cipher, (None, fetch.facts.cipher))
        self.assertIn(group, (None, fetch.facts.group))

    async def test_short_records_tls12(self) -> None:
        await self._short_records(TLS12)

    async def test_short_records_tls13(self) -> None:
        await self._short_records(TLS13)

    async def _short_records(self, priority: str) -> None:
        """
        It wants records of 512 bytes at most: RFC 8449, and RFC 6066, section 4.  Of what it reads
        from its stdin at once it sends one such record, and drops the rest.
        """
        talks = Talks()
        server = await self.serve(talks)
        program = cli(self, server.port, "--recordsize", 512, "--priority", priority)
        talk = await talks.next()
        await program.wait_for("Simple Client Mode")
        text = lines(20_000)
        talk.say(text.encode())
        for at in range(10):
            program.write(f"their line {at}\n")
            await talk.hear(f"their line {at}\n".encode())
        talk.close()
        self.assertIn(text, await program.succeeded())
        self.assertIsInstance(await talk.gone(), ConnectionDone)

    async def test_client_version_refused(self) -> None:
        """TLS 1.1 is refused by an alert, and the next one is served."""
        server = await self.serve(page())
        program = cli(self, server.port, "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.1:%COMPAT")
        self.assertEqual(await program.ended(), 1)
        self.assertIn("protocol version", program.said)
        await stays_up(self, server)

    async def test_server_version_refused(self) -> None:
        """A server of TLS 1.1 alone."""
        port, _ = await serv(self, "--http", "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.1")
        reason = await self.connect_in_vain(port, PeerError)
        self.assertEqual(reason.alert, "handshake_failure")


def _add_choices() -> None:
    for name, choice in CHOICES.items():

        async def as_client(
            self: ChoiceTests, choice: tuple[str, str | None, str | None] = choice
        ) -> None:
            await self.check_client(*choice)

        async def as_server(
            self: ChoiceTests, choice: tuple[str, str | None, str | None] = choice
        ) -> None:
            await self.check_server(*choice)

        setattr(ChoiceTests, f"test_client_{name}", as_client)
        setattr(ChoiceTests, f"test_server_{name}", as_server)


_add_choices()


class CertificateTests(PeerCase):
    """Certificates that one end refuses, and the alerts that say why."""

    async def test_client_without_certificate(self) -> None:
        """gnutls-cli has none, and ours wants one."""
        server = await self.serve(page(), clientAuthorities=self.material.root)
        for priority, alert in ((TLS12, "Handshake failed"), (TLS13, "Certificate is required")):
            program = cli(self, server.port, "--priority", priority)
            await program.wait_for(alert)
            await program.ended()
        self.assertEqual(server.facts, [])
        await stays_up(self, server, certificate=True)

    async def test_our_certificate_missing(self) -> None:
        """gnutls-serv wants one, and ours has none."""
        port, _ = await serv(self, "--echo", "--priority", TLS12, certificate=True)
        reason = await self.connect_in_vain(port, AlertReceived)
        # A quirk of it: it says that the list with no certificate in it cannot be decoded.
        self.assertEqual(reason.alert, "decode_error")
        # In TLS 1.3 a client is connected before the server has looked.
        port, _ = await serv(self, "--echo", "--priority", TLS13, certificate=True)
        talk = await self.connect(port, Talk())
        gone = await talk.gone()
        assert isinstance(gone, AlertReceived)
        self.assertEqual(gone.alert, "certificate_required")

    async def test_other_name(self) -> None:
        """gnutls-serv is not who we want to talk to, and is told."""
        material = self.material
        material.server, material.server_key = material.issue("other", "other.example.org")
        for priority in (TLS12, TLS13):
            port, program = await serv(self, "--echo", "--priority", priority)
            reason = await self.connect_in_vain(port, CertificateRefused)
            self.assertIn("other.example.org", str(reason))
            # In TLS 1.3 OpenSSL's alert is in the clear here, which GnuTLS does not expect.
            await program.wait_for(
                "Error in handshake: "
                + ("Decryption has failed" if priority == TLS13 else "A TLS fatal alert")
            )

    async def test_our_other_name(self) -> None:
        """gnutls-cli finds that we are not who it wants to talk to."""
        material = self.material
        material.server, material.server_key = material.issue("other", "other.example.org")
        server = await self.serve(page())
        for priority in (TLS12, TLS13):
            program = cli(self, server.port, "--priority", priority)
            await program.wait_for("name in the certificate does not match the expected")
            self.assertEqual(await program.ended(), 1)
        # With TLS 1.2 it gives up before the handshake is done.
        self.assertEqual([each.version for each in server.facts], [])
