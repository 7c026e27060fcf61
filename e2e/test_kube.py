"""The operator on a real Kubernetes cluster: what people do to a store, and what befalls it.

Each scenario runs in a namespace of its own, most of them beside a load that is judged in
the end: no request failed, no acknowledged write was lost, all copies are equal.
"""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from e2e.conftest import Tell
from e2e.dynamo_cluster import NAME, Dynamo, dynamo_cluster, loaded
from e2e.kube import NEXT_NODE_IMAGE, SYSTEM, Kubectl, install_inside, kube_cluster, until

pytestmark = pytest.mark.timeout(900)
OPERATOR = "app.kubernetes.io/name=dynamo-operator"


@pytest.fixture(scope="module")
def kubectl() -> Iterator[Kubectl]:
    with kube_cluster() as found:
        yield found


def _scale(dynamo: Dynamo, replicas: int) -> None:
    dynamo.kubectl.run("scale", "dyn", NAME, f"--replicas={replicas}")


def _figures(report: dict[str, Any]) -> str:
    counts = report["counts"]
    return (
        f"{counts['acknowledged']:,} writes and {counts['gets']:,} reads answered, "
        f"{report['failed_requests']} requests failed, {len(report['violations'])} promises broken"
    )


def _kill(kubectl: Kubectl, *pods: str) -> None:
    kubectl.run("delete", "pod", *pods, "--grace-period=0", "--force", "--wait=false")


def _uids(dynamo: Dynamo) -> dict[str, str]:
    return {name: pod["metadata"]["uid"] for name, pod in dynamo.pods().items()}


def test_scaling_under_load(kubectl: Kubectl, tell: Tell) -> None:
    with dynamo_cluster(kubectl, "scaling") as dynamo:
        with loaded(dynamo) as report:
            _scale(dynamo, 5)
            up = dynamo.until_settled(5)
            assert len(dynamo.pods()) == 5
            _scale(dynamo, 3)
            down = dynamo.until_settled(3)
            assert len(dynamo.pods()) == len(dynamo.claims()) == 3
        tell(dynamo.kubectl.run("get", "dyn"))
        tell(f"3 -> 5 in {up:.0f} s, 5 -> 3 in {down:.0f} s; {_figures(report)}")


def test_a_change_of_mind_under_load(kubectl: Kubectl, tell: Tell) -> None:
    with dynamo_cluster(kubectl, "mind") as dynamo, loaded(dynamo) as report:
        _scale(dynamo, 5)
        until(lambda: not dynamo.status["ring"]["settled"], "data moves", pause_s=0.1)
        _scale(dynamo, 3)
        dynamo.until_settled(3)
        _scale(dynamo, 4)
        dynamo.until_settled(4)
        _scale(dynamo, 3)
        until(lambda: dynamo.status.get("operation", {}).get("kind") == "ScaleDown", "a drain")
        _scale(dynamo, 4)
        dynamo.until_settled(4)
    tell(_figures(report))


def test_pods_killed_under_load(kubectl: Kubectl, tell: Tell) -> None:
    with dynamo_cluster(kubectl, "killed") as dynamo:
        with loaded(dynamo) as report:
            for pod in sorted(dynamo.pods()):
                before = _uids(dynamo)[pod]
                _kill(dynamo.kubectl, pod)
                until(lambda p=pod, b=before: _uids(dynamo).get(p, b) != b, f"{pod} is made anew")
                dynamo.until_settled(3)
        tell(_figures(report))


def test_a_volume_lost_under_load(kubectl: Kubectl, tell: Tell) -> None:
    """Its PersistentVolume is gone, so the claim is Lost: the operator proves it and replaces."""
    with dynamo_cluster(kubectl, "volume") as dynamo:
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
            _kill(dynamo.kubectl, victim.removeprefix("data-"))

            def replaced() -> bool:
                found = dynamo.claims().get(victim)
                return found is not None and found["spec"].get("volumeName", "") not in (volume, "")

            took = until(replaced, "the claim has a new volume")
            dynamo.until_settled(3)
            after = {node["name"]: node["incarnation"] for node in dynamo.status["nodes"]}
            assert sum(after[name] != incarnations[name] for name in after) == 1
        tell(f"replaced after {took:.0f} s; {_figures(report)}")


def test_the_operator_killed_in_the_middle_of_scaling_down(kubectl: Kubectl, tell: Tell) -> None:
    with dynamo_cluster(kubectl, "absent", replicas=5) as dynamo:
        with loaded(dynamo) as report:
            system = kubectl.at(SYSTEM)
            _scale(dynamo, 3)
            kills = 0

            def in_the_middle() -> bool:
                return dynamo.status.get("operation", {}).get("kind") == "ScaleDown"

            def over() -> bool:
                nonlocal kills
                if in_the_middle() and kills < 3:
                    _kill(system, *system.items("pods", OPERATOR))
                    kills += 1
                return bool(dynamo.settled(3))

            until(over, "three nodes are settled", 300.0, pause_s=2.0)
            assert kills
            assert len(dynamo.pods()) == len(dynamo.claims()) == 3
        tell(f"operator killed {kills} times; {_figures(report)}")


def _images(dynamo: Dynamo) -> set[str]:
    return {
        container["image"]
        for pod in dynamo.pods().values()
        for container in pod["spec"]["containers"]
    }


def _ready(dynamo: Dynamo) -> int:
    return sum(
        all(
            status["ready"] for status in pod["status"].get("containerStatuses", [{"ready": False}])
        )
        for pod in dynamo.pods().values()
    )


@pytest.mark.skipif(not NEXT_NODE_IMAGE, reason="E2E_IMAGE_NODE_NEXT names no second image")
def test_a_rolling_image_change_under_load(kubectl: Kubectl, tell: Tell) -> None:
    with dynamo_cluster(kubectl, "rolling") as dynamo:
        with loaded(dynamo) as report:
            before = _uids(dynamo)
            dynamo.apply(image=NEXT_NODE_IMAGE)
            least = 3

            def rolled() -> bool:
                nonlocal least
                least = min(least, _ready(dynamo))
                return _images(dynamo) == {NEXT_NODE_IMAGE} and bool(dynamo.settled(3))

            took = until(rolled, "all pods have the next image", 300.0, pause_s=0.1)
            assert not set(before.values()) & set(_uids(dynamo).values())
            assert least >= 2, "more than one pod was down"
        tell(f"rolled in {took:.0f} s; {_figures(report)}")


def test_a_broken_image_harms_one_pod_and_the_next_spec_heals_it(
    kubectl: Kubectl, tell: Tell
) -> None:
    with dynamo_cluster(kubectl, "broken") as dynamo:
        with loaded(dynamo) as report:
            before = _uids(dynamo)
            dynamo.apply(image="dynamo-node:there-is-none")

            def trouble() -> bool:
                return "there-is-none" in str(dynamo.condition("Degraded")) + str(
                    dynamo.condition("Progressing")
                )

            until(trouble, "the status names what is wrong")
            tell(f"Degraded: {dynamo.condition('Degraded')}")
            assert sum(_uids(dynamo).get(name) == uid for name, uid in before.items()) == 2
            dynamo.apply()
            took = dynamo.until_settled(3)
        tell(f"healed in {took:.0f} s; {_figures(report)}")


def test_a_volume_grows(kubectl: Kubectl, tell: Tell) -> None:
    """Where its class lets it; elsewhere the status names the claim, and all goes on."""
    with dynamo_cluster(kubectl, "growing") as dynamo:
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
    kubectl: Kubectl, tell: Tell
) -> None:
    """It scales by its bounds alone: that takes no metrics, and is how it writes the scale."""
    pool = {"name": "large", "replicas": 1, "capacity": "2"}
    with dynamo_cluster(kubectl, "hpa", pools=[pool]) as dynamo:
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


def test_deleted_and_made_again_with_its_data(kubectl: Kubectl) -> None:
    with dynamo_cluster(kubectl, "again") as dynamo:
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


def test_deletions_need_no_operator(kubectl: Kubectl, no_operator: Callable[[], None]) -> None:
    deleted = {"size": "1Gi", "whenDeleted": "Delete"}
    with (
        dynamo_cluster(kubectl, "deleted", storage=deleted) as one,
        dynamo_cluster(kubectl, "namespace") as other,
    ):
        no_operator()
        one.kubectl.run("delete", "dyn", NAME, "--timeout=60s")
        until(lambda: not one.pods() and not one.claims(), "pods and claims are gone")
        left = one.kubectl.items("statefulsets,secrets,configmaps,services", "")
        assert not [name for name in left if name.startswith(NAME)]
        kubectl.run("delete", "namespace", other.kubectl.namespace, "--timeout=120s")


def test_an_operator_inside_one_namespace_goes_with_it(
    kubectl: Kubectl, no_operator: Callable[[], None], tell: Tell
) -> None:
    no_operator()
    inside = kubectl.at(f"e2e-inside-{os.urandom(3).hex()}")
    kubectl.run("create", "namespace", inside.namespace)
    try:
        install_inside(inside)
        dynamo = Dynamo(inside)
        dynamo.apply()
        dynamo.until_settled(3)
        tell(f"Degraded: {dynamo.condition('Degraded')[2]}")
        _scale(dynamo, 4)
        dynamo.until_settled(4)
        kubectl.run("delete", "namespace", inside.namespace, "--timeout=120s")
    finally:
        kubectl.run("delete", "namespace", inside.namespace, "--wait=false", check=False)


def test_a_pod_comes_back_without_the_operator(
    kubectl: Kubectl, no_operator: Callable[[], None], tell: Tell
) -> None:
    with dynamo_cluster(kubectl, "alone") as dynamo:
        with loaded(dynamo) as report:
            no_operator()
            for pod in sorted(dynamo.pods()):
                before = _uids(dynamo)[pod]
                _kill(dynamo.kubectl, pod)

                def back(pod: str = pod, before: str = before) -> bool:
                    return _uids(dynamo).get(pod, before) != before and _ready(dynamo) == 3

                until(back, f"{pod} is back")
        tell(_figures(report))
