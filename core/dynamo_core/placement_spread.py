"""Tokens of a first ring: who gets which, laid out from nothing.

Owns `lay_out` and what it is made of: the even spread of zones and of nodes, and the one
construction that always keeps equals apart where that is possible. How many tokens each node
gets is given. Forbidden here: the owners of an earlier ring.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import count

from dynamo_core.placement_layout import Layout, repair


def fits(counts: Mapping[int, int], places: int, gap: int) -> bool:
    """Whether every `gap` consecutive places of a circle can hold distinct things.

    Exactly when nothing comes more than floor(places / gap) times: `_columns` is the proof.
    """
    return max(counts.values()) <= places // gap


def lay_out(targets: Sequence[int], zone_of: Sequence[int], gap: int, zone_gap: int) -> list[int]:
    """Owners of sum(targets) places, evenly spread, for a first ring.

    `targets[i]` tokens for node i in zone `zone_of[i]`. Zones are spread first, then the
    nodes over the places of their zone: that keeps apart both, and even both.
    """
    places = sum(targets)
    counts = dict(enumerate(targets))
    zones = zones_spread(by_zone(targets, zone_of), places, zone_gap)
    few = zone_gap < gap
    if few and len(targets) == gap:  # distinct nodes are all of them, and so all zones
        return evenly(counts, [0] * places, dict.fromkeys(counts, 0), gap)
    owners = evenly(counts, zones, dict(enumerate(zone_of)), gap)
    best = Layout(owners, zone_of, gap, zone_gap, None)
    repair(best, 0, solvable=few and fits(counts, places, gap))
    if fits(counts, places, gap) and not _apart(best.owners, gap):
        owners = _columns(counts, places, gap)
        best = Layout(owners, zone_of, gap, zone_gap, None)
        repair(best, 0, solvable=False)
    return best.owners


def zones_spread(counts: Mapping[int, int], places: int, zone_gap: int) -> list[int]:
    """Zones over the places of a circle, `counts[zone]` times each, equals apart if they fit."""
    zones = evenly(counts, [0] * places, dict.fromkeys(counts, 0), zone_gap)
    if fits(counts, places, zone_gap) and not _apart(zones, zone_gap):
        return _columns(counts, places, zone_gap)
    return zones


def _apart(things: Sequence[int], gap: int) -> bool:
    """Whether every `gap` consecutive things of a circle are distinct."""
    last: dict[int, int] = {}
    for place, thing in enumerate([*things, *things[: gap - 1]]):
        if place - last.get(thing, -gap) < gap:
            return False
        last[thing] = place
    return True


def scatter(thing: int, turn: int) -> int:
    """A fixed mixing of two small numbers: who comes first among those equally due."""
    mixed = (thing * 0x9E3779B1 ^ turn * 0x85EBCA6B) & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 15) * 0x2C1B3C6D & 0xFFFFFFFF
    return mixed ^ mixed >> 13


def evenly(
    counts: Mapping[int, int], kinds: Sequence[int], kind_of: Mapping[int, int], gap: int
) -> list[int]:
    """Things spread over places, each in places of its own kind, earliest deadline first.

    The k-th of a thing's t tokens is due at (k + 1/2) / t of the way round. The order among
    equals differs from turn to turn, so that a node has many different successors: whoever
    stands in for it shares the work. A thing of the last gap-1 places waits if others can go.
    """
    # Deadlines are compared as numbers of the same rounding everywhere (IEEE division).
    due: dict[int, list[tuple[float, int, int, int]]] = {}
    for thing, tokens in counts.items():
        if tokens:
            first = (0.5 / tokens, scatter(thing, 0), thing, 0)
            due.setdefault(kind_of[thing], []).append(first)
    for heap in due.values():
        heapify(heap)
    placed: list[int] = []
    for kind in kinds:
        heap = due[kind]
        recent = placed[-(gap - 1) :] if gap > 1 else []
        waiting = []
        while heap and heap[0][2] in recent:
            waiting.append(heappop(heap))
        _, _, thing, turn = heappop(heap) if heap else waiting.pop(0)
        placed.append(thing)
        for item in waiting:
            heappush(heap, item)
        if turn + 1 < counts[thing]:
            deadline = (turn + 1.5) / counts[thing]
            heappush(heap, (deadline, scatter(thing, turn + 1), thing, turn + 1))
    return placed


def _columns(counts: Mapping[int, int], places: int, gap: int) -> list[int]:
    """An arrangement in which `gap` consecutive places are always distinct; see `fits`.

    The circle is cut into floor(places / gap) rounds of `gap` places, some with one more
    at their end. Filled column by column, most frequent first, a thing either has its
    column for itself or stands in consecutive rounds, and goes on in the next column of
    earlier rounds: never closer to itself than one round.
    """
    rounds: list[list[int]] = [[] for _ in range(places // gap)]
    cells = (rounds[i % len(rounds)] for i in count())
    for thing in sorted(counts, key=lambda t: (-counts[t], t)):
        for _ in range(counts[thing]):
            next(cells).append(thing)
    return [thing for one in rounds for thing in one]


def by_zone(targets: Sequence[int], zone_of: Sequence[int]) -> Counter[int]:
    """Tokens per zone; zones that are due none are left out."""
    counts: Counter[int] = Counter()
    for zone, tokens in zip(zone_of, targets, strict=True):
        if tokens:
            counts[zone] += tokens
    return counts
