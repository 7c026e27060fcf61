"""Copies: what owners of a partition tell each other of how their copies stand.

Owns KEPT, the message, and which copies must not be merged: a round is committed
only with the fsynced yes of every owner, so a copy that knows nothing of a
committed round is from before it, and what it shows may have been reaped (design:
disks). What an owner does with such a copy of its own is `returning`.

Forbidden here: the network and the disk.
"""

from collections.abc import Iterable, Mapping
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

_HOLDING: Final = Struct(">BH")
_PARTITION: Final = Struct(">H")
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


# KEPT: nothing, or u16 partition. Its reply for one partition: a holding, rest the list if one
# is kept; for all: each u16 partition | a holding, wherever it isn't COMPLETE.
# A holding: u8 lack, 0x10 merged, 0x20 sure | u16 length | state.


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


def pack_holdings(holdings: Iterable[tuple[int, Holding]]) -> bytes:
    return b"".join(_PARTITION.pack(p) + holding_to_bytes(h) for p, h in holdings)


def unpack_holdings(payload: bytes) -> dict[int, Holding]:
    """By partition; raises Corrupt."""
    found, at = {}, 0
    while at < len(payload):
        if at + 2 > len(payload):
            raise Corrupt("a list of how copies stand ends early")
        partition = int.from_bytes(payload[at : at + 2], "big")
        found[partition], at = _holding_from(payload, at + 2)
    return found
