"""Trees: one incrementally kept hash tree for each partition with keys here (P§4.7).

Owns the trees in memory and their segments in the family TREES, which reach
the disk in the same batch as the objects they are of: after a crash they agree
with what is stored, and nothing is scanned to know them. `changed` is told of
every change before it is put; at the end of the tick each segment that changed
is put once. Only a disk of an earlier version, or one that has lost its trees, has its
objects read, once. Where a segment has turned out to differ from another replica's
although no key does, `mend` computes it anew.

Form: u16 partition | u8 segment -> 16 bytes; a segment of zeros isn't kept.

Forbidden here: comparing, and the network.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager
from struct import Struct
from typing import Final

from dynamo_core import merkle, objects
from dynamo_core.merkle import EMPTY_ROOT, SEGMENTS, Tree
from dynamo_core.records import DIGEST_BYTES
from dynamo_node import meta
from dynamo_node.digests import leaves
from dynamo_node.storage import META, OBJECTS, TREES, Store

log = logging.getLogger(__name__)

VERSION: Final = 1
VERSION_KEY: Final = b"trees"
_VERSION: Final = Struct(">BH")
_KEY_BYTES: Final = 3
LOAD_BITE: Final = 8192
"""Segments, or keys when an old disk's trees are made, that are read at once."""

SCRUB_SEGMENTS: Final = 1
"""Segments that one call of `scrub` reads again."""


class Trees:
    """All trees of one store; `changed` costs a few microseconds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._partitions = 0
        self._shift = 0
        self._trees: dict[int, Tree] = {}
        self._dirty: dict[int, None] = {}  # partition * SEGMENTS + segment, in order of change
        self._scrubbed = 0  # partition * SEGMENTS + segment that is next
        store.before_write.append(self._put_dirty)

    async def load(self, partitions: int) -> None:
        """Take up what is on disk for a ring of `partitions`, before anything is written."""
        self._sized(partitions)
        if await meta.read(self._store, VERSION_KEY) != _VERSION.pack(VERSION, partitions):
            await self._make()
            return
        start = b""
        while found := await self._store.scan_async(TREES, start, b"\xff" * 4, LOAD_BITE):
            for key, value in found:
                index = int.from_bytes(key, "big")
                tree = self._of(index // SEGMENTS)
                tree.add(index % SEGMENTS, value)
            start = found[-1][0] + b"\x00"
        if not self._trees and await self._store.scan_async(OBJECTS, b"", merkle.PLACES_END, 1):
            log.error("the hash trees are gone from this disk, its objects are not")
            await self._make()

    def ring_has(self, partitions: int) -> None:
        """The first ring came, to a disk without objects; Q is fixed for life."""
        if not self._partitions:
            self._sized(partitions)
            self._store.put(META, VERSION_KEY, _VERSION.pack(VERSION, partitions))

    def _sized(self, partitions: int) -> None:
        self._partitions = partitions
        self._shift = 32 - (partitions.bit_length() - 1) - merkle.SEGMENT_BITS

    async def _make(self) -> None:
        """Make the trees of a disk that an earlier version wrote."""
        stale = await self._store.scan_async(TREES, b"", b"\xff" * 4, 1 << 30)
        for key, _ in stale:
            self._store.delete(TREES, key)
        start, keys = b"", 0
        while start < merkle.PLACES_END:
            page = await leaves(self._store, start, merkle.PLACES_END, LOAD_BITE)
            for place, leaf in page.leaves:
                index = merkle.index_of(place[:DIGEST_BYTES], self._partitions)
                self._of(index // SEGMENTS).add(index % SEGMENTS, leaf)
                self._dirty[index] = None
            keys += len(page.leaves)
            start = page.end
        self._store.put(META, VERSION_KEY, _VERSION.pack(VERSION, self._partitions))
        await self._store.durable()
        if keys:
            log.info("the hash trees were made from the %d keys on this disk", keys)

    # Following the data

    def changed(self, skey: bytes, old: bytes | None, new: bytes | None) -> None:
        """The object at digest + key is about to become `new`; see `Replica.on_change`."""
        index = int.from_bytes(skey[:4], "big") >> self._shift
        key = skey[DIGEST_BYTES:]
        difference = 0
        if new is not None:
            difference = int.from_bytes(objects.leaf(key, objects.head_of(new)), "big")
        if old is not None:
            difference -= int.from_bytes(objects.leaf(key, objects.head_of(old)), "big")
        tree = self._trees.get(index >> merkle.SEGMENT_BITS)
        if tree is None:
            tree = self._of(index >> merkle.SEGMENT_BITS)
        tree.change(index & (SEGMENTS - 1), difference)
        self._dirty[index] = None

    def emptied(self, partition: int) -> None:
        """Every object of the partition is about to be deleted."""
        first, end = partition * SEGMENTS, (partition + 1) * SEGMENTS
        self._trees.pop(partition, None)
        for index in [i for i in self._dirty if first <= i < end]:
            del self._dirty[index]
        self._store.delete_range(
            TREES, first.to_bytes(_KEY_BYTES, "big"), end.to_bytes(_KEY_BYTES, "big")
        )

    def _put_dirty(self) -> None:
        dirty = self._dirty
        if not dirty:
            return
        for index in dirty:
            self._put(index)
        dirty.clear()

    def _put(self, index: int) -> None:
        value = self._trees[index >> merkle.SEGMENT_BITS].segment(index & (SEGMENTS - 1))
        key = index.to_bytes(_KEY_BYTES, "big")
        if any(value):
            self._store.put(TREES, key, value)
        else:
            self._store.delete(TREES, key)

    async def mend(
        self,
        partition: int,
        first: int,
        last: int,
        bite: Callable[[], AbstractAsyncContextManager[object]],
    ) -> int:
        """Compute segments first..last-1 from the stored objects; how many had been wrong.

        Each page is read within a `bite`. Nothing is done about a partition that
        changes meanwhile, nor about segments that hold a damaged record.
        """
        store = self._store
        await store.durable()  # what was put so far is seen by the scan
        start = merkle.first_place(partition, first, self._partitions)
        end = merkle.first_place(partition, last, self._partitions)
        if partition not in self._trees and not await store.scan_async(OBJECTS, start, end, 1):
            return 0  # no tree is made for what is empty
        tree = self._of(partition)
        at = partition * SEGMENTS
        if any(at + segment in self._dirty for segment in range(first, last)):
            return 0
        root, found = tree.root(), Tree()
        while start < end:
            async with bite():
                page = await leaves(store, start, end)
            for place, leaf in page.leaves:
                found.add(merkle.segment_of(place[:DIGEST_BYTES], self._partitions), leaf)
            if page.damaged:
                return 0
            start = page.end
        # Another root, be it of equal bytes, is that of a tree that has changed.
        if self._trees.get(partition) is not tree or tree.root() is not root:
            return 0
        wrong = [s for s in range(first, last) if tree.segment(s) != found.segment(s)]
        for segment in wrong:
            tree.remove(segment, tree.segment(segment))
            tree.add(segment, found.segment(segment))
            self._put(at + segment)
        if wrong:
            log.error(
                "the hash tree of partition %d was not its objects' in %d segments; it is mended",
                partition,
                len(wrong),
            )
        return len(wrong)

    async def scrub(
        self, owned: Collection[int], bite: Callable[[], AbstractAsyncContextManager[object]]
    ) -> int:
        """`mend` for the next segments of the `owned` partitions, in turn.

        A tree that says what its objects don't, after a bug or a fallen bit, would hide
        a missing key from comparisons for ever. A call a second goes through all of it
        in hours, at a cost that isn't felt.
        """
        partition, first = divmod(self._scrubbed, SEGMENTS)
        if partition not in owned:
            partition = min((p for p in owned if p > partition), default=min(owned, default=-1))
            first = 0
        if partition < 0:
            return 0
        last = min(first + SCRUB_SEGMENTS, SEGMENTS)
        self._scrubbed = partition * SEGMENTS + last
        return await self.mend(partition, first, last, bite)

    # Asking

    def _of(self, partition: int) -> Tree:
        tree = self._trees.get(partition)
        if tree is None:
            tree = self._trees[partition] = Tree()
        return tree

    def root(self, partition: int) -> bytes:
        """The partition's root; EMPTY_ROOT when no key of it is here."""
        tree = self._trees.get(partition)
        return EMPTY_ROOT if tree is None else tree.root()

    def inner(self, partition: int) -> bytes:
        """The hashes of its inner nodes, joined."""
        return self._of(partition).inner()

    def segments(self, partition: int, node: int) -> bytes:
        """The segments under one inner node, joined."""
        return self._of(partition).segments(node)

    def all(self, partition: int) -> bytes:
        """All segments, joined; zeros when no key of the partition is here."""
        tree = self._trees.get(partition)
        if tree is None:
            return bytes(SEGMENTS * merkle.HASH_BYTES)
        return b"".join(map(tree.segments, range(merkle.INNER_NODES)))

    def unhashed(self, partitions: Iterable[int]) -> list[int]:
        """Those whose root has to be hashed first, which takes some 15 us each."""
        trees = self._trees
        return [p for p in partitions if (t := trees.get(p)) is not None and not t.hashed]
