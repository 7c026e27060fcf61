"""Versions: dots, actors and clocks (P§4.4, with one dot per value).

Owns what a clock claims, how clocks join and their byte form. A clock is a
vector (actor -> n: every dot of that actor for this key up to n is carried or
superseded) plus single dots beyond it. Nothing here knows values or replicas.

An actor is 16 bytes: node number (u32), incarnation (64 random bits), birth
(u32); see `actors` for when a node may go on with one. Counters run 1, 2, 3,
... per actor and key, so a vector entry never claims a dot that the node
didn't see: that is what a node-wide counter in a plain vector gets wrong.
"""

from collections.abc import Iterable, Mapping
from struct import Struct
from struct import error as struct_error
from typing import Final, TypeAlias

from dynamo_core.errors import Corrupt

ENTRIES_MAX: Final = 0xFFFF
"""Most vector entries, and most single dots, that the byte form can hold."""

Dot: TypeAlias = tuple[bytes, int]
"""One write's name: (actor, counter); counters start at 1."""

_COUNTS: Final = Struct(">HH")
_ENTRY: Final = Struct(">16sQ")
DOT_BYTES: Final = _ENTRY.size
COUNTS_BYTES: Final = _COUNTS.size


class Clock:
    """What has been seen of one key; immutable, always in canonical form.

    Canonical: no single dot is covered by the vector or directly follows it
    (a dot whose predecessors are all known belongs into the vector), so two
    clocks that claim the same are equal and have equal bytes.
    """

    __slots__ = ("dots", "vector")

    vector: Mapping[bytes, int]
    dots: frozenset[Dot]

    def __init__(self, vector: Mapping[bytes, int], dots: Iterable[Dot] = ()) -> None:
        single = frozenset(dots)
        if single:
            vector, single = _canonical(dict(vector), single)
        self.vector = vector
        self.dots = single

    def covers(self, dot: Dot) -> bool:
        """Whether `dot` is carried or superseded by what this clock describes."""
        return self.vector.get(dot[0], 0) >= dot[1] or dot in self.dots

    def descends(self, other: "Clock") -> bool:
        """Whether everything `other` claims is claimed here too."""
        mine = self.vector
        for actor, n in other.vector.items():
            if mine.get(actor, 0) < n:
                return False
        return all(self.covers(dot) for dot in other.dots)

    def join(self, other: "Clock") -> "Clock":
        """The least clock that claims what either claims."""
        vector = dict(self.vector)
        for actor, n in other.vector.items():
            if vector.get(actor, 0) < n:
                vector[actor] = n
        return Clock(vector, self.dots | other.dots)

    def with_dot(self, dot: Dot) -> "Clock":
        """This clock and one dot more, whose predecessors need not be known."""
        actor, n = dot
        if self.vector.get(actor, 0) == n - 1:
            vector = dict(self.vector)
            vector[actor] = n
            return Clock(vector, self.dots)
        return Clock(self.vector, self.dots | {dot})

    def to_bytes(self) -> bytes:
        """Canonical bytes: two u16 counts, then sorted (actor, u64) entries, vector first."""
        vector, dots = self.vector, self.dots
        if len(vector) > ENTRIES_MAX or len(dots) > ENTRIES_MAX:
            raise Corrupt(
                f"a clock of {len(vector)} entries and {len(dots)} dots doesn't fit its byte "
                f"form, which holds {ENTRIES_MAX} of each"
            )
        pack = _ENTRY.pack
        parts = [_COUNTS.pack(len(vector), len(dots))]
        try:
            parts += [pack(actor, n) for actor, n in sorted(vector.items())]
            if dots:
                parts += [pack(actor, n) for actor, n in sorted(dots)]
        except struct_error as error:
            raise Corrupt(f"a counter of {self} doesn't fit 64 bits") from error
        return b"".join(parts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Clock):
            return NotImplemented
        return self.vector == other.vector and self.dots == other.dots

    def __hash__(self) -> int:
        return hash((frozenset(self.vector.items()), self.dots))

    def __bool__(self) -> bool:
        """False for the clock that claims nothing."""
        return bool(self.vector) or bool(self.dots)

    def __repr__(self) -> str:
        entries = [f"{dot_text((a, n))}" for a, n in sorted(self.vector.items())]
        entries += [f"({dot_text(dot)})" for dot in sorted(self.dots)]
        return f"Clock[{' '.join(entries)}]"


EMPTY: Final = Clock({})
"""The clock that claims nothing."""


def _canonical(
    vector: dict[bytes, int], dots: frozenset[Dot]
) -> tuple[dict[bytes, int], frozenset[Dot]]:
    """Fold dots into the vector where they follow it without a gap; drop covered ones."""
    rest = []
    for actor, n in sorted(dots):
        reached = vector.get(actor, 0)
        if n == reached + 1:
            vector[actor] = n
        elif n > reached:
            rest.append((actor, n))
    return vector, frozenset(rest)


def clock_length(buffer: bytes, offset: int = 0) -> int:
    """Bytes that the encoded clock at `offset` takes, read from its counts alone."""
    if len(buffer) < offset + COUNTS_BYTES:
        raise Corrupt("a clock ends before its counts")
    entries, dots = _COUNTS.unpack_from(buffer, offset)
    return int(COUNTS_BYTES + (entries + dots) * DOT_BYTES)


def clock_from_bytes(buffer: bytes, offset: int = 0) -> Clock:
    """Decode the clock at `offset`; raises Corrupt for bytes that are not canonical."""
    length = clock_length(buffer, offset)
    if len(buffer) < offset + length:
        raise Corrupt(f"a clock of {length} bytes has only {len(buffer) - offset}")
    entries, singles = _COUNTS.unpack_from(buffer, offset)
    unpack = _ENTRY.unpack_from
    offset += COUNTS_BYTES
    if entries == 1 and not singles:  # by far the most common
        actor, n = unpack(buffer, offset)
        if n == 0:
            raise Corrupt("a clock names counter 0, but counters start at 1")
        return Clock({actor: n})
    vector: dict[bytes, int] = {}
    last = b""
    for _ in range(entries):
        actor, n = unpack(buffer, offset)
        if actor <= last or n == 0:
            raise Corrupt(_NOT_CANONICAL)
        vector[actor] = n
        last = actor
        offset += DOT_BYTES
    if not singles:
        return Clock(vector)
    dots = [unpack(buffer, offset + i * DOT_BYTES) for i in range(singles)]
    clock = Clock(vector, dots)
    if len(clock.dots) != singles or dots != sorted(dots):
        raise Corrupt(_NOT_CANONICAL)
    return clock


_NOT_CANONICAL: Final = (
    "a clock is not in canonical form: an entry is out of order, repeated, covered or zero"
)


def dot_to_bytes(dot: Dot) -> bytes:
    """24 bytes: actor, u64 counter; raises Corrupt when the counter doesn't fit."""
    try:
        return _ENTRY.pack(*dot)
    except struct_error as error:
        raise Corrupt(f"the counter of {dot_text(dot)} doesn't fit 64 bits") from error


def dot_from_bytes(buffer: bytes, offset: int = 0) -> Dot:
    """Decode 24 bytes at `offset`; raises Corrupt when they aren't there or no dot."""
    if len(buffer) < offset + DOT_BYTES:
        raise Corrupt("a dot ends early")
    actor, n = _ENTRY.unpack_from(buffer, offset)
    if n == 0:
        raise Corrupt("a dot has counter 0, but counters start at 1")
    return actor, n


def dot_text(dot: Dot) -> str:
    """For people: NODE.INCARNATION.BIRTH:COUNTER, incarnation in 16 hex digits."""
    actor, n = dot
    number = int.from_bytes(actor[:4], "big")
    birth = int.from_bytes(actor[12:], "big")
    return f"{number}.{actor[4:12].hex()}.{birth}:{n}"
