"""The two Services: names for nodes, and an address for clients.

Owns both, and the ports' names, by which containers, Services and monitoring
mean the same ports (contract, section 2). Forbidden: anything else about pods.
"""

from __future__ import annotations

from typing import Any, Final

from dynamo_operator.kube import names
from dynamo_operator.kube.metadata import metadata
from dynamo_operator.spec import DynamoCluster

HTTP: Final = "http"
NATIVE: Final = "native"
ADMIN: Final = "admin"


def nodes_service(cluster: DynamoCluster, owner: names.Owner) -> dict[str, Any]:
    """The headless Service: one DNS name for each pod, Ready or not.

    Nodes have to find each other before any of them is Ready, and the operator asks those that
    aren't why.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(cluster, owner, names.nodes_service(cluster.name), "node"),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": names.selector(cluster.name),
            "ports": [
                _port(HTTP, names.HTTP_PORT, "http"),
                _port(NATIVE, names.NATIVE_PORT),
                _port(ADMIN, names.ADMIN_PORT, "http"),
            ],
        },
    }


def client_service(cluster: DynamoCluster, owner: names.Owner) -> dict[str, Any]:
    """The Service for clients: any Ready node of any pool, since each can coordinate (P§4.5)."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(cluster, owner, names.client_service(cluster.name), "client"),
        "spec": {
            "type": "ClusterIP",
            "ipFamilyPolicy": "PreferDualStack",  # nodes listen on both, where there are two
            "selector": names.selector(cluster.name),
            "ports": [
                _port(HTTP, names.HTTP_PORT, "http"),
                _port(NATIVE, names.NATIVE_PORT),
            ],
        },
    }


def _port(name: str, number: int, protocol: str = "") -> dict[str, Any]:
    port = {"name": name, "port": number, "targetPort": name, "protocol": "TCP"}
    return {**port, "appProtocol": protocol} if protocol else port
