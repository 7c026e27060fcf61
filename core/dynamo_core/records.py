"""Records: what stands on a replica's own disk around an object.

Owns the local header that is never replicated, transferred or restored: the
mark (the last dot that this node minted into this very record) and, for a
hint, its stamp: the reap round of its data, the ring under which it was taken, and
the start of the node in which all of it was taken. The object's bytes follow unchanged, so that
they can be sent without decoding them.

Form: u8 flags | 24 bytes mark, if flag 1 | u64 reap round, u64 ring epoch and
16 bytes ring id, if flag 2 | 8 bytes start, if flag 4 | object.
"""

from struct import Struct
from typing import Final, NamedTuple

from dynamo_core.errors import Corrupt
from dynamo_core.frames import RingName
from dynamo_core.versions import DOT_BYTES, Dot, dot_from_bytes, dot_to_bytes

_FLAG_MARK: Final = 1
_FLAG_STAMP: Final = 2
_FLAG_START: Final = 4
_STAMP: Final = Struct(">QQ16s")
DIGEST_BYTES: Final = 16
START_BYTES: Final = 8
SEVERAL: Final = bytes(START_BYTES)
"""In a stamp: not all of the hint was taken in one start, or that isn't known."""
NOBODY: Final = 0
"""The target of a write that is no hint; node numbers start at 1."""


class Stamp(NamedTuple):
    """Which reap round a hint's data is of, the name of the ring it was kept under, in which start.

    `start` is random at each start of a node, also one that goes on with its incarnation,
    as it may after its disk was rolled back. So while it is the present one, nothing in the
    hint comes from an earlier life of the node.
    """

    reap_round: int
    epoch: int
    ring_id: bytes
    start: bytes = SEVERAL

    @property
    def ring(self) -> RingName:
        return RingName(self.epoch, self.ring_id)

    def with_older(self, other: "Stamp") -> "Stamp":
        """That of what is merged of both: as old as either of them is, by round and by ring."""
        return Stamp(min(self.reap_round, other.reap_round), *min(self.ring, other.ring))


class Record(NamedTuple):
    """An encoded object with its local header; `stamp` is None outside hints."""

    obj: bytes
    mark: Dot | None
    stamp: Stamp | None = None


def to_bytes(record: Record) -> bytes:
    obj, mark, stamp = record
    if mark is None and stamp is None:
        return b"\x00" + obj
    flags, parts = 0, b""
    if mark is not None:
        flags |= _FLAG_MARK
        parts += dot_to_bytes(mark)
    if stamp is not None:
        flags |= _FLAG_STAMP
        parts += _STAMP.pack(*stamp[:3])
        if stamp.start != SEVERAL:
            flags |= _FLAG_START
            parts += stamp.start
    return bytes((flags,)) + parts + obj


def from_bytes(data: bytes) -> Record:
    """Decode; raises Corrupt for anything that this version didn't write."""
    if not data or data[0] & ~(_FLAG_MARK | _FLAG_STAMP | _FLAG_START):
        raise Corrupt("a record's header is not one that this version writes")
    flags, at = data[0], 1
    mark: Dot | None = None
    stamp: Stamp | None = None
    if flags & _FLAG_MARK:
        mark = dot_from_bytes(data, at)
        at += DOT_BYTES
    if flags & _FLAG_STAMP:
        if len(data) < at + _STAMP.size:
            raise Corrupt("a hint's record ends before its stamp")
        stamp = Stamp(*_STAMP.unpack_from(data, at))
        at += _STAMP.size
    if flags & _FLAG_START:
        if stamp is None or len(data) < at + START_BYTES:
            raise Corrupt("a hint's record has no stamp, or ends before its start")
        stamp = stamp._replace(start=data[at : at + START_BYTES])
        at += START_BYTES
        if stamp.start == SEVERAL:
            raise Corrupt("a hint's record names a start that is none")
    return Record(data[at:], mark, stamp)


def object_of(data: bytes) -> bytes:
    """The object's bytes alone: what a read needs."""
    flags = data[0] if data else -1
    if flags == _FLAG_MARK:
        return data[1 + DOT_BYTES :]
    return data[1:] if flags == 0 else from_bytes(data).obj


def hint_key(target: int, digest: bytes, key: bytes) -> bytes:
    """Where a hint is kept: u32 target | digest | key, so a target's hints are contiguous."""
    return target.to_bytes(4, "big") + digest + key
