"""Tenures: what a node's disk says of its part in one partition (design: handover).

Owns the record of tenures held and ended and of a half-pulled copy, and its bytes.

Forbidden here: what may become of them (`handover`).
"""

from enum import IntEnum
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

from dynamo_core.errors import Corrupt
from dynamo_core.slots import Token

PREFIX: Final = b"custody/"

_HELD: Final = Struct(">BQIIB")
_SEAL: Final = Struct(">BQIII")
_PULLING: Final = Struct(">BQIIQBB")


class Stage(IntEnum):
    """How far a tenure has come."""

    CLAIMED = 1
    """Without a seal: it counts when the rule for recovering nodes says so."""
    TAKEN = 2
    """The sealed copy is covered; too few other holders know it yet."""
    COUNTS = 3


class Held(NamedTuple):
    token: Token
    stage: Stage


class Seal(NamedTuple):
    """A tenure that has ended here. `successor` is 0 for one that ended by a higher token."""

    token: Token
    successor: int


class Asked(IntEnum):
    """What a successor knows of the seal; set durably before the question leaves."""

    NO = 0
    MAYBE = 1
    SEALED = 2


class Pulling(NamedTuple):
    """A half-pulled copy: of one slot, under one token, as of one reap round."""

    slot: int
    source: Token
    reap_round: int
    asked: Asked = Asked.NO
    whole: bool = False
    """All pages are in."""
    cursor: bytes = b""
    """The place after which the next page begins."""


class Custodies(NamedTuple):
    """What the record holds; the dicts are by slot."""

    held: dict[int, Held]
    seals: dict[int, Seal]
    pulling: Pulling | None


# On disk: META custody/PARTITION
# u8 n | held: u8 slot | token | u8 stage;  u8 n | seals: u8 slot | token | u32 successor;
# u8 0 or 1 | pulling: u8 slot | token | u64 round | u8 asked | u8 whole | rest cursor.


def record_to_bytes(record: Custodies) -> bytes | None:
    """None for one that holds nothing: its key is deleted."""
    held, seals, pulling = record
    if not (held or seals or pulling):
        return None
    parts = [bytes((len(held),))]
    parts += (_HELD.pack(slot, *h.token, h.stage) for slot, h in sorted(held.items()))
    parts.append(bytes((len(seals),)))
    parts += (_SEAL.pack(slot, *s.token, s.successor) for slot, s in sorted(seals.items()))
    if pulling is None:
        return b"".join((*parts, b"\x00"))
    slot, source, reap_round, asked, whole, cursor = pulling
    fixed = _PULLING.pack(slot, *source, reap_round, asked, whole)
    return b"".join((*parts, b"\x01", fixed, cursor))


def record_from_bytes(data: bytes) -> Custodies:
    """Raises Corrupt for anything but exactly one."""
    try:
        return _record(data)
    except (struct_error, ValueError, IndexError) as error:
        raise Corrupt(f"a record of slots of {len(data)} bytes is damaged: {error}") from error


def _record(data: bytes) -> Custodies:
    held: dict[int, Held] = {}
    seals: dict[int, Seal] = {}
    at = 1
    for _ in range(data[0]):
        slot, epoch, number, holder, stage = _HELD.unpack_from(data, at)
        held[slot] = Held(Token(epoch, number, holder), Stage(stage))
        at += _HELD.size
    n, at = data[at], at + 1
    for _ in range(n):
        slot, epoch, number, holder, successor = _SEAL.unpack_from(data, at)
        seals[slot] = Seal(Token(epoch, number, holder), successor)
        at += _SEAL.size
    if data[at] > 1:
        raise ValueError("it is neither with nor without a half-pulled copy")
    if not data[at]:
        if at + 1 != len(data):
            raise ValueError("something follows it")
        return Custodies(held, seals, None)
    slot, epoch, number, holder, reap_round, asked, whole = _PULLING.unpack_from(data, at + 1)
    cursor = data[at + 1 + _PULLING.size :]
    source = Token(epoch, number, holder)
    pulling = Pulling(slot, source, reap_round, Asked(asked), bool(whole), cursor)
    return Custodies(held, seals, pulling)
