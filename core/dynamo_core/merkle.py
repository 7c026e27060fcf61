"""Merkle: the hash tree of one partition (P§4.7).

Owns the tree's shape and how leaves become a root. A partition's keys fall
into SEGMENTS segments by the digest's bits after the partition's; a segment is
the sum of its leaves modulo 2^128, which makes a change of one key one
subtraction and one addition, whatever else is in the segment; inner nodes hash
their FANOUT children. A leaf is the hash of key, clock and sorted (dot, is
tombstone), see `objects.leaf`, so equal roots mean equal replicas.

Forbidden here: where leaves come from and where segments are kept.
"""

from hashlib import blake2b
from typing import Final

HASH_BYTES: Final = 16
FANOUT: Final = 16
SEGMENT_BITS: Final = 8
SEGMENTS: Final = 1 << SEGMENT_BITS
INNER_NODES: Final = SEGMENTS // FANOUT
NODE_BYTES: Final = FANOUT * HASH_BYTES
"""Bytes of the children of one inner node, and of all inner nodes."""
PLACES_END: Final = b"\xff" * (16 + 1025)
"""Behind every place (digest, then key) that can be stored."""
_MASK: Final = (1 << (8 * HASH_BYTES)) - 1


def segment_of(digest: bytes, partitions: int) -> int:
    """The segment, 0..SEGMENTS-1, of a key's 16-byte digest within its partition."""
    return index_of(digest, partitions) & (SEGMENTS - 1)


def index_of(digest: bytes, partitions: int) -> int:
    """Partition * SEGMENTS + segment of a key's digest: the digest's first bits."""
    skip = partitions.bit_length() - 1
    return int.from_bytes(digest[:4], "big") >> (32 - skip - SEGMENT_BITS)


def first_place(partition: int, segment: int, partitions: int) -> bytes:
    """Where a segment begins in stored order; `segment` SEGMENTS is the partition's end."""
    index = partition * SEGMENTS + segment
    if index == partitions * SEGMENTS:
        return PLACES_END
    return (index << (128 - (partitions.bit_length() - 1) - SEGMENT_BITS)).to_bytes(16, "big")


class Tree:
    """The segments of one partition; all zero when it is empty. About 4.5 KiB."""

    __slots__ = ("_inner", "_root", "_segments")

    def __init__(self) -> None:
        self._segments = bytearray(SEGMENTS * HASH_BYTES)
        self._inner: list[bytes | None] = [None] * INNER_NODES
        self._root: bytes | None = None

    def add(self, segment: int, leaf: bytes) -> None:
        """A key came to be, with this leaf."""
        self.change(segment, int.from_bytes(leaf, "big"))

    def remove(self, segment: int, leaf: bytes) -> None:
        """A key with this leaf is no more (or is about to get another leaf)."""
        self.change(segment, -int.from_bytes(leaf, "big"))

    def change(self, segment: int, difference: int) -> None:
        """Add a (negative, too) difference of leaves to a segment."""
        at = segment * HASH_BYTES
        end = at + HASH_BYTES
        segments = self._segments
        total = (int.from_bytes(segments[at:end], "big") + difference) & _MASK
        segments[at:end] = total.to_bytes(HASH_BYTES, "big")
        self._inner[segment // FANOUT] = self._root = None

    def segment(self, segment: int) -> bytes:
        """The 16-byte sum of a segment's leaves; zeros when it has none."""
        return bytes(self._segments[segment * HASH_BYTES : (segment + 1) * HASH_BYTES])

    def segments(self, node: int) -> bytes:
        """The FANOUT segments under an inner node, NODE_BYTES in all."""
        return bytes(self._segments[node * NODE_BYTES : (node + 1) * NODE_BYTES])

    def inner(self) -> bytes:
        """The hashes of the INNER_NODES inner nodes, NODE_BYTES in all."""
        inner = self._inner
        for node, known in enumerate(inner):
            if known is None:
                inner[node] = _hash(self.segments(node))
        return b"".join(inner)  # type: ignore[arg-type]  # none is None any more

    def root(self) -> bytes:
        """16 bytes; equal for equal replicas, whatever order their writes came in."""
        root = self._root
        if root is None:
            root = self._root = _hash(self.inner())
        return root

    @property
    def hashed(self) -> bool:
        """Whether the root is known without hashing anything."""
        return self._root is not None


def _hash(children: bytes) -> bytes:
    return blake2b(children, digest_size=HASH_BYTES).digest()


def root_of(segments: bytes) -> bytes:
    """The root of the tree that has these segments, all SEGMENTS of them joined."""
    nodes = range(0, INNER_NODES * NODE_BYTES, NODE_BYTES)
    return _hash(b"".join(_hash(segments[at : at + NODE_BYTES]) for at in nodes))


EMPTY_ROOT: Final = Tree().root()
