"""Exchange: how two replicas list, compare and fetch keys of segments that differ (P§4.7).

Owns the messages SEGMENTS (key lists of a range of places) and FETCH (a peer's
own records), the comparison of two lists, and what is done about a key. A key
is repaired only if it is still as both sides listed it: a write that is under
way makes replicas equal by itself.

Forbidden here: where objects are kept, and which segments differ.
"""

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

from dynamo_core.errors import Corrupt
from dynamo_core.ring import position

_LIST: Final = Struct(">HH")
_LEAF: Final = Struct(">16sH")
_KEY: Final = Struct(">H")
_FETCHED: Final = Struct(">BQI")

# SEGMENTS: u16 partition | u16 start length | start | rest end: places, half open.
# SEGMENTS_REPLY: u8 more | per key: 16 leaf | u16 key length | key; in stored order.


def pack_list(partition: int, start: bytes, end: bytes) -> bytes:
    return _LIST.pack(partition, len(start)) + start + end


def unpack_list(payload: bytes) -> tuple[int, bytes, bytes]:
    """(partition, start, end)."""
    try:
        partition, length = _LIST.unpack_from(payload)
    except struct_error as error:
        raise Corrupt("a question for keys ends early") from error
    at = _LIST.size + length
    if len(payload) < at:
        raise Corrupt("a question for keys ends before its start")
    return partition, payload[_LIST.size : at], payload[at:]


def pack_leaves(leaves: Iterable[tuple[bytes, bytes]], more: bool) -> bytes:
    """Of (place, leaf) pairs; `more` says that the list goes on behind the last."""
    parts = [b"\x01" if more else b"\x00"]
    for place, leaf in leaves:
        parts += (_LEAF.pack(leaf, len(place) - 16), place[16:])
    return b"".join(parts)


def unpack_leaves(payload: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
    """((place, leaf) pairs in order, more)."""
    leaves = []
    at = 1
    try:
        while at < len(payload):
            leaf, length = _LEAF.unpack_from(payload, at)
            at += _LEAF.size
            key = payload[at : at + length]
            at += length
            leaves.append((position(key) + key, leaf))
    except struct_error as error:
        raise Corrupt("a list of keys ends early") from error
    if at != len(payload) or (payload[0] and not leaves):
        raise Corrupt("a list of keys ends early, or promises more behind none")
    return leaves, bool(payload[0])


# FETCH: u16 partition | per key: u16 length | key.
# FETCH_REPLY: per key, as far as they fit: u8 got | u64 round | u32 length | object.


class Got(IntEnum):
    """What a peer gives of a key that was fetched."""

    NOTHING = 0
    OBJECT = 1
    REAPED = 2
    DAMAGED = 3
    """It has a record that it can't read."""


class Fetched(NamedTuple):
    """A peer's own record of one key; `obj` is empty unless it has one."""

    got: Got
    reap_round: int
    obj: bytes


def pack_fetch(partition: int, keys: Iterable[bytes]) -> bytes:
    return _KEY.pack(partition) + b"".join(_KEY.pack(len(key)) + key for key in keys)


def unpack_fetch(payload: bytes) -> tuple[int, list[bytes]]:
    """(partition, keys)."""
    keys, at = [], _KEY.size
    try:
        partition: int = _KEY.unpack_from(payload)[0]
        while at < len(payload):
            length = _KEY.unpack_from(payload, at)[0]
            at += _KEY.size + length
            keys.append(payload[at - length : at])
    except struct_error as error:
        raise Corrupt("a fetch ends early") from error
    if at != len(payload) or not all(keys):
        raise Corrupt("a fetch ends early, or names an empty key")
    return partition, keys


def pack_fetched(items: Iterable[Fetched]) -> bytes:
    return b"".join(_FETCHED.pack(i.got, i.reap_round, len(i.obj)) + i.obj for i in items)


def unpack_fetched(payload: bytes) -> list[Fetched]:
    items, at = [], 0
    try:
        while at < len(payload):
            got, reap_round, length = _FETCHED.unpack_from(payload, at)
            at += _FETCHED.size + length
            items.append(Fetched(Got(got), reap_round, payload[at - length : at]))
    except (struct_error, ValueError) as error:
        raise Corrupt(f"what was fetched is malformed: {error}") from error
    if at != len(payload):
        raise Corrupt("what was fetched ends early")
    return items


# Deciding about keys


class Difference(NamedTuple):
    """A key whose leaves differed when both sides were listed; None: no record there."""

    place: bytes
    mine: bytes | None
    theirs: bytes | None


def differing(
    mine: Iterable[tuple[bytes, bytes]], theirs: Iterable[tuple[bytes, bytes]]
) -> list[Difference]:
    """Keys of two lists of (place, leaf) that only one has or that have different leaves."""
    here, there = dict(mine), dict(theirs)
    return [
        Difference(place, here.get(place), there.get(place))
        for place in sorted(here.keys() | there.keys())
        if here.get(place) != there.get(place)
    ]


class Verdict(IntEnum):
    """What to do about a key that differed when it was listed."""

    SAME = 0
    """It has become equal by itself."""
    MOVING = 1
    """It has been written since; the write, and what follows from it, is still under way."""
    REPAIR = 2


def verdict(
    listed: Difference, mine: bytes | None, theirs: bytes | None, insist: bool = False
) -> Verdict:
    """Judge by the leaves as they are now; `insist` repairs what moves, too."""
    if mine == theirs:
        return Verdict.SAME
    if insist or (mine, theirs) == (listed.mine, listed.theirs):
        return Verdict.REPAIR
    return Verdict.MOVING
