"""The chart in the hands of Helm: what it renders, and every switch that it has.

Forbidden here: importing the product.
"""

import json
from pathlib import Path
from typing import Any

from e2e.kube import SYSTEM, command

CHART = "charts/dynamo-operator"


def chart_text(folder: Path, **values: Any) -> str:
    """What `helm template` prints for these values, in the namespace of the docs."""
    file = folder / "values.yaml"
    file.write_text(json.dumps(values))
    where = ("--namespace", SYSTEM, "--values", str(file))
    return command("helm", "template", "dynamo-operator", CHART, *where)


SWITCHES: list[dict[str, Any]] = [
    {},
    {"namespaces": ["shop", "bank"]},
    {"crds": {"install": False}, "rbac": {"create": False}},
    {"serviceAccount": {"create": False, "name": "mine"}},
    {"serviceAccount": {"name": "mine", "annotations": {"a": "b"}}},
    {"networkPolicy": {"enabled": True}},
    {"nodeMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
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
