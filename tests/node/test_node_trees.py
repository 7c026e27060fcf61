"""The kept hash trees agree with the stored objects: after writes, restarts, kills and upgrades."""

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.node.node_processes import Cluster, NodeProcess

from dynamo_core import objects, records
from dynamo_core.merkle import EMPTY_ROOT
from dynamo_core.objects import ABSENT, Sibling
from dynamo_core.records import Record
from dynamo_core.ring import partition_of, position
from dynamo_core.versions import EMPTY, Clock
from dynamo_node.digests import partition_range, recomputed
from dynamo_node.disk import Disk
from dynamo_node.replica import Replica
from dynamo_node.storage import META, OBJECTS, TREES, UNREAD, Store
from dynamo_node.trees import VERSION_KEY, Trees

Q = 16
RING: Any = SimpleNamespace(partitions=Q)


def _object(actor: int, value: bytes | None = b"v") -> bytes:
    sibling = Sibling((bytes([actor]) * 16, 1), bytes([actor]) * 16, 0, "", value)
    return objects.to_bytes(objects.put(ABSENT, EMPTY, sibling))


class Bench:
    """A store with a replica and its trees."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path / "db", sync=True, memory_bytes=16 << 20)
        self.trees = Trees(self.store)
        self.replica = Replica(Disk(self.store, "00" * 16, fresh=True))
        self.replica.ring_has(Q)
        self.replica.on_change.append(self.trees.changed)

    def merge(self, key: bytes, obj: bytes) -> None:
        self.replica.merge(key, position(key), obj, 0, lambda error: None)

    async def check(self) -> dict[int, bytes]:
        """Kept and recomputed roots are equal; returns those that aren't of nothing."""
        await self.store.durable()
        kept = {p: self.trees.root(p) for p in range(Q)}
        assert kept == {p: await recomputed(self.store, RING, p) for p in range(Q)}
        return {p: root for p, root in kept.items() if root != EMPTY_ROOT}


async def test_trees_follow_every_change_and_are_loaded_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.trees.ring_has(Q)
    assert await bench.check() == {}
    for n in range(200):
        bench.merge(b"k%d" % n, _object(1, None if n == 1 else b"v"))
    for n in range(0, 200, 3):
        bench.merge(b"k%d" % n, _object(2))
        bench.merge(b"k%d" % n, _object(2))
    roots = await bench.check()
    assert len(roots) == Q
    gone = position(b"k1") + b"k1"
    leaf = objects.leaf(b"k1", objects.head_of(_object(1, None)))
    bench.replica.reap(gone, leaf, lambda error: None)
    assert await bench.check() != roots
    # Of a living key only what is spent of its clock goes.
    roots = await bench.check()
    living = objects.to_bytes(
        objects.put(
            objects.from_bytes(_object(1)),
            Clock({bytes([n]) * 16: 1 for n in range(1, 20)}),
            Sibling((bytes([3]) * 16, 2), bytes(16), 0, "", b"new"),
        )
    )
    bench.merge(b"k2", living)
    await bench.check()
    leaf = objects.leaf(b"k2", objects.head_of(living))
    bench.replica.reap(position(b"k2") + b"k2", leaf, lambda error: None)
    assert await bench.check() != roots
    left = [
        objects.from_bytes(records.object_of(data))
        for place, data in bench.store.scan(OBJECTS, b"", b"\xff" * 40, 1000)
        if place.endswith(b"k2") and len(place) == 18
    ]
    assert left == [objects.retired(objects.from_bytes(living))]
    assert left[0].clock == Clock({bytes([3]) * 16: 2})
    roots = await bench.check()
    await bench.store.close()
    again = Bench(tmp_path)
    await again.trees.load(Q)
    assert await again.check() == roots
    await again.store.close()


async def test_a_segment_without_keys_leaves_nothing_on_disk(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.trees.ring_has(Q)
    bench.merge(b"k", _object(1, None))
    await bench.store.durable()
    assert len(bench.store.scan(TREES, b"", b"\xff" * 4, 10)) == 1
    leaf = objects.leaf(b"k", objects.head_of(_object(1, None)))
    bench.replica.reap(position(b"k") + b"k", leaf, lambda error: None)
    await bench.store.durable()
    assert bench.store.scan(TREES, b"", b"\xff" * 4, 10) == []
    assert bench.trees.root(partition_of(position(b"k"), Q)) == EMPTY_ROOT
    await bench.store.close()


async def test_a_partition_is_emptied_at_one_stroke_and_what_comes_after_stays(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    bench.replica.on_emptied.append(lambda partition, *_: bench.trees.emptied(partition))
    bench.trees.ring_has(Q)
    partition = partition_of(position(b"here"), Q)
    for n in range(100):
        bench.merge(b"key%d" % n, _object(1))
    bench.merge(b"here", _object(1))
    bench.merge(b"loading", _object(1))
    before = await bench.check()
    merged: list[bytes | None] = []
    bench.merge(b"here", _object(2))  # in the tick that empties: gone
    # What is being read from disk when its partition is emptied isn't seen by who waits.
    digest = position(b"here")
    load, held = bench.store.load, []
    bench.store.load = lambda *ask: held.append(ask)  # type: ignore[method-assign,misc]
    bench.store.peek, peek = lambda *at: UNREAD, bench.store.peek  # type: ignore[method-assign]
    bench.replica.read_own(digest + b"here", merged.append, lambda error: None)
    bench.store.peek, bench.store.load = peek, load  # type: ignore[method-assign]
    start, end = partition_range(RING, partition)
    bench.replica.empty(partition, start, end)
    bench.merge(b"here", _object(3))
    [(_, _, done)] = held
    done(b"what was read before")
    assert merged == [None]
    after = await bench.check()
    assert {p: root for p, root in before.items() if p != partition} == {
        p: root for p, root in after.items() if p != partition
    }
    assert await bench.store.scan_async(OBJECTS, start, end, 10) == [
        (digest + b"here", records.to_bytes(Record(_object(3), None)))
    ]
    await bench.store.close()
    again = Bench(tmp_path)
    await again.trees.load(Q)
    assert await again.check() == after
    await again.store.close()


async def test_a_disk_of_an_earlier_version_gets_its_trees_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.replica.on_change.clear()
    for n in range(50):
        bench.merge(b"k%d" % n, _object(1))
    bench.store.put(TREES, b"\x00\x00\x00", b"x" * 16)  # a half-made one that was cut off
    await bench.store.close()
    for _ in range(2):
        again = Bench(tmp_path)
        await again.trees.load(Q)
        assert len(await again.check()) == Q
        assert isinstance(again.store.peek(META, VERSION_KEY), bytes)
        await again.store.close()


async def test_a_wrong_tree_is_mended_in_turn_and_none_is_made_for_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.trees.ring_has(Q)
    for n in range(40):
        bench.merge(b"k%d" % n, _object(1))
    roots = await bench.check()
    full = sorted(roots)
    owned = {*range(Q)} - {full[0]}
    bench.trees._trees.pop(full[1])
    for partition in (full[0], full[2]):
        bench.trees._of(partition).change(9, 77)
    empty = {*range(Q)} - {*full}
    mended = 0
    for _ in range(Q * 256):
        mended += await bench.trees.scrub(owned, contextlib.nullcontext)
    assert mended >= 2
    assert bench.trees.root(full[1]) == roots[full[1]]
    assert bench.trees.root(full[2]) == roots[full[2]]
    assert bench.trees.root(full[0]) != roots[full[0]], "it isn't owned here"
    assert not empty & bench.trees._trees.keys()
    await bench.store.close()
    again = Bench(tmp_path)
    await again.trees.load(Q)
    assert again.trees.root(full[2]) == roots[full[2]]
    assert await again.trees.scrub((), contextlib.nullcontext) == 0
    await again.store.close()


async def test_a_torn_log_leaves_trees_that_are_their_objects(tmp_path: Path) -> None:
    """Whatever of the log's end is lost: a batch's objects and segments are there or not."""
    bench = Bench(tmp_path / "live")
    bench.trees.ring_has(Q)
    for n in range(300):
        bench.merge(b"k%d" % n, _object(1))
        if n % 10 == 0:
            await bench.store.durable()
    for n in range(0, 300, 2):
        bench.merge(b"k%d" % n, _object(2))
    await bench.store.durable()
    (log,) = (tmp_path / "live" / "db").glob("*.log")
    size = log.stat().st_size
    counts = set()
    for at, lost in enumerate((0, 1, 7, 100, size // 3, size // 2, size - 2000)):
        folder = tmp_path / f"torn{at}"
        shutil.copytree(tmp_path / "live", folder)
        with (folder / "db" / log.name).open("r+b") as file:
            file.truncate(size - lost)
        again = Bench(folder)
        await again.trees.load(Q)
        await again.check()
        counts.add(await again.store.count(OBJECTS))
        await again.store.close()
    assert len(counts) > 3, "something was lost indeed"
    await bench.store.close()


def _agrees(node: NodeProcess) -> None:
    kept = node.admin("GET", "/admin/digest")
    assert kept.status == 200
    assert kept.json == node.admin("GET", "/admin/digest?verify=1").json


@pytest.mark.timeout(60)
def test_a_kill_in_mid_load_leaves_trees_that_agree_with_the_objects(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(1, replication=1)
    node = cluster.nodes[0]
    for life in range(3):
        stop = threading.Event()

        def load(at: int, stop: threading.Event = stop, life: int = life) -> None:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                n = 0
                while not stop.is_set():
                    node.put(b"%d.%d.%d" % (life % 2, at, n % 40), b"v" * 50)
                    n += 1

        writers = [threading.Thread(target=load, args=(at,)) for at in range(4)]
        for writer in writers:
            writer.start()
        done = threading.Event()
        done.wait(0.4)  # some load, then the cut: any moment is a good one
        node.kill()
        stop.set()
        for writer in writers:
            writer.join()
        node.start()
        node.wait_ready()
        _agrees(node)
    assert set(node.digest()) == {str(p) for p in range(Q)}
    assert node.admin("GET", "/admin/digest?verify=yes").problem(400, "bad-request")
