"""`dynamo local` from outside: real processes, a stand-in for the node (fake_node.py).

DYNAMO_TEST_REAL_NODE=1 runs the same tests against the real node.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from tests.operator.local_clusters import DEADLINE_SECONDS, Local, eventually

from dynamo_operator.local import processes


def test_a_cluster_comes_up_is_hurt_goes_on_and_is_wiped(cluster: Local) -> None:
    told = cluster.up()
    assert "local-default-0" in told
    assert f"http://127.0.0.1:{cluster.port + 2}" in told
    assert f"curl -X PUT --data 'hello' http://127.0.0.1:{cluster.port}/kv/greeting" in told
    status = cluster.status()
    assert (status["phase"], status["ring"]["epoch"]) == ("running", 1)
    assert [node["state"] for node in status["nodes"]] == ["ready"] * 3
    assert status["nodes"][1]["native"] == f"127.0.0.1:{cluster.port - 1000 + 1}"
    assert status["nodes"][1]["admin"] == f"http://127.0.0.1:{cluster.port + 1000 + 1}"
    identity = cluster.path / ".dynamo/local/identity.json"
    assert identity.stat().st_mode & 0o777 == 0o600

    assert "local-default-1 killed" in cluster.run("kill", "1")
    eventually(lambda: "local-default-1 is down by `dynamo local kill`" in cluster.log())
    assert cluster.node(1)["state"] == "killed"
    assert "local-default-1 is ready" in cluster.run("start", "default-1")

    assert "stopped" in cluster.run("stop", "local-default-2")
    assert cluster.node(2)["state"] == "stopped"
    cluster.run("start", "2")

    cluster.run("pause", "0")
    assert cluster.node(0)["state"] == "paused"
    assert "resumed" in cluster.run("resume", "0")
    eventually(lambda: cluster.node(0)["ready"])

    assert "is running already" in cluster.up()
    assert "there is no node '7': the nodes are local-default-0" in cluster.run("kill", "7", code=2)

    old = cluster.status()
    assert "local: 3 node(s) stopped" in cluster.run("stop")
    cluster.run("status", code=3)
    assert "the cluster is not running" in cluster.run("start", "0", code=3)
    cluster.up()
    new = cluster.status()
    assert (new["cluster_id"], new["ring"]) == (old["cluster_id"], old["ring"])

    (cluster.path / ".dynamo/local/state.json.4711.new").touch()  # by somebody who was killed
    assert "deleted" in cluster.run("down", "--wipe")
    assert not (cluster.path / ".dynamo").exists()
    assert "there is no local cluster" in cluster.run("status", code=2)


def test_a_node_that_dies_comes_back_by_itself(cluster: Local) -> None:
    cluster.up()
    pid = cluster.node(1)["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: cluster.node(1)["ready"] and cluster.node(1)["pid"] != pid)
    assert "local-default-1 died (SIGKILL); starts again in 0.5 s" in cluster.log()
    eventually(lambda: "local-default-1 is ready" in cluster.log())


def test_nodes_outlive_their_supervisor_and_the_next_one_takes_them_over(cluster: Local) -> None:
    cluster.up()
    status = cluster.status()
    os.kill(status["supervisor"], signal.SIGKILL)
    eventually(lambda: cluster.status()["supervisor"] is None)
    assert "not supervised" in cluster.run("status")
    cluster.up()
    again = cluster.status()
    assert [node["pid"] for node in again["nodes"]] == [node["pid"] for node in status["nodes"]]
    os.kill(again["nodes"][0]["pid"], signal.SIGKILL)
    eventually(lambda: cluster.node(0)["ready"])
    os.kill(cluster.status()["supervisor"], signal.SIGKILL)
    eventually(lambda: cluster.status()["supervisor"] is None)
    assert "3 node(s) stopped" in cluster.run("stop")


def test_edits_of_the_manifest_are_carried_out_or_refused_with_the_reason(cluster: Local) -> None:
    cluster.manifest()
    child = cluster.open("-f", "cluster.yaml")
    eventually(lambda: "stop all nodes: Ctrl-C" in cluster.output())
    pids = {node["pid"] for node in cluster.status()["nodes"]}

    cluster.manifest(ring={"partitions": 16})
    refused = "edit refused: spec.ring.partitions can't be changed from 256 to 16"
    eventually(lambda: refused in cluster.output())
    assert cluster.status()["refusals"]
    cluster.manifest(quorum={"r": "1"})
    eventually(lambda: 'spec.quorum.r is "1" (a string): it must be an integer' in cluster.output())
    assert {node["pid"] for node in cluster.status()["nodes"]} == pids

    cluster.manifest(quorum={"r": 1}, limits={"siblingsMax": 7})
    eventually(lambda: cluster.output().count("has its new settings") == 3)
    assert {node["pid"] for node in cluster.status()["nodes"]} == pids, "nobody was restarted"

    cluster.manifest(quorum={"r": 1}, limits={"siblingsMax": 7}, durability="buffered")
    eventually(lambda: not pids & {node["pid"] for node in cluster.status()["nodes"]})
    eventually(lambda: all(node["ready"] for node in cluster.status()["nodes"]))
    config = json.loads(
        (cluster.path / ".dynamo/cart/nodes/cart-default-2/config.json").read_text()
    )
    assert config["quorum"] == {"r": 1, "w": 2}
    assert config["limits"]["siblingsMax"] == 7
    assert cluster.output().count("restarts with its new settings") == 3

    # Another `up` hands over a changed manifest and waits until it is carried out.
    cluster.manifest(quorum={"r": 3})
    cluster.run("up", "-f", "cluster.yaml", "--port", str(cluster.port))
    config = json.loads(
        (cluster.path / ".dynamo/cart/nodes/cart-default-0/config.json").read_text()
    )
    assert (config["quorum"], config["durability"]) == ({"r": 3, "w": 2}, "sync")

    child.send_signal(signal.SIGINT)
    assert child.wait(DEADLINE_SECONDS) == 0
    assert "stopping 3 node(s) (Ctrl-C again to stop at once)" in cluster.output()
    assert "`dynamo local up -f cluster.yaml` goes on with it" in cluster.output()
    assert not any(node["pid"] for node in cluster.status()["nodes"])


def test_a_second_signal_stops_at_once(cluster: Local) -> None:
    child = cluster.open()
    eventually(lambda: "stop all nodes: Ctrl-C" in cluster.output())
    pid = cluster.node(0)["pid"]
    os.kill(pid, signal.SIGSTOP)  # it won't hear a SIGTERM until it is let go on
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    eventually(lambda: "stopping 3 node(s)" in cluster.output())
    child.send_signal(signal.SIGTERM)
    assert child.wait(DEADLINE_SECONDS) == 0
    assert time.monotonic() - began < 5
    assert not any(node["pid"] for node in cluster.status()["nodes"])


def test_signals_that_come_after_the_end_change_nothing(cluster: Local) -> None:
    child = cluster.open()
    eventually(lambda: "stop all nodes: Ctrl-C" in cluster.output())

    deadline = time.monotonic() + DEADLINE_SECONDS
    while child.poll() is None:
        assert time.monotonic() < deadline
        child.send_signal(signal.SIGTERM)
        time.sleep(0.001)  # so often that some come at its very end
    assert child.returncode == 0
    assert "local is stopped; its data stays" in cluster.output()


def test_a_busy_port_is_named_before_anything_starts(cluster: Local) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", cluster.port + 1001))
        other.listen()
        told = cluster.up(code=2)
    assert f"port {cluster.port + 1001} (admin of local-default-1) on 127.0.0.1 is in use" in told
    assert not (cluster.path / ".dynamo").exists()


def test_a_node_that_cannot_start_fails_a_new_cluster_with_its_own_words(cluster: Local) -> None:
    broken = cluster.path / ".dynamo/local/nodes/local-default-1/data"
    cluster.up()
    cluster.run("stop")
    (broken.parent / "broken").touch()
    if os.environ.get("DYNAMO_TEST_REAL_NODE"):
        pytest.skip("only the stand-in can be broken so")
    # An existing cluster goes on with the nodes that it has.
    told = cluster.up()
    assert "local-default-1" in told
    assert "the disk smells of smoke" in cluster.log()
    assert [node["ready"] for node in cluster.status()["nodes"]] == [True, False, True]
    cluster.run("stop")
    # Without a ring there is nothing to go on with.
    folder = cluster.path / ".dynamo/local"
    for name in ("ring.json", "accepted.json"):
        (folder / name).unlink()
    for disk in folder.glob("nodes/*/data/ring.json"):
        disk.unlink()
    told = cluster.up(code=3)
    assert "local-default-1 does not get ready" in told
    assert "the disk smells of smoke" in told
    assert not any(node["pid"] for node in cluster.status()["nodes"])


def test_a_lost_ring_file_is_taken_back_from_the_nodes(cluster: Local) -> None:
    cluster.up()
    ring = cluster.status()["ring"]
    cluster.run("stop")
    (cluster.path / ".dynamo/local/ring.json").unlink()
    cluster.up()
    assert cluster.status()["ring"] == ring
    assert "the ring file was lost: took epoch 1" in cluster.log()


def test_only_our_own_folder_is_used_or_wiped(cluster: Local) -> None:
    mine = cluster.path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    assert "is no data folder of ours" in cluster.up("--data", "mine", code=2)
    assert "is no data folder of a local cluster" in cluster.run(
        "down", "--wipe", "--data", "mine", code=2
    )
    data = cluster.path / "data"
    cluster.up("--data", "data")
    (data / "notes.txt").write_text("keep me")
    assert "other files stay" in cluster.run("down", "--wipe", "--data", "data")
    assert [path.name for path in data.iterdir()] == ["notes.txt"]
    assert (mine / "thesis.txt").exists()


def test_mistakes_are_told_before_anything_is_made(cluster: Local) -> None:
    cluster.manifest(replica=3, quorum={"r": 9})
    told = cluster.up("-f", "cluster.yaml", code=2)
    assert "cluster.yaml:1: spec.replica is no known field: did you mean replicas?" in told
    assert "spec.quorum.r is 9: it must be between 1 and spec.quorum.replication" in told
    cluster.manifest(security={"tls": {"mode": "Operator"}})
    told = cluster.up("-f", "cluster.yaml", code=2)
    assert "spec.security.tls.mode is Operator: this version has no TLS yet" in told
    assert "No such file" in cluster.up("-f", "nothing.yaml", code=2)
    assert not (cluster.path / ".dynamo").exists()


def test_a_paused_spec_starts_nothing(cluster: Local) -> None:
    cluster.manifest(paused=True)
    cluster.up("-f", "cluster.yaml")
    assert "nothing is started or changed" in cluster.log()
    assert "the manifest says paused" in cluster.run("scale", "5", code=2)
    assert not any(node["pid"] for node in cluster.status()["nodes"])
    cluster.manifest(paused=False)
    eventually(lambda: all(node["ready"] for node in cluster.status()["nodes"]))


def test_a_recycled_process_id_is_never_signalled() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        known = processes.identify(child.pid)
        assert known is not None
        stranger = processes.Process(child.pid, "another start")
        assert not processes.alive(stranger)
        assert not processes.send(stranger, signal.SIGKILL)
        assert processes.alive(known)
        assert processes.send(known, signal.SIGKILL)
        child.wait()
        assert not processes.alive(known)
        assert not processes.send(known, signal.SIGKILL)
