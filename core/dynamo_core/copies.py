"""Copies: what owners of a partition tell each other of how their copies stand.

Owns KEPT, the message, and which copies must not be merged: a round is committed
only with the fsynced yes of every owner, so a copy that knows nothing of a
committed round is from before it, and what it shows may have been reaped (design:
disks). What an owner does with such a copy of its own is `returning`.

Forbidden here: the network and the disk.
"""

from collections.abc import Mapping
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

from dynamo_core.errors import Corrupt
from dynamo_core.recovery import Lack
from dynamo_core.rounds import (
    UNKNOWN,
    Kept,
    State,
    kept_from_bytes,
    kept_to_bytes,
    state_from_bytes,
    state_to_bytes,
)
from dynamo_core.slots import Row, pack_rows, unpack_rows

MANY_MAX: Final = 1024
"""Partitions that one KEPT asks about: its answer is some 150 KB if every one is reaped."""

_HOLDING: Final = Struct(">BH")
_PARTITION: Final = Struct(">H")
_ONE: Final = Struct(">8sH")
_COUNT: Final = Struct(">H")
_ASKED: Final = Struct(">H8s")
_LACK_BITS: Final = 0x0F
_MERGED: Final = 0x10
_SURE: Final = 0x20


class Holding(NamedTuple):
    """How one owner's copy stands: what it lacks, whether it has merged any other's since it
    was empty, whether it is sure of being new enough, and its rounds."""

    lack: Lack = Lack.NOTHING
    merged: bool = False
    sure: bool = False
    state: State = UNKNOWN

    @property
    def fresh(self) -> bool:
        """Whether it holds nothing but what was sent to it since its disk was made."""
        return self.lack == Lack.EMPTY and not self.merged

    def agreed_to(self, reap_round: int) -> bool:
        """Whether the copy is as new as that round, if it was committed."""
        return self.fresh or self.state.agreed_to(reap_round)


COMPLETE: Final = Holding(sure=True)
"""How most copies stand: complete, and no round was ever begun."""


def too_old(holdings: Mapping[int, Holding]) -> list[int]:
    """Whose copies must not be merged, of those by owner: older than the newest round of any."""
    newest = max((h.state.committed for h in holdings.values()), default=0)
    return sorted(o for o, holding in holdings.items() if not holding.agreed_to(newest))


# KEPT of one partition: 8 row | u16 partition. Its reply: a holding, rest the list if one is kept.
# KEPT of many: u16 n | n times u16 partition | 8 row. Its reply: u16 n | n times u16 partition |
# a holding; rest the rows (`slots.pack_rows`) of partitions of which another one is known there.
# What is asked for and in neither part is COMPLETE.
# A holding: u8 lack, 0x10 merged, 0x20 sure | u16 length | state.


def pack_one(partition: int, row: bytes) -> bytes:
    """KEPT of one partition; `row` names the tokens under which it is asked."""
    return _ONE.pack(row, partition)


def pack_many(rows: Mapping[int, bytes]) -> bytes:
    """KEPT of up to MANY_MAX partitions: by each what names its row."""
    return _COUNT.pack(len(rows)) + b"".join(_ASKED.pack(p, rows[p]) for p in sorted(rows))


def unpack_asked(payload: bytes) -> tuple[bool, dict[int, bytes]]:
    """(whether it is of one partition, what names the row of each); raises Corrupt."""
    try:
        if len(payload) == _ONE.size:
            row, partition = _ONE.unpack(payload)
            return True, {partition: row}
        (count,) = _COUNT.unpack_from(payload)
        rows = dict(_ASKED.iter_unpack(payload[_COUNT.size :]))
    except struct_error as error:
        raise Corrupt(f"a KEPT of {len(payload)} bytes is malformed") from error
    if len(rows) != count or count > MANY_MAX:
        raise Corrupt(f"a KEPT claims {count} partitions and names {len(rows)}")
    return False, rows


def holding_to_bytes(holding: Holding) -> bytes:
    lack, merged, sure, state = holding
    flags = lack | (_MERGED if merged else 0) | (_SURE if sure else 0)
    data = state_to_bytes(state)
    return _HOLDING.pack(flags, len(data)) + data


def _holding_from(data: bytes, at: int) -> tuple[Holding, int]:
    try:
        flags, length = _HOLDING.unpack_from(data, at)
        end = at + _HOLDING.size + length
        lack = Lack(flags & _LACK_BITS)
    except (struct_error, ValueError) as error:
        raise Corrupt(f"how a copy stands can't be read: {error}") from error
    state = state_from_bytes(data[end - length : end])
    return Holding(lack, bool(flags & _MERGED), bool(flags & _SURE), state), end


def pack_kept_reply(holding: Holding, kept: Kept | None) -> bytes:
    return holding_to_bytes(holding) + (b"" if kept is None else kept_to_bytes(kept))


def unpack_kept_reply(payload: bytes) -> tuple[Holding, Kept | None]:
    """Raises Corrupt for anything but exactly one."""
    holding, at = _holding_from(payload, 0)
    return holding, kept_from_bytes(payload[at:]) if len(payload) > at else None


def pack_holdings(holdings: Mapping[int, Holding], rows: Mapping[int, Row]) -> bytes:
    parts = [_COUNT.pack(len(holdings))]
    parts += (_PARTITION.pack(p) + holding_to_bytes(holdings[p]) for p in sorted(holdings))
    return b"".join(parts) + pack_rows(rows)


def unpack_holdings(payload: bytes) -> tuple[dict[int, Holding], dict[int, Row]]:
    """(holdings, rows), each by partition; raises Corrupt."""
    found: dict[int, Holding] = {}
    try:
        (count,) = _COUNT.unpack_from(payload)
        at = _COUNT.size
        for _ in range(count):
            (partition,) = _PARTITION.unpack_from(payload, at)
            found[partition], at = _holding_from(payload, at + _PARTITION.size)
    except struct_error as error:
        raise Corrupt("a list of how copies stand ends early") from error
    return found, unpack_rows(payload[at:])
