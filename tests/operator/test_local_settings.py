"""An edit of r, w, limits or tracing reaches real nodes live; durability restarts each."""

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.operator.local_clusters import Local, eventually
from tests.telemetry.receivers import grpc_receiver


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Local]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("DYNAMO_NODE_COMMAND", raising=False)
    local = Local(tmp_path)
    try:
        yield local
    finally:
        local.end()


def put(port: int, value: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("PUT", "/kv/k", value)
        return connection.getresponse().status
    finally:
        connection.close()


def test_limits_change_under_the_same_process_and_for_one_that_was_stopped(real: Local) -> None:
    spec = {"ring": {"partitions": 16}}
    real.manifest(**spec)
    real.up("-f", "cluster.yaml")
    before = [node["pid"] for node in real.nodes()]
    assert put(real.port, b"x" * 100) == 204
    real.run("stop", "cart-default-2")

    real.manifest(**spec, limits={"valueBytesMax": 10})
    eventually(lambda: [put(real.port + at, b"x" * 100) for at in (0, 1)] == [413, 413])
    assert [node["pid"] for node in real.nodes()][:2] == before[:2], "nobody was restarted"
    assert "restarts" not in real.log()

    real.run("start", "cart-default-2")
    eventually(lambda: real.node(2)["ready"])
    eventually(lambda: put(real.port + 2, b"x" * 100) == 413)
    assert put(real.port + 2, b"x") == 204

    real.manifest(**spec, limits={"valueBytesMax": 10}, durability="buffered")
    eventually(lambda: real.log().count("restarts with its new settings") == 3)
    eventually(lambda: all(node["ready"] for node in real.nodes()))
    assert not {node["pid"] for node in real.nodes()} & set(before)
    assert [put(real.port + at, b"x" * 100) for at in range(3)] == [413] * 3


def test_tracing_is_turned_on_under_the_same_process(real: Local) -> None:
    with grpc_receiver() as received:
        spec = {"ring": {"partitions": 16}, "replicas": 3}
        real.manifest(**spec)
        real.up("-f", "cluster.yaml")
        before = [node["pid"] for node in real.nodes()]
        real.manifest(**spec, tracing={"endpoint": received.endpoint, "sampleRatio": "1"})

        def traced() -> bool:
            assert put(real.port, b"x") == 204
            return bool(received.named("dynamo.put"))

        eventually(traced)
        assert [node["pid"] for node in real.nodes()] == before
