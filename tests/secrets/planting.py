"""Files for a server, with a secret in each of them that has room for one."""

from __future__ import annotations

import json
import random
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from tests.peers.processes import free_port
from tests.secrets.planted import PrivateKey, Secret, of_key
from tests.tls_material import FOR_CLIENTS, HOST, authority, certificate
from twisted_bioconn.certificates import sealing

#: What is served: it is given secrets, has some of its own, and crashes with them at hand.
APPLICATION = """
import os
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

with open(os.path.join(os.path.dirname(__file__), "answer")) as file:
    ANSWER = file.read()

def application(environ, start_response):
    authorization, cookie = environ.get("HTTP_AUTHORIZATION"), environ.get("HTTP_COOKIE")
    query, own = environ["QUERY_STRING"], ANSWER
    body = environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/crash":
        raise RuntimeError("it crashes")
    if environ["PATH_INFO"] == "/nothing":
        return None
    headers = [("Content-Type", "text/plain"), ("Set-Cookie", "own=" + ANSWER)]
    if environ["PATH_INFO"] == "/bad":
        headers.append(("Bad", 5))
    start_response("200 OK", headers)
    if environ["PATH_INFO"] == "/late":
        return crash_late(own, body)
    return [own.encode()]

def crash_late(own, body):
    yield own.encode()
    raise RuntimeError("it crashes late")

class Crashing(Protocol):
    def connectionMade(self):
        self.own = ANSWER

    def dataReceived(self, data):
        secret, own = bytes(data), self.own
        how = secret[:1]
        self.transport.write(own.encode())
        if how == b"d":
            fail(RuntimeError("a Deferred fails"))
        elif how == b"l":
            reactor.callLater(0, crash, secret, own=own)
        elif how == b"t":
            deferToThread(crash, secret, own=own)
        elif how == b"e":
            raise LookupError("an entry is missing")
        elif how == b"a":
            self.transport.abortConnection()
        elif how == b"w":
            self.transport.write(own)

    def connectionLost(self, reason):
        own = self.own
        raise RuntimeError("it crashes at the end")

def crash(secret, own):
    raise RuntimeError("it crashes elsewhere")

class Made(Factory):
    protocol = Crashing
    noisy = False
    built = 0

    def buildProtocol(self, address):
        own = ANSWER
        self.built += 1
        if self.built % 5 == 0:
            raise RuntimeError("it cannot be built")
        return super().buildProtocol(address)

made = Made()

class Mail(Protocol):
    # It greets, and then sends back what comes.
    def connectionMade(self):
        self.transport.write(self.factory.greeting)

    def dataReceived(self, data):
        self.transport.write(data)

class Greeting(Factory):
    protocol = Mail
    noisy = False

    def __init__(self, greeting):
        self.greeting = greeting

smtp = Greeting(b"220 mail ESMTP\\r\\n")
imap = Greeting(b"* OK mail\\r\\n")
pop3 = Greeting(b"+OK mail\\r\\n")
"""


def marker(name: str) -> str:
    """Text that is nowhere else."""
    return f"{name}-{random.SystemRandom().getrandbits(96):024x}"


def written(key: PrivateKey, form: PrivateFormat, password: bytes | None = None) -> bytes:
    """A key as PEM."""
    how = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, form, how)


class Planted:
    """
    Files with secrets in them for a server, in a directory.

    @ivar secrets: all that is to be found nowhere.
    @ivar words: those that are text, by name.
    @ivar ports: those of the configuration, by what is there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.secrets: list[Secret] = []
        self.words: dict[str, str] = {}
        self.ports: dict[str, int] = {}
        self.keys: dict[str, PrivateKey] = {
            "EC": ec.generate_private_key(ec.SECP256R1()),
            "RSA": rsa.generate_private_key(65537, 2048),
            "sealed RSA": rsa.generate_private_key(65537, 2048),
            "PKCS #12": ec.generate_private_key(ec.SECP256R1()),
            "directory": ec.generate_private_key(ec.SECP384R1()),
            "client": ec.generate_private_key(ec.SECP256R1()),
            "stranger": ec.generate_private_key(ec.SECP256R1()),
        }
        for name, key in self.keys.items():
            self.secrets += of_key(f"key {name}", key)
        for name in (
            *("key's password", "wrong password", "PKCS #12 password", "sealing passphrase"),
            *("redis password", "HMAC key", "answer", "echoed", "relayed", "body", "file"),
            *("authorization", "cookie", "query", "before TLS", "after STARTTLS", "crashing"),
            *("in the clear: injected", "in the clear: garbage", "in the clear: request"),
        ):
            # With what is written differently in URLs, in JSON and by repr().
            self.plant(name, marker(name) + " +'/\"é")
        for name in ("authorization", "cookie", "answer", "query", "in the clear: request"):
            self.plant(name, marker(name.split()[0]))
        self.plant("HMAC key", marker("HMAC"))
        seal = self.words["sealing passphrase"].encode()
        salt = sha256(b"twisted_bioconn store\0bioconn:").digest()
        cost = Scrypt(salt=salt, length=32, n=sealing._COST, r=sealing._BLOCK_SIZE, p=1)
        self.secrets.append(Secret("sealing key", cost.derive(seal)))
        self.write()

    def plant(self, name: str, text: str) -> None:
        self.secrets = [each for each in self.secrets if each.name != name]
        self.words[name] = text
        self.secrets.append(Secret(name, text.encode()))

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def file(self, name: str, data: bytes) -> str:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return str(path)

    def certificate(self, name: str, *names: str, usage: Any = None) -> x509.Certificate:
        given = [x509.DNSName(each) for each in names]
        key: Any = self.keys[name]
        return certificate(name, authority(), key=key, names=given, usage=usage)

    def chain(self, name: str, *names: str, usage: Any = None) -> bytes:
        return self.certificate(name, *names, usage=usage).public_bytes(Encoding.PEM)

    def write(self) -> None:
        """All the files that the configuration names, and more."""
        words, keys = self.words, self.keys
        self.file("ca.pem", authority().certificate.public_bytes(Encoding.PEM))
        self.file("ec.pem", self.chain("EC", HOST) + written(keys["EC"], PrivateFormat.PKCS8))
        key = written(keys["RSA"], PrivateFormat.TraditionalOpenSSL)
        self.file("rsa.pem", self.chain("RSA", HOST) + key)
        password = words["key's password"].encode()
        self.file("sealed.crt", self.chain("sealed RSA", HOST))
        self.file("sealed.key", written(keys["sealed RSA"], PrivateFormat.PKCS8, password))
        self.file("key-password", password + b"\n")
        self.file("wrong-password", words["wrong password"].encode() + b"\n")
        self.file("p12-password", words["PKCS #12 password"].encode() + b"\n")
        self.file("phrase", words["sealing passphrase"].encode() + b"\n")
        self.file("binding", b"kid-1\n" + self.binding() + b"\n")
        self.file("swapped", self.binding() + b"\nkid.1\n")
        key = written(keys["directory"], PrivateFormat.TraditionalOpenSSL)
        self.file("certificates/d.pem", self.chain("directory", "d.example") + key)
        whole = pkcs12.serialize_key_and_certificates(
            b"it",
            keys["PKCS #12"],
            self.certificate("PKCS #12", "p.example"),
            None,
            BestAvailableEncryption(words["PKCS #12 password"].encode()),
        )
        self.file("certificates/p.p12", whole)
        self.whole = whole
        key = written(keys["client"], PrivateFormat.PKCS8)
        self.file("client.pem", self.chain("client", usage=FOR_CLIENTS) + key)
        stranger = certificate("stranger", None, key=keys["stranger"])
        key = written(keys["stranger"], PrivateFormat.PKCS8)
        self.file("stranger.pem", stranger.public_bytes(Encoding.PEM) + key)
        self.file("modules/app.py", APPLICATION.encode())
        self.file("modules/answer", words["answer"].encode())
        self.file("www/index.html", words["file"].encode())

    def binding(self) -> bytes:
        """The HMAC key as authorities give it out."""
        return b64encode(self.words["HMAC key"].encode()).rstrip(b"=")

    def spoil(self) -> None:
        """Have some files be what they should not, with what is secret still in them."""
        whole = Path(self.path("ec.pem")).read_bytes()
        rsa_key = written(self.keys["RSA"], PrivateFormat.TraditionalOpenSSL)
        self.file("ec.pem", whole[:-90] + b"=\n" + whole[-90:])
        self.file("certificates/cut.pem", rsa_key[: len(rsa_key) // 2])
        self.file("certificates/line.pem", rsa_key.replace(b"\n", b""))
        self.file("certificates/der.pem", self._der())
        self.file("certificates/text.pem", self.words["key's password"].encode() * 3)
        self.file("certificates/cut.p12", self.whole[:-40])
        self.file("certificates/none.p12", b"\x30" + self._der())
        self.file("certificates/of-another.key", rsa_key)
        self.file("p12-password", self.words["wrong password"].encode() + b"\n")

    def _der(self) -> bytes:
        key = self.keys["EC"]
        return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    def configuration(
        self, log: str, workers: int, redis: str | None, authority_url: str, roots: str
    ) -> str:
        """A configuration that names all of it."""
        url = f"redis://:{quote(self.words['redis password'], safe='')}@127.0.0.1:1"
        if redis is not None:
            url = redis
        page = "t.txt" if workers > 1 else "t.html"

        def table(**options: object) -> dict[str, object]:
            return {
                "port": free_port(),
                "interface": "127.0.0.1",
                "handshakeTimeout": 3,
                "closeTimeout": 1,
                **options,
            }

        socket_path = self.path("d.sock")
        trusted = {"clientAuthorities": self.path("ca.pem"), "privateKey": self.path("rsa.pem")}
        back = ":".join(
            [
                f"bioconn:{HOST}:1:endpoint=unix\\:{socket_path}",
                f"trustRoots={self.path('ca.pem')}:certificate={self.path('client.pem')}",
            ]
        )
        own = {"privateKey": self.path("ec.pem")}
        parts = {
            "wsgi": table(**own, wsgi="app:application", trace=self.path("t.txt")),
            "factory": table(
                privateKey=self.path("sealed.key"),
                certKey=self.path("sealed.crt"),
                passphraseFile=self.path("key-password"),
                factory="app:made",
                trace=self.path("t.json"),
            ),
            "relay": table(
                certificates=self.path("certificates"),
                passphraseFile=self.path("p12-password"),
                forward=back,
                trace=self.path("t.pcapng"),
            ),
            "clients": table(**trusted, echo=True, trace=self.path(page)),
            "echo": {
                **trusted,
                "endpoint": f"bioconn:endpoint=unix\\:{socket_path}",
                "echo": True,
            },
            "smtp": table(**own, starttls="smtp", factory="app:smtp", trace=self.path("t2.json")),
            "imap": table(**own, starttls="imap", factory="app:imap"),
            "pop3": table(**own, starttls="pop3", factory="app:pop3"),
            "xmpp": table(**own, starttls="xmpp", echo=True),
            "dead": table(**own, forward="tcp:127.0.0.1:1"),
            "web": table(**own, web=self.path("www"), plain="redirect"),
            "acme": table(
                acme="none",
                names=["a.example"],
                acmeDirectory=authority_url,
                acmeAuthorities=roots,
                acmeBinding=self.path("binding"),
                redis=url,
                passphraseFile=self.path("phrase"),
                echo=True,
            ),
            "development": table(echo=True),
        }
        self.ports = {
            name: int(str(each["port"])) for name, each in parts.items() if "endpoint" not in each
        }
        head = f'log = "{log}"\nworkers = {workers}\nstatus = "./s.sock"\ntrace-failures = true\n'
        return head + "".join(map(_as_toml, parts.values()))


def _as_toml(table: dict[str, object]) -> str:
    lines = [f"{name} = {json.dumps(table[name], ensure_ascii=False)}\n" for name in table]
    return "".join(["[[listen]]\n", *lines])
