"""The PodDisruptionBudget: how many nodes may be taken away on purpose.

Owns the one arbiter of evictions: people's drains, the cluster's autoscaler and
the operator's own rolls all go through it. Forbidden: judging whether the
cluster is steady, which needs what nodes say.
"""

from __future__ import annotations

from typing import Any

from dynamo_operator.kube import names
from dynamo_operator.kube.metadata import metadata
from dynamo_operator.spec import DynamoCluster


def disruption_budget(
    cluster: DynamoCluster, owner: names.Owner, *, steady: bool
) -> dict[str, Any]:
    """One node of all pools together may be away while the cluster is steady, else none.

    steady: no node is recovering and the ring is settled. A recovering node is Ready (it takes
    writes), so a budget that only counts pods would let the next one go too early.

    Pods that aren't Ready may always go: they serve nobody, and the drain of a broken
    Kubernetes node shall not wait for them for ever.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(cluster, owner, names.disruption_budget(cluster.name), "node"),
        "spec": {
            "maxUnavailable": 1 if steady else 0,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": names.selector(cluster.name)},
        },
    }
