"""What to do next: (spec, observed) to ordered steps. Every safety rule lives here.

Owns the decisions of creating a cluster, giving nodes their ring, restarting
them one at a time, and refusing what this version can't carry out. The same
plan is carried out with processes (`local`) and with StatefulSets. Forbidden:
I/O, clocks, and memory of earlier passes; a plan follows from what is seen now.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from dynamo_core.placement import Candidate, first_ring
from dynamo_core.placement_report import problems
from dynamo_core.ring import Ring
from dynamo_operator.changes import changes
from dynamo_operator.layout import Place, places
from dynamo_operator.spec import DynamoCluster
from dynamo_operator.steps import (
    AcceptSpec,
    AdoptRing,
    AwaitReady,
    AwaitStatus,
    Blocked,
    CreateIdentity,
    DecideRing,
    Observed,
    ObservedNode,
    PostRing,
    Refused,
    RestartNode,
    StartNode,
    Step,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered steps towards `cluster`: the new spec, or the accepted one if that was refused.

    act is False when the spec says to observe only (paused, dryRun).
    """

    cluster: DynamoCluster
    steps: tuple[Step, ...]
    act: bool

    @property
    def refusals(self) -> tuple[Refused, ...]:
        return tuple(step for step in self.steps if isinstance(step, Refused))

    @property
    def settled(self) -> bool:
        return len(self.steps) == len(self.refusals)


def plan(cluster: DynamoCluster, observed: Observed, now: str) -> Plan:
    """The steps that lead from what is observed to what the spec says.

    now: ISO 8601 in UTC, for the history of a ring that is decided. One refused
    field refuses the whole edit: half an edit is what nobody asked for.
    """
    refusals = refused(cluster, observed)
    if refusals and observed.accepted is None:
        return Plan(cluster, refusals, act=False)
    if refusals and observed.accepted is not None:
        cluster = observed.accepted
    act = not cluster.spec.paused and not cluster.spec.dry_run
    if cluster.spec.paused:
        return Plan(cluster, refusals, act)
    steps: list[Step] = [*refusals]
    if cluster != observed.accepted and (observed.ring or observed.accepted):
        steps.append(AcceptSpec())
    steps += _steps(cluster, observed, now)
    return Plan(cluster, tuple(steps), act)


def refused(cluster: DynamoCluster, observed: Observed) -> tuple[Refused, ...]:
    """Every field of the spec that can't be carried out, with the reason."""
    found: dict[str, str] = dict(_not_yet(cluster))
    if observed.accepted is not None:
        for change in changes(observed.accepted, cluster):
            if change.refusal:
                found[change.path] = change.refusal
            elif change.kind == "scaling":
                found[change.path] = (
                    f"can't be changed from {change.old or 'none'} to {change.new or 'none'} yet: "
                    "this version doesn't move tokens between nodes"
                )
    if observed.ring is not None:
        for path, reason in _against_ring(cluster, observed.ring):
            found.setdefault(path, reason)
    return tuple(Refused(path, reason) for path, reason in found.items())


def settings(cluster: DynamoCluster) -> dict[str, Any]:
    """The part of a node's configuration that the spec decides."""
    spec = cluster.spec
    return {
        "quorum": {"r": spec.quorum.r, "w": spec.quorum.w},
        "reconciliation": spec.reconciliation,
        "durability": spec.durability,
        "limits": {
            "valueBytesMax": spec.limits.value_bytes_max,
            "siblingsMax": spec.limits.siblings_max,
            "objectBytesMax": spec.limits.object_bytes_max,
        },
    }


def settings_hash(cluster: DynamoCluster) -> str:
    """Names the settings that a node runs with: 16 hex."""
    text = json.dumps(settings(cluster), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _not_yet(cluster: DynamoCluster) -> list[tuple[str, str]]:
    spec = cluster.spec
    found = []
    if spec.security.tls_mode != "Disabled":
        reason = f"is {spec.security.tls_mode}: this version has no TLS yet, it must be Disabled"
        found.append(("spec.security.tls.mode", reason))
    if spec.security.client_auth_mode != "None":
        mode = spec.security.client_auth_mode
        reason = f"is {mode}: this version doesn't ask clients for tokens yet, it must be None"
        found.append(("spec.security.clientAuth.mode", reason))
    if spec.tracing.endpoint:
        reason = f'is {spec.tracing.endpoint}: this version sends no spans yet, it must be ""'
        found.append(("spec.tracing.endpoint", reason))
    return found


def _against_ring(cluster: DynamoCluster, ring: Ring) -> list[tuple[str, str]]:
    """Where the spec and the decided ring differ, for when the accepted spec is not known."""
    spec = cluster.spec
    found = []
    if ring.cluster_name != cluster.name:
        reason = f"is {cluster.name}, and the ring is of the cluster {ring.cluster_name}"
        found.append(("metadata.name", reason))
        return found
    for path, wanted, held in (
        ("spec.quorum.replication", spec.quorum.replication, ring.replication),
        ("spec.ring.partitions", spec.partitions, ring.partitions),
    ):
        if wanted != held:
            found.append((path, f"is {wanted}, and the ring has {held}: it can't be changed"))
    wanted_names = {place.name: place for place in places(cluster)}
    held_names = {member.name for member in ring.members}
    for pool in spec.pools:
        path = "spec.replicas" if pool is spec.default_pool else f"spec.pools[{pool.name}].replicas"
        if any(p.name not in held_names for p in wanted_names.values() if p.pool == pool.name):
            reason = f"is {pool.replicas}, and the ring has fewer nodes in that pool: "
            found.append((path, reason + "this version can't add nodes yet"))
    gone = sorted(held_names - wanted_names.keys())
    if gone:
        reason = f"leaves out {', '.join(gone)}, which the ring names: "
        found.append(("spec.replicas", reason + "this version can't remove nodes yet"))
    for member in ring.members:
        place = wanted_names.get(member.name)
        if place is not None and place.zone == member.zone and place.capacity != member.capacity:
            path = f"spec.pools[{place.pool}].capacity"
            reason = f"is {place.capacity}, and the ring has {member.capacity}: "
            found.append((path, reason + "this version can't change it yet"))
    return found


def _steps(cluster: DynamoCluster, observed: Observed, now: str) -> list[Step]:
    wanted = places(cluster)
    nodes = [observed.nodes[place.name] for place in wanted]
    steps: list[Step] = []
    if not observed.cluster_id:
        steps.append(CreateIdentity())
    steps += [StartNode(node.name) for node in nodes if not node.running and not node.held]
    if observed.ring is None:
        return steps + _first_ring(cluster, wanted, nodes, observed.cluster_id, now)
    steps += _give_ring(nodes, observed.ring)
    waiting = tuple(node.name for node in nodes if not node.ready and not node.held)
    if waiting:
        steps.append(AwaitReady(waiting))
    return steps + _roll(nodes, settings_hash(cluster))


def _first_ring(
    cluster: DynamoCluster,
    wanted: tuple[Place, ...],
    nodes: list[ObservedNode],
    cluster_id: str,
    now: str,
) -> list[Step]:
    """The first ring waits for every disk's id, never for readiness.

    If any node holds a ring already, the decided one was lost: it is taken back
    from the nodes, once all have answered, and never made up anew.
    """
    names = tuple(node.name for node in nodes)
    unknown = tuple(node.name for node in nodes if node.status is None)
    held = [node.name for node in nodes if node.held and node.status is None]
    if held:
        who = ", ".join(held)
        return [Blocked(f"the first ring must name every node's disk, and {who} is held down")]
    holders = [node for node in nodes if node.status is not None and node.status.ring_epoch]
    steps: list[Step] = [AwaitStatus(unknown)] if unknown else []
    if holders:
        best = max(holders, key=_ring_name)
        assert best.status is not None
        return [*steps, AdoptRing(best.name, best.status.ring_epoch, best.status.ring_id)]
    decide = DecideRing(names, None)
    if not unknown:
        decide = _decide(cluster, wanted, nodes, cluster_id, now)
    # Only a ring binds: until one is decided, the spec may still change in every field.
    return [*steps, decide, AcceptSpec(), *(PostRing(n) for n in names), AwaitReady(names)]


def _decide(
    cluster: DynamoCluster,
    wanted: tuple[Place, ...],
    nodes: list[ObservedNode],
    cluster_id: str,
    now: str,
) -> DecideRing:
    candidates = []
    for place, node in zip(wanted, nodes, strict=True):
        assert node.status is not None
        candidates.append(
            Candidate(
                name=place.name,
                zone=place.zone,
                capacity=place.capacity,
                host=node.address.host,
                http_port=node.address.http_port,
                native_port=node.address.native_port,
                admin_port=node.address.admin_port,
                disk_id=node.status.disk_id,
            )
        )
    ring = first_ring(
        cluster_id=cluster_id,
        cluster_name=cluster.name,
        members=candidates,
        replication=cluster.spec.quorum.replication,
        partitions=cluster.spec.partitions,
        at=now,
    )
    impossible = problems(ring.members, ring.replication, ring.partitions, ring.slots)
    return DecideRing(tuple(place.name for place in wanted), ring, impossible)


def _give_ring(nodes: list[ObservedNode], ring: Ring) -> list[Step]:
    steps: list[Step] = []
    for node in nodes:
        if node.status is None:
            continue
        name = _ring_name(node)
        if name > (ring.epoch, ring.id):
            steps.append(
                Blocked(
                    f"{node.name} holds a ring of epoch {name[0]} ({name[1]}), which is above "
                    f"the decided one of epoch {ring.epoch} ({ring.id})"
                )
            )
        elif name < (ring.epoch, ring.id):
            steps.append(PostRing(node.name))
    return steps


def _roll(nodes: list[ObservedNode], wanted_hash: str) -> list[Step]:
    """Restarts of nodes with older settings, one at a time, each waiting for the one before."""
    old = [node for node in nodes if node.running and node.settings_hash != wanted_hash]
    if not old:
        return []
    down = [node.name for node in nodes if node.held]
    if down:
        return [Blocked(f"new settings wait until {', '.join(down)} is started again")]
    steps: list[Step] = []
    for node in old:
        steps += [RestartNode(node.name), AwaitReady((node.name,))]
    return steps


def _ring_name(node: ObservedNode) -> tuple[int, str]:
    return (node.status.ring_epoch, node.status.ring_id) if node.status else (0, "")
