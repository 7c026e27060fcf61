"""What a plan may look at: the cluster as it is now.

Owns values only. Forbidden: looking (`local`, and later the Kubernetes side),
and judging what is seen (`proof` and its neighbours).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dynamo_core.ring import Ring
from dynamo_operator.spec import DynamoCluster, Limits
from dynamo_telemetry.endpoints import Tracing


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node is reached."""

    host: str
    http_port: int
    native_port: int
    admin_port: int


@dataclass(frozen=True, slots=True)
class Handover:
    """What a node knows of slots under way, fsynced, under the ring that its status names.

    sealed_to: seals given there and not covered yet, by the number of the successor.
    held_by: slots as known there whose holder is no member, by the holder's number.
    """

    open_slots: int  # whose holder isn't the one that the ring wants
    records: int  # partitions it has a slot of, or has yet to hand over, or half-pulled
    hints: int  # hints and marks kept for others
    pulling: int  # partitions
    sealed_to: Mapping[int, int]
    held_by: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Of a node's disk: what it stores, and what it may still take before it refuses writes."""

    full: bool  # it refuses writes now
    stored_bytes: int
    room_bytes: int


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """What a node is told while it runs: the spec's `quorum.r`, `quorum.w`, `limits`, `tracing`.

    tracing: None from a node of a version that sends no spans, and can't be told of them.
    """

    r: int
    w: int
    limits: Limits
    tracing: Tracing | None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What a node says of itself, already checked to be of this cluster and name.

    handover: None from a node that doesn't tell; then nothing is proven by it.
    hints_for: hints and marks that it keeps for others, by the target's name.
    settings: in force now, fsynced; None from a node that doesn't tell: then none are put.
    """

    number: int | None
    incarnation: str
    disk_id: str  # 32 hex
    ring_epoch: int  # 0 without a ring
    ring_id: str  # "" without a ring
    state: str
    ready: bool
    handover: Handover | None = None
    disk: DiskSpace | None = None  # None if it doesn't tell
    hints_for: Mapping[str, int] = field(default_factory=dict)
    settings: LiveSettings | None = None


@dataclass(frozen=True, slots=True)
class ObservedNode:
    """One node as it is now. No status means unknown, never absent.

    running: its process, or its pod's container, runs now.
    held: a person stopped it and wants it to stay down.
    settings_hash: the revision that its process or pod was started with, "" if unknown.
    when_scaled: Retain or Delete, as its pool last wanted: it may be gone from the spec.
    failing: whoever runs it knows that it doesn't serve (a pod that can't be started or ends
    again and again). Mere silence is not that: others may reach a node that we can't.
    """

    name: str
    address: Address
    running: bool
    held: bool
    settings_hash: str
    status: NodeStatus | None
    when_scaled: str = "Retain"
    failing: bool = False

    @property
    def ready(self) -> bool:
        return self.status is not None and self.status.ready and not self.failing

    @property
    def recovering(self) -> bool:
        """Whether it says so: it takes writes, and says nothing of what it may lack."""
        return self.status is not None and self.status.state == "recovering"

    @property
    def whole(self) -> bool:
        """Whether others can rely on what it has."""
        return self.ready and not self.recovering

    @property
    def serves_nobody(self) -> bool:
        """Whether that is known, by its own word or that of whoever runs it."""
        return self.failing or (self.status is not None and not self.status.ready)


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a plan may look at.

    cluster_id: "" until an identity exists. ring: the decided one, whether or
    not nodes hold it. accepted: the spec that was last carried out. nodes: all that
    the spec or the ring names, and whatever else there still is of this cluster.
    give_up: numbers of nodes that a person has given up. settled: the last decided ring
    under which everything lay where it should; who changes his mind goes back to it.
    revisions: by node, what its process or pod should be started with, to be compared with
    `settings_hash`; a node without one is restarted by nobody.

    For a ring that was lost: may_know are names of nodes that may hold it, though nobody wants
    them; unheard are names of those whose word a person has said not to wait for.
    """

    cluster_id: str
    ring: Ring | None
    accepted: DynamoCluster | None
    nodes: Mapping[str, ObservedNode]
    give_up: tuple[int, ...] = ()
    settled: Ring | None = None
    revisions: Mapping[str, str] = field(default_factory=dict)
    may_know: tuple[str, ...] = ()
    unheard: tuple[str, ...] = ()
