"""What the status of a DynamoCluster says: nodes, ring, and the operation in progress.

Owns all of it but the conditions (contract, section 1). Everything is computed from what the
nodes say and from the plan, never from counts of objects; what isn't known is said to be
unknown, or left out. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from dynamo_core.placement_report import imbalances, node_shares, zones_distinct
from dynamo_core.ring import Member, Ring
from dynamo_operator.kube import names
from dynamo_operator.kube.conditions import KINDS, TEXT_MAX, conditions, dated
from dynamo_operator.kube.facts import Facts
from dynamo_operator.kube.kinds_of_work import kind_of_work
from dynamo_operator.kube.kube_plan import KubePlan
from dynamo_operator.kube.world import World
from dynamo_operator.layout import places, pool_named
from dynamo_operator.observed import ObservedNode
from dynamo_operator.proof import is_settled
from dynamo_operator.spec import DEFAULT_POOL, DynamoCluster

PLAN_STEPS_MAX: Final = 100
STEP_TEXT_MAX: Final = 512


def status(
    world: World,
    made: KubePlan,
    facts: Facts,
    generation: int,
    before: Mapping[str, Any],
    problem: str = "",
) -> dict[str, Any]:
    """The whole status after a pass. before: the one that stands there, for transition times.

    problem: why the pass ended before its end, "" if it didn't.
    """
    cluster, ring = made.cluster, world.observed.ring
    default = [place.name for place in places(cluster) if place.pool == DEFAULT_POOL]
    wanted = [place.name for place in places(cluster)]
    ready = {name for name, node in world.observed.nodes.items() if node.ready}
    there = [name for name in world.pods if _pool(world, cluster, name) == DEFAULT_POOL]
    told: dict[str, Any] = {
        "observedGeneration": generation,
        "replicas": len(there),
        "readyReplicas": sum(name in ready for name in default),
        "selector": f"{names.CLUSTER_LABEL}={cluster.name},{names.POOL_LABEL}={DEFAULT_POOL}",
        "nodesTotal": len(wanted),
        "nodesReady": sum(name in ready for name in wanted),
        "conditions": conditions(world, made, facts, generation, before, problem),
        "nodes": _nodes(world, cluster, facts),
    }
    if ring is not None:
        told["ring"] = _ring(world, ring)
    operation = _operation(made, facts)
    if operation:
        told["operation"] = operation
    if cluster.spec.dry_run:
        steps = [str(step)[:STEP_TEXT_MAX] for step in made.to_do]
        told["plan"] = steps[:PLAN_STEPS_MAX]
    return told


def refused_status(
    before: Mapping[str, Any], problems: Sequence[str], generation: int, now: str
) -> dict[str, Any]:
    """Of a spec that can't be read, with none before it that could be carried out instead."""
    text = "; ".join(problems)
    told = {
        "Available": ("Unknown", "SpecRefused", "no spec is known by which nodes could be asked"),
        "Progressing": ("False", "SpecRefused", "nothing is done for a spec that is refused"),
        "Degraded": ("Unknown", "SpecRefused", "no spec is known by which nodes could be asked"),
        "Blocked": ("True", "SpecRefused", text),
        "UpdateAvailable": ("Unknown", "SpecRefused", "no spec is known"),
    }
    found = [dated(kind, told[kind], generation, before, now) for kind in KINDS]
    return {**before, "observedGeneration": generation, "conditions": found}


def _pool(world: World, cluster: DynamoCluster, pod: str) -> str:
    """By its name, or for a pool that is gone from the spec by its set; "" if nobody knows."""
    pool = pool_named(cluster, pod)
    if pool is not None:
        return pool.name
    seen = world.sets.get(names.split_pod(pod)[0])
    return seen.pool if seen else ""


def _ring(world: World, ring: Ring) -> dict[str, Any]:
    counts = {m.number: ring.tokens(m.number) for m in ring.members}
    shares = imbalances(node_shares(ring.members, ring.owners, ring.slots, counts))
    zones = zones_distinct(ring.slots, ring.zones)
    return {
        "epoch": ring.epoch,
        "settled": is_settled(ring, world.observed.nodes),
        "imbalance": f"{max(shares, default=0.0):.4f}",
        "zonesDistinct": zones,
    }


def _nodes(world: World, cluster: DynamoCluster, facts: Facts) -> list[dict[str, Any]]:
    ring = world.observed.ring
    wanted = {place.name: place for place in places(cluster)}
    known = [*wanted, *(m.name for m in ring.everybody if m.name not in wanted)] if ring else wanted
    found = []
    for name in sorted(known):
        node, member = world.observed.nodes.get(name), ring.node_named(name) if ring else None
        place = wanted.get(name)
        found.append(
            {
                "name": name,
                "pool": _pool(world, cluster, name),
                "zone": place.zone if place else (member.zone if member else ""),
                "state": _state(world, node, member),
                "capacity": member.capacity if member else (place.capacity if place else "0"),
                "tokens": ring.tokens(member.number) if ring and member else 0,
                "ownershipPercent": _percent(ring, member),
                "hintsPending": facts.hints.get(name, 0),
                "incarnation": facts.incarnations.get(name, ""),
            }
        )
    return found


def _percent(ring: Ring | None, member: Member | None) -> str:
    if ring is None or member is None:
        return "0.00"
    return f"{100 * ring.ownership(member.number):.2f}"


def _state(world: World, node: ObservedNode | None, member: Member | None) -> str:
    """The contract's states, and `starting` before a pod answers at all."""
    ring = world.observed.ring
    if node is None or (not node.running and node.status is None):
        return "down" if member else "starting"
    if node.status is None:
        return ("down" if node.failing else "suspect") if member else "starting"
    if member is None:
        return "joining"
    if ring is not None and any(one.number == member.number for one in ring.leaving):
        return "leaving"
    if not node.ready and node.status.state != "recovering":
        return "down"
    return node.status.state


def _operation(made: KubePlan, facts: Facts) -> dict[str, Any]:
    """What is under way, with its bytes if any move; {} when idle. The unknown is left out."""
    if not made.to_do or not made.act:
        return {}
    first, moves = made.to_do[0], facts.transfers
    stalled = sorted({f"{move.to}: {move.stalled}" for move in moves if move.stalled})
    told: dict[str, Any] = {
        "kind": kind_of_work(made),
        "node": str(getattr(first, "node", "")),
        "step": "; ".join([str(first), *stalled])[:TEXT_MAX],
    }
    if not moves:
        return told
    rate = sum(move.bytes_per_second for move in moves)
    done, total = sum(m.bytes_done for m in moves), sum(m.bytes_total for m in moves)
    told |= {"bytesDone": done, "bytesTotal": total, "bytesPerSecond": int(rate)}
    if rate >= 1:
        told["etaSeconds"] = int(max(0, total - done) / rate)
    return told | {"stalled": bool(stalled) and rate < 1}
