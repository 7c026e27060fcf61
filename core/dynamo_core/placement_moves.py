"""Who takes over which token: a ring changed with as few moves as can be.

Owns the search `rearrange`. It only chooses places: how many tokens each node gets is given.
Forbidden here: targets, slots, and words for people.

Why not a solver: a ring of 8192 tokens and 500 nodes has to be planned within seconds, by
the standard library. Tokens handed over where they do least harm get nearly every place
right, swaps mend the rest, and where those fail `_respread` starts again from the zones.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import eq

from dynamo_core.placement_layout import Layout, repair
from dynamo_core.placement_spread import by_zone, evenly, fits, scatter, zones_spread

CANDIDATES_MAX = 48  # places that are compared for one token, before more are looked at
CANDIDATES_MORE_MAX = 1024
TURNS_MAX = 512  # ways to turn a fresh spread of zones against the old one


def rearrange(
    was: Sequence[int], targets: Sequence[int], zone_of: Sequence[int], gap: int, zone_gap: int
) -> list[int]:
    """Owners that meet `targets`, with as few changes against `was` as possible.

    `was[p]` is the node that owned place p; who has left has the target 0, and zones that
    have left are numbered after all others. Tokens go only from nodes that have too many to
    nodes that have too few; then swaps mend what lies too close, first those that move no
    further token, then those that do. If that fails, zones are spread anew. Never do more
    than twice as many tokens move as have to, and if none has to, none does.
    """
    layout = Layout(list(was), zone_of, gap, zone_gap, was)
    moved = _deal(layout, targets)
    if not moved:
        return layout.owners
    repair(layout, moved, solvable=_solvable(targets, zone_of, gap, zone_gap))
    left = layout.total()
    if left and _zones_may_improve(layout, targets):
        fresh = _respread(layout, targets)
        if fresh.moves() <= 2 * moved and fresh.total() < left:
            return fresh.owners
    return layout.owners


def _solvable(targets: Sequence[int], zone_of: Sequence[int], gap: int, zone_gap: int) -> bool:
    """Whether an arrangement without any conflict is known to exist."""
    counts = by_zone(targets, zone_of) if zone_gap == gap else dict(enumerate(targets))
    return fits(counts, sum(targets), gap)


def _zones_may_improve(layout: Layout, targets: Sequence[int]) -> bool:
    """Whether a fresh spread has fewer neighbours of one zone than this layout has."""
    gap = layout.zone_gap
    if gap < layout.gap:
        return True
    zones = [layout.zone_of[node] for node in layout.owners]
    spread = zones_spread(by_zone(targets, layout.zone_of), len(zones), gap)
    return _close_pairs(spread, gap) < _close_pairs(zones, gap)


def _close_pairs(things: Sequence[int], gap: int) -> int:
    return sum(sum(map(eq, things, chain(things[k:], things[:k]))) for k in range(1, gap))


def _respread(layout: Layout, targets: Sequence[int]) -> Layout:
    """Zones spread anew, turned to where least changes; within them who can stay stays."""
    was, zone_of = layout.was or [], layout.zone_of
    places = len(was)
    spread = zones_spread(by_zone(targets, zone_of), places, layout.zone_gap)
    had = [zone_of[node] for node in was]
    step = max(1, places // TURNS_MAX)
    _, way, turn = max(
        (sum(map(eq, had, chain(zones[turn:], zones[:turn]))), way, -turn)
        for way, zones in ((1, spread), (-1, spread[::-1]))
        for turn in range(0, places, step)
    )
    zones = spread[::way]
    zones = [*zones[-turn:], *zones[:-turn]] if turn else zones
    # A place whose owner is of another zone is offered by a stranger of the right one.
    first = len(zone_of)
    kinds = range(max(zones) + 1)
    start = [
        node if zone_of[node] == zone else first + zone
        for node, zone in zip(was, zones, strict=True)
    ]
    fresh = Layout(start, [*zone_of, *kinds], layout.gap, layout.zone_gap, was)
    moved = _deal(fresh, [*targets, *(0 for _ in kinds)])
    repair(fresh, moved, solvable=False)
    return fresh


def _deal(layout: Layout, targets: Sequence[int]) -> int:
    """Hand surplus tokens to those that lack some; returns how many.

    First those that change their zone, as many as must: they have the choice of all places
    on offer there. Then, within each zone, one node's token for another's.
    """
    owners, zone_of = layout.owners, layout.zone_of
    balance = [-target for target in targets]
    own: list[list[int]] = [[] for _ in targets]
    for place, node in enumerate(owners):
        balance[node] += 1
        own[node].append(place)
    surplus = {node: tokens for node, tokens in enumerate(balance) if tokens > 0}
    lacking_in: dict[int, dict[int, int]] = {}
    net: Counter[int] = Counter()
    for node, tokens in enumerate(balance):
        net[zone_of[node]] += tokens
        if tokens < 0:
            lacking_in.setdefault(zone_of[node], {})[node] = -tokens
    turns = {zone: _fairly(lacking) for zone, lacking in lacking_in.items()}

    across = {zone: -tokens for zone, tokens in net.items() if tokens < 0}
    quota = {zone: tokens for zone, tokens in net.items() if tokens > 0}
    on_offer = [p for p, node in enumerate(owners) if node in surplus and zone_of[node] in quota]
    for zone in _fairly(across):
        giver = _hand_over(layout, turns[zone].pop(0), own, on_offer)
        surplus[giver] -= 1
        quota[zone_of[giver]] -= 1
        if not surplus[giver]:
            on_offer = [p for p in on_offer if owners[p] != giver]
        if not quota[zone_of[giver]]:
            on_offer = [p for p in on_offer if zone_of[owners[p]] != zone_of[giver]]
    for zone, nodes in turns.items():
        on_offer = (
            [p for p, node in enumerate(owners) if zone_of[node] == zone and surplus.get(node)]
            if nodes
            else []
        )
        for node in nodes:
            giver = _hand_over(layout, node, own, on_offer)
            surplus[giver] -= 1
            if not surplus[giver]:
                on_offer = [p for p in on_offer if owners[p] != giver]
    return sum(max(0, -tokens) for tokens in balance)


def _fairly(counts: Mapping[int, int]) -> list[int]:
    """Each thing as often as it says, all of them evenly interleaved."""
    return evenly(counts, [0] * sum(counts.values()), dict.fromkeys(counts, 0), 1)


def _hand_over(layout: Layout, node: int, own: Sequence[list[int]], on_offer: list[int]) -> int:
    """One token on offer goes to this node; returns who gave it."""
    place = _place_for(layout, node, own[node], on_offer)
    giver = layout.owners[place]
    layout.owners[place] = node
    insort(own[node], place)
    own[giver].remove(place)
    on_offer.pop(bisect_left(on_offer, place))
    return giver


def _place_for(layout: Layout, node: int, own: Sequence[int], on_offer: Sequence[int]) -> int:
    """The best place on offer for a node: at little cost, and far from what it owns."""
    places = len(layout.owners)
    ideal = _middle_of_widest(own, places) if own else scatter(node, 1) % places
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
        cost = layout.cost(place, node) - layout.cost(place, giver)
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
