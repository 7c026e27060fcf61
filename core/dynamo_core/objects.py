"""Objects: a clock and its siblings, and the only ways they change.

Owns put, merge, what a reader is shown, limits, and the byte form with its
feature level. Replication always sends the whole resulting object, never a
lone sibling, so a clock never claims a dot that was neither carried nor
superseded.

Byte form, level 1 (all integers big-endian)::

    head  u8 level | u16 siblings | clock | per sibling: dot (24) u8 tombstone
    body  per sibling: 16 write id | u64 written_ms | u16 type length |
          u32 value length | content type | value

The head is everything that two replicas have to compare: equal heads mean
equal objects. Siblings are sorted by (dot, write id), so equal objects have
equal bytes.
"""

from hashlib import blake2b
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

from dynamo_core.errors import Corrupt
from dynamo_core.versions import (
    DOT_BYTES,
    EMPTY,
    Clock,
    Dot,
    clock_from_bytes,
    clock_length,
    dot_text,
)

FEATURE_LEVEL: Final = 1
SIBLINGS_MAX: Final = 0xFFFF
TYPE_BYTES_MAX: Final = 255
TOMBSTONES_MAX: Final = 64
"""Beside each other in one object; a delete is always written, so something has to bound them."""
LEAF_BYTES: Final = 16
SPENT_MIN = 8
"""Spent clock entries that a living key has to have for a round to retire them."""

_START: Final = Struct(">BH")
_CLOCK_AT: Final = _START.size
_COUNTS: Final = Struct(">BHHH")  # the start, and the counts that open the clock after it
_SIBLING: Final = Struct(">16sQB")
_BODY: Final = Struct(">16sQHI")
_SIBLING_BYTES: Final = DOT_BYTES + 1
_SOLE: Final = Struct(">7s16sQ16sQB16sQHI")
_SOLE_START: Final = _COUNTS.pack(FEATURE_LEVEL, 1, 1, 0)
"""How an object with one sibling and one clock entry begins."""


class Sibling(NamedTuple):
    """One value (or tombstone, when `value` is None) with the dot of its write.

    `written_ms` is wall time in milliseconds since the epoch: shown to people
    and used by lastWriteWins at the coordinator, never to order versions.
    """

    dot: Dot
    write_id: bytes
    written_ms: int
    content_type: str
    value: bytes | None

    @property
    def is_tombstone(self) -> bool:
        return self.value is None


class Object(NamedTuple):
    """All a replica knows of one key; siblings sorted by (dot, write id)."""

    clock: Clock
    siblings: tuple[Sibling, ...]


ABSENT: Final = Object(EMPTY, ())
"""What a replica holds of a key that it has no record of."""


def put(held: Object, context: Clock, sibling: Sibling) -> Object:
    """`held` after a write by someone who had seen `context` (P§4.4).

    Siblings that the context covers go, the fresh one comes, the clock joins
    the context. A sibling that is the same write as one that goes, tried at
    another coordinator, has been seen by the author, so it goes too. Write ids
    come from clients: only one with the same content is the same write.

    A tombstone beyond TOMBSTONES_MAX takes the place of all others, unseen as they
    may be: they carry no value, and what they replaced stays claimed by the clock.
    """
    seen = {_write(s) for s in held.siblings if context.covers(s.dot)}
    kept = [s for s in held.siblings if _write(s) not in seen] if seen else [*held.siblings]
    if sibling.value is None and sum(s.value is None for s in kept) >= TOMBSTONES_MAX:
        kept = [s for s in kept if s.value is not None]
    kept.append(sibling)
    return Object(held.clock.join(context).with_dot(sibling.dot), _sorted(kept))


def written_before(
    held: Object, context: Clock, write: tuple[bytes, str, bytes | None]
) -> Dot | None:
    """The dot under which `held` has had this very put already, if nothing is left of it to do.

    `write` is (write id, content type, value). It was tried at another coordinator,
    whose object has come here: a second dot would show the value again to everybody
    who replaces it under the first. None where the context covers a sibling that is
    still there, and so for a write id that is used anew.
    """
    if any(context.covers(s.dot) for s in held.siblings) or not held.clock.descends(context):
        return None
    return next((s.dot for s in reversed(held.siblings) if _write(s) == write), None)


def merge(a: Object, b: Object) -> Object:
    """The least object that both descend to; commutative, associative, idempotent.

    A sibling stays if the other object has its dot too, or if the other's
    clock doesn't cover it. Different contents under one dot (a reused dot,
    which must never happen) are all kept: a duplicate shows, a loss doesn't.
    """
    if a.siblings == b.siblings and a.clock == b.clock:
        return a
    dots_a = {s.dot for s in a.siblings}
    dots_b = {s.dot for s in b.siblings}
    covers_a, covers_b = a.clock.covers, b.clock.covers
    kept = {s for s in a.siblings if s.dot in dots_b or not covers_b(s.dot)}
    kept |= {s for s in b.siblings if s.dot in dots_a or not covers_a(s.dot)}
    return Object(a.clock.join(b.clock), _sorted(kept))


def shown(held: Object) -> tuple[Sibling, ...]:
    """The siblings that a reader is shown: live ones, each write once.

    A tombstone beside live siblings is never part of an answer. Of a write
    that was tried at several coordinators the sibling with the largest dot is
    shown; the context, being the object's clock, covers them all.
    """
    if len(held.siblings) == 1:
        return held.siblings if held.siblings[0].value is not None else ()
    by_write = {_write(s): s for s in held.siblings if s.value is not None}
    return tuple(by_write.values())


def last_written(held: Object) -> tuple[Sibling, ...]:
    """What lastWriteWins shows: the sibling with the largest (wall time, dot), if it lives."""
    if not held.siblings:
        return ()
    last = max(held.siblings, key=lambda s: (s.written_ms, s.dot))
    return () if last.value is None else (last,)


def _write(sibling: Sibling) -> tuple[bytes, str, bytes | None]:
    """What makes two siblings the same write: its id and what it wrote."""
    return sibling.write_id, sibling.content_type, sibling.value


def _sorted(siblings: "set[Sibling] | list[Sibling]") -> tuple[Sibling, ...]:
    if len(siblings) < 2:
        return tuple(siblings)
    # Under one dot and write id (which must never repeat) a tombstone still
    # has to sort against a value, even an empty one, so None is replaced.
    return tuple(
        sorted(
            siblings,
            key=lambda s: (
                *(s.dot, s.write_id, s.written_ms, s.content_type),
                *(s.value is None, s.value or b""),
            ),
        )
    )


def to_bytes(held: Object) -> bytes:
    """Encode at feature level 1; raises Corrupt when something doesn't fit its field."""
    clock, siblings = held
    if len(siblings) > SIBLINGS_MAX:
        raise Corrupt(f"{len(siblings)} siblings don't fit the byte form ({SIBLINGS_MAX})")
    parts = [_START.pack(FEATURE_LEVEL, len(siblings)), clock.to_bytes()]
    bodies = []
    try:
        for (actor, n), write_id, written_ms, content_type, value in siblings:
            parts.append(_SIBLING.pack(actor, n, value is None))
            kind = content_type.encode()
            if value is None:
                value = b""
            bodies.append(_BODY.pack(write_id, written_ms, len(kind), len(value)))
            bodies.append(kind)
            bodies.append(value)
    except (struct_error, UnicodeEncodeError) as error:
        raise Corrupt(f"a sibling doesn't fit the byte form: {error}") from error
    return b"".join(parts + bodies)


def head_length(buffer: bytes, offset: int = 0) -> int:
    """Bytes of the head of the encoded object at `offset`."""
    try:
        level, siblings, entries, dots = _COUNTS.unpack_from(buffer, offset)
    except struct_error as error:
        raise Corrupt("an object ends before its counts") from error
    if level != FEATURE_LEVEL:
        raise Corrupt(
            f"an object has feature level {level}, but this version reads {FEATURE_LEVEL}"
        )
    length: int = _COUNTS.size + (entries + dots) * DOT_BYTES + siblings * _SIBLING_BYTES
    if len(buffer) < offset + length:
        raise Corrupt(f"an object's head of {length} bytes has only {len(buffer) - offset}")
    return length


def head_of(buffer: bytes) -> bytes:
    """The head of an encoded object."""
    return buffer[: head_length(buffer)]


def clock_bytes_of(head: bytes) -> bytes:
    """The encoded clock inside an encoded object or head."""
    end = _CLOCK_AT + clock_length(head, _CLOCK_AT)
    if len(head) < end:
        raise Corrupt(f"an object's clock ends at byte {end}, but there are only {len(head)}")
    return head[_CLOCK_AT:end]


def clock_of(head: bytes) -> Clock:
    """The clock of an encoded object or head."""
    return clock_from_bytes(head, _CLOCK_AT)


def has_value(head: bytes) -> bool:
    """Whether an encoded object or head has a live sibling."""
    end = head_length(head)
    count = _START.unpack_from(head)[1]
    if count == 1:
        return head[end - 1] == 0
    first = end - count * _SIBLING_BYTES + DOT_BYTES
    return 0 in head[first:end:_SIBLING_BYTES]


def reapable(head: bytes) -> bool:
    """Whether a reaping round may take something of this encoded object or head.

    All of it when nothing in it lives, else the spent part of its clock, if that is
    worth a round.
    """
    if not has_value(head):
        return True
    _, siblings, entries, dots = _COUNTS.unpack_from(head)
    if entries + dots - siblings < SPENT_MIN:
        return False
    clock, end = clock_of(head), head_length(head)
    marks = _SIBLING.iter_unpack(head[end - siblings * _SIBLING_BYTES : end])
    kept = _of_living(clock, {actor for actor, _, tombstone in marks if not tombstone})
    return bool(entries + dots - len(kept.vector) - len(kept.dots) >= SPENT_MIN)


def retired(held: Object) -> Object:
    """`held` without tombstones and without what its clock says of actors that nothing living has.

    Only in a round that all have agreed to: whoever still held what those entries
    supersede would bring it back.
    """
    living = tuple(s for s in held.siblings if s.value is not None)
    return Object(_of_living(held.clock, {s.dot[0] for s in living}), living)


def _of_living(clock: Clock, actors: set[bytes]) -> Clock:
    return Clock(
        {actor: n for actor, n in clock.vector.items() if actor in actors},
        [dot for dot in clock.dots if dot[0] in actors],
    )


def from_bytes(buffer: bytes) -> Object:
    """Decode a whole object; raises Corrupt for anything but exactly one.

    Only the canonical form is read: a clock that claims every sibling's dot,
    siblings in order and different, tombstones without a value.
    """
    if buffer.startswith(_SOLE_START) and len(buffer) >= _SOLE.size:
        # By far the most common: one write by one actor, decoded in one go.
        _, actor, n, by, m, tombstone, write_id, written_ms, kind_n, value_n = _SOLE.unpack_from(
            buffer
        )
        value_at = _SOLE.size + kind_n
        if by == actor and 0 < m <= n and not tombstone and len(buffer) == value_at + value_n:
            type_bytes = buffer[_SOLE.size : value_at]
            if type_bytes.isascii():
                sole = Sibling(
                    (by, m), write_id, written_ms, type_bytes.decode(), buffer[value_at:]
                )
                return Object(Clock({actor: n}), (sole,))
    at = head_length(buffer)
    count = _START.unpack_from(buffer)[1]
    clock = clock_from_bytes(buffer, _CLOCK_AT)
    dots_at = at - count * _SIBLING_BYTES
    end = len(buffer)
    siblings = []
    for _ in range(count):
        actor, n, tombstone = _SIBLING.unpack_from(buffer, dots_at)
        dots_at += _SIBLING_BYTES
        if end < at + _BODY.size:
            raise Corrupt("an object's sibling ends early")
        write_id, written_ms, kind_length, value_length = _BODY.unpack_from(buffer, at)
        at += _BODY.size
        if end < at + kind_length + value_length:
            raise Corrupt("an object's value ends early")
        try:
            kind = buffer[at : at + kind_length].decode()
        except UnicodeDecodeError as error:
            raise Corrupt("a sibling's content type is not UTF-8") from error
        at += kind_length
        value = None if tombstone else buffer[at : at + value_length]
        if tombstone and (value_length or tombstone != 1):
            raise Corrupt("a tombstone has a value, or its flag is neither 0 nor 1")
        at += value_length
        dot = (actor, n)
        if n == 0 or not clock.covers(dot):
            raise Corrupt(f"a sibling has the dot {dot_text(dot)}, which its clock doesn't claim")
        siblings.append(Sibling(dot, write_id, written_ms, kind, value))
    if at != end:
        raise Corrupt(f"an object is followed by {end - at} bytes that don't belong to it")
    held = tuple(siblings)
    if count > 1 and _sorted(set(held)) != held:
        raise Corrupt("an object's siblings are out of order or repeated")
    return Object(clock, held)


def _check_bodies(buffer: bytes, at: int) -> None:
    """Raise Corrupt unless the bodies from `at` on fill the buffer; reads only lengths."""
    end = len(buffer)
    for _ in range(_START.unpack_from(buffer)[1]):
        if end < at + _BODY.size:
            raise Corrupt("an object's sibling ends early")
        _, _, kind_length, value_length = _BODY.unpack_from(buffer, at)
        at += _BODY.size + kind_length + value_length
    if at != end:
        raise Corrupt(f"an object's bodies should end at byte {at}, but it has {end} bytes")


def merge_bytes(held: bytes | None, incoming: bytes) -> bytes:
    """Merge two encoded objects, decoding values only where neither replaces the other.

    When the result equals one of them it is that very one, `held` first, so
    `result is held` and `result is incoming` tell the caller what happened. A
    first write and a write that descends what is held, the most common cases,
    cost no decoding; only their lengths are checked, so that what is damaged
    is refused before it is stored.
    """
    if held is not None and held == incoming:
        return held
    at = head_length(incoming)
    _check_bodies(incoming, at)
    if held is None:
        return incoming
    head_held, head_incoming = head_of(held), incoming[:at]
    if head_held == head_incoming:
        if from_bytes(held) == from_bytes(incoming):
            return held
    else:
        mine, theirs = clock_of(head_held), clock_of(head_incoming)
        if replaces(head_incoming, theirs, head_held, mine):
            return incoming
        if replaces(head_held, mine, head_incoming, theirs):
            return held
    result = to_bytes(merge(from_bytes(held), from_bytes(incoming)))
    if result == held:
        return held
    return incoming if result == incoming else result


def replaces(head_a: bytes, clock_a: Clock, head_b: bytes, clock_b: Clock) -> bool:
    """Whether heads alone prove that merging object b into object a leaves a unchanged.

    True when a's clock descends b's and b claims no sibling of a. False says
    nothing: if both carry a dot, only its contents can tell a shared sibling
    from a reused dot.
    """
    if not clock_a.descends(clock_b):
        return False
    dots_b = set(_head_dots(head_b))
    for dot in _head_dots(head_a):
        if dot in dots_b or clock_b.covers(dot):
            return False
    return True


def _head_dots(head: bytes) -> list[Dot]:
    count = _START.unpack_from(head)[1]
    at = _CLOCK_AT + clock_length(head, _CLOCK_AT)
    return [_SIBLING.unpack_from(head, at + i * _SIBLING_BYTES)[:2] for i in range(count)]


def leaf(key: bytes, head: bytes) -> bytes:
    """The hash-tree leaf of a key: its clock and sorted (dot, is tombstone), 16 bytes.

    "Same" and "equal" everywhere mean equal leaves (P§4.7). The level byte is
    part of the head: trees are compared at the ring's feature level.
    """
    return blake2b(len(key).to_bytes(2, "big") + key + head, digest_size=LEAF_BYTES).digest()
