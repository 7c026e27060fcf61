"""The HTTP contract, against three real nodes (N/R/W 3/2/2): values, versions, contexts."""

import json
from base64 import b64decode, b64encode
from email.parser import BytesParser
from email.policy import HTTP

import pytest
from tests.node.node_processes import Cluster, Connection, path_of

# Values and keys


@pytest.mark.parametrize(
    "value",
    [b"", b"\x00", b"\r\n\r\n", bytes(range(256)), b"--boundary--", b"x" * (1 << 20)],
    ids=["empty", "nul", "newlines", "all bytes", "boundary", "1 MiB"],
)
def test_a_value_comes_back_as_it_was_from_every_node(
    cluster: Cluster, key: bytes, value: bytes
) -> None:
    written = cluster.nodes[0].put(key, value)
    assert (written.status, written.body) == (204, b"")
    for node in cluster.nodes:
        read = node.get(key)
        assert (read.status, read.body) == (200, value)
        assert read.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    "kind", ["text/plain; charset=latin-1", "application/json", "x/y", "image/svg+xml"]
)
def test_the_content_type_is_kept(cluster: Cluster, key: bytes, kind: str) -> None:
    cluster.nodes[0].http("PUT", path_of(key), b"{}", Content_Type=kind)
    read = cluster.nodes[1].get(key)
    assert read.headers["Content-Type"] == kind
    assert read.body == b"{}"


@pytest.mark.parametrize(
    "name",
    [
        b"a",
        b"\x00",
        b"a/b",
        b"%2F",
        b"\xff\xfe",
        "ключ".encode(),
        b"?x=1&y#z",
        b" ",
        b"k" * 1024,
        b"..",
    ],
    ids=repr,
)
def test_a_key_is_any_bytes(cluster: Cluster, name: bytes) -> None:
    assert cluster.nodes[0].put(name, b"value of " + name).status == 204
    assert cluster.nodes[2].get(name).body == b"value of " + name
    replica = cluster.nodes[1].replica(name)
    assert b64decode(replica["key_base64"]) == name


def test_percent_encoding_is_only_a_spelling(cluster: Cluster) -> None:
    cluster.nodes[0].http("PUT", "/kv/%73pelling", b"v")
    assert cluster.nodes[1].http("GET", "/kv/spelling").body == b"v"
    assert cluster.nodes[1].http("GET", "/kv/spellin%67").body == b"v"


def test_a_key_of_1025_bytes_is_413_and_an_empty_one_400(cluster: Cluster) -> None:
    for method in ("GET", "PUT", "DELETE"):
        long = cluster.nodes[0].http(method, path_of(b"k" * 1025), b"v")
        assert "1..1024 bytes" in long.problem(413, "too-large")
        empty = cluster.nodes[0].http(method, "/kv/", b"v")
        assert "empty" in empty.problem(400, "bad-request")


@pytest.mark.parametrize("text", ["a/b", "%", "%4", "a%zz"])
def test_a_key_that_is_not_encoded_is_400(cluster: Cluster, text: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        cluster.nodes[0].http(method, f"/kv/{text}", b"v").problem(400, "bad-request")


def test_a_stored_page_runs_nothing_in_a_browser(cluster: Cluster, key: bytes) -> None:
    node, page = cluster.nodes[0], b"<script>fetch('/kv/other', {method: 'DELETE'})</script>"
    node.http("PUT", path_of(key), page, Content_Type="text/html")
    one = node.get(key)
    node.http("PUT", path_of(key), b"<b>", Content_Type="text/html")
    several = node.get(key)
    assert (one.status, one.headers["Content-Type"], several.status) == (200, "text/html", 300)
    for answer in (one, several):
        assert answer.headers["Content-Security-Policy"] == "sandbox"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_head_is_get_without_the_body(cluster: Cluster, key: bytes) -> None:
    assert cluster.nodes[0].http("HEAD", path_of(key)).status == 404
    cluster.nodes[0].http("PUT", path_of(key), b"12345", Content_Type="text/plain")
    head = cluster.nodes[1].http("HEAD", path_of(key))
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == "5"
    assert head.headers["Content-Type"] == "text/plain"
    assert head.context


# Versions


def test_two_blind_writes_are_siblings_as_multipart_and_as_json(
    cluster: Cluster, key: bytes
) -> None:
    cluster.nodes[0].http("PUT", path_of(key), b"--one\r\n", Content_Type="text/plain")
    cluster.nodes[1].http("PUT", path_of(key), bytes(range(256)), Content_Type="x/y")
    mixed = cluster.nodes[2].get(key)
    assert mixed.status == 300
    kind = mixed.headers["Content-Type"]
    assert kind.startswith("multipart/mixed; boundary=")
    message = BytesParser(policy=HTTP).parsebytes(
        b"Content-Type: " + kind.encode() + b"\r\n\r\n" + mixed.body
    )
    parts = {part.get_content_type(): part for part in message.iter_parts()}
    assert set(parts) == {"text/plain", "x/y"}
    assert all(part["X-Dynamo-Dot"] and part["Last-Modified"] for part in parts.values())
    boundary = kind.partition('boundary="')[2].rstrip('"').encode()
    bodies = {p.partition(b"\r\n\r\n")[2] for p in mixed.body.split(b"--" + boundary)[1:-1]}
    assert bodies == {b"--one\r\n\r\n", bytes(range(256)) + b"\r\n"}

    listed = cluster.nodes[0].http("GET", path_of(key), Accept="application/json")
    assert listed.status == 300
    assert listed.headers["Content-Type"] == "application/json"
    siblings = listed.json["siblings"]
    assert {b64decode(s["value"]): s["content_type"] for s in siblings} == {
        b"--one\r\n": "text/plain",
        bytes(range(256)): "x/y",
    }
    assert all(set(s) == {"value", "content_type", "dot", "written_at"} for s in siblings)
    assert listed.json["context"] == listed.context
    # That context covers both: the next write is the only value.
    assert cluster.nodes[1].put(key, b"merged", listed.context).status == 204
    assert cluster.nodes[2].get(key).body == b"merged"


def test_one_value_is_given_as_stored_whatever_is_accepted(cluster: Cluster, key: bytes) -> None:
    cluster.nodes[0].put(key, b"raw")
    read = cluster.nodes[0].http("GET", path_of(key), Accept="application/json, */*")
    assert (read.status, read.body) == (200, b"raw")


def test_schedule_4_a_puts_context_covers_what_was_sent_and_itself(
    cluster: Cluster, key: bytes
) -> None:
    """X, Y blind; Y's writer puts again with the context of its own PUT: X must survive."""
    x, y = cluster.nodes[0].put(key, b"x"), cluster.nodes[1].put(key, b"y")
    again = cluster.nodes[2].put(key, b"y2", y.context)
    assert cluster.nodes[0].values(key) == {b"x", b"y2"}
    cluster.nodes[0].put(key, b"x2", x.context)
    assert cluster.nodes[1].values(key) == {b"x2", b"y2"}
    cluster.nodes[1].put(key, b"y3", again.context)
    assert cluster.nodes[2].values(key) == {b"x2", b"y3"}


def test_a_write_that_is_tried_twice_shows_once(cluster: Cluster, key: bytes) -> None:
    for node in cluster.nodes:
        node.http("PUT", path_of(key), b"once", X_Dynamo_Write_Id="ab" * 16)
    assert cluster.nodes[0].get(key).body == b"once"
    bad = cluster.nodes[0].http("PUT", path_of(key), b"v", X_Dynamo_Write_Id="abc")
    assert "32 hex digits" in bad.problem(400, "bad-request")


# Deleting


def test_delete_with_a_context_leaves_what_it_had_not_seen(cluster: Cluster, key: bytes) -> None:
    first = cluster.nodes[0].put(key, b"first")
    cluster.nodes[1].put(key, b"second")
    gone = cluster.nodes[2].delete(key, first.context)
    assert gone.status == 204
    assert gone.context
    read = cluster.nodes[0].get(key)
    assert (read.status, read.body) == (200, b"second"), "a tombstone is no part of an answer"


def test_delete_without_a_context_deletes_what_it_reads(cluster: Cluster, key: bytes) -> None:
    missing = cluster.nodes[0].delete(key)
    missing.problem(404, "not-found")
    cluster.nodes[0].put(key, b"one")
    cluster.nodes[1].put(key, b"two")
    assert cluster.nodes[2].delete(key).status == 204
    for node in cluster.nodes:
        node.get(key).problem(404, "not-found")
    cluster.nodes[0].delete(key).problem(404, "not-found")


def test_the_404_of_a_deleted_key_carries_a_context_that_can_be_written_with(
    cluster: Cluster, key: bytes
) -> None:
    never = cluster.nodes[0].get(key)
    never.problem(404, "not-found")
    assert not never.context
    written = cluster.nodes[0].put(key, b"v")
    cluster.nodes[1].delete(key, written.context)
    gone = cluster.nodes[2].get(key)
    gone.problem(404, "not-found")
    assert gone.context
    assert cluster.nodes[0].put(key, b"again", gone.context).status == 204
    assert cluster.nodes[1].get(key).body == b"again"
    siblings = cluster.nodes[1].replica(key)["siblings"]
    assert [s["tombstone"] for s in siblings] == [False], "the tombstone was seen and replaced"


def test_a_delete_of_nothing_with_a_context_is_written(cluster: Cluster, key: bytes) -> None:
    context = cluster.nodes[0].put(key, b"v").context
    for _ in range(2):
        assert cluster.nodes[0].delete(key, context).status == 204


# Contexts


def test_contexts_that_are_not_ours_are_400_and_nothing_is_written(
    cluster: Cluster, key: bytes
) -> None:
    node = cluster.nodes[0]
    good = node.put(key, b"v").context
    foreign = node.put(key + b" of another", b"v").context
    flipped = good[:10] + ("A" if good[10] != "A" else "B") + good[11:]
    for bad in (foreign, flipped, good[:-1], good + "A", good + "=", "x", "a b", "ÿ", "=" * 40):
        for method in ("PUT", "DELETE", "GET"):
            reply = node.http(method, path_of(key), b"w", X_Dynamo_Context=bad)
            assert "not one that this cluster issued" in reply.problem(400, "bad-request")
    assert node.get(key).body == b"v"
    assert len(node.replica(key)["siblings"]) == 1


def test_a_context_over_6_kib_travels_in_bodies(cluster: Cluster, key: bytes) -> None:
    """Two writers who never read: each of their contexts is one dot longer per write."""
    left, right = Connection(cluster.nodes[0].http_port), Connection(cluster.nodes[0].http_port)
    contexts = ["", ""]
    moved_to_body = 0
    for at in range(2 * 220):
        side = at % 2
        body = json.dumps(
            {"value": b64encode(b"v%d" % at).decode(), "context": contexts[side]}
        ).encode()
        headers = {"Content-Type": "application/vnd.dynamo.put+json"}
        reply = (left, right)[side].ask("PUT", path_of(key), body, headers)
        if "X-Dynamo-Context-In" in reply.headers:
            assert reply.status == 200
            moved_to_body += 1
            contexts[side] = reply.json["context"]
        else:
            assert reply.status == 204
            contexts[side] = reply.context
    left.close()
    right.close()
    assert moved_to_body > 10
    assert len(contexts[0]) > 6 << 10
    assert cluster.nodes[1].values(key) == {b"v438", b"v439"}
    # What the reader is shown is compact again, and covers both.
    read = cluster.nodes[2].get(key)
    assert len(read.context) < 1000
    # A forwarding node and DELETE take the long context from the body as well.
    body = json.dumps({"context": contexts[0]}).encode()
    gone = cluster.nodes[1].http(
        "DELETE", path_of(key), body, Content_Type="application/vnd.dynamo.put+json"
    )
    assert gone.status == 200
    assert cluster.nodes[2].values(key) == {b"v439"}
