"""Records: what stands on a replica's own disk around an object.

Owns the local header that is never replicated, transferred or restored: the
mark (the last dot that this node minted into this very record) and, for a
hint, the reap round of its data. The object's bytes follow unchanged, so that
they can be sent without decoding them.

Form: u8 flags | 24 bytes mark, if flag 1 | u64 reap round, if flag 2 | object.
"""

from struct import Struct
from typing import Final, NamedTuple

from dynamo_core.errors import Corrupt
from dynamo_core.versions import DOT_BYTES, Dot, dot_from_bytes, dot_to_bytes

_FLAG_MARK: Final = 1
_FLAG_ROUND: Final = 2
_ROUND: Final = Struct(">Q")
DIGEST_BYTES: Final = 16


class Record(NamedTuple):
    """An encoded object with its local header; `reap_round` is None outside hints."""

    obj: bytes
    mark: Dot | None
    reap_round: int | None = None


def to_bytes(record: Record) -> bytes:
    obj, mark, reap_round = record
    if mark is None and reap_round is None:
        return b"\x00" + obj
    flags, parts = 0, b""
    if mark is not None:
        flags |= _FLAG_MARK
        parts += dot_to_bytes(mark)
    if reap_round is not None:
        flags |= _FLAG_ROUND
        parts += _ROUND.pack(reap_round)
    return bytes((flags,)) + parts + obj


def from_bytes(data: bytes) -> Record:
    """Decode; raises Corrupt for anything that this version didn't write."""
    if not data or data[0] & ~(_FLAG_MARK | _FLAG_ROUND):
        raise Corrupt("a record's header is not one that this version writes")
    flags, at = data[0], 1
    mark: Dot | None = None
    reap_round: int | None = None
    if flags & _FLAG_MARK:
        mark = dot_from_bytes(data, at)
        at += DOT_BYTES
    if flags & _FLAG_ROUND:
        if len(data) < at + _ROUND.size:
            raise Corrupt("a hint's record ends before its reap round")
        reap_round = _ROUND.unpack_from(data, at)[0]
        at += _ROUND.size
    return Record(data[at:], mark, reap_round)


def object_of(data: bytes) -> bytes:
    """The object's bytes alone: what a read needs."""
    flags = data[0] if data else -1
    if flags == _FLAG_MARK:
        return data[1 + DOT_BYTES :]
    return data[1:] if flags == 0 else from_bytes(data).obj


def hint_key(target: int, digest: bytes, key: bytes) -> bytes:
    """Where a hint is kept: u32 target | digest | key, so a target's hints are contiguous."""
    return target.to_bytes(4, "big") + digest + key
