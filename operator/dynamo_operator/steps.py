"""The words in which a plan speaks: what was observed, and the steps to take.

Owns values only. Forbidden: deciding (`plan`) and doing (`local`, and later
the Kubernetes side).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dynamo_core.ring import Ring
from dynamo_operator.spec import DynamoCluster


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node is reached."""

    host: str
    http_port: int
    native_port: int
    admin_port: int


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What a node says of itself, already checked to be of this cluster and name."""

    number: int | None
    incarnation: str
    disk_id: str  # 32 hex
    ring_epoch: int  # 0 without a ring
    ring_id: str  # "" without a ring
    state: str
    ready: bool


@dataclass(frozen=True, slots=True)
class ObservedNode:
    """One wanted node as it is now. No status means unknown, never absent.

    held: a person stopped it and wants it to stay down.
    settings_hash: of the settings that its process or pod was started with, "" if unknown.
    """

    name: str
    address: Address
    running: bool
    held: bool
    settings_hash: str
    status: NodeStatus | None

    @property
    def ready(self) -> bool:
        return self.status is not None and self.status.ready


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a plan may look at.

    cluster_id: "" until an identity exists. ring: the decided one, whether or
    not nodes hold it. accepted: the spec that was last carried out.
    """

    cluster_id: str
    ring: Ring | None
    accepted: DynamoCluster | None
    nodes: Mapping[str, ObservedNode]


@dataclass(frozen=True, slots=True)
class Refused:
    """An edit that is not carried out. The cluster stays as it was."""

    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field} {self.reason}"


@dataclass(frozen=True, slots=True)
class AcceptSpec:
    """Record the spec as the one that is carried out from now on."""

    def __str__(self) -> str:
        return "accept the spec"


@dataclass(frozen=True, slots=True)
class CreateIdentity:
    """Make the cluster's id and key, once for its life."""

    def __str__(self) -> str:
        return "create the cluster's identity"


@dataclass(frozen=True, slots=True)
class StartNode:
    """Start a node that is not running."""

    node: str

    def __str__(self) -> str:
        return f"start {self.node}"


@dataclass(frozen=True, slots=True)
class AwaitStatus:
    """Look again until these nodes say who they are."""

    nodes: tuple[str, ...]

    def __str__(self) -> str:
        return f"wait for the status of {', '.join(self.nodes)}"


@dataclass(frozen=True, slots=True)
class AdoptRing:
    """The decided ring is lost: take the highest that a node reports back from it."""

    node: str
    epoch: int
    ring_id: str

    def __str__(self) -> str:
        return f"adopt the ring of epoch {self.epoch} from {self.node}"


@dataclass(frozen=True, slots=True)
class DecideRing:
    """Write the next ring down before anybody is told. ring is None while it can't be known."""

    nodes: tuple[str, ...]
    ring: Ring | None
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"decide the first ring with {', '.join(self.nodes)}"


@dataclass(frozen=True, slots=True)
class PostRing:
    """Hand the decided ring to a node."""

    node: str

    def __str__(self) -> str:
        return f"post the ring to {self.node}"


@dataclass(frozen=True, slots=True)
class AwaitReady:
    """Look again until these nodes are ready."""

    nodes: tuple[str, ...]

    def __str__(self) -> str:
        return f"wait until {', '.join(self.nodes)} is ready"


@dataclass(frozen=True, slots=True)
class RestartNode:
    """Stop a node gracefully and start it with the present settings."""

    node: str

    def __str__(self) -> str:
        return f"restart {self.node} with its new settings"


@dataclass(frozen=True, slots=True)
class Blocked:
    """Nothing after this can happen until a person acts."""

    reason: str

    def __str__(self) -> str:
        return f"blocked: {self.reason}"


Step = (
    Refused
    | AcceptSpec
    | CreateIdentity
    | StartNode
    | AwaitStatus
    | AdoptRing
    | DecideRing
    | PostRing
    | AwaitReady
    | RestartNode
    | Blocked
)
