"""Who gets which token: a ring laid out from nothing, or changed with as few moves as can be.

Owns the two searches, `lay_out` and `rearrange`. Both only choose places: how many tokens
each node gets is given. Forbidden here: targets, slots, and words for people.

Why not a solver: a ring of 8192 tokens and 500 nodes has to be planned within seconds, by
the standard library. Even spacing by deadlines gets nearly every place right, swaps mend
the rest, and where those fail while a perfect layout exists, `_columns` constructs one.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import chain, count
from operator import eq

from dynamo_core.placement_layout import OPEN, Layout, repair

CANDIDATES_MAX = 48  # places that are compared for one token, before more are looked at
CANDIDATES_MORE_MAX = 1024
TURNS_MAX = 512  # ways to turn a fresh layout against an old one


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
    zone_counts: Counter[int] = Counter()
    for zone, tokens in zip(zone_of, targets, strict=True):
        zone_counts[zone] += tokens
    zones = _evenly(zone_counts, [0] * places, dict.fromkeys(zone_counts, 0), zone_gap)
    if fits(zone_counts, places, zone_gap) and not _apart(zones, zone_gap):
        zones = _columns(zone_counts, places, zone_gap)
    owners = _evenly(counts, zones, dict(enumerate(zone_of)), gap)
    best = Layout(owners, zone_of, gap, zone_gap, None)
    repair(best, 0, solvable=False)
    if fits(counts, places, gap) and not _apart(best.owners, gap):
        owners = _columns(counts, places, gap)
        best = Layout(owners, zone_of, gap, zone_gap, None)
        repair(best, 0, solvable=False)
    return best.owners


def _apart(things: Sequence[int], gap: int) -> bool:
    """Whether every `gap` consecutive things of a circle are distinct."""
    last: dict[int, int] = {}
    for place, thing in enumerate([*things, *things[: gap - 1]]):
        if place - last.get(thing, -gap) < gap:
            return False
        last[thing] = place
    return True


def _scatter(thing: int, turn: int) -> int:
    """A fixed mixing of two small numbers: who comes first among those equally due."""
    mixed = (thing * 0x9E3779B1 ^ turn * 0x85EBCA6B) & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 15) * 0x2C1B3C6D & 0xFFFFFFFF
    return mixed ^ mixed >> 13


def _evenly(
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
            first = (0.5 / tokens, _scatter(thing, 0), thing, 0)
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
            heappush(heap, (deadline, _scatter(thing, turn + 1), thing, turn + 1))
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


def rearrange(
    was: Sequence[int], targets: Sequence[int], zone_of: Sequence[int], gap: int, zone_gap: int
) -> list[int]:
    """Owners that meet `targets`, with as few changes against `was` as possible.

    `was[p]` is the node that owned place p, OPEN if that node has left. Tokens go only from
    nodes that have too many to nodes that have too few; then swaps mend what lies too close,
    first those that move no further token, then those that do, up to the number of tokens
    that had to move anyway (only where distinct neighbours are possible, or nearly).
    """
    layout = Layout(list(was), zone_of, gap, zone_gap, list(was))
    moved = _deal(layout, targets)
    if not moved:
        return layout.owners
    zone_counts: Counter[int] = Counter()
    for zone, tokens in zip(zone_of, targets, strict=True):
        zone_counts[zone] += tokens
    crowding = max(
        max(targets) - len(was) // gap, zone_counts.most_common(1)[0][1] - len(was) // zone_gap
    )
    # A ring of N equal zones has one token too many in some of them, which is near enough
    # to pay for. Where much is crowded whatever one does, moves would be spent in vain.
    repair(layout, moved if crowding <= 1 else 0, solvable=crowding <= 0)
    if crowding <= 0 and layout.conflicts():
        return _turned(layout, lay_out(targets, zone_of, gap, zone_gap), 2 * moved)
    return layout.owners


def _turned(layout: Layout, fresh: Sequence[int], moves_max: int) -> list[int]:
    """The fresh layout, turned so that it moves least, if that is within bounds; else the
    layout as it is. A change of most tokens often leaves the choice."""
    was = layout.was or []
    places = len(fresh)
    step = max(1, places // TURNS_MAX)
    kept, turn = max(
        (sum(map(eq, was, chain(fresh[turn:], fresh[:turn]))), -turn)
        for turn in range(0, places, step)
    )
    if places - kept > moves_max:
        return layout.owners
    return [*fresh[-turn:], *fresh[:-turn]]


def _deal(layout: Layout, targets: Sequence[int]) -> int:
    """Hand open and surplus tokens to those that lack some; returns how many."""
    owners = layout.owners
    balance = [-target for target in targets]
    own: list[list[int]] = [[] for _ in targets]
    for place, node in enumerate(owners):
        if node != OPEN:
            balance[node] += 1
            own[node].append(place)
    surplus = {node: tokens for node, tokens in enumerate(balance) if tokens > 0}
    on_offer = [p for p, node in enumerate(owners) if node == OPEN or node in surplus]
    lacking = {node: -tokens for node, tokens in enumerate(balance) if tokens < 0}
    turns = _evenly(lacking, [0] * sum(lacking.values()), dict.fromkeys(lacking, 0), 1)
    for node in turns:
        place = _place_for(layout, node, own[node], on_offer)
        giver = owners[place]
        owners[place] = node
        insort(own[node], place)
        on_offer.pop(bisect_left(on_offer, place))
        if giver != OPEN:
            surplus[giver] -= 1
            own[giver].remove(place)
            if not surplus[giver]:
                kept = set(own[giver])
                on_offer = [p for p in on_offer if p not in kept]
    return len(turns)


def _place_for(layout: Layout, node: int, own: Sequence[int], on_offer: Sequence[int]) -> int:
    """The best place on offer for a node: at little cost, and far from what it owns."""
    places = len(layout.owners)
    ideal = _middle_of_widest(own, places) if own else _scatter(node, 1) % places
    start = bisect_left(on_offer, ideal)
    best: tuple[int, int] | None = None
    best_place = on_offer[0]
    for i in range(min(len(on_offer), CANDIDATES_MORE_MAX)):
        if best is not None and best[0] <= 0 and i >= CANDIDATES_MAX:
            break
        # Both ways from the ideal place, one step out at a time.
        step = i // 2 if i % 2 else -1 - i // 2
        place = on_offer[(start + step) % len(on_offer)]
        giver = layout.owners[place]
        cost = layout.cost(place, node) - (layout.cost(place, giver) if giver != OPEN else 0)
        away = min((place - ideal) % places, (ideal - place) % places)
        if best is None or (cost, away) < best:
            best, best_place = (cost, away), place
    return best_place


def _middle_of_widest(own: Sequence[int], places: int) -> int:
    """The middle of the widest arc between a node's own places."""
    arcs = [
        ((following - place - 1) % places + 1, -place)
        for place, following in zip(own, [*own[1:], own[0]], strict=True)
    ]
    width, negative = max(arcs)
    return (width // 2 - negative) % places
