"""Writes anew what of the installation follows from the code: roles, and the chart's definition.

    python scripts/install_files.py [ROOT]

The chart and charts/kustomize have their own copies, since neither Helm nor kustomize reads
files outside its folder; a test holds all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from dynamo_operator.kube import crd, rbac

NAME: Final = "dynamo-operator"
GROUP: Final = "rbac.authorization.k8s.io"
HEAD: Final = "# Made by scripts/install_files.py of dynamo_operator.kube.rbac.\n"


class _Plain(yaml.SafeDumper):
    """Without anchors: not everybody who reads these rules knows them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def files() -> Iterator[tuple[str, str]]:
    """Path under the root, and contents, of each."""
    chart, plain = "charts/dynamo-operator/files", "charts/kustomize"
    yield f"{chart}/dynamoclusters.yaml", crd.text()
    rules = {
        "cluster": rbac.cluster_rules(),
        "namespace": rbac.namespace_rules(),
        "lease": rbac.lease_rules(),
    }
    for scope, listed in rules.items():
        yield f"{chart}/{scope}-rules.yaml", HEAD + _text(listed)
    yield f"{plain}/cluster-role.yaml", _role("ClusterRole", NAME, rules["cluster"])
    yield f"{plain}/namespaced/role.yaml", _role("Role", NAME, rules["namespace"])
    yield f"{plain}/operator/lease-role.yaml", _role("Role", f"{NAME}-lease", rules["lease"])


def _role(kind: str, name: str, rules: list[rbac.Rule]) -> str:
    """A role, and its binding to the operator's account in whatever namespace that will be."""
    metadata = {"name": name, "labels": {"app.kubernetes.io/name": NAME}}
    role = {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": metadata, "rules": rules}
    binding = {
        "apiVersion": f"{GROUP}/v1",
        "kind": f"{kind}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": NAME}],
    }
    return HEAD + _text(role) + "---\n" + _text(binding)


def _text(value: Any) -> str:
    return yaml.dump(value, Dumper=_Plain, sort_keys=False, width=100)


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    for path, text in files():
        (root / path).write_text(text)


if __name__ == "__main__":
    main()
