"""Scaling under load with real processes: 3 -> 5 -> 4 -> 5 -> 3 nodes, and a pool of capacity 2.

The manifest of a local cluster is edited and saved, as `kubectl apply` would; `dynamo
verify`'s clients work on it meanwhile. No request may fail because data moves, no
acknowledged write may be lost, and tokens follow capacity. SCALE_RECORDS (10,000) of
1 KiB are stored beside. The figures are printed: bytes moved against the least that had
to move, and p99 while data moves against p99 at rest.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from e2e.conftest import Tell
from e2e.judging import judge
from e2e.local import Local, asked, local_cluster, until

from dynamo_client.cli.trial import Trial
from dynamo_client.client import DynamoClient
from dynamo_core.history import Operation
from dynamo_core.placement import plan
from dynamo_core.placement_report import gained
from dynamo_core.ring import Ring

RECORDS = int(os.environ.get("SCALE_RECORDS", "10000"))
REST_S = float(os.environ.get("SCALE_REST_SECONDS", "15"))
SETTLED_S = 240.0
EQUAL_S = 60.0
KEYS = 150
VALUE_BYTES = 1024
POOL = {"name": "large", "replicas": 1, "capacity": "2"}


class Change(NamedTuple):
    """One edit of the manifest, and what came of it."""

    what: str
    began_s: float
    ended_s: float
    moved_bytes: int
    least_bytes: int


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Local]:
    _write(tmp_path, 3)
    with local_cluster(tmp_path, 7, "-f", str(tmp_path / "cluster.yaml")) as found:
        records = tmp_path / "records.jsonl"
        with records.open("w") as file:
            for key, value in _records():
                file.write(json.dumps({"key": key, "value": value}) + "\n")
        found.run("import", str(records), "--blind")
        yield found


def _records() -> Iterator[tuple[str, str]]:
    """Keys and values of those that are stored beside: 1 KiB, and each its own."""
    for number in range(RECORDS):
        yield f"record/{number}", f"value of {number} ".ljust(VALUE_BYTES, "v")


def _all_records_are_there(cluster: Local) -> None:
    exported = cluster.folder / "exported.jsonl"
    cluster.run("export", "-o", str(exported))
    with exported.open() as file:  # the trial's keys, too: these may have siblings
        lines = [line for line in map(json.loads, file) if line["key"].startswith("record/")]
    assert {line["key"]: line["value"] for line in lines} == dict(_records())
    assert len(lines) == RECORDS


def _write(folder: Path, replicas: int, *pools: dict[str, Any]) -> None:
    """The manifest (JSON is YAML), saved all at once as editors do."""
    spec = {"replicas": replicas, "ring": {"partitions": 64}, "pools": list(pools)}
    value = {
        "apiVersion": "dynamocluster.io/v1alpha1",
        "kind": "DynamoCluster",
        "metadata": {"name": "cart"},
        "spec": spec,
    }
    (folder / "new").write_text(json.dumps(value))
    (folder / "new").replace(folder / "cluster.yaml")


def _settled(cluster: Local, nodes: int) -> bool:
    now = cluster.status()
    ready = [node for node in now["nodes"] if node["ready"]]
    return len(ready) == len(now["nodes"]) == nodes and now["ring"]["settled"] and not now["plan"]


def _admins(cluster: Local) -> dict[str, str]:
    return {node["name"]: node["admin"] for node in cluster.status()["nodes"]}


def _ring(cluster: Local) -> Ring:
    return Ring.from_json(cluster.admin(0, "/admin/ring"))


def _moved(cluster: Local) -> dict[str, int]:
    """Bytes that each node has taken over since its start."""
    return {
        name: asked(f"{admin}/admin/transfers")["since_start"]["bytes"]
        for name, admin in _admins(cluster).items()
    }


def _until_equal(cluster: Local) -> float:
    def equal() -> bool:
        roots: dict[str, list[str]] = {}
        for admin in _admins(cluster).values():
            status = asked(f"{admin}/admin/status")
            if any(status["hints_pending"].values()):
                return False
            for partition, root in asked(f"{admin}/admin/digest").items():
                roots.setdefault(partition, []).append(root)
        copies = [len(each) == 3 and len(set(each)) == 1 for each in roots.values()]
        return len(copies) == 64 and all(copies)

    return until(equal, "exactly three equal copies of every partition", EQUAL_S)


def _edit(
    cluster: Local, what: str, now: Callable[[], float], replicas: int, *pools: Any
) -> Change:
    before, taken = _ring(cluster), _moved(cluster)
    began = now()
    _write(cluster.folder, replicas, *pools)
    nodes = replicas + sum(pool["replicas"] for pool in pools)
    until(lambda: _settled(cluster, nodes), f"{what} is settled", SETTLED_S)
    ended = now()
    after, later = _ring(cluster), _moved(cluster)
    for share in plan(before, after.members, after.replication, after.partitions).report.nodes:
        tokens = after.tokens(share.number)
        assert abs(tokens - share.target) <= 1, f"{share} has {tokens} tokens"
    moved = sum(total - taken.get(name, 0) for name, total in later.items())
    copy = RECORDS * (VALUE_BYTES + 60) // after.partitions
    return Change(what, began, ended, moved, gained(before.slots, after.slots) * copy)


def _p99_ms(operations: list[Operation], writes: bool, spans: list[tuple[float, float]]) -> float:
    took = sorted(
        o.returned - o.invoked
        for o in operations
        if o.is_write == writes and o.acknowledged and any(a <= o.returned < b for a, b in spans)
    )
    return took[len(took) * 99 // 100] * 1000 if took else float("nan")


@pytest.mark.timeout(1800)
async def test_through_three_five_four_five_three_and_a_pool(cluster: Local, tell: Tell) -> None:
    changes: list[Change] = []
    urls = [cluster.http(node) for node in range(3)]
    async with DynamoClient(urls, timeout_ms=5_000) as kv:
        trial = Trial(kv, prefix="scale-", keys=KEYS, concurrency=8, seed=5, pace_s=0.005)
        trial.history.n = 3
        working = asyncio.create_task(trial.run(3600))
        try:
            await asyncio.sleep(REST_S)
            rest = (0.0, trial.now())
            for what, replicas, pools in (
                ("3 to 5", 5, ()),
                ("5 to 4", 4, ()),
                ("4 to 5", 5, ()),
                ("5 to 3", 3, ()),
                ("a pool of capacity 2", 3, (POOL,)),
            ):
                changes.append(
                    await asyncio.to_thread(_edit, cluster, what, trial.now, replicas, *pools)
                )
        finally:
            trial.stop()
            await working
        operations = list(trial.history.operations)
        for change in changes:
            inside = [(change.began_s, change.ended_s)]
            tell(
                f"{change.what}: {change.ended_s - change.began_s:.1f} s, "
                f"{change.moved_bytes / 1e6:.1f} MB moved, "
                f"{change.least_bytes / 1e6:.1f} MB had to; "
                f"p99 put {_p99_ms(operations, True, inside):.0f} ms, "
                f"get {_p99_ms(operations, False, inside):.0f} ms"
            )
        tell(
            f"at rest: p99 put {_p99_ms(operations, True, [rest]):.0f} ms, "
            f"get {_p99_ms(operations, False, [rest]):.0f} ms; "
            f"{len(operations):,} operations, {trial.failures} failed"
        )
        equal_s = await asyncio.to_thread(_until_equal, cluster)
        tell(f"all copies equal {equal_s:.1f} s after the load")
        await judge(trial, urls, cluster.folder)
        assert not trial.failures, trial.last_error
    await asyncio.to_thread(_all_records_are_there, cluster)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("side", ["successor", "holder"])
async def test_a_node_is_killed_while_it_hands_over(cluster: Local, tell: Tell, side: str) -> None:
    """A kill on either side delays and loses nothing; clients go on with the rest."""
    urls = [cluster.http(node) for node in range(3)]
    async with DynamoClient(urls, timeout_ms=5_000) as kv:
        trial = Trial(kv, prefix="kill-", keys=KEYS, concurrency=8, seed=6, pace_s=0.005)
        trial.history.n = 3
        working = asyncio.create_task(trial.run(3600))
        victim = "cart-default-3" if side == "successor" else "cart-default-1"
        try:
            _write(cluster.folder, 5)

            def under_way() -> bool:
                now = cluster.status()
                if len(now["nodes"]) < 5 or not all(node["ready"] for node in now["nodes"]):
                    return False
                return sum(_moved(cluster).values()) > 0

            await asyncio.to_thread(until, under_way, "data moves")
            await asyncio.to_thread(cluster.local, "kill", victim)
            await asyncio.sleep(3)
            await asyncio.to_thread(cluster.local, "start", victim)
            began = time.monotonic()
            await asyncio.to_thread(
                until, lambda: _settled(cluster, 5), "all is settled after the kill", SETTLED_S
            )
            tell(f"{side} killed in mid-transfer: settled {time.monotonic() - began:.1f} s later")
        finally:
            trial.stop()
            await working
        operations = list(trial.history.operations)
        tell(f"  {len(operations):,} operations, {trial.failures} failed")
        equal_s = await asyncio.to_thread(_until_equal, cluster)
        tell(f"  all copies equal {equal_s:.1f} s after the load")
        await judge(trial, urls, cluster.folder)
    await asyncio.to_thread(_all_records_are_there, cluster)
