"""`GET /metrics` of real nodes: what is counted, and what is said in trouble."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp.test_utils import make_mocked_request
from tests.node.node_processes import Cluster, until
from tests.node.prometheus_text import OPENMETRICS, families, metric, series
from tests.operator.monitoring_files import EXPRESSIONS
from tests.operator.promql import unknown

from dynamo_node import metrics
from dynamo_node.availability import Availability
from dynamo_node.metrics import NoStore, Page

Clusters = Callable[..., Cluster]

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = {
    "dynamo_requests_total": {"op", "outcome"},
    "dynamo_request_duration_seconds": {"op"},
    "dynamo_siblings": {"op"},
    "dynamo_hints_pending": {"target"},
    "dynamo_hints_delivered_total": set(),
    "dynamo_read_repairs_total": set(),
    "dynamo_antientropy_rounds_total": set(),
    "dynamo_antientropy_repaired_keys_total": set(),
    "dynamo_transfer_bytes_total": set(),
    "dynamo_ring_epoch": set(),
    "dynamo_ring_imbalance_ratio": set(),
    "dynamo_background_share": set(),
    "dynamo_event_loop_lag_seconds": set(),
    "dynamo_storage_commit_duration_seconds": set(),
}
"""What was promised to dashboards: names and labels; more may come, none may go."""


def documented() -> dict[str, tuple[str, set[str]]]:
    """The table of docs/operating.md: name -> (type, labels)."""
    rows = re.findall(
        r"^\| `((?:dynamo|process)_\w+)` \| (\w+) \|([^|]*)\|",
        (ROOT / "docs/operating.md").read_text(),
        re.MULTILINE,
    )
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_every_metric_is_documented_promised_and_there(make_cluster: Clusters) -> None:
    """After one of everything: a put, get, delete, sibling, refusal, hint and its delivery."""
    cluster = make_cluster()
    here, _, away = cluster.nodes
    counted = {
        ("put", "written"): 3,
        ("get", "values"): 2,
        ("get", "absent"): 1,
        ("get", "bad_request"): 2,
        ("put", "too_large"): 1,
        ("delete", "written"): 1,
        ("delete", "absent"): 1,
    }
    context = here.put(b"a", b"1").context
    assert here.get(b"a").status == 200
    here.put(b"b", b"1")
    here.put(b"b", b"2")
    assert here.get(b"b").status == 300
    assert here.delete(b"a", context).status == 204
    assert here.delete(b"a").status == 404
    assert here.get(b"a").status == 404
    assert here.http("GET", "/kv/").status == 400
    assert here.get(b"a", r=9).status == 400
    assert here.put(b"k" * 1025, b"").status == 413
    found = {
        key: metric(here, "dynamo_requests_total", op=key[0], outcome=key[1]) for key in counted
    }
    assert found == counted
    for op, count in (("put", 3), ("get", 3), ("delete", 2)):
        assert metric(here, "dynamo_request_duration_seconds_count", op=op) == count
    assert metric(here, "dynamo_siblings_sum", op="get") == 1 + 2
    assert metric(here, "dynamo_siblings_sum", op="put") == 1 + 1 + 2
    assert metric(here, "dynamo_storage_commit_duration_seconds_count") >= 4
    assert sum(metric(n, "dynamo_requests_total", op="put", outcome="written")
               for n in cluster.nodes) == 3  # a forwarded one counts once  # fmt: skip
    away.kill()
    until(lambda: metric(here, "dynamo_members", state="down"), "it is seen as down", wanted=1)
    until(lambda: metric(here, "dynamo_partitions_below_quorum", op="get") == 0, "R are there")
    until(lambda: metric(here, "dynamo_partitions_degraded"), "one of N is missing", wanted=16)
    here.put(b"hinted", b"1", w=2)
    until(lambda: metric(here, "dynamo_hints_pending", target=away.name), "a hint waits", wanted=1)
    assert metric(here, "dynamo_hints_bytes") > 0

    until(lambda: families(here)["dynamo_background_seconds"].samples, "some work was done")

    names = series(families(here))
    families_there = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    table = documented()
    told = {name for name in families_there if not name.startswith("process_")}
    assert told == {name for name in table if not name.startswith("process_")}
    assert set(CONTRACT) <= told
    for name, family in families(here).items():
        shown = name + ("_total" if family.type == "counter" else "")
        if shown not in table:
            assert shown.startswith("process_"), shown
            continue
        kind, labels = table[shown]
        assert family.type == kind, shown
        used = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert used == labels, shown
        assert CONTRACT.get(shown, labels) == labels, shown

    wrong = {where: unknown(text, names) for where, text in EXPRESSIONS}
    assert {where: found for where, found in wrong.items() if found} == {}, "dashboard, alerts"

    away.start()
    away.wait_ready()
    until(lambda: metric(here, "dynamo_hints_pending", target=away.name) == 0, "it is delivered")
    assert metric(here, "dynamo_hints_delivered_total") == 1
    assert away.name in str(families(here)["dynamo_hints_pending"].samples), "a 0, not a gap"
    until(lambda: metric(here, "dynamo_partitions_degraded") == 0, "nothing is missing")


def test_a_repair_by_a_read_and_a_lost_quorum_are_counted(make_cluster: Clusters) -> None:
    """No room for hints, no anti-entropy: nobody but a read mends what a node has missed."""
    cluster = make_cluster(
        timing={"drain_ms": 50, "antientropy_ms": 600_000},
        storage={"memory_bytes": 16 << 20, "hints_bytes_max": 0},
    )
    here, other, away = cluster.nodes
    away.kill()
    until(lambda: metric(here, "dynamo_members", state="down"), "it is seen as down", wanted=1)
    assert here.put(b"r", b"1").status == 204
    marked = ("dynamo_hints_pending", {"target": away.name})
    until(lambda: sum(metric(n, marked[0], **marked[1]) for n in (here, other)), "it is marked")
    away.start()
    away.wait_ready()
    until(lambda: metric(here, "dynamo_members", state="up"), "it is seen again", wanted=3)

    def repaired() -> float:
        assert here.get(b"r").status == 200
        return metric(here, "dynamo_read_repairs_total")

    until(repaired, "a read repairs it")
    for gone in (other, away):
        gone.kill()
    below = "dynamo_partitions_below_quorum"
    until(lambda: metric(here, below, op="get"), "reads lack R", wanted=16)
    assert metric(here, below, op="put") == 16
    assert here.get(b"x", timeout_ms=100).status == 503
    assert metric(here, "dynamo_requests_total", op="get", outcome="unavailable") == 1


def test_openmetrics_has_exemplars_of_sampled_requests_alone(cluster: Cluster, key: bytes) -> None:
    node = cluster.nodes[0]

    def traced() -> set[str]:
        family = families(node, OPENMETRICS)["dynamo_request_duration_seconds"]
        return {s.exemplar.labels["trace_id"] for s in family.samples if s.exemplar}

    node.http("GET", f"/kv/{key.hex()}", traceparent=f"00-{'aa' * 16}-{'cd' * 8}-00")
    assert traced() == set()
    node.http("GET", f"/kv/{key.hex()}", traceparent=f"00-{'bb' * 16}-{'cd' * 8}-01")
    assert traced() == {"bb" * 16}
    assert b"trace_id" not in node.http("GET", "/metrics").body, "the text form has none"


def test_a_node_without_a_ring_answers(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1)
    try:
        node = cluster.nodes[0]
        node.start()
        node.wait_up()
        assert metric(node, "dynamo_node_state", state="waiting") == 1
        assert metric(node, "dynamo_ready") == 0
        assert metric(node, "dynamo_ring_epoch") == 0
        assert node.put(b"a", b"1").status == 503
        assert metric(node, "dynamo_requests_total", op="put", outcome="overloaded") == 1
        assert node.http("POST", "/metrics").status == 405
        assert node.http("HEAD", "/metrics").status == 200
    finally:
        cluster.close()


@pytest.mark.parametrize(
    "accept", ["text/plain;version=x", "application/openmetrics-text;version=a"]
)
def test_a_version_that_is_none_gets_the_plain_form(accept: str) -> None:
    request = make_mocked_request("GET", "/metrics", headers={"Accept": accept})
    reply = Page(NoStore()).response(request)
    assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")


async def test_scrapes_at_once_go_through_the_partitions_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when the one that began it goes away."""
    looks = 0

    async def look(node: object) -> Availability:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)
        return Availability(looks)

    monkeypatch.setattr(metrics, "availability", look)
    collector = metrics._OfNode(cast(Any, None), cast(Any, None))
    tasks = [asyncio.create_task(collector.look()) for _ in range(10)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True] + [False] * 9
    assert (looks, collector._available.below_get) == (1, 1)
    await collector.look()
    assert looks == 2


def test_without_a_store_a_process_says_so() -> None:
    """test_a_start_on_a_disk_that_does_not_work_waits_for_it asks a real one."""
    reply = Page(NoStore()).response(make_mocked_request("GET", "/metrics"))
    assert isinstance(reply.body, bytes)
    text = reply.body.decode()
    assert 'dynamo_node_state{state="failed"} 1.0' in text
    assert 'dynamo_disk_state{state="failed"} 1.0' in text
    assert "dynamo_build_info{" in text
    assert "process_resident_memory_bytes" in text
