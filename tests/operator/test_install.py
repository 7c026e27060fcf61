"""What is applied to install the operator says what the operator needs, and nothing else."""

import json
import re
from typing import Any

import pytest
import yaml
from tests.operator.programs import ROOT, loaded

from dynamo_operator.kube import main, pods

FOLDER = ROOT / "charts/kustomize"


def documents(file: str) -> dict[tuple[str, str], Any]:
    found = yaml.safe_load_all((FOLDER / file).read_text())
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


@pytest.fixture
def deployment() -> Any:
    return documents("operator/operator.yaml")["Deployment", "dynamo-operator"]


def test_what_follows_from_the_code_is_as_the_code_says() -> None:
    """Roles, and the chart's definition: `make crd` writes them anew."""
    for path, text in loaded("install_files").files():
        assert (ROOT / path).read_text() == text, path


def test_bindings_are_of_their_roles_and_of_the_operators_account() -> None:
    for file in ("cluster-role.yaml", "namespaced/role.yaml", "operator/lease-role.yaml"):
        (kind, name), (binding, _) = documents(file)
        found = documents(file)[binding, name]
        assert binding == f"{kind}Binding"
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        assert found["roleRef"] == reference
        assert found["subjects"] == [{"kind": "ServiceAccount", "name": "dynamo-operator"}]


def test_nodes_let_the_pods_labels_in(deployment: Any) -> None:
    """Its NetworkPolicies name them, by the option's default."""
    option = next(one for one in main.main.params if one.name == "pod_labels")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert json.loads(str(option.default)).items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_environment_and_the_arguments_are_options(deployment: Any) -> None:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    known = {option for one in main.main.params for option in one.opts}
    environment = {f"{main.PREFIX}_{str(one.name).upper()}" for one in main.main.params}
    assert {one.split("=")[0] for one in container["args"]} <= known
    assert {one["name"] for one in container["env"]} <= environment
    patch = (FOLDER / "namespaced/kustomization.yaml").read_text()
    assert '["--namespace=$(NAMESPACE)"]' in patch
    assert "--namespace" in known


def test_the_pod_meets_the_restricted_standard(deployment: Any) -> None:
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pods.USER
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_probes_ask_the_port_on_which_it_answers(deployment: Any) -> None:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    option = next(one for one in main.main.params if one.name == "liveness_port")
    assert container["ports"] == [{"name": "health", "containerPort": option.default}]
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness")}
    assert asked == {
        "liveness": {"path": "/healthz", "port": "health"},
        "readiness": {"path": "/readyz", "port": "health"},
    }


def test_jaeger_on_kind_is_the_image_that_the_script_replaces() -> None:
    script = (ROOT / "scripts/kind_up").read_text()
    (default,) = re.findall(r"^JAEGER_DEFAULT=(\S+)$", script, re.MULTILINE)
    found = list(yaml.safe_load_all((ROOT / "e2e/jaeger.yaml").read_text()))
    (deployment,) = [one for one in found if one["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == default
    (service,) = [one for one in found if one["kind"] == "Service"]
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    assert f"http://{name}.{namespace}:4317" in script
