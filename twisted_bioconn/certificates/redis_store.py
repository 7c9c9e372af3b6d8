"""
A store that is a Redis server, for several machines.

Under the prefix C{bioconn:} there are C{values}, a hash of all values by name, each sealed with a
passphrase (L{Seal}); C{lease:NAME}, a random word of its owner's, with an expiry, for each lease
that is held; and the channel C{changed}, on which the names of values that change are published.
Names are not secret, values are.

There are two connections: one for questions, and where somebody watches one for what is published.
Each is made when it is first needed, and made anew by itself when it is lost.  While there is none
all questions fail at once, and none is kept for later.

A lease is one server's word: where Redis is replicated and fails over, a lease that was given a
moment ago may be given again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from ..errors import ConfigurationError
from .redis_line import RedisLine, RedisServer
from .sealing import Seal, SealBroken
from .store import (
    Lease,
    Store,
    StoreUnavailable,
    ValueUnreadable,
    Watchers,
    check_name,
    check_seconds,
    check_value,
    is_name,
)

__all__ = ["RedisStore"]

_PING_INTERVAL = 5.0  # seconds: who only listens would not notice that the other is gone

_PUT = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[1])
return 1
"""
_CREATE = """
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('PUBLISH', ARGV[3], ARGV[1])
return 1
"""
_DELETE = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('PUBLISH', ARGV[2], ARGV[1])
return 1
"""
# One string, where an answer of many costs txredisapi a turn of the reactor for each.
_NAMES = """
local found = {}
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(name, 1, #ARGV[1]) == ARGV[1] then found[#found + 1] = name end
end
return table.concat(found, '\\n')
"""
_EXTEND = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


class RedisStore(Store):
    """
    A store that is a Redis server.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        url: str,
        *,
        passphrase: bytes,
        prefix: str = "bioconn:",
        trust_roots: str | None = None,
    ) -> None:
        """
        No connection is made yet.

        @param url: see L{RedisServer.from_url}.
        @param passphrase: seals the values; the same for all who share the store.
        @param prefix: what all keys and the channel begin with.
        @param trust_roots: for C{rediss:}, the path of a file or directory with the authorities to
            trust; the system's if not given.
        @raise ConfigurationError: the URL is none, the passphrase is empty, the prefix is no text
            that Redis could show, or txredisapi is not installed.
        """
        server = RedisServer.from_url(url)
        if not (prefix.isascii() and prefix.isprintable() and " " not in prefix):
            raise ConfigurationError(f"redis: {prefix!r} cannot begin the names of keys")
        self._where = server.where
        self._prefix = prefix
        self._values = f"{prefix}values"
        self._channel = f"{prefix}changed"
        endpoint = server.endpoint(reactor, trust_roots)
        self._questions = RedisLine(reactor, server, endpoint, changed=self._line_changed)
        self._news = RedisLine(
            reactor,
            server,
            endpoint,
            prepare=[("SUBSCRIBE", self._channel)],
            published=self._published,
            changed=self._line_changed,
        )
        self._pinging = LoopingCall(self._ping)
        self._pinging.clock = reactor
        self._watchers = Watchers()
        self._leases: set[_RedisLease] = set()
        self._broken: set[RedisLine] = set()
        self._closed = False
        self._seal = Seal(passphrase, prefix)

    def get(self, name: str) -> Deferred[bytes | None]:
        return Deferred.fromCoroutine(self._get(name))

    def put(self, name: str, value: bytes) -> Deferred[None]:
        return Deferred.fromCoroutine(self._put(name, value))

    def create(self, name: str, value: bytes) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._create(name, value))

    def delete(self, name: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._delete(name))

    def names(self, prefix: str) -> Deferred[Sequence[str]]:
        return Deferred.fromCoroutine(self._names(prefix))

    def lease(self, name: str, seconds: float) -> Deferred[Lease | None]:
        return Deferred.fromCoroutine(self._lease(name, seconds))

    def watch(self, changed: Callable[[str], object]) -> Callable[[], None]:
        """
        As L{Store.watch}.  One is told the empty string as soon as one is heard, too: from then on
        nothing is missed.
        """
        if self._closed:
            return lambda: None
        remove = self._watchers.add(changed)
        self._news.start()
        if not self._pinging.running:
            self._pinging.start(_PING_INTERVAL, now=False)

        def stop() -> None:
            remove()
            if not self._watchers:
                self._stop_listening()

        return stop

    def close(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._watchers.clear()
        with suppress(StoreUnavailable):  # they end by themselves
            for lease in list(self._leases):
                await lease.release()
        await gatherResults([self._questions.stop(), self._stop_listening()])

    async def _get(self, name: str) -> bytes | None:
        check_name(name)
        sealed = await self._ask("HGET", self._values, name)
        if sealed is None:
            return None
        try:
            return self._seal.open(name, _bytes(sealed))
        except SealBroken as error:
            raise ValueUnreadable(f"{self._where}: {error}") from None

    async def _put(self, name: str, value: bytes) -> None:
        check_name(name)
        check_value(name, value)
        sealed = self._seal.seal(name, value)
        await self._run(_PUT, self._values, name, sealed, self._channel)

    async def _create(self, name: str, value: bytes) -> bool:
        check_name(name)
        check_value(name, value)
        sealed = self._seal.seal(name, value)
        return bool(await self._run(_CREATE, self._values, name, sealed, self._channel))

    async def _delete(self, name: str) -> None:
        check_name(name)
        await self._run(_DELETE, self._values, name, self._channel)

    async def _names(self, prefix: str) -> Sequence[str]:
        found = _bytes(await self._run(_NAMES, self._values, prefix)).decode("utf-8", "replace")
        return sorted(name for name in found.split("\n") if is_name(name))

    async def _lease(self, name: str, seconds: float) -> Lease | None:
        check_name(name)
        check_seconds(seconds)
        key = f"{self._prefix}lease:{name}"
        owner = secrets.token_hex(16)
        given = await self._ask("SET", key, owner, "NX", "PX", _milliseconds(seconds))
        if given is None:
            return None
        lease = _RedisLease(self._questions, self._leases, key, owner)
        self._leases.add(lease)
        return lease

    async def _ask(self, *command: str | bytes) -> Any:
        if self._closed:
            raise StoreUnavailable(f"the store in {self._where} is closed")
        return await self._questions.ask(*command)

    async def _run(self, script: str, key: str, *arguments: str | bytes) -> Any:
        return await self._ask("EVAL", script, "1", key, *arguments)

    def _stop_listening(self) -> Deferred[None]:
        if self._pinging.running:
            self._pinging.stop()
        self._broken.discard(self._news)
        return self._news.stop()

    def _ping(self) -> None:
        """
        Have the connection that only listens found lost, where it is.
        """
        Deferred.fromCoroutine(self._news.ask("PING")).addErrback(
            lambda reason: reason.trap(StoreUnavailable)
        )

    def _published(self, name: str) -> None:
        if is_name(name):
            self._watchers.tell(name)

    def _line_changed(self, line: RedisLine, reason: str | None) -> None:
        """
        Say once that the server is gone, and once that it is back.
        """
        was_broken = bool(self._broken)
        if reason is None:
            self._broken.discard(line)
            if was_broken and not self._broken:
                self._log.info("{where} can be used again", where=self._where)
            if line is self._news:
                self._watchers.tell("")
        elif not was_broken:
            self._log.warn("{where} {reason}: going on without", where=self._where, reason=reason)
        if reason is not None:
            self._broken.add(line)


class _RedisLease(Lease):
    """
    A lease that a Redis server has given.
    """

    def __init__(self, questions: RedisLine, held: set[_RedisLease], key: str, owner: str) -> None:
        """
        @param held: all leases of the store; this one while it is not known to be lost.
        """
        self._questions = questions
        self._held = held
        self._key = key
        self._owner = owner

    def extend(self, seconds: float) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._extend(seconds))

    def release(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._release())

    async def _extend(self, seconds: float) -> bool:
        check_seconds(seconds)
        if self not in self._held:
            return False
        extended = await self._run(_EXTEND, _milliseconds(seconds))
        if not extended:
            self._held.discard(self)
        return bool(extended)

    async def _release(self) -> None:
        if self in self._held:
            self._held.discard(self)
            await self._run(_RELEASE)

    async def _run(self, script: str, *arguments: str) -> Any:
        return await self._questions.ask("EVAL", script, "1", self._key, self._owner, *arguments)


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


def _bytes(answer: Any) -> bytes:
    """
    What a server answers where it has a string.
    """
    return answer if isinstance(answer, bytes) else str(answer).encode("utf-8")
