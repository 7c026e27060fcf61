"""What an edit of a DynamoCluster changes, and of which kind each change is.

Owns the classification of the contract: immutable (refused), live (no process
restarts), rolling (one node after another), scaling (tokens move). Forbidden:
deciding what to do about a change, which is the plan's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dynamo_operator.problems import shown
from dynamo_operator.quantities import quantity
from dynamo_operator.spec import ClusterSpec, DynamoCluster, Pool

Kind = Literal["immutable", "live", "rolling", "scaling"]

# Said by the CustomResourceDefinition too.
COPY = (
    "for another value, make a new cluster and copy the data with `dynamo export` and "
    "`dynamo import`"
)
GROWS = "storage may only grow, since a volume can't shrink"
KEPT = "a pool's storage, once given, can't be removed: put it back"


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs. old and new are its values as text, "" for absent."""

    path: str
    old: str
    new: str
    kind: Kind
    refusal: str  # why an immutable change is refused; "" for the other kinds

    def __str__(self) -> str:
        return f"{self.path}: {self.old or 'none'} -> {self.new or 'none'}"


def changes(old: DynamoCluster, new: DynamoCluster) -> tuple[Change, ...]:
    """Every field that differs, in the order of the spec. Empty if the edit means nothing."""
    found = []
    if old.name != new.name:
        found.append(_change("metadata.name", old.name, new.name, "immutable", "the name is fixed"))
    before, after = dict(_leaves(old.spec)), dict(_leaves(new.spec))
    for path, (kind, value) in after.items():
        if before[path][1] != value:
            found.append(_change(path, before[path][1], value, kind))
    found += _pools(old.spec, new.spec)
    return tuple(found)


def _leaves(spec: ClusterSpec) -> Iterator[tuple[str, tuple[Kind, object]]]:
    yield "spec.quorum.replication", ("immutable", spec.quorum.replication)
    yield "spec.quorum.r", ("live", spec.quorum.r)
    yield "spec.quorum.w", ("live", spec.quorum.w)
    yield "spec.ring.partitions", ("immutable", spec.partitions)
    yield "spec.reconciliation", ("immutable", spec.reconciliation)
    yield "spec.durability", ("rolling", spec.durability)
    yield "spec.image", ("rolling", spec.image)
    yield "spec.zones", ("immutable", spec.zones)
    yield "spec.security.tls.mode", ("immutable", spec.security.tls_mode)
    yield "spec.security.clientAuth.mode", ("rolling", spec.security.client_auth_mode)
    yield "spec.tracing.endpoint", ("live", spec.tracing.endpoint)
    yield "spec.tracing.sampleRatio", ("live", spec.tracing.sample_ratio)
    yield "spec.limits.valueBytesMax", ("live", spec.limits.value_bytes_max)
    yield "spec.limits.siblingsMax", ("live", spec.limits.siblings_max)
    yield "spec.limits.objectBytesMax", ("live", spec.limits.object_bytes_max)
    yield "spec.updateStrategy.onOperatorUpgrade", ("live", spec.on_operator_upgrade)
    yield "spec.paused", ("live", spec.paused)
    yield "spec.dryRun", ("live", spec.dry_run)


def _pools(old: ClusterSpec, new: ClusterSpec) -> Iterator[Change]:
    before = {pool.name: pool for pool in old.pools}
    after = {pool.name: pool for pool in new.pools}
    for name in [*before, *(name for name in after if name not in before)]:
        path = "spec" if name == old.default_pool.name else f"spec.pools[{name}]"
        if name not in after:
            yield _change(path, _nodes(before[name]), "", "scaling")
        elif name not in before:
            yield _change(path, "", _nodes(after[name]), "scaling")
        else:
            yield from _pool(path, before[name], after[name])


def _pool(path: str, old: Pool, new: Pool) -> Iterator[Change]:
    if old.replicas != new.replicas:
        yield _change(f"{path}.replicas", old.replicas, new.replicas, "scaling")
    if old.capacity != new.capacity:
        yield _change(f"{path}.capacity", old.capacity, new.capacity, "scaling")
    if old.resources != new.resources:
        yield _change(
            f"{path}.resources",
            dict(old.resources.requests),
            dict(new.resources.requests),
            "rolling",
        )
    if old.node_selector != new.node_selector:
        yield _change(
            f"{path}.nodeSelector", dict(old.node_selector), dict(new.node_selector), "rolling"
        )
    if old.tolerations != new.tolerations:
        yield _change(f"{path}.tolerations", len(old.tolerations), len(new.tolerations), "rolling")
    yield from _storage(f"{path}.storage", old, new)


def _storage(path: str, old: Pool, new: Pool) -> Iterator[Change]:
    if old.storage_given and not new.storage_given:
        yield _change(path, old.storage.size, "", "immutable", KEPT)
        return
    if path != "spec.storage" and not new.storage_given:
        return  # it follows spec.storage, where the change is told
    before, after = old.storage, new.storage
    if quantity(after.size) < quantity(before.size):
        yield _change(f"{path}.size", before.size, after.size, "immutable", GROWS)
    elif quantity(after.size) > quantity(before.size):
        yield _change(f"{path}.size", before.size, after.size, "live")
    rest: tuple[tuple[str, str | None, str | None, Kind], ...] = (
        ("storageClassName", before.storage_class_name, after.storage_class_name, "immutable"),
        ("whenDeleted", before.when_deleted, after.when_deleted, "live"),
        ("whenScaled", before.when_scaled, after.when_scaled, "live"),
    )
    for name, was, now, kind in rest:
        if was != now:
            yield _change(f"{path}.{name}", was, now, kind)


def _nodes(pool: Pool) -> str:
    return f"{pool.replicas} node(s)"


def _change(path: str, old: object, new: object, kind: Kind, reason: str = "") -> Change:
    was, now = (value if isinstance(value, str) else shown(value) for value in (old, new))
    refusal = ""
    if kind == "immutable":
        why = reason or f"it is fixed for the life of a cluster; {COPY}"
        refusal = f"can't be changed from {was or 'none'} to {now or 'none'}: {why}"
    return Change(path, was, now, kind, refusal)
