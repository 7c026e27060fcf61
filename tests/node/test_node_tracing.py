"""Spans across real processes, told to a real receiver: trees, links, decisions."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from bench.ports import free_ports
from tests.node.node_processes import SECRET, Cluster, NodeProcess, path_of, until
from tests.telemetry.receivers import Received, Span, grpc_receiver, http_receiver

from dynamo_core.placement import next_ring
from dynamo_core.ring import position


def told(node: NodeProcess, endpoint: str, ratio: float) -> None:
    """Change the settings of a node that runs, and wait until they are in force."""
    body = json.dumps({"tracing": {"endpoint": endpoint, "sampleRatio": ratio}}).encode()
    assert node.admin("PUT", "/admin/settings", body).status == 200
    until(lambda: node.status()["tracing"]["on"], "it is applied", wanted=bool(endpoint))


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Received]]:
    """Five nodes, N=3, all requests traced; nodes are hurt and healed by the tests."""
    with grpc_receiver() as received:
        cluster = Cluster(
            tmp_path_factory.mktemp("traced"),
            5,
            tracing={"endpoint": received.endpoint, "sampleRatio": 1},
            log={"format": "json"},
        )
        try:
            cluster.start()
            yield cluster, received
            assert not cluster.unclean_lines()
            for node in cluster.nodes:
                assert "a-secret-value" not in node.log()
                assert SECRET not in node.log()
        finally:
            cluster.close()


def fresh(n: int) -> tuple[str, str]:
    """(traceparent, trace id) of a caller that keeps its trace."""
    trace = os.urandom(16).hex()
    return f"00-{trace}-{n:016x}-01", trace


def tree(received: Received, trace: str, *names: str) -> list[Span]:
    """The spans of a trace, once those names are there."""

    def there() -> list[Span]:
        found = received.trace(trace)
        left = [span.name for span in found]
        for name in names:
            if name not in left:
                return []
            left.remove(name)
        return found

    return until(there, f"{names} of {trace}; have {[s.name for s in received.trace(trace)]}")


def named(received: Received, trace: str, name: str) -> Span:
    """The one span of that name in a trace, once it is there."""
    (found,) = [span for span in tree(received, trace, name) if span.name == name]
    return found


def owners(cluster: Cluster, key: bytes) -> list[NodeProcess]:
    assert cluster.ring is not None
    names = {m.number: m.name for m in cluster.ring.everybody}
    partition = cluster.ring.partition_of(position(key))
    found = [names[n] for n in cluster.ring.preference_list(partition)[:3]]
    return [next(node for node in cluster.nodes if node.name == name) for name in found]


def test_a_put_is_one_tree_from_its_coordinator_to_each_commit(
    traced: tuple[Cluster, Received],
) -> None:
    cluster, received = traced
    key = b"secret-name-of-a-key"
    first = owners(cluster, key)[0]
    header, trace = fresh(7)
    assert first.http("PUT", path_of(key, w=3), b"a-secret-value", traceparent=header).status == 204
    spans = tree(received, trace, "dynamo.put", *["replica.write"] * 5)
    (root,) = [span for span in spans if span.name == "dynamo.put"]
    assert (root.parent_id, root.kind, root.instance) == (f"{7:016x}", "server", first.name)
    assert root.service == "dynamo-node"
    assert root.resource["dynamo.cluster"] == "cart"
    said = root.attributes
    assert said["db.system.name"] == "dynamo"
    assert (said["http.request.method"], said["http.response.status_code"]) == ("PUT", 204)
    assert (said["dynamo.w"], said["dynamo.n"], said["dynamo.outcome"]) == (3, 3, "written")
    assert (said["dynamo.acks.primary"], said["dynamo.acks.standin"]) == (3, 0)
    asked = received.children(root)
    assert {span.attributes["dynamo.replica"] for span in asked} == {
        node.name for node in owners(cluster, key)
    }
    for span in asked:
        assert span.name == "replica.write"
        assert span.instance == first.name
        inner = received.children(span)
        if span.attributes["dynamo.replica"] == first.name:
            assert span.kind == "internal"
            assert list(span.events) == ["storage.batched", "storage.committed"]
            assert not inner
        else:
            (theirs,) = inner
            assert (span.kind, theirs.kind) == ("client", "server")
            assert theirs.instance == span.attributes["dynamo.replica"]
            assert list(theirs.events) == ["storage.committed"]
            assert theirs.attributes["dynamo.key_hash"] == said["dynamo.key_hash"]
    everything = repr(spans)
    assert "secret" not in everything, "neither keys nor values are in spans"


def test_times_are_far_finer_than_milliseconds(traced: tuple[Cluster, Received]) -> None:
    # The loop's clock goes by milliseconds: by it a write took either 0 or 1 of them.
    cluster, received = traced
    fractions: dict[str, set[int]] = {}
    for at in range(8):
        key = b"fine-%d" % at
        first = owners(cluster, key)[0]
        header, trace = fresh(1)
        assert first.http("PUT", path_of(key), b"v", traceparent=header).status == 204
        spans = tree(received, trace, "dynamo.put", "replica.write", "replica.write")
        (root,) = [span for span in spans if span.name == "dynamo.put"]
        asked = received.children(root)
        assert all(root.start_ns <= span.start_ns < span.end_ns for span in asked)
        here = fractions.setdefault(root.instance, set())
        here.update(span.start_ns // 10_000 % 100 for span in [root, *asked])
    assert max(map(len, fractions.values())) > 3


def test_a_get_and_what_a_node_forwards(traced: tuple[Cluster, Received]) -> None:
    cluster, received = traced
    key = b"forwarded"
    stranger = next(node for node in cluster.nodes if node not in owners(cluster, key))
    header, trace = fresh(1)
    assert stranger.http("PUT", path_of(key), b"v", traceparent=header).status == 204
    spans = tree(received, trace, "dynamo.put", "forward", "dynamo.put", *["replica.write"] * 5)
    there = next(s for s in spans if s.name == "dynamo.put" and s.instance == stranger.name)
    (forward,) = received.children(there)
    (coordinated,) = received.children(forward)
    assert coordinated.attributes["dynamo.forwarded"] is True
    assert coordinated.instance == forward.attributes["dynamo.replica"]

    header, trace = fresh(1)
    assert stranger.http("GET", path_of(key, r=3), traceparent=header).status == 200
    spans = tree(received, trace, "dynamo.get", *["replica.read"] * 6)
    (root,) = [span for span in spans if span.name == "dynamo.get"]
    assert root.attributes["dynamo.siblings"] == 1
    assert root.attributes["http.response.status_code"] == 200

    header, trace = fresh(1)
    assert stranger.http("DELETE", path_of(key), traceparent=header).status == 204
    assert tree(received, trace, "dynamo.delete")


def test_a_merge_links_to_the_puts_that_wrote_the_siblings(
    traced: tuple[Cluster, Received],
) -> None:
    cluster, received = traced
    key = b"merged"
    here = owners(cluster, key)
    writers = []
    for node in here[:2]:  # two coordinators, which share no memory
        header, trace = fresh(1)
        assert node.http("PUT", path_of(key, w=3), b"v", traceparent=header).status == 204
        writers.append(named(received, trace, "dynamo.put"))
    unknown = here[0].http(
        "PUT", path_of(key, w=3), b"v", traceparent=f"00-{'a' * 32}-{'b' * 16}-00"
    )
    assert unknown.status == 204
    read = here[2].get(key)
    assert read.status == 300
    header, trace = fresh(1)
    merged = here[2].http(
        "PUT", path_of(key), b"m", traceparent=header, X_Dynamo_Context=read.context
    )
    assert merged.status == 204
    root = named(received, trace, "dynamo.put")
    assert sorted(root.links) == sorted((w.trace_id, w.span_id) for w in writers)

    # What a write that nobody traced has replaced meanwhile isn't replaced by the next one.
    plain = here[2].http(
        "PUT",
        path_of(key, w=3),
        b"p",
        traceparent=f"00-{'c' * 32}-{'d' * 16}-00",
        X_Dynamo_Context=merged.context,
    )
    header, trace = fresh(1)
    after = here[2].http(
        "PUT", path_of(key), b"n", traceparent=header, X_Dynamo_Context=plain.context
    )
    assert after.status == 204
    assert named(received, trace, "dynamo.put").links == []


@pytest.mark.parametrize("protocol", ["native", "http"])
def test_one_trace_from_the_command_line_to_the_commit(
    traced: tuple[Cluster, Received], protocol: str
) -> None:
    cluster, received = traced
    key = f"from-the-shell-{protocol}"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "dynamo_client.cli", "put", key, "a-secret-value"),
            *("--protocol", protocol),
        ],
        env={
            **os.environ,
            "OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint,
            "DYNAMO_URL": f"http://127.0.0.1:{cluster.nodes[0].http_port}",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    ours = [s for s in received.named("dynamo.client.put") if s.service == "dynamo-client"]
    span = ours[-1]
    assert not span.parent_id
    assert (span.kind, span.attributes["dynamo.tries"]) == ("client", 1)
    spans = tree(received, span.trace_id, "dynamo.put", *["replica.write"] * 5)
    (root,) = received.children(span)
    assert (root.name, root.service) == ("dynamo.put", "dynamo-node")
    spoken = {"native": "dynamo", "http": "http"}[protocol]
    assert root.attributes["network.protocol.name"] == spoken
    assert "secret" not in repr(spans)


def test_the_callers_decision_is_kept(traced: tuple[Cluster, Received]) -> None:
    cluster, received = traced
    unsampled = os.urandom(16).hex()
    header, last = fresh(1)
    node = cluster.nodes[0]
    node.http("PUT", path_of(b"kept"), b"v", traceparent=f"00-{unsampled}-{1:016x}-00")
    node.http("PUT", path_of(b"kept"), b"v", traceparent=header)
    assert tree(received, last, "dynamo.put")
    assert not received.trace(unsampled)


def test_a_dead_owner_gets_a_hint_whose_delivery_is_linked_to_the_put(
    traced: tuple[Cluster, Received],
) -> None:
    cluster, received = traced
    key = b"hinted"
    first, dead = owners(cluster, key)[0], owners(cluster, key)[2]
    dead.kill()
    until(lambda: first.peers()[dead.name], "it is seen to be down", wanted="down")
    header, trace = fresh(1)
    assert first.http("PUT", path_of(key, w=3), b"v", traceparent=header).status == 204
    spans = tree(received, trace, "dynamo.put", "hint.store", "hint.store")
    (root,) = [span for span in spans if span.name == "dynamo.put"]
    assert root.attributes["dynamo.acks.standin"] == 1
    (hint,) = [span for span in received.children(root) if span.name == "hint.store"]
    assert hint.attributes["dynamo.hint_for"] == dead.name
    (kept,) = received.children(hint)
    assert (kept.name, kept.attributes["dynamo.hint_for"]) == ("hint.store", dead.name)
    assert list(kept.events) == ["storage.committed"]

    dead.start()
    dead.wait_ready()
    link = (root.trace_id, root.span_id)
    delivered = until(
        lambda: [s for s in received.named("hint.deliver") if link in s.links], "it is delivered"
    )
    assert delivered[0].instance == kept.instance
    assert delivered[0].trace_id != trace
    until(
        lambda: (
            "replica.write"
            in [
                inner.name
                for span in received.children(delivered[0])
                for inner in received.children(span)
                if inner.instance == dead.name
            ]
        ),
        "the target's own span",
    )
    cluster.wait_whole()


def test_a_slow_put_is_traced_though_the_share_is_none(
    traced: tuple[Cluster, Received],
) -> None:
    cluster, received = traced
    key = b"slow"
    first, _, silent = owners(cluster, key)
    told(first, received.endpoint, 0)
    silent.pause()
    try:
        written = first.http("PUT", path_of(key, w=3), b"v")
        assert written.status == 204
    finally:
        silent.resume()
        told(first, received.endpoint, 1)
    (root,) = until(
        lambda: received.named("dynamo.put", dynamo_late="slow"), "it is traced all the same"
    )
    hinted = until(
        lambda: [s for s in received.children(root) if s.name == "hint.store"], "its hint"
    )
    assert hinted[0].attributes["dynamo.hint_for"] == silent.name
    (awaited,) = until(
        lambda: [
            s for s in received.children(root) if s.attributes.get("dynamo.replica") == silent.name
        ],
        "who was awaited",
    )
    assert awaited.name == "replica.write"
    cluster.wait_whole()


def test_a_failed_get_is_traced_though_the_share_is_none(
    traced: tuple[Cluster, Received],
) -> None:
    cluster, received = traced
    key = b"failing"
    first, *others = owners(cluster, key)
    told(first, received.endpoint, 0)
    trace = os.urandom(16).hex()
    for node in others:
        node.pause()
    try:
        failed = first.http(
            "GET", path_of(key, r=3, timeout_ms=400), traceparent=f"00-{trace}-{5:016x}-00"
        )
        assert failed.status == 503
    finally:
        for node in others:
            node.resume()
        told(first, received.endpoint, 1)
    root = named(received, trace, "dynamo.get")
    assert root.error
    assert "replicas needed answered in time" in root.message
    assert root.parent_id == f"{5:016x}", "its caller's trace, though that isn't kept"
    assert root.attributes["http.response.status_code"] == 503
    cluster.wait_whole()


def test_repairs_and_transfers_are_traces_of_their_own(
    make_cluster: Callable[..., Cluster],
) -> None:
    with grpc_receiver() as received:
        settings: dict[str, Any] = {
            "tracing": {"endpoint": received.endpoint, "sampleRatio": 1},
            "timing": {"drain_ms": 50, "antientropy_ms": 600_000, "straggler_ms": 100},
            "storage": {"memory_bytes": 16 << 20, "hints_bytes_max": 0},
        }
        cluster = make_cluster(**settings)
        first, _, stale = cluster.nodes
        stale.kill()
        until(lambda: first.peers()[stale.name], "it is seen to be down", wanted="down")
        puts = []
        for key in (b"read", b"compared"):
            header, trace = fresh(1)
            assert first.http("PUT", path_of(key), b"v", traceparent=header).status == 204
            puts.append(named(received, trace, "dynamo.put"))
        stale.start()
        cluster.wait_whole()

        header, trace = fresh(1)
        assert first.http("GET", path_of(b"read", r=3), traceparent=header).status == 200
        get = named(received, trace, "dynamo.get")
        (repair,) = until(lambda: received.named("read_repair"), "the repair")
        assert not repair.parent_id
        assert {(s.trace_id, s.span_id) for s in (get, puts[0])} == {*repair.links}
        (sent,) = until(lambda: received.children(repair), "what was sent")
        assert sent.attributes["dynamo.replica"] == stale.name
        (taken,) = until(lambda: received.children(sent), "the replica's own span")
        assert (taken.name, taken.instance) == ("replica.write", stale.name)

        # Whom a busy machine keeps from answering in time is asked again.
        until(lambda: first.repair()["keys_sent"], "it is repaired", 60)
        link = puts[1].trace_id, puts[1].span_id
        (found,) = until(
            lambda: [s for s in received.named("antientropy.round") if link in s.links],
            "the round that repaired",
        )
        assert (found.attributes["dynamo.outcome"], found.attributes["dynamo.keys.sent"]) == (
            "repaired",
            1,
        )
        until(
            lambda: {span.name for span in received.children(found)},
            "what its peer did",
            wanted={"antientropy.answer", "replica.write"},
        )

        ports = free_ports(3)
        new = NodeProcess(
            cluster.folder, "cart-default-3", (ports[0], ports[1], ports[2]), settings
        )
        cluster.extra.append(new)
        new.start()
        everybody = [*cluster.nodes, new]
        assert cluster.ring is not None
        ring = next_ring(cluster.ring, [n.candidate() for n in everybody], "2026-01-02T00:00:00Z")
        for node in everybody:
            assert node.admin("POST", "/admin/ring", ring.to_bytes()).status == 200
        moved = until(lambda: received.named("partition.transfer"), "a partition has moved")
        assert moved[0].instance == new.name
        assert moved[0].attributes["dynamo.peer"] in {node.name for node in cluster.nodes}
        until(
            lambda: any(received.children(s) for s in received.named("partition.transfer")),
            "how long a slot was sealed",
        )
        assert {
            inner.name
            for span in received.named("partition.transfer")
            for inner in received.children(span)
        } == {"partition.seal"}


def test_a_dead_collector_harms_nobody_and_the_node_ends_in_time(
    make_cluster: Callable[..., Cluster],
) -> None:
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        [node] = make_cluster(
            nodes=1,
            replication=1,
            tracing={"endpoint": f"http://127.0.0.1:{port}/v1/traces", "sampleRatio": 1},
        ).nodes
        for n in range(300):
            assert node.put(b"k%d" % n, b"v").status == 204
        # Refused instead of hanging, then a real one: nothing is restarted for it.
        told(node, "grpc://127.0.0.1:1", 1)
        assert node.put(b"k", b"v").status == 204
        with http_receiver() as received:
            told(node, received.endpoint, 1)
            assert node.put(b"k", b"v").status == 204
            until(lambda: received.named("dynamo.put"), "its spans")
            bad = json.dumps({"tracing": {"endpoint": "http://h:1"}}).encode()
            assert b"which protocol" in node.admin("PUT", "/admin/settings", bad).body
        told(node, f"http://127.0.0.1:{port}/v1/traces", 1)
        assert node.put(b"k", b"v").status == 204
        node.terminate()
        assert node.wait_end(20) == 0


def test_a_node_without_an_endpoint_does_not_import_the_sdk(
    make_cluster: Callable[..., Cluster],
) -> None:
    [node] = make_cluster(nodes=1, replication=1).nodes
    assert node.status()["tracing"]["on"] is False
    assert node.process is not None
    maps = Path(f"/proc/{node.process.pid}/maps").read_text()
    assert "grpc" not in maps
