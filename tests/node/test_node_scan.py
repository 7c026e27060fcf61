"""Scans of a damaged disk: what can't be read is never taken for what isn't there."""

from pathlib import Path

import pytest

from dynamo_node.storage import OBJECTS, StorageError, Store

pytestmark = pytest.mark.timeout(20)

KEYS = 500


async def test_a_scan_that_meets_a_damaged_block_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path, sync=False, memory_bytes=16 << 20)
    for at in range(KEYS):
        store.put(OBJECTS, b"%05d" % at, b"%05d" % at * 200)
    await store.durable()
    store._families[OBJECTS].flush()
    await store.close()
    (table,) = tmp_path.glob("*.sst")  # noqa: ASYNC240
    data = bytearray(table.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    table.write_bytes(data)
    store = Store(tmp_path, sync=False, memory_bytes=16 << 20)
    try:
        with pytest.raises(StorageError, match="can't be read"):
            await store.scan_async(OBJECTS, b"", b"\xff", KEYS + 1)
        with pytest.raises(StorageError, match="can't be read"):
            await store.count(OBJECTS)
        assert len(await store.scan_async(OBJECTS, b"", b"\xff", 10)) == 10
    finally:
        await store.close()
