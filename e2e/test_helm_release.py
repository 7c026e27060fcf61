"""Who has the definition: kustomize, Helm, and what goes from one to the other.

On the API server that KUBEBUILDER_ASSETS has, without any machine: objects are made, and no pod
of them runs. What a running store makes of it is for test_helm_install.py. Forbidden here:
importing the product.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.chart import CHART, DEFINITION, KUSTOMIZED, Release
from e2e.kube import ROOT, SYSTEM, Failed, Kubectl, command, until
from tests.operator.api_server import MISSING, WHY_SKIPPED, api_server

ABSENT = [tool for tool in ("helm", "kubectl") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.skipif(bool(ABSENT), reason=f"{ABSENT} isn't here"),
    pytest.mark.skipif(bool(MISSING), reason=WHY_SKIPPED),
]
OWNED = "deployments,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
LABEL = "app.kubernetes.io/name=dynamo-operator"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    folder = tmp_path_factory.mktemp("helm")
    with api_server(folder / "server") as server:
        yield Kubectl(str(server.kubeconfig(folder / "kubeconfig")))


@pytest.fixture
def system(running: Kubectl) -> Iterator[Kubectl]:
    """The namespace of the operator; nothing of it is there, and nothing stays."""
    system = running.at(SYSTEM)
    if SYSTEM not in running.items("namespaces"):
        running.run("create", "namespace", SYSTEM)
    yield system
    Release(system).uninstall()
    system.run("delete", "--ignore-not-found", *KUSTOMIZED)
    running.run("delete", "crd", DEFINITION, "--ignore-not-found", "--timeout=60s")


def kustomized(system: Kubectl) -> None:
    text = command("kubectl", "kustomize", "charts/kustomize")
    system.run("apply", "--server-side", "-f", "-", text=text)


def definition(system: Kubectl) -> Any:
    return system.json("get", "crd", DEFINITION)


def a_cluster(system: Kubectl) -> str:
    """The uid of a DynamoCluster that is made here."""
    text = (ROOT / "examples/minimal.yaml").read_text()
    where = system.at("default")
    until(lambda: where.run("apply", "-f", "-", text=text), "the definition is served", 30.0)
    (uid,) = uids(system)
    return uid


def uids(system: Kubectl) -> list[str]:
    """Of all DynamoClusters, of which none is on its way out, nor is their definition."""
    found = list(system.at("default").items("dynamoclusters").values())
    assert not any("deletionTimestamp" in one["metadata"] for one in (*found, definition(system)))
    return [one["metadata"]["uid"] for one in found]


@pytest.fixture
def next_chart(tmp_path: Path) -> str:
    """A later chart: of another version, with another definition."""
    folder = tmp_path / "dynamo-operator"
    shutil.copytree(ROOT / CHART, folder)
    about = folder / "Chart.yaml"
    about.write_text(about.read_text().replace("version: 0.1.0", "version: 0.2.0"))
    file = folder / "files/dynamoclusters.yaml"
    later = yaml.safe_load(file.read_text())
    later["spec"]["names"]["shortNames"].append("dynamos")
    later["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "A later one."
    file.write_text(yaml.safe_dump(later))
    return str(folder)


def is_later(system: Kubectl) -> bool:
    spec = definition(system)["spec"]
    told = spec["versions"][0]["schema"]["openAPIV3Schema"]["description"] == "A later one."
    assert told == ("dynamos" in spec["names"]["shortNames"])
    return bool(told)


def test_an_upgrade_brings_its_definition(system: Kubectl, next_chart: str) -> None:
    Release(system).install()
    kept = a_cluster(system)
    assert not is_later(system)
    Release(system, next_chart).upgrade()
    assert is_later(system)
    assert uids(system) == [kept]


def test_uninstalling_leaves_definition_and_clusters(system: Kubectl) -> None:
    Release(system).install()
    kept, before = a_cluster(system), definition(system)["metadata"]["uid"]
    Release(system).uninstall()
    assert system.items(OWNED, LABEL) == {}
    assert definition(system)["metadata"]["uid"] == before
    assert uids(system) == [kept]
    Release(system).install()  # a release of the same name needs no leave
    assert definition(system)["metadata"]["uid"] == before


def test_a_definition_is_left_alone_once_the_chart_has_it_no_more(system: Kubectl) -> None:
    Release(system).install()
    kept = a_cluster(system)
    Release(system).upgrade(crds={"install": False})
    assert uids(system) == [kept]


def test_what_kustomize_made_is_taken_over_only_when_that_is_said(
    system: Kubectl, next_chart: str
) -> None:
    kustomized(system)
    kept, before = a_cluster(system), definition(system)["metadata"]["uid"]
    with pytest.raises(Failed, match="cannot be imported"):
        Release(system).install()
    system.run("delete", *KUSTOMIZED)
    with pytest.raises(Failed, match=f"{DEFINITION}.*cannot be imported"):
        Release(system).install()
    Release(system).install("--take-ownership")
    assert definition(system)["metadata"]["uid"] == before
    later = Release(system, next_chart)
    if helms_major() >= 4:
        # Both have applied it, and a field of two changes for neither unasked.
        with pytest.raises(Failed, match=r'conflicts? with "kubectl"'):
            later.upgrade()
        later.upgrade("--force-conflicts")
    else:
        later.upgrade()
    assert is_later(system)
    Release(system).uninstall()
    assert uids(system) == [kept]


def test_kustomize_takes_over_what_helm_left(system: Kubectl) -> None:
    Release(system).install()
    kept = a_cluster(system)
    Release(system).uninstall()
    kustomized(system)
    assert uids(system) == [kept]
    assert "dynamo-operator" in system.items("deployments")


def helms_major() -> int:
    told = command("helm", "version", "--template", "{{.Version}}")
    return int(told.lstrip("v").split(".")[0])
