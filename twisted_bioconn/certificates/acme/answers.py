"""
The answers to challenges that are in a store, shown by each front that shares it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from twisted.logger import Logger

from ..store import Store, ValueUnreadable
from .challenges import Solver, SolverError
from .records import CHALLENGES, Answer, dump, parse

__all__ = ["Answers"]

_MOST = 1000
"""How many answers are shown at once."""

_ABANDONED = 24 * 3600.0
"""
Seconds after which an answer of another front's has expired for us, too: by how much its clock may
differ from ours.  What we hide or delete is not shown to the authority, by nobody.
"""

_PUT_AGAIN = 3
"""How often one answer is put again that is not in the store any more."""


class Answers:
    """
    Has the solvers of this front show what is in the store.

    An answer is put into the store before it is shown anywhere: should this process die, the next
    one finds there what is to be hidden again.

    A value that cannot be read is passed over, and told of once: it may be what somebody else needs
    who can read it.
    """

    _log = Logger()

    def __init__(self, store: Store, solvers: Iterable[Solver], now: Callable[[], float]) -> None:
        """
        @param now: the present time, in seconds since the epoch.
        """
        self._store = store
        self._solvers: dict[str, Solver] = {}
        for solver in solvers:
            self._solvers.setdefault(solver.kind, solver)
        self._now = now
        self._shown: dict[str, Answer] = {}  # by name in the store
        # Those that we have published, and how often more they are put.
        self._ours: dict[str, int] = {}
        # The digests of those that are no answers; empty where the value cannot be had.
        self._unreadable: dict[str, bytes] = {}

    async def look(self, name: str = "") -> None:
        """
        Show what is in the store now, and what is not there no longer.

        @param name: the one answer that may have changed; by default all of them.
        @raise StoreUnavailable: the store cannot be asked.
        """
        names: Sequence[str] = [name]
        if not name:
            names = await self._store.names(CHALLENGES)
            for gone in (self._shown.keys() | self._unreadable.keys()) - set(names):
                self._unreadable.pop(gone, None)
                await self._gone(gone)
        for each in names:
            try:
                answer = await self._load(each)
            except ValueUnreadable:
                answer = None
            if answer is None:
                await self._gone(each)
            elif self._is_over(answer):
                # Whoever put it there has died; a record in DNS is there still.
                self._shown[each] = answer
                await self._hide(each)
                await self._store.delete(each)
            elif each not in self._shown and len(self._shown) < _MOST:
                solver = self._solvers.get(answer.kind)
                if solver is not None and solver.on_every_front:
                    self._shown[each] = answer
                    try:
                        await solver.show(answer)
                    except SolverError as error:
                        self._log.warn(
                            "the {kind} challenge for {name}: {error}",
                            kind=answer.kind,
                            name=answer.identifier,
                            error=error,
                        )

    async def publish(self, answer: Answer) -> None:
        """
        Show an answer here, and have it shown by all.

        @raise SolverError: it cannot be shown here.
        @raise StoreUnavailable: it cannot be told to the others.
        """
        await self._store.put(answer.store_name, dump(answer))
        self._shown[answer.store_name] = answer
        self._ours[answer.store_name] = _PUT_AGAIN
        await self._solvers[answer.kind].show(answer)

    async def withdraw(self, certificate: str) -> None:
        """
        Hide all answers for a certificate, here and everywhere; also those of a process that has
        died.  What cannot be hidden is logged.

        @param certificate: the C{ID} of it.
        @raise StoreUnavailable: the store cannot be asked; it is hidden here all the same.
        """
        ours = [name for name, each in self._shown.items() if each.certificate == certificate]
        for name in ours:
            await self._hide(name)
        for name in await self._store.names(CHALLENGES):
            if name in ours:
                await self._store.delete(name)
                continue
            try:
                answer = await self._load(name)
            except ValueUnreadable:
                continue
            if answer is not None and answer.certificate == certificate:
                self._shown[name] = answer
                await self._hide(name)
                await self._store.delete(name)

    def clear(self) -> None:
        """Forget what is shown, when the solvers have stopped."""
        self._shown.clear()
        self._ours.clear()
        self._unreadable.clear()

    async def _load(self, name: str) -> Answer | None:
        """
        @raise ValueUnreadable: what is there is no answer, or cannot be had.
        @raise StoreUnavailable: the store cannot be asked.
        """
        try:
            value = await self._store.get(name)
        except ValueUnreadable as error:
            if self._unreadable.get(name) != b"":
                self._log.warn("{error}: it is passed over", error=error)
            self._unreadable[name] = b""
            raise
        if value is None:
            self._unreadable.pop(name, None)
            return None
        digest = sha256(value).digest()
        if self._unreadable.get(name) != digest:
            answer = parse(Answer, name, value)  # which tells of it
            if answer is not None and answer.store_name == name:
                self._unreadable.pop(name, None)
                return answer
            self._unreadable[name] = digest
        raise ValueUnreadable(f"{name} in the store is no answer to that challenge")

    def _is_over(self, answer: Answer) -> bool:
        """
        Whether nobody wants to see an answer any more.
        """
        late = 0.0 if answer.store_name in self._ours else _ABANDONED
        return answer.expires + late <= self._now()

    async def _gone(self, name: str) -> None:
        """
        An answer is not in the store any more, or not as one.  One of ours is put there again:
        nobody else withdraws it, but a store may lose what it had.  Somebody who deletes it again
        and again gets the better of us: it is shown here alone then.
        """
        if name not in self._ours or self._is_over(self._shown[name]):
            await self._hide(name)
        elif self._ours[name]:
            self._ours[name] -= 1
            if not self._ours[name]:
                self._log.warn(
                    "the answer for {name} is lost from the store again and again: it is put there"
                    " for the last time",
                    name=self._shown[name].identifier,
                )
            await self._store.put(name, dump(self._shown[name]))

    async def _hide(self, name: str) -> None:
        answer = self._shown.pop(name, None)
        self._ours.pop(name, None)
        solver = None if answer is None else self._solvers.get(answer.kind)
        if answer is None or solver is None:
            return
        try:
            await solver.hide(answer)
        except SolverError as error:
            self._log.warn(
                "the {kind} challenge for {name}: {error}",
                kind=answer.kind,
                name=answer.identifier,
                error=error,
            )
