"""Worlds by hand, for tables of the pure parts of the plan in Kubernetes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.operator.kube_objects import CLUSTER_ID, OWNER, RELEASE, cluster, stateful_sets
from tests.operator.kube_patches import Object

from dynamo_core.placement import Candidate, first_ring
from dynamo_core.ring import Ring
from dynamo_operator.kube import names
from dynamo_operator.kube.world import ClaimSeen, PodSeen, SetSeen, Surroundings, World
from dynamo_operator.observed import Address, NodeStatus, Observed, ObservedNode
from dynamo_operator.spec import DynamoCluster

NOW = "2026-11-21T12:00:00Z"


def ring_of(*pods: str) -> Ring:
    members = [
        Candidate(pod, "", "1", names.pod_host(pod, "cart", "shop"), 8080, 7070, 8081, f"{i:032x}")
        for i, pod in enumerate(pods)
    ]
    return first_ring(
        cluster_id=CLUSTER_ID,
        cluster_name="cart",
        members=members,
        replication=3,
        partitions=16,
        at=NOW,
    )


def node(name: str, ring: Ring | None, **status: Any) -> ObservedNode:
    """One that runs and answers; silent=True: it doesn't."""
    silent = status.pop("silent", False)
    epoch, ring_id = (ring.epoch, ring.id) if ring else (0, "")
    said = NodeStatus(1, "11" * 8, "0" * 32, epoch, ring_id, "up", True)
    return ObservedNode(
        name=name,
        address=Address("host", 1, 2, 3),
        running=True,
        held=False,
        settings_hash="",
        status=None if silent else replace(said, **status),
    )


def claim(pod: str, **fields: Any) -> ClaimSeen:
    made = ClaimSeen(
        name=names.claim_name(pod),
        pod=pod,
        uid=f"uid-{pod}",
        version="7",
        phase="Bound",
        volume=f"pv-{pod}",
        wanted="10Gi",
        size="10Gi",
        storage_class="standard",
        annotations={},
        references=(),
        deleting=False,
    )
    return replace(made, **fields)


def pod(name: str, **fields: Any) -> PodSeen:
    made = PodSeen(
        name=name,
        uid=f"uid-{name}",
        version="7",
        host="n1",
        created_at=NOW,
        running=True,
        ready=True,
        deleting=False,
        revision="",
    )
    return replace(made, **fields)


def set_seen(made: DynamoCluster, replicas: int, **annotations: str) -> SetSeen:
    body = stateful_sets(made)[0]
    return SetSeen(
        name=body["metadata"]["name"],
        pool="default",
        zone="",
        uid="uid-set",
        version="7",
        replicas=replicas,
        template=body["spec"]["template"],
        annotations={names.WHEN_SCALED: "Delete", **annotations},
    )


def world(
    *,
    spec: Mapping[str, Any] | None = None,
    ring: Ring | None = None,
    nodes: Mapping[str, ObservedNode] | None = None,
    claims: tuple[ClaimSeen, ...] = (),
    pods: tuple[PodSeen, ...] = (),
    replicas: int = 3,
    objects: Mapping[tuple[str, str], Object] | None = None,
    **fields: Any,
) -> World:
    made = cluster({"replicas": 3, **(spec or {})})
    if nodes is None:
        nodes = {one.name: node(one.name, ring) for one in ring.everybody} if ring else {}
    seen = set_seen(made, replicas)
    around = Surroundings(RELEASE, "dynamo-system", {"app.kubernetes.io/name": "dynamo-operator"})
    return World(
        cluster=made,
        owner=OWNER,
        observed=Observed(CLUSTER_ID, ring, made, nodes),
        sets={seen.name: seen},
        pods={one.name: one for one in pods},
        claims={one.name: one for one in claims},
        objects=objects or {},
        surroundings=around,
        now=NOW,
        **fields,
    )
