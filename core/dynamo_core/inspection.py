"""Inspection: what each replica has of one key, told to a person who looks.

Owns the message in which a replica tells it (values cut, so that an answer is bounded),
and what several of them mean together: which versions there are, which of them stand,
and of each replica whether it has a version, has seen it replaced, or never saw it.

Nothing here is read by a quorum or repairs anything. Forbidden here: clocks and links.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

from dynamo_core import objects
from dynamo_core.errors import Corrupt
from dynamo_core.objects import ABSENT, Object, Sibling

VALUES_BYTES_MAX: Final = 256 << 10
"""Of all values of one record that is told, cut as they are."""
RECORDS_MAX: Final = 17
"""A copy, and hints for as many owners as a partition can have slots."""

_ASK: Final = Struct(">I")
_REPLY: Final = Struct(">BB")
_RECORD: Final = Struct(">III")
_LENGTH: Final = Struct(">I")


class Standing(IntEnum):
    """By which right a node has a copy of the key's partition."""

    NONE = 0
    COUNTS = 1
    LEARNS = 2
    """It holds a slot, or is to hold one, and is still bringing its copy up to date."""


class Record(NamedTuple):
    """One record: the copy (`hint_for` 0) or what is kept for another node.

    `held` has its values cut; `lengths` says how long each is, 0 for a tombstone, and
    `size` how many bytes the whole object takes.
    """

    hint_for: int
    size: int
    held: Object
    lengths: tuple[int, ...]


class Told(NamedTuple):
    """All that one replica has of the key."""

    standing: Standing
    records: tuple[Record, ...]

    @property
    def whole(self) -> Object:
        """The copy and the hints, merged; values are cut."""
        found = ABSENT
        for record in self.records:
            found = objects.merge(found, record.held)
        return found


# INSPECT: u32 bytes of each value wanted | key.
# INSPECT_REPLY: u8 standing | u8 records | each: u32 hint for | u32 size | u32 length |
# that many bytes of an object with its values cut | u32 value length for each sibling.


def pack_ask(key: bytes, value_bytes: int) -> bytes:
    return _ASK.pack(value_bytes) + key


def unpack_ask(payload: bytes) -> tuple[bytes, int]:
    """(key, bytes of each value wanted); raises Corrupt."""
    if len(payload) <= _ASK.size:
        raise Corrupt("a question for what is here of a key has no key")
    return payload[_ASK.size :], _ASK.unpack_from(payload)[0]


def cut(hint_for: int, obj: bytes, value_bytes: int) -> Record:
    """The record to tell of an encoded object; raises Corrupt."""
    held = objects.from_bytes(obj)
    room = min(value_bytes, VALUES_BYTES_MAX // max(1, len(held.siblings)))
    siblings = tuple(s if s.value is None else s._replace(value=s.value[:room])
                     for s in held.siblings)  # fmt: skip
    lengths = tuple(len(s.value or b"") for s in held.siblings)
    return Record(hint_for, len(obj), Object(held.clock, siblings), lengths)


def pack_told(told: Told) -> bytes:
    parts = [_REPLY.pack(told.standing, len(told.records))]
    for record in told.records:
        data = objects.to_bytes(record.held)
        parts.append(_RECORD.pack(record.hint_for, record.size, len(data)) + data)
        parts += map(_LENGTH.pack, record.lengths)
    return b"".join(parts)


def unpack_told(payload: bytes) -> Told:
    """Raises Corrupt for anything that `pack_told` didn't make."""
    try:
        standing, count = _REPLY.unpack_from(payload)
        at, records = _REPLY.size, []
        if count > RECORDS_MAX:
            raise ValueError(f"it has {count} records")
        for _ in range(count):
            hint_for, size, length = _RECORD.unpack_from(payload, at)
            at += _RECORD.size
            held = objects.from_bytes(payload[at : at + length])
            at += length
            lengths = [_LENGTH.unpack_from(payload, at + 4 * i)[0]
                       for i in range(len(held.siblings))]  # fmt: skip
            at += 4 * len(lengths)
            records.append(Record(hint_for, size, held, tuple(lengths)))
        if at != len(payload):
            raise ValueError("it goes on after its end")
        return Told(Standing(standing), tuple(records))
    except (struct_error, ValueError) as error:
        raise Corrupt(f"a replica's account of {len(payload)} bytes is malformed: {error}") from (
            error
        )


# What several replicas mean together

HAS: Final = "has"
REPLACED: Final = "replaced"
UNSEEN: Final = "unseen"


class Version(NamedTuple):
    """One write that some replica has; its value may be cut, `length` says from what.

    `stands`: nobody who answered has seen it replaced. All versions that stand are
    concurrent: none of their writers had seen another of them.
    """

    sibling: Sibling
    length: int
    stands: bool
    seen: Mapping[int, str]
    """Node number -> HAS, REPLACED or UNSEEN."""


def versions(told: Mapping[int, Told]) -> list[Version]:
    """Every version that somebody has: those that stand first, each by its dot."""
    wholes = {number: one.whole for number, one in told.items()}
    found: dict[tuple[bytes, int, bytes], tuple[Sibling, int]] = {}
    for sibling, length in _siblings(told.values()):
        name = (*sibling.dot, sibling.write_id)
        known = found.get(name)
        if known is None or len(sibling.value or b"") > len(known[0].value or b""):
            found[name] = sibling, length
    listed = []
    for name, (sibling, length) in sorted(found.items()):
        seen = {number: _seen(whole, name) for number, whole in wholes.items()}
        listed.append(Version(sibling, length, REPLACED not in seen.values(), seen))
    return sorted(listed, key=lambda version: not version.stands)


def _siblings(told: Iterable[Told]) -> Iterable[tuple[Sibling, int]]:
    for one in told:
        for record in one.records:
            yield from zip(record.held.siblings, record.lengths, strict=True)


def _seen(whole: Object, name: tuple[bytes, int, bytes]) -> str:
    if any((*s.dot, s.write_id) == name for s in whole.siblings):
        return HAS
    return REPLACED if whole.clock.covers(name[:2]) else UNSEEN
