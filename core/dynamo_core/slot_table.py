"""Slot table: what one node knows of who holds every partition.

Owns the rows of all partitions (`slots`), what a ring adds to them, and the digests
by which two nodes find the rows that they know differently. Each change goes to
`persist` in the same step; it may be acted upon and said only once that is fsynced:
what was learned keeps a node from acting under an older row, after a crash too.

A ring is taken from a peer together with its rows, or after them: otherwise a ring
that was passed over may have given somebody up without its being known.

Forbidden here: by what right a token is raised (`handover`), and the network.
"""

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from struct import Struct
from struct import error as struct_error
from typing import Final

from dynamo_core.errors import Corrupt
from dynamo_core.ring import Ring
from dynamo_core.slots import (
    DIGEST_BYTES,
    Row,
    Token,
    join,
    moves,
    override,
    row_digest,
    row_from_bytes,
    row_to_bytes,
)

PREFIX: Final = b"row/"
BLOCK_PARTITIONS: Final = 64
"""Partitions that share one digest in `blocks`: 1 KiB of digests at most, 3 KB of rows each."""

_PARTITION: Final = Struct(">H")
_PLACES: Final = ("created", "joined", "replaced")


def given_up(ring: Ring) -> dict[int, int]:
    """Node numbers whose tokens are void for good -> epoch of the ring that made them so.

    A replaced node is one: its name goes on under another number, with another disk. So is
    one that a person gave up (event "given-up"). Numbers are never used again, and the
    history stays in every later ring: no node misses this by passing a ring over.
    """
    void: dict[int, int] = {}
    bearers: dict[str, int] = {}
    for entry in ring.history:
        before = bearers.get(entry.name)
        if entry.event == "replaced" and before is not None:
            void[before] = entry.epoch
        elif entry.event == "given-up":
            void[entry.number] = entry.epoch
        if entry.event in _PLACES:
            bearers[entry.name] = entry.number
    return void


def drained(ring: Ring) -> frozenset[int]:
    """Numbers of nodes that have left for good, having proven that they held nothing."""
    placed = {entry.number for entry in ring.history if entry.event in _PLACES}
    return frozenset(placed.difference((m.number for m in ring.everybody), given_up(ring)))


class SlotTable:
    """One per node; Q is fixed for life."""

    __slots__ = ("_blocks", "_digests", "_rows", "_wanted", "drained", "persist")

    def __init__(self, partitions: int) -> None:
        self._rows: list[Row] = [()] * partitions
        self.drained: frozenset[int] = frozenset()
        """Numbers that the ring in force names no more, `drained(ring)`."""
        self._wanted: tuple[tuple[int, ...], ...] = ()
        self._digests: list[bytes | None] = [None] * partitions
        self._blocks: list[bytes | None] = [None] * -(-partitions // BLOCK_PARTITIONS)
        self.persist: Callable[[bytes, bytes | None], None] = lambda key, value: None
        """Puts a key (None: deletes it) into the tick's batch."""

    @property
    def partitions(self) -> int:
        return len(self._rows)

    def row(self, partition: int) -> Row:
        return self._rows[partition]

    def digest(self, partition: int) -> bytes:
        """What names the row in requests; made once."""
        found = self._digests[partition]
        if found is None:
            found = self._digests[partition] = row_digest(self._rows[partition])
        return found

    def digests(self, partitions: Iterable[int]) -> bytes:
        """`digest` of each of these, one after the other."""
        known = self._digests
        return b"".join([known[p] or self.digest(p) for p in partitions])

    def learn(self, partition: int, row: Row) -> bool:
        """Join what somebody else knows; whether anything was new."""
        before = self._rows[partition]
        joined = join(before, row)
        if joined == before:
            return False
        self._rows[partition] = joined
        self._digests[partition] = self._blocks[partition // BLOCK_PARTITIONS] = None
        self.persist(PREFIX + _PARTITION.pack(partition), row_to_bytes(joined))
        return True

    def adopt(self, ring: Ring) -> list[int]:
        """A ring is in force: its partitions whose rows have changed.

        The first ring names who holds each slot to begin with. Of slots that were never
        heard of, a later one only nominates: lower than any token that really is.
        """
        void = given_up(ring)
        self.drained, self._wanted = drained(ring), ring.slots
        first = 1 if ring.epoch == 1 else 0
        changed = []
        for partition, wanted in enumerate(ring.slots):
            row = self._rows[partition]
            if len(row) < len(wanted):
                row += tuple(Token(first, 0, node) for node in wanted[len(row) :])
            if void:
                row = override(row, void, wanted)
            if self.learn(partition, row):
                changed.append(partition)
        return changed

    def orphans(self, partition: int, node: int) -> list[int]:
        """Slots that go to `node`, and that the row gives to who has left and was drained.

        Nobody can hand them over (docs/decisions/0014, 5).
        """
        return [slot for slot, target in self._orphaned(partition).items() if target == node]

    def answerable(self, partition: int) -> tuple[int, ...]:
        """Who can accept the loss of a partition: its holders, and instead of one that was
        drained whoever is to get the slot."""
        after = self._orphaned(partition)
        row = self._rows[partition]
        return tuple(dict.fromkeys(after.get(slot, row[slot].holder) for slot in range(len(row))))

    def _orphaned(self, partition: int) -> dict[int, int]:
        row = self._rows[partition]
        if self.drained.isdisjoint(token.holder for token in row):
            return {}
        going = moves(row, self._wanted[partition])
        return {m.slot: m.target for m in going if m.source.holder in self.drained}

    # Gossip: the root first, then the blocks, then the rows of blocks that differ

    def blocks(self) -> bytes:
        """The digests of all blocks, DIGEST_BYTES each."""
        for block, known in enumerate(self._blocks):
            if known is None:
                first = block * BLOCK_PARTITIONS
                rows = self._rows[first : first + BLOCK_PARTITIONS]
                data = b"".join(map(row_to_bytes, rows))
                self._blocks[block] = blake2b(data, digest_size=DIGEST_BYTES).digest()
        return b"".join(self._blocks)  # type: ignore[arg-type]  # none is None any more

    def root(self) -> bytes:
        """Equal for nodes that know the same of every partition."""
        return blake2b(self.blocks(), digest_size=DIGEST_BYTES).digest()

    def differing(self, theirs: bytes) -> list[int]:
        """Blocks whose digests in `theirs`, a peer's `blocks`, are others than here."""
        mine = self.blocks()
        if len(theirs) != len(mine):
            raise Corrupt(f"{len(theirs)} bytes of digests of rows, not {len(mine)}")
        size = DIGEST_BYTES
        return [
            at // size
            for at in range(0, len(mine), size)
            if mine[at : at + size] != theirs[at : at + size]
        ]

    def rows_of(self, block: int) -> dict[int, Row]:
        """The rows of one block's partitions, by partition."""
        first = block * BLOCK_PARTITIONS
        end = min(first + BLOCK_PARTITIONS, len(self._rows))
        return {p: self._rows[p] for p in range(first, end)}

    def learn_all(self, rows: Mapping[int, Row]) -> list[int]:
        """Join what a peer told (`slots.unpack_rows`): partitions that have changed.

        Raises Corrupt, before anything is taken, when one is not of this ring.
        """
        if beyond := [p for p in rows if p >= len(self._rows)]:
            raise Corrupt(f"a row of partition {beyond[0]}, of {len(self._rows)}")
        return [p for p, row in sorted(rows.items()) if self.learn(p, row)]

    # On disk: META row/PARTITION

    def load(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Take up what is stored under PREFIX; raises Corrupt for what this didn't write."""
        for key, value in items:
            try:
                (partition,) = _PARTITION.unpack(key[len(PREFIX) :])
            except struct_error as error:
                raise Corrupt("what is stored of a row of tokens is damaged") from error
            if partition >= len(self._rows):
                raise Corrupt(f"a row of partition {partition} is stored, of {len(self._rows)}")
            self._rows[partition] = row_from_bytes(value)
            self._digests[partition] = self._blocks[partition // BLOCK_PARTITIONS] = None
