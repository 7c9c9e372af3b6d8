"""
An authority for development, kept in a state directory, and what it issues.

It stands in for a real authority on one machine: its certificate is made once and lasts ten years,
so that a browser or C{curl --cacert} is told of it once; the leaf lasts thirty days and is renewed
by itself.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta

import idna
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from twisted_bioconn.certificates.folders import force, make_folders
from twisted_bioconn.certificates.loading import (
    CertifiedKey,
    create_private,
    issued,
    load_certificates,
    read_file,
    remove_abandoned,
    write_private,
    write_public,
)
from twisted_bioconn.errors import ConfigurationError

AUTHORITY_LIFE = timedelta(days=3650)
"""How long an authority is valid."""

LEAF_LIFE = timedelta(days=30)
"""How long a leaf is valid, unless its authority ends before."""

SKEW = timedelta(hours=1)
"""How long before its making a certificate is valid: a client's clock may be slow."""

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
"""The names of a server that is visited from its own machine."""

_LONGEST_COMMON_NAME = 64  # characters: RFC 5280, appendix A.1, ub-common-name
_LONGEST_DNS_NAME = 253  # characters: RFC 1035, section 2.3.4, less what only the wire form has
_Name = x509.DNSName | x509.IPAddress
_TEMPORARY = re.compile(r"\.(?:ca|ca-key|leaf)\.pem\.[A-Za-z0-9_]{8}")
_LABEL = re.compile("[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def state_directory(given: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """
    The absolute path of the directory in which state is kept; it need not exist yet.

    The first of: C{given}; the first directory in $STATE_DIRECTORY (systemd.exec(5) separates them
    with colons); C{bioconn} in $XDG_STATE_HOME, where that is absolute (the XDG Base Directory
    Specification has a relative one ignored); C{~/.local/state/bioconn}.

    @raise ConfigurationError: there is not even a home directory.
    """
    if given:
        return os.path.abspath(os.path.expanduser(given))
    by_systemd = environ.get("STATE_DIRECTORY", "").split(":", 1)[0]
    if by_systemd:
        return os.path.abspath(by_systemd)
    by_xdg = environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(by_xdg):
        return os.path.join(by_xdg, "bioconn")
    home = environ.get("HOME") or os.path.expanduser("~")
    if not os.path.isabs(home):
        raise ConfigurationError(
            "there is no state directory: none was given, and none of STATE_DIRECTORY,"
            " XDG_STATE_HOME and HOME is set"
        )
    return os.path.join(home, ".local", "state", "bioconn")


def _utc_now() -> datetime:
    return datetime.now(UTC)


class DevelopmentAuthority:
    """
    An authority whose certificate and key are kept in a directory, and made there on first use.

    Three files: C{ca.pem}, the certificate, for those who are to trust it; C{ca-key.pem} (mode
    0600), the key I{and} the certificate; C{leaf.pem} (mode 0600), the key and certificate that
    L{leaf} keeps. The pair in C{ca-key.pem} is one file so that no crash, and no two processes that
    start at once, leave a certificate with another's key: the file is made whole or not at all, by
    one process alone. C{ca.pem} is copied from it where it is missing.

    An authority that is damaged, mismatched, expired or not valid yet is refused with a sentence
    that says how to recover. It is never replaced, for others were told to trust it. One that
    expires within L{LEAF_LIFE} serves on to its end; its leaves end with it, and L{expires_soon}
    is there for a caller to warn by.

    @ivar directory: the state directory; it is made (mode 0700) if it is not there.
    @ivar certificate_path: the path of C{ca.pem}, as C{curl --cacert} wants it.
    """

    def __init__(self, directory: str, now: Callable[[], datetime] = _utc_now) -> None:
        """
        @param now: the present time, aware.
        @raise ConfigurationError: the authority can be neither loaded nor made.
        """
        self.directory = os.path.abspath(directory)
        self.certificate_path = os.path.join(self.directory, "ca.pem")
        self._key_path = os.path.join(self.directory, "ca-key.pem")
        self._leaf_path = os.path.join(self.directory, "leaf.pem")
        self._now = now
        self._leaf: CertifiedKey | None = None
        self._make_files()
        self._authority = self._load()
        self._check_dates()

    @property
    def not_valid_after(self) -> datetime:
        """When the authority expires, an aware time in UTC."""
        return self._authority.not_valid_after

    @property
    def expires_soon(self) -> bool:
        """Whether the authority expires before a leaf of full length would."""
        return self._now() + LEAF_LIFE > self.not_valid_after

    def issue(self, names: Iterable[str] = LOCAL_NAMES) -> CertifiedKey:
        """
        Issue a server's certificate.

        @param names: DNS names (a C{*} for the first label is allowed; not ASCII: see UTS 46) and
            IP addresses.
        @raise ConfigurationError: there is no name, one is neither, or the authority has expired.
        """
        return self._issue(general_names(names), ExtendedKeyUsageOID.SERVER_AUTH)

    def issue_client(self, name: str) -> CertifiedKey:
        """
        Issue a client's certificate, with C{name} as its common name; where it is a DNS name or an
        IP address, it is in the subject alternative name as well.

        @raise ConfigurationError: the name is empty, or longer than a common name may be (64
            characters), or the authority has expired.
        """
        if not name.strip() or len(name) > _LONGEST_COMMON_NAME or not name.isprintable():
            raise ConfigurationError(
                f"{name!r} cannot be a client's name: it needs 1 to {_LONGEST_COMMON_NAME}"
                " printable characters"
            )
        try:
            alternatives = [_general_name(name)]
        except ConfigurationError:
            alternatives = []
        return self._issue(alternatives, ExtendedKeyUsageOID.CLIENT_AUTH, name)

    def leaf(self, names: Iterable[str] = LOCAL_NAMES) -> CertifiedKey:
        """
        The server's certificate that is kept in the directory. It is issued anew when it is
        missing, damaged, past two thirds of its life, of other names or another authority's.

        @raise ConfigurationError: as L{issue}, or the new one cannot be written.
        """
        wanted = general_names(names)
        self._check_dates()
        leaf = self._kept(wanted)
        if leaf is None:
            leaf = self._issue(wanted, ExtendedKeyUsageOID.SERVER_AUTH)
            write_private(self._leaf_path, leaf.to_pem())
            force(self.directory)
        self._leaf = leaf
        return leaf

    def kept_leaf(self, names: Iterable[str] = LOCAL_NAMES) -> CertifiedKey | None:
        """
        The certificate in the directory, if it is still good, though it may be due to be renewed:
        for when L{leaf} cannot do that.
        """
        leaf = self._leaf = self._kept(general_names(names), is_due=True)
        return leaf

    def seconds_until_renewal(self) -> float:
        """
        How long the last L{leaf} is good for, after which L{leaf} is to be called again: 0 or more,
        and 0 where it was not called yet, or where the leaf is from the future: the clock was ahead
        when it was made, and has been set back.
        """
        if self._leaf is None or self._now() < self._leaf.leaf.not_valid_before_utc:
            return 0.0
        return max(0.0, (self._renewal(self._leaf) - self._now()).total_seconds())

    def _make_files(self) -> None:
        try:
            # Those above it too, which os.makedirs() would leave to the umask.
            make_folders(self.directory)
        except OSError as error:
            if os.path.isfile(self.directory):
                raise ConfigurationError(f"{self.directory} is a file, not a directory") from None
            raise ConfigurationError(
                f"the directory {self.directory} cannot be made: {error.strerror}"
            ) from error
        remove_abandoned(self.directory, _TEMPORARY, self._now().timestamp())
        # In this order: whoever sees a certificate sees its key, for the key is there first.
        published = os.path.lexists(self.certificate_path)
        if not os.path.lexists(self._key_path):
            if published:
                raise ConfigurationError(
                    f"{self.certificate_path} is there without its key {self._key_path};"
                    f" {self._recovery()}"
                )
            # Where another process was quicker, its pair is what is loaded.
            create_private(self._key_path, _new_authority(self._now()).to_pem())
            # Nor may a loss of power leave the certificate alone.
            force(self.directory)
        if not published:
            pair = read_file(self._key_path)
            try:
                certificate = load_certificates(pair, self._key_path)[0]
            except ConfigurationError as error:
                raise ConfigurationError(f"{error}; {self._recovery()}") from None
            write_public(self.certificate_path, certificate.public_bytes(Encoding.PEM))
            force(self.directory)

    def _load(self) -> CertifiedKey:
        for path in (self.certificate_path, self._key_path):
            read_file(path)  # what cannot be read may be sound: no advice to throw it away
        try:
            authority = CertifiedKey.from_files(self.certificate_path, self._key_path)
            certificate = authority.leaf
            if not isinstance(authority.key, ec.EllipticCurvePrivateKey):
                raise ConfigurationError(f"{self._key_path} holds no EC key")
            if not _is_authority(certificate):
                raise ConfigurationError(f"{self.certificate_path} is not an authority's")
            if not issued(certificate, certificate):
                raise ConfigurationError(
                    f"{self.certificate_path} is damaged: it has a bad signature"
                )
        except ConfigurationError as error:
            raise ConfigurationError(f"{error}; {self._recovery()}") from None
        return authority

    def _recovery(self) -> str:
        return (
            f"to have a new authority made, which clients must then be told to trust, remove"
            f" {self.certificate_path} and {self._key_path}"
        )

    def _check_dates(self) -> None:
        begin = self._authority.leaf.not_valid_before_utc
        if self._now() < begin:
            raise ConfigurationError(
                f"{self.certificate_path} is not valid before {begin:%Y-%m-%d %H:%M} UTC: set the"
                f" clock, or, {self._recovery()}"
            )
        if self._now() >= self.not_valid_after:
            raise ConfigurationError(
                f"{self.certificate_path} has expired on {self.not_valid_after:%Y-%m-%d};"
                f" {self._recovery()}"
            )

    def _kept(self, wanted: list[_Name], is_due: bool = False) -> CertifiedKey | None:
        """
        The leaf in the directory, if it will do.

        @param is_due: whether one will that is due to be renewed.
        """
        try:
            leaf = CertifiedKey.from_files(self._leaf_path)
            names = leaf.names
        except ConfigurationError:
            return None
        return (
            leaf
            if set(names) == {str(name.value) for name in wanted}
            and issued(self._authority.leaf, leaf.leaf)
            and leaf.leaf.not_valid_before_utc
            <= self._now()
            < (leaf.not_valid_after if is_due else self._renewal(leaf))
            else None
        )

    def _renewal(self, leaf: CertifiedKey) -> datetime:
        """
        When a leaf is to be replaced. One that ends with the authority is not, until then: the next
        would end there too, and be replaced sooner and sooner.
        """
        end = leaf.not_valid_after
        if end >= self.not_valid_after:
            return end
        begin = leaf.leaf.not_valid_before_utc
        return begin + (end - begin) * 2 / 3

    def _issue(
        self,
        alternatives: list[_Name],
        purpose: x509.ObjectIdentifier,
        common_name: str | None = None,
    ) -> CertifiedKey:
        self._check_dates()
        now = self._now()
        authority = self._authority.leaf
        if common_name is None:
            common_name = str(alternatives[0].value)
            if len(common_name) > _LONGEST_COMMON_NAME:
                common_name = "bioconn development"
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(common_name, authority.subject, key)
            .not_valid_before(max(now - SKEW, authority.not_valid_before_utc))
            .not_valid_after(min(now + LEAF_LIFE, self.not_valid_after))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(
                    self._authority.key.public_key()
                ),
                critical=False,
            )
        )
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        certificate = builder.sign(self._authority.key, SHA256())
        return CertifiedKey((certificate,), key)


def _new_authority(now: datetime) -> CertifiedKey:
    host = socket.gethostname().encode("ascii", "replace").decode()
    title = "bioconn development CA ({})"
    common_name = title.format(host[: _LONGEST_COMMON_NAME - len(title.format(""))])
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(common_name, None, key)
        .not_valid_before(now - SKEW)
        .not_valid_after(now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, SHA256())
    )
    return CertifiedKey((certificate,), key)


def _builder(
    common_name: str, issuer: x509.Name | None, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    """
    What an authority and a leaf have in common; with no issuer, it is its own.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(
    digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except Exception:  # cryptography's have no common base
        return False


def general_names(names: Iterable[str]) -> list[_Name]:
    """
    What a certificate says for these names, each of them once.

    @raise ConfigurationError: there is none, or one is neither a DNS name nor an IP address.
    """
    found = list(dict.fromkeys(_general_name(name) for name in names))
    if not found:
        raise ConfigurationError("a server's certificate needs at least one name")
    return found


def _general_name(name: str) -> _Name:
    """
    What a certificate says for a DNS name or an IP address, each in its one usual spelling.
    """
    refusal = f"{name!r} is neither a DNS name nor an IP address"
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        if getattr(address, "scope_id", None) is not None:  # a certificate has no room for it
            raise ConfigurationError(refusal)
        return x509.IPAddress(address)
    wildcard = "*." if name.startswith("*.") else ""
    host = name.removeprefix(wildcard).removesuffix(".")
    try:
        host = (host if host.isascii() else idna.encode(host, uts46=True).decode()).lower()
    except idna.IDNAError as error:
        raise ConfigurationError(f"{refusal}: {error}") from None
    labels = host.split(".")
    # Underscores are no part of a host name, but containers have them. A last label of digits
    # is an IPv4 address gone wrong.
    if (
        len(wildcard + host) > _LONGEST_DNS_NAME
        or labels[-1].isdigit()
        or not all(_LABEL.fullmatch(label) for label in labels)
    ):
        raise ConfigurationError(refusal)
    return x509.DNSName(wildcard + host)
