"""Gossip between real nodes: states, figures and the history reach everybody and survive."""

from collections.abc import Callable
from typing import Any

from tests.node.node_processes import Cluster, NodeProcess, until


def _seen(node: NodeProcess, name: str) -> dict[str, Any]:
    found: dict[str, Any]
    [found] = [n for n in node.http("GET", "/cluster").json["nodes"] if n["name"] == name]
    return found


def _starts(node: NodeProcess) -> dict[str, set[str]]:
    events = node.admin("GET", "/admin/history").json["events"]
    started: dict[str, set[str]] = {}
    for event in events:
        if event["event"] == "started":
            started.setdefault(event["node"], set()).add(event["incarnation"])
    return started


def test_what_a_node_says_reaches_the_others_and_the_history_survives(
    make_cluster: Callable[..., Cluster],
) -> None:
    made = make_cluster(timing={"drain_ms": 1500})
    first, second, victim = made.nodes
    names = {node.name for node in made.nodes}
    for at in range(5):
        assert first.put(b"%d" % at, b"v", w=3).status == 204
    until(lambda: all(_starts(node).keys() == names for node in made.nodes), "all starts are known")
    history = first.admin("GET", "/admin/history").json
    assert [act["event"] for act in history["ring"]] == ["created"] * 3
    assert {e["event"] for e in history["events"]} == {"started", "joined"}
    until(lambda: _seen(first, victim.name)["keys"], "its keys are told", wanted=5)

    before = victim.status()["incarnation"]
    victim.terminate()
    until(lambda: _seen(second, victim.name)["state"], "it says so", wanted="leaving")
    assert victim.wait_end() == 0
    until(lambda: first.peers()[victim.name], "nobody reaches it", wanted="down")
    victim.start()
    victim.wait_ready()
    victim.kill()
    victim.start()
    made.wait_whole()
    after = victim.status()["incarnation"]
    assert after != before
    until(
        lambda: all({before, after} <= _starts(n)[victim.name] for n in made.nodes),
        "both of its incarnations are in everybody's history",
    )
    # All at once: nobody is left who could tell, so it comes from the disks.
    for node in made.nodes:
        node.kill()
    first.start()
    first.wait_up()
    assert {before, after} <= _starts(first)[victim.name]
    assert made.unclean_lines() == []
