"""Lost disks with real nodes: what was acknowledged comes back; before, nobody says "absent"."""

import shutil
from collections.abc import Callable

from tests.node.node_processes import Cluster, NodeProcess, until

KEYS = [b"key-%d" % n for n in range(60)]


def _wipe(node: NodeProcess) -> None:
    node.kill()
    shutil.rmtree(node.settings["data_dir"])


def _up(node: NodeProcess) -> None:
    until(lambda: node.status()["state"], f"{node.name} counts again", wanted="up")


def _given_ring(made: Cluster, node: NodeProcess) -> None:
    """Nobody is left who could tell it: its publisher posts the ring again."""
    assert made.ring is not None
    node.wait_up()
    assert node.admin("POST", "/admin/ring", made.ring.to_bytes()).status == 200


def test_a_wiped_node_rebuilds_itself_and_serves(make_cluster: Callable[..., Cluster]) -> None:
    made = make_cluster()
    node, *others = made.nodes
    for key in KEYS:
        assert others[0].put(key, b"v-" + key, w=3).status == 204
    _wipe(node)
    for key in KEYS[:10]:
        assert others[1].put(key, b"new", others[1].get(key).context).status == 204
    node.start()
    node.wait_ready()
    _up(node)
    assert node.status()["possible_losses"] == []
    made.wait_hints_delivered()
    made.wait_equal()
    others[0].kill()
    for number, key in enumerate(KEYS):
        assert node.get(key).body == (b"new" if number < 10 else b"v-" + key)
    assert node.get(b"nothing").status == 404
    # It stays complete: the disk remembers that it was rebuilt.
    node.kill()
    node.start()
    node.wait_ready()
    assert node.status()["state"] == "up"


def test_schedule_12_two_of_three_disks_wiped(make_cluster: Callable[..., Cluster]) -> None:
    made = make_cluster()
    first, second, third = made.nodes
    for key in KEYS:
        assert first.put(key, b"v-" + key, w=3).status == 204
    for node in (second, third):
        _wipe(node)
    first.kill()
    for node in (second, third):
        node.start()
    for node in (second, third):
        _given_ring(made, node)
        node.wait_ready()
        assert node.status()["state"] == "recovering"
    second.get(KEYS[0]).problem(503, "unavailable")
    second.get(b"nothing", r=1).problem(503, "unavailable")
    assert second.put(b"meanwhile", b"v").status == 204
    first.start()
    first.wait_ready()
    for node in (second, third):
        _up(node)
        assert node.status()["possible_losses"] == sorted(range(16)), "too few complete copies"
    made.wait_hints_delivered()
    made.wait_equal()
    for key in KEYS:
        assert third.get(key).body == b"v-" + key
    assert first.get(b"meanwhile").body == b"v"


def test_schedule_23_all_disks_wiped_serve_only_after_a_persons_word(
    make_cluster: Callable[..., Cluster],
) -> None:
    made = make_cluster()
    made.nodes[0].put(KEYS[0], b"v", w=3)
    for node in made.nodes:
        _wipe(node)
    for node in made.nodes:
        node.start()
    for node in made.nodes:
        _given_ring(made, node)
    for node in made.nodes:
        node.wait_ready()
        assert node.status()["state"] == "recovering"
    node, *others = made.nodes
    assert node.put(b"new", b"v").status == 204
    node.get(KEYS[0]).problem(503, "unavailable")

    def accept_loss_is_asked() -> bool:
        return "accept-loss" in " ".join(node.status()["recovery"].get("waits_for", ()))

    until(accept_loss_is_asked, "it says what it waits for")
    path = "/admin/partitions/{}/accept-loss"
    node.admin("POST", path.format(16)).problem(400, "bad-request")
    node.admin("POST", path.format("x")).problem(400, "bad-request")
    for partition in range(16):
        assert node.admin("POST", path.format(partition)).json["counts"] is True
    node.admin("POST", path.format(3)).problem(409, "not-recovering")
    for other in others:
        _up(other)
    assert node.get(KEYS[0]).status == 404
    assert others[0].get(b"new").body == b"v"


def test_a_copy_that_a_full_disk_refused_does_not_count(
    make_cluster: Callable[..., Cluster],
) -> None:
    made = make_cluster()
    node, other, _ = made.nodes
    for key in KEYS:
        assert other.put(key, b"v-" + key, w=3).status == 204
    _wipe(node)
    storage = node.settings["storage"]
    node.settings["storage"] = {**storage, "reserve_bytes": 1 << 50}
    node.start()
    node.wait_ready()
    until(lambda: node.log().count("can't be recovered now"), "it has tried to rebuild")
    assert node.status()["state"] == "recovering"
    assert node.status()["recovery"]["partitions_left"] > 0
    node.kill()
    node.settings["storage"] = storage
    node.start()
    node.wait_ready()
    _up(node)
    made.wait_equal()


def test_all_nodes_that_start_empty_for_the_first_time_are_complete(
    make_cluster: Callable[..., Cluster],
) -> None:
    made = make_cluster()
    assert {node.status()["state"] for node in made.nodes} == {"up"}
    assert made.nodes[0].get(b"nothing").status == 404
