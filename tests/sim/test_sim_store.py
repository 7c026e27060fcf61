"""SimStore is a verified fake: it and the real Store keep the same contract."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest
from tests.sim.disk import SimDisk, SimStore

from dynamo_node.opening import LockedError
from dynamo_node.storage import HINTS, OBJECTS, StorageError, Store, Unread

pytestmark = pytest.mark.timeout(20)

Opener = Callable[[bool], Store]


@pytest.fixture(params=["rocksdb", "simulated"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens the store under test, again and again on the same disk."""
    stores: list[Store] = []
    disk = SimDisk(Random(1))

    def open_store(sync: bool) -> Store:
        store = (
            Store(tmp_path / "db", sync=sync, memory_bytes=16 << 20)
            if request.param == "rocksdb"
            else SimStore(disk, sync=sync)
        )
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        await store.close()


async def _read(store: Store, family: str, key: bytes) -> bytes | None:
    value = store.peek(family, key)
    if not isinstance(value, Unread):
        return value
    loaded: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
    store.load(family, key, loaded.set_result)
    return await loaded


async def _told(store: Store, sync: bool = False) -> None:
    told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    store.commit(lambda error: told.set_result(None), sync)
    await told


@pytest.mark.parametrize("sync", [True, False])
async def test_the_batch_of_the_tick_is_seen_by_reads_and_not_by_scans(
    opened: Opener, sync: bool
) -> None:
    store = opened(sync)
    store.put(OBJECTS, b"a", b"1")
    assert store.peek(OBJECTS, b"a") == b"1"
    assert store.scan(OBJECTS, b"", b"\xff", 10) == []
    await _told(store)
    assert await _read(store, OBJECTS, b"a") == b"1"
    assert await store.scan_async(OBJECTS, b"", b"\xff", 10) == [(b"a", b"1")]
    store.delete(OBJECTS, b"a")
    assert store.peek(OBJECTS, b"a") is None
    await store.durable()
    assert await _read(store, OBJECTS, b"a") is None
    assert await store.count(OBJECTS) == 0


async def test_waiters_are_told_in_order_and_the_last_put_wins(opened: Opener) -> None:
    store = opened(True)
    told: list[int] = []
    for at in range(5):
        store.put(OBJECTS, b"k", b"%d" % at)
        store.commit(lambda error, at=at: told.append(at))  # type: ignore[misc]
    await store.durable()
    assert told == list(range(5))
    assert await _read(store, OBJECTS, b"k") == b"4"


async def test_a_range_is_deleted_whole_and_what_is_put_afterwards_stays(opened: Opener) -> None:
    store = opened(True)
    for key in (b"a", b"b", b"c", b"d"):
        store.put(OBJECTS, key, b"old")
        store.put(HINTS, key, b"old")
    await store.durable()
    store.put(OBJECTS, b"bb", b"this tick")
    store.delete_range(OBJECTS, b"b", b"d")
    store.put(OBJECTS, b"c", b"new")
    assert store.dirty
    assert [store.peek(OBJECTS, key) for key in (b"b", b"bb", b"c")] == [None, None, b"new"]
    assert await _read(store, OBJECTS, b"d") == b"old"
    await store.durable()
    assert not store.dirty
    left = [(b"a", b"old"), (b"c", b"new"), (b"d", b"old")]
    assert await store.scan_async(OBJECTS, b"", b"\xff", 10) == left
    assert await _read(store, OBJECTS, b"bb") is None
    assert await store.count(HINTS) == 4
    await store.close()
    assert await opened(True).scan_async(OBJECTS, b"", b"\xff", 10) == left


async def test_hooks_put_into_the_same_batch_and_only_when_something_was_put(
    opened: Opener,
) -> None:
    store = opened(True)
    calls: list[None] = []

    def hook() -> None:
        calls.append(None)
        store.put(HINTS, b"derived", b"%d" % len(calls))

    store.before_write.append(hook)
    store.put(OBJECTS, b"k", b"v")
    await store.durable()
    await store.durable()
    assert len(calls) == 1
    assert await _read(store, HINTS, b"derived") == b"1"


async def test_scans_are_bounded_by_keys_count_and_bytes(opened: Opener) -> None:
    store = opened(True)
    for at in range(20):
        store.put(OBJECTS, b"%02d" % at, b"x" * 10)
    await store.durable()
    keys = [key for key, _ in await store.scan_async(OBJECTS, b"05", b"10", 100)]
    assert keys == [b"05", b"06", b"07", b"08", b"09"]
    assert len(await store.scan_async(OBJECTS, b"", b"\xff", 3)) == 3
    assert len(await store.scan_async(OBJECTS, b"", b"\xff", 100, 25)) == 3
    assert await store.count(OBJECTS) == 20


async def test_what_is_closed_is_found_again_and_a_store_opens_once(opened: Opener) -> None:
    store = opened(False)
    store.put(OBJECTS, b"k", b"v")
    with pytest.raises(LockedError, match="can't be opened"):
        opened(False)
    await store.close()
    await store.close()
    assert await _read(opened(False), OBJECTS, b"k") == b"v"


# What only the simulated disk can show


async def test_a_power_cut_keeps_what_was_fsynced_and_a_prefix_of_the_rest() -> None:
    survivors = set()
    for seed in range(40):
        disk = SimDisk(Random(seed))
        store = SimStore(disk, sync=False)
        store.put(OBJECTS, b"synced", b"v")
        await store.durable()
        for at in range(4):
            store.put(OBJECTS, b"%d" % at, b"v")
            await _told(store)
        disk.cut_power()
        kept = sorted(disk.contents()[OBJECTS])
        assert kept == [*[b"0", b"1", b"2", b"3"][: len(kept) - 1], b"synced"]
        survivors.add(len(kept))
    assert survivors == {1, 2, 3, 4, 5}


async def test_a_full_disk_breaks_the_store_and_tells_everybody() -> None:
    disk = SimDisk(Random(1))
    store = SimStore(disk, sync=True)
    broken: list[StorageError] = []
    store.on_broken = broken.append
    disk.temper.full = True
    store.put(OBJECTS, b"k", b"v")
    with pytest.raises(StorageError):
        await store.durable()
    assert len(broken) == 1
    assert disk.contents()[OBJECTS] == {}
