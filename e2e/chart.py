"""The chart in the hands of Helm: what it renders, every switch that it has, and a release of it.

Forbidden here: importing the product.
"""

import json
from pathlib import Path
from typing import Any

from e2e.kube import SYSTEM, Kubectl, command

CHART = "charts/dynamo-operator"
RELEASE = "dynamo-operator"
DEFINITION = "dynamoclusters.dynamocluster.io"
KUSTOMIZED = (
    *("deployment/dynamo-operator", "serviceaccount/dynamo-operator"),
    *("role/dynamo-operator-lease", "rolebinding/dynamo-operator-lease"),
    *("clusterrole/dynamo-operator", "clusterrolebinding/dynamo-operator"),
)
"""What of charts/kustomize Helm makes under the same names, as docs/operator.md lists it."""


class Release:
    """The chart installed where a Kubectl points to; nothing waits unless `--wait` is said."""

    def __init__(self, kubectl: Kubectl, chart: str = CHART) -> None:
        self.chart = chart
        self._kubectl = kubectl

    def install(self, *flags: str, **values: Any) -> None:
        self._do("install", flags, values)

    def upgrade(self, *flags: str, **values: Any) -> None:
        """To these values and the defaults, whatever was given before."""
        self._do("upgrade", flags, values)

    def _do(self, verb: str, flags: tuple[str, ...], values: dict[str, Any]) -> None:
        words = (verb, RELEASE, self.chart, "--values", "-", *flags)
        self._kubectl.helm(*words, text=json.dumps(values))

    def uninstall(self, *flags: str) -> None:
        """Does nothing where there is none."""
        self._kubectl.helm("uninstall", RELEASE, "--ignore-not-found", *flags)


def chart_text(folder: Path, **values: Any) -> str:
    """What `helm template` prints for these values, in the namespace of the docs."""
    file = folder / "values.yaml"
    file.write_text(json.dumps(values))
    where = ("--namespace", SYSTEM, "--values", str(file))
    return command("helm", "template", RELEASE, CHART, *where)


SWITCHES: list[dict[str, Any]] = [
    {},
    {"namespaces": ["shop", "bank"]},
    {"crds": {"install": False}, "rbac": {"create": False}},
    {"serviceAccount": {"create": False, "name": "mine"}},
    {"serviceAccount": {"name": "mine", "annotations": {"a": "b"}}},
    {"networkPolicy": {"enabled": True}},
    {"tracing": {"endpoint": "http://jaeger.tracing:4317", "sampleRatio": "0.5"}},
    {"nodeMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    {"dashboard": {"enabled": True, "annotations": {"grafana_folder": "Stores"}}},
    {"alerts": {"enabled": True, "labels": {"release": "prometheus"}}},
    {"adminPeers": [{"podSelector": {"matchLabels": {"app": "debug"}}}]},
    {"image": {"digest": f"sha256:{'0' * 64}", "pullPolicy": "Always"}},
    {
        "imagePullSecrets": [{"name": "registry"}],
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "logFormat": "text",
        "resyncSeconds": 30,
        "readyWithinSeconds": 60,
        "replicas": 1,
    },
]
"""Values that between them turn every switch away from its default."""
