"""What a pass has seen in Kubernetes, beside what the nodes say of themselves.

Owns values only. What can't be seen (a role of one namespace sees neither Nodes nor
volumes) is None, and None is never proof of anything. Forbidden: looking (`observing`), and
judging (`kube_plan` and its neighbours).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dynamo_operator.kube.metadata import annotations_of
from dynamo_operator.kube.names import BUILT_BY, PINNED_IMAGE, SPEC_HASH, Owner, Release
from dynamo_operator.observed import Observed
from dynamo_operator.spec import DynamoCluster

Object = Mapping[str, Any]


def revision(annotations: Mapping[str, str]) -> str:
    """Names a pod template by what stands on it, "" if nothing does: SPEC-HASH.VERSION."""
    made = annotations.get(SPEC_HASH, ""), annotations.get(BUILT_BY, "")
    return ".".join(made) if made[0] else ""


@dataclass(frozen=True, slots=True)
class SetSeen:
    """A StatefulSet. pool and zone as its labels say; version: its resourceVersion."""

    name: str
    pool: str
    zone: str
    uid: str
    version: str
    replicas: int
    template: Mapping[str, Any]
    annotations: Mapping[str, str]

    @property
    def revision(self) -> str:
        """Of the template that new pods are made from."""
        return revision(annotations_of(self.template))

    @property
    def pinned_image(self) -> str:
        """The operator's default image that the template was made with, "" if it wasn't."""
        return annotations_of(self.template).get(PINNED_IMAGE, "")


@dataclass(frozen=True, slots=True)
class PodSeen:
    """A pod. created_at: ISO 8601, UTC. trouble: why it doesn't serve, "" if it may.

    running: it may run, for all that is known: its Node, if it has one, is heard of.
    failing: it can't be started, or ends again and again; unready: its kubelet itself says that
    its container isn't ready. host: its Node, "" before it has one.
    """

    name: str
    uid: str
    version: str
    host: str
    created_at: str
    running: bool
    ready: bool
    deleting: bool
    revision: str
    failing: bool = False
    unready: bool = False
    trouble: str = ""
    config: str = ""  # the ConfigMap that it mounts
    pinned_image: str = ""  # the default image of the operator that it was made with, if it was


@dataclass(frozen=True, slots=True)
class ClaimSeen:
    """A PersistentVolumeClaim. volume: the one that it is bound to, "" if none yet.

    wanted: the size that it asks for, size: what it has got, "" before it is bound.
    """

    name: str
    pod: str
    uid: str
    version: str
    phase: str
    volume: str
    wanted: str
    size: str
    storage_class: str
    annotations: Mapping[str, str]
    references: tuple[Mapping[str, Any], ...]
    deleting: bool

    @property
    def bound(self) -> bool:
        """Whether it has, or had, a volume: one that somebody merely means it to have isn't it."""
        return bool(self.volume) and self.phase in ("Bound", "Lost")


@dataclass(frozen=True, slots=True)
class HostSeen:
    """A Kubernetes Node. out_of_service: it carries the taint by which a person says so."""

    ready: bool
    out_of_service: bool


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the operator was started with and its objects depend on.

    peers: further NetworkPolicyPeers for the admin port. monitors: labels of a ServiceMonitor,
    None without one. ready_within_s: what a new revision's first pod gets to become ready.
    """

    release: Release
    namespace: str
    labels: Mapping[str, str]
    peers: tuple[Object, ...] = ()
    monitors: Mapping[str, str] | None = None
    ready_within_s: float = 600.0


@dataclass(frozen=True, slots=True)
class World:
    """All that one pass has seen.

    objects: of every other kind, by (kind, name), as the API server gives them; pods and claims
    too, where what stands under a name that is needed isn't this cluster's. volumes: by name, the
    Nodes that it can be used from (None: from any). growing: by StorageClass, whether its volumes
    can grow. adopts: what was written down is an earlier DynamoCluster's. now: ISO 8601, UTC.
    """

    cluster: DynamoCluster
    owner: Owner
    observed: Observed
    sets: Mapping[str, SetSeen]
    pods: Mapping[str, PodSeen]
    claims: Mapping[str, ClaimSeen]
    objects: Mapping[tuple[str, str], Object]
    surroundings: Surroundings
    now: str
    volumes: Mapping[str, tuple[str, ...] | None] | None = None
    hosts: Mapping[str, HostSeen] | None = None
    growing: Mapping[str, bool] | None = None
    adopts: bool = False
    damaged: tuple[str, ...] = field(default_factory=tuple)
    """Secrets and ConfigMaps of this cluster that can't be read, and why."""

    def named(self, node: str) -> bool:
        """Whether the decided ring names this node, as a member or as leaving."""
        ring = self.observed.ring
        return ring is not None and ring.node_named(node) is not None
