"""Scaling a local cluster from outside: real processes, a stand-in for the node (fake_node.py).

DYNAMO_TEST_REAL_NODE=1 runs the tests that need no stand-in against the real node.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.operator.local_clusters import Local, eventually

from dynamo_operator.local.folder import Folder

only_stand_in = pytest.mark.skipif(
    bool(os.environ.get("DYNAMO_TEST_REAL_NODE")), reason="only the stand-in can be told so"
)


def names(cluster: Local) -> list[str]:
    return [node["name"].removeprefix("local-").removeprefix("cart-") for node in cluster.nodes()]


def settled(cluster: Local, count: int) -> bool:
    now = cluster.status()
    ready = [node for node in now["nodes"] if node["state"] == "ready"]
    return len(ready) == len(now["nodes"]) == count and now["ring"]["settled"] and not now["plan"]


def ring(cluster: Local) -> Any:
    found = Folder.open(next(cluster.path.glob(".dynamo/*"))).ring()
    assert found is not None
    return found


def data(cluster: Local, ordinal: int) -> Path:
    return next(cluster.path.glob(".dynamo/*")) / f"nodes/local-default-{ordinal}"


def still_has(cluster: Local, ordinal: int, facts: dict[str, Any]) -> None:
    """What the stand-in says of itself from now on; nothing ends it."""
    told = data(cluster, ordinal) / "handover.json"
    if facts:
        told.write_text(json.dumps(facts))
    else:
        told.unlink()


def test_up_and_down_and_up_again(cluster: Local) -> None:
    cluster.up()
    pids = [node["pid"] for node in cluster.nodes()]
    told = cluster.run("scale", "5", "--wait")
    assert "local, pool default: from 3 to 5 node(s)" in told
    assert settled(cluster, 5)
    assert cluster.status()["ring"]["epoch"] == 2, "one ring for all of them"
    assert cluster.node(4)["http"].endswith(str(cluster.port + 4))

    cluster.run("scale", "4", "--wait")
    assert not data(cluster, 4).exists()
    assert cluster.status()["ring"]["epoch"] == 4
    cluster.run("scale", "5", "--wait")
    assert ring(cluster).member_named("local-default-4").number == 6
    cluster.run("scale", "3", "--wait")
    assert settled(cluster, 3)
    assert [node["pid"] for node in cluster.nodes()] == pids, "nobody was restarted"
    assert "local, pool default: 3 node(s), as before" in cluster.run("scale", "3")

    told = cluster.run("scale", "2", code=2)
    assert "2 node(s) are fewer than spec.quorum.replication, which is 3" in told
    assert "there is no pool 'big': the pools are default" in cluster.run(
        "scale", "3", "--pool", "big", code=2
    )
    assert settled(cluster, 3)


@only_stand_in
def test_a_leaver_is_shown_with_what_it_still_has_and_outlives_its_supervisor(
    cluster: Local,
) -> None:
    cluster.up("--replicas", "4")
    still_has(cluster, 3, {"records": 37, "hints": 2})
    cluster.run("scale", "3")
    wait = "wait until local-default-3 has handed over 37 partition(s) and 2 hint(s)"
    eventually(lambda: wait in cluster.status()["plan"])
    told = cluster.run("status")
    assert f"plan in progress:\n  > {wait}\n" in told
    assert "  - post the ring to local-default-0, local-default-1, local-default-2\n" in told
    assert "  - stop local-default-3 and delete its data\n" in told
    assert cluster.node(3)["state"] == "leaving"
    assert not cluster.status()["ring"]["settled"]

    os.kill(cluster.status()["supervisor"], signal.SIGKILL)
    eventually(lambda: cluster.status()["supervisor"] is None)
    cluster.up()
    eventually(lambda: wait in cluster.status()["plan"])
    assert cluster.node(3)["pid"]

    os.kill(cluster.node(3)["pid"], signal.SIGKILL)
    eventually(lambda: cluster.node(3)["ready"])
    still_has(cluster, 3, {"records": 1, "hints": 0})
    eventually(lambda: "handed over 1 partition(s)" in cluster.status()["plan"][0])
    assert data(cluster, 3).exists()
    still_has(cluster, 3, {})
    eventually(lambda: settled(cluster, 3))
    assert not data(cluster, 3).exists()
    assert "local-default-3 is removed; its data is deleted" in cluster.log()


@only_stand_in
def test_a_change_of_mind_keeps_the_leaver(cluster: Local) -> None:
    cluster.up("--replicas", "5")
    still_has(cluster, 4, {"records": 37})
    cluster.run("scale", "3")
    eventually(lambda: cluster.node(4)["state"] == "leaving")
    cluster.run("scale", "5", "--wait")
    assert [member.number for member in ring(cluster).members] == [1, 2, 3, 4, 5]
    assert "local-default-4 stays after all" in cluster.log()


@only_stand_in
def test_a_dead_leaver_is_waited_for_until_it_is_given_up(cluster: Local) -> None:
    cluster.up("--replicas", "4")
    assert "runs: only a node that is down" in cluster.run("give-up", "3", code=2)
    still_has(cluster, 3, {"records": 37})
    cluster.run("kill", "3")
    cluster.run("scale", "3")
    wait = (
        "wait until local-default-3 has handed over what it holds; "
        "waiting for word from local-default-3"
    )
    eventually(lambda: wait in cluster.status()["plan"])
    cluster.run("stop", "1")
    told = cluster.run("give-up", "3", code=2)
    assert "local-default-3 can't be given up while local-default-1 is down or recovering" in told
    cluster.run("start", "1")
    assert "local-default-3 is given up" in cluster.run("give-up", "3")
    eventually(lambda: settled(cluster, 3))
    assert data(cluster, 3).exists(), "only a person may delete it"
    assert [entry.event for entry in ring(cluster).history][-2:] == ["left", "given-up"]


def test_the_manifest_and_scale_edit_the_same_thing(cluster: Local) -> None:
    cluster.manifest(replicas=3)
    cluster.up("-f", "cluster.yaml")
    assert cluster.node(0)["http"].endswith(f":{cluster.port}")
    cluster.manifest(replicas=4)
    eventually(lambda: settled(cluster, 4))
    cluster.run("stop")
    told = cluster.run("scale", "5", "--wait")
    assert "from 4 to 5 node(s), once the cluster is up (`dynamo local up`)" in told
    cluster.up("-f", "cluster.yaml")  # the manifest was not edited since
    eventually(lambda: settled(cluster, 5))
    cluster.manifest(replicas=3, quorum={"r": 1})
    eventually(lambda: settled(cluster, 3))
    cluster.manifest(replicas=2, quorum={"r": 1})
    eventually(lambda: "the manifest has mistakes" in cluster.log())
    assert settled(cluster, 3)


def test_pools_come_change_and_go_and_their_data_stays_if_they_say_so(cluster: Local) -> None:
    pool = {
        "name": "big",
        "replicas": 1,
        "capacity": "2",
        "storage": {"size": "1Gi", "whenScaled": "Retain"},
    }
    cluster.manifest(pools=[pool])
    cluster.up("-f", "cluster.yaml")
    cluster.run("scale", "2", "--pool", "big", "--wait")
    assert sorted(names(cluster))[0:2] == ["big-0", "big-1"]
    cluster.manifest(pools=[{**pool, "capacity": "1"}])
    eventually(lambda: settled(cluster, 4))
    assert [member.capacity for member in ring(cluster).members] == ["1"] * 4
    big = cluster.path / ".dynamo/cart/nodes/cart-big-0"
    disk = (big / "data").stat().st_ino
    cluster.manifest()
    eventually(lambda: settled(cluster, 3))
    assert names(cluster) == ["default-0", "default-1", "default-2"]
    assert (big / "data").stat().st_ino == disk
