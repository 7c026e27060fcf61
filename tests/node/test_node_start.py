"""Starting and stopping: bad settings, foreign disks, incarnations, and what survives."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bench.ports import free_ports
from tests.node.node_processes import (
    CLUSTER_ID,
    Cluster,
    NodeProcess,
    until,
)

from dynamo_core.errors import CallerError
from dynamo_core.placement import Candidate, first_ring
from dynamo_node.config import parse
from dynamo_node.config_files import load


def _node(folder: Path, name: str = "solo", **settings: Any) -> NodeProcess:
    ports = free_ports(3)
    return NodeProcess(folder, name, (ports[0], ports[1], ports[2]), settings)


def _refused(node: NodeProcess) -> str:
    """Start it, expect exit 2 with one line on stderr; returns that line."""
    node.config_path.write_text(json.dumps(node.settings))
    done = subprocess.run(
        [sys.executable, "-m", "dynamo_node", "--config", str(node.config_path)],
        capture_output=True,
        timeout=30,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("dynamo-node: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


# Settings


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"http_port": "8080"}, "http_port: '8080'; a whole number in 1..65535 is needed"),
        ({"http_port": 70_000}, "http_port: 70000"),
        ({"quorum": {"r": 0}}, "quorum.r: 0; a whole number in 1..255"),
        ({"quorum": {"R": 1}}, "quorum.R: not a setting; known here: r, w"),
        ({"durability": "maybe"}, "durability: 'maybe'; one of sync, buffered is needed"),
        ({"keys": []}, "keys: []; a list with at least one key"),
        ({"keys": [{"id": 1, "secret": "5ec4e7"}]}, "keys[0].secret: a text; 64 hexadecimal"),
        ({"cluster": {"name": "c", "id": "xyz"}}, "cluster.id: 'xyz'; 32 hexadecimal digits"),
        ({"host": "0.0.0.0"}, "admin needs a bearer token there"),
        ({"nmae": "x"}, "nmae: not a setting"),
        ({"node": []}, "node: []; an object is needed"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(CallerError) as refused:
        parse(_node(tmp_path, **settings).settings)
    assert why in str(refused.value)
    assert "5ec4e7" not in str(refused.value), "secrets are not printed"


def test_all_mistakes_are_told_at_once_in_one_line(tmp_path: Path) -> None:
    said = _refused(_node(tmp_path, http_port=0, durability="x", quorum={"w": "two"}))
    assert all(name in said for name in ("http_port", "durability", "quorum.w"))
    assert not (tmp_path / "solo").exists(), "nothing was made"


@pytest.mark.parametrize(
    ("text", "why"), [("", "not valid JSON"), ("[]", "an object is needed"), (None, "No such file")]
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str | None, why: str) -> None:
    path = tmp_path / "node.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CallerError, match=why) as refused:
        load([path])
    assert str(refused.value).startswith(f"{path}: ")


# Disks and ports


def test_a_disk_of_another_cluster_or_node_is_refused_and_left_alone(
    make_cluster: Callable[..., Cluster],
) -> None:
    made = make_cluster(nodes=1, replication=1)
    [node] = made.nodes
    assert node.put(b"k", b"v", w=1).status == 204
    taken = _node(made.folder, "second", data_dir=node.settings["data_dir"])
    assert "can't be opened" in _refused(taken), "two processes never share a disk"
    node.terminate()
    assert node.wait_end() == 0
    other_name = _node(made.folder, "other", data_dir=node.settings["data_dir"])
    assert "the disk of node 'cart-default-0', but this is 'other'" in _refused(other_name)
    other_cluster = _node(
        made.folder,
        node.name + "-x",
        data_dir=node.settings["data_dir"],
        cluster={"name": "cart", "id": "12" * 16},
    )
    assert f"is a disk of cluster {CLUSTER_ID}" in _refused(other_cluster)
    node.start()
    node.wait_ready()
    assert node.get(b"k", r=1).body == b"v"


def test_a_port_in_use_is_named(make_cluster: Callable[..., Cluster]) -> None:
    made = make_cluster(nodes=1, replication=1)
    [running] = made.nodes
    for setting, port in (
        ("http_port", running.http_port),
        ("native_port", running.native_port),
        ("admin_port", running.admin_port),
    ):
        said = _refused(_node(made.folder, "late", **{setting: port}))
        assert f"port {port} on 127.0.0.1: " in said
        assert "address already in use" in said.lower()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    said = _refused(_node(tmp_path, data_dir=str(tmp_path / "file" / "below")))
    assert "data_dir" in said


def test_logs_as_json(make_cluster: Callable[..., Cluster]) -> None:
    made = make_cluster(nodes=1, replication=1, log={"format": "json"})
    [node] = made.nodes
    node.terminate()
    assert node.wait_end() == 0
    lines = [json.loads(line) for line in node.log().splitlines()]
    assert all(set(line) >= {"at", "level", "node", "message"} for line in lines)
    assert {line["node"] for line in lines} == {node.name}
    assert lines[-1]["message"] == "stopped"


# Incarnations


def test_incarnations_go_on_only_when_peers_confirm(make_cluster: Callable[..., Cluster]) -> None:
    made = make_cluster()
    node, peer, third = made.nodes
    first = node.status()["incarnation"]

    def restart(cleanly: bool) -> str:
        if cleanly:
            node.terminate()
            assert node.wait_end() == 0
        else:
            node.kill()
        node.start()
        node.wait_ready()
        return str(node.status()["incarnation"])

    # A clean stop, confirmed by a majority of the others: the same incarnation.
    node.put(b"a", b"v", w=3)
    assert restart(cleanly=True) == first
    made.wait_whole()
    # A crash: a new one. And the marker of the clean stop before is used up.
    second = restart(cleanly=False)
    assert second != first
    made.wait_whole()
    # A clean stop that nobody can confirm in time: a new one, and no long wait.
    peer.pause()
    third_one = restart(cleanly=True)
    assert third_one not in (first, second)
    assert "was not confirmed by the peers" in node.log()
    peer.resume()
    made.wait_whole()
    assert node.put(b"a", b"w", node.get(b"a").context, w=3).status == 204
    assert third.get(b"a").body == b"w"


def test_schedule_3_a_volume_rolled_back_to_a_snapshot(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """Its dots were issued already, so it must not go on with that incarnation."""
    made = make_cluster()
    node, *others = made.nodes
    context = node.put(b"k", b"before", w=3).context
    old = node.status()["incarnation"]
    node.terminate()
    node.wait_end()
    data, snapshot = Path(node.settings["data_dir"]), tmp_path / "snapshot"
    shutil.copytree(data, snapshot)
    node.start()
    node.wait_ready()
    made.wait_whole()
    assert node.status()["incarnation"] == old, "a clean stop goes on"
    context = node.put(b"k", b"after", context, w=3).context
    blind = [b"blind %d" % at for at in range(5)]
    for value in blind:
        node.put(value, value, w=3)
    node.terminate()
    node.wait_end()
    shutil.rmtree(data)
    shutil.copytree(snapshot, data)
    node.start()
    node.wait_ready()
    made.wait_whole()
    assert node.status()["incarnation"] != old
    node.put(b"k", b"concurrent")
    for value in blind:
        node.put(value, b"again", w=3)
    for other in (node, *others):
        assert other.values(b"k", r=3) == {b"after", b"concurrent"}
        for value in blind:
            assert other.values(value, r=3) == {value, b"again"}


# What survives


def test_a_full_stop_and_start_loses_nothing(make_cluster: Callable[..., Cluster]) -> None:
    made = make_cluster()
    values = {b"key %d" % at: b"value %d" % at * 50 for at in range(150)}
    contexts = {}
    for at, (key, value) in enumerate(values.items()):
        contexts[key] = made.nodes[at % 3].put(key, value).context
    made.nodes[0].put(b"sibling", b"left")
    made.nodes[1].put(b"sibling", b"right")
    made.nodes[0].delete(b"key 7", contexts[b"key 7"])
    gone = values.pop(b"key 7")
    for node in made.nodes:
        node.terminate()
    assert [node.wait_end() for node in made.nodes] == [0, 0, 0]
    counts = []
    for node in made.nodes:
        node.start()
    made.wait_whole()
    for node in made.nodes:
        for key, value in values.items():
            assert node.get(key, contexts[key]).body == value
        assert node.values(b"sibling") == {b"left", b"right"}
        assert node.get(b"key 7").status == 404, gone
        counts.append(until(lambda node=node: node.status()["keys"], "keys are counted"))
    assert counts == [151] * 3
    made.wait_equal()
    assert made.unclean_lines() == []


@pytest.mark.parametrize("durability", ["sync", "buffered"])
def test_killing_all_at_once_loses_nothing_that_was_acknowledged(
    make_cluster: Callable[..., Cluster], durability: str
) -> None:
    """A process crash: both durabilities keep what they said; a power cut is another matter."""
    made = make_cluster(durability=durability)
    values = {b"key %d" % at: b"value %d" % at for at in range(100)}
    for at, (key, value) in enumerate(values.items()):
        assert made.nodes[at % 3].put(key, value).status == 204
    for node in made.nodes:
        node.kill()
    for node in made.nodes:
        node.start()
    made.wait_whole()
    for node in made.nodes:
        for key, value in values.items():
            assert node.get(key).body == value
    made.wait_hints_delivered()
    made.wait_equal()


def test_a_wiped_disk_abstains_from_reads_and_takes_writes_until_it_is_rebuilt(
    make_cluster: Callable[..., Cluster],
) -> None:
    made = make_cluster()
    node, *others = made.nodes
    others[0].put(b"k", b"v", w=3)
    node.kill()
    shutil.rmtree(node.settings["data_dir"])
    others[0].kill()  # one copy alone can't tell what was acknowledged
    node.start()
    node.wait_up()
    until(lambda: node.status()["ring"], "it learns the ring from its peers")
    node.wait_ready()
    made_up = node.status()
    assert made_up["state"] == "recovering"
    until(lambda: others[1].peers()[node.name], "the others see it", wanted="recovering")
    # It coordinates, but never says that something isn't there.
    node.get(b"nothing").problem(503, "unavailable")
    assert node.get(b"k", r=1).body == b"v"
    assert node.put(b"new", b"v").status == 204
    others[0].start()
    until(lambda: node.status()["state"], "it is rebuilt", wanted="up")
    assert node.get(b"nothing").status == 404


# Schedules 18 and 19

_BEHIND = (
    "import time; ns, s = time.time_ns, time.time; "
    "time.time_ns = lambda: ns() - 30_000_000_000; time.time = lambda: s() - 30.0; "
    "from dynamo_node.main import main; main()"
)


def test_schedule_18_a_clock_that_is_30_seconds_behind(
    make_cluster: Callable[..., Cluster],
) -> None:
    """Deadlines travel as what remains of them, so clocks need not agree."""
    made = make_cluster()
    slow, right, _ = made.nodes
    slow.terminate()
    slow.wait_end()
    slow.start(("-c", _BEHIND))
    made.wait_whole()
    for at in range(20):
        key = b"clock %d" % at
        first = slow.put(key, b"by the slow one", w=3, timeout_ms=2000)
        assert first.status == 204, first.body
        second = right.put(key, b"by the right one", first.context, w=3, timeout_ms=2000)
        assert second.status == 204
        assert slow.get(key, second.context, r=3, timeout_ms=2000).body == b"by the right one"
        third = slow.put(key, b"slow again", second.context, w=3, timeout_ms=2000)
        # Causality decides, whatever the wall clocks said.
        assert right.get(key, third.context, r=3, timeout_ms=2000).body == b"slow again"
    left, right_clock = b"left", b"right"
    slow.put(b"written at", left, w=3)
    right.put(b"written at", right_clock, w=3)
    times = [
        datetime.fromisoformat(sibling["written_at"])
        for sibling in right.replica(b"written at")["siblings"]
    ]
    assert max(times) - min(times) > timedelta(seconds=25), "its clock is behind indeed"
    assert made.unclean_lines() == []
    assert set(right.peers().values()) == {"up"}


def test_schedule_19_address_of_another_cluster(
    make_cluster: Callable[..., Cluster],
) -> None:
    """The address of a node that died now belongs to somebody else: no write lands there."""
    made = make_cluster()
    caller, dead, _ = made.nodes
    ports = (dead.http_port, dead.native_port, dead.admin_port)
    dead.kill()
    until(lambda: caller.peers()[dead.name] == "down", "it is down")

    foreign = {"cluster": {"name": "shop", "id": "12" * 16}}
    strangers = [
        ("shop-default-0", foreign, f"is of cluster {'12' * 16}"),
        # Even one of the same name and key, after a copy of the manifest.
        (dead.name + "-twin", {**foreign, "node": {"name": dead.name}}, "is of cluster"),
        ("cart-default-7", {}, "is node 'cart-default-7'"),
    ]
    for name, settings, refusal in strangers:
        stranger = NodeProcess(made.folder, name, ports, settings)
        made.extra.append(stranger)
        stranger.start()
        stranger.wait_up()
        until(lambda stranger=stranger: "refused" in stranger.log(), "it was called, and refused")
        until(lambda refusal=refusal: refusal in caller.log(), f"refused: {refusal}")
        for at in range(20):
            written = caller.put(b"%s %d" % (name.encode(), at), b"v")
            assert (written.status, written.acks) == (204, "primary=2, standin=0")
        refused = caller.put(b"w=3 %s" % name.encode(), b"v", w=3)
        assert (refused.status, refused.json["got"]) == (503, 2)
        assert caller.peers()[dead.name] == "down"
        status = stranger.status()
        assert (status["keys"], status["ring"]) == (0, None), "nothing landed there"
        stranger.kill()
    dead.start()
    made.wait_whole()
    made.wait_hints_delivered()
    made.wait_equal()
    assert dead.status()["keys"] == caller.status()["keys"]
    assert made.unclean_lines() == []


def test_schedule_19_a_caller_of_another_cluster(make_cluster: Callable[..., Cluster]) -> None:
    """The other way round: its ring has an address that is now ours, and its writes stay out."""
    made = make_cluster()
    ours = made.nodes[0]
    stranger = _node(made.folder, "shop-default-0", cluster={"name": "shop", "id": "12" * 16})
    made.extra.append(stranger)
    stranger.start()
    members = [
        Candidate(
            "shop-default-0",
            "",
            "1",
            "127.0.0.1",
            stranger.http_port,
            stranger.native_port,
            stranger.admin_port,
            stranger.wait_up()["disk_id"],
        ),
        Candidate("shop-default-1", "", "1", "127.0.0.1", 1, ours.native_port, 2, "34" * 16),
    ]
    ring = first_ring("12" * 16, "shop", members, 2, 16, "2026-01-01T00:00:00Z")
    assert stranger.admin("POST", "/admin/ring", ring.to_bytes()).status == 200
    stranger.wait_ready()
    until(lambda: f"is of cluster {CLUSTER_ID}" in stranger.log(), "it is told why")
    assert f"this node is of cluster {CLUSTER_ID}, not of {'12' * 16}" in ours.log()
    refused = stranger.put(b"k", b"v", w=2)
    assert (refused.status, refused.json["got"]) == (503, 1)
    assert stranger.put(b"k", b"v", w=1).status == 204
    assert stranger.status()["hints_pending"] == {"shop-default-1": 1}
    for node in made.nodes:
        assert node.replica(b"k")["siblings"] == []
        assert node.status()["keys"] == 0
    assert made.unclean_lines() == []
