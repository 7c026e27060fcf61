"""Meta: how single notes and lists of notes are read from the family META.

Owns the two ways: one key, which memory mostly knows, and everything under a
prefix, page by page. Both read in a thread what memory can't tell.
"""

from collections.abc import AsyncIterator
from typing import Final

from dynamo_node.storage import META, Store, Unread, prefix_end

PAGE_KEYS: Final = 1000
PAGE_BYTES: Final = 8 << 20


async def read(store: Store, key: bytes) -> bytes | None:
    """What is noted under `key`, with what this tick has put; or StorageError."""
    value = store.peek(META, key)
    if not isinstance(value, Unread):
        return value
    found = await store.scan_async(META, key, key + b"\x00", 1)
    value = store.peek(META, key)  # it may have been put meanwhile
    if not isinstance(value, Unread):
        return value
    return found[0][1] if found else None


async def pairs(store: Store, prefix: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
    """(key, value) of all that is noted under `prefix`, in order; or StorageError.

    What the present tick has put isn't seen.
    """
    start, end = prefix, prefix_end(prefix)
    while page := await store.scan_async(META, start, end, PAGE_KEYS, PAGE_BYTES):
        for pair in page:
            yield pair
        start = page[-1][0] + b"\x00"
