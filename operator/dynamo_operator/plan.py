"""What to do next: (spec, observed) to ordered steps.

Owns the order of everything: refuse, start, hand the decided ring out, decide
the next one, restart, wait. `rings`, `proof`, `rolling` and `refusals` hold the
rules; all safety rules live in these five. The same plan is carried out with
processes (`local`) and with StatefulSets. Forbidden: I/O, clocks, and memory of
earlier passes; a plan follows from what is seen now.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dynamo_core.ring import Ring
from dynamo_operator import rings
from dynamo_operator.layout import places
from dynamo_operator.observed import Observed, ObservedNode
from dynamo_operator.proof import moving
from dynamo_operator.refusals import refused
from dynamo_operator.rolling import at_once, in_turn, is_old, puts
from dynamo_operator.spec import DynamoCluster
from dynamo_operator.steps import (
    AcceptSpec,
    AdoptRing,
    AwaitDrained,
    AwaitMoves,
    AwaitReady,
    AwaitRing,
    AwaitStatus,
    Blocked,
    CreateIdentity,
    DecideRing,
    PostRing,
    Refused,
    RemoveNode,
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
    def to_do(self) -> tuple[Step, ...]:
        """The steps that remain."""
        return tuple(step for step in self.steps if not isinstance(step, Refused))

    @property
    def settled(self) -> bool:
        return not self.to_do

    @property
    def waiting(self) -> bool:
        """Whether nothing can be done now: data moves, or a person has to act."""
        return bool(self.to_do) and isinstance(self.to_do[0], AwaitDrained | AwaitMoves | Blocked)

    @property
    def scaling(self) -> bool:
        """Whether the ring or the data in it is being changed."""
        kinds = (DecideRing, AwaitRing, AwaitDrained, AwaitMoves, RemoveNode)
        return any(isinstance(step, kinds) for step in self.steps)


def plan(cluster: DynamoCluster, observed: Observed, now: str) -> Plan:
    """The steps that lead from what is observed to what the spec says.

    now: ISO 8601 in UTC, for the history of a ring that is decided. One refused
    field refuses the whole edit: half an edit is what nobody asked for.
    """
    refusals = refused(cluster, observed)
    if refusals and observed.accepted is None:
        return Plan(cluster, refusals, act=False)
    cluster = carried_out(cluster, observed)
    act = not cluster.spec.paused and not cluster.spec.dry_run
    if cluster.spec.paused:
        return Plan(cluster, refusals, act)
    steps: list[Step] = [*refusals]
    if cluster != observed.accepted and (observed.ring or observed.accepted):
        steps.append(AcceptSpec())
    steps += _steps(cluster, observed, now)
    return Plan(cluster, tuple(steps), act)


def carried_out(cluster: DynamoCluster, observed: Observed) -> DynamoCluster:
    """The spec that a plan leads to: this one, or the accepted one if this is refused.

    Its nodes are those that have to be observed; of `observed` itself no node is looked at.
    """
    if observed.accepted is not None and refused(cluster, observed):
        return observed.accepted
    return cluster


def _steps(cluster: DynamoCluster, observed: Observed, now: str) -> list[Step]:
    ring, nodes = observed.ring, observed.nodes
    wanted = [nodes[place.name] for place in places(cluster)]
    steps: list[Step] = []
    if not observed.cluster_id:
        steps.append(CreateIdentity())
    if ring is None:
        # A ring that was lost may name nodes that are not wanted any more: all are asked.
        extra = nodes if observed.accepted else observed.may_know
        known = [*wanted, *(nodes[name] for name in extra if nodes[name] not in wanted)]
        steps += (*_starts(known), *puts(cluster, known), *at_once(known, observed, None))
        return steps + _first_ring(cluster, observed, wanted, known, now)
    named = [nodes[member.name] for member in (*ring.members, *ring.leaving)]
    all_nodes = [*wanted, *(node for node in named if node not in wanted)]
    steps += (*_starts(all_nodes), *puts(cluster, all_nodes), *at_once(all_nodes, observed, ring))
    above = [node for node in nodes.values() if _ring_name(node) > (ring.epoch, ring.id)]
    if above:
        return [*steps, Blocked(_above(above[0], ring))]
    behind = tuple(n.name for n in named if n.status and _ring_name(n) < (ring.epoch, ring.id))
    steps += (PostRing(name) for name in behind)
    turn = rings.following(cluster, observed, ring, now)
    leftovers = rings.leftovers(cluster, observed, ring)
    if behind and (turn.due or leftovers):
        # One ring after another, each known to everybody who can be reached.
        steps.append(AwaitRing(behind, ring.epoch))
    steps += (*leftovers, *turn.due)
    members = [node for node in wanted if ring.member_named(node.name)]
    # Silence is no leave to restart, but no reason to wait either: an old one has its turn.
    mute = {n.name for n in members if is_old(n, observed) and not n.ready and not n.serves_nobody}
    waiting = tuple(n.name for n in members if not n.ready and not n.held and n.name not in mute)
    if waiting:
        steps.append(AwaitReady(waiting))
    steps += (*in_turn(members, observed, ring), *turn.later)
    moves = moving(ring, nodes)
    return [*steps, moves] if moves else steps


def _starts(nodes: Iterable[ObservedNode]) -> list[Step]:
    return [StartNode(node.name) for node in nodes if not node.running and not node.held]


def _first_ring(
    cluster: DynamoCluster,
    observed: Observed,
    wanted: list[ObservedNode],
    known: list[ObservedNode],
    now: str,
) -> list[Step]:
    """The first ring waits for every disk's id, never for readiness.

    If any node holds a ring already, the decided one was lost: it is taken back from the nodes,
    once all have answered that a person hasn't given up, and never made up anew.
    """
    holders = [node for node in known if node.status is not None and node.status.ring_epoch]
    unheard = observed.unheard if holders else ()
    silent = [node for node in known if node.status is None and node.name not in unheard]
    unknown = tuple(node.name for node in silent)
    held = [node.name for node in silent if node.held]
    if held:
        who = ", ".join(held)
        return [Blocked(f"the first ring must name every node's disk, and {who} is held down")]
    steps: list[Step] = [AwaitStatus(unknown)] if unknown else []
    if holders:
        best = max(holders, key=_ring_name)
        assert best.status is not None
        return [*steps, AdoptRing(best.name, best.status.ring_epoch, best.status.ring_id)]
    names = tuple(node.name for node in wanted)
    decide = rings.first(cluster, places(cluster), wanted, observed.cluster_id, now)
    # Only a ring binds: until one is decided, the spec may still change in every field.
    return [*steps, decide, AcceptSpec(), *(PostRing(n) for n in names), AwaitReady(names)]


def _above(node: ObservedNode, ring: Ring) -> str:
    epoch, ring_id = _ring_name(node)
    return (
        f"{node.name} holds a ring of epoch {epoch} ({ring_id}), which is above "
        f"the decided one of epoch {ring.epoch} ({ring.id})"
    )


def _ring_name(node: ObservedNode) -> tuple[int, str]:
    return (node.status.ring_epoch, node.status.ring_id) if node.status else (0, "")
