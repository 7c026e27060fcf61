"""The chart as Helm renders it: every switch, and beside what kustomize applies.

No cluster is needed, only helm and kubectl. Forbidden here: importing the product.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.chart import CHART, SWITCHES, chart_text
from e2e.kube import ROOT, Failed, command

NEEDED = ("helm", "kubectl")
MISSING = [tool for tool in NEEDED if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} isn't here")

HELMS = {
    "helm.sh/chart",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "app.kubernetes.io/instance",
}
"""Labels that Helm's objects have, and kustomize's don't."""


def rendered(tmp_path: Path, **values: Any) -> dict[tuple[str, str], Any]:
    """By kind and name, and namespace where it isn't the release's."""
    return _by_name(chart_text(tmp_path, **values))


def _by_name(text: str) -> dict[tuple[str, str], Any]:
    found = [one for one in yaml.safe_load_all(text) if one]
    named = {(one["kind"], _name(one["metadata"])): one for one in found}
    assert len(named) == len(found)
    return named


def _name(metadata: Any) -> str:
    elsewhere = metadata.get("namespace", "dynamo-system") != "dynamo-system"
    return f"{metadata['namespace']}/{metadata['name']}" if elsewhere else str(metadata["name"])


def container(found: dict[tuple[str, str], Any]) -> Any:
    (one,) = found["Deployment", "dynamo-operator"]["spec"]["template"]["spec"]["containers"]
    return one


def environment(found: dict[tuple[str, str], Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container(found)["env"]}


def test_it_passes_lint() -> None:
    command("helm", "lint", "--strict", CHART)


def _plain(value: Any) -> Any:
    """Without what is Helm's alone, and what says nothing."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k not in HELMS}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def test_by_default_it_is_what_kustomize_applies(tmp_path: Path) -> None:
    values = {
        "image": {"repository": "dynamo-operator", "tag": "dev"},
        "nodeImage": "dynamo-node:dev",
    }
    helm = _plain(rendered(tmp_path, **values))
    plain = _plain(_by_name(command("kubectl", "kustomize", "charts/kustomize")))
    del plain["Namespace", "dynamo-system"]  # helm install --create-namespace
    crd = helm["CustomResourceDefinition", "dynamoclusters.dynamocluster.io"]
    assert crd["metadata"]["annotations"].pop("helm.sh/resource-policy") == "keep"
    if not crd["metadata"]["annotations"]:
        del crd["metadata"]["annotations"]
    for found in (helm, plain):
        options = container(found)
        # What is said of an option beside its default is the default.
        for default in (
            "--lease-namespace=dynamo-system",
            "--log-format=json",
            "--resync-seconds=15",
            "--ready-within-seconds=600",
        ):
            if default in options["args"]:
                options["args"].remove(default)
        options.setdefault("imagePullPolicy", "IfNotPresent")
    assert helm.keys() == plain.keys()
    for name, one in plain.items():
        assert helm[name] == one


@pytest.mark.parametrize("values", SWITCHES, ids=lambda v: "-".join(v)[:40] or "default")
def test_every_switch_renders(tmp_path: Path, values: dict[str, Any]) -> None:
    found = rendered(tmp_path, **values)
    kinds = {kind for kind, _ in found}
    assert ("ClusterRole" in kinds) is ("namespaces" not in values and "rbac" not in values)
    assert ("ConfigMap" in kinds) is ("dashboard" in values)
    assert ("PrometheusRule" in kinds) is ("alerts" in values)
    assert ("NetworkPolicy" in kinds) is ("networkPolicy" in values)
    assert ("CustomResourceDefinition" in kinds) is ("crds" not in values)
    for namespace in values.get("namespaces", ()):
        assert ("Role", f"{namespace}/dynamo-operator") in found


def test_what_values_say_reaches_the_process(tmp_path: Path) -> None:
    found = rendered(
        tmp_path,
        namespaces=["shop", "bank"],
        nodeImage="registry/node:7",
        adminPeers=[{"podSelector": {}}],
        nodeMonitor={"enabled": True, "labels": {"release": "p"}},
        image={"repository": "registry/operator", "tag": "7"},
        tracing={"endpoint": "http://jaeger.tracing:4317", "sampleRatio": 0.5},
    )
    arguments = container(found)["args"]
    assert arguments[:2] == ["--namespace=shop", "--namespace=bank"]
    assert "--cluster-wide" not in arguments
    assert container(found)["image"] == "registry/operator:7"
    told = environment(found)
    assert told["DYNAMO_OPERATOR_NODE_IMAGE"] == "registry/node:7"
    assert told["DYNAMO_OPERATOR_TRACING_ENDPOINT"] == "http://jaeger.tracing:4317"
    assert told["DYNAMO_OPERATOR_TRACING_SAMPLE_RATIO"] == "0.5"
    assert json.loads(told["DYNAMO_OPERATOR_ADMIN_PEERS"]) == [{"podSelector": {}}]
    assert json.loads(told["DYNAMO_OPERATOR_MONITOR_LABELS"]) == {"release": "p"}


def test_dashboard_and_alerts_come_out_as_their_files_are(tmp_path: Path) -> None:
    """Both have {{ }} of their own, which isn't Helm's."""
    found = rendered(tmp_path, dashboard={"enabled": True}, alerts={"enabled": True})
    files = ROOT / CHART / "files"
    board = found["ConfigMap", "dynamo-operator-dashboard"]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert board["data"] == {"dynamo-nodes.json": (files / "dashboard.json").read_text()}
    rules = found["PrometheusRule", "dynamo-operator"]["spec"]
    assert rules == yaml.safe_load((files / "alerts.yaml").read_text())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicas": "two"}, "replicas"),
        ({"replica": 2}, "replica"),
        ({"namespaces": ["Shop"]}, "namespaces"),
        ({"image": {"digest": "sha256:12"}}, "digest"),
        ({"logFormat": "xml"}, "logFormat"),
        ({"dashboard": {"enable": True}}, "enable"),
        ({"alerts": {"labels": {"release": 1}}}, "alerts"),
        ({"resyncSeconds": 0}, "resyncSeconds"),
        ({"tracing": {"endpoint": "jaeger:4317"}}, "endpoint"),
        ({"tracing": {"sampleRatio": "2"}}, "sampleRatio"),
        ({"serviceAccount": {"create": False, "name": ""}}, "serviceAccount.name"),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(Failed, match=said):
        rendered(tmp_path, **values)
