"""Chaos with real processes: nodes are killed, paused, restarted and wiped under load.

Five nodes, N/R/W 3/2/2. `dynamo verify`'s clients work on them meanwhile; then
every promise is checked, on every node and on every replica, and once more
after all nodes were killed at once. CHAOS_SECONDS (60) says how long,
CHAOS_SEED which run; the seed is printed, and so are the figures.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.chaos import Nemesis
from e2e.chaos_report import Watch, summary, timeline
from e2e.conftest import Tell
from e2e.judging import each_node
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
REAPED_S = 60.0
KEYS = 150
TIMING = {"drain_ms": 50, "reap_delay_ms": 5_000}
"""Tombstones are reaped while nodes fall, or nothing would be proven about them."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path, 5, quorum={"r": 2, "w": 2}, timing=TIMING)
    try:
        found.start(replication=3, partitions=64)
        yield found
    finally:
        found.close()


def _urls(cluster: Cluster) -> list[str]:
    return [f"http://127.0.0.1:{node.http_port}" for node in cluster.nodes]


def _until_equal(cluster: Cluster) -> dict[str, float]:
    """Wait until all is whole and equal; seconds from now until each step was reached."""
    began = time.monotonic()
    took = {}
    cluster.wait_whole()
    took["all up"] = time.monotonic() - began
    cluster.wait_hints_delivered(EQUAL_S)
    took["hints drained"] = time.monotonic() - began
    cluster.wait_equal(EQUAL_S)
    took["replicas equal"] = time.monotonic() - began
    return took


def _until_reaped(cluster: Cluster) -> str:
    """Wait until no tombstone is left to be reaped: else copies would differ while they are read.

    Says how long it took, or what blocked it for all of the time.
    """
    began = time.monotonic()

    def blocked() -> list[str]:
        rows = [
            row
            for node in cluster.nodes
            for row in node.admin("GET", "/admin/tombstones").json["partitions"]
        ]
        return [
            f"partition {row['partition']}: {row['tombstones']} tombstones, {row['blocked_by']}"
            for row in rows
        ]

    try:
        until(blocked, "all tombstones are reaped", REAPED_S, wanted=[])
    except AssertionError:
        return f"tombstones are left after {REAPED_S:g} s: {'; '.join(blocked()[:3])}"
    return f"all tombstones reaped after {time.monotonic() - began:.1f} s more"


def _trees_tell_the_truth(cluster: Cluster) -> None:
    """The trees that say "equal" are those of what is stored: each is reckoned anew."""
    for node in cluster.nodes:
        verified = node.admin("GET", "/admin/digest?verify=1").json
        until(node.digest, f"{node.name}'s trees are those of its objects", 15, wanted=verified)


def _words(took: dict[str, float]) -> str:
    return ", ".join(f"{what} after {seconds:.1f} s" for what, seconds in took.items())


async def _read_everywhere(cluster: Cluster, trial: Trial) -> Report:
    """Read every key through every node and of every replica, and judge the whole history."""
    trial.history.replicas.clear()
    async with each_node(_urls(cluster)) as nodes:
        await trial.read_all(nodes)
        view = await nodes[0].cluster()
    copies = await replicas(view, trial.keys, "")
    assert len(copies) == len(cluster.nodes) * len(trial.keys), "every copy was looked at"
    owners = [copy for copy in copies if copy.owner]
    assert len(owners) == 3 * len(trial.keys), "by each of its owners"
    trial.history.replicas.extend(copies)
    return check(trial.history)


def _accuse(report: Report, nemesis: Nemesis, folder: Path, trial: Trial) -> None:
    kept = folder / "history.jsonl"
    kept.write_text("\n".join(trial.history.lines()))
    story = "\n\n".join(map(str, report.violations[:10]))
    steps = "\n".join(map(str, nemesis.told))
    assert report.ok, f"CHAOS_SEED={SEED}, history in {kept}\n{story}\n\n{steps}"
    assert not report.unchecked, report.unchecked


@pytest.mark.timeout(SECONDS + 500)
async def test_chaos(cluster: Cluster, tmp_path: Path, tell: Tell) -> None:
    tell(f"chaos: CHAOS_SEED={SEED} CHAOS_SECONDS={SECONDS:g}, 5 nodes, N/R/W 3/2/2")
    nemesis = Nemesis(cluster, SEED)
    async with DynamoClient(_urls(cluster), timeout_ms=3_000) as kv:
        trial = Trial(kv, prefix="chaos-", keys=KEYS, concurrency=8, seed=SEED, pace_s=0.01)
        trial.history.n = 3
        with Watch(cluster) as watch:
            offset_s = time.monotonic() - trial.now()
            hurting = asyncio.create_task(asyncio.to_thread(nemesis.run, SECONDS))
            working = asyncio.create_task(trial.run(SECONDS + 300))
            try:
                await hurting
            finally:
                nemesis.stop()
                trial.stop()
                await working
                end_s = time.monotonic()
            took = await asyncio.to_thread(_until_equal, cluster)
            reaped = await asyncio.to_thread(_until_reaped, cluster)
            await asyncio.to_thread(_trees_tell_the_truth, cluster)
            watch.look()
        for what, seconds in took.items():
            trial.history.figures.append(Figure(name=what, value=seconds, most=EQUAL_S))
        worked = list(trial.history.operations)
        report = await _read_everywhere(cluster, trial)
        for line in summary(report, worked, nemesis, watch):
            tell(f"  {line}")
        tell(f"  after the last fault: {_words(took)}; {reaped}")
        for line in timeline(worked, offset_s, nemesis, watch, end_s):
            tell(f"  {line}")
        (tmp_path / "timeline.txt").write_text("\n".join(map(str, nemesis.told)))
        tell(f"  every step: {tmp_path / 'timeline.txt'}")
        _accuse(report, nemesis, tmp_path, trial)
        # And from the disks alone: what was said has to be there after everybody has fallen.
        for node in cluster.nodes:
            node.kill()
        for node in cluster.nodes:
            node.start()
        took = await asyncio.to_thread(_until_equal, cluster)
        again = await _read_everywhere(cluster, trial)
        tell(f"  after all five were killed at once: {_words(took)}, nothing lost: {again.ok}")
        _accuse(again, nemesis, tmp_path, trial)
    assert not nemesis.wrong, "\n".join(nemesis.wrong)
    assert sum(nemesis.done.values()) > SECONDS / 10, nemesis.told
    assert not cluster.unclean_lines(), cluster.unclean_lines()


@pytest.mark.timeout(300)
def test_two_of_five_are_dead_and_every_write_is_taken(cluster: Cluster, tell: Tell) -> None:
    dead, alive = cluster.nodes[:2], cluster.nodes[2:]
    for node in dead:
        node.kill()
    load = Load(alive, tolerant=False)
    began = time.monotonic()
    with load.running():
        until(lambda: len(load.acknowledged) >= 1500, "1500 writes", 60)
    wrote_s = time.monotonic() - began
    assert not load.failed, load.failed[:5]
    hints = sum(sum(node.status()["hints_pending"].values()) for node in alive)
    for node in dead:
        node.start()
    took = _until_equal(cluster)
    _trees_tell_the_truth(cluster)
    for node in cluster.nodes:
        load.check_all(node)
    tell(
        f"two of five killed: {len(load.acknowledged):,} writes in {wrote_s:.1f} s, "
        f"{len(load.failed)} not acknowledged, {hints:,} hints"
    )
    tell(f"  both back: {_words(took)}; every write is read through every node")
    assert took["replicas equal"] < EQUAL_S
    cluster.assert_clean()


@pytest.mark.timeout(400)
def test_a_disk_is_lost_under_load(cluster: Cluster, tell: Tell) -> None:
    nemesis = Nemesis(cluster, SEED)
    lost = cluster.nodes[1]
    load = Load(cluster.nodes, tolerant=True)
    with load.running():
        until(lambda: len(load.acknowledged) >= 1500, "1500 writes", 60)
        held, before = lost.status()["keys"], len(load.acknowledged)
        assert nemesis.wipe(lost, 30), "all were whole"
        nemesis.until_rebuilt()
        meanwhile = len(load.acknowledged) - before
        until(lambda: len(load.acknowledged) >= before + 500, "500 more", 60)
    took = _until_equal(cluster)
    _trees_tell_the_truth(cluster)
    assert lost.status()["keys"] >= held > 0
    for node in cluster.nodes:
        load.check_all(node)
    tell(
        f"a disk of {held:,} keys lost under load: counted again after "
        f"{nemesis.rebuilt_s[0]:.1f} s, {meanwhile:,} writes acknowledged meanwhile, "
        f"{len(load.failed)} of {len(load.acknowledged) + len(load.failed):,} not"
    )
    tell(f"  after the load: {_words(took)}; every write is read through every node")
    assert not nemesis.wrong
    # What came back is on its own disk now: it is still there after another start.
    lost.terminate()
    lost.wait_end()
    lost.start()
    cluster.wait_whole()
    cluster.wait_equal(EQUAL_S)
    cluster.assert_clean()
