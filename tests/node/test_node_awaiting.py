"""The small pieces that are waited with: callbacks as futures, notes read from META."""

import asyncio
import gc
import threading
from typing import Any

import pytest

from dynamo_node import meta
from dynamo_node.awaiting import all_told, told
from dynamo_node.disk import Disk
from dynamo_node.replica import Replica
from dynamo_node.storage import META, UNREAD, Done, StorageError, Store

pytestmark = pytest.mark.timeout(20)


async def test_a_callback_is_waited_for_and_its_error_is_raised(store: Store) -> None:
    store.put(META, b"k", b"v")
    await told(lambda done: store.commit(done, sync=True))
    with pytest.raises(StorageError, match="no"):
        await told(lambda done: done(StorageError("no")))


async def test_many_callbacks_are_waited_for_as_one() -> None:
    started: list[Done] = []
    waiting = all_told([started.append] * 3)
    assert len(started) == 3
    for done in started[:2]:
        done(None)
    assert not waiting.done()
    started[2](None)
    await waiting
    await all_told([])
    started.clear()
    waiting = all_told([lambda done: done(StorageError("first")), started.append])
    assert not waiting.done(), "the others are told as well"
    started[0](StorageError("second"))
    with pytest.raises(StorageError, match="first"):
        await waiting


async def test_it_begins_at_once_and_the_loop_hears_of_no_error_that_nobody_wants() -> None:
    heard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))
    started: list[Done] = []
    waiting = told(started.append)
    assert len(started) == 1
    waiting.cancel()
    started[0](StorageError("too late"))
    told(lambda done: done(StorageError("unheard")))
    gc.collect()
    await asyncio.sleep(0)
    assert heard == []


async def test_whoever_was_cancelled_stops_no_other_who_waits_for_the_same_read(
    store: Store,
) -> None:
    replica = Replica(Disk(store, "00" * 16, fresh=True))
    loads: list[Any] = []
    store.peek = lambda family, key: UNREAD  # type: ignore[method-assign]
    store.load = lambda family, key, done: loads.append(done)  # type: ignore[method-assign]
    first, second = (asyncio.ensure_future(replica.read_own_async(b"d" * 16 + b"k")) for _ in "12")
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    loads[0](None)
    assert await second is None


async def test_a_note_is_read_from_the_batch_from_memory_and_from_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(META, b"k", b"1")
    assert await meta.read(store, b"k") == b"1"
    await store.durable()
    assert await meta.read(store, b"k") == b"1"
    assert await meta.read(store, b"none") is None
    monkeypatch.setattr(store, "peek", lambda family, key: UNREAD)
    assert await meta.read(store, b"k") == b"1"
    assert await meta.read(store, b"none") is None


async def test_a_note_that_is_put_while_it_is_read_is_seen(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    peek, asked = store.peek, []

    def first_unread(family: str, key: bytes) -> Any:
        asked.append(key)
        return UNREAD if len(asked) == 1 else peek(family, key)

    monkeypatch.setattr(store, "peek", first_unread)
    reading = asyncio.ensure_future(meta.read(store, b"k"))
    await asyncio.sleep(0)
    store.put(META, b"k", b"new")
    assert await reading == b"new"


async def test_all_under_a_prefix_are_read_page_by_page(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta, "PAGE_KEYS", 3)
    for n in range(10):
        store.put(META, b"a/%d" % n, b"%d" % n)
    store.put(META, b"b/1", b"other")
    await store.durable()
    found = [pair async for pair in meta.pairs(store, b"a/")]
    assert found == [(b"a/%d" % n, b"%d" % n) for n in range(10)]
    assert [pair async for pair in meta.pairs(store, b"c/")] == []


async def test_a_grant_is_looked_up_off_the_loop(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(store, "00" * 16, fresh=True)
    await disk.grant(2, b"incarn-1", 500)
    scan, threads = store.scan, []

    def scanned(*args: Any) -> Any:
        threads.append(threading.current_thread())
        return scan(*args)

    monkeypatch.setattr(store, "scan", scanned)
    monkeypatch.setattr(store, "peek", lambda family, key: UNREAD)
    assert await disk.granted(2, b"incarn-1") == 500
    await disk.grant(2, b"incarn-1", 400)
    assert await disk.granted(2, b"incarn-1") == 500
    assert threads
    assert threading.main_thread() not in threads
