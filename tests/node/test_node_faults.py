"""Nodes killed, paused and stopped under load: no write fails, and afterwards all are equal."""

import time
from collections.abc import Callable

import pytest
from tests.node.node_load import Load
from tests.node.node_processes import Cluster, NodeProcess, until


@pytest.fixture(autouse=True)
def healed(cluster: Cluster) -> None:
    """Each test finds the cluster whole, whatever the one before did."""
    for node in cluster.nodes:
        if not node.alive:
            node.start()
        node.resume()
    cluster.wait_whole()


def _wait_writes(load: Load, more: int) -> None:
    wanted = len(load.acknowledged) + more
    until(lambda: len(load.acknowledged) >= wanted or load.failed, f"{more} more writes", 60)


def _hints(cluster: Cluster, target: str) -> int:
    return _live_hints([node for node in cluster.nodes if node.alive], target)


def _live_hints(nodes: list[NodeProcess], target: str) -> int:
    return sum(node.status()["hints_pending"].get(target, 0) for node in nodes)


def test_a_node_killed_under_load_costs_nobody_a_write(cluster: Cluster) -> None:
    first, second, victim = cluster.nodes
    load = Load(cluster.nodes, tolerant=True, prefix=b"kill")
    with load.running():
        _wait_writes(load, 100)
        victim.kill()
        _wait_writes(load, 200)
        until(lambda: _hints(cluster, victim.name) > 0, "hints for the dead node")
        victim.start()
        victim.wait_ready()
        _wait_writes(load, 100)
    assert load.failed == []
    cluster.wait_whole()
    cluster.wait_hints_delivered()
    for node in (first, second):
        # Said once the pass has ended, which paces itself: the last hint is gone before.
        said = f"all hints for {victim.name} are delivered"
        until(lambda node=node, said=said: said in node.log(), "it says so")
    for node in cluster.nodes:
        load.check_all(node)
    cluster.wait_equal()
    load.check_all(victim, r=1)


def test_a_paused_node_costs_nobody_a_write(cluster: Cluster) -> None:
    """It still accepts connections and answers nothing: silence, not refusal."""
    *others, victim = cluster.nodes
    load = Load(others, tolerant=False, prefix=b"pause")
    victim.pause()
    try:
        with load.running():
            _wait_writes(load, 200)
            until(lambda: others[0].peers()[victim.name] in ("suspect", "down"), "it is suspected")
            began = time.monotonic()
            _wait_writes(load, 50)
            assert time.monotonic() - began < 20
            until(lambda: _live_hints(others, victim.name) > 0, "hints for the silent node")
    finally:
        victim.resume()
    assert load.failed == []
    cluster.wait_whole()
    cluster.wait_hints_delivered()
    for node in cluster.nodes:
        load.check_all(node)
    cluster.wait_equal()


def test_sigterm_under_load_fails_no_request(make_cluster: Callable[..., Cluster]) -> None:
    made = make_cluster(timing={"drain_ms": 500})
    load = Load(made.nodes, tolerant=False, prefix=b"term")
    with load.running():
        for node in made.nodes[:2]:
            _wait_writes(load, 100)
            node.terminate()
            until(lambda node=node: not _is_ready(made, node.name), "it says that it leaves")
            assert node.wait_end() == 0
            _wait_writes(load, 100)
            node.start()
            made.wait_whole()
    assert load.failed == []
    made.wait_hints_delivered()
    for node in made.nodes:
        load.check_all(node)
    made.wait_equal()
    assert made.unclean_lines() == []


def _is_ready(cluster: Cluster, name: str) -> bool:
    [node] = [node for node in cluster.nodes if node.name == name]
    try:
        return node.http("GET", "/readyz").status == 200
    except OSError:
        return False


def test_two_of_three_down(cluster: Cluster) -> None:
    survivor, *others = cluster.nodes
    survivor.put(b"before", b"v", w=3)
    for node in others:
        node.kill()
    until(lambda: [survivor.peers()[n.name] for n in others], "both are down", wanted=["down"] * 2)
    began = time.monotonic()
    refused = survivor.put(b"two down", b"v")
    assert time.monotonic() - began < 2, "who is known to be down is not waited for"
    assert "may or may not exist" in refused.problem(503, "unavailable")
    assert (refused.json["needed"], refused.json["got"]) == (2, 1)
    unread = survivor.get(b"before")
    assert time.monotonic() - began < 4
    unread.problem(503, "unavailable")
    assert (unread.json["needed"], unread.json["got"]) == (2, 1)
    assert survivor.get(b"never written").status == 503, "absence needs R owners"
    # W=1 never rejects a write while one node lives, and R=1 reads it.
    written = survivor.put(b"two down", b"w", w=1)
    assert (written.status, written.acks) == (204, "primary=1, standin=0")
    assert survivor.get(b"before", r=1).body == b"v"
    assert b"w" in survivor.values(b"two down", r=1)
    assert _hints(cluster, others[0].name) >= 1
    assert survivor.delete(b"two down").status == 503
    for node in others:
        node.start()
    cluster.wait_whole()
    cluster.wait_hints_delivered()
    cluster.wait_equal()
    for node in cluster.nodes:
        assert b"w" in node.values(b"two down")


def test_two_of_three_silent(cluster: Cluster) -> None:
    """Nobody says no, so only the deadline ends it, and it does."""
    survivor, *others = cluster.nodes
    for node in others:
        node.pause()
    try:
        began = time.monotonic()
        refused = survivor.put(b"two silent", b"v", timeout_ms=400)
        refused.problem(503, "unavailable")
        assert (refused.json["needed"], refused.json["got"]) == (2, 1)
        survivor.get(b"two silent", timeout_ms=400).problem(503, "unavailable")
        assert survivor.put(b"two silent", b"w", w=1, timeout_ms=400).status == 204
        assert time.monotonic() - began < 6
    finally:
        for node in others:
            node.resume()
    cluster.wait_whole()
    cluster.wait_hints_delivered()
    assert b"w" in others[0].values(b"two silent")
    cluster.wait_equal()


def test_a_stand_in_keeps_the_hint_when_there_is_a_fourth_node(
    make_cluster: Callable[..., Cluster],
) -> None:
    """The write counts with the stand-in, a read finds it there, and the owner gets it back."""
    made = make_cluster(nodes=5)
    assert made.ring is not None
    key = b"sloppy"
    partition = made.nodes[0].replica(key)["partition"]
    order = [made.nodes[number - 1] for number in made.ring.preference_list(partition)]
    owners, others = order[:3], order[3:]
    for node in owners[1:]:
        node.kill()
    until(lambda: [owners[0].peers()[n.name] for n in owners[1:]], "down", wanted=["down"] * 2)
    written = owners[0].put(key, b"v", w=3)
    assert (written.status, written.acks) == (204, "primary=1, standin=2")
    until(
        lambda: sorted(n.status()["hints_pending"].get(o.name, 0) for n in others for o in owners),
        "one hint each",
        wanted=[0, 0, 0, 0, 1, 1],
    )
    # Through a node that is no owner, with the only owner that took it down as well.
    owners[0].kill()
    until(lambda: others[0].peers()[owners[0].name] == "down", "the last owner is down")
    assert others[0].get(key).body == b"v", "two stand-ins carry the value"
    others[0].get(b"never written").problem(503, "unavailable")
    again = others[1].put(key, b"w", others[1].get(key).context)
    assert (again.status, again.acks) == (204, "primary=0, standin=2")
    for node in owners:
        node.start()
    made.wait_whole()
    made.wait_hints_delivered()
    for node in made.nodes:
        assert node.get(key, again.context).body == b"w"
    for node in owners[1:]:
        assert [s["tombstone"] for s in node.replica(key)["siblings"]] == [False]
    made.wait_equal()
    assert made.unclean_lines() == []


def test_a_forwarded_write_is_coordinated_by_an_owner(
    make_cluster: Callable[..., Cluster],
) -> None:
    made = make_cluster(nodes=4)
    assert made.ring is not None
    for at in range(20):
        key = b"forward %d" % at
        partition = made.nodes[0].replica(key)["partition"]
        order = [made.nodes[number - 1] for number in made.ring.preference_list(partition)]
        outsider = order[3]
        written = outsider.put(key, b"v", w=3)
        assert (written.status, written.acks) == (204, "primary=3, standin=0")
        assert outsider.replica(key)["siblings"] == []
        assert outsider.get(key, written.context).body == b"v"
        assert outsider.put(key, b"w", written.context).status == 204
        assert outsider.delete(key).status == 204
    assert not any(node.status()["hints_pending"] for node in made.nodes)
