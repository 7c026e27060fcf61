"""Settings that change at runtime: put, in force, durable, and which of file and put wins."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.node.disks import FAILING_ROCKSDB
from tests.node.hooked_rocksdb import HookedRocksDB
from tests.node.node_processes import Cluster, NodeProcess, until

from dynamo_core.errors import CallerError
from dynamo_node import storage
from dynamo_node.config import Limits, Settings
from dynamo_node.settings import LiveSettings
from dynamo_node.storage import META, StorageError, Store

FILE = Settings(2, 2, Limits(siblings_max=50))
OTHER = Settings(1, 3, Limits(siblings_max=7))


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    monkeypatch.setattr(storage, "Rdict", HookedRocksDB)
    made = Store(tmp_path / "db", sync=True, memory_bytes=16 << 20)
    yield made
    db: Any = made._db
    db.sync_gate.set()
    db.fail_sync = lambda: None
    await made.close()


async def _started(store: Store, file: Settings = FILE) -> LiveSettings:
    live = LiveSettings(store, file)
    await live.load()
    return live


async def test_the_file_holds_until_something_is_put(store: Store) -> None:
    live = await _started(store)
    assert live.now == FILE
    await live.put(OTHER, 3)
    assert live.now == OTHER
    assert (await _started(store)).now == OTHER, "it holds at the next start"


async def test_a_file_that_says_something_else_wins_for_good(store: Store) -> None:
    live = await _started(store)
    await live.put(OTHER, 3)
    newer = Settings(3, 1, FILE.limits)
    assert (await _started(store, newer)).now == newer
    await store.durable()
    assert (await _started(store)).now == FILE, "what was put before is forgotten"


async def test_putting_what_the_file_says_leaves_nothing_over_it(store: Store) -> None:
    live = await _started(store)
    await live.put(OTHER, 3)
    await live.put(FILE, 3)
    assert live.now == FILE
    assert store.peek(META, b"settings") is None


async def test_of_two_puts_at_once_the_later_one_holds_here_and_on_the_disk(store: Store) -> None:
    live = await _started(store)
    await asyncio.gather(live.put(OTHER, 3), live.put(Settings(3, 3), 3), live.put(OTHER, 3))
    assert live.now == OTHER
    assert (await _started(store)).now == OTHER


async def test_a_put_is_not_answered_before_it_is_fsynced(store: Store) -> None:
    live = await _started(store)
    db: Any = store._db
    db.sync_gate.clear()
    putting = asyncio.create_task(live.put(OTHER, 3))
    again = asyncio.create_task(live.put(OTHER, 3))
    done, _ = await asyncio.wait([putting, again], timeout=0.1)
    assert not done, "nor is one that changes nothing, while the first may be lost"
    db.sync_gate.set()
    await asyncio.gather(putting, again)


async def test_a_disk_that_fails_is_told(store: Store) -> None:
    live = await _started(store)
    db: Any = store._db

    def fail() -> None:
        raise RuntimeError("IO error: No space left on device")

    db.fail_sync = fail
    with pytest.raises(StorageError):
        await live.put(OTHER, 3)


async def test_r_and_w_beyond_the_ring_are_refused_and_nothing_changes(store: Store) -> None:
    live = await _started(store)
    with pytest.raises(CallerError, match=r"quorum.r: 3; .* within 1..2; quorum.w: 4"):
        await live.put(Settings(3, 4), 2)
    assert live.now == FILE
    assert store.peek(META, b"settings") is None
    await live.put(Settings(3, 4), None)  # without a ring nothing speaks against it


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"file": {}}', b'{"file": 1, "put": {}}'])
async def test_a_note_that_cannot_be_read_gives_way_to_the_file(store: Store, note: bytes) -> None:
    store.put(META, b"settings", note)
    await store.durable()
    assert (await _started(store)).now == FILE
    await store.durable()
    assert store.peek(META, b"settings") is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([], "the body: []; an object is needed"),
        ({"quorum": {"r": 0}}, "quorum.r: 0; a whole number in 1..255 is needed"),
        ({"quorum": {"r": "2"}}, "quorum.r: '2'; a whole number"),
        ({"quorum": {"n": 3}}, "quorum.n: not a setting; known here: r, w"),
        ({"limits": {"valueBytesMax": 1 << 30}}, "limits.valueBytesMax: 1073741824; a whole"),
        ({"limits": 7}, "limits: 7; an object is needed"),
        ({"durability": "sync"}, "durability: not a setting; known here: limits, quorum"),
    ],
)
async def test_a_value_that_is_no_settings_is_named(store: Store, value: object, why: str) -> None:
    with pytest.raises(CallerError) as refused:
        (await _started(store)).wanted(value)
    assert why in str(refused.value)


async def test_what_is_left_out_is_as_the_file_says(store: Store) -> None:
    live = await _started(store)
    await live.put(OTHER, 3)
    assert live.wanted({"quorum": {"r": 1}}) == Settings(1, 2, FILE.limits)
    assert live.wanted({}) == FILE


def _put(node: NodeProcess, value: object) -> Any:
    return node.admin("PUT", "/admin/settings", json.dumps(value).encode())


def test_over_http_by_processes_that_go_on(make_cluster: Callable[..., Cluster]) -> None:
    made = make_cluster(nodes=3)
    first = made.nodes[0]
    assert first.process is not None
    pid = first.process.pid
    assert first.put(b"k", b"x" * 100).status == 204

    _put(first, {"quorum": {"r": 4}}).problem(400, "bad-request")
    said = _put(first, {"quorum": {"r": 0}, "limit": {}}).problem(400, "bad-request")
    assert "quorum.r: 0" in said
    assert "limit: not a setting" in said
    for body in (b"", b"[", b"\xff", b'{"quorum": {}, "quorum": {}}', b"[" * 100_000):
        first.admin("PUT", "/admin/settings", body).problem(400, "bad-request")
    assert first.status()["settings"] == first.admin("GET", "/admin/settings").json

    wanted = {"quorum": {"r": 3, "w": 1}, "limits": {"valueBytesMax": 50, "siblingsMax": 1}}
    answer = _put(first, wanted)
    assert answer.status == 200
    assert answer.json["quorum"] == wanted["quorum"]
    assert answer.json["limits"]["objectBytesMax"] == 8 << 20
    assert first.status()["settings"] == answer.json
    assert first.status()["quorum"] == {"n": 3, "r": 3, "w": 1}
    first.put(b"k", b"x" * 51).problem(413, "too-large")
    assert first.put(b"siblings", b"1").status == 204
    first.put(b"siblings", b"2").problem(409, "too-many-siblings")
    for other in made.nodes[1:]:
        other.kill()
    until(lambda: "up" not in list(first.peers().values())[1:], "it knows")
    assert first.put(b"alone", b"x").status == 204, "W is 1 by now"
    assert first.get(b"alone", timeout_ms=300).problem(503, "unavailable")
    assert first.process.pid == pid
    assert first.alive

    first.kill()
    first.start()
    first.wait_up()
    assert first.status()["settings"] == answer.json, "fsynced before the answer"
    first.kill()
    first.settings["quorum"] = {"r": 2, "w": 3}
    first.start()
    first.wait_up()
    assert first.status()["settings"]["quorum"] == {"r": 2, "w": 3}
    assert first.status()["settings"]["limits"]["valueBytesMax"] == 1 << 20


def test_a_node_without_a_store_takes_and_tells_none(make_cluster: Callable[..., Cluster]) -> None:
    made = make_cluster(nodes=1, replication=1)
    [node] = made.nodes
    assert _put(node, {"quorum": {"r": 1, "w": 1}, "limits": {"siblingsMax": 7}}).status == 200
    node.terminate()
    node.wait_end()
    node.program = ("-c", FAILING_ROCKSDB)
    failing = made.folder / f"{node.name}.failing"
    failing.write_text("IO error: Input/output error")
    node.start()
    assert node.wait_up()["settings"] is None
    _put(node, {}).problem(503, "overloaded")
    failing.unlink()
    until(lambda: node.status()["settings"], "its disk works")
    assert node.status()["settings"]["limits"]["siblingsMax"] == 7
    failing.write_text("IO error: Input/output error")
    _put(node, {"limits": {"siblingsMax": 8}}).problem(503, "overloaded")
    assert node.status()["settings"] is None
    failing.unlink()
    until(lambda: node.status()["settings"], "its disk works again")
    assert node.status()["settings"]["limits"]["siblingsMax"] in (7, 8), "nobody was told"
