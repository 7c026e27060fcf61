"""Outcomes: what an operation gave, in the one form that every door encodes.

Owns the kinds of answers to get, put and delete. The coordinator makes them,
HTTP and the native protocol translate them; nothing here knows either.
"""

from enum import IntEnum
from typing import Final, NamedTuple

from dynamo_core.objects import Sibling


class Kind(IntEnum):
    """How an operation ended."""

    WRITTEN = 1
    VALUES = 2
    ABSENT = 3
    BAD_REQUEST = 4
    TOO_LARGE = 5
    TOO_MANY_SIBLINGS = 6
    UNAVAILABLE = 7
    NOT_YET = 8
    OVERLOADED = 9


REFUSALS: Final = (Kind.BAD_REQUEST, Kind.TOO_LARGE, Kind.TOO_MANY_SIBLINGS, Kind.OVERLOADED)
"""What says that nothing was written."""


class Outcome(NamedTuple):
    """One answer. `context` is a token or empty; `needed`/`got` count replicas.

    `primary` and `standin` say who answered: owners of the key, and nodes that
    stand in for one.
    """

    kind: Kind
    context: str = ""
    siblings: tuple[Sibling, ...] = ()
    primary: int = 0
    standin: int = 0
    needed: int = 0
    got: int = 0
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.kind <= Kind.ABSENT

    def unsure(self) -> "Outcome":
        """The same where the write was tried before: a refusal would say that nothing exists."""
        if self.kind not in REFUSALS:
            return self
        detail = f"it may have been written before this was said: {self.detail}"
        return Outcome(Kind.UNAVAILABLE, needed=1, detail=detail)
