"""Tombstones: which keys of this node may be reaped, found without looking everywhere.

Owns the count of tombstones per partition, and of living keys with much of their
clock spent, and a bounded sample of the places of both, kept up to date by every
change of a record, after one scan at the start. Where the sample is full the
partition is scanned again once the sample is used up.

Forbidden here: deciding that one may go; `reaper` asks all members.
"""

from enum import IntEnum
from typing import Final

from dynamo_core import objects, records
from dynamo_core.errors import Corrupt
from dynamo_core.ring import Ring, partition_of
from dynamo_node.digests import partition_range
from dynamo_node.slices import Slices
from dynamo_node.storage import OBJECTS, Store

SAMPLE_MAX: Final = 1000
"""Places remembered of one partition."""
SCAN_KEYS: Final = 500
SCAN_BYTES: Final = 1 << 20


class Tombstones:
    """Counts and samples; `now` is the loop's time."""

    def __init__(self, store: Store, slices: Slices) -> None:
        self._store = store
        self._slices = slices
        self._partitions = 1
        self._counts: dict[int, int] = {}  # partition -> keys of which something may be reaped
        self._tombstones: dict[int, int] = {}
        self._sample: dict[int, dict[bytes, float]] = {}  # partition -> place -> last change
        self._counted_to = b""
        self._meanwhile: dict[bytes, _What] = {}
        """Behind the scan: places that changed while it read, and what is there."""
        self._void: list[tuple[bytes, bytes]] = []
        """Ranges that were emptied while it read."""

    def changed(self, skey: bytes, old: bytes | None, new: bytes | None, now: float) -> None:
        """A record changed; told before the change is put into the batch."""
        was, now_is = _what(old), _what(new)
        if was is _What.KEEPS and now_is is _What.KEEPS:
            return
        if skey >= self._counted_to:
            self._meanwhile[skey] = now_is
            return
        partition = partition_of(skey, self._partitions)
        self._count(partition, was, -1)
        self._count(partition, now_is, 1)
        if now_is is _What.KEEPS:
            self._sample.get(partition, {}).pop(skey, None)
        elif now_is is _What.TOMBSTONE or skey not in self._sample.get(partition, ()):
            # A living key that is written all the time has to be proposed some time too.
            self._remember(partition, skey, now)

    def _count(self, partition: int, what: "_What", change: int) -> None:
        if what is not _What.KEEPS:
            self._counts[partition] = self._counts.get(partition, 0) + change
        if what is _What.TOMBSTONE:
            self._tombstones[partition] = self._tombstones.get(partition, 0) + change

    def emptied(self, partition: int, start: bytes, end: bytes) -> None:
        """Every record of the partition, start <= place < end, is about to be deleted."""
        self._counts.pop(partition, None)
        self._tombstones.pop(partition, None)
        self._sample.pop(partition, None)
        # What the scan is reading just now may lie there.
        self._void.append((start, end))
        for skey in [s for s in self._meanwhile if start <= s < end]:
            del self._meanwhile[skey]

    def count(self, partition: int) -> int:
        """Tombstones in this node's own records of `partition`, as far as they are counted."""
        return self._tombstones.get(partition, 0)

    @property
    def total(self) -> int:
        """The same of all partitions."""
        return sum(self._tombstones.values())

    def spent(self, partition: int) -> int:
        """Living keys of `partition` with a clock of which a round may retire entries."""
        return self._counts.get(partition, 0) - self.count(partition)

    def partitions(self) -> list[int]:
        """Those with something to reap, in order."""
        return sorted(p for p, count in self._counts.items() if count > 0)

    def older_than(self, partition: int, since: float, limit: int) -> list[bytes]:
        """Places that were last changed before `since`, the oldest first."""
        sample = self._sample.get(partition, {})
        found = sorted((at, skey) for skey, at in sample.items() if at <= since)
        return [skey for _, skey in found[:limit]]

    async def scan(self, ring: Ring, now: float) -> None:
        """Count what is on disk, once."""
        self._partitions = ring.partitions
        end = b"\xff" * 64
        while self._counted_to < end:
            async with self._slices.slice("reaping"):
                start = self._counted_to
                self._meanwhile = {}
                self._void.clear()
                await self._store.durable()  # what changed before is on disk for the scan
                pairs = await self._store.scan_async(OBJECTS, start, end, SCAN_KEYS, SCAN_BYTES)
                upto = pairs[-1][0] + b"\x00" if pairs else end
                found = {
                    skey: _stored(data)
                    for skey, data in pairs
                    if not any(s <= skey < e for s, e in self._void)
                }
                found.update((s, what) for s, what in self._meanwhile.items() if s < upto)
                self._counted_to = upto
                for skey, what in sorted(found.items()):
                    if what is not _What.KEEPS:
                        partition = partition_of(skey, self._partitions)
                        self._count(partition, what, 1)
                        self._remember(partition, skey, now)
        self._meanwhile = {}

    async def refill(self, ring: Ring, partition: int, now: float) -> None:
        """Look for more where the sample is used up and something is left."""
        if self._sample.get(partition) or not self._counts.get(partition):
            return
        start, end = partition_range(ring, partition)
        while len(self._sample.get(partition, ())) < SAMPLE_MAX:
            async with self._slices.slice("reaping"):
                pairs = await self._store.scan_async(OBJECTS, start, end, SCAN_KEYS, SCAN_BYTES)
                for skey, data in pairs:
                    if _stored(data) is not _What.KEEPS:
                        self._remember(partition, skey, now)
            if not pairs:
                return
            start = pairs[-1][0] + b"\x00"

    def drop(self, partition: int, skey: bytes) -> None:
        """There is nothing to reap there: a scan that was overtaken remembered it."""
        self._sample.get(partition, {}).pop(skey, None)

    def _remember(self, partition: int, skey: bytes, now: float) -> None:
        sample = self._sample.setdefault(partition, {})
        if skey in sample or len(sample) < SAMPLE_MAX:
            sample[skey] = now


class _What(IntEnum):
    """What a round may take of a record."""

    KEEPS = 0
    SPENT = 1
    TOMBSTONE = 2


def _what(obj: bytes | None) -> _What:
    if obj is None or not objects.reapable(obj):
        return _What.KEEPS
    return _What.SPENT if objects.has_value(obj) else _What.TOMBSTONE


def _stored(data: bytes) -> _What:
    try:
        return _what(records.object_of(data))
    except Corrupt:  # told by whoever reads the key
        return _What.KEEPS
