"""Storage: one batch per tick, one fsync for many, and nobody told before it."""

import asyncio
from pathlib import Path

import pytest
from tests.node.opened_stores import Opener, Told, until

from dynamo_node import opening, storage
from dynamo_node.opening import families_in
from dynamo_node.storage import (
    HINTS,
    META,
    OBJECTS,
    TREES,
    StorageError,
    Store,
)

pytestmark = pytest.mark.timeout(20)


async def test_the_writes_of_a_tick_are_one_batch_and_one_sync(opened: Opener) -> None:
    store, db = opened()
    told = Told()
    for at in range(50):
        store.put(OBJECTS, b"k%d" % at, b"v")
        store.commit(told.waiter(f"{at}"))
    assert db.log == []
    await until(lambda: told.order)
    assert db.log == ["write 50", "sync"]
    assert told.order == [(f"{at}", None) for at in range(50)]


async def test_nobody_is_told_before_the_sync(opened: Opener) -> None:
    store, db = opened()
    told = Told()
    db.sync_gate.clear()
    store.put(OBJECTS, b"first", b"v")
    store.commit(told.waiter("first"))
    await until(lambda: db.log == ["write 1"])
    # While that sync runs, two more ticks are written and wait for the next one.
    for name in ("second", "third"):
        store.put(OBJECTS, name.encode(), b"v")
        store.commit(told.waiter(name))
        await until(lambda: len(db.log) == (2 if name == "second" else 3))  # noqa: B023
    assert told.order == []
    db.sync_gate.set()
    await until(lambda: len(told.order) == 3)
    assert told.names == ["first", "second", "third"]
    assert db.log == ["write 1"] * 3 + ["sync"] * 2, "one sync for both that came meanwhile"


async def test_a_write_during_a_sync_is_not_covered_by_it(opened: Opener) -> None:
    store, db = opened()
    told = Told()
    db.sync_gate.clear()
    store.put(OBJECTS, b"a", b"v")
    store.commit(told.waiter("a"))
    await until(lambda: db.log == ["write 1"])
    store.put(OBJECTS, b"b", b"v")
    store.commit(told.waiter("b"))
    seen: list[list[str]] = []
    db.fail_sync = lambda: seen.append(list(told.names))
    db.sync_gate.set()
    await until(lambda: len(told.order) == 2)
    assert seen == [[], ["a"]], "b waits for a sync that began after its write"


async def test_buffered_tells_after_the_wal_and_syncs_only_on_demand(opened: Opener) -> None:
    store, db = opened(sync=False)
    told = Told()
    db.sync_gate.clear()
    store.put(OBJECTS, b"a", b"v")
    store.commit(told.waiter("a"))
    store.put(HINTS, b"h", b"v")
    store.commit(told.waiter("durable"), sync=True)
    await until(lambda: told.order)
    assert (told.names, db.log) == (["a"], ["write 2"])
    db.sync_gate.set()
    await until(lambda: len(told.order) == 2)
    assert db.log == ["write 2", "sync"]
    store.put(OBJECTS, b"b", b"v")
    store.commit(told.waiter("b"))
    await until(lambda: len(told.order) == 3)
    assert db.log == ["write 2", "sync", "write 1"]


async def test_a_commit_without_a_write_waits_for_the_sync_of_those_before_it(
    opened: Opener,
) -> None:
    store, db = opened()
    told = Told()
    db.sync_gate.clear()
    store.put(OBJECTS, b"a", b"v")
    store.commit(told.waiter("a"))
    await until(lambda: db.log == ["write 1"])
    store.commit(told.waiter("nothing"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert told.order == [], "the sync that covers it is still in flight"
    db.sync_gate.set()
    await until(lambda: len(told.order) == 2)
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
    await until(lambda: db.log == ["write 1"])
    store.commit(told.waiter("nothing"))
    await asyncio.sleep(0)
    db.sync_gate.set()
    await until(lambda: len(told.order) == 2)
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
    await until(lambda: len(told.order) == 2)
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
    await until(lambda: told.order)
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
