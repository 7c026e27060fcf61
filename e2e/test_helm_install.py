"""A store whose operator changes hands: from kustomize to Helm, other values and back, to
nobody, and to kustomize again. Clients are to notice none of it.

Forbidden here: importing the product.
"""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from e2e.chart import DEFINITION, KUSTOMIZED, Release
from e2e.conftest import Clusters, Tell
from e2e.dynamo_cluster import Dynamo
from e2e.kube import IMAGES, OPERATOR, SYSTEM, Kubectl, install, until
from e2e.load import figures, loaded

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(shutil.which("helm") is None, reason="helm isn't here"),
]
WAIT = ("--wait", "--timeout=180s")


@pytest.fixture
def system(kubectl: Kubectl) -> Iterator[Kubectl]:
    """Where the operator lives, which is kustomize's again in the end, whatever happened."""
    system = kubectl.at(SYSTEM)
    yield system
    Release(system).uninstall(*WAIT)
    install(kubectl)


def _values(**changes: Any) -> dict[str, Any]:
    """The images of this run."""
    return {"image": _image(IMAGES["operator"]), "nodeImage": IMAGES["node"], **changes}


def _image(name: str) -> dict[str, str]:
    """`registry:5000/operator:7` or `...@sha256:...`, as the chart takes it."""
    repository, at, digest = name.partition("@")
    if at:
        return {"repository": repository, "digest": digest}
    repository, _, tag = name.rpartition(":")
    return {"repository": repository, "tag": tag}


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("dynamo-operator:e2e", {"repository": "dynamo-operator", "tag": "e2e"}),
        ("kind:5000/a/b:7", {"repository": "kind:5000/a/b", "tag": "7"}),
        ("kind:5000/b@sha256:12", {"repository": "kind:5000/b", "digest": "sha256:12"}),
    ],
)
def test_an_image_is_given_in_parts(name: str, image: dict[str, str]) -> None:
    assert _image(name) == image


def _gone(system: Kubectl) -> None:
    until(lambda: not system.items("pods", OPERATOR), "no operator runs")
    assert "dynamo-operator" not in system.items("clusterroles")


def _arguments(system: Kubectl, pods: int) -> list[str]:
    """What so many pods of the operator, and no other, are started with, as all of them are."""

    def rolled() -> bool:
        return len(system.items("pods", OPERATOR)) == pods

    until(rolled, f"{pods} pod(s) of the operator")
    found = [
        pod["spec"]["containers"][0]["args"] for pod in system.items("pods", OPERATOR).values()
    ]
    assert all(one == found[0] for one in found)
    return list(found[0])


def _scale(dynamo: Dynamo, replicas: int) -> float:
    """By whoever is the operator now; seconds until all is settled."""
    dynamo.scale(replicas)
    return dynamo.until_settled(replicas)


def _lives(dynamo: Dynamo) -> dict[str, Any]:
    """Pod -> which one it is, and how often its containers began."""
    return {
        name: (pod["metadata"]["uid"], [one["restartCount"] for one in _containers(pod)])
        for name, pod in dynamo.pods().items()
    }


def _containers(pod: Any) -> list[Any]:
    return list(pod["status"].get("containerStatuses", ()))


def _kept(system: Kubectl, dynamo: Dynamo) -> list[str]:
    """The definition and the DynamoCluster, neither of which is on its way out."""
    found = [system.json("get", "crd", DEFINITION), dynamo.seen()]
    assert not any("deletionTimestamp" in one["metadata"] for one in found)
    return [one["metadata"]["uid"] for one in found]


def test_the_operator_goes_to_helm_and_back_under_load(
    clusters: Clusters, kubectl: Kubectl, system: Kubectl, tell: Tell
) -> None:
    definition = system.json("get", "crd", DEFINITION)["metadata"]["uid"]
    system.run("delete", *KUSTOMIZED)
    _gone(system)
    release = Release(system)
    release.install("--take-ownership", *WAIT, **_values())
    assert "--log-format=json" in _arguments(system, pods=2)
    took = []
    with clusters("helm") as dynamo:
        kept, first = _kept(system, dynamo), _lives(dynamo)
        assert kept[0] == definition, "the definition was made anew"
        with loaded(dynamo) as report:
            release.upgrade(*WAIT, **_values(replicas=1, logFormat="text", resyncSeconds=30))
            arguments = _arguments(system, pods=1)
            assert {"--log-format=text", "--resync-seconds=30"} <= set(arguments)
            took.append(_scale(dynamo, 4))
            release.upgrade(*WAIT, **_values())
            assert {"--log-format=json", "--resync-seconds=15"} <= set(_arguments(system, pods=2))
            took.append(_scale(dynamo, 3))

            release.uninstall(*WAIT)
            _gone(system)
            dynamo.cli("put", "meanwhile", "served")
            assert dynamo.cli("get", "meanwhile") == "served"
            assert _kept(system, dynamo) == kept

            install(kubectl)
            took.append(_scale(dynamo, 4))
        assert _kept(system, dynamo) == kept
        now = _lives(dynamo)
        assert {name: now.get(name) for name in first} == first, "a change of operator restarts"
    seconds = ", ".join(f"{one:.0f} s" for one in took)
    tell(f"scaled after each change of hands in {seconds}; {figures(report)}")
