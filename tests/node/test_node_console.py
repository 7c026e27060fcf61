"""The console's questions over plain HTTP, against three real nodes (N/R/W 3/2/2)."""

import subprocess
import sys
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zipfile import ZipFile

import pytest
from tests.node.node_processes import Cluster, Connection, NodeProcess, until

from dynamo_node import console

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = b"<script>alert(1)</script>\xff"


def look(cluster: Cluster, key: bytes, query: str = "", node: int = 0) -> Any:
    reply = cluster.nodes[node].http("GET", f"/ui/key?key={quote(key, safe='')}{query}")
    assert reply.status == 200, reply.body
    return reply.json


# The page


@pytest.mark.parametrize("path", ["/ui", "/ui?x=1", "/ui/console.js", "/ui/console.css"])
def test_the_page_is_served_with_a_strict_policy_and_a_tag(cluster: Cluster, path: str) -> None:
    node = cluster.nodes[0]
    reply = node.http("GET", path)
    assert (reply.status, bool(reply.body)) == (200, True)
    policy = reply.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    again = node.http("GET", path, If_None_Match=reply.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    assert node.http("GET", path, If_None_Match='"other"').status == 200
    head = node.http("HEAD", path)
    assert (head.status, head.body) == (200, b"")


def test_nothing_in_the_page_is_inline_or_from_elsewhere(cluster: Cluster) -> None:
    page = cluster.nodes[0].http("GET", "/ui").body.decode()
    assert "<style" not in page
    assert "style=" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert " on" not in "".join(part.split(">")[0] for part in page.split("<")[1:] if "=" in part)


def test_the_path_with_a_slash_leads_to_the_one_without(cluster: Cluster) -> None:
    reply = cluster.nodes[0].http("GET", "/ui/")
    assert (reply.status, reply.headers["Location"]) == (308, "../ui")


@pytest.mark.parametrize("path", ["/ui/none", "/ui/../main.py", "/ui/%2e%2e/main.py", "/ui/ui/a"])
def test_there_is_nothing_else_below_the_page(cluster: Cluster, path: str) -> None:
    assert "console.js" in cluster.nodes[0].http("GET", path).problem(404, "not-found")
    cluster.nodes[0].http("GET", "/uix").problem(404, "not-found")


@pytest.mark.parametrize("path", ["/ui", "/ui/state", "/ui/key?key=a"])
def test_the_console_only_reads(cluster: Cluster, path: str) -> None:
    cluster.nodes[0].http("POST", path, b"x").problem(405, "method-not-allowed")


def test_the_wheel_holds_the_page(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    packed = {n for n in ZipFile(wheel).namelist() if n.startswith("dynamo_node/ui/")}
    assert packed == {f"dynamo_node/ui/{path.name}" for path in console.FILES.iterdir()}
    assert {path.suffix for path in console.FILES.iterdir()} <= set(console.TYPES)


# State and ring


def test_the_state_tells_of_every_node(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    state = until(
        lambda: (
            (s := node.http("GET", "/ui/state").json)
            and all(n["figures"] for n in s["nodes"])
            and s
        ),
        "all have told their figures",
    )
    assert state["node"] == node.name
    assert state["quorum"] == {"r": 2, "w": 2}
    assert [n["name"] for n in state["nodes"]] == [n.name for n in cluster.nodes]
    for shown in state["nodes"]:
        assert shown["state"] == "up"
        assert shown["figures"]["disk"]["free_bytes"] > 0
        assert shown["figures"]["uptime_seconds"] > 0
        assert shown["stored_percent"] == pytest.approx(33.33, abs=0.01)
        assert shown["target_percent"] == pytest.approx(33.33, abs=0.01)
    assert (state["moves"], state["moves_total"]) == ([], 0)


def test_the_ring_comes_once_for_each_epoch(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    reply = node.http("GET", "/ui/ring")
    assert cluster.ring is not None
    assert reply.json["slots"] == [list(row) for row in cluster.ring.slots]
    assert reply.json["owners"] == list(cluster.ring.owners)
    assert node.http("GET", "/ui/ring", If_None_Match=reply.headers["ETag"]).status == 304


def test_a_partition_tells_its_preference_list(cluster: Cluster) -> None:
    assert cluster.ring is not None
    found = cluster.nodes[0].http("GET", "/ui/partition?number=5").json
    names = {m.number: m.name for m in cluster.ring.members}
    assert found["preference"] == [names[n] for n in cluster.ring.preference_list(5)]
    assert sorted(found["holders"]) == sorted(names.values())


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("/ui/state?x=1", "'x'"),
        ("/ui/partition", "number"),
        ("/ui/partition?number=-1", "0..15"),
        ("/ui/partition?number=16", "0..15"),
        ("/ui/partition?number=1&number=2", "twice"),
        ("/ui/key", "name one key"),
        ("/ui/key?key=a&key_hex=61", "name one key"),
        ("/ui/key?key=", "empty"),
        ("/ui/key?key=%zz", "key holds a '%'"),
        ("/ui/key?key_hex=6", "key_hex is '6'"),
        ("/ui/key?key_hex=xx", "hex digits"),
        ("/ui/key?key_base64=!", "key_base64"),
        ("/ui/key?key=a&bytes=x", "bytes is 'x'"),
        ("/ui/key?key=a&bytes=99999999", "0..65536"),
    ],
)
def test_bad_questions_say_what_is_wrong(cluster: Cluster, query: str, named: str) -> None:
    assert named in cluster.nodes[0].http("GET", query).problem(400, "bad-request")


def test_a_key_that_is_too_long_is_named(cluster: Cluster) -> None:
    detail = cluster.nodes[0].http("GET", "/ui/key?key=" + "k" * 1025).problem(413, "too-large")
    assert "1025" in detail


# The inspector


def test_every_replica_tells_what_it_has(cluster: Cluster, key: bytes) -> None:
    cluster.nodes[0].put(key, b"one", w=3)
    found = look(cluster, key)
    assert found["key"]["hex"] == key.hex()
    assert {r["state"] for r in found["replicas"]} == {"present"}
    assert all(r["counts"] and r["role"] == "holder" for r in found["replicas"])
    [version] = found["versions"]
    assert (b64decode(version["value"]), version["bytes"], version["stands"]) == (b"one", 3, True)
    assert version["dot"] == cluster.nodes[1].replica(key)["siblings"][0]["dot"]


def test_siblings_stand_beside_each_other_and_a_delete_is_a_tombstone(
    cluster: Cluster, key: bytes
) -> None:
    cluster.nodes[0].put(key, b"a", w=3)
    cluster.nodes[1].put(key, b"b", w=3)
    found = look(cluster, key)
    assert {b64decode(v["value"]) for v in found["versions"] if v["stands"]} == {b"a", b"b"}
    context = cluster.nodes[0].get(key).context
    cluster.nodes[0].delete(key, context, w=3)
    found = look(cluster, key, node=2)
    assert {r["state"] for r in found["replicas"]} == {"tombstone"}
    assert [v["tombstone"] for v in found["versions"]] == [True]
    assert {r["state"] for r in look(cluster, b"nobody wrote this")["replicas"]} == {"absent"}


@pytest.mark.parametrize("form", ["key", "key_hex", "key_base64"])
def test_a_key_is_named_in_three_forms(cluster: Cluster, form: str) -> None:
    cluster.nodes[0].put(HOSTILE, HOSTILE, w=3)
    written = {
        "key": quote(HOSTILE, safe=""),
        "key_hex": HOSTILE.hex(),
        "key_base64": quote(b64encode(HOSTILE), safe=""),
    }[form]
    found = cluster.nodes[0].http("GET", f"/ui/key?{form}={written}").json
    assert found["key"] == {
        "text": None,
        "hex": HOSTILE.hex(),
        "base64": b64encode(HOSTILE).decode(),
        "percent": quote(HOSTILE, safe=""),
    }
    assert b64decode(found["versions"][0]["value"]) == HOSTILE


def test_long_values_are_cut(cluster: Cluster, key: bytes) -> None:
    cluster.nodes[0].put(key, b"x" * 100_000, w=3)
    [version] = look(cluster, key)["versions"]
    assert (len(b64decode(version["value"])), version["bytes"]) == (16 << 10, 100_000)
    [version] = look(cluster, key, "&bytes=0")["versions"]
    assert (version["value"], version["bytes"]) == ("", 100_000)


def test_so_many_keys_are_looked_at_together_and_no_more(cluster: Cluster, key: bytes) -> None:
    """A peer that says nothing holds each look for a second."""
    cluster.nodes[0].put(key, b"v", w=3)
    cluster.nodes[2].pause()
    asked = [Connection(cluster.nodes[0].http_port) for _ in range(2 * console.LOOKS_MAX)]
    try:
        with ThreadPoolExecutor(len(asked)) as threads:
            path = f"/ui/key?key={quote(key, safe='')}"
            replies = list(threads.map(lambda one: one.ask("GET", path), asked))
    finally:
        cluster.nodes[2].resume()
        for one in asked:
            one.close()
    assert {reply.status for reply in replies} == {200, 503}
    for reply in replies:
        states = [r["state"] for r in reply.json.get("replicas", [])]
        assert reply.status == 503 or sorted(states) == ["present", "present", "unreachable"]
    cluster.wait_whole()
    assert look(cluster, key)["versions"]


def test_a_node_that_is_down_is_unreachable_and_others_hold_its_hint(
    cluster: Cluster, key: bytes
) -> None:
    lost = cluster.nodes[2]
    lost.kill()
    try:
        until(lambda: cluster.nodes[0].peers()[lost.name], "it is seen", wanted="down")
        cluster.nodes[0].put(key, b"meanwhile")

        def hinted() -> Any:
            found = look(cluster, key)
            return [h["for"] for r in found["replicas"] for h in r["hints"]] and found

        found = until(hinted, "somebody keeps a hint")
        states = {r["node"]: r["state"] for r in found["replicas"]}
        assert states[lost.name] == "unreachable"
        assert {h["for"] for r in found["replicas"] for h in r["hints"]} == {lost.name}
        state = cluster.nodes[0].http("GET", "/ui/state").json
        kept = {n["name"]: n["figures"]["hints"] for n in state["nodes"] if n["name"] != lost.name}
        assert any(lost.name in hints for hints in kept.values())
    finally:
        lost.start()
        lost.wait_ready()
    cluster.wait_whole()
    cluster.wait_hints_delivered()
    states = {r["node"]: r["state"] for r in look(cluster, key)["replicas"]}
    assert states[lost.name] == "present"


def test_a_node_without_a_ring_says_so_and_never_shows_the_admin_token(tmp_path: Path) -> None:
    found = Cluster(tmp_path, 1, admin_token="not for browsers")
    node = found.nodes[0]
    try:
        node.start()
        until(lambda: _healthy(node), "it answers")
        state = node.http("GET", "/ui/state")
        assert (state.json["ring"], state.json["nodes"]) == (None, [])
        for path in ("/ui/ring", "/ui/partition?number=0", "/ui/key?key=a"):
            node.http("GET", path).problem(503, "overloaded")
        assert b"not for browsers" not in state.body
    finally:
        found.close()


def _healthy(node: NodeProcess) -> bool:
    try:
        return node.http("GET", "/healthz").status == 200
    except OSError:
        return False
