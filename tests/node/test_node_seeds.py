"""Seeds: a node without a ring asks them, and no restart order splits the ring."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench.ports import free_ports
from tests.node.node_processes import Cluster, NodeProcess, until

from dynamo_core.errors import CallerError
from dynamo_node.config import parse


def _seed(node: NodeProcess) -> dict[str, Any]:
    return {"name": node.name, "host": "127.0.0.1", "native_port": node.native_port}


def _ring(node: NodeProcess) -> Any:
    return node.status()["ring"]


@pytest.mark.parametrize(
    ("seeds", "why"),
    [
        ({}, "seeds: {}; a list is needed"),
        ([{"name": "a", "host": "h"}], "seeds[0].native_port: missing"),
        ([{"name": "a", "host": "h", "native_port": 0}], "seeds[0].native_port: 0; a whole number"),
        ([{"name": "a", "host": "", "native_port": 1, "x": 1}], "seeds[0].x: not a setting"),
    ],
)
def test_a_wrong_seed_is_named(tmp_path: Path, seeds: object, why: str) -> None:
    node = NodeProcess(tmp_path, "a", (1, 2, 3), {"seeds": seeds})
    with pytest.raises(CallerError) as refused:
        parse(node.settings)
    assert why in str(refused.value)


def test_a_wiped_disk_learns_the_ring_from_a_seed_that_comes_late(
    make_cluster: Callable[..., Cluster],
) -> None:
    made = make_cluster()
    victim, late, other = made.nodes
    for node in made.nodes:
        node.terminate()
        assert node.wait_end() == 0
    shutil.rmtree(victim.settings["data_dir"])
    victim.settings["seeds"] = [_seed(late), _seed(victim)]
    victim.start()
    assert victim.wait_up()["ring"] is None
    until(lambda: "no ring here: asking" in victim.log(), "it asks")
    late.start()
    until(lambda: _ring(victim), "it has the ring")
    other.start()
    until(
        lambda: [n.wait_up()["ring"] for n in (victim, late, other)],
        "one ring",
        wanted=[_ring(late)] * 3,
    )
    assert made.unclean_lines() == []


def test_a_node_that_the_ring_does_not_name_says_so_and_waits(
    make_cluster: Callable[..., Cluster],
) -> None:
    made = make_cluster(nodes=1, replication=1)
    ports = free_ports(3)
    stranger = NodeProcess(
        made.folder, "stranger", (ports[0], ports[1], ports[2]), {"seeds": [_seed(made.nodes[0])]}
    )
    made.extra.append(stranger)
    stranger.start()
    until(lambda: "has no member 'stranger'" in stranger.log(), "it says why")
    status = stranger.wait_up()
    assert (status["ring"], status["state"], status["ready"]) == (None, "waiting", False)
    assert stranger.alive
    assert made.unclean_lines() == []


@pytest.mark.parametrize("seed", [1, 2])
def test_no_restart_order_splits_the_ring(make_cluster: Callable[..., Cluster], seed: int) -> None:
    """All end and start in random orders, one of them on an empty disk."""
    rng = random.Random(seed)
    made = make_cluster()
    ring = _ring(made.nodes[0])
    for node in made.nodes:
        node.settings["seeds"] = [_seed(peer) for peer in made.nodes if peer is not node]
    for node in rng.sample(made.nodes, 3):
        node.kill()
    shutil.rmtree(rng.choice(made.nodes).settings["data_dir"])
    for node in rng.sample(made.nodes, 3):
        node.start()
        if rng.random() < 0.5:
            node.wait_up()
    until(lambda: [n.wait_up()["ring"] for n in made.nodes], "one ring", wanted=[ring] * 3)
    assert made.unclean_lines() == []
