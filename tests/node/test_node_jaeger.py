"""The trees of spans as a real Jaeger shows them; skipped where there is none."""

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.ports import free_ports
from tests.node.node_processes import Cluster, path_of, until


def config(ports: list[int]) -> dict[str, Any]:
    grpc, http, query, query_grpc = (f"127.0.0.1:{port}" for port in ports)
    return {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            "pipelines": {
                "traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}
            },
            "telemetry": {"metrics": {"level": "none"}},
        },
        "extensions": {
            "jaeger_storage": {"backends": {"here": {"memory": {"max_traces": 1000}}}},
            "jaeger_query": {
                "storage": {"traces": "here"},
                "http": {"endpoint": query},
                "grpc": {"endpoint": query_grpc},
            },
        },
        "receivers": {
            "otlp": {"protocols": {"grpc": {"endpoint": grpc}, "http": {"endpoint": http}}}
        },
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "here"}},
    }


@pytest.fixture
def jaeger(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(endpoint of OTLP over gRPC, URL of the query API)."""
    program = shutil.which("jaeger")
    if program is None:
        pytest.skip("no `jaeger` (2.x) on PATH")
    ports = free_ports(4)
    settings = tmp_path / "jaeger.yaml"
    settings.write_text(json.dumps(config(ports)))
    with (tmp_path / "jaeger.log").open("wb") as log:
        process = subprocess.Popen([program, "--config", str(settings)], stdout=log, stderr=log)
    query = f"http://127.0.0.1:{ports[2]}"
    try:
        until(lambda: asked(f"{query}/api/services") is not None, "Jaeger answers", 60)
        yield f"grpc://127.0.0.1:{ports[0]}", query
    finally:
        process.kill()
        process.wait()


def asked(url: str) -> Any:
    try:
        with urllib.request.urlopen(url) as answer:
            return json.load(answer)["data"] or []
    except (urllib.error.URLError, ConnectionError):
        return None


def test_jaeger_shows_one_tree_from_the_caller_to_each_commit(
    jaeger: tuple[str, str], make_cluster: Callable[..., Cluster]
) -> None:
    endpoint, query = jaeger
    cluster = make_cluster(tracing={"endpoint": endpoint, "sampleRatio": 0})
    node, trace = cluster.nodes[0], os.urandom(16).hex()
    parent = f"00-{trace}-00f067aa0ba902b7-01"
    assert node.http("PUT", path_of(b"k", w=3), b"v", traceparent=parent).status == 204

    def shown() -> list[dict[str, Any]]:
        found = asked(f"{query}/api/traces/{trace}")
        spans = found[0]["spans"] if found else []
        return spans if len(spans) >= 6 else []

    spans = until(shown, "the trace is there", 60)
    (trace_found,) = asked(f"{query}/api/traces/{trace}")
    processes = trace_found["processes"]
    instances = {
        tag["value"]
        for process in processes.values()
        for tag in process["tags"]
        if tag["key"] == "service.instance.id"
    }
    assert {process["serviceName"] for process in processes.values()} == {"dynamo-node"}
    assert instances == {other.name for other in cluster.nodes}
    parents = {
        span["spanID"]: next((r["spanID"] for r in span["references"]), "") for span in spans
    }
    (put,) = [span for span in spans if span["operationName"] == "dynamo.put"]
    assert parents[put["spanID"]] == "00f067aa0ba902b7"
    asked_for = [s for s, above in parents.items() if above == put["spanID"]]
    assert len(asked_for) == 3
    assert sum(above in asked_for for above in parents.values()) == 2
    events = [field["value"] for span in spans for log in span["logs"] for field in log["fields"]]
    assert events.count("storage.committed") == 3
