"""The ServiceMonitor, for those who run the Prometheus operator. Made only when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamo_operator.kube import names
from dynamo_operator.kube.metadata import metadata
from dynamo_operator.kube.services import HTTP
from dynamo_operator.spec import DynamoCluster


def service_monitor(
    cluster: DynamoCluster, owner: names.Owner, *, labels: Mapping[str, str]
) -> dict[str, Any]:
    """Each node is scraped once, with its pool and zone as labels.

    labels: further ones, by which a Prometheus picks its monitors (such as `release`).

    It goes by the headless Service, since a node that isn't Ready has the most to tell; the
    component keeps the clients' Service out, through which each node would count twice.
    """
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": metadata(
            cluster, owner, names.service_monitor(cluster.name), "monitoring", labels=labels
        ),
        "spec": {
            "selector": {
                "matchLabels": {
                    **names.selector(cluster.name),
                    "app.kubernetes.io/component": "node",
                }
            },
            "targetLabels": [names.CLUSTER_LABEL],
            "podTargetLabels": [names.POOL_LABEL, names.ZONE_LABEL],
            "endpoints": [{"port": HTTP, "path": "/metrics"}],
        },
    }
