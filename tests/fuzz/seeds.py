"""
Makes the corpora anew, by what really sends or writes such bytes: C{python -m tests.fuzz.seeds}.

It needs C{openssl}, C{gnutls-cli}, C{curl} and C{chromium}; what is not there makes no seeds.  The
keys are made for this, and for nothing else.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from struct import pack

from OpenSSL import SSL

from tests.fuzz.targets import CORPORA, TARGETS
from tests.fuzz.wire import _BEFORE
from tests.fuzz.written import PASSPHRASE
from tests.proxy_material import ADDRESSES, LINE, TLS_TLV, crc32c, tlv, v2
from tests.records import split
from tests.starttls.material import EXCHANGES
from tests.tls_material import VERSIONS, pair
from twisted_bioconn.connector import Connector
from twisted_bioconn.starttls import NAMES
from twisted_bioconn.trace.messages import MESSAGES

Seeds = dict[str, bytes]

_CHROMIUM = "--headless --no-sandbox --disable-gpu --ignore-certificate-errors"


def _first_flight(command: str) -> bytes | None:
    """What a program sends first to a port of ours."""
    program, *words = command.split()
    if shutil.which(program) is None:
        return None
    with socket.create_server(("127.0.0.1", 0)) as listening, tempfile.TemporaryDirectory() as home:
        listening.settimeout(30)
        words = [each.format(port=listening.getsockname()[1], home=home) for each in words]
        process = subprocess.Popen(
            [program, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            data = b""
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(2)
                with contextlib.suppress(TimeoutError):
                    while piece := connection.recv(1 << 16):
                        data += piece
            return data
        finally:
            process.kill()
            process.wait()


_CLIENTS = {
    "openssl-tls13": "openssl s_client -connect 127.0.0.1:{port} -servername www.example.org"
    " -alpn h2,http/1.1",
    "openssl-tls12": "openssl s_client -connect 127.0.0.1:{port} -tls1_2 -servername 192.0.2.7",
    "gnutls": "gnutls-cli --insecure --alpn h2 --sni-hostname www.example.org -p {port} 127.0.0.1",
    "gnutls-tls12": "gnutls-cli --insecure --priority NORMAL:-VERS-TLS1.3 -p {port} 127.0.0.1",
    "curl": "curl -sk https://localhost:{port}/",
    "chromium": f"chromium {_CHROMIUM} --user-data-dir={{home}} https://localhost:{{port}}/",
}


def hellos() -> Seeds:
    """Of several programs; of chromium its GREASE and its key shares after quantum computers."""
    found = {name: _first_flight(command) for name, command in _CLIENTS.items()}
    return {name: data for name, data in found.items() if data}


def _headers() -> Seeds:
    made = {
        "v1": LINE,
        "v1-ipv6": b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n",
        "v1-unknown": b"PROXY UNKNOWN\r\nGET / HTTP/1.0\r\n\r\n",
        "v2": v2(ADDRESSES) + b"\x16\x03\x01",
        "v2-local": v2(command=0x20, kind=0),
        "v2-unix": v2(b"/run/a".ljust(108, b"\0") + b"\0b".ljust(108, b"\0"), kind=0x31),
        "v2-ipv6": v2(bytes(range(36)), kind=0x21),
        "v2-tls": v2(ADDRESSES + tlv(1, b"h2") + tlv(2, b"a.example") + tlv(0x20, TLS_TLV)),
    }
    whole = v2(ADDRESSES + tlv(5, b"id") + tlv(3, bytes(4)))
    made["v2-checksum"] = whole[:-4] + pack(">I", crc32c(whole))
    sent = _first_flight("curl -sk --haproxy-protocol http://127.0.0.1:{port}/")
    return made | ({"curl": sent} if sent else {})


def _handshake(version: int) -> list[tuple[bool, bytes]]:
    """The flights between the usual two, each with whether it is the client's."""
    client, server = pair(version)
    ends = (Connector(client, True), Connector(server, False))
    for end in ends:
        end.write(b"hello")
    flights = []
    for _ in range(4):
        for is_client, end in ((True, ends[0]), (False, ends[1])):
            flight = b""
            while ciphertext := end.take():
                flight += ciphertext
            if flight:
                flights.append((is_client, flight))
                ends[is_client].feed(flight)
                ends[is_client].read()
    return flights


def _messages() -> Seeds:
    """The messages of handshakes, as both ends see them, TLS 1.3 decrypted."""
    numbers = list(MESSAGES)
    found: Seeds = {}
    for version in VERSIONS:
        is_13 = version == SSL.TLS1_3_VERSION

        def told(write: int, version: int, kind: int, data: bytes, is_13: bool = is_13) -> None:
            if kind == 22 and data and data[0] in numbers:
                number = numbers.index(data[0]) | (0x80 if is_13 else 0)
                name = f"{MESSAGES[data[0]].lower()}-{'13' if is_13 else '12'}"
                found[name] = bytes([number]) + data[4:]

        for is_client, flight in _handshake(version):
            for record in split(flight):
                if record[0] == 22:
                    told(int(is_client), version, 22, record[5:])
    return found


def _run(*words: str | Path, directory: Path) -> None:
    subprocess.run(words, cwd=directory, check=True, capture_output=True)


def _files() -> tuple[Seeds, Seeds]:
    """PEM and PKCS #12 as C{openssl} writes them."""
    secret = f"pass:{PASSPHRASE.decode()}"
    with tempfile.TemporaryDirectory() as name:
        at = Path(name)
        _run(
            *"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes".split(),
            *"-subj /CN=a.example -addext subjectAltName=DNS:a.example,IP:192.0.2.7".split(),
            *"-days 36500 -keyout key.pem -out cert.pem".split(),
            directory=at,
        )
        _run(
            *"openssl pkcs8 -topk8 -in key.pem -iter 2048 -out pbes2.pem -passout".split(),
            secret,
            directory=at,
        )
        _run(*"openssl ec -in key.pem -aes128 -out old.pem -passout".split(), secret, directory=at)
        _run(*"openssl genpkey -algorithm ed25519 -out ed.pem".split(), directory=at)
        (at / "index").write_text("")
        (at / "number").write_text("01")
        (at / "ca.cnf").write_text(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index\ncrlnumber=number\ndefault_md=sha256\n"
        )
        _run(
            *"openssl ca -config ca.cnf -gencrl -crldays 30000 -keyfile key.pem".split(),
            *"-cert cert.pem -out crl.pem".split(),
            directory=at,
        )
        texts = {
            "certificate": (at / "cert.pem").read_bytes(),
            "key": (at / "key.pem").read_bytes(),
            "key-encrypted": (at / "pbes2.pem").read_bytes(),
            "key-encrypted-rfc1421": (at / "old.pem").read_bytes(),
            "key-ed25519": (at / "ed.pem").read_bytes(),
            "both": (at / "cert.pem").read_bytes() + (at / "key.pem").read_bytes(),
            "both-encrypted": (at / "cert.pem").read_bytes() + (at / "pbes2.pem").read_bytes(),
            "crl": (at / "crl.pem").read_bytes(),
        }
        bags = {}
        for kind, words in {
            "plain": "-keypbe NONE -certpbe NONE -nomac",
            "mac": "-keypbe NONE -certpbe NONE",
            "aes": "-iter 2048 -keypbe AES-256-CBC -certpbe AES-256-CBC",
            "3des": "-iter 2048 -legacy -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES",
            "no-key": "-nokeys",
        }.items():
            out = at / kind
            _run(
                *f"openssl pkcs12 -export -in cert.pem -inkey key.pem {words} -out".split(),
                out,
                "-passout",
                secret,
                directory=at,
            )
            bags[kind] = out.read_bytes()
        _run(*"openssl x509 -in cert.pem -outform der -out der".split(), directory=at)
        return texts, bags | {"certificate": (at / "der").read_bytes()}


_CONFIGURATION = b"""\
state = "/var/lib/bioconn"
workers = "auto"

[[listen]]
port = 443
certificates = "/etc/names"
policy = "modern"
alpn = ["h2", "http/1.1"]
forward = "127.0.0.1:8080"
allow = ["ou=ops&network=10.0.0.0/8", { cn = "Doe, John" }]

  [[listen.route]]
  names = ["a.example", "*.b.example"]
  forward = "unix:/run/a"

[[listen]]
endpoint = "tcp:8443:interface=127.0.0.1"
privateKey = '/etc/key.pem'
handshakeTimeout = 5.5
web = \"\"\"/srv/\\
   www\"\"\"
"""
_SYNTAX = (
    rb'''a.'b.c'."d\u00e9\"" = """ two quotes """""  # and a comment
[x.y]
z = [ [1, 2.5e3], { q = ']', r.s = "}" }, 1979-05-27T07:32:00Z, # in it
  '''
    + b"""'''raw '''''"""
    + rb""", true, inf, ]
[[x.l]]
[x.l.m]
n = 0xff
[[x.l]]
"" = 1
"""
)
_RULES = {
    "one": "cn=client",
    "several": 'ou=ops&network=10.0.0.0/8,cn="Doe, John",anyone&address=192.0.2.7',
    "names": "uri=spiffe://example.org/*,dns=a.example,email=a@example.org",
    "pin": "pin=" + "ab" * 32 + "&name=www.example.org",
    "quotes": 'o="a ""b"" & c"&issuer="CN=x,O=y"',
    "ipv6": "network=2001:db8::/32&anyone,address=::1",
}
_STRINGS = {
    "usual": "bioconn:443:interface=127.0.0.1:alpn=h2,http/1.1:policy=modern:backlog=50",
    "times": "bioconn:8443:handshakeTimeout=5:closeTimeout=off:idleTimeout=1e3:maxLifetime=60",
    "before": r"bioconn:port=25:starttls=smtp:hostName=a.example:proxyProtocol=10.0.0.0/8\,\:\:1",
    "plain": "bioconn:443:plain=forward:plainAfter=0.3",
    "limits": "bioconn:443:maxConnections=10:maxPerAddress=2:maxHandshakes=5:handshakeRate=9",
    "clients": r"bioconn:443:clientCertificate=request:allow=cn\=a,ou\=b&network\=10.0.0.0/8",
    "pins": "sha256:" + "0f" * 32 + "," + ":".join(["ab"] * 32),
    "method": "bioconn:443:privateKey=a.pem:certKey=b.pem:sslmethod=TLSv1_2_METHOD",
}


def _texts(given: dict[str, str]) -> Seeds:
    return {name: text.encode() for name, text in given.items()}


def seeds() -> dict[str, Seeds]:
    """All of them, by their targets."""
    said = hellos()
    headers = _headers()
    openssl = said.get("openssl-tls13", b"")
    dialogues, before = {}, {}
    for number, name in enumerate(NAMES):
        exchanges = EXCHANGES[name]
        dialogues[f"{name}-client"] = bytes([2 * number, 0]) + b"".join(a for _, a in exchanges)
        dialogues[f"{name}-server"] = bytes([2 * number + 1, 1]) + b"".join(a for a, _ in exchanges)
    for number, options in enumerate(_BEFORE):
        head = headers["v1"] if options.proxies else b""
        if options.starttls is not None:
            head += b"".join(asked for asked, _ in EXCHANGES[options.starttls])
        if options.plain.value == "redirect":
            head += b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"
        elif options.starttls is None:
            head += openssl
        before[f"{number:02}"] = bytes([2 * number + number % 2, number % 3]) + head
    flights = {version: _handshake(version) for version in VERSIONS}
    arrived = {
        f"{version:x}-{number}": bytes([int(is_client) ^ 1]) + flight
        for version in VERSIONS
        for number, (is_client, flight) in enumerate(flights[version][:2])
    }
    texts, bags = _files()
    return {
        "access": _texts(_RULES),
        "backend-greeting": {
            name: bytes([number]) + EXCHANGES[name][0][1] + b"250 OK\r\n"
            for number, name in enumerate(("smtp", "lmtp", "imap", "pop3"))
        }
        | {
            "lines": b"\x00220-mail.example.org\r\n220 ready\r\n",
            "refused": b"\x00421 too many\r\n",
            "bye": b"\2* BYE not now\r\n",
            "known": b"\2* PREAUTH welcome\r\n",
        },
        "configuration": {
            "listeners": _CONFIGURATION,
            "syntax": _SYNTAX,
            "least": b"[[listen]]\nport = 0\necho = 1",
        },
        "connector-bytes": {
            **arrived,
            "alert": b"\x01\x15\x03\x03\0\2\2\x28",
            "http": b"\x00GET / HTTP/1.0\r\n\r\n",
            **{name: b"\0" + said[name] for name in said if name != "chromium"},
        },
        "connector-handshake": {
            "tls12": b"\0",
            "tls13": b"\1",
            "flipped": b"\1\1\0\x40\0\x01",
            "cut-and-doubled": b"\0\3\1\x80\0\0\2\5\0\0\0",
            "put-in": b"\1\4\4\0\0\x17\2\2\0\x20\x30",
        },
        "endpoint": _texts(_STRINGS),
        "hello": said,
        "pem": texts,
        "pkcs12": bags,
        "preamble": before,
        "proxy": headers,
        "starttls": dialogues,
        "trace-messages": _messages(),
        "trace-records": {
            f"{version:x}-{number}": flight
            for version in VERSIONS
            for number, (_, flight) in enumerate(flights[version][:3])
        },
    }


def _write(directory: Path, made: Iterable[tuple[str, bytes]], longest: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("seed-*"):
        old.unlink()
    for name, data in made:
        (directory / f"seed-{name}").write_bytes(data[:longest])


if __name__ == "__main__":
    for target, made in seeds().items():
        _write(CORPORA / target, made.items(), min(TARGETS[target].longest, 4096))
