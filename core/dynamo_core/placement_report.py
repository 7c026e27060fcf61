"""What a plan amounts to: figures for status and sentences for people.

Owns `Report`: moves, balance (P§6.2), distinctness, and what is impossible and why. It
judges finished rows of slots. Forbidden here: changing them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Final

from dynamo_core.placement_targets import whole_weights, zone_keys
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
class Move:
    """A slot of a partition that another node shall hold."""

    partition: int
    slot: int
    giver: int | None  # None: nobody had it, the row was shorter
    taker: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a plan does and how good the ring is that it makes."""

    moves: int  # tokens that change their owner; 0 for a first ring
    moves_minimum: int  # no plan that meets the targets can move fewer
    slots_moved: int  # replicas of partitions that some node has to fetch
    slots_minimum: int  # no plan that stores as much on each node can move fewer
    changes: tuple[Move, ...]  # those `slots_moved`, by partition and slot
    nodes: tuple[NodeShare, ...]  # by number
    imbalance: float  # largest |storage share - capacity share| / capacity share
    imbalance_avoidable: float  # the same against the shares that N nodes and zones allow
    fullest: float  # largest storage for its capacity, the average being 1
    over_15_percent: float  # share of nodes off by more than 15% (P§6.2)
    zones_distinct: int  # least number of zones among a partition's slots; 0 without zones
    zones_short: int  # partitions whose slots lie in fewer zones than they could
    crowded: int  # places where N consecutive tokens aren't distinct, so that walks go further
    crowded_why: str  # "" if none is
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


def avoidable(shares: Sequence[NodeShare], exact: Mapping[int, Fraction]) -> float:
    """The largest deviation of a node's storage from `exact`, its bounded share of tokens."""
    total = sum(exact.values())
    return max(abs(s.storage_share * total / exact[s.number] - 1) for s in shares)


def changes(before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> tuple[Move, ...]:
    """The slots that change their holder."""
    return tuple(
        Move(partition, slot, old[slot] if slot < len(old) else None, taker)
        for partition, (old, new) in enumerate(zip(before, after, strict=True))
        for slot, taker in enumerate(new)
        if taker not in old
    )


def gained(before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> int:
    """By how many slots those nodes grow that grow: so many must move at least."""
    growth = Counter(chain.from_iterable(after))
    growth.subtract(chain.from_iterable(before))
    return sum(slots for slots in growth.values() if slots > 0)


def zones_distinct(slots: Sequence[Sequence[int]], zones: Mapping[int, str]) -> int:
    """The least number of named zones among the slots of one partition."""
    return min(len({zones[number] for number in row} - {""}) for row in slots)


def zones_short(slots: Sequence[Sequence[int]], zones: Mapping[int, str]) -> int:
    """Partitions whose slots lie in fewer zones than there are for them. A node without a
    zone counts as one of its own."""
    keys = zone_keys(zones)
    there_are = len(set(keys.values()))
    return sum(len({keys[n] for n in row}) < min(len(row), there_are) for row in slots)


def crowded(owners: Sequence[int], zones: Mapping[int, str], gap: int) -> int:
    """Places p where owners p .. p+gap-1 aren't distinct, or not in distinct zones as far as
    there are zones."""
    keys = zone_keys(zones)
    zones_most = min(gap, len(set(keys.values())))
    found = 0
    for p in range(len(owners)):
        window = owners[p : p + gap] if p + gap <= len(owners) else _round(owners, p, gap)
        alike = len(set(window)) < gap
        found += alike or len({keys[number] for number in window}) < zones_most
    return found


def _round(owners: Sequence[int], start: int, count: int) -> list[int]:
    return [owners[(start + k) % len(owners)] for k in range(count)]


def crowded_why(places: int, owners: Sequence[int], zones: Mapping[int, str], gap: int) -> str:
    """Why neighbours aren't distinct in so many places."""
    if not places:
        return ""
    tokens, keys = len(owners), zone_keys(zones)
    if len(zones) == gap:
        return f"All {gap} nodes hold every partition: the order of tokens makes no difference."
    by_zone = Counter(keys[number] for number in owners)
    if len(by_zone) >= gap and max(by_zone.values()) * gap > tokens:
        name, number = max(by_zone, key=lambda zone: (by_zone[zone], zone))
        who = f"Zone {name}" if name else f"Node {number}"
        return (
            f"{who} owns {by_zone[name, number]} of {tokens} tokens, more than one "
            f"in {gap}: somewhere two of them are close."
        )
    return (
        "No arrangement that keeps all neighbours apart was found among those that move at most "
        "twice the tokens that have to move."
    )


def problems(
    members: Sequence[Member], replication: int, partitions: int, slots: Sequence[Sequence[int]]
) -> tuple[str, ...]:
    """What these members make impossible, each in one sentence that says why."""
    weights = whole_weights([member.capacity for member in members])
    total = sum(weights)
    nodes = len(members)
    found: list[str] = []
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
            f"Some partitions have their replicas in only {distinct} of {len(named)} zones: "
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
