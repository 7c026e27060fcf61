"""Anti-entropy between real nodes: what is lost or changed behind a node's back comes back."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.node.node_processes import Cluster, NodeProcess, until

from dynamo_core import objects, records
from dynamo_core.objects import ABSENT, Sibling
from dynamo_core.ring import partition_of, position
from dynamo_core.versions import EMPTY
from dynamo_node.storage import META, OBJECTS, Store
from dynamo_node.trees import Trees

Q = 16
QUICK = {"drain_ms": 50, "antientropy_ms": 100, "recheck_ms": 100}
SLOW = {"drain_ms": 50, "antientropy_ms": 600_000, "recheck_ms": 100}
KEYS = [b"key%d" % n for n in range(120)]


def _blind(actor: int, value: bytes) -> bytes:
    sibling = Sibling((bytes([actor]) * 16, 1), bytes([actor]) * 16, 0, "", value)
    return objects.to_bytes(objects.put(ABSENT, EMPTY, sibling))


def _behind_its_back(node: NodeProcess, change: Callable[[Store, Trees], None]) -> None:
    """Open the stopped node's disk and change objects, with their trees."""

    async def work() -> None:
        store = Store(Path(node.settings["data_dir"]) / "db", sync=True, memory_bytes=16 << 20)
        trees = Trees(store)
        await trees.load(Q)
        change(store, trees)
        await store.close()

    asyncio.run(work())


def _put(store: Store, trees: Trees, key: bytes, obj: bytes | None) -> None:
    skey = position(key) + key
    found = store.scan(OBJECTS, skey, skey + b"\x00", 1)
    old = records.object_of(found[0][1]) if found else None
    trees.changed(skey, old, obj)
    if obj is None:
        store.delete(OBJECTS, skey)
    else:
        store.put(OBJECTS, skey, records.to_bytes(records.Record(obj, None)))


def _stop(node: NodeProcess) -> None:
    node.terminate()
    assert node.wait_end() == 0


def _repaired(node: NodeProcess) -> int:
    found: int = node.status()["antientropy"]["repaired_keys_total"]
    return found


def test_what_was_removed_or_changed_behind_a_nodes_back_is_repaired_and_then_it_is_quiet(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(timing=QUICK)
    first, _, third = cluster.nodes
    for key in KEYS:
        assert first.put(key, b"v").status == 204
    cluster.wait_hints_delivered()
    cluster.wait_equal()
    _stop(third)

    def change(store: Store, trees: Trees) -> None:
        for key in KEYS[:60]:
            _put(store, trees, key, None)
        for key in KEYS[60:70]:
            _put(store, trees, key, _blind(1, b"other"))
        for n in range(5):
            _put(store, trees, b"only here %d" % n, _blind(2, b"mine"))

    _behind_its_back(third, change)
    third.start()
    cluster.wait_whole()
    cluster.wait_equal()
    for key in KEYS[:60]:
        assert third.replica(key)["siblings"]
    for node in cluster.nodes:
        assert node.values(KEYS[65]) == {b"v", b"other"}
        assert node.replica(b"only here 3")["siblings"]
        assert node.digest() == node.admin("GET", "/admin/digest?verify=1").json
    # Quiet: several comparisons more, and not one key is moved by them.
    before = [_repaired(node) for node in cluster.nodes]
    rounds = [node.status()["antientropy"]["rounds_total"] for node in cluster.nodes]
    for node, count in zip(cluster.nodes, rounds, strict=True):
        until(
            lambda node=node, count=count: (
                node.status()["antientropy"]["rounds_total"] >= count + 6
            ),
            "it goes on comparing",
        )
    assert [_repaired(node) for node in cluster.nodes] == before
    assert sum(before) >= 75
    for node in cluster.nodes:
        for last in node.status()["antientropy"]["peers"].values():
            assert last["outcome"] == "equal", last
    cluster.assert_clean()


def test_writes_under_way_are_not_repaired(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(timing=QUICK)
    stop = threading.Event()

    def load(at: int) -> None:
        n = 0
        while not stop.is_set():
            cluster.nodes[at % 3].put(b"hot%d.%d" % (at, n % 20), b"v")
            n += 1

    writers = [threading.Thread(target=load, args=(at,)) for at in range(4)]
    for writer in writers:
        writer.start()
    try:
        for node in cluster.nodes:
            until(
                lambda node=node: node.status()["antientropy"]["rounds_total"] >= 15,
                "fifteen comparisons under load",
            )
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    cluster.wait_hints_delivered()
    cluster.wait_equal()
    assert [_repaired(node) for node in cluster.nodes] == [0, 0, 0]
    cluster.assert_clean()


def test_an_operator_has_everything_repaired_at_once(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(timing=SLOW)
    first, second, third = cluster.nodes
    for key in KEYS:
        assert first.put(key, b"v").status == 204
    cluster.wait_hints_delivered()
    cluster.wait_equal()
    _stop(third)

    def lose(store: Store, trees: Trees) -> None:
        for key in KEYS:
            _put(store, trees, key, None)

    _behind_its_back(third, lose)
    report = first.repair()
    assert report["peers"] == [second.name, third.name]
    assert report["unreachable"] == [third.name]
    assert (report["keys_sent"], report["keys_received"]) == (0, 0)
    third.start()
    cluster.wait_whole()
    partition = partition_of(position(KEYS[0]), Q)
    alone = [key for key in KEYS if partition_of(position(key), Q) == partition]
    report = first.repair(f"?partition={partition}")
    assert (report["partitions_compared"], report["partitions_differing"]) == (1, 1)
    assert report["keys_sent"] == len(alone)
    report = third.repair()
    assert report["keys_received"] == len(KEYS) - len(alone)
    assert report["failed"] == {}
    assert report["bytes"] > 0
    assert report["partitions_compared"] == Q
    report = second.repair()
    assert (report["keys_sent"], report["keys_received"], report["partitions_differing"]) == (
        0,
        0,
        0,
    )
    cluster.wait_equal(1)
    assert "0..15" in first.admin("POST", "/admin/repair?partition=16").problem(400, "bad-request")
    assert "held by" not in first.admin("POST", "/admin/repair?partition=x").problem(
        400, "bad-request"
    )
    cluster.assert_clean()


def test_two_nodes_that_compare_with_each_other_at_once_repair_all(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(2, replication=2, timing=SLOW)
    first, second = cluster.nodes
    for node, other in ((first, b"a%d"), (second, b"b%d")):
        _stop(node)

        def add(store: Store, trees: Trees, other: bytes = other) -> None:
            for n in range(1500):
                _put(store, trees, other % n, _blind(1, b"v" * 100))

        _behind_its_back(node, add)
        node.start()
    cluster.wait_whole()
    reports: list[Any] = []
    askers = [
        threading.Thread(target=lambda node=node: reports.append(node.repair()))
        for node in cluster.nodes
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert [report["failed"] for report in reports] == [{}, {}]
    cluster.wait_equal(1)
    assert sum(r["keys_sent"] + r["keys_received"] for r in reports) >= 3000
    cluster.assert_clean()


def test_a_mark_is_cleared_by_a_comparison_with_its_target(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(timing=QUICK)
    first, _, third = cluster.nodes
    for key in KEYS[:20]:
        assert first.put(key, b"v").status == 204
    cluster.wait_hints_delivered()
    cluster.wait_equal()
    assert cluster.ring is not None
    number = cluster.ring.member_named(third.name)
    assert number is not None
    _stop(first)
    partition = partition_of(position(KEYS[0]), Q)

    def mark(store: Store, trees: Trees) -> None:
        name = b"mark/" + partition.to_bytes(2, "big") + number.number.to_bytes(4, "big")
        store.put(META, name, (1).to_bytes(8, "big"))
        _put(store, trees, KEYS[0], _blind(3, b"missed"))

    _stop(third)
    _behind_its_back(first, mark)
    first.start()
    first.wait_ready()
    assert first.status()["hints_pending"] == {third.name: 1}  # the target is down
    third.start()
    cluster.wait_whole()
    until(lambda: first.status()["hints_pending"], "the mark is cleared", wanted={})
    assert b"missed" in third.values(KEYS[0])
    assert {s["value"] for s in third.replica(KEYS[0])["siblings"]} == {
        s["value"] for s in first.replica(KEYS[0])["siblings"]
    }
    cluster.assert_clean()


def test_a_stand_ins_mark_is_cleared_when_the_target_agrees_with_all_other_owners(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(4, timing=QUICK)
    assert cluster.ring is not None
    row = cluster.ring.slots[5]
    by_number = {m.number: m.name for m in cluster.ring.members}
    nodes = {node.name: node for node in cluster.nodes}
    stand_in = next(nodes[name] for n, name in by_number.items() if n not in row)
    target, other = nodes[by_number[row[0]]], nodes[by_number[row[1]]]
    _stop(stand_in)

    def mark(store: Store, trees: Trees) -> None:
        name = b"mark/" + (5).to_bytes(2, "big") + row[0].to_bytes(4, "big")
        store.put(META, name, (1).to_bytes(8, "big"))

    _behind_its_back(stand_in, mark)
    _stop(other)
    stand_in.start()
    stand_in.wait_ready()
    until(lambda: stand_in.peers()[target.name], "it sees the target", wanted="up")
    rounds = stand_in.status()["antientropy"]["rounds_total"]
    until(
        lambda: stand_in.status()["antientropy"]["rounds_total"] >= rounds + 3,
        "it had the occasion to ask",
    )
    assert stand_in.status()["hints_pending"] == {target.name: 1}  # one owner can't be asked
    other.start()
    cluster.wait_whole()
    until(lambda: stand_in.status()["hints_pending"], "the mark is cleared", wanted={})
    assert target.status()["antientropy"]["peers"][other.name]["outcome"] == "equal"
    cluster.assert_clean()
