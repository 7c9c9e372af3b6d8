"""
All certificates that are found in a directory.

What programs that make certificates leave behind is understood as it is, and may be mixed:

  - C{NAME.pem}: a chain with its key, or without;
  - C{NAME.crt} or C{NAME.cer}, with C{NAME.key};
  - C{NAME.p12} or C{NAME.pfx}: PKCS #12;
  - C{NAME/fullchain.pem} with C{NAME/privkey.pem}, as in certbot's C{live}, which may be this
    directory or be in it;
  - C{NAME/tls.crt} with C{NAME/tls.key}, as in a Kubernetes secret, which this directory may be.

Key and chain belong together if the one is for the other: any key in a directory may be that of any
chain there.  What begins with a dot, or ends in anything else, is passed over; so is what holds
nothing but certificates of authorities.

The default is what comes from C{default.*} or C{default/}; where there is none, from the first name
in the order of the alphabet, so it is the same after each reload.  Where the first name has
certificates with keys of several kinds, the client gets the one that it can verify.

A file that is broken stops nothing.  It is named, with the reason, in the log, once for what is in
it, and in L{DirectorySource.facts} as long as it lasts; what was served before from the same place
is served on.  A file that is removed is served no more, unless nothing else would be left.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import ConfigurationError
from ..hello import ClientHello
from .files import Held, is_pkcs12, load_key, signature_of, tell_served
from .loading import CertifiedKey, PrivateKey, load_certificates, read_file, read_passphrase
from .names import Candidates, NameTable
from .pkcs12 import load_pkcs12
from .source import CertificateFacts, CertificateSource, Choice, Found
from .watching import Watch, in_slices

__all__ = ["SUFFIXES", "DirectorySource"]

SUFFIXES = (".pem", ".crt", ".cer", ".key", ".p12", ".pfx")
"""The files of a directory that count."""

_PAIRS = (("fullchain.pem", "privkey.pem"), ("tls.crt", "tls.key"))
"""What counts in the directory of one name: its chain, and its key."""

_PARTS = {"fullchain.pem": ("cert.pem", "chain.pem"), "tls.crt": ("ca.crt",)}
"""What is beside such a chain, and does not count: parts of it, and who signs for clients."""

_DEFAULT = "default"
_MOST_REASONS = 5
_MOST_SHARED = 1000

_log = Logger()


@attrs.define
class _File:
    """
    What was in a file.

    @ivar signature: what the file was then; L{None} if it has to be read again.
    @ivar content: a number that is another for other content.
    @ivar whole: a chain and its key.
    @ivar certificates: a chain whose key is not here.
    @ivar publics: the public keys of these, in their order.
    @ivar key: a private key that is not of a chain that is here.
    @ivar key_public: the public half of this.
    @ivar matched: the chain with the key from elsewhere that it was last found to belong to.
    @ivar error: why nothing could be had.
    """

    signature: int | None
    content: int = 0
    whole: CertifiedKey | None = None
    certificates: tuple[x509.Certificate, ...] = ()
    publics: tuple[bytes, ...] = ()
    key: PrivateKey | None = None
    key_public: bytes = b""
    matched: CertifiedKey | None = None
    error: str | None = None


@attrs.define
class _Listing:
    """
    What there is to read.

    @ivar groups: the files of each directory, in their order.
    @ivar names: what the certificate in a file is called.
    @ivar watched: what to watch.
    """

    groups: dict[str, list[str]] = attrs.Factory(dict)
    names: dict[str, str] = attrs.Factory(dict)
    watched: list[str] = attrs.Factory(list)

    def add(self, directory: str, path: str, name: str) -> None:
        self.groups.setdefault(directory, []).append(path)
        self.names[path] = name


class DirectorySource(CertificateSource):
    """
    The certificates in a directory, by their names, and by those of their files.

    The file's name (without suffix, or the directory's) counts where no certificate is for it.

    Of ten thousand, each with one key and a chain that others have as well, each takes about 9 KiB.
    """

    def __init__(
        self,
        directory: str,
        passphrase_file: str | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Load what is there.  To do so takes a time; whatever is done later is done in slices.

        @param passphrase_file: see L{read_passphrase}; for all keys that are encrypted.
        @param now: the present time, in seconds since 1970.
        @raise ConfigurationError: the directory or the passphrase cannot be read, or no certificate
            could be had.
        """
        self._directory = directory
        self._passphrase_file = passphrase_file
        self._passphrase: bytes | None = None
        self._passphrase_signature: int | None = None
        self._now = now
        self._files: dict[str, _File] = {}
        self._held: dict[str, Held] = {}
        self._names: dict[str, str] = {}
        self._told: dict[str, tuple[str, int]] = {}
        self._shared: dict[x509.Certificate, x509.Certificate] = {}
        self._error: str | None = None
        self._table = NameTable(now=now)
        self._default: Candidates | None = None
        self._listing = _Listing()
        self._reactor: Any = None
        self._watch: Watch | None = None
        self._scanning: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []
        if passphrase_file is not None:
            self._passphrase_signature = _number(passphrase_file)
            self._passphrase = read_passphrase(passphrase_file)
        for _ in self._scan():
            pass
        if self._error is not None:
            raise ConfigurationError(self._error)
        if self._default is None:
            raise ConfigurationError(self._nothing())
        self._tell_all()

    def find(self, hello: ClientHello) -> Found:
        """The best certificate for the name."""
        found = self._table.find(hello)
        return None if found is None else Choice(found)

    def default(self, hello: ClientHello) -> Found:
        """The default; see this module."""
        assert self._default is not None  # there was one to begin with, and one is always left
        return Choice(self._default.choose(hello, self._now))

    def start(self, reactor: Any) -> None:
        """Begin to watch the directory."""
        if self._watch is None:
            self._reactor = reactor
            self._watch = Watch(reactor, self._paths, self.reload)
            self._watch.start()
            self.reload()  # it may have changed since it was read

    def stop(self) -> Deferred[None]:
        """Watch it no more.  A reload that is at work ends where it is."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()
        if self._scanning is not None:
            self._scanning.cancel()
        self._reactor = None
        return succeed(None)

    def reload(self) -> Deferred[None]:
        """
        Read the files that have changed.

        @return: fires when all is served that was there when this was called.  While one reload is
            at work, all that are asked for are one more.
        """
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        if self._scanning is None:
            self._begin()
        return done

    def facts(self) -> Sequence[CertificateFacts]:
        """Of each certificate that is served, and of each file that cannot be used, by path."""
        found = [fact for _, held in sorted(self._held.items()) for fact in held.facts()]
        if self._error is not None:
            broken = CertificateFacts(names=(), source=self._directory, last_error=self._error)
            found.insert(0, broken)
        return found

    def _begin(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._scanning = Deferred()  # whoever comes in the first slice waits for the next reload
        self._scanning = scanning = in_slices(self._reactor, self._scan())
        scanning.addBoth(self._scanned, waiting)

    def _scanned(self, result: Failure | None, waiting: Sequence[Deferred[None]]) -> None:
        self._scanning = None
        stopped = isinstance(result, Failure) and result.check(CancelledError) is not None
        if isinstance(result, Failure) and not stopped:
            _log.failure("{directory} cannot be looked at", result, directory=self._directory)
        if stopped:
            waiting, self._waiting = [*waiting, *self._waiting], []
        for each in waiting:
            each.callback(None)
        if self._waiting and self._scanning is None:
            self._begin()

    def _paths(self) -> list[str]:
        """What to watch."""
        passphrase = () if self._passphrase_file is None else (self._passphrase_file,)
        return [self._directory, *self._listing.watched, *passphrase]

    # A reload, in small steps. It may be given up after any of them, and done again.

    def _scan(self) -> Iterator[None]:
        listing = _Listing()
        try:
            yield from self._list(listing)
        except OSError as error:
            reason = f"the directory {self._directory} cannot be read: {error.strerror}"
            if reason != self._error and self._held:
                _log.error("{reason}; what was in it is served on", reason=reason)
            self._error = reason
            return
        self._error = None
        self._listing = listing
        self._read_passphrase()
        for paths in listing.groups.values():
            for path in paths:
                self._read(path)
                yield
        for path in list(self._files):
            if path not in listing.names:
                del self._files[path]
            yield
        present: set[str] = set()
        for directory, paths in listing.groups.items():
            yield from self._match(directory, paths, present)
        yield from self._forget(present)
        yield from self._choose_default()

    def _list(self, listing: _Listing) -> Iterator[None]:
        """
        @raise OSError: the directory cannot be read.
        """
        files, directories = [], []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_directory(entry):
                    directories.append(entry.name)
                elif entry.name.lower().endswith(SUFFIXES):
                    files.append(entry.name)
                    if entry.is_symlink():
                        listing.watched.append(entry.path)
                yield
        for name in sorted(directories):
            path = os.path.join(self._directory, name)
            yield from self._list_name(listing, path, name)
            if path not in listing.groups and name.lower().endswith(SUFFIXES):
                files.append(name)  # that it is no file is for the one who reads it to say
            if name == "live":
                yield from self._list_live(listing, path)
        left_out = {part for chain, parts in _PARTS.items() if chain in files for part in parts}
        for name in sorted(set(files) - left_out):
            path = os.path.join(self._directory, name)
            listing.add(self._directory, path, os.path.splitext(name)[0])
            yield

    def _list_live(self, listing: _Listing, live: str) -> Iterator[None]:
        try:
            with os.scandir(live) as entries:
                found = sorted(
                    (entry.name, entry.path)
                    for entry in entries
                    if not entry.name.startswith(".") and _is_directory(entry)
                )
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError:  # what we know of is still there, and each file says why it is not read
            found = [
                (os.path.basename(path), path)
                for path in self._listing.groups
                if os.path.dirname(path) == live
            ]
        for name, path in found:
            yield from self._list_name(listing, path, name)

    def _list_name(self, listing: _Listing, directory: str, name: str) -> Iterator[None]:
        listing.watched.append(directory)
        for pair in _PAIRS:
            # With one of them the other is looked for too: it may be gone for a moment only.
            paths = [os.path.join(directory, each) for each in pair]
            try:
                found = [_links(path) for path in paths]
            except OSError:
                # They are not gone, but cannot be seen: whoever reads one says so.
                known = [path for path in paths if path in self._files]
                if not known and directory not in self._listing.groups:
                    known = paths[:1]
                for path in known:
                    listing.add(directory, path, name)
                if known:
                    return
                continue
            if found != [None, None]:
                for path, is_link in zip(paths, found, strict=True):
                    listing.add(directory, path, name)
                    if is_link:
                        listing.watched.append(path)
            yield

    def _read_passphrase(self) -> None:
        if self._passphrase_file is None:
            return
        signature = _number(self._passphrase_file)
        if signature is not None and signature == self._passphrase_signature:
            return
        self._passphrase_signature = signature
        try:
            passphrase = read_passphrase(self._passphrase_file)
        except ConfigurationError as error:
            self._tell(self._passphrase_file, str(error), 0, "the one before is used on")
            return
        self._told.pop(self._passphrase_file, None)
        if passphrase != self._passphrase:
            self._passphrase = passphrase
            for file in self._files.values():
                if file.error is not None:
                    file.signature = None

    def _read(self, path: str) -> None:
        """See to it that what is known of a file is what is there."""
        signature = _number(path)
        known = self._files.get(path)
        if known is not None and signature is not None and known.signature == signature:
            return
        file = _File(signature)
        try:
            self._load(path, file)
        except ConfigurationError as error:
            file.error = str(error)
        if known is not None and known.content == file.content and known.error is None:
            known.signature = signature  # so that it is matched with what it was matched with
        else:
            self._files[path] = file

    def _load(self, path: str, file: _File) -> None:
        data = read_file(path)
        file.content = hash(data)
        if is_pkcs12(data):
            file.whole = self._sharing(load_pkcs12(data, self._passphrase, path))
            return
        has_key = b"PRIVATE KEY-----" in data
        has_certificates = b"CERTIFICATE-----" in data
        if has_key and has_certificates:
            # Where this fails, the key may be that of another chain. If not, it is said again.
            with suppress(ConfigurationError):
                whole = CertifiedKey.from_pem(data, None, self._passphrase, where=path)
                file.whole = self._sharing(whole)
                return
        is_key = has_key or (not has_certificates and path.endswith((".key", "privkey.pem")))
        if is_key:
            file.key = load_key(data, self._passphrase, path)
            file.key_public = _public(file.key)
        if has_certificates or not is_key:
            file.certificates = load_certificates(data, path)
            file.publics = tuple(map(_public, file.certificates))

    def _sharing(self, certificate: CertifiedKey) -> CertifiedKey:
        """The same with intermediates that are the same objects in all that have them."""
        if not certificate.intermediates:
            return certificate
        if len(self._shared) > _MOST_SHARED:
            self._shared.clear()
        chain = [self._shared.setdefault(each, each) for each in certificate.intermediates]
        return attrs.evolve(certificate, chain=(certificate.leaf, *chain))

    def _match(self, directory: str, paths: Sequence[str], present: set[str]) -> Iterator[None]:
        """
        Find the key for each chain of a directory.

        @param present: where to add the paths of what is, or should be, a certificate.
        """
        keys: dict[bytes, PrivateKey] = {}
        for path in paths:
            file = self._files[path]
            if file.key is not None:
                keys[file.key_public] = file.key
            yield
        for path in paths:
            yield
            file = self._files[path]
            reason = file.error
            if reason is None:
                found = file.whole or self._matched(path, file, keys)
                if found is not None:
                    self._serve(path, file, found)
                    present.add(path)
                    continue
                if not self._is_missed(path, file):
                    continue
                reason = self._mismatch(directory, path, file)
            present.add(path)
            held = self._held.setdefault(path, Held(path))
            held.refuse(reason)
            self._tell(path, reason, file.content, held.outcome())

    def _matched(
        self, path: str, file: _File, keys: Mapping[bytes, PrivateKey]
    ) -> CertifiedKey | None:
        for certificate, public in zip(file.certificates, file.publics, strict=True):
            key = keys.get(public)
            if key is None:
                continue
            if file.matched is None or file.matched.leaf != certificate:
                try:
                    found = CertifiedKey.from_objects(certificate, key, file.certificates)
                except ConfigurationError as error:
                    file.error = f"{path} cannot be used: {error}"
                    return None
                file.matched = self._sharing(found)
            return file.matched
        return None

    def _is_missed(self, path: str, file: _File) -> bool:
        """Whether that no certificate could be had from a sound file is an error."""
        if file.error is not None:
            return True
        held = self._held.get(path)
        if held is not None and held.certificate is not None:
            return True
        return not all(map(_is_authority, file.certificates))

    def _mismatch(self, directory: str, path: str, file: _File) -> str:
        if file.error is not None:
            return file.error
        if not file.certificates:
            return f"{path} holds no certificate any more"
        base = os.path.splitext(path)[0]
        for other in (path, f"{base}.key", os.path.join(directory, "privkey.pem")):
            if other in self._files and self._files[other].key is not None:
                return f"the private key in {other} belongs to no certificate in {path}"
        return f"no private key in {directory} belongs to a certificate in {path}"

    def _serve(self, path: str, file: _File, found: CertifiedKey) -> None:
        held = self._held.setdefault(path, Held(path))
        before = held.served
        if found is held.certificate and held.refusal is None:
            held.look(self._now())
        else:
            held.take(found, self._now())
            # Where it is the same as before, the object of before is kept.
            if file.whole is not None:
                file.whole = held.certificate
            else:
                file.matched = held.certificate
        if list(map(id, before)) != list(map(id, held.served)):
            self._names[path] = self._listing.names[path]
            self._table.put(path, held.served, called=(self._names[path],))
            if self._default is not None:
                tell_served(held)
        self._tell(path, held.error, file.content, held.outcome())

    def _forget(self, present: set[str]) -> Iterator[None]:
        """What was removed is served no more, if anything is left."""
        is_left = False
        for path in present:
            is_left = is_left or self._held[path].certificate is not None
            yield
        for path in list(self._held):
            yield
            if path in present:
                continue
            held = self._held[path]
            if held.certificate is not None:
                reason = f"{path} is not there any more"
                if not is_left:
                    held.refuse(reason)
                    self._tell(path, reason, 0, "it is served on, as there is nothing else")
                    continue
                _log.info("{reason}: it is served no more", reason=reason)
            self._table.remove(path)
            self._names.pop(path, None)
            self._told.pop(path, None)
            del self._held[path]

    def _choose_default(self) -> Iterator[None]:
        chosen: list[str] = []
        first: tuple[str, str] | None = None
        for path, held in self._held.items():
            yield
            if held.certificate is None:
                continue
            name = self._names[path]
            if name.lower() == _DEFAULT:
                chosen.append(path)
            if first is None or (name, path) < first:
                first = (name, path)
        if first is not None and not chosen:
            chosen = [first[1], *self._table.of_other_kinds(first[1])]
        if chosen:
            self._default = self._table.among(sorted(chosen))

    def _tell(self, path: str, reason: str | None, content: int, outcome: str) -> None:
        """Log what is wrong with what is in a file, once; L{None} for nothing."""
        if reason is None:
            self._told.pop(path, None)
        elif self._told.get(path) != (reason, content):
            self._told[path] = (reason, content)
            if self._default is not None:
                _log.error("{reason}; {outcome}", reason=reason, outcome=outcome)

    def _tell_all(self) -> None:
        """What was wrong when nothing was served yet, and so no time to tell."""
        for path, (reason, _) in self._told.items():
            _log.error("{reason}; {outcome}", reason=reason, outcome=self._held[path].outcome())

    def _nothing(self) -> str:
        """Why there is no certificate at all."""
        reasons = []
        for path, file in self._files.items():
            if path in self._held:
                reasons.append(str(self._held[path].error))
            elif file.certificates:
                reasons.append(f"{path} holds certificates of authorities alone")
            else:
                reasons.append(f"{path} holds a key alone")
        more = len(reasons) - _MOST_REASONS
        if more > 0:
            reasons[_MOST_REASONS:] = [f"and {more} more"]
        if not reasons:
            chains = " or ".join(chain for chain, _ in _PAIRS)
            reasons = [
                f"no file in it ends in {', '.join(SUFFIXES)}, and no directory has {chains}"
            ]
        return f"{self._directory} holds no certificate that can be used: {'; '.join(reasons)}"


def _number(path: str) -> int | None:
    """What the file is now, as one number: there is one for each file."""
    signature = signature_of(path)
    return None if signature is None else hash(signature)


def _links(path: str) -> bool | None:
    """
    Whether a path is a link; L{None} where there is nothing.

    @raise OSError: that cannot be known.
    """
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to where we may not look
        return not entry.name.lower().endswith(SUFFIXES)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except Exception:  # cryptography's have no common base
        return False


def _public(owner: x509.Certificate | PrivateKey) -> bytes:
    """A public key to compare; empty where it is of no kind that we know."""
    try:
        return owner.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return b""
