"""The next ring from (ring, members): who shall own which token and hold which slot.

Owns `plan`, which decides, and the builders `first_ring` and `next_ring`, which make a Ring
of a plan: epoch, parent, history. All of it is deterministic and pure: any two
planners decide alike. Forbidden here: whether or when a ring is published, and who holds a
slot at this moment (the nodes know that).

The rules (P§4.2, §4.3, §6.2): tokens follow capacity; N consecutive tokens lie on distinct
nodes and zones wherever that is possible, all round the ring; as little moves as can be. A
partition's slots are distinct in any case, because walks pass over what is taken.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import ne

from dynamo_core.errors import CallerError
from dynamo_core.fields import need_int, refuse
from dynamo_core.placement_members import Candidate, succession
from dynamo_core.placement_moves import rearrange
from dynamo_core.placement_report import (
    OFF_THE_MEAN,
    Move,
    NodeShare,
    Report,
    avoidable,
    changes,
    crowded,
    crowded_why,
    gained,
    imbalances,
    node_shares,
    problems,
    zones_distinct,
    zones_short,
)
from dynamo_core.placement_spread import lay_out
from dynamo_core.placement_targets import token_shares, token_targets, whole_weights, zone_keys
from dynamo_core.ring import HistoryEntry, Member, Ring
from dynamo_core.ring_checks import (
    PARTITIONS_MAX,
    PARTITIONS_MIN,
    REPLICATION_MAX,
    check_member,
)
from dynamo_core.walks import preferred_slots

__all__ = ["Candidate", "Move", "NodeShare", "Plan", "Report", "first_ring", "next_ring", "plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Owners and slots as in a Ring, with the report on them."""

    owners: tuple[int, ...]
    slots: tuple[tuple[int, ...], ...]
    report: Report


def plan(ring: Ring | None, members: Iterable[Member], replication: int, partitions: int) -> Plan:
    """Owners and slots for these members, following `ring` (None: from nothing).

    A member whose name the ring gives to another number replaces that node: it inherits its
    tokens and slots. If every member owns what it should already, nothing moves.

    Tokens beyond the minimum move only to keep neighbours distinct, and never more of them
    than had to move anyway: moves <= 2 * moves_minimum. CallerError for members that no ring
    may have, and for fewer of them than replicas.
    """
    members = sorted(members, key=lambda member: member.number)
    _check(ring, members, replication, partitions)
    numbers = [member.number for member in members]
    zones = {member.number: member.zone for member in members}
    before = _inherited(ring, members) if ring else None
    weights = dict(zip(numbers, whole_weights([m.capacity for m in members]), strict=True))
    targets = token_targets(weights, zones, partitions, replication, Counter(before or ()))

    owners = _arranged(ring, before, zones, targets, replication)
    slots = tuple(preferred_slots(owners, zones, replication))
    if ring:
        slots = _kept(ring, members, slots)

    shares = node_shares(members, owners, slots, targets)
    off = imbalances(shares)
    exact = token_shares(weights, zones, partitions, replication)
    owned = Counter(ring.owners if ring else ())
    places = crowded(owners, zones, replication)
    moved = changes(ring.slots, slots) if ring else ()
    report = Report(
        moves=sum(map(ne, ring.owners, owners)) if ring else 0,
        moves_minimum=sum(max(0, targets[n] - owned[n]) for n in numbers) if ring else 0,
        slots_moved=len(moved),
        slots_minimum=gained(ring.slots, slots) if ring else 0,
        changes=moved,
        nodes=shares,
        imbalance=max(off),
        imbalance_avoidable=avoidable(shares, exact),
        fullest=max(share.storage_share / share.capacity_share for share in shares),
        over_15_percent=sum(each > OFF_THE_MEAN for each in off) / len(off),
        zones_distinct=zones_distinct(slots, zones),
        zones_short=zones_short(slots, zones),
        crowded=places,
        crowded_why=crowded_why(places, owners, zones, replication),
        problems=problems(members, replication, partitions, slots),
    )
    return Plan(owners, slots, report)


def _arranged(
    ring: Ring | None,
    before: Sequence[int] | None,
    zones: Mapping[int, str],
    targets: Mapping[int, int],
    replication: int,
) -> tuple[int, ...]:
    """The owner of each token. The searches know nodes and zones as 0, 1, ...: members first,
    then leavers, who are due no token."""
    numbers = sorted(targets)
    leavers = sorted(set(before or ()) - targets.keys())
    zone_of_all = {**(ring.zones if ring else {}), **zones}
    if len(set(zones.values())) == 1:  # there is nothing to keep apart but nodes
        zone_of_all = dict.fromkeys(zone_of_all, "")
    keys = zone_keys({number: zone_of_all[number] for number in numbers})
    ranked = sorted(set(keys.values()))
    zone_gap = min(replication, len(ranked))
    keys |= zone_keys({number: zone_of_all[number] for number in leavers})
    ranked += sorted(set(keys.values()) - set(ranked))
    zone_index = {key: i for i, key in enumerate(ranked)}
    nodes = numbers + leavers
    zone_of = [zone_index[keys[number]] for number in nodes]
    counts = [targets.get(number, 0) for number in nodes]
    if before is None:
        arranged = lay_out(counts, zone_of, replication, zone_gap)
    else:
        index = {number: i for i, number in enumerate(nodes)}
        was = [index[number] for number in before]
        arranged = rearrange(was, counts, zone_of, replication, zone_gap)
    return tuple(nodes[i] for i in arranged)


def _check(ring: Ring | None, members: Sequence[Member], replication: int, partitions: int) -> None:
    need_int("replication", replication, 1, REPLICATION_MAX)
    need_int("partitions", partitions, PARTITIONS_MIN, PARTITIONS_MAX)
    if partitions & (partitions - 1):
        raise refuse("partitions", partitions, "a power of two from 16 to 8192")
    if ring and ring.partitions != partitions:
        right = f"{ring.partitions}, as in the ring: it is fixed for life"
        raise refuse("partitions", partitions, right)
    if not members:
        raise refuse("members", [], "a list of at least one member")
    for member in members:
        check_member(f"member {member.name!r}", member)
    for what, values in (
        ("number", [member.number for member in members]),
        ("name", [member.name for member in members]),
    ):
        value, times = Counter[object](values).most_common(1)[0]
        if times > 1:
            raise CallerError(f"{times} members have the {what} {value!r}; each must have its own")
    if len(members) < replication:
        raise CallerError(
            f"{replication} replicas need {replication} nodes and there are {len(members)}: "
            f"no partition can have more replicas than there are nodes"
        )


def _heirs(ring: Ring, members: Iterable[Member]) -> dict[int, int]:
    """For each number of the ring that a member replaces by name: the new number."""
    heirs = {}
    for member in members:
        old = ring.member_named(member.name)
        if old and old.number != member.number:
            heirs[old.number] = member.number
    return heirs


def _inherited(ring: Ring, members: Iterable[Member]) -> list[int]:
    heirs = _heirs(ring, members)
    return [heirs.get(number, number) for number in ring.owners]


def _kept(
    ring: Ring, members: Iterable[Member], slots: Iterable[tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    """Rows in which whoever stays keeps its slot.

    Who leaves is paired with who comes, in the order of slots and of the walk; heirs come
    into the very slot of those they replace.
    """
    heirs = _heirs(ring, members)
    rows = []
    for old, walked in zip(ring.slots, slots, strict=True):
        inherited = [heirs.get(number, number) for number in old]
        comers = iter([number for number in walked if number not in inherited])
        row = [n if n in walked else next(comers, None) for n in inherited]
        rows.append(tuple(n for n in (*row, *comers) if n is not None))
    return tuple(rows)


def first_ring(
    cluster_id: str,
    cluster_name: str,
    members: Iterable[Candidate],
    replication: int,
    partitions: int,
    at: str,
) -> Ring:
    """The ring of epoch 1. Numbers are given from 1 in the order of `members`.

    `at` is the time for the history, ISO 8601 in UTC.
    """
    numbered = tuple(one.numbered(number) for number, one in enumerate(members, start=1))
    made = plan(None, numbered, replication, partitions)
    return Ring(
        cluster_id=cluster_id,
        cluster_name=cluster_name,
        epoch=1,
        parent="",
        partitions=partitions,
        replication=replication,
        feature_level=1,
        next_number=len(numbered) + 1,
        members=numbered,
        owners=made.owners,
        slots=made.slots,
        leaving=(),
        history=tuple(HistoryEntry(1, at, "created", m.name, m.number) for m in numbered),
    )


def next_ring(
    ring: Ring,
    members: Iterable[Candidate],
    at: str,
    drained: Collection[int] = (),
    give_up: Collection[int] = (),
    settled: Ring | None = None,
) -> Ring:
    """The ring that follows `ring` with exactly these members.

    `settled` is the last ring for which everything lay where it should, if `ring` isn't such
    a one yet. Where it had the very same members, their old places are taken up again: who
    changes his mind moves back what has moved, and nothing else.

    A known name with the known disk keeps its number, leaving or not; with another disk it
    is a replacement and gets a new one, as do new names. Numbers are never reused. Members
    that aren't wanted are leaving from now on, until a later ring drops them: as `drained`,
    with proof that nobody needs them any more, or in `give_up` with what they hold, on a
    person's word. Both are node numbers. The history tells, at the time `at`, who was given
    up, left, was replaced, joined or was reweighed.

    CallerError for numbers of nodes that can't be dropped so; see `succession`.
    """
    after = succession(ring, members, drained, give_up)
    if settled is not None and settled.members == after.members:
        owners, slots = settled.owners, settled.slots
    else:
        made = plan(ring, after.members, ring.replication, ring.partitions)
        owners, slots = made.owners, made.slots
    epoch = ring.epoch + 1
    return replace(
        ring,
        epoch=epoch,
        parent=ring.id,
        next_number=after.next_number,
        members=after.members,
        owners=owners,
        slots=slots,
        leaving=after.leaving,
        history=ring.history
        + tuple(HistoryEntry(epoch, at, event, m.name, m.number) for event, m in after.events),
    )
