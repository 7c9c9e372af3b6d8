"""
What C{--check} looks at beside what a start would: whether what a configuration names could be read
again, once the server has gone over to another user.

Only owners, groups and modes are looked at: what lists of access or a security module say beyond
them, the kernel alone knows.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping

from attrs import frozen

from twisted_bioconn.certificates.development import state_directory
from twisted_bioconn.endpoint_strings import CLIENT_OPTIONS
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server._config_values import is_path, option_text
from twisted_bioconn.server._mistakes import Mistake
from twisted_bioconn.server.addresses import client_description, parse, server_description
from twisted_bioconn.server.config import Configuration, Listening

__all__ = ["User", "later_user", "unreadable_later"]


@frozen
class User:
    """
    Who a process is.

    @ivar name: what to call it.
    @ivar uid: its number.
    @ivar groups: the numbers of all groups that it is in.
    """

    name: str
    uid: int
    groups: frozenset[int]

    def may(self, path: str, wanted: int) -> bool:
        """
        May it do this with a file, as far as the file's owner, group and mode say?

        @param wanted: bits as for others: L{stat.S_IROTH}, L{stat.S_IWOTH} and L{stat.S_IXOTH}.
        @raise OSError: we cannot look.
        """
        if self.uid == 0:
            return True
        status = os.stat(path)
        if status.st_uid == self.uid:
            wanted <<= 6
        elif status.st_gid in self.groups:
            wanted <<= 3
        return status.st_mode & wanted == wanted

    def obstacle(self, path: str, wanted: int) -> str | None:
        """
        The first directory on the way to a file, or the file itself, with which it may not do what
        is needed; L{None} if there is none.
        """
        path = os.path.realpath(path)
        above: list[str] = []
        directory = path
        while os.path.dirname(directory) != directory:
            directory = os.path.dirname(directory)
            above.insert(0, directory)
        for each in above:
            if not self.may(each, stat.S_IXOTH):
                return each
        return None if self.may(path, wanted) else path


def later_user(parent: Mapping[str, object] | None) -> User | None:
    """
    Who the server is after its start.

    @param parent: the options of C{twistd}.
    @return: L{None} where it stays who it is.
    """
    if os.name != "posix" or parent is None:
        return None
    import grp
    import pwd

    uid, gid = parent.get("uid"), parent.get("gid")
    if uid is None and gid is None:
        return None
    # As twistd has it: without a group, those of the user; with one, that and the user's others.
    if not isinstance(uid, int):
        groups = {gid} if isinstance(gid, int) else set()
        return User(f"this user in group {gid}", os.getuid(), frozenset(groups))
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return User(f"uid {uid}", uid, frozenset({gid} if isinstance(gid, int) else ()))
    first = gid if isinstance(gid, int) else entry.pw_gid
    groups = {first, *(group.gr_gid for group in grp.getgrall() if entry.pw_name in group.gr_mem)}
    return User(f"{entry.pw_name} (uid {uid})", uid, frozenset(groups))


def unreadable_later(
    configuration: Configuration, user: User, path: str | None = None
) -> Iterator[Mistake]:
    """
    The files that a reload, or the serving itself, could not use as this user.

    @param path: of the configuration file.
    """
    if path is not None:
        said = _said(user, path, stat.S_IROTH, "read")
        if said is not None:
            yield Mistake(path, None, said)
    for listening in configuration.listen:
        for place in (listening, *(route.target for route in listening.routes)):
            for key, name, path in _files(place):
                wanted = stat.S_IROTH | (stat.S_IXOTH if os.path.isdir(path) else 0)
                said = _said(user, path, wanted, "read")
                if said is not None:
                    about = "" if name == key else f"{name}: "
                    yield place.mistake(key, f"{about}{said}")
    try:
        state = state_directory(configuration.state)
    except ConfigurationError:
        return
    if os.path.isdir(state):
        wanted = stat.S_IROTH | stat.S_IWOTH | stat.S_IXOTH
        said = _said(user, state, wanted, "write in")
        if said is not None and _keeps_state(configuration.listen):
            yield configuration.mistake("state", said)


def _said(user: User, path: str, wanted: int, what: str) -> str | None:
    try:
        obstacle = user.obstacle(path, wanted)
    except OSError:
        return None
    if obstacle is None:
        return None
    why = "" if obstacle == os.path.realpath(path) else f", for {obstacle} is closed to it"
    return f"{user.name} cannot {what} {path} after the start{why}: a reload would fail"


def _files(listening: Listening) -> Iterator[tuple[str, str, str]]:
    """The key, the option and the path of each file that is read again."""
    given = {key: (key, option_text(value)) for key, value in listening.options.items()}
    if listening.endpoint is not None:
        description, _ = server_description(listening.endpoint)
        arguments, named = parse(description)
        if arguments[0].lower() == "bioconn":
            given.update({key: ("endpoint", value) for key, value in named.items()})
    for option, (key, path) in given.items():
        if is_path(option) and os.path.exists(path):
            yield key, option, path
    for text in listening.forward:
        arguments, named = parse(client_description(text))
        if arguments[0].lower() != "bioconn":
            continue
        for option, path in named.items():
            if is_path(option, CLIENT_OPTIONS) and os.path.exists(path):
                yield "forward", f"{text}: {option}", path
    if listening.web is not None:
        yield "web", "web", listening.web


def _keeps_state(listen: Iterable[Listening]) -> bool:
    """Does any of these have a certificate for development?"""
    return any(
        not {"privateKey", "certKey", "certificates", "acme"} & set(each.options) for each in listen
    )
