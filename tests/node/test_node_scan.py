"""Scans of a damaged disk: what can't be read is never taken for what isn't there."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from dynamo_node.opening import DamagedError
from dynamo_node.storage import OBJECTS, StorageError, Store

pytestmark = pytest.mark.timeout(20)

KEYS = 500


@pytest.mark.parametrize("ask", ["scan", "count"])
async def test_what_meets_a_damaged_block_says_so_and_the_store_is_given_up(
    tmp_path: Path, ask: str
) -> None:
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
    broken: list[StorageError] = []
    store.on_broken = broken.append
    scan: Callable[[], Awaitable[object]] = (
        partial(store.scan_async, OBJECTS, b"", b"\xff", KEYS + 1)
        if ask == "scan"
        else partial(store.count, OBJECTS)
    )
    try:
        assert len(await store.scan_async(OBJECTS, b"", b"\xff", 10)) == 10
        with pytest.raises(DamagedError, match=f"objects can't be read: .*{table.name}") as held:
            await scan()
        assert len(broken) == 1
        assert f"move {tmp_path.parent} away" in str(broken[0])
        with pytest.raises(DamagedError):
            await store.scan_async(OBJECTS, b"", b"\xff", 10)
    finally:
        await store.close()
    # Whoever keeps the error, and all that its traceback holds, doesn't keep the folder.
    store = Store(tmp_path, sync=False, memory_bytes=16 << 20)
    assert held.value.__traceback__ is not None
    await store.close()
