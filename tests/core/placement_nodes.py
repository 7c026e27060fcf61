"""Nodes, rings and dumb checks for the tests of placement."""

from collections.abc import Sequence
from fractions import Fraction

from dynamo_core.placement import Candidate, Plan, first_ring, plan
from dynamo_core.placement_targets import token_shares, whole_weights, zone_keys
from dynamo_core.ring import Ring

AT = "2026-01-31T12:00:00Z"
CLUSTER = "c0" * 16


def node(name: str, zone: str = "", capacity: str = "1", disk: int = 1) -> Candidate:
    return Candidate(name, zone, capacity, name, 8080, 7070, 8081, f"{disk:032x}")


def nodes(count: int, zones: str = "", capacities: Sequence[str] = ("1",)) -> list[Candidate]:
    return [
        node(f"n{i}", zones[i % len(zones)] if zones else "", capacities[i % len(capacities)])
        for i in range(count)
    ]


def first(members: Sequence[Candidate], replication: int = 3, partitions: int = 256) -> Ring:
    return first_ring(CLUSTER, "cart", members, replication, partitions, AT)


def replanned(ring: Ring, parent: Ring | None) -> Plan:
    """The plan that `ring` was made of."""
    made = plan(parent, ring.members, ring.replication, ring.partitions)
    assert (made.owners, made.slots) == (ring.owners, ring.slots), "not deterministic"
    return made


def windows_distinct(owners: Sequence[object], gap: int) -> bool:
    """The dumb check: every `gap` consecutive owners differ, round the tail too."""
    return all(
        len({owners[(p + k) % len(owners)] for k in range(gap)}) == gap for p in range(len(owners))
    )


def exact_shares(ring: Ring) -> dict[int, Fraction]:
    weights = whole_weights([m.capacity for m in ring.members])
    numbers = [m.number for m in ring.members]
    given = dict(zip(numbers, weights, strict=True))
    return token_shares(given, ring.zones, ring.partitions, ring.replication)


def zone_tokens(ring: Ring) -> dict[tuple[str, int], int]:
    """Tokens per zone, a node without one being a zone of its own."""
    keys = zone_keys(ring.zones)
    found = dict.fromkeys(keys.values(), 0)
    for number in ring.owners:
        found[keys[number]] += 1
    return found


def room(ring: Ring) -> bool:
    """Whether zones and nodes leave room for an arrangement in which N neighbours are distinct
    all round: none has more than one token in N, or, of fewer zones than N, less."""
    n, q = ring.replication, ring.partitions
    tokens = zone_tokens(ring)
    if len(tokens) >= n:
        return max(tokens.values()) <= q // n
    return max(map(ring.tokens, ring.zones)) <= q // n and min(tokens.values()) * n >= q
