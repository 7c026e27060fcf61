"""Digests: leaves and roots computed from the objects that are stored.

Owns the walk over stored keys, which are contiguous by partition and segment
because an object's key starts with its digest. It reads in a thread and in
bounded bites. The trees that are kept beside the objects are `trees`; these
here are for key lists, for proof that the two agree, and for old disks.
"""

import logging
from base64 import urlsafe_b64encode
from typing import Final, NamedTuple

from dynamo_core import merkle, objects, records
from dynamo_core.errors import Corrupt
from dynamo_core.records import DIGEST_BYTES
from dynamo_core.ring import Ring
from dynamo_node.storage import OBJECTS, Store

log = logging.getLogger(__name__)

BITE: Final = 500
BITE_BYTES: Final = 4 << 20


class Page(NamedTuple):
    """(place, leaf) in order, and where the next page starts: the end asked for, if all fit."""

    leaves: list[tuple[bytes, bytes]]
    end: bytes
    damaged: int = 0
    """Records that can't be read; they are left out."""


def partition_range(ring: Ring, partition: int) -> tuple[bytes, bytes]:
    """The half-open range of stored keys that belong to a partition."""
    start = merkle.first_place(partition, 0, ring.partitions)
    return start, merkle.first_place(partition, merkle.SEGMENTS, ring.partitions)


def leaf_of(place: bytes, obj: bytes | None) -> bytes | None:
    """The hash-tree leaf of the encoded object at digest + key, None for none; or Corrupt."""
    return None if obj is None else objects.leaf(place[DIGEST_BYTES:], objects.head_of(obj))


def cursor(place: bytes) -> str:
    """Where a page ended, for the next one."""
    return urlsafe_b64encode(place).rstrip(b"=").decode()


async def leaves(
    store: Store, start: bytes, end: bytes, keys_max: int = BITE, bytes_max: int = BITE_BYTES
) -> Page:
    """The leaves of what is stored in start..end, as far as they fit; damaged records left out."""
    pairs = await store.scan_async(OBJECTS, start, end, keys_max, bytes_max)
    found = []
    size = 0
    for place, data in pairs:
        size += len(data)
        try:
            head = objects.head_of(records.object_of(data))
        except Corrupt as error:
            log.error("the record of key %r is damaged: %s", place[DIGEST_BYTES:], error)
            continue
        found.append((place, objects.leaf(place[DIGEST_BYTES:], head)))
    full = len(pairs) >= keys_max or size >= bytes_max
    damaged = len(pairs) - len(found)
    return Page(found, pairs[-1][0] + b"\x00" if full else end, damaged)


async def recomputed(store: Store, ring: Ring, partition: int) -> bytes:
    """The root of a partition as its stored objects have it."""
    tree = merkle.Tree()
    start, end = partition_range(ring, partition)
    while start < end:
        page = await leaves(store, start, end)
        for place, leaf in page.leaves:
            tree.add(merkle.segment_of(place[:DIGEST_BYTES], ring.partitions), leaf)
        start = page.end
    return tree.root()
