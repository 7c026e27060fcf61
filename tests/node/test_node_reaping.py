"""Reaping with real processes: a deleted key's record goes everywhere and stays away."""

from collections.abc import Callable
from typing import Any

from tests.node.node_processes import Cluster, NodeProcess, until

FAST = {"timing": {"reap_delay_ms": 200}}


def _gone(node: NodeProcess, key: bytes) -> bool:
    shown = node.replica(key)
    return not shown["siblings"] and not shown["clock"]["vector"] and not shown["clock"]["dots"]


def _tombstones(node: NodeProcess) -> list[dict[str, Any]]:
    return node.admin("GET", "/admin/tombstones").json["partitions"]


def _write_and_delete(node: NodeProcess, key: bytes) -> str:
    context = node.put(key, b"v").context
    return node.delete(key, context=context).context


def test_a_deleted_keys_record_goes_everywhere_and_stays_away(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(**FAST)
    cluster.wait_whole()
    nodes = cluster.nodes
    keys = [b"k%d" % i for i in range(20)]
    for key in keys:
        _write_and_delete(nodes[0], key)
    nodes[0].put(b"stays", b"v")
    until(lambda: all(_gone(n, k) for n in nodes for k in keys), "every record is reaped", 30.0)
    until(lambda: all(n.status()["keys"] == 1 for n in nodes), "the count of keys falls")
    until(lambda: not any(_tombstones(n) for n in nodes), "nothing is left to be reaped")
    for node in nodes:
        node.kill()
        node.start()
        node.wait_ready()
    cluster.wait_whole()
    assert all(n.get(k).status == 404 for n in nodes for k in keys)
    assert all(_gone(n, k) for n in nodes for k in keys)
    assert nodes[1].values(b"stays") == {b"v"}
    # What is written after the reaping isn't covered by what was reaped.
    assert nodes[2].put(keys[0], b"again").status == 204
    assert nodes[1].values(keys[0]) == {b"again"}


def test_schedule_24_a_context_outlives_the_reaping_of_its_key(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(**FAST)
    cluster.wait_whole()
    nodes = cluster.nodes
    context = _write_and_delete(nodes[0], b"k")
    until(lambda: all(_gone(n, b"k") for n in nodes), "the record is reaped", 30.0)
    assert all(node.get(b"k", context=context).status == 404 for node in nodes)


def test_a_node_that_is_down_blocks_reaping_and_the_admin_port_names_it(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(nodes=4, **FAST)
    cluster.wait_whole()
    nodes = cluster.nodes
    away = nodes[3]
    away.kill()
    until(lambda: nodes[0].peers()[away.name] == "down", "the others notice")
    keys = [b"k%d" % i for i in range(20)]
    for key in keys:
        _write_and_delete(nodes[0], key)

    def blamed() -> bool:
        rows = [row for n in nodes[:3] for row in _tombstones(n)]
        return any(b["node"] == away.name for row in rows for b in row["blocked_by"])

    until(blamed, "the node that is down is named")
    assert not any(_gone(n, k) for n in nodes[:3] for k in keys if n.replica(k)["owner"])
    away.start()
    until(lambda: all(_gone(n, k) for n in nodes for k in keys), "all is reaped then", 40.0)
