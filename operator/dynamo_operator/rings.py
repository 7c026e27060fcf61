"""Which ring comes next: who is in it, who leaves it, and what has to be known before.

Owns the first ring, the next one, and the order in which nodes join, leave and
are let go: nodes join together, leave one at a time, and are dropped on proof.
Every ring follows from the decided one and from what is seen now, so that an
edit in the middle of another is simply the next ring. Forbidden: starting and
stopping nodes, handing rings out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dynamo_core.errors import CallerError
from dynamo_core.placement import Candidate, first_ring, next_ring
from dynamo_core.placement_report import problems
from dynamo_core.ring import Member, Ring
from dynamo_operator.giving_up import refusal, was_given_up
from dynamo_operator.layout import Place, leaving_order, places, pool_named
from dynamo_operator.observed import Observed, ObservedNode
from dynamo_operator.proof import not_drained
from dynamo_operator.space import lacking
from dynamo_operator.spec import DynamoCluster
from dynamo_operator.steps import (
    AwaitDrained,
    AwaitStatus,
    Blocked,
    DecideRing,
    PostRing,
    RemoveNode,
    Step,
)


@dataclass(frozen=True, slots=True)
class Turn:
    """What is done about the ring. `due` can be done now, `later` waits for something first."""

    due: tuple[Step, ...]
    later: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class _Change:
    """Who is changed by the next ring, and who after it."""

    keep: tuple[Candidate, ...]  # the members of the next ring
    joins: tuple[str, ...]
    returns: tuple[str, ...]
    reweighed: tuple[str, ...]
    leaves: tuple[str, ...]
    drops: tuple[Member, ...]
    given_up: tuple[Member, ...]
    absent: tuple[str, ...]  # shall join, and nothing is known of them yet
    still: tuple[AwaitDrained, ...]  # leave already
    rest: tuple[str, ...]  # leave after that, in this order
    refusals: tuple[str, ...]  # what is wanted and can't be done now, and why

    @property
    def due(self) -> bool:
        acts = (self.joins, self.returns, self.reweighed, self.leaves, self.drops, self.given_up)
        return any(acts)

    @property
    def what(self) -> str:
        acts = [
            *(f"{name} joins" for name in self.joins),
            *(f"{name} stays after all" for name in self.returns),
            *(f"{name} changes its capacity" for name in self.reweighed),
            *(f"{member.name} is given up" for member in self.given_up),
            *(f"{member.name} has left" for member in self.drops),
            *(f"{name} leaves" for name in self.leaves),
        ]
        return f"the next ring: {', '.join(acts)}"


def first(
    cluster: DynamoCluster,
    wanted: Sequence[Place],
    nodes: Sequence[ObservedNode],
    cluster_id: str,
    now: str,
) -> DecideRing:
    """The ring of epoch 1. It must name every disk, and never waits for readiness."""
    what = f"the first ring with {', '.join(place.name for place in wanted)}"
    if any(node.status is None for node in nodes):
        return DecideRing(what, None)
    ring = first_ring(
        cluster_id=cluster_id,
        cluster_name=cluster.name,
        members=[_newcomer(place, node) for place, node in zip(wanted, nodes, strict=True)],
        replication=cluster.spec.quorum.replication,
        partitions=cluster.spec.partitions,
        at=now,
    )
    return DecideRing(what, ring, _problems(ring))


def following(cluster: DynamoCluster, observed: Observed, ring: Ring, now: str) -> Turn:
    """From the decided ring to one of exactly the wanted nodes."""
    names = [member.name for member in (*ring.members, *ring.leaving)]
    change = _change(cluster, observed, ring)
    try:
        made = _made(ring, change, now, observed.settled)
        lack = lacking(ring, made, observed.nodes) if change.leaves else ""
        if lack:
            change = _change(cluster, observed, ring, f"{change.leaves[0]} can't leave: {lack}")
            made = _made(ring, change, now, observed.settled)
    except CallerError as error:
        return Turn((Blocked(f"{change.what}: {error}"),), ())
    due: list[Step] = []
    if change.due:
        names = [member.name for member in (*made.members, *made.leaving)]
        due.append(DecideRing(change.what, made, _problems(made)))
        due += (PostRing(name) for name in names)
        due += (_removal(cluster, observed, ring, member.name) for member in change.drops)
    return Turn(tuple(due), tuple(_later(cluster, observed, ring, change, names)))


def _made(ring: Ring, change: _Change, now: str, settled: Ring | None) -> Ring:
    """The ring after this change; the same one after none. Raises CallerError."""
    if not change.due:
        return ring
    return next_ring(
        ring,
        change.keep,
        now,
        drained=[member.number for member in change.drops],
        give_up=[member.number for member in change.given_up],
        settled=settled,
    )


def leftovers(cluster: DynamoCluster, observed: Observed, ring: Ring) -> list[Step]:
    """Ends what neither the spec wants nor the ring names: it has nothing that others lack."""
    named = {place.name for place in places(cluster)}
    named |= {member.name for member in (*ring.members, *ring.leaving)}
    return [_removal(cluster, observed, ring, name) for name in observed.nodes if name not in named]


def _change(cluster: DynamoCluster, observed: Observed, ring: Ring, stuck: str = "") -> _Change:
    """Who is changed next. stuck: why nobody may leave now."""
    nodes, wanted = observed.nodes, places(cluster)
    names = {place.name for place in wanted}
    # One at a time: each must find all others whole.
    asked = [m for m in (*ring.members, *ring.leaving) if m.number in observed.give_up][:1]
    refusals = [reason for m in asked if (reason := refusal(ring, m, nodes))]
    lost = [] if refusals else asked
    members = {member.name: member for member in ring.members if member not in lost}
    leaving = {member.name: member for member in ring.leaving if member not in lost}
    known = {*members, *leaving, *(member.name for member in lost)}
    strangers = [place for place in wanted if place.name not in known]
    absent = tuple(place.name for place in strangers if nodes[place.name].status is None)
    # All who join do so in one ring, and nobody leaves before them: so the least moves, and
    # never to fewer disks than there will be.
    complete = not absent
    waits = {
        name: not_drained(ring, member, nodes)
        for name, member in leaving.items()
        if name not in names
    }
    still = tuple(wait for wait in waits.values() if wait is not None)
    leavers = leaving_order(cluster, [name for name in members if name not in names])
    count = 1 if leavers and complete and not still and not stuck else 0
    keep: list[Candidate] = []
    for place in wanted:
        if member := members.get(place.name):
            keep.append(_known(member, place.capacity if complete else member.capacity))
        elif member := leaving.get(place.name):
            keep.append(_known(member, place.capacity))
        elif complete and place in strangers:
            keep.append(_newcomer(place, nodes[place.name]))
    keep += [_known(members[name], members[name].capacity) for name in sorted(leavers[count:])]
    capacities = {name: member.capacity for name, member in members.items()}
    return _Change(
        keep=tuple(keep),
        joins=tuple(place.name for place in strangers if complete),
        returns=tuple(place.name for place in wanted if place.name in leaving),
        reweighed=tuple(
            one.name for one in keep if capacities.get(one.name, one.capacity) != one.capacity
        ),
        leaves=tuple(leavers[:count]),
        drops=tuple(leaving[name] for name, wait in waits.items() if wait is None),
        given_up=tuple(lost),
        absent=absent,
        still=still,
        rest=tuple(leavers[count:]),
        refusals=(*refusals, stuck) if stuck else tuple(refusals),
    )


def _later(
    cluster: DynamoCluster,
    observed: Observed,
    ring: Ring,
    change: _Change,
    names: Iterable[str],
) -> Iterable[Step]:
    """The steps behind the next wait, as far as they can be known now."""
    names = list(names)
    if change.absent:
        down = [name for name in change.absent if observed.nodes[name].held]
        if down:
            yield Blocked(f"{', '.join(down)} joins when it is started again")
        yield AwaitStatus(change.absent)
        names += change.absent
        yield DecideRing(f"the next ring: {', '.join(f'{n} joins' for n in change.absent)}", None)
        yield from (PostRing(name) for name in names)
    yield from (Blocked(reason) for reason in change.refusals)
    going = [*change.still, *(AwaitDrained(name) for name in change.leaves)]
    rest = list(change.rest)
    yield from going
    while going or rest:
        gone = [wait.node for wait in going]
        next_one = rest[:1]
        acts = [*(f"{name} has left" for name in gone), *(f"{name} leaves" for name in next_one)]
        yield DecideRing(f"the next ring: {', '.join(acts)}", None)
        names = [name for name in names if name not in gone]
        yield from (PostRing(name) for name in names)
        yield from (_removal(cluster, observed, ring, name) for name in gone)
        going, rest = [AwaitDrained(name) for name in next_one], rest[1:]
        yield from going


def _removal(cluster: DynamoCluster, observed: Observed, ring: Ring, name: str) -> RemoveNode:
    """Deletes data only by the wish of its pool, and never that of a node that was given up."""
    pool = pool_named(cluster, name)
    wish = pool.storage.when_scaled if pool else observed.nodes[name].when_scaled
    return RemoveNode(name, keep_data=wish != "Delete" or was_given_up(ring, name))


def _newcomer(place: Place, node: ObservedNode) -> Candidate:
    assert node.status is not None, "a ring names no disk that was never seen"
    return Candidate(
        name=place.name,
        zone=place.zone,
        capacity=place.capacity,
        host=node.address.host,
        http_port=node.address.http_port,
        native_port=node.address.native_port,
        admin_port=node.address.admin_port,
        disk_id=node.status.disk_id,
    )


def _known(member: Member, capacity: str) -> Candidate:
    """A node that keeps its number, whatever disk it has now: an empty one is rebuilt under it."""
    return Candidate(
        name=member.name,
        zone=member.zone,
        capacity=capacity,
        host=member.host,
        http_port=member.http_port,
        native_port=member.native_port,
        admin_port=member.admin_port,
        disk_id=member.disk_id,
    )


def _problems(ring: Ring) -> tuple[str, ...]:
    return problems(ring.members, ring.replication, ring.partitions, ring.slots)
