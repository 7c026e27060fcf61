"""The admin door: status, rings with parents, this replica's own view, and the token."""

import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from bench.ports import free_ports
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.node.node_processes import CLUSTER_ID, Cluster, NodeProcess, until

from dynamo_core.ring import Ring


@pytest.fixture
def ring(cluster: Cluster) -> Ring:
    assert cluster.ring is not None
    return cluster.ring


def test_status(cluster: Cluster, ring: Ring) -> None:
    for at, node in enumerate(cluster.nodes):
        status = node.status()
        assert node.process is not None
        assert status.pop("uptime_seconds") > 0
        assert len(status.pop("incarnation")) == 16
        assert isinstance(status.pop("keys"), int)
        assert status.pop("antientropy")["repaired_keys_total"] == 0
        assert 0 < status.pop("background_share")["share"] <= 1
        handover = status.pop("handover")
        assert handover.pop("records") > 0
        assert handover == {
            "open_slots": 0,
            "held_by": {},
            "pulling": 0,
            "hints": 0,
            "sealed_to": {},
            "drained": False,
        }
        assert not status.pop("tracing")["on"]
        disk = status.pop("disk")
        assert disk["state"] == "ok"
        assert disk["free_bytes"] > disk["reserve_bytes"]
        assert 0 <= disk["stored_bytes"] < 10_000_000
        assert status == {
            "cluster_id": CLUSTER_ID,
            "cluster_name": "cart",
            "name": node.name,
            "number": at + 1,
            "disk_id": ring.members[at].disk_id,
            "ring": {"epoch": 1, "id": ring.id},
            "state": "up",
            "ready": True,
            "version": "0.1.0",
            "feature_levels": [1, 1],
            "hints_pending": {},
            "recovery": {},
            "possible_losses": [],
            "durability": "sync",
            "quorum": {"n": 3, "r": 2, "w": 2},
            "settings": {
                "quorum": {"r": 2, "w": 2},
                "limits": {
                    "valueBytesMax": 1 << 20,
                    "siblingsMax": 100,
                    "objectBytesMax": 8 << 20,
                    "transferBytesPerSecondMax": 0,
                },
                "tracing": {"endpoint": "", "sampleRatio": 0.01},
            },
            "pid": node.process.pid,
        }


def test_a_node_waits_for_its_first_ring(cluster: Cluster) -> None:
    ports = free_ports(3)
    node = NodeProcess(cluster.folder, "loner", (ports[0], ports[1], ports[2]), {})
    cluster.extra.append(node)
    node.start()
    status = node.wait_up()
    assert (status["ring"], status["number"], status["state"], status["ready"]) == (
        None,
        None,
        "waiting",
        False,
    )
    assert node.http("GET", "/healthz").status == 200
    node.http("GET", "/readyz").problem(503, "overloaded")
    refused = node.put(b"k", b"v")
    assert "no ring yet" in refused.problem(503, "overloaded")
    assert refused.headers["Retry-After"] == "1"
    assert "post the first one" in node.admin("GET", "/admin/ring").problem(404, "not-found")
    for path in ("/admin/digest", "/admin/replica/k", "/admin/keys?partition=0"):
        node.admin("GET", path).problem(503, "overloaded")
    assert node.http("GET", "/cluster").json["nodes"] == []
    # A ring without this node, or of another cluster, is not its ring.
    assert cluster.ring is not None
    reply = node.admin("POST", "/admin/ring", cluster.ring.to_bytes())
    assert "no member 'loner'" in reply.problem(400, "bad-request")
    foreign = replace(cluster.ring, cluster_id="12" * 16)
    reply = node.admin("POST", "/admin/ring", foreign.to_bytes())
    assert "of cluster 1212" in reply.problem(400, "bad-request")
    node.kill()


def test_the_ring_is_given_and_taken_again(cluster: Cluster, ring: Ring) -> None:
    for node in cluster.nodes:
        held = node.admin("GET", "/admin/ring")
        assert Ring.from_json(held.json) == ring
        again = node.admin("POST", "/admin/ring", ring.to_bytes())
        assert (again.status, again.json) == (200, {"epoch": 1, "id": ring.id})


def test_a_ring_with_another_parent_gets_409_with_the_ring_that_is_held(
    cluster: Cluster, ring: Ring
) -> None:
    for parent in ("", "ee" * 16):
        other = replace(ring, epoch=2 if parent else 1, parent=parent, cluster_name="other")
        reply = cluster.nodes[0].admin("POST", "/admin/ring", other.to_bytes())
        assert ring.id in reply.problem(409, "ring-conflict")
        assert Ring.from_json(reply.json["ring"]) == ring
    assert cluster.nodes[0].status()["ring"] == {"epoch": 1, "id": ring.id}


def test_a_child_that_is_not_younger_is_refused_not_ignored(
    make_cluster: Callable[..., Cluster],
) -> None:
    """200 would tell the publisher that it is in force."""
    made = make_cluster(nodes=1, replication=1)
    node, first = made.nodes[0], made.ring
    assert first is not None
    second = replace(first, epoch=2, parent=first.id)
    assert node.admin("POST", "/admin/ring", second.to_bytes()).status == 200
    for name in ("a", "b", "c"):  # whichever id is higher
        twin = replace(second, parent=second.id, cluster_name=name)
        reply = node.admin("POST", "/admin/ring", twin.to_bytes())
        assert "must be above 2" in reply.problem(400, "bad-request")
    assert node.status()["ring"] == {"epoch": 2, "id": second.id}


def test_a_ring_that_cannot_be_served_or_changes_what_is_fixed_is_refused(
    make_cluster: Callable[..., Cluster],
) -> None:
    made = make_cluster(nodes=1, replication=1)
    node, first = made.nodes[0], made.ring
    assert first is not None
    row = first.owners[0]
    wider = replace(
        first, epoch=2, parent=first.id, partitions=32, owners=(row,) * 32, slots=((row,),) * 32
    )
    reply = node.admin("POST", "/admin/ring", wider.to_bytes())
    assert "fixed for life at 16" in reply.problem(400, "bad-request")
    more = replace(first, epoch=2, parent=first.id, replication=3)
    reply = node.admin("POST", "/admin/ring", more.to_bytes())
    assert "fixed for life at 1" in reply.problem(400, "bad-request")

    folder = made.folder / "greedy"
    folder.mkdir()
    greedy = Cluster(folder, 1, quorum={"r": 1, "w": 2})
    made.extra += greedy.nodes
    lone = greedy.nodes[0]
    lone.start()
    member = replace(
        first.members[0],
        disk_id=lone.wait_up()["disk_id"],
        http_port=lone.http_port,
        native_port=lone.native_port,
        admin_port=lone.admin_port,
    )
    reply = lone.admin("POST", "/admin/ring", replace(first, members=(member,)).to_bytes())
    assert "quorum.w is 2; it must be within 1..1" in reply.problem(400, "bad-request")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_hostile_rings_are_400(cluster: Cluster, ring: Ring, data: st.DataObject) -> None:
    # A wrong parent, so that what happens to be a ring all the same changes nothing.
    good: dict[str, Any] = replace(ring, epoch=2, parent="ee" * 16).to_json()
    good.pop("id")
    field = data.draw(st.sampled_from(sorted(good)))
    bad = {**good, field: data.draw(JSON)}
    body = data.draw(st.sampled_from([json.dumps(bad).encode(), data.draw(st.binary(max_size=40))]))
    node = cluster.nodes[0]
    reply = node.admin("POST", "/admin/ring", body)
    assert reply.status in (400, 409), reply
    assert node.status()["ring"] == {"epoch": 1, "id": ring.id}


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[" * 100_000, b"1" * 5000, b"\xff", b"{}"])
def test_bodies_that_are_no_ring_are_400(cluster: Cluster, body: bytes) -> None:
    cluster.nodes[0].admin("POST", "/admin/ring", body).problem(400, "bad-request")


def test_a_replicas_own_view(cluster: Cluster) -> None:
    name = b"view/\xff?%"
    node = cluster.nodes[0]
    nothing = node.replica(name)
    assert (nothing["clock"], nothing["siblings"]) == ({"vector": {}, "dots": []}, [])
    written = node.http("PUT", "/kv/view%2F%FF%3F%25", b"\x00v", Content_Type="x/y")
    for each in cluster.nodes:  # W=2 answered; the third follows
        view = each.replica(name)
        if not view["siblings"]:
            continue
        [sibling] = view["siblings"]
        assert b64decode(view["key_base64"]) == name
        assert view["owner"] is True
        assert (b64decode(sibling["value"]), sibling["tombstone"]) == (b"\x00v", False)
        assert sibling["content_type"] == "x/y"
        assert sibling["written_at"].endswith("Z")
        [(actor, counter)] = view["clock"]["vector"].items()
        assert sibling["dot"] == f"{actor}:{counter}"
    assert node.put(name, b"with that context", node.replica(name)["context"]).status == 204
    assert node.get(name).body == b"with that context"
    node.delete(name, written.context)


def test_the_digest_names_every_partition_and_changes_with_a_write(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    before = node.digest()
    assert sorted(map(int, before)) == list(range(16))
    assert all(len(root) == 32 for root in before.values())
    node.put(b"digest", b"v", w=3)
    after = node.digest()
    partition = str(node.replica(b"digest")["partition"])
    assert {p for p in before if before[p] != after[p]} == {partition}
    cluster.wait_equal()


def test_keys_of_a_partition_in_pages(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    names = {b"page %d \xff" % at for at in range(30)}
    for name in names:
        node.put(name, b"v", w=3)
    found = []
    for partition in range(16):
        after = ""
        while True:
            path = f"/admin/keys?partition={partition}&limit=1&after={after}"
            page = node.admin("GET", path).json
            found += [b64decode(key) for key in page["keys"]]
            if page["next"] is None:
                break
            after = page["next"]
    assert names <= set(found)
    assert len(found) == len(set(found))
    for query in (
        "",
        "partition=16",
        "partition=x",
        "partition=0&limit=0",
        "partition=0&after=?",
        "partition=1&after=AAAA",
    ):
        node.admin("GET", f"/admin/keys?{query}").problem(400, "bad-request")


def test_admin_paths_and_methods_that_do_not_exist(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    for path in ("/", "/kv/x", "/admin", "/admin/", "/admin/replica/", "/admin/statu%73/x"):
        node.admin("GET", path).problem(404, "not-found")
    reply = node.admin("DELETE", "/admin/ring")
    reply.problem(405, "method-not-allowed")
    assert set(reply.headers["Allow"].split(", ")) >= {"GET", "POST"}


def test_a_token_guards_every_admin_path(make_cluster: Callable[..., Cluster]) -> None:
    """The harness speaks without a token, so this ring is posted by hand."""
    ports = free_ports(3)
    made = make_cluster(nodes=1, replication=1)
    node = NodeProcess(
        made.folder, "guarded", (ports[0], ports[1], ports[2]), {"admin_token": "s3cret é"}
    )
    made.extra.append(node)
    node.start()

    def answers() -> int | None:
        try:
            return node.admin("GET", "/admin/status").status
        except OSError:
            return None

    until(answers, "admin answers")
    for path in ("/admin/status", "/admin/ring", "/admin/digest", "/admin/replica/k", "/nothing"):
        for given_token in ("", "Bearer", "Bearer ", "Bearer wrong", "Basic s3cret", "s3cret"):
            headers = {"Authorization": given_token} if given_token else {}
            node.admin("GET", path, **headers).problem(401, "unauthorized")
    node.admin("POST", "/admin/ring", b"{}").problem(401, "unauthorized")
    right = "Bearer s3cret é".encode().decode("latin-1")
    assert node.admin("GET", "/admin/status", Authorization=right).status == 200
    assert node.http("GET", "/healthz").status == 200, "clients need no token"
