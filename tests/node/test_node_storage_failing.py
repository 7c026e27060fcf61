"""Storage that fails, closes and opens again: everybody is told, and what was told is there."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.node.opened_stores import Opener, Told, until

from dynamo_node.opening import LockedError, families_in
from dynamo_node.storage import (
    HINTS,
    META,
    OBJECTS,
    UNREAD,
    StorageError,
    Store,
    prefix_end,
)

pytestmark = pytest.mark.timeout(20)


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
        await until(lambda: len(db.log) == (1 if name == "syncing" else 2))  # noqa: B023
    store.put(OBJECTS, b"not even written", b"v")
    store.commit(told.waiter("batched"))
    db.sync_gate.set()
    await until(lambda: len(told.order) == 3)
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
    await until(lambda: db.log == ["write 1"])
    db.fail_write = _fails("Corruption: block checksum mismatch")
    store.put(OBJECTS, b"bad", b"v")
    store.commit(told.waiter("bad"))
    store.commit(told.waiter("bad, durable"), sync=True)
    await until(lambda: broken)
    assert {name for name, error in told.order if error} == {"bad", "bad, durable"}
    db.sync_gate.set()
    await until(lambda: len(told.order) == 3)
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
    await until(lambda: len(told.order) == 2)
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
    await until(lambda: broken)
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
    await until(lambda: len(found) == 3)
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
