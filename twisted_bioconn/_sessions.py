"""Sessions of a client, kept for its next connections."""

from __future__ import annotations

from collections import OrderedDict

from OpenSSL import SSL

FOR_EACH = 16
"""Sessions that are kept for one server at most: as many connections can be resumed at a time."""


class SessionStore:
    """
    Sessions of a client, to be resumed: the least recently used are forgotten first.

    A session is given out once: RFC 8446, appendix C.4, has clients not use a ticket twice.  Who
    makes several connections at a time has a session for each of the next ones.
    """

    def __init__(self, size: int = 1024) -> None:
        """
        @param size: the number of sessions kept at most.
        """
        self._size = size
        self._count = 0
        self._sessions: OrderedDict[bytes, list[SSL.Session]] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    def put(self, key: bytes, session: SSL.Session) -> None:
        """Keep a session."""
        kept = self._sessions.setdefault(key, [])
        self._sessions.move_to_end(key)
        kept.append(session)
        self._count += 1
        if len(kept) > FOR_EACH:
            del kept[0]
            self._count -= 1
        elif self._count > self._size:
            self._forget_oldest()

    def take(self, key: bytes) -> SSL.Session | None:
        """Give out the newest session of this key and forget it."""
        kept = self._sessions.get(key)
        if kept is None:
            return None
        session = kept.pop()
        self._count -= 1
        if not kept:
            del self._sessions[key]
        return session

    def _forget_oldest(self) -> None:
        key = next(iter(self._sessions))
        kept = self._sessions[key]
        del kept[0]
        self._count -= 1
        if not kept:
            del self._sessions[key]
