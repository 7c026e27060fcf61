"""The NetworkPolicy: who may reach which port of a node (contract, section 2).

Owns the rules for what comes in; what goes out is open. Forbidden: trusting it.
Not every network enforces policies, so each port has a check of its own as well:
the admin port a token, the native port a proof of the cluster's key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from dynamo_operator.kube import names
from dynamo_operator.kube.metadata import metadata
from dynamo_operator.spec import DynamoCluster

NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"  # the API server puts it on each namespace


def network_policy(
    cluster: DynamoCluster,
    owner: names.Owner,
    *,
    operator_namespace: str,
    operator_labels: Mapping[str, str],
    extra_admin_peers: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """8080 and 7070 from anywhere; 8081 from this cluster's nodes, the operator, and extra peers.

    operator_labels: of the operator's pods; none would let its whole namespace in, so that is a
    ValueError. extra_admin_peers: NetworkPolicyPeer objects, as the chart's value has them.
    """
    if not operator_labels:
        raise ValueError("the labels of the operator's pods are needed")
    operator = {
        "namespaceSelector": {"matchLabels": {NAMESPACE_NAME: operator_namespace}},
        "podSelector": {"matchLabels": dict(operator_labels)},
    }
    nodes = {"podSelector": {"matchLabels": names.selector(cluster.name)}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(cluster, owner, names.network_policy(cluster.name), "node"),
        "spec": {
            "podSelector": {"matchLabels": names.selector(cluster.name)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [_port(names.HTTP_PORT), _port(names.NATIVE_PORT)]},
                {
                    "ports": [_port(names.ADMIN_PORT)],
                    "from": [nodes, operator, *(dict(peer) for peer in extra_admin_peers)],
                },
            ],
        },
    }


def _port(number: int) -> dict[str, Any]:
    return {"port": number, "protocol": "TCP"}
