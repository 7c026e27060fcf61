"""What the objects of a DynamoCluster are called, and what is written on them.

Owns names, labels and annotations: the contract's, and those that one pass of
the operator leaves for the next. Selectors are immutable, so a name that stands
here is there for ever. Forbidden: anything that depends on what is observed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dynamo_operator.spec import DynamoCluster

GROUP: Final = "dynamocluster.io"
VERSION: Final = "v1alpha1"
PLURAL: Final = "dynamoclusters"
OPERATOR: Final = "dynamo-operator"  # field manager, lease, app.kubernetes.io/managed-by

CLUSTER_LABEL: Final = f"{GROUP}/cluster"
POOL_LABEL: Final = f"{GROUP}/pool"
ZONE_LABEL: Final = f"{GROUP}/zone"

BUILT_BY: Final = f"{GROUP}/built-by"  # on sets and pods: the operator that made the template
SPEC_HASH: Final = f"{GROUP}/spec-hash"  # on sets and pods: the part of the spec that made it
DRAINED_EPOCH: Final = f"{GROUP}/drained-epoch"  # on claims: nothing on it that others lack
GIVE_UP: Final = f"{GROUP}/give-up"  # on the cluster, by a person: POD@INCARNATION
UPDATE: Final = f"{GROUP}/update"  # on the cluster, by a person: the operator version to roll to
WHEN_SCALED: Final = f"{GROUP}/when-scaled"  # on sets: what its pool says, which may be gone
FAILED: Final = f"{GROUP}/failed-revision"  # on sets: a template that was put back
FAILED_WHY: Final = f"{GROUP}/failed-because"  # on sets: what was wrong with it
PINNED_IMAGE: Final = f"{GROUP}/pinned-image"  # on sets and pods: an operator's default image
PREVIOUS: Final = f"{GROUP}/previous-template"  # on sets: until a pod of the present one is ready
CLUSTER_ID: Final = f"{GROUP}/cluster-id"  # on claims and the ring: whose data it is

HTTP_PORT: Final = 8080
NATIVE_PORT: Final = 7070
ADMIN_PORT: Final = 8081
TOPOLOGY_ZONE: Final = "topology.kubernetes.io/zone"
VOLUME: Final = "data"


@dataclass(frozen=True, slots=True)
class Owner:
    """The DynamoCluster object that owns what is made for it."""

    name: str
    namespace: str
    uid: str


@dataclass(frozen=True, slots=True)
class Release:
    """What this operator would build with: its own version, and the image it comes with."""

    version: str
    image: str


def set_name(cluster: str, pool: str, zone: str) -> str:
    """The StatefulSet of a pool in a zone; zone is "" without zones."""
    return "-".join(part for part in (cluster, pool, zone) if part)


def set_names(cluster: DynamoCluster) -> list[str]:
    """The StatefulSets of a spec, one for each pool and zone."""
    zones = cluster.spec.zones or ("",)
    return [set_name(cluster.name, p.name, zone) for p in cluster.spec.pools for zone in zones]


def split_pod(pod: str) -> tuple[str, int]:
    """The StatefulSet and the ordinal of a pod's name; raises ValueError for another name."""
    stem, _, ordinal = pod.rpartition("-")
    if not stem or not ordinal.isdecimal():
        raise ValueError(f"{pod!r} is no pod of a StatefulSet")
    return stem, int(ordinal)


def claim_name(pod: str) -> str:
    """The PersistentVolumeClaim of a pod."""
    return f"{VOLUME}-{pod}"


def nodes_service(cluster: str) -> str:
    """The headless Service, which gives each pod its DNS name."""
    return f"{cluster}-nodes"


def pod_host(pod: str, cluster: str, namespace: str) -> str:
    """The DNS name by which members know a pod, for as long as the set exists."""
    return f"{pod}.{nodes_service(cluster)}.{namespace}.svc"


def client_service(cluster: str) -> str:
    """The Service that clients use."""
    return cluster


def ring_map(cluster: str) -> str:
    """The ConfigMap with the decided ring."""
    return f"{cluster}-ring"


def config_map(cluster: str, config_hash: str) -> str:
    """The immutable ConfigMap of one configuration of nodes."""
    return f"{cluster}-config-{config_hash}"


def identity_secret(cluster: str) -> str:
    """The Secret with the cluster's id and keys."""
    return f"{cluster}-identity"


def admin_secret(cluster: str) -> str:
    """The Secret with the bearer token of admin HTTP."""
    return f"{cluster}-admin"


def service_account(cluster: str) -> str:
    """The ServiceAccount that pods run as; it may do nothing."""
    return f"{cluster}-nodes"


def disruption_budget(cluster: str) -> str:
    """The PodDisruptionBudget over all pods of a cluster."""
    return f"{cluster}-nodes"


def network_policy(cluster: str) -> str:
    """The NetworkPolicy over all pods of a cluster."""
    return f"{cluster}-nodes"


def service_monitor(cluster: str) -> str:
    """The ServiceMonitor that has all pods of a cluster scraped."""
    return f"{cluster}-nodes"


def pod_of_claim(claim: str) -> str:
    """The pod whose claim that is; "" if it is nobody's."""
    return claim.removeprefix(f"{VOLUME}-") if claim.startswith(f"{VOLUME}-") else ""


def selector(cluster: str, pool: str | None = None, zone: str = "") -> dict[str, str]:
    """Labels that pick a cluster's pods, or those of one set."""
    picked = {CLUSTER_LABEL: cluster}
    if pool is not None:
        picked[POOL_LABEL] = pool
        if zone:
            picked[ZONE_LABEL] = zone
    return picked


def labels(
    cluster: DynamoCluster, component: str, pool: str | None = None, zone: str = ""
) -> dict[str, str]:
    """Every label of an object. component: "node" for what belongs to pods, else its purpose."""
    return {
        **selector(cluster.name, pool, zone),
        "app.kubernetes.io/name": "dynamo",
        "app.kubernetes.io/instance": cluster.name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": OPERATOR,
    }


def owner_reference(owner: Owner) -> dict[str, object]:
    """Marks what the garbage collector deletes with the DynamoCluster. It never blocks that."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "DynamoCluster",
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
