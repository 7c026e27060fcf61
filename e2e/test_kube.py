"""The operator on a real Kubernetes cluster: what people do to a store, and what befalls it.

Each scenario runs in a namespace of its own, most of them beside a load that is judged in
the end: no request failed, no acknowledged write was lost, all copies are equal.
"""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from e2e.conftest import Clusters, Tell
from e2e.dynamo_cluster import NAME, Dynamo
from e2e.kube import (
    NEXT_NODE_IMAGE,
    NEXT_OPERATOR_IMAGE,
    OPERATOR,
    SYSTEM,
    Kubectl,
    install_inside,
    kill_operator,
    until,
)
from e2e.load import figures, loaded
from e2e.report import Scenario

pytestmark = pytest.mark.timeout(900)


def test_scaling_under_load(clusters: Clusters, tell: Tell) -> None:
    with clusters("scaling") as dynamo:
        with loaded(dynamo) as report:
            dynamo.scale(5)
            up = dynamo.until_settled(5)
            assert len(dynamo.pods()) == 5
            dynamo.scale(3)
            down = dynamo.until_settled(3)
            assert len(dynamo.pods()) == len(dynamo.claims()) == 3
        tell(dynamo.kubectl.run("get", "dyn"))
        tell(f"3 -> 5 in {up:.0f} s, 5 -> 3 in {down:.0f} s; {figures(report)}")


def test_a_change_of_mind_under_load(clusters: Clusters, tell: Tell) -> None:
    with clusters("mind") as dynamo, loaded(dynamo) as report:
        dynamo.scale(5)
        until(lambda: not dynamo.status["ring"]["settled"], "data moves", pause_s=0.1)
        dynamo.scale(3)
        dynamo.until_settled(3)
        dynamo.scale(4)
        dynamo.until_settled(4)
        dynamo.scale(3)
        until(lambda: dynamo.status.get("operation", {}).get("kind") == "ScaleDown", "a drain")
        dynamo.scale(4)
        dynamo.until_settled(4)
    tell(figures(report))


def test_pods_killed_under_load(clusters: Clusters, tell: Tell) -> None:
    with clusters("killed") as dynamo:
        with loaded(dynamo) as report:
            for pod in sorted(dynamo.pods()):
                before = dynamo.uids()
                dynamo.kill_pods(pod)
                dynamo.until_made_anew(pod, before)
                dynamo.until_settled(3)
        tell(figures(report))


def test_a_volume_lost_under_load(clusters: Clusters, tell: Tell) -> None:
    """Its PersistentVolume is gone, so the claim is Lost: the operator proves it and replaces."""
    with clusters("volume") as dynamo:
        with loaded(dynamo) as report:
            victim = sorted(dynamo.claims())[0]
            claim = dynamo.claims()[victim]
            incarnations = {node["name"]: node["incarnation"] for node in dynamo.status["nodes"]}
            volume = claim["spec"]["volumeName"]
            dynamo.kubectl.run("delete", "pv", volume, "--wait=false")
            patch = json.dumps({"metadata": {"finalizers": None}})
            dynamo.kubectl.run("patch", "pv", volume, "--type=merge", "-p", patch)

            until(lambda: "is Lost" in dynamo.condition("Degraded")[2], "the status tells of it")
            tell(f"Degraded: {dynamo.condition('Degraded')[2]}")
            # While its pod runs it has its data; without the volume it can't start again.
            dynamo.kill_pods(victim.removeprefix("data-"))

            def replaced() -> bool:
                found = dynamo.claims().get(victim)
                return found is not None and found["spec"].get("volumeName", "") not in (volume, "")

            took = until(replaced, "the claim has a new volume")
            dynamo.until_settled(3)
            after = {node["name"]: node["incarnation"] for node in dynamo.status["nodes"]}
            assert sum(after[name] != incarnations[name] for name in after) == 1
        tell(f"replaced after {took:.0f} s; {figures(report)}")


def test_the_operator_killed_in_the_middle_of_scaling_down(
    clusters: Clusters, kubectl: Kubectl, tell: Tell
) -> None:
    with clusters("absent", replicas=5) as dynamo:
        with loaded(dynamo) as report:
            dynamo.scale(3)
            kills = 0

            def in_the_middle() -> bool:
                return bool(dynamo.status.get("operation", {}).get("kind") == "ScaleDown")

            def over() -> bool:
                nonlocal kills
                if in_the_middle() and kills < 3:
                    dynamo.scenario.mark("the operator is killed")
                    kill_operator(kubectl)
                    kills += 1
                return bool(dynamo.settled(3))

            until(over, "three nodes are settled", 300.0, pause_s=2.0)
            assert kills
            assert len(dynamo.pods()) == len(dynamo.claims()) == 3
        tell(f"operator killed {kills} times; {figures(report)}")


@pytest.mark.skipif(not NEXT_OPERATOR_IMAGE, reason="E2E_IMAGE_OPERATOR_NEXT names no image")
def test_the_operator_upgraded_in_the_middle_of_scaling(
    clusters: Clusters, kubectl: Kubectl, tell: Tell
) -> None:
    system, deployment = kubectl.at(SYSTEM), "deployment/dynamo-operator"
    with clusters("upgrade") as dynamo:
        before = dynamo.uids()
        try:
            with loaded(dynamo) as report:
                dynamo.scale(5)
                until(lambda: len(dynamo.pods()) > 3, "pods are made", pause_s=0.1)
                with dynamo.scenario.fault("the operator is upgraded"):
                    system.run("set", "image", deployment, f"operator={NEXT_OPERATOR_IMAGE}")
                    system.run("rollout", "status", deployment, "--timeout=180s")
                dynamo.until_settled(5)
                dynamo.scale(3)
                dynamo.until_settled(3)
        finally:
            system.run("rollout", "undo", deployment)
            system.run("rollout", "status", deployment, "--timeout=180s")
        dynamo.until_settled(3)
        assert dynamo.uids() == before, "an operator's upgrade restarts no node"
        tell(figures(report))


@pytest.mark.skipif(not NEXT_NODE_IMAGE, reason="E2E_IMAGE_NODE_NEXT names no second image")
def test_a_rolling_image_change_under_load(clusters: Clusters, tell: Tell) -> None:
    with clusters("rolling") as dynamo:
        with loaded(dynamo) as report:
            before = dynamo.uids()
            dynamo.apply(image=NEXT_NODE_IMAGE)
            least = 3

            def rolled() -> bool:
                nonlocal least
                least = min(least, dynamo.ready())
                return dynamo.images() == {NEXT_NODE_IMAGE} and bool(dynamo.settled(3))

            took = until(rolled, "all pods have the next image", 300.0, pause_s=0.1)
            assert not set(before.values()) & set(dynamo.uids().values())
            assert least >= 2, "more than one pod was down"
        tell(f"rolled in {took:.0f} s; {figures(report)}")


def test_a_broken_image_harms_one_pod_and_the_next_spec_heals_it(
    clusters: Clusters, tell: Tell
) -> None:
    with clusters("broken") as dynamo:
        with loaded(dynamo) as report:
            before = dynamo.uids()
            dynamo.apply(image="dynamo-node:there-is-none")

            def trouble() -> bool:
                return "there-is-none" in str(dynamo.condition("Degraded")) + str(
                    dynamo.condition("Progressing")
                )

            until(trouble, "the status names what is wrong")
            tell(f"Degraded: {dynamo.condition('Degraded')}")
            assert sum(dynamo.uids().get(name) == uid for name, uid in before.items()) == 2
            dynamo.apply()
            took = dynamo.until_settled(3)
        tell(f"healed in {took:.0f} s; {figures(report)}")


def test_a_volume_grows(clusters: Clusters, kubectl: Kubectl, tell: Tell) -> None:
    """Where its class lets it; elsewhere the status names the claim, and all goes on."""
    with clusters("growing") as dynamo:
        classes = {claim["spec"]["storageClassName"] for claim in dynamo.claims().values()}
        known = kubectl.items("storageclass")
        grow = all(known[one].get("allowVolumeExpansion") for one in classes)
        dynamo.apply(storage={"size": "2Gi"})

        def grown() -> bool:
            sizes = {c["status"]["capacity"]["storage"] for c in dynamo.claims().values()}
            return sizes == {"2Gi"}

        def told() -> bool:
            degraded = dynamo.condition("Degraded")
            return degraded[0] == "True" and "doesn't let it grow" in degraded[2]

        until(grown if grow else told, "claims have grown" if grow else "the status says why not")
        tell(
            "the class can grow, and did"
            if grow
            else "the class can't grow, and the status says so"
        )


def test_an_autoscaler_on_the_default_pool_beside_another_pool(
    clusters: Clusters, tell: Tell
) -> None:
    """It scales by its bounds alone: that takes no metrics, and is how it writes the scale."""
    pool = {"name": "large", "replicas": 1, "capacity": "2"}
    with clusters("hpa", pools=[pool]) as dynamo:
        scaler = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": NAME, "namespace": dynamo.kubectl.namespace},
            "spec": {
                "scaleTargetRef": {
                    "apiVersion": "dynamocluster.io/v1alpha1",
                    "kind": "DynamoCluster",
                    "name": NAME,
                },
                "minReplicas": 4,
                "maxReplicas": 6,
                "metrics": [
                    {
                        "type": "Resource",
                        "resource": {
                            "name": "cpu",
                            "target": {"type": "Utilization", "averageUtilization": 80},
                        },
                    }
                ],
            },
        }
        dynamo.kubectl.apply(scaler)
        dynamo.until_settled(5)

        def scaler_status() -> Any:
            return dynamo.kubectl.json("get", "hpa", NAME)["status"]

        # Those of the default pool, and nobody else.
        until(lambda: scaler_status()["currentReplicas"] == 4, "the autoscaler sees four")
        found = scaler_status()
        tell(dynamo.kubectl.run("get", "hpa,dyn"))
        able = {c["type"]: c["status"] for c in found["conditions"]}
        assert able["AbleToScale"] == "True"
        tokens = {node["name"]: node["tokens"] for node in dynamo.status["nodes"]}
        large = [count for name, count in tokens.items() if "large" in name]
        tell(f"tokens {tokens}")
        assert len(large) == 1
        scaler["spec"]["minReplicas"] = scaler["spec"]["maxReplicas"] = 3  # type: ignore[index]
        dynamo.kubectl.apply(scaler)
        dynamo.until_settled(4)


def test_deleted_and_made_again_with_its_data(clusters: Clusters) -> None:
    with clusters("again") as dynamo:
        dynamo.cli("put", "kept", "for ever")
        claims = {name: c["metadata"]["uid"] for name, c in dynamo.claims().items()}
        dynamo.kubectl.run("delete", "dyn", NAME, "--timeout=60s")
        until(lambda: not dynamo.pods(), "the pods are gone")
        assert {name: c["metadata"]["uid"] for name, c in dynamo.claims().items()} == claims
        dynamo.apply()
        dynamo.until_settled(3)
        assert dynamo.cli("get", "kept") == "for ever"
        assert {name: c["metadata"]["uid"] for name, c in dynamo.claims().items()} == claims


@pytest.fixture
def no_operator(kubectl: Kubectl) -> Iterator[Callable[[], None]]:
    """A way to send the operator away; it is back in the end."""
    system = kubectl.at(SYSTEM)

    def stop() -> None:
        system.run("scale", "deployment", "dynamo-operator", "--replicas=0")
        until(lambda: not system.items("pods", OPERATOR), "no operator runs")

    yield stop
    system.run("scale", "deployment", "dynamo-operator", "--replicas=2")
    system.run("rollout", "status", "deployment/dynamo-operator", "--timeout=120s")


def test_deletions_need_no_operator(
    clusters: Clusters, kubectl: Kubectl, no_operator: Callable[[], None]
) -> None:
    deleted = {"size": "1Gi", "whenDeleted": "Delete"}
    with (
        clusters("deleted", storage=deleted) as one,
        clusters("namespace") as other,
    ):
        no_operator()
        one.kubectl.run("delete", "dyn", NAME, "--timeout=60s")
        until(lambda: not one.pods() and not one.claims(), "pods and claims are gone")
        left = one.kubectl.items("statefulsets,secrets,configmaps,services", "")
        assert not [name for name in left if name.startswith(NAME)]
        kubectl.run("delete", "namespace", other.kubectl.namespace, "--timeout=120s")


def test_an_operator_inside_one_namespace_goes_with_it(
    kubectl: Kubectl, no_operator: Callable[[], None], scenario: Scenario, tell: Tell
) -> None:
    no_operator()
    inside = kubectl.at(f"e2e-inside-{os.urandom(3).hex()}")
    kubectl.run("create", "namespace", inside.namespace)
    try:
        install_inside(inside)
        dynamo = Dynamo(inside, scenario)
        dynamo.apply()
        dynamo.until_settled(3)
        tell(f"Degraded: {dynamo.condition('Degraded')[2]}")
        dynamo.scale(4)
        dynamo.until_settled(4)
        kubectl.run("delete", "namespace", inside.namespace, "--timeout=120s")
    finally:
        kubectl.run("delete", "namespace", inside.namespace, "--wait=false", check=False)


def test_a_pod_comes_back_without_the_operator(
    clusters: Clusters, no_operator: Callable[[], None], tell: Tell
) -> None:
    with clusters("alone") as dynamo:
        with loaded(dynamo) as report:
            no_operator()
            for pod in sorted(dynamo.pods()):
                before = dynamo.uids()
                dynamo.kill_pods(pod)
                dynamo.until_made_anew(pod, before)
                until(lambda: dynamo.ready() == 3, f"{pod} is back")
        tell(figures(report))
