"""Merkle: the hash tree of one partition (P§4.7).

Owns the tree's shape and how leaves become a root. A partition's keys fall
into SEGMENTS segments by the digest's bits after the partition's; a segment is
the sum of its leaves modulo 2^128, which makes a change of one key one
subtraction and one addition, whatever else is in the segment; inner nodes hash
their FANOUT children. A leaf is the hash of key, clock and sorted (dot, is
tombstone), see `objects.leaf`, so equal roots mean equal replicas.

Forbidden here: where leaves come from and where segments are kept.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from dynamo_core.errors import Corrupt

HASH_BYTES: Final = 16
FANOUT: Final = 16
SEGMENT_BITS: Final = 8
SEGMENTS: Final = 1 << SEGMENT_BITS
_MODULUS: Final = 1 << (8 * HASH_BYTES)


def segment_of(digest: bytes, partitions: int) -> int:
    """The segment, 0..SEGMENTS-1, of a key's 16-byte digest within its partition."""
    skip = partitions.bit_length() - 1
    return (int.from_bytes(digest[:4], "big") >> (32 - skip - SEGMENT_BITS)) & (SEGMENTS - 1)


class Tree:
    """The segments of one partition; all zero when it is empty."""

    __slots__ = ("_segments",)

    def __init__(self, segments: Sequence[int] | None = None) -> None:
        self._segments = [0] * SEGMENTS if segments is None else list(segments)
        if len(self._segments) != SEGMENTS:
            raise Corrupt(f"a hash tree has {len(self._segments)} segments, not {SEGMENTS}")

    def add(self, segment: int, leaf: bytes) -> None:
        """A key came to be, with this leaf."""
        self._segments[segment] = (self._segments[segment] + int.from_bytes(leaf, "big")) % _MODULUS

    def remove(self, segment: int, leaf: bytes) -> None:
        """A key with this leaf is no more (or is about to get another leaf)."""
        self._segments[segment] = (self._segments[segment] - int.from_bytes(leaf, "big")) % _MODULUS

    def level(self, depth: int) -> list[bytes]:
        """Hashes at `depth`: 0 is the root alone, the last one the segments themselves."""
        hashes = [s.to_bytes(HASH_BYTES, "big") for s in self._segments]
        for _ in range(DEPTH - depth):
            hashes = [
                blake2b(b"".join(hashes[i : i + FANOUT]), digest_size=HASH_BYTES).digest()
                for i in range(0, len(hashes), FANOUT)
            ]
        return hashes

    def root(self) -> bytes:
        """16 bytes; equal for equal replicas, whatever order their writes came in."""
        return self.level(0)[0]

    def differing(self, other: "Tree") -> list[int]:
        """Segments whose keys have to be compared one by one."""
        pairs = zip(self._segments, other._segments, strict=True)
        return [i for i, (mine, theirs) in enumerate(pairs) if mine != theirs]


DEPTH: Final = SEGMENT_BITS // (FANOUT.bit_length() - 1)
"""Levels below the root; the last one is the segments."""
