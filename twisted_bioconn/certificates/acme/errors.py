"""What goes wrong between us and an authority."""

from __future__ import annotations

import attrs

__all__ = ["AcmeError", "AcmeUnavailable", "Problem", "in_one_line"]

PREFIX = "urn:ietf:params:acme:error:"
"""What the types of ACME's own problems begin with (RFC 8555, section 6.7)."""

_LONGEST = 300


def in_one_line(text: str) -> str:
    """In one line of a length to be read: an authority may be anybody's."""
    line = "".join(each if each.isprintable() else " " for each in text[:_LONGEST])
    return line if len(text) <= _LONGEST else line + "..."


@attrs.frozen
class Problem:
    """
    What an authority says is wrong: a problem document (RFC 7807).

    @ivar type: such as C{urn:ietf:params:acme:error:rateLimited}.
    @ivar detail: what is wrong, in the authority's words; it may be empty.
    @ivar status: the HTTP status that it came with; 0 where it is part of an order or a challenge.
    @ivar subproblems: identifier, type and detail of each part of it (RFC 8555, section 6.7.1).
    """

    type: str
    detail: str = ""
    status: int = 0
    subproblems: tuple[tuple[str, str, str], ...] = ()

    @property
    def code(self) -> str:
        """The type without ACME's prefix: C{rateLimited}."""
        return self.type.removeprefix(PREFIX)

    @property
    def is_rate_limited(self) -> bool:
        """Whether it is that too much was asked for (RFC 8555, section 6.6)."""
        return self.code == "rateLimited"

    def __str__(self) -> str:
        parts = [
            f"{identifier}: {_phrase(type, detail)}"
            for identifier, type, detail in self.subproblems
        ]
        return in_one_line("; ".join([_phrase(self.type, self.detail), *parts]))


def _phrase(type: str, detail: str) -> str:
    code = type.removeprefix(PREFIX)
    return f"{detail.strip().rstrip('.')} ({code})" if detail.strip() else code


class AcmeError(Exception):
    """
    The authority has refused what it was asked for.

    @ivar problem: what it says.
    @ivar retry_after: in how many seconds to ask again at the earliest; L{None} where it does not
        say.
    """

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.retry_after = retry_after

    @property
    def type(self) -> str:
        """Such as C{urn:ietf:params:acme:error:rateLimited}."""
        return self.problem.type

    @property
    def code(self) -> str:
        """The type without ACME's prefix."""
        return self.problem.code

    @property
    def detail(self) -> str:
        """What is wrong, in the authority's words."""
        return self.problem.detail

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status

    @property
    def subproblems(self) -> tuple[tuple[str, str, str], ...]:
        """Identifier, type and detail of each part of the problem."""
        return self.problem.subproblems

    @property
    def is_rate_limited(self) -> bool:
        """Whether too much was asked for."""
        return self.problem.is_rate_limited

    def __str__(self) -> str:
        return str(self.problem)


class AcmeUnavailable(Exception):
    """
    There is no authority to be had just now: nothing answers, or what answers is not one, or it is
    out of order.  One sentence says which.

    A request may have been done all the same: its answer may be what was lost.

    @ivar retry_after: in how many seconds to ask again at the earliest; L{None} where it does not
        say.
    """

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after
