"""The HTTP contract: how a request says what it wants, within which bounds, and other pages."""

import json
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing

import pytest
from tests.node.node_processes import Cluster, Connection, path_of

# put+json


def test_put_json(cluster: Cluster, key: bytes) -> None:
    node = cluster.nodes[0]

    def put(kind: str = "application/vnd.dynamo.put+json", **fields: object) -> int:
        return node.http("PUT", path_of(key), json.dumps(fields).encode(), Content_Type=kind).status

    assert put(value=b64encode(b"\x00\xff").decode(), content_type="x/y") == 204
    read = node.get(key)
    assert (read.body, read.headers["Content-Type"]) == (b"\x00\xff", "x/y")
    assert put(value="", context=read.context) == 204
    read = node.get(key)
    assert (read.body, read.headers["Content-Type"]) == (b"", "application/octet-stream")
    with_parameter = "Application/vnd.dynamo.put+JSON; charset=utf-8"
    assert put(with_parameter, value="YQ==", context=read.context) == 204
    assert node.get(key).body == b"a"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "an object"),
        (b"{}", "value is missing"),
        (b'{"value": 5}', "value is not a text"),
        (b'{"value": "?"}', "not base64"),
        ('{"value": "é"}'.encode(), "not base64"),
        (b'{"value": "YQ==", "content_type": "a\\r\\nX: y"}', "printable ASCII"),
        (b'{"value": "YQ==", "context": "\\ud800"}', "not one that this cluster issued"),
        (b'{"value": "YQ==", "context": null}', "context is not a text"),
        (b'{"value": "YQ==", "contexts": ""}', "'contexts' is not known"),
    ],
)
def test_put_json_that_is_wrong_says_what(
    cluster: Cluster, key: bytes, body: bytes, why: str
) -> None:
    reply = cluster.nodes[0].http(
        "PUT", path_of(key), body, Content_Type="application/vnd.dynamo.put+json"
    )
    assert why in reply.problem(400, "bad-request")
    cluster.nodes[0].get(key).problem(404, "not-found")


# Quorum, deadlines, acks


@pytest.mark.parametrize("query", ["r=1", "r=3", "w=1", "w=3", "timeout_ms=60000", "r=2&w=2"])
def test_r_w_and_timeout_within_their_bounds(cluster: Cluster, key: bytes, query: str) -> None:
    assert cluster.nodes[0].http("PUT", f"{path_of(key)}?{query}", b"v").status == 204
    assert cluster.nodes[1].http("GET", f"{path_of(key)}?{query}").status == 200
    assert cluster.nodes[2].http("DELETE", f"{path_of(key)}?{query}").status == 204


@pytest.mark.parametrize(
    "query",
    [
        *("r=0", "r=4", "r=", "r=-1", "r=1.5", "r=%F0%9F%98%80", "r=²", "w=0", "w=4", "w=x"),
        *("timeout_ms=0", "timeout_ms=60001", "timeout_ms=1e3", "timeout_ms=99999999999999999999"),
        *("quorum=2", "R=2", "=", "r=2&=", "&".join("r=2" for _ in range(50))),
    ],
)
def test_r_w_and_timeout_out_of_bounds_are_400(cluster: Cluster, key: bytes, query: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        path = f"{path_of(key)}?{query}".encode().decode("latin-1")
        reply = Connection(cluster.nodes[0].http_port)
        reply._http._encode_request = lambda request: request.encode("latin-1")  # type: ignore[attr-defined]
        reply.ask(method, path, b"v").problem(400, "bad-request")
        reply.close()


def test_acks_say_who_answered(cluster: Cluster, key: bytes) -> None:
    assert cluster.nodes[0].put(key, b"v", w=3).acks == "primary=3, standin=0"
    assert cluster.nodes[1].get(key, r=3).acks == "primary=3, standin=0"
    missing = cluster.nodes[1].get(key + b"?", r=3)
    assert (missing.status, missing.acks) == (404, "primary=3, standin=0")
    assert cluster.nodes[0].put(key, b"v", w=1).acks in (
        "primary=1, standin=0",
        "primary=2, standin=0",
    )


def test_a_floor_is_read_your_writes(cluster: Cluster, key: bytes) -> None:
    for at in range(20):
        written = cluster.nodes[at % 3].put(key, b"%d" % at, w=1)
        read = cluster.nodes[(at + 1) % 3].get(key, written.context, r=1)
        assert read.status in (200, 300)
        assert b"%d" % at in read.body


def test_a_floor_that_nobody_covers_is_not_yet(
    make_cluster: Callable[..., Cluster], cluster: Cluster
) -> None:
    """The context is genuine, of the same key and cluster keys, but from a store that lost it."""
    key = b"floor"
    other = make_cluster(nodes=1, replication=1)
    context = other.nodes[0].put(key, b"v", w=1).context
    cluster.nodes[0].put(key, b"w")
    reply = cluster.nodes[1].get(key, context)
    assert "no replica" in reply.problem(503, "not-yet")
    assert (reply.json["needed"], reply.json["got"]) == (2, 3)
    assert cluster.nodes[1].get(key).status == 200


# Limits


def test_a_value_over_the_limit_is_413_with_and_without_a_length(
    cluster: Cluster, key: bytes
) -> None:
    node = cluster.nodes[0]
    long = b"x" * ((1 << 20) + 1)
    assert "1048576" in node.put(key, long).problem(413, "too-large")
    connection = Connection(node.http_port)
    chunked = connection.ask(
        "PUT",
        path_of(key),
        iter([long[: 1 << 19], long[: 1 << 19], b"x"]),
        {"Transfer-Encoding": "chunked"},
    )
    chunked.problem(413, "too-large")
    connection.close()
    node.get(key).problem(404, "not-found")


def test_chunked_bodies_are_values(cluster: Cluster, key: bytes) -> None:
    connection = Connection(cluster.nodes[0].http_port)
    parts = iter([b"one ", b"", b"two"])
    headers = {"Transfer-Encoding": "chunked"}
    assert connection.ask("PUT", path_of(key), parts, headers).status == 204
    connection.close()
    assert cluster.nodes[1].get(key).body == b"one two"


def test_more_siblings_than_allowed_are_409_and_a_context_helps(
    make_cluster: Callable[..., Cluster],
) -> None:
    limits = {"valueBytesMax": 1000, "siblingsMax": 3, "objectBytesMax": 2500}
    node = make_cluster(nodes=1, replication=1, limits=limits, quorum={"r": 1, "w": 1}).nodes[0]
    for value in (b"a", b"b", b"c"):
        assert node.put(b"k", value).status == 204
    refused = node.put(b"k", b"d")
    assert "with the context of that read" in refused.problem(409, "too-many-siblings")
    read = node.get(b"k")
    assert node.put(b"k", b"all", read.context).status == 204
    assert node.delete(b"k").status == 204
    # Many large siblings are too much before they are too many.
    assert node.put(b"big", b"x" * 1000).status == 204
    assert node.put(b"big", b"y" * 1000).status == 204
    node.put(b"big", b"z" * 1000).problem(409, "too-many-siblings")
    node.put(b"big", b"z" * 1001).problem(413, "too-large")
    assert node.delete(b"big").status == 204, "a delete is always written"
    assert node.values(b"big") == set()


# The other pages


def test_methods_and_paths_that_do_not_exist(cluster: Cluster, key: bytes) -> None:
    node = cluster.nodes[0]
    for method in ("POST", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        reply = node.http(method, path_of(key), b"v")
        reply.problem(405, "method-not-allowed")
        assert reply.headers["Allow"] == "GET, HEAD, PUT, DELETE"
    for path in ("/kv", "/nothing", "/kv2/x", "/admin/status", "//kv/x"):
        node.http("GET", path).problem(404, "not-found")
    node.http("PUT", "/healthz", b"").problem(405, "method-not-allowed")


def test_health_readiness_and_the_picture_of_the_cluster(cluster: Cluster) -> None:
    for node in cluster.nodes:
        assert node.http("GET", "/healthz").status == 200
        assert node.http("GET", "/readyz").status == 200
        view = node.http("GET", "/cluster").json
        assert view["name"] == "cart"
        assert view["ring"]["epoch"] == 1
        assert (view["ring"]["partitions"], view["ring"]["n"]) == (16, 3)
        assert {n["name"] for n in view["nodes"]} == {n.name for n in cluster.nodes}
        for shown in view["nodes"]:
            assert shown["state"] == "up"
            assert shown["ownership_percent"] == pytest.approx(100 / 3, abs=0.1)
            assert set(shown) >= {"zone", "capacity", "tokens", "keys", "hints_pending", "http"}
        assert view["transfers"] == []


def test_expect_100_continue_is_answered_before_the_body_comes(
    cluster: Cluster, key: bytes
) -> None:
    """curl and Java's client wait for it before they send a large body."""
    connection = Connection(cluster.nodes[0].http_port, timeout_s=5)
    raw = connection._http
    raw.connect()
    raw.sock.sendall(
        f"PUT {path_of(key)} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
        "Expect: 100-continue\r\n\r\n".encode()
    )
    assert raw.sock.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n")
    raw.sock.sendall(b"body")
    assert raw.sock.recv(1000).startswith(b"HTTP/1.1 204 ")
    raw.sock.sendall(
        f"PUT {path_of(key)} HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n"
        "Expect: 100-continue\r\n\r\n".encode()
    )
    assert raw.sock.recv(1000).startswith(b"HTTP/1.1 413 "), "refused before it is sent"
    connection.close()


def test_a_request_line_in_absolute_form(cluster: Cluster) -> None:
    # As a proxy sends it; a server has to take it (RFC 9112, 3.2.2).
    node = cluster.nodes[0]
    with closing(Connection(node.http_port)) as client:
        for host in ("http://127.0.0.1", "HTTP://elsewhere:80", "https://[::1]:8080"):
            assert client.ask("PUT", f"{host}/kv/absolute%2Fform?w=1", b"v").status == 204
            assert client.ask("GET", f"{host}/kv/absolute%2Fform").status in (200, 300)
            assert client.ask("GET", f"{host}/readyz").status == 200
            assert client.ask("GET", host).status == 200
            assert client.ask("GET", f"{host}?x=/kv/a").status == 200
            assert client.ask("GET", f"{host}/nothing/kv/a").status == 404


def test_every_answer_of_a_node_that_drains_ends_its_connection(
    make_cluster: Callable[..., Cluster],
) -> None:
    [node] = make_cluster(nodes=1, replication=1, timing={"drain_ms": 3000}).nodes
    with closing(Connection(node.http_port)) as client:
        assert client.ask("GET", "/kv/none").headers["Connection"] is None
        node.terminate()
        until = time.monotonic() + 10
        while client.ask("GET", "/readyz").status == 200:
            assert time.monotonic() < until
        for method, path, status in (
            ("GET", "/readyz", 503),
            ("GET", "/kv/none", 404),
            ("GET", "/kv/none?r=x", 400),
            ("POST", "/kv/none", 405),
            ("GET", "/nothing", 404),
            ("PUT", "/kv/some", 204),
        ):
            answer = client.ask(method, path, b"v" if method == "PUT" else None)
            assert (answer.status, answer.headers["Connection"]) == (status, "close"), path


def test_a_trace_that_a_client_brings_harms_no_connection_between_nodes(
    cluster: Cluster, key: bytes
) -> None:
    # Its context travels in each frame to the other replicas, whose header has room for 25 bytes.
    node = cluster.nodes[0]
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for _ in range(3):
        assert node.http("PUT", path_of(key, w=3), b"v", traceparent=parent).status == 204
        assert node.http("GET", path_of(key, r=3), traceparent=parent).status in (200, 300)
    for other in cluster.nodes:
        assert "a frame" not in other.log()
