"""The operator's own metrics, as Prometheus reads them."""

from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.operator.kube_fixtures import operator, told
from tests.operator.kube_play import Loopback, playing

from dynamo_operator.kube import kinds
from dynamo_operator.kube.measures import CONTENT_TYPE, Measures
from dynamo_operator.kube.reconcile import builder


def read(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """By name, then by the values of the labels in the order of their names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            found.setdefault(one.name, {})[
                tuple(one.labels[name] for name in sorted(one.labels))
            ] = one.value
    return found


async def test_an_operator_tells_what_it_does(unused_tcp_port: int) -> None:
    measures = Measures()
    async with playing() as play:
        build = builder(
            namespace="dynamo-system",
            labels={"app.kubernetes.io/name": "dynamo-operator"},
            network=Loopback(play),
            measures=measures,
        )
        async with operator(
            play.world, unused_tcp_port, build=build, resync_s=5.0, measures=measures
        ) as running:

            async def now() -> dict[str, dict[tuple[str, ...], float]]:
                return read(await told(unused_tcp_port, "/metrics"))

            play.world.fail("create", kinds.SERVICE_ACCOUNT, code=500)
            play.apply(replicas=3)
            settled = ("dynamo_operator_passes_total", {"outcome": "settled"})
            await play.by_itself(lambda: measures.registry.get_sample_value(*settled))
            found = await now()
            assert found["dynamo_operator_leading"] == {(): 1}
            assert found["dynamo_operator_clusters"] == {(): 1}
            stands = found["dynamo_operator_cluster_condition"]
            assert stands["cart", "Available", "shop", "True"] == 1
            assert stands["cart", "Available", "shop", "False"] == 0
            assert stands["cart", "Blocked", "shop", "False"] == 1
            assert found["dynamo_operator_steps_total"][("DecideRing",)] == 1
            assert found["dynamo_operator_errors_total"] == {("Unreachable",): 1}
            passes = found["dynamo_operator_passes_total"]
            assert passes[("failed",)] == 1
            assert passes[("working",)] >= 1
            taken = found["dynamo_operator_reconcile_duration_seconds_count"][()]
            assert taken >= sum(passes.values())
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{unused_tcp_port}/metrics") as answer,
            ):
                assert answer.headers["Content-Type"] == CONTENT_TYPE
            play.world.remove(kinds.DYNAMO_CLUSTER, "shop", "cart")
            await play.by_itself(lambda: not measures._conditions)
            found = await now()
            assert found["dynamo_operator_clusters"] == {(): 0}
            assert "dynamo_operator_cluster_condition" not in found
            assert await running.end() == 0
    assert "dynamo_operator_leading 0.0" in measures.text().decode()


def test_numbers_of_spans_are_as_the_pipeline_says() -> None:
    measures = Measures()
    facts: dict[str, Any] = {"endpoint": "x", "sent": 2, "failed": 0, "dropped": 1, "waiting": 5}
    measures.spans(lambda: facts)
    found = read(measures.text().decode())["dynamo_operator_spans"]
    assert found == {("sent",): 2, ("failed",): 0, ("dropped",): 1, ("waiting",): 5}


def test_a_condition_that_is_gone_is_told_no_more() -> None:
    measures = Measures()
    blocked = {"conditions": [{"type": "Blocked", "status": "True"}]}
    measures.stands("shop", "cart", blocked)
    measures.stands("shop", "cart", {})
    assert "dynamo_operator_cluster_condition" not in read(measures.text().decode())
    with pytest.raises(ValueError), measures.a_pass():
        raise ValueError("x")
    assert read(measures.text().decode())["dynamo_operator_errors_total"] == {("ValueError",): 1}
