"""What `placement.plan` does step by step: rings that grow node by node, and random changes.

Owns two tables of `python -m bench.placement`. Forbidden here: other ways to place tokens.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from random import Random

from dynamo_core.placement import Candidate, Report, first_ring, next_ring, plan
from dynamo_core.placement_targets import zone_keys
from dynamo_core.ring import Ring

AT = "2026-01-31T12:00:00Z"
ROUGH_CHANGES = 5


def candidate(name: str, zone: str = "", capacity: str = "1", disk: int = 1) -> Candidate:
    return Candidate(name, zone, capacity, "h", 1, 2, 3, f"{disk:032x}")


def follow(ring: Ring, members: list[Candidate]) -> tuple[Ring, Report]:
    after = next_ring(ring, members, AT)
    return after, plan(ring, after.members, ring.replication, ring.partitions).report


def growth() -> None:
    """3, 4, ... 12 nodes, one at a time, and back."""
    print(
        "\n| zones | nodes | moves / minimum | slots moved / minimum | places crowded |"
        " imbalance avoidable |\n|---|---|---|---|---|---|"
    )
    for zones in ("", "ab", "abc", "abcd"):
        counts = [*range(max(3, len(zones)), 13), 8, 5]

        def members(count: int, zones: str = zones) -> list[Candidate]:
            ring_of = zones or "-"
            named = [ring_of[i % len(ring_of)].strip("-") for i in range(count)]
            return [candidate(f"n{i}", zone) for i, zone in enumerate(named)]

        ring = first_ring("c0" * 16, "c", members(counts[0]), 3, 256, AT)
        for was, count in pairwise(counts):
            ring, found = follow(ring, members(count))
            print(
                f"| {len(zones) or '-'} | {was} to {count} | {found.moves} / "
                f"{found.moves_minimum} | {found.slots_moved} / {found.slots_minimum} | "
                f"{found.crowded} | {100 * found.imbalance_avoidable:.1f}% |"
            )


def rough(seeds: int) -> None:
    """Random changes of small rings whose zones and nodes often own all that they may."""
    counts: Counter[str] = Counter()
    for seed in range(seeds):
        random = Random(f"rough {seed}")
        for old, new, found in chain(random):
            kind = "fewer zones than replicas" if _zones(new) < new.replication else "enough zones"
            counts[f"{kind}: changes"] += 1
            counts[f"{kind}: moves"] += found.moves
            counts[f"{kind}: least"] += found.moves_minimum
            counts[f"{kind}: exact"] += found.moves == found.moves_minimum
            if _room(new) and _room(old):
                counts[f"{kind}: room"] += 1
                counts[f"{kind}: crowded"] += found.crowded > 0
                counts[f"{kind}: windows"] += new.partitions
                counts[f"{kind}: places"] += found.crowded
    print(
        "\n| random changes | number | least moves met | moves / minimum, all together |"
        " with room: crowded somewhere | places crowded |\n|---|---|---|---|---|---|"
    )
    for kind in ("enough zones", "fewer zones than replicas"):
        n, room = counts[f"{kind}: changes"], counts[f"{kind}: room"]
        print(
            f"| {kind} | {n} | {counts[f'{kind}: exact'] / n:.0%} | "
            f"{counts[f'{kind}: moves'] / counts[f'{kind}: least']:.3f} | "
            f"{counts[f'{kind}: crowded'] / room:.0%} of {room} | "
            f"{counts[f'{kind}: places'] / counts[f'{kind}: windows']:.2%} |"
        )


def chain(random: Random) -> Iterator[tuple[Ring, Ring, Report]]:
    """Rings that follow each other by joins, leaves, weights and new disks."""
    q, n = random.choice((16, 64, 256, 512)), random.choice((2, 3, 3, 4, 5))
    zones = random.choice(("", "", "a", "ab", "abc", "abc", "abcd", "abcdef"))
    capacities = random.choice((["1"], ["1", "2"], ["0.5", "1", "4"]))
    made = 0

    def joiner() -> Candidate:
        nonlocal made
        made += 1
        zone = random.choice(zones) if zones else ""
        return candidate(f"n{made}", zone, random.choice(capacities))

    members = [joiner() for _ in range(n + random.randrange(12))]
    ring = first_ring("c0" * 16, "c", members, n, q, AT)
    for _ in range(ROUGH_CHANGES):
        act = random.choice(("join", "join", "leave", "reweigh", "replace"))
        for _ in range(random.choice((1, 1, 2, 3))):
            at = random.randrange(len(members))
            one = members[at]
            if act == "join":
                members = [*members, joiner()]
            elif act == "leave" and len(members) > n:
                members = [*members[:at], *members[at + 1 :]]
            elif act in ("reweigh", "replace"):
                capacity = random.choice(capacities) if act == "reweigh" else one.capacity
                disk = int(one.disk_id, 16) + (act == "replace")
                again = candidate(one.name, one.zone, capacity, disk)
                members = [*members[:at], again, *members[at + 1 :]]
        old, (ring, found) = ring, follow(ring, members)
        yield old, ring, found


def _zones(ring: Ring) -> int:
    return len(set(zone_keys(ring.zones).values()))


def _room(ring: Ring) -> bool:
    """Whether no zone or node owns more than one token in N, and no zone of few less."""
    n, q = ring.replication, ring.partitions
    keys = zone_keys(ring.zones)
    by_zone = Counter(keys[number] for number in ring.owners)
    if len(by_zone) >= n:
        return max(by_zone.values()) <= q // n
    return max(map(ring.tokens, ring.zones)) <= q // n and min(by_zone.values()) * n >= q
