"""Certificates of clients, and the signatures that go with them."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.serialization import Encoding
from tlslite.constants import ExtensionType

from tests.conformance.cases import Case, Conformance, How, conforms, says
from tests.conformance.client import Client
from tests.conformance.hellos import KEY_SHARE, MODERN, OLDER, P384_ONLY, Hello, message, vector
from tests.conformance.keys import APPLICATION_DATA, HANDSHAKE
from tests.tls_material import (
    Party,
    authority,
    certificate,
    client,
    ec_key,
    expired,
    intermediate,
    not_yet_valid,
    server,
    stranger,
)

MUTUAL, GIVEN = ("mutual",), ("given",)
ASKING = ("mutual", "given")
_DER = client().certificate.public_bytes(Encoding.DER)

Make = Callable[[Client], bytes]
"""Makes a message, at the time when it is due."""


def self_signed() -> Party:
    return Party(certificate("myself", None, key=ec_key(3)), ec_key(3))


def chained() -> Party:
    """A client below an intermediate, which it sends along."""
    made = certificate("chained client", intermediate(), key=ec_key(2))
    return Party(made, ec_key(2), (intermediate().certificate,))


def unchained() -> Party:
    """The same without the intermediate."""
    return Party(chained().certificate, ec_key(2))


def shows(own: Party | None, said: Hello = MODERN) -> How:
    """Show this certificate, and ask for the page."""
    return lambda client: client.complete(said, own).serves()


def begun(client: Client, said: Hello) -> None:
    """All that comes before our certificate."""
    client.hello(said)
    client.server_hello()
    client.flight()


def sends(*messages: Make | bytes, said: Hello = MODERN) -> How:
    """Send these messages in place of a certificate and a signature, and go on."""

    def how(client: Client) -> str:
        begun(client, said)
        for each in messages:
            client.say(each if isinstance(each, bytes) else each(client))
        client.say(client.finished())
        client.begin_traffic()
        return client.serves()

    return how


def sends_12(first: Make | bytes, second: Make | bytes | None = None) -> How:
    """
    The same in TLS 1.2.

    @param first: in place of the certificate.
    @param second: in place of the signature, which there may be none of.
    """

    def how(client: Client) -> str:
        begun(client, OLDER)
        client.say(first if isinstance(first, bytes) else first(client))
        client.exchange_keys()
        if second is not None:
            client.say(second if isinstance(second, bytes) else second(client))
        client.change()
        client.say(client.finished())
        client.take_end()
        return client.serves()

    return how


def ours(client_: Client) -> bytes:
    """The usual client's certificate."""
    return client_.certificate_message(client())


def with_context(client_: Client) -> bytes:
    """The same, as the answer to a request with a context that there was not."""
    return client_.certificate_message(client(), b"\1\2\3")


def signed(client_: Client) -> bytes:
    """The usual client's signature."""
    return client_.verify_message(client())


def signed_by(party: Party) -> Make:
    return lambda client: client.verify_message(party)


def signed_wrong(client_: Client) -> bytes:
    return client_.verify_message(client(), flip=True)


def signed_as_server(client_: Client) -> bytes:
    return client_.verify_message(client(), context="server")


def signed_as(scheme: int) -> Make:
    return lambda client_: client_.verify_message(client(), scheme=scheme)


def signature(body: bytes) -> bytes:
    return message(15, body)


def certificates(*entries: bytes) -> bytes:
    """A certificate message of TLS 1.3."""
    return message(11, b"\0" + vector(3, b"".join(entries)))


def entry(der: bytes = _DER, extensions: bytes = b"") -> bytes:
    return vector(3, der) + vector(2, extensions)


def asks(said: Hello) -> How:
    """See what the server says of the certificate that it wants."""

    def how(client: Client) -> str:
        begun(client, said)
        request = client.request
        if request is None:
            return "nothing"
        if said is OLDER:
            return f"{request.certificate_types} {len(request.certificate_authorities)}"
        kinds = {each.extType for each in request.extensions}
        context = bytes(request.certificate_request_context)
        return f"{ExtensionType.signature_algorithms in kinds} {47 in kinds} {context!r}"

    return how


def keys_first_12(client: Client) -> None:
    """The key exchange of TLS 1.2 in place of a certificate."""
    begun(client, OLDER)
    client.exchange_keys()
    client.wait()


def data_first(client: Client) -> None:
    """Data in place of a certificate."""
    begun(client, MODERN)
    client.record(APPLICATION_DATA, b"GET")
    client.wait()


def of_200_kb(client_: Client) -> None:
    """The begin of a certificate message that says how long it will be."""
    begun(client_, MODERN)
    client_.record(HANDSHAKE, client_.certificate_message(client().padded(200_000))[:1000])
    client_.wait()


def certificate_later(client_: Client) -> None:
    """A certificate once the handshake is done."""
    client_.complete(MODERN, client())
    client_.record(HANDSHAKE, certificates(entry()))
    client_.wait()


_BROKEN = bytes([_DER[0] ^ 1]) + _DER[1:]
_UNFIT = "bad_certificate|decode_error|unsupported_certificate"
_NO_PLACE = "unexpected_message"
_ALIEN = "unknown_ca|bad_certificate"

CERTIFICATES = (
    # What the server asks for, and whom it lets in.
    Case("certificate is asked for", "True True b''|True False b''", "RFC 8446 4.3.2", asks(MODERN), ASKING),
    Case("certificate is asked for in TLS 1.2", "[1, 64] 1|[64] 1|[1, 2, 64] 1|[64, 1] 1|[1, 64, 2] 1", "RFC 5246 7.4.4", asks(OLDER), ASKING),
    Case("certificate is not asked for", "nothing", "RFC 8446 4.3.2", asks(MODERN)),
    Case("certificate is good", "serves", "RFC 8446 4.4.2", shows(client()), ASKING),
    Case("certificate is good in TLS 1.2", "serves", "RFC 5246 7.4.6", shows(client(), OLDER), ASKING),
    Case("certificate is good, after a second hello", "serves", "RFC 8446 4.4.2", shows(client(), P384_ONLY.plus(KEY_SHARE, b"\0\0")), ASKING),
    Case("certificate is good, with an intermediate", "serves", "RFC 8446 4.4.2", shows(chained()), ASKING),
    Case("certificate is good, without its intermediate", _ALIEN, "RFC 8446 6.2", shows(unchained()), ASKING),
    Case("certificate and the root", "serves", "RFC 8446 4.4.2", shows(Party(client().certificate, client().key, (authority().certificate,))), ASKING),
    Case("no certificate where there must be one", "certificate_required", "RFC 8446 4.4.2.4", shows(None), MUTUAL),
    Case("no certificate where there must be one in TLS 1.2", "handshake_failure", "RFC 5246 7.4.6", shows(None, OLDER), MUTUAL),
    Case("no certificate where there may be one", "serves", "RFC 8446 4.4.2.4", shows(None), GIVEN),
    Case("no certificate where there may be one in TLS 1.2", "serves", "RFC 5246 7.4.6", shows(None, OLDER), GIVEN),
    Case("certificate of a stranger", _ALIEN, "RFC 8446 6.2", shows(stranger()), ASKING),
    Case("certificate of a stranger in TLS 1.2", _ALIEN, "RFC 5246 7.2.2", shows(stranger(), OLDER), ASKING),
    Case("certificate that is signed by itself", _ALIEN, "RFC 8446 6.2", shows(self_signed()), ASKING),
    Case("certificate that has expired", "certificate_expired", "RFC 8446 6.2", shows(expired()), ASKING),
    Case("certificate that has expired in TLS 1.2", "certificate_expired", "RFC 5246 7.2.2", shows(expired(), OLDER), ASKING),
    Case("certificate that is not valid yet", "certificate_expired|bad_certificate", "RFC 8446 6.2", shows(not_yet_valid()), ASKING),
    Case("certificate for servers", "unsupported_certificate|bad_certificate", "RFC 8446 4.4.2.4", shows(server()), ASKING),
    # The message with it.
    Case("certificate is not one", _UNFIT, "RFC 8446 4.4.2.4", sends(certificates(entry(b"no certificate")), signed), ASKING),
    Case("certificate is broken", _UNFIT, "RFC 8446 4.4.2.4", sends(certificates(entry(_BROKEN)), signed), ASKING),
    Case("certificate is empty", "decode_error", "RFC 8446 4.4.2", sends(certificates(entry(b"")), signed), ASKING),
    Case("certificate has a byte after its end", _UNFIT, "RFC 8446 4.4.2", sends(certificates(entry(_DER + b"\0")), signed), ASKING),
    Case("certificate is shorter than it says", "decode_error", "RFC 8446 4.4.2", sends(message(11, b"\0" + vector(3, b"\0\x20\0" + _DER)), signed), ASKING),
    Case("certificates are shorter than they say", "decode_error", "RFC 8446 4.4.2", sends(message(11, b"\0\0\x20\0" + entry()), signed), ASKING),
    Case("certificates have a byte after their end", "decode_error", "RFC 8446 4.4.2", sends(message(11, b"\0" + vector(3, entry()) + b"\0"), signed), ASKING),
    Case("certificate message is empty", "decode_error", "RFC 8446 4.4.2", sends(message(11, b"")), ASKING),
    Case("certificate without its extensions", "decode_error", "RFC 8446 4.4.2", sends(certificates(vector(3, _DER)), signed), ASKING),
    Case("certificate in answer to another request", "illegal_parameter|decode_error", "RFC 8446 4.4.2", sends(with_context, signed), ASKING),
    Case("certificate with a status that nobody asked for", "unsupported_extension|illegal_parameter", "RFC 8446 4.4.2", sends(certificates(entry(_DER, b"\0\5\0\0")), signed), ASKING),
    Case("certificate with an extension of another message", "illegal_parameter|unsupported_extension", "RFC 8446 4.2", sends(certificates(entry(_DER, b"\0\x2b\0\0")), signed), ASKING),
    Case("certificate with an unknown extension", "unsupported_extension", "RFC 8446 4.2", sends(certificates(entry(_DER, b"\xfe\1\0\0")), signed), ASKING),
    Case("certificate of 200 KB", "decode_error|illegal_parameter|bad_certificate|record_overflow|internal_error", "RFC 8446 4.4.2", of_200_kb, ASKING),
    Case("certificate twice", _NO_PLACE, "RFC 8446 4.4", sends(ours, ours), ASKING),
    Case("certificate of TLS 1.2 is not one", _UNFIT, "RFC 5246 7.4.6", sends_12(message(11, vector(3, vector(3, b"no certificate"))), signed), ASKING),
    Case("certificates of TLS 1.2 are shorter than they say", "decode_error", "RFC 5246 7.4.6", sends_12(message(11, b"\0\x20\0" + vector(3, _DER)), signed), ASKING),
    Case("certificate message of TLS 1.2 is empty", "decode_error", "RFC 5246 7.4.6", sends_12(message(11, b"")), ASKING),
    # The order of messages.
    Case("no certificate message", _NO_PLACE, "RFC 8446 4.4", sends(), ASKING),
    Case("no certificate message in TLS 1.2", _NO_PLACE + "|handshake_failure", "RFC 5246 7.4.6", keys_first_12, ASKING),
    Case("signature before the certificate", _NO_PLACE, "RFC 8446 4.4", sends(signed, ours), ASKING),
    Case("certificate and no signature", _NO_PLACE, "RFC 8446 4.4.3", sends(ours), ASKING),
    Case("certificate and no signature in TLS 1.2", _NO_PLACE, "RFC 5246 7.4.8", sends_12(ours), ASKING),
    Case("no certificate and a signature", _NO_PLACE, "RFC 8446 4.4.3", sends(certificates(), signed), GIVEN),
    Case("no certificate and a signature in TLS 1.2", _NO_PLACE, "RFC 5246 7.4.8", sends_12(message(11, bytes(3)), signed), GIVEN),
    Case("signature twice", _NO_PLACE, "RFC 8446 4.4", sends(ours, signed, signed), ASKING),
    Case("key update in place of the certificate", _NO_PLACE, "RFC 8446 4.6.3", sends(b"\x18\0\0\1\0"), ASKING),
    # The signature.
    Case("signature is wrong", "decrypt_error", "RFC 8446 4.4.3", sends(ours, signed_wrong), ASKING),
    Case("signature is wrong in TLS 1.2", "decrypt_error", "RFC 5246 7.4.8", sends_12(ours, signed_wrong), ASKING),
    Case("signature by another key", "decrypt_error", "RFC 8446 4.4.3", sends(ours, signed_by(stranger())), ASKING),
    Case("signature by another key in TLS 1.2", "decrypt_error", "RFC 5246 7.4.8", sends_12(ours, signed_by(stranger())), ASKING),
    Case("signature is a server's", "decrypt_error", "RFC 8446 4.4.3", sends(ours, signed_as_server), ASKING),
    Case("signature is said to be of RSA and PSS", "illegal_parameter", "RFC 8446 4.4.3", sends(ours, signed_as(0x0804)), ASKING),
    Case("signature is said to be of RSA and PKCS#1", "illegal_parameter", "RFC 8446 4.4.3", sends(ours, signed_as(0x0401)), ASKING),
    Case("signature is said to be of SHA-1", "illegal_parameter", "RFC 8446 4.4.3", sends(ours, signed_as(0x0203)), ASKING),
    Case("signature is said to be of another curve", "illegal_parameter", "RFC 8446 4.4.3", sends(ours, signed_as(0x0503)), ASKING),
    Case("signature is said to be of no kind", "illegal_parameter", "RFC 8446 4.4.3", sends(ours, signed_as(0xFEFE)), ASKING),
    Case("signature is said to be of SHA-1 in TLS 1.2", "illegal_parameter|handshake_failure", "RFC 5246 7.4.8", sends_12(ours, signed_as(0x0203)), ASKING),
    Case("signature is said to be of no kind in TLS 1.2", "illegal_parameter|handshake_failure", "RFC 5246 7.4.8", sends_12(ours, signed_as(0xFEFE)), ASKING),
    Case("signature is empty", "decrypt_error|decode_error", "RFC 8446 4.4.3", sends(ours, signature(b"\4\3\0\0")), ASKING),
    Case("signature is no signature", "decrypt_error|decode_error", "RFC 8446 4.4.3", sends(ours, signature(b"\4\3" + vector(2, bytes(70)))), ASKING),
    Case("signature is shorter than it says", "decode_error", "RFC 8446 4.4.3", sends(ours, signature(b"\4\3\0\x50" + bytes(9))), ASKING),
    Case("signature has a byte after its end", "decode_error", "RFC 8446 4.4.3", sends(ours, signature(b"\4\3" + vector(2, bytes(70)) + b"\0")), ASKING),
    Case("signature message is empty", "decode_error", "RFC 8446 4.4.3", sends(ours, signature(b"")), ASKING),
    Case("hello asks for authentication after the handshake", "serves", "RFC 8446 4.2.6", says(MODERN.plus(49)), GIVEN),
    Case("data in place of the certificate", _NO_PLACE, "RFC 8446 A.2", data_first, ASKING),
    Case("certificate after the handshake that nobody asked for", _NO_PLACE, "RFC 8446 4.6.2", certificate_later, ASKING),
)  # fmt: skip


@conforms(CERTIFICATES)
class CertificateTests(Conformance):
    """The table."""
