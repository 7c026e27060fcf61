"""Real nodes: a fourth one takes its part under load, a member leaves, minds are changed."""

import signal
from collections.abc import Callable
from typing import Any

from bench.ports import free_ports
from tests.node.node_load import Load
from tests.node.node_processes import Cluster, NodeProcess, until

from dynamo_core.placement import next_ring
from dynamo_core.ring import Ring

AT = "2026-01-02T00:00:00Z"


def _joined(cluster: Cluster) -> NodeProcess:
    """A fourth process, which has started and holds no ring."""
    first = cluster.nodes[0]
    quorum = {"quorum": first.settings["quorum"]}
    ports = free_ports(3)
    node = NodeProcess(
        cluster.folder, f"cart-default-{len(cluster.nodes)}", (ports[0], ports[1], ports[2]), quorum
    )
    cluster.extra.append(node)
    node.start()
    node.wait_up()
    return node


def _next(after: Ring, members: list[NodeProcess], **more: Any) -> Ring:
    return next_ring(after, [n.candidate() for n in members], AT, **more)


def _post(ring: Ring, nodes: list[NodeProcess]) -> None:
    for node in nodes:
        reply = node.admin("POST", "/admin/ring", ring.to_bytes())
        assert reply.status == 200, reply.body


def _settled(ring: Ring, nodes: list[NodeProcess]) -> bool:
    for node in nodes:
        status = node.status()
        facts = status["handover"]
        moves = facts["open_slots"] or facts["pulling"] or facts["sealed_to"]
        if moves or status["ring"] != {"epoch": ring.epoch, "id": ring.id}:
            return False
    return True


def test_scaling_up_and_down_under_load(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    assert cluster.ring is not None
    load = Load(cluster.nodes, tolerant=False)
    with load.running():
        until(lambda: len(load.acknowledged) >= 150 or load.failed, "150 writes", 60)
        new = _joined(cluster)
        everybody = [*cluster.nodes, new]
        grown = _next(cluster.ring, everybody)
        _post(grown, everybody)
        new.wait_ready()
        until(lambda: _settled(grown, everybody), "the slots have moved", 60)
        written = len(load.acknowledged)
        until(lambda: len(load.acknowledged) >= written + 50 or load.failed, "50 more", 60)
        report = new.admin("GET", "/admin/transfers").json
        leaver = cluster.nodes[0]
        shrunk = _next(grown, [*cluster.nodes[1:], new])
        _post(shrunk, everybody)
        until(lambda: _settled(shrunk, everybody), "the slots have moved again", 60)
        until(lambda: leaver.status()["handover"]["drained"], "the leaver is drained", 30)
        written = len(load.acknowledged)
        until(lambda: len(load.acknowledged) >= written + 50 or load.failed, "50 more", 60)
    assert load.failed == []
    moved = sum(len({*b} - {*a}) for a, b in zip(cluster.ring.slots, grown.slots, strict=True))
    since = report["since_start"]
    assert report["transfers"] == []
    assert since["partitions_taken_over"] == since["pauses"] == moved
    assert since["bytes"] > 0
    assert since["pause_seconds_max"] < 2.0, "this machine is shared"
    stay = [*cluster.nodes[1:], new]
    for node in stay:
        facts = node.status()["handover"]
        assert facts["held_by"] == {}
        view = node.http("GET", "/cluster").json
        assert view["transfers"] == []
        until(lambda node=node: node.http("GET", "/cluster").json["ring"]["settled"], "settled")
    assert not leaver.digest()
    leaver.signal(signal.SIGTERM)
    load.check_all(new)
    unclean = cluster.unclean_lines()
    assert not unclean, unclean[:5]


def test_a_successor_killed_in_the_middle_goes_on_where_it_was(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster()
    assert cluster.ring is not None
    load = Load(cluster.nodes, tolerant=True)
    with load.running():
        until(lambda: len(load.acknowledged) >= 200 or load.failed, "200 writes", 60)
        new = _joined(cluster)
        # Slow enough that it is in the middle when it is killed.
        new.kill()
        new.settings["limits"] = {"transferBytesPerSecondMax": 20_000}
        new.start()
        new.wait_up()
        everybody = [*cluster.nodes, new]
        grown = _next(cluster.ring, everybody)
        _post(grown, everybody)

        def seen() -> list[dict[str, Any]]:
            listed = cluster.nodes[0].http("GET", "/cluster").json["transfers"]
            return [t for t in listed if t["state"] != "waiting"]

        shown = until(seen, "a transfer that runs, at another node", 30)
        assert shown[0]["to"] == new.name
        assert shown[0]["from"] in {n.name for n in cluster.nodes}
        new.kill()
        assert not cluster.nodes[0].http("GET", "/cluster").json["ring"]["settled"]
        new.settings["limits"] = {}
        new.start()
        new.wait_ready()
        until(lambda: _settled(grown, everybody), "the slots have moved", 60)
    assert load.failed == []
    cluster.wait_hints_delivered()
    load.check_all(new)
