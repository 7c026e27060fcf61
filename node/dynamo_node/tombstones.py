"""Tombstones: which keys of this node may be reaped, found without looking everywhere.

Owns the count of tombstones per partition and a bounded sample of their places,
kept up to date by every change of a record, after one scan at the start. Where
the sample is full the partition is scanned again once the sample is used up.

Forbidden here: deciding that one may go; `reaper` asks all members.
"""

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
        self._counts: dict[int, int] = {}
        self._sample: dict[int, dict[bytes, float]] = {}  # partition -> place -> last change
        self._counted_to = b""
        self._meanwhile: dict[bytes, bool] = {}
        """Behind the scan: places that changed while it read, and whether a tombstone is there."""
        self._void: list[tuple[bytes, bytes]] = []
        """Ranges that were emptied while it read."""

    def changed(self, skey: bytes, old: bytes | None, new: bytes | None, now: float) -> None:
        """A record changed; told before the change is put into the batch."""
        was = old is not None and not objects.has_value(old)
        is_one = new is not None and not objects.has_value(new)
        if not was and not is_one:
            return
        if skey >= self._counted_to:
            self._meanwhile[skey] = is_one
            return
        partition = partition_of(skey, self._partitions)
        if was != is_one:
            self._counts[partition] = self._counts.get(partition, 0) + (1 if is_one else -1)
        if is_one:
            self._remember(partition, skey, now)
        else:
            self._sample.get(partition, {}).pop(skey, None)

    def emptied(self, partition: int, start: bytes, end: bytes) -> None:
        """Every record of the partition, start <= place < end, is about to be deleted."""
        self._counts.pop(partition, None)
        self._sample.pop(partition, None)
        # What the scan is reading just now may lie there.
        self._void.append((start, end))
        for skey in [s for s in self._meanwhile if start <= s < end]:
            del self._meanwhile[skey]

    def count(self, partition: int) -> int:
        """Tombstones in this node's own records of `partition`, as far as they are counted."""
        return self._counts.get(partition, 0)

    def partitions(self) -> list[int]:
        """Those with tombstones, in order."""
        return sorted(p for p, count in self._counts.items() if count > 0)

    def older_than(self, partition: int, since: float, limit: int) -> list[bytes]:
        """Places whose tombstone was last changed before `since`, the oldest first."""
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
                    skey: _is_tombstone(data)
                    for skey, data in pairs
                    if not any(s <= skey < e for s, e in self._void)
                }
                found.update((s, t) for s, t in self._meanwhile.items() if s < upto)
                self._counted_to = upto
                for skey in sorted(s for s, tombstone in found.items() if tombstone):
                    partition = partition_of(skey, self._partitions)
                    self._counts[partition] = self._counts.get(partition, 0) + 1
                    self._remember(partition, skey, now)
        self._meanwhile = {}

    async def refill(self, ring: Ring, partition: int, now: float) -> None:
        """Look for more where the sample is used up and tombstones are left."""
        if self._sample.get(partition) or not self.count(partition):
            return
        start, end = partition_range(ring, partition)
        while len(self._sample.get(partition, ())) < SAMPLE_MAX:
            async with self._slices.slice("reaping"):
                pairs = await self._store.scan_async(OBJECTS, start, end, SCAN_KEYS, SCAN_BYTES)
                for skey, data in pairs:
                    if _is_tombstone(data):
                        self._remember(partition, skey, now)
            if not pairs:
                return
            start = pairs[-1][0] + b"\x00"

    def drop(self, partition: int, skey: bytes) -> None:
        """What stands there is no tombstone: a scan that was overtaken remembered it."""
        self._sample.get(partition, {}).pop(skey, None)

    def _remember(self, partition: int, skey: bytes, now: float) -> None:
        sample = self._sample.setdefault(partition, {})
        if skey in sample or len(sample) < SAMPLE_MAX:
            sample[skey] = now


def _is_tombstone(data: bytes) -> bool:
    try:
        return not objects.has_value(records.object_of(data))
    except Corrupt:  # told by whoever reads the key
        return False
