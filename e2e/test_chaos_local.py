"""Chaos with real processes: nodes are killed, paused, restarted and wiped under load.

Five nodes, N/R/W 3/2/2. `dynamo verify`'s clients work on them meanwhile; then
every promise is checked, on every node and on every replica. CHAOS_SECONDS
(60) says how long, CHAOS_SEED which run; the seed is printed.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from e2e.chaos import Nemesis
from tests.node.node_load import Load
from tests.node.node_processes import Cluster, until

from dynamo_client.cli.trial import Trial
from dynamo_client.cli.verify import replicas
from dynamo_client.client import DynamoClient
from dynamo_core.history import Figure
from dynamo_core.history_check import check
from dynamo_core.history_report import Report

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1 << 32))
EQUAL_S = 60.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path, 5, quorum={"r": 2, "w": 2})
    try:
        found.start(replication=3, partitions=64)
        yield found
    finally:
        found.close()


def _urls(cluster: Cluster) -> list[str]:
    return [f"http://127.0.0.1:{node.http_port}" for node in cluster.nodes]


async def _judged(cluster: Cluster, trial: Trial) -> Report:
    """Wait until all is whole and equal, read everything everywhere, and check."""
    began = time.monotonic()
    await asyncio.to_thread(cluster.wait_whole)
    await asyncio.to_thread(cluster.wait_hints_delivered, EQUAL_S)
    await asyncio.to_thread(cluster.wait_equal, EQUAL_S)
    took = time.monotonic() - began
    figure = Figure(name="seconds until replicas were equal", value=took, most=EQUAL_S)
    trial.history.figures.append(figure)
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(DynamoClient(url, discover=False))
            for url in _urls(cluster)
        ]
        await trial.read_all(nodes)
        view = await nodes[0].cluster()
    trial.history.replicas.extend(await replicas(view, trial.keys, ""))
    return check(trial.history)


def _expect(report: Report, nemesis: Nemesis, folder: Path, trial: Trial) -> None:
    kept = folder / "history.jsonl"
    kept.write_text("\n".join(trial.history.lines()))
    print(f"{report.counts} {nemesis.done} equal after {trial.history.figures}")
    story = "\n\n".join(map(str, report.violations[:10]))
    steps = "\n".join(nemesis.told)
    assert report.ok, f"CHAOS_SEED={SEED}, history in {kept}\n{story}\n\n{steps}"
    assert not report.unchecked


@pytest.mark.timeout(SECONDS + 400)
async def test_chaos(cluster: Cluster, tmp_path: Path) -> None:
    print(f"CHAOS_SEED={SEED} CHAOS_SECONDS={SECONDS:g}")
    nemesis = Nemesis(cluster, SEED)
    async with DynamoClient(_urls(cluster), timeout_ms=3_000) as kv:
        trial = Trial(kv, prefix="chaos-", keys=150, concurrency=8, seed=SEED, pace_s=0.01)
        trial.history.n = 3
        hurting = asyncio.create_task(asyncio.to_thread(nemesis.run, SECONDS))
        working = asyncio.create_task(trial.run(SECONDS + 300))
        try:
            await hurting
        finally:
            nemesis.stop()
            trial.stop()
            await working
        _expect(await _judged(cluster, trial), nemesis, tmp_path, trial)
    assert sum(nemesis.done.values()) > SECONDS / 6, nemesis.told
    assert not cluster.unclean_lines()


@pytest.mark.timeout(300)
def test_two_of_five_are_dead_and_every_write_is_taken(cluster: Cluster) -> None:
    dead, alive = cluster.nodes[:2], cluster.nodes[2:]
    for node in dead:
        node.kill()
    load = Load(alive, tolerant=False)
    with load.running():
        until(lambda: len(load.acknowledged) >= 1500, "1500 writes", 60)
    assert not load.failed
    for node in dead:
        node.start()
    began = time.monotonic()
    cluster.wait_whole()
    cluster.wait_hints_delivered(EQUAL_S)
    cluster.wait_equal(EQUAL_S)
    assert time.monotonic() - began < EQUAL_S
    for node in cluster.nodes:
        load.check_all(node)
    cluster.assert_clean()


@pytest.mark.timeout(400)
def test_a_disk_is_lost_under_load(cluster: Cluster) -> None:
    nemesis = Nemesis(cluster, SEED)
    lost = cluster.nodes[1]
    load = Load(cluster.nodes, tolerant=True)
    with load.running():
        until(lambda: len(load.acknowledged) >= 1500, "1500 writes", 60)
        held = lost.status()["keys"]
        nemesis.wipe(lost, 30)
        until(lambda: len(load.acknowledged) >= 2000, "500 more", 60)
    assert nemesis.done["wipe"] == 1
    cluster.wait_whole()
    cluster.wait_hints_delivered(EQUAL_S)
    cluster.wait_equal(EQUAL_S)
    assert lost.status()["keys"] >= held > 0
    for node in cluster.nodes:
        load.check_all(node)
    # What came back is on its own disk now: it is still there after another start.
    lost.terminate()
    lost.wait_end()
    lost.start()
    cluster.wait_whole()
    cluster.wait_equal(EQUAL_S)
    cluster.assert_clean()
