"""Digests: the hash-tree root of every partition held here, `GET /admin/digest`.

Owns the walk over a partition's keys, which are contiguous because an object's
key starts with its digest. The roots are computed from what is stored, in a
thread and in bounded bites.
"""

from base64 import urlsafe_b64encode
from typing import Final

from dynamo_core import merkle, objects, records
from dynamo_core.records import DIGEST_BYTES
from dynamo_core.ring import Ring
from dynamo_node.storage import OBJECTS, Store

BITE: Final = 2000


def partition_range(ring: Ring, partition: int) -> tuple[bytes, bytes]:
    """The half-open range of stored keys that belong to a partition."""
    step = (1 << 128) // ring.partitions
    start = (partition * step).to_bytes(DIGEST_BYTES, "big")
    if partition == ring.partitions - 1:
        return start, b"\xff" * (DIGEST_BYTES + 1025)
    return start, ((partition + 1) * step).to_bytes(DIGEST_BYTES, "big")


def cursor(place: bytes) -> str:
    """Where a page ended, for the next one."""
    return urlsafe_b64encode(place).rstrip(b"=").decode()


async def roots(store: Store, ring: Ring, number: int) -> dict[int, bytes]:
    """Partition -> root, for each of which `number` is one of the first N."""
    found = {}
    for partition, row in enumerate(ring.slots):
        if number in row:
            found[partition] = await _root(store, ring, partition)
    return found


async def _root(store: Store, ring: Ring, partition: int) -> bytes:
    tree = merkle.Tree()
    start, end = partition_range(ring, partition)
    while True:
        pairs = await store.scan_async(OBJECTS, start, end, BITE)
        for place, data in pairs:
            head = objects.head_of(records.object_of(data))
            segment = merkle.segment_of(place[:DIGEST_BYTES], ring.partitions)
            tree.add(segment, objects.leaf(place[DIGEST_BYTES:], head))
        if len(pairs) < BITE:
            return tree.root()
        start = pairs[-1][0] + b"\x00"
