"""What a plan amounts to: figures for status and sentences for people.

Owns `Report`: moves, balance (P§6.2), distinctness, and what is impossible and why. It
judges finished rows of slots. Forbidden here: changing them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from dynamo_core.placement_targets import whole_weights
from dynamo_core.ring import Member

OFF_THE_MEAN: Final = 0.15  # P§6.2 calls a node out of balance beyond this


@dataclass(frozen=True, slots=True)
class NodeShare:
    """What one node gets."""

    number: int
    name: str
    tokens: int
    target: int  # tokens by capacity, rounded by largest remainder
    storage_share: float  # 0..1 of all slots
    capacity_share: float  # 0..1 of all capacity


@dataclass(frozen=True, slots=True)
class Report:
    """What a plan does and how good the ring is that it makes."""

    moves: int  # tokens that change their owner; 0 for a first ring
    moves_minimum: int  # no plan that meets the targets can move fewer
    slots_moved: int  # replicas of partitions that some node has to fetch
    nodes: tuple[NodeShare, ...]  # by number
    imbalance: float  # largest |storage share - capacity share| / capacity share
    over_15_percent: float  # share of nodes off by more than 15% (P§6.2)
    zones_distinct: int  # least number of zones among a partition's slots; 0 without zones
    crowded: int  # places where N consecutive tokens aren't distinct, so that walks go further
    problems: tuple[str, ...]  # what is impossible, and why


def node_shares(
    members: Sequence[Member],
    owners: Sequence[int],
    slots: Sequence[Sequence[int]],
    targets: Mapping[int, int],
) -> tuple[NodeShare, ...]:
    """One share per member, in their order."""
    tokens = Counter(owners)
    held = Counter(chain.from_iterable(slots))
    weights = whole_weights([member.capacity for member in members])
    return tuple(
        NodeShare(
            number=member.number,
            name=member.name,
            tokens=tokens[member.number],
            target=targets[member.number],
            storage_share=held[member.number] / held.total(),
            capacity_share=weight / sum(weights),
        )
        for member, weight in zip(members, weights, strict=True)
    )


def imbalances(shares: Sequence[NodeShare]) -> list[float]:
    """How far each node's storage is off its capacity, relative to that capacity."""
    return [abs(s.storage_share - s.capacity_share) / s.capacity_share for s in shares]


def zones_distinct(slots: Sequence[Sequence[int]], zones: Mapping[int, str]) -> int:
    """The least number of named zones among the slots of one partition."""
    return min(len({zones[number] for number in row} - {""}) for row in slots)


def crowded(owners: Sequence[int], zones: Mapping[int, str], gap: int) -> int:
    """Places p where owners p .. p+gap-1 aren't distinct, or not in distinct zones as far as
    there are zones."""
    named = len(set(zones.values()) - {""})
    found = 0
    for p in range(len(owners)):
        window = [owners[(p + k) % len(owners)] for k in range(gap)]
        distinct = {zones[number] for number in window} - {""}
        bare = sum(not zones[number] for number in window)
        found += len(set(window)) < gap or len(distinct) + bare < min(gap, named)
    return found


def problems(
    members: Sequence[Member], replication: int, partitions: int, slots: Sequence[Sequence[int]]
) -> tuple[str, ...]:
    """What these members make impossible, each in one sentence that says why."""
    weights = whole_weights([member.capacity for member in members])
    total = sum(weights)
    nodes = len(members)
    found: list[str] = []
    if nodes < replication:
        found.append(
            f"{replication} replicas need {replication} nodes and there are {nodes}: "
            f"every partition has only {nodes} until {replication - nodes} more join."
        )
    if nodes > partitions:
        found.append(
            f"{nodes} nodes share {partitions} partitions: {nodes - partitions} of them own no "
            f"token, and the number of partitions is fixed for the life of the ring."
        )
    zones = zones_distinct(slots, {member.number: member.zone for member in members})
    found += _zone_problems(members, weights, replication, zones)
    for member, weight in zip(members, weights, strict=True):
        # A node holds a partition at most once. With N nodes or fewer all hold everything.
        if weight * replication > total and nodes > 1:
            found.append(
                f"Node {member.name} has {_percent(weight, total)} of the capacity but can hold "
                f"at most one of the {replication} replicas of each partition, "
                f"{_percent(1, min(nodes, replication))} of the data: the others hold the rest."
            )
    return tuple(found)


def _zone_problems(
    members: Sequence[Member], weights: Sequence[int], replication: int, distinct: int
) -> list[str]:
    by_zone: Counter[str] = Counter()
    for member, weight in zip(members, weights, strict=True):
        by_zone[member.zone] += weight
    bare = [member.name for member in members if not member.zone]
    named = sorted(by_zone.keys() - {""})
    if not named:
        return []
    found: list[str] = []
    if bare:
        more = f" and {len(bare) - 1} more" if len(bare) > 1 else ""
        found.append(
            f"Node {bare[0]}{more} names no zone while others do: "
            f"whether its replicas share a zone with another's is unknown."
        )
    elif len(named) < replication:
        found.append(
            f"{replication} replicas lie in {len(named)} {'zone' if len(named) == 1 else 'zones'}"
            f" ({', '.join(named)}): two replicas or more of every partition share one."
        )
    if not bare and distinct < min(len(named), replication):
        found.append(
            f"Some partition has its replicas in only {distinct} of {len(named)} zones: "
            f"the nodes of the others own no token near it."
        )
    total = sum(weights)
    for zone in named:
        share = _percent(by_zone[zone], total)
        if len(named) >= replication and by_zone[zone] * replication > total and len(named) > 1:
            found.append(
                f"Zone {zone} has {share} of the capacity but holds at most one of "
                f"{replication} replicas, {_percent(1, replication)} of the data: "
                f"the other zones hold more than their share."
            )
        if not bare and len(named) <= replication and by_zone[zone] * replication < total:
            found.append(
                f"Zone {zone} has {share} of the capacity but has to hold one of "
                f"{replication} replicas of every partition, {_percent(1, replication)} of the "
                f"data: its nodes hold more than their share."
            )
    return found


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%"
