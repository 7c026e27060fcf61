"""The five conditions of a DynamoCluster: what can be said of it in a word, and why.

Owns their rules and texts (contract, section 1). Available is computed from what the nodes say
under the decided ring, never from counts of objects, and where nodes can't be asked it is
Unknown. Pure: the time of a transition is passed in, and kept while a condition stays what it
was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dynamo_core.ring import Ring
from dynamo_operator.kube import names, templates
from dynamo_operator.kube.facts import Facts
from dynamo_operator.kube.kinds_of_work import kind_of_work
from dynamo_operator.kube.kube_plan import KubePlan
from dynamo_operator.kube.world import World
from dynamo_operator.observed import ObservedNode
from dynamo_operator.spec import DynamoCluster

TEXT_MAX: Final = 1024
NODES_TOLD: Final = 8
KINDS: Final = ("Available", "Progressing", "Degraded", "Blocked", "UpdateAvailable")

Told = tuple[str, str, str]  # status, reason, message


def conditions(
    world: World,
    made: KubePlan,
    facts: Facts,
    generation: int,
    before: Mapping[str, Any],
    problem: str = "",
) -> list[dict[str, Any]]:
    """All five. before: the last status. problem: why the pass ended before its end, "" if not."""
    degraded = _degraded(world, made, facts)
    found = (
        _available(world, made.cluster),
        _progressing(made, problem, whole=degraded[0] == "False"),
        degraded,
        _blocked(made),
        _update(world, made.cluster),
    )
    told = zip(KINDS, found, strict=True)
    return [dated(kind, one, generation, before, world.now) for kind, one in told]


def dated(
    kind: str, told: Told, generation: int, before: Mapping[str, Any], now: str
) -> dict[str, Any]:
    """A condition with the time since when it is so."""
    state, reason, message = told
    known = before.get("conditions") or []
    old: Mapping[str, Any] = next((one for one in known if one.get("type") == kind), {})
    since = old.get("lastTransitionTime") if old.get("status") == state else None
    return {
        "type": kind,
        "status": state,
        "reason": reason,
        "message": message[:TEXT_MAX],
        "observedGeneration": generation,
        "lastTransitionTime": since or now,
    }


# Available


def _available(world: World, cluster: DynamoCluster) -> Told:
    """Whether every partition can be read and written now, with the spec's r and w.

    A node that can't be asked may serve all the same: what depends on it is Unknown.
    """
    ring, nodes = world.observed.ring, world.observed.nodes
    if ring is None:
        holders = [name for name, node in nodes.items() if node.status and node.status.ring_epoch]
        if holders or world.damaged:
            return "Unknown", "RingUnknown", "the decided ring can't be read, and nodes hold one"
        return "False", "NoRing", "there is no ring yet: the nodes have yet to start"
    silent = {m.name for m in ring.everybody if _silent(nodes.get(m.name))}
    if not _lacking(world, ring, cluster):
        text = f"all {ring.partitions} partitions can be read and written"
        return "True", "QuorumAvailable", text
    surely = _lacking(world, ring, cluster, silent)
    if surely:
        return "False", *surely
    who = listed(sorted(silent)) or "a node on its way to another place"
    return "Unknown", "NodesSilent", f"whether there is a quorum depends on {who}: no word from it"


def _lacking(
    world: World, ring: Ring, cluster: DynamoCluster, trusted: set[str] | None = None
) -> tuple[str, str] | None:
    """Why some key can't be read or written, as (reason, message); None if all can.

    trusted: who is taken to serve without a word from it. Then the doubt about slots that move
    is decided for the best too: each partition is held as the last settled ring says, or as the
    decided one does. Without trust, whoever is away in either counts as a holder that is.
    """
    nodes, quorum = world.observed.nodes, cluster.spec.quorum
    there = trusted or set()
    takes = [m.name for m in ring.everybody if m.name in there or _ready(nodes.get(m.name))]
    gone = [m for m in ring.everybody if m.name not in there and not _answers(nodes.get(m.name))]
    away, who = {m.number for m in gone}, listed(sorted(m.name for m in gone))
    if len(takes) < quorum.w:
        text = f"{len(takes)} node(s) take writes, and w is {quorum.w}; not ready: {who}"
        return "NoWriteQuorum", text
    settled = world.observed.settled
    short = 0
    for partition, row in enumerate(ring.slots):
        rows = [set(row), set(settled.slots[partition]) if settled else set(row)]
        worst = len(set.union(*rows) & away)
        lost = worst if trusted is None else min(len(one & away) for one in rows)
        short += ring.replication - lost < quorum.r
    if short:
        text = f"{short} of {ring.partitions} partitions lack r={quorum.r} nodes to read from"
        return "NoReadQuorum", f"{text}: {who}"
    return None


def _ready(node: ObservedNode | None) -> bool:
    return node is not None and node.ready


def _answers(node: ObservedNode | None) -> bool:
    """Whether it can be read from: a recovering one says nothing of what it lacks."""
    return node is not None and node.whole


def _silent(node: ObservedNode | None) -> bool:
    """A pod that seems to run and can't be asked: others may reach it."""
    return node is not None and node.running and node.status is None and not node.failing


# The others


def _progressing(made: KubePlan, problem: str, *, whole: bool) -> Told:
    if made.cluster.spec.paused:
        return "False", "Paused", "spec.paused is true: nothing is changed"
    if not made.act and made.to_do:
        return "False", "DryRun", f"{len(made.to_do)} step(s) are not taken: see status.plan"
    if problem:
        return "True", "Retrying", problem
    if made.to_do:
        return "True", kind_of_work(made), str(made.to_do[0])
    if made.refusals:
        return "False", "SpecRefused", "nothing is done for a spec that is refused"
    if not whole:
        return "False", "NothingToDo", "no step is left; what is not well stands under Degraded"
    return "False", "Settled", "everything is as the spec says"


def _degraded(world: World, made: KubePlan, facts: Facts) -> Told:
    found = []
    ring, nodes = world.observed.ring, world.observed.nodes
    for member in ring.everybody if ring else ():
        node, pod = nodes.get(member.name), world.pods.get(member.name)
        if node is None or node.status is None:
            why = f": {pod.trouble}" if pod is not None and pod.trouble else ""
            found.append(f"{member.name} {'has no pod' if pod is None else 'does not answer'}{why}")
        elif node.recovering:
            found.append(f"{member.name} is recovering")
        elif not node.ready:
            found.append(f"{member.name} is not ready ({node.status.state})")
        elif node.status.disk is not None and node.status.disk.full:
            found.append(
                f"the disk of {member.name} is full, so it takes no writes: free space there, "
                "or raise storage.size"
            )
    found += [str(warning) for warning in made.warnings]
    unseen = f"this operator's role doesn't let it see {', '.join(facts.unseen)}"
    if found:
        text = "; ".join([*found, *([unseen] if facts.unseen else [])])
        return "True", "NodesNotWhole" if ring else "Warnings", text
    if ring is None:
        return "False", "NoMembers", "there is no ring yet, so nobody is missed"
    text = "every member answers and is whole"
    return "False", "Whole", f"{text}; {unseen}" if facts.unseen else text


def _blocked(made: KubePlan) -> Told:
    if made.refusals:
        return "True", "SpecRefused", "; ".join(str(step) for step in made.refusals)
    if made.halts:
        return "True", made.halts[0].code, "; ".join(halt.reason for halt in made.halts)
    return "False", "NotBlocked", "nothing waits for a person"


def _update(world: World, cluster: DynamoCluster) -> Told:
    release = world.surroundings.release
    found = templates.outdated(world, cluster)
    if not found:
        return "False", "UpToDate", f"pod templates are as operator {release.version} makes them"
    text = (
        f"the pod template of {listed(found)} is not what operator {release.version} makes; to "
        f"have its pods replaced, one after another: kubectl annotate dyn {cluster.name} "
        f"{names.UPDATE}={release.version} --overwrite"
    )
    return "True", "OperatorUpgraded", text


def listed(found: Sequence[str] | Iterable[str]) -> str:
    """Some names, and how many more there are."""
    found = list(found)
    more = len(found) - NODES_TOLD
    return ", ".join(found[:NODES_TOLD]) + (f" and {more} more" if more > 0 else "")
