"""Disks that fill up, fail and come back under real nodes: visible, and nothing lost."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.node.disks import FAILING_ROCKSDB, SmallDisk, failing_disk, small_disk
from tests.node.node_load import Load
from tests.node.node_processes import Cluster, NodeProcess, until
from tests.node.prometheus_text import metric

EIO = "IO error: Input/output error: While fdatasync: 000008.log"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as found:
        yield found


@pytest.fixture
def form(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """A cluster whose first node has its data elsewhere, settings or a program of its own."""
    with ExitStack() as stack:

        def formed(nodes: int, first: dict[str, Any], program: str = "", **all_: Any) -> Cluster:
            if nodes == 1:
                all_["quorum"] = {"r": 1, "w": 1}
            made = Cluster(tmp_path, nodes, **all_)
            stack.callback(made.close)
            made.nodes[0].settings.update(first)
            if program:
                made.nodes[0].program = ("-c", program)
            made.start(min(3, nodes))
            return made

        yield formed


def _store(node: NodeProcess) -> dict[str, Any]:
    found: dict[str, Any] = node.status()["disk"]
    return found


def test_a_disk_that_fills_up_under_writes(form: Callable[..., Cluster], disk: SmallDisk) -> None:
    cluster = form(4, {"data_dir": str(disk.path / "data")})
    node, *others = cluster.nodes
    reserve = _store(node)["reserve_bytes"]
    assert reserve == 64 * (1 << 20) // 10, "a tenth of the disk"
    pid = node.status()["pid"]
    written: dict[bytes, bytes] = {}

    def write(many: int, size: int) -> None:
        for _ in range(many):
            at = len(written)
            key, value = b"k%d" % at, os.urandom(size)
            assert cluster.nodes[at % 4].put(key, value).status == 204
            written[key] = value

    write(20, 1000)
    disk.fill(reserve + (2 << 20))
    while _store(node)["state"] != "full":
        assert len(written) < 400
        write(4, 50_000)
    status = node.status()
    assert f"the reserve is {reserve}" in status["disk"]["reason"]
    assert status["ready"], "it reads, coordinates and forwards"
    own = next(n for n in node.http("GET", "/cluster").json["nodes"] if n["name"] == node.name)
    assert own["read_only"]
    left = disk.free_bytes()
    write(60, 20_000)
    # How much of the reserve is left depends on whether a log was just begun: RocksDB
    # allocates some megabytes for it at once. From then on nothing more is stored.
    assert left > 1 << 20
    assert disk.free_bytes() > left - (1 << 20), f"of {left} bytes"
    assert sum(sum(n.status()["hints_pending"].values()) for n in others) > 0, "stand-ins"
    disk.clear()
    until(lambda: _store(node)["state"], "it writes again", wanted="ok")
    write(20, 1000)
    cluster.wait_hints_delivered()
    cluster.wait_equal()
    for key, value in written.items():
        assert node.get(key).body == value
    assert node.status()["pid"] == pid
    assert cluster.unclean_lines() == []


def test_a_write_that_fails_ends_the_incarnation_and_not_the_process(
    form: Callable[..., Cluster], disk: SmallDisk
) -> None:
    """No reserve, as if others had eaten it: the write itself meets the end of the disk."""
    memory = {"memory_bytes": 16 << 20}
    first = {
        "data_dir": str(disk.path / "data"),
        "storage": {**memory, "reserve_bytes": 0},
    }
    cluster = form(4, first)
    node, other, *_ = cluster.nodes
    before = node.status()
    assert before["disk"]["reserve_bytes"] == 0, "as it was set"
    load = Load(cluster.nodes[1:], tolerant=False)
    with load.running(2):
        disk.fill()
        until(lambda: _store(node)["state"], "its disk has failed", wanted="failed")
        until(lambda: _store(node)["tries"] >= 2, "it is tried again")
        said = _store(node)["reason"]
        assert "No space left on device" in said
        for method, path in (("GET", "/readyz"), ("GET", "/cluster"), ("GET", "/kv/k")):
            reply = node.http(method, path)
            assert said in reply.problem(503, "overloaded")
            assert reply.headers["Retry-After"] == "1"
        detail = node.put(b"k", b"v").problem(503, "overloaded")
        assert "nothing was done" in detail
        assert "No space left" in detail
        assert node.http("GET", "/healthz").status == 200
        assert node.admin("GET", "/admin/digest").status == 503
        status = node.status()
        assert (status["state"], status["ready"], status["incarnation"]) == ("failed", False, "")
        assert [status[k] for k in ("disk_id", "ring", "number", "pid")] == [
            before[k] for k in ("disk_id", "ring", "number", "pid")
        ]
        until(lambda: other.peers()[node.name], "the others see it", wanted="down")
        # Now its file system is made read-only under it, and writable again.
        disk.remount("ro")
        until(lambda: "Read-only file system" in _store(node)["reason"], "it says so")
        disk.remount("rw")
        disk.clear()
        node.wait_ready()
        many = len(load.acknowledged)
        until(lambda: len(load.acknowledged) > many + 20, "writes go on")
    assert load.failed == []
    after = node.status()
    assert after["pid"] == before["pid"]
    assert after["disk_id"] == before["disk_id"]
    assert after["incarnation"] not in (before["incarnation"], "")
    cluster.wait_whole()
    cluster.wait_hints_delivered()
    cluster.wait_equal()
    load.check_all(node)
    cluster.assert_clean()


def test_a_drive_that_is_pulled_and_put_back(form: Callable[..., Cluster], tmp_path: Path) -> None:
    """EIO from the kernel for every access; then an empty folder where it was mounted."""
    with failing_disk(tmp_path / "drive") as drive:
        cluster = form(4, {"data_dir": str(drive.path / "data")})
        node = cluster.nodes[0]
        before = node.status()
        load = Load(cluster.nodes[1:], tolerant=False)
        with load.running(2):
            until(lambda: len(load.acknowledged) > 20, "writes")
            drive.fail()
            until(lambda: _store(node)["state"], "its disk has failed", wanted="failed")
            assert "Input/output error" in _store(node)["reason"]
            until(drive.unmount, "the node has let go of it")
            until(lambda: "is empty, and this process had" in _store(node)["reason"], "gone")
            assert not list(drive.path.iterdir()), "nothing is made where it was"
            assert drive.mount().returncode == 0
            node.wait_ready()
            many = len(load.acknowledged)
            until(lambda: len(load.acknowledged) > many + 20, "writes go on")
        assert load.failed == []
        after = node.status()
        assert [after[k] for k in ("pid", "disk_id")] == [before[k] for k in ("pid", "disk_id")]
        assert after["incarnation"] != before["incarnation"]
        cluster.wait_whole()
        cluster.wait_hints_delivered()
        cluster.wait_equal()
        load.check_all(node)
        assert cluster.unclean_lines() == []
        node.terminate()
        node.wait_end()


@pytest.mark.parametrize("durability", ["sync", "buffered"])
def test_a_sync_that_fails(form: Callable[..., Cluster], tmp_path: Path, durability: str) -> None:
    cluster = form(3, {}, FAILING_ROCKSDB, durability=durability)
    node = cluster.nodes[0]
    failing = tmp_path / f"{node.name}.failing"
    before = node.status()
    load = Load(cluster.nodes, tolerant=True)
    with load.running(2):
        until(lambda: len(load.acknowledged) > 20, "writes")
        failing.write_text(EIO)
        if durability == "buffered":  # nothing is synced for a plain write there
            node.repair()
        until(lambda: _store(node)["state"], "its disk has failed", wanted="failed")
        assert "Input/output error" in _store(node)["reason"]
        many = len(load.acknowledged)
        until(lambda: len(load.acknowledged) > many + 20, "writes go on")
        failing.unlink()
        node.wait_ready()
    after = node.status()
    assert after["pid"] == before["pid"]
    assert after["incarnation"] != before["incarnation"]
    recovers = "only buffered: recovering" in node.log()
    assert recovers == (durability == "buffered"), "what was only buffered may be gone"
    until(lambda: node.status()["state"], "it counts again", wanted="up")
    cluster.wait_whole()
    cluster.wait_hints_delivered()
    cluster.wait_equal()
    for each in cluster.nodes:
        load.check_all(each)
    assert cluster.unclean_lines() == []


def test_an_end_on_a_disk_that_fails(form: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = form(1, {}, FAILING_ROCKSDB)
    node = cluster.nodes[0]
    incarnation = node.status()["incarnation"]
    failing = tmp_path / f"{node.name}.failing"

    def stopped() -> str:
        node.terminate()
        assert node.wait_end() == 1
        return node.log().splitlines()[-1]

    failing.write_text(EIO)
    assert "Input/output error" in stopped()
    failing.unlink()
    node.start(node.program)
    node.wait_ready()
    assert node.status()["incarnation"] != incarnation, "that was no clean end"
    failing.write_text(EIO)
    node.put(b"k", b"v")
    until(lambda: _store(node)["state"], "its disk has failed", wanted="failed")
    assert "ended without a store" in stopped()
    assert cluster.unclean_lines() == []


def test_a_start_on_a_disk_that_does_not_work_waits_for_it(
    form: Callable[..., Cluster], disk: SmallDisk
) -> None:
    cluster = form(1, {"data_dir": str(disk.path / "data")})
    node = cluster.nodes[0]
    assert node.put(b"k", b"v").status == 204
    for what in ("ro", "full"):
        node.kill()
        if what == "ro":
            disk.remount("ro")
        else:
            disk.fill()
        node.start()
        assert node.wait_up()["state"] == "failed"
        reason = _store(node)["reason"]
        assert ("Read-only file system" if what == "ro" else "No space left") in reason
        assert node.status()["disk_id"] is None, "it hasn't seen its disk"
        assert reason in node.http("GET", "/readyz").problem(503, "overloaded")
        assert metric(node, "dynamo_node_state", state="failed") == 1
        if what == "ro":
            disk.remount("rw")
        else:
            disk.clear()
        node.wait_ready()
    assert node.get(b"k", r=1).body == b"v"
    node.kill()
    disk.remount("ro")
    node.start()
    node.wait_up()
    began = time.monotonic()
    node.terminate()
    assert node.wait_end() == 1
    assert time.monotonic() - began < 2, "it doesn't wait for the next try"
    assert "Read-only file system" in node.log().splitlines()[-1]
    disk.remount("rw")
    node.start()
    node.wait_ready()
    assert node.get(b"k").body == b"v"
    assert cluster.unclean_lines() == []


# Damage


def _damage(path: Path) -> None:
    """A block in the middle of the largest table isn't what was written."""
    table = max(path.glob("db/*.sst"), key=lambda found: found.stat().st_size)
    data = bytearray(table.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    table.write_bytes(data)


def test_a_log_that_lacks_what_was_acknowledged_makes_its_node_recover(
    form: Callable[..., Cluster],
) -> None:
    cluster = form(3, {})
    node, other, _ = cluster.nodes
    values = {b"k%d" % at: os.urandom(700) for at in range(60)}
    for key, value in values.items():
        assert other.put(key, value, w=3).status == 204
    node.kill()
    log = max(Path(node.settings["data_dir"]).glob("db/*.log"), key=lambda f: f.stat().st_size)
    with log.open("r+b") as file:
        file.seek(log.stat().st_size // 2)
        file.write(b"\xff" * 100)
    node.start()
    node.wait_up()
    assert "lacks writes that were synced: recovering" in node.log()
    until(lambda: node.status()["state"], "it is rebuilt", wanted="up")
    cluster.wait_whole()
    cluster.wait_equal()
    for key, value in values.items():
        assert node.get(key, r=1).body == value
    node.kill()
    node.start()
    node.wait_ready()
    assert node.log().count("lacks writes") == 1, "that is over"
    assert node.status()["state"] == "up"
    assert cluster.unclean_lines() == []


@pytest.mark.parametrize("when", ["met at the start", "met in use"])
def test_a_damaged_disk_is_told_and_replaced(form: Callable[..., Cluster], when: str) -> None:
    """It serves nothing, the others serve all, and an empty disk in its place is rebuilt."""
    cluster = form(3, {})
    node, other, _ = cluster.nodes
    data = Path(node.settings["data_dir"])
    values = {b"k%d" % at: os.urandom(700) for at in range(150)}
    for key, value in values.items():
        assert other.put(key, value, w=3).status == 204
    node.terminate()  # what is in the log becomes a table at the next opening
    assert node.wait_end() == 0
    node.start()
    node.wait_ready()
    node.terminate()
    assert node.wait_end() == 0
    if when == "met in use":
        _damage(data)
    else:
        max(data.glob("db/*.sst"), key=lambda found: found.stat().st_size).unlink()
    node.start()
    node.wait_up()

    def failed() -> bool:
        if _store(node)["state"] != "failed":
            node.admin("GET", "/admin/digest?verify=1")
        return _store(node)["state"] == "failed"

    until(failed, "it meets the damage")
    said = _store(node)
    assert "it is damaged" in said["reason"]
    assert ".sst" in said["reason"]
    assert f"stop the node, move {data} away and start it again" in said["reason"]
    assert said["tried_again"] == (when == "met at the start")
    assert said["reason"] in node.http("GET", "/readyz").problem(503, "overloaded")
    for key, value in values.items():
        assert other.get(key).body == value
    pid = node.status()["pid"]
    node.terminate()
    assert node.wait_end() == 1
    data.rename(data.with_name("away"))
    node.start()
    node.wait_ready()
    assert node.status()["pid"] != pid
    until(lambda: node.status()["state"], "it is rebuilt", wanted="up")
    cluster.wait_whole()
    cluster.wait_equal()
    for key, value in values.items():
        assert node.get(key, r=1).body == value
    assert cluster.unclean_lines() == []
