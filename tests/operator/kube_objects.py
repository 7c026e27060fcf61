"""Clusters, and all objects that are built for them, in the order of a first carrying out."""

from typing import Any

from dynamo_core.contexts import Keyring
from dynamo_operator.kube import (
    accounts,
    configuration,
    credentials,
    disruption,
    monitoring,
    names,
    network,
    services,
    sets,
)
from dynamo_operator.layout import replicas_by_zone
from dynamo_operator.parsing import parse
from dynamo_operator.spec import DynamoCluster, Pool

OWNER = names.Owner("cart", "shop", "6f1c-uid")
RELEASE = names.Release("0.1.0", "registry.example/dynamo-node:0.1.0")
CLUSTER_ID = "ab" * 16
IDENTITY = credentials.Identity(CLUSTER_ID, Keyring(1, {1: bytes(32), 7: b"\x07" * 32}))
TOKEN = "t" * 43
OPERATOR_LABELS = {"app.kubernetes.io/name": "dynamo-operator"}

OWNED = [
    {
        "apiVersion": "dynamocluster.io/v1alpha1",
        "kind": "DynamoCluster",
        "name": "cart",
        "uid": "6f1c-uid",
        "controller": True,
        "blockOwnerDeletion": False,
    }
]


def cluster(spec: Any = None, name: str = "cart") -> DynamoCluster:
    return parse(
        {
            "apiVersion": "dynamocluster.io/v1alpha1",
            "kind": "DynamoCluster",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": spec or {},
        }
    )


EVERYTHING = {
    "quorum": {"replication": 3, "r": 1, "w": 3},
    "durability": "buffered",
    "image": "registry.example/dynamo-node@sha256:" + "1" * 64,
    "resources": {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "8Gi"}},
    "storage": {"size": "1Ti", "storageClassName": "fast", "whenDeleted": "Delete"},
    "zones": ["a", "b", "c"],
    "replicas": 4,
    "pools": [
        {
            "name": "large",
            "replicas": 2,
            "capacity": "2",
            "resources": {"requests": {"cpu": "1500m", "ephemeral-storage": "1Gi"}},
            "storage": {"size": "2Ti", "storageClassName": ""},
            "nodeSelector": {"disk": "nvme"},
            "tolerations": [
                {"key": "store", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "slow", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 0},
                {"operator": "Exists"},
            ],
        },
    ],
}


def template(made: DynamoCluster, pool: Pool, zone: str = "") -> dict[str, Any]:
    return sets.template(
        made,
        pool,
        zone,
        image=made.spec.image or RELEASE.image,
        release=RELEASE,
        config_name=configuration.config_name(made, pool),
    )


def stateful_sets(made: DynamoCluster) -> list[dict[str, Any]]:
    zones = made.spec.zones or ("",)
    return [
        sets.stateful_set(
            made,
            OWNER,
            pool,
            zone,
            replicas=replicas,
            template=template(made, pool, zone),
            cluster_id=CLUSTER_ID,
        )
        for pool in made.spec.pools
        for zone, replicas in zip(zones, replicas_by_zone(pool, zones), strict=True)
    ]


def objects(made: DynamoCluster) -> list[dict[str, Any]]:
    """Everything there is a builder for."""
    return [
        credentials.identity_secret(made, None, IDENTITY),
        credentials.identity_secret(made, OWNER, IDENTITY),
        credentials.admin_secret(made, OWNER, TOKEN),
        accounts.service_account(made, OWNER),
        services.nodes_service(made, OWNER),
        services.client_service(made, OWNER),
        *(configuration.config_map(made, OWNER, pool) for pool in made.spec.pools),
        *stateful_sets(made),
        disruption.disruption_budget(made, OWNER, steady=True),
        disruption.disruption_budget(made, OWNER, steady=False),
        network.network_policy(
            made,
            OWNER,
            operator_namespace="dynamo-system",
            operator_labels=OPERATOR_LABELS,
            extra_admin_peers=[{"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.2.0/24"]}}],
        ),
        monitoring.service_monitor(made, OWNER, labels={"release": "prometheus"}),
    ]
