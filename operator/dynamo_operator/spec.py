"""The DynamoCluster custom resource as a typed value.

Owns the shape of the resource (group dynamocluster.io, version v1alpha1).
`parsing` makes values of these types and gives only valid ones: whoever holds
one need not check again. Forbidden: I/O, YAML, defaults, and what the cluster
looks like at present (`plan` compares).
"""

from __future__ import annotations

from dataclasses import dataclass

API_VERSION = "dynamocluster.io/v1alpha1"
KIND = "DynamoCluster"
DEFAULT_POOL = "default"
NODES_MAX = 1000  # per pool; every node knows every other one

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Quorum:
    """The paper's N, R and W (P§4.5): 1 <= r, w <= replication."""

    replication: int
    r: int
    w: int


@dataclass(frozen=True, slots=True)
class Resources:
    """Kubernetes quantities by resource name, sorted."""

    requests: Pairs
    limits: Pairs


@dataclass(frozen=True, slots=True)
class Storage:
    """The volume of each node. `size` is a quantity in bytes."""

    size: str
    storage_class_name: str | None
    when_deleted: str
    when_scaled: str


@dataclass(frozen=True, slots=True)
class Toleration:
    """A Kubernetes toleration, as given."""

    key: str
    operator: str
    value: str
    effect: str
    toleration_seconds: int | None


@dataclass(frozen=True, slots=True)
class Pool:
    """Nodes of one capacity. What was left out is filled in from the spec.

    capacity: decimal string relative to the default pool, given or derived.
    """

    name: str
    replicas: int
    capacity: str
    capacity_given: bool
    resources: Resources
    storage: Storage
    storage_given: bool
    node_selector: Pairs
    tolerations: tuple[Toleration, ...]


@dataclass(frozen=True, slots=True)
class Security:
    """tls_mode: Disabled | Operator | CertManager; client_auth_mode: None | Token."""

    tls_mode: str
    client_auth_mode: str


@dataclass(frozen=True, slots=True)
class Tracing:
    """OTLP endpoint ("" is off) and the share of requests that is traced (decimal string)."""

    endpoint: str
    sample_ratio: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may bring and one key may hold."""

    value_bytes_max: int
    siblings_max: int
    object_bytes_max: int


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """What the user wants. `pools` holds all pools; the default one is the first."""

    quorum: Quorum
    partitions: int
    reconciliation: str
    durability: str
    image: str
    zones: tuple[str, ...]
    pools: tuple[Pool, ...]
    security: Security
    tracing: Tracing
    limits: Limits
    on_operator_upgrade: str
    paused: bool
    dry_run: bool

    @property
    def default_pool(self) -> Pool:
        return self.pools[0]

    @property
    def nodes_total(self) -> int:
        return sum(pool.replicas for pool in self.pools)


@dataclass(frozen=True, slots=True)
class DynamoCluster:
    """The whole resource, without its status."""

    name: str
    namespace: str
    annotations: Pairs
    spec: ClusterSpec
