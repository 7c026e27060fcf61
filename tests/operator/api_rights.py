"""A real API server as an operator finds it: the definition, and an account with its role.

Owns what an installation brings; `api_server` owns the server. The rights are those of `rbac`
and no more, so that a test on it shows what the role lacks.
"""

import json
import time
from pathlib import Path
from typing import Any

from tests.operator.api_server import ApiServer

from dynamo_operator.kube import rbac
from dynamo_operator.kube.crd import crd

RBAC = "/apis/rbac.authorization.k8s.io/v1"
ESTABLISHED_S = 30.0


def install_definition(server: ApiServer) -> None:
    """Returns when DynamoClusters are served."""
    server.made("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd())
    deadline = time.monotonic() + ESTABLISHED_S
    while server.ask("GET", "/apis/dynamocluster.io/v1alpha1/dynamoclusters")[0] != 200:
        assert time.monotonic() < deadline, "the definition is never established"
        time.sleep(0.05)


def operator_account(server: ApiServer, namespace: str, name: str, folder: Path) -> Path:
    """A kubeconfig of a service account that may do what the operator may, its lease there too."""
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    server.made(accounts, {"metadata": {"name": name}})
    everywhere = {"metadata": {"name": name}, "rules": rbac.cluster_rules()}
    server.made(f"{RBAC}/clusterroles", everywhere)
    server.made(f"{RBAC}/clusterrolebindings", _binding("ClusterRole", namespace, name))
    here = f"{RBAC}/namespaces/{namespace}"
    server.made(f"{here}/roles", {"metadata": {"name": name}, "rules": rbac.lease_rules()})
    server.made(f"{here}/rolebindings", _binding("Role", namespace, name))
    asked = {"spec": {"expirationSeconds": 3600}}
    token = server.made(f"{accounts}/{name}/token", asked)["status"]["token"]
    file = server.kubeconfig(folder / "kubeconfig")
    config = json.loads(file.read_text())
    config["users"][0]["user"]["token"] = token
    file.write_text(json.dumps(config))
    return file


def _binding(kind: str, namespace: str, name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
