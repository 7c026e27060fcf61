"""dynamo bench: what is drawn, what is measured, and what is said."""

import json
import random
from collections import Counter
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from tests.client.fake_cluster import FakeCluster
from tests.client.real_cluster import RealCluster

from dynamo_client.cli import dynamo
from dynamo_client.cli.latencies import Latencies
from dynamo_client.cli.workload import Load, Workload
from dynamo_client.client import DynamoClient, Protocol


def _bench(url: str, *args: str) -> Result:
    few = ("--duration", "0.3", "--keys", "40", "--value-bytes", "100")
    return CliRunner().invoke(dynamo, ["bench", *few, *args], env={"DYNAMO_URL": url})


def _figures(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@given(st.lists(st.floats(1e-6, 3000), min_size=1, max_size=50), st.sampled_from([50, 90, 99.9]))
def test_percentiles_are_within_a_percent(seconds: list[float], percent: float) -> None:
    found = Latencies()
    for each in seconds:
        found.add(each)
    rank = max(1, int(-(-len(seconds) * percent // 100)))
    assert found.percentile_s(percent) == pytest.approx(sorted(seconds)[rank - 1], rel=0.011)


def test_latencies_of_nothing_and_of_both() -> None:
    assert Latencies().document()["p99_ms"] == 0
    one, other = Latencies(), Latencies()
    one.add(0.001)
    other.add(0.003)
    other.add(0.0)  # shorter than the clock can tell
    other.add(1e9)  # longer than there are buckets
    both = one.merged(other)
    assert both.count == 4
    assert both.document()["p50_ms"] == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("distribution", ["uniform", "zipfian"])
def test_draws(distribution: Any) -> None:
    workload = Workload(keys=100, distribution=distribution)
    draw = workload.draw(random.Random(7))
    drawn = Counter(draw() for _ in range(20_000))
    assert set(drawn) <= set(range(100))
    share = drawn[0] / 20_000
    if distribution == "uniform":
        assert share < 0.02
    else:
        harmonic = sum(rank**-0.99 for rank in range(1, 101))
        assert share == pytest.approx(1 / harmonic, rel=0.1)
        assert drawn[0] > drawn[9] > drawn[90]


def test_a_run_over_any_protocol(cluster: FakeCluster | RealCluster, protocol: Protocol) -> None:
    result = _bench(cluster.urls[0], "--json", "--protocol", protocol, "--concurrency", "4")
    found = _figures(result)
    assert found["settings"]["protocol"] == protocol
    assert found["operations"] == found["get"]["count"] + found["put"]["count"] > 10
    assert found["failed"] == 0
    assert 0 < found["generator_cores"] < 2
    for name in ("get", "put", "all"):
        figures = found[name]
        assert 0 < figures["p50_ms"] <= figures["p90_ms"] <= figures["p99_ms"]
        assert figures["p99_ms"] <= figures["p99.9_ms"]
    assert found["ops_per_second"] == pytest.approx(
        found["operations"] / found["seconds"], rel=0.01
    )


def test_the_table_for_people(fake: FakeCluster) -> None:
    result = _bench(fake.urls[0], "--protocol", "http", "--read-ratio", "1")
    assert result.exit_code == 0
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["OPS/S", "P50", "MS", "P90", "MS", "P99", "MS", "P99.9", "MS"]
    assert [row.split()[0] for row in rows] == ["get", "all"]
    assert "the generator took" in result.stderr


async def test_hot_keys_pile_up_no_siblings(cluster: FakeCluster | RealCluster) -> None:
    workload = Workload(keys=3, value_bytes=10, read_ratio=0.2, distribution="zipfian")
    async with DynamoClient(cluster.urls) as kv:
        for _ in range(2):  # a second run finds the keys of the first
            load = Load(kv, workload, concurrency=8, seed=1)
            await load.prepare()
            await load.run(0.3)
            assert load.puts.count > 0
            assert load.gets.count > 0
            assert not load.failures
        for number in range(3):
            assert len((await kv.get(workload.key(number))).siblings) == 1


def test_failures_are_counted_and_a_lost_cluster_ends_the_run(fake: FakeCluster) -> None:
    fake.nodes[0].faults.extend([""] * 200 + ["unavailable"] * 10_000)
    for node in fake.nodes[1:]:
        node.fault_forever = "unavailable"
    result = _bench(
        fake.urls[0], "--protocol", "http", "--keys", "1", "--duration", "60", "--json",
        "--concurrency", "2",
    )  # fmt: skip
    assert result.exit_code == 3
    assert "requests failed" in result.stderr
    assert "nothing succeeded any more: 1 of 2 replicas answered" in result.stderr
    assert json.loads(result.stdout)["failures"]["Unavailable (unavailable)"] >= 20


def test_native_that_cannot_be_reached_says_so(fake: FakeCluster) -> None:
    result = _bench(fake.urls[0])
    assert result.exit_code == 3
    assert "names no native address" in result.stderr


@pytest.mark.parametrize(
    "wrong",
    [("--read-ratio", "2"), ("--keys", "0"), ("--protocol", "auto"), ("--duration", "0")],
)
def test_wrong_options(fake: FakeCluster, wrong: tuple[str, str]) -> None:
    result = _bench(fake.urls[0], *wrong)
    assert result.exit_code == 2
    assert wrong[0] in result.stderr
