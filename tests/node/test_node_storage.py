"""Storage: one batch per tick, one fsync for many, and nobody told before it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.node.hooked_rocksdb import HookedRocksDB

from dynamo_node import opening, storage
from dynamo_node.opening import LockedError, families_in
from dynamo_node.storage import (
    HINTS,
    META,
    OBJECTS,
    TREES,
    UNREAD,
    StorageError,
    Store,
    prefix_end,
)

pytestmark = pytest.mark.timeout(20)

Opener = Callable[..., tuple[Store, HookedRocksDB]]


@pytest.fixture
async def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opener]:
    """Open the test's store, hooked; what is left open is closed."""
    monkeypatch.setattr(storage, "Rdict", HookedRocksDB)
    stores: list[Store] = []

    def open_store(sync: bool = True) -> tuple[Store, HookedRocksDB]:
        store = Store(tmp_path / "db", sync=sync, memory_bytes=16 << 20)
        stores.append(store)
        db: Any = store._db
        return store, db

    yield open_store
    for store in stores:
        db: Any = store._db
        db.sync_gate.set()
        db.get_gate.set()
        db.fail_write = db.fail_sync = lambda: None
        with suppress(StorageError):
            await store.close()


class Told:
    """Collects what `commit` tells its waiters, in order."""

    def __init__(self) -> None:
        self.order: list[tuple[str, BaseException | None]] = []

    def waiter(self, name: str) -> Callable[[BaseException | None], None]:
        return lambda error: self.order.append((name, error))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.order]


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a thread's progress is polled
            await asyncio.sleep(0.001)


async def test_the_writes_of_a_tick_are_one_batch_and_one_sync(opened: Opener) -> None:
    store, db = opened()
    told = Told()
    for at in range(50):
        store.put(OBJECTS, b"k%d" % at, b"v")
        store.commit(told.waiter(f"{at}"))
    assert db.log == []
    await _until(lambda: told.order)
    assert db.log == ["write 50", "sync"]
    assert told.order == [(f"{at}", None) for at in range(50)]


async def test_nobody_is_told_before_the_sync(opened: Opener) -> None:
    store, db = opened()
    told = Told()
    db.sync_gate.clear()
    store.put(OBJECTS, b"first", b"v")
    store.commit(told.waiter("first"))
    await _until(lambda: db.log == ["write 1"])
    # While that sync runs, two more ticks are written and wait for the next one.
    for name in ("second", "third"):
        store.put(OBJECTS, name.encode(), b"v")
        store.commit(told.waiter(name))
        await _until(lambda: len(db.log) == (2 if name == "second" else 3))  # noqa: B023
    assert told.order == []
    db.sync_gate.set()
    await _until(lambda: len(told.order) == 3)
    assert told.names == ["first", "second", "third"]
    assert db.log == ["write 1"] * 3 + ["sync"] * 2, "one sync for both that came meanwhile"


async def test_a_write_during_a_sync_is_not_covered_by_it(opened: Opener) -> None:
    store, db = opened()
    told = Told()
    db.sync_gate.clear()
    store.put(OBJECTS, b"a", b"v")
    store.commit(told.waiter("a"))
    await _until(lambda: db.log == ["write 1"])
    store.put(OBJECTS, b"b", b"v")
    store.commit(told.waiter("b"))
    seen: list[list[str]] = []
    db.fail_sync = lambda: seen.append(list(told.names))
    db.sync_gate.set()
    await _until(lambda: len(told.order) == 2)
    assert seen == [[], ["a"]], "b waits for a sync that began after its write"


async def test_buffered_tells_after_the_wal_and_syncs_only_on_demand(opened: Opener) -> None:
    store, db = opened(sync=False)
    told = Told()
    db.sync_gate.clear()
    store.put(OBJECTS, b"a", b"v")
    store.commit(told.waiter("a"))
    store.put(HINTS, b"h", b"v")
    store.commit(told.waiter("durable"), sync=True)
    await _until(lambda: told.order)
    assert (told.names, db.log) == (["a"], ["write 2"])
    db.sync_gate.set()
    await _until(lambda: len(told.order) == 2)
    assert db.log == ["write 2", "sync"]
    store.put(OBJECTS, b"b", b"v")
    store.commit(told.waiter("b"))
    await _until(lambda: len(told.order) == 3)
    assert db.log == ["write 2", "sync", "write 1"]


async def test_a_commit_without_a_write_waits_for_the_sync_of_those_before_it(
    opened: Opener,
) -> None:
    store, db = opened()
    told = Told()
    db.sync_gate.clear()
    store.put(OBJECTS, b"a", b"v")
    store.commit(told.waiter("a"))
    await _until(lambda: db.log == ["write 1"])
    store.commit(told.waiter("nothing"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert told.order == [], "the sync that covers it is still in flight"
    db.sync_gate.set()
    await _until(lambda: len(told.order) == 2)
    assert told.names == ["a", "nothing"]
    assert db.log == ["write 1", "sync"], "the sync in flight began after all that was written"


async def test_nothing_new_is_synced_again(opened: Opener) -> None:
    store, db = opened()
    await store.durable()
    assert db.log == ["sync"], "what recovery found may not be on the disk"
    for _ in range(5):
        await store.durable()
    assert db.log == ["sync"]
    store.put(OBJECTS, b"a", b"v")
    await store.durable()
    await store.durable()
    assert db.log == ["sync", "write 1", "sync"]


async def test_a_commit_without_a_write_fails_with_the_sync_it_waits_for(opened: Opener) -> None:
    store, db = opened()
    told = Told()
    db.sync_gate.clear()
    db.fail_sync = lambda: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    store.put(OBJECTS, b"a", b"v")
    store.commit(told.waiter("a"))
    await _until(lambda: db.log == ["write 1"])
    store.commit(told.waiter("nothing"))
    await asyncio.sleep(0)
    db.sync_gate.set()
    await _until(lambda: len(told.order) == 2)
    assert all(isinstance(error, StorageError) for _, error in told.order)


async def test_what_is_put_before_the_write_joins_the_ticks_batch(opened: Opener) -> None:
    store, db = opened()
    changed: list[bytes] = []
    calls = 0

    def put_trees() -> None:
        nonlocal calls
        calls += 1
        for key in changed:
            store.put(TREES, key, b"tree")
        changed.clear()

    store.before_write.append(put_trees)
    await store.durable()
    assert calls == 0, "nothing was put"
    for key in (b"a", b"b"):
        store.put(OBJECTS, key, b"v")
        changed.append(key)
    await store.durable()
    assert (calls, db.log) == (1, ["sync", "write 4", "sync"])
    assert store.scan(TREES, b"", b"\xff", 10) == [(b"a", b"tree"), (b"b", b"tree")]


async def test_a_stalled_batch_keeps_what_was_put_before_the_write(opened: Opener) -> None:
    store, db = opened()
    told = Told()
    changed: list[bytes] = []

    def put_trees() -> None:
        for key in changed:
            store.put(TREES, key, b"tree")
        changed.clear()

    store.before_write.append(put_trees)
    stalled = True

    def stall() -> None:
        if stalled:
            raise Exception("Operation aborted: Write stall")

    db.fail_write = stall
    for key in (b"a", b"b"):
        store.put(OBJECTS, key, b"v")
        changed.append(key)
        store.commit(told.waiter(key.decode()))
        await asyncio.sleep(0.02)
    assert told.order == []
    stalled = False
    await _until(lambda: len(told.order) == 2)
    assert db.log[0] == "write 4"
    assert store.scan(TREES, b"", b"\xff", 10) == [(b"a", b"tree"), (b"b", b"tree")]


async def test_a_failure_before_the_write_writes_nothing(opened: Opener) -> None:
    store, db = opened()
    told = Told()

    def fails() -> None:
        raise ValueError("the tree is damaged")

    store.before_write.append(fails)
    store.put(OBJECTS, b"a", b"v")
    store.commit(told.waiter("a"))
    await _until(lambda: told.order)
    assert isinstance(told.order[0][1], StorageError)
    assert db.log == []


async def test_a_disk_from_before_the_trees_gets_them(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.mkdir()
    options = opening.settings(16 << 20, 1 << 40)
    old = storage.Rdict(str(path), options, dict.fromkeys((OBJECTS, HINTS, META), options))
    family = old.get_column_family(OBJECTS)
    family[b"k"] = b"v"
    family.close()
    old.close()
    del family, old
    assert TREES not in families_in(path)
    store = Store(path, sync=True, memory_bytes=16 << 20)
    store.put(TREES, b"t", b"tree")
    await store.durable()
    assert store.scan(OBJECTS, b"", b"\xff", 10) == [(b"k", b"v")]
    assert store.scan(TREES, b"", b"\xff", 10) == [(b"t", b"tree")]
    await store.close()


async def test_reads_see_the_batch_that_is_not_written_yet(opened: Opener) -> None:
    store, db = opened()
    assert store.peek(OBJECTS, b"k") is None
    store.put(OBJECTS, b"k", b"one")
    assert store.peek(OBJECTS, b"k") == b"one"
    assert store.peek(HINTS, b"k") is None, "families are separate"
    store.delete(OBJECTS, b"k")
    assert store.peek(OBJECTS, b"k") is None
    store.put(OBJECTS, b"k", b"two")
    await store.durable()
    assert store.peek(OBJECTS, b"k") == b"two"
    assert db.log == ["write 3", "sync"]
    assert await store.scan_async(OBJECTS, b"", b"\xff", 10) == [(b"k", b"two")]


# Failing


def _fails(text: str) -> Callable[[], None]:
    def fail() -> None:
        raise Exception(text)

    return fail


async def test_a_failed_sync_breaks_the_store_and_tells_everybody(opened: Opener) -> None:
    store, db = opened()
    told, broken = Told(), []
    store.on_broken = broken.append
    db.sync_gate.clear()
    db.fail_sync = _fails("IO error: no space left on device")
    for name in ("syncing", "written"):
        store.put(OBJECTS, name.encode(), b"v")
        store.commit(told.waiter(name))
        await _until(lambda: len(db.log) == (1 if name == "syncing" else 2))  # noqa: B023
    store.put(OBJECTS, b"not even written", b"v")
    store.commit(told.waiter("batched"))
    db.sync_gate.set()
    await _until(lambda: len(told.order) == 3)
    assert sorted(told.names) == ["batched", "syncing", "written"]
    assert all(isinstance(error, StorageError) for _, error in told.order)
    assert len(broken) == 1
    assert "no space left" in str(broken[0])
    assert store.broken is broken[0]
    # From now on nothing in memory is trusted.
    with pytest.raises(StorageError):
        store.peek(OBJECTS, b"syncing")
    store.put(OBJECTS, b"later", b"v")
    with pytest.raises(StorageError):
        await store.durable()
    assert len(broken) == 1
    db.fail_close = _fails("the error that RocksDB remembers")
    await store.close()  # it is broken already: the node ends in order all the same


async def test_a_failed_write_breaks_the_store_and_tells_everybody(opened: Opener) -> None:
    store, db = opened()
    told, broken = Told(), []
    store.on_broken = broken.append
    db.sync_gate.clear()
    store.put(OBJECTS, b"good", b"v")
    store.commit(told.waiter("good"))
    await _until(lambda: db.log == ["write 1"])
    db.fail_write = _fails("Corruption: block checksum mismatch")
    store.put(OBJECTS, b"bad", b"v")
    store.commit(told.waiter("bad"))
    store.commit(told.waiter("bad, durable"), sync=True)
    await _until(lambda: broken)
    assert {name for name, error in told.order if error} == {"bad", "bad, durable"}
    db.sync_gate.set()
    await _until(lambda: len(told.order) == 3)
    assert told.order[-1] == ("good", None), "what was written and synced before is safe"


async def test_a_stalled_write_is_tried_again_and_blocks_nobody(opened: Opener) -> None:
    store, db = opened()
    told, broken = Told(), []
    store.on_broken = broken.append
    stalls = iter(range(3))

    def stall() -> None:
        if next(stalls, None) is not None:
            raise Exception("Operation incomplete: Write stall")

    db.fail_write = stall
    store.put(OBJECTS, b"k", b"v")
    store.commit(told.waiter("first"))
    await asyncio.sleep(0)
    assert store.peek(OBJECTS, b"k") == b"v", "readers see it meanwhile"
    store.put(OBJECTS, b"l", b"v")  # joins the batch that waits
    store.commit(told.waiter("second"))
    await _until(lambda: len(told.order) == 2)
    assert db.log == ["write 2", "sync"]
    assert told.order == [("first", None), ("second", None)]
    assert broken == []


async def test_a_failed_read_from_disk_breaks_the_store(opened: Opener) -> None:
    store, _ = opened()
    broken: list[StorageError] = []
    store.on_broken = broken.append

    def fail(wanted: object) -> list[bytes | None]:
        raise Exception("Corruption: bad block")

    store._multi_get = fail  # type: ignore[method-assign]
    store.load(OBJECTS, b"k", lambda value: None)
    await _until(lambda: broken)
    assert "bad block" in str(broken[0])


# Closing and opening


async def test_what_was_told_is_there_after_closing_and_opening(opened: Opener) -> None:
    store, _ = opened()
    values = {b"%05d" % at: bytes([at % 256]) * at for at in range(300)}
    for key, value in values.items():
        store.put(OBJECTS, key, value)
    store.put(META, b"m", b"meta")
    await store.close()
    await store.close()
    again, _ = opened()
    assert await again.count(OBJECTS) == 300
    pairs = await again.scan_async(OBJECTS, b"", b"\xff", 1000)
    assert dict(pairs) == values
    assert [k for k, _ in pairs] == sorted(values)
    assert len(await again.scan_async(OBJECTS, b"00010", b"00020", 1000)) == 10
    assert len(await again.scan_async(OBJECTS, b"", b"\xff", 7)) == 7
    # What memory can't tell is loaded, the tick's wishes together.
    found: dict[bytes, bytes | None] = {}
    for key in (b"00007", b"00299", b"nothing"):
        if again.peek(OBJECTS, key) is UNREAD:
            again.load(OBJECTS, key, lambda value, key=key: found.__setitem__(key, value))
        else:
            found[key] = values.get(key)
    await _until(lambda: len(found) == 3)
    assert found == {b"00007": values[b"00007"], b"00299": values[b"00299"], b"nothing": None}


async def test_a_store_that_is_open_elsewhere_is_refused(opened: Opener, tmp_path: Path) -> None:
    opened()
    with pytest.raises(LockedError, match="can't be opened: this process itself has it open"):
        Store(tmp_path / "db", sync=True, memory_bytes=16 << 20)
    assert set(families_in(tmp_path / "db")) >= {OBJECTS, HINTS, META}
    assert list(families_in(tmp_path / "nothing")) == []


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        (b"\x00\x01", b"\x00\x02"),
        (b"a\xff", b"b"),
        (b"\xff\xff", b"\xff" * 64),
        (b"", b"\xff" * 64),
    ],
)
def test_prefix_end(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end
