"""What C{openssl s_client} can do beyond the matrix."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory

from tests.peers.echo import Echo, lines
from tests.peers.ours import (
    GREETING,
    HalfTalk,
    PeerCase,
    Server,
    Talk,
    Talks,
    page,
    stays_up,
)
from tests.peers.processes import Program
from tests.peers.with_openssl import REQUEST, VERSIONS, s_client
from twisted_bioconn._openssl import PUBLIC_API_ONLY
from twisted_bioconn.protocol import AlertReceived


class CommandTests(PeerCase):
    """What is typed into its stdin in mid-connection."""

    async def begin(self, kind: type[Talk], *arguments: object) -> tuple[Program, Talk]:
        """Connect, and say something each way."""
        self.talks = Talks(kind)
        self.server = await self.serve(self.talks)
        return await self.connect_another(*arguments)

    async def connect_another(self, *arguments: object) -> tuple[Program, Talk]:
        """Another client of the same server."""
        program = s_client(self, self.server.port, *arguments)
        talk = await self.talks.next()
        # What else it has to say of the handshake it has said before this.
        await program.wait_for("Verify return code")
        await self.say_both_ways(program, talk, "first")
        return program, talk

    async def say_both_ways(self, program: Program, talk: Talk, what: str) -> None:
        """Data goes both ways still."""
        program.write(f"their {what}\n")
        await talk.hear(f"their {what}\n".encode())
        talk.say(f"our {what}\n".encode())
        await program.wait_for(f"our {what}\n")

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
        program.write("Q\n")
        await program.succeeded()
        self.assertIsInstance(await talk.gone(), ConnectionDone)

    async def test_renegotiation(self) -> None:
        """
        A renegotiation is refused with C{no_renegotiation}; s_client gives up then, with an alert
        of its own.
        """
        program, talk = await self.begin(Talk, VERSIONS["TLSv1.2"])
        program.write("R\n")
        await program.wait_for("RENEGOTIATING")
        program.write("after it\n")
        self.assertEqual(await program.ended(), 1)
        self.assertIn("no renegotiation", program.said)
        reason = await talk.gone()
        assert isinstance(reason, AlertReceived)
        self.assertEqual(reason.alert, "handshake_failure")
        await self.connect_another(VERSIONS["TLSv1.2"])

    async def test_end_of_input_tls12(self) -> None:
        await self._end_of_input("TLSv1.2")

    async def test_end_of_input_tls13(self) -> None:
        await self._end_of_input("TLSv1.3")

    async def _end_of_input(self, version: str) -> None:
        """It sends close_notify and waits for ours a moment; what we send until then it drops."""
        program, talk = await self.begin(HalfTalk, VERSIONS[version])
        assert isinstance(talk, HalfTalk)
        program.end_input()
        await talk.peer_closed()
        talk.say(bytes(1_000_000))
        talk.close()
        await program.succeeded()
        self.assertIsInstance(await talk.gone(), ConnectionDone)

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
        await program.wait_for("closed")
        await program.succeeded()
        await talk.peer_closed()
        self.assertIsInstance(await talk.gone(), ConnectionDone)


class ReconnectTests(PeerCase):
    """
    C{-reconnect}: it drops the connection and makes it again, five times, with the session.
    """

    async def test_tls12(self) -> None:
        server = await self._reconnect("TLSv1.2", certificate=False)
        self.assertEqual([each.resumed for each in server.facts], [False] + [True] * 5)

    async def test_tls12_certificate(self) -> None:
        server = await self._reconnect("TLSv1.2", certificate=True)
        self.assertEqual([each.resumed for each in server.facts], [False] + [True] * 5)
        self.assertEqual(len({each.peer_certificate for each in server.facts}), 1)

    async def test_tls13(self) -> None:
        """It drops the connection before it reads the ticket, and has no session to resume."""
        server = await self._reconnect("TLSv1.3", certificate=False)
        self.assertEqual([each.resumed for each in server.facts], [False] * 6)

    async def _reconnect(self, version: str, certificate: bool) -> Server:
        options = {"clientAuthorities": self.material.root} if certificate else {}
        talks = Talks()
        server = await self.serve(talks, **options)
        program = s_client(
            self, server.port, VERSIONS[version], "-reconnect", certificate=certificate
        )
        for _ in range(6):
            talk = await talks.next()
        talk.say(b"on the last one\n")
        await program.wait_for("on the last one")
        program.end_input()
        await program.succeeded()
        self.assertEqual({type(each) for each in await server.ended(6)}, {ConnectionDone})
        return server


@frozen
class Choice:
    """Arguments, and what is agreed on with them."""

    arguments: tuple[str, ...]
    cipher: str | None = None
    group: str | None = None


CHOICES = {
    "cipher_aes128": Choice(
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"), "ECDHE-ECDSA-AES128-GCM-SHA256"
    ),
    "cipher_chacha20": Choice(
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"), "ECDHE-ECDSA-CHACHA20-POLY1305"
    ),
    "cipher_order": Choice(
        ("-tls1_2", "-cipher", "AES128-SHA:ECDHE-ECDSA-AES256-GCM-SHA384"),
        "ECDHE-ECDSA-AES256-GCM-SHA384",
    ),
    "ciphersuite_aes128": Choice(
        ("-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"), "TLS_AES_128_GCM_SHA256"
    ),
    "ciphersuite_chacha20": Choice(
        ("-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"),
        "TLS_CHACHA20_POLY1305_SHA256",
    ),
    "group_x25519": Choice(("-tls1_3", "-groups", "X25519"), group="x25519"),
    "group_p256": Choice(("-tls1_3", "-groups", "P-256"), group="secp256r1"),
    # It sends a key share for its first one alone, so that ours asks for another.
    "group_asked_for": Choice(("-tls1_3", "-groups", "P-521:P-384"), group="secp384r1"),
    "group_tls12": Choice(("-tls1_2", "-groups", "P-384:P-256"), group="secp384r1"),
    "short_records": Choice(("-tls1_3", "-max_send_frag", "512")),
    "short_records_both_ways_tls12": Choice(("-tls1_2", "-maxfraglen", "512")),
    "short_records_both_ways_tls13": Choice(("-tls1_3", "-maxfraglen", "1024")),
    "padding": Choice(("-tls1_3", "-record_padding", "4096")),
    "no_ticket": Choice(("-tls1_2", "-no_ticket")),
}
"""What it can be told to offer."""

REFUSALS = {
    "cipher": (("-tls1_2", "-cipher", "AES128-SHA"), "handshake failure"),
    "group": (("-tls1_3", "-groups", "P-521"), "handshake failure"),
    "version": (("-tls1_1", "-cipher", "ALL@SECLEVEL=0"), "protocol version"),
    "application_protocol": (("-alpn", "gopher"), "no application protocol"),
}
"""What ours accepts none of, and the alert that it sends."""


class ChoiceTests(PeerCase):
    """What it offers, and what comes of it."""

    async def check_choice(self, choice: Choice) -> None:
        """Many lines go to and fro, over what was chosen."""
        if choice.group is not None and PUBLIC_API_ONLY:
            choice = Choice(choice.arguments)
        server = await self.serve(Factory.forProtocol(Echo))
        program = s_client(self, server.port, *choice.arguments)
        await program.wait_for("Verify return code")
        text = lines(10_000)
        program.write(text)
        await program.wait_for("line 9999\n")
        self.assertIn(text, program.said.replace("read R BLOCK\n", ""))
        program.write("Q\n")
        await program.succeeded()
        [facts] = server.facts
        self.assertIn(choice.cipher, (None, facts.cipher))
        self.assertIn(choice.group, (None, facts.group))
        self.assertIsInstance((await server.ended(1))[0], ConnectionDone)

    async def check_refusal(self, arguments: tuple[str, ...], alert: str) -> None:
        """It is told by an alert, and the next one is served."""
        server = await self.serve(page())
        program = s_client(self, server.port, *arguments)
        self.assertEqual(await program.ended(), 1)
        self.assertIn(f"alert {alert}", program.said)
        self.assertEqual(server.facts, [])
        await stays_up(self, server)


for _name, _choice in CHOICES.items():

    async def _test(self: ChoiceTests, choice: Choice = _choice) -> None:
        await self.check_choice(choice)

    setattr(ChoiceTests, f"test_{_name}", _test)

for _name, _refusal in REFUSALS.items():

    async def _refused(self: ChoiceTests, refusal: tuple[tuple[str, ...], str] = _refusal) -> None:
        await self.check_refusal(*refusal)

    if _name == "group" and PUBLIC_API_ONLY:
        _refused.skip = "pyOpenSSL has no public call that sets the groups"  # type: ignore[attr-defined]
    setattr(ChoiceTests, f"test_refused_{_name}", _refused)


class CertificateTests(PeerCase):
    """Certificates of clients, right and wrong."""

    async def refused(self, version: str, *own: object) -> str:
        """
        A client that is not let in.

        @return: what it has said.
        """
        server = await self.serve(page(), clientAuthorities=self.material.root)
        program = s_client(self, server.port, VERSIONS[version], *own)
        program.write(REQUEST)
        self.assertEqual(await program.ended(), 1)
        self.assertNotIn(GREETING.decode(), program.said)
        self.assertEqual(server.facts, [], "its connection reached the application")
        await stays_up(self, server, certificate=True)
        return program.said

    async def test_none_tls12(self) -> None:
        self.assertIn("alert handshake failure", await self.refused("TLSv1.2"))

    async def test_none_tls13(self) -> None:
        self.assertIn("alert certificate required", await self.refused("TLSv1.3"))

    async def test_unknown_authority_tls12(self) -> None:
        self.assertIn("alert unknown ca", await self.refused("TLSv1.2", *self._without_chain()))

    async def test_unknown_authority_tls13(self) -> None:
        self.assertIn("alert unknown ca", await self.refused("TLSv1.3", *self._without_chain()))

    def _without_chain(self) -> list[str | Path]:
        """Without its intermediate there is no way from a certificate to the root."""
        return ["-cert", self.material.client, "-key", self.material.client_key]

    async def test_if_given(self) -> None:
        """With C{clientCertificate=verifyIfGiven} both kinds are served, and known apart."""
        server = await self.serve(
            page(),
            clientAuthorities=self.material.root,
            clientCertificate="verifyIfGiven",
        )
        for certificate in (False, True):
            program = s_client(self, server.port, certificate=certificate)
            program.write(REQUEST)
            self.assertIn(GREETING.decode(), await program.succeeded())
        self.assertEqual([len(each.peer_chain) for each in server.facts], [0, 2])


class KeyingMaterialTests(PeerCase):
    """Both ends derive the same keys: RFC 5705, and RFC 8446, section 7.5."""

    async def test_tls12(self) -> None:
        await self._same("TLSv1.2")

    async def test_tls13(self) -> None:
        await self._same("TLSv1.3")

    async def _same(self, version: str) -> None:
        talks = Talks()
        server = await self.serve(talks)
        program = s_client(
            self,
            server.port,
            *(VERSIONS[version], "-keymatexport", "EXPERIMENTAL", "-keymatexportlen", 32),
        )
        talk = await talks.next()
        match = await program.wait_for(r"Keying material: (\w{64})\n")
        ours = talk.tls.exportKeyingMaterial(b"EXPERIMENTAL", 32)
        self.assertEqual(bytes.fromhex(match[1]), ours)
        program.end_input()
        await program.succeeded()
